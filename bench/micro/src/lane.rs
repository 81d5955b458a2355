//! The lane that all workloads share, and packets that its other end would send.

use anyhow::{Context, Result, ensure};
use tradewind_proto::crypto::{CipherSuite, Direction, LaneSecret, Provider, SealKeys};
use tradewind_proto::rate::{Policy, RateConfig};
use tradewind_proto::receiver::ReceiverConfig;
use tradewind_proto::sender::SenderConfig;
use tradewind_wire::limits::{HEADER_BYTES, TAG_BYTES};
use tradewind_wire::{Header, Kind, LaneId, PacketNumber};

pub(crate) const LANE: LaneId = LaneId(0x0123_4567_89ab_cdef);
pub(crate) const MS: u64 = 1_000_000;
/// 10 Gbit/s of IP packets, bytes/s.
pub(crate) const RATE: u64 = 1_250_000_000;
/// A full IP packet where the path takes 1,500 bytes.
pub(crate) const PACKET_BYTES: u32 = 1500;
/// Its payload.
pub(crate) const CHUNK: u16 = 1427;

pub(crate) fn secret() -> LaneSecret {
    LaneSecret([0x5a; 32])
}

pub(crate) fn number(value: u64) -> Result<PacketNumber> {
    PacketNumber::new(value).context("a packet number has 48 bits")
}

/// A lane that sends at a fixed rate, bytes/s of IP packets. Its ends never give up on each other.
pub(crate) fn sender_config(chunk_bytes: u16, packet_bytes: u32, target_bytes_per_s: u64, round_trip_ns: u64) -> SenderConfig {
    SenderConfig {
        lane: LANE,
        secret: secret(),
        suite: CipherSuite::Aes128Gcm,
        provider: Provider::AwsLc,
        chunk_bytes,
        blocks_allowed: u32::MAX / 2,
        rate: RateConfig {
            policy: Policy::Fixed,
            target_bytes_per_s,
            minimum_bytes_per_s: 0,
            packet_bytes,
            seed: 1,
            initial_rtt_ns: round_trip_ns,
        },
        tail_copies: true,
        idle_timeout_ns: u64::MAX / 2,
    }
}

pub(crate) fn receiver_config(chunk_bytes: u16, image_bytes_max: usize) -> ReceiverConfig {
    ReceiverConfig {
        lane: LANE,
        secret: secret(),
        suite: CipherSuite::Aes128Gcm,
        provider: Provider::AwsLc,
        chunk_bytes,
        image_bytes_max,
        blocks_allowed: u32::MAX / 2,
        idle_timeout_ns: u64::MAX / 2,
    }
}

pub(crate) fn seal_keys(direction: Direction) -> SealKeys {
    SealKeys::new(&secret(), LANE, direction, CipherSuite::Aes128Gcm, Provider::AwsLc)
}

/// Writes an authentic packet into `out` and returns its length; `clear` stands between the header and the ciphertext.
pub(crate) fn write_packet(
    keys: &mut SealKeys,
    kind: Kind,
    flags: u8,
    value: u64,
    clear: &[u8],
    plain: &[u8],
    out: &mut [u8],
) -> Result<usize> {
    let packet_number = number(value)?;
    let start = HEADER_BYTES + clear.len();
    let bytes = start + plain.len() + TAG_BYTES;
    ensure!(bytes <= out.len(), "a packet of {bytes} bytes has no room");
    let (aad, sealed) = out[..bytes].split_at_mut(start);
    aad[..HEADER_BYTES].copy_from_slice(&Header { kind, flags, packet_number, lane: LANE }.to_bytes());
    aad[HEADER_BYTES..].copy_from_slice(clear);
    ensure!(keys.seal(packet_number, aad, plain, sealed).is_ok(), "a packet cannot be sealed");
    Ok(bytes)
}
