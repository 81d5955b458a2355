//! An object in segments (Object Storage API v1, "Large objects").

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use percent_encoding::utf8_percent_encode;
use reqwest::Method;
use serde_json::json;

use super::client::Request;
use super::{Container, digest_of, writing};
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::existing::Existing as _;
use crate::rest::PATH;
use crate::store::{Body, ObjectMeta, Part, PartReceipt, StoredObject, Upload};

/// Segments that a manifest may name one day. They stay until then, or until they are given up.
#[derive(Debug)]
pub(super) struct SegmentUpload {
    pub(super) container: Arc<Container>,
    pub(super) key: String,
    pub(super) id: u128,
    pub(super) meta: ObjectMeta,
}

impl SegmentUpload {
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

    async fn complete(&self, parts: &[PartReceipt], crc: Crc64) -> Result<StoredObject, StoreError> {
        let container = &self.container;
        let old = if self.meta.overwrite { container.segments_of(&self.key, false).await? } else { Vec::new() };
        let asked = container.asked("put the manifest", &self.key, self.meta.size);
        let request = writing(Request::new(asked, Method::PUT, &container.name, Some(&self.key)), &self.meta, crc);
        let request = if container.makes_dynamic() {
            // The cluster takes whatever is there: it is looked at before.
            let held = self.held().await?;
            if held.len() != parts.len() || !parts.iter().all(|part| self.is_held(&held, part)) {
                return container.settle(&self.key, &self.meta, crc, self.gone()).await;
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
            request.query("multipart-manifest", "put").body(&list)
        };
        match container.client.send(request).await {
            Ok(answer) => {
                let prefix = self.prefix();
                container.remove(old.into_iter().filter(|(_, name)| !name.starts_with(&prefix)).collect()).await;
                let stored = Container::stored_now(&answer, crc);
                // What was written was empty; read, it has the entity tag of its segments.
                let etag = if container.makes_dynamic() { Some(etag_of(parts)) } else { stored.etag };
                Ok(StoredObject { etag, ..stored })
            }
            Err(error) => container.settle(&self.key, &self.meta, crc, error).await,
        }
    }

    /// Segments of an object that has come to be stay.
    async fn abort(&self) -> Result<(), StoreError> {
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
        if held.is_empty() && !receipts.is_empty() {
            return Err(self.gone());
        }
        Ok(receipts.into_iter().filter(|receipt| self.is_held(&held, receipt)).collect())
    }
}
