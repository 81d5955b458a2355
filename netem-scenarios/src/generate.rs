//! Scenarios of variable links, made from a seed. They have the shape of such links and claim no more: nothing in them is a recording.

use crate::random::{RandomStreams, Stage};
use crate::scenario::{DirectionSpec, Outage, RateStep, Scenario, ScenarioError};

/// Kinds of variable links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Cellular: the rate walks over eight levels from 1 to 60 Mbit/s every 100 ms, 25 ms each way, half a second of queue.
    Lte,
    /// Low orbit: a rate between 50 and 250 Mbit/s for each 15 s between satellites, an outage of 50 to 150 ms at each change, 20 ms each way.
    Leo,
    /// Geostationary: 600 ms of round trip, 50 Mbit/s down to the server, 10 back, 0.1 % loss.
    Geo,
}

const LTE_LEVELS_MBPS: [f64; 8] = [1.0, 3.0, 6.0, 10.0, 18.0, 28.0, 42.0, 60.0];
const LTE_STEP_MS: u32 = 100;
const LEO_STEP_MS: u32 = 15_000;

/// Makes a scenario of `kind`. Its trace repeats after `seconds` (at least 1; for [`Kind::Leo`] rounded up to whole 15 s).
///
/// # Errors
/// [`ScenarioError`] if `seconds` is 0 or so large that the trace has too many steps.
pub fn generate(kind: Kind, seed: u64, seconds: u32) -> Result<Scenario, ScenarioError> {
    let random = RandomStreams::new(seed, 0);
    match kind {
        Kind::Lte => {
            let steps = u64::from(seconds) * 1000 / u64::from(LTE_STEP_MS);
            let mut level = 4usize;
            let rate_trace = (0..steps)
                .map(|n| {
                    // A lazy walk with reflecting ends: down, up, or mostly stay.
                    match random.unit(Stage::State, n) {
                        u if u < 0.2 => level = level.saturating_sub(1),
                        u if u < 0.4 => level = (level + 1).min(LTE_LEVELS_MBPS.len() - 1),
                        _ => {}
                    }
                    RateStep { t_ms: n as f64 * f64::from(LTE_STEP_MS), mbps: LTE_LEVELS_MBPS[level] }
                })
                .collect();
            let forward = DirectionSpec {
                delay_ms: 25.0,
                jitter_ms: 4.0,
                jitter_keeps_order: true,
                queue_ms: Some(500.0),
                rate_trace,
                rate_trace_period_ms: Some(f64::from(seconds) * 1000.0),
                ..DirectionSpec::default()
            };
            Scenario::new(
                "lte-generated",
                "Cellular link: an eight-level Markov walk of the rate. Generated, not recorded.",
                seed,
                forward,
                None,
            )
        }
        Kind::Leo => {
            let steps = (u64::from(seconds) * 1000).div_ceil(u64::from(LEO_STEP_MS));
            let period_ms = steps as f64 * f64::from(LEO_STEP_MS);
            let at = |n: u64| n as f64 * f64::from(LEO_STEP_MS);
            let rate_trace =
                (0..steps).map(|n| RateStep { t_ms: at(n), mbps: (50.0 + 200.0 * random.unit(Stage::State, n)).round() }).collect();
            let outages = (0..steps)
                .map(|n| Outage {
                    start_ms: at(n + 1),
                    duration_ms: (50.0 + 100.0 * random.unit(Stage::Loss, n)).round(),
                    every_ms: Some(period_ms),
                })
                .collect();
            let forward = DirectionSpec {
                delay_ms: 20.0,
                jitter_ms: 3.0,
                jitter_keeps_order: true,
                loss: Some(0.002),
                queue_ms: Some(100.0),
                rate_trace,
                rate_trace_period_ms: Some(period_ms),
                outages,
                ..DirectionSpec::default()
            };
            Scenario::new(
                "leo-generated",
                "Low-orbit satellite: another rate every 15 s, an outage at each hand-over. Generated, not recorded.",
                seed,
                forward,
                None,
            )
        }
        Kind::Geo => {
            let forward = DirectionSpec {
                rate_bps: Some(50_000_000),
                delay_ms: 300.0,
                loss: Some(0.001),
                queue_ms: Some(600.0),
                ..DirectionSpec::default()
            };
            let reverse = DirectionSpec { rate_bps: Some(10_000_000), ..forward.clone() };
            Scenario::new(
                "geo-generated",
                "Geostationary satellite, 600 ms of round trip. Generated, not recorded.",
                seed,
                forward,
                Some(reverse),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_scenarios_read_back_the_same_and_vary_with_the_seed() {
        for kind in [Kind::Lte, Kind::Leo, Kind::Geo] {
            let scenario = generate(kind, 5, 60).expect("generates");
            assert_eq!(Scenario::from_toml(&scenario.to_toml()).expect("reads back"), scenario);
            assert_ne!(generate(kind, 6, 60).expect("generates"), scenario);
        }
    }

    #[test]
    fn low_orbit_has_an_outage_at_each_hand_over() {
        let scenario = generate(Kind::Leo, 1, 60).expect("generates");
        let outages = scenario.forward().outages();
        for hand_over in 1..=8u64 {
            assert!(outages.contains(hand_over * 15_000_000_000), "hand-over {hand_over}");
            assert!(!outages.contains(hand_over * 15_000_000_000 + 151_000_000), "hand-over {hand_over}");
        }
    }

    #[test]
    fn no_seconds_are_refused() {
        assert!(generate(Kind::Lte, 1, 0).is_err());
    }
}
