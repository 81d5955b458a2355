//! A kept block where it lies. It is read when it is needed and not mapped: a disk that fails is then an error of that block, where memory that
//! cannot be had ends the process (SIGBUS).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::crc_of;
use crate::disk::Health;
use crate::error::StagingError;

/// A block that an earlier lane kept: what reads it again. Cheap to clone. Its file stays open, so it can be read when that was forgotten.
#[derive(Clone, Debug)]
pub struct KeptImage {
    health: Arc<Health>,
    file: Arc<File>,
    /// Where it begins there, bytes.
    start: u64,
    bytes: usize,
}

impl KeptImage {
    pub(super) const fn new(health: Arc<Health>, file: Arc<File>, start: u64, bytes: usize) -> Self {
        Self { health, file, start, bytes }
    }

    /// Reads a range of it, bytes, whose CRC-64/NVME is known. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`StagingError::Disk`] where it cannot be read, [`StagingError::Damaged`] where it is not what it was when it was recalled. The disk is out
    /// of use from then on: nothing more is recalled from it until the engine starts again.
    pub fn read(&self, range: Range<usize>, crc64: u64) -> Result<Vec<u8>, StagingError> {
        if range.start > range.end || range.end > self.bytes {
            // Not the disk's fault.
            let detail = format!("bytes {} to {} of a block of {}", range.start, range.end, self.bytes);
            return Err(StagingError::Disk { source: io::Error::new(io::ErrorKind::InvalidInput, detail) });
        }
        let read = self.read_inside(range).and_then(|bytes| if crc_of(&bytes) == crc64 { Ok(bytes) } else { Err(StagingError::Damaged) });
        read.inspect_err(|error| self.health.fail(error))
    }

    fn read_inside(&self, range: Range<usize>) -> Result<Vec<u8>, StagingError> {
        let mut bytes = vec![0; range.len()];
        self.file.read_exact_at(&mut bytes, self.start + range.start as u64).map_err(|source| StagingError::Disk { source })?;
        Ok(bytes)
    }

    /// The descriptor that it is read by.
    #[cfg(test)]
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}
