//! Sending: datagrams are written one behind the other into one arena. Neighbours of one path and one length form a
//! message that the kernel or the NIC cuts up again (UDP_SEGMENT), so merging costs no copy, and a message can still be
//! sent as single datagrams where that is not possible.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use super::address::{self, Family};
use super::control;
use super::errors::{Fault, fault};
use super::sys::{self, BATCH_MAX, CONTROL_BYTES, Control, NAME_BYTES, Name, SendSlot};
use crate::{LinkCounters, LinkError, Path, Transmit};

/// Most datagrams of one message: `UDP_MAX_SEGMENTS` of Linux 4.18 to 6.5; later kernels take 128.
const SEGMENTS_MAX: usize = 64;

/// Most bytes of one message; the kernel's limit is 65,535 less the headers.
const MESSAGE_BYTES_MAX: usize = 65_000;

/// Largest UDP payload over IPv4: 65,535 - 20 - 8.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Bytes queued at most: 4 bursts of 100 µs at 10 Gbit/s.
const ARENA_BYTES: usize = 512 * 1024;

/// Messages queued at most. Without segmentation each datagram is sent alone, but still queued merged.
const MESSAGES_MAX: usize = 256;

const _: () = assert!(ARENA_BYTES > DATAGRAM_BYTES_MAX);
const _: () = assert!(MESSAGE_BYTES_MAX < DATAGRAM_BYTES_MAX);

/// Neighbouring datagrams of one path; all of them but the last are `segment_bytes` long.
struct Message {
    path: Path,
    start: usize,
    bytes: usize,
    segment_bytes: usize,
    segments: usize,
    /// The last datagram is shorter, so nothing can follow.
    closed: bool,
}

/// The part of a message that one slot carries.
#[derive(Clone, Copy)]
struct Entry {
    message: usize,
    segment: usize,
    segments: usize,
}

/// A message that the kernel refused whole and that is being sent as single datagrams.
struct Split {
    message: usize,
    delivered: bool,
    oversize: bool,
}

/// The sending half of a link.
pub(super) struct Sender {
    arena: Box<[u8]>,
    used: usize,
    messages: Vec<Message>,
    /// The next datagram to send: message and segment.
    head: (usize, usize),
    slots: Vec<SendSlot>,
    entries: Vec<Entry>,
    split: Option<Split>,
    segmentation: bool,
    family: Family,
    /// What the socket is bound to.
    bound: SocketAddr,
}

impl Sender {
    pub(super) fn new(bound: SocketAddr, segmentation: bool) -> Self {
        Self {
            arena: vec![0; ARENA_BYTES].into_boxed_slice(),
            used: 0,
            messages: Vec::with_capacity(MESSAGES_MAX),
            head: (0, 0),
            slots: Vec::with_capacity(BATCH_MAX),
            entries: Vec::with_capacity(BATCH_MAX),
            split: None,
            segmentation,
            family: Family::of(&bound),
            bound,
        }
    }

    /// Whether messages are handed to the kernel whole.
    pub(super) fn segmentation(&self) -> bool {
        self.segmentation
    }

    /// Whether datagrams are queued.
    pub(super) fn has_queued(&self) -> bool {
        !self.messages.is_empty()
    }

    pub(super) fn transmit(
        &mut self,
        path: &Path,
        capacity: usize,
        counters: &mut LinkCounters,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Transmit {
        let capacity = capacity.min(DATAGRAM_BYTES_MAX);
        if self.messages.len() == MESSAGES_MAX || self.arena.len() - self.used < capacity {
            return Transmit::Full;
        }
        let start = self.used;
        let bytes = fill(&mut self.arena[start..start + capacity]).min(capacity);
        if bytes == 0 {
            return Transmit::Nothing;
        }
        if address::encode(&path.remote, self.family).is_none() {
            counters.send_failed += 1;
            return Transmit::Queued;
        }
        self.used += bytes;
        if let Some(last) = self.messages.last_mut()
            && last.takes(path, bytes, capacity)
        {
            last.closed = bytes < last.segment_bytes;
            last.bytes += bytes;
            last.segments += 1;
        } else {
            self.messages.push(Message { path: *path, start, bytes, segment_bytes: bytes, segments: 1, closed: false });
        }
        Transmit::Queued
    }

    pub(super) fn flush(&mut self, socket: BorrowedFd<'_>, counters: &mut LinkCounters) -> Result<(), LinkError> {
        while self.head.0 < self.messages.len() {
            self.fill_slots();
            match sys::send(socket, &self.arena, &self.slots) {
                Ok(sent) => {
                    for index in 0..sent {
                        counters.sent += self.entries[index].segments as u64;
                        counters.sent_bytes += self.slots[index].range.len() as u64;
                        self.advance(index);
                    }
                }
                Err(error) => match fault(&error) {
                    Fault::Again => {}
                    Fault::Later => return Ok(()),
                    Fault::Datagram => self.refused(&error, counters),
                    Fault::Broken => return Err(broken(error)),
                },
            }
        }
        self.messages.clear();
        self.head = (0, 0);
        self.used = 0;
        Ok(())
    }

    /// Describes what comes next, as many messages as one call takes.
    fn fill_slots(&mut self) {
        self.slots.clear();
        self.entries.clear();
        let (mut index, mut segment) = self.head;
        while self.slots.len() < BATCH_MAX && index < self.messages.len() {
            let message = &self.messages[index];
            let whole = self.segmentation && self.split.as_ref().is_none_or(|split| split.message != index);
            let segments = if whole { message.segments - segment } else { 1 };
            self.slots.push(message.slot(segment, segments, self.family, &self.bound));
            self.entries.push(Entry { message: index, segment, segments });
            segment += segments;
            if segment == message.segments {
                (index, segment) = (index + 1, 0);
            }
        }
    }

    /// The kernel refused the first slot because of what it is, not for want of room.
    fn refused(&mut self, error: &io::Error, counters: &mut LinkCounters) {
        let entry = self.entries[0];
        let code = error.raw_os_error();
        // Kernels say EIO or EINVAL where a device cannot checksum segments, and EINVAL or EMSGSIZE where a segment does
        // not fit the MTU. Single datagrams tell which it is, and lose nothing that could be sent.
        let about_segments = matches!(code, Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT));
        if entry.segments > 1 && about_segments {
            self.split = Some(Split { message: entry.message, delivered: false, oversize: false });
            return;
        }
        counters.send_failed += entry.segments as u64;
        if let Some(split) = &mut self.split
            && code == Some(libc::EMSGSIZE)
        {
            split.oversize = true;
        }
        self.step(entry);
    }

    /// The entry at `index` was sent.
    fn advance(&mut self, index: usize) {
        let entry = self.entries[index];
        if let Some(split) = &mut self.split
            && split.message == entry.message
        {
            split.delivered = true;
        }
        self.step(entry);
    }

    fn step(&mut self, entry: Entry) {
        let next = entry.segment + entry.segments;
        if next < self.messages[entry.message].segments {
            self.head = (entry.message, next);
            return;
        }
        self.head = (entry.message + 1, 0);
        if let Some(split) = self.split.take_if(|split| split.message == entry.message) {
            // Alone they went and together they did not: this kernel or device cannot segment. For good.
            if split.delivered && !split.oversize {
                self.segmentation = false;
            }
        }
    }
}

impl Message {
    /// What is merged is longer than any of the flow's datagrams is alone, `capacity` bytes: who gets it whole can tell.
    fn takes(&self, path: &Path, bytes: usize, capacity: usize) -> bool {
        !self.closed
            && self.bytes + bytes > capacity
            && bytes <= self.segment_bytes
            && self.segments < SEGMENTS_MAX
            && self.bytes + bytes <= MESSAGE_BYTES_MAX
            && self.path == *path
    }

    /// What the kernel is told about `segments` datagrams from `segment` on.
    fn slot(&self, segment: usize, segments: usize, family: Family, bound: &SocketAddr) -> SendSlot {
        let from = segment * self.segment_bytes;
        let to = ((segment + segments) * self.segment_bytes).min(self.bytes);
        // The address was checked when the datagram was queued; an empty name would be counted as a failed send.
        let (name, name_bytes) = address::encode(&self.path.remote, family).unwrap_or((Name([0; NAME_BYTES]), 0));
        let mut control = Control([0; CONTROL_BYTES]);
        let mut writer = control::Writer::new(&mut control);
        if !self.path.local.ip().is_unspecified() && self.path.local.ip() != bound.ip() {
            writer.source(&self.path.local, family);
        }
        if segments > 1 {
            // A segment is shorter than MESSAGE_BYTES_MAX, which fits 16 bits.
            writer.segment_bytes(self.segment_bytes as u16);
        }
        let control_bytes = writer.finish();
        SendSlot { range: self.start + from..self.start + to, name, name_bytes, control, control_bytes }
    }
}

fn broken(source: io::Error) -> LinkError {
    LinkError::Os { what: "cannot send on the UDP socket (sendmmsg)", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_merged_is_longer_than_any_datagram_alone() {
        let address: SocketAddr = ([127, 0, 0, 1], 9).into();
        let path = Path { local: ([0, 0, 0, 0], 0).into(), remote: address, link: None };
        let mut sender = Sender::new(address, true);
        let mut queue = |bytes: usize, capacity: usize| {
            sender.transmit(&path, capacity, &mut LinkCounters::default(), |_| bytes);
            sender.messages.len()
        };
        // Two short ones could pass for one, of any two sizes.
        assert_eq!((queue(100, 1472), queue(100, 1472), queue(800, 1472), queue(600, 1472)), (1, 2, 3, 4));
        // Full ones, and the shorter one that ends them, cannot.
        assert_eq!((queue(1472, 1472), queue(1472, 1472), queue(90, 1472)), (5, 5, 5));
    }
}
