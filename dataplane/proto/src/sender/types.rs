//! What a sender is told, tells and counts.

use tradewind_wire::{BlockId, LaneId};

use crate::crypto::{CipherSuite, LaneSecret, Provider};
use crate::rate::{Limiter, RateConfig};

/// What a sender must know of its lane.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// The lane.
    pub lane: LaneId,
    /// Its secret.
    pub secret: LaneSecret,
    /// Its cipher.
    pub suite: CipherSuite,
    /// Who encrypts.
    pub provider: Provider,
    /// Payload bytes of a DATA packet.
    pub chunk_bytes: u16,
    /// Blocks that may be opened before the first feedback.
    pub blocks_allowed: u32,
    /// Rate policy and limits.
    pub rate: RateConfig,
    /// Whether unreceived chunks may be repeated into idle capacity at the end. The `low` policy says no.
    pub tail_copies: bool,
    /// Silence of the receiver after which the lane is given up, nanoseconds.
    pub idle_timeout_ns: u64,
}

/// What the owner of a sender should know.
#[derive(Debug)]
pub enum SenderEvent<B> {
    /// The receiver has the whole block; its image comes back.
    BlockReceived {
        /// The block.
        block: BlockId,
        /// Its image.
        image: B,
    },
    /// Everything is durable at the destination.
    Done {
        /// Number of the receiver's receipt.
        receipt: u64,
    },
    /// The lane ended before everything was durable.
    Closed {
        /// Why: a code of [`tradewind_wire::control::close`].
        code: u16,
        /// For people.
        text: String,
    },
}

/// Counters (they only grow) and estimates of a sender.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SenderStatistics {
    /// Packets of all kinds.
    pub packets_sent: u64,
    /// UDP payload bytes of all packets.
    pub bytes_sent: u64,
    /// DATA packets.
    pub data_packets_sent: u64,
    /// DATA packets whose chunk had been sent before.
    pub data_packets_again: u64,
    /// Of these, copies sent into idle capacity at the tail.
    pub tail_copies: u64,
    /// Packets declared lost.
    pub packets_lost: u64,
    /// Packets declared lost that turned up.
    pub spurious_losses: u64,
    /// Feedback packets.
    pub feedback_received: u64,
    /// Times that the sender had to probe because nothing was reported.
    pub probe_timeouts: u64,
    /// Packets that the receiver had to drop for want of a buffer, wraps.
    pub dropped_by_receiver: u32,
    /// Blocks opened.
    pub blocks_opened: u32,
    /// Blocks that the receiver has whole.
    pub blocks_received: u32,
    /// Image bytes of these.
    pub bytes_received: u64,
    /// Blocks that are durable at the destination.
    pub blocks_durable: u32,
    /// How fast the store takes data as the receiver sees it, bytes/s; 0 while unknown.
    pub storage_bytes_per_s: u64,
    /// Smoothed round-trip time, nanoseconds.
    pub round_trip_ns: u64,
    /// Least round-trip time, nanoseconds; 0 while unknown.
    pub round_trip_least_ns: u64,
    /// Sending rate now, bytes/s of IP packets.
    pub rate_bytes_per_s: u64,
    /// Loss that does not depend on our rate, 0 to 1.
    pub random_loss: f64,
    /// What limits the rate now.
    pub limiter: Limiter,
}
