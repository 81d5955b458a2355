//! Room on the disk: files without names, cut into places of one block each.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::StagingError;

/// Bytes of a segment, about: room is taken and given back in these.
const SEGMENT_BYTES: u64 = 256 << 20;

/// The segments of one directory.
#[derive(Debug)]
pub(crate) struct Segments {
    directory: PathBuf,
    place_bytes: u64,
    places_a_segment: u32,
    segments_max: usize,
    /// Places that are free or may be made: known without the lock.
    room: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Arc<OwnedFd>>,
    /// The lowest are used first, so that segments at the end become empty.
    free: BTreeSet<u32>,
}

/// Where a block lies. Dropping it gives the place back.
#[derive(Debug)]
pub struct Staged {
    pub(crate) place: Place,
    /// Number of the disk among those in use.
    pub(crate) disk: usize,
    /// Bytes of the block.
    pub(crate) bytes: usize,
    /// CRC-64/NVME of them.
    pub(crate) crc: u64,
}

/// A place that is taken.
#[derive(Debug)]
pub(crate) struct Place {
    segments: Arc<Segments>,
    number: u32,
    is_bad: bool,
    pub(crate) file: Arc<OwnedFd>,
    pub(crate) offset: u64,
}

impl Place {
    /// The disk failed here: nobody gets this place again.
    pub(crate) fn spoil(&mut self) {
        self.is_bad = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_bad {
            self.segments.state().free.insert(self.number);
            self.segments.room.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Segments {
    /// For blocks of at most `place_bytes`, a multiple of the alignment of O_DIRECT, and `bytes_max` of them in all.
    pub(crate) fn new(directory: &Path, place_bytes: usize, bytes_max: u64) -> Self {
        let place_bytes = place_bytes as u64;
        let places_a_segment = (SEGMENT_BYTES.min(bytes_max) / place_bytes).clamp(1, 4096) as u32;
        let segments_max = bytes_max / (place_bytes * u64::from(places_a_segment));
        let segments_max = usize::try_from(segments_max).unwrap_or(usize::MAX).max(1);
        let room = AtomicU64::new(segments_max as u64 * u64::from(places_a_segment));
        Self { directory: directory.to_owned(), place_bytes, places_a_segment, segments_max, room, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks that there is room for without asking the file system for more than is allowed.
    pub(crate) fn room(&self) -> u64 {
        self.room.load(Ordering::Relaxed)
    }

    /// Whether the next place would need more room on the disk.
    pub(crate) fn is_used_up(&self) -> bool {
        self.state().free.is_empty()
    }

    /// Takes a place, and room for another segment if it must.
    ///
    /// # Errors
    /// [`StagingError::Full`], [`StagingError::Directory`], [`StagingError::Disk`].
    pub(crate) fn take(self: &Arc<Self>) -> Result<Place, StagingError> {
        if self.is_used_up() {
            self.grow()?;
        }
        let mut state = self.state();
        let number = state.free.pop_first().ok_or(StagingError::Full)?;
        self.room.fetch_sub(1, Ordering::Relaxed);
        let file = Arc::clone(&state.files[(number / self.places_a_segment) as usize]);
        let offset = u64::from(number % self.places_a_segment) * self.place_bytes;
        Ok(Place { segments: Arc::clone(self), number, is_bad: false, file, offset })
    }

    /// Takes all the room that is allowed.
    ///
    /// # Errors
    /// [`StagingError::Full`], [`StagingError::Directory`], [`StagingError::Disk`].
    pub(crate) fn reserve(&self) -> Result<(), StagingError> {
        while self.state().files.len() < self.segments_max {
            self.grow()?;
        }
        Ok(())
    }

    /// The file system may take its time, so the lock is not held meanwhile.
    fn grow(&self) -> Result<(), StagingError> {
        if self.state().files.len() >= self.segments_max {
            return Err(StagingError::Full);
        }
        let file = self.make()?;
        let mut state = self.state();
        if state.files.len() >= self.segments_max {
            return Ok(());
        }
        let first = state.files.len() as u32 * self.places_a_segment;
        state.files.push(Arc::new(file));
        state.free.extend(first..first + self.places_a_segment);
        Ok(())
    }

    /// Gives the room of empty segments back to the file system, but for the first.
    pub(crate) fn shrink(&self) {
        loop {
            let mut state = self.state();
            let first = state.files.len().saturating_sub(1) as u32 * self.places_a_segment;
            if state.files.len() < 2 || state.free.range(first..).count() < self.places_a_segment as usize {
                return;
            }
            state.free.split_off(&first);
            let file = state.files.pop();
            drop(state);
            // Giving 256 MiB back takes a while too.
            drop(file);
        }
    }

    fn make(&self) -> Result<OwnedFd, StagingError> {
        let cannot = |detail: String| StagingError::Directory { directory: self.directory.clone(), detail };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.directory, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| match errno {
            Errno::NOSPC | Errno::DQUOT => StagingError::Full,
            Errno::IO | Errno::ROFS => StagingError::Disk { source: errno.into() },
            Errno::INVAL | Errno::OPNOTSUPP | Errno::ISDIR => {
                cannot("its file system has no direct I/O or no unnamed files; choose a directory on a local disk (ext4, XFS)".to_owned())
            }
            errno => cannot(format!("{errno}; make it, and let tradewindd's user write there")),
        })?;
        let bytes = self.place_bytes * u64::from(self.places_a_segment);
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(file),
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Err(StagingError::Full),
            // Room is found when it is written to.
            Err(Errno::OPNOTSUPP) => Ok(file),
            Err(errno @ (Errno::IO | Errno::ROFS)) => Err(StagingError::Disk { source: errno.into() }),
            Err(errno) => Err(cannot(format!("room cannot be taken: {errno}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: usize = 1 << 20;

    fn segments(folder: &tempfile::TempDir, blocks: u64) -> Arc<Segments> {
        Arc::new(Segments::new(folder.path(), PLACE, blocks * PLACE as u64))
    }

    #[test]
    fn places_come_back_and_empty_segments_go() {
        // On the disk that is built on: tmpfs would do as well, and is not what is used.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let all = segments(&folder, 600);
        assert_eq!(all.room(), 512, "whole segments");
        let places: Vec<_> = (0..300).map(|_| all.take().unwrap()).collect();
        assert_eq!((all.room(), all.state().files.len()), (212, 2));
        assert_eq!((places[0].offset, places[255].offset, places[256].offset), (0, 255 << 20, 0));
        assert!(!Arc::ptr_eq(&places[0].file, &places[256].file));
        all.shrink();
        assert_eq!(all.state().files.len(), 2, "both are in use");
        drop(places);
        all.shrink();
        assert_eq!((all.room(), all.state().files.len()), (512, 1));
        assert_eq!(all.take().unwrap().offset, 0);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "they have no names");
    }

    #[test]
    fn no_more_than_is_allowed() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let all = segments(&folder, 3);
        let mut places: Vec<_> = (0..3).map(|_| all.take().unwrap()).collect();
        assert!(matches!(all.take(), Err(StagingError::Full)));
        places.pop();
        assert!(all.take().is_ok());
        let nowhere = Arc::new(Segments::new(&folder.path().join("none"), PLACE, PLACE as u64));
        assert!(matches!(nowhere.take(), Err(StagingError::Directory { .. })));
    }
}
