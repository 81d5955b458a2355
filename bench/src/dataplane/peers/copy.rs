//! Peers that write a file: it is watched while it grows.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tradewind_netem::topology::{END_INTERFACE, SERVER_ADDRESS};

use super::{IP_UDP_BYTES, Load, START_DEADLINE, installed, measured};
use crate::dataplane::Turn;
use crate::environment::Ticks;
use crate::process::{Background, Finished, children_cpu_s, run, tail, tree_cpu_s_with_ended};
use crate::testbed::Testbed;

const SSH_PORT: u16 = 8722;
/// How long the receiver of a sender that has ended may still write.
const GRACE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);
const SETTLE: Duration = Duration::from_millis(300);
/// Without congestion control of its own it is as fast as it is told; told 4 Gbit/s it was no faster here than told 2 (1.63 and 1.67 Gbit/s).
const UFTP_BPS_MAX: u64 = 2_000_000_000;
const UFTP_BUFFER_BYTES: &str = "4194304";
const UFTP_START: Duration = Duration::from_millis(300);
/// Of its own headers, with what encryption adds.
const UFTP_HEADER_BYTES: u32 = 72;

/// By ssh keys of its own, which are made once. Time runs from the first bytes of the file at the server: the set-up by ssh is not counted, as ours by
/// HTTPS is not.
pub(super) fn qcp(testbed: &Testbed, load: &Load) -> Result<Turn> {
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
    // Of the sessions that sshd has waited for, and of those that still run.
    let cpu_s_receiver = || tree_cpu_s_with_ended(sshd.pid());
    let arrived = || fs::metadata(&target).map_or(0, |file| file.len());
    let turn = watched(testbed, load, load.seconds.is_none(), &mut qcp, &arrived, &cpu_s_receiver);
    // It may not have come so far.
    let _ = fs::remove_file(&target);
    sshd.stop()?;
    turn
}

/// To one receiver, whose address stands for the group's, and which makes its key itself. What it holds before the end cannot be told from what is still
/// missing, so the file is waited for until the receiver says that it is complete.
pub(super) fn uftp(testbed: &Testbed, load: &Load) -> Result<Turn> {
    let target = testbed.path("uftp-received");
    fs::create_dir_all(&target)?;
    let log = testbed.path("uftpd.log");
    let mut receiver = testbed.server(&installed("uftpd")?);
    receiver.args(["-d", "-x", "2", "-B", UFTP_BUFFER_BYTES, "-I", END_INTERFACE, "-D"]).arg(&target);
    let mut receiver = Background::start(&mut receiver, &log)?;
    // It says nothing when it is ready; senders call for some seconds.
    std::thread::sleep(UFTP_START);
    ensure!(!receiver.has_ended()?, "uftpd has ended: {}", tail(&receiver.log_text()));
    let rate_kbps = (load.rate_bps.min(UFTP_BPS_MAX) / 1000).to_string();
    let block = (load.mtu_bytes - IP_UDP_BYTES - UFTP_HEADER_BYTES).to_string();
    let mut sender = testbed.client(&installed("uftp")?);
    sender.args(["-R", &rate_kbps, "-B", UFTP_BUFFER_BYTES, "-I", END_INTERFACE, "-b", &block]);
    sender.args(["-Y", "aes128-gcm", "-h", "sha256", "-w", "hmac", "-M", &SERVER_ADDRESS.to_string()]).arg(testbed.path("source"));
    let arrived = || {
        let has_begun = fs::read_dir(&target).is_ok_and(|mut files| files.next().is_some());
        let is_complete = has_begun && receiver.log_text().contains("File transfer complete");
        if is_complete { load.bytes } else { u64::from(has_begun) }
    };
    let turn = watched(testbed, load, true, &mut sender, &arrived, &|| tree_cpu_s_with_ended(receiver.pid()));
    receiver.stop()?;
    fs::remove_dir_all(&target)?;
    turn
}

/// Runs a sender. `arrived_now` tells how many bytes have: all of them if `is_to_be_whole`, else those of the load's seconds.
fn watched(
    testbed: &Testbed,
    load: &Load,
    is_to_be_whole: bool,
    sender: &mut Command,
    arrived_now: &dyn Fn() -> u64,
    cpu_s_receiver: &dyn Fn() -> f64,
) -> Result<Turn> {
    let (ticks, begun, before, before_receiver) = (Ticks::now(), Instant::now(), children_cpu_s(), cpu_s_receiver());
    let mut client = Background::start(sender, &testbed.path("peer.log"))?;
    let longest = load.seconds.filter(|_| !is_to_be_whole).map(|seconds| Duration::from_secs(seconds.into()));
    let (mut first, mut last, mut arrived, mut over) = (None, Instant::now(), 0, None);
    loop {
        testbed.interrupt.check()?;
        if client.has_ended()? {
            over.get_or_insert_with(Instant::now);
        }
        let now = arrived_now();
        if now > arrived {
            first.get_or_insert_with(Instant::now);
            (arrived, last) = (now, Instant::now());
        }
        // A receiver may take a moment longer than its sender.
        let is_over = over.is_some_and(|over: Instant| arrived == load.bytes || over.elapsed() > GRACE);
        let is_late = longest.is_some_and(|longest| first.is_some_and(|first: Instant| first.elapsed() >= longest));
        if is_over || is_late || begun.elapsed() > load.deadline() {
            break;
        }
        std::thread::sleep(LOOK);
    }
    let (elapsed, busy_s) = (begun.elapsed(), Ticks::now().busy_s_since(ticks));
    client.stop()?;
    ensure!(
        !is_to_be_whole || arrived == load.bytes,
        "not everything arrived within {} s: {}",
        elapsed.as_secs(),
        tail(&client.log_text())
    );
    let cpu_s = children_cpu_s() - before;
    // The receiver ends its part.
    std::thread::sleep(SETTLE);
    let cpu_s_receiver = cpu_s_receiver() - before_receiver;
    let first = first.with_context(|| format!("nothing arrived: {}", tail(&client.log_text())))?;
    let sent = Finished { status: None, stdout: String::new(), stderr: String::new(), elapsed, cpu_s };
    Ok(measured((last - first).as_secs_f64(), arrived, &sent, cpu_s_receiver, busy_s))
}
