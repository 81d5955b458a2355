//! `cargo xtask bench`: the benchmark harness.

use anyhow::Result;

use crate::{cargo, process, setup};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments for the harness
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let mut bench = cargo::cargo();
    bench.args(["run", "--release", "--package", "tradewind-bench", "--bin", "tradewind-bench", "--"]);
    bench.args(&arguments.rest);
    setup::point_to_programs(&mut bench)?;
    process::become_command(&mut bench)
}
