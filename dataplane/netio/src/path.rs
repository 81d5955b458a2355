//! Where a datagram came from and where the answer goes.

use std::net::SocketAddr;

/// Addresses below IP, learnt from a received frame; links that build their own frames (AF_XDP) need them to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkLayer {
    /// Our MAC address.
    pub local: [u8; 6],
    /// The next hop's MAC address.
    pub remote: [u8; 6],
    /// The 802.1Q tag control information (priority and VLAN id), if the frame was tagged.
    pub vlan: Option<u16>,
}

/// The two ends of a flow as this host sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Our address. An unspecified IP means "let the kernel choose".
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
    /// Link-layer addresses; `None` on links where the kernel adds them.
    pub link: Option<LinkLayer>,
}

/// ECN code point, RFC 3168 section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Ecn {
    /// Not ECN-capable.
    #[default]
    NotEct,
    /// ECN-capable, code point 01.
    Ect1,
    /// ECN-capable, code point 10.
    Ect0,
    /// Congestion experienced.
    Ce,
}

impl Ecn {
    /// The code point in the two low bits of a TOS or traffic-class byte.
    #[must_use]
    pub const fn from_traffic_class(byte: u8) -> Self {
        match byte & 0b11 {
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            0b11 => Self::Ce,
            _ => Self::NotEct,
        }
    }
}
