//! Uploads to the real OpenStack Swift (from PyPI), read back by curl without a token from a container that everybody may read.
//!
//! What every platform must do is in tests/stores.rs. Without Swift the test says SKIP and passes.

mod common;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use common::listing::pages;
use common::{MIB, all_kinds, assert_done, body, config, key, noise, source, upload};
use tradewind_bench::keystone::{self, Keystone};
use tradewind_bench::swift::{CONTAINER, KEY, Swift, USER};
use tradewind_storage::{
    Crc64, Depth, LargeObjects, ObjectKey, ObjectMeta, Part, Store as _, StoreError, SwiftAuth, SwiftConfig, SwiftStore, UploadError,
};

fn config_of(swift: &Swift, container: &str, key: &str, large_objects: LargeObjects) -> SwiftConfig {
    let auth = SwiftAuth::V1 { auth_url: swift.auth_url(), user: USER.to_owned(), key: key.to_owned().into() };
    SwiftConfig { container: container.to_owned(), segments: None, auth, large_objects }
}

fn store_of(swift: &Swift, large_objects: LargeObjects) -> Arc<SwiftStore> {
    Arc::new(SwiftStore::open(&config_of(swift, CONTAINER, KEY, large_objects)).unwrap())
}

fn meta(size: usize, overwrite: bool, token: u128) -> ObjectMeta {
    let attributes = [("uid", "1000"), ("tradewind-xattr.a_b", "v")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    ObjectMeta { size: size as u64, mtime_ns: common::MTIME_NS, mode: 0o640, overwrite, token, attributes }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swift() {
    let Some(mut swift) = Swift::start().unwrap() else { return };
    let store = store_of(&swift, LargeObjects::Auto);
    let sources = all_kinds();
    let outcome = upload(store.clone(), config("up/"), &sources).await;
    assert_done(&outcome, &sources);
    for source in &sources {
        let name = format!("up/{}", source.path);
        assert!(swift.read(&name).unwrap().as_ref() == Some(&source.data), "{name} differs when read with curl");
        let info = store.head(&key(&name)).await.unwrap().expect("it is there");
        assert_eq!((info.size, info.crc), (source.data.len() as u64, Some(Crc64::of(&source.data))), "{name}");
    }
    let again = upload(store.clone(), config("up/"), &[source("part", 4 * MIB)]).await;
    assert!(matches!(again.failed, Some(UploadError::Store(StoreError::DestinationExists { .. }))), "{:?}", again.failed);

    for large_objects in [LargeObjects::Slo, LargeObjects::Dlo] {
        large_objects_come_and_go(&swift, large_objects).await;
    }
    many_pages(&store).await;
    old_versions_keep_their_segments(&swift).await;
    metadata_that_is_too_long_is_refused(&store).await;
    destinations_are_checked(&swift).await;

    swift.forget_tokens().unwrap();
    // The new proxy may need a moment to find the other servers.
    let renewed = async {
        loop {
            match store.head(&key("never there")).await {
                Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(200)).await,
                looked => return looked,
            }
        }
    };
    let renewed = tokio::time::timeout(Duration::from_secs(60), renewed).await.expect("within a minute");
    assert_eq!(renewed.unwrap(), None, "a token that is not taken is renewed");
}

/// Names of the segments that are there.
async fn segments(swift: &Swift, prefix: &str) -> Vec<String> {
    let segments = SwiftStore::open(&config_of(swift, "test_segments", KEY, LargeObjects::Slo)).unwrap();
    let entries = pages(&segments, prefix, 100, Depth::All).await;
    entries.iter().map(|entry| String::from_utf8(entry.key().to_vec()).unwrap()).collect()
}

async fn large_objects_come_and_go(swift: &Swift, large_objects: LargeObjects) {
    let (store, name) = (store_of(swift, large_objects), format!("large {large_objects:?}/ü +%"));
    let data = noise(3, 2 * MIB + 5);
    let put = async |overwrite: bool, token: u128| {
        let begun = store.begin(&key(&name), meta(data.len(), overwrite, token)).await?;
        let mut receipts = Vec::new();
        for (number, chunk) in (1..).zip(data.chunks(MIB)) {
            receipts.push(begun.put_part(Part { number, offset: 0, body: body(chunk) }).await.unwrap());
        }
        begun.complete(&receipts, Crc64::of(&data)).await.map(|stored| (stored, begun))
    };
    let (stored, begun) = put(false, 1).await.unwrap();
    let info = store.head(&key(&name)).await.unwrap().expect("it is there");
    assert_eq!((info.size, info.mtime_ns, info.mode), (data.len() as u64, Some(common::MTIME_NS), Some(0o640)), "{large_objects:?}");
    assert_eq!(info.etag, stored.etag, "{large_objects:?}");
    assert!(swift.read(&name).unwrap().as_ref() == Some(&data), "{large_objects:?}");
    let middle = store.read(&key(&name), MIB as u64 - 1..MIB as u64 + 1, Some(&info)).await.unwrap();
    assert_eq!(middle.bytes.concat(), data[MIB - 1..=MIB], "{large_objects:?}");
    let listed = store.list(&name, None, 10, Depth::All).await.unwrap();
    let [tradewind_storage::ListEntry::Object(object)] = &listed.entries[..] else { panic!("{listed:?}") };
    assert_eq!((object.size, object.etag.as_ref()), (info.size, info.etag.as_ref()), "{large_objects:?}");
    assert_eq!(segments(swift, &name).await.len(), 3);
    // Giving up what is complete takes nothing away.
    begun.abort().await.unwrap();
    assert_eq!(segments(swift, &name).await.len(), 3);
    let refused = put(false, 2).await.err();
    assert!(matches!(refused, Some(StoreError::DestinationExists { .. })), "{refused:?}");
    // Another takes its place, and its segments are the only ones.
    put(true, 3).await.unwrap();
    assert!(swift.read(&name).unwrap().as_ref() == Some(&data));
    assert_eq!(segments(swift, &name).await.len(), 3, "{large_objects:?}: those of the first are gone");
    store.put(&key(&name), meta(3, true, 4), body(b"abc")).await.unwrap();
    assert_eq!(segments(swift, &name).await, [""; 0], "{large_objects:?}");
    put(true, 5).await.unwrap();
    assert!(store.delete(&key(&name)).await.unwrap() && !store.delete(&key(&name)).await.unwrap());
    assert_eq!(segments(swift, &name).await, [""; 0], "{large_objects:?}: deleted");
    // Given up before its end.
    let begun = store.begin(&key(&name), meta(data.len(), false, 6)).await.unwrap();
    begun.put_part(Part { number: 1, offset: 0, body: body(&data[..MIB]) }).await.unwrap();
    assert_eq!(segments(swift, &name).await.len(), 1);
    begun.abort().await.unwrap();
    assert_eq!(segments(swift, &name).await, [""; 0], "{large_objects:?}: given up");
}

/// Stores an object of three segments.
async fn put_large(store: &Arc<SwiftStore>, name: &str, token: u128) -> Result<Vec<u8>, StoreError> {
    let data = noise(token as u64, 2 * MIB + 5);
    let begun = store.begin(&key(name), meta(data.len(), true, token)).await?;
    let mut receipts = Vec::new();
    for (number, chunk) in (1..).zip(data.chunks(MIB)) {
        receipts.push(begun.put_part(Part { number, offset: 0, body: body(chunk) }).await?);
    }
    begun.complete(&receipts, Crc64::of(&data)).await.map(|_| data)
}

async fn old_versions_keep_their_segments(swift: &Swift) {
    swift.make_versioned("history").unwrap();
    let store = Arc::new(SwiftStore::open(&config_of(swift, "history", KEY, LargeObjects::Slo)).unwrap());
    let first = put_large(&store, "f", 21).await.unwrap();
    let second = put_large(&store, "f", 22).await.unwrap();
    assert_eq!(swift.names("history_segments").unwrap().lines().count(), 6, "those of both versions");
    let old = SwiftStore::open(&config_of(swift, "history_old", KEY, LargeObjects::Slo)).unwrap();
    let listed = pages(&old, "", 100, Depth::All).await;
    let old_key = ObjectKey::new(listed[0].key()).unwrap();
    let read = async |store: &SwiftStore, key: &ObjectKey, len: usize| store.read(key, 0..len as u64, None).await.unwrap().bytes.concat();
    assert!(read(&old, &old_key, first.len()).await == first && read(&store, &key("f"), second.len()).await == second);
}

async fn metadata_that_is_too_long_is_refused(store: &Arc<SwiftStore>) {
    let long = ObjectMeta { attributes: [("xattr".to_owned(), "v".repeat(300))].into(), ..meta(3, true, 8) };
    let refused = store.put(&key("long"), long.clone(), body(b"abc")).await.err();
    assert!(matches!(refused, Some(StoreError::InvalidName { .. })), "{refused:?}");
    assert!(matches!(store.begin(&key("long"), long).await.err(), Some(StoreError::InvalidName { .. })));
    assert_eq!(store.head(&key("long")).await.unwrap(), None);
}

/// A cluster that does not know static large objects must not store the list of segments as if it were the object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_segments_is_never_an_object() {
    let Some(swift) = Swift::start_without_static().unwrap() else { return };
    let store = store_of(&swift, LargeObjects::Slo);
    let refused = put_large(&store, "large", 31).await.err();
    assert!(matches!(refused, Some(StoreError::ChecksumMismatch { .. })), "{refused:?}");
    assert_eq!(store.head(&key("large")).await.unwrap(), None);
    let store = store_of(&swift, LargeObjects::Dlo);
    let data = put_large(&store, "large", 32).await.unwrap();
    assert!(swift.read("large").unwrap().as_ref() == Some(&data));
}

async fn many_pages(store: &Arc<SwiftStore>) {
    let names: Vec<String> = (0..60).map(|number| format!("many/{}/n {number:04}+ü", number % 3)).collect();
    for name in &names {
        store.put(&key(name), meta(1, true, 7), body(b"x")).await.unwrap();
    }
    let mut sorted = names.clone();
    sorted.sort_unstable();
    for limit in [1000, 7] {
        let listed = pages(&**store, "many/", limit, Depth::All).await;
        let listed: Vec<String> = listed.iter().map(|entry| String::from_utf8(entry.key().to_vec()).unwrap()).collect();
        assert_eq!(listed, sorted, "pages of {limit}");
    }
}

async fn destinations_are_checked(swift: &Swift) {
    let config = |container: &str, key: &str| config_of(swift, container, key, LargeObjects::Auto);
    let check = |config: SwiftConfig| async move { SwiftStore::open(&config).unwrap().check("a/").await };
    check(config(CONTAINER, KEY)).await.unwrap();
    assert_eq!(swift.read("a/.tradewind-probe").unwrap(), None, "a check leaves nothing behind");
    let missing = check(config("nothing-here", KEY)).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
    let wrong = check(config(CONTAINER, "hush-hush")).await.unwrap_err();
    assert!(matches!(wrong, StoreError::BadCredentials { .. }) && !format!("{wrong:?} {wrong}").contains("hush"), "{wrong:?}");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let auth = SwiftAuth::V1 { auth_url: format!("http://{gone}/auth/v1.0"), user: USER.to_owned(), key: KEY.to_owned().into() };
    let unavailable = check(SwiftConfig { auth, ..config(CONTAINER, KEY) }).await;
    assert!(matches!(unavailable, Err(StoreError::Unavailable { .. })), "{unavailable:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keystone_opens_the_account_that_its_catalogue_names() {
    const TOKEN_SECONDS: u32 = 20;
    let Some(keystone) = Keystone::start_with(TOKEN_SECONDS).unwrap() else { return };
    let Some((swift, tenant)) = Swift::start_with_keystone(&keystone).unwrap() else { return };
    let (domain, interface) = ("Default".to_owned(), "public".to_owned());
    let password = |password: &str, region: Option<&str>| SwiftAuth::Password {
        auth_url: keystone.url(),
        user: keystone::USER.to_owned(),
        user_domain: domain.clone(),
        password: password.to_owned().into(),
        project: keystone::PROJECT.to_owned(),
        project_domain: domain.clone(),
        region: region.map(str::to_owned),
        interface: interface.clone(),
    };
    let application = |secret: &str| SwiftAuth::Application {
        auth_url: format!("{}/v3", keystone.url()),
        id: tenant.credential_id.clone(),
        secret: secret.to_owned().into(),
        region: None,
        interface: interface.clone(),
    };
    let open = |auth: SwiftAuth| {
        let config = SwiftConfig { container: CONTAINER.to_owned(), segments: None, auth, large_objects: LargeObjects::Auto };
        Arc::new(SwiftStore::open(&config).unwrap())
    };
    let by_password = open(password(keystone::PASSWORD, Some(keystone::REGION)));
    by_password.check("up/").await.unwrap();
    let sources = all_kinds();
    assert_done(&upload(by_password.clone(), config("up/"), &sources).await, &sources);
    for source in &sources {
        let name = format!("up/{}", source.path);
        assert!(swift.read(&name).unwrap().as_ref() == Some(&source.data), "{name} differs when read with curl");
    }
    let by_application = open(application(&tenant.credential_secret));
    let data = put_large(&by_application, "large", 41).await.unwrap();
    assert!(swift.read("large").unwrap().as_ref() == Some(&data));
    // The tokens expire, and nobody notices.
    tokio::time::sleep(Duration::from_secs(u64::from(TOKEN_SECONDS) + 1)).await;
    for store in [&by_password, &by_application] {
        assert_eq!(store.head(&key("large")).await.unwrap().map(|info| info.size), Some(data.len() as u64));
    }
    for wrong in [password("hush-hush", None), application("hush-hush")] {
        let refused = open(wrong).check("up/").await.unwrap_err();
        assert!(matches!(refused, StoreError::BadCredentials { .. }) && !format!("{refused:?} {refused}").contains("hush"), "{refused:?}");
    }
    let nowhere = open(password(keystone::PASSWORD, Some("R2"))).check("up/").await.unwrap_err();
    assert!(matches!(&nowhere, StoreError::Configuration { detail } if detail.contains("R2")), "{nowhere:?}");
}
