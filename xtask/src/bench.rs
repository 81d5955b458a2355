//! `cargo xtask bench`: the benchmark harness.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::Result;

use crate::{cargo, micro, process, setup};

/// The harness and the programs that it starts. One build for all: cargo shares what they have in common.
const PROGRAMS: [&str; 5] = ["tradewind-bench", "tradewindd", "tradewind-engine", "tradewind", "tradewind-netem"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure (crypto, micro, cells, fairness) and its options; `cargo xtask bench cells --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(rest) = arguments.rest.strip_prefix(&[String::from("micro")]) {
        return micro::bench(rest);
    }
    setup::run()?;
    run_with(&arguments.rest)
}

/// Builds and starts the harness where everything is set up.
pub(crate) fn run_with<S: AsRef<OsStr>>(arguments: &[S]) -> Result<()> {
    let mut build = cargo::cargo();
    build.args(["build", "--release"]);
    for program in PROGRAMS {
        build.args(["--bin", program]);
    }
    process::run(&mut build)?;
    let directory = cargo::workspace()?.target_directory.join("release");
    let mut bench = Command::new(directory.join("tradewind-bench"));
    bench.env("TRADEWIND_BIN_DIR", &directory).args(arguments);
    process::without_store_variables(&mut bench);
    setup::point_to_programs(&mut bench)?;
    process::become_command(&mut bench)
}
