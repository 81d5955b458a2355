//! `tradewind-bench`: the benchmarks. Run it as `cargo xtask bench`.
#![forbid(unsafe_code)]

mod crypto;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tradewind_bench::process::Interrupt;
use tradewind_bench::{all, cells, dataplane, fairness, kill_resume, scale, small_files, staging, storage, stores, wan};

/// Measures Tradewind on this machine.
#[derive(Debug, Parser)]
#[command(name = "tradewind-bench")]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The benchmarks of speed one after the other, with one page for all of them.
    All(all::Arguments),
    /// What sealing and opening packets costs (the default).
    Crypto,
    /// Paths of the grid of bandwidth, round-trip time, loss and queue: real processes over the emulated WAN beside the simulator.
    Cells(cells::Arguments),
    /// Client to engine without storage, by the kernel's sockets and by AF_XDP, beside bare loops over the same links.
    Dataplane(dataplane::Arguments),
    /// A file over long and lossy paths, beside the tools that users would take instead.
    Wan(wan::Arguments),
    /// One end of a bare loop; the dataplane benchmark starts it.
    #[command(hide = true)]
    Loop(dataplane::LoopArguments),
    /// Two flows at one bottleneck: two of ours, ours beside the kernel's CUBIC and BBR.
    Fairness(fairness::Arguments),
    /// Many transfers at the same time, many that arrive at once, and many one after the other.
    Scale(scale::Arguments),
    /// One process with many uploads; the scale benchmark starts it.
    #[command(hide = true)]
    Load(scale::LoadArguments),
    /// Many small files into a local store: files a second, and memory.
    SmallFiles(small_files::Arguments),
    /// Blocks that wait on a disk: written and read back, beside fio.
    Staging(staging::Arguments),
    /// Blocks to a store by the engine's uploader, beside s5cmd, rclone and the AWS CLI.
    Storage(storage::Arguments),
    /// The test stores: each is started once, or all are kept running.
    Stores(stores::Arguments),
    /// Client, control process and engine are killed at random moments; every transfer goes on and arrives byte-equal.
    KillResume(kill_resume::Arguments),
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        None | Some(What::Crypto) => crypto::run(),
        Some(What::All(arguments)) => all::run(arguments, &Interrupt::watch()?)?,
        Some(What::Cells(arguments)) => drop(cells::run(arguments, &Interrupt::watch()?)?),
        Some(What::Dataplane(arguments)) => drop(dataplane::run(arguments, &Interrupt::watch()?)?),
        Some(What::Wan(arguments)) => drop(wan::run(arguments, &Interrupt::watch()?)?),
        Some(What::Loop(arguments)) => dataplane::run_loop(arguments)?,
        Some(What::Scale(arguments)) => scale::run(arguments, &Interrupt::watch()?)?,
        Some(What::Load(arguments)) => scale::run_load(arguments)?,
        Some(What::SmallFiles(arguments)) => drop(small_files::run(arguments, &Interrupt::watch()?)?),
        Some(What::Staging(arguments)) => drop(staging::run(arguments, &Interrupt::watch()?)?),
        Some(What::Storage(arguments)) => drop(storage::run(arguments, &Interrupt::watch()?)?),
        Some(What::Stores(arguments)) => stores::run(arguments, &Interrupt::watch()?)?,
        Some(What::KillResume(arguments)) => {
            kill_resume::run(arguments, &Interrupt::watch()?)?;
        }
        Some(What::Fairness(arguments)) => drop(fairness::run(arguments, &Interrupt::watch()?)?),
    }
    Ok(())
}
