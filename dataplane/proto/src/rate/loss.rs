//! Which loss is ours: loss that moves with our rate is congestion, loss that does not is random and no reason to slow down.

use super::average::RunningMean;
use super::units::{median, within};

/// Random loss above this is not believed (transport-study §3.2, p0max).
pub(super) const RANDOM_LOSS_MOST: f64 = 0.40;

/// How many trains the median of the loss looks back at most.
const RECENT_MOST: usize = 128;

/// Excess of loss over the random level that asks for an experiment, besides four standard errors (transport-study §3.3, exsig).
const EXCESS: f64 = 0.02;

/// Standard errors besides the excess beyond which a lane that sees a queue does not grow.
const DOUBTFUL_ERRORS: f64 = 1.5;

/// The same of the loss outside of dips over that in them, besides two standard errors: whoever is wrong about it loses that much of its rate.
const EXCESS_OUTSIDE: f64 = 0.01;

/// What a round keeps of the sums before it: a slow lane's rounds hold too few packets to say anything alone.
const MEMORY: f64 = 0.8;

/// The same of the sums that are compared with dips: about fifteen rounds.
const MEMORY_OUTSIDE: f64 = 0.93;

/// Loss beyond that in dips which says that the link is flooded by a crowd of newcomers, not kept full by TCP.
const FLOODED: f64 = 0.05;

/// Packets over which the random level follows the measured loss, and the largest step (transport-study §3.3).
const FOLLOW_PACKETS: f64 = 4_000.0;
const FOLLOW_MOST: f64 = 0.2;

/// Packets and dips that the loss measured in dips remembers (transport-study §3.3).
const DIP_PACKETS: f64 = 120.0;
const DIP_COUNT: f64 = 6.0;

/// Dips before bursts of loss make the loss in dips less certain.
const DIPS_FEW: f64 = 4.0;

/// The running experiment: the rate was cut, now see whether the loss falls with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Experiment {
    /// Trains sent from here on are part of it.
    pub(super) start_ns: u64,
    /// Loss before the cut, and the loss to expect after it if all the excess was congestion.
    loss_before: f64,
    loss_expected: f64,
    /// Rate to return to.
    pub(super) rate_before: f64,
    /// Share of the queue at the cut.
    share: f64,
}

/// What the experiment said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The loss fell with the rate: keep the cut.
    Congestion,
    /// The loss stayed: it is random, return to this rate.
    Random { rate: f64 },
    /// The loss stayed, but it may be the congestion of all others: hold still until a dip tells.
    Unclear,
}

/// The loss of one round of trains.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundLoss {
    pub(super) loss: f64,
    pub(super) packets: f64,
    /// Excess of the round's median train over the random level.
    pub(super) excess: f64,
    pub(super) significant: bool,
    error: f64,
}

impl RoundLoss {
    /// Whether more was lost than any random level that is believed explains, by three standard deviations.
    pub(super) fn cannot_be_random(&self) -> bool {
        self.loss > RANDOM_LOSS_MOST + 0.05 + 1.5 / self.packets.max(1.0).sqrt()
    }

    /// Whether so much was lost that it is no time to send more.
    pub(super) fn is_doubtful(&self, random: f64) -> bool {
        self.loss > random + EXCESS + DOUBTFUL_ERRORS * self.error
    }

    /// Whether more was lost than a random level explains, by three standard deviations and two packets.
    pub(super) fn lost_beyond(&self, random: f64) -> bool {
        (self.loss - random) * self.packets > 3.0 * (random * self.packets).sqrt() + 2.0
    }
}

/// Random level, response of the loss to our own dither, and what dips measured.
#[derive(Clone, Debug)]
pub(super) struct LossLevel {
    random: f64,
    response: RunningMean,
    /// Variance that chance alone gives the responses: eight of them may agree by luck where trains are short.
    response_chance: RunningMean,
    per_train: RunningMean,
    /// Variance that chance alone gives the loss of trains.
    per_train_chance: RunningMean,
    recent: [f64; RECENT_MOST],
    recent_count: usize,
    dip_loss: f64,
    dip_packets: f64,
    dips: f64,
    experiment: Option<Experiment>,
    frozen: bool,
    /// Fading sums of trains, packets sent and packets received.
    sums: [f64; 3],
    /// Slower fading sums of packets sent and received outside of dips, to compare with dips.
    outside: [f64; 2],
}

impl LossLevel {
    pub(super) fn new() -> Self {
        Self {
            random: 0.0,
            response: RunningMean::new(32.0),
            response_chance: RunningMean::new(32.0),
            per_train: RunningMean::new(64.0),
            per_train_chance: RunningMean::new(64.0),
            recent: [0.0; RECENT_MOST],
            recent_count: 0,
            dip_loss: 0.0,
            dip_packets: 0.0,
            dips: 0.0,
            experiment: None,
            frozen: false,
            sums: [0.0; 3],
            outside: [0.0; 2],
        }
    }

    /// The random level, in `[0, 0.4]`.
    pub(super) fn random(&self) -> f64 {
        self.random
    }

    /// Sets the random level.
    pub(super) fn set_random(&mut self, loss: f64) {
        self.random = within(loss, 0.0, RANDOM_LOSS_MOST);
    }

    /// Response of the loss to our own rate: 0 when it does not care, 1 when every packet more is a packet lost.
    pub(super) fn response(&self) -> f64 {
        self.response.mean()
    }

    /// Whether it is us who overflow something (transport-study §3.3, satl).
    pub(super) fn is_ours(&self) -> bool {
        let count = self.response.count();
        let error = self.response.error().max((self.response_chance.mean() / count.max(1.0)).sqrt());
        count >= 8.0 && self.response.mean() > (4.0 * error).max(0.3)
    }

    /// Forgets the response: the rate has changed.
    pub(super) fn clear_response(&mut self) {
        self.response.clear();
        self.response_chance.clear();
    }

    /// A mode begins: forget what was measured in another.
    pub(super) fn begin(&mut self) {
        self.clear_response();
        self.forget_recent();
        self.experiment = None;
        self.frozen = false;
    }

    fn forget_recent(&mut self) {
        self.recent_count = 0;
        self.sums = [0.0; 3];
    }

    /// Loss of one train of so many packets.
    pub(super) fn on_train(&mut self, loss: f64, packets: f64) {
        self.per_train.add(loss);
        let mean = self.per_train.mean();
        self.per_train_chance.add(mean * (1.0 - mean) / packets.max(1.0));
        if self.recent_count == RECENT_MOST {
            self.recent.copy_within(1.., 0);
            self.recent_count -= 1;
        }
        self.recent[self.recent_count] = loss;
        self.recent_count += 1;
    }

    /// Loss of the upper and lower half of a dither period of so many packets.
    pub(super) fn on_pair(&mut self, upper: f64, lower: f64, amplitude: f64, packets: f64) {
        let mean = (0.5 * (upper + lower)).min(0.9);
        let scale = 1.0 / (2.0 * amplitude * (1.0 - mean));
        self.response.add((upper - lower) * scale);
        // Two binomial samples of half the packets each.
        self.response_chance.add(mean * (1.0 - mean) * 4.0 / packets.max(1.0) * scale * scale);
    }

    /// Sums up a round of `trains` trains.
    pub(super) fn round(&mut self, trains: f64, sent: f64, received: f64) -> RoundLoss {
        let packets = sent;
        let loss = (1.0 - received / sent).max(0.0);
        let binomial = (self.random.max(1.0 / sent) * (1.0 - self.random) / (sent / trains)).sqrt();
        let error = self.per_train.deviation().max(binomial) / trains.sqrt();
        let keep = (trains as usize).clamp(8, RECENT_MOST).min(self.recent_count);
        let drop = self.recent_count - keep;
        self.recent.copy_within(drop..self.recent_count, 0);
        self.recent_count = keep;
        let mut sorted = self.recent;
        let middle = median(&mut sorted[..keep]);
        let excess = (middle.min(loss) - self.random).max(0.0);
        for (sum, value) in self.sums.iter_mut().zip([trains, sent, received]) {
            *sum = MEMORY * *sum + value;
        }
        for (sum, value) in self.outside.iter_mut().zip([sent, received]) {
            *sum = MEMORY_OUTSIDE * *sum + value;
        }
        let [trains, sent, received] = self.sums;
        let lasting = (1.0 - received / sent - self.random).max(0.0);
        let binomial = (self.random.max(1.0 / sent) * (1.0 - self.random) / (sent / trains)).sqrt();
        let lasts = lasting.min(loss - self.random) > EXCESS + 4.0 * self.per_train.deviation().max(binomial) / trains.sqrt();
        let excess = if lasts { excess.max(lasting) } else { excess };
        RoundLoss { loss, packets, excess, significant: lasts || excess > EXCESS + 4.0 * error, error }
    }

    /// Lets the random level follow a round without suspicious loss. `sole` says that nobody else shares the queue.
    pub(super) fn follow(&mut self, round: &RoundLoss, sole: bool) {
        if round.loss < self.random - EXCESS - 4.0 * round.error {
            self.set_random(round.loss);
        } else if sole || round.loss < self.random {
            let weight = (round.packets / FOLLOW_PACKETS).min(FOLLOW_MOST);
            self.set_random(self.random + weight * (round.loss - self.random));
        }
    }

    /// Loss in the tail of a dip, when the queue is empty and nothing overflows: the truth about random loss.
    pub(super) fn on_dip(&mut self, sent: f64, received: f64) {
        if sent < 1.0 {
            return;
        }
        let loss = (1.0 - received / sent).max(0.0);
        let known = self.dip_packets.min(DIP_PACKETS);
        self.dip_loss = (self.dip_loss * known + loss * sent) / (known + sent);
        self.dip_packets = known + sent;
        self.dips = (self.dips + 1.0).min(DIP_COUNT);
        self.frozen = false;
        let error = self.dip_error();
        if self.random > self.dip_loss + 3.0 * error {
            self.set_random(self.dip_loss + 2.0 * error);
        } else if self.random < self.dip_loss - 3.0 * error {
            self.set_random(self.dip_loss - 2.0 * error);
        }
    }

    /// Whether more is lost than in dips, of which there were enough to know: how much of what is sent arrives, compared with dips.
    pub(super) fn beyond_dips(&mut self) -> Option<f64> {
        let [sent, received] = self.outside;
        if self.dips < 2.0 || sent < 1.0 {
            return None;
        }
        let loss = (1.0 - received / sent).max(0.0);
        let error = (self.dip_error().powi(2) + loss * (1.0 - loss) / sent).sqrt();
        (loss > self.dip_loss + EXCESS_OUTSIDE + 2.0 * error).then(|| {
            self.outside = [0.0; 2];
            (1.0 - loss) / (1.0 - self.dip_loss)
        })
    }

    /// Whether more is lost outside of dips than any TCP would let happen for long.
    pub(super) fn is_flooded(&self) -> bool {
        let [_, sent, received] = self.sums;
        sent > 0.0 && 1.0 - received / sent - self.dip_loss > FLOODED
    }

    fn dip_error(&self) -> f64 {
        let packets = self.dip_packets.max(1.0);
        let least = 1.0 / packets;
        let binomial = self.dip_loss.max(least) * (1.0 - self.dip_loss).max(least) / packets;
        // What trains vary by beyond chance, dips vary by too.
        let bursts = (self.per_train.deviation().powi(2) - self.per_train_chance.mean()).max(0.0);
        // The first dips are those of lanes that start together, whose chaos says nothing about the path.
        let bursts = if self.dips < DIPS_FEW { 0.0 } else { bursts / self.dips };
        (binomial + bursts).sqrt()
    }

    /// Begins an experiment: the rate goes from `rate_before` to `rate_after`.
    pub(super) fn start_experiment(&mut self, now_ns: u64, loss: f64, rate_before: f64, rate_after: f64, share: f64) {
        let loss_expected = (1.0 - (1.0 - loss) * rate_before / rate_after.max(1.0)).max(self.random);
        self.experiment = Some(Experiment { start_ns: now_ns, loss_before: loss, loss_expected, rate_before, share });
        self.forget_recent();
    }

    /// The running experiment.
    pub(super) fn experiment(&self) -> Option<Experiment> {
        self.experiment
    }

    /// Ends the experiment with the loss of trains that were sent after the cut.
    pub(super) fn finish_experiment(&mut self, loss: f64) -> Outcome {
        let Some(test) = self.experiment.take() else { return Outcome::Congestion };
        if loss <= 0.5 * (test.loss_before + test.loss_expected) {
            return Outcome::Congestion;
        }
        let sole = test.share > 0.5 || self.dips < 1.0 || loss < self.dip_loss + 3.0 * self.dip_error();
        if !self.is_ours() && sole {
            self.set_random(loss);
            self.clear_response();
            Outcome::Random { rate: test.rate_before }
        } else {
            self.frozen = true;
            Outcome::Unclear
        }
    }

    /// Abandons a running experiment.
    pub(super) fn abandon_experiment(&mut self) {
        self.experiment = None;
        self.forget_recent();
    }

    /// Whether the rate must hold still because of loss that could not be explained; a round without it ends that.
    pub(super) fn holds_still(&mut self, round: &RoundLoss) -> bool {
        self.frozen &= round.significant;
        self.frozen
    }
}
