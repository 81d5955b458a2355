//! Packets, sockets and what the tests do with them over and over.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use crate::net::{LOCAL, LOCAL_V4, PEER_V4, Peer};
use tradewind_netio::{Link as _, Meta, Path, Transmit};
use tradewind_xdp::{AttachMode, Steering, SteeringConfig, XdpLink, XdpLinkConfig};

pub(crate) const PORT: u16 = 33001;
/// Longest payload of the lane: whatever fits the interface.
pub(crate) const LONGEST: usize = 9000;
pub(crate) const LANE: u64 = 0x0123_4567_89ab_cdef;
/// Longer than anything that works takes on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn config(mode: AttachMode) -> SteeringConfig {
    SteeringConfig { mode, ..SteeringConfig::new(LOCAL, PORT) }
}

pub(crate) fn steering(mode: AttachMode) -> Steering {
    Steering::load(&config(mode)).expect("steering loads")
}

/// A packet of a lane: header of transport.md section 1, then a pattern.
pub(crate) fn packet(lane: u64, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).map(|index| (index * 7 + index / 256) as u8).collect();
    bytes[0] = 0x11;
    if length >= 16 {
        bytes[8..16].copy_from_slice(&lane.to_be_bytes());
    }
    bytes
}

/// A kernel UDP socket in the peer's namespace.
pub(crate) fn peer_socket(peer: &Peer, address: &'static str) -> UdpSocket {
    let socket = peer.run(move || UdpSocket::bind((address, 0)).expect("bind"));
    socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
    socket
}

/// Waits until it is so, at most until the deadline: what is asserted afterwards tells what is missing.
pub(crate) fn wait_until(is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() && started.elapsed() < DEADLINE {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `count` datagrams have arrived.
pub(crate) fn receive(link: &mut XdpLink, count: usize) -> Vec<(Meta, Vec<u8>)> {
    let mut received = Vec::new();
    let started = Instant::now();
    while received.len() < count && started.elapsed() < DEADLINE {
        link.receive(&mut || 1, 64, &mut |meta, bytes| received.push((*meta, bytes.to_vec()))).expect("link works");
        if received.len() < count {
            link.wait(Duration::from_millis(100)).expect("link works");
        }
    }
    received
}

/// Sends one packet to the link and returns the way back.
pub(crate) fn learn_path(peer: &Peer, link: &mut XdpLink) -> Path {
    let socket = peer_socket(peer, PEER_V4);
    socket.send_to(&packet(LANE, 64), (LOCAL_V4, PORT)).expect("send");
    receive(link, 1).pop().expect("arrives").0.path
}

/// Waits until nothing is in flight, then asserts that every frame is where it should be.
pub(crate) fn settle(link: &mut XdpLink) {
    let started = Instant::now();
    while link.audit().transmitting > 0 && started.elapsed() < DEADLINE {
        link.flush().expect("link works");
        std::thread::sleep(Duration::from_millis(1));
    }
    let audit = link.audit();
    assert_eq!(audit.foreign, 0, "{audit:?}");
    assert_eq!(audit.transmitting, 0, "{audit:?}");
    assert_eq!(audit.receiving, link.socket().receive_frames() as usize, "the fill side is full: {audit:?}");
    assert_eq!(audit.ours + audit.receiving, audit.total, "{audit:?}");
    assert_eq!(link.socket().frames_in_hand(), audit.ours, "no frame is lost: {audit:?}");
}

/// `count` datagrams of `length` bytes to the link, each answered; then everything is accounted for.
pub(crate) fn exchange(peer: &Peer, mode: AttachMode, length: usize, count: usize) {
    let steering = steering(mode);
    steering.add_lane(LANE, None, LONGEST).expect("lane");
    let mut link = XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("link");
    let socket = peer_socket(peer, PEER_V4);
    socket.connect((LOCAL_V4, PORT)).expect("connect");
    // A window smaller than the peer's socket buffer (208 KiB, and a 9,000-byte packet may be charged 20 KiB), so that nothing may
    // be lost on the way.
    const WINDOW: usize = 6;
    let mut buffer = vec![0; 65_536];
    let mut answers = Vec::new();
    for _ in 0..count.div_ceil(WINDOW) {
        for _ in 0..WINDOW {
            socket.send(&packet(LANE, length)).expect("send");
        }
        let mut got = 0;
        let started = Instant::now();
        while got < WINDOW && started.elapsed() < DEADLINE {
            answers.clear();
            got += link
                .receive(&mut || 1, 64, &mut |meta, bytes| {
                    assert_eq!(bytes, packet(LANE, length));
                    answers.push(meta.path);
                })
                .expect("link works");
            for path in &answers {
                let result = link.transmit(path, length, |room| {
                    room.fill(0x5a);
                    room.len()
                });
                assert_eq!(result.expect("link works"), Transmit::Queued);
            }
            link.flush().expect("link works");
            if got < WINDOW {
                link.wait(Duration::from_millis(10)).expect("link works");
            }
        }
        assert_eq!(got, WINDOW);
        for _ in 0..WINDOW {
            assert_eq!(socket.recv(&mut buffer).expect("answer"), length);
        }
    }
    let counters = link.counters();
    assert_eq!(counters.received, counters.sent);
    assert_eq!((counters.receive_dropped, counters.send_failed, counters.malformed), (0, 0, 0));
    settle(&mut link);
}
