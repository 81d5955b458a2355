//! Reading sources and cutting them into blocks.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::Sender;
use tradewind_fabric::{BlockBuf, BlockPool, SharedBlock};
use tradewind_proto::block::{BlockWriter, FileId, FileRecord, check_path, crc64_nvme};

use crate::error::SourceError;

/// A file to be sent, and its name at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where to read.
    pub path: PathBuf,
    /// Relative name at the destination, components separated by `/`.
    pub name: Vec<u8>,
}

/// An opened source whose size and times are known.
pub(crate) struct Opened {
    file: File,
    path: PathBuf,
    record: FileRecord,
    mtime: (i64, i64),
}

/// Reads blocks on a thread of its own.
pub(crate) struct Reader {
    pub(crate) pool: BlockPool,
    pub(crate) payload_max: usize,
    pub(crate) blocks: Sender<SharedBlock>,
    pub(crate) on_block: Box<dyn Fn() + Send>,
    pub(crate) stop: std::sync::Arc<AtomicBool>,
}

/// The receiving side of the channel has gone, or the transfer was stopped: not an error of a source.
pub(crate) struct Stopped;

pub(crate) enum ReadError {
    Stopped,
    Source(SourceError),
}

impl From<Stopped> for ReadError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<SourceError> for ReadError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

/// Opens all sources and notes their sizes, so that a missing one is found before anything is sent.
pub(crate) fn open(index: usize, source: &Source) -> Result<Opened, SourceError> {
    let read = |error| SourceError::Read { path: source.path.clone(), source: error };
    check_path(&source.name).map_err(|reason| SourceError::Name {
        path: source.path.clone(),
        name: String::from_utf8_lossy(&source.name).into_owned(),
        reason: reason.to_string(),
    })?;
    // Without O_NONBLOCK the open of a FIFO would wait for a writer.
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32 | rustix::fs::OFlags::NOCTTY.bits() as i32)
        .open(&source.path)
        .map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(SourceError::NotAFile { path: source.path.clone() });
    }
    let record = FileRecord {
        file: FileId(u32::try_from(index).unwrap_or(u32::MAX)),
        path: source.name.clone(),
        size: metadata.len(),
        mtime_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
        mode: metadata.mode() & 0o7777,
    };
    // Only advice: the kernel reads ahead further.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
    Ok(Opened { file, path: source.path.clone(), record, mtime: times(&metadata) })
}

/// Size of a source by its path, without opening it.
pub(crate) fn size(path: &Path) -> Result<u64, SourceError> {
    let metadata = std::fs::metadata(path).map_err(|source| SourceError::Read { path: path.to_owned(), source })?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(SourceError::NotAFile { path: path.to_owned() }) }
}

fn times(metadata: &Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

impl Opened {
    fn changed(&self, what: String) -> SourceError {
        SourceError::Changed { path: self.path.clone(), what }
    }

    /// Reads exactly `into.len()` bytes at `offset`.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.file.read_exact_at(into, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.changed(format!("it ended before {} bytes", self.record.size)),
            _ => SourceError::Read { path: self.path.clone(), source },
        })
    }

    /// Whether the file is still what it was when it was opened.
    fn check_unchanged(&self) -> Result<(), SourceError> {
        let metadata = self.file.metadata().map_err(|source| SourceError::Read { path: self.path.clone(), source })?;
        if metadata.len() != self.record.size {
            return Err(self.changed(format!("its size went from {} to {} bytes", self.record.size, metadata.len())));
        }
        if times(&metadata) != self.mtime {
            return Err(self.changed("its modification time moved".to_owned()));
        }
        Ok(())
    }
}

/// A block being filled.
struct Filling {
    slot: BlockBuf,
    writer: BlockWriter,
}

impl Reader {
    /// Reads all sources into blocks and hands them over, in order.
    pub(crate) fn run(&self, sources: &[Source]) -> Result<(), ReadError> {
        let mut filling = self.start()?;
        for (index, source) in sources.iter().enumerate() {
            let opened = open(index, source)?;
            filling = self.read_file(&opened, filling)?;
        }
        if !filling.writer.is_empty() {
            self.hand_over(filling)?;
        }
        Ok(())
    }

    /// A large file starts on a block boundary and fills whole blocks; small ones share.
    fn read_file(&self, opened: &Opened, mut filling: Filling) -> Result<Filling, ReadError> {
        let record = &opened.record;
        if record.size >= self.payload_max as u64 && !filling.writer.is_empty() {
            filling = self.hand_over_and_start(filling)?;
        }
        let mut offset = 0;
        loop {
            let left = record.size - offset;
            let room = filling.writer.room(record).filter(|&room| room > 0 || left == 0);
            let Some(room) = room else {
                filling = self.hand_over_and_start(filling)?;
                continue;
            };
            let length = left.min(room as u64) as usize;
            let at = filling.writer.payload_bytes();
            let into = &mut filling.slot[at..at + length];
            opened.read(offset, into)?;
            let crc = crc64_nvme(into);
            offset += length as u64;
            if offset == record.size {
                // Before the last extent leaves: the receiver completes the file with it.
                opened.check_unchanged()?;
            }
            filling.writer.add(record, offset - length as u64, length as u32, crc).map_err(|error| opened.changed(error.to_string()))?;
            if offset == record.size {
                return Ok(filling);
            }
        }
    }

    fn start(&self) -> Result<Filling, Stopped> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Stopped);
            }
            match self.pool.take() {
                Some(slot) => return Ok(Filling { slot, writer: BlockWriter::new(self.payload_max) }),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn hand_over(&self, mut filling: Filling) -> Result<(), Stopped> {
        let image_bytes = filling.writer.finish(&mut filling.slot);
        self.blocks.send(filling.slot.freeze(image_bytes)).map_err(|_| Stopped)?;
        (self.on_block)();
        Ok(())
    }

    fn hand_over_and_start(&self, filling: Filling) -> Result<Filling, Stopped> {
        self.hand_over(filling)?;
        self.start()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use tradewind_proto::block::BlockTable;

    use super::*;

    fn read_all(sources: &[Source]) -> Result<Vec<SharedBlock>, SourceError> {
        let pool = BlockPool::new(64, BlockWriter::image_bytes_max(65_536)).unwrap();
        let (blocks, out) = crossbeam::channel::unbounded();
        let reader = Reader { pool, payload_max: 65_536, blocks, on_block: Box::new(|| ()), stop: Arc::new(AtomicBool::new(false)) };
        match reader.run(sources) {
            Ok(()) => Ok(out.try_iter().collect()),
            Err(ReadError::Source(error)) => Err(error),
            Err(ReadError::Stopped) => panic!("nobody stopped it"),
        }
    }

    #[test]
    fn small_files_share_a_block_and_a_large_one_starts_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let mut sources = Vec::new();
        for (name, bytes) in [("a", 10), ("empty", 0), ("b", 20), ("large", 65_536 * 2 + 5), ("c", 7)] {
            let path = directory.path().join(name);
            File::create(&path).unwrap().write_all(&vec![b'x'; bytes]).unwrap();
            sources.push(Source { path, name: name.into() });
        }
        let blocks = read_all(&sources).unwrap();
        let shapes: Vec<Vec<(u32, u64, u32)>> = blocks
            .iter()
            .map(|block| {
                let table = BlockTable::parse(block).unwrap();
                table.verify_payload(block).unwrap();
                table.extents.iter().map(|extent| (extent.file.0, extent.file_offset, extent.length)).collect()
            })
            .collect();
        assert_eq!(
            shapes,
            [vec![(0, 0, 10), (1, 0, 0), (2, 0, 20)], vec![(3, 0, 65_536)], vec![(3, 65_536, 65_536)], vec![(3, 131_072, 5), (4, 0, 7)],]
        );
    }

    #[test]
    fn odd_sources_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Source { path: directory.path().join("missing"), name: b"m".to_vec() };
        assert!(matches!(read_all(&[missing]), Err(SourceError::Read { .. })));
        let itself = Source { path: directory.path().to_owned(), name: b"d".to_vec() };
        assert!(matches!(read_all(&[itself]), Err(SourceError::NotAFile { .. })));
        let file = directory.path().join("f");
        File::create(&file).unwrap();
        assert!(matches!(read_all(&[Source { path: file, name: b"../f".to_vec() }]), Err(SourceError::Name { .. })));
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(matches!(read_all(&[Source { path: fifo, name: b"fifo".to_vec() }]), Err(SourceError::NotAFile { .. })));
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, vec![1; 100]).unwrap();
        let source = Source { path: path.clone(), name: b"f".to_vec() };
        let opened = open(0, &source).unwrap();
        opened.check_unchanged().unwrap();
        std::fs::write(&path, vec![1; 90]).unwrap();
        assert!(matches!(opened.check_unchanged(), Err(SourceError::Changed { .. })));
        assert!(matches!(opened.read(50, &mut [0; 50]), Err(SourceError::Changed { .. })));
    }
}
