//! One lane on its worker.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc::UnboundedSender;
use tradewind_fabric::{BlockBuf, BlockPool};
use tradewind_netio::{Ecn, Meta, Path};
use tradewind_proto::block::BlockTable;
use tradewind_proto::receiver::{DropReason, Receiver, ReceiverEvent};
use tradewind_proto::sender::SenderEvent;
use tradewind_wire::BlockId;
use tradewind_wire::control::close;

use crate::sending::Sending;
use crate::shared::{Heard, LaneEvent, LaneOpening, LaneShared, OpeningEnd};

/// Room for any feedback.
const FEEDBACK_DATAGRAM_BYTES: usize = 1_400;

/// A lane that this worker owns, or may own once a packet of it authenticates here.
pub(crate) struct Lane {
    end: End,
    shared: Arc<LaneShared>,
    events: UnboundedSender<LaneEvent>,
    path: Option<Path>,
    /// When the last authentic packet came, nanoseconds; 0: none yet.
    heard_ns: u64,
    /// Something has come since the receiver's figures were published.
    has_news: bool,
    /// The control side has been told of the end.
    reported: bool,
    /// Deadline under which the lane stands in the worker's timer queue.
    pub(crate) timer_ns: u64,
    /// Number of the newest orders given to the receiver, and of the newest word on the lane's group.
    orders: u32,
    group: u32,
}

/// Which end of the lane this is.
enum End {
    Receiving {
        receiver: Box<Receiver<BlockBuf>>,
        /// Blocks handed to storage so far.
        handed_over: u32,
    },
    Sending(Box<Sending>),
}

/// What a packet changed for its lane.
pub(crate) enum Taken {
    /// It authenticated.
    Yes,
    /// It was ignored.
    No(DropReason),
    /// It authenticated, but another worker owns the lane: forget it here.
    Elsewhere,
}

impl Lane {
    pub(crate) fn new(now_ns: u64, opening: LaneOpening) -> Self {
        let mut lane = Self {
            end: match opening.end {
                OpeningEnd::Receive(config) => End::Receiving { receiver: Box::new(Receiver::new(config)), handed_over: 0 },
                OpeningEnd::Send(config, blocks) => End::Sending(Box::new(Sending::new(*config, blocks))),
            },
            shared: opening.shared,
            events: opening.events,
            path: opening.call,
            heard_ns: 0,
            has_news: false,
            reported: false,
            timer_ns: u64::MAX,
            orders: 0,
            group: 0,
        };
        if let (End::Receiving { receiver, .. }, Some(_)) = (&mut lane.end, &lane.path) {
            receiver.call(now_ns);
        }
        lane
    }

    /// Open, session: authenticates a datagram and puts its chunk into a block.
    pub(crate) fn receive(&mut self, meta: &Meta, datagram: &[u8], pool: &BlockPool) -> Taken {
        let now_ns = meta.arrived_ns;
        let arrival = match &mut self.end {
            End::Receiving { receiver, .. } => receiver.handle_datagram(now_ns, datagram, meta.ecn == Ecn::Ce, &mut || pool.take()),
            End::Sending(sending) => sending.sender.handle_datagram(now_ns, datagram),
        };
        match arrival {
            Ok(arrival) => {
                if self.heard_ns == 0 {
                    if !self.shared.claim(now_ns) {
                        return Taken::Elsewhere;
                    }
                    if let End::Sending(sending) = &mut self.end {
                        sending.begin(now_ns, self.shared.agreed());
                    }
                }
                self.heard_ns = now_ns;
                self.has_news = true;
                if arrival.newest || self.path.is_none() {
                    self.path = Some(meta.path);
                }
                let by = if meta.path.link.is_some() { &self.shared.packets_afxdp } else { &self.shared.packets_kernel };
                by.store(by.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                Taken::Yes
            }
            Err(reason) => {
                let rejected = &self.shared.packets_rejected;
                rejected.store(rejected.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                Taken::No(reason)
            }
        }
    }

    /// Deliver: hands whole blocks to storage and tells of the lane's end. Returns the blocks handed over.
    pub(crate) fn deliver(&mut self, now_ns: u64) -> u32 {
        let mut blocks = 0;
        while let End::Receiving { receiver, .. } = &mut self.end {
            let Some(event) = receiver.poll_event() else { return blocks };
            match event {
                ReceiverEvent::Block { block, buffer, image_bytes } => {
                    blocks += 1;
                    // Before the block: whoever is told of the last one may read the figures at once.
                    self.publish(now_ns);
                    self.deliver_block(now_ns, block, buffer, image_bytes);
                }
                ReceiverEvent::Fin { blocks } => self.tell(LaneEvent::Fin { blocks }),
                ReceiverEvent::Closed { code, text } => self.report_end(code, text),
            }
        }
        while let End::Sending(sending) = &mut self.end
            && let Some(event) = sending.sender.poll_event()
        {
            match event {
                // Its memory goes back to the pool.
                SenderEvent::BlockReceived { .. } => {}
                SenderEvent::Done { .. } => {
                    self.publish(now_ns);
                    self.tell(LaneEvent::Done);
                }
                SenderEvent::Closed { code, text } => self.report_end(code, text),
            }
        }
        0
    }

    fn deliver_block(&mut self, now_ns: u64, block: BlockId, buffer: BlockBuf, image_bytes: usize) {
        match BlockTable::verified(&buffer[..image_bytes]) {
            Ok(table) => {
                if let End::Receiving { handed_over, .. } = &mut self.end {
                    *handed_over += 1;
                }
                self.tell(LaneEvent::Block { block, image: buffer.freeze(image_bytes), table, complete_ns: now_ns });
            }
            Err(error) => {
                let text = format!("block {} is damaged: {error}", block.0);
                self.close(close::PROTOCOL, &text);
                self.tell(LaneEvent::Corrupt { text });
            }
        }
    }

    fn tell(&self, event: LaneEvent) {
        // The lane's task ends only after it has told us to close; news that cross it are moot.
        let _ = self.events.send(event);
    }

    fn report_end(&mut self, code: u16, text: String) {
        if !self.reported {
            self.reported = true;
            self.tell(LaneEvent::Closed { code, text });
        }
    }

    /// Takes over what storage has done since and what control says, and publishes this side's figures.
    pub(crate) fn refresh(&mut self, now_ns: u64) {
        let shared = &self.shared;
        let orders = shared.orders_after(self.orders);
        let group = shared.group_after(self.group);
        self.orders = orders.map_or(self.orders, |orders| orders.number);
        self.group = group.map_or(self.group, |group| group.number);
        match &mut self.end {
            End::Receiving { receiver, handed_over } => {
                let durable = shared.blocks_durable.load(Ordering::Acquire);
                let window = shared.window_blocks.load(Ordering::Relaxed);
                let staged = shared.blocks_staged.load(Ordering::Acquire);
                let allowed = shared.blocks_allowed.load(Ordering::Acquire);
                let waiting = handed_over.saturating_sub(durable.saturating_add(staged));
                let allowed = if allowed == 0 { durable.saturating_add(window) } else { allowed };
                receiver.set_blocks_allowed(now_ns, allowed);
                shared.blocks_granted.fetch_max(allowed, Ordering::AcqRel);
                let limited = u64::from(waiting) * 4 >= u64::from(window) * 3;
                receiver.set_storage(now_ns, durable, shared.storage_kbps.load(Ordering::Relaxed), limited);
                if let Some(orders) = orders {
                    receiver.set_orders(now_ns, orders);
                }
                if let Some(group) = group {
                    receiver.set_group(now_ns, group);
                }
            }
            End::Sending(sending) => sending.obey(now_ns, orders.as_ref(), group.as_ref()),
        }
        self.publish(now_ns);
    }

    fn publish(&mut self, now_ns: u64) {
        // Only the lane's owner: other workers hold an idle copy of it.
        let Some(path) = &self.path else { return };
        let (shared, peer, heard_ns) = (&self.shared, path.remote.ip(), self.heard_ns);
        match &mut self.end {
            // A thousand idle lanes are asked two hundred times a second.
            End::Receiving { .. } if !std::mem::take(&mut self.has_news) => {}
            End::Receiving { receiver, .. } => {
                let statistics = receiver.statistics();
                shared.bytes_received.store(statistics.data_bytes, Ordering::Relaxed);
                shared.packets_duplicate.store(statistics.duplicate_chunks, Ordering::Relaxed);
                shared.packets_lost.store(statistics.packets_missing, Ordering::Relaxed);
                shared.blocks_complete.store(statistics.blocks_completed, Ordering::Relaxed);
                if let Some(state) = receiver.sender_state() {
                    shared.publish_sender(Heard { state, obeyed: receiver.orders_obeyed(), peer, heard_ns });
                }
            }
            End::Sending(sending) => {
                sending.publish(shared);
                let (state, obeyed) = (sending.sender.state(now_ns), sending.sender.orders_obeyed());
                shared.publish_sender(Heard { state, obeyed, peer, heard_ns });
            }
        }
    }

    pub(crate) fn finish(&mut self, now_ns: u64, receipt: u64) {
        if let End::Receiving { receiver, .. } = &mut self.end {
            receiver.finish(now_ns, receipt);
        }
    }

    pub(crate) fn close(&mut self, code: u16, text: &str) {
        match &mut self.end {
            End::Receiving { receiver, .. } => receiver.close(code, text),
            End::Sending(sending) => sending.sender.close(code, text),
        }
    }

    /// The peer's address, once known.
    pub(crate) fn path(&self) -> Option<Path> {
        self.path
    }

    /// Bytes of the largest datagram that this end sends.
    pub(crate) fn datagram_bytes_max(&self) -> usize {
        match &self.end {
            End::Receiving { .. } => FEEDBACK_DATAGRAM_BYTES,
            End::Sending(sending) => sending.sender.datagram_bytes_max(),
        }
    }

    pub(crate) fn poll_transmit(&mut self, now_ns: u64, out: &mut [u8]) -> usize {
        match &mut self.end {
            End::Receiving { receiver, .. } => receiver.poll_transmit(now_ns, out),
            End::Sending(sending) => sending.poll_transmit(now_ns, out),
        }
    }

    pub(crate) fn poll_timeout(&self, now_ns: u64) -> u64 {
        match &self.end {
            End::Receiving { receiver, .. } => receiver.poll_timeout(),
            End::Sending(sending) => sending.sender.poll_timeout(now_ns),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        match &self.end {
            End::Receiving { receiver, .. } => receiver.is_closed(),
            End::Sending(sending) => sending.sender.is_closed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::sync::mpsc::unbounded_channel;
    use tradewind_netio::LinkLayer;
    use tradewind_proto::crypto::{CipherSuite, LaneSecret, Provider};
    use tradewind_proto::rate::{Policy, RateConfig};
    use tradewind_proto::receiver::ReceiverConfig;
    use tradewind_proto::sender::{Sender, SenderConfig};
    use tradewind_wire::LaneId;

    use super::*;

    const LANE: LaneId = LaneId(7);
    const CHUNK: u16 = 1_000;
    const IMAGE_BYTES: usize = 64 * 1024;
    const IDLE_NS: u64 = 30_000_000_000;

    fn lane(pool: &BlockPool) -> Lane {
        let config = ReceiverConfig {
            lane: LANE,
            secret: LaneSecret([3; 32]),
            suite: CipherSuite::Aes128Gcm,
            provider: Provider::AwsLc,
            chunk_bytes: CHUNK,
            image_bytes_max: pool.slot_bytes(),
            blocks_allowed: 1,
            idle_timeout_ns: IDLE_NS,
        };
        Lane::new(0, LaneOpening { end: OpeningEnd::Receive(config), shared: Arc::default(), events: unbounded_channel().0, call: None })
    }

    /// Packets as a client sends them, in the order of their numbers.
    fn packets(count: usize) -> Vec<Vec<u8>> {
        let rate = RateConfig {
            policy: Policy::Fixed,
            target_bytes_per_s: 100_000_000,
            minimum_bytes_per_s: 0,
            packet_bytes: u32::from(CHUNK) + 73,
            seed: 1,
            initial_rtt_ns: 10_000_000,
        };
        let config = SenderConfig {
            lane: LANE,
            secret: LaneSecret([3; 32]),
            suite: CipherSuite::Aes128Gcm,
            provider: Provider::AwsLc,
            chunk_bytes: CHUNK,
            blocks_allowed: 1,
            rate,
            tail_copies: false,
            idle_timeout_ns: IDLE_NS,
        };
        let mut sender = Sender::new(config, 0);
        sender.open_block(0, vec![9; IMAGE_BYTES]).expect("one block is allowed");
        let (mut packets, mut out) = (Vec::new(), vec![0; 2_048]);
        for now_ns in (0..).step_by(100_000) {
            while let bytes @ 1.. = sender.poll_transmit(now_ns, &mut out) {
                packets.push(out[..bytes].to_vec());
            }
            if packets.len() >= count {
                break;
            }
        }
        packets
    }

    fn from(remote: &str, link: Option<LinkLayer>) -> Meta {
        let remote: SocketAddr = remote.parse().expect("an address");
        Meta { path: Path { local: ([10, 0, 0, 2], 33_001).into(), remote, link }, ecn: Ecn::NotEct, arrived_ns: 1 }
    }

    #[test]
    fn figures_are_published_although_all_packets_came_at_once() {
        let pool = BlockPool::new(2, IMAGE_BYTES).expect("memory");
        let packets = packets(8);
        let (mut lane, home) = (lane(&pool), from("10.0.0.1:40000", None));
        // The first one is STATE.
        for (count, packet) in (0..).zip(&packets[..4]) {
            assert!(matches!(lane.receive(&home, packet, &pool), Taken::Yes));
            lane.refresh(2);
            assert_eq!(lane.shared.bytes_received.load(Ordering::Relaxed), count * u64::from(CHUNK));
        }
    }

    #[test]
    fn only_the_newest_authentic_packet_moves_the_way_back() {
        let pool = BlockPool::new(2, IMAGE_BYTES).expect("memory");
        let packets = packets(8);
        let frame = |octet| Some(LinkLayer { local: [2, 0, 0, 0, 0, 1], remote: [2, 0, 0, 0, 0, octet], vlan: None });
        for by_xdp in [false, true] {
            let link = |octet| if by_xdp { frame(octet) } else { None };
            let (home, rebound, thief) = (from("10.0.0.1:40000", link(2)), from("10.0.0.1:40001", link(2)), from("192.0.2.9:666", link(9)));
            let roamed = from("198.51.100.4:5000", link(4));
            let mut lane = lane(&pool);

            let mut forged = packets[0].clone();
            *forged.last_mut().expect("bytes") ^= 1;
            assert!(matches!(lane.receive(&thief, &forged, &pool), Taken::No(_)));
            assert_eq!(lane.path(), None, "nothing is known before a packet authenticates");
            assert!(matches!(lane.receive(&home, &packets[0], &pool), Taken::Yes));
            assert_eq!(lane.path(), Some(home.path));

            assert!(matches!(lane.receive(&rebound, &packets[3], &pool), Taken::Yes));
            assert_eq!(lane.path(), Some(rebound.path), "a newer packet moves it");
            assert!(matches!(lane.receive(&home, &packets[2], &pool), Taken::Yes));
            assert_eq!(lane.path(), Some(rebound.path), "one that was overtaken does not");
            assert!(matches!(lane.receive(&thief, &packets[1], &pool), Taken::Yes));
            assert_eq!(lane.path(), Some(rebound.path), "nor one that was held back and comes from elsewhere");
            for replayed in &packets[..4] {
                assert!(matches!(lane.receive(&thief, replayed, &pool), Taken::No(DropReason::Replayed)));
                assert_eq!(lane.path(), Some(rebound.path), "nor a replayed one");
            }

            let mut newer = packets[2].clone();
            // The packet number's last byte.
            newer[7] = 200;
            let mut changed = packets[4].clone();
            changed[20] ^= 0x80;
            for forged in [&newer[..], &changed, &packets[4][..packets[4].len() - 1], &packets[4][..16]] {
                assert!(matches!(lane.receive(&thief, forged, &pool), Taken::No(_)));
                assert_eq!(lane.path(), Some(rebound.path), "nor one that does not authenticate");
            }

            assert!(matches!(lane.receive(&roamed, &packets[4], &pool), Taken::Yes));
            assert_eq!(lane.path(), Some(roamed.path), "another network");
        }
    }
}
