//! A lane on which the engine sends: objects are read from a store, packed, and leave by the lane's worker.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tradewind_client::Durable;
use tradewind_fabric::clock::now_ns;
use tradewind_fabric::{BlockPool, SharedBlock};
use tradewind_ipc::{ErrorCode, FromEngine, LaneClosed, LaneReceipt, LaneTotals, Progress};
use tradewind_storage::StoreError;
use tradewind_wire::LaneId;
use tradewind_wire::control::close;

use crate::destination;
use crate::lane_task::{LaneHandle, PROGRESS_INTERVAL, closed_by_peer};
use crate::orders::Reporting;
use crate::pack::{Objects, Packed, Packer};
use crate::shared::{LaneEvent, LaneShared, Mailbox};

/// How often the sender's figures are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long a worker may take to hear that a lane is to be closed.
const CLOSE_GRACE: Duration = Duration::from_millis(200);
/// How long the client's word on what it has may take once it has spoken.
const HAVE_TIMEOUT: Duration = Duration::from_secs(240);
/// Blocks that may wait for the worker beside those on their way: fetching goes on while the network is at work.
pub(crate) const BLOCKS_AHEAD: u32 = 16;

/// Everything the task owns.
pub(crate) struct SendTask {
    pub(crate) handle: LaneHandle,
    pub(crate) arrived: mpsc::UnboundedReceiver<LaneEvent>,
    pub(crate) cancel: oneshot::Receiver<LaneClosed>,
    pub(crate) objects: Objects,
    /// Filled with what the client has already, if it says so.
    pub(crate) have: Option<Arc<OnceLock<Durable>>>,
    pub(crate) pool: BlockPool,
    pub(crate) block_bytes: usize,
    /// Blocks that may be on their way.
    pub(crate) window: u32,
    pub(crate) blocks: crossbeam::channel::Sender<SharedBlock>,
}

/// What was heard.
enum News {
    Packed(Result<Packed, StoreError>),
    Lane(LaneEvent),
    Cancelled(LaneClosed),
    Tick,
    Progress,
}

impl SendTask {
    /// Runs the lane to its end and returns its last message.
    pub(crate) async fn run(self) -> FromEngine {
        let Self { handle, mut arrived, mut cancel, objects, have, pool, block_bytes, window, blocks } = self;
        let opened = Instant::now();
        let (lane, shared) = (handle.lane, Arc::clone(&handle.shared));
        let last_block = blocks.clone();
        let packing = async {
            begun(&shared, have.as_deref()).await?;
            pack(Arc::clone(&shared), handle.mailboxes.clone(), objects, pool, block_bytes, window, blocks).await
        };
        tokio::pin!(packing);
        let mut reporting = Reporting::default();
        let mut packed: Option<Packed> = None;
        let mut no_more = Some(last_block);
        let (mut look, mut progress) = (interval(LOOK_INTERVAL), interval(PROGRESS_INTERVAL));
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        progress.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let failed = loop {
            let news = tokio::select! {
                result = &mut packing, if packed.is_none() => News::Packed(result),
                Some(event) = arrived.recv() => News::Lane(event),
                Ok(why) = &mut cancel => News::Cancelled(why),
                _ = look.tick() => News::Tick,
                _ = progress.tick() => News::Progress,
            };
            let failed = match news {
                News::Packed(Ok(done)) => {
                    packed = Some(done);
                    // Only now there are no more, and the worker may say so.
                    no_more = None;
                    handle.mailboxes.iter().for_each(Mailbox::ring);
                    None
                }
                News::Packed(Err(error)) => Some((destination::store_code(&error), error.to_string(), close::STORAGE)),
                News::Lane(LaneEvent::Done) => {
                    // Idle copies of the lane on other workers go.
                    handle.finish(now_ns());
                    let totals = totals(&shared, packed.as_ref());
                    let Packed { files, bytes, failed, unwanted, first_failure, .. } = packed.unwrap_or_default();
                    tracing::info!("lane {lane}: {files} objects sent, {unwanted} were there already, {failed} left out");
                    let elapsed_ms = handle.elapsed_ms();
                    let (lane_id, files_failed) = (lane.0, failed);
                    return FromEngine::LaneDone(LaneReceipt { lane_id, files, bytes, elapsed_ms, totals, files_failed, first_failure });
                }
                News::Lane(LaneEvent::Closed { code, text }) => {
                    let text = if text.is_empty() { "the client closed the lane before it had everything".to_owned() } else { text };
                    Some(closed_by_peer(code, text))
                }
                News::Lane(_) => None,
                News::Cancelled(why) => {
                    let wire = if why.code == ErrorCode::Cancelled { close::CANCELLED } else { close::SHUTDOWN };
                    Some((why.code, why.text, wire))
                }
                News::Tick => {
                    handle.report(&mut reporting);
                    None
                }
                News::Progress => {
                    handle.tell(FromEngine::Progress(Progress { lane_id: lane.0, totals: totals(&shared, packed.as_ref()) }));
                    handle.first_packet_overdue(opened)
                }
            };
            if let Some(failed) = failed {
                break failed;
            }
        };
        let (code, text, wire) = failed;
        handle.close(code, &text, wire);
        // Not before the worker has closed the lane: an end of the blocks would look like the end of all objects.
        tokio::time::sleep(CLOSE_GRACE).await;
        drop(no_more);
        FromEngine::LaneFailed(LaneClosed { lane_id: lane.0, code, text })
    }
}

/// Waits until the client has spoken, for what nobody fetches is not read, and has said what it has: that comes by another way.
///
/// # Errors
/// When the list does not come: to send everything would be to send what the client takes for a mistake.
async fn begun(shared: &LaneShared, have: Option<&OnceLock<Durable>>) -> Result<(), StoreError> {
    while !shared.claimed.load(Ordering::Acquire) {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let since = Instant::now();
    while have.is_some_and(|have| have.get().is_none()) {
        if since.elapsed() > HAVE_TIMEOUT {
            return Err(StoreError::Timeout { action: "waiting for the client's list of what it has", after: HAVE_TIMEOUT });
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

async fn pack(
    shared: Arc<LaneShared>,
    mailboxes: Vec<Mailbox>,
    objects: Objects,
    pool: BlockPool,
    payload_max: usize,
    window: u32,
    blocks: crossbeam::channel::Sender<SharedBlock>,
) -> Result<Packed, StoreError> {
    let waiting = blocks.clone();
    let out = move |_, block| {
        // Fails only when the worker is gone, which ends the engine.
        let _ = blocks.send(block);
        mailboxes.iter().for_each(Mailbox::ring);
    };
    let figures = Arc::clone(&shared);
    let has_room = Box::new(move |number: u32| {
        let arrived = figures.blocks_complete.load(Ordering::Acquire);
        waiting.len() < BLOCKS_AHEAD as usize && number.saturating_sub(arrived) < window
    });
    Packer { pool, payload_max, out, has_room }.run(objects).await
}

fn totals(shared: &LaneShared, packed: Option<&Packed>) -> LaneTotals {
    let count = |figure: &std::sync::atomic::AtomicU64| figure.load(Ordering::Relaxed);
    LaneTotals {
        bytes_received: count(&shared.bytes_received),
        bytes_durable: packed.map_or(0, |packed| packed.bytes),
        packets_afxdp: count(&shared.packets_afxdp),
        packets_kernel: count(&shared.packets_kernel),
        packets_duplicate: count(&shared.packets_duplicate),
        packets_lost: count(&shared.packets_lost),
        packets_rejected: count(&shared.packets_rejected),
        blocks_complete: u64::from(shared.blocks_complete.load(Ordering::Relaxed)),
        blocks_durable: u64::from(shared.blocks_durable.load(Ordering::Relaxed)),
        blocks_staged: 0,
        files_durable: packed.map_or(0, |packed| packed.files),
    }
}

/// Feeds the blocks of a copy to the task of its lane, as if they had come over the network.
pub(crate) async fn copy(
    lane: LaneId,
    shared: Arc<LaneShared>,
    objects: Objects,
    pool: BlockPool,
    payload_max: usize,
    window: u32,
    events: mpsc::UnboundedSender<LaneEvent>,
) {
    shared.claim(now_ns());
    let figures = Arc::clone(&shared);
    let has_room = Box::new(move |number: u32| number.saturating_sub(figures.blocks_durable.load(Ordering::Acquire)) < window);
    let blocks = events.clone();
    let out = move |number, image: SharedBlock| {
        let bytes = image.len() as u64;
        shared.bytes_received.fetch_add(bytes, Ordering::Relaxed);
        shared.blocks_complete.fetch_add(1, Ordering::Relaxed);
        let event = match tradewind_proto::block::BlockTable::parse(&image) {
            Ok(table) => LaneEvent::Block { block: tradewind_wire::BlockId(number), image, table, complete_ns: now_ns() },
            Err(error) => LaneEvent::Corrupt { text: format!("a block of our own is damaged: {error}") },
        };
        // The task ends only after it has told us to stop.
        let _ = blocks.send(event);
    };
    let packing = Packer { pool, payload_max, out, has_room }.run(objects);
    let result = tokio::select! {
        result = packing => result,
        // The task has ended, and nobody takes what is read.
        () = events.closed() => return,
    };
    let last = match result {
        Ok(packed) => {
            tracing::info!("lane {lane}: {} objects read, {} left out", packed.files, packed.failed);
            if let Some(first) = packed.first_failure {
                let _ = events.send(LaneEvent::LeftOut { files: packed.failed, first });
            }
            LaneEvent::Fin { blocks: packed.blocks }
        }
        Err(error) => LaneEvent::SourceFailed { code: destination::store_code(&error), text: error.to_string() },
    };
    let _ = events.send(last);
}
