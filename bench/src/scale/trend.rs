//! Whether a series of samples grows: Theil–Sen slope, and what of growth is tolerated.

use serde::Serialize;

/// How much a figure may grow from the end of the warm-up to the end of the soak.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    /// Of its median.
    pub(super) share: f64,
    /// In its own unit; the larger of the two counts.
    pub(super) least: f64,
}

/// What a series did.
#[derive(Clone, Debug, Serialize)]
pub struct Trend {
    /// What was watched.
    pub what: String,
    /// Of `growth` and `median`.
    pub unit: &'static str,
    /// Samples after the warm-up.
    pub samples: usize,
    /// Their median.
    pub median: f64,
    /// The Theil–Sen slope times the time between the first and the last.
    pub growth: f64,
    /// What it may be.
    pub tolerated: f64,
    /// Whether it is no more.
    pub holds: bool,
}

impl Trend {
    /// Of samples: seconds, value. Too few say nothing, and nothing is held against them.
    pub(super) fn of(what: &str, unit: &'static str, samples: &[(f64, f64)], tolerance: Tolerance) -> Self {
        let median = crate::median(samples.iter().map(|sample| sample.1));
        let seconds = match samples {
            [first, .., last] => last.0 - first.0,
            _ => 0.0,
        };
        let growth = slope(samples).map_or(0.0, |slope| slope * seconds);
        let tolerated = (median.abs() * tolerance.share).max(tolerance.least);
        Self { what: what.to_owned(), unit, samples: samples.len(), median, growth, tolerated, holds: growth <= tolerated }
    }
}

impl std::fmt::Display for Trend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, unit, samples, median, growth, tolerated, holds } = self;
        let verdict = if *holds { "holds" } else { "GROWS" };
        write!(
            f,
            "{what:<28} {verdict}  median {median:>9.2}, growth {growth:>+8.2}, tolerated {tolerated:>7.2} {unit} ({samples} samples)"
        )
    }
}

/// The median of the slopes between all pairs of samples: up to 29 % of them may be outliers (Theil 1950, Sen 1968). `None` of fewer than three.
fn slope(samples: &[(f64, f64)]) -> Option<f64> {
    let mut slopes = Vec::with_capacity(samples.len() * samples.len() / 2);
    for (index, &(t0, v0)) in samples.iter().enumerate() {
        slopes.extend(samples[index + 1..].iter().filter(|(t, _)| *t > t0).map(|(t, v)| (v - v0) / (t - t0)));
    }
    (samples.len() > 2 && !slopes.is_empty()).then(|| crate::median(slopes.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENTH: Tolerance = Tolerance { share: 0.1, least: 1.0 };

    fn series(value: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        // Every second, with a disturbance that repeats after 7 and one after 5.
        (0..100).map(|t| (f64::from(t), value(f64::from(t)) + f64::from(t * 3 % 7) * 0.4 + f64::from(t * 2 % 5) * 0.3)).collect()
    }

    #[test]
    fn a_flat_series_holds_whatever_disturbs_it() {
        let mut flat = series(|_| 100.0);
        assert!(Trend::of("flat", "MiB", &flat, TENTH).holds);
        // A quarter of the samples are far off, at the end.
        flat[75..].iter_mut().step_by(2).for_each(|sample| sample.1 = 900.0);
        let trend = Trend::of("spikes", "MiB", &flat, TENTH);
        assert!(trend.holds, "{trend}");
    }

    #[test]
    fn a_growing_series_is_told_by_how_much() {
        let trend = Trend::of("leak", "MiB", &series(|t| 100.0 + 0.5 * t), TENTH);
        assert!(!trend.holds && (trend.growth - 49.5).abs() < 2.0, "{trend}");
        assert!(trend.to_string().contains("GROWS"));
        let slow = Trend::of("slow", "MiB", &series(|t| 100.0 + 0.02 * t), TENTH);
        assert!(slow.holds && slow.growth > 1.0, "{slow}");
    }

    #[test]
    fn growth_just_below_the_tolerance_holds_and_just_above_does_not() {
        let line = |growth: f64| (0..=10).map(|t| (f64::from(t), 100.0 + growth * f64::from(t) / 10.0)).collect::<Vec<_>>();
        let tolerance = Tolerance { share: 0.0, least: 5.0 };
        assert!(Trend::of("a", "MiB", &line(4.99), tolerance).holds);
        assert!(!Trend::of("a", "MiB", &line(5.01), tolerance).holds);
        assert!(Trend::of("a", "MiB", &line(-50.0), tolerance).holds, "less is no growth");
    }

    #[test]
    fn a_median_near_zero_is_measured_by_the_least() {
        let growing: Vec<_> = (0..20).map(|t| (f64::from(t), f64::from(t / 10) * 3.0)).collect();
        assert!(!Trend::of("descriptors", "", &growing, Tolerance { share: 0.1, least: 2.0 }).holds);
        assert!(Trend::of("few", "", &growing[..2], TENTH).holds);
    }
}
