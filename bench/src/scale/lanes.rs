//! Many uploads at the same time: idle, then running.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::load::{Answer, FIRST_FILE_BYTES, Quantiles};
use super::process::{LoadProcess, goodput_bps};
use super::watch::Held;
use super::{Arguments, GIB, MIB, start_server};
use crate::budget::{self, Budget};
use crate::process::Interrupt;
use crate::testbed::{Testbed, TestbedOptions, write_random};
use crate::{median, spread};
use tradewind_sim::battery::jain;
use tradewind_wire::limits::chunk_bytes_for_mtu;

/// Bytes of the file that lanes send over and over: a part at most, and a block at least. What all lanes have begun when time is up is still sent.
const NEXT_FILE_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=8 << 20;
/// The same of all lanes together.
const NEXT_FILES_BYTES: u64 = 400 << 20;
/// Uploads that are set up at the same time.
const SET_UP_AT_ONCE: usize = 16;
const SET_UP_DEADLINE: Duration = Duration::from_secs(180);
const END_DEADLINE: Duration = Duration::from_secs(600);
/// What each lane adds to the time in which all find their rates, seconds: each brings blocks whose memory is touched for the first time.
const RAMP_SECONDS_PER_LANE: f64 = 0.03;
/// How long idle lanes settle before they are looked at, and how long their CPU time is watched.
const SETTLE: Duration = Duration::from_secs(2);
const WATCH: Duration = Duration::from_secs(3);
/// How often a new engine is looked at until it takes no more memory.
const SETTLE_LOOKS_MAX: u32 = 20;
/// Bar of issue 6, bytes.
pub(super) const IDLE_BYTES_MAX: f64 = MIB;
/// Bar of issue 6, of one lane's goodput.
pub(super) const AGGREGATE_MIN: f64 = 0.8;

/// One turn with so many lanes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Turn {
    /// Lanes that the server took.
    opened: usize,
    /// What went wrong with each lane that failed or was refused.
    failed: Vec<String>,
    set_up_seconds: f64,
    /// From the beginning of set-up to the server's offer, milliseconds.
    set_up_ms: Quantiles,
    /// From the beginning of set-up until the receiver holds the first block (1 MiB), milliseconds.
    first_block_ms: Quantiles,
    engine_before: Held,
    engine_idle: Held,
    engine_running: Held,
    control_idle: Held,
    client_idle: Held,
    /// Engine and control process with idle lanes, cores.
    cpu_idle: f64,
    /// Payload over the window in which all run, bit/s, of all lanes.
    goodput_bps: f64,
    /// Payload of everything, from the moment sources go on to the last upload's end, bit/s.
    goodput_whole_bps: f64,
    jain: f64,
    /// Slowest and fastest lane over the mean.
    slowest: f64,
    fastest: f64,
    /// Both ends, over the window.
    cpu_s_per_gib: f64,
    cpu_s_per_gib_server: f64,
    /// DATA packets sent again over all.
    again: f64,
}

impl Turn {
    fn per_idle_lane(&self) -> f64 {
        self.engine_idle.pss_bytes.saturating_sub(self.engine_before.pss_bytes) as f64 / self.opened.max(1) as f64
    }

    fn per_running_lane(&self) -> f64 {
        self.engine_running.pss_bytes.saturating_sub(self.engine_before.pss_bytes) as f64 / self.opened.max(1) as f64
    }
}

/// A number of lanes: medians of its turns.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `lanes-N`.
    pub case: String,
    tool: &'static str,
    /// Lanes wanted.
    pub lanes: usize,
    /// Fewest that were taken.
    pub opened: usize,
    /// All turns' failures.
    pub failed: usize,
    /// Payload over the window in which all run.
    pub gbit_per_s: f64,
    pub(super) gbit_per_s_whole: f64,
    /// Over that of one lane, if that was measured.
    pub over_one_lane: Option<f64>,
    /// Jain's index of the lanes' goodput in the window.
    pub jain: f64,
    pub(super) first_block_p50_ms: f64,
    pub(super) first_block_p99_ms: f64,
    /// From the beginning of set-up to the server's offer, medians of the turns.
    set_up_ms: Quantiles,
    /// From the beginning of set-up until the receiver holds the first block, medians of the turns.
    first_block_ms: Quantiles,
    /// Engine's memory that came with the lanes, over their number.
    pub idle_bytes_per_lane: f64,
    pub(super) running_bytes_per_lane: f64,
    pub(super) cpu_idle: f64,
    pub(super) cpu_s_per_gib: f64,
    pub(super) spread: f64,
    pub(super) turns: Vec<Turn>,
}

impl Row {
    /// Of all turns.
    pub(super) fn failures(&self) -> impl Iterator<Item = &String> {
        self.turns.iter().flat_map(|turn| &turn.failed)
    }
}

/// Both ends, and the files of so many lanes.
pub(super) fn bed(arguments: &Arguments, lanes: usize, interrupt: &Interrupt) -> Result<Testbed> {
    let options = TestbedOptions { in_memory: true, direct: true, wire_like: arguments.wire_like, ..TestbedOptions::default() };
    let testbed = Testbed::without_link("twscale", &options, interrupt)?;
    write_random(&testbed.path("first"), FIRST_FILE_BYTES)?;
    write_random(&testbed.path("next"), (NEXT_FILES_BYTES / lanes as u64).clamp(*NEXT_FILE_BYTES.start(), *NEXT_FILE_BYTES.end()))?;
    Ok(testbed)
}

/// Plays all turns of a number of lanes.
pub(super) fn measure(arguments: &Arguments, testbed: &Testbed, lanes: usize) -> Result<Row> {
    let turns = (0..arguments.turns).map(|_| Ok(turn(arguments, testbed, lanes, false)?.0)).collect::<Result<Vec<Turn>>>()?;
    let of = |value: &dyn Fn(&Turn) -> f64| median(turns.iter().map(value));
    Ok(Row {
        case: case(lanes),
        tool: "tradewind",
        lanes,
        opened: turns.iter().map(|turn| turn.opened).min().unwrap_or(0),
        failed: turns.iter().map(|turn| turn.failed.len()).sum(),
        gbit_per_s: of(&|turn| turn.goodput_bps / 1e9),
        gbit_per_s_whole: of(&|turn| turn.goodput_whole_bps / 1e9),
        over_one_lane: None,
        jain: of(&|turn| turn.jain),
        first_block_p50_ms: of(&|turn| turn.first_block_ms.p50),
        first_block_p99_ms: of(&|turn| turn.first_block_ms.p99),
        set_up_ms: Quantiles::of_turns(turns.iter().map(|turn| turn.set_up_ms)),
        first_block_ms: Quantiles::of_turns(turns.iter().map(|turn| turn.first_block_ms)),
        idle_bytes_per_lane: of(&Turn::per_idle_lane),
        running_bytes_per_lane: of(&Turn::per_running_lane),
        cpu_idle: of(&|turn| turn.cpu_idle),
        cpu_s_per_gib: of(&|turn| turn.cpu_s_per_gib),
        spread: spread(turns.iter().map(|turn| turn.goodput_bps)),
        turns,
    })
}

/// One more turn, with `perf` beside it while all lanes run.
pub(super) fn watched(arguments: &Arguments, testbed: &Testbed, lanes: usize) -> Result<Budget> {
    turn(arguments, testbed, lanes, true)?.1.context("nothing was watched")
}

fn turn(arguments: &Arguments, testbed: &Testbed, lanes: usize, is_watched: bool) -> Result<(Turn, Option<Budget>)> {
    let mut server = start_server(arguments, testbed, "")?;
    let control = server.process().pid();
    let Some(engine) = server.engine_pid() else { bail!("no engine") };
    let engine_before = settled(testbed, engine)?;
    let mut load = LoadProcess::start(testbed, lanes, SET_UP_AT_ONCE, "faux:scale/")?;
    let (opened, set_up_seconds) = match load.answer(SET_UP_DEADLINE)? {
        Answer::Opened { lanes, failed, seconds } => {
            ensure!(lanes > 0, "no lane was opened: {}", failed.join("; "));
            (lanes, seconds)
        }
        other => bail!("not what was expected: {other:?}"),
    };
    let (set_up_ms, first_block_ms) = match load.answer(SET_UP_DEADLINE)? {
        Answer::Idle { set_up, first_block, .. } => (set_up, first_block),
        other => bail!("not what was expected: {other:?}"),
    };
    wait(testbed, SETTLE)?;
    let cpu = server.cpu_s();
    wait(testbed, WATCH)?;
    let cpu_idle = (server.cpu_s() - cpu) / WATCH.as_secs_f64();
    let (engine_idle, control_idle, client_idle) = (Held::by(engine), Held::by(control), Held::by(load.pid()));

    load.tell("go")?;
    wait(testbed, Duration::from_secs_f64(arguments.ramp_seconds + lanes as f64 * RAMP_SECONDS_PER_LANE))?;
    let watch = is_watched.then(|| budget::Watch::start(testbed)).transpose()?;
    let (before, cpu, cpu_client) = (load.sample()?, server.cpu_s(), load.cpu_s());
    wait(testbed, Duration::from_secs_f64(arguments.seconds / 2.0))?;
    let engine_running = Held::by(engine);
    wait(testbed, Duration::from_secs_f64(arguments.seconds / 2.0))?;
    let (after, cpu_server, cpu_client) = (load.sample()?, server.cpu_s() - cpu, load.cpu_s() - cpu_client);
    let rates = goodput_bps(&before, &after);
    let goodput_bps: f64 = rates.iter().sum();
    let payload = before.iter().zip(&after).map(|(before, after)| after.1.saturating_sub(before.1)).sum::<u64>();
    let budget = watch.map(|watch| {
        let packets = payload / chunk_bytes_for_mtu(TestbedOptions::default().mtu_bytes as usize, false) as u64;
        watch.budget(testbed, &case(lanes), goodput_bps / 1e9, packets)
    });
    load.tell("stop")?;
    let (bytes, seconds_since_go, failed, again) = match load.answer(END_DEADLINE)? {
        Answer::Ended { bytes, seconds_since_go, failed, again, .. } => (bytes, seconds_since_go, failed, again),
        other => bail!("not what was expected: {other:?}"),
    };
    let mean = goodput_bps / rates.len().max(1) as f64;
    let gib = payload as f64 / GIB;
    let turn = Turn {
        opened,
        failed,
        set_up_seconds,
        set_up_ms,
        first_block_ms,
        engine_before,
        engine_idle,
        engine_running,
        control_idle,
        client_idle,
        cpu_idle,
        goodput_bps,
        goodput_whole_bps: bytes.saturating_sub(opened as u64 * FIRST_FILE_BYTES) as f64 * 8.0 / seconds_since_go,
        jain: jain(&rates),
        slowest: rates.iter().copied().fold(f64::MAX, f64::min) / mean,
        fastest: rates.iter().copied().fold(0.0, f64::max) / mean,
        cpu_s_per_gib: (cpu_server + cpu_client) / gib,
        cpu_s_per_gib_server: cpu_server / gib,
        again,
    };
    Ok((turn, budget.transpose()?))
}

fn case(lanes: usize) -> String {
    format!("lanes-{lanes}")
}

/// What the engine holds once it has prepared its memory for blocks.
fn settled(testbed: &Testbed, engine: u32) -> Result<Held> {
    let mut held = Held::by(engine);
    for _ in 0..SETTLE_LOOKS_MAX {
        wait(testbed, Duration::from_millis(300))?;
        let before = std::mem::replace(&mut held, Held::by(engine));
        if held.pss_bytes <= before.pss_bytes + MIB as u64 {
            break;
        }
    }
    Ok(held)
}

/// Sleeps, unless a signal comes.
pub(super) fn wait(testbed: &Testbed, time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while let left @ 1.. = until.saturating_duration_since(Instant::now()).as_millis() {
        testbed.interrupt.check()?;
        std::thread::sleep(Duration::from_millis(u64::try_from(left).unwrap_or(50).min(50)));
    }
    Ok(())
}
