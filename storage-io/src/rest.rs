//! What stores over plain HTTP share: the client, requests, addresses, headers and errors without secrets.

use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;

use crate::asked::{Asked, shorten};
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::reading::Reading;
use crate::s3::body::Chunks;
use crate::store::{Body, ObjectRange};

pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Everything but what RFC 3986 calls unreserved, and '/'.
pub(crate) const PATH: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
pub(crate) const QUERY: AsciiSet = PATH.add(b'/');
/// Longest answer but of data that is read, bytes: a page of a thousand names with all that is told of them is some megabytes.
pub(crate) const PAGE_BYTES_MAX: usize = 64 << 20;
/// Bodies from here on are read for checksums where blocking is allowed, bytes.
const BLOCKING_BYTES: u64 = 64 << 10;
/// Longest error answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Follows no redirection, and no proxy of the environment.
pub(crate) fn client() -> Result<reqwest::Client, StoreError> {
    built(reqwest::Client::builder())
}

/// The same, and never speaks HTTP/2.
pub(crate) fn http1_client() -> Result<reqwest::Client, StoreError> {
    built(reqwest::Client::builder().http1_only())
}

fn built(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, StoreError> {
    let unusable = |error: reqwest::Error| StoreError::Configuration { detail: format!("no HTTP client can be made: {error}") };
    // Fails only where another one was chosen before, which is as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    builder.connect_timeout(CONNECT_DEADLINE).no_proxy().redirect(Policy::none()).build().map_err(unusable)
}

/// A request to a container, without what shows who asks.
pub(crate) struct Request<'a> {
    pub(crate) asked: Asked<'a>,
    pub(crate) method: Method,
    container: &'a str,
    /// `None`: the container itself.
    pub(crate) key: Option<&'a str>,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Body>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(asked: Asked<'a>, method: Method, container: &'a str, key: Option<&'a str>) -> Self {
        Self { asked, method, container, key, query: Vec::new(), headers: HeaderMap::new(), body: None }
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// A value that is no header's is left out: metadata is checked before.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            self.headers.insert(name, value);
        }
        self
    }

    pub(crate) fn body(mut self, body: &Body) -> Self {
        self.body = Some(body.clone());
        self
    }

    /// Its address without the query; containers lie below `base`, which has no slash at its end.
    pub(crate) fn url(&self, base: &str) -> String {
        let mut url = format!("{base}/{}", utf8_percent_encode(self.container, &PATH));
        if let Some(key) = self.key {
            url.push('/');
            url.extend(utf8_percent_encode(key, &PATH));
        }
        url
    }

    /// The pairs of its query as they are sent.
    pub(crate) fn pairs(&self) -> Vec<String> {
        self.query.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, &QUERY))).collect()
    }

    /// With its body, if it has one, and how long that is.
    pub(crate) fn with_body(&self, builder: RequestBuilder) -> RequestBuilder {
        match &self.body {
            Some(body) => builder.header(CONTENT_LENGTH, body.len()).body(reqwest::Body::wrap(Chunks::new(body))),
            None if self.method == Method::PUT => builder.header(CONTENT_LENGTH, 0),
            None => builder,
        }
    }
}

/// An address with a query, if there is one.
pub(crate) fn with_query(url: String, pairs: &[String]) -> String {
    if pairs.is_empty() { url } else { format!("{url}?{}", pairs.join("&")) }
}

/// Reads an answer to its end.
pub(crate) async fn read(mut reading: Reading<'_>, mut answer: Response) -> Result<ObjectRange, StoreError> {
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => reading.add(chunk)?,
            Ok(None) => return reading.end(),
            Err(error) => return Err(reading.broken(&plain(&error))),
        }
    }
}

/// What a store's own checksum of a body is, by `compute`, which tells the CRC-64 of the same pass too: that must be the source's.
pub(crate) async fn digest<T: Send + 'static>(
    place: &str,
    key: &str,
    body: &Body,
    compute: impl FnOnce(&[Bytes]) -> (T, Crc64) + Send + 'static,
) -> Result<T, StoreError> {
    let (digest, crc) = if body.len() < BLOCKING_BYTES {
        compute(body.chunks())
    } else {
        let chunks = body.chunks().to_vec();
        let asked = Asked { place, action: "compute a checksum", object: key, bytes: 0 };
        tokio::task::spawn_blocking(move || compute(&chunks)).await.map_err(|error| asked.unmade(&format!("{error}")))?
    };
    same_crc(key, "the bytes to be sent", crc, body.crc()).map(|()| digest)
}

/// Whether `what`, with the CRC-64 that was found, is what the source had.
pub(crate) fn same_crc(key: &str, what: &str, found: Crc64, source: Crc64) -> Result<(), StoreError> {
    if found == source {
        return Ok(());
    }
    let detail = format!("{what} have CRC-64 {}, at the source they had {}", found.to_base64(), source.to_base64());
    Err(StoreError::ChecksumMismatch { object: key.to_owned(), detail })
}

/// The whole body of an answer, which may be so long.
pub(crate) async fn whole(asked: &Asked<'_>, mut answer: Response, bytes_max: usize) -> Result<Vec<u8>, StoreError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| asked.broken(&plain(&error)))? {
        body.extend_from_slice(&chunk);
        if body.len() > bytes_max {
            return Err(asked.unmade("its answer is longer than any that can be used"));
        }
    }
    Ok(body)
}

/// The same of one that is JSON.
pub(crate) async fn json<T: DeserializeOwned>(asked: &Asked<'_>, answer: Response, bytes_max: usize) -> Result<T, StoreError> {
    let body = whole(asked, answer, bytes_max).await?;
    serde_json::from_slice(&body).map_err(|error| asked.unmade(&format!("its answer: {error}")))
}

/// An error without the URL, which may hold a signature.
pub(crate) fn plain(error: &reqwest::Error) -> String {
    let mut text = if error.is_connect() { "no connection".to_owned() } else { "the exchange broke off".to_owned() };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    shorten(&text)
}

/// The first of an answer's body, as text.
pub(crate) async fn words_of(mut answer: Response) -> String {
    let mut body = Vec::new();
    while body.len() < ANSWER_BYTES_MAX
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    String::from_utf8_lossy(&body).into_owned()
}

pub(crate) fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// An entity tag without quotes.
pub(crate) fn bare(etag: &str) -> String {
    etag.trim_start_matches("W/").trim_matches('"').to_owned()
}

/// An HTTP date, nanoseconds since 1970-01-01 UTC.
pub(crate) fn date_ns(text: &str) -> Option<i64> {
    let since = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_nanos()).ok()
}
