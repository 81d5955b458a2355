//! The uploader of one transfer.
//!
//! **Memory.** An uploader holds exactly the blocks that were handed over and are not durable yet, and it copies none of them.
//! Who bounds that is the engine, by the lane's credits: at most `credits × block` bytes of payload, plus per file in
//! progress a few hundred bytes, per part stored about 100 bytes until its object is complete, and 8 bytes per finished file.
//! With the credits of [`crate::PoolNeed`] for the part size, that is `(parts in flight + 2) × part size`. The channels on both
//! sides are unbounded by type so that nothing in them ever blocks a packet worker; credits bound them too.
//!
//! What an earlier transfer received stays on its disk until its part goes to the store (ADR 0036). It is read into [`KeptMemory`], which many
//! uploads may have together.

mod assembly;
mod block;
mod concurrency;
mod config;
mod draft;
mod driver;
mod hedge;
mod samples;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, UnboundedSender};

pub use block::{FileMeta, Piece, ReadyBlock};
pub use config::{ObjectName, UploaderConfig};
pub use draft::KeptMemory;
pub use samples::Sample;
pub use stats::{StatsSnapshot, UploadStats};

use crate::checksum::Crc64;
use crate::error::UploadError;
use crate::journal::Resumption;
use crate::store::{Attributes, ObjectKey, Store};

/// What happened to an upload. `Finished` is the last event of one that went well; after `Failed` only `Stopped` follows.
#[derive(Debug)]
pub enum UploadEvent {
    /// The store has acknowledged every byte of this block (in an object, or in a part of an object that is not complete yet);
    /// its slot is back in the pool.
    BlockDurable(u32),
    /// An object is complete under its own name.
    FileDone {
        /// The file's number.
        file: u32,
        /// Its path as the sender gave it.
        path: Vec<u8>,
        /// Its key at the store.
        key: ObjectKey,
        /// Size, bytes.
        size: u64,
        /// Modification time of its source, nanoseconds since 1970.
        mtime_ns: i64,
        /// What its sender said of it beside that.
        attributes: Attributes,
        /// The store's entity tag, if it has such.
        etag: Option<String>,
        /// The store's name for this version of it, in buckets with versions.
        version_id: Option<String>,
        /// CRC-64/NVME of the object.
        crc64: Crc64,
        /// Whether the store itself checked that.
        verified_by_store: bool,
    },
    /// A file cannot be stored; the others go on. Only with [`UploaderConfig::leave_out`].
    FileLeftOut {
        /// The file's number.
        file: u32,
        /// Its path as the sender gave it.
        path: Vec<u8>,
        /// Why, and what to do.
        reason: String,
    },
    /// Everything announced is stored, but for what was left out.
    Finished {
        /// Objects.
        files: u64,
        /// Bytes in them.
        bytes: u64,
    },
    /// The upload failed or was cancelled. Requests are being stopped and open uploads aborted.
    Failed(UploadError),
    /// Cleaning up after a failure has ended.
    Stopped {
        /// Multipart uploads aborted at the store.
        aborted: u64,
        /// Multipart uploads that could not be aborted in time; a lifecycle rule of the bucket must remove them.
        left: u64,
    },
}

pub(crate) enum Command {
    Block(ReadyBlock),
    Finish(u64),
    Cancel,
}

/// Uploads the blocks of one transfer. Dropping it before [`Uploader::finish`] cancels the upload; after that it goes on to
/// its end, which the events tell.
#[derive(Debug)]
pub struct Uploader {
    commands: UnboundedSender<Command>,
    stats: Arc<UploadStats>,
}

impl Uploader {
    /// Starts on `runtime`, a tokio runtime with I/O and time enabled. Events come on `events`; if their receiver goes away the
    /// upload is cancelled.
    ///
    /// With a `resumption` it goes on with what earlier transfers left, notes what is durable, and leaves what it has begun at the store when
    /// it fails; without one it aborts that.
    pub fn start(
        runtime: &Handle,
        store: Arc<dyn Store>,
        config: UploaderConfig,
        resumption: Option<Resumption>,
        events: UnboundedSender<UploadEvent>,
    ) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let stats = Arc::new(UploadStats::default());
        runtime.spawn(driver::run(store, config, resumption, Arc::clone(&stats), inbox, events));
        Self { commands, stats }
    }

    /// Hands a block over. Never blocks; callable from any thread. After a failure the block just goes back to its pool.
    pub fn block(&self, block: ReadyBlock) {
        let _ = self.commands.send(Command::Block(block));
    }

    /// Says that there are `total_blocks` blocks in all, those still to come included.
    pub fn finish(&self, total_blocks: u64) {
        let _ = self.commands.send(Command::Finish(total_blocks));
    }

    /// Gives up: requests are stopped, open multipart uploads aborted.
    pub fn cancel(&self) {
        let _ = self.commands.send(Command::Cancel);
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<UploadStats> {
        &self.stats
    }
}
