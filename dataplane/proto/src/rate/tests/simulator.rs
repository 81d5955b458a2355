//! A packet-level simulator: one drop-tail bottleneck, random loss behind it, hosts that wake up late. Deterministic.
//!
//! It drives the controller through its public interface only, as the sender of a lane does. What it cannot see: other queue disciplines,
//! reordering, and what a real sender adds.

use std::collections::VecDeque;

use super::super::random::Random;
use super::super::{Policy, RateConfig, RateController, TrainReport};

pub(super) const PACKET_BYTES: u32 = 1_500;
pub(super) const MS: u64 = 1_000_000;

/// One bottleneck and the hosts around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct World {
    pub(super) mbit_per_s: f64,
    pub(super) rtt_ms: f64,
    pub(super) loss: f64,
    pub(super) queue_ms: f64,
    /// Hosts that wake up 50–1000 µs late, receivers that stamp when they wake, and a stall of 5–40 ms about every two seconds on each side.
    pub(super) noisy: bool,
    pub(super) seed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    number: u64,
    train: u8,
    sent_ns: u64,
    arrival_ns: u64,
    lost: bool,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    report: TrainReport,
    reported: u32,
}

/// A host's wake-ups: packets that arrive between two of them are all stamped by the second.
struct Host {
    random: Random,
    noisy: bool,
    wake_ns: u64,
    stall_ns: u64,
}

impl Host {
    fn new(seed: u64, noisy: bool) -> Self {
        Self { random: Random::new(seed), noisy, wake_ns: 0, stall_ns: if noisy { 1_500 * MS } else { u64::MAX } }
    }

    /// When a timer that is due at `due_ns` fires.
    fn fires(&mut self, due_ns: u64) -> u64 {
        if !self.noisy {
            return due_ns + (self.random.unit() * 20_000.0) as u64;
        }
        let mut late_ms = 0.05 + 0.95 * self.random.unit();
        if due_ns > self.stall_ns {
            late_ms += 5.0 + 35.0 * self.random.unit();
            self.stall_ns = due_ns + (4_000.0 * self.random.unit() * MS as f64) as u64;
        }
        due_ns + (late_ms * MS as f64) as u64
    }

    /// When a packet that arrives at `due_ns` is noticed; asked in the order of arrival.
    fn notices(&mut self, due_ns: u64) -> u64 {
        if !self.noisy {
            return due_ns + (self.random.unit() * 20_000.0) as u64;
        }
        if due_ns > self.wake_ns {
            self.wake_ns = self.fires(due_ns);
        }
        self.wake_ns
    }
}

/// One lane in the world.
pub(super) struct Lane {
    pub(super) controller: RateController,
    sender: Host,
    receiver: Host,
    feedback_timer: Host,
    start_ns: u64,
    wake_ns: u64,
    next_packet: u64,
    under_way: VecDeque<Packet>,
    records: VecDeque<Record>,
    feedback_ns: u64,
    feedback: VecDeque<(u64, u64, Vec<TrainReport>)>,
    last_one_way_ns: u64,
    pub(super) delivered: u64,
    pub(super) sent: u64,
    pub(super) overflowed: u64,
    /// Packets delivered in each 100 ms.
    pub(super) series: Vec<u32>,
    /// When the sender is without data: `(from, until)`.
    pub(super) starved_ns: Option<(u64, u64)>,
}

/// A CUBIC flow without loss of its own (RFC 9438 without its fast convergence and TCP-friendly region).
struct Cubic {
    window: f64,
    threshold: f64,
    most: f64,
    epoch_ns: u64,
    in_flight: u32,
    /// Acknowledgement time and whether the packet was dropped, in order.
    acknowledgements: VecDeque<(u64, u64, bool)>,
    sent: u64,
    /// Drops of packets sent before this count belong to a loss that was answered already.
    recovered: u64,
    series: Vec<u32>,
}

impl Cubic {
    fn new() -> Self {
        Self {
            window: 10.0,
            threshold: f64::INFINITY,
            most: 0.0,
            epoch_ns: 0,
            in_flight: 0,
            acknowledgements: VecDeque::new(),
            sent: 0,
            recovered: 0,
            series: Vec::new(),
        }
    }

    fn on_acknowledgement(&mut self, now_ns: u64) {
        let (_, number, dropped) = self.acknowledgements.pop_front().expect("due");
        self.in_flight -= 1;
        if dropped {
            if number >= self.recovered {
                self.recovered = self.sent;
                self.most = self.window;
                self.window = (0.7 * self.window).max(2.0);
                self.threshold = self.window;
                self.epoch_ns = now_ns;
            }
            return;
        }
        let slot = (now_ns / (100 * MS)) as usize;
        if self.series.len() <= slot {
            self.series.resize(slot + 1, 0);
        }
        self.series[slot] += 1;
        if self.window < self.threshold {
            self.window += 1.0;
        } else {
            let elapsed_s = (now_ns - self.epoch_ns) as f64 * 1e-9;
            let plateau_s = (self.most * 0.3 / 0.4).cbrt();
            let aim = (0.4 * (elapsed_s - plateau_s).powi(3) + self.most).min(1.5 * self.window);
            self.window += ((aim - self.window) / self.window).max(0.01 / self.window);
        }
    }
}

/// The bottleneck's fluid queue and all lanes.
pub(super) struct Simulator {
    world: World,
    random: Random,
    free_ns: u64,
    pub(super) now_ns: u64,
    pub(super) lanes: Vec<Lane>,
    cubic: Option<Cubic>,
    /// Queue seen by packets, milliseconds, one sample per millisecond at most.
    pub(super) queue_ms: Vec<(u64, f32)>,
    trace: bool,
}

impl Simulator {
    pub(super) fn new(world: World) -> Self {
        let random = Random::new(world.seed.wrapping_mul(77) + 5);
        let trace = std::env::var_os("RATE_TRACE").is_some();
        Self { world, random, free_ns: 0, now_ns: 0, lanes: Vec::new(), cubic: None, queue_ms: Vec::new(), trace }
    }

    pub(super) fn add_lane(&mut self, policy: Policy, target_bytes_per_s: u64, start_ms: u64) {
        let start_ns = start_ms * MS;
        let seed = self.world.seed + 1_000 * self.lanes.len() as u64;
        let config = RateConfig {
            policy,
            target_bytes_per_s,
            minimum_bytes_per_s: 0,
            packet_bytes: PACKET_BYTES,
            seed,
            initial_rtt_ns: (self.world.rtt_ms * 1.2 * MS as f64) as u64 + MS,
        };
        self.lanes.push(Lane {
            controller: RateController::new(config, start_ns),
            sender: Host::new(seed + 1, self.world.noisy),
            receiver: Host::new(seed + 2, self.world.noisy),
            feedback_timer: Host::new(seed + 3, self.world.noisy),
            start_ns,
            wake_ns: start_ns,
            next_packet: 0,
            under_way: VecDeque::new(),
            records: VecDeque::new(),
            feedback_ns: start_ns + 10 * MS,
            feedback: VecDeque::new(),
            last_one_way_ns: 0,
            delivered: 0,
            sent: 0,
            overflowed: 0,
            series: Vec::new(),
            starved_ns: None,
        });
    }

    /// Changes the rate of the bottleneck.
    pub(super) fn set_rate(&mut self, mbit_per_s: f64) {
        self.world.mbit_per_s = mbit_per_s;
    }

    /// Changes the random loss.
    pub(super) fn set_loss(&mut self, loss: f64) {
        self.world.loss = loss;
    }

    /// Runs until `end_ms`, or until lane 0 has delivered `packets`; returns the time.
    pub(super) fn run(&mut self, end_ms: u64, packets: u64) -> u64 {
        let end_ns = end_ms * MS;
        while self.now_ns < end_ns {
            let mut next = (u64::MAX, 0, 0);
            for (index, lane) in self.lanes.iter().enumerate() {
                let feedback = lane.feedback.front().map_or(u64::MAX, |entry| entry.0);
                next = next.min((lane.wake_ns, index, 0)).min((lane.feedback_ns, index, 1)).min((feedback, index, 2));
            }
            let (time_ns, index, what) = next;
            let acknowledgement = self.cubic.as_ref().and_then(|cubic| cubic.acknowledgements.front());
            if let Some(&(ack_ns, ..)) = acknowledgement.filter(|ack| ack.0 <= time_ns) {
                self.now_ns = ack_ns;
                self.cubic.as_mut().expect("present").on_acknowledgement(ack_ns);
                self.send_cubic();
                continue;
            }
            self.now_ns = time_ns;
            match what {
                0 => self.send(index),
                1 => self.make_feedback(index),
                _ => self.take_feedback(index),
            }
            if self.lanes[0].delivered >= packets {
                break;
            }
        }
        self.now_ns
    }

    /// Adds a CUBIC flow that starts at once and never ends.
    pub(super) fn add_cubic(&mut self) {
        self.cubic = Some(Cubic::new());
        self.send_cubic();
    }

    fn send_cubic(&mut self) {
        let packet_ns = f64::from(PACKET_BYTES) * 8e3 / self.world.mbit_per_s;
        let Some(cubic) = &mut self.cubic else { return };
        while f64::from(cubic.in_flight) < cubic.window {
            let backlog_ns = self.free_ns.saturating_sub(self.now_ns) as f64;
            let dropped = backlog_ns + packet_ns > self.world.queue_ms * MS as f64;
            if !dropped {
                self.free_ns = self.free_ns.max(self.now_ns) + packet_ns as u64;
            }
            let known_ns = self.free_ns.max(self.now_ns) + (self.world.rtt_ms * MS as f64) as u64;
            cubic.acknowledgements.push_back((known_ns, cubic.sent, dropped));
            cubic.sent += 1;
            cubic.in_flight += 1;
        }
    }

    /// As [`Self::utilisation`], of the CUBIC flow.
    pub(super) fn cubic_utilisation(&self, from_ms: u64, until_ms: u64) -> f64 {
        let series = self.cubic.as_ref().map_or(&[][..], |cubic| &cubic.series);
        let delivered: f64 = series.iter().take((until_ms / 100) as usize).skip((from_ms / 100) as usize).copied().map(f64::from).sum();
        delivered * f64::from(PACKET_BYTES) * 8.0 / (self.world.mbit_per_s * 1e3 * (until_ms - from_ms) as f64)
    }

    fn send(&mut self, index: usize) {
        let now_ns = self.now_ns;
        let world = self.world;
        let packet_ns = f64::from(PACKET_BYTES) * 8e3 / world.mbit_per_s;
        let queue_most_ns = world.queue_ms * MS as f64;
        let one_way_ns = (world.rtt_ms * 0.5 * MS as f64) as u64;
        let lane = &mut self.lanes[index];
        if lane.starved_ns.is_some_and(|(from, until)| (from..until).contains(&now_ns)) {
            lane.controller.on_app_limited(now_ns);
            lane.wake_ns = now_ns + MS;
            return;
        }
        let admission = lane.controller.admit(now_ns);
        for _ in 0..admission.packets {
            let number = lane.next_packet;
            lane.next_packet += 1;
            lane.sent += 1;
            lane.controller.on_sent(now_ns, number, PACKET_BYTES, admission.train);
            let backlog_ns = self.free_ns.saturating_sub(now_ns) as f64;
            if now_ns / MS > self.queue_ms.last().map_or(0, |sample| sample.0) {
                self.queue_ms.push((now_ns / MS, (backlog_ns / MS as f64) as f32));
            }
            if backlog_ns + packet_ns > queue_most_ns.max(4.0 * packet_ns) {
                lane.overflowed += 1;
                continue;
            }
            self.free_ns = self.free_ns.max(now_ns) + packet_ns as u64;
            let lost = self.random.unit() < world.loss;
            let arrival_ns = self.free_ns + one_way_ns + (self.random.unit() * 50_000.0) as u64;
            lane.under_way.push_back(Packet { number, train: admission.train, sent_ns: now_ns, arrival_ns, lost });
        }
        let next_ns = lane.controller.next_send_ns().max(now_ns + 1_000);
        lane.wake_ns = lane.sender.fires(next_ns);
    }

    fn receive(&mut self, index: usize) {
        let now_ns = self.now_ns;
        let lane = &mut self.lanes[index];
        while let Some(packet) = lane.under_way.front().copied() {
            if packet.arrival_ns > now_ns {
                break;
            }
            lane.under_way.pop_front();
            if packet.lost {
                continue;
            }
            let stamp_ns = lane.receiver.notices(packet.arrival_ns);
            lane.delivered += 1;
            lane.last_one_way_ns = stamp_ns - packet.sent_ns;
            let slot = (packet.arrival_ns / (100 * MS)) as usize;
            if lane.series.len() <= slot {
                lane.series.resize(slot + 1, 0);
            }
            lane.series[slot] += 1;
            // Clocks that do not agree, and that wrap within the run.
            let sent_us = (packet.sent_ns / 1_000) as u32;
            let arrival_us = ((stamp_ns / 1_000) as u32).wrapping_sub(3_000_000);
            let one_way_us = arrival_us.wrapping_sub(sent_us);
            if lane.records.back().is_none_or(|record| record.report.train != packet.train) {
                if lane.records.len() == 16 {
                    lane.records.pop_front();
                }
                let report = TrainReport {
                    train: packet.train,
                    received: 0,
                    first_packet: packet.number,
                    last_packet: packet.number,
                    first_sent_us: sent_us,
                    last_sent_us: sent_us,
                    first_arrival_us: arrival_us,
                    last_arrival_us: arrival_us,
                    least_one_way_us: one_way_us,
                };
                lane.records.push_back(Record { report, reported: 0 });
            }
            let record = lane.records.back_mut().expect("just pushed");
            record.reported = 0;
            let report = &mut record.report;
            report.received += 1;
            report.last_packet = packet.number;
            report.last_sent_us = sent_us;
            report.last_arrival_us = arrival_us;
            if (one_way_us.wrapping_sub(report.least_one_way_us) as i32) < 0 {
                report.least_one_way_us = one_way_us;
            }
        }
    }

    fn make_feedback(&mut self, index: usize) {
        self.receive(index);
        let loss = self.world.loss;
        let one_way_ns = (self.world.rtt_ms * 0.5 * MS as f64) as u64;
        let now_ns = self.now_ns;
        let lane = &mut self.lanes[index];
        let interval_ms = (self.world.rtt_ms / 8.0).clamp(10.0, 20.0);
        lane.feedback_ns = lane.feedback_timer.fires(now_ns + (interval_ms * MS as f64) as u64);
        let fresh: Vec<TrainReport> = lane.records.iter().filter(|record| record.reported < 4).map(|record| record.report).collect();
        for record in &mut lane.records {
            record.reported += 1;
        }
        if !fresh.is_empty() && self.random.unit() >= loss {
            let rtt_ns = lane.last_one_way_ns + one_way_ns;
            let arrival_ns = lane.feedback_timer.fires(now_ns + one_way_ns);
            lane.feedback.push_back((arrival_ns.max(lane.feedback.back().map_or(0, |entry| entry.0)), rtt_ns, fresh));
        }
    }

    fn take_feedback(&mut self, index: usize) {
        let now_ns = self.now_ns;
        let queue_ms = self.free_ns.saturating_sub(now_ns) as f64 / MS as f64;
        let trace = self.trace;
        let lane = &mut self.lanes[index];
        let (_, rtt_ns, reports) = lane.feedback.pop_front().expect("due");
        let delivered = lane.delivered;
        lane.controller.on_feedback(now_ns, rtt_ns, &reports, delivered, 0, 0);
        lane.wake_ns = lane.wake_ns.min(lane.controller.next_send_ns().max(now_ns));
        if trace {
            let state = lane.controller.state();
            println!(
                "{:.3} lane {index} {:?} {:.1} Mbit/s q {:.2} ms share {:.2} p0 {:.4} resp {:.2} true q {queue_ms:.2}",
                now_ns as f64 * 1e-9,
                state.mode,
                state.network_bytes_per_s * 8e-6,
                state.queue_s * 1e3,
                state.share,
                state.random_loss,
                state.loss_response
            );
        }
    }

    /// Delivered share of what the bottleneck could have delivered between two times.
    pub(super) fn utilisation(&self, lane: usize, from_ms: u64, until_ms: u64) -> f64 {
        let series = &self.lanes[lane].series;
        let slots = (from_ms / 100) as usize..((until_ms / 100) as usize).min(series.len());
        let delivered: f64 = series[slots.start.min(slots.end)..slots.end].iter().copied().map(f64::from).sum();
        let possible =
            self.world.mbit_per_s * 1e3 * (1.0 - self.world.loss) * (until_ms - from_ms) as f64 / (f64::from(PACKET_BYTES) * 8.0);
        delivered / possible
    }

    /// Median of the queue after a time, milliseconds.
    pub(super) fn queue_median_ms(&self, from_ms: u64) -> f32 {
        let mut samples: Vec<f32> = self.queue_ms.iter().filter(|sample| sample.0 >= from_ms).map(|sample| sample.1).collect();
        samples.sort_by(f32::total_cmp);
        samples.get(samples.len() / 2).copied().unwrap_or(0.0)
    }

    /// First 100 ms from which half a second on average reaches 90 % of the bound, milliseconds after the lane's start.
    pub(super) fn time_to_90_ms(&self, lane: usize) -> Option<u64> {
        let start_ms = self.lanes[lane].start_ns / MS;
        (0..self.lanes[lane].series.len() as u64)
            .map(|slot| slot * 100)
            .find(|&from| from >= start_ms && self.utilisation(lane, from, from + 500) >= 0.9)
            .map(|from| from - start_ms)
    }
}
