//! Identifiers that travel on the wire.

use core::fmt;

/// A lane: 64 random bits chosen by the receiver's control process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u64);

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A packet number: 48 bits, never reused within a lane and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketNumber(u64);

impl PacketNumber {
    /// The first packet number of a lane.
    pub const ZERO: Self = Self(0);
    /// The last packet number; a lane that reaches it is closed.
    pub const MAX: Self = Self((1 << 48) - 1);

    /// The packet number with this value, or `None` above 48 bits.
    #[must_use]
    pub const fn new(value: u64) -> Option<Self> {
        if value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// Its value.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next one, or `None` after the last.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// The key epoch it belongs to: packet number >> 22, so at most 4 Mi packets share a key (RFC 9001 section 6.6).
    #[must_use]
    pub const fn epoch(self) -> u32 {
        (self.0 >> crate::limits::EPOCH_SHIFT) as u32
    }

    /// The feedback segment it belongs to.
    #[must_use]
    pub const fn segment(self) -> u64 {
        self.0 / crate::limits::SEGMENT_PACKETS as u64
    }
}

/// A block of a transfer's lane, counted from 0 in the order in which the sender opened them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// A file of a transfer, counted from 0 in the order in which the sender met them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);
