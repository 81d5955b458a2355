//! A kept block where it lies. It is read when it is needed and not mapped: a disk that fails is then an error of that block, where memory that
//! cannot be had ends the process (SIGBUS).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::home::Home;
use crate::crc_of;
use crate::error::StagingError;

/// How long a disk may take for what is read of a block at once: as long as for a block that waits there.
const ANSWER: Duration = Duration::from_secs(30);

/// A file of kept blocks, open for reading. It stays open, so it can be read when it was forgotten.
#[derive(Debug)]
pub(super) struct Opened {
    home: Arc<Home>,
    name: String,
    /// Gone only when this is dropped.
    file: Option<File>,
}

impl Opened {
    pub(super) const fn new(home: Arc<Home>, name: String, file: File) -> Self {
        Self { home, name, file: Some(file) }
    }

    fn path(&self) -> PathBuf {
        self.home.directory().join(&self.name)
    }

    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        #[cfg(test)]
        self.home.pause();
        let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
        self.file.as_ref().ok_or(io::ErrorKind::NotFound)?.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // Closing a file that was forgotten frees its room, which takes its time: not on the thread of whoever is the last to drop this.
        if let Some(file) = self.file.take() {
            self.home.close(file);
        }
    }
}

/// A block that an earlier lane kept: what reads it again. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeptImage {
    opened: Arc<Opened>,
    /// Where it begins in the file, bytes.
    start: u64,
    bytes: usize,
}

impl KeptImage {
    pub(super) const fn new(opened: Arc<Opened>, start: u64, bytes: usize) -> Self {
        Self { opened, start, bytes }
    }

    /// Reads a range of it, bytes, whose CRC-64/NVME is known, on a thread for what blocks; a disk is asked for four at once, of whoever reads. To be
    /// called on a tokio runtime with time. When it is dropped, or the disk does not answer, the thread alone is left behind, with its bytes.
    ///
    /// # Errors
    /// [`StagingError::Kept`], which says where. For [`StagingError::Disk`], it cannot be read, and [`StagingError::Damaged`], it is not what it
    /// was when it was recalled, the disk is out of use until the engine starts again. For [`StagingError::Silent`], the disk has not answered for
    /// 30 s, nothing is recalled from it for 5 min.
    pub async fn read(&self, range: Range<usize>, crc64: u64) -> Result<Vec<u8>, StagingError> {
        if range.start > range.end || range.end > self.bytes {
            // Not the disk's fault.
            let source = io::Error::new(io::ErrorKind::InvalidInput, format!("the block has {} bytes", self.bytes));
            return Err(self.at(&range, StagingError::Disk { source }));
        }
        let Some(turn) = self.opened.home.health.turn(ANSWER).await else { return Err(self.silent(&range)) };
        let (begins, begun) = oneshot::channel();
        let (image, of_thread) = (self.clone(), range.clone());
        let reading = spawn_blocking(move || {
            // Who asked may have gone.
            let _ = begins.send(());
            let read = image.read_now(of_thread, crc64);
            image.opened.home.health.answered();
            drop(turn);
            read
        });
        // It may wait for a thread first, which is not the disk's fault. One that never begins ends below.
        let _ = begun.await;
        match timeout(ANSWER, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(ended)) => Err(self.at(&range, StagingError::Disk { source: ended.into() })),
            Err(_) => Err(self.silent(&range)),
        }
    }

    fn read_now(&self, range: Range<usize>, crc64: u64) -> Result<Vec<u8>, StagingError> {
        let (start, end) = (self.start + range.start as u64, self.start + range.end as u64);
        let read = match self.opened.read(start..end) {
            Ok(bytes) if crc_of(&bytes) == crc64 => Ok(bytes),
            Ok(_) => Err(self.at(&range, StagingError::Damaged)),
            Err(source) => Err(self.at(&range, StagingError::Disk { source })),
        };
        read.inspect_err(|error| self.opened.home.health.fail(error))
    }

    fn silent(&self, range: &Range<usize>) -> StagingError {
        let error = self.at(range, StagingError::Silent { after: ANSWER });
        self.opened.home.health.stood_still(&error);
        error
    }

    fn at(&self, range: &Range<usize>, why: StagingError) -> StagingError {
        StagingError::Kept { file: self.opened.path(), offset: self.start + range.start as u64, bytes: range.len(), why: Box::new(why) }
    }

    /// The descriptor that it is read by.
    #[cfg(test)]
    pub(super) fn file(&self) -> &File {
        self.opened.file.as_ref().expect("it is open")
    }
}
