//! Requests to NetStorage: addresses, actions, signatures, answers (Akamai TechDocs, NetStorage Usage API).

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::hmac;
use reqwest::header::{CONTENT_LENGTH, HeaderValue};
use reqwest::{Method, Response, Url};

use super::answers::Answer;
use super::config::NetStorageConfig;
use super::pace::{self, Pace};
use super::{errors, sign};
use crate::asked::Asked;
use crate::error::StoreError;
use crate::rest::{self, Request, plain};

/// A CP code and the connections to it.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    cp_code: String,
    account: String,
    key: hmac::Key,
    pub(super) place: String,
    pace: Option<Arc<Pace>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.place).finish()
    }
}

impl Client {
    pub(super) fn new(config: &NetStorageConfig) -> Result<Self, StoreError> {
        config.checked()?;
        Ok(Self {
            // What the documentation shows, and what others' clients speak.
            http: rest::http1_client()?,
            base: config.url.trim_end_matches('/').to_owned(),
            cp_code: config.cp_code.clone(),
            account: config.upload_account.clone(),
            key: hmac::Key::new(hmac::HMAC_SHA256, config.key.as_bytes()),
            place: config.place(),
            pace: config.requests_per_s.map(|requests| pace::of_host(config.host(), requests)),
        })
    }

    /// The CP code, which the names of listings begin with.
    pub(super) fn cp_code(&self) -> &str {
        &self.cp_code
    }

    /// A request to an object or directory; `None`: the CP code itself.
    pub(super) fn request<'a>(&'a self, asked: Asked<'a>, method: Method, key: Option<&'a str>) -> Request<'a> {
        Request::new(asked, method, &self.cp_code, key)
    }

    /// Sends a request and returns a successful answer.
    pub(super) async fn send(&self, request: Request<'_>, action: &str) -> Result<Response, StoreError> {
        self.send_with(request, action, None).await
    }

    /// The same with a body of so many bytes that is not in memory.
    pub(super) async fn send_with(
        &self,
        request: Request<'_>,
        action: &str,
        streamed: Option<(u64, reqwest::Body)>,
    ) -> Result<Response, StoreError> {
        let asked = request.asked;
        let url = Url::parse(&request.url(&self.base)).map_err(|error| asked.unmade(&format!("its address: {error}")))?;
        if let Some(pace) = &self.pace {
            pace.turn().await;
        }
        // Only now, for a signature is good for a minute.
        let epoch_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let signed = sign::sign(&self.key, &self.account, epoch_s, rand::random::<u64>() >> 1, url.path(), action);
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| asked.unmade("a header is no text"));
        let mut signature = value(&signed.sign)?;
        signature.set_sensitive(true);
        let builder = self.http.request(request.method.clone(), url).headers(request.headers.clone());
        let builder = builder.header("x-akamai-acs-action", value(action)?).header("x-akamai-acs-auth-data", value(&signed.data)?);
        let builder = builder.header("x-akamai-acs-auth-sign", signature);
        let builder = match streamed {
            Some((bytes, body)) => builder.header(CONTENT_LENGTH, bytes).body(body),
            None => request.with_body(builder),
        };
        let answer = builder.send().await.map_err(|error| asked.broken(&plain(&error)))?;
        if answer.status().is_success() { Ok(answer) } else { Err(errors::refused(&asked, answer).await) }
    }

    /// Asks for what is told as XML.
    pub(super) async fn tell(&self, asked: Asked<'_>, key: Option<&str>, action: &str) -> Result<Answer, StoreError> {
        let answer = self.send(self.request(asked, Method::GET, key), action).await?;
        let text = rest::whole(&asked, answer, rest::PAGE_BYTES_MAX).await?;
        let text = std::str::from_utf8(&text).map_err(|_| asked.unmade("the answer is no UTF-8, which was asked for"))?;
        quick_xml::de::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| asked.unmade(&format!("the answer: {error}")))
    }
}
