//! What every store can do. The rest of the crate knows stores only by these two traits.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
pub use tradewind_parts::Limits;

use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::list::{Depth, Listing};
use crate::retry::RetryPolicy;

/// Longest key in bytes that is accepted at all. A store may take less.
const KEY_BYTES_MAX: usize = 4096;

/// The name of an object below its destination: relative, '/' between components, none of them empty, "." or "..".
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(Arc<[u8]>);

impl ObjectKey {
    /// Checks and takes over a path.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`] when it is empty, too long, absolute, holds NUL, or has an empty, "." or ".." component.
    pub fn new(path: &[u8]) -> Result<Self, StoreError> {
        let refuse = |reason| Err(StoreError::InvalidName { name: String::from_utf8_lossy(path).into_owned(), reason });
        if path.is_empty() {
            return refuse("it is empty");
        }
        if path.len() > KEY_BYTES_MAX {
            return refuse("it is longer than 4096 bytes");
        }
        if path.contains(&0) {
            return refuse("it holds a NUL byte");
        }
        match path.split(|&byte| byte == b'/').find(|part| matches!(*part, b"" | b"." | b"..")) {
            Some(b"") => refuse("it is absolute or has an empty component"),
            Some(_) => refuse("it has a component '.' or '..'"),
            None => Ok(Self(path.into())),
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components, first to last; at least one.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/')
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// What is known about an object before its first byte is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Size, bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970-01-01 UTC.
    pub mtime_ns: i64,
    /// Unix mode; only the nine permission bits are kept, and 0 means "not known".
    pub mode: u32,
    /// Whether an object of that name may be replaced.
    pub overwrite: bool,
    /// Random, and the same for every try of the same object: so a store can tell the object whose acknowledgement was lost
    /// from somebody else's.
    pub token: u128,
    /// Kept as the object's metadata; a directory keeps what a file can have of it.
    pub attributes: Attributes,
}

/// Names and values that become an object's metadata: names of a-z, 0-9, '-', '_', '.'; values of visible ASCII.
pub type Attributes = Arc<[(String, String)]>;

/// The same for every transfer of a file of this name, size and time: so a store can tell that an earlier transfer has stored it.
/// `variant` tells apart what different transfers make of the same file ([`crate::UploaderConfig::variant`]).
pub(crate) fn token_of(key: &ObjectKey, size: u64, mtime_ns: i64, variant: u64) -> u128 {
    // Two different checksums of the same bytes: objects of one name are compared, nothing secret hangs on it.
    let mut text = [key.as_bytes(), &size.to_be_bytes(), &mtime_ns.to_be_bytes()].concat();
    if variant != 0 {
        text.extend(variant.to_be_bytes());
    }
    token(&text)
}

pub(crate) fn token(text: &[u8]) -> u128 {
    let reversed: Vec<u8> = text.iter().rev().copied().collect();
    u128::from(Crc64::of(text).0) << 64 | u128::from(Crc64::of(&reversed).0)
}

/// Bytes to be stored, in the buffers they arrived in. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Body {
    chunks: Vec<Bytes>,
    len: u64,
    crc: Crc64,
}

impl Body {
    /// A body out of consecutive chunks, with the checksum of all of them.
    #[must_use]
    pub fn new(chunks: Vec<Bytes>, crc: Crc64) -> Self {
        let len = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self { chunks, len, crc }
    }

    /// The chunks in order.
    #[must_use]
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// Length, bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Checksum of the whole.
    #[must_use]
    pub fn crc(&self) -> Crc64 {
        self.crc
    }
}

/// A run of bytes of one object.
#[derive(Clone, Debug)]
pub struct Part {
    /// Number, from 1 upwards.
    pub number: u32,
    /// Where it begins in the object, bytes.
    pub offset: u64,
    /// Its bytes.
    pub body: Body,
}

/// What remains of a part once it is stored: enough to complete the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReceipt {
    /// The part's number.
    pub number: u32,
    /// Its length, bytes.
    pub len: u64,
    /// Its checksum.
    pub crc: Crc64,
    /// What the store calls it, if it calls it anything.
    pub etag: Option<String>,
}

/// An object that the store has acknowledged as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// The store's entity tag, without quotes.
    pub etag: Option<String>,
    /// CRC-64/NVME of the object's bytes.
    pub crc: Crc64,
    /// Whether the store itself checked that checksum.
    pub verified_by_store: bool,
    /// The store's name for this version of the object, in buckets with versions.
    pub version_id: Option<String>,
}

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Size, bytes.
    pub size: u64,
    /// The store's entity tag, without quotes.
    pub etag: Option<String>,
    /// CRC-64/NVME, if the store keeps it.
    pub crc: Option<Crc64>,
    /// When the store last changed it, nanoseconds since 1970-01-01 UTC, if it says.
    pub modified_ns: Option<i64>,
    /// Modification time of the file that was stored, as this program and rclone keep it: like [`ObjectMeta::mtime_ns`].
    pub mtime_ns: Option<i64>,
    /// Unix permissions of the file that was stored, if they were kept.
    pub mode: Option<u32>,
    /// What else is kept of it: [`ObjectMeta::attributes`], and metadata that others gave it.
    pub attributes: Attributes,
}

/// Bytes of an object, and what is known of the whole.
#[derive(Clone, Debug)]
pub struct ObjectRange {
    /// Of the object they are from.
    pub info: ObjectInfo,
    /// As many as were asked for.
    pub bytes: Vec<Bytes>,
}

impl ObjectInfo {
    /// Whether another look at the object of this name may have seen the same contents.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.size == other.size
            && match (&self.etag, &other.etag) {
                (Some(one), Some(other)) => one == other,
                _ => self.modified_ns == other.modified_ns,
            }
    }
}

/// A place for objects.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// The destination in words for messages. Never holds a secret.
    fn place(&self) -> String;

    /// Whether keys are UTF-8 and nothing else, so that other names have to be written as such.
    fn takes_only_text(&self) -> bool {
        false
    }

    /// What it takes.
    fn limits(&self) -> Limits;

    /// Requests of one upload that may be on their way at once, for each kind of them.
    fn requests_at_once_max(&self) -> usize {
        usize::MAX
    }

    /// Finds out whether objects whose keys begin with `prefix` can be put here: the place exists and the credentials may
    /// write. Call it before a transfer is accepted. Leaves nothing behind. One try, see [`check_destination`].
    ///
    /// # Errors
    /// Whatever [`StoreError`] describes the obstacle.
    async fn check(&self, prefix: &str) -> Result<(), StoreError>;

    /// Looks for an object.
    ///
    /// # Errors
    /// [`StoreError`]; a missing object is `Ok(None)`, a missing bucket is an error.
    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError>;

    /// Reads bytes of an object. `range` must not be empty. With `expected`, what an earlier look found, it must be the same object still.
    ///
    /// # Errors
    /// [`StoreError::ObjectGone`], [`StoreError::ObjectChanged`], also when the object ends before the range does; [`StoreError`].
    async fn read(&self, key: &ObjectKey, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError>;

    /// Lists objects whose keys begin with `prefix`, strictly after the key `after`, at most `limit` and never more than
    /// [`crate::LIST_ENTRIES_MAX`]; [`Listing::next`] leads to the next page. Keys come in the order of their bytes, but SeaweedFS
    /// sorts each folder by itself (`a/b` before `a-b`), so rely on no order across folders. What [`ObjectKey::new`] refuses is
    /// left out, as are links and unfinished files.
    ///
    /// # Errors
    /// [`StoreError`]; a prefix below which nothing is, is an empty listing.
    async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError>;

    /// Removes an object. False: there was none. Of a local store, directories stay.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError>;

    /// Stores an object of at most one part in one go.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::DestinationExists`] when it is there and `meta.overwrite` is not set.
    async fn put(&self, key: &ObjectKey, meta: ObjectMeta, body: Body) -> Result<StoredObject, StoreError>;

    /// How many small objects [`Self::put_many`] stores better than [`Self::put`] one by one; at least 1.
    fn batch_objects_max(&self) -> usize {
        1
    }

    /// Stores objects like [`Self::put`], and may leave it to [`Self::sync`] that their names survive a loss of power. Results come in the order
    /// of the objects.
    ///
    /// # Errors
    /// [`StoreError`] when nothing is known of any of them.
    async fn put_many(&self, objects: Vec<(ObjectKey, ObjectMeta, Body)>) -> Result<Vec<Result<StoredObject, StoreError>>, StoreError> {
        let mut results = Vec::with_capacity(objects.len());
        for (key, meta, body) in objects {
            results.push(self.put(&key, meta, body).await);
        }
        Ok(results)
    }

    /// Begins an object of several parts.
    ///
    /// # Errors
    /// As [`Self::put`].
    async fn begin(&self, key: &ObjectKey, meta: ObjectMeta) -> Result<Arc<dyn Upload>, StoreError>;

    /// Finds again what [`Self::begin`] began, also in an earlier process, by its [`Upload::handle`]. What it returns stays when it is
    /// dropped, as after [`Upload::keep`].
    ///
    /// # Errors
    /// [`StoreError::UploadGone`] when it is not there any more; [`StoreError`].
    async fn reopen(&self, key: &ObjectKey, meta: ObjectMeta, handle: &str) -> Result<Arc<dyn Upload>, StoreError>;

    /// The object, if it is there and this very file: stored by us, by [`ObjectMeta::token`], or of the same size, time and contents.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn find_own(&self, key: &ObjectKey, meta: ObjectMeta, crc: Crc64) -> Result<Option<StoredObject>, StoreError>;

    /// Makes everything that was acknowledged so far survive a loss of power, where acknowledging did not. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// An object of which parts are being stored, in any order and concurrently. Nothing is to be seen under the object's name
/// before [`Upload::complete`].
#[async_trait]
pub trait Upload: fmt::Debug + Send + Sync {
    /// Stores one part. Storing the same part again is allowed and changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn put_part(&self, part: Part) -> Result<PartReceipt, StoreError>;

    /// Whether two requests for the same part may be on their way at once, whichever answer counts. Not where one would disturb the other, or
    /// where nothing is gained.
    fn takes_parts_twice(&self) -> bool {
        false
    }

    /// Makes the object out of its parts, which must be all of them in the order of their numbers. `crc` is the checksum of the
    /// whole object. May be called again when the answer to the first call was lost.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn complete(&self, parts: &[PartReceipt], crc: Crc64) -> Result<StoredObject, StoreError>;

    /// Gives the parts up and frees their space. An upload that the store does not know any more counts as aborted.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn abort(&self) -> Result<(), StoreError>;

    /// What finds it again, see [`Store::reopen`].
    fn handle(&self) -> String;

    /// From now on it stays at the store when this is dropped.
    fn keep(&self);

    /// Which of these parts the store still holds as they were acknowledged.
    ///
    /// # Errors
    /// [`StoreError::UploadGone`] when it does not know the upload any more; [`StoreError`].
    async fn recall(&self, receipts: Vec<PartReceipt>) -> Result<Vec<PartReceipt>, StoreError>;
}

/// [`Store::check`] with the retries and deadlines of `policy`.
///
/// # Errors
/// As [`Store::check`], and [`StoreError::Timeout`].
pub async fn check_destination(store: &dyn Store, prefix: &str, policy: &RetryPolicy) -> Result<(), StoreError> {
    policy.run("checking the destination", 0, StoreError::is_worth_resending, |_| {}, || store.check(prefix)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_pass_beside_keys_that_must_not() {
        for good in ["a", "a/b", "..a", "a./b..", "ü/ß", " "] {
            assert_eq!(ObjectKey::new(good.as_bytes()).unwrap().as_bytes(), good.as_bytes());
        }
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "./a", "a\0b"] {
            assert!(matches!(ObjectKey::new(bad.as_bytes()), Err(StoreError::InvalidName { .. })), "{bad:?} was taken");
        }
        assert!(ObjectKey::new(&[b'a'; KEY_BYTES_MAX]).is_ok());
        assert!(ObjectKey::new(&[b'a'; KEY_BYTES_MAX + 1]).is_err());
    }
}
