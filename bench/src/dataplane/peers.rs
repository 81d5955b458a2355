//! What users would take instead, over the same path with the same file, into memory or into nothing.
//!
//! | Tool | What it is | Encrypted | Where to |
//! |---|---|---|---|
//! | `iperf3 bbr` | one stream of the kernel's TCP, without a file | no | nowhere |
//! | `s2n-quic`, `s2n-quic bbr` | AWS's QUIC, one stream (`bench/peers/s2n-quic`) | TLS 1.3 | nowhere |
//! | `s2n-quic xdp`, `s2n-quic xdp bbr` | the same, received by its AF_XDP provider | TLS 1.3 | nowhere |
//! | `s2n-quic xdp-xdp` | the same, sent and received by it | TLS 1.3 | nowhere |
//! | `qcp bbr` | a copying program over QUIC (quinn), set up by ssh | TLS 1.3 | a file in memory |
//!
//! All are told the path's MTU. s2n-quic and qcp ask for large socket buffers and get what the system allows (`net.core.rmem_max`, in the report); ours is
//! a service with the privilege to have more.
//!
//! Those by AF_XDP are measured where ours is received by AF_XDP, up to the largest packet that fits into a page: they take no packet in parts.
//!
//! `cargo xtask setup --peers` installs them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tradewind_netem::topology::{END_INTERFACE, SERVER_ADDRESS};

use super::Turn;
use crate::environment::Ticks;
use crate::process::{Background, Finished, children_cpu_s, run, run_while, tail, tree_cpu_s_with_ended};
use crate::testbed::Testbed;

const START_DEADLINE: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_secs(120);
/// How much longer than its time a sender may take, its set-up included.
const LATE: Duration = Duration::from_secs(15);
/// How long a sender is waited for whose receiver has had enough.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes of IPv4 and UDP headers.
const IP_UDP_BYTES: u32 = 28;
/// A peer that is slower has failed.
const SLOWEST_BPS: u64 = 200_000_000;
const SSH_PORT: u16 = 8722;
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
}

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Iperf3, Self::s2n(false), Self::s2n(true), Self::Qcp];

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
        };
        (!is_there).then(|| format!("{program} is missing: `cargo xtask setup --peers` installs it"))
    }

    /// Whether it can be measured on such a path.
    pub(crate) fn is_for(self, receives_xdp: bool, mtu_bytes: u32) -> bool {
        match self {
            Self::S2n { receives_xdp: true, .. } => receives_xdp && mtu_bytes <= S2N_XDP_MTU_BYTES_MAX,
            Self::Iperf3 | Self::S2n { .. } | Self::Qcp => !receives_xdp,
        }
    }

    pub(crate) fn turn(self, testbed: &Testbed, load: &Load) -> Result<Turn> {
        match self {
            Self::Iperf3 => iperf3(testbed, load),
            Self::S2n { bbr, sends_xdp, receives_xdp } => s2n(testbed, load, bbr, sends_xdp, receives_xdp),
            Self::Qcp => qcp(testbed, load),
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

/// Waits for a receiver that ends by itself, and tells the CPU time that it took.
fn ended(testbed: &Testbed, mut receiver: Background) -> Result<(String, f64)> {
    let before = children_cpu_s();
    let start = Instant::now();
    while !receiver.has_ended()? {
        testbed.interrupt.check()?;
        ensure!(start.elapsed() < DEADLINE, "the receiver did not end: {}", tail(&receiver.log_text()));
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((receiver.log_text(), children_cpu_s() - before))
}

fn iperf3(testbed: &Testbed, load: &Load) -> Result<Turn> {
    let mut server = testbed.server(Path::new("iperf3"));
    server.args(["--server", "--one-off", "--forceflush"]);
    let mut server = Background::start(&mut server, &testbed.path("iperf3.log"))?;
    let listens = || fs::read_to_string(testbed.path("iperf3.log")).is_ok_and(|log| log.contains("listening"));
    server.wait_until(&testbed.interrupt, START_DEADLINE, listens)?;
    let mut client = testbed.client(Path::new("iperf3"));
    client.args(["--client", &SERVER_ADDRESS.to_string(), "--congestion", "bbr", "--json"]);
    match load.seconds {
        Some(seconds) => client.args(["--time", &seconds.to_string()]),
        None => client.args(["--bytes", &load.bytes.to_string()]),
    };
    let ticks = Ticks::now();
    let finished = run(&mut client, &testbed.interrupt, load.deadline())?;
    let busy_s = Ticks::now().busy_s_since(ticks);
    finished.success("iperf3")?;
    let (_, cpu_s_receiver) = ended(testbed, server)?;
    let report: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    let received = &report["end"]["sum_received"];
    let number = |name: &str| received[name].as_f64().with_context(|| format!("iperf3 tells no {name}"));
    Ok(measured(number("seconds")?, number("bytes")? as u64, &finished, cpu_s_receiver, busy_s))
}

fn s2n(testbed: &Testbed, load: &Load, bbr: bool, sends_xdp: bool, receives_xdp: bool) -> Result<Turn> {
    let (certificate, key) = (testbed.path("peer.crt"), testbed.path("peer.key"));
    if !certificate.exists() {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "7"]);
        openssl.args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        run(&mut openssl, &testbed.interrupt, START_DEADLINE)?.success("openssl")?;
    }
    let (program, address) = (installed("peer-s2n-quic")?, format!("{SERVER_ADDRESS}:4433"));
    let mut receiver = testbed.server(&program);
    receiver.args(["receive", &address]).arg(&certificate).arg(&key).arg(load.seconds.unwrap_or(3600).to_string());
    receiver.arg(load.mtu_bytes.to_string());
    let by_xdp = |wanted: bool| wanted.then_some(["--xdp", END_INTERFACE]).into_iter().flatten();
    receiver.args(by_xdp(receives_xdp));
    let mut receiver = Background::start(&mut receiver, &testbed.path("s2n.log"))?;
    let listens = || fs::read_to_string(testbed.path("s2n.log")).is_ok_and(|log| log.contains("ready"));
    receiver.wait_until(&testbed.interrupt, START_DEADLINE, listens)?;
    let mut sender = testbed.client(&program);
    sender
        .args(["send", &address])
        .arg(&certificate)
        .arg(testbed.path("source"))
        .arg(load.mtu_bytes.to_string())
        .args(bbr.then_some("bbr"))
        .args(by_xdp(sends_xdp));
    let ticks = Ticks::now();
    // A receiver that has had enough does not tell its sender.
    let (is_timed, mut over) = (load.seconds.is_some(), None);
    let is_wanted = || !(is_timed && receiver.is_over() && over.get_or_insert_with(Instant::now).elapsed() > GRACE);
    let sent = run_while(&mut sender, &testbed.interrupt, load.deadline(), is_wanted)?;
    let busy_s = Ticks::now().busy_s_since(ticks);
    load.check(&sent, "peer-s2n-quic send")?;
    let (said, cpu_s_receiver) = ended(testbed, receiver)?;
    let figures = said.lines().last().and_then(|line| line.split_once(' ')).with_context(|| format!("the receiver said: {said}"))?;
    let bytes = figures.0.parse()?;
    load.check_arrived(bytes)?;
    Ok(measured(figures.1.parse()?, bytes, &sent, cpu_s_receiver, busy_s))
}

/// By ssh keys of its own, which are made once. Time runs from the first bytes of the file at the server: the set-up by ssh is not counted, as ours by
/// HTTPS is not.
fn qcp(testbed: &Testbed, load: &Load) -> Result<Turn> {
    let folder = testbed.path("ssh");
    if !folder.exists() {
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        for name in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(name));
            run(&mut keygen, &testbed.interrupt, START_DEADLINE)?.success("ssh-keygen")?;
        }
        fs::create_dir_all("/run/sshd").context("sshd wants /run/sshd")?;
        let bin = installed("qcp")?.parent().map(Path::to_owned).unwrap_or_default();
        let at = |name: &str| folder.join(name).display().to_string();
        let server = format!(
            "ListenAddress {SERVER_ADDRESS}:{SSH_PORT}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\n\
             SetEnv PATH={}:/usr/bin:/bin\n",
            at("host"),
            at("user.pub"),
            bin.display()
        );
        fs::write(folder.join("sshd_config"), server)?;
        let client = format!(
            "Host *\n  Port {SSH_PORT}\n  User root\n  IdentityFile {}\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n",
            at("user")
        );
        fs::write(folder.join("config"), client)?;
    }
    let mut sshd = testbed.server(Path::new("/usr/sbin/sshd"));
    sshd.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config"));
    let mut sshd = Background::start(&mut sshd, &testbed.path("sshd.log"))?;
    let listens = || fs::read_to_string(testbed.path("sshd.log")).is_ok_and(|log| log.contains("listening"));
    sshd.wait_until(&testbed.interrupt, START_DEADLINE, listens)?;
    let target = testbed.path("qcp-received");
    let mut qcp = testbed.client(&installed("qcp")?);
    let rate = format!("{}k", load.rate_bps / 8000);
    qcp.args(["--quiet", "--rx", &rate, "--tx", &rate, "--rtt", &load.rtt_ms.to_string(), "--congestion", "bbr"]);
    qcp.args(["--max-mtu", &(load.mtu_bytes - IP_UDP_BYTES).to_string()]);
    // Each -S is a word of ssh's.
    qcp.args(["-S", "-F", "-S"])
        .arg(folder.join("config"))
        .arg(testbed.path("source"))
        .arg(format!("{SERVER_ADDRESS}:{}", target.display()));
    let (ticks, begun, before) = (Ticks::now(), Instant::now(), children_cpu_s());
    let mut client = Background::start(&mut qcp, &testbed.path("qcp.log"))?;
    let deadline = load.deadline();
    let (mut first, mut last, mut arrived) = (None, Instant::now(), 0);
    let is_whole = loop {
        testbed.interrupt.check()?;
        let has_ended = client.has_ended()?;
        let now = fs::metadata(&target).map_or(0, |file| file.len());
        if now > arrived {
            first.get_or_insert_with(Instant::now);
            (arrived, last) = (now, Instant::now());
        }
        let is_late = |since: Instant| load.seconds.is_some_and(|seconds| since.elapsed().as_secs() >= seconds.into());
        if has_ended || begun.elapsed() > deadline || first.is_some_and(is_late) {
            break has_ended;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (elapsed, busy_s) = (begun.elapsed(), Ticks::now().busy_s_since(ticks));
    client.stop()?;
    ensure!(is_whole || load.seconds.is_some(), "it did not end in time: {}", tail(&client.log_text()));
    let cpu_s = children_cpu_s() - before;
    // Of the sessions that sshd has waited for, and of those that still run.
    std::thread::sleep(Duration::from_millis(300));
    let cpu_s_receiver = tree_cpu_s_with_ended(sshd.pid());
    sshd.stop()?;
    load.check_arrived(arrived).with_context(|| tail(&client.log_text()))?;
    let first = first.with_context(|| format!("nothing arrived: {}", tail(&client.log_text())))?;
    let sent = Finished { status: None, stdout: String::new(), stderr: String::new(), elapsed, cpu_s };
    // It may not have come so far.
    let _ = fs::remove_file(&target);
    Ok(measured((last - first).as_secs_f64(), arrived, &sent, cpu_s_receiver, busy_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_is_for_one_kind_of_path() {
        assert!(Peer::ALL.into_iter().all(|peer| peer.is_for(false, 9000) && !peer.is_for(true, 1500)));
        for peer in Peer::XDP {
            assert!(peer.is_for(true, 1500) && peer.is_for(true, S2N_XDP_MTU_BYTES_MAX), "{}", peer.name());
            assert!(!peer.is_for(true, S2N_XDP_MTU_BYTES_MAX + 1) && !peer.is_for(false, 1500), "{}", peer.name());
        }
    }

    #[test]
    fn peers_have_names_of_their_own() {
        let names: std::collections::HashSet<&str> = Peer::ALL.into_iter().chain(Peer::XDP).map(Peer::name).collect();
        assert_eq!(names.len(), Peer::ALL.len() + Peer::XDP.len());
    }
}
