//! A blob in blocks (Azure Storage REST API, "Put Block", "Put Block List", "Get Block List").

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;

use super::{CRC_HEADER, Container, crc_text, writing};
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::existing::Existing;
use crate::rest::plain;
use crate::store::{Body, ObjectMeta, Part, PartReceipt, StoredObject, Upload};

/// Blocks that no list has named yet. The service forgets them a week after the last one, and when another list is written for the same name:
/// there is no request that removes them.
#[derive(Debug)]
pub(super) struct BlockUpload {
    pub(super) container: Arc<Container>,
    pub(super) key: String,
    /// Keeps this upload's blocks apart from those of others of the same name.
    pub(super) id: u128,
    pub(super) meta: ObjectMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BlockList {
    #[serde(default)]
    uncommitted_blocks: Blocks,
}

#[derive(Default, Deserialize)]
struct Blocks {
    #[serde(default, rename = "Block")]
    blocks: Vec<Block>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Block {
    name: String,
    size: u64,
}

impl BlockUpload {
    /// All ids of a blob must have the same length.
    fn block_id(&self, number: u32) -> String {
        BASE64_STANDARD.encode([&self.id.to_be_bytes()[..], &number.to_be_bytes()[..]].concat())
    }
}

#[async_trait]
impl Upload for BlockUpload {
    async fn put_part(&self, part: Part) -> Result<PartReceipt, StoreError> {
        let (crc, len) = (part.body.crc(), part.body.len());
        let request = self.container.request("put a block", Method::PUT, &self.key, len);
        let request = request.query("comp", "block").query("blockid", self.block_id(part.number));
        let answer = self.container.client.send(request.header(CRC_HEADER, &crc_text(crc)).body(&part.body)).await?;
        self.container.compare(&self.key, &answer, crc)?;
        Ok(PartReceipt { number: part.number, len, crc, etag: None })
    }

    fn takes_parts_twice(&self) -> bool {
        true
    }

    async fn complete(&self, parts: &[PartReceipt], crc: Crc64) -> Result<StoredObject, StoreError> {
        let mut list = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<BlockList>".to_owned();
        for part in parts {
            list.push_str(&format!("<Uncommitted>{}</Uncommitted>", self.block_id(part.number)));
        }
        list.push_str("</BlockList>");
        let list = Body::new(vec![Bytes::from(list)], Crc64::default());
        let request = self.container.request("put the list of blocks", Method::PUT, &self.key, self.meta.size);
        let request = request.query("comp", "blocklist").header("content-type", "application/xml").body(&list);
        match self.container.client.send(writing(request, &self.meta, crc)).await {
            Ok(answer) => Ok(self.container.stored(&answer, crc)),
            Err(error) => self.container.settle(&self.key, &self.meta, crc, error).await,
        }
    }

    /// Nothing can be done but to leave the blocks to the service.
    async fn abort(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn handle(&self) -> String {
        format!("{:032x}", self.id)
    }

    fn keep(&self) {}

    async fn recall(&self, receipts: Vec<PartReceipt>) -> Result<Vec<PartReceipt>, StoreError> {
        let request = self.container.request("list the blocks of a blob", Method::GET, &self.key, 0);
        let answer = match self.container.client.send(request.query("blocklisttype", "uncommitted").query("comp", "blocklist")).await {
            Err(StoreError::ObjectGone { object }) => return Err(StoreError::UploadGone { object }),
            answer => answer?,
        };
        let asked = self.container.asked("list the blocks of a blob", &self.key, 0);
        let text = answer.text().await.map_err(|error| asked.broken(&plain(&error)))?;
        let list: BlockList = quick_xml::de::from_str(&text).map_err(|error| asked.unmade(&format!("the list of blocks: {error}")))?;
        let held: HashMap<String, u64> = list.uncommitted_blocks.blocks.into_iter().map(|block| (block.name, block.size)).collect();
        let is_held = |receipt: &PartReceipt| held.get(&self.block_id(receipt.number)) == Some(&receipt.len);
        let expected = !receipts.is_empty();
        let receipts: Vec<PartReceipt> = receipts.into_iter().filter(is_held).collect();
        // A list that was written names them no more; then the object may be there.
        if expected && receipts.is_empty() { Err(StoreError::UploadGone { object: self.key.clone() }) } else { Ok(receipts) }
    }
}
