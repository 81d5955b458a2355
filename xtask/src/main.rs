//! The verbs of daily work: `cargo xtask <verb>`. `.ci/run` and the README call the same ones.
#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod demo;
mod fuzz;
mod lint;
mod micro;
mod process;
mod setup;
mod sim;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The verbs of daily work on Tradewind", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and testing need; does nothing when all is there
    Setup(setup::Arguments),
    /// Move a file across an emulated lossy ocean into a real S3 server, and report
    Demo(demo::Arguments),
    /// Build and run the tests
    Test(test::Arguments),
    /// Check format, clippy and house style
    Lint,
    /// Run random worlds in the seeded simulator
    Sim(sim::Arguments),
    /// Run benchmarks; the arguments go to the harness
    Bench(bench::Arguments),
    /// Run the fuzz targets
    Fuzz(fuzz::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Setup(arguments) => setup::install(&arguments),
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Test(arguments) => test::run(&arguments),
        Verb::Lint => lint::run(),
        Verb::Sim(arguments) => sim::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Fuzz(arguments) => fuzz::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
