//! What rate control must do besides a grid of single lanes: share, give way, start, end, and survive a path that changes. Each check plays runs
//! in the [`crate::lab`] and compares a figure with the bar that the issue on rate control sets.

use serde::Serialize;
use tradewind_proto::rate::{Limiter, Policy};

use crate::grid::payload_share;
use crate::lab::{Change, Control, FlowSpec, Lab, LaneSpec, Outcome, Queue, play};

/// A figure beside its bar.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Group that it belongs to.
    pub group: &'static str,
    /// What was played.
    pub what: String,
    /// What the figure is.
    pub figure: &'static str,
    /// Its value.
    pub value: f64,
    /// The least that is wanted.
    pub least: f64,
    /// The most that is wanted.
    pub most: f64,
    /// Further figures, for people.
    pub note: String,
}

impl Check {
    /// Whether the bar is met.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.value >= self.least && self.value <= self.most
    }
}

/// A group of checks.
pub type Group = (&'static str, fn(u64) -> Vec<Check>);

/// All groups, by name.
pub const GROUPS: [Group; 14] = [
    ("start", start),
    ("pair", pair),
    ("cubic", |seed| against(Control::Cubic, seed)),
    ("bbr", |seed| against(Control::Bbr, seed)),
    ("many", |seed| many(seed, false)),
    ("hosts", |seed| many(seed, true)),
    ("aqm", aqm),
    ("disorder", disorder),
    ("overdrive", overdrive),
    ("reverse", reverse),
    ("change", change),
    ("tail", tail),
    ("storage", storage),
    ("policer", policer),
];

const ANY: f64 = f64::INFINITY;

/// Jain's index of fairness: 1 when all are equal, 1/n when one has everything.
#[must_use]
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 { 0.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

fn lab(mbps: f64, queue_ms: f64, seed: u64, flows: Vec<FlowSpec>, end_s: f64) -> Lab {
    Lab {
        seed,
        rate_bps: mbps * 1e6,
        queue: Queue::DropTail { ms: queue_ms },
        loss: 0.0,
        flows,
        changes: Vec::new(),
        end_ms: end_s * 1e3,
        trace_ms: 0,
    }
}

/// Share of the link's payload capacity that each flow got between two times, s.
fn shares(outcome: &Outcome, mbps: f64, from_s: f64, until_s: f64) -> Vec<f64> {
    let lanes = mbps * 1e6 * payload_share(1500);
    let of = |flow: &crate::lab::FlowOutcome| {
        let possible = if flow.sender.is_some() { lanes } else { mbps * 1e6 };
        flow.rate_bps(from_s * 1e3, until_s * 1e3) / possible
    };
    outcome.flows.iter().map(of).collect()
}

/// Share of all packets sent that the bottleneck's queue had no room for.
#[must_use]
pub fn overflow(outcome: &Outcome) -> f64 {
    let (mut lost, mut sent) = (0, 0);
    for flow in &outcome.flows {
        lost += flow.count.overflowed;
        sent += flow.count.forward_packets;
    }
    lost as f64 / (sent as f64).max(1.0)
}

fn list(values: &[f64]) -> String {
    values.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(" ")
}

/// 90 % of a 10 Gbit/s path within ten round trips (at least half a second), and what the start overflows, in queues.
fn start(seed: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    for (rtt_ms, loss) in [(10.0, 0.0), (100.0, 0.0), (100.0, 0.1), (300.0, 0.0), (300.0, 0.3), (1_000.0, 0.0)] {
        let mbps = 10_000.0;
        let spec = LaneSpec { mtu: 9000, reverse_loss: loss, ..LaneSpec::default() };
        let rounds = (rtt_ms * 10.0f64).max(500.0);
        let mut lab = lab(mbps, 10.0, seed, vec![FlowSpec::lane(spec, rtt_ms)], rounds * 1.6e-3);
        lab.loss = loss;
        let outcome = play(&lab);
        let bound = mbps * 1e6 * payload_share(9000) * (1.0 - loss);
        let width_ms = rtt_ms.max(100.0);
        let reached =
            (0..10_000).map(|step| f64::from(step) * 10.0).find(|&ms| outcome.flows[0].rate_bps(ms, ms + width_ms) >= 0.9 * bound);
        // The rate holds for the whole width; what came before the middle of it is the start.
        let start_ms = reached.map_or(ANY, |ms| ms + 0.5 * width_ms);
        let what = format!("10 Gbit/s, RTT {rtt_ms} ms, loss {loss}, queue 10 ms");
        let lost = outcome.flows[0].count.overflowed as f64 * 9000.0 / (mbps * 1e6 / 8.0 * 0.010);
        let note = format!("{start_ms:.0} ms");
        let value = start_ms / rounds * 10.0;
        checks.push(Check {
            group: "start",
            what: what.clone(),
            figure: "round trips (or 50 ms) to 90 %",
            value,
            least: 0.0,
            most: 10.0,
            note,
        });
        checks.push(Check { group: "start", what, figure: "overflow, in queues", value: lost, least: 0.0, most: 1.0, note: String::new() });
    }
    checks
}

/// Two of ours, 10 s apart.
fn pair(seed: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    for (mbps, rtts, queue_ms) in [
        (10.0, [20.0, 20.0], 100.0),
        (10.0, [20.0, 200.0], 100.0),
        (100.0, [20.0, 20.0], 100.0),
        (100.0, [20.0, 200.0], 100.0),
        (100.0, [200.0, 20.0], 100.0),
        (100.0, [100.0, 100.0], 10.0),
        (155.0, [30.0, 300.0], 100.0),
        (622.0, [50.0, 50.0], 10.0),
        (1_000.0, [10.0, 100.0], 100.0),
        (1_000.0, [100.0, 100.0], 100.0),
    ] {
        let flows = vec![FlowSpec::lane(LaneSpec::default(), rtts[0]), FlowSpec::lane(LaneSpec::default(), rtts[1]).from_ms(10_000.0)];
        let end_s = 70.0;
        let outcome = play(&lab(mbps, queue_ms, seed, flows, end_s));
        let shares = shares(&outcome, mbps, 40.0, end_s);
        let note = format!("{}, sum {:.3}, overflow {:.4}", list(&shares), shares.iter().sum::<f64>(), overflow(&outcome));
        let what = format!("{mbps} Mbit/s, RTT {} and {} ms, queue {queue_ms} ms", rtts[0], rtts[1]);
        checks.push(Check { group: "pair", what, figure: "Jain's index from 30 s on", value: jain(&shares), least: 0.95, most: 1.0, note });
    }
    checks
}

/// One of ours that joins one TCP flow.
fn against(control: Control, seed: u64) -> Vec<Check> {
    let group = if control == Control::Cubic { "cubic" } else { "bbr" };
    let mut checks = Vec::new();
    for (mbps, rtt_ms, queue_ms) in
        [(100.0, 20.0, 100.0), (100.0, 100.0, 100.0), (155.0, 30.0, 100.0), (622.0, 50.0, 100.0), (1_000.0, 20.0, 100.0)]
    {
        for policy in [Policy::Fair, Policy::High, Policy::Low] {
            let spec = LaneSpec { policy, ..LaneSpec::default() };
            let flows = vec![FlowSpec::tcp(control, rtt_ms), FlowSpec::lane(spec, rtt_ms).from_ms(10_000.0)];
            let end_s = 100.0;
            let outcome = play(&lab(mbps, queue_ms, seed, flows, end_s));
            let shares = shares(&outcome, mbps, 30.0, end_s);
            let (least, most) = match (control, policy) {
                (Control::Cubic, Policy::Fair) => (0.25, 0.75),
                (Control::Cubic, Policy::High) => (0.50, 0.80),
                (Control::Cubic, _) => (0.0, 0.10),
                (Control::Bbr, Policy::Low) => (0.0, 0.30),
                (Control::Bbr, _) => (0.10, 0.90),
            };
            let note = format!("TCP {:.3}, sum {:.3}, queue p50 {:.1} ms", shares[0], shares.iter().sum::<f64>(), outcome.queue_ms.0);
            let what = format!("{policy:?} on {mbps} Mbit/s, RTT {rtt_ms} ms, queue {queue_ms} ms");
            checks.push(Check { group, what, figure: "our share from 20 s on", value: shares[1], least, most, note });
        }
    }
    checks
}

/// Many lanes, of different hosts or between the same two.
fn many(seed: u64, same_hosts: bool) -> Vec<Check> {
    let group = if same_hosts { "hosts" } else { "many" };
    let spec = LaneSpec { host: same_hosts.then_some(0), ..LaneSpec::default() };
    let mut checks = Vec::new();
    for (mbps, lanes, queue_ms) in
        [(155.0, 20, 100.0), (155.0, 50, 100.0), (1_000.0, 20, 100.0), (1_000.0, 50, 100.0), (155.0, 20, 10.0), (1_000.0, 50, 10.0)]
    {
        for spread in [false, true].into_iter().filter(|spread| !(same_hosts && *spread)) {
            let rtt = |index: usize| if spread { 20.0 + 180.0 * index as f64 / lanes as f64 } else { 100.0 };
            let flows = (0..lanes).map(|index| FlowSpec::lane(spec, rtt(index)).from_ms(200.0 * index as f64)).collect();
            let end_s = 60.0;
            let outcome = play(&lab(mbps, queue_ms, seed, flows, end_s));
            let shares = shares(&outcome, mbps, 30.0, end_s);
            let rtts = if spread { "20 to 200" } else { "100" };
            let what = format!("{lanes} lanes on {mbps} Mbit/s, RTT {rtts} ms, queue {queue_ms} ms");
            let sum: f64 = shares.iter().sum();
            let least = shares.iter().copied().fold(ANY, f64::min) * lanes as f64;
            let most = shares.iter().copied().fold(0.0, f64::max) * lanes as f64;
            let note = format!("sum {sum:.3}, least and most of a fair share {least:.2} {most:.2}, queue p50 {:.1} ms", outcome.queue_ms.0);
            checks.push(Check {
                group,
                what: what.clone(),
                figure: "Jain's index from 30 s on",
                value: jain(&shares),
                least: 0.90,
                most: 1.0,
                note,
            });
            checks.push(Check {
                group,
                what,
                figure: "overflow loss",
                value: overflow(&outcome),
                least: 0.0,
                most: 0.03,
                note: String::new(),
            });
        }
    }
    checks
}

/// CoDel and FQ-CoDel, alone and two.
fn aqm(seed: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    for queue in [Queue::Codel, Queue::FqCodel] {
        for (mbps, rtts) in [(100.0, vec![20.0]), (100.0, vec![100.0]), (622.0, vec![100.0]), (100.0, vec![20.0, 100.0])] {
            for loss in [0.0, 0.05] {
                let flows = rtts.iter().map(|&rtt| FlowSpec::lane(LaneSpec { reverse_loss: loss, ..LaneSpec::default() }, rtt)).collect();
                let mut lab = lab(mbps, 100.0, seed, flows, 40.0);
                lab.queue = queue;
                lab.loss = loss;
                let outcome = play(&lab);
                let shares = shares(&outcome, mbps, 5.0, 40.0);
                let sum = shares.iter().sum::<f64>() / (1.0 - loss);
                let note = format!(
                    "{}, Jain {:.3}, drops {:.4}, queue p50 {:.1} ms",
                    list(&shares),
                    jain(&shares),
                    overflow(&outcome),
                    outcome.queue_ms.0
                );
                let what = format!("{queue:?}, {mbps} Mbit/s, RTT {rtts:?} ms, loss {loss}");
                checks.push(Check { group: "aqm", what, figure: "use of the bound from 5 s on", value: sum, least: 0.93, most: 1.0, note });
            }
        }
    }
    checks
}

/// Packets that overtake each other, jitter, and clocks that run apart.
fn disorder(seed: u64) -> Vec<Check> {
    let plain = LaneSpec::default();
    let mut checks = Vec::new();
    for (name, spec) in [
        ("1 % of packets 5 ms late", LaneSpec { reorder: 0.01, reorder_ms: 5.0, ..plain }),
        ("10 % of packets 2 ms late", LaneSpec { reorder: 0.10, reorder_ms: 2.0, ..plain }),
        ("jitter 2 ms", LaneSpec { jitter_ms: 2.0, ..plain }),
        ("jitter 10 ms", LaneSpec { jitter_ms: 10.0, ..plain }),
        ("clock 100 ppm fast", LaneSpec { skew_ppm: 100.0, ..plain }),
        ("clock 100 ppm slow", LaneSpec { skew_ppm: -100.0, ..plain }),
        ("timers 2 ms late", LaneSpec { noise_us: 2_000, ..plain }),
    ] {
        for (mbps, rtt_ms) in [(100.0, 40.0), (622.0, 100.0)] {
            let outcome = play(&lab(mbps, 100.0, seed, vec![FlowSpec::lane(spec, rtt_ms)], 40.0));
            let shares = shares(&outcome, mbps, 5.0, 40.0);
            let note = format!("queue p50 {:.1} p95 {:.1} ms, overflow {:.4}", outcome.queue_ms.0, outcome.queue_ms.1, overflow(&outcome));
            let what = format!("{name}, {mbps} Mbit/s, RTT {rtt_ms} ms");
            checks.push(Check {
                group: "disorder",
                what,
                figure: "use of the link from 5 s on",
                value: shares[0],
                least: 0.93,
                most: 1.0,
                note,
            });
        }
    }
    checks
}

/// Targets beyond the path.
fn overdrive(seed: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    for factor in [2.0, 10.0, 100.0] {
        for queue_ms in [10.0, 100.0] {
            let (mbps, loss) = (100.0, 0.01);
            let spec = LaneSpec { target_bps: mbps * factor * 1e6, reverse_loss: loss, ..LaneSpec::default() };
            let mut lab = lab(mbps, queue_ms, seed, vec![FlowSpec::lane(spec, 100.0)], 30.0);
            lab.loss = loss;
            let outcome = play(&lab);
            let value = shares(&outcome, mbps, 3.0, 30.0)[0] / (1.0 - loss);
            let note = format!("overflow {:.4}", overflow(&outcome));
            let what = format!("fair told {factor} times 100 Mbit/s, RTT 100 ms, loss 1 %, queue {queue_ms} ms");
            checks.push(Check { group: "overdrive", what, figure: "use of the bound from 3 s on", value, least: 0.95, most: 1.0, note });
        }
    }
    for factor in [0.5, 2.0] {
        let spec = LaneSpec { policy: Policy::Fixed, target_bps: 100e6 * factor, ..LaneSpec::default() };
        let outcome = play(&lab(100.0, 100.0, seed, vec![FlowSpec::lane(spec, 100.0)], 10.0));
        let flow = &outcome.flows[0];
        let value = flow.count.forward_bytes as f64 * 8.0 / 10.0 / (100e6 * factor);
        let limiter = flow.sender.as_ref().map(|sender| sender.limiter);
        let note = format!("says {limiter:?}, overflow {:.3}", overflow(&outcome));
        let value = if limiter == Some(Limiter::Target) { value } else { 0.0 };
        let what = format!("fixed told {factor} times 100 Mbit/s");
        checks.push(Check { group: "overdrive", what, figure: "rate sent over rate told", value, least: 0.97, most: 1.01, note });
    }
    checks
}

/// A bad way back.
fn reverse(seed: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    for (mbps, rtt_ms, loss) in [(10.0, 50.0, 0.0), (155.0, 100.0, 0.01), (1_000.0, 100.0, 0.0)] {
        let run = |spec: LaneSpec| {
            let mut lab = lab(mbps, 100.0, seed, vec![FlowSpec::lane(spec, rtt_ms)], 20.0);
            lab.loss = loss;
            let outcome = play(&lab);
            let share = outcome.flows[0].count.reverse_bytes as f64 / outcome.flows[0].count.forward_bytes as f64;
            (shares(&outcome, mbps, 0.0, 20.0)[0] / (1.0 - loss), share)
        };
        let good = run(LaneSpec::default());
        let bad = run(LaneSpec { reverse_loss: 0.3, reverse_bps: mbps * 1e4, ..LaneSpec::default() });
        let what = format!("{mbps} Mbit/s, RTT {rtt_ms} ms, way back at 1 % of the rate and 30 % loss");
        let note = format!("{:.3} instead of {:.3}", bad.0, good.0);
        checks.push(Check {
            group: "reverse",
            what: what.clone(),
            figure: "use over that with a good way back",
            value: bad.0 / good.0,
            least: 0.97,
            most: ANY,
            note,
        });
        checks.push(Check {
            group: "reverse",
            what,
            figure: "feedback over data, bytes",
            value: bad.1,
            least: 0.0,
            most: 0.005,
            note: String::new(),
        });
    }
    checks
}

/// What was on a longer way arrives besides when the way gets shorter.
const CHANGE_MOST: f64 = 1.01;

/// A path that changes.
fn change(seed: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |what: &str, mbps: f64, rtt_ms: f64, changes: Vec<(f64, Change)>, from_s: f64, until_s: f64, after_mbps: f64| {
        let mut lab = lab(mbps, 100.0, seed, vec![FlowSpec::lane(LaneSpec::default(), rtt_ms)], until_s);
        lab.changes = changes;
        let outcome = play(&lab);
        let value = shares(&outcome, after_mbps, from_s, until_s)[0];
        let note = format!("overflow {:.4}, failed {:?}", overflow(&outcome), outcome.flows[0].count.failed);
        checks.push(Check {
            group: "change",
            what: what.to_owned(),
            figure: "use of the new link",
            value,
            least: 0.85,
            most: CHANGE_MOST,
            note,
        });
    };
    let change = |at_s: f64, change| vec![(at_s * 1e3, change)];
    add("100 to 10 Mbit/s, from 5 s after it on", 100.0, 50.0, change(10.0, Change::RateBps(10e6)), 15.0, 30.0, 10.0);
    add("10 to 100 Mbit/s, from 5 s after it on", 10.0, 50.0, change(10.0, Change::RateBps(100e6)), 15.0, 30.0, 100.0);
    add("100 to 1000 Mbit/s, from 5 s after it on", 100.0, 100.0, change(10.0, Change::RateBps(1e9)), 15.0, 30.0, 1000.0);
    add("outage of 5 s, from 3 s after it on", 100.0, 50.0, change(10.0, Change::OutageMs(5e3)), 18.0, 30.0, 100.0);
    add("outage of 30 s, from 5 s after it on", 100.0, 50.0, change(10.0, Change::OutageMs(30e3)), 45.0, 60.0, 100.0);
    add("RTT 50 to 200 ms, the 40 s after it", 100.0, 50.0, change(10.0, Change::RttMs(200.0)), 10.0, 50.0, 100.0);
    add("RTT 50 to 200 ms just before all dip, the 40 s after it", 100.0, 50.0, change(18.5, Change::RttMs(200.0)), 18.5, 58.5, 100.0);
    let twice = vec![(12e3, Change::RttMs(100.0)), (13.5e3, Change::RttMs(200.0))];
    add("RTT 50 to 100 to 200 ms in 1.5 s, the 40 s after it", 100.0, 50.0, twice, 12.0, 52.0, 100.0);
    add("RTT 200 to 50 ms, the 20 s after it", 100.0, 200.0, change(10.0, Change::RttMs(50.0)), 10.0, 30.0, 100.0);
    add(
        "policy low, then fair again, from 2 s after it on",
        100.0,
        50.0,
        vec![(5e3, Change::Policy(0, Policy::Low)), (10e3, Change::Policy(0, Policy::Fair))],
        12.0,
        20.0,
        100.0,
    );
    add("target 20 Mbit/s, from 1 s after it on", 100.0, 50.0, change(5.0, Change::TargetBps(0, 20e6)), 6.0, 20.0, 20.0);
    checks
}

/// 64 MiB at 30 % loss, 300 ms: how much later than ideal it ends. Ideal is the last chunk's first transmission, and what that leaves to be sent again
/// at the rate in use, and one round trip for the last packet and DONE.
fn tail(seed: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    for mbps in [100.0, 1_000.0] {
        let (loss, rtt_ms) = (0.3, 300.0);
        let mut late: Vec<f64> = (0..20)
            .map(|run| {
                let spec = LaneSpec { bytes: Some(64 << 20), reverse_loss: loss, ..LaneSpec::default() };
                let mut lab = lab(mbps, 100.0, seed + 100 * run, vec![FlowSpec::lane(spec, rtt_ms)], 200.0);
                lab.loss = loss;
                let outcome = play(&lab);
                let count = &outcome.flows[0].count;
                let done_ms = count.done_ns.map_or(ANY, |ns| ns as f64 * 1e-6);
                let again_ms = loss / (1.0 - loss) * rtt_ms;
                (done_ms - count.last_fresh_ns as f64 * 1e-6 - again_ms - rtt_ms) / rtt_ms
            })
            .collect();
        late.sort_by(f64::total_cmp);
        let note = format!("median {:.2}, worst {:.2}", late[10], late[19]);
        let what = format!("64 MiB, {mbps} Mbit/s, RTT 300 ms, loss 30 % each way, 20 runs");
        checks.push(Check {
            group: "tail",
            what,
            figure: "round trips after the ideal end, 95th percentile",
            value: late[18],
            least: -1.0,
            most: 3.0,
            note,
        });
    }
    checks
}

/// A store slower than the path.
fn storage(seed: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    for (rtt_ms, window) in [(10.0, 64), (100.0, 128)] {
        let store = 200e6;
        let spec = LaneSpec { store_bps: store, window_blocks: Some(window), ..LaneSpec::default() };
        let outcome = play(&lab(1_000.0, 100.0, seed, vec![FlowSpec::lane(spec, rtt_ms)], 20.0));
        let flow = &outcome.flows[0];
        let limiter = flow.sender.as_ref().map(|sender| sender.limiter);
        let value = flow.rate_bps(5e3, 20e3) / store;
        let value = if limiter == Some(Limiter::Storage) { value } else { 0.0 };
        let sent = flow.count.forward_bytes as f64;
        let note = format!(
            "says {limiter:?}, {:.4} of the bytes sent again",
            1.0 - flow.count.samples.last().copied().unwrap_or(0) as f64 / sent / payload_share(1500)
        );
        let what = format!("store of 200 Mbit/s behind 1 Gbit/s, RTT {rtt_ms} ms, {window} blocks");
        checks.push(Check { group: "storage", what, figure: "use of the store from 5 s on", value, least: 0.95, most: 1.01, note });
    }
    checks
}

/// A token bucket without a queue.
fn policer(seed: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    for (mbps, rtt_ms, burst_ms) in [(12.0, 40.0, 10.0), (60.0, 40.0, 10.0), (108.0, 20.0, 10.0), (622.0, 100.0, 10.0)] {
        let mut lab = lab(mbps, 0.0, seed, vec![FlowSpec::lane(LaneSpec::default(), rtt_ms)], 40.0);
        lab.queue = Queue::Policer { burst_ms };
        let outcome = play(&lab);
        let value = shares(&outcome, mbps, 5.0, 40.0)[0];
        let note = format!("excess loss {:.4}", overflow(&outcome));
        let what = format!("policer of {mbps} Mbit/s, bucket {burst_ms} ms, RTT {rtt_ms} ms");
        checks.push(Check { group: "policer", what, figure: "use of the rate from 5 s on", value, least: 0.90, most: 1.0, note });
    }
    checks
}
