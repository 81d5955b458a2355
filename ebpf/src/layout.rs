//! What the eBPF program and user space must agree on: limits, map names, verdict numbers.
//!
//! `build.rs` compiles this same file and writes `steer_layout.h` from it, so the C program has no number of its own.

/// Wire version the program accepts, the high nibble of payload byte 0 (transport.md section 1).
pub const WIRE_VERSION: u8 = 1;
/// Smallest packet kind, the low nibble of payload byte 0 (DATA).
pub const KIND_MIN: u8 = 1;
/// Largest packet kind (PROBE).
pub const KIND_MAX: u8 = 4;
/// Offset of the 64-bit big-endian lane id in the UDP payload, bytes.
pub const LANE_ID_OFFSET: usize = 8;
/// Shortest UDP payload that can be a packet: a 16-byte header and a 16-byte AEAD tag.
pub const PAYLOAD_BYTES_MIN: usize = 32;

/// Most lanes steered at one time (transport.md section 6).
pub const LANES_MAX: u32 = 4096;
/// Most UDP ports that are ours on one interface.
pub const PORTS_MAX: u32 = 16;
/// Most workers that own sockets on one interface.
pub const WORKERS_MAX: u32 = 64;
/// Most receive queues of one interface that may carry a socket.
pub const QUEUES_MAX: u32 = 64;
/// Rows of the socket map: row 0 holds the socket that owns the queue, row `1 + worker` the sockets of that worker.
pub const SOCKET_ROWS: u32 = WORKERS_MAX + 1;
/// Slots of the socket map.
pub const SOCKETS_MAX: u32 = SOCKET_ROWS * QUEUES_MAX;
/// Row of the socket map that means "whichever socket owns the queue the packet came in on".
pub const ROW_ANY: u32 = 0;

/// Name of the hash map lane id (u64, host order) to what [`lane_value`] makes (u32).
pub const MAP_LANES: &str = "lanes";
/// Name of the hash map UDP port (u16, host order) to 1 (u8).
pub const MAP_PORTS: &str = "ports";
/// Name of the XSKMAP, indexed by [`socket_slot`].
pub const MAP_SOCKETS: &str = "sockets";
/// Name of the per-CPU array of u64 counters, indexed by [`Verdict`].
pub const MAP_COUNTERS: &str = "counters";
/// Name of the program for frames in one buffer (section `xdp`).
pub const PROGRAM: &str = "steer";
/// Name of the program that also takes frames in several buffers (section `xdp.frags`, kernel 5.18).
pub const PROGRAM_FRAGS: &str = "steer_frags";

/// The slot of the socket map for a row and a receive queue, or `None` when either is out of range.
#[must_use]
pub const fn socket_slot(row: u32, queue: u32) -> Option<u32> {
    if row < SOCKET_ROWS && queue < QUEUES_MAX { Some(row * QUEUES_MAX + queue) } else { None }
}

/// Bits of a lane's value that hold its socket row; above them stands the longest UDP datagram of the lane, with its header, bytes.
pub const ROW_BITS: u32 = 16;

/// What is known of a lane: where its packets go, and how long they are at most.
#[must_use]
pub const fn lane_value(row: u32, longest_bytes: u16) -> u32 {
    row & ((1 << ROW_BITS) - 1) | (longest_bytes as u32) << ROW_BITS
}

/// The socket row of a worker, or `None` when the worker number is out of range.
#[must_use]
pub const fn worker_row(worker: u32) -> Option<u32> {
    if worker < WORKERS_MAX { Some(worker + 1) } else { None }
}

/// What the program decided about a frame; the value is the index of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Verdict {
    /// Ours, lane known: redirected to an AF_XDP socket.
    Redirected = 0,
    /// Ours, lane known, but no socket on this queue: passed to the kernel.
    NoSocket = 1,
    /// Our port, unknown lane id: dropped.
    UnknownLane = 2,
    /// Our port, another wire version: dropped.
    WrongVersion = 3,
    /// Our port and version, a packet kind that does not exist: dropped.
    BadKind = 4,
    /// Our port, too short to be a packet: dropped.
    Truncated = 5,
    /// IPv4 with options: passed to the kernel.
    Ipv4Options = 6,
    /// A fragment of an IPv4 datagram: passed to the kernel.
    Fragment = 7,
    /// IPv6 whose next header is neither UDP nor another transport (an extension header): passed to the kernel.
    Ipv6Extension = 8,
    /// Anything else (another protocol or port, ARP, a frame too short to tell): passed to the kernel.
    NotOurs = 9,
    /// Ours, lane known, but longer than packets of the lane are: several that an offload has merged. Passed to the kernel, which can cut them.
    Merged = 10,
}

impl Verdict {
    /// All verdicts with the name they carry in C and in metrics, in the order of their numbers.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::Redirected, "redirected"),
        (Self::NoSocket, "no_socket"),
        (Self::UnknownLane, "unknown_lane"),
        (Self::WrongVersion, "wrong_version"),
        (Self::BadKind, "bad_kind"),
        (Self::Truncated, "truncated"),
        (Self::Ipv4Options, "ipv4_options"),
        (Self::Fragment, "fragment"),
        (Self::Ipv6Extension, "ipv6_extension"),
        (Self::NotOurs, "not_ours"),
        (Self::Merged, "merged"),
    ];
}

const _: () = {
    let mut index = 0;
    while index < Verdict::ALL.len() {
        assert!(Verdict::ALL[index].0 as usize == index, "Verdict::ALL is ordered by number");
        index += 1;
    }
    assert!(LANE_ID_OFFSET + 8 <= PAYLOAD_BYTES_MIN, "the lane id lies inside the shortest packet");
};
