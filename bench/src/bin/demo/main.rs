//! `tradewind-demo`: one file across a lossy ocean into a bucket, through AF_XDP. Run it as `cargo xtask demo`.
#![forbid(unsafe_code)]

mod report;
mod tcp;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::Value;
use tradewind_bench::process::{Finished, Interrupt, run};
use tradewind_bench::testbed::{BUCKET, Server, ServerOptions, Store, Testbed, events, health, sha256_of_file, write_random};
use tradewind_bench::write_json;
use tradewind_netem::Scenario;

use report::Report;

const MTU_BYTES: u32 = 1500;
const SCENARIO: &str = include_str!("../../../../netem-scenarios/scenarios/demo.toml");

/// Sends a file from one network namespace over an emulated WAN into an S3 bucket, and the same by TCP.
#[derive(Debug, Parser)]
#[command(name = "tradewind-demo")]
struct Arguments {
    /// Write the report as one JSON object to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Scenario of the WAN; default: RTT 100 ms, 5 % loss each way, 300 Mbit/s.
    #[arg(long)]
    scenario: Option<PathBuf>,
    /// Size of the file, bytes.
    #[arg(long, default_value_t = 256 << 20)]
    size: u64,
    /// How the engine receives: auto, driver, generic or off.
    #[arg(long, default_value = "auto", value_parser = ["auto", "driver", "generic", "off"])]
    xdp: String,
    /// Leave the comparison with TCP out.
    #[arg(long)]
    no_tcp: bool,
}

fn main() -> ExitCode {
    match demo(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &Arguments) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let scenario = match &arguments.scenario {
        Some(file) => Scenario::load(file)?,
        None => Scenario::from_toml(SCENARIO)?,
    };
    let xdp = ["auto", "driver", "generic", "off"].into_iter().find(|&mode| mode == arguments.xdp).unwrap_or("auto");
    println!("scenario {}: RTT {} ms; file of {} bytes", scenario.name(), scenario.rtt_ms(), arguments.size);
    let mut testbed = Testbed::new("twdemo", &scenario, MTU_BYTES, &interrupt)?;
    println!("three namespaces and the emulated WAN are up; starting the S3 server (SeaweedFS) and tradewindd");
    let store = Store::start(&testbed)?;
    let server = Server::start(&testbed, &store, &ServerOptions { xdp, ..ServerOptions::default() })?;
    let xdp_status = health(&testbed)?["engine"]["xdp"].clone();
    let source = testbed.path("demo.bin");
    write_random(&source, arguments.size)?;

    println!("sending by tradewind");
    let server_cpu_before = server.cpu_s();
    let sent = send(&testbed, &source, &interrupt)?;
    let server_cpu_s = server.cpu_s() - server_cpu_before;
    let done = done_event(&sent)?;
    println!("fetching the object with s5cmd and comparing SHA-256");
    let sha256_match = store.sha256(&testbed, "demo.bin")? == sha256_of_file(&source)?;

    let tcp = if arguments.no_tcp { None } else { Some(tcp::compare(&testbed, &store)?) };
    drop(server);
    drop(store);
    let emulator = testbed.stop_emulator()?;
    let report = Report::new(&scenario, arguments.size, &done, &sent, server_cpu_s, &xdp_status, sha256_match, tcp, &emulator)?;
    report.print();
    if let Some(file) = &arguments.json {
        write_json(file, &report)?;
    }
    report.verdict()
}

fn send(testbed: &Testbed, source: &Path, interrupt: &Interrupt) -> Result<Finished> {
    let mut command = Server::tradewind(testbed);
    command.arg("send").arg(source).arg(format!("s3://{BUCKET}/demo.bin")).args(["--json", "--overwrite"]);
    let sent = run(&mut command, interrupt, Duration::from_secs(1800))?;
    if let Err(error) = sent.success("tradewind send") {
        let log = std::fs::read_to_string(testbed.path("tradewindd.log")).unwrap_or_default();
        bail!("{error:#}\nthe server's log ends:\n{}", tradewind_bench::process::tail(&log));
    }
    Ok(sent)
}

/// The last event that `tradewind send --json` wrote.
fn done_event(sent: &Finished) -> Result<Value> {
    events(&sent.stdout, "done").pop().context("tradewind send wrote no event 'done'")
}
