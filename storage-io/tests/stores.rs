//! The conformance table: one suite of checks over every platform, each against the most real server that can run here. `cargo xtask test stores`
//! prints it.

mod common;

use std::sync::Arc;

use common::checks::{Subject, conform, skip};
use common::weed::Weed;
use tradewind_bench::azurite::{ACCOUNT, Azurite, CONTAINER, KEY};
use tradewind_bench::ceph::{self, Ceph};
use tradewind_bench::gcs::{self, Gcs};
use tradewind_bench::hdfs::{self, Hdfs};
use tradewind_bench::keystone::{self, Keystone};
use tradewind_bench::netstorage::{self, NetStorage};
use tradewind_bench::swift::{self, Swift};
use tradewind_storage::{
    AzureConfig, AzureCredentials, AzureStore, Credentials, Dialect, GcsConfig, GcsCredentials, GcsStore, HdfsAuth, HdfsConfig, HdfsStore,
    LargeObjects, LocalStore, NetStorageConfig, NetStorageStore, S3Config, S3Store, Store, SwiftAuth, SwiftConfig, SwiftStore,
};

fn s3(config: &S3Config) -> Arc<dyn Store> {
    Arc::new(S3Store::open(config).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_as_amazon_serves_it() {
    let Some(weed) = Weed::start("S3").map(Arc::new) else { return skip("Amazon S3", "SeaweedFS", "SeaweedFS is not installed") };
    let (opened, read) = (Arc::clone(&weed), Arc::clone(&weed));
    conform(Subject {
        stranger: Some(s3(&weed.config("bkt1", "test1", "not-it"))),
        nowhere: Some(s3(&weed.config("no-such-bucket", "test1", "secret1"))),
        ..Subject::new("Amazon S3", "SeaweedFS 4.48", Arc::new(move || opened.store("bkt1")), Arc::new(move |key| read.read("bkt1", key)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_as_older_stores_serve_it() {
    let (platform, server) = ("S3, dialect legacy", "SeaweedFS 4.48, asked as Ceph 16 would be");
    let Some(weed) = Weed::start("S3, dialect legacy").map(Arc::new) else { return skip(platform, server, "SeaweedFS is not installed") };
    let (opened, read) = (Arc::clone(&weed), Arc::clone(&weed));
    let legacy = |config: S3Config| S3Config { dialect: Dialect::Legacy, ..config };
    conform(Subject {
        stranger: Some(s3(&legacy(weed.config("bkt1", "test1", "not-it")))),
        nowhere: Some(s3(&legacy(weed.config("no-such-bucket", "test1", "secret1")))),
        unverified: Some("the dialect has no checksums"),
        unconditional: Some("the dialect has no conditions"),
        ..Subject::new(
            platform,
            server,
            Arc::new(move || s3(&legacy(opened.config("bkt1", "test1", "secret1")))),
            Arc::new(move |key| read.read("bkt1", key)),
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure() {
    let Some(azurite) = Azurite::start().unwrap().map(Arc::new) else {
        return skip("Azure Blob Storage", "Azurite", "Azurite is not installed");
    };
    let endpoint = azurite.endpoint();
    let store = move |container: &str, key: &str| -> Arc<dyn Store> {
        let credentials = AzureCredentials::key(key).unwrap();
        let (account, container) = (ACCOUNT.to_owned(), container.to_owned());
        Arc::new(AzureStore::open(&AzureConfig { account, container, endpoint: Some(endpoint.clone()), credentials }).unwrap())
    };
    let (stranger, nowhere) = (store(CONTAINER, "c2VjcmV0LXRoYXQtaXMtd3Jvbmc="), store("nothing-here", KEY));
    conform(Subject {
        stranger: Some(stranger),
        nowhere: Some(nowhere),
        unverified: Some("Azurite ignores them"),
        ..Subject::new(
            "Azure Blob Storage",
            "Azurite 3.37",
            Arc::new(move || store(CONTAINER, KEY)),
            Arc::new(move |key| azurite.read(key).unwrap()),
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_of_ceph() {
    let Some(ceph) = Ceph::start().unwrap().map(Arc::new) else { return skip("Ceph", ceph::SERVER, "Ceph is not installed") };
    let url = ceph.url();
    let store = move |bucket: &str, secret: &str| s3(&S3Config::at_endpoint(url.clone(), bucket, Credentials::new(ceph::ACCESS, secret)));
    let (stranger, nowhere) = (store(ceph::BUCKET, "not-it"), store("no-such-bucket", ceph::SECRET));
    conform(Subject {
        stranger: Some(stranger),
        nowhere: Some(nowhere),
        unverified: Some("this version ignores them"),
        unconditional: Some("this version has no conditional completion"),
        has_dashes: true,
        ..Subject::new(
            "Ceph",
            ceph::SERVER,
            Arc::new(move || store(ceph::BUCKET, ceph::SECRET)),
            Arc::new(move |key| ceph.read(key).unwrap()),
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_cloud_storage() {
    let platform = "Google Cloud Storage";
    let Some(running) = Gcs::start().unwrap().map(Arc::new) else { return skip(platform, gcs::SERVER, "the emulator is not installed") };
    let endpoint = running.endpoint();
    let store = move |bucket: &str| -> Arc<dyn Store> {
        let (bucket, endpoint, credentials) = (bucket.to_owned(), Some(endpoint.clone()), GcsCredentials::Anonymous);
        Arc::new(GcsStore::open(&GcsConfig { bucket, endpoint, credentials }).unwrap())
    };
    let nowhere = store("nothing-here");
    conform(Subject {
        // The emulator lets everybody in.
        nowhere: Some(nowhere),
        unconditional: Some("the emulator ignores conditions"),
        ..Subject::new(platform, gcs::SERVER, Arc::new(move || store(gcs::BUCKET)), Arc::new(move |key| running.read(key).unwrap()))
    })
    .await;
}

fn swift_store(container: &str, auth: SwiftAuth, large_objects: LargeObjects) -> Arc<dyn Store> {
    Arc::new(SwiftStore::open(&SwiftConfig { container: container.to_owned(), segments: None, auth, large_objects }).unwrap())
}

async fn conform_swift(platform: &'static str, large_objects: LargeObjects) {
    let Some(running) = Swift::start().unwrap().map(Arc::new) else { return skip(platform, "Swift", "Swift is not installed") };
    let auth_url = running.auth_url();
    let store = move |container: &str, key: &str| {
        let auth = SwiftAuth::V1 { auth_url: auth_url.clone(), user: swift::USER.to_owned(), key: key.to_owned().into() };
        swift_store(container, auth, large_objects)
    };
    let (stranger, nowhere) = (store(swift::CONTAINER, "not-it"), store("nothing-here", swift::KEY));
    conform(Subject {
        stranger: Some(stranger),
        nowhere: Some(nowhere),
        ..Subject::new(
            platform,
            swift::SERVER,
            Arc::new(move || store(swift::CONTAINER, swift::KEY)),
            Arc::new(move |key| running.read(key).unwrap()),
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swift_static() {
    conform_swift("OpenStack Swift", LargeObjects::Slo).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swift_dynamic() {
    conform_swift("Swift, dynamic large objects", LargeObjects::Dlo).await;
}

/// A user that the directory is not open to stands for credentials: simple authentication knows none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hdfs() {
    let platforms = ["HDFS", "HDFS (RPC)"];
    let Some(running) = Hdfs::start().unwrap().map(Arc::new) else {
        return platforms.iter().for_each(|platform| skip(platform, hdfs::SERVER, "Hadoop is not installed"));
    };
    for (platform, root, rpc_addresses) in [
        (platforms[0], format!("{}/web", hdfs::ROOT), Vec::new()),
        (platforms[1], format!("{}/rpc", hdfs::ROOT), vec![running.rpc_address()]),
    ] {
        running.make_root(&root).unwrap();
        let namenodes = vec![running.namenode()];
        let store = move |root: &str, user: &str| -> Arc<dyn Store> {
            let (namenodes, rpc_addresses) = (namenodes.clone(), rpc_addresses.clone());
            let auth = HdfsAuth::User(user.to_owned());
            Arc::new(HdfsStore::open(&HdfsConfig { namenodes, rpc_addresses, root: root.to_owned(), auth }).unwrap())
        };
        let (stranger, nowhere) = (store(&root, "stranger"), store("/nothing-here", hdfs::USER));
        let (running, read_root) = (Arc::clone(&running), root.clone());
        conform(Subject {
            stranger: Some(stranger),
            nowhere: Some(nowhere),
            // A colon is another in HDFS, as rclone has it.
            ..Subject::new(
                platform,
                hdfs::SERVER,
                Arc::new(move || store(&root, hdfs::USER)),
                Arc::new(move |key| running.read(&format!("{read_root}/{}", key.replace(':', "\u{ff1a}"))).unwrap()),
            )
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn netstorage() {
    let (running, spool) = (Arc::new(NetStorage::start().unwrap()), tempfile::tempdir().unwrap());
    let (url, spool_dir) = (running.url(), spool.path().to_owned());
    let store = move |cp_code: &str, key: &str| -> Arc<dyn Store> {
        let config = NetStorageConfig {
            url: url.clone(),
            cp_code: cp_code.to_owned(),
            upload_account: netstorage::ACCOUNT.to_owned(),
            key: key.to_owned().into(),
            spool_dir: spool_dir.clone(),
            requests_per_s: None,
        };
        Arc::new(NetStorageStore::open(&config).unwrap())
    };
    let (stranger, nowhere) = (store(netstorage::CP_CODE, "not-it"), store("654321", netstorage::KEY));
    conform(Subject {
        stranger: Some(stranger),
        nowhere: Some(nowhere),
        unconditional: Some("NetStorage has no conditions"),
        is_bare: true,
        ..Subject::new(
            "Akamai NetStorage",
            netstorage::SERVER,
            Arc::new(move || store(netstorage::CP_CODE, netstorage::KEY)),
            Arc::new(move |key| running.read(key).unwrap()),
        )
    })
    .await;
    assert_eq!(spool.path().read_dir().unwrap().count(), 0, "files that nothing needs stay in the spool directory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swift_with_keystone() {
    let (platform, server) = ("Swift, Keystone version 3", "Swift 2.38, Keystone 30.0");
    let Some(keystone) = Keystone::start().unwrap() else { return skip(platform, server, "Keystone is not installed") };
    let Some((running, _)) = Swift::start_with_keystone(&keystone).unwrap() else {
        return skip(platform, server, "Swift is not installed");
    };
    let store = move |container: &str, password: &str| {
        let (user, project) = (keystone::USER.to_owned(), keystone::PROJECT.to_owned());
        let (auth_url, password, interface) = (keystone.url(), password.to_owned().into(), "public".to_owned());
        let (user_domain, project_domain) = ("Default".to_owned(), "Default".to_owned());
        let auth = SwiftAuth::Password { auth_url, user, user_domain, password, project, project_domain, region: None, interface };
        swift_store(container, auth, LargeObjects::Auto)
    };
    let (stranger, nowhere) = (store(swift::CONTAINER, "not-it"), store("nothing-here", keystone::PASSWORD));
    conform(Subject {
        stranger: Some(stranger),
        nowhere: Some(nowhere),
        ..Subject::new(
            platform,
            server,
            Arc::new(move || store(swift::CONTAINER, keystone::PASSWORD)),
            Arc::new(move |key| running.read(key).unwrap()),
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_files() {
    let root = tempfile::Builder::new().prefix(".test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (opened, read) = (root.path().to_owned(), root.path().to_owned());
    conform(Subject {
        unverified: Some("a directory has none of its own"),
        is_directory: true,
        ..Subject::new(
            "local files",
            "the disk that is built on",
            Arc::new(move || Arc::new(LocalStore::open(&opened).unwrap())),
            Arc::new(move |key| std::fs::read(read.join(key)).ok()),
        )
    })
    .await;
}
