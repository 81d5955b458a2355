//! What the integration tests share: a lane with both ends, sealed packets, and an allocator that counts.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tradewind_proto::crypto::{CipherSuite, Direction, LaneSecret, Provider, SealKeys};
use tradewind_proto::rate::{Policy, RateConfig};
use tradewind_proto::receiver::{Receiver, ReceiverConfig, ReceiverEvent};
use tradewind_proto::sender::{Sender, SenderConfig};
use tradewind_wire::limits::{HEADER_BYTES, TAG_BYTES};
use tradewind_wire::{Header, Kind, LaneId, PacketNumber};

/// A millisecond in nanoseconds.
pub(crate) const MS: u64 = 1_000_000;
/// The lane of all tests.
pub(crate) const LANE: LaneId = LaneId(0x0123_4567_89ab_cdef);
/// Its secret.
pub(crate) const SECRET: [u8; 32] = [0x5a; 32];
/// Idle timeout of both ends.
pub(crate) const IDLE_NS: u64 = 5_000 * MS;

/// A sender at a fixed rate.
pub(crate) fn sender(chunk_bytes: u16, blocks_allowed: u32, target_bytes_per_s: u64) -> Sender<Vec<u8>> {
    Sender::new(sender_config(chunk_bytes, blocks_allowed, target_bytes_per_s), 0)
}

/// What [`sender`] is made of.
pub(crate) fn sender_config(chunk_bytes: u16, blocks_allowed: u32, target_bytes_per_s: u64) -> SenderConfig {
    SenderConfig {
        lane: LANE,
        secret: LaneSecret(SECRET),
        suite: CipherSuite::Aes128Gcm,
        provider: Provider::AwsLc,
        chunk_bytes,
        blocks_allowed,
        rate: RateConfig {
            policy: Policy::Fixed,
            target_bytes_per_s,
            minimum_bytes_per_s: 0,
            packet_bytes: u32::from(chunk_bytes) + 73,
            seed: 1,
            initial_rtt_ns: 10 * MS,
        },
        tail_copies: true,
        idle_timeout_ns: IDLE_NS,
    }
}

/// The configuration of a sender that looks for its rate, on a path of this round-trip time.
pub(crate) fn adaptive_config(
    chunk_bytes: u16,
    blocks_allowed: u32,
    target_bytes_per_s: u64,
    policy: Policy,
    round_trip_ns: u64,
) -> SenderConfig {
    let config = sender_config(chunk_bytes, blocks_allowed, target_bytes_per_s);
    let rate = RateConfig { policy, seed: 5, initial_rtt_ns: round_trip_ns, ..config.rate };
    SenderConfig { rate, tail_copies: policy != Policy::Low, idle_timeout_ns: 60_000 * MS, ..config }
}

/// One way of a path.
pub(crate) struct Way {
    /// From end to end.
    pub(crate) delay_ns: u64,
    /// Lost packets in 100.
    pub(crate) loss: u32,
    /// Delayed by up to as much again, so that packets overtake each other.
    shuffled: bool,
    under_way: BinaryHeap<Reverse<(u64, u64, Vec<u8>)>>,
    count: u64,
}

impl Way {
    /// An empty one.
    pub(crate) fn new(delay_ns: u64, loss: u32, shuffled: bool) -> Self {
        Self { delay_ns, loss, shuffled, under_way: BinaryHeap::new(), count: 0 }
    }

    /// A datagram is sent.
    pub(crate) fn put(&mut self, now_ns: u64, datagram: &[u8], random: &mut Random) {
        let copies = 1 + u32::from(self.shuffled && random.below(10) == 0);
        for _ in 0..copies {
            if random.below(100) < self.loss {
                continue;
            }
            let more = if self.shuffled { u64::from(random.below(1000)) * self.delay_ns / 1000 } else { 0 };
            self.count += 1;
            self.under_way.push(Reverse((now_ns + self.delay_ns + more, self.count, datagram.to_vec())));
        }
    }

    /// The next datagram that has arrived.
    pub(crate) fn take(&mut self, now_ns: u64) -> Option<Vec<u8>> {
        if self.next_ns() > now_ns { None } else { self.under_way.pop().map(|Reverse((.., datagram))| datagram) }
    }

    /// When the next one arrives; `u64::MAX` if none is under way.
    pub(crate) fn next_ns(&self) -> u64 {
        self.under_way.peek().map_or(u64::MAX, |next| next.0.0)
    }
}

/// Both ends of a lane, the ways between them and a clock.
pub(crate) struct Ends {
    pub(crate) sender: Sender<Vec<u8>>,
    pub(crate) receiver: Receiver<Vec<u8>>,
    pub(crate) forward: Way,
    pub(crate) reverse: Way,
    pub(crate) random: Random,
    pub(crate) now_ns: u64,
    /// Blocks received whole; all of them are durable at once, and the sender may open as many again.
    pub(crate) durable: u32,
}

impl Ends {
    /// At time 0, with nothing under way.
    pub(crate) fn new(sender: Sender<Vec<u8>>, receiver: Receiver<Vec<u8>>, forward: Way, reverse: Way) -> Self {
        Self { sender, receiver, forward, reverse, random: Random(7), now_ns: 0, durable: 0 }
    }

    /// Everything that arrives now, at either end, and what the receiver says to it.
    pub(crate) fn arrive(&mut self, image_bytes: usize, window: u32) {
        let now_ns = self.now_ns;
        while let Some(datagram) = self.forward.take(now_ns) {
            let _ = self.receiver.handle_datagram(now_ns, &datagram, false, &mut || Some(vec![0; image_bytes]));
        }
        while let Some(event) = self.receiver.poll_event() {
            if let ReceiverEvent::Block { .. } = event {
                self.durable += 1;
                self.receiver.set_blocks_allowed(now_ns, self.durable + window);
                self.receiver.set_storage(now_ns, self.durable, 0, false);
            }
        }
        let mut out = vec![0; 2048];
        while let bytes @ 1.. = self.receiver.poll_transmit(now_ns, &mut out) {
            self.reverse.put(now_ns, &out[..bytes], &mut self.random);
        }
        while let Some(datagram) = self.reverse.take(now_ns) {
            let _ = self.sender.handle_datagram(now_ns, &datagram);
        }
    }

    /// On to the next thing that happens; the sender's worker wakes up so much late.
    pub(crate) fn sleep(&mut self, late_ns: u64) {
        let arrival = self.forward.next_ns().min(self.reverse.next_ns());
        let wake = self.sender.poll_timeout(self.now_ns).saturating_add(late_ns).min(self.receiver.poll_timeout()).min(arrival);
        self.now_ns = wake.clamp(self.now_ns + 10_000, self.now_ns + 5 * MS);
    }
}

/// A receiver.
pub(crate) fn receiver(chunk_bytes: u16, image_bytes_max: usize, blocks_allowed: u32) -> Receiver<Vec<u8>> {
    receiver_with_idle(chunk_bytes, image_bytes_max, blocks_allowed, IDLE_NS)
}

/// A receiver with an idle timeout of its own.
pub(crate) fn receiver_with_idle(chunk_bytes: u16, image_bytes_max: usize, blocks_allowed: u32, idle_timeout_ns: u64) -> Receiver<Vec<u8>> {
    Receiver::new(ReceiverConfig {
        lane: LANE,
        secret: LaneSecret(SECRET),
        suite: CipherSuite::Aes128Gcm,
        provider: Provider::AwsLc,
        chunk_bytes,
        image_bytes_max,
        blocks_allowed,
        idle_timeout_ns,
    })
}

/// Keys to forge authentic packets with.
pub(crate) fn seal_keys(direction: Direction) -> SealKeys {
    SealKeys::new(&LaneSecret(SECRET), LANE, direction, CipherSuite::Aes128Gcm, Provider::AwsLc)
}

/// An authentic packet: `clear` stands between the header and the ciphertext and is authenticated with it.
pub(crate) fn packet(keys: &mut SealKeys, kind: Kind, flags: u8, number: u64, clear: &[u8], plain: &[u8]) -> Vec<u8> {
    let packet_number = PacketNumber::new(number).expect("48 bits");
    let mut datagram = Header { kind, flags, packet_number, lane: LANE }.to_bytes().to_vec();
    datagram.extend_from_slice(clear);
    let start = HEADER_BYTES + clear.len();
    let aad = datagram.clone();
    datagram.resize(start + plain.len() + TAG_BYTES, 0);
    keys.seal(packet_number, &aad, plain, &mut datagram[start..]).expect("lengths fit");
    datagram
}

/// Small deterministic generator (PCG-like multiplier), for tests that need no shrinking.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next 32 bits.
    pub(crate) fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// Below a limit.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        ((u64::from(self.bits()) * u64::from(limit)) >> 32) as u32
    }
}
