//! Base delay: what the path takes when no queue stands in it.

use super::units::SECOND_NS;

/// Length of one of the two windows over which the minimum is taken (transport-study §3.3). A rise of the real delay and the drift of the
/// clocks are forgotten after one to two windows.
const WINDOW_NS: u64 = 15 * SECOND_NS;

/// The least one-way delay of the last 15 to 30 s. One-way delays compare two clocks that share nothing, so only differences mean anything:
/// every delay is an offset from the first one that was ever reported.
#[derive(Clone, Debug)]
pub(super) struct BaseDelay {
    origin_us: Option<u32>,
    /// Least offset of the running and of the previous window, seconds.
    least_s: [f64; 2],
    window_start_ns: u64,
}

impl BaseDelay {
    /// Nothing known yet.
    pub(super) fn new(now_ns: u64) -> Self {
        Self { origin_us: None, least_s: [f64::INFINITY; 2], window_start_ns: now_ns }
    }

    /// A wrapping one-way delay as seconds relative to the first ever seen (good for ± 35 minutes of drift).
    pub(super) fn offset_s(&mut self, one_way_us: u32) -> f64 {
        let origin = *self.origin_us.get_or_insert(one_way_us);
        f64::from(one_way_us.wrapping_sub(origin) as i32) * 1e-6
    }

    /// Takes in an offset made by [`Self::offset_s`].
    pub(super) fn observe(&mut self, offset_s: f64) {
        self.least_s[0] = self.least_s[0].min(offset_s);
    }

    /// Moves the windows on. Not called while somebody else keeps the queue full: the minimum would then rise to the queue.
    pub(super) fn rotate(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.window_start_ns) > WINDOW_NS && self.least_s[0].is_finite() {
            self.least_s = [f64::INFINITY, self.least_s[0]];
            self.window_start_ns = now_ns;
        }
    }

    /// The path has become longer by `excess_s`.
    pub(super) fn raise(&mut self, now_ns: u64, excess_s: f64) {
        if let Some(base) = self.base_s() {
            self.least_s = [f64::INFINITY, base + excess_s];
            self.window_start_ns = now_ns;
        }
    }

    /// The base offset, seconds; `None` before the first report.
    pub(super) fn base_s(&self) -> Option<f64> {
        let least = self.least_s[0].min(self.least_s[1]);
        least.is_finite().then_some(least)
    }

    /// Excess of an offset over the base, seconds; 0 before the first report.
    pub(super) fn excess_s(&self, offset_s: f64) -> f64 {
        self.base_s().map_or(0.0, |base| offset_s - base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_and_forgets() {
        let mut base = BaseDelay::new(0);
        assert_eq!(base.base_s(), None);
        let first = base.offset_s(5);
        assert_eq!(first, 0.0);
        let earlier = base.offset_s(u32::MAX - 4); // ten microseconds less, across the wrap
        assert!((earlier + 10e-6).abs() < 1e-12);
        base.observe(earlier);
        base.rotate(16 * SECOND_NS);
        base.observe(0.004);
        assert!((base.excess_s(0.004) - 0.00401).abs() < 1e-9);
        base.rotate(40 * SECOND_NS);
        base.observe(0.005);
        assert_eq!(base.base_s(), Some(0.004));
    }
}
