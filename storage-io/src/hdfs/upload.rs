//! An object in parts: files of whole blocks in a hidden directory, which CONCAT makes one without moving a byte.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::Method;

use super::client::Client;
use super::names::folder;
use super::verify::CRC_BYTES_DEFAULT;
use super::{Create, HIDDEN, Root};
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::existing::Existing as _;
use crate::store::{ObjectMeta, Part, PartReceipt, StoredObject, Upload};

/// Longest list of files in one CONCAT, bytes: it stands in the URL, of which gateways take 8 KiB.
const SOURCES_BYTES_MAX: usize = 4096;

/// Parts in a directory of their own, until they are one file or are given up.
#[derive(Debug)]
pub(super) struct PartsUpload {
    root: Arc<Root>,
    key: String,
    id: u128,
    meta: ObjectMeta,
    /// Path of the directory.
    directory: String,
}

impl PartsUpload {
    pub(super) fn new(root: Arc<Root>, key: String, id: u128, meta: ObjectMeta) -> Self {
        let path = root.path(&key);
        let directory = format!("{}/{HIDDEN}{id:032x}-{:016x}", root.beside(&path), Crc64::of(key.as_bytes()).0);
        Self { root, key, id, meta, directory }
    }

    /// Makes the directory. Nobody else can look into it; its own folder, made at once, would be closed to others too.
    pub(super) async fn make(&self) -> Result<(), StoreError> {
        self.root.make_folder(&self.key, folder(&self.directory), "755").await?;
        self.root.make_folder(&self.key, &self.directory, "700").await
    }

    /// Name of the file of a part that was acknowledged.
    fn name(receipt: &PartReceipt) -> String {
        format!("{:08}-{}", receipt.number, receipt.etag.as_deref().unwrap_or_default())
    }

    fn path(&self, receipt: &PartReceipt) -> String {
        format!("{}/{}", self.directory, Self::name(receipt))
    }

    /// Length of the files that are there; `None`: the directory is not.
    async fn held(&self) -> Result<Option<HashMap<String, u64>>, StoreError> {
        let entries = self.root.entries(&self.key, &self.directory).await?;
        Ok(entries.map(|entries| entries.into_iter().map(|status| (status.path_suffix, status.length)).collect()))
    }

    fn gone(&self) -> StoreError {
        StoreError::UploadGone { object: self.key.clone() }
    }

    /// Appends these parts to the first one. Not all at once: URLs have their limits.
    async fn concat(&self, first: &PartReceipt, others: &[PartReceipt]) -> Result<(), StoreError> {
        let target = self.path(first);
        let at_once = (SOURCES_BYTES_MAX / (target.len() + 1)).max(1);
        for some in others.chunks(at_once) {
            let sources: Vec<String> = some.iter().map(|part| self.path(part)).collect();
            let asked = self.root.asked("concatenate files", &self.key, 0);
            let request = Client::request(asked, Method::POST, "CONCAT", &target).query("sources", sources.join(","));
            self.root.client.send(request).await?;
        }
        Ok(())
    }

    /// The parts as one file, and where it is. An earlier try may have got anywhere on the way there.
    async fn join(&self, parts: &[PartReceipt]) -> Result<String, StoreError> {
        let (held, first) = (self.held().await?.ok_or_else(|| self.gone())?, parts.first().ok_or_else(|| self.gone())?);
        let len = held.get(&Self::name(first)).ok_or_else(|| self.gone())?;
        let joined = joined(parts, *len).ok_or_else(|| self.gone())?;
        let (_, others) = parts.split_at(joined);
        if others.iter().any(|part| held.get(&Self::name(part)) != Some(&part.len)) {
            return Err(self.gone());
        }
        self.concat(first, others).await?;
        Ok(self.path(first))
    }
}

/// How many of these parts, in the order of their numbers, make a file of this length; `None` where it is none of theirs.
fn joined(parts: &[PartReceipt], len: u64) -> Option<usize> {
    let mut bytes = 0_u64;
    let at = parts.iter().position(|part| {
        bytes = bytes.saturating_add(part.len);
        bytes >= len
    });
    at.filter(|_| bytes == len).map(|at| at + 1)
}

#[async_trait]
impl Upload for PartsUpload {
    /// Each try has a name of its own, so that one whose answer was lost can do no harm later.
    async fn put_part(&self, part: Part) -> Result<PartReceipt, StoreError> {
        let (number, crc, len) = (part.number, part.body.crc(), part.body.len());
        // Blocks of one size are what CONCAT asks for: that of all parts but the last.
        let block_bytes = if number > 1 { part.offset / u64::from(number - 1) } else { len };
        let block_bytes = if len < self.meta.size { Some(block_bytes) } else { None };
        if block_bytes.is_some_and(|bytes| bytes % CRC_BYTES_DEFAULT != 0) {
            let detail = format!("HDFS takes parts of a multiple of 512 bytes, not {block_bytes:?}; set engine.block_bytes to one");
            return Err(StoreError::Configuration { detail });
        }
        let receipt = PartReceipt { number, len, crc, etag: Some(format!("{:016x}", rand::random::<u64>())) };
        let path = self.path(&receipt);
        self.root.write(&Create { key: &self.key, path: &path, block_bytes, mode: 0o600 }, &part.body).await?;
        Ok(receipt)
    }

    async fn complete(&self, parts: &[PartReceipt], crc: Crc64) -> Result<StoredObject, StoreError> {
        let stored = match self.join(parts).await {
            Ok(file) => self.root.publish(&self.key, &file, &self.meta, crc).await,
            Err(error) => Err(error),
        };
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                // What an earlier try had begun may have come to its end meanwhile.
                let error = if matches!(error, StoreError::ObjectGone { .. }) { self.gone() } else { error };
                self.root.settle(&self.key, &self.meta, crc, error).await?
            }
        };
        self.root.clean_up(&self.key, &self.directory).await;
        Ok(stored)
    }

    async fn abort(&self) -> Result<(), StoreError> {
        self.root.remove(&self.key, &self.directory, true).await.map(|_| ())
    }

    fn handle(&self) -> String {
        format!("{:032x}", self.id)
    }

    fn keep(&self) {}

    async fn recall(&self, receipts: Vec<PartReceipt>) -> Result<Vec<PartReceipt>, StoreError> {
        let held = self.held().await?.ok_or_else(|| self.gone())?;
        // Some may be in the first one already.
        let first = receipts.first().filter(|first| first.number == 1).and_then(|first| held.get(&Self::name(first)));
        let in_first = first.and_then(|len| joined(&receipts, *len)).unwrap_or(0);
        let is_held = |(at, part): &(usize, PartReceipt)| {
            // With none left out before it.
            let is_joined = *at < in_first && part.number as usize == at + 1;
            is_joined || held.get(&Self::name(part)) == Some(&part.len)
        };
        Ok(receipts.into_iter().enumerate().filter(is_held).map(|(_, part)| part).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_part_tells_by_its_length_what_is_in_it() {
        let parts: Vec<PartReceipt> =
            [8, 8, 8, 3].into_iter().zip(1..).map(|(len, number)| PartReceipt { number, len, crc: Crc64(0), etag: None }).collect();
        for (len, expected) in [(8, Some(1)), (16, Some(2)), (24, Some(3)), (27, Some(4)), (0, None), (9, None), (28, None)] {
            assert_eq!(joined(&parts, len), expected, "{len}");
        }
        assert_eq!(joined(&[], 0), None);
    }
}
