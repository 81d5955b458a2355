//! The handle of all disks: how it begins, what it can be asked for, how it ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::unbounded;
use tradewind_fabric::block_pool::SLOT_ALIGN;
use tradewind_fabric::{BlockBuf, BlockPool, SharedBlock};

use crate::DISKS_MAX;
use crate::ask::{self, Identity};
use crate::disk::{Disk, DiskStatus, Health};
use crate::disks::{Disks, Line, Tried};
use crate::error::StagingError;
use crate::kept::{self, KeptLane};
use crate::mover::Mover;
use crate::ring::Ring;
use crate::segments::{Segments, Staged};

/// How long the end of staging waits for the disks.
const END: Duration = Duration::from_secs(5);

/// Where blocks go, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagingConfig {
    /// Directories, each on a local disk of its own; at most [`DISKS_MAX`]. A single one is made; several have to be there, so that the place of a
    /// disk that is not mounted is not taken for an empty disk.
    pub directories: Vec<PathBuf>,
    /// Most bytes of blocks in each at once.
    pub bytes_max: u64,
}

impl StagingConfig {
    /// Makes one of the directories, or looks whether it is there.
    pub(crate) fn prepare(&self, directory: &Path) -> Result<(), StagingError> {
        let cannot = |detail: String| StagingError::Directory { directory: directory.to_owned(), detail };
        if self.directories.len() == 1 {
            return std::fs::create_dir_all(directory).map_err(|error| cannot(error.to_string()));
        }
        match std::fs::metadata(directory) {
            Ok(there) if there.is_dir() => Ok(()),
            Ok(_) => Err(cannot("it is no directory".to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(cannot("it is not there: mount its disk, or make it (of several directories none is made)".to_owned()))
            }
            Err(error) => Err(cannot(error.to_string())),
        }
    }
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

/// Told of the end of a request, on the thread of a disk or its own: it only passes the news on. Whatever happens to the thread, it is told.
pub(crate) struct Tell {
    block: u32,
    to: Option<Box<dyn FnOnce(Done) + Send>>,
}

impl std::fmt::Debug for Tell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tell").field("block", &self.block).finish_non_exhaustive()
    }
}

impl Tell {
    pub(crate) fn new(block: u32, to: impl FnOnce(Done) + Send + 'static) -> Self {
        Self { block, to: Some(Box::new(to)) }
    }

    pub(crate) fn tell(mut self, result: Result<Outcome, StagingError>) {
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

/// The handle. Dropping the last clone ends the threads when all requests have ended.
#[derive(Clone, Debug)]
pub struct Staging(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    disks: Arc<Disks>,
    /// Blocks that may be on their way to be kept: each has a slot of the pool until it is written.
    kept_max: u32,
    pool: BlockPool,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.disks.end();
        // They wait for their disks, which may never answer; then they are left behind, and with them their rings: memory that the kernel still
        // writes to does not go back to the pool.
        let deadline = Instant::now() + END;
        let own = std::thread::current().id();
        for thread in self.threads.drain(..).filter(|thread| thread.thread().id() != own) {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// What a disk begins with.
struct TriedOut {
    ring: Ring,
    disk: Disk,
    directory: usize,
}

impl Staging {
    /// Begins, and takes the first room on each disk to see whether it can be had. `rings`: one for each directory. A directory that cannot be used
    /// is left out, and the log says why; so is one on the file system of another, which would be no faster and no larger for it. Of several, one
    /// that is full is asked again after 5 s.
    ///
    /// # Errors
    /// [`StagingError::Directory`] and what to do about it, [`StagingError::Disk`], [`StagingError::Damaged`], if no directory can be used: of the
    /// first. [`StagingError::Full`] if a single one is full.
    pub fn start(rings: Vec<Ring>, config: &StagingConfig) -> Result<Self, StagingError> {
        let cannot =
            |detail: String| StagingError::Directory { directory: config.directories.first().cloned().unwrap_or_default(), detail };
        if rings.len() != config.directories.len() || rings.is_empty() || rings.len() > DISKS_MAX {
            return Err(cannot(format!(
                "{} directories and {} rings are given; 1 to {DISKS_MAX} can be used",
                config.directories.len(),
                rings.len()
            )));
        }
        let pool = rings[0].pool().clone();
        let (usable, errors) = open(rings, config);
        if config.directories.len() > 1 {
            for (number, error) in &errors {
                let place = config.directories[*number].display();
                tracing::error!("no block is staged in {place} until tradewindd is restarted: {error}");
            }
        }
        if let Some((_, error)) = errors.into_iter().next().filter(|_| usable.is_empty()) {
            return Err(error);
        }
        let (mut lines, mut inboxes) = (Vec::new(), Vec::new());
        for TriedOut { ring, disk, directory } in usable {
            let (work, inbox) = unbounded();
            lines.push(Line { disk, directory, work, waker: ring.waker() });
            inboxes.push((ring, inbox));
        }
        let disks = Arc::new(Disks::new(lines));
        let kept_max = u32::try_from(pool.capacity() / 8).unwrap_or(u32::MAX);
        let mut shared = Shared { disks: Arc::clone(&disks), kept_max, pool, threads: Vec::new() };
        for (number, (ring, inbox)) in inboxes.into_iter().enumerate() {
            let thread = |name: String| std::thread::Builder::new().name(name);
            let no_thread = |error| cannot(format!("no thread can be started: {error}"));
            let (written, safe) = unbounded();
            let of_sync = Arc::clone(&disks);
            let sync = move || kept::sync(&safe, |error| of_sync.disk(number).refused(error));
            let syncing = thread(format!("staging-sync-{number}")).spawn(sync).map_err(no_thread)?;
            let mover = Mover::new(ring, Arc::clone(&disks), number, inbox, written);
            shared.threads.push(thread(format!("staging-{number}")).spawn(move || mover.run()).map_err(no_thread)?);
            // It ends when the other has ended.
            shared.threads.push(syncing);
        }
        Ok(Self(Arc::new(shared)))
    }

    /// Blocks that there is room for on disks that work.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.0.disks.all().map(Disk::room).sum()
    }

    /// The disks in use, in the order of the configuration.
    #[must_use]
    pub fn disks(&self) -> Vec<DiskStatus> {
        self.0.disks.all().map(Disk::status).collect()
    }

    /// Of the disk of a directory, by its number in the configuration.
    pub(crate) fn health(&self, directory: usize) -> Option<Arc<Health>> {
        self.0.disks.health(directory).map(Arc::clone)
    }

    /// Takes all the room on the disks that is allowed, at once. It is given back when nobody has used it for a while.
    ///
    /// # Errors
    /// [`StagingError::Full`] when a disk has less, [`StagingError::Directory`], [`StagingError::Disk`].
    pub fn reserve(&self) -> Result<(), StagingError> {
        self.0.disks.all().try_for_each(|disk| disk.segments.reserve())
    }

    /// Writes a block to the disk with the least to do; to another if that one is full or fails. The caller may keep `data` until it is told, or
    /// forget it.
    pub fn put(&self, block: u32, data: SharedBlock, tell: impl FnOnce(Done) + Send + 'static) {
        self.0.disks.put(data, Tell::new(block, tell), Tried::default(), StagingError::Full);
    }

    /// Reads a block back into a free slot; its place on the disk is free from then on.
    pub fn get(&self, block: u32, staged: Staged, into: BlockBuf, tell: impl FnOnce(Done) + Send + 'static) {
        self.0.disks.get(staged, into, Tell::new(block, tell));
    }

    /// Writes a block so that a later process finds it, unless too many are on their way. `is_for_all`: to every disk, because without it what
    /// another disk keeps would be understood otherwise.
    pub fn keep(&self, lane: &KeptLane, block: u32, data: &SharedBlock, is_for_all: bool) {
        // What waits to be kept must not take the memory of what is received. Blocks for all disks are few.
        if !is_for_all && self.0.pool.available() <= self.0.pool.capacity() / 4 {
            return;
        }
        let begin = || lane.begin(self.0.kept_max);
        if is_for_all {
            self.0.disks.keep_everywhere(lane, block, data, begin);
        } else if let Some(turn) = begin() {
            self.0.disks.keep(turn, block, data.clone(), Tried::default(), &StagingError::Full);
        }
    }
}

/// Makes disks of the directories that can be used, and says why the others cannot.
fn open(rings: Vec<Ring>, config: &StagingConfig) -> (Vec<TriedOut>, Vec<(usize, StagingError)>) {
    let deadline = Instant::now() + ask::START;
    let jobs = config.directories.iter().map(|directory| (directory.clone(), (config.clone(), directory.clone()))).collect();
    let there = ask::all(jobs, deadline, |(config, directory): (StagingConfig, PathBuf)| {
        config.prepare(&directory)?;
        ask::identity(&directory)
    });
    let (mut known, mut jobs): (Vec<(&Path, Identity)>, Vec<_>) = (Vec::new(), Vec::new());
    let (mut errors, mut tried) = (Vec::new(), Vec::new());
    for (number, ((path, there), ring)) in config.directories.iter().zip(there).zip(rings).enumerate() {
        match there.and_then(|identity| may_be_used(config, ring.pool().slot_bytes(), path, identity, &known).map(|()| identity)) {
            Ok(identity) => {
                known.push((path.as_path(), identity));
                jobs.push((path.clone(), (ring, config.clone(), number)));
                tried.push(number);
            }
            Err(error) => errors.push((number, error)),
        }
    }
    let opened = ask::all(jobs, deadline, |(ring, config, directory): (Ring, StagingConfig, usize)| {
        let disk = Disk::new(&config.directories[directory], ring.pool().slot_bytes(), config.bytes_max);
        match try_out(&disk.segments, &ring) {
            // Somebody may make room while the others are used.
            Err(error @ StagingError::Full) if config.directories.len() > 1 => disk.found_full(&error, false),
            tried => tried?,
        }
        Ok(TriedOut { ring, disk, directory })
    });
    let mut usable = Vec::new();
    for (number, opened) in tried.into_iter().zip(opened) {
        match opened {
            Ok(opened) => usable.push(opened),
            Err(error) => errors.push((number, error)),
        }
    }
    errors.sort_by_key(|(number, _)| *number);
    (usable, errors)
}

/// `others`: those before it.
fn may_be_used(
    config: &StagingConfig,
    place_bytes: usize,
    path: &Path,
    identity: Identity,
    others: &[(&Path, Identity)],
) -> Result<(), StagingError> {
    let cannot = |detail: String| Err(StagingError::Directory { directory: path.to_owned(), detail });
    if config.bytes_max < place_bytes as u64 {
        return cannot(format!("{} bytes are less than one block of {place_bytes}", config.bytes_max));
    }
    ask::named_once(path, identity, others.iter().copied())?;
    let Some((other, _)) = others.iter().find(|(_, there)| there.0 == identity.0) else { return Ok(()) };
    cannot(format!("it is on the same file system as {}; name one directory for each disk, and see that all are mounted", other.display()))
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
