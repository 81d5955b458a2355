//! An end by AF_XDP: s2n-quic's own provider (`s2n-quic-xdp`) and steering program, on queue 0 of an interface.
//!
//! Settings are those that s2n-quic's interoperability program has (`quic/s2n-quic-qns/src/xdp.rs`), with two exceptions. The program is attached in
//! generic mode, which is faster on a veth pair than the driver's (and what Tradewind takes there); and only one queue is bound, for the pair has one.
//! A frame lies in one chunk of the packet memory, which s2n-quic does not do otherwise, so packets of more than [`MTU_BYTES_MAX`] cannot be received.

use std::ffi::CString;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{HashMap, XskMap};
use aya::programs::{Xdp as Program, XdpMode};
use s2n_quic::provider::io::Provider as IoProvider;
use s2n_quic::provider::io::xdp::if_xdp::{Address, XdpFlags};
use s2n_quic::provider::io::xdp::io::{router, rx, tx as xdp_tx};
use s2n_quic::provider::io::xdp::tx::{self, TxExt as _};
use s2n_quic::provider::io::xdp::{PathHandle, Provider, encoder, ring, socket, syscall, umem};
use s2n_quic_xdp_program::bpf;
use tokio::io::unix::AsyncFd;

use crate::Failure;

/// Descriptors of the ring for packets that arrived; the fill ring has twice as many places.
const RX_RING: u32 = 2048;
/// Descriptors of the ring for packets that leave, and of its completion ring.
const TX_RING: u32 = 2048;
/// Bytes of a chunk of the packet memory; a page is the most that Linux takes.
const CHUNK_BYTES: u32 = 4096;
/// Bytes that Linux keeps free before a frame in its chunk (`XDP_PACKET_HEADROOM`).
const HEADROOM_BYTES: u32 = 256;
/// Bytes of an Ethernet header.
const ETHERNET_BYTES: u32 = 14;
/// Bytes of Ethernet, IPv4 and UDP headers, which the provider takes off a frame's size to come to what it calls the MTU.
const FRAME_OVERHEAD_BYTES: u16 = 42;
/// Largest IP packet that fits into a chunk, bytes.
const MTU_BYTES_MAX: u16 = (CHUNK_BYTES - HEADROOM_BYTES - ETHERNET_BYTES) as u16;
/// Linux gives a queue free some time after its last socket was closed.
const BIND_DEADLINE: Duration = Duration::from_secs(5);

/// The program on the interface: it is detached when this is dropped.
pub struct Steering {
    _program: Ebpf,
    socket: socket::Fd,
    /// Holds the port, so that the kernel calls nobody back; receives what the program let pass, which should be nothing.
    kernel: UdpSocket,
}

impl Steering {
    /// What the AF_XDP socket dropped, in words.
    ///
    /// # Errors
    /// When a packet came by the kernel's socket, or there are no statistics.
    pub fn told(&self) -> Result<String, Failure> {
        if self.kernel.recv(&mut [0; 1]).is_ok() {
            return Err("a packet came by the kernel's socket".into());
        }
        let counted = syscall::statistics(&self.socket)?;
        let (full, empty) = (counted.rx_ring_full, counted.rx_fill_ring_empty_descriptors);
        Ok(format!("AF_XDP dropped {}, found its ring full {full} and its fill ring empty {empty} times", counted.rx_dropped))
    }
}

type Receive = rx::Rx<Arc<AsyncFd<socket::Fd>>>;
type Transmit = xdp_tx::Tx<xdp_tx::BusyPoll>;

/// Receives and sends by AF_XDP; `address` names the port.
///
/// # Errors
/// When the interface is unknown, its queue is taken, the MTU is too large, or a privilege is missing (CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF).
pub fn receiver(interface: &str, address: SocketAddr, mtu: &str) -> Result<(impl IoProvider + use<>, Steering), Failure> {
    let frame_bytes = frame_bytes(mtu)?;
    let (rx, tx, socket) = open(interface)?;
    let steering = steer(interface, UdpSocket::bind(address)?, socket)?;
    Ok((Provider::builder().with_rx(rx).with_tx(tx).with_frame_size(frame_bytes)?.build(), steering))
}

/// The same for the end that begins: its first packets leave by the kernel's socket, which knows where to; all others, as soon as one has come back, by AF_XDP.
///
/// # Errors
/// As [`receiver`].
pub fn sender(interface: &str, mtu: &str) -> Result<(impl IoProvider + use<>, Steering), Failure> {
    let frame_bytes = frame_bytes(mtu)?;
    let (rx, tx, socket) = open(interface)?;
    let kernel = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let (stats_sender, stats) = socket::stats::channel();
    let (first, task) = tx::channel(kernel.try_clone()?, stats_sender);
    tokio::spawn(task);
    let tx = tx.with_router(router::Router::default(), first.with_handle_map(|handle: &PathHandle| handle.into()));
    let steering = steer(interface, kernel, socket)?;
    Ok((Provider::builder().with_rx(rx).with_tx(tx).with_stats(stats).with_frame_size(frame_bytes)?.build(), steering))
}

/// The size of frame that makes the provider take this MTU.
fn frame_bytes(mtu: &str) -> Result<u16, Failure> {
    let mtu_bytes: u16 = mtu.parse()?;
    if mtu_bytes > MTU_BYTES_MAX {
        return Err(format!("AF_XDP of s2n-quic takes packets of {MTU_BYTES_MAX} bytes at most, not {mtu_bytes}").into());
    }
    Ok(mtu_bytes + FRAME_OVERHEAD_BYTES)
}

/// A socket with its packet memory and four rings, bound to queue 0.
fn open(interface: &str) -> Result<(Receive, Transmit, socket::Fd), Failure> {
    let umem = umem::Builder { frame_count: RX_RING + TX_RING, frame_size: CHUNK_BYTES, ..Default::default() }.build()?;
    let socket = socket::Fd::open()?;
    socket.attach_umem(&umem)?;
    let offsets = syscall::offsets(&socket)?;
    let mut chunks = umem.frames();
    let mut fill = ring::Fill::new(socket.clone(), &offsets, RX_RING * 2)?;
    let rx = ring::Rx::new(socket.clone(), &offsets, RX_RING)?;
    fill.init((&mut chunks).take(RX_RING as usize));
    let mut completion = ring::Completion::new(socket.clone(), &offsets, TX_RING)?;
    let tx = ring::Tx::new(socket.clone(), &offsets, TX_RING)?;
    completion.init((&mut chunks).take(TX_RING as usize));
    let mut address = Address { flags: XdpFlags::USE_NEED_WAKEUP, ..Default::default() };
    address.set_if_name(&CString::new(interface)?)?;
    bind(&socket, &mut address)?;
    let driver = Arc::new(AsyncFd::new(socket.clone())?);
    let receive = rx::Rx::new(vec![rx::Channel { rx, fill, driver }], umem.clone());
    let channel = xdp_tx::Channel { tx, completion, driver: xdp_tx::BusyPoll };
    Ok((receive, xdp_tx::Tx::new(vec![channel], umem, encoder::Config::default()), socket))
}

fn bind(socket: &socket::Fd, address: &mut Address) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        match syscall::bind(socket, address) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && begun.elapsed() < BIND_DEADLINE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            outcome => return Ok(outcome?),
        }
    }
}

/// Steers packets to the port of the kernel's socket to the AF_XDP socket instead.
fn steer(interface: &str, kernel: UdpSocket, socket: socket::Fd) -> Result<Steering, Failure> {
    kernel.set_nonblocking(true)?;
    let mut loaded = Ebpf::load(bpf::DEFAULT_PROGRAM)?;
    let mut ports: HashMap<_, u16, u8> = loaded.map_mut(bpf::PORT_MAP_NAME).ok_or("the program has no map of ports")?.try_into()?;
    ports.insert(kernel.local_addr()?.port(), 1, 0)?;
    let mut sockets: XskMap<_> = loaded.map_mut(bpf::XSK_MAP_NAME).ok_or("the program has no map of sockets")?.try_into()?;
    sockets.set(0, socket.as_raw_fd(), 0)?;
    let program: &mut Program = loaded.program_mut(bpf::PROGRAM_NAME).ok_or("the object has no program")?.try_into()?;
    program.load()?;
    program.attach(interface, XdpMode::Skb)?;
    Ok(Steering { _program: loaded, socket, kernel })
}
