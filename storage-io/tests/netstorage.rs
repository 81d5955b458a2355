//! What is particular to Akamai NetStorage, against an emulator of our own: the service itself was never tried.
//!
//! What every platform must do is in tests/stores.rs. Objects are read back by a client that shares no code with ours.

mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use common::listing::pages;
use common::{MIB, all_kinds, assert_done, body, config, key, noise, source, upload};
use tradewind_bench::netstorage::{ACCOUNT, CP_CODE, Fault, KEY, NetStorage};
use tradewind_storage::{
    Crc64, Depth, ListEntry, NetStorageConfig, NetStorageStore, ObjectKey, ObjectMeta, Part, PartReceipt, Store, StoreError, Upload,
    UploadError,
};

fn config_of(running: &NetStorage, spool: &Path) -> NetStorageConfig {
    NetStorageConfig {
        url: running.url(),
        cp_code: CP_CODE.to_owned(),
        upload_account: ACCOUNT.to_owned(),
        key: KEY.to_owned().into(),
        spool_dir: spool.join("made/when/missing"),
        requests_per_s: None,
    }
}

/// An emulator, a spool directory, and a store of both.
fn world() -> (NetStorage, tempfile::TempDir, Arc<NetStorageStore>) {
    let (running, spool) = (NetStorage::start().unwrap(), tempfile::tempdir().unwrap());
    let store = Arc::new(NetStorageStore::open(&config_of(&running, spool.path())).unwrap());
    (running, spool, store)
}

fn meta(size: usize, overwrite: bool) -> ObjectMeta {
    ObjectMeta { size: size as u64, mtime_ns: common::MTIME_NS, mode: 0o640, overwrite, token: 1, attributes: Arc::default() }
}

fn part(data: &[u8], number: u32) -> Part {
    let from = (number as usize - 1) * MIB;
    Part { number, offset: from as u64, body: body(&data[from..data.len().min(from + MIB)]) }
}

async fn put_parts(upload: &dyn Upload, data: &[u8], numbers: &[u32]) -> Vec<PartReceipt> {
    let mut receipts = Vec::new();
    for &number in numbers {
        receipts.push(upload.put_part(part(data, number)).await.unwrap());
    }
    receipts
}

/// The one file of the spool directory.
fn spooled(config: &NetStorageConfig) -> std::path::PathBuf {
    let files: Vec<_> = config.spool_dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

fn is_empty(config: &NetStorageConfig) -> bool {
    config.spool_dir.read_dir().unwrap().next().is_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_every_kind() {
    let (running, spool, store) = world();
    let sources = all_kinds();
    // Throttled, and without answers, on the way.
    for fault in [Fault::Refuse(429), Fault::LoseAnswer, Fault::Refuse(503), Fault::LoseAnswer] {
        running.spoil("upload", fault);
    }
    let outcome = upload(store.clone(), config("up/"), &sources).await;
    assert_done(&outcome, &sources);
    assert!(outcome.stats.retries >= 4 && outcome.stats.throttled == 2, "{:?}", outcome.stats);
    assert_eq!(running.served("upload"), sources.len(), "what had arrived though its answer was lost is not sent again");
    for source in &sources {
        let name = format!("up/{}", source.path);
        assert!(running.read(&name).unwrap().as_ref() == Some(&source.data), "{name} differs when read by another");
    }
    assert!(is_empty(&config_of(&running, spool.path())));
    let again = upload(store.clone(), config("up/"), &[source("part", 4 * MIB)]).await;
    assert!(matches!(again.failed, Some(UploadError::Store(StoreError::DestinationExists { .. }))), "{:?}", again.failed);
    // The same files are known by their bytes.
    let again = upload(store, config("up/"), &sources).await;
    assert_done(&again, &sources);
    assert_eq!(running.served("upload"), sources.len());
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let (running, spool, store) = world();
    store.check("a/").await.unwrap();
    assert_eq!(running.keys(), [""; 0], "a check leaves nothing behind");
    let good = config_of(&running, spool.path());
    let check = async |config: NetStorageConfig| NetStorageStore::open(&config).unwrap().check("a").await.unwrap_err();
    let wrong = check(NetStorageConfig { key: "hush-hush".to_owned().into(), ..good.clone() }).await;
    let text = format!("{wrong} {wrong:?}");
    assert!(matches!(wrong, StoreError::BadCredentials { .. }) && text.contains("clock") && !text.contains("hush"), "{text}");
    let missing = check(NetStorageConfig { cp_code: "654321".to_owned(), ..good.clone() }).await;
    assert!(matches!(missing, StoreError::NotFound { .. }), "{missing:?}");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unavailable = check(NetStorageConfig { url: format!("http://{gone}"), ..good.clone() }).await;
    assert!(matches!(unavailable, StoreError::Unavailable { .. }), "{unavailable:?}");
    // A clock that is off is within the minute, and is not.
    for (seconds, is_good) in [(50, true), (-50, true), (75, false), (-4000, false)] {
        running.put_clock_forward(seconds);
        let checked = store.check("").await;
        let is_told = matches!(&checked, Err(error @ StoreError::ClockSkew { .. }) if error.to_string().contains("chronyc"));
        assert_eq!((checked.is_ok(), is_told), (is_good, !is_good), "{seconds}: {checked:?}");
    }
}

#[tokio::test]
async fn what_a_server_makes_of_a_range_is_never_wrong_bytes() {
    let (running, _spool, store) = world();
    let data = noise(1, 3 * MIB + 7);
    store.put(&key("f"), meta(data.len(), false), body(&data)).await.unwrap();
    let info = store.head(&key("f")).await.unwrap().unwrap();
    for (ignores, hides) in [(false, false), (true, false), (false, true), (true, true)] {
        running.ignore_ranges(ignores);
        running.hide_tags(hides);
        for range in [0..1, MIB - 1..2 * MIB + 1, 0..data.len(), data.len() - 1..data.len()] {
            for expected in [None, Some(&info)] {
                let read = store.read(&key("f"), range.start as u64..range.end as u64, expected).await.unwrap();
                assert!(read.bytes.concat() == data[range.clone()] && read.info == info, "{range:?} ignored: {ignores}, no tags: {hides}");
            }
        }
        let beyond = store.read(&key("f"), 5..data.len() as u64 + 1, Some(&info)).await;
        assert!(matches!(beyond, Err(StoreError::ObjectChanged { .. })), "{beyond:?}");
        // Another one of the same size and time.
        let other = noise(2, data.len());
        store.put(&key("f"), meta(data.len(), true), body(&other)).await.unwrap();
        let changed = store.read(&key("f"), 0..10, Some(&info)).await;
        assert!(matches!(changed, Err(StoreError::ObjectChanged { .. })), "ignored: {ignores}, no tags: {hides}: {changed:?}");
        store.put(&key("f"), meta(data.len(), true), body(&data)).await.unwrap();
    }
}

#[tokio::test]
async fn a_spooled_object_goes_on_in_another_process_and_is_sent_once() {
    let (running, spool, store) = world();
    let (config, data) = (config_of(&running, spool.path()), noise(3, 3 * MIB + 9));
    let begun = store.begin(&key("large"), meta(data.len(), false)).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&config.spool_dir), mode(&spooled(&config))), (0o700, 0o600));
    let receipts = put_parts(&*begun, &data, &[4, 1]).await;
    let busy = NetStorageStore::open(&config).unwrap().begin(&key("large"), meta(data.len(), false)).await.err();
    assert!(matches!(&busy, Some(StoreError::Busy { object }) if object == "large"), "{busy:?}");
    let handle = begun.handle();
    begun.keep();
    drop(begun);
    assert_eq!(running.keys(), [""; 0], "nothing is sent before the end");

    let another = NetStorageStore::open(&config).unwrap();
    let found = another.reopen(&key("large"), meta(data.len(), false), &handle).await.unwrap();
    assert_eq!(found.recall(receipts.clone()).await.unwrap(), receipts);
    let mut all = put_parts(&*found, &data, &[2, 3]).await;
    all.extend(receipts);
    all.sort_by_key(|receipt| receipt.number);
    // The answer is lost: what has arrived is found, not sent again.
    running.spoil("upload", Fault::LoseAnswer);
    let lost = found.complete(&all, Crc64::of(&data)).await;
    assert!(lost.as_ref().is_err_and(StoreError::is_retryable), "{lost:?}");
    let stored = found.complete(&all, Crc64::of(&data)).await.unwrap();
    assert_eq!((stored.crc, running.served("upload")), (Crc64::of(&data), 1));
    assert!(running.read("large").unwrap().as_ref() == Some(&data));
    assert!(is_empty(&config), "its file is gone");
    let gone = another.reopen(&key("large"), meta(data.len(), false), &handle).await.err();
    assert!(matches!(gone, Some(StoreError::UploadGone { .. })), "{gone:?}");
    // Nobody was left to note it: it is known by its bytes.
    let own = async |meta: ObjectMeta, data: &[u8]| another.find_own(&key("large"), meta, Crc64::of(data)).await.unwrap();
    assert_eq!(own(meta(data.len(), false), &data).await.map(|stored| stored.etag), Some(stored.etag));
    assert_eq!(own(meta(data.len(), false), b"other").await, None);
    assert_eq!(own(ObjectMeta { mtime_ns: 0, ..meta(data.len(), false) }, &data).await, None);

    // One that takes its place likewise.
    let other = noise(33, data.len());
    let begun = another.begin(&key("large"), meta(other.len(), true)).await.unwrap();
    let all = put_parts(&*begun, &other, &[1, 2, 3, 4]).await;
    running.spoil("upload", Fault::LoseAnswer);
    assert!(begun.complete(&all, Crc64::of(&other)).await.is_err_and(|error| error.is_retryable()));
    begun.complete(&all, Crc64::of(&other)).await.unwrap();
    assert_eq!(running.served("upload"), 2);
    assert!(running.read("large").unwrap().as_ref() == Some(&other));
}

/// The disk is no better than a network.
#[tokio::test]
async fn a_damaged_spool_file_is_never_sent() {
    let (running, spool, store) = world();
    let (config, data) = (config_of(&running, spool.path()), noise(4, 2 * MIB + 1));
    let begun = store.begin(&key("large"), meta(data.len(), false)).await.unwrap();
    let all = put_parts(&*begun, &data, &[1, 2, 3]).await;
    let file = File::options().read(true).write(true).open(spooled(&config)).unwrap();
    file.write_all_at(&[data[MIB + 5] ^ 1], MIB as u64 + 5).unwrap();
    let damaged = begun.complete(&all, Crc64::of(&data)).await.unwrap_err();
    let text = damaged.to_string();
    assert!(matches!(damaged, StoreError::ChecksumMismatch { .. }) && text.contains("part 2") && text.contains("spool"), "{text}");
    assert_eq!((running.served("upload"), running.keys()), (0, Vec::new()));
    assert_eq!(begun.recall(all.clone()).await.unwrap(), [all[0].clone(), all[2].clone()], "the damaged part is not held any more");
    // A receipt of a part that was never there, and of one behind the end.
    let never = PartReceipt { number: 2, ..all[0].clone() };
    let beyond = PartReceipt { etag: Some(format!("3@{}", data.len())), ..all[2].clone() };
    assert_eq!(begun.recall(vec![never, beyond]).await.unwrap(), []);
    begun.put_part(part(&data, 2)).await.unwrap();
    begun.complete(&all, Crc64::of(&data)).await.unwrap();
    assert!(running.read("large").unwrap().as_ref() == Some(&data));
}

#[tokio::test]
async fn a_full_spool_directory_is_told_before_anything_is_sent() {
    let Ok(spool) = tempfile::tempdir_in("/dev/shm") else { return println!("SKIP: no /dev/shm") };
    // A file system in memory refuses at once what is larger than it; a disk would be filled up first.
    let found = rustix::fs::statfs(spool.path()).unwrap();
    if found.f_type != 0x0102_1994 {
        return println!("SKIP: /dev/shm is no tmpfs");
    }
    let running = NetStorage::start().unwrap();
    let store = NetStorageStore::open(&config_of(&running, spool.path())).unwrap();
    let too_many = found.f_blocks as usize * found.f_bsize as usize + MIB;
    let full = store.begin(&key("large"), meta(too_many, false)).await.unwrap_err();
    let text = full.to_string();
    assert!(matches!(full, StoreError::Full { .. }) && text.contains("spool directory") && text.contains("large"), "{text}");
    assert!(is_empty(&config_of(&running, spool.path())), "what was begun is gone");
}

#[tokio::test]
async fn listings_go_on_wherever_they_were() {
    let (_running, _spool, store) = world();
    let mut names: Vec<String> = (0..130).map(|number| format!("many/{}/n {number:04}+ü", number % 3)).collect();
    names.extend(["many".to_owned(), "many-more/x".to_owned(), "many/1".to_owned(), "many/1-".to_owned()]);
    for name in &names {
        store.put(&key(name), meta(1, true), body(b"x")).await.unwrap();
    }
    names.retain(|name| name.starts_with("many/"));
    names.sort_unstable();
    let keys =
        |entries: Vec<ListEntry>| -> Vec<String> { entries.iter().map(|entry| String::from_utf8(entry.key().to_vec()).unwrap()).collect() };
    for limit in [1000, 51, 7] {
        assert_eq!(keys(pages(&*store, "many/", limit, Depth::All).await), names, "pages of {limit}");
    }
    for limit in [1000, 2, 1] {
        assert_eq!(
            keys(pages(&*store, "many/", limit, Depth::OneLevel).await),
            ["many/0/", "many/1", "many/1/", "many/1-", "many/2/"].map(str::to_owned),
            "pages of {limit}"
        );
    }
    // What a page ended with is deleted before the next.
    let page = store.list("many/", None, 60, Depth::All).await.unwrap();
    let (first, next) = (keys(page.entries), page.next.unwrap());
    assert!(store.delete(&ObjectKey::new(&next).unwrap()).await.unwrap());
    let mut all = first;
    let mut after = Some(next);
    while let Some(next) = after {
        let page = store.list("many/", Some(&next), 60, Depth::All).await.unwrap();
        all.extend(keys(page.entries));
        after = page.next;
    }
    assert_eq!(all, names);
}
