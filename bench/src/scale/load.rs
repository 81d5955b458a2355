//! `tradewind-bench load`: one process that runs many uploads by the client library, for [`super`].
//!
//! Each upload has its own HTTPS connection, lane and reading thread, as in `tradewind send`. What it has not is a process, a socket and a sending thread
//! of its own: these are shared ([`Uploads`]), since a thousand sending threads that wake for a packet each would be what is measured. It sends two files of a block, then its source has nothing more until `go` comes, then it sends files until `stop` comes, and
//! then ends as uploads end. Commands are lines on standard input, answers are JSON lines on standard output: `opened` when every lane has been
//! offered or refused, `idle` when the receiver holds the first block of each, one `sample` for each command `sample`, and `ended`.
//! The end of standard input ends everything.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tradewind_api::{Client, Credentials, Fingerprint, KnownServers, SecretText, ServerAddress, SubmitRequest, Trust, establish_trust};
use tradewind_client::{
    Durable, Found, Group, LaneOffer, Policy, Progress, RateOptions, Source, Sources, Upload, UploadError, UploadReport, Uploads,
};

use crate::median;

/// Bytes of the files that a lane sends before it falls idle: a block each, so that the store has all of what it was given.
pub(super) const FIRST_FILE_BYTES: u64 = 1 << 20;
/// Silence after which an upload fails, as in `tradewind send`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time to the first block that is told apart.
const LATENCY_MAX_US: u64 = 600_000_000;

/// What to run. Credentials come from `TRADEWIND_ACCESS_KEY` and `TRADEWIND_SECRET`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// HOST:PORT of the control process.
    #[arg(long)]
    server: ServerAddress,
    /// Uploads.
    #[arg(long)]
    lanes: usize,
    /// How many of them are set up at the same time.
    #[arg(long, default_value_t = 16)]
    at_once: usize,
    /// Folder with the files `first` and `next`.
    #[arg(long)]
    folder: PathBuf,
    /// Folder that is sent to; ends with a slash.
    #[arg(long)]
    destination: String,
}

/// An answer to the bench.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Answer {
    /// Every lane has been offered or refused.
    Opened { lanes: usize, failed: Vec<String>, seconds: f64 },
    /// All lanes that were opened wait for their sources.
    Idle { lanes: usize, set_up: Quantiles, first_block: Quantiles },
    /// What the receivers hold in whole blocks, and when that was heard: a pair for each lane, seconds since the start and bytes.
    Sample { lanes: Vec<(f64, u64)> },
    /// All uploads have ended.
    Ended { bytes: u64, seconds_since_go: f64, failed: Vec<String>, cpu_s: f64, again: f64 },
}

/// Of a latency, milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// Nine tenths are faster.
    pub p90: f64,
    /// Ninety-nine hundredths are faster.
    pub p99: f64,
    /// Nine hundred and ninety-nine thousandths are faster: of fewer samples than a thousand, the slowest.
    pub p99_9: f64,
    /// The slowest.
    pub max: f64,
    /// How many there were.
    pub samples: u64,
}

impl Quantiles {
    /// Of these samples, with two significant digits at least.
    pub(super) fn of(samples: impl Iterator<Item = Duration>) -> Self {
        let Ok(mut histogram) = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_US, 3) else { return Self::default() };
        for sample in samples {
            histogram.saturating_record(u64::try_from(sample.as_micros()).unwrap_or(u64::MAX));
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        let max = histogram.max() as f64 / 1e3;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max, samples: histogram.len() }
    }

    /// The median of each over some turns, the samples of all together.
    pub(super) fn of_turns(turns: impl Iterator<Item = Self> + Clone) -> Self {
        let of = |value: fn(&Self) -> f64| median(turns.clone().map(|turn| value(&turn)));
        Self {
            p50: of(|turn| turn.p50),
            p90: of(|turn| turn.p90),
            p99: of(|turn| turn.p99),
            p99_9: of(|turn| turn.p99_9),
            max: of(|turn| turn.max),
            samples: turns.map(|turn| turn.samples).sum(),
        }
    }
}

const WAIT: u8 = 0;
const GO: u8 = 1;
const STOP: u8 = 2;

/// What all sources wait at.
#[derive(Default)]
struct Gate {
    phase: AtomicU8,
    moved: (Mutex<()>, Condvar),
}

impl Gate {
    fn set(&self, phase: u8) {
        let _lock = self.moved.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.phase.store(phase, Ordering::Release);
        self.moved.1.notify_all();
    }

    /// Waits until sources may go on, and tells whether they may.
    fn may_go_on(&self) -> bool {
        let mut lock = self.moved.0.lock().unwrap_or_else(PoisonError::into_inner);
        while self.phase.load(Ordering::Acquire) == WAIT {
            lock = self.moved.1.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
        self.phase.load(Ordering::Acquire) == GO
    }
}

/// What is known of a lane while it runs.
#[derive(Default)]
struct Lane {
    bytes: AtomicU64,
    /// When `bytes` was heard, microseconds since the start of the process.
    heard_us: AtomicU64,
    /// From the beginning of set-up to the first block at the receiver, microseconds; 0: not yet.
    first_us: AtomicU64,
    set_up_us: AtomicU64,
    has_ended: AtomicBool,
    opened: AtomicBool,
}

/// What all lanes share.
struct Load {
    started: Instant,
    arguments: Arguments,
    fingerprint: Fingerprint,
    credentials: Credentials,
    gate: Gate,
    cancel: Arc<AtomicBool>,
    lanes: Vec<Lane>,
    /// Who sends for all of them; opened with the first lane.
    uploads: Mutex<Option<Uploads>>,
    /// Lanes whose set-up is over.
    set_up: AtomicU64,
    failed: Mutex<BTreeMap<usize, String>>,
    bytes: AtomicU64,
    packets: AtomicU64,
    packets_again: AtomicU64,
}

/// Runs until all uploads have ended.
///
/// # Errors
/// When the server cannot be reached at all; the failure of an upload is an answer.
pub fn run(arguments: &Arguments) -> Result<()> {
    raise_descriptor_limit();
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let credentials = Credentials { access_key: variable("TRADEWIND_ACCESS_KEY")?, secret: SecretText::new(variable("TRADEWIND_SECRET")?) };
    let known = Trust::FirstUse(KnownServers::at(arguments.folder.join("known-servers")));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let fingerprint = runtime.block_on(establish_trust(&arguments.server, &known))?.fingerprint;
    let load = Arc::new(Load {
        started: Instant::now(),
        arguments: arguments.clone(),
        fingerprint,
        credentials,
        gate: Gate::default(),
        cancel: Arc::default(),
        lanes: (0..arguments.lanes).map(|_| Lane::default()).collect(),
        uploads: Mutex::default(),
        set_up: AtomicU64::new(0),
        failed: Mutex::default(),
        bytes: AtomicU64::new(0),
        packets: AtomicU64::new(0),
        packets_again: AtomicU64::new(0),
    });
    let permits = Arc::new(tokio::sync::Semaphore::new(arguments.at_once));
    let commands = Arc::clone(&load);
    let went = Arc::new(Mutex::new(Instant::now()));
    let went_by = Arc::clone(&went);
    thread::spawn(move || obey(&commands, &went_by));
    let mut uploads = Vec::new();
    for index in 0..arguments.lanes {
        let (load, permits) = (Arc::clone(&load), Arc::clone(&permits));
        uploads.push(runtime.spawn(async move {
            if let Err(error) = upload(&load, index, &permits).await {
                load.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(index, format!("lane {index}: {error:#}"));
            }
            load.lanes[index].has_ended.store(true, Ordering::Release);
        }));
    }
    tell_of_the_beginning(&load);
    for upload in uploads {
        // One that panicked has printed why, and is counted by its block that never came.
        let _ = runtime.block_on(upload);
    }
    // Its thread lets go of this process's figures.
    drop(load.uploads.lock().unwrap_or_else(PoisonError::into_inner).take());
    let seconds_since_go = went.lock().unwrap_or_else(PoisonError::into_inner).elapsed().as_secs_f64();
    let (all, again) = (load.packets.load(Ordering::Relaxed), load.packets_again.load(Ordering::Relaxed));
    answer(&Answer::Ended {
        bytes: load.bytes.load(Ordering::Relaxed),
        seconds_since_go,
        failed: load.failures(),
        cpu_s: crate::process::own_cpu_s(),
        again: again as f64 / all.max(1) as f64,
    });
    Ok(())
}

/// Each lane has some descriptors; the usual soft limit is for programs that use `select`.
pub(super) fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where that is refused, opening a socket fails, and says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn answer(answer: &Answer) {
    let mut out = std::io::stdout().lock();
    // Whoever does not listen any more has closed standard input too.
    let _ = serde_json::to_writer(&mut out, answer)
        .map_err(std::io::Error::from)
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
}

/// Reads commands to the end.
fn obey(load: &Load, went: &Mutex<Instant>) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.as_str() {
            "go" => {
                *went.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                load.gate.set(GO);
            }
            "stop" => load.gate.set(STOP),
            "sample" => {
                let lanes = load.lanes.iter().filter(|lane| lane.opened.load(Ordering::Acquire));
                let at = |lane: &Lane| (lane.heard_us.load(Ordering::Relaxed) as f64 / 1e6, lane.bytes.load(Ordering::Relaxed));
                answer(&Answer::Sample { lanes: lanes.map(at).collect() });
            }
            _ => {}
        }
    }
    load.cancel.store(true, Ordering::Relaxed);
    load.gate.set(STOP);
}

fn tell_of_the_beginning(load: &Load) {
    const POLL: Duration = Duration::from_millis(5);
    while load.set_up.load(Ordering::Acquire) < load.lanes.len() as u64 {
        thread::sleep(POLL);
    }
    let opened = || load.lanes.iter().filter(|lane| lane.opened.load(Ordering::Acquire));
    answer(&Answer::Opened { lanes: opened().count(), failed: load.failures(), seconds: load.started.elapsed().as_secs_f64() });
    let waits = |lane: &Lane| lane.first_us.load(Ordering::Acquire) > 0 || lane.has_ended.load(Ordering::Acquire);
    while !opened().all(waits) {
        thread::sleep(POLL);
    }
    let times = |of: fn(&Lane) -> &AtomicU64| opened().map(move |lane| Duration::from_micros(of(lane).load(Ordering::Relaxed)));
    let lanes = opened().filter(|lane| !lane.has_ended.load(Ordering::Acquire)).count();
    let first_block = Quantiles::of(times(|lane| &lane.first_us).filter(|time| !time.is_zero()));
    answer(&Answer::Idle { lanes, set_up: Quantiles::of(times(|lane| &lane.set_up_us)), first_block });
}

impl Load {
    /// Begins an upload that was set up since `started`; its end comes by the channel.
    fn send(
        self: &Arc<Self>,
        index: usize,
        upload: Upload,
        started: Instant,
    ) -> Result<tokio::sync::oneshot::Receiver<Result<UploadReport, UploadError>>> {
        let (ended, end) = tokio::sync::oneshot::channel();
        let load = Arc::clone(self);
        let on_progress = move |progress: &Progress| {
            let lane = &load.lanes[index];
            lane.bytes.store(progress.bytes_sent, Ordering::Relaxed);
            lane.heard_us.store(micros(load.started.elapsed()), Ordering::Relaxed);
            if progress.bytes_sent > 0 && lane.first_us.load(Ordering::Relaxed) == 0 {
                lane.first_us.store(micros(started.elapsed()), Ordering::Release);
            }
        };
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let uploads = match &mut *uploads {
            Some(uploads) => uploads,
            none => none.insert(Uploads::start(&upload.lane, self.lanes.len())?),
        };
        // Whoever waited for the end is gone only when the process ends.
        uploads.add(upload, on_progress, move |result| drop(ended.send(result)))?;
        Ok(end)
    }

    fn failures(&self) -> Vec<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// One upload, from set-up to its end.
async fn upload(load: &Arc<Load>, index: usize, permits: &tokio::sync::Semaphore) -> Result<()> {
    let lane = &load.lanes[index];
    let permit = permits.acquire().await;
    let started = Instant::now();
    let prepared = submit(load, index).await;
    drop(permit);
    lane.set_up_us.store(micros(started.elapsed()), Ordering::Relaxed);
    lane.opened.store(prepared.is_ok(), Ordering::Release);
    load.set_up.fetch_add(1, Ordering::AcqRel);
    let report = load.send(index, prepared?, started)?.await.context("the sending thread is gone")??;
    load.bytes.fetch_add(report.bytes, Ordering::Relaxed);
    load.packets.fetch_add(report.data_packets_sent, Ordering::Relaxed);
    load.packets_again.fetch_add(report.statistics.data_packets_again, Ordering::Relaxed);
    anyhow::ensure!(report.files_failed == 0, "{} of its files were left out", report.files_failed);
    Ok(())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

async fn submit(load: &Arc<Load>, index: usize) -> Result<Upload> {
    // A connection of its own, as every client has.
    let client = Client::new(load.arguments.server.clone(), load.fingerprint, Some(load.credentials.clone()))?;
    let destination = format!("{}{index}/", load.arguments.destination);
    let request = SubmitRequest { destination: Some(destination), ..SubmitRequest::default() };
    let round_trip = connect_time(&load.arguments.server);
    let ((answer, server), round_trip) = tokio::try_join!(async { Ok(client.submit(&request).await?) }, round_trip)?;
    let offer = answer.lanes.first().context("the answer names no lane")?;
    let found = Arc::new(Found::default());
    let sources = Sources::new(files(Arc::clone(load), Arc::clone(&found)), found);
    let lane = LaneOffer {
        lane_id: offer.lane_id,
        secret: *offer.secret.expose(),
        endpoints: offer.socket_addresses(server),
        block_bytes: offer.block_bytes,
        chunk_bytes: offer.chunk_bytes,
        credit_blocks: offer.credit_blocks,
        cipher: tradewind_client::Cipher::Aes128Gcm,
    };
    let rate = RateOptions {
        policy: Policy::Fair,
        target_bytes_per_s: None,
        minimum_bytes_per_s: None,
        lease_bytes_per_s: offer.rate.lease_rate_bps.map(|rate| rate / 8),
        group: offer.rate.group.map(|group| Group { share_bytes_per_s: group.share_rate_bps / 8, lanes: group.lanes.into() }),
        initial_round_trip: Some(round_trip),
    };
    let (durable, cancel, on_problem) = (Durable::default(), Arc::clone(&load.cancel), Box::new(|_| ()));
    Ok(Upload { lane, sources, durable, on_problem, rate, cancel, idle_timeout: IDLE_TIMEOUT })
}

/// The round trip to the server as a TCP connection shows it, measured beside the request, as in `tradewind send`.
async fn connect_time(server: &ServerAddress) -> Result<Duration> {
    let started = Instant::now();
    tokio::net::TcpStream::connect((server.host(), server.port())).await?;
    Ok(started.elapsed())
}

/// Two small files, a pause, and then one file again and again under new names. A file leaves when the next one is known, so the receiver has
/// the first while the pause lasts.
fn files(load: Arc<Load>, found: Arc<Found>) -> impl Iterator<Item = Source> + Send {
    let (first, next) = (load.arguments.folder.join("first"), load.arguments.folder.join("next"));
    let next_bytes = file_bytes(&next);
    (0u64..).map_while(move |number| {
        let (path, bytes) = if number < 2 { (&first, FIRST_FILE_BYTES) } else { (&next, next_bytes) };
        if number >= 2 && !load.gate.may_go_on() {
            return None;
        }
        found.files.fetch_add(1, Ordering::Relaxed);
        found.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Source::file(path.clone(), number.to_string().into_bytes()))
    })
}

fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_samples_and_medians_of_turns() {
        let first = Quantiles::of((1..=1000).map(Duration::from_millis));
        for (found, expected) in [(first.p50, 500.0), (first.p90, 900.0), (first.p99, 990.0), (first.p99_9, 999.0), (first.max, 1000.0)] {
            assert!((found - expected).abs() <= expected * 0.002, "{found} is not {expected}");
        }
        assert_eq!(first.samples, 1000);
        let twice = Quantiles { p50: 2.0 * first.p50, ..first };
        let turns = Quantiles::of_turns([first, twice, first].into_iter());
        assert!((turns.p50 - first.p50).abs() < 1e-9 && turns.samples == 3000, "{turns:?}");
    }
}
