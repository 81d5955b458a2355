//! What an earlier transfer received goes to the store from the disk where it was kept. A disk that fails in between ends that attempt, and no
//! object has anything that was not read; the next attempt sends what is not there any more.
//!
//! What this cannot see: the files of the engine's staging disks (storage-io/staging, `kept::tests`).

mod common;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use common::{MIB, MTIME_NS, Outcome, Source, all_given_back, config, listen, source};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tradewind_fabric::BlockPool;
use tradewind_storage::{
    Body, Crc64, Depth, Durable, FileMeta, Journal, KeptBlock, KeptMemory, Limits, Listing, LocalStore, ObjectInfo, ObjectKey, ObjectMeta,
    ObjectRange, Part, PartReceipt, Piece, ReadyBlock, Recalled, Store, StoreError, StoredObject, Upload, UploadError, Uploader, resume,
};

/// A block in a file of its own.
#[derive(Debug)]
struct Kept(File);

#[async_trait]
impl KeptBlock for Kept {
    async fn read(&self, range: Range<usize>, crc: Crc64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; range.len()];
        self.0.read_exact_at(&mut bytes, range.start as u64)?;
        if Crc64::of(&bytes) == crc { Ok(bytes) } else { Err(io::Error::other("it is damaged")) }
    }
}

/// A store that is not there for the next so many requests with data.
#[derive(Debug)]
struct Wavering {
    store: LocalStore,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct Faults {
    left: AtomicU32,
    memory: KeptMemory,
    /// When it was not there, bytes.
    least_free: AtomicU64,
}

impl Faults {
    fn next(&self) -> Result<(), StoreError> {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            return Ok(());
        }
        self.least_free.fetch_min(self.memory.free_bytes(), Ordering::Relaxed);
        Err(StoreError::Unavailable { place: "the store".to_owned(), detail: "a test".to_owned() })
    }
}

#[derive(Debug)]
struct WaveringUpload {
    upload: Arc<dyn Upload>,
    faults: Arc<Faults>,
}

impl Wavering {
    fn wrap(&self, upload: Arc<dyn Upload>) -> Arc<dyn Upload> {
        Arc::new(WaveringUpload { upload, faults: Arc::clone(&self.faults) })
    }
}

#[async_trait]
impl Store for Wavering {
    fn place(&self) -> String {
        self.store.place()
    }

    fn limits(&self) -> Limits {
        self.store.limits()
    }

    async fn check(&self, prefix: &str) -> Result<(), StoreError> {
        self.store.check(prefix).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        self.store.head(key).await
    }

    async fn read(&self, key: &ObjectKey, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        self.store.read(key, range, expected).await
    }

    async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        self.store.list(prefix, after, limit, depth).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        self.store.delete(key).await
    }

    async fn put(&self, key: &ObjectKey, meta: ObjectMeta, body: Body) -> Result<StoredObject, StoreError> {
        self.faults.next()?;
        self.store.put(key, meta, body).await
    }

    async fn begin(&self, key: &ObjectKey, meta: ObjectMeta) -> Result<Arc<dyn Upload>, StoreError> {
        Ok(self.wrap(self.store.begin(key, meta).await?))
    }

    async fn reopen(&self, key: &ObjectKey, meta: ObjectMeta, handle: &str) -> Result<Arc<dyn Upload>, StoreError> {
        Ok(self.wrap(self.store.reopen(key, meta, handle).await?))
    }

    async fn find_own(&self, key: &ObjectKey, meta: ObjectMeta, crc: Crc64) -> Result<Option<StoredObject>, StoreError> {
        self.store.find_own(key, meta, crc).await
    }
}

#[async_trait]
impl Upload for WaveringUpload {
    async fn put_part(&self, part: Part) -> Result<PartReceipt, StoreError> {
        self.faults.next()?;
        self.upload.put_part(part).await
    }

    async fn complete(&self, parts: &[PartReceipt], crc: Crc64) -> Result<StoredObject, StoreError> {
        self.upload.complete(parts, crc).await
    }

    async fn abort(&self) -> Result<(), StoreError> {
        self.upload.abort().await
    }

    fn handle(&self) -> String {
        self.upload.handle()
    }

    fn keep(&self) {
        self.upload.keep();
    }

    async fn recall(&self, receipts: Vec<PartReceipt>) -> Result<Vec<PartReceipt>, StoreError> {
        self.upload.recall(receipts).await
    }
}

/// Less than what is kept of some parts.
const MEMORY: u64 = 3 << 20;

struct World {
    root: tempfile::TempDir,
    disk: tempfile::TempDir,
    /// The journal opens its file again for each reader.
    _state: tempfile::TempDir,
    store: Arc<dyn Store>,
    faults: Arc<Faults>,
    journal: Journal,
    sources: [Source; 2],
    /// Which bytes of which file each block has.
    blocks: Vec<(usize, Range<usize>)>,
}

/// Blocks that the earlier transfer received: of the large file all of the second part and some of the first, of the small one the beginning.
const KEPT: [usize; 10] = [1, 2, 3, 5, 6, 7, 8, 9, 11, 12];
/// One of the second part.
const FAULTY: usize = 7;

fn world() -> World {
    let [root, disk, state] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let sources = [source("large", 11 * MIB + 4097), source("small", 700_000)];
    let mut blocks: Vec<_> = (0..12).map(|block| (0, block * MIB..((block + 1) * MIB).min(sources[0].data.len()))).collect();
    blocks.extend([(1, 0..400_000), (1, 400_000..700_000)]);
    for &block in &KEPT {
        let (file, range) = blocks[block].clone();
        std::fs::write(disk.path().join(block.to_string()), &sources[file].data[range]).unwrap();
    }
    let (left, least_free, memory) = (AtomicU32::new(0), AtomicU64::new(MEMORY), KeptMemory::new(MEMORY));
    let faults = Arc::new(Faults { left, memory, least_free });
    let store: Arc<dyn Store> = Arc::new(Wavering { store: LocalStore::open(root.path()).unwrap(), faults: Arc::clone(&faults) });
    let journal = Journal::open(state.path()).unwrap();
    World { root, disk, _state: state, store, faults, journal, sources, blocks }
}

impl World {
    fn block(&self, number: usize) -> (FileMeta, Piece, &[u8]) {
        let (file, range) = self.blocks[number].clone();
        let Source { path, data } = &self.sources[file];
        let (bytes, file_offset, len) = (&data[range.clone()], range.start as u64, range.len() as u32);
        let (file, path, size) = (file as u32, path.clone().into_bytes(), data.len() as u64);
        let meta = FileMeta { file, path, size, mtime_ns: MTIME_NS, mode: 0o100_640, attributes: Arc::default(), withdrawn: false };
        (meta, Piece { file, file_offset, len, data_offset: 0, crc64: Crc64::of(bytes).0, is_hole: false }, bytes)
    }

    /// Goes on with what is kept, as an engine and its client do. `meanwhile`: between that the client is told what it need not send, and the
    /// first of what it sends. Returns how it went, and the blocks that were sent.
    async fn attempt(&self, kept: &[usize], meanwhile: impl FnOnce()) -> (Outcome, Vec<usize>) {
        let config = config("");
        let mut recalled = Recalled::default();
        for &number in kept {
            let (meta, piece, bytes) = self.block(number);
            let kept: Arc<dyn KeptBlock> = Arc::new(Kept(File::open(self.disk.path().join(number.to_string())).unwrap()));
            recalled.add(&config, bytes, &kept, &[meta], &[piece]);
        }
        let mut told: Vec<(Vec<u8>, Range<u64>)> = Vec::new();
        let mut each = |durable: &Durable| {
            told.push(match durable {
                Durable::File { path, size, .. } => (path.clone(), 0..*size),
                Durable::Part { path, offset, length, .. } => (path.clone(), *offset..offset + length),
            });
            Ok(())
        };
        let scope = self.journal.scope(Arc::clone(&self.store));
        let mut resumption = resume(&scope, &config, true, recalled, &mut each).await.unwrap();
        resumption.read_into(&self.faults.memory);
        drop(scope);
        meanwhile();
        let is_told = |number: &usize| {
            let (meta, piece, _) = self.block(*number);
            let end = piece.file_offset + u64::from(piece.len);
            told.iter().any(|(path, range)| *path == meta.path && range.start <= piece.file_offset && end <= range.end)
        };
        let sent: Vec<usize> = (0..self.blocks.len()).filter(|number| !is_told(number)).collect();
        let pool = BlockPool::new(self.blocks.len(), MIB).unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let uploader = Uploader::start(&Handle::current(), Arc::clone(&self.store), config, Some(resumption), sender);
        for &number in &sent {
            let (meta, piece, bytes) = self.block(number);
            let mut slot = pool.take().unwrap();
            slot[..bytes.len()].copy_from_slice(bytes);
            uploader.block(ReadyBlock { id: number as u32, data: slot.freeze(bytes.len()), files: vec![meta], pieces: vec![piece] });
        }
        uploader.finish(sent.len() as u64);
        let stats = Arc::clone(uploader.stats());
        let outcome = listen(uploader, events).await;
        all_given_back(&pool, &stats).await;
        for _ in 0..500 {
            if self.faults.memory.free_bytes() == MEMORY {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.faults.memory.free_bytes(), MEMORY, "however it ended");
        (outcome, sent)
    }

    fn assert_stored(&self) {
        for Source { path, data } in &self.sources {
            assert!(std::fs::read(self.root.path().join(path)).unwrap() == *data, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_is_read_when_its_part_goes_to_the_store() {
    let world = world();
    let (outcome, sent) = world.attempt(&KEPT, || ()).await;
    assert!(outcome.failed.is_none(), "{:?}", outcome.failed);
    assert_eq!(sent, [0, 4, 10, 13]);
    let mut durable = outcome.durable;
    durable.sort_unstable();
    assert_eq!(durable, [0, 4, 10, 13], "of what came now, and of nothing else");
    world.assert_stored();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_any_more_ends_the_attempt_and_the_next_one_sends_it() {
    let truncate = |file: &File| file.set_len(1000).unwrap();
    let flip = |file: &File| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 5000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
    };
    for fault in [truncate as fn(&File), flip] {
        let world = world();
        let path = world.disk.path().join(FAULTY.to_string());
        let (outcome, sent) = world.attempt(&KEPT, || fault(&File::options().read(true).write(true).open(path).unwrap())).await;
        assert_eq!(sent, [0, 4, 10, 13], "it was there when the client was told");
        assert!(matches!(outcome.failed, Some(UploadError::Store(StoreError::KeptBlock { .. }))), "{:?}", outcome.failed);
        assert!(outcome.finished.is_none() && outcome.done.iter().all(|(path, ..)| path != "large"), "{outcome:?}");
        assert!(!world.root.path().join("large").exists());
        // A disk whose block was recalled and then not read counts no more; here that is one block.
        let kept: Vec<usize> = KEPT.into_iter().filter(|&block| block != FAULTY).collect();
        let (outcome, sent) = world.attempt(&kept, || ()).await;
        assert!(outcome.failed.is_none() && outcome.finished.is_some(), "{:?}", outcome.failed);
        assert!(sent.contains(&FAULTY) && !sent.contains(&6), "{sent:?}");
        world.assert_stored();
    }
}

/// What was read stays in memory while the store is asked again, and not after it was given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_first_takes_what_was_kept() {
    let world = world();
    world.faults.left.store(u32::MAX, Ordering::Relaxed);
    let (outcome, _) = world.attempt(&KEPT, || ()).await;
    assert!(matches!(outcome.failed, Some(UploadError::Store(StoreError::Unavailable { .. }))), "{:?}", outcome.failed);
    assert!(world.faults.least_free.swap(MEMORY, Ordering::Relaxed) < MEMORY);
    world.faults.left.store(5, Ordering::Relaxed);
    let (outcome, sent) = world.attempt(&KEPT, || ()).await;
    assert!(outcome.failed.is_none() && outcome.finished.is_some(), "{:?}", outcome.failed);
    assert_eq!((sent, outcome.stats.retries), (vec![0, 4, 10, 13], 5));
    assert!(world.faults.left.load(Ordering::Relaxed) == 0 && world.faults.least_free.load(Ordering::Relaxed) < MEMORY);
    world.assert_stored();
}
