//! Lanes between the same two hosts share one bottleneck: the receiving side, which sees all of them, tells each what it should have, and they move
//! together instead of finding their shares against each other (the idea of RFC 3124, across processes).

use super::units::within;
use super::{Mode, Policy, RateController, SECOND_NS};

/// What the receiving side says of the lanes between these two hosts that the network limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// This lane's part, by weight, of what all of them send together, bytes/s of IP packets.
    pub share_bytes_per_s: u64,
    /// How many they are, this one included.
    pub lanes: u32,
}

/// What was said longer ago than this no longer holds.
const FRESH_NS: u64 = 3 * SECOND_NS;

/// How much of the distance to its share, as a logarithm, a lane goes in a round, and the most.
const PULL: f64 = 0.1;
const PULL_MOST: f64 = 0.1;

/// A lane that does not use its rate has at most so many times what all lanes of the path send: a start-up that met a busy host may have found a hundred Gbit/s.
const UNUSED_TIMES: f64 = 2.0;

/// Part of its share with which a newcomer begins: the others hear of it a round trip later, and the queue may be short.
const NEWCOMER: f64 = 0.7;

impl RateController {
    /// What the receiving side says of the lane's group; it holds for 3 s. A lane that has not begun yet begins at its share. `Fixed` does not listen.
    pub fn set_group(&mut self, now_ns: u64, group: Group) {
        if self.policy == Policy::Fixed {
            return;
        }
        let is_blind = self.mode == Mode::StartUp && self.startup.is_blind();
        let is_new = is_blind && self.group.is_none_or(|(_, before)| before.share_bytes_per_s == 0);
        let lanes_before = self.group.map_or(1, |(_, before)| before.lanes.max(1));
        self.group = Some((now_ns, group));
        if group.lanes < 2 || group.share_bytes_per_s == 0 {
            return;
        }
        let share = group.share_bytes_per_s as f64;
        if is_new {
            self.network = self.bounded(NEWCOMER * share);
            self.cruise(now_ns);
        } else if group.lanes > lanes_before && !is_blind {
            // Newcomers begin with their parts at once, so the others make room at once: pulled round by round, all of them together would send
            // far more than the path takes meanwhile.
            let room = self.network * f64::from(lanes_before) / f64::from(group.lanes);
            self.network = self.bounded(room.max(share.min(self.network)));
            if self.mode == Mode::StartUp {
                self.cruise(now_ns);
            }
        }
    }

    /// What is known of the lane's group, if others are in it.
    fn fresh_group(&self, now_ns: u64) -> Option<Group> {
        let (told_ns, group) = self.group?;
        (group.lanes > 1 && now_ns.saturating_sub(told_ns) <= FRESH_NS).then_some(group)
    }

    /// The same, if the lane's share is known too.
    fn shared_group(&self, now_ns: u64) -> Option<Group> {
        self.fresh_group(now_ns).filter(|group| group.share_bytes_per_s > 0)
    }

    /// Whether other lanes between these two hosts are known to share its bottleneck. `Fixed` does not listen.
    #[must_use]
    pub fn is_grouped(&self, now_ns: u64) -> bool {
        self.fresh_group(now_ns).is_some()
    }

    /// What all lanes of the path send if this one sends `rate`, bytes/s.
    pub(super) fn path_rate(&self, now_ns: u64, rate: f64) -> f64 {
        self.fresh_group(now_ns).map_or(rate, |group| rate * f64::from(group.lanes))
    }

    /// The most that a lane may keep of a rate that it does not use, bytes/s; infinite without a group.
    pub(super) fn unused_most(&self, now_ns: u64) -> f64 {
        self.shared_group(now_ns).map_or(f64::INFINITY, |group| UNUSED_TIMES * group.share_bytes_per_s as f64 * f64::from(group.lanes))
    }

    /// Relative change of the rate towards the lane's share of its group.
    pub(super) fn pull(&self, now_ns: u64) -> f64 {
        let Some(group) = self.shared_group(now_ns) else { return 0.0 };
        within(PULL * (group.share_bytes_per_s as f64 / self.network.max(1.0)).ln(), -PULL_MOST, PULL_MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::super::RateConfig;
    use super::*;

    const MS: u64 = 1_000_000;

    fn controller(policy: Policy) -> RateController {
        let config = RateConfig {
            policy,
            target_bytes_per_s: 10_000_000,
            minimum_bytes_per_s: 0,
            packet_bytes: 1_500,
            seed: 1,
            initial_rtt_ns: 20 * MS,
        };
        RateController::new(config, 0)
    }

    #[test]
    fn a_newcomer_begins_at_its_share_and_is_pulled_to_it() {
        let group = |share_bytes_per_s| Group { share_bytes_per_s, lanes: 5 };
        let mut lane = controller(Policy::Fair);
        lane.set_group(0, group(5_000_000));
        assert_eq!((lane.state().mode, lane.rate_bytes_per_s()), (Mode::Cruise, 3_500_000));
        assert!(lane.pull(MS) > 0.0);
        lane.set_group(MS, group(3_500_000));
        assert_eq!(lane.rate_bytes_per_s(), 3_500_000, "only the first word sets a rate");
        assert!(lane.pull(MS).abs() < 1e-9);
        lane.set_group(MS, group(1));
        assert!((lane.pull(2 * MS) + PULL_MOST).abs() < 1e-9);
        assert!(lane.pull(MS + FRESH_NS + 1).abs() < 1e-9, "old news");
    }

    #[test]
    fn the_queue_of_a_group_is_that_of_one_lane() {
        let (mut lane, alone) = (controller(Policy::Fair), controller(Policy::Fair));
        lane.set_group(0, Group { share_bytes_per_s: 0, lanes: 1_000 });
        assert_eq!(lane.rate_bytes_per_s(), alone.rate_bytes_per_s());
        let rate = lane.rate_bytes_per_s() as f64;
        assert!((lane.path_rate(MS, rate) - 1_000.0 * rate).abs() < 1e-3 && (alone.path_rate(MS, rate) - rate).abs() < 1e-3);
        assert!((lane.path_rate(FRESH_NS + 1, rate) - rate).abs() < 1e-3, "old news");
        assert!(lane.unused_most(MS).is_infinite(), "no share is known");
        lane.set_group(MS, Group { share_bytes_per_s: 1_000, lanes: 1_000 });
        assert!((lane.unused_most(2 * MS) - 2e6).abs() < 1e-3 && lane.unused_most(2 * MS + FRESH_NS).is_infinite());
        assert!(lane.target_s(0.0) < 0.7 * alone.target_s(0.0), "{} {}", lane.target_s(0.0), alone.target_s(0.0));
    }

    #[test]
    fn room_is_made_at_once_for_those_who_come_and_not_taken_back_when_they_go() {
        let mut lane = controller(Policy::Fair);
        lane.set_group(0, Group { share_bytes_per_s: 5_000_000, lanes: 2 });
        assert_eq!(lane.rate_bytes_per_s(), 3_500_000);
        // One more: two thirds, even if the share that was told counts the newcomer already; but not below the share.
        lane.set_group(MS, Group { share_bytes_per_s: 1_000_000, lanes: 3 });
        assert_eq!(lane.rate_bytes_per_s(), 2_333_333);
        lane.set_group(2 * MS, Group { share_bytes_per_s: 2_000_000, lanes: 6 });
        assert_eq!(lane.rate_bytes_per_s(), 2_000_000);
        lane.set_group(3 * MS, Group { share_bytes_per_s: 9_000_000, lanes: 12 });
        assert_eq!(lane.rate_bytes_per_s(), 2_000_000, "its share is more than it has");
        lane.set_group(4 * MS, Group { share_bytes_per_s: 9_000_000, lanes: 2 });
        lane.set_group(5 * MS, Group { share_bytes_per_s: 0, lanes: 1 });
        assert_eq!(lane.rate_bytes_per_s(), 2_000_000);
    }

    #[test]
    fn alone_or_fixed_or_without_a_share_nothing_changes() {
        for (policy, share_bytes_per_s, lanes) in [(Policy::Fair, 5_000_000, 1), (Policy::Fair, 0, 3), (Policy::Fixed, 5_000_000, 3)] {
            let mut lane = controller(policy);
            let before = (lane.state().mode, lane.rate_bytes_per_s());
            lane.set_group(0, Group { share_bytes_per_s, lanes });
            assert_eq!((lane.state().mode, lane.rate_bytes_per_s()), before);
            assert!(lane.pull(1).abs() < 1e-9);
        }
    }
}
