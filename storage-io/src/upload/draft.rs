//! Bodies of requests before they are made: some of the bytes may still lie on a disk, and are read when it is their turn.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::holes;
use crate::journal::KeptBytes;
use crate::store::Body;

/// What [`KeptMemory`] is counted in, bytes.
const UNIT_BYTES: u64 = 64 << 10;
/// Enough for any machine, and fewer than a semaphore has.
const UNITS_MAX: u32 = 1 << 28;

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

    /// Reads what is not there yet, piece after piece; what is in memory is given back at once if one of them cannot be read.
    ///
    /// # Errors
    /// [`StoreError::KeptBlock`].
    pub(super) async fn read(self) -> Result<Body, StoreError> {
        let mut chunks = Vec::with_capacity(self.sources.len());
        for source in self.sources {
            match source {
                Source::Run(Run::Data(bytes)) => chunks.push(bytes),
                Source::Run(Run::Hole(bytes)) => chunks.extend(holes::chunks(bytes)),
                Source::Kept(kept) => chunks.push(Bytes::from(kept.read().await.map_err(|error| lost(&error))?)),
            }
        }
        Ok(Body::new(chunks, self.crc))
    }
}

fn lost(why: &dyn std::fmt::Display) -> StoreError {
    StoreError::KeptBlock { detail: why.to_string() }
}

/// Memory for what earlier transfers received and uploads read from disks: one budget for all that have a clone of it. Who came first has it first.
#[derive(Clone, Debug)]
pub struct KeptMemory {
    units: Arc<Semaphore>,
    all: u32,
}

impl Default for KeptMemory {
    /// 128 MiB: 16 parts of 8 MiB.
    fn default() -> Self {
        Self::new(128 << 20)
    }
}

impl KeptMemory {
    /// At most so many bytes, or one part if that is larger.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes / UNIT_BYTES).map_or(UNITS_MAX, |units| units.clamp(1, UNITS_MAX));
        Self { units: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Bytes that nobody has now.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT_BYTES
    }

    /// Reads what is not there yet, when there is memory for it, which is taken until the second is dropped. All that a request needs is taken at
    /// once, and who has it needs nothing but disk and store, which answer or fail: nobody waits for one that waits. What a thread reads that its
    /// disk has stopped is not counted here; these are few.
    ///
    /// # Errors
    /// [`StoreError::KeptBlock`], and everything is given back.
    pub(super) async fn load(&self, draft: Draft) -> Result<(Body, Option<OwnedSemaphorePermit>), StoreError> {
        let kept: u64 = draft.sources.iter().filter(|source| source.is_kept()).map(Source::len).sum();
        let permit = match u32::try_from(kept.div_ceil(UNIT_BYTES)).map_or(self.all, |units| units.min(self.all)) {
            0 => None,
            units => Some(Arc::clone(&self.units).acquire_many_owned(units).await.map_err(|closed| lost(&closed))?),
        };
        Ok((draft.read().await?, permit))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::ops::Range;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use tokio::time::{sleep, timeout};
    use tradewind_fabric::BlockPool;

    use super::*;
    use crate::journal::KeptBlock;

    const BYTES: u64 = 8 << 20;

    /// Counts what is asked for.
    #[derive(Debug, Default)]
    struct Disk {
        bytes: AtomicU64,
    }

    #[async_trait]
    impl KeptBlock for Disk {
        async fn read(&self, range: Range<usize>, _: Crc64) -> io::Result<Vec<u8>> {
            self.bytes.fetch_add(range.len() as u64, Ordering::Relaxed);
            // Memory that is not touched is none.
            let mut bytes = vec![0; range.len()];
            bytes[0] = 7;
            Ok(bytes)
        }
    }

    /// Says after so long that it cannot be read.
    #[derive(Debug)]
    struct Broken(Duration);

    #[async_trait]
    impl KeptBlock for Broken {
        async fn read(&self, _: Range<usize>, _: Crc64) -> io::Result<Vec<u8>> {
            sleep(self.0).await;
            Err(io::Error::other("/mnt/disk/kept/file (1 bytes at 4096): the disk has not answered"))
        }
    }

    /// What never ends fails here, at once: the clock stands still until nothing else is left to be done.
    async fn ends<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(3600), future).await.expect("it waits for ever")
    }

    fn draft<B: KeptBlock + 'static>(block: &Arc<B>, bytes: u64) -> Draft {
        draft_with(block, bytes, Bytes::from_static(b"ab"))
    }

    fn draft_with<B: KeptBlock + 'static>(block: &Arc<B>, bytes: u64, came: Bytes) -> Draft {
        let block = Arc::<B>::clone(block);
        let kept = KeptBytes::new(block, 0..usize::try_from(bytes).unwrap(), Crc64(1));
        Draft::new(vec![Source::Run(Run::Data(came)), Source::Run(Run::Hole(3)), Source::Kept(kept)], Crc64(2))
    }

    #[tokio::test]
    async fn a_body_is_what_came_and_what_lay_on_a_disk() {
        let disk = Arc::new(Disk::default());
        let draft = draft(&disk, 4);
        assert_eq!((draft.len(), draft.is_in_memory()), (9, false));
        let (body, _taken) = KeptMemory::default().load(draft).await.unwrap();
        assert_eq!((body.chunks().concat(), body.crc()), (b"ab\0\0\0\x07\0\0\0".to_vec(), Crc64(2)));
    }

    /// However much is to be read, and by however many, no more than that is in memory at once, but for a part that is larger by itself.
    #[tokio::test(start_paused = true)]
    async fn memory_for_what_is_read_is_bounded() {
        let (disk, memory) = (Arc::new(Disk::default()), KeptMemory::new(BYTES));
        let of_another = memory.clone();
        let read = || disk.bytes.load(Ordering::Relaxed);
        let half = BYTES / 2;
        let mut held = vec![memory.load(draft(&disk, half)).await.unwrap(), of_another.load(draft(&disk, half)).await.unwrap()];
        assert_eq!((read(), memory.free_bytes()), (2 * half, 0));
        let wait = Duration::from_secs(3600);
        assert!(timeout(wait, memory.load(draft(&disk, 1))).await.is_err(), "there is no room for a byte more");
        let in_memory = Draft::new(vec![Source::Run(Run::Hole(9))], Crc64(0));
        assert_eq!(timeout(wait, memory.load(in_memory)).await.unwrap().unwrap().0.len(), 9, "what is there needs none");
        assert_eq!(read(), 2 * half);
        held.pop();
        // Too large for what is left, and for all of it.
        let large = 2 * BYTES;
        assert!(timeout(wait, memory.load(draft(&disk, large))).await.is_err());
        held.clear();
        held.push(ends(memory.load(draft(&disk, large))).await.unwrap());
        assert_eq!(read(), 2 * half + large);
        assert!(timeout(wait, memory.load(draft(&disk, 1))).await.is_err());
        drop(held);
        assert_eq!(memory.free_bytes(), BYTES);
        assert_eq!(KeptMemory::new(0).free_bytes(), UNIT_BYTES, "a part at a time, whatever is given");
    }

    /// Many small requests do not keep a large one waiting for ever.
    #[tokio::test(start_paused = true)]
    async fn who_came_first_has_memory_first() {
        let (disk, memory) = (Arc::new(Disk::default()), KeptMemory::new(BYTES));
        let held = memory.load(draft(&disk, UNIT_BYTES)).await.unwrap();
        let load = |bytes: u64| {
            let (memory, draft) = (memory.clone(), draft(&disk, bytes));
            tokio::spawn(async move { memory.load(draft).await })
        };
        let large = load(BYTES);
        sleep(Duration::from_secs(1)).await;
        let small = load(UNIT_BYTES);
        sleep(Duration::from_secs(1)).await;
        assert!(!large.is_finished() && !small.is_finished(), "there is room for the small one, but it is not its turn");
        drop(held);
        let large = ends(large).await.unwrap().unwrap();
        sleep(Duration::from_secs(1)).await;
        assert!(!small.is_finished());
        drop(large);
        ends(small).await.unwrap().unwrap();
        assert_eq!(memory.free_bytes(), BYTES);
    }

    /// A disk that cannot be read, at once or after a long time: neither blocks that came now stay with it, nor memory that others wait for. Nor do
    /// they with a request that nobody wants any more.
    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_gives_everything_back() {
        let (disk, memory, pool) = (Arc::new(Disk::default()), KeptMemory::new(BYTES), BlockPool::new(1, 4096).unwrap());
        for after in [Duration::ZERO, Duration::from_secs(30)] {
            let broken = Arc::new(Broken(after));
            let mixed = || draft_with(&broken, BYTES, Bytes::from_owner(pool.take().unwrap().freeze(10)));
            let load = |draft: Draft| {
                let memory = memory.clone();
                tokio::spawn(async move { memory.load(draft).await })
            };
            let (failing, next) = (load(mixed()), load(draft(&disk, BYTES)));
            if !after.is_zero() {
                sleep(after - Duration::from_secs(1)).await;
                assert!(!failing.is_finished() && !next.is_finished());
                assert_eq!((pool.available(), memory.free_bytes()), (0, 0));
            }
            let error = ends(failing).await.unwrap().map(|_| ()).unwrap_err();
            assert!(matches!(&error, StoreError::KeptBlock { detail } if detail.contains("/mnt/disk/kept/file")), "{error}");
            drop(ends(next).await.unwrap().unwrap());
            assert_eq!((pool.available(), memory.free_bytes()), (1, BYTES));
            let unwanted = timeout(after / 2, memory.load(mixed())).await;
            assert!(after.is_zero() || unwanted.is_err());
            drop(unwanted);
            assert_eq!((pool.available(), memory.free_bytes()), (1, BYTES));
        }
    }
}
