//! What a file of a directory can have of an object's attributes: times, extended attributes, ACL, owner. What has no place of its own in a
//! file is kept as `user.tradewind.NAME`, so that a reader sees the same attributes as with an object store.
//!
//! Attributes come from whoever sends, so nothing here widens what the sender may do: no bits beyond the permissions, no attributes that a
//! kernel or security module reads ([`xattr::may_be_restored`]), no owner unless the store was opened for it. What a file system does not take
//! is left out: the bytes are what a transfer is about.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;
use tradewind_integrity::{time, xattr};

use crate::holes::{SPARSE_ATTRIBUTE, is_sparse, sparse_attribute};
use crate::store::{Attributes, ObjectMeta};

/// Before the names of attributes that are no attribute of a file.
const KEPT: &str = "user.tradewind.";
/// Bytes of all attributes that are reported: as many as a sender can give (S3 takes 2 KiB of metadata).
const ATTRIBUTES_BYTES_MAX: usize = 2048;
/// XATTR_LIST_MAX and XATTR_SIZE_MAX in linux/limits.h.
const XATTR_BYTES_MAX: usize = 65_536;

/// Gives an open file its mode, its times and what else is known of it. Call it when all bytes are written.
pub(super) fn restore(fd: BorrowedFd<'_>, meta: &ObjectMeta, owner: bool) -> Result<(), Errno> {
    let of = |name: &str| meta.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let extended = of(xattr::ATTRIBUTE).and_then(xattr::decode).unwrap_or_default();
    // While it may still be written to: without privileges, a file of mode 0444 takes none.
    for (name, value) in extended.iter().filter(|(name, _)| *name != xattr::POSIX_ACL && xattr::may_be_restored(name)) {
        set(fd, name, value);
    }
    for (name, value) in meta.attributes.iter().filter(|(name, _)| !matches!(name.as_str(), "atime" | xattr::ATTRIBUTE | SPARSE_ATTRIBUTE))
    {
        set(fd, &format!("{KEPT}{name}"), value.as_bytes());
    }
    if owner {
        let number = |name| of(name).and_then(|text| text.parse::<u32>().ok()).filter(|&number| number != u32::MAX);
        let (uid, gid) = (number("uid").map(Uid::from_raw), number("gid").map(Gid::from_raw));
        // Before the mode, for a change of owner takes bits away. Whoever may not give files away keeps them.
        told("its owner", rustix::fs::fchown(fd, uid, gid));
    }
    let mode = if meta.mode == 0 { 0o644 } else { meta.mode & 0o777 };
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    if let Some(acl) = extended.get(xattr::POSIX_ACL) {
        set(fd, xattr::POSIX_ACL, acl);
    }
    let timespec = |ns: i64| Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) };
    let last_access = timespec(of("atime").and_then(time::parse).unwrap_or(meta.mtime_ns));
    rustix::fs::futimens(fd, &Timestamps { last_access, last_modification: timespec(meta.mtime_ns) })
}

fn set(fd: BorrowedFd<'_>, name: &str, value: &[u8]) {
    told(name, fsetxattr(fd, name, value, XattrFlags::empty()));
}

fn told(what: &str, result: Result<(), Errno>) {
    if let Err(errno) = result {
        tracing::debug!(%errno, "a file did not take {what:?}");
    }
}

/// What is kept of a file; whatever cannot be read is not.
pub(super) fn read(fd: impl AsFd, stat: &Stat) -> Attributes {
    let mut kept = extended(fd.as_fd());
    if is_sparse(stat) {
        kept.insert(SPARSE_ATTRIBUTE.to_owned(), sparse_attribute().1);
    }
    kept.into_iter().collect()
}

/// What its extended attributes tell.
fn extended(fd: BorrowedFd<'_>) -> BTreeMap<String, String> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let names = match flistxattr(fd, &mut buffer) {
        Ok((names, _)) => names.to_vec(),
        Err(Errno::RANGE) => {
            let mut buffer = vec![MaybeUninit::uninit(); XATTR_BYTES_MAX];
            flistxattr(fd, &mut buffer[..]).map(|(names, _)| names.to_vec()).unwrap_or_default()
        }
        Err(_) => return BTreeMap::new(),
    };
    let names = names.split(|&byte| byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    let (mut kept, mut extended, mut bytes) = (BTreeMap::new(), BTreeMap::new(), 0);
    for name in names.filter(|name| !name.is_empty()) {
        // What is larger is none of ours.
        let mut buffer = [MaybeUninit::uninit(); ATTRIBUTES_BYTES_MAX];
        let Ok((value, _)) = fgetxattr(fd, name, &mut buffer) else { continue };
        if let Some(name) = name.strip_prefix(KEPT) {
            let is_header = value.iter().all(|byte| (b' '..=b'~').contains(byte));
            if let Some(value) = std::str::from_utf8(value).ok().filter(|_| is_header) {
                bytes += name.len() + value.len();
                kept.insert(name.to_owned(), value.to_owned());
            }
        } else if xattr::may_be_restored(name) && xattr::can_be_written(name) {
            extended.insert(name.to_owned(), value.to_vec());
        }
    }
    if !extended.is_empty() {
        let text = xattr::encode(&extended);
        if bytes + text.len() <= ATTRIBUTES_BYTES_MAX {
            kept.insert(xattr::ATTRIBUTE.to_owned(), text);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;
    use crate::local::LocalStore;
    use crate::store::{Body, ObjectKey, Part, Store as _};
    use crate::{Crc64, StoreError};

    /// Beside the program: /tmp may be a file system without extended attributes.
    fn folder() -> Option<tempfile::TempDir> {
        let folder = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let file = std::fs::File::create(folder.path().join("probe")).unwrap();
        match fsetxattr(&file, "user.probe", b"", XattrFlags::empty()) {
            Ok(()) => Some(folder),
            Err(errno) => {
                println!("SKIP: no extended attributes here: {errno}");
                None
            }
        }
    }

    fn meta(size: u64, attributes: &[(&str, &str)]) -> ObjectMeta {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ObjectMeta { size, mtime_ns: 1_700_000_000_000_000_005, mode: 0o104_640, overwrite: true, token: 0, attributes }
    }

    fn body(bytes: &'static [u8]) -> Body {
        Body::new(vec![bytes::Bytes::from_static(bytes)], Crc64::of(bytes))
    }

    fn pairs(attributes: &Attributes) -> BTreeMap<&str, &str> {
        attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    #[tokio::test]
    async fn each_way_of_storing_keeps_the_same_and_reports_it_back() {
        let Some(folder) = folder() else { return };
        let store = LocalStore::open(folder.path()).unwrap();
        // user::rw-, user:1:r--, group::r--, mask::r--, other::---
        let acl: Vec<u8> = [2, 0, 0, 0]
            .into_iter()
            .chain(
                [(1u16, 6u16, u32::MAX), (2, 4, 1), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
                    .into_iter()
                    .flat_map(|(tag, permissions, id)| [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()),
            )
            .collect();
        let extended = xattr::encode(&BTreeMap::from([("user.colour".to_owned(), b"blue".to_vec()), (xattr::POSIX_ACL.to_owned(), acl)]));
        let meta = meta(3, &[("atime", "1600000000.000000007"), ("sha256", "ab"), ("uid", "4711"), ("xattr", &extended)]);
        let keys = ["put", "many", "parts"].map(|name| ObjectKey::new(name.as_bytes()).unwrap());
        store.put(&keys[0], meta.clone(), body(b"abc")).await.unwrap();
        for result in store.put_many(vec![(keys[1].clone(), meta.clone(), body(b"abc"))]).await.unwrap() {
            result.unwrap();
        }
        let upload = store.begin(&keys[2], meta.clone()).await.unwrap();
        let receipt = upload.put_part(Part { number: 1, offset: 0, body: body(b"abc") }).await.unwrap();
        upload.complete(&[receipt], Crc64::of(b"abc")).await.unwrap();
        for key in keys {
            let stat = std::fs::metadata(folder.path().join(key.to_string())).unwrap();
            assert_eq!((stat.atime(), stat.atime_nsec(), stat.mtime_nsec()), (1_600_000_000, 7, 5), "{key}");
            assert_eq!(stat.permissions().mode() & 0o7777, 0o640, "{key}");
            assert_ne!(stat.uid(), 4711, "{key}: the owner was not asked for");
            let info = store.head(&key).await.unwrap().unwrap();
            let told = pairs(&info.attributes);
            assert_eq!((told.get("sha256"), told.get("uid")), (Some(&"ab"), Some(&"4711")), "{key}");
            assert_eq!(xattr::decode(told["xattr"]), xattr::decode(&extended), "{key}");
            assert_eq!(store.read(&key, 0..3, Some(&info)).await.unwrap().info.attributes, info.attributes);
        }
    }

    #[tokio::test]
    async fn hostile_attributes_do_no_harm() {
        let Some(folder) = folder() else { return };
        let store = LocalStore::open(folder.path()).unwrap();
        let key = ObjectKey::new(b"f").unwrap();
        let names = [
            "security.capability",
            "trusted.overlay.opaque",
            "user.overlay.redirect",
            "user.tradewind.sha256",
            "system.posix_acl_access",
            "user.",
            "",
        ];
        let extended = xattr::encode(&names.iter().map(|name| ((*name).to_owned(), vec![1; 20])).collect());
        let junk = "%".repeat(1400);
        for attributes in [
            &[("atime", "never"), ("gid", "-1"), ("mode", "104777"), ("uid", "4294967295"), ("xattr", extended.as_str())][..],
            &[("xattr", &junk)],
            &[("xattr", "%7B%22user.a%22%3A%22%ff%22%7D")],
        ] {
            store.put(&key, meta(3, attributes), body(b"abc")).await.unwrap();
            let path = folder.path().join("f");
            let stat = std::fs::metadata(&path).unwrap();
            assert_eq!(stat.permissions().mode() & 0o7777, 0o640);
            let mut buffer = vec![MaybeUninit::uninit(); XATTR_BYTES_MAX];
            let (listed, _) = flistxattr(std::fs::File::open(&path).unwrap(), &mut buffer[..]).unwrap();
            let listed = String::from_utf8(listed.to_vec()).unwrap();
            assert!(
                listed.split('\0').all(|name| name.is_empty() || matches!(name.strip_prefix(KEPT), Some("gid" | "mode" | "uid"))),
                "{listed:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_owner_is_restored_only_where_it_was_asked_for_and_may_be() {
        let Some(folder) = folder() else { return };
        let store = LocalStore::open(folder.path()).unwrap().restoring_owners();
        let key = ObjectKey::new(b"f").unwrap();
        store.put(&key, meta(3, &[("gid", "4712"), ("uid", "4711")]), body(b"abc")).await.unwrap();
        let stat = std::fs::metadata(folder.path().join("f")).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!((stat.uid(), stat.gid()) == (4711, 4712), is_root, "{}:{}", stat.uid(), stat.gid());
        let gone: Result<_, StoreError> = store.read(&ObjectKey::new(b"g").unwrap(), 0..1, None).await;
        assert!(matches!(gone, Err(StoreError::ObjectGone { .. })));
    }
}
