//! The four rings and the UMEM of one AF_XDP socket, over xsk-rs.
//!
//! The only module that calls xsk-rs's unsafe functions. What makes them sound: every descriptor given to the kernel comes
//! out of a [`Frame`] that is consumed by it, every frame taken back was noted as the kernel's in the [`Ledger`], and all
//! frames come from the one UMEM that lives in the same struct.
#![expect(unsafe_code, reason = "xsk-rs leaves frame ownership to the caller; this module is where it is kept")]

use std::{
    io,
    num::NonZeroU32,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem,
    config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig},
    socket::XdpStatistics,
};

use crate::frame::{Completed, Fill, Frame, FrameAudit, Free, Ledger, Received, Transmit};

/// Descriptors moved between a ring and us at a time.
pub(crate) const BATCH: usize = 64;
/// `XDP_PKT_CONTD` of <linux/if_xdp.h>: the packet goes on in the next descriptor.
const PACKET_CONTINUES: u32 = 1;
/// Bytes the kernel keeps free before the packet in each frame (`XDP_PACKET_HEADROOM` of <linux/bpf.h>).
pub(crate) const HEADROOM_BYTES: usize = 256;

/// What [`Rings::open`] needs to know.
pub(crate) struct RingsConfig<'name> {
    pub(crate) interface: &'name str,
    pub(crate) queue: u32,
    /// Frames for each direction, powers of two.
    pub(crate) receive_frames: u32,
    pub(crate) send_frames: u32,
    pub(crate) frame_bytes: u32,
    pub(crate) copy: bool,
    pub(crate) multi_buffer: bool,
    pub(crate) huge_pages: bool,
}

impl RingsConfig<'_> {
    /// Bytes of the UMEM.
    pub(crate) fn umem_bytes(&self) -> usize {
        (self.receive_frames as usize + self.send_frames as usize) * self.frame_bytes as usize
    }
}

/// Which step of [`Rings::open`] failed.
pub(crate) enum OpenError {
    /// A size is no power of two or out of range.
    Config(String),
    /// Packet memory could not be allocated or pinned.
    Memory(io::Error),
    /// The socket could not be created or bound.
    Socket(io::Error),
}

/// A bound socket with its UMEM.
pub(crate) struct Rings {
    umem: Umem,
    transmit: TxQueue,
    receive: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    ledger: Ledger,
    transmit_slots: u32,
    scratch: [FrameDesc; BATCH],
}

/// Frames as [`Rings::open`] hands them out: those to receive into, and those to send from.
pub(crate) struct Frames {
    pub(crate) fill: Vec<Frame<Fill>>,
    pub(crate) free: Vec<Frame<Free>>,
}

fn queue_size(size: u32) -> Result<QueueSize, OpenError> {
    QueueSize::new(size).map_err(|error| OpenError::Config(error.to_string()))
}

fn os_error(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    cause.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

/// Packet memory before a socket is bound to it, so that binding can be tried several times.
pub(crate) struct Memory {
    umem: Umem,
    descriptors: Vec<FrameDesc>,
}

impl Memory {
    /// Allocates and pins the UMEM.
    pub(crate) fn allocate(config: &RingsConfig<'_>) -> Result<Self, OpenError> {
        let frames = NonZeroU32::new(config.receive_frames + config.send_frames)
            .ok_or_else(|| OpenError::Config("an AF_XDP socket needs frames".to_owned()))?;
        let umem_config = UmemConfig::builder()
            .frame_size(FrameSize::new(config.frame_bytes).map_err(|error| OpenError::Config(error.to_string()))?)
            // Twice the frames, so that it never is the fill ring that has no room.
            .fill_queue_size(queue_size(config.receive_frames * 2)?)
            .comp_queue_size(queue_size(config.send_frames)?)
            .build()
            .map_err(|error| OpenError::Config(error.to_string()))?;
        let (umem, descriptors) = Umem::new(umem_config, frames, config.huge_pages).map_err(|error| OpenError::Memory(os_error(&error)))?;
        Ok(Self { umem, descriptors })
    }

    /// Binds a socket to a queue; on failure the memory comes back for another try.
    pub(crate) fn bind(self, config: &RingsConfig<'_>) -> Result<(Rings, Frames), (Self, OpenError)> {
        match self.bind_socket(config) {
            Ok((transmit, receive, fill, completion)) => Ok(self.into_rings(config, transmit, receive, fill, completion)),
            Err(error) => Err((self, error)),
        }
    }

    fn bind_socket(&self, config: &RingsConfig<'_>) -> Result<(TxQueue, RxQueue, FillQueue, CompQueue), OpenError> {
        let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
        flags.set(BindFlags::XDP_COPY, config.copy);
        flags.set(BindFlags::XDP_USE_SG, config.multi_buffer);
        let socket_config = SocketConfig::builder()
            .rx_queue_size(queue_size(config.receive_frames)?)
            .tx_queue_size(queue_size(config.send_frames)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags)
            .build();
        let interface: Interface =
            config.interface.parse().map_err(|_| OpenError::Config(format!("`{}` is no interface name", config.interface)))?;
        // SAFETY: the UMEM was made by `allocate` and no other socket shares it, so no other queue pair owns its rings.
        let created = unsafe { Socket::new(socket_config, &self.umem, &interface, config.queue) };
        let (transmit, receive, rings) = created.map_err(|error| OpenError::Socket(os_error(&error)))?;
        let (fill, completion) = rings.ok_or_else(|| OpenError::Config("the UMEM is already in use".to_owned()))?;
        Ok((transmit, receive, fill, completion))
    }

    fn into_rings(
        self,
        config: &RingsConfig<'_>,
        transmit: TxQueue,
        receive: RxQueue,
        fill: FillQueue,
        completion: CompQueue,
    ) -> (Rings, Frames) {
        let mut descriptors = self.descriptors;
        let ledger = Ledger::new(descriptors.len(), config.frame_bytes);
        let for_sending = descriptors.split_off(config.receive_frames as usize);
        // Both lists may briefly hold every frame of their share and never more.
        let frames =
            Frames { fill: descriptors.into_iter().map(Frame::new).collect(), free: for_sending.into_iter().map(Frame::new).collect() };
        let scratch = [FrameDesc::default(); BATCH];
        let rings = Rings { umem: self.umem, transmit, receive, fill, completion, ledger, transmit_slots: config.send_frames, scratch };
        (rings, frames)
    }
}

impl Rings {
    /// The socket's file descriptor, for the socket map and for poll(2).
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to the socket that `self.receive` keeps open, and the borrow ends before `self` does.
        unsafe { BorrowedFd::borrow_raw(self.receive.fd().as_raw_fd()) }
    }

    /// Gives as many frames to the fill ring as it has room for; the rest stays in `frames`.
    pub(crate) fn fill(&mut self, frames: &mut Vec<Frame<Fill>>) -> io::Result<()> {
        while !frames.is_empty() {
            let room = self.fill.nb_free(BATCH as u32) as usize;
            let count = frames.len().min(room).min(BATCH);
            if count == 0 {
                break;
            }
            let mut taken = 0;
            for frame in frames.drain(frames.len() - count..) {
                if self.ledger.give_to_fill(frame.descriptor.addr()) {
                    self.scratch[taken] = frame.descriptor;
                    taken += 1;
                }
            }
            // SAFETY: each descriptor came from a frame token that was consumed here, so we do not touch the frame until the
            // receive ring returns it; all of them are frames of `self.umem`.
            let given = unsafe { self.fill.produce(&self.scratch[..taken]) };
            debug_assert_eq!(given, taken, "room was checked");
        }
        if self.fill.needs_wakeup() {
            self.fill.wakeup(self.receive.fd_mut(), 0)?;
        }
        Ok(())
    }

    /// Takes up to `limit` (at most [`BATCH`]) received frames, in order.
    pub(crate) fn receive(&mut self, limit: usize, frames: &mut Vec<Frame<Received>>) -> usize {
        let limit = limit.min(BATCH);
        // SAFETY: the descriptors are written by the kernel for frames of `self.umem`; the ledger decides below which of them
        // become tokens.
        let count = unsafe { self.receive.consume(&mut self.scratch[..limit]) };
        for descriptor in &self.scratch[..count] {
            if self.ledger.take_received(descriptor.addr()) {
                frames.push(Frame::new(*descriptor));
            }
        }
        count
    }

    /// Whether received frames wait, without a system call.
    pub(crate) fn has_received(&mut self) -> bool {
        self.receive.nb_avail(1) > 0
    }

    /// The bytes that the kernel received into the frame.
    pub(crate) fn bytes<'frame>(&'frame self, frame: &'frame mut Frame<Received>) -> &'frame mut [u8] {
        // SAFETY: the token proves that the frame of `self.umem` is ours alone, and it stays borrowed as long as the slice.
        let mut data = unsafe { self.umem.data_mut(&mut frame.descriptor) };
        // The kernel never says more than the frame holds; should it, the length is cut here instead of trusted.
        let length = data.cursor().pos();
        data.cursor().set_pos(length);
        let (pointer, length) = (data.contents_mut().as_mut_ptr(), data.contents().len());
        // SAFETY: the same bytes as `data.contents_mut()`, which only lives as long as the local wrapper `data`; the memory
        // lives as long as `self.umem` and the exclusive borrow of the token.
        unsafe { std::slice::from_raw_parts_mut(pointer, length) }
    }

    /// Lets `write` fill a frame of `self.frame_capacity` bytes; it returns the length used, and the frame is ready to be sent.
    /// Returns the frame as it was when `write` returns 0.
    pub(crate) fn write(
        &self,
        mut frame: Frame<Free>,
        continues: bool,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<Frame<Transmit>, Frame<Free>> {
        frame.descriptor.set_options(if continues { PACKET_CONTINUES } else { 0 });
        let used = {
            // SAFETY: the token proves that the frame of `self.umem` is ours alone, and it is borrowed as long as `data`.
            let mut data = unsafe { self.umem.data_mut(&mut frame.descriptor) };
            let mut cursor = data.cursor();
            let capacity = cursor.buf_len();
            cursor.set_pos(capacity);
            let used = write(data.contents_mut());
            data.cursor().set_pos(used);
            used
        };
        if used == 0 { Err(frame) } else { Ok(frame.become_state()) }
    }

    /// Whether `frames` more frames fit on the transmit ring.
    pub(crate) fn has_transmit_room(&mut self, frames: usize) -> bool {
        self.transmit.nb_free(frames as u32) as usize >= frames
    }

    /// Puts the frames of one packet on the transmit ring. The caller checked the room.
    pub(crate) fn submit(&mut self, frames: impl Iterator<Item = Frame<Transmit>>) {
        let mut count = 0;
        for frame in frames.take(BATCH) {
            if self.ledger.give_to_transmit(frame.descriptor.addr()) {
                self.scratch[count] = frame.descriptor;
                count += 1;
            }
        }
        // SAFETY: each descriptor came from a frame token that was consumed here, so we do not touch the frame until the
        // completion ring returns it; all of them are frames of `self.umem` and were written by `write`.
        let given = unsafe { self.transmit.produce(&self.scratch[..count]) };
        debug_assert_eq!(given, count, "room was checked");
    }

    /// Takes back the frames that the kernel has sent.
    pub(crate) fn complete(&mut self, mut each: impl FnMut(Frame<Completed>)) {
        loop {
            // SAFETY: the descriptors are written by the kernel for frames of `self.umem`; the ledger decides below which of
            // them become tokens.
            let count = unsafe { self.completion.consume(&mut self.scratch) };
            for descriptor in &self.scratch[..count] {
                if self.ledger.take_completed(descriptor.addr()) {
                    each(Frame::new(*descriptor));
                }
            }
            if count < BATCH {
                return;
            }
        }
    }

    /// Frames on the transmit ring that the kernel has not looked at yet.
    pub(crate) fn untransmitted(&mut self) -> u32 {
        self.transmit_slots - self.transmit.nb_free_exact()
    }

    /// Tells the kernel to send, where it wants to be told. In copy mode one call sends at most 32 packets.
    pub(crate) fn wake_transmit(&self) -> io::Result<()> {
        if self.transmit.needs_wakeup() { self.transmit.wakeup() } else { Ok(()) }
    }

    /// XDP_STATISTICS of the socket.
    pub(crate) fn statistics(&self) -> io::Result<XdpStatistics> {
        self.receive.fd().xdp_statistics()
    }

    pub(crate) fn audit(&self) -> FrameAudit {
        self.ledger.audit()
    }
}
