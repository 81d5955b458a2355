//! `tradewind-sim`: random worlds by seed, or one described world. See `cargo xtask sim`.
#![forbid(unsafe_code)]

mod command;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use tradewind_sim::{World, ideal_ms, run};

/// Runs the protocol in simulated worlds
#[derive(Parser)]
struct Arguments {
    /// How many random worlds
    #[arg(long, value_name = "N", default_value_t = 200)]
    seeds: u64,
    /// Seed of the first one
    #[arg(long, value_name = "S", default_value_t = 0)]
    start: u64,
    /// Print how each complete world compares with a perfect sender
    #[arg(long)]
    ratios: bool,
    /// Only this world
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Print every packet
    #[arg(long)]
    trace: bool,
    /// A described world: a file of key=value words, or the words themselves (repeatable)
    #[arg(long, value_name = "FILE|KEY=VALUE", num_args = 1..)]
    world: Vec<String>,
    /// Play a grid of cells instead: `table1`, or a cell as RATE_MBPS,RTT_MS,LOSS,QUEUE_MS (each may be several, with `/`)
    #[arg(long, value_name = "GRID")]
    grid: Option<String>,
    /// Play the checks of these groups, or `all`: start, pair, cubic, bbr, many, hosts, aqm, disorder, overdrive, reverse, change, tail, storage, policer
    #[arg(long, value_name = "GROUP", num_args = 1..)]
    checks: Vec<String>,
    /// With --grid or --checks: write the summary and a row for each cell as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// With --grid: write a heat map as HTML to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// With --grid: a transfer takes at least this many seconds at the bound
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    seconds: f64,
    /// With --grid: and at least this many round trips
    #[arg(long, value_name = "N", default_value_t = 150.0)]
    round_trips: f64,
    /// With --grid: packets of 9000 bytes from this rate on, Mbit/s
    #[arg(long, value_name = "MBPS", default_value_t = 3000.0)]
    jumbo_from: f64,
    /// With --grid: print every lane's state every so many ms
    #[arg(long, value_name = "MS", default_value_t = 0)]
    trace_ms: u64,
    /// With --world: print the received rate for every step of this many milliseconds
    #[arg(long, value_name = "MS")]
    timeline_ms: Option<u64>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if !arguments.world.is_empty() {
        described(&arguments)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.checks.is_empty() {
        return command::checks(&arguments);
    }
    if let Some(name) = &arguments.grid {
        command::grid(name, &arguments)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(seed) = arguments.seed {
        let world = World::draw(seed);
        println!("{world:#?}");
        return Ok(match run(&world, arguments.trace) {
            Ok(report) => {
                print!("{}", report.describe(&world));
                ExitCode::SUCCESS
            }
            Err(failure) => {
                println!("world {seed}: {failure}");
                ExitCode::FAILURE
            }
        });
    }
    let started = Instant::now();
    let (mut completed, mut bytes, mut packets, mut failed) = (0u64, 0u64, 0u64, 0u64);
    for seed in arguments.start..arguments.start + arguments.seeds {
        let world = World::draw(seed);
        match run(&world, arguments.trace) {
            Ok(report) => {
                completed += u64::from(report.completed);
                bytes += world.bytes;
                packets += report.forward_packets;
                if arguments.ratios && report.completed {
                    let took_ms = report.done_ns as f64 / 1e6;
                    println!("{:.2} times the ideal: world {seed}, {took_ms:.0} ms", took_ms / ideal_ms(&world));
                }
            }
            Err(failure) => {
                failed += 1;
                println!("world {seed}: {failure}\n  repeat it with: cargo xtask sim --seed {seed}");
            }
        }
    }
    let named = arguments.seeds - completed - failed;
    println!(
        "{} worlds: {completed} complete, {named} ended by name as they must, {failed} failed; {} MiB in {packets} packets; {:.1} s",
        arguments.seeds,
        bytes >> 20,
        started.elapsed().as_secs_f64()
    );
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn described(arguments: &Arguments) -> Result<()> {
    let mut text = String::new();
    for word in &arguments.world {
        if word.contains('=') {
            text.push_str(word);
        } else {
            text.push_str(&std::fs::read_to_string(word).with_context(|| format!("cannot read the world '{word}'"))?);
        }
        text.push('\n');
    }
    let world = World::parse(&text)?;
    let report = run(&world, arguments.trace)?;
    if let Some(step_ms) = arguments.timeline_ms {
        print!("{}", report.timeline(&world, step_ms));
    }
    print!("{}", report.describe(&world));
    Ok(())
}
