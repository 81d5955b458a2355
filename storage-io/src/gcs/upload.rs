//! An object in parts: each is an object of its own for a while, and the service makes one out of them ("Objects: compose").

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::At;
use super::list::Page;
use super::{Bucket, PARTS, Resource, crc32c_text, parse_crc32c};
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::existing::Existing as _;
use crate::store::{Body, ObjectMeta, Part, PartReceipt, StoredObject, Upload};

/// Objects that are made into one by a request ("Quotas and limits").
const SOURCES_MAX: usize = 32;
/// Requests without data at once.
const AT_ONCE: usize = 8;

#[derive(Debug)]
pub(super) struct PartsUpload {
    pub(super) bucket: Arc<Bucket>,
    pub(super) key: String,
    pub(super) id: u128,
    pub(super) meta: ObjectMeta,
}

impl PartsUpload {
    /// What the names of its objects begin with.
    fn prefix(&self) -> String {
        format!("{}{PARTS}{:032x}/", self.key, self.id)
    }

    fn part_name(&self, number: u32) -> String {
        format!("{}{number:05}", self.prefix())
    }

    /// All that there is of it: name, length and CRC-32C.
    async fn held(&self) -> Result<HashMap<String, (u64, Option<String>)>, StoreError> {
        let (mut held, mut token) = (HashMap::new(), None);
        loop {
            let prefix = self.prefix();
            let mut request = self.bucket.listing(&prefix, crate::list::LIST_ENTRIES_MAX);
            if let Some(token) = token {
                request = request.query("pageToken", token);
            }
            let page: Page = self.bucket.client.ask(At::Objects, request).await?;
            held.extend(page.items.into_iter().map(|object| (object.name, (object.size, object.crc32c))));
            token = page.next_page_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(held);
            }
        }
    }

    async fn remove(&self, names: impl IntoIterator<Item = String>) -> Result<(), StoreError> {
        let removing = stream::iter(names).map(|name| async move { self.bucket.delete(&name).await });
        removing.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await
    }

    /// Removes the parts of an object that is there.
    async fn clean_up(&self) {
        let cleaned = async { self.remove(self.held().await?.into_keys()).await };
        if let Err(error) = cleaned.await {
            tracing::warn!(%error, parts = self.prefix(), "parts stay behind at the store; remove them by hand");
        }
    }

    /// Makes objects of at most [`SOURCES_MAX`] each, until so many are left.
    async fn gathered(&self, mut names: Vec<String>) -> Result<Vec<String>, StoreError> {
        let mut round = 0;
        while names.len() > SOURCES_MAX {
            round += 1;
            let groups: Vec<(String, Vec<String>)> = names
                .chunks(SOURCES_MAX)
                .enumerate()
                .map(|(at, group)| (format!("{}r{round}-{at:05}", self.prefix()), group.to_vec()))
                .collect();
            let making = stream::iter(groups).map(|(name, sources)| async move {
                let _: Resource =
                    self.compose(&name, &sources, json!({"contentType": super::CONTENT_TYPE, "storageClass": "STANDARD"}), false).await?;
                Ok::<_, StoreError>(name)
            });
            names = making.buffered(AT_ONCE).try_collect().await?;
        }
        Ok(names)
    }

    async fn compose(&self, name: &str, sources: &[String], destination: Value, is_new: bool) -> Result<Resource, StoreError> {
        let sources: Vec<Value> = sources.iter().map(|name| json!({"name": name})).collect();
        let question = json!({"kind": "storage#composeRequest", "destination": destination, "sourceObjects": sources}).to_string();
        let body = Body::new(vec![Bytes::from(question)], Crc64::default());
        let mut request = self.bucket.request("compose an object", Method::POST, Some(name), self.meta.size);
        if is_new {
            request = request.query("ifGenerationMatch", "0");
        }
        self.bucket.client.ask(At::Compose, request.header("content-type", "application/json").body(&body)).await
    }

    fn gone(&self) -> StoreError {
        StoreError::UploadGone { object: self.key.clone() }
    }
}

#[async_trait]
impl Upload for PartsUpload {
    async fn put_part(&self, part: Part) -> Result<PartReceipt, StoreError> {
        let (number, crc, len) = (part.number, part.body.crc(), part.body.len());
        let name = self.part_name(number);
        let crc32c = self.bucket.digest(&self.key, &part.body).await?;
        // Never in a class of storage that is paid for by the month.
        let about = json!({"name": name, "storageClass": "STANDARD", "crc32c": crc32c_text(crc32c)});
        self.bucket.insert("put a part", &self.key, about, &part.body, None).await?;
        Ok(PartReceipt { number, len, crc, etag: Some(crc32c_text(crc32c)) })
    }

    async fn complete(&self, parts: &[PartReceipt], crc: Crc64) -> Result<StoredObject, StoreError> {
        let whole = parts.iter().try_fold(0, |whole, part| {
            let next = part.etag.as_deref().and_then(parse_crc32c)?;
            Some(super::combined(whole, next, part.len))
        });
        let whole = whole.ok_or_else(|| self.gone())?;
        let making = async {
            let names = self.gathered(parts.iter().map(|part| self.part_name(part.number)).collect()).await?;
            self.compose(&self.key, &names, self.bucket.about(&self.meta, crc, whole), !self.meta.overwrite).await
        };
        let made = match making.await {
            Ok(made) => made,
            Err(error) => {
                // A part, or what was made of parts.
                let error = if matches!(error, StoreError::ObjectGone { .. }) { self.gone() } else { error };
                let stored = self.bucket.settle(&self.key, &self.meta, crc, error).await?;
                self.clean_up().await;
                return Ok(stored);
            }
        };
        if let Err(wrong) = self.bucket.compare(&self.key, &made, self.meta.size, Some(&crc32c_text(whole))) {
            // Only what was made here just now.
            let request = self.bucket.request("delete an object", Method::DELETE, Some(&self.key), 0);
            if let Err(error) = self.bucket.client.send(At::Objects, request.query("ifGenerationMatch", made.generation)).await {
                tracing::warn!(%error, object = self.key, "what the store made wrongly out of parts stays there");
            }
            return Err(wrong);
        }
        self.clean_up().await;
        Ok(self.bucket.stored_now(made, crc))
    }

    async fn abort(&self) -> Result<(), StoreError> {
        self.remove(self.held().await?.into_keys()).await
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
        let is_held = |receipt: &PartReceipt| {
            held.get(&self.part_name(receipt.number))
                .is_some_and(|(len, crc32c)| *len == receipt.len && crc32c.is_some() && *crc32c == receipt.etag)
        };
        Ok(receipts.into_iter().filter(is_held).collect())
    }
}
