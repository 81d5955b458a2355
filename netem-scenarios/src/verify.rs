//! Measures an emulated path with its own probes and compares it with its scenario.
//!
//! The figures come from probe processes at the ends (send times from their clock, arrival times from the kernel), never from the emulator;
//! the emulator's own statistics only say whether the run was valid.
//!
//! 1. Quiet: small packets in both directions at once, too few to queue: delay, jitter, loss, bursts, duplicates, reordering, outages.
//! 2. Overload, one direction after the other: full packets above the rate: the rate that arrives, and the delay that the full queue adds.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::analysis::{self, Observations, Row};
use crate::link::Way;
use crate::probe;
use crate::scenario::{Direction, QueueLimit, Scenario};
use crate::stats::EmulatorStats;
use crate::sys;
use crate::topology::{CLIENT_ADDRESS, Namespace, SERVER_ADDRESS, Topology, TopologyError, TopologyOptions};

const PORT: u16 = 33_077;
/// UDP payload of quiet probes.
const QUIET_PAYLOAD_BYTES: u16 = 64;
/// Ethernet, IPv4 and UDP headers.
pub(crate) const HEADER_BYTES: u64 = 14 + 20 + 8;
/// Quiet probes per second at most.
const QUIET_PPS_MAX: f64 = 2_000.0;
/// Share of the rate that quiet probes may use.
const QUIET_RATE_SHARE: f64 = 0.1;
/// Offered load in an overload, over the rate.
const OVERLOAD_FACTOR: f64 = 1.4;
/// The same where the queue holds so few packets that evenly spaced arrivals would often find it full and then miss its being empty. Not a
/// whole number, so that no arrival meets a departure at the same instant.
const OVERLOAD_FACTOR_SHALLOW: f64 = 4.5;
/// A queue below so many full frames is shallow.
const SHALLOW_FRAMES: u64 = 3;

/// How to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Back end of the emulator: `auto`, `tc` or `own`.
    pub backend: String,
    /// MTU of the path in bytes.
    pub mtu_bytes: u32,
    /// Length of the quiet measurement.
    pub quiet: Duration,
    /// Length of each overload after the queue has filled.
    pub overload: Duration,
}

impl Default for VerifyOptions {
    /// Own back end, MTU 1500, 5 s quiet, 2 s of overload per direction.
    fn default() -> Self {
        Self { backend: "own".to_owned(), mtu_bytes: 1500, quiet: Duration::from_secs(5), overload: Duration::from_secs(2) }
    }
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The path could not be built, or the emulator failed.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A probe process failed.
    #[error("the probe `{what}` failed: {source}")]
    Probe {
        /// Which half.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// What was measured beside what should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// Whether every row passed and the run was valid.
    pub passed: bool,
    /// One line for each quantity and direction.
    pub rows: Vec<Row>,
    /// The emulator's own statistics and its verdict on the run.
    pub emulator: EmulatorStats,
    /// Packets that the ends' interfaces dropped before the emulator saw them: (client, server).
    pub end_send_drops: (u64, u64),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "scenario {} by {} ({})", self.scenario, self.emulator.backend, self.emulator.base)?;
        writeln!(f, "{:<9} {:<22} {:>14} {:>14} {:>12}  result", "direction", "quantity", "scenario", "measured", "tolerance")?;
        for row in &self.rows {
            let measured = row.measured.map_or("-".to_owned(), |m| format!("{m:.4}"));
            writeln!(
                f,
                "{:<9} {:<22} {:>14.4} {:>14} {:>12.4}  {}{}",
                row.direction,
                row.quantity,
                row.expected,
                measured,
                row.tolerance,
                if row.passed { "pass" } else { "FAIL" },
                if row.note.is_empty() { String::new() } else { format!(" ({})", row.note) }
            )?;
        }
        for (name, stats) in [("forward", &self.emulator.forward), ("reverse", &self.emulator.reverse)] {
            if let Some(late) = stats.lateness {
                writeln!(f, "{name}: released late by p50 {:.0} µs, p99 {:.0} µs, max {:.0} µs", late.p50_us, late.p99_us, late.max_us)?;
            }
        }
        for reason in &self.emulator.invalid_reasons {
            writeln!(f, "run not valid: {reason}")?;
        }
        if self.end_send_drops != (0, 0) {
            writeln!(f, "run not valid: the ends' interfaces dropped {:?} packets before the emulator", self.end_send_drops)?;
        }
        writeln!(f, "{}", if self.passed { "PASSED" } else { "FAILED" })
    }
}

/// Builds a path, plays `scenario` on it with `emulator_binary` (the `tradewind-netem` program, which also provides the probes), measures
/// it and takes it down.
///
/// # Errors
/// [`VerifyError`] if nothing could be measured; a path that differs from its scenario is a [`Report`] that did not pass.
pub fn verify(scenario: &Scenario, emulator_binary: &Path, options: &VerifyOptions) -> Result<Report, VerifyError> {
    let topology = Topology::create("twverify", &TopologyOptions { mtu_bytes: options.mtu_bytes, ..TopologyOptions::default() })?;
    let files = Files::new(&topology);
    let emulator = topology.start_emulator_with(scenario, emulator_binary, &files.path("stats"), &["--backend", &options.backend])?;
    let session = Session {
        topology: &topology,
        binary: emulator_binary,
        files: &files,
        // The probes' times are on CLOCK_REALTIME.
        start_ns: (emulator.start_monotonic_ns() as i64 + sys::realtime_minus_monotonic_ns()) as u64,
    };
    let mut rows = Vec::new();
    let mut base_delays_ns = Vec::new();
    let quiet = session.observe_all(&Way::BOTH.map(|way| Load::quiet(direction_of(scenario, way), way, options)))?;
    for (way, seen) in Way::BOTH.into_iter().zip(&quiet) {
        let direction = direction_of(scenario, way);
        rows.extend(analysis::quiet_rows(way.name(), direction, seen));
        base_delays_ns.push(analysis::base_delay_ns(direction, seen));
    }
    for (way, base_ns) in Way::BOTH.into_iter().zip(base_delays_ns) {
        let direction = direction_of(scenario, way);
        if let Some(load) = Load::overload(direction, way, options) {
            let seen = session.observe_all(&[load])?;
            rows.extend(analysis::overload_rows(way.name(), direction, &seen[0], base_ns, load.fill_ns));
        }
    }
    let end_send_drops = topology.end_send_drops()?;
    let stats = emulator.stop()?;
    let passed = rows.iter().all(|r| r.passed) && stats.valid && end_send_drops == (0, 0);
    Ok(Report { scenario: scenario.name().to_owned(), passed, rows, emulator: stats, end_send_drops })
}

fn direction_of(scenario: &Scenario, way: Way) -> &Direction {
    match way {
        Way::Forward => scenario.forward(),
        Way::Reverse => scenario.reverse(),
    }
}

/// Files of one verification, removed at its end.
struct Files {
    stem: PathBuf,
}

impl Files {
    fn new(topology: &Topology) -> Self {
        Self { stem: std::env::temp_dir().join(topology.name(Namespace::Wan)) }
    }

    fn path(&self, what: &str) -> PathBuf {
        let mut path = self.stem.clone().into_os_string();
        path.push(format!("-{what}.bin"));
        path.into()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for what in ["stats", "forward-sent", "forward-received", "reverse-sent", "reverse-received"] {
            // Not every file was made.
            let _ = std::fs::remove_file(self.path(what));
        }
    }
}

/// A stream of probes in one direction.
#[derive(Debug, Clone, Copy)]
struct Load {
    way: Way,
    packets_per_second: f64,
    count: u64,
    payload_bytes: u16,
    /// Even spacing at any price: batches would find a shallow queue full and then leave it empty.
    spin: bool,
    /// Shortest spacing; 0 lets the sender catch up in batches.
    gap_us_min: u64,
    /// Time that an overload needs to fill the queue.
    fill_ns: u64,
    /// Longest time that a packet may be under way.
    wait: Duration,
}

impl Load {
    fn quiet(direction: &Direction, way: Way, options: &VerifyOptions) -> Self {
        let frame_bits = (u64::from(QUIET_PAYLOAD_BYTES) + HEADER_BYTES) as f64 * 8.0;
        let mut packets_per_second = QUIET_PPS_MAX;
        if let Some(bps) = direction.rate().long_run_bps() {
            packets_per_second = packets_per_second.min(bps * QUIET_RATE_SHARE / frame_bits);
        }
        if direction.jitter_keeps_order() && direction.jitter_ns() > 0 {
            // Far enough apart that keeping order changes no packet's jitter.
            packets_per_second = packets_per_second.min(1e9 / (2.2 * direction.jitter_ns() as f64));
        }
        let count = (packets_per_second * options.quiet.as_secs_f64()).ceil() as u64;
        // A late sender must not queue at a bottleneck that holds one packet.
        let gap_us_min = (0.5e6 / packets_per_second) as u64;
        Self {
            way,
            packets_per_second,
            count,
            payload_bytes: QUIET_PAYLOAD_BYTES,
            gap_us_min,
            spin: false,
            fill_ns: 0,
            wait: longest_hold(direction),
        }
    }

    /// `None` if the direction has no bottleneck.
    fn overload(direction: &Direction, way: Way, options: &VerifyOptions) -> Option<Self> {
        let bps = direction.rate().max_bps()?;
        let payload_bytes = (options.mtu_bytes - 28).min(9_000) as u16;
        let frame_bytes = u64::from(payload_bytes) + HEADER_BYTES;
        let queue_bytes = match direction.queue()? {
            QueueLimit::Bytes(bytes) => bytes,
            QueueLimit::Packets(packets) => u64::from(packets) * frame_bytes,
        };
        let factor = if queue_bytes < SHALLOW_FRAMES * frame_bytes { OVERLOAD_FACTOR_SHALLOW } else { OVERLOAD_FACTOR };
        let fill_s = 1.25 * queue_bytes as f64 * 8.0 / (bps as f64 * (factor - 1.0)) + 0.05;
        let packets_per_second = factor * bps as f64 / (frame_bytes * 8) as f64;
        let count = (packets_per_second * (fill_s + options.overload.as_secs_f64())).ceil() as u64;
        Some(Self {
            way,
            packets_per_second,
            count,
            payload_bytes,
            gap_us_min: 0,
            spin: factor > OVERLOAD_FACTOR,
            fill_ns: (fill_s * 1e9) as u64,
            wait: longest_hold(direction),
        })
    }
}

/// How long to wait for the last packet: delay, jitter, a full queue of it all, and the machine.
fn longest_hold(direction: &Direction) -> Duration {
    let bytes = direction.bytes_inside_max(1_000_000, 9_018);
    let drain_s = direction.rate().long_run_bps().map_or(0.0, |bps| bytes as f64 * 8.0 / bps);
    Duration::from_nanos(direction.delay_ns() + direction.jitter_ns()) + Duration::from_secs_f64(drain_s) + Duration::from_millis(300)
}

struct Session<'a> {
    topology: &'a Topology,
    binary: &'a Path,
    files: &'a Files,
    start_ns: u64,
}

/// A probe process that is killed if it is not waited for.
struct Probe {
    child: Child,
    what: &'static str,
}

impl Probe {
    fn spawn(mut command: Command, what: &'static str) -> Result<Self, VerifyError> {
        let child = command.spawn().map_err(|source| VerifyError::Probe { what, source })?;
        Ok(Self { child, what })
    }

    fn wait(mut self) -> Result<(), VerifyError> {
        let failed = |source| VerifyError::Probe { what: self.what, source };
        drop(self.child.stdin.take());
        let status = self.child.wait().map_err(failed)?;
        if status.success() { Ok(()) } else { Err(failed(std::io::Error::other(format!("it ended with {status}")))) }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Both fail harmlessly if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Session<'_> {
    /// Runs the loads at the same time and returns what their receivers saw.
    fn observe_all(&self, loads: &[Load]) -> Result<Vec<Observations>, VerifyError> {
        let mut receivers = Vec::new();
        for load in loads {
            receivers.push(self.start_receiver(load)?);
        }
        let mut senders = Vec::new();
        for load in loads {
            senders.push(self.start_sender(load)?);
        }
        for sender in senders {
            sender.wait()?;
        }
        std::thread::sleep(loads.iter().map(|l| l.wait).max().unwrap_or_default());
        for receiver in receivers {
            receiver.wait()?;
        }
        loads.iter().map(|load| self.read(load)).collect()
    }

    fn start_receiver(&self, load: &Load) -> Result<Probe, VerifyError> {
        let (namespace, address) = far_end(load.way);
        let mut command = self.topology.command(namespace, self.binary);
        command.arg("probe-receive").args(["--bind", &SocketAddr::new(address, PORT).to_string()]);
        command.arg("--record").arg(self.files.path(&format!("{}-received", load.way.name())));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut probe = Probe::spawn(command, "receiver")?;
        let mut line = String::new();
        if let Some(output) = probe.child.stdout.as_mut() {
            BufReader::new(output).read_line(&mut line).map_err(|source| VerifyError::Probe { what: "receiver", source })?;
        }
        if line.trim() == "ready" {
            return Ok(probe);
        }
        let source = std::io::Error::other("it ended before it listened; its message is above");
        Err(VerifyError::Probe { what: "receiver", source })
    }

    fn start_sender(&self, load: &Load) -> Result<Probe, VerifyError> {
        let near_end = match load.way {
            Way::Forward => Namespace::Client,
            Way::Reverse => Namespace::Server,
        };
        let mut command = self.topology.command(near_end, self.binary);
        command.arg("probe-send").args(["--to", &SocketAddr::new(far_end(load.way).1, PORT).to_string()]);
        command.args(["--packets-per-second", &load.packets_per_second.to_string(), "--count", &load.count.to_string()]);
        command.args(["--payload-bytes", &load.payload_bytes.to_string(), "--gap-us-min", &load.gap_us_min.to_string()]);
        if load.spin {
            command.arg("--spin");
        }
        command.arg("--record").arg(self.files.path(&format!("{}-sent", load.way.name()))).stdin(Stdio::null());
        Probe::spawn(command, "sender")
    }

    fn read(&self, load: &Load) -> Result<Observations, VerifyError> {
        let read = |what: &str| {
            probe::read_numbers(&self.files.path(&format!("{}-{what}", load.way.name())))
                .map_err(|source| VerifyError::Probe { what: "record", source })
        };
        let received = read("received")?;
        Ok(Observations {
            link_start_ns: self.start_ns,
            frame_bytes: u64::from(load.payload_bytes) + HEADER_BYTES,
            sent_ns: read("sent")?,
            arrivals: received.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(),
        })
    }
}

fn far_end(way: Way) -> (Namespace, IpAddr) {
    match way {
        Way::Forward => (Namespace::Server, SERVER_ADDRESS.into()),
        Way::Reverse => (Namespace::Client, CLIENT_ADDRESS.into()),
    }
}
