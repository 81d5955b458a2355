//! Path groups: lanes whose packets reach us from one address share one bottleneck. Each is told its part of what all of them send, so that they move
//! together instead of finding their shares against each other. See `docs/adr/0011-path-groups.md`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tradewind_ipc::{LaneGroup, LaneReport, Limiter, RatePolicy};

use super::to_wire;

/// A share that moves by less than one part in so many is not told again.
const STILL_PART: u64 = 32;

/// A lane counts with so many times what it sent, or with its part as it was told last, at most. One whose pulses a busy host took at once believes in a path of a
/// hundred Gbit/s, which is not what the others can share; one that pauses keeps its place.
const SENT_TIMES: u64 = 4;

/// Lanes of a large group are told once in so long for each of them: a thousand whose parts waver would be told ten thousand times a second.
const TOLD_EVERY_PER_LANE: Duration = Duration::from_micros(500);
const LARGE: u16 = 200;

/// Who was not heard for so long sends nothing: killed, cut off, not come yet.
const SILENCE: Duration = Duration::from_secs(3);

/// Who is limited by something else for so long leaves the group. Not at once: the others make room whenever somebody comes back.
const LIMITED: Duration = Duration::from_secs(3);

/// What a lane has to do with its group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    /// Address that its packets come from; until the first one, that of the request. They may differ: the request may have come through a proxy.
    host: Option<IpAddr>,
    /// When it was heard or opened last.
    heard: Instant,
    /// What the network lets it send: steadier than what it sent in the last tenth of a second.
    rate_kbps: u64,
    /// What it sent in the last tenth of a second.
    sent_kbps: u64,
    /// Since when something else than the network limits it.
    limited: Option<Instant>,
    /// Grows with each change of `told`.
    number: u32,
    /// Share and number of lanes that it is told.
    told: Option<(u64, u16)>,
    /// When that changed last.
    told_at: Instant,
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
    /// A lane that was asked for now, from this address.
    pub(super) fn new(now: Instant, host: Option<IpAddr>) -> Self {
        // An IPv4 client that comes in over an IPv6 socket is the same host.
        let host = host.map(|host| host.to_canonical());
        Self { host, heard: now, rate_kbps: 0, sent_kbps: 0, limited: None, number: 0, told: None, told_at: now, unsent: false }
    }

    /// Its sender may begin now.
    pub(super) fn opened(&mut self, now: Instant) {
        self.heard = now;
    }

    pub(super) fn report(&mut self, now: Instant, report: &LaneReport) {
        self.host = Some(report.peer.to_canonical());
        self.heard = now.checked_sub(Duration::from_millis(report.silent_ms.into())).map_or(self.heard, |heard| heard.max(self.heard));
        let sent_before = std::mem::replace(&mut self.sent_kbps, report.sent_kbps.into());
        let share = self.told.map_or(0, |(share, _)| share);
        self.rate_kbps = u64::from(report.rate_kbps).min((SENT_TIMES * self.sent_kbps.max(sent_before)).max(share));
        let is_limited = !matches!(report.limiter, None | Some(Limiter::Network));
        self.limited = is_limited.then(|| self.limited.unwrap_or(now));
    }

    fn takes_part(&self, now: Instant) -> bool {
        let is_limited = self.limited.is_some_and(|since| now.saturating_duration_since(since) >= LIMITED);
        !is_limited && now.saturating_duration_since(self.heard) < SILENCE
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
    rate_kbps: u64,
    weight: u64,
    lanes: u16,
}

/// Works out what the lanes, open ones without a cap, are told.
pub(super) fn revise<'a>(now: Instant, lanes: impl Iterator<Item = (RatePolicy, &'a mut Member)>) {
    let mut lanes: Vec<_> = lanes.filter(|(_, member)| member.host.is_some()).collect();
    let belongs = |policy: RatePolicy, member: &Member| weight(policy) > 0 && member.takes_part(now);
    let mut groups: BTreeMap<IpAddr, Group> = BTreeMap::new();
    for (policy, member) in &lanes {
        if let Some(host) = member.host.filter(|_| belongs(*policy, member)) {
            let group = groups.entry(host).or_default();
            group.rate_kbps += member.rate_kbps;
            group.weight += weight(*policy);
            group.lanes = group.lanes.saturating_add(1);
        }
    }
    for (policy, member) in &mut lanes {
        let group = member.host.filter(|_| belongs(*policy, member)).and_then(|host| groups.get(&host));
        let (share, count) = match group {
            Some(group) if group.lanes > 1 => (group.rate_kbps * weight(*policy) / group.weight.max(1), group.lanes),
            _ => (0, 1),
        };
        let is_news = match member.told {
            None => count > 1,
            Some(_) if count > LARGE && now.saturating_duration_since(member.told_at) < TOLD_EVERY_PER_LANE * u32::from(count) => false,
            Some((told, lanes)) => lanes != count || told.abs_diff(share) > told / STILL_PART,
        };
        if is_news {
            member.number = member.number.saturating_add(1);
            (member.told, member.told_at, member.unsent) = (Some((share, count)), now, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    fn host(last: u8) -> Option<IpAddr> {
        Some([192, 0, 2, last].into())
    }

    fn new(now: Instant, last: u8) -> Member {
        Member::new(now, host(last))
    }

    fn sends(now: Instant, member: &mut Member, rate_kbps: u32, limiter: Limiter) {
        let peer = member.host.unwrap();
        member.report(now, &LaneReport { limiter: Some(limiter), rate_kbps, sent_kbps: rate_kbps, ..report(0, peer) });
    }

    fn told(now: Instant, members: &mut [(RatePolicy, Member)]) -> Vec<(u64, u32, u16)> {
        revise(now, members.iter_mut().map(|(policy, member)| (*policy, member)));
        let news = members.iter_mut().zip(0..).filter_map(|((_, member), id)| member.take_news(id));
        news.map(|news| (news.lane_id, news.share_kbps, news.lanes)).collect()
    }

    #[test]
    fn lanes_of_a_host_are_told_their_part_by_weight_and_others_nothing() {
        let now = Instant::now();
        let mut members = [
            (RatePolicy::Fair, new(now, 1)),
            (RatePolicy::High, new(now, 1)),
            (RatePolicy::Fair, new(now, 2)),
            (RatePolicy::Fixed, new(now, 1)),
            (RatePolicy::Fair, Member::new(now, None)),
        ];
        sends(now, &mut members[0].1, 90_000, Limiter::Network);
        sends(now, &mut members[2].1, 70_000, Limiter::Network);
        sends(now, &mut members[3].1, 50_000, Limiter::Target);
        // The newcomer, 1, has sent nothing yet and counts.
        assert_eq!(told(now, &mut members), [(0, 30_000, 2), (1, 60_000, 2)]);
        assert_eq!(told(now, &mut members), [], "nothing is told twice");
        sends(now, &mut members[0].1, 31_000, Limiter::Network);
        sends(now, &mut members[1].1, 60_000, Limiter::Network);
        assert_eq!(told(now, &mut members), [], "nor what has hardly changed");
        assert_eq!(members[0].1.told(), Some((30_000, 2)));
    }

    #[test]
    fn who_is_limited_otherwise_or_leaves_belongs_no_more() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut members = [(RatePolicy::Fair, new(start, 1)), (RatePolicy::Fair, new(start, 1))];
        let report = |members: &mut [(RatePolicy, Member)], ms, kbps, limiter| {
            sends(at(ms), &mut members[0].1, 40_000, Limiter::Network);
            sends(at(ms), &mut members[1].1, kbps, limiter);
            told(at(ms), members)
        };
        assert_eq!(report(&mut members, 0, 40_000, Limiter::Network), [(0, 40_000, 2), (1, 40_000, 2)]);
        assert_eq!(report(&mut members, 100, 40_000, Limiter::Source), [], "it may be back in a moment");
        assert_eq!(report(&mut members, 3_000, 40_000, Limiter::Storage), []);
        assert_eq!(report(&mut members, 3_100, 5_000, Limiter::Source), [(0, 0, 1), (1, 0, 1)]);
        assert_eq!(members[0].1.told(), None);
        assert_eq!(report(&mut members, 3_200, 5_000, Limiter::Network), [(0, 22_500, 2), (1, 22_500, 2)]);
        assert_eq!(report(&mut members, 3_300, 5_000, Limiter::Source), [], "a new stretch");
        assert_eq!(told(at(3_400), &mut members[..1]), [(0, 0, 1)], "the other has gone");
    }

    #[test]
    fn a_rate_that_is_not_sent_is_nobodys_to_share() {
        let now = Instant::now();
        let mut members = [(RatePolicy::Fair, new(now, 1)), (RatePolicy::Fair, new(now, 1))];
        sends(now, &mut members[0].1, 10_000, Limiter::Network);
        let mut says = |rate_kbps, sent_kbps| {
            members[1].1.report(now, &LaneReport { rate_kbps, sent_kbps, ..report(1, [192, 0, 2, 1].into()) });
            members[1].1.rate_kbps
        };
        assert_eq!([says(90_000_000, 5_000), says(90_000_000, 0), says(90_000_000, 0)], [20_000, 20_000, 0]);
        assert_eq!(says(6_000, 5_000), 6_000);
        assert_eq!(told(now, &mut members), [(0, 8_000, 2), (1, 8_000, 2)]);
        sends(now, &mut members[1].1, 0, Limiter::Network);
        let pauses = LaneReport { rate_kbps: 9_000, ..report(1, [192, 0, 2, 1].into()) };
        members[1].1.report(now, &pauses);
        assert_eq!(members[1].1.rate_kbps, 8_000, "it keeps its place");
    }

    #[test]
    fn lanes_of_a_large_group_are_told_less_often() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut members: Vec<_> = (0..400).map(|_| (RatePolicy::Fair, new(start, 1))).collect();
        assert_eq!(told(at(0), &mut members).len(), 400);
        members.iter_mut().for_each(|(_, member)| sends(at(100), member, 1_000, Limiter::Network));
        assert_eq!(told(at(100), &mut members), []);
        assert_eq!(told(at(200), &mut members).len(), 400);
        assert_eq!(told(at(201), &mut members[..2]), [(0, 1_000, 2), (1, 1_000, 2)], "the others have gone");
    }

    #[test]
    fn a_host_is_one_whatever_the_socket() {
        let now = Instant::now();
        let mapped = Some("::ffff:192.0.2.1".parse().unwrap());
        let mut members = [(RatePolicy::Fair, new(now, 1)), (RatePolicy::Fair, Member::new(now, mapped))];
        assert_eq!(told(now, &mut members).len(), 2);
    }

    #[test]
    fn who_falls_silent_belongs_no_more_until_it_is_back() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut members = [(RatePolicy::Fair, new(start, 1)), (RatePolicy::Fair, new(start, 1))];
        sends(at(0), &mut members[0].1, 40_000, Limiter::Network);
        sends(at(0), &mut members[1].1, 40_000, Limiter::Network);
        assert_eq!(told(at(0), &mut members).len(), 2);
        // The engine goes on reporting its last word.
        let silent = |ms| LaneReport { rate_kbps: 40_000, sent_kbps: 40_000, silent_ms: ms, ..report(1, [192, 0, 2, 1].into()) };
        for ms in (100..3_000).step_by(100) {
            sends(at(ms), &mut members[0].1, 40_000, Limiter::Network);
            members[1].1.report(at(ms), &silent(ms as u32));
            assert_eq!(told(at(ms), &mut members), []);
        }
        sends(at(3_000), &mut members[0].1, 40_000, Limiter::Network);
        members[1].1.report(at(3_000), &silent(3_000));
        assert_eq!(told(at(3_000), &mut members), [(0, 0, 1), (1, 0, 1)]);
        members[1].1.report(at(9_000), &silent(20));
        sends(at(9_000), &mut members[0].1, 40_000, Limiter::Network);
        assert_eq!(told(at(9_000), &mut members), [(0, 40_000, 2), (1, 40_000, 2)], "it is back");
    }

    #[test]
    fn hosts_are_told_apart_by_where_packets_come_from() {
        let now = Instant::now();
        // Both requests came through one proxy.
        let mut members = [(RatePolicy::Fair, new(now, 9)), (RatePolicy::Fair, new(now, 9))];
        assert_eq!(told(now, &mut members).len(), 2, "until packets come, that is all that is known");
        members[0].1.report(now, &report(0, [192, 0, 2, 1].into()));
        members[1].1.report(now, &report(1, [192, 0, 2, 2].into()));
        assert_eq!(told(now, &mut members), [(0, 0, 1), (1, 0, 1)]);
    }
}
