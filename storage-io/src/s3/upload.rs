//! One multipart upload.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::types::{ChecksumType, CompletedMultipartUpload, CompletedPart};

use super::{Bucket, bare, body, check_answer, full_object_crc, signed};
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::existing::Existing;
use crate::store::{Body, ObjectMeta, Part, PartReceipt, StoredObject, Upload};

/// A part is not there under its entity tag (Amazon S3 API Reference, CompleteMultipartUpload).
const INVALID_PART: &str = "InvalidPart";

#[derive(Debug)]
pub(super) struct S3Upload {
    pub(super) bucket: Arc<Bucket>,
    pub(super) key: String,
    pub(super) id: String,
    pub(super) meta: ObjectMeta,
    pub(super) checksums: bool,
}

impl Bucket {
    /// Sends one part and returns its entity tag as the store wrote it.
    pub(super) async fn send_part(
        &self,
        key: &str,
        id: &str,
        number: u32,
        body: &Body,
        checksum: Option<Crc64>,
    ) -> Result<String, StoreError> {
        let answer = self
            .client
            .upload_part()
            .bucket(&self.name)
            .key(key)
            .upload_id(id)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .content_length(signed(body.len()))
            .body(body::sdk_body(body))
            .set_checksum_crc64_nvme(checksum.map(Crc64::to_base64))
            .customize()
            .disable_payload_signing()
            .send()
            .await
            .map_err(|error| self.asked("upload a part", key, body.len()).map(&error))?;
        if let Some(ours) = checksum {
            check_answer(key, answer.checksum_crc64_nvme(), ours)?;
        }
        answer.e_tag().map(str::to_owned).ok_or_else(|| StoreError::Unavailable {
            place: self.place.clone(),
            detail: format!("part {number} of {key} was taken but its entity tag is missing in the answer"),
        })
    }
}

/// A part as the store lists it.
struct Held {
    etag: String,
    size: Option<u64>,
    crc: Option<Crc64>,
}

impl S3Upload {
    /// The parts that the store has, by number.
    async fn held(&self) -> Result<HashMap<u32, Held>, StoreError> {
        let mut held = HashMap::new();
        let mut after = None;
        loop {
            let request = self.bucket.client.list_parts().bucket(&self.bucket.name).key(&self.key).upload_id(&self.id);
            let answer = request.set_part_number_marker(after.take()).send().await;
            let answer = answer.map_err(|error| match self.bucket.asked("list the parts of an upload", &self.key, 0).map(&error) {
                // Ceph's word for an upload that it does not know.
                StoreError::Rejected { code, .. } if code == "NoSuchKey" => StoreError::UploadGone { object: self.key.clone() },
                error => error,
            })?;
            for part in answer.parts() {
                let number = part.part_number().and_then(|number| u32::try_from(number).ok());
                if let (Some(number), Some(etag)) = (number, part.e_tag()) {
                    let size = part.size().and_then(|size| u64::try_from(size).ok());
                    held.insert(number, Held { etag: etag.to_owned(), size, crc: part.checksum_crc64_nvme().and_then(Crc64::from_base64) });
                }
            }
            match answer.next_part_number_marker() {
                Some(marker) if answer.is_truncated() == Some(true) => after = Some(marker.to_owned()),
                _ => return Ok(held),
            }
        }
    }

    /// The receipts with the entity tags that the store has now, if there are others among them: of a part that was stored twice, the tag of the
    /// answer that counted may be that of the other request, where stores encrypt each with its own key. A part with another checksum is not
    /// taken; where the listing tells none, completing does, which names those of all parts and of the whole.
    async fn renewed(&self, parts: &[PartReceipt]) -> Result<Option<Vec<PartReceipt>>, StoreError> {
        let held = self.held().await?;
        let mut is_new = false;
        let renew = |part: &PartReceipt| {
            let mut part = part.clone();
            if let Some(held) =
                held.get(&part.number).filter(|held| held.crc.is_none_or(|crc| crc == part.crc) && held.size == Some(part.len))
                && part.etag.as_deref().map(bare) != Some(bare(&held.etag))
            {
                (part.etag, is_new) = (Some(held.etag.clone()), true);
            }
            part
        };
        let parts = parts.iter().map(renew).collect();
        Ok(is_new.then_some(parts))
    }

    async fn complete_once(&self, parts: &[PartReceipt], crc: Crc64, condition: Option<String>) -> Result<StoredObject, StoreError> {
        let parts = parts.iter().map(|part| {
            CompletedPart::builder()
                .part_number(i32::try_from(part.number).unwrap_or(i32::MAX))
                .set_e_tag(part.etag.clone())
                .set_checksum_crc64_nvme(self.checksums.then(|| part.crc.to_base64()))
                .build()
        });
        let answer = self
            .bucket
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket.name)
            .key(&self.key)
            .upload_id(&self.id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build())
            .set_checksum_crc64_nvme(self.checksums.then(|| crc.to_base64()))
            .set_checksum_type(self.checksums.then_some(ChecksumType::FullObject))
            .set_mpu_object_size(self.checksums.then(|| signed(self.meta.size)))
            .set_if_none_match(condition)
            .send()
            .await
            .map_err(|error| self.bucket.asked("complete a multipart upload", &self.key, self.meta.size).map(&error))?;
        if let Some(theirs) = full_object_crc(answer.checksum_type(), answer.checksum_crc64_nvme()).filter(|_| self.checksums) {
            check_answer(&self.key, Some(&theirs.to_base64()), crc)?;
        }
        let etag = answer.e_tag().map(bare).ok_or_else(|| StoreError::Unavailable {
            place: self.bucket.place.clone(),
            detail: format!("the answer to completing {} is not one", self.key),
        })?;
        let version_id = answer.version_id().map(str::to_owned);
        Ok(StoredObject { etag: Some(etag), crc, verified_by_store: self.checksums, version_id })
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn put_part(&self, part: Part) -> Result<PartReceipt, StoreError> {
        let crc = part.body.crc();
        let etag = self.bucket.send_part(&self.key, &self.id, part.number, &part.body, self.checksums.then_some(crc)).await?;
        Ok(PartReceipt { number: part.number, len: part.body.len(), crc, etag: Some(etag) })
    }

    /// Not without checksums, by which [`Self::renewed`] knows a part.
    fn takes_parts_twice(&self) -> bool {
        self.checksums
    }

    async fn complete(&self, parts: &[PartReceipt], crc: Crc64) -> Result<StoredObject, StoreError> {
        let condition = self.bucket.condition(&self.meta);
        let conditional = condition.is_some();
        let mut result = self.complete_once(parts, crc, condition.clone()).await;
        let renewed = match &result {
            Err(StoreError::Rejected { code, .. }) if code == INVALID_PART && self.checksums => self.renewed(parts).await?,
            _ => None,
        };
        let parts = match &renewed {
            Some(renewed) => {
                result = self.complete_once(renewed, crc, condition).await;
                renewed
            }
            None => parts,
        };
        if let Err(error) = &result
            && self.bucket.drops_condition(conditional, error)
        {
            result = self.complete_once(parts, crc, None).await;
        }
        match result {
            Ok(done) => Ok(done),
            Err(error) => self.bucket.settle(&self.key, &self.meta, crc, error).await,
        }
    }

    async fn abort(&self) -> Result<(), StoreError> {
        self.bucket.abort(&self.key, &self.id).await
    }

    fn handle(&self) -> String {
        self.id.clone()
    }

    fn keep(&self) {}

    async fn recall(&self, receipts: Vec<PartReceipt>) -> Result<Vec<PartReceipt>, StoreError> {
        let held = self.held().await?;
        let is_held = |receipt: &PartReceipt| {
            let (Some(held), Some(ours)) = (held.get(&receipt.number), &receipt.etag) else { return false };
            bare(&held.etag) == bare(ours) && held.size == Some(receipt.len)
        };
        Ok(receipts.into_iter().filter(is_held).collect())
    }
}
