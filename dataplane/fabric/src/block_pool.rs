//! A fixed number of equally sized, page-aligned buffers, allocated once.
//!
//! A [`BlockBuf`] is written by one owner; [`BlockBuf::freeze`] turns it into a [`SharedBlock`] that any number of readers
//! share, and [`SharedBlock::slice`] lends parts of it as `bytes::Bytes` without a copy. The slot returns to the pool when
//! the last of them drops: the permit travels with the block.

use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Alignment of every slot, bytes: what O_DIRECT and registered io_uring buffers ask for.
pub const SLOT_ALIGN: usize = 4096;

/// Why a pool could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// Zero slots, zero bytes, or more than the address space.
    #[error("a block pool of {slots} slots of {slot_bytes} bytes cannot be made; both must be above zero")]
    Size {
        /// Slots asked for.
        slots: usize,
        /// Bytes a slot asked for.
        slot_bytes: usize,
    },
    /// The kernel gave no memory.
    #[error("cannot map {bytes} bytes for the block pool: {source}; lower the pool size or free memory")]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
}

#[derive(Debug)]
struct Region {
    base: NonNull<u8>,
    bytes: usize,
    slot_bytes: usize,
    free: Mutex<Free>,
    /// Called when a slot comes back.
    returned: Condvar,
    /// Called when few free slots are left whose memory is there.
    scarce: Condvar,
    slots: usize,
}

#[derive(Debug)]
struct Free {
    /// Last in, first out: a slot that is warm in the cache is used again first, and a lightly used pool touches little memory.
    slots: Vec<u32>,
    /// Slots that have memory: those with lower numbers, for fresh ones are taken in order.
    touched: usize,
    /// Fewest free slots with memory before [`Region::scarce`] is called; 0: nobody listens.
    least: usize,
}

impl Free {
    /// Free slots that have memory.
    fn ready(&self, slots: usize) -> usize {
        (self.touched + self.slots.len()).saturating_sub(slots)
    }
}

// SAFETY: the region is plain anonymous memory; a slot is reachable only through the one handle that took its index from
// `free` (or the shared, read-only handles frozen from it), so threads never alias mutably.
unsafe impl Send for Region {}
// SAFETY: as above; `free` is itself thread-safe.
unsafe impl Sync for Region {}

impl Region {
    fn free(&self) -> MutexGuard<'_, Free> {
        // A panic between lock and unlock cannot leave the list half changed: push and pop are one step each.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self, free: &mut Free) -> Option<u32> {
        let index = free.slots.pop()?;
        free.touched = free.touched.max(index as usize + 1);
        if free.ready(self.slots) < free.least {
            self.scarce.notify_one();
        }
        Some(index)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: base and bytes are what mmap returned, and no handle is left: each holds an Arc of this region.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The pool. Clones share it.
#[derive(Clone, Debug)]
pub struct BlockPool(Arc<Region>);

impl BlockPool {
    /// Maps `slots` buffers of `slot_bytes` bytes, rounded up to [`SLOT_ALIGN`]; asks for transparent huge pages.
    /// Pages are touched by their first use, not here.
    ///
    /// # Errors
    /// [`PoolError::Size`] for zero sizes or overflow, [`PoolError::Map`] when the kernel refuses.
    pub fn new(slots: usize, slot_bytes: usize) -> Result<Self, PoolError> {
        let size = || PoolError::Size { slots, slot_bytes };
        let count = u32::try_from(slots).map_err(|_| size())?;
        let slot_bytes = slot_bytes.checked_next_multiple_of(SLOT_ALIGN).ok_or_else(size)?;
        let bytes = slot_bytes.checked_mul(slots).filter(|&bytes| bytes > 0).ok_or_else(size)?;
        // SAFETY: an anonymous private mapping with no address hint touches no existing memory.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(PoolError::Map { bytes, source: std::io::Error::last_os_error() });
        }
        // SAFETY: the range was mapped just now; the advice is only a hint and its failure harmless.
        unsafe { libc::madvise(base, bytes, libc::MADV_HUGEPAGE) };
        let Some(base) = NonNull::new(base.cast::<u8>()) else {
            return Err(PoolError::Map { bytes, source: std::io::Error::other("mapped at address zero") });
        };
        let free = Mutex::new(Free { slots: (0..count).rev().collect(), touched: 0, least: 0 });
        Ok(Self(Arc::new(Region { base, bytes, slot_bytes, free, returned: Condvar::new(), scarce: Condvar::new(), slots })))
    }

    /// Takes a slot, or `None` when all are in use. The contents are whatever the last user left.
    #[must_use]
    pub fn take(&self) -> Option<BlockBuf> {
        let index = self.0.pop(&mut self.0.free())?;
        Some(BlockBuf { region: Arc::clone(&self.0), index })
    }

    /// Takes a slot, or waits for one that comes back; `None` when none has within `timeout`.
    #[must_use]
    pub fn take_within(&self, timeout: Duration) -> Option<BlockBuf> {
        let region = &self.0;
        let waited = region.returned.wait_timeout_while(region.free(), timeout, |free| free.slots.is_empty());
        let index = region.pop(&mut waited.unwrap_or_else(PoisonError::into_inner).0)?;
        Some(BlockBuf { region: Arc::clone(region), index })
    }

    /// Gives memory to slots before they are used, so that `ahead` free ones have it; waits for `timeout` at most while half as many do. To be called
    /// again and again, by a thread that has time: the kernel clears pages when they are first touched, which would keep a thread that receives packets
    /// from its socket (0.4 GB/s was measured on a virtual machine, a third of 10 Gbit/s).
    ///
    /// Returns whether all slots have memory; then there is nothing left to be done.
    ///
    /// # Errors
    /// When the kernel cannot do that (before Linux 5.14) or has no memory left. Nothing is lost: slots get their memory with their first use.
    pub fn touch_ahead(&self, ahead: usize, timeout: Duration) -> io::Result<bool> {
        let region = &self.0;
        let mut free = region.free();
        free.least = ahead / 2;
        let wait = region.scarce.wait_timeout_while(free, timeout, |free| free.ready(region.slots) >= free.least);
        let mut free = wait.unwrap_or_else(PoisonError::into_inner).0;
        while free.touched < region.slots && free.ready(region.slots) < ahead {
            let slot = free.touched;
            free.touched += 1;
            drop(free);
            // SAFETY: the slot lies inside the mapping, and its contents stay what they are: whoever has it meanwhile is not disturbed.
            let start = unsafe { region.base.add(slot * region.slot_bytes) };
            // SAFETY: as above.
            if unsafe { libc::madvise(start.as_ptr().cast(), region.slot_bytes, libc::MADV_POPULATE_WRITE) } != 0 {
                return Err(io::Error::last_os_error());
            }
            free = region.free();
        }
        let is_done = free.touched == region.slots;
        if is_done {
            // Nobody is to be called any more.
            free.least = 0;
        }
        Ok(is_done)
    }

    /// Slots that are free now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.0.free().slots.len()
    }

    /// Slots in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.slots
    }

    /// Bytes of a slot.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.0.slot_bytes
    }
}

/// A slot with one owner, who may write it.
#[derive(Debug)]
pub struct BlockBuf {
    region: Arc<Region>,
    index: u32,
}

impl BlockBuf {
    fn pointer(&self) -> NonNull<u8> {
        // SAFETY: index came from the free list, so the slot lies inside the mapping.
        unsafe { self.region.base.add(self.index as usize * self.region.slot_bytes) }
    }

    /// Which slot of its pool it is, from 0.
    #[must_use]
    pub const fn slot(&self) -> usize {
        self.index as usize
    }

    /// Ends writing: the first `len` bytes (at most the slot) become readable by many.
    #[must_use]
    pub fn freeze(self, len: usize) -> SharedBlock {
        let len = len.min(self.region.slot_bytes);
        SharedBlock(Arc::new(Frozen { buf: self, len }))
    }
}

impl AsRef<[u8]> for BlockBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for BlockBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl Deref for BlockBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the slot is mapped for the life of `region`, and this handle is its only owner.
        unsafe { std::slice::from_raw_parts(self.pointer().as_ptr(), self.region.slot_bytes) }
    }
}

impl DerefMut for BlockBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer().as_ptr(), self.region.slot_bytes) }
    }
}

impl Drop for BlockBuf {
    fn drop(&mut self) {
        self.region.free().slots.push(self.index);
        // Costs nothing while nobody waits.
        self.region.returned.notify_one();
    }
}

#[derive(Debug)]
struct Frozen {
    buf: BlockBuf,
    len: usize,
}

/// A slot that is no longer written, shared by any number of readers.
#[derive(Clone, Debug)]
pub struct SharedBlock(Arc<Frozen>);

impl SharedBlock {
    /// Which slot of its pool it lies in, from 0.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.0.buf.slot()
    }

    /// The whole slot: behind the block is what the slot's last user left. For devices that take whole pages.
    #[must_use]
    pub fn whole_slot(&self) -> &[u8] {
        &self.0.buf
    }

    /// A part of the block that keeps the whole slot alive; `None` when `range` does not lie inside it.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Option<BlockSlice> {
        (range.start <= range.end && range.end <= self.0.len).then(|| BlockSlice { block: self.clone(), range })
    }
}

impl AsRef<[u8]> for SharedBlock {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for SharedBlock {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.buf[..self.0.len]
    }
}

/// A part of a [`SharedBlock`].
#[derive(Clone, Debug)]
pub struct BlockSlice {
    block: SharedBlock,
    range: Range<usize>,
}

impl BlockSlice {
    /// The same bytes as `Bytes`, without a copy; the slot returns to the pool when the last clone drops.
    #[must_use]
    pub fn into_bytes(self) -> bytes::Bytes {
        bytes::Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for BlockSlice {
    fn as_ref(&self) -> &[u8] {
        &self.block[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_slot_comes_back_when_its_last_reader_drops() {
        let pool = BlockPool::new(2, 5000).unwrap();
        assert_eq!(pool.slot_bytes(), 8192);
        let mut block = pool.take().unwrap();
        block[..3].copy_from_slice(b"abc");
        let shared = block.freeze(3);
        let bytes = shared.slice(1..3).unwrap().into_bytes();
        drop(shared);
        assert_eq!(pool.available(), 1);
        assert_eq!(&bytes[..], b"bc");
        assert_eq!(pool.take().map(|other| other.slot()), Some(1));
        let again = bytes.clone();
        drop(bytes);
        assert_eq!(pool.available(), 1);
        drop(again);
        assert_eq!(pool.available(), 2);
    }

    #[test]
    fn who_waits_gets_what_comes_back() {
        let pool = BlockPool::new(1, 4096).unwrap();
        let only = pool.take_within(Duration::ZERO).unwrap();
        assert!(pool.take_within(Duration::from_millis(1)).is_none());
        let started = Instant::now();
        let waiting = std::thread::spawn({
            let pool = pool.clone();
            move || pool.take_within(Duration::from_secs(60)).map(|slot| slot.slot())
        });
        drop(only);
        assert_eq!(waiting.join().unwrap(), Some(0));
        assert!(started.elapsed() < Duration::from_secs(30), "it was not called");
    }

    /// Pages of the pool that have memory (mincore(2) counts those of an anonymous mapping that were touched).
    fn pages(pool: &BlockPool) -> usize {
        let mut there = vec![0_u8; pool.0.bytes / SLOT_ALIGN];
        // SAFETY: the vector has a byte for each page of the mapping.
        assert_eq!(unsafe { libc::mincore(pool.0.base.as_ptr().cast(), pool.0.bytes, there.as_mut_ptr()) }, 0);
        there.iter().filter(|&page| page & 1 == 1).count()
    }

    #[test]
    fn slots_have_memory_before_they_are_used() {
        let pool = BlockPool::new(64, 4 * SLOT_ALIGN).unwrap();
        assert_eq!(pages(&pool), 0);
        let touch = |ahead| pool.touch_ahead(ahead, Duration::ZERO).unwrap();
        touch(8);
        assert_eq!(pool.0.free().touched, 8);
        assert!((32..=256).contains(&pages(&pool)), "huge pages may bring more: {}", pages(&pool));
        let used: Vec<_> = (0..4).map(|_| pool.take().unwrap()).collect();
        touch(8);
        assert_eq!(pool.0.free().touched, 12);
        drop(used);
        touch(8);
        assert_eq!(pool.0.free().touched, 12, "what came back has memory");
        assert!(touch(1_000), "all have memory");
        assert_eq!(pool.0.free().touched, 64);
        let all: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert!(all.len() == 64 && touch(8), "and none is free");
        assert_eq!(pages(&pool), 256);
    }

    #[test]
    fn who_touches_ahead_is_called_when_slots_with_memory_are_few() {
        let pool = BlockPool::new(64, SLOT_ALIGN).unwrap();
        pool.touch_ahead(8, Duration::ZERO).unwrap();
        let started = Instant::now();
        let touching = std::thread::spawn({
            let pool = pool.clone();
            move || pool.touch_ahead(8, Duration::from_secs(60))
        });
        let mut used = Vec::new();
        while pool.0.free().touched == 8 {
            used.extend(pool.take());
            std::thread::sleep(Duration::from_millis(100));
        }
        touching.join().unwrap().unwrap();
        assert!(started.elapsed() < Duration::from_secs(30), "it was not called");
        assert!(used.len() >= 5, "not before half of them were taken: {}", used.len());
    }

    #[test]
    fn an_empty_pool_gives_nothing_and_slices_stay_inside() {
        let pool = BlockPool::new(1, 4096).unwrap();
        let only = pool.take().unwrap();
        assert!(pool.take().is_none());
        let shared = only.freeze(10);
        assert!(shared.slice(0..10).is_some());
        assert!(shared.slice(0..11).is_none());
        #[expect(clippy::reversed_empty_ranges, reason = "the reversed range is what is being refused")]
        let reversed = shared.slice(5..4);
        assert!(reversed.is_none());
        assert!(matches!(BlockPool::new(0, 4096), Err(PoolError::Size { .. })));
    }
}
