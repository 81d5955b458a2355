//! Orders from the control process to a lane's sender, and the sender's word back to it.

use tradewind_ipc::{LaneOrders, LaneReport, Limiter, RatePolicy};
use tradewind_proto::rate;
use tradewind_wire::orders::{KBPS_NONE, policy};
use tradewind_wire::{LaneId, Orders};

use crate::shared::Heard;

/// Between two reports of a lane that has had orders, and of one that has not.
const ORDERED_INTERVAL_NS: u64 = 100_000_000;
const USUAL_INTERVAL_NS: u64 = 500_000_000;
/// Of a lane that has had none because it shares its path with others: together they report so often at most that each has this time. A lane is steered by
/// its own measurements first.
const GROUPED_NS_PER_LANE: u64 = 500_000;

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

fn report(lane: LaneId, heard: &Heard, now_ns: u64) -> LaneReport {
    let state = &heard.state;
    LaneReport {
        lane_id: lane.0,
        orders: heard.obeyed,
        limiter: rate::Limiter::of_code(state.limiter).map(|limiter| match limiter {
            rate::Limiter::Network => Limiter::Network,
            rate::Limiter::Storage => Limiter::Storage,
            rate::Limiter::Target => Limiter::Target,
            rate::Limiter::Lease => Limiter::Lease,
            rate::Limiter::Source => Limiter::Source,
        }),
        rate_kbps: state.rate_kbps,
        sent_kbps: state.sent_kbps,
        wanted_kbps: Some(state.wanted_kbps).filter(|&wanted| wanted != KBPS_NONE),
        round_trip_us: state.round_trip_us,
        peer: heard.peer,
        silent_ms: u32::try_from(now_ns.saturating_sub(heard.heard_ns) / 1_000_000).unwrap_or(u32::MAX),
    }
}

/// Between two reports of a lane that has had orders or not, and shares its path with so many `lanes`, itself included.
fn interval_ns(has_orders: bool, lanes: u16) -> u64 {
    match (has_orders, lanes) {
        (true, _) => ORDERED_INTERVAL_NS,
        (false, ..=1) => USUAL_INTERVAL_NS,
        (false, _) => (u64::from(lanes) * GROUPED_NS_PER_LANE).clamp(ORDERED_INTERVAL_NS, USUAL_INTERVAL_NS),
    }
}

/// When the control process hears of a lane's sender.
#[derive(Debug, Default)]
pub(crate) struct Reporting {
    last: Option<(LaneReport, u64)>,
}

impl Reporting {
    /// Whether the lane's sender has had orders: leases are steered by what is said, so it is asked more often.
    pub(crate) fn has_orders(&self) -> bool {
        self.last.is_some_and(|(last, _)| last.orders > 0)
    }

    /// The report that is due: the first, after obedience or another limiter at once, else after a while.
    pub(crate) fn due(&mut self, lane: LaneId, sender: Option<Heard>, lanes: u16, now_ns: u64) -> Option<LaneReport> {
        let report = report(lane, &sender?, now_ns);
        let interval_ns = interval_ns(report.orders > 0, lanes);
        let is_due = self.last.is_none_or(|(last, at)| {
            (last.orders, last.limiter) != (report.orders, report.limiter) || now_ns.saturating_sub(at) >= interval_ns
        });
        is_due.then(|| {
            self.last = Some((report, now_ns));
            report
        })
    }
}

#[cfg(test)]
mod tests {
    use tradewind_wire::State;
    use tradewind_wire::orders::limiter;

    use super::*;

    #[test]
    fn news_are_told_at_once_and_the_rest_now_and_then() {
        let lane = LaneId(7);
        let mut reporting = Reporting::default();
        let at = |ms: u64| (1_000 + ms) * 1_000_000;
        let heard = |state, obeyed| Some(Heard { state, obeyed, peer: [192, 0, 2, 1].into(), heard_ns: at(0) });
        let mut state = State { limiter: limiter::NETWORK, wanted_kbps: KBPS_NONE, ..State::default() };
        assert_eq!(reporting.due(lane, None, 1, at(0)), None);
        let first = reporting.due(lane, heard(state, 0), 1, at(0)).unwrap();
        assert_eq!((first.limiter, first.wanted_kbps, first.silent_ms), (Some(Limiter::Network), None, 0));
        assert_eq!(reporting.due(lane, heard(state, 0), 1, at(499)), None);
        let later = reporting.due(lane, heard(state, 0), 1, at(500)).unwrap();
        assert_eq!(later.silent_ms, 500, "the same word as before, and nothing since");
        assert!(reporting.due(lane, heard(state, 3), 1, at(501)).is_some(), "it has obeyed");
        state.limiter = limiter::LEASE;
        assert!(reporting.due(lane, heard(state, 3), 1, at(502)).is_some(), "another limiter");
        assert_eq!(reporting.due(lane, heard(state, 3), 1, at(601)), None);
        assert!(reporting.due(lane, heard(state, 3), 1, at(602)).is_some());
        state.limiter = 99;
        assert_eq!(reporting.due(lane, heard(state, 3), 1, at(603)).unwrap().limiter, None, "a limiter of a later release");
    }

    #[test]
    fn a_large_group_reports_as_often_as_two_hundred_lanes_do() {
        let ms = |has_orders, lanes| interval_ns(has_orders, lanes) / 1_000_000;
        assert_eq!([ms(false, 0), ms(false, 1), ms(false, 2), ms(false, 200), ms(false, 1_000)], [500, 500, 100, 100, 500]);
        assert_eq!([ms(true, 1), ms(true, 1_000)], [100, 100], "leases are steered by what is said");
    }

    #[test]
    fn no_bound_is_no_bound_on_the_wire() {
        let orders = LaneOrders { lane_id: 1, number: 4, policy: RatePolicy::Low, target_kbps: None, minimum_kbps: 5, lease_kbps: Some(0) };
        let expected = Orders { number: 4, policy: policy::LOW, target_kbps: KBPS_NONE, minimum_kbps: 5, lease_kbps: 0 };
        assert_eq!(to_wire(&orders), expected);
    }
}
