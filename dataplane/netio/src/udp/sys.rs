//! The system calls of the UDP back end that no safe crate offers: `recvmmsg`, `sendmmsg`, integer socket options and
//! the MTU of a device. This is the only unsafe code of the crate; everything above it works on slices.
#![expect(unsafe_code, reason = "recvmmsg and sendmmsg with control messages have no safe wrapper that does not allocate")]

use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Most messages of one `recvmmsg` or `sendmmsg` call.
pub(super) const BATCH_MAX: usize = 32;

/// Bytes of a socket address as the kernel lays it out; an IPv6 address takes all of them.
pub(super) const NAME_BYTES: usize = 28;

/// Room for the control messages of one datagram. The largest set (packet info, traffic class, GRO size) takes 88 bytes.
pub(super) const CONTROL_BYTES: usize = 128;

const _: () = assert!(mem::size_of::<libc::sockaddr_in6>() == NAME_BYTES);
const _: () = assert!(mem::size_of::<libc::sockaddr_in>() <= NAME_BYTES);
const _: () = assert!(mem::align_of::<Control>() >= mem::align_of::<libc::cmsghdr>());

/// A raw socket address.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Name(pub(super) [u8; NAME_BYTES]);

/// Raw control messages.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; CONTROL_BYTES]);

/// Where the kernel puts one received message.
pub(super) struct ReceiveSlot {
    /// Payload.
    pub(super) buffer: Box<[u8]>,
    /// Valid payload bytes, at most the buffer's length.
    pub(super) bytes: usize,
    /// Source address.
    pub(super) name: Name,
    /// Valid bytes of `name`.
    pub(super) name_bytes: usize,
    /// Control messages.
    pub(super) control: Control,
    /// Valid bytes of `control`.
    pub(super) control_bytes: usize,
    /// The message did not fit `buffer` or `control`.
    pub(super) truncated: bool,
}

/// One message for the kernel to send.
#[derive(Clone)]
pub(super) struct SendSlot {
    /// The message's bytes within the arena given to [`send`].
    pub(super) range: Range<usize>,
    /// Destination address.
    pub(super) name: Name,
    /// Valid bytes of `name`.
    pub(super) name_bytes: usize,
    /// Control messages.
    pub(super) control: Control,
    /// Valid bytes of `control`.
    pub(super) control_bytes: usize,
}

/// Receives up to [`BATCH_MAX`] messages into the first slots without blocking and returns how many slots were filled.
pub(super) fn receive(socket: BorrowedFd<'_>, slots: &mut [ReceiveSlot]) -> io::Result<usize> {
    let count = slots.len().min(BATCH_MAX);
    let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH_MAX];
    let mut headers = empty_headers();
    for ((slot, part), header) in slots.iter_mut().zip(&mut parts).zip(&mut headers) {
        *part = libc::iovec { iov_base: slot.buffer.as_mut_ptr().cast(), iov_len: slot.buffer.len() };
        header.msg_hdr.msg_name = slot.name.0.as_mut_ptr().cast();
        header.msg_hdr.msg_namelen = NAME_BYTES as libc::socklen_t;
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = slot.control.0.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
    }
    // SAFETY: the first `count` headers point to memory of `slots` and `parts`, which outlive the call and are not
    // otherwise used during it, with the lengths of that memory. `count` is at most the length of `headers`. No timeout
    // is passed.
    let received = unsafe {
        libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT as _, ptr::null_mut())
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for (slot, header) in slots.iter_mut().zip(&headers).take(received) {
        slot.bytes = (header.msg_len as usize).min(slot.buffer.len());
        slot.name_bytes = (header.msg_hdr.msg_namelen as usize).min(NAME_BYTES);
        // The field's type differs between C libraries.
        #[allow(clippy::unnecessary_cast, reason = "size_t with glibc, socklen_t with musl")]
        let control_bytes = header.msg_hdr.msg_controllen as usize;
        slot.control_bytes = control_bytes.min(CONTROL_BYTES);
        slot.truncated = header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    }
    Ok(received)
}

/// Sends the messages of the first [`BATCH_MAX`] slots without blocking and returns how many the kernel took. An error
/// is about the first slot.
pub(super) fn send(socket: BorrowedFd<'_>, arena: &[u8], slots: &[SendSlot]) -> io::Result<usize> {
    let count = slots.len().min(BATCH_MAX);
    let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH_MAX];
    let mut headers = empty_headers();
    for ((slot, part), header) in slots.iter().zip(&mut parts).zip(&mut headers) {
        let bytes = &arena[slot.range.clone()];
        *part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let name = &slot.name.0[..slot.name_bytes];
        header.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_namelen = name.len() as libc::socklen_t;
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        let control = &slot.control.0[..slot.control_bytes];
        if !control.is_empty() {
            header.msg_hdr.msg_control = control.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_controllen = control.len() as _;
        }
    }
    // SAFETY: the first `count` headers point to memory of `arena`, `slots` and `parts`, which outlive the call, with the
    // lengths of that memory; sendmmsg only reads it and writes `msg_len` of the headers. `count` is at most the length
    // of `headers`.
    let sent = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn empty_headers() -> [libc::mmsghdr; BATCH_MAX] {
    // SAFETY: mmsghdr is made of integers and raw pointers, for which all-zero bytes are valid (null, 0).
    unsafe { mem::zeroed() }
}

/// Sets an integer socket option.
pub(super) fn set_option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer is to a live c_int and the length is its size.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), mem::size_of::<libc::c_int>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads a socket option made of up to `N` 32-bit words; words that the kernel did not write are 0.
pub(super) fn option<const N: usize>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<[u32; N]> {
    let mut words = [0_u32; N];
    let mut bytes = mem::size_of_val(&words) as libc::socklen_t;
    // SAFETY: the pointer is to `bytes` writable bytes; any bit pattern is a valid u32.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, words.as_mut_ptr().cast(), &raw mut bytes) };
    if result == 0 { Ok(words) } else { Err(io::Error::last_os_error()) }
}

/// The MTU of the device called `name` in the socket's network namespace, bytes.
pub(super) fn device_mtu(socket: BorrowedFd<'_>, name: &str) -> io::Result<usize> {
    // SAFETY: ifreq is made of integers, byte arrays and pointers; all-zero bytes are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte stays 0: the name is NUL-terminated.
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIFMTU reads a NUL-terminated name from and writes an integer to the ifreq that it is given.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFMTU succeeded, so `ifru_mtu` is the union's member that the kernel wrote.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    usize::try_from(mtu).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}
