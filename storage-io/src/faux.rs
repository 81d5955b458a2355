//! A store of nothing, to try networks without disks: what is put there is counted and forgotten, and names that end in `?SIZE` are objects of
//! that size, as Aspera's `faux://` has them.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;

use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::list::{Depth, Listing};
use crate::store::{
    Attributes, Body, Limits, ObjectInfo, ObjectKey, ObjectMeta, ObjectRange, Part, PartReceipt, Store, StoredObject, Upload,
};

const LIMITS: Limits = Limits {
    part_bytes_min: 1,
    part_bytes_max: 1 << 30,
    part_bytes_default: 8 << 20,
    parts_max: 1 << 17,
    object_bytes_max: OBJECT_BYTES_MAX,
};
/// Largest object, either way: an hour at 2 Gbit/s, so that nobody keeps a server busy for longer by one name.
const OBJECT_BYTES_MAX: u64 = 1 << 40;
/// Objects repeat after so many bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// A store that keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct FauxStore;

/// An object whose parts are forgotten.
#[derive(Debug)]
struct Forgotten;

fn stored(crc: Crc64) -> StoredObject {
    StoredObject { etag: None, crc, verified_by_store: false, version_id: None }
}

/// Bytes that do not compress, by a generator of Marsaglia's (Xorshift RNGs, 2003).
fn pattern() -> Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    let make = || {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(PATTERN_BYTES);
        while bytes.len() < PATTERN_BYTES {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        Bytes::from(bytes)
    };
    PATTERN.get_or_init(make).clone()
}

/// The size that a name ends in: `film?20G` has 20 GiB. The units are K, M, G and T, powers of 1024, as Aspera has them.
fn size_of(key: &ObjectKey) -> Option<u64> {
    let name = std::str::from_utf8(key.as_bytes()).ok()?;
    let (_, size) = name.rsplit_once('?')?;
    let unit = ["K", "M", "G", "T"].into_iter().zip([10, 20, 30, 40]).find_map(|(unit, shift)| Some((size.strip_suffix(unit)?, shift)));
    let (digits, shift) = unit.unwrap_or((size, 0));
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|&bytes| bytes <= OBJECT_BYTES_MAX)
}

#[async_trait]
impl Store for FauxStore {
    fn place(&self) -> String {
        "nowhere (a store of kind faux keeps nothing)".to_owned()
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn check(&self, _prefix: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        let info = |size| ObjectInfo {
            size,
            etag: Some(format!("faux-{size}")),
            crc: None,
            modified_ns: Some(0),
            mtime_ns: Some(0),
            mode: None,
            attributes: Attributes::default(),
        };
        Ok(size_of(key).map(info))
    }

    async fn read(&self, key: &ObjectKey, range: Range<u64>, _expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        let gone = || StoreError::ObjectGone { object: key.to_string() };
        let info = self.head(key).await?.ok_or_else(gone)?;
        if range.end > info.size {
            return Err(StoreError::ObjectChanged { object: key.to_string(), what: "its size" });
        }
        let pattern = pattern();
        let (mut bytes, mut at) = (Vec::new(), range.start);
        while at < range.end {
            let from = (at % PATTERN_BYTES as u64) as usize;
            let length = (range.end - at).min((PATTERN_BYTES - from) as u64);
            bytes.push(pattern.slice(from..from + length as usize));
            at += length;
        }
        Ok(ObjectRange { info, bytes })
    }

    async fn list(&self, _prefix: &str, _after: Option<&[u8]>, _limit: usize, _depth: Depth) -> Result<Listing, StoreError> {
        Ok(Listing::default())
    }

    async fn delete(&self, _key: &ObjectKey) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn put(&self, _key: &ObjectKey, _meta: ObjectMeta, body: Body) -> Result<StoredObject, StoreError> {
        Ok(stored(body.crc()))
    }

    async fn begin(&self, _key: &ObjectKey, _meta: ObjectMeta) -> Result<Arc<dyn Upload>, StoreError> {
        Ok(Arc::new(Forgotten))
    }

    async fn reopen(&self, key: &ObjectKey, _meta: ObjectMeta, _handle: &str) -> Result<Arc<dyn Upload>, StoreError> {
        Err(StoreError::UploadGone { object: key.to_string() })
    }

    async fn find_own(&self, _key: &ObjectKey, _meta: ObjectMeta, _crc: Crc64) -> Result<Option<StoredObject>, StoreError> {
        Ok(None)
    }
}

#[async_trait]
impl Upload for Forgotten {
    async fn put_part(&self, part: Part) -> Result<PartReceipt, StoreError> {
        Ok(PartReceipt { number: part.number, len: part.body.len(), crc: part.body.crc(), etag: None })
    }

    async fn complete(&self, _parts: &[PartReceipt], crc: Crc64) -> Result<StoredObject, StoreError> {
        Ok(stored(crc))
    }

    async fn abort(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn handle(&self) -> String {
        String::new()
    }

    fn keep(&self) {}

    async fn recall(&self, _receipts: Vec<PartReceipt>) -> Result<Vec<PartReceipt>, StoreError> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(name.as_bytes()).unwrap()
    }

    #[test]
    fn names_tell_their_sizes_or_that_there_is_nothing() {
        for (name, size) in [("a?0", 0), ("a/b?7", 7), ("a?2K", 2048), ("a?b?3M", 3 << 20), ("?1G", 1 << 30), ("a?1T", 1 << 40)] {
            assert_eq!(size_of(&key(name)), Some(size), "{name}");
        }
        for name in ["a", "a?", "a?K", "a?-1", "a?1k", "a?1.5G", "a?2T", "a?99999999999T", "a?1KK"] {
            assert_eq!(size_of(&key(name)), None, "{name}");
        }
    }

    #[tokio::test]
    async fn ranges_are_pieces_of_the_same_bytes() {
        let key = key("a?3M");
        let read = |range: Range<u64>| async { FauxStore.read(&key, range, None).await.map(|read| read.bytes.concat()) };
        let whole = read(0..3 << 20).await.unwrap();
        assert_eq!(whole.len(), 3 << 20);
        assert_eq!(read((1 << 20) - 3..(2 << 20) + 5).await.unwrap(), whole[(1 << 20) - 3..(2 << 20) + 5]);
        assert!(matches!(read(0..(3 << 20) + 1).await, Err(StoreError::ObjectChanged { .. })));
        assert!(matches!(FauxStore.read(&self::key("a"), 0..1, None).await, Err(StoreError::ObjectGone { .. })));
    }
}
