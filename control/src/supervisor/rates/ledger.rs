//! What one sender may be using: the lease it has confirmed and every one ordered since.

use std::collections::VecDeque;

/// Leases by the number of their orders, oldest first, each smaller than the one before: of two in a row that do not shrink
/// the older one can never be the largest in force, so it is not kept.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    entries: VecDeque<(u32, u64)>,
}

impl Ledger {
    /// A sender that was given `lease` at set-up.
    pub(super) fn new(lease: u64) -> Self {
        Self { entries: VecDeque::from([(0, lease)]) }
    }

    /// The lease of the newest orders.
    pub(super) fn ordered(&self) -> u64 {
        self.entries.back().map_or(0, |entry| entry.1)
    }

    /// The most that the sender may be using, whichever orders have reached it.
    pub(super) fn held(&self) -> u64 {
        self.entries.front().map_or(0, |entry| entry.1)
    }

    /// Orders go out.
    pub(super) fn order(&mut self, number: u32, lease: u64) {
        while self.entries.back().is_some_and(|entry| entry.1 <= lease) {
            self.entries.pop_back();
        }
        self.entries.push_back((number, lease));
    }

    /// The sender has obeyed orders of this number, so older ones are over for good.
    pub(super) fn obeyed(&mut self, number: u32) {
        while self.entries.get(1).is_some_and(|entry| entry.0 <= number) {
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_decrease_counts_once_it_is_obeyed_and_an_increase_at_once() {
        let mut ledger = Ledger::new(100);
        ledger.order(1, 40);
        assert_eq!((ledger.ordered(), ledger.held()), (40, 100));
        ledger.order(2, 60);
        assert_eq!((ledger.ordered(), ledger.held()), (60, 100));
        ledger.obeyed(1);
        assert_eq!(ledger.held(), 100, "numbers 1 and 2 are 60 at most, but only 2 says that 0 is over in this short list");
        ledger.obeyed(2);
        assert_eq!(ledger.held(), 60);
        ledger.order(3, 80);
        assert_eq!((ledger.ordered(), ledger.held()), (80, 80));
        ledger.obeyed(0);
        assert_eq!(ledger.held(), 80);
    }

    proptest! {
        /// A sender that obeys any of the orders, newer ones only, and says so or not.
        #[test]
        fn no_sender_uses_more_than_is_held(steps in proptest::collection::vec((0u64..1000, any::<u8>(), any::<bool>()), 1..200)) {
            let mut ledger = Ledger::new(500);
            let mut sent = vec![500];
            let mut in_force = 0usize;
            for (lease, reached, told) in steps {
                ledger.order(sent.len() as u32, lease);
                sent.push(lease);
                in_force = in_force.max(usize::from(reached) % sent.len());
                if told {
                    ledger.obeyed(in_force as u32);
                }
                prop_assert!(sent[in_force..].iter().max().copied() <= Some(ledger.held()));
                prop_assert_eq!(ledger.ordered(), lease);
            }
            ledger.obeyed(sent.len() as u32 - 1);
            prop_assert_eq!(ledger.held(), ledger.ordered());
        }
    }
}
