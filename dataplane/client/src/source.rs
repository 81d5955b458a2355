//! Reading sources and cutting them into blocks.

use std::fs::Metadata;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::Sender;
use tradewind_fabric::{BlockBuf, BlockPool, SharedBlock};
use tradewind_proto::block::{BlockWriter, CutError, FileId, FileRecord, check_path, crc64_nvme};
use tradewind_storage::{RunningCrc64, sparse_attribute};

use crate::durable::{Durable, ToCompare};
use crate::error::SourceError;
use crate::keep::{Keep, KeepError, SourceNote};
use crate::origin::Origin;
use crate::sealed::{SealedFile, Sealing};

/// Bytes read at once to compare contents.
const COMPARE_BYTES: usize = 1 << 20;
/// How often a reader that waits for room looks whether it is to stop.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// A file to be sent, and its name at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where to read.
    pub path: PathBuf,
    /// Relative name at the destination, components separated by `/`.
    pub name: Vec<u8>,
    /// What of it is sent.
    pub kind: SourceKind,
    /// Size, bytes, and modification time, nanoseconds since 1970, if somebody looked a moment ago: a file that is durable need not be looked at
    /// again.
    pub seen: Option<(u64, i64)>,
}

/// What is sent of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceKind {
    /// The contents of the regular file that the path leads to.
    #[default]
    File,
    /// The path is a symbolic link, and the bytes of its target are the contents.
    Link,
}

impl Source {
    /// A regular file, or a symbolic link that is followed to one.
    #[must_use]
    pub const fn file(path: PathBuf, name: Vec<u8>) -> Self {
        Self { path, name, kind: SourceKind::File, seen: None }
    }

    /// A symbolic link itself.
    #[must_use]
    pub const fn link(path: PathBuf, name: Vec<u8>) -> Self {
        Self { path, name, kind: SourceKind::Link, seen: None }
    }

    /// The same, and this is what was just seen of it.
    #[must_use]
    pub fn seen(self, metadata: &Metadata) -> Self {
        Self { seen: Some((metadata.len(), mtime_ns(metadata))), ..self }
    }
}

/// Files to be sent, in order, as they are found: sending begins before the last one is known.
pub struct Sources {
    files: Box<dyn Iterator<Item = Source> + Send>,
    found: Arc<Found>,
    keep: Keep,
    on_note: Box<dyn FnMut(SourceNote) + Send>,
    sealing: Option<Arc<Sealing>>,
}

/// What has been found so far.
#[derive(Debug, Default)]
pub struct Found {
    /// Files.
    pub files: AtomicU64,
    /// Sum of their sizes, bytes.
    pub bytes: AtomicU64,
}

impl Sources {
    /// `found` counts at least the files that the iterator has yielded.
    pub fn new(files: impl Iterator<Item = Source> + Send + 'static, found: Arc<Found>) -> Self {
        Self { files: Box::new(files), found, keep: Keep::default(), on_note: Box::new(drop), sealing: None }
    }

    /// The same with more kept of each file. `on_note` is told of what cannot be kept, on the reading thread.
    #[must_use]
    pub fn keeping(self, keep: Keep, on_note: impl FnMut(SourceNote) + Send + 'static) -> Self {
        Self { keep, on_note: Box::new(on_note), ..self }
    }

    /// The same, and files are sealed while they are read. Their names are those of the sealed files already.
    #[must_use]
    pub fn sealed(self, sealing: Option<Arc<Sealing>>) -> Self {
        Self { sealing, ..self }
    }

    pub(crate) fn sealing(&self) -> Option<Arc<Sealing>> {
        self.sealing.clone()
    }

    pub(crate) fn found(&self) -> Arc<Found> {
        Arc::clone(&self.found)
    }

    /// A list that is complete.
    ///
    /// # Errors
    /// [`SourceError`] of the first source that is not a readable file.
    pub fn of(files: Vec<Source>) -> Result<Self, SourceError> {
        let bytes = files.iter().try_fold(0u64, |sum, source| Ok::<_, SourceError>(sum.saturating_add(size_and_time(source)?.0)))?;
        let found = Arc::new(Found { files: AtomicU64::new(files.len() as u64), bytes: AtomicU64::new(bytes) });
        Ok(Self::new(files.into_iter(), found))
    }
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("found", &self.found).finish_non_exhaustive()
    }
}

/// An opened source whose size and times are known.
pub(crate) struct Opened {
    origin: Origin,
    path: PathBuf,
    record: FileRecord,
    metadata: Metadata,
    /// What is sent, if not the source itself.
    sealed: Option<SealedFile>,
    /// There are holes in it.
    is_sparse: bool,
}

/// Reads blocks on a thread of its own.
pub(crate) struct Reader {
    pub(crate) sealing: Option<Arc<Sealing>>,
    pub(crate) pool: BlockPool,
    pub(crate) payload_max: usize,
    pub(crate) blocks: Sender<SharedBlock>,
    /// Called when a block was handed over, and when there are no more.
    pub(crate) on_block: Box<dyn Fn() + Send>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) durable: Durable,
    pub(crate) tally: Arc<Tally>,
    /// Told of each file that cannot be sent.
    pub(crate) on_problem: Box<dyn FnMut(SourceError) + Send>,
}

/// What the reader has done so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Files read to their end, and their bytes that were read.
    pub(crate) files: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Files that were durable already, and durable bytes of all files.
    pub(crate) files_kept: AtomicU64,
    pub(crate) bytes_kept: AtomicU64,
    /// Files given up.
    pub(crate) files_failed: AtomicU64,
    /// Bytes of files given up that were not read.
    pub(crate) bytes_failed: AtomicU64,
    /// Bytes read to compare them with what is durable.
    pub(crate) bytes_compared: AtomicU64,
    /// Bytes of holes, which are among those read though nobody had to.
    pub(crate) bytes_holes: AtomicU64,
}

/// The receiving side of the channel has gone, or the transfer was stopped: not an error of a source.
pub(crate) struct Stopped;

/// Why the reading of one file ended early.
enum ReadError {
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

/// Opens a source and notes its size and times.
fn open(number: u32, source: &Source, sealing: Option<&Sealing>) -> Result<Opened, SourceError> {
    let read = |error| SourceError::Read { path: source.path.clone(), source: error };
    check_path(&source.name).map_err(|reason| SourceError::Name {
        path: source.path.clone(),
        name: String::from_utf8_lossy(&source.name).into_owned(),
        reason: reason.to_string(),
    })?;
    let (origin, metadata) = Origin::open(source)?;
    let plain_bytes = origin.size(&metadata);
    let sealed = sealing.map(|sealing| sealing.file(&source.name, plain_bytes, mtime_ns(&metadata))).transpose();
    let sealed = sealed.map_err(|error| read(io::Error::other(error)))?;
    let is_sparse = sealed.is_none() && origin.is_sparse(&metadata);
    let holes = || is_sparse.then(sparse_attribute).into_iter().collect();
    let record = FileRecord {
        file: FileId(number),
        path: source.name.clone(),
        size: sealed.as_ref().map_or(plain_bytes, SealedFile::size),
        mtime_ns: mtime_ns(&metadata),
        mode: origin.mode(&metadata),
        attributes: sealed.as_ref().map_or_else(holes, SealedFile::attributes),
    };
    Ok(Opened { origin, path: source.path.clone(), record, metadata, sealed, is_sparse })
}

/// Size and modification time of a source by its path, without opening it.
pub(crate) fn size_and_time(source: &Source) -> Result<(u64, i64), SourceError> {
    if let Some(seen) = source.seen {
        return Ok(seen);
    }
    let (metadata, fits) = match source.kind {
        SourceKind::File => (std::fs::metadata(&source.path), Metadata::is_file as fn(&Metadata) -> bool),
        SourceKind::Link => (std::fs::symlink_metadata(&source.path), Metadata::is_symlink as _),
    };
    let metadata = metadata.map_err(|error| SourceError::Read { path: source.path.clone(), source: error })?;
    if fits(&metadata) { Ok((metadata.len(), mtime_ns(&metadata))) } else { Err(SourceError::NotAFile { path: source.path.clone() }) }
}

fn mtime_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

fn times(metadata: &Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

impl Opened {
    fn changed(&self, what: String) -> SourceError {
        SourceError::Changed { path: self.path.clone(), what }
    }

    /// Makes exactly `into.len()` bytes of what is sent, from `offset` on.
    fn contents(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        match &self.sealed {
            Some(sealed) => sealed.read(&self.origin, offset, into),
            None => self.origin.read_exact_at(into, offset),
        }
    }

    /// The same, with what went wrong.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.contents(offset, into).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.changed(format!("it ended before {} bytes", self.metadata.len())),
            _ => SourceError::Read { path: self.path.clone(), source },
        })
    }

    /// Fills in what is kept of the file. Whether it was still the same file all the while shows [`Self::check_unchanged`], before its last
    /// extent is cut.
    fn keep(&mut self, keep: &Keep, stop: &AtomicBool, on_note: &mut dyn FnMut(SourceNote)) -> Result<(), ReadError> {
        let mut contents = |offset, into: &mut [u8]| self.contents(offset, into);
        let (sent, size) = (Arc::clone(&self.record.attributes), self.record.size);
        let kept = self.origin.keeping(keep).read(self.origin.itself(), &self.metadata, &sent, size, &mut contents, stop);
        let (attributes, notes) = kept.map_err(|error| match error {
            KeepError::Stopped => ReadError::Stopped,
            KeepError::Short => self.changed(format!("it ended before {} bytes", self.record.size)).into(),
            KeepError::Read(source) => SourceError::Read { path: self.path.clone(), source }.into(),
        })?;
        self.record.attributes = attributes;
        for what in notes {
            on_note(SourceNote { path: self.path.clone(), what });
        }
        Ok(())
    }

    /// Whether the file is still what it was when it was opened.
    fn check_unchanged(&self) -> Result<(), SourceError> {
        let metadata = self.origin.itself().metadata().map_err(|source| SourceError::Read { path: self.path.clone(), source })?;
        if metadata.len() != self.metadata.len() {
            return Err(self.changed(format!("its size went from {} to {} bytes", self.metadata.len(), metadata.len())));
        }
        if times(&metadata) != times(&self.metadata) {
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
    /// Reads all sources into blocks and hands them over, in order. A file that cannot be read to its end is given up, and the rest goes on.
    pub(crate) fn run(mut self, sources: Sources) {
        // Whoever stopped it needs no result.
        let _ = self.read_all(sources);
        let Self { blocks, on_block, .. } = self;
        drop(blocks);
        on_block();
    }

    fn read_all(&mut self, sources: Sources) -> Result<(), Stopped> {
        let mut filling = None;
        let mut file = 0;
        let Sources { files, keep, mut on_note, .. } = sources;
        for source in files {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Stopped);
            }
            match self.read_source(file, &source, (&keep, &mut *on_note), &mut filling) {
                Ok(()) => file += 1,
                Err(ReadError::Stopped) => return Err(Stopped),
                Err(ReadError::Source(error)) => {
                    file += 1;
                    self.tally.files_failed.fetch_add(1, Ordering::Relaxed);
                    (self.on_problem)(error);
                }
            }
        }
        match filling {
            Some(filling) if !filling.writer.is_empty() => self.hand_over(filling),
            _ => Ok(()),
        }
    }

    fn read_source(
        &self,
        file: u32,
        source: &Source,
        (keep, on_note): (&Keep, &mut dyn FnMut(SourceNote)),
        filling: &mut Option<Filling>,
    ) -> Result<(), ReadError> {
        let tally = &self.tally;
        let sent = |bytes| if self.sealing.is_some() { tradewind_seal::sealed_size(bytes) } else { Some(bytes) };
        if let Some(bytes) = self.durable.has(source, sent) {
            tally.files_kept.fetch_add(1, Ordering::Relaxed);
            tally.bytes_kept.fetch_add(bytes, Ordering::Relaxed);
            return Ok(());
        }
        let mut opened = open(file, source, self.sealing.as_deref())?;
        if self.is_durable(&opened)? {
            tally.files_kept.fetch_add(1, Ordering::Relaxed);
            tally.bytes_kept.fetch_add(opened.record.size, Ordering::Relaxed);
            return Ok(());
        }
        let missing = self.durable.missing(&opened.record);
        let wanted: u64 = missing.iter().map(|range| range.end - range.start).sum();
        tally.bytes_kept.fetch_add(opened.record.size - wanted, Ordering::Relaxed);
        let mut left = wanted;
        if !keep.checksums.is_empty() && opened.record.size >= self.payload_max as u64 {
            // Reading it for its checksums takes a while, and the files before it need not wait.
            self.flush(filling)?;
        }
        let kept = opened.keep(keep, &self.stop, on_note);
        let record = &opened.record;
        let result = kept.and_then(|()| self.read_ranges(&opened, &missing, filling, &mut left));
        tally.bytes.fetch_add(wanted - left, Ordering::Relaxed);
        match result {
            Ok(()) => {
                tally.files.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(ReadError::Source(error)) => {
                tally.bytes_failed.fetch_add(left, Ordering::Relaxed);
                // Nothing of it is on its way if not one extent was cut, unless an earlier transfer left something.
                if left < wanted {
                    self.withdraw(record, filling)?;
                }
                Err(error.into())
            }
            stopped => stopped,
        }
    }

    /// Compares what is durable of a file with its contents, if that is wanted; `true` if all of it is the same.
    fn is_durable(&self, opened: &Opened) -> Result<bool, ReadError> {
        let Some(ToCompare { ranges, is_whole }) = self.durable.to_compare(&opened.record) else { return Ok(false) };
        let mut buffer = vec![0; COMPARE_BYTES];
        for (range, expected) in ranges {
            let (mut digest, mut at) = (RunningCrc64::default(), range.start);
            while at < range.end {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(ReadError::Stopped);
                }
                let into = &mut buffer[..COMPARE_BYTES.min(usize::try_from(range.end - at).unwrap_or(COMPARE_BYTES))];
                opened.read(at, into)?;
                digest.update(into);
                at += into.len() as u64;
            }
            self.tally.bytes_compared.fetch_add(at - range.start, Ordering::Relaxed);
            match expected {
                Some(expected) if expected == digest.finish().0 => {}
                _ if is_whole => return Ok(false),
                _ => {
                    let what = "size and time are those of what is durable of it, but its contents are not; send it with --resume none";
                    return Err(opened.changed(what.to_owned()).into());
                }
            }
        }
        Ok(is_whole)
    }

    /// A large file starts on a block boundary and fills whole blocks; small ones share. `left` counts the bytes down.
    fn read_ranges(&self, opened: &Opened, ranges: &[Range<u64>], filling: &mut Option<Filling>, left: &mut u64) -> Result<(), ReadError> {
        let record = &opened.record;
        if record.size >= self.payload_max as u64 {
            self.flush(filling)?;
        }
        for range in ranges {
            let mut offset = range.start;
            loop {
                let rest = offset..range.end;
                let (end, is_hole) = if opened.is_sparse { opened.origin.segment(&rest) } else { (rest.end, false) };
                offset += self.add_extent(opened, offset..end, is_hole, filling, left)?;
                if offset == range.end {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Adds as much of a segment as one block takes, and tells how much that is.
    fn add_extent(
        &self,
        opened: &Opened,
        segment: Range<u64>,
        is_hole: bool,
        filling: &mut Option<Filling>,
        left: &mut u64,
    ) -> Result<u64, ReadError> {
        let (record, offset, wanted) = (&opened.record, segment.start, segment.end - segment.start);
        let changed = |error: CutError| opened.changed(error.to_string());
        loop {
            let Filling { slot, writer } = self.filling(filling)?;
            if is_hole {
                if *left == wanted {
                    opened.check_unchanged()?;
                }
                let added = writer.add_hole(record, offset, wanted).map_err(changed)?;
                if added > 0 {
                    *left -= added;
                    self.tally.bytes_holes.fetch_add(added, Ordering::Relaxed);
                    return Ok(added);
                }
            } else if let Some(room) = writer.window_room(record, offset).filter(|&room| room > 0 || wanted == 0) {
                let length = wanted.min(room as u64);
                let at = writer.payload_bytes();
                let into = &mut slot[at..at + length as usize];
                opened.read(offset, into)?;
                let crc = crc64_nvme(into);
                if *left == length {
                    // Before the last extent leaves: the receiver completes the file with it.
                    opened.check_unchanged()?;
                }
                writer.add(record, offset, length as u32, crc).map_err(changed)?;
                *left -= length;
                return Ok(length);
            }
            self.flush(filling)?;
        }
    }

    /// Tells the receiver to drop what it has of a file.
    fn withdraw(&self, record: &FileRecord, filling: &mut Option<Filling>) -> Result<(), Stopped> {
        if self.filling(filling)?.writer.withdraw(record).is_err() {
            self.flush(filling)?;
            // An empty block has room for any record whose path passed before.
            let _ = self.filling(filling)?.writer.withdraw(record);
        }
        Ok(())
    }

    fn filling<'a>(&self, filling: &'a mut Option<Filling>) -> Result<&'a mut Filling, Stopped> {
        let filled = match filling.take() {
            Some(filling) => filling,
            None => self.start()?,
        };
        Ok(filling.insert(filled))
    }

    fn start(&self) -> Result<Filling, Stopped> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Stopped);
            }
            if let Some(slot) = self.pool.take_within(STOP_LOOK) {
                return Ok(Filling { slot, writer: BlockWriter::new(self.payload_max) });
            }
        }
    }

    /// Hands over what has been filled so far, if anything.
    fn flush(&self, filling: &mut Option<Filling>) -> Result<(), Stopped> {
        match filling.take_if(|filling| !filling.writer.is_empty()) {
            Some(full) => self.hand_over(full),
            None => Ok(()),
        }
    }

    fn hand_over(&self, mut filling: Filling) -> Result<(), Stopped> {
        let image_bytes = filling.writer.finish(&mut filling.slot);
        self.blocks.send(filling.slot.freeze(image_bytes)).map_err(|_| Stopped)?;
        (self.on_block)();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
