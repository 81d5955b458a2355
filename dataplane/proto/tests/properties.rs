//! Any interleaving of loss, duplication, reordering, delay and corruption delivers each block exactly once, or both ends
//! say by name that it failed, in bounded time.

mod common;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use common::{IDLE_NS, MS};
use proptest::prelude::*;
use tradewind_proto::crypto::{CipherSuite, Direction, LaneSecret, OpenKeys, Provider};
use tradewind_proto::receiver::{Receiver, ReceiverEvent};
use tradewind_proto::sender::{Sender, SenderEvent};
use tradewind_wire::control::close;
use tradewind_wire::feedback::{Feedback, Segment};
use tradewind_wire::limits::HEADER_BYTES;
use tradewind_wire::{BlockId, DataHeader, Header, Kind};

const CHUNK: u16 = 496;
const IMAGE_BYTES: usize = 8 * 1024;

/// What happens to one packet. Packets beyond the list's end pass unharmed, or not at all.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Pass,
    Lose,
    Delay(u8),
    Twice(u8),
    Flip(u16),
    Cut(u16),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Pass),
        3 => Just(Fate::Lose),
        2 => any::<u8>().prop_map(Fate::Delay),
        1 => any::<u8>().prop_map(Fate::Twice),
        1 => any::<u16>().prop_map(Fate::Flip),
        1 => any::<u16>().prop_map(Fate::Cut),
    ]
}

struct Channel {
    fates: std::vec::IntoIter<Fate>,
    dead_after: bool,
    heap: BinaryHeap<Reverse<(u64, u64, Vec<u8>)>>,
    order: u64,
}

impl Channel {
    fn new(fates: Vec<Fate>, dead_after: bool) -> Self {
        Self { fates: fates.into_iter(), dead_after, heap: BinaryHeap::new(), order: 0 }
    }

    fn put(&mut self, now_ns: u64, delay_ms: u64, datagram: Vec<u8>) {
        self.order += 1;
        self.heap.push(Reverse((now_ns + delay_ms * MS, self.order, datagram)));
    }

    fn offer(&mut self, now_ns: u64, datagram: &[u8]) {
        let fate = self.fates.next().unwrap_or(if self.dead_after { Fate::Lose } else { Fate::Pass });
        let mut copy = datagram.to_vec();
        match fate {
            Fate::Pass => self.put(now_ns, 5, copy),
            Fate::Lose => {}
            Fate::Delay(ms) => self.put(now_ns, 5 + u64::from(ms), copy),
            Fate::Twice(ms) => {
                self.put(now_ns, 5, copy.clone());
                self.put(now_ns, 5 + u64::from(ms), copy);
            }
            Fate::Flip(at) => {
                let bit = usize::from(at) % (copy.len() * 8);
                copy[bit / 8] ^= 1 << (bit % 8);
                self.put(now_ns, 5, copy);
            }
            Fate::Cut(at) => {
                copy.truncate(usize::from(at) % copy.len());
                self.put(now_ns, 5, copy);
            }
        }
    }

    fn next_ns(&self) -> u64 {
        self.heap.peek().map_or(u64::MAX, |Reverse((at, ..))| *at)
    }

    fn take(&mut self, now_ns: u64) -> Option<Vec<u8>> {
        if self.next_ns() > now_ns { None } else { self.heap.pop().map(|Reverse((.., datagram))| datagram) }
    }
}

#[derive(Default, Debug)]
struct Outcome {
    delivered: Vec<(BlockId, Vec<u8>)>,
    done: bool,
    sender_code: Option<u16>,
    receiver_code: Option<u16>,
    end_ns: u64,
}

fn play(images: &[Vec<u8>], mut forward: Channel, mut reverse: Channel, window: u32) -> Outcome {
    let mut sender: Sender<Vec<u8>> = common::sender(CHUNK, window, 2_000_000);
    let mut receiver: Receiver<Vec<u8>> = common::receiver(CHUNK, IMAGE_BYTES, window);
    let mut outcome = Outcome::default();
    let mut waiting = images.iter();
    let mut out = vec![0; 2048];
    let mut now_ns = 0;
    let mut buffers_taken = 0u32;
    loop {
        while let Some(datagram) = forward.take(now_ns) {
            let mut take = || {
                buffers_taken += 1;
                Some(vec![0xee; IMAGE_BYTES])
            };
            let _ = receiver.handle_datagram(now_ns, &datagram, false, &mut take);
        }
        while let Some(datagram) = reverse.take(now_ns) {
            let _ = sender.handle_datagram(now_ns, &datagram);
        }
        loop {
            while sender.wants_block() {
                let Some(image) = waiting.next() else {
                    sender.finish();
                    break;
                };
                sender.open_block(now_ns, image.clone()).expect("it asked for one");
            }
            match sender.poll_transmit(now_ns, &mut out) {
                0 => break,
                bytes => forward.offer(now_ns, &out[..bytes]),
            }
        }
        while let Some(event) = sender.poll_event() {
            match event {
                SenderEvent::BlockReceived { block, image } => assert_eq!(image, images[block.0 as usize]),
                SenderEvent::Done { receipt } => outcome.done = receipt == 7,
                SenderEvent::Closed { code, .. } => outcome.sender_code = Some(code),
            }
        }
        loop {
            while let Some(event) = receiver.poll_event() {
                match event {
                    ReceiverEvent::Block { block, mut buffer, image_bytes } => {
                        buffer.truncate(image_bytes);
                        outcome.delivered.push((block, buffer));
                        let durable = outcome.delivered.len() as u32;
                        receiver.set_blocks_allowed(now_ns, durable + window);
                        receiver.set_storage(now_ns, durable, 0, false);
                    }
                    ReceiverEvent::Fin { blocks } => assert_eq!(blocks as usize, images.len()),
                    ReceiverEvent::Closed { code, .. } => outcome.receiver_code = Some(code),
                }
            }
            if receiver.blocks_total() == Some(outcome.delivered.len() as u32) {
                receiver.finish(now_ns, 7);
            }
            match receiver.poll_transmit(now_ns, &mut out) {
                0 => break,
                bytes => reverse.offer(now_ns, &out[..bytes]),
            }
        }
        assert!(buffers_taken <= outcome.delivered.len() as u32 + window, "more buffers than credit");
        let receiver_ns = receiver.poll_timeout();
        let over = sender.is_closed() && (receiver.is_closed() || receiver_ns == u64::MAX);
        if over && forward.heap.is_empty() {
            outcome.end_ns = now_ns;
            return outcome;
        }
        let sender_ns = if sender.is_closed() { u64::MAX } else { sender.poll_timeout(now_ns) };
        // A host wakes up within some microseconds at best.
        now_ns = forward.next_ns().min(reverse.next_ns()).min(sender_ns).min(receiver_ns).max(now_ns + 10_000);
        assert!(now_ns < 120_000 * MS, "not over after two minutes: {outcome:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_block_arrives_once_or_the_failure_has_a_name(
        sizes in prop::collection::vec(1usize..IMAGE_BYTES, 0..12),
        forward in prop::collection::vec(fate(), 0..400),
        reverse in prop::collection::vec(fate(), 0..100),
        dead in prop_oneof![4 => Just((false, false)), 1 => Just((true, false)), 1 => Just((false, true)), 1 => Just((true, true))],
        window in 1u32..5,
    ) {
        let images: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, &size)| (0..size).map(|at| (at * 7 + i * 31) as u8).collect()).collect();
        let outcome = play(&images, Channel::new(forward, dead.0), Channel::new(reverse, dead.1), window);
        let ids: BTreeSet<BlockId> = outcome.delivered.iter().map(|(id, _)| *id).collect();
        prop_assert_eq!(ids.len(), outcome.delivered.len(), "a block was delivered twice");
        for (id, image) in &outcome.delivered {
            prop_assert_eq!(image, &images[id.0 as usize]);
        }
        if outcome.done {
            prop_assert_eq!(outcome.delivered.len(), images.len());
            prop_assert_eq!(outcome.sender_code, None);
        } else {
            prop_assert_eq!(outcome.sender_code, Some(close::TIMEOUT));
            prop_assert!(dead.0 || dead.1, "it failed on a path that works in the end: {:?}", outcome);
        }
        let most_ns = 4 * IDLE_NS + 65_000 * MS;
        prop_assert!(outcome.end_ns < most_ns, "{} ms", outcome.end_ns / MS);
    }

    /// The receiver's verdicts against a set: a bit below the horizon is set exactly if the number was accepted, and no
    /// number is accepted twice.
    #[test]
    fn verdicts_agree_with_a_set(
        steps in prop::collection::vec((0u64..3_000, 0u64..3, any::<bool>()), 1..300),
    ) {
        let mut keys = common::seal_keys(Direction::Forward);
        let mut open = OpenKeys::new(&LaneSecret(common::SECRET), common::LANE, Direction::Reverse, CipherSuite::Aes128Gcm, Provider::AwsLc);
        let mut receiver = common::receiver(CHUNK, IMAGE_BYTES, 4);
        let mut accepted = BTreeSet::new();
        let mut now_ns = 0;
        let mut out = vec![0; 2048];
        for (number, wait_ms, as_probe) in steps {
            now_ns += wait_ms * MS;
            let datagram = if as_probe {
                common::packet(&mut keys, Kind::Probe, 0, number, &[], &[0; 8])
            } else {
                let data = DataHeader { sent_us: 0, train: 0, floor_segment: 0, block: BlockId(0), chunk: (number % 8) as u16 };
                common::packet(&mut keys, Kind::Data, 0, number, &data.to_bytes(), &[1; CHUNK as usize])
            };
            let taken = receiver.handle_datagram(now_ns, &datagram, false, &mut || Some(vec![0; IMAGE_BYTES]));
            prop_assert_eq!(taken.is_ok(), accepted.insert(number), "number {}: {:?}", number, taken);
            loop {
                let bytes = receiver.poll_transmit(now_ns, &mut out);
                if bytes == 0 {
                    break;
                }
                let header = Header::parse(&out[..bytes]).unwrap();
                let mut plain = vec![0; 2048];
                let plain = open.open_into(header.packet_number, &out[..HEADER_BYTES], &out[HEADER_BYTES..bytes], &mut plain).unwrap();
                let feedback = Feedback::parse(plain).unwrap();
                prop_assert_eq!(feedback.summary.received, accepted.len() as u64);
                let largest = accepted.last().copied().unwrap_or(0);
                prop_assert!(feedback.summary.closed <= largest + 1);
                for segment in feedback.segments() {
                    for i in 0..usize::from(segment.verdicts) {
                        let number = u64::from(segment.index) * 1024 + i as u64;
                        prop_assert!(number < feedback.summary.closed);
                        let bit = segment.bitmap[i / 64] >> (63 - i % 64) & 1 == 1;
                        prop_assert_eq!(bit, accepted.contains(&number), "number {}", number);
                    }
                    prop_assert!((0..16).all(|word| segment.verdicts == 1024 || segment.bitmap[word] & !Segment::mask(segment.verdicts.div_ceil(64) * 64, word) == 0));
                }
            }
        }
    }
}
