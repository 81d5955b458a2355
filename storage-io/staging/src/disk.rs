//! What others know of a disk: how much is on its way there, whether it has room, whether it still works.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::StagingError;
use crate::segments::Segments;

/// How long a disk without room is left alone.
pub(crate) const FULL_FOR: Duration = Duration::from_secs(5);

/// How long nothing is recalled from a disk that did not answer: whoever was stopped by it goes on without it.
pub(crate) const SLOW_FOR: Duration = Duration::from_secs(300);

/// Kept blocks read at once: each has a thread, and a disk that hangs keeps it and what it reads into.
pub(crate) const READS_MAX: usize = 4;

/// A disk that answers nothing for so long gets no more while another answers.
const STILL_MS: u64 = 1000;

/// A disk as its users see it, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskStatus {
    /// Its directory.
    pub directory: PathBuf,
    /// Bytes of requests that it has not answered.
    pub queued_bytes: u64,
    /// Blocks written there, those that are kept among them, ever.
    pub blocks_written: u64,
    /// Further blocks that there is room for.
    pub room_blocks: u64,
    /// It takes nothing until the engine is started again.
    pub is_failed: bool,
}

/// No room until then.
#[derive(Clone, Copy, Debug)]
struct Full {
    until: Instant,
    /// Not even in segments that were made.
    is_everywhere: bool,
}

/// Whether a disk works. Who reads its kept blocks has this too: they need none of its threads.
#[derive(Debug)]
pub(crate) struct Health {
    directory: PathBuf,
    is_failed: AtomicBool,
    /// It did not answer: nothing is recalled from it until then.
    slow_until: Mutex<Option<Instant>>,
    /// Turns of who reads kept blocks.
    reads: Arc<Semaphore>,
    /// How many reads have ended, well or not.
    answers: AtomicU64,
}

impl Health {
    pub(crate) fn new(directory: PathBuf) -> Self {
        let reads = Arc::new(Semaphore::new(READS_MAX));
        Self { directory, is_failed: AtomicBool::new(false), slow_until: Mutex::default(), reads, answers: AtomicU64::new(0) }
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.is_failed.load(Ordering::Relaxed)
    }

    /// Takes the disk out of use, and says so once.
    pub(crate) fn fail(&self, what: &dyn std::fmt::Display) {
        if !self.is_failed.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "the disk of the staging directory {} failed and is out of use until tradewindd is restarted: {what}; look at it \
                 (dmesg, smartctl), replace it or take the directory out of the configuration. What waits there is read back as far as \
                 it can be; where it cannot, the lane ends (staging_failed) and its client sends it again",
                self.directory.display()
            );
        }
    }

    pub(crate) fn slow_until(&self) -> MutexGuard<'_, Option<Instant>> {
        // Every change is one step.
        self.slow_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It did not answer a while ago.
    pub(crate) fn is_slow(&self) -> bool {
        self.slow_until().is_some_and(|until| Instant::now() < until)
    }

    /// It did not answer in time: nothing is recalled from it for a while. Says so once in that.
    pub(crate) fn stood_still(&self, what: &dyn std::fmt::Display) {
        let was_slow = self.is_slow();
        *self.slow_until() = Some(Instant::now() + SLOW_FOR);
        if !was_slow {
            tracing::warn!(
                "the disk of the staging directory {} does not answer, and what is kept there is not recalled for {} s: {what}; look at it \
                 (dmesg, smartctl)",
                self.directory.display(),
                SLOW_FOR.as_secs()
            );
        }
    }

    /// Waits for a turn to read kept blocks: as long as the disk answers one of those that read, at least once in that time. `None` if it does not.
    pub(crate) async fn turn(&self, within: Duration) -> Option<OwnedSemaphorePermit> {
        let mut turn = pin!(Arc::clone(&self.reads).acquire_owned());
        loop {
            let answers = self.answers.load(Ordering::Relaxed);
            match timeout(within, turn.as_mut()).await {
                // It is never closed.
                Ok(turn) => return turn.ok(),
                Err(_) if self.answers.load(Ordering::Relaxed) == answers => return None,
                Err(_) => {}
            }
        }
    }

    /// A read has ended.
    pub(crate) fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Turns that nobody has.
    #[cfg(test)]
    pub(crate) fn turns(&self) -> usize {
        self.reads.available_permits()
    }
}

#[derive(Debug)]
pub(crate) struct Disk {
    health: Arc<Health>,
    pub(crate) segments: Arc<Segments>,
    queue: Arc<Queue>,
    blocks_written: AtomicU64,
    full: Mutex<Option<Full>>,
}

/// What a disk has to do.
#[derive(Debug)]
struct Queue {
    bytes: AtomicU64,
    began: Instant,
    /// When it last answered, or got something to do after it had nothing: milliseconds since it began.
    moved_ms: AtomicU64,
}

impl Queue {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn moved(&self) {
        self.moved_ms.store(self.now_ms(), Ordering::Relaxed);
    }
}

/// Bytes that a disk has to move, counted as long as this lives.
#[derive(Debug)]
pub(crate) struct Load {
    bytes: u64,
    queue: Arc<Queue>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.queue.moved();
        self.queue.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Disk {
    pub(crate) fn new(directory: &Path, place_bytes: usize, bytes_max: u64) -> Self {
        Self {
            health: Arc::new(Health::new(directory.to_owned())),
            segments: Arc::new(Segments::new(directory, place_bytes, bytes_max)),
            queue: Arc::new(Queue { bytes: AtomicU64::new(0), began: Instant::now(), moved_ms: AtomicU64::new(0) }),
            blocks_written: AtomicU64::new(0),
            full: Mutex::default(),
        }
    }

    pub(crate) fn load(&self, bytes: usize) -> Load {
        if self.queue.bytes.fetch_add(bytes as u64, Ordering::Relaxed) == 0 {
            self.queue.moved();
        }
        Load { bytes: bytes as u64, queue: Arc::clone(&self.queue) }
    }

    pub(crate) fn queued_bytes(&self) -> u64 {
        self.queue.bytes.load(Ordering::Relaxed)
    }

    /// It has something to do and has not answered for a while.
    pub(crate) fn stands_still(&self) -> bool {
        self.queued_bytes() > 0 && self.queue.now_ms().saturating_sub(self.queue.moved_ms.load(Ordering::Relaxed)) > STILL_MS
    }

    pub(crate) fn blocks_written(&self) -> u64 {
        self.blocks_written.load(Ordering::Relaxed)
    }

    pub(crate) fn wrote(&self) {
        self.blocks_written.fetch_add(1, Ordering::Relaxed);
    }

    /// It has refused a write or `fdatasync`: full, or broken.
    pub(crate) fn refused(&self, error: &std::io::Error) {
        if is_no_room(error) {
            self.found_full(&StagingError::Full, true);
        } else {
            self.fail(error);
        }
    }

    /// It may be asked for a place.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_failed() && self.segments.room() > 0 && !self.is_full()
    }

    /// Blocks that there is room for: none on one that failed.
    pub(crate) fn room(&self) -> u64 {
        if self.is_failed() { 0 } else { self.segments.room() }
    }

    fn full(&self) -> MutexGuard<'_, Option<Full>> {
        // Every change is one step.
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more fits, as far as is known.
    pub(crate) fn is_full(&self) -> bool {
        let full = *self.full();
        full.is_some_and(|full| Instant::now() < full.until && (full.is_everywhere || self.segments.is_used_up()))
    }

    /// Not even what was allocated can be written.
    pub(crate) fn is_full_everywhere(&self) -> bool {
        self.full().is_some_and(|full| full.is_everywhere && Instant::now() < full.until)
    }

    /// There was no room for another segment, or (`is_everywhere`) in one that was made.
    pub(crate) fn found_full(&self, error: &StagingError, is_everywhere: bool) {
        let before = self.full().replace(Full { until: Instant::now() + FULL_FOR, is_everywhere });
        if before.is_none() {
            tracing::warn!("no block is staged in {} for now: {error}", self.health.directory.display());
        }
    }

    pub(crate) fn found_room(&self) {
        let mut full = self.full();
        if full.is_some_and(|full| !full.is_everywhere || Instant::now() >= full.until) {
            *full = None;
        }
    }

    pub(crate) const fn health(&self) -> &Arc<Health> {
        &self.health
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.health.is_failed()
    }

    /// Takes it out of use, and says so once.
    pub(crate) fn fail(&self, what: &dyn std::fmt::Display) {
        self.health.fail(what);
    }

    pub(crate) fn status(&self) -> DiskStatus {
        DiskStatus {
            directory: self.health.directory.clone(),
            queued_bytes: self.queued_bytes(),
            blocks_written: self.blocks_written(),
            room_blocks: self.room(),
            is_failed: self.is_failed(),
        }
    }
}

/// The file system has no room: no fault of the disk.
pub(crate) fn is_no_room(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
