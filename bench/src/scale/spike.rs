//! Many sessions at once, while one large upload runs.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use super::lanes::wait;
use super::load::{Answer, FIRST_FILE_BYTES, Quantiles};
use super::process::{LoadProcess, goodput_bps};
use super::session::{Outcome, Session};
use super::{Arguments, start_server};
use crate::process::Interrupt;
use crate::testbed::{Testbed, TestbedOptions, write_random};

const LARGE_FILE_BYTES: u64 = 8 << 20;
const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);
/// How long the large upload is watched before and after.
const WATCH: Duration = Duration::from_secs(3);

/// What a spike did.
#[derive(Clone, Debug, Serialize)]
pub struct Spike {
    /// `spike-N`.
    pub case: String,
    tool: &'static str,
    /// `tradewind send` processes that were started at once, each with a file of 1 MiB.
    pub sessions: usize,
    /// What went wrong with each that failed.
    pub failed: Vec<String>,
    /// From a process's start to the server's agreement.
    pub set_up_ms: Quantiles,
    /// From a process's start to its end, when all is durable.
    pub whole_ms: Quantiles,
    /// From the first start to the last end.
    pub seconds: f64,
    /// Of the large upload, payload: before, during and after.
    pub(super) goodput_bps: [f64; 3],
    /// Of what it had before.
    pub large_during_over_before: f64,
    /// The same afterwards.
    pub large_after_over_before: f64,
    large_failed: Vec<String>,
}

impl Spike {
    /// Of the sessions and of the large upload.
    pub(super) fn failures(&self) -> impl Iterator<Item = &String> {
        self.failed.iter().chain(&self.large_failed)
    }
}

/// Plays it.
pub(super) fn measure(arguments: &Arguments, sessions: usize, interrupt: &Interrupt) -> Result<Spike> {
    let options = TestbedOptions { in_memory: true, direct: true, wire_like: arguments.wire_like, ..TestbedOptions::default() };
    let testbed = Testbed::without_link("twscale", &options, interrupt)?;
    write_random(&testbed.path("first"), FIRST_FILE_BYTES)?;
    write_random(&testbed.path("next"), LARGE_FILE_BYTES)?;
    let _server = start_server(arguments, &testbed, "")?;
    // So that they trust the server already, as users who come again do.
    let first = all(&testbed, 1)?;
    ensure!(first.iter().all(|session| session.failure.is_none()), "a session alone failed: {:?}", first[0].failure);

    let mut load = LoadProcess::start(&testbed, 1, 1, "faux:large/")?;
    for _ in ["opened", "idle"] {
        if let Answer::Opened { lanes: 0, failed, .. } = load.answer(DEADLINE)? {
            bail!("the large upload was refused: {}", failed.join("; "));
        }
    }
    load.tell("go")?;
    wait(&testbed, Duration::from_secs_f64(arguments.ramp_seconds))?;
    let start = load.sample()?;
    wait(&testbed, WATCH)?;
    let before = load.sample()?;
    let began = Instant::now();
    let outcomes = all(&testbed, sessions)?;
    let seconds = began.elapsed().as_secs_f64();
    let during = load.sample()?;
    wait(&testbed, WATCH)?;
    let after = load.sample()?;
    load.tell("stop")?;
    let large_failed = match load.answer(DEADLINE)? {
        Answer::Ended { failed, .. } => failed,
        other => bail!("not what was expected: {other:?}"),
    };
    let rate = |from: &[(f64, u64)], to: &[(f64, u64)]| goodput_bps(from, to).iter().sum::<f64>();
    let goodput_bps = [rate(&start, &before), rate(&before, &during), rate(&during, &after)];
    Ok(Spike {
        case: format!("spike-{sessions}"),
        tool: "tradewind",
        sessions,
        failed: outcomes.iter().filter_map(|outcome| outcome.failure.clone()).collect(),
        set_up_ms: Quantiles::of(outcomes.iter().filter_map(|outcome| outcome.set_up)),
        whole_ms: Quantiles::of(outcomes.iter().map(|outcome| outcome.whole)),
        seconds,
        goodput_bps,
        large_during_over_before: goodput_bps[1] / goodput_bps[0],
        large_after_over_before: goodput_bps[2] / goodput_bps[0],
        large_failed,
    })
}

/// Starts so many sessions as fast as processes start, and waits for all.
fn all(testbed: &Testbed, sessions: usize) -> Result<Vec<Outcome>> {
    let start = |index| Session::start(testbed, &testbed.path("first"), &format!("faux:spike/{index}"));
    let mut running = (0..sessions).map(start).collect::<Result<Vec<Session>>>()?;
    let (mut outcomes, began) = (Vec::with_capacity(sessions), Instant::now());
    while !running.is_empty() {
        testbed.interrupt.check()?;
        ensure!(began.elapsed() < DEADLINE, "{} of {sessions} sessions did not end within {} s", running.len(), DEADLINE.as_secs());
        let mut left = Vec::with_capacity(running.len());
        for mut session in running {
            match session.outcome()? {
                Some(outcome) => outcomes.push(outcome),
                None => left.push(session),
            }
        }
        running = left;
        std::thread::sleep(POLL);
    }
    Ok(outcomes)
}
