//! Counters and latencies of a worker, written by it and read by the control side.

use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use tradewind_fabric::counters::Counter;
use tradewind_netio::LinkCounters;
use tradewind_proto::receiver::DropReason;

/// A stage whose latency is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Receive, open and session: time per packet of a batch.
    Receive,
    /// From the start of the loop's turn until a whole block is checked and handed over.
    Deliver,
    /// From a whole block to the store's confirmation.
    Store,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 3] = [Self::Receive, Self::Deliver, Self::Store];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive_to_open",
            Self::Deliver => "block_complete_to_handed_over",
            Self::Store => "block_complete_to_durable",
        }
    }
}

/// Why a packet was not used.
#[derive(Clone, Copy, Debug)]
pub enum Ignored {
    /// By the protocol.
    Packet(DropReason),
    /// Its lane belongs to another worker.
    Elsewhere,
}

/// Longest latency that is told apart, nanoseconds.
const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// A latency histogram that one thread fills and another reads.
#[derive(Debug)]
pub struct Latency(Mutex<Histogram<u64>>);

impl Default for Latency {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(100, LATENCY_MAX_NS, 3).expect("constant bounds that the crate accepts");
        Self(Mutex::new(histogram))
    }
}

impl Latency {
    /// Adds a sample, nanoseconds.
    pub fn record(&self, ns: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(ns.max(1));
    }

    /// Runs `read` on the samples since the last call and forgets them.
    pub fn drain<T>(&self, read: impl FnOnce(&Histogram<u64>) -> T) -> T {
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = read(&histogram);
        histogram.reset();
        result
    }
}

/// Counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerStatistics {
    /// Authentic packets.
    pub authentic: Counter,
    drops: [Counter; 7],
    links: Mutex<(LinkCounters, LinkCounters)>,
    latencies: [Latency; 3],
}

impl WorkerStatistics {
    /// Names of the drop counters, in the order of [`WorkerStatistics::drops`].
    pub const DROPS: [&'static str; 7] =
        ["malformed", "unknown_lane", "replayed", "not_authentic", "no_buffer", "lane_closed", "other_worker"];

    pub(crate) fn drop_packet(&self, reason: Ignored) {
        let index = match reason {
            Ignored::Packet(DropReason::Malformed) => 0,
            Ignored::Packet(DropReason::UnknownLane) => 1,
            Ignored::Packet(DropReason::Replayed) => 2,
            Ignored::Packet(DropReason::NotAuthentic) => 3,
            Ignored::Packet(DropReason::NoBuffer) => 4,
            Ignored::Packet(DropReason::Closed) => 5,
            Ignored::Elsewhere => 6,
        };
        self.drops[index].add(1);
    }

    /// Packets not used, by reason.
    #[must_use]
    pub fn drops(&self) -> [u64; 7] {
        std::array::from_fn(|index| self.drops[index].get())
    }

    /// Adds a latency sample, nanoseconds.
    pub fn record(&self, stage: Stage, ns: u64) {
        self.latency(stage).record(ns);
    }

    /// The histogram of a stage.
    #[must_use]
    pub fn latency(&self, stage: Stage) -> &Latency {
        &self.latencies[stage as usize]
    }

    /// Publishes the counters of the AF_XDP link and of the socket.
    pub fn publish_links(&self, links: (LinkCounters, LinkCounters)) {
        *self.links.lock().unwrap_or_else(PoisonError::into_inner) = links;
    }

    /// The counters of the AF_XDP link and of the socket as last published.
    #[must_use]
    pub fn links(&self) -> (LinkCounters, LinkCounters) {
        *self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
