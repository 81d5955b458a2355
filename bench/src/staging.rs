//! `cargo xtask bench staging`: blocks to a disk and back by the staging of the engine, beside fio on the same disk in the same run.
//!
//! Each writes the same number of bytes once with O_DIRECT, 1 MiB at a time and 32 at once, into room that was taken before, and reads them
//! back; ours also computes a checksum of each block, and again when it comes back. In turns, so that both see the same machine; the medians
//! are reported. `--json FILE`: `gib_per_s`, `cpu_s_per_gib` for writing and reading (`rows`, one for each tool and direction), and
//! `staging_over_fio` for both directions, and `warnings`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;
use tradewind_fabric::BlockPool;
use tradewind_staging::{Done, Outcome, Ring, Staged, Staging, StagingConfig};

use crate::process::{Interrupt, tree_cpu_s};
use crate::{median, sound, spread};

const BLOCK: usize = 1 << 20;
const DEPTH: usize = 32;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Directory on the disk that is to be measured.
    #[arg(long, default_value = "target")]
    pub directory: PathBuf,
    /// MiB that go there and come back, in each turn.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..))]
    pub mib: u32,
    /// Turns of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub turns: u32,
    /// Write the report as one JSON object to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// One tool in one direction.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    tool: &'static str,
    direction: &'static str,
    /// Median of the turns.
    pub gib_per_s: f64,
    /// Median of the turns; user and system time of this process, or of fio's.
    cpu_s_per_gib: f64,
    turns: Vec<f64>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    command: &'static str,
    mib: u32,
    /// Ours over fio's, writing and reading.
    pub staging_over_fio: [f64; 2],
    /// Each tool, each direction.
    pub rows: Vec<Row>,
    /// What makes figures unsound.
    pub warnings: Vec<String>,
}

/// Seconds, and CPU seconds.
type Turn = (f64, f64);

/// Measures, prints and writes.
///
/// # Errors
/// No fio, no io_uring, a directory that will not do.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<Report> {
    std::fs::create_dir_all(&arguments.directory)?;
    let folder = tempfile::tempdir_in(&arguments.directory)?;
    ensure!(Command::new("fio").arg("--version").output().is_ok(), "fio is not installed: apt-get install -y fio");
    let names = [("staging", "write"), ("staging", "read"), ("fio", "write"), ("fio", "read")];
    let mut turns: [Vec<Turn>; 4] = Default::default();
    for _ in 0..arguments.turns {
        interrupt.check()?;
        let ours = staging(folder.path(), arguments.mib)?;
        let theirs = [fio(folder.path(), arguments.mib, "write")?, fio(folder.path(), arguments.mib, "read")?];
        for (turns, turn) in turns.iter_mut().zip(ours.into_iter().chain(theirs)) {
            turns.push(turn);
        }
    }
    let gib = f64::from(arguments.mib) / 1024.0;
    let rows: Vec<Row> = names
        .into_iter()
        .zip(&turns)
        .map(|((tool, direction), turns)| Row {
            tool,
            direction,
            gib_per_s: gib / median(turns.iter().map(|turn| turn.0)),
            cpu_s_per_gib: median(turns.iter().map(|turn| turn.1)) / gib,
            turns: turns.iter().map(|turn| gib / turn.0).collect(),
        })
        .collect();
    println!("tool      direction    GiB/s   CPU s/GiB   turns");
    for row in &rows {
        let turns: Vec<String> = row.turns.iter().map(|turn| format!("{turn:.2}")).collect();
        println!("{:<9} {:<9} {:>8.2} {:>11.3}   {}", row.tool, row.direction, row.gib_per_s, row.cpu_s_per_gib, turns.join(" "));
    }
    let over = |at: usize| rows[at].gib_per_s / rows[at + 2].gib_per_s;
    let what = |row: &Row| format!("{}, {}", row.tool, row.direction);
    let mut warnings: Vec<String> = rows.iter().filter_map(|row| sound::spread(&what(row), spread(row.turns.iter().copied()))).collect();
    warnings.extend(sound::turns(rows.iter().map(|row| row.turns.len())));
    warnings.iter().for_each(|warning| println!("unsound: {warning}"));
    let report = Report { command: "staging", mib: arguments.mib, staging_over_fio: [over(0), over(1)], rows: rows.clone(), warnings };
    println!("staging over fio: writing {:.3}, reading {:.3}", report.staging_over_fio[0], report.staging_over_fio[1]);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(report)
}

/// Blocks of the engine's size from a pool of its kind, [`DEPTH`] at once.
fn staging(folder: &Path, mib: u32) -> Result<[Turn; 2]> {
    let pool = BlockPool::new(2 * DEPTH, BLOCK)?;
    let config = StagingConfig { directories: vec![folder.to_owned()], bytes_max: u64::from(mib).next_multiple_of(256) << 20 };
    let staging = Staging::start(vec![Ring::new(&pool)?], &config)?;
    staging.reserve()?;
    // Contents do not matter to a disk, but pages that were never touched would be one page of zeros.
    let mut slots: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    for (number, slot) in slots.iter_mut().enumerate() {
        slot.fill(number as u8 + 1);
    }
    drop(slots);
    let (tell, told) = mpsc::channel();
    let mut places: Vec<Staged> = Vec::new();
    let put = |number: u32| {
        let (tell, slot) = (tell.clone(), pool.take().context("no slot")?);
        staging.put(number, slot.freeze(BLOCK), move |done| drop(tell.send(done)));
        anyhow::Ok(())
    };
    let written = measured(mib, &told, put, |outcome| {
        let Outcome::Written(place) = outcome else { bail!("a block was read that was to be written") };
        places.push(place);
        Ok(())
    })?;
    let mut places = places.into_iter();
    let get = |number: u32| {
        let (tell, slot) = (tell.clone(), pool.take().context("no slot")?);
        staging.get(number, places.next().context("no place")?, slot, move |done| drop(tell.send(done)));
        anyhow::Ok(())
    };
    let read = measured(mib, &told, get, |_| Ok(()))?;
    Ok([written, read])
}

/// Starts `count` requests, at most [`DEPTH`] at once, and waits for all.
fn measured(
    count: u32,
    told: &mpsc::Receiver<Done>,
    mut start: impl FnMut(u32) -> Result<()>,
    mut end: impl FnMut(Outcome) -> Result<()>,
) -> Result<Turn> {
    let (begun, cpu) = (Instant::now(), tree_cpu_s(std::process::id()));
    for number in 0..count + DEPTH as u32 {
        if number >= DEPTH as u32 {
            end(told.recv()?.result?)?;
        }
        if number < count {
            start(number)?;
        }
    }
    Ok((begun.elapsed().as_secs_f64(), tree_cpu_s(std::process::id()) - cpu))
}

/// fio, as its makers would measure a disk.
fn fio(folder: &Path, mib: u32, direction: &'static str) -> Result<Turn> {
    let mut command = Command::new("fio");
    command.args(["--name=staging", "--output-format=json", "--ioengine=io_uring", "--direct=1", "--bs=1M", "--fallocate=native"]);
    command.args([format!("--iodepth={DEPTH}"), format!("--rw={direction}"), format!("--size={mib}M"), "--invalidate=1".to_owned()]);
    command.arg(format!("--filename={}", folder.join("fio").display()));
    let output = command.output()?;
    ensure!(output.status.success(), "fio: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let job = &said["jobs"][0];
    let runtime_s = job[direction]["runtime"].as_f64().context("no runtime")? / 1000.0;
    let share = (job["usr_cpu"].as_f64().unwrap_or(0.0) + job["sys_cpu"].as_f64().unwrap_or(0.0)) / 100.0;
    Ok((runtime_s, runtime_s * share))
}
