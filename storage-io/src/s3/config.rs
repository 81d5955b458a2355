//! Where a bucket is and how to get into it.

use std::fmt;

use zeroize::Zeroizing;

use crate::error::StoreError;

/// An access key with its secret. `Debug` shows the key id only.
#[derive(Clone)]
pub struct Credentials {
    /// Access key id.
    pub access_key: String,
    /// Secret of the access key.
    pub secret_key: Zeroizing<String>,
    /// Token of temporary credentials.
    pub session_token: Option<Zeroizing<String>>,
}

impl Credentials {
    /// Long-lived credentials.
    #[must_use]
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Self { access_key: access_key.into(), secret_key: Zeroizing::new(secret_key.into()), session_token: None }
    }

    /// Temporary credentials, with the token that came with them.
    #[must_use]
    pub fn with_session_token(mut self, token: impl Into<String>) -> Self {
        self.session_token = Some(Zeroizing::new(token.into()));
        self
    }

    /// From `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if set, `AWS_SESSION_TOKEN`.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] naming the variable that is missing.
    pub fn from_env() -> Result<Self, StoreError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        let get = |name: &str| {
            let missing = || StoreError::Configuration {
                detail: format!("no credentials given and {name} is not set; set it or name an access key"),
            };
            lookup(name).filter(|value| !value.is_empty()).ok_or_else(missing)
        };
        let credentials = Self::new(get("AWS_ACCESS_KEY_ID")?, get("AWS_SECRET_ACCESS_KEY")?);
        Ok(match get("AWS_SESSION_TOKEN") {
            Ok(token) => credentials.with_session_token(token),
            Err(_) => credentials,
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// What a server of the S3 API can do (storage.md, "Dialects").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Found out by one probe: whether the server refuses a part with a wrong CRC-64/NVME. If it does not, it gets no checksums.
    #[default]
    Auto,
    /// Checksums for parts and objects, conditional writes: AWS, SeaweedFS, MinIO.
    Aws,
    /// Neither: Ceph 16, IBM COS, HGST, StorageGRID. "Destination exists" is then found by looking only.
    Legacy,
}

/// A bucket and how to reach it.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// URL of the endpoint, `http://` or `https://`; `None` for AWS itself, found by region.
    pub endpoint: Option<String>,
    /// Region; `us-east-1` where the store has none.
    pub region: String,
    /// Bucket.
    pub bucket: String,
    /// Whether the bucket stands in the path rather than in the host name; `None` means yes if there is an endpoint.
    pub path_style: Option<bool>,
    /// What the server can do.
    pub dialect: Dialect,
    /// The key to it.
    pub credentials: Credentials,
}

impl S3Config {
    /// A bucket at an endpoint that is not AWS: path style, region `us-east-1`, dialect found by probing.
    #[must_use]
    pub fn at_endpoint(endpoint: impl Into<String>, bucket: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            endpoint: Some(endpoint.into()),
            region: "us-east-1".to_owned(),
            bucket: bucket.into(),
            path_style: None,
            dialect: Dialect::Auto,
            credentials,
        }
    }

    /// The bucket in words, without secrets, also if somebody wrote some into the endpoint.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => {
                let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
                format!("bucket {} at {scheme}://{}", self.bucket, rest.rsplit_once('@').map_or(rest, |(_, host)| host))
            }
            None => format!("bucket {} in {}", self.bucket, self.region),
        }
    }

    pub(super) fn validate(&self) -> Result<(), StoreError> {
        let refuse = |detail: String| Err(StoreError::Configuration { detail });
        // Lengths and characters as in the S3 User Guide, "General purpose bucket naming rules"; older stores also take '_' and capitals.
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !(3..=255).contains(&self.bucket.len()) && self.endpoint.is_none() || self.bucket.is_empty() || !self.bucket.bytes().all(legal) {
            return refuse(format!("{:?} is not a bucket name", self.bucket));
        }
        if self.region.is_empty() {
            return refuse("the region is empty; use us-east-1 if the store has none".to_owned());
        }
        if let Some(endpoint) = &self.endpoint {
            let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
            if host.is_none_or(|host| host.is_empty() || host.starts_with('/') || host.contains('@')) {
                return refuse(format!(
                    "the endpoint of {} must be http://HOST[:PORT] or https://HOST[:PORT], without user or password",
                    self.place()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials::new("AKIA", "hush-hush").with_session_token("token-token");
        let config = S3Config::at_endpoint("http://me:pass-word@h:1", "b", credentials);
        let printed = format!("{config:?}").replace("me:pass-word@", "");
        assert!(printed.contains("AKIA") && !printed.contains("hush") && !printed.contains("token-token"), "{printed}");
        assert_eq!(config.place(), "bucket b at http://h:1");
        let error = config.validate().unwrap_err().to_string();
        assert!(!error.contains("pass-word"), "{error}");
    }

    #[test]
    fn the_environment_or_a_message_naming_what_is_missing() {
        let env = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("id".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("secret".to_owned()),
            _ => None,
        };
        let found = Credentials::from_lookup(env).unwrap();
        assert_eq!((found.access_key.as_str(), found.secret_key.as_str(), found.session_token), ("id", "secret", None));
        let missing = Credentials::from_lookup(|name| env(name).filter(|_| name != "AWS_SECRET_ACCESS_KEY")).unwrap_err();
        assert!(missing.to_string().contains("AWS_SECRET_ACCESS_KEY"));
    }

    #[test]
    fn endpoints_and_buckets_that_pass_beside_those_that_must_not() {
        let config = |endpoint: &str, bucket: &str| S3Config::at_endpoint(endpoint, bucket, Credentials::new("a", "s"));
        assert!(config("http://127.0.0.1:8333", "b2").validate().is_ok());
        assert!(config("https://s3.example", "My_bucket").validate().is_ok());
        for (endpoint, bucket) in
            [("s3.example", "b"), ("http://", "b"), ("ftp://h", "b"), ("http://h", ""), ("http://h", "a/b"), ("http://h", "a b")]
        {
            assert!(matches!(config(endpoint, bucket).validate(), Err(StoreError::Configuration { .. })), "{endpoint} {bucket}");
        }
    }
}
