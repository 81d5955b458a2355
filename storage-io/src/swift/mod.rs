//! OpenStack Swift: objects of a container, and large objects in segments, by the Object Storage API v1 itself (ADR 0021).
//!
//! Swift verifies MD5 and nothing else. So the MD5 that it is sent is computed in the same pass in which the CRC-64 from the source is checked
//! again; the CRC-64 itself is kept as metadata.

mod auth;
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
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use md5::{Digest as _, Md5};
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};
use serde::Deserialize;

use crate::asked::Asked;
use crate::checksum::{Crc64, RunningCrc64};
use crate::error::StoreError;
use crate::existing::{Existing, Found};
use crate::list::{Depth, Listing};
use crate::metadata::{CRC, TOKEN, described, escaped_name, metadata, plain_name, text_key};
use crate::reading::{Reading, changed, ends_early};
use crate::rest::{self, Request, bare, date_ns, plain, text_of};
use crate::store::{Body, Limits, ObjectInfo, ObjectKey, ObjectMeta, ObjectRange, Store, StoredObject, Upload};
use client::Client;
use upload::{SegmentUpload, own_prefix};

pub use config::{LargeObjects, SwiftAuth, SwiftConfig};

const PART_BYTES_DEFAULT: u64 = 16 << 20;
const META_HEADER: &str = "x-object-meta-";
/// Last component of the key that a check names. No object of that name ever comes to be.
const PROBE: &str = ".tradewind-probe";
/// Longest name of an object, bytes (`max_object_name_length`).
const NAME_BYTES_MAX: usize = 1024;
/// What a segment's name has behind its object's, bytes.
const SEGMENT_NAME_BYTES: usize = "/tradewind//".len() + 32 + 8;
const REMOVE_TRIES: u32 = 3;
/// Longest manifest that is read, bytes: ten thousand segments with the longest names.
const MANIFEST_BYTES_MAX: usize = 64 << 20;
/// Requests for segments at a time.
const REQUESTS_AT_ONCE: usize = 8;

/// A container.
#[derive(Clone, Debug)]
pub struct SwiftStore(Arc<Container>);

#[derive(Debug)]
struct Container {
    client: Client,
    name: String,
    /// Name of the container of segments.
    segments: String,
    large_objects: LargeObjects,
    /// Whether the container is known to be there.
    seen: AtomicBool,
    /// Whether what is replaced or deleted can be had again, and needs its segments then.
    keeps_versions: AtomicBool,
    /// Whether the container of segments is known to be there.
    segments_seen: AtomicBool,
}

impl SwiftStore {
    /// Prepares a client; sends nothing.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when the description is not usable.
    pub fn open(config: &SwiftConfig) -> Result<Self, StoreError> {
        let segments = config.segments();
        let (name, large_objects) = (config.container.clone(), config.large_objects);
        Ok(Self(Arc::new(Container {
            client: Client::new(config)?,
            name,
            segments,
            large_objects,
            seen: false.into(),
            keeps_versions: false.into(),
            segments_seen: false.into(),
        })))
    }
}

impl Container {
    fn asked<'a>(&'a self, action: &'static str, object: &'a str, bytes: u64) -> Asked<'a> {
        Asked { place: &self.client.place, action, object, bytes }
    }

    fn request<'a>(&'a self, action: &'static str, method: Method, key: &'a str, bytes: u64) -> Request<'a> {
        Request::new(self.asked(action, key, bytes), method, &self.name, Some(key))
    }

    fn makes_dynamic(&self) -> bool {
        match self.large_objects {
            LargeObjects::Auto => self.client.info().slo.is_none(),
            LargeObjects::Slo => false,
            LargeObjects::Dlo => true,
        }
    }

    /// Whether the container is there.
    async fn is_there(&self) -> Result<(), StoreError> {
        if !self.seen.load(Ordering::Relaxed) {
            let asked = self.asked("look for the container", "", 0);
            let answer = self.client.send(Request::new(asked, Method::HEAD, &self.name, None)).await?;
            let has = |name: &&str| text_of(answer.headers(), name).is_some_and(|value| !value.eq_ignore_ascii_case("false"));
            let keeps_versions = ["x-versions-enabled", "x-versions-location", "x-history-location"].iter().any(has);
            self.keeps_versions.store(keeps_versions, Ordering::Relaxed);
            self.seen.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Making what is there already changes nothing; Ceph refuses it with 409. Who may not make it may find it made.
    async fn make_segments_container(&self) -> Result<(), StoreError> {
        if !self.segments_seen.load(Ordering::Relaxed) {
            let asked = self.asked("make the container of segments", "", 0);
            let made = self.client.send(Request::new(asked, Method::PUT, &self.segments, None)).await;
            if let Err(error @ (StoreError::AccessDenied { .. } | StoreError::Rejected { .. })) = made {
                let asked = self.asked("look for the container of segments", "", 0);
                self.client.send(Request::new(asked, Method::HEAD, &self.segments, None)).await.map_err(|_| error)?;
            } else {
                made?;
            }
            self.segments_seen.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Headers of an object.
    async fn headers(&self, key: &str) -> Result<Option<HeaderMap>, StoreError> {
        // Of all replicas the newest: one that was away may know an older object.
        match self.client.send(self.request("look for an object", Method::HEAD, key, 0).header("x-newest", "true")).await {
            Ok(answer) => Ok(Some(answer.headers().clone())),
            // It may be the container that is missing.
            Err(StoreError::ObjectGone { .. }) => self.is_there().await.map(|()| None),
            Err(error) => Err(error),
        }
    }

    /// MD5 of a body whose CRC-64 is that of the source, hexadecimal.
    async fn digest(&self, key: &str, body: &Body) -> Result<String, StoreError> {
        rest::digest(&self.client.place, key, body, digest_of).await
    }

    /// Segments that nothing needs once the object is replaced or deleted, see [`Container::segments_of`].
    async fn old_segments(&self, key: &str, of_others: bool) -> Result<Vec<(String, String)>, StoreError> {
        self.is_there().await?;
        if self.keeps_versions.load(Ordering::Relaxed) { Ok(Vec::new()) } else { self.segments_of(key, of_others).await }
    }

    /// Containers and names of a large object's segments: those that this program stored, with `of_others` also what others put below the object's
    /// name into the container of segments. Any other object that a manifest names may be more than a segment.
    async fn segments_of(&self, key: &str, of_others: bool) -> Result<Vec<(String, String)>, StoreError> {
        #[derive(Deserialize)]
        struct Segment {
            /// None of data inside the manifest.
            name: Option<String>,
        }
        let Some(headers) = self.headers(key).await? else { return Ok(Vec::new()) };
        let own = format!("{}/{}", self.segments, own_prefix(key));
        let mut paths = Vec::new();
        if text_of(&headers, "x-static-large-object").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            let request = self.request("read a manifest", Method::GET, key, 0).query("multipart-manifest", "get");
            let asked = request.asked;
            let mut answer = self.client.send(request.header("x-newest", "true")).await?;
            if text_of(answer.headers(), "x-static-large-object").is_none() {
                return Err(asked.broken("another object has taken its place meanwhile"));
            }
            let mut text = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(|error| asked.broken(&plain(&error)))? {
                text.extend_from_slice(&chunk);
                if text.len() > MANIFEST_BYTES_MAX {
                    return Err(asked.unmade("the manifest is longer than any"));
                }
            }
            let list: Vec<Segment> = serde_json::from_slice(&text).map_err(|error| asked.unmade(&format!("the manifest: {error}")))?;
            paths.extend(list.into_iter().filter_map(|segment| Some(segment.name?.trim_start_matches('/').to_owned())));
        } else if let Some(manifest) = text_of(&headers, "x-object-manifest") {
            let manifest = percent_encoding::percent_decode_str(manifest).decode_utf8_lossy().into_owned();
            if let Some((container, prefix)) = manifest.split_once('/').filter(|_| manifest.starts_with(&own)) {
                let below = self.all(container, prefix).await?;
                paths.extend(below.into_iter().map(|object| format!("{container}/{}", object.name)));
            }
        }
        let below = format!("{}/{key}/", self.segments);
        let wanted = paths.iter().filter(|path| path.starts_with(if of_others { &below } else { &own }));
        Ok(wanted.filter_map(|path| path.split_once('/')).map(|(container, name)| (container.to_owned(), name.to_owned())).collect())
    }

    /// Removes segments that no object needs any more, also if nobody waits for it. What cannot be removed is told in the log: the object itself
    /// is as it should be.
    async fn remove(self: &Arc<Self>, segments: Vec<(String, String)>) {
        if segments.is_empty() {
            return;
        }
        let container = Arc::clone(self);
        let removing = tokio::spawn(async move {
            let removing = segments.into_iter().map(|segment| container.remove_one(segment));
            stream::iter(removing).buffer_unordered(REQUESTS_AT_ONCE).collect::<Vec<()>>().await;
        });
        // It has told what went wrong.
        let _ = removing.await;
    }

    /// The object first, then its segments.
    async fn delete(self: Arc<Self>, key: String) -> Result<bool, StoreError> {
        let segments = self.old_segments(&key, true).await?;
        let deleted = match self.client.send(self.request("delete an object", Method::DELETE, &key, 0)).await {
            Ok(_) => true,
            Err(StoreError::ObjectGone { .. }) => false,
            // Its answer may have been lost: nobody could name the segments later.
            Err(error) if error.is_retryable() && !segments.is_empty() => match self.headers(&key).await {
                Ok(None) => true,
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        };
        self.remove(segments).await;
        Ok(deleted)
    }

    async fn remove_one(&self, (container, name): (String, String)) {
        let asked = self.asked("delete a segment", &name, 0);
        for tries in 1..=REMOVE_TRIES {
            match self.client.send(Request::new(asked, Method::DELETE, &container, Some(&name))).await {
                Err(error) if error.is_retryable() && tries < REMOVE_TRIES => {}
                Err(error) if !matches!(error, StoreError::ObjectGone { .. }) => {
                    return tracing::warn!(container, name, %error, "a segment stays that nothing needs");
                }
                _ => return,
            }
        }
    }

    /// Metadata of an object by names as headers have them; refused where the cluster would refuse it.
    fn headers_of(&self, key: &str, meta: &ObjectMeta, crc: Crc64) -> Result<Vec<(String, String)>, StoreError> {
        let mut pairs = metadata(meta);
        pairs.insert(CRC.to_owned(), crc.to_base64());
        // A proxy cannot tell '_' from '-'.
        let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (escaped_name(&name, |_, c| c != '_'), value)).collect();
        let limits = self.client.info().swift;
        let is_long =
            |(name, value): &(String, String)| name.len() > limits.max_meta_name_length || value.len() > limits.max_meta_value_length;
        let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let reason = if pairs.iter().any(is_long) {
            "an attribute that is kept of it is longer than this Swift takes (max_meta_value_length, max_meta_name_length)"
        } else if pairs.len() > limits.max_meta_count || bytes > limits.max_meta_overall_size {
            "the attributes that are kept of it are more than this Swift takes (max_meta_count, max_meta_overall_size)"
        } else {
            return Ok(pairs);
        };
        Err(StoreError::InvalidName { name: key.to_owned(), reason })
    }

    /// A request that writes an object: its metadata, and the condition that nothing is replaced.
    fn writing<'a>(&self, mut request: Request<'a>, meta: &ObjectMeta, crc: Crc64) -> Result<Request<'a>, StoreError> {
        for (name, value) in self.headers_of(request.asked.object, meta, crc)? {
            request = request.header(&format!("{META_HEADER}{name}"), &value);
        }
        request = request.header("content-type", "application/octet-stream");
        Ok(if meta.overwrite { request } else { request.header("if-none-match", "*") })
    }

    /// The account of a write that was acknowledged.
    fn stored_now(answer: &Response, crc: Crc64) -> StoredObject {
        // It is MD5 that was verified, not this checksum.
        StoredObject { etag: text_of(answer.headers(), "etag").map(bare), crc, verified_by_store: false, version_id: None }
    }
}

/// MD5, hexadecimal, and CRC-64.
fn digest_of(chunks: &[Bytes]) -> (String, Crc64) {
    let (mut md5, mut crc) = (Md5::new(), RunningCrc64::default());
    for chunk in chunks {
        md5.update(chunk);
        crc.update(chunk);
    }
    (md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), crc.finish())
}

#[async_trait]
impl Existing for Container {
    async fn look(&self, key: &str) -> Result<Option<Found>, StoreError> {
        Ok(self.headers(key).await?.map(|headers| found(&headers)))
    }

    /// It is what we have written down.
    fn computes_what_it_tells(&self) -> bool {
        false
    }

    fn may_refuse_blind_writes(&self) -> bool {
        true
    }

    /// Object servers look before they write, but servers that were away may not know yet.
    fn refuses_blind_writes(&self) -> bool {
        false
    }
}

#[async_trait]
impl Store for SwiftStore {
    fn place(&self) -> String {
        self.0.client.place.clone()
    }

    fn takes_only_text(&self) -> bool {
        true
    }

    fn limits(&self) -> Limits {
        let info = self.0.client.info();
        let (part_bytes_max, slo) = (info.swift.max_file_size, info.slo.unwrap_or_default());
        let (part_bytes_min, parts_max) = (slo.min_segment_size.max(1), slo.max_manifest_segments);
        let object_bytes_max = part_bytes_max.saturating_mul(u64::from(parts_max));
        Limits { part_bytes_min, part_bytes_max, part_bytes_default: PART_BYTES_DEFAULT, parts_max, object_bytes_max }
    }

    /// Writes with a checksum that is not the body's: who may not write is told so before that is looked at, and nothing comes to be.
    async fn check(&self, prefix: &str) -> Result<(), StoreError> {
        self.0.seen.store(false, Ordering::Relaxed);
        self.0.is_there().await?;
        let (key, body) = (format!("{prefix}{PROBE}"), Body::new(vec![Bytes::from_static(b"?")], Crc64::of(b"?")));
        let (of_nothing, _) = digest_of(&[]);
        let request = self.0.request("put an object", Method::PUT, &key, body.len()).header("etag", &of_nothing);
        match self.0.client.send(request.body(&body)).await {
            Err(StoreError::ChecksumMismatch { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                self.delete(&ObjectKey::new(key.as_bytes())?).await?;
                let detail = "it stores bytes that are not those of their MD5".to_owned();
                Err(StoreError::NotSupported { place: self.place(), action: "verify what is written", detail })
            }
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        Ok(self.0.look(&text_key(key)?).await?.map(|found| found.info))
    }

    async fn read(&self, key: &ObjectKey, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        let key = text_key(key)?;
        let request = self.0.request("read an object", Method::GET, &key, 0);
        let mut request = request.header("range", &format!("bytes={}-{}", range.start, range.end - 1));
        if let Some(etag) = expected.and_then(|expected| expected.etag.as_ref()) {
            request = request.header("if-match", &format!("\"{etag}\""));
        }
        let answer = match self.0.client.send(request).await {
            Ok(answer) => answer,
            Err(StoreError::DestinationExists { .. }) => return Err(changed(&key, "its entity tag")),
            Err(StoreError::Rejected { code, .. }) if code == "HTTP 416" => return Err(ends_early(&key)),
            Err(error) => return Err(error),
        };
        let info = found(answer.headers()).info;
        let reading = Reading::new(&self.0.client.place, &key, range, info, expected)?;
        rest::read(reading, answer).await
    }

    async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        self.0.list(prefix, after, limit, depth).await
    }

    /// What was begun is done, also if nobody waits for it any more: afterwards nothing names the segments.
    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let (container, key) = (Arc::clone(&self.0), text_key(key)?);
        let failed = |error| self.0.asked("delete an object", "", 0).broken(&format!("{error}"));
        tokio::spawn(container.delete(key)).await.map_err(failed)?
    }

    async fn put(&self, key: &ObjectKey, meta: ObjectMeta, body: Body) -> Result<StoredObject, StoreError> {
        let (key, crc) = (text_key(key)?, body.crc());
        if let Some(done) = self.0.make_way_for(&key, &meta, &body).await? {
            return Ok(done);
        }
        let request = self.0.writing(self.0.request("put an object", Method::PUT, &key, body.len()), &meta, crc)?;
        let md5 = self.0.digest(&key, &body).await?;
        let old = if meta.overwrite { self.0.old_segments(&key, false).await? } else { Vec::new() };
        match self.0.client.send(request.header("etag", &md5).body(&body)).await {
            Ok(answer) => {
                self.0.remove(old).await;
                Ok(Container::stored_now(&answer, crc))
            }
            // Its answer may have been lost: nobody could name the old segments later.
            Err(error) if error.is_retryable() && !old.is_empty() => match self.0.find_own(&key, &meta, crc).await {
                Ok(Some(stored)) => {
                    self.0.remove(old).await;
                    Ok(stored)
                }
                _ => Err(error),
            },
            Err(error) => self.0.settle(&key, &meta, crc, error).await,
        }
    }

    async fn begin(&self, key: &ObjectKey, meta: ObjectMeta) -> Result<Arc<dyn Upload>, StoreError> {
        let key = text_key(key)?;
        if key.len() + SEGMENT_NAME_BYTES > NAME_BYTES_MAX {
            return Err(StoreError::InvalidName { name: key, reason: "its segments' names would be longer than 1024 bytes" });
        }
        self.0.headers_of(&key, &meta, Crc64::default())?;
        self.0.make_way(&key, &meta, None).await?;
        self.0.is_there().await?;
        self.0.make_segments_container().await?;
        Ok(Arc::new(SegmentUpload::new(Arc::clone(&self.0), key, rand::random(), meta)))
    }

    async fn reopen(&self, key: &ObjectKey, meta: ObjectMeta, handle: &str) -> Result<Arc<dyn Upload>, StoreError> {
        let key = text_key(key)?;
        let id = u128::from_str_radix(handle, 16).map_err(|_| StoreError::UploadGone { object: key.clone() })?;
        Ok(Arc::new(SegmentUpload::new(Arc::clone(&self.0), key, id, meta)))
    }

    async fn find_own(&self, key: &ObjectKey, meta: ObjectMeta, crc: Crc64) -> Result<Option<StoredObject>, StoreError> {
        self.0.find_own(&text_key(key)?, &meta, crc).await
    }
}

/// What the headers of an answer say of an object.
fn found(headers: &HeaderMap) -> Found {
    let pairs: HashMap<String, String> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().strip_prefix(META_HEADER)?, value.to_str().ok()?)))
        .map(|(name, value)| (plain_name(name), value.to_owned()))
        .collect();
    // Only some of it is in the answer where there is a range.
    let whole = text_of(headers, "content-range").and_then(|range| range.rsplit_once('/')?.1.parse().ok());
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
    Found { info, token: pairs.get(TOKEN).cloned(), version_id: None }
}
