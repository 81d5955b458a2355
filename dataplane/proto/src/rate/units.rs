//! Conversions between the interface's integers and the control law's floats, and the numbers every module shares.

/// Nanoseconds in a second.
pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// Relative amplitude of the dither: the rate alternates between `1 + DITHER` and `1 - DITHER` (transport-study §3.2, g).
pub(super) const DITHER: f64 = 0.10;

/// Nominal length of half a dither period, seconds (transport-study §3.2, h). With [`DITHER`] it swings a full queue by 2.5 ms, which fits a
/// queue of 10 ms.
pub(super) const HALF_PERIOD_S: f64 = 0.025;

/// What passes while there is evidence of a saturated queue: shortest time between two rate updates, seconds (transport-study §3.3, 2h).
pub(super) const ROUND_LEAST_S: f64 = 2.0 * HALF_PERIOD_S;

/// A duration in seconds.
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

/// A duration in nanoseconds; negative, infinite or not-a-number becomes 0 or the longest duration that is used here (one hour).
pub(super) fn nanoseconds(seconds: f64) -> u64 {
    // A float that is no number converts to 0.
    (seconds * 1e9).clamp(0.0, 3600.0 * 1e9) as u64
}

/// `value` within `[least, most]`; never panics (unlike [`f64::clamp`]); not-a-number becomes `least`, and `most` wins over `least`.
pub(super) fn within(value: f64, least: f64, most: f64) -> f64 {
    value.max(least).min(most)
}

/// The middle value of a slice, which is sorted in place; 0 for an empty slice.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_survive_what_arithmetic_may_produce() {
        assert_eq!(nanoseconds(-1.0), 0);
        assert_eq!(nanoseconds(f64::NAN), 0);
        assert_eq!(nanoseconds(f64::INFINITY), 3600 * SECOND_NS);
        assert_eq!(nanoseconds(0.25), 250_000_000);
        assert_eq!(within(f64::NAN, 1.0, 2.0), 1.0);
        assert_eq!(within(5.0, 3.0, 2.0), 2.0);
    }

    #[test]
    fn median_of_few() {
        assert_eq!(median(&mut []), 0.0);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
    }
}
