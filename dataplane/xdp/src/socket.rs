//! Opens an AF_XDP socket on one queue of a steered interface.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Steering, XdpError, XdpMode,
    device::{is_zero_copy, set_send_buffer},
    frame::{Fill, Frame, FrameAudit, Free},
    packet::LINK_BYTES_MAX,
    rings::{HEADROOM_BYTES, Memory, OpenError, Rings, RingsConfig},
};

/// Frame size for packets that fit: half a page halves the memory a packet touches.
const FRAME_BYTES_SMALL: u32 = 2048;
/// Largest UMEM frame: a page. The kernel refuses larger ones.
pub(crate) const FRAME_BYTES_MAX: u32 = 4096;
/// Fewest frames each way: two batches.
const FRAMES_MIN: u32 = 128;
/// Most frames each way (512 MiB of 4,096-byte frames).
const FRAMES_MAX: u32 = 131_072;
/// Pause between two tries to bind a queue that is still being freed.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Which queue, and how much memory.
#[derive(Clone, Copy, Debug)]
pub struct SocketConfig {
    /// Number of the worker that owns the socket, 0 to 63; what [`Steering::add_lane`] calls it.
    pub worker: u32,
    /// Receive queue of the interface, 0 to 63. A socket sees only packets of its own queue.
    pub queue: u32,
    /// Frames to receive into, rounded up to a power of two. Default 8,192, 16 MiB at MTU 1500 and 32 MiB above: as many packets wait while the worker
    /// is off its core, 10 ms of 10 Gbit/s. Too few shows as `receive_dropped`.
    pub receive_frames: u32,
    /// Frames to send from, rounded up to a power of two. Default 2,048.
    pub send_frames: u32,
    /// Take UMEM from huge pages where the system has some reserved. Default true.
    pub huge_pages: bool,
    /// How long to try again while the queue still belongs to a socket that is being torn down. Default 2 s.
    pub busy_deadline: Duration,
}

impl SocketConfig {
    /// The defaults for a worker and a queue.
    #[must_use]
    pub fn new(worker: u32, queue: u32) -> Self {
        Self { worker, queue, receive_frames: 8_192, send_frames: 2_048, huge_pages: true, busy_deadline: Duration::from_secs(2) }
    }
}

/// Counters that the kernel keeps for a socket (XDP_STATISTICS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketStatistics {
    /// Packets dropped because there was no frame, or because they were longer than a frame.
    pub receive_dropped: u64,
    /// Packets dropped because the receive ring was full: the worker did not fetch them.
    pub receive_ring_full: u64,
    /// Times the kernel found the fill ring empty.
    pub fill_ring_empty: u64,
    /// Descriptors that we put on the transmit ring and the kernel found invalid.
    pub transmit_invalid: u64,
}

/// An AF_XDP socket, bound to a queue and registered with the steering program. [`XdpLink`](crate::XdpLink) moves datagrams
/// through it.
pub struct XdpSocket {
    pub(crate) rings: Rings,
    /// Frames that wait for room on the fill ring.
    pub(crate) fill: Vec<Frame<Fill>>,
    /// Frames to send from.
    pub(crate) free: Vec<Frame<Free>>,
    /// Bytes of a packet that one frame holds.
    pub(crate) frame_capacity: usize,
    pub(crate) mtu_bytes: usize,
    pub(crate) multi_buffer: bool,
    zero_copy: bool,
    huge_pages: bool,
    receive_frames: u32,
    notes: Vec<String>,
}

impl XdpSocket {
    /// Opens a socket. Needs CAP_NET_RAW, and CAP_IPC_LOCK or a memory lock limit above the UMEM's size. Call it in the
    /// network namespace of the interface.
    ///
    /// # Errors
    /// [`XdpError::QueueBusy`] when another socket keeps the queue past the deadline; [`XdpError::Memory`],
    /// [`XdpError::Privilege`], [`XdpError::Kernel`], [`XdpError::Config`], [`XdpError::Os`] as their messages say.
    pub fn open(steering: &Steering, config: &SocketConfig) -> Result<Self, XdpError> {
        let (receive_frames, send_frames) = (ring_frames(config.receive_frames)?, ring_frames(config.send_frames)?);
        let fits_small = steering.mtu_bytes() + LINK_BYTES_MAX <= FRAME_BYTES_SMALL as usize - HEADROOM_BYTES;
        let mut rings_config = RingsConfig {
            interface: steering.interface(),
            queue: config.queue,
            receive_frames,
            send_frames,
            frame_bytes: if fits_small { FRAME_BYTES_SMALL } else { FRAME_BYTES_MAX },
            // Generic mode with a zero-copy driver underneath would bind the driver's queue and then see nothing.
            copy: steering.mode() == XdpMode::Generic,
            multi_buffer: steering.multi_buffer(),
            huge_pages: config.huge_pages,
        };
        let mut notes = Vec::new();
        let memory = allocate(&mut rings_config, &mut notes).map_err(|error| describe(error, &rings_config))?;
        let (mut rings, mut frames) = bind(memory, &rings_config, config.busy_deadline)?;

        if let Err(error) = set_send_buffer(rings.fd(), rings_config.umem_bytes()) {
            notes.push(format!("the socket's send buffer could not be raised ({error}); bursts may be sent in several turns"));
        }
        let os = |what| move |source| XdpError::Os { what, interface: steering.interface().to_owned(), source };
        rings.fill(&mut frames.fill).map_err(os("cannot fill the receive queue"))?;
        steering.register(config.worker, config.queue, rings.fd())?;
        let zero_copy = is_zero_copy(rings.fd()).map_err(os("cannot ask the socket for its options"))?;
        Ok(Self {
            zero_copy,
            rings,
            fill: frames.fill,
            free: frames.free,
            frame_capacity: rings_config.frame_bytes as usize - HEADROOM_BYTES,
            mtu_bytes: steering.mtu_bytes(),
            multi_buffer: rings_config.multi_buffer,
            huge_pages: rings_config.huge_pages,
            receive_frames,
            notes,
        })
    }

    /// Whether the NIC reads and writes the UMEM itself.
    #[must_use]
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Whether the UMEM lies in huge pages.
    #[must_use]
    pub fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Frames to receive into: as many packets wait for the worker.
    #[must_use]
    pub fn receive_frames(&self) -> u32 {
        self.receive_frames
    }

    /// What was not as good as it could be when the socket was opened, and what to do about it. For the log.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Who holds the frames now. Walks all frames: for tests and reports.
    #[must_use]
    pub fn audit(&self) -> FrameAudit {
        self.rings.audit()
    }

    /// Frames that we hold and know where: to send from, or waiting for the fill ring. Equals [`FrameAudit::ours`] unless one
    /// was lost.
    #[must_use]
    pub fn frames_in_hand(&self) -> usize {
        self.fill.len() + self.free.len()
    }

    /// The kernel's counters.
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub fn statistics(&self) -> io::Result<SocketStatistics> {
        let statistics = self.rings.statistics()?;
        Ok(SocketStatistics {
            receive_dropped: statistics.rx_dropped(),
            receive_ring_full: statistics.rx_ring_full(),
            fill_ring_empty: statistics.rx_fill_ring_empty_descs(),
            transmit_invalid: statistics.tx_invalid_descs(),
        })
    }

    /// Takes back every frame that the kernel has sent.
    pub(crate) fn reclaim(&mut self) {
        let free = &mut self.free;
        self.rings.complete(|frame| free.push(frame.recycle()));
    }
}

impl AsFd for XdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.rings.fd()
    }
}

/// A number of frames that the rings can have.
fn ring_frames(wanted: u32) -> Result<u32, XdpError> {
    let frames = wanted.checked_next_power_of_two().unwrap_or(u32::MAX).max(FRAMES_MIN);
    if frames > FRAMES_MAX {
        return Err(XdpError::Config(format!("{wanted} frames are more than the {FRAMES_MAX} that a socket may have each way")));
    }
    Ok(frames)
}

/// From huge pages if wanted and possible, else from ordinary ones.
fn allocate(config: &mut RingsConfig<'_>, notes: &mut Vec<String>) -> Result<Memory, OpenError> {
    if config.huge_pages {
        match Memory::allocate(config) {
            Err(OpenError::Memory(error)) => {
                let pages = config.umem_bytes().div_ceil(2 << 20);
                notes.push(format!(
                    "packet memory is in ordinary pages, no huge pages ({error}); reserve them with `sysctl -w vm.nr_hugepages={pages}` \
                     (for each socket)"
                ));
                config.huge_pages = false;
            }
            other => return other,
        }
    }
    Memory::allocate(config)
}

/// Binds, and tries again while the queue is busy: the kernel frees a closed socket's queue some time after the close.
fn bind(mut memory: Memory, config: &RingsConfig<'_>, busy_deadline: Duration) -> Result<(Rings, crate::rings::Frames), XdpError> {
    let started = Instant::now();
    loop {
        match memory.bind(config) {
            Ok(bound) => return Ok(bound),
            Err((unbound, OpenError::Socket(error))) if error.raw_os_error() == Some(libc::EBUSY) => {
                if started.elapsed() >= busy_deadline {
                    return Err(XdpError::QueueBusy {
                        interface: config.interface.to_owned(),
                        queue: config.queue,
                        waited_ms: started.elapsed().as_millis(),
                    });
                }
                sleep(BUSY_PAUSE);
                memory = unbound;
            }
            Err((_, error)) => return Err(describe(error, config)),
        }
    }
}

/// Turns a failure into what the operator can do about it.
fn describe(error: OpenError, config: &RingsConfig<'_>) -> XdpError {
    let bytes = config.umem_bytes();
    match error {
        OpenError::Config(text) => XdpError::Config(text),
        // Creating the UMEM opens the socket, so a missing privilege or protocol family shows here.
        OpenError::Memory(source) | OpenError::Socket(source) => match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                XdpError::Privilege { what: "opening an AF_XDP socket", capabilities: "cap_net_raw,cap_net_admin,cap_bpf" }
            }
            Some(libc::EAFNOSUPPORT) => XdpError::Kernel { what: "open AF_XDP sockets", needed: "5.4", option: "CONFIG_XDP_SOCKETS" },
            Some(libc::ENOBUFS | libc::ENOMEM) => XdpError::Memory { bytes, source },
            Some(libc::EINVAL) if config.multi_buffer => XdpError::Kernel {
                what: "bind an AF_XDP socket with multi-buffer frames, or the queue does not exist",
                needed: "6.6",
                option: "CONFIG_XDP_SOCKETS",
            },
            _ => XdpError::Os { what: "cannot open an AF_XDP socket", interface: config.interface.to_owned(), source },
        },
    }
}
