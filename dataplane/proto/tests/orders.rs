//! Orders across a path that loses, delays and repeats: the newest are obeyed, the receiver's owner learns it, and what leaves
//! the sender stays below the lease over any second: dither, pulses, copies of the tail and control packets included.

mod common;

use std::collections::VecDeque;

use common::{Ends, MS, Random, Way};
use proptest::prelude::*;
use tradewind_proto::rate::{Limiter, Policy};
use tradewind_proto::sender::Sender;

use tradewind_wire::orders::{KBPS_NONE, limiter, policy};
use tradewind_wire::{Group, Orders};

const CHUNK: u16 = 1427;
const IP_UDP_BYTES: u64 = 28;
const IMAGE_BYTES: usize = 256 * 1024;
const WINDOW: u32 = 64;
const SECOND: u64 = 1_000 * MS;

struct Lane {
    ends: Ends,
    /// Packets without data that were sent.
    small: u64,
    /// Time and IP bytes of each packet of the last second, and the most that a second had.
    recent: VecDeque<(u64, u64)>,
    recent_bytes: u64,
    most_bytes: u64,
    sent_bytes: u64,
    /// The sender's worker wakes up to so much late.
    late_ns: u64,
    /// Blocks that are still to be opened.
    blocks: u32,
}

impl Lane {
    fn new(policy: Policy, lease_kbps: Option<u32>, forward: Way, reverse: Way, late_ns: u64) -> Self {
        let config = common::adaptive_config(CHUNK, WINDOW, 125_000_000, policy, 2 * forward.delay_ns);
        let mut sender = Sender::new(config, 0);
        if let Some(kbps) = lease_kbps {
            sender.set_lease(u64::from(kbps) * 125);
        }
        let receiver = common::receiver(CHUNK, IMAGE_BYTES, WINDOW);
        Self {
            ends: Ends::new(sender, receiver, forward, reverse),
            small: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            most_bytes: 0,
            sent_bytes: 0,
            late_ns,
            blocks: u32::MAX,
        }
    }

    fn step(&mut self) {
        let now_ns = self.ends.now_ns;
        self.ends.arrive(IMAGE_BYTES, WINDOW);
        let mut out = vec![0; 2048];
        while let Some(event) = self.ends.sender.poll_event() {
            drop(event);
        }
        while self.ends.sender.wants_block() && self.blocks > 0 {
            self.blocks -= 1;
            self.ends.sender.open_block(now_ns, vec![9; IMAGE_BYTES]).expect("it asked for one");
        }
        if self.blocks == 0 {
            self.ends.sender.finish();
        }
        loop {
            match self.ends.sender.poll_transmit(now_ns, &mut out) {
                0 => break,
                bytes => {
                    self.count(bytes as u64 + IP_UDP_BYTES);
                    self.ends.forward.put(now_ns, &out[..bytes], &mut self.ends.random);
                }
            }
        }
        let late_ns = u64::from(self.ends.random.below(1000)) * self.late_ns / 1000;
        self.ends.sleep(late_ns);
    }

    fn count(&mut self, bytes: u64) {
        while self.recent.front().is_some_and(|&(at, _)| at + SECOND <= self.ends.now_ns) {
            let (_, bytes) = self.recent.pop_front().expect("it is there");
            self.recent_bytes -= bytes;
        }
        self.small += u64::from(bytes < 128);
        self.recent.push_back((self.ends.now_ns, bytes));
        self.recent_bytes += bytes;
        self.sent_bytes += bytes;
        self.most_bytes = self.most_bytes.max(self.recent_bytes);
    }

    fn run(&mut self, ms: u64) {
        let end_ns = self.ends.now_ns + ms * MS;
        while self.ends.now_ns < end_ns {
            self.step();
        }
    }

    fn order(&mut self, number: u32, policy: u8, target_kbps: u32, lease_kbps: u32) {
        self.ends.receiver.set_orders(self.ends.now_ns, Orders { number, policy, target_kbps, minimum_kbps: 0, lease_kbps });
    }
}

#[test]
fn over_any_second_a_lane_stays_within_two_percent_of_its_lease_and_uses_it() {
    for (name, policy) in [("fair", Policy::Fair), ("high", Policy::High), ("low", Policy::Low), ("fixed", Policy::Fixed)] {
        for lease_kbps in [6_000u32, 40_000, 300_000] {
            for (delay_ms, loss, late_us) in [(2, 0, 1_500), (40, 0, 200), (40, 5, 200)] {
                let forward = Way::new(delay_ms * MS, loss, false);
                let mut lane = Lane::new(policy, Some(lease_kbps), forward, Way::new(delay_ms * MS, loss, false), late_us * 1_000);
                lane.run(4_000);
                let warm_bytes = lane.sent_bytes;
                lane.run(4_000);
                let per_second = f64::from(lease_kbps) * 125.0;
                let (most, used) = (lane.most_bytes as f64 / per_second, (lane.sent_bytes - warm_bytes) as f64 / (4.0 * per_second));
                println!("{name} {lease_kbps} kbit/s, {delay_ms} ms, {loss} %: most {most:.4}, used {used:.4}");
                assert!(most <= 1.02, "{name} {lease_kbps} kbit/s, {delay_ms} ms, {loss} %: {most}");
                assert!(used >= 0.97, "{name} {lease_kbps} kbit/s, {delay_ms} ms, {loss} %: {used}");
            }
        }
    }
}

#[test]
fn the_tail_stays_within_the_lease_too() {
    // The last blocks are copied into idle capacity: 15 % loss, so up to 12 copies of each chunk.
    let mut lane = Lane::new(Policy::Fair, Some(20_000), Way::new(100 * MS, 15, false), Way::new(100 * MS, 0, false), 200_000);
    lane.blocks = 40;
    lane.run(12_000);
    assert!(lane.ends.sender.statistics().tail_copies > 100, "{:?}", lane.ends.sender.statistics());
    assert_eq!(lane.ends.durable, 40);
    assert!(lane.most_bytes <= 2_550_000, "{}", lane.most_bytes);
}

#[test]
fn orders_change_everything_in_the_middle() {
    let mut lane = Lane::new(Policy::Fair, None, Way::new(20 * MS, 0, false), Way::new(20 * MS, 0, false), 0);
    lane.run(1_000);
    lane.order(1, policy::LOW, 40_000, KBPS_NONE);
    lane.run(1_500);
    assert_eq!((lane.ends.sender.orders_obeyed(), lane.ends.receiver.orders_obeyed()), (1, 1));
    assert_eq!(lane.ends.sender.statistics().limiter, Limiter::Target);
    assert_eq!(lane.ends.receiver.sender_state().expect("it speaks").limiter, limiter::TARGET);
    let before = lane.sent_bytes;
    lane.run(1_000);
    assert!((4_850_000..=5_100_000).contains(&(lane.sent_bytes - before)), "{}", lane.sent_bytes - before);
    lane.order(2, policy::FIXED, 16_000, 8_000);
    lane.run(200);
    let state = lane.ends.receiver.sender_state().expect("it speaks");
    assert_eq!((state.orders, state.limiter, state.rate_kbps), (2, limiter::LEASE, 8_000));
    assert_eq!(state.wanted_kbps, 16_000, "what the target would allow");
    lane.order(1, policy::HIGH, 90_000, KBPS_NONE);
    lane.order(3, 99, 24_000, KBPS_NONE);
    lane.run(200);
    let state = lane.ends.receiver.sender_state().expect("it speaks");
    assert_eq!((state.orders, state.limiter, state.rate_kbps), (3, limiter::TARGET, 24_000), "an unknown policy changes nothing");
    lane.order(4, policy::FAIR, KBPS_NONE, 0);
    lane.run(200);
    let before = lane.sent_bytes;
    lane.run(10_000);
    let sent = lane.sent_bytes - before;
    assert!(sent < 12_000, "only STATE: {sent}");
    assert!(lane.ends.receiver.sender_state().expect("it speaks").orders == 4 && !lane.ends.receiver.is_closed());
    lane.order(5, policy::FAIR, KBPS_NONE, 80_000);
    lane.run(1_000);
    let before = lane.sent_bytes;
    lane.run(1_000);
    assert!(lane.sent_bytes - before >= 9_500_000, "a stop leaves nothing behind: {}", lane.sent_bytes - before);
}

#[test]
fn a_raised_bound_is_used_within_a_second() {
    for bounds in [[(5_000, KBPS_NONE), (80_000, KBPS_NONE)], [(KBPS_NONE, 5_000), (KBPS_NONE, 80_000)]] {
        let mut lane = Lane::new(Policy::Fair, None, Way::new(20 * MS, 1, false), Way::new(20 * MS, 1, false), 0);
        lane.order(1, policy::FAIR, bounds[0].0, bounds[0].1);
        lane.run(3_000);
        lane.order(2, policy::FAIR, bounds[1].0, bounds[1].1);
        lane.run(1_000);
        let before = lane.sent_bytes;
        lane.run(1_000);
        assert!(lane.sent_bytes - before >= 9_500_000, "{bounds:?}: {}", lane.sent_bytes - before);
    }
}

#[test]
fn a_lane_that_starts_with_nothing_gets_its_lease_when_it_is_heard() {
    let mut lane = Lane::new(Policy::Fair, Some(0), Way::new(30 * MS, 10, false), Way::new(30 * MS, 10, false), 0);
    lane.order(1, policy::FAIR, KBPS_NONE, 30_000);
    lane.run(3_000);
    let before = lane.sent_bytes;
    lane.run(1_000);
    assert!((3_600_000..=3_830_000).contains(&(lane.sent_bytes - before)), "{}", lane.sent_bytes - before);
}

/// What is said of a group holds while it is repeated, whatever is lost of that, and fades if the news that it is over never arrive.
#[test]
fn news_of_a_group_survive_loss_and_fade() {
    // At this round-trip time STATE comes every 600 ms, and every 100 ms from a lane in a group.
    let mut lane = Lane::new(Policy::Fair, None, Way::new(300 * MS, 30, false), Way::new(300 * MS, 30, false), 0);
    let small_in = |lane: &mut Lane, ms| {
        let before = lane.small;
        lane.run(ms);
        lane.small - before
    };
    lane.order(1, policy::FAIR, 8_000, KBPS_NONE);
    lane.run(4_000);
    let alone = small_in(&mut lane, 10_000);
    lane.ends.receiver.set_group(lane.ends.now_ns, Group { number: 1, share_kbps: 8_000, lanes: 3 });
    lane.run(2_000);
    let grouped = small_in(&mut lane, 10_000);
    assert!(alone <= 30 && grouped >= 90, "{alone} alone, {grouped} in a group");
    lane.ends.reverse.loss = 100;
    lane.ends.receiver.set_group(lane.ends.now_ns, Group { number: 2, share_kbps: 0, lanes: 1 });
    lane.run(1_000);
    lane.ends.reverse.loss = 30;
    lane.run(3_000);
    let after = small_in(&mut lane, 10_000);
    assert!(after <= 30, "{after} after the group, {alone} before");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_newest_orders_are_obeyed_whatever_the_path_does(
        seed in any::<u64>(),
        loss in 0u32..60,
        delay_ms in 1u64..200,
        leases in proptest::collection::vec((1u64..400, 0u32..40_000), 1..20),
    ) {
        let mut lane = Lane::new(Policy::Fair, Some(1_000), Way::new(delay_ms * MS, loss, true), Way::new(delay_ms * MS, loss, true), 0);
        lane.ends.random = Random(seed);
        let mut number = 0;
        for &(ms, lease_kbps) in &leases {
            number += 1 + (seed >> 8) as u32 % 3;
            lane.order(number, policy::FAIR, KBPS_NONE, lease_kbps);
            lane.run(ms);
            let (sender, receiver) = (lane.ends.sender.orders_obeyed(), lane.ends.receiver.orders_obeyed());
            prop_assert!(receiver <= sender && sender <= number, "{receiver} {sender} {number}");
        }
        lane.ends.forward.loss = loss.min(20);
        lane.ends.reverse.loss = loss.min(20);
        lane.run(8_000);
        prop_assert_eq!((lane.ends.sender.orders_obeyed(), lane.ends.receiver.orders_obeyed()), (number, number));
        let lease_kbps = leases.last().expect("at least one").1;
        prop_assert!(lane.ends.sender.statistics().rate_bytes_per_s <= u64::from(lease_kbps) * 125);
    }
}

#[test]
fn an_idle_lane_is_answered_a_few_times_a_second() {
    let sender = Sender::new(common::adaptive_config(CHUNK, 4, u64::MAX, Policy::Fair, MS), 0);
    let receiver = common::receiver_with_idle(CHUNK, IMAGE_BYTES, 4, 60_000 * MS);
    let mut ends = Ends::new(sender, receiver, Way::new(MS / 2, 0, false), Way::new(MS / 2, 0, false));
    ends.sender.open_block(0, vec![9; IMAGE_BYTES]).expect("there is room");
    let mut out = vec![0; 2048];
    let mut sent = [0; 2];
    while ends.now_ns < 20_000 * MS {
        ends.arrive(IMAGE_BYTES, 4);
        while ends.sender.poll_event().is_some() {}
        while let bytes @ 1.. = ends.sender.poll_transmit(ends.now_ns, &mut out) {
            ends.forward.put(ends.now_ns, &out[..bytes], &mut ends.random);
        }
        sent[usize::from(ends.now_ns >= 10_000 * MS)] = ends.receiver.statistics().feedback_sent;
        ends.sleep(0);
    }
    let (first, later) = (sent[0], sent[1] - sent[0]);
    assert_eq!(ends.durable, 1);
    // Twice a second, and twice after each STATE.
    assert!((15..=45).contains(&later), "{first} and {later} in ten seconds each");
}
