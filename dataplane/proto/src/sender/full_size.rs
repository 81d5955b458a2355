//! Whether packets of full size get through: a path whose MTU is smaller, from the start or from some moment on, lets small ones pass and swallows
//! the others without a word (a black hole, RFC 8899 §4.3).

use super::MS;

/// Full-size packets lost since the last that got through, at least: by chance 30 % of loss does that once in 10^8 times.
const LOSSES_MIN: u64 = 16;
/// Time, during which small packets got through, since the last full-size packet that did.
const PATIENCE_NS: u64 = 5_000 * MS;
/// Longest time that one report of small packets stands for: a path that passes nothing is broken, not narrow.
const PASSING_NS: u64 = 500 * MS;

/// What is known of the fate of full-size packets.
#[derive(Debug, Default)]
pub(super) struct FullSize {
    /// Lost since one got through.
    lost: u64,
    /// For how long small packets got through since then.
    passing_ns: u64,
    /// When the receiver was heard last.
    last_ns: Option<u64>,
}

impl FullSize {
    /// The receiver was heard; it reported so many full-size packets as delivered and as lost, and whether a small one was delivered.
    pub(super) fn on_feedback(&mut self, now_ns: u64, delivered: u64, lost: u64, small_delivered: bool) {
        let gap_ns = self.last_ns.replace(now_ns).map_or(0, |last_ns| now_ns.saturating_sub(last_ns));
        if delivered > 0 {
            (self.lost, self.passing_ns) = (0, 0);
        } else {
            self.lost += lost;
            self.passing_ns += if small_delivered { gap_ns.min(PASSING_NS) } else { 0 };
        }
    }

    /// The receiver dropped packets itself, for want of buffers: what is lost now may have arrived.
    pub(super) fn on_dropped_by_receiver(&mut self) {
        (self.lost, self.passing_ns) = (0, 0);
    }

    /// How many were lost in a row, if that means that none gets through.
    pub(super) fn black_hole(&self) -> Option<u64> {
        (self.lost >= LOSSES_MIN && self.passing_ns >= PATIENCE_NS).then_some(self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_passes_small_packets_only_is_a_black_hole() {
        let mut path = FullSize::default();
        for tick in 0..50 {
            path.on_feedback(tick * 100 * MS, 0, 1, true);
            assert_eq!(path.black_hole(), None, "too early at {tick}");
        }
        path.on_feedback(5_000 * MS, 0, 1, true);
        assert_eq!(path.black_hole(), Some(51));
    }

    #[test]
    fn a_path_that_passes_nothing_proves_nothing_and_one_that_passes_ends_the_suspicion() {
        let mut path = FullSize::default();
        path.on_feedback(0, 10, 0, true);
        // An outage of a minute one way: the receiver is heard, but nothing gets there.
        for tick in 0..600 {
            path.on_feedback(tick * 100 * MS, 0, 100, false);
            assert_eq!(path.black_hole(), None);
        }
        // And one both ways: the first word afterwards reports all that was lost.
        path.on_feedback(120_000 * MS, 0, 1_000, true);
        assert_eq!(path.black_hole(), None);
        for tick in 0..100 {
            path.on_feedback((120_100 + tick * 100) * MS, u64::from(tick % 30 == 0), 5, true);
            assert_eq!(path.black_hole(), None, "{tick}");
        }
        // A store that stands still: everything arrives and is dropped.
        let mut stuck = FullSize::default();
        for tick in 0..100 {
            stuck.on_feedback(tick * 100 * MS, 0, 5, true);
            stuck.on_dropped_by_receiver();
            assert_eq!(stuck.black_hole(), None, "{tick}");
        }
        // Nothing was lost, for nothing was sent.
        let mut idle = FullSize::default();
        (0..1_000).for_each(|tick| idle.on_feedback(tick * 100 * MS, 0, 0, true));
        assert_eq!(idle.black_hole(), None);
    }
}
