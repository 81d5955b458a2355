//! Where values lie on an axis, and the round numbers that stand beside it.

/// Ticks that an axis of usual length has, about.
const TICKS: f64 = 5.0;
/// Fewer round numbers than this on a logarithmic axis, and steps between the powers of ten are named too.
const DECADES_MIN: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From 0, or the least if that is less, to a round number.
    Linear,
    /// The same to the last value.
    Exact,
    /// Values of 0 and less have no place and are put to its beginning.
    Logarithmic,
}

/// From its first to its last value over a length in pixels.
pub(super) struct Axis {
    first: f64,
    last: f64,
    scale: Scale,
    length: f64,
}

impl Axis {
    /// Around all of these values.
    pub(super) fn over(values: impl Iterator<Item = f64>, scale: Scale, length: f64) -> Self {
        let usable = values.filter(|value| value.is_finite() && (scale != Scale::Logarithmic || *value > 0.0));
        let (least, most) = usable.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)));
        let (first, last) = match scale {
            Scale::Logarithmic if least > most => (1.0, 10.0),
            _ if least > most => (0.0, 1.0),
            Scale::Linear => {
                let step = step(most - least.min(0.0));
                (least.min(0.0), (most / step).ceil() * step)
            }
            Scale::Exact => (least.min(0.0), most),
            Scale::Logarithmic => (least / 1.1, most * 1.1),
        };
        // One value alone lies somewhere.
        let last = if last > first { last } else { first + 1.0 };
        Self { first, last, scale, length }
    }

    /// In pixels from the beginning.
    pub(super) fn place(&self, value: f64) -> f64 {
        let value = if value.is_finite() { value.clamp(self.first, self.last) } else { self.first };
        let share = match self.scale {
            Scale::Linear | Scale::Exact => (value - self.first) / (self.last - self.first),
            Scale::Logarithmic => (value / self.first).ln() / (self.last / self.first).ln(),
        };
        share * self.length
    }

    /// Places and what stands there.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let values: Vec<f64> = match self.scale {
            Scale::Linear | Scale::Exact => {
                let step = step(self.last - self.first);
                let (from, to) = ((self.first / step).ceil() as i64, (self.last / step).floor() as i64);
                (from..=to).map(|number| number as f64 * step).collect()
            }
            Scale::Logarithmic => {
                let at = |steps: &[f64]| -> Vec<f64> {
                    let decades = self.first.log10().floor() as i32..=self.last.log10().ceil() as i32;
                    let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
                    all.filter(|value| (self.first..=self.last).contains(value)).collect()
                };
                let powers = at(&[1.0]);
                if powers.len() < DECADES_MIN { at(&[1.0, 2.0, 5.0]) } else { powers }
            }
        };
        values.into_iter().map(|value| (self.place(value), named(value))).collect()
    }
}

/// 1, 2 or 5 times a power of ten.
fn step(range: f64) -> f64 {
    let rough = (range / TICKS).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough * 0.999).unwrap_or(10.0 * power)
}

/// As short as it gets, without what binary fractions leave.
fn named(value: f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    if rounded.abs() >= 10_000.0 { format!("{}k", rounded / 1e3) } else { rounded.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis) -> Vec<String> {
        axis.ticks().into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn a_linear_axis_begins_at_zero_and_ends_at_a_round_number() {
        let axis = Axis::over([441.0, 12.0].into_iter(), Scale::Linear, 100.0);
        assert_eq!(names(&axis), ["0", "100", "200", "300", "400", "500"]);
        assert!((axis.place(250.0) - 50.0).abs() < 1e-9 && axis.place(-3.0).abs() < 1e-9);
        assert_eq!(names(&Axis::over([12.2].into_iter(), Scale::Exact, 1.0)), ["0", "5", "10"]);
        assert_eq!(names(&Axis::over([0.3].into_iter(), Scale::Linear, 1.0)), ["0", "0.1", "0.2", "0.3"]);
    }

    #[test]
    fn a_logarithmic_axis_names_round_numbers() {
        let axis = Axis::over([0.1, 10.0].into_iter(), Scale::Logarithmic, 100.0);
        assert_eq!(names(&axis), ["0.1", "1", "10"]);
        assert!((axis.place(1.0) - 50.0).abs() < 1e-9);
        assert_eq!(names(&Axis::over([10.0, 300.0].into_iter(), Scale::Logarithmic, 1.0)), ["10", "20", "50", "100", "200"]);
    }

    #[test]
    fn no_value_and_one_value_have_an_axis_too() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            let axis = Axis::over(std::iter::empty(), scale, 1.0);
            assert!(!axis.ticks().is_empty() && axis.place(1.0).is_finite());
        }
        for value in [0.0, f64::NAN, f64::INFINITY, 5.0] {
            let axis = Axis::over([value].into_iter(), Scale::Linear, 1.0);
            assert!(!axis.ticks().is_empty() && axis.place(value).is_finite(), "{value}");
        }
        assert!(Axis::over([7.0].into_iter(), Scale::Logarithmic, 1.0).place(7.0).is_finite());
    }
}
