//! What an earlier transfer received and could not store: blocks that were kept on a disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use bytes::Bytes;

use super::Durable;
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::holes;
use crate::store::ObjectKey;
use crate::upload::{FileMeta, Piece, UploaderConfig};

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

/// Consecutive bytes of a file.
#[derive(Clone, Debug)]
pub(crate) struct RecalledPiece {
    pub(crate) length: u64,
    /// `None`: zeros that were never sent.
    pub(crate) data: Option<Bytes>,
    pub(crate) crc: Crc64,
}

impl Recalled {
    /// Takes the bytes of a block that was kept by a transfer with the same names and of the same variant as `config`. What cannot belong to a
    /// file of this transfer is left out.
    pub fn add(&mut self, config: &UploaderConfig, data: &Bytes, files: &[FileMeta], pieces: &[Piece]) {
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
            let (start, length) = (piece.data_offset as usize, u64::from(piece.len));
            let (data, crc) = if piece.is_hole {
                (None, holes::crc(length))
            } else {
                let range = start..start.saturating_add(piece.len as usize);
                if range.end > data.len() {
                    continue;
                }
                (Some(data.slice(range)), Crc64(piece.crc64))
            };
            let range = piece.file_offset..piece.file_offset.saturating_add(length);
            let known = self.files.entry((key, meta.size, meta.mtime_ns)).or_default();
            if range.end <= meta.size && !overlaps(known, &range) {
                known.insert(range.start, RecalledPiece { length, data, crc });
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
        let data = Bytes::from_static(&[1; 20]);
        let pieces = [
            piece(0, 10, 0),
            piece(5, 10, 0),
            piece(30, 10, 10),
            piece(95, 10, 0),
            piece(40, 10, 15),
            Piece { is_hole: true, ..piece(50, 30, 0) },
        ];
        let mut recalled = Recalled::default();
        recalled.add(&config, &data, &[meta(100)], &pieces);
        recalled.are_stored(&key, 100, 7, std::slice::from_ref(&(25..31)));
        recalled.are_stored(&key, 100, 8, std::slice::from_ref(&(0..100)));
        assert_eq!(told(&mut recalled, &config), [(0, 10), (50, 30)]);
        assert_eq!(recalled.take(&key, 100, 7).len(), 2);
        assert!(recalled.take(&key, 100, 7).is_empty());
        // All of it is there: the last is sent again.
        let mut recalled = Recalled::default();
        recalled.add(&config, &data, &[meta(20)], &[piece(0, 10, 0), piece(10, 10, 10)]);
        assert_eq!(told(&mut recalled, &config), [(0, 10)]);
        let mut recalled = Recalled::default();
        recalled.add(&config, &data, &[meta(30)], &[piece(0, 10, 0), piece(10, 10, 10)]);
        recalled.are_stored(&key, 30, 7, std::slice::from_ref(&(20..30)));
        assert_eq!(told(&mut recalled, &config), [(0, 10)]);
        let mut recalled = Recalled::default();
        recalled.add(
            &config,
            &data,
            &[meta(30), FileMeta { file: 4, withdrawn: true, ..meta(30) }],
            &[piece(0, 10, 0), Piece { file: 4, ..piece(10, 10, 0) }],
        );
        assert_eq!(told(&mut recalled, &config), [], "given up in whatever block");
        let mut recalled = Recalled::default();
        recalled.add(&config, &data, &[meta(30)], &[piece(0, 10, 0), piece(0, 30, 0)]);
        recalled.is_stored(&key);
        assert_eq!(told(&mut recalled, &config), []);
    }
}
