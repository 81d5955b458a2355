//! Grids of cells: one lane of ours alone on a bottleneck, cell by cell, and the figures that the issue on rate control asks for.

use std::sync::{Condvar, Mutex};
use std::time::Instant;

use serde::Serialize;
use tradewind_wire::limits::{DATA_OVERHEAD_BYTES, IPV4_UDP_BYTES, chunk_bytes_for_mtu};

use crate::lab::{FlowSpec, Lab, LaneSpec, Queue, play};

/// One cell of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Rate of the bottleneck, Mbit/s of IP packets.
    pub rate_mbps: f64,
    /// Round trip without queues, ms.
    pub rtt_ms: f64,
    /// Random loss, each way.
    pub loss: f64,
    /// Drop-tail queue, ms.
    pub queue_ms: f64,
}

/// The table of the issue: 8 rates, 7 round trips, 7 losses, 3 queues.
#[must_use]
pub fn table1() -> Vec<Cell> {
    let mut cells = Vec::new();
    for rate_mbps in [0.512, 1.0, 10.0, 155.0, 622.0, 1_000.0, 3_000.0, 10_000.0] {
        for rtt_ms in [0.0, 2.0, 10.0, 100.0, 300.0, 500.0, 1_000.0] {
            for loss in [0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3] {
                for queue_ms in [10.0, 100.0, 250.0] {
                    cells.push(Cell { rate_mbps, rtt_ms, loss, queue_ms });
                }
            }
        }
    }
    cells
}

/// How a grid is played.
#[derive(Clone, Copy, Debug)]
pub struct GridOptions {
    /// Seed of the first repetition.
    pub seed: u64,
    /// A transfer takes at least this long at the bound, s …
    pub seconds: f64,
    /// … and at least this many round trips.
    pub round_trips: f64,
    /// IP packets of 9000 bytes from this rate on, Mbit/s; 1500 below.
    pub jumbo_from_mbps: f64,
    /// Print the lane's state every so many ms.
    pub trace_ms: u64,
}

impl Default for GridOptions {
    fn default() -> Self {
        Self { seed: 1, seconds: 60.0, round_trips: 150.0, jumbo_from_mbps: 3_000.0, trace_ms: 0 }
    }
}

/// Figures of a cell.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The cell.
    #[serde(flatten)]
    pub cell: Cell,
    /// Bytes transferred.
    pub bytes: u64,
    /// Bytes of an IP packet.
    pub mtu: usize,
    /// First packet to DONE, s; where it did not end, the time after which it was given up.
    pub seconds: f64,
    /// Whether the transfer ended.
    pub complete: bool,
    /// Goodput of the whole transfer over the bound: rate × (1 − loss) × payload share of an IP packet.
    pub ratio: f64,
    /// Goodput over the bound between 90 % reached and the last first transmission: without start and end.
    pub steady: f64,
    /// Time to 90 % of the bound over a round trip (at least 100 ms), in round trips (of at least 1 ms); negative if never.
    pub start_round_trips: f64,
    /// From the last first transmission to DONE, in round trips (of at least 1 ms).
    pub tail_round_trips: f64,
    /// Delay of the queue as packets found it, median, ms.
    pub queue_p50_ms: f64,
    /// The same, 95th percentile.
    pub queue_p95_ms: f64,
    /// Packets that the queue dropped, over packets sent.
    pub overshoot_loss: f64,
    /// Bytes sent over bytes that the random loss makes necessary, minus 1.
    pub waste: f64,
    /// Bytes of feedback over bytes of data.
    pub feedback_share: f64,
}

/// Payload share of an IP packet of a lane.
#[must_use]
pub fn payload_share(mtu: usize) -> f64 {
    let chunk = chunk_bytes_for_mtu(mtu, false) as f64;
    chunk / (chunk + (DATA_OVERHEAD_BYTES + IPV4_UDP_BYTES) as f64)
}

fn mtu(cell: &Cell, options: &GridOptions) -> usize {
    if cell.rate_mbps >= options.jumbo_from_mbps { 9000 } else { 1500 }
}

/// Payload rate that a cell allows, bit/s.
fn bound_bps(cell: &Cell, mtu: usize) -> f64 {
    cell.rate_mbps * 1e6 * (1.0 - cell.loss) * payload_share(mtu)
}

fn ideal_s(cell: &Cell, options: &GridOptions) -> f64 {
    options.seconds.max(options.round_trips * cell.rtt_ms / 1e3)
}

/// Plays one cell.
#[must_use]
pub fn play_cell(cell: &Cell, options: &GridOptions) -> Row {
    let mtu = mtu(cell, options);
    let bound = bound_bps(cell, mtu);
    let ideal_s = ideal_s(cell, options);
    let bytes = (bound * ideal_s / 8.0) as u64;
    let lane = LaneSpec { bytes: Some(bytes), mtu, reverse_loss: cell.loss, ..LaneSpec::default() };
    let lab = Lab {
        seed: options.seed,
        rate_bps: cell.rate_mbps * 1e6,
        queue: Queue::DropTail { ms: cell.queue_ms },
        loss: cell.loss,
        flows: vec![FlowSpec::lane(lane, cell.rtt_ms)],
        changes: Vec::new(),
        end_ms: (4.0 * ideal_s + 60.0 * cell.rtt_ms / 1e3 + 20.0) * 1e3,
        trace_ms: options.trace_ms,
    };
    let outcome = play(&lab);
    let flow = &outcome.flows[0];
    let count = &flow.count;
    let complete = count.done_ns.is_some();
    let seconds = count.done_ns.map_or(outcome.end_ms / 1e3, |ns| ns as f64 * 1e-9);
    let arrived = if complete { bytes } else { count.samples.last().copied().unwrap_or(0).min(bytes) };
    let width_ms = cell.rtt_ms.max(100.0);
    let start_ms = (0..count.samples.len()).map(|step| step as f64 * 10.0).find(|&ms| flow.rate_bps(ms, ms + width_ms) >= 0.9 * bound);
    let last_ms = count.last_fresh_ns as f64 * 1e-6;
    let steady = start_ms.map_or(0.0, |start| if last_ms > start + 100.0 { flow.rate_bps(start, last_ms) / bound } else { 0.0 });
    let round_trip_ms = cell.rtt_ms.max(1.0);
    let packets = count.forward_packets.max(1) as f64;
    let needed = bytes as f64 / payload_share(mtu) / (1.0 - cell.loss);
    Row {
        cell: *cell,
        bytes,
        mtu,
        seconds,
        complete,
        ratio: arrived as f64 * 8.0 / seconds / bound,
        steady,
        start_round_trips: start_ms.map_or(-1.0, |ms| (ms + width_ms - width_ms / 2.0) / round_trip_ms),
        tail_round_trips: (seconds * 1e3 - last_ms).max(0.0) / round_trip_ms,
        queue_p50_ms: outcome.queue_ms.0,
        queue_p95_ms: outcome.queue_ms.1,
        overshoot_loss: count.overflowed as f64 / packets,
        waste: count.forward_bytes as f64 / needed - 1.0,
        feedback_share: count.reverse_bytes as f64 / count.forward_bytes.max(1) as f64,
    }
}

/// Memory that a cell takes at most, bytes: what is under way and the receiver's open blocks.
fn memory(cell: &Cell) -> u64 {
    let product = cell.rate_mbps * 1e6 / 8.0 * (cell.rtt_ms / 1e3 + 0.3);
    (product * (3.0 + 20.0 * cell.loss)) as u64
}

/// Memory that cells played side by side may take, bytes.
const MEMORY_MOST: u64 = 16 << 30;

/// Cells that differ only in their queue, the shortest first: the longest queue that was not needed yet decides whether the next one is played.
type Family = Vec<usize>;

fn families(cells: &[Cell]) -> Vec<Family> {
    let mut order: Vec<usize> = (0..cells.len()).collect();
    let path = |index: usize| [cells[index].rate_mbps, cells[index].rtt_ms, cells[index].loss];
    order.sort_by(|&a, &b| {
        let ordered = |(a, b): (f64, f64)| a.total_cmp(&b);
        path(a).into_iter().zip(path(b)).map(ordered).find(|order| order.is_ne()).unwrap_or(cells[a].queue_ms.total_cmp(&cells[b].queue_ms))
    });
    order.chunk_by(|&a, &b| path(a) == path(b)).map(<[usize]>::to_vec).collect()
}

/// Plays the cells of a family. A run that filled its queue at no time is to the bit the run of every longer queue.
fn play_family(cells: &[Cell], family: &Family, options: &GridOptions, mut done: impl FnMut(usize, Row)) {
    let mut before: Option<Row> = None;
    for &index in family {
        let row = match before.take() {
            Some(row) if row.overshoot_loss == 0.0 => Row { cell: cells[index], ..row },
            _ => play_cell(&cells[index], options),
        };
        done(index, row.clone());
        before = Some(row);
    }
}

struct Shared {
    next: usize,
    memory: u64,
    rows: Vec<Option<Row>>,
}

/// Plays all cells on `threads` threads, the longest first; `progress` is called after each.
#[must_use]
pub fn play_grid(cells: &[Cell], options: &GridOptions, threads: usize, progress: impl Fn(usize, f64) + Sync) -> Vec<Row> {
    let mut families = families(cells);
    let work = |family: &Family| {
        family.first().map_or(0.0, |&index| cells[index].rate_mbps * ideal_s(&cells[index], options) / mtu(&cells[index], options) as f64)
    };
    families.sort_by(|a, b| work(b).total_cmp(&work(a)));
    let shared = Mutex::new(Shared { next: 0, memory: 0, rows: vec![None; cells.len()] });
    let freed = Condvar::new();
    let started = Instant::now();
    let lock = || shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let mut state = lock();
                    let Some(family) = families.get(state.next) else { break };
                    state.next += 1;
                    let needs = family.iter().map(|&index| memory(&cells[index])).max().unwrap_or(0).min(MEMORY_MOST);
                    while state.memory + needs > MEMORY_MOST {
                        state = freed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                    }
                    state.memory += needs;
                    drop(state);
                    play_family(cells, family, options, |index, row| {
                        let mut state = lock();
                        state.rows[index] = Some(row);
                        let done = state.rows.iter().flatten().count();
                        drop(state);
                        progress(done, started.elapsed().as_secs_f64());
                    });
                    lock().memory -= needs;
                    freed.notify_all();
                }
            });
        }
    });
    shared.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).rows.into_iter().flatten().collect()
}

/// What a grid says as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Number of cells.
    pub cells: usize,
    /// Median over all cells of goodput over bound.
    pub median_ratio: f64,
    /// The lowest among cells of 10 Mbit/s and more.
    pub min_ratio: f64,
    /// Where it is.
    pub min_ratio_cell: Option<Cell>,
    /// Cells of 10 Mbit/s and more below 0.93.
    pub below_093: usize,
    /// Median over all cells of the median queueing delay, ms.
    pub queue_p50_ms: f64,
    /// The highest of them among cells of 10 Mbit/s and more.
    pub queue_p50_worst_ms: f64,
    /// Median over all cells of the waste.
    pub waste_median: f64,
    /// The highest among cells of 10 Mbit/s and more.
    pub waste_worst: f64,
    /// Median of the time to 90 %, round trips, over cells with at least 100 ms.
    pub start_round_trips_median: f64,
    /// Highest feedback share among cells of 10 Mbit/s and more.
    pub feedback_share_worst: f64,
    /// A row for each cell.
    pub rows: Vec<Row>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Sums a grid up.
#[must_use]
pub fn summarise(rows: Vec<Row>) -> Summary {
    let fast: Vec<&Row> = rows.iter().filter(|row| row.cell.rate_mbps >= 10.0).collect();
    let worst = fast.iter().min_by(|a, b| a.ratio.total_cmp(&b.ratio));
    let most = |value: fn(&Row) -> f64| fast.iter().map(|row| value(row)).fold(0.0, f64::max);
    Summary {
        cells: rows.len(),
        median_ratio: median(rows.iter().map(|row| row.ratio).collect()),
        min_ratio: worst.map_or(0.0, |row| row.ratio),
        min_ratio_cell: worst.map(|row| row.cell),
        below_093: fast.iter().filter(|row| row.ratio < 0.93).count(),
        queue_p50_ms: median(rows.iter().map(|row| row.queue_p50_ms).collect()),
        queue_p50_worst_ms: most(|row| row.queue_p50_ms),
        waste_median: median(rows.iter().map(|row| row.waste).collect()),
        waste_worst: most(|row| row.waste),
        start_round_trips_median: median(fast.iter().filter(|row| row.cell.rtt_ms >= 100.0).map(|row| row.start_round_trips).collect()),
        feedback_share_worst: most(|row| row.feedback_share),
        rows,
    }
}
