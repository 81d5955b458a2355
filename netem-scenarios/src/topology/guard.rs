//! A running emulator and what it leaves.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use super::{POLL, TopologyError, io_error};
use crate::stats::EmulatorStats;
use crate::sys;

/// How long an emulator may take to be ready, and how long to end.
const EMULATOR_DEADLINE: Duration = Duration::from_secs(15);

/// A running emulator. [`EmulatorGuard::stop`] gives its statistics; dropping it just ends it.
#[derive(Debug)]
pub struct EmulatorGuard {
    pub(super) child: Option<Child>,
    pub(super) stats_file: PathBuf,
    pub(super) files: Vec<PathBuf>,
    pub(super) start_ns: u64,
}

impl EmulatorGuard {
    /// When the link started: CLOCK_MONOTONIC in nanoseconds.
    #[must_use]
    pub fn start_monotonic_ns(&self) -> u64 {
        self.start_ns
    }

    /// Process id of the emulator.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(super) fn wait_until_ready(&mut self, ready_file: &Path) -> Result<(), TopologyError> {
        let deadline = Instant::now() + EMULATOR_DEADLINE;
        loop {
            if let Ok(text) = std::fs::read_to_string(ready_file) {
                let ready: ReadyFile = serde_json::from_str(&text).map_err(|e| TopologyError::Emulator {
                    what: "wrote a ready file that does not parse".into(),
                    stderr: e.to_string(),
                })?;
                self.start_ns = ready.start_monotonic_ns;
                return Ok(());
            }
            if let Some(status) = self.poll()? {
                return Err(TopologyError::Emulator { what: format!("ended before it was ready ({status})"), stderr: self.stderr() });
            }
            if Instant::now() > deadline {
                self.end(sys::Signal::Kill);
                return Err(TopologyError::Emulator { what: "was not ready within 15 s".into(), stderr: self.stderr() });
            }
            std::thread::sleep(POLL);
        }
    }

    fn poll(&mut self) -> Result<Option<std::process::ExitStatus>, TopologyError> {
        match &mut self.child {
            Some(child) => child.try_wait().map_err(io_error("cannot wait for the WAN emulator")),
            None => Ok(None),
        }
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut pipe) = self.child.as_mut().and_then(|c| c.stderr.take()) {
            // What cannot be read is not there to be shown.
            let _ = pipe.read_to_string(&mut text);
        }
        text.trim().to_owned()
    }

    /// Stops the emulator and returns what it measured. Look at [`EmulatorStats::valid`] before using anything taken over the link.
    ///
    /// # Errors
    /// [`TopologyError::Emulator`] if it had ended on its own, does not end within 15 s, or left no statistics.
    pub fn stop(mut self) -> Result<EmulatorStats, TopologyError> {
        if let Some(status) = self.poll()? {
            return Err(TopologyError::Emulator { what: format!("had ended on its own ({status})"), stderr: self.stderr() });
        }
        if !self.end(sys::Signal::Terminate) {
            self.end(sys::Signal::Kill);
            return Err(TopologyError::Emulator { what: "did not end within 15 s of SIGTERM".into(), stderr: self.stderr() });
        }
        let stderr = self.stderr();
        let text = std::fs::read_to_string(&self.stats_file).map_err(|e| TopologyError::Emulator {
            what: format!("left no {} ({e})", self.stats_file.display()),
            stderr: stderr.clone(),
        })?;
        serde_json::from_str(&text)
            .map_err(|e| TopologyError::Emulator { what: format!("left statistics that do not parse ({e})"), stderr })
    }

    /// Signals and waits; whether the process has ended.
    fn end(&mut self, signal: sys::Signal) -> bool {
        let Some(child) = &mut self.child else { return true };
        let deadline = Instant::now() + EMULATOR_DEADLINE;
        loop {
            match child.try_wait() {
                Ok(Some(_)) => return true,
                Ok(None) if Instant::now() < deadline => {
                    // Repeating does no harm, and the pid is ours until it has been waited for.
                    let _ = sys::send_signal(child.id(), signal);
                    std::thread::sleep(POLL);
                }
                _ => return false,
            }
        }
    }
}

impl Drop for EmulatorGuard {
    fn drop(&mut self) {
        self.end(sys::Signal::Kill);
        for file in &self.files {
            // Gone already is as good.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// What the emulator writes when packets can flow.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct ReadyFile {
    /// `own` or `tc`.
    pub backend: String,
    /// When the link started: CLOCK_MONOTONIC in nanoseconds.
    pub start_monotonic_ns: u64,
}
