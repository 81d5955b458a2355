//! Filling a block: the sender's side of the table.

use tradewind_wire::limits::{BLOCK_TABLE_MAX, EXTENTS_PER_BLOCK_MAX, HOLE_BYTES_PER_BLOCK_MAX};

use super::{
    COUNTS_BYTES, EXTENT_BYTES, Extent, FOOTER_BYTES, FileId, FileRecord, HOLE, MAGIC, RECORD_BYTES, TABLE_VERSION, TABLE_VERSION_HOLES,
    WITHDRAWN, attribute_bytes, attributes, check_attributes, check_path, crc64_nvme,
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
        length: u64,
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
    /// Bytes of holes.
    holes: u64,
    /// The last window of a large file of which a part is in here, the rest not or as other extents.
    window: Option<(FileId, u64)>,
}

impl BlockWriter {
    /// An empty block of at most `payload_max` payload bytes.
    #[must_use]
    pub fn new(payload_max: usize) -> Self {
        Self { payload_max, payload: 0, table: COUNTS_BYTES, files: Vec::new(), extents: Vec::new(), holes: 0, window: None }
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

    /// The same for bytes from `offset` on: of a large file, those of one **window** of as many bytes as a block has payload, and only if no
    /// other window's are in this block. So stores whose parts are whole windows never wait for more blocks than a part has windows.
    #[must_use]
    pub fn window_room(&self, record: &FileRecord, offset: u64) -> Option<usize> {
        let room = self.room(record)?;
        if self.is_small(record) {
            return Some(room);
        }
        let (window, at) = self.window_of(offset);
        // What of it are holes must fit too: none of it begins here otherwise.
        if at == 0 && HOLE_BYTES_PER_BLOCK_MAX - self.holes < self.payload_max as u64 {
            return None;
        }
        (!self.has_other_window(record, window)).then(|| room.min(self.payload_max - at as usize))
    }

    fn is_small(&self, record: &FileRecord) -> bool {
        record.size < self.payload_max as u64
    }

    /// The number of a window, and how far `offset` is in it.
    fn window_of(&self, offset: u64) -> (u64, u64) {
        (offset / self.payload_max as u64, offset % self.payload_max as u64)
    }

    fn has_other_window(&self, record: &FileRecord, window: u64) -> bool {
        self.window.is_some_and(|(file, other)| file == record.file && other != window)
    }

    /// Adds as much of a hole of `wanted` bytes at `file_offset` as this block may tell of, and returns how much that is, bytes; 0: finish the
    /// block and go on in the next one. Extents of one file must follow each other.
    ///
    /// # Errors
    /// [`CutError`] but for [`CutError::Full`]; nothing was added then.
    pub fn add_hole(&mut self, record: &FileRecord, file_offset: u64, wanted: u64) -> Result<u64, CutError> {
        check_path(&record.path)?;
        check_attributes(&record.attributes)?;
        if file_offset.checked_add(wanted).is_none_or(|end| end > record.size) {
            return Err(CutError::BeyondEnd { file_offset, length: wanted, size: record.size });
        }
        let payload_max = self.payload_max as u64;
        let ((window, at), allowed) = (self.window_of(file_offset), HOLE_BYTES_PER_BLOCK_MAX - self.holes);
        let is_small = self.is_small(record);
        let is_part_of_window = !is_small && (at > 0 || wanted < payload_max);
        let length = if is_small {
            wanted.min(allowed)
        } else if is_part_of_window {
            let length = wanted.min(payload_max - at);
            if length > allowed || self.has_other_window(record, window) { 0 } else { length }
        } else {
            wanted.min(allowed) / payload_max * payload_max
        };
        if length == 0 || self.room(record).is_none() {
            return Ok(0);
        }
        // At most HOLE_BYTES_PER_BLOCK_MAX, which fits.
        self.push(record, file_offset, length as u32, 0, true);
        self.holes += length;
        if is_part_of_window {
            self.window = Some((record.file, window));
        }
        Ok(length)
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
            return Err(CutError::BeyondEnd { file_offset, length: length.into(), size: record.size });
        }
        if self.room(record).is_none_or(|room| room < length as usize) {
            return Err(CutError::Full);
        }
        self.push(record, file_offset, length, crc64_nvme, false);
        if length > 0 && !self.is_small(record) {
            self.window = Some((record.file, self.window_of(file_offset).0));
        }
        Ok(())
    }

    fn push(&mut self, record: &FileRecord, file_offset: u64, length: u32, crc64_nvme: u64, is_hole: bool) {
        self.table += self.table_growth(record);
        if self.files.last().is_none_or(|last| last.file != record.file) {
            self.files.push(record.clone());
        }
        let extent = Extent { file: record.file, file_offset, length, payload_offset: self.payload as u32, crc64_nvme, is_hole };
        self.payload += extent.payload_bytes() as usize;
        self.extents.push(extent);
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
        self.push(&FileRecord { mode: record.mode | WITHDRAWN, ..record.clone() }, 0, 0, 0, false);
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
            out.put(&(extent.length | if extent.is_hole { HOLE } else { 0 }).to_be_bytes());
            out.put(&extent.crc64_nvme.to_be_bytes());
        }
        let table = out.at - self.payload;
        debug_assert_eq!(table, self.table);
        out.put(&(self.payload as u32).to_be_bytes());
        out.put(&(table as u32).to_be_bytes());
        let crc = crc64_nvme(&out.slot[self.payload..out.at]);
        out.put(&crc.to_be_bytes());
        let version = if self.holes > 0 { TABLE_VERSION_HOLES } else { TABLE_VERSION };
        out.put(&version.to_be_bytes());
        out.put(&MAGIC);
        let image = out.at;
        self.files.clear();
        self.extents.clear();
        (self.payload, self.holes, self.window) = (0, 0, None);
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
