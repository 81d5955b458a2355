use proptest::prelude::*;
use tradewind_api::RatePolicy;

use super::*;
use crate::config::WeightsSection;

fn cap(rate_kbps: u64) -> CapConfig {
    CapConfig { name: "uplink".into(), rate_kbps, users: None, stores: None, weights: WeightsSection::default() }
}

fn rate(policy: RatePolicy, target_kbps: Option<u64>, minimum_kbps: Option<u64>) -> RateRequest {
    let bps = |kbps: Option<u64>| kbps.map(|kbps| kbps * 1000);
    RateRequest { policy, target_rate_bps: bps(target_kbps), minimum_rate_bps: bps(minimum_kbps) }
}

/// What is said of a lane that the network limits, heard just now.
pub(super) fn report(lane_id: u64, peer: IpAddr) -> LaneReport {
    let limiter = Some(tradewind_ipc::Limiter::Network);
    LaneReport { lane_id, orders: 0, limiter, rate_kbps: 0, sent_kbps: 0, wanted_kbps: None, round_trip_us: 0, peer, silent_ms: 0 }
}

/// A sender as control sees it: orders reach it late or never, and so do its answers.
#[derive(Debug)]
struct Sender {
    /// What it could use at most.
    source_kbps: u64,
    obeyed: u32,
    lease_kbps: u64,
    target_kbps: u64,
    /// Orders under way, with their arrival; the receiver repeats the newest until obeyed.
    under_way: Vec<(Instant, LaneOrders)>,
    newest: Option<LaneOrders>,
    repeat_at: Instant,
    reports: Vec<(Instant, LaneReport)>,
    report_at: Instant,
    /// It stops sending then.
    ends: Option<Instant>,
}

impl Sender {
    fn uses_kbps(&self, now: Instant) -> u64 {
        if self.ends.is_some_and(|ends| now >= ends) { 0 } else { self.lease_kbps.min(self.source_kbps).min(self.target_kbps) }
    }
}

/// Rates, senders and a virtual clock.
struct World {
    rates: Rates,
    now: Instant,
    start: Instant,
    orders_at: Instant,
    senders: BTreeMap<u64, Sender>,
    one_way: Duration,
    /// One in so many of the messages arrives; 1: all.
    arrives: u64,
    random: u64,
    cap_kbps: u64,
}

impl World {
    fn new(cap_kbps: u64, round_trip_ms: u64, arrives: u64) -> Self {
        let start = Instant::now();
        Self {
            rates: Rates::new(&[cap(cap_kbps)]),
            now: start,
            start,
            orders_at: start,
            senders: BTreeMap::new(),
            one_way: Duration::from_millis(round_trip_ms / 2),
            arrives,
            random: 1,
            cap_kbps,
        }
    }

    fn lucky(&mut self) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33).is_multiple_of(self.arrives)
    }

    fn open(&mut self, lane_id: u64, rate: RateRequest, source_kbps: u64) {
        self.rates.ask(self.now, lane_id, "ann", "data", None, rate).unwrap();
        let grant = self.rates.open(self.now, lane_id);
        let sender = Sender {
            source_kbps,
            obeyed: 0,
            lease_kbps: grant.lease_rate_bps.unwrap() / 1000,
            target_kbps: grant.target_rate_bps.map_or(u64::MAX, |target| target / 1000),
            under_way: Vec::new(),
            newest: None,
            repeat_at: self.now,
            reports: Vec::new(),
            report_at: self.now,
            ends: None,
        };
        self.senders.insert(lane_id, sender);
        self.orders_at = self.now;
    }

    fn end(&mut self, lane_id: u64, well: bool) {
        self.rates.end(self.now, lane_id, well, 2 * self.one_way);
        if let Some(sender) = self.senders.get_mut(&lane_id) {
            // What a sender does, whatever the constant says: 3 s of silence and up to 2 s to the next probe timeout.
            let more = if well { DONE_HOLD } else { Duration::from_secs(5) };
            sender.ends = sender.ends.or(Some(self.now + more));
        }
        self.orders_at = self.now;
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(5);
        let (now, one_way) = (self.now, self.one_way);
        let ids: Vec<u64> = self.senders.keys().copied().collect();
        for id in ids {
            let (order_arrives, report_arrives) = (self.lucky(), self.lucky());
            let Some(sender) = self.senders.get_mut(&id) else { continue };
            if let Some(newest) = sender.newest.filter(|newest| newest.number > sender.obeyed && now >= sender.repeat_at) {
                sender.repeat_at = now + (2 * one_way).max(Duration::from_millis(50));
                if order_arrives {
                    sender.under_way.push((now + one_way, newest));
                }
            }
            let arrived: Vec<_> = sender.under_way.extract_if(.., |(at, _)| now >= *at).collect();
            let mut answer = false;
            for (_, orders) in arrived {
                if orders.number > sender.obeyed {
                    sender.obeyed = orders.number;
                    sender.lease_kbps = orders.lease_kbps.unwrap().into();
                    sender.target_kbps = orders.target_kbps.map_or(u64::MAX, u64::from);
                    answer = true;
                }
            }
            if answer || now >= sender.report_at {
                sender.report_at = now + Duration::from_millis(100);
                let hungry = sender.lease_kbps < sender.source_kbps;
                let wanted_kbps = if hungry { None } else { Some(sender.source_kbps as u32) };
                let report = LaneReport { orders: sender.obeyed, wanted_kbps, ..report(id, [192, 0, 2, 1].into()) };
                if report_arrives {
                    sender.reports.push((now + one_way, report));
                }
            }
            let reports: Vec<_> = sender.reports.extract_if(.., |(at, _)| now >= *at).collect();
            for (_, report) in reports {
                if self.rates.report(now, &report) {
                    self.orders_at = now;
                }
            }
        }
        if now >= self.orders_at {
            self.orders_at = now + Duration::from_millis(100);
            for orders in self.rates.orders(now) {
                if let Some(sender) = self.senders.get_mut(&orders.lane_id) {
                    sender.newest = Some(orders);
                    sender.repeat_at = now;
                }
            }
        }
        let used: u64 = self.senders.values().map(|sender| sender.uses_kbps(now)).sum();
        let leased: u64 = self.senders.values().map(|s| if s.ends.is_some_and(|ends| now >= ends) { 0 } else { s.lease_kbps }).sum();
        assert!(leased <= self.cap_kbps, "{leased} leased, {used} used after {:?}: {:?}", now - self.start, self.senders);
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 5 {
            self.step();
        }
    }

    fn uses(&self) -> Vec<u64> {
        self.senders.values().map(|sender| sender.uses_kbps(self.now)).collect()
    }
}

const ALL: u64 = u64::MAX;

fn about(found: u64, expected: u64) -> bool {
    found.abs_diff(expected) * 50 <= expected
}

#[test]
fn one_has_all_and_a_newcomer_gets_its_weight_within_half_a_second() {
    let mut world = World::new(100_000, 100, 1);
    world.open(1, rate(RatePolicy::Fair, None, None), ALL);
    world.run(1_000);
    assert_eq!(world.uses(), [100_000]);
    world.open(2, rate(RatePolicy::High, None, None), ALL);
    world.run(500);
    let uses = world.uses();
    assert!(about(uses[0], 33_333) && about(uses[1], 66_667), "{uses:?}");
    world.end(2, true);
    world.run(2_000);
    assert_eq!(world.uses()[0], 100_000, "what the ended one had");
}

#[test]
fn what_one_does_not_use_the_other_gets_within_a_second_and_a_half_and_gives_back_at_once() {
    let mut world = World::new(100_000, 100, 1);
    world.open(1, rate(RatePolicy::Fair, None, None), ALL);
    world.open(2, rate(RatePolicy::Fair, None, None), 10_000);
    world.run(1_500);
    let uses = world.uses();
    assert!(uses[0] >= 85_000 && uses[1] == 10_000, "{uses:?}");
    world.senders.get_mut(&2).unwrap().source_kbps = ALL;
    world.run(500);
    let uses = world.uses();
    assert!(about(uses[0], 50_000) && about(uses[1], 50_000), "{uses:?}");
}

#[test]
fn minimum_rates_are_kept_and_not_promised_twice() {
    let mut world = World::new(100_000, 20, 1);
    world.open(1, rate(RatePolicy::Low, None, Some(70_000)), ALL);
    for lane in 2..10 {
        world.open(lane, rate(RatePolicy::High, None, None), ALL);
    }
    world.run(1_000);
    assert!(world.uses()[0] >= 70_000, "{:?}", world.uses());
    let problem = world.rates.ask(world.now, 77, "ann", "data", None, rate(RatePolicy::Fair, None, Some(30_001))).unwrap_err();
    assert_eq!(problem.code, ApiCode::RateUnavailable.into());
    assert!(problem.detail.contains("cap 'uplink'") && problem.detail.contains("70 Mbit/s are promised"), "{}", problem.detail);
    world.rates.ask(world.now, 77, "ann", "data", None, rate(RatePolicy::Fair, None, Some(30_000))).unwrap();
    assert!(world.rates.change(2, rate(RatePolicy::Fair, None, Some(1_000))).is_err());
    world.rates.forget(77);
    world.rates.change(2, rate(RatePolicy::Fair, None, Some(30_000))).unwrap();
    world.run(1_000);
    assert!(world.uses()[1] >= 29_000, "{:?}", world.uses());
}

#[test]
fn targets_are_below_the_cap_and_change_in_the_middle() {
    let mut world = World::new(100_000, 20, 1);
    world.open(1, rate(RatePolicy::Fair, Some(900_000), None), ALL);
    world.open(2, rate(RatePolicy::Fair, None, None), ALL);
    world.run(1_000);
    assert_eq!(world.rates.view(1).unwrap().grant.target_rate_bps, Some(100_000_000));
    world.rates.change(1, rate(RatePolicy::Fair, Some(10_000), None)).unwrap();
    assert!(!world.rates.view(1).unwrap().in_force);
    world.run(1_000);
    let uses = world.uses();
    assert!(uses[0] == 10_000 && about(uses[1], 90_000), "{uses:?}");
    assert!(world.rates.view(1).unwrap().in_force);
    world.rates.change(1, rate(RatePolicy::High, None, None)).unwrap();
    world.run(1_000);
    let uses = world.uses();
    assert!(about(uses[0], 66_667), "{uses:?}");
}

#[test]
fn transfers_that_no_cap_covers_get_orders_only_when_changed() {
    let start = Instant::now();
    let only_bob = CapConfig { users: Some(vec!["bob".into()]), ..cap(1_000) };
    let mut rates = Rates::new(&[only_bob]);
    rates.ask(start, 5, "ann", "data", None, rate(RatePolicy::Fair, Some(3_000_000), None)).unwrap();
    assert_eq!(rates.open(start, 5).lease_rate_bps, None);
    assert_eq!(rates.orders(start), []);
    rates.change(5, rate(RatePolicy::Low, None, None)).unwrap();
    let expected = LaneOrders { lane_id: 5, number: 1, policy: RatePolicy::Low, target_kbps: None, minimum_kbps: 0, lease_kbps: None };
    assert_eq!(rates.orders(start), [expected]);
    assert_eq!(rates.orders(start), []);
    rates.end(start, 5, false, Duration::ZERO);
    assert_eq!(rates.view(5), None);
}

#[test]
fn lanes_of_one_host_are_told_their_shares_and_those_under_a_cap_are_not() {
    let caps = CapConfig { stores: Some(vec!["capped".into()]), ..cap(10_000) };
    let (mut rates, now) = (Rates::new(&[caps]), Instant::now());
    let peer: IpAddr = [192, 0, 2, 1].into();
    let fair = rate(RatePolicy::Fair, None, None);
    let open = |rates: &mut Rates, lane_id, store| {
        rates.ask(now, lane_id, "u", store, Some(peer), fair).unwrap();
        rates.open(now, lane_id).group
    };
    assert_eq!(open(&mut rates, 1, "free"), None, "nobody else is there");
    rates.report(now, &LaneReport { rate_kbps: 90_000, sent_kbps: 90_000, ..report(1, peer) });
    assert_eq!(open(&mut rates, 2, "free"), Some(GroupShare { share_rate_bps: 45_000_000, lanes: 2 }));
    assert_eq!(open(&mut rates, 3, "capped"), None);
    let told: Vec<_> = rates.groups(now).iter().map(|group| (group.lane_id, group.share_kbps, group.lanes)).collect();
    assert_eq!(told, [(1, 45_000, 2), (2, 45_000, 2)]);
    assert_eq!(rates.groups(now), []);
    rates.end(now, 2, true, Duration::ZERO);
    let told: Vec<_> = rates.groups(now).iter().map(|group| (group.lane_id, group.lanes)).collect();
    assert_eq!(told, [(1, 1)]);
    // One whose check of the store took its time is a newcomer when that is done.
    let late = now + Duration::from_secs(20);
    rates.ask(now, 4, "u", "free", Some(peer), fair).unwrap();
    rates.report(late, &LaneReport { rate_kbps: 90_000, sent_kbps: 90_000, ..report(1, peer) });
    assert_eq!(rates.open(late, 4).group, Some(GroupShare { share_rate_bps: 45_000_000, lanes: 2 }));
}

#[test]
fn a_sender_that_never_answers_keeps_what_it_may_be_using() {
    let mut world = World::new(100_000, 20, 1);
    world.open(1, rate(RatePolicy::Fair, None, None), ALL);
    world.run(500);
    world.arrives = u64::MAX;
    world.run(500);
    world.open(2, rate(RatePolicy::Fair, None, None), ALL);
    world.run(5_000);
    assert_eq!(world.uses(), [100_000, 0], "never above the cap, whatever it costs");
    world.arrives = 1;
    world.run(1_000);
    let uses = world.uses();
    assert!(about(uses[0], 50_000) && about(uses[1], 50_000), "{uses:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Open { policy: u8, target: Option<u64>, minimum: Option<u64>, source: u64 },
    End { which: u8, well: bool },
    Change { which: u8, policy: u8, target: Option<u64> },
    Source { which: u8, kbps: u64 },
    Run { ms: u64 },
}

fn policy(number: u8) -> RatePolicy {
    [RatePolicy::Fixed, RatePolicy::High, RatePolicy::Fair, RatePolicy::Low][usize::from(number % 4)]
}

fn step() -> impl Strategy<Value = Step> {
    let rate = || prop_oneof![Just(None), (8u64..300_000).prop_map(Some)];
    prop_oneof![
        2 => (any::<u8>(), rate(), proptest::option::of(8u64..20_000), 0u64..200_000)
            .prop_map(|(policy, target, minimum, source)| Step::Open { policy, target, minimum, source }),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(which, well)| Step::End { which, well }),
        1 => (any::<u8>(), any::<u8>(), rate()).prop_map(|(which, policy, target)| Step::Change { which, policy, target }),
        2 => (any::<u8>(), 0u64..200_000).prop_map(|(which, kbps)| Step::Source { which, kbps }),
        4 => (5u64..1_500).prop_map(|ms| Step::Run { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is lost and whoever comes and goes: the leases in force at the senders never add up to more than the cap
    /// (`World::step` asserts it every 5 ms), and once all is quiet what is wanted is used.
    #[test]
    fn senders_never_hold_more_than_the_cap(
        cap_kbps in 1_000u64..200_000,
        round_trip_ms in 0u64..600,
        arrives in 1u64..4,
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut world = World::new(cap_kbps, round_trip_ms, arrives);
        let mut lanes = 0u64;
        let nth = |world: &World, which: u8| {
            let alive: Vec<u64> = world.senders.iter().filter(|(_, s)| s.ends.is_none()).map(|(id, _)| *id).collect();
            (!alive.is_empty()).then(|| alive[usize::from(which) % alive.len()])
        };
        for step in steps {
            match step {
                Step::Open { policy: number, target, minimum, source } => {
                    lanes += 1;
                    let wanted = rate(policy(number), target, minimum);
                    if world.rates.ask(world.now, lanes, "ann", "data", None, wanted).is_ok() {
                        world.open(lanes, wanted, source);
                    }
                }
                Step::End { which, well } => {
                    if let Some(id) = nth(&world, which) {
                        world.end(id, well);
                    }
                }
                Step::Change { which, policy: number, target } => {
                    if let Some(id) = nth(&world, which) {
                        // A refused minimum changes nothing.
                        let _ = world.rates.change(id, rate(policy(number), target, None));
                    }
                }
                Step::Source { which, kbps } => {
                    if let Some(id) = nth(&world, which) {
                        world.senders.get_mut(&id).unwrap().source_kbps = kbps;
                    }
                }
                Step::Run { ms } => world.run(ms),
            }
        }
        world.arrives = 1;
        world.run(12_000);
        let used: u64 = world.uses().iter().sum();
        let alive = world.senders.iter().filter(|(_, sender)| sender.ends.is_none());
        let wanted = alive.map(|(id, sender)| {
            let view = world.rates.view(*id).unwrap();
            sender.source_kbps.min(view.grant.target_rate_bps.map_or(u64::MAX, |target| target / 1000))
        }).fold(0, u64::saturating_add);
        // Headroom (5 %) and what idle ones keep (2 %) are the price of noticing who wants more; steps are 1 %.
        prop_assert!(used * 100 >= wanted.min(cap_kbps) * 92, "{used} used of {wanted} wanted and {cap_kbps}");
    }
}
