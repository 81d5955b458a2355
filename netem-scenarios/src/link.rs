//! What one direction of a path does to a packet, decided when the packet arrives: dropped, and why, or delivered, and when.
//!
//! Pure and deterministic: no clock, no I/O, no operating system. The emulator, the simulator and the tests play the same decisions.
//!
//! Stages, in order:
//! 1. bottleneck: `start = max(arrival, last)`, dropped if `backlog + length > limit`, `last = start + 8 · length / rate`. The backlog
//!    counts whole frames until their last bit has left;
//! 2. outage, random loss (independent or Gilbert-Elliott): the frame has used its time on the bottleneck and is gone, so what arrives is
//!    at most rate × (1 − loss);
//! 3. propagation: `due = last + delay + jitter`, reordering, duplication.
//!
//! Random numbers depend on (seed, direction, stage, arrival index) only; see [`crate::random`].

use std::collections::VecDeque;

use crate::random::{RandomStreams, Stage};
use crate::scenario::{Direction, GilbertElliott, LossModel, QueueLimit, ReorderEffect, Scenario};

/// Which way a link carries packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// Client → server.
    Forward,
    /// Server → client.
    Reverse,
}

impl Way {
    /// Both, forward first.
    pub const BOTH: [Self; 2] = [Self::Forward, Self::Reverse];

    /// `forward` or `reverse`, as in scenario files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reverse => "reverse",
        }
    }
}

/// Why a link dropped a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// The bottleneck's queue was full on arrival.
    Queue,
    /// It left the bottleneck during an outage.
    Outage,
    /// Random loss, independent or in a burst.
    Random,
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It never arrives.
    Drop(DropReason),
    /// It arrives.
    Deliver {
        /// When, in nanoseconds on the caller's clock.
        due_ns: u64,
        /// When it arrives a second time, if it was duplicated.
        duplicate_due_ns: Option<u64>,
    },
}

/// One direction of a path. Offer it every packet in order of arrival.
#[derive(Debug, Clone)]
pub struct Link {
    direction: Direction,
    random: RandomStreams,
    start_ns: u64,
    /// Index of the next packet.
    index: u64,
    gilbert_bad: bool,
    /// Newest arrival, since the start.
    now_ns: u64,
    /// When the bottleneck is free, since the start.
    last_ns: u64,
    /// Rounding carried between frames of a busy period.
    credit: u128,
    /// Frames that have not left the bottleneck: (departure since the start, bytes).
    backlog: VecDeque<(u64, u32)>,
    backlog_bytes: u64,
    /// Latest due time so far, since the start, for jitter that keeps order.
    last_due_ns: u64,
}

impl Link {
    /// The link of `scenario` for `way`, started at `start_ns` on the caller's clock (rate traces and outages count from there).
    #[must_use]
    pub fn new(scenario: &Scenario, way: Way, start_ns: u64) -> Self {
        let (direction, number) = match way {
            Way::Forward => (scenario.forward(), 0),
            Way::Reverse => (scenario.reverse(), 1),
        };
        // Sized for full frames; many small ones let it grow once, up to the queue's limit.
        let capacity = match direction.queue() {
            Some(QueueLimit::Bytes(bytes)) => (bytes / 256 + 1).min(1 << 20) as usize,
            Some(QueueLimit::Packets(packets)) => packets.min(1 << 20) as usize,
            None => 0,
        };
        Self {
            direction: direction.clone(),
            random: RandomStreams::new(scenario.seed(), number),
            start_ns,
            index: 0,
            gilbert_bad: false,
            now_ns: 0,
            last_ns: 0,
            credit: 0,
            backlog: VecDeque::with_capacity(capacity),
            backlog_bytes: 0,
            last_due_ns: 0,
        }
    }

    /// Decides about a packet of `wire_bytes` (Ethernet frame without FCS) that arrives at `now_ns` on the caller's clock. A time before
    /// that of the packet before it counts as equal to it.
    pub fn offer(&mut self, now_ns: u64, wire_bytes: u32) -> Verdict {
        let index = self.index;
        self.index += 1;
        self.now_ns = now_ns.saturating_sub(self.start_ns).max(self.now_ns);
        let lost = self.draw_loss(index);
        let Some(departure_ns) = self.pass_bottleneck(wire_bytes) else {
            return Verdict::Drop(DropReason::Queue);
        };
        if self.direction.outages.contains(departure_ns) {
            return Verdict::Drop(DropReason::Outage);
        }
        if lost {
            return Verdict::Drop(DropReason::Random);
        }
        let due_ns = self.propagate(index, departure_ns, Stage::Jitter, true);
        let duplicate_due_ns = self
            .random
            .happens(Stage::Duplicate, index, self.direction.duplicate)
            .then(|| self.start_ns + self.propagate(index, departure_ns, Stage::DuplicateJitter, false));
        Verdict::Deliver { due_ns: self.start_ns + due_ns, duplicate_due_ns }
    }

    /// Bytes of frames in the bottleneck's queue at `now_ns`, the one being sent included.
    pub fn backlog_bytes(&mut self, now_ns: u64) -> u64 {
        self.now_ns = now_ns.saturating_sub(self.start_ns).max(self.now_ns);
        self.forget_departed();
        self.backlog_bytes
    }

    /// Packets offered so far.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.index
    }

    /// Shortest time for which the link can hold a packet that it delivers, in nanoseconds.
    #[must_use]
    pub fn hold_ns_min(&self) -> u64 {
        let skips_delay = self.direction.reorder > 0.0 && self.direction.reorder_effect == ReorderEffect::SkipDelay;
        if skips_delay { 0 } else { self.direction.delay_ns - self.direction.jitter_ns }
    }

    /// Whether random loss hits the packet. The burst state advances with every packet offered, so that it depends on the index alone.
    fn draw_loss(&mut self, index: u64) -> bool {
        match self.direction.loss {
            LossModel::None => false,
            LossModel::Independent(probability) => self.random.happens(Stage::Loss, index, probability),
            LossModel::GilbertElliott(GilbertElliott { good_to_bad, bad_to_good, loss_good, loss_bad }) => {
                let (loss, leave) = if self.gilbert_bad { (loss_bad, bad_to_good) } else { (loss_good, good_to_bad) };
                if self.random.happens(Stage::State, index, leave) {
                    self.gilbert_bad = !self.gilbert_bad;
                }
                self.random.happens(Stage::Loss, index, loss)
            }
        }
    }

    /// When the packet has left the bottleneck, since the start; `None` if the queue was full.
    fn pass_bottleneck(&mut self, wire_bytes: u32) -> Option<u64> {
        let Some(limit) = self.direction.queue else {
            return Some(self.now_ns);
        };
        self.forget_departed();
        let full = match limit {
            QueueLimit::Bytes(bytes) => self.backlog_bytes + u64::from(wire_bytes) > bytes,
            QueueLimit::Packets(packets) => self.backlog.len() as u64 >= u64::from(packets),
        };
        if full {
            return None;
        }
        if self.now_ns >= self.last_ns {
            self.credit = 0;
        }
        let start_ns = self.now_ns.max(self.last_ns);
        self.last_ns = self.direction.rate.finish_ns(start_ns, wire_bytes, &mut self.credit);
        self.backlog.push_back((self.last_ns, wire_bytes));
        self.backlog_bytes += u64::from(wire_bytes);
        Some(self.last_ns)
    }

    fn forget_departed(&mut self) {
        while let Some(&(departure_ns, bytes)) = self.backlog.front() {
            if departure_ns > self.now_ns {
                break;
            }
            self.backlog.pop_front();
            self.backlog_bytes -= u64::from(bytes);
        }
    }

    /// Due time since the start of a packet that left the bottleneck at `departure_ns`.
    fn propagate(&mut self, index: u64, departure_ns: u64, jitter: Stage, may_reorder: bool) -> u64 {
        let direction = &self.direction;
        let reordered = may_reorder && self.random.happens(Stage::Reorder, index, direction.reorder);
        if reordered && direction.reorder_effect == ReorderEffect::SkipDelay {
            return departure_ns;
        }
        // Uniform in [delay − jitter, delay + jitter].
        let spread = if direction.jitter_ns == 0 { 0 } else { (self.random.unit(jitter, index) * (2 * direction.jitter_ns) as f64) as u64 };
        let mut due_ns = departure_ns + direction.delay_ns - direction.jitter_ns + spread;
        if let (true, ReorderEffect::ExtraDelayNs(extra_ns)) = (reordered, direction.reorder_effect) {
            return due_ns + extra_ns;
        }
        if direction.jitter_keeps_order {
            due_ns = due_ns.max(self.last_due_ns);
            self.last_due_ns = due_ns;
        }
        due_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{DirectionSpec, Outage, RateStep};

    const MS: u64 = 1_000_000;

    fn link(spec: DirectionSpec) -> Link {
        Link::new(&Scenario::new("test", "", 7, spec, None).expect("the spec is valid"), Way::Forward, 0)
    }

    fn due(verdict: Verdict) -> u64 {
        match verdict {
            Verdict::Deliver { due_ns, .. } => due_ns,
            Verdict::Drop(reason) => panic!("dropped: {reason:?}"),
        }
    }

    /// 8 Mbit/s: a frame of 1000 bytes takes 1 ms.
    fn one_ms_a_frame() -> DirectionSpec {
        DirectionSpec { rate_bps: Some(8_000_000), queue_bytes: Some(3_000), delay_ms: 50.0, ..DirectionSpec::default() }
    }

    #[test]
    fn a_wire_does_nothing() {
        let mut link = link(DirectionSpec::default());
        assert_eq!(link.offer(123, 1514), Verdict::Deliver { due_ns: 123, duplicate_due_ns: None });
    }

    #[test]
    fn due_is_serialisation_plus_delay_and_frames_wait_for_each_other() {
        let mut link = link(one_ms_a_frame());
        assert_eq!(due(link.offer(0, 1000)), 51 * MS);
        assert_eq!(due(link.offer(0, 1000)), 52 * MS);
        assert_eq!(due(link.offer(10 * MS, 1000)), 61 * MS);
    }

    #[test]
    fn the_queue_takes_its_limit_and_not_a_byte_more() {
        let mut link = link(one_ms_a_frame());
        for n in 1..=3 {
            assert_eq!(due(link.offer(0, 1000)), (50 + n) * MS);
        }
        assert_eq!(link.offer(MS - 1, 1), Verdict::Drop(DropReason::Queue));
        assert_eq!(link.backlog_bytes(MS - 1), 3000);
        // At 1 ms the first has left: 1000 bytes fit, 1001 do not.
        assert_eq!(link.offer(MS, 1001), Verdict::Drop(DropReason::Queue));
        assert_eq!(due(link.offer(MS, 1000)), 54 * MS);
    }

    #[test]
    fn a_queue_of_one_packet_is_a_policer() {
        let mut link = link(DirectionSpec { queue_bytes: None, queue_packets: Some(1), ..one_ms_a_frame() });
        assert_eq!(due(link.offer(0, 1000)), 51 * MS);
        assert_eq!(link.offer(MS - 1, 1000), Verdict::Drop(DropReason::Queue));
        assert_eq!(due(link.offer(MS, 1000)), 52 * MS);
    }

    #[test]
    fn overload_leaves_at_exactly_the_rate() {
        let mut link = link(DirectionSpec { rate_bps: Some(300_000_000), queue_bytes: Some(100_000), ..DirectionSpec::default() });
        // 600 Mbit/s offered for one second.
        let mut delivered = 0u64;
        let mut last = 0;
        for n in 0..49_537u64 {
            if let Verdict::Deliver { due_ns, .. } = link.offer(n * 20_187, 1514) {
                delivered += 1;
                last = due_ns;
            }
        }
        let rate = delivered as f64 * 1514.0 * 8.0 * 1e9 / last as f64;
        assert!((rate / 300e6 - 1.0).abs() < 1e-6, "{rate}");
    }

    #[test]
    fn the_clock_may_stand_still_but_never_runs_back() {
        let mut link = link(one_ms_a_frame());
        assert_eq!(due(link.offer(100 * MS, 1000)), 151 * MS);
        assert_eq!(due(link.offer(90 * MS, 1000)), 152 * MS);
    }

    #[test]
    fn start_time_shifts_everything() {
        let scenario = Scenario::new("t", "", 1, one_ms_a_frame(), None).expect("valid");
        let mut link = Link::new(&scenario, Way::Reverse, 1_000 * MS);
        assert_eq!(due(link.offer(1_000 * MS, 1000)), 1_051 * MS);
    }

    #[test]
    fn outage_takes_what_leaves_the_bottleneck_inside_it() {
        let outages = vec![Outage { start_ms: 2.0, duration_ms: 1.0, every_ms: None }];
        let mut link = link(DirectionSpec { outages, ..one_ms_a_frame() });
        assert_eq!(due(link.offer(0, 1000)), 51 * MS);
        assert_eq!(link.offer(0, 1000), Verdict::Drop(DropReason::Outage));
        assert_eq!(due(link.offer(0, 1000)), 53 * MS);
    }

    #[test]
    fn a_rate_trace_stretches_frames() {
        let rate_trace = vec![RateStep { t_ms: 0.0, mbps: 8.0 }, RateStep { t_ms: 1.0, mbps: 4.0 }];
        let mut link = link(DirectionSpec { rate_bps: None, rate_trace, ..one_ms_a_frame() });
        assert_eq!(due(link.offer(0, 1000)), 51 * MS);
        assert_eq!(due(link.offer(0, 1000)), 53 * MS);
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_uses_them() {
        let spec = DirectionSpec { delay_ms: 10.0, jitter_ms: 2.0, ..DirectionSpec::default() };
        let mut free = link(spec.clone());
        let mut kept = link(DirectionSpec { jitter_keeps_order: true, ..spec });
        let (mut least, mut most, mut overtakes, mut newest) = (u64::MAX, 0, 0, 0);
        let mut before = 0;
        for n in 0..20_000u64 {
            let now = n * 100_000;
            let delay = due(free.offer(now, 100)) - now;
            least = least.min(delay);
            most = most.max(delay);
            overtakes += u32::from(now + delay < newest);
            newest = newest.max(now + delay);
            let due = due(kept.offer(now, 100));
            assert!(due >= before, "jitter_keeps_order let packet {n} overtake");
            before = due;
        }
        assert!((8 * MS..8 * MS + 5_000).contains(&least) && (12 * MS - 5_000..12 * MS).contains(&most), "{least} {most}");
        assert!(overtakes > 1000, "independent jitter over 100 µs spacing must reorder; it did {overtakes} times");
    }

    #[test]
    fn reordered_packets_skip_the_delay_or_are_late() {
        let base = DirectionSpec { delay_ms: 10.0, reorder: 0.1, ..DirectionSpec::default() };
        let mut early = link(base.clone());
        let mut late = link(DirectionSpec { reorder_extra_ms: Some(3.0), ..base });
        let (mut skipped, mut delayed) = (0, 0);
        for n in 0..50_000u64 {
            match due(early.offer(n, 100)) - n {
                0 => skipped += 1,
                other => assert_eq!(other, 10 * MS),
            }
            match due(late.offer(n, 100)) - n {
                13_000_000 => delayed += 1,
                other => assert_eq!(other, 10 * MS),
            }
        }
        // Binomial(50000, 0.1): σ = 67; the same packets are hit, whatever is done to them.
        assert!((4700..5300).contains(&skipped), "{skipped}");
        assert_eq!(skipped, delayed);
    }

    #[test]
    fn duplicates_come_at_their_probability() {
        let mut link = link(DirectionSpec { delay_ms: 1.0, duplicate: 0.02, ..DirectionSpec::default() });
        let twice = (0..50_000u64)
            .filter(|&n| matches!(link.offer(n, 100), Verdict::Deliver { due_ns, duplicate_due_ns: Some(second) } if second == due_ns))
            .count();
        // Binomial(50000, 0.02): σ = 31.
        assert!((850..1150).contains(&twice), "{twice}");
    }

    #[test]
    fn independent_loss_is_in_its_confidence_interval_and_uncorrelated() {
        let mut link = link(DirectionSpec { loss: Some(0.05), ..DirectionSpec::default() });
        let count = 200_000u64;
        let (mut lost, mut pairs, mut before) = (0u32, 0u32, false);
        for n in 0..count {
            let now_lost = link.offer(n, 100) == Verdict::Drop(DropReason::Random);
            lost += u32::from(now_lost);
            pairs += u32::from(now_lost && before);
            before = now_lost;
        }
        // Four σ: 0.05 ± 0.00195; pairs 0.0025 ± 0.00045.
        let share = f64::from(lost) / count as f64;
        let pair_share = f64::from(pairs) / count as f64;
        assert!((share - 0.05).abs() < 0.00195, "{share}");
        assert!((pair_share - 0.0025).abs() < 0.00046, "{pair_share}");
    }

    #[test]
    fn burst_lengths_are_geometric_with_the_given_mean() {
        let model = GilbertElliott { good_to_bad: 0.01, bad_to_good: 0.2, loss_good: 0.0, loss_bad: 1.0 };
        let mut link = link(DirectionSpec { gilbert_elliott: Some(model), ..DirectionSpec::default() });
        let count = 500_000u64;
        let mut bursts: Vec<u32> = Vec::new();
        let (mut run, mut lost) = (0u32, 0u64);
        for n in 0..count {
            if link.offer(n, 100) == Verdict::Drop(DropReason::Random) {
                run += 1;
                lost += 1;
            } else if run > 0 {
                bursts.push(std::mem::take(&mut run));
            }
        }
        let mean = bursts.iter().map(|&b| f64::from(b)).sum::<f64>() / bursts.len() as f64;
        let ones = bursts.iter().filter(|&&b| b == 1).count() as f64 / bursts.len() as f64;
        // 1 / 0.2 = 5 packets, σ of the mean = sqrt(20 / 4750) = 0.065; one-packet bursts 0.2, σ 0.0058.
        assert!((mean - 5.0).abs() < 0.26, "mean burst {mean}");
        assert!((ones - 0.2).abs() < 0.024, "bursts of one {ones}");
        // 0.01 / 0.21 = 4.76 %.
        assert!((lost as f64 / count as f64 - 0.047_62).abs() < 0.004, "{lost}");
    }

    #[test]
    fn losses_by_index_do_not_depend_on_timing_or_queue() {
        let model = GilbertElliott { good_to_bad: 0.05, bad_to_good: 0.3, loss_good: 0.01, loss_bad: 0.7 };
        let slow = DirectionSpec { loss: None, gilbert_elliott: Some(model), queue_bytes: Some(1_000_000), ..one_ms_a_frame() };
        let mut at_once = link(slow.clone());
        let mut spread = link(DirectionSpec { rate_bps: None, queue_bytes: None, ..slow });
        for n in 0..900u64 {
            let a = at_once.offer(0, 1000) == Verdict::Drop(DropReason::Random);
            let b = spread.offer(n * 7 * MS, 60) == Verdict::Drop(DropReason::Random);
            assert_eq!(a, b, "packet {n}");
        }
    }
}
