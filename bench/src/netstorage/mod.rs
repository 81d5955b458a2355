//! An emulator of Akamai NetStorage's Usage API on loopback, written from Akamai's public documentation, for there is no server that anybody
//! could install. It shares no code with the store that it tests, checks signatures by itself, and tells less at once than it is asked for.
//!
//! What the documentation leaves open it decides so: bytes that are not of their size or hash are refused with 412, a CP code that is not there
//! with 404.

mod answers;
mod auth;
mod files;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use auth::{Action, Refusal};
use files::{Files, Incoming as Upload};

/// What it is, for tables.
pub const SERVER: &str = "own emulator";
/// The CP code that is there.
pub const CP_CODE: &str = "123456";
/// Id of the upload account.
pub const ACCOUNT: &str = "tradewind";
/// Its key.
pub const KEY: &str = "a-key-of-an-upload-account";

/// What is done to a request instead of serving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused with this status.
    Refuse(u16),
    /// Served, and then the connection is cut without an answer.
    LoseAnswer,
}

/// A client of others, of the language's own library: an object's bytes to standard output; exit code 4 if it is not there.
const READ: &str = r#"
import base64, hashlib, hmac, http.client, random, sys, time, urllib.parse
host, account, key, path = sys.argv[1:]
path = urllib.parse.quote(path, safe="/")
action = "version=1&action=download"
data = f"5, 0.0.0.0, 0.0.0.0, {int(time.time())}, {random.getrandbits(31)}, {account}"
text = f"{data}{path}\nx-akamai-acs-action:{action}\n"
sign = base64.b64encode(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()).decode()
connection = http.client.HTTPConnection(host)
connection.request("GET", path, headers={
    "X-Akamai-ACS-Action": action, "X-Akamai-ACS-Auth-Data": data, "X-Akamai-ACS-Auth-Sign": sign})
answer = connection.getresponse()
if answer.status == 404:
    sys.exit(4)
assert answer.status == 200, answer.status
sys.stdout.buffer.write(answer.read())
"#;

/// A running emulator with an empty CP code.
pub struct NetStorage {
    served: Arc<Served>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

/// What its connections share.
struct Served {
    files: Mutex<Files>,
    ignores_ranges: AtomicBool,
    hides_tags: AtomicBool,
    clock_offset_s: AtomicI64,
    faults: Mutex<VecDeque<(&'static str, Fault)>>,
    /// Names of the actions that were served.
    seen: Mutex<Vec<String>>,
}

impl NetStorage {
    /// Starts it on a thread of its own.
    ///
    /// # Errors
    /// When there is no port or no room.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("twnetstorage-").tempdir()?;
        let served = Arc::new(Served {
            files: Mutex::new(Files::new(folder.path(), CP_CODE)),
            ignores_ranges: false.into(),
            hides_tags: false.into(),
            clock_offset_s: 0.into(),
            faults: Mutex::default(),
            seen: Mutex::default(),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Arc::clone(&served);
        let thread = std::thread::Builder::new().name("netstorage".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = accept(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { served, address, stop: Some(stop), thread: Some(thread), _folder: folder })
    }

    /// Host and port.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Below which the CP code lies.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// An object as a client of others fetches it, with a signature of its own.
    ///
    /// # Errors
    /// When that client cannot be started, or is refused.
    pub fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let arguments = [&self.host(), ACCOUNT, KEY, &format!("/{CP_CODE}/{key}")];
        let output = Command::new("python3").args(["-c", READ]).args(arguments).output().context("cannot start python3")?;
        match output.status.code() {
            Some(0) => Ok(Some(output.stdout)),
            Some(4) => Ok(None),
            _ => anyhow::bail!("{key} cannot be read: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// From now on, whether every download is answered with the whole object.
    pub fn ignore_ranges(&self, ignores: bool) {
        self.served.ignores_ranges.store(ignores, Relaxed);
    }

    /// From now on, whether downloads come without entity tags.
    pub fn hide_tags(&self, hides: bool) {
        self.served.hides_tags.store(hides, Relaxed);
    }

    /// Puts its clock forward by so many seconds.
    pub fn put_clock_forward(&self, seconds: i64) {
        self.served.clock_offset_s.store(seconds, Relaxed);
    }

    /// What is done to the next request of that action.
    pub fn spoil(&self, action: &'static str, fault: Fault) {
        lock(&self.served.faults).push_back((action, fault));
    }

    /// How many requests of that action were served, or had an answer that was lost.
    #[must_use]
    pub fn served(&self, action: &str) -> usize {
        lock(&self.served.seen).iter().filter(|seen| *seen == action).count()
    }

    /// Keys of all objects, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        lock(&self.served.files).keys()
    }
}

impl Drop for NetStorage {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, served: Arc<Served>) {
    while let Ok((socket, _)) = listener.accept().await {
        let served = Arc::clone(&served);
        let service = service_fn(move |request| {
            let served = Arc::clone(&served);
            async move { served.answer(request).await }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
    }
}

impl Served {
    /// An error cuts the connection.
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let (head, mut body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let action = auth::check(&head.headers, &path, self.now_s(), &mut lock(&self.files).seen_ids);
        let fault = action.as_ref().ok().and_then(|action| self.fault_of(action.name()));
        let result = match (action, fault) {
            (Err(refusal), _) => {
                drain(&mut body).await?;
                Err(refusal)
            }
            (Ok(_), Some(Fault::Refuse(status))) => {
                drain(&mut body).await?;
                Err(Refusal(status, "said the test".to_owned()))
            }
            (Ok(action), _) => {
                lock(&self.seen).push(action.name().to_owned());
                let path = auth::decoded(path.trim_start_matches('/'));
                if action.name() == "upload" {
                    self.upload(&path, &head.uri.to_string(), action, body).await?
                } else {
                    self.serve(&path, &action, &head.headers)
                }
            }
        };
        if fault == Some(Fault::LoseAnswer) {
            return Err(io::Error::other("the test loses the answer"));
        }
        let refused = |Refusal(status, words): Refusal| Response::builder().status(status).body(Full::from(words));
        let mut answer = result.or_else(refused).map_err(io::Error::other)?;
        let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(self.now_s()));
        answer.headers_mut().insert("date", date.parse().map_err(io::Error::other)?);
        Ok(answer)
    }

    fn now_s(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        now.saturating_add_signed(self.clock_offset_s.load(Relaxed))
    }

    fn fault_of(&self, action: &str) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        let at = faults.iter().position(|(of, _)| *of == action)?;
        faults.remove(at).map(|(_, fault)| fault)
    }

    /// Takes the body as it comes, and what stands behind it: values that were announced as `atend`, signed once more.
    async fn upload(
        &self,
        path: &str,
        raw: &str,
        mut action: Action,
        mut body: Incoming,
    ) -> io::Result<Result<Response<Full<Bytes>>, Refusal>> {
        let mut upload = Upload::new(lock(&self.files).new_file()?)?;
        while let Some(frame) = body.frame().await {
            match frame.map_err(io::Error::other)?.into_data() {
                Ok(data) => upload.write(&data)?,
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    match auth::check(&trailers, raw, self.now_s(), &mut lock(&self.files).seen_ids) {
                        Ok(at_end) => action = at_end,
                        Err(refusal) => return Ok(Err(refusal)),
                    }
                }
            }
        }
        Ok(lock(&self.files).finish(path, &action, upload, self.now_s()).map(|()| Response::new(Full::default())))
    }

    fn serve(&self, path: &str, action: &Action, headers: &hyper::HeaderMap) -> Result<Response<Full<Bytes>>, Refusal> {
        let mut files = lock(&self.files);
        let xml = |text: String| Ok(Response::new(Full::from(text)));
        match action.name() {
            "stat" => xml(answers::stat(&files, path, action)?),
            "dir" => xml(answers::dir(&files, path, action)?),
            "list" => xml(answers::list(&files, path, action)?),
            "download" => {
                let object = files.object(path).ok_or_else(|| Refusal(404, "no such object".to_owned()))?;
                let range = headers.get("range").filter(|_| !self.ignores_ranges.load(Relaxed)).and_then(|range| range.to_str().ok());
                let hides_tags = self.hides_tags.load(Relaxed);
                object.download(range, hides_tags)
            }
            "delete" => files.delete(path).map(|()| Response::default()),
            "mkdir" => files.mkdir(path).map(|()| Response::default()),
            "rmdir" => files.rmdir(path).map(|()| Response::default()),
            "mtime" => files.set_time(path, action).map(|()| Response::default()),
            other => Err(Refusal(400, format!("the emulator has no action {other}"))),
        }
    }
}

/// What a client sends although it is refused.
async fn drain(body: &mut Incoming) -> io::Result<()> {
    while let Some(frame) = body.frame().await {
        frame.map_err(io::Error::other)?;
    }
    Ok(())
}

/// Removes a file that nothing names any more.
fn forget(path: &std::path::Path) {
    let _ = fs::remove_file(path);
}
