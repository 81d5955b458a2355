//! What both ends do with their link: open it, send what is due, sleep until something is.

use std::net::SocketAddr;
use std::time::Duration;

use tradewind_fabric::clock::now_ns;
use tradewind_fabric::wake::Waker;
use tradewind_netio::udp::{UdpConfig, UdpLink};
use tradewind_netio::{Link, LinkError, Meta, Path, Transmit};
use tradewind_wire::limits::packet_bytes;

use crate::error::UploadError;

/// Datagrams taken or sent before the other side of the loop gets its turn.
const BATCH: usize = 64;
/// Longest sleep: cancellation is noticed this late.
pub(crate) const SLEEP_MAX_NS: u64 = 100_000_000;
/// A wait shorter than this is not worth a system call.
const SLEEP_MIN_NS: u64 = 20_000;
/// Sleep when the link has no room.
const FULL_SLEEP_NS: u64 = 10 * SLEEP_MIN_NS;
/// How long the last CLOSE packets may take to leave.
pub(crate) const LINGER_NS: u64 = 200_000_000;

/// A socket, and the one address that it speaks with.
pub(crate) struct ServerLink {
    link: UdpLink,
    pub(crate) endpoint: SocketAddr,
}

impl ServerLink {
    /// Opens a socket for chunks of this size.
    pub(crate) fn open(endpoint: SocketAddr, chunk_bytes: usize) -> Result<Self, UploadError> {
        let mtu_bytes = packet_bytes(chunk_bytes, endpoint.is_ipv6());
        let config = UdpConfig { mtu_bytes, ..UdpConfig::new(unspecified(endpoint)) };
        let (link, warnings) =
            UdpLink::bind(&config).map_err(|source| UploadError::Local { what: "cannot open a UDP socket", source: source.into() })?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self { link, endpoint })
    }

    /// A handle with which any thread can interrupt [`ServerLink::sleep`].
    pub(crate) fn waker(&self) -> Waker {
        self.link.waker()
    }

    /// Takes what has arrived, [`BATCH`] datagrams at most, and tells how many there were.
    pub(crate) fn receive(&mut self, each: &mut impl FnMut(&Meta, &mut [u8])) -> Result<usize, LinkError> {
        self.link.receive(&mut now_ns, BATCH, each)
    }

    /// Queues what `poll` writes, until it writes nothing, [`BATCH`] datagrams at most; `true` when the link had no room for more.
    pub(crate) fn queue(&mut self, capacity: usize, mut poll: impl FnMut(&mut [u8]) -> usize) -> Result<bool, LinkError> {
        let path = Path { local: unspecified(self.endpoint), remote: self.endpoint, link: None };
        for _ in 0..BATCH {
            match self.link.transmit(&path, capacity, &mut poll)? {
                Transmit::Queued => {}
                Transmit::Nothing => break,
                Transmit::Full => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Hands what is queued to the kernel, as far as it takes it.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        self.link.flush()
    }

    /// [`Self::queue`] and [`Self::flush`].
    pub(crate) fn transmit(&mut self, capacity: usize, poll: impl FnMut(&mut [u8]) -> usize) -> Result<bool, LinkError> {
        let full = self.queue(capacity, poll)?;
        self.flush()?;
        Ok(full)
    }

    /// Waits for a datagram until `wake_ns`, or for a moment if the link is `full`, but at most `longest_ns`.
    pub(crate) fn sleep(&mut self, full: bool, wake_ns: u64, longest_ns: u64) -> Result<(), LinkError> {
        let wait_ns = if full { FULL_SLEEP_NS } else { wake_ns.saturating_sub(now_ns()) }.min(longest_ns);
        if wait_ns >= SLEEP_MIN_NS { self.link.wait(Duration::from_nanos(wait_ns)) } else { Ok(()) }
    }
}

fn unspecified(endpoint: SocketAddr) -> SocketAddr {
    if endpoint.is_ipv6() { ([0u16; 8], 0).into() } else { ([0u8; 4], 0).into() }
}

pub(crate) fn local(error: LinkError) -> UploadError {
    UploadError::Local { what: "the network link failed", source: error.into() }
}
