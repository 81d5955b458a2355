//! Lets other threads interrupt a worker that sleeps on its socket.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::event::{EventfdFlags, eventfd};

/// Interrupts [`Link::wait`](tradewind_netio::Link::wait) of the [`XdpLink`](crate::XdpLink) it came from (eventfd(2)). A call
/// before the wait makes that wait return at once; several count as one.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)))
    }

    /// Wakes the worker. Never blocks; usable from any thread.
    pub fn wake(&self) {
        // Refused only when the counter is at its limit, which is awake enough.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    pub(crate) fn clear(&self) {
        let mut count = [0; 8];
        // Refused only when nobody woke us since.
        let _ = rustix::io::read(&*self.0, &mut count);
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
