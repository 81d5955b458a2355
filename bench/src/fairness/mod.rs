//! `cargo xtask bench fairness`: two flows meet at one bottleneck of the emulated WAN: two of ours, or one of ours and one of the
//! kernel's TCP, the second a while after the first. Shares are counted by the emulator (bytes of frames behind the bottleneck, by the
//! port of the client's end), over the time in which both are active, without the first seconds of the newcomer.
//!
//! Our flow is the real `tradewind send` to the real server (local store in memory), ended when the time is up. Each end of a flow
//! has its own round-trip time: the emulator delays a flow by port, so 1:10 is measured too. Control traffic takes a path of its own.
//! One run with one seed stands for a case; nothing is lost at random. A run counts only if the emulator calls it valid; it is repeated
//! up to [`REPEATS`] times otherwise.
//!
//! JSON (`--json FILE`): one object.
//! - `command`; `rate_bps`, `queue_ms`, `queue_bytes` of the link; `stagger_s`, `skip_s`, `seconds` asked for; `kernel`, `xdp_mode`,
//!   `congestion_controls` of the kernel;
//! - `cases`: one object a case: `case` (`name`, `first`, `newcomer`, `rtt_ms` of each, `bar`), `bar_text`, `bar_met` (null: no bar, or not valid),
//!   `attempts`, `valid`, `problems`, `window_s` (start and end since the link started), `shares` of the link's rate (first, newcomer; frames
//!   that came through), `goodput_bps` as the receiving program or the client's progress sees it (null if unknown), `jain`, `ratio`
//!   (newcomer over first), `queue_ms_p50` and `queue_ms_p95` (over 100 ms means within the window), `queue_drops` (of each flow, whole
//!   run), `series` per second since the link started (`mbps` of each, `queue_ms`), `tcp_received_bytes_per_100ms` (from the flow's first
//!   byte; null unless one is TCP), `client_progress` (of each of ours), `emulator` (its statistics without the series);
//! - `skipped`: cases that the kernel cannot play, with the reason.

mod case;
mod flow;
mod measure;
mod tcp;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::Value;

pub use case::{Bar, Case, Party, cases, jain};
pub use measure::Outcome;

use crate::process::Interrupt;
use crate::testbed::{Server, ServerOptions, Testbed, TestbedOptions, health};

/// How often a run that is not valid is repeated.
pub const REPEATS: u32 = 2;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Write the report as one JSON object to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Rate of the link, Mbit/s of Ethernet frames.
    #[arg(long, value_name = "MBIT/S", default_value_t = 100)]
    pub rate_mbps: u32,
    /// Queue of the link, ms at its rate.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub queue_ms: u32,
    /// Round-trip times, ms (repeatable); the first one also for pairs of 1:10.
    #[arg(long, value_name = "MS", default_values_t = [20.0, 100.0])]
    pub rtt_ms: Vec<f64>,
    /// The newcomer starts so many seconds after the first.
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub stagger: u32,
    /// So many seconds after the newcomer's start are left out.
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub skip: u32,
    /// So many seconds are measured.
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub seconds: u32,
    /// Only cases whose name contains this, such as "TCP cubic" or "low beside".
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// How the engine receives: auto, driver, generic or off.
    #[arg(long, default_value = "auto", value_parser = ["auto", "driver", "generic", "off"])]
    pub xdp: String,
}

/// All cases.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    command: &'static str,
    rate_bps: u64,
    queue_ms: u32,
    queue_bytes: u64,
    stagger_s: u32,
    skip_s: u32,
    seconds: u32,
    kernel: String,
    xdp_mode: Value,
    congestion_controls: String,
    /// What happened.
    pub cases: Vec<Outcome>,
    skipped: Vec<String>,
}

/// Measures, prints and writes.
///
/// # Errors
/// When the testbed does not come up, or Ctrl-C was pressed. A bar that is missed is a finding, not an error.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<Report> {
    let chosen = cases(&arguments.rtt_ms, arguments.only.as_deref());
    ensure!(!chosen.is_empty(), "no case is left; names look like 'low beside TCP cubic, 20 ms'");
    ensure!(arguments.rate_mbps > 0 && arguments.seconds > 0, "--rate-mbps and --seconds must be above 0");
    let rate_bps = u64::from(arguments.rate_mbps) * 1_000_000;
    let options = TestbedOptions { management: true, in_memory: true, ..TestbedOptions::default() };
    let mut testbed = Testbed::without_link("twfair", &options, interrupt)?;
    let xdp = ["auto", "driver", "generic", "off"].into_iter().find(|&mode| mode == arguments.xdp).unwrap_or("auto");
    let server = Server::start_local(&testbed, &ServerOptions { xdp, ..ServerOptions::default() })?;
    let mut report = Report {
        command: "fairness",
        rate_bps,
        queue_ms: arguments.queue_ms,
        queue_bytes: rate_bps * u64::from(arguments.queue_ms) / 8000,
        stagger_s: arguments.stagger,
        skip_s: arguments.skip,
        seconds: arguments.seconds,
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        xdp_mode: health(&testbed)?["engine"]["xdp"]["mode"].clone(),
        congestion_controls: tcp::available(),
        cases: Vec::new(),
        skipped: Vec::new(),
    };
    head(&report);
    for case in chosen {
        if let Some(algorithm) = [case.first, case.newcomer].iter().find_map(|party| match party {
            Party::Tcp(algorithm) if !tcp::has(algorithm) => Some(*algorithm),
            _ => None,
        }) {
            let reason = format!("{}: the kernel has no TCP {algorithm}; `modprobe tcp_{algorithm}` may load it", case.name);
            println!("SKIP: {reason}");
            report.skipped.push(reason);
            continue;
        }
        let outcome = measure::case(&mut testbed, &case, &report)?;
        row(&outcome);
        report.cases.push(outcome);
    }
    drop(server);
    if let Some(file) = &arguments.json {
        crate::write_json(file, &report)?;
    }
    Ok(report)
}

fn head(report: &Report) {
    println!(
        "Two flows on one link of {} Mbit/s with a queue of {} ms, the newcomer {} s after the first; shares of the link over {} s, from {} s\n\
         after the newcomer's start, counted behind the bottleneck. Receiving by AF_XDP {}.",
        report.rate_bps / 1_000_000,
        report.queue_ms,
        report.stagger_s,
        report.seconds,
        report.skip_s,
        report.xdp_mode.as_str().unwrap_or("unknown")
    );
    println!();
    println!(
        "{:<34} {:>7} {:>9} {:>7} {:>6} {:>7} {:>7}  bar",
        "newcomer beside first, RTT", "first %", "newcomer%", "ratio", "Jain", "q50 ms", "q95 ms"
    );
}

fn row(outcome: &Outcome) {
    let verdict = match outcome.bar_met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "",
    };
    let validity = if outcome.valid { String::new() } else { format!("  INVALID after {} runs, do not use", outcome.attempts) };
    println!(
        "{:<34} {:>7.1} {:>9.1} {:>7.2} {:>6.3} {:>7.1} {:>7.1}  {} {verdict}{validity}",
        outcome.case.name,
        outcome.shares[0] * 100.0,
        outcome.shares[1] * 100.0,
        outcome.ratio,
        outcome.jain,
        outcome.queue_ms_p50,
        outcome.queue_ms_p95,
        outcome.bar_text
    );
    for problem in &outcome.problems {
        println!("    {}", problem.replace('\n', "\n    "));
    }
}
