//! A `tradewind send` of its own, watched while it runs.

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::tail;
use crate::testbed::{Server, Testbed};

/// A running session. Dropping it kills it.
pub(super) struct Session {
    child: Child,
    began: Instant,
    /// When the server had agreed.
    started: Arc<OnceLock<Duration>>,
    /// What it wrote, both ways.
    reading: Option<JoinHandle<String>>,
    errors: Option<JoinHandle<String>>,
    /// The signal that was sent to it, if one was.
    signal: Option<Signal>,
}

/// How one ended.
pub(super) struct Outcome {
    /// From the start of the process to the server's agreement.
    pub(super) set_up: Option<Duration>,
    /// From the start of the process to its end.
    pub(super) whole: Duration,
    /// Why it did not end as it should.
    pub(super) failure: Option<String>,
}

impl Session {
    /// Sends a file or folder.
    pub(super) fn start(testbed: &Testbed, source: &Path, destination: &str) -> Result<Self> {
        let mut command = Server::tradewind(testbed);
        command.arg("send").arg(source).arg(destination).arg("--json");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let began = Instant::now();
        let mut child = command.spawn().context("cannot start tradewind")?;
        let started = Arc::new(OnceLock::new());
        let agreed = Arc::clone(&started);
        let out = child.stdout.take().context("no output")?;
        let err = child.stderr.take().context("no output")?;
        let reading = std::thread::spawn(move || {
            let mut last = String::new();
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if line.contains("\"event\":\"started\"") {
                    // It is said once.
                    let _ = agreed.set(began.elapsed());
                }
                last = line;
            }
            last
        });
        let errors = std::thread::spawn(move || std::io::read_to_string(err).unwrap_or_default());
        Ok(Self { child, began, started, reading: Some(reading), errors: Some(errors), signal: None })
    }

    /// Since it was started.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Sends it a signal, once.
    pub(super) fn end_by(&mut self, signal: Signal) {
        if self.signal.is_none()
            && let Ok(pid) = i32::try_from(self.child.id())
            && kill(Pid::from_raw(pid), signal).is_ok()
        {
            self.signal = Some(signal);
        }
    }

    pub(super) fn was_signalled(&self) -> bool {
        self.signal.is_some()
    }

    /// How it ended, once it has.
    pub(super) fn outcome(&mut self) -> Result<Option<Outcome>> {
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        let whole = self.began.elapsed();
        let text = |thread: Option<JoinHandle<String>>| thread.and_then(|thread| thread.join().ok()).unwrap_or_default();
        let (out, err) = (text(self.reading.take()), text(self.errors.take()));
        let is_fine = match self.signal {
            // It may have been done before the signal came, or not yet watch for it; if it does, it ends by the shell's convention: 128 and the signal.
            Some(signal) => status.success() || status.signal() == Some(signal as i32) || status.code() == Some(128 + signal as i32),
            None => status.success(),
        };
        let failure = (!is_fine).then(|| format!("{status} after {:.1} s: {}{}", whole.as_secs_f64(), tail(&out), tail(&err)));
        Ok(Some(Outcome { set_up: self.started.get().copied(), whole, failure }))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
