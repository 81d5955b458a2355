//! Where a benchmark ran: what a reader needs to judge its figures.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// More of the machine's time that went to others than this makes figures unsound.
const OTHERS_MAX: f64 = 0.05;

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
    /// Runnable processes over the minute before.
    load_before: f64,
    /// Of all cores' time from beginning to end, what the hypervisor gave to other machines.
    stolen: f64,
    #[serde(skip)]
    before: Ticks,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    /// From the first line of /proc/stat (proc_stat(5)): user nice system idle iowait irq softirq steal.
    fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().next().unwrap_or_default();
        let fields: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
        Self { all: fields.iter().sum(), stolen: fields.get(7).copied().unwrap_or(0) }
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
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let memory_kib: u64 = field("/proc/meminfo", "MemTotal").split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_kib / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            commit: commit(),
            version: env!("CARGO_PKG_VERSION"),
            built: if cfg!(debug_assertions) { "development" } else { "release" },
            begun_days: since_1970.as_secs_f64() / 86_400.0,
            load_before: load.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            stolen: 0.0,
            before: Ticks::now(),
        }
    }

    /// The measurement has ended: adds what makes its figures unsound.
    pub fn finish(&mut self, warnings: &mut Vec<String>) {
        let now = Ticks::now();
        let all = now.all.saturating_sub(self.before.all).max(1);
        self.stolen = now.stolen.saturating_sub(self.before.stolen) as f64 / all as f64;
        if self.stolen > OTHERS_MAX {
            warnings.push(format!("{:.0} % of the cores' time went to other machines (steal)", self.stolen * 100.0));
        }
        if self.load_before > 0.5 {
            warnings.push(format!("the machine was busy before (load {:.2})", self.load_before));
        }
        if self.built == "development" {
            warnings.push("a development build: its figures say nothing of a release".to_owned());
        }
    }
}
