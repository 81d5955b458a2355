//! One download: blocks that arrive become files.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tradewind_fabric::clock::now_ns;
use tradewind_fabric::{BlockBuf, BlockPool};
use tradewind_netio::udp::precise_timers;
use tradewind_netio::{Ecn, LinkError};
use tradewind_proto::block::{BlockTable, BlockWriter, TableError};
use tradewind_proto::crypto::{LaneSecret, Provider};
use tradewind_proto::rate::Limiter;
use tradewind_proto::receiver::{Receiver, ReceiverConfig, ReceiverEvent};
use tradewind_storage::{Crc64, Resumption, Store, UploadEvent, Uploader, UploaderConfig};
use tradewind_wire::control::close;
use tradewind_wire::{BlockId, LaneId};

use crate::blocks::{CRC_ATTRIBUTE, ERROR_ATTRIBUTE, ready_block};
use crate::error::UploadError;
use crate::lane::PROGRESS_INTERVAL_NS;
use crate::link::{LINGER_NS, SLEEP_MAX_NS, ServerLink, local};
use crate::progress::{Progress, limiter_name, share};
use crate::upload::{LaneOffer, POOL_BYTES_MAX};

/// Longest sleep while blocks are being written: their credit waits for it.
const WRITING_SLEEP_NS: u64 = 2_000_000;
/// How long the sender's goodbye is waited for once everything is written.
const GOODBYE_NS: u64 = 3_000_000_000;
/// Room for any feedback.
const FEEDBACK_DATAGRAM_BYTES: usize = 1_400;
/// Blocks for packets that come before a block is handed to storage.
const BLOCKS_SPARE: usize = 4;

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileEvent {
    /// It is written and durable.
    Stored {
        /// Its name below the destination.
        path: Vec<u8>,
        /// Its size, bytes.
        size: u64,
        /// CRC-64/NVME of the whole.
        crc64: u64,
        /// The store that it comes from keeps the same checksum.
        verified: bool,
    },
    /// It could not be read at its source or written here, or is not what its source says.
    Failed {
        /// Its name below the destination.
        path: Vec<u8>,
        /// Why.
        reason: String,
    },
}

/// A download that has been agreed with the server.
pub struct Download {
    /// The lane.
    pub lane: LaneOffer,
    /// Where files go.
    pub store: Arc<dyn Store>,
    /// How they are called there, and how they are written.
    pub config: UploaderConfig,
    /// What earlier downloads left, if it is known.
    pub resumption: Option<Resumption>,
    /// Where the writing runs.
    pub runtime: Handle,
    /// Told of each file.
    pub on_file: Box<dyn FnMut(FileEvent) + Send>,
    /// Set it to stop.
    pub cancel: Arc<AtomicBool>,
    /// Silence of the sender after which the transfer fails.
    pub idle_timeout: Duration,
}

/// A finished download.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DownloadReport {
    /// Files written.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes that came over the network.
    pub bytes_received: u64,
    /// Files that could not be read at their source or written here.
    pub files_failed: u64,
    /// From the first packet to the last file durable.
    pub elapsed: Duration,
    /// Authentic packets.
    pub packets_received: u64,
    /// Packets that were sent and did not arrive, over all sent.
    pub loss: f64,
    /// Round-trip time as the sender sees it, milliseconds; 0 while unknown.
    pub rtt_ms: f64,
    /// Datagrams that were ignored.
    pub packets_ignored: u64,
}

impl Download {
    /// Receives everything and waits until it is durable; blocks the calling thread. `progress` is called about five times a second.
    ///
    /// # Errors
    /// [`UploadError`]; the server has been told then, as far as it could be reached. What was written stays, and the same download goes on.
    pub fn run(self, progress: impl FnMut(&Progress)) -> Result<DownloadReport, UploadError> {
        let endpoint = *self.lane.endpoints.first().ok_or_else(|| UploadError::Offer("it names no address".to_owned()))?;
        let chunk_bytes = self.lane.check()?;
        let payload_max = self.lane.block_bytes as usize;
        let slot = BlockWriter::image_bytes_max(payload_max);
        let slots = (self.lane.credit_blocks as usize + BLOCKS_SPARE).min(POOL_BYTES_MAX / slot).max(2 * BLOCKS_SPARE);
        let pool = BlockPool::new(slots, slot)
            .map_err(|source| UploadError::Local { what: "cannot set up memory for blocks", source: source.into() })?;
        let window = (slots - BLOCKS_SPARE) as u32;
        let link = ServerLink::open(endpoint, usize::from(chunk_bytes))?;
        let idle_timeout_ns = u64::try_from(self.idle_timeout.as_nanos()).unwrap_or(u64::MAX);
        let mut receiver = Receiver::new(ReceiverConfig {
            lane: LaneId(self.lane.lane_id),
            secret: LaneSecret(self.lane.secret),
            suite: self.lane.cipher,
            provider: Provider::AwsLc,
            chunk_bytes,
            image_bytes_max: slot,
            blocks_allowed: window,
            idle_timeout_ns,
        });
        receiver.call(now_ns());
        let (uploads, stored) = unbounded_channel();
        let config = UploaderConfig { pool_bytes: u64::from(window) * payload_max as u64, block_bytes: payload_max as u64, ..self.config };
        let uploader = Uploader::start(&self.runtime, Arc::clone(&self.store), config.clone(), self.resumption, uploads);
        let sink = Sink {
            store: self.store,
            config,
            runtime: self.runtime,
            uploader,
            stored,
            on_file: self.on_file,
            expected: HashMap::new(),
            report: DownloadReport::default(),
            blocks: 0,
            durable: 0,
            is_finished: false,
        };
        let worker = Worker { link, receiver, pool, sink, window, cancel: self.cancel, idle_timeout: self.idle_timeout, ignored: 0 };
        worker.run(progress)
    }
}

/// The way from blocks to files.
struct Sink {
    store: Arc<dyn Store>,
    config: UploaderConfig,
    runtime: Handle,
    uploader: Uploader,
    stored: UnboundedReceiver<UploadEvent>,
    on_file: Box<dyn FnMut(FileEvent) + Send>,
    /// Checksums that the source's store keeps, of files that are on their way.
    expected: HashMap<u32, Crc64>,
    report: DownloadReport,
    /// Blocks handed to storage, and of these durable.
    blocks: u32,
    durable: u32,
    is_finished: bool,
}

impl Sink {
    fn block(&mut self, block: BlockId, buffer: BlockBuf, image_bytes: usize) -> Result<(), TableError> {
        let table = BlockTable::verified(&buffer[..image_bytes])?;
        for record in &table.files {
            let attribute = |name: &str| record.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            if record.is_withdrawn() {
                self.report.files_failed += 1;
                self.expected.remove(&record.file.0);
                let reason = attribute(ERROR_ATTRIBUTE).unwrap_or_else(|| "the server could not read it".to_owned());
                (self.on_file)(FileEvent::Failed { path: record.path.clone(), reason });
            } else if let Some(crc) = attribute(CRC_ATTRIBUTE).and_then(|text| Crc64::from_base64(&text)) {
                self.expected.insert(record.file.0, crc);
            }
        }
        self.blocks += 1;
        self.uploader.block(ready_block(block, buffer.freeze(image_bytes), &table));
        Ok(())
    }

    /// Takes over what storage has done since; `true` once everything is durable.
    fn poll(&mut self) -> Result<bool, UploadError> {
        while let Ok(event) = self.stored.try_recv() {
            match event {
                UploadEvent::BlockDurable(_) => self.durable += 1,
                UploadEvent::FileDone { file, path, size, crc64, .. } => {
                    let expected = self.expected.remove(&file);
                    if expected.is_some_and(|expected| expected != crc64) {
                        self.report.files_failed += 1;
                        let removed = self.remove(&path);
                        let reason =
                            format!("what was written differs from the checksum that its store keeps, and {removed}; get it again");
                        (self.on_file)(FileEvent::Failed { path, reason });
                        continue;
                    }
                    self.report.files += 1;
                    self.report.bytes += size;
                    (self.on_file)(FileEvent::Stored { path, size, crc64: crc64.0, verified: expected.is_some() });
                }
                UploadEvent::FileLeftOut { file, path, reason } => {
                    self.expected.remove(&file);
                    self.report.files_failed += 1;
                    (self.on_file)(FileEvent::Failed { path, reason });
                }
                UploadEvent::Finished { .. } => self.is_finished = true,
                UploadEvent::Failed(error) => return Err(error.into()),
                UploadEvent::Stopped { .. } => {}
            }
        }
        Ok(self.is_finished)
    }

    /// Takes a file away that is not what it should be, so that the next download does not take it for durable.
    fn remove(&self, path: &[u8]) -> &'static str {
        let removed = self.config.key_for(path).and_then(|key| self.runtime.block_on(self.store.delete(&key)));
        if removed.is_ok() { "was removed" } else { "could not be removed: remove it" }
    }

    /// Lets what is on its way to the disk be noted, so that the next download goes on from there.
    fn wind_up(&mut self) {
        self.uploader.cancel();
        while let Some(event) = self.stored.blocking_recv() {
            if matches!(event, UploadEvent::Stopped { .. }) {
                break;
            }
        }
    }
}

struct Worker {
    link: ServerLink,
    receiver: Receiver<BlockBuf>,
    pool: BlockPool,
    sink: Sink,
    /// Blocks that may be incomplete or on their way to the disk.
    window: u32,
    cancel: Arc<AtomicBool>,
    idle_timeout: Duration,
    ignored: u64,
}

impl Worker {
    fn run(mut self, mut progress: impl FnMut(&Progress)) -> Result<DownloadReport, UploadError> {
        // A refusal only makes the timing of feedback coarser.
        let _ = precise_timers();
        let started_ns = now_ns();
        let result = self.drive(started_ns, &mut progress);
        progress(&self.progress(now_ns() - started_ns));
        match result {
            Ok(()) => Ok(self.report(now_ns() - started_ns)),
            Err(error) => {
                self.sink.wind_up();
                Err(error)
            }
        }
    }

    fn drive(&mut self, started_ns: u64, progress: &mut impl FnMut(&Progress)) -> Result<(), UploadError> {
        let mut next_progress_ns = started_ns;
        let mut done_ns = None;
        loop {
            self.receive()?;
            let now = now_ns();
            let closed = match self.handle_events() {
                Ok(closed) => closed,
                Err(error) => {
                    self.say_goodbye(close::PROTOCOL, &format!("a block is damaged: {error}"));
                    return Err(UploadError::Refused { code: close::PROTOCOL, text: format!("it sent a block that is damaged: {error}") });
                }
            };
            let is_finished = match self.sink.poll() {
                Ok(is_finished) => is_finished,
                Err(error) => {
                    self.say_goodbye(close::STORAGE, &error.to_string());
                    return Err(error);
                }
            };
            if is_finished && done_ns.is_none() {
                done_ns = Some(now);
                self.receiver.finish(now, now);
            }
            match (closed, done_ns) {
                (Some(_), Some(_)) => return Ok(()),
                // Its goodbye may be lost; all is here.
                (None, Some(at)) if now.saturating_sub(at) > GOODBYE_NS => return Ok(()),
                (Some((code, text)), None) => return Err(self.ended(code, text)),
                _ => {}
            }
            if self.cancel.load(Ordering::Relaxed) && done_ns.is_none() {
                self.say_goodbye(close::CANCELLED, "cancelled by the client");
                return Err(UploadError::Cancelled);
            }
            self.give_credit(now);
            let full = self.transmit(now).map_err(local)?;
            if now >= next_progress_ns {
                next_progress_ns = now + PROGRESS_INTERVAL_NS;
                progress(&self.progress(now - started_ns));
            }
            self.sleep(full)?;
        }
    }

    fn receive(&mut self) -> Result<(), UploadError> {
        let Self { link, receiver, pool, ignored, .. } = self;
        let mut buffers = || pool.take();
        let each = &mut |meta: &tradewind_netio::Meta, datagram: &mut [u8]| {
            *ignored += u64::from(receiver.handle_datagram(meta.arrived_ns, datagram, meta.ecn == Ecn::Ce, &mut buffers).is_err());
        };
        link.receive(each).map(drop).map_err(local)
    }

    /// Hands blocks to storage; code and text if the lane is over.
    fn handle_events(&mut self) -> Result<Option<(u16, String)>, TableError> {
        while let Some(event) = self.receiver.poll_event() {
            match event {
                ReceiverEvent::Block { block, buffer, image_bytes } => self.sink.block(block, buffer, image_bytes)?,
                ReceiverEvent::Fin { blocks } => self.sink.uploader.finish(u64::from(blocks)),
                ReceiverEvent::Closed { code, text } => return Ok(Some((code, text))),
            }
        }
        Ok(None)
    }

    fn ended(&self, code: u16, text: String) -> UploadError {
        let endpoint = self.link.endpoint;
        match code {
            close::TIMEOUT if self.receiver.statistics().packets_received == 0 => {
                UploadError::NoAnswer { endpoint, seconds: self.idle_timeout.as_secs() }
            }
            close::TIMEOUT => UploadError::Lost { endpoint, text },
            _ => UploadError::Refused { code, text },
        }
    }

    fn give_credit(&mut self, now: u64) {
        let durable = self.sink.durable;
        let waiting = self.sink.blocks - durable;
        let drain_bytes_per_s = self.sink.uploader.stats().snapshot().drain_bytes_per_s;
        self.receiver.set_blocks_allowed(now, durable.saturating_add(self.window));
        let limited = u64::from(waiting) * 4 >= u64::from(self.window) * 3;
        self.receiver.set_storage(now, durable, u32::try_from(drain_bytes_per_s / 125).unwrap_or(u32::MAX), limited);
    }

    /// Sends what is due; `true` when the link had no room for more.
    fn transmit(&mut self, now: u64) -> Result<bool, LinkError> {
        let Self { link, receiver, .. } = self;
        link.transmit(FEEDBACK_DATAGRAM_BYTES, |out| receiver.poll_transmit(now, out))
    }

    fn sleep(&mut self, full: bool) -> Result<(), UploadError> {
        let is_writing = self.sink.blocks > self.sink.durable || self.receiver.blocks_total().is_some();
        self.link.sleep(full, self.receiver.poll_timeout(), if is_writing { WRITING_SLEEP_NS } else { SLEEP_MAX_NS }).map_err(local)
    }

    /// Tells the sender that this end gives up.
    fn say_goodbye(&mut self, code: u16, text: &str) {
        self.receiver.close(code, text);
        let deadline = now_ns() + LINGER_NS;
        while !self.receiver.is_closed() && now_ns() < deadline {
            if self.transmit(now_ns()).is_err() {
                break;
            }
        }
    }

    fn progress(&self, elapsed_ns: u64) -> Progress {
        let statistics = self.receiver.statistics();
        let state = self.receiver.sender_state();
        let sent = statistics.packets_received + statistics.packets_missing;
        Progress {
            bytes_total: 0,
            bytes_sent: statistics.data_bytes,
            bytes_durable: self.sink.uploader.stats().snapshot().bytes_uploaded,
            rate_bps: state.map_or(0, |state| u64::from(state.rate_kbps) * 1000),
            rtt_ms: state.map_or(0.0, |state| f64::from(state.round_trip_us) / 1e3),
            packets_sent: sent,
            loss: share(statistics.packets_missing, sent),
            retransmitted_share: share(statistics.duplicate_chunks, statistics.packets_received),
            limiter: limiter_name(state.and_then(|state| Limiter::of_code(state.limiter)).unwrap_or_default()),
            elapsed: Duration::from_nanos(elapsed_ns),
        }
    }

    fn report(self, elapsed_ns: u64) -> DownloadReport {
        let moment = self.progress(elapsed_ns);
        DownloadReport {
            bytes_received: moment.bytes_sent,
            elapsed: moment.elapsed,
            packets_received: self.receiver.statistics().packets_received,
            loss: moment.loss,
            rtt_ms: moment.rtt_ms,
            packets_ignored: self.ignored,
            ..self.sink.report
        }
    }
}
