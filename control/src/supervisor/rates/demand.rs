//! What a transfer would use, remembered for about a second: less at once would cut a sender for every short pause.

use std::time::{Duration, Instant};

const HALF: Duration = Duration::from_millis(500);

/// The largest demand of the last half to whole second, kbit/s. `u64::MAX`: as much as there is.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    since: Instant,
    now: u64,
    before: u64,
}

impl Demand {
    /// Of a transfer that has just begun: nobody knows how much it can use, so all.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, now: u64::MAX, before: 0 }
    }

    fn roll(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= HALF {
            self.before = if elapsed < 2 * HALF { self.now } else { 0 };
            self.now = 0;
            self.since = now;
        }
    }

    /// The sender said what it wants.
    pub(super) fn note(&mut self, now: Instant, kbps: u64) {
        self.roll(now);
        self.now = self.now.max(kbps);
    }

    /// The demand that counts now.
    pub(super) fn kbps(&mut self, now: Instant) -> u64 {
        self.roll(now);
        self.now.max(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_at_once_and_falls_within_a_second() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut demand = Demand::new(start);
        assert_eq!(demand.kbps(at(0)), u64::MAX);
        for ms in (0..1000).step_by(100) {
            demand.note(at(ms), 7);
        }
        demand.note(at(1000), 7);
        assert_eq!(demand.kbps(at(1000)), 7);
        demand.note(at(1001), 9);
        assert_eq!(demand.kbps(at(1001)), 9);
        assert_eq!(demand.kbps(at(5000)), 0, "a sender that says nothing wants nothing");
    }
}
