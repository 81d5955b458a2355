//! `cargo xtask bench scale`: many transfers at the same time, many that arrive at once, and many one after the other.
//!
//! Client and server are joined by one veth pair, the store is of kind `faux`, all on this machine's cores, the senders too. Three parts:
//!
//! - **Lanes** (`--lanes 1 10 50 200 1000`). One process (`tradewind-bench load`) runs so many uploads by the client library; 1,000 processes of
//!   `tradewind send` on few cores would measure process starts, and 1,000 sending threads that wake for a packet each would be most of what is measured.
//!   Each has its own HTTPS connection, lane and reading thread as the command has; all share a socket and a sending thread. 16 are set up at a time. Each sends a file of one block (1 MiB), then its source has nothing more: the lane is idle. Engine and control
//!   process are looked at. Then all send files of 8 MiB (of 1 MiB from 400 lanes on) for `--seconds` after `--ramp-seconds` and 30 ms
//!   for each lane, and end as uploads end.
//! - **Spike** (`--spike 50`). So many real `tradewind send` processes are started at once, each with 1 MiB, while one upload runs as fast as it can.
//! - **Soak** (`--soak 30m`). Real `tradewind send` processes, six at a time, of 64 KiB to 64 MiB and of folders; a tenth is interrupted
//!   (SIGINT), a tenth killed. What engine and control process hold is sampled, and so is set-up; after a warm-up of a quarter of the time (one minute at
//!   least) the Theil–Sen slope over the rest must not exceed a tolerance, which the output names.
//!
//! JSON (`--json FILE`): `environment`; `rows` of lanes with `case`, `lanes`, `opened`, `failed`, `gbit_per_s` (payload of all lanes while all run: each
//! lane's bytes in whole blocks at the receiver over the time between its own two reports), `gbit_per_s_whole` (all payload until the last has ended),
//! `over_one_lane`, `jain` (of the lanes' goodput), `set_up_ms` (from the beginning of set-up to the server's offer) and `first_block_ms` (to the first
//! MiB at the receiver) with `p50`, `p90`, `p99`, `p99_9`, `max` (medians of the turns; each turn's quantiles from a histogram of all its lanes) and
//! `samples`, `first_block_p50_ms` and `_p99_ms` of these,
//! `idle_bytes_per_lane` and `running_bytes_per_lane` (what the engine's proportional set has more than before the first lane, when it has prepared 256 MiB
//! of blocks as every engine does, over the lanes),
//! `cpu_idle` (cores that engine and control process take while all lanes are idle), `cpu_s_per_gib` (both ends), `spread`, `turns`; `spike`; `soak`;
//! `budgets` (with `--budget`: nanoseconds a packet by part and stage while all run, a packet being what carries a full chunk; [`crate::budget`]),
//! `bars` (text and whether it was met); `problems` (transfers that failed, what grew); `warnings`.

mod lanes;
mod load;
mod print;
mod process;
mod session;
mod soak;
mod spike;
mod trend;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use crate::budget::{self, Budget};
use crate::dataplane::is_missing;
use crate::environment::Environment;
use crate::process::Interrupt;
use crate::testbed::{Server, ServerOptions, Testbed};
use crate::{sound, write_json};
pub use lanes::Row;
pub use load::{Arguments as LoadArguments, run as run_load};
pub use soak::Soak;
pub use spike::Spike;

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = 1_048_576.0;
/// Enough for 1,000 lanes into parts of 8 MiB: 8 blocks of 1 MiB and their tables each, and what the first ones begin with.
const POOL_MIB: u32 = 12_288;
/// Most lanes of an engine.
const LANES_MAX: usize = tradewind_wire::limits::LANES_MAX;

/// What to measure. Without `--lanes`, `--spike` and `--soak`: lanes 1 10 50 200 1000, and a spike of 50.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Numbers of lanes that run at the same time.
    #[arg(long, num_args = 1.., value_parser = lanes_in_range)]
    pub lanes: Vec<usize>,
    /// So many sessions arrive at once.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub spike: Option<u16>,
    /// Transfers come and go for so long: 150s, 30m, 2h; two minutes at least.
    #[arg(long, value_name = "TIME", value_parser = soak_time)]
    pub soak: Option<Duration>,
    /// Turns of each number of lanes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub turns: u32,
    /// How long all lanes are watched while they run, seconds.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// How long they may take to find their rates before, seconds, beside 30 ms for each lane.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub ramp_seconds: f64,
    /// Each packet crosses by itself, as on a wire.
    #[arg(long)]
    pub wire_like: bool,
    /// The engine receives through AF_XDP.
    #[arg(long)]
    pub xdp: bool,
    /// Memory of the engine for blocks, MiB; 8 blocks (8.5 MiB) are kept for a lane into parts of 8 MiB. Beyond 256 MiB, pages that are not used are not taken.
    #[arg(long, default_value_t = POOL_MIB, value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    pub pool_mib: u32,
    /// Also where the time of a packet goes, by part and stage: one more turn of each number of lanes, watched by `perf`.
    #[arg(long)]
    pub budget: bool,
    /// Write the report as one JSON object to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (1.0..=600.0).contains(&seconds) { Ok(seconds) } else { Err("not from 1 to 600".to_owned()) }
}

fn lanes_in_range(text: &str) -> Result<usize, String> {
    let lanes: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    if (1..=LANES_MAX).contains(&lanes) { Ok(lanes) } else { Err(format!("not from 1 to {LANES_MAX}, which is the most of an engine")) }
}

/// A number with `s`, `m` or `h`.
fn soak_time(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is a number with s, m or h: 150s, 30m, 2h".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
    let time = number.checked_mul(factor).filter(|seconds| (120..=30 * 86_400).contains(seconds));
    time.map(Duration::from_secs).ok_or_else(|| "not from two minutes to thirty days".to_owned())
}

impl Arguments {
    /// For `bench all --quick`: a minute and a half.
    pub(crate) fn quick() -> Self {
        Self { lanes: vec![1, 200], spike: None, turns: 1, seconds: 8.0, ..Self::full() }
    }

    /// For `bench all`.
    pub(crate) fn full() -> Self {
        Self {
            lanes: vec![1, 50, 1000],
            spike: Some(50),
            soak: None,
            turns: 3,
            seconds: 10.0,
            ramp_seconds: 3.0,
            wire_like: false,
            xdp: false,
            pool_mib: POOL_MIB,
            budget: true,
            json: None,
        }
    }
}

/// A bar of issue 6.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    /// For people, with the figure.
    pub text: String,
    /// Whether it was met.
    pub met: bool,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    command: &'static str,
    environment: Environment,
    wire_like: bool,
    path: &'static str,
    pool_mib: u32,
    /// By number of lanes.
    pub rows: Vec<Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    budgets: Vec<Budget>,
    /// Numbers of lanes that have no row; each is among the problems too.
    #[serde(skip)]
    pub unmeasured: Vec<usize>,
    /// If it was played.
    pub spike: Option<Spike>,
    /// If it was played.
    pub soak: Option<Soak>,
    /// What is demanded and was measured.
    pub bars: Vec<Bar>,
    /// Transfers that failed, and what grew.
    pub problems: Vec<String>,
    /// What makes figures unsound.
    pub warnings: Vec<String>,
}

/// Measures, prints and writes.
///
/// # Errors
/// As [`measure`]; or a transfer failed, or a soak found that something grows.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<()> {
    let report = measure(arguments, interrupt)?;
    if let Some(file) = &arguments.json {
        write_json(file, &report)?;
    }
    if !report.problems.is_empty() {
        bail!("{} problems:\n{}", report.problems.len(), shown(&report.problems));
    }
    Ok(())
}

/// Measures and prints; what failed, and numbers of lanes that could not be measured, are among the problems.
///
/// # Errors
/// When the spike or the soak could not be measured.
pub fn measure(arguments: &Arguments, interrupt: &Interrupt) -> Result<Report> {
    let mut environment = Environment::here();
    let is_default = arguments.lanes.is_empty() && arguments.spike.is_none() && arguments.soak.is_none();
    let (numbers, spike) = if is_default { (vec![1, 10, 50, 200, 1000], Some(50)) } else { (arguments.lanes.clone(), arguments.spike) };
    let (mut warnings, mut problems) = (Vec::new(), Vec::new());
    let (rows, budgets) = lanes_rows(arguments, &numbers, interrupt, &mut warnings, &mut problems)?;
    let spike = spike.map(|sessions| spike_row(arguments, sessions.into(), interrupt, &mut problems)).transpose()?;
    let soak = arguments.soak.map(|time| soak_row(arguments, time, interrupt, &mut problems)).transpose()?;
    let unmeasured = numbers.into_iter().filter(|&lanes| !rows.iter().any(|row| row.lanes == lanes)).collect();
    let bars = bars(&rows);
    bars.iter().for_each(|bar| println!("bar {}: {}", if bar.met { "met" } else { "MISSED" }, bar.text));
    environment.finish(&mut warnings);
    warnings.iter().for_each(|warning| println!("unsound: {warning}"));
    let path = if arguments.xdp { "af_xdp" } else { "kernel" };
    let (command, wire_like, pool_mib) = ("cargo xtask bench scale", arguments.wire_like, arguments.pool_mib);
    Ok(Report { command, environment, wire_like, path, pool_mib, rows, budgets, unmeasured, spike, soak, bars, problems, warnings })
}

/// The first of them.
fn shown(problems: &[String]) -> String {
    const SHOWN_MAX: usize = 20;
    let mut text = problems.iter().take(SHOWN_MAX).cloned().collect::<Vec<String>>().join("\n");
    if problems.len() > SHOWN_MAX {
        text += &format!("\nand {} more", problems.len() - SHOWN_MAX);
    }
    text
}

fn lanes_rows(
    arguments: &Arguments,
    numbers: &[usize],
    interrupt: &Interrupt,
    warnings: &mut Vec<String>,
    problems: &mut Vec<String>,
) -> Result<(Vec<Row>, Vec<Budget>)> {
    let (mut rows, mut budgets): (Vec<Row>, Vec<Budget>) = (Vec::new(), Vec::new());
    let with_budget = arguments.budget && !is_missing("a packet's time", budget::missing(), warnings);
    if !numbers.is_empty() {
        println!(
            "{:>5} {:>6} {:>6} {:>7} {:>7} {:>6} {:>6} {:>9} {:>9} {:>9} {:>9} {:>8} {:>9} {:>6}",
            "lanes",
            "opened",
            "failed",
            "Gbit/s",
            "whole",
            "of one",
            "Jain",
            "first p50",
            "first p99",
            "KiB/idle",
            "KiB/run",
            "idle CPU",
            "CPU s/GiB",
            "spread"
        );
    }
    for &lanes in numbers {
        let measured =
            lanes::bed(arguments, lanes, interrupt).and_then(|testbed| Ok((lanes::measure(arguments, &testbed, lanes)?, testbed)));
        let (mut row, testbed) = match measured {
            Ok(measured) => measured,
            Err(error) => {
                interrupt.check()?;
                let problem = format!("lanes-{lanes} could not be measured: {error:#}");
                println!("{problem}");
                problems.push(problem);
                continue;
            }
        };
        let one = rows.iter().find(|row| row.lanes == 1).map(|one| one.gbit_per_s);
        row.over_one_lane = one.map(|one| row.gbit_per_s / one);
        println!("{row}");
        warnings.extend(sound::spread(&row.case, row.spread));
        problems.extend(row.failures().map(|failure| format!("{}: {failure}", row.case)));
        if with_budget {
            budgets.extend(budget::or_warning(&row.case, lanes::watched(arguments, &testbed, lanes), interrupt, warnings)?);
        }
        rows.push(row);
    }
    budgets.iter().for_each(|budget| println!("{budget}"));
    warnings.extend(sound::turns(rows.iter().map(|row| row.turns.len())));
    Ok((rows, budgets))
}

fn spike_row(arguments: &Arguments, sessions: usize, interrupt: &Interrupt, problems: &mut Vec<String>) -> Result<Spike> {
    let spike = spike::measure(arguments, sessions, interrupt)?;
    println!("{spike}");
    problems.extend(spike.failures().map(|failure| format!("{}: {failure}", spike.case)));
    Ok(spike)
}

fn soak_row(arguments: &Arguments, time: Duration, interrupt: &Interrupt, problems: &mut Vec<String>) -> Result<Soak> {
    let soak = soak::measure(arguments, time, interrupt)?;
    println!("{soak}");
    let found = soak.problems();
    println!("soak: {}", if found.is_empty() { "nothing grows" } else { "FAILED" });
    problems.extend(found.into_iter().map(|problem| format!("soak: {problem}")));
    Ok(soak)
}

/// The bars that rows can be held against: from 1,000 lanes on.
fn bars(rows: &[Row]) -> Vec<Bar> {
    const LANES: usize = 1000;
    let mut bars = Vec::new();
    for row in rows.iter().filter(|row| row.lanes >= LANES) {
        if let Some(share) = row.over_one_lane {
            let text = format!("{} lanes together: {share:.2} of one lane's goodput; at least {}", row.lanes, lanes::AGGREGATE_MIN);
            bars.push(Bar { text, met: share >= lanes::AGGREGATE_MIN });
        }
        let text = format!(
            "{} lanes: {:.0} KiB of the engine's memory for an idle one; at most 1024",
            row.lanes,
            row.idle_bytes_per_lane / 1024.0
        );
        bars.push(Bar { text, met: row.idle_bytes_per_lane <= lanes::IDLE_BYTES_MAX });
        let text = format!("{} lanes: {} taken, {} failures; all and none", row.lanes, row.opened, row.failed);
        bars.push(Bar { text, met: row.opened == row.lanes && row.failed == 0 });
    }
    bars
}

/// A server with a null store and so much memory for blocks.
fn start_server(arguments: &Arguments, testbed: &Testbed, more: &str) -> Result<Server> {
    let bytes = u64::from(arguments.pool_mib) << 20;
    let more = format!("[stores.faux]\nkind = \"faux\"\n[engine]\npool_bytes = {bytes}\n{more}");
    let xdp = if arguments.xdp { "auto" } else { "off" };
    let server = Server::start_local(testbed, &ServerOptions { xdp, more: &more })?;
    ensure!(server.engine_pid().is_some(), "tradewindd has no engine");
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_bounds() {
        assert_eq!(soak_time("120s"), Ok(Duration::from_secs(120)));
        assert_eq!(soak_time("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(soak_time("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "30", "m", "-3m", "1.5h", "119s", "99999999999999999999h", "31000000h", "3ö"] {
            assert!(soak_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_more_lanes_than_an_engine_has() {
        assert!(lanes_in_range("1").is_ok() && lanes_in_range("4096").is_ok());
        assert!(lanes_in_range("0").is_err() && lanes_in_range("4097").is_err() && lanes_in_range("x").is_err());
    }
}
