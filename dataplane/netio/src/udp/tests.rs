//! What needs the inside of a link: the kernel refusing segmentation, drops, interruption.

use std::time::{Duration, Instant};

use super::*;

fn bind(gso: Offload) -> UdpLink {
    let mut config = UdpConfig::new("127.0.0.1:0".parse().expect("address"));
    config.gso = gso;
    UdpLink::bind(&config).expect("bind on loopback").0
}

fn path(from: &UdpLink, to: &UdpLink) -> Path {
    Path { local: from.local_addr(), remote: to.local_addr(), link: None }
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
fn a_kernel_that_refuses_segments_gets_single_datagrams_and_loses_none() {
    let (mut a, mut b) = (bind(Offload::Auto), bind(Offload::Auto));
    assert!(a.uses_gso());
    // Without UDP checksums the kernel answers EINVAL to UDP_SEGMENT but sends single datagrams, as where a device or an
    // old kernel cannot segment.
    sys::set_option(a.socket.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("SO_NO_CHECK");
    let path = path(&a, &b);
    for tag in 0..100 {
        assert_eq!(queue(&mut a, &path, 500, tag), Transmit::Queued);
    }
    queue(&mut a, &path, 77, 100);
    a.flush().expect("link works");
    assert!(!a.uses_gso(), "given up for good");
    let expected: Vec<_> = (0..100).map(|tag| (tag, 500)).chain([(100, 77)]).collect();
    assert_eq!(received(&mut b, 101), expected);
    assert_eq!((a.counters().sent, a.counters().sent_bytes, a.counters().send_failed), (101, 50_077, 0));

    queue(&mut a, &path, 10, 1);
    queue(&mut a, &path, 10, 2);
    a.flush().expect("link works");
    assert_eq!(received(&mut b, 2), [(1, 10), (2, 10)]);
}

#[test]
fn overflow_of_the_socket_is_counted() {
    let mut config = UdpConfig::new("127.0.0.1:0".parse().expect("address"));
    config.receive_buffer_bytes = 4096;
    let (mut b, warnings) = UdpLink::bind(&config).expect("bind on loopback");
    assert_eq!(warnings, []);
    let mut a = bind(Offload::Off);
    let path = path(&a, &b);
    for tag in 0..50 {
        queue(&mut a, &path, 1000, tag);
    }
    a.flush().expect("link works");
    // What is dropped is dropped before anything is read, and the last may come a moment later.
    let deadline = Instant::now() + Duration::from_secs(20);
    let dropped = |b: &UdpLink| b.counters().receive_dropped as usize;
    while dropped(&b) == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut came = 0;
    while came + dropped(&b) < 50 && Instant::now() < deadline {
        came += received(&mut b, 0).len();
    }
    let counters = b.counters();
    assert!(came < 50 && came > 0, "{came}");
    assert_eq!(counters.received + counters.receive_dropped, 50, "{counters:?}");
    assert_eq!(b.counters(), counters, "asking again counts nothing twice");
}

#[test]
fn a_wait_ends_with_a_datagram_a_wake_up_or_the_timeout() {
    let (mut a, mut b) = (bind(Offload::Auto), bind(Offload::Auto));
    let path = path(&a, &b);
    let took = |b: &mut UdpLink, timeout_ms| {
        let start = Instant::now();
        b.wait(Duration::from_millis(timeout_ms)).expect("link works");
        start.elapsed()
    };
    assert!(took(&mut b, 30) >= Duration::from_millis(29));
    queue(&mut a, &path, 10, 0);
    a.flush().expect("link works");
    assert!(took(&mut b, 60_000) < Duration::from_secs(30), "a datagram waits");
    assert_eq!(received(&mut b, 1).len(), 1);

    let waker = b.waker();
    waker.wake();
    waker.wake();
    assert!(took(&mut b, 60_000) < Duration::from_secs(30), "woken before the wait");
    assert!(took(&mut b, 30) >= Duration::from_millis(29), "two wake-ups are one");

    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            waker.wake();
        });
        assert!(took(&mut b, 60_000) < Duration::from_secs(30), "woken from another thread");
    });
}

#[test]
fn datagrams_left_by_a_limit_end_a_wait_and_come_next() {
    let (mut a, mut b) = (bind(Offload::Auto), bind(Offload::Auto));
    let path = path(&a, &b);
    for tag in 0..10 {
        queue(&mut a, &path, 100, tag);
    }
    a.flush().expect("link works");
    b.wait(Duration::from_secs(20)).expect("link works");
    let mut all = Vec::new();
    assert_eq!(b.receive(&mut || 1, 3, &mut |meta, bytes| all.push((bytes[0], meta.arrived_ns))).expect("link works"), 3);
    let start = Instant::now();
    b.wait(Duration::from_secs(60)).expect("link works");
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(b.receive(&mut || 2, 64, &mut |meta, bytes| all.push((bytes[0], meta.arrived_ns))).expect("link works"), 7);
    let expected: Vec<_> = (0..10).map(|tag| (tag, 1)).collect();
    assert_eq!(all, expected, "all ten were taken from the kernel at time 1, merged");
}

#[test]
fn a_full_queue_does_not_call_fill() {
    let (mut a, b) = (bind(Offload::Auto), bind(Offload::Auto));
    let path = path(&a, &b);
    let mut queued = 0_usize;
    while queue(&mut a, &path, 60_000, 0) == Transmit::Queued {
        queued += 1;
    }
    assert_eq!(queued, 512 * 1024 / 60_000);
    assert_eq!(a.transmit(&path, 60_000, |_| panic!("no room")).expect("link works"), Transmit::Full);
    assert_eq!(a.transmit(&path, 10, |_| 0).expect("link works"), Transmit::Nothing, "a small one still fits");
    a.flush().expect("link works");
    assert_eq!(queue(&mut a, &path, 60_000, 0), Transmit::Queued);
}
