//! Data that goes to HDFS and comes from it by Hadoop's own protocol (Hadoop 2.7.3), and what can go wrong with it.
//!
//! What every platform must do is in tests/stores.rs, what WebHDFS does for both in tests/hdfs.rs. Without Hadoop the test says SKIP and passes.

mod common;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{MIB, body, key, noise};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tradewind_bench::hdfs::{Hdfs, ROOT, USER};
use tradewind_storage::{Body, Crc64, HdfsAuth, HdfsConfig, HdfsStore, ObjectMeta, Part, Store, StoreError, Upload};

/// More than can be on its way, in DataNode and sockets, when a DataNode stops.
const LARGE_MIB: usize = 256;

fn config_of(hdfs: &Hdfs, user: &str) -> HdfsConfig {
    HdfsConfig {
        namenodes: vec![hdfs.namenode()],
        rpc_addresses: vec![hdfs.rpc_address()],
        root: ROOT.to_owned(),
        auth: HdfsAuth::User(user.to_owned()),
    }
}

fn open(config: &HdfsConfig) -> Arc<HdfsStore> {
    Arc::new(HdfsStore::open(config).unwrap())
}

fn meta(size: usize, token: u128) -> ObjectMeta {
    ObjectMeta { size: size as u64, mtime_ns: common::MTIME_NS, mode: 0o640, overwrite: false, token, attributes: [].into() }
}

fn large() -> Body {
    let piece = Bytes::from(noise(1, MIB));
    let crc = (0..LARGE_MIB).fold(Crc64::default(), |crc, _| crc.append(Crc64::of(&piece), MIB as u64));
    Body::new(vec![piece; LARGE_MIB], crc)
}

async fn in_parts(store: &HdfsStore, name: &str, data: &[u8], token: u128) {
    let begun = store.begin(&key(name), meta(data.len(), token)).await.unwrap();
    complete(&begun, data).await;
}

async fn complete(begun: &Arc<dyn Upload>, data: &[u8]) {
    let mut receipts = Vec::new();
    for (at, chunk) in data.chunks(MIB).enumerate() {
        let part = Part { number: at as u32 + 1, offset: (at * MIB) as u64, body: body(chunk) };
        receipts.push(begun.put_part(part).await.unwrap());
    }
    begun.complete(&receipts, Crc64::of(data)).await.unwrap();
}

/// Waits for at most ten seconds.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(10), "{what}: not after ten seconds");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until a block that is none of those has more than 4 MiB.
async fn until_on_its_way(hdfs: &Hdfs, before: &[PathBuf]) {
    let bytes = |block: &PathBuf| block.metadata().map_or(0, |metadata| metadata.len());
    let is_written = |block: &PathBuf| !before.contains(block) && bytes(block) > 4 * MIB as u64;
    // A block may get another name while they are listed.
    until("a block is being written", || hdfs.blocks().is_ok_and(|blocks| blocks.iter().any(is_written))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hdfs_by_rpc() {
    let Some(mut hdfs) = Hdfs::start().unwrap() else { return };
    let store = open(&config_of(&hdfs, USER));
    data_goes_by_rpc_alone(&hdfs).await;
    begun_one_way_and_completed_the_other(&hdfs, &store).await;
    names_are_as_they_are(&hdfs, &store).await;
    users_and_addresses(&hdfs).await;
    quotas_are_told(&hdfs, &store).await;
    damage_is_found(&hdfs, &store).await;
    a_cancelled_part_leaves_nothing(&hdfs, &store).await;
    let listed = String::from_utf8(hdfs.hadoop("fs.FsShell", &["-ls", "-R", ROOT]).unwrap()).unwrap();
    assert!(!listed.contains(".tradewind-"), "unfinished files that nothing needs:\n{listed}");
    a_datanode_dies(&mut hdfs, &store).await;
}

/// Stands before a NameNode's web port and hears what it is asked.
async fn listened_to(namenode: &str) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, heard) = (format!("http://{}", listener.local_addr().unwrap()), Arc::new(Mutex::new(Vec::new())));
    let (namenode, hears) = (namenode.trim_start_matches("http://").to_owned(), Arc::clone(&heard));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut from, mut back) = client.into_split();
            let (mut answers, mut to) = tokio::net::TcpStream::connect(&namenode).await.unwrap().into_split();
            let hears = Arc::clone(&hears);
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
                    hears.lock().unwrap().extend_from_slice(&buffer[..bytes]);
                    to.write_all(&buffer[..bytes]).await.unwrap();
                }
            });
        }
    });
    (address, heard)
}

/// A DataNode's web port is told by the NameNode's only, which is not asked for it.
async fn data_goes_by_rpc_alone(hdfs: &Hdfs) {
    const BY_DATANODES: [&str; 3] = ["op=CREATE", "op=OPEN", "op=GETFILECHECKSUM"];
    let data = noise(2, 3 * MIB + 5);
    for (name, rpc_addresses) in [("by-rpc", vec![hdfs.rpc_address()]), ("by-web", Vec::new())] {
        let (namenode, heard) = listened_to(&hdfs.namenode()).await;
        let store = open(&HdfsConfig { namenodes: vec![namenode], rpc_addresses: rpc_addresses.clone(), ..config_of(hdfs, USER) });
        in_parts(&store, &format!("{name}/parts"), &data, 1).await;
        store.put(&key(&format!("{name}/whole")), meta(3, 2), body(b"abc")).await.unwrap();
        store.put(&key(&format!("{name}/empty")), meta(0, 3), body(b"")).await.unwrap();
        let read = store.read(&key(&format!("{name}/parts")), MIB as u64 - 7..2 * MIB as u64 + 9, None).await.unwrap();
        assert!(read.bytes.concat() == data[MIB - 7..2 * MIB + 9], "{name}");
        store.check("").await.unwrap();
        for (file, contents) in [("parts", &data[..]), ("whole", b"abc"), ("empty", b"")] {
            assert!(hdfs.read(&format!("{ROOT}/{name}/{file}")).unwrap().as_deref() == Some(contents), "{name}/{file}");
        }
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
        let asked = BY_DATANODES.iter().filter(|op| heard.contains(**op)).count();
        assert_eq!(asked, if rpc_addresses.is_empty() { BY_DATANODES.len() } else { 0 }, "{name}: {heard}");
        assert!(heard.contains("op=CONCAT") && heard.contains("op=RENAME"), "{name}: {heard}");
    }
    let status = hdfs.ask("GET", &format!("{ROOT}/by-rpc/parts"), "op=GETFILESTATUS").unwrap();
    assert!(status.contains("\"blockSize\":1048576,") && status.contains("\"permission\":\"640\""), "{status}");
}

/// As when `rpc_addresses` come into the configuration, or go, while an upload is interrupted.
async fn begun_one_way_and_completed_the_other(hdfs: &Hdfs, store: &Arc<HdfsStore>) {
    let (data, web) = (noise(7, 2 * MIB + 1), open(&HdfsConfig { rpc_addresses: Vec::new(), ..config_of(hdfs, USER) }));
    for (name, first, then) in [("to-web", store, &web), ("to-rpc", &web, store)] {
        let (key, meta) = (key(name), meta(data.len(), 14));
        let (mut begun, mut receipts) = (first.begin(&key, meta.clone()).await.unwrap(), Vec::new());
        for (at, chunk) in data.chunks(MIB).enumerate() {
            receipts.push(begun.put_part(Part { number: at as u32 + 1, offset: (at * MIB) as u64, body: body(chunk) }).await.unwrap());
            begun = then.reopen(&key, meta.clone(), &begun.handle()).await.unwrap();
        }
        assert_eq!(begun.recall(receipts.clone()).await.unwrap(), receipts, "{name}");
        begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
        assert!(hdfs.read(&format!("{ROOT}/{name}")).unwrap().as_ref() == Some(&data), "{name}");
    }
}

/// Names that a redirection to a DataNode would change.
async fn names_are_as_they_are(hdfs: &Hdfs, store: &HdfsStore) {
    let data = noise(3, 2 * MIB + 1);
    store.put(&key("A/c:d"), meta(data.len(), 4), body(&vec![0; data.len()])).await.unwrap();
    for name in ["a,b/c:d", "%41/c:d", "a+b/c:d", "e\u{301}/c"] {
        in_parts(store, name, &data, 5).await;
        assert!(hdfs.read(&format!("{ROOT}/{}", name.replace(':', "\u{ff1a}"))).unwrap().as_ref() == Some(&data), "{name}");
        assert!(store.read(&key(name), 0..data.len() as u64, None).await.unwrap().bytes.concat() == data, "{name}");
    }
}

async fn users_and_addresses(hdfs: &Hdfs) {
    let stranger = open(&config_of(hdfs, "stranger"));
    let denied = stranger.put(&key("denied"), meta(3, 6), body(b"abc")).await;
    assert!(matches!(&denied, Err(StoreError::AccessDenied { detail, .. }) if detail.contains("user=stranger")), "{denied:?}");
    let denied = stranger.check("").await;
    assert!(matches!(denied, Err(StoreError::AccessDenied { .. })), "{denied:?}");
    // Nobody answers there; it is the web port; the one that answers comes second.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let web = hdfs.namenode().trim_start_matches("http://").to_owned();
    for wrong in [&gone, &web] {
        let store = open(&HdfsConfig { rpc_addresses: vec![wrong.clone()], ..config_of(hdfs, USER) });
        let unavailable = store.check("").await;
        assert!(matches!(&unavailable, Err(StoreError::Unavailable { detail, .. }) if detail.contains("rpc_addresses")), "{unavailable:?}");
    }
    let store = open(&HdfsConfig { rpc_addresses: vec![gone, hdfs.rpc_address()], ..config_of(hdfs, USER) });
    store.put(&key("other namenode"), meta(3, 7), body(b"abc")).await.unwrap();
    assert_eq!(store.read(&key("other namenode"), 1..3, None).await.unwrap().bytes.concat(), b"bc");
}

/// WebHDFS says 201 of these.
async fn quotas_are_told(hdfs: &Hdfs, store: &HdfsStore) {
    hdfs.ask("PUT", &format!("{ROOT}/little"), "op=MKDIRS&permission=777").unwrap();
    hdfs.hadoop("hdfs.tools.DFSAdmin", &["-setSpaceQuota", "1m", &format!("{ROOT}/little")]).unwrap();
    let full = store.put(&key("little/room"), meta(2 * MIB, 8), body(&noise(4, 2 * MIB))).await;
    assert!(matches!(&full, Err(StoreError::Full { detail, .. }) if detail.contains("quota")), "{full:?}");
}

/// A bit of a block on the DataNode's disk is another: what is read of it is not taken, and the rest is.
async fn damage_is_found(hdfs: &Hdfs, store: &HdfsStore) {
    let data = noise(5, 2 * MIB);
    store.put(&key("damaged"), meta(data.len(), 9), body(&data)).await.unwrap();
    let block = hdfs.blocks().unwrap().into_iter().find(|block| std::fs::read(block).is_ok_and(|bytes| bytes == data)).unwrap();
    let mut bytes = data.clone();
    bytes[MIB] ^= 1;
    std::fs::write(&block, bytes).unwrap();
    let sound = store.read(&key("damaged"), 0..MIB as u64, None).await.unwrap();
    assert!(sound.bytes.concat() == data[..MIB]);
    let damaged = store.read(&key("damaged"), MIB as u64..MIB as u64 + 9, None).await;
    assert!(matches!(&damaged, Err(StoreError::Unavailable { detail, .. }) if detail.contains("checksums")), "{damaged:?}");
}

/// Its connection ends, though the DataNode had stopped, and the file that stays open goes with the upload.
async fn a_cancelled_part_leaves_nothing(hdfs: &Hdfs, store: &HdfsStore) {
    let (data, blocks, before) = (noise(6, 2 * MIB + 3), hdfs.blocks().unwrap(), hdfs.transfers().unwrap());
    let begun = store.begin(&key("cancelled"), meta(data.len(), 10)).await.unwrap();
    let putting = tokio::spawn({
        let begun = Arc::clone(&begun);
        async move { begun.put_part(Part { number: 1, offset: 0, body: large() }).await }
    });
    until_on_its_way(hdfs, &blocks).await;
    assert!(hdfs.transfers().unwrap() > before);
    hdfs.datanode().signal_stop();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!putting.is_finished(), "the DataNode takes nothing");
    putting.abort();
    assert!(putting.await.unwrap_err().is_cancelled());
    hdfs.datanode().signal_continue();
    until("its connection has ended", || hdfs.transfers().unwrap() <= before).await;
    complete(&begun, &data).await;
    assert!(hdfs.read(&format!("{ROOT}/cancelled")).unwrap().as_ref() == Some(&data));
}

async fn a_datanode_dies(hdfs: &mut Hdfs, store: &Arc<HdfsStore>) {
    store.put(&key("there before"), meta(3, 11), body(b"abc")).await.unwrap();
    let blocks = hdfs.blocks().unwrap();
    let putting = tokio::spawn({
        let store = Arc::clone(store);
        async move { store.put(&key("interrupted"), meta(LARGE_MIB * MIB, 12), large()).await }
    });
    until_on_its_way(hdfs, &blocks).await;
    hdfs.kill_datanode().unwrap();
    let broken = putting.await.unwrap();
    assert!(matches!(&broken, Err(StoreError::Unavailable { detail, .. }) if detail.contains("nodes failed")), "{broken:?}");
    let refused = store.put(&key("nowhere to go"), meta(3, 13), body(b"abc")).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable { detail, .. }) if detail.contains("a DataNode: Connection refused")),
        "{refused:?}"
    );
    let unread = store.read(&key("there before"), 0..3, None).await;
    assert!(matches!(&unread, Err(StoreError::Unavailable { detail, .. }) if detail.contains("no DataNode")), "{unread:?}");
    assert!(broken.unwrap_err().is_retryable() && refused.unwrap_err().is_retryable() && unread.unwrap_err().is_retryable());
}
