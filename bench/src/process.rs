//! Child processes that end when their owner does, and what they cost.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

const POLL: Duration = Duration::from_millis(10);
/// How long a process may take to end after SIGTERM.
const TERMINATE_DEADLINE: Duration = Duration::from_secs(15);

/// Set by SIGINT and SIGTERM; every wait here looks at it, so that guards can clean up.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches for SIGINT and SIGTERM from now on.
    ///
    /// # Errors
    /// When the handlers cannot be set.
    pub fn watch() -> Result<Self> {
        let flag = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag.0)).context("cannot watch for signals")?;
        }
        Ok(flag)
    }

    /// # Errors
    /// Once a signal has come.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { bail!("interrupted") } else { Ok(()) }
    }
}

/// A process in the background, its output in a log file; it is ended (SIGTERM, then SIGKILL) when this is dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts it in a process group of its own, so that the terminal's Ctrl-C reaches only us.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended on its own.
    ///
    /// # Errors
    /// When the system does not let us ask.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// The same without being told how: it is not waited for, so its CPU time is not yet among that of this process's children.
    #[must_use]
    pub(crate) fn is_over(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let looked = i32::try_from(self.child.id()).map(|pid| waitid(Id::Pid(Pid::from_raw(pid)), flags));
        // Who was waited for already is over too.
        looked.is_ok_and(|looked| looked.map_or_else(|error| error == Errno::ECHILD, |status| status != WaitStatus::StillAlive))
    }

    /// What it has printed so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// When the process ends first, time is up, or a signal comes; the message holds the end of its log.
    pub fn wait_until(&mut self, interrupt: &Interrupt, deadline: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            interrupt.check()?;
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}; its log ends:\n{}", tail(&self.log_text()));
            }
            if start.elapsed() > deadline {
                bail!("it was not ready within {} s; its log ends:\n{}", deadline.as_secs(), tail(&self.log_text()));
            }
            std::thread::sleep(10 * POLL);
        }
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // Fails only when it has ended, which is as well.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Freezes it (SIGSTOP): it holds its connections and answers nothing.
    pub fn signal_stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn signal_continue(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Ends it and waits.
    ///
    /// # Errors
    /// When the system does not let us wait for it.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > TERMINATE_DEADLINE {
                self.child.kill()?;
                return Ok(self.child.wait()?);
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// The last lines of a log.
#[must_use]
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// What a finished foreground process left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended; `None`: it was ended because its time was up.
    pub status: Option<ExitStatus>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
    /// User and system time of it and of what it waited for, seconds.
    pub cpu_s: f64,
}

/// Runs a process to its end, with a deadline, ending it when a signal comes.
///
/// # Errors
/// When it cannot be started, or a signal came.
pub fn run(command: &mut Command, interrupt: &Interrupt, deadline: Duration) -> Result<Finished> {
    run_while(command, interrupt, deadline, || true)
}

/// The same, as long as `is_wanted`; afterwards it is ended as if its time were up.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_while(
    command: &mut Command,
    interrupt: &Interrupt,
    deadline: Duration,
    mut is_wanted: impl FnMut() -> bool,
) -> Result<Finished> {
    let before = children_cpu_s();
    let folder = tempfile::tempdir()?;
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        let stopped = interrupt.check();
        if stopped.is_err() || start.elapsed() > deadline || !is_wanted() {
            let _ = child.kill();
            child.wait()?;
            stopped?;
            break None;
        }
        std::thread::sleep(POLL);
    };
    let elapsed = start.elapsed();
    let read = |path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Finished { status, stdout: read(&out)?, stderr: read(&err)?, elapsed, cpu_s: children_cpu_s() - before })
}

impl Finished {
    /// # Errors
    /// Unless it ended with status 0.
    pub fn success(&self, what: &str) -> Result<()> {
        match self.status {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{what} ended with {status}:\n{}{}", tail(&self.stdout), tail(&self.stderr)),
            None => bail!("{what} did not end in time:\n{}{}", tail(&self.stdout), tail(&self.stderr)),
        }
    }
}

/// User and system time of all children that were waited for, and of theirs, seconds.
pub(crate) fn children_cpu_s() -> f64 {
    cpu_s(UsageWho::RUSAGE_CHILDREN)
}

/// User and system time of this process without its children, seconds.
pub(crate) fn own_cpu_s() -> f64 {
    cpu_s(UsageWho::RUSAGE_SELF)
}

fn cpu_s(who: UsageWho) -> f64 {
    getrusage(who).map_or(0.0, |usage| {
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        seconds(usage.user_time()) + seconds(usage.system_time())
    })
}

/// User and system time of a running process and its living descendants, seconds, to the kernel's tick of 10 ms.
#[must_use]
pub fn tree_cpu_s(pid: u32) -> f64 {
    tree_times(pid, 2)
}

/// The same with descendants that have ended and were waited for.
#[must_use]
pub(crate) fn tree_cpu_s_with_ended(pid: u32) -> f64 {
    tree_times(pid, 4)
}

/// Sum of the first so many of utime, stime, cutime, cstime (proc_pid_stat(5)).
fn tree_times(pid: u32, fields: usize) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field, the name, may hold blanks: count from its closing parenthesis.
    let words = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: f64 = words.skip(11).take(fields).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / ticks_per_s() + children(pid).into_iter().map(|child| tree_times(child, fields)).sum::<f64>()
}

/// What /proc counts time in.
pub(crate) fn ticks_per_s() -> f64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64
}

/// Living children of a process.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_over_is_not_waited_for_and_nobody_runs_for_longer_than_wanted() {
        let (folder, interrupt) = (tempfile::tempdir().unwrap(), Interrupt::default());
        let mut other = Background::start(Command::new("sleep").arg("1"), &folder.path().join("log")).unwrap();
        assert!(!other.is_over());
        let whole_minute = Duration::from_secs(60);
        let finished = run_while(Command::new("sleep").arg("60"), &interrupt, whole_minute, || !other.is_over()).unwrap();
        assert!(finished.status.is_none() && finished.elapsed < whole_minute / 2, "{finished:?}");
        assert!(other.is_over() && other.has_ended().unwrap(), "it is there to be waited for");
        assert!(other.is_over(), "and stays so");
    }
}
