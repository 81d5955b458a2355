//! OpenStack Swift on loopback: proxy, account, container and object server with one replica, TempAuth, memcached.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tempfile::TempDir;

use crate::process::{Background, Interrupt};

/// Account and user.
pub const USER: &str = "test:tester";
/// The user's key.
pub const KEY: &str = "testing";
/// The container that is there; everybody may read it.
pub const CONTAINER: &str = "test";

const START_DEADLINE: Duration = Duration::from_secs(120);
/// Debian's: Swift is not seen by other Pythons.
const PYTHON: &str = "/usr/bin/python3";
const PROGRAMS: [&str; 5] = [
    "/usr/bin/memcached",
    "/usr/bin/swift-proxy-server",
    "/usr/bin/swift-account-server",
    "/usr/bin/swift-container-server",
    "/usr/bin/swift-object-server",
];

const MAKE_RINGS: &str = r#"
import sys
from swift.common.ring import RingBuilder
folder, *ports = sys.argv[1:]
for kind, port in zip(("account", "container", "object"), ports):
    builder = RingBuilder(4, 1, 0)
    builder.add_dev({"region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "port": int(port), "device": "d1",
                     "replication_ip": "127.0.0.1", "replication_port": int(port), "meta": ""})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{kind}.ring.gz")
"#;

/// A running Swift with an empty container.
pub struct Swift {
    servers: Vec<Background>,
    folder: TempDir,
    port: u16,
    memcached_port: u16,
}

impl Swift {
    /// Starts it, or prints `SKIP: reason` and returns `None` where it is not installed.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of its log.
    pub fn start() -> Result<Option<Self>> {
        if let Some(missing) = PROGRAMS.iter().find(|program| !Path::new(program).exists()) {
            println!("SKIP: Swift is not tested: no {missing} (Debian: swift-proxy swift-account swift-container swift-object memcached)");
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("twswift-").tempdir()?;
        let at = folder.path();
        fs::create_dir_all(at.join("srv/d1"))?;
        // Held until all are known, so that no two are the same.
        let held: Vec<TcpListener> = (0..5).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
        let ports: Vec<u16> = held.iter().map(|held| Ok(held.local_addr()?.port())).collect::<std::io::Result<_>>()?;
        drop(held);
        let hash =
            "[swift-hash]\nswift_hash_path_prefix = pre\nswift_hash_path_suffix = suf\n[storage-policy:0]\nname = gold\ndefault = yes\n";
        fs::write(at.join("swift.conf"), hash)?;
        let common = |port: u16| {
            let (folder, user) = (at.display(), std::env::var("USER").unwrap_or_else(|_| "root".to_owned()));
            format!(
                "[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nuser = {user}\nswift_dir = {folder}\nworkers = 1\nlog_address = /dev/null\n"
            )
        };
        let mut rings = Command::new(PYTHON);
        rings.args(["-c", MAKE_RINGS]).arg(at).args(ports[..3].iter().map(u16::to_string)).env("SWIFT_DIR", at);
        anyhow::ensure!(rings.status()?.success(), "Swift's rings cannot be made");
        for (kind, port) in ["account", "container", "object"].iter().zip(&ports) {
            let text = format!(
                "{}devices = {}/srv\nmount_check = false\n[pipeline:main]\npipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\n",
                common(*port),
                at.display()
            );
            fs::write(at.join(format!("{kind}.conf")), text)?;
        }
        let (port, memcached_port) = (ports[3], ports[4]);
        let mut text = common(port)
            + "[pipeline:main]\npipeline = catch_errors gatekeeper healthcheck cache listing_formats tempauth copy slo dlo proxy-server\n\
               [app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n\
               [filter:tempauth]\nuse = egg:swift#tempauth\nuser_test_tester = testing .admin\nstorage_url_scheme = http\n";
        for (filter, egg) in [
            ("catch_errors", "catch_errors"),
            ("gatekeeper", "gatekeeper"),
            ("healthcheck", "healthcheck"),
            ("listing_formats", "listing_formats"),
            ("copy", "copy"),
            ("slo", "slo"),
            ("dlo", "dlo"),
        ] {
            text.push_str(&format!("[filter:{filter}]\nuse = egg:swift#{egg}\n"));
        }
        text.push_str(&format!("[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:{memcached_port}\n"));
        fs::write(at.join("proxy.conf"), text)?;
        let mut servers = vec![memcached(at, memcached_port)?];
        for kind in ["account", "container", "object", "proxy"] {
            let mut command = Command::new(PYTHON);
            command.arg(format!("/usr/bin/swift-{kind}-server")).arg(at.join(format!("{kind}.conf"))).env("SWIFT_CONF", at);
            servers.push(Background::start(command.env("SWIFT_DIR", at), &at.join(format!("{kind}.log")))?);
        }
        let mut swift = Self { servers, folder, port, memcached_port };
        // Who reads a large object needs to read its segments too.
        let script = "set -e; u=$1; h=$(curl -fsS -i -H \"X-Auth-User: $2\" -H \"X-Auth-Key: $3\" $u/auth/v1.0 | tr -d '\\r'); \
                      t=$(echo \"$h\" | sed -n 's/^X-Auth-Token: //Ip'); for c in $4 $4_segments; do \
                      curl -fsS -X PUT -H \"X-Auth-Token: $t\" -H 'X-Container-Read: .r:*,.rlistings' $u/v1/AUTH_test/$c; done";
        let url = swift.url();
        let mut made = || {
            let mut shell = Command::new("sh");
            shell.args(["-c", script, "sh", &url, USER, KEY, CONTAINER]).stderr(std::process::Stdio::null());
            shell.stdout(std::process::Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let proxy = swift.servers.last_mut().context("there is a proxy")?;
        proxy.wait_until(&Interrupt::default(), START_DEADLINE, &mut made).context("Swift did not start")?;
        Ok(Some(swift))
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where tokens are asked for, version 1.
    #[must_use]
    pub fn auth_url(&self) -> String {
        format!("{}/auth/v1.0", self.url())
    }

    /// An object as curl fetches it, without a token.
    ///
    /// # Errors
    /// When curl cannot be started.
    pub fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let path = utf8_percent_encode(key, NON_ALPHANUMERIC).to_string().replace("%2F", "/");
        let url = format!("{}/v1/AUTH_test/{CONTAINER}/{path}", self.url());
        let output = Command::new("curl").args(["--silent", "--fail", &url]).output().context("cannot start curl")?;
        Ok(output.status.success().then_some(output.stdout))
    }

    /// Makes it forget every token that it gave.
    ///
    /// # Errors
    /// When memcached cannot be started again.
    pub fn forget_tokens(&mut self) -> Result<()> {
        self.servers[0].stop()?;
        self.servers[0] = memcached(self.folder.path(), self.memcached_port)?;
        Ok(())
    }
}

fn memcached(folder: &Path, port: u16) -> Result<Background> {
    let mut command = Command::new(PROGRAMS[0]);
    command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-u", "nobody", "-m", "64"]);
    Background::start(&mut command, &folder.join("memcached.log"))
}
