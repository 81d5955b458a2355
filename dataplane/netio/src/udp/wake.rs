//! Interrupting [`Link::wait`](crate::Link::wait) from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// Wakes the worker that sleeps in [`Link::wait`](crate::Link::wait) of the link it came from (eventfd(2)). A wake-up
/// before the wait is not lost: that wait returns at once. Several before one wait count as one.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<OwnedFd>,
}

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { event: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?) })
    }

    /// Makes the current or the next wait return at once. Never blocks.
    pub fn wake(&self) {
        // The only possible failure is a full counter, and then a wake-up is already waiting.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Forgets the wake-ups so far.
    pub(super) fn clear(&self) {
        // Fails only when there is none.
        let _ = rustix::io::read(&self.event, &mut [0_u8; 8]);
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
