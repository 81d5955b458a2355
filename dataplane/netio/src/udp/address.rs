//! Socket addresses as the kernel lays them out (`sockaddr_in`, `sockaddr_in6`), written and read as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::sys::{NAME_BYTES, Name};

/// The address families a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// An IPv4 socket.
    V4,
    /// An IPv6 socket that refuses IPv4.
    V6,
    /// An IPv6 socket that carries IPv4 as mapped addresses, RFC 4291 section 2.5.5.2.
    Dual,
}

impl Family {
    /// The family of a socket bound to `local`: `::` also takes IPv4.
    pub(super) fn of(local: &SocketAddr) -> Self {
        match local {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => Self::Dual,
            SocketAddr::V6(_) => Self::V6,
        }
    }

    pub(super) const fn has_v4(self) -> bool {
        matches!(self, Self::V4 | Self::Dual)
    }

    pub(super) const fn has_v6(self) -> bool {
        matches!(self, Self::V6 | Self::Dual)
    }
}

/// Writes `address` for a socket of `family`; `None` if such a socket cannot reach it.
pub(super) fn encode(address: &SocketAddr, family: Family) -> Option<(Name, usize)> {
    let mut name = Name([0; NAME_BYTES]);
    let bytes = &mut name.0;
    let v6 = match (address, family) {
        (SocketAddr::V4(v4), Family::V4) => {
            bytes[0..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[2..4].copy_from_slice(&v4.port().to_be_bytes());
            bytes[4..8].copy_from_slice(&v4.ip().octets());
            return Some((name, 16));
        }
        (SocketAddr::V4(v4), Family::Dual) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0),
        (SocketAddr::V6(v6), Family::V6 | Family::Dual) => *v6,
        (SocketAddr::V4(_), Family::V6) | (SocketAddr::V6(_), Family::V4) => return None,
    };
    bytes[0..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&v6.port().to_be_bytes());
    // The standard library keeps the flow label as the raw field; 0 in all that we build.
    bytes[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
    bytes[8..24].copy_from_slice(&v6.ip().octets());
    bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
    Some((name, NAME_BYTES))
}

/// Reads an address; IPv4-mapped addresses come out as IPv4. `None` if it is none or cut short.
pub(super) fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(array(bytes, 0)?));
    let port = u16::from_be_bytes(array(bytes, 2)?);
    if family == libc::AF_INET {
        return Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(array::<4>(bytes, 4)?), port)));
    }
    if family != libc::AF_INET6 {
        return None;
    }
    let ip = Ipv6Addr::from(array::<16>(bytes, 8)?);
    let scope = u32::from_ne_bytes(array(bytes, 24)?);
    Some(with_scope(ip, port, scope))
}

/// An address of `ip`, mapped ones as IPv4; the scope is only kept where it means something (link-local addresses), so
/// that one peer has one `Path`.
pub(super) fn with_scope(ip: Ipv6Addr, port: u16, scope: u32) -> SocketAddr {
    match IpAddr::V6(ip).to_canonical() {
        IpAddr::V4(v4) => SocketAddr::V4(SocketAddrV4::new(v4, port)),
        IpAddr::V6(v6) => {
            let scope = if v6.is_unicast_link_local() { scope } else { 0 };
            SocketAddr::V6(SocketAddrV6::new(v6, port, 0, scope))
        }
    }
}

/// `N` bytes of `bytes` from `at`, if there are so many.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str, family: Family) -> Option<String> {
        let (name, len) = encode(&text.parse().expect("address"), family)?;
        decode(&name.0[..len]).map(|address| address.to_string())
    }

    #[test]
    fn addresses_survive_the_round_trip() {
        assert_eq!(round_trip("192.0.2.7:33001", Family::V4).as_deref(), Some("192.0.2.7:33001"));
        assert_eq!(round_trip("192.0.2.7:33001", Family::Dual).as_deref(), Some("192.0.2.7:33001"));
        assert_eq!(round_trip("[2001:db8::1]:65535", Family::V6).as_deref(), Some("[2001:db8::1]:65535"));
        assert_eq!(round_trip("[fe80::1%7]:9", Family::V6).as_deref(), Some("[fe80::1%7]:9"));
        assert_eq!(round_trip("[2001:db8::1%7]:9", Family::V6).as_deref(), Some("[2001:db8::1]:9"), "a global address has no scope");
    }

    #[test]
    fn a_socket_cannot_reach_the_other_family() {
        assert_eq!(round_trip("192.0.2.7:1", Family::V6), None);
        assert_eq!(round_trip("[2001:db8::1]:1", Family::V4), None);
    }

    #[test]
    fn short_or_foreign_bytes_are_no_address() {
        let (name, len) = encode(&"192.0.2.7:1".parse().expect("address"), Family::V4).expect("same family");
        assert!(decode(&name.0[..8]).is_some());
        assert!(decode(&name.0[..7]).is_none());
        assert_eq!(len, 16);
        assert!(decode(&[0; NAME_BYTES]).is_none());
        assert!(decode(&[]).is_none());
    }
}
