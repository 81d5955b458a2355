//! A measurement, not a check: `cargo test --release -p tradewind-xdp --test veth rate -- --ignored --nocapture`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    net::{LOCAL_V4, PEER, PEER_V4, with_veth},
    traffic::{LANE, LONGEST, PORT, learn_path, packet, steering},
};
use tradewind_netio::{Link as _, LinkLayer, Path};
use tradewind_xdp::{AttachMode, Steering, SteeringConfig, XdpLink, XdpLinkConfig};

const SECONDS: u64 = 3;

/// XdpLink to XdpLink over veth, one thread each side, both in the same mode; prints packets and bits a second.
fn measure(mtu: u32, mode: AttachMode) {
    with_veth(mtu, move |peer| {
        let steering = steering(mode);
        steering.add_lane(LANE, None, LONGEST).expect("lane");
        let mut link = XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("link");
        let ours = learn_path(peer, &mut link).link.expect("link layer");
        let path = Path {
            local: format!("{PEER_V4}:{PORT}").parse().expect("address"),
            remote: format!("{LOCAL_V4}:{PORT}").parse().expect("address"),
            link: Some(LinkLayer { local: ours.remote, remote: ours.local, vlan: None }),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (tell, sender) = std::sync::mpsc::channel();
        // The sender's sockets open on the peer's thread and run on one of their own.
        let (far_steering, mut far) = peer.run(move || {
            let steering = Steering::load(&SteeringConfig { mode, ..SteeringConfig::new(PEER, PORT) }).expect("steering");
            let link = XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("link");
            (steering, link)
        });
        let sending = std::thread::spawn(move || {
            let pattern = packet(LANE, far.datagram_bytes_max());
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..64 {
                    let fill = |room: &mut [u8]| {
                        room.copy_from_slice(&pattern);
                        room.len()
                    };
                    far.transmit(&path, pattern.len(), fill).expect("link works");
                }
                far.flush().expect("link works");
            }
            let _ = tell.send(far.counters());
            drop(far_steering);
        });
        let before = link.counters();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(SECONDS) {
            if link.receive(&mut || 1, 64, &mut |_, bytes| assert!(bytes.len() > 32)).expect("link works") == 0 {
                link.wait(Duration::from_millis(10)).expect("link works");
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let after = link.counters();
        stop.store(true, Ordering::Relaxed);
        sending.join().expect("sender");
        let packets = (after.received - before.received) as f64 / seconds;
        println!(
            "MTU {mtu}, {} mode: received {:.0} kpps, {:.2} Gbit/s of UDP payload; dropped {}; sent {}",
            steering.mode().name(),
            packets / 1e3,
            (after.received_bytes - before.received_bytes) as f64 * 8.0 / seconds / 1e9,
            after.receive_dropped - before.receive_dropped,
            sender.recv().expect("counters").sent,
        );
    });
}

#[test]
#[ignore = "a measurement: takes both cores for some seconds"]
fn rate_generic_and_driver_interleaved() {
    for _ in 0..2 {
        for mtu in [1500, 3400, 9000] {
            for mode in [AttachMode::Generic, AttachMode::Driver] {
                measure(mtu, mode);
            }
        }
    }
}
