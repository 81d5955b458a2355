//! `cargo xtask demo`: the main job, end to end, on this machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{cargo, process, setup};

/// The demo and the programs that it starts. One build for all: cargo shares what they have in common.
const PROGRAMS: [&str; 5] = ["tradewind-demo", "tradewindd", "tradewind-engine", "tradewind", "tradewind-netem"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write the report as one JSON object to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Another scenario than RTT 100 ms, 5 % loss each way, 300 Mbit/s
    #[arg(long, value_name = "FILE.toml")]
    scenario: Option<PathBuf>,
    /// Size of the file to send, bytes
    #[arg(long, value_name = "BYTES")]
    size: Option<u64>,
    /// Further arguments for tradewind-demo
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let mut build = cargo::cargo();
    build.args(["build", "--release"]);
    for program in PROGRAMS {
        build.args(["--bin", program]);
    }
    process::run(&mut build)?;
    let directory = cargo::workspace()?.target_directory.join("release");
    let mut demo = Command::new(directory.join("tradewind-demo"));
    demo.current_dir(cargo::root()).env("TRADEWIND_BIN_DIR", &directory);
    process::without_store_variables(&mut demo);
    // The demo runs in the workspace's root; paths are the caller's.
    if let Some(file) = &arguments.json {
        demo.arg("--json").arg(std::path::absolute(file)?);
    }
    if let Some(file) = &arguments.scenario {
        demo.arg("--scenario").arg(std::path::absolute(file)?);
    }
    if let Some(bytes) = arguments.size {
        demo.arg("--size").arg(bytes.to_string());
    }
    demo.args(&arguments.rest);
    setup::point_to_programs(&mut demo)?;
    process::become_command(&mut demo)
}
