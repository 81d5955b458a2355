//! Google Cloud Storage by its JSON API (ADR 0026 says why not by the S3-compatible one, which a store of kind `s3` reaches with HMAC keys).
//!
//! The service checks CRC-32C; it is computed here in the pass that checks the source's CRC-64 again, which is kept as metadata.

mod client;
mod config;
mod errors;
mod list;
mod upload;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use reqwest::Method;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tradewind_integrity::time;

use crate::asked::Asked;
use crate::checksum::{Crc64, RunningCrc64};
use crate::error::StoreError;
use crate::existing::{Existing, Found};
use crate::list::{Depth, Listing};
use crate::metadata::{CRC, TOKEN, described, metadata, text_key};
use crate::reading::{Reading, changed, ends_early};
use crate::rest::{self, Request, text_of};
use crate::store::{Body, Limits, ObjectInfo, ObjectKey, ObjectMeta, ObjectRange, Store, StoredObject, Upload};
use client::{At, Client};
use list::Page;
use upload::PartsUpload;

pub use config::{GcsConfig, GcsCredentials};

const MIB: u64 = 1 << 20;

/// "Quotas and limits": 5 TiB; of parts there may be as many as are made into one by three rounds, and that is enough.
const LIMITS: Limits =
    Limits { part_bytes_min: 1, part_bytes_max: 5 << 30, part_bytes_default: 16 * MIB, parts_max: 32_000, object_bytes_max: 5 << 40 };

const CONTENT_TYPE: &str = "application/octet-stream";
/// Between a key and its upload's id, in the names of parts.
const PARTS: &str = ".tradewind-parts/";
/// Metadata name of the CRC-32C of what was sent: an object that has another is none of ours, whatever else is kept with it.
const CRC32C: &str = "tradewind-crc32c";
/// Longest key of an object in parts: what their names have more.
const PARTED_KEY_BYTES_MAX: usize = 1024 - 64;
/// Last component of the key that a check names. No object of that name ever comes to be.
const PROBE: &str = ".tradewind-probe";
/// A generation that no object has: it is a time, microseconds since 1970.
const NEVER: &str = "1";

/// A bucket.
#[derive(Clone, Debug)]
pub struct GcsStore(Arc<Bucket>);

#[derive(Debug)]
struct Bucket {
    client: Client,
    /// A condition that was not met was seen to be heeded; emulators heed none.
    heeds_conditions: AtomicBool,
}

/// An object as the service describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    name: String,
    #[serde(deserialize_with = "number")]
    size: u64,
    #[serde(default)]
    generation: String,
    #[serde(default)]
    updated: String,
    crc32c: Option<String>,
    #[serde(default)]
    metadata: HashMap<String, String>,
}

/// Numbers of 64 bits are text, but not of emulators.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).ok_or_else(|| serde::de::Error::custom("a size that is no number"))
}

impl Resource {
    fn found(self) -> Found {
        let is_as_sent = self.metadata.get(CRC32C).is_none_or(|sent| self.crc32c.as_ref().is_none_or(|has| has == sent));
        let token = self.metadata.get(TOKEN).filter(|_| is_as_sent).cloned();
        let described = described(Some(&self.metadata));
        let attributes = described.attributes.iter().filter(|(name, _)| name != CRC && name != CRC32C).cloned().collect();
        let info = ObjectInfo {
            size: self.size,
            etag: Some(self.generation.clone()),
            crc: self.metadata.get(CRC).filter(|_| is_as_sent).and_then(|text| Crc64::from_base64(text)),
            modified_ns: time::parse(&self.updated),
            attributes,
            ..described
        };
        Found { info, token, version_id: Some(self.generation) }
    }
}

impl GcsStore {
    /// Prepares a client; sends nothing.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when the description is not usable.
    pub fn open(config: &GcsConfig) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(Bucket { client: Client::new(config)?, heeds_conditions: AtomicBool::new(false) })))
    }
}

impl Bucket {
    fn request<'a>(&'a self, action: &'static str, method: Method, key: Option<&'a str>, bytes: u64) -> Request<'a> {
        let asked = Asked { place: &self.client.place, action, object: key.unwrap_or_default(), bytes };
        Request::new(asked, method, &self.client.bucket, key)
    }

    /// What is kept with an object of this CRC-32C, which the service is to compare.
    fn about(&self, meta: &ObjectMeta, crc: Crc64, crc32c: u32) -> Value {
        let (mut pairs, crc32c) = (metadata(meta), crc32c_text(crc32c));
        // As rclone writes it to this platform.
        pairs.insert("mtime".to_owned(), time::rfc3339(meta.mtime_ns));
        pairs.insert(CRC.to_owned(), crc.to_base64());
        pairs.insert(CRC32C.to_owned(), crc32c.clone());
        json!({"contentType": CONTENT_TYPE, "crc32c": crc32c, "metadata": pairs})
    }

    /// Sends an object whole, with what is kept of it ("Objects: insert"). `generation`: what is there must have it, 0 for nothing.
    async fn insert(
        &self,
        action: &'static str,
        key: &str,
        about: Value,
        body: &Body,
        generation: Option<&str>,
    ) -> Result<Resource, StoreError> {
        // Nobody can have put it into a file.
        let boundary = format!("tradewind-{:032x}", rand::random::<u128>());
        let expected = about["crc32c"].as_str().map(str::to_owned);
        let head = format!(
            "--{boundary}\r\ncontent-type: application/json; charset=utf-8\r\n\r\n{about}\r\n--{boundary}\r\ncontent-type: {CONTENT_TYPE}\r\n\r\n"
        );
        let mut chunks = vec![Bytes::from(head)];
        chunks.extend(body.chunks().iter().cloned());
        chunks.push(Bytes::from(format!("\r\n--{boundary}--\r\n")));
        let mut request = self.request(action, Method::POST, Some(key), body.len()).query("uploadType", "multipart");
        if let Some(generation) = generation {
            request = request.query("ifGenerationMatch", generation);
        }
        let request = request.header("content-type", &format!("multipart/related; boundary={boundary}"));
        let made: Resource = self.client.ask(At::Upload, request.body(&Body::new(chunks, Crc64::default()))).await?;
        self.compare(key, &made, body.len(), expected.as_deref())?;
        Ok(made)
    }

    /// What the service says that it has must be what was sent.
    fn compare(&self, key: &str, made: &Resource, bytes: u64, crc32c: Option<&str>) -> Result<(), StoreError> {
        if made.size == bytes && (crc32c.is_none() || made.crc32c.as_deref() == crc32c) {
            return Ok(());
        }
        let (has, sent) = (made.crc32c.as_deref().unwrap_or("none"), crc32c.unwrap_or("none"));
        let detail = format!("the store has {} bytes with CRC-32C {has}, {bytes} with {sent} were sent", made.size);
        Err(StoreError::ChecksumMismatch { object: key.to_owned(), detail })
    }

    /// CRC-32C of a body, which is read for it, so its CRC-64 is looked at again.
    async fn digest(&self, key: &str, body: &Body) -> Result<u32, StoreError> {
        rest::digest(&self.client.place, key, body, digest_of).await
    }

    /// The service has compared CRC-32C, and that was computed over the bytes whose CRC-64 was right.
    fn stored_now(&self, made: Resource, crc: Crc64) -> StoredObject {
        StoredObject { etag: Some(made.generation.clone()), crc, verified_by_store: true, version_id: Some(made.generation) }
    }

    async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        match self.client.send(At::Objects, self.request("delete an object", Method::DELETE, Some(key), 0)).await {
            Ok(_) => Ok(true),
            Err(StoreError::ObjectGone { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Existing for Bucket {
    async fn look(&self, key: &str) -> Result<Option<Found>, StoreError> {
        match self.client.ask::<Resource>(At::Objects, self.request("look for an object", Method::GET, Some(key), 0)).await {
            Ok(resource) => Ok(Some(resource.found())),
            Err(StoreError::ObjectGone { .. }) => {
                // Not every answer tells a missing object from a missing bucket.
                let _: Page = self.client.ask(At::Objects, self.listing(key, 1)).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// It is what we have written down.
    fn computes_what_it_tells(&self) -> bool {
        false
    }

    fn may_refuse_blind_writes(&self) -> bool {
        self.refuses_blind_writes()
    }

    /// [`Store::check`] tries another condition.
    fn refuses_blind_writes(&self) -> bool {
        self.heeds_conditions.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Store for GcsStore {
    fn place(&self) -> String {
        self.0.client.place.clone()
    }

    fn takes_only_text(&self) -> bool {
        true
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    /// Writes under a condition that no object meets: who may not write is told so.
    async fn check(&self, prefix: &str) -> Result<(), StoreError> {
        let key = format!("{prefix}{PROBE}");
        let about = json!({"name": key, "contentType": CONTENT_TYPE});
        match self.0.insert("put an object", &key, about, &Body::default(), Some(NEVER)).await {
            Err(StoreError::DestinationExists { .. }) => {
                self.0.heeds_conditions.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(StoreError::ObjectGone { .. }) => Err(StoreError::NotFound { place: self.place() }),
            Err(error) => Err(error),
            Ok(_) => {
                tracing::warn!(
                    place = self.place(),
                    "it writes in spite of a condition that is not met: what exists is found by looking only"
                );
                self.0.delete(&key).await.map(|_| ())
            }
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        Ok(self.0.look(&text_key(key)?).await?.map(|found| found.info))
    }

    async fn read(&self, key: &ObjectKey, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        let key = text_key(key)?;
        let look = async || Ok(self.0.look(&key).await?.ok_or_else(|| StoreError::ObjectGone { object: key.clone() })?.info);
        let before = match expected {
            Some(expected) if expected.mtime_ns.is_some() => expected.clone(),
            // From a listing, which tells nothing of the file that was stored; neither do the answers that bring its bytes.
            Some(expected) => Some(look().await?).filter(|now| now.is_same(expected)).ok_or_else(|| changed(&key, "its generation"))?,
            None => look().await?,
        };
        if before.size < range.end {
            return Err(ends_early(&key));
        }
        let mut request = self.0.request("read an object", Method::GET, Some(&key), 0).query("alt", "media");
        if let Some(generation) = &before.etag {
            request = request.query("ifGenerationMatch", generation.clone());
        }
        // Whoever stored it compressed gets it back so.
        let request = request.header("accept-encoding", "gzip").header("range", &format!("bytes={}-{}", range.start, range.end - 1));
        let answer = match self.0.client.send(At::Objects, request).await {
            Ok(answer) => answer,
            Err(StoreError::DestinationExists { .. }) => return Err(changed(&key, "its generation")),
            Err(StoreError::Rejected { code, .. }) if code == "requestedRangeNotSatisfiable" || code == "HTTP 416" => {
                return Err(ends_early(&key));
            }
            Err(error) => return Err(error),
        };
        let generation = text_of(answer.headers(), "x-goog-generation").map(str::to_owned);
        let read = rest::read(Reading::new(&self.0.client.place, &key, range, before.clone(), None)?, answer).await;
        let is_same = match generation {
            Some(generation) => Some(generation) == before.etag,
            // Whoever does not tell may not heed conditions either: of the same generation, it was this one all the time.
            None => look().await?.is_same(&before),
        };
        if is_same { read } else { Err(changed(&key, "its generation")) }
    }

    async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        self.0.list(prefix, after, limit, depth).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        self.0.delete(&text_key(key)?).await
    }

    async fn put(&self, key: &ObjectKey, meta: ObjectMeta, body: Body) -> Result<StoredObject, StoreError> {
        let (key, crc) = (own_key(key)?, body.crc());
        if let Some(done) = self.0.make_way_for(&key, &meta, &body).await? {
            return Ok(done);
        }
        let mut about = self.0.about(&meta, crc, self.0.digest(&key, &body).await?);
        about["name"] = key.clone().into();
        let generation = (!meta.overwrite).then_some("0");
        match self.0.insert("put an object", &key, about, &body, generation).await {
            Ok(made) => Ok(self.0.stored_now(made, crc)),
            Err(StoreError::ObjectGone { .. }) => Err(StoreError::NotFound { place: self.place() }),
            Err(error) => self.0.settle(&key, &meta, crc, error).await,
        }
    }

    async fn begin(&self, key: &ObjectKey, meta: ObjectMeta) -> Result<Arc<dyn Upload>, StoreError> {
        let key = own_key(key)?;
        if key.len() > PARTED_KEY_BYTES_MAX {
            return Err(StoreError::InvalidName { name: key, reason: "an object in parts may have a name of at most 960 bytes" });
        }
        self.0.make_way(&key, &meta, None).await?;
        Ok(Arc::new(PartsUpload { bucket: Arc::clone(&self.0), key, id: rand::random(), meta }))
    }

    async fn reopen(&self, key: &ObjectKey, meta: ObjectMeta, handle: &str) -> Result<Arc<dyn Upload>, StoreError> {
        let key = text_key(key)?;
        let id = u128::from_str_radix(handle, 16).map_err(|_| StoreError::UploadGone { object: key.clone() })?;
        Ok(Arc::new(PartsUpload { bucket: Arc::clone(&self.0), key, id, meta }))
    }

    async fn find_own(&self, key: &ObjectKey, meta: ObjectMeta, crc: Crc64) -> Result<Option<StoredObject>, StoreError> {
        self.0.find_own(&text_key(key)?, &meta, crc).await
    }
}

/// A key that is no part's.
fn own_key(key: &ObjectKey) -> Result<String, StoreError> {
    let key = text_key(key)?;
    if is_part(&key) {
        let reason = "names of the form NAME.tradewind-parts/… are those of unfinished uploads; exclude it, or give it another name";
        return Err(StoreError::InvalidName { name: key, reason });
    }
    Ok(key)
}

/// Whether it is the name of a part, or of several that were made one: `KEY.tradewind-parts/UPLOAD/NUMBER`.
fn is_part(name: &str) -> bool {
    let Some((id, number)) = name.rsplit_once(PARTS).and_then(|(_, rest)| rest.split_once('/')) else { return false };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-' || byte == b'r');
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && is_number
}

fn digest_of(chunks: &[Bytes]) -> (u32, Crc64) {
    let (mut crc32c, mut crc) = (crc_fast::Digest::new(Crc32Iscsi), RunningCrc64::default());
    for chunk in chunks {
        crc32c.update(chunk);
        crc.update(chunk);
    }
    (crc32c.finalize() as u32, crc.finish())
}

/// The CRC-32C of what has `first`, and behind it `next_len` bytes that have `next`.
fn combined(first: u32, next: u32, next_len: u64) -> u32 {
    if next_len == 0 { first } else { crc_fast::checksum_combine(Crc32Iscsi, first.into(), next.into(), next_len) as u32 }
}

/// A CRC-32C as the service writes it: base64 of the four bytes, most significant first.
fn crc32c_text(crc32c: u32) -> String {
    BASE64_STANDARD.encode(crc32c.to_be_bytes())
}

fn parse_crc32c(text: &str) -> Option<u32> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_are_taken_for_parts() {
        let id = "0123456789abcdef0123456789abcdef";
        for part in [format!("a/b.tradewind-parts/{id}/00001"), format!("x.tradewind-parts/{id}/r1-00002")] {
            assert!(is_part(&part) && own_key(&ObjectKey::new(part.as_bytes()).unwrap()).is_err(), "{part}");
        }
        for other in ["a.tradewind-parts/readme", "a.tradewind-parts/0123/00001", &format!("a.tradewind-parts/{id}/x"), id] {
            assert!(!is_part(other), "{other}");
        }
    }

    /// Check value of CRC-32/ISCSI in the catalogue of parametrised CRC algorithms, and combining.
    #[test]
    fn crc32c_is_what_the_service_computes() {
        let (crc32c, crc) = digest_of(&[Bytes::from_static(b"12345"), Bytes::from_static(b"6789")]);
        assert_eq!((crc32c, crc), (0xe306_9283, Crc64::of(b"123456789")));
        assert_eq!(crc32c_text(crc32c), "4waSgw==");
        assert_eq!(parse_crc32c("4waSgw=="), Some(crc32c));
        assert_eq!((parse_crc32c("AAAA"), parse_crc32c("not base64")), (None, None));
        let part = |bytes: &'static [u8]| (digest_of(&[Bytes::from_static(bytes)]).0, bytes.len() as u64);
        let whole = [part(b"1234"), part(b""), part(b"56789")].iter().fold(0, |whole, (next, len)| combined(whole, *next, *len));
        assert_eq!(whole, crc32c);
        assert_eq!(combined(0, crc32c, 9), crc32c);
    }
}
