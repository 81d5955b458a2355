//! Bodies of requests before they are made: some of the bytes may still lie on a disk, and are read when it is their turn.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::holes;
use crate::journal::KeptBytes;
use crate::store::Body;

/// Memory of one uploader for what it reads from disks, bytes: as many parts of Amazon S3's size as are on their way in the beginning. A part with
/// more of it is read when no other is.
const KEPT_BYTES_MAX: u64 = 128 << 20;
/// What that is counted in, bytes.
const UNIT_BYTES: u64 = 64 << 10;
const UNITS: u32 = (KEPT_BYTES_MAX / UNIT_BYTES) as u32;
/// How long a disk may take for each [`KEPT_BYTES_MAX`] that are begun: as long as for a block that waited there.
const DISK_DEADLINE: Duration = Duration::from_secs(30);

/// Consecutive bytes of a file that came, or did not have to.
#[derive(Debug)]
pub(super) enum Run {
    /// In the block that they came in.
    Data(Bytes),
    /// So many zeros that never came.
    Hole(u64),
}

impl Run {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Hole(bytes) => *bytes,
        }
    }

    /// Takes at most so many bytes off the front.
    pub(super) fn split_to(&mut self, most: u64) -> Self {
        match self {
            Self::Data(bytes) => Self::Data(bytes.split_to(usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len()))),
            Self::Hole(bytes) => {
                let taken = most.min(*bytes);
                *bytes -= taken;
                Self::Hole(taken)
            }
        }
    }

    /// Computes its checksum.
    pub(super) fn crc(&self) -> Crc64 {
        match self {
            Self::Data(bytes) => Crc64::of(bytes),
            Self::Hole(bytes) => holes::crc(*bytes),
        }
    }
}

/// Where bytes of a part are.
#[derive(Debug)]
pub(super) enum Source {
    Run(Run),
    /// On a disk, where an earlier transfer left them.
    Kept(KeptBytes),
}

impl Source {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Run(run) => run.len(),
            Self::Kept(kept) => kept.len(),
        }
    }

    const fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }
}

/// A [`Body`] that lacks what lies on a disk.
#[derive(Debug, Default)]
pub(super) struct Draft {
    sources: Vec<Source>,
    crc: Crc64,
}

/// A [`crate::Part`], likewise.
#[derive(Debug)]
pub(super) struct DraftPart {
    pub(super) number: u32,
    pub(super) offset: u64,
    pub(super) body: Draft,
}

impl Draft {
    /// Consecutive bytes, with the checksum of all of them.
    pub(super) const fn new(sources: Vec<Source>, crc: Crc64) -> Self {
        Self { sources, crc }
    }

    /// Bytes.
    pub(super) fn len(&self) -> u64 {
        self.sources.iter().map(Source::len).sum()
    }

    /// Nothing has to be read.
    pub(super) fn is_in_memory(&self) -> bool {
        !self.sources.iter().any(Source::is_kept)
    }

    /// Reads what is not there yet. Blocks, unless [`Self::is_in_memory`].
    ///
    /// # Errors
    /// [`StoreError::KeptBlock`].
    pub(super) fn read(self) -> Result<Body, StoreError> {
        let mut chunks = Vec::with_capacity(self.sources.len());
        for source in self.sources {
            match source {
                Source::Run(Run::Data(bytes)) => chunks.push(bytes),
                Source::Run(Run::Hole(bytes)) => chunks.extend(holes::chunks(bytes)),
                Source::Kept(kept) => chunks.push(Bytes::from(kept.read().map_err(|error| lost(&error))?)),
            }
        }
        Ok(Body::new(chunks, self.crc))
    }
}

fn lost(why: &dyn std::fmt::Display) -> StoreError {
    StoreError::KeptBlock { detail: why.to_string() }
}

/// Memory for what is read from disks.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(UNITS as usize)))
    }

    /// Reads what is not there yet, when there is memory for it, which is taken until the second is dropped. All that a request needs is taken at
    /// once, and who has it needs nothing but the store: nobody waits for one that waits.
    ///
    /// # Errors
    /// [`StoreError::KeptBlock`], also when the disk does not answer in time.
    pub(super) async fn load(&self, draft: Draft) -> Result<(Body, Option<OwnedSemaphorePermit>), StoreError> {
        if draft.is_in_memory() {
            return Ok((draft.read()?, None));
        }
        let kept: u64 = draft.sources.iter().filter(|source| source.is_kept()).map(Source::len).sum();
        let units = u32::try_from(kept.div_ceil(UNIT_BYTES)).unwrap_or(UNITS).min(UNITS);
        let permit = Arc::clone(&self.0).acquire_many_owned(units).await.map_err(|closed| lost(&closed))?;
        // The thread may be left behind by its disk: what it reads into is taken until it ends.
        let reading = tokio::task::spawn_blocking(move || draft.read().map(|body| (body, Some(permit))));
        let within = DISK_DEADLINE * u32::try_from(kept.div_ceil(KEPT_BYTES_MAX)).unwrap_or(u32::MAX);
        match timeout(within, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(panicked)) => Err(lost(&panicked)),
            Err(_) => Err(lost(&format_args!("its disk has not answered for {} s; look at it (dmesg, smartctl)", within.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::ops::Range;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::journal::KeptBlock;

    /// Counts what is asked for.
    #[derive(Debug, Default)]
    struct Disk {
        bytes: AtomicU64,
    }

    impl KeptBlock for Disk {
        fn read(&self, range: Range<usize>, _: Crc64) -> io::Result<Vec<u8>> {
            self.bytes.fetch_add(range.len() as u64, Ordering::Relaxed);
            // Memory that is not touched is none.
            let mut bytes = vec![0; range.len()];
            bytes[0] = 7;
            Ok(bytes)
        }
    }

    fn draft(disk: &Arc<Disk>, bytes: u64) -> Draft {
        let block: Arc<dyn KeptBlock> = Arc::<Disk>::clone(disk);
        let kept = KeptBytes::new(block, 0..usize::try_from(bytes).unwrap(), Crc64(1));
        Draft::new(vec![Source::Run(Run::Data(Bytes::from_static(b"ab"))), Source::Run(Run::Hole(3)), Source::Kept(kept)], Crc64(2))
    }

    #[tokio::test]
    async fn a_body_is_what_came_and_what_lay_on_a_disk() {
        let disk = Arc::new(Disk::default());
        let draft = draft(&disk, 4);
        assert_eq!((draft.len(), draft.is_in_memory()), (9, false));
        let (body, _taken) = Room::new().load(draft).await.unwrap();
        assert_eq!((body.chunks().concat(), body.crc()), (b"ab\0\0\0\x07\0\0\0".to_vec(), Crc64(2)));
    }

    /// However much is to be read, no more than that is in memory at once, but for a part that is larger by itself.
    #[tokio::test(start_paused = true)]
    async fn memory_for_what_is_read_is_bounded() {
        let (disk, room) = (Arc::new(Disk::default()), Room::new());
        let read = || disk.bytes.load(Ordering::Relaxed);
        let half = KEPT_BYTES_MAX / 2;
        let mut held = vec![room.load(draft(&disk, half)).await.unwrap(), room.load(draft(&disk, half)).await.unwrap()];
        assert_eq!(read(), 2 * half);
        let wait = Duration::from_secs(3600);
        assert!(timeout(wait, room.load(draft(&disk, 1))).await.is_err(), "there is no room for a byte more");
        let in_memory = Draft::new(vec![Source::Run(Run::Hole(9))], Crc64(0));
        assert_eq!(timeout(wait, room.load(in_memory)).await.unwrap().unwrap().0.len(), 9, "what is there needs none");
        assert_eq!(read(), 2 * half);
        held.pop();
        // Too large for what is left, and for all of it.
        let large = 2 * KEPT_BYTES_MAX;
        assert!(timeout(wait, room.load(draft(&disk, large))).await.is_err());
        held.clear();
        held.push(room.load(draft(&disk, large)).await.unwrap());
        assert_eq!(read(), 2 * half + large);
        assert!(timeout(wait, room.load(draft(&disk, 1))).await.is_err());
        drop(held);
        assert_eq!(room.0.available_permits(), UNITS as usize);
    }
}
