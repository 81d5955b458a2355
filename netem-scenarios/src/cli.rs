//! The command line: `run`, `verify`, `generate`, `check` and the two halves of a probe.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tradewind_netem::emulator::{Emulator, EmulatorOptions};
use tradewind_netem::flows::FlowSpec;
use tradewind_netem::generate::{self, Kind};
use tradewind_netem::middlebox::{Middlebox, MtuStep};
use tradewind_netem::stats::{EmulatorStats, ValidityBounds};
use tradewind_netem::topology::ReadyFile;
use tradewind_netem::{Scenario, probe, tc, verify};

/// Network scenarios and the links that play them.
#[derive(Debug, Parser)]
#[command(name = "tradewind-netem", version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Play a scenario between two interfaces until SIGTERM or SIGINT. Run it inside the middle network namespace.
    Run(RunArguments),
    /// Build a path in namespaces, measure it with own probes, and compare it with the scenario. Exit 0: it is as it should be; 1: it is not.
    Verify(VerifyArguments),
    /// Print a scenario file of a variable link.
    Generate(GenerateArguments),
    /// Check scenario files and print what they say.
    Check {
        /// Scenario files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Send probe packets (used by `verify`).
    #[command(hide = true)]
    ProbeSend(probe::SendOptions),
    /// Receive probe packets until standard input ends (used by `verify`).
    #[command(hide = true)]
    ProbeReceive(probe::ReceiveOptions),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// `tc` where this kernel has what the scenario needs, else `own`.
    Auto,
    /// The kernel's netem, tbf and ifb.
    Tc,
    /// Our own emulator.
    Own,
}

#[derive(Debug, Args)]
struct RunArguments {
    /// Scenario file (TOML).
    #[arg(long)]
    scenario: PathBuf,
    /// Interface towards the client.
    #[arg(long)]
    left: String,
    /// Interface towards the server.
    #[arg(long)]
    right: String,
    /// Who delays and drops.
    #[arg(long, value_enum, default_value = "own")]
    backend: Backend,
    /// Write the statistics here, as JSON, at the end.
    #[arg(long)]
    stats_file: Option<PathBuf>,
    /// Write this file when packets can flow.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// Shortest sleep under load, in microseconds: less is more exact and costs more CPU.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    tick_us: u64,
    /// Frames in each receive ring.
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(32..=1_048_576))]
    ring_frames: u32,
    /// Most bytes of frames that each direction may hold.
    #[arg(long, default_value_t = 1 << 30)]
    store_bytes_max: u64,
    /// Do not ask for SCHED_FIFO.
    #[arg(long)]
    no_realtime: bool,
    /// A run whose release lateness passes this at the 99th percentile is invalid, in microseconds. Default: 1000, or 5 % of the delay.
    #[arg(long)]
    lateness_p99_us_max: Option<f64>,
    /// A run with one release later than this is invalid, in microseconds. Default: 20000, or half of the delay.
    #[arg(long)]
    lateness_us_max: Option<f64>,
    /// Keep an account of the packets whose client end has a UDP or TCP port in this range, and delay them by so much more each way
    /// (repeatable; with --backend own only).
    #[arg(long, value_name = "NAME:FIRST-LAST[:EXTRA_DELAY_MS]")]
    flow: Vec<FlowSpec>,
    /// So long after the start the client's UDP flows get other ports, as behind a NAT that has forgotten them (repeatable, ascending; IPv4; with
    /// --backend own only).
    #[arg(long, value_name = "MS")]
    rebind_ms: Vec<u64>,
    /// From so long after the start on, IP packets of more than so many bytes are lost without a word (repeatable, ascending; with --backend own
    /// only).
    #[arg(long, value_name = "MS:BYTES")]
    mtu: Vec<MtuStep>,
    /// End when this process is no longer the parent.
    #[arg(long)]
    parent_pid: Option<u32>,
}

#[derive(Debug, Args)]
struct VerifyArguments {
    /// Scenario file (TOML).
    #[arg(long)]
    scenario: PathBuf,
    /// Also write the result here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Who delays and drops.
    #[arg(long, value_enum, default_value = "own")]
    backend: Backend,
    /// MTU of the path in bytes.
    #[arg(long, default_value_t = 1500)]
    mtu_bytes: u32,
    /// Seconds of the quiet measurement (delay, jitter, loss).
    #[arg(long, default_value_t = 5.0)]
    quiet_seconds: f64,
    /// Seconds of overload per direction (rate, queue), after the queue has filled.
    #[arg(long, default_value_t = 2.0)]
    overload_seconds: f64,
}

#[derive(Debug, Args)]
struct GenerateArguments {
    /// What kind of link.
    #[arg(value_enum)]
    kind: GenerateKind,
    /// Seed: the same seed gives the same link.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Length of the trace in seconds, after which it repeats.
    #[arg(long, default_value_t = 120)]
    seconds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GenerateKind {
    /// A cellular link: rate by a Markov chain.
    Lte,
    /// A low-orbit satellite link: a new rate every 15 s, with short outages between.
    Leo,
    /// A geostationary satellite link.
    Geo,
}

pub(crate) fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Verb::Run(arguments) => run(&arguments),
        Verb::Verify(arguments) => run_verify(&arguments),
        Verb::Generate(arguments) => run_generate(&arguments),
        Verb::Check { files } => check(&files),
        Verb::ProbeSend(options) => probe::send(&options).map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Verb::ProbeReceive(options) => probe::receive(&options).map(|()| ExitCode::SUCCESS).map_err(Into::into),
    };
    result.unwrap_or_else(|error| {
        eprintln!("tradewind-netem: {error}");
        ExitCode::from(2)
    })
}

type AnyError = Box<dyn std::error::Error>;

fn run(arguments: &RunArguments) -> Result<ExitCode, AnyError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let scenario = Scenario::load(&arguments.scenario)?;
    let fitting = ValidityBounds::for_scenario(&scenario);
    let options = EmulatorOptions {
        tick: Duration::from_micros(arguments.tick_us),
        realtime: !arguments.no_realtime,
        ring_frames: arguments.ring_frames as usize,
        store_bytes_max: arguments.store_bytes_max,
        bounds: Some(ValidityBounds {
            lateness_p99_us_max: arguments.lateness_p99_us_max.unwrap_or(fitting.lateness_p99_us_max),
            lateness_us_max: arguments.lateness_us_max.unwrap_or(fitting.lateness_us_max),
        }),
        flows: arguments.flow.clone(),
        middlebox: Middlebox { rebind_ms: arguments.rebind_ms.clone(), mtu: arguments.mtu.clone() },
        parent_pid: arguments.parent_pid,
        ..EmulatorOptions::new(&arguments.left, &arguments.right)
    };
    let stats = match choose_backend(arguments.backend, &scenario, &options)? {
        Some(plan) => {
            let session = tc::Session::start(&scenario, &options, plan)?;
            write_ready(arguments, "tc", session.start_monotonic_ns())?;
            session.run(&stop)?
        }
        None => {
            let emulator = Emulator::open(&scenario, &options)?;
            write_ready(arguments, "own", emulator.start_monotonic_ns())?;
            emulator.run(&stop)?
        }
    };
    match &arguments.stats_file {
        Some(file) => write_atomically(file, &serde_json::to_string_pretty(&stats)?)?,
        None => print_summary(&stats),
    }
    for reason in &stats.invalid_reasons {
        eprintln!("tradewind-netem: this run is not valid: {reason}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The plan for the kernel's own emulation, or `None` for ours.
fn choose_backend(backend: Backend, scenario: &Scenario, options: &EmulatorOptions) -> Result<Option<tc::TcPlan>, AnyError> {
    if backend == Backend::Own {
        return Ok(None);
    }
    if !options.flows.is_empty() || options.middlebox != Middlebox::default() {
        return Err("--flow, --rebind-ms and --mtu need our own emulator: add --backend own".into());
    }
    let mtu_bytes = options.mtu_bytes()?;
    let plan = tc::plan(scenario, &options.left, &options.right, mtu_bytes);
    match plan.and_then(|plan| tc::probe(&plan).map(|()| plan)) {
        Ok(plan) => Ok(Some(plan)),
        Err(error) if backend == Backend::Auto => {
            eprintln!("tradewind-netem: using our own emulator: {error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn write_ready(arguments: &RunArguments, backend: &str, start_monotonic_ns: u64) -> Result<(), AnyError> {
    if let Some(file) = &arguments.ready_file {
        write_atomically(file, &serde_json::to_string(&ReadyFile { backend: backend.to_owned(), start_monotonic_ns })?)?;
    }
    Ok(())
}

/// Readers see the whole file or none.
fn write_atomically(file: &Path, text: &str) -> Result<(), AnyError> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, text)
        .and_then(|()| std::fs::rename(&partial, file))
        .map_err(|e| format!("cannot write {}: {e}; check the folder", file.display()))?;
    Ok(())
}

fn print_summary(stats: &EmulatorStats) {
    println!("{} by {} for {:.1} s, CPU {:.3} s, {}", stats.scenario, stats.backend, stats.duration_s, stats.cpu_s, stats.sched_class);
    for (name, direction) in [("forward", &stats.forward), ("reverse", &stats.reverse)] {
        let lateness = direction.lateness.unwrap_or_default();
        println!(
            "{name}: received {}, forwarded {} ({} twice), lost at random {}, queue {}, outage {}, held {}, own drops {}, late p50 {:.0} p99 {:.0} max {:.0} µs",
            direction.received,
            direction.forwarded,
            direction.duplicated,
            direction.random_loss,
            direction.queue_drops,
            direction.outage_drops,
            direction.held,
            direction.own_drops.total(),
            lateness.p50_us,
            lateness.p99_us,
            lateness.max_us
        );
    }
    println!("{}", if stats.valid { "valid" } else { "NOT VALID" });
}

fn run_verify(arguments: &VerifyArguments) -> Result<ExitCode, AnyError> {
    let scenario = Scenario::load(&arguments.scenario)?;
    let backend = match arguments.backend {
        Backend::Auto => "auto",
        Backend::Tc => "tc",
        Backend::Own => "own",
    };
    let options = verify::VerifyOptions {
        backend: backend.to_owned(),
        mtu_bytes: arguments.mtu_bytes,
        quiet: Duration::try_from_secs_f64(arguments.quiet_seconds)?,
        overload: Duration::try_from_secs_f64(arguments.overload_seconds)?,
    };
    let report = verify::verify(&scenario, &std::env::current_exe()?, &options)?;
    print!("{report}");
    if let Some(file) = &arguments.json {
        write_atomically(file, &serde_json::to_string_pretty(&report)?)?;
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn run_generate(arguments: &GenerateArguments) -> Result<ExitCode, AnyError> {
    let kind = match arguments.kind {
        GenerateKind::Lte => Kind::Lte,
        GenerateKind::Leo => Kind::Leo,
        GenerateKind::Geo => Kind::Geo,
    };
    print!("{}", generate::generate(kind, arguments.seed, arguments.seconds)?.to_toml());
    Ok(ExitCode::SUCCESS)
}

fn check(files: &[PathBuf]) -> Result<ExitCode, AnyError> {
    for file in files {
        let scenario = Scenario::load(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let rate = scenario.forward().rate().long_run_bps().map_or("unlimited".to_owned(), |bps| format!("{:.2} Mbit/s", bps / 1e6));
        println!(
            "{}: {}: RTT {} ms, forward {rate}, loss {:.3} % forward and {:.3} % reverse",
            file.display(),
            scenario.name(),
            scenario.rtt_ms(),
            scenario.forward().mean_loss() * 100.0,
            scenario.reverse().mean_loss() * 100.0
        );
    }
    Ok(ExitCode::SUCCESS)
}
