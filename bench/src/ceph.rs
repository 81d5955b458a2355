//! Ceph on loopback, one of each daemon: its gateway speaks S3 as many stores did before checksums, and OpenStack Swift of version 1, by which tests
//! read.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::process::{Background, Interrupt};

/// What it is, for tables.
pub const SERVER: &str = "Ceph RGW 16.2";
/// Access key of S3.
pub const ACCESS: &str = "test1";
/// Its secret.
pub const SECRET: &str = "secret1";
/// User of Swift.
pub const USER: &str = "t1:swift";
/// The key of the user of Swift.
pub const KEY: &str = "swiftpw";
/// The bucket, and container, that is there; everybody may read it.
pub const BUCKET: &str = "test";

const START_DEADLINE: Duration = Duration::from_secs(120);
const PROGRAMS: [&str; 7] = ["ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"];

/// A running Ceph.
pub struct Ceph {
    /// Gateway, storage daemon, monitor: they end in this order.
    daemons: Vec<Background>,
    folder: TempDir,
    port: u16,
}

impl Ceph {
    /// Starts it, or prints `SKIP: reason` and returns `None` where `cargo xtask setup --stores` has not installed it.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of a log.
    pub fn start() -> Result<Option<Self>> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_there = |program: &&str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
        if let Some(missing) = PROGRAMS.iter().find(|program| !is_there(program)) {
            println!("SKIP: Ceph is not tested: no {missing}; `cargo xtask setup --stores` installs it");
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("twceph-").tempdir()?;
        let held = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [monitor, port] = [held[0].local_addr()?.port(), held[1].local_addr()?.port()];
        drop(held);
        let fsid = uuid()?;
        write_configuration(folder.path(), &fsid, monitor, port)?;
        let mut ceph = Self { daemons: Vec::new(), folder, port };
        ceph.start_monitor(monitor, &fsid)?;
        ceph.start_disk()?;
        ceph.start_gateway()?;
        Ok(Some(ceph))
    }

    fn start_monitor(&mut self, port: u16, fsid: &str) -> Result<()> {
        let map = self.folder.path().join("monmap");
        let keyring = self.folder.path().join("keyring").display().to_string();
        let entity = |options: &[&str], name: &str, caps: &[(&str, &str)]| {
            let mut command = Command::new("ceph-authtool");
            command.args(options).args([&keyring, "--gen-key", "-n", name]);
            for (service, right) in caps {
                command.args(["--cap", service, right]);
            }
            run(&mut command)
        };
        entity(&["--create-keyring"], "mon.", &[("mon", "allow *")])?;
        entity(&[], "client.admin", &[("mon", "allow *"), ("osd", "allow *"), ("mgr", "allow *")])?;
        entity(&[], "osd.0", &[("mon", "allow profile osd"), ("osd", "allow *"), ("mgr", "allow *")])?;
        entity(&[], "client.rgw", &[("mon", "allow rwx"), ("osd", "allow rwx")])?;
        let address = format!("[v1:127.0.0.1:{port}]");
        run(Command::new("monmaptool").args(["--create", "--addv", "a", &address, "--fsid", fsid]).arg(&map))?;
        let mut make = self.command("ceph-mon");
        make.args(["-i", "a", "--mkfs", "--keyring", &keyring, "--monmap"]).arg(&map);
        run(&mut make)?;
        self.start_daemon("ceph-mon", &["-f", "-i", "a"])
    }

    fn start_disk(&mut self) -> Result<()> {
        let id = uuid()?;
        run(self.command("ceph").args(["--connect-timeout", "60", "osd", "new", &id, "0"]))?;
        run(self.command("ceph-osd").args(["-i", "0", "--mkfs", "--osd-uuid", &id]))?;
        self.start_daemon("ceph-osd", &["-f", "-i", "0"])
    }

    fn start_gateway(&mut self) -> Result<()> {
        let data = self.folder.path().join("rgw").display().to_string();
        self.start_daemon("radosgw", &["-f", "-n", "client.rgw", "--rgw-data", &data])?;
        let url = self.url();
        let gateway = self.daemons.first_mut().context("it was started")?;
        gateway.wait_until(&Interrupt::default(), START_DEADLINE, || crate::answers(&url)).context("Ceph's gateway did not start")?;
        let admin = |arguments: &[&str]| run(self.command("radosgw-admin").args(arguments));
        admin(&["user", "create", "--uid=t1", "--display-name=t1", "--access-key", ACCESS, "--secret-key", SECRET])?;
        let key = format!("--secret={KEY}");
        admin(&["subuser", "create", "--uid=t1", "--subuser", USER, "--access=full", "--key-type=swift", &key])?;
        let log_in = format!("curl -fsS -i -H 'X-Auth-User: {USER}' -H 'X-Auth-Key: {KEY}' {}", self.auth_url());
        let containers = format!("{BUCKET} {BUCKET}_segments");
        ensure!(
            crate::swift::make_containers(&format!("{}/swift/v1", self.url()), &log_in, &containers, ""),
            "the bucket {BUCKET} cannot be made"
        );
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.folder.path().join("ceph.conf"));
        command
    }

    fn start_daemon(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        let daemon = Background::start(self.command(program).args(arguments), &self.folder.path().join(format!("{program}.log")))?;
        self.daemons.insert(0, daemon);
        Ok(())
    }

    /// Where the gateway answers, and the endpoint of S3.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where Swift's tokens are asked for, version 1.
    #[must_use]
    pub fn auth_url(&self) -> String {
        format!("{}/auth/v1.0", self.url())
    }

    /// An object as curl fetches it, without credentials.
    ///
    /// # Errors
    /// When curl cannot be started.
    pub fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        crate::fetch(&format!("{}/swift/v1/{BUCKET}/{}", self.url(), crate::url_path(key)))
    }
}

fn uuid() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn write_configuration(folder: &Path, fsid: &str, monitor: u16, gateway: u16) -> Result<()> {
    for name in ["mon", "osd", "rgw", "run"] {
        fs::create_dir(folder.join(name))?;
    }
    let at = folder.display();
    let text = format!(
        "[global]
fsid = {fsid}
mon_host = [v1:127.0.0.1:{monitor}]
mon_initial_members = a
public_network = 127.0.0.0/8
cluster_network = 127.0.0.0/8
public_addr = 127.0.0.1
ms_bind_msgr2 = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
auth_allow_insecure_global_id_reclaim = false
mon_data = {at}/mon
osd_data = {at}/osd
osd_objectstore = bluestore
bluestore_block_size = 21474836480
osd_memory_target = 1073741824
keyring = {at}/keyring
run_dir = {at}/run
log_file = {at}/run/$name.log
admin_socket = {at}/run/$name.asok
pid_file = {at}/run/$name.pid
mon_data_avail_crit = 1
mon_data_avail_warn = 1
[client.rgw]
rgw_enable_apis = s3, swift, swift_auth, admin
rgw_dns_name = localhost
rgw_swift_url = http://127.0.0.1:{gateway}
rgw_frontends = beast endpoint=127.0.0.1:{gateway}
"
    );
    fs::write(folder.join("ceph.conf"), text)?;
    Ok(())
}
