//! The controller against a simulated bottleneck, and against a peer that lies.

mod simulator;

use simulator::{MS, PACKET_BYTES, Simulator, World};

use super::random::Random;
use super::*;

const NO_CAP: u64 = 5_000_000_000;

fn demo_world(noisy: bool) -> World {
    World { mbit_per_s: 300.0, rtt_ms: 100.0, loss: 0.05, queue_ms: 100.0, noisy, seed: 1 }
}

/// 256 MiB at 300 Mbit/s, RTT 100 ms, 5 % loss each way: the whole transfer, start-up and one round trip of tail included.
#[test]
fn whole_transfer_of_the_demo() {
    let packets = (256u64 << 20).div_ceil(1_404);
    for noisy in [false, true] {
        for seed in 1..=3 {
            let mut simulator = Simulator::new(World { seed, ..demo_world(noisy) });
            simulator.add_lane(Policy::Fair, NO_CAP, 0);
            let end_ns = simulator.run(30_000, packets);
            let seconds = end_ns as f64 * 1e-9 + 0.1;
            let ratio = packets as f64 * f64::from(PACKET_BYTES) * 8.0 / (seconds * 300e6 * 0.95);
            let overflow = simulator.lanes[0].overflowed as f64 / simulator.lanes[0].sent as f64;
            let start = simulator.time_to_90_ms(0);
            println!("demo noisy={noisy} seed={seed}: {seconds:.2} s, ratio {ratio:.3}, 90 % after {start:?} ms, overflow {overflow:.4}");
            assert!(ratio >= 0.90, "{ratio}");
        }
    }
}

/// Steady goodput, queue and start-up over a grid.
#[test]
fn grid() {
    println!("Mbit/s RTT loss queue noisy | steady  whole  t90(ms)  t90/RTT  q50(ms)  overflow");
    let mut misses = Vec::new();
    let rates = [10.0, 100.0, 300.0, 1_000.0];
    let paths = [(2.0, 0.0, 10.0), (2.0, 0.05, 100.0), (20.0, 0.01, 10.0), (20.0, 0.3, 100.0), (100.0, 0.0, 10.0), (100.0, 0.05, 100.0)];
    let long = [(100.0, 0.3, 10.0), (300.0, 0.01, 100.0), (300.0, 0.2, 10.0), (300.0, 0.3, 100.0)];
    let cells = rates.iter().flat_map(|rate| paths.iter().chain(&long).map(move |path| (*rate, path.0, path.1, path.2)));
    for (mbit_per_s, rtt_ms, loss, queue_ms) in cells {
        for noisy in [false, true] {
            let seed = std::env::var("RATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
            let world = World { mbit_per_s, rtt_ms, loss, queue_ms, noisy, seed };
            let mut simulator = Simulator::new(world);
            simulator.add_lane(Policy::Fair, NO_CAP, 0);
            let end_ms = if rtt_ms >= 300.0 || mbit_per_s <= 10.0 { 16_000 } else { 11_000 };
            let steady_ms = if rtt_ms >= 300.0 || mbit_per_s <= 10.0 { 6_000 } else { 3_000 };
            simulator.run(end_ms, u64::MAX);
            let steady = simulator.utilisation(0, steady_ms, end_ms - 500);
            let whole = simulator.utilisation(0, 0, end_ms - 500);
            let start_ms = simulator.time_to_90_ms(0).unwrap_or(u64::MAX);
            let queue = simulator.queue_median_ms(steady_ms);
            let overflow = simulator.lanes[0].overflowed as f64 / simulator.lanes[0].sent as f64;
            println!(
                "{mbit_per_s:6} {rtt_ms:4} {loss:4} {queue_ms:4} {noisy:5} | {steady:.3}  {whole:.3}  {start_ms:6}  {:7.1}  {queue:6.2}  {overflow:.4}",
                start_ms as f64 / rtt_ms
            );
            // Known miss: a queue of eight packets, much loss and hosts that wake up late.
            let known_miss = noisy && (mbit_per_s, queue_ms) == (10.0, 10.0) && loss >= 0.2;
            if steady < if known_miss { 0.90 } else { 0.97 } || queue > 10.0 {
                misses.push((world, steady, queue));
            }
        }
    }
    assert!(misses.is_empty(), "below the bar: {misses:#?}");
}

/// Two lanes on one bottleneck, the second 8 s later: an even share (Jain index) without loss of use.
#[test]
fn two_lanes_share_evenly() {
    for (mbit_per_s, rtt_ms, loss, queue_ms, noisy) in [
        (100.0, 20.0, 0.0, 100.0, false),
        (100.0, 100.0, 0.01, 100.0, true),
        (300.0, 10.0, 0.05, 10.0, true),
        (300.0, 100.0, 0.0, 10.0, false),
    ] {
        let mut simulator = Simulator::new(World { mbit_per_s, rtt_ms, loss, queue_ms, noisy, seed: 3 });
        simulator.add_lane(Policy::Fair, NO_CAP, 0);
        simulator.add_lane(Policy::Fair, NO_CAP, 8_000);
        simulator.run(50_000, u64::MAX);
        let shares = [simulator.utilisation(0, 35_000, 49_500), simulator.utilisation(1, 35_000, 49_500)];
        let sum: f64 = shares.iter().sum();
        let jain = sum * sum / (2.0 * shares.iter().map(|share| share * share).sum::<f64>());
        println!(
            "two lanes {mbit_per_s} Mbit/s RTT {rtt_ms} loss {loss} queue {queue_ms} noisy {noisy}: {:.3} + {:.3}, Jain {jain:.3}",
            shares[0], shares[1]
        );
        assert!(jain >= 0.95, "{jain}");
        assert!(sum >= 0.97, "{sum}");
    }
}

/// Who is alone gives hardly anything away to dips, at any rate, and still shares with a newcomer.
#[test]
fn a_lane_alone_has_the_whole_link_until_another_comes() {
    for (mbit_per_s, least) in [(10.0, 0.994), (300.0, 0.998)] {
        let world = World { mbit_per_s, rtt_ms: 20.0, loss: 0.01, queue_ms: 100.0, noisy: false, seed: 4 };
        let mut simulator = Simulator::new(world);
        simulator.add_lane(Policy::Fair, NO_CAP, 0);
        simulator.add_lane(Policy::Fair, NO_CAP, 95_000);
        simulator.run(150_000, u64::MAX);
        let alone = simulator.utilisation(0, 25_000, 94_500);
        let shares = [simulator.utilisation(0, 120_000, 149_500), simulator.utilisation(1, 120_000, 149_500)];
        let sum: f64 = shares.iter().sum();
        let jain = sum * sum / (2.0 * shares.iter().map(|share| share * share).sum::<f64>());
        println!("{mbit_per_s} Mbit/s: alone {alone:.4}, then {shares:.3?}, Jain {jain:.3}");
        assert!(alone >= least, "{alone}");
        assert!(jain >= 0.95, "{shares:?}");
    }
}

/// Random loss that jumps must not cost rate; overflow that was ours must not be taken for random.
#[test]
fn a_jump_of_random_loss_is_recognised() {
    for (rtt_ms, before, after) in [(20.0, 0.0, 0.05), (100.0, 0.0, 0.2), (100.0, 0.01, 0.3)] {
        let mut simulator = Simulator::new(World { mbit_per_s: 100.0, rtt_ms, loss: before, queue_ms: 100.0, noisy: true, seed: 5 });
        simulator.add_lane(Policy::Fair, NO_CAP, 0);
        simulator.run(8_000, u64::MAX);
        simulator.set_loss(after);
        simulator.run(20_000, u64::MAX);
        let use_after = simulator.utilisation(0, 8_500, 19_500);
        let known = simulator.lanes[0].controller.random_loss();
        println!("loss {before} -> {after}, RTT {rtt_ms} ms: {use_after:.3} of the bound, random level {known:.3}");
        assert!(use_after >= 0.93, "{use_after}");
        assert!((known - after).abs() < 0.04, "{known}");
    }
}

/// Without data the rate neither grows nor collapses, and the limiter says why.
#[test]
fn a_starving_source_is_not_mistaken_for_the_network() {
    let mut simulator = Simulator::new(World { mbit_per_s: 100.0, rtt_ms: 50.0, loss: 0.01, queue_ms: 100.0, noisy: true, seed: 9 });
    simulator.add_lane(Policy::Fair, NO_CAP, 0);
    simulator.run(4_000, u64::MAX);
    for pause in 0..10 {
        let from_ms = 4_000 + 200 * pause;
        simulator.lanes[0].starved_ns = Some((from_ms * MS, (from_ms + 120) * MS));
        simulator.run(from_ms + 119, u64::MAX);
        assert_eq!(simulator.lanes[0].controller.limiter(), Limiter::Source);
        simulator.run(from_ms + 200, u64::MAX);
    }
    let rate = simulator.lanes[0].controller.state().network_bytes_per_s * 8e-6;
    println!("after 2 s of pauses: {rate:.1} Mbit/s");
    assert!((80.0..115.0).contains(&rate), "{rate}");
    simulator.run(9_000, u64::MAX);
    assert!(simulator.utilisation(0, 6_500, 8_500) >= 0.95);
}

/// A source that has nothing for 5 ms of each 40, and all that is asked of it in between, fills the path.
#[test]
fn a_source_that_pauses_for_moments_does_not_keep_the_lane_from_growing() {
    let mut simulator = Simulator::new(World { mbit_per_s: 50.0, rtt_ms: 20.0, loss: 0.0, queue_ms: 100.0, noisy: false, seed: 9 });
    simulator.add_lane(Policy::Fair, NO_CAP, 0);
    simulator.run(3_000, u64::MAX);
    simulator.set_rate(100.0);
    for pause in 0..150 {
        let from_ms = 3_000 + 40 * pause;
        simulator.lanes[0].starved_ns = Some((from_ms * MS, (from_ms + 5) * MS));
        simulator.run(from_ms + 40, u64::MAX);
    }
    let state = simulator.lanes[0].controller.state();
    println!("{:.1} Mbit/s, {:?}", state.network_bytes_per_s * 8e-6, state.mode);
    assert_eq!(state.mode, Mode::Cruise);
    assert!(state.network_bytes_per_s * 8e-6 >= 90.0, "{state:?}");
}

/// After a pause of seconds the lane starts from half its rate and is back within a few round trips.
#[test]
fn a_long_pause_halves_the_rate_for_a_moment() {
    let mut simulator = Simulator::new(World { mbit_per_s: 100.0, rtt_ms: 50.0, loss: 0.01, queue_ms: 100.0, noisy: true, seed: 9 });
    simulator.add_lane(Policy::Fair, NO_CAP, 0);
    simulator.lanes[0].starved_ns = Some((4_000 * MS, 7_000 * MS));
    simulator.run(7_010, u64::MAX);
    let state = simulator.lanes[0].controller.state();
    assert_eq!(state.mode, Mode::StartUp);
    assert!((4e6..8e6).contains(&state.network_bytes_per_s), "{state:?}");
    simulator.run(10_000, u64::MAX);
    let back = simulator.utilisation(0, 7_500, 9_900);
    println!("after a pause of 3 s: {back:.3} of the bound from 0.5 s on");
    assert!(back >= 0.95, "{back}");
}

/// `fixed` sends at its target whatever is lost; the brake acts on silence and lets go.
#[test]
fn fixed_keeps_its_target_until_silence() {
    let mut simulator = Simulator::new(World { mbit_per_s: 50.0, rtt_ms: 50.0, loss: 0.3, queue_ms: 20.0, noisy: false, seed: 9 });
    simulator.add_lane(Policy::Fixed, 12_500_000, 0);
    simulator.run(3_000, u64::MAX);
    let sent = simulator.lanes[0].sent as f64 * f64::from(PACKET_BYTES) / 3.0;
    assert!((12.2e6..=12.6e6).contains(&sent), "{sent}");
    let controller = &mut simulator.lanes[0].controller;
    assert_eq!(controller.limiter(), Limiter::Target);
    controller.on_probe_timeout(4_000 * MS);
    assert_eq!(controller.rate_bytes_per_s(), 8_750_000);
    controller.on_probe_timeout(7_000 * MS);
    assert!(controller.rate_bytes_per_s() < 50_000, "a packet per round trip");
    controller.on_feedback(7_100 * MS, 50 * MS, &[], 0, 0, 0);
    assert_eq!(controller.rate_bytes_per_s(), 12_500_000);
}

/// Targets below the path are held exactly: never more than the target, hardly less.
#[test]
fn targets_and_limits_are_held() {
    let mut simulator = Simulator::new(World { mbit_per_s: 100.0, rtt_ms: 50.0, loss: 0.05, queue_ms: 100.0, noisy: true, seed: 2 });
    simulator.add_lane(Policy::Fair, 5_000_000, 0);
    simulator.run(5_000, u64::MAX);
    let bound = 0.4;
    let reached = simulator.utilisation(0, 1_000, 4_900) / bound;
    assert!((0.95..=1.01).contains(&reached), "{reached}");
    assert_eq!(simulator.lanes[0].controller.limiter(), Limiter::Target);
    simulator.lanes[0].controller.set_storage_limit(Some(2_500_000));
    assert_eq!(simulator.lanes[0].controller.limiter(), Limiter::Storage);
    simulator.run(8_000, u64::MAX);
    let reached = simulator.utilisation(0, 5_500, 7_900) / 0.2;
    assert!((0.95..=1.01).contains(&reached), "{reached}");
    simulator.lanes[0].controller.set_storage_limit(None);
    simulator.run(10_000, u64::MAX);
    assert!(simulator.utilisation(0, 8_500, 9_900) / bound >= 0.95);
}

/// An authenticated peer may report anything: no panic, no nonsense, never above the target, and always a next packet.
#[test]
fn hostile_feedback_cannot_break_the_controller() {
    let policies = [Policy::Fixed, Policy::High, Policy::Fair, Policy::Low];
    for seed in 0..400u64 {
        let mut random = Random::new(seed);
        let mut any = |most: u64| (random.unit() * most as f64) as u64;
        let target = [0, 1, 1_000, 2_000_000, u64::MAX][any(5) as usize];
        let config = RateConfig {
            policy: policies[any(4) as usize],
            target_bytes_per_s: target,
            minimum_bytes_per_s: [0, 500, u64::MAX][any(3) as usize],
            packet_bytes: [0, 1_500, 9_000, u32::MAX][any(4) as usize],
            seed,
            initial_rtt_ns: [0, 50 * MS, u64::MAX][any(3) as usize],
        };
        let mut now_ns = any(1 << 40);
        let mut controller = RateController::new(config, now_ns);
        let (mut packet, mut last) = (0u64, 0u64);
        for _ in 0..300 {
            now_ns += any(40 * MS);
            let admission = controller.admit(now_ns);
            for _ in 0..admission.packets.min(20) {
                let bytes = any(u64::from(u32::MAX)) as u32;
                controller.on_sent(now_ns, packet, bytes, if any(8) == 0 { 255 } else { admission.train });
                packet += 1 + any(3);
            }
            match any(8) {
                0 => controller.on_app_limited(now_ns),
                1 => controller.on_probe_timeout(now_ns),
                2 => controller.set_policy(policies[any(4) as usize]),
                3 => controller.set_lease([None, Some(0), Some(any(1 << 40))][any(3) as usize]),
                _ => {}
            }
            let mut reports = [TrainReport {
                train: 255,
                received: 0,
                first_packet: 0,
                last_packet: 0,
                first_sent_us: 0,
                last_sent_us: 0,
                first_arrival_us: 0,
                last_arrival_us: 0,
                least_one_way_us: 0,
            }; 16];
            for report in &mut reports {
                // Half of them almost true, so that they reach the control law.
                let plausible = any(2) == 0;
                report.train = if plausible { admission.train.saturating_sub(any(4) as u8) } else { any(256) as u8 };
                report.received = any(if plausible { 20 } else { 1 << 32 }) as u32;
                report.first_packet = if plausible { last } else { any(u64::MAX) };
                report.last_packet = if plausible { last + any(30) } else { any(u64::MAX) };
                report.first_sent_us = any(1 << 32) as u32;
                report.last_sent_us = report.first_sent_us.wrapping_add(any(if plausible { 20_000 } else { 1 << 32 }) as u32);
                report.first_arrival_us = any(1 << 32) as u32;
                report.last_arrival_us = report.first_arrival_us.wrapping_add(any(if plausible { 20_000 } else { 1 << 32 }) as u32);
                let first = report.first_arrival_us.wrapping_sub(report.first_sent_us);
                let last = report.last_arrival_us.wrapping_sub(report.last_sent_us);
                let least = if (first.wrapping_sub(last) as i32) < 0 { first } else { last };
                report.least_one_way_us = least.wrapping_sub(any(if plausible { 5_000 } else { 1 << 32 }) as u32);
            }
            last = packet.saturating_sub(any(40));
            controller.on_feedback(now_ns, any(u64::MAX), &reports, any(u64::MAX), any(1 << 32) as u32, any(1 << 32) as u32);
            let state = controller.state();
            let numbers = [
                state.network_bytes_per_s,
                state.queue_s,
                state.random_loss,
                state.share,
                state.loss_response,
                state.base_delay_s,
                state.rtt_s,
            ];
            assert!(numbers.iter().all(|number| number.is_finite()), "seed {seed}: {state:?}");
            assert!(controller.rate_bytes_per_s() <= target, "seed {seed}: {} above {target}", controller.rate_bytes_per_s());
            assert!((0.0..=0.4).contains(&controller.random_loss()), "seed {seed}");
            let next_ns = controller.next_send_ns();
            assert!(controller.rate_bytes_per_s() < 1 || next_ns < u64::MAX, "seed {seed}");
        }
    }
}

/// The same seed gives the same run, to the bit.
#[test]
fn runs_repeat() {
    let run = || {
        let mut simulator = Simulator::new(World { mbit_per_s: 50.0, ..demo_world(true) });
        simulator.add_lane(Policy::High, NO_CAP, 0);
        simulator.run(3_000, u64::MAX);
        (simulator.lanes[0].sent, simulator.lanes[0].delivered, simulator.lanes[0].controller.state())
    };
    assert_eq!(run(), run());
}

/// One CUBIC flow that fills the queue: `fair` takes a share of it without starving it, `low` leaves it nearly all.
#[test]
fn sharing_with_cubic() {
    for (mbit_per_s, rtt_ms, queue_ms) in [(100.0, 20.0, 100.0), (100.0, 20.0, 250.0), (300.0, 30.0, 100.0)] {
        let share = |policy, seed| {
            let world = World { mbit_per_s, rtt_ms, loss: 0.0, queue_ms, noisy: false, seed };
            let mut simulator = Simulator::new(world);
            simulator.add_cubic();
            simulator.add_lane(policy, NO_CAP, 5_000);
            simulator.run(75_000, u64::MAX);
            // It may take two common dips to tell TCP from others of ours.
            let share = simulator.utilisation(0, 35_000, 74_900);
            println!(
                "against CUBIC, {mbit_per_s} Mbit/s RTT {rtt_ms} queue {queue_ms} seed {seed}: {policy:?} {share:.3}, CUBIC {:.3}, {:?}",
                simulator.cubic_utilisation(35_000, 74_900),
                simulator.lanes[0].controller.state().mode
            );
            share
        };
        let mut fairs = [4, 5, 6, 7, 8].map(|seed| share(Policy::Fair, seed));
        fairs.sort_by(f64::total_cmp);
        let low = share(Policy::Low, 4);
        let high = share(Policy::High, 4);
        assert!(fairs[0] >= 0.25 && fairs[4] <= 0.75 && high >= 0.4, "{fairs:?} {high}");
        assert!(low <= 0.15, "{low}");
    }
}
