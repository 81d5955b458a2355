//! `cargo xtask bench small-files`: many files of one size into a local store, over loopback (`clean`) and over a long, lossy emulated link (`wan`).
//!
//! The files lie on the disk (or in memory, `--in-memory`) and have just been written, so that they are read from the page cache. Time runs
//! from the client's first packet to its "done": everything is durable then. Client, emulator (`wan` only), engine and control process share this
//! machine's cores.
//!
//! On ext4, wait a minute between runs: it passes over inodes that were freed in the last seconds one by one, and the run before has freed
//! hundreds of thousands (`recently_deleted` in fs/ext4/ialloc.c; seen to cost two thirds of the speed).
//!
//! JSON (`--json FILE`): `files`, `file_bytes`, `in_memory`, and `cases`: one object a case with `case` (`clean` or `wan`), `rtt_ms`, `loss`,
//! `rate_bps`, `files_per_s`, `seconds` (to "done"), `seconds_command` (with set-up and walk), `rss_client_bytes`, `rss_engine_bytes` (largest
//! resident sets), `cpu_s_client`, `cpu_s_server`, `emulator_valid`, `bytes_sent_over_needed`. The first case's `files_per_s`, `rss_client_bytes` and
//! `rss_engine_bytes` stand at the top too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tradewind_netem::Scenario;
use tradewind_netem::scenario::DirectionSpec;

use crate::loopback::Loopback;
use crate::process::{Interrupt, tail, tree_cpu_s};
use crate::testbed::{Server, ServerOptions, Testbed, TestbedOptions, events};
use crate::tree::{self, Random};

const POLL: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(900);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Files.
    #[arg(long, default_value_t = 100_000)]
    pub files: u64,
    /// Size of each, bytes.
    #[arg(long, default_value_t = 10_240)]
    pub file_bytes: u64,
    /// Source and destination lie in memory rather than on the disk.
    #[arg(long)]
    pub in_memory: bool,
    /// Only this case: clean or wan.
    #[arg(long)]
    pub only: Option<String>,
    /// Write the report as one JSON object to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A case and what was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    case: &'static str,
    rtt_ms: f64,
    loss: f64,
    rate_bps: u64,
    /// Files over the time to "done".
    pub files_per_s: f64,
    seconds: f64,
    seconds_command: f64,
    /// Largest resident set of the client, bytes.
    pub rss_client_bytes: u64,
    /// Largest resident set of the engine, bytes.
    pub rss_engine_bytes: u64,
    cpu_s_client: f64,
    cpu_s_server: f64,
    /// Null without an emulator.
    emulator_valid: Option<bool>,
    bytes_sent_over_needed: f64,
}

/// All cases.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    files_per_s: f64,
    rss_client_bytes: u64,
    rss_engine_bytes: u64,
    files: u64,
    file_bytes: u64,
    in_memory: bool,
    /// In the order of measuring.
    pub cases: Vec<Outcome>,
}

struct Case {
    name: &'static str,
    rtt_ms: f64,
    loss: f64,
    rate_bps: u64,
}

const CASES: [Case; 2] = [
    Case { name: "clean", rtt_ms: 0.0, loss: 0.0, rate_bps: 10_000_000_000 },
    Case { name: "wan", rtt_ms: 100.0, loss: 0.01, rate_bps: 3_000_000_000 },
];

/// Measures and prints.
///
/// # Errors
/// When a transfer fails or arrives incomplete.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<Report> {
    let mut cases = Vec::new();
    println!(
        "{:<6} {:>7} {:>6} {:>9} {:>8} {:>11} {:>11} {:>9} {:>9}",
        "case", "RTT ms", "loss", "files/s", "seconds", "client MiB", "engine MiB", "client s", "server s"
    );
    for case in CASES.iter().filter(|case| arguments.only.as_deref().is_none_or(|only| only == case.name)) {
        let outcome = measure(arguments, case, interrupt).with_context(|| case.name)?;
        println!(
            "{:<6} {:>7} {:>6} {:>9.0} {:>8.2} {:>11.1} {:>11.1} {:>9.2} {:>9.2}{}",
            outcome.case,
            outcome.rtt_ms,
            outcome.loss,
            outcome.files_per_s,
            outcome.seconds,
            outcome.rss_client_bytes as f64 / 1_048_576.0,
            outcome.rss_engine_bytes as f64 / 1_048_576.0,
            outcome.cpu_s_client,
            outcome.cpu_s_server,
            if outcome.emulator_valid != Some(false) { "" } else { "  (the emulator was late: not valid)" }
        );
        cases.push(outcome);
    }
    let first = cases.first().context("no such case")?;
    let report = Report {
        files_per_s: first.files_per_s,
        rss_client_bytes: first.rss_client_bytes,
        rss_engine_bytes: first.rss_engine_bytes,
        files: arguments.files,
        file_bytes: arguments.file_bytes,
        in_memory: arguments.in_memory,
        cases,
    };
    if let Some(file) = &arguments.json {
        crate::write_json(file, &report)?;
    }
    Ok(report)
}

fn measure(arguments: &Arguments, case: &Case, interrupt: &Interrupt) -> Result<Outcome> {
    if case.rtt_ms == 0.0 {
        let memory = Path::new("/dev/shm");
        let parent = if arguments.in_memory { memory.to_owned() } else { std::env::temp_dir() };
        let world = Loopback::start(&parent, interrupt)?;
        let (control, engine) = (world.control_pid()?, world.engine_pid().context("no engine")?);
        return play(arguments, case, world.folder.path(), world.tradewind(), (control, engine), interrupt);
    }
    let options = TestbedOptions { mtu_bytes: 9000, management: true, in_memory: arguments.in_memory };
    let mut testbed = Testbed::without_link("twsmall", &options, interrupt)?;
    let direction = DirectionSpec {
        rate_bps: Some(case.rate_bps),
        delay_ms: case.rtt_ms / 2.0,
        loss: Some(case.loss),
        queue_ms: Some(50.0),
        ..DirectionSpec::default()
    };
    testbed.play(&Scenario::new("small-files", "many small files", 1, direction, None)?, &[])?;
    let mut server = Server::start_local(&testbed, &ServerOptions::default())?;
    let pids = (server.process().pid(), server.engine_pid().context("no engine")?);
    let mut outcome = play(arguments, case, testbed.folder.path(), Server::tradewind(&testbed), pids, interrupt)?;
    outcome.emulator_valid = Some(testbed.stop_emulator()?.valid);
    Ok(outcome)
}

/// Makes the files in the folder, sends them, and looks at who needs what meanwhile.
fn play(
    arguments: &Arguments,
    case: &Case,
    folder: &Path,
    mut command: Command,
    (control, engine): (u32, u32),
    interrupt: &Interrupt,
) -> Result<Outcome> {
    let source = folder.join("source");
    fs::create_dir(&source)?;
    tree::uniform(&source, arguments.files, arguments.file_bytes, &mut Random::new(1))?;
    // So that making durable what arrives does not wait for what was there before.
    nix::unistd::sync();
    let out = folder.join("client.out");
    command.args(["send", "--json"]).arg(format!("{}/", source.display())).arg("local:in/");
    let output = fs::File::create(&out)?;
    command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
    let (started, cpu_before) = (Instant::now(), tree_cpu_s(control));
    let mut client = command.spawn()?;
    let (mut rss_client_bytes, mut rss_engine_bytes, mut cpu_s_client) = (0, 0, 0.0);
    let status = loop {
        rss_client_bytes = peak_rss(client.id()).unwrap_or(rss_client_bytes);
        rss_engine_bytes = peak_rss(engine).unwrap_or(rss_engine_bytes);
        cpu_s_client = tree_cpu_s(client.id()).max(cpu_s_client);
        if let Some(status) = client.try_wait()? {
            break status;
        }
        if interrupt.check().is_err() || started.elapsed() > DEADLINE {
            client.kill()?;
            client.wait()?;
            interrupt.check()?;
        }
        std::thread::sleep(POLL);
    };
    let seconds_command = started.elapsed().as_secs_f64();
    let cpu_s_server = tree_cpu_s(control) - cpu_before;
    let said = fs::read_to_string(&out)?;
    ensure!(status.success(), "the client ended with {status}:\n{}", tail(&said));
    let done = events(&said, "done").pop().context("no event 'done'")?;
    ensure!(done["files"].as_u64() == Some(arguments.files), "not all files were sent: {done}");
    let stored = tree::files(&folder.join("local/in"))?.len() as u64;
    ensure!(stored == arguments.files, "{stored} files of {} arrived", arguments.files);
    let seconds = done["elapsed_s"].as_f64().context("no elapsed_s")?;
    let again = done["retransmitted_share"].as_f64().unwrap_or(0.0);
    Ok(Outcome {
        case: case.name,
        rtt_ms: case.rtt_ms,
        loss: case.loss,
        rate_bps: case.rate_bps,
        files_per_s: arguments.files as f64 / seconds,
        seconds,
        seconds_command,
        rss_client_bytes,
        rss_engine_bytes,
        cpu_s_client,
        cpu_s_server,
        emulator_valid: None,
        bytes_sent_over_needed: 1.0 / (1.0 - again),
    })
}

/// Largest resident set of a process so far, bytes.
fn peak_rss(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
