//! tradewindd on loopback with a local store and, if asked for, an S3 server: no namespaces, no link, for what is not about networks.

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::process::{Background, Finished, Interrupt, children, run};
use crate::testbed::{Host, Programs, Store, StorePorts, as_user, configuration, has_progressed};

const START_DEADLINE: Duration = Duration::from_secs(60);
/// A transfer that takes longer hangs.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(180);

/// A server and the folder that it and its clients work in.
pub struct Loopback {
    /// Holds `local`, the store, `state`, and whatever the caller puts there.
    pub folder: TempDir,
    /// Where the programs are.
    pub programs: Programs,
    /// Looked at by every wait.
    pub interrupt: Interrupt,
    config: PathBuf,
    rest_port: u16,
    server: Option<Background>,
    store: Option<Store>,
    starts: u32,
}

impl Loopback {
    /// Starts it in a folder in `parent`.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of its log.
    pub fn start(parent: &Path, interrupt: &Interrupt) -> Result<Self> {
        Self::start_with(parent, false, interrupt)
    }

    /// The same with SeaweedFS and an empty bucket in it, if asked for.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start_with(parent: &Path, bucket: bool, interrupt: &Interrupt) -> Result<Self> {
        let programs = Programs::find()?;
        let folder = tempfile::Builder::new().prefix("twloop-").tempdir_in(parent)?;
        let rest_port = free_port(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())?;
        let data_port = free_port(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok())?;
        fs::create_dir(folder.path().join("local"))?;
        let data = format!("listen = \"127.0.0.1:{data_port}\"\nxdp = \"off\"\ncopy_from = [\"127.0.0.0/8\"]");
        let text = configuration(folder.path(), &format!("127.0.0.1:{rest_port}"), &data);
        let config = folder.path().join("tradewindd.toml");
        let interrupt = interrupt.clone();
        let mut loopback = Self { folder, programs, interrupt, config, rest_port, server: None, store: None, starts: 0 };
        if bucket {
            loopback.store = Some(Store::start(&loopback)?);
        }
        let section = loopback.store.as_ref().map(Store::section).unwrap_or_default();
        fs::write(&loopback.config, text + &section)?;
        loopback.start_server()?;
        Ok(loopback)
    }

    /// Starts tradewindd, after it was killed; one that runs is ended first.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_server(&mut self) -> Result<()> {
        self.server = None;
        self.starts += 1;
        let mut command = Command::new(self.programs.ours("tradewindd"));
        command.arg("--config").arg(&self.config);
        let mut server = Background::start(&mut command, &self.path(&format!("tradewindd-{}.log", self.starts)))?;
        let health = || {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--insecure", "--max-time", "2", &format!("https://127.0.0.1:{}/healthz", self.rest_port)]);
            curl.output().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("\"ok\""))
        };
        server.wait_until(&self.interrupt, START_DEADLINE, health).context("tradewindd did not start")?;
        self.server = Some(server);
        Ok(())
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Address of the REST interface.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.rest_port)
    }

    /// Process id of tradewindd.
    ///
    /// # Errors
    /// When it was killed.
    pub fn control_pid(&self) -> Result<u32> {
        Ok(self.server.as_ref().context("tradewindd does not run")?.pid())
    }

    /// Process id of its engine, if that runs.
    #[must_use]
    pub fn engine_pid(&self) -> Option<u32> {
        children(self.server.as_ref()?.pid()).first().copied()
    }

    /// What tradewindd and its engine have printed since they were last started.
    #[must_use]
    pub fn log_text(&self) -> String {
        self.server.as_ref().map(Background::log_text).unwrap_or_default()
    }

    /// Its S3 server, if there is one.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// The `tradewind` command with server and credentials set.
    #[must_use]
    pub fn tradewind(&self) -> Command {
        let mut command = Command::new(self.programs.ours("tradewind"));
        as_user(&mut command, self.folder.path(), &self.address());
        command
    }

    /// Runs `tradewind` with these arguments to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Result<Finished> {
        run(self.tradewind().args(arguments), &self.interrupt, TRANSFER_DEADLINE)
    }

    /// Starts `tradewind` with these arguments; its output goes to `NAME.out` in the folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(&self, name: &str, arguments: &[&str]) -> Result<std::process::Child> {
        let out = File::create(self.path(&format!("{name}.out")))?;
        let mut command = self.tradewind();
        command.args(arguments).stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        command.spawn().context("cannot start tradewind")
    }

    /// Waits until what [`Self::begin`] has begun with `--json` says that one of its totals is so large.
    ///
    /// # Errors
    /// When it ends before, or is not there after two minutes.
    pub fn wait_for_progress(&self, name: &str, begun: &mut std::process::Child, total: &str, least: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let said = fs::read_to_string(self.path(&format!("{name}.out")))?;
            if has_progressed(&said, total, least) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{total} is not {least} after two minutes: {said}");
            ensure!(begun.try_wait()?.is_none(), "it ended before {total} was {least}: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Host for Loopback {
    fn programs(&self) -> &Programs {
        &self.programs
    }

    fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path(name)
    }

    fn beside(&self, program: &Path) -> Command {
        Command::new(program)
    }

    fn place(&self) -> (String, StorePorts) {
        // A port of tradewindd may be taken only later, so these are looked for elsewhere.
        let mut last = 12_000 + u16::try_from(std::process::id() % 7_000).unwrap_or_default();
        let mut next = || {
            last = (last + 1..20_000).find(|&port| TcpListener::bind(("0.0.0.0", port)).is_ok()).unwrap_or(last);
            last
        };
        let mut four = || std::array::from_fn(|_| next());
        ("127.0.0.1".to_owned(), StorePorts { http: four(), grpc: four() })
    }
}

/// A port that is free now, outside the range from which the kernel takes ports of connections: while a killed server is down, a client that tries to
/// reach it could otherwise get its port, and meet itself.
fn free_port(is_free: impl Fn(u16) -> bool) -> Result<u16> {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000)?;
    (first..32_000).find(|&port| is_free(port)).context("no port between 20000 and 32000 is free")
}
