//! One encounter, played and counted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use tradewind_netem::Scenario;
use tradewind_netem::flows::{FlowAccount, FlowSpec, SERIES_STEP_MS};
use tradewind_netem::scenario::DirectionSpec;

use super::case::{Case, jain};
use super::flow::{CLIENT_PORTS, Flow, Left};
use super::{REPEATS, Report};
use crate::testbed::Testbed;

const STEPS_PER_S: usize = (1000 / SERIES_STEP_MS) as usize;
/// How long a flow may take to send its first packet: set-up over TLS on a busy machine.
const START_DEADLINE_S: u32 = 20;

/// What came of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The case.
    pub case: Case,
    /// Its bar, for people.
    pub bar_text: String,
    /// Whether the bar was reached; `None`: there is none, or the run is not valid.
    pub bar_met: Option<bool>,
    /// Runs.
    pub attempts: u32,
    /// Whether the last of them may be used.
    pub valid: bool,
    /// Why not.
    pub problems: Vec<String>,
    /// What was measured, since the link's start, seconds.
    pub window_s: [f64; 2],
    /// Share of the link's rate, first and newcomer.
    pub shares: [f64; 2],
    /// Payload per second, as the receiving program or the client's progress says.
    pub goodput_bps: [Option<f64>; 2],
    /// Jain's index of the shares.
    pub jain: f64,
    /// Newcomer's share over the first one's.
    pub ratio: f64,
    /// Median of the queue's 100 ms means within the window, ms.
    pub queue_ms_p50: f64,
    /// 95th percentile, ms.
    pub queue_ms_p95: f64,
    /// Packets of each that found the queue full, whole run.
    pub queue_drops: [u64; 2],
    /// Second by second since the link's start.
    pub series: Vec<Second>,
    /// Bytes that the TCP receiver got in each 100 ms.
    pub tcp_received_bytes_per_100ms: Option<Vec<u64>>,
    /// The clients' events.
    pub client_progress: [Vec<Value>; 2],
    /// The emulator's statistics without the series.
    pub emulator: Value,
}

/// A second of the link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Second {
    /// Since the link's start.
    pub t_s: usize,
    /// Frames that came through, first and newcomer.
    pub mbps: [f64; 2],
    /// Mean of what packets found in the queue.
    pub queue_ms: f64,
}

/// Plays a case until a run is valid, or often enough.
pub(super) fn case(testbed: &mut Testbed, case: &Case, report: &Report) -> Result<Outcome> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut outcome = Outcome::blank(case, attempts);
        play(testbed, case, report, &mut outcome)?;
        outcome.valid = outcome.problems.is_empty();
        if outcome.valid {
            outcome.bar_met = case.bar.is_met(outcome.shares);
        }
        if outcome.valid || attempts > REPEATS {
            return Ok(outcome);
        }
    }
}

impl Outcome {
    /// Nothing counted yet.
    fn blank(case: &Case, attempts: u32) -> Self {
        Self {
            case: case.clone(),
            bar_text: case.bar.text(),
            bar_met: None,
            attempts,
            valid: false,
            problems: Vec::new(),
            window_s: [0.0; 2],
            shares: [0.0; 2],
            goodput_bps: [None; 2],
            jain: 0.0,
            ratio: 0.0,
            queue_ms_p50: 0.0,
            queue_ms_p95: 0.0,
            queue_drops: [0; 2],
            series: Vec::new(),
            tcp_received_bytes_per_100ms: None,
            client_progress: [Vec::new(), Vec::new()],
            emulator: Value::Null,
        }
    }
}

fn play(testbed: &mut Testbed, case: &Case, report: &Report, outcome: &mut Outcome) -> Result<()> {
    let base_ms = case.rtt_ms[0].min(case.rtt_ms[1]);
    let flows: Vec<FlowSpec> = (0..2)
        .map(|index| FlowSpec {
            name: ["first", "newcomer"][index].to_owned(),
            client_ports: CLIENT_PORTS[index].0..=CLIENT_PORTS[index].1,
            extra_delay_ms: (case.rtt_ms[index] - base_ms) / 2.0,
        })
        .collect();
    let arguments: Vec<String> = flows.iter().flat_map(|flow| ["--flow".to_owned(), flow.to_string()]).collect();
    let direction = DirectionSpec {
        rate_bps: Some(report.rate_bps),
        queue_bytes: Some(report.queue_bytes),
        delay_ms: base_ms / 2.0,
        ..DirectionSpec::default()
    };
    let scenario = Scenario::new("fairness", "", 1, direction, None)?;
    testbed.play(&scenario, &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    let dropped_before = testbed.topology.end_send_drops()?;

    let active_s = report.stagger_s + report.skip_s + report.seconds;
    // More than the whole link carries in that time, so that no flow of ours ends before it is stopped.
    let bytes = report.rate_bps / 8 * u64::from(active_s + 2 * START_DEADLINE_S);
    let first = Flow::start(testbed, case.first, 0, bytes)?;
    pause(testbed, report.stagger_s)?;
    let newcomer = Flow::start(testbed, case.newcomer, 1, bytes)?;
    // Its set-up takes some round trips; what is too much is cut off.
    pause(testbed, report.skip_s + report.seconds + 1 + (case.rtt_ms[1] * 10.0 / 1000.0).ceil() as u32)?;
    let left = [first.stop(), newcomer.stop()];

    let dropped = testbed.topology.end_send_drops()?;
    let mut stats = testbed.stop_emulator()?;
    outcome.problems.clone_from(&stats.invalid_reasons);
    if dropped != dropped_before {
        outcome.problems.push("the ends' interfaces dropped packets before the emulator saw them".to_owned());
    }
    let account = stats.flows.take().context("the emulator kept no account of flows")?;
    outcome.emulator = serde_json::to_value(&stats)?;
    let mut kept = [Left::default(), Left::default()];
    for (index, left) in left.into_iter().enumerate() {
        match left {
            Ok(left) => kept[index] = left,
            Err(error) => outcome.problems.push(format!("{}: {error:#}", [case.first, case.newcomer][index].name())),
        }
    }
    if let Err(error) = count(&account, &kept, report, outcome) {
        outcome.problems.push(format!("{error:#}"));
    }
    outcome.client_progress = kept.each_mut().map(|left| std::mem::take(&mut left.progress));
    outcome.tcp_received_bytes_per_100ms = kept.iter_mut().find_map(|left| left.received.take());
    for index in 0..2 {
        // Memory, not disk: the next case needs it. What a cancelled transfer left is not there at all.
        let _ = std::fs::remove_file(testbed.path(&format!("flow-{index}.bin")));
        let _ = std::fs::remove_file(testbed.path(&format!("local/flow-{index}.bin")));
    }
    Ok(())
}

/// Waits and listens for Ctrl-C.
fn pause(testbed: &Testbed, seconds: u32) -> Result<()> {
    let (started, length) = (Instant::now(), Duration::from_secs(u64::from(seconds)));
    while started.elapsed() < length {
        testbed.interrupt.check()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Fills in what the accounts say.
fn count(account: &FlowAccount, left: &[Left; 2], report: &Report, outcome: &mut Outcome) -> Result<()> {
    let delivered: Vec<&[u64]> = account.flows.iter().map(|flow| flow.forward.delivered_bytes.as_slice()).collect();
    let [first, newcomer] = delivered.as_slice() else { anyhow::bail!("the emulator kept no account of two flows") };
    let delivered = [*first, *newcomer];
    let milliseconds = |bytes: u64| bytes as f64 * 8000.0 / report.rate_bps as f64;
    outcome.series = series(delivered, &account.forward_backlog_bytes, milliseconds);
    outcome.queue_drops = [account.flows[0].forward.queue_drops, account.flows[1].forward.queue_drops];
    let began: Vec<usize> = delivered.iter().filter_map(|steps| steps.iter().position(|&bytes| bytes > 0)).collect();
    let [first_began, newcomer_began] = began[..] else { anyhow::bail!("one of the flows sent nothing") };
    let start = first_began.max(newcomer_began) + report.skip_s as usize * STEPS_PER_S;
    let end = start + report.seconds as usize * STEPS_PER_S;
    // A flow that starves may end in silence; the link's account must reach to the end all the same.
    if delivered.iter().all(|steps| steps.len() < end) {
        anyhow::bail!("the newcomer started too late: the run ended before {} s were measured; is the machine very busy?", report.seconds);
    }
    outcome.window_s = [start, end].map(|step| step as f64 / STEPS_PER_S as f64);
    outcome.shares = delivered.map(|steps| sum(steps, start, end) as f64 * 8.0 / f64::from(report.seconds) / report.rate_bps as f64);
    outcome.jain = jain(outcome.shares);
    outcome.ratio = if outcome.shares[0] > 0.0 { outcome.shares[1] / outcome.shares[0] } else { f64::INFINITY };
    let backlog = &account.forward_backlog_bytes;
    let mut queue: Vec<u64> = backlog[start.min(backlog.len())..end.min(backlog.len())].to_vec();
    queue.sort_unstable();
    let quantile = |share: f64| queue.get(((queue.len() as f64 * share) as usize).min(queue.len().saturating_sub(1))).copied().unwrap_or(0);
    (outcome.queue_ms_p50, outcome.queue_ms_p95) = (milliseconds(quantile(0.5)), milliseconds(quantile(0.95)));
    for (index, began) in [first_began, newcomer_began].into_iter().enumerate() {
        let (from, to) = (start - began, end - began);
        outcome.goodput_bps[index] = match &left[index].received {
            Some(steps) => Some(sum(steps, from, to) as f64 * 8.0 / f64::from(report.seconds)),
            None => progress_bps(&left[index].progress, from as f64 / STEPS_PER_S as f64, to as f64 / STEPS_PER_S as f64),
        };
    }
    Ok(())
}

fn sum(steps: &[u64], from: usize, to: usize) -> u64 {
    steps[from.min(steps.len())..to.min(steps.len())].iter().sum()
}

fn series(delivered: [&[u64]; 2], backlog: &[u64], milliseconds: impl Fn(u64) -> f64) -> Vec<Second> {
    let steps = delivered[0].len().max(delivered[1].len());
    (0..steps.div_ceil(STEPS_PER_S))
        .map(|second| {
            let (from, to) = (second * STEPS_PER_S, (second + 1) * STEPS_PER_S);
            let mbps = delivered.map(|steps| sum(steps, from, to) as f64 * 8.0 / 1e6);
            Second { t_s: second, mbps, queue_ms: milliseconds(sum(backlog, from, to)) / STEPS_PER_S as f64 }
        })
        .collect()
}

/// Payload in whole blocks between two moments of a flow of ours, bit/s; `None` if its events do not reach that far.
fn progress_bps(progress: &[Value], from_s: f64, to_s: f64) -> Option<f64> {
    let at = |moment: f64| {
        let event = progress.iter().find(|event| event["elapsed_s"].as_f64().is_some_and(|elapsed_s| elapsed_s >= moment))?;
        Some((event["elapsed_s"].as_f64()?, event["bytes_sent"].as_f64()?))
    };
    let (from, to) = (at(from_s)?, at(to_s)?);
    Some((to.1 - from.1) * 8.0 / (to.0 - from.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(elapsed_s: f64, bytes_sent: u64) -> Value {
        json!({"event": "progress", "elapsed_s": elapsed_s, "bytes_sent": bytes_sent})
    }

    #[test]
    fn seconds_are_made_of_steps() {
        let first = vec![1_250_000; 15];
        let series = series([&first, &[]], &[100; 20], |bytes| bytes as f64);
        assert_eq!(series.len(), 2);
        assert_eq!(series[0], Second { t_s: 0, mbps: [100.0, 0.0], queue_ms: 100.0 });
        assert_eq!(series[1].mbps, [50.0, 0.0]);
    }

    #[test]
    fn progress_gives_a_rate_between_two_moments_or_none() {
        let progress = [event(1.0, 0), event(2.0, 1_000_000), event(4.0, 3_000_000)];
        assert_eq!(progress_bps(&progress, 1.5, 3.0), Some(8e6));
        assert_eq!(progress_bps(&progress, 1.5, 5.0), None);
    }
}
