//! How long a queue a lane aims at, alone and among others, and below one that has overflowed.

use super::units::{DITHER, HALF_PERIOD_S, SECOND_NS, within};
use super::{Policy, RateController};

/// Queue aimed at, seconds: a base, a part per halving of the rate below 10 Gbit/s (that part makes two lanes converge), and the range of the share
/// term (transport-study §3.2, theta and delta).
const QUEUE_S: f64 = 0.003;
const QUEUE_PER_HALVING_S: f64 = 0.00025;
const QUEUE_FULL_RATE: f64 = 1.25e9;
const QUEUE_SHARE_S: f64 = 0.003;

/// What others of ours may add to our own set point before a queue is looked into, seconds.
const SUSPICIOUS_S: f64 = 0.006;

/// The share term grows by this part of itself for each halving of the rate below this one, down to so many halvings: of lanes that share a queue
/// the slower aims at the longer queue, so they converge, and one that is alone does not feel it (compare the flow scaling of Swift, SIGCOMM 2020, §3.5).
const QUEUE_SHARE_RATE: f64 = 1.25e8;
const QUEUE_SHARE_PER_HALVING: f64 = 1.667;
const QUEUE_SHARE_HALVINGS: f64 = 9.0;

/// A queue that stays above our own target by this factor and this much is not of our making.
const HIGH: f64 = 1.25;
const HIGH_S: f64 = 0.003;

/// Where the queue overflowed, targets are mapped to queues from 0 to this share of it, for this long: alone by an exponential bent like this, among
/// others by the logarithm of targets up to the second of these, bent at the first.
pub(super) const BELOW_OVERFLOW: f64 = 0.95;
const OVERFLOW_BEND_ALONE: f64 = 1.5;
const OVERFLOW_BEND_S: f64 = 0.0015;
const OVERFLOW_TARGET_S: f64 = 0.050;
const OVERFLOW_REMEMBERED_NS: u64 = 30 * SECOND_NS;

/// A queue this many times as high as the one that overflowed is another one.
const OVERFLOW_HIGHER: f64 = 1.5;

/// The most that jitter may add to the queue that is aimed at, half of it (transport-study §3.2, J).
pub(super) const JITTER_MOST_S: f64 = 0.015;

impl RateController {
    /// The rate that counts for how long a queue may be: lanes of one path need no queue to find their shares, so they aim at what one lane with the rate
    /// of all of them would.
    fn path_network(&self) -> f64 {
        self.path_rate(self.last_update_ns, self.network)
    }

    /// Queue that cruise aims at, seconds.
    pub(super) fn set_point_s(&self) -> f64 {
        let halvings = within((QUEUE_FULL_RATE * self.weight() / self.path_network().max(1.0)).log2(), 0.0, 15.0);
        let queue_s = QUEUE_S + QUEUE_PER_HALVING_S * halvings;
        let queue_s = if self.policy == Policy::Low { 0.5 * queue_s } else { queue_s };
        queue_s + (2.0 * self.response.jitter_s()).min(2.0 * JITTER_MOST_S)
    }

    /// What a lane without any share of the queue may add to the set point, seconds.
    fn share_term_s(&self) -> f64 {
        let most_s = if self.policy == Policy::Low { 0.5 * QUEUE_SHARE_S } else { QUEUE_SHARE_S };
        let halvings = within((QUEUE_SHARE_RATE * self.weight() / self.path_network().max(1.0)).log2(), 0.0, QUEUE_SHARE_HALVINGS);
        most_s * (1.0 + QUEUE_SHARE_PER_HALVING * halvings)
    }

    /// A queue this high is not of our making.
    pub(super) fn high_queue_s(&self) -> f64 {
        HIGH * self.target_s(self.response.share()) + HIGH_S
    }

    /// A queue this high may be somebody else's, if it stays while all of ours are quiet.
    pub(super) fn suspicious_queue_s(&self) -> f64 {
        HIGH * (self.set_point_s() + SUSPICIOUS_S) + HIGH_S
    }

    /// Queue that a lane with this share of it aims at, seconds.
    pub(super) fn target_s(&self, share: f64) -> f64 {
        // Squared: who holds nearly all of the queue is alone, though a short queue that clips its delay makes it seem a little less.
        let others = within(1.0 - share / self.weight(), -1.0, 1.0);
        let target_s = self.set_point_s() + self.share_term_s() * others * others.abs();
        // Below a queue that overflows, but still the higher, the higher the target: lanes go on to converge.
        let Some((_, queue_s)) = self.overflow else { return target_s };
        // Alone a lane may stand close below the overflow; among others the differences between their targets must be left.
        let alone = 1.0 - (-OVERFLOW_BEND_ALONE * target_s / queue_s).exp();
        let among = (1.0 + target_s / OVERFLOW_BEND_S).ln() / (1.0 + OVERFLOW_TARGET_S / OVERFLOW_BEND_S).ln();
        let share = within(share, 0.0, 1.0);
        target_s.min(BELOW_OVERFLOW * queue_s * (share * alone + (1.0 - share) * among.min(1.0)))
    }

    /// Something overflowed at the present queue.
    pub(super) fn remember_overflow(&mut self, now_ns: u64) {
        let queue_s = self.queue_s + 0.5 * DITHER * HALF_PERIOD_S;
        self.overflow = Some((now_ns, queue_s.max(QUEUE_S)));
    }

    /// A queue that stands higher than it overflowed was another one, and one that was not met again is forgotten.
    pub(super) fn revise_overflow(&mut self, now_ns: u64) {
        let Some((since_ns, queue_s)) = self.overflow else { return };
        let higher = self.queue_s > OVERFLOW_HIGHER * queue_s + QUEUE_S;
        if higher || now_ns.saturating_sub(since_ns) > OVERFLOW_REMEMBERED_NS {
            self.overflow = None;
        }
    }
}
