//! BBR, first version: draft-cardwell-iccrg-bbr-congestion-control-00, sections 4.1 to 4.3.

use std::collections::VecDeque;

use super::super::MS;
use super::SEGMENT_BYTES;

/// 2 / ln 2.
const STARTUP_GAIN: f64 = 2.885;
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
const BANDWIDTH_ROUNDS: u64 = 10;
const RTT_WINDOW_NS: u64 = 10_000 * MS;
const PROBE_RTT_NS: u64 = 200 * MS;
const WINDOW_LEAST: f64 = 4.0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Startup,
    Drain,
    ProbeBandwidth,
    ProbeRtt,
}

/// Model of the path and state; bytes/s and segments.
pub(super) struct Bbr {
    state: State,
    /// Greatest delivery rates by round, decreasing.
    bandwidths: VecDeque<(u64, f64)>,
    least_rtt_ns: u64,
    least_rtt_at_ns: u64,
    round: u64,
    round_ends_at: u64,
    full_bandwidth: f64,
    full_rounds: u32,
    cycle: usize,
    cycle_ns: u64,
    probe_rtt_until_ns: Option<u64>,
}

impl Bbr {
    pub(super) fn new(now_ns: u64) -> Self {
        Self {
            state: State::Startup,
            bandwidths: VecDeque::new(),
            least_rtt_ns: u64::MAX,
            least_rtt_at_ns: now_ns,
            round: 0,
            round_ends_at: 0,
            full_bandwidth: 0.0,
            full_rounds: 0,
            cycle: 2,
            cycle_ns: now_ns,
            probe_rtt_until_ns: None,
        }
    }

    fn bandwidth(&self) -> f64 {
        self.bandwidths.front().map_or(0.0, |best| best.1)
    }

    /// Bandwidth-delay product, segments.
    fn product(&self) -> f64 {
        if self.least_rtt_ns == u64::MAX { 10.0 } else { self.bandwidth() * self.least_rtt_ns as f64 * 1e-9 / f64::from(SEGMENT_BYTES) }
    }

    pub(super) fn pacing_bytes_per_s(&self) -> f64 {
        let gain = match self.state {
            State::Startup => STARTUP_GAIN,
            State::Drain => 1.0 / STARTUP_GAIN,
            State::ProbeBandwidth => CYCLE[self.cycle],
            State::ProbeRtt => 1.0,
        };
        if self.bandwidths.is_empty() { 1.25e6 } else { gain * self.bandwidth() }
    }

    pub(super) fn window(&self) -> u64 {
        let window = match self.state {
            State::ProbeRtt => WINDOW_LEAST,
            State::Startup | State::Drain => (STARTUP_GAIN * self.product()).max(10.0),
            State::ProbeBandwidth => (2.0 * self.product()).max(WINDOW_LEAST),
        };
        window as u64
    }

    /// A segment was acknowledged: its round trip, the delivery rate that it measured, segments delivered when it was sent and now, in flight.
    pub(super) fn on_ack(&mut self, now_ns: u64, rtt_ns: u64, rate: f64, delivered_before: u64, delivered: u64, in_flight: u64) {
        let new_round = delivered_before >= self.round_ends_at;
        if new_round {
            self.round += 1;
            self.round_ends_at = delivered;
        }
        while self.bandwidths.back().is_some_and(|last| last.1 <= rate) {
            self.bandwidths.pop_back();
        }
        self.bandwidths.push_back((self.round, rate));
        while self.bandwidths.front().is_some_and(|first| first.0 + BANDWIDTH_ROUNDS <= self.round) {
            self.bandwidths.pop_front();
        }
        let expired = now_ns.saturating_sub(self.least_rtt_at_ns) > RTT_WINDOW_NS;
        if rtt_ns <= self.least_rtt_ns || expired {
            self.least_rtt_ns = rtt_ns;
            self.least_rtt_at_ns = now_ns;
        }
        if expired && self.state != State::ProbeRtt {
            self.state = State::ProbeRtt;
            self.probe_rtt_until_ns = None;
        }
        self.advance(now_ns, new_round, in_flight as f64);
    }

    fn advance(&mut self, now_ns: u64, new_round: bool, in_flight: f64) {
        match self.state {
            State::Startup => {
                if new_round && self.bandwidth() >= 1.25 * self.full_bandwidth {
                    self.full_bandwidth = self.bandwidth();
                    self.full_rounds = 0;
                } else if new_round {
                    self.full_rounds += 1;
                }
                if self.full_rounds >= 3 {
                    self.state = State::Drain;
                }
            }
            State::Drain => {
                if in_flight <= self.product() {
                    self.begin_cycle(now_ns);
                }
            }
            State::ProbeBandwidth => {
                let elapsed = now_ns.saturating_sub(self.cycle_ns) > self.least_rtt_ns;
                let gain = CYCLE[self.cycle];
                let over = if gain > 1.0 {
                    elapsed && in_flight >= 0.99 * gain * self.product().min(self.window() as f64 / gain)
                } else if gain < 1.0 {
                    elapsed || in_flight <= self.product()
                } else {
                    elapsed
                };
                // A queue too short for the surplus would otherwise never let the phase end.
                if over || now_ns.saturating_sub(self.cycle_ns) > self.least_rtt_ns.saturating_mul(2) {
                    self.cycle = (self.cycle + 1) % CYCLE.len();
                    self.cycle_ns = now_ns;
                }
            }
            State::ProbeRtt => match self.probe_rtt_until_ns {
                None if in_flight <= WINDOW_LEAST => self.probe_rtt_until_ns = Some(now_ns + PROBE_RTT_NS),
                Some(until_ns) if now_ns >= until_ns => {
                    self.least_rtt_at_ns = now_ns;
                    if self.full_rounds >= 3 { self.begin_cycle(now_ns) } else { self.state = State::Startup }
                }
                _ => {}
            },
        }
    }

    fn begin_cycle(&mut self, now_ns: u64) {
        self.state = State::ProbeBandwidth;
        self.cycle = 2;
        self.cycle_ns = now_ns;
    }
}
