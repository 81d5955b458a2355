//! An io_uring that moves pool slots to and from files.
#![expect(unsafe_code, reason = "io_uring takes raw pointers; this module keeps what they point to until the kernel is done with it")]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use tradewind_fabric::wake::Waker;
use tradewind_fabric::{BlockBuf, BlockPool, SharedBlock};

use crate::error::StagingError;

/// Requests at once. The kernel's queue has room for one more, which watches the waker.
pub(crate) const DEPTH: usize = 32;
const ENTRIES: u32 = 64;
/// User data of the request that watches the waker; others count from 0.
const WAKING: u64 = u64::MAX;

/// Memory that is written to a file, or read into from one.
#[derive(Debug)]
pub(crate) enum Buffer {
    Out(SharedBlock),
    In(BlockBuf),
}

/// A request that the kernel has.
#[derive(Debug)]
struct Flight {
    buffer: Buffer,
    /// Keeps the descriptor.
    _file: Arc<OwnedFd>,
    bytes: u32,
}

/// A request that has ended.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) key: u64,
    pub(crate) buffer: Buffer,
    pub(crate) result: io::Result<()>,
}

/// The ring. Slots of the pool are registered with the kernel at their first use, so that only these are pinned.
pub struct Ring {
    uring: IoUring,
    pool: BlockPool,
    waker: Waker,
    /// Which slots are registered; `None` where the kernel does not pin memory for us.
    registered: Option<Vec<bool>>,
    flights: HashMap<u64, Flight>,
    is_watching: bool,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("flights", &self.flights.len()).finish_non_exhaustive()
    }
}

impl Ring {
    /// Makes one for blocks of this pool. With CAP_IPC_LOCK now, pinned memory is not limited later.
    ///
    /// # Errors
    /// [`StagingError::NoRing`].
    pub fn new(pool: &BlockPool) -> Result<Self, StagingError> {
        let no_ring = |source| StagingError::NoRing { source };
        let uring = IoUring::new(ENTRIES).map_err(no_ring)?;
        let waker = Waker::new().map_err(no_ring)?;
        let slots = u32::try_from(pool.capacity()).unwrap_or(u32::MAX);
        let registered = match uring.submitter().register_buffers_sparse(slots) {
            Ok(()) => Some(vec![false; pool.capacity()]),
            Err(error) => {
                // More than 16,384 slots, or a kernel before 5.19.
                tracing::debug!(%error, slots, "staging pins memory anew for each request");
                None
            }
        };
        Ok(Self { uring, pool: pool.clone(), waker, registered, flights: HashMap::new(), is_watching: false })
    }

    pub(crate) fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Ends [`Ring::wait`] from another thread.
    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    #[cfg(test)]
    pub(crate) fn descriptor(&self) -> std::os::fd::RawFd {
        self.uring.as_raw_fd()
    }

    /// Requests that the kernel has.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Moves `bytes`, whole pages of the slot from its beginning. `key` is not in use.
    pub(crate) fn start(&mut self, key: u64, file: &Arc<OwnedFd>, offset: u64, buffer: Buffer, bytes: usize) {
        let (slot, pointer, room) = match &buffer {
            Buffer::Out(block) => (block.slot(), block.whole_slot().as_ptr(), block.whole_slot().len()),
            Buffer::In(slot) => (slot.slot(), slot.as_ptr(), slot.len()),
        };
        assert!(bytes <= room && self.flights.len() < DEPTH, "{bytes} of {room} bytes, {} requests", self.flights.len());
        let fixed = self.register(slot, pointer, room);
        let (fd, bytes, pointer, index) = (Fd(file.as_raw_fd()), bytes as u32, pointer.cast_mut(), slot as u16);
        let entry = match (&buffer, fixed) {
            (Buffer::Out(_), true) => opcode::WriteFixed::new(fd, pointer, bytes, index).offset(offset).build(),
            (Buffer::Out(_), false) => opcode::Write::new(fd, pointer, bytes).offset(offset).build(),
            (Buffer::In(_), true) => opcode::ReadFixed::new(fd, pointer, bytes, index).offset(offset).build(),
            (Buffer::In(_), false) => opcode::Read::new(fd, pointer, bytes).offset(offset).build(),
        };
        self.flights.insert(key, Flight { buffer, _file: Arc::clone(file), bytes });
        self.push(&entry.user_data(key));
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to (a slot, a descriptor) is kept in `flights` until its completion has been seen; the slot is
        // mapped as long as its handle lives, read-only handles are only written from, and the one that is read into has no other owner.
        // The waker is a field.
        let pushed = unsafe { self.uring.submission().push(entry) };
        assert!(pushed.is_ok(), "at most {DEPTH} requests and the waker's are in a queue of {ENTRIES}");
    }

    /// Whether the slot is registered now.
    fn register(&mut self, slot: usize, pointer: *const u8, bytes: usize) -> bool {
        let Some(registered) = &mut self.registered else { return false };
        let Some(is_registered) = registered.get_mut(slot).filter(|_| slot <= usize::from(u16::MAX)) else { return false };
        if !*is_registered {
            let buffer = libc::iovec { iov_base: pointer.cast_mut().cast(), iov_len: bytes };
            // SAFETY: the slot belongs to `self.pool`, which keeps it mapped as long as the ring lives.
            let updated = unsafe { self.uring.submitter().register_buffers_update(slot as u32, &[buffer], None) };
            if let Err(error) = updated {
                tracing::info!("staging pins memory anew for each request, which costs some CPU: {error}; raise LimitMEMLOCK");
                self.registered = None;
                return false;
            }
            *is_registered = true;
        }
        true
    }

    /// Waits until a request ends, the waker is called, or time is up; returns what has ended.
    ///
    /// # Errors
    /// When the kernel refuses to wait; [`Ring::reap`] gives what has ended nevertheless.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<Vec<Landed>> {
        if !self.is_watching {
            self.is_watching = true;
            let fd = Fd(self.waker.as_fd().as_raw_fd());
            self.push(&opcode::PollAdd::new(fd, libc::POLLIN as u32).build().user_data(WAKING));
        }
        let timeout = Timespec::from(timeout);
        match self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout)) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
                return Err(error);
            }
            _ => {}
        }
        Ok(self.reap())
    }

    /// What has ended.
    pub(crate) fn reap(&mut self) -> Vec<Landed> {
        let ended: Vec<cqueue::Entry> = self.uring.completion().collect();
        let mut landed = Vec::with_capacity(ended.len());
        for entry in ended {
            if entry.user_data() == WAKING {
                self.waker.clear();
                self.is_watching = false;
                continue;
            }
            let Some(Flight { buffer, bytes, .. }) = self.flights.remove(&entry.user_data()) else { continue };
            let result = match entry.result() {
                moved if moved == bytes as i32 => Ok(()),
                errno if errno < 0 => Err(io::Error::from_raw_os_error(-errno)),
                moved => Err(short(&buffer, moved, bytes)),
            };
            landed.push(Landed { key: entry.user_data(), buffer, result });
        }
        landed
    }
}

impl Drop for Ring {
    /// Nothing that the kernel still reads or writes may go back to the pool.
    fn drop(&mut self) {
        while !self.flights.is_empty() {
            if let Err(error) = self.wait(Duration::from_secs(1)) {
                tracing::error!(%error, "blocks on their way to the disk are not waited for");
                std::mem::take(&mut self.flights).into_values().for_each(std::mem::forget);
            }
        }
    }
}

/// Less was moved than was asked for: a file system that had room for some, or a file that ends too early.
fn short(buffer: &Buffer, moved: i32, bytes: u32) -> io::Error {
    let kind = match buffer {
        Buffer::Out(_) => io::ErrorKind::StorageFull,
        Buffer::In(_) => io::ErrorKind::UnexpectedEof,
    };
    io::Error::new(kind, format!("{moved} of {bytes} bytes were moved"))
}
