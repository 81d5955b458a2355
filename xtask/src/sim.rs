//! `cargo xtask sim`: random worlds, grids and checks in the seeded simulator.

use std::path::PathBuf;

use anyhow::Result;

use crate::{cargo, process};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many worlds
    #[arg(long, value_name = "N", default_value_t = 200)]
    seeds: u64,
    /// The first world's seed; a failing world names its own
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// A grid of cells instead of random worlds: `table1`, or RATE_MBPS,RTT_MS,LOSS,QUEUE_MS, each a list with `/`
    #[arg(long, value_name = "GRID")]
    grid: Option<String>,
    /// Checks of rate control instead: `all`, or names of groups
    #[arg(long, value_name = "GROUP", num_args = 1..)]
    checks: Vec<String>,
    /// With --grid or --checks: write the figures as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// With --grid: write a heat map as HTML to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Further arguments for the simulator
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut sim = cargo::cargo();
    sim.args(["run", "--release", "--package", "tradewind-sim", "--", "--seeds", &arguments.seeds.to_string()]);
    if let Some(seed) = arguments.seed {
        sim.args(["--seed", &seed.to_string()]);
    }
    if let Some(grid) = &arguments.grid {
        sim.args(["--grid", grid]);
    }
    if !arguments.checks.is_empty() {
        sim.arg("--checks").args(&arguments.checks);
    }
    for (option, file) in [("--json", &arguments.json), ("--html", &arguments.html)] {
        // The simulator runs in the workspace's root; paths are the caller's.
        if let Some(file) = file {
            sim.arg(option).arg(std::path::absolute(file)?);
        }
    }
    process::become_command(sim.args(&arguments.rest))
}
