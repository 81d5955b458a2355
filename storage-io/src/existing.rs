//! What is at an object's place already, and whether an earlier try of ours put it there.

use async_trait::async_trait;

use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::metadata::token_text;
use crate::store::{Body, ObjectInfo, ObjectMeta, StoredObject};

/// Bytes from which on a look before a write costs less than a write that is refused.
const LOOK_BYTES: u64 = 256 << 10;

/// What a look at an object found.
pub(crate) struct Found {
    pub(crate) info: ObjectInfo,
    /// See [`ObjectMeta::token`].
    pub(crate) token: Option<String>,
    pub(crate) version_id: Option<String>,
}

impl Found {
    /// One of the same name, size and time may hold other bytes; `crc` is that of ours where it is known.
    fn is_ours(&self, meta: &ObjectMeta, crc: Option<Crc64>) -> bool {
        let same = self.info.size == meta.size && self.token.as_deref() == Some(&token_text(meta.token));
        same && crc.is_none_or(|crc| self.info.crc.is_none_or(|theirs| theirs == crc))
    }
}

/// A bucket or container in which objects are looked for before and after they are written.
#[async_trait]
pub(crate) trait Existing: Sync {
    /// What is there now.
    async fn look(&self, key: &str) -> Result<Option<Found>, StoreError>;

    /// Whether the store computed the checksum that `look` tells.
    fn computes_what_it_tells(&self) -> bool;

    /// Whether a write without a look before it is refused, should the object be there; as far as anybody knows.
    fn may_refuse_blind_writes(&self) -> bool;

    /// Whether that is proved.
    fn refuses_blind_writes(&self) -> bool;

    /// The same as [`Existing::make_way`] before one write of all the bytes; few bytes are sent without a look where that is safe.
    async fn make_way_for(&self, key: &str, meta: &ObjectMeta, body: &Body) -> Result<Option<StoredObject>, StoreError> {
        if self.refuses_blind_writes() && body.len() < LOOK_BYTES {
            return Ok(None);
        }
        self.make_way(key, meta, Some(body.crc())).await
    }

    /// Looks before writing. `Ok(Some)` means that an earlier try of ours has stored the object already.
    async fn make_way(&self, key: &str, meta: &ObjectMeta, crc: Option<Crc64>) -> Result<Option<StoredObject>, StoreError> {
        if meta.overwrite {
            return Ok(None);
        }
        match self.look(key).await {
            Ok(None) => Ok(None),
            Ok(Some(found)) if found.is_ours(meta, crc) => Ok(Some(self.stored(found, crc.unwrap_or_default()))),
            Ok(Some(_)) => Err(StoreError::DestinationExists { object: key.to_owned() }),
            // Whoever may not list a bucket is told 403 for an object that is not there.
            Err(StoreError::AccessDenied { .. }) if self.may_refuse_blind_writes() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// After a refusal that our own earlier, unacknowledged try would also explain: is the object there, and ours?
    async fn settle(&self, key: &str, meta: &ObjectMeta, crc: Crc64, error: StoreError) -> Result<StoredObject, StoreError> {
        if !matches!(error, StoreError::DestinationExists { .. } | StoreError::UploadGone { .. }) {
            return Err(error);
        }
        match self.find_own(key, meta, crc).await {
            Ok(Some(stored)) => Ok(stored),
            Err(looking) if looking.is_retryable() => Err(looking),
            _ => Err(error),
        }
    }

    /// See [`crate::Store::find_own`].
    async fn find_own(&self, key: &str, meta: &ObjectMeta, crc: Crc64) -> Result<Option<StoredObject>, StoreError> {
        let found = self.look(key).await?;
        Ok(found.filter(|found| found.is_ours(meta, Some(crc))).map(|found| self.stored(found, crc)))
    }

    /// The account of an object that was found to be ours.
    fn stored(&self, found: Found, crc: Crc64) -> StoredObject {
        let verified_by_store = self.computes_what_it_tells() && found.info.crc == Some(crc);
        StoredObject { etag: found.info.etag, crc, verified_by_store, version_id: found.version_id }
    }
}
