//! What the sender remembers of every packet whose fate is open.

use std::collections::VecDeque;

use tradewind_wire::feedback;
use tradewind_wire::limits::{SEGMENT_PACKETS, SEGMENT_WORDS, SEGMENTS_OPEN_MAX};
use tradewind_wire::{BlockId, PacketNumber};

/// What a packet carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Chunk {
        block: BlockId,
        chunk: u16,
    },
    /// CONTROL or PROBE: nothing to send again; timers repeat what matters.
    Other,
}

const OTHER: u64 = 1 << 63;

/// Segments that the sender keeps open: half of what the receiver's window spans. The receiver learns the floor from DATA
/// packets, so its own may lie behind the sender's by as much as was in flight; with half, what is sent is inside its
/// window even then, and no silence can lock the two out of step.
const SEGMENTS_SENT_MAX: usize = SEGMENTS_OPEN_MAX / 2;

impl Entry {
    fn pack(self) -> u64 {
        match self {
            Self::Chunk { block, chunk } => u64::from(block.0) << 16 | u64::from(chunk),
            Self::Other => OTHER,
        }
    }

    fn unpack(packed: u64) -> Self {
        if packed & OTHER != 0 { Self::Other } else { Self::Chunk { block: BlockId((packed >> 16) as u32), chunk: packed as u16 } }
    }
}

/// A receiver's word on one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Received,
    Lost,
    /// Was declared lost before and turned up after all.
    Late,
}

struct Segment {
    sent: usize,
    entries: [u64; SEGMENT_PACKETS],
    resolved: [u64; SEGMENT_WORDS],
    lost: [u64; SEGMENT_WORDS],
    resolved_count: usize,
}

impl Segment {
    fn fresh() -> Box<Self> {
        Box::new(Self { sent: 0, entries: [0; SEGMENT_PACKETS], resolved: [0; SEGMENT_WORDS], lost: [0; SEGMENT_WORDS], resolved_count: 0 })
    }

    fn clear(&mut self) {
        self.sent = 0;
        self.resolved = [0; SEGMENT_WORDS];
        self.lost = [0; SEGMENT_WORDS];
        self.resolved_count = 0;
    }
}

/// Records of packets by number, in segments of 1024; segments are recycled, so a steady flow allocates nothing.
pub(super) struct Records {
    /// Index of the first segment that still has open verdicts: the floor that DATA packets carry.
    first: u64,
    open: VecDeque<Box<Segment>>,
    spare: Vec<Box<Segment>>,
    next: u64,
    unresolved: u64,
}

impl Records {
    pub(super) fn new() -> Self {
        Self { first: 0, open: VecDeque::new(), spare: Vec::new(), next: 0, unresolved: 0 }
    }

    pub(super) fn floor_segment(&self) -> u64 {
        self.first
    }

    /// Packets whose fate is open.
    pub(super) fn unresolved(&self) -> u64 {
        self.unresolved
    }

    /// Whether data must wait until verdicts arrive; probes and control still have room.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= SEGMENTS_SENT_MAX - 2
    }

    /// Takes the next packet number for a packet that carries `entry`; `None` when no segment or number is left.
    pub(super) fn push(&mut self, entry: Entry) -> Option<PacketNumber> {
        let number = PacketNumber::new(self.next)?;
        let at = self.next as usize % SEGMENT_PACKETS;
        if at == 0 {
            if self.open.len() >= SEGMENTS_SENT_MAX {
                return None;
            }
            let segment = self.spare.pop().unwrap_or_else(Segment::fresh);
            self.open.push_back(segment);
        }
        let segment = self.open.back_mut()?;
        segment.entries[at] = entry.pack();
        segment.sent = at + 1;
        self.next += 1;
        self.unresolved += 1;
        Some(number)
    }

    /// Applies the verdicts of one reported segment; calls `each` once for every packet that gets a new one.
    pub(super) fn apply(&mut self, reported: &feedback::Segment, mut each: impl FnMut(Verdict, Entry)) {
        let Some(position) = u64::from(reported.index).checked_sub(self.first) else { return };
        let Some(segment) = self.open.get_mut(position as usize) else { return };
        let verdicts = usize::from(reported.verdicts).min(segment.sent) as u16;
        for word in 0..SEGMENT_WORDS {
            let mask = feedback::Segment::mask(verdicts, word);
            let received = reported.bitmap[word] & mask;
            let new = mask & !segment.resolved[word];
            let late = received & segment.lost[word];
            let mut open = new | late;
            while open != 0 {
                let bit = open.leading_zeros() as usize;
                let one = 1u64 << (63 - bit);
                open &= !one;
                let verdict = match (received & one != 0, late & one != 0) {
                    (true, true) => Verdict::Late,
                    (true, false) => Verdict::Received,
                    (false, _) => Verdict::Lost,
                };
                each(verdict, Entry::unpack(segment.entries[word * 64 + bit]));
            }
            segment.lost[word] = (segment.lost[word] | new & !received) & !late;
            segment.resolved[word] |= mask;
            let count = new.count_ones();
            segment.resolved_count += count as usize;
            self.unresolved -= u64::from(count);
        }
        while self.open.front().is_some_and(|front| front.resolved_count == SEGMENT_PACKETS) {
            if let Some(mut done) = self.open.pop_front() {
                done.clear();
                self.spare.push(done);
                self.first += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(index: u32, verdicts: u16, received: impl Fn(usize) -> bool) -> feedback::Segment {
        let mut bitmap = [0; SEGMENT_WORDS];
        for i in (0..usize::from(verdicts)).filter(|&i| received(i)) {
            bitmap[i / 64] |= 1 << (63 - i % 64);
        }
        feedback::Segment { index, verdicts, bitmap }
    }

    #[test]
    fn a_verdict_counts_once_and_a_late_arrival_corrects_it() {
        let mut records = Records::new();
        for i in 0..100 {
            records.push(Entry::Chunk { block: BlockId(3), chunk: i });
        }
        let mut seen = Vec::new();
        let first = report(0, 80, |i| i != 7 && i != 70);
        records.apply(&first, |verdict, entry| seen.push((verdict, entry)));
        assert_eq!(seen.len(), 80);
        assert_eq!(seen.iter().filter(|(verdict, _)| *verdict == Verdict::Lost).count(), 2);
        assert_eq!(records.unresolved(), 20);
        seen.clear();
        records.apply(&first, |verdict, entry| seen.push((verdict, entry)));
        assert!(seen.is_empty(), "the same report again says nothing new");
        records.apply(&report(0, 80, |i| i != 70), |verdict, entry| seen.push((verdict, entry)));
        assert_eq!(seen, [(Verdict::Late, Entry::Chunk { block: BlockId(3), chunk: 7 })]);
    }

    #[test]
    fn the_floor_moves_when_a_segment_has_all_its_verdicts() {
        let mut records = Records::new();
        for _ in 0..2500 {
            records.push(Entry::Other);
        }
        let mut count = 0;
        records.apply(&report(1, 1024, |_| true), |_, _| count += 1);
        assert_eq!(records.floor_segment(), 0);
        records.apply(&report(0, 1024, |_| true), |_, _| count += 1);
        assert_eq!(records.floor_segment(), 2);
        records.apply(&report(2, 1024, |_| true), |_, _| count += 1);
        assert_eq!(count, 2500, "verdicts on packets that were never sent are ignored");
        assert_eq!(records.floor_segment(), 2, "a segment that is still being filled stays");
        assert_eq!(records.unresolved(), 0);
        records.apply(&report(0, 1024, |_| true), |_, _| panic!("below the floor"));
        records.apply(&report(u32::MAX, 1024, |_| true), |_, _| panic!("far above"));
    }
}
