//! Sealing: any range of the sealed file, made when it is asked for.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use crate::error::SealError;
use crate::frame::FrameKey;
use crate::header::Header;
use crate::key::{IDENTITY_BYTES, MasterKey};
use crate::layout::{FRAME_BYTES, HEADER_BYTES, SEALED_FRAME_BYTES, TAG_BYTES, frame_at, plain_range, sealed_range};

/// Sealed at once by [`Sealer::seal`], frames.
const BATCH_FRAMES: u64 = 16;

/// Makes the sealed file of one file. The same key, identity, size and contents give the same bytes, whenever and in whatever pieces they
/// are asked for: an interrupted transfer can go on anywhere.
///
/// A clone shares the key and has a cache of its own: one for each thread that reads.
pub struct Sealer {
    header: Header,
    key: Arc<FrameKey>,
    /// The frame that was last asked for in part, sealed.
    cached: Option<u64>,
    cache: Vec<u8>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("plain_size", &self.plain_size()).field("cached", &self.cached).finish_non_exhaustive()
    }
}

impl Clone for Sealer {
    fn clone(&self) -> Self {
        Self { header: self.header, key: Arc::clone(&self.key), cached: None, cache: Vec::new() }
    }
}

impl Sealer {
    /// For a file of `plain_bytes`. `identity` tells this version of this file from all others that the key seals, see
    /// [`identity`](crate::identity). If the same identity comes with other contents, whoever sees both sealed files sees which frames
    /// are equal, and nothing else (AES-GCM-SIV, RFC 8452).
    ///
    /// # Errors
    /// [`SealError::TooLarge`].
    pub fn new(master: &MasterKey, identity: &[u8; IDENTITY_BYTES], plain_bytes: u64) -> Result<Self, SealError> {
        let (header, key) = Header::new(master, identity, plain_bytes)?;
        Ok(Self { header, key: Arc::new(FrameKey::new(&key, plain_bytes)?), cached: None, cache: Vec::new() })
    }

    /// The header: the first [`HEADER_BYTES`] of the sealed file.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Size of the contents, bytes.
    #[must_use]
    pub const fn plain_size(&self) -> u64 {
        self.header.plain_size()
    }

    /// Size of the sealed file, bytes.
    #[must_use]
    pub const fn sealed_size(&self) -> u64 {
        self.header.sealed_size()
    }

    /// Fills `into` with the sealed file's bytes from `offset` on. `plain` fills its buffer with the contents from an offset on; it is
    /// asked for whole frames. Those that lie wholly in `into` are sealed there; the last that does not is kept for the next call.
    ///
    /// # Errors
    /// [`SealError::Range`], and [`SealError::Io`] with what `plain` returned.
    pub fn read_at(
        &mut self,
        offset: u64,
        into: &mut [u8],
        plain: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<(), SealError> {
        let size = self.sealed_size();
        if offset.checked_add(into.len() as u64).is_none_or(|end| end > size) {
            return Err(SealError::Range { offset, end: offset.saturating_add(into.len() as u64), size });
        }
        let (mut offset, mut into) = (offset, into);
        if let Some(header) = usize::try_from(offset).ok().and_then(|start| self.header.as_bytes().get(start..)) {
            let (head, rest) = into.split_at_mut(header.len().min(into.len()));
            head.copy_from_slice(&header[..head.len()]);
            offset += head.len() as u64;
            into = rest;
        }
        while !into.is_empty() {
            let frame = frame_at(offset);
            let range = sealed_range(frame, self.plain_size());
            let skipped = (offset - range.start) as usize;
            let length = ((range.end - offset) as usize).min(into.len());
            let (here, rest) = into.split_at_mut(length);
            if length as u64 == range.end - range.start {
                self.seal_frame(frame, here, plain)?;
            } else {
                self.fill_cache(frame, plain)?;
                here.copy_from_slice(&self.cache[skipped..skipped + length]);
            }
            offset += length as u64;
            into = rest;
        }
        Ok(())
    }

    /// Writes the whole sealed file.
    ///
    /// # Errors
    /// [`SealError::Io`] with what `plain` or the writer returned.
    pub fn seal(
        &mut self,
        plain: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
        writer: &mut (impl Write + ?Sized),
    ) -> Result<(), SealError> {
        writer.write_all(self.header.as_bytes())?;
        let size = self.sealed_size();
        let batch = BATCH_FRAMES * SEALED_FRAME_BYTES as u64;
        let mut buffer = vec![0; batch.min(size - HEADER_BYTES as u64) as usize];
        let mut offset = HEADER_BYTES as u64;
        while offset < size {
            let length = batch.min(size - offset) as usize;
            self.read_at(offset, &mut buffer[..length], plain)?;
            writer.write_all(&buffer[..length])?;
            offset += length as u64;
        }
        Ok(())
    }

    fn seal_frame(&self, frame: u64, into: &mut [u8], plain: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>) -> Result<(), SealError> {
        let contents = into.len() - TAG_BYTES;
        if contents > 0 {
            plain(frame * FRAME_BYTES as u64, &mut into[..contents])?;
        }
        self.key.seal(frame, into)
    }

    fn fill_cache(&mut self, frame: u64, plain: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>) -> Result<(), SealError> {
        if self.cached == Some(frame) {
            return Ok(());
        }
        // What the cache holds is nothing until all of it succeeded.
        self.cached = None;
        let contents = plain_range(frame, self.plain_size());
        let mut cache = std::mem::take(&mut self.cache);
        cache.resize((contents.end - contents.start) as usize + TAG_BYTES, 0);
        self.seal_frame(frame, &mut cache, plain)?;
        self.cache = cache;
        self.cached = Some(frame);
        Ok(())
    }
}
