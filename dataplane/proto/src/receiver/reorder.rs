//! When a packet that did not come counts as lost: a packet sent later arrived at least the reordering window ago.

const START_NS: u64 = 4_000_000;
const FLOOR_NS: u64 = 1_000_000;
/// Cap when the round trip is unknown or short.
const CAP_NS: u64 = 50_000_000;
/// Samples of "largest number at a time"; with a least distance between them they cover the longest window.
const SAMPLES: usize = 64;

/// The adaptive reordering window (transport study, section 2.1).
pub(super) struct Reorder {
    window_ns: u64,
    decayed_ns: u64,
    ring: [(u64, u64); SAMPLES],
    head: usize,
    count: usize,
    horizon: u64,
}

impl Reorder {
    pub(super) fn new() -> Self {
        Self { window_ns: START_NS, decayed_ns: 0, ring: [(0, 0); SAMPLES], head: 0, count: 0, horizon: 0 }
    }

    /// A packet came after its verdict "lost": widen by half.
    pub(super) fn on_late(&mut self) {
        self.window_ns = (self.window_ns + self.window_ns / 2).min(CAP_NS);
    }

    /// The largest packet number so far (plus one), now.
    pub(super) fn on_arrival(&mut self, now_ns: u64, largest: u64) {
        if self.count > 0 {
            let newest = &mut self.ring[(self.head + self.count - 1) % SAMPLES];
            if newest.1 == largest {
                return;
            }
            // Close samples share a place; the later time is the careful one.
            if now_ns.saturating_sub(newest.0) < self.window_ns / 16 && self.count > 1 {
                let before = self.ring[(self.head + self.count - 2) % SAMPLES].0;
                let newest = &mut self.ring[(self.head + self.count - 1) % SAMPLES];
                if now_ns.saturating_sub(before) < self.window_ns / 8 {
                    *newest = (now_ns, largest);
                    return;
                }
            }
        }
        if self.count == SAMPLES {
            self.ring[(self.head + self.count - 1) % SAMPLES] = (now_ns, largest);
            return;
        }
        self.ring[(self.head + self.count) % SAMPLES] = (now_ns, largest);
        self.count += 1;
    }

    /// Every number below this has a verdict now. The window shrinks by 1 % a second towards its floor.
    pub(super) fn horizon(&mut self, now_ns: u64, round_trip_ns: u64) -> u64 {
        let elapsed = now_ns.saturating_sub(self.decayed_ns).min(1_000_000_000);
        self.decayed_ns = now_ns;
        let shrink = (u128::from(self.window_ns) * u128::from(elapsed) / 100_000_000_000) as u64;
        self.window_ns = (self.window_ns - shrink).max(FLOOR_NS);
        let cap = if round_trip_ns == 0 { CAP_NS } else { (round_trip_ns / 4).clamp(FLOOR_NS, CAP_NS) };
        let window = self.window_ns.min(cap);
        while self.count > 0 && now_ns.saturating_sub(self.ring[self.head].0) >= window {
            self.horizon = self.horizon.max(self.ring[self.head].1);
            self.head = (self.head + 1) % SAMPLES;
            self.count -= 1;
        }
        self.horizon
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_gets_its_verdict_one_window_after_a_later_one_arrived() {
        let mut reorder = Reorder::new();
        reorder.on_arrival(0, 10);
        assert_eq!(reorder.horizon(3_999_000, 0), 0);
        reorder.on_arrival(3_999_500, 20);
        assert_eq!(reorder.horizon(4_000_000, 0), 10);
        assert_eq!(reorder.horizon(8_100_000, 0), 20);
    }

    #[test]
    fn late_packets_widen_the_window_and_a_busy_flow_never_overflows_it() {
        let mut reorder = Reorder::new();
        for _ in 0..20 {
            reorder.on_late();
        }
        assert_eq!(reorder.window_ns, CAP_NS);
        for i in 0..100_000u64 {
            reorder.on_arrival(i * 1_000, i + 1);
            if i % 10_000 == 0 {
                reorder.horizon(i * 1_000, 0);
            }
        }
        let horizon = reorder.horizon(200_000_000, 0);
        assert_eq!(horizon, 100_000);
    }
}
