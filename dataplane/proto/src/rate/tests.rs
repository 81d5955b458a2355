//! The controller against a simulated bottleneck, and against a peer that lies.

mod simulator;

use simulator::{PACKET_BYTES, Simulator, World};

use super::random::Random;
use super::*;

const MS: u64 = 1_000_000;
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
    for &(mbit_per_s, rtt_ms, loss, queue_ms) in &[
        (10.0, 20.0, 0.0, 100.0),
        (10.0, 100.0, 0.01, 100.0),
        (10.0, 300.0, 0.3, 100.0),
        (10.0, 100.0, 0.05, 10.0),
        (100.0, 2.0, 0.0, 10.0),
        (100.0, 20.0, 0.01, 10.0),
        (100.0, 100.0, 0.2, 100.0),
        (100.0, 300.0, 0.05, 100.0),
        (300.0, 2.0, 0.05, 100.0),
        (300.0, 20.0, 0.2, 10.0),
        (300.0, 100.0, 0.0, 10.0),
        (300.0, 100.0, 0.05, 100.0),
        (300.0, 300.0, 0.3, 100.0),
        (1000.0, 20.0, 0.01, 100.0),
        (1000.0, 100.0, 0.05, 10.0),
        (1000.0, 300.0, 0.0, 100.0),
    ] {
        for noisy in [false, true] {
            let world = World { mbit_per_s, rtt_ms, loss, queue_ms, noisy, seed: 7 };
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
            if steady < 0.97 || queue > 10.0 {
                misses.push((world, steady, queue));
            }
        }
    }
    assert!(misses.is_empty(), "below the bar: {misses:#?}");
}
