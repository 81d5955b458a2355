//! Sleeping until a socket has something, another thread calls, or time is up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Ends another thread's wait (eventfd(2)). A call before the wait makes that wait return at once; several count as one.
/// Clones wake the same thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

/// Most descriptors that one [`Waker::wait`] watches besides the waker's own.
pub const WATCHED_MAX: usize = 63;

impl Waker {
    /// A waker nobody has called yet.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Makes the current or the next wait return at once. Never blocks; usable from any thread.
    pub fn wake(&self) {
        // Refused only when the counter is at its limit, and then a call is already waiting.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    /// Forgets the calls so far: for waits that watch [`AsFd::as_fd`] themselves.
    pub fn clear(&self) {
        // Refused only when nobody has called.
        let _ = rustix::io::read(&*self.0, &mut [0_u8; 8]);
    }

    /// Sleeps until one of `watched` (at most [`WATCHED_MAX`]) is readable, somebody called [`Waker::wake`], or `timeout`
    /// has passed. Interrupted sleeps return early.
    pub fn wait<'fd>(&'fd self, watched: impl Iterator<Item = BorrowedFd<'fd>>, timeout: Duration) {
        let mut set: [_; WATCHED_MAX + 1] = std::array::from_fn(|_| PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN));
        let mut count = 1;
        for (slot, fd) in set[1..].iter_mut().zip(watched) {
            *slot = PollFd::from_borrowed_fd(fd, PollFlags::IN);
            count += 1;
        }
        // A timeout of more seconds than a timespec holds is as good as none.
        let timeout = Timespec::try_from(timeout).ok();
        let ready = poll(&mut set[..count], timeout.as_ref());
        if ready.is_ok_and(|ready| ready > 0) && set[0].revents().contains(PollFlags::IN) {
            self.clear();
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_ends_the_wait_and_is_used_up_by_it() {
        let waker = Waker::new().unwrap();
        waker.clone().wake();
        let start = crate::clock::now_ns();
        waker.wait(std::iter::empty(), Duration::from_secs(20));
        assert!(crate::clock::now_ns() - start < 10_000_000_000);
        let start = crate::clock::now_ns();
        waker.wait(std::iter::empty(), Duration::from_millis(20));
        assert!(crate::clock::now_ns() - start >= 20_000_000);
    }
}
