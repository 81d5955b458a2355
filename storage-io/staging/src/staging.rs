//! The thread behind the ring, and how others speak with it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};
use tradewind_fabric::block_pool::SLOT_ALIGN;
use tradewind_fabric::wake::Waker;
use tradewind_fabric::{BlockBuf, BlockPool, SharedBlock};

use crate::crc_of;
use crate::error::StagingError;
use crate::kept::{self, KeptLane, KeptPlace, Turn, Written};
use crate::ring::{Buffer, DEPTH, Landed, Ring};
use crate::segments::{Place, Segments, Staged};

/// How long segments that nobody uses are kept.
const KEEP: Duration = Duration::from_secs(10);
/// How long the end of staging waits for the disk.
const END: Duration = Duration::from_secs(5);
/// How long a disk without room is left alone.
const FULL_FOR: Duration = Duration::from_secs(5);

/// Where blocks go, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagingConfig {
    /// Directory on a local disk.
    pub directory: PathBuf,
    /// Most bytes of blocks there at once.
    pub bytes_max: u64,
}

/// How a [`Staging::put`] or [`Staging::get`] ended.
#[derive(Debug)]
pub struct Done {
    /// The block's number, as the caller gave it.
    pub block: u32,
    /// What became of it.
    pub result: Result<Outcome, StagingError>,
}

/// What became of a block.
#[derive(Debug)]
pub enum Outcome {
    /// It lies on the disk.
    Written(Staged),
    /// It is in memory again, byte for byte as it was.
    Read(SharedBlock),
}

/// Told of the end of a request, on the thread of the ring: it only passes the news on. Whatever happens to the thread, it is told.
struct Tell {
    block: u32,
    to: Option<Box<dyn FnOnce(Done) + Send>>,
}

impl Tell {
    fn new(block: u32, to: impl FnOnce(Done) + Send + 'static) -> Self {
        Self { block, to: Some(Box::new(to)) }
    }

    fn tell(mut self, result: Result<Outcome, StagingError>) {
        if let Some(to) = self.to.take() {
            to(Done { block: self.block, result });
        }
    }
}

impl Drop for Tell {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            to(Done { block: self.block, result: Err(StagingError::Ended) });
        }
    }
}

enum Work {
    Put { data: SharedBlock, tell: Tell },
    Get { staged: Staged, into: BlockBuf, tell: Tell },
    Keep { turn: Turn, block: u32, data: SharedBlock },
}

/// A request that the kernel has.
struct Moving {
    target: Target,
    bytes: usize,
    crc: u64,
}

/// Where it goes, or comes from.
enum Target {
    Staged(Place, Tell),
    Kept(KeptPlace),
}

impl Target {
    /// File, and offset in it.
    fn at(&self) -> (Arc<OwnedFd>, u64) {
        match self {
            Self::Staged(place, _) => (Arc::clone(&place.file), place.offset),
            Self::Kept(place) => (Arc::clone(place.file()), place.offset()),
        }
    }
}

/// The handle. Dropping the last clone ends the thread when all requests have ended.
#[derive(Clone, Debug)]
pub struct Staging(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    work: Option<Sender<Work>>,
    waker: Waker,
    segments: Arc<Segments>,
    /// Blocks that may be on their way to be kept: each has a slot of the pool until it is written.
    kept_max: u32,
    pool: BlockPool,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.work = None;
        self.waker.wake();
        let Some(thread) = self.thread.take() else { return };
        // It waits for the disk, which may never answer; then it is left behind, with the memory that the kernel still has.
        let deadline = Instant::now() + END;
        while !thread.is_finished() && Instant::now() < deadline && thread.thread().id() != std::thread::current().id() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Staging {
    /// Begins, and takes the first room on the disk to see whether it can be had.
    ///
    /// # Errors
    /// [`StagingError::Directory`] and what to do about it, [`StagingError::Full`].
    pub fn start(ring: Ring, config: &StagingConfig) -> Result<Self, StagingError> {
        let directory = |detail: String| StagingError::Directory { directory: config.directory.clone(), detail };
        std::fs::create_dir_all(&config.directory).map_err(|error| directory(error.to_string()))?;
        let place_bytes = ring.pool().slot_bytes();
        if config.bytes_max < place_bytes as u64 {
            return Err(directory(format!("{} bytes are less than one block of {place_bytes}", config.bytes_max)));
        }
        let segments = Arc::new(Segments::new(&config.directory, place_bytes, config.bytes_max));
        try_out(&segments, &ring)?;
        let (work, inbox) = unbounded();
        let (written, safe) = unbounded();
        let waker = ring.waker();
        let pool = ring.pool().clone();
        let kept_max = u32::try_from(ring.pool().capacity() / 8).unwrap_or(u32::MAX);
        let (moving, used) = (HashMap::new(), Instant::now());
        let mover = Mover { ring, segments: Arc::clone(&segments), inbox, written, moving, keys: 0, full_until: None, used };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let no_thread = |error| directory(format!("no thread can be started: {error}"));
        thread("staging-sync").spawn(move || kept::sync(&safe)).map_err(no_thread)?;
        let thread = thread("staging").spawn(move || mover.run()).map_err(no_thread)?;
        Ok(Self(Arc::new(Shared { work: Some(work), waker, segments, kept_max, pool, thread: Some(thread) })))
    }

    /// Blocks that there is room for.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.0.segments.room()
    }

    /// Takes all the room on the disk that is allowed, at once. It is given back when nobody has used it for a while.
    ///
    /// # Errors
    /// [`StagingError::Full`] when the disk has less, [`StagingError::Directory`].
    pub fn reserve(&self) -> Result<(), StagingError> {
        self.0.segments.reserve()
    }

    /// Writes a block. The caller may keep `data` until it is told, or forget it.
    pub fn put(&self, block: u32, data: SharedBlock, tell: impl FnOnce(Done) + Send + 'static) {
        self.send(Work::Put { data, tell: Tell::new(block, tell) });
    }

    /// Reads a block back into a free slot; its place on the disk is free from then on.
    pub fn get(&self, block: u32, staged: Staged, into: BlockBuf, tell: impl FnOnce(Done) + Send + 'static) {
        self.send(Work::Get { staged, into, tell: Tell::new(block, tell) });
    }

    /// Writes a block so that a later process finds it, unless too many are on their way.
    pub fn keep(&self, lane: &KeptLane, block: u32, data: &SharedBlock) {
        // What waits to be kept must not take the memory of what is received.
        let has_room = self.0.pool.available() > self.0.pool.capacity() / 4;
        if let Some(turn) = lane.begin(self.0.kept_max).filter(|_| has_room) {
            self.send(Work::Keep { turn, block, data: data.clone() });
        }
    }

    fn send(&self, work: Work) {
        // What is refused is dropped, and told of by that.
        if self.0.work.as_ref().is_some_and(|queue| queue.send(work).is_ok()) {
            self.0.waker.wake();
        }
    }
}

/// A page to the disk and back, as the ring will do it.
fn try_out(segments: &Arc<Segments>, ring: &Ring) -> Result<(), StagingError> {
    let place = segments.take()?;
    let Some(mut slot) = ring.pool().take() else { return Ok(()) };
    let page = &mut slot[..SLOT_ALIGN];
    let disk = |source: rustix::io::Errno| StagingError::Disk { source: source.into() };
    page.fill(0x5a);
    let written = rustix::io::pwrite(&*place.file, &*page, place.offset).map_err(disk)?;
    page.fill(0);
    let read = rustix::io::pread(&*place.file, &mut *page, place.offset).map_err(disk)?;
    let is_same = (written, read) == (SLOT_ALIGN, SLOT_ALIGN) && page.iter().all(|&byte| byte == 0x5a);
    if is_same { Ok(()) } else { Err(StagingError::Damaged) }
}

/// What the thread has.
struct Mover {
    ring: Ring,
    segments: Arc<Segments>,
    inbox: Receiver<Work>,
    /// To the thread that makes kept blocks safe.
    written: Sender<Written>,
    moving: HashMap<u64, Moving>,
    keys: u64,
    /// The file system had no more room.
    full_until: Option<Instant>,
    /// When it last had something to do.
    used: Instant,
}

impl Mover {
    fn run(mut self) {
        loop {
            let is_over = self.take_work();
            if is_over && self.ring.in_flight() == 0 {
                return;
            }
            if self.ring.in_flight() > 0 {
                self.used = Instant::now();
            } else if self.used.elapsed() >= KEEP {
                self.segments.shrink();
            }
            match self.ring.wait(KEEP) {
                Ok(landed) => landed.into_iter().for_each(|landed| self.land(landed)),
                Err(error) => {
                    tracing::error!(%error, "staging stops: io_uring does not work any more");
                    return;
                }
            }
        }
    }

    /// Starts what there is to do; true when nobody will ask for more.
    fn take_work(&mut self) -> bool {
        while self.ring.in_flight() < DEPTH {
            match self.inbox.try_recv() {
                Ok(Work::Put { data, tell }) => self.put(data, tell),
                Ok(Work::Get { staged: Staged { place, bytes, crc }, into, tell }) => {
                    self.start(Moving { target: Target::Staged(place, tell), bytes, crc }, Buffer::In(into));
                }
                Ok(Work::Keep { turn, block, data }) => self.keep(turn, block, data),
                Err(error) => return error.is_disconnected(),
            }
        }
        false
    }

    fn put(&mut self, data: SharedBlock, tell: Tell) {
        let place = match self.full_until {
            Some(until) if Instant::now() < until && self.segments.is_used_up() => Err(StagingError::Full),
            _ => self.segments.take(),
        };
        match place {
            Ok(place) => {
                self.full_until = None;
                self.write(Target::Staged(place, tell), data);
            }
            Err(error) => {
                if self.full_until.is_none() {
                    tracing::warn!("no block is staged for now: {error}");
                }
                self.full_until = Some(Instant::now() + FULL_FOR);
                drop(data);
                tell.tell(Err(error));
            }
        }
    }

    fn keep(&mut self, turn: Turn, block: u32, data: SharedBlock) {
        // What cannot be kept has been told in the log.
        if let Ok(Some(place)) = turn.take(block) {
            self.write(Target::Kept(place), data);
        }
    }

    fn write(&mut self, target: Target, data: SharedBlock) {
        let crc = crc_of(&data);
        self.start(Moving { target, bytes: data.len(), crc }, Buffer::Out(data));
    }

    fn start(&mut self, moving: Moving, buffer: Buffer) {
        let key = self.keys;
        self.keys += 1;
        let (file, offset) = moving.target.at();
        self.ring.start(key, &file, offset, buffer, moving.bytes.next_multiple_of(SLOT_ALIGN));
        self.moving.insert(key, moving);
    }

    fn land(&mut self, landed: Landed) {
        let Some(Moving { target, bytes, crc }) = self.moving.remove(&landed.key) else { return };
        let (mut place, tell) = match target {
            Target::Staged(place, tell) => (place, tell),
            Target::Kept(place) => {
                match landed.result {
                    // Who makes it safe ends only behind this thread.
                    Ok(()) => drop(self.written.send(Written { place, bytes, crc })),
                    Err(error) => place.failed(&error),
                }
                return;
            }
        };
        let result = match (landed.result, landed.buffer) {
            (Err(source), _) => {
                tracing::error!(%source, "the disk of the staging directory failed");
                place.spoil();
                Err(StagingError::Disk { source })
            }
            (Ok(()), Buffer::Out(data)) => {
                // Whoever is told finds its memory free.
                drop(data);
                return tell.tell(Ok(Outcome::Written(Staged { place, bytes, crc })));
            }
            (Ok(()), Buffer::In(slot)) => {
                let data = slot.freeze(bytes);
                let is_same = crc_of(&data) == crc;
                if is_same {
                    Ok(Outcome::Read(data))
                } else {
                    tracing::error!("the disk of the staging directory returned other bytes than were written");
                    place.spoil();
                    Err(StagingError::Damaged)
                }
            }
        };
        drop(place);
        tell.tell(result);
    }
}
