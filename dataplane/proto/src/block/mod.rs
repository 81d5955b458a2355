//! Blocks: payload, a table that says which bytes of which files it holds, and a fixed footer.
//!
//! ```text
//! image  = payload | table | footer
//! table  = files u32, files * { file u32, size u64, mtime_ns i64, mode u32, path_bytes u16, path, attributes_bytes u16, attributes }
//!          attribute = name_bytes u8, name, value_bytes u16, value
//!          extents u32, extents * { file u32, file_offset u64, length u32, crc64_nvme u64 }
//! footer = payload_bytes u32 | table_bytes u32 | crc64_nvme of table and the 8 bytes before u64 | version u32 | magic "TWBK"
//! ```
//! An extent whose length has bit 31 set is a hole: that many zeros, of which nothing is in the payload. Only tables of version 3 have holes.
//!
//! Extents lie in the payload one behind the other. Every file that an extent names has its record in the same block, so
//! any single block can be stored without having seen another.

mod attributes;
mod cut;
mod path;
mod table;

pub use attributes::{ATTRIBUTES_BYTES_MAX, AttributeError, Attributes, attribute_bytes, check_attributes};
pub use cut::{BlockWriter, CutError};
pub use path::{PathError, check_path};
pub use table::{BlockTable, TableError};
pub use tradewind_wire::FileId;

/// Bytes of the footer at the end of every image.
pub const FOOTER_BYTES: usize = 24;
/// Bytes of an extent in the table.
pub(crate) const EXTENT_BYTES: usize = 24;
/// Bytes of a file record without its path and attributes.
pub(crate) const RECORD_BYTES: usize = 28;
/// Bytes of the two counts.
pub(crate) const COUNTS_BYTES: usize = 8;
/// Version of the table's layout.
pub(crate) const TABLE_VERSION: u32 = 2;
/// The same, and there is a hole in it.
pub(crate) const TABLE_VERSION_HOLES: u32 = 3;
/// Bit of an extent's length.
pub(crate) const HOLE: u32 = 1 << 31;
/// Last four bytes of an image.
pub(crate) const MAGIC: [u8; 4] = *b"TWBK";

/// Bit of [`FileRecord::mode`]: the sender gives this file up, and the receiver drops what it has of it.
pub const WITHDRAWN: u32 = 1 << 31;

/// What a receiver has to know of a file to store it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Number of the file in its transfer.
    pub file: FileId,
    /// Relative path, components separated by `/`; any bytes but NUL. See [`check_path`].
    pub path: Vec<u8>,
    /// Size of the whole file, bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Permission bits, and [`WITHDRAWN`].
    pub mode: u32,
    /// What else is known of it; see [`check_attributes`].
    pub attributes: Attributes,
}

impl FileRecord {
    /// Whether the sender gives the file up.
    #[must_use]
    pub const fn is_withdrawn(&self) -> bool {
        self.mode & WITHDRAWN != 0
    }
}

/// Names a file together with the state of its contents, as far as size and time tell.
pub type Fingerprint = [u8; 16];

/// The first half of SHA-256 over size and modification time (big-endian) and path: both ends tell each other with it which files the
/// destination has already.
#[must_use]
pub fn fingerprint(path: &[u8], size: u64, mtime_ns: i64) -> Fingerprint {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(&size.to_be_bytes());
    context.update(&mtime_ns.to_be_bytes());
    context.update(path);
    let digest = context.finish();
    let mut half = Fingerprint::default();
    half.copy_from_slice(&digest.as_ref()[..16]);
    half
}

/// A run of bytes of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The file.
    pub file: FileId,
    /// Where in the file, bytes.
    pub file_offset: u64,
    /// How many bytes.
    pub length: u32,
    /// Where in the block's payload, bytes; not on the wire, extents are adjacent.
    pub payload_offset: u32,
    /// CRC-64/NVME of the bytes, computed where the source was read; 0 of a hole.
    pub crc64_nvme: u64,
    /// They are zeros, and not in the payload.
    pub is_hole: bool,
}

impl Extent {
    /// Bytes of it in the payload.
    #[must_use]
    pub const fn payload_bytes(&self) -> u32 {
        if self.is_hole { 0 } else { self.length }
    }
}

/// CRC-64/NVME, the checksum of S3's `x-amz-checksum-crc64nvme`.
#[must_use]
pub fn crc64_nvme(bytes: &[u8]) -> u64 {
    crc_fast::crc64_nvme(bytes)
}
