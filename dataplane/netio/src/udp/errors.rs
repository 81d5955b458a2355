//! What an error of a send or receive call means for the link.

use std::io;

/// What to do about an error of `recvmmsg` or `sendmmsg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Interrupted: call again at once.
    Again,
    /// The kernel has no data or no room: come back on the next turn of the loop.
    Later,
    /// It concerns one datagram or one peer (no route, refused, oversize, filtered): count it and go on.
    Datagram,
    /// The socket itself is unusable.
    Broken,
}

/// Sorts an error. What is not known to break the socket is about a datagram: a peer or a firewall must not be able to
/// end the link.
pub(super) fn fault(error: &io::Error) -> Fault {
    let Some(code) = error.raw_os_error() else { return Fault::Broken };
    match code {
        libc::EINTR => Fault::Again,
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Fault::Later,
        libc::EBADF | libc::ENOTSOCK | libc::EFAULT | libc::ENOTCONN | libc::EDESTADDRREQ | libc::ENOSYS => Fault::Broken,
        _ => Fault::Datagram,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_socket_breaks_the_link() {
        let sorted = |code| fault(&io::Error::from_raw_os_error(code));
        for code in [libc::EMSGSIZE, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ECONNREFUSED, libc::EPERM, libc::EINVAL, libc::EIO] {
            assert_eq!(sorted(code), Fault::Datagram, "errno {code}");
        }
        assert_eq!(sorted(libc::EAGAIN), Fault::Later);
        assert_eq!(sorted(libc::ENOBUFS), Fault::Later);
        assert_eq!(sorted(libc::EINTR), Fault::Again);
        assert_eq!(sorted(libc::EBADF), Fault::Broken);
    }
}
