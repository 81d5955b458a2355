//! Blocks that outlive the process: named files that a later one reads again. The format is in docs/spec/kept-blocks.md.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use crossbeam::channel::Receiver;
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::crc_of;
use crate::error::StagingError;
use crate::map;

/// First bytes of a file; the last two are the format's version.
const MAGIC: [u8; 8] = *b"TWKEPT01";
/// The page that says what a file holds.
const PAGE_BYTES: usize = 4096;
/// Where its entries begin.
const ENTRIES_AT: usize = 64;
/// CRC-64/NVME of a block, its length, four bytes of nothing.
const ENTRY_BYTES: usize = 16;
/// Blocks of a file.
const PLACES: u32 = 64;
/// Blocks of a lane on their way to the disk. A disk that is slower than network and store gets no more at once.
const WRITING_MAX: u32 = 64;
const SUFFIX: &str = ".blocks";
/// How long a disk without room is left alone.
const FULL_FOR: Duration = Duration::from_secs(5);
/// How long another engine, which is ending, may still have the directory.
const LOCK_DEADLINE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// The directory of kept blocks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keep(Arc<Home>);

#[derive(Debug)]
struct Home {
    directory: PathBuf,
    place_bytes: usize,
    files_max: usize,
    /// Blocks of all lanes on their way to the disk.
    writing: AtomicU32,
    /// The disk had no room, and is left alone until then.
    full_until: Mutex<Option<Instant>>,
    /// Names, and whether a lane of this process writes there.
    files: Mutex<BTreeMap<String, bool>>,
    /// Held as long as this lives.
    _lock: File,
}

/// The one page of a file, where direct I/O can read it.
#[repr(align(4096))]
#[derive(Debug)]
struct Page([u8; PAGE_BYTES]);

/// A file of a lane.
#[derive(Debug)]
struct Segment {
    name: String,
    file: Arc<OwnedFd>,
    page: Mutex<Box<Page>>,
}

/// What a lane keeps. Cheap to clone. When the last clone goes, what is kept stays.
#[derive(Clone, Debug)]
pub struct KeptLane(Arc<Lane>);

#[derive(Debug)]
struct Lane {
    home: Arc<Home>,
    scope: u128,
    state: Mutex<State>,
    writing: AtomicU32,
    is_full: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// The one that is being filled, and places of it that are taken.
    current: Option<(Arc<Segment>, u32)>,
    /// Blocks of which the store does not have everything, by their segments' names.
    blocks: HashMap<u32, Arc<Segment>>,
    /// How many of these a segment has.
    live: HashMap<String, u32>,
    /// Blocks that the store had before they were written.
    early: HashSet<u32>,
    /// Nothing is kept any more.
    is_closed: bool,
}

/// A block that is on its way to the disk, or waits for it, is counted as long as this lives.
#[derive(Debug)]
pub(crate) struct Turn(KeptLane);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.writing.fetch_sub(1, Ordering::Relaxed);
        self.0.0.home.writing.fetch_sub(1, Ordering::Relaxed);
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

impl KeptPlace {
    pub(crate) fn file(&self) -> &Arc<OwnedFd> {
        &self.segment.file
    }

    /// The disk did not take it.
    pub(crate) fn failed(self, error: &io::Error) {
        tracing::error!(%error, name = self.segment.name, "a block cannot be kept; it would be sent again");
        self.turn.0.done(self.block);
    }

    pub(crate) fn offset(&self) -> u64 {
        offset_of(self.number, self.turn.0.0.home.place_bytes)
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
    /// For blocks of at most `place_bytes`, a multiple of the alignment of O_DIRECT, and files of at most `bytes_max` in all, those that are
    /// there already among them.
    ///
    /// # Errors
    /// [`StagingError::Directory`].
    pub fn open(directory: &Path, place_bytes: usize, bytes_max: u64) -> Result<Self, StagingError> {
        let cannot = |detail: String| StagingError::Directory { directory: directory.to_owned(), detail };
        std::fs::create_dir_all(directory).map_err(|error| cannot(error.to_string()))?;
        let lock = File::create(directory.join("lock")).map_err(|error| cannot(error.to_string()))?;
        let deadline = Instant::now() + LOCK_DEADLINE;
        while let Err(errno) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if errno != Errno::WOULDBLOCK || Instant::now() > deadline {
                return Err(cannot(format!("{errno}; another engine uses it: give each a directory of its own")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(directory).map_err(|error| cannot(error.to_string()))? {
            let name = entry.map_err(|error| cannot(error.to_string()))?.file_name().into_string();
            files.extend(name.ok().filter(|name| name.ends_with(SUFFIX)).map(|name| (name, false)));
        }
        let files_max = usize::try_from(bytes_max / offset_of(PLACES, place_bytes)).unwrap_or(usize::MAX);
        if files_max == 0 {
            return Err(cannot(format!(
                "{bytes_max} bytes are less than one file of {}; raise engine.staging_bytes",
                offset_of(PLACES, place_bytes)
            )));
        }
        let (directory, files, writing) = (directory.to_owned(), Mutex::new(files), AtomicU32::new(0));
        Ok(Self(Arc::new(Home { directory, place_bytes, files_max, writing, full_until: Mutex::default(), files, _lock: lock })))
    }

    /// For the blocks of a lane. `scope`: the same for every lane that may go on with this one's work.
    #[must_use]
    pub fn lane(&self, scope: u128) -> KeptLane {
        let (state, writing, is_full) = (Mutex::default(), AtomicU32::new(0), AtomicBool::new(false));
        KeptLane(Arc::new(Lane { home: Arc::clone(&self.0), scope, state, writing, is_full }))
    }

    /// What earlier lanes of this scope have kept: images of blocks as they were, in no order. Blocks while the disk is read. What was damaged is
    /// left out, and what was not read in time. The images stay valid when their files are forgotten.
    #[must_use]
    pub fn recall(&self, scope: u128, within: Duration) -> Vec<Bytes> {
        let (mut images, deadline) = (Vec::new(), Instant::now() + within);
        for name in self.names(scope) {
            if let Err(error) = self.0.read(&name, scope, deadline, &mut images) {
                tracing::warn!(%error, name, "kept blocks cannot be read and are sent again");
            }
        }
        images
    }

    /// Removes what lanes of this scope have kept that are over.
    pub fn forget(&self, scope: u128) {
        self.names(scope).iter().for_each(|name| self.0.remove(name));
    }

    /// Removes what nobody has gone on with for so long. Returns how many files that were.
    pub fn expire(&self, after: Duration) -> usize {
        let names: Vec<String> = lock(&self.0.files).iter().filter(|(_, is_live)| !**is_live).map(|(name, _)| name.clone()).collect();
        let age = |name: &String| {
            let changed = std::fs::metadata(self.0.directory.join(name)).and_then(|meta| meta.modified()).ok()?;
            SystemTime::now().duration_since(changed).ok()
        };
        let old: Vec<String> = names.into_iter().filter(|name| age(name).is_some_and(|age| age > after)).collect();
        old.iter().for_each(|name| self.0.remove(name));
        old.len()
    }

    /// Of lanes that are over.
    fn names(&self, scope: u128) -> Vec<String> {
        let prefix = format!("{scope:032x}-");
        let files = lock(&self.0.files);
        files.iter().filter(|(name, is_live)| name.starts_with(&prefix) && !**is_live).map(|(name, _)| name.clone()).collect()
    }
}

impl Home {
    fn remove(&self, name: &str) {
        if lock(&self.files).remove(name).is_some()
            && let Err(error) = std::fs::remove_file(self.directory.join(name))
        {
            tracing::warn!(%error, name, "kept blocks cannot be removed");
        }
    }

    /// No lane writes to these any more.
    fn are_over<'a>(&self, names: impl Iterator<Item = &'a String>) {
        let mut files = lock(&self.files);
        for name in names {
            if let Some(is_live) = files.get_mut(name) {
                *is_live = false;
            }
        }
    }

    fn make(&self, scope: u128) -> Result<Segment, StagingError> {
        if lock(&self.full_until).is_some_and(|until| Instant::now() < until) {
            return Err(StagingError::Full);
        }
        let name = format!("{scope:032x}-{:016x}{SUFFIX}", random()?);
        {
            let mut files = lock(&self.files);
            if files.len() >= self.files_max {
                return Err(StagingError::Full);
            }
            files.insert(name.clone(), true);
        }
        self.fill(&name, scope).inspect_err(|_| {
            self.remove(&name);
            *lock(&self.full_until) = Some(Instant::now() + FULL_FOR);
        })
    }

    fn fill(&self, name: &str, scope: u128) -> Result<Segment, StagingError> {
        let cannot = |detail: String| StagingError::Directory { directory: self.directory.clone(), detail };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = rustix::fs::open(self.directory.join(name), flags, Mode::RUSR | Mode::WUSR).map_err(|errno| match errno {
            Errno::NOSPC | Errno::DQUOT => StagingError::Full,
            Errno::INVAL | Errno::OPNOTSUPP => {
                cannot("its file system has no direct I/O; choose a directory on a local disk (ext4, XFS)".to_owned())
            }
            errno => cannot(format!("{errno}; make it, and let tradewindd's user write there")),
        })?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, offset_of(PLACES, self.place_bytes)) {
            // Without it room is found when it is written to.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => return Err(StagingError::Full),
            Err(errno) => return Err(cannot(format!("room cannot be taken: {errno}"))),
        }
        let mut page = Box::new(Page([0; PAGE_BYTES]));
        page.0[..8].copy_from_slice(&MAGIC);
        page.0[8..16].copy_from_slice(&(self.place_bytes as u64).to_le_bytes());
        page.0[16..32].copy_from_slice(&scope.to_le_bytes());
        let crc = crc_of(&page.0[..32]);
        page.0[32..40].copy_from_slice(&crc.to_le_bytes());
        Ok(Segment { name: name.to_owned(), file: Arc::new(file), page: Mutex::new(page) })
    }

    fn read(&self, name: &str, scope: u128, deadline: Instant, images: &mut Vec<Bytes>) -> io::Result<()> {
        let file = File::open(self.directory.join(name))?;
        let mut page = [0; PAGE_BYTES];
        file.read_exact_at(&mut page, 0)?;
        let number = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap_or_default());
        let scope_there = u128::from(number(24)) << 64 | u128::from(number(16));
        if page[..8] != MAGIC || number(32) != crc_of(&page[..32]) {
            // The machine ended before anything was safe.
            return if page.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(io::Error::other("its first page is damaged")) };
        }
        if number(8) != self.place_bytes as u64 || scope_there != scope {
            return Err(io::Error::other("it is for blocks of another size or of another transfer"));
        }
        let mapped = map::file(&file)?;
        let mut image = vec![0; self.place_bytes];
        for place in 0..PLACES {
            if Instant::now() > deadline {
                return Err(io::Error::other("reading them takes too long"));
            }
            let at = ENTRIES_AT + place as usize * ENTRY_BYTES;
            let (crc, bytes) = (number(at), (number(at + 8) & u64::from(u32::MAX)) as usize);
            let start = offset_of(place, self.place_bytes);
            if bytes == 0 || bytes > self.place_bytes || start + bytes as u64 > mapped.len() as u64 {
                continue;
            }
            // By reading: a disk that fails is an error here, and where its memory is mapped the end of the process.
            match file.read_exact_at(&mut image[..bytes], start) {
                Ok(()) if crc_of(&image[..bytes]) == crc => images.push(mapped.slice(start as usize..start as usize + bytes)),
                Ok(()) => tracing::warn!(name, place, "a kept block is damaged and is sent again"),
                Err(error) => tracing::warn!(name, place, %error, "a kept block cannot be read and is sent again"),
            }
        }
        Ok(())
    }
}

fn random() -> Result<u64, StagingError> {
    let mut bytes = [0; 8];
    let disk = |source: Errno| StagingError::Disk { source: source.into() };
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(disk)?;
    Ok(u64::from_le_bytes(bytes))
}

impl KeptLane {
    /// Lets another block be on its way to the disk, if that is not one too many of this lane, or of all of them, which is `all_max`.
    pub(crate) fn begin(&self, all_max: u32) -> Option<Turn> {
        if self.0.home.writing.load(Ordering::Relaxed) >= all_max {
            return None;
        }
        let begun =
            self.0.writing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |writing| (writing < WRITING_MAX).then_some(writing + 1));
        begun.ok()?;
        self.0.home.writing.fetch_add(1, Ordering::Relaxed);
        Some(Turn(self.clone()))
    }

    /// Nothing of this lane is of use any more, not even what is on its way to the disk: [`Keep::forget`] finds all of it.
    pub fn close(&self) {
        let mut state = lock(&self.0.state);
        let State { live, .. } = std::mem::replace(&mut *state, State { is_closed: true, ..State::default() });
        self.0.home.are_over(live.keys());
    }

    /// The store has all of a block: nobody needs it here.
    pub fn done(&self, block: u32) {
        let mut state = lock(&self.0.state);
        match state.blocks.remove(&block) {
            Some(segment) => self.0.release(&mut state, &segment),
            // It may never have come here; there are at most as many as the lane has blocks.
            None if self.0.writing.load(Ordering::Relaxed) > 0 => {
                state.early.insert(block);
            }
            None => {}
        }
    }
}

impl Turn {
    /// A place for the block; `None` if nobody needs it any more.
    pub(crate) fn take(self, block: u32) -> Result<Option<KeptPlace>, StagingError> {
        let lane = Arc::clone(&self.0.0);
        let mut state = lock(&lane.state);
        if state.early.remove(&block) || state.is_closed {
            return Ok(None);
        }
        let full = state.current.take_if(|(_, taken)| *taken >= PLACES);
        if let Some((segment, _)) = full {
            lane.release(&mut state, &segment);
        }
        if state.current.is_none() {
            let made = lane.home.make(lane.scope);
            if let Err(error) = &made
                && !lane.is_full.swap(true, Ordering::Relaxed)
            {
                tracing::warn!("blocks are not kept for now: {error}");
            }
            let segment = Arc::new(made?);
            lane.is_full.store(false, Ordering::Relaxed);
            // One for being the current one.
            state.live.insert(segment.name.clone(), 1);
            state.current = Some((segment, 0));
        }
        let Some((segment, taken)) = &mut state.current else { return Ok(None) };
        let (segment, number) = (Arc::clone(segment), *taken);
        *taken += 1;
        *state.live.entry(segment.name.clone()).or_default() += 1;
        state.blocks.insert(block, Arc::clone(&segment));
        Ok(Some(KeptPlace { turn: self, segment, number, block }))
    }
}

impl Lane {
    /// A segment is needed by one less.
    fn release(&self, state: &mut State, segment: &Segment) {
        let Some(live) = state.live.get_mut(&segment.name) else { return };
        *live -= 1;
        if *live == 0 {
            state.live.remove(&segment.name);
            self.home.remove(&segment.name);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.home.are_over(lock(&self.state).live.keys());
    }
}

/// The thread that makes written blocks safe: all that were written meanwhile with one entry page a file and one call to the disk.
pub(crate) fn sync(inbox: &Receiver<Written>) {
    while let Ok(first) = inbox.recv() {
        let mut files: HashMap<String, Vec<Written>> = HashMap::new();
        for written in std::iter::once(first).chain(inbox.try_iter()) {
            files.entry(written.place.segment.name.clone()).or_default().push(written);
        }
        for (name, written) in files {
            if let Err(error) = note(&written) {
                tracing::debug!(name, blocks = written.len(), "not safe");
                written.into_iter().for_each(|Written { place, .. }| place.failed(&error));
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
        page.0[at + 8..at + 16].copy_from_slice(&(*bytes as u64).to_le_bytes());
    }
    let moved = rustix::io::pwrite(&*segment.file, &page.0, 0)?;
    drop(page);
    if moved != PAGE_BYTES {
        return Err(io::Error::other(format!("{moved} of {PAGE_BYTES} bytes were written")));
    }
    Ok(rustix::fs::fdatasync(&*segment.file)?)
}

#[cfg(test)]
mod tests;
