//! The packet path allocates nothing per packet: what is allocated in steady state grows with blocks, not with packets.

mod common;
#[path = "common/counting.rs"]
mod counting;

use common::MS;
use tradewind_proto::receiver::{Receiver, ReceiverEvent};
use tradewind_proto::sender::{Sender, SenderEvent};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Allocations that each block may cost on top: queue growth while the flow warms up further.
const PER_BLOCK: u64 = 2;
const IMAGE_BYTES: usize = 256 * 1024;

struct Pair {
    sender: Sender<Vec<u8>>,
    receiver: Receiver<Vec<u8>>,
    now_ns: u64,
    images: Vec<Vec<u8>>,
    buffers: Vec<Vec<u8>>,
    out: Vec<u8>,
    blocks: u32,
    packets: u64,
    random: common::Random,
}

impl Pair {
    /// Moves data for a while over a link that loses 2 %. Buffers and images are recycled, as pools do.
    fn run(&mut self, until_ns: u64) {
        while self.now_ns < until_ns {
            self.now_ns += MS;
            while self.sender.wants_block() {
                let Some(image) = self.images.pop() else { break };
                self.sender.open_block(self.now_ns, image).expect("it asked for one");
            }
            loop {
                let bytes = self.sender.poll_transmit(self.now_ns, &mut self.out);
                if bytes == 0 {
                    break;
                }
                self.packets += 1;
                if self.random.below(50) > 0 {
                    let buffers = &mut self.buffers;
                    let taken = self.receiver.handle_datagram(self.now_ns, &self.out[..bytes], false, &mut || buffers.pop());
                    taken.expect("an honest packet");
                }
            }
            while let Some(event) = self.receiver.poll_event() {
                if let ReceiverEvent::Block { buffer, .. } = event {
                    self.blocks += 1;
                    self.buffers.push(buffer);
                    self.receiver.set_blocks_allowed(self.now_ns, self.blocks + 8);
                    self.receiver.set_storage(self.now_ns, self.blocks, 0, false);
                }
            }
            loop {
                let bytes = self.receiver.poll_transmit(self.now_ns, &mut self.out);
                if bytes == 0 {
                    break;
                }
                self.packets += 1;
                if self.random.below(50) > 0 {
                    self.sender.handle_datagram(self.now_ns, &self.out[..bytes]).expect("an honest packet");
                }
            }
            while let Some(event) = self.sender.poll_event() {
                if let SenderEvent::BlockReceived { image, .. } = event {
                    self.images.push(image);
                }
            }
        }
    }
}

#[test]
fn steady_state_allocates_nothing_per_packet() {
    let mut pair = Pair {
        sender: common::sender(1427, 8, 100_000_000),
        receiver: common::receiver(1427, IMAGE_BYTES, 8),
        now_ns: 0,
        images: (0..16).map(|i| vec![i; IMAGE_BYTES]).collect(),
        buffers: (0..16).map(|_| vec![0; IMAGE_BYTES]).collect(),
        out: vec![0; 2048],
        blocks: 0,
        packets: 0,
        random: common::Random(1),
    };
    pair.run(1_000 * MS);
    let (calls, blocks, packets) = (counting::calls(), pair.blocks, pair.packets);
    pair.run(5_000 * MS);
    let (calls, blocks, packets) = (counting::calls() - calls, u64::from(pair.blocks - blocks), pair.packets - packets);
    println!("{calls} allocations, {blocks} blocks, {packets} packets");
    assert!(packets > 200_000 && blocks > 1_000, "{packets} packets and {blocks} blocks are no steady state");
    assert!(calls <= PER_BLOCK * blocks, "{calls} allocations for {blocks} blocks and {packets} packets");
    assert!(calls < packets / 100);
}
