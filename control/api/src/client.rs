//! The typed client.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tradewind_ipc::{SecretText, exit};

use crate::limits::{RESPONSE_BODY_BYTES_MAX, TRANSFER_ID_BYTES_MAX};
use crate::objects::{ListQuery, ObjectQuery, Removed};
use crate::pin::{Presented, pinned_and_watched};
use crate::problem::{ApiCode, Problem};
use crate::proof::{ReceiptKey, Verified, VerifyQuery};
use crate::rates::RateChange;
use crate::types::{DurableEntry, Health, SubmitRequest, SubmitResponse, TransferList, TransferStatus};
use crate::{Fingerprint, ObjectDetails, ObjectPage, ServerAddress};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the server waits for its engine and the engine for the store's first answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The same where the engine looks through what earlier transfers left, or tells of it.
const RESUME_TIMEOUT: Duration = Duration::from_secs(180);

/// Bound of answers that go on as long as something moves.
const STREAM_TIMEOUT: Duration = Duration::from_secs(7 * 86_400);

/// Longest line of a list of what is durable.
const DURABLE_LINE_BYTES_MAX: usize = 4096;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Access key: a name, not secret.
    pub access_key: String,
    /// Its secret.
    pub secret: SecretText,
}

/// A connection to one server whose key is pinned. Cheap to clone; connections are kept and shared.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    server: ServerAddress,
    expected: Fingerprint,
    presented: Presented,
    credentials: Option<Credentials>,
}

/// A request that did not lead to its answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server holds another key than the pinned one.
    #[error(
        "THE KEY OF {server} HAS CHANGED: expected {expected}, found {presented}. Somebody may be intercepting the connection; \
         nothing was sent. If the server was set up anew, compare with `tradewindd --fingerprint` on it, then {remedy}"
    )]
    FingerprintMismatch {
        /// The server.
        server: ServerAddress,
        /// Pinned.
        expected: Fingerprint,
        /// Presented.
        presented: Fingerprint,
        /// What to do if the change is rightful.
        remedy: String,
    },
    /// No connection, or it broke.
    #[error("cannot reach {server}: {reason}; check the address, the port and that tradewindd runs")]
    Unreachable {
        /// The server.
        server: ServerAddress,
        /// Why.
        reason: String,
        /// Whether there was a connection, with the server's key: it broke.
        was_connected: bool,
    },
    /// No answer in time.
    #[error("{server} did not answer within {seconds} s")]
    Timeout {
        /// The server.
        server: ServerAddress,
        /// How long was waited, seconds.
        seconds: u64,
    },
    /// The server says no.
    #[error("{0}")]
    Refused(Problem),
    /// The answer is none of this interface.
    #[error("{server} answered {status} with something that is not tradewind's ({reason}); check the address and that both releases match")]
    NotTradewind {
        /// The server.
        server: ServerAddress,
        /// HTTP status.
        status: u16,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS could not be set up here.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl ClientError {
    /// Exit code of the `tradewind` command.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::FingerprintMismatch { .. } => exit::FINGERPRINT,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::NotTradewind { .. } => exit::UNREACHABLE,
            Self::Refused(problem) => problem.code.exit_code(),
            Self::Setup(_) => exit::INTERNAL,
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Refused(problem) => matches!(problem.status, 408 | 429 | 503 | 504),
            Self::FingerprintMismatch { .. } | Self::NotTradewind { .. } | Self::Setup(_) => false,
        }
    }

    /// What to do next, where the message itself does not say it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.hint),
            _ => None,
        }
    }
}

impl Client {
    /// A client that speaks only to the server with this fingerprint. Connects with the first request; proxies are not used.
    ///
    /// # Errors
    /// [`ClientError::Setup`].
    pub fn new(server: ServerAddress, expected: Fingerprint, credentials: Option<Credentials>) -> Result<Self, ClientError> {
        let (tls, presented) = pinned_and_watched(expected).map_err(|e| ClientError::Setup(e.to_string()))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|e| ClientError::Setup(chain(&e)))?;
        Ok(Self { http, server, expected, presented, credentials })
    }

    /// `POST /v1/transfers`. Also says which address answered, for [`crate::LaneOffer::socket_addresses`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn submit(&self, request: &SubmitRequest) -> Result<(SubmitResponse, IpAddr), ClientError> {
        let body = serde_json::to_vec(request).map_err(|e| ClientError::Setup(e.to_string()))?;
        let request = self.request(Method::POST, "v1/transfers").timeout(RESUME_TIMEOUT);
        let response = self.transmit(with_json(request, body)).await?;
        let address = response.remote_addr().map(|a| a.ip());
        let answer = self.read(response).await?;
        let reason = || "its address is unknown".to_owned();
        Ok((answer, address.ok_or_else(|| self.broken(reason()))?))
    }

    /// `GET /v1/transfers/{id}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self, transfer_id: &str) -> Result<TransferStatus, ClientError> {
        let path = transfer_path(transfer_id)?;
        self.read(self.send(Method::GET, &path, None).await?).await
    }

    /// `GET /v1/transfers/{id}/durable`: hands over each entry as it arrives.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn durable(&self, transfer_id: &str, each: &mut (dyn FnMut(DurableEntry) + Send)) -> Result<(), ClientError> {
        let path = format!("{}/durable", transfer_path(transfer_id)?);
        let mut response = self.transmit(self.request(Method::GET, &path).timeout(RESUME_TIMEOUT)).await?;
        if !response.status().is_success() {
            return self.read(response).await;
        }
        let status = response.status().as_u16();
        let mut rest = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| self.transport_error(&e))? {
            rest.extend_from_slice(&piece);
            let Some(end) = rest.iter().rposition(|&byte| byte == b'\n') else {
                if rest.len() > DURABLE_LINE_BYTES_MAX {
                    return Err(self.not_tradewind(status, format!("a line of more than {DURABLE_LINE_BYTES_MAX} bytes")));
                }
                continue;
            };
            for line in rest[..end].split(|&byte| byte == b'\n') {
                each(serde_json::from_slice(line).map_err(|e| self.not_tradewind(status, e.to_string()))?);
            }
            rest.drain(..=end);
        }
        if rest.is_empty() { Ok(()) } else { Err(self.not_tradewind(status, "the list was cut off".to_owned())) }
    }

    /// `POST /v1/transfers/{id}/durable`: what this end of a download has already; entries a line each, as [`DurableEntry`] is written.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn have(&self, transfer_id: &str, lines: Vec<u8>) -> Result<(), ClientError> {
        let path = format!("{}/durable", transfer_path(transfer_id)?);
        let request = self.request(Method::POST, &path).timeout(RESUME_TIMEOUT);
        let response = self.transmit(request.header(CONTENT_TYPE, "application/x-ndjson").body(lines)).await?;
        if response.status().is_success() { Ok(()) } else { self.read(response).await }
    }

    /// `GET /v1/transfers`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self) -> Result<TransferList, ClientError> {
        self.read(self.send(Method::GET, "v1/transfers", None).await?).await
    }

    /// `DELETE /v1/transfers/{id}`: ends the transfer; what is durable stays. Ended ones stay as they are.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cancel(&self, transfer_id: &str) -> Result<TransferStatus, ClientError> {
        let path = transfer_path(transfer_id)?;
        self.read(self.send(Method::DELETE, &path, None).await?).await
    }

    /// `PATCH /v1/transfers/{id}`: changes policy and rates of a running transfer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn change_rate(&self, transfer_id: &str, change: &RateChange) -> Result<TransferStatus, ClientError> {
        let path = transfer_path(transfer_id)?;
        let body = serde_json::to_vec(change).map_err(|e| ClientError::Setup(e.to_string()))?;
        self.read(self.send(Method::PATCH, &path, Some(body)).await?).await
    }

    /// `GET /v1/objects`: a page of a listing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_objects(&self, query: &ListQuery) -> Result<ObjectPage, ClientError> {
        self.read(self.send_query(Method::GET, "v1/objects", query).await?).await
    }

    /// `GET /v1/object`: what is known about an object.
    ///
    /// # Errors
    /// [`ClientError`]; a missing object is [`ApiCode::ObjectMissing`].
    pub async fn object(&self, url: &str) -> Result<ObjectDetails, ClientError> {
        self.read(self.send_query(Method::GET, "v1/object", &ObjectQuery { url: url.to_owned() }).await?).await
    }

    /// `DELETE /v1/object`: removes an object.
    ///
    /// # Errors
    /// [`ClientError`]; a missing object is [`ApiCode::ObjectMissing`].
    pub async fn remove_object(&self, url: &str) -> Result<Removed, ClientError> {
        self.read(self.send_query(Method::DELETE, "v1/object", &ObjectQuery { url: url.to_owned() }).await?).await
    }

    /// `GET /healthz`, with credentials if the client has any.
    ///
    /// # Errors
    /// [`ClientError`]; a server that answers that it is not ready is no error.
    pub async fn health(&self) -> Result<Health, ClientError> {
        let response = self.send(Method::GET, "healthz", None).await?;
        if response.status() != StatusCode::SERVICE_UNAVAILABLE {
            return self.read(response).await;
        }
        let (status, body) = self.body(response).await?;
        serde_json::from_slice(&body).map_err(|e| self.not_tradewind(status, e.to_string()))
    }

    /// `GET /v1/transfers/{id}/manifest`: hands over its bytes as they arrive, until `each` wants no more.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn manifest(&self, transfer_id: &str, each: &mut (dyn FnMut(&[u8]) -> bool + Send)) -> Result<(), ClientError> {
        let path = format!("{}/manifest", transfer_path(transfer_id)?);
        let mut response = self.transmit(self.request(Method::GET, &path).timeout(STREAM_TIMEOUT)).await?;
        if !response.status().is_success() {
            return self.read(response).await;
        }
        while let Some(piece) = response.chunk().await.map_err(|e| self.transport_error(&e))? {
            if !each(&piece) {
                break;
            }
        }
        Ok(())
    }

    /// `GET /v1/transfers/{id}/receipt`: the document as the server signed it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn receipt(&self, transfer_id: &str) -> Result<String, ClientError> {
        let path = format!("{}/receipt", transfer_path(transfer_id)?);
        let response = self.send(Method::GET, &path, None).await?;
        if !response.status().is_success() {
            return self.read(response).await;
        }
        let (status, body) = self.body(response).await?;
        String::from_utf8(body).map_err(|e| self.not_tradewind(status, e.to_string()))
    }

    /// `GET /v1/receipt-key`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn receipt_key(&self) -> Result<ReceiptKey, ClientError> {
        self.read(self.send(Method::GET, "v1/receipt-key", None).await?).await
    }

    /// `POST /v1/verify`: has stored objects read and compared with these lines of a manifest. `each` is told at least once a second how far it
    /// is. Dropping the call ends the reading at the server.
    ///
    /// # Errors
    /// [`ClientError`], also when nothing is heard for a minute.
    pub async fn verify(&self, url: &str, lines: Vec<u8>, each: &mut (dyn FnMut(Verified) + Send)) -> Result<(), ClientError> {
        let query = VerifyQuery { url: url.to_owned() };
        let request = self.request(Method::POST, "v1/verify").query(&query).timeout(STREAM_TIMEOUT);
        let mut response = self.transmit(request.header(CONTENT_TYPE, "application/x-ndjson").body(lines)).await?;
        if !response.status().is_success() {
            return self.read(response).await;
        }
        let (status, mut rest, mut ended) = (response.status().as_u16(), Vec::new(), false);
        let silent = |_| ClientError::Timeout { server: self.server.clone(), seconds: REQUEST_TIMEOUT.as_secs() };
        while let Some(piece) =
            tokio::time::timeout(REQUEST_TIMEOUT, response.chunk()).await.map_err(silent)?.map_err(|e| self.transport_error(&e))?
        {
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let verified: Verified = serde_json::from_slice(&line).map_err(|e| self.not_tradewind(status, e.to_string()))?;
                ended |= verified.ended;
                each(verified);
            }
            if rest.len() > RESPONSE_BODY_BYTES_MAX {
                return Err(self.not_tradewind(status, format!("a line of more than {RESPONSE_BODY_BYTES_MAX} bytes")));
            }
        }
        let reason = || "the server or its engine stopped before it had read everything".to_owned();
        if ended { Ok(()) } else { Err(self.broken(reason())) }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Response, ClientError> {
        let request = self.request(method, path);
        self.transmit(match body {
            Some(body) => with_json(request, body),
            None => request,
        })
        .await
    }

    async fn send_query(&self, method: Method, path: &str, query: &impl Serialize) -> Result<Response, ClientError> {
        self.transmit(self.request(method, path).query(query)).await
    }

    async fn transmit(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        request.send().await.map_err(|e| self.transport_error(&e))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("https://{}/{path}", self.server)).header(ACCEPT, "application/json");
        match &self.credentials {
            Some(Credentials { access_key, secret }) => request.basic_auth(access_key, Some(secret.expose())),
            None => request,
        }
    }

    fn transport_error(&self, error: &reqwest::Error) -> ClientError {
        let server = self.server.clone();
        match self.presented.get() {
            Some(presented) if presented != self.expected => ClientError::FingerprintMismatch {
                remedy: format!("remove the line of {server} from the known_servers file, or give the new one with --fingerprint"),
                server,
                expected: self.expected,
                presented,
            },
            _ if error.is_timeout() && !error.is_connect() => ClientError::Timeout { server, seconds: REQUEST_TIMEOUT.as_secs() },
            _ => ClientError::Unreachable { server, reason: chain(error), was_connected: !error.is_connect() && !error.is_builder() },
        }
    }

    fn broken(&self, reason: String) -> ClientError {
        ClientError::Unreachable { server: self.server.clone(), reason, was_connected: true }
    }

    async fn body(&self, mut response: Response) -> Result<(u16, Vec<u8>), ClientError> {
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| self.transport_error(&e))? {
            if body.len() + piece.len() > RESPONSE_BODY_BYTES_MAX {
                return Err(self.not_tradewind(status, format!("more than {RESPONSE_BODY_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok((status, body))
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let is_success = response.status().is_success();
        let (status, body) = self.body(response).await?;
        if is_success {
            return serde_json::from_slice(&body).map_err(|e| self.not_tradewind(status, e.to_string()));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(ClientError::Refused(problem)),
            Err(error) => Err(self.not_tradewind(status, error.to_string())),
        }
    }

    fn not_tradewind(&self, status: u16, reason: String) -> ClientError {
        ClientError::NotTradewind { server: self.server.clone(), status, reason }
    }
}

fn with_json(request: RequestBuilder, body: Vec<u8>) -> RequestBuilder {
    request.header(CONTENT_TYPE, "application/json").body(body)
}

/// Ids are what the server made: letters, digits and `-`. Anything else cannot exist and must not reach a URL.
fn transfer_path(id: &str) -> Result<String, ClientError> {
    let plausible = !id.is_empty() && id.len() <= TRANSFER_ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plausible {
        Ok(format!("v1/transfers/{id}"))
    } else {
        Err(ClientError::Refused(Problem::new(
            ApiCode::NotFound,
            format!("'{}' is no transfer id", id.chars().take(80).collect::<String>()),
        )))
    }
}

/// The innermost cause says what happened; the outer ones repeat "error sending request".
fn chain(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
