//! Azure Blob Storage: block blobs of a container, by the REST API itself (ADR 0019 says why by no crate).
//!
//! The service's CRC-64 is the one that was computed at the source (polynomial 0x9A6C9329AC4BC9B5, CRC-64/NVME; its bytes are sent lowest first), so
//! the chain from the source to the store has no gap here either. It keeps none of whole blobs: that is kept as metadata.

mod client;
mod config;
mod errors;
mod list;
mod upload;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};
use tradewind_integrity::time;

use crate::asked::Asked;
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::existing::{Existing, Found};
use crate::list::{Depth, Listing};
use crate::metadata::{CRC, TOKEN, described, escaped_name, metadata, plain_name, text_key};
use crate::reading::{Reading, changed, ends_early};
use crate::rest::{self, Request, bare, date_ns, text_of};
use crate::store::{Body, Limits, ObjectInfo, ObjectKey, ObjectMeta, ObjectRange, Store, StoredObject, Upload};
use client::Client;
use upload::BlockUpload;

pub use config::{AzureConfig, AzureCredentials};

const MIB: u64 = 1 << 20;

/// Limits of block blobs since version 2019-12-12 ("Scalability and performance targets for Blob Storage").
const LIMITS: Limits = Limits {
    part_bytes_min: 1,
    part_bytes_max: 4000 * MIB,
    part_bytes_default: 16 * MIB,
    parts_max: 50_000,
    object_bytes_max: 50_000 * 4000 * MIB,
};

const CRC_HEADER: &str = "x-ms-content-crc64";
const META_HEADER: &str = "x-ms-meta-";
/// Last component of the key that a check names. No object of that name ever comes to be.
const PROBE: &str = ".tradewind-probe";

/// A container.
#[derive(Clone, Debug)]
pub struct AzureStore(Arc<Container>);

#[derive(Debug)]
struct Container {
    client: Client,
    /// Whether the service has told a checksum that it computed: then it refuses what differs.
    verifies: OnceLock<bool>,
}

impl AzureStore {
    /// Prepares a client; sends nothing.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when the description is not usable.
    pub fn open(config: &AzureConfig) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(Container { client: Client::new(config)?, verifies: OnceLock::new() })))
    }
}

impl Container {
    fn asked<'a>(&'a self, action: &'static str, object: &'a str, bytes: u64) -> Asked<'a> {
        Asked { place: &self.client.place, action, object, bytes }
    }

    fn request<'a>(&'a self, action: &'static str, method: Method, key: &'a str, bytes: u64) -> Request<'a> {
        Request::new(self.asked(action, key, bytes), method, &self.client.container, Some(key))
    }

    /// If the service says what it computed, it must be ours; notes that it says so.
    fn compare(&self, key: &str, answer: &Response, ours: Crc64) -> Result<(), StoreError> {
        let told = answer.headers().get(CRC_HEADER).and_then(|text| text.to_str().ok());
        self.verifies.get_or_init(|| told.is_some());
        match told {
            Some(text) if text != crc_text(ours) => {
                let detail = format!("the store computed {text}, we sent {}", crc_text(ours));
                Err(StoreError::ChecksumMismatch { object: key.to_owned(), detail })
            }
            _ => Ok(()),
        }
    }

    fn stored(&self, answer: &Response, crc: Crc64) -> StoredObject {
        let header = |name: &str| text_of(answer.headers(), name);
        let verified_by_store = self.verifies.get() == Some(&true);
        StoredObject { etag: header("etag").map(bare), crc, verified_by_store, version_id: header("x-ms-version-id").map(str::to_owned) }
    }
}

#[async_trait]
impl Existing for Container {
    async fn look(&self, key: &str) -> Result<Option<Found>, StoreError> {
        match self.client.send(self.request("look for a blob", Method::HEAD, key, 0)).await {
            Ok(answer) => Ok(Some(found(answer.headers(), None))),
            Err(StoreError::ObjectGone { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// It is what we have written down.
    fn computes_what_it_tells(&self) -> bool {
        false
    }

    fn may_refuse_blind_writes(&self) -> bool {
        true
    }

    /// Part of the service since its beginning; [`Store::check`] tries another condition.
    fn refuses_blind_writes(&self) -> bool {
        true
    }
}

/// A request that writes an object: its metadata, and the condition that nothing is replaced.
fn writing<'a>(mut request: Request<'a>, meta: &ObjectMeta, crc: Crc64) -> Request<'a> {
    let mut pairs = metadata(meta);
    // As rclone writes it to this platform.
    pairs.insert("mtime".to_owned(), time::rfc3339(meta.mtime_ns));
    pairs.insert(CRC.to_owned(), crc.to_base64());
    for (name, value) in pairs {
        request = request.header(&format!("{META_HEADER}{}", identifier(&name)), &value);
    }
    if meta.overwrite { request } else { request.header("if-none-match", "*") }
}

#[async_trait]
impl Store for AzureStore {
    fn place(&self) -> String {
        self.0.client.place.clone()
    }

    fn takes_only_text(&self) -> bool {
        true
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    /// Writes under a condition that no blob can meet: who may not write is told so before that is looked at.
    async fn check(&self, prefix: &str) -> Result<(), StoreError> {
        let key = format!("{prefix}{PROBE}");
        let request = self.0.request("put a blob", Method::PUT, &key, 0).header("x-ms-blob-type", "BlockBlob");
        match self.0.client.send(request.header("if-match", "\"0x0\"").body(&Body::default())).await {
            Err(StoreError::DestinationExists { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                let detail = "it writes in spite of a condition that is not met".to_owned();
                self.delete(&ObjectKey::new(key.as_bytes())?).await?;
                Err(StoreError::NotSupported { place: self.place(), action: "write under a condition", detail })
            }
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        Ok(self.0.look(&text_key(key)?).await?.map(|found| found.info))
    }

    async fn read(&self, key: &ObjectKey, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        let key = text_key(key)?;
        let mut request = self.0.request("read a blob", Method::GET, &key, 0);
        request = request.header("x-ms-range", &format!("bytes={}-{}", range.start, range.end - 1));
        if let Some(etag) = expected.and_then(|expected| expected.etag.as_ref()) {
            request = request.header("if-match", &format!("\"{etag}\""));
        }
        let answer = match self.0.client.send(request).await {
            Ok(answer) => answer,
            Err(StoreError::DestinationExists { .. }) => return Err(changed(&key, "its entity tag")),
            Err(StoreError::Rejected { code, .. }) if code == "InvalidRange" || code == "HTTP 416" => {
                return Err(ends_early(&key));
            }
            Err(error) => return Err(error),
        };
        let info = found(answer.headers(), text_of(answer.headers(), "content-range")).info;
        let reading = Reading::new(&self.0.client.place, &key, range, info, expected)?;
        rest::read(reading, answer).await
    }

    async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        self.0.list(prefix, after, limit, depth).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let key = text_key(key)?;
        match self.0.client.send(self.0.request("delete a blob", Method::DELETE, &key, 0)).await {
            Ok(_) => Ok(true),
            Err(StoreError::ObjectGone { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put(&self, key: &ObjectKey, meta: ObjectMeta, body: Body) -> Result<StoredObject, StoreError> {
        let (key, crc) = (text_key(key)?, body.crc());
        if let Some(done) = self.0.make_way_for(&key, &meta, &body).await? {
            return Ok(done);
        }
        let request = self.0.request("put a blob", Method::PUT, &key, body.len());
        let request = request.header("x-ms-blob-type", "BlockBlob").header(CRC_HEADER, &crc_text(crc)).body(&body);
        match self.0.client.send(writing(request, &meta, crc)).await {
            Ok(answer) => {
                self.0.compare(&key, &answer, crc)?;
                Ok(self.0.stored(&answer, crc))
            }
            Err(error) => self.0.settle(&key, &meta, crc, error).await,
        }
    }

    async fn begin(&self, key: &ObjectKey, meta: ObjectMeta) -> Result<Arc<dyn Upload>, StoreError> {
        let key = text_key(key)?;
        self.0.make_way(&key, &meta, None).await?;
        Ok(Arc::new(BlockUpload { container: Arc::clone(&self.0), key, id: rand::random(), meta }))
    }

    async fn reopen(&self, key: &ObjectKey, meta: ObjectMeta, handle: &str) -> Result<Arc<dyn Upload>, StoreError> {
        let key = text_key(key)?;
        let id = u128::from_str_radix(handle, 16).map_err(|_| StoreError::UploadGone { object: key.clone() })?;
        Ok(Arc::new(BlockUpload { container: Arc::clone(&self.0), key, id, meta }))
    }

    async fn find_own(&self, key: &ObjectKey, meta: ObjectMeta, crc: Crc64) -> Result<Option<StoredObject>, StoreError> {
        self.0.find_own(&text_key(key)?, &meta, crc).await
    }
}

/// What the headers of an answer say of a blob; `range`: Content-Range, where only some of it is in the answer.
fn found(headers: &HeaderMap, range: Option<&str>) -> Found {
    let pairs: HashMap<String, String> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().strip_prefix(META_HEADER)?, value.to_str().ok()?)))
        .map(|(name, value)| (plain_name(name), value.to_owned()))
        .collect();
    let whole = range.and_then(|range| range.rsplit_once('/')?.1.parse().ok());
    let length = || text_of(headers, "content-length").and_then(|text| text.parse().ok());
    let described = described(Some(&pairs));
    let attributes = described.attributes.iter().filter(|(name, _)| name != CRC).cloned().collect();
    let info = ObjectInfo {
        size: whole.or_else(length).unwrap_or(0),
        etag: text_of(headers, "etag").map(bare),
        crc: pairs.get(CRC).and_then(|text| Crc64::from_base64(text)),
        modified_ns: text_of(headers, "last-modified").and_then(date_ns),
        attributes,
        ..described
    };
    Found { info, token: pairs.get(TOKEN).cloned(), version_id: text_of(headers, "x-ms-version-id").map(str::to_owned) }
}

/// A checksum as the service writes it: its bytes, lowest first, in base64.
fn crc_text(crc: Crc64) -> String {
    BASE64_STANDARD.encode(crc.0.to_le_bytes())
}

/// A metadata name as the service takes it, an identifier. Without `_`, for the service sorts it in another place than others do, and what is
/// sorted is signed.
fn identifier(name: &str) -> String {
    escaped_name(name, |at, c| c.is_ascii_alphabetic() || at > 0 && c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_names_come_back() {
        for name in ["mtime", "tradewind-upload", "user.a_b", "1st", "xq2d", "a_x", "axqb", "x", "xattr-b32.mfxgi"] {
            let written = identifier(name);
            assert!(written.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{written}");
            assert!(!written.starts_with(|c: char| c.is_ascii_digit()), "{written}");
            assert_eq!(plain_name(&written), name, "{written}");
        }
        // What others wrote stays as it is.
        for name in ["hdi_isfolder", "axqz", "xq", "axq2", "xqzz"] {
            assert_eq!(plain_name(name), name);
        }
    }

    /// "123456789" has the check value 0xAE8B14860A799888 (catalogue of parametrised CRC algorithms, CRC-64/NVME).
    #[test]
    fn checksums_are_written_lowest_byte_first() {
        assert_eq!(Crc64::of(b"123456789").0, 0xae8b_1486_0a79_9888);
        assert_eq!(BASE64_STANDARD.decode(crc_text(Crc64::of(b"123456789"))).unwrap(), 0xae8b_1486_0a79_9888_u64.to_le_bytes());
    }
}
