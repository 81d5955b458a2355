//! The grid of paths, the chosen cells of it, and each cell as a scenario for the emulator and as a world for the simulator.

use anyhow::{Result, ensure};
use serde::Serialize;
use tradewind_netem::Scenario;
use tradewind_netem::scenario::DirectionSpec;
use tradewind_sim::{Way, World};
use tradewind_wire::limits::{DATA_OVERHEAD_BYTES, IPV4_UDP_BYTES, chunk_bytes_for_mtu};

use crate::ETHERNET_BYTES;

/// MTU of every cell, bytes.
pub const MTU_BYTES: u32 = 1500;
/// Smallest queue, bytes: two full frames. The simulator has the same one.
const QUEUE_BYTES_MIN: u64 = 4_000;
/// Longest transfers last this many round trips, if that is longer than what was asked for.
const ROUND_TRIPS: f64 = 30.0;
/// Smallest transfer, bytes.
const BYTES_MIN: u64 = 64 << 10;

const M: u64 = 1_000_000;
const G: u64 = 1_000 * M;

/// A path: one bandwidth, round-trip time, loss and queue of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Rate of the bottleneck, bit/s of Ethernet frames without FCS, the same both ways.
    pub rate_bps: u64,
    /// Propagation both ways, ms; 0 is as short as the emulator gets.
    pub rtt_ms: f64,
    /// Independent loss, 0 to 1, in each direction.
    pub loss: f64,
    /// Drop-tail queue, ms at the rate.
    pub queue_ms: f64,
}

/// The cells that are measured: every value of every axis, small beside large, at most 622 Mbit/s but for three, for sender, emulator and
/// receiver share the machine's cores.
pub const CELLS: [(u64, f64, f64, f64); 31] = [
    (512_000, 10.0, 0.0, 250.0),
    (512_000, 300.0, 5.0, 100.0),
    (512_000, 1000.0, 1.0, 250.0),
    (512_000, 100.0, 30.0, 100.0),
    (M, 2.0, 1.0, 100.0),
    (M, 500.0, 0.1, 250.0),
    (M, 100.0, 20.0, 100.0),
    (M, 1000.0, 10.0, 100.0),
    (10 * M, 0.0, 0.0, 10.0),
    (10 * M, 10.0, 5.0, 100.0),
    (10 * M, 100.0, 1.0, 10.0),
    (10 * M, 300.0, 20.0, 100.0),
    (10 * M, 500.0, 30.0, 250.0),
    (10 * M, 1000.0, 0.1, 100.0),
    (155 * M, 0.0, 1.0, 100.0),
    (155 * M, 2.0, 0.1, 10.0),
    (155 * M, 10.0, 10.0, 100.0),
    (155 * M, 100.0, 0.0, 100.0),
    (155 * M, 100.0, 5.0, 10.0),
    (155 * M, 300.0, 1.0, 250.0),
    (155 * M, 500.0, 30.0, 100.0),
    (155 * M, 1000.0, 0.0, 250.0),
    (622 * M, 0.0, 30.0, 100.0),
    (622 * M, 2.0, 0.0, 100.0),
    (622 * M, 10.0, 0.1, 10.0),
    (622 * M, 100.0, 1.0, 100.0),
    (622 * M, 100.0, 20.0, 100.0),
    (622 * M, 300.0, 5.0, 250.0),
    (G, 10.0, 0.0, 100.0),
    (G, 100.0, 1.0, 250.0),
    (G, 300.0, 10.0, 100.0),
];

/// Payload bytes of a DATA packet.
fn chunk_bytes() -> f64 {
    chunk_bytes_for_mtu(MTU_BYTES as usize, false) as f64
}

/// Bytes of a full IP packet over its payload bytes.
#[must_use]
pub(super) fn packet_over_payload() -> f64 {
    1.0 + (DATA_OVERHEAD_BYTES + IPV4_UDP_BYTES) as f64 / chunk_bytes()
}

/// Payload bytes over the bytes that the emulated link counts.
#[must_use]
pub fn payload_share() -> f64 {
    chunk_bytes() / f64::from(MTU_BYTES + ETHERNET_BYTES)
}

/// `count` of [`CELLS`], spread over the list; all of them if `count` is `None`. `only` keeps those whose name contains it.
///
/// # Errors
/// When none is left.
pub fn choose(count: Option<usize>, only: Option<&str>) -> Result<Vec<(usize, Cell)>> {
    let all = CELLS.iter().map(|&(rate_bps, rtt_ms, percent, queue_ms)| Cell { rate_bps, rtt_ms, loss: percent / 100.0, queue_ms });
    let matching: Vec<(usize, Cell)> = all.enumerate().filter(|(_, cell)| only.is_none_or(|part| cell.name().contains(part))).collect();
    let count = count.unwrap_or(matching.len()).min(matching.len());
    ensure!(count > 0, "no cell is left; names look like {}", Cell { rate_bps: 155 * M, rtt_ms: 100.0, loss: 0.05, queue_ms: 10.0 }.name());
    Ok((0..count).map(|n| matching[n * matching.len() / count]).collect())
}

impl Cell {
    /// Such as `155M/100ms/5%/q10`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}ms/{}%/q{}", self.rate_name(), self.rtt_ms, round(self.loss * 100.0), self.queue_ms)
    }

    /// Such as `155M`.
    #[must_use]
    pub fn rate_name(&self) -> String {
        match self.rate_bps {
            rate if rate >= G => format!("{}G", rate as f64 / G as f64),
            rate if rate >= M => format!("{}M", rate as f64 / M as f64),
            rate => format!("{}k", rate as f64 / 1e3),
        }
    }

    /// The queue, bytes of Ethernet frames: what was asked for, and two full frames at least.
    #[must_use]
    pub fn queue_bytes(&self) -> u64 {
        ((self.rate_bps as f64 * self.queue_ms / 8000.0) as u64).max(QUEUE_BYTES_MIN)
    }

    /// How long that many bytes of frames occupy the link, ms.
    #[must_use]
    pub fn milliseconds(&self, bytes: u64) -> f64 {
        bytes as f64 * 8000.0 / self.rate_bps as f64
    }

    /// Rate × (1 − loss) × payload share of a frame, bit/s of payload.
    #[must_use]
    pub fn bound_bps(&self) -> f64 {
        self.rate_bps as f64 * (1.0 - self.loss) * payload_share()
    }

    /// Bytes of file that take so many seconds, or 30 round trips if those are longer, at the bound.
    #[must_use]
    pub fn file_bytes(&self, seconds: f64) -> u64 {
        ((self.bound_bps() * self.seconds(seconds) / 8.0) as u64).max(BYTES_MIN)
    }

    /// Length of the transfer at the bound, seconds.
    #[must_use]
    pub fn seconds(&self, seconds: f64) -> f64 {
        seconds.max(ROUND_TRIPS * self.rtt_ms / 1000.0)
    }

    /// The cell for the emulator.
    ///
    /// # Errors
    /// When a value is out of the emulator's range.
    pub fn scenario(&self, seed: u64) -> Result<Scenario> {
        let direction = DirectionSpec {
            rate_bps: Some(self.rate_bps),
            queue_bytes: Some(self.queue_bytes()),
            delay_ms: self.rtt_ms / 2.0,
            loss: (self.loss > 0.0).then_some(self.loss),
            ..DirectionSpec::default()
        };
        Ok(Scenario::new("cell", &self.name(), seed, direction, None)?)
    }

    /// The cell for the simulator, which counts IP packets: its rate is smaller by the share of the Ethernet header in a full frame, so
    /// that both carry the same number of full packets per second, and queue the same number. With the same seed both lose the same
    /// packets, by index. `rtt_ms` is the cell's own, or what the emulator gave for 0.
    #[must_use]
    pub fn world(&self, seed: u64, file_bytes: u64, rtt_ms: f64) -> World {
        let way = Way {
            rate_mbps: self.rate_bps as f64 / 1e6 * f64::from(MTU_BYTES) / f64::from(MTU_BYTES + ETHERNET_BYTES),
            delay_ms: rtt_ms / 2.0,
            queue_ms: self.milliseconds(self.queue_bytes()),
            loss: self.loss,
            ..Way::default()
        };
        let mut world = World::plain(seed);
        world.bytes = file_bytes;
        world.chunk_bytes = chunk_bytes() as u16;
        (world.forward, world.reverse) = (way.clone(), way);
        world
    }
}

/// Without the last digits of binary fractions: 0.1 × 100 is 10.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANDWIDTHS: [u64; 6] = [512_000, M, 10 * M, 155 * M, 622 * M, G];
    const ROUND_TRIP_TIMES: [f64; 7] = [0.0, 2.0, 10.0, 100.0, 300.0, 500.0, 1000.0];
    const LOSSES: [f64; 7] = [0.0, 0.1, 1.0, 5.0, 10.0, 20.0, 30.0];
    const QUEUES: [f64; 3] = [10.0, 100.0, 250.0];

    #[test]
    fn the_cells_are_of_the_grid_and_touch_every_value_of_every_axis() {
        let mut seen = [[0; 7]; 4];
        for (rate, rtt, loss, queue) in CELLS {
            let at = |values: &[f64], value: f64| values.iter().position(|&other| other == value).expect("on the grid");
            seen[0][BANDWIDTHS.iter().position(|&other| other == rate).expect("on the grid")] += 1;
            seen[1][at(&ROUND_TRIP_TIMES, rtt)] += 1;
            seen[2][at(&LOSSES, loss)] += 1;
            seen[3][at(&QUEUES, queue)] += 1;
        }
        for (axis, values) in [(0, 6), (1, 7), (2, 7), (3, 3)] {
            assert!(seen[axis][..values].iter().all(|&count| count >= 3), "{seen:?}");
        }
        assert!(CELLS.len() >= 24);
        assert_eq!(CELLS.iter().enumerate().filter(|(at, cell)| CELLS[..*at].contains(cell)).count(), 0, "no cell twice");
    }

    #[test]
    fn fewer_cells_are_spread_over_the_list() {
        let chosen = choose(Some(3), None).expect("there are cells");
        assert_eq!(chosen.iter().map(|&(index, _)| index).collect::<Vec<_>>(), [0, 10, 20]);
        assert_eq!(choose(None, None).expect("all").len(), CELLS.len());
        assert_eq!(choose(None, Some("155M/100ms/5%/q10")).expect("one").len(), 1);
        assert!(choose(Some(0), None).is_err() && choose(None, Some("3M/")).is_err());
    }

    /// Both must count alike, or the comparison means nothing.
    #[test]
    fn emulator_and_simulator_have_one_bound_and_one_queue() {
        for (_, cell) in choose(None, None).expect("all") {
            let (scenario, world) = (cell.scenario(1).expect("valid"), cell.world(1, 1000, cell.rtt_ms));
            let bounds = [
                cell.bound_bps(),
                scenario.bound_goodput_bps(payload_share()).expect("it has a rate"),
                tradewind_sim::Report::bound_bps(&world),
            ];
            assert!(bounds.iter().all(|bound| (bound / bounds[0] - 1.0).abs() < 1e-9), "{}: {bounds:?}", cell.name());
            let packets = world.forward.queue_ms * world.forward.rate_mbps * 125.0 / f64::from(MTU_BYTES);
            let frames = cell.queue_bytes() as f64 / f64::from(MTU_BYTES + ETHERNET_BYTES);
            assert!((packets - frames).abs() < 1e-6 && frames >= 2.0, "{}: {packets} {frames}", cell.name());
            assert_eq!(scenario.rtt_ms(), world.forward.delay_ms + world.reverse.delay_ms);
        }
    }

    #[test]
    fn long_round_trips_make_long_transfers() {
        let cell = Cell { rate_bps: 10 * M, rtt_ms: 1000.0, loss: 0.5, queue_ms: 100.0 };
        assert_eq!(cell.seconds(12.0), 30.0);
        assert_eq!(cell.seconds(40.0), 40.0);
        assert_eq!(cell.file_bytes(12.0), (10e6 * 0.5 * payload_share() * 30.0 / 8.0) as u64);
        assert_eq!(cell.name(), "10M/1000ms/50%/q100");
    }
}
