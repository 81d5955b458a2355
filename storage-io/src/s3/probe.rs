//! Finding out what a server can do, by trying it on an upload that is never completed.

use aws_sdk_s3::error::SdkError;
use bytes::Bytes;

use super::Bucket;
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::retry::{Deadlines, RetryPolicy};
use crate::store::Body;

/// Last component of the key that probing uses. No object of that name ever comes to be.
const PROBE: &str = ".tradewind-probe";

impl Bucket {
    /// See [`crate::Store::check`].
    pub(super) async fn check(&self, prefix: &str) -> Result<(), StoreError> {
        self.look_for_bucket().await?;
        let key = format!("{prefix}{PROBE}");
        match self.checksums.get() {
            Some(&checksums) => {
                let id = self.create(&key, None, checksums).await?;
                self.give_up(&key, &id).await
            }
            None => self.checksums.get_or_try_init(|| self.probe(&key)).await.map(|_| ()),
        }
    }

    /// Whether the server verifies checksums; asks it if nobody has yet. `near` is a key that may be written.
    pub(super) async fn checksums(&self, near: &str) -> Result<bool, StoreError> {
        let folder = near.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        self.checksums.get_or_try_init(|| async { self.probe(&format!("{folder}{PROBE}")).await }).await.copied()
    }

    /// Only a clear answer ends the check here: HEAD has no body, so 400 and 403 say nothing about the reason, and somebody
    /// who may write objects need not be allowed to see the bucket.
    async fn look_for_bucket(&self) -> Result<(), StoreError> {
        let Err(error) = self.client.head_bucket().bucket(&self.name).send().await else { return Ok(()) };
        let status = match &error {
            SdkError::ServiceError(service) => service.raw().status().as_u16(),
            _ => 0,
        };
        if matches!(status, 400 | 401 | 403 | 405 | 501) {
            return Ok(());
        }
        Err(self.asked("look for the bucket", "", 0).map(&error))
    }

    /// True if the server takes a part with its CRC-64/NVME and refuses one with a wrong one.
    async fn probe(&self, key: &str) -> Result<bool, StoreError> {
        let id = match self.create(key, None, true).await {
            Ok(id) => id,
            Err(error) if is_plain_refusal(&error) => {
                // It may be the checksum's announcement that it does not like. If not, this fails as well.
                let id = self.create(key, None, false).await?;
                self.give_up(key, &id).await?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let verdict = self.tries_checksums(key, &id).await;
        if let Err(error) = self.give_up(key, &id).await {
            // What was found out is true all the same.
            tracing::warn!(place = self.place, key, %error, "an upload that was begun to find out what the store can do is left there");
        }
        if let Ok(checksums) = verdict {
            tracing::info!(place = self.place, checksums, "probed the store");
        }
        verdict
    }

    /// Aborts a probe. Nobody else knows of it, so this is tried more than once here: the caller's next try begins another one.
    async fn give_up(&self, key: &str, id: &str) -> Result<(), StoreError> {
        let deadlines = Deadlines { request_ms: 20_000, ..Deadlines::default() };
        let policy = RetryPolicy { tries_max: 6, pause_base_ms: 50, pause_max_ms: 1_000, deadlines };
        policy.run("aborting a probe", 0, StoreError::is_retryable, |_| {}, || self.abort(key, id)).await
    }

    async fn tries_checksums(&self, key: &str, id: &str) -> Result<bool, StoreError> {
        let data = Bytes::from_static(b"tradewind");
        let right = Crc64::of(&data);
        let body = Body::new(vec![data], right);
        let wrong = Crc64(!right.0);
        match self.send_part(key, id, 1, &body, Some(wrong)).await {
            Ok(_) => return Ok(false),
            // Also when the server took the part and reported what it computed: it does check.
            Err(StoreError::ChecksumMismatch { .. }) => {}
            Err(error) if is_plain_refusal(&error) => {}
            Err(error) => return Err(error),
        }
        match self.send_part(key, id, 1, &body, Some(right)).await {
            Ok(_) => Ok(true),
            Err(error) if is_plain_refusal(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn is_plain_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::Rejected { .. } | StoreError::NotSupported { .. })
}
