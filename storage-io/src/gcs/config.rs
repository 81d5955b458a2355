//! Where a bucket is and how to get into it.

use std::fmt;
use std::sync::Arc;

use gcp_auth::{CustomServiceAccount, TokenProvider};
use zeroize::Zeroizing;

use crate::asked::shorten;
use crate::error::StoreError;

/// What opens a bucket.
#[derive(Clone)]
pub enum GcsCredentials {
    /// The key of a service account, the JSON file's contents.
    ServiceAccount(Zeroizing<String>),
    /// What Google's own tools would take: `GOOGLE_APPLICATION_CREDENTIALS`, `gcloud auth application-default login`, or the machine's
    /// service account (application default credentials).
    Default,
    /// None: buckets that everybody may write, and emulators.
    Anonymous,
}

impl fmt::Debug for GcsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServiceAccount(_) => "ServiceAccount(…)",
            Self::Default => "Default",
            Self::Anonymous => "Anonymous",
        })
    }
}

/// A bucket and how to reach it.
#[derive(Clone, Debug)]
pub struct GcsConfig {
    /// Bucket.
    pub bucket: String,
    /// `http://` or `https://`, without a path; `None`: Google's own.
    pub endpoint: Option<String>,
    /// Who asks.
    pub credentials: GcsCredentials,
}

impl GcsConfig {
    pub(super) fn base(&self) -> Result<String, StoreError> {
        let endpoint = self.endpoint.as_deref().unwrap_or("https://storage.googleapis.com").trim_end_matches('/');
        let wrong =
            |what: &str| StoreError::Configuration { detail: format!("endpoint '{endpoint}' of a Google Cloud Storage store {what}") };
        let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        let host = host.ok_or_else(|| wrong("begins with neither https:// nor http://"))?;
        if host.is_empty() || host.contains(['/', '?', '#', '@']) {
            return Err(wrong("is more than a scheme, a host and a port"));
        }
        if endpoint.starts_with("http://") && !matches!(self.credentials, GcsCredentials::Anonymous) {
            return Err(wrong("would show tokens to the network; write https://"));
        }
        if self.bucket.is_empty() || !self.bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)) {
            return Err(StoreError::Configuration {
                detail: format!("'{}' is no bucket of Google Cloud Storage: lower-case letters, digits, '-', '_' and '.'", self.bucket),
            });
        }
        Ok(endpoint.to_owned())
    }

    /// Where tokens come from, if that is known without asking anybody.
    pub(super) fn provider(&self) -> Result<Option<Arc<dyn TokenProvider>>, StoreError> {
        let GcsCredentials::ServiceAccount(json) = &self.credentials else { return Ok(None) };
        let parsed: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
        if let Some(token_uri) = parsed["token_uri"].as_str().filter(|token_uri| !token_uri.starts_with("https://")) {
            let detail = format!("token_uri '{}' of the service account's key does not begin with https://", shorten(token_uri));
            return Err(StoreError::Configuration { detail });
        }
        // Its error may hold some of the key.
        let account = CustomServiceAccount::from_json(json).map_err(|_| StoreError::Configuration {
            detail:
                "the service account's key is not the JSON file that Google Cloud gives out (type, client_email, private_key, token_uri)"
                    .to_owned(),
        })?;
        Ok(Some(Arc::new(account)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_endpoint_or_bucket_is_refused_and_no_key_is_shown() {
        let config = |endpoint: Option<&str>, bucket: &str, credentials: GcsCredentials| {
            GcsConfig { bucket: bucket.to_owned(), endpoint: endpoint.map(str::to_owned), credentials }.base()
        };
        assert_eq!(config(None, "a-b_c.d", GcsCredentials::Default).unwrap(), "https://storage.googleapis.com");
        assert_eq!(config(Some("http://127.0.0.1:9/"), "b", GcsCredentials::Anonymous).unwrap(), "http://127.0.0.1:9");
        for wrong in ["ftp://a", "https://", "https://a/b", "https://u@a", "http://a"] {
            assert!(config(Some(wrong), "b", GcsCredentials::Default).is_err(), "{wrong}");
        }
        for wrong in ["", "A", "a/b", "ü", "a b"] {
            assert!(config(None, wrong, GcsCredentials::Default).is_err(), "{wrong}");
        }
        let key = GcsCredentials::ServiceAccount("{\"private_key\": \"hush\"}".to_owned().into());
        let config = GcsConfig { bucket: "b".to_owned(), endpoint: None, credentials: key };
        let refused = config.provider().err().unwrap();
        assert!(matches!(refused, StoreError::Configuration { .. }), "{refused:?}");
        assert!(!format!("{config:?} {refused:?} {refused}").contains("hush"));
    }
}
