//! How many requests of a kind are on their way at once: as many as make the store faster, and half when it asks to slow down.
//!
//! Hill climbing on throughput. In windows of at least [`WINDOW`] and a whole turn of answers, a limit that binds is compared with one a quarter
//! away (twice as high until that brings nothing), above and below by turns. More that does not bring at least [`GAIN`] is taken back; fewer that cost at most that much are kept: what is in
//! flight holds memory and makes others wait. A request to slow down halves the limit, once in a window, and then additive steps lead back
//! (AIMD; Chiu and Jain, 1989), so that several transfers into one store find equal shares.

use std::time::{Duration, Instant};

/// Shortest time that throughput is measured over.
const WINDOW: Duration = Duration::from_millis(250);
/// What a step has to change for it to count, as a share of the throughput.
const GAIN: f64 = 0.03;
/// Share of the answers of a window at which something must have waited for the limit to count as what binds.
const BINDING: f64 = 0.8;
/// Windows without a trial after one that was taken back.
const REST: u32 = 4;
/// Windows in which a limit that was halved grows by one only.
const CAREFUL: u32 = 40;

/// The bounds of [`Concurrency`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) least: usize,
    pub(super) first: usize,
    pub(super) most: usize,
}

/// One kind's limit.
#[derive(Debug)]
pub(super) struct Concurrency {
    bounds: Bounds,
    /// The best known limit, and its throughput in units per second where it was measured.
    base: (usize, Option<f64>),
    /// What is tried instead.
    trial: Option<usize>,
    upwards: bool,
    /// Nothing has been taken back yet.
    starting: bool,
    rest: u32,
    careful: u32,
    window: Option<Window>,
    throttled: u64,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    answers: usize,
    units: u64,
    /// Of the answers: came while the limit kept something waiting.
    binding: usize,
}

impl Window {
    const fn new(since: Instant) -> Self {
        Self { since, answers: 0, units: 0, binding: 0 }
    }
}

impl Concurrency {
    pub(super) fn new(bounds: Bounds) -> Self {
        let base = (bounds.first.clamp(bounds.least, bounds.most), None);
        Self { bounds, base, trial: None, upwards: true, starting: true, rest: 0, careful: 0, window: None, throttled: 0 }
    }

    /// Requests that may be on their way now.
    pub(super) fn limit(&self) -> usize {
        self.trial.unwrap_or(self.base.0)
    }

    /// Takes note of an answer. `units`: what throughput is counted in, bytes or objects. `binding`: more was waiting than the limit let go.
    /// `throttled`: how often the store has asked to slow down, ever.
    pub(super) fn answered(&mut self, now: Instant, units: u64, binding: bool, throttled: u64) {
        let limit = self.limit();
        let window = self.window.get_or_insert(Window::new(now));
        window.answers += 1;
        window.units += units;
        window.binding += usize::from(binding);
        let elapsed = now.saturating_duration_since(window.since);
        if elapsed < WINDOW || window.answers < limit {
            return;
        }
        let (rate, binding) = (window.units as f64 / elapsed.as_secs_f64(), window.binding as f64 >= BINDING * window.answers as f64);
        // The next window begins now, with nothing answered.
        self.window = Some(Window::new(now));
        let is_slowed = throttled > self.throttled;
        self.throttled = throttled;
        if is_slowed {
            self.base = ((limit / 2).max(self.bounds.least), None);
            (self.trial, self.upwards, self.starting, self.careful) = (None, true, false, CAREFUL);
        } else if binding {
            self.compare(rate);
        } else {
            // What the limit does not shape says nothing about it.
            (self.trial, self.base.1) = (None, None);
        }
    }

    fn compare(&mut self, rate: f64) {
        if self.careful > 0 {
            self.careful -= 1;
            self.base = ((self.base.0 + 1).min(self.bounds.most), Some(rate));
            return;
        }
        match (self.trial.take(), self.base.1) {
            (Some(tried), Some(known)) => {
                let is_better = if tried > self.base.0 { rate > known * (1.0 + GAIN) } else { rate > known * (1.0 - GAIN) };
                if is_better {
                    // And on in this direction.
                    self.base = (tried, Some(rate));
                } else {
                    (self.upwards, self.starting, self.rest) = (!self.upwards, false, REST);
                    return;
                }
            }
            (_, known) => {
                self.base.1 = Some(known.map_or(rate, |known| known.midpoint(rate)));
                if self.rest > 0 {
                    self.rest -= 1;
                    return;
                }
            }
        }
        let limit = self.base.0;
        let step = if self.starting { limit } else { (limit / 4).max(1) };
        let next = if self.upwards { limit + step } else { limit.saturating_sub(step) }.clamp(self.bounds.least, self.bounds.most);
        if next == limit {
            (self.upwards, self.rest) = (!self.upwards, REST);
        } else {
            self.trial = Some(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { least: 4, first: 32, most: 256 };

    /// A store that answers each request after `latency_s`, serves `servers` at once, and refuses what is above `refuse`; noise of `noise`.
    /// Returns the limits of the second half of `seconds`, and what was done in all.
    fn play(servers: f64, latency_s: f64, refuse: usize, noise: f64, seconds: f64) -> (Vec<usize>, u64) {
        let start = Instant::now();
        let mut concurrency = Concurrency::new(BOUNDS);
        let (mut at, mut throttled, mut done, mut limits) = (0.0, 0, 0u64, Vec::new());
        let mut seed = 7u64;
        while at < seconds {
            let limit = concurrency.limit();
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let wobble = 1.0 + noise * ((seed >> 33) as f64 / f64::from(1u32 << 30) - 1.0);
            // A turn of answers, evenly spread.
            let turn = latency_s * (limit as f64 / servers).max(1.0) * wobble;
            throttled += u64::from(limit > refuse);
            for number in 1..=limit {
                let now = start + Duration::from_secs_f64(at + turn * number as f64 / limit as f64);
                concurrency.answered(now, 1, true, throttled);
            }
            at += turn;
            done += limit as u64;
            if at > seconds / 2.0 {
                limits.push(limit);
            }
        }
        (limits, done)
    }

    fn mean(limits: &[usize]) -> f64 {
        limits.iter().sum::<usize>() as f64 / limits.len() as f64
    }

    #[test]
    fn a_store_far_away_gets_more_at_once() {
        let (limits, done) = play(1e9, 0.1, usize::MAX, 0.02, 60.0);
        assert!(mean(&limits) > 200.0, "{}", mean(&limits));
        assert!(done > 60 * 1500, "{done} in a minute: 320 a second at the first limit");
    }

    #[test]
    fn a_store_that_is_full_is_not_given_more_than_it_serves() {
        for (servers, noise) in [(16.0, 0.0), (16.0, 0.05), (60.0, 0.05)] {
            let (limits, done) = play(servers, 0.02, usize::MAX, noise, 120.0);
            let capacity = servers / 0.02 * 120.0;
            assert!(done as f64 > capacity * 0.9, "{servers} servers: {done} of {capacity}");
            assert!(mean(&limits) < servers * 2.0, "{servers} servers: {} at once", mean(&limits));
        }
    }

    #[test]
    fn a_store_that_refuses_is_asked_less() {
        let (limits, _) = play(1e9, 0.02, 40, 0.02, 120.0);
        let refused = limits.iter().filter(|&&limit| limit > 40).count() as f64 / limits.len() as f64;
        assert!(refused < 0.1, "{refused} of all turns were above what it takes");
        assert!(mean(&limits) > 15.0, "{}", mean(&limits));
    }

    #[test]
    fn a_limit_that_does_not_bind_stays() {
        let start = Instant::now();
        let mut concurrency = Concurrency::new(BOUNDS);
        for number in 0..10_000 {
            concurrency.answered(start + Duration::from_millis(number), 1, false, 0);
        }
        assert_eq!(concurrency.limit(), BOUNDS.first);
    }
}
