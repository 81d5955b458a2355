//! From a block that arrived to what storage takes.

use std::sync::Arc;

use tradewind_fabric::SharedBlock;
use tradewind_proto::block::{Attributes, BlockTable, FileRecord, WITHDRAWN};
use tradewind_storage::{FileMeta, Piece, ReadyBlock};
use tradewind_wire::BlockId;

/// Attribute of a withdrawn file: why the sender gives it up.
pub const ERROR_ATTRIBUTE: &str = ":error";
/// Attribute of a file that comes out of a store: CRC-64/NVME of the whole as the store keeps it, base64.
pub const CRC_ATTRIBUTE: &str = ":crc64nvme";

/// Whether an attribute is about the way of a file and not to be kept of it. No store has metadata of such a name: HTTP has none with ':'.
#[must_use]
pub fn is_of_the_way(name: &str) -> bool {
    name.starts_with(':')
}

/// What is to be kept of a file.
fn kept(record: &FileRecord) -> Attributes {
    if !record.attributes.iter().any(|(name, _)| is_of_the_way(name)) {
        return Arc::clone(&record.attributes);
    }
    record.attributes.iter().filter(|(name, _)| !is_of_the_way(name)).cloned().collect()
}

/// A verified block as the uploader takes it.
#[must_use]
pub fn ready_block(block: BlockId, image: SharedBlock, table: &BlockTable) -> ReadyBlock {
    let (files, pieces) = files_and_pieces(table);
    ReadyBlock { id: block.0, data: image, files, pieces }
}

/// What a block holds, as the uploader knows it.
#[must_use]
pub fn files_and_pieces(table: &BlockTable) -> (Vec<FileMeta>, Vec<Piece>) {
    let files = table
        .files
        .iter()
        .map(|record| FileMeta {
            file: record.file.0,
            path: record.path.clone(),
            size: record.size,
            mtime_ns: record.mtime_ns,
            mode: record.mode & !WITHDRAWN,
            attributes: kept(record),
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
    (files, pieces)
}

#[cfg(test)]
mod tests {
    use tradewind_fabric::BlockPool;
    use tradewind_proto::block::{BlockWriter, FileId, crc64_nvme};

    use super::*;

    #[test]
    fn what_is_about_the_way_is_not_kept_and_metadata_of_that_name_is() {
        let attributes =
            [(CRC_ATTRIBUTE, "AAAAAAAAAAA="), (ERROR_ATTRIBUTE, "why"), ("crc64nvme", "of somebody"), ("error", "e"), ("uid", "7")];
        let attributes: Attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let record = FileRecord { file: FileId(3), path: b"f".to_vec(), size: 0, mtime_ns: 5, mode: 0o600, attributes };
        let mut slot = BlockPool::new(1, BlockWriter::image_bytes_max(65_536)).unwrap().take().unwrap();
        let mut writer = BlockWriter::new(65_536);
        writer.add(&record, 0, 0, crc64_nvme(&[])).unwrap();
        let image_bytes = writer.finish(&mut slot);
        let table = BlockTable::verified(&slot[..image_bytes]).unwrap();
        assert_eq!(table.files[0].attributes.len(), 5, "all of it travels");
        let block = ready_block(BlockId(1), slot.freeze(image_bytes), &table);
        let names: Vec<&str> = block.files[0].attributes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["crc64nvme", "error", "uid"]);
    }
}
