//! A ceiling that is remembered after the rate ran into a policer or a queue of a few packets.

use super::units::{SECOND_NS, seconds};

/// How long a ceiling is held at first and at most (transport-study §3.2, hold).
const HOLD_NS: u64 = 10 * SECOND_NS;

/// The same on a short path, where trying costs a few milliseconds of loss, and where a receiver that was off its core for a moment looks like a policer.
const HOLD_SHORT_NS: u64 = SECOND_NS;
const HOLD_MOST_NS: u64 = 120 * SECOND_NS;

/// Growth allowed above a held ceiling, per second at first, doubling every five seconds, and at most per round (transport-study §3.3).
const GROWTH_PER_S: f64 = 0.02;
const GROWTH_DOUBLES_S: f64 = 5.0;
const GROWTH_MOST: f64 = 0.1;

/// The rate that lost packets, and how carefully to try it again.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    ceiling: f64,
    hit_rate: f64,
    since_ns: u64,
    until_ns: u64,
    length_ns: u64,
}

impl Hold {
    pub(super) fn new() -> Self {
        Self { ceiling: f64::INFINITY, hit_rate: 0.0, since_ns: 0, until_ns: 0, length_ns: HOLD_NS }
    }

    /// The rate had to fall to `rate`: hold there, for twice as long if it happened near the same rate not long ago.
    pub(super) fn hit(&mut self, now_ns: u64, rate: f64, rtt_ns: u64, is_short: bool) {
        let again = now_ns < self.until_ns.saturating_add(self.length_ns) && rate > 0.7 * self.hit_rate && rate < 1.4 * self.hit_rate;
        let first_ns = if is_short { HOLD_SHORT_NS } else { HOLD_NS };
        self.length_ns =
            if again { (self.length_ns * 2).min(HOLD_MOST_NS) } else { first_ns.max(rtt_ns.saturating_mul(10)).min(HOLD_MOST_NS) };
        self.hit_rate = rate;
        self.ceiling = rate;
        self.since_ns = now_ns;
        self.until_ns = now_ns + self.length_ns;
    }

    /// Whether a ceiling is in force.
    pub(super) fn is_active(&self) -> bool {
        self.ceiling.is_finite()
    }

    /// Bounds a new rate that is set `elapsed_s` after the last one.
    pub(super) fn bound(&mut self, now_ns: u64, rate: f64, elapsed_s: f64) -> f64 {
        if now_ns > self.until_ns {
            self.ceiling = f64::INFINITY;
        }
        if rate <= self.ceiling {
            return rate;
        }
        let age_s = seconds(now_ns.saturating_sub(self.since_ns));
        let growth = (GROWTH_PER_S * (age_s / GROWTH_DOUBLES_S).exp2() * elapsed_s).min(GROWTH_MOST);
        self.ceiling = rate.min(self.ceiling * (1.0 + growth));
        self.ceiling
    }

    /// Forgets the ceiling.
    pub(super) fn release(&mut self) {
        self.ceiling = f64::INFINITY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_path_is_tried_again_soon() {
        let mut hold = Hold::new();
        hold.hit(0, 100.0, 100_000, true);
        hold.bound(2 * SECOND_NS, 100.0, 0.1);
        assert!(!hold.is_active());
        hold.hit(SECOND_NS + SECOND_NS / 2, 100.0, 100_000, true);
        hold.bound(3 * SECOND_NS, 100.0, 0.1);
        assert!(hold.is_active(), "for twice as long now");
    }

    #[test]
    fn holds_grows_slowly_and_doubles() {
        let mut hold = Hold::new();
        hold.hit(0, 100.0, 10_000_000, false);
        assert_eq!(hold.bound(SECOND_NS, 90.0, 0.1), 90.0);
        let held = hold.bound(SECOND_NS, 200.0, 0.1);
        assert!(held > 100.0 && held < 100.5, "{held}");
        hold.hit(5 * SECOND_NS, 100.0, 10_000_000, false);
        hold.bound(24 * SECOND_NS, 100.0, 0.1);
        assert!(hold.is_active(), "held for 20 s now");
        hold.bound(26 * SECOND_NS, 100.0, 0.1);
        assert!(!hold.is_active());
    }
}
