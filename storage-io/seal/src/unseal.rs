//! Unsealing: frame by frame, any range, or all of it.

use std::fmt;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::Arc;

use crate::error::SealError;
use crate::frame::FrameKey;
use crate::header::Header;
use crate::key::MasterKey;
use crate::layout::{FRAME_BYTES, HEADER_BYTES, SEALED_FRAME_BYTES, TAG_BYTES, plain_range, sealed_range};
use crate::ring::KeyRing;

/// Opens one sealed file, whose key fits and whose header is genuine. No contents leave it that are not authentic.
pub struct Unsealer {
    header: Header,
    master: Arc<MasterKey>,
    key: FrameKey,
}

impl fmt::Debug for Unsealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsealer").field("plain_size", &self.plain_size()).field("key", &self.header.key_id()).finish_non_exhaustive()
    }
}

impl Unsealer {
    /// From the first [`HEADER_BYTES`] of the sealed file.
    ///
    /// # Errors
    /// Those of [`Header::parse`] and [`KeyRing::find`]; [`SealError::HeaderDamaged`] if the key fits and the header is
    /// forged all the same.
    pub fn open(header: &[u8], ring: &KeyRing) -> Result<Self, SealError> {
        Self::with_header(Header::parse(header)?, ring)
    }

    /// From a header that was parsed.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_header(header: Header, ring: &KeyRing) -> Result<Self, SealError> {
        let master = ring.find(&header)?;
        let key = FrameKey::new(&header.unwrap(&master)?, header.plain_size())?;
        Ok(Self { header, master, key })
    }

    /// Reads the header and leaves the reader behind it.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`SealError::Io`].
    pub fn from_reader(reader: &mut (impl Read + ?Sized), ring: &KeyRing) -> Result<Self, SealError> {
        let mut header = [0; HEADER_BYTES];
        let length = read_full(reader, &mut header)?;
        Self::open(&header[..length], ring)
    }

    /// The master key that fits, for names that were sealed with it.
    #[must_use]
    pub fn master_key(&self) -> &Arc<MasterKey> {
        &self.master
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

    /// How many frames there are: at least one.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        self.key.frames()
    }

    /// Where a frame with its tag is in the sealed file, bytes from its beginning.
    ///
    /// # Errors
    /// [`SealError::Range`] if there is no such frame.
    pub fn sealed_range(&self, frame: u64) -> Result<Range<u64>, SealError> {
        self.check(frame)?;
        Ok(sealed_range(frame, self.plain_size()))
    }

    /// Which contents are in a frame, bytes from their beginning.
    ///
    /// # Errors
    /// [`SealError::Range`] if there is no such frame.
    pub fn plain_range(&self, frame: u64) -> Result<Range<u64>, SealError> {
        self.check(frame)?;
        Ok(plain_range(frame, self.plain_size()))
    }

    /// Opens a frame where it lies, with its tag, and returns the contents.
    ///
    /// # Errors
    /// [`SealError::FrameDamaged`]: the buffer is wiped then; [`SealError::Range`].
    pub fn unseal_frame<'a>(&self, frame: u64, sealed: &'a mut [u8]) -> Result<&'a mut [u8], SealError> {
        self.check(frame)?;
        self.key.open(frame, sealed)
    }

    /// Fills `into` with the contents from `offset` on. `sealed` fills its buffer with the sealed file's bytes from an offset on; it is
    /// asked for whole frames, and only for those that are needed.
    ///
    /// # Errors
    /// [`SealError::FrameDamaged`], [`SealError::Range`], and [`SealError::Io`] with what `sealed` returned. `into` is of no use then.
    pub fn unseal_range(
        &self,
        offset: u64,
        into: &mut [u8],
        sealed: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<(), SealError> {
        let size = self.plain_size();
        if offset.checked_add(into.len() as u64).is_none_or(|end| end > size) {
            return Err(SealError::Range { offset, end: offset.saturating_add(into.len() as u64), size });
        }
        let (mut offset, mut into) = (offset, into);
        let mut buffer = Vec::new();
        while !into.is_empty() {
            let frame = offset / FRAME_BYTES as u64;
            let place = sealed_range(frame, size);
            buffer.resize((place.end - place.start) as usize, 0);
            sealed(place.start, &mut buffer)?;
            let contents = &self.key.open(frame, &mut buffer)?[(offset % FRAME_BYTES as u64) as usize..];
            let (here, rest) = into.split_at_mut(contents.len().min(into.len()));
            here.copy_from_slice(&contents[..here.len()]);
            offset += here.len() as u64;
            into = rest;
        }
        Ok(())
    }

    /// Reads all frames from a reader that stands behind the header, and writes the contents. Returns their size in bytes.
    ///
    /// What was written before an error is authentic and incomplete.
    ///
    /// # Errors
    /// [`SealError::FrameDamaged`]; [`SealError::WrongSize`] if the file is cut off or goes on behind its end; [`SealError::Io`].
    pub fn unseal(&self, reader: &mut (impl Read + ?Sized), writer: &mut (impl Write + ?Sized)) -> Result<u64, SealError> {
        let body = self.sealed_size() - HEADER_BYTES as u64;
        let mut buffer = vec![0; SEALED_FRAME_BYTES];
        let mut done = 0;
        for frame in 0..self.frames() {
            let place = sealed_range(frame, self.plain_size());
            let sealed = &mut buffer[..(place.end - place.start) as usize];
            let length = read_full(reader, sealed)?;
            if length < sealed.len() {
                let found = format!("the file ends after {}", done + length as u64);
                return Err(SealError::WrongSize { expected: body, found });
            }
            writer.write_all(self.key.open(frame, sealed)?)?;
            done += length as u64;
        }
        if read_full(reader, &mut [0])? != 0 {
            return Err(SealError::WrongSize { expected: body, found: "the file goes on".to_owned() });
        }
        Ok(self.plain_size())
    }

    fn check(&self, frame: u64) -> Result<(), SealError> {
        if frame < self.frames() {
            return Ok(());
        }
        let offset = (HEADER_BYTES as u64).saturating_add(frame.saturating_mul(SEALED_FRAME_BYTES as u64));
        Err(SealError::Range { offset, end: offset.saturating_add(TAG_BYTES as u64), size: self.sealed_size() })
    }
}

/// Reads until the buffer is full or the reader ends; how many bytes it was.
fn read_full(reader: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
