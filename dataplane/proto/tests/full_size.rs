//! Paths that swallow packets by size, and paths that only seem to: what ends a lane with PATH and what must not.

mod common;

use std::collections::VecDeque;

use common::{Ends, MS, Way};
use tradewind_proto::rate::Policy;
use tradewind_proto::sender::{Sender, SenderEvent};
use tradewind_wire::control::close;

const CHUNK: u16 = 1427;
const IMAGE_BYTES: usize = 256 * 1024;
const WINDOW: u32 = 16;
const SECOND: u64 = 1_000 * MS;

/// What the forward way does with a datagram of so many bytes at a time.
type Passes = fn(u64, usize) -> bool;

struct Path {
    ends: Ends,
    passes: Passes,
    /// Sizes of the blocks that are still to be opened.
    blocks: VecDeque<usize>,
    closed: Option<(u64, u16)>,
}

impl Path {
    fn new(delay_ns: u64, blocks: impl IntoIterator<Item = usize>, passes: Passes) -> Self {
        let config = common::adaptive_config(CHUNK, WINDOW, 2_500_000, Policy::Fair, 2 * delay_ns);
        let receiver = common::receiver_with_idle(CHUNK, IMAGE_BYTES, WINDOW, 60 * SECOND);
        let [forward, reverse] = [(); 2].map(|()| Way::new(delay_ns, 0, false));
        Self {
            ends: Ends::new(Sender::new(config, 0), receiver, forward, reverse),
            passes,
            blocks: blocks.into_iter().collect(),
            closed: None,
        }
    }

    fn step(&mut self) {
        let now_ns = self.ends.now_ns;
        self.ends.arrive(IMAGE_BYTES, WINDOW);
        let mut out = vec![0; 2048];
        while let Some(event) = self.ends.sender.poll_event() {
            if let SenderEvent::Closed { code, .. } = event {
                self.closed = Some((now_ns, code));
            }
        }
        while self.ends.sender.wants_block() {
            match self.blocks.pop_front() {
                Some(bytes) => drop(self.ends.sender.open_block(now_ns, vec![9; bytes])),
                None => {
                    self.ends.sender.finish();
                    break;
                }
            }
        }
        loop {
            match self.ends.sender.poll_transmit(now_ns, &mut out) {
                0 => break,
                bytes if (self.passes)(now_ns, bytes) => self.ends.forward.put(now_ns, &out[..bytes], &mut self.ends.random),
                _ => {}
            }
        }
        self.ends.sleep(0);
    }

    /// Runs until the lane has closed or so many blocks are durable, `seconds` at most.
    fn run(&mut self, blocks: u32, seconds: u64) {
        while self.closed.is_none() && self.ends.durable < blocks && self.ends.now_ns < seconds * SECOND {
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
        assert_eq!((passing.ends.durable, passing.closed), (1, None), "{delay_ms} ms");
    }
}

#[test]
fn a_narrow_path_is_found_out_though_the_short_ends_of_blocks_pass() {
    for delay_ms in [1, 50, 500] {
        let mut path = Path::new(delay_ms * MS, [usize::from(CHUNK) * 20 + 200; 40], narrow);
        path.run(40, 55);
        let (at_ns, code) = path.closed.expect("it hangs");
        assert_eq!((code, path.ends.durable), (close::PATH, 0), "{delay_ms} ms");
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
            let what = format!("outage {index}, {delay_ms} ms: at {} ms, {:?}", path.ends.now_ns / MS, path.ends.sender.statistics());
            assert_eq!((path.ends.durable, path.closed), (80, None), "{what}");
        }
    }
}
