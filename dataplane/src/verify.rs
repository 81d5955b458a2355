//! Reads stored objects again and compares them with lines of a manifest, beside the lanes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tradewind_integrity::{Checksum, Digests, ManifestLine, hex};
use tradewind_ipc::{Destination, DestinationName, ErrorCode, FromEngine, VERIFY_HEARTBEAT_MS, Verdict, Verified, Verify};
use tradewind_storage::{Crc64, Deadlines, Depth, ObjectInfo, ObjectName, RetryPolicy, RunningCrc64, Store, StoreError};

use crate::destination::{name, open_store, store_code};

/// Bytes read at once.
const RANGE_BYTES: u64 = 8 << 20;
/// Ranges read ahead of the one that is being hashed.
const RANGES_AHEAD: usize = 2;
/// Objects read at the same time for one question.
const OBJECTS_AT_ONCE: usize = 4;
/// Objects read at the same time for all questions. Memory: so many times (ranges ahead + 1) × range, 384 MiB at most.
const OBJECTS_AT_ONCE_MAX: usize = 16;
const RETRY: RetryPolicy = RetryPolicy {
    tries_max: 5,
    pause_base_ms: 200,
    pause_max_ms: 5000,
    deadlines: Deadlines { request_ms: 30_000, bytes_per_s_min: 256 * 1024 },
};

/// Answers [`tradewind_ipc::ToEngine::Verify`].
pub(crate) struct Verifier {
    to_control: mpsc::UnboundedSender<FromEngine>,
    permits: Arc<Semaphore>,
    running: Arc<Mutex<HashMap<u64, AbortHandle>>>,
}

/// What one question has come to so far.
#[derive(Default)]
struct Findings {
    bytes: AtomicU64,
    verdicts: Mutex<Vec<(u32, Verdict)>>,
}

impl Verifier {
    pub(crate) fn new(to_control: mpsc::UnboundedSender<FromEngine>) -> Self {
        Self { to_control, permits: Arc::new(Semaphore::new(OBJECTS_AT_ONCE_MAX)), running: Arc::default() }
    }

    /// Answers in a task of its own.
    pub(crate) fn ask(&self, verify: Box<Verify>) {
        let (to_control, permits, running) = (self.to_control.clone(), Arc::clone(&self.permits), Arc::clone(&self.running));
        let request_id = verify.request_id;
        // Begins when it is in the list, so that it can be taken out at its end.
        let (listed, begin) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let _ = begin.await;
            answer(*verify, &to_control, &permits).await;
            running.lock().unwrap_or_else(PoisonError::into_inner).remove(&request_id);
        });
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(request_id, task.abort_handle());
        let _ = listed.send(());
    }

    /// Nobody wants the answer any more.
    pub(crate) fn stop(&self, request_id: u64) {
        if let Some(task) = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&request_id) {
            task.abort();
            tracing::info!("verification {request_id} stopped: nobody waits for it any more");
        }
    }
}

async fn answer(verify: Verify, to_control: &mpsc::UnboundedSender<FromEngine>, permits: &Semaphore) {
    let Verify { request_id, destination, lines } = verify;
    let findings = Findings::default();
    let tell = |ended| {
        let verdicts = std::mem::take(&mut *findings.verdicts.lock().unwrap_or_else(PoisonError::into_inner));
        let bytes = findings.bytes.load(Ordering::Relaxed);
        // Without a control process the engine ends.
        let _ = to_control.send(FromEngine::Verified(Box::new(Verified { request_id, bytes, verdicts, ended })));
    };
    let all = async {
        let store = opened(&destination).await;
        let object_name = name(&destination.name);
        let each = |(index, line): (u32, String)| {
            let (store, object_name, findings) = (&store, &object_name, &findings);
            async move {
                let verdict = match store {
                    Ok(store) => {
                        let _permit = permits.acquire().await;
                        compare(store.as_ref(), object_name, line.as_bytes(), &findings.bytes).await
                    }
                    Err(error) => failed(error),
                };
                findings.verdicts.lock().unwrap_or_else(PoisonError::into_inner).push((index, verdict));
            }
        };
        futures_util::stream::iter((0..).zip(lines)).for_each_concurrent(OBJECTS_AT_ONCE, each).await;
    };
    tokio::pin!(all);
    let mut beat = tokio::time::interval(Duration::from_millis(VERIFY_HEARTBEAT_MS));
    loop {
        tokio::select! {
            () = &mut all => break,
            _ = beat.tick() => tell(false),
        }
    }
    tell(true);
}

/// The store, if it is there: objects of a missing bucket are just missing (HEAD tells no more than 404).
async fn opened(destination: &Destination) -> Result<Arc<dyn Store>, StoreError> {
    let store = open_store(&destination.store)?;
    let (DestinationName::Into(prefix) | DestinationName::Exact(prefix)) = &destination.name;
    let list = || store.list(prefix, None, 1, Depth::All);
    match RETRY.run("looking for the store", 0, StoreError::is_retryable, |_| {}, list).await {
        Err(error @ StoreError::NotFound { .. }) => Err(error),
        // Whoever may read need not be allowed to list.
        Ok(_) | Err(_) => Ok(store),
    }
}

fn failed(error: &StoreError) -> Verdict {
    Verdict::Failed { code: store_code(error), text: error.to_string() }
}

async fn compare(store: &dyn Store, object_name: &ObjectName, line: &[u8], bytes: &AtomicU64) -> Verdict {
    let line = match ManifestLine::parse(line) {
        Ok(line) => line,
        Err(error) => return Verdict::Failed { code: ErrorCode::Unsupported, text: format!("a line of the manifest: {error}") },
    };
    match read(store, object_name, &line, bytes).await {
        Ok(verdict) => verdict,
        Err(StoreError::ObjectGone { .. }) => Verdict::Missing,
        Err(StoreError::ObjectChanged { what, .. }) => Verdict::Different { what: format!("it is being changed: {what}") },
        Err(error) => failed(&error),
    }
}

async fn read(store: &dyn Store, object_name: &ObjectName, line: &ManifestLine, bytes: &AtomicU64) -> Result<Verdict, StoreError> {
    let path = line.path_bytes().unwrap_or_default();
    let key = object_name.key_of(&path, store.takes_only_text())?;
    let head = || store.head(&key);
    let found = RETRY.run("looking for the object", 0, StoreError::is_retryable, |_| {}, head).await?;
    let Some(info) = found else { return Ok(Verdict::Missing) };
    if info.size != line.size {
        return Ok(Verdict::Different { what: format!("it has {} bytes, not {}", info.size, line.size) });
    }
    let (mut crc, mut digests) =
        (RunningCrc64::default(), Digests::new(Checksum::ALL.into_iter().filter(|sum| line.checksum(*sum).is_some())));
    let ranges = (0..info.size.div_ceil(RANGE_BYTES)).map(|number| number * RANGE_BYTES..info.size.min((number + 1) * RANGE_BYTES));
    let (key, info) = (&key, &info);
    let fetch = |range: Range<u64>| async move {
        let read = || store.read(key, range.clone(), Some(info));
        RETRY.run("reading the object", range.end - range.start, StoreError::is_retryable, |_| {}, read).await
    };
    let mut fetched = futures_util::stream::iter(ranges.map(fetch)).buffered(RANGES_AHEAD);
    while let Some(range) = fetched.next().await {
        for chunk in range?.bytes {
            bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            // Local files come in one piece of 8 MiB; hashing it must not hold up others on this thread.
            for piece in chunk.chunks(256 * 1024) {
                crc.update(piece);
                digests.update(piece);
                tokio::task::yield_now().await;
            }
        }
    }
    Ok(judge(line, info, crc.finish(), digests))
}

fn judge(line: &ManifestLine, info: &ObjectInfo, crc: Crc64, digests: Digests) -> Verdict {
    let mut compared = Vec::new();
    if let Some(expected) = line.crc64() {
        if crc.0 != expected {
            // What the store says of itself tells a change behind its back from one that it made.
            let store = match info.crc {
                Some(theirs) if theirs.0 == expected => "; the store still says that it is the one expected",
                _ => "",
            };
            return Verdict::Different {
                what: format!("its CRC-64/NVME is {}, not {}{store}", crc.to_base64(), Crc64(expected).to_base64()),
            };
        }
        compared.push("crc64nvme".to_owned());
    }
    for (checksum, value) in digests.finish() {
        let expected = line.checksum(checksum).unwrap_or_default();
        if value != expected {
            return Verdict::Different { what: format!("its {checksum} is {}, not {}", hex(&value), hex(&expected)) };
        }
        compared.push(checksum.name().to_owned());
    }
    Verdict::Same { checksums: compared }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tradewind_ipc::Store as IpcStore;

    use super::*;

    fn line(path: &str, bytes: &[u8]) -> ManifestLine {
        let mut line = ManifestLine { path: path.to_owned(), size: bytes.len() as u64, ..ManifestLine::default() };
        line.set_crc64(Crc64::of(bytes).0);
        let mut digests = Digests::new([Checksum::Sha256]);
        digests.update(bytes);
        line.sha256 = Some(hex(&digests.finish()[0].1));
        line
    }

    async fn verify(root: &Path, lines: &[ManifestLine]) -> (u64, Vec<Verdict>) {
        let (to_control, mut answers) = mpsc::unbounded_channel();
        let destination = Destination { store: IpcStore::Local { root: root.to_owned() }, name: DestinationName::Into("in/".to_owned()) };
        let lines: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        let verifier = Verifier::new(to_control);
        verifier.ask(Box::new(Verify { request_id: 5, destination, lines }));
        let mut verdicts = Vec::new();
        loop {
            match answers.recv().await.unwrap() {
                FromEngine::Verified(verified) => {
                    verdicts.extend(verified.verdicts);
                    if verified.ended {
                        verdicts.sort_by_key(|(index, _)| *index);
                        return (verified.bytes, verdicts.into_iter().map(|(_, verdict)| verdict).collect());
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn each_line_gets_its_verdict() {
        let root = tempfile::tempdir().unwrap();
        let large: Vec<u8> = (0..RANGE_BYTES * 2 + 5).map(|at| (at % 251) as u8).collect();
        std::fs::create_dir(root.path().join("in")).unwrap();
        for (name, bytes) in [("large", &large[..]), ("empty", b""), ("flipped", b"abd"), ("longer", b"abcd"), ("no-sums", b"abc")] {
            std::fs::write(root.path().join("in").join(name), bytes).unwrap();
        }
        let (no_sums, wrong_sha) = (ManifestLine { path: "no-sums".into(), size: 3, ..ManifestLine::default() }, line("no-sums", b"abc"));
        let wrong_sha = ManifestLine { sha256: Some("00".repeat(32)), ..wrong_sha };
        let outside = ManifestLine { path: "../in/large".into(), ..line("x", b"") };
        let lines = [
            line("large", &large),
            line("empty", b""),
            line("flipped", b"abc"),
            line("longer", b"abc"),
            line("gone", b"a"),
            no_sums,
            wrong_sha,
            outside,
        ];
        let (bytes, verdicts) = verify(root.path(), &lines).await;
        let same = |verdict: &Verdict| matches!(verdict, Verdict::Same { checksums } if checksums.len() == 2);
        assert!(same(&verdicts[0]) && same(&verdicts[1]), "{verdicts:?}");
        assert!(matches!(&verdicts[2], Verdict::Different { what } if what.contains("CRC-64/NVME")), "{verdicts:?}");
        assert!(matches!(&verdicts[3], Verdict::Different { what } if what.contains("4 bytes, not 3")), "{verdicts:?}");
        assert_eq!(verdicts[4], Verdict::Missing);
        assert_eq!(verdicts[5], Verdict::Same { checksums: Vec::new() });
        assert!(matches!(&verdicts[6], Verdict::Different { what } if what.contains("sha256")), "{verdicts:?}");
        assert!(matches!(&verdicts[7], Verdict::Failed { code: ErrorCode::DestinationInvalid, .. }), "{verdicts:?}");
        assert_eq!(bytes, large.len() as u64 + 3 + 3 + 3);
        let (_, verdicts) = verify(&root.path().join("gone"), &lines[..2]).await;
        assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Failed { code: ErrorCode::BucketMissing, .. })), "{verdicts:?}");
    }

    #[tokio::test]
    async fn a_question_that_is_stopped_says_no_more() {
        let root = tempfile::tempdir().unwrap();
        let (to_control, mut answers) = mpsc::unbounded_channel();
        let verifier = Verifier::new(to_control);
        let destination =
            Destination { store: IpcStore::Local { root: root.path().to_owned() }, name: DestinationName::Into(String::new()) };
        verifier.ask(Box::new(Verify { request_id: 9, destination, lines: vec!["{}".to_owned()] }));
        verifier.stop(9);
        verifier.stop(9);
        let running = Arc::clone(&verifier.running);
        drop(verifier);
        while answers.recv().await.is_some() {}
        assert!(running.lock().unwrap().is_empty());
    }
}
