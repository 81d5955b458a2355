//! How a UDP link is set up, and what the kernel did not grant.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Whether to use an offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Offload {
    /// Where the kernel has it.
    #[default]
    Auto,
    /// Never; one datagram is one message.
    Off,
}

/// Set-up of a [`UdpLink`](super::UdpLink).
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// Address to bind. `[::]` takes IPv4 as well; port 0 lets the kernel choose.
    pub local: SocketAddr,
    /// Socket receive buffer asked for, bytes of kernel memory (packets and their book-keeping). Default 32 MiB: at
    /// 10 Gbit/s about 15 ms of packets, what a descheduled worker needs where others want its core. Too small shows as `receive_dropped`.
    pub receive_buffer_bytes: usize,
    /// Socket send buffer asked for, bytes of kernel memory. Default 4 MiB.
    pub send_buffer_bytes: usize,
    /// MTU of the first hop, bytes of an IP packet. Default 1500. Sets [`Link::datagram_bytes_max`](crate::Link::datagram_bytes_max);
    /// [`device_mtu`](super::device_mtu) tells a device's.
    pub mtu_bytes: usize,
    /// Segmentation offload when sending (UDP_SEGMENT). Default `Auto`.
    pub gso: Offload,
    /// Merging of received datagrams (UDP_GRO). Default `Auto`.
    pub gro: Offload,
    /// Only use this network device (SO_BINDTODEVICE). Default none.
    pub device: Option<String>,
}

impl UdpConfig {
    /// The defaults for a link bound to `local`.
    #[must_use]
    pub fn new(local: SocketAddr) -> Self {
        Self {
            local,
            receive_buffer_bytes: 32 * 1024 * 1024,
            send_buffer_bytes: 4 * 1024 * 1024,
            mtu_bytes: 1500,
            gso: Offload::Auto,
            gro: Offload::Auto,
            device: None,
        }
    }

    /// Largest UDP payload in a packet of `mtu_bytes`: less the IP header without options (20 or 40 bytes) and 8 of UDP.
    pub(super) fn datagram_bytes_max(&self) -> usize {
        let ip_header_bytes = match self.local.ip() {
            IpAddr::V4(_) => 20,
            IpAddr::V6(_) => 40,
        };
        (self.mtu_bytes - ip_header_bytes - 8).min(65_507)
    }
}

/// Something the kernel did not grant. The link works, but slower than it could; the text says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The receive buffer is smaller than asked for.
    ReceiveBufferCapped {
        /// Bytes asked for.
        wanted_bytes: usize,
        /// Bytes granted.
        granted_bytes: usize,
    },
    /// The send buffer is smaller than asked for.
    SendBufferCapped {
        /// Bytes asked for.
        wanted_bytes: usize,
        /// Bytes granted.
        granted_bytes: usize,
    },
    /// The kernel has no UDP_SEGMENT (Linux before 4.18).
    NoSegmentation,
    /// The kernel has no UDP_GRO (Linux before 5.0).
    NoMerging,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReceiveBufferCapped { wanted_bytes, granted_bytes } => write!(
                f,
                "the kernel capped the UDP receive buffer at {granted_bytes} of {wanted_bytes} bytes, so bursts may be dropped; \
                 run `sysctl -w net.core.rmem_max={wanted_bytes}` or give the process CAP_NET_ADMIN"
            ),
            Self::SendBufferCapped { wanted_bytes, granted_bytes } => write!(
                f,
                "the kernel capped the UDP send buffer at {granted_bytes} of {wanted_bytes} bytes, so sending may stall; \
                 run `sysctl -w net.core.wmem_max={wanted_bytes}` or give the process CAP_NET_ADMIN"
            ),
            Self::NoSegmentation => f.write_str(
                "this kernel cannot segment UDP (UDP_SEGMENT, Linux 4.18), so every packet costs a pass through the network \
                 stack; a newer kernel sends several times faster",
            ),
            Self::NoMerging => f.write_str(
                "this kernel cannot merge received UDP (UDP_GRO, Linux 5.0), so every packet costs a pass through the network \
                 stack; a newer kernel receives several times faster",
            ),
        }
    }
}
