//! One frame: contents and tag, sealed by themselves.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use zeroize::Zeroizing;

use crate::error::SealError;
use crate::key::{KEY_BYTES, NONCE_BYTES, aead_key};
use crate::layout::{TAG_BYTES, frames, plain_range};

/// The key of one file, ready for use, and how many frames it is for. AWS-LC wipes it when dropped.
pub(crate) struct FrameKey {
    key: LessSafeKey,
    plain_bytes: u64,
}

impl FrameKey {
    pub(crate) fn new(key: &Zeroizing<[u8; KEY_BYTES]>, plain_bytes: u64) -> Result<Self, SealError> {
        Ok(Self { key: aead_key(key)?, plain_bytes })
    }

    pub(crate) const fn frames(&self) -> u64 {
        frames(self.plain_bytes)
    }

    /// Seals a frame where it lies: contents, then room for the tag.
    pub(crate) fn seal(&self, frame: u64, contents_and_room: &mut [u8]) -> Result<(), SealError> {
        let (contents, room) = contents_and_room.split_at_mut(contents_and_room.len() - TAG_BYTES);
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(frame), Aad::empty(), contents)
            .map_err(|_| SealError::System("a frame could not be sealed"))?;
        room.copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens a frame where it lies, contents and tag, and returns the contents. Without success no byte of the contents is left there.
    pub(crate) fn open<'a>(&self, frame: u64, sealed: &'a mut [u8]) -> Result<&'a mut [u8], SealError> {
        let contents = plain_range(frame, self.plain_bytes);
        let damaged = SealError::FrameDamaged { frame, frames: self.frames() };
        if sealed.len() as u64 != contents.end - contents.start + TAG_BYTES as u64 {
            return Err(damaged);
        }
        self.key.open_in_place(self.nonce(frame), Aad::empty(), sealed).map_err(|_| damaged)
    }

    /// The frame's number (8 bytes), three of zero, and whether it is the last: no frame can take another's place, nor be the end too
    /// early.
    fn nonce(&self, frame: u64) -> Nonce {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..8].copy_from_slice(&frame.to_be_bytes());
        nonce[NONCE_BYTES - 1] = u8::from(frame + 1 == self.frames());
        Nonce::assume_unique_for_key(nonce)
    }
}
