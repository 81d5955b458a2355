//! What stores over plain HTTP share: the client, addresses, headers and errors without secrets.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use reqwest::Response;
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;

use crate::asked::shorten;
use crate::error::StoreError;

pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Everything but what RFC 3986 calls unreserved, and '/'.
pub(crate) const PATH: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
pub(crate) const QUERY: AsciiSet = PATH.add(b'/');
/// Longest error answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Follows no redirection, and no proxy of the environment.
pub(crate) fn client() -> Result<reqwest::Client, StoreError> {
    let unusable = |error: reqwest::Error| StoreError::Configuration { detail: format!("no HTTP client can be made: {error}") };
    // Fails only where another one was chosen before, which is as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().connect_timeout(CONNECT_DEADLINE).no_proxy().redirect(Policy::none()).build().map_err(unusable)
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
