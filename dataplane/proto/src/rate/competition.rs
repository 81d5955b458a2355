//! Sharing a queue with somebody who keeps it full (CUBIC, BBR): when to stop giving way and how much to take.

use super::units::{SECOND_NS, within};

/// Shortest time between two dips that look for a competitor (transport-study §3.3).
pub(super) const EXTRA_DIP_NS: u64 = 2 * SECOND_NS;

/// Half of the time over which the highest queue is remembered (transport-study §3.3, qmax over 10 s).
const PEAK_WINDOW_NS: u64 = 5 * SECOND_NS;

/// Share of the highest queue above which loss is taken for overflow.
const NEAR_FULL: f64 = 0.6;

/// Cut on overflow, and the largest step towards the share aimed at (transport-study §3.3, comp()), both of weight 1. As of several flows of
/// which one is hit, the cut is divided by the weight and the step multiplied.
const CUT: f64 = 0.2;
const STEP_MOST: f64 = 0.06;

/// Loss beyond the random level that shows an overflow however short the queue is.
const SHORT_QUEUE_LOSS: f64 = 0.05;

/// Least share of a cut.
const GUILT_LEAST: f64 = 0.25;

/// Share of the queue at which we are taken to be alone.
const ALONE: f64 = 0.85;

/// A queue that stays although we cut.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    since_ns: Option<u64>,
    /// When a look was last asked for, or the queue rose.
    asked_ns: u64,
    rate_at_onset: f64,
}

impl Watch {
    /// Takes in the queue after an update; returns whether a dip should look what is behind a queue that has stood for `patience_ns`.
    pub(super) fn observe(&mut self, now_ns: u64, high: bool, rate: f64, patience_ns: u64) -> bool {
        if !high {
            self.since_ns = None;
            return false;
        }
        match self.since_ns {
            None => {
                self.since_ns = Some(now_ns);
                self.asked_ns = now_ns;
                self.rate_at_onset = rate;
                false
            }
            Some(_) if now_ns.saturating_sub(self.asked_ns) > patience_ns => {
                self.asked_ns = now_ns;
                true
            }
            Some(_) => false,
        }
    }

    /// Whether a high queue is being watched, and the rate when it rose.
    pub(super) fn onset(&self) -> Option<f64> {
        self.since_ns.map(|_| self.rate_at_onset)
    }

    /// Since when the queue has been high without a dip having explained it.
    pub(super) fn since_ns(&self) -> Option<u64> {
        self.since_ns
    }

    pub(super) fn clear(&mut self) {
        self.since_ns = None;
    }
}

/// How far two dips may disagree about a delay that neither of them moved, and how far below it the delay may have been in between, seconds.
const DIPS_AGREE_S: f64 = 0.001;
const STANDS_S: f64 = 0.002;

/// Dips in a row that must agree about a delay that rose slowly: CUBIC's queue stands still for seconds before it probes further (RFC 9438 §4.1), but
/// had grown before. A path becomes longer at once.
const SLOW_RISE_DIPS: u32 = 5;

/// A rise from one round to the next that is a jump, seconds, and the rounds that it may take, the first included: a round may hold both sides of it.
const JUMP_S: f64 = 0.010;
const JUMP_ROUNDS: u32 = 2;

/// A delay that does not move when we send less, and does not move when we send more: a longer path, not somebody's queue.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    excess_s: Option<f64>,
    /// Least queue since the last dip, and since it has been high or last jumped.
    least_since_s: f64,
    least_high_s: f64,
    last_s: f64,
    jump_rounds: u32,
    /// Dips in a row that agreed with the one before.
    agreed: u32,
}

impl Standing {
    pub(super) fn new() -> Self {
        Self { excess_s: None, least_since_s: f64::INFINITY, least_high_s: f64::INFINITY, last_s: f64::INFINITY, jump_rounds: 0, agreed: 0 }
    }

    /// What dips have left is not compared with what was before.
    pub(super) fn forget_dips(&mut self) {
        *self = Self { last_s: self.last_s, jump_rounds: self.jump_rounds, ..Self::new() };
    }

    /// Takes in the queue at the foot of a dither period, and whether it has been high for longer than a change of the path takes to be seen.
    pub(super) fn observe(&mut self, excess_s: f64, has_been_high: bool) {
        self.least_since_s = self.least_since_s.min(excess_s);
        if excess_s > self.last_s + JUMP_S {
            self.jump_rounds = JUMP_ROUNDS;
        }
        self.last_s = excess_s;
        if has_been_high && self.jump_rounds == 0 {
            self.least_high_s = self.least_high_s.min(excess_s);
        } else {
            self.least_high_s = f64::INFINITY;
            self.jump_rounds = self.jump_rounds.saturating_sub(1);
        }
    }

    /// The same while we are quiet: what is left says nothing about a rise.
    pub(super) fn observe_dip(&mut self, excess_s: f64) {
        self.least_since_s = self.least_since_s.min(excess_s);
    }

    /// Takes in what a dip left of a high queue; the excess if the dips before it and everything in between left the same. `nobody_met`: no competitor
    /// is known who could have made it.
    pub(super) fn on_dip(&mut self, high: bool, excess_s: f64, nobody_met: bool) -> Option<f64> {
        let Some(before) = self.excess_s.take().filter(|_| high) else {
            self.agreed = 0;
            return None;
        };
        let stood = (before - excess_s).abs() < DIPS_AGREE_S && self.least_since_s > excess_s - STANDS_S;
        self.agreed = if stood { self.agreed + 1 } else { 0 };
        let at_once = nobody_met && self.least_high_s > excess_s - STANDS_S;
        (stood && (at_once || self.agreed >= SLOW_RISE_DIPS)).then_some(excess_s.min(before))
    }

    /// A dip that left a high queue begins the comparison.
    pub(super) fn begin(&mut self, excess_s: f64) {
        self.excess_s = Some(excess_s);
        self.least_since_s = f64::INFINITY;
    }
}

/// State of the share mode.
#[derive(Clone, Debug)]
pub(super) struct Competition {
    peak_s: [f64; 2],
    peak_start_ns: u64,
    cut_ns: u64,
    high_ns: u64,
}

/// One round in share mode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// Rate that arrived, queue and its usual set point (seconds), our share of the queue and the share aimed at.
    pub(super) arrival_rate: f64,
    /// The present rate.
    pub(super) rate: f64,
    pub(super) queue_s: f64,
    pub(super) high_queue_s: f64,
    pub(super) set_point_s: f64,
    pub(super) share: f64,
    pub(super) share_is_known: bool,
    pub(super) aim: f64,
    pub(super) weight: f64,
    /// Packets sent and the share lost, and the random level.
    pub(super) packets: f64,
    pub(super) loss: f64,
    pub(super) random_loss: f64,
    pub(super) rtt_ns: u64,
}

/// What a round in share mode decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decision {
    /// The new rate, if it changes.
    pub(super) rate: Option<f64>,
    /// The queue was not near full: the loss of this round is random.
    pub(super) loss_is_random: bool,
    /// There is nobody left to share with.
    pub(super) leave: bool,
}

impl Competition {
    pub(super) fn new(now_ns: u64) -> Self {
        Self { peak_s: [0.0; 2], peak_start_ns: now_ns, cut_ns: now_ns, high_ns: now_ns }
    }

    /// Decides on a round.
    pub(super) fn round(&mut self, now_ns: u64, round: &Round) -> Decision {
        let window_ns = PEAK_WINDOW_NS.max(round.rtt_ns.saturating_mul(10));
        if now_ns.saturating_sub(self.peak_start_ns) > window_ns {
            self.peak_s = [0.0, self.peak_s[0]];
            self.peak_start_ns = now_ns;
        }
        self.peak_s[0] = self.peak_s[0].max(round.queue_s);
        let peak_s = self.peak_s[0].max(self.peak_s[1]);
        // Also a queue too short to look high overflows: then it is the loss that shows it.
        let shows = peak_s > round.high_queue_s || round.loss - round.random_loss > SHORT_QUEUE_LOSS;
        let near_full = shows && round.queue_s > NEAR_FULL * peak_s;
        let lost = (round.loss - round.random_loss) * round.packets;
        let chance = (round.random_loss.max(1.0 / round.packets) * round.packets).sqrt();
        let overflow = near_full && lost >= (3.0 * chance).max(2.0);
        if round.queue_s > round.set_point_s {
            self.high_ns = now_ns;
        }
        let since_cut_ns = now_ns.saturating_sub(self.cut_ns);
        let rate = if overflow && since_cut_ns > round.rtt_ns.max(SECOND_NS / 10) {
            self.cut_ns = now_ns;
            // Who holds little of the queue has little to do with its overflow.
            let guilt = within(round.share / round.aim, GUILT_LEAST, 1.0);
            Some(round.arrival_rate * (1.0 - CUT * guilt / round.weight))
        } else if since_cut_ns > round.rtt_ns {
            let step = STEP_MOST * round.weight * (1.0 - round.share / round.aim);
            // Below the aim a queue that somebody else fills must not take our rate with it.
            let reference = if step > 0.0 { round.arrival_rate.max(round.rate) } else { round.arrival_rate };
            Some(reference * (1.0 + within(step, -STEP_MOST, STEP_MOST * round.weight)))
        } else {
            None
        };
        let low_for_ns = now_ns.saturating_sub(self.high_ns);
        let leave = (round.share > ALONE && round.share_is_known) || low_for_ns > (3 * round.rtt_ns).max(SECOND_NS);
        Decision { rate, loss_is_random: !near_full, leave }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks are asked for again and again, but the queue has stood since it rose.
    #[test]
    fn a_watch_asks_again_and_keeps_its_beginning() {
        let mut watch = Watch::default();
        let asked: Vec<u64> = (0..10).filter(|now| watch.observe(100 + now, true, 5.0, 2)).collect();
        assert_eq!(asked, [3, 6, 9]);
        assert_eq!((watch.since_ns(), watch.onset()), (Some(100), Some(5.0)));
        assert!(!watch.observe(110, false, 5.0, 2));
        assert_eq!(watch.since_ns(), None);
    }

    /// A path becomes longer at once; a queue that rose and stands still for a while is somebody's until it has stood for long.
    #[test]
    fn a_queue_that_rose_slowly_is_no_longer_path() {
        let dips_until_longer = |rise: &[f64], nobody_met| {
            let mut standing = Standing::new();
            for (index, queue_s) in rise.iter().enumerate() {
                standing.observe(*queue_s, index > 1);
            }
            standing.begin(0.040);
            (1..20).find(|_| {
                standing.observe(0.040, true);
                let longer = standing.on_dip(true, 0.040, nobody_met);
                standing.begin(0.040);
                longer.is_some()
            })
        };
        let slowly = Some(SLOW_RISE_DIPS);
        assert_eq!(dips_until_longer(&[0.004, 0.004, 0.004, 0.030, 0.040, 0.040], true), Some(1), "a jump within two rounds");
        assert_eq!(dips_until_longer(&[0.004, 0.004, 0.022, 0.022, 0.022, 0.022, 0.040, 0.040], true), Some(1), "two of them");
        assert_eq!(dips_until_longer(&[0.020, 0.025, 0.030, 0.035, 0.040], true), slowly, "a plateau");
        assert_eq!(dips_until_longer(&[0.004, 0.004, 0.040, 0.040], false), slowly, "a jump, or one who is back");
    }

    /// A dip that drains the queue between two plateaus says that it is a queue.
    #[test]
    fn dips_agree_only_in_a_row() {
        let mut standing = Standing::new();
        for queue_s in [0.030, 0.035, 0.040] {
            standing.observe(queue_s, true);
        }
        for _ in 0..SLOW_RISE_DIPS {
            standing.begin(0.040);
            for _ in 0..SLOW_RISE_DIPS - 1 {
                standing.observe(0.040, true);
                assert_eq!(standing.on_dip(true, 0.040, true), None);
                standing.begin(0.040);
            }
            assert_eq!(standing.on_dip(false, 0.001, true), None);
        }
    }
}
