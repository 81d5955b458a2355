//! Replay window of the sender: which of the newest packet numbers of the receiver were seen.

use tradewind_wire::PacketNumber;

const WORDS: usize = 16;
/// Numbers remembered. The receiver sends at most 16 packets at once and less than 2,000 a second, so what is older than
/// this came later than any packet that is worth reading; feedback is repeated anyway.
const WIDTH: u64 = (WORDS * 64) as u64;

/// The newest packet numbers, in a ring of bits (RFC 4303 section 3.4.3).
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Largest number seen plus one.
    next: u64,
    bits: [u64; WORDS],
}

impl Replay {
    /// Whether a packet with this number may still be new.
    pub(crate) fn is_new(&self, number: PacketNumber) -> bool {
        let number = number.get();
        if number >= self.next {
            return true;
        }
        number + WIDTH >= self.next && self.bits[Self::word(number)] >> (number % 64) & 1 == 0
    }

    /// Whether none with a larger number was remembered.
    pub(crate) fn is_newest(&self, number: PacketNumber) -> bool {
        number.get() >= self.next
    }

    /// Remembers an authenticated packet.
    pub(crate) fn mark(&mut self, number: PacketNumber) {
        let number = number.get();
        if number >= self.next {
            let skipped = (number + 1 - self.next).min(WIDTH);
            for old in number + 1 - skipped..=number {
                self.bits[Self::word(old)] &= !(1 << (old % 64));
            }
            self.next = number + 1;
        }
        self.bits[Self::word(number)] |= 1 << (number % 64);
    }

    fn word(number: u64) -> usize {
        (number / 64) as usize % WORDS
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn number(value: u64) -> PacketNumber {
        PacketNumber::new(value).unwrap()
    }

    #[test]
    fn agrees_with_a_set() {
        let mut replay = Replay::default();
        let mut seen = BTreeSet::new();
        let mut state = 1u64;
        let mut base = 0;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            base += state >> 62;
            let value = base + (state >> 33) % 1500;
            let newest = seen.last().copied();
            let expected = newest.is_none_or(|newest| value + WIDTH > newest) && !seen.contains(&value);
            assert_eq!(replay.is_new(number(value)), expected, "{value} after {newest:?}");
            if expected {
                replay.mark(number(value));
                seen.insert(value);
            }
        }
    }

    #[test]
    fn a_jump_forgets_what_it_passes() {
        let mut replay = Replay::default();
        replay.mark(number(5));
        replay.mark(number(5 + (1 << 40)));
        assert!(!replay.is_new(number(5)));
        assert!(!replay.is_new(number(5 + (1 << 40))));
        assert!(replay.is_new(number(4 + (1 << 40))));
        assert!(replay.is_new(number(PacketNumber::MAX.get())));
    }
}
