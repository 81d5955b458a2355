//! A UDP link in a network namespace of its own, where a device can be slow or have a small MTU. The namespace has no
//! name and ends with the test's thread and sockets, also after a crash. Needs root.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::UnshareFlags;
use tradewind_netio::udp::{Offload, UdpConfig, UdpLink, Warning};
use tradewind_netio::{Link, Path, Transmit};

/// Runs `test` on a thread in a fresh network namespace after the commands of `setup`; false if that is not allowed.
fn in_namespace(setup: &[&str], test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // SAFETY: NEWNET only changes the network namespace of this thread, on which no other thread depends, and
            // leaves the table of file descriptors shared.
            if let Err(error) = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) } {
                println!("SKIP: cannot make a network namespace: {error}; run as root");
                return;
            }
            for line in setup {
                let mut words = line.split_whitespace();
                let status = Command::new(words.next().expect("a command")).args(words).status();
                assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{line}: {status:?}");
            }
            test();
        });
    });
}

fn bind(offload: Offload) -> UdpLink {
    let local = "127.0.0.1:0".parse().expect("address");
    UdpLink::bind(&UdpConfig { gso: offload, gro: offload, ..UdpConfig::new(local) }).expect("bind on loopback").0
}

fn queue(link: &mut UdpLink, path: &Path, bytes: usize, tag: u8) -> Transmit {
    link.transmit(path, bytes, |room| {
        room.fill(tag);
        bytes
    })
    .expect("link works")
}

/// All that is there, waiting at most 20 s until it is so many.
fn received(link: &mut UdpLink, count: usize) -> Vec<(u8, usize)> {
    let (mut all, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(20));
    loop {
        while link.receive(&mut || 0, 64, &mut |_, bytes| all.push((bytes[0], bytes.len()))).expect("link works") > 0 {}
        if all.len() >= count || Instant::now() > deadline {
            return all;
        }
        link.wait(Duration::from_millis(10)).expect("link works");
    }
}

#[test]
fn segments_over_the_mtu_fail_alone_and_do_not_end_segmentation() {
    in_namespace(&["ip link set lo mtu 1500 up"], || {
        let (mut a, mut b) = (bind(Offload::Auto), bind(Offload::Auto));
        let path = Path { local: a.local_addr(), remote: b.local_addr(), link: None };
        // 1472 fits the MTU and 1473 does not; of a message of long datagrams the short last one still fits.
        for (bytes, tag) in [(1472, 1), (1472, 2), (1473, 3), (1473, 4), (700, 5), (1472, 6), (1472, 7)] {
            assert_eq!(queue(&mut a, &path, bytes, tag), Transmit::Queued);
        }
        a.flush().expect("link works");
        assert_eq!(received(&mut b, 5), [(1, 1472), (2, 1472), (5, 700), (6, 1472), (7, 1472)]);
        assert_eq!((a.counters().sent, a.counters().send_failed), (5, 2));
        assert!(a.uses_gso(), "the device was not the reason");
        assert_eq!(tradewind_netio::udp::device_mtu("lo").expect("loopback"), 1500);
    });
}

#[test]
fn what_the_kernel_does_not_take_stays_queued() {
    // A link of 2 Mbit/s behind a socket with the smallest send buffer: the kernel soon says EAGAIN.
    let setup = ["ip link set lo mtu 1500 up", "tc qdisc add dev lo root tbf rate 2mbit burst 5kb limit 1mb"];
    in_namespace(&setup, || {
        for offload in [Offload::Off, Offload::Auto] {
            let local = "127.0.0.1:0".parse().expect("address");
            let config = UdpConfig { send_buffer_bytes: 2304, gso: offload, ..UdpConfig::new(local) };
            let (mut a, _) = UdpLink::bind(&config).expect("bind on loopback");
            let mut b = bind(Offload::Auto);
            let path = Path { local: a.local_addr(), remote: b.local_addr(), link: None };
            for tag in 0..40 {
                assert_eq!(queue(&mut a, &path, 1000, tag), Transmit::Queued);
                if tag % 4 == 3 {
                    a.flush().expect("link works");
                }
            }
            let first = a.counters();
            assert!(first.sent < 40, "{offload:?}: the kernel took everything at once, so this proves nothing");
            assert_eq!(first.send_failed, 0);
            let mut all = Vec::new();
            for _ in 0..2000 {
                a.wait(Duration::from_millis(5)).expect("link works");
                a.flush().expect("link works");
                all.extend(received(&mut b, 0));
                if all.len() == 40 {
                    break;
                }
            }
            assert_eq!(all, (0..40).map(|tag| (tag, 1000)).collect::<Vec<_>>(), "{offload:?}");
            assert_eq!((a.counters().sent, a.counters().send_failed), (40, 0), "{offload:?}");
        }
    });
}

#[test]
fn a_device_that_is_down_is_counted_and_the_link_lives_on() {
    in_namespace(&["ip link set lo up"], || {
        let (mut a, mut b) = (bind(Offload::Auto), bind(Offload::Auto));
        let path = Path { local: a.local_addr(), remote: b.local_addr(), link: None };
        let nowhere = Path { remote: "192.0.2.1:9".parse().expect("address"), ..path };
        queue(&mut a, &nowhere, 100, 1);
        queue(&mut a, &nowhere, 100, 2);
        queue(&mut a, &path, 100, 3);
        a.flush().expect("link works");
        assert_eq!(received(&mut b, 1), [(3, 100)]);
        assert_eq!((a.counters().sent, a.counters().send_failed), (1, 2), "no route: both of the message are counted");
    });
}

#[test]
fn capped_buffers_name_the_sysctl() {
    // Texts only: root is never capped.
    let text = Warning::ReceiveBufferCapped { wanted_bytes: 16_777_216, granted_bytes: 212_992 }.to_string();
    assert!(text.contains("net.core.rmem_max=16777216") && text.contains("212992"), "{text}");
    let text = Warning::SendBufferCapped { wanted_bytes: 4_194_304, granted_bytes: 212_992 }.to_string();
    assert!(text.contains("net.core.wmem_max=4194304"), "{text}");
}
