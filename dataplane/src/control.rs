//! Speaking with the control process: one owner of the lanes; `select` only receives, a plain function applies.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tradewind_client::{CREDIT_BLOCKS_DEFAULT, Durable};
use tradewind_fabric::BlockPool;
use tradewind_ipc::{
    Cipher, DataEndpoint, Destination, ErrorCode, FromEngine, IpcError, Job, LaneAccepted, LaneClosed, LaneReceipt, OpenLane, ToEngine,
};
use tradewind_netio::Path;
use tradewind_proto::block::BlockWriter;
use tradewind_proto::crypto::{CipherSuite, LaneSecret, Provider};
use tradewind_proto::rate::{Policy, RateConfig};
use tradewind_proto::receiver::ReceiverConfig;
use tradewind_proto::sender::SenderConfig;
use tradewind_staging::Staging;
use tradewind_storage::{StoreError, Uploader, UploaderConfig};
use tradewind_wire::limits::{BLOCK_PAYLOAD_MIN, CHUNK_BYTES_MIN, DATA_OVERHEAD_BYTES, LANES_MAX, packet_bytes};
use tradewind_wire::{Group, LaneId};

use crate::browse::Browser;
use crate::destination;
pub use crate::facts::Facts;
use crate::figures;
use crate::keeping::Keeping;
use crate::lane_task::{LaneHandle, LaneTask};
use crate::memory::{self, Holding, Room};
use crate::opening::{Destined, Rival, Work, supersede};
use crate::orders;
use crate::resume;
use crate::send_task::{self, BLOCKS_AHEAD, SendTask};
use crate::shared::{Command, LaneEvent, LaneOpening, LaneShared, Mailbox, OpeningEnd};
use crate::spill::Spilling;
use crate::topology::Workers;
use crate::verify::Verifier;

/// Name and release for the other side's messages.
const SOFTWARE: &str = concat!("tradewind-engine ", env!("CARGO_PKG_VERSION"));
/// A lane whose sender never came is given up after this.
const FIRST_PACKET_TIMEOUT: Duration = Duration::from_secs(60);
/// The same where the sender has to fetch a list first of what is durable.
const FIRST_PACKET_AFTER_LIST: Duration = Duration::from_secs(240);
/// How often memory is shared out anew, and workers are looked after.
const TICK: Duration = Duration::from_millis(100);
/// How long a lane waits for memory that others are to give up.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);
/// How long lanes may take to say goodbye at the end.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the engine's conversation with the control process ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket failed.
    #[error("the connection to tradewindd failed: {0}")]
    Ipc(#[from] IpcError),
    /// A worker died.
    #[error("a worker stopped on its own; the engine ends so that tradewindd starts it afresh")]
    Worker,
    /// No signal handler could be set.
    #[error("cannot watch for signals: {0}")]
    Signal(std::io::Error),
}

/// What `select` received.
enum Action {
    Message(ToEngine),
    ControlGone,
    StoreChecked(Box<OpenLane>, Box<Result<Work, StoreError>>),
    LaneEnded(u64, Box<FromEngine>),
    /// A lane whose sender has gone, while another transfer wants to go on with its work.
    Supersede(u64),
    Terminate,
    Tick,
}

struct OpenedLane {
    cancel: Option<oneshot::Sender<LaneClosed>>,
    holding: Holding,
    shared: Arc<LaneShared>,
    owner: String,
    /// Of a lane that takes files from a client.
    destination: Option<Destination>,
    /// Where its client's word goes on what it has already.
    have: Option<Arc<OnceLock<Durable>>>,
    opened: Instant,
}

struct Engine {
    facts: Facts,
    workers: Workers,
    pool: BlockPool,
    lanes: HashMap<u64, OpenedLane>,
    /// Lanes whose store is being checked or that wait for memory, and why they are not wanted any more, if so.
    opening: HashMap<u64, Option<LaneClosed>>,
    /// Those that wait for memory, and since when.
    waiting: VecDeque<(Box<OpenLane>, Work, Instant)>,
    draining: bool,
    browser: Browser,
    verifier: Verifier,
    to_control: mpsc::UnboundedSender<FromEngine>,
    actions: mpsc::UnboundedSender<Action>,
}

/// Serves the control process until it says drain, SIGTERM comes, or it goes away.
///
/// # Errors
/// [`ControlError`] when the engine cannot go on.
pub async fn serve(stream: UnixStream, workers: Workers, pool: BlockPool, facts: Facts) -> Result<(), ControlError> {
    let facts = Facts { state: facts.state.map(|state| state.with_kept(workers.kept.as_ref())), ..facts };
    let (mut sender, mut receiver, _) = tradewind_ipc::connect_control(stream, SOFTWARE).await?;
    sender.send(&FromEngine::Ready(facts.ready.clone())).await?;
    let (to_control, mut outgoing) = mpsc::unbounded_channel();
    let (actions, mut pending) = mpsc::unbounded_channel();
    let writer = tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            if sender.send(&message).await.is_err() {
                break;
            }
        }
    });
    let mut terminate = signal(SignalKind::terminate()).map_err(ControlError::Signal)?;
    // The terminal's Ctrl-C reaches the whole process group; tradewindd decides what it means.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ControlError::Signal)?;
    let mut tick = tokio::time::interval(TICK);
    let mut engine = Engine {
        facts,
        workers,
        pool,
        lanes: HashMap::new(),
        opening: HashMap::new(),
        waiting: VecDeque::new(),
        draining: false,
        browser: Browser::new(to_control.clone()),
        verifier: Verifier::new(to_control.clone()),
        to_control,
        actions,
    };
    let result = loop {
        let action = tokio::select! {
            message = receiver.recv() => match message {
                Ok(Some(message)) => Action::Message(message),
                Ok(None) => Action::ControlGone,
                Err(error) => break Err(error.into()),
            },
            Some(action) = pending.recv() => action,
            _ = terminate.recv() => Action::Terminate,
            _ = interrupt.recv() => Action::Tick,
            _ = tick.tick() => Action::Tick,
        };
        match engine.apply(action) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    engine.goodbye(&mut pending).await;
    drop(engine);
    // Whatever is still queued for the control process.
    let _ = tokio::time::timeout(Duration::from_secs(1), writer).await;
    result
}

impl Engine {
    /// Applies one action; `Ok(false)` when the engine is done.
    fn apply(&mut self, action: Action) -> Result<bool, ControlError> {
        match action {
            Action::Message(message) => self.on_message(message),
            Action::StoreChecked(open, work) => self.on_store_checked(open, *work),
            Action::LaneEnded(lane, last) => self.on_lane_ended(lane, *last),
            Action::Supersede(lane_id) => {
                if let Some(cancel) = self.lanes.get_mut(&lane_id).and_then(|lane| lane.cancel.take()) {
                    let text = "its sender fell silent, and another transfer to the same destination goes on with it".to_owned();
                    let _ = cancel.send(LaneClosed { lane_id, code: ErrorCode::PeerGone, text });
                }
            }
            Action::ControlGone => return Ok(false),
            Action::Terminate => self.draining = true,
            Action::Tick if self.workers.any_ended() => return Err(ControlError::Worker),
            Action::Tick => self.share_memory(),
        }
        Ok(!(self.draining && self.lanes.is_empty() && self.opening.is_empty()))
    }

    fn on_message(&mut self, message: ToEngine) {
        match message {
            ToEngine::OpenLane(open) => self.on_open(open),
            ToEngine::CloseLane(why) => {
                if let Some(unwanted) = self.opening.get_mut(&why.lane_id) {
                    *unwanted = Some(why);
                } else if let Some(cancel) = self.lanes.get_mut(&why.lane_id).and_then(|lane| lane.cancel.take()) {
                    // A lane that ended meanwhile has already said so.
                    let _ = cancel.send(why);
                }
            }
            ToEngine::LaneOrders(orders) => {
                for orders in &orders {
                    // A lane that has ended needs none.
                    if let Some(lane) = self.lanes.get(&orders.lane_id) {
                        lane.shared.order(orders::to_wire(orders));
                    }
                }
                self.workers.mailboxes.iter().for_each(Mailbox::ring);
            }
            ToEngine::LaneRate(rate) => {
                if let Some(lane) = self.lanes.get(&rate.orders.lane_id) {
                    let group = rate.group.map(|group| Group { number: group.number, share_kbps: group.share_kbps, lanes: group.lanes });
                    lane.shared.agree(orders::to_wire(&rate.orders), group);
                }
            }
            ToEngine::Have { lane_id, path } => {
                let have = self.lanes.get_mut(&lane_id).and_then(|lane| lane.have.take());
                // It may be long.
                tokio::task::spawn_blocking(move || {
                    let durable = have.as_ref().map(|_| resume::read_list(&path));
                    // What is left of such files is removed when the engine starts.
                    let _ = std::fs::remove_file(&path);
                    match (have, durable) {
                        // It is said once.
                        (Some(have), Some(Ok(durable))) => drop(have.set(durable)),
                        (_, Some(Err(error))) => {
                            let lane = LaneId(lane_id);
                            tracing::warn!(%lane, %error, "the list of what the client has cannot be read");
                        }
                        _ => {}
                    }
                });
            }
            ToEngine::Browse(browse) => self.browser.ask(browse),
            ToEngine::Verify(verify) => self.verifier.ask(verify),
            ToEngine::StopVerify { request_id } => self.verifier.stop(request_id),
            ToEngine::LaneGroups(groups) => {
                for group in &groups {
                    if let Some(lane) = self.lanes.get(&group.lane_id) {
                        lane.shared.set_group(Group { number: group.number, share_kbps: group.share_kbps, lanes: group.lanes });
                    }
                }
                self.workers.mailboxes.iter().for_each(Mailbox::ring);
            }
            ToEngine::Drain => self.draining = true,
            ToEngine::StatsRequest => self.tell(FromEngine::Stats(figures::of(&self.workers, &self.pool, self.lanes.len() as u32))),
        }
    }

    fn tell(&self, message: FromEngine) {
        // Fails only when the control process is gone, which `select` notices too.
        let _ = self.to_control.send(message);
    }

    fn refuse(&self, lane_id: u64, code: ErrorCode, text: impl Into<String>) {
        if let Some(state) = &self.facts.state {
            state.forget_list(lane_id);
        }
        self.tell(FromEngine::LaneRefused(LaneClosed { lane_id, code, text: text.into() }));
    }

    fn on_open(&mut self, open: Box<OpenLane>) {
        let lane = open.lane_id;
        if self.draining {
            return self.refuse(lane, ErrorCode::Draining, "the engine is shutting down; try again in a moment");
        }
        if self.lanes.contains_key(&lane) || self.opening.contains_key(&lane) || self.lanes.len() + self.opening.len() >= LANES_MAX {
            return self.refuse(lane, ErrorCode::ResourceExhausted, format!("the engine serves at most {LANES_MAX} lanes at once"));
        }
        let block = open.block_bytes as usize;
        if block < BLOCK_PAYLOAD_MIN || block > self.facts.block_bytes {
            let text = format!("blocks of {block} bytes are outside {BLOCK_PAYLOAD_MIN} to {}", self.facts.block_bytes);
            return self.refuse(lane, ErrorCode::Unsupported, text);
        }
        if open.chunk_bytes != 0 && (open.chunk_bytes as usize) < CHUNK_BYTES_MIN {
            let text = format!("packets of at most {} bytes of payload are below the least, {CHUNK_BYTES_MIN}", open.chunk_bytes);
            return self.refuse(lane, ErrorCode::Unsupported, text);
        }
        if let Some(text) = open.call.and_then(|server| self.cannot_call(server, open.chunk_bytes as usize)) {
            return self.refuse(lane, ErrorCode::Unsupported, text);
        }
        self.opening.insert(lane, None);
        let (actions, state) = (self.actions.clone(), self.facts.state.clone());
        let rivals: Vec<Rival> = match state {
            Some(_) => self.rivals(&open),
            None => Vec::new(),
        };
        tokio::spawn(async move {
            supersede(&rivals, |lane_id| drop(actions.send(Action::Supersede(lane_id)))).await;
            let work = Work::prepare(&open, state).await;
            let _ = actions.send(Action::StoreChecked(open, Box::new(work)));
        });
    }

    /// Why another server cannot be called, if so.
    fn cannot_call(&self, server: SocketAddr, chunk_bytes: usize) -> Option<String> {
        let is_reachable = |endpoint: &DataEndpoint| endpoint.address.is_ipv4() == server.is_ipv4();
        let most = self.facts.chunk_bytes;
        if chunk_bytes == 0 || chunk_bytes > most {
            Some(format!("packets with {chunk_bytes} bytes of payload do not fit the interface of this engine, which takes {most}"))
        } else if self.workers.mailboxes.len() > 1 {
            Some("copies from other servers need an engine with one worker (engine.workers = 1)".to_owned())
        } else if self.facts.ready.endpoints.iter().any(is_reachable) {
            None
        } else {
            Some(format!("{server} and the address that this engine listens at are not both IPv4 or IPv6"))
        }
    }

    /// Lanes of the same user into the same destination.
    fn rivals(&self, open: &OpenLane) -> Vec<Rival> {
        let Job::Receive(into) = &open.job else { return Vec::new() };
        let is_rival = |lane: &OpenedLane| lane.destination.as_ref() == Some(&into.destination) && lane.owner == open.owner;
        let same = self.lanes.iter().filter(|(_, lane)| is_rival(lane));
        same.map(|(id, lane)| Rival { lane_id: *id, shared: Arc::clone(&lane.shared), opened: lane.opened }).collect()
    }

    fn on_store_checked(&mut self, open: Box<OpenLane>, work: Result<Work, StoreError>) {
        match work {
            // Not before those that have waited longer.
            Ok(work) if !self.waiting.is_empty() => self.waiting.push_back((open, work, Instant::now())),
            Ok(work) => self.admit(open, work, Instant::now()),
            Err(error) => {
                let unwanted = self.opening.remove(&open.lane_id).flatten();
                let (code, text) =
                    unwanted.map_or_else(|| (destination::store_code(&error), error.to_string()), |why| (why.code, why.text));
                self.refuse(open.lane_id, code, text);
            }
        }
    }

    /// Opens a lane if there is memory for its blocks, or lets it wait.
    fn admit(&mut self, open: Box<OpenLane>, mut work: Work, since: Instant) {
        let lane_id = open.lane_id;
        if let Some(Some(why)) = self.opening.get(&lane_id).cloned() {
            self.opening.remove(&lane_id);
            return self.refuse(lane_id, why.code, why.text);
        }
        let need = work.pool_need(open.block_bytes);
        let wanted =
            if open.credit_blocks > 0 { u64::from(open.credit_blocks) } else { need.blocks_wanted.max(CREDIT_BLOCKS_DEFAULT.into()) };
        let is_elastic = open.credit_blocks == 0 && matches!(&work, Work::Receive(destined) if self.staging_for(destined).is_none());
        let capacity = self.pool.capacity() as u64;
        let claims = memory::claims(self.lanes.values_mut().map(|lane| (&mut lane.holding, &*lane.shared)));
        let blocks = match memory::room(capacity, &claims, need.blocks_min, wanted) {
            Room::Now(blocks) if is_elastic => blocks,
            // Half of what is free, so that the next transfer finds room too.
            Room::Now(_) => wanted.min((memory::free(capacity, &claims) / 2).max(need.blocks_min)).max(need.blocks_min),
            Room::Later if since.elapsed() < ROOM_PATIENCE => return self.waiting.push_back((open, work, since)),
            Room::Later | Room::None => {
                self.opening.remove(&lane_id);
                let (others, needs) = (self.lanes.len(), need.blocks_min);
                let text = format!(
                    "the engine's memory for blocks is promised to {others} other lanes, and this one needs {needs} blocks; try again when some have \
                     ended, or raise engine.pool_bytes on the server"
                );
                return self.refuse(lane_id, ErrorCode::ResourceExhausted, text);
            }
        };
        self.opening.remove(&lane_id);
        let holding = if is_elastic { Holding::elastic(need.blocks_min, wanted.min(capacity)) } else { Holding::fixed() };
        let most = self.facts.chunk_bytes as u32;
        let chunk_bytes = if open.chunk_bytes == 0 { most } else { most.min(open.chunk_bytes) };
        let durable = work.take_list();
        let has_list = durable.as_ref().is_some_and(|list| list.path.is_some()) || matches!(&work, Work::Send { have: Some(_), .. });
        match self.start_lane(&open, work, has_list, (blocks, holding), chunk_bytes) {
            Ok(()) => {
                let credit_blocks = blocks as u32;
                self.tell(FromEngine::LaneOpened(LaneAccepted { lane_id, chunk_bytes, credit_blocks, durable }));
            }
            Err(text) => self.refuse(lane_id, ErrorCode::ResourceExhausted, text),
        }
    }

    /// Moves memory from lanes that have much to those that use theirs, and lets those in that wait for it.
    fn share_memory(&mut self) {
        let lanes = self.lanes.values_mut().map(|lane| (&mut lane.holding, &*lane.shared));
        memory::share_out(self.pool.capacity() as u64, lanes, self.waiting.len());
        for (open, work, since) in std::mem::take(&mut self.waiting) {
            self.admit(open, work, since);
        }
    }

    /// The disk on which blocks of a lane wait for this store. Directories of this machine are a disk themselves: they take small files at once.
    fn staging_for(&self, destined: &Destined) -> Option<&Staging> {
        self.workers.staging.as_ref().filter(|_| destined.store.batch_objects_max() == 1)
    }

    fn start_lane(
        &mut self,
        open: &OpenLane,
        work: Work,
        has_list: bool,
        (blocks, holding): (u64, Holding),
        chunk_bytes: u32,
    ) -> Result<(), String> {
        let lane = LaneId(open.lane_id);
        let shared = Arc::new(LaneShared::default());
        shared.window_blocks.store(blocks as u32, Ordering::Relaxed);
        shared.blocks_granted.store(blocks as u32, Ordering::Relaxed);
        let (events, arrived) = mpsc::unbounded_channel();
        let (cancel, cancelled) = oneshot::channel();
        let handle = LaneHandle {
            lane,
            shared: Arc::clone(&shared),
            mailboxes: if matches!(work, Work::Copy { .. }) { Vec::new() } else { self.workers.mailboxes.clone() },
            to_control: self.to_control.clone(),
            first_packet_timeout: if has_list { FIRST_PACKET_AFTER_LIST } else { FIRST_PACKET_TIMEOUT },
            called: open.call,
        };
        let payload_max = open.block_bytes as usize;
        let memory = (blocks, holding.most(blocks), work.pool_need(open.block_bytes).blocks_min as u32);
        let mut said = None;
        match work {
            Work::Receive(destined) => {
                let config = self.receiver_config(open, blocks, chunk_bytes);
                self.open_on_workers(&shared, &events, (open.call, chunk_bytes), || OpeningEnd::Receive(config.clone()))?;
                self.run_lane(self.lane_task(handle, *destined, arrived, cancelled, open.block_bytes, memory).run());
            }
            Work::Copy { objects, into } => {
                let window = blocks as u32;
                tokio::spawn(send_task::copy(lane, Arc::clone(&shared), objects, self.pool.clone(), payload_max, window, events));
                self.run_lane(self.lane_task(handle, *into, arrived, cancelled, open.block_bytes, memory).run());
            }
            Work::Send { objects, have } => {
                said.clone_from(&have);
                let config = self.sender_config(open, chunk_bytes);
                let (ready, outgoing) = crossbeam::channel::unbounded();
                self.open_on_workers(&shared, &events, (None, chunk_bytes), || {
                    OpeningEnd::Send(Box::new(config.clone()), outgoing.clone())
                })?;
                let window = (blocks as u32).saturating_sub(BLOCKS_AHEAD).max(BLOCKS_AHEAD);
                let (pool, block_bytes) = (self.pool.clone(), payload_max);
                self.run_lane(
                    SendTask { handle, arrived, cancel: cancelled, objects, have, pool, block_bytes, window, blocks: ready }.run(),
                );
            }
        }
        let destination = if let Job::Receive(into) = &open.job { Some(into.destination.clone()) } else { None };
        let (owner, opened) = (open.owner.clone(), Instant::now());
        self.lanes.insert(lane.0, OpenedLane { cancel: Some(cancel), holding, shared, owner, destination, have: said, opened });
        tracing::info!("transfer {}: lane {lane} open, {blocks} blocks, {chunk_bytes} bytes a packet", open.transfer_id);
        Ok(())
    }

    /// Announces a lane to all workers; the first that hears of its peer keeps it.
    fn open_on_workers(
        &self,
        shared: &Arc<LaneShared>,
        events: &mpsc::UnboundedSender<LaneEvent>,
        (call, chunk_bytes): (Option<SocketAddr>, u32),
        end: impl Fn() -> OpeningEnd,
    ) -> Result<(), String> {
        if let Some(steering) = &self.workers.steering {
            let longest = chunk_bytes as usize + DATA_OVERHEAD_BYTES;
            steering.add_lane(end().lane().0, None, longest).map_err(|error| error.to_string())?;
        }
        let path = |remote| self.facts.ready.endpoints.first().map(|own| Path { local: own.address, remote, link: None });
        let call = call.and_then(path);
        for mailbox in &self.workers.mailboxes {
            let opening = LaneOpening { end: end(), shared: Arc::clone(shared), events: events.clone(), call };
            if !mailbox.send(Command::Open(Box::new(opening))) {
                return Err("a worker does not take commands; the engine is overloaded".to_owned());
            }
        }
        Ok(())
    }

    fn receiver_config(&self, open: &OpenLane, blocks: u64, chunk_bytes: u32) -> ReceiverConfig {
        ReceiverConfig {
            lane: LaneId(open.lane_id),
            secret: LaneSecret(*open.secret.expose()),
            suite: suite(open.cipher),
            provider: Provider::AwsLc,
            chunk_bytes: chunk_bytes as u16,
            image_bytes_max: BlockWriter::image_bytes_max(open.block_bytes as usize),
            blocks_allowed: blocks as u32,
            idle_timeout_ns: self.facts.idle_timeout_ns,
        }
    }

    /// Without limits: what was agreed follows with [`ToEngine::LaneRate`], and the receiver says how many blocks it takes.
    fn sender_config(&self, open: &OpenLane, chunk_bytes: u32) -> SenderConfig {
        let is_ipv6 = self.facts.ready.endpoints.iter().any(|endpoint| endpoint.address.is_ipv6());
        let rate = RateConfig {
            policy: Policy::Fair,
            target_bytes_per_s: u64::MAX,
            minimum_bytes_per_s: 0,
            packet_bytes: packet_bytes(chunk_bytes as usize, is_ipv6) as u32,
            seed: open.lane_id,
            initial_rtt_ns: 0,
        };
        SenderConfig {
            lane: LaneId(open.lane_id),
            secret: LaneSecret(*open.secret.expose()),
            suite: suite(open.cipher),
            provider: Provider::AwsLc,
            chunk_bytes: chunk_bytes as u16,
            blocks_allowed: 0,
            rate,
            tail_copies: true,
            idle_timeout_ns: self.facts.idle_timeout_ns,
        }
    }

    fn lane_task(
        &self,
        handle: LaneHandle,
        destined: Destined,
        arrived: mpsc::UnboundedReceiver<LaneEvent>,
        cancel: oneshot::Receiver<LaneClosed>,
        block_bytes: u32,
        (blocks, most, part): (u64, u64, u32),
    ) -> LaneTask {
        // What a copy reads from another store waits there.
        let staging = self.staging_for(&destined).filter(|_| !handle.mailboxes.is_empty());
        let Destined { store, config, prepared, manifest } = destined;
        let spilling = staging.and_then(|staging| Spilling::new(staging, &self.pool, blocks as u32, part, block_bytes));
        let config = UploaderConfig { pool_bytes: most * u64::from(block_bytes), ..config };
        let kept = prepared.as_ref().and_then(|prepared| prepared.kept.clone()).filter(|_| !handle.mailboxes.is_empty());
        let keeping = self.workers.staging.as_ref().zip(kept).map(|(staging, kept)| Keeping::new(staging, kept));
        let resumption = prepared.map(|prepared| prepared.resumption);
        let (uploads, stored) = mpsc::unbounded_channel();
        let uploader = Uploader::start(&tokio::runtime::Handle::current(), store, config, resumption, uploads);
        let statistics = Arc::clone(&self.workers.statistics[0]);
        let (recent, left_out) = (VecDeque::new(), (0, None));
        LaneTask {
            handle,
            statistics,
            uploader,
            block_bytes: block_bytes.into(),
            stored,
            arrived,
            cancel,
            recent,
            left_out,
            manifest,
            spilling,
            keeping,
        }
    }

    /// Runs a lane's task and hears of its end.
    fn run_lane(&self, task: impl Future<Output = FromEngine> + Send + 'static) {
        let actions = self.actions.clone();
        tokio::spawn(async move {
            let last = task.await;
            let (FromEngine::LaneDone(LaneReceipt { lane_id, .. }) | FromEngine::LaneFailed(LaneClosed { lane_id, .. })) = &last else {
                return;
            };
            let _ = actions.send(Action::LaneEnded(*lane_id, Box::new(last)));
        });
    }

    fn on_lane_ended(&mut self, lane: u64, last: FromEngine) {
        if let Some(ended) = self.lanes.remove(&lane) {
            ended.shared.ended.store(true, Ordering::Release);
        }
        if let Some(state) = &self.facts.state {
            state.forget_list(lane);
        }
        self.tell(last);
        if let Some(steering) = self.workers.steering.clone() {
            // The goodbye is answered by a CLOSE or by repeats; packets of the lane may pass until that is over.
            tokio::spawn(async move {
                tokio::time::sleep(GOODBYE_TIMEOUT).await;
                if let Err(error) = steering.remove_lane(lane) {
                    tracing::warn!("lane {lane:016x} stays in the steering program: {error}");
                }
            });
        }
    }

    /// Ends all lanes and the workers.
    async fn goodbye(&mut self, pending: &mut mpsc::UnboundedReceiver<Action>) {
        for (&lane_id, lane) in &mut self.lanes {
            if let Some(cancel) = lane.cancel.take() {
                let text = "the engine is shutting down".to_owned();
                let _ = cancel.send(LaneClosed { lane_id, code: ErrorCode::Draining, text });
            }
        }
        let deadline = tokio::time::Instant::now() + GOODBYE_TIMEOUT;
        while !self.lanes.is_empty() {
            match tokio::time::timeout_at(deadline, pending.recv()).await {
                Ok(Some(Action::LaneEnded(lane, last))) => self.on_lane_ended(lane, *last),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        tokio::task::block_in_place(|| self.workers.stop());
    }
}

const fn suite(cipher: Cipher) -> CipherSuite {
    match cipher {
        Cipher::Aes128Gcm => CipherSuite::Aes128Gcm,
        Cipher::Aes256Gcm => CipherSuite::Aes256Gcm,
    }
}
