//! What a receiver is told, tells and counts.

use tradewind_wire::{BlockId, LaneId, ParseError};

use crate::crypto::{AuthError, CipherSuite, LaneSecret, Provider};

/// What a receiver must know of its lane.
#[derive(Clone, Debug)]
pub struct ReceiverConfig {
    /// The lane.
    pub lane: LaneId,
    /// Its secret.
    pub secret: LaneSecret,
    /// Its cipher.
    pub suite: CipherSuite,
    /// Who decrypts.
    pub provider: Provider,
    /// Payload bytes of a DATA packet.
    pub chunk_bytes: u16,
    /// Bytes of the largest block image; every buffer must hold them.
    pub image_bytes_max: usize,
    /// Blocks that the sender may open at first.
    pub blocks_allowed: u32,
    /// Silence of the sender after which the lane is given up, nanoseconds.
    pub idle_timeout_ns: u64,
}

/// Where buffers for new blocks come from.
pub trait BufferSource<B> {
    /// A buffer, or `None` when there is none; the packet is then dropped and counted, and the sender repeats it.
    fn take(&mut self) -> Option<B>;
}

impl<B, F: FnMut() -> Option<B>> BufferSource<B> for F {
    fn take(&mut self) -> Option<B> {
        self()
    }
}

/// An authenticated packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// It has the largest packet number so far: its source is the peer's address from now on.
    pub newest: bool,
}

/// Why a datagram was ignored. Field-less: it indexes a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DropReason {
    /// Not the format, or authenticated but against the rules.
    Malformed,
    /// Of another lane.
    UnknownLane,
    /// Its number was seen before, or lies outside the window.
    Replayed,
    /// It does not authenticate.
    NotAuthentic,
    /// No block buffer was free.
    NoBuffer,
    /// The lane has ended.
    Closed,
}

impl From<ParseError> for DropReason {
    fn from(_: ParseError) -> Self {
        Self::Malformed
    }
}

impl From<AuthError> for DropReason {
    fn from(_: AuthError) -> Self {
        Self::NotAuthentic
    }
}

/// What the owner of a receiver should know.
#[derive(Debug)]
pub enum ReceiverEvent<B> {
    /// A block is whole; its image is the first `image_bytes` of the buffer.
    Block {
        /// The block.
        block: BlockId,
        /// The buffer it was decrypted into.
        buffer: B,
        /// Bytes of the image.
        image_bytes: usize,
    },
    /// The sender has said how many blocks there are.
    Fin {
        /// Blocks of the lane.
        blocks: u32,
    },
    /// The lane ended.
    Closed {
        /// Why: a code of [`tradewind_wire::control::close`].
        code: u16,
        /// For people.
        text: String,
    },
}

/// Counters of a receiver; they only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiverStatistics {
    /// Authenticated packets.
    pub packets_received: u64,
    /// Packet numbers below the largest seen that did not arrive.
    pub packets_missing: u64,
    /// Payload bytes put into blocks.
    pub data_bytes: u64,
    /// Chunks that were here already.
    pub duplicate_chunks: u64,
    /// Packets with a number that was seen before.
    pub replayed: u64,
    /// Packets that came after they were reported lost.
    pub late: u64,
    /// Packets dropped because no block buffer was free.
    pub dropped_without_buffer: u64,
    /// Packets marked congestion-experienced.
    pub congestion_experienced: u64,
    /// Feedback packets sent.
    pub feedback_sent: u64,
    /// UDP payload bytes sent.
    pub bytes_sent: u64,
    /// Blocks received whole.
    pub blocks_completed: u32,
    /// When the newest DATA packet arrived, nanoseconds.
    pub last_data_ns: u64,
    /// The sender's round-trip time, nanoseconds; 0 while unknown.
    pub round_trip_ns: u64,
}
