//! Uploads to a real NameNode and DataNode (Hadoop 2.7.3), read back by curl and by Hadoop's own shell.
//!
//! What every platform must do is in tests/stores.rs. Without Hadoop the tests say SKIP and pass.

mod common;

use std::net::TcpListener;
use std::sync::Arc;

use common::{MIB, all_kinds, assert_done, body, config, key, noise, source, upload};
use tradewind_bench::hdfs::{Hdfs, ROOT, USER};
use tradewind_storage::{Crc64, HdfsAuth, HdfsConfig, HdfsStore, ObjectMeta, Part, PartReceipt, Store, StoreError, Upload, UploadError};

fn config_of(hdfs: &Hdfs, root: &str, user: &str) -> HdfsConfig {
    HdfsConfig { namenodes: vec![hdfs.namenode()], rpc_addresses: Vec::new(), root: root.to_owned(), auth: HdfsAuth::User(user.to_owned()) }
}

fn store_of(hdfs: &Hdfs) -> Arc<HdfsStore> {
    Arc::new(HdfsStore::open(&config_of(hdfs, ROOT, USER)).unwrap())
}

fn meta(size: usize, overwrite: bool, token: u128) -> ObjectMeta {
    let attributes = [("uid", "1000"), ("tradewind-xattr.a_b", "v")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    ObjectMeta { size: size as u64, mtime_ns: common::MTIME_NS, mode: 0o640, overwrite, token, attributes }
}

/// Permissions and path of all below the root, as Hadoop's shell lists them.
fn tree(hdfs: &Hdfs) -> String {
    let listed = String::from_utf8(hdfs.hadoop("fs.FsShell", &["-ls", "-R", ROOT]).unwrap()).unwrap();
    listed.lines().map(|line| format!("{} {}\n", line.split(' ').next().unwrap(), &line[line.find(ROOT).unwrap()..])).collect()
}

async fn parts(begun: &Arc<dyn Upload>, data: &[u8], part_bytes: usize) -> Vec<PartReceipt> {
    let mut receipts = Vec::new();
    for (at, chunk) in data.chunks(part_bytes).enumerate() {
        let part = Part { number: at as u32 + 1, offset: (at * part_bytes) as u64, body: body(chunk) };
        receipts.push(begun.put_part(part).await.unwrap());
    }
    receipts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hdfs() {
    let Some(mut hdfs) = Hdfs::start().unwrap() else { return };
    let store = store_of(&hdfs);
    let sources = all_kinds();
    let outcome = upload(store.clone(), config("up/"), &sources).await;
    assert_done(&outcome, &sources);
    for source in &sources {
        let name = format!("up/{}", source.path);
        assert!(hdfs.read(&format!("{ROOT}/{name}")).unwrap().as_ref() == Some(&source.data), "{name} differs when read with curl");
        let info = store.head(&key(&name)).await.unwrap().expect("it is there");
        assert_eq!((info.size, info.crc), (source.data.len() as u64, Some(Crc64::of(&source.data))), "{name}");
    }
    let shell = hdfs.hadoop("fs.FsShell", &["-cat", &format!("{ROOT}/up/three parts")]).unwrap();
    assert!(sources.iter().any(|source| source.path == "three parts" && source.data == shell), "as Hadoop's shell reads it");
    let again = upload(store.clone(), config("up/"), &[source("part", 4 * MIB)]).await;
    assert!(matches!(again.failed, Some(UploadError::Store(StoreError::DestinationExists { .. }))), "{:?}", again.failed);

    files_have_times_permissions_and_attributes(&hdfs, &store).await;
    parts_in_odd_folders(&hdfs, &store).await;
    many_parts_in_several_requests(&hdfs, &store).await;
    completing_goes_on_where_it_stopped(&hdfs, &store).await;
    folders_are_not_replaced(&hdfs, &store).await;
    others_files_are_read_and_listed(&hdfs, &store).await;
    read_only_files(&hdfs, &store).await;
    let left = tree(&hdfs);
    assert!(!left.contains(".tradewind-"), "unfinished files that nothing needs:\n{left}");
    assert!(!left.contains("drwx------"), "folders that are closed to others:\n{left}");

    destinations_are_checked(&hdfs).await;
    assert_eq!(tree(&hdfs), left, "a check leaves nothing behind");
    the_other_namenode_is_asked(&hdfs).await;
    quotas_and_safe_mode(&hdfs, &store).await;
    without_a_datanode(&mut hdfs, &store).await;
}

async fn files_have_times_permissions_and_attributes(hdfs: &Hdfs, store: &Arc<HdfsStore>) {
    let data = noise(3, 2 * MIB + 5);
    let begun = store.begin(&key("meta/large"), meta(data.len(), false, 1)).await.unwrap();
    let hidden = tree(hdfs);
    assert!(hidden.lines().any(|line| line.starts_with("drwx------") && line.contains("/meta/.tradewind-")), "{hidden}");
    let receipts = parts(&begun, &data, MIB).await;
    let large = begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
    let small = store.put(&key("meta/small"), meta(3, false, 2), body(b"abc")).await.unwrap();
    for (name, stored) in [("meta/large", large), ("meta/small", small)] {
        let info = store.head(&key(name)).await.unwrap().unwrap();
        assert!(info.etag.is_some() && info.etag == stored.etag, "{name}: {info:?} {stored:?}");
        assert_eq!(info.mtime_ns, Some(common::MTIME_NS));
        let status = hdfs.ask("GET", &format!("{ROOT}/{name}"), "op=GETFILESTATUS").unwrap();
        for wanted in ["\"modificationTime\":1600000000123,", "\"permission\":\"640\"", "\"owner\":\"tradewind\""] {
            assert!(status.contains(wanted), "{name}: {status}");
        }
    }
    let status = hdfs.ask("GET", &format!("{ROOT}/meta/large"), "op=GETFILESTATUS").unwrap();
    assert!(status.contains("\"blockSize\":1048576,"), "a part is a block: {status}");
    let shown = hdfs.hadoop("fs.FsShell", &["-getfattr", "-n", "user.tradewind", &format!("{ROOT}/meta/small")]).unwrap();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains("tradewind-crc64nvme") && shown.contains("tradewind-xattr.a_b"), "{shown}");
    let long = ObjectMeta { attributes: [("xattr".to_owned(), "v".repeat(20_000))].into(), ..meta(3, false, 3) };
    assert!(matches!(store.put(&key("long"), long.clone(), body(b"abc")).await.err(), Some(StoreError::InvalidName { .. })));
    assert!(matches!(store.begin(&key("long"), long).await.err(), Some(StoreError::InvalidName { .. })));
    // One that is as long as a cluster takes.
    let long = ObjectMeta { attributes: [("xattr".to_owned(), "v".repeat(16_000))].into(), ..meta(3, false, 4) };
    store.put(&key("long"), long, body(b"abc")).await.unwrap();
}

/// Commas in what is a list with commas, and what a DataNode decodes twice ("%41" is not "A") or gets composed.
async fn parts_in_odd_folders(hdfs: &Hdfs, store: &Arc<HdfsStore>) {
    let data = noise(4, 3 * MIB + 1);
    store.put(&key("A%/c:d"), meta(3, false, 5), body(b"abc")).await.unwrap();
    store.put(&key("A/c:d"), meta(data.len(), false, 5), body(&vec![0; data.len()])).await.unwrap();
    for name in ["a,b/new,folder/c:d", "%41/c:d", "a+b/c:d", "e\u{301}/c"] {
        let begun = store.begin(&key(name), meta(data.len(), false, 5)).await.unwrap();
        let receipts = parts(&begun, &data, MIB).await;
        begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
        assert!(hdfs.read(&format!("{ROOT}/{}", name.replace(':', "\u{ff1a}"))).unwrap().as_ref() == Some(&data), "{name}");
        let info = store.head(&key(name)).await.unwrap();
        for expected in [None, info.as_ref()] {
            assert!(store.read(&key(name), 0..data.len() as u64, expected).await.unwrap().bytes.concat() == data, "{name}");
        }
    }
    assert_eq!(store.read(&key("A%/c:d"), 0..3, None).await.unwrap().bytes.concat(), b"abc");
    store.check("%41/").await.unwrap();
}

/// More parts than one CONCAT names.
async fn many_parts_in_several_requests(hdfs: &Hdfs, store: &Arc<HdfsStore>) {
    let (name, data) = (format!("{}/many", "folder".repeat(30)), noise(5, 40 * MIB + 1));
    let begun = store.begin(&key(&name), meta(data.len(), false, 6)).await.unwrap();
    let receipts = parts(&begun, &data, MIB).await;
    begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
    assert!(hdfs.read(&format!("{ROOT}/{name}")).unwrap().as_ref() == Some(&data));
}

/// Some parts are one file already when the process ends; another one finds that out, recalls all and completes.
async fn completing_goes_on_where_it_stopped(hdfs: &Hdfs, store: &Arc<HdfsStore>) {
    let (name, data) = (key("stopped/here"), noise(6, 3 * MIB + 7));
    let meta = meta(data.len(), false, 7);
    let begun = store.begin(&name, meta.clone()).await.unwrap();
    let receipts = parts(&begun, &data, MIB).await;
    let listed = tree(hdfs);
    let path = |number: usize| {
        let with = format!("/{number:08}-");
        listed
            .lines()
            .find(|line| line.contains("/stopped/.tradewind-") && line.contains(&with))
            .and_then(|line| line.split(' ').next_back())
            .unwrap()
    };
    hdfs.ask("POST", path(1), &format!("op=CONCAT&sources={},{}", path(2), path(3))).unwrap();
    let handle = begun.handle();
    drop(begun);
    let found = store_of(hdfs).reopen(&name, meta.clone(), &handle).await.unwrap();
    assert_eq!(found.recall(receipts.clone()).await.unwrap(), receipts);
    found.complete(&receipts, Crc64::of(&data)).await.unwrap();
    found.complete(&receipts, Crc64::of(&data)).await.unwrap();
    assert!(hdfs.read(&format!("{ROOT}/stopped/here")).unwrap().as_ref() == Some(&data));
    found.abort().await.unwrap();
    assert!(store.head(&name).await.unwrap().is_some(), "giving up what is complete takes nothing away");
    // A part that is not as it was acknowledged.
    let name = key("stopped/there");
    let begun = store.begin(&name, meta).await.unwrap();
    let mut receipts = parts(&begun, &data, MIB).await;
    receipts[1].len -= 1;
    assert_eq!(begun.recall(receipts.clone()).await.unwrap().len(), 3);
    let refused = begun.complete(&receipts, Crc64::of(&data)).await;
    assert!(matches!(refused, Err(StoreError::UploadGone { .. })), "{refused:?}");
    begun.abort().await.unwrap();
    assert!(matches!(begun.recall(receipts).await, Err(StoreError::UploadGone { .. })));
}

/// By the renaming that WebHDFS tells of, a file would get into a folder of its name.
async fn folders_are_not_replaced(hdfs: &Hdfs, store: &Arc<HdfsStore>) {
    store.put(&key("folder/is/here"), meta(1, false, 8), body(b"x")).await.unwrap();
    let before = tree(hdfs);
    for overwrite in [false, true] {
        let refused = store.put(&key("folder/is"), meta(3, overwrite, 9), body(b"new")).await;
        assert!(matches!(refused, Err(StoreError::InvalidName { .. })), "{refused:?}");
        let refused = store.put(&key("folder/is/here/below"), meta(3, overwrite, 10), body(b"new")).await;
        assert!(matches!(refused, Err(StoreError::InvalidName { .. })), "{refused:?}");
        let refused = store.begin(&key("folder/is/here/below"), meta(2 * MIB, overwrite, 11)).await.err();
        assert!(matches!(refused, Some(StoreError::InvalidName { .. })), "{refused:?}");
    }
    // One byte more than HDFS lets a name have.
    let refused = store.put(&key(&"n".repeat(256)), meta(3, false, 12), body(b"new")).await;
    assert!(matches!(refused, Err(StoreError::InvalidName { .. })), "{refused:?}");
    assert_eq!(store.head(&key("folder/is/here/below")).await.unwrap(), None);
    assert!(!store.delete(&key("folder/is/here/below")).await.unwrap());
    assert_eq!(tree(hdfs), before);
}

/// What another program wrote has its time and permissions, and nothing that was kept of what was there before.
async fn others_files_are_read_and_listed(hdfs: &Hdfs, store: &Arc<HdfsStore>) {
    let path = format!("{ROOT}/others");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"theirs").unwrap();
    hdfs.hadoop("fs.FsShell", &["-put", &file.path().display().to_string(), &path]).unwrap();
    let info = store.head(&key("others")).await.unwrap().unwrap();
    assert_eq!((info.size, info.crc, info.mode, info.mtime_ns), (6, None, Some(0o644), info.modified_ns));
    assert_eq!(store.read(&key("others"), 1..5, Some(&info)).await.unwrap().bytes.concat(), b"heir");
    store.put(&key("appended"), meta(3, false, 12), body(b"abc")).await.unwrap();
    let before = store.head(&key("appended")).await.unwrap().unwrap();
    hdfs.hadoop("fs.FsShell", &["-appendToFile", &file.path().display().to_string(), &format!("{ROOT}/appended")]).unwrap();
    let after = store.head(&key("appended")).await.unwrap().unwrap();
    assert_eq!((after.size, after.crc), (9, None), "the checksum is that of other contents");
    let changed = store.read(&key("appended"), 0..3, Some(&before)).await;
    assert!(matches!(changed, Err(StoreError::ObjectChanged { .. })), "{changed:?}");
}

/// Files that their owner may not write to are written, replaced and removed all the same.
async fn read_only_files(hdfs: &Hdfs, store: &Arc<HdfsStore>) {
    let data = noise(7, MIB + 1);
    for (overwrite, token) in [(false, 13), (true, 14)] {
        let meta = ObjectMeta { mode: 0o440, ..meta(data.len(), overwrite, token) };
        let begun = store.begin(&key("read-only"), meta).await.unwrap();
        let receipts = parts(&begun, &data, MIB).await;
        begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
        assert_eq!(store.head(&key("read-only")).await.unwrap().unwrap().mode, Some(0o440));
    }
    assert!(hdfs.read(&format!("{ROOT}/read-only")).unwrap().as_ref() == Some(&data));
    assert!(store.delete(&key("read-only")).await.unwrap());
}

async fn destinations_are_checked(hdfs: &Hdfs) {
    let check = |config: HdfsConfig, prefix: &'static str| async move { HdfsStore::open(&config).unwrap().check(prefix).await };
    for prefix in ["", "up/", "new/folder/"] {
        check(config_of(hdfs, ROOT, USER), prefix).await.unwrap();
    }
    let file = check(config_of(hdfs, ROOT, USER), "others/below/").await;
    assert!(matches!(file, Err(StoreError::InvalidName { .. })), "{file:?}");
    let missing = check(config_of(hdfs, "/nothing-here", USER), "").await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
    let denied = check(config_of(hdfs, ROOT, "stranger"), "up/").await;
    assert!(matches!(denied, Err(StoreError::AccessDenied { .. })), "{denied:?}");
    // A token that is none.
    let auth = HdfsAuth::Token("hush-hush".to_owned().into());
    let wrong = check(HdfsConfig { auth, ..config_of(hdfs, ROOT, USER) }, "").await.unwrap_err();
    assert!(!wrong.is_retryable() && !format!("{wrong:?} {wrong}").contains("hush"), "{wrong:?}");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unavailable = check(HdfsConfig { namenodes: vec![format!("http://{gone}")], ..config_of(hdfs, ROOT, USER) }, "").await;
    assert!(matches!(unavailable, Err(StoreError::Unavailable { .. })), "{unavailable:?}");
}

async fn the_other_namenode_is_asked(hdfs: &Hdfs) {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let namenodes = vec![format!("http://{gone}"), hdfs.namenode()];
    let store = HdfsStore::open(&HdfsConfig { namenodes, ..config_of(hdfs, ROOT, USER) }).unwrap();
    store.put(&key("other namenode"), meta(3, false, 15), body(b"abc")).await.unwrap();
    assert!(store.delete(&key("other namenode")).await.unwrap());
}

async fn quotas_and_safe_mode(hdfs: &Hdfs, store: &Arc<HdfsStore>) {
    let admin = |arguments: &[&str]| hdfs.hadoop("hdfs.tools.DFSAdmin", arguments).unwrap();
    hdfs.ask("PUT", &format!("{ROOT}/little"), "op=MKDIRS&permission=777").unwrap();
    admin(&["-setSpaceQuota", "1m", &format!("{ROOT}/little")]);
    let full = store.put(&key("little/room"), meta(2 * MIB, false, 16), body(&noise(8, 2 * MIB))).await;
    // Its DataNode says 201.
    assert!(matches!(&full, Err(StoreError::Unavailable { detail, .. }) if detail.contains("quota")), "{full:?}");
    admin(&["-setQuota", "1", &format!("{ROOT}/little")]);
    let full = store.put(&key("little/room"), meta(3, false, 16), body(b"abc")).await;
    assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
    admin(&["-safemode", "enter"]);
    let safe = store.put(&key("safe"), meta(3, false, 17), body(b"abc")).await;
    assert!(matches!(&safe, Err(StoreError::Unavailable { detail, .. }) if detail.contains("safe mode")), "{safe:?}");
    admin(&["-safemode", "leave"]);
    store.put(&key("safe"), meta(3, false, 17), body(b"abc")).await.unwrap();
    assert!(!tree(hdfs).contains("/.tradewind-"), "{}", tree(hdfs));
}

async fn without_a_datanode(hdfs: &mut Hdfs, store: &Arc<HdfsStore>) {
    hdfs.stop_datanode().unwrap();
    let unavailable = store.put(&key("nowhere to go"), meta(3, false, 18), body(b"abc")).await;
    assert!(matches!(unavailable, Err(StoreError::Unavailable { .. })), "{unavailable:?}");
    let unread = store.read(&key("safe"), 0..3, None).await;
    assert!(matches!(unread, Err(StoreError::Unavailable { .. })), "{unread:?}");
}
