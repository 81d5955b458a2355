//! AF_XDP and the kernel's socket side by side.
//!
//! The steering program redirects our packets to AF_XDP and passes what it does not handle (IPv4 options, fragments, IPv6
//! extension headers) to the kernel, where a socket on the same port takes them. Answers leave the way the peer's packets
//! came. Without AF_XDP only the socket remains.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use tradewind_fabric::wake::Waker;
use tradewind_netio::udp::UdpLink;
use tradewind_netio::{Link, LinkCounters, LinkError, Meta, Path, Transmit};
use tradewind_xdp::XdpLink;

/// The links of one worker.
pub struct EngineLink {
    xdp: Option<XdpLink>,
    socket: UdpLink,
    waker: Waker,
}

impl EngineLink {
    /// Puts the links of a worker together; `waker` ends its sleep.
    #[must_use]
    pub fn new(xdp: Option<XdpLink>, socket: UdpLink, waker: Waker) -> Self {
        Self { xdp, socket, waker }
    }

    /// Counters of the AF_XDP link (zero without one) and of the socket.
    #[must_use]
    pub fn counters_by_link(&self) -> (LinkCounters, LinkCounters) {
        (self.xdp.as_ref().map_or_else(LinkCounters::default, Link::counters), self.socket.counters())
    }
}

impl Link for EngineLink {
    fn receive(&mut self, now_ns: u64, limit: usize, each: &mut impl FnMut(&Meta, &mut [u8])) -> Result<usize, LinkError> {
        let by_xdp = match &mut self.xdp {
            Some(xdp) => xdp.receive(now_ns, limit, each)?,
            None => 0,
        };
        Ok(by_xdp + self.socket.receive(now_ns, limit, each)?)
    }

    fn transmit(&mut self, path: &Path, capacity: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> Result<Transmit, LinkError> {
        match &mut self.xdp {
            Some(xdp) if path.link.is_some() => xdp.transmit(path, capacity, fill),
            _ => self.socket.transmit(path, capacity, fill),
        }
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        if let Some(xdp) = &mut self.xdp {
            xdp.flush()?;
        }
        self.socket.flush()
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), LinkError> {
        let socket = self.socket.as_fd().as_raw_fd();
        let xdp: RawFd = self.xdp.as_ref().map_or(-1, |xdp| xdp.as_fd().as_raw_fd());
        self.waker.wait(&[socket, xdp], timeout);
        Ok(())
    }

    fn datagram_bytes_max(&self) -> usize {
        self.xdp.as_ref().map_or_else(|| self.socket.datagram_bytes_max(), Link::datagram_bytes_max)
    }

    fn counters(&self) -> LinkCounters {
        let (a, b) = self.counters_by_link();
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
}
