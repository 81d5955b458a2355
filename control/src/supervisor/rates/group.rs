//! Path groups: lanes whose clients reach us from one address share one bottleneck. Each is told its part of what all of them send, so that they move
//! together instead of finding their shares against each other. See `docs/adr/0011-path-groups.md`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tradewind_ipc::{LaneGroup, LaneReport, Limiter, RatePolicy};

use super::to_wire;

/// A share that moves by less than one part in so many is not told again.
const STILL_PART: u64 = 32;

/// What a lane has to do with its group.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Member {
    /// Address that its client comes from.
    host: Option<IpAddr>,
    sent_kbps: u64,
    /// Something else than the network limits it.
    is_limited: bool,
    /// Grows with each change of `told`.
    number: u32,
    /// Share and number of lanes that it is told.
    told: Option<(u64, u16)>,
    /// The newest of it has not been handed out yet.
    unsent: bool,
}

/// Twice the weights of the policies: `High` 2, `Fair` 1, `Low` 1/2; `Fixed` belongs to no group.
const fn weight(policy: RatePolicy) -> u64 {
    match policy {
        RatePolicy::Fixed => 0,
        RatePolicy::High => 4,
        RatePolicy::Fair => 2,
        RatePolicy::Low => 1,
    }
}

impl Member {
    pub(super) fn new(host: Option<IpAddr>) -> Self {
        // An IPv4 client that comes in over an IPv6 socket is the same host.
        Self { host: host.map(|host| host.to_canonical()), ..Self::default() }
    }

    pub(super) fn report(&mut self, report: &LaneReport) {
        self.sent_kbps = report.sent_kbps.into();
        self.is_limited = !matches!(report.limiter, None | Some(Limiter::Network));
    }

    /// What has changed for the lane since it was asked last.
    pub(super) fn take_news(&mut self, lane_id: u64) -> Option<LaneGroup> {
        let (share, lanes) = self.told.filter(|_| std::mem::take(&mut self.unsent))?;
        Some(LaneGroup { lane_id, number: self.number, share_kbps: to_wire(share), lanes })
    }

    /// What it was told last: share (kbit/s) and number of lanes, if others are there.
    pub(super) fn told(&self) -> Option<(u64, u16)> {
        self.told.filter(|(_, lanes)| *lanes > 1)
    }
}

/// Sums over the lanes of one host.
#[derive(Default)]
struct Group {
    sent_kbps: u64,
    weight: u64,
    lanes: u16,
}

/// Works out what the lanes, open ones without a cap, are told.
pub(super) fn revise<'a>(lanes: impl Iterator<Item = (RatePolicy, &'a mut Member)>) {
    let mut lanes: Vec<_> = lanes.filter(|(_, member)| member.host.is_some()).collect();
    let belongs = |policy: RatePolicy, member: &Member| weight(policy) > 0 && !member.is_limited;
    let mut groups: BTreeMap<IpAddr, Group> = BTreeMap::new();
    for (policy, member) in &lanes {
        if let Some(host) = member.host.filter(|_| belongs(*policy, member)) {
            let group = groups.entry(host).or_default();
            group.sent_kbps += member.sent_kbps;
            group.weight += weight(*policy);
            group.lanes = group.lanes.saturating_add(1);
        }
    }
    for (policy, member) in &mut lanes {
        let group = member.host.filter(|_| belongs(*policy, member)).and_then(|host| groups.get(&host));
        let (share, count) = match group {
            Some(group) if group.lanes > 1 => (group.sent_kbps * weight(*policy) / group.weight.max(1), group.lanes),
            _ => (0, 1),
        };
        let is_news = match member.told {
            None => count > 1,
            Some((told, lanes)) => lanes != count || told.abs_diff(share) > told / STILL_PART,
        };
        if is_news {
            member.number = member.number.saturating_add(1);
            (member.told, member.unsent) = (Some((share, count)), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> Option<IpAddr> {
        Some([192, 0, 2, last].into())
    }

    fn sends(member: &mut Member, sent_kbps: u32, limiter: Limiter) {
        let report =
            LaneReport { lane_id: 0, orders: 0, limiter: Some(limiter), rate_kbps: 0, sent_kbps, wanted_kbps: None, round_trip_us: 0 };
        member.report(&report);
    }

    fn told(members: &mut [(RatePolicy, Member)]) -> Vec<(u64, u32, u16)> {
        revise(members.iter_mut().map(|(policy, member)| (*policy, member)));
        let news = members.iter_mut().zip(0..).filter_map(|((_, member), id)| member.take_news(id));
        news.map(|news| (news.lane_id, news.share_kbps, news.lanes)).collect()
    }

    #[test]
    fn lanes_of_a_host_are_told_their_part_by_weight_and_others_nothing() {
        let mut members = [
            (RatePolicy::Fair, Member::new(host(1))),
            (RatePolicy::High, Member::new(host(1))),
            (RatePolicy::Fair, Member::new(host(2))),
            (RatePolicy::Fixed, Member::new(host(1))),
            (RatePolicy::Fair, Member::new(None)),
        ];
        sends(&mut members[0].1, 90_000, Limiter::Network);
        sends(&mut members[2].1, 70_000, Limiter::Network);
        sends(&mut members[3].1, 50_000, Limiter::Target);
        // The newcomer, 1, has sent nothing yet and counts.
        assert_eq!(told(&mut members), [(0, 30_000, 2), (1, 60_000, 2)]);
        assert_eq!(told(&mut members), [], "nothing is told twice");
        sends(&mut members[0].1, 31_000, Limiter::Network);
        sends(&mut members[1].1, 60_000, Limiter::Network);
        assert_eq!(told(&mut members), [], "nor what has hardly changed");
        assert_eq!(members[0].1.told(), Some((30_000, 2)));
    }

    #[test]
    fn who_is_limited_otherwise_or_leaves_belongs_no_more() {
        let mut members = [(RatePolicy::Fair, Member::new(host(1))), (RatePolicy::Fair, Member::new(host(1)))];
        for (_, member) in &mut members {
            sends(member, 40_000, Limiter::Network);
        }
        assert_eq!(told(&mut members), [(0, 40_000, 2), (1, 40_000, 2)]);
        sends(&mut members[1].1, 5_000, Limiter::Source);
        assert_eq!(told(&mut members), [(0, 0, 1), (1, 0, 1)]);
        assert_eq!(members[0].1.told(), None);
        sends(&mut members[1].1, 5_000, Limiter::Network);
        assert_eq!(told(&mut members), [(0, 22_500, 2), (1, 22_500, 2)]);
        assert_eq!(told(&mut members[..1]), [(0, 0, 1)], "the other has gone");
    }

    #[test]
    fn a_host_is_one_whatever_the_socket() {
        let mapped = Some("::ffff:192.0.2.1".parse().unwrap());
        let mut members = [(RatePolicy::Fair, Member::new(host(1))), (RatePolicy::Fair, Member::new(mapped))];
        assert_eq!(told(&mut members).len(), 2);
    }
}
