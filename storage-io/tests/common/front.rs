//! An S3 server inside the test: the real protocol front of s3s over a directory, behind a layer of ours that can misbehave.
//!
//! What the layer adds to s3s-fs, because Amazon does it and s3s-fs does not: bodies are checked against their CRC-64/NVME before
//! anything is kept (if `verifies`; s3s-fs ignores it for parts and checks objects after it has replaced them), and an upload that
//! has ended is answered with NoSuchUpload. It also takes back what s3s-fs says of listings and does not do. None of this is proof
//! of how a real server behaves; that is what tests/seaweed.rs is for.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tradewind_storage::{Crc64, Credentials, Dialect, S3Config, S3Store};

/// Which request of the S3 API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    HeadBucket,
    Head,
    Put,
    Create,
    Part,
    Complete,
    Abort,
    List,
    Delete,
    Other,
}

/// What is done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Served as it is.
    Pass,
    /// Refused with this status and S3 error code.
    Refuse(u16, &'static str),
    /// The connection is cut before the request is served.
    Reset,
    /// Served, and then the connection is cut without an answer.
    LoseAnswer,
    /// Answered with 200 and an error in the body, as CompleteMultipartUpload may.
    ErrorInBody,
    /// One bit of the data is flipped on the way.
    FlipBit,
    /// Served as if there were no condition: what is there is replaced.
    Replace,
    /// Never answered.
    Stall,
    /// Served after so many milliseconds, and refused with SlowDown where more than so many wait already.
    Far(u64, usize),
}

/// A request that was seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) op: Op,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) fault: Fault,
    pub(crate) status: u16,
}

type Faults = dyn Fn(Op, &str, usize) -> Fault + Send + Sync;

struct Shared {
    root: PathBuf,
    service: S3Service,
    faults: Box<Faults>,
    verifies: bool,
    seen: Mutex<Vec<Seen>>,
    waiting: AtomicUsize,
    most_waiting: AtomicUsize,
    ended: Mutex<HashSet<String>>,
}

/// The server. Its files go when it is dropped.
pub(crate) struct Front {
    shared: Arc<Shared>,
    root: tempfile::TempDir,
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub(crate) const BUCKET: &str = "bucket";

impl Front {
    /// Starts one. `faults` is asked for each request with its kind, its path and how many of that kind came before.
    pub(crate) async fn start(verifies: bool, faults: impl Fn(Op, &str, usize) -> Fault + Send + Sync + 'static) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single("key", "secret"));
        let shared = Arc::new(Shared {
            root: root.path().to_owned(),
            service: builder.build(),
            faults: Box::new(faults),
            verifies,
            seen: Mutex::default(),
            waiting: AtomicUsize::new(0),
            most_waiting: AtomicUsize::new(0),
            ended: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&shared);
        let accepting = accept(listener, move |request| {
            let shared = Arc::clone(&serving);
            async move { shared.serve(request).await }
        });
        Self { shared, root, address, accepting }
    }

    pub(crate) fn config(&self) -> S3Config {
        S3Config::at_endpoint(format!("http://{}", self.address), BUCKET, Credentials::new("key", "secret"))
    }

    pub(crate) fn store(&self, dialect: Dialect) -> Arc<S3Store> {
        Arc::new(S3Store::open(&S3Config { dialect, ..self.config() }).unwrap())
    }

    /// An object, read past the protocol.
    pub(crate) fn read(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.root.path().join(BUCKET).join(key)).ok()
    }

    pub(crate) fn path_of(&self, key: &str) -> PathBuf {
        self.root.path().join(BUCKET).join(key)
    }

    /// Files of uploads that are neither completed nor aborted.
    pub(crate) fn open_uploads(&self) -> Vec<String> {
        let names = self.root.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".upload-") || name.starts_with(".upload_id-")).collect()
    }

    /// Requests with [`Fault::Far`] at once, at most.
    pub(crate) fn most_waiting(&self) -> usize {
        self.shared.most_waiting.load(Relaxed)
    }

    pub(crate) fn seen(&self, op: Op) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().iter().filter(|seen| seen.op == op).cloned().collect()
    }
}

/// Serves HTTP to whoever connects, until it is aborted. An error cuts the connection.
pub(crate) fn accept<F, B>(
    listener: TcpListener,
    serve: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> tokio::task::JoinHandle<()>
where
    F: Future<Output = Result<Response<B>, std::io::Error>> + Send,
    B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service_fn(serve.clone());
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    })
}

fn classify(request: &Request<Incoming>) -> Op {
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let in_bucket = request.uri().path().trim_matches('/').contains('/');
    match *request.method() {
        Method::HEAD if in_bucket => Op::Head,
        Method::HEAD => Op::HeadBucket,
        Method::PUT if has("partNumber") => Op::Part,
        Method::PUT if in_bucket => Op::Put,
        Method::POST if has("uploads") => Op::Create,
        Method::POST if has("uploadId") => Op::Complete,
        Method::DELETE if has("uploadId") => Op::Abort,
        Method::DELETE => Op::Delete,
        Method::GET if has("list-type") => Op::List,
        _ => Op::Other,
    }
}

fn upload_id(request: &Request<Incoming>) -> Option<String> {
    request.uri().query()?.split('&').find_map(|pair| pair.strip_prefix("uploadId=")).map(str::to_owned)
}

fn refusal(status: u16, code: &str) -> Response<s3s::Body> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>said the test</Message></Error>");
    Response::builder().status(status).header("content-type", "application/xml").body(s3s::Body::from(body)).unwrap()
}

impl Shared {
    async fn serve(&self, request: Request<Incoming>) -> Result<Response<s3s::Body>, std::io::Error> {
        let (op, path) = (classify(&request), request.uri().path().to_owned());
        let headers =
            request.headers().iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned())).collect();
        let (index, fault) = {
            let mut seen = self.seen.lock().unwrap();
            let before = seen.iter().filter(|seen| seen.op == op).count();
            let fault = (self.faults)(op, &path, before);
            seen.push(Seen { op, path, headers, fault, status: 0 });
            (seen.len() - 1, fault)
        };
        if fault == Fault::Reset {
            return Err(std::io::Error::other("the test cuts the connection"));
        }
        let id = upload_id(&request);
        let (head, body) = request.into_parts();
        let Ok(data) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            return Err(std::io::Error::other("the client went away"));
        };
        if fault == Fault::Replace {
            // The condition is signed and cannot be taken out.
            let _ = std::fs::remove_file(self.root.join(head.uri.path().trim_start_matches('/')));
        }
        let answer = match fault {
            Fault::Stall => std::future::pending::<Result<_, Infallible>>().await.unwrap_or_else(|never| match never {}),
            Fault::Refuse(status, code) => refusal(status, code),
            Fault::Far(delay_ms, at_once) => {
                let waiting = self.waiting.fetch_add(1, Relaxed) + 1;
                self.most_waiting.fetch_max(waiting, Relaxed);
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                let answer = if waiting > at_once { refusal(503, "SlowDown") } else { self.answer(op, head, data, id.as_deref()).await };
                self.waiting.fetch_sub(1, Relaxed);
                answer
            }
            Fault::ErrorInBody => refusal(200, "InternalError"),
            _ => self.answer(op, head, flip(data, fault == Fault::FlipBit), id.as_deref()).await,
        };
        self.seen.lock().unwrap()[index].status = answer.status().as_u16();
        if fault == Fault::LoseAnswer {
            // Long enough for nothing: the answer is ready and is thrown away.
            tokio::time::sleep(Duration::from_millis(1)).await;
            return Err(std::io::Error::other("the test loses the answer"));
        }
        Ok(answer)
    }

    async fn answer(&self, op: Op, head: hyper::http::request::Parts, data: Bytes, id: Option<&str>) -> Response<s3s::Body> {
        if id.is_some_and(|id| self.ended.lock().unwrap().contains(id)) {
            return refusal(404, "NoSuchUpload");
        }
        let announced = head.headers.get("x-amz-checksum-crc64nvme").and_then(|value| value.to_str().ok());
        if self.verifies
            && matches!(op, Op::Part | Op::Put)
            && announced.is_some_and(|text| Crc64::from_base64(text) != Some(Crc64::of(&data)))
        {
            return refusal(400, "BadDigest");
        }
        let answer = self.service.call(Request::from_parts(head, s3s::Body::from(data))).await.expect("s3s answers everything");
        if matches!(op, Op::Complete | Op::Abort) && answer.status().is_success() {
            self.ended.lock().unwrap().extend(id.map(str::to_owned));
        }
        if op == Op::List { without_encoding(answer).await } else { answer }
    }
}

/// s3s-fs says that it has encoded keys when it was asked to, but it never does.
async fn without_encoding(answer: Response<s3s::Body>) -> Response<s3s::Body> {
    let (mut head, body) = answer.into_parts();
    let text = String::from_utf8(body.collect().await.expect("a body in memory").to_bytes().to_vec()).expect("XML");
    head.headers.remove("content-length");
    Response::from_parts(head, s3s::Body::from(text.replace("<EncodingType>url</EncodingType>", "")))
}

fn flip(data: Bytes, really: bool) -> Bytes {
    let mut data = Vec::from(data);
    if really && let Some(byte) = data.last_mut() {
        *byte ^= 1;
    }
    data.into()
}
