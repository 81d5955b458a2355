//! A UDP link over loopback: every combination of offloads and address families, ECN, addresses.
//! What this cannot see: devices and kernels that refuse (see `udp_namespace.rs` and the unit tests), real NICs.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tradewind_netio::udp::{Offload, UdpConfig, UdpLink};
use tradewind_netio::{Ecn, Link, LinkError, Meta, Path, Transmit};

fn config(local: &str, offload: Offload) -> UdpConfig {
    UdpConfig { gso: offload, gro: offload, ..UdpConfig::new(local.parse().expect("address")) }
}

fn bind(local: &str, offload: Offload) -> UdpLink {
    UdpLink::bind(&config(local, offload)).expect("bind on loopback").0
}

/// Receives `count` datagrams, waiting at most 5 s.
fn receive(link: &mut UdpLink, count: usize) -> Vec<(Meta, Vec<u8>)> {
    let mut all = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(5);
    while all.len() < count && Instant::now() < deadline {
        link.wait(Duration::from_millis(100)).expect("link works");
        link.receive(&mut || 7, 64, &mut |meta, bytes| all.push((*meta, bytes.to_vec()))).expect("link works");
    }
    all
}

fn send(link: &mut UdpLink, path: &Path, bytes: &[u8]) {
    let queued = link
        .transmit(path, bytes.len(), |room| {
            room.copy_from_slice(bytes);
            bytes.len()
        })
        .expect("link works");
    assert_eq!(queued, Transmit::Queued);
}

/// A datagram whose length and every byte follow from its number.
fn datagram(number: usize) -> Vec<u8> {
    let bytes = [1400, 1400, 1400, 900, 1400, 1, 1400, 1400, 2000][number % 9];
    (0..bytes).map(|at| ((number * 31 + at) % 251) as u8).collect()
}

#[test]
fn every_combination_delivers_the_same_datagrams() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        for (sending, receiving) in
            [(Offload::Auto, Offload::Auto), (Offload::Auto, Offload::Off), (Offload::Off, Offload::Auto), (Offload::Off, Offload::Off)]
        {
            let case = format!("{address}, sender {sending:?}, receiver {receiving:?}");
            let (mut a, mut b) = (bind(address, sending), bind(address, receiving));
            assert_eq!((a.uses_gso(), b.uses_gro()), (sending == Offload::Auto, receiving == Offload::Auto), "{case}");
            let path = Path { local: a.local_addr(), remote: b.local_addr(), link: None };
            let mut bytes = 0;
            for number in 0..300 {
                let datagram = datagram(number);
                bytes += datagram.len() as u64;
                send(&mut a, &path, &datagram);
                // Bursts of 16, as the engine paces them.
                if number % 16 == 15 {
                    a.flush().expect("link works");
                }
            }
            a.flush().expect("link works");
            let all = receive(&mut b, 300);
            assert_eq!(all.len(), 300, "{case}");
            for (number, (meta, bytes)) in all.iter().enumerate() {
                assert_eq!(*bytes, datagram(number), "{case}, datagram {number}");
                assert_eq!((meta.path.local, meta.path.remote), (b.local_addr(), a.local_addr()), "{case}");
                assert_eq!((meta.ecn, meta.arrived_ns, meta.path.link), (Ecn::NotEct, 7, None), "{case}");
            }
            let (sent, received) = (a.counters(), b.counters());
            assert_eq!((sent.sent, sent.sent_bytes, sent.send_failed), (300, bytes, 0), "{case}");
            assert_eq!((received.received, received.received_bytes), (300, bytes), "{case}");
            assert_eq!((received.receive_dropped, received.malformed), (0, 0), "{case}");
        }
    }
}

#[test]
fn a_burst_of_one_size_arrives_merged() {
    // Each call takes one message from the kernel at a time of its own, so datagrams of one time came merged.
    let (mut a, mut b) = (bind("127.0.0.1:0", Offload::Auto), bind("127.0.0.1:0", Offload::Auto));
    let path = Path { local: a.local_addr(), remote: b.local_addr(), link: None };
    for _ in 0..200 {
        send(&mut a, &path, &[9; 1200]);
    }
    a.flush().expect("link works");
    let mut came = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while came.len() < 200 && Instant::now() < deadline {
        b.wait(Duration::from_millis(100)).expect("link works");
        let call = came.len() as u64;
        b.receive(&mut || call, 1, &mut |meta, bytes| came.push((meta.arrived_ns, bytes.len()))).expect("link works");
    }
    assert_eq!((came.len(), b.counters().received), (200, 200));
    assert!(came.iter().all(|&(_, length)| length == 1200));
    came.dedup();
    assert!(came.len() < 200 / 16, "{} messages", came.len());
}

/// A stamp from before is too early if the thread loses its core in between.
#[test]
fn the_clock_is_asked_once_packets_were_taken() {
    let (mut a, mut b) = (bind("127.0.0.1:0", Offload::Auto), bind("127.0.0.1:0", Offload::Auto));
    let path = Path { local: a.local_addr(), remote: b.local_addr(), link: None };
    let mut asked = 0;
    let mut clock = || {
        asked += 1;
        asked
    };
    assert_eq!(b.receive(&mut clock, 64, &mut |_, _| {}).expect("link works"), 0);
    send(&mut a, &path, &[9; 1200]);
    a.flush().expect("link works");
    b.wait(Duration::from_secs(20)).expect("link works");
    assert_eq!(b.receive(&mut clock, 64, &mut |meta, _| assert_eq!(meta.arrived_ns, 1)).expect("link works"), 1);
}

#[test]
fn interleaved_paths_keep_their_order() {
    let mut a = bind("127.0.0.1:0", Offload::Auto);
    let mut ends = [bind("127.0.0.1:0", Offload::Auto), bind("127.0.0.1:0", Offload::Off)];
    for number in 0..40_u8 {
        let to = &ends[usize::from(number / 2 % 2)];
        let path = Path { local: a.local_addr(), remote: to.local_addr(), link: None };
        send(&mut a, &path, &[number; 64]);
    }
    a.flush().expect("link works");
    for (index, end) in ends.iter_mut().enumerate() {
        let numbers: Vec<u8> = receive(end, 20).iter().map(|(_, bytes)| bytes[0]).collect();
        let expected: Vec<u8> = (0..40).filter(|number| usize::from(number / 2 % 2) == index).collect();
        assert_eq!(numbers, expected);
    }
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    // All of 127.0.0.0/8 is this host; a socket bound to 0.0.0.0 would otherwise answer from 127.0.0.1.
    for (bound, asked) in [("0.0.0.0:0", "127.0.0.77"), ("[::]:0", "127.0.0.78"), ("[::]:0", "::1")] {
        let mut server = bind(bound, Offload::Auto);
        let asked = SocketAddr::new(asked.parse().expect("address"), server.local_addr().port());
        let any: SocketAddr = if asked.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse().expect("address");
        let client = UdpSocket::bind(any).expect("bind on loopback");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        client.send_to(b"?", asked).expect("loopback");
        let question = receive(&mut server, 1);
        let path = question[0].0.path;
        assert_eq!((path.local, path.remote), (asked, client.local_addr().expect("address")), "bound to {bound}");
        // Two datagrams: with segmentation as well, so both control messages at once.
        for byte in [1, 2] {
            send(&mut server, &path, &[byte; 100]);
        }
        server.flush().expect("link works");
        for byte in [1, 2] {
            let mut room = [0; 200];
            let (bytes, from) = client.recv_from(&mut room).expect("an answer");
            assert_eq!((&room[..bytes], from), (&[byte; 100][..], asked), "bound to {bound}");
        }
    }
}

#[test]
fn ecn_is_read_and_not_ect_is_sent() {
    for (bound, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
        let mut link = bind(bound, Offload::Auto);
        let to = SocketAddr::new(to.parse().expect("address"), link.local_addr().port());
        let any: SocketAddr = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse().expect("address");
        let peer = UdpSocket::bind(any).expect("bind on loopback");
        for (bits, expected) in [(0, Ecn::NotEct), (1, Ecn::Ect1), (2, Ecn::Ect0), (3, Ecn::Ce)] {
            // 0xb8 is DSCP EF: the upper bits must not disturb.
            if to.is_ipv4() {
                SockRef::from(&peer).set_tos_v4(0xb8 | bits).expect("IP_TOS");
            } else {
                SockRef::from(&peer).set_tclass_v6(0xb8 | bits).expect("IPV6_TCLASS");
            }
            peer.send_to(b"x", to).expect("loopback");
            assert_eq!(receive(&mut link, 1)[0].0.ecn, expected, "bound to {bound}, bits {bits}");
        }
    }
}

#[test]
fn a_datagram_longer_than_the_device_takes_is_counted_and_harms_nothing() {
    // Loopback's MTU is 65,536: 65,507 bytes and 48 of headers do not fit an IPv6 packet there.
    for offload in [Offload::Auto, Offload::Off] {
        let (mut a, mut b) = (bind("[::1]:0", offload), bind("[::1]:0", offload));
        let path = Path { local: a.local_addr(), remote: b.local_addr(), link: None };
        send(&mut a, &path, &[1; 65_488]);
        send(&mut a, &path, &vec![2; 65_507]);
        send(&mut a, &path, &[3; 10]);
        a.flush().expect("link works");
        let came: Vec<usize> = receive(&mut b, 2).iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(came, [65_488, 10]);
        let counters = a.counters();
        assert_eq!((counters.sent, counters.send_failed), (2, 1), "{offload:?}");
        assert_eq!(a.uses_gso(), offload == Offload::Auto);
    }
}

#[test]
fn unreachable_peers_and_foreign_families_are_counted() {
    let mut a = bind("127.0.0.1:0", Offload::Auto);
    let local = a.local_addr();
    let failing = ["[::1]:9", "255.255.255.255:9"];
    for remote in failing {
        send(&mut a, &Path { local, remote: remote.parse().expect("address"), link: None }, &[0; 10]);
    }
    // A source address that is not ours.
    send(&mut a, &Path { local: "192.0.2.1:9".parse().expect("address"), remote: local, link: None }, &[0; 10]);
    // Nobody listens at this port: the kernel takes the datagram, and the ICMP answer must not end the link.
    let closed = bind("127.0.0.1:0", Offload::Auto).local_addr();
    send(&mut a, &Path { local, remote: closed, link: None }, &[0; 10]);
    send(&mut a, &Path { local, remote: local, link: None }, b"to myself");
    a.flush().expect("link works");
    assert_eq!((a.counters().sent, a.counters().send_failed), (2, 3));
    assert_eq!(receive(&mut a, 1)[0].1, b"to myself");
}

#[test]
fn empty_datagrams_are_received_as_such() {
    let mut link = bind("127.0.0.1:0", Offload::Auto);
    let peer = UdpSocket::bind("127.0.0.1:0").expect("bind on loopback");
    peer.send_to(b"", link.local_addr()).expect("loopback");
    peer.send_to(b"x", link.local_addr()).expect("loopback");
    let all = receive(&mut link, 2);
    assert_eq!(all.iter().map(|(_, bytes)| bytes.as_slice()).collect::<Vec<_>>(), [&b""[..], b"x"]);
}

#[test]
fn what_cannot_be_bound_says_what_to_do() {
    let error = |config: &UdpConfig| match UdpLink::bind(config) {
        Err(LinkError::Setup(text)) => text,
        Err(other) => panic!("not a set-up error: {other}"),
        Ok(_) => panic!("bound"),
    };
    let taken = bind("127.0.0.1:0", Offload::Auto);
    let text = error(&config(&taken.local_addr().to_string(), Offload::Auto));
    assert!(text.contains("another process uses it"), "{text}");
    let text = error(&config("192.0.2.1:0", Offload::Auto));
    assert!(text.contains("no device of this host has that address"), "{text}");
    let text = error(&UdpConfig { device: Some(String::from("tw-nosuch0")), ..config("127.0.0.1:0", Offload::Auto) });
    assert!(text.contains("tw-nosuch0") && text.contains("ip link"), "{text}");
    for (mtu_bytes, possible) in [(575, false), (576, true), (65_536, true), (65_537, false)] {
        let bound = UdpLink::bind(&UdpConfig { mtu_bytes, ..config("127.0.0.1:0", Offload::Auto) });
        assert_eq!(bound.is_ok(), possible, "MTU {mtu_bytes}");
    }
}

#[test]
fn the_mtu_gives_the_largest_datagram() {
    for (local, mtu_bytes, expected) in
        [("127.0.0.1:0", 1500, 1472), ("[::1]:0", 1500, 1452), ("127.0.0.1:0", 9000, 8972), ("127.0.0.1:0", 65_536, 65_507)]
    {
        let (link, _) = UdpLink::bind(&UdpConfig { mtu_bytes, ..config(local, Offload::Auto) }).expect("bind on loopback");
        assert_eq!(link.datagram_bytes_max(), expected);
    }
    assert!(tradewind_netio::udp::device_mtu("lo").expect("loopback") >= 1500);
    assert!(tradewind_netio::udp::device_mtu("tw-nosuch0").is_err());
    assert!(tradewind_netio::udp::device_mtu("a-name-longer-than-any-device").is_err());
}
