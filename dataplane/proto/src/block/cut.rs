//! Filling a block: the sender's side of the table.

use tradewind_wire::limits::{BLOCK_TABLE_MAX, EXTENTS_PER_BLOCK_MAX};

use super::{
    COUNTS_BYTES, EXTENT_BYTES, Extent, FOOTER_BYTES, FileRecord, MAGIC, RECORD_BYTES, TABLE_VERSION, WITHDRAWN, attribute_bytes,
    attributes, check_attributes, check_path, crc64_nvme,
};

/// Why an extent cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// The block is full; finish it and add the extent to the next one.
    #[error("the block is full")]
    Full,
    /// The file's path cannot be sent.
    #[error(transparent)]
    Path(#[from] super::PathError),
    /// The file's attributes cannot be sent.
    #[error(transparent)]
    Attributes(#[from] super::AttributeError),
    /// The extent ends behind the file's size.
    #[error("an extent of {length} bytes at {file_offset} ends behind the file's size of {size}")]
    BeyondEnd {
        /// Where the extent starts.
        file_offset: u64,
        /// Its length.
        length: u32,
        /// The file's size as its record says.
        size: u64,
    },
}

/// Collects the extents of one block and writes its table. The caller puts the payload bytes into the slot itself, at
/// [`BlockWriter::payload_bytes`], before it adds the extent.
#[derive(Debug)]
pub struct BlockWriter {
    payload_max: usize,
    payload: usize,
    table: usize,
    files: Vec<FileRecord>,
    extents: Vec<Extent>,
}

impl BlockWriter {
    /// An empty block of at most `payload_max` payload bytes.
    #[must_use]
    pub fn new(payload_max: usize) -> Self {
        Self { payload_max, payload: 0, table: COUNTS_BYTES, files: Vec::new(), extents: Vec::new() }
    }

    /// Bytes that a slot needs for blocks of `payload_max` payload bytes.
    #[must_use]
    pub const fn image_bytes_max(payload_max: usize) -> usize {
        payload_max + BLOCK_TABLE_MAX
    }

    /// Payload bytes so far: where the next extent's bytes go.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.payload
    }

    /// Whether nothing was added yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Payload bytes of this file that still fit, or `None` when not even its record does.
    #[must_use]
    pub fn room(&self, record: &FileRecord) -> Option<usize> {
        let fits = self.table + self.table_growth(record) + FOOTER_BYTES <= BLOCK_TABLE_MAX && self.extents.len() < EXTENTS_PER_BLOCK_MAX;
        fits.then(|| self.payload_max - self.payload)
    }

    fn table_growth(&self, record: &FileRecord) -> usize {
        let known = self.files.last().is_some_and(|last| last.file == record.file);
        EXTENT_BYTES + if known { 0 } else { RECORD_BYTES + record.path.len() + attribute_bytes(&record.attributes) }
    }

    /// Adds the `length` bytes that the caller has put at [`BlockWriter::payload_bytes`]; an empty file has one extent of
    /// length 0. Extents of one file must follow each other.
    ///
    /// # Errors
    /// [`CutError`]; nothing was added then.
    pub fn add(&mut self, record: &FileRecord, file_offset: u64, length: u32, crc64_nvme: u64) -> Result<(), CutError> {
        check_path(&record.path)?;
        check_attributes(&record.attributes)?;
        if file_offset.checked_add(u64::from(length)).is_none_or(|end| end > record.size) {
            return Err(CutError::BeyondEnd { file_offset, length, size: record.size });
        }
        if self.room(record).is_none_or(|room| room < length as usize) {
            return Err(CutError::Full);
        }
        self.push(record, file_offset, length, crc64_nvme);
        Ok(())
    }

    fn push(&mut self, record: &FileRecord, file_offset: u64, length: u32, crc64_nvme: u64) {
        self.table += self.table_growth(record);
        if self.files.last().is_none_or(|last| last.file != record.file) {
            self.files.push(record.clone());
        }
        self.extents.push(Extent { file: record.file, file_offset, length, payload_offset: self.payload as u32, crc64_nvme });
        self.payload += length as usize;
    }

    /// Tells the receiver that nothing more comes of a file of which it may have extents. Of the file that was added last, this block's own
    /// extents are dropped there too.
    ///
    /// # Errors
    /// [`CutError::Full`]: finish the block and say it in the next one.
    pub fn withdraw(&mut self, record: &FileRecord) -> Result<(), CutError> {
        check_path(&record.path)?;
        check_attributes(&record.attributes)?;
        if let Some(last) = self.files.last_mut().filter(|last| last.file == record.file) {
            last.mode |= WITHDRAWN;
            return Ok(());
        }
        if self.room(record).is_none() {
            return Err(CutError::Full);
        }
        self.push(&FileRecord { mode: record.mode | WITHDRAWN, ..record.clone() }, 0, 0, 0);
        Ok(())
    }

    /// Writes table and footer behind the payload in `slot`, returns the image's length and starts an empty block.
    ///
    /// # Panics
    /// If `slot` is shorter than [`BlockWriter::image_bytes_max`]: a mistake of the caller, not of any input.
    pub fn finish(&mut self, slot: &mut [u8]) -> usize {
        assert!(slot.len() >= Self::image_bytes_max(self.payload_max), "the slot is too small for the block");
        let mut out = Cursor { slot, at: self.payload };
        out.put(&(self.files.len() as u32).to_be_bytes());
        for file in &self.files {
            out.put(&file.file.0.to_be_bytes());
            out.put(&file.size.to_be_bytes());
            out.put(&file.mtime_ns.to_be_bytes());
            out.put(&file.mode.to_be_bytes());
            out.put(&(file.path.len() as u16).to_be_bytes());
            out.put(&file.path);
            out.put(&(attribute_bytes(&file.attributes) as u16).to_be_bytes());
            attributes::write(&file.attributes, |bytes| out.put(bytes));
        }
        out.put(&(self.extents.len() as u32).to_be_bytes());
        for extent in &self.extents {
            out.put(&extent.file.0.to_be_bytes());
            out.put(&extent.file_offset.to_be_bytes());
            out.put(&extent.length.to_be_bytes());
            out.put(&extent.crc64_nvme.to_be_bytes());
        }
        let table = out.at - self.payload;
        debug_assert_eq!(table, self.table);
        out.put(&(self.payload as u32).to_be_bytes());
        out.put(&(table as u32).to_be_bytes());
        let crc = crc64_nvme(&out.slot[self.payload..out.at]);
        out.put(&crc.to_be_bytes());
        out.put(&TABLE_VERSION.to_be_bytes());
        out.put(&MAGIC);
        let image = out.at;
        self.files.clear();
        self.extents.clear();
        self.payload = 0;
        self.table = COUNTS_BYTES;
        image
    }
}

struct Cursor<'a> {
    slot: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.slot[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}
