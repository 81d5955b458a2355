//! `cargo xtask bench wan`: a file over long and lossy paths, beside the tools that users would take instead, over the same paths in the same run.
//!
//! The emulator joins client and server (`netem-scenarios`): 500 Mbit/s, a queue of 100 ms, loss each way, MTU 1500. Ours is received by AF_XDP and goes to a
//! store of kind `faux`. Peers ([`crate::dataplane`]) get the same path and so much time as ours would need to fill it, from their first byte on, and what
//! has arrived by then counts. Nobody's set-up is counted (ours, over HTTPS, takes a path without loss; iperf3's counts its own seconds). Everything runs on this machine's cores.
//!
//! JSON (`--json FILE`): `environment`, `rows` with `case`, `rtt_ms`, `loss`, `rate_bps`, `tool`, `mbit_per_s` (payload, median of the turns),
//! `over_bound` (bound: rate × (1 − loss) × payload share of a frame), `cpu_s_per_gib`, `turns`, and `warnings`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tradewind_netem::Scenario;
use tradewind_netem::scenario::DirectionSpec;
use tradewind_wire::limits::{chunk_bytes_for_mtu, packet_bytes};

use crate::dataplane::{Load, Peer, Turn, present, send};
use crate::environment::Environment;
use crate::process::Interrupt;
use crate::testbed::{Testbed, TestbedOptions, write_random};
use crate::{ETHERNET_BYTES, median, spread, write_json};

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
}

const CASES: [Case; 3] = [
    Case { name: "100ms-1%", rtt_ms: 100, loss: 0.01 },
    Case { name: "100ms-5%", rtt_ms: 100, loss: 0.05 },
    Case { name: "300ms-10%", rtt_ms: 300, loss: 0.10 },
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
    /// Largest less smallest, over the median.
    spread: f64,
    turns: Vec<Turn>,
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
    let peers = if arguments.peers { present(&mut warnings) } else { Vec::new() };
    println!("{:<12} {:<14} {:>9} {:>11} {:>10}", "case", "tool", "Mbit/s", "over bound", "CPU s/GiB");
    let is_wanted = |case: &&Case| arguments.only.is_empty() || arguments.only.iter().any(|only| case.name.contains(only.as_str()));
    for case in CASES.iter().filter(is_wanted) {
        for row in measure(arguments, case, &peers, interrupt, &mut warnings).with_context(|| case.name)? {
            println!("{:<12} {:<14} {:>9.1} {:>11.3} {:>10.2}", row.case, row.tool, row.mbit_per_s, row.over_bound, row.cpu_s_per_gib);
            rows.push(row);
        }
    }
    ensure!(!rows.is_empty(), "no such case; there are {}", CASES.map(|case| case.name).join(", "));
    environment.finish(&mut warnings);
    warnings.iter().for_each(|warning| println!("unsound: {warning}"));
    let report = Report { command: "cargo xtask bench wan", environment, seconds: arguments.seconds, rows, warnings };
    if let Some(file) = &arguments.json {
        write_json(file, &report)?;
    }
    Ok(report)
}

fn measure(arguments: &Arguments, case: &Case, peers: &[Peer], interrupt: &Interrupt, warnings: &mut Vec<String>) -> Result<Vec<Row>> {
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
    for number in 0..arguments.turns {
        // Another loss pattern for each turn, and the same one for all tools in it.
        let scenario = Scenario::new("wan", "long and lossy", u64::from(number) + 1, direction.clone(), None)?;
        for (tool, turns) in std::iter::once(None).chain(peers.iter().map(Some)).zip(&mut turns) {
            let mut testbed = Testbed::without_link("twwan", &options, interrupt)?;
            write_random(&testbed.path("source"), bytes)?;
            testbed.play(&scenario, &[])?;
            match tool.map_or_else(|| send(&testbed, true, bytes), |peer| peer.turn(&testbed, &load)) {
                Ok(turn) => turns.push(turn),
                Err(error) if tool.is_some() => {
                    interrupt.check()?;
                    warnings.push(format!("{}, turn {number}: {error:#}", case.name));
                }
                Err(error) => return Err(error),
            }
            if !testbed.stop_emulator()?.valid {
                warnings.push(format!(
                    "{}, turn {number}, {}: the emulator was late",
                    case.name,
                    tool.map_or("tradewind", |peer| peer.name())
                ));
            }
        }
    }
    let names = std::iter::once("tradewind").chain(peers.iter().map(|peer| peer.name()));
    let measured = names.zip(turns).filter(|(_, turns)| !turns.is_empty());
    Ok(measured.map(|(tool, turns)| row(case, tool, bound_bps, turns)).collect())
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
        spread: spread(turns.iter().map(Turn::gbit_per_s)),
        turns,
    }
}
