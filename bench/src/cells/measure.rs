//! One cell, by the real processes over the emulator and by the simulator.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tradewind_netem::stats::EmulatorStats;

use super::grid::packet_over_payload;
use super::{AGREEMENT, Cell, Figures, REPEATS, Row};
use crate::ETHERNET_BYTES;
use crate::process::{Finished, run};
use crate::testbed::{Server, Testbed, events, write_zeros};

/// How many times more the simulator plays a cell on which the two disagree.
const OTHER_SEEDS: u64 = 9;
/// Larger transfers are not simulated again: it takes long, and in many packets there is little luck.
const SPREAD_BYTES_MAX: u64 = 64 << 20;
/// A transfer may take so many times as long as at the bound, and then a minute, before it is given up.
const PATIENCE: f64 = 6.0;

/// Measures a cell. An unusable run is repeated; what stays unusable is told in the row.
pub(super) fn cell(testbed: &mut Testbed, cell: &Cell, seed: u64, seconds: f64) -> Result<Row> {
    let file_bytes = cell.file_bytes(seconds);
    let mut row = Row {
        name: cell.name(),
        cell: *cell,
        queue_bytes: cell.queue_bytes(),
        seed,
        file_bytes,
        bound_bps: cell.bound_bps(),
        attempts: 0,
        valid: false,
        problems: Vec::new(),
        failures: Vec::new(),
        emulated: None,
        simulated: None,
        simulated_rtt_ms: cell.rtt_ms,
        emulated_over_simulated: None,
        simulated_spread_bps: None,
        disagrees: false,
        client: Value::Null,
        client_progress: Vec::new(),
        set_up_s: 0.0,
        emulator: Value::Null,
    };
    while !row.valid && row.attempts <= REPEATS {
        row.attempts += 1;
        row.failures.clear();
        emulate(testbed, cell, seconds, &mut row)?;
    }
    if cell.rtt_ms == 0.0 {
        row.simulated_rtt_ms = row.client["rtt_least_ms"].as_f64().unwrap_or(0.0);
    }
    testbed.interrupt.check()?;
    simulate(cell, &mut row);
    row.disagrees = row.valid && !row.failures.is_empty();
    if let (Some(emulated), Some(simulated)) = (&row.emulated, &row.simulated) {
        let ratio = emulated.goodput_bps / simulated.goodput_bps;
        row.emulated_over_simulated = Some(ratio);
        row.disagrees |= row.valid && (ratio - 1.0).abs() > AGREEMENT;
        if row.disagrees {
            row.simulated_spread_bps = spread(cell, row_seeds(seed), file_bytes, row.simulated_rtt_ms, simulated.goodput_bps);
        }
    }
    Ok(row)
}

/// One transfer over the emulated link.
fn emulate(testbed: &mut Testbed, cell: &Cell, seconds: f64, row: &mut Row) -> Result<()> {
    (row.valid, row.emulated, row.problems) = (false, None, Vec::new());
    let source = testbed.path("source.bin");
    write_zeros(&source, row.file_bytes)?;
    testbed.play(&cell.scenario(row.seed)?, &[])?;
    let dropped_before = testbed.topology.end_send_drops()?;
    let mut command = Server::tradewind(testbed);
    // A name of its own: what a failed transfer left may still be open in the server.
    let name = format!("cell-{}-{}.bin", row.seed, row.attempts);
    command.arg("send").arg(&source).arg(format!("local:{name}")).args(["--json", "--overwrite"]);
    let deadline = Duration::from_secs_f64(cell.seconds(seconds) * PATIENCE + 60.0);
    let sent = run(&mut command, &testbed.interrupt, deadline)?;
    let dropped = testbed.topology.end_send_drops()?;
    let emulator = testbed.stop_emulator()?;
    row.emulator = serde_json::to_value(&emulator)?;
    row.client_progress = events(&sent.stdout, "progress");
    row.client = events(&sent.stdout, "done").pop().unwrap_or(Value::Null);
    row.problems.clone_from(&emulator.invalid_reasons);
    if dropped != dropped_before {
        row.problems.push("the ends' interfaces dropped packets before the emulator saw them".to_owned());
    }
    match sent.success("tradewind send").and_then(|()| figures(cell, row, &sent, &emulator)) {
        Ok(figures) => row.emulated = Some(figures),
        Err(error) => row.failures.push(format!("{error:#}")),
    }
    row.valid = row.problems.is_empty();
    // Memory, not disk: the file must be gone before the next one comes.
    let _ = std::fs::remove_file(testbed.path("local").join(name));
    std::fs::remove_file(&source)?;
    Ok(())
}

fn figures(cell: &Cell, row: &mut Row, sent: &Finished, emulator: &EmulatorStats) -> Result<Figures> {
    let number = |name: &str| row.client[name].as_f64().with_context(|| format!("the event 'done' has no number {name}"));
    let (elapsed_s, retransmitted_share) = (number("elapsed_s")?, number("retransmitted_share")?);
    row.set_up_s = sent.elapsed.as_secs_f64() - elapsed_s;
    let ip_bytes = |direction: &tradewind_netem::stats::DirectionStats| {
        (direction.received_bytes - direction.received * u64::from(ETHERNET_BYTES)) as f64
    };
    let backlog = emulator.forward.backlog.context("the emulator's statistics have no backlog")?;
    let (forward, reverse) = (ip_bytes(&emulator.forward), ip_bytes(&emulator.reverse));
    let queue_ms = [backlog.p50_bytes, backlog.p95_bytes].map(|bytes| cell.milliseconds(bytes));
    let counted = Counted { elapsed_s, queue_ms, queue_drops: emulator.forward.queue_drops, forward, reverse, retransmitted_share };
    Ok(counted.figures(cell, row.file_bytes))
}

/// The cell in the simulator.
fn simulate(cell: &Cell, row: &mut Row) {
    let world = cell.world(row.seed, row.file_bytes, row.simulated_rtt_ms);
    match tradewind_sim::run(&world, false) {
        Ok(report) if report.completed => {
            let counted = Counted {
                elapsed_s: report.done_ns as f64 / 1e9,
                queue_ms: [report.queue_ms(0.5), report.queue_ms(0.95)],
                queue_drops: report.dropped_by_queue,
                forward: report.forward_bytes as f64,
                reverse: report.reverse_bytes as f64,
                retransmitted_share: report.sender.data_packets_again as f64 / report.sender.data_packets_sent.max(1) as f64,
            };
            row.simulated = Some(counted.figures(cell, row.file_bytes));
        }
        Ok(_) => row.failures.push("the simulated transfer did not complete".to_owned()),
        Err(failure) => row.failures.push(format!("the simulator: {failure}")),
    }
}

/// Other seeds for the simulator.
fn row_seeds(seed: u64) -> impl Iterator<Item = u64> {
    (1..=OTHER_SEEDS).map(move |n| seed + 1000 * n)
}

/// Least and largest goodput that the simulator gives with other luck, the figure known already among them.
fn spread(cell: &Cell, seeds: impl Iterator<Item = u64>, file_bytes: u64, rtt_ms: f64, known_bps: f64) -> Option<[f64; 2]> {
    if file_bytes > SPREAD_BYTES_MAX {
        return None;
    }
    let mut range = [known_bps; 2];
    for seed in seeds {
        let world = cell.world(seed, file_bytes, rtt_ms);
        if let Ok(report) = tradewind_sim::run(&world, false) {
            let goodput_bps = report.goodput_bps(&world);
            range = [range[0].min(goodput_bps), range[1].max(goodput_bps)];
        }
    }
    Some(range)
}

/// What either player counts.
struct Counted {
    elapsed_s: f64,
    queue_ms: [f64; 2],
    queue_drops: u64,
    /// IP bytes there and back.
    forward: f64,
    reverse: f64,
    retransmitted_share: f64,
}

impl Counted {
    fn figures(&self, cell: &Cell, file_bytes: u64) -> Figures {
        let goodput_bps = file_bytes as f64 * 8.0 / self.elapsed_s;
        let sent_over_needed = self.forward / (file_bytes as f64 * packet_over_payload());
        Figures {
            elapsed_s: self.elapsed_s,
            goodput_bps,
            goodput_over_bound: goodput_bps / cell.bound_bps(),
            queue_ms_p50: self.queue_ms[0],
            queue_ms_p95: self.queue_ms[1],
            queue_drops: self.queue_drops,
            sent_over_needed,
            waste: sent_over_needed * (1.0 - cell.loss) - 1.0,
            feedback_share: self.reverse / self.forward,
            retransmitted_share: self.retransmitted_share,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_sender_wastes_nothing() {
        let cell = Cell { rate_bps: 10_000_000, rtt_ms: 10.0, loss: 0.2, queue_ms: 100.0 };
        let file_bytes = 1_000_000;
        let forward = file_bytes as f64 * packet_over_payload() / 0.8;
        let counted =
            Counted { elapsed_s: 1.0, queue_ms: [1.0, 2.0], queue_drops: 0, forward, reverse: forward / 100.0, retransmitted_share: 0.2 };
        let figures = counted.figures(&cell, file_bytes);
        assert!(figures.waste.abs() < 1e-9 && (figures.sent_over_needed - 1.25).abs() < 1e-9, "{figures:?}");
        assert!((figures.goodput_bps - 8e6).abs() < 1e-6 && (figures.feedback_share - 0.01).abs() < 1e-9, "{figures:?}");
    }
}
