//! Three network namespaces in a row, client – wan – server, with everything set so that what is measured is the scenario:
//!
//! ```text
//!  client namespace          wan namespace                 server namespace
//!  tw0 10.77.1.1/24 ══ veth ══ left  [emulator]  right ══ veth ══ tw0 10.77.1.2/24
//! ```
//!
//! With [`TopologyOptions::management`] there is a second path beside it: `tw1` 10.77.2.1 and 10.77.2.2, `mgmt-left` and `mgmt-right`.
//!
//! One queue per veth (an AF_XDP socket binds one); `tx` offload off at the ends (raw frames need real checksums, and super-packets must
//! not cross); in the middle no GRO, no ARP, no IPv6, no address, promiscuous; permanent neighbours; TCP buffers up to 256 MiB and no
//! metrics saved from one run to the next. No interface of the machine itself is touched.
//!
//! ```no_run
//! use std::path::Path;
//! use tradewind_netem::{Scenario, topology::{Namespace, Topology, TopologyOptions}};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! Topology::remove_leftovers("twdemo")?;
//! let topology = Topology::create("twdemo", &TopologyOptions::default())?;
//! let scenario = Scenario::load(Path::new("netem-scenarios/scenarios/demo.toml"))?;
//! let emulator = topology.start_emulator(&scenario, Path::new("target/release/tradewind-netem"), Path::new("/tmp/wan.json"))?;
//! let ping = topology.command(Namespace::Client, "ping").args(["-c", "3", "10.77.1.2"]).status()?;
//! let stats = emulator.stop()?;
//! assert!(ping.success() && stats.valid, "{:?}", stats.invalid_reasons);
//! # Ok(()) }
//! ```

mod guard;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use guard::{EmulatorGuard, ReadyFile};

use crate::scenario::Scenario;
use crate::sys;

/// The client's address, on [`END_INTERFACE`] of its namespace, in a /24.
pub const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// The server's address, on [`END_INTERFACE`] of its namespace, in a /24.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
/// The client's address with [`TopologyOptions::ipv6`], in a /64.
pub const CLIENT_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 1);
/// The server's address with [`TopologyOptions::ipv6`], in a /64.
pub const SERVER_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 2);
/// The one interface, beside loopback, of the client's and of the server's namespace.
pub const END_INTERFACE: &str = "tw0";
/// The client's address on [`MANAGEMENT_INTERFACE`] with [`TopologyOptions::management`], in a /24.
pub const CLIENT_MANAGEMENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);
/// The server's address on [`MANAGEMENT_INTERFACE`] with [`TopologyOptions::management`], in a /24.
pub const SERVER_MANAGEMENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);
/// The second interface of the client's and of the server's namespace with [`TopologyOptions::management`].
pub const MANAGEMENT_INTERFACE: &str = "tw1";
/// The middle namespace's interface towards the client.
pub const LEFT_INTERFACE: &str = "left";
/// The middle namespace's interface towards the server.
pub const RIGHT_INTERFACE: &str = "right";

/// How long processes left in a namespace get between being asked and being made to end.
const PROCESS_DEADLINE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// Why a topology could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// Namespaces need privileges.
    #[error("making network namespaces needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN): run this as root or with sudo")]
    NotRoot,
    /// A tool is not installed.
    #[error("`{tool}` is not installed: run `apt-get install -y {package}`")]
    ToolMissing {
        /// The program.
        tool: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A tool said no.
    #[error("`{command}` failed: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// What it printed.
        stderr: String,
    },
    /// The emulator did not start, or ended on its own.
    #[error("the WAN emulator {what}: {stderr}")]
    Emulator {
        /// What happened.
        what: String,
        /// What it printed.
        stderr: String,
    },
    /// A prefix or option that cannot be used.
    #[error("{0}")]
    Option(String),
    /// A file or process operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> TopologyError {
    let what = what.into();
    move |source| TopologyError::Io { what, source }
}

/// One of the three namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// Where the client runs.
    Client,
    /// Where the emulator runs.
    Wan,
    /// Where the server runs.
    Server,
}

impl Namespace {
    const ALL: [Self; 3] = [Self::Client, Self::Wan, Self::Server];

    fn suffix(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Wan => "wan",
            Self::Server => "server",
        }
    }
}

/// What a path through the middle namespace is made of.
struct PathNames {
    /// The interface at both ends.
    end: &'static str,
    left: &'static str,
    right: &'static str,
    client: Ipv4Addr,
    server: Ipv4Addr,
    /// Third number of the addresses, IP and MAC.
    net: u8,
}

const DATA_PATH: PathNames =
    PathNames { end: END_INTERFACE, left: LEFT_INTERFACE, right: RIGHT_INTERFACE, client: CLIENT_ADDRESS, server: SERVER_ADDRESS, net: 1 };
const MANAGEMENT_PATH: PathNames = PathNames {
    end: MANAGEMENT_INTERFACE,
    left: "mgmt-left",
    right: "mgmt-right",
    client: CLIENT_MANAGEMENT_ADDRESS,
    server: SERVER_MANAGEMENT_ADDRESS,
    net: 2,
};

/// What may vary between topologies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyOptions {
    /// MTU of all four interfaces in bytes, 576..=9000. Default 1500.
    pub mtu_bytes: u32,
    /// Give the ends IPv6 addresses too ([`CLIENT_ADDRESS_V6`], [`SERVER_ADDRESS_V6`]). Default false: IPv6 is off, so that no neighbour
    /// discovery mixes with what is counted.
    pub ipv6: bool,
    /// A second path between client and server, for what must not mix with what is measured; see [`Topology::start_management_emulator`].
    /// Default false.
    pub management: bool,
    /// The ends are joined by one veth pair as the kernel makes it (its offloads left on, super-packets cross), with nothing between: no
    /// emulator can run. Default false.
    pub direct: bool,
    /// Of a direct pair: segmentation and merging are off at both ends, so that each packet crosses by itself, as on a wire. Default false.
    pub wire_like: bool,
}

impl Default for TopologyOptions {
    fn default() -> Self {
        Self { mtu_bytes: 1500, ipv6: false, management: false, direct: false, wire_like: false }
    }
}

/// Three namespaces. Dropping it ends what still runs in them and removes them.
#[derive(Debug)]
pub struct Topology {
    base: String,
    mtu_bytes: u32,
}

/// Topologies of one process differ by a number.
static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Topology {
    /// Makes the namespaces `{prefix}{pid}-{n}-client`, `…-wan` and `…-server` and sets them up.
    ///
    /// `prefix`: 1 to 16 lowercase letters. [`Topology::remove_leftovers`] with the same prefix cleans up after a crash.
    ///
    /// # Errors
    /// [`TopologyError`]: not root, `ip` or `ethtool` missing (with the package to install), or what a command said.
    pub fn create(prefix: &str, options: &TopologyOptions) -> Result<Self, TopologyError> {
        check_prefix(prefix)?;
        if !(576..=9000).contains(&options.mtu_bytes) {
            return Err(TopologyError::Option(format!("MTU {} is not within 576..=9000", options.mtu_bytes)));
        }
        if !sys::is_root() {
            return Err(TopologyError::NotRoot);
        }
        for (tool, argument) in [("ip", "-V"), ("ethtool", "--version")] {
            run(tool, [argument])?;
        }
        let base = format!("{prefix}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        // From here on, Drop cleans up whatever was made.
        let topology = Self { base, mtu_bytes: options.mtu_bytes };
        topology.set_up(options)?;
        Ok(topology)
    }

    fn set_up(&self, options: &TopologyOptions) -> Result<(), TopologyError> {
        for namespace in Namespace::ALL {
            run("ip", ["netns", "add", &self.name(namespace)])?;
            self.set_sysctls(namespace, options)?;
            self.ip(namespace, "link set lo up")?;
        }
        if options.direct {
            return self.join_ends(options);
        }
        self.set_up_path(&DATA_PATH, options)?;
        if options.management {
            self.set_up_path(&MANAGEMENT_PATH, options)?;
        }
        Ok(())
    }

    fn join_ends(&self, options: &TopologyOptions) -> Result<(), TopologyError> {
        let (mtu, name) = (options.mtu_bytes, END_INTERFACE);
        let peer = format!("peer name {name} numrxqueues 1 numtxqueues 1 mtu {mtu} netns {}", self.name(Namespace::Server));
        self.ip(Namespace::Client, &format!("link add {name} numrxqueues 1 numtxqueues 1 mtu {mtu} type veth {peer}"))?;
        for (end, own) in [(Namespace::Client, CLIENT_ADDRESS), (Namespace::Server, SERVER_ADDRESS)] {
            self.ip(end, &format!("addr add {own}/24 dev {name}"))?;
            if options.wire_like {
                self.ethtool(end, &["-K", name, "tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off"])?;
            }
            self.ip(end, &format!("link set {name} up"))?;
        }
        Ok(())
    }

    fn set_up_path(&self, path: &PathNames, options: &TopologyOptions) -> Result<(), TopologyError> {
        let mtu = options.mtu_bytes;
        let PathNames { end: name, client, server, net, .. } = path;
        for (interface, end) in [(path.left, Namespace::Client), (path.right, Namespace::Server)] {
            let client_side = end == Namespace::Client;
            let mac = end_mac(end, *net);
            let peer = format!("peer name {name} numrxqueues 1 numtxqueues 1 mtu {mtu} address {mac} netns {}", self.name(end));
            self.ip(Namespace::Wan, &format!("link add {interface} numrxqueues 1 numtxqueues 1 mtu {mtu} type veth {peer}"))?;
            let (own, other) = if client_side { (client, server) } else { (server, client) };
            let other_mac = end_mac(if client_side { Namespace::Server } else { Namespace::Client }, *net);
            self.ip(end, &format!("addr add {own}/24 dev {name}"))?;
            self.ethtool(end, &["-K", name, "tx", "off"])?;
            self.ip(end, &format!("link set {name} up"))?;
            self.ip(end, &format!("neigh replace {other} lladdr {other_mac} dev {name} nud permanent"))?;
            if options.ipv6 && path.end == END_INTERFACE {
                let (own, other) =
                    if client_side { (CLIENT_ADDRESS_V6, SERVER_ADDRESS_V6) } else { (SERVER_ADDRESS_V6, CLIENT_ADDRESS_V6) };
                self.ip(end, &format!("addr add {own}/64 dev {name} nodad"))?;
                self.ip(end, &format!("neigh replace {other} lladdr {other_mac} dev {name} nud permanent"))?;
            }
            self.ethtool(Namespace::Wan, &["-K", interface, "gro", "off"])?;
            self.ip(Namespace::Wan, &format!("link set {interface} arp off promisc on up"))?;
        }
        Ok(())
    }

    fn set_sysctls(&self, namespace: Namespace, options: &TopologyOptions) -> Result<(), TopologyError> {
        let no_ipv6 = if options.ipv6 && namespace != Namespace::Wan { "0" } else { "1" };
        let settings = [
            ("net/ipv6/conf/all/disable_ipv6", no_ipv6),
            ("net/ipv6/conf/default/disable_ipv6", no_ipv6),
            ("net/ipv4/tcp_rmem", "4096 131072 268435456"),
            ("net/ipv4/tcp_wmem", "4096 131072 268435456"),
            ("net/ipv4/tcp_no_metrics_save", "1"),
            // Where servers listen, no connection starts from.
            ("net/ipv4/ip_local_reserved_ports", "33000-33001"),
        ];
        let mut script = String::new();
        for (key, value) in settings {
            // A kernel without IPv6 has nothing to switch off.
            script.push_str(&format!("[ ! -e /proc/sys/{key} ] || echo '{value}' > /proc/sys/{key}; "));
        }
        run("ip", ["netns", "exec", &self.name(namespace), "sh", "-euc", &script])
    }

    /// The name that `ip netns` knows a namespace by.
    #[must_use]
    pub fn name(&self, namespace: Namespace) -> String {
        format!("{}-{}", self.base, namespace.suffix())
    }

    /// MTU of the interfaces in bytes.
    #[must_use]
    pub fn mtu_bytes(&self) -> u32 {
        self.mtu_bytes
    }

    /// A command that will run `program` in a namespace, by `ip netns exec`: the process that results is `program` itself, its pid that of
    /// the child.
    #[must_use]
    pub fn command(&self, namespace: Namespace, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(namespace)]).arg(program);
        command
    }

    /// Starts `emulator_binary` (the `tradewind-netem` program) in the middle namespace with its own back end and waits until packets can
    /// flow. Its statistics go to `stats_file` when it stops.
    ///
    /// # Errors
    /// [`TopologyError::Emulator`] with what it printed, if it does not get ready within 15 s.
    pub fn start_emulator(&self, scenario: &Scenario, emulator_binary: &Path, stats_file: &Path) -> Result<EmulatorGuard, TopologyError> {
        self.start_emulator_with(scenario, emulator_binary, stats_file, &[])
    }

    /// As [`Topology::start_emulator`], with more arguments for `tradewind-netem run`, such as `["--backend", "tc"]`.
    ///
    /// # Errors
    /// As [`Topology::start_emulator`].
    pub fn start_emulator_with(
        &self,
        scenario: &Scenario,
        emulator_binary: &Path,
        stats_file: &Path,
        arguments: &[&str],
    ) -> Result<EmulatorGuard, TopologyError> {
        self.start_on(&DATA_PATH, scenario, emulator_binary, stats_file, arguments)
    }

    /// As [`Topology::start_emulator_with`], on the management path of [`TopologyOptions::management`].
    ///
    /// # Errors
    /// As [`Topology::start_emulator`].
    pub fn start_management_emulator(
        &self,
        scenario: &Scenario,
        emulator_binary: &Path,
        stats_file: &Path,
        arguments: &[&str],
    ) -> Result<EmulatorGuard, TopologyError> {
        self.start_on(&MANAGEMENT_PATH, scenario, emulator_binary, stats_file, arguments)
    }

    fn start_on(
        &self,
        path: &PathNames,
        scenario: &Scenario,
        emulator_binary: &Path,
        stats_file: &Path,
        arguments: &[&str],
    ) -> Result<EmulatorGuard, TopologyError> {
        // Beside the statistics, so that they go with that folder even after a crash.
        let folder = match stats_file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => std::env::temp_dir(),
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let ready_file = folder.join(format!("{}-{number}-ready.json", self.base));
        let scenario_file = folder.join(format!("{}-{number}-scenario.toml", self.base));
        // Trace files are named relative to the scenario's folder: the emulator gets what they say instead.
        std::fs::write(&scenario_file, scenario.self_contained().to_toml())
            .map_err(io_error(format!("cannot write {}", scenario_file.display())))?;
        let mut command = self.command(Namespace::Wan, emulator_binary);
        command.arg("run").arg("--scenario").arg(&scenario_file);
        command.args(["--left", path.left, "--right", path.right]);
        command.arg("--stats-file").arg(stats_file).arg("--ready-file").arg(&ready_file);
        command.args(["--parent-pid", &std::process::id().to_string()]);
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(io_error("cannot run `ip netns exec`"))?;
        let mut guard = EmulatorGuard {
            child: Some(child),
            stats_file: stats_file.to_owned(),
            files: vec![ready_file.clone(), scenario_file],
            start_ns: 0,
        };
        guard.wait_until_ready(&ready_file)?;
        Ok(guard)
    }

    /// Packets dropped on the way out of the ends' interfaces towards the emulator: (client's, server's). Above zero, the emulator's
    /// machine was overrun before the emulator saw the packets, and the run must not be used.
    ///
    /// # Errors
    /// [`TopologyError`] if the counters cannot be read.
    pub fn end_send_drops(&self) -> Result<(u64, u64), TopologyError> {
        let read = |namespace| -> Result<u64, TopologyError> {
            let file = format!("/sys/class/net/{END_INTERFACE}/statistics/tx_dropped");
            let output = self.command(namespace, "cat").arg(&file).output().map_err(io_error("cannot run `ip netns exec`"))?;
            String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|_| TopologyError::Command {
                command: format!("cat {file}"),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            })
        };
        Ok((read(Namespace::Client)?, read(Namespace::Server)?))
    }

    /// Removes namespaces that a process which is gone left behind under `prefix`, and ends what still runs in them. Returns their names.
    ///
    /// # Errors
    /// [`TopologyError`]: not root, `ip` missing, or what it said.
    pub fn remove_leftovers(prefix: &str) -> Result<Vec<String>, TopologyError> {
        check_prefix(prefix)?;
        if !sys::is_root() {
            return Err(TopologyError::NotRoot);
        }
        let listing = output("ip", ["netns", "list"])?;
        let mut removed = Vec::new();
        for name in listing.lines().filter_map(|line| line.split_whitespace().next()) {
            let Some(pid) = owner_of(name, prefix) else { continue };
            if !Path::new(&format!("/proc/{pid}")).exists() {
                remove_namespace(name)?;
                removed.push(name.to_owned());
            }
        }
        Ok(removed)
    }

    fn ip(&self, namespace: Namespace, arguments: &str) -> Result<(), TopologyError> {
        let name = self.name(namespace);
        run("ip", ["-n", name.as_str()].into_iter().chain(arguments.split(' ')))
    }

    fn ethtool(&self, namespace: Namespace, arguments: &[&str]) -> Result<(), TopologyError> {
        let name = self.name(namespace);
        run("ip", ["netns", "exec", name.as_str(), "ethtool"].into_iter().chain(arguments.iter().copied()))
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        for namespace in Namespace::ALL {
            let name = self.name(namespace);
            if Path::new("/run/netns").join(&name).exists()
                && let Err(error) = remove_namespace(&name)
            {
                eprintln!("warning: network namespace {name} was not removed: {error}; `ip netns del {name}` does it");
            }
        }
    }
}

/// A fixed, locally administered address for each end of a path.
fn end_mac(end: Namespace, net: u8) -> String {
    format!("02:77:00:00:{net:02x}:{:02x}", if end == Namespace::Client { 1 } else { 2 })
}

fn check_prefix(prefix: &str) -> Result<(), TopologyError> {
    if (1..=16).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_lowercase()) {
        return Ok(());
    }
    Err(TopologyError::Option(format!("namespace prefix `{prefix}` must be 1 to 16 lowercase letters")))
}

/// The pid in a namespace's name, if it was made by us under `prefix`: `{prefix}{pid}-{n}-{client|wan|server}`.
fn owner_of(name: &str, prefix: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(prefix)?.split('-');
    let (pid, number, suffix) = (parts.next()?, parts.next()?, parts.next()?);
    let is_ours = parts.next().is_none() && number.parse::<u32>().is_ok() && Namespace::ALL.iter().any(|n| n.suffix() == suffix);
    if is_ours { pid.parse().ok() } else { None }
}

fn processes_in(name: &str) -> Vec<u32> {
    output("ip", ["netns", "pids", name]).unwrap_or_default().split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

/// Ends what runs in a namespace of ours (everything in it was started there for us), then removes it.
fn remove_namespace(name: &str) -> Result<(), TopologyError> {
    for signal in [sys::Signal::Terminate, sys::Signal::Kill] {
        let deadline = Instant::now() + PROCESS_DEADLINE;
        let own = std::process::id();
        let mut left: Vec<u32> = processes_in(name).into_iter().filter(|&p| p != own).collect();
        for &pid in &left {
            // It may have ended in between, or be out of reach; the deadline below decides.
            let _ = sys::send_signal(pid, signal);
        }
        while !left.is_empty() && Instant::now() < deadline {
            std::thread::sleep(POLL);
            left = processes_in(name);
        }
        if left.is_empty() {
            break;
        }
    }
    run("ip", ["netns", "del", name])
}

fn output<'a>(tool: &str, arguments: impl IntoIterator<Item = &'a str>) -> Result<String, TopologyError> {
    let mut command = Command::new(tool);
    command.args(arguments).stdin(Stdio::null());
    let line = || format!("{command:?}").replace('"', "");
    let described = line();
    let output = command.output().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => {
            TopologyError::ToolMissing { tool: tool.to_owned(), package: if tool == "ethtool" { "ethtool" } else { "iproute2" } }
        }
        _ => TopologyError::Io { what: format!("cannot run `{described}`"), source },
    })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if described.contains(" ethtool ") && stderr.contains("No such file") {
            return Err(TopologyError::ToolMissing { tool: "ethtool".to_owned(), package: "ethtool" });
        }
        return Err(TopologyError::Command { command: described, stderr });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run<'a>(tool: &str, arguments: impl IntoIterator<Item = &'a str>) -> Result<(), TopologyError> {
    output(tool, arguments).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_have_an_owner() {
        assert_eq!(owner_of("tw123-0-wan", "tw"), Some(123));
        for name in ["tw123-wan", "twx123-0-wan", "tw123-0-wan-2", "tw123-0-other", "other123-0-wan", "tw-0-wan"] {
            assert_eq!(owner_of(name, "tw"), None, "{name}");
        }
    }

    #[test]
    fn prefixes_are_checked() {
        assert!(check_prefix("twtest").is_ok());
        for prefix in ["", "tw1", "TW", "tw-", "abcdefghijklmnopq"] {
            assert!(check_prefix(prefix).is_err(), "{prefix}");
        }
    }
}
