//! From a block that arrived to what storage takes.

use std::sync::Arc;

use tradewind_fabric::SharedBlock;
use tradewind_proto::block::{BlockTable, FileRecord, WITHDRAWN};
use tradewind_storage::{FileMeta, Piece, ReadyBlock};
use tradewind_wire::BlockId;

/// Attribute of a withdrawn file: why the sender gives it up.
pub const ERROR_ATTRIBUTE: &str = "error";
/// Attribute of a file that comes out of a store: CRC-64/NVME of the whole as the store keeps it, base64.
pub const CRC_ATTRIBUTE: &str = "crc64nvme";

/// Takes away the attributes that are about the way of a file and not to be kept of it.
pub fn forget_way(record: &mut FileRecord) {
    let kept = record.attributes.iter().filter(|(name, _)| !matches!(name.as_str(), ERROR_ATTRIBUTE | CRC_ATTRIBUTE));
    record.attributes = kept.cloned().collect();
}

/// A verified block as the uploader takes it.
#[must_use]
pub fn ready_block(block: BlockId, image: SharedBlock, table: &BlockTable) -> ReadyBlock {
    let files = table
        .files
        .iter()
        .map(|record| FileMeta {
            file: record.file.0,
            path: record.path.clone(),
            size: record.size,
            mtime_ns: record.mtime_ns,
            mode: record.mode & !WITHDRAWN,
            attributes: Arc::clone(&record.attributes),
            withdrawn: record.is_withdrawn(),
        })
        .collect();
    let pieces = table
        .extents
        .iter()
        .map(|extent| Piece {
            file: extent.file.0,
            file_offset: extent.file_offset,
            len: extent.length,
            data_offset: extent.payload_offset,
            crc64: extent.crc64_nvme,
            is_hole: extent.is_hole,
        })
        .collect();
    ReadyBlock { id: block.0, data: image, files, pieces }
}
