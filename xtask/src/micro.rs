//! `cargo xtask bench micro`, and the step of `cargo xtask test` that keeps what it found: instructions and allocations of the micro-workloads
//! (package tradewind-micro) are compared with those of `bench/micro/baseline.json`.

mod baseline;
mod callgrind;
mod criterion;
mod made_with;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;

use crate::setup;
use baseline::Baseline;
use callgrind::{Counts, Runner, Workload};
use criterion::Time;
use made_with::MadeWith;

/// The package, and what the step of `cargo xtask test` is called.
pub(crate) const PACKAGE: &str = "tradewind-micro";

#[derive(Parser)]
#[command(name = "cargo xtask bench micro", about = "Time, instructions and allocations of single steps of the packet path")]
struct Arguments {
    /// Only workloads whose name contains this
    filter: Option<String>,
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Take what is counted now as what `cargo xtask test` compares with; nothing is timed
    #[arg(long)]
    accept: bool,
}

/// What the JSON report holds of a workload. Times in nanoseconds; all figures are of one operation.
#[derive(Serialize)]
struct Row {
    name: String,
    operation: String,
    ns_per_op: f64,
    /// Bounds of the median's 95 % confidence interval (criterion's bootstrap).
    ns_per_op_low: f64,
    ns_per_op_high: f64,
    allocations_per_op: f64,
    allocated_bytes_per_op: f64,
    /// `None` where valgrind is missing.
    instructions_per_op: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    made_with: MadeWith,
    workloads: Vec<Row>,
}

/// The benchmark: `words` are what stands behind `micro`.
pub(crate) fn bench(words: &[String]) -> Result<()> {
    let words = std::iter::once("micro").chain(words.iter().map(String::as_str));
    let arguments = Arguments::parse_from(words);
    setup::run()?;
    let runner = Runner::build()?;
    let filter = arguments.filter.as_deref();
    let workloads: Vec<Workload> =
        runner.list()?.into_iter().filter(|workload| filter.is_none_or(|filter| workload.name.contains(filter))).collect();
    ensure!(!workloads.is_empty(), "no workload's name contains {}", filter.unwrap_or_default());
    let made_with = MadeWith::here()?;
    let counts = runner.count(&workloads, made_with.valgrind.is_some())?;
    if arguments.accept {
        return accept(filter, &workloads, &counts, made_with);
    }
    let times = criterion::run(filter, &workloads)?;
    let rows: Vec<Row> = workloads.iter().zip(&counts).zip(&times).map(|((workload, counts), time)| row(workload, counts, time)).collect();
    print(&rows);
    if let Some(file) = &arguments.json {
        let report = serde_json::to_string_pretty(&Report { made_with, workloads: rows })?;
        std::fs::write(file, report + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn row(workload: &Workload, counts: &Counts, time: &Time) -> Row {
    let operations = counts.operations_per_run();
    Row {
        name: workload.name.clone(),
        operation: workload.operation.clone(),
        ns_per_op: time.median_ns / operations,
        ns_per_op_low: time.low_ns / operations,
        ns_per_op_high: time.high_ns / operations,
        allocations_per_op: counts.allocations_per_op(),
        allocated_bytes_per_op: counts.allocated_bytes_per_op(),
        instructions_per_op: counts.instructions_per_op(),
    }
}

fn print(rows: &[Row]) {
    println!("\n{:<24} {:>12} {:>25} {:>14} {:>10} {:>12}", "", "ns/op", "95 % of the median", "instructions", "allocs", "bytes");
    for row in rows {
        let interval = format!("{:.1} to {:.1}", row.ns_per_op_low, row.ns_per_op_high);
        let instructions = row.instructions_per_op.map_or_else(|| String::from("no valgrind"), |count| format!("{count:.1}"));
        let allocations = format!("{:.2}", row.allocations_per_op);
        let bytes = format!("{:.1}", row.allocated_bytes_per_op);
        println!("{:<24} {:>12.1} {interval:>25} {instructions:>14} {allocations:>10} {bytes:>12}", row.name, row.ns_per_op);
    }
}

fn accept(filter: Option<&str>, workloads: &[Workload], counts: &[Counts], made_with: MadeWith) -> Result<()> {
    for (workload, counts) in workloads.iter().zip(counts) {
        ensure!(
            !workload.is_per_packet || counts.allocations == 0,
            "{} stands for what happens once per packet and must not allocate, but {} runs did {} times: that is not accepted",
            workload.name,
            counts.runs,
            counts.allocations
        );
    }
    let before = Baseline::load().ok();
    let accepted = Baseline::new(before.as_ref().filter(|_| filter.is_some()), workloads, counts, made_with)?;
    for line in accepted.changes(before.as_ref()) {
        println!("{line}");
    }
    accepted.save()?;
    println!("{} is written; commit it", baseline::FILE);
    Ok(())
}

/// What the comparison found.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// Workloads that are as they were.
    pub(crate) passed: u64,
    /// What is not as it was, and what to do, a text for each workload.
    pub(crate) failures: Vec<String>,
    /// Why something could not be compared.
    pub(crate) skip: Option<String>,
}

/// Compares with the baseline and prints the figures.
pub(crate) fn compare() -> Result<Verdict> {
    let baseline = Baseline::load()?;
    let made_with = MadeWith::here()?;
    let skip = baseline.made_with.not_comparable(&made_with);
    let runner = Runner::build()?;
    let workloads = runner.list()?;
    // Allocations are the same on every machine.
    let counts = runner.count(&workloads, skip.is_none())?;
    let mut verdict = baseline.compare(&workloads, &counts, &made_with);
    verdict.skip = skip.map(|why| format!("{PACKAGE}: instructions are not compared, only allocations: {why}"));
    Ok(verdict)
}
