//! Blocks that outlive the process: named files that a later one reads again. The format is in docs/spec/kept-blocks.md.

mod home;
mod image;
mod keeper;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;

use self::home::{Home, Segment};
pub use self::image::KeptImage;
use crate::ask::{self, Identity};
use crate::disk::Health;
use crate::error::StagingError;
use crate::{Staging, StagingConfig};

/// First bytes of a file; the last two are the format's version.
const MAGIC: [u8; 8] = *b"TWKEPT01";
/// The page that says what a file holds.
const PAGE_BYTES: usize = 4096;
/// Where its entries begin.
const ENTRIES_AT: usize = 64;
/// CRC-64/NVME of a block, its length, four bytes of flags.
const ENTRY_BYTES: usize = 16;
/// Flag, beside a block's length: without it nothing else that the disk has of the transfer may count.
const FOR_ALL: u64 = 1 << 32;
/// Blocks of a file.
const PLACES: u32 = 64;
/// Blocks of a lane on their way to the disks. Disks that are slower than network and store get no more at once.
const WRITING_MAX: u32 = 64;
/// How long the removal of files is waited for; it goes on after that.
const REMOVAL: Duration = Duration::from_secs(5);
const SUFFIX: &str = ".blocks";
/// Below each staging directory.
const FOLDER: &str = "kept";

/// The kept blocks of all disks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keep(Arc<Homes>);

#[derive(Debug)]
struct Homes {
    /// By the numbers of their directories in the configuration; `None` where there is nothing, or it cannot be used.
    homes: Vec<Option<Arc<Home>>>,
    /// Blocks of all lanes on their way to the disks.
    writing: AtomicU32,
}

/// What a lane keeps. Cheap to clone. When the last clone goes, what is kept stays.
#[derive(Clone, Debug)]
pub struct KeptLane(Arc<Lane>);

#[derive(Debug)]
struct Lane {
    homes: Arc<Homes>,
    scope: u128,
    state: Mutex<State>,
    writing: AtomicU32,
    is_full: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// For each directory the file that is being filled, and places of it that are taken: not all.
    current: HashMap<usize, (Arc<Segment>, u32)>,
    /// Blocks of which the store does not have everything, by their segments' names.
    blocks: HashMap<u32, Arc<Segment>>,
    /// How many of these a segment has.
    live: HashMap<String, u32>,
    /// Blocks that the store had before they were written.
    early: HashSet<u32>,
    /// Directories that lack a block without which others must not count: this lane keeps nothing there any more.
    given_up: HashSet<usize>,
    /// Nothing is kept any more.
    is_closed: bool,
}

impl State {
    /// Nobody needs the block here.
    fn is_unneeded(&mut self, block: u32) -> bool {
        self.early.remove(&block) || self.is_closed
    }
}

/// A block that is on its way to the disk, or waits for it, is counted as long as this lives.
#[derive(Debug)]
pub(crate) struct Turn {
    lane: KeptLane,
    /// This directory must have the block, and does not have it yet: when that fails, it must not have others either.
    for_all: Option<usize>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(directory) = self.for_all {
            self.lane.give_up(directory);
        }
        self.lane.0.writing.fetch_sub(1, Ordering::Relaxed);
        self.lane.0.homes.writing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a block is written to.
#[derive(Debug)]
pub(crate) struct KeptPlace {
    turn: Turn,
    segment: Arc<Segment>,
    number: u32,
    block: u32,
}

/// What asking for a place has given.
#[derive(Debug)]
pub(crate) enum Taken {
    Place(KeptPlace),
    /// Nobody needs the block any more.
    Unneeded,
    /// This disk has none; another one may.
    NoPlace(Turn, StagingError),
}

impl KeptPlace {
    pub(crate) fn file(&self) -> &Arc<OwnedFd> {
        &self.segment.file
    }

    pub(crate) const fn block(&self) -> u32 {
        self.block
    }

    /// The disk did not take it; another one may.
    pub(crate) fn failed(self) -> Turn {
        let Self { turn, segment, block, .. } = self;
        let lane = &turn.lane.0;
        let mut state = lock(&lane.state);
        // Another disk may have it too.
        if state.blocks.get(&block).is_some_and(|there| Arc::ptr_eq(there, &segment)) {
            state.blocks.remove(&block);
            lane.release(&mut state, Arc::clone(&segment));
        }
        drop(state);
        turn
    }

    pub(crate) fn offset(&self) -> u64 {
        offset_of(self.number, self.segment.home.place_bytes)
    }
}

/// A block that was written and is not safe yet.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) place: KeptPlace,
    pub(crate) bytes: usize,
    pub(crate) crc: u64,
}

fn offset_of(number: u32, place_bytes: usize) -> u64 {
    PAGE_BYTES as u64 + u64::from(number) * place_bytes as u64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keep {
    /// For blocks of at most `place_bytes`, a multiple of the alignment of O_DIRECT, and files of at most `bytes_max` of the configuration in each
    /// directory, those that are there already among them. A directory that cannot be used is left out, and the log says why. Unless
    /// `is_made`, only what an earlier engine left is opened, and `None` is returned if there is nothing. `staging`: of the same configuration, if
    /// blocks wait on these disks too; one that then fails is out of use for both.
    ///
    /// # Errors
    /// [`StagingError::Directory`] if none can be used.
    pub fn open(
        config: &StagingConfig,
        place_bytes: usize,
        is_made: bool,
        staging: Option<&Staging>,
    ) -> Result<Option<Self>, StagingError> {
        let deadline = Instant::now() + ask::START;
        let several = config.directories.len() > 1;
        let jobs = config.directories.iter().map(|directory| (directory.clone(), (config.clone(), directory.clone()))).collect();
        let there = ask::all(jobs, deadline, move |(config, directory): (StagingConfig, PathBuf)| {
            if !is_made && !directory.join(FOLDER).exists() {
                return Ok(None);
            }
            config.prepare(&directory)?;
            ask::identity(&directory).map(Some)
        });
        let (mut once, mut jobs): (Vec<(&Path, Identity)>, Vec<_>) = (Vec::new(), Vec::new());
        let mut errors = Vec::new();
        for (number, (directory, there)) in config.directories.iter().zip(there).enumerate() {
            match there
                .and_then(|there| there.map(|there| ask::named_once(directory, there, once.iter().copied()).map(|()| there)).transpose())
            {
                Ok(Some(identity)) => {
                    once.push((directory.as_path(), identity));
                    jobs.push((number, directory.clone()));
                }
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        let bytes_max = config.bytes_max;
        let numbers: Vec<usize> = jobs.iter().map(|(number, _)| *number).collect();
        let health = |number: usize, directory: &Path| {
            let known = staging.and_then(|staging| staging.health(number));
            known.unwrap_or_else(|| Arc::new(Health::new(directory.to_owned())))
        };
        let with_health = jobs.into_iter().map(|(number, directory)| {
            let health = health(number, &directory);
            (directory.clone(), (directory.join(FOLDER), health))
        });
        let opened = ask::all(with_health.collect(), deadline, move |(kept, health): (PathBuf, Arc<Health>)| {
            Home::open(&kept, place_bytes, bytes_max, health)
        });
        let mut homes: Vec<Option<Arc<Home>>> = config.directories.iter().map(|_| None).collect();
        for (number, opened) in numbers.into_iter().zip(opened) {
            match opened {
                Ok(home) => homes[number] = Some(Arc::new(home)),
                Err(error) => errors.push(error),
            }
        }
        if several {
            for error in &errors {
                tracing::error!("what was kept here is sent again, and no more is kept here until tradewindd is restarted: {error}");
            }
        }
        let failed = errors.into_iter().next();
        let has_one = homes.iter().any(Option::is_some);
        match failed {
            Some(error) if !has_one => Err(error),
            _ => Ok(has_one.then(|| Self(Arc::new(Homes { homes, writing: AtomicU32::new(0) })))),
        }
    }

    /// For the blocks of a lane. `scope`: the same for every lane that may go on with this one's work.
    #[must_use]
    pub fn lane(&self, scope: u128) -> KeptLane {
        let (state, writing, is_full) = (Mutex::default(), AtomicU32::new(0), AtomicBool::new(false));
        KeptLane(Arc::new(Lane { homes: Arc::clone(&self.0), scope, state, writing, is_full }))
    }

    /// What earlier lanes of this scope have kept, in no order: hands over each block as it was, and what reads it again. Blocks while the disks are
    /// read, all at the same time; they wait for `each`, so that a few blocks are in memory and not all. What was damaged is left out, and so is what
    /// was not read in time.
    pub fn recall(&self, scope: u128, within: Duration, mut each: impl FnMut(KeptImage, Vec<u8>)) {
        let deadline = Instant::now() + within;
        let (tell, told) = mpsc::sync_channel(1);
        let mut reading: Vec<Option<&Arc<Home>>> = Vec::new();
        for (number, home) in self.0.all().enumerate() {
            let (thread, tell, owned) = (std::thread::Builder::new().name("recall".to_owned()), tell.clone(), Arc::clone(home));
            let started = thread.spawn(move || {
                // Who asked may have gone.
                owned.recall(scope, deadline, &|image, bytes| drop(tell.send((number, Some((image, bytes))))));
                drop(tell.send((number, None)));
            });
            reading.push(started.is_ok().then_some(home));
            if let Err(error) = started {
                tracing::warn!(%error, directory = %home.directory().display(), "kept blocks are not read and are sent again");
            }
        }
        drop(tell);
        while let Ok((number, found)) = told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            match found {
                Some((image, bytes)) => each(image, bytes),
                None => reading[number] = None,
            }
        }
        for home in reading.into_iter().flatten() {
            let directory = home.directory().display();
            tracing::warn!("not all kept blocks in {directory} were read in time: what its disk has not answered is sent again");
        }
    }

    /// Removes what lanes of this scope have kept that are over. Nobody recalls it from now on; waits a while until it is gone.
    pub fn forget(&self, scope: u128) {
        self.0.all().for_each(|home| home.forget(scope));
        self.look(None);
    }

    /// Removes what nobody has gone on with for so long. Returns how many files that were. A disk that does not answer is not waited for long.
    pub fn expire(&self, after: Duration) -> usize {
        self.look(Some(after))
    }

    /// Waits for the threads that remove files.
    fn look(&self, after: Option<Duration>) -> usize {
        let deadline = Instant::now() + REMOVAL;
        let (tell, told) = mpsc::channel();
        let mut asked: Vec<Option<&Arc<Home>>> = self.0.all().map(Some).collect();
        asked.iter().flatten().enumerate().for_each(|(number, home)| home.look(after, number, tell.clone()));
        drop(tell);
        let mut files = 0;
        while let Ok((number, removed)) = told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            asked[number] = None;
            files += removed;
        }
        for home in asked.into_iter().flatten() {
            tracing::warn!(directory = %home.directory().display(), "the disk did not answer in time: old kept blocks are still being removed");
        }
        files
    }
}

impl Homes {
    fn all(&self) -> impl Iterator<Item = &Arc<Home>> {
        self.homes.iter().flatten()
    }

    fn are_over(&self, live: &HashMap<String, u32>) {
        self.all().for_each(|home| home.are_over(live.keys()));
    }
}

impl KeptLane {
    /// Lets another block be on its way to the disk, if that is not one too many of this lane, or of all of them, which is `all_max`.
    pub(crate) fn begin(&self, all_max: u32) -> Option<Turn> {
        if self.0.homes.writing.load(Ordering::Relaxed) >= all_max {
            return None;
        }
        let begun =
            self.0.writing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |writing| (writing < WRITING_MAX).then_some(writing + 1));
        begun.ok()?;
        self.0.homes.writing.fetch_add(1, Ordering::Relaxed);
        Some(Turn { lane: self.clone(), for_all: None })
    }

    /// How much more this directory takes, for comparison with others; `None`: nothing.
    pub(crate) fn room(&self, directory: usize) -> Option<usize> {
        let home = self.0.homes.homes.get(directory)?.as_ref()?;
        let state = lock(&self.0.state);
        if state.given_up.contains(&directory) {
            return None;
        }
        let has_place = state.current.contains_key(&directory);
        drop(state);
        let room = home.room();
        (has_place || room > 0).then_some(room)
    }

    /// Blocks on their way to the disks.
    #[cfg(test)]
    pub(crate) fn writing(&self) -> u32 {
        self.0.writing.load(Ordering::Relaxed)
    }

    /// A block is not kept, because no disk has a place for it. Says so once, until one has again.
    pub(crate) fn refused(&self, error: &StagingError) {
        if !self.0.is_full.swap(true, Ordering::Relaxed) {
            tracing::warn!("blocks are not kept for now: {error}");
        }
    }

    /// Nothing of this lane is of use any more, not even what is on its way to the disk: [`Keep::forget`] finds all of it.
    pub fn close(&self) {
        let mut state = lock(&self.0.state);
        let State { live, .. } = std::mem::replace(&mut *state, State { is_closed: true, ..State::default() });
        self.0.homes.are_over(&live);
    }

    /// A directory lacks a block without which others of this scope must not count: what is there of it goes, and no more comes.
    pub(crate) fn give_up(&self, directory: usize) {
        let Some(Some(home)) = self.0.homes.homes.get(directory) else { return };
        let mut state = lock(&self.0.state);
        if state.is_closed || !state.given_up.insert(directory) {
            return;
        }
        let State { current, blocks, live, .. } = &mut *state;
        current.remove(&directory);
        blocks.retain(|_, segment| !Arc::ptr_eq(&segment.home, home));
        let gone: Vec<String> = live.keys().filter(|name| home.has(name)).cloned().collect();
        live.retain(|name, _| !gone.contains(name));
        drop(state);
        gone.iter().for_each(|name| home.remove(name));
        home.forget(self.0.scope);
        let directory = home.directory().display();
        tracing::warn!(
            "{directory} lacks a block that gives a file up: what it kept of this transfer would be sent again, and no more is kept there"
        );
    }

    /// The store has all of a block: nobody needs it here.
    pub fn done(&self, block: u32) {
        let mut state = lock(&self.0.state);
        match state.blocks.remove(&block) {
            Some(segment) => self.0.release(&mut state, segment),
            // It may never have come here; there are at most as many as the lane has blocks.
            None if self.0.writing.load(Ordering::Relaxed) > 0 => {
                state.early.insert(block);
            }
            None => {}
        }
    }
}

impl Turn {
    pub(crate) const fn lane(&self) -> &KeptLane {
        &self.lane
    }

    /// This directory has to have the block, or nothing that the lane kept there counts.
    pub(crate) fn for_all(self, directory: usize) -> Self {
        let mut turn = self;
        turn.for_all = Some(directory);
        turn
    }

    /// Nothing depends on it any more.
    fn settle(&mut self) {
        self.for_all = None;
    }

    /// A place for the block in this directory.
    pub(crate) fn take(mut self, block: u32, directory: usize) -> Taken {
        let lane = Arc::clone(&self.lane.0);
        let Some(Some(home)) = lane.homes.homes.get(directory) else { return Taken::NoPlace(self, StagingError::Full) };
        let mut state = lock(&lane.state);
        if state.is_unneeded(block) {
            drop(state);
            self.settle();
            return Taken::Unneeded;
        }
        if state.given_up.contains(&directory) {
            drop(state);
            return Taken::NoPlace(self, StagingError::Full);
        }
        let (segment, taken) = match state.current.remove(&directory) {
            Some(current) => current,
            None => {
                // Nobody else does this: each disk has one thread that takes places. The disk may take its time, so the lock is not held.
                drop(state);
                let segment = match home.make(lane.scope) {
                    Ok(segment) => Arc::new(segment),
                    Err(error) => return Taken::NoPlace(self, error),
                };
                lane.is_full.store(false, Ordering::Relaxed);
                state = lock(&lane.state);
                if state.is_closed {
                    drop(state);
                    home.remove(&segment.name);
                    self.settle();
                    return Taken::Unneeded;
                }
                if state.given_up.contains(&directory) {
                    drop(state);
                    home.remove(&segment.name);
                    return Taken::NoPlace(self, StagingError::Full);
                }
                // One for being the current one.
                state.live.insert(segment.name.clone(), 1);
                if state.is_unneeded(block) {
                    state.current.insert(directory, (segment, 0));
                    drop(state);
                    self.settle();
                    return Taken::Unneeded;
                }
                (segment, 0)
            }
        };
        *state.live.entry(segment.name.clone()).or_default() += 1;
        if taken + 1 < PLACES {
            state.current.insert(directory, (Arc::clone(&segment), taken + 1));
        } else {
            lane.release(&mut state, Arc::clone(&segment));
        }
        state.blocks.insert(block, Arc::clone(&segment));
        drop(state);
        Taken::Place(KeptPlace { turn: self, segment, number: taken, block })
    }
}

impl Lane {
    /// A segment is needed by one less. It is closed by who removes it: that takes its time too.
    fn release(&self, state: &mut State, segment: Arc<Segment>) {
        let Some(live) = state.live.get_mut(&segment.name) else { return };
        *live -= 1;
        if *live == 0 {
            state.live.remove(&segment.name);
            let home = Arc::clone(&segment.home);
            home.remove_segment(segment);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.homes.are_over(&lock(&self.state).live);
    }
}

/// The thread that makes written blocks of a disk safe: all that were written meanwhile with one entry page a file and one call to the disk.
/// `failed` is told of what the disk refused.
pub(crate) fn sync(inbox: &Receiver<Written>, failed: impl Fn(&io::Error)) {
    while let Ok(first) = inbox.recv() {
        let mut files: HashMap<String, Vec<Written>> = HashMap::new();
        for written in std::iter::once(first).chain(inbox.try_iter()) {
            files.entry(written.place.segment.name.clone()).or_default().push(written);
        }
        for (name, written) in files {
            match note(&written) {
                Ok(()) => written.into_iter().for_each(|Written { mut place, .. }| place.turn.settle()),
                Err(error) => {
                    tracing::error!(%error, name, blocks = written.len(), "blocks cannot be kept; they would be sent again");
                    written.into_iter().for_each(|Written { place, .. }| drop(place.failed()));
                    failed(&error);
                }
            }
        }
    }
}

/// Of one file.
fn note(written: &[Written]) -> io::Result<()> {
    let Some(Written { place: KeptPlace { segment, .. }, .. }) = written.first() else { return Ok(()) };
    let mut page = lock(&segment.page);
    for Written { place, bytes, crc } in written {
        let at = ENTRIES_AT + place.number as usize * ENTRY_BYTES;
        page.0[at..at + 8].copy_from_slice(&crc.to_le_bytes());
        let flags = if place.turn.for_all.is_some() { FOR_ALL } else { 0 };
        page.0[at + 8..at + 16].copy_from_slice(&(*bytes as u64 | flags).to_le_bytes());
    }
    let moved = rustix::io::pwrite(&*segment.file, &page.0, 0)?;
    drop(page);
    if moved != PAGE_BYTES {
        // As with blocks: there was room for some.
        return Err(io::Error::new(io::ErrorKind::StorageFull, format!("{moved} of {PAGE_BYTES} bytes were written")));
    }
    Ok(rustix::fs::fdatasync(&*segment.file)?)
}

#[cfg(test)]
mod tests;
