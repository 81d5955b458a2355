//! What the integration tests share: files cut into blocks, an upload run to its end, the conformance suite of stores.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod checks;
pub(crate) mod front;
pub(crate) mod listing;
pub(crate) mod proxy;
pub(crate) mod weed;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tradewind_fabric::BlockPool;
use tradewind_storage::{
    Body, Crc64, Deadlines, FileMeta, ObjectKey, ObjectMeta, ObjectName, ObjectRange, Part, Piece, ReadyBlock, RetryPolicy, StatsSnapshot,
    Store, StoreError, UploadError, UploadEvent, UploadStats, Uploader, UploaderConfig,
};

pub(crate) const MIB: usize = 1 << 20;

/// Longest time anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that neither repeat nor compress (a 64-bit xorshift).
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A file to be uploaded.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn source(path: &str, len: usize) -> Source {
    Source { path: path.to_owned(), data: noise(len as u64 + path.len() as u64, len) }
}

pub(crate) const MTIME_NS: i64 = 1_600_000_000_123_456_789;

/// Cuts files into 1 MiB blocks as a sender does: large ones on block boundaries, small ones together.
pub(crate) fn cut(pool: &BlockPool, sources: &[Source]) -> Vec<ReadyBlock> {
    let mut blocks: Vec<Vec<(usize, usize, usize)>> = vec![Vec::new()];
    let mut used = 0;
    for (file, source) in sources.iter().enumerate() {
        let len = source.data.len();
        if len > MIB {
            blocks.extend((0..len).step_by(MIB).map(|at| vec![(file, at, MIB.min(len - at))]));
            blocks.push(Vec::new());
            used = 0;
        } else {
            if used + len > MIB {
                blocks.push(Vec::new());
                used = 0;
            }
            blocks.last_mut().unwrap().push((file, 0, len));
            used += len;
        }
    }
    blocks.retain(|block| !block.is_empty());
    (0u32..).zip(blocks).map(|(id, runs)| fill(pool, id, &runs, sources)).collect()
}

fn fill(pool: &BlockPool, id: u32, runs: &[(usize, usize, usize)], sources: &[Source]) -> ReadyBlock {
    let mut slot = pool.take().expect("the pool is large enough");
    let (mut files, mut pieces, mut at) = (Vec::new(), Vec::new(), 0);
    for &(file, offset, len) in runs {
        let Source { path, data } = &sources[file];
        let bytes = &data[offset..offset + len];
        slot[at..at + len].copy_from_slice(bytes);
        let number = file as u32;
        files.push(FileMeta {
            file: number,
            path: path.clone().into_bytes(),
            size: data.len() as u64,
            mtime_ns: MTIME_NS,
            mode: 0o100_640,
            attributes: Arc::default(),
            withdrawn: false,
        });
        pieces.push(Piece {
            file: number,
            file_offset: offset as u64,
            len: len as u32,
            data_offset: at as u32,
            crc64: Crc64::of(bytes).0,
            is_hole: false,
        });
        at += len;
    }
    ReadyBlock { id, data: slot.freeze(at), files, pieces }
}

/// Retries as in production, without the waiting.
pub(crate) fn quick_retry() -> RetryPolicy {
    RetryPolicy {
        tries_max: 8,
        pause_base_ms: 2,
        pause_max_ms: 10,
        deadlines: Deadlines { request_ms: 10_000, bytes_per_s_min: 1_000_000 },
    }
}

pub(crate) fn config(prefix: &str) -> UploaderConfig {
    UploaderConfig {
        name: ObjectName::Into(prefix.to_owned()),
        part_bytes: Some(5 << 20),
        retry: quick_retry(),
        ..UploaderConfig::default()
    }
}

/// All that an upload said, and what is to be known afterwards.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) durable: Vec<u32>,
    pub(crate) done: Vec<(String, u64, Option<String>, Crc64, bool)>,
    pub(crate) finished: Option<(u64, u64)>,
    pub(crate) failed: Option<UploadError>,
    pub(crate) stopped: Option<(u64, u64)>,
    pub(crate) stats: StatsSnapshot,
}

/// Listens until the upload has ended. The channel closing without an end, or an event after it, fails the test.
pub(crate) async fn listen(uploader: Uploader, mut events: mpsc::UnboundedReceiver<UploadEvent>) -> Outcome {
    let mut outcome = Outcome::default();
    while let Some(event) = timeout(PATIENCE, events.recv()).await.expect("an upload that says nothing any more") {
        assert!(outcome.finished.is_none() && outcome.stopped.is_none(), "{event:?} after the end");
        match event {
            UploadEvent::BlockDurable(id) => outcome.durable.push(id),
            UploadEvent::FileDone { path, size, etag, crc64, verified_by_store, .. } => {
                outcome.done.push((String::from_utf8(path).unwrap(), size, etag, crc64, verified_by_store));
            }
            UploadEvent::Finished { files, bytes } => outcome.finished = Some((files, bytes)),
            UploadEvent::FileLeftOut { reason, .. } => panic!("left out, which nobody asked for: {reason}"),
            UploadEvent::Failed(error) => outcome.failed = Some(error),
            UploadEvent::Stopped { aborted, left } => outcome.stopped = Some((aborted, left)),
        }
    }
    assert!(outcome.finished.is_some() || outcome.stopped.is_some(), "ended without saying how");
    outcome.stats = uploader.stats().snapshot();
    outcome
}

/// Uploads the files, blocks in a shuffled order, and checks that the pool has all its blocks back.
pub(crate) async fn upload(store: Arc<dyn Store>, config: UploaderConfig, sources: &[Source]) -> Outcome {
    let bytes: usize = sources.iter().map(|source| source.data.len()).sum();
    let pool = BlockPool::new(bytes / MIB + 2 * sources.len() + 1, MIB).unwrap();
    let mut blocks = cut(&pool, sources);
    let total = blocks.len() as u64;
    blocks.reverse();
    let half = blocks.len() / 3;
    blocks.rotate_left(half);
    let (sender, events) = mpsc::unbounded_channel();
    let uploader = Uploader::start(&Handle::current(), store, config, None, sender);
    for block in blocks {
        uploader.block(block);
    }
    uploader.finish(total);
    let stats = Arc::clone(uploader.stats());
    let outcome = listen(uploader, events).await;
    all_given_back(&pool, &stats).await;
    if outcome.finished.is_some() {
        let mut durable = outcome.durable.clone();
        durable.sort_unstable();
        assert!(durable.into_iter().map(u64::from).eq(0..total), "each block durable once");
    }
    outcome
}

/// Asserts that no blocks are held and no requests on their way any more. Tasks that were told to stop drop what they hold a moment after the
/// upload has said its last word.
pub(crate) async fn all_given_back(pool: &BlockPool, stats: &UploadStats) {
    let left = || (pool.capacity() - pool.available(), stats.snapshot().requests_in_flight);
    for _ in 0..500 {
        if left() == (0, 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(left(), (0, 0), "blocks not given back, requests in flight");
}

/// Asserts that the upload went well and said the right things about every file.
pub(crate) fn assert_done(outcome: &Outcome, sources: &[Source]) {
    assert!(outcome.failed.is_none(), "{:?}", outcome.failed);
    let bytes = sources.iter().map(|source| source.data.len() as u64).sum();
    assert_eq!(outcome.finished, Some((sources.len() as u64, bytes)));
    assert_eq!(outcome.stats.bytes_uploaded, bytes);
    assert_eq!(outcome.stats.files_done, sources.len() as u64);
    assert_eq!(outcome.stats.requests_in_flight, 0);
    for source in sources {
        let (_, size, _, crc, _) = outcome.done.iter().find(|(path, ..)| *path == source.path).expect("a FileDone for each file");
        assert_eq!((*size, *crc), (source.data.len() as u64, Crc64::of(&source.data)), "{}", source.path);
    }
}

/// Files of every kind: empty, small, exactly a block, exactly a part, parts with a short tail, names that need quoting.
pub(crate) fn all_kinds() -> Vec<Source> {
    vec![
        source("empty", 0),
        source("one byte", 1),
        source("deep/er/block", MIB),
        source("ä+b&c=d?#%41.bin", 70_000),
        source("part", 5 * MIB),
        source("three parts", 11 * MIB + 4097),
        source("also empty", 0),
    ]
}

fn meta(size: usize, overwrite: bool, token: u128) -> ObjectMeta {
    let attributes = [("uid".to_owned(), "1000".to_owned())].into();
    ObjectMeta { size: size as u64, mtime_ns: MTIME_NS, mode: 0o644, overwrite, token, attributes }
}

pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name.as_bytes()).unwrap()
}

/// In two chunks.
pub(crate) fn body(data: &[u8]) -> Body {
    let (head, tail) = data.split_at(data.len() / 3);
    Body::new(vec![Bytes::copy_from_slice(head), Bytes::copy_from_slice(tail)], Crc64::of(data))
}

/// What every store must do, by the traits alone. `read` fetches an object by another way. Part sizes are S3's.
pub(crate) async fn conformance(store: &dyn Store, prefix: &str, read: &dyn Fn(&str) -> Option<Vec<u8>>) {
    let key = |name: &str| ObjectKey::new(format!("{prefix}{name}").as_bytes()).unwrap();
    let get = |name: &str| read(&format!("{prefix}{name}"));
    store.check(prefix).await.unwrap();
    assert_eq!(store.head(&key("c1")).await.unwrap(), None);

    // One request; then again without and with leave to overwrite.
    let small = noise(1, 1000);
    store.put(&key("c1"), meta(1000, false, 1), body(&small)).await.unwrap();
    assert_eq!(store.head(&key("c1")).await.unwrap().map(|info| info.size), Some(1000));
    assert_eq!(get("c1").as_deref(), Some(&small[..]));
    let refused = store.put(&key("c1"), meta(3, false, 2), body(b"new")).await;
    assert!(matches!(refused, Err(StoreError::DestinationExists { .. })), "{refused:?}");
    assert_eq!(get("c1").as_deref(), Some(&small[..]));
    store.put(&key("c1"), meta(3, true, 3), body(b"new")).await.unwrap();
    assert_eq!(get("c1").as_deref(), Some(&b"new"[..]));
    store.put(&key("c0"), meta(0, false, 4), body(b"")).await.unwrap();
    assert_eq!(get("c0").as_deref(), Some(&b""[..]));

    // Parts, out of order, one of them twice; nothing to be seen before the end.
    let large = noise(2, 10 * MIB + 7);
    let begun = store.begin(&key("c2"), meta(large.len(), false, 5)).await.unwrap();
    let mut receipts = Vec::new();
    for number in [3u32, 1, 2, 1] {
        let at = (number as usize - 1) * 5 * MIB;
        let part = Part { number, offset: at as u64, body: body(&large[at..large.len().min(at + 5 * MIB)]) };
        receipts.push(begun.put_part(part).await.unwrap());
    }
    assert_eq!(store.head(&key("c2")).await.unwrap(), None);
    receipts.remove(1);
    receipts.sort_by_key(|receipt| receipt.number);
    begun.complete(&receipts, Crc64::of(&large)).await.unwrap();
    assert_eq!(get("c2").as_deref(), Some(&large[..]));
    // The answer was lost: asking again is no error.
    begun.complete(&receipts, Crc64::of(&large)).await.unwrap();
    let refused = store.begin(&key("c2"), meta(9 << 20, false, 6)).await.err();
    assert!(matches!(refused, Some(StoreError::DestinationExists { .. })), "{refused:?}");

    // Read by ranges; the first tells what the object is, the others hold on to it.
    let bytes = |range: ObjectRange| range.bytes.concat();
    let first = store.read(&key("c2"), 0..1, None).await.unwrap();
    assert_eq!(first.info.size, large.len() as u64);
    assert_eq!(first.info.mtime_ns, Some(MTIME_NS));
    for range in [0..1, 5 * MIB - 1..5 * MIB + 1, 0..large.len(), large.len() - 1..large.len()] {
        let (from, to) = (range.start as u64, range.end as u64);
        let read = store.read(&key("c2"), from..to, Some(&first.info)).await.unwrap();
        assert!(bytes(read) == large[range.clone()], "{range:?}");
    }
    let beyond = store.read(&key("c2"), 0..large.len() as u64 + 1, Some(&first.info)).await;
    assert!(matches!(beyond, Err(StoreError::ObjectChanged { .. })), "{beyond:?}");
    let missing = store.read(&key("c9"), 0..1, None).await;
    assert!(matches!(missing, Err(StoreError::ObjectGone { .. })), "{missing:?}");
    let before = store.read(&key("c1"), 0..3, None).await.unwrap();
    store.put(&key("c1"), meta(4, true, 9), body(b"next")).await.unwrap();
    let changed = store.read(&key("c1"), 0..3, Some(&before.info)).await;
    assert!(matches!(changed, Err(StoreError::ObjectChanged { .. })), "{changed:?}");
    assert_eq!(bytes(before), b"new");

    // Given up: no object, and giving up twice is no error.
    let begun = store.begin(&key("c3"), meta(6 * MIB, false, 7)).await.unwrap();
    begun.put_part(Part { number: 1, offset: 0, body: body(&large[..5 * MIB]) }).await.unwrap();
    begun.abort().await.unwrap();
    begun.abort().await.unwrap();
    assert_eq!(store.head(&key("c3")).await.unwrap(), None);
    assert_eq!(get("c3"), None);
}
