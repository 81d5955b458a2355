//! Transfers come and go for a long time; whatever grows is a finding.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde::Serialize;

use super::lanes::wait;
use super::session::Session;
use super::trend::{Tolerance, Trend};
use super::watch::Held;
use super::{Arguments, MIB, start_server};
use crate::median;
use crate::process::Interrupt;
use crate::testbed::{Testbed, TestbedOptions, health, write_random};
use crate::tree::{self, Random};

/// Sessions at the same time.
const SESSIONS: usize = 6;
const POLL: Duration = Duration::from_millis(20);
/// A lane whose client was killed is given up after this, and an ended transfer forgotten: both reach their steady state during the warm-up.
const LIMITS: &str = "[limits]\nidle_timeout_s = 15\nfinished_keep_s = 20\n";
/// Of the time, at least this: [`LIMITS`] and what processes set up once.
const WARM_UP_SHARE: f64 = 0.25;
const WARM_UP_MIN: Duration = Duration::from_secs(60);
/// Least and most time between samples.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(20));
/// Samples that a long soak is to have.
const SAMPLES: u32 = 300;
/// How long lanes of killed clients may take to end, afterwards.
const DRAIN: Duration = Duration::from_secs(90);

/// Allocators keep what they had; a leak of 100 bytes a transfer exceeds this within hours.
const MEMORY: Tolerance = Tolerance { share: 0.08, least: 4.0 };
/// Sockets of connections that are ending.
const DESCRIPTORS: Tolerance = Tolerance { share: 0.05, least: 4.0 };
/// More of the engine's at the end than before the first session: SQLite keeps a descriptor of every reader of the journal that there was at the same time.
const ENGINE_DESCRIPTORS_LEFT: f64 = DESCRIPTORS.least + SESSIONS as f64;
const THREADS: Tolerance = Tolerance { share: 0.0, least: 2.0 };
const LANES: Tolerance = Tolerance { share: 0.2, least: 3.0 };
/// Set-up takes some 20 ms on an idle machine, of which a neighbour may double much.
const LATENCY: Tolerance = Tolerance { share: 0.25, least: 15.0 };

/// A look at everything.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    seconds: f64,
    engine: Held,
    control: Held,
    /// Transfers that have not ended, as the control process says.
    lanes: u64,
    /// Median of the sessions that began since the sample before, milliseconds; null if none did.
    set_up_ms: Option<f64>,
    /// Sessions that have ended so far.
    ended: u64,
}

/// A soak and its verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Soak {
    seconds: f64,
    warm_up_seconds: f64,
    /// Sessions that ended as they should.
    pub sessions: u64,
    pub(super) interrupted: u64,
    pub(super) killed: u64,
    /// What went wrong with each that failed.
    pub failed: Vec<String>,
    /// Whether the engine that was there at the beginning was there at the end.
    pub same_engine: bool,
    /// Lanes and descriptors of engine and control process when all was over, beside those before.
    lanes_left: u64,
    descriptors_before: [u64; 2],
    descriptors_after: [u64; 2],
    /// By figure.
    pub trends: Vec<Trend>,
    samples: Vec<Sample>,
}

impl Soak {
    /// What grew, or failed.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.trends.iter().filter(|trend| !trend.holds).map(ToString::to_string).collect();
        problems.extend(self.failed.iter().map(|failure| format!("a session failed: {failure}")));
        if !self.same_engine {
            problems.push("the engine was restarted".to_owned());
        }
        if self.lanes_left > 0 {
            problems.push(format!("{} lanes were still open {} s after the last session", self.lanes_left, DRAIN.as_secs()));
        }
        let who = [("engine", ENGINE_DESCRIPTORS_LEFT), ("control process", DESCRIPTORS.least)];
        for ((who, tolerated), (before, after)) in who.iter().zip(self.descriptors_before.iter().zip(self.descriptors_after)) {
            if after as f64 > *before as f64 + tolerated {
                problems.push(format!("{who}: {after} descriptors at the end, {before} before the first session"));
            }
        }
        problems
    }
}

/// A session's source and its part of all sessions.
struct Kind {
    source: PathBuf,
    is_folder: bool,
}

struct Churn<'a> {
    testbed: &'a Testbed,
    kinds: Vec<Kind>,
    random: Random,
    running: Vec<(Session, Option<(Signal, Duration)>)>,
    number: u64,
    set_ups: Vec<f64>,
    ended: u64,
    interrupted: u64,
    killed: u64,
    failed: Vec<String>,
}

impl Churn<'_> {
    /// Takes what has ended out, sends the signals that are due, and starts others.
    fn turn(&mut self, may_start: bool) -> Result<()> {
        let mut index = 0;
        while index < self.running.len() {
            let (session, signal) = &mut self.running[index];
            if let Some((signal, after)) = *signal
                && session.age() >= after
                && !session.was_signalled()
            {
                session.end_by(signal);
                *(if signal == Signal::SIGKILL { &mut self.killed } else { &mut self.interrupted }) += 1;
            }
            let Some(outcome) = session.outcome()? else {
                index += 1;
                continue;
            };
            self.running.swap_remove(index);
            self.set_ups.extend(outcome.set_up.map(|time| time.as_secs_f64() * 1e3));
            match outcome.failure {
                Some(failure) => self.failed.push(failure),
                None => self.ended += 1,
            }
        }
        while may_start && self.running.len() < SESSIONS {
            self.start()?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        let choice = self.random.below(self.kinds.len() as u64) as usize;
        let Some(kind) = self.kinds.get(choice) else { return Ok(()) };
        // Every tenth is interrupted and every tenth killed, some before they have agreed with the server.
        let after = Duration::from_millis(self.random.below(200));
        let signal = match self.random.below(10) {
            0 => Some((Signal::SIGINT, after)),
            1 => Some((Signal::SIGKILL, after)),
            _ => None,
        };
        self.number += 1;
        // A destination of its own: whoever comes to that of a killed one waits until that counts as gone.
        let destination = format!("faux:soak/{}{}", self.number, if kind.is_folder { "/" } else { "" });
        let session = Session::start(self.testbed, &kind.source, &destination)?;
        self.running.push((session, signal));
        Ok(())
    }
}

/// Plays it.
pub(super) fn measure(arguments: &Arguments, time: Duration, interrupt: &Interrupt) -> Result<Soak> {
    let options = TestbedOptions { in_memory: true, direct: true, wire_like: arguments.wire_like, ..TestbedOptions::default() };
    let testbed = Testbed::without_link("twscale", &options, interrupt)?;
    let kinds = kinds(&testbed)?;
    let mut server = start_server(arguments, &testbed, LIMITS)?;
    let (control, engine) = (server.process().pid(), server.engine_pid().context("no engine")?);
    let descriptors = || [Held::by(engine).descriptors, Held::by(control).descriptors];
    let descriptors_before = descriptors();
    let mut churn = Churn {
        testbed: &testbed,
        kinds,
        random: Random::new(1),
        running: Vec::new(),
        number: 0,
        set_ups: Vec::new(),
        ended: 0,
        interrupted: 0,
        killed: 0,
        failed: Vec::new(),
    };
    let warm_up = time.mul_f64(WARM_UP_SHARE).max(WARM_UP_MIN);
    let interval = (time / SAMPLES).clamp(INTERVAL.0, INTERVAL.1);
    let (began, mut next, mut samples) = (Instant::now(), interval, Vec::new());
    println!("soak of {} s, {} s of them warm-up, a sample every {} s", time.as_secs(), warm_up.as_secs(), interval.as_secs());
    while began.elapsed() < time {
        interrupt.check()?;
        churn.turn(true)?;
        if began.elapsed() >= next {
            next += interval;
            let sample = look(&testbed, &mut churn, began, (engine, control))?;
            if samples.len() % 15 == 0 {
                println!("{}", line(&sample));
            }
            samples.push(sample);
        }
        std::thread::sleep(POLL);
    }
    let until = Instant::now() + DRAIN;
    while !churn.running.is_empty() && Instant::now() < until {
        interrupt.check()?;
        churn.turn(false)?;
        std::thread::sleep(POLL);
    }
    churn.failed.extend(churn.running.drain(..).map(|(session, _)| format!("it did not end within {:.0} s", session.age().as_secs_f64())));
    while lanes(&testbed)? > 0 && Instant::now() < until {
        wait(&testbed, Duration::from_secs(1))?;
    }
    let lanes_left = lanes(&testbed)?;
    // Connections that had just ended.
    wait(&testbed, Duration::from_secs(2))?;
    Ok(Soak {
        seconds: time.as_secs_f64(),
        warm_up_seconds: warm_up.as_secs_f64(),
        sessions: churn.ended,
        interrupted: churn.interrupted,
        killed: churn.killed,
        failed: churn.failed,
        same_engine: server.engine_pid() == Some(engine),
        lanes_left,
        descriptors_before,
        descriptors_after: descriptors(),
        trends: trends(&samples, warm_up.as_secs_f64()),
        samples,
    })
}

/// Small, middling and large files, and a folder of many.
fn kinds(testbed: &Testbed) -> Result<Vec<Kind>> {
    let file = |name: &str, bytes| -> Result<Kind> {
        let source = testbed.path(name);
        write_random(&source, bytes)?;
        Ok(Kind { source, is_folder: false })
    };
    let folder = testbed.path("many");
    fs::create_dir(&folder)?;
    tree::uniform(&folder, 200, 10_240, &mut Random::new(2))?;
    let many = Kind { source: folder, is_folder: true };
    Ok(vec![file("small", 64 << 10)?, file("first", 1 << 20)?, file("middle", 16 << 20)?, file("large", 64 << 20)?, many])
}

fn lanes(testbed: &Testbed) -> Result<u64> {
    health(testbed)?["engine"]["transfers_active"].as_u64().context("the control process does not say how many transfers there are")
}

fn look(testbed: &Testbed, churn: &mut Churn<'_>, began: Instant, (engine, control): (u32, u32)) -> Result<Sample> {
    let set_ups = std::mem::take(&mut churn.set_ups);
    let set_up_ms = (!set_ups.is_empty()).then(|| median(set_ups.into_iter()));
    let (engine, control) = (Held::by(engine), Held::by(control));
    Ok(Sample { seconds: began.elapsed().as_secs_f64(), engine, control, lanes: lanes(testbed)?, set_up_ms, ended: churn.ended })
}

fn line(sample: &Sample) -> String {
    format!(
        "{:>7.0} s  {:>6} sessions  engine {:>7.1} MiB {:>4} descriptors {:>3} threads  control {:>6.1} MiB {:>4} descriptors  {:>3} lanes  set-up {} ms",
        sample.seconds,
        sample.ended,
        sample.engine.rss_bytes as f64 / MIB,
        sample.engine.descriptors,
        sample.engine.threads,
        sample.control.rss_bytes as f64 / MIB,
        sample.control.descriptors,
        sample.lanes,
        sample.set_up_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0}"))
    )
}

fn trends(samples: &[Sample], warm_up_seconds: f64) -> Vec<Trend> {
    let warm: Vec<&Sample> = samples.iter().filter(|sample| sample.seconds >= warm_up_seconds).collect();
    let of = |what: &str, unit, tolerance, value: &dyn Fn(&Sample) -> Option<f64>| {
        let series: Vec<(f64, f64)> = warm.iter().filter_map(|sample| Some((sample.seconds, value(sample)?))).collect();
        Trend::of(what, unit, &series, tolerance)
    };
    let mib = |bytes: u64| Some(bytes as f64 / MIB);
    vec![
        of("engine: resident memory", "MiB", MEMORY, &|sample| mib(sample.engine.rss_bytes)),
        of("engine: descriptors", "", DESCRIPTORS, &|sample| Some(sample.engine.descriptors as f64)),
        of("engine: threads", "", THREADS, &|sample| Some(sample.engine.threads as f64)),
        of("control: resident memory", "MiB", MEMORY, &|sample| mib(sample.control.rss_bytes)),
        of("control: descriptors", "", DESCRIPTORS, &|sample| Some(sample.control.descriptors as f64)),
        of("control: threads", "", THREADS, &|sample| Some(sample.control.threads as f64)),
        of("lanes open", "", LANES, &|sample| Some(sample.lanes as f64)),
        of("set-up", "ms", LATENCY, &|sample| sample.set_up_ms),
    ]
}
