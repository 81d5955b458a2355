//! The conformance checks of a platform, each by the traits alone and read back by another client; their results as a row of a table.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tradewind_storage::{Body, Crc64, Depth, ObjectMeta, ObjectRange, Part, PartReceipt, Store, StoreError, Upload};

use super::listing::{folders_are_no_objects, listing_of, pages};
use super::{MIB, MTIME_NS, assert_done, body, config, key, noise, source, upload};

/// Size of parts here: the least that S3 takes.
const PART: usize = 5 * MIB;
/// Size of parts of the object that is larger than one request may be.
const LARGE_PART: usize = 64 * MIB;
/// Set, and not empty, in runs that may take long and need 5 GiB of disk.
const NIGHTLY: &str = "TRADEWIND_NIGHTLY";

/// Another way to an object's bytes, than by our own program; `None`: it is not there.
pub(crate) type ReadByOther = Arc<dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync>;

/// Opens the same place anew, as another process would.
pub(crate) type Open = Arc<dyn Fn() -> Arc<dyn Store> + Send + Sync>;

/// A platform on a server that runs.
#[derive(Clone)]
pub(crate) struct Subject {
    /// As a user knows it.
    pub(crate) platform: &'static str,
    /// What stands for it here, with its version.
    pub(crate) server: &'static str,
    pub(crate) open: Open,
    /// The same with credentials that the server does not know; none where there are no credentials.
    pub(crate) stranger: Option<Arc<dyn Store>>,
    /// A place of the same server that does not exist.
    pub(crate) nowhere: Option<Arc<dyn Store>>,
    pub(crate) read: ReadByOther,
    /// Why it does not refuse bytes that are not those of their checksum, where it does not.
    pub(crate) unverified: Option<&'static str>,
    /// Why an object that appears while parts are on their way is replaced, where it is.
    pub(crate) unconditional: Option<&'static str>,
    /// It keeps of metadata what a file can have, no list of parts, and one upload of a name at a time.
    pub(crate) is_directory: bool,
    /// It keeps of metadata the second of a file's modification, and nothing else; what is an object's own shows by its bytes.
    pub(crate) is_bare: bool,
    /// It writes '_' in names of metadata as '-'.
    pub(crate) has_dashes: bool,
}

impl Subject {
    /// What it keeps of time and mode.
    fn kept(&self) -> (Option<i64>, Option<u32>) {
        if self.is_bare { (Some(MTIME_NS / 1_000_000_000 * 1_000_000_000), None) } else { (Some(MTIME_NS), Some(0o640)) }
    }
}

impl Subject {
    /// One that is like most: it refuses wrong checksums and late comers, and keeps all metadata.
    pub(crate) fn new(platform: &'static str, server: &'static str, open: Open, read: ReadByOther) -> Self {
        let (stranger, nowhere, unverified, unconditional) = (None, None, None, None);
        let (is_directory, is_bare, has_dashes) = (false, false, false);
        Self { platform, server, open, stranger, nowhere, read, unverified, unconditional, is_directory, is_bare, has_dashes }
    }
}

/// What a check said.
enum Verdict {
    Passed,
    /// Why it could not be made.
    Skipped(String),
}

type Check = fn(Subject) -> Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// Name and check.
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        const CHECKS: &[(&str, Check)] = &[$((stringify!($name), |subject| Box::pin($name(subject)))),*];
    };
}

checks![
    sizes,
    above_5_gib,
    ranges,
    overwriting,
    concurrent_parts_out_of_order,
    completing_twice,
    aborting,
    parts_after_a_restart,
    metadata,
    odd_keys,
    folders_and_pages,
    changes_while_reading,
    late_comers,
    wrong_checksums,
    wrong_credentials,
    no_such_place,
    deleting_twice,
];

/// Makes all checks, says so in a line that `cargo xtask test stores` puts into its table, and fails if one of them did.
pub(crate) async fn conform(subject: Subject) {
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), Vec::new());
    for (name, check) in CHECKS {
        match AssertUnwindSafe(check(subject.clone())).catch_unwind().await {
            Ok(Verdict::Passed) => passed += 1,
            Ok(Verdict::Skipped(reason)) => skipped.push(format!("{name}: {reason}")),
            Err(_) => failed.push(*name),
        }
    }
    let row = serde_json::json!({
        "platform": subject.platform, "server": subject.server, "checks": CHECKS.len(), "passed": passed, "failed": failed.len(),
        "skipped_reason": (!skipped.is_empty()).then(|| skipped.join("; ")),
    });
    println!("CONFORMANCE {row}");
    assert!(failed.is_empty(), "{} on {}: {}", subject.platform, subject.server, failed.join(", "));
}

/// A row for a platform that is not here, and why.
pub(crate) fn skip(platform: &str, server: &str, reason: &str) {
    println!("SKIP: {platform}: {reason}");
    let row = serde_json::json!({
        "platform": platform, "server": server, "checks": CHECKS.len(), "passed": 0, "failed": 0, "skipped_reason": reason,
    });
    println!("CONFORMANCE {row}");
}

fn meta(size: usize, overwrite: bool, token: u128) -> ObjectMeta {
    let attributes = [("uid".to_owned(), "1000".to_owned()), ("tradewind-xattr.a_b".to_owned(), "v".to_owned())].into();
    ObjectMeta { size: size as u64, mtime_ns: MTIME_NS, mode: 0o640, overwrite, token, attributes }
}

/// Part `number`, from 1, of an object.
fn part(data: &[u8], number: u32) -> Part {
    let at = (number as usize - 1) * PART;
    Part { number, offset: at as u64, body: body(&data[at..data.len().min(at + PART)]) }
}

/// Stores these parts of an object at once, as they come.
async fn put_parts(begun: &Arc<dyn Upload>, data: &[u8], numbers: &[u32]) -> Vec<PartReceipt> {
    let mut putting = JoinSet::new();
    for &number in numbers {
        let (begun, part) = (Arc::clone(begun), part(data, number));
        putting.spawn(async move { begun.put_part(part).await.unwrap() });
    }
    let mut receipts = putting.join_all().await;
    receipts.sort_by_key(|receipt| receipt.number);
    receipts
}

fn bytes(range: &ObjectRange) -> Vec<u8> {
    range.bytes.concat()
}

/// Through the uploader, as the engine does it.
async fn sizes(subject: Subject) -> Verdict {
    let sizes = [0, 1, PART - 1, PART, PART + 1, 10 * PART + 1];
    let sources: Vec<_> = sizes.iter().map(|&size| source(&format!("{size} bytes"), size)).collect();
    let outcome = upload((subject.open)(), config("sizes/"), &sources).await;
    assert_done(&outcome, &sources);
    for source in &sources {
        let name = format!("sizes/{}", source.path);
        assert!((subject.read)(&name).as_ref() == Some(&source.data), "{name} differs");
        let info = (subject.open)().head(&key(&name)).await.unwrap().expect("it is there");
        assert_eq!(info.size, source.data.len() as u64, "{name}");
        assert!(info.crc.is_none_or(|crc| crc == Crc64::of(&source.data)), "{name}");
    }
    Verdict::Passed
}

/// Larger than one request may be at S3 and Swift. Read back by our own reader, all of it.
async fn above_5_gib(subject: Subject) -> Verdict {
    if std::env::var_os(NIGHTLY).is_none_or(|value| value.is_empty()) {
        return Verdict::Skipped(format!("{NIGHTLY} is not set"));
    }
    let store = (subject.open)();
    let piece = Bytes::from(noise(41, LARGE_PART));
    let piece_crc = Crc64::of(&piece);
    let (pieces, tail) = (80_u64, Bytes::from_static(b"and a tail"));
    let size = pieces * LARGE_PART as u64 + tail.len() as u64;
    let begun = store.begin(&key("above"), ObjectMeta { size, ..meta(0, true, 41) }).await.unwrap();
    let (mut receipts, mut crc) = (Vec::new(), Crc64::default());
    for number in 1..=81_u32 {
        let (chunk, chunk_crc) = if number == 81 { (tail.clone(), Crc64::of(&tail)) } else { (piece.clone(), piece_crc) };
        crc = crc.append(chunk_crc, chunk.len() as u64);
        let offset = u64::from(number - 1) * LARGE_PART as u64;
        receipts.push(begun.put_part(Part { number, offset, body: Body::new(vec![chunk], chunk_crc) }).await.unwrap());
    }
    begun.complete(&receipts, crc).await.unwrap();
    let info = store.head(&key("above")).await.unwrap().expect("it is there");
    assert_eq!(info.size, size);
    for number in 0..pieces {
        let from = number * LARGE_PART as u64;
        let read = store.read(&key("above"), from..from + LARGE_PART as u64, Some(&info)).await.unwrap();
        assert!(Crc64::of(&bytes(&read)) == piece_crc, "piece {number}");
    }
    let read = store.read(&key("above"), pieces * LARGE_PART as u64..size, Some(&info)).await.unwrap();
    assert_eq!(bytes(&read), tail);
    assert!(store.delete(&key("above")).await.unwrap());
    Verdict::Passed
}

/// The first range tells what the object is, the others hold on to it.
async fn ranges(subject: Subject) -> Verdict {
    let (store, data) = ((subject.open)(), noise(2, 2 * PART + 7));
    let begun = store.begin(&key("ranges"), meta(data.len(), false, 5)).await.unwrap();
    let receipts = put_parts(&begun, &data, &[1, 2, 3]).await;
    begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
    let first = store.read(&key("ranges"), 0..1, None).await.unwrap();
    assert_eq!((first.info.size, first.info.mtime_ns), (data.len() as u64, subject.kept().0));
    for range in [0..1, PART - 1..PART + 1, 0..data.len(), data.len() - 1..data.len()] {
        let read = store.read(&key("ranges"), range.start as u64..range.end as u64, Some(&first.info)).await.unwrap();
        assert!(bytes(&read) == data[range.clone()], "{range:?}");
    }
    let beyond = store.read(&key("ranges"), 0..data.len() as u64 + 1, Some(&first.info)).await;
    assert!(matches!(beyond, Err(StoreError::ObjectChanged { .. })), "{beyond:?}");
    let missing = store.read(&key("not there"), 0..1, None).await;
    assert!(matches!(missing, Err(StoreError::ObjectGone { .. })), "{missing:?}");
    Verdict::Passed
}

async fn overwriting(subject: Subject) -> Verdict {
    let (store, name) = ((subject.open)(), "over/one");
    let small = noise(1, 1000);
    assert_eq!(store.head(&key(name)).await.unwrap(), None);
    store.put(&key(name), meta(1000, false, 1), body(&small)).await.unwrap();
    let refused = store.put(&key(name), meta(3, false, 2), body(b"new")).await;
    assert!(matches!(refused, Err(StoreError::DestinationExists { .. })), "{refused:?}");
    assert_eq!((subject.read)(name).as_deref(), Some(&small[..]));
    store.put(&key(name), meta(3, true, 3), body(b"new")).await.unwrap();
    assert_eq!((subject.read)(name).as_deref(), Some(&b"new"[..]));
    // By parts, and then by one request again.
    let data = noise(3, PART + 1);
    let refused = store.begin(&key(name), meta(data.len(), false, 4)).await.err();
    assert!(matches!(refused, Some(StoreError::DestinationExists { .. })), "{refused:?}");
    let begun = store.begin(&key(name), meta(data.len(), true, 5)).await.unwrap();
    let receipts = put_parts(&begun, &data, &[1, 2]).await;
    assert_eq!((subject.read)(name).as_deref(), Some(&b"new"[..]), "the old one is there until the end");
    begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
    assert!((subject.read)(name).as_ref() == Some(&data));
    store.put(&key(name), meta(0, true, 6), body(b"")).await.unwrap();
    assert_eq!((subject.read)(name).as_deref(), Some(&b""[..]));
    Verdict::Passed
}

/// Nothing is to be seen before the end.
async fn concurrent_parts_out_of_order(subject: Subject) -> Verdict {
    let (store, data) = ((subject.open)(), noise(4, 6 * PART + 9));
    let begun = store.begin(&key("order"), meta(data.len(), false, 7)).await.unwrap();
    let mut receipts = put_parts(&begun, &data, &[7, 3]).await;
    receipts.extend(put_parts(&begun, &data, &[6, 1, 5, 2, 4]).await);
    // One of them twice.
    begun.put_part(part(&data, 3)).await.unwrap();
    assert_eq!(store.head(&key("order")).await.unwrap(), None);
    receipts.sort_by_key(|receipt| receipt.number);
    begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
    assert!((subject.read)("order").as_ref() == Some(&data));
    Verdict::Passed
}

/// The answer was lost: asking again is no error.
async fn completing_twice(subject: Subject) -> Verdict {
    let (store, data) = ((subject.open)(), noise(5, PART + 1));
    let begun = store.begin(&key("twice"), meta(data.len(), false, 8)).await.unwrap();
    let receipts = put_parts(&begun, &data, &[2, 1]).await;
    begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
    begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
    assert!((subject.read)("twice").as_ref() == Some(&data));
    Verdict::Passed
}

async fn aborting(subject: Subject) -> Verdict {
    let (store, data) = ((subject.open)(), noise(6, PART + 1));
    let begun = store.begin(&key("aborted"), meta(data.len(), false, 9)).await.unwrap();
    put_parts(&begun, &data, &[1]).await;
    begun.abort().await.unwrap();
    begun.abort().await.unwrap();
    assert_eq!(store.head(&key("aborted")).await.unwrap(), None);
    assert_eq!((subject.read)("aborted"), None);
    Verdict::Passed
}

async fn parts_after_a_restart(subject: Subject) -> Verdict {
    let (data, name) = (noise(7, 2 * PART + 5), key("restarted"));
    let meta = meta(data.len(), false, 10);
    let begun = (subject.open)().begin(&name, meta.clone()).await.unwrap();
    let receipts = put_parts(&begun, &data, &[1, 3]).await;
    let handle = begun.handle();
    begun.keep();
    drop(begun);
    let found = (subject.open)().reopen(&name, meta.clone(), &handle).await.unwrap();
    let mut never = receipts[0].clone();
    never.number = 2;
    let mut asked = vec![receipts[0].clone(), never, receipts[1].clone()];
    if subject.is_directory {
        asked.remove(1);
    }
    let held = found.recall(asked).await.unwrap();
    assert_eq!(held, receipts);
    let all = [held[0].clone(), found.put_part(part(&data, 2)).await.unwrap(), held[1].clone()];
    found.complete(&all, Crc64::of(&data)).await.unwrap();
    assert!((subject.read)("restarted").as_ref() == Some(&data));
    let gone = match (subject.open)().reopen(&key("never begun"), meta, &handle).await {
        Ok(reopened) => reopened.recall(vec![held[0].clone()]).await.err(),
        Err(error) => Some(error),
    };
    assert!(matches!(gone, Some(StoreError::UploadGone { .. })), "{gone:?}");
    Verdict::Passed
}

async fn metadata(subject: Subject) -> Verdict {
    let (store, data) = ((subject.open)(), noise(8, PART + 1));
    store.put(&key("meta/small"), meta(3, false, 11), body(b"abc")).await.unwrap();
    let begun = store.begin(&key("meta/large"), meta(data.len(), false, 12)).await.unwrap();
    let receipts = put_parts(&begun, &data, &[1, 2]).await;
    begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
    for name in ["meta/small", "meta/large"] {
        let info = store.head(&key(name)).await.unwrap().expect("it is there");
        assert_eq!((info.mtime_ns, info.mode), subject.kept(), "{name}");
        assert!(info.modified_ns.is_some(), "{name}");
        let mut wanted = meta(0, false, 0).attributes.to_vec();
        if subject.has_dashes {
            wanted.iter_mut().for_each(|(name, _)| *name = name.replace('_', "-"));
        }
        wanted.sort_unstable();
        assert!(subject.is_directory || subject.is_bare || info.attributes.to_vec() == wanted, "{name}: {info:?}");
        let read = store.read(&key(name), 0..1, Some(&info)).await.unwrap();
        assert_eq!((read.info.mtime_ns, read.info.mode), (info.mtime_ns, info.mode), "{name}");
        assert!(read.info.crc.is_none() || read.info.crc == info.crc, "{name}: {read:?}");
    }
    // This very file, and others of its name.
    let own = async |meta: ObjectMeta, data: &[u8]| store.find_own(&key("meta/small"), meta, Crc64::of(data)).await.unwrap().is_some();
    assert!(own(meta(3, false, 11), b"abc").await);
    // A store without checksums cannot tell; where nothing else is kept, the object is read.
    let tells =
        subject.is_directory || subject.is_bare || store.head(&key("meta/small")).await.unwrap().is_some_and(|info| info.crc.is_some());
    assert!(!tells || !own(meta(3, false, 11), b"abd").await, "other contents");
    // Who keeps no tokens knows a file by its time.
    let other = if subject.is_directory || subject.is_bare { ObjectMeta { mtime_ns: 1, ..meta(3, false, 11) } } else { meta(3, false, 13) };
    assert!(!own(other, b"abc").await, "another file");
    Verdict::Passed
}

/// Names that a URL, a signature, a listing or a directory could get wrong.
async fn odd_keys(subject: Subject) -> Verdict {
    let store = (subject.open)();
    let mut names: Vec<String> = [
        "-dash",
        ".hidden",
        "...",
        "a b  c",
        "a+b",
        "100%",
        "%2e%2e%2f",
        "a&b=c?d#e",
        "a;b:c,d@e!f$g*h(i)j",
        "quote'\"",
        "<xml>&amp;",
        "[brackets]{braces}|pipe^caret`tick~",
        "ü/ß",
        "日本語",
        "🎈",
        "e\u{301} and é",
        "\u{202e}turned",
    ]
    .map(|name| format!("odd/{name}"))
    .to_vec();
    // As long as Linux lets a file's name be.
    names.push(format!("odd/{}", "n".repeat(255)));
    names.sort_unstable();
    for name in &names {
        let data = name.as_bytes();
        store.put(&key(name), meta(data.len(), false, 14), body(data)).await.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!((subject.read)(name).as_deref(), Some(data), "{name:?}");
        assert_eq!(store.head(&key(name)).await.unwrap().map(|info| info.size), Some(data.len() as u64), "{name:?}");
        assert_eq!(bytes(&store.read(&key(name), 0..data.len() as u64, None).await.unwrap()), data, "{name:?}");
    }
    let listed = pages(&*store, "odd/", 5, Depth::All).await;
    let mut listed: Vec<_> = listed.iter().map(|entry| String::from_utf8(entry.key().to_vec()).unwrap()).collect();
    listed.sort_unstable();
    assert_eq!(listed, names);
    for name in &names {
        assert!(store.delete(&key(name)).await.unwrap(), "{name:?}");
        assert_eq!((subject.read)(name), None, "{name:?}");
    }
    assert_eq!(pages(&*store, "odd/", 5, Depth::All).await, []);
    Verdict::Passed
}

async fn folders_and_pages(subject: Subject) -> Verdict {
    let store = (subject.open)();
    listing_of(&*store, "list/", subject.kept()).await;
    store.put(&key("folder/in/file"), meta(1, false, 15), body(b"x")).await.unwrap();
    folders_are_no_objects(&*store, "folder/in").await;
    Verdict::Passed
}

async fn changes_while_reading(subject: Subject) -> Verdict {
    let store = (subject.open)();
    store.put(&key("changes"), meta(3, false, 16), body(b"old")).await.unwrap();
    let before = store.read(&key("changes"), 0..3, None).await.unwrap();
    store.put(&key("changes"), meta(4, true, 17), body(b"next")).await.unwrap();
    let changed = store.read(&key("changes"), 0..3, Some(&before.info)).await;
    assert!(matches!(changed, Err(StoreError::ObjectChanged { .. })), "{changed:?}");
    assert_eq!(bytes(&before), b"old");
    assert!(store.delete(&key("changes")).await.unwrap());
    let gone = store.read(&key("changes"), 0..3, Some(&before.info)).await;
    assert!(matches!(gone, Err(StoreError::ObjectGone { .. } | StoreError::ObjectChanged { .. })), "{gone:?}");
    Verdict::Passed
}

/// An object that looking did not see: it appears while the parts are on their way, and stays.
async fn late_comers(subject: Subject) -> Verdict {
    if let Some(reason) = subject.unconditional {
        return Verdict::Skipped(reason.to_owned());
    }
    let (store, data) = ((subject.open)(), noise(9, PART + 1));
    let begun = store.begin(&key("late"), meta(data.len(), false, 18)).await.unwrap();
    let receipts = put_parts(&begun, &data, &[1, 2]).await;
    let put = store.put(&key("late"), meta(6, true, 19), body(b"theirs")).await;
    if subject.is_directory {
        assert!(matches!(put, Err(StoreError::Busy { .. })), "{put:?}");
        begun.abort().await.unwrap();
        return Verdict::Passed;
    }
    put.unwrap();
    let refused = begun.complete(&receipts, Crc64::of(&data)).await;
    assert!(matches!(refused, Err(StoreError::DestinationExists { .. } | StoreError::UploadGone { .. })), "{refused:?}");
    begun.abort().await.unwrap();
    assert_eq!((subject.read)("late").as_deref(), Some(&b"theirs"[..]));
    Verdict::Passed
}

/// The chain is only as good as its last link: the server itself refuses what does not match.
async fn wrong_checksums(subject: Subject) -> Verdict {
    if let Some(reason) = subject.unverified {
        return Verdict::Skipped(reason.to_owned());
    }
    let (store, data) = ((subject.open)(), noise(10, PART + 1));
    let wrong = Crc64(Crc64::of(&data[..PART]).0 ^ 1);
    let spoiled = |to: usize| Body::new(vec![Bytes::copy_from_slice(&data[..to])], wrong);
    let put = store.put(&key("wrong/small"), meta(100, true, 20), spoiled(100)).await;
    assert!(matches!(put, Err(StoreError::ChecksumMismatch { .. })), "{put:?}");
    assert_eq!((subject.read)("wrong/small"), None);
    let begun = store.begin(&key("wrong/large"), meta(data.len(), false, 21)).await.unwrap();
    let refused = begun.put_part(Part { number: 1, offset: 0, body: spoiled(PART) }).await;
    assert!(matches!(refused, Err(StoreError::ChecksumMismatch { .. })), "{refused:?}");
    begun.abort().await.unwrap();
    assert_eq!(store.head(&key("wrong/large")).await.unwrap(), None);
    Verdict::Passed
}

async fn wrong_credentials(subject: Subject) -> Verdict {
    let Some(stranger) = subject.stranger else { return Verdict::Skipped("there are none".to_owned()) };
    (subject.open)().check("some/").await.unwrap();
    let refused = stranger.check("some/").await.unwrap_err();
    assert!(matches!(refused, StoreError::BadCredentials { .. } | StoreError::AccessDenied { .. }), "{refused:?}");
    let refused = stranger.put(&key("stranger"), meta(1, false, 22), body(b"x")).await;
    assert!(matches!(refused, Err(StoreError::BadCredentials { .. } | StoreError::AccessDenied { .. })), "{refused:?}");
    assert_eq!((subject.read)("stranger"), None);
    Verdict::Passed
}

/// Checking finds that before a transfer is accepted. Putting is not tried: SeaweedFS makes the bucket.
async fn no_such_place(subject: Subject) -> Verdict {
    let Some(nowhere) = subject.nowhere else { return Verdict::Skipped("a directory that is not there is not opened".to_owned()) };
    let checked = nowhere.check("some/").await;
    assert!(matches!(checked, Err(StoreError::NotFound { .. })), "{checked:?}");
    let listed = nowhere.list("", None, 3, Depth::All).await;
    assert!(matches!(listed, Err(StoreError::NotFound { .. })), "{listed:?}");
    Verdict::Passed
}

/// One of one request and one of parts.
async fn deleting_twice(subject: Subject) -> Verdict {
    let (store, data) = ((subject.open)(), noise(11, PART + 1));
    store.put(&key("deleted/small"), meta(3, false, 24), body(b"abc")).await.unwrap();
    let begun = store.begin(&key("deleted/large"), meta(data.len(), false, 25)).await.unwrap();
    let receipts = put_parts(&begun, &data, &[1, 2]).await;
    begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
    for name in ["deleted/small", "deleted/large"] {
        assert!(store.delete(&key(name)).await.unwrap(), "{name}");
        assert!(!store.delete(&key(name)).await.unwrap(), "{name} twice");
        assert_eq!((subject.read)(name), None, "{name}");
    }
    Verdict::Passed
}
