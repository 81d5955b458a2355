//! Says what an interface can do for AF_XDP, and in plain words why not: for `tradewind doctor`, and for the engine when it
//! falls back to kernel UDP.

use std::{fmt, io};

use crate::{
    AttachMode, Steering, SteeringConfig, XdpError, XdpFeatures, XdpMode,
    device::{Device, open_socket},
    steering::needs_multi_buffer,
};

/// Capabilities of <linux/capability.h> that start-up needs, by bit and name. CAP_SYS_ADMIN includes CAP_BPF.
const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (39, "CAP_BPF")];
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;
const CAP_IPC_LOCK: u32 = 14;
/// BPF links for XDP (Linux 5.9) let the kernel detach the program when the process dies.
const KERNEL_MIN: (u32, u32) = (5, 9);
/// AF_XDP with frames in several buffers.
const KERNEL_MULTI_BUFFER: (u32, u32) = (6, 6);
/// Packet memory of a socket with the default number of frames, bytes.
const UMEM_BYTES: u64 = 4096 * 4096;

/// Offloads that merge packets before or instead of XDP, by the name `ethtool -k` shows, with the `ethtool -K` word.
const MERGING: [(&str, &str); 5] = [
    ("rx-lro", "lro"),
    ("rx-gro-hw", "rx-gro-hw"),
    ("rx-gro", "gro"),
    ("rx-gro-list", "rx-gro-list"),
    ("rx-udp-gro-forwarding", "rx-udp-gro-forwarding"),
];

/// An offload that is switched on and harms AF_XDP, with what it does and the command that switches it off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Name as `ethtool -k` shows it.
    pub feature: String,
    /// What to do.
    pub advice: String,
}

/// A mode, and what the kernel said when the program was attached in it for a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeAttempt {
    /// The mode.
    pub mode: XdpMode,
    /// Why it failed; `None` if it worked.
    pub refused: Option<String>,
}

/// What is known of an interface. [`fmt::Display`] prints it for people, a line each.
#[derive(Clone, Debug)]
pub struct InterfaceReport {
    /// Its name.
    pub name: String,
    /// Its driver, as `ethtool -i` shows it; empty if it has none.
    pub driver: String,
    /// Whether it is up.
    pub up: bool,
    /// MTU, bytes of an IP packet.
    pub mtu_bytes: usize,
    /// Receive queues in use. Each needs a socket for AF_XDP to see all packets.
    pub receive_queues: u32,
    /// What the driver declares; nothing on kernels before 6.3.
    pub features: XdpFeatures,
    /// Modes that [`InterfaceReport::attempt`] tried; empty before.
    pub attempts: Vec<ModeAttempt>,
    /// Offloads that harm.
    pub offloads: Vec<Offload>,
    /// Why AF_XDP is impossible; empty if it is possible as far as can be told without attaching.
    pub blockers: Vec<String>,
    /// What is worth knowing, but in nobody's way.
    pub notes: Vec<String>,
}

/// Looks at an interface of the caller's network namespace, without touching it.
///
/// # Errors
/// [`XdpError::NoInterface`], or [`XdpError::Os`] when the kernel does not even tell its MTU.
pub fn interface(name: &str) -> Result<InterfaceReport, XdpError> {
    let device = Device::find(name).map_err(|_| XdpError::NoInterface(name.to_owned()))?;
    let os = |what| move |source| XdpError::Os { what, interface: name.to_owned(), source };
    let mtu_bytes = device.mtu().map_err(os("cannot read the MTU"))?;
    let up = device.is_up().map_err(os("cannot read the flags"))?;
    let driver = device.driver().unwrap_or_default();
    let features_on = device.features_on().unwrap_or_default();
    let mut report = InterfaceReport {
        name: name.to_owned(),
        up,
        mtu_bytes,
        receive_queues: device.receive_queues(),
        features: device.xdp_features().unwrap_or_default(),
        attempts: Vec::new(),
        offloads: harmful(name, &driver, &features_on),
        blockers: Vec::new(),
        notes: Vec::new(),
        driver,
    };
    if !up {
        report.blockers.push(format!("the interface is down: `ip link set {name} up`"));
    }
    if report.features.attached_program != 0 {
        report.blockers.push(format!(
            "another XDP program (id {}) is attached: stop its owner, or `ip link set dev {name} xdp off`",
            report.features.attached_program
        ));
    }
    if report.driver == "veth" {
        report.notes.push(
            "veth: the peer must not send super-packets (`ethtool -K PEER tx off gso off tso off`), and driver mode needs `gro on` there"
                .to_owned(),
        );
    }
    if features_on.iter().any(|feature| feature == "rx-vlan-hw-parse") {
        report.notes.push(format!("VLAN tags are stripped before XDP sees them; if VLANs are in use: `ethtool -K {name} rxvlan off`"));
    }
    check_kernel(&mut report);
    check_privileges(&mut report);
    Ok(report)
}

/// The offloads among `on` that harm AF_XDP.
fn harmful(name: &str, driver: &str, on: &[String]) -> Vec<Offload> {
    MERGING
        .into_iter()
        // On veth GRO merges nothing that AF_XDP takes, and native XDP needs its NAPI.
        .filter(|&(feature, _)| !(driver == "veth" && feature == "rx-gro"))
        .filter(|(feature, _)| on.iter().any(|name| name == feature))
        .map(|(feature, word)| Offload {
            feature: feature.to_owned(),
            advice: format!("merges received packets, which corrupts or stalls AF_XDP: `ethtool -K {name} {word} off`"),
        })
        .collect()
}

fn check_kernel(report: &mut InterfaceReport) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    match version(&release) {
        Some(running) if running < KERNEL_MIN => {
            report.blockers.push(format!("Linux {release} is too old: AF_XDP with BPF links needs {}.{}", KERNEL_MIN.0, KERNEL_MIN.1));
        }
        Some(running) if running < KERNEL_MULTI_BUFFER && needs_multi_buffer(report.mtu_bytes) => {
            report.blockers.push(format!(
                "MTU {} needs AF_XDP multi-buffer (Linux {}.{}, this is {release}): set the MTU to 3818 or less",
                report.mtu_bytes, KERNEL_MULTI_BUFFER.0, KERNEL_MULTI_BUFFER.1
            ));
        }
        Some(_) => {}
        None => report.notes.push(format!("cannot tell the kernel version from `{release}`")),
    }
    if let Err(error) = open_socket()
        && error.raw_os_error() == Some(libc::EAFNOSUPPORT)
    {
        report.blockers.push("this kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS)".to_owned());
    }
}

/// Major and minor number of a kernel release such as `6.18.44-fc`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn check_privileges(report: &mut InterfaceReport) {
    let Ok(effective) = effective_capabilities() else {
        report.notes.push("cannot read the capabilities of this process (/proc/thread-self/status)".to_owned());
        return;
    };
    let missing = missing_capabilities(effective);
    if !missing.is_empty() {
        let list = missing.join(", ");
        let words = missing.join(",").to_lowercase();
        report.blockers.push(format!("missing {list}: run as root, or `setcap {words}+ep` on the program"));
    }
    if effective & (1 << CAP_IPC_LOCK) == 0
        && let Some(limit) = memory_lock_limit()
        && limit < UMEM_BYTES
    {
        report.blockers.push(format!(
            "without CAP_IPC_LOCK only {limit} bytes of memory may be locked, and a socket takes up to {UMEM_BYTES}: add the capability or \
             raise `ulimit -l` (LimitMEMLOCK= of systemd)"
        ));
    }
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    NEEDED.iter().filter(|&&(bit, _)| !(has(bit) || bit == CAP_BPF && has(CAP_SYS_ADMIN))).map(|&(_, name)| name).collect()
}

fn effective_capabilities() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).ok_or_else(|| io::Error::other("no CapEff line"))
}

/// The soft limit, bytes; `None` if unlimited or unknown.
fn memory_lock_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

impl InterfaceReport {
    /// Whether AF_XDP should work here; if not, why, in one line.
    ///
    /// # Errors
    /// The reasons, joined.
    pub fn usable(&self) -> Result<(), String> {
        if self.blockers.is_empty() { Ok(()) } else { Err(self.blockers.join("; ")) }
    }

    /// Attaches the steering program in each mode for a moment, with no lane, and notes what the kernel says. Some drivers
    /// reset their queues for it: not on an interface that carries traffic that matters. `port` is a UDP port whose packets are
    /// dropped for that moment.
    pub fn attempt(&mut self, port: u16) {
        for (mode, attach) in [(XdpMode::Driver, AttachMode::Driver), (XdpMode::Generic, AttachMode::Generic)] {
            let config = SteeringConfig { mode: attach, ..SteeringConfig::new(self.name.as_str(), port) };
            let refused = Steering::load(&config).err().map(|error| error.to_string());
            self.attempts.push(ModeAttempt { mode, refused });
        }
        if self.attempts.iter().all(|attempt| attempt.refused.is_some()) && self.blockers.is_empty() {
            let reasons: Vec<_> = self.attempts.iter().filter_map(|attempt| attempt.refused.clone()).collect();
            self.blockers.push(reasons.join("; "));
        }
    }
}

impl fmt::Display for InterfaceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |is: bool| if is { "yes" } else { "no" };
        let driver = if self.driver.is_empty() { "no driver" } else { &self.driver };
        writeln!(f, "{}: {driver}, MTU {}, {} receive queue(s)", self.name, self.mtu_bytes, self.receive_queues)?;
        writeln!(
            f,
            "  XDP as the driver declares it: driver mode {}, zero-copy {}, multi-buffer {}; generic mode always",
            yes(self.features.driver),
            yes(self.features.zero_copy),
            yes(self.features.multi_buffer)
        )?;
        for attempt in &self.attempts {
            writeln!(f, "  tried {} mode: {}", attempt.mode.name(), attempt.refused.as_deref().unwrap_or("works"))?;
        }
        for offload in &self.offloads {
            writeln!(f, "  {} is on: {}", offload.feature, offload.advice)?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        match self.usable() {
            Ok(()) => write!(f, "  AF_XDP: possible"),
            Err(reason) => write!(f, "  AF_XDP: not possible: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("5.9"), Some((5, 9)));
        assert_eq!(version("5.9-rc1"), Some((5, 9)));
        assert_eq!(version("6"), None);
        assert_eq!(version("custom"), None);
        assert!(version("5.10.0").expect("version") > KERNEL_MIN, "compared as numbers, not as text");
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing_capabilities(0), ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"]);
        assert_eq!(missing_capabilities(1 << 12 | 1 << 13 | 1 << 39), [""; 0]);
        assert_eq!(missing_capabilities(1 << 12 | 1 << 13 | 1 << 21), [""; 0], "CAP_SYS_ADMIN includes CAP_BPF");
        assert_eq!(missing_capabilities(1 << 13 | 1 << 39), ["CAP_NET_ADMIN"]);
    }

    #[test]
    fn offloads_that_merge_packets_are_harmful() {
        let on: Vec<String> = ["rx-gro", "rx-lro", "tx-checksum-ipv4"].map(str::to_owned).to_vec();
        let names = |driver| harmful("eth0", driver, &on).into_iter().map(|offload| offload.feature).collect::<Vec<_>>();
        assert_eq!(names("ixgbe"), ["rx-lro", "rx-gro"]);
        assert_eq!(names("veth"), ["rx-lro"], "GRO is wanted on veth");
        assert!(harmful("eth0", "ixgbe", &on)[0].advice.contains("ethtool -K eth0 lro off"));
    }

    #[test]
    fn loopback_is_reported() {
        let report = interface("lo").expect("loopback");
        assert!(report.mtu_bytes > 9000);
        assert!(report.to_string().starts_with("lo: "));
        assert!(matches!(interface("tw-no-such"), Err(XdpError::NoInterface(name)) if name == "tw-no-such"));
    }
}
