//! Reading a block's table: the receiver's side. Every byte may be hostile.

use tradewind_wire::limits::{EXTENTS_PER_BLOCK_MAX, HOLE_BYTES_PER_BLOCK_MAX, PATH_BYTES_MAX};

use super::{
    ATTRIBUTES_BYTES_MAX, EXTENT_BYTES, Extent, FOOTER_BYTES, FileId, FileRecord, HOLE, MAGIC, RECORD_BYTES, TABLE_VERSION,
    TABLE_VERSION_HOLES, attributes, check_path, crc64_nvme,
};

/// Why an image is not a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Too short, or lengths that do not add up.
    #[error("the block's lengths do not add up")]
    Length,
    /// Not one of ours, or of another version.
    #[error("the block's footer is of another format or version")]
    Version,
    /// The table was damaged between the sender's memory and ours.
    #[error("the block table's checksum does not match")]
    Checksum,
    /// More extents or longer paths than the format allows.
    #[error("the block table exceeds a limit")]
    Limit,
    /// A path that could leave the destination.
    #[error("a path in the block table is refused: {0}")]
    Path(#[from] super::PathError),
    /// Attributes that cannot be kept as an object's metadata.
    #[error("attributes of a file in the block table are not as agreed")]
    Attributes,
    /// An extent of a file whose record is missing, or that ends behind the file.
    #[error("an extent in the block table does not fit its file")]
    Extent,
    /// The payload is not what the source's checksum says.
    #[error("the payload of extent {extent} does not match the checksum taken at the source")]
    Payload {
        /// Index of the extent in the table.
        extent: usize,
    },
}

/// A checked block table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockTable {
    /// Payload bytes at the start of the image.
    pub payload_bytes: u32,
    /// Records of the files that the extents name.
    pub files: Vec<FileRecord>,
    /// Extents, in the order of their payload.
    pub extents: Vec<Extent>,
}

impl BlockTable {
    /// Reads and checks the table of a whole image.
    ///
    /// # Errors
    /// [`TableError`]; any input is answered with one, none panics or allocates more than the image's size.
    pub fn parse(image: &[u8]) -> Result<Self, TableError> {
        let (body, footer) = image.split_at_checked(image.len().wrapping_sub(FOOTER_BYTES)).ok_or(TableError::Length)?;
        let mut footer = Fields(footer);
        let (payload, table) = (footer.u32()? as usize, footer.u32()? as usize);
        let crc = footer.u64()?;
        let version = footer.u32()?;
        if !matches!(version, TABLE_VERSION | TABLE_VERSION_HOLES) || footer.0 != MAGIC {
            return Err(TableError::Version);
        }
        if payload.checked_add(table) != Some(body.len()) {
            return Err(TableError::Length);
        }
        if crc64_nvme(&image[payload..body.len() + 8]) != crc {
            return Err(TableError::Checksum);
        }
        let mut fields = Fields(&body[payload..]);
        let files = read_files(&mut fields)?;
        let extents = read_extents(&mut fields, &files, version == TABLE_VERSION_HOLES)?;
        let total: u64 = extents.iter().map(|extent| u64::from(extent.payload_bytes())).sum();
        if !fields.0.is_empty() || total != payload as u64 {
            return Err(TableError::Length);
        }
        Ok(Self { payload_bytes: payload as u32, files, extents })
    }

    /// [`BlockTable::parse`] and [`BlockTable::verify_payload`].
    ///
    /// # Errors
    /// [`TableError`].
    pub fn verified(image: &[u8]) -> Result<Self, TableError> {
        let table = Self::parse(image)?;
        table.verify_payload(image)?;
        Ok(table)
    }

    /// Recomputes every extent's checksum over the image's payload.
    ///
    /// # Errors
    /// [`TableError::Payload`] names the first extent that differs.
    pub fn verify_payload(&self, image: &[u8]) -> Result<(), TableError> {
        for (index, extent) in self.extents.iter().enumerate().filter(|(_, extent)| !extent.is_hole) {
            let start = extent.payload_offset as usize;
            let bytes = image.get(start..start + extent.length as usize).ok_or(TableError::Length)?;
            if crc64_nvme(bytes) != extent.crc64_nvme {
                return Err(TableError::Payload { extent: index });
            }
        }
        Ok(())
    }

    /// The record of a file that one of this table's extents names.
    #[must_use]
    pub fn record(&self, file: FileId) -> Option<&FileRecord> {
        self.files.iter().find(|record| record.file == file)
    }
}

fn read_files(fields: &mut Fields<'_>) -> Result<Vec<FileRecord>, TableError> {
    let count = fields.u32()? as usize;
    if count > EXTENTS_PER_BLOCK_MAX || count > fields.0.len() / RECORD_BYTES {
        return Err(TableError::Limit);
    }
    let mut files: Vec<FileRecord> = Vec::with_capacity(count);
    for _ in 0..count {
        let file = FileId(fields.u32()?);
        let size = fields.u64()?;
        let mtime_ns = fields.u64()? as i64;
        let mode = fields.u32()?;
        let length = usize::from(fields.u16()?);
        if length > PATH_BYTES_MAX {
            return Err(TableError::Limit);
        }
        let path = fields.take(length)?;
        check_path(path)?;
        let length = usize::from(fields.u16()?);
        if length > ATTRIBUTES_BYTES_MAX {
            return Err(TableError::Limit);
        }
        let attributes = attributes::read(fields.take(length)?).ok_or(TableError::Attributes)?;
        files.push(FileRecord { file, path: path.to_vec(), size, mtime_ns, mode, attributes });
    }
    Ok(files)
}

/// Extents stand in the order of their files' records, so one pass finds each record.
fn read_extents(fields: &mut Fields<'_>, files: &[FileRecord], may_have_holes: bool) -> Result<Vec<Extent>, TableError> {
    let count = fields.u32()? as usize;
    if count > EXTENTS_PER_BLOCK_MAX || count > fields.0.len() / EXTENT_BYTES {
        return Err(TableError::Limit);
    }
    let mut extents = Vec::with_capacity(count);
    let (mut payload_offset, mut holes) = (0u32, 0u64);
    let mut records = files.iter();
    let mut record = records.next();
    let mut used = record.is_none();
    for _ in 0..count {
        let file = FileId(fields.u32()?);
        let file_offset = fields.u64()?;
        let length = fields.u32()?;
        let crc64_nvme = fields.u64()?;
        let (is_hole, length) = if may_have_holes { (length & HOLE != 0, length & !HOLE) } else { (false, length) };
        if is_hole {
            holes += u64::from(length);
            if holes > HOLE_BYTES_PER_BLOCK_MAX {
                return Err(TableError::Limit);
            }
            if length == 0 || crc64_nvme != 0 {
                return Err(TableError::Extent);
            }
        }
        while record.is_some_and(|record| record.file != file) {
            // A record without an extent would make the store open a file that no credit bounds.
            if !used {
                return Err(TableError::Extent);
            }
            record = records.next();
            used = false;
        }
        let record = record.ok_or(TableError::Extent)?;
        let size = record.size;
        if length == 0 && size != 0 && !record.is_withdrawn() {
            return Err(TableError::Extent);
        }
        used = true;
        if file_offset.checked_add(u64::from(length)).is_none_or(|end| end > size) {
            return Err(TableError::Extent);
        }
        let extent = Extent { file, file_offset, length, payload_offset, crc64_nvme, is_hole };
        extents.push(extent);
        payload_offset = payload_offset.checked_add(extent.payload_bytes()).ok_or(TableError::Limit)?;
    }
    if used && records.next().is_none() { Ok(extents) } else { Err(TableError::Extent) }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], TableError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(TableError::Length)?;
        self.0 = tail;
        Ok(head)
    }

    fn uint(&mut self, count: usize) -> Result<u64, TableError> {
        Ok(self.take(count)?.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn u16(&mut self) -> Result<u16, TableError> {
        Ok(self.uint(2)? as u16)
    }

    fn u32(&mut self) -> Result<u32, TableError> {
        Ok(self.uint(4)? as u32)
    }

    fn u64(&mut self) -> Result<u64, TableError> {
        self.uint(8)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attributes, BlockWriter};
    use super::*;

    fn record(file: u32, path: &str, size: u64) -> FileRecord {
        FileRecord { file: FileId(file), path: path.into(), size, mtime_ns: -5, mode: 0o644, attributes: Attributes::default() }
    }

    fn sample() -> Vec<u8> {
        let mut slot = vec![0; BlockWriter::image_bytes_max(65_536)];
        let mut writer = BlockWriter::new(65_536);
        for (file, path, text) in [(0, "a", "hello"), (1, "d/empty", ""), (2, "d/b", "world!")] {
            let at = writer.payload_bytes();
            slot[at..at + text.len()].copy_from_slice(text.as_bytes());
            let mut record = record(file, path, text.len() as u64);
            if file == 2 {
                record.attributes = [("uid".to_owned(), "1000".to_owned())].into();
            }
            writer.add(&record, 0, text.len() as u32, crc64_nvme(text.as_bytes())).unwrap();
        }
        let length = writer.finish(&mut slot);
        slot.truncate(length);
        slot
    }

    #[test]
    fn what_was_cut_is_read_back() {
        let image = sample();
        let table = BlockTable::parse(&image).unwrap();
        assert_eq!(table.files[2].attributes[..], [("uid".to_owned(), "1000".to_owned())]);
        assert_eq!(table.payload_bytes, 11);
        assert_eq!(table.files.len(), 3);
        assert_eq!(table.extents[2].payload_offset, 5);
        assert_eq!(table.record(FileId(2)).unwrap().path, b"d/b");
        table.verify_payload(&image).unwrap();
        let mut damaged = image.clone();
        damaged[7] ^= 1;
        assert_eq!(BlockTable::parse(&damaged).unwrap().verify_payload(&damaged), Err(TableError::Payload { extent: 2 }));
    }

    #[test]
    fn a_file_is_withdrawn_in_the_block_of_its_bytes_or_in_a_later_one() {
        let mut slot = vec![0; BlockWriter::image_bytes_max(65_536)];
        let mut writer = BlockWriter::new(65_536);
        let (first, second) = (record(0, "a", 100), record(1, "b", 3));
        writer.add(&second, 0, 3, crc64_nvme(&[0; 3])).unwrap();
        writer.withdraw(&first).unwrap();
        writer.withdraw(&first).unwrap();
        let length = writer.finish(&mut slot);
        let table = BlockTable::parse(&slot[..length]).unwrap();
        table.verify_payload(&slot[..length]).unwrap();
        assert_eq!(table.files.iter().map(|file| (file.file.0, file.is_withdrawn())).collect::<Vec<_>>(), [(1, false), (0, true)]);
        writer.add(&first, 0, 7, crc64_nvme(&[0; 7])).unwrap();
        writer.withdraw(&first).unwrap();
        slot.fill(0);
        let length = writer.finish(&mut slot);
        let table = BlockTable::parse(&slot[..length]).unwrap();
        assert_eq!((table.files.len(), table.files[0].is_withdrawn(), table.extents.len()), (1, true, 1));
    }

    #[test]
    fn holes_are_told_without_payload_and_bounded() {
        const W: u64 = 65_536;
        let mut slot = vec![0; BlockWriter::image_bytes_max(W as usize)];
        let mut writer = BlockWriter::new(W as usize);
        let file = record(0, "a", HOLE_BYTES_PER_BLOCK_MAX + 10 * W);
        writer.add(&file, 0, 100, crc64_nvme(&[0; 100])).unwrap();
        assert_eq!(writer.add_hole(&file, 100, W - 100), Ok(W - 100), "the rest of the window");
        assert_eq!(writer.add_hole(&file, W, W - 1), Ok(0), "the next window has bytes too, so it is another block's");
        assert_eq!(writer.window_room(&file, W), None);
        assert_eq!(writer.add_hole(&file, W, 3 * W + 5), Ok(3 * W));
        let most = HOLE_BYTES_PER_BLOCK_MAX / W * W - 4 * W;
        assert_eq!(writer.add_hole(&file, 4 * W, file.size - 4 * W), Ok(most), "as much as a block may tell of");
        assert_eq!(writer.add_hole(&file, 4 * W + most, W), Ok(0));
        let length = writer.finish(&mut slot);
        let image = &slot[..length];
        let table = BlockTable::parse(image).unwrap();
        table.verify_payload(image).unwrap();
        let holes: Vec<_> = table.extents.iter().map(|extent| (extent.file_offset, u64::from(extent.length), extent.is_hole)).collect();
        assert_eq!(holes, [(0, 100, false), (100, W - 100, true), (W, 3 * W, true), (4 * W, most, true)]);
        assert_eq!(table.payload_bytes, 100);
        assert_eq!(
            writer.add_hole(&file, file.size - 5, 6),
            Err(super::super::CutError::BeyondEnd { file_offset: file.size - 5, length: 6, size: file.size })
        );
        // A small file's holes go wherever there is room; a version that knows none takes none.
        let small = record(1, "b", W - 1);
        writer.add(&record(2, "c", 5), 0, 5, 0).unwrap();
        assert_eq!((writer.add_hole(&small, 10, 7), writer.window_room(&small, 17)), (Ok(7), Some(W as usize - 5)));
        let length = writer.finish(&mut slot);
        assert_eq!(slot[length - 8..length - 4], TABLE_VERSION_HOLES.to_be_bytes());
        slot[length - 8..length - 4].copy_from_slice(&TABLE_VERSION.to_be_bytes());
        assert!(BlockTable::parse(&slot[..length]).is_err());
    }

    #[test]
    fn every_truncation_and_every_flipped_table_byte_is_refused() {
        let image = sample();
        for length in 0..image.len() {
            assert!(BlockTable::parse(&image[..length]).is_err(), "{length}");
        }
        for at in 11..image.len() {
            let mut damaged = image.clone();
            damaged[at] ^= 0x40;
            assert!(BlockTable::parse(&damaged).is_err(), "{at}");
        }
    }

    #[test]
    fn a_record_without_bytes_and_an_empty_extent_of_a_full_file_are_refused() {
        // Re-sealed by hand: the writer never makes such tables.
        let reseal = |table: &[u8]| {
            let mut image = table.to_vec();
            image.extend(0u32.to_be_bytes());
            image.extend((table.len() as u32).to_be_bytes());
            let crc = crc64_nvme(&image);
            image.extend(crc.to_be_bytes());
            image.extend(TABLE_VERSION.to_be_bytes());
            image.extend(MAGIC);
            BlockTable::parse(&image)
        };
        let record_of = |size: u64| {
            let mut table = 1u32.to_be_bytes().to_vec();
            table.extend(7u32.to_be_bytes());
            table.extend(size.to_be_bytes());
            table.extend([0; 12]);
            table.extend(1u16.to_be_bytes());
            table.push(b'f');
            table.extend(0u16.to_be_bytes());
            table
        };
        let extent = |table: &mut Vec<u8>| {
            table.extend(1u32.to_be_bytes());
            table.extend(7u32.to_be_bytes());
            table.extend([0; 20]);
        };
        let mut empty_file = record_of(0);
        extent(&mut empty_file);
        assert!(reseal(&empty_file).is_ok());
        let mut full_file = record_of(1 << 40);
        extent(&mut full_file);
        assert_eq!(reseal(&full_file), Err(TableError::Extent));
        let mut nothing = record_of(0);
        nothing.extend(0u32.to_be_bytes());
        assert_eq!(reseal(&nothing), Err(TableError::Extent));
    }

    #[test]
    fn a_full_table_ends_a_block_before_its_payload_is_full() {
        let mut writer = BlockWriter::new(1 << 20);
        let mut added = 0u32;
        loop {
            let record = record(added, &format!("{added:0200}"), 1);
            if writer.room(&record).is_none() {
                assert_eq!(writer.add(&record, 0, 1, 0), Err(super::super::CutError::Full));
                break;
            }
            writer.add(&record, 0, 1, 0).unwrap();
            added += 1;
        }
        let mut slot = vec![0; BlockWriter::image_bytes_max(1 << 20)];
        let length = writer.finish(&mut slot);
        assert_eq!(BlockTable::parse(&slot[..length]).unwrap().files.len() as u32, added);
        assert!(added > 200);
    }

    #[test]
    fn an_extent_must_stay_inside_its_file() {
        let mut writer = BlockWriter::new(65_536);
        assert!(writer.add(&record(0, "a", 10), 5, 5, 0).is_ok());
        assert!(matches!(writer.add(&record(0, "a", 10), 5, 6, 0), Err(super::super::CutError::BeyondEnd { .. })));
        assert!(matches!(writer.add(&record(0, "a", 10), u64::MAX, 6, 0), Err(super::super::CutError::BeyondEnd { .. })));
    }
}
