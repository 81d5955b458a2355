//! AF_PACKET: a memory-mapped receive ring (TPACKET_V2) and a batching sender that goes past the qdisc.
//!
//! V2 and not V3, because V3 hands over whole blocks, up to a millisecond late; V2 hands over each frame at once and still costs no
//! system call per frame. Source: Documentation/networking/packet_mmap.rst, packet(7), net/packet/af_packet.c.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{check, set_option};

/// Most frames in one sending system call.
pub(crate) const BATCH_FRAMES: usize = 64;

/// PACKET_IGNORE_OUTGOING of linux/if_packet.h, since Linux 4.20.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Memory the kernel allocates at once for the ring; a power-of-two number of pages.
const RING_BLOCK_BYTES: usize = 65_536;
/// Room in a ring frame for the kernel's header, the link-level address and alignment (TPACKET2_HDRLEN, then rounded up to 16 + the MAC header).
const RING_FRAME_OVERHEAD_BYTES: usize = 128;
/// Socket buffer asked for sending.
const SEND_BUFFER_BYTES: libc::c_int = 64 << 20;
/// EtherType of an 802.1Q tag, used where the kernel does not name the tag's own.
const ETHERTYPE_VLAN: u16 = 0x8100;

fn interface_index(name: &str) -> io::Result<libc::c_int> {
    let c_name = CString::new(name).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "interface name with a zero byte"))?;
    // SAFETY: `c_name` is a zero-terminated string that lives until the call returns.
    let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index as libc::c_int) }
}

/// A raw packet socket that receives nothing until it is bound with a protocol.
fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket has no memory preconditions.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind(fd: &OwnedFd, index: libc::c_int, protocol: u16) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain data for which all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: pointer and length describe `address`, which lives until the call returns.
    check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) }).map(|_| ())
}

/// What makes a received frame unfit to be sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameFault {
    /// Longer than the ring's frames: the other side segments in hardware that is not there.
    Oversize,
    /// Its checksum was left to hardware that is not there.
    ChecksumMissing,
}

/// A received frame, borrowed from the ring. The VLAN tag, which the kernel takes out, is beside it.
pub(crate) struct ReceivedFrame<'a> {
    /// Arrival, CLOCK_REALTIME in nanoseconds, stamped by the kernel.
    pub(crate) realtime_ns: u64,
    bytes: &'a [u8],
    vlan: Option<(u16, u16)>,
    /// Why it cannot be sent on.
    pub(crate) fault: Option<FrameFault>,
    /// Length on the wire, tag included, FCS not.
    pub(crate) wire_bytes: u32,
}

impl ReceivedFrame<'_> {
    /// The frame without its tag.
    pub(crate) fn untagged(&self) -> &[u8] {
        self.bytes
    }

    /// Writes the frame as it was on the wire, tag included. `target` has `wire_bytes` bytes and the frame has no fault.
    pub(crate) fn write_to(&self, target: &mut [u8]) {
        match self.vlan {
            None => target.copy_from_slice(self.bytes),
            Some((protocol, tag)) => {
                let (addresses, rest) = self.bytes.split_at(12);
                target[..12].copy_from_slice(addresses);
                target[12..14].copy_from_slice(&protocol.to_be_bytes());
                target[14..16].copy_from_slice(&tag.to_be_bytes());
                target[16..].copy_from_slice(rest);
            }
        }
    }
}

/// Receives every frame that comes in on an interface, none that goes out.
pub(crate) struct ReceiveRing {
    fd: OwnedFd,
    map: *mut u8,
    map_bytes: usize,
    frame_bytes: usize,
    frames: usize,
    next: usize,
    dropped: u64,
}

impl ReceiveRing {
    /// Opens a ring of at least `frames` frames for frames of up to `wire_bytes_max` bytes, and starts to receive.
    pub(crate) fn open(interface: &str, wire_bytes_max: usize, frames: usize) -> io::Result<Self> {
        let index = interface_index(interface)?;
        let fd = packet_socket()?;
        let raw = fd.as_raw_fd();
        set_option(raw, libc::SOL_PACKET, libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as libc::c_int)?;
        set_option(raw, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1 as libc::c_int)?;
        // Makes the kernel stamp every packet where it enters the stack; the ring carries that stamp.
        set_option(raw, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1 as libc::c_int)?;
        let frame_bytes = (wire_bytes_max + RING_FRAME_OVERHEAD_BYTES).next_multiple_of(16).max(2048);
        let frames_in_block = RING_BLOCK_BYTES / frame_bytes;
        let blocks = frames.div_ceil(frames_in_block);
        let request = libc::tpacket_req {
            tp_block_size: RING_BLOCK_BYTES as libc::c_uint,
            tp_block_nr: blocks as libc::c_uint,
            tp_frame_size: frame_bytes as libc::c_uint,
            tp_frame_nr: (blocks * frames_in_block) as libc::c_uint,
        };
        set_option(raw, libc::SOL_PACKET, libc::PACKET_RX_RING, request)?;
        let map_bytes = blocks * RING_BLOCK_BYTES;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of the ring that the socket just made, of exactly its size; no existing memory is touched.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), map_bytes, protection, libc::MAP_SHARED, raw, 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ring = Self { fd, map: map.cast(), map_bytes, frame_bytes, frames: blocks * frames_in_block, next: 0, dropped: 0 };
        let membership =
            libc::packet_mreq { mr_ifindex: index, mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort, mr_alen: 0, mr_address: [0; 8] };
        set_option(raw, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, membership)?;
        bind(&ring.fd, index, libc::ETH_P_ALL as u16)?;
        Ok(ring)
    }

    fn frame_at(&self, number: usize) -> *mut u8 {
        let frames_in_block = RING_BLOCK_BYTES / self.frame_bytes;
        let offset = number / frames_in_block * RING_BLOCK_BYTES + number % frames_in_block * self.frame_bytes;
        // SAFETY: `number` is below `self.frames`, so the offset is inside the mapping.
        unsafe { self.map.add(offset) }
    }

    /// Hands up to `limit` frames to `each`, in order of arrival; returns how many.
    pub(crate) fn receive(&mut self, limit: usize, mut each: impl FnMut(&ReceivedFrame<'_>)) -> usize {
        for taken in 0..limit {
            let start = self.frame_at(self.next);
            // SAFETY: the header starts every ring frame and its first field is the status word, aligned to 16 bytes; the kernel changes it
            // concurrently, so it is only ever accessed atomically.
            let status_word = unsafe { AtomicU32::from_ptr(start.cast()) };
            let status = status_word.load(Ordering::Acquire);
            if status & libc::TP_STATUS_USER == 0 {
                return taken;
            }
            // SAFETY: with TP_STATUS_USER set the frame is ours until we give it back; the kernel filled in the header. The copy starts behind
            // nothing that changes: the kernel does not write to a frame that user space owns.
            let header: libc::tpacket2_hdr = unsafe { std::ptr::read_volatile(start.cast()) };
            let captured = (header.tp_snaplen as usize).min(self.frame_bytes.saturating_sub(usize::from(header.tp_mac)));
            // SAFETY: `tp_mac + captured` was just bounded by the frame's size, and the frame is ours until the status word is reset below.
            let bytes = unsafe { std::slice::from_raw_parts(start.add(usize::from(header.tp_mac)), captured) };
            let vlan = (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| {
                let named = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
                (if named { header.tp_vlan_tpid } else { ETHERTYPE_VLAN }, header.tp_vlan_tci)
            });
            let fault = if captured < header.tp_len as usize || captured < 14 {
                Some(FrameFault::Oversize)
            } else if status & libc::TP_STATUS_CSUMNOTREADY != 0 {
                Some(FrameFault::ChecksumMissing)
            } else {
                None
            };
            each(&ReceivedFrame {
                realtime_ns: u64::from(header.tp_sec) * 1_000_000_000 + u64::from(header.tp_nsec),
                bytes,
                vlan,
                fault,
                wire_bytes: header.tp_len + if vlan.is_some() { 4 } else { 0 },
            });
            status_word.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % self.frames;
        }
        limit
    }

    /// Frames that found the ring full so far.
    pub(crate) fn dropped(&mut self) -> io::Result<u64> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: pointer and length describe `statistics`, into which the kernel writes at most that much.
        check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                std::ptr::from_mut(&mut statistics).cast(),
                &raw mut length,
            )
        })?;
        // Reading resets the kernel's counter.
        self.dropped += u64::from(statistics.tp_drops);
        Ok(self.dropped)
    }

    /// For polling.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for ReceiveRing {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `open` with this size and nothing borrows from it any more.
        unsafe { libc::munmap(self.map.cast(), self.map_bytes) };
    }
}

/// Sends frames out of an interface, straight to its driver.
pub(crate) struct PacketSender {
    fd: OwnedFd,
}

impl PacketSender {
    /// Opens a sender on an interface.
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let index = interface_index(interface)?;
        let fd = packet_socket()?;
        set_option(fd.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1 as libc::c_int)?;
        set_option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER_BYTES)?;
        bind(&fd, index, 0)?;
        Ok(Self { fd })
    }

    /// Sends up to [`BATCH_FRAMES`] frames in one system call; returns how many the kernel took.
    pub(crate) fn send(&self, frames: &[&[u8]]) -> io::Result<usize> {
        super::udp::send_batch_raw(self.fd.as_raw_fd(), frames)
    }
}
