//! Paths that swallow packets by size, and paths that only seem to: what ends a lane with PATH and what must not.

mod common;

use std::collections::VecDeque;

use common::{MS, Random, Way};
use tradewind_proto::rate::Policy;
use tradewind_proto::receiver::Receiver;
use tradewind_proto::sender::{Sender, SenderEvent};
use tradewind_wire::control::close;

const CHUNK: u16 = 1427;
const IMAGE_BYTES: usize = 256 * 1024;
const WINDOW: u32 = 16;
const SECOND: u64 = 1_000 * MS;

/// What the forward way does with a datagram of so many bytes at a time.
type Passes = fn(u64, usize) -> bool;

struct Path {
    sender: Sender<Vec<u8>>,
    receiver: Receiver<Vec<u8>>,
    passes: Passes,
    forward: Way,
    reverse: Way,
    random: Random,
    now_ns: u64,
    /// Sizes of the blocks that are still to be opened.
    blocks: VecDeque<usize>,
    durable: u32,
    closed: Option<(u64, u16)>,
}

impl Path {
    fn new(delay_ns: u64, blocks: impl IntoIterator<Item = usize>, passes: Passes) -> Self {
        let config = common::adaptive_config(CHUNK, WINDOW, 2_500_000, Policy::Fair, 2 * delay_ns);
        Self {
            sender: Sender::new(config, 0),
            receiver: common::receiver_with_idle(CHUNK, IMAGE_BYTES, WINDOW, 60 * SECOND),
            passes,
            forward: Way::new(delay_ns, 0, false),
            reverse: Way::new(delay_ns, 0, false),
            random: Random(7),
            now_ns: 0,
            blocks: blocks.into_iter().collect(),
            durable: 0,
            closed: None,
        }
    }

    fn step(&mut self) {
        let now_ns = self.now_ns;
        while let Some(datagram) = self.forward.take(now_ns) {
            let _ = self.receiver.handle_datagram(now_ns, &datagram, false, &mut || Some(vec![0; IMAGE_BYTES]));
        }
        common::store_blocks(&mut self.receiver, now_ns, &mut self.durable, WINDOW);
        let mut out = vec![0; 2048];
        loop {
            match self.receiver.poll_transmit(now_ns, &mut out) {
                0 => break,
                bytes => self.reverse.put(now_ns, &out[..bytes], &mut self.random),
            }
        }
        while let Some(datagram) = self.reverse.take(now_ns) {
            let _ = self.sender.handle_datagram(now_ns, &datagram);
        }
        while let Some(event) = self.sender.poll_event() {
            if let SenderEvent::Closed { code, .. } = event {
                self.closed = Some((now_ns, code));
            }
        }
        while self.sender.wants_block() {
            match self.blocks.pop_front() {
                Some(bytes) => drop(self.sender.open_block(now_ns, vec![9; bytes])),
                None => {
                    self.sender.finish();
                    break;
                }
            }
        }
        loop {
            match self.sender.poll_transmit(now_ns, &mut out) {
                0 => break,
                bytes if (self.passes)(now_ns, bytes) => self.forward.put(now_ns, &out[..bytes], &mut self.random),
                _ => {}
            }
        }
        let arrival = self.forward.next_ns().min(self.reverse.next_ns());
        let wake = self.sender.poll_timeout(now_ns).min(self.receiver.poll_timeout()).min(arrival);
        self.now_ns = wake.clamp(now_ns + 10_000, now_ns + 5 * MS);
    }

    /// Runs until the lane has closed or so many blocks are durable, `seconds` at most.
    fn run(&mut self, blocks: u32, seconds: u64) {
        while self.closed.is_none() && self.durable < blocks && self.now_ns < seconds * SECOND {
            self.step();
        }
    }
}

/// IP packets of up to 1,300 bytes.
fn narrow(_: u64, datagram_bytes: usize) -> bool {
    datagram_bytes + 28 <= 1_300
}

#[test]
fn a_lane_of_one_large_packet_does_not_hang_on_a_narrow_path() {
    for delay_ms in [1, 50, 500] {
        let mut path = Path::new(delay_ms * MS, [1_400], narrow);
        path.run(1, 55);
        let (at_ns, code) = path.closed.expect("it hangs");
        assert_eq!(code, close::PATH, "{delay_ms} ms");
        assert!((5 * SECOND..20 * SECOND).contains(&at_ns), "{delay_ms} ms: after {} ms", at_ns / MS);
        let mut passing = Path::new(delay_ms * MS, [1_200], narrow);
        passing.run(1, 10);
        assert_eq!((passing.durable, passing.closed), (1, None), "{delay_ms} ms");
    }
}

#[test]
fn a_narrow_path_is_found_out_though_the_short_ends_of_blocks_pass() {
    for delay_ms in [1, 50, 500] {
        let mut path = Path::new(delay_ms * MS, [usize::from(CHUNK) * 20 + 200; 40], narrow);
        path.run(40, 55);
        let (at_ns, code) = path.closed.expect("it hangs");
        assert_eq!((code, path.durable), (close::PATH, 0), "{delay_ms} ms");
        assert!((5 * SECOND..8 * SECOND).contains(&at_ns), "{delay_ms} ms: after {} ms", at_ns / MS);
    }
}

#[test]
fn an_outage_of_one_way_is_waited_out() {
    let outages: [Passes; 3] = [
        |now_ns, _| !(4 * SECOND..12 * SECOND).contains(&now_ns),
        |now_ns, _| !(4 * SECOND..24 * SECOND).contains(&now_ns),
        |now_ns, _| !(4 * SECOND..54 * SECOND).contains(&now_ns),
    ];
    for (index, passes) in outages.into_iter().enumerate() {
        for delay_ms in [1, 50, 300] {
            let mut path = Path::new(delay_ms * MS, [IMAGE_BYTES; 80], passes);
            path.run(80, 120);
            let what = format!("outage {index}, {delay_ms} ms: at {} ms, {:?}", path.now_ns / MS, path.sender.statistics());
            assert_eq!((path.durable, path.closed), (80, None), "{what}");
        }
    }
}
