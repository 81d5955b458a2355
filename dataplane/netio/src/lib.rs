//! Batch-shaped datagram links.
//!
//! A [`Link`] moves UDP datagrams in batches. A transmit lets the caller write straight into the memory that leaves
//! (a GSO buffer, an AF_XDP frame); a receive lends the caller the memory that the packet arrived in, so that the
//! caller can decrypt straight into a block. Nothing here knows lanes, files or keys.
#![deny(unsafe_code)]

pub mod memory;
pub mod path;
pub mod udp;

use std::time::Duration;

pub use path::{Ecn, LinkLayer, Path};

/// What a link knows of one received datagram besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The way back to the sender. Only trust it once the payload has authenticated.
    pub path: Path,
    /// ECN code point of the IP header.
    pub ecn: Ecn,
    /// When the datagram was taken from the kernel, in nanoseconds of [`tradewind_fabric::clock`].
    pub arrived_ns: u64,
}

/// What became of one [`Link::transmit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// The datagram is queued; [`Link::flush`] hands it to the kernel at the latest.
    Queued,
    /// `fill` returned 0: nothing was queued.
    Nothing,
    /// No room now. `fill` was not called. Flush, then try again on the next turn of the loop.
    Full,
}

/// Counters of a link since it was opened; all of them only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Datagrams received.
    pub received: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Payload bytes handed to the kernel.
    pub sent_bytes: u64,
    /// Datagrams dropped by the kernel or the NIC because we were too slow (socket overflow, RX ring full, no fill frame).
    pub receive_dropped: u64,
    /// Datagrams that could not be sent (no route, peer unreachable, oversize).
    pub send_failed: u64,
    /// Datagrams that reached us but are not well-formed UDP for us.
    pub malformed: u64,
}

/// Why a link is unusable. Loss of single datagrams is counted, never an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The operating system refused.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The link cannot be set up this way; the text says what to do.
    #[error("{0}")]
    Setup(String),
}

impl LinkError {
    /// The last operating-system error, with what was tried.
    #[must_use]
    pub fn last_os(what: &'static str) -> Self {
        Self::Os { what, source: std::io::Error::last_os_error() }
    }
}

/// A batch-shaped, non-blocking datagram link owned by one worker.
pub trait Link {
    /// Calls `each` for at most `limit` waiting datagrams and returns how many there were; never blocks.
    /// The slice is the UDP payload and may be overwritten by `each`. `clock` is asked after datagrams were taken from the kernel: a stamp from before
    /// is too early by however long the thread was off its core in between, and passes for a shorter path.
    ///
    /// # Errors
    /// Only when the link itself is broken.
    fn receive(
        &mut self,
        clock: &mut impl FnMut() -> u64,
        limit: usize,
        each: &mut impl FnMut(&Meta, &mut [u8]),
    ) -> Result<usize, LinkError>;

    /// Offers `fill` room for one datagram of at most `capacity` payload bytes to `path`; `fill` returns how many
    /// bytes it wrote (0: nothing).
    ///
    /// # Errors
    /// Only when the link itself is broken.
    fn transmit(&mut self, path: &Path, capacity: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> Result<Transmit, LinkError>;

    /// Hands everything queued to the kernel, as far as it takes it.
    ///
    /// # Errors
    /// Only when the link itself is broken.
    fn flush(&mut self) -> Result<(), LinkError>;

    /// Sleeps until a datagram waits or `timeout` passed, whichever is first.
    ///
    /// # Errors
    /// Only when the link itself is broken.
    fn wait(&mut self, timeout: Duration) -> Result<(), LinkError>;

    /// Sleeps for `time` although datagrams come, so that their sender's core is not charged for waking this thread with each. A link that cannot
    /// does what [`Self::wait`] does, and returns with the first.
    ///
    /// # Errors
    /// Only when the link itself is broken.
    fn doze(&mut self, time: Duration) -> Result<(), LinkError> {
        self.wait(time)
    }

    /// Largest UDP payload that fits the path's first hop without fragmentation, bytes.
    fn datagram_bytes_max(&self) -> usize;

    /// Counters since the link was opened. May ask the kernel; not for the packet loop.
    fn counters(&self) -> LinkCounters;
}
