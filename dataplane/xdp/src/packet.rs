//! Ethernet, VLAN, IP and UDP headers: read from a received frame, written before a payload.
//!
//! The eBPF program looked at the same bytes before; nothing here relies on that. Any bytes give a [`Parsed`] or an
//! [`Unfit`], never a panic.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use tradewind_netio::{Ecn, LinkLayer, Path};

use crate::checksum::Sum;

const ETHERNET_BYTES: usize = 14;
const VLAN_BYTES: usize = 4;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
/// Longest headers that we write or read: Ethernet, two VLAN tags, IPv6, UDP.
pub(crate) const HEADERS_BYTES_MAX: usize = ETHERNET_BYTES + 2 * VLAN_BYTES + IPV6_BYTES + UDP_BYTES;
/// What the link layer adds to an IP packet at most: Ethernet and two VLAN tags.
pub(crate) const LINK_BYTES_MAX: usize = ETHERNET_BYTES + 2 * VLAN_BYTES;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, the customer tag.
const ETHERTYPE_VLAN: u16 = 0x8100;
/// 802.1ad, the service tag.
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
const PROTOCOL_UDP: u8 = 17;
/// The usual initial hop limit (RFC 1700 "IP time to live").
const HOP_LIMIT: u8 = 64;
/// IPv4 flags "don't fragment" (RFC 791 section 3.1).
const DONT_FRAGMENT: u16 = 0x4000;

/// An outer VLAN tag (802.1ad or 802.1Q), kept beside [`LinkLayer`], which has room for the inner one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OuterTag {
    pub(crate) protocol: u16,
    pub(crate) control: u16,
}

/// A UDP datagram found in a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) path: Path,
    pub(crate) ecn: Ecn,
    /// Where the UDP payload lies in the frame.
    pub(crate) payload: Range<usize>,
    pub(crate) outer: Option<OuterTag>,
}

/// The frame is not one whole, plain UDP datagram over IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfit;

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Unfit> {
    bytes.get(at..at + N).and_then(|slice| slice.try_into().ok()).ok_or(Unfit)
}

fn word(bytes: &[u8], at: usize) -> Result<u16, Unfit> {
    field(bytes, at).map(u16::from_be_bytes)
}

/// What the IP header says.
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    traffic_class: u8,
    /// Where the UDP datagram lies in the frame.
    udp: Range<usize>,
}

fn parse_ipv4(frame: &[u8], at: usize) -> Result<Ip, Unfit> {
    let header: [u8; IPV4_BYTES] = field(frame, at)?;
    let total = usize::from(word(&header, 2)?);
    let fragment = word(&header, 6)? & 0x3fff;
    if header[0] != 0x45 || fragment != 0 || header[9] != PROTOCOL_UDP || total < IPV4_BYTES + UDP_BYTES || at + total > frame.len() {
        return Err(Unfit);
    }
    Ok(Ip {
        source: Ipv4Addr::from(field::<4>(&header, 12)?).into(),
        destination: Ipv4Addr::from(field::<4>(&header, 16)?).into(),
        traffic_class: header[1],
        udp: at + IPV4_BYTES..at + total,
    })
}

fn parse_ipv6(frame: &[u8], at: usize) -> Result<Ip, Unfit> {
    let header: [u8; IPV6_BYTES] = field(frame, at)?;
    let length = usize::from(word(&header, 4)?);
    if header[0] >> 4 != 6 || header[6] != PROTOCOL_UDP || length < UDP_BYTES || at + IPV6_BYTES + length > frame.len() {
        return Err(Unfit);
    }
    Ok(Ip {
        source: Ipv6Addr::from(field::<16>(&header, 8)?).into(),
        destination: Ipv6Addr::from(field::<16>(&header, 24)?).into(),
        traffic_class: header[0] << 4 | header[1] >> 4,
        udp: at + IPV6_BYTES..at + IPV6_BYTES + length,
    })
}

/// Finds the UDP datagram in an Ethernet frame. Its checksum is not verified: the AEAD tag is the check.
pub(crate) fn parse(frame: &[u8]) -> Result<Parsed, Unfit> {
    let local: [u8; 6] = field(frame, 0)?;
    let remote: [u8; 6] = field(frame, 6)?;
    let mut ethertype = word(frame, 12)?;
    let mut at = ETHERNET_BYTES;
    let mut tags = [None; 2];
    for tag in &mut tags {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_SERVICE_VLAN {
            break;
        }
        *tag = Some(OuterTag { protocol: ethertype, control: word(frame, at)? });
        ethertype = word(frame, at + 2)?;
        at += VLAN_BYTES;
    }
    let (outer, inner) = match tags {
        [Some(outer), Some(inner)] => (Some(outer), Some(inner)),
        [single, _] => (None, single),
    };
    let ip = match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(frame, at)?,
        ETHERTYPE_IPV6 => parse_ipv6(frame, at)?,
        _ => return Err(Unfit),
    };
    let udp = frame.get(ip.udp.clone()).ok_or(Unfit)?;
    let (from, to, length) = (word(udp, 0)?, word(udp, 2)?, usize::from(word(udp, 4)?));
    if length < UDP_BYTES || length > udp.len() {
        return Err(Unfit);
    }
    Ok(Parsed {
        path: Path {
            local: SocketAddr::new(ip.destination, to),
            remote: SocketAddr::new(ip.source, from),
            link: Some(LinkLayer { local, remote, vlan: inner.map(|tag| tag.control) }),
        },
        ecn: Ecn::from_traffic_class(ip.traffic_class),
        payload: ip.udp.start + UDP_BYTES..ip.udp.start + length,
        outer,
    })
}

/// The headers of datagrams on one path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers {
    addresses: Addresses,
    from: u16,
    to: u16,
    link: LinkLayer,
    outer: Option<OuterTag>,
}

#[derive(Clone, Copy, Debug)]
enum Addresses {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// Writes headers front to back. The caller made the buffer long enough.
struct Writer<'buffer> {
    buffer: &'buffer mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.buffer[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn word(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }
}

impl Headers {
    /// The headers for a path, or `None` when it lacks link-layer addresses, mixes address families or leaves our address open.
    pub(crate) fn new(path: &Path, outer: Option<OuterTag>) -> Option<Self> {
        let addresses = match (path.local.ip(), path.remote.ip()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) if !local.is_unspecified() => Addresses::V4(local, remote),
            (IpAddr::V6(local), IpAddr::V6(remote)) if !local.is_unspecified() => Addresses::V6(local, remote),
            _ => return None,
        };
        Some(Self { addresses, from: path.local.port(), to: path.remote.port(), link: path.link?, outer })
    }

    fn ip_bytes(&self) -> usize {
        match self.addresses {
            Addresses::V4(..) => IPV4_BYTES,
            Addresses::V6(..) => IPV6_BYTES,
        }
    }

    /// Bytes before the UDP payload.
    pub(crate) fn bytes(&self) -> usize {
        let tags = usize::from(self.link.vlan.is_some()) + usize::from(self.outer.is_some());
        ETHERNET_BYTES + tags * VLAN_BYTES + self.ip_bytes() + UDP_BYTES
    }

    /// Largest UDP payload in an IP packet of `mtu_bytes`.
    pub(crate) fn payload_bytes_max(&self, mtu_bytes: usize) -> usize {
        mtu_bytes.min(usize::from(u16::MAX)).saturating_sub(self.ip_bytes() + UDP_BYTES)
    }

    /// Writes the headers into the front of `packet`, whose rest is the payload, with all lengths and checksums.
    /// `packet` is longer than [`Headers::bytes`] and its payload no longer than [`Headers::payload_bytes_max`] of 65,535.
    pub(crate) fn write(&self, packet: &mut [u8]) {
        let (head, payload) = packet.split_at_mut(self.bytes());
        let mut writer = Writer { buffer: head, at: 0 };
        writer.put(&self.link.remote);
        writer.put(&self.link.local);
        if let Some(outer) = self.outer {
            writer.word(outer.protocol);
            writer.word(outer.control);
        }
        if let Some(control) = self.link.vlan {
            writer.word(ETHERTYPE_VLAN);
            writer.word(control);
        }
        let udp_bytes = (UDP_BYTES + payload.len()) as u16;
        let pseudo_header = Sum::default().add_field(u16::from(PROTOCOL_UDP)).add_field(udp_bytes);
        let sum = match self.addresses {
            Addresses::V4(local, remote) => {
                writer.word(ETHERTYPE_IPV4);
                let start = writer.at;
                writer.put(&[0x45, 0]);
                writer.word(IPV4_BYTES as u16 + udp_bytes);
                writer.word(0); // identification: any value for a datagram that is never fragmented (RFC 6864 section 4.1)
                writer.word(DONT_FRAGMENT);
                writer.put(&[HOP_LIMIT, PROTOCOL_UDP, 0, 0]);
                writer.put(&local.octets());
                writer.put(&remote.octets());
                let checksum = Sum::default().add(&writer.buffer[start..writer.at]).finish();
                writer.buffer[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
                pseudo_header.add(&local.octets()).add(&remote.octets())
            }
            Addresses::V6(local, remote) => {
                writer.word(ETHERTYPE_IPV6);
                writer.put(&[0x60, 0, 0, 0]);
                writer.word(udp_bytes);
                writer.put(&[PROTOCOL_UDP, HOP_LIMIT]);
                writer.put(&local.octets());
                writer.put(&remote.octets());
                pseudo_header.add(&local.octets()).add(&remote.octets())
            }
        };
        let sum = sum.add_field(self.from).add_field(self.to).add_field(udp_bytes).add(payload);
        writer.word(self.from);
        writer.word(self.to);
        writer.word(udp_bytes);
        writer.word(sum.finish_udp());
    }
}

#[cfg(test)]
mod tests;
