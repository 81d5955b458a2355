//! Kernel UDP: GSO and GRO where the kernel has them, `sendmmsg` and `recvmmsg` everywhere.
//!
//! One [`UdpLink`] is one socket with don't-fragment set, ECN and the destination address of every datagram reported,
//! and everything sent Not-ECT. It allocates when it is bound and never again. What goes wrong with a single datagram is
//! counted in [`LinkCounters`]; only a broken socket is an error.

mod address;
mod config;
mod control;
mod errors;
mod receive;
mod socket;
mod sys;
mod transmit;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

pub use config::{Offload, UdpConfig, Warning};

use tradewind_fabric::wake::Waker;

use crate::{Link, LinkCounters, LinkError, Meta, Path, Transmit};
use receive::Receiver;
use transmit::Sender;

/// Index of the drop counter in what SO_MEMINFO returns (`SK_MEMINFO_DROPS` of linux/sock_diag.h).
const MEMINFO_DROPS: usize = 8;

/// A [`Link`] over a kernel UDP socket.
pub struct UdpLink {
    socket: Socket,
    local: SocketAddr,
    datagram_bytes_max: usize,
    merging: bool,
    receiver: Receiver,
    sender: Sender,
    counters: LinkCounters,
    /// The kernel's 32-bit drop counter as last read, and all drops so far.
    drops: Cell<(u32, u64)>,
    waker: Waker,
}

impl UdpLink {
    /// Opens and binds a socket. The warnings say what the kernel did not grant and what to do about it.
    ///
    /// # Errors
    /// [`LinkError::Setup`] when the address, device or MTU cannot be used, with advice; [`LinkError::Os`] when the
    /// kernel refuses something that every supported kernel (Linux 5.4 and later) grants.
    pub fn bind(config: &UdpConfig) -> Result<(Self, Vec<Warning>), LinkError> {
        let opened = socket::open(config)?;
        let waker = Waker::new().map_err(|source| LinkError::Os { what: "cannot make an eventfd to wake the UDP link", source })?;
        let link = Self {
            socket: opened.socket,
            local: opened.local,
            datagram_bytes_max: config.datagram_bytes_max(),
            merging: opened.merging,
            receiver: Receiver::new(opened.local, opened.merging),
            sender: Sender::new(opened.local, opened.segmentation),
            counters: LinkCounters::default(),
            drops: Cell::new((0, 0)),
            waker,
        };
        Ok((link, opened.warnings))
    }

    /// The address that the socket is bound to, with the port that the kernel chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether datagrams are sent with segmentation offload. Turns false for good when the kernel refuses a message whose
    /// datagrams it takes one by one.
    #[must_use]
    pub fn uses_gso(&self) -> bool {
        self.sender.segmentation()
    }

    /// Whether the kernel may hand over several datagrams merged.
    #[must_use]
    pub fn uses_gro(&self) -> bool {
        self.merging
    }

    /// A handle with which any thread can interrupt [`Link::wait`].
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Datagrams that the kernel dropped at this socket so far (its buffer was full, a checksum was wrong). Asked of the
    /// kernel rather than taken from SO_RXQ_OVFL, which costs a control message on each datagram and is silent until the
    /// next one arrives.
    fn receive_dropped(&self) -> u64 {
        let (last, total) = self.drops.get();
        let Ok(words) = sys::option::<{ MEMINFO_DROPS + 1 }>(self.socket.as_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO) else {
            return total;
        };
        let now = words[MEMINFO_DROPS];
        let total = total + u64::from(now.wrapping_sub(last));
        self.drops.set((now, total));
        total
    }
}

impl Link for UdpLink {
    fn receive(
        &mut self,
        clock: &mut impl FnMut() -> u64,
        limit: usize,
        each: &mut impl FnMut(&Meta, &mut [u8]),
    ) -> Result<usize, LinkError> {
        self.receiver.receive(self.socket.as_fd(), clock, limit, &mut self.counters, each)
    }

    fn transmit(&mut self, path: &Path, capacity: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> Result<Transmit, LinkError> {
        Ok(self.sender.transmit(path, capacity, &mut self.counters, fill))
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        self.sender.flush(self.socket.as_fd(), &mut self.counters)
    }

    /// Also returns when the kernel has room again for what it did not take before, on [`Waker::wake`], and on a signal.
    fn wait(&mut self, timeout: Duration) -> Result<(), LinkError> {
        if self.receiver.has_waiting() {
            return Ok(());
        }
        let mut interest = PollFlags::IN;
        if self.sender.has_queued() {
            interest |= PollFlags::OUT;
        }
        let mut set =
            [PollFd::from_borrowed_fd(self.socket.as_fd(), interest), PollFd::from_borrowed_fd(self.waker.as_fd(), PollFlags::IN)];
        // A timeout of more seconds than a timespec holds is as good as none.
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut set, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(LinkError::Os { what: "cannot wait for the UDP socket (ppoll)", source: errno.into() }),
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
        LinkCounters { receive_dropped: self.receive_dropped(), ..self.counters }
    }
}

impl AsFd for UdpLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The MTU of a network device of the caller's network namespace, bytes.
///
/// # Errors
/// [`LinkError::Setup`] when there is no such device.
pub fn device_mtu(device: &str) -> Result<usize, LinkError> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)
        .map_err(|source| LinkError::Os { what: "cannot open a socket to ask for a device's MTU", source })?;
    sys::device_mtu(socket.as_fd(), device)
        .map_err(|error| LinkError::Setup(format!("cannot read the MTU of network device {device}: {error}; `ip link` lists the devices")))
}

/// The MTU of this host's route to an address, bytes: that of the first device, or less where the kernel has learnt it (RFC 1191, RFC 8201).
/// Sends nothing.
///
/// # Errors
/// [`LinkError::Os`] when there is no route.
pub fn route_mtu(remote: &SocketAddr) -> Result<usize, LinkError> {
    let what = "cannot ask for the MTU of the route";
    let os = |source| LinkError::Os { what, source };
    let (domain, level, name) = match remote {
        SocketAddr::V4(_) => (Domain::IPV4, libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => (Domain::IPV6, libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let socket = Socket::new(domain, Type::DGRAM, None).map_err(os)?;
    socket.connect(&(*remote).into()).map_err(os)?;
    let [mtu] = sys::option(socket.as_fd(), level, name).map_err(os)?;
    Ok(mtu as usize)
}

/// Lets the calling thread's timed waits end on time: Linux otherwise lets them run up to 50 µs late (PR_SET_TIMERSLACK,
/// prctl(2)). To be called once by each worker thread.
///
/// # Errors
/// Whatever prctl says; no supported kernel refuses.
pub fn precise_timers() -> io::Result<()> {
    let one_ns = std::num::NonZeroU64::MIN;
    Ok(rustix::thread::set_current_timer_slack(Some(one_ns))?)
}

#[cfg(test)]
mod tests;
