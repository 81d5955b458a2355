//! Tokens: version 1 (TempAuth) and Keystone version 3 (Identity API v3, "Authentication and token management").

use std::time::{Duration, Instant, SystemTime};

use reqwest::header::HeaderValue;
use reqwest::{Client, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tradewind_integrity::time;
use zeroize::Zeroizing;

use super::config::SwiftAuth;
use crate::asked::{Asked, refusal_text, shorten};
use crate::error::StoreError;
use crate::rest::{plain, text_of, words_of};

const DEADLINE: Duration = Duration::from_secs(30);
/// A new token is asked for so long before the old one expires.
const MARGIN: Duration = Duration::from_secs(60);

/// A token, and the account that it opens.
pub(super) struct Session {
    pub(super) token: Zeroizing<String>,
    /// Of the account, without a slash at its end.
    pub(super) url: String,
    expires: Option<Instant>,
}

impl Session {
    pub(super) fn is_fresh(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    expires_at: String,
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    region: Option<String>,
    url: String,
}

/// Asks for a token.
pub(super) async fn log_in(http: &Client, auth: &SwiftAuth, place: &str) -> Result<Session, StoreError> {
    let asked = Asked { place, action: "give a token", object: "", bytes: 0 };
    match auth {
        SwiftAuth::V1 { user, key, .. } => {
            let mut key = HeaderValue::from_str(key).map_err(|_| asked.unmade("the key is not text"))?;
            key.set_sensitive(true);
            let request = http.get(auth.url()).header("x-auth-user", user).header("x-auth-key", key);
            let answer = accepted(&asked, request.timeout(DEADLINE).send().await).await?;
            let seconds = text_of(answer.headers(), "x-auth-token-expires").and_then(|text| text.parse().ok());
            let header = |name| text_of(answer.headers(), name).ok_or_else(|| asked.unmade(&format!("the answer has no {name}")));
            session(auth, header("x-auth-token")?, header("x-storage-url")?, seconds.map(Duration::from_secs))
        }
        SwiftAuth::Password { region, interface, .. } | SwiftAuth::Application { region, interface, .. } => {
            let url = auth.url();
            let url = if url.ends_with("/v3") { format!("{url}/auth/tokens") } else { format!("{url}/v3/auth/tokens") };
            let request = http.post(url).json(&question(auth)).timeout(DEADLINE);
            let answer = accepted(&asked, request.send().await).await?;
            let token = text_of(answer.headers(), "x-subject-token").ok_or_else(|| asked.unmade("the answer has no token"))?.to_owned();
            let Answer { token: about } = answer.json().await.map_err(|error| asked.unmade(&format!("the answer: {}", plain(&error))))?;
            let url = endpoint(&about.catalog, region.as_deref(), interface).ok_or_else(|| StoreError::Configuration {
                detail: format!(
                    "Keystone's catalogue has no {interface} object-store endpoint{}; correct region and interface",
                    region.as_ref().map_or(String::new(), |region| format!(" in the region {region}"))
                ),
            })?;
            session(auth, &token, url, time::parse(&about.expires_at).map(from_now))
        }
    }
}

/// Time from now to a moment, nanoseconds since 1970-01-01 UTC.
fn from_now(at_ns: i64) -> Duration {
    let at = Duration::from_nanos(u64::try_from(at_ns).unwrap_or(0));
    (SystemTime::UNIX_EPOCH + at).duration_since(SystemTime::now()).unwrap_or_default()
}

fn session(auth: &SwiftAuth, token: &str, url: &str, life: Option<Duration>) -> Result<Session, StoreError> {
    if auth.url().starts_with("https://") && !url.starts_with("https://") {
        let detail = format!(
            "auth_url is https:// and the account's address is {}: tokens and data would go in the clear; correct the cluster's \
                              catalogue or storage_url_scheme",
            shorten(url)
        );
        return Err(StoreError::Configuration { detail });
    }
    // A life shorter than the margin is used for half of it.
    let usable = life.map(|life| life.saturating_sub(MARGIN).max(life / 2));
    let expires = usable.and_then(|usable| Instant::now().checked_add(usable));
    Ok(Session { token: Zeroizing::new(token.to_owned()), url: url.trim_end_matches('/').to_owned(), expires })
}

async fn accepted(asked: &Asked<'_>, answer: Result<Response, reqwest::Error>) -> Result<Response, StoreError> {
    let answer = answer.map_err(|error| asked.broken(&plain(&error)))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let (status, words) = (status.as_u16(), words_of(answer).await);
    let detail = refusal_text(status, "", &shorten(words.trim()));
    let place = asked.place.to_owned();
    Err(match status {
        401 | 403 => StoreError::BadCredentials { place, detail },
        429 | 498 => StoreError::Throttled { place, detail },
        408 | 500.. => StoreError::Unavailable { place, detail },
        _ => StoreError::Rejected { place, action: asked.action, code: format!("HTTP {status}"), detail: "correct auth_url".to_owned() },
    })
}

/// What Keystone is asked.
fn question(auth: &SwiftAuth) -> Value {
    match auth {
        SwiftAuth::Password { user, user_domain, password, project, project_domain, .. } => json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": user, "domain": {"name": user_domain}, "password": password.as_str(),
            }}},
            "scope": {"project": {"name": project, "domain": {"name": project_domain}}},
        }}),
        SwiftAuth::Application { id, secret, .. } => json!({"auth": {"identity": {
            "methods": ["application_credential"], "application_credential": {"id": id, "secret": secret.as_str()},
        }}}),
        SwiftAuth::V1 { .. } => Value::Null,
    }
}

fn endpoint<'a>(catalog: &'a [Service], region: Option<&str>, interface: &str) -> Option<&'a str> {
    let endpoints = catalog.iter().filter(|service| service.kind == "object-store").flat_map(|service| &service.endpoints);
    let fits = |endpoint: &&Endpoint| endpoint.interface == interface && (region.is_none() || endpoint.region.as_deref() == region);
    endpoints.into_iter().find(fits).map(|endpoint| endpoint.url.as_str())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn password(auth_url: String, region: Option<&str>) -> SwiftAuth {
        let (user, password, project) = ("u".to_owned(), Zeroizing::new("pass word".to_owned()), "p".to_owned());
        let domain = "Default".to_owned();
        let (region, interface) = (region.map(str::to_owned), "public".to_owned());
        SwiftAuth::Password { auth_url, user, user_domain: domain.clone(), password, project, project_domain: domain, region, interface }
    }

    /// Answers one request, and returns what was asked.
    async fn ask(status: &str, body: &str, region: Option<&str>) -> (Result<Session, StoreError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/identity/", listener.local_addr().unwrap());
        let answer = format!("HTTP/1.1 {status}\r\nx-subject-token: tok\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"}") {
                assert_ne!(stream.read_buf(&mut asked).await.unwrap(), 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked).unwrap()
        };
        let (http, auth) = (crate::rest::client().unwrap(), password(url, region));
        tokio::join!(log_in(&http, &auth, "here"), serving)
    }

    #[tokio::test]
    async fn keystone_is_asked_and_its_catalogue_read() {
        let body = r#"{"token": {"expires_at": "2200-01-01T00:00:00.000000Z", "catalog": [
            {"type": "identity", "endpoints": [{"interface": "public", "region": "two", "url": "http://wrong"}]},
            {"type": "object-store", "endpoints": [
                {"interface": "admin", "region": "two", "url": "http://wrong"}, {"interface": "public", "region": "one", "url": "http://one/v1/A"},
                {"interface": "public", "region": "two", "url": "http://two/v1/A/"}]}]}}"#;
        let (session, asked) = ask("201 Created", body, Some("two")).await;
        let session = session.unwrap();
        assert_eq!((session.url.as_str(), session.token.as_str()), ("http://two/v1/A", "tok"));
        assert!(session.is_fresh() && session.expires.is_some());
        assert!(asked.starts_with("POST /identity/v3/auth/tokens "), "{asked}");
        let question: Value = serde_json::from_str(asked.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(question["auth"]["identity"]["password"]["user"]["password"], "pass word");
        assert_eq!(question["auth"]["scope"]["project"]["name"], "p");
        let (session, _) = ask("201 Created", body, Some("three")).await;
        assert!(matches!(session.err(), Some(StoreError::Configuration { .. })));
        let (refused, _) = ask("401 Unauthorized", "{}", None).await;
        assert!(matches!(refused.err(), Some(StoreError::BadCredentials { .. })));
    }
}
