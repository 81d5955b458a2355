//! Clocks and waiting. The emulator lives on CLOCK_MONOTONIC; kernel packet timestamps come on CLOCK_REALTIME.

use std::io;
use std::os::fd::RawFd;

use super::check;

fn read_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer; the clocks passed by this module always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    read_ns(libc::CLOCK_MONOTONIC)
}

/// CPU time of this process in nanoseconds.
pub(crate) fn cpu_time_ns() -> u64 {
    read_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CLOCK_REALTIME minus CLOCK_MONOTONIC in nanoseconds, from the tightest of five readings so that a pre-emption in between does not show.
pub(crate) fn realtime_minus_monotonic_ns() -> i64 {
    let mut best = (u64::MAX, 0);
    for _ in 0..5 {
        let before = monotonic_ns();
        let real = read_ns(libc::CLOCK_REALTIME);
        let width = monotonic_ns() - before;
        if width < best.0 {
            best = (width, real as i64 - (before + width / 2) as i64);
        }
        if width < 500 {
            break;
        }
    }
    best.1
}

/// Sleeps until CLOCK_MONOTONIC reads `until_ns`, or a signal comes.
pub(crate) fn sleep_until_monotonic_ns(until_ns: u64) {
    let time = libc::timespec { tv_sec: (until_ns / 1_000_000_000) as libc::time_t, tv_nsec: (until_ns % 1_000_000_000) as libc::c_long };
    // SAFETY: `time` is valid; with TIMER_ABSTIME no remaining time is written, so the last pointer may be null.
    unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &raw const time, std::ptr::null_mut()) };
}

/// Waits until one of two sockets has something to read, a signal comes, or `timeout_ns` have passed.
pub(crate) fn wait_readable(fds: [RawFd; 2], timeout_ns: u64) -> io::Result<()> {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let timeout =
        libc::timespec { tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t, tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long };
    // SAFETY: `polled` is an array of the given length, `timeout` is valid, and a null signal mask leaves the mask alone.
    let result = check(unsafe { libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, &raw const timeout, std::ptr::null()) });
    match result {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance_and_relate() {
        let before = monotonic_ns();
        sleep_until_monotonic_ns(before + 2_000_000);
        let slept = monotonic_ns() - before;
        assert!(slept >= 2_000_000, "{slept}");
        let wall_ns = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as i64;
        let before = wall_ns();
        let computed = monotonic_ns() as i64 + realtime_minus_monotonic_ns();
        let after = wall_ns();
        assert!(before - 1_000_000 <= computed && computed <= after + 1_000_000, "{before} {computed} {after}");
    }
}
