//! Pacing: when the next packet is due and how many may go at once.

use super::units::nanoseconds;

/// What a worker that overslept may make up for, in time; the rest is lost (never a window dump).
pub(super) const CATCH_UP_NS: u64 = 2_000_000;

/// Packets that may be made up for at any rate: fewer than the 16 of transport.md §4, since the shortest queues of the study hold eight.
const CATCH_UP_PACKETS: f64 = 4.0;

/// Most packets of a regular burst at low rates (transport.md §4).
pub(crate) const BURST_PACKETS: u32 = 16;

/// Length of a regular burst in time where rates are high (transport.md §4).
pub(crate) const BURST_S: f64 = 100e-6;

/// Below the rate at which [`BURST_PACKETS`] last [`BURST_S`], bursts grow to this time but not beyond [`BURST_PACKETS`]: half a millisecond of queue
/// for a tenth of the wake-ups.
const BURST_LOW_RATE_S: f64 = 500e-6;

/// A schedule in which every byte moves the next packet on by its own time.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    next_ns: u64,
    packet_bytes: f64,
}

impl Pacer {
    pub(super) fn new(packet_bytes: u32, now_ns: u64) -> Self {
        Self { next_ns: now_ns, packet_bytes: f64::from(packet_bytes.max(1)) }
    }

    /// When the next packet is due.
    pub(super) fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Nothing is due before `time_ns`.
    pub(super) fn not_before(&mut self, time_ns: u64) {
        self.next_ns = self.next_ns.max(time_ns);
    }

    /// Drops a wait that a slower rate or a silence had imposed.
    pub(super) fn no_later_than(&mut self, time_ns: u64) {
        self.next_ns = self.next_ns.min(time_ns);
    }

    /// How many packets are due at `now_ns` at `rate` bytes/s, with lanes that send `path_rate` in all on the same path, and whether time was lost because the
    /// caller came too late.
    pub(super) fn due(&mut self, now_ns: u64, rate: f64, path_rate: f64) -> (u32, bool) {
        if rate < 1.0 || now_ns < self.next_ns {
            return (0, false);
        }
        let packet_s = self.packet_bytes / rate;
        let catch_up_ns = self.catch_up_ns(rate);
        let overslept = now_ns - self.next_ns > catch_up_ns;
        if overslept {
            self.next_ns = now_ns - catch_up_ns;
        }
        let late_s = (now_ns - self.next_ns) as f64 * 1e-9;
        let due = (late_s / packet_s) as u32;
        (due.saturating_add(1).max(self.burst(rate, path_rate)), overslept)
    }

    /// How late a packet may be at `rate` bytes/s without time being lost.
    pub(super) fn catch_up_ns(&self, rate: f64) -> u64 {
        CATCH_UP_NS.max(nanoseconds(self.packet_bytes * CATCH_UP_PACKETS / rate.max(1.0)))
    }

    /// Packets of a regular burst, rates as for [`Self::due`]. Lanes that share a path burst as long as one lane with the rate of all of them would, but not
    /// beyond [`BURST_PACKETS`]: whoever handles a packet of one of a thousand lanes, at either end, then has the lane's state in the cache for several.
    pub(super) fn burst(&self, rate: f64, path_rate: f64) -> u32 {
        let packets = |rate: f64, seconds: f64| (seconds * rate / self.packet_bytes) as u32;
        let high = packets(rate, BURST_S);
        let low = packets(rate, BURST_LOW_RATE_S).max(packets(path_rate, BURST_S)).min(BURST_PACKETS);
        high.max(low).max(1)
    }

    /// A packet was sent.
    pub(super) fn on_sent(&mut self, now_ns: u64, bytes: u32, rate: f64) {
        let cost_ns = if rate < 1.0 { 0 } else { nanoseconds(f64::from(bytes) / rate) };
        self.next_ns = self.next_ns.max(now_ns.saturating_sub(self.catch_up_ns(rate))).saturating_add(cost_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f64 = 37_500_000.0; // 300 Mbit/s

    fn drain(pacer: &mut Pacer, now_ns: u64, rate: f64) -> u32 {
        let (packets, _) = pacer.due(now_ns, rate, rate);
        for _ in 0..packets {
            pacer.on_sent(now_ns, 1_500, rate);
        }
        packets
    }

    #[test]
    fn keeps_the_rate_under_late_wake_ups() {
        let mut pacer = Pacer::new(1_500, 0);
        let mut sent = 0u64;
        let mut now_ns = 0;
        while now_ns < 1_000_000_000 {
            let packets = drain(&mut pacer, now_ns, RATE);
            assert!(packets <= 52, "{packets} at {now_ns}");
            sent += u64::from(packets);
            now_ns = pacer.next_ns().max(now_ns) + 700_000;
        }
        assert!((24_950..=25_030).contains(&sent), "{sent}");
    }

    #[test]
    fn oversleep_is_caught_up_in_part_only() {
        let mut pacer = Pacer::new(1_500, 0);
        drain(&mut pacer, 0, RATE);
        let (packets, overslept) = pacer.due(40_000_000, RATE, RATE);
        assert!(overslept);
        assert_eq!(packets, 51); // 2 ms of 25 packets/ms, and the one that is due
        let mut slow = Pacer::new(1_500, 0);
        assert_eq!(slow.due(0, 1_250_000.0, 1_250_000.0).0, 1, "at 10 Mbit/s a regular burst is one packet");
        assert_eq!(slow.due(400_000_000, 1_250_000.0, 1_250_000.0).0, 5);
    }

    #[test]
    fn lanes_of_one_path_burst_as_one_lane_would() {
        let pacer = Pacer::new(1_500, 0);
        let mbps = |rate: f64| rate * 125_000.0;
        for (lanes, path, packets) in [(1.0, 10.0, 1), (10.0, 100.0, 1), (50.0, 1_000.0, 8), (1_000.0, 10_000.0, 16), (2.0, 10_000.0, 41)] {
            assert_eq!(pacer.burst(mbps(path) / lanes, mbps(path)), packets, "{lanes} lanes, {path} Mbit/s");
        }
    }

    #[test]
    fn nothing_is_due_at_rate_zero() {
        assert_eq!(Pacer::new(1_500, 0).due(1_000_000_000, 0.0, 0.0), (0, false));
    }
}
