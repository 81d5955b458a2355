//! Whether packets come so densely that a worker should sleep through some of them.
//!
//! A worker that waits for its links is woken by the next packet. On a veth pair, and wherever the interrupt is taken by the core that sends, its sender
//! pays for that: an eighth of its time, and the worker wakes for a few packets each time (`docs/adr/0041-dense-packets.md`). While packets are dense
//! it therefore sleeps for a fixed time whatever comes.

/// So many packets a second are dense: in a doze come ten and more, and where start-up measures a path by its trains there is none below 1 Gbit/s.
const DENSE_PER_S: u64 = 100_000;
/// Stretch over which packets are counted, at least.
const WINDOW_NS: u64 = 1_000_000;
/// After so long without a packet nothing is dense any more.
const QUIET_NS: u64 = 1_000_000;

/// How long a dense worker sleeps, nanoseconds; its thread has precise timers. At 10 Gbit/s and an MTU of 1500 that is some 90 packets of a receive ring of
/// thousands, and less than what feedback waits for.
pub(crate) const DOZE_NS: u64 = 100_000;

/// Counts packets.
#[derive(Debug, Default)]
pub(crate) struct Density {
    since_ns: u64,
    packets: u64,
    last_ns: u64,
    is_dense: bool,
}

impl Density {
    /// So many packets were received up to now; call it also when there were none.
    pub(crate) fn count(&mut self, now_ns: u64, packets: usize) {
        self.packets += packets as u64;
        if packets > 0 {
            self.last_ns = now_ns;
        }
        let elapsed_ns = now_ns.saturating_sub(self.since_ns);
        if elapsed_ns >= WINDOW_NS {
            self.is_dense = u128::from(self.packets) * 1_000_000_000 >= u128::from(DENSE_PER_S) * u128::from(elapsed_ns);
            (self.since_ns, self.packets) = (now_ns, 0);
        }
    }

    /// Whether packets came densely and still do.
    pub(crate) fn is_dense(&self, now_ns: u64) -> bool {
        self.is_dense && now_ns.saturating_sub(self.last_ns) < QUIET_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;

    /// Counts `packets` every 100 µs for `for_us`; whether they were dense at the end.
    fn dense_after(density: &mut Density, now_ns: &mut u64, for_us: u64, packets: usize) -> bool {
        for _ in 0..for_us / 100 {
            *now_ns += 100 * US;
            density.count(*now_ns, packets);
        }
        density.is_dense(*now_ns)
    }

    #[test]
    fn a_millisecond_of_many_packets_is_dense_and_one_without_is_not() {
        let (mut density, mut now_ns) = (Density::default(), 7_000_000_000);
        density.count(now_ns, 1);
        assert!(!dense_after(&mut density, &mut now_ns, 5_000, 8), "80,000 a second");
        assert!(dense_after(&mut density, &mut now_ns, 2_000, 12), "120,000 a second");
        assert!(density.is_dense(now_ns + 900 * US), "a pause");
        assert!(!density.is_dense(now_ns + 1_000 * US), "the end");
    }

    #[test]
    fn the_first_packets_after_a_long_silence_are_not_dense() {
        let (mut density, mut now_ns) = (Density::default(), 0);
        assert!(dense_after(&mut density, &mut now_ns, 2_000, 64));
        density.count(now_ns + 10_000_000_000, 64);
        assert!(!density.is_dense(now_ns + 10_000_000_000));
    }
}
