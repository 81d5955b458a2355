//! Round-trip time, RFC 6298 section 2.

use crate::receiver::SHORT_ROUND_TRIP_NS;

/// Smoothed and least round-trip time, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    smoothed_ns: u64,
    variation_ns: u64,
    least_ns: u64,
    latest_ns: u64,
    sampled: bool,
    /// [`Self::is_newly_short`] has said so.
    short: bool,
}

/// Longest round trip that is believed: a hostile echo must not park a timer for ever.
const BELIEVABLE_NS: u64 = 60_000_000_000;

impl RoundTrip {
    pub(super) fn new(initial_ns: u64) -> Self {
        Self {
            smoothed_ns: initial_ns,
            variation_ns: initial_ns / 2,
            least_ns: u64::MAX,
            latest_ns: initial_ns,
            sampled: false,
            short: false,
        }
    }

    pub(super) fn sample(&mut self, sample_ns: u64) {
        let sample = sample_ns.clamp(1_000, BELIEVABLE_NS);
        self.latest_ns = sample;
        self.least_ns = self.least_ns.min(sample);
        if self.sampled {
            self.variation_ns = (3 * self.variation_ns + self.smoothed_ns.abs_diff(sample)) / 4;
            self.smoothed_ns = (7 * self.smoothed_ns + sample) / 8;
        } else {
            self.smoothed_ns = sample;
            self.variation_ns = sample / 2;
            self.sampled = true;
        }
    }

    /// Whether the round trip is short for the first time: what the receiver does depends on it.
    pub(super) fn is_newly_short(&mut self) -> bool {
        !self.short && {
            self.short = self.sampled && self.smoothed_ns <= SHORT_ROUND_TRIP_NS;
            self.short
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.sampled
    }

    pub(super) fn smoothed_ns(&self) -> u64 {
        self.smoothed_ns
    }

    pub(super) fn latest_ns(&self) -> u64 {
        self.latest_ns
    }

    /// 0 while unknown.
    pub(super) fn least_ns(&self) -> u64 {
        if self.sampled { self.least_ns } else { 0 }
    }

    pub(super) fn variation_ns(&self) -> u64 {
        self.variation_ns
    }
}
