//! `cargo xtask bench storage`: blocks to a store by the engine's uploader, beside the clients that users know, on the same server in the same run.
//!
//! All read the same files, which the kernel has in memory, and write them into one SeaweedFS on the same machine, in turns, as they do when nobody
//! tells them otherwise. Ours takes them as blocks of 1 MiB with their checksums, as from the network. Medians are reported. `--json FILE`:
//! `gib_per_s`, `cpu_s_per_gib` (the client's), `turns` (GiB/s of each), `peers` with the same for each, `over_fastest_peer`, and `warnings`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::unbounded_channel;
use tradewind_fabric::BlockPool;
use tradewind_storage::{
    Crc64, Credentials, FileMeta, ObjectName, Piece, ReadyBlock, S3Config, S3Store, UploadEvent, Uploader, UploaderConfig,
};

use crate::loopback::Loopback;
use crate::process::{Interrupt, own_cpu_s, run as run_to_end};
use crate::testbed::{BUCKET, Store, sha256_of_file, write_random};
use crate::{median, sound, spread, write_json};

const BLOCK: usize = 1 << 20;
/// Blocks in memory: six parts of the default size for each of two files, and some that are being filled.
const BLOCKS: usize = 128;
const DEADLINE: Duration = Duration::from_secs(600);
const TOOLS: [&str; 4] = ["tradewind", "s5cmd", "rclone", "aws"];

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// MiB that each client writes, in each turn.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=65536))]
    pub mib: u32,
    /// Files among which these are shared out.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub files: u32,
    /// Turns of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub turns: u32,
    /// Where the files and the store's lie; memory, if there is a /dev/shm.
    #[arg(long)]
    pub directory: Option<PathBuf>,
    /// Write the report as one JSON object to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// One client.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its program.
    pub tool: &'static str,
    /// Median of the turns.
    pub gib_per_s: f64,
    /// Median of the turns; user and system time of the client alone.
    pub cpu_s_per_gib: f64,
    /// GiB/s of each.
    turns: Vec<f64>,
    /// Why it was not measured.
    skipped: Option<String>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    command: &'static str,
    mib: u32,
    files: u32,
    server: &'static str,
    /// Of ours.
    pub gib_per_s: f64,
    /// Of ours.
    pub cpu_s_per_gib: f64,
    /// Ours over the fastest of the others, GiB/s.
    pub over_fastest_peer: Option<f64>,
    /// The others.
    pub peers: Vec<Row>,
    /// GiB/s of each turn, ours.
    turns: Vec<f64>,
    /// What makes figures unsound.
    pub warnings: Vec<String>,
}

/// Seconds, and CPU seconds of the client; the others' with the start of their program.
type Turn = (f64, f64);

/// Measures, prints and writes.
///
/// # Errors
/// A store that does not start, a client that fails.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<Report> {
    let memory = PathBuf::from("/dev/shm");
    let parent = arguments.directory.clone().unwrap_or(if memory.is_dir() { memory } else { std::env::temp_dir() });
    let world = Loopback::start_with(&parent, true, interrupt)?;
    let store = world.store().context("no store")?;
    let source = world.path("source");
    std::fs::create_dir(&source)?;
    let file_bytes = u64::from(arguments.mib / arguments.files) << 20;
    ensure!(file_bytes > 0, "less than 1 MiB for each file");
    for number in 0..arguments.files {
        write_random(&source.join(number.to_string()), file_bytes)?;
    }
    let gib = (file_bytes * u64::from(arguments.files)) as f64 / f64::from(1 << 30);
    let runtime = Runtime::new()?;
    let mut turns: [Vec<Turn>; 4] = Default::default();
    let mut skipped = [const { None::<String> }; 4];
    for turn in 0..arguments.turns {
        // Each turn begins with another one.
        for at in (0..TOOLS.len()).map(|at| (at + turn as usize) % TOOLS.len()) {
            let tool = TOOLS[at];
            interrupt.check()?;
            let prefix = format!("{tool}-{turn}");
            if at == 0 {
                turns[at].push(runtime.block_on(ours(store, &source, &prefix))?);
            } else if is_installed(&world, tool) {
                turns[at].push(theirs(&world, store, tool, &source, &prefix, interrupt)?);
            } else {
                skipped[at] = Some(format!("{tool} is not installed"));
                continue;
            }
            compare(&world, store, &source, &prefix)?;
            store.s5cmd_at_server(&world, &["rm", &format!("s3://{BUCKET}/{prefix}/*")])?.success("s5cmd rm")?;
        }
    }
    let mut rows: Vec<Row> = TOOLS
        .into_iter()
        .zip(turns)
        .zip(skipped)
        .map(|((tool, turns), skipped)| Row {
            tool,
            gib_per_s: if turns.is_empty() { 0.0 } else { gib / median(turns.iter().map(|turn| turn.0)) },
            cpu_s_per_gib: if turns.is_empty() { 0.0 } else { median(turns.iter().map(|turn| turn.1)) / gib },
            turns: turns.iter().map(|turn| gib / turn.0).collect(),
            skipped,
        })
        .collect();
    println!("client        GiB/s   CPU s/GiB   turns");
    for row in &rows {
        match &row.skipped {
            Some(reason) => println!("{:<10} SKIP: {reason}", row.tool),
            None => {
                let turns: Vec<String> = row.turns.iter().map(|turn| format!("{turn:.3}")).collect();
                println!("{:<10} {:>8.3} {:>11.2}   {}", row.tool, row.gib_per_s, row.cpu_s_per_gib, turns.join(" "));
            }
        }
    }
    let mut warnings: Vec<String> = rows.iter().filter_map(|row| sound::spread(row.tool, spread(row.turns.iter().copied()))).collect();
    warnings.extend(sound::turns(rows.iter().filter(|row| row.skipped.is_none()).map(|row| row.turns.len())));
    warnings.iter().for_each(|warning| println!("unsound: {warning}"));
    let peers = rows.split_off(1);
    let fastest = peers.iter().filter(|peer| peer.skipped.is_none()).map(|peer| peer.gib_per_s).max_by(f64::total_cmp);
    let report = Report {
        command: "storage",
        mib: arguments.mib,
        files: arguments.files,
        server: "SeaweedFS",
        gib_per_s: rows[0].gib_per_s,
        cpu_s_per_gib: rows[0].cpu_s_per_gib,
        over_fastest_peer: fastest.map(|fastest| rows[0].gib_per_s / fastest),
        peers,
        turns: rows[0].turns.clone(),
        warnings,
    };
    if let Some(ratio) = report.over_fastest_peer {
        println!("tradewind over the fastest other: {ratio:.3}");
    }
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(report)
}

/// The uploader as the engine runs it, fed as fast as there are free blocks.
async fn ours(store: &Store, source: &Path, prefix: &str) -> Result<Turn> {
    let (begun, cpu) = (Instant::now(), own_cpu_s());
    let (key, secret) = store.credentials();
    let bucket = Arc::new(S3Store::open(&S3Config::at_endpoint(store.endpoint(), BUCKET, Credentials::new(key, secret)))?);
    let pool = BlockPool::new(BLOCKS, BLOCK)?;
    let mut files = Vec::new();
    for path in crate::tree::files(source)?.into_values() {
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        files.push((name, std::fs::metadata(&path)?.len(), File::open(&path)?));
    }
    let config = UploaderConfig { name: ObjectName::Into(format!("{prefix}/")), ..UploaderConfig::default() };
    let (sender, mut events) = unbounded_channel();
    let uploader = Uploader::start(&tokio::runtime::Handle::current(), bucket, config, None, sender);
    let feeding = tokio::task::spawn_blocking(move || feed(&uploader, &pool, files));
    let mut failure = None;
    let mut finished = false;
    while let Some(event) = events.recv().await {
        match event {
            UploadEvent::Failed(error) => failure = Some(error),
            UploadEvent::Finished { .. } => finished = true,
            _ => {}
        }
    }
    feeding.await??;
    if let Some(error) = failure {
        bail!("the upload failed: {error}");
    }
    ensure!(finished, "the upload ended without having finished");
    Ok((begun.elapsed().as_secs_f64(), own_cpu_s() - cpu))
}

fn feed(uploader: &Uploader, pool: &BlockPool, files: Vec<(String, u64, File)>) -> Result<()> {
    let mut id = 0;
    for (number, (name, size, mut file)) in (0..).zip(files) {
        let mut offset = 0;
        while offset < size {
            let mut slot = loop {
                match pool.take() {
                    Some(slot) => break slot,
                    None => std::thread::sleep(Duration::from_micros(200)),
                }
            };
            let bytes = BLOCK.min(usize::try_from(size - offset)?);
            file.read_exact(&mut slot[..bytes])?;
            let (len, crc64) = (u32::try_from(bytes)?, Crc64::of(&slot[..bytes]).0);
            let meta = FileMeta {
                file: number,
                path: name.clone().into_bytes(),
                size,
                mtime_ns: 1,
                mode: 0o100_644,
                attributes: Arc::default(),
                withdrawn: false,
            };
            let piece = Piece { file: number, file_offset: offset, len, data_offset: 0, crc64, is_hole: false };
            uploader.block(ReadyBlock { id, data: slot.freeze(bytes), files: vec![meta], pieces: vec![piece] });
            offset += bytes as u64;
            id += 1;
        }
    }
    uploader.finish(u64::from(id));
    Ok(())
}

/// What lies in the bucket, fetched by s5cmd.
fn compare(world: &Loopback, store: &Store, source: &Path, prefix: &str) -> Result<()> {
    for path in crate::tree::files(source)?.into_values() {
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        ensure!(store.sha256(world, &format!("{prefix}/{name}"))? == sha256_of_file(&path)?, "{name} is not what was written");
    }
    Ok(())
}

fn program(world: &Loopback, tool: &str) -> Command {
    use crate::testbed::Host as _;
    if tool == "s5cmd" { Command::new(world.programs().installed(tool)) } else { Command::new(tool) }
}

fn is_installed(world: &Loopback, tool: &str) -> bool {
    let version = if tool == "aws" { "--version" } else { "version" };
    program(world, tool).arg(version).output().is_ok_and(|output| output.status.success())
}

fn theirs(world: &Loopback, store: &Store, tool: &str, source: &Path, prefix: &str, interrupt: &Interrupt) -> Result<Turn> {
    let (key, secret) = store.credentials();
    let (endpoint, from) = (store.endpoint(), format!("{}/", source.display()));
    let to = format!("s3://{BUCKET}/{prefix}/");
    let mut command = program(world, tool);
    command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret).env("AWS_REGION", "us-east-1");
    match tool {
        "s5cmd" => command.args(["--endpoint-url", &endpoint, "cp", &from, &to]),
        "rclone" => {
            command.env("RCLONE_CONFIG", "/dev/null").env("RCLONE_S3_ENV_AUTH", "true").env("RCLONE_S3_NO_CHECK_BUCKET", "true");
            command.args(["copy", "--s3-provider", "Other", "--s3-endpoint", &endpoint, &from, &format!(":s3:{BUCKET}/{prefix}/")])
        }
        _ => command.args(["--endpoint-url", &endpoint, "s3", "cp", "--recursive", "--only-show-errors", &from, &to]),
    };
    let ran = run_to_end(&mut command, interrupt, DEADLINE)?;
    ran.success(tool)?;
    Ok((ran.elapsed.as_secs_f64(), ran.cpu_s))
}
