//! Averages of noisy measurements.

/// Mean and variance over about the last `memory` values: exact until then, exponential after it (transport-study §3.3, `ew(n)`).
#[derive(Clone, Debug)]
pub(super) struct RunningMean {
    mean: f64,
    variance: f64,
    count: f64,
    memory: f64,
}

impl RunningMean {
    /// An empty average that remembers about `memory` values.
    pub(super) fn new(memory: f64) -> Self {
        Self { mean: 0.0, variance: 0.0, count: 0.0, memory }
    }

    /// Takes one value in.
    pub(super) fn add(&mut self, value: f64) {
        self.count = (self.count + 1.0).min(self.memory);
        let weight = 1.0 / self.count;
        let difference = value - self.mean;
        self.mean += weight * difference;
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.memory);
    }

    /// The mean; 0 while empty.
    pub(super) fn mean(&self) -> f64 {
        self.mean
    }

    /// How many values count, at most the memory.
    pub(super) fn count(&self) -> f64 {
        self.count
    }

    /// Standard deviation of the values.
    pub(super) fn deviation(&self) -> f64 {
        self.variance.max(0.0).sqrt()
    }

    /// Standard error of the mean; very large while there are fewer than four values.
    pub(super) fn error(&self) -> f64 {
        if self.count < 4.0 { 1e9 } else { (self.variance.max(0.0) / (self.count - 1.0)).sqrt() }
    }
}

/// How many values a [`TrimmedMean`] looks back.
const TRIMMED_MEMORY: usize = 8;

/// Mean of the middle half of the last eight values: a host that oversleeps spoils single values by many times their spread, and those must
/// not count at all.
#[derive(Clone, Debug)]
pub(super) struct TrimmedMean {
    values: [f64; TRIMMED_MEMORY],
    length: usize,
    next: usize,
}

impl TrimmedMean {
    /// Starts as if `value` had been measured three times, so that the first real values move it but do not decide.
    pub(super) fn starting_at(value: f64) -> Self {
        Self { values: [value; TRIMMED_MEMORY], length: 3, next: 3 }
    }

    /// Takes one value in and lets the oldest go.
    pub(super) fn add(&mut self, value: f64) {
        self.values[self.next] = value;
        self.next = (self.next + 1) % TRIMMED_MEMORY;
        self.length = (self.length + 1).min(TRIMMED_MEMORY);
    }

    /// Whether the starting value has been displaced entirely.
    pub(super) fn is_full(&self) -> bool {
        self.length == TRIMMED_MEMORY
    }

    /// The mean without the lowest and highest quarter.
    pub(super) fn mean(&self) -> f64 {
        let mut sorted = self.values;
        let sorted = &mut sorted[..self.length];
        sorted.sort_unstable_by(f64::total_cmp);
        let cut = self.length / 4;
        let middle = &sorted[cut..self.length - cut];
        middle.iter().sum::<f64>() / middle.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_mean_is_exact_then_forgets() {
        let mut average = RunningMean::new(4.0);
        for value in [1.0, 2.0, 3.0, 4.0] {
            average.add(value);
        }
        assert!((average.mean() - 2.5).abs() < 1e-12);
        assert!((average.deviation() - 1.25f64.sqrt()).abs() < 1e-12);
        for _ in 0..100 {
            average.add(9.0);
        }
        assert!((average.mean() - 9.0).abs() < 1e-6);
        average.clear();
        assert_eq!(average.count(), 0.0);
    }

    #[test]
    fn trimmed_mean_ignores_outliers() {
        let mut average = TrimmedMean::starting_at(0.5);
        for value in [1.0, 1.0, 40.0, 1.0, 1.0, -40.0, 1.0, 1.0] {
            average.add(value);
        }
        assert!(average.is_full());
        assert!((average.mean() - 1.0).abs() < 1e-12);
    }
}
