//! Whether packets of full size get through: a path whose MTU is smaller, from the start or from some moment on, lets small ones pass and swallows
//! the others without a word (a black hole, RFC 8899 §4.3).

use super::MS;

/// Full-size packets lost since the last that got through, at least: by chance 30 % of loss does that once in 10^8 times.
const LOSSES_MIN: u64 = 16;
/// Time, during which small packets got through, since the last full-size packet that did.
const PATIENCE_NS: u64 = 5_000 * MS;
/// The same once one of full size has got through. An overloaded receiver, too, may take small packets and none of those that came merged to 64 KiB, since they do
/// not fit the rest of its socket's buffer; that passes, and a path whose MTU shrinks in the middle of a lane is rare.
const PATIENCE_PROVEN_NS: u64 = 20_000 * MS;
/// Longest pause between two small packets delivered that counts as passing them: a path that passes nothing is broken, not narrow. STATE is sent as often.
const PASSING_NS: u64 = 1_000 * MS;

/// How many packets a feedback reported as delivered and as lost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fate {
    pub(super) delivered: u64,
    pub(super) lost: u64,
}

impl Fate {
    pub(super) fn count(&mut self, is_lost: bool) {
        *(if is_lost { &mut self.lost } else { &mut self.delivered }) += 1;
    }
}

/// What is known of the fate of DATA packets.
#[derive(Debug, Default)]
pub(super) struct FullSize {
    full: Watch,
    /// DATA of any size: the last chunk of a block may be too large as well, and nothing else left to be sent.
    any: Watch,
    /// When a small packet was last reported as delivered.
    small_ns: Option<u64>,
}

#[derive(Debug, Default)]
struct Watch {
    /// Lost since one got through.
    lost: u64,
    /// For how long small packets got through since then.
    passing_ns: u64,
    /// One got through at some time.
    proven: bool,
}

impl Watch {
    fn on_feedback(&mut self, fate: Fate, passing_ns: u64) {
        if fate.delivered > 0 {
            *self = Self { proven: true, ..Self::default() };
        } else {
            self.lost += fate.lost;
            self.passing_ns += passing_ns;
        }
    }

    fn black_hole(&self) -> Option<u64> {
        let patience_ns = if self.proven { PATIENCE_PROVEN_NS } else { PATIENCE_NS };
        (self.lost >= LOSSES_MIN && self.passing_ns >= patience_ns).then_some(self.lost)
    }
}

impl FullSize {
    /// The receiver was heard; it reported the fate of DATA packets of full size and of any size, and whether a packet without data was delivered.
    pub(super) fn on_feedback(&mut self, now_ns: u64, full: Fate, any: Fate, small_delivered: bool) {
        let mut passing_ns = 0;
        if small_delivered {
            // Since the last one, not since the last word of the receiver: it speaks far more often than small packets are sent.
            passing_ns = self.small_ns.replace(now_ns).map_or(0, |last_ns| now_ns.saturating_sub(last_ns)).min(PASSING_NS);
        }
        self.full.on_feedback(full, passing_ns);
        self.any.on_feedback(any, passing_ns);
    }

    /// The receiver dropped packets itself, for want of buffers: what is lost now may have arrived.
    pub(super) fn on_dropped_by_receiver(&mut self) {
        for watch in [&mut self.full, &mut self.any] {
            *watch = Watch { proven: watch.proven, ..Watch::default() };
        }
    }

    /// How many were lost in a row, if that means that none gets through.
    pub(super) fn black_hole(&self) -> Option<u64> {
        self.full.black_hole().or_else(|| self.any.black_hole())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(lost: u64) -> Fate {
        Fate { delivered: 0, lost }
    }

    fn both(path: &mut FullSize, at_ms: u64, fate: Fate, small_delivered: bool) {
        path.on_feedback(at_ms * MS, fate, fate, small_delivered);
    }

    #[test]
    fn a_path_that_passes_small_packets_only_is_a_black_hole() {
        // Whether the short ends of blocks pass or not.
        for delivered in [0, 1] {
            let mut path = FullSize::default();
            for tick in 0..50 {
                path.on_feedback(tick * 100 * MS, lost(1), Fate { delivered, lost: 1 }, true);
                assert_eq!(path.black_hole(), None, "too early at {tick}");
            }
            path.on_feedback(5_000 * MS, lost(1), Fate { delivered, lost: 1 }, true);
            assert_eq!(path.black_hole(), Some(51));
        }
    }

    #[test]
    fn a_lane_with_nothing_of_full_size_left_is_watched_too() {
        let mut path = FullSize::default();
        for tick in 0..=50 {
            path.on_feedback(tick * 100 * MS, Fate::default(), lost(1), true);
            assert_eq!(path.black_hole().is_some(), tick == 50, "{tick}");
        }
        path.on_feedback(5_100 * MS, Fate::default(), Fate { delivered: 1, lost: 0 }, true);
        assert_eq!(path.black_hole(), None);
    }

    #[test]
    fn a_path_that_took_full_packets_before_is_believed_for_longer() {
        let mut path = FullSize::default();
        both(&mut path, 0, Fate { delivered: 10, lost: 0 }, true);
        for tick in 1..=200 {
            both(&mut path, tick * 100, lost(1), true);
            assert_eq!(path.black_hole().is_some(), tick == 200, "{tick}");
        }
    }

    #[test]
    fn words_of_the_receiver_in_between_do_not_slow_the_clock() {
        let mut path = FullSize::default();
        for tick in 0..=500 {
            // A feedback each 10 ms, a small packet each 100 ms.
            both(&mut path, tick * 10, lost(1), tick % 10 == 0);
            assert_eq!(path.black_hole().is_some(), tick == 500, "{tick}");
        }
    }

    #[test]
    fn a_path_that_passes_nothing_proves_nothing_and_one_that_passes_ends_the_suspicion() {
        let mut path = FullSize::default();
        both(&mut path, 0, Fate { delivered: 10, lost: 0 }, true);
        // An outage of a minute one way: the receiver is heard, but nothing gets there.
        for tick in 0..600 {
            both(&mut path, tick * 100, lost(100), false);
            assert_eq!(path.black_hole(), None);
        }
        // And one both ways: the first word afterwards reports all that was lost.
        both(&mut path, 120_000, lost(1_000), true);
        assert_eq!(path.black_hole(), None);
        for tick in 0..100 {
            both(&mut path, 120_100 + tick * 100, Fate { delivered: u64::from(tick % 30 == 0), lost: 5 }, true);
            assert_eq!(path.black_hole(), None, "{tick}");
        }
        // A store that stands still: everything arrives and is dropped.
        let mut stuck = FullSize::default();
        for tick in 0..100 {
            both(&mut stuck, tick * 100, lost(5), true);
            stuck.on_dropped_by_receiver();
            assert_eq!(stuck.black_hole(), None, "{tick}");
        }
        // Nothing was lost, for nothing was sent.
        let mut idle = FullSize::default();
        (0..1_000).for_each(|tick| both(&mut idle, tick * 100, Fate::default(), true));
        assert_eq!(idle.black_hole(), None);
    }
}
