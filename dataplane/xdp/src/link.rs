//! [`Link`] over an AF_XDP socket: parses received frames, builds sent ones.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tradewind_netio::{Link, LinkCounters, LinkError, LinkLayer, Meta, Path, Transmit};

use crate::{
    FrameAudit, SocketConfig, Steering, XdpError, XdpSocket,
    frame::{Frame, Received},
    packet::{HEADERS_BYTES_MAX, Headers, LINK_BYTES_MAX, OuterTag, parse},
    rings::{BATCH, HEADROOM_BYTES},
    socket::FRAME_BYTES_MAX,
};
use tradewind_fabric::wake::Waker;

/// Packets that one transmit call of the kernel takes in copy mode (`XSK max_tx_budget`, Linux 6.x).
const PACKETS_PER_WAKEUP: u32 = 32;
const _: () = assert!((u16::MAX as usize + LINK_BYTES_MAX).div_ceil(FRAME_BYTES_MAX as usize - HEADROOM_BYTES) <= FRAMES_PER_PACKET_MAX);
/// How long to sleep at most while the kernel has not taken everything that was queued.
const WAIT_WHILE_QUEUED: Duration = Duration::from_millis(1);
/// Fragments of a packet at most (`MAX_SKB_FRAGS` of the kernel, and a head). 65,557 bytes over 3,840 are 18.
const FRAMES_PER_PACKET_MAX: usize = 18;
/// Double-tagged neighbours remembered.
const OUTER_TAGS_MAX: usize = 16;

/// Set-up of an [`XdpLink`].
#[derive(Clone, Copy, Debug)]
pub struct XdpLinkConfig {
    /// The socket.
    pub socket: SocketConfig,
    /// Whether datagrams travel over IPv6: [`Link::datagram_bytes_max`] then leaves room for its longer header. Default
    /// false. Both families are received and answered either way.
    pub ipv6: bool,
}

impl XdpLinkConfig {
    /// The defaults for a worker and a queue.
    #[must_use]
    pub fn new(worker: u32, queue: u32) -> Self {
        Self { socket: SocketConfig::new(worker, queue), ipv6: false }
    }
}

/// A [`Link`] over AF_XDP: one socket, one queue, one worker.
///
/// A received payload is lent in place, in the frame that the kernel or the NIC wrote; a sent payload is written in place, into
/// the frame that leaves. Only packets longer than a frame (multi-buffer, MTU above 3,818) are copied once more, through a buffer
/// of this link, to make them contiguous. Everything is allocated when the link is opened. Sent packets are Not-ECT, with
/// don't-fragment set.
pub struct XdpLink {
    socket: XdpSocket,
    received: Vec<Frame<Received>>,
    assembly: Assembly,
    /// Where a packet of several frames is written before it is cut; empty without multi-buffer.
    outgoing: Vec<u8>,
    outer_tags: OuterTags,
    counters: LinkCounters,
    datagram_bytes_max: usize,
    waker: Waker,
}

/// Puts the fragments of a multi-buffer packet together.
struct Assembly {
    buffer: Vec<u8>,
    length: usize,
    state: AssemblyState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AssemblyState {
    /// The next fragment begins a packet.
    Idle,
    /// The next fragment goes on.
    Collecting,
    /// The packet is too long: its fragments are thrown away up to the last.
    Discarding,
}

impl Assembly {
    fn new(capacity: usize) -> Self {
        Self { buffer: vec![0; capacity], length: 0, state: AssemblyState::Idle }
    }

    /// Adds a fragment. After the last one, returns the packet; `Err` if it was too long.
    fn add(&mut self, fragment: &[u8], continues: bool) -> Option<Result<&mut [u8], ()>> {
        if self.state == AssemblyState::Idle {
            (self.length, self.state) = (0, AssemblyState::Collecting);
        }
        match self.buffer.get_mut(self.length..self.length + fragment.len()) {
            Some(room) if self.state == AssemblyState::Collecting => {
                room.copy_from_slice(fragment);
                self.length += fragment.len();
            }
            _ => self.state = AssemblyState::Discarding,
        }
        if continues {
            return None;
        }
        let whole = self.state == AssemblyState::Collecting;
        self.state = AssemblyState::Idle;
        Some(if whole { Ok(&mut self.buffer[..self.length]) } else { Err(()) })
    }
}

/// The outer VLAN tag of neighbours behind two tags. [`LinkLayer`] names a neighbour with its inner tag; this remembers the
/// outer one it was last seen with, so that the answer carries both.
#[derive(Default)]
struct OuterTags {
    known: Vec<(LinkLayer, OuterTag)>,
    oldest: usize,
}

impl OuterTags {
    fn learn(&mut self, neighbour: LinkLayer, outer: OuterTag) {
        if let Some((_, known)) = self.known.iter_mut().find(|(known, _)| *known == neighbour) {
            *known = outer;
        } else if self.known.len() < OUTER_TAGS_MAX {
            self.known.push((neighbour, outer));
        } else {
            self.known[self.oldest] = (neighbour, outer);
            self.oldest = (self.oldest + 1) % OUTER_TAGS_MAX;
        }
    }

    fn get(&self, neighbour: Option<LinkLayer>) -> Option<OuterTag> {
        let neighbour = neighbour?;
        self.known.iter().find(|(known, _)| *known == neighbour).map(|&(_, outer)| outer)
    }
}

/// Parses a packet and hands its payload on, or counts it as malformed.
fn deliver(
    packet: &mut [u8],
    arrived_ns: u64,
    counters: &mut LinkCounters,
    outer_tags: &mut OuterTags,
    each: &mut impl FnMut(&Meta, &mut [u8]),
) -> usize {
    let Ok(parsed) = parse(packet) else {
        counters.malformed += 1;
        return 0;
    };
    if let (Some(outer), Some(neighbour)) = (parsed.outer, parsed.path.link) {
        outer_tags.learn(neighbour, outer);
    }
    counters.received += 1;
    counters.received_bytes += parsed.payload.len() as u64;
    each(&Meta { path: parsed.path, ecn: parsed.ecn, arrived_ns }, &mut packet[parsed.payload]);
    1
}

fn os_error(what: &'static str) -> impl FnOnce(io::Error) -> LinkError {
    move |source| LinkError::Os { what, source }
}

impl XdpLink {
    /// Opens a socket on a queue of the steered interface and makes it reachable for lanes.
    ///
    /// # Errors
    /// As [`XdpSocket::open`].
    pub fn open(steering: &Steering, config: &XdpLinkConfig) -> Result<Self, XdpError> {
        let socket = XdpSocket::open(steering, &config.socket)?;
        let waker = Waker::new().map_err(|source| XdpError::Os {
            what: "cannot make an eventfd to wake the link",
            interface: steering.interface().to_owned(),
            source,
        })?;
        let several = if socket.multi_buffer { socket.mtu_bytes + LINK_BYTES_MAX } else { 0 };
        let headers = if config.ipv6 { 40 + 8 } else { 20 + 8 };
        Ok(Self {
            received: Vec::with_capacity(BATCH),
            assembly: Assembly::new(several),
            outgoing: vec![0; several.max(if several > 0 { HEADERS_BYTES_MAX } else { 0 })],
            outer_tags: OuterTags { known: Vec::with_capacity(OUTER_TAGS_MAX), oldest: 0 },
            counters: LinkCounters::default(),
            datagram_bytes_max: socket.mtu_bytes.min(usize::from(u16::MAX)).saturating_sub(headers),
            waker,
            socket,
        })
    }

    /// The socket, for its properties and counters.
    #[must_use]
    pub fn socket(&self) -> &XdpSocket {
        &self.socket
    }

    /// A handle with which any thread can interrupt [`Link::wait`].
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Who holds the frames now; see [`XdpSocket::audit`].
    #[must_use]
    pub fn audit(&self) -> FrameAudit {
        self.socket.audit()
    }

    /// Puts a packet that needs several frames into `outgoing` and cuts it. There are enough free frames.
    fn transmit_cut(&mut self, headers: &Headers, capacity: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let head = headers.bytes();
        let payload = fill(&mut self.outgoing[head..head + capacity]).min(capacity);
        if payload == 0 {
            return 0;
        }
        let packet = &mut self.outgoing[..head + payload];
        headers.write(packet);
        let XdpSocket { rings, free, frame_capacity, .. } = &mut self.socket;
        let pieces = packet.chunks(*frame_capacity);
        let last = pieces.len() - 1;
        let mut frames = [const { None }; FRAMES_PER_PACKET_MAX];
        for (index, (piece, slot)) in pieces.zip(&mut frames).enumerate() {
            let Some(frame) = free.pop() else { break };
            let write = |buffer: &mut [u8]| {
                buffer[..piece.len()].copy_from_slice(piece);
                piece.len()
            };
            match rings.write(frame, index < last, write) {
                Ok(frame) => *slot = Some(frame),
                Err(frame) => free.push(frame),
            }
        }
        rings.submit(frames.into_iter().flatten());
        payload
    }
}

impl Link for XdpLink {
    fn receive(
        &mut self,
        clock: &mut impl FnMut() -> u64,
        limit: usize,
        each: &mut impl FnMut(&Meta, &mut [u8]),
    ) -> Result<usize, LinkError> {
        let Self { socket: XdpSocket { rings, fill, .. }, received, assembly, outer_tags, counters, .. } = self;
        let (mut fetched, mut delivered) = (0, 0);
        while fetched < limit {
            let count = rings.receive(limit - fetched, received);
            if count == 0 {
                break;
            }
            fetched += count;
            let arrived_ns = clock();
            for mut frame in received.drain(..) {
                let continues = frame.continues();
                let bytes = rings.bytes(&mut frame);
                if assembly.state == AssemblyState::Idle && !continues {
                    delivered += deliver(bytes, arrived_ns, counters, outer_tags, each);
                } else {
                    match assembly.add(bytes, continues) {
                        Some(Ok(packet)) => delivered += deliver(packet, arrived_ns, counters, outer_tags, each),
                        Some(Err(())) => counters.malformed += 1,
                        None => {}
                    }
                }
                fill.push(frame.recycle());
            }
            rings.fill(fill).map_err(os_error("cannot refill the AF_XDP receive queue"))?;
        }
        Ok(delivered)
    }

    /// A path without link-layer addresses, with mixed address families or with our own address left open cannot be sent to
    /// from here: it counts as `send_failed`, and the answer is [`Transmit::Nothing`].
    fn transmit(&mut self, path: &Path, capacity: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> Result<Transmit, LinkError> {
        let Some(headers) = Headers::new(path, self.outer_tags.get(path.link)) else {
            self.counters.send_failed += 1;
            return Ok(Transmit::Nothing);
        };
        let head = headers.bytes();
        let capacity = capacity.min(headers.payload_bytes_max(self.socket.mtu_bytes));
        let needed = (head + capacity).div_ceil(self.socket.frame_capacity);
        if self.socket.free.len() < needed {
            self.socket.reclaim();
        }
        if self.socket.free.len() < needed || !self.socket.rings.has_transmit_room(needed) {
            return Ok(Transmit::Full);
        }
        let sent = if needed > 1 {
            self.transmit_cut(&headers, capacity, fill)
        } else {
            let Some(frame) = self.socket.free.pop() else { return Ok(Transmit::Full) };
            let mut payload = 0;
            let written = self.socket.rings.write(frame, false, |buffer| {
                payload = fill(&mut buffer[head..head + capacity]).min(capacity);
                if payload == 0 {
                    return 0;
                }
                headers.write(&mut buffer[..head + payload]);
                head + payload
            });
            match written {
                Ok(frame) => self.socket.rings.submit(std::iter::once(frame)),
                Err(frame) => self.socket.free.push(frame),
            }
            payload
        };
        if sent == 0 {
            return Ok(Transmit::Nothing);
        }
        self.counters.sent += 1;
        self.counters.sent_bytes += sent as u64;
        Ok(Transmit::Queued)
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        let mut left = self.socket.rings.untransmitted();
        // As many calls as the frames need, and no more once the kernel stops taking any.
        for _ in 0..left / PACKETS_PER_WAKEUP + 2 {
            if left == 0 {
                break;
            }
            self.socket.rings.wake_transmit().map_err(os_error("cannot send on the AF_XDP socket"))?;
            let now = self.socket.rings.untransmitted();
            if now >= left {
                break;
            }
            left = now;
        }
        self.socket.reclaim();
        Ok(())
    }

    /// Also returns on [`Waker::wake`] and on a signal.
    fn wait(&mut self, timeout: Duration) -> Result<(), LinkError> {
        if self.socket.rings.has_received() {
            return Ok(());
        }
        let queued = self.socket.rings.untransmitted() > 0;
        let timeout = if queued { timeout.min(WAIT_WHILE_QUEUED) } else { timeout };
        let mut set =
            [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN), PollFd::from_borrowed_fd(self.waker.as_fd(), PollFlags::IN)];
        // A timeout of more seconds than a timespec holds is as good as none.
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut set, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(os_error("cannot wait for the AF_XDP socket (ppoll)")(errno.into())),
        }
        if set[1].revents().contains(PollFlags::IN) {
            self.waker.clear();
        }
        Ok(())
    }

    fn datagram_bytes_max(&self) -> usize {
        self.datagram_bytes_max
    }

    fn counters(&self) -> LinkCounters {
        let kernel = self.socket.statistics().unwrap_or_default();
        LinkCounters {
            receive_dropped: kernel.receive_dropped + kernel.receive_ring_full,
            send_failed: self.counters.send_failed + kernel.transmit_invalid,
            ..self.counters
        }
    }
}

impl AsFd for XdpLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;
