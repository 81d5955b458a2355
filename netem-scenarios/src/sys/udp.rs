//! Batched sending, and receiving with the kernel's arrival time (SO_TIMESTAMPNS, Documentation/networking/timestamping.rst).

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};

use super::packet::BATCH_FRAMES;
use super::{check, set_option};

/// Bytes for one control message with a timestamp, and room to spare.
const CONTROL_BYTES: usize = 64;
/// Largest datagram that the probes use.
const DATAGRAM_BYTES_MAX: usize = 9_216;
/// Socket buffer of a receiver: a second of 1 Gbit/s.
const RECEIVE_BUFFER_BYTES: libc::c_int = 128 << 20;

/// Sends up to [`BATCH_FRAMES`] datagrams on a connected socket in one system call; returns how many the kernel took.
pub(crate) fn send_batch(socket: &UdpSocket, datagrams: &[&[u8]]) -> io::Result<usize> {
    send_batch_raw(socket.as_raw_fd(), datagrams)
}

pub(super) fn send_batch_raw(fd: RawFd, datagrams: &[&[u8]]) -> io::Result<usize> {
    let count = datagrams.len().min(BATCH_FRAMES);
    let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH_FRAMES];
    // SAFETY: mmsghdr is plain data for which all zeroes is a valid value.
    let mut messages: [libc::mmsghdr; BATCH_FRAMES] = unsafe { std::mem::zeroed() };
    for ((datagram, vector), message) in datagrams.iter().zip(&mut vectors).zip(&mut messages) {
        vector.iov_base = datagram.as_ptr().cast_mut().cast();
        vector.iov_len = datagram.len();
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: the first `count` messages point to vectors that point to the datagrams; all live until the call returns, and sending only
    // reads what they point to.
    let sent = check(unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT) })?;
    Ok(sent as usize)
}

/// Receives datagrams with the time at which the kernel got them.
pub(crate) struct TimestampedReceiver {
    socket: UdpSocket,
    buffers: Vec<u8>,
}

impl TimestampedReceiver {
    /// Takes a bound socket over. Its receive buffer is enlarged; past the system's limit if we may.
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
        let fd = socket.as_raw_fd();
        set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1 as libc::c_int)?;
        if set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES).is_err() {
            set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES)?;
        }
        Ok(Self { socket, buffers: vec![0; BATCH_FRAMES * DATAGRAM_BYTES_MAX] })
    }

    /// Hands waiting datagrams to `each` with their arrival (CLOCK_REALTIME, nanoseconds). Blocks for the first as long as the socket's read
    /// timeout says; a timeout is no error and gives 0.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(&[u8], u64)) -> io::Result<usize> {
        #[repr(align(8))]
        #[derive(Clone, Copy)]
        struct Control([u8; CONTROL_BYTES]);
        let mut controls = [Control([0; CONTROL_BYTES]); BATCH_FRAMES];
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH_FRAMES];
        // SAFETY: mmsghdr is plain data for which all zeroes is a valid value.
        let mut messages: [libc::mmsghdr; BATCH_FRAMES] = unsafe { std::mem::zeroed() };
        let buffers = self.buffers.chunks_exact_mut(DATAGRAM_BYTES_MAX);
        for (((buffer, vector), control), message) in buffers.zip(&mut vectors).zip(&mut controls).zip(&mut messages) {
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = buffer.len();
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = CONTROL_BYTES;
        }
        let fd = self.socket.as_raw_fd();
        // SAFETY: each message points to a vector over its own part of `buffers` and to its own control buffer, with their true sizes; all
        // live until the call returns. A null timeout leaves waiting to SO_RCVTIMEO.
        let result = check(unsafe {
            libc::recvmmsg(fd, messages.as_mut_ptr(), BATCH_FRAMES as libc::c_uint, libc::MSG_WAITFORONE, std::ptr::null_mut())
        });
        let count = match result {
            Ok(count) => count as usize,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => return Ok(0),
            Err(e) => return Err(e),
        };
        for (message, buffer) in messages.iter().zip(self.buffers.chunks_exact(DATAGRAM_BYTES_MAX)).take(count) {
            let arrival = timestamp(&message.msg_hdr)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel gave no receive timestamp"))?;
            each(&buffer[..(message.msg_len as usize).min(DATAGRAM_BYTES_MAX)], arrival);
        }
        Ok(count)
    }
}

/// The SCM_TIMESTAMPNS control message of a received message, in nanoseconds.
fn timestamp(header: &libc::msghdr) -> Option<u64> {
    // SAFETY: `header` was filled in by recvmmsg and its control buffer is alive (the caller holds it).
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a header inside the control buffer, aligned as it requires.
        let (level, kind) = unsafe { ((*message).cmsg_level, (*message).cmsg_type) };
        if level == libc::SOL_SOCKET && kind == libc::SO_TIMESTAMPNS {
            // SAFETY: the data of an SCM_TIMESTAMPNS message (same number as SO_TIMESTAMPNS) is one timespec; it may be unaligned.
            let time: libc::timespec = unsafe { std::ptr::read_unaligned(libc::CMSG_DATA(message).cast()) };
            return Some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64);
        }
        // SAFETY: `header` and `message` belong together, as above.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn datagrams_arrive_with_the_kernels_time() {
        let receiving = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        receiving.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout can be set");
        let sending = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        sending.connect(receiving.local_addr().expect("bound")).expect("connects");
        let mut receiver = TimestampedReceiver::new(receiving).expect("timestamps are supported");
        assert_eq!(send_batch(&sending, &[b"one", b"three"]).expect("sends"), 2);
        let mut got = Vec::new();
        while got.len() < 2 {
            let count = receiver.receive(|bytes, at| got.push((bytes.to_vec(), at))).expect("receives");
            assert!(count > 0, "nothing came within 5 s");
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
        assert_eq!(got.iter().map(|g| g.0.clone()).collect::<Vec<_>>(), [b"one".to_vec(), b"three".to_vec()]);
        assert!(got.iter().all(|g| g.1 <= now && now - g.1 < 60_000_000_000), "{got:?} at {now}");
    }
}
