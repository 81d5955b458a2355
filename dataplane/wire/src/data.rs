//! The clear part of a DATA packet behind the common header.

use crate::ids::BlockId;
use crate::limits::{DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES, HEADER_BYTES, TAG_BYTES};
use crate::read::{ParseError, Reader};

/// Train of packets that measure nothing: probes, tail copies.
pub const TRAIN_NONE: u8 = 255;

/// Which chunk a DATA packet carries, and what rate control wants to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// Sender's clock when the packet was built, microseconds, wraps.
    pub sent_us: u32,
    /// Measuring train, 0 to 254, or [`TRAIN_NONE`].
    pub train: u8,
    /// Low 16 bits of the sender's floor: verdicts of all segments below it have reached the sender.
    pub floor_segment: u16,
    /// The block.
    pub block: BlockId,
    /// Chunk of the block's image: bytes `chunk * c ..` where c is the lane's chunk size.
    pub chunk: u16,
}

impl DataHeader {
    /// Reads the DATA header of a whole datagram; the ciphertext follows it.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] when no payload byte would be left.
    pub fn parse(datagram: &[u8]) -> Result<Self, ParseError> {
        if datagram.len() <= DATA_OVERHEAD_BYTES {
            return Err(ParseError::Truncated);
        }
        let mut reader = Reader(&datagram[HEADER_BYTES..]);
        Ok(Self {
            sent_us: reader.u32()?,
            train: reader.u8()?,
            floor_segment: reader.u16()?,
            block: BlockId(reader.u32()?),
            chunk: reader.u16()?,
        })
    }

    /// The 13 bytes of this header.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; DATA_HEADER_BYTES] {
        let mut bytes = [0; DATA_HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.sent_us.to_be_bytes());
        bytes[4] = self.train;
        bytes[5..7].copy_from_slice(&self.floor_segment.to_be_bytes());
        bytes[7..11].copy_from_slice(&self.block.0.to_be_bytes());
        bytes[11..].copy_from_slice(&self.chunk.to_be_bytes());
        bytes
    }

    /// Bytes of plaintext in a DATA datagram of this length.
    #[must_use]
    pub const fn payload_bytes(datagram_bytes: usize) -> usize {
        datagram_bytes.saturating_sub(HEADER_BYTES + DATA_HEADER_BYTES + TAG_BYTES)
    }
}
