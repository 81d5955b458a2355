//! Orders from the control process to a lane's sender, and the sender's word back to it.

use std::time::Duration;

use tokio::time::Instant;
use tradewind_ipc::{LaneOrders, LaneReport, Limiter, RatePolicy};
use tradewind_wire::orders::{KBPS_NONE, limiter, policy};
use tradewind_wire::{LaneId, Orders, State};

/// Between two reports of a lane that has had orders, and of one that has not.
const ORDERED_INTERVAL: Duration = Duration::from_millis(100);
const USUAL_INTERVAL: Duration = Duration::from_millis(500);

/// As they travel to the sender.
pub(crate) fn to_wire(orders: &LaneOrders) -> Orders {
    Orders {
        number: orders.number,
        policy: match orders.policy {
            RatePolicy::Fixed => policy::FIXED,
            RatePolicy::High => policy::HIGH,
            RatePolicy::Fair => policy::FAIR,
            RatePolicy::Low => policy::LOW,
        },
        target_kbps: orders.target_kbps.unwrap_or(KBPS_NONE),
        minimum_kbps: orders.minimum_kbps,
        lease_kbps: orders.lease_kbps.unwrap_or(KBPS_NONE),
    }
}

fn report(lane: LaneId, state: &State, obeyed: u32) -> LaneReport {
    LaneReport {
        lane_id: lane.0,
        orders: obeyed,
        limiter: match state.limiter {
            limiter::NETWORK => Some(Limiter::Network),
            limiter::STORAGE => Some(Limiter::Storage),
            limiter::TARGET => Some(Limiter::Target),
            limiter::LEASE => Some(Limiter::Lease),
            limiter::SOURCE => Some(Limiter::Source),
            _ => None,
        },
        rate_kbps: state.rate_kbps,
        sent_kbps: state.sent_kbps,
        wanted_kbps: Some(state.wanted_kbps).filter(|&wanted| wanted != KBPS_NONE),
        round_trip_us: state.round_trip_us,
    }
}

/// When the control process hears of a lane's sender.
#[derive(Debug, Default)]
pub(crate) struct Reporting {
    last: Option<(LaneReport, Instant)>,
}

impl Reporting {
    /// The report that is due: the first, after obedience or another limiter at once, else after a while.
    pub(crate) fn due(&mut self, lane: LaneId, sender: Option<(State, u32)>, grouped: bool, now: Instant) -> Option<LaneReport> {
        let (state, obeyed) = sender?;
        let report = report(lane, &state, obeyed);
        let interval = if obeyed > 0 || grouped { ORDERED_INTERVAL } else { USUAL_INTERVAL };
        let is_due = self.last.is_none_or(|(last, at)| {
            (last.orders, last.limiter) != (report.orders, report.limiter) || now.saturating_duration_since(at) >= interval
        });
        is_due.then(|| {
            self.last = Some((report, now));
            report
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_told_at_once_and_the_rest_now_and_then() {
        let (lane, start) = (LaneId(7), Instant::now());
        let mut reporting = Reporting::default();
        let at = |ms| start + Duration::from_millis(ms);
        let mut state = State { limiter: limiter::NETWORK, wanted_kbps: KBPS_NONE, ..State::default() };
        assert_eq!(reporting.due(lane, None, false, at(0)), None);
        let first = reporting.due(lane, Some((state, 0)), false, at(0)).unwrap();
        assert_eq!((first.limiter, first.wanted_kbps), (Some(Limiter::Network), None));
        assert_eq!(reporting.due(lane, Some((state, 0)), false, at(499)), None);
        assert!(reporting.due(lane, Some((state, 0)), false, at(500)).is_some());
        assert!(reporting.due(lane, Some((state, 3)), false, at(501)).is_some(), "it has obeyed");
        state.limiter = limiter::LEASE;
        assert!(reporting.due(lane, Some((state, 3)), false, at(502)).is_some(), "another limiter");
        assert_eq!(reporting.due(lane, Some((state, 3)), false, at(601)), None);
        assert!(reporting.due(lane, Some((state, 3)), false, at(602)).is_some());
        state.limiter = 99;
        assert_eq!(reporting.due(lane, Some((state, 3)), false, at(603)).unwrap().limiter, None, "a limiter of a later release");
    }

    #[test]
    fn no_bound_is_no_bound_on_the_wire() {
        let orders = LaneOrders { lane_id: 1, number: 4, policy: RatePolicy::Low, target_kbps: None, minimum_kbps: 5, lease_kbps: Some(0) };
        let expected = Orders { number: 4, policy: policy::LOW, target_kbps: KBPS_NONE, minimum_kbps: 5, lease_kbps: 0 };
        assert_eq!(to_wire(&orders), expected);
    }
}
