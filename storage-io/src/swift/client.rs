//! Requests to a Swift proxy: addresses, tokens, answers (Object Storage API v1).

use std::fmt;
use std::sync::{Arc, OnceLock};

use reqwest::header::HeaderValue;
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::auth::{Session, log_in};
use super::config::{SwiftAuth, SwiftConfig};
use super::errors;
use crate::error::StoreError;
use crate::rest::{self, CONNECT_DEADLINE, Request, plain};

/// An account and the connections to it.
pub(super) struct Client {
    http: reqwest::Client,
    auth: SwiftAuth,
    pub(super) place: String,
    session: Mutex<Option<Arc<Session>>>,
    info: OnceLock<Info>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.place).finish()
    }
}

/// What a cluster tells of itself.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Info {
    #[serde(default)]
    pub(super) swift: Swift,
    #[serde(default)]
    pub(super) slo: Option<Slo>,
}

impl Default for Info {
    /// Of a cluster that tells nothing: most have static large objects.
    fn default() -> Self {
        Self { swift: Swift::default(), slo: Some(Slo::default()) }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Swift {
    /// Bytes.
    pub(super) max_file_size: u64,
    /// Entries of a page.
    pub(super) container_listing_limit: usize,
    /// Bytes.
    pub(super) max_meta_name_length: usize,
    /// Bytes.
    pub(super) max_meta_value_length: usize,
    /// Pairs.
    pub(super) max_meta_count: usize,
    /// Bytes of all names and values.
    pub(super) max_meta_overall_size: usize,
}

impl Default for Swift {
    fn default() -> Self {
        Self {
            max_file_size: 5 << 30,
            container_listing_limit: 10_000,
            max_meta_name_length: 128,
            max_meta_value_length: 256,
            max_meta_count: 90,
            max_meta_overall_size: 4096,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Slo {
    pub(super) max_manifest_segments: u32,
    /// Bytes.
    pub(super) min_segment_size: u64,
}

impl Default for Slo {
    fn default() -> Self {
        Self { max_manifest_segments: 1000, min_segment_size: 1 }
    }
}

impl Client {
    pub(super) fn new(config: &SwiftConfig) -> Result<Self, StoreError> {
        config.checked()?;
        let (http, auth, place) = (rest::client()?, config.auth.clone(), config.place());
        Ok(Self { http, auth, place, session: Mutex::new(None), info: OnceLock::new() })
    }

    /// What the cluster has told, or what most have.
    pub(super) fn info(&self) -> Info {
        self.info.get().cloned().unwrap_or_default()
    }

    /// Sends a request and returns a successful answer. A token that is not taken is renewed once.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Response, StoreError> {
        let session = self.session(None).await?;
        let answer = self.send_once(&request, &session).await?;
        let answer = if answer.status() == StatusCode::UNAUTHORIZED {
            let session = self.session(Some(&session)).await?;
            self.send_once(&request, &session).await?
        } else {
            answer
        };
        // 202 says that something newer is there by the clock of another proxy, and that nothing was written. A later try has a later time.
        if request.method == Method::PUT && request.key.is_some() && answer.status() == StatusCode::ACCEPTED {
            return Err(request.asked.broken("HTTP 202: something newer is there, so nothing was written; the proxies' clocks may differ"));
        }
        if answer.status().is_success() { Ok(answer) } else { Err(errors::refused(&request.asked, answer).await) }
    }

    async fn send_once(&self, request: &Request<'_>, session: &Session) -> Result<Response, StoreError> {
        let asked = request.asked;
        let url = rest::with_query(request.url(&session.url), &request.pairs());
        let mut token = HeaderValue::from_str(&session.token).map_err(|_| asked.unmade("the token is not text"))?;
        token.set_sensitive(true);
        let builder = self.http.request(request.method.clone(), url).headers(request.headers.clone()).header("x-auth-token", token);
        request.with_body(builder).send().await.map_err(|error| asked.broken(&plain(&error)))
    }

    /// A session that is good as far as is known, and not the one that was `refused`.
    async fn session(&self, refused: Option<&Arc<Session>>) -> Result<Arc<Session>, StoreError> {
        let mut known = self.session.lock().await;
        let is_good = |session: &&Arc<Session>| session.is_fresh() && refused.is_none_or(|refused| !Arc::ptr_eq(refused, session));
        if let Some(session) = known.as_ref().filter(is_good) {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(log_in(&self.http, &self.auth, &self.place).await?);
        *known = Some(Arc::clone(&session));
        if self.info.get().is_none() {
            self.ask_info(&session.url).await;
        }
        Ok(session)
    }

    /// Clusters may keep it to themselves.
    async fn ask_info(&self, account: &str) {
        let Some((base, _)) = account.rsplit_once("/v1") else { return };
        let answer = self.http.get(format!("{base}/info")).timeout(CONNECT_DEADLINE).send().await;
        let Ok(answer) = answer.and_then(Response::error_for_status) else { return };
        if let Ok(info) = answer.json::<Info>().await {
            let _ = self.info.set(info);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::asked::Asked;
    use crate::error::StoreError;
    use crate::swift::LargeObjects;

    /// A proxy whose clock is behind says 202, and has written nothing.
    #[tokio::test]
    async fn what_was_not_written_is_not_stored() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = Vec::new();
                while !asked.windows(4).any(|four| four == b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut asked).await.unwrap(), 0);
                }
                let session = format!("HTTP/1.1 200 OK\r\nx-auth-token: t\r\nx-storage-url: http://{address}/v1/A");
                let status = if asked.starts_with(b"GET /auth") { session.as_str() } else { "HTTP/1.1 202 Accepted" };
                stream.write_all(format!("{status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
            }
        });
        let auth = SwiftAuth::V1 { auth_url: format!("http://{address}/auth"), user: "a:u".to_owned(), key: "k".to_owned().into() };
        let config = SwiftConfig { container: "c".to_owned(), segments: None, auth, large_objects: LargeObjects::Auto };
        let client = Client::new(&config).unwrap();
        let asked = Asked { place: "here", action: "put an object", object: "o", bytes: 0 };
        let put = client.send(Request::new(asked, Method::PUT, "c", Some("o"))).await;
        assert!(matches!(put.err(), Some(StoreError::Unavailable { .. })));
        client.send(Request::new(asked, Method::PUT, "c", None)).await.unwrap();
    }
}
