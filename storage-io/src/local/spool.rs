//! Files that never get a name: where an object waits whose store takes it only as a whole.
//!
//! They are what unfinished files of a [`LocalStore`] are: `.NAME.tradewind-partial` of mode 0600, with all the room that they need, locked
//! against other transfers and processes, and gone when they are dropped unless they are to be kept.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use rustix::io::Errno;

use super::walk::failed;
use super::{LocalStore, Partial, birth};
use crate::error::StoreError;
use crate::store::{Body, ObjectKey, ObjectMeta};

/// Such a file.
#[derive(Debug)]
pub(crate) struct Spooled(Partial);

impl LocalStore {
    /// Makes one. What an earlier transfer left of that name goes.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Busy`], [`StoreError`].
    pub(crate) fn spool(&self, name: &ObjectKey, meta: ObjectMeta) -> Result<Spooled, StoreError> {
        self.create(name, meta).map(Spooled)
    }

    /// Takes over what an earlier transfer left, by its [`Spooled::handle`]; it stays when it is dropped.
    ///
    /// # Errors
    /// [`StoreError::UploadGone`], [`StoreError::Busy`], [`StoreError`].
    pub(crate) fn respool(&self, name: &ObjectKey, meta: ObjectMeta, handle: &str) -> Result<Spooled, StoreError> {
        self.reopen_partial(name, meta, handle).map(Spooled)
    }
}

impl Spooled {
    pub(crate) fn write(&self, body: &Body, offset: u64) -> Result<(), StoreError> {
        self.0.write(body, offset)
    }

    /// So many bytes from `offset` on; an error if there are fewer.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let (mut bytes, mut at) = (vec![0; len], 0);
        while at < len {
            match rustix::io::pread(self.0.target.fd(), &mut bytes[at..], offset + at as u64) {
                Ok(0) => return Err(failed("read to its end", &self.0.key, Errno::IO)),
                Ok(count) => at += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("read", &self.0.key, errno)),
            }
        }
        Ok(bytes.into())
    }

    /// Removes it; also twice.
    pub(crate) fn remove(&self) -> Result<(), StoreError> {
        self.0.remove()
    }

    /// From now on it stays when it is dropped.
    pub(crate) fn keep(&self) {
        self.0.kept.store(true, Ordering::Release);
    }

    pub(crate) fn handle(&self) -> String {
        birth(self.0.target.owned())
    }
}
