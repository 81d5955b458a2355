//! `cargo xtask bench cells`: cells of the grid of bandwidth, round-trip time, loss and queue, each played twice: by the real client,
//! control process and engine across the emulated WAN, and by the simulator. Where the two differ by more than [`AGREEMENT`], one of them
//! is wrong, and the table says so.
//!
//! A run counts only if the emulator calls it valid; it is repeated up to [`REPEATS`] times otherwise, then shown as invalid.
//! The destination is the server's local store in memory. Control traffic takes a path of its own with the same delays and no loss, so
//! set-up does not cost minutes; goodput counts from the first packet anyway. Loss is independent and the same in both directions.
//! One run with one seed stands for a cell. With random loss a difference may be luck, so where the two disagree the simulator plays
//! other seeds too, and its spread stands in the note.
//!
//! JSON (`--json FILE`): one object.
//! - `command`: name, `seconds` asked for; `kernel`, `mtu_bytes`, `payload_share` of a frame, `xdp_mode`, `agreement` (a share);
//! - `cells`: an array, one object a cell: `name`, the cell (`rate_bps`, `rtt_ms`, `loss` in each direction, `queue_ms` asked for),
//!   `queue_bytes` in force, `seed`, `file_bytes`, `bound_bps`, `attempts`, `valid`, `problems` (why not), `failures` (of a transfer, over the link or in
//!   the simulator; then `emulated` or `simulated` is null), `emulated` and `simulated`
//!   (each null or [`Figures`]), `simulated_rtt_ms`, `emulated_over_simulated`, `disagrees`,
//!   `simulated_spread_bps` (least and largest over ten seeds, where they disagree and the file is at most 64 MiB), and, from the last run: `client` (the event
//!   `done`), `client_progress`, `set_up_s` (the command's time beside the transfer), `emulator` (its statistics);
//! - `not_run`: names of cells for which the time was too short.

mod grid;
mod measure;
mod table;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

pub use grid::{CELLS, Cell, MTU_BYTES, choose, payload_share};

use crate::process::Interrupt;
use crate::testbed::{Server, ServerOptions, Testbed, TestbedOptions, health};

/// Relative difference of goodput from which emulator and simulator disagree.
pub const AGREEMENT: f64 = 0.05;
/// How often a run that is not valid is repeated.
pub const REPEATS: u32 = 2;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Write the report as one JSON object to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Measure only so many cells, spread over the list.
    #[arg(long, value_name = "N")]
    pub cells: Option<usize>,
    /// Length of each transfer if it reached its bound; 30 round trips if those are longer.
    #[arg(long, value_name = "S", default_value_t = 12.0, value_parser = positive)]
    pub seconds: f64,
    /// Only cells whose name contains this, such as 155M/ or /300ms/.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Begin no further cell after so many minutes.
    #[arg(long, value_name = "MINUTES", default_value_t = 25.0, value_parser = positive)]
    pub minutes: f64,
    /// How the engine receives: auto, driver, generic or off.
    #[arg(long, default_value = "auto", value_parser = ["auto", "driver", "generic", "off"])]
    pub xdp: String,
    /// Only print the chosen cells.
    #[arg(long)]
    pub list: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("it must be a number above 0".to_owned()),
    }
}

/// What one player made of a cell.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// First packet to the receiver's word that all is durable, as the sender hears it, seconds.
    pub elapsed_s: f64,
    /// File bits over that time.
    pub goodput_bps: f64,
    /// Goodput over rate × (1 − loss) × payload share.
    pub goodput_over_bound: f64,
    /// Queue that packets found at the forward bottleneck, the frame being sent counted whole: median, ms.
    pub queue_ms_p50: f64,
    /// The same, 95th percentile, ms.
    pub queue_ms_p95: f64,
    /// Packets that found it full.
    pub queue_drops: u64,
    /// IP bytes that the sender sent over those that each payload byte needs once.
    pub sent_over_needed: f64,
    /// The same × (1 − loss) − 1: what was sent beyond what the loss makes anybody send. 0 is perfect.
    pub waste: f64,
    /// IP bytes of the way back over IP bytes of the way there.
    pub feedback_share: f64,
    /// DATA packets sent again over all DATA packets.
    pub retransmitted_share: f64,
}

/// One cell, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The cell's name.
    pub name: String,
    /// The cell.
    #[serde(flatten)]
    pub cell: Cell,
    /// The queue in force, bytes of frames.
    pub queue_bytes: u64,
    /// Seed of the losses, in both.
    pub seed: u64,
    /// Bytes sent.
    pub file_bytes: u64,
    /// Rate × (1 − loss) × payload share.
    pub bound_bps: f64,
    /// Runs over the emulator.
    pub attempts: u32,
    /// Whether the last of them may be used.
    pub valid: bool,
    /// Why not.
    pub problems: Vec<String>,
    /// Why there are no figures: a transfer that failed over a valid link, or in the simulator, is a finding and not repeated.
    pub failures: Vec<String>,
    /// By real processes over the emulated WAN.
    pub emulated: Option<Figures>,
    /// By the simulator.
    pub simulated: Option<Figures>,
    /// Round-trip time given to the simulator: the cell's, or what the client measured at least where the cell has 0.
    pub simulated_rtt_ms: f64,
    /// Goodput over goodput.
    pub emulated_over_simulated: Option<f64>,
    /// Where they disagree and the transfer is short: least and largest goodput of the simulator over ten seeds, bit/s. An emulated figure
    /// within it may be luck.
    pub simulated_spread_bps: Option<[f64; 2]>,
    /// The run is valid, and they differ by more than [`AGREEMENT`], or one of them failed.
    pub disagrees: bool,
    /// The client's event `done`.
    pub client: Value,
    /// The client's events `progress`.
    pub client_progress: Vec<Value>,
    /// The command's time beside the transfer: set-up and the server's last word.
    pub set_up_s: f64,
    /// The emulator's statistics.
    pub emulator: Value,
}

/// All cells.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    command: &'static str,
    seconds: f64,
    kernel: String,
    mtu_bytes: u32,
    payload_share: f64,
    xdp_mode: Value,
    agreement: f64,
    /// The cells.
    pub cells: Vec<Row>,
    not_run: Vec<String>,
}

/// Measures, prints and writes.
///
/// # Errors
/// When the testbed does not come up, or Ctrl-C was pressed. A cell that fails is a finding, not an error.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<Report> {
    let chosen = choose(arguments.cells, arguments.only.as_deref())?;
    if arguments.list {
        for (_, cell) in &chosen {
            println!("{:<22} {:>7.1} s, {:>11} bytes", cell.name(), cell.seconds(arguments.seconds), cell.file_bytes(arguments.seconds));
        }
    }
    let mut report = Report {
        command: "cells",
        seconds: arguments.seconds,
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        mtu_bytes: MTU_BYTES,
        payload_share: payload_share(),
        xdp_mode: Value::Null,
        agreement: AGREEMENT,
        cells: Vec::new(),
        not_run: Vec::new(),
    };
    if arguments.list {
        return Ok(report);
    }
    let (started, limit) = (Instant::now(), Duration::from_secs_f64(arguments.minutes * 60.0));
    let options = TestbedOptions { mtu_bytes: MTU_BYTES, management: true, in_memory: true, ..TestbedOptions::default() };
    let mut testbed = Testbed::without_link("twcells", &options, interrupt)?;
    let xdp = ["auto", "driver", "generic", "off"].into_iter().find(|&mode| mode == arguments.xdp).unwrap_or("auto");
    let server = Server::start_local(&testbed, &ServerOptions { xdp, ..ServerOptions::default() })?;
    report.xdp_mode = health(&testbed)?["engine"]["xdp"]["mode"].clone();
    table::head(&report.xdp_mode);
    for (index, cell) in chosen {
        if started.elapsed() > limit {
            report.not_run.push(cell.name());
            continue;
        }
        let row = measure::cell(&mut testbed, &cell, index as u64 + 1, arguments.seconds)?;
        table::row(&row);
        report.cells.push(row);
    }
    drop(server);
    table::foot(&report, started.elapsed());
    if let Some(file) = &arguments.json {
        crate::write_json(file, &report)?;
    }
    Ok(report)
}
