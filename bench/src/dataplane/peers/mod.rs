//! What users would take instead, over the same path with the same file, into memory or into nothing.
//!
//! | Tool | What it is | Encrypted | Where to |
//! |---|---|---|---|
//! | `iperf3 bbr` | one stream of the kernel's TCP, without a file | no | nowhere |
//! | `s2n-quic`, `s2n-quic bbr` | AWS's QUIC, one stream (`bench/peers/s2n-quic`) | TLS 1.3 | nowhere |
//! | `s2n-quic xdp`, `s2n-quic xdp bbr` | the same, received by its AF_XDP provider | TLS 1.3 | nowhere |
//! | `s2n-quic xdp-xdp` | the same, sent and received by it | TLS 1.3 | nowhere |
//! | `qcp bbr` | a copying program over QUIC (quinn), set up by ssh | TLS 1.3 | a file in memory |
//! | `udt` | UDT 4, one stream (`bench/peers/udt`) | no | nowhere |
//! | `uftp` | UFTP to one receiver, at the rate that it is told | AES-128-GCM | a file in memory |
//!
//! All are told the path's MTU, and UFTP its rate, 2 Gbit/s at most: it was no faster when told more. s2n-quic and qcp ask for large socket buffers and get what the system allows (`net.core.rmem_max`, in the report); ours is
//! a service with the privilege to have more.
//!
//! UDT and UFTP are measured where packets cross by themselves: they know no offload, and take minutes where others take seconds.
//!
//! Those by AF_XDP are measured where ours is received by AF_XDP, up to the largest packet that fits into a page: they take no packet in parts.
//!
//! `cargo xtask setup --peers` installs them.

mod copy;
mod stream;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Turn;
use crate::process::Finished;
use crate::testbed::Testbed;

const START_DEADLINE: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_secs(120);
/// How much longer than its time a sender may take, its set-up included.
const LATE: Duration = Duration::from_secs(15);
/// A peer that is slower has failed.
const SLOWEST_BPS: u64 = 200_000_000;
/// Bytes of IPv4 and UDP headers.
const IP_UDP_BYTES: u32 = 28;
/// A frame of s2n-quic's AF_XDP provider lies in a chunk of 4096 bytes, behind 256 that Linux keeps, and begins with an Ethernet header.
const S2N_XDP_MTU_BYTES_MAX: u32 = 4096 - 256 - 14;

/// What is sent, and over what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Size of the file `source`.
    pub(crate) bytes: u64,
    /// Seconds after which what has arrived is counted; none: all of it has to.
    pub(crate) seconds: Option<u32>,
    /// Of the path, for tools that want to be told.
    pub(crate) rtt_ms: u32,
    /// The same.
    pub(crate) rate_bps: u64,
    /// The same.
    pub(crate) mtu_bytes: u32,
}

impl Load {
    fn deadline(&self) -> Duration {
        let all = || DEADLINE + Duration::from_secs(self.bytes * 8 / SLOWEST_BPS);
        self.seconds.map_or_else(all, |seconds| Duration::from_secs(seconds.into()) + LATE)
    }

    /// A sender that was ended although it should have come to its end has failed.
    fn check(&self, sent: &Finished, what: &str) -> Result<()> {
        if self.seconds.is_some() { Ok(()) } else { sent.success(what) }
    }

    fn check_arrived(&self, arrived: u64) -> Result<()> {
        ensure!(self.seconds.is_some() || arrived == self.bytes, "{arrived} bytes of {} arrived", self.bytes);
        Ok(())
    }
}

/// A tool of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Iperf3,
    S2n {
        bbr: bool,
        sends_xdp: bool,
        /// As ours does.
        receives_xdp: bool,
    },
    Qcp,
    Udt,
    Uftp,
}

impl Peer {
    pub(crate) const ALL: [Self; 6] = [Self::Iperf3, Self::s2n(false), Self::s2n(true), Self::Qcp, Self::Udt, Self::Uftp];

    /// Those that receive by AF_XDP.
    pub(crate) const XDP: [Self; 3] = [
        Self::S2n { bbr: false, sends_xdp: false, receives_xdp: true },
        Self::S2n { bbr: true, sends_xdp: false, receives_xdp: true },
        Self::S2n { bbr: false, sends_xdp: true, receives_xdp: true },
    ];

    /// By the kernel's sockets.
    pub(crate) const fn s2n(bbr: bool) -> Self {
        Self::S2n { bbr, sends_xdp: false, receives_xdp: false }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Iperf3 => "iperf3 bbr",
            Self::S2n { sends_xdp: true, .. } => "s2n-quic xdp-xdp",
            Self::S2n { bbr: false, receives_xdp: false, .. } => "s2n-quic",
            Self::S2n { bbr: true, receives_xdp: false, .. } => "s2n-quic bbr",
            Self::S2n { bbr: false, receives_xdp: true, .. } => "s2n-quic xdp",
            Self::S2n { bbr: true, receives_xdp: true, .. } => "s2n-quic xdp bbr",
            Self::Qcp => "qcp bbr",
            Self::Udt => "udt",
            Self::Uftp => "uftp",
        }
    }

    /// Why it cannot be measured, if so.
    pub(crate) fn missing(self) -> Option<String> {
        let (program, is_there) = match self {
            Self::Iperf3 => ("iperf3".to_owned(), Command::new("iperf3").arg("--version").output().is_ok()),
            Self::S2n { receives_xdp: false, .. } => found("peer-s2n-quic"),
            Self::S2n { .. } => ("peer-s2n-quic with --xdp".to_owned(), knows_xdp()),
            Self::Qcp if !Path::new("/usr/sbin/sshd").exists() => ("sshd".to_owned(), false),
            Self::Qcp => found("qcp"),
            Self::Udt => found("peer-udt"),
            Self::Uftp => found("uftp"),
        };
        (!is_there).then(|| format!("{program} is missing: `cargo xtask setup --peers` installs it"))
    }

    /// Whether it can be measured on such a path.
    pub(crate) fn is_for(self, receives_xdp: bool, wire_like: bool, mtu_bytes: u32) -> bool {
        match self {
            Self::S2n { receives_xdp: true, .. } => receives_xdp && mtu_bytes <= S2N_XDP_MTU_BYTES_MAX,
            Self::Iperf3 | Self::S2n { .. } | Self::Qcp => !receives_xdp,
            Self::Udt | Self::Uftp => !receives_xdp && wire_like,
        }
    }

    pub(crate) fn turn(self, testbed: &Testbed, load: &Load) -> Result<Turn> {
        match self {
            Self::Iperf3 => stream::iperf3(testbed, load),
            Self::S2n { bbr, sends_xdp, receives_xdp } => stream::s2n(testbed, load, bbr, sends_xdp, receives_xdp),
            Self::Qcp => copy::qcp(testbed, load),
            Self::Udt => stream::udt(testbed, load),
            Self::Uftp => copy::uftp(testbed, load),
        }
        .with_context(|| self.name())
    }
}

fn found(program: &str) -> (String, bool) {
    (program.to_owned(), installed(program).is_ok_and(|path| path.exists()))
}

/// One that was installed by an older tree does not.
fn knows_xdp() -> bool {
    let usage = installed("peer-s2n-quic").and_then(|program| Ok(Command::new(program).output()?.stderr));
    usage.is_ok_and(|usage| String::from_utf8_lossy(&usage).contains("--xdp"))
}

/// Where `cargo xtask setup --peers` puts programs: beside the Python environment.
fn installed(program: &str) -> Result<PathBuf> {
    let venv = crate::testbed::venv()?;
    Ok(venv.parent().context("the Python environment has no folder")?.join("peers/bin").join(program))
}

/// Packets are not counted: the figure is not comparable between protocols.
fn measured(seconds: f64, bytes: u64, sent: &Finished, cpu_s_receiver: f64, busy_s: f64) -> Turn {
    let (cpu_s_sender, seconds_command) = (sent.cpu_s, sent.elapsed.as_secs_f64());
    Turn { seconds, bytes, packets: None, cpu_s_sender, cpu_s_receiver, busy_s, seconds_command, ..Turn::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_is_for_one_kind_of_path() {
        for peer in Peer::ALL {
            assert!(peer.is_for(false, true, 1500) && !peer.is_for(true, true, 1500), "{}", peer.name());
            assert_eq!(peer.is_for(false, false, 9000), !matches!(peer, Peer::Udt | Peer::Uftp), "{}", peer.name());
        }
        for peer in Peer::XDP {
            assert!(peer.is_for(true, true, 1500) && peer.is_for(true, true, S2N_XDP_MTU_BYTES_MAX), "{}", peer.name());
            assert!(!peer.is_for(true, true, S2N_XDP_MTU_BYTES_MAX + 1) && !peer.is_for(false, true, 1500), "{}", peer.name());
        }
    }

    #[test]
    fn peers_have_names_of_their_own() {
        let names: std::collections::HashSet<&str> = Peer::ALL.into_iter().chain(Peer::XDP).map(Peer::name).collect();
        assert_eq!(names.len(), Peer::ALL.len() + Peer::XDP.len());
    }
}
