//! Requests to NameNodes, and to the DataNodes that they name (WebHDFS REST API).
//!
//! A NameNode answers a request that moves data with the address of a DataNode. No redirection is followed by itself: the NameNode is asked without
//! the data, its answer is looked at, and the data goes to the DataNode.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use percent_encoding::utf8_percent_encode;
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::config::{HdfsAuth, HdfsConfig};
use super::errors::Refusal;
use crate::asked::Asked;
use crate::error::StoreError;
use crate::rest::{self, QUERY, Request, plain, text_of};
use crate::store::Body;

/// What all of WebHDFS lies below.
const API: &str = "webhdfs/v1";
/// Longest answer about one file, bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A cluster and the connections to it.
pub(super) struct Client {
    http: reqwest::Client,
    namenodes: Vec<String>,
    /// The one that answered last.
    active: AtomicUsize,
    /// Shows who asks, as it stands in a query; never in a message.
    who: String,
    pub(super) place: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.place).finish()
    }
}

/// What a NameNode said.
enum Said {
    Answer(Response),
    /// Another one is to be asked.
    Elsewhere(StoreError),
}

impl Client {
    pub(super) fn new(config: &HdfsConfig) -> Result<Self, StoreError> {
        config.checked()?;
        let who = match &config.auth {
            HdfsAuth::User(user) => format!("user.name={}", utf8_percent_encode(user, &QUERY)),
            HdfsAuth::Token(token) => format!("delegation={}", utf8_percent_encode(token, &QUERY)),
        };
        let namenodes = config.namenodes.iter().map(|address| address.trim_end_matches('/').to_owned()).collect();
        Ok(Self { http: rest::client()?, namenodes, active: AtomicUsize::new(0), who, place: config.place() })
    }

    /// A request about an absolute path.
    pub(super) fn request<'a>(asked: Asked<'a>, method: Method, op: &'static str, path: &'a str) -> Request<'a> {
        Request::new(asked, method, API, Some(path.trim_start_matches('/'))).query("op", op)
    }

    /// Sends a request that the NameNode does itself; returns a successful answer.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Response, StoreError> {
        let answer = self.ask(&request).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(request.asked.unmade("it sends to another server for what is its own")) }
    }

    /// The same, and reads the answer.
    pub(super) async fn send_for<T: DeserializeOwned>(&self, request: Request<'_>, bytes_max: usize) -> Result<T, StoreError> {
        let asked = request.asked;
        rest::json(&asked, self.send(request).await?, bytes_max).await
    }

    /// Sends a request whose answer is a DataNode's.
    pub(super) async fn send_through(&self, request: Request<'_>) -> Result<Response, StoreError> {
        let answer = self.ask(&request).await?;
        // Gateways may answer themselves.
        if answer.status().is_success() {
            return Ok(answer);
        }
        self.send_to_datanode(&request, datanode_of(&request.asked, &answer)?, None).await
    }

    /// Creates a file.
    pub(super) async fn send_data(&self, request: Request<'_>, body: &Body) -> Result<(), StoreError> {
        let asked = request.asked;
        let answer = self.ask(&request).await?;
        if answer.status().is_success() {
            return Err(asked.unmade("it names no DataNode that takes the data"));
        }
        let answer = self.send_to_datanode(&request, datanode_of(&asked, &answer)?, Some(body)).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK => Ok(()),
            status => Err(asked.unmade(&format!("HTTP {} instead of 201", status.as_u16()))),
        }
    }

    async fn send_to_datanode(&self, request: &Request<'_>, url: Url, body: Option<&Body>) -> Result<Response, StoreError> {
        let asked = request.asked;
        let builder = self.http.request(request.method.clone(), url).header(CONTENT_TYPE, "application/octet-stream");
        let builder = match body {
            Some(body) => Request::new(asked, request.method.clone(), API, None).body(body).with_body(builder),
            None => builder,
        };
        let answer = builder.send().await.map_err(|error| asked.broken(&format!("a DataNode: {}", plain(&error))))?;
        if answer.status().is_success() { Ok(answer) } else { Err(Refusal::of(answer).await.error(&asked, true)) }
    }

    /// Asks the NameNodes one after the other, from the one on that answered last. What it returns is a success or a redirection.
    async fn ask(&self, request: &Request<'_>) -> Result<Response, StoreError> {
        let (first, count) = (self.active.load(Ordering::Relaxed), self.namenodes.len());
        let mut failed = None;
        for at in (first..first + count).map(|at| at % count) {
            let mut asking = Asking::new(&self.active, (at + 1) % count);
            let said = self.ask_one(&self.namenodes[at], request).await;
            if !matches!(said, Err(StoreError::Unavailable { .. })) {
                asking.has_answered();
            }
            match said? {
                Said::Answer(answer) => {
                    self.active.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Said::Elsewhere(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| request.asked.unmade("there is no NameNode")))
    }

    async fn ask_one(&self, namenode: &str, request: &Request<'_>) -> Result<Said, StoreError> {
        let asked = request.asked;
        let mut pairs = request.pairs();
        pairs.push(self.who.clone());
        let builder = self.http.request(request.method.clone(), rest::with_query(request.url(namenode), &pairs));
        let answer = match request.with_body(builder).send().await {
            Ok(answer) => answer,
            // Nothing was sent.
            Err(error) if error.is_connect() => return Ok(Said::Elsewhere(asked.broken(&plain(&error)))),
            Err(error) => return Err(asked.broken(&plain(&error))),
        };
        if answer.status().is_success() || answer.status().is_redirection() {
            return Ok(Said::Answer(answer));
        }
        let refusal = Refusal::of(answer).await;
        let error = refusal.error(&asked, false);
        if refusal.is_elsewhere() { Ok(Said::Elsewhere(error)) } else { Err(error) }
    }
}

/// A NameNode is being asked. Whoever does not answer, until that is given up, is not the first to be asked the next time.
pub(super) struct Asking<'a> {
    active: &'a AtomicUsize,
    next: usize,
    is_answered: bool,
}

impl<'a> Asking<'a> {
    pub(super) fn new(active: &'a AtomicUsize, next: usize) -> Self {
        Self { active, next, is_answered: false }
    }

    pub(super) fn has_answered(&mut self) {
        self.is_answered = true;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.active.store(self.next, Ordering::Relaxed);
        }
    }
}

fn datanode_of(asked: &Asked<'_>, answer: &Response) -> Result<Url, StoreError> {
    datanode(asked, answer.url(), text_of(answer.headers(), LOCATION.as_str()))
}

/// Where data goes. What was asked for under https goes nowhere in the clear. The query may hold a secret.
fn datanode(asked: &Asked<'_>, from: &Url, location: Option<&str>) -> Result<Url, StoreError> {
    let url = location.and_then(|location| from.join(location).ok());
    let Some(url) = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some()) else {
        return Err(asked.unmade("it sends to another server without an address that can be used"));
    };
    if from.scheme() == "https" && url.scheme() != "https" {
        return Err(asked.unmade("it is asked by https, and sends to a DataNode by http; see dfs.http.policy"));
    }
    Ok(url)
}

/// Whether something was done.
#[derive(Deserialize)]
pub(super) struct Done {
    pub(super) boolean: bool,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::checksum::Crc64;

    const ASKED: Asked<'_> = Asked { place: "here", action: "write a file", object: "o", bytes: 0 };

    /// A server that says the same to everybody; its address, and how often it was asked.
    async fn says(answer: String) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (format!("http://{}", listener.local_addr().unwrap()), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.windows(4).any(|four| four == b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
                count.fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (address, asked)
    }

    fn answer(status: &str, header: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{header}\r\n{body}", body.len())
    }

    fn client(namenodes: &[&String]) -> Client {
        let namenodes = namenodes.iter().map(|&namenode| namenode.clone()).collect();
        let auth = HdfsAuth::Token("hush-hush".to_owned().into());
        Client::new(&HdfsConfig { namenodes, rpc_addresses: Vec::new(), root: "/".to_owned(), auth }).unwrap()
    }

    fn request() -> Request<'static> {
        Client::request(ASKED, Method::PUT, "CREATE", "/o")
    }

    #[tokio::test]
    async fn the_namenode_that_is_active_is_found_and_remembered() {
        let standby = "{\"RemoteException\":{\"exception\":\"StandbyException\",\"message\":\"Operation category WRITE\"}}";
        let (waiting, asked) = says(answer("403 Forbidden", "", standby)).await;
        let (active, _) = says(answer("200 OK", "", "{\"boolean\": true}")).await;
        let client = client(&[&waiting, &active]);
        for _ in 0..3 {
            assert!(client.send_for::<Done>(request(), 100).await.unwrap().boolean);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let alone = super::tests::client(&[&waiting]).send(request()).await.err();
        assert!(matches!(&alone, Some(StoreError::Unavailable { detail, .. }) if detail.contains("active")), "{alone:?}");
    }

    #[tokio::test]
    async fn answers_that_cannot_be_used_are_errors_without_secrets() {
        let body = Body::new(vec![bytes::Bytes::from_static(b"x")], Crc64::of(b"x"));
        for wrong in [
            answer("200 OK", "", ""),
            answer("307 Temporary Redirect", "", ""),
            answer("307 Temporary Redirect", "location: ftp://h/?delegation=hush-hush\r\n", ""),
            answer("307 Temporary Redirect", "location: http://\r\n", ""),
            answer("307 Temporary Redirect", "location: http://127.0.0.1:1/?delegation=hush-hush\r\n", ""),
            answer("400 Bad Request", "", "\u{0}"),
            "nonsense\r\n\r\n".to_owned(),
        ] {
            let (namenode, _) = says(wrong.clone()).await;
            let error = client(&[&namenode]).send_data(request(), &body).await.unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hush"), "{wrong}: {error:?}");
        }
    }

    #[tokio::test]
    async fn answers_without_end_are_not_read_to_their_end() {
        let (namenode, _) = says(answer("200 OK", "", &format!("{{\"boolean\": true{}}}", " ".repeat(100)))).await;
        assert!(client(&[&namenode]).send_for::<Done>(request(), 1000).await.is_ok());
        assert!(matches!(client(&[&namenode]).send_for::<Done>(request(), 100).await, Err(StoreError::Rejected { .. })));
    }

    #[test]
    fn nothing_goes_from_https_to_http() {
        let from = |text: &str| Url::parse(text).unwrap();
        assert!(datanode(&ASKED, &from("https://n/webhdfs/v1/o"), Some("https://d:1/o")).is_ok());
        assert!(datanode(&ASKED, &from("http://n/webhdfs/v1/o"), Some("https://d:1/o")).is_ok());
        assert!(datanode(&ASKED, &from("https://n/webhdfs/v1/o"), Some("http://d:1/o")).is_err());
        assert_eq!(datanode(&ASKED, &from("https://n/a"), Some("/b")).unwrap().as_str(), "https://n/b");
    }
}
