//! Every limit of the protocol in one place, and how they relate.

/// Version of the wire format: the high nibble of the first byte.
pub const VERSION: u8 = 1;
/// Bytes of the clear header that every packet starts with.
pub const HEADER_BYTES: usize = 16;
/// Bytes of the clear DATA header behind it.
pub const DATA_HEADER_BYTES: usize = 13;
/// Bytes of the AEAD tag at the end of every packet.
pub const TAG_BYTES: usize = 16;
/// Bytes of a DATA packet that are not payload.
pub const DATA_OVERHEAD_BYTES: usize = HEADER_BYTES + DATA_HEADER_BYTES + TAG_BYTES;
/// IPv4 and UDP header, bytes.
pub const IPV4_UDP_BYTES: usize = 28;
/// IPv6 and UDP header, bytes.
pub const IPV6_UDP_BYTES: usize = 48;
/// Smallest datagram that can be one of ours.
pub const DATAGRAM_BYTES_MIN: usize = HEADER_BYTES + TAG_BYTES;
/// Largest UDP payload (IPv4).
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Packets that share one key: 2^22, below the 2^23 that RFC 9001 section 6.6 allows AES-GCM.
pub const EPOCH_SHIFT: u32 = 22;
/// Packet numbers a feedback segment covers.
pub const SEGMENT_PACKETS: usize = 1024;
/// 64-bit words of a segment's bitmap.
pub const SEGMENT_WORDS: usize = SEGMENT_PACKETS / 64;
/// Segments whose verdicts may be open at once: bounds the replay window and the sender's records (4 Mi packets).
pub const SEGMENTS_OPEN_MAX: usize = 4096;

/// Smallest payload a block may hold, bytes.
pub const BLOCK_PAYLOAD_MIN: usize = 64 * 1024;
/// Payload of a block unless asked otherwise, bytes.
pub const BLOCK_PAYLOAD_DEFAULT: usize = 1024 * 1024;
/// Largest payload a block may hold, bytes.
pub const BLOCK_PAYLOAD_MAX: usize = 4 * 1024 * 1024;
/// Room for a block's table and footer behind the payload, bytes.
pub const BLOCK_TABLE_MAX: usize = 64 * 1024;
/// Smallest chunk, bytes: what a 576-byte IPv4 path carries, rounded down.
pub const CHUNK_BYTES_MIN: usize = 496;
/// Largest chunk, bytes.
pub const CHUNK_BYTES_MAX: usize = 65_000;
/// Chunks a block may have.
pub const CHUNKS_PER_BLOCK_MAX: usize = (BLOCK_PAYLOAD_MAX + BLOCK_TABLE_MAX).div_ceil(CHUNK_BYTES_MIN);
/// Extents a block may have.
pub const EXTENTS_PER_BLOCK_MAX: usize = 65_535;
/// Bytes of holes that a block may tell of: what a small block can make a store write.
pub const HOLE_BYTES_PER_BLOCK_MAX: u64 = 256 << 20;
/// Longest path of a file, bytes.
pub const PATH_BYTES_MAX: usize = 4096;
/// Blocks that a lane may have open, whatever its credits say.
pub const BLOCKS_OPEN_MAX: usize = 16_384;
/// Lanes an engine serves.
pub const LANES_MAX: usize = 4096;
/// Longest text of a CLOSE, bytes.
pub const CLOSE_TEXT_MAX: usize = 512;
/// Trains that one feedback may report.
pub const FEEDBACK_TRAINS_MAX: usize = 8;
/// Segments that one feedback may report.
pub const FEEDBACK_SEGMENTS_MAX: usize = 8;

const _: () = {
    assert!(CHUNKS_PER_BLOCK_MAX <= u16::MAX as usize);
    assert!(CHUNK_BYTES_MAX + DATA_OVERHEAD_BYTES <= DATAGRAM_BYTES_MAX);
    assert!(HOLE_BYTES_PER_BLOCK_MAX >= BLOCK_PAYLOAD_MAX as u64 && HOLE_BYTES_PER_BLOCK_MAX < 1 << 31);
    assert!(BLOCK_TABLE_MAX > 2 * PATH_BYTES_MAX);
    assert!(SEGMENTS_OPEN_MAX <= 1 << 15, "the 16-bit floor in DATA must be unambiguous");
    assert!(SEGMENT_PACKETS.is_multiple_of(64));
};

/// Bytes of the largest IP packet of a lane whose chunks have this size.
#[must_use]
pub const fn packet_bytes(chunk_bytes: usize, ipv6: bool) -> usize {
    chunk_bytes + DATA_OVERHEAD_BYTES + if ipv6 { IPV6_UDP_BYTES } else { IPV4_UDP_BYTES }
}

/// Payload bytes that a DATA packet carries when the whole IP packet has `mtu` bytes.
#[must_use]
pub const fn chunk_bytes_for_mtu(mtu: usize, ipv6: bool) -> usize {
    let ip = if ipv6 { IPV6_UDP_BYTES } else { IPV4_UDP_BYTES };
    let chunk = mtu.saturating_sub(ip + DATA_OVERHEAD_BYTES);
    if chunk > CHUNK_BYTES_MAX { CHUNK_BYTES_MAX } else { chunk }
}
