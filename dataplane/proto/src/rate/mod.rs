//! Rate control of one lane: how fast to send so that the path is full, its queue short, and others get their share.
//!
//! The controller compares what it sends with what arrives. It sends in *trains*, runs of packets at one known rate whose number travels in every
//! packet, and reads from the receiver's reports when each train arrived:
//!
//! - `startup`: pulses of a few packets at a multiple of the mean rate find the bottleneck within a few round trips;
//! - `cruise`: the rate alternates by ± 10 %; how the delay answers says how much of the bottleneck is ours, and the queue is kept at a few
//!   milliseconds (`target` says how many);
//! - `loss`: how the loss answers to the same dither says whether it is congestion or random;
//! - `competition`: when somebody else keeps the queue full, share it instead of giving way;
//! - `limits`: target, storage limit and lease bound all of it, and a brake is pulled when nothing is heard;
//! - `pacer` spreads the packets, `trains` keeps the records, `delay` the base delay, `hold` the rate that ran into a policer.
//!
//! Sources: `docs/` of the project (transport §4 and the transport study §3, whose names for the constants are quoted beside them).
//! Nothing here reads a clock, does I/O, or allocates after [`RateController::new`].

mod average;
mod competition;
mod cruise;
mod delay;
mod group;
mod hold;
mod limiter;
mod limits;
mod loss;
mod orders;
mod pacer;
mod phases;
mod random;
mod second_look;
mod startup;
mod target;
mod trains;
mod units;

use crate::receiver::SHORT_ROUND_TRIP_NS;
use competition::{Competition, Standing, Watch};
use cruise::{Response, Round};
use delay::BaseDelay;
pub use group::Group;
use hold::Hold;
pub use limiter::Limiter;
use limits::Limits;
use loss::LossLevel;
pub use orders::RateOrders;
use pacer::Pacer;
pub(crate) use pacer::{BURST_PACKETS, BURST_S};
use phases::Phase;
use random::Random;
use second_look::SecondLook;
use startup::{StartUp, Verdict, first_rate};
use trains::{Kind, Train, Trains};
use units::{ROUND_LEAST_S, SECOND_NS, seconds};

/// Least and greatest round trip that is believed, nanoseconds.
const RTT_LEAST_NS: u64 = 10_000;
const RTT_MOST_NS: u64 = 10 * SECOND_NS;

/// A path that has become longer is believed after about so many samples.
const RTT_LEAST_FORGETS: u64 = 1_024;

/// Nothing sent for this long (and four round trips): the rate is stale.
const IDLE_NS: u64 = SECOND_NS;

/// Wire identity of packets that belong to no train (copies of the tail, probes).
pub const TRAIN_NOT_MEASURED: u8 = 255;

/// How a lane behaves towards others (transport-study §3.3, policies).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The target rate, whatever the network says; only limits and the blackout brake apply.
    Fixed,
    /// Twice the weight of `Fair` in a shared queue.
    High,
    /// An even share.
    Fair,
    /// Uses what others leave: half the queue, never competes with TCP.
    Low,
}

/// What a controller is made from. Rates count whole IP packets.
#[derive(Clone, Copy, Debug)]
pub struct RateConfig {
    /// Behaviour towards others.
    pub policy: Policy,
    /// Never sent faster than this, bytes/s; a huge value means "as the network allows".
    pub target_bytes_per_s: u64,
    /// The network controller never goes below this, bytes/s (a guarantee: bounded by the target; the blackout brake is stronger).
    pub minimum_bytes_per_s: u64,
    /// Size of a full packet, bytes on the IP layer.
    pub packet_bytes: u32,
    /// Seed of the phase lengths.
    pub seed: u64,
    /// Round trip to assume before the first sample (from the lane's set-up), nanoseconds.
    pub initial_rtt_ns: u64,
}

/// What the receiver reports of one train. Times in microseconds wrap; sender's and receiver's clocks need not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TrainReport {
    /// Wire identity, modulo 255; 255 is not a train.
    pub train: u8,
    /// Packets of it that arrived.
    pub received: u32,
    /// Packet number of the first that arrived.
    pub first_packet: u64,
    /// Packet number of the last that arrived.
    pub last_packet: u64,
    /// Send time of `first_packet`, sender's clock.
    pub first_sent_us: u32,
    /// Send time of `last_packet`, sender's clock.
    pub last_sent_us: u32,
    /// Arrival of `first_packet`, receiver's clock.
    pub first_arrival_us: u32,
    /// Arrival of `last_packet`, receiver's clock.
    pub last_arrival_us: u32,
    /// Least of arrival minus send time over the train.
    pub least_one_way_us: u32,
}

/// What may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Packets that may be sent at once; 0 if it is not yet time ([`RateController::next_send_ns`]).
    pub packets: u32,
    /// Train that they belong to.
    pub train: u8,
}

/// What the controller is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Looking for the bottleneck with short trains.
    StartUp,
    /// Keeping the bottleneck full and its queue short.
    Cruise,
    /// Sharing a queue that somebody else keeps full.
    Compete,
    /// Sending at the target (policy `Fixed`).
    Fixed,
}

/// A snapshot for statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateState {
    /// What the controller is doing.
    pub mode: Mode,
    /// Rate of the network controller before limits, bytes/s.
    pub network_bytes_per_s: f64,
    /// Estimated standing queue, seconds.
    pub queue_s: f64,
    /// Random loss level, 0 to 0.4.
    pub random_loss: f64,
    /// Share of the bottleneck's queue that is ours: 1 = alone and saturating, 0 = not saturating (study: ξ).
    pub share: f64,
    /// Response of the loss to our own rate: above 0.3 it is congestion (study: λ).
    pub loss_response: f64,
    /// Base one-way delay relative to the first packet's, seconds; only its changes mean anything.
    pub base_delay_s: f64,
    /// Smoothed round trip, seconds.
    pub rtt_s: f64,
}

/// The rate controller of a lane. Call [`Self::admit`] before each burst, [`Self::on_sent`] for every packet, [`Self::on_feedback`] for each report.
#[derive(Clone, Debug)]
pub struct RateController {
    policy: Policy,
    packet_bytes: f64,
    random: Random,
    limits: Limits,
    pacer: Pacer,
    trains: Trains,
    base: BaseDelay,
    mode: Mode,
    /// The network controller's rate, bytes/s.
    network: f64,
    rtt_ns: u64,
    rtt_known: bool,
    /// Least round trip of late: what the path takes without queues and stalls.
    rtt_least_ns: u64,
    /// Generation of the trains that count (see [`Train::generation`]).
    generation: u32,
    phase: Phase,
    startup: StartUp,
    second_look: SecondLook,
    round: Round,
    response: Response,
    loss: LossLevel,
    hold: Hold,
    watch: Watch,
    standing: Standing,
    competition: Competition,
    /// End and rate of the last stay in share mode.
    competed: Option<(u64, f64)>,
    /// The rate at the last dip, if that drained the queue.
    drained: Option<f64>,
    queue_s: f64,
    last_update_ns: u64,
    free_rounds: u32,
    started_ns: u64,
    /// When the path last overflowed because of us, and the queue at which it did, seconds.
    overflow: Option<(u64, f64)>,
    /// When a queue of our making was last seen.
    queue_seen_ns: u64,
    limited_ns: Option<u64>,
    last_sent_ns: u64,
    /// What was said of the lanes between the same two hosts, and when.
    group: Option<(u64, Group)>,
    /// When feedback came last, and the smoothed time between two.
    feedback_ns: Option<u64>,
    feedback_gap_s: f64,
}

impl RateController {
    /// A controller at the start of a lane, at time `now_ns`.
    #[must_use]
    pub fn new(config: RateConfig, now_ns: u64) -> Self {
        let limits = Limits::new(config.target_bytes_per_s, config.minimum_bytes_per_s, now_ns);
        let mode = if config.policy == Policy::Fixed { Mode::Fixed } else { Mode::StartUp };
        let network = if mode == Mode::Fixed { limits.target() } else { limits.network(first_rate(f64::from(config.packet_bytes)), 0.0) };
        let mut controller = Self {
            policy: config.policy,
            packet_bytes: f64::from(config.packet_bytes.max(1)),
            random: Random::new(config.seed),
            limits,
            pacer: Pacer::new(config.packet_bytes, now_ns),
            trains: Trains::new(),
            base: BaseDelay::new(now_ns),
            mode,
            network,
            rtt_ns: config.initial_rtt_ns.clamp(RTT_LEAST_NS, RTT_MOST_NS),
            rtt_known: false,
            rtt_least_ns: RTT_MOST_NS,
            generation: 0,
            phase: Phase::new(now_ns),
            startup: StartUp::first(),
            second_look: SecondLook::default(),
            round: Round::default(),
            response: Response::new(),
            loss: LossLevel::new(),
            hold: Hold::new(),
            watch: Watch::default(),
            standing: Standing::new(),
            competition: Competition::new(now_ns),
            competed: None,
            drained: None,
            queue_s: 0.0,
            last_update_ns: now_ns,
            free_rounds: 0,
            started_ns: now_ns,
            overflow: None,
            queue_seen_ns: now_ns,
            limited_ns: None,
            last_sent_ns: now_ns,
            group: None,
            feedback_ns: None,
            feedback_gap_s: 0.0,
        };
        controller.begin_phase(now_ns);
        controller
    }

    /// Earliest time at which [`Self::admit`] will give a packet; `u64::MAX` while a limit is zero.
    #[must_use]
    pub fn next_send_ns(&self) -> u64 {
        if self.sending_rate() < 1.0 {
            return u64::MAX;
        }
        let at = self.pacer.next_ns();
        // A pulse that has sent its packets waits for its end, whatever has made the pacer due meanwhile.
        if self.phase.pulse_left() == Some(0) { at.max(self.phase.end_ns()) } else { at }
    }

    /// How much later than that packets may leave without a loss of rate, nanoseconds.
    #[must_use]
    pub fn slack_ns(&self) -> u64 {
        // A pulse is measured by its own length.
        if self.phase.pulse_left().is_some() { 0 } else { self.pacer.catch_up_ns(self.sending_rate()) / 4 * 3 }
    }

    /// How many packets may be sent now, and in which train. Call again at [`Self::next_send_ns`], which moves with [`Self::on_sent`].
    pub fn admit(&mut self, now_ns: u64) -> Admission {
        self.resume(now_ns);
        self.move_on(now_ns);
        let rate = self.sending_rate();
        let (mut packets, overslept) = self.pacer.due(now_ns, rate, self.path_rate(now_ns, rate));
        if let Some(left) = self.phase.pulse_left() {
            packets = packets.min(left);
        }
        if overslept && self.trains.current().sent > 0 {
            self.trains.current().disturbed = true;
        }
        Admission { packets, train: self.trains.current_id() }
    }

    /// A packet was sent, `train` as admitted or [`TRAIN_NOT_MEASURED`].
    pub fn on_sent(&mut self, now_ns: u64, packet_number: u64, bytes: u32, train: u8) {
        let rate = self.sending_rate();
        self.pacer.on_sent(now_ns, bytes, rate);
        self.last_sent_ns = now_ns;
        if train == self.trains.current_id() {
            self.trains.on_sent(now_ns, packet_number, bytes);
        }
        // Whatever it was, it took a place in the pulse: silence follows the last one.
        if self.phase.count_pulse_packet() {
            self.pacer.not_before(self.phase.end_ns());
        }
    }

    /// There was nothing to send, or no credit: what was measured around now says nothing about the path's capacity.
    pub fn on_app_limited(&mut self, now_ns: u64) {
        self.trains.current().limited = true;
        self.limited_ns = Some(now_ns);
    }

    /// A feedback packet came in: the round trip it took (without the time the receiver held it), its train reports, and the sender's totals:
    /// packets received by the peer so far, packets newly declared lost and newly known to be delivered.
    pub fn on_feedback(
        &mut self,
        now_ns: u64,
        rtt_ns: u64,
        trains: &[TrainReport],
        _received_total: u64,
        _lost_packets: u32,
        _delivered_packets: u32,
    ) {
        self.on_rtt(rtt_ns);
        self.on_feedback_gap(now_ns);
        let (timeouts, brake) = self.limits.on_heard(now_ns);
        if timeouts > 0 {
            self.pacer.no_later_than(now_ns);
            if self.mode == Mode::Fixed {
                // The phase that began during the silence has its rate and its length.
                self.next_step(now_ns);
            }
        }
        // A lane that was told to be still is not silent because of the path.
        if timeouts > 1 && self.mode != Mode::Fixed && self.limits.cap() > self.packet_per_rtt() {
            self.network = self.bounded(self.network * brake);
            self.search(now_ns, StartUp::after_silence(self.network, self.loss.random()));
        }
        for report in trains {
            self.trains.on_report(report, &mut self.base);
        }
        if self.mode != Mode::Compete {
            self.base.rotate(now_ns);
        }
        // Asked anew each time: what is learned from one train may begin the next.
        while let Some(train) = self.trains.next_final(self.is_short() && self.phase.pulse_left() == Some(0)) {
            self.on_train(now_ns, &train);
        }
        let elapsed_s = seconds(now_ns.saturating_sub(self.last_update_ns));
        if matches!(self.mode, Mode::Cruise | Mode::Compete) && elapsed_s >= self.round_s(now_ns) {
            self.update(now_ns, elapsed_s);
        }
    }

    /// A probe timeout passed with nothing reported: slow down, and after 3 s of silence fall to a packet per round trip, also under `Fixed`.
    pub fn on_probe_timeout(&mut self, now_ns: u64) {
        self.limits.on_probe_timeout(now_ns);
    }

    /// Changes the target, bytes/s; holds from the next packet on.
    pub fn set_target(&mut self, bytes_per_s: u64) {
        self.limits.set_target(bytes_per_s);
        self.network = if self.mode == Mode::Fixed { self.limits.target() } else { self.bounded(self.network) };
    }

    /// Changes the guaranteed minimum, bytes/s.
    pub fn set_minimum(&mut self, bytes_per_s: u64) {
        self.limits.set_minimum(bytes_per_s);
        self.network = if self.mode == Mode::Fixed { self.limits.target() } else { self.bounded(self.network) };
    }

    /// Changes the policy. Leaving `Fixed` searches the path again from the first rate.
    pub fn set_policy(&mut self, policy: Policy) {
        let was_fixed = self.mode == Mode::Fixed;
        self.policy = policy;
        if policy == Policy::Fixed {
            self.mode = Mode::Fixed;
            self.network = self.limits.target();
            self.generation = self.generation.wrapping_add(1);
        } else if was_fixed {
            self.mode = Mode::StartUp;
            self.startup = StartUp::first();
            self.network = self.bounded(first_rate(self.packet_bytes));
            self.generation = self.generation.wrapping_add(1);
        }
    }

    /// What the receiver's storage takes, bytes/s; `None` while it does not bind.
    pub fn set_storage_limit(&mut self, bytes_per_s: Option<u64>) {
        self.limits.set_storage(bytes_per_s);
    }

    /// The lane's lease of an aggregate cap, bytes/s; `None` without one.
    pub fn set_lease(&mut self, bytes_per_s: Option<u64>) {
        self.limits.set_lease(bytes_per_s);
    }

    /// Offset of a wall clock from the clock of `now_ns`, nanoseconds: all lanes of all hosts dip at the same moment, multiples of 10 s, so that a
    /// dip shows the path without any of them (NTP is good enough). Without it lanes of one host still dip together.
    pub fn set_wall_clock_offset(&mut self, offset_ns: u64) {
        self.phase.set_wall_clock_offset(offset_ns);
    }

    /// Mean rate at which packets are admitted at present, bytes/s: never above target, storage limit and lease.
    #[must_use]
    pub fn rate_bytes_per_s(&self) -> u64 {
        self.limits.allowed(self.network, self.packet_per_rtt()) as u64
    }

    /// What bounds the rate.
    #[must_use]
    pub fn limiter(&self) -> Limiter {
        if self.limited_ns.is_some_and(|time| self.last_sent_ns.saturating_sub(time) <= self.rtt_ns.max(SECOND_NS / 10)) {
            Limiter::Source
        } else {
            self.limits.binding(self.network)
        }
    }

    /// A snapshot for statistics.
    #[must_use]
    pub fn state(&self) -> RateState {
        RateState {
            mode: self.mode,
            network_bytes_per_s: self.network,
            queue_s: self.queue_s,
            random_loss: self.random_loss(),
            share: self.response.share(),
            loss_response: self.loss.response(),
            base_delay_s: self.base.base_s().unwrap_or(0.0),
            rtt_s: self.rtt_s(),
        }
    }

    /// Loss that does not depend on our rate, 0 to 0.4.
    #[must_use]
    pub fn random_loss(&self) -> f64 {
        self.loss.random()
    }

    fn rtt_s(&self) -> f64 {
        seconds(self.rtt_ns)
    }

    /// Whether waiting for the end of a pulse's silence would take longer than the path does. Queues and a receiver that stalls make no path longer.
    fn is_short(&self) -> bool {
        self.rtt_least_ns <= SHORT_ROUND_TRIP_NS
    }

    fn packet_per_rtt(&self) -> f64 {
        self.packet_bytes / self.rtt_s()
    }

    /// The rate of the present phase, bytes/s, below everything that bounds it.
    fn sending_rate(&self) -> f64 {
        self.limits.allowed(self.phase.rate(), self.packet_per_rtt())
    }

    /// A rate within minimum and target, and at least one packet per round trip or 200 ms so that the path stays measured.
    fn bounded(&self, rate: f64) -> f64 {
        self.limits.network(rate, self.packet_per_rtt().min(self.packet_bytes * 5.0))
    }

    fn weight(&self) -> f64 {
        match self.policy {
            Policy::High => 2.0,
            Policy::Low => 0.5,
            Policy::Fixed | Policy::Fair => 1.0,
        }
    }

    fn on_rtt(&mut self, rtt_ns: u64) {
        let sample = rtt_ns.clamp(RTT_LEAST_NS, RTT_MOST_NS);
        // RFC 9002 §5.3: an eighth of each sample.
        self.rtt_ns = if self.rtt_known { self.rtt_ns - self.rtt_ns / 8 + sample / 8 } else { sample };
        self.rtt_known = true;
        let longer_ns = sample.saturating_sub(self.rtt_least_ns);
        self.rtt_least_ns = self.rtt_least_ns.min(sample) + longer_ns / RTT_LEAST_FORGETS;
    }

    /// How far apart feedback comes is part of the loop's delay. Packets of one round come at once, and a pause of seconds is no habit.
    fn on_feedback_gap(&mut self, now_ns: u64) {
        if let Some(before_ns) = self.feedback_ns.replace(now_ns) {
            let gap_s = seconds(now_ns.saturating_sub(before_ns)).min(0.5);
            self.feedback_gap_s += 0.125 * (gap_s - self.feedback_gap_s);
        }
    }

    /// Time between two rate updates, seconds: a round trip, but at least a period of the dither.
    fn round_s(&self, now_ns: u64) -> f64 {
        self.rtt_s().max(ROUND_LEAST_S).max(2.0 * self.half_period_least_s(now_ns, self.network))
    }

    fn on_train(&mut self, now_ns: u64, train: &Train) {
        if train.generation != self.generation {
            return;
        }
        match train.kind {
            Kind::Pulse => self.on_pulse(now_ns, train),
            Kind::DipTail => {
                if let Some(arrival) = train.arrival {
                    self.loss.on_dip(f64::from(train.sent), f64::from(arrival.received));
                }
                self.on_dip(now_ns, train);
            }
            _ => {}
        }
        if train.kind == Kind::Dip {
            self.round.dip_start = train.arrival.map(|arrival| (train.start_ns, arrival.first_delay_s));
        }
        if matches!(self.mode, Mode::Cruise | Mode::Compete) {
            self.round.add(train, &mut self.response, &mut self.loss, &self.base);
        }
    }

    fn on_pulse(&mut self, now_ns: u64, train: &Train) {
        if self.mode != Mode::StartUp || train.limited {
            return;
        }
        let is_newest = self.trains.current().sequence == train.sequence;
        match self.startup.on_pulse(train, is_newest, train.centre, self.rtt_s(), &self.base) {
            Verdict::Measuring => {}
            Verdict::Faster { rate } => {
                let grown = rate >= 1.3 * self.network;
                self.network = self.bounded(rate.max(self.network));
                self.loss.set_random(self.startup.random_loss());
                if !grown || self.is_bound() {
                    self.cruise(now_ns);
                } else {
                    self.next_step(now_ns);
                }
            }
            Verdict::Found { rate, queue_s } => {
                self.network = self.bounded(rate);
                self.loss.set_random(self.startup.random_loss());
                self.second_look.on_found(self.network, self.is_short());
                self.cruise(now_ns);
                self.queue_s = queue_s;
            }
            Verdict::Saturated { rate } => {
                self.network = self.bounded(rate);
                self.loss.set_random(self.startup.random_loss());
                self.hold.hit(now_ns, self.network, self.rtt_ns, self.is_short());
                self.second_look.on_found(self.network, self.is_short());
                self.cruise(now_ns);
            }
        }
    }

    /// Goes on with trains of a new generation at once.
    fn next_step(&mut self, now_ns: u64) {
        self.generation = self.generation.wrapping_add(1);
        self.begin_phase(now_ns);
        self.pacer.no_later_than(now_ns);
    }

    fn cruise(&mut self, now_ns: u64) {
        self.mode = Mode::Cruise;
        self.next_step(now_ns);
        self.round = Round::default();
        self.response = Response::new();
        self.loss.begin();
        self.standing = Standing::new();
        self.watch.clear();
        self.free_rounds = 0;
        self.last_update_ns = now_ns + self.rtt_ns;
    }

    /// After a long silence of our own the rate is an old one: half of it is tried first (the validation of RFC 7661 §4.4, with trains).
    fn resume(&mut self, now_ns: u64) {
        let packet_ns = units::nanoseconds(self.packet_bytes / self.sending_rate().max(1.0));
        let stale_ns = IDLE_NS.max(self.rtt_ns.saturating_mul(4)).max(packet_ns.saturating_mul(4));
        if matches!(self.mode, Mode::Cruise | Mode::Compete) && now_ns.saturating_sub(self.last_sent_ns) > stale_ns {
            self.last_sent_ns = now_ns;
            self.network = self.bounded(0.5 * self.network);
            self.search_again(now_ns);
        }
    }

    /// Back to start-up, from the present rate.
    fn search_again(&mut self, now_ns: u64) {
        self.search(now_ns, StartUp::again(self.network, self.loss.random()));
    }

    fn search(&mut self, now_ns: u64, startup: StartUp) {
        self.mode = Mode::StartUp;
        self.startup = startup;
        self.next_step(now_ns);
    }
}

#[cfg(test)]
mod tests;
