//! AF_XDP on a veth pair in network namespaces: kernel UDP on one side, [`XdpLink`] on the other. Needs root; prints `SKIP`
//! without. Sees no real NIC: no zero-copy, no hardware queues, no RSS.

mod allocation;
mod death;
mod net;
mod privilege;
mod rate;
mod tagged;
mod traffic;

use std::time::Duration;

use net::{LOCAL_V4, LOCAL_V6, PEER_V4, PEER_V6, with_veth};
use tradewind_netio::{Link as _, Transmit};
use tradewind_xdp::{AttachMode, Verdict, XdpError, XdpLink, XdpLinkConfig, XdpMode};
use traffic::{LANE, LONGEST, PORT, packet, peer_socket, receive, settle, steering, wait_until};

const MODES: [AttachMode; 2] = [AttachMode::Generic, AttachMode::Driver];

/// Kernel UDP to XdpLink and back, for one MTU, mode and family; every payload length that matters.
fn round_trip(mtu: u32, mode: AttachMode, local: &'static str, remote: &'static str) {
    with_veth(mtu, move |peer| {
        let steering = steering(mode);
        steering.add_lane(LANE, None, LONGEST).expect("lane");
        let ipv6 = local.contains(':');
        let mut link = XdpLink::open(&steering, &XdpLinkConfig { ipv6, ..XdpLinkConfig::new(0, 0) }).expect("link");
        let longest = link.datagram_bytes_max();
        assert_eq!(longest, mtu as usize - if ipv6 { 48 } else { 28 });
        let socket = peer_socket(peer, remote);
        socket.connect((local, PORT)).expect("connect");
        for length in [32, 33, 1000, longest - 1, longest] {
            let sent = packet(LANE, length);
            assert_eq!(socket.send(&sent).expect("send"), length);
            let (meta, received) = receive(&mut link, 1).pop().expect("the datagram arrives");
            assert_eq!(received, sent, "payload of {length} bytes");
            assert_eq!(meta.path.local, format!("{}:{PORT}", bracket(local)).parse().expect("address"));
            assert_eq!(meta.path.remote, socket.local_addr().expect("address"));

            let answer: Vec<u8> = sent.iter().rev().copied().collect();
            let result = link.transmit(&meta.path, longest, |room| {
                assert_eq!(room.len(), longest);
                room[..length].copy_from_slice(&answer);
                length
            });
            assert_eq!(result.expect("link works"), Transmit::Queued);
            link.flush().expect("link works");
            // The kernel verifies the UDP checksum (no offload told it otherwise), so arriving means that it was right.
            let mut buffer = vec![0; 65_536];
            let count = socket.recv(&mut buffer).expect("the answer arrives");
            assert_eq!(&buffer[..count], answer, "answer of {length} bytes");
        }
        let counters = link.counters();
        assert_eq!((counters.received, counters.sent, counters.malformed, counters.receive_dropped), (5, 5, 0, 0));
        assert_eq!(steering.counters().expect("counters").get(Verdict::Redirected), 5);
        settle(&mut link);
        println!(
            "MTU {mtu}, {} mode, zero-copy {}, huge pages {}, multi-buffer {}: ok",
            steering.mode().name(),
            link.socket().zero_copy(),
            link.socket().huge_pages(),
            steering.multi_buffer()
        );
    });
}

fn bracket(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

#[test]
fn ipv4_both_modes() {
    for mode in MODES {
        round_trip(1500, mode, LOCAL_V4, PEER_V4);
    }
}

#[test]
fn ipv6_both_modes() {
    for mode in MODES {
        round_trip(1500, mode, LOCAL_V6, PEER_V6);
    }
}

#[test]
fn one_page_mtu_3400() {
    for mode in MODES {
        round_trip(3400, mode, LOCAL_V4, PEER_V4);
    }
}

#[test]
fn jumbo_multi_buffer_mtu_9000() {
    for mode in MODES {
        round_trip(9000, mode, LOCAL_V4, PEER_V4);
    }
    round_trip(9000, AttachMode::Generic, LOCAL_V6, PEER_V6);
}

#[test]
fn automatic_mode_takes_generic_on_veth() {
    with_veth(1500, |_| {
        assert_eq!(steering(AttachMode::Auto).mode(), XdpMode::Generic);
    });
}

#[test]
fn unknown_lanes_and_garbage_never_reach_user_space() {
    for mode in MODES {
        with_veth(1500, move |peer| {
            let steering = steering(mode);
            steering.add_lane(LANE, Some(0), LONGEST).expect("lane");
            let mut link = XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("link");
            let socket = peer_socket(peer, PEER_V4);
            socket.connect((LOCAL_V4, PORT)).expect("connect");
            let mut other_version = packet(LANE, 100);
            other_version[0] = 0x21;
            let mut other_kind = packet(LANE, 100);
            other_kind[0] = 0x15;
            for _ in 0..50 {
                for bytes in [&packet(LANE + 1, 100)[..], &other_version, &other_kind, &packet(LANE, 31), b""] {
                    socket.send(bytes).expect("send");
                }
            }
            socket.send(&packet(LANE, 77)).expect("send");
            let received = receive(&mut link, 1);
            assert_eq!(received.len(), 1);
            assert_eq!(received[0].1, packet(LANE, 77), "only the packet of the known lane");
            assert_eq!(link.counters().received + link.counters().malformed, 1);
            let count_of = |verdict| steering.counters().expect("counters").get(verdict);
            for (verdict, count) in [
                (Verdict::UnknownLane, 50),
                (Verdict::WrongVersion, 50),
                (Verdict::BadKind, 50),
                (Verdict::Truncated, 100),
                (Verdict::Redirected, 1),
                (Verdict::NoSocket, 0),
            ] {
                wait_until(|| count_of(verdict) >= count);
                assert_eq!(count_of(verdict), count, "{verdict:?}");
            }

            steering.remove_lane(LANE).expect("lane");
            steering.remove_lane(LANE).expect("removing twice is no error");
            socket.send(&packet(LANE, 77)).expect("send");
            wait_until(|| count_of(Verdict::UnknownLane) >= 51);
            assert_eq!(receive_now(&mut link), 0, "the lane is closed");
            assert_eq!(count_of(Verdict::UnknownLane), 51);
            settle(&mut link);
        });
    }
}

fn receive_now(link: &mut XdpLink) -> usize {
    link.receive(&mut || 0, 64, &mut |_, _| {}).expect("link works")
}

#[test]
fn other_traffic_passes_to_the_kernel() {
    with_veth(1500, |peer| {
        let steering = steering(AttachMode::Generic);
        let mut link = XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("link");
        let kernel = std::net::UdpSocket::bind((LOCAL_V4, PORT + 1)).expect("bind");
        kernel.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        let socket = peer_socket(peer, PEER_V4);
        socket.send_to(b"hello", (LOCAL_V4, PORT + 1)).expect("send");
        let mut buffer = [0; 16];
        assert_eq!(kernel.recv(&mut buffer).expect("arrives"), 5);
        assert_eq!(receive_now(&mut link), 0);
        // ARP and neighbour discovery passed too, else nothing would have arrived.
        assert!(steering.counters().expect("counters").get(Verdict::NotOurs) >= 2);
    });
}

#[test]
fn every_frame_is_accounted_for_after_traffic_both_ways() {
    for (mtu, mode) in [(1500, AttachMode::Generic), (1500, AttachMode::Driver), (9000, AttachMode::Generic)] {
        with_veth(mtu, move |peer| {
            traffic::exchange(peer, mode, mtu as usize - 28, 3000);
        });
    }
}

/// A stamp from before is too early if the thread loses its core in between.
#[test]
fn the_clock_is_asked_once_packets_were_taken() {
    with_veth(1500, |peer| {
        let steering = steering(AttachMode::Generic);
        steering.add_lane(LANE, None, LONGEST).expect("lane");
        let mut link = XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("link");
        let mut asked = 0;
        let mut clock = || {
            asked += 1;
            asked
        };
        assert_eq!(link.receive(&mut clock, 64, &mut |_, _| {}).expect("link works"), 0);
        peer_socket(peer, PEER_V4).send_to(&packet(LANE, 64), (LOCAL_V4, PORT)).expect("send");
        link.wait(Duration::from_secs(20)).expect("link works");
        assert_eq!(link.receive(&mut clock, 64, &mut |meta, _| assert_eq!(meta.arrived_ns, 1)).expect("link works"), 1);
    });
}

#[test]
fn too_few_fetches_drop_and_count_but_lose_no_frame() {
    with_veth(1500, |peer| {
        let steering = steering(AttachMode::Generic);
        steering.add_lane(LANE, None, LONGEST).expect("lane");
        let mut config = XdpLinkConfig::new(0, 0);
        config.socket.receive_frames = 128;
        let mut link = XdpLink::open(&steering, &config).expect("link");
        let socket = peer_socket(peer, PEER_V4);
        socket.connect((LOCAL_V4, PORT)).expect("connect");
        for _ in 0..500 {
            socket.send(&packet(LANE, 100)).expect("send");
        }
        wait_until(|| link.counters().receive_dropped >= 500 - 128);
        let mut received = 0;
        while received < 128 {
            let got = receive_now(&mut link);
            assert!(got > 0, "128 frames hold 128 packets");
            received += got;
        }
        assert_eq!(receive_now(&mut link), 0);
        let counters = link.counters();
        assert_eq!((counters.received, counters.receive_dropped), (128, 500 - 128));
        settle(&mut link);
        socket.send(&packet(LANE, 100)).expect("send");
        assert_eq!(receive(&mut link, 1).len(), 1, "works on after the overload");
    });
}

#[test]
fn transmit_says_full_and_recovers() {
    with_veth(1500, |peer| {
        let steering = steering(AttachMode::Generic);
        steering.add_lane(LANE, None, LONGEST).expect("lane");
        let mut config = XdpLinkConfig::new(0, 0);
        config.socket.send_frames = 128;
        let mut link = XdpLink::open(&steering, &config).expect("link");
        let path = traffic::learn_path(peer, &mut link);
        let send = |link: &mut XdpLink| {
            link.transmit(&path, 100, |room| {
                room[..50].fill(7);
                50
            })
            .expect("link works")
        };
        for _ in 0..128 {
            assert_eq!(send(&mut link), Transmit::Queued);
        }
        assert_eq!(send(&mut link), Transmit::Full);
        link.flush().expect("link works");
        assert_eq!(send(&mut link), Transmit::Queued);
        assert_eq!(link.transmit(&path, 100, |_| 0).expect("link works"), Transmit::Nothing);
        let nowhere = tradewind_netio::Path { link: None, ..path };
        assert_eq!(link.transmit(&nowhere, 100, |_| unreachable!()).expect("link works"), Transmit::Nothing);
        assert_eq!(link.counters().send_failed, 1);
        settle(&mut link);
    });
}

#[test]
fn a_busy_queue_is_retried_and_then_named() {
    with_veth(1500, |_| {
        let steering = steering(AttachMode::Generic);
        let first = XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("link");
        let mut config = XdpLinkConfig::new(1, 0);
        config.socket.busy_deadline = Duration::from_millis(100);
        match XdpLink::open(&steering, &config) {
            Err(error @ XdpError::QueueBusy { queue: 0, .. }) => assert!(error.is_retryable()),
            other => panic!("expected QueueBusy, got {:?}", other.map(|_| ()).map_err(|error| error.to_string())),
        }
        drop(first);
        config.socket.busy_deadline = Duration::from_secs(30);
        XdpLink::open(&steering, &config).expect("free again");
    });
}

#[test]
fn a_second_program_is_refused_and_dropping_detaches() {
    with_veth(1500, |_| {
        let first = steering(AttachMode::Generic);
        let second = tradewind_xdp::Steering::load(&traffic::config(AttachMode::Generic));
        assert!(matches!(second, Err(XdpError::Attach { .. })), "{:?}", second.err().map(|error| error.to_string()));
        drop(first);
        steering(AttachMode::Driver);
    });
}

#[test]
fn the_waker_ends_a_wait() {
    with_veth(1500, |_| {
        let steering = steering(AttachMode::Generic);
        let mut link = XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("link");
        let waker = link.waker();
        let started = std::time::Instant::now();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            waker.wake();
        });
        link.wait(Duration::from_secs(20)).expect("link works");
        assert!(started.elapsed() < Duration::from_secs(10));
        other.join().expect("thread");
        let started = std::time::Instant::now();
        link.wait(Duration::from_millis(30)).expect("link works");
        assert!(started.elapsed() >= Duration::from_millis(29), "the wake-up counted once");
    });
}

#[test]
fn the_probe_describes_a_veth() {
    with_veth(1500, |_| {
        let mut report = tradewind_xdp::probe::interface(net::LOCAL).expect("report");
        assert_eq!((report.driver.as_str(), report.mtu_bytes, report.receive_queues, report.up), ("veth", 1500, 1, true));
        assert_eq!(report.usable(), Ok(()));
        assert!(report.features.driver && !report.features.zero_copy);
        report.attempt(PORT);
        assert!(report.attempts.iter().all(|attempt| attempt.refused.is_none()), "{report}");
        println!("{report}");

        // A program in the way, and an interface that is down, are named.
        let steering = steering(AttachMode::Generic);
        let occupied = tradewind_xdp::probe::interface(net::LOCAL).expect("report");
        assert!(occupied.usable().expect_err("occupied").contains("another XDP program"));
        drop(steering);
        net::sh("ip link set twl0 down");
        let down = tradewind_xdp::probe::interface(net::LOCAL).expect("report");
        assert!(down.usable().expect_err("down").contains("ip link set twl0 up"));
    });
}
