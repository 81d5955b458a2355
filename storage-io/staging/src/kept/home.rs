//! The kept blocks of one disk: a directory, a lock, files with names.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::image::{KeptImage, Opened};
use super::keeper::Keeper;
use super::{ENTRIES_AT, ENTRY_BYTES, FOR_ALL, MAGIC, PAGE_BYTES, PLACES, SUFFIX, lock, offset_of};
use crate::crc_of;
use crate::disk::{FULL_FOR, Health};
use crate::error::StagingError;

/// How long another engine, which is ending, may still have the directory.
const LOCK_DEADLINE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

#[derive(Debug)]
pub(super) struct Home {
    pub(super) place_bytes: usize,
    files_max: usize,
    /// The disk had no room, and is left alone until then.
    full_until: Mutex<Option<Instant>>,
    files: Keeper,
    pub(super) health: Arc<Health>,
    /// Who holds it stops the disk; the time is added to what it is asked for.
    #[cfg(test)]
    pub(super) pace: Mutex<Duration>,
    /// How often it was asked.
    #[cfg(test)]
    pub(super) asked: std::sync::atomic::AtomicU32,
    /// Blocks read by recalls.
    #[cfg(test)]
    pub(super) read: std::sync::atomic::AtomicU32,
}

/// The one page of a file, where direct I/O can read it.
#[repr(align(4096))]
#[derive(Debug)]
pub(super) struct Page(pub(super) [u8; PAGE_BYTES]);

/// A file of a lane.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) home: Arc<Home>,
    pub(super) name: String,
    pub(super) file: Arc<OwnedFd>,
    pub(super) page: Mutex<Box<Page>>,
}

impl Home {
    /// Makes the directory in one that is there, and reads its names. `bytes_max`: of all files, those that are there already among them.
    pub(super) fn open(directory: &Path, place_bytes: usize, bytes_max: u64, health: Arc<Health>) -> Result<Self, StagingError> {
        let cannot = |detail: String| StagingError::Directory { directory: directory.to_owned(), detail };
        match std::fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(error.to_string())),
            _ => {}
        }
        let lock = File::create(directory.join("lock")).map_err(|error| cannot(error.to_string()))?;
        let deadline = Instant::now() + LOCK_DEADLINE;
        while let Err(errno) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if errno != Errno::WOULDBLOCK || Instant::now() > deadline {
                return Err(cannot(format!("{errno}; another engine uses it: give each a directory of its own")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(|error| cannot(error.to_string()))? {
            let name = entry.map_err(|error| cannot(error.to_string()))?.file_name().into_string();
            names.extend(name.ok().filter(|name| name.ends_with(SUFFIX)));
        }
        let files_max = usize::try_from(bytes_max / offset_of(PLACES, place_bytes)).unwrap_or(usize::MAX);
        if files_max == 0 {
            return Err(cannot(format!(
                "{bytes_max} bytes are less than one file of {}; raise engine.staging_bytes",
                offset_of(PLACES, place_bytes)
            )));
        }
        let files = Keeper::start(directory.to_owned(), names.into_iter(), lock)
            .map_err(|error| cannot(format!("no thread can be started: {error}")))?;
        Ok(Self {
            place_bytes,
            files_max,
            full_until: Mutex::default(),
            files,
            health,
            #[cfg(test)]
            pace: Mutex::default(),
            #[cfg(test)]
            asked: std::sync::atomic::AtomicU32::new(0),
            #[cfg(test)]
            read: std::sync::atomic::AtomicU32::new(0),
        })
    }

    pub(super) fn directory(&self) -> &Path {
        self.files.directory()
    }

    /// Files that may still be made; none while the disk is full.
    pub(super) fn room(&self) -> usize {
        if self.is_full() { 0 } else { self.files_max.saturating_sub(self.files.count()) }
    }

    fn is_full(&self) -> bool {
        lock(&self.full_until).is_some_and(|until| Instant::now() < until)
    }

    /// What is there of this scope, of lanes that are over. First the blocks that give files up: without one, nothing else here may count.
    pub(super) fn recall(self: &Arc<Self>, scope: u128, deadline: Instant, tell: &impl Fn(KeptImage, Vec<u8>)) {
        let names = self.names(scope);
        let is_failed = self.health.is_failed();
        if is_failed || self.health.is_slow() {
            if !names.is_empty() {
                let what = if is_failed { "has failed" } else { "did not answer a while ago" };
                tracing::warn!(directory = %self.directory().display(), "the disk {what}: what was kept there is sent again");
            }
            return;
        }
        let damaged = |error: &io::Error, name: &str, what: &str| {
            tracing::warn!(%error, name, directory = %self.directory().display(), "{what} cannot be read and are sent again");
        };
        for name in &names {
            if let Err(error) = self.read(name, scope, deadline, true, tell) {
                return damaged(&error, name, "all kept blocks of this transfer on this disk");
            }
        }
        for name in &names {
            if let Err(error) = self.read(name, scope, deadline, false, tell) {
                damaged(&error, name, "kept blocks");
            }
            if self.health.is_failed() {
                return;
            }
        }
    }

    pub(super) fn forget(&self, scope: u128) {
        self.names(scope).iter().for_each(|name| self.remove(name));
    }

    /// Has its thread close a file: that may take as long as removing it.
    pub(super) fn close(&self, file: File) {
        self.files.close(file);
    }

    /// Has its thread remove what is old, if anything, and tell of it.
    pub(super) fn look(&self, after: Option<Duration>, number: usize, tell: mpsc::Sender<(usize, usize)>) {
        self.files.look(after, number, tell);
    }

    /// Of lanes that are over.
    fn names(&self, scope: u128) -> Vec<String> {
        self.files.over(&format!("{scope:032x}-"))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.files.has(name)
    }

    pub(super) fn remove(&self, name: &str) {
        self.files.remove(name, None);
    }

    pub(super) fn remove_segment(&self, segment: Arc<Segment>) {
        match Arc::try_unwrap(segment) {
            Ok(Segment { name, file, .. }) => self.files.remove(&name, Some(file)),
            Err(segment) => self.files.remove(&segment.name, Some(Arc::clone(&segment.file))),
        }
    }

    /// No lane writes to these any more.
    pub(super) fn are_over<'a>(&self, names: impl Iterator<Item = &'a String>) {
        self.files.are_over(names);
    }

    #[cfg(test)]
    pub(super) fn pause(&self) {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let pace = *lock(&self.pace);
        std::thread::sleep(pace);
    }

    pub(super) fn make(self: &Arc<Self>, scope: u128) -> Result<Segment, StagingError> {
        if self.is_full() {
            return Err(StagingError::Full);
        }
        let name = format!("{scope:032x}-{:016x}{SUFFIX}", random()?);
        if !self.files.add(&name, self.files_max) {
            return Err(StagingError::Full);
        }
        #[cfg(test)]
        self.pause();
        self.fill(&name, scope).inspect_err(|_| {
            self.remove(&name);
            *lock(&self.full_until) = Some(Instant::now() + FULL_FOR);
        })
    }

    fn fill(self: &Arc<Self>, name: &str, scope: u128) -> Result<Segment, StagingError> {
        let cannot = |detail: String| StagingError::Directory { directory: self.directory().to_owned(), detail };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = rustix::fs::open(self.directory().join(name), flags, Mode::RUSR | Mode::WUSR).map_err(|errno| match errno {
            Errno::NOSPC | Errno::DQUOT => StagingError::Full,
            Errno::IO | Errno::ROFS => StagingError::Disk { source: errno.into() },
            Errno::INVAL | Errno::OPNOTSUPP => {
                cannot("its file system has no direct I/O; choose a directory on a local disk (ext4, XFS)".to_owned())
            }
            errno => cannot(format!("{errno}; make it, and let tradewindd's user write there")),
        })?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, offset_of(PLACES, self.place_bytes)) {
            // Without it room is found when it is written to.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => return Err(StagingError::Full),
            Err(errno @ (Errno::IO | Errno::ROFS)) => return Err(StagingError::Disk { source: errno.into() }),
            Err(errno) => return Err(cannot(format!("room cannot be taken: {errno}"))),
        }
        let mut page = Box::new(Page([0; PAGE_BYTES]));
        page.0[..8].copy_from_slice(&MAGIC);
        page.0[8..16].copy_from_slice(&(self.place_bytes as u64).to_le_bytes());
        page.0[16..32].copy_from_slice(&scope.to_le_bytes());
        let crc = crc_of(&page.0[..32]);
        page.0[32..40].copy_from_slice(&crc.to_le_bytes());
        Ok(Segment { home: Arc::clone(self), name: name.to_owned(), file: Arc::new(file), page: Mutex::new(page) })
    }

    /// Blocks of a file: those for all disks (`is_for_all`), where a damaged one is an error, or the others.
    /// What the disk refuses to read takes it out of use; what was read and is damaged does not: the engine may have ended while it was written.
    fn read(
        self: &Arc<Self>,
        name: &str,
        scope: u128,
        deadline: Instant,
        is_for_all: bool,
        tell: &impl Fn(KeptImage, Vec<u8>),
    ) -> io::Result<()> {
        let path = self.directory().join(name);
        let broken = |error: io::Error| {
            self.health.fail(&format_args!("{}: {error}", path.display()));
            error
        };
        let file = match File::open(&path) {
            // It was too old.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Others say nothing of the disk: no descriptors, no permission.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Err(broken(error)),
            opened => opened?,
        };
        let file_bytes = file.metadata().map_err(broken)?.len();
        if file_bytes < PAGE_BYTES as u64 {
            // The engine ended before it had any room: nothing was safe.
            return Ok(());
        }
        let mut page = [0; PAGE_BYTES];
        file.read_exact_at(&mut page, 0).map_err(broken)?;
        let number = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap_or_default());
        let scope_there = u128::from(number(24)) << 64 | u128::from(number(16));
        if page[..8] != MAGIC || number(32) != crc_of(&page[..32]) {
            // The machine ended before anything was safe.
            return if page.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(io::Error::other("its first page is damaged")) };
        }
        if number(8) != self.place_bytes as u64 || scope_there != scope {
            return Err(io::Error::other("it is for blocks of another size or of another transfer"));
        }
        let opened = Arc::new(Opened::new(Arc::clone(self), name.to_owned(), file));
        for place in 0..PLACES {
            if Instant::now() > deadline {
                return Err(io::Error::other("reading them takes too long"));
            }
            if self.health.is_failed() {
                return Err(io::Error::other("the disk has failed"));
            }
            let at = ENTRIES_AT + place as usize * ENTRY_BYTES;
            let (crc, length) = (number(at), number(at + 8));
            let bytes = (length & u64::from(u32::MAX)) as usize;
            if length == 0 || (length & FOR_ALL != 0) != is_for_all {
                continue;
            }
            let start = offset_of(place, self.place_bytes);
            let is_inside = (1..=self.place_bytes).contains(&bytes) && start + bytes as u64 <= file_bytes;
            let problem = match is_inside.then(|| opened.read(start..start + bytes as u64)) {
                Some(Ok(image)) if crc_of(&image) == crc => {
                    #[cfg(test)]
                    self.read.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    tell(KeptImage::new(Arc::clone(&opened), start, bytes), image);
                    continue;
                }
                Some(Err(error)) => broken(error),
                _ => io::Error::other("it is damaged"),
            };
            if is_for_all {
                return Err(problem);
            }
            tracing::warn!(path = %path.display(), place, error = %problem, "a kept block cannot be read and is sent again");
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
