//! Reading files of a directory.

use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

use super::walk::failed;
use super::{Found, LocalStore, attributes, mtime_ns};
use crate::checksum::{Crc64, RunningCrc64};
use crate::error::StoreError;
use crate::store::{Attributes, ObjectInfo, ObjectKey, ObjectRange};

/// Bytes read at once to compare contents.
const READ_BYTES: usize = 1 << 20;

impl LocalStore {
    pub(super) fn read_range(&self, key: &ObjectKey, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        let gone = || StoreError::ObjectGone { object: key.to_string() };
        let changed = |what| StoreError::ObjectChanged { object: key.to_string(), what };
        let fd = self.open_object(key)?.ok_or_else(gone)?;
        let read = |errno| failed("read", key, errno);
        let stat = rustix::fs::fstat(&fd).map_err(read)?;
        let before = ObjectInfo { attributes: attributes::read(&fd, &stat), ..info(&stat) };
        if expected.is_some_and(|expected| !expected.is_same(&before)) {
            return Err(changed("its size or time"));
        }
        let length = usize::try_from(range.end - range.start).map_err(|_| read(Errno::FBIG))?;
        let mut bytes = vec![0; length];
        let mut at = 0;
        while at < length {
            match rustix::io::pread(&fd, &mut bytes[at..], range.start + at as u64) {
                Ok(0) => return Err(changed("it ends early")),
                Ok(count) => at += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(read(errno)),
            }
        }
        if !info(&rustix::fs::fstat(&fd).map_err(read)?).is_same(&before) {
            return Err(changed("its size or time"));
        }
        Ok(ObjectRange { info: before, bytes: vec![bytes.into()] })
    }

    /// What is known of the file of that name; of one that cannot be opened, no attributes.
    pub(super) fn look(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        let Some(found) = self.find_object(key)? else { return Ok(None) };
        let attributes = match found.open(key) {
            Ok(Some(fd)) => attributes::read(&fd, &found.stat),
            Ok(None) | Err(_) => Attributes::default(),
        };
        Ok(Some(ObjectInfo { attributes, ..info(&found.stat) }))
    }

    /// Opens the file of that name for reading, if it is one that a listing shows.
    fn open_object(&self, key: &ObjectKey) -> Result<Option<OwnedFd>, StoreError> {
        self.find_object(key)?.map_or(Ok(None), |found| found.open(key))
    }
}

impl Found<'_> {
    /// Opens it for reading; `None` if it has gone meanwhile.
    pub(super) fn open(&self, key: &ObjectKey) -> Result<Option<OwnedFd>, StoreError> {
        let Self { dir, name, .. } = self;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        // A time of last access that was restored stays; only owners may ask for that.
        let opened = match rustix::fs::openat(dir, *name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => rustix::fs::openat(dir, *name, flags, Mode::empty()),
            opened => opened,
        };
        match opened {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("open", key, errno)),
        }
    }
}

pub(super) fn info(stat: &Stat) -> ObjectInfo {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let (mtime_ns, mode) = (mtime_ns(stat), Some(stat.st_mode & 0o777));
    ObjectInfo { size, etag: None, crc: None, modified_ns: mtime_ns, mtime_ns, mode, attributes: Attributes::default() }
}

/// CRC-64/NVME of a file's contents.
pub(super) fn contents_crc(fd: &OwnedFd) -> Result<Crc64, Errno> {
    let (mut crc, mut offset, mut buffer) = (RunningCrc64::default(), 0, vec![0; READ_BYTES]);
    loop {
        match rustix::io::pread(fd, &mut buffer, offset) {
            Ok(0) => return Ok(crc.finish()),
            Ok(read) => {
                crc.update(&buffer[..read]);
                offset += read as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
