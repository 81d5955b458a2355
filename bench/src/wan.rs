//! `cargo xtask bench wan`: a file over long and lossy paths, beside the tools that users would take instead, over the same paths in the same run.
//!
//! The emulator joins client and server (`netem-scenarios`): 500 Mbit/s, a queue of 100 ms, loss each way, MTU 1500. Ours is received by AF_XDP and goes to a
//! store of kind `faux`. Peers ([`crate::dataplane`]) get the same path and so much time as ours would need to fill it, from their first byte on, and what
//! has arrived by then counts. Some cases are there for the lines of goodput over RTT and over loss: only two peers play them, and with `--quick` one
//! peer and ours, one turn each. Nobody's set-up is counted (ours, over HTTPS, takes a path without loss; iperf3's counts its own seconds). Everything runs on this machine's cores.
//!
//! JSON (`--json FILE`): `environment`, `rows` with `case`, `rtt_ms`, `loss`, `rate_bps`, `tool`, `mbit_per_s` (payload, median of the turns),
//! `over_bound` (bound: rate × (1 − loss) × payload share of our frames), `cpu_s_per_gib`, `queue_p50_ms` and `queue_p95_ms` (what packets found in the
//! bottleneck's queue on the way there, as the emulator counted), `round_trip_over_least_p50_ms` and `_p95_ms` (ours: smoothed round trips, five a
//! second, less the least), `spread`, `turns`, `series` (ours: rates, loss and round trip over the seconds of the median turn), and `warnings`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tradewind_netem::Scenario;
use tradewind_netem::scenario::DirectionSpec;
use tradewind_netem::stats::EmulatorStats;
use tradewind_wire::limits::{chunk_bytes_for_mtu, packet_bytes};

use crate::dataplane::{Load, Peer, QueueDelay, Series, Turn, median_of, median_series, present, send};
use crate::environment::Environment;
use crate::process::Interrupt;
use crate::testbed::{Testbed, TestbedOptions, write_random};
use crate::{ETHERNET_BYTES, median, sound, spread, write_json};

const RATE_BPS: u64 = 500_000_000;
const QUEUE_MS: f64 = 100.0;
const MTU_BYTES: u32 = 1500;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Turns of each tool.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub turns: u32,
    /// How long the path would need to be filled for, seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=300))]
    pub seconds: u32,
    /// Beside tools that users would take instead.
    #[arg(long)]
    pub peers: bool,
    /// One turn, and one peer, of the cases that are there for the lines only.
    #[arg(long)]
    pub quick: bool,
    /// Only the cases whose names contain one of these.
    #[arg(long, num_args = 1..)]
    pub only: Vec<String>,
    /// Write the report as one JSON object to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

struct Case {
    name: &'static str,
    rtt_ms: u32,
    loss: f64,
    /// Between or beside the others, for the lines.
    is_for_lines: bool,
}

impl Case {
    const fn named(name: &'static str, rtt_ms: u32, loss: f64) -> Self {
        Self { name, rtt_ms, loss, is_for_lines: false }
    }

    const fn for_lines(name: &'static str, rtt_ms: u32, loss: f64) -> Self {
        Self { name, rtt_ms, loss, is_for_lines: true }
    }

    /// Turns of each tool.
    fn turns(&self, arguments: &Arguments) -> u32 {
        if self.is_for_lines && arguments.quick { 1 } else { arguments.turns }
    }

    /// Those of the peers that play it.
    fn peers(&self, peers: &[Peer], quick: bool) -> Vec<Peer> {
        let wanted = if quick { &LINE_PEERS[..1] } else { &LINE_PEERS[..] };
        peers.iter().copied().filter(|peer| !self.is_for_lines || wanted.contains(peer)).collect()
    }
}

/// TCP, and the fastest peer that encrypts.
const LINE_PEERS: [Peer; 2] = [Peer::Iperf3, Peer::s2n(true)];

/// At 1 % loss from 10 to 300 ms, at 100 ms from 0.1 to 10 %, and far out.
const CASES: [Case; 9] = [
    Case::named("100ms-1%", 100, 0.01),
    Case::named("100ms-5%", 100, 0.05),
    Case::named("300ms-10%", 300, 0.10),
    Case::for_lines("10ms-1%", 10, 0.01),
    Case::for_lines("50ms-1%", 50, 0.01),
    Case::for_lines("200ms-1%", 200, 0.01),
    Case::for_lines("300ms-1%", 300, 0.01),
    Case::for_lines("100ms-0.1%", 100, 0.001),
    Case::for_lines("100ms-10%", 100, 0.10),
];

/// A tool on a path: medians of its turns.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which of the paths.
    pub case: &'static str,
    rtt_ms: u32,
    loss: f64,
    rate_bps: u64,
    /// Which tool.
    pub tool: &'static str,
    /// Payload.
    pub mbit_per_s: f64,
    /// Payload over what the path carries.
    pub over_bound: f64,
    /// Both ends.
    pub cpu_s_per_gib: f64,
    /// In the bottleneck's queue on the way there, of all that the tool sent.
    queue_p50_ms: Option<f64>,
    queue_p95_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_over_least_p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_over_least_p95_ms: Option<f64>,
    /// Largest less smallest, over the median.
    spread: f64,
    turns: Vec<Turn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    series: Option<Series>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    command: &'static str,
    environment: Environment,
    seconds: u32,
    /// In the order of measuring.
    pub rows: Vec<Row>,
    /// What makes figures unsound.
    pub warnings: Vec<String>,
}

/// Measures and prints.
///
/// # Errors
/// When one of our transfers fails, or a peer does not start.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<Report> {
    let mut environment = Environment::here();
    let (mut rows, mut warnings) = (Vec::new(), Vec::new());
    let peers = if arguments.peers { present(Peer::ALL, &mut warnings) } else { Vec::new() };
    println!("{:<12} {:<14} {:>9} {:>11} {:>10} {:>13}", "case", "tool", "Mbit/s", "over bound", "CPU s/GiB", "queue p95 ms");
    let is_wanted = |case: &&Case| arguments.only.is_empty() || arguments.only.iter().any(|only| case.name.contains(only.as_str()));
    for case in CASES.iter().filter(is_wanted) {
        let peers = case.peers(&peers, arguments.quick);
        for row in measure(arguments, case, &peers, &environment, interrupt, &mut warnings).with_context(|| case.name)? {
            let queue_ms = row.queue_p95_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
            println!(
                "{:<12} {:<14} {:>9.1} {:>11.3} {:>10.2} {:>13}",
                row.case, row.tool, row.mbit_per_s, row.over_bound, row.cpu_s_per_gib, queue_ms
            );
            warnings.extend(sound::spread(&format!("{} {}", row.case, row.tool), row.spread));
            rows.push(row);
        }
    }
    ensure!(!rows.is_empty(), "no such case; there are {}", CASES.map(|case| case.name).join(", "));
    warnings.extend(sound::turns(rows.iter().map(|row: &Row| row.turns.len())));
    environment.finish(&mut warnings);
    warnings.iter().for_each(|warning| println!("unsound: {warning}"));
    let report = Report { command: "cargo xtask bench wan", environment, seconds: arguments.seconds, rows, warnings };
    if let Some(file) = &arguments.json {
        write_json(file, &report)?;
    }
    Ok(report)
}

fn measure(
    arguments: &Arguments,
    case: &Case,
    peers: &[Peer],
    environment: &Environment,
    interrupt: &Interrupt,
    warnings: &mut Vec<String>,
) -> Result<Vec<Row>> {
    let options = TestbedOptions { mtu_bytes: MTU_BYTES, management: true, in_memory: true, ..TestbedOptions::default() };
    let direction = DirectionSpec {
        rate_bps: Some(RATE_BPS),
        delay_ms: f64::from(case.rtt_ms) / 2.0,
        loss: Some(case.loss),
        queue_ms: Some(QUEUE_MS),
        ..DirectionSpec::default()
    };
    let chunk = chunk_bytes_for_mtu(MTU_BYTES as usize, false);
    let share = chunk as f64 / (packet_bytes(chunk, false) + ETHERNET_BYTES as usize) as f64;
    let bound_bps = RATE_BPS as f64 * (1.0 - case.loss) * share;
    let bytes = (bound_bps / 8.0 * f64::from(arguments.seconds)) as u64;
    let load = Load { bytes, seconds: Some(arguments.seconds), rtt_ms: case.rtt_ms, rate_bps: RATE_BPS, mtu_bytes: MTU_BYTES };
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); peers.len() + 1];
    for number in 0..case.turns(arguments) {
        // Another loss pattern for each turn, and the same one for all tools in it.
        let scenario = Scenario::new("wan", "long and lossy", u64::from(number) + 1, direction.clone(), None)?;
        for (tool, turns) in std::iter::once(None).chain(peers.iter().map(Some)).zip(&mut turns) {
            let mut testbed = Testbed::without_link("twwan", &options, interrupt)?;
            write_random(&testbed.path("source"), bytes)?;
            testbed.play(&scenario, &[])?;
            let outcome = tool.map_or_else(|| send(&testbed, true, bytes), |peer| peer.turn(&testbed, &load));
            let emulator = testbed.stop_emulator();
            match outcome {
                Ok(mut turn) => {
                    let what = format!("{}, turn {number}, {}", case.name, tool.map_or("tradewind", |peer| peer.name()));
                    let emulator = emulator?;
                    warnings.extend(sound::emulator(&what, &emulator));
                    (turn.queue_ms, turn.emulator_cores) = (queue(&emulator), Some(sound::emulator_cores(&emulator)));
                    turns.push(turn);
                }
                Err(error) if tool.is_some() => {
                    interrupt.check()?;
                    warnings.push(format!("{}, turn {number}: {error:#}", case.name));
                }
                Err(error) => return Err(error),
            }
        }
    }
    let names = std::iter::once("tradewind").chain(peers.iter().map(|peer| peer.name()));
    let measured: Vec<(&'static str, Vec<Turn>)> = names.zip(turns).filter(|(_, turns)| !turns.is_empty()).collect();
    for (tool, turns) in &measured {
        let busy = turns.iter().map(Turn::busy).map(|(busy_s, seconds)| environment.busy(busy_s, seconds));
        warnings.extend(sound::machine(&format!("{} {tool}", case.name), busy));
    }
    Ok(measured.into_iter().map(|(tool, turns)| row(case, tool, bound_bps, turns)).collect())
}

/// How long the bottleneck took for what packets found in its queue on the way there.
fn queue(emulator: &EmulatorStats) -> Option<QueueDelay> {
    let milliseconds = |bytes: u64| bytes as f64 * 8.0 / RATE_BPS as f64 * 1e3;
    emulator.forward.backlog.map(|backlog| QueueDelay { p50: milliseconds(backlog.p50_bytes), p95: milliseconds(backlog.p95_bytes) })
}

fn row(case: &Case, tool: &'static str, bound_bps: f64, turns: Vec<Turn>) -> Row {
    let bits_per_s = median(turns.iter().map(Turn::gbit_per_s)) * 1e9;
    Row {
        case: case.name,
        rtt_ms: case.rtt_ms,
        loss: case.loss,
        rate_bps: RATE_BPS,
        tool,
        mbit_per_s: bits_per_s / 1e6,
        over_bound: bits_per_s / bound_bps,
        cpu_s_per_gib: median(turns.iter().map(Turn::cpu_s_per_gib)),
        queue_p50_ms: median_of(&turns, |turn| turn.queue_ms.map(|queue| queue.p50)),
        queue_p95_ms: median_of(&turns, |turn| turn.queue_ms.map(|queue| queue.p95)),
        round_trip_over_least_p50_ms: median_of(&turns, |turn| turn.over_least().map(|over| over.p50)),
        round_trip_over_least_p95_ms: median_of(&turns, |turn| turn.over_least().map(|over| over.p95)),
        spread: spread(turns.iter().map(Turn::gbit_per_s)),
        series: median_series(&turns),
        turns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(quick: bool) -> Arguments {
        Arguments { turns: 5, seconds: 20, peers: true, quick, only: Vec::new(), json: None }
    }

    #[test]
    fn both_lines_have_points_and_the_named_cases_keep_every_peer() {
        let at = |rtt_ms: u32, loss: f64| CASES.iter().any(|case| case.rtt_ms == rtt_ms && (case.loss - loss).abs() < 1e-9);
        assert!([10, 50, 100, 200, 300].into_iter().all(|rtt_ms| at(rtt_ms, 0.01)));
        assert!([0.001, 0.01, 0.05, 0.10].into_iter().all(|loss| at(100, loss)));
        for case in &CASES {
            let is_named = ["100ms-1%", "100ms-5%", "300ms-10%"].contains(&case.name);
            assert_eq!(case.is_for_lines, !is_named, "{}", case.name);
            let played = |quick| (case.turns(&arguments(quick)), case.peers(&Peer::ALL, quick).len());
            let expected = if is_named { [(5, 6), (5, 6)] } else { [(1, 1), (5, 2)] };
            assert_eq!([played(true), played(false)], expected, "{}", case.name);
        }
    }
}
