//! What the kernel says about a network device: ioctl(2) of netdevice(7) and ethtool, and libbpf's XDP query.
//!
//! All of it asks in the network namespace of the calling thread; `/sys/class/net` would show that of the mount.
#![expect(unsafe_code, reason = "ioctl(2) and libbpf take raw pointers")]

use std::{
    ffi::CString,
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// `SIOCETHTOOL` of <linux/sockios.h>.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// Commands and string set of <linux/ethtool.h>.
const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_SS_FEATURES: u32 = 4;
/// `ETH_GSTRING_LEN` of <linux/ethtool.h>.
const STRING_BYTES: usize = 32;

/// `enum netdev_xdp_act` of <linux/netdev.h>.
const XDP_ACT_BASIC: u64 = 1;
const XDP_ACT_REDIRECT: u64 = 2;
const XDP_ACT_XSK_ZEROCOPY: u64 = 8;
const XDP_ACT_RX_SG: u64 = 32;

/// What a device's driver can do with XDP, as it declares it (Linux 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    /// Runs XDP programs in the driver and redirects from there.
    pub driver: bool,
    /// AF_XDP without a copy.
    pub zero_copy: bool,
    /// Frames in several buffers, in driver mode.
    pub multi_buffer: bool,
    /// Id of an XDP program that is attached already, 0 if none.
    pub attached_program: u32,
}

/// A network device of the calling thread's namespace.
pub(crate) struct Device {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
    index: u32,
}

#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

fn c_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

impl Device {
    /// Finds the device. `ENODEV` if there is none of this name.
    pub(crate) fn find(name: &str) -> io::Result<Self> {
        let c_name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
        let bytes = c_name.as_bytes_with_nul();
        if bytes.len() > libc::IFNAMSIZ {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        let mut padded = [0; libc::IFNAMSIZ];
        for (to, from) in padded.iter_mut().zip(bytes) {
            *to = from.cast_signed();
        }
        // SAFETY: `c_name` is a terminated string.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: plain system call; the result is checked before it becomes an owned descriptor.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open and nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { socket, name: padded, index })
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: an all-zero ifreq is valid.
        let mut request: libc::ifreq = unsafe { zeroed() };
        request.ifr_name = self.name;
        request
    }

    /// The device's MTU, bytes of an IP packet.
    pub(crate) fn mtu(&self) -> io::Result<usize> {
        let mut request = self.request();
        // SAFETY: SIOCGIFMTU reads the name and writes `ifru_mtu` of the ifreq it is given.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just written this member.
        Ok(usize::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0))
    }

    /// Whether the device is up.
    pub(crate) fn is_up(&self) -> io::Result<bool> {
        let mut request = self.request();
        // SAFETY: SIOCGIFFLAGS reads the name and writes `ifru_flags` of the ifreq it is given.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just written this member.
        Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_UP != 0)
    }

    /// Runs an ethtool command on `argument`.
    ///
    /// # Safety
    /// `argument` must be the (C layout) structure of the command that its first word names, with room for all that the
    /// command writes.
    unsafe fn ethtool<Argument: ?Sized>(&self, argument: &mut Argument) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_data = (&raw mut *argument).cast();
        // SAFETY: SIOCETHTOOL reads and writes what `ifru_data` points to, which the caller vouches for.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Name of the driver, as `ethtool -i` shows it.
    pub(crate) fn driver(&self) -> io::Result<String> {
        let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
        // SAFETY: `DriverInfo` has the size and first members of struct ethtool_drvinfo (196 bytes).
        unsafe { self.ethtool(&mut info) }?;
        Ok(c_text(&info.driver))
    }

    /// Receive queues in use; 1 if the driver does not say.
    pub(crate) fn receive_queues(&self) -> u32 {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        // SAFETY: `Channels` is struct ethtool_channels.
        match unsafe { self.ethtool(&mut channels) } {
            Ok(()) => (channels.rx + channels.combined).max(1),
            Err(_) => 1,
        }
    }

    /// Names of the offload features that are switched on, as `ethtool -k` knows them.
    pub(crate) fn features_on(&self) -> io::Result<Vec<String>> {
        // struct ethtool_sset_info: command, reserved, mask of sets (u64), then one u32 for each set asked for.
        let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
        // SAFETY: the array has the layout above on a little-endian machine; on a big-endian one the mask is empty, no set is
        // returned, and the count stays 0.
        unsafe { self.ethtool(&mut info) }?;
        let count = info[4] as usize;
        let words_each = STRING_BYTES / size_of::<u32>();
        // struct ethtool_gstrings: command, set, count, then the strings.
        let mut names = vec![0_u32; 3 + count * words_each];
        names[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count as u32]);
        // SAFETY: the buffer has room for `count` strings, the number that the kernel gave.
        unsafe { self.ethtool(names.as_mut_slice()) }?;
        // struct ethtool_gfeatures: command, blocks, then (available, requested, active, never_changed) for 32 features each.
        let blocks = count.div_ceil(32);
        let mut features = vec![0_u32; 2 + blocks * 4];
        features[..2].copy_from_slice(&[ETHTOOL_GFEATURES, blocks as u32]);
        // SAFETY: the buffer has room for the blocks that it announces.
        unsafe { self.ethtool(features.as_mut_slice()) }?;
        let text: Vec<u8> = names[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let is_on = |feature: usize| features[2 + feature / 32 * 4 + 2] & (1 << (feature % 32)) != 0;
        Ok((0..count).filter(|&feature| is_on(feature)).map(|feature| c_text(&text[feature * STRING_BYTES..][..STRING_BYTES])).collect())
    }

    /// What the driver declares about XDP. On kernels before 6.3, which cannot say, no feature is set.
    pub(crate) fn xdp_features(&self) -> io::Result<XdpFeatures> {
        // SAFETY: all-zero options are valid, and `sz` tells libbpf how much of them there is.
        let mut options: libbpf_sys::bpf_xdp_query_opts = unsafe { zeroed() };
        options.sz = size_of::<libbpf_sys::bpf_xdp_query_opts>() as libbpf_sys::size_t;
        let index = i32::try_from(self.index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
        // SAFETY: `options` is a valid, writable bpf_xdp_query_opts with its size set.
        let result = unsafe { libbpf_sys::bpf_xdp_query(index, 0, &raw mut options) };
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        let has = |flags: u64| options.feature_flags & flags == flags;
        Ok(XdpFeatures {
            driver: has(XDP_ACT_BASIC | XDP_ACT_REDIRECT),
            zero_copy: has(XDP_ACT_XSK_ZEROCOPY),
            multi_buffer: has(XDP_ACT_RX_SG),
            attached_program: [options.prog_id, options.drv_prog_id, options.skb_prog_id, options.hw_prog_id]
                .into_iter()
                .find(|&id| id != 0)
                .unwrap_or(0),
        })
    }
}

/// Opens an AF_XDP socket that is bound to nothing, to see whether the kernel has them.
pub(crate) fn open_socket() -> io::Result<OwnedFd> {
    // SAFETY: plain system call; the result is checked before it becomes an owned descriptor.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Asks the socket whether it was bound without a copy (`XDP_OPTIONS`).
pub(crate) fn is_zero_copy(socket: std::os::fd::BorrowedFd<'_>) -> io::Result<bool> {
    /// `XDP_OPTIONS` and its flag of <linux/if_xdp.h>.
    const XDP_OPTIONS: libc::c_int = 8;
    const XDP_OPTIONS_ZEROCOPY: u32 = 1;
    let mut flags = 0_u32;
    let mut length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: struct xdp_options is one u32, and the length says so.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, XDP_OPTIONS, (&raw mut flags).cast(), &raw mut length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(flags & XDP_OPTIONS_ZEROCOPY != 0) }
}

/// Asks for a send buffer of this size, beyond the system's limit where CAP_NET_ADMIN allows. In copy mode each packet in
/// flight is charged to it; the default holds about 80.
pub(crate) fn set_send_buffer(socket: std::os::fd::BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX / 2);
    for option in [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF] {
        // SAFETY: the option takes one int, and the length says so.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const bytes).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 {
            return Ok(());
        }
    }
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::{Channels, Device, DriverInfo};

    #[test]
    fn structures_have_the_sizes_of_the_kernel() {
        assert_eq!(size_of::<DriverInfo>(), 196);
        assert_eq!(size_of::<Channels>(), 36);
    }

    #[test]
    fn loopback_is_described() {
        let device = Device::find("lo").expect("loopback exists in every namespace");
        assert!(device.index() >= 1);
        assert!(device.mtu().expect("MTU") >= 1500);
        assert!(device.features_on().expect("features").iter().any(|name| name == "loopback"));
        assert_eq!(device.receive_queues(), 1);
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        assert!(Device::find("tw-no-such").is_err());
        assert!(Device::find("a-name-that-is-much-too-long").is_err());
        assert!(Device::find("nul\0byte").is_err());
    }
}
