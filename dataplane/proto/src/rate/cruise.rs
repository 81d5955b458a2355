//! Cruise: keep the bottleneck full and its queue at a few milliseconds.

use super::average::{RunningMean, TrimmedMean};
use super::competition::{self, EXTRA_DIP_NS, Standing};
use super::loss::{LossLevel, Outcome, RoundLoss};
use super::target::{BELOW_OVERFLOW, JITTER_MOST_S};
use super::units::{DITHER, HALF_PERIOD_S, SECOND_NS, seconds, within};
use super::{BaseDelay, Kind, Mode, Policy, RateController, Train, phases};

/// What a lane that shares a queue falls per round where it overflowed, beyond what the distance to its target asks for.
const OVERFLOW_FALL: f64 = 0.01;

/// A lane that shares dips often while it is this young: it met the queue of others and takes it for the path.
const YOUNG_NS: u64 = 10 * SECOND_NS;
const YOUNG_SHARE: f64 = 0.5;

/// At least so many rounds of a young lane lie between its dips, the second number below this rate (1.5 Mbit/s, in bytes/s), unless they take more
/// seconds than this.
const YOUNG_DIP_ROUNDS: [f64; 2] = [8.0, 32.0];
const YOUNG_DIP_SLOW: f64 = 187_500.0;
const YOUNG_DIP_STEPS_MOST: f64 = 10.0;

/// Jitter below this is not worth a longer queue (transport-study §3.2, J).
const JITTER_FREE_S: f64 = 0.0003;

/// Time constant of the queue over the delay of the loop (transport-study §3.2, T).
const DAMPING: f64 = 2.2;

/// Largest growth per round (transport-study §3.3).
const GROWTH_MOST: f64 = 0.1;

/// What a lane falls per round at most where its rate does not seem to move the queue, when it is young or among others of ours, and otherwise: a full
/// queue does not move either.
const FALL_YOUNG: f64 = 0.06;
const FALL: f64 = 0.02;

/// A lane that shares goes this many times as fast towards a longer queue than is there while it is at most this old: it grows out of the little that
/// start-up left it beside others. Only while the queue is longer than this, seconds, as many lanes make it and one or two do not.
const CATCHES_UP: f64 = 3.0;
const CATCHES_UP_NS: u64 = 25 * SECOND_NS;
const CATCHES_UP_QUEUE_S: f64 = 0.020;

/// Free growth begins when no queue was seen for this long: one of many lanes on a full link moves the queue too little to see that it is full, and
/// when all of them grow at once it overflows.
const FREE_AFTER_NS: u64 = SECOND_NS / 2;
const FREE_AFTER_ROUND_TRIPS: u64 = 4;

/// Share of the queue above which a lane is alone with it, if dips agree.
const ALONE_SHARE: f64 = 0.8;

/// A share of the queue below this is none that can be seen.
const UNSEEN_SHARE: f64 = 0.2;

/// Rounds of free growth before start-up is entered again (transport-study §3.3).
const FREE_ROUNDS: u32 = 3;

/// Fewest trains and packets of a round (transport-study §3.3).
const ROUND_TRAINS: f64 = 2.0;
const ROUND_PACKETS: f64 = 16.0;

/// Share of the queue that is aimed at over the share that is due to the weight: cuts and what cruise gives away keep the mean below the aim.
const AIM: f64 = 1.2;
const AIM_MOST: f64 = 0.75;

/// Share of what a dip of everybody would drain above which the queue is ours, and below which it is somebody else's.
const OURS: f64 = 0.65;
const OURS_LITTLE: f64 = 0.35;

/// Share of the set point above which a queue is there to overflow.
const QUEUE_SEEN: f64 = 0.7;

/// Share of the set point below which a dip has drained the queue.
const DRAINED: f64 = 0.4;

/// How long a competitor is remembered, and the share of the queue that otherwise shows one at which it is met again meanwhile.
const RECENTLY_NS: u64 = 20 * SECOND_NS;
const BACK: f64 = 0.6;

/// A rate is in use where the mean rate of the trains reached this share of it, and what was sent this share of that.
const IN_USE_CENTRE: f64 = 0.9;
const IN_USE: f64 = 0.75;

/// Slopes of the delay outside of this are not believed.
const SLOPE_LEAST: f64 = -0.5;
const SLOPE_MOST: f64 = 2.0;

/// A half period counts for the response if its span reaches this share of the nominal length, and its amplitude this share of the dither.
const MEASURABLE: f64 = 0.3;

/// Pairs whose delay answered to the dither: how much of the queue is ours, and how much the path jitters.
#[derive(Clone, Debug)]
pub(super) struct Response {
    share: TrimmedMean,
    jitter: RunningMean,
    /// Least delays of the two upper halves before.
    least_s: [Option<f64>; 2],
}

impl Response {
    pub(super) fn new() -> Self {
        Self { share: TrimmedMean::starting_at(0.5), jitter: RunningMean::new(32.0), least_s: [None; 2] }
    }

    /// Our share of the queue (study: ξ), about 0 to 1.
    pub(super) fn share(&self) -> f64 {
        self.share.mean()
    }

    /// How much the delay of single trains jitters, seconds.
    pub(super) fn jitter_s(&self) -> f64 {
        self.jitter.mean()
    }

    fn on_pair(&mut self, up: &Train, down: &Train) {
        let (Some(upper), Some(lower)) = (up.arrival, down.arrival) else { return };
        let shortest = MEASURABLE * HALF_PERIOD_S;
        if upper.send_span_s > shortest && lower.send_span_s > shortest {
            let rise = (upper.last_delay_s - upper.first_delay_s) / upper.send_span_s;
            let fall = (lower.last_delay_s - lower.first_delay_s) / lower.send_span_s;
            self.share.add(within((rise - fall) / (2.0 * up.amplitude), -1.0, 2.0));
        }
        // The second difference: a queue that grows or shrinks steadily is no jitter. It spreads √3 times as much as the first.
        if let [Some(before), Some(last)] = self.least_s {
            let change = (upper.least_delay_s - 2.0 * last + before).abs() / 3f64.sqrt();
            self.jitter.add(within(change - JITTER_FREE_S, 0.0, JITTER_MOST_S));
        }
        self.least_s = [self.least_s[1], Some(upper.least_delay_s)];
    }
}

/// The foot of the saw tooth that a pair of half periods makes.
#[derive(Clone, Copy, Debug)]
struct Trough {
    time_ns: u64,
    queue_s: f64,
    /// Mean rate at that time, bytes/s.
    centre: f64,
}

/// Sums over the trains that became final since the last update.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    trains: f64,
    sent: f64,
    received: f64,
    bytes: f64,
    /// Sum of the trains' centre rates, weighted by 1.
    centre: f64,
    oldest_start_ns: Option<u64>,
    newest_end_ns: u64,
    dip: bool,
    disturbed: bool,
    limited: bool,
    pairs: f64,
    queue_s: f64,
    last_up: Option<Train>,
    /// Rise of the delay within the first pair, the only slope known before there are two pairs.
    first_slope: f64,
    /// The newest trough, the one at the last update, and the mean rate over the time between them (integrated: bytes).
    trough: Option<Trough>,
    trough_before: Option<Trough>,
    between_bytes: f64,
    /// Start of a dip and the delay at it.
    pub(super) dip_start: Option<(u64, f64)>,
}

impl Round {
    /// Takes in a final train.
    pub(super) fn add(&mut self, train: &Train, response: &mut Response, loss: &mut LossLevel, base: &BaseDelay) {
        let Some(train_loss) = train.loss() else {
            self.last_up = None;
            return;
        };
        self.trains += 1.0;
        self.sent += f64::from(train.sent);
        self.received += train.arrival.map_or(0.0, |arrival| f64::from(arrival.received));
        self.bytes += train.bytes as f64;
        self.centre += train.centre;
        self.oldest_start_ns.get_or_insert(train.start_ns);
        self.newest_end_ns = train.end_ns;
        self.dip |= matches!(train.kind, Kind::Dip | Kind::DipTail);
        self.disturbed |= train.disturbed;
        self.limited |= train.limited;
        loss.on_train(train_loss, f64::from(train.sent));
        match train.kind {
            Kind::Up => self.last_up = Some(*train),
            Kind::Down => {
                if let Some(up) = self.last_up.take()
                    && up.sequence + 1 == train.sequence
                {
                    self.add_pair(&up, train, response, loss, base);
                }
            }
            _ => self.last_up = None,
        }
    }

    fn add_pair(&mut self, up: &Train, down: &Train, response: &mut Response, loss: &mut LossLevel, base: &BaseDelay) {
        let (Some(upper), Some(lower)) = (up.arrival, down.arrival) else { return };
        // Queue at the foot of the saw tooth: the least delay of both halves is immune against stamps that are late.
        let least_s = base.excess_s(upper.least_delay_s.min(lower.least_delay_s));
        let span_s = seconds(down.end_ns.saturating_sub(up.start_ns)).max(1e-3);
        if self.pairs == 0.0 {
            self.first_slope = (lower.last_delay_s - upper.first_delay_s) / span_s;
        }
        self.pairs += 1.0;
        self.queue_s += least_s;
        let trough = Trough { time_ns: down.start_ns, queue_s: least_s, centre: down.centre };
        if let Some(last) = self.trough {
            self.between_bytes += 0.5 * (last.centre + trough.centre) * seconds(trough.time_ns.saturating_sub(last.time_ns));
        } else {
            self.trough_before = Some(trough);
        }
        self.trough = Some(trough);
        if up.disturbed || down.disturbed || up.limited || down.limited || up.amplitude < MEASURABLE * DITHER {
            return;
        }
        response.on_pair(up, down);
        if let (Some(upper), Some(lower)) = (up.loss(), down.loss()) {
            loss.on_pair(upper, lower, up.amplitude, f64::from(up.sent) + f64::from(down.sent));
        }
    }

    /// The rate that arrived while the queue changed as it did: that of the bottleneck while it was full, immune against random loss.
    ///
    /// Measured from trough to trough, over the rates that were sent between them, so that neither stamps that are late nor a rate that changed
    /// on the way bias it.
    fn arrival_rate(&self) -> f64 {
        let centre = self.centre / self.trains;
        if self.disturbed || self.limited {
            return centre;
        }
        match (self.trough_before, self.trough) {
            (Some(before), Some(now)) if now.time_ns > before.time_ns && self.between_bytes > 0.0 => {
                let span_s = seconds(now.time_ns - before.time_ns);
                let slope = (now.queue_s - before.queue_s) / span_s;
                self.between_bytes / span_s / (1.0 + within(slope, SLOPE_LEAST, SLOPE_MOST))
            }
            _ => centre / (1.0 + within(self.first_slope, SLOPE_LEAST, SLOPE_MOST)),
        }
    }

    /// Sums for the next round begin.
    fn restart(&mut self) {
        *self =
            Self { last_up: self.last_up, trough: self.trough, trough_before: self.trough, dip_start: self.dip_start, ..Self::default() };
    }
}

impl RateController {
    /// Whether the lane may still take the queue of others for the path.
    pub(super) fn is_young(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.started_ns) < YOUNG_NS
    }

    /// Whether nobody else seems to use the bottleneck: the queue answers to us alone, and the last dip drained it.
    pub(super) fn is_alone(&self, now_ns: u64) -> bool {
        let quiet = self.drained.is_some() && self.watch.since_ns().is_none() && !self.is_young(now_ns);
        quiet && self.mode == Mode::Cruise && self.response.share() > ALONE_SHARE
    }

    /// Whether there is a queue that could overflow.
    fn sees_queue(&self) -> bool {
        self.queue_s >= QUEUE_SEEN * self.set_point_s()
    }

    /// Sets the rate from the trains that became final since the last update.
    pub(super) fn update(&mut self, now_ns: u64, elapsed_s: f64) {
        if self.round.trains < ROUND_TRAINS || self.round.sent < ROUND_PACKETS || (self.round.pairs < 1.0 && !self.round.dip) {
            return;
        }
        let round = self.round.clone();
        self.round.restart();
        self.last_update_ns = now_ns;
        let elapsed_s = elapsed_s.min(2.0);
        let losses = self.loss.round(round.trains, round.sent, round.received);
        if losses.lost_beyond(self.loss.random()) {
            // A longer path loses nothing; a full buffer does.
            self.standing.forget_dips();
        }
        if round.pairs > 0.0 {
            let foot_s = round.queue_s / round.pairs;
            if round.dip {
                self.standing.observe_dip(foot_s);
            } else {
                self.standing.observe(foot_s, self.has_watched(now_ns));
            }
            self.queue_s = (foot_s + 0.5 * DITHER * HALF_PERIOD_S * within(self.response.share(), 0.0, 1.0)).max(0.0);
        }
        self.revise_overflow(now_ns);
        if !self.is_alone(now_ns) {
            self.phase.dip_soon(now_ns, phases::DIP_EVERY_NS);
        }
        if self.mode == Mode::Cruise && !self.is_bound() && self.is_young(now_ns) && self.response.share() < YOUNG_SHARE {
            // A slow lane needs seconds for a few rounds, and one that is dipping all the time never gets to set its rate.
            let rounds = YOUNG_DIP_ROUNDS[usize::from(self.network < YOUNG_DIP_SLOW)];
            let rounds_s = rounds * ROUND_PACKETS * self.packet_bytes / self.network.max(1.0);
            self.phase.dip_soon(now_ns, phases::YOUNG_DIP_NS * within(rounds_s.ceil(), 1.0, YOUNG_DIP_STEPS_MOST) as u64);
        }
        if round.dip {
            // The queue was drained on purpose: what is left of the round says nothing about the rate.
            self.round.trough_before = None;
            self.round.trough = None;
            return;
        }
        if losses.cannot_be_random() {
            // Whatever else is believed of this path: most of what is sent is lost, and that is ours to end.
            let delivered = round.centre / round.trains * (1.0 - losses.loss) / (1.0 - self.loss.random());
            if self.mode == Mode::Compete {
                self.stop_competing(now_ns);
            }
            self.competed = None;
            self.network = self.bounded(delivered.min(self.network));
            self.loss.begin();
            self.free_rounds = 0;
            return;
        }
        if let Some(test) = self.loss.experiment() {
            if self.mode == Mode::Compete {
                self.loss.abandon_experiment();
            } else if round.oldest_start_ns.is_some_and(|start| start < test.start_ns) {
                return;
            } else {
                match self.loss.finish_experiment(losses.loss) {
                    Outcome::Random { rate } => {
                        let tried = !self.is_held_back(&round);
                        self.network = self.bounded(rate);
                        if tried && self.response.share() < UNSEEN_SHARE && self.queue_s < 0.5 * self.set_point_s() {
                            // The loss had been taken for the path's limit, and no queue says that it is near: look for it.
                            self.search_again(now_ns);
                        }
                        return;
                    }
                    Outcome::Congestion => self.remember_overflow(now_ns),
                    Outcome::Unclear => {}
                }
            }
        }
        let arrival_rate = round.arrival_rate();
        let delivered = arrival_rate * (1.0 - losses.loss);
        let without_congestion = delivered / (1.0 - self.loss.random());
        if self.mode == Mode::Compete {
            self.share(now_ns, &losses, arrival_rate * (1.0 - losses.excess), self.is_held_back(&round));
            return;
        }
        if self.loss.is_ours() {
            let response = self.loss.response();
            let rate = if response > 0.8 {
                (0.6 * self.network).max(delivered)
            } else {
                (self.network * (1.0 - 0.25 * response)).min(without_congestion)
            };
            self.network = self.bounded(rate.max(0.5 * self.network).min(self.network));
            self.loss.abandon_experiment();
            self.loss.clear_response();
            self.remember_overflow(now_ns);
            if !self.sees_queue() {
                // Nothing but the loss shows this limit: a policer. A queue shows itself when it fills again.
                self.hold.hit(now_ns, self.network, self.rtt_ns, self.is_short());
            }
            self.free_rounds = 0;
            return;
        }
        if self.response.share() < YOUNG_SHARE
            && self.sees_queue()
            && let Some(arriving) = self.loss.beyond_dips()
        {
            // While all of ours are quiet less is lost: all that share the link overflow it, and each takes back its part.
            self.network = self.bounded((self.network * arriving).max(0.5 * self.network));
            self.remember_overflow(now_ns);
            self.free_rounds = 0;
            return;
        }
        if self.loss.holds_still(&losses) {
            return;
        }
        let set_point_s = self.set_point_s();
        let sees_queue = self.sees_queue();
        let share = self.response.share();
        let mut reference = arrival_rate;
        if losses.significant {
            if sees_queue && share < 0.5 {
                reference = without_congestion;
            } else {
                let rate = self.bounded(without_congestion.min(self.network).max(0.5 * self.network));
                self.loss.start_experiment(now_ns, losses.loss, self.network, rate, share);
                self.network = rate;
                self.free_rounds = 0;
                return;
            }
        } else {
            self.loss.follow(&losses, share > 0.5);
        }
        let change = self.change(now_ns, set_point_s, share, losses.significant);
        let doubtful = losses.is_doubtful(self.loss.random()) && sees_queue;
        let change = if doubtful { change.min(0.0) } else { change };
        let change = change + self.pull(now_ns);
        self.apply(now_ns, elapsed_s, &round, losses.loss, reference, change);
        self.look_for_competition(now_ns);
    }

    /// Relative change of the rate that brings the queue to the set point.
    fn change(&mut self, now_ns: u64, set_point_s: f64, share: f64, lossy: bool) -> f64 {
        let low_queue = self.queue_s < 0.5 * set_point_s && !lossy;
        if !low_queue || share >= UNSEEN_SHARE {
            self.queue_seen_ns = now_ns;
        }
        let unseen_ns = now_ns.saturating_sub(self.queue_seen_ns);
        if unseen_ns > FREE_AFTER_NS.max(FREE_AFTER_ROUND_TRIPS * self.rtt_ns) {
            self.free_rounds += 1;
            return 0.9 * GROWTH_MOST;
        }
        self.free_rounds = 0;
        let loop_s = DAMPING * (self.rtt_s() + self.feedback_gap_s + 0.5 * self.round_s(now_ns));
        let error_s = self.target_s(share) - self.queue_s;
        let error_s = if error_s > 0.0 && share < YOUNG_SHARE && self.may_catch_up(now_ns) { CATCHES_UP * error_s } else { error_s };
        let fall_least = if self.is_young(now_ns) || self.is_among_ours() { FALL_YOUNG } else { FALL };
        let fall_most = if self.policy == Policy::Low { 0.5 } else { fall_least + 0.4 * within(share, 0.0, 1.0) };
        let full = share < YOUNG_SHARE && self.overflow.is_some_and(|(_, queue_s)| self.queue_s > BELOW_OVERFLOW * queue_s);
        let error = error_s / loop_s - if full { OVERFLOW_FALL } else { 0.0 };
        let change = within(error, -fall_most, GROWTH_MOST);
        if low_queue { change.max(0.03 * (1.0 - share)) } else { change }
    }

    /// Whether the last dip drained the queue, so that whoever else is there is one of ours, and that still holds: who has lost half of its rate since has
    /// perhaps met somebody else, or a longer path.
    fn is_among_ours(&self) -> bool {
        self.drained.is_some_and(|rate| self.network > 0.5 * rate)
    }

    fn may_catch_up(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.started_ns) < CATCHES_UP_NS && self.queue_s > CATCHES_UP_QUEUE_S
    }

    fn apply(&mut self, now_ns: u64, elapsed_s: f64, round: &Round, loss: f64, reference: f64, change: f64) {
        let mut rate = reference * (1.0 + change);
        if !self.is_in_use(round) {
            // The path was not tried at our rate: it may be too high, but it may not grow.
            self.free_rounds = 0;
            rate = if change < 0.0 { rate.min(self.network).max(self.network * (1.0 + change)) } else { self.network };
            rate = rate.min(self.unused_most(now_ns));
        }
        if round.limited {
            // Pulses of which a part is missing measure nothing: a source that is nearly used up must not search.
            self.free_rounds = 0;
        }
        rate = self.hold.bound(now_ns, rate, elapsed_s);
        self.network = self.bounded(rate);
        if self.second_look.on_round(self.sees_queue(), loss, !self.is_held_back(round)) && !self.is_bound() {
            self.hold.release();
            self.search_again(now_ns);
        } else if self.free_rounds >= FREE_ROUNDS && !self.hold.is_active() && !self.is_bound() {
            self.search_again(now_ns);
        }
    }

    /// Whether something else than the network held the lane back: its source, its credit, a lease, a target.
    fn is_held_back(&self, round: &Round) -> bool {
        round.limited || !self.is_in_use(round)
    }

    /// Whether most of the rate was used: a moment in which the source had nothing, and what was sent the faster after it, have tried the path, too
    /// (RFC 7661 §4.3 is content with half).
    fn is_in_use(&self, round: &Round) -> bool {
        let centre = round.centre / round.trains;
        let span_s = seconds(round.newest_end_ns.saturating_sub(round.oldest_start_ns.unwrap_or(round.newest_end_ns)));
        centre >= IN_USE_CENTRE * self.network && round.bytes >= IN_USE * centre * span_s
    }

    /// Whether the queue has been high for a few rounds.
    fn has_watched(&self, now_ns: u64) -> bool {
        self.watch.since_ns().is_some_and(|since| now_ns.saturating_sub(since) > 3 * self.rtt_ns)
    }

    /// A queue that stays although we cut is looked into with an extra dip.
    fn look_for_competition(&mut self, now_ns: u64) {
        if self.mode != Mode::Cruise {
            return;
        }
        // Whom we have just competed with is known: no dip need show it again.
        let back = self.policy != Policy::Low && self.competed_recently(now_ns).is_some();
        let patience_ns = if back { 2 * self.rtt_ns } else { (3 * self.rtt_ns).max(SECOND_NS / 2) };
        let suspicious_s = if back { BACK * self.suspicious_queue_s() } else { self.suspicious_queue_s() };
        if self.watch.observe(now_ns, self.queue_s > suspicious_s, self.network, patience_ns) {
            if back {
                self.compete(now_ns);
            } else if self.queue_s > self.high_queue_s() {
                self.phase.dip_soon(now_ns, EXTRA_DIP_NS);
            }
        }
    }

    /// The second part of a dip: did the queue drain with us?
    pub(super) fn on_dip(&mut self, now_ns: u64, train: &Train) {
        let (Some((start_ns, start_s)), Some(arrival)) = (self.round.dip_start.take(), train.arrival) else { return };
        if self.policy == Policy::Low {
            return;
        }
        let excess_s = self.base.excess_s(arrival.least_delay_s);
        let high = excess_s > self.high_queue_s();
        let nobody_met = self.mode != Mode::Compete && self.competed_recently(now_ns).is_none();
        if let Some(longer_s) = self.standing.on_dip(high, excess_s, nobody_met) {
            self.base.raise(now_ns, longer_s);
            self.standing = Standing::new();
            self.watch.clear();
            if self.mode == Mode::Compete {
                self.stop_competing(now_ns);
            }
            self.competed = None;
            return;
        }
        if high {
            self.standing.begin(excess_s);
            self.phase.dip_soon(now_ns, EXTRA_DIP_NS);
        }
        let drained_s = seconds(train.end_ns.saturating_sub(start_ns)).max(1e-3);
        let ours = (start_s - arrival.last_delay_s) / ((1.0 - train.rate / train.centre) * drained_s);
        let before_s = self.base.excess_s(start_s);
        let after_s = self.base.excess_s(arrival.last_delay_s);
        let set_point_s = self.set_point_s();
        let all_ours = ours > OURS || after_s < DRAINED * set_point_s;
        let stays = before_s > self.suspicious_queue_s() && after_s > set_point_s && ours < OURS_LITTLE;
        if all_ours {
            if self.mode == Mode::Compete {
                self.stop_competing(now_ns);
            }
            // Twice in a row is no accident of a competitor that has just yielded: whoever it is dips when we do, one of ours. `High` does not care.
            if self.drained.is_some() && self.policy != Policy::High {
                self.competed = None;
            }
        } else if self.mode == Mode::Cruise
            && stays
            && self.has_watched(now_ns)
            && !self.is_young(now_ns)
            && !self.loss.is_flooded()
            && self.phase.is_common_dip(train.start_ns)
        {
            self.compete(now_ns);
        }
        self.drained = all_ours.then_some(self.network);
    }

    fn compete(&mut self, now_ns: u64) {
        let onset = self.watch.onset().map(|rate| 0.7 * rate);
        let rate = self.competed_recently(now_ns).or(onset).unwrap_or(self.network);
        self.network = self.bounded(rate.max(self.network));
        self.mode = Mode::Compete;
        self.competition = competition::Competition::new(now_ns);
        self.hold.release();
    }

    /// The rate at the end of the last stay in share mode, if that is not long ago.
    fn competed_recently(&self, now_ns: u64) -> Option<f64> {
        let recently_ns = RECENTLY_NS.max(self.rtt_ns.saturating_mul(10));
        self.competed.filter(|(end_ns, _)| now_ns.saturating_sub(*end_ns) < recently_ns).map(|(_, rate)| rate)
    }

    fn stop_competing(&mut self, now_ns: u64) {
        self.mode = Mode::Cruise;
        self.competed = Some((now_ns, self.network));
        self.standing = Standing::new();
        self.watch.clear();
        self.free_rounds = 0;
        self.loss.clear_response();
    }

    /// A round in share mode.
    fn share(&mut self, now_ns: u64, losses: &RoundLoss, arrival_rate: f64, held_back: bool) {
        let weight = self.weight();
        let decision = self.competition.round(
            now_ns,
            &competition::Round {
                arrival_rate,
                rate: self.network,
                queue_s: self.queue_s,
                high_queue_s: self.suspicious_queue_s(),
                set_point_s: self.set_point_s(),
                share: self.response.share(),
                share_is_known: self.response.share.is_full(),
                aim: (AIM * weight / (weight + 1.0)).min(AIM_MOST),
                weight,
                packets: losses.packets,
                loss: losses.loss,
                random_loss: self.loss.random(),
                rtt_ns: self.rtt_ns,
            },
        );
        if decision.loss_is_random {
            self.loss.follow(losses, true);
        }
        if let Some(rate) = decision.rate {
            // What was not tried may not grow.
            self.network = self.bounded(if held_back { rate.min(self.network) } else { rate });
        }
        if decision.leave {
            self.stop_competing(now_ns);
        }
    }
}
