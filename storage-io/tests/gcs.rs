//! Google Cloud Storage as it is documented and the emulator is not: a layer of ours before it that heeds conditions, gives pages (every first one
//! empty) and tells generations. It proves that we do what we have read, not what the service does.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use common::front::accept;
use common::listing::{listing, pages};
use common::{MIB, assert_done, body, config, key, noise, source, upload};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tradewind_bench::gcs::{BUCKET, Gcs};
use tradewind_storage::{
    Crc64, Depth, GcsConfig, GcsCredentials, GcsStore, ObjectMeta, Part, PartReceipt, Store as _, StoreError, Upload, UploadError,
};

/// The layer.
struct Strict {
    upstream: String,
    http: reqwest::Client,
    /// Answers to so many of the next requests that compose parts, and an object itself, are lost.
    lose: [AtomicUsize; 2],
}

/// The value of a query's name, decoded.
fn value(query: &str, name: &str) -> Option<String> {
    let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(percent_encoding::percent_decode_str(found).decode_utf8().unwrap().into_owned())
}

fn answer(status: u16, body: &Value) -> Response<Full<Bytes>> {
    Response::builder().status(status).header("content-type", "application/json").body(Full::new(body.to_string().into())).unwrap()
}

impl Strict {
    async fn start(gcs: &Gcs) -> (Arc<Self>, SocketAddr) {
        // Fails where the store was first, which is as well.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let strict = Arc::new(Self { upstream: gcs.endpoint(), http, lose: Default::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, serving) = (listener.local_addr().unwrap(), Arc::clone(&strict));
        accept(listener, move |request| {
            let strict = Arc::clone(&serving);
            async move { strict.serve(request).await }
        });
        (strict, address)
    }

    /// Generation of an object, by its name as it stands in a path.
    async fn generation(&self, name: &str) -> Option<String> {
        let answer = self.http.get(format!("{}/storage/v1/b/{BUCKET}/o/{name}", self.upstream)).send().await.unwrap();
        let about: Value = answer.error_for_status().ok()?.json().await.unwrap();
        about["generation"].as_str().map(str::to_owned)
    }

    async fn serve(&self, request: Request<Incoming>) -> std::io::Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        let is_upload = path.starts_with("/upload/");
        let object = path.rsplit_once("/o/").map(|(_, name)| name.strip_suffix("/compose").unwrap_or(name).to_owned());
        let named = || {
            let about = body.split(|&byte| byte == b'\n').find_map(|line| serde_json::from_slice::<Value>(line.trim_ascii()).ok())?;
            Some(percent_encoding::utf8_percent_encode(about["name"].as_str()?, percent_encoding::NON_ALPHANUMERIC).to_string())
        };
        let generation = match object.clone().or_else(|| if is_upload { named() } else { None }) {
            Some(name) => self.generation(&name).await,
            None => None,
        };
        if let Some(wanted) = value(query, "ifGenerationMatch")
            && wanted != generation.clone().unwrap_or_else(|| "0".to_owned())
        {
            return Ok(answer(412, &json!({"error": {"code": 412, "message": "not met", "errors": [{"reason": "conditionNotMet"}]}})));
        }
        let url = format!("{}{path}?{query}", self.upstream);
        let mut asking = self.http.request(head.method.clone(), url).body(body.clone());
        for name in ["content-type", "range"] {
            if let Some(value) = head.headers.get(name) {
                asking = asking.header(name, value);
            }
        }
        let served = asking.send().await.map_err(std::io::Error::other)?;
        let (status, range) = (served.status().as_u16(), served.headers().get("content-range").cloned());
        let served = served.bytes().await.map_err(std::io::Error::other)?;
        let lose = &self.lose[usize::from(!path.contains("tradewind-parts"))];
        if path.ends_with("/compose") && lose.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Err(std::io::Error::other("the test loses the answer"));
        }
        if object.is_none() && head.method == Method::GET && status == 200 {
            return Ok(answer(200, &page(&serde_json::from_slice(&served).unwrap(), query)));
        }
        let mut answer = Response::builder().status(status);
        if let (Some(range), Some(generation)) = (range, generation) {
            answer = answer.header("content-range", range).header("x-goog-generation", generation);
        }
        Ok(answer.body(Full::new(served)).unwrap())
    }
}

/// A page out of all that the emulator listed.
fn page(all: &Value, query: &str) -> Value {
    let Some(token) = value(query, "pageToken") else { return json!({"nextPageToken": "0"}) };
    let start = value(query, "startOffset").unwrap_or_default();
    let (first, most): (usize, usize) = (token.parse().unwrap(), value(query, "maxResults").unwrap().parse().unwrap());
    let list = |name: &str| all[name].as_array().cloned().unwrap_or_default();
    let items = list("items").into_iter().map(|item| (item["name"].as_str().unwrap().to_owned(), Some(item)));
    let mut lines: Vec<_> = items.chain(list("prefixes").into_iter().map(|folder| (folder.as_str().unwrap().to_owned(), None))).collect();
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    lines.retain(|(name, _)| *name >= start);
    let (rest, lines) = (lines.len() > first + most, lines.into_iter().skip(first).take(most));
    let (mut items, mut prefixes) = (Vec::new(), Vec::new());
    for (name, item) in lines {
        match item {
            Some(item) => items.push(item),
            None => prefixes.push(name),
        }
    }
    let mut page = json!({"items": items, "prefixes": prefixes});
    if rest {
        page["nextPageToken"] = (first + most).to_string().into();
    }
    page
}

fn meta(size: usize, overwrite: bool, token: u128) -> ObjectMeta {
    ObjectMeta { size: size as u64, mtime_ns: common::MTIME_NS, mode: 0o640, overwrite, token, attributes: Arc::default() }
}

async fn begin(store: &GcsStore, name: &str, data: &[u8], meta: ObjectMeta) -> (Arc<dyn Upload>, Vec<PartReceipt>) {
    let begun = store.begin(&key(name), meta).await.unwrap();
    let mut receipts = Vec::new();
    for (number, chunk) in (1..).zip(data.chunks(MIB)) {
        receipts.push(begun.put_part(Part { number, offset: 0, body: body(chunk) }).await.unwrap());
    }
    (begun, receipts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_the_service_is_documented() {
    let Some(gcs) = Gcs::start().unwrap() else { return };
    let (strict, address) = Strict::start(&gcs).await;
    let (endpoint, credentials) = (Some(format!("http://{address}")), GcsCredentials::Anonymous);
    let store = Arc::new(GcsStore::open(&GcsConfig { bucket: BUCKET.to_owned(), endpoint, credentials }).unwrap());
    store.check("").await.unwrap();
    assert_eq!(gcs.read(".tradewind-probe").unwrap(), None);

    // Nothing is replaced unasked, whoever comes first and however late.
    let sources = [source("whole", 100), source("parts", 11 * MIB)];
    assert_done(&upload(store.clone(), config("up/"), &sources).await, &sources);
    for len in [99, 11 * MIB + 1] {
        let again = upload(store.clone(), config("up/"), &[source("whole", len)]).await;
        assert!(matches!(again.failed, Some(UploadError::Store(StoreError::DestinationExists { .. }))), "{:?}", again.failed);
    }
    let data = noise(5, 2 * MIB + 7);
    let (begun, receipts) = begin(&store, "late", &data, meta(data.len(), false, 1)).await;
    store.put(&key("late"), meta(3, true, 2), body(b"abc")).await.unwrap();
    let refused = begun.complete(&receipts, Crc64::of(&data)).await.unwrap_err();
    assert!(matches!(refused, StoreError::DestinationExists { .. }), "{refused:?}");
    begun.abort().await.unwrap();
    assert_eq!(gcs.read("late").unwrap().as_deref(), Some(&b"abc"[..]));

    // More parts than one request takes, and answers that are lost: of a round, of the last one, and once more with --overwrite.
    let many = noise(6, 34 * MIB);
    for (token, overwrite, lost) in [(3, false, [1, 0]), (4, true, [0, 1]), (5, true, [1, 2])] {
        let (begun, receipts) = begin(&store, "many", &many, meta(many.len(), overwrite, token)).await;
        for (left, lost) in strict.lose.iter().zip(lost) {
            left.store(lost, Relaxed);
        }
        let mut tries = 0;
        let stored = loop {
            tries += 1;
            match begun.complete(&receipts, Crc64::of(&many)).await {
                Err(error) if error.is_retryable() && tries < 6 => {}
                done => break done.unwrap(),
            }
        };
        assert!(tries > 1 && stored.crc == Crc64::of(&many), "{tries}");
        assert!(gcs.read("many").unwrap().as_ref() == Some(&many));
        assert!(strict.lose.iter().all(|left| left.load(Relaxed) == 0));
        begun.complete(&receipts, Crc64::of(&many)).await.unwrap();
    }
    // Made, and nobody told: of few parts, so that it is the condition that refuses the second try.
    let (begun, receipts) = begin(&store, "told", &data, meta(data.len(), false, 6)).await;
    strict.lose[1].store(1, Relaxed);
    assert!(begun.complete(&receipts, Crc64::of(&data)).await.unwrap_err().is_retryable());
    begun.complete(&receipts, Crc64::of(&data)).await.unwrap();
    assert!(gcs.read("told").unwrap().as_ref() == Some(&data));
    let all = pages(&*store, "", 1000, Depth::All).await;
    let names: Vec<&[u8]> = all.iter().map(|entry| entry.key()).collect();
    assert_eq!(names, [&b"late"[..], b"many", b"told", b"up/parts", b"up/whole"], "no part is listed");
    let left = gcs.names().unwrap();
    assert_eq!(left, ["late", "many", "told", "up/parts", "up/whole"], "no part is left");

    // Reading: another generation is noticed by the condition.
    let info = store.head(&key("late")).await.unwrap().unwrap();
    assert_eq!(store.read(&key("late"), 1..3, Some(&info)).await.unwrap().bytes.concat(), b"bc");
    store.put(&key("late"), meta(3, true, 9), body(b"xyz")).await.unwrap();
    let changed = store.read(&key("late"), 1..3, Some(&info)).await.unwrap_err();
    assert!(matches!(changed, StoreError::ObjectChanged { .. }), "{changed:?}");

    listing(&*store, "list/").await;
}
