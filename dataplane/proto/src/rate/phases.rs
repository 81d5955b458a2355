//! Which train is sent next, how fast and how long: pulses, dither, dips.

use super::units::{DITHER, HALF_PERIOD_S, SECOND_NS, nanoseconds, within};
use super::{Kind, Mode, RateController, pacer};

/// Spread of the half periods, so that two lanes do not dither in step: 0.8 to 1.2 of the nominal length (transport-study §3.2, h).
const SPREAD_LEAST: f64 = 0.8;
const SPREAD: f64 = 0.4;

/// A half period holds at least this many packets (transport-study §3.2, h), and this many bursts: one has no length.
const HALF_PERIOD_PACKETS: f64 = 8.0;
const HALF_PERIOD_BURSTS: f64 = 2.0;

/// Time between dips, and the share of the rate in them (transport-study §3.2, dip).
pub(super) const DIP_EVERY_NS: u64 = 10 * SECOND_NS;
const DIP_RATE: f64 = 0.3;
/// The same of young lanes: many that start together overflow the link, and must drain it to see it.
const DIP_RATE_YOUNG: f64 = 0.1;

/// Lanes that start are quiet for this long while young lanes dip.
const QUIET_NS: u64 = SECOND_NS / 10;

/// Time between dips of young lanes.
pub(super) const YOUNG_DIP_NS: u64 = SECOND_NS;

/// A dip begun this soon after a multiple of [`DIP_EVERY_NS`] is common to all lanes.
const COMMON_DIP_NS: u64 = SECOND_NS;

/// The same of a lane that is alone: it dips half as often, on the same grid, drains this many times its own queue, and samples the rest with so many
/// packets, within bounds. Dips are what such a lane gives away.
const DIP_ALONE_EVERY_NS: u64 = 2 * DIP_EVERY_NS;
const DIP_ALONE_QUEUES: f64 = 1.5;
const DIP_ALONE_LEAST_S: f64 = 0.005;
const DIP_ALONE_TAIL_PACKETS: f64 = 8.0;
const DIP_ALONE_TAIL_LEAST_S: f64 = 0.010;
const DIP_ALONE_TAIL_MOST_S: f64 = 0.080;

/// Length of the first part of a dip, in which the queue drains, and of the second part: 30 packets, within bounds (same place).
const DIP_S: f64 = 0.025;
const DIP_TAIL_PACKETS: f64 = 30.0;
const DIP_TAIL_LEAST_S: f64 = 0.035;
const DIP_TAIL_MOST_S: f64 = 0.150;

/// The stretch of time to which the present train belongs.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    kind: Kind,
    rate: f64,
    start_ns: u64,
    end_ns: u64,
    /// Packets that are left of a pulse.
    pulse_left: u32,
    next_dip_ns: u64,
    wall_offset_ns: u64,
}

impl Phase {
    pub(super) fn new(now_ns: u64) -> Self {
        let mut phase =
            Self { kind: Kind::Steady, rate: 0.0, start_ns: now_ns, end_ns: now_ns, pulse_left: 0, next_dip_ns: 0, wall_offset_ns: 0 };
        phase.next_dip_ns = phase.next_multiple(now_ns, DIP_EVERY_NS);
        phase
    }

    /// Rate of the phase before limits, bytes/s.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    pub(super) fn end_ns(&self) -> u64 {
        self.end_ns
    }

    /// Packets left of a pulse; `None` in any other phase.
    pub(super) fn pulse_left(&self) -> Option<u32> {
        (self.kind == Kind::Pulse).then_some(self.pulse_left)
    }

    /// Counts a packet of a pulse; returns whether it was the last.
    pub(super) fn count_pulse_packet(&mut self) -> bool {
        if self.kind != Kind::Pulse {
            return false;
        }
        self.pulse_left = self.pulse_left.saturating_sub(1);
        self.pulse_left == 0
    }

    pub(super) fn set_wall_clock_offset(&mut self, offset_ns: u64) {
        self.wall_offset_ns = offset_ns;
        self.next_dip_ns = self.next_multiple(self.start_ns, DIP_EVERY_NS);
    }

    /// The next time whose wall clock is a multiple of `step_ns`.
    fn next_multiple(&self, now_ns: u64, step_ns: u64) -> u64 {
        now_ns.saturating_add(step_ns - self.since_multiple(now_ns, step_ns))
    }

    /// Whether a dip that was under way at this time is one in which all of our lanes dip, wherever they run.
    pub(super) fn is_common_dip(&self, at_ns: u64) -> bool {
        self.since_multiple(at_ns, DIP_EVERY_NS) < COMMON_DIP_NS
    }

    /// Time since the wall clock was a multiple of `step_ns`.
    fn since_multiple(&self, now_ns: u64, step_ns: u64) -> u64 {
        now_ns.wrapping_add(self.wall_offset_ns) % step_ns
    }

    /// Asks for an earlier dip, on the grid of `step_ns`.
    pub(super) fn dip_soon(&mut self, now_ns: u64, step_ns: u64) {
        self.next_dip_ns = self.next_dip_ns.min(self.next_multiple(now_ns, step_ns));
    }
}

impl RateController {
    /// Ends phases that are over and begins the one that is due.
    pub(super) fn move_on(&mut self, now_ns: u64) {
        // Time that the pacer may not catch up is gone for the phases too.
        while now_ns >= self.phase.end_ns {
            let start_ns = self.phase.end_ns.max(now_ns.saturating_sub(pacer::CATCH_UP_NS));
            self.begin_phase(start_ns);
        }
    }

    /// Begins the next phase and its train at `start_ns`.
    pub(super) fn begin_phase(&mut self, start_ns: u64) {
        let centre = self.limits.allowed(self.network, self.packet_per_rtt()).max(1.0);
        let packet_s = self.packet_bytes / centre;
        let last = self.phase.kind;
        let cruising = matches!(self.mode, Mode::Cruise | Mode::Compete);
        let quiet_s = self.quiet_s(start_ns);
        let (kind, rate, length_s, amplitude) = if self.mode == Mode::StartUp && quiet_s > 0.0 {
            (Kind::Steady, DIP_RATE_YOUNG * centre, quiet_s, 0.0)
        } else if self.mode == Mode::StartUp {
            self.pulse(centre)
        } else if cruising && last == Kind::Dip {
            // Dips of lanes with different round trips do not meet unless they last: where a competitor is suspected, that matters.
            let suspected = self.watch.since_ns().is_some() && self.response.share() < 0.5;
            let length_s = if self.is_alone(start_ns) {
                within(DIP_ALONE_TAIL_PACKETS * packet_s / DIP_RATE, DIP_ALONE_TAIL_LEAST_S, DIP_ALONE_TAIL_MOST_S)
            } else {
                let least_s = if suspected { DIP_TAIL_MOST_S } else { DIP_TAIL_LEAST_S };
                within(DIP_TAIL_PACKETS * packet_s / DIP_RATE, least_s, DIP_TAIL_MOST_S)
            };
            (Kind::DipTail, self.dip_rate(start_ns) * centre, length_s, 0.0)
        } else if cruising && start_ns >= self.phase.next_dip_ns {
            let (every_ns, length_s) = if self.is_alone(start_ns) {
                (DIP_ALONE_EVERY_NS, within(DIP_ALONE_QUEUES * self.queue_s / (1.0 - DIP_RATE), DIP_ALONE_LEAST_S, DIP_S))
            } else {
                (DIP_EVERY_NS, DIP_S)
            };
            self.phase.next_dip_ns = self.phase.next_multiple(start_ns, every_ns);
            (Kind::Dip, self.dip_rate(start_ns) * centre, length_s, 0.0)
        } else if cruising {
            self.dither(start_ns, centre)
        } else {
            (Kind::Steady, centre, HALF_PERIOD_S.max(self.half_period_least_s(start_ns, centre)), 0.0)
        };
        let mut end_ns = start_ns.saturating_add(nanoseconds(length_s).max(1_000_000));
        if cruising && start_ns < self.phase.next_dip_ns {
            end_ns = end_ns.min(self.phase.next_dip_ns);
        }
        self.phase.kind = kind;
        // A dip of a very slow lane still sends.
        self.phase.rate = rate.max(1.0);
        self.phase.start_ns = start_ns;
        self.phase.end_ns = end_ns;
        let generation = self.generation;
        let train = self.trains.start();
        train.kind = kind;
        train.generation = generation;
        train.rate = rate;
        train.centre = centre;
        train.amplitude = amplitude;
    }

    /// How long a lane in start-up is to be quiet from now on, seconds, because young lanes dip. The first step of a lane is too slow to be in their way.
    fn quiet_s(&self, now_ns: u64) -> f64 {
        let since_ns = self.phase.since_multiple(now_ns, YOUNG_DIP_NS);
        if self.startup.is_blind() || since_ns >= QUIET_NS { 0.0 } else { (QUIET_NS - since_ns) as f64 * 1e-9 }
    }

    /// Share of the rate at which a dip is sent.
    fn dip_rate(&self, now_ns: u64) -> f64 {
        if self.is_young(now_ns) { DIP_RATE_YOUNG } else { DIP_RATE }
    }

    fn pulse(&mut self, centre: f64) -> (Kind, f64, f64, f64) {
        let peak = self.startup.peak(centre, self.limits.cap()).max(1.0);
        let packets = self.startup.packets(centre, peak, self.packet_bytes);
        self.phase.pulse_left = packets;
        let length_s = f64::from(packets) * self.packet_bytes / centre * self.startup.stretch(centre, self.rtt_s());
        (Kind::Pulse, peak, length_s, 0.0)
    }

    /// How long the packets last that a half period of a lane that sends `rate` bytes/s holds at least, seconds.
    pub(super) fn half_period_least_s(&self, now_ns: u64, rate: f64) -> f64 {
        let burst = self.pacer.burst(rate, self.path_rate(now_ns, rate));
        HALF_PERIOD_PACKETS.max(HALF_PERIOD_BURSTS * f64::from(burst)) * self.packet_bytes / rate.max(1.0)
    }

    /// The half period that follows: a lower one mirrors the upper one before it.
    fn dither(&mut self, now_ns: u64, centre: f64) -> (Kind, f64, f64, f64) {
        let up = (centre * (1.0 + DITHER)).min(self.limits.cap().max(centre));
        let step = up - centre;
        if self.phase.kind == Kind::Up {
            let length_s = (self.phase.end_ns - self.phase.start_ns) as f64 * 1e-9;
            (Kind::Down, centre - step, length_s, step / centre)
        } else {
            let length_s = HALF_PERIOD_S * (SPREAD_LEAST + SPREAD * self.random.unit());
            (Kind::Up, up, length_s.max(self.half_period_least_s(now_ns, centre)), step / centre)
        }
    }
}
