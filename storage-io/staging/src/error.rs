//! What can go wrong with staging.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a block was not staged, or did not come back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StagingError {
    /// No io_uring.
    #[error(
        "io_uring cannot be used ({source}); allow it (kernel.io_uring_disabled=0, or the container's seccomp profile), or leave engine.staging_dir out"
    )]
    NoRing {
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory cannot be used.
    #[error("the staging directory {} cannot be used: {detail}", directory.display())]
    Directory {
        /// Which one.
        directory: PathBuf,
        /// Why, and what to do.
        detail: String,
    },
    /// As many blocks as are allowed are staged, or no disk has more room.
    #[error("no staging disk has room")]
    Full,
    /// A disk failed.
    #[error("a disk of the staging directories failed: {source}")]
    Disk {
        /// What the kernel said.
        source: io::Error,
    },
    /// What came back is not what was written.
    #[error("a disk of the staging directories returned other bytes than were written; check the disk")]
    Damaged,
    /// A disk does not answer.
    #[error("the disk has not answered for {} s", after.as_secs())]
    Silent {
        /// How long it was waited for.
        after: Duration,
    },
    /// A kept block cannot be read again.
    #[error("{} ({bytes} bytes at {offset}): {why}", file.display())]
    Kept {
        /// Its file.
        file: PathBuf,
        /// Where the bytes begin there.
        offset: u64,
        /// How many were to be read.
        bytes: usize,
        /// [`Self::Disk`], [`Self::Damaged`] or [`Self::Silent`].
        why: Box<Self>,
    },
    /// The thread has ended.
    #[error("staging has ended")]
    Ended,
}
