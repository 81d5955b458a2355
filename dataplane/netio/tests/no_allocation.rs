//! In steady state a UDP link allocates nothing, in either direction, with and without offloads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use tradewind_netio::memory::pair;
use tradewind_netio::udp::{Offload, UdpConfig, UdpLink};
use tradewind_netio::{Link, Path};

thread_local! {
    /// Allocations of this thread: the test harness's own threads do not count.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system allocator unchanged; counting touches only a thread-local integer without a
// destructor, which does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of GlobalAlloc::alloc.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of GlobalAlloc::dealloc.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of GlobalAlloc::realloc.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// Sends `bursts` bursts of 16 datagrams from `a` to `b`, each after the one before has arrived; returns how many arrived within 20 s.
fn exchange(a: &mut impl Link, b: &mut impl Link, path: &Path, bursts: u64) -> u64 {
    let (mut arrived, deadline) = (0, Instant::now() + Duration::from_secs(20));
    for burst in 0..bursts {
        for index in 0..16 {
            let bytes = if index == 15 { 300 } else { 1400 };
            a.transmit(path, 1472, |room| {
                room[0] = index;
                bytes
            })
            .expect("link works");
        }
        a.flush().expect("link works");
        while arrived < 16 * (burst + 1) && Instant::now() < deadline {
            b.wait(Duration::from_millis(100)).expect("link works");
            b.receive(&mut || burst, 64, &mut |_, bytes| {
                bytes[0] ^= 1;
                arrived += 1;
            })
            .expect("link works");
        }
        b.counters();
    }
    arrived
}

#[test]
fn counting_works() {
    let before = allocations();
    drop(std::hint::black_box(Box::new(1_u64)));
    assert_eq!(allocations() - before, 1);
}

#[test]
fn udp_links_do_not_allocate_per_packet() {
    for offload in [Offload::Auto, Offload::Off] {
        for local in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let local = local.parse().expect("address");
            let config = UdpConfig { gso: offload, gro: offload, ..UdpConfig::new(local) };
            let (mut a, _) = UdpLink::bind(&config).expect("bind on loopback");
            let (mut b, _) = UdpLink::bind(&config).expect("bind on loopback");
            let mut remote = b.local_addr();
            if remote.ip().is_unspecified() {
                remote.set_ip("127.0.0.1".parse().expect("address"));
            }
            let path = Path { local: a.local_addr(), remote, link: None };
            let before = allocations();
            let arrived = exchange(&mut a, &mut b, &path, 200);
            let after = allocations();
            assert_eq!(arrived, 3200, "{config:?}");
            assert_eq!(after - before, 0, "{config:?}");
        }
    }
}

#[test]
fn memory_links_do_not_allocate_in_steady_state() {
    let (mut a, mut b) = pair();
    let path = Path { local: a.local_addr(), remote: b.local_addr(), link: None };
    exchange(&mut a, &mut b, &path, 10);
    let before = allocations();
    let arrived = exchange(&mut a, &mut b, &path, 100);
    assert_eq!((allocations() - before, arrived), (0, 1600));
}
