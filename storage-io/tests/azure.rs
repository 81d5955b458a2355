//! Uploads to Azurite, Microsoft's emulator of the Blob service, which checks signatures; read back by curl, without a signature, from a
//! container that everybody may read. What this cannot see: the service itself, above all its checksums, which Azurite ignores.
//!
//! What every platform must do is in tests/stores.rs. Without Azurite (`cargo xtask setup` installs it where npm is) the test says SKIP and passes.

mod common;

use std::net::TcpListener;
use std::sync::Arc;

use common::listing::pages;
use common::{MIB, all_kinds, assert_done, config, source, upload};
use tradewind_bench::azurite::{ACCOUNT, Azurite, CONTAINER, KEY};
use tradewind_storage::{
    AzureConfig, AzureCredentials, AzureStore, Body, Crc64, Depth, ObjectKey, ObjectMeta, Store as _, StoreError, UploadError,
};

fn config_of(azurite: &Azurite, container: &str, credentials: AzureCredentials) -> AzureConfig {
    AzureConfig { account: ACCOUNT.to_owned(), container: container.to_owned(), endpoint: Some(azurite.endpoint()), credentials }
}

fn store_of(azurite: &Azurite) -> Arc<AzureStore> {
    Arc::new(AzureStore::open(&config_of(azurite, CONTAINER, AzureCredentials::key(KEY).unwrap())).unwrap())
}

/// A blob as curl fetches it.
fn read(azurite: &Azurite, key: &str) -> Option<Vec<u8>> {
    azurite.read(key).unwrap()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name.as_bytes()).unwrap()
}

fn meta(size: usize, overwrite: bool) -> ObjectMeta {
    let attributes = [("uid", "1000"), ("tradewind-xattr.a_b", "v")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    ObjectMeta { size: size as u64, mtime_ns: common::MTIME_NS, mode: 0o640, overwrite, token: 77, attributes }
}

fn body(data: &[u8]) -> Body {
    Body::new(vec![bytes::Bytes::copy_from_slice(data)], Crc64::of(data))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite() {
    let Some(azurite) = Azurite::start().unwrap() else { return };
    let store = store_of(&azurite);

    let sources = all_kinds();
    let outcome = upload(store.clone(), config("up/"), &sources).await;
    assert_done(&outcome, &sources);
    for source in &sources {
        let name = format!("up/{}", source.path);
        assert!(read(&azurite, &name).as_ref() == Some(&source.data), "{name} differs when read with curl");
        let info = store.head(&key(&name)).await.unwrap().expect("it is there");
        assert_eq!((info.size, info.crc), (source.data.len() as u64, Some(Crc64::of(&source.data))), "{name}");
    }
    let again = upload(store.clone(), config("up/"), &[source("part", 4 * MIB)]).await;
    assert!(matches!(again.failed, Some(UploadError::Store(StoreError::DestinationExists { .. }))), "{:?}", again.failed);

    many_pages(&store).await;
    destinations_are_checked(&azurite).await;
}

async fn many_pages(store: &Arc<AzureStore>) {
    let names: Vec<String> = (0..60).map(|number| format!("many/{}/n {number:04}+ü", number % 3)).collect();
    for name in &names {
        store.put(&key(name), meta(1, true), body(b"x")).await.unwrap();
    }
    let mut sorted = names.clone();
    sorted.sort_unstable();
    for limit in [1000, 7] {
        let listed: Vec<String> = pages(&**store, "many/", limit, Depth::All)
            .await
            .iter()
            .map(|entry| String::from_utf8(entry.key().to_vec()).unwrap())
            .collect();
        assert_eq!(listed, sorted, "pages of {limit}");
    }
}

async fn destinations_are_checked(azurite: &Azurite) {
    let check = |config: AzureConfig| async move { AzureStore::open(&config).unwrap().check("a/").await };
    check(config_of(azurite, "test", AzureCredentials::key(KEY).unwrap())).await.unwrap();
    assert_eq!(store_of(azurite).head(&key("a/.tradewind-probe")).await.unwrap(), None, "a check leaves nothing behind");
    let missing = check(config_of(azurite, "nothing-here", AzureCredentials::key(KEY).unwrap())).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
    let wrong = check(config_of(azurite, "test", AzureCredentials::key("c2VjcmV0LXRoYXQtaXMtd3Jvbmc=").unwrap())).await;
    assert!(matches!(wrong, Err(StoreError::BadCredentials { .. } | StoreError::AccessDenied { .. })), "{wrong:?}");
    let unsigned = check(config_of(azurite, "test", AzureCredentials::sas("sv=2021-12-02&sig=bm8="))).await.unwrap_err();
    assert!(matches!(unsigned, StoreError::BadCredentials { .. } | StoreError::AccessDenied { .. }), "{unsigned:?}");
    assert!(!format!("{unsigned:?} {unsigned}").contains("bm8="), "{unsigned}");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = config_of(azurite, "test", AzureCredentials::sas("sv=2021-12-02&sig=c2VjcmV0"));
    let unavailable = check(AzureConfig { endpoint: Some(format!("http://{gone}/{ACCOUNT}")), ..config }).await.unwrap_err();
    assert!(matches!(unavailable, StoreError::Unavailable { .. }) && !unavailable.to_string().contains("c2VjcmV0"), "{unavailable}");
}
