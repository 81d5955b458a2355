//! What the bytes of a source are read from: a file, or a symbolic link.

use std::borrow::Cow;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;
use tradewind_storage::{HOLE_BYTES_MIN, may_have_holes};

use crate::error::SourceError;
use crate::keep::Keep;
use crate::source::{Source, SourceKind};

/// Permissions that stand for those of a link, which has none: all nine bits are set of every link, and a file that holds a link's target should
/// not be everybody's to write.
const LINK_MODE: u32 = 0o644;

/// An open source.
pub(crate) enum Origin {
    /// A regular file.
    File(File),
    /// A symbolic link, by a descriptor that is good for its attributes only, and what it points to.
    Link { itself: File, target: Vec<u8> },
}

impl Origin {
    /// Opens a source, and tells its attributes.
    ///
    /// # Errors
    /// [`SourceError::Read`]; [`SourceError::NotAFile`] and [`SourceError::Changed`] for something else than the source was said to be.
    pub(crate) fn open(source: &Source) -> Result<(Self, Metadata), SourceError> {
        let read = |error| SourceError::Read { path: source.path.clone(), source: error };
        // Without O_NONBLOCK the open of a FIFO would wait for a writer.
        let flags = match source.kind {
            SourceKind::File => OFlags::NONBLOCK | OFlags::NOCTTY,
            SourceKind::Link => OFlags::PATH | OFlags::NOFOLLOW,
        };
        let file = File::options().read(true).custom_flags(flags.bits() as i32).open(&source.path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        match source.kind {
            SourceKind::File if metadata.is_file() => {
                // Only advice: the kernel reads ahead further.
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
                Ok((Self::File(file), metadata))
            }
            SourceKind::File => Err(SourceError::NotAFile { path: source.path.clone() }),
            SourceKind::Link if metadata.is_symlink() => {
                let target = rustix::fs::readlinkat(&file, "", Vec::new()).map_err(|errno| read(errno.into()))?;
                Ok((Self::Link { itself: file, target: target.into_bytes() }, metadata))
            }
            SourceKind::Link => Err(SourceError::Changed { path: source.path.clone(), what: "it is no symbolic link any more".to_owned() }),
        }
    }

    /// What attributes are asked of.
    pub(crate) const fn itself(&self) -> &File {
        let (Self::File(itself) | Self::Link { itself, .. }) = self;
        itself
    }

    /// Bytes of the contents. Not every file system tells the length of a link's target.
    pub(crate) fn size(&self, metadata: &Metadata) -> u64 {
        match self {
            Self::File(_) => metadata.len(),
            Self::Link { target, .. } => target.len() as u64,
        }
    }

    /// Permissions that the record tells.
    pub(crate) fn mode(&self, metadata: &Metadata) -> u32 {
        match self {
            Self::File(_) => metadata.mode() & 0o7777,
            Self::Link { .. } => LINK_MODE,
        }
    }

    /// What can be kept of it: links have no extended attributes of users, and no ACLs.
    pub(crate) fn keeping<'a>(&self, keep: &'a Keep) -> Cow<'a, Keep> {
        match self {
            Self::File(_) => Cow::Borrowed(keep),
            Self::Link { .. } => Cow::Owned(Keep { xattrs: false, acls: false, ..keep.clone() }),
        }
    }

    /// Whether it has holes that are worth not sending.
    pub(crate) fn is_sparse(&self, metadata: &Metadata) -> bool {
        let Self::File(file) = self else { return false };
        may_have_holes(metadata.len(), metadata.blocks())
            && rustix::fs::seek(file, SeekFrom::Hole(0)).is_ok_and(|first| first < metadata.len())
    }

    /// How far data reaches from the start of a range on, or a hole that is worth it, and whether it is that. Where the file system does not
    /// know, all is data.
    pub(crate) fn segment(&self, range: &Range<u64>) -> (u64, bool) {
        let Self::File(file) = self else { return (range.end, false) };
        let data_from = |offset| match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(data) => Some(data.min(range.end)),
            Err(Errno::NXIO) => Some(range.end),
            Err(_) => None,
        };
        let mut at = range.start;
        while at < range.end {
            let Some(data) = data_from(at) else { break };
            if data - at >= HOLE_BYTES_MIN {
                return if at == range.start { (data, true) } else { (at, false) };
            }
            match rustix::fs::seek(file, SeekFrom::Hole(data)) {
                Ok(hole) if hole > at => at = hole,
                _ => break,
            }
        }
        (range.end, false)
    }

    /// Fills `into` with the contents from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if there are not as many; others of the file system.
    pub(crate) fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(into, offset),
            Self::Link { target, .. } => {
                let from = usize::try_from(offset).ok().and_then(|offset| target.get(offset..)?.get(..into.len()));
                into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}
