//! `cargo xtask sim`: random worlds in the seeded simulator.

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
    process::become_command(sim.args(&arguments.rest))
}
