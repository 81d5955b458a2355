//! `cargo xtask bench small-files`: many files of one size into a local store and into a bucket, beside what users would take instead.
//!
//! | Case | Path | Where from and to |
//! |---|---|---|
//! | `clean` | one plain veth pair, MTU 1500, kernel's socket (as the peers of our design notes were measured) | memory |
//! | `wan` | RTT 100 ms, 1 % loss each way, 3 Gbit/s, MTU 9000, AF_XDP | memory |
//! | `disk` | as `clean` | the disk (`TMPDIR`) |
//! | `s3` | as `clean`, a tenth of the files | memory, a bucket of SeaweedFS in memory |
//!
//! The files have just been written, so that they are read from the page cache. Time runs from the client's first packet to its "done":
//! everything is durable then. Client, emulator (`wan` only), engine, control process and store share this machine's cores.
//!
//! With `--peers`, rsync's daemon and tar through a TCP connection (`clean`, `disk`, `wan`: by BBR where the kernel has it, 5,000 files and at most a minute)
//! and s5cmd (`s3`) move the same files in the same run, each as it comes, without making anything durable; their time is that of the whole command.
//!
//! On ext4, wait some minutes between runs: it passes over inodes that were freed lately one by one, and the run before has freed
//! hundreds of thousands (`recently_deleted` in fs/ext4/ialloc.c; seen to cost two thirds of the speed). Or set `TMPDIR` to a fresh file system.
//!
//! JSON (`--json FILE`): `files`, `file_bytes`, and `cases`: one object a case with `case`, `files`, `rtt_ms`, `loss`, `rate_bps` (null: not limited),
//! `files_per_s`, `seconds` (to "done"), `seconds_command` (with set-up and walk), `rss_client_bytes`, `rss_engine_bytes` (largest
//! resident sets), `cpu_s_client`, `cpu_s_server`, `emulator_valid`, `bytes_sent_over_needed`, and `peers`: objects with `tool`, `files`,
//! `seconds`, `files_per_s`, `finished`, or `skipped` with the reason; `warnings`. The first case's `files_per_s`, `rss_client_bytes` and
//! `rss_engine_bytes` stand at the top too.

mod peers;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tradewind_netem::Scenario;
use tradewind_netem::scenario::DirectionSpec;

use crate::process::{Interrupt, tail, tree_cpu_s};
use crate::sound;
use crate::testbed::{BUCKET, Server, ServerOptions, Store, Testbed, TestbedOptions, events};
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
    /// Only these cases: clean, wan, disk, s3.
    #[arg(long, num_args = 1..)]
    pub only: Vec<String>,
    /// Measure rsync, tar and s5cmd too.
    #[arg(long)]
    pub peers: bool,
    /// Write the report as one JSON object to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A case and what was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    case: &'static str,
    files: u64,
    rtt_ms: f64,
    loss: f64,
    rate_bps: Option<u64>,
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
    /// Empty without `--peers`.
    pub peers: Vec<peers::Peer>,
}

/// All cases.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    files_per_s: f64,
    rss_client_bytes: u64,
    rss_engine_bytes: u64,
    files: u64,
    file_bytes: u64,
    /// In the order of measuring.
    pub cases: Vec<Outcome>,
    /// What makes figures unsound.
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Memory,
    Disk,
    Bucket,
}

struct Case {
    name: &'static str,
    /// Null: one veth pair and nothing between.
    wan: Option<Wan>,
    place: Place,
}

#[derive(Clone, Copy)]
struct Wan {
    rtt_ms: f64,
    loss: f64,
    rate_bps: u64,
}

const CASES: [Case; 4] = [
    Case { name: "clean", wan: None, place: Place::Memory },
    Case { name: "wan", wan: Some(Wan { rtt_ms: 100.0, loss: 0.01, rate_bps: 3_000_000_000 }), place: Place::Memory },
    Case { name: "disk", wan: None, place: Place::Disk },
    Case { name: "s3", wan: None, place: Place::Bucket },
];

/// A store takes a tenth of the files a second that a directory takes.
const BUCKET_SHARE: u64 = 10;

/// Measures and prints.
///
/// # Errors
/// When a transfer fails or arrives incomplete.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<Report> {
    let (mut cases, mut warnings) = (Vec::new(), Vec::new());
    println!(
        "{:<6} {:>7} {:>6} {:>9} {:>8} {:>11} {:>11} {:>9} {:>9}",
        "case", "RTT ms", "loss", "files/s", "seconds", "client MiB", "engine MiB", "client s", "server s"
    );
    for case in CASES.iter().filter(|case| arguments.only.is_empty() || arguments.only.iter().any(|only| only == case.name)) {
        let outcome = measure(arguments, case, interrupt, &mut warnings).with_context(|| case.name)?;
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
            if outcome.emulator_valid != Some(false) { "" } else { "  (the emulator's run is not valid)" }
        );
        for peer in &outcome.peers {
            println!("       {peer}");
        }
        cases.push(outcome);
    }
    let first = cases.first().context("no such case")?;
    warnings.extend(sound::turns(std::iter::once(1)));
    warnings.iter().for_each(|warning| println!("unsound: {warning}"));
    let report = Report {
        files_per_s: first.files_per_s,
        rss_client_bytes: first.rss_client_bytes,
        rss_engine_bytes: first.rss_engine_bytes,
        files: arguments.files,
        file_bytes: arguments.file_bytes,
        cases,
        warnings,
    };
    if let Some(file) = &arguments.json {
        crate::write_json(file, &report)?;
    }
    Ok(report)
}

fn measure(arguments: &Arguments, case: &Case, interrupt: &Interrupt, warnings: &mut Vec<String>) -> Result<Outcome> {
    let (mtu_bytes, is_wan) = if case.wan.is_some() { (9000, true) } else { (1500, false) };
    let options = TestbedOptions { mtu_bytes, management: is_wan, in_memory: case.place != Place::Disk, direct: !is_wan, wire_like: false };
    let mut testbed = Testbed::without_link("twsmall", &options, interrupt)?;
    if let Some(wan) = case.wan {
        let direction = DirectionSpec {
            rate_bps: Some(wan.rate_bps),
            delay_ms: wan.rtt_ms / 2.0,
            loss: Some(wan.loss),
            queue_ms: Some(50.0),
            ..DirectionSpec::default()
        };
        testbed.play(&Scenario::new("small-files", "many small files", 1, direction, None)?, &[])?;
    }
    let files = if case.place == Place::Bucket { (arguments.files / BUCKET_SHARE).max(1) } else { arguments.files };
    let source = testbed.path("source");
    fs::create_dir(&source)?;
    tree::uniform(&source, files, arguments.file_bytes, &mut Random::new(1))?;
    let server = ServerOptions { xdp: if is_wan { "auto" } else { "off" }, ..ServerOptions::default() };
    let mut outcome;
    let mut peers = Vec::new();
    if case.place == Place::Bucket {
        let store = Store::start(&testbed)?;
        let mut server = Server::start(&testbed, &store, &server)?;
        let destination = format!("s3://{BUCKET}/in/");
        outcome = send(&testbed, case, &mut server, files, &destination)?;
        let listed = store.s5cmd_at_server(&testbed, &["ls", &format!("{destination}*")])?;
        let stored = listed.stdout.lines().count() as u64;
        ensure!(stored == files, "{stored} objects of {files} arrived: {}", tail(&listed.stderr));
        if arguments.peers {
            peers.push(peers::s5cmd(&testbed, &store, &source, files)?);
        }
    } else {
        let mut server = Server::start_local(&testbed, &server)?;
        outcome = send(&testbed, case, &mut server, files, "local:in/")?;
        let stored = tree::files(&testbed.path("local/in"))?.len() as u64;
        ensure!(stored == files, "{stored} files of {files} arrived");
        server.process().stop()?;
        if arguments.peers {
            peers = peers::to_directories(&testbed, &source, is_wan)?;
        }
    }
    if is_wan {
        let emulator = testbed.stop_emulator()?;
        outcome.emulator_valid = Some(emulator.valid);
        warnings.extend(sound::emulator(case.name, &emulator));
    }
    outcome.peers = peers;
    Ok(outcome)
}

/// Sends the files of the source folder and looks at who needs what meanwhile.
fn send(testbed: &Testbed, case: &Case, server: &mut Server, files: u64, destination: &str) -> Result<Outcome> {
    let (control, engine) = (server.process().pid(), server.engine_pid().context("no engine")?);
    let mut command = Server::tradewind(testbed);
    // So that making durable what arrives does not wait for what was there before.
    nix::unistd::sync();
    let out = testbed.path("client.out");
    command.args(["send", "--json"]).arg(format!("{}/", testbed.path("source").display())).arg(destination);
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
        if testbed.interrupt.check().is_err() || started.elapsed() > DEADLINE {
            client.kill()?;
            client.wait()?;
            testbed.interrupt.check()?;
        }
        std::thread::sleep(POLL);
    };
    let seconds_command = started.elapsed().as_secs_f64();
    let cpu_s_server = tree_cpu_s(control) - cpu_before;
    let said = fs::read_to_string(&out)?;
    ensure!(status.success(), "the client ended with {status}:\n{}", tail(&said));
    let done = events(&said, "done").pop().context("no event 'done'")?;
    ensure!(done["files"].as_u64() == Some(files), "not all files were sent: {done}");
    let seconds = done["elapsed_s"].as_f64().context("no elapsed_s")?;
    let again = done["retransmitted_share"].as_f64().unwrap_or(0.0);
    Ok(Outcome {
        case: case.name,
        files,
        rtt_ms: case.wan.map_or(0.0, |wan| wan.rtt_ms),
        loss: case.wan.map_or(0.0, |wan| wan.loss),
        rate_bps: case.wan.map(|wan| wan.rate_bps),
        files_per_s: files as f64 / seconds,
        seconds,
        seconds_command,
        rss_client_bytes,
        rss_engine_bytes,
        cpu_s_client,
        cpu_s_server,
        emulator_valid: None,
        bytes_sent_over_needed: 1.0 / (1.0 - again),
        peers: Vec::new(),
    })
}

/// Largest resident set of a process so far, bytes.
fn peak_rss(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
