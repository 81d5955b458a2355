//! Stores that misbehave: real servers behind a proxy that delays, throttles, resets, truncates and corrupts. Nothing is lost, nothing wrong is
//! reported as right, and what was begun and given up is aborted at the store.
//!
//! What this cannot see: a store that itself loses what it has acknowledged.

mod common;

use std::sync::Arc;

use common::checks::ReadByOther;
use common::proxy::{Fault, Proxy};
use common::weed::Weed;
use common::{Outcome, Source, all_kinds, config, noise, quick_retry, source, upload};
use tradewind_bench::azurite::{ACCOUNT, Azurite, CONTAINER, KEY};
use tradewind_bench::swift::{self, Swift};
use tradewind_storage::{
    AzureConfig, AzureCredentials, AzureStore, Crc64, LargeObjects, ObjectKey, RetryPolicy, S3Config, S3Store, Store, StoreError,
    SwiftAuth, SwiftConfig, SwiftStore, UploadError, UploaderConfig,
};

/// Most requests with a fault: one in so many.
const ONE_IN: u64 = 4;

/// Faults that every store's client must live with.
const FAULTS: [Fault; 9] = [
    Fault::Delay(300),
    Fault::Refuse(503, "SlowDown"),
    Fault::Refuse(429, "TooManyRequests"),
    Fault::Refuse(500, "InternalError"),
    Fault::Reset,
    Fault::LoseAnswer,
    Fault::CutBody,
    Fault::CutAnswer,
    Fault::Refuse(504, "GatewayTimeout"),
];

type OpenAt = Box<dyn Fn(&str) -> Arc<dyn Store>>;

/// A server, and a way to it past the proxy.
struct Server {
    /// `HOST:PORT`.
    upstream: String,
    /// The store at another address, `HOST:PORT`.
    open: OpenAt,
    read: ReadByOther,
    faults: Vec<Fault>,
}

/// Enough tries that chance cannot use them up: 1 in 4, sixteen times.
fn patient() -> RetryPolicy {
    RetryPolicy { tries_max: 16, ..quick_retry() }
}

fn sources() -> Vec<Source> {
    let mut sources = all_kinds();
    sources.extend((0..40).map(|number| source(&format!("small/{number}"), 2_000 + number)));
    sources
}

impl Server {
    async fn upload(&self, proxy: &Proxy, prefix: &str, retry: RetryPolicy, sources: &[Source]) -> Outcome {
        let store = (self.open)(&proxy.address.to_string());
        upload(store, UploaderConfig { retry, ..config(prefix) }, sources).await
    }

    /// What was said to be stored is there as it was sent; of the rest there is nothing, or all of it.
    fn assert_true(&self, outcome: &Outcome, prefix: &str, sources: &[Source]) {
        for source in sources {
            let name = format!("{prefix}{}", source.path);
            let found = (self.read)(&name);
            let is_done = outcome.done.iter().find(|(path, ..)| *path == source.path);
            if let Some((_, size, _, crc, _)) = is_done {
                assert_eq!((*size, *crc), (source.data.len() as u64, Crc64::of(&source.data)), "{name}");
                assert!(found.is_some(), "{name} was reported as stored and is not there");
            }
            assert!(found.is_none_or(|found| found == source.data), "{name} is there with other contents");
        }
    }

    /// Each fault alone, then all of them. How many uploads nobody can have aborted, because nobody was told that they were created.
    async fn misbehaves(&self) -> usize {
        let (sources, mut lost) = (sources(), 0);
        // An upload reads nothing.
        let alone = self.faults.iter().filter(|fault| **fault != Fault::CutAnswer).map(|fault| vec![*fault]);
        for (number, faults) in alone.chain([self.faults.clone()]).enumerate() {
            let (prefix, proxy) = (format!("f{number}/"), Proxy::start(&self.upstream, &faults, ONE_IN).await);
            let outcome = self.upload(&proxy, &prefix, patient(), &sources).await;
            println!("{faults:?}: {:?} made, {} retries", proxy.made(), outcome.stats.retries);
            assert!(outcome.failed.is_none(), "{faults:?}: {:?}", outcome.failed);
            assert_eq!(outcome.done.len(), sources.len(), "{faults:?}");
            self.assert_true(&outcome, &prefix, &sources);
            assert!(!proxy.made().is_empty(), "{faults:?} was never made");
            lost += proxy.lost_creations();
        }
        lost
    }

    /// Ranges, as a download asks for them.
    async fn reading(&self) {
        let data = noise(77, 3 << 20);
        let sources = [Source { path: "read".to_owned(), data: data.clone() }];
        let quiet = Proxy::start(&self.upstream, &[], ONE_IN).await;
        assert!(self.upload(&quiet, "", patient(), &sources).await.failed.is_none());
        let faults: Vec<Fault> = self.faults.iter().copied().filter(|fault| !matches!(fault, Fault::CutBody | Fault::FlipBit)).collect();
        let proxy = Proxy::start(&self.upstream, &faults, 2).await;
        let (store, key) = ((self.open)(&proxy.address.to_string()), ObjectKey::new(b"read").unwrap());
        let mut info = None;
        for from in (0..data.len()).step_by(100_000) {
            let to = data.len().min(from + 100_000);
            let once = || store.read(&key, from as u64..to as u64, info.as_ref());
            let read = patient().run("reading", 100_000, StoreError::is_retryable, |_| {}, once).await.unwrap();
            assert!(read.bytes.concat() == data[from..to], "{from}..{to}");
            info = Some(read.info);
        }
        let made = proxy.made();
        assert!(made.contains_key(&Fault::CutAnswer) && made.contains_key(&Fault::Reset), "{made:?}");
    }

    /// Everything is refused: the error says so, and nothing is there.
    async fn refuses(&self, fault: Fault, fits: fn(&StoreError) -> bool) {
        let (sources, proxy) = ([source("never", 11 << 20)], Proxy::start(&self.upstream, &[fault], 1).await);
        let outcome = self.upload(&proxy, "refused/", quick_retry(), &sources).await;
        let Some(UploadError::Store(error)) = &outcome.failed else { panic!("{:?}", outcome.failed) };
        assert!(fits(error), "{error:?}");
        assert!(outcome.done.is_empty() && (self.read)("refused/never").is_none());
    }
}

fn is_unavailable(error: &StoreError) -> bool {
    matches!(error, StoreError::Throttled { .. } | StoreError::Unavailable { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3() {
    let Some(weed) = Weed::start("s3").map(Arc::new) else { return };
    let (config, read) = (weed.config("bkt1", "test1", "secret1"), Arc::clone(&weed));
    let open = move |address: &str| -> Arc<dyn Store> {
        let endpoint = S3Config::at_endpoint(format!("http://{address}"), "bkt1", config.credentials.clone());
        Arc::new(S3Store::open(&endpoint).unwrap())
    };
    let server = Server {
        upstream: weed.address().to_string(),
        open: Box::new(open),
        read: Arc::new(move |key| read.read("bkt1", key)),
        faults: FAULTS.into_iter().chain([Fault::FlipBit, Fault::ErrorInBody]).collect(),
    };
    let lost = server.misbehaves().await;
    server.reading().await;
    server.refuses(Fault::Refuse(503, "SlowDown"), is_unavailable).await;
    server.refuses(Fault::Reset, is_unavailable).await;
    server.refuses(Fault::FlipBit, |error| matches!(error, StoreError::ChecksumMismatch { .. })).await;
    server.refuses(Fault::ErrorInBody, is_unavailable).await;
    let left = weed.uploads("bkt1").await;
    println!("left at the store: {left:?}; creations whose answer was lost: {lost}");
    assert!(left.len() <= lost, "{left:?} was given up and not aborted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure() {
    let Some(azurite) = Azurite::start().unwrap().map(Arc::new) else { return };
    let address = |endpoint: &str| endpoint.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let open = |address: &str| -> Arc<dyn Store> {
        let (endpoint, credentials) = (Some(format!("http://{address}/{ACCOUNT}")), AzureCredentials::key(KEY).unwrap());
        let (account, container) = (ACCOUNT.to_owned(), CONTAINER.to_owned());
        Arc::new(AzureStore::open(&AzureConfig { account, container, endpoint, credentials }).unwrap())
    };
    let (upstream, read) = (address(&azurite.endpoint()), Arc::clone(&azurite));
    // Azurite ignores checksums: what is flipped on the way it takes.
    let server = Server { upstream, open: Box::new(open), read: Arc::new(move |key| read.read(key).unwrap()), faults: FAULTS.to_vec() };
    server.misbehaves().await;
    server.reading().await;
    server.refuses(Fault::Refuse(503, "ServerBusy"), is_unavailable).await;
    server.refuses(Fault::Reset, is_unavailable).await;
}

async fn swift_misbehaves(large_objects: LargeObjects) {
    let Some(swift) = Swift::start().unwrap().map(Arc::new) else { return };
    let (upstream, read) = (swift.url().trim_start_matches("http://").to_owned(), Arc::clone(&swift));
    // The account's address that comes with a token is the one that was asked: the proxy's.
    let open = move |address: &str| -> Arc<dyn Store> {
        let (auth_url, key) = (format!("http://{address}/auth/v1.0"), swift::KEY.to_owned().into());
        let auth = SwiftAuth::V1 { auth_url, user: swift::USER.to_owned(), key };
        let config = SwiftConfig { container: swift::CONTAINER.to_owned(), segments: None, auth, large_objects };
        Arc::new(SwiftStore::open(&config).unwrap())
    };
    let faults = FAULTS.into_iter().chain([Fault::FlipBit]).collect();
    let server = Server { upstream, open: Box::new(open), read: Arc::new(move |key| read.read(key).unwrap()), faults };
    server.misbehaves().await;
    server.reading().await;
    server.refuses(Fault::Refuse(503, "SlowDown"), is_unavailable).await;
    server.refuses(Fault::Reset, is_unavailable).await;
    server.refuses(Fault::FlipBit, |error| matches!(error, StoreError::ChecksumMismatch { .. })).await;
    // Every segment that is left belongs to an object: one upload of each.
    let left = swift.names(&format!("{}_segments", swift::CONTAINER)).unwrap();
    let mut uploads: Vec<_> = left.lines().map(|name| name.rsplit_once('/').unwrap().0.rsplit_once("/tradewind/").unwrap()).collect();
    uploads.dedup();
    assert!(!uploads.is_empty() && uploads.windows(2).all(|pair| pair[0].0 != pair[1].0), "{uploads:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swift_static() {
    swift_misbehaves(LargeObjects::Slo).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swift_dynamic() {
    swift_misbehaves(LargeObjects::Dlo).await;
}
