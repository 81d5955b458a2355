//! Where a benchmark ran: what a reader needs to judge its figures.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use crate::process::ticks_per_s;

/// More of the machine's time that went to others than this makes figures unsound.
const OTHERS_MAX: f64 = 0.05;
/// The same for programs of this machine, before the measurement.
const BUSY_MAX: f64 = 0.10;
/// How long the machine is watched before.
const WATCH: Duration = Duration::from_secs(1);

/// A machine and its state.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    /// Of the tree that was built, with `+` if something was changed.
    commit: String,
    version: &'static str,
    built: &'static str,
    /// Days since 1970-01-01, UTC, with a fraction.
    begun_days: f64,
    /// Of all cores' time in the second before, what something else took.
    busy_before: f64,
    /// Most that a socket's receive buffer may have without privilege, bytes: what limits other tools (`net.core.rmem_max`).
    rmem_max: u64,
    /// Of all cores' time from beginning to end, what the hypervisor gave to other machines.
    stolen: f64,
    #[serde(skip)]
    before: Ticks,
}

/// The time of all cores together, in the kernel's ticks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ticks {
    all: u64,
    idle: u64,
    stolen: u64,
}

impl Ticks {
    /// From the first line of /proc/stat (proc_stat(5)): user nice system idle iowait irq softirq steal.
    pub(crate) fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().next().unwrap_or_default();
        let fields: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
        let field = |index: usize| fields.get(index).copied().unwrap_or(0);
        Self { all: fields.iter().sum(), idle: field(3) + field(4) + field(7), stolen: field(7) }
    }

    /// Seconds that cores have worked since, in interrupts too, whoever they are charged to.
    pub(crate) fn busy_s_since(self, before: Self) -> f64 {
        let (all, idle) = (self.all.saturating_sub(before.all), self.idle.saturating_sub(before.idle));
        all.saturating_sub(idle) as f64 / ticks_per_s()
    }
}

fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or("", |(_, value)| value.trim()).to_owned()
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    if is_changed { commit + "+" } else { commit }
}

impl Environment {
    /// Looks at this machine; the measurement begins.
    #[must_use]
    pub fn here() -> Self {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let watched = Ticks::now();
        std::thread::sleep(WATCH);
        let before = Ticks::now();
        let memory_kib: u64 = field("/proc/meminfo", "MemTotal").split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores,
            memory_mib: memory_kib / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            commit: commit(),
            version: env!("CARGO_PKG_VERSION"),
            built: if cfg!(debug_assertions) { "development" } else { "release" },
            begun_days: since_1970.as_secs_f64() / 86_400.0,
            busy_before: before.busy_s_since(watched) / WATCH.as_secs_f64() / cores as f64,
            rmem_max: fs::read_to_string("/proc/sys/net/core/rmem_max").ok().and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0),
            stolen: 0.0,
            before,
        }
    }

    /// The measurement has ended: adds what makes its figures unsound.
    pub fn finish(&mut self, warnings: &mut Vec<String>) {
        let now = Ticks::now();
        let all = now.all.saturating_sub(self.before.all).max(1);
        self.stolen = now.stolen.saturating_sub(self.before.stolen) as f64 / all as f64;
        warnings.extend(self.judged());
    }

    /// Of all cores' time in so many seconds, the share that is so many seconds of work: 0 to 1, or a little more by the kernel's ticks.
    pub(crate) fn busy(&self, busy_s: f64, seconds: f64) -> f64 {
        if seconds > 0.0 { busy_s / (seconds * self.cores as f64) } else { 0.0 }
    }

    /// What makes figures unsound that were taken here.
    fn judged(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.stolen > OTHERS_MAX {
            warnings.push(format!("{:.0} % of the cores' time went to other machines (steal)", self.stolen * 100.0));
        }
        if self.busy_before > BUSY_MAX {
            warnings.push(format!("something else took {:.0} % of the cores' time in the second before", self.busy_before * 100.0));
        }
        if self.built == "development" {
            warnings.push("a development build: its figures say nothing of a release".to_owned());
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> Environment {
        Environment {
            cpu: String::new(),
            cores: 2,
            memory_mib: 1,
            kernel: String::new(),
            commit: String::new(),
            version: "1",
            built: "release",
            begun_days: 0.0,
            busy_before: BUSY_MAX,
            rmem_max: 0,
            stolen: OTHERS_MAX,
            before: Ticks::default(),
        }
    }

    #[test]
    fn a_quiet_machine_passes_and_each_disturbance_is_named() {
        assert_eq!(quiet().judged(), Vec::<String>::new());
        for (disturbed, word) in [
            (Environment { stolen: 0.06, ..quiet() }, "6 % of the cores' time went to other machines"),
            (Environment { busy_before: 0.11, ..quiet() }, "something else took 11 %"),
            (Environment { built: "development", ..quiet() }, "development build"),
        ] {
            let warnings = disturbed.judged();
            assert!(warnings.len() == 1 && warnings[0].contains(word), "{warnings:?}");
        }
    }

    #[test]
    fn all_cores_for_all_the_time_are_the_whole() {
        assert_eq!((quiet().busy(4.0, 2.0), quiet().busy(1.0, 2.0), quiet().busy(1.0, 0.0)), (1.0, 0.25, 0.0));
    }
}
