//! In steady state the link allocates nothing, either way. A counting allocator says so.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};

use crate::{
    net::{LOCAL_V4, PEER_V4, with_veth},
    traffic::{LANE, LONGEST, PORT, learn_path, packet, peer_socket, steering},
};
use tradewind_netio::Link as _;
use tradewind_xdp::{AttachMode, XdpLink, XdpLinkConfig};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches only a thread-local number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller of this method promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller of this method promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn receiving_and_sending_allocate_nothing() {
    for mtu in [1500, 9000] {
        with_veth(mtu, move |peer| {
            let steering = steering(AttachMode::Generic);
            steering.add_lane(LANE, None, LONGEST).expect("lane");
            let mut link = XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("link");
            let path = learn_path(peer, &mut link);
            let socket = peer_socket(peer, PEER_V4);
            socket.connect((LOCAL_V4, PORT)).expect("connect");
            let length = link.datagram_bytes_max();
            let sent = packet(LANE, length);
            let (mut received, mut allocated) = (0, 0);
            for _ in 0..300 {
                for _ in 0..4 {
                    socket.send(&sent).expect("send");
                }
                let before = ALLOCATIONS.get();
                received += link.receive(&mut || 1, 64, &mut |_, bytes| assert_eq!(bytes.len(), length)).expect("link works");
                for _ in 0..4 {
                    link.transmit(&path, length, |room| room.len()).expect("link works");
                }
                link.flush().expect("link works");
                link.wait(Duration::ZERO).expect("link works");
                allocated += ALLOCATIONS.get() - before;
            }
            assert!(received >= 1000, "{received} packets measured");
            assert_eq!(allocated, 0);
            let before = ALLOCATIONS.get();
            drop(std::hint::black_box(vec![1]));
            assert_eq!(ALLOCATIONS.get(), before + 1, "the counter counts");
        });
    }
}
