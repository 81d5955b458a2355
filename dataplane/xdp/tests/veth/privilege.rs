//! After the engine has dropped its capabilities, lanes must still open and close.

use crate::{
    net::{LOCAL_V4, PEER_V4, with_veth},
    traffic::{LANE, LONGEST, PORT, packet, peer_socket, receive, steering},
};
use caps::{CapSet, Capability};
use tradewind_netio::Link as _;
use tradewind_xdp::{AttachMode, Steering, Verdict, XdpError, XdpLink, XdpLinkConfig};

#[test]
fn lanes_open_and_close_without_capabilities() {
    with_veth(1500, |peer| {
        let steering = steering(AttachMode::Generic);
        let mut link = XdpLink::open(&steering, &XdpLinkConfig::new(0, 0)).expect("link");
        let socket = peer_socket(peer, PEER_V4);
        socket.connect((LOCAL_V4, PORT)).expect("connect");
        // Capabilities belong to a thread: the others of this process keep theirs.
        std::thread::scope(|scope| {
            let dropped = scope.spawn(|| {
                for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
                    caps::clear(None, set).expect("dropping is always allowed");
                }
                assert!(!caps::has_cap(None, CapSet::Effective, Capability::CAP_BPF).expect("caps"));
                steering.add_lane(LANE, Some(0), LONGEST).expect("add_lane without CAP_BPF and CAP_NET_ADMIN (Linux 5.19)");
                socket.send(&packet(LANE, 64)).expect("send");
                assert_eq!(receive(&mut link, 1).len(), 1);
                // Sending needs none either.
                let path = {
                    socket.send(&packet(LANE, 64)).expect("send");
                    receive(&mut link, 1)[0].0.path
                };
                link.transmit(&path, 64, |room| room.len()).expect("link works");
                link.flush().expect("link works");
                assert_eq!(socket.recv(&mut [0; 100]).expect("answer"), 64);
                steering.remove_lane(LANE).expect("remove_lane");
                assert_eq!(steering.counters().expect("counters").get(Verdict::Redirected), 2);
                // The control: what does need the capability is refused now.
                let refused = Steering::load(&crate::traffic::config(AttachMode::Driver));
                assert!(matches!(refused, Err(XdpError::Privilege { .. })));
                println!("refused as it should be: {}", refused.err().expect("refused"));
            });
            dropped.join().expect("thread");
        });
        // Dropped with the thread's capabilities gone or not: the link closes and the interface is free again.
        drop(steering);
        crate::traffic::steering(AttachMode::Driver);
    });
}
