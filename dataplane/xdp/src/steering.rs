//! Loads the steering program, attaches it to an interface and keeps its maps.

use std::{error::Error, io, iter::successors, os::fd::AsRawFd as _, sync::Mutex};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, PerCpuArray, XskMap},
    programs::{Xdp, XdpMode as AyaMode, links::FdLink},
    util::KernelVersion,
};
use tradewind_ebpf::{Verdict, layout};

use crate::{
    XdpError,
    device::{Device, XdpFeatures},
    packet::LINK_BYTES_MAX,
    rings::HEADROOM_BYTES,
};

/// Bytes of a UDP header (RFC 768).
const UDP_HEADER_BYTES: usize = 8;

/// How to attach the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AttachMode {
    /// Driver mode if the driver has zero-copy AF_XDP; generic mode on veth, where both modes copy and generic measures
    /// faster (541 against 336 kpps, environment.md); otherwise driver mode, and generic mode if the driver refuses.
    #[default]
    Auto,
    /// In the driver (native), or fail.
    Driver,
    /// In the network stack, before the kernel's own processing; works with every driver.
    Generic,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver (native).
    Driver,
    /// In the network stack.
    Generic,
}

impl XdpMode {
    /// `driver` or `generic`, as in reports and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Generic => "generic",
        }
    }
}

/// What to steer.
#[derive(Clone, Debug)]
pub struct SteeringConfig {
    /// Name of the interface, in the network namespace of the thread that calls [`Steering::load`].
    pub interface: String,
    /// UDP ports that are ours; 1 to 16 of them. Packets to them that are not Tradewind's are dropped.
    pub ports: Vec<u16>,
    /// How to attach. Default `Auto`.
    pub mode: AttachMode,
}

impl SteeringConfig {
    /// Steers one port of an interface, with automatic choice of the mode.
    #[must_use]
    pub fn new(interface: impl Into<String>, port: u16) -> Self {
        Self { interface: interface.into(), ports: vec![port], mode: AttachMode::Auto }
    }
}

/// How many frames got each verdict since the program was loaded, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteeringCounters([u64; Verdict::ALL.len()]);

impl SteeringCounters {
    /// Frames that got this verdict.
    #[must_use]
    pub fn get(&self, verdict: Verdict) -> u64 {
        self.0[verdict as usize]
    }

    /// All verdicts by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Verdict::ALL.iter().map(|&(verdict, name)| (name, self.get(verdict)))
    }
}

/// The attached program. It is detached when this is dropped, and by the kernel when the process ends in whatever way: the
/// attachment is a BPF link (Linux 5.9) that lives as long as its file descriptor.
///
/// Lanes can be added and removed, and counters read, after the process has dropped all capabilities: since Linux 5.19 the
/// kernel asks for CAP_BPF only to create maps and load programs, not to use the descriptors of existing ones. (On older
/// kernels with `kernel.unprivileged_bpf_disabled` other than 0, keep CAP_BPF.)
pub struct Steering {
    lanes: Mutex<HashMap<MapData, u64, u32>>,
    sockets: Mutex<XskMap<MapData>>,
    counters: PerCpuArray<MapData, u64>,
    interface: String,
    mode: XdpMode,
    features: XdpFeatures,
    mtu_bytes: usize,
    multi_buffer: bool,
    // Dropped last: first the link (detaches), then the program.
    _link: FdLink,
    _program: Ebpf,
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> XdpError {
    move |error| {
        let mut reason = error.to_string();
        if let MapError::SyscallError(syscall) = &error {
            reason = syscall.io_error.to_string();
        }
        XdpError::Map { map, reason }
    }
}

/// Whether a packet of this MTU needs more than one frame of a page.
pub(crate) fn needs_multi_buffer(mtu_bytes: usize) -> bool {
    mtu_bytes + LINK_BYTES_MAX > crate::socket::FRAME_BYTES_MAX as usize - HEADROOM_BYTES
}

/// The modes to try, in order. See [`AttachMode::Auto`].
fn modes(wanted: AttachMode, driver: &str, features: XdpFeatures) -> &'static [XdpMode] {
    match wanted {
        AttachMode::Driver => &[XdpMode::Driver],
        AttachMode::Generic => &[XdpMode::Generic],
        AttachMode::Auto if driver == "veth" && !features.zero_copy => &[XdpMode::Generic, XdpMode::Driver],
        AttachMode::Auto => &[XdpMode::Driver, XdpMode::Generic],
    }
}

impl Steering {
    /// Loads the program and attaches it to the interface. Needs CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW.
    ///
    /// # Errors
    /// Any [`XdpError`] but `QueueBusy`; the message says what to do.
    pub fn load(config: &SteeringConfig) -> Result<Self, XdpError> {
        if config.ports.is_empty() || config.ports.len() > layout::PORTS_MAX as usize || config.ports.contains(&0) {
            return Err(XdpError::Config(format!("steering takes 1 to {} UDP ports, none of them 0", layout::PORTS_MAX)));
        }
        let os = |what: &'static str| {
            let interface = config.interface.clone();
            move |source| XdpError::Os { what, interface, source }
        };
        if KernelVersion::current().is_ok_and(|running| running < KernelVersion::new(5, 9, 0)) {
            return Err(XdpError::Kernel { what: "attach XDP programs by BPF link", needed: "5.9", option: "CONFIG_BPF_SYSCALL" });
        }
        let device = Device::find(&config.interface).map_err(|_| XdpError::NoInterface(config.interface.clone()))?;
        let mtu_bytes = device.mtu().map_err(os("cannot read the MTU"))?;
        let driver = device.driver().unwrap_or_default();
        let features = device.xdp_features().unwrap_or_default();
        let multi_buffer = needs_multi_buffer(mtu_bytes);

        let mut loaded = Ebpf::load(tradewind_ebpf::object()).map_err(|error| load_error(&error))?;
        let (link, mode) = attach(&mut loaded, config, device.index(), modes(config.mode, &driver, features), multi_buffer)?;
        let mut ports: HashMap<MapData, u16, u8> = take(&mut loaded, layout::MAP_PORTS)?;
        for port in &config.ports {
            ports.insert(port, 1, 0).map_err(map_error(layout::MAP_PORTS))?;
        }
        Ok(Self {
            lanes: Mutex::new(take(&mut loaded, layout::MAP_LANES)?),
            sockets: Mutex::new(take(&mut loaded, layout::MAP_SOCKETS)?),
            counters: take(&mut loaded, layout::MAP_COUNTERS)?,
            interface: config.interface.clone(),
            mode,
            features,
            mtu_bytes,
            multi_buffer,
            _link: link,
            _program: loaded,
        })
    }

    /// Lets packets of a lane through. `worker` `None`: to whichever socket owns the queue they arrive on. `Some`: to that
    /// worker's socket on the queue, or to the queue's owner if it has none there. Packets with more than `payload_bytes_max` bytes of UDP payload
    /// are several that an offload has merged: the kernel's socket gets them. Adding a lane again changes its worker.
    ///
    /// # Errors
    /// [`XdpError::Map`] when 4,096 lanes are open; [`XdpError::Config`] when the worker number is above 63.
    pub fn add_lane(&self, lane: u64, worker: Option<u32>, payload_bytes_max: usize) -> Result<(), XdpError> {
        let row = match worker {
            None => layout::ROW_ANY,
            Some(worker) => layout::worker_row(worker).ok_or_else(|| worker_out_of_range(worker))?,
        };
        let longest = u16::try_from(payload_bytes_max + UDP_HEADER_BYTES).unwrap_or(u16::MAX);
        lock(&self.lanes).insert(lane, layout::lane_value(row, longest), 0).map_err(map_error(layout::MAP_LANES))
    }

    /// Drops packets of a lane from now on. A lane that is not there is no error.
    ///
    /// # Errors
    /// [`XdpError::Map`] when the kernel refuses.
    pub fn remove_lane(&self, lane: u64) -> Result<(), XdpError> {
        match lock(&self.lanes).remove(&lane) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(map_error(layout::MAP_LANES)(error)),
        }
    }

    /// Frames by verdict so far. A system call for each verdict: not for the packet loop.
    ///
    /// # Errors
    /// [`XdpError::Map`] when the kernel refuses.
    pub fn counters(&self) -> Result<SteeringCounters, XdpError> {
        let mut counters = SteeringCounters::default();
        for (index, counter) in counters.0.iter_mut().enumerate() {
            let per_cpu = self.counters.get(&(index as u32), 0).map_err(map_error(layout::MAP_COUNTERS))?;
            *counter = per_cpu.iter().sum();
        }
        Ok(counters)
    }

    /// The mode that the program is attached in.
    #[must_use]
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// MTU of the interface when the program was attached, bytes of an IP packet.
    #[must_use]
    pub fn mtu_bytes(&self) -> usize {
        self.mtu_bytes
    }

    /// Whether packets of that MTU take several frames (`XDP_USE_SG`, Linux 6.6).
    #[must_use]
    pub fn multi_buffer(&self) -> bool {
        self.multi_buffer
    }

    /// What the driver declares about XDP.
    #[must_use]
    pub fn features(&self) -> XdpFeatures {
        self.features
    }

    /// Makes a bound socket reachable: as the worker's on its queue, and as the queue's owner if it has none yet.
    pub(crate) fn register(&self, worker: u32, queue: u32, socket: std::os::fd::BorrowedFd<'_>) -> Result<(), XdpError> {
        /// `BPF_NOEXIST` of <linux/bpf.h>: only if the slot is empty. The kernel empties it when the socket is closed.
        const ONLY_IF_EMPTY: u64 = 1;
        let row = layout::worker_row(worker).ok_or_else(|| worker_out_of_range(worker))?;
        let slot = |row| {
            layout::socket_slot(row, queue)
                .ok_or_else(|| XdpError::Config(format!("queue {queue} is beyond the {} that steering knows", layout::QUEUES_MAX)))
        };
        let mut sockets = lock(&self.sockets);
        sockets.set(slot(row)?, socket.as_raw_fd(), 0).map_err(map_error(layout::MAP_SOCKETS))?;
        match sockets.set(slot(layout::ROW_ANY)?, socket.as_raw_fd(), ONLY_IF_EMPTY) {
            Ok(()) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            Err(error) => Err(map_error(layout::MAP_SOCKETS)(error)),
        }
    }
}

/// An error with all its causes: aya keeps what the kernel said in the last one.
fn chain(error: &dyn Error) -> String {
    let causes = successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What loading says when the kernel refuses: a missing privilege has its own variant.
fn load_error(error: &(dyn Error + 'static)) -> XdpError {
    let refused =
        |cause: &(dyn Error + 'static)| cause.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error() == Some(libc::EPERM));
    if successors(Some(error), |&cause| cause.source()).any(refused) {
        return XdpError::Privilege { what: "loading the steering program", capabilities: "cap_bpf,cap_net_admin" };
    }
    XdpError::Load(chain(error))
}

fn worker_out_of_range(worker: u32) -> XdpError {
    XdpError::Config(format!("worker {worker} is beyond the {} that steering knows", layout::WORKERS_MAX))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A map handle is a file descriptor: a panic elsewhere leaves nothing half done in it.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn take<Map: TryFrom<aya::maps::Map, Error = MapError>>(loaded: &mut Ebpf, name: &'static str) -> Result<Map, XdpError> {
    let map = loaded.take_map(name).ok_or_else(|| XdpError::Load(format!("the object has no map `{name}`")))?;
    Map::try_from(map).map_err(map_error(name))
}

fn attach(
    loaded: &mut Ebpf,
    config: &SteeringConfig,
    index: u32,
    modes: &[XdpMode],
    multi_buffer: bool,
) -> Result<(FdLink, XdpMode), XdpError> {
    let name = if multi_buffer { layout::PROGRAM_FRAGS } else { layout::PROGRAM };
    let no_program = || XdpError::Load(format!("the object has no program `{name}`"));
    let program: &mut Xdp = loaded.program_mut(name).ok_or_else(no_program)?.try_into().map_err(|_| no_program())?;
    program.load().map_err(|error| load_error(&error))?;
    let mut tried = Vec::new();
    for &mode in modes {
        let aya_mode = if mode == XdpMode::Driver { AyaMode::Driver } else { AyaMode::Skb };
        match program.attach_to_if_index(index, aya_mode) {
            Ok(id) => {
                let link = program.take_link(id).map_err(|error| XdpError::Load(error.to_string()))?;
                let link = FdLink::try_from(link).map_err(|_| XdpError::Kernel {
                    what: "attach XDP programs by BPF link",
                    needed: "5.9",
                    option: "CONFIG_BPF_SYSCALL",
                })?;
                return Ok((link, mode));
            }
            Err(error) => {
                tried.push(format!("{} mode: {}", mode.name(), chain(&error)));
            }
        }
    }
    Err(XdpError::Attach { interface: config.interface.clone(), tried: tried.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_mode_goes_by_zero_copy_and_driver() {
        let copying = XdpFeatures { driver: true, ..XdpFeatures::default() };
        let zero_copy = XdpFeatures { zero_copy: true, ..copying };
        assert_eq!(modes(AttachMode::Auto, "veth", copying)[0], XdpMode::Generic);
        assert_eq!(modes(AttachMode::Auto, "ixgbe", zero_copy)[0], XdpMode::Driver);
        assert_eq!(modes(AttachMode::Auto, "virtio_net", copying), [XdpMode::Driver, XdpMode::Generic]);
        assert_eq!(modes(AttachMode::Driver, "veth", copying), [XdpMode::Driver]);
        assert_eq!(modes(AttachMode::Generic, "ixgbe", zero_copy), [XdpMode::Generic]);
    }

    #[test]
    fn one_frame_holds_up_to_mtu_3818() {
        assert!(!needs_multi_buffer(1500));
        assert!(!needs_multi_buffer(3818));
        assert!(needs_multi_buffer(3819));
        assert!(needs_multi_buffer(9000));
    }

    #[test]
    fn ports_are_checked_before_anything_is_touched() {
        for ports in [vec![], vec![0], vec![1; 17]] {
            let config = SteeringConfig { ports, ..SteeringConfig::new("lo", 1) };
            assert!(matches!(Steering::load(&config), Err(XdpError::Config(_))));
        }
        assert!(matches!(Steering::load(&SteeringConfig::new("tw-no-such", 1)), Err(XdpError::NoInterface(_))));
    }
}
