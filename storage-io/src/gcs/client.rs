//! Requests to the JSON API: addresses, tokens, answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gcp_auth::TokenProvider;
use percent_encoding::utf8_percent_encode;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::config::{GcsConfig, GcsCredentials};
use super::errors;
use crate::asked::{Asked, shorten};
use crate::error::StoreError;
use crate::rest::{self, QUERY, Request, plain};

/// What may be done with a token: read, write and delete objects.
const SCOPES: [&str; 1] = ["https://www.googleapis.com/auth/devstorage.read_write"];
const TOKEN_DEADLINE: Duration = Duration::from_secs(30);

/// A bucket and the connections to it.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    pub(super) bucket: String,
    pub(super) place: String,
    is_anonymous: bool,
    provider: OnceCell<Arc<dyn TokenProvider>>,
    /// Tokens were given before, so that it is not the credentials if none is.
    is_known: AtomicBool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.place).finish()
    }
}

/// Which of the service's addresses.
#[derive(Clone, Copy)]
pub(super) enum At {
    /// The object of the request's key, or the list of all.
    Objects,
    /// What makes the object of the request's key out of others.
    Compose,
    /// Where objects are sent to.
    Upload,
}

impl Client {
    pub(super) fn new(config: &GcsConfig) -> Result<Self, StoreError> {
        let (http, base) = (rest::client()?, config.base()?);
        let provider = config.provider()?.map_or_else(OnceCell::new, |provider| OnceCell::new_with(Some(provider)));
        let place = match &config.endpoint {
            Some(endpoint) => format!("gs://{} at {}", config.bucket, endpoint.trim_end_matches('/')),
            None => format!("gs://{}", config.bucket),
        };
        let is_anonymous = matches!(config.credentials, GcsCredentials::Anonymous);
        Ok(Self { http, base, bucket: config.bucket.clone(), place, is_anonymous, provider, is_known: AtomicBool::new(false) })
    }

    fn url(&self, request: &Request<'_>, at: At) -> String {
        let path = if matches!(at, At::Upload) { "/upload/storage/v1" } else { "/storage/v1" };
        let mut url = format!("{}{path}/b/{}/o", self.base, self.bucket);
        if let (Some(key), At::Objects | At::Compose) = (request.key, at) {
            url.push('/');
            url.extend(utf8_percent_encode(key, &QUERY));
        }
        if matches!(at, At::Compose) {
            url.push_str("/compose");
        }
        rest::with_query(url, &request.pairs())
    }

    /// Sends a request and returns a successful answer.
    pub(super) async fn send(&self, at: At, request: Request<'_>) -> Result<Response, StoreError> {
        let asked = request.asked;
        let mut builder = self.http.request(request.method.clone(), self.url(&request, at)).headers(request.headers.clone());
        if !self.is_anonymous {
            builder = builder.header(AUTHORIZATION, self.token(&asked).await?);
        }
        let answer = request.with_body(builder).send().await.map_err(|error| asked.broken(&plain(&error)))?;
        if answer.status().is_success() && answer.status() != StatusCode::ACCEPTED {
            return Ok(answer);
        }
        Err(errors::refused(&asked, answer).await)
    }

    /// The same, and reads the answer.
    pub(super) async fn ask<T: DeserializeOwned>(&self, at: At, request: Request<'_>) -> Result<T, StoreError> {
        let asked = request.asked;
        let answer = self.send(at, request).await?;
        rest::json(&asked, answer, rest::PAGE_BYTES_MAX).await
    }

    /// A token as it is sent; it is kept and renewed by who gives it.
    async fn token(&self, asked: &Asked<'_>) -> Result<HeaderValue, StoreError> {
        let place = &self.place;
        let finding = async {
            let provider = self.provider.get_or_try_init(gcp_auth::provider).await.map_err(|error| StoreError::BadCredentials {
                place: place.clone(),
                detail: format!(
                    "no credentials were found ({}); set service_account_file, GOOGLE_APPLICATION_CREDENTIALS, or run where a service account is attached",
                    shorten(&error.to_string())
                ),
            })?;
            provider.token(&SCOPES).await.map_err(|error| {
                let detail = format!("no token was given: {}", shorten(&error.to_string()));
                if self.is_known.load(Ordering::Relaxed) || matches!(error, gcp_auth::Error::Http(..)) {
                    StoreError::Unavailable { place: place.clone(), detail }
                } else {
                    StoreError::BadCredentials { place: place.clone(), detail }
                }
            })
        };
        let token = timeout(TOKEN_DEADLINE, finding).await.map_err(|_| asked.broken("no token was given in time"))??;
        self.is_known.store(true, Ordering::Relaxed);
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.as_str())).map_err(|_| asked.unmade("the token is not text"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}
