//! AF_XDP and the kernel's socket side by side.
//!
//! The steering program redirects our packets to AF_XDP and passes what it does not handle (IPv4 options, fragments, IPv6
//! extension headers) to the kernel, where a socket on the same port takes them. Answers leave the way the peer's packets
//! came. Without AF_XDP only the socket remains.

use std::os::fd::AsFd;
use std::time::Duration;

use tradewind_fabric::wake::Waker;
use tradewind_netio::udp::UdpLink;
use tradewind_netio::{Link, LinkCounters, LinkError, Meta, Path, Transmit};
use tradewind_xdp::XdpLink;

/// Turns in a row that AF_XDP had packets for after which a socket that was empty is looked at again: that costs a system call, about what five
/// packets cost.
const SOCKET_TURNS: u32 = 16;

/// The links of one worker: an AF_XDP link a queue, and the socket on the first worker.
pub struct EngineLink {
    xdp: Vec<XdpLink>,
    socket: Option<UdpLink>,
    /// There was nothing in the socket when it was looked at last.
    quiet: bool,
    /// Counts turns, modulo [`SOCKET_TURNS`].
    turns: u32,
    waker: Waker,
}

impl EngineLink {
    /// Puts the links of a worker together; `waker` ends its sleep.
    #[must_use]
    pub fn new(xdp: Vec<XdpLink>, socket: Option<UdpLink>, waker: Waker) -> Self {
        Self { xdp, socket, quiet: true, turns: 0, waker }
    }

    /// Counters of the AF_XDP links together, and of the socket.
    #[must_use]
    pub fn counters_by_link(&self) -> (LinkCounters, LinkCounters) {
        let xdp = self.xdp.iter().fold(LinkCounters::default(), |sum, link| add(sum, link.counters()));
        (xdp, self.socket.as_ref().map_or_else(LinkCounters::default, Link::counters))
    }
}

fn add(a: LinkCounters, b: LinkCounters) -> LinkCounters {
    LinkCounters {
        received: a.received + b.received,
        received_bytes: a.received_bytes + b.received_bytes,
        sent: a.sent + b.sent,
        sent_bytes: a.sent_bytes + b.sent_bytes,
        receive_dropped: a.receive_dropped + b.receive_dropped,
        send_failed: a.send_failed + b.send_failed,
        malformed: a.malformed + b.malformed,
    }
}

impl Link for EngineLink {
    fn receive(
        &mut self,
        clock: &mut impl FnMut() -> u64,
        limit: usize,
        each: &mut impl FnMut(&Meta, &mut [u8]),
    ) -> Result<usize, LinkError> {
        let mut count = 0;
        for link in &mut self.xdp {
            count += link.receive(clock, limit, each)?;
        }
        self.turns = (self.turns + 1) % SOCKET_TURNS;
        match &mut self.socket {
            Some(socket) if count == 0 || !self.quiet || self.turns == 0 => {
                let taken = socket.receive(clock, limit, each)?;
                self.quiet = taken == 0;
                Ok(count + taken)
            }
            _ => Ok(count),
        }
    }

    fn transmit(&mut self, path: &Path, capacity: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> Result<Transmit, LinkError> {
        match (&mut self.xdp[..], &mut self.socket) {
            ([link, ..], _) if path.link.is_some() => link.transmit(path, capacity, fill),
            (_, Some(socket)) => socket.transmit(path, capacity, fill),
            _ => Ok(Transmit::Nothing),
        }
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        for link in &mut self.xdp {
            link.flush()?;
        }
        self.socket.as_mut().map_or(Ok(()), Link::flush)
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), LinkError> {
        let links = self.xdp.iter().map(AsFd::as_fd).chain(self.socket.iter().map(AsFd::as_fd));
        self.waker.wait(links, timeout);
        Ok(())
    }

    /// Ended by the waker only.
    fn doze(&mut self, time: Duration) -> Result<(), LinkError> {
        self.waker.wait(std::iter::empty(), time);
        Ok(())
    }

    fn datagram_bytes_max(&self) -> usize {
        let links = self.xdp.iter().map(Link::datagram_bytes_max).chain(self.socket.iter().map(Link::datagram_bytes_max));
        links.min().unwrap_or(0)
    }

    fn counters(&self) -> LinkCounters {
        let (xdp, socket) = self.counters_by_link();
        add(xdp, socket)
    }
}
