//! Runs one micro-workload and counts: `tradewind-micro count NAME RUNS` prints its operations and what they allocated, as JSON. Under
//! `valgrind --tool=callgrind --instr-atstart=no` the counted runs, and nothing else, are instrumented, so that callgrind's total is theirs.
//! `tradewind-micro list` prints what there is.

#[path = "../../../dataplane/proto/tests/common/counting.rs"]
mod counting;
mod valgrind;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tradewind_micro::{ALL, find};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["list"] => list(),
        ["count", name, runs] => count(name, runs),
        _ => Err(anyhow::anyhow!("usage: tradewind-micro list | tradewind-micro count NAME RUNS")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tradewind-micro: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> Result<()> {
    let row =
        |entry: &tradewind_micro::Entry| json!({ "name": entry.name, "operation": entry.operation, "is_per_packet": entry.is_per_packet });
    println!("{}", serde_json::to_string(&ALL.iter().map(row).collect::<Vec<_>>())?);
    Ok(())
}

fn count(name: &str, runs: &str) -> Result<()> {
    let runs: u64 = runs.parse().with_context(|| format!("{runs} is no number of runs"))?;
    if runs == 0 {
        bail!("no runs, nothing counted");
    }
    let entry = find(name)?;
    let mut workload = entry.make()?;
    let (mut calls, mut bytes) = (0, 0);
    for _ in 0..runs {
        entry.run(workload.as_mut(), |workload| {
            let before = (counting::calls(), counting::requested_bytes());
            valgrind::start();
            let result = workload.run();
            valgrind::stop();
            calls += counting::calls() - before.0;
            bytes += counting::requested_bytes() - before.1;
            result
        })?;
    }
    let operations = runs * workload.operations();
    println!("{}", json!({ "name": name, "operations": operations, "allocations": calls, "allocated_bytes": bytes }));
    Ok(())
}
