//! The supervisor's state and what follows from each event. No I/O: time comes in, effects go out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::Rng as _;
use tokio::sync::oneshot;
use tradewind_api::limits::LIST_MAX;
use tradewind_api::{
    ApiCode, EngineHealth, ErrorCode, Health, HealthState, LaneOffer, OfferedEndpoint, Problem, RateChange, RateGrant, RemoteLane,
    Submission, SubmitResponse, TransferLimits, TransferList, TransferState, TransferStatus,
};
use tradewind_ipc::{
    BrowseQuestion, FromEngine, LANE_ORDERS_MAX, LaneAccepted, LaneClosed, LaneReport, LaneSecret, Limiter, OpenLane, Ready, Store,
    ToEngine,
};

use super::browse::{Browsing, Reply};
use super::engine::is_ready;
use super::rates::{Rates, lane_rate};
use super::transfer::{Transfer, Waiting};
use super::verify::Verifying;
use super::{Caller, Command, EngineEvent};
use crate::config::{Config, DataSection, LimitsSection};
use crate::stores::Places;

/// How long a submission waits for the engine, which asks the store whether it would take the files, and what of them it has.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(130);
/// How long a question about a store's objects waits for the engine, which gives itself less.
pub(super) const BROWSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before the first restart of an engine that ended.
pub const RESTART_DELAY_MIN: Duration = Duration::from_millis(250);
/// Longest pause between restarts; it doubles while the engine does not stay up.
pub const RESTART_DELAY_MAX: Duration = Duration::from_secs(30);
/// An engine that stayed up so long starts again with the short pause.
const STABLE_AFTER: Duration = Duration::from_secs(60);
const STATS_INTERVAL: Duration = Duration::from_secs(5);
/// Silence after which the engine counts as hung.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const BLOCK_BYTES_DEFAULT: u32 = 1 << 20;
/// How often rates are shared out.
const RATES_INTERVAL: Duration = Duration::from_millis(100);
/// The same when capacity has become free: not for every single report of many.
const RATES_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The engine ends idle lanes itself and knows why they are idle; so much later we do it for an engine that does not.
const IDLE_MARGIN: Duration = Duration::from_secs(30);

/// A sender that said so long ago that it has nothing to send yet is still believed, milliseconds.
const SOURCE_SILENCE_MS_MAX: u64 = 5_000;

const _: () = assert!(SILENCE_MAX.as_secs() > 2 * STATS_INTERVAL.as_secs());
const _: () = assert!(RESTART_DELAY_MIN.as_millis() < RESTART_DELAY_MAX.as_millis());

#[derive(Debug)]
pub(super) enum Event {
    Command(Command),
    Engine(EngineEvent),
    Tick,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    StartEngine {
        generation: u64,
    },
    Send(ToEngine),
    KillEngine,
    /// Nothing is told of this transfer any more.
    Forget {
        transfer_id: String,
    },
    Stop,
}

#[derive(Debug)]
enum Engine {
    /// Not running; to be started at a time.
    Down {
        reason: String,
        start_at: Instant,
    },
    /// Process started, not ready.
    Starting,
    Up {
        ready: Box<Ready>,
        since: Instant,
        heard: Instant,
        asked: Instant,
    },
}

pub(super) struct Core {
    data: DataSection,
    limits: LimitsSection,
    block_bytes: u32,
    credit_blocks: u32,
    engine: Engine,
    generation: u64,
    restart_delay: Duration,
    transfers: HashMap<String, Transfer>,
    by_lane: HashMap<u64, String>,
    browsing: Browsing,
    verifying: Verifying,
    /// Transfers that have been forgotten and have left something behind.
    forgotten: Vec<String>,
    rates: Rates,
    /// When rates are to be shared out again.
    rates_at: Instant,
    /// Set when draining: when to stop waiting.
    drain_until: Option<Instant>,
}

impl Core {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        Self {
            data: config.data.clone(),
            limits: config.limits.clone(),
            block_bytes: config.engine.block_bytes.unwrap_or(BLOCK_BYTES_DEFAULT),
            credit_blocks: config.engine.credit_blocks.unwrap_or(0),
            engine: Engine::Down { reason: "starting".to_owned(), start_at: now },
            generation: 0,
            restart_delay: RESTART_DELAY_MIN,
            transfers: HashMap::new(),
            by_lane: HashMap::new(),
            browsing: Browsing::default(),
            verifying: Verifying::default(),
            forgotten: Vec::new(),
            rates: Rates::new(&config.caps),
            rates_at: now,
            drain_until: None,
        }
    }

    pub(super) fn apply(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Command(command) => self.command(now, command, &mut effects),
            Event::Engine(EngineEvent::Said { generation, message }) if generation == self.generation => {
                self.engine_said(now, message, &mut effects);
            }
            Event::Engine(EngineEvent::Ended { generation, reason }) if generation == self.generation => self.engine_ended(now, reason),
            // Last words of an earlier process.
            Event::Engine(_) => {}
            // Not after every event: it looks at all transfers, and a thousand lanes report ten thousand times a second.
            Event::Tick => self.end_overdue(now, &mut effects),
        }
        self.housekeeping(now, &mut effects);
        effects
    }

    fn command(&mut self, now: Instant, command: Command, effects: &mut Vec<Effect>) {
        // A reply that nobody waits for any more needs no care, except a submission's: `lane_opened` sees to that.
        match command {
            Command::Submit { caller, submission, places, reply } => {
                if let Err((reply, problem)) = self.submit(now, caller, *submission, *places, reply, effects) {
                    let _ = reply.send(Err(problem));
                }
            }
            Command::Status { owner, id, reply } => {
                let _ = reply.send(self.owned(&owner, &id).map(|transfer| transfer.status(&id, true, now, &self.rates)));
            }
            Command::Durable { owner, id, reply } => {
                let _ = reply.send(self.owned(&owner, &id).map(|transfer| transfer.durable.clone()));
            }
            Command::WantsList { owner, id, reply } => {
                let _ = reply.send(self.wants_list(&owner, &id));
            }
            Command::Have { owner, id, path, reply } => {
                let lane = self.wants_list(&owner, &id);
                let _ = reply.send(lane.map(|lane_id| effects.push(Effect::Send(ToEngine::Have { lane_id, path }))));
            }
            Command::List { owner, reply } => {
                let _ = reply.send(self.list(&owner, now));
            }
            Command::Cancel { owner, id, reply } => {
                let _ = reply.send(self.cancel(now, &owner, &id, effects));
            }
            Command::ChangeRate { owner, id, change, reply } => {
                let _ = reply.send(self.change_rate(now, &owner, &id, change));
            }
            Command::Browse { store, question, reply } => self.browse(now, *store, question, reply, effects),
            Command::Verify { destination, lines, reply } => match self.ready() {
                Ok(_) => effects.extend(self.verifying.ask(*destination, lines, reply).map(Effect::Send)),
                Err(problem) => drop(reply.send(Err(problem))),
            },
            Command::Health { reply } => {
                let _ = reply.send(self.health());
            }
            Command::Drain => {
                if self.drain_until.is_none() {
                    self.drain_until = Some(now + Duration::from_secs(self.limits.shutdown_timeout_s));
                    effects.push(Effect::Send(ToEngine::Drain));
                }
            }
        }
    }

    fn submit(
        &mut self,
        now: Instant,
        caller: Caller,
        submission: Submission,
        places: Places,
        reply: oneshot::Sender<Result<SubmitResponse, Problem>>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), (oneshot::Sender<Result<SubmitResponse, Problem>>, Problem)> {
        let ready = match self.ready() {
            Ok(ready) => ready,
            Err(problem) => return Err((reply, problem)),
        };
        let endpoints = self.endpoints(ready);
        if !self.make_room(now) {
            let detail = format!("{} transfers are running", self.transfers.len());
            return Err((reply, Problem::new(ApiCode::TooManyTransfers, detail)));
        }
        let mut random = rand::rng();
        let from = submission.request.from.as_ref();
        if let Some(problem) = from.and_then(|lane| self.cannot_take(lane)) {
            return Err((reply, problem));
        }
        let own = || std::iter::repeat_with(|| rand::rng().next_u64()).find(|id| *id != 0 && !self.by_lane.contains_key(id)).unwrap_or(1);
        let lane_id = from.map_or_else(own, |lane| lane.lane_id);
        // A copy sends nothing; lanes to a client do not share their way with those from it.
        let host = if matches!(places, Places::Upload(_)) { Some(caller.host) } else { None };
        // The server that sends shares its rate out.
        if let Some(store) = places.store_over_the_network().filter(|_| from.is_none())
            && let Err(problem) = self.rates.ask(now, lane_id, &caller.owner, store, host, submission.request.rate)
        {
            return Err((reply, problem));
        }
        let own = || {
            let mut secret = [0; 32];
            rand::rng().fill_bytes(&mut secret);
            LaneSecret::new(secret)
        };
        let secret = from.map_or_else(own, |lane| lane.secret.clone());
        let block_bytes = from.map_or(self.block_bytes, |lane| lane.block_bytes);
        let chunk_bytes = from.map(|lane| lane.chunk_bytes).or(submission.request.chunk_bytes_max).unwrap_or(0);
        let call = from.map(|lane| lane.address);
        let id = format!("{:016x}{:016x}", random.next_u64(), random.next_u64());
        let offer = LaneOffer {
            lane_id,
            secret: secret.clone(),
            endpoints,
            block_bytes,
            chunk_bytes: 0,
            credit_blocks: self.credit_blocks,
            cipher: submission.request.cipher,
            rate: RateGrant::default(),
        };
        effects.push(Effect::Send(ToEngine::OpenLane(Box::new(OpenLane {
            transfer_id: id.clone(),
            owner: caller.owner.clone(),
            lane_id,
            secret,
            cipher: submission.request.cipher,
            block_bytes,
            chunk_bytes,
            credit_blocks: self.credit_blocks,
            job: places.job(&submission.request),
            call,
        }))));
        let waiting = Waiting { reply, offer, deadline: now + ANSWER_TIMEOUT };
        self.by_lane.insert(lane_id, id.clone());
        self.transfers.insert(id, Transfer::new(caller.owner, lane_id, submission.request, waiting, now));
        Ok(())
    }

    /// Why files cannot be taken from another server's lane, if so.
    fn cannot_take(&self, lane: &RemoteLane) -> Option<Problem> {
        let server = lane.address;
        if !self.data.copy_from.iter().any(|network| network.contains(&server.ip())) {
            let detail = format!("this server does not take files from the server at {server}");
            return Some(
                Problem::new(ApiCode::Invalid, detail).with_hint("its operator allows that with data.copy_from in tradewindd.toml"),
            );
        }
        let is_free = lane.lane_id != 0 && !self.by_lane.contains_key(&lane.lane_id);
        (!is_free).then(|| {
            Problem::new(ApiCode::Invalid, "the lane to be taken over is in use here")
                .with_hint("copy between two servers, or without --to")
        })
    }

    /// The engine, if it can be asked for something new.
    fn ready(&self) -> Result<&Ready, Problem> {
        if self.drain_until.is_some() {
            return Err(Problem::new(ErrorCode::Draining, "no new transfers are taken"));
        }
        match &self.engine {
            Engine::Up { ready, .. } => Ok(ready),
            Engine::Starting => Err(Problem::new(ApiCode::EngineUnavailable, "the engine is starting")),
            Engine::Down { reason, .. } => {
                Err(Problem::new(ApiCode::EngineUnavailable, format!("the engine is being restarted: it {reason}")))
            }
        }
    }

    fn browse(&mut self, now: Instant, store: Store, question: BrowseQuestion, reply: Reply, effects: &mut Vec<Effect>) {
        if let Err(problem) = self.ready() {
            let _ = reply.send(Err(problem));
            return;
        }
        effects.extend(self.browsing.ask(store, question, now + BROWSE_TIMEOUT, reply).map(Effect::Send));
    }

    fn endpoints(&self, ready: &Ready) -> Vec<OfferedEndpoint> {
        let offer = |address: std::net::SocketAddr| OfferedEndpoint {
            ip: self.data.public_ip.or_else(|| Some(address.ip()).filter(|ip| !ip.is_unspecified())),
            port: address.port(),
        };
        ready.endpoints.iter().map(|endpoint| offer(endpoint.address)).collect()
    }

    /// True if there is room for one more transfer, after forgetting the one that ended first if need be.
    fn make_room(&mut self, now: Instant) -> bool {
        self.forget_expired(now);
        if self.transfers.len() < self.limits.transfers_max {
            return true;
        }
        let oldest = self.transfers.iter().filter_map(|(id, t)| Some((t.ended()?, id.clone()))).min();
        let Some((_, id)) = oldest else { return false };
        self.transfers.remove(&id);
        self.forgotten.push(id);
        true
    }

    fn forget_expired(&mut self, now: Instant) {
        let keep = Duration::from_secs(self.limits.finished_keep_s);
        let is_old = |t: &Transfer| t.ended().is_some_and(|ended| now.saturating_duration_since(ended) > keep);
        self.forgotten.extend(self.transfers.extract_if(|_, t| is_old(t)).map(|(id, _)| id));
    }

    /// The transfer, if it is this user's: others learn no more than that it is not theirs.
    fn owned(&self, owner: &str, id: &str) -> Result<&Transfer, Problem> {
        let transfer = self.transfers.get(id).filter(|transfer| transfer.owner == owner);
        transfer.ok_or_else(|| Problem::new(ApiCode::NotFound, format!("transfer '{}'", id.chars().take(64).collect::<String>())))
    }

    /// The lane of a download that takes a list of what its client has.
    fn wants_list(&self, owner: &str, id: &str) -> Result<u64, Problem> {
        let transfer = self.owned(owner, id)?;
        if transfer.wants_list() {
            return Ok(transfer.lane_id);
        }
        let detail = "only a download that has not begun and was submitted with \"resume\": \"attributes\" takes a list of what is there";
        Err(Problem::new(ApiCode::Invalid, detail))
    }

    fn list(&self, owner: &str, now: Instant) -> TransferList {
        let mut own: Vec<_> = self.transfers.iter().filter(|(_, transfer)| transfer.owner == owner).collect();
        own.sort_by_key(|(id, transfer)| (std::cmp::Reverse(transfer.submitted()), id.as_str()));
        TransferList {
            transfers: own.into_iter().take(LIST_MAX).map(|(id, transfer)| transfer.status(id, false, now, &self.rates)).collect(),
        }
    }

    fn cancel(&mut self, now: Instant, owner: &str, id: &str, effects: &mut Vec<Effect>) -> Result<TransferStatus, Problem> {
        let lane_id = self.owned(owner, id)?.lane_id;
        self.close(now, lane_id, ErrorCode::Cancelled, &format!("cancelled by {owner}"), effects);
        Ok(self.owned(owner, id)?.status(id, true, now, &self.rates))
    }

    fn change_rate(&mut self, now: Instant, owner: &str, id: &str, change: RateChange) -> Result<TransferStatus, Problem> {
        let transfer = self.owned(owner, id)?;
        if transfer.is_final() {
            return Err(Problem::new(ApiCode::Invalid, "the transfer has ended").with_hint("start another one with the rate wanted"));
        }
        if transfer.is_called() {
            let detail = "another server sends the files of this transfer";
            return Err(Problem::new(ApiCode::Invalid, detail).with_hint("change the rate of the transfer at that server"));
        }
        let (lane_id, rate) = (transfer.lane_id, change.applied_to(transfer.rate())?);
        self.rates.change(lane_id, rate)?;
        self.rates_at = now;
        if let Some(transfer) = self.transfers.get_mut(id) {
            transfer.set_rate(rate);
        }
        Ok(self.owned(owner, id)?.status(id, true, now, &self.rates))
    }

    /// Ends a transfer from this side and tells the engine. A transfer that has ended stays as it is.
    fn close(&mut self, now: Instant, lane_id: u64, code: ErrorCode, text: &str, effects: &mut Vec<Effect>) {
        if self.end(now, lane_id, code, text) {
            effects.push(Effect::Send(ToEngine::CloseLane(LaneClosed { lane_id, code, text: text.to_owned() })));
        }
    }

    /// Ends a transfer; false if there is none to end. Whoever waits for it is told.
    fn end(&mut self, now: Instant, lane_id: u64, code: ErrorCode, text: &str) -> bool {
        let Some(transfer) = self.by_lane.remove(&lane_id).and_then(|id| self.transfers.get_mut(&id)) else { return false };
        transfer.failed(code, text, now);
        self.rates.end(now, lane_id, false, transfer.round_trip());
        self.rates_at = now;
        if let Some(waiting) = transfer.waiting.take() {
            let _ = waiting.reply.send(Err(Problem::new(code, text)));
        }
        true
    }

    fn health(&self) -> Health {
        let (engine, problem) = match &self.engine {
            Engine::Up { ready, .. } => (Some(self.engine_health(ready)), None),
            Engine::Starting => (None, Some("it is starting".to_owned())),
            Engine::Down { reason, .. } => (None, Some(format!("it {reason}"))),
        };
        let status = match (self.drain_until, &engine) {
            (Some(_), _) => HealthState::Draining,
            (None, Some(_)) => HealthState::Ok,
            (None, None) => HealthState::EngineDown,
        };
        Health { status, version: Some(env!("CARGO_PKG_VERSION").to_owned()), engine, engine_problem: problem }
    }

    fn engine_health(&self, ready: &Ready) -> EngineHealth {
        EngineHealth {
            version: ready.version.clone(),
            endpoints: ready.endpoints.iter().map(|endpoint| endpoint.address).collect(),
            xdp: ready.xdp.clone(),
            workers: ready.workers,
            pool_bytes: ready.pool_bytes,
            starts: self.generation,
            transfers_active: self.by_lane.len() as u64,
        }
    }

    fn engine_said(&mut self, now: Instant, message: FromEngine, effects: &mut Vec<Effect>) {
        if let Engine::Up { heard, .. } = &mut self.engine {
            *heard = now;
        } else if !is_ready(&message) {
            tracing::error!("the engine spoke before it was ready");
            effects.push(Effect::KillEngine);
            return;
        }
        match message {
            FromEngine::Ready(ready) => {
                let xdp = &ready.xdp;
                let reason = xdp.reason.as_deref().unwrap_or("");
                tracing::info!(version = ready.version, xdp = %xdp.mode, zero_copy = xdp.zero_copy, reason, "engine ready");
                self.engine = Engine::Up { ready: Box::new(ready), since: now, heard: now, asked: now };
                if self.drain_until.is_some() {
                    effects.push(Effect::Send(ToEngine::Drain));
                }
            }
            FromEngine::LaneOpened(lane) => self.lane_opened(now, lane, effects),
            FromEngine::LaneRefused(lane) | FromEngine::LaneFailed(lane) => {
                if self.end(now, lane.lane_id, lane.code, &lane.text) {
                    tracing::info!(lane = format_args!("{:016x}", lane.lane_id), code = %lane.code, text = lane.text, "transfer failed");
                }
            }
            FromEngine::Progress(progress) => {
                if let Some(transfer) = self.of_lane(progress.lane_id) {
                    transfer.progressed(progress.totals, now);
                }
            }
            FromEngine::LaneReport(report) => self.lane_reported(now, report),
            FromEngine::FileDone(file) => {
                if let Some(transfer) = self.of_lane(file.lane_id) {
                    transfer.file_done(file, now);
                }
            }
            FromEngine::LaneDone(receipt) => {
                if let Some(transfer) = self.of_lane(receipt.lane_id) {
                    transfer.done(receipt.totals, (receipt.files_failed, receipt.first_failure), now);
                    let round_trip = transfer.round_trip();
                    self.rates.end(now, receipt.lane_id, true, round_trip);
                    self.by_lane.remove(&receipt.lane_id);
                }
            }
            FromEngine::Browsed(browsed) => self.browsing.answered(*browsed),
            FromEngine::Verified(verified) => effects.extend(self.verifying.found(*verified).map(Effect::Send)),
            FromEngine::Stats(stats) => tracing::debug!(?stats, "engine statistics"),
        }
    }

    fn lane_reported(&mut self, now: Instant, report: LaneReport) {
        if self.rates.report(now, &report) {
            self.rates_at = self.rates_at.min(now + RATES_INTERVAL_MIN);
        }
        if let Some(transfer) = self.of_lane(report.lane_id) {
            // It is there and reads: a large file's checksums come before its first byte.
            if report.limiter == Some(Limiter::Source) && u64::from(report.silent_ms) < SOURCE_SILENCE_MS_MAX {
                transfer.last_progress = now;
            }
            transfer.reported(report);
        }
    }

    fn of_lane(&mut self, lane_id: u64) -> Option<&mut Transfer> {
        self.transfers.get_mut(self.by_lane.get(&lane_id)?)
    }

    fn lane_opened(&mut self, now: Instant, accepted: LaneAccepted, effects: &mut Vec<Effect>) {
        let LaneAccepted { lane_id, chunk_bytes, credit_blocks, durable } = accepted;
        let limits = TransferLimits { idle_timeout_s: self.limits.idle_timeout_s };
        let Some(id) = self.by_lane.get(&lane_id).cloned() else { return };
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        let Some(waiting) = transfer.waiting.take() else { return };
        transfer.opened(now);
        let summary = durable.as_ref().map(|list| list.summary);
        transfer.durable = durable.and_then(|list| list.path);
        let rate = self.rates.open(now, lane_id);
        // The others have to make room for it.
        self.rates_at = now;
        if transfer.is_download() {
            effects.push(Effect::Send(ToEngine::LaneRate(Box::new(lane_rate(lane_id, &rate)))));
        }
        let offer = LaneOffer { chunk_bytes, credit_blocks, rate, ..waiting.offer };
        let response = SubmitResponse { transfer_id: id, lanes: vec![offer], limits, durable: summary };
        if waiting.reply.send(Ok(response)).is_err() {
            self.close(now, lane_id, ErrorCode::PeerGone, "the client did not wait for the answer", effects);
        }
    }

    fn engine_ended(&mut self, now: Instant, reason: String) {
        if let Engine::Up { since, .. } = self.engine
            && now.saturating_duration_since(since) >= STABLE_AFTER
        {
            self.restart_delay = RESTART_DELAY_MIN;
        }
        let lanes: Vec<u64> = self.by_lane.keys().copied().collect();
        if self.drain_until.is_none() {
            let delay_ms = u64::try_from(self.restart_delay.as_millis()).unwrap_or(u64::MAX);
            tracing::error!(reason, transfers = lanes.len(), delay_ms, "the engine ended; it will be started again");
        }
        for lane_id in lanes {
            self.end(now, lane_id, ErrorCode::EngineDied, &format!("the engine {reason}"));
        }
        self.browsing.engine_ended(&reason);
        self.verifying.engine_ended();
        self.engine = Engine::Down { reason, start_at: now + self.restart_delay };
        self.restart_delay = (self.restart_delay * 2).min(RESTART_DELAY_MAX);
    }

    /// What time alone brings about; after every event.
    fn housekeeping(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.watch_engine(now, effects);
        self.browsing.expire(now, BROWSE_TIMEOUT);
        if now >= self.rates_at {
            self.rates_at = now + RATES_INTERVAL;
            let orders = self.rates.orders(now);
            effects.extend(orders.chunks(LANE_ORDERS_MAX).map(|orders| Effect::Send(ToEngine::LaneOrders(orders.to_vec()))));
            let groups = self.rates.groups(now);
            effects.extend(groups.chunks(LANE_ORDERS_MAX).map(|groups| Effect::Send(ToEngine::LaneGroups(groups.to_vec()))));
        }
        effects.extend(self.forgotten.drain(..).map(|transfer_id| Effect::Forget { transfer_id }));
    }

    /// Ends transfers that are not answered or do not move, and forgets old ones.
    fn end_overdue(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let idle = Duration::from_secs(self.limits.idle_timeout_s) + IDLE_MARGIN;
        let mut late = Vec::new();
        for transfer in self.transfers.values().filter(|t| !t.is_final()) {
            match (&transfer.waiting, transfer.state()) {
                (Some(waiting), _) if now >= waiting.deadline => {
                    late.push((transfer.lane_id, ErrorCode::StoreUnavailable, format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())));
                }
                (None, TransferState::Waiting | TransferState::Running) if now.saturating_duration_since(transfer.last_progress) > idle => {
                    late.push((transfer.lane_id, ErrorCode::IdleTimeout, format!("no progress for {} s", idle.as_secs())));
                }
                _ => {}
            }
        }
        for (lane_id, code, text) in late {
            self.close(now, lane_id, code, &text, effects);
        }
        self.forget_expired(now);
    }

    fn watch_engine(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        match &mut self.engine {
            Engine::Down { .. } if self.drain_until.is_some() => effects.push(Effect::Stop),
            Engine::Down { start_at, .. } if now >= *start_at => {
                self.generation += 1;
                self.engine = Engine::Starting;
                effects.push(Effect::StartEngine { generation: self.generation });
            }
            Engine::Up { heard, .. } if now.saturating_duration_since(*heard) > SILENCE_MAX => {
                tracing::error!(seconds = SILENCE_MAX.as_secs(), "the engine is silent; ending it");
                *heard = now;
                effects.push(Effect::KillEngine);
            }
            Engine::Up { asked, .. } if now.saturating_duration_since(*asked) >= STATS_INTERVAL => {
                *asked = now;
                effects.push(Effect::Send(ToEngine::StatsRequest));
            }
            _ => {}
        }
        if let Some(until) = self.drain_until.filter(|until| now >= *until && !matches!(self.engine, Engine::Down { .. })) {
            tracing::warn!(late_ms = now.saturating_duration_since(until).as_millis(), "transfers still run; ending the engine");
            effects.push(Effect::KillEngine);
        }
    }
}

#[cfg(test)]
mod tests;
