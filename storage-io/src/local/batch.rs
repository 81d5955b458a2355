//! Many small files at once: their data is made durable together, then all get their names.
//!
//! A file of its own needs two `fsync`, which bounds a disk to some hundred files a second. Here a file is created under a temporary
//! name, one `syncfs` covers all of a batch, and then they are renamed. What carries a final name is complete whatever happens in between; what
//! a crash leaves are temporary files, which the next transfer of the same file takes over. The renames themselves are durable with
//! [`crate::Store::sync`], before the transfer is reported as done.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::walk::{failed, is_directory, parent};
use super::{Found, FsyncPolicy, LocalStore, attributes, check_final_name, lock, rename, temporary_name, write_all};
use crate::error::StoreError;
use crate::store::{Body, ObjectKey, ObjectMeta, StoredObject};

/// An object to be put.
pub(super) type Item = (ObjectKey, ObjectMeta, Body);

/// A file that is written and has no name yet.
struct Written<'a> {
    dir: Arc<OwnedFd>,
    name: &'a [u8],
    temporary: Vec<u8>,
    /// Keeps it locked until it has its name, so that no other transfer takes it over.
    _locked: OwnedFd,
}

impl LocalStore {
    /// Puts objects; results come in the order of the items.
    pub(super) fn put_batch(&self, items: &[Item]) -> Vec<Result<StoredObject, StoreError>> {
        let mut directories = Directories::default();
        let mut results: Vec<Option<Result<StoredObject, StoreError>>> = Vec::with_capacity(items.len());
        let mut written = Vec::with_capacity(items.len());
        for (index, (key, meta, body)) in items.iter().enumerate() {
            match self.write_temporary(&mut directories, key, meta, body) {
                Ok(Some(file)) => {
                    written.push((index, file));
                    results.push(None);
                }
                // Something of that name is there: the careful way.
                Ok(None) => results.push(Some(self.put_one(key, meta, body))),
                Err(error) => results.push(Some(Err(error))),
            }
        }
        // Descriptors that were opened before the first write: each is told of a failed write once (since Linux 5.8).
        let root = rustix::fs::fstat(&*self.root).map(|stat| stat.st_dev);
        let is_now = |device: u64| match self.fsync {
            FsyncPolicy::Each => true,
            FsyncPolicy::End => root != Ok(device),
            FsyncPolicy::Never => false,
        };
        let mut now = directories.file_systems.iter().filter(|(device, _)| is_now(**device));
        let synced = now.try_for_each(|(_, dir)| rustix::fs::syncfs(&**dir));
        for (index, file) in written {
            let (key, meta, body) = &items[index];
            let named = synced.and_then(|()| rename(&file.dir, &file.temporary, file.name, meta.overwrite));
            if named.is_err() {
                // Fails only if it has gone already.
                let _ = rustix::fs::unlinkat(&*file.dir, file.temporary.as_slice(), AtFlags::empty());
            }
            results[index] = Some(match named {
                Ok(()) => Ok(StoredObject { etag: None, crc: body.crc(), verified_by_store: false, version_id: None }),
                // A transfer that was cut off after this file.
                Err(Errno::EXIST) => self.same(key, meta, body.crc()).and_then(|same| same.ok_or_else(|| self.taken(key))),
                Err(errno) => Err(failed("store", key, errno)),
            });
        }
        results.into_iter().flatten().collect()
    }

    /// Something else has the name.
    fn taken(&self, key: &ObjectKey) -> StoreError {
        let is_folder = |found: &Found<'_>| FileType::from_raw_mode(found.stat.st_mode) == FileType::Directory;
        let is_folder = self.find(key).is_ok_and(|found| found.as_ref().is_some_and(is_folder));
        if is_folder { is_directory(key) } else { failed("rename", key, Errno::EXIST) }
    }

    /// `None`: a file of the temporary name is there.
    fn write_temporary<'k>(
        &self,
        directories: &mut Directories<'k>,
        key: &'k ObjectKey,
        meta: &ObjectMeta,
        body: &Body,
    ) -> Result<Option<Written<'k>>, StoreError> {
        check_final_name(key)?;
        let (dir, name) = directories.open(self, key)?;
        let temporary = temporary_name(name);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&*dir, temporary.as_slice(), flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => fd,
            Err(Errno::EXIST) => return Ok(None),
            Err(errno) => return Err(failed("create", key, errno)),
        };
        if lock(&fd).is_err() {
            // Another transfer has taken it in between.
            return Ok(None);
        }
        let filled = write_all(fd.as_fd(), body.chunks(), 0).and_then(|()| attributes::restore(fd.as_fd(), meta, self.owners));
        if let Err(errno) = filled {
            // What cannot be removed is taken over by the next transfer of this file.
            let _ = rustix::fs::unlinkat(&*dir, temporary.as_slice(), AtFlags::empty());
            return Err(failed("write", key, errno));
        }
        Ok(Some(Written { dir, name, temporary, _locked: fd }))
    }
}

/// The directory of the latest file: most of a batch lie in the same one.
#[derive(Default)]
struct Directories<'k> {
    latest: Option<(&'k [u8], Arc<OwnedFd>)>,
    /// A directory of each file system that is written to.
    file_systems: HashMap<u64, Arc<OwnedFd>>,
}

impl<'k> Directories<'k> {
    fn open(&mut self, store: &LocalStore, key: &'k ObjectKey) -> Result<(Arc<OwnedFd>, &'k [u8]), StoreError> {
        let bytes = key.as_bytes();
        let cut = bytes.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        let (path, name) = bytes.split_at(cut);
        if let Some((_, dir)) = self.latest.as_ref().filter(|(known, _)| *known == path) {
            return Ok((Arc::clone(dir), name));
        }
        let (dir, _) = parent(store.root.as_fd(), key, true)?.ok_or_else(|| failed("make the directory of", key, Errno::NOENT))?;
        let dir = Arc::new(dir);
        let device = rustix::fs::fstat(&*dir).map_err(|errno| failed("look at the directory of", key, errno))?.st_dev;
        self.file_systems.entry(device).or_insert_with(|| Arc::clone(&dir));
        self.latest = Some((path, Arc::clone(&dir)));
        Ok((dir, name))
    }
}
