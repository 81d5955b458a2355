//! The sender's files, cut into blocks, and what is remembered of them to compare with what arrives.

use tradewind_proto::block::{Attributes, BlockTable, BlockWriter, FileId, FileRecord, crc64_nvme};

use crate::random::Random;
use crate::world::World;

/// A block's image in a buffer that is used again.
pub(crate) struct Image {
    buffer: Vec<u8>,
    length: usize,
}

impl AsRef<[u8]> for Image {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

/// Cuts files into blocks.
pub(crate) struct Source {
    files: Vec<FileRecord>,
    file: usize,
    offset: u64,
    writer: BlockWriter,
    block_bytes: usize,
    random: Random,
    spare: Vec<Image>,
    /// CRC and length of each image cut, by block.
    pub(crate) cut: Vec<(u64, usize)>,
}

impl Source {
    pub(crate) fn new(world: &World) -> Self {
        let mut random = Random::new(world.seed, 30);
        let count = world.files.max(1);
        let mut left = world.bytes;
        let files = (0..count)
            .map(|file| {
                let size = if file + 1 == count { left } else { (left as f64 * random.unit() * 2.0 / f64::from(count - file)) as u64 };
                let size = if random.happens(0.1) && file + 1 < count { 0 } else { size.min(left) };
                left -= size;
                FileRecord {
                    file: FileId(file),
                    path: format!("d/{file}.bin").into_bytes(),
                    size,
                    mtime_ns: i64::from(file),
                    mode: 0o640,
                    attributes: Attributes::default(),
                }
            })
            .collect();
        let writer = BlockWriter::new(world.block_bytes);
        Self { files, file: 0, offset: 0, writer, block_bytes: world.block_bytes, random, spare: Vec::new(), cut: Vec::new() }
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.file == self.files.len()
    }

    /// Takes a buffer back.
    pub(crate) fn recycle(&mut self, image: Image) {
        self.spare.push(image);
    }

    /// The next block, if files are left.
    pub(crate) fn next_block(&mut self) -> Option<Image> {
        if self.is_exhausted() {
            return None;
        }
        let mut image = self.spare.pop().unwrap_or_else(|| {
            let mut buffer = vec![0; BlockWriter::image_bytes_max(self.block_bytes)];
            self.random.fill(&mut buffer);
            Image { buffer, length: 0 }
        });
        while let Some(record) = self.files.get(self.file) {
            let Some(room) = self.writer.room(record) else { break };
            let left = record.size - self.offset;
            let length = left.min(room as u64) as usize;
            if length == 0 && left > 0 {
                break;
            }
            let at = self.writer.payload_bytes();
            let payload = &mut image.buffer[at..at + length];
            // Fresh bytes here and there: a recycled buffer must not look like the block that it held.
            for piece in payload.chunks_mut(512) {
                let bits = self.random.bits().to_le_bytes();
                let stamp = bits.len().min(piece.len());
                piece[..stamp].copy_from_slice(&bits[..stamp]);
            }
            let crc = crc64_nvme(payload);
            if self.writer.add(record, self.offset, length as u32, crc).is_err() {
                break;
            }
            self.offset += length as u64;
            if self.offset == record.size {
                self.file += 1;
                self.offset = 0;
            }
        }
        image.length = self.writer.finish(&mut image.buffer);
        self.cut.push((crc64_nvme(image.as_ref()), image.length));
        Some(image)
    }

    /// Whether these extents cover every file once and whole.
    pub(crate) fn covers(&self, extents: &mut [(u32, u64, u32)]) -> Result<(), String> {
        extents.sort_unstable();
        let mut at = extents.iter().peekable();
        for record in &self.files {
            let mut offset = 0;
            let mut count = 0;
            while let Some((_, from, length)) = at.next_if(|extent| extent.0 == record.file.0) {
                if *from != offset {
                    return Err(format!("file {} has a hole or an overlap at {offset}", record.file.0));
                }
                offset += u64::from(*length);
                count += 1;
            }
            if offset != record.size || count == 0 {
                return Err(format!("file {} has {offset} of {} bytes in {count} extents", record.file.0, record.size));
            }
        }
        match at.next() {
            Some(extra) => Err(format!("file {} was never sent", extra.0)),
            None => Ok(()),
        }
    }
}

/// Compares a received image with what was cut and appends its extents.
pub(crate) fn verify(cut: Option<&(u64, usize)>, image: &[u8], extents: &mut Vec<(u32, u64, u32)>) -> Result<(), String> {
    let &(crc, length) = cut.ok_or("a block that was never cut")?;
    if image.len() != length || crc64_nvme(image) != crc {
        return Err(format!("image of {} bytes is not the {length} bytes that were sent", image.len()));
    }
    let table = BlockTable::parse(image).map_err(|error| error.to_string())?;
    table.verify_payload(image).map_err(|error| error.to_string())?;
    extents.extend(table.extents.iter().map(|extent| (extent.file.0, extent.file_offset, extent.length)));
    Ok(())
}
