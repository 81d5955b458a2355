//! Rates of all transfers: aggregate caps are handed out as leases.
//!
//! A lease may only grow by capacity that others have confirmed to have given up, so whatever order reaches its sender when,
//! or never, the senders of a cap together never use more than the cap. See `docs/adr/0008-leases.md`.

mod demand;
mod fill;
mod group;
mod ledger;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tradewind_api::{ApiCode, GroupShare, Problem, RateGrant, RateRequest};
use tradewind_ipc::{LaneGroup, LaneOrders, LaneRate, LaneReport};

use self::demand::Demand;
use self::fill::{Want, scaled, shares};
use self::group::Member;
use self::ledger::Ledger;
use crate::config::CapConfig;

/// A sender's demand is taken to be this part of it, so that it runs into its lease when it can send more, and says so.
const HEADROOM_PERCENT: u64 = 105;
/// Even a transfer that sends nothing keeps this part of the cap, and at most so many kbit/s: with it its sender shows when it
/// wants more.
const IDLE_PART: u64 = 200;
const IDLE_KBPS_MAX: u64 = 1_000;
/// Idle transfers together keep at most this part of the cap.
const IDLE_ALL_PART: u64 = 50;
/// Leases do not move for less than one part in so many.
const STILL_PART: u64 = 100;
/// How long a sender may go on after its transfer has failed here. If it has not heard CLOSE, it falls to a packet per round trip at the first probe
/// timeout that finds 3 s without a word from the receiver (transport.md, section 4); these are up to 2 s apart, and its last word was a round trip old.
const FAILED_HOLD: Duration = Duration::from_secs(6);
/// The same after success, when all that it may send are copies until DONE arrives; round trips come on top.
const DONE_HOLD: Duration = Duration::from_secs(1);
/// Round trips of [`DONE_HOLD`].
const DONE_ROUND_TRIPS: u32 = 2;

/// Where a lane is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// The engine is asked; nobody sends.
    Asked,
    /// Its sender may send.
    Open,
    /// It has ended; its sender may not know yet.
    Ended { until: Instant },
}

#[derive(Debug)]
struct Lane {
    /// Index of its cap.
    cap: Option<usize>,
    rate: RateRequest,
    life: Life,
    /// Number of the newest orders.
    number: u32,
    obeyed: u32,
    /// The newest orders have not been handed out yet.
    unsent: bool,
    ledger: Ledger,
    demand: Demand,
    member: Member,
}

/// What a status answer says of a lane's rates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub(super) grant: RateGrant,
    pub(super) cap: Option<String>,
    pub(super) in_force: bool,
}

/// The rates of all transfers.
#[derive(Debug)]
pub(super) struct Rates {
    caps: Vec<CapConfig>,
    lanes: BTreeMap<u64, Lane>,
}

impl Rates {
    pub(super) fn new(caps: &[CapConfig]) -> Self {
        Self { caps: caps.to_vec(), lanes: BTreeMap::new() }
    }

    /// A transfer of this user to this store is about to be opened, by a client at this address.
    ///
    /// # Errors
    /// [`ApiCode::RateUnavailable`] if its minimum rate does not fit below its cap.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        lane_id: u64,
        owner: &str,
        store: &str,
        host: Option<IpAddr>,
        rate: RateRequest,
    ) -> Result<(), Problem> {
        let cap = self.caps.iter().position(|cap| cap.covers(owner, store));
        self.check_minimum(cap, lane_id, rate)?;
        let (ledger, demand, member) = (Ledger::new(0), Demand::new(now), Member::new(now, host));
        self.lanes.insert(lane_id, Lane { cap, rate, life: Life::Asked, number: 0, obeyed: 0, unsent: false, ledger, demand, member });
        Ok(())
    }

    fn check_minimum(&self, cap: Option<usize>, lane_id: u64, rate: RateRequest) -> Result<(), Problem> {
        let (Some(index), Some(minimum)) = (cap, rate.minimum_rate_bps) else { return Ok(()) };
        let Some(cap) = self.caps.get(index) else { return Ok(()) };
        let others = self.lanes.iter().filter(|(id, lane)| **id != lane_id && lane.cap == Some(index));
        let promised: u64 = others.filter(|(_, lane)| !lane.has_ended()).map(|(_, lane)| lane.minimum_kbps()).sum();
        if promised + kbps(minimum) <= cap.rate_kbps {
            return Ok(());
        }
        let mbps = |kbps: u64| kbps as f64 / 1000.0;
        Err(Problem::new(
            ApiCode::RateUnavailable,
            format!(
                "a minimum rate of {} Mbit/s, but of the {} Mbit/s of cap '{}' {} Mbit/s are promised to others",
                mbps(kbps(minimum)),
                mbps(cap.rate_kbps),
                cap.name,
                mbps(promised)
            ),
        ))
    }

    /// The engine has opened the lane: what its sender is told to begin with.
    pub(super) fn open(&mut self, now: Instant, lane_id: u64) -> RateGrant {
        let Some(lane) = self.lanes.get_mut(&lane_id) else { return RateGrant::default() };
        lane.life = Life::Open;
        lane.member.opened(now);
        lane.demand = Demand::new(now);
        if let Some(index) = lane.cap {
            let share = self.cap_shares(now, index).into_iter().find(|(id, _)| *id == lane_id).map_or(0, |(_, share)| share);
            let free = self.free_kbps(now, index);
            if let Some(lane) = self.lanes.get_mut(&lane_id) {
                lane.ledger = Ledger::new(share.min(free));
            }
        }
        // The newcomer's grant says what it is part of; the others hear with the next [`Rates::groups`].
        self.revise_groups(now);
        self.view(lane_id).map(|view| view.grant).unwrap_or_default()
    }

    /// The transfer never had a sender.
    pub(super) fn forget(&mut self, lane_id: u64) {
        self.lanes.remove(&lane_id);
    }

    /// The transfer has ended; what its sender may still be using stays reserved for a while.
    pub(super) fn end(&mut self, now: Instant, lane_id: u64, well: bool, round_trip: Duration) {
        let Some(lane) = self.lanes.get_mut(&lane_id) else { return };
        match lane.life {
            Life::Asked => self.forget(lane_id),
            Life::Open if lane.cap.is_none() => self.forget(lane_id),
            Life::Open => {
                let hold = if well { DONE_HOLD + DONE_ROUND_TRIPS * round_trip.min(FAILED_HOLD) } else { FAILED_HOLD };
                lane.life = Life::Ended { until: now + hold };
            }
            Life::Ended { .. } => {}
        }
    }

    /// Changes policy and bounds; the next [`Rates::orders`] carry them.
    ///
    /// # Errors
    /// As for [`Rates::ask`]; nothing is changed then.
    pub(super) fn change(&mut self, lane_id: u64, rate: RateRequest) -> Result<(), Problem> {
        let cap = self.lanes.get(&lane_id).and_then(|lane| lane.cap);
        self.check_minimum(cap, lane_id, rate)?;
        if let Some(lane) = self.lanes.get_mut(&lane_id) {
            if lane.rate != rate && lane.life == Life::Open {
                lane.set_lease(lane.ledger.ordered());
            }
            lane.rate = rate;
        }
        Ok(())
    }

    /// A sender's word. `true` if capacity became free, so that new orders may be worth while.
    pub(super) fn report(&mut self, now: Instant, report: &LaneReport) -> bool {
        let Some(lane) = self.lanes.get_mut(&report.lane_id) else { return false };
        let held = lane.ledger.held();
        if report.orders <= lane.number {
            lane.obeyed = lane.obeyed.max(report.orders);
            lane.ledger.obeyed(lane.obeyed);
        }
        let wanted = report.wanted_kbps.map_or(u64::MAX, |kbps| u64::from(kbps) * HEADROOM_PERCENT / 100);
        lane.demand.note(now, wanted);
        lane.member.report(now, report);
        lane.ledger.held() < held
    }

    /// The rates of a lane as they stand.
    pub(super) fn view(&self, lane_id: u64) -> Option<View> {
        let lane = self.lanes.get(&lane_id)?;
        let cap = lane.cap.and_then(|index| self.caps.get(index));
        let grant = RateGrant {
            policy: lane.rate.policy,
            target_rate_bps: lane.rate.target_rate_bps.map(|target| target.min(cap.map_or(u64::MAX, |cap| cap.rate_kbps * 1000))),
            minimum_rate_bps: lane.rate.minimum_rate_bps,
            lease_rate_bps: cap.map(|_| lane.ledger.ordered() * 1000),
            group: lane.member.told().map(|(share, lanes)| GroupShare { share_rate_bps: share * 1000, lanes }),
        };
        Some(View { grant, cap: cap.map(|cap| cap.name.clone()), in_force: lane.obeyed == lane.number })
    }

    /// What changed for lanes between the same two hosts; to be asked as often as [`Rates::orders`]. The share of a cap is stronger than that of a group.
    pub(super) fn groups(&mut self, now: Instant) -> Vec<LaneGroup> {
        self.revise_groups(now);
        let open = self.lanes.iter_mut().filter(|(_, lane)| lane.life == Life::Open);
        open.filter_map(|(&lane_id, lane)| lane.member.take_news(lane_id)).collect()
    }

    fn revise_groups(&mut self, now: Instant) {
        let open = self.lanes.values_mut().filter(|lane| lane.life == Life::Open && lane.cap.is_none());
        group::revise(now, open.map(|lane| (lane.rate.policy, &mut lane.member)));
    }

    /// The orders that follow from all that is known; to be asked several times a second.
    pub(super) fn orders(&mut self, now: Instant) -> Vec<LaneOrders> {
        self.lanes.retain(|_, lane| !matches!(lane.life, Life::Ended { until } if now >= until));
        for index in 0..self.caps.len() {
            self.move_leases(now, index);
        }
        let caps = &self.caps;
        let unsent = self.lanes.iter_mut().filter(|(_, lane)| lane.unsent && lane.life == Life::Open);
        unsent.map(|(&lane_id, lane)| lane.take_orders(lane_id, caps)).collect()
    }

    /// Lowers leases that are above their share, and raises those below by what is free.
    fn move_leases(&mut self, now: Instant, index: usize) {
        let shares = self.cap_shares(now, index);
        for &(lane_id, share) in &shares {
            if let Some(lane) = self.lanes.get_mut(&lane_id)
                && share + lane.ledger.ordered() / STILL_PART < lane.ledger.ordered()
            {
                lane.set_lease(share);
            }
        }
        let free = self.free_kbps(now, index);
        let missing = |lane: &Lane, share: u64| share.saturating_sub(lane.ledger.held());
        let wanted: u64 = shares.iter().filter_map(|(id, share)| Some(missing(self.lanes.get(id)?, *share))).sum();
        for (lane_id, share) in shares {
            let Some(lane) = self.lanes.get_mut(&lane_id) else { continue };
            let grant = if wanted <= free { missing(lane, share) } else { scaled(missing(lane, share), free, wanted) };
            // Up to what it may be using anyway nobody else loses.
            let lease = share.min(lane.ledger.held() + grant);
            let ordered = lane.ledger.ordered();
            if lease > ordered && (lease == share || lease - ordered > ordered / STILL_PART) && lease - ordered > share / 1000 {
                lane.set_lease(lease);
            }
        }
    }

    /// Capacity of a cap that no sender may be using.
    fn free_kbps(&self, now: Instant, index: usize) -> u64 {
        let cap = self.caps.get(index).map_or(0, |cap| cap.rate_kbps);
        let under = self.lanes.values().filter(|lane| lane.cap == Some(index) && lane.counts(now));
        cap.saturating_sub(under.map(|lane| lane.ledger.held()).sum())
    }

    /// What each open lane of a cap should have.
    fn cap_shares(&mut self, now: Instant, index: usize) -> Vec<(u64, u64)> {
        let Some(cap) = self.caps.get(index) else { return Vec::new() };
        let mut ended = 0;
        let mut open = 0;
        for lane in self.lanes.values().filter(|lane| lane.cap == Some(index) && lane.counts(now)) {
            match lane.life {
                Life::Ended { .. } => ended += lane.ledger.held(),
                Life::Open => open += 1,
                Life::Asked => {}
            }
        }
        let idle = (cap.rate_kbps / IDLE_PART).min(IDLE_KBPS_MAX).min(cap.rate_kbps / (IDLE_ALL_PART * open.max(1))).max(1);
        let (mut ids, mut wants) = (Vec::new(), Vec::new());
        for (&lane_id, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.cap == Some(index) && lane.life == Life::Open) {
            ids.push(lane_id);
            wants.push(Want {
                weight: cap.weights.of(lane.rate.policy),
                minimum: lane.minimum_kbps(),
                demand: lane.demand.kbps(now).max(idle),
                ceiling: lane.target_kbps(Some(cap)).unwrap_or(cap.rate_kbps),
            });
        }
        let capacity = cap.rate_kbps.saturating_sub(ended);
        ids.into_iter().zip(shares(capacity, &wants)).collect()
    }
}

impl Lane {
    fn has_ended(&self) -> bool {
        matches!(self.life, Life::Ended { .. })
    }

    /// Whether its sender may be using its lease.
    fn counts(&self, now: Instant) -> bool {
        !matches!(self.life, Life::Ended { until } if now >= until)
    }

    fn minimum_kbps(&self) -> u64 {
        self.rate.minimum_rate_bps.map_or(0, kbps)
    }

    /// The target, never above the cap.
    fn target_kbps(&self, cap: Option<&CapConfig>) -> Option<u64> {
        // Without a target the lease alone binds, so that the user is told of the cap and not of a target.
        self.rate.target_rate_bps.map(|target| kbps(target).min(cap.map_or(u64::MAX, |cap| cap.rate_kbps)))
    }

    /// New orders, with this lease.
    fn set_lease(&mut self, kbps: u64) {
        self.number = self.number.saturating_add(1);
        self.ledger.order(self.number, kbps);
        self.unsent = true;
    }

    fn take_orders(&mut self, lane_id: u64, caps: &[CapConfig]) -> LaneOrders {
        let cap = self.cap.and_then(|index| caps.get(index));
        self.unsent = false;
        LaneOrders {
            lane_id,
            number: self.number,
            policy: self.rate.policy,
            target_kbps: self.target_kbps(cap).map(to_wire),
            minimum_kbps: to_wire(self.minimum_kbps()),
            lease_kbps: cap.map(|_| to_wire(self.ledger.ordered())),
        }
    }
}

/// Kbit/s as messages carry them; their largest value means none.
fn to_wire(kbps: u64) -> u32 {
    u32::try_from(kbps).unwrap_or(u32::MAX - 1)
}

/// Kbit/s of bit/s, rounded down.
const fn kbps(bps: u64) -> u64 {
    bps / 1000
}

/// What the client of an upload is told in its answer, for the engine's sender.
pub(super) fn lane_rate(lane_id: u64, grant: &RateGrant) -> LaneRate {
    let kbps = |bps: u64| u32::try_from(bps / 1000).unwrap_or(u32::MAX);
    let orders = LaneOrders {
        lane_id,
        number: 0,
        policy: grant.policy,
        target_kbps: grant.target_rate_bps.map(kbps),
        minimum_kbps: grant.minimum_rate_bps.map_or(0, kbps),
        lease_kbps: grant.lease_rate_bps.map(kbps),
    };
    let group = grant.group.map(|group| LaneGroup { lane_id, number: 0, share_kbps: kbps(group.share_rate_bps), lanes: group.lanes });
    LaneRate { orders, group }
}

#[cfg(test)]
mod tests;
