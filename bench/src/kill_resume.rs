//! `cargo xtask bench kill-resume`: client, control process or engine are killed with SIGKILL at random moments of transfers of a mixed
//! tree over loopback; every transfer is then finished and compared byte by byte. Into a local store, or with `--store s3` into a bucket of
//! SeaweedFS, whose objects are read back with `tradewind get`; with `--direction get` the tree lies there and is got.
//!
//! A round moves the tree to a new directory. It is killed a few times at moments drawn from the time that the transfer has left; a killed
//! client is started again with the same command, a killed tradewindd too (the engine ends with it; the client goes on by itself), and a
//! killed engine is started again by tradewindd.
//!
//! *Resent* are bytes that the engine had confirmed as received in whole blocks before a kill (by the client's last progress event; of a
//! download, bytes that the client had received) and that were not durable for the next attempt: what a kill costs. The last word before a kill can be 0.2 s old, which hides so much.
//!
//! JSON (`--json FILE`): `store`, `direction`, `kills`, `kills_of` (client, control, engine), `rounds`, `byte_equal` (every round), `files`, `bytes` of the tree,
//! `resent_bytes_max`, `resent_bytes_mean`, `seconds`, `seed`.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::Value;

use crate::loopback::Loopback;
use crate::process::{Interrupt, tail};
use crate::testbed::BUCKET;
use crate::tree::{self, Random};

const POLL: Duration = Duration::from_millis(10);
/// A transfer that is not finished after this hangs.
const ROUND_DEADLINE: Duration = Duration::from_secs(120);
/// Exit codes of a client that cannot reach the server, or finds its engine being started again.
const NOT_YET: [i32; 2] = [4, 10];
/// Kills of one round.
const KILLS_PER_ROUND: u64 = 4;

/// Where the tree is moved to, or from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// A directory.
    #[default]
    Local,
    /// A bucket of SeaweedFS on this machine.
    S3,
}

impl StoreKind {
    fn url(self, name: &str) -> String {
        match self {
            Self::Local => format!("local:{name}/"),
            Self::S3 => format!("s3://{BUCKET}/{name}/"),
        }
    }
}

/// Which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Into the store.
    #[default]
    Send,
    /// Out of it.
    Get,
}

/// What to do.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// So many kills at least.
    #[arg(long, default_value_t = 100)]
    pub kills: u64,
    /// What kind of store.
    #[arg(long, value_enum, default_value_t = StoreKind::Local)]
    pub store: StoreKind,
    /// Which way the files go.
    #[arg(long, value_enum, default_value_t = Direction::Send)]
    pub direction: Direction,
    /// Seed of the tree and the moments.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Rate of the transfers, Mbit/s: slow enough to be hit in the middle.
    #[arg(long, default_value_t = 600)]
    pub rate_mbps: u64,
    /// Folder to work in; a disk, not memory, to see what a disk does. Default: the system's temporary folder.
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Write the report as one JSON object to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Where the tree went, or came from.
    pub store: StoreKind,
    /// Which way.
    pub direction: Direction,
    /// Processes killed while a transfer ran.
    pub kills: u64,
    /// The same by process: client, control, engine.
    pub kills_of: [u64; 3],
    /// Transfers.
    pub rounds: u64,
    /// Every tree arrived as it was.
    pub byte_equal: bool,
    /// Files of the tree.
    pub files: u64,
    /// Bytes of the tree.
    pub bytes: u64,
    /// Most that one kill cost, bytes.
    pub resent_bytes_max: u64,
    /// What a kill cost on average, bytes.
    pub resent_bytes_mean: u64,
    /// Time of the whole.
    pub seconds: f64,
    /// Seed of the tree and the moments.
    pub seed: u64,
}

/// Kills and resumes until there were enough kills.
///
/// # Errors
/// When a transfer is not finished, or arrives as something else: the message says in which round.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<Report> {
    let started = Instant::now();
    let parent = arguments.folder.clone().unwrap_or_else(std::env::temp_dir);
    let (store, direction) = (arguments.store, arguments.direction);
    let mut world = Loopback::start_with(&parent, store == StoreKind::S3, interrupt)?;
    let mut random = Random::new(arguments.seed);
    let source = world.path("source");
    fs::create_dir(&source)?;
    let bytes = tree::mixed(&source, 5, 16 << 20, 1500, &mut random)?;
    let files = tree::files(&source)?.len() as u64;
    if direction == Direction::Get {
        world.run(&["send", "--quiet", &format!("{}/", source.display()), &store.url("tree")])?.success("sending the tree")?;
    }
    let mut report = Report { store, direction, byte_equal: true, files, bytes, seed: arguments.seed, ..Report::default() };
    let mut resent = 0;
    while report.kills < arguments.kills {
        interrupt.check()?;
        report.rounds += 1;
        let round = report.rounds;
        resent +=
            Round::new(&mut world, arguments, round, bytes)?.play(&mut random, &mut report).with_context(|| format!("round {round}"))?;
        let name = format!("round-{round}");
        let arrived = match (direction, store) {
            (Direction::Get, _) => world.path(&name),
            (Direction::Send, StoreKind::Local) => world.path(&format!("local/{name}")),
            (Direction::Send, StoreKind::S3) => {
                let back = world.path(&format!("{name}-back"));
                let url = store.url(&name);
                world.run(&["get", "--quiet", &url, &format!("{}/", back.display())])?.success("reading the objects")?;
                world.run(&["rm", "-r", &url])?.success("removing the objects")?;
                back
            }
        };
        let same = tree::same(&source, &arrived).with_context(|| format!("round {round}: what arrived"))?;
        ensure!(same == files, "round {round}: {same} files of {files}");
        fs::remove_dir_all(&arrived)?;
        println!("round {round}: byte-equal; {} kills so far, at most {} bytes sent again for one", report.kills, report.resent_bytes_max);
    }
    report.resent_bytes_mean = resent / report.kills.max(1);
    report.seconds = started.elapsed().as_secs_f64();
    println!(
        "{} kills (client {}, control {}, engine {}) in {} transfers of {} files, {} bytes: all byte-equal; sent again for a kill: {} bytes on average, {} at most",
        report.kills,
        report.kills_of[0],
        report.kills_of[1],
        report.kills_of[2],
        report.rounds,
        files,
        bytes,
        report.resent_bytes_mean,
        report.resent_bytes_max
    );
    if let Some(file) = &arguments.json {
        crate::write_json(file, &report)?;
    }
    Ok(report)
}

/// One transfer from its start to its end, whatever is killed meanwhile.
struct Round<'a> {
    world: &'a mut Loopback,
    client: Child,
    arguments: Vec<String>,
    /// Output files of clients of this round so far.
    attempts: u64,
    name: String,
    /// Seconds that the whole transfer takes undisturbed.
    expected_s: f64,
}

impl<'a> Round<'a> {
    fn new(world: &'a mut Loopback, arguments: &Arguments, round: u64, bytes: u64) -> Result<Self> {
        let name = format!("round-{round}");
        let folder = |name: &str| format!("{}/", world.path(name).display());
        let (verb, from, to) = match arguments.direction {
            Direction::Send => ("send", folder("source"), arguments.store.url(&name)),
            Direction::Get => ("get", arguments.store.url("tree"), folder(&name)),
        };
        let rate = format!("{}M", arguments.rate_mbps);
        let arguments_of: Vec<String> = [verb, "--json", "--retries", "20", "--rate", &rate, &from, &to].map(str::to_owned).to_vec();
        let client = world.begin(&format!("{name}-1"), &arguments_of.iter().map(String::as_str).collect::<Vec<_>>())?;
        let expected_s = bytes as f64 * 8.0 / (arguments.rate_mbps as f64 * 1e6);
        Ok(Self { world, client, arguments: arguments_of, attempts: 1, name, expected_s })
    }

    /// Returns the bytes that were sent again.
    fn play(mut self, random: &mut Random, report: &mut Report) -> Result<u64> {
        let started = Instant::now();
        let mut killed = 0;
        let mut next = self.moment(random);
        loop {
            self.world.interrupt.check()?;
            if let Some(status) = self.client.try_wait()? {
                if status.success() {
                    break;
                }
                // A server that was killed, or whose engine was, before this client had reached it is the user's business: the same command again.
                let output = self.output(self.attempts);
                ensure!(status.code().is_some_and(|code| NOT_YET.contains(&code)), "the client ended with {status}:\n{}", tail(&output));
                self.begin_again()?;
            }
            if started.elapsed() > ROUND_DEADLINE {
                let _ = self.client.kill();
                bail!(
                    "not finished after {} s:\n{}\n{}",
                    ROUND_DEADLINE.as_secs(),
                    tail(&self.output(self.attempts)),
                    tail(&self.world.log_text())
                );
            }
            if killed < KILLS_PER_ROUND && Instant::now() >= next {
                killed += 1;
                self.strike(random.below(3) as usize, report)?;
                next = self.moment(random);
            }
            std::thread::sleep(POLL);
        }
        let costs = self.costs()?;
        report.resent_bytes_max = costs.iter().copied().chain([report.resent_bytes_max]).max().unwrap_or(0);
        Ok(costs.iter().sum())
    }

    /// Some moment from now on, most likely before the transfer's end.
    fn moment(&self, random: &mut Random) -> Instant {
        Instant::now() + Duration::from_secs_f64(random.below(1000) as f64 / 1000.0 * self.expected_s.max(0.2))
    }

    fn strike(&mut self, which: usize, report: &mut Report) -> Result<()> {
        let pid = match which {
            0 => self.client.id(),
            1 => self.world.control_pid()?,
            _ => match self.world.engine_pid() {
                Some(pid) => pid,
                // It is being started again after the last blow.
                None => return Ok(()),
            },
        };
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL).context("cannot kill")?;
        report.kills += 1;
        report.kills_of[which] += 1;
        match which {
            0 => {
                self.client.wait()?;
                self.begin_again()?;
            }
            1 => self.world.start_server()?,
            _ => {}
        }
        Ok(())
    }

    fn begin_again(&mut self) -> Result<()> {
        self.attempts += 1;
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.client = self.world.begin(&format!("{}-{}", self.name, self.attempts), &arguments)?;
        Ok(())
    }

    fn output(&self, attempt: u64) -> String {
        fs::read_to_string(self.world.path(&format!("{}-{attempt}.out", self.name))).unwrap_or_default()
    }

    /// What each interruption cost, bytes: received in whole blocks before, not durable after.
    fn costs(&self) -> Result<Vec<u64>> {
        let (mut costs, mut received) = (Vec::new(), None::<u64>);
        // Durable before this attempt, received in it.
        let (mut kept, mut sent) = (0, 0);
        for attempt in 1..=self.attempts {
            for event in self.output(attempt).lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
                match event["event"].as_str() {
                    Some("started") => {
                        let durable = event["bytes_kept"].as_u64().context("the event 'started' has no 'bytes_kept'")?;
                        if let Some(before) = received {
                            costs.push(before.saturating_sub(durable));
                        }
                        (kept, sent) = (durable, 0);
                        received = Some(kept);
                    }
                    Some("progress") => {
                        sent = event["bytes_sent"].as_u64().unwrap_or(sent).max(sent);
                        received = Some(kept + sent);
                    }
                    _ => {}
                }
            }
        }
        Ok(costs)
    }
}
