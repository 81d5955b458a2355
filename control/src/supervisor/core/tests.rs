use tradewind_api::{ProblemCode, parse_submit};
use tradewind_ipc::{
    BrowseAnswer, Browsed, DataEndpoint, Destination, DestinationName, LaneAccepted, LaneReceipt, LaneTotals, Progress, Stats, Store,
    XdpMode, XdpStatus,
};

use super::super::browse::WAITING_MAX;
use super::*;
use crate::config::load_text;
use crate::options::Options;
use crate::stores::Resolved;

/// A core with an engine that is up, and a clock.
struct World {
    core: Core,
    now: Instant,
    effects: Vec<Effect>,
}

type Answer = oneshot::Receiver<Result<SubmitResponse, Problem>>;

impl World {
    fn new(config: &str) -> Self {
        let mut loaded = load_text(config, "test", &Options::default()).config;
        loaded.data.listen = "0.0.0.0:33001".parse().unwrap();
        let now = Instant::now();
        let mut world = Self { core: Core::new(&loaded, now), now, effects: Vec::new() };
        world.event(Event::Tick);
        assert_eq!(world.effects, [Effect::StartEngine { generation: 1 }]);
        world.ready(1);
        world
    }

    fn ready(&mut self, generation: u64) {
        let xdp = XdpStatus { mode: XdpMode::None, reason: None, zero_copy: false };
        let endpoints = vec![DataEndpoint { address: "0.0.0.0:33001".parse().unwrap() }];
        let ready = Ready { version: "t".into(), endpoints, xdp, workers: 1, pool_bytes: 1 };
        self.event(Event::Engine(EngineEvent::Said { generation, message: FromEngine::Ready(ready) }));
    }

    fn event(&mut self, event: Event) {
        self.effects = self.core.apply(self.now, event);
    }

    fn wait(&mut self, duration: Duration) {
        self.now += duration;
        self.event(Event::Tick);
    }

    fn said(&mut self, message: FromEngine) {
        let generation = self.core.generation;
        self.event(Event::Engine(EngineEvent::Said { generation, message }));
    }

    fn submit(&mut self, owner: &str) -> (u64, Answer) {
        let (reply, answer) = oneshot::channel();
        let submission = Box::new(parse_submit(br#"{"destination":"data:in/"}"#).unwrap());
        let destination = Destination { store: Store::Local { root: "/d".into() }, name: DestinationName::Into("in/".into()) };
        let places = Box::new(Places::Upload(Resolved { store: "data".into(), destination }));
        self.event(Event::Command(Command::Submit {
            caller: Caller { owner: owner.into(), host: [192, 0, 2, 1].into() },
            submission,
            places,
            reply,
        }));
        let lane = self.effects.iter().find_map(|effect| match effect {
            Effect::Send(ToEngine::OpenLane(open)) => Some(open.lane_id),
            _ => None,
        });
        (lane.unwrap_or(0), answer)
    }

    fn opened(&mut self, owner: &str) -> (u64, String) {
        let (lane_id, mut answer) = self.submit(owner);
        self.said(FromEngine::LaneOpened(LaneAccepted { lane_id, chunk_bytes: 1400, credit_blocks: 9, durable: None }));
        let response = answer.try_recv().unwrap().unwrap();
        assert_eq!((response.lanes[0].lane_id, response.lanes[0].chunk_bytes, response.lanes[0].credit_blocks), (lane_id, 1400, 9));
        (lane_id, response.transfer_id)
    }

    fn status(&mut self, owner: &str, id: &str) -> Result<TransferStatus, Problem> {
        let (reply, mut answer) = oneshot::channel();
        self.event(Event::Command(Command::Status { owner: owner.into(), id: id.into(), reply }));
        answer.try_recv().unwrap()
    }

    fn progress(&mut self, lane_id: u64, bytes: u64) {
        let totals = LaneTotals { bytes_received: bytes, ..LaneTotals::default() };
        self.said(FromEngine::Progress(Progress { lane_id, totals }));
    }
}

impl World {
    fn browse(&mut self) -> (u64, oneshot::Receiver<Result<BrowseAnswer, Problem>>) {
        let (reply, answer) = oneshot::channel();
        let (store, question) = (Box::new(Store::Local { root: "/d".into() }), BrowseQuestion::Stat { key: "k".into() });
        self.event(Event::Command(Command::Browse { store, question, reply }));
        let asked = self.effects.iter().find_map(|effect| match effect {
            Effect::Send(ToEngine::Browse(browse)) => Some(browse.request_id),
            _ => None,
        });
        (asked.unwrap_or(0), answer)
    }

    fn browsed(&mut self, request_id: u64, answer: BrowseAnswer) {
        self.said(FromEngine::Browsed(Box::new(Browsed { request_id, answer })));
    }
}

#[test]
fn questions_about_stores_get_their_own_answers_in_any_order_or_end_in_time() {
    let mut world = World::new("");
    let ((first, mut one), (second, mut two), (third, mut late)) = (world.browse(), world.browse(), world.browse());
    world.browsed(second, BrowseAnswer::Removed);
    world.browsed(first, BrowseAnswer::Missing);
    assert_eq!((one.try_recv().unwrap(), two.try_recv().unwrap()), (Ok(BrowseAnswer::Missing), Ok(BrowseAnswer::Removed)));
    world.browsed(99, BrowseAnswer::Removed);
    world.wait(BROWSE_TIMEOUT - Duration::from_millis(1));
    assert!(late.try_recv().is_err(), "not yet");
    world.wait(Duration::from_millis(1));
    assert_eq!(late.try_recv().unwrap().unwrap_err().code, ApiCode::EngineUnavailable.into());
    // Too late is no harm.
    world.browsed(third, BrowseAnswer::Removed);
}

#[test]
fn questions_about_stores_are_bounded_and_end_with_the_engine() {
    let mut world = World::new("");
    let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| world.browse()).collect();
    assert!(waiting.iter().all(|(request, _)| *request != 0));
    let (request, mut refused) = world.browse();
    assert_eq!((request, refused.try_recv().unwrap().unwrap_err().code), (0, ErrorCode::ResourceExhausted.into()));
    // Somebody hangs up.
    waiting.pop();
    let (request, mut last) = world.browse();
    assert_ne!(request, 0);
    world.event(Event::Engine(EngineEvent::Ended { generation: 1, reason: "was killed by signal 9".into() }));
    for (_, mut answer) in waiting {
        assert_eq!(answer.try_recv().unwrap().unwrap_err().code, ErrorCode::EngineDied.into());
    }
    assert_eq!(last.try_recv().unwrap().unwrap_err().code, ErrorCode::EngineDied.into());
    let (request, mut down) = world.browse();
    assert_eq!((request, down.try_recv().unwrap().unwrap_err().code), (0, ApiCode::EngineUnavailable.into()));
}

fn refused(answer: &mut Answer) -> ProblemCode {
    answer.try_recv().unwrap().unwrap_err().code
}

#[test]
fn a_transfer_from_submission_to_done() {
    let mut world = World::new("");
    let (lane, id) = world.opened("ann");
    assert_eq!(world.status("ann", &id).unwrap().state, TransferState::Waiting);
    world.progress(lane, 5);
    assert_eq!(world.status("ann", &id).unwrap().state, TransferState::Running);
    let totals = LaneTotals { bytes_received: 9, ..LaneTotals::default() };
    world.said(FromEngine::LaneDone(LaneReceipt {
        lane_id: lane,
        files: 1,
        bytes: 9,
        elapsed_ms: 1,
        totals,
        files_failed: 0,
        first_failure: None,
    }));
    let status = world.status("ann", &id).unwrap();
    assert_eq!((status.state, status.totals.bytes_received), (TransferState::Done, 9));
    // What the engine says of a lane that has ended changes nothing.
    world.said(FromEngine::LaneFailed(LaneClosed { lane_id: lane, code: ErrorCode::DiskFull, text: String::new() }));
    assert_eq!(world.status("ann", &id).unwrap().state, TransferState::Done);
}

#[test]
fn others_do_not_see_it() {
    let mut world = World::new("");
    let (_, id) = world.opened("ann");
    assert_eq!(world.status("bob", &id).unwrap_err().code, ApiCode::NotFound.into());
}

#[test]
fn an_engine_that_dies_fails_its_transfers_and_comes_back_ever_slower() {
    let mut world = World::new("");
    let (lane, running) = world.opened("ann");
    world.progress(lane, 1);
    let (_, mut waiting) = world.submit("ann");
    let mut delay = RESTART_DELAY_MIN;
    for generation in 1..=12 {
        world.event(Event::Engine(EngineEvent::Ended { generation, reason: "was killed by signal 9".into() }));
        assert_eq!(world.effects, [], "not at once");
        world.wait(delay - Duration::from_millis(1));
        assert_eq!(world.effects, [], "not before {delay:?}");
        world.wait(Duration::from_millis(1));
        assert_eq!(world.effects, [Effect::StartEngine { generation: generation + 1 }]);
        delay = (delay * 2).min(RESTART_DELAY_MAX);
    }
    assert_eq!(refused(&mut waiting), ErrorCode::EngineDied.into());
    let status = world.status("ann", &running).unwrap();
    assert_eq!((status.state, status.outcome.unwrap().code), (TransferState::Failed, ErrorCode::EngineDied));

    // Once it stays up, the pause is short again.
    world.ready(13);
    world.said(FromEngine::Stats(Stats::default()));
    world.now += STABLE_AFTER;
    world.event(Event::Engine(EngineEvent::Ended { generation: 13, reason: "ended".into() }));
    world.wait(RESTART_DELAY_MIN);
    assert_eq!(world.effects, [Effect::StartEngine { generation: 14 }]);
}

#[test]
fn last_words_of_an_earlier_engine_are_ignored() {
    let mut world = World::new("");
    let (_, id) = world.opened("ann");
    world.event(Event::Engine(EngineEvent::Ended { generation: 0, reason: "old".into() }));
    assert_eq!(world.status("ann", &id).unwrap().state, TransferState::Waiting);
}

#[test]
fn a_silent_engine_is_ended() {
    let mut world = World::new("");
    world.wait(STATS_INTERVAL);
    assert_eq!(world.effects, [Effect::Send(ToEngine::StatsRequest)]);
    world.wait(SILENCE_MAX - STATS_INTERVAL);
    assert!(!world.effects.contains(&Effect::KillEngine));
    world.wait(Duration::from_millis(1));
    assert!(world.effects.contains(&Effect::KillEngine));
}

#[test]
fn a_store_that_does_not_answer_ends_the_wait() {
    let mut world = World::new("");
    let (lane, mut answer) = world.submit("ann");
    world.wait(ANSWER_TIMEOUT - Duration::from_millis(1));
    assert!(answer.try_recv().is_err());
    world.said(FromEngine::Stats(Stats::default()));
    world.wait(Duration::from_millis(1));
    assert_eq!(refused(&mut answer), ErrorCode::StoreUnavailable.into());
    assert!(world.effects.iter().any(|e| matches!(e, Effect::Send(ToEngine::CloseLane(c)) if c.lane_id == lane)), "{:?}", world.effects);
}

#[test]
fn a_client_that_left_has_its_lane_closed() {
    let mut world = World::new("");
    let (lane_id, answer) = world.submit("ann");
    drop(answer);
    world.said(FromEngine::LaneOpened(LaneAccepted { lane_id, chunk_bytes: 1, credit_blocks: 1, durable: None }));
    assert!(matches!(&world.effects[..], [Effect::Send(ToEngine::CloseLane(c))] if c.code == ErrorCode::PeerGone), "{:?}", world.effects);
}

#[test]
fn no_progress_is_an_idle_timeout_and_repeated_totals_are_no_progress() {
    let mut world = World::new("[limits]\nidle_timeout_s = 10");
    let (lane, id) = world.opened("ann");
    world.now += Duration::from_secs(9);
    world.progress(lane, 1);
    world.now += Duration::from_secs(10) + IDLE_MARGIN;
    world.progress(lane, 1);
    assert_eq!(world.status("ann", &id).unwrap().state, TransferState::Running);
    world.wait(Duration::from_millis(1));
    assert_eq!(world.status("ann", &id).unwrap().outcome.unwrap().code, ErrorCode::IdleTimeout);
}

#[test]
fn room_is_made_by_forgetting_ended_transfers_only() {
    let mut world = World::new("[limits]\ntransfers_max = 2");
    let (lane, first) = world.opened("ann");
    let (_, second) = world.opened("ann");
    let (_, mut third) = world.submit("ann");
    assert_eq!(refused(&mut third), ApiCode::TooManyTransfers.into());
    world.said(FromEngine::LaneFailed(LaneClosed { lane_id: lane, code: ErrorCode::DiskFull, text: String::new() }));
    world.opened("ann");
    assert!(world.status("ann", &first).is_err());
    assert!(world.status("ann", &second).is_ok());
}

#[test]
fn ended_transfers_are_forgotten_after_their_time() {
    let mut world = World::new("[limits]\nfinished_keep_s = 100");
    let (lane, id) = world.opened("ann");
    world.said(FromEngine::LaneFailed(LaneClosed { lane_id: lane, code: ErrorCode::DiskFull, text: String::new() }));
    world.wait(Duration::from_secs(100));
    assert!(world.status("ann", &id).is_ok());
    world.wait(Duration::from_millis(1));
    assert!(world.status("ann", &id).is_err());
}

#[test]
fn draining_refuses_new_transfers_and_ends_with_the_engine_or_at_the_deadline() {
    let mut world = World::new("[limits]\nshutdown_timeout_s = 10");
    world.event(Event::Command(Command::Drain));
    assert_eq!(world.effects, [Effect::Send(ToEngine::Drain)]);
    let (_, mut answer) = world.submit("ann");
    assert_eq!(refused(&mut answer), ErrorCode::Draining.into());
    world.wait(Duration::from_secs(10));
    assert!(world.effects.contains(&Effect::KillEngine), "{:?}", world.effects);
    world.event(Event::Engine(EngineEvent::Ended { generation: 1, reason: "exited with status 0".into() }));
    assert_eq!(world.effects, [Effect::Stop]);
}

#[test]
fn what_a_forgotten_transfer_left_is_removed() {
    let mut world = World::new("[limits]\nfinished_keep_s = 60");
    let (lane_id, id) = world.opened("ann");
    world.said(FromEngine::LaneFailed(LaneClosed { lane_id, code: ErrorCode::DiskFull, text: String::new() }));
    world.wait(Duration::from_secs(60));
    let is_forget = |effect: &Effect| matches!(effect, Effect::Forget { .. });
    assert!(!world.effects.iter().any(is_forget), "{:?}", world.effects);
    world.wait(Duration::from_secs(1));
    assert!(world.effects.contains(&Effect::Forget { transfer_id: id }), "{:?}", world.effects);
    world.wait(Duration::from_secs(1));
    assert!(!world.effects.iter().any(is_forget), "once");
}

#[test]
fn a_sender_that_reads_is_not_idle() {
    let mut world = World::new("[limits]\nidle_timeout_s = 10");
    let (lane_id, id) = world.opened("ann");
    let report = |limiter, silent_ms| {
        let peer = [192, 0, 2, 1].into();
        let limiter = Some(limiter);
        let (rate_kbps, sent_kbps, wanted_kbps) = (0, 0, None);
        FromEngine::LaneReport(LaneReport {
            lane_id,
            orders: 0,
            limiter,
            rate_kbps,
            sent_kbps,
            wanted_kbps,
            round_trip_us: 0,
            peer,
            silent_ms,
        })
    };
    for _ in 0..10 {
        world.now += Duration::from_secs(10);
        world.said(report(Limiter::Source, 100));
        world.event(Event::Tick);
    }
    assert_eq!(world.status("ann", &id).unwrap().state, TransferState::Waiting);
    for (limiter, silent_ms) in [(Limiter::Source, 60_000), (Limiter::Network, 100)].repeat(3) {
        world.now += Duration::from_secs(10);
        world.said(report(limiter, silent_ms));
        world.event(Event::Tick);
    }
    assert_eq!(world.status("ann", &id).unwrap().outcome.unwrap().code, ErrorCode::IdleTimeout);
}
