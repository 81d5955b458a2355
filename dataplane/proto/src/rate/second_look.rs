//! A second look at what start-up found on a short path: there a step rests on a few milliseconds, and a receiver that was off its core for one of them
//! looks like a slow path or a policer. Looking again costs as little.

/// Rounds without a queue and without loss before the second look: as many pairs of trains say that the rate found is not the path's.
const ROUNDS: u32 = 2;

/// Growth by a look that is worth another one.
const GROWN: f64 = 1.3;

/// Loss of a round below which nothing is lost.
const NO_LOSS: f64 = 0.002;

/// What is in doubt.
#[derive(Clone, Debug, Default)]
pub(super) struct SecondLook {
    /// The rate that was found last.
    found: f64,
    /// Rounds that have spoken for a look; `None` while nothing is in doubt.
    rounds: Option<u32>,
}

impl SecondLook {
    /// Start-up ended with `rate`, on a path that `is_short` or not.
    pub(super) fn on_found(&mut self, rate: f64, is_short: bool) {
        self.rounds = (is_short && rate >= GROWN * self.found).then_some(0);
        self.found = rate;
    }

    /// A round of cruise: whether to look again now. What stands in the queue confirms what was found; a round that lost packets, or did not try the
    /// rate, says nothing.
    pub(super) fn on_round(&mut self, sees_queue: bool, loss: f64, was_tried: bool) -> bool {
        let Some(rounds) = &mut self.rounds else { return false };
        if sees_queue {
            self.rounds = None;
            return false;
        }
        if loss <= NO_LOSS && was_tried {
            *rounds += 1;
        }
        let is_due = *rounds >= ROUNDS;
        if is_due {
            self.rounds = None;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_again_until_a_look_finds_no_more() {
        let mut look = SecondLook::default();
        assert!(!look.on_round(false, 0.0, true), "nothing was found yet");
        look.on_found(100.0, true);
        assert!(!look.on_round(false, 0.0, true));
        assert!(!look.on_round(false, 0.05, true) && !look.on_round(false, 0.0, false));
        assert!(look.on_round(false, 0.0, true));
        assert!(!look.on_round(false, 0.0, true), "once");
        look.on_found(150.0, true);
        assert!(!look.on_round(false, 0.0, true));
        assert!(look.on_round(false, 0.0, true), "it grew");
        look.on_found(160.0, true);
        assert!(!look.on_round(false, 0.0, true) && !look.on_round(false, 0.0, true), "it did not grow");
    }

    #[test]
    fn a_queue_confirms_and_long_paths_are_believed() {
        let mut look = SecondLook::default();
        look.on_found(100.0, true);
        assert!(!look.on_round(true, 0.0, true));
        assert!(!look.on_round(false, 0.0, true) && !look.on_round(false, 0.0, true));
        let mut far = SecondLook::default();
        far.on_found(100.0, false);
        assert!(!far.on_round(false, 0.0, true) && !far.on_round(false, 0.0, true));
    }
}
