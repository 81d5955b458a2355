//! Orders: policy, target, minimum and lease all at once, in the middle of a transfer.

use super::units::DITHER;
use super::{Limiter, Mode, Policy, RateController};

/// A limit raised by this factor ends the phase and the wait that the low limit had imposed. Below it both are over soon, and a phase cut short
/// would only disturb its measurement.
const RAISED: f64 = 2.0;

/// A network rate at this share of what bounds it was held back by that bound, not by the path.
const BOUND: f64 = 0.9;

/// A network rate below this share of a raised bound is worth a search.
const ROOM: f64 = 0.8;

/// What a sender is told to do. Rates in bytes/s of IP packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateOrders {
    /// Behaviour towards others; `None` leaves it as it is.
    pub policy: Option<Policy>,
    /// Never faster; `None`: no target. `Fixed` without a target is not obeyed, the policy stays as it is.
    pub target_bytes_per_s: Option<u64>,
    /// Never slower because of the network.
    pub minimum_bytes_per_s: u64,
    /// Share of an aggregate cap; `None`: none, 0: send no data.
    pub lease_bytes_per_s: Option<u64>,
}

impl RateController {
    /// Whether target, storage or lease hold the network rate back.
    pub(super) fn is_bound(&self) -> bool {
        self.network >= BOUND * self.limits.cap()
    }

    /// Obeys from the next packet on. Ask [`Self::next_send_ns`] again afterwards.
    pub fn obey(&mut self, now_ns: u64, orders: RateOrders) {
        let before = self.sending_rate();
        let was_bound = self.is_bound();
        let policy = orders.policy.unwrap_or(self.policy);
        if policy != Policy::Fixed || orders.target_bytes_per_s.is_some() {
            self.set_target(orders.target_bytes_per_s.unwrap_or(u64::MAX));
            if policy != self.policy {
                self.change_policy(policy);
            }
        }
        self.set_minimum(orders.minimum_bytes_per_s);
        self.set_lease(orders.lease_bytes_per_s);
        let after = self.limits.allowed(self.network, self.packet_per_rtt());
        if was_bound && matches!(self.mode, Mode::Cruise | Mode::Compete) && after > RAISED * before {
            // The rate from before the low bound may be minutes old.
            self.network = self.bounded(self.network.min(RAISED * before));
        }
        if was_bound && self.mode == Mode::Cruise && self.network < ROOM * self.limits.cap() {
            // What the path carries beyond the old bound nobody knows: trains find out in a few round trips, growth takes seconds.
            self.search_again(now_ns);
        } else if after >= RAISED * before.max(1.0) {
            self.next_step(now_ns);
        }
    }

    fn change_policy(&mut self, policy: Policy) {
        self.set_policy(policy);
        if policy == Policy::Low && self.mode == Mode::Compete {
            self.mode = Mode::Cruise;
            self.watch.clear();
        }
    }

    /// What it would send without a lease, bytes/s; `None`: as much as it can get, for it does not know how much that is.
    #[must_use]
    pub fn wanted_bytes_per_s(&self) -> Option<u64> {
        let unknown = self.mode == Mode::StartUp || self.limits.binding(self.network) == Limiter::Lease;
        // The dither needs room above the mean, or nothing can be measured.
        let wanted = if unknown { self.limits.target() } else { (self.network * (1.0 + DITHER)).min(self.limits.target()) };
        (wanted < u64::MAX as f64).then_some(wanted as u64)
    }

    /// Whether the target is the least of target, storage limit and lease, also where another is as low.
    #[must_use]
    pub fn target_binds(&self) -> bool {
        self.limits.target() <= self.limits.cap()
    }

    /// Whether the lease is the least of everything that bounds the rate.
    #[must_use]
    pub fn lease_binds(&self) -> bool {
        self.limits.binding(self.network) == Limiter::Lease
    }

    /// A packet besides the data was sent: it takes its time like any other.
    pub fn on_control_sent(&mut self, now_ns: u64, bytes: u32) {
        let rate = self.sending_rate();
        self.pacer.on_sent(now_ns, bytes, rate);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RateConfig, TRAIN_NOT_MEASURED};
    use super::*;

    const MS: u64 = 1_000_000;

    fn controller(policy: Policy, target_bytes_per_s: u64) -> RateController {
        let config =
            RateConfig { policy, target_bytes_per_s, minimum_bytes_per_s: 0, packet_bytes: 1_500, seed: 3, initial_rtt_ns: 20 * MS };
        RateController::new(config, 0)
    }

    fn orders(policy: Option<Policy>, target: Option<u64>, lease: Option<u64>) -> RateOrders {
        RateOrders { policy, target_bytes_per_s: target, minimum_bytes_per_s: 0, lease_bytes_per_s: lease }
    }

    /// Sends whatever is admitted for a time; bytes.
    fn run(controller: &mut RateController, now_ns: &mut u64, for_ns: u64, number: &mut u64) -> u64 {
        let end_ns = *now_ns + for_ns;
        let mut bytes = 0;
        while *now_ns < end_ns {
            let admission = controller.admit(*now_ns);
            for _ in 0..admission.packets {
                controller.on_sent(*now_ns, *number, 1_500, admission.train);
                *number += 1;
                bytes += 1_500;
            }
            *now_ns = controller.next_send_ns().max(*now_ns + MS / 10).min(end_ns);
        }
        bytes
    }

    #[test]
    fn a_lease_holds_from_the_next_packet_on_and_zero_stops() {
        let mut controller = controller(Policy::Fixed, 10_000_000);
        let (mut now_ns, mut number) = (0, 0);
        let sent = run(&mut controller, &mut now_ns, 1_000 * MS, &mut number);
        assert!((9_950_000..10_100_000).contains(&sent), "{sent}");
        controller.obey(now_ns, orders(None, Some(10_000_000), Some(2_000_000)));
        let sent = run(&mut controller, &mut now_ns, 1_000 * MS, &mut number);
        assert!((1_980_000..=2_040_000).contains(&sent), "{sent}");
        assert_eq!(controller.limiter(), Limiter::Lease);
        controller.obey(now_ns, orders(None, Some(10_000_000), Some(0)));
        assert!(run(&mut controller, &mut now_ns, 10_000 * MS, &mut number) <= 1_500);
        assert_eq!(controller.next_send_ns(), u64::MAX);
        controller.obey(now_ns, orders(None, Some(10_000_000), None));
        let sent = run(&mut controller, &mut now_ns, 1_000 * MS, &mut number);
        assert!((9_900_000..10_100_000).contains(&sent), "nothing of the stop is left: {sent}");
    }

    #[test]
    fn a_raised_lease_does_not_wait_for_what_the_low_one_had_planned() {
        // Nobody answers here: after a few pulses `Fair` goes on slowly, but it must not wait for the 15 s that the low lease had planned.
        for (policy, least) in [(Policy::Fixed, 450_000), (Policy::Fair, 80_000)] {
            let mut controller = controller(policy, 100_000_000);
            controller.obey(0, orders(None, Some(100_000_000), Some(100)));
            let (mut now_ns, mut number) = (0, 0);
            run(&mut controller, &mut now_ns, 1_000 * MS, &mut number);
            controller.obey(now_ns, orders(None, Some(100_000_000), Some(1_000_000)));
            let sent = run(&mut controller, &mut now_ns, 500 * MS, &mut number);
            assert!((least..=510_000).contains(&sent), "{policy:?}: {sent}");
        }
    }

    #[test]
    fn policies_change_in_the_middle_and_fixed_needs_a_target() {
        let mut controller = controller(Policy::Fair, u64::MAX);
        controller.obey(0, orders(Some(Policy::Fixed), None, None));
        assert_eq!(controller.state().mode, Mode::StartUp, "no target, no fixed rate");
        controller.obey(0, orders(Some(Policy::Fixed), Some(5_000_000), None));
        assert_eq!((controller.state().mode, controller.rate_bytes_per_s()), (Mode::Fixed, 5_000_000));
        controller.obey(0, orders(None, None, None));
        assert_eq!(controller.rate_bytes_per_s(), 5_000_000, "the target of a fixed rate cannot be taken away");
        controller.obey(0, orders(Some(Policy::High), None, None));
        assert_eq!(controller.state().mode, Mode::StartUp);
        assert!(controller.rate_bytes_per_s() <= 1_250_000, "it searches from the first rate");
        assert_eq!(controller.wanted_bytes_per_s(), None);
        controller.obey(0, orders(Some(Policy::Low), Some(9_000_000), Some(10_000)));
        assert_eq!(controller.wanted_bytes_per_s(), Some(9_000_000));
    }

    #[test]
    fn control_packets_take_their_time() {
        let mut controller = controller(Policy::Fixed, 1_000_000);
        controller.on_sent(0, 0, 1_500, TRAIN_NOT_MEASURED);
        let before = controller.next_send_ns();
        controller.on_control_sent(0, 100);
        assert_eq!(controller.next_send_ns() - before, 100_000);
    }
}
