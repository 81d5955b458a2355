//! A lane on the control side: blocks from its worker go to the uploader, confirmations go back as credit.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tradewind_client::ready_block;
use tradewind_fabric::clock::now_ns;
use tradewind_ipc::{ErrorCode, FileDone, FromEngine, LaneClosed, LaneReceipt, LaneTotals, Progress};
use tradewind_staging::Done;
use tradewind_storage::{StatsSnapshot, UploadEvent, Uploader};
use tradewind_wire::LaneId;
use tradewind_wire::control::close;

use crate::destination;
use crate::keeping::Keeping;
use crate::manifest::Manifest;
use crate::orders::Reporting;
use crate::shared::{Command, LaneEvent, LaneShared, Mailbox};
use crate::spill::Spilling;
use crate::statistics::{Stage, WorkerStatistics};

pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// Files that the control process is told of at once: it shows no more. All are counted.
const RECENT_FILES_MAX: usize = 100;
const RECENT_FILES_INTERVAL: Duration = Duration::from_millis(100);
/// How often credits are carried from storage to the worker.
const CREDIT_INTERVAL: Duration = Duration::from_millis(5);
/// The same of a lane that has nothing at the store: a thousand of these must not keep a core busy.
const CALM_INTERVAL: Duration = Duration::from_millis(50);
/// The same, for each lane of the engine, and the longest.
const CALM_PER_LANE: Duration = Duration::from_micros(250);
const CALM_MOST: Duration = Duration::from_millis(250);

/// What every task of a lane needs to speak with its worker and the control process.
pub(crate) struct LaneHandle {
    pub(crate) lane: LaneId,
    pub(crate) shared: Arc<LaneShared>,
    /// None of a lane that has no network.
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) to_control: mpsc::UnboundedSender<FromEngine>,
    /// How long its client may take to its first packet.
    pub(crate) first_packet_timeout: Duration,
    /// Another server's engine that is called, in the place of a client.
    pub(crate) called: Option<SocketAddr>,
}

impl LaneHandle {
    pub(crate) fn tell(&self, message: FromEngine) {
        // The control process going away ends the engine elsewhere.
        let _ = self.to_control.send(message);
    }

    /// Lanes of the engine, about: each has its way to the control process.
    fn lanes(&self) -> u32 {
        u32::try_from(self.to_control.strong_count()).unwrap_or(u32::MAX)
    }

    /// What the sender says of itself, if it is time.
    pub(crate) fn report(&self, reporting: &mut Reporting) {
        if let Some(report) = reporting.due(self.lane, self.shared.sender(), self.shared.group_lanes(), now_ns()) {
            self.tell(FromEngine::LaneReport(report));
        }
    }

    /// Since the first packet, milliseconds.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        now_ns().saturating_sub(self.shared.first_packet_ns.load(Ordering::Relaxed)) / 1_000_000
    }

    pub(crate) fn first_packet_overdue(&self, opened: Instant) -> Option<Failed> {
        if self.shared.claimed.load(Ordering::Acquire) || opened.elapsed() < self.first_packet_timeout {
            return None;
        }
        let rejected = self.shared.packets_rejected.load(Ordering::Relaxed);
        let (code, text) = if let (0, Some(server)) = (rejected, self.called) {
            (ErrorCode::IdleTimeout, format!("no packet came from the server at {server}: is UDP between the two servers blocked?"))
        } else if rejected > 0 {
            (ErrorCode::WrongKey, format!("{rejected} packets came, none of them authenticates: the client holds another secret"))
        } else {
            (ErrorCode::IdleTimeout, "no packet of the client arrived: is UDP to the data port blocked on the way?".to_owned())
        };
        Some((code, text, close::TIMEOUT))
    }

    /// All is done.
    pub(crate) fn finish(&self, receipt: u64) {
        self.command(|lane| Command::Finish { lane, receipt });
    }

    /// Tells the other end why, and ends.
    pub(crate) fn close(&self, code: ErrorCode, text: &str, wire: u16) {
        let told = format!("{}: {text}", code.as_str());
        self.command(|lane| Command::Close { lane, code: wire, text: told.clone() });
    }

    /// The lane may sit on any worker, and only its owner acts.
    fn command(&self, make: impl Fn(LaneId) -> Command) {
        for mailbox in &self.mailboxes {
            if !mailbox.send(make(self.lane)) {
                tracing::error!("lane {}: a worker does not take commands any more", self.lane);
            }
        }
    }
}

/// Why a lane fails: for the control process, for people, for the other end.
pub(crate) type Failed = (ErrorCode, String, u16);

/// Everything a lane's task owns.
pub(crate) struct LaneTask {
    pub(crate) handle: LaneHandle,
    pub(crate) statistics: Arc<WorkerStatistics>,
    pub(crate) uploader: Uploader,
    /// Payload of a block.
    pub(crate) block_bytes: u64,
    pub(crate) stored: mpsc::UnboundedReceiver<UploadEvent>,
    pub(crate) arrived: mpsc::UnboundedReceiver<LaneEvent>,
    /// Filled when the control process wants the lane gone.
    pub(crate) cancel: oneshot::Receiver<LaneClosed>,
    /// The latest files that were stored and the control process has not been told of.
    pub(crate) recent: VecDeque<FileDone>,
    /// Objects that a copy leaves out, and why the first.
    pub(crate) left_out: (u64, Option<String>),
    /// Told of every file that is durable.
    pub(crate) manifest: Option<Manifest>,
    /// Where blocks wait while the store is slower than the network.
    pub(crate) spilling: Option<Spilling>,
    /// Where they outlive this engine.
    pub(crate) keeping: Option<Keeping>,
}

/// How a lane ended.
enum End {
    Done { files: u64, bytes: u64 },
    Failed(Failed),
}

impl LaneTask {
    /// Runs the lane to its end and returns its last message.
    pub(crate) async fn run(mut self) -> FromEngine {
        let opened = Instant::now();
        let mut waiting: HashMap<u32, u64> = HashMap::new();
        let end = self.drive(opened, &mut waiting).await;
        self.tell_recent();
        match end {
            End::Done { files, bytes } => {
                self.finish_manifest().await;
                if let Some(keeping) = self.keeping.take() {
                    keeping.finish().await;
                }
                let receipt = now_ns();
                self.handle.finish(receipt);
                let elapsed_ms = self.handle.elapsed_ms();
                self.report_files(self.totals());
                self.tell_detour();
                let (files_failed, first_failure) = std::mem::take(&mut self.left_out);
                let (lane_id, totals) = (self.handle.lane.0, self.totals());
                FromEngine::LaneDone(LaneReceipt { lane_id, files, bytes, elapsed_ms, totals, files_failed, first_failure })
            }
            End::Failed((code, text, wire)) => {
                self.handle.close(code, &text, wire);
                self.tell_detour();
                self.clean_up().await;
                self.finish_manifest().await;
                FromEngine::LaneFailed(LaneClosed { lane_id: self.handle.lane.0, code, text })
            }
        }
    }

    /// Whoever hears that the transfer has ended finds its manifest there.
    async fn finish_manifest(&mut self) {
        if let Some(manifest) = self.manifest.take() {
            manifest.finish().await;
        }
    }

    /// Frees what the store holds of unfinished objects; the uploader sets itself a deadline for it.
    async fn clean_up(&mut self) {
        self.uploader.cancel();
        while let Some(event) = self.stored.recv().await {
            if let UploadEvent::Stopped { aborted, left } = event {
                tracing::info!("lane {}: {aborted} unfinished uploads aborted at the store, {left} left behind", self.handle.lane);
                break;
            }
        }
    }

    async fn drive(&mut self, opened: Instant, waiting: &mut HashMap<u32, u64>) -> End {
        let mut reporting = Reporting::default();
        let mut told = Instant::now();
        let mut progress = interval(PROGRESS_INTERVAL);
        let mut credit = interval(CREDIT_INTERVAL);
        credit.set_missed_tick_behavior(MissedTickBehavior::Skip);
        progress.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut is_calm, mut shown) = (false, None);
        loop {
            let end = tokio::select! {
                Some(event) = self.arrived.recv() => {
                    if std::mem::take(&mut is_calm) {
                        credit.reset_after(CREDIT_INTERVAL);
                    }
                    self.on_arrival(event, waiting)
                }
                Some(event) = self.stored.recv() => self.on_stored(event, waiting),
                Some(done) = moved(&mut self.spilling) => self.on_moved(done),
                Ok(why) = &mut self.cancel => {
                    let wire = if why.code == ErrorCode::Cancelled { close::CANCELLED } else { close::SHUTDOWN };
                    Some(End::Failed((why.code, why.text, wire)))
                }
                _ = credit.tick() => {
                    self.carry_credit();
                    self.go_on_spilling();
                    if told.elapsed() >= RECENT_FILES_INTERVAL {
                        told = Instant::now();
                        self.tell_recent();
                    }
                    self.handle.report(&mut reporting);
                    is_calm = waiting.is_empty() && self.recent.is_empty() && self.spilling.is_none();
                    if is_calm {
                        let crowded = if reporting.has_orders() { CALM_INTERVAL } else { CALM_PER_LANE * self.handle.lanes() };
                        credit.reset_after(crowded.clamp(CALM_INTERVAL, CALM_MOST));
                    }
                    None
                }
                _ = progress.tick() => {
                    let totals = self.totals();
                    if shown.as_ref() != Some(&totals) {
                        self.report_files(totals.clone());
                        shown = Some(totals);
                    }
                    self.check_disk().or_else(|| self.handle.first_packet_overdue(opened).map(End::Failed))
                }
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn on_arrival(&mut self, event: LaneEvent, waiting: &mut HashMap<u32, u64>) -> Option<End> {
        match event {
            LaneEvent::Block { block, image, table, complete_ns } => {
                waiting.insert(block.0, complete_ns);
                if let Some(keeping) = &mut self.keeping {
                    keeping.arrived(block.0, &image, &table);
                }
                let ready = match &mut self.spilling {
                    Some(spilling) => spilling.arrived(block, image, table),
                    None => Some(ready_block(block, image, &table)),
                };
                if let Some(ready) = ready {
                    self.uploader.block(ready);
                }
                None
            }
            LaneEvent::Fin { blocks } => {
                if let Some(spilling) = &mut self.spilling {
                    spilling.announced(blocks);
                }
                self.uploader.finish(u64::from(blocks));
                None
            }
            LaneEvent::Corrupt { text } => Some(End::Failed((ErrorCode::IntegrityMismatch, text, close::PROTOCOL))),
            LaneEvent::Closed { code, text } => {
                let text = if text.is_empty() { "the sender closed the lane before everything was durable".to_owned() } else { text };
                Some(End::Failed(closed_by_peer(code, text)))
            }
            LaneEvent::LeftOut { files, first } => {
                self.left_out.0 += files;
                self.left_out.1.get_or_insert(first);
                None
            }
            LaneEvent::SourceFailed { code, text } => Some(End::Failed((code, text, close::SOURCE))),
            // Only of lanes on which this end sends.
            LaneEvent::Done => None,
        }
    }

    fn on_stored(&mut self, event: UploadEvent, waiting: &mut HashMap<u32, u64>) -> Option<End> {
        if let Some(manifest) = &self.manifest {
            manifest.stored(&event);
        }
        match event {
            UploadEvent::BlockDurable(block) => {
                if let Some(complete_ns) = waiting.remove(&block) {
                    self.statistics.record(Stage::Store, now_ns().saturating_sub(complete_ns));
                }
                if let Some(spilling) = &mut self.spilling {
                    spilling.became_durable();
                }
                if let Some(keeping) = &self.keeping {
                    keeping.became_durable(block);
                }
                self.handle.shared.blocks_durable.fetch_add(1, Ordering::Release);
                self.go_on_spilling();
                // The sender may be waiting for this credit, and the worker asleep.
                self.handle.mailboxes.iter().for_each(Mailbox::ring);
                None
            }
            UploadEvent::FileDone { path, size, etag, crc64, .. } => {
                let path = String::from_utf8_lossy(&path).into_owned();
                if self.recent.len() == RECENT_FILES_MAX {
                    self.recent.pop_front();
                }
                self.recent.push_back(FileDone { lane_id: self.handle.lane.0, path, size, crc64: crc64.0, etag });
                None
            }
            UploadEvent::FileLeftOut { path, reason, .. } => {
                self.left_out.0 += 1;
                self.left_out.1.get_or_insert_with(|| format!("{}: {reason}", String::from_utf8_lossy(&path)));
                None
            }
            UploadEvent::Finished { files, bytes } => Some(End::Done { files, bytes }),
            UploadEvent::Failed(error) => {
                let code = destination::upload_code(&error);
                Some(End::Failed((code, error.to_string(), close::STORAGE)))
            }
            // Follows a failure, which has ended this loop already.
            UploadEvent::Stopped { .. } => None,
        }
    }

    fn on_moved(&mut self, done: Done) -> Option<End> {
        let applied = self.spilling.as_mut().map(|spilling| spilling.apply(done))?;
        self.go_on_spilling();
        self.handle.mailboxes.iter().for_each(Mailbox::ring);
        match applied {
            Ok(ready) => {
                if let Some(ready) = ready {
                    self.uploader.block(ready);
                }
                None
            }
            Err(failed) => Some(End::Failed(failed)),
        }
    }

    fn check_disk(&mut self) -> Option<End> {
        let is_store_busy = self.uploader.stats().snapshot().requests_in_flight > 0;
        match self.spilling.as_mut()?.check(std::time::Instant::now(), is_store_busy) {
            Ok(late) => {
                late.into_iter().for_each(|block| self.uploader.block(block));
                None
            }
            Err(failed) => Some(End::Failed(failed)),
        }
    }

    fn go_on_spilling(&mut self) {
        if let Some(spilling) = &mut self.spilling {
            spilling.go_on(&self.handle.shared);
        }
    }

    fn carry_credit(&self) {
        let StatsSnapshot { drain_bytes_per_s, part_bytes_max, .. } = self.uploader.stats().snapshot();
        let shared = &self.handle.shared;
        shared.storage_kbps.store(u32::try_from(drain_bytes_per_s / 125).unwrap_or(u32::MAX), Ordering::Relaxed);
        shared.blocks_needed.store(u32::try_from(part_bytes_max.div_ceil(self.block_bytes)).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// The last word on the figures, so that nobody has to wait for another progress message.
    fn report_files(&self, totals: LaneTotals) {
        self.handle.tell(FromEngine::Progress(Progress { lane_id: self.handle.lane.0, totals }));
    }

    fn tell_recent(&mut self) {
        for done in self.recent.drain(..) {
            self.handle.tell(FromEngine::FileDone(done));
        }
    }

    /// Packets that steering has left to the kernel's socket although AF_XDP takes the lane.
    fn tell_detour(&self) {
        let LaneTotals { packets_afxdp, packets_kernel, .. } = self.totals();
        if packets_afxdp > 0 && packets_kernel > packets_afxdp / 100 {
            tracing::warn!(
                "lane {}: {packets_kernel} of {} packets came by the kernel's socket and not by AF_XDP, as packets that an offload has merged do; \
                 `tradewind doctor` here tells which offloads to switch off",
                self.handle.lane,
                packets_afxdp + packets_kernel
            );
        }
    }

    fn totals(&self) -> LaneTotals {
        let shared = &self.handle.shared;
        let stats = self.uploader.stats().snapshot();
        LaneTotals {
            bytes_received: shared.bytes_received.load(Ordering::Relaxed),
            bytes_durable: stats.bytes_uploaded,
            packets_afxdp: shared.packets_afxdp.load(Ordering::Relaxed),
            packets_kernel: shared.packets_kernel.load(Ordering::Relaxed),
            packets_duplicate: shared.packets_duplicate.load(Ordering::Relaxed),
            packets_lost: shared.packets_lost.load(Ordering::Relaxed),
            packets_rejected: shared.packets_rejected.load(Ordering::Relaxed),
            blocks_complete: u64::from(shared.blocks_complete.load(Ordering::Relaxed)),
            blocks_durable: stats.blocks_durable,
            blocks_staged: self.spilling.as_ref().map_or(0, Spilling::spilled),
            files_durable: stats.files_done,
        }
    }
}

/// What the disk has done, on a lane that uses one.
async fn moved(spilling: &mut Option<Spilling>) -> Option<Done> {
    spilling.as_mut()?.moved().await
}

/// Why a lane fails whose other end closed it.
pub(crate) fn closed_by_peer(code: u16, text: String) -> Failed {
    let (ours, wire) = match code {
        close::CANCELLED => (ErrorCode::Cancelled, close::CANCELLED),
        close::TIMEOUT => (ErrorCode::IdleTimeout, close::TIMEOUT),
        close::SOURCE => (ErrorCode::SourceChanged, close::SOURCE),
        close::PROTOCOL => (ErrorCode::ProtocolViolation, close::PROTOCOL),
        _ => (ErrorCode::PeerGone, close::INTERNAL),
    };
    (ours, text, wire)
}
