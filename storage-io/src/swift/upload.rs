//! An object in segments (Object Storage API v1, "Large objects").

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use percent_encoding::utf8_percent_encode;
use reqwest::Method;
use serde_json::json;
use tokio::sync::OnceCell;

use super::{Container, digest_of};
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::existing::Existing as _;
use crate::rest::{PATH, Request, bare, text_of};
use crate::store::{Body, ObjectMeta, Part, PartReceipt, StoredObject, Upload};

/// Segments that a manifest may name one day. They stay until then, or until they are given up.
#[derive(Debug)]
pub(super) struct SegmentUpload {
    container: Arc<Container>,
    key: String,
    id: u128,
    meta: ObjectMeta,
    /// Segments of what is replaced, as they were before the first try to do so.
    old: OnceCell<Vec<(String, String)>>,
    /// A manifest was sent, and what became of it is not known: it may be there at any time.
    is_sent: AtomicBool,
}

impl SegmentUpload {
    pub(super) fn new(container: Arc<Container>, key: String, id: u128, meta: ObjectMeta) -> Self {
        Self { container, key, id, meta, old: OnceCell::new(), is_sent: AtomicBool::new(false) }
    }

    /// Whether a segment is there that a listing does not show yet.
    async fn is_there(&self, receipt: &PartReceipt) -> Result<bool, StoreError> {
        let container = &self.container;
        let (asked, segment) = (container.asked("look for a segment", &self.key, 0), self.segment(receipt.number));
        let request = Request::new(asked, Method::HEAD, &container.segments, Some(&segment)).header("x-newest", "true");
        match container.client.send(request).await {
            Ok(answer) => {
                let text = |name| text_of(answer.headers(), name);
                let len = text("content-length").and_then(|text| text.parse().ok());
                Ok(len == Some(receipt.len) && text("etag").map(bare) == receipt.etag)
            }
            Err(StoreError::ObjectGone { .. } | StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// After a refusal that an earlier try would also explain. Where the object is ours, and of other segments, these are needed by nobody.
    async fn settle(&self, crc: Crc64, error: StoreError) -> Result<StoredObject, StoreError> {
        let stored = self.container.settle(&self.key, &self.meta, crc, error).await?;
        if let Err(error) = self.abort().await {
            tracing::warn!(%error, object = self.key, "segments stay that nothing needs");
        }
        Ok(stored)
    }

    /// What all of its segments begin with.
    fn prefix(&self) -> String {
        format!("{}{:032x}/", own_prefix(&self.key), self.id)
    }

    fn segment(&self, number: u32) -> String {
        format!("{}{number:08}", self.prefix())
    }

    /// Length and MD5 of the segments that are there.
    async fn held(&self) -> Result<HashMap<String, (u64, String)>, StoreError> {
        let held = self.container.all(&self.container.segments, &self.prefix()).await?;
        Ok(held.into_iter().map(|object| (object.name, (object.bytes, object.hash))).collect())
    }

    fn is_held(&self, held: &HashMap<String, (u64, String)>, receipt: &PartReceipt) -> bool {
        held.get(&self.segment(receipt.number)).is_some_and(|(len, md5)| *len == receipt.len && Some(md5) == receipt.etag.as_ref())
    }

    fn gone(&self) -> StoreError {
        StoreError::UploadGone { object: self.key.clone() }
    }
}

/// What segments of an object that this program stored begin with.
pub(super) fn own_prefix(key: &str) -> String {
    format!("{key}/tradewind/")
}

/// MD5 of the entity tags one after the other, as large objects have it.
fn etag_of(parts: &[PartReceipt]) -> String {
    let tags: Vec<Bytes> = parts.iter().filter_map(|part| part.etag.clone()).map(Bytes::from).collect();
    digest_of(&tags).0
}

#[async_trait]
impl Upload for SegmentUpload {
    async fn put_part(&self, part: Part) -> Result<PartReceipt, StoreError> {
        let (number, crc, len) = (part.number, part.body.crc(), part.body.len());
        let md5 = self.container.digest(&self.key, &part.body).await?;
        let asked = self.container.asked("put a segment", &self.key, len);
        let segment = self.segment(number);
        let request = Request::new(asked, Method::PUT, &self.container.segments, Some(&segment));
        self.container.client.send(request.header("etag", &md5).body(&part.body)).await?;
        Ok(PartReceipt { number, len, crc, etag: Some(md5) })
    }

    fn takes_parts_twice(&self) -> bool {
        true
    }

    async fn complete(&self, parts: &[PartReceipt], crc: Crc64) -> Result<StoredObject, StoreError> {
        let container = &self.container;
        let old = if self.meta.overwrite {
            self.old.get_or_try_init(|| container.old_segments(&self.key, false)).await?.clone()
        } else {
            Vec::new()
        };
        let asked = container.asked("put the manifest", &self.key, self.meta.size);
        let request = container.writing(Request::new(asked, Method::PUT, &container.name, Some(&self.key)), &self.meta, crc)?;
        let request = if container.makes_dynamic() {
            // The cluster takes whatever is there: it is looked at before.
            let held = self.held().await?;
            if held.len() > parts.len() {
                return self.settle(crc, self.gone()).await;
            }
            if let Some(missing) = parts.iter().find(|part| !self.is_held(&held, part)) {
                if self.is_there(missing).await? {
                    return Err(asked.broken("its segments are not all in the listing yet"));
                }
                return self.settle(crc, self.gone()).await;
            }
            let path = format!("{}/{}", container.segments, self.prefix());
            request.header("x-object-manifest", &utf8_percent_encode(&path, &PATH).to_string()).body(&Body::default())
        } else {
            let segment = |part: &PartReceipt| {
                let path = format!("/{}/{}", container.segments, self.segment(part.number));
                json!({"path": path, "etag": part.etag, "size_bytes": part.len})
            };
            let list = serde_json::Value::from(parts.iter().map(segment).collect::<Vec<_>>()).to_string();
            let list = Body::new(vec![Bytes::from(list)], Crc64::default());
            // A cluster without static large objects, which would store the list itself, refuses it for this.
            request.query("multipart-manifest", "put").header("etag", &etag_of(parts)).body(&list)
        };
        self.is_sent.store(true, Ordering::Relaxed);
        match container.client.send(request).await {
            Ok(answer) => {
                self.is_sent.store(false, Ordering::Relaxed);
                let prefix = self.prefix();
                container.remove(old.into_iter().filter(|(_, name)| !name.starts_with(&prefix)).collect()).await;
                let stored = Container::stored_now(&answer, crc);
                // What was written was empty; read, it has the entity tag of its segments.
                let etag = if container.makes_dynamic() { Some(etag_of(parts)) } else { stored.etag };
                Ok(StoredObject { etag, ..stored })
            }
            Err(error) => {
                self.is_sent.store(error.is_retryable(), Ordering::Relaxed);
                self.settle(crc, error).await
            }
        }
    }

    /// Segments of an object that has come to be stay.
    async fn abort(&self) -> Result<(), StoreError> {
        if self.is_sent.load(Ordering::Relaxed) {
            tracing::warn!(
                object = self.key,
                segments = self.prefix(),
                "segments stay: their object may come to be, for its answer was lost"
            );
            return Ok(());
        }
        let prefix = self.prefix();
        if self.container.segments_of(&self.key, false).await?.iter().any(|(_, name)| name.starts_with(&prefix)) {
            return Ok(());
        }
        let held = self.held().await?;
        self.container.remove(held.into_keys().map(|name| (self.container.segments.clone(), name)).collect()).await;
        Ok(())
    }

    fn handle(&self) -> String {
        format!("{:032x}", self.id)
    }

    fn keep(&self) {}

    async fn recall(&self, receipts: Vec<PartReceipt>) -> Result<Vec<PartReceipt>, StoreError> {
        let held = self.held().await?;
        let is_any = !receipts.is_empty();
        let (mut there, missing): (Vec<_>, Vec<_>) = receipts.into_iter().partition(|receipt| self.is_held(&held, receipt));
        // What was stored just now may not be listed yet. Where one is not there, no one looks for a thousand others.
        for receipt in missing {
            if !self.is_there(&receipt).await? {
                break;
            }
            there.push(receipt);
        }
        if there.is_empty() && held.is_empty() && is_any {
            return Err(self.gone());
        }
        there.sort_unstable_by_key(|receipt| receipt.number);
        Ok(there)
    }
}
