//! What boxes on the way do besides delaying and losing: a NAT that forgets its mapping and gives a UDP flow another port, and a link whose MTU sinks
//! without a word (an ICMP black hole). Times count from the start of the link. IPv4 only; TCP keeps its port, or it would break.

use std::str::FromStr;

use crate::flows::{client_port_offset, transport_header};
use crate::link::Way;

const ETHERNET_BYTES: usize = 14;
const VLAN_BYTES: usize = 4;
const PROTOCOL_UDP: u8 = 17;
/// Ports that a rebinding adds to the client's; the result stays in the upper half.
const PORT_STEP: u16 = 7;
const PORT_HALF: u16 = 0x8000;

/// From a time on, larger IP packets are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MtuStep {
    /// Since the link started, milliseconds.
    pub from_ms: u64,
    /// Largest IP packet, bytes.
    pub bytes: u32,
}

impl FromStr for MtuStep {
    type Err = String;

    /// `MS:BYTES`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not MS:BYTES, such as 2000:1400 (from 2 s on, IP packets over 1400 bytes are lost)");
        let (from, bytes) = text.split_once(':').ok_or_else(wrong)?;
        let step = Self { from_ms: from.parse().map_err(|_| wrong())?, bytes: bytes.parse().map_err(|_| wrong())? };
        if step.bytes < 68 { Err(wrong()) } else { Ok(step) }
    }
}

/// The boxes on a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Middlebox {
    /// Times at which the NAT gives all UDP flows of the client other ports, milliseconds, ascending.
    pub rebind_ms: Vec<u64>,
    /// The path's MTU over time, ascending.
    pub mtu: Vec<MtuStep>,
}

impl Middlebox {
    /// Whether a frame of so many bytes, with its Ethernet header, is too large at this time.
    pub(crate) fn drops(&self, elapsed_ns: u64, frame_bytes: u32) -> bool {
        let step = self.mtu.iter().rev().find(|step| elapsed_ns >= step.from_ms * 1_000_000);
        step.is_some_and(|step| frame_bytes.saturating_sub(ETHERNET_BYTES as u32) > step.bytes)
    }

    /// Changes the client's port in a frame: outside of the NAT it is another one than inside.
    pub(crate) fn translate(&self, way: Way, elapsed_ns: u64, frame: &mut [u8]) {
        let rebound = self.rebind_ms.iter().filter(|ms| elapsed_ns >= **ms * 1_000_000).count();
        if rebound == 0 {
            return;
        }
        let Some(udp) = udp_header(frame) else { return };
        let at = client_port_offset(way);
        let port = u16::from_be_bytes([udp[at], udp[at + 1]]);
        let shift = PORT_STEP.wrapping_mul(u16::try_from(rebound).unwrap_or(u16::MAX)) % PORT_HALF;
        let new = match way {
            Way::Forward => PORT_HALF | (port.wrapping_add(shift) % PORT_HALF),
            // Whoever still answers to a port of before the rebinding reaches nobody.
            Way::Reverse => PORT_HALF | (port.wrapping_add(PORT_HALF - shift) % PORT_HALF),
        };
        udp[at..at + 2].copy_from_slice(&new.to_be_bytes());
        let sum = u16::from_be_bytes([udp[6], udp[7]]);
        if sum != 0 {
            udp[6..8].copy_from_slice(&updated_checksum(sum, port, new).to_be_bytes());
        }
    }
}

/// The UDP header of an IPv4 frame that is not a later fragment.
fn udp_header(frame: &mut [u8]) -> Option<&mut [u8]> {
    // Behind a tag, headers lie as they do without one.
    let is_tagged = matches!(*frame.get(12..14)?, [0x81, 0x00] | [0x88, 0xa8]);
    let frame = frame.get_mut(if is_tagged { VLAN_BYTES } else { 0 }..)?;
    let (protocol, at) = transport_header(frame)?;
    let is_ipv4 = frame.get(ETHERNET_BYTES)? >> 4 == 4;
    if is_ipv4 && protocol == PROTOCOL_UDP { frame.get_mut(at..at + 8) } else { None }
}

/// RFC 1624, equation 3; a UDP sum that becomes 0 is sent as all ones (RFC 768).
fn updated_checksum(sum: u16, old: u16, new: u16) -> u16 {
    let mut total = u32::from(!sum) + u32::from(!old) + u32::from(new);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    match !(total as u16) {
        0 => 0xffff,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sum over pseudo header and datagram; 0xffff when the checksum in it is right.
    fn sum_over(frame: &[u8]) -> u16 {
        let ip = &frame[14..];
        let udp = &ip[20..];
        let mut total: u32 = ip[12..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        total += u32::from(PROTOCOL_UDP) + udp.len() as u32;
        total += udp.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum::<u32>();
        while total >> 16 != 0 {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    fn frame(source: u16, destination: u16) -> Vec<u8> {
        let mut frame = vec![0; 14 + 20 + 8 + 5];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[23] = PROTOCOL_UDP;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[34..36].copy_from_slice(&source.to_be_bytes());
        frame[36..38].copy_from_slice(&destination.to_be_bytes());
        frame[38..40].copy_from_slice(&13u16.to_be_bytes());
        frame[42..].copy_from_slice(b"hello");
        let sum = !sum_over(&frame);
        frame[40..42].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(sum_over(&frame), 0xffff);
        frame
    }

    #[test]
    fn a_rebound_port_goes_out_changed_and_comes_back_as_it_was() {
        let nat = Middlebox { rebind_ms: vec![10, 20], mtu: Vec::new() };
        for (source, elapsed_ms) in [(40_000, 15), (65_535, 15), (32_768, 25), (50_123, 25)] {
            let mut out = frame(source, 33_001);
            nat.translate(Way::Forward, elapsed_ms * 1_000_000, &mut out);
            let outside = u16::from_be_bytes([out[34], out[35]]);
            assert_ne!(outside, source);
            assert_eq!(sum_over(&out), 0xffff);
            let mut back = frame(33_001, outside);
            nat.translate(Way::Reverse, elapsed_ms * 1_000_000, &mut back);
            assert_eq!(u16::from_be_bytes([back[36], back[37]]), source);
            assert_eq!(sum_over(&back), 0xffff);
        }
        let before = frame(40_000, 33_001);
        let mut same = before.clone();
        nat.translate(Way::Forward, 5_000_000, &mut same);
        assert_eq!(same, before);
    }

    #[test]
    fn what_is_no_udp_over_ipv4_passes_unchanged() {
        let nat = Middlebox { rebind_ms: vec![0], mtu: Vec::new() };
        let whole = frame(40_000, 33_001);
        for cut in 0..40 {
            let mut short = whole[..cut].to_vec();
            nat.translate(Way::Forward, 1, &mut short);
            assert_eq!(short, whole[..cut], "cut at {cut}");
        }
        for (at, value) in [(12, 0x86), (23, 6), (21, 1), (14, 0x65)] {
            let mut other = whole.clone();
            other[at] = value;
            let before = other.clone();
            nat.translate(Way::Forward, 1, &mut other);
            assert_eq!(other, before, "byte {at}");
        }
    }

    #[test]
    fn an_mtu_holds_from_its_time_on() {
        let path = Middlebox { rebind_ms: Vec::new(), mtu: vec!["1000:1400".parse().unwrap(), "2000:1500".parse().unwrap()] };
        assert!(!path.drops(999_000_000, 1_514));
        assert!(path.drops(1_000_000_000, 1_415));
        assert!(!path.drops(1_000_000_000, 1_414));
        assert!(!path.drops(2_000_000_000, 1_514));
        for wrong in ["", "1400", "x:1400", "1000:", "1000:10"] {
            assert!(wrong.parse::<MtuStep>().is_err(), "{wrong}");
        }
    }
}
