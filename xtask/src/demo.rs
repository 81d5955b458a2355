//! `cargo xtask demo`: the main job, end to end, on this machine.

use std::path::PathBuf;

use anyhow::Result;

use crate::{cargo, process, setup};

/// The programs that the demo starts.
const PROGRAMS: [&str; 4] = ["tradewindd", "tradewind-engine", "tradewind", "tradewind-netem"];

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
    let mut demo = cargo::cargo();
    demo.args(["run", "--release", "--package", "tradewind-bench", "--bin", "tradewind-demo", "--"]);
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
