//! Rate control in the lab: a few cells of the grid and a few of the checks, those that play within seconds. All of them:
//! `cargo xtask sim --grid table1` and `cargo xtask sim --checks all`.

use tradewind_proto::rate::Policy;
use tradewind_sim::battery::{jain, overflow};
use tradewind_sim::grid::{Cell, GridOptions, play_cell};
use tradewind_sim::lab::{Change, Control, FlowSpec, Lab, LaneSpec, Queue, play};

fn lab(mbps: f64, flows: Vec<FlowSpec>, end_s: f64) -> Lab {
    let queue = Queue::DropTail { ms: 100.0 };
    Lab { seed: 1, rate_bps: mbps * 1e6, queue, loss: 0.0, flows, changes: Vec::new(), end_ms: end_s * 1e3, trace_ms: 0 }
}

#[test]
fn single_lanes_fill_their_paths_with_short_queues_and_little_feedback() {
    let options = GridOptions { seconds: 10.0, round_trips: 50.0, ..GridOptions::default() };
    for (rate_mbps, rtt_ms, loss, queue_ms, least) in [
        (10.0, 20.0, 0.0, 100.0, 0.97),
        (10.0, 100.0, 0.01, 10.0, 0.93),
        (100.0, 2.0, 0.0, 10.0, 0.97),
        (100.0, 100.0, 0.05, 100.0, 0.92),
        (100.0, 100.0, 0.3, 10.0, 0.90),
    ] {
        let row = play_cell(&Cell { rate_mbps, rtt_ms, loss, queue_ms }, &options);
        println!("{row:?}");
        assert!(row.complete && row.ratio >= least && row.ratio <= 1.0, "{row:?}");
        assert!(row.queue_p50_ms <= (0.7 * queue_ms).min(10.0) && row.overshoot_loss <= 0.03, "{row:?}");
        assert!(row.feedback_share <= 0.005, "{row:?}");
    }
}

#[test]
fn a_local_network_is_full_after_a_few_pulses() {
    for rtt_ms in [0.1, 0.5, 2.0] {
        // Not at a full second, at which young lanes dip and starting ones wait.
        let lane = LaneSpec { mtu: 9_000, ..LaneSpec::default() };
        let mut lab = lab(10_000.0, vec![FlowSpec::lane(lane, rtt_ms).from_ms(200.0)], 0.3);
        lab.queue = Queue::DropTail { ms: 10.0 };
        let outcome = play(&lab);
        let share = outcome.flows[0].rate_bps(200.0, 300.0) / 10e9;
        println!("{rtt_ms} ms: {share:.3} of the first 100 ms");
        assert!(share >= 0.55, "{rtt_ms} ms: {share}");
    }
}

/// A receiver that is off its core while a lane starts looks like a slow path.
#[test]
fn what_start_up_found_on_a_local_network_is_looked_at_again() {
    let lane = LaneSpec { mtu: 9_000, ..LaneSpec::default() };
    let mut lab = lab(10_000.0, vec![FlowSpec::lane(lane, 0.2).from_ms(200.0)], 1.2);
    lab.queue = Queue::DropTail { ms: 10.0 };
    lab.changes = vec![(100.0, Change::RateBps(1e9)), (260.0, Change::RateBps(10e9))];
    let outcome = play(&lab);
    let rate = |from_ms, until_ms| outcome.flows[0].rate_bps(from_ms, until_ms) / 10e9;
    let (then, later) = (rate(260.0, 300.0), rate(600.0, 1_200.0));
    println!("{then:.3} of 10 Gbit/s then, {later:.3} from 0.4 s on");
    assert!(then <= 0.15 && later >= 0.8, "{then}, {later}");
}

/// Trying it again now and then costs little.
#[test]
fn a_policer_on_a_local_network_is_respected() {
    let mut lab = lab(1_000.0, vec![FlowSpec::lane(LaneSpec::default(), 0.5)], 20.0);
    lab.queue = Queue::Policer { burst_ms: 5.0 };
    let outcome = play(&lab);
    let count = &outcome.flows[0].count;
    let (share, loss) = (outcome.flows[0].rate_bps(0.0, 20e3) / 1e9, count.overflowed as f64 / count.forward_packets as f64);
    println!("{share:.3} of the policer's rate, {loss:.4} lost");
    assert!(share >= 0.85 && loss <= 0.04, "{share}, {loss}");
}

#[test]
fn the_same_cell_gives_the_same_figures() {
    let cell = Cell { rate_mbps: 20.0, rtt_ms: 30.0, loss: 0.02, queue_ms: 50.0 };
    let options = GridOptions { seconds: 3.0, round_trips: 10.0, ..GridOptions::default() };
    let figures = || format!("{:?}", play_cell(&cell, &options));
    assert_eq!(figures(), figures());
    let other = format!("{:?}", play_cell(&cell, &GridOptions { seed: 2, ..options }));
    assert_ne!(figures(), other);
}

#[test]
fn two_lanes_with_round_trips_of_one_to_ten_share_evenly() {
    let flows = vec![FlowSpec::lane(LaneSpec::default(), 20.0), FlowSpec::lane(LaneSpec::default(), 200.0).from_ms(10_000.0)];
    let outcome = play(&lab(50.0, flows, 60.0));
    let rates: Vec<f64> = outcome.flows.iter().map(|flow| flow.rate_bps(30e3, 60e3)).collect();
    println!("{rates:?}");
    assert!(jain(&rates) >= 0.95, "{rates:?}");
}

#[test]
fn against_one_cubic_flow_fair_shares_and_low_gives_way() {
    let share = |policy| {
        let lane = LaneSpec { policy, ..LaneSpec::default() };
        let flows = vec![FlowSpec::tcp(Control::Cubic, 20.0), FlowSpec::lane(lane, 20.0).from_ms(10_000.0)];
        let outcome = play(&lab(100.0, flows, 70.0));
        outcome.flows[1].rate_bps(30e3, 70e3) / 100e6
    };
    let (fair, low) = (share(Policy::Fair), share(Policy::Low));
    println!("fair {fair:.3}, low {low:.3}");
    assert!((0.25..=0.75).contains(&fair), "{fair}");
    assert!(low <= 0.10, "{low}");
}

/// Lanes of different hosts, one more every 0.2 s: newcomers find a full link, and must neither flood it nor starve.
#[test]
fn a_crowd_of_different_hosts_shares_and_does_not_flood_the_link() {
    let flows = (0..20).map(|index| FlowSpec::lane(LaneSpec::default(), 100.0).from_ms(200.0 * f64::from(index))).collect();
    let outcome = play(&lab(155.0, flows, 40.0));
    let rates: Vec<f64> = outcome.flows.iter().map(|flow| flow.rate_bps(25e3, 40e3)).collect();
    let share = overflow(&outcome);
    println!("Jain {:.3}, {share:.4} of the packets overflowed", jain(&rates));
    assert!(jain(&rates) >= 0.9, "{rates:?}");
    // Nearly all of it in the first seconds, while lanes come.
    assert!(share <= 0.035, "{share}");
}

/// Twenty lanes on a queue far too short for them lose packets, but the link must not be flooded.
#[test]
fn many_lanes_on_a_short_queue_do_not_collapse() {
    let rtt_ms = |index: u32| 20.0 + 9.0 * f64::from(index);
    let flows = (0..20).map(|index| FlowSpec::lane(LaneSpec::default(), rtt_ms(index)).from_ms(200.0 * f64::from(index))).collect();
    let outcome = play(&Lab { queue: Queue::DropTail { ms: 10.0 }, ..lab(155.0, flows, 40.0) });
    let arrived: f64 = outcome.flows.iter().map(|flow| flow.rate_bps(20e3, 40e3)).sum();
    let share = overflow(&outcome);
    println!("{share:.4} of the packets overflowed; {:.1} Mbit/s of payload arrive", arrived * 1e-6);
    assert!(share < 0.25, "{share}");
    assert!(arrived > 0.9 * 155e6 * 0.95, "{arrived}");
}
