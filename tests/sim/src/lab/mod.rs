//! The lab: lanes of ours and models of TCP on one bottleneck, packet by packet, fast enough for whole grids.
//!
//! The lanes are the real sender and receiver of `tradewind-proto`, encryption included; only the bytes of the blocks are always the same. What
//! [`crate::run()`] checks (hostile packets, duplicates, exact content) is not checked here; here figures are taken.

mod aqm;
mod link;
mod ours;
mod tcp;

pub use link::Queue;
pub use ours::{LaneCount, LaneSpec};
pub use tcp::Control;

use std::collections::BTreeMap;

use tradewind_proto::rate::{Group, Policy, RateState};
use tradewind_proto::sender::SenderStatistics;

use link::{Fate, Link};
use ours::{Datagram, Ours, SAMPLE_NS};
use tcp::{SEGMENT_BYTES, Segment, Tcp};

pub(crate) const MS: u64 = 1_000_000;
/// How often lanes are told of their group.
const GROUPS_NS: u64 = 200 * MS;

/// Counts of values in steps of 100 µs up to 1 s.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

const STEP_US: f64 = 100.0;

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; 10_001], total: 0 }
    }
}

impl Histogram {
    fn add(&mut self, us: f64) {
        let last = self.counts.len() - 1;
        self.counts[((us / STEP_US) as usize).min(last)] += 1;
        self.total += 1;
    }

    /// Value below which this share lies, µs, to 100 µs.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let mut left = (self.total as f64 * share) as u64;
        for (step, &count) in self.counts.iter().enumerate() {
            if left < count || count > 0 && left == count && step + 1 == self.counts.len() {
                return (step as f64 + left as f64 / count as f64) * STEP_US;
            }
            left -= count;
        }
        0.0
    }
}

/// Who sends.
#[derive(Clone, Copy, Debug)]
pub enum Sends {
    /// A lane.
    Lane(LaneSpec),
    /// A model of TCP.
    Tcp(Control),
}

/// A flow through the bottleneck.
#[derive(Clone, Copy, Debug)]
pub struct FlowSpec {
    /// Who sends.
    pub sends: Sends,
    /// Round trip without queues, ms.
    pub rtt_ms: f64,
    /// When it begins, ms.
    pub start_ms: f64,
    /// When it stops for good, ms; infinite for never.
    pub stop_ms: f64,
}

impl FlowSpec {
    /// A lane that starts at once and never stops.
    #[must_use]
    pub fn lane(spec: LaneSpec, rtt_ms: f64) -> Self {
        Self { sends: Sends::Lane(spec), rtt_ms, start_ms: 0.0, stop_ms: f64::INFINITY }
    }

    /// A TCP flow that starts at once and never stops.
    #[must_use]
    pub fn tcp(control: Control, rtt_ms: f64) -> Self {
        Self { sends: Sends::Tcp(control), rtt_ms, start_ms: 0.0, stop_ms: f64::INFINITY }
    }

    /// The same, beginning at another time.
    #[must_use]
    pub fn from_ms(self, start_ms: f64) -> Self {
        Self { start_ms, ..self }
    }
}

/// Something that changes while the run goes on.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Rate of the link, bit/s.
    RateBps(f64),
    /// Random loss of the link.
    Loss(f64),
    /// The link loses everything for so many ms.
    OutageMs(f64),
    /// Round trip of all flows, ms.
    RttMs(f64),
    /// Policy of a lane.
    Policy(usize, Policy),
    /// Target of a lane, bit/s.
    TargetBps(usize, f64),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Lab {
    /// Everything random comes from it.
    pub seed: u64,
    /// Rate of the bottleneck, bit/s of IP packets.
    pub rate_bps: f64,
    /// Its queue.
    pub queue: Queue,
    /// Its random loss.
    pub loss: f64,
    /// The flows.
    pub flows: Vec<FlowSpec>,
    /// What changes, at times in ms, in order.
    pub changes: Vec<(f64, Change)>,
    /// When the run ends at the latest, ms; it ends earlier when all lanes with an end are done and no other flow runs.
    pub end_ms: f64,
    /// Print the state of the lanes every so many ms; 0 for never.
    pub trace_ms: u64,
}

/// What a flow did.
#[derive(Clone, Debug)]
pub struct FlowOutcome {
    /// Counters; of a TCP flow only the samples.
    pub count: LaneCount,
    /// The sender's own account.
    pub sender: Option<SenderStatistics>,
}

impl FlowOutcome {
    /// Payload bits per second that arrived between two times, ms.
    #[must_use]
    pub fn rate_bps(&self, from_ms: f64, until_ms: f64) -> f64 {
        let at = |ms: f64| {
            let index = (ms * MS as f64 / SAMPLE_NS as f64) as usize;
            let samples = &self.count.samples;
            samples.get(index).or(samples.last()).copied().unwrap_or(0) as f64
        };
        (at(until_ms) - at(from_ms)) * 8e3 / (until_ms - from_ms)
    }
}

/// What came out of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The flows in order.
    pub flows: Vec<FlowOutcome>,
    /// Median and 95th percentile of the queue as packets found it, ms.
    pub queue_ms: (f64, f64),
    /// When the run ended, ms.
    pub end_ms: f64,
    /// Packets of all kinds that were offered to the bottleneck.
    pub packets: u64,
}

enum Flow {
    Waiting,
    Lane(Box<Ours>),
    Tcp(Tcp, Vec<u64>),
}

enum Cargo {
    Ours(Datagram),
    Tcp(Segment),
}

struct Running<'a> {
    lab: &'a Lab,
    link: Link<Cargo>,
    flows: Vec<Flow>,
    /// When each flow has something to do next.
    next_ns: Vec<u64>,
    rtt_ms: Vec<f64>,
    packets: u64,
    change: usize,
    trace_ns: u64,
    groups_ns: u64,
}

/// Plays a run.
#[must_use]
pub fn play(lab: &Lab) -> Outcome {
    let mut running = Running {
        lab,
        link: Link::new(lab.rate_bps, lab.queue, lab.loss, lab.seed),
        flows: lab.flows.iter().map(|_| Flow::Waiting).collect(),
        next_ns: vec![0; lab.flows.len()],
        rtt_ms: lab.flows.iter().map(|flow| flow.rtt_ms).collect(),
        packets: 0,
        change: 0,
        trace_ns: 0,
        groups_ns: 0,
    };
    let end_ns = (lab.end_ms * MS as f64) as u64;
    let mut now_ns = 0;
    running.ask_all();
    while let Some(next_ns) = running.step(now_ns, end_ns) {
        now_ns = next_ns;
    }
    running.outcome(now_ns)
}

impl Running<'_> {
    /// When a flow has something to do.
    fn flow_ns(&self, index: usize) -> u64 {
        let spec = &self.lab.flows[index];
        let next = match &self.flows[index] {
            Flow::Waiting => (spec.start_ms * MS as f64) as u64,
            Flow::Lane(ours) => ours.next_ns(),
            Flow::Tcp(tcp, _) => tcp.next_ns(),
        };
        if next as f64 >= spec.stop_ms * MS as f64 { u64::MAX } else { next }
    }

    /// Does what comes next and returns its time; `None` at the end.
    fn step(&mut self, now_ns: u64, end_ns: u64) -> Option<u64> {
        let (mut next_ns, mut which) = (self.link.next_ns(), usize::MAX);
        for (index, &at_ns) in self.next_ns.iter().enumerate() {
            if at_ns < next_ns {
                (next_ns, which) = (at_ns, index);
            }
        }
        let change_ns = self.lab.changes.get(self.change).map_or(u64::MAX, |(ms, _)| (ms * MS as f64) as u64);
        let next_ns = next_ns.max(now_ns);
        if next_ns.min(change_ns) >= end_ns || next_ns == u64::MAX {
            return None;
        }
        if change_ns <= next_ns {
            let change = self.lab.changes[self.change].1;
            self.change += 1;
            self.apply(change_ns, change);
            self.ask_all();
            return Some(change_ns);
        }
        if self.lab.trace_ms > 0 && next_ns >= self.trace_ns {
            self.trace(next_ns);
            self.trace_ns = next_ns + self.lab.trace_ms * MS;
        }
        if next_ns >= self.groups_ns {
            self.groups_ns = next_ns + GROUPS_NS;
            self.tell_groups(next_ns);
        }
        if which == usize::MAX {
            self.serve(next_ns);
        } else {
            self.advance(next_ns, which);
            self.next_ns[which] = self.flow_ns(which);
        }
        Some(next_ns)
    }

    /// What a server tells lanes between the same two hosts (`tradewindd`: supervisor, rates, groups).
    fn tell_groups(&mut self, now_ns: u64) {
        let host = |spec: &FlowSpec| match spec.sends {
            Sends::Lane(lane) => lane.host,
            Sends::Tcp(_) => None,
        };
        let mut totals: BTreeMap<u32, (f64, u32)> = BTreeMap::new();
        for (spec, flow) in self.lab.flows.iter().zip(&mut self.flows) {
            if let (Some(host), Flow::Lane(ours)) = (host(spec), flow) {
                let total = totals.entry(host).or_default();
                *total = (total.0 + ours.sender.rate_mut().state().network_bytes_per_s, total.1 + 1);
            }
        }
        for (index, spec) in self.lab.flows.iter().enumerate() {
            let Some((total, lanes)) = host(spec).and_then(|host| totals.get(&host).copied()) else { continue };
            if let Flow::Lane(ours) = &mut self.flows[index] {
                ours.set_group(now_ns, Group { share_bytes_per_s: (total / f64::from(lanes)) as u64, lanes });
            }
            self.next_ns[index] = self.flow_ns(index);
        }
    }

    fn ask_all(&mut self) {
        for index in 0..self.flows.len() {
            self.next_ns[index] = self.flow_ns(index);
        }
    }

    fn apply(&mut self, now_ns: u64, change: Change) {
        match change {
            Change::RateBps(rate_bps) => self.link.set_rate_bps(now_ns, rate_bps),
            Change::Loss(loss) => self.link.set_loss(loss),
            Change::OutageMs(ms) => self.link.set_down_until(now_ns + (ms * MS as f64) as u64),
            Change::RttMs(rtt_ms) => {
                self.rtt_ms.fill(rtt_ms);
                for flow in &mut self.flows {
                    if let Flow::Lane(ours) = flow {
                        ours.set_rtt_ms(rtt_ms);
                    }
                }
            }
            Change::Policy(index, policy) => {
                if let Flow::Lane(ours) = &mut self.flows[index] {
                    ours.obey(now_ns, Some(policy), None);
                }
            }
            Change::TargetBps(index, target_bps) => {
                if let Flow::Lane(ours) = &mut self.flows[index] {
                    ours.obey(now_ns, None, Some((target_bps / 8.0) as u64));
                }
            }
        }
    }

    /// A managed queue gives its next packet.
    fn serve(&mut self, now_ns: u64) {
        let Self { link, flows, rtt_ms, .. } = self;
        let mut touched = [usize::MAX; 2];
        let popped = link.pop(now_ns, |waiting| {
            touched[0] = waiting.flow;
            match (&mut flows[waiting.flow], waiting.packet) {
                (Flow::Lane(ours), Cargo::Ours(datagram)) => ours.dropped(true, datagram),
                (Flow::Tcp(tcp, _), Cargo::Tcp(segment)) => {
                    tcp.notify(now_ns + (rtt_ms[waiting.flow] * MS as f64) as u64, segment, true);
                }
                _ => {}
            }
        });
        if let Some((leaves_ns, waiting, lost)) = popped {
            touched[1] = waiting.flow;
            Self::pass_on(flows, rtt_ms, leaves_ns, waiting, lost);
        }
        // A flow whose packets were dropped before those of another one need not be asked: nothing of it becomes due earlier than it knows.
        for index in touched.into_iter().filter(|&index| index != usize::MAX) {
            self.next_ns[index] = self.flow_ns(index);
        }
    }

    fn pass_on(flows: &mut [Flow], rtt_ms: &[f64], leaves_ns: u64, waiting: link::Waiting<Cargo>, lost: bool) {
        match (&mut flows[waiting.flow], waiting.packet) {
            (Flow::Lane(ours), Cargo::Ours(datagram)) if lost => ours.dropped(false, datagram),
            (Flow::Lane(ours), Cargo::Ours(datagram)) => ours.leaves(leaves_ns, datagram),
            (Flow::Tcp(tcp, _), Cargo::Tcp(segment)) => {
                tcp.notify(leaves_ns + (rtt_ms[waiting.flow] * MS as f64) as u64, segment, lost);
            }
            _ => {}
        }
    }

    fn advance(&mut self, now_ns: u64, index: usize) {
        let spec = self.lab.flows[index];
        let Self { link, flows, packets, lab, .. } = self;
        match &mut flows[index] {
            flow @ Flow::Waiting => {
                // Set-up tells a newcomer and, soon, the others.
                self.groups_ns = now_ns;
                let seed = lab.seed.wrapping_mul(1_000).wrapping_add(index as u64);
                *flow = match spec.sends {
                    Sends::Lane(lane) => Flow::Lane(Box::new(Ours::new(lane, spec.rtt_ms, link.rate_bps(), lab.loss, seed, now_ns))),
                    Sends::Tcp(control) => Flow::Tcp(Tcp::new(control, now_ns), Vec::new()),
                };
            }
            Flow::Lane(ours) => ours.advance(now_ns, &mut |ours, datagram| {
                *packets += 1;
                let bytes = datagram.ip_bytes();
                match link.offer(now_ns, index, bytes, Cargo::Ours(datagram)) {
                    Fate::Leaves(at_ns, Cargo::Ours(datagram)) => ours.leaves(at_ns, datagram),
                    Fate::Overflow(Cargo::Ours(datagram)) => ours.dropped(true, datagram),
                    Fate::Lost(Cargo::Ours(datagram)) => ours.dropped(false, datagram),
                    _ => {}
                }
            }),
            Flow::Tcp(tcp, samples) => {
                let rtt_ns = (self.rtt_ms[index] * MS as f64) as u64;
                tcp.advance(now_ns);
                while let Some(segment) = tcp.poll(now_ns) {
                    *packets += 1;
                    let backlog_ns = link.backlog_ns(now_ns) as u64;
                    match link.offer(now_ns, index, SEGMENT_BYTES, Cargo::Tcp(segment)) {
                        Fate::Leaves(at_ns, _) => tcp.notify(at_ns + rtt_ns, segment, false),
                        Fate::Overflow(_) | Fate::Lost(_) => tcp.notify(now_ns + backlog_ns + rtt_ns, segment, true),
                        Fate::Queued => {}
                    }
                }
                let sample = (now_ns / SAMPLE_NS) as usize;
                if samples.len() <= sample {
                    samples.resize(sample + 1, tcp.delivered() * u64::from(SEGMENT_BYTES));
                }
            }
        }
    }

    fn trace(&mut self, now_ns: u64) {
        let queue_ms = self.link.backlog_ns(now_ns) / MS as f64;
        for (index, flow) in self.flows.iter_mut().enumerate() {
            let Flow::Lane(ours) = flow else { continue };
            let RateState { mode, network_bytes_per_s, queue_s, random_loss, share, loss_response, rtt_s, .. } =
                ours.sender.rate_mut().state();
            println!(
                "{:9.3} s lane {index} {mode:?} {:.3} Mbit/s, queue {:.2} ms (true {queue_ms:.2}), share {share:.2}, p0 {random_loss:.4}, response {loss_response:.2}, rtt {:.1} ms, overflow {}, got {:.2} MB",
                now_ns as f64 * 1e-9,
                network_bytes_per_s * 8e-6,
                queue_s * 1e3,
                rtt_s * 1e3,
                ours.count.overflowed,
                ours.data_bytes() as f64 * 1e-6,
            );
        }
    }

    fn outcome(self, now_ns: u64) -> Outcome {
        let flows = self
            .flows
            .into_iter()
            .map(|flow| match flow {
                Flow::Waiting => FlowOutcome { count: LaneCount::default(), sender: None },
                Flow::Lane(ours) => {
                    let sender = Some(ours.sender.statistics());
                    FlowOutcome { count: ours.count, sender }
                }
                Flow::Tcp(_, samples) => FlowOutcome { count: LaneCount { samples, ..LaneCount::default() }, sender: None },
            })
            .collect();
        Outcome { flows, queue_ms: self.link.queue_ms(), end_ms: now_ns as f64 / MS as f64, packets: self.packets }
    }
}
