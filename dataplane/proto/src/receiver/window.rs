//! Which packet numbers have arrived, and what the sender has been told of them.
//!
//! The same bitmap is the replay window and the source of the verdicts: a packet number below `closed` has a verdict, 1 if
//! its bit is set. Segments stay until the sender's floor passes them.

use std::collections::VecDeque;

use tradewind_wire::limits::{SEGMENT_PACKETS, SEGMENT_WORDS, SEGMENTS_OPEN_MAX};

/// Times that news about a segment is reported at least (transport.md section 3).
const REPORTS_MIN: u8 = 3;

#[derive(Clone, Copy)]
struct Segment {
    bits: [u64; SEGMENT_WORDS],
    /// Verdicts given so far, from the segment's start.
    verdicts: u16,
    /// Reports since the last news.
    reports: u8,
    reported_ns: u64,
}

const EMPTY: Segment = Segment { bits: [0; SEGMENT_WORDS], verdicts: 0, reports: 0, reported_ns: 0 };

/// Arrivals by packet number.
pub(super) struct Window {
    /// The sender's floor: everything below it is settled.
    floor: u64,
    segments: VecDeque<Segment>,
    /// Largest packet number seen plus one.
    largest: u64,
    /// Everything below has a verdict.
    closed: u64,
    cursor: u64,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { floor: 0, segments: VecDeque::new(), largest: 0, closed: 0, cursor: 0 }
    }

    pub(super) fn largest(&self) -> u64 {
        self.largest
    }

    pub(super) fn closed(&self) -> u64 {
        self.closed
    }

    /// Whether a packet with this number may still be new: inside the window and not seen.
    pub(super) fn is_new(&self, number: u64) -> bool {
        let segment = number / SEGMENT_PACKETS as u64;
        let Some(position) = segment.checked_sub(self.floor) else { return false };
        if position >= SEGMENTS_OPEN_MAX as u64 {
            return false;
        }
        self.segments.get(position as usize).is_none_or(|segment| {
            let at = number as usize % SEGMENT_PACKETS;
            segment.bits[at / 64] >> (63 - at % 64) & 1 == 0
        })
    }

    /// Marks an authenticated, new packet number. Returns whether its verdict had been "lost".
    pub(super) fn mark(&mut self, number: u64) -> bool {
        let Some(position) = (number / SEGMENT_PACKETS as u64).checked_sub(self.floor) else { return false };
        while self.segments.len() as u64 <= position && self.segments.len() < SEGMENTS_OPEN_MAX {
            self.segments.push_back(EMPTY);
        }
        let Some(segment) = self.segments.get_mut(position as usize) else { return false };
        let at = number as usize % SEGMENT_PACKETS;
        segment.bits[at / 64] |= 1 << (63 - at % 64);
        self.largest = self.largest.max(number + 1);
        let late = number < self.closed;
        if late {
            segment.reports = 0;
        }
        late
    }

    /// Moves the floor to the sender's, given by its low 16 bits.
    pub(super) fn on_floor(&mut self, low: u16) {
        let ahead = low.wrapping_sub(self.floor as u16);
        // The sender's floor never passes what it has sent, so it cannot lie behind the largest number seen.
        let limit = (self.largest / SEGMENT_PACKETS as u64).saturating_sub(self.floor);
        if ahead > u16::MAX / 2 || u64::from(ahead) > limit {
            return;
        }
        for _ in 0..ahead {
            self.segments.pop_front();
            self.floor += 1;
        }
    }

    /// Gives a verdict to every packet number below `horizon`.
    pub(super) fn close(&mut self, horizon: u64) {
        if horizon <= self.closed {
            return;
        }
        let first = (self.closed / SEGMENT_PACKETS as u64).saturating_sub(self.floor);
        self.closed = horizon;
        for position in first as usize..self.segments.len() {
            let start = (self.floor + position as u64) * SEGMENT_PACKETS as u64;
            let verdicts = horizon.saturating_sub(start).min(SEGMENT_PACKETS as u64) as u16;
            if verdicts == 0 {
                break;
            }
            let segment = &mut self.segments[position];
            if verdicts > segment.verdicts {
                segment.verdicts = verdicts;
                segment.reports = 0;
            }
        }
    }

    fn due(segment: &Segment, now_ns: u64, repeat_ns: u64) -> bool {
        segment.verdicts > 0 && (segment.reports < REPORTS_MIN || now_ns.saturating_sub(segment.reported_ns) >= repeat_ns)
    }

    /// Whether any segment has news that has not been reported at all.
    pub(super) fn has_news(&self) -> bool {
        self.segments.iter().any(|segment| segment.verdicts > 0 && segment.reports == 0)
    }

    /// Whether the sender has not confirmed everything yet.
    pub(super) fn has_unconfirmed(&self) -> bool {
        self.segments.iter().any(|segment| segment.verdicts > 0)
    }

    /// Starts a round of reports.
    pub(super) fn start_round(&mut self) {
        self.cursor = self.floor;
    }

    /// Offers the segments that are due to `write`, until it returns `false` (packet full); `true` when the round is over.
    pub(super) fn report(&mut self, now_ns: u64, repeat_ns: u64, mut write: impl FnMut(u32, u16, &[u64; SEGMENT_WORDS]) -> bool) -> bool {
        self.cursor = self.cursor.max(self.floor);
        while let Some(segment) = self.segments.get_mut((self.cursor - self.floor) as usize) {
            if Self::due(segment, now_ns, repeat_ns) {
                let Ok(index) = u32::try_from(self.cursor) else { return true };
                if !write(index, segment.verdicts, &segment.bits) {
                    return false;
                }
                segment.reports = segment.reports.saturating_add(1);
                segment.reported_ns = now_ns;
            }
            self.cursor += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once_and_only_inside_the_window() {
        let mut window = Window::new();
        assert!(window.is_new(5));
        assert!(!window.mark(5));
        assert!(!window.is_new(5));
        assert!(window.is_new(SEGMENT_PACKETS as u64 * SEGMENTS_OPEN_MAX as u64 - 1));
        assert!(!window.is_new(SEGMENT_PACKETS as u64 * SEGMENTS_OPEN_MAX as u64));
        window.mark(3000);
        window.on_floor(2);
        assert!(!window.is_new(5), "below the floor nothing is new");
        assert!(window.is_new(2999));
        window.on_floor(60_000);
        window.on_floor(9);
        assert_eq!(window.floor, 2, "a floor beyond what was sent is ignored");
    }

    #[test]
    fn verdicts_are_reported_three_times_then_repeated_slowly() {
        let mut window = Window::new();
        for number in [0, 1, 3, 1100] {
            window.mark(number);
        }
        window.close(1101);
        let round = |window: &mut Window, now| {
            let mut seen = Vec::new();
            window.start_round();
            assert!(window.report(now, 1000, |index, verdicts, bits| {
                seen.push((index, verdicts, bits[0] >> 60));
                true
            }));
            seen
        };
        for now in 0..3 {
            assert_eq!(round(&mut window, now), [(0, 1024, 0b1101), (1, 77, 0)]);
        }
        assert!(round(&mut window, 3).is_empty());
        assert_eq!(round(&mut window, 1500).len(), 2, "repeated until the floor passes");
        assert!(window.mark(2), "its verdict was lost");
        assert_eq!(round(&mut window, 1501), [(0, 1024, 0b1111)], "a late arrival is news");
    }
}
