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

/// What was said of a group longer ago than this no longer holds.
pub const GROUP_FRESH_NS: u64 = 3 * SECOND_NS;

/// How much of the distance to its share, as a logarithm, a lane goes in a round, and the most.
const PULL: f64 = 0.1;
const PULL_MOST: f64 = 0.1;

/// Part of its share with which a newcomer begins: the others hear of it a round trip later.
const NEWCOMER: f64 = 0.8;

impl RateController {
    /// What the receiving side says of the lane's group; it holds for 3 s. A lane that has not begun yet begins at its share. `Fixed` does not listen.
    pub fn set_group(&mut self, now_ns: u64, group: Group) {
        if self.policy == Policy::Fixed {
            return;
        }
        let is_new = self.group.is_none() && self.mode == Mode::StartUp && self.startup.is_blind();
        self.group = Some((now_ns, group));
        if is_new && group.lanes > 1 && group.share_bytes_per_s > 0 {
            self.network = self.bounded(NEWCOMER * group.share_bytes_per_s as f64);
            self.cruise(now_ns);
        }
    }

    /// Relative change of the rate towards the lane's share of its group.
    pub(super) fn pull(&self, now_ns: u64) -> f64 {
        let Some((told_ns, group)) = self.group else { return 0.0 };
        if group.lanes < 2 || group.share_bytes_per_s == 0 || now_ns.saturating_sub(told_ns) > GROUP_FRESH_NS {
            return 0.0;
        }
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
        assert_eq!((lane.state().mode, lane.rate_bytes_per_s()), (Mode::Cruise, 4_000_000));
        assert!(lane.pull(MS) > 0.0);
        lane.set_group(MS, group(4_000_000));
        assert_eq!(lane.rate_bytes_per_s(), 4_000_000, "only the first word sets a rate");
        assert!(lane.pull(MS).abs() < 1e-9);
        lane.set_group(MS, group(1));
        assert!((lane.pull(2 * MS) + PULL_MOST).abs() < 1e-9);
        assert!(lane.pull(MS + GROUP_FRESH_NS + 1).abs() < 1e-9, "old news");
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
