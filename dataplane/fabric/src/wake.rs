//! Sleeping until a socket has something, another thread calls, or time is up.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Ends another thread's [`Waker::wait`]. Clones wake the same thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

/// Most descriptors that one wait watches besides the waker's own.
pub const WATCHED_MAX: usize = 63;

impl Waker {
    /// A waker nobody has called yet.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers; a negative result is handled before it is used.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was created just now and nobody else owns it.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Makes the current or next wait return at once.
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is 8 valid bytes. A full counter (EAGAIN) wakes just as well.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Sleeps until one of `watched` (at most [`WATCHED_MAX`]) is readable, somebody called [`Waker::wake`], or `timeout`
    /// has passed. Interrupted sleeps return early.
    pub fn wait(&self, watched: &[RawFd], timeout: Duration) {
        let mut fds = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; WATCHED_MAX + 1];
        fds[0].fd = self.0.as_raw_fd();
        for (slot, &fd) in fds[1..].iter_mut().zip(watched) {
            slot.fd = fd;
        }
        let timeout = libc::timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let count = watched.len().min(WATCHED_MAX) + 1;
        // SAFETY: `fds` holds `count` valid entries, `timeout` is a valid timespec, and no signal mask is given.
        unsafe { libc::ppoll(fds.as_mut_ptr(), count as libc::nfds_t, &raw const timeout, std::ptr::null()) };
        if fds[0].revents != 0 {
            let mut drained = [0u8; 8];
            // SAFETY: the buffer is 8 writable bytes; an empty counter (EAGAIN) is as good.
            unsafe { libc::read(self.0.as_raw_fd(), drained.as_mut_ptr().cast(), drained.len()) };
        }
    }
}

/// Asks the kernel to wake this thread when it said, not up to 50 µs later (`prctl(2)`, PR_SET_TIMERSLACK).
pub fn precise_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes one integer and no pointers; a refusal changes nothing.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1usize, 0usize, 0usize, 0usize) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_ends_the_wait_and_is_used_up_by_it() {
        let waker = Waker::new().unwrap();
        waker.clone().wake();
        let start = crate::clock::now_ns();
        waker.wait(&[], Duration::from_secs(20));
        assert!(crate::clock::now_ns() - start < 10_000_000_000);
        let start = crate::clock::now_ns();
        waker.wait(&[], Duration::from_millis(20));
        assert!(crate::clock::now_ns() - start >= 20_000_000);
    }
}
