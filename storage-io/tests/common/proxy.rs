//! An HTTP proxy in front of a real store, which delays, refuses, cuts, truncates and corrupts some of what passes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::ready;
use futures_util::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::CONTENT_LENGTH;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::front::accept;

/// What is done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// It is served after so many milliseconds.
    Delay(u64),
    /// It never reaches the store, and is answered with this status and this code in an S3 error.
    Refuse(u16, &'static str),
    /// The connection is cut before it reaches the store.
    Reset,
    /// The store serves it, and the connection is cut without an answer.
    LoseAnswer,
    /// The store gets half of its body, and the connection is cut.
    CutBody,
    /// The connection is cut in the middle of the answer.
    CutAnswer,
    /// One bit of its body is flipped.
    FlipBit,
    /// A completion never reaches the store, and is answered with 200 and an error in the body, as S3 documents it.
    ErrorInBody,
}

impl Fault {
    /// Whether it can happen to such a request.
    fn fits(self, method: &Method, query: &str, body: &Bytes) -> bool {
        match self {
            Self::Delay(_) | Self::Refuse(..) | Self::Reset | Self::LoseAnswer => true,
            Self::CutBody => method == Method::PUT && body.len() > 1,
            // Flipped, a list of segments is another list, which is refused for good.
            Self::FlipBit => method == Method::PUT && body.len() > 1 && !query.contains("multipart-manifest"),
            Self::CutAnswer => method == Method::GET,
            Self::ErrorInBody => method == Method::POST && query.contains("uploadId="),
        }
    }
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

struct Shared {
    upstream: SocketAddr,
    faults: Vec<Fault>,
    /// The first request that a fault fits has one, and then one of so many, by chance.
    one_in: u64,
    chance: Mutex<u64>,
    made: Mutex<HashMap<Fault, usize>>,
    lost_creations: AtomicUsize,
}

/// The proxy; it is gone when dropped.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
    pub(crate) address: SocketAddr,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    /// Starts one in front of `upstream`, an address `HOST:PORT`.
    pub(crate) async fn start(upstream: &str, faults: &[Fault], one_in: u64) -> Self {
        let (upstream, chance) = (upstream.parse().unwrap(), Mutex::new(0x9e37_79b9_7f4a_7c15));
        let shared = Arc::new(Shared {
            upstream,
            faults: faults.to_vec(),
            one_in,
            chance,
            made: Mutex::default(),
            lost_creations: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, serving) = (listener.local_addr().unwrap(), Arc::clone(&shared));
        let accepting = accept(listener, move |request| {
            let shared = Arc::clone(&serving);
            async move { shared.serve(request).await }
        });
        Self { shared, accepting, address }
    }

    /// Uploads of S3 that were created and whose ids nobody was told: nobody can abort them.
    pub(crate) fn lost_creations(&self) -> usize {
        self.shared.lost_creations.load(Relaxed)
    }

    /// How often each fault was made.
    pub(crate) fn made(&self) -> HashMap<Fault, usize> {
        self.shared.made.lock().unwrap().clone()
    }
}

fn cut() -> io::Error {
    io::Error::other("the test cuts the connection")
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// The first half of it, and then the connection breaks: a moment later, or hyper would not have sent the half.
fn half(body: &Bytes) -> Body {
    let first = Frame::data(body.slice(..body.len() / 2));
    let end = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Err(cut())
    };
    StreamBody::new(stream::once(ready(Ok(first))).chain(stream::once(end))).boxed_unsync()
}

impl Shared {
    /// The fault of a request, if it has one. The numbers are a 64-bit xorshift's: the same in each run, whoever takes them.
    fn fault(&self, method: &Method, query: &str, body: &Bytes) -> Option<Fault> {
        let fitting: Vec<Fault> = self.faults.iter().copied().filter(|fault| fault.fits(method, query, body)).collect();
        let mut chance = self.chance.lock().unwrap();
        for shift in [13, -7, 17_i32] {
            *chance ^= if shift > 0 { *chance << shift } else { *chance >> -shift };
        }
        let mut made = self.made.lock().unwrap();
        if fitting.is_empty() || !(made.is_empty() || (*chance).is_multiple_of(self.one_in)) {
            return None;
        }
        let fault = fitting[(*chance / self.one_in) as usize % fitting.len()];
        *made.entry(fault).or_default() += 1;
        Some(fault)
    }

    async fn serve(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let fault = self.fault(&head.method, head.uri.query().unwrap_or_default(), &body);
        match fault {
            Some(Fault::Delay(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Some(Fault::Refuse(status, code)) => return Ok(refusal(status, code)),
            Some(Fault::ErrorInBody) => return Ok(refusal(200, "InternalError")),
            Some(Fault::Reset) => return Err(cut()),
            _ => {}
        }
        let sent = match fault {
            Some(Fault::CutBody) => half(&body),
            Some(Fault::FlipBit) => {
                let mut flipped = Vec::from(body);
                let middle = flipped.len() / 2;
                flipped[middle] ^= 1;
                whole(flipped.into())
            }
            _ => whole(body),
        };
        let is_creation =
            head.method == Method::POST && head.uri.query().is_some_and(|query| query.split('&').any(|name| name.starts_with("uploads")));
        let answer = self.forward(Request::from_parts(head, sent)).await?;
        let (head, body) = answer.into_parts();
        if fault == Some(Fault::LoseAnswer) {
            self.lost_creations.fetch_add(usize::from(is_creation && head.status.is_success()), Relaxed);
            return Err(cut());
        }
        let body = if fault == Some(Fault::CutAnswer) && body.len() > 1 { half(&body) } else { whole(body) };
        Ok(Response::from_parts(head, body))
    }

    /// A connection of its own for each request. Headers pass as they are: they are signed.
    async fn forward(&self, request: Request<Body>) -> io::Result<Response<Bytes>> {
        let is_head = request.method() == Method::HEAD;
        let stream = TcpStream::connect(self.upstream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let (mut head, body) = answer.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        connection.abort();
        head.headers.remove("transfer-encoding");
        head.headers.remove("connection");
        if !is_head {
            head.headers.insert(CONTENT_LENGTH, body.len().into());
        }
        Ok(Response::from_parts(head, body))
    }
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>said the test</Message></Error>");
    Response::builder().status(status).header("content-type", "application/xml").body(whole(body.into())).unwrap()
}
