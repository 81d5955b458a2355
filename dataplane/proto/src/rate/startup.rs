//! Start-up by short trains: the spacing of a few packets sent fast says what the path carries, long before a queue stands in it.

use super::delay::BaseDelay;
use super::trains::Train;
use super::units::{median, seconds, within};

/// Rate at which a lane begins with packets of 1500 bytes, bytes/s: 10 Mbit/s (transport-study §3.2, R0), and the size of packet that this is for.
const FIRST_RATE: f64 = 1.25e6;
const FIRST_PACKET_BYTES: f64 = 1_500.0;

/// Rate at which a lane begins, bytes/s: as many packets per second of any larger size, for a path of large packets is no slow one.
pub(super) fn first_rate(packet_bytes: f64) -> f64 {
    FIRST_RATE * (packet_bytes / FIRST_PACKET_BYTES).max(1.0)
}

/// Peak of a pulse over the mean rate: at first, in the steps after the first, and when start-up is entered again from cruise (transport-study §3.2,
/// K and `K_re`; its K is 8 throughout, and takes a round trip more to 1 and to 10 Gbit/s).
const GAIN_FIRST: f64 = 8.0;
const GAIN_NEXT: f64 = 12.5;
const GAIN_AGAIN: f64 = 2.0;

/// Time at the mean rate that a pulse's packets take, seconds, and its fewest packets (transport-study §3.2, P_fill).
const PULSE_S: f64 = 0.010;
const PULSE_PACKETS: f64 = 8.0;

/// A pulse lasts at least this long at its peak, seconds: receivers stamp arrivals when they wake up, 0.1–1 ms late, and a span must stand out of
/// that (the study's 1.25 ms needed stamps better than 0.1 ms, its §3.7).
/// The first pulses are shorter at their mean rate and the later ones at their peak, so that a pulse just beyond what the path carries holds at most
/// 20 ms of it: a queue of 10 ms loses as much again.
const PULSE_SPAN_FIRST_S: f64 = 0.002;
const PULSE_SPAN_S: f64 = 0.00125;

/// Where the delay of single packets jitters, a pulse lasts this many times the spread that was seen, and at most this long, seconds. It holds no more
/// than what the mean rate sends in so many seconds, for a queue that others fill spreads delays as well; its peak is that much lower.
const PULSE_SPAN_PER_SPREAD: f64 = 2.0;
const PULSE_SPAN_MOST_S: f64 = 0.020;
const PULSE_HOLDS_MOST_S: f64 = 0.060;

/// Fewest and most pulses of one step; in between, as many as fit a quarter of a round trip (transport-study §3.3, m).
const PULSES_LEAST: usize = 3;
const PULSES_MOST: usize = 12;

/// Pulses that must be in before loss alone may end start-up (transport-study §3.3).
const PULSES_FOR_LOSS: usize = 8;

/// Once the fate of as many pulses is known as are needed, a step ends at this loss although too few of them could be measured; and at any loss
/// after this many times as many.
const LOSS_UNMEASURED: f64 = 0.65;
const PULSES_UNMEASURED: usize = 4;

/// The fate of so many packets is known well enough, if they were two pulses at least: one may have met a receiver that was off its core.
const PACKETS_ENOUGH: f64 = 300.0;

/// Pulses beyond those needed that the first step sends at its mean rate before anything is known of the path; and how much slower it goes on.
const PULSES_BLIND: usize = 2;
const BLIND_SLOWER: f64 = 8.0;

/// Loss that grows by this much and three standard errors from a step to the next one, which is several times as fast, is no random loss.
const LOSS_GROWN: f64 = 0.05;

/// Standard errors by which a step must lose less than is known for the known level to be wrong.
const KNOWN_LOSS_ERRORS: f64 = 3.0;

/// First delays of pulses that spread by more than this show that somebody else moves the queue, seconds.
const OTHERS_S: f64 = 0.002;

/// A rate found must be this many times the mean rate for the queue not to be of our own making.
const OTHERS_ROOM: f64 = 1.5;

/// Where others move the queue a lane goes on with this share of its mean rate.
const BESIDE_OTHERS: f64 = 0.5;

/// A first delay that is less than every one before by this much, seconds, and they are so many: all of ours were quiet, and the queue of others has
/// drained (one that was late may have met a busy receiver). The second number is the same in packets at the mean rate: where the first packet of a
/// pulse was lost, the next one waited behind it. At least this share of the rate is kept, and that one if the pulse is the first of its step.
const DRAINED_S: f64 = 0.005;
const DRAINED_PACKETS: f64 = 2.0;
const DRAINED_AFTER: u32 = 2;
const DRAINED_LEAST: f64 = 0.1;
const DRAINED_FIRST: f64 = 1.0 / 6.0;

/// Pulses that arrive less than this apart, seconds, came together: others who are quiet still send a tenth.
const STALL_APART_S: f64 = 0.001;

/// Bytes from which packets are large: pulses hold half as many of them.
const LARGE_PACKET_BYTES: f64 = 4_000.0;

/// Arrivals at this share of the peak count as keeping up, and the rate taken then (transport-study §3.3).
const KEEPS_UP: f64 = 0.8;
const VALIDATED: f64 = 0.95;

/// A pulse of which everything arrived before the next one began, in the time that it took to send but for so much, speaks for all of its step when a
/// lane starts: neither the path nor stamps that are late have stretched or shortened it.
const CLEAR: f64 = 0.85;

/// Share of a measured bottleneck rate with which cruise begins (transport-study §3.3).
const FOUND: f64 = 0.98;

/// What a step of start-up found out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Not enough pulses yet.
    Measuring,
    /// The path kept up with the peak: this mean rate is known to work.
    Faster { rate: f64 },
    /// Arrivals were stretched: the bottleneck's rate, less a little, and the queue that the pulses made (seconds).
    Found { rate: f64, queue_s: f64 },
    /// More was sent than arrives: what does arrive.
    Saturated { rate: f64 },
}

/// A delay that grows by this much per time, and by this much in all, from the first pulse of a step to the last: the mean rate itself is more than
/// the path has to spare.
const RISING_SLOPE: f64 = 0.05;
const RISING_S: f64 = 0.0015;

#[derive(Clone, Copy, Debug, Default)]
struct Pulse {
    start_ns: u64,
    /// Offset of the first packet's delay, seconds.
    first_delay_s: f64,
    ratio: f64,
    rate: f64,
    /// Rate counted in packets that arrived instead of packet numbers: lower where a pulse overflowed a short queue.
    received_rate: f64,
    queue_s: f64,
    loss: f64,
}

/// The pulses of the present step and what earlier steps established.
#[derive(Clone, Debug)]
pub(super) struct StartUp {
    gain: f64,
    pulses: [Pulse; PULSES_MOST],
    count: usize,
    sent: f64,
    received: f64,
    /// Pulses whose fate is known, measured or not.
    known: usize,
    /// Least and greatest delay of the first packets of pulses, which find no queue of ours, and how many there were.
    first_delays_s: (f64, f64),
    first_delays: u32,
    /// Start, delay of the first packet and time of arrival (seconds) of the pulse before.
    arrived_before: Option<(u64, f64, f64)>,
    /// Pulses begun in the first step of the first start, until one shows that the path carries them.
    blind: Option<usize>,
    /// Lowest upper bound of the loss over all steps: loss that was there at a rate that the path carried is random.
    loss_bound: Option<f64>,
    /// Loss of the step before and its standard error.
    loss_before: Option<(f64, f64)>,
    /// Mean rate and delivered rate of the step before.
    delivered: Option<(f64, f64)>,
    /// The mean rate of the present step is known to work.
    validated: bool,
    /// Random loss as seen by the present step.
    random_loss: f64,
    /// Random loss that cruise knew when start-up was entered again: from many more packets than a step has.
    known_loss: Option<f64>,
    /// What was sent before a silence may still drain from a queue of ours.
    after_silence: bool,
}

impl StartUp {
    /// The first start of a lane.
    pub(super) fn first() -> Self {
        Self {
            gain: GAIN_FIRST,
            pulses: [Pulse::default(); PULSES_MOST],
            count: 0,
            sent: 0.0,
            received: 0.0,
            known: 0,
            first_delays_s: (f64::INFINITY, f64::NEG_INFINITY),
            first_delays: 0,
            arrived_before: None,
            blind: Some(0),
            loss_bound: None,
            loss_before: None,
            delivered: None,
            validated: false,
            random_loss: 0.0,
            known_loss: None,
            after_silence: false,
        }
    }

    /// Start-up from a rate that is known to work, with its random loss.
    pub(super) fn again(rate: f64, random_loss: f64) -> Self {
        Self {
            gain: GAIN_AGAIN,
            blind: None,
            validated: true,
            loss_bound: Some(random_loss + 0.02),
            delivered: Some((rate, rate * (1.0 - random_loss))),
            random_loss,
            known_loss: Some(random_loss),
            ..Self::first()
        }
    }

    /// The same, after nothing was heard for a while.
    pub(super) fn after_silence(rate: f64, random_loss: f64) -> Self {
        Self { after_silence: true, ..Self::again(rate, random_loss) }
    }

    /// Peak rate of the next pulse around a mean `rate`, below `cap`.
    pub(super) fn peak(&self, rate: f64, cap: f64) -> f64 {
        let gain = self.gain.min(PULSE_HOLDS_MOST_S / self.span_s());
        (rate * gain).min(cap)
    }

    /// Packets of the next pulse.
    pub(super) fn packets(&self, rate: f64, peak: f64, packet_bytes: f64) -> u32 {
        let bytes = (rate * PULSE_S).max(peak * self.span_s());
        let least = if packet_bytes > LARGE_PACKET_BYTES { 0.5 * PULSE_PACKETS } else { PULSE_PACKETS };
        within((bytes / packet_bytes).round(), least, 1e6) as u32
    }

    /// How much longer than its packets take at the mean rate the next pulse lasts: a path of which nothing is known yet gets a few pulses, not a
    /// round trip full of them.
    pub(super) fn stretch(&mut self, rate: f64, rtt_s: f64) -> f64 {
        let needed = self.needed(rate, rate * self.gain, rtt_s);
        let Some(blind) = &mut self.blind else { return 1.0 };
        *blind += 1;
        if *blind > needed + PULSES_BLIND { BLIND_SLOWER } else { 1.0 }
    }

    fn span_least_s(&self) -> f64 {
        if self.gain > GAIN_FIRST { PULSE_SPAN_S } else { PULSE_SPAN_FIRST_S }
    }

    /// Whether nothing is known of the path yet.
    pub(super) fn is_blind(&self) -> bool {
        self.blind.is_some()
    }

    /// How long a pulse lasts at its peak at least, seconds.
    fn span_s(&self) -> f64 {
        let (least, most) = self.first_delays_s;
        within(PULSE_SPAN_PER_SPREAD * (most - least), self.span_least_s(), PULSE_SPAN_MOST_S)
    }

    fn needed(&self, rate: f64, peak: f64, rtt_s: f64) -> usize {
        let pulse_s = (rate * PULSE_S).max(peak * self.span_s()) / rate;
        ((rtt_s / (8.0 * pulse_s)) as usize).clamp(PULSES_LEAST, PULSES_MOST)
    }

    /// Random loss as far as start-up knows.
    pub(super) fn random_loss(&self) -> f64 {
        self.random_loss
    }

    /// Takes in a final pulse of the present step; `is_newest` if none was begun since, so that no queue of ours stands behind it.
    pub(super) fn on_pulse(&mut self, train: &Train, is_newest: bool, rate: f64, rtt_s: f64, base: &BaseDelay) -> Verdict {
        // Without a report it may be the feedback that was lost.
        let (Some(arrival), Some(loss)) = (train.arrival, train.loss()) else { return Verdict::Measuring };
        let arriving_before = (self.sent > 0.0).then(|| self.received / self.sent);
        self.known += 1;
        self.sent += f64::from(train.sent);
        self.received += f64::from(arrival.received);
        let (least, most) = self.first_delays_s;
        self.first_delays_s = (least.min(arrival.first_delay_s), most.max(arrival.first_delay_s));
        self.first_delays += 1;
        // Pulses that a receiver takes one right after the other, when it is back on its core, have falling delays as well; so have those behind what was
        // sent before a silence.
        let before = self.arrived_before.replace((train.start_ns, arrival.first_delay_s, arrival.arrival_span_s));
        let apart = before.is_some_and(|(start_ns, delay_s, span_s)| {
            seconds(train.start_ns.saturating_sub(start_ns)) + arrival.first_delay_s - delay_s - span_s > STALL_APART_S
        });
        if apart
            && !self.after_silence
            && self.first_delays > DRAINED_AFTER
            && arrival.first_delay_s < least - DRAINED_S.max(DRAINED_PACKETS * train.packet_bytes() / rate)
        {
            return self.drained(rate, arriving_before, loss);
        }
        let packets = (arrival.last_packet - arrival.first_packet) as f64;
        let bytes = packets * train.packet_bytes();
        // A burst may leave faster than the peak: it must arrive in the time that the peak allows, not in the time that the burst took.
        let span_s = arrival.send_span_s.max(bytes / train.rate);
        let arrived = bytes / arrival.arrival_span_s.max(1e-6);
        let measured = packets >= 3.0 && !train.disturbed;
        if measured && self.count < PULSES_MOST {
            self.pulses[self.count] = Pulse {
                start_ns: train.start_ns,
                first_delay_s: arrival.first_delay_s,
                ratio: (span_s / arrival.arrival_span_s.max(1e-6)).min(1.0),
                rate: arrived.min(train.rate),
                received_rate: arrived * (f64::from(arrival.received) - 1.0).max(1.0) / packets,
                queue_s: base.excess_s(arrival.first_delay_s).max(0.0),
                loss,
            };
            self.count += 1;
            if self.pulses[self.count - 1].ratio > 0.5 && loss < LOSS_UNMEASURED {
                self.blind = None;
            }
        }
        let needed = self.needed(rate, train.rate, rtt_s);
        if self.count >= needed || (is_newest && measured && self.is_clear(train, arrival.arrival_span_s / span_s)) {
            return self.judge(rate, train.rate);
        }
        let arriving = self.received / self.sent.max(1.0);
        let hopeless = (self.known >= needed || self.known > 1 && self.sent > PACKETS_ENOUGH) && arriving < 1.0 - LOSS_UNMEASURED;
        if !hopeless && self.known < PULSES_UNMEASURED * needed {
            return Verdict::Measuring;
        }
        let random = self.loss_bound.unwrap_or(0.0).min(super::loss::RANDOM_LOSS_MOST);
        self.random_loss = random;
        // What arrives is all that there is, unless a pulse shows more between two silences.
        let delivered = rate * arriving.max(0.01) / (1.0 - random);
        let spaced = if self.count > 0 { FOUND * self.middle(|pulse| pulse.received_rate) / (1.0 - random) } else { 0.0 };
        self.forget_step();
        Verdict::Saturated { rate: delivered.max(spaced.min(train.rate)) }
    }

    /// What a pulse found that passed a drained queue is the gap in which others are quiet; what came through before is what they leave.
    fn drained(&mut self, rate: f64, arriving_before: Option<f64>, loss: f64) -> Verdict {
        let random = self.known_loss.unwrap_or_else(|| self.loss_bound.unwrap_or(0.0).min(loss));
        self.random_loss = within(random, 0.0, super::loss::RANDOM_LOSS_MOST);
        // The first pulse of a step says that the step before, several times slower, had room beside others.
        let share = arriving_before.unwrap_or(DRAINED_FIRST);
        let rate = rate * within(share, DRAINED_LEAST, 1.0);
        self.forget_step();
        Verdict::Found { rate, queue_s: 0.0 }
    }

    /// Whether a pulse whose arrival took this share of its time leaves nothing to be found out by others.
    fn is_clear(&self, pulse: &Train, span: f64) -> bool {
        let first_start = self.known_loss.is_none();
        let whole = pulse.loss() == Some(0.0) && (CLEAR..=1.0 / CLEAR).contains(&span);
        first_start && whole && self.pulses[..self.count].iter().all(|pulse| pulse.ratio >= CLEAR)
    }

    fn forget_step(&mut self) {
        self.blind = None;
        self.count = 0;
        self.known = 0;
        self.sent = 0.0;
        self.received = 0.0;
    }

    fn judge(&mut self, rate: f64, peak: f64) -> Verdict {
        let mean_loss = (1.0 - self.received / self.sent).max(0.0);
        let bound = self.loss_bound.unwrap_or(0.0).min(super::loss::RANDOM_LOSS_MOST);
        let loss = self.middle(|pulse| pulse.loss).min(mean_loss);
        // What the step before lost, not the most that it may have lost: a rate that is corrected for too much loss is too high.
        let random = self.loss_before.map_or(bound, |(before, _)| before.min(bound));
        let least = 1.0 / self.sent;
        let deviation = (loss.max(least) * (1.0 - loss).max(least) / self.sent).sqrt();
        let delivered = rate * (1.0 - loss);
        let lossy = match self.delivered {
            Some((rate_before, delivered_before)) => {
                let grown = self.loss_before.is_some_and(|(before, error)| loss - before > LOSS_GROWN + 3.0 * error.hypot(deviation));
                delivered < 0.6 * delivered_before * rate / rate_before || loss - bound > 0.1 + 4.0 * deviation || grown
            }
            None => loss > 0.4,
        };
        let keeps_up = self.middle(|pulse| pulse.ratio) >= KEEPS_UP;
        let carried_bytes = self.middle(|pulse| pulse.received_rate) / (1.0 - random);
        if lossy && keeps_up && carried_bytes < KEEPS_UP * peak {
            if self.count < PULSES_FOR_LOSS && self.sent < 2_000.0 {
                return Verdict::Measuring;
            }
            self.random_loss = random;
            let carried = self.delivered.map_or(0.0, |(rate_before, _)| rate_before);
            return Verdict::Saturated { rate: (delivered / (1.0 - random)).max(carried) };
        }
        if lossy && !keeps_up {
            // The pulse itself overflowed the queue: its packets still left at the bottleneck's rate, and its loss is not random.
            self.random_loss = random;
            let found = FOUND * self.middle(|pulse| pulse.rate).min(carried_bytes);
            let rate = self.beside_others(found, rate);
            return Verdict::Found { rate, queue_s: self.middle(|pulse| pulse.queue_s) };
        }
        if let Some(slope) = self.rising()
            && self.validated
        {
            // Others use what is missing: a pulse takes its part of the link from them, and shows more than there is.
            self.random_loss = random;
            let rate = rate / (1.0 + slope);
            return Verdict::Found { rate, queue_s: self.middle(|pulse| pulse.queue_s) };
        }
        let before = self.loss_before.replace((mean_loss, deviation));
        self.delivered = Some((rate, delivered));
        let bound = (mean_loss + 2.0 * deviation).min(1.0);
        let bound = self.loss_bound.map_or(bound, |known| known.min(bound));
        self.loss_bound = Some(bound);
        // Pulses that were stretched may have overflowed a short queue. Without an earlier step to compare with, half of their loss is taken for random:
        // too little is put right within a round trip or two, too much is not noticed for long.
        let overflowed = !keeps_up && !self.validated;
        let lower = |known: f64| mean_loss < known - KNOWN_LOSS_ERRORS * deviation;
        self.random_loss = if let Some(known) = self.known_loss.filter(|&known| !lower(known)) {
            known.min(bound)
        } else if overflowed {
            0.5 * mean_loss.min(super::loss::RANDOM_LOSS_MOST)
        } else if let Some((before, error)) = before.filter(|_| !keeps_up) {
            mean_loss.min(before + error).min(bound)
        } else {
            mean_loss.min(bound)
        };
        let verdict = if keeps_up {
            if self.gain == GAIN_FIRST {
                self.gain = GAIN_NEXT;
            }
            // Not more than was seen to arrive: late stamps make it too low, which the next step puts right.
            let arrived = FOUND * self.middle(|pulse| pulse.rate);
            Verdict::Faster { rate: arrived.min(VALIDATED * peak).max(rate) }
        } else {
            // The mean rate of a step that follows another was carried by the path in that one: where single packets jitter, a pulse that seems
            // stretched below it is not believed.
            let validated = if self.validated { rate } else { 0.0 };
            // By packet numbers or, where the pulse overflowed, by what came of it.
            let carried = if before.is_some() { carried_bytes } else { f64::INFINITY };
            let found = FOUND * self.middle(|pulse| pulse.rate).min(carried);
            let found = self.beside_others(found, rate);
            Verdict::Found { rate: found.max(validated), queue_s: self.middle(|pulse| pulse.queue_s) }
        };
        self.validated = true;
        self.forget_step();
        verdict
    }

    /// By how much the delay grows per time over the pulses of the step, if it does.
    fn rising(&self) -> Option<f64> {
        let pulses = &self.pulses[..self.count];
        let (first, last) = (pulses.first()?, pulses.last()?);
        let span_s = seconds(last.start_ns.saturating_sub(first.start_ns));
        let rise_s = last.first_delay_s - first.first_delay_s;
        (rise_s > RISING_S && rise_s > RISING_SLOPE * span_s && span_s > 0.0).then(|| (rise_s / span_s).min(1.0))
    }

    /// The rate to go on with where pulses of this mean rate have found another one. Pulses that each find the queue as the one before left it do not
    /// vary: where they do, somebody else moves the queue and will not make room at once. A mean rate near what was found moves it too.
    fn beside_others(&self, found: f64, rate: f64) -> f64 {
        let (least, most) = self.first_delays_s;
        let others = most - least > OTHERS_S && found > OTHERS_ROOM * rate;
        if others { found.min(BESIDE_OTHERS * rate) } else { found }
    }

    fn middle(&self, value: impl Fn(&Pulse) -> f64) -> f64 {
        let mut values = [0.0; PULSES_MOST];
        for (slot, pulse) in values.iter_mut().zip(&self.pulses[..self.count]) {
            *slot = value(pulse);
        }
        median(&mut values[..self.count])
    }
}

#[cfg(test)]
mod tests {
    use super::super::trains::{Arrival, Kind};
    use super::*;

    const MEAN: f64 = FIRST_RATE;
    const RTT_S: f64 = 0.1;

    /// Takes in pulses of ten packets that keep up with a peak of eight times the mean rate: delay of the first packet (ms), packets that arrived.
    fn verdict(startup: &mut StartUp, pulses: &[(f64, u32)]) -> Verdict {
        let mut verdict = Verdict::Measuring;
        for (sequence, &(delay_ms, received)) in (0..).zip(pulses) {
            let span_s = 9.0 * 1_500.0 / (GAIN_FIRST * MEAN);
            let (first_packet, last_packet) = (sequence * 10, sequence * 10 + 9);
            let delay_s = delay_ms * 1e-3;
            let arrival = Arrival {
                received,
                first_packet,
                last_packet,
                send_span_s: span_s,
                arrival_span_s: span_s,
                first_delay_s: delay_s,
                last_delay_s: delay_s,
                least_delay_s: delay_s,
                last_arrival_us: 0,
            };
            let train = Train {
                kind: Kind::Pulse,
                rate: GAIN_FIRST * MEAN,
                centre: MEAN,
                start_ns: sequence * 16_000_000,
                sent: 10,
                bytes: 15_000,
                arrival: Some(arrival),
                ..Train::new(sequence)
            };
            verdict = startup.on_pulse(&train, false, MEAN, RTT_S, &BaseDelay::new(0));
        }
        verdict
    }

    #[test]
    fn a_queue_of_others_that_drains_ends_the_search_with_what_came_through_before() {
        let pulses = [(20.0, 4), (20.0, 6), (12.0, 10)];
        let mut startup = StartUp::first();
        assert_eq!(verdict(&mut startup, &pulses), Verdict::Found { rate: 0.5 * MEAN, queue_s: 0.0 });
        assert_eq!(startup.random_loss(), 0.0, "what others overflow is not random");
        // What is behind packets that were sent before a silence finds a queue that drains, too.
        assert!(!matches!(verdict(&mut StartUp::after_silence(MEAN, 0.0), &pulses), Verdict::Found { .. }));
        // A receiver that was off its core takes pulses one right after the other.
        assert!(!matches!(verdict(&mut StartUp::first(), &[(40.0, 10), (24.6, 10), (9.2, 10)]), Verdict::Found { .. }));
        // One late packet is no queue.
        assert_eq!(verdict(&mut StartUp::first(), &[(20.0, 10), (12.0, 10)]), Verdict::Measuring);
    }

    #[test]
    fn pulses_that_last_long_hold_little() {
        let mut startup = StartUp::first();
        let peak = startup.peak(MEAN, f64::INFINITY);
        assert!((peak - GAIN_FIRST * MEAN).abs() < 1.0);
        assert_eq!(verdict(&mut startup, &[(0.0, 10), (15.0, 10)]), Verdict::Measuring);
        let peak = startup.peak(100.0 * MEAN, f64::INFINITY);
        let bytes = f64::from(startup.packets(100.0 * MEAN, peak, 1_500.0)) * 1_500.0;
        assert!(bytes <= 1.01 * PULSE_HOLDS_MOST_S * 100.0 * MEAN && peak > 2.0 * 100.0 * MEAN, "{bytes} bytes at {peak}");
    }

    #[test]
    fn a_flood_is_seen_after_some_hundred_packets() {
        let mut startup = StartUp::first();
        assert_eq!(verdict(&mut startup, &[(0.0, 2)]), Verdict::Measuring);
        startup.sent += PACKETS_ENOUGH;
        let Verdict::Saturated { rate } = verdict(&mut startup, &[(0.0, 2)]) else { panic!("hardly anything arrives") };
        assert!(rate <= GAIN_FIRST * MEAN, "{rate}");
    }
}
