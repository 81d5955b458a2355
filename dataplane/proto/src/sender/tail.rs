//! The tail: what is sent when nothing new may be sent (transport study, section 2.3).
//!
//! Unreceived chunks are repeated in passes, newest first (news of the oldest is on its way). With random loss p and N chunks outstanding, k copies with
//! p^k * N < 0.1 leave nothing to wait for with high probability, so at most k copies are in flight and passes are at least
//! RTT / k apart. A path that loses next to nothing gets at most two copies.

const PASS_GAP_MIN_NS: u64 = 5_000_000;
const COPIES_MAX: u8 = 12;
/// Below this loss a second copy is enough.
const QUIET_LOSS: f64 = 0.005;
/// On a quiet path a pass waits until most of the outstanding chunks have been reported.
const QUIET_OUTSTANDING_MAX: u64 = 64;

#[derive(Debug, Default)]
pub(super) struct Tail {
    passing: bool,
    copies: u8,
    next_pass_ns: u64,
}

impl Tail {
    pub(super) fn in_pass(&self) -> bool {
        self.passing
    }

    pub(super) fn copies(&self) -> u8 {
        self.copies.max(1)
    }

    pub(super) fn next_pass_ns(&self) -> u64 {
        self.next_pass_ns
    }

    pub(super) fn end_pass(&mut self) {
        self.passing = false;
    }

    /// Starts a pass if none is under way and the last one is long enough ago; `true` if one started now.
    pub(super) fn start_pass(&mut self, now_ns: u64, loss: f64, outstanding: u64, round_trip_ns: u64) -> bool {
        if self.passing || now_ns < self.next_pass_ns {
            return false;
        }
        self.copies = copies(loss, outstanding);
        let gap = (round_trip_ns / u64::from(self.copies)).max(PASS_GAP_MIN_NS);
        self.next_pass_ns = now_ns + gap;
        if loss < QUIET_LOSS && outstanding > QUIET_OUTSTANDING_MAX {
            return false;
        }
        self.passing = true;
        true
    }
}

fn copies(loss: f64, outstanding: u64) -> u8 {
    if loss < QUIET_LOSS {
        return 2;
    }
    let wanted = (10.0 * outstanding as f64).ln() / (1.0 / loss.min(0.9)).ln();
    wanted.ceil().clamp(2.0, f64::from(COPIES_MAX)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_loss_and_more_chunks_want_more_copies() {
        assert_eq!(copies(0.0, 1_000_000), 2);
        assert_eq!(copies(0.01, 1), 2);
        assert_eq!(copies(0.3, 1000), 8);
        assert_eq!(copies(0.9, u64::MAX), COPIES_MAX);
    }

    #[test]
    fn passes_keep_their_distance() {
        let mut tail = Tail::default();
        assert!(tail.start_pass(0, 0.3, 100, 100_000_000));
        assert!(!tail.start_pass(1, 0.3, 100, 100_000_000), "one at a time");
        tail.end_pass();
        assert!(!tail.start_pass(1_000_000, 0.3, 100, 100_000_000));
        assert!(tail.start_pass(100_000_000 / 6 + 1, 0.3, 100, 100_000_000));
    }
}
