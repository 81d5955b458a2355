//! Control messages (`cmsg(3)`) beside a datagram: read and written as bytes, so that this needs no unsafe code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::address::{Family, array, with_scope};
use super::sys::{CONTROL_BYTES, Control};
use crate::Ecn;

/// A `cmsghdr`: length (with the header), level, type.
const HEADER_BYTES: usize = size_of::<usize>() + 8;

const fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(size_of::<usize>())
}

const _: () = assert!(HEADER_BYTES == size_of::<libc::cmsghdr>());
const _: () = assert!(HEADER_BYTES == aligned(HEADER_BYTES), "data follows the header without padding");
// The most that one datagram is sent with: IPv6 packet info and a segment size.
const _: () = assert!(aligned(HEADER_BYTES + 20) + aligned(HEADER_BYTES + 2) <= CONTROL_BYTES);

/// What the kernel says about a received datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// The address it was sent to, with the local port that the caller knows.
    pub(super) local: Option<SocketAddr>,
    pub(super) ecn: Ecn,
    /// Bytes of each datagram but the last, if several were merged (UDP_GRO).
    pub(super) segment_bytes: Option<usize>,
}

/// Reads the control messages of a datagram that came in on `port`; those that are unknown or malformed are skipped.
pub(super) fn read(bytes: &[u8], port: u16) -> Received {
    let mut received = Received::default();
    let mut at = 0;
    while let Some((level, kind, data, next)) = message(bytes, at) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // in_pktinfo: device index, local address to answer from, destination in the header.
                if let Some(ip) = array::<4>(data, 4) {
                    received.local = Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port));
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // in6_pktinfo: destination, device index.
                if let (Some(ip), Some(device)) = (array::<16>(data, 0), array(data, 16)) {
                    received.local = Some(with_scope(Ipv6Addr::from(ip), port, u32::from_ne_bytes(device)));
                }
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                if let Some(&byte) = data.first() {
                    received.ecn = Ecn::from_traffic_class(byte);
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                if let Some(word) = array(data, 0) {
                    received.ecn = Ecn::from_traffic_class((i32::from_ne_bytes(word) & 0xff) as u8);
                }
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                received.segment_bytes =
                    array(data, 0).and_then(|word| usize::try_from(i32::from_ne_bytes(word)).ok()).filter(|&bytes| bytes > 0);
            }
            _ => {}
        }
        at = next;
    }
    received
}

/// The message at `at`: level, type, data, and where the next one begins.
fn message(bytes: &[u8], at: usize) -> Option<(i32, i32, &[u8], usize)> {
    let length = usize::from_ne_bytes(array(bytes, at)?);
    let level = i32::from_ne_bytes(array(bytes, at + size_of::<usize>())?);
    let kind = i32::from_ne_bytes(array(bytes, at + size_of::<usize>() + 4)?);
    let data = bytes.get(at + HEADER_BYTES..at.checked_add(length)?)?;
    Some((level, kind, data, at + aligned(length)))
}

/// Writes the control messages of a message to send.
pub(super) struct Writer<'a> {
    control: &'a mut Control,
    used: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(control: &'a mut Control) -> Self {
        Self { control, used: 0 }
    }

    /// Bytes written.
    pub(super) fn finish(self) -> usize {
        self.used
    }

    /// Send from `local`; a socket of `family` must be able to.
    pub(super) fn source(&mut self, local: &SocketAddr, family: Family) {
        match (local, family) {
            (SocketAddr::V4(v4), Family::V4) => {
                let mut data = [0; 12];
                data[4..8].copy_from_slice(&v4.ip().octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
            }
            (SocketAddr::V4(v4), _) => self.source_v6(v4.ip().to_ipv6_mapped(), 0),
            (SocketAddr::V6(v6), _) => self.source_v6(*v6.ip(), v6.scope_id()),
        }
    }

    fn source_v6(&mut self, ip: Ipv6Addr, device: u32) {
        let mut data = [0; 20];
        data[..16].copy_from_slice(&ip.octets());
        data[16..].copy_from_slice(&device.to_ne_bytes());
        self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
    }

    /// Cut the message into datagrams of `bytes` (UDP_SEGMENT).
    pub(super) fn segment_bytes(&mut self, bytes: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &bytes.to_ne_bytes());
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let length = HEADER_BYTES + data.len();
        let room = &mut self.control.0[self.used..self.used + aligned(length)];
        room.fill(0);
        room[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
        room[size_of::<usize>()..size_of::<usize>() + 4].copy_from_slice(&level.to_ne_bytes());
        room[size_of::<usize>() + 4..HEADER_BYTES].copy_from_slice(&kind.to_ne_bytes());
        room[HEADER_BYTES..length].copy_from_slice(data);
        self.used += aligned(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Writer<'_>)) -> (Control, usize) {
        let mut control = Control([0xff; CONTROL_BYTES]);
        let mut writer = Writer::new(&mut control);
        write(&mut writer);
        let used = writer.finish();
        (control, used)
    }

    #[test]
    fn what_is_written_can_be_read() {
        let local = "[2001:db8::5]:0".parse().expect("address");
        let (control, used) = written(|writer| {
            writer.source(&local, Family::V6);
            writer.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &3_i32.to_ne_bytes());
            writer.push(libc::SOL_UDP, libc::UDP_GRO, &1400_i32.to_ne_bytes());
        });
        let received = read(&control.0[..used], 7);
        assert_eq!(received, Received { local: "[2001:db8::5]:7".parse().ok(), ecn: Ecn::Ce, segment_bytes: Some(1400) });
    }

    #[test]
    fn mapped_sources_come_back_as_ipv4() {
        let local = "192.0.2.9:0".parse().expect("address");
        for family in [Family::V4, Family::Dual] {
            let (control, used) = written(|writer| writer.source(&local, family));
            assert_eq!(read(&control.0[..used], 7).local, "192.0.2.9:7".parse().ok(), "{family:?}");
        }
    }

    #[test]
    fn cut_or_lying_messages_are_skipped() {
        let (mut control, used) = written(|writer| writer.source(&"192.0.2.9:0".parse().expect("address"), Family::V4));
        assert_eq!(used, 32);
        assert_eq!(read(&control.0[..28], 7).local, "192.0.2.9:7".parse().ok(), "padding may be missing");
        assert_eq!(read(&control.0[..27], 7), Received::default());
        for length in [0, 1, HEADER_BYTES - 1, usize::MAX, usize::MAX - 7] {
            control.0[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(read(&control.0[..used], 7), Received::default(), "length {length}");
        }
    }

    #[test]
    fn a_segment_size_of_nothing_means_one_datagram() {
        let (control, used) = written(|writer| writer.push(libc::SOL_UDP, libc::UDP_GRO, &0_i32.to_ne_bytes()));
        assert_eq!(read(&control.0[..used], 7).segment_bytes, None);
    }
}
