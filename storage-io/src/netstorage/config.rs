//! Where a storage group is and how to get into it.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::error::StoreError;

/// A CP code of a storage group and how to reach it.
#[derive(Clone)]
pub struct NetStorageConfig {
    /// Below which CP codes lie: `https://` and the connection hostname of the storage group (`NAME-nsu.akamaihd.net`).
    pub url: String,
    /// The CP code of the upload directory.
    pub cp_code: String,
    /// Id of the upload account.
    pub upload_account: String,
    /// The upload account's HTTP API key.
    pub key: Zeroizing<String>,
    /// Absolute path of a directory on a local disk, made when missing: an object of several parts waits there until it is whole, for it goes to
    /// NetStorage in one request.
    pub spool_dir: PathBuf,
    /// Most requests a second of this process to the host; `None`: as many as there are.
    pub requests_per_s: Option<u32>,
}

impl fmt::Debug for NetStorageConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NetStorageConfig").field(&self.place()).field(&self.spool_dir).finish()
    }
}

impl NetStorageConfig {
    /// The place in words, without secrets: the same for whoever means the same CP code.
    #[must_use]
    pub fn place(&self) -> String {
        format!("CP code {} of NetStorage at {}", self.cp_code, self.host())
    }

    /// Host, and port if there is one.
    pub(super) fn host(&self) -> &str {
        let host = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let host = host.split(['/', '?', '#']).next().unwrap_or_default();
        // Whatever stands before '@' might be a password.
        host.rsplit_once('@').map_or(host, |(_, host)| host)
    }

    pub(super) fn checked(&self) -> Result<(), StoreError> {
        let wrong = |detail: &str| Err(StoreError::Configuration { detail: detail.to_owned() });
        if !self.url.starts_with("https://") && !self.url.starts_with("http://") {
            return wrong("the address of NetStorage begins with neither https:// nor http://");
        }
        if self.url.trim_end_matches('/').matches('/').count() > 2 || self.url.contains(['?', '#', '@']) {
            return wrong("the address of NetStorage is more than a host; the CP code has its own setting");
        }
        if self.cp_code.is_empty() || !self.cp_code.bytes().all(|byte| byte.is_ascii_digit()) {
            return wrong("a CP code is a number");
        }
        if self.upload_account.is_empty() || self.upload_account.chars().any(|c| c == ',' || c == ' ' || c.is_control() || !c.is_ascii()) {
            return wrong("the id of an upload account has no commas, spaces or letters outside ASCII");
        }
        if self.key.is_empty() {
            return wrong("the upload account's HTTP API key is empty");
        }
        if !self.spool_dir.is_absolute() {
            return wrong("the spool directory is not an absolute path");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetStorageConfig {
        NetStorageConfig {
            url: "https://example-nsu.akamaihd.net".to_owned(),
            cp_code: "123456".to_owned(),
            upload_account: "account".to_owned(),
            key: Zeroizing::new("hush-hush".to_owned()),
            spool_dir: "/var/spool".into(),
            requests_per_s: None,
        }
    }

    #[test]
    fn what_is_usable_beside_what_is_not() {
        config().checked().unwrap();
        NetStorageConfig { url: "http://127.0.0.1:99/".to_owned(), ..config() }.checked().unwrap();
        for wrong in [
            NetStorageConfig { url: "example-nsu.akamaihd.net".to_owned(), ..config() },
            NetStorageConfig { url: "https://h/123456".to_owned(), ..config() },
            NetStorageConfig { url: "https://me:hush-hush@h".to_owned(), ..config() },
            NetStorageConfig { cp_code: "12/34".to_owned(), ..config() },
            NetStorageConfig { upload_account: "a, b".to_owned(), ..config() },
            NetStorageConfig { key: Zeroizing::default(), ..config() },
            NetStorageConfig { spool_dir: "spool".into(), ..config() },
        ] {
            let refused = wrong.checked().unwrap_err();
            assert!(matches!(refused, StoreError::Configuration { .. }) && !format!("{refused} {wrong:?}").contains("hush"), "{wrong:?}");
        }
        assert_eq!(config().place(), "CP code 123456 of NetStorage at example-nsu.akamaihd.net");
    }
}
