//! Scheduling class, timer slack, signals to processes that we started.

use std::io;

use super::check;

/// Gives this thread the SCHED_FIFO class at a low real-time priority, above every ordinary thread. Needs CAP_SYS_NICE.
pub(crate) fn set_realtime_class() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 10 };
    // SAFETY: `parameter` is valid for the call; 0 is the calling thread.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) }).map(|_| ())
}

/// Lets this thread's sleeps end within a nanosecond of slack instead of 50 µs (PR_SET_TIMERSLACK).
pub(crate) fn set_fine_timers() -> io::Result<()> {
    // SAFETY: PR_SET_TIMERSLACK takes a plain number.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) }).map(|_| ())
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// A signal to end a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ask.
    Terminate,
    /// Insist.
    Kill,
}

/// Sends a signal to one process. A process that is already gone is not an error.
pub(crate) fn send_signal(pid: u32, signal: Signal) -> io::Result<()> {
    let Some(pid) = libc::pid_t::try_from(pid).ok().filter(|&p| p > 1) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is not a process that may be signalled")));
    };
    let number = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
    };
    // SAFETY: kill has no memory preconditions; `pid` is above 1, so neither a group nor every process is meant.
    match check(unsafe { libc::kill(pid, number) }) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_init_are_never_signalled() {
        for pid in [0, 1, u32::MAX] {
            assert_eq!(send_signal(pid, Signal::Terminate).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{pid}");
        }
    }
}
