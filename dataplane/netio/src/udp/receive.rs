//! Receiving: `recvmmsg` into buffers of our own, then one callback for each datagram, also where the kernel merged
//! several of one flow into one buffer (UDP_GRO).

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use super::errors::{Fault, fault};
use super::sys::{self, BATCH_MAX, CONTROL_BYTES, Control, NAME_BYTES, Name, ReceiveSlot};
use super::{address, control};
use crate::{Ecn, LinkCounters, LinkError, Meta, Path};

/// Bytes of a receive buffer: more than any UDP payload (65,527 bytes over IPv6) and than anything GRO merges.
const BUFFER_BYTES: usize = 65_536;

/// Merged buffers are long: few of them keep the working set inside a core's own cache.
const SLOTS_WITH_GRO: usize = 16;

/// Errors of the socket that do not come from the receive itself (an ICMP answer to something sent) are taken one a call;
/// after so many the next turn of the loop goes on.
const FAULTS_PER_CALL_MAX: usize = 8;

const _: () = assert!(SLOTS_WITH_GRO <= BATCH_MAX);

/// A received message that has not been handed on completely.
#[derive(Clone, Copy)]
struct Waiting {
    /// Next slot to hand on, and the end of the filled ones.
    slot: usize,
    end: usize,
    /// Where in that slot the next datagram begins; `None` if the slot's control messages have not been read.
    current: Option<Current>,
    /// When the messages were taken from the kernel.
    arrived_ns: u64,
}

/// The slot being handed on.
#[derive(Clone, Copy)]
struct Current {
    path: Path,
    ecn: Ecn,
    segment_bytes: usize,
    offset: usize,
}

/// The receiving half of a link.
pub(super) struct Receiver {
    slots: Box<[ReceiveSlot]>,
    waiting: Waiting,
    /// What the socket is bound to: the destination of datagrams without packet info.
    local: SocketAddr,
}

impl Receiver {
    pub(super) fn new(local: SocketAddr, gro: bool) -> Self {
        let slot = || ReceiveSlot {
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            bytes: 0,
            name: Name([0; NAME_BYTES]),
            name_bytes: 0,
            control: Control([0; CONTROL_BYTES]),
            control_bytes: 0,
            truncated: false,
        };
        let count = if gro { SLOTS_WITH_GRO } else { BATCH_MAX };
        Self { slots: (0..count).map(|_| slot()).collect(), waiting: Waiting { slot: 0, end: 0, current: None, arrived_ns: 0 }, local }
    }

    /// Whether datagrams wait that were already taken from the kernel.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.slot < self.waiting.end
    }

    /// Hands on up to `limit` datagrams; returns how many.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        clock: &mut impl FnMut() -> u64,
        limit: usize,
        counters: &mut LinkCounters,
        each: &mut impl FnMut(&Meta, &mut [u8]),
    ) -> Result<usize, LinkError> {
        let mut handed = self.hand_on(limit, counters, each);
        let mut faults = 0;
        while handed < limit && faults < FAULTS_PER_CALL_MAX {
            // Every message holds at least one datagram, so no more messages than datagrams are wanted.
            let wanted = self.slots.len().min(limit - handed);
            match sys::receive(socket, &mut self.slots[..wanted]) {
                Ok(filled) => {
                    self.waiting = Waiting { slot: 0, end: filled, current: None, arrived_ns: clock() };
                    handed += self.hand_on(limit - handed, counters, each);
                    // Fewer than asked for: the socket is empty, asking again would be a wasted call.
                    if filled < wanted {
                        break;
                    }
                }
                Err(error) => match fault(&error) {
                    Fault::Later => break,
                    Fault::Again | Fault::Datagram => faults += 1,
                    Fault::Broken => return Err(broken(error)),
                },
            }
        }
        Ok(handed)
    }

    fn hand_on(&mut self, limit: usize, counters: &mut LinkCounters, each: &mut impl FnMut(&Meta, &mut [u8])) -> usize {
        let mut handed = 0;
        while handed < limit && self.waiting.slot < self.waiting.end {
            let slot = &mut self.slots[self.waiting.slot];
            let Some(mut current) = self.waiting.current.or_else(|| describe(slot, &self.local)) else {
                counters.malformed += 1;
                self.waiting.slot += 1;
                continue;
            };
            let end = (current.offset + current.segment_bytes).min(slot.bytes);
            let datagram = &mut slot.buffer[current.offset..end];
            counters.received += 1;
            counters.received_bytes += datagram.len() as u64;
            handed += 1;
            each(&Meta { path: current.path, ecn: current.ecn, arrived_ns: self.waiting.arrived_ns }, datagram);
            current.offset = end;
            if end < slot.bytes {
                self.waiting.current = Some(current);
            } else {
                self.waiting.current = None;
                self.waiting.slot += 1;
            }
        }
        handed
    }
}

/// What a filled slot holds; `None` if it was cut short or has no usable source.
fn describe(slot: &ReceiveSlot, bound: &SocketAddr) -> Option<Current> {
    if slot.truncated {
        return None;
    }
    let remote = address::decode(&slot.name.0[..slot.name_bytes])?;
    let received = control::read(&slot.control.0[..slot.control_bytes], bound.port());
    Some(Current {
        path: Path { local: received.local.unwrap_or(*bound), remote, link: None },
        ecn: received.ecn,
        segment_bytes: received.segment_bytes.unwrap_or(slot.bytes),
        offset: 0,
    })
}

fn broken(source: io::Error) -> LinkError {
    LinkError::Os { what: "cannot receive from the UDP socket (recvmmsg)", source }
}
