//! Every system call that std does not wrap: packet sockets, kernel receive timestamps, clocks, scheduling. The only `unsafe` of the crate.

mod clock;
mod packet;
mod process;
mod udp;

pub(crate) use clock::{cpu_time_ns, monotonic_ns, realtime_minus_monotonic_ns, sleep_until_monotonic_ns, wait_readable};
pub(crate) use packet::{BATCH_FRAMES, FrameFault, PacketSender, ReceiveRing};
pub(crate) use process::{Signal, is_root, send_signal, set_fine_timers, set_realtime_class};
pub(crate) use udp::{TimestampedReceiver, send_batch};

use std::io;

/// Turns the -1 of a system call into the error it left in errno.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Sets a socket option to a plain value.
fn set_option<T: Copy>(fd: libc::c_int, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which lives until the call returns.
    check(unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(&value).cast(), length) }).map(|_| ())
}
