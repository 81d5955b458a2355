//! What an earlier transfer received and could not store: blocks that were kept on a disk. They stay there until their parts go to the store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;

use super::Durable;
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::holes;
use crate::store::ObjectKey;
use crate::upload::{FileMeta, Piece, UploaderConfig};

/// A block that an earlier transfer received, where it was kept.
#[async_trait]
pub trait KeptBlock: Debug + Send + Sync {
    /// Reads a range of it, bytes, whose checksum is known. Must not block, and must end in some time whatever the disk does: parts of others may
    /// wait for the memory that this one has. May be dropped before it ends.
    ///
    /// # Errors
    /// It cannot be read, its checksum is another one, or its disk does not answer; the text says where. The upload ends with that. The next one
    /// goes on only if these bytes are not recalled again, at least for a while.
    async fn read(&self, range: Range<usize>, crc: Crc64) -> io::Result<Vec<u8>>;
}

/// Bytes of a kept block.
#[derive(Clone, Debug)]
pub(crate) struct KeptBytes {
    block: Arc<dyn KeptBlock>,
    range: Range<usize>,
    crc: Crc64,
}

impl KeptBytes {
    pub(crate) const fn new(block: Arc<dyn KeptBlock>, range: Range<usize>, crc: Crc64) -> Self {
        Self { block, range, crc }
    }

    pub(crate) fn len(&self) -> u64 {
        self.range.len() as u64
    }

    pub(crate) async fn read(&self) -> io::Result<Vec<u8>> {
        self.block.read(self.range.clone(), self.crc).await
    }
}

/// Bytes of files that need not be sent again, though no store has them.
#[derive(Debug, Default)]
pub struct Recalled {
    files: HashMap<Version, Pieces>,
    /// Given up by their sender: they may be of two versions, half and half.
    withdrawn: HashSet<Version>,
}

/// A file as it was at one time: key, size, modification time.
type Version = (ObjectKey, u64, i64);

/// By their offsets, bytes; none overlaps another.
pub(crate) type Pieces = BTreeMap<u64, RecalledPiece>;

/// Consecutive bytes of a file; if they are no zeros, all in one part, whatever the parts.
#[derive(Clone, Debug)]
pub(crate) struct RecalledPiece {
    pub(crate) length: u64,
    /// `None`: zeros that were never sent.
    pub(crate) data: Option<KeptBytes>,
    pub(crate) crc: Crc64,
}

impl Recalled {
    /// Takes what is in a block that was kept by a transfer with the same names and of the same variant as `config`. `image`: the block's bytes, to
    /// be looked at now; what is taken of them is read from `kept` when it goes to the store. What cannot belong to a file of this transfer is
    /// left out.
    pub fn add(&mut self, config: &UploaderConfig, image: &[u8], kept: &Arc<dyn KeptBlock>, files: &[FileMeta], pieces: &[Piece]) {
        for meta in files.iter().filter(|meta| meta.withdrawn) {
            if let Ok(key) = config.key_for(&meta.path) {
                self.withdrawn.insert((key, meta.size, meta.mtime_ns));
            }
        }
        for piece in pieces.iter().filter(|piece| piece.len > 0) {
            // Of a file in one piece something would have to be sent, which is all of it.
            let is_part = |meta: &&FileMeta| meta.file == piece.file && !meta.withdrawn && u64::from(piece.len) < meta.size;
            let Some(meta) = files.iter().find(is_part) else { continue };
            let Ok(key) = config.key_for(&meta.path) else { continue };
            let length = u64::from(piece.len);
            let range = piece.file_offset..piece.file_offset.saturating_add(length);
            let known = self.files.entry((key, meta.size, meta.mtime_ns)).or_default();
            if range.end > meta.size || overlaps(known, &range) {
                continue;
            }
            if piece.is_hole {
                known.insert(range.start, RecalledPiece { length, data: None, crc: holes::crc(length) });
            } else {
                known.extend(cut(image, kept, piece, config.block_bytes.max(1)).into_iter().flatten());
            }
        }
    }

    /// The object is complete.
    pub(super) fn is_stored(&mut self, key: &ObjectKey) {
        if !self.files.is_empty() {
            self.files.retain(|(known, ..), _| known != key);
        }
    }

    /// The store has these ranges of a version already.
    pub(super) fn are_stored(&mut self, key: &ObjectKey, size: u64, mtime_ns: i64, ranges: &[Range<u64>]) {
        if let Some(pieces) = self.files.get_mut(&(key.clone(), size, mtime_ns)) {
            pieces.retain(|&offset, piece| ranges.iter().all(|range| offset >= range.end || offset + piece.length <= range.start));
            // The object is made when its last bytes arrive, so some have to.
            let stored: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            if stored + bytes(pieces) >= size {
                pieces.pop_last();
            }
        }
    }

    /// Names all that is left.
    pub(super) fn tell(
        &mut self,
        config: &UploaderConfig,
        each: &mut (dyn FnMut(&Durable) -> Result<(), StoreError> + Send),
    ) -> Result<(), StoreError> {
        self.files.retain(|version, _| !self.withdrawn.contains(version));
        for ((key, size, mtime_ns), pieces) in &mut self.files {
            if bytes(pieces) >= *size {
                pieces.pop_last();
            }
            for (&offset, &RecalledPiece { length, crc, .. }) in pieces.iter() {
                let (path, size, mtime_ns) = (config.path_of(key), *size, *mtime_ns);
                each(&Durable::Part { path, size, mtime_ns, offset, length, crc })?;
            }
        }
        self.files.retain(|_, pieces| !pieces.is_empty());
        Ok(())
    }

    /// What there is of a version, once.
    pub(crate) fn take(&mut self, key: &ObjectKey, size: u64, mtime_ns: i64) -> Pieces {
        if self.files.is_empty() { Pieces::new() } else { self.files.remove(&(key.clone(), size, mtime_ns)).unwrap_or_default() }
    }
}

/// The bytes of a piece, by their offsets in the file, cut where parts may end, which are whole blocks: here they are in memory, so that each gets
/// its checksum without reading the disk once more. A piece of a sender that keeps to whole blocks stays whole, with the checksum that it has.
/// `None` if it lies outside of the block, or is not what its checksum says.
fn cut(image: &[u8], kept: &Arc<dyn KeptBlock>, piece: &Piece, block_bytes: u64) -> Option<Vec<(u64, RecalledPiece)>> {
    let start = piece.data_offset as usize;
    let end = start.checked_add(piece.len as usize)?;
    let mut rest = image.get(start..end)?;
    let (mut pieces, mut whole, mut offset) = (Vec::with_capacity(1), Crc64::default(), piece.file_offset);
    while !rest.is_empty() {
        let room = usize::try_from(block_bytes - offset % block_bytes).unwrap_or(usize::MAX);
        let from = end - rest.len();
        let (run, behind) = rest.split_at(room.min(rest.len()));
        let (range, length) = (from..from + run.len(), run.len() as u64);
        let crc = if run.len() == piece.len as usize { Crc64(piece.crc64) } else { Crc64::of(run) };
        whole = whole.append(crc, length);
        pieces.push((offset, RecalledPiece { length, data: Some(KeptBytes::new(Arc::clone(kept), range, crc)), crc }));
        (rest, offset) = (behind, offset + length);
    }
    (whole == Crc64(piece.crc64)).then_some(pieces)
}

fn bytes(pieces: &Pieces) -> u64 {
    pieces.values().map(|piece| piece.length).sum()
}

fn overlaps(pieces: &Pieces, range: &Range<u64>) -> bool {
    let before = pieces.range(..range.end).next_back();
    before.is_some_and(|(&offset, piece)| offset + piece.length > range.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is read here.
    #[derive(Debug)]
    struct Unread;

    #[async_trait]
    impl KeptBlock for Unread {
        async fn read(&self, range: Range<usize>, _: Crc64) -> io::Result<Vec<u8>> {
            Err(io::Error::other(format!("{range:?} is read")))
        }
    }

    fn meta(size: u64) -> FileMeta {
        FileMeta { file: 3, path: b"f".to_vec(), size, mtime_ns: 7, mode: 0, attributes: [].into(), withdrawn: false }
    }

    fn piece(file_offset: u64, len: u32, data_offset: u32) -> Piece {
        Piece { file: 3, file_offset, len, data_offset, crc64: 9, is_hole: false }
    }

    fn told(recalled: &mut Recalled, config: &UploaderConfig) -> Vec<(u64, u64)> {
        let mut told = Vec::new();
        let mut each = |durable: &Durable| {
            let Durable::Part { path, offset, length, .. } = durable else { panic!("{durable:?}") };
            assert_eq!(path, b"f");
            told.push((*offset, *length));
            Ok(())
        };
        recalled.tell(config, &mut each).unwrap();
        told
    }

    #[test]
    fn what_overlaps_or_lies_outside_is_left_out_and_something_is_always_left_to_be_sent() {
        let config = UploaderConfig::default();
        let key = config.key_for(b"f").unwrap();
        let (data, kept): (_, Arc<dyn KeptBlock>) = ([1; 20], Arc::new(Unread));
        let pieces = [
            piece(0, 10, 0),
            piece(5, 10, 0),
            piece(30, 10, 10),
            piece(95, 10, 0),
            piece(40, 10, 15),
            Piece { is_hole: true, ..piece(50, 30, 0) },
        ];
        let mut recalled = Recalled::default();
        recalled.add(&config, &data, &kept, &[meta(100)], &pieces);
        recalled.are_stored(&key, 100, 7, std::slice::from_ref(&(25..31)));
        recalled.are_stored(&key, 100, 8, std::slice::from_ref(&(0..100)));
        assert_eq!(told(&mut recalled, &config), [(0, 10), (50, 30)]);
        assert_eq!(recalled.take(&key, 100, 7).len(), 2);
        assert!(recalled.take(&key, 100, 7).is_empty());
        // All of it is there: the last is sent again.
        let mut recalled = Recalled::default();
        recalled.add(&config, &data, &kept, &[meta(20)], &[piece(0, 10, 0), piece(10, 10, 10)]);
        assert_eq!(told(&mut recalled, &config), [(0, 10)]);
        let mut recalled = Recalled::default();
        recalled.add(&config, &data, &kept, &[meta(30)], &[piece(0, 10, 0), piece(10, 10, 10)]);
        recalled.are_stored(&key, 30, 7, std::slice::from_ref(&(20..30)));
        assert_eq!(told(&mut recalled, &config), [(0, 10)]);
        let mut recalled = Recalled::default();
        recalled.add(
            &config,
            &data,
            &kept,
            &[meta(30), FileMeta { file: 4, withdrawn: true, ..meta(30) }],
            &[piece(0, 10, 0), Piece { file: 4, ..piece(10, 10, 0) }],
        );
        assert_eq!(told(&mut recalled, &config), [], "given up in whatever block");
        let mut recalled = Recalled::default();
        recalled.add(&config, &data, &kept, &[meta(30)], &[piece(0, 10, 0), piece(0, 30, 0)]);
        recalled.is_stored(&key);
        assert_eq!(told(&mut recalled, &config), []);
    }

    #[test]
    fn pieces_are_cut_where_parts_may_end() {
        let config = UploaderConfig { block_bytes: 8, ..UploaderConfig::default() };
        let (data, kept): (Vec<u8>, Arc<dyn KeptBlock>) = ((0..40).collect(), Arc::new(Unread));
        let from = |file_offset: u64, from: usize, to: usize| Piece {
            crc64: Crc64::of(&data[from..to]).0,
            ..piece(file_offset, (to - from) as u32, from as u32)
        };
        let mut recalled = Recalled::default();
        // Whole blocks keep what they came with; one that is not what its checksum says, or lies outside, is left out.
        let pieces = [piece(8, 8, 0), from(21, 10, 23), Piece { crc64: 9, ..from(42, 0, 20) }, piece(80, 8, 33)];
        recalled.add(&config, &data, &kept, &[meta(100)], &pieces);
        let found = recalled.take(&config.key_for(b"f").unwrap(), 100, 7);
        let found = found.into_iter().map(|(offset, RecalledPiece { length, data, crc })| {
            let KeptBytes { range, crc: of_range, .. } = data.unwrap();
            assert_eq!((range.len() as u64, of_range), (length, crc));
            (offset, range, crc)
        });
        let crc = |from: usize, to: usize| Crc64::of(&data[from..to]);
        let expected = [(8, 0..8, Crc64(9)), (21, 10..13, crc(10, 13)), (24, 13..21, crc(13, 21)), (32, 21..23, crc(21, 23))];
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}
