//! Holes of sparse files: zeros that are neither read nor sent nor, where files can have holes, written.
//!
//! Among the chunks of a [`crate::Body`] a hole is known by where it lies: in one piece of memory that holds nothing but zeros. Whoever does not
//! ask stores the zeros.

use std::cell::Cell;
use std::iter;

use bytes::Bytes;
use rustix::fs::Stat;

use crate::checksum::{Crc64, RunningCrc64};
use crate::store::Attributes;

/// Attribute of a file that has holes. Directories give it no room that it does not need, and it is looked for zeros when it comes back.
pub const SPARSE_ATTRIBUTE: &str = "tradewind-sparse";

/// Files of fewer bytes are sent as they are, bytes: they are stored many at once.
const SPARSE_FILE_BYTES_MIN: u64 = 1 << 20;

/// Shorter runs of zeros are not worth an extent, bytes.
pub const HOLE_BYTES_MIN: u64 = 64 << 10;

/// Bytes of a block in [`Stat::st_blocks`] (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;

static ZEROS: [u8; HOLE_BYTES_MIN as usize] = [0; HOLE_BYTES_MIN as usize];

/// The mark of a file with holes, as an attribute.
#[must_use]
pub fn sparse_attribute() -> (String, String) {
    (SPARSE_ATTRIBUTE.to_owned(), "1".to_owned())
}

/// Whether an object is marked as having holes.
#[must_use]
pub fn is_marked_sparse(attributes: &Attributes) -> bool {
    attributes.iter().any(|(name, _)| name == SPARSE_ATTRIBUTE)
}

/// Whether a file of so many bytes that takes so many blocks of [`STAT_BLOCK_BYTES`] has holes worth looking for.
#[must_use]
pub fn may_have_holes(bytes: u64, blocks: u64) -> bool {
    bytes >= SPARSE_FILE_BYTES_MIN && blocks.saturating_mul(STAT_BLOCK_BYTES).saturating_add(HOLE_BYTES_MIN) <= bytes
}

/// The same of what the file system says.
pub(crate) fn is_sparse(stat: &Stat) -> bool {
    may_have_holes(u64::try_from(stat.st_size).unwrap_or(0), u64::try_from(stat.st_blocks).unwrap_or(u64::MAX))
}

/// Whether all of these bytes are 0. Cheap for bytes that do not begin so.
#[must_use]
pub fn are_zeros(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|bytes| *bytes == ZEROS[..bytes.len()])
}

/// A hole of so many bytes as chunks.
pub(crate) fn chunks(mut bytes: u64) -> impl Iterator<Item = Bytes> {
    iter::from_fn(move || {
        let next = bytes.min(ZEROS.len() as u64);
        bytes -= next;
        (next > 0).then(|| Bytes::from_static(&ZEROS[..next as usize]))
    })
}

/// Whether a chunk is of a hole.
pub(crate) fn is_hole(chunk: &Bytes) -> bool {
    !chunk.is_empty() && ZEROS.as_ptr_range().contains(&chunk.as_ptr())
}

/// CRC-64/NVME of so many zeros. Most that are asked for one after the other are of one length.
pub(crate) fn crc(bytes: u64) -> Crc64 {
    thread_local! {
        static LAST: Cell<(u64, Crc64)> = const { Cell::new((0, Crc64(0))) };
    }
    if LAST.get().0 != bytes {
        let mut crc = RunningCrc64::default();
        chunks(bytes).for_each(|chunk| crc.update(&chunk));
        LAST.set((bytes, crc.finish()));
    }
    LAST.get().1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_zeros_that_are_known_by_where_they_lie() {
        for bytes in [0, 1, 65_536, 200_000] {
            let hole: Vec<Bytes> = chunks(bytes).collect();
            assert!(hole.iter().all(is_hole) && hole.iter().all(|chunk| are_zeros(chunk)));
            let whole = hole.concat();
            assert_eq!((whole.len() as u64, crc(bytes)), (bytes, Crc64::of(&whole)));
            assert!(!is_hole(&Bytes::from(whole)), "a copy is data");
        }
        assert!(!is_hole(&chunks(10).next().unwrap().slice(5..5)));
        let mut bytes = vec![0; 200_000];
        assert!(are_zeros(&bytes));
        bytes[199_999] = 1;
        assert!(!are_zeros(&bytes));
        assert!(may_have_holes(2 << 20, 2048) && !may_have_holes(2 << 20, 4096 - 127) && !may_have_holes(1000, 0));
    }
}
