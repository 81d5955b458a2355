//! Sharing a capacity: pure arithmetic, no time, no lanes.

/// What one transfer needs and may have. Rates in one unit, whatever it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Want {
    /// Its weight beside the others, above 0.
    pub(super) weight: f64,
    /// Comes first, as far as it is wanted.
    pub(super) minimum: u64,
    /// What it would use now.
    pub(super) demand: u64,
    /// What it may have at most.
    pub(super) ceiling: u64,
}

/// Shares out `capacity`: minimum rates first, then by weight up to what each wants, then what nobody wants by weight up to
/// what each may have. The sum is never above `capacity`, and below `min(capacity, sum of ceilings)` by less than one unit for
/// each transfer.
pub(super) fn shares(capacity: u64, wants: &[Want]) -> Vec<u64> {
    let demand = |want: &Want| want.demand.min(want.ceiling);
    if sum(wants.iter().map(demand)) >= capacity {
        fill(capacity, wants, |want| want.minimum.min(demand(want)), demand)
    } else {
        fill(capacity, wants, demand, |want| want.ceiling)
    }
}

/// Water-filling: each gets `weight × level`, but at least `low` and at most `high`, with the level at which the capacity is
/// used up. If not even the least fits, the least is cut in proportion.
fn fill(capacity: u64, wants: &[Want], low: impl Fn(&Want) -> u64, high: impl Fn(&Want) -> u64) -> Vec<u64> {
    let least = sum(wants.iter().map(&low));
    if least > capacity {
        return wants.iter().map(|want| scaled(low(want), capacity, least)).collect();
    }
    if sum(wants.iter().map(&high)) <= capacity {
        return wants.iter().map(high).collect();
    }
    let at = |want: &Want, level: f64| ((want.weight * level) as u64).max(low(want)).min(high(want));
    // The sum grows with the level; `full` is always a level at which it fits.
    let mut full = 0.0;
    let mut over = wants.iter().map(|want| (high(want) as f64 + 1.0) / want.weight).fold(0.0, f64::max);
    for _ in 0..96 {
        let middle = 0.5 * (full + over);
        if sum(wants.iter().map(|want| at(want, middle))) <= capacity { full = middle } else { over = middle }
    }
    wants.iter().map(|want| at(want, full)).collect()
}

fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

/// `value × numerator ÷ denominator`, rounded down.
pub(super) fn scaled(value: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(numerator) / u128::from(denominator.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn want(weight: f64, minimum: u64, demand: u64, ceiling: u64) -> Want {
        Want { weight, minimum, demand, ceiling }
    }

    const ALL: u64 = 100_000;

    #[test]
    fn weights_share_what_all_want() {
        let shares = shares(ALL, &[want(1.0, 0, ALL, ALL), want(2.0, 0, ALL, ALL), want(0.5, 0, ALL, ALL)]);
        for (share, expected) in shares.iter().zip([28_571, 57_142, 14_285]) {
            assert!(share.abs_diff(expected) <= 1, "{shares:?}");
        }
    }

    #[test]
    fn what_one_does_not_want_the_others_get() {
        assert_eq!(shares(ALL, &[want(1.0, 0, 10_000, ALL), want(1.0, 0, ALL, ALL)]), [10_000, 90_000]);
        assert_eq!(shares(ALL, &[want(1.0, 0, ALL, 20_000), want(1.0, 0, ALL, ALL)]), [20_000, 80_000]);
        assert_eq!(
            shares(ALL, &[want(1.0, 0, 10_000, ALL), want(1.0, 0, 20_000, ALL)]),
            [50_000, 50_000],
            "what nobody wants is room to grow"
        );
        assert_eq!(shares(ALL, &[want(0.5, 0, 0, ALL)]), [ALL], "one alone has all");
        assert_eq!(shares(ALL, &[]), [0; 0]);
    }

    #[test]
    fn minimum_rates_come_first_as_far_as_they_are_wanted() {
        assert_eq!(shares(ALL, &[want(0.5, 60_000, ALL, ALL), want(2.0, 0, ALL, ALL)]), [60_000, 40_000]);
        assert_eq!(shares(ALL, &[want(0.5, 60_000, 5_000, ALL), want(2.0, 0, ALL, ALL)]), [5_000, 95_000]);
        assert_eq!(
            shares(ALL, &[want(1.0, ALL, ALL, ALL), want(1.0, ALL, ALL, ALL)]),
            [50_000, 50_000],
            "promised too much: in proportion"
        );
    }

    fn wants() -> impl Strategy<Value = Vec<Want>> {
        let rate = prop_oneof![Just(0u64), 1u64..2_000, 0u64..5_000_000, Just(u64::from(u32::MAX))];
        let one = (0.01f64..100.0, rate.clone(), rate.clone(), rate)
            .prop_map(|(weight, minimum, demand, ceiling)| want(weight, minimum, demand, ceiling));
        proptest::collection::vec(one, 0..40)
    }

    proptest! {
        #[test]
        fn never_above_the_capacity_and_never_idle(capacity in 0u64..10_000_000, wants in wants()) {
            let shares = shares(capacity, &wants);
            let total: u64 = shares.iter().sum();
            prop_assert!(total <= capacity);
            let possible = sum(wants.iter().map(|want| want.ceiling)).min(capacity);
            prop_assert!(total + wants.len() as u64 >= possible, "{total} of {possible}");
            for (share, want) in shares.iter().zip(&wants) {
                prop_assert!(*share <= want.ceiling);
            }
        }

        #[test]
        fn minimum_rates_that_fit_are_kept(more in 0u64..10_000_000, wants in wants()) {
            let capacity = sum(wants.iter().map(|want| want.minimum)) + more;
            for (share, want) in shares(capacity, &wants).iter().zip(&wants) {
                prop_assert!(*share >= want.minimum.min(want.demand).min(want.ceiling));
            }
        }

        #[test]
        fn who_gets_less_than_wanted_gets_by_weight(capacity in 0u64..10_000_000, wants in wants()) {
            let shares = shares(capacity, &wants);
            let mut levels = Vec::new();
            for (share, want) in shares.iter().zip(&wants) {
                let demand = want.demand.min(want.ceiling);
                if *share < demand && *share > want.minimum {
                    levels.push((*share as f64 / want.weight, 1.0 / want.weight));
                }
            }
            for pair in levels.windows(2) {
                let ((one, step), (other, other_step)) = (pair[0], pair[1]);
                prop_assert!((one - other).abs() <= step + other_step + 1e-6 * one, "{one} {other}");
            }
        }
    }
}
