//! What the end-to-end tests share: a world with everything running, and the user's command in it.
#![forbid(unsafe_code)]

pub mod containers;

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tradewind_bench::process::{Finished, Interrupt, run};
use tradewind_bench::testbed::{Server, ServerOptions, Store, Testbed, TestbedOptions, health, write_random};
use tradewind_netem::Scenario;

/// RTT 20 ms, 1 % loss each way, 100 Mbit/s, 50 ms of queue: enough to be a WAN, quick enough for a test.
const SCENARIO: &str = r#"
name = "test"
description = "a short, lossy WAN for end-to-end tests"
seed = 7

[forward]
rate_bps = 100_000_000
delay_ms = 10
loss = 0.01
queue_ms = 50
"#;

/// How long a transfer may take to begin: on a busy machine the store answers late.
const BEGIN_DEADLINE: Duration = Duration::from_secs(30);

/// Client, WAN, S3 server, tradewindd with its engine. Dropping it removes everything.
pub struct World {
    /// The control process.
    pub server: Server,
    /// The S3 server.
    pub store: Store,
    /// The namespaces.
    pub testbed: Testbed,
}

impl World {
    /// Starts everything, or prints `SKIP: reason` and returns `None` without root.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn start(options: &ServerOptions<'_>) -> Result<Option<Self>> {
        Self::behind(options, &[])
    }

    /// The same with further arguments for the emulator, such as `--rebind-ms`.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn behind(options: &ServerOptions<'_>, arguments: &[&str]) -> Result<Option<Self>> {
        if !is_root() {
            println!("SKIP: end-to-end tests make network namespaces and need root");
            return Ok(None);
        }
        let mut testbed = Testbed::without_link("twtest", &TestbedOptions::default(), &Interrupt::default())?;
        testbed.play(&Scenario::from_toml(SCENARIO)?, arguments)?;
        let store = Store::start(&testbed)?;
        let server = Server::start(&testbed, &store, options)?;
        Ok(Some(Self { server, store, testbed }))
    }

    /// Starts the emulator again, with these further arguments; its clock begins anew.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn replay(&mut self, arguments: &[&str]) -> Result<()> {
        self.testbed.stop_emulator()?;
        self.testbed.play(&Scenario::from_toml(SCENARIO)?, arguments)
    }

    /// Mode of AF_XDP as the server reports it.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn xdp_mode(&self) -> Result<String> {
        health(&self.testbed)?["engine"]["xdp"]["mode"].as_str().map(str::to_owned).context("no mode in /healthz")
    }

    /// Ids of the transfers that the server knows.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn transfers(&self) -> Result<Vec<String>> {
        let listed: Value = serde_json::from_str(&self.tradewind(&["status", "--json"])?.stdout)?;
        let transfers = listed["transfers"].as_array().context("no transfers")?;
        Ok(transfers.iter().filter_map(|transfer| transfer["transfer_id"].as_str().map(str::to_owned)).collect())
    }

    /// What the server says of a transfer.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self, id: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.tradewind(&["status", "--json", id])?.stdout)?)
    }

    /// Waits until what the server says of a transfer fits; then that.
    ///
    /// # Errors
    /// When it does not in so many seconds; the message says what was waited for.
    pub fn wait_for(&self, id: &str, seconds: u64, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let found = self.status(id)?;
            if fits(&found) {
                return Ok(found);
            }
            ensure!(Instant::now() < deadline, "not {what}: {found}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits, for a minute, until one of a transfer's totals is so large.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn wait_for_total(&self, id: &str, total: &str, least: u64) -> Result<Value> {
        self.wait_for(id, 60, &format!("{least} {total}"), |status| status["totals"][total].as_u64() >= Some(least))
    }

    /// Waits until a transfer that is not among the `known` ones has received its first bytes; returns its id.
    ///
    /// # Errors
    /// When none does in time.
    pub fn wait_for_bytes(&self, known: &[String]) -> Result<String> {
        let deadline = Instant::now() + BEGIN_DEADLINE;
        loop {
            for id in self.transfers()?.into_iter().filter(|id| !known.contains(id)) {
                if self.status(&id)?["totals"]["bytes_received"].as_u64().is_some_and(|bytes| bytes > 0) {
                    return Ok(id);
                }
            }
            ensure!(Instant::now() < deadline, "no transfer began");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Makes a file of random bytes.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn file(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.testbed.path(name);
        write_random(&path, bytes)?;
        Ok(path)
    }

    /// Runs `tradewind` with these arguments at the client.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn tradewind(&self, arguments: &[&str]) -> Result<Finished> {
        run(Server::tradewind(&self.testbed).args(arguments), &self.testbed.interrupt, Duration::from_secs(120))
    }

    /// `tradewind send --json FILE DESTINATION` and further arguments.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn send(&self, file: &Path, destination: &str, further: &[&str]) -> Result<Finished> {
        self.send_in_background(file, destination, further).join().expect("the thread panicked")
    }

    /// The same on a thread of its own.
    #[must_use]
    pub fn send_in_background(&self, file: &Path, destination: &str, further: &[&str]) -> JoinHandle<Result<Finished>> {
        let mut command = Server::tradewind(&self.testbed);
        command.args(["send", "--json"]).arg(file).arg(destination).args(further);
        let interrupt = self.testbed.interrupt.clone();
        std::thread::spawn(move || run(&mut command, &interrupt, Duration::from_secs(120)))
    }
}

/// The last event of a kind that `tradewind --json` wrote.
#[must_use]
pub fn event(finished: &Finished, kind: &str) -> Option<Value> {
    let mut events = finished.stdout.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.find(|event| event["event"] == kind)
}

/// Measures, up to four times and later each time, until what is measured holds: a machine that stands still for a moment spoils one measurement, a
/// fault all of them. What must hold each time is asserted inside, with a panic.
///
/// # Errors
/// The last measurement's.
pub fn settled(mut measure: impl FnMut() -> Result<()>) -> Result<()> {
    let mut result = measure();
    for pause_s in [1, 4, 8] {
        let Err(error) = result else { break };
        println!("measured again: {error:#}");
        std::thread::sleep(Duration::from_secs(pause_s));
        result = measure();
    }
    result
}

/// Whether this process may make network namespaces.
#[must_use]
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}
