//! What a NameNode tells of a file, and what is kept of it beside that.
//!
//! Time in milliseconds and permissions are the file's own. What a file of HDFS cannot have is in one extended attribute, which counts only as
//! long as size and time are those that it was written for.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::existing::Found;
use crate::list::ListedObject;
use crate::metadata::{CRC, TOKEN, described, metadata};
use crate::store::{ObjectInfo, ObjectKey, ObjectMeta};

/// Name of the extended attribute.
pub(super) const XATTR: &str = "user.tradewind";
/// Longest name and value of one, bytes (`dfs.namenode.fs-limits.max-xattr-size`), where nobody has set it otherwise.
const XATTR_BYTES_MAX: usize = 16_384;
/// Permissions of a file of which none are known.
pub(super) const MODE_DEFAULT: u32 = 0o644;

/// The answer to GETFILESTATUS.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StatusAnswer {
    pub(super) file_status: FileStatus,
}

/// The answer to LISTSTATUS.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StatusesAnswer {
    pub(super) file_statuses: Statuses,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Statuses {
    pub(super) file_status: Vec<FileStatus>,
}

/// A file or directory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct FileStatus {
    /// Name in its directory; empty of the one that was asked about.
    pub(super) path_suffix: String,
    #[serde(rename = "type")]
    kind: String,
    /// Bytes.
    pub(super) length: u64,
    /// Milliseconds since 1970-01-01 UTC.
    modification_time: i64,
    /// Octal.
    permission: String,
    /// Never that of another file; 0 where it is not told.
    file_id: u64,
    /// It is encrypted.
    enc_bit: bool,
    /// It is in stripes (Hadoop 3).
    ec_bit: bool,
}

impl FileStatus {
    pub(super) fn is_file(&self) -> bool {
        self.kind == "FILE"
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == "DIRECTORY"
    }

    /// Whether its checksum is that of its bytes: encrypted or striped, other bytes are stored.
    pub(super) fn stores_bytes_as_they_are(&self) -> bool {
        !self.enc_bit && !self.ec_bit
    }

    /// The same only for the same contents of the same file.
    fn etag(&self) -> Option<String> {
        (self.file_id != 0).then(|| format!("{:x}-{:x}-{:x}", self.file_id, self.modification_time, self.length))
    }

    /// The entity tag that it will have with this time.
    pub(super) fn etag_at(&self, meta: &ObjectMeta) -> Option<String> {
        Self { modification_time: time_ms(meta.mtime_ns), ..self.clone() }.etag()
    }

    fn modified_ns(&self) -> Option<i64> {
        self.modification_time.checked_mul(1_000_000)
    }

    pub(super) fn listed(&self, key: ObjectKey) -> ListedObject {
        ListedObject { key, size: self.length, modified_ns: self.modified_ns(), etag: self.etag() }
    }

    /// With what is kept beside it, if that is of these contents.
    pub(super) fn found(&self, kept: Option<Kept>) -> Found {
        let kept = kept.filter(|kept| kept.size == self.length && kept.time_ms == self.modification_time);
        let pairs = kept.map(|kept| kept.metadata).unwrap_or_default();
        let described = described(Some(&pairs));
        let info = ObjectInfo {
            size: self.length,
            etag: self.etag(),
            crc: pairs.get(CRC).and_then(|text| Crc64::from_base64(text)),
            modified_ns: self.modified_ns(),
            mtime_ns: described.mtime_ns.or(self.modified_ns()),
            mode: u32::from_str_radix(&self.permission, 8).ok().map(|mode| mode & 0o777),
            attributes: described.attributes.iter().filter(|(name, _)| name != CRC).cloned().collect(),
        };
        Found { info, token: pairs.get(TOKEN).cloned(), version_id: None }
    }
}

/// What is kept of a file in its extended attribute.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Kept {
    /// Bytes.
    size: u64,
    /// Milliseconds since 1970-01-01 UTC.
    time_ms: i64,
    metadata: HashMap<String, String>,
}

impl Kept {
    /// As it is sent.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`] when it is longer than a cluster takes.
    pub(super) fn text(key: &str, meta: &ObjectMeta, crc: Crc64) -> Result<String, StoreError> {
        let mut pairs = metadata(meta);
        pairs.insert(CRC.to_owned(), crc.to_base64());
        let kept = Self { size: meta.size, time_ms: time_ms(meta.mtime_ns), metadata: pairs };
        let text = serde_json::to_string(&kept).unwrap_or_default();
        if text.is_empty() || XATTR.len() + text.len() > XATTR_BYTES_MAX {
            let reason = "the attributes that are kept of it are more than HDFS takes (max-xattr-size, 16384 bytes)";
            return Err(StoreError::InvalidName { name: key.to_owned(), reason });
        }
        Ok(format!("0s{}", BASE64_STANDARD.encode(text)))
    }
}

/// The answer to GETXATTRS.
#[derive(Default, Deserialize)]
pub(super) struct XattrsAnswer {
    #[serde(rename = "XAttrs", default)]
    xattrs: Vec<Xattr>,
}

#[derive(Deserialize)]
struct Xattr {
    name: String,
    #[serde(default)]
    value: Option<String>,
}

impl XattrsAnswer {
    /// What this program has written; nothing where it is not readable.
    pub(super) fn kept(self) -> Option<Kept> {
        let value = self.xattrs.into_iter().find(|xattr| xattr.name == XATTR)?.value?;
        serde_json::from_slice(&BASE64_STANDARD.decode(value.strip_prefix("0s")?).ok()?).ok()
    }
}

/// Another path of the file of an entity tag, which holds no character of its name (HDFS-4434).
pub(super) fn by_number(etag: &str) -> Option<String> {
    let number = u64::from_str_radix(etag.split('-').next()?, 16).ok()?;
    Some(format!("/.reserved/.inodes/{number}"))
}

/// A file's time as HDFS has it: whole milliseconds, none before 1970.
pub(super) fn time_ms(ns: i64) -> i64 {
    ns.div_euclid(1_000_000).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(mtime_ns: i64) -> ObjectMeta {
        let attributes = [("uid".to_owned(), "7".to_owned())].into();
        ObjectMeta { size: 3, mtime_ns, mode: 0o640, overwrite: false, token: 9, attributes }
    }

    fn kept(meta: &ObjectMeta) -> Option<Kept> {
        let value = Kept::text("k", meta, Crc64(5)).unwrap();
        let text = serde_json::json!({"XAttrs": [{"name": "user.other", "value": "0s"}, {"name": XATTR, "value": value}]}).to_string();
        serde_json::from_str::<XattrsAnswer>(&text).unwrap().kept()
    }

    fn status(length: u64, time: i64) -> FileStatus {
        let text = format!(
            "{{\"FileStatus\":{{\"fileId\":16,\"length\":{length},\"modificationTime\":{time},\"permission\":\"640\",\"type\":\"FILE\",\"pathSuffix\":\"\"}}}}"
        );
        serde_json::from_str::<StatusAnswer>(&text).unwrap().file_status
    }

    #[test]
    fn what_is_kept_counts_for_the_contents_it_was_kept_for() {
        let meta = meta(1_600_000_000_123_456_789);
        let found = status(3, 1_600_000_000_123).found(kept(&meta));
        assert_eq!((found.info.mtime_ns, found.info.mode, found.info.crc), (Some(meta.mtime_ns), Some(0o640), Some(Crc64(5))));
        assert_eq!(found.info.attributes, meta.attributes);
        assert!(found.token.is_some());
        for other in [status(4, 1_600_000_000_123), status(3, 1_600_000_000_124)] {
            let found = other.found(kept(&meta));
            assert_eq!((found.info.mtime_ns, found.info.crc, found.token), (other.modified_ns(), None, None));
            assert_ne!(other.etag(), status(3, 1_600_000_000_123).etag());
            assert_eq!(by_number(&other.etag().unwrap()).as_deref(), Some("/.reserved/.inodes/16"));
        }
    }

    #[test]
    fn times_that_hdfs_cannot_have_are_kept_beside() {
        for (ns, ms) in [(-1_000_000_000, 0), (-5_000_000_000, 0), (0, 0), (999_999, 0), (1_000_000, 1)] {
            assert_eq!(time_ms(ns), ms, "{ns}");
            assert_eq!(status(3, ms).found(kept(&meta(ns))).info.mtime_ns, Some(ns));
        }
        assert_eq!((time_ms(i64::MIN), time_ms(-1)), (0, 0));
        assert!(time_ms(i64::MAX) > 0 && status(3, i64::MAX).modified_ns().is_none());
    }

    #[test]
    fn too_many_attributes_are_refused_before_anything_is_sent() {
        let of = |len: usize| ObjectMeta { attributes: [("a".to_owned(), "v".repeat(len))].into(), ..meta(1) };
        let base = BASE64_STANDARD.decode(&Kept::text("k", &of(0), Crc64(5)).unwrap()[2..]).unwrap().len();
        assert!(Kept::text("k", &of(XATTR_BYTES_MAX - XATTR.len() - base), Crc64(5)).is_ok());
        assert!(Kept::text("k", &of(XATTR_BYTES_MAX - XATTR.len() - base + 1), Crc64(5)).is_err());
    }

    #[test]
    fn what_is_no_answer_of_ours_is_no_metadata() {
        for value in ["", "0s", "0s!", "\"text\"", "0sbm90IGpzb24="] {
            let xattrs = vec![Xattr { name: XATTR.to_owned(), value: Some(value.to_owned()) }];
            assert!(XattrsAnswer { xattrs }.kept().is_none(), "{value}");
        }
    }
}
