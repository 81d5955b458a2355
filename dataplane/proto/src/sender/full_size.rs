//! Whether packets of full size get through: a path whose MTU is smaller, from the start or from some moment on, lets small ones pass and swallows
//! the others without a word (a black hole, RFC 8899 §4.3).

use super::MS;

/// Full-size packets lost since the last that got through, at least: by chance 30 % of loss does that once in 10^8 times.
const LOSSES_MIN: u64 = 16;
/// Time, during which the receiver was heard, since the last full-size packet that got through.
const PATIENCE_NS: u64 = 5_000 * MS;
/// Longest pause between two words of the receiver that counts as hearing it: a silent path is broken, not narrow.
const HEARING_NS: u64 = 500 * MS;

/// What is known of the fate of full-size packets.
#[derive(Debug, Default)]
pub(super) struct FullSize {
    /// Lost since one got through.
    lost: u64,
    /// For how long the receiver was heard since then.
    heard_ns: u64,
    /// When it was heard last.
    last_ns: Option<u64>,
}

impl FullSize {
    /// The receiver was heard; it reported so many full-size packets as delivered and as lost.
    pub(super) fn on_feedback(&mut self, now_ns: u64, delivered: u64, lost: u64) {
        let gap_ns = self.last_ns.replace(now_ns).map_or(0, |last_ns| now_ns.saturating_sub(last_ns));
        if delivered > 0 {
            (self.lost, self.heard_ns) = (0, 0);
        } else {
            self.lost += lost;
            self.heard_ns += gap_ns.min(HEARING_NS);
        }
    }

    /// How many were lost in a row, if that means that none gets through.
    pub(super) fn black_hole(&self) -> Option<u64> {
        (self.lost >= LOSSES_MIN && self.heard_ns >= PATIENCE_NS).then_some(self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_hears_us_but_passes_no_full_size_packet_is_a_black_hole() {
        let mut path = FullSize::default();
        for tick in 0..49 {
            path.on_feedback(tick * 100 * MS, 0, 1);
            assert_eq!(path.black_hole(), None, "too early at {tick}");
        }
        path.on_feedback(5_000 * MS, 0, 1);
        assert_eq!(path.black_hole(), Some(50));
    }

    #[test]
    fn silence_proves_nothing_and_one_that_passes_ends_the_suspicion() {
        let mut path = FullSize::default();
        path.on_feedback(0, 10, 0);
        // An outage of a minute: the first word afterwards reports a thousand losses.
        path.on_feedback(60_000 * MS, 0, 1_000);
        assert_eq!(path.black_hole(), None);
        for tick in 0..100 {
            path.on_feedback((60_100 + tick * 100) * MS, u64::from(tick % 30 == 0), 5);
            assert_eq!(path.black_hole(), None, "{tick}");
        }
        // Nothing was lost, for nothing was sent.
        let mut idle = FullSize::default();
        (0..1_000).for_each(|tick| idle.on_feedback(tick * 100 * MS, 0, 0));
        assert_eq!(idle.black_hole(), None);
    }
}
