//! The 16 clear bytes that every packet starts with.

use crate::ids::{LaneId, PacketNumber};
use crate::limits::{DATAGRAM_BYTES_MIN, HEADER_BYTES, VERSION};
use crate::read::{ParseError, Reader};

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Sender to receiver: one chunk of a block.
    Data = 1,
    /// Receiver to sender: verdicts, trains, credit.
    Feedback = 2,
    /// Both ways: FIN, DONE, CLOSE, STATE.
    Control = 3,
    /// Sender to receiver: padding. Keeps a path alive and finds out what size passes.
    Probe = 4,
}

impl Kind {
    const fn from_nibble(nibble: u8) -> Option<Self> {
        match nibble {
            1 => Some(Self::Data),
            2 => Some(Self::Feedback),
            3 => Some(Self::Control),
            4 => Some(Self::Probe),
            _ => None,
        }
    }
}

/// Flag of DATA: this chunk is the last of its block, so its end is the image's length.
pub const FLAG_LAST_CHUNK: u8 = 0b0000_0001;

/// The clear header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the packet is.
    pub kind: Kind,
    /// Flags of the kind; unknown ones are ignored.
    pub flags: u8,
    /// Number of this packet in its lane and direction.
    pub packet_number: PacketNumber,
    /// The lane.
    pub lane: LaneId,
}

impl Header {
    /// Reads the header of a datagram.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] below header plus tag, [`ParseError::Version`], [`ParseError::Kind`].
    pub fn parse(datagram: &[u8]) -> Result<Self, ParseError> {
        if datagram.len() < DATAGRAM_BYTES_MIN {
            return Err(ParseError::Truncated);
        }
        let mut reader = Reader(datagram);
        let first = reader.u8()?;
        if first >> 4 != VERSION {
            return Err(ParseError::Version);
        }
        let kind = Kind::from_nibble(first & 0x0f).ok_or(ParseError::Kind)?;
        let flags = reader.u8()?;
        let packet_number = PacketNumber::new(reader.u48()?).ok_or(ParseError::Limit)?;
        Ok(Self { kind, flags, packet_number, lane: LaneId(reader.u64()?) })
    }

    /// The 16 bytes of this header.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.packet_number.get().to_be_bytes());
        bytes[0] = VERSION << 4 | self.kind as u8;
        bytes[1] = self.flags;
        bytes[8..].copy_from_slice(&self.lane.0.to_be_bytes());
        bytes
    }
}
