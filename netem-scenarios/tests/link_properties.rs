//! Properties of the link that hold for any scenario and any arrivals.

use proptest::prelude::*;
use tradewind_netem::scenario::{DirectionSpec, GilbertElliott, Outage, RateStep, Scenario};
use tradewind_netem::{DropReason, Link, Verdict, Way};

fn direction() -> impl Strategy<Value = DirectionSpec> {
    let rate = prop_oneof![
        Just((None, Vec::new(), None)),
        (100_000u64..1_000_000_000).prop_map(|bps| (Some(bps), Vec::new(), Some(20_000u64))),
        (1u32..200, 0u32..100).prop_map(|(a, b)| {
            let steps = vec![
                RateStep { t_ms: 0.0, mbps: f64::from(a) },
                RateStep { t_ms: 7.0, mbps: f64::from(b) },
                RateStep { t_ms: 20.0, mbps: 3.0 },
            ];
            (None, steps, Some(50_000))
        }),
    ];
    let loss = prop_oneof![
        (0.0..1.0f64).prop_map(|p| (Some(p), None)),
        (0.0..0.5f64, 0.1..1.0f64).prop_map(|(good_to_bad, bad_to_good)| (
            None,
            Some(GilbertElliott { good_to_bad, bad_to_good, loss_good: 0.01, loss_bad: 0.9 })
        )),
    ];
    (rate, loss, 0.0..20.0f64, 0.0..1.0f64, any::<bool>(), 0.0..0.3f64, 0.0..0.3f64, any::<bool>()).prop_map(
        |(
            (rate_bps, rate_trace, queue_bytes),
            (loss, gilbert_elliott),
            delay_ms,
            jitter,
            jitter_keeps_order,
            reorder,
            duplicate,
            outage,
        )| {
            DirectionSpec {
                rate_bps,
                rate_trace,
                queue_bytes,
                loss,
                gilbert_elliott,
                delay_ms,
                jitter_ms: delay_ms * jitter,
                jitter_keeps_order,
                reorder,
                reorder_extra_ms: (reorder > 0.0).then_some(1.0),
                duplicate,
                outages: if outage { vec![Outage { start_ms: 3.0, duration_ms: 2.0, every_ms: Some(11.0) }] } else { Vec::new() },
                ..DirectionSpec::default()
            }
        },
    )
}

/// Arrivals as (gap in nanoseconds, bytes).
fn arrivals() -> impl Strategy<Value = Vec<(u64, u32)>> {
    proptest::collection::vec((0u64..500_000, 60u32..1519), 1..400)
}

fn play(scenario: &Scenario, start_ns: u64, arrivals: &[(u64, u32)]) -> Vec<(u64, Verdict)> {
    let mut link = Link::new(scenario, Way::Forward, start_ns);
    let mut now = start_ns;
    arrivals
        .iter()
        .map(|&(gap, bytes)| {
            now += gap;
            (now, link.offer(now, bytes))
        })
        .collect()
}

proptest! {
    #[test]
    fn same_seed_same_decisions_and_time_is_relative(spec in direction(), seed: u64, arrivals in arrivals(), shift in 0u64..1_000_000_000_000) {
        let scenario = Scenario::new("p", "", seed, spec, None).expect("the strategy makes valid directions");
        let here = play(&scenario, 0, &arrivals);
        prop_assert_eq!(&here, &play(&scenario, 0, &arrivals));
        let there: Vec<_> = play(&scenario, shift, &arrivals).into_iter().map(|(now, verdict)| (now - shift, match verdict {
            Verdict::Deliver { due_ns, duplicate_due_ns } => Verdict::Deliver { due_ns: due_ns - shift, duplicate_due_ns: duplicate_due_ns.map(|d| d - shift) },
            other => other,
        })).collect();
        prop_assert_eq!(here, there);
    }

    #[test]
    fn nothing_arrives_before_it_was_sent_plus_the_least_delay(spec in direction(), seed: u64, arrivals in arrivals()) {
        let scenario = Scenario::new("p", "", seed, spec, None).expect("valid");
        let least = Link::new(&scenario, Way::Forward, 0).hold_ns_min();
        for (now, verdict) in play(&scenario, 0, &arrivals) {
            if let Verdict::Deliver { due_ns, duplicate_due_ns } = verdict {
                prop_assert!(due_ns >= now + least);
                prop_assert!(duplicate_due_ns.is_none_or(|second| second >= now + least));
            }
        }
    }

    /// The reference: a queue that is emptied by a rate in floating point, one packet at a time.
    #[test]
    fn the_bottleneck_agrees_with_a_fluid_model(bps in 1_000_000u64..1_000_000_000, queue_bytes in 1514u64..100_000, arrivals in arrivals()) {
        let spec = DirectionSpec { rate_bps: Some(bps), queue_bytes: Some(queue_bytes), ..DirectionSpec::default() };
        let scenario = Scenario::new("p", "", 1, spec, None).expect("valid");
        let mut backlog_bytes = 0.0f64;
        let mut before = 0;
        for ((now, verdict), &(_, bytes)) in play(&scenario, 0, &arrivals).into_iter().zip(&arrivals) {
            backlog_bytes = (backlog_bytes - (now - before) as f64 * bps as f64 / 8e9).max(0.0);
            before = now;
            match verdict {
                Verdict::Deliver { due_ns, .. } => {
                    backlog_bytes += f64::from(bytes);
                    let expected = now as f64 + backlog_bytes * 8e9 / bps as f64;
                    prop_assert!((due_ns as f64 - expected).abs() < 3.0, "due {due_ns}, expected {expected}");
                    prop_assert!(backlog_bytes <= queue_bytes as f64 + 1.0);
                }
                Verdict::Drop(reason) => {
                    prop_assert_eq!(reason, DropReason::Queue);
                    // Whole frames count until their last bit has left: the fluid backlog may be short by less than one frame.
                    prop_assert!(backlog_bytes + f64::from(bytes) + 1519.0 > queue_bytes as f64);
                }
            }
        }
    }

    #[test]
    fn jitter_that_keeps_order_keeps_it(seed: u64, jitter_ms in 0.0..10.0f64, arrivals in arrivals()) {
        let spec = DirectionSpec { delay_ms: 10.0, jitter_ms, jitter_keeps_order: true, ..DirectionSpec::default() };
        let scenario = Scenario::new("p", "", seed, spec, None).expect("valid");
        let dues: Vec<u64> = play(&scenario, 0, &arrivals).into_iter().map(|(_, v)| match v {
            Verdict::Deliver { due_ns, .. } => due_ns,
            Verdict::Drop(reason) => panic!("dropped for {reason:?}"),
        }).collect();
        prop_assert!(dues.is_sorted());
    }
}
