//! How an upload is getting on, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counters of one [`crate::Uploader`].
#[derive(Debug, Default)]
pub struct UploadStats {
    pub(super) bytes_uploaded: AtomicU64,
    pub(super) requests_in_flight: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) throttled: AtomicU64,
    pub(super) hedged: AtomicU64,
    pub(super) blocks_received: AtomicU64,
    pub(super) blocks_durable: AtomicU64,
    pub(super) files_done: AtomicU64,
    pub(super) drain_bytes_per_s: AtomicU64,
    pub(super) part_bytes_max: AtomicU64,
}

/// The counters at one moment (each by itself; they are not read in one step).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Bytes of files that the store has acknowledged.
    pub bytes_uploaded: u64,
    /// Parts and small objects that are on their way now.
    pub requests_in_flight: u64,
    /// Requests that had to be repeated.
    pub retries: u64,
    /// Of those, because the store asked to slow down.
    pub throttled: u64,
    /// Parts that were late and were asked for once more, beside the first request.
    pub hedged: u64,
    /// Blocks handed over.
    pub blocks_received: u64,
    /// Blocks of which the store has every byte.
    pub blocks_durable: u64,
    /// Objects complete.
    pub files_done: u64,
    /// What the store takes while it has something to do, bytes per second: idle time does not count, so this stays the store's
    /// capacity at the present concurrency when the network is what binds. Parts count when they are acknowledged, so the first
    /// value, after a second of busy time, is low by what is still on its way. 0 until then, and falls to 0 when the store
    /// takes requests and acknowledges none.
    pub drain_bytes_per_s: u64,
    /// The largest part of any object so far, bytes: less memory for blocks than this makes an upload stand still. 0: none has begun.
    pub part_bytes_max: u64,
}

impl UploadStats {
    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> StatsSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StatsSnapshot {
            bytes_uploaded: get(&self.bytes_uploaded),
            requests_in_flight: get(&self.requests_in_flight),
            retries: get(&self.retries),
            throttled: get(&self.throttled),
            hedged: get(&self.hedged),
            blocks_received: get(&self.blocks_received),
            blocks_durable: get(&self.blocks_durable),
            files_done: get(&self.files_done),
            drain_bytes_per_s: get(&self.drain_bytes_per_s),
            part_bytes_max: get(&self.part_bytes_max),
        }
    }
}

/// Measures the drain rate over busy time.
#[derive(Debug)]
pub(super) struct DrainMeter {
    busy: Duration,
    bytes: u64,
    busy_since: Option<Instant>,
    rate: Option<u64>,
}

impl DrainMeter {
    /// Busy time that makes one measurement.
    const WINDOW: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        Self { busy: Duration::ZERO, bytes: 0, busy_since: None, rate: None }
    }

    /// Takes note of the state at `now`: `bytes` more acknowledged, and whether requests are in flight from now on. Returns the
    /// rate when there is a new one: half the old, half what was measured.
    pub(super) fn note(&mut self, now: Instant, bytes: u64, busy: bool) -> Option<u64> {
        if let Some(since) = self.busy_since {
            self.busy += now.saturating_duration_since(since);
        }
        self.busy_since = busy.then_some(now);
        self.bytes += bytes;
        if self.busy < Self::WINDOW {
            return None;
        }
        let measured = u64::try_from(u128::from(self.bytes) * 1_000_000 / self.busy.as_micros().max(1)).unwrap_or(u64::MAX);
        self.rate = Some(self.rate.map_or(measured, |rate| rate / 2 + measured / 2));
        (self.busy, self.bytes) = (Duration::ZERO, 0);
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_does_not_count() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut meter = DrainMeter::new();
        assert_eq!(meter.note(at(0), 0, true), None);
        assert_eq!(meter.note(at(500), 1000, false), None);
        assert_eq!(meter.note(at(60_000), 0, true), None);
        assert_eq!(meter.note(at(60_500), 1000, true), Some(2000));
        assert_eq!(meter.note(at(61_500), 0, true), Some(1000));
    }
}
