//! OpenStack Swift on loopback: proxy, account, container and object server with one replica and TempAuth.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::keystone::{Keystone, Tenant};
use crate::process::{Background, Interrupt};
use crate::testbed::venv;
use crate::{fetch, url_path};

/// What it is, for tables.
pub const SERVER: &str = "Swift 2.38";
/// Account and user.
pub const USER: &str = "test:tester";
/// The user's key.
pub const KEY: &str = "testing";
/// The container that is there; everybody may read it.
pub const CONTAINER: &str = "test";

const START_DEADLINE: Duration = Duration::from_secs(120);
const SERVERS: [&str; 4] = ["account", "container", "object", "proxy"];

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

/// Instead of memcached, which is none of Python's: the one proxy keeps in its memory what several would share.
const CACHE: &str = r#"
class Cache:
    def __init__(self): self.kept = {}
    def get(self, key, raise_on_error=False): return self.kept.get(key)
    def set(self, key, value, *_, **__): self.kept[key] = value
    def delete(self, key, server_key=None): self.kept.pop(key, None)
    def incr(self, key, delta=1, time=0): self.kept[key] = max(0, self.kept.get(key, 0) + delta); return self.kept[key]
    def decr(self, key, delta=1, time=0): return self.incr(key, -delta)
    def get_multi(self, keys, *_): return [self.kept.get(key) for key in keys]
    def set_multi(self, mapping, *_, **__): self.kept.update(mapping)

def filter_factory(settings, **_):
    cache = Cache()

    def wrap(application):
        def answer(environ, start_response):
            environ["swift.cache"] = cache
            return application(environ, start_response)
        return answer
    return wrap
"#;

/// A running Swift with an empty container.
pub struct Swift {
    /// In the order of [`SERVERS`].
    servers: Vec<Background>,
    folder: TempDir,
    url: String,
    account: String,
    /// A command for the shell that prints an answer with a token among its headers.
    log_in: String,
}

impl Swift {
    /// Starts it, or prints `SKIP: reason` and returns `None` where `cargo xtask setup` has not installed it.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of its log.
    pub fn start() -> Result<Option<Self>> {
        Self::start_with(PROXY)
    }

    /// The same without static large objects, and without telling so.
    ///
    /// # Errors
    /// As [`Swift::start`].
    pub fn start_without_static() -> Result<Option<Self>> {
        Self::start_with(
            &PROXY.replace(" slo ", " ").replace("account_autocreate = true", "account_autocreate = true\nexpose_info = false"),
        )
    }

    /// The same with the users of `keystone`, which is populated for it.
    ///
    /// # Errors
    /// As [`Swift::start`], and when Keystone refuses something.
    pub fn start_with_keystone(keystone: &Keystone) -> Result<Option<(Self, Tenant)>> {
        let proxy = PROXY.replace(" tempauth ", " authtoken keystoneauth ") + &keystone.filters();
        let Some(mut swift) = Self::start_servers(&proxy)? else { return Ok(None) };
        let tenant = keystone.populate(&swift.url())?;
        swift.account = format!("AUTH_{}", tenant.project_id);
        swift.log_in = keystone.log_in();
        swift.wait_for_containers()?;
        Ok(Some((swift, tenant)))
    }

    fn start_with(proxy: &str) -> Result<Option<Self>> {
        let Some(mut swift) = Self::start_servers(proxy)? else { return Ok(None) };
        swift.wait_for_containers()?;
        Ok(Some(swift))
    }

    /// Starts the servers and waits for none.
    fn start_servers(proxy_configuration: &str) -> Result<Option<Self>> {
        let proxy = program("proxy")?;
        if !proxy.exists() {
            println!("SKIP: Swift is not tested: no {}; `cargo xtask setup` installs it", proxy.display());
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("twswift-").tempdir()?;
        let at = folder.path();
        fs::create_dir_all(at.join("srv/d1"))?;
        // Held until all are known, so that no two are the same.
        let held: Vec<TcpListener> = SERVERS.iter().map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
        let ports: Vec<u16> = held.iter().map(|held| Ok(held.local_addr()?.port())).collect::<std::io::Result<_>>()?;
        drop(held);
        write_configuration(at, &ports, proxy_configuration)?;
        let mut rings = Command::new(venv()?.join("bin/python"));
        rings.args(["-c", MAKE_RINGS]).arg(at).args(ports[..3].iter().map(u16::to_string)).env("SWIFT_DIR", at);
        anyhow::ensure!(rings.status()?.success(), "Swift's rings cannot be made");
        let servers = SERVERS.iter().map(|kind| server(kind, at)).collect::<Result<_>>()?;
        let url = format!("http://127.0.0.1:{}", ports[3]);
        let log_in = format!("curl -fsS -i -H 'X-Auth-User: {USER}' -H 'X-Auth-Key: {KEY}' {url}/auth/v1.0");
        Ok(Some(Self { servers, folder, url, account: "AUTH_test".to_owned(), log_in }))
    }

    /// Who reads a large object needs to read its segments too.
    fn wait_for_containers(&mut self) -> Result<()> {
        let containers = format!("{CONTAINER} {CONTAINER}_segments");
        let (url, log_in) = (self.account_url(), self.log_in.clone());
        self.wait(|| make_containers(&url, &log_in, &containers, ""))
    }

    /// Waits for the proxy.
    fn wait(&mut self, mut is_there: impl FnMut() -> bool) -> Result<()> {
        let proxy = self.servers.last_mut().context("there is a proxy")?;
        proxy.wait_until(&Interrupt::default(), START_DEADLINE, &mut is_there).context("Swift did not start")
    }

    /// Where its proxy answers.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    fn account_url(&self) -> String {
        format!("{}/v1/{}", self.url, self.account)
    }

    /// Where tokens are asked for, version 1.
    #[must_use]
    pub fn auth_url(&self) -> String {
        format!("{}/auth/v1.0", self.url)
    }

    /// An object as curl fetches it, without a token.
    ///
    /// # Errors
    /// When curl cannot be started.
    pub fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        fetch(&format!("{}/{CONTAINER}/{}", self.account_url(), url_path(key)))
    }

    /// Makes another container that everybody may read. What is replaced in it goes to the container `NAME_old`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_versioned(&self, name: &str) -> Result<()> {
        let (containers, headers) = (format!("{name}_old {name} {name}_segments"), format!("-H 'X-Versions-Location: {name}_old'"));
        let made = make_containers(&self.account_url(), &self.log_in, &containers, &headers);
        anyhow::ensure!(made, "the containers of {name} cannot be made");
        Ok(())
    }

    /// Names of a container's objects, a line each, as curl lists them without a token.
    ///
    /// # Errors
    /// When there is no such list.
    pub fn names(&self, container: &str) -> Result<String> {
        let listed = fetch(&format!("{}/{container}", self.account_url()))?;
        let listed = listed.with_context(|| format!("container {container} cannot be listed"))?;
        Ok(String::from_utf8_lossy(&listed).into_owned())
    }

    /// Makes it forget every token that it gave: its proxy is another one.
    ///
    /// # Errors
    /// When the proxy cannot be started again.
    pub fn forget_tokens(&mut self) -> Result<()> {
        let proxy = self.servers.last_mut().context("there is a proxy")?;
        proxy.stop()?;
        *proxy = server("proxy", self.folder.path())?;
        let url = format!("{}/healthcheck", self.url);
        self.wait(|| crate::answers(&url))
    }
}

/// Makes containers that everybody may read, with further headers as curl takes them; whether that worked.
pub(crate) fn make_containers(account_url: &str, log_in: &str, containers: &str, headers: &str) -> bool {
    let script = format!(
        "set -e; h=$({log_in} | tr -d '\\r'); \
         t=$(echo \"$h\" | sed -n 's/^X-\\(Auth\\|Subject\\)-Token: //Ip'); for c in {containers}; do \
         curl -fsS -X PUT -H \"X-Auth-Token: $t\" -H 'X-Container-Read: .r:*,.rlistings' {headers} {account_url}/$c; done"
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().is_ok_and(|status| status.success())
}

fn program(kind: &str) -> Result<PathBuf> {
    Ok(venv()?.join(format!("bin/swift-{kind}-server")))
}

fn server(kind: &str, folder: &Path) -> Result<Background> {
    let mut command = Command::new(program(kind)?);
    command.arg(folder.join(format!("{kind}.conf"))).env("SWIFT_CONF", folder).env("SWIFT_DIR", folder).env("PYTHONPATH", folder);
    Background::start(&mut command, &folder.join(format!("{kind}.log")))
}

fn write_configuration(folder: &Path, ports: &[u16], proxy: &str) -> Result<()> {
    let hash = "[swift-hash]\nswift_hash_path_prefix = pre\nswift_hash_path_suffix = suf\n[storage-policy:0]\nname = gold\ndefault = yes\n";
    fs::write(folder.join("swift.conf"), hash)?;
    fs::write(folder.join("tradewind_cache.py"), CACHE)?;
    let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    for (kind, port) in SERVERS.iter().zip(ports) {
        let at = folder.display();
        let common = format!(
            "[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nuser = {user}\nswift_dir = {at}\nworkers = 1\nlog_address = /dev/null\n"
        );
        let own = match *kind {
            "proxy" => proxy.to_owned(),
            kind => format!(
                "devices = {at}/srv\nmount_check = false\n[pipeline:main]\npipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\n"
            ),
        };
        fs::write(folder.join(format!("{kind}.conf")), common + &own)?;
    }
    Ok(())
}

const PROXY: &str = "
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats tempauth copy slo dlo versioned_writes proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
storage_url_scheme = http
[filter:cache]
paste.filter_factory = tradewind_cache:filter_factory
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:copy]
use = egg:swift#copy
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
";
