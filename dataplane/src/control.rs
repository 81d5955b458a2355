//! Speaking with the control process: one owner of the lanes; `select` only receives, a plain function applies.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tradewind_fabric::BlockPool;
use tradewind_ipc::{
    Cipher, DataEndpoint, Destination, ErrorCode, FromEngine, IpcError, LaneAccepted, LaneClosed, OpenLane, Ready, StageLatency, Stats,
    ToEngine,
};
use tradewind_proto::block::BlockWriter;
use tradewind_proto::crypto::{CipherSuite, LaneSecret, Provider};
use tradewind_proto::receiver::ReceiverConfig;
use tradewind_storage::{PoolNeed, Store, StoreError, Uploader, UploaderConfig};
use tradewind_wire::limits::{BLOCK_PAYLOAD_MIN, CHUNK_BYTES_MIN, LANES_MAX};
use tradewind_wire::{Group, LaneId};

use crate::browse::Browser;
use crate::destination;
use crate::lane_task::LaneTask;
use crate::manifest::Manifest;
use crate::options::Options;
use crate::orders;
use crate::resume::{Prepared, State};
use crate::shared::{Command, LaneOpening, LaneShared, Mailbox};
use crate::statistics::{Stage, WorkerStatistics};
use crate::topology::{Opened, Workers};
use crate::verify::Verifier;

/// Name and release for the other side's messages.
const SOFTWARE: &str = concat!("tradewind-engine ", env!("CARGO_PKG_VERSION"));
/// Blocks a lane may hold unless the control process asks for another number.
const CREDIT_BLOCKS_DEFAULT: u64 = 256;
/// How long a store may take to say whether it takes objects.
const STORE_CHECK_TIMEOUT: Duration = Duration::from_secs(20);
/// A lane whose sender never came is given up after this.
const FIRST_PACKET_TIMEOUT: Duration = Duration::from_secs(60);
/// The same where the sender has to fetch a list first of what is durable.
const FIRST_PACKET_AFTER_LIST: Duration = Duration::from_secs(240);
/// Silence after which the sender of a rival has gone: it says something at least once a second.
const RIVAL_SILENCE: Duration = Duration::from_millis(2_500);
/// How long one may take to its first packet.
const RIVAL_FIRST_PACKET: Duration = Duration::from_secs(10);
/// How long a rival's end is waited for.
const RIVAL_END: Duration = Duration::from_secs(5);
const RIVAL_POLL: Duration = Duration::from_millis(20);
/// How long lanes may take to say goodbye at the end.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the control side must know of how the engine was started.
pub struct Facts {
    ready: Ready,
    chunk_bytes: usize,
    block_bytes: usize,
    idle_timeout_ns: u64,
    state: Option<State>,
}

impl Facts {
    /// The facts of what was opened with these options.
    ///
    /// # Errors
    /// [`StoreError::Journal`] when the state directory cannot be used.
    pub fn of(opened: &Opened, options: &Options) -> Result<Self, StoreError> {
        let keep = Duration::from_secs(options.resume_keep_s);
        let state = options.state_dir.as_ref().map(|directory| State::open(directory, keep)).transpose()?;
        let ready = Ready {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            endpoints: vec![DataEndpoint { address: opened.listen }],
            xdp: opened.xdp.clone(),
            workers: options.workers,
            pool_bytes: (opened.pool.capacity() * opened.pool.slot_bytes()) as u64,
        };
        let idle_timeout_ns = options.idle_timeout_s.saturating_mul(1_000_000_000);
        Ok(Self { ready, chunk_bytes: opened.chunk_bytes, block_bytes: options.block_bytes, idle_timeout_ns, state })
    }
}

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
    StoreChecked(Box<OpenLane>, Box<Result<Destined, StoreError>>),
    LaneEnded(u64, Box<FromEngine>),
    /// A lane whose sender has gone, while another transfer wants to go on with its work.
    Supersede(u64),
    Terminate,
    Tick,
}

/// A store that takes objects, how they are put there, and what is there already.
struct Destined {
    store: Arc<dyn Store>,
    config: UploaderConfig,
    prepared: Option<Prepared>,
    manifest: Option<Manifest>,
}

struct OpenedLane {
    cancel: Option<oneshot::Sender<LaneClosed>>,
    blocks: u64,
    shared: Arc<LaneShared>,
    owner: String,
    destination: Destination,
    opened: Instant,
}

/// A lane into the same destination as one that is to be opened.
struct Rival {
    lane_id: u64,
    shared: Arc<LaneShared>,
    opened: Instant,
}

struct Engine {
    facts: Facts,
    workers: Workers,
    pool: BlockPool,
    lanes: HashMap<u64, OpenedLane>,
    /// Lanes whose store is being checked, and why they are not wanted any more, if so.
    opening: HashMap<u64, Option<LaneClosed>>,
    blocks_promised: u64,
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
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut engine = Engine {
        facts,
        workers,
        pool,
        lanes: HashMap::new(),
        opening: HashMap::new(),
        blocks_promised: 0,
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

/// Ends rivals whose senders have gone, so that what they hold is free: whoever was killed and starts again need not wait until the silence of
/// its old lane counts as an end.
async fn supersede(rivals: &[Rival], actions: &mpsc::UnboundedSender<Action>) {
    let heard = |rival: &Rival| rival.shared.sender().map(|heard| heard.heard_ns);
    let (before, start): (Vec<_>, _) = (rivals.iter().map(heard).collect(), Instant::now());
    let mut waiting: Vec<(&Rival, Option<u64>)> = rivals.iter().zip(before).collect();
    while !waiting.is_empty() && start.elapsed() < RIVAL_SILENCE {
        tokio::time::sleep(RIVAL_POLL).await;
        waiting.retain(|(rival, before)| heard(rival) == *before && !rival.shared.ended.load(Ordering::Acquire));
    }
    // One that was never heard may be about to begin.
    waiting.retain(|(rival, before)| before.is_some() || rival.opened.elapsed() > RIVAL_FIRST_PACKET);
    for (rival, _) in &waiting {
        let _ = actions.send(Action::Supersede(rival.lane_id));
    }
    while start.elapsed() < RIVAL_SILENCE + RIVAL_END && waiting.iter().any(|(rival, _)| !rival.shared.ended.load(Ordering::Acquire)) {
        tokio::time::sleep(RIVAL_POLL).await;
    }
}

/// Opens a lane's destination.
async fn destined(open: &OpenLane, state: Option<State>) -> Result<Destined, StoreError> {
    let timeout = |action, after| StoreError::Timeout { action, after };
    let opening = tokio::time::timeout(STORE_CHECK_TIMEOUT, destination::open(&open.destination)).await;
    let store = opening.unwrap_or_else(|_| Err(timeout("checking the destination", STORE_CHECK_TIMEOUT)))?;
    let config = UploaderConfig {
        name: destination::name(&open.destination.name),
        encode_names: store.takes_only_text(),
        overwrite: open.overwrite,
        block_bytes: u64::from(open.block_bytes),
        part_bytes: Some(part_bytes(store.as_ref())),
        ..UploaderConfig::default()
    };
    let manifest = state.as_ref().and_then(|state| state.manifest(&open.transfer_id));
    let prepared = match state {
        Some(state) => Some(state.prepare(open.lane_id, &store, &config, open.resume, manifest.as_ref()).await?),
        None => None,
    };
    Ok(Destined { store, config, prepared, manifest })
}

impl Engine {
    /// Applies one action; `Ok(false)` when the engine is done.
    fn apply(&mut self, action: Action) -> Result<bool, ControlError> {
        match action {
            Action::Message(message) => self.on_message(message),
            Action::StoreChecked(open, destined) => self.on_store_checked(&open, *destined),
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
            Action::Tick => {}
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
            ToEngine::StatsRequest => self.tell(FromEngine::Stats(self.stats())),
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
        self.opening.insert(lane, None);
        let (actions, state) = (self.actions.clone(), self.facts.state.clone());
        let rivals: Vec<Rival> = match state {
            Some(_) => self.rivals(&open),
            None => Vec::new(),
        };
        tokio::spawn(async move {
            supersede(&rivals, &actions).await;
            let destined = destined(&open, state).await;
            let _ = actions.send(Action::StoreChecked(open, Box::new(destined)));
        });
    }

    /// Lanes of the same user into the same destination.
    fn rivals(&self, open: &OpenLane) -> Vec<Rival> {
        let is_rival = |lane: &OpenedLane| lane.destination == open.destination && lane.owner == open.owner;
        let same = self.lanes.iter().filter(|(_, lane)| is_rival(lane));
        same.map(|(id, lane)| Rival { lane_id: *id, shared: Arc::clone(&lane.shared), opened: lane.opened }).collect()
    }

    fn on_store_checked(&mut self, open: &OpenLane, destined: Result<Destined, StoreError>) {
        let lane_id = open.lane_id;
        if let Some(Some(why)) = self.opening.remove(&lane_id) {
            return self.refuse(lane_id, why.code, why.text);
        }
        let mut destined = match destined {
            Ok(destined) => destined,
            Err(error) => return self.refuse(lane_id, destination::store_code(&error), error.to_string()),
        };
        let part_bytes = part_bytes(destined.store.as_ref());
        let need = PoolNeed::new(part_bytes, u64::from(open.block_bytes), UploaderConfig::default().parts_in_flight, 1);
        let free = (self.pool.capacity() as u64).saturating_sub(self.blocks_promised);
        let wanted = if open.credit_blocks > 0 { u64::from(open.credit_blocks) } else { CREDIT_BLOCKS_DEFAULT.max(need.blocks_wanted) };
        // Half of what is free, so that the next transfer finds room too.
        let blocks = wanted.min((free / 2).max(need.blocks_min)).max(need.blocks_min);
        if blocks > free {
            let text = format!("the engine's memory for blocks is promised to {} other lanes; try again later", self.lanes.len());
            return self.refuse(lane_id, ErrorCode::ResourceExhausted, text);
        }
        let most = self.facts.chunk_bytes as u32;
        let chunk_bytes = if open.chunk_bytes == 0 { most } else { most.min(open.chunk_bytes) };
        let durable = destined.prepared.as_mut().and_then(|prepared| prepared.list.take());
        let has_list = durable.as_ref().is_some_and(|list| list.path.is_some());
        match self.start_lane(open, destined, has_list, blocks, chunk_bytes) {
            Ok(()) => {
                let credit_blocks = blocks as u32;
                self.tell(FromEngine::LaneOpened(LaneAccepted { lane_id, chunk_bytes, credit_blocks, durable }));
            }
            Err(text) => self.refuse(lane_id, ErrorCode::ResourceExhausted, text),
        }
    }

    fn start_lane(&mut self, open: &OpenLane, destined: Destined, has_list: bool, blocks: u64, chunk_bytes: u32) -> Result<(), String> {
        let lane = LaneId(open.lane_id);
        if let Some(steering) = &self.workers.steering {
            steering.add_lane(lane.0, None).map_err(|error| error.to_string())?;
        }
        let shared = Arc::new(LaneShared::default());
        shared.window_blocks.store(blocks as u32, Ordering::Relaxed);
        let (events, arrived) = mpsc::unbounded_channel();
        let config = ReceiverConfig {
            lane,
            secret: LaneSecret(*open.secret.expose()),
            suite: match open.cipher {
                Cipher::Aes128Gcm => CipherSuite::Aes128Gcm,
                Cipher::Aes256Gcm => CipherSuite::Aes256Gcm,
            },
            provider: Provider::AwsLc,
            chunk_bytes: chunk_bytes as u16,
            image_bytes_max: BlockWriter::image_bytes_max(open.block_bytes as usize),
            blocks_allowed: blocks as u32,
            idle_timeout_ns: self.facts.idle_timeout_ns,
        };
        for mailbox in &self.workers.mailboxes {
            let opening = LaneOpening { config: config.clone(), shared: Arc::clone(&shared), events: events.clone() };
            if !mailbox.send(Command::Open(Box::new(opening))) {
                return Err("a worker does not take commands; the engine is overloaded".to_owned());
            }
        }
        let Destined { store, config, prepared, manifest } = destined;
        let config = UploaderConfig { pool_bytes: blocks * u64::from(open.block_bytes), ..config };
        let resumption = prepared.map(|prepared| prepared.resumption);
        let (uploads, stored) = mpsc::unbounded_channel();
        let uploader = Uploader::start(&tokio::runtime::Handle::current(), store, config, resumption, uploads);
        let (cancel, cancelled) = oneshot::channel();
        let lane_shared = Arc::clone(&shared);
        let task = LaneTask {
            lane,
            shared,
            mailboxes: self.workers.mailboxes.clone(),
            statistics: Arc::clone(&self.workers.statistics[0]),
            uploader,
            stored,
            arrived,
            to_control: self.to_control.clone(),
            cancel: cancelled,
            recent: VecDeque::new(),
            manifest,
            first_packet_timeout: if has_list { FIRST_PACKET_AFTER_LIST } else { FIRST_PACKET_TIMEOUT },
        };
        let actions = self.actions.clone();
        tokio::spawn(async move {
            let last = task.run().await;
            let _ = actions.send(Action::LaneEnded(lane.0, Box::new(last)));
        });
        self.blocks_promised += blocks;
        let (owner, destination, opened) = (open.owner.clone(), open.destination.clone(), Instant::now());
        self.lanes.insert(lane.0, OpenedLane { cancel: Some(cancel), blocks, shared: lane_shared, owner, destination, opened });
        tracing::info!("transfer {}: lane {lane} open, {blocks} blocks, {chunk_bytes} bytes a packet", open.transfer_id);
        Ok(())
    }

    fn on_lane_ended(&mut self, lane: u64, last: FromEngine) {
        if let Some(ended) = self.lanes.remove(&lane) {
            ended.shared.ended.store(true, Ordering::Release);
            self.blocks_promised -= ended.blocks;
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

    fn stats(&self) -> Stats {
        let mut stats = Stats {
            lanes_open: self.lanes.len() as u32,
            pool_bytes_used: ((self.pool.capacity() - self.pool.available()) * self.pool.slot_bytes()) as u64,
            ..Stats::default()
        };
        (stats.cpu_user_seconds, stats.cpu_system_seconds) = cpu_seconds();
        let mut count = |name: String, value: u64| *stats.counters.entry(name).or_default() += value;
        for worker in &self.workers.statistics {
            count("packets_authentic".to_owned(), worker.authentic.get());
            for (name, value) in WorkerStatistics::DROPS.iter().zip(worker.drops()) {
                count(format!("packets_dropped_{name}"), value);
            }
            let (xdp, kernel) = worker.links();
            for (by, link) in [("afxdp", xdp), ("kernel", kernel)] {
                count(format!("{by}_received"), link.received);
                count(format!("{by}_sent"), link.sent);
                count(format!("{by}_receive_dropped"), link.receive_dropped);
                count(format!("{by}_send_failed"), link.send_failed);
                count(format!("{by}_malformed"), link.malformed);
            }
        }
        if let Some(counters) = self.workers.steering.as_ref().and_then(|steering| steering.counters().ok()) {
            for (name, value) in counters.iter() {
                count(format!("steer_{name}"), value);
            }
        }
        for worker in &self.workers.statistics {
            for stage in Stage::ALL {
                stats.latencies.push(worker.latency(stage).drain(|histogram| {
                    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
                    StageLatency {
                        stage: stage.name().to_owned(),
                        count: histogram.len(),
                        p50_us: at(0.5),
                        p90_us: at(0.9),
                        p99_us: at(0.99),
                        p999_us: at(0.999),
                        max_us: histogram.max() as f64 / 1000.0,
                    }
                }));
            }
        }
        stats
    }
}

/// Size of the parts of an object unless it needs larger ones: the last part is only on its way when the network has nothing left
/// to do, so a small one ends a transfer sooner. 8 MiB is what the AWS command line uses.
fn part_bytes(store: &dyn Store) -> u64 {
    const PART_BYTES: u64 = 8 << 20;
    store.limits().part_bytes_default.min(PART_BYTES)
}

/// User and system time of this process, seconds, to the kernel's tick (proc(5), `/proc/[pid]/stat` fields 14 and 15).
fn cpu_seconds() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the name, may hold blanks, so count from its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let seconds = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0) / ticks;
    (seconds(11), seconds(12))
}
