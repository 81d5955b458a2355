//! The bytes of a range of an object as they come in.

use std::ops::Range;

use bytes::Bytes;

use crate::error::StoreError;
use crate::store::{ObjectInfo, ObjectRange};

/// A range that is being read. All of it comes, or an error that says whether the object has changed or the answer broke off.
pub(crate) struct Reading<'a> {
    place: &'a str,
    key: &'a str,
    end: u64,
    left: u64,
    info: ObjectInfo,
    bytes: Vec<Bytes>,
}

impl<'a> Reading<'a> {
    /// `info` is what the answer says of the object, `expected` what it has to be.
    ///
    /// # Errors
    /// [`StoreError::ObjectChanged`] when they differ.
    pub(crate) fn new(
        place: &'a str,
        key: &'a str,
        range: Range<u64>,
        info: ObjectInfo,
        expected: Option<&ObjectInfo>,
    ) -> Result<Self, StoreError> {
        if expected.is_some_and(|expected| !expected.is_same(&info)) {
            return Err(changed(key, "its size, time or entity tag"));
        }
        Ok(Self { place, key, end: range.end, left: range.end - range.start, info, bytes: Vec::new() })
    }

    pub(crate) fn add(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.left = self.left.checked_sub(chunk.len() as u64).ok_or_else(|| self.broken("more bytes than were asked for"))?;
        self.bytes.push(chunk);
        Ok(())
    }

    /// The answer has ended.
    pub(crate) fn end(self) -> Result<ObjectRange, StoreError> {
        match self.left {
            0 => Ok(ObjectRange { info: self.info, bytes: self.bytes }),
            _ if self.info.size < self.end => Err(ends_early(self.key)),
            _ => Err(self.broken("the answer ended early")),
        }
    }

    pub(crate) fn broken(&self, what: &str) -> StoreError {
        StoreError::Unavailable { place: self.place.to_owned(), detail: format!("while {} was read: {what}", self.key) }
    }
}

/// The object is not the one that was expected: `what` differs.
pub(crate) fn changed(key: &str, what: &'static str) -> StoreError {
    StoreError::ObjectChanged { object: key.to_owned(), what }
}

pub(crate) fn ends_early(key: &str) -> StoreError {
    changed(key, "it ends early")
}
