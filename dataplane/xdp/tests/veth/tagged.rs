//! Frames with VLAN tags, put on the wire by a packet socket: this kernel may have no VLAN devices.
#![expect(unsafe_code, reason = "packet sockets take a raw sockaddr_ll")]

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::{
    net::{LOCAL, PEER, with_veth},
    traffic::{LANE, LONGEST, PORT, packet, receive, settle, steering},
};
use tradewind_netio::{Ecn, Link as _};
use tradewind_xdp::{AttachMode, XdpLink, XdpLinkConfig};

/// An AF_PACKET socket on the peer's end of the veth.
fn packet_socket() -> OwnedFd {
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: plain system call; the result is checked before it becomes an owned descriptor.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, all) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: `fd` is open and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an all-zero sockaddr_ll is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    let name = std::ffi::CString::new(PEER).expect("name");
    // SAFETY: `name` is a terminated string.
    address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
    // SAFETY: `address` is a sockaddr_ll, and the length says so.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t) };
    assert_eq!(bound, 0, "{}", io::Error::last_os_error());
    socket
}

fn send(socket: &OwnedFd, frame: &[u8]) {
    // SAFETY: the pointer and length are those of `frame`.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    assert_eq!(sent, frame.len().cast_signed(), "{}", io::Error::last_os_error());
}

/// Receives frames until one starts with `start`; the kernel has moved the outermost tag out of it.
fn receive_starting(socket: &OwnedFd, start: &[u8]) -> Vec<u8> {
    for _ in 0..1000 {
        let mut frame = vec![0; 2000];
        // SAFETY: the pointer and length are those of `frame`.
        let count = unsafe { libc::recv(socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), libc::MSG_DONTWAIT) };
        if let Ok(count) = usize::try_from(count) {
            frame.truncate(count);
            if frame.starts_with(start) {
                return frame;
            }
        } else {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    panic!("no such frame arrived");
}

fn mac(of: &'static str) -> [u8; 6] {
    let output = std::process::Command::new("ip").args(["-o", "link", "show", of]).output().expect("ip");
    let text = String::from_utf8(output.stdout).expect("text");
    let mac = text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("address");
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    bytes.try_into().expect("six bytes")
}

/// A frame from a neighbour that the kernel does not know, with these tags, outermost first.
fn frame(to: [u8; 6], tags: &[(u16, u16)]) -> Vec<u8> {
    let payload = packet(LANE, 64);
    let mut bytes = to.to_vec();
    bytes.extend([2, 0, 0, 0, 0, 9]);
    for (protocol, control) in tags {
        bytes.extend(protocol.to_be_bytes());
        bytes.extend(control.to_be_bytes());
    }
    bytes.extend([0x08, 0, 0x45, 3, 0, 92, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 9, 10, 77, 0, 1]);
    bytes.extend(5000_u16.to_be_bytes());
    bytes.extend(PORT.to_be_bytes());
    bytes.extend([0, 72, 0, 0]);
    bytes.extend(payload);
    bytes
}

#[test]
fn tags_are_kept_both_ways() {
    for mode in [AttachMode::Generic, AttachMode::Driver] {
        with_veth(1500, move |peer| {
            let steering = steering(mode);
            steering.add_lane(LANE, None, LONGEST).expect("lane");
            let mut link = XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("link");
            let local = mac(LOCAL);
            let socket = peer.run(packet_socket);
            let cases = [(&[][..], None), (&[(0x8100, 0x2007)], Some(0x2007)), (&[(0x88a8, 9), (0x8100, 7)], Some(7))];
            for (tags, vlan) in cases {
                send(&socket, &frame(local, tags));
                let (meta, bytes) = receive(&mut link, 1).pop().expect("the frame arrives");
                assert_eq!(bytes, packet(LANE, 64), "{tags:x?}");
                assert_eq!(meta.ecn, Ecn::Ce);
                let found = meta.path.link.expect("link layer");
                assert_eq!((found.local, found.remote, found.vlan), (local, [2, 0, 0, 0, 0, 9], vlan), "{tags:x?}");

                link.transmit(&meta.path, 50, |room| room.len()).expect("link works");
                link.flush().expect("link works");
                let mut start = vec![2, 0, 0, 0, 0, 9];
                start.extend(local);
                let answer = receive_starting(&socket, &start);
                // The outermost tag is gone from what a packet socket reads; an inner one is still there.
                let rest: &[u8] = if tags.len() == 2 { &[0x81, 0, 0, 7, 0x08, 0, 0x45] } else { &[0x08, 0, 0x45] };
                assert!(answer[12..].starts_with(rest), "{tags:x?}: {:02x?}", &answer[..30]);
            }
            settle(&mut link);
        });
    }
}
