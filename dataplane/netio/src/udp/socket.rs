//! Opening and setting up the socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::address::Family;
use super::config::{Offload, UdpConfig, Warning};
use super::sys;
use crate::LinkError;

/// IPv6's minimum link MTU would be 1280; IPv4's, and so ours, is 576 (RFC 791: what every host must accept).
const MTU_BYTES_MIN: usize = 576;

/// A socket ready for use.
pub(super) struct Opened {
    pub(super) socket: Socket,
    pub(super) local: SocketAddr,
    pub(super) segmentation: bool,
    pub(super) merging: bool,
    pub(super) warnings: Vec<Warning>,
}

pub(super) fn open(config: &UdpConfig) -> Result<Opened, LinkError> {
    if config.mtu_bytes < MTU_BYTES_MIN || config.mtu_bytes > 65_536 {
        return Err(LinkError::Setup(format!(
            "an MTU of {} bytes is not possible: give the MTU of the network device, {MTU_BYTES_MIN} to 65536 (`ip link` shows it)",
            config.mtu_bytes
        )));
    }
    let family = Family::of(&config.local);
    let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(os("cannot open a UDP socket"))?;
    socket.set_nonblocking(true).map_err(os("cannot make the UDP socket non-blocking"))?;
    if let Some(device) = &config.device {
        socket.bind_device(Some(device.as_bytes())).map_err(|error| {
            LinkError::Setup(format!("cannot use network device {device}: {error}; check its name with `ip link`, or run with CAP_NET_RAW"))
        })?;
    }
    ip_options(&socket, family).map_err(os("cannot set the IP options of the UDP socket (don't-fragment, ECN, packet info)"))?;
    let mut warnings = Vec::new();
    buffers(&socket, config, &mut warnings)?;
    let segmentation = config.gso == Offload::Auto && sys::option::<1>(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
    if config.gso == Offload::Auto && !segmentation {
        warnings.push(Warning::NoSegmentation);
    }
    let merging = config.gro == Offload::Auto && sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
    if config.gro == Offload::Auto && !merging {
        warnings.push(Warning::NoMerging);
    }
    // Bound last: no datagram comes in before all options hold.
    socket.bind(&SockAddr::from(config.local)).map_err(|error| cannot_bind(&config.local, &error))?;
    let local =
        socket.local_addr().map_err(os("cannot ask for the address of the UDP socket"))?.as_socket().ok_or_else(|| {
            LinkError::Setup(String::from("the kernel gave the UDP socket an address that is not IP; please report this"))
        })?;
    Ok(Opened { socket, local, segmentation, merging, warnings })
}

/// Don't fragment and do not learn path MTUs from ICMP (we probe, RFC 8899); report ECN and the destination address.
fn ip_options(socket: &Socket, family: Family) -> io::Result<()> {
    let fd = socket.as_fd();
    if family != Family::V4 {
        socket.set_only_v6(family == Family::V6)?;
    }
    if family.has_v4() {
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
    }
    if family == Family::V4 {
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    }
    if family.has_v6() {
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
    }
    Ok(())
}

fn buffers(socket: &Socket, config: &UdpConfig, warnings: &mut Vec<Warning>) -> Result<(), LinkError> {
    let wanted_bytes = config.receive_buffer_bytes;
    let granted_bytes = buffer(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, wanted_bytes)
        .map_err(os("cannot set the receive buffer of the UDP socket (SO_RCVBUF)"))?;
    if granted_bytes < wanted_bytes {
        warnings.push(Warning::ReceiveBufferCapped { wanted_bytes, granted_bytes });
    }
    let wanted_bytes = config.send_buffer_bytes;
    let granted_bytes = buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, wanted_bytes)
        .map_err(os("cannot set the send buffer of the UDP socket (SO_SNDBUF)"))?;
    if granted_bytes < wanted_bytes {
        warnings.push(Warning::SendBufferCapped { wanted_bytes, granted_bytes });
    }
    Ok(())
}

/// Sets a buffer past the system's cap where we may (CAP_NET_ADMIN), up to the cap otherwise. Returns what was granted in
/// the unit of the request: the kernel doubles it for its book-keeping and reports the double (socket(7)).
fn buffer(socket: &Socket, force: libc::c_int, plain: libc::c_int, wanted_bytes: usize) -> io::Result<usize> {
    let fd = socket.as_fd();
    let wanted = libc::c_int::try_from(wanted_bytes).unwrap_or(libc::c_int::MAX / 2);
    if sys::set_option(fd, libc::SOL_SOCKET, force, wanted).is_err() {
        sys::set_option(fd, libc::SOL_SOCKET, plain, wanted)?;
    }
    let [granted] = sys::option::<1>(fd, libc::SOL_SOCKET, plain)?;
    Ok(granted as usize / 2)
}

fn cannot_bind(local: &SocketAddr, error: &io::Error) -> LinkError {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "another process uses it: choose another port, or stop that process (`ss -ulpn` shows it)",
        io::ErrorKind::AddrNotAvailable => "no device of this host has that address (`ip address` shows them)",
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE",
        _ => "check the address",
    };
    LinkError::Setup(format!("cannot bind UDP {local}: {error}; {advice}"))
}

fn os(what: &'static str) -> impl FnOnce(io::Error) -> LinkError {
    move |source| LinkError::Os { what, source }
}
