//! What a process holds: memory, descriptors, threads.

use std::fs;

use serde::Serialize;

/// A process at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Held {
    /// Resident set, bytes (`VmRSS` of proc_pid_status(5)).
    pub rss_bytes: u64,
    /// The same with shared pages divided by those who share them (`Pss` of `/proc/PID/smaps_rollup`).
    pub pss_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

impl Held {
    /// By a running process; zeros for one that has gone.
    pub(super) fn by(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        Self {
            rss_bytes: field(&status, "VmRSS:") * 1024,
            pss_bytes: field(&rollup, "Pss:") * 1024,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64),
            threads: field(&status, "Threads:"),
        }
    }
}

fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_something_and_one_more_file_when_it_opens_one() {
        let before = Held::by(std::process::id());
        assert!(before.rss_bytes > 0 && before.threads > 0 && before.pss_bytes > 0, "{before:?}");
        let _file = fs::File::open("/proc/self/status").unwrap();
        assert!(Held::by(std::process::id()).descriptors > 0);
        assert_eq!(Held::by(0), Held::default());
    }
}
