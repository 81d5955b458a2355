//! What users would take instead, over the same path with the same files.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tradewind_netem::topology::SERVER_ADDRESS;

use crate::process::{Background, run};
use crate::testbed::{BUCKET, Store, Testbed};
use crate::tree;

/// Over the WAN: of 10 KiB each, some seconds of TCP at 1 % loss.
const WAN_FILES: usize = 5000;
const WAN_DEADLINE: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(600);
const START_DEADLINE: Duration = Duration::from_secs(20);
const RSYNC_PORT: u16 = 8730;
const TAR_PORT: u16 = 8731;

/// Another tool, and what it did.
#[derive(Clone, Debug, Serialize)]
pub struct Peer {
    tool: &'static str,
    /// Arrived.
    files: u64,
    /// Of the whole command.
    seconds: f64,
    /// Files over seconds.
    pub files_per_s: f64,
    /// False: it was ended at the deadline.
    finished: bool,
    /// Why it was not measured.
    skipped: Option<String>,
}

impl Peer {
    fn measured(tool: &'static str, files: u64, elapsed: Duration, finished: bool) -> Self {
        let seconds = elapsed.as_secs_f64();
        Self { tool, files, seconds, files_per_s: files as f64 / seconds, finished, skipped: None }
    }

    fn skipped(tool: &'static str, reason: String) -> Self {
        Self { tool, files: 0, seconds: 0.0, files_per_s: 0.0, finished: false, skipped: Some(reason) }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.skipped {
            return write!(f, "{:<12} SKIP: {reason}", self.tool);
        }
        let end = if self.finished { "" } else { "  (not finished)" };
        write!(f, "{:<12} {:>9.0} files/s {:>8.2} s {:>8} files{end}", self.tool, self.files_per_s, self.seconds, self.files)
    }
}

/// rsync's daemon and tar, into directories of the server's namespace.
///
/// # Errors
/// When a server or client that is installed does not start.
pub(super) fn to_directories(testbed: &Testbed, source: &Path, is_wan: bool) -> Result<Vec<Peer>> {
    let mut peers = Vec::new();
    let (source, deadline) = if is_wan {
        use_bbr(testbed)?;
        (some_of(testbed, source)?, WAN_DEADLINE)
    } else {
        (source.to_owned(), DEADLINE)
    };
    for (tool, program, measure) in [("rsync daemon", "rsync", rsync as fn(_, _, _) -> _), ("tar, TCP", "socat", tar)] {
        let installed = Command::new(program).arg(if program == "rsync" { "--version" } else { "-V" }).output().is_ok();
        peers.push(if installed {
            measure(testbed, &source, deadline)?
        } else {
            Peer::skipped(tool, format!("{program} is not installed: apt-get install -y {program}"))
        });
    }
    Ok(peers)
}

/// A folder of links to the first files: what the WAN takes in a minute.
fn some_of(testbed: &Testbed, source: &Path) -> Result<std::path::PathBuf> {
    let folder = testbed.path("source-of-peers");
    for (name, path) in tree::files(source)?.into_iter().take(WAN_FILES) {
        let link = folder.join(name);
        fs::create_dir_all(link.parent().unwrap_or(&folder))?;
        fs::hard_link(path, link)?;
    }
    Ok(folder)
}

/// Has no effect where the kernel lacks it.
fn use_bbr(testbed: &Testbed) -> Result<()> {
    for mut command in [testbed.client(Path::new("sh")), testbed.server(Path::new("sh"))] {
        run(command.args(["-c", "echo bbr > /proc/sys/net/ipv4/tcp_congestion_control"]), &testbed.interrupt, START_DEADLINE)?;
    }
    Ok(())
}

fn rsync(testbed: &Testbed, source: &Path, deadline: Duration) -> Result<Peer> {
    let (target, config) = (testbed.path("rsync"), testbed.path("rsyncd.conf"));
    fs::create_dir(&target)?;
    let module = format!("use chroot = no\nuid = root\ngid = root\n[o]\npath = {}\nread only = no\n", target.display());
    fs::write(&config, module)?;
    let mut daemon = testbed.server(Path::new("rsync"));
    daemon.args(["--daemon", "--no-detach", &format!("--port={RSYNC_PORT}")]).arg(format!("--config={}", config.display()));
    let mut daemon = Background::start(&mut daemon, &testbed.path("rsyncd.log"))?;
    listening(testbed, &mut daemon, RSYNC_PORT)?;
    let mut client = testbed.client(Path::new("rsync"));
    client.args(["-r", "-t", "-W", "--inplace"]).arg(format!("{}/", source.display()));
    let ran = run(client.arg(format!("rsync://{SERVER_ADDRESS}:{RSYNC_PORT}/o/")), &testbed.interrupt, deadline)?;
    if ran.status.is_some() {
        ran.success("rsync")?;
    }
    Ok(Peer::measured("rsync daemon", tree::files(&target)?.len() as u64, ran.elapsed, ran.status.is_some()))
}

fn tar(testbed: &Testbed, source: &Path, deadline: Duration) -> Result<Peer> {
    let target = testbed.path("tar");
    fs::create_dir(&target)?;
    let mut receiver = testbed.server(Path::new("sh"));
    receiver.args(["-c", &format!("socat -u TCP-LISTEN:{TAR_PORT} STDOUT | tar -x -C {}", target.display())]);
    let mut receiver = Background::start(&mut receiver, &testbed.path("tar.log"))?;
    listening(testbed, &mut receiver, TAR_PORT)?;
    let mut client = testbed.client(Path::new("sh"));
    let pipe = format!("tar -c -C {} . | socat -u STDIN TCP:{SERVER_ADDRESS}:{TAR_PORT}", source.display());
    let started = Instant::now();
    let ran = run(client.args(["-c", &pipe]), &testbed.interrupt, deadline)?;
    // The sender ends before the last file is written.
    while ran.status.is_some() && !receiver.has_ended()? && started.elapsed() < deadline {
        testbed.interrupt.check()?;
        std::thread::sleep(Duration::from_millis(5));
    }
    let (elapsed, finished) = (started.elapsed(), receiver.has_ended()?);
    Ok(Peer::measured("tar, TCP", tree::files(&target)?.len() as u64, elapsed, finished))
}

/// Waits until somebody listens at a port of the server's namespace.
fn listening(testbed: &Testbed, process: &mut Background, port: u16) -> Result<()> {
    let filter = format!("sport = :{port}");
    process.wait_until(&testbed.interrupt, START_DEADLINE, || {
        let mut ss = testbed.server(Path::new("ss"));
        ss.args(["-Hltn", &filter]).output().is_ok_and(|output| !output.stdout.is_empty())
    })
}

/// s5cmd, into the bucket beside ours.
///
/// # Errors
/// When it fails.
pub(super) fn s5cmd(testbed: &Testbed, store: &Store, source: &Path, files: u64) -> Result<Peer> {
    let arguments = ["cp", &format!("{}/", source.display()), &format!("s3://{BUCKET}/peer/")];
    let ran = store.s5cmd_at_client(testbed, &arguments, DEADLINE)?;
    ran.success("s5cmd")?;
    Ok(Peer::measured("s5cmd", files, ran.elapsed, true))
}
