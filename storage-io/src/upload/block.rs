//! What the engine hands over: a complete block and what is in it.

use tradewind_fabric::SharedBlock;

use crate::store::Attributes;

/// A file as the sender describes it. Every block that holds bytes of it repeats the description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMeta {
    /// The file's number in its transfer.
    pub file: u32,
    /// Path relative to the destination, '/' between components.
    pub path: Vec<u8>,
    /// Size, bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970-01-01 UTC.
    pub mtime_ns: i64,
    /// Unix mode, 0 if not known.
    pub mode: u32,
    /// What else is known of it.
    pub attributes: Attributes,
    /// The sender gives the file up: what is there of it is dropped, and what comes of it later too.
    pub withdrawn: bool,
}

/// Bytes of one file within a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The file's number.
    pub file: u32,
    /// Where they belong in the file, bytes.
    pub file_offset: u64,
    /// How many, bytes.
    pub len: u32,
    /// Where they lie in the block's payload, bytes.
    pub data_offset: u32,
    /// CRC-64/NVME of them, already verified by the engine; of no meaning for a hole.
    pub crc64: u64,
    /// They are zeros, and not in the block.
    pub is_hole: bool,
}

/// A block that arrived whole.
#[derive(Debug)]
pub struct ReadyBlock {
    /// Its number.
    pub id: u32,
    /// Its memory. The pool gets it back when the store has all its bytes.
    pub data: SharedBlock,
    /// The files it touches, empty files included.
    pub files: Vec<FileMeta>,
    /// Which bytes of which files it holds.
    pub pieces: Vec<Piece>,
}
