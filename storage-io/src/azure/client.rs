//! Requests to the Blob service: addresses, signatures, answers (Azure Storage REST API, "Authorize with Shared Key").

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::utf8_percent_encode;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::config::{AzureConfig, AzureCredentials};
use crate::error::StoreError;
use crate::rest::{self, CONNECT_DEADLINE, QUERY, Request, plain};
use crate::store::Body;

/// Of the REST API; CRC-64 since 2019-02-02.
const API_VERSION: &str = "2021-12-02";
/// Where a machine of Azure asks for its identity's tokens ("Azure Instance Metadata Service").
const IDENTITY_URL: &str =
    "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F";
/// A new token is asked for so long before the old one expires.
const TOKEN_MARGIN: Duration = Duration::from_secs(300);

/// What a request is signed with.
enum Auth {
    Key(Box<hmac::Key>),
    Sas(Zeroizing<String>),
    Identity { url: String, token: Mutex<Option<(Zeroizing<String>, Instant)>> },
}

/// A container and the connections to it.
pub(super) struct Client {
    http: reqwest::Client,
    /// Of the containers, without a slash at its end.
    base: String,
    account: String,
    pub(super) container: String,
    pub(super) place: String,
    auth: Auth,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.place).finish()
    }
}

impl Client {
    pub(super) fn new(config: &AzureConfig) -> Result<Self, StoreError> {
        let http = rest::client()?;
        let auth = match &config.credentials {
            AzureCredentials::Key(key) => Auth::Key(Box::new(hmac::Key::new(hmac::HMAC_SHA256, key))),
            AzureCredentials::Sas(sas) => Auth::Sas(sas.clone()),
            AzureCredentials::ManagedIdentity { client_id } => {
                let chosen = client_id.as_ref().map_or(String::new(), |id| format!("&client_id={}", utf8_percent_encode(id, &QUERY)));
                Auth::Identity { url: format!("{IDENTITY_URL}{chosen}"), token: Mutex::new(None) }
            }
        };
        Ok(Self {
            http,
            base: config.base()?,
            account: config.account.clone(),
            container: config.container.clone(),
            place: config.place(),
            auth,
        })
    }

    /// Sends a request and returns a successful answer.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Response, StoreError> {
        let asked = request.asked;
        let built = self.build(request).await?;
        let answer = self.http.execute(built).await.map_err(|error| asked.broken(&plain(&error)))?;
        if answer.status().is_success() { Ok(answer) } else { Err(asked.refused(answer).await) }
    }

    async fn build(&self, mut request: Request<'_>) -> Result<reqwest::Request, StoreError> {
        let asked = request.asked;
        let url = request.url(&self.base);
        // What the service calls the resource is the path as it is sent.
        let path = url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| rest[at..].to_owned())).unwrap_or_default();
        let (mut pairs, mut headers) = (request.pairs(), std::mem::take(&mut request.headers));
        let put = |headers: &mut HeaderMap, name: &'static str, value: String| {
            HeaderValue::try_from(value).map(|value| headers.insert(name, value)).map_err(|_| asked.unmade("a header is not text"))
        };
        let length = request.body.as_ref().map_or(0, Body::len);
        put(&mut headers, "x-ms-version", API_VERSION.to_owned())?;
        put(&mut headers, "x-ms-date", httpdate::fmt_http_date(SystemTime::now()))?;
        match &self.auth {
            Auth::Key(key) => {
                let text = string_to_sign(&request.method, &headers, length, &self.account, &path, &request.query);
                let signature = BASE64_STANDARD.encode(hmac::sign(key, text.as_bytes()));
                put(&mut headers, "authorization", format!("SharedKey {}:{signature}", self.account))?;
            }
            Auth::Sas(sas) => pairs.push(sas.to_string()),
            Auth::Identity { url, token } => {
                let token = self.token(url, token).await?;
                put(&mut headers, "authorization", format!("Bearer {}", *token))?;
            }
        }
        let builder = self.http.request(request.method.clone(), rest::with_query(url, &pairs)).headers(headers);
        request.with_body(builder).build().map_err(|error| asked.unmade(&plain(&error)))
    }

    /// A token of the machine's identity, from memory while it is good.
    async fn token(&self, url: &str, known: &Mutex<Option<(Zeroizing<String>, Instant)>>) -> Result<Zeroizing<String>, StoreError> {
        #[derive(serde::Deserialize)]
        struct Answer {
            access_token: String,
            expires_in: serde_json::Value,
        }
        let mut known = known.lock().await;
        let now = Instant::now();
        if let Some((token, _)) = known.as_ref().filter(|(_, expires)| now + TOKEN_MARGIN < *expires) {
            return Ok(token.clone());
        }
        let asking = async {
            let answer =
                self.http.get(url).header("Metadata", "true").timeout(CONNECT_DEADLINE).send().await.map_err(|error| {
                    format!("neither a key nor a signature was given, and this machine has no identity: {}", plain(&error))
                })?;
            if answer.status() != StatusCode::OK {
                return Err(format!("the machine's identity gives no token: HTTP {}", answer.status().as_u16()));
            }
            answer.json::<Answer>().await.map_err(|error| format!("the answer to a question for a token: {}", plain(&error)))
        };
        match (asking.await, known.as_ref()) {
            (Ok(answer), _) => {
                // Some write the number as text.
                let seconds = answer.expires_in.as_u64().or_else(|| answer.expires_in.as_str()?.parse().ok()).unwrap_or(0);
                let token = Zeroizing::new(answer.access_token);
                *known = Some((token.clone(), now + Duration::from_secs(seconds)));
                Ok(token)
            }
            // The old one is good for a while.
            (Err(_), Some((token, expires))) if now < *expires => Ok(token.clone()),
            // Such services fail for a minute now and then.
            (Err(detail), Some(_)) => Err(StoreError::Unavailable { place: self.place.clone(), detail }),
            (Err(detail), None) => Err(StoreError::BadCredentials { place: self.place.clone(), detail }),
        }
    }
}

/// What is signed with the account's key.
fn string_to_sign(
    method: &Method,
    headers: &HeaderMap,
    length: u64,
    account: &str,
    path: &str,
    query: &[(&'static str, String)],
) -> String {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let length = if length == 0 { String::new() } else { length.to_string() };
    let mut text = format!(
        "{method}\n{}\n{}\n{length}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n",
        header("content-encoding"),
        header("content-language"),
        header("content-md5"),
        header("content-type"),
        // The date is in x-ms-date.
        "",
        header("if-modified-since"),
        header("if-match"),
        header("if-none-match"),
        header("if-unmodified-since"),
        header("range"),
    );
    let mut own: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default()))
        .filter(|(name, _)| name.starts_with("x-ms-"))
        .collect();
    own.sort_unstable();
    for (name, value) in own {
        text.push_str(&format!("{name}:{}\n", value.trim()));
    }
    text.push_str(&format!("/{account}{path}"));
    let mut query: Vec<_> = query.iter().collect();
    query.sort_unstable();
    for (name, value) in query {
        text.push_str(&format!("\n{name}:{value}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderName;

    use super::*;

    /// The example of "Authorize with Shared Key" in the REST API's documentation, with our headers.
    #[test]
    fn what_is_signed_is_what_the_service_documents() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-ms-version", "2015-02-21"), ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT"), ("range", "bytes=0-9")] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let query = [("restype", "container".to_owned()), ("comp", "list".to_owned()), ("prefix", "ä b".to_owned())];
        let text = string_to_sign(&Method::GET, &headers, 0, "myaccount", "/mycontainer", &query);
        assert_eq!(
            text,
            "GET\n\n\n\n\n\n\n\n\n\n\nbytes=0-9\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
             /myaccount/mycontainer\ncomp:list\nprefix:ä b\nrestype:container"
        );
        let text = string_to_sign(&Method::PUT, &HeaderMap::new(), 11, "a", "/a/c/k%20x", &[]);
        assert_eq!(text, "PUT\n\n\n11\n\n\n\n\n\n\n\n\n/a/a/c/k%20x");
    }
}
