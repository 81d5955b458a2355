//! What is kept of a file beside its bytes: checksums, times, owner, extended attributes and ACLs, as attributes of its record.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;
use tradewind_integrity::{Checksum, Digests, time, xattr};
use tradewind_proto::block::{ATTRIBUTES_BYTES_MAX, Attributes, attribute_bytes};

/// Bytes read at once for checksums.
const READ_BYTES: usize = 1 << 20;
/// Most bytes of names of extended attributes, and of the value of one: XATTR_LIST_MAX and XATTR_SIZE_MAX in linux/limits.h.
const XATTR_BYTES_MAX: usize = 65_536;

/// What is to be kept. Default: nothing but what every record carries (size, modification time, permissions).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Checksums of the whole file: it is read once more for them, before it is sent.
    pub checksums: Vec<Checksum>,
    /// Times of the last access, the last change and the creation.
    pub times: bool,
    /// Numbers of user and group.
    pub owner: bool,
    /// Extended attributes that begin with `user.`.
    pub xattrs: bool,
    /// The POSIX access ACL.
    pub acls: bool,
}

/// Something of a file that cannot be kept; the file itself goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNote {
    /// The source.
    pub path: PathBuf,
    /// What is not kept, and why.
    pub what: String,
}

/// Why the attributes of a file are not known.
pub(crate) enum KeepError {
    /// The transfer was stopped.
    Stopped,
    /// It ended before its size.
    Short,
    /// It cannot be read.
    Read(io::Error),
}

/// Fills a buffer with what is sent of a file, from an offset on.
pub(crate) type Contents<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

/// Notes on one file, and what is kept of it.
pub(crate) type Kept = (Attributes, Vec<String>);

impl Keep {
    /// Reads what is to be kept of an open file, beside what is `sent` of it anyway. If checksums are wanted, reads all of the `size` bytes that are
    /// sent, by `contents`, which may be others than the file's; ends early when `stop` is set.
    pub(crate) fn read(
        &self,
        file: &File,
        metadata: &Metadata,
        sent: &[(String, String)],
        size: u64,
        contents: &mut Contents<'_>,
        stop: &AtomicBool,
    ) -> Result<Kept, KeepError> {
        let (mut kept, mut notes) = (sent.iter().cloned().collect::<BTreeMap<_, _>>(), Vec::new());
        if self.times {
            let ns = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
            kept.insert("atime".to_owned(), time::decimal(ns(metadata.atime(), metadata.atime_nsec())));
            kept.insert("ctime".to_owned(), time::decimal(ns(metadata.ctime(), metadata.ctime_nsec())));
            // Not every file system knows it.
            if let Some(birth) = birth_ns(file) {
                kept.insert("btime".to_owned(), time::rfc3339(birth));
            }
        }
        if self.owner {
            kept.insert("uid".to_owned(), metadata.uid().to_string());
            kept.insert("gid".to_owned(), metadata.gid().to_string());
        }
        for (checksum, value) in self.digests(size, contents, stop)? {
            kept.insert(checksum.attribute().to_owned(), checksum.attribute_value(&value));
        }
        let extended = self.extended(file, &mut notes);
        if !extended.is_empty() {
            kept.insert(xattr::ATTRIBUTE.to_owned(), xattr::encode(&extended));
        }
        let bytes = |kept: &BTreeMap<String, String>| attribute_bytes(&kept.clone().into_iter().collect::<Vec<_>>());
        if bytes(&kept) > ATTRIBUTES_BYTES_MAX && kept.remove(xattr::ATTRIBUTE).is_some() {
            let names: Vec<&str> = extended.keys().map(String::as_str).collect();
            notes.push(format!("extended attributes are not kept, for metadata takes {ATTRIBUTES_BYTES_MAX} bytes: {}", names.join(", ")));
        }
        Ok((kept.into_iter().collect(), notes))
    }

    fn digests(&self, size: u64, contents: &mut Contents<'_>, stop: &AtomicBool) -> Result<Vec<(Checksum, Vec<u8>)>, KeepError> {
        let mut digests = Digests::new(self.checksums.iter().copied());
        if self.checksums.is_empty() {
            return Ok(Vec::new());
        }
        let mut buffer = vec![0; READ_BYTES.min(usize::try_from(size).unwrap_or(READ_BYTES))];
        let mut offset = 0;
        while offset < size {
            if stop.load(Ordering::Relaxed) {
                return Err(KeepError::Stopped);
            }
            let wanted = buffer.len().min(usize::try_from(size - offset).unwrap_or(READ_BYTES));
            match contents(offset, &mut buffer[..wanted]) {
                Ok(()) => {
                    digests.update(&buffer[..wanted]);
                    offset += wanted as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(KeepError::Short),
                Err(error) => return Err(KeepError::Read(error)),
            }
        }
        Ok(digests.finish())
    }

    fn extended(&self, file: &File, notes: &mut Vec<String>) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut names = Vec::new();
        if self.xattrs {
            match list(file) {
                Ok(listed) => names.extend(listed.into_iter().filter(|name| name != xattr::POSIX_ACL && xattr::may_be_restored(name))),
                Err(Errno::OPNOTSUPP) => {}
                Err(errno) => notes.push(format!("its extended attributes cannot be listed and are not kept: {errno}")),
            }
        }
        if self.acls {
            names.push(xattr::POSIX_ACL.to_owned());
        }
        for name in names {
            if !xattr::can_be_written(&name) {
                notes.push(format!("the extended attribute {name:?} is not kept: s3fs knows no way to write its name"));
                continue;
            }
            match value(file, &name) {
                Ok(value) => drop(found.insert(name, value)),
                // No ACL beyond the permissions, or removed since it was listed.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => notes.push(format!("the extended attribute {name} is not kept: {errno}")),
            }
        }
        found
    }
}

fn birth_ns(file: &File) -> Option<i64> {
    let found = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    if found.stx_mask & StatxFlags::BTIME.bits() == 0 {
        return None;
    }
    found.stx_btime.tv_sec.checked_mul(1_000_000_000)?.checked_add(i64::from(found.stx_btime.tv_nsec))
}

fn list(file: &File) -> Result<Vec<String>, Errno> {
    let mut buffer = vec![MaybeUninit::uninit(); XATTR_BYTES_MAX];
    let (names, _) = rustix::fs::flistxattr(file, &mut buffer[..])?;
    // Names that are no text are none that users give.
    Ok(names.split(|&byte| byte == 0).filter_map(|name| String::from_utf8(name.to_vec()).ok()).filter(|name| !name.is_empty()).collect())
}

fn value(file: &File, name: &str) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![MaybeUninit::uninit(); XATTR_BYTES_MAX];
    let (value, _) = rustix::fs::fgetxattr(file, name, &mut buffer[..])?;
    Ok(value.to_vec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn read_all(keep: &Keep, file: &File, metadata: &Metadata, stop: bool) -> Result<Kept, KeepError> {
        let mut contents = |offset, into: &mut [u8]| file.read_exact_at(into, offset);
        keep.read(file, metadata, &[], metadata.len(), &mut contents, &AtomicBool::new(stop))
    }

    fn of<'a>(attributes: &'a Attributes, name: &str) -> Option<&'a str> {
        attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Beside the program: /tmp may be a file system without extended attributes.
    fn folder() -> tempfile::TempDir {
        tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
    }

    #[test]
    fn everything_asked_for_is_kept_and_what_does_not_fit_is_told() {
        let folder = folder();
        let path = folder.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        let file = File::open(&path).unwrap();
        if let Err(errno) = rustix::fs::fsetxattr(&file, "user.colour", b"blue", rustix::fs::XattrFlags::empty()) {
            println!("SKIP: no extended attributes here: {errno}");
            return;
        }
        let keep = Keep { checksums: Checksum::ALL.to_vec(), times: true, owner: true, xattrs: true, acls: true };
        let read = || read_all(&keep, &file, &file.metadata().unwrap(), false).ok().unwrap();
        let (attributes, notes) = read();
        assert_eq!(notes, [""; 0]);
        assert_eq!(of(&attributes, "md5chksum"), Some("kAFQmDzST7DWlj99KOF/cg=="));
        assert_eq!(of(&attributes, "sha256"), Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
        for name in ["atime", "ctime", "blake3", "sha1"] {
            assert!(of(&attributes, name).is_some(), "{name}");
        }
        assert_eq!(of(&attributes, "uid"), Some(rustix::process::getuid().as_raw().to_string().as_str()));
        let extended = xattr::decode(of(&attributes, "xattr").unwrap()).unwrap();
        assert_eq!(extended, BTreeMap::from([("user.colour".to_owned(), b"blue".to_vec())]));
        tradewind_proto::block::check_attributes(&attributes).unwrap();
        // Too much for metadata.
        rustix::fs::fsetxattr(&file, "user.large", &[7; 2000], rustix::fs::XattrFlags::empty()).unwrap();
        let (attributes, notes) = read();
        assert!(of(&attributes, "xattr").is_none() && of(&attributes, "sha256").is_some());
        assert!(matches!(&notes[..], [note] if note.contains("user.large") && note.contains("1536")), "{notes:?}");
        let (attributes, _) = read_all(&Keep::default(), &file, &file.metadata().unwrap(), false).ok().unwrap();
        assert!(attributes.is_empty());
    }

    #[test]
    fn hashing_ends_when_the_file_does_or_the_transfer_is_stopped() {
        let folder = folder();
        let path = folder.path().join("f");
        std::fs::write(&path, [1; 100]).unwrap();
        let file = File::open(&path).unwrap();
        let metadata = file.metadata().unwrap();
        std::fs::write(&path, [1; 10]).unwrap();
        let keep = Keep { checksums: vec![Checksum::Blake3], ..Keep::default() };
        assert!(matches!(read_all(&keep, &file, &metadata, false), Err(KeepError::Short)));
        assert!(matches!(read_all(&keep, &file, &metadata, true), Err(KeepError::Stopped)));
    }
}
