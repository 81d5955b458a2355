//! Writing buffers at an offset, past the page cache where that is possible.
//!
//! Measured (storage.md): `pwrite` with O_DIRECT runs at the disk's speed, buffered writes at depth do not. Block slots are
//! page-aligned and whole blocks lie at page-aligned offsets, so nearly everything can go directly; the unaligned tail of a
//! file, and everything where the file system refuses O_DIRECT, goes through the page cache.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, openat};
use rustix::io::{Errno, pwritev};

use crate::holes;

/// Alignment of memory, offset and length that every O_DIRECT file system accepts, bytes.
const DIRECT_ALIGN: usize = 4096;

/// Slices of one `pwritev` (UIO_MAXIOV in linux/uio.h).
const SLICES_MAX: usize = 1024;

/// An open file with up to two descriptors: one through the page cache, one past it.
#[derive(Debug)]
pub(super) struct Target {
    plain: OwnedFd,
    direct: Option<OwnedFd>,
    direct_works: AtomicBool,
}

impl Target {
    /// Takes over the descriptor of `name` in `dir`, and opens the file once more for direct writing if its size makes that
    /// worth it.
    pub(super) fn new(plain: OwnedFd, dir: BorrowedFd<'_>, name: &[u8], size: u64) -> Self {
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let worth_it = size >= DIRECT_ALIGN as u64;
        let direct = if worth_it { openat(dir, name, flags, Mode::empty()).ok() } else { None };
        Self { plain, direct, direct_works: AtomicBool::new(true) }
    }

    pub(super) fn owned(&self) -> &OwnedFd {
        &self.plain
    }

    /// The descriptor for everything but data.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.plain.as_fd()
    }

    /// Writes all chunks one after the other from `offset` on; where they are holes, so is the file.
    pub(super) fn write(&self, chunks: &[Bytes], mut offset: u64) -> Result<(), Errno> {
        let mut at = 0;
        while at < chunks.len() {
            let hole = chunks[at..].iter().take_while(|chunk| holes::is_hole(chunk)).count();
            if hole > 0 {
                let chunks = &chunks[at..at + hole];
                self.punch(chunks, offset)?;
                offset += total(chunks);
                at += hole;
                continue;
            }
            let run = aligned_run(&chunks[at..], offset);
            if let Some(direct) = self.direct.as_ref().filter(|_| run > 0 && self.direct_works.load(Ordering::Relaxed)) {
                let slices = &chunks[at..at + run];
                match write_all(direct.as_fd(), slices, offset) {
                    Ok(()) => {
                        offset += total(slices);
                        at += run;
                        continue;
                    }
                    // Not on this file system after all: the same bytes again the other way.
                    Err(Errno::INVAL | Errno::OPNOTSUPP) => self.direct_works.store(false, Ordering::Relaxed),
                    Err(errno) => return Err(errno),
                }
            }
            offset += self.write_split(&chunks[at], offset)?;
            at += 1;
        }
        Ok(())
    }

    /// The file has its whole size already. What an earlier transfer left there goes.
    fn punch(&self, zeros: &[Bytes], offset: u64) -> Result<(), Errno> {
        match fallocate(self.plain.as_fd(), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, total(zeros)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_all(self.plain.as_fd(), zeros, offset),
            result => result,
        }
    }

    /// Writes one chunk, its aligned head directly if there is one.
    fn write_split(&self, chunk: &Bytes, offset: u64) -> Result<u64, Errno> {
        let head = chunk.len() / DIRECT_ALIGN * DIRECT_ALIGN;
        let mut written = 0;
        if let Some(direct) = self.direct.as_ref().filter(|_| self.direct_works.load(Ordering::Relaxed))
            && head > 0
            && is_aligned(&chunk[..head], offset)
        {
            match write_all(direct.as_fd(), &[chunk.slice(..head)], offset) {
                Ok(()) => written = head,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => self.direct_works.store(false, Ordering::Relaxed),
                Err(errno) => return Err(errno),
            }
        }
        write_all(self.plain.as_fd(), &[chunk.slice(written..)], offset + written as u64)?;
        Ok(chunk.len() as u64)
    }
}

fn total(chunks: &[Bytes]) -> u64 {
    chunks.iter().map(|chunk| chunk.len() as u64).sum()
}

fn is_aligned(bytes: &[u8], offset: u64) -> bool {
    bytes.as_ptr().addr().is_multiple_of(DIRECT_ALIGN)
        && bytes.len().is_multiple_of(DIRECT_ALIGN)
        && offset.is_multiple_of(DIRECT_ALIGN as u64)
}

/// How many chunks from the first on can be written directly in one call.
fn aligned_run(chunks: &[Bytes], mut offset: u64) -> usize {
    let fits = |chunk: &&Bytes| {
        let fits = !chunk.is_empty() && !holes::is_hole(chunk) && is_aligned(chunk, offset);
        offset += chunk.len() as u64;
        fits
    };
    chunks.iter().take(SLICES_MAX).take_while(fits).count()
}

pub(super) fn write_all(fd: BorrowedFd<'_>, chunks: &[Bytes], mut offset: u64) -> Result<(), Errno> {
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().filter(|chunk| !chunk.is_empty()).map(|chunk| IoSlice::new(chunk)).collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        let count = left.len().min(SLICES_MAX);
        match pwritev(fd, &left[..count], offset) {
            // A regular file that takes nothing and gives no reason will not take anything next time either.
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tradewind_fabric::BlockPool;

    use super::*;

    fn target(dir: &std::path::Path, size: u64) -> Target {
        let dir = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let plain = openat(&dir, "f", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o600)).unwrap();
        Target::new(plain, dir.as_fd(), b"f", size)
    }

    /// On the disk that is built on, not on tmpfs: tmpfs takes unaligned O_DIRECT and would hide mistakes.
    #[test]
    fn aligned_and_unaligned_runs_arrive_where_they_belong() {
        let place = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let pool = BlockPool::new(8, 8192).unwrap();
        let lens = [8192, 8192, 4096, 5000, 8192, 1, 8000];
        let mut expected = Vec::new();
        let chunks: Vec<Bytes> = (1u8..)
            .zip(lens)
            .map(|(fill, len)| {
                let mut slot = pool.take().unwrap();
                slot.fill(fill);
                expected.extend_from_slice(&slot[..len]);
                slot.freeze(len).slice(0..len).unwrap().into_bytes()
            })
            .collect();
        for offset in [0usize, 4096, 777] {
            let file = target(place.path(), expected.len() as u64);
            assert!(file.direct.is_some(), "no O_DIRECT here, so the test proves less than it should");
            file.write(&chunks, offset as u64).unwrap();
            assert!(file.direct_works.load(Ordering::Relaxed), "something unaligned was written directly");
            let read = std::fs::read(place.path().join("f")).unwrap();
            assert_eq!(read[offset..], expected, "from {offset}");
            std::fs::remove_file(place.path().join("f")).unwrap();
        }
    }

    #[test]
    fn runs_end_where_alignment_ends() {
        let pool = BlockPool::new(3, 8192).unwrap();
        let chunk = |from: usize, to: usize| pool.take().unwrap().freeze(8192).slice(from..to).unwrap().into_bytes();
        let chunks = [chunk(0, 8192), chunk(0, 4096), chunk(0, 100)];
        assert_eq!(aligned_run(&chunks, 0), 2);
        assert_eq!(aligned_run(&chunks, 8192), 2);
        assert_eq!(aligned_run(&chunks, 1), 0);
        assert_eq!(aligned_run(&chunks[2..], 0), 0);
        drop(chunks);
        assert_eq!(aligned_run(&[chunk(1, 4097)], 0), 0);
    }
}
