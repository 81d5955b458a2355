//! Where packets wait for their due time: slots of three sizes, reserved at start, and one queue per direction in order of due time.
//!
//! The address space is reserved once; the kernel backs a slot with memory when it is first used, and the newest free slot is used
//! first, so a link that holds little touches little.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Slot sizes for small frames (acknowledgements) and for MTU 1500; the third is that of the largest frame.
const SLOT_BYTES: [usize; 2] = [256, 2048];

/// A taken slot. Move-only: given back to the store exactly once.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    class: u8,
    index: u32,
    bytes: u16,
}

struct SlotClass {
    slot_bytes: usize,
    memory: Vec<u8>,
    free: Vec<u32>,
    /// Slots from here on have never been used.
    fresh: u32,
    count: u32,
}

/// Fixed memory for frames.
pub(crate) struct PacketStore {
    classes: Vec<SlotClass>,
}

impl PacketStore {
    /// A store that always has room for `bytes` of frames, of whatever sizes of 60 bytes and more, none above `frame_bytes_max`.
    pub(crate) fn new(bytes: u64, frame_bytes_max: usize) -> Self {
        let mut classes = Vec::new();
        let mut smallest = 60usize;
        let mut sizes: Vec<usize> = SLOT_BYTES.iter().copied().filter(|&s| s < frame_bytes_max).collect();
        sizes.push(frame_bytes_max);
        for slot_bytes in sizes {
            let count = (bytes / smallest as u64 + 1).min(u64::from(u32::MAX)) as u32;
            let memory = vec![0; slot_bytes * count as usize];
            classes.push(SlotClass { slot_bytes, memory, free: Vec::with_capacity(count as usize), fresh: 0, count });
            smallest = slot_bytes + 1;
        }
        Self { classes }
    }

    /// Takes a slot for `bytes` of frame; `None` if all of its size are taken or the frame is too large.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<Slot> {
        let (class, slots) = self.classes.iter_mut().enumerate().find(|(_, c)| bytes <= c.slot_bytes)?;
        let index = match slots.free.pop() {
            Some(index) => index,
            None if slots.fresh < slots.count => {
                slots.fresh += 1;
                slots.fresh - 1
            }
            None => return None,
        };
        Some(Slot { class: class as u8, index, bytes: bytes as u16 })
    }

    /// The frame's bytes.
    pub(crate) fn frame(&self, slot: &Slot) -> &[u8] {
        let class = &self.classes[usize::from(slot.class)];
        let start = slot.index as usize * class.slot_bytes;
        &class.memory[start..start + usize::from(slot.bytes)]
    }

    /// The frame's bytes, to be written.
    pub(crate) fn frame_mut(&mut self, slot: &Slot) -> &mut [u8] {
        let class = &mut self.classes[usize::from(slot.class)];
        let start = slot.index as usize * class.slot_bytes;
        &mut class.memory[start..start + usize::from(slot.bytes)]
    }

    /// Gives a slot back.
    #[expect(clippy::needless_pass_by_value, reason = "taking the token by value is what keeps a slot from being given back twice")]
    pub(crate) fn release(&mut self, slot: Slot) {
        self.classes[usize::from(slot.class)].free.push(slot.index);
    }
}

/// A frame that waits.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Held {
    pub(crate) due_ns: u64,
    /// Order of arrival, which breaks ties.
    sequence: u64,
    pub(crate) slot: Slot,
}

/// Waiting frames in order of due time, equal ones in order of arrival.
///
/// Without jitter due times ascend, so a plain queue serves; only what comes out of order pays for a heap.
#[derive(Debug, Default)]
pub(crate) struct DueQueue {
    ascending: VecDeque<Held>,
    others: BinaryHeap<Reverse<Held>>,
    sequence: u64,
}

impl DueQueue {
    pub(crate) fn push(&mut self, due_ns: u64, slot: Slot) {
        let held = Held { due_ns, sequence: self.sequence, slot };
        self.sequence += 1;
        if self.ascending.back().is_none_or(|last| last.due_ns <= due_ns) {
            self.ascending.push_back(held);
        } else {
            self.others.push(Reverse(held));
        }
    }

    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        let first = self.ascending.front().map(|h| h.due_ns);
        let other = self.others.peek().map(|h| h.0.due_ns);
        match (first, other) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The first frame that is due at `now_ns`.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<Held> {
        let take_other = match (self.ascending.front(), self.others.peek()) {
            (Some(a), Some(Reverse(b))) => (b.due_ns, b.sequence) < (a.due_ns, a.sequence),
            (None, Some(_)) => true,
            _ => false,
        };
        if self.next_due_ns()? > now_ns {
            return None;
        }
        if take_other { self.others.pop().map(|h| h.0) } else { self.ascending.pop_front() }
    }

    pub(crate) fn len(&self) -> usize {
        self.ascending.len() + self.others.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_hold_what_was_written_and_run_out() {
        let mut store = PacketStore::new(3000, 1518);
        let small = store.take(60).expect("room for a small frame");
        store.frame_mut(&small).fill(7);
        let large: Vec<Slot> = std::iter::from_fn(|| store.take(1518)).collect();
        // 3000 bytes of frames above 256 bytes: at most 3000 / 257 + 1.
        assert_eq!(large.len(), 12);
        assert!(store.take(1519).is_none());
        for (n, slot) in large.iter().enumerate() {
            store.frame_mut(slot).fill(n as u8);
        }
        assert!(large.iter().enumerate().all(|(n, slot)| store.frame(slot).iter().all(|&b| b == n as u8)));
        assert!(store.frame(&small).len() == 60 && store.frame(&small).iter().all(|&b| b == 7));
        for slot in large {
            store.release(slot);
        }
        assert!(store.take(1518).is_some());
    }

    #[test]
    fn frames_come_out_by_due_time_then_by_arrival() {
        let mut store = PacketStore::new(6000, 1518);
        let mut queue = DueQueue::default();
        let dues = [50u64, 10, 60, 60, 55, 10, 90];
        for (n, due) in dues.iter().enumerate() {
            queue.push(*due, store.take(60 + n).expect("room"));
        }
        assert_eq!(queue.len(), dues.len());
        assert_eq!(queue.next_due_ns(), Some(10));
        assert!(queue.pop_due(9).is_none());
        let order: Vec<(u64, usize)> =
            std::iter::from_fn(|| queue.pop_due(60)).map(|h| (h.due_ns, store.frame(&h.slot).len() - 60)).collect();
        assert_eq!(order, [(10, 1), (10, 5), (50, 0), (55, 4), (60, 2), (60, 3)]);
        assert_eq!(queue.next_due_ns(), Some(90));
    }
}
