//! The kernel, this process's rights, io_uring, the clock.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::{Finding, read};
use crate::units;

/// Bit of a capability in `CapEff` (linux/capability.h).
pub(super) const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_BPF: u32 = 39;
/// What an engine needs for AF_XDP.
const ENGINE_CAPABILITIES: [(u32, &str, &str); 4] = [
    (CAP_NET_ADMIN, "cap_net_admin", "attach XDP programs"),
    (CAP_NET_RAW, "cap_net_raw", "open AF_XDP sockets"),
    (CAP_BPF, "cap_bpf", "load eBPF programs"),
    (CAP_IPC_LOCK, "cap_ipc_lock", "pin packet memory"),
];
/// Oldest kernel whose AF_XDP has what the engine uses: XDP links (5.9) and CAP_BPF (5.8).
const KERNEL_AFXDP: (u32, u32) = (5, 9);
/// `UDP_SEGMENT` came with 4.18, `UDP_GRO` with 5.0 (udp(7)).
const KERNEL_GSO: (u32, u32) = (4, 18);
const KERNEL_GRO: (u32, u32) = (5, 0);
/// Packet memory of an engine that may not pin more is too small for speed.
const MEMLOCK_BYTES_MIN: u64 = 64 << 20;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(3);

/// Examines everything that this module is about.
pub(super) async fn examine(capabilities: u64) -> Vec<Finding> {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memlock = getrlimit(Resource::Memlock).current;
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource").unwrap_or_default();
    vec![
        kernel(&release),
        segmentation(&release),
        capability(capabilities),
        locked_memory(memlock, capabilities),
        io_uring(),
        clock_source(&source),
        clock_synchronisation().await,
    ]
}

/// `CapEff` of this process.
pub(super) fn effective_capabilities() -> u64 {
    capabilities_of(&read("/proc/self/status").unwrap_or_default())
}

fn capabilities_of(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Whether a set has a capability.
pub(super) const fn has(capabilities: u64, bit: u32) -> bool {
    capabilities >> bit & 1 == 1
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn kernel(release: &str) -> Finding {
    let found = format!("Linux {release}, {}", std::env::consts::ARCH);
    if version(release) >= KERNEL_AFXDP {
        return Finding::ok("kernel", found);
    }
    let advice = format!("AF_XDP on a server needs {}.{} or later; without it kernel UDP is used", KERNEL_AFXDP.0, KERNEL_AFXDP.1);
    Finding::warn("kernel", found, advice)
}

/// By version only: whether a driver splits the packets or the kernel does makes no difference to correctness.
fn segmentation(release: &str) -> Finding {
    let check = "UDP GSO and GRO";
    match version(release) {
        version if version >= KERNEL_GRO => Finding::ok(check, "in this kernel, by its version"),
        version if version >= KERNEL_GSO => Finding::warn(check, "GSO only, by the kernel's version", "GRO needs Linux 5.0 or later"),
        _ => Finding::warn(
            check,
            "neither, by the kernel's version",
            "sending costs a system call for a few packets; use Linux 5.0 or later",
        ),
    }
}

fn capability(capabilities: u64) -> Finding {
    let check = "capabilities";
    let missing: Vec<_> = ENGINE_CAPABILITIES.iter().filter(|(bit, ..)| !has(capabilities, *bit)).collect();
    if missing.is_empty() {
        return Finding::ok(check, ENGINE_CAPABILITIES.map(|(_, name, _)| name).join(", "));
    }
    let found = missing.iter().map(|(_, name, purpose)| format!("{name} (to {purpose})")).collect::<Vec<_>>().join(", ");
    let names = missing.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(",");
    let advice = format!("sending needs none; for a server with AF_XDP: start tradewindd as root, or `setcap {names}+ep tradewind-engine`");
    Finding::warn(check, format!("missing {found}"), advice)
}

fn locked_memory(limit: Option<u64>, capabilities: u64) -> Finding {
    let check = "locked memory";
    match limit {
        None => Finding::ok(check, "no limit"),
        Some(bytes) if bytes >= MEMLOCK_BYTES_MIN => Finding::ok(check, format!("up to {}", units::bytes(bytes))),
        Some(bytes) if has(capabilities, CAP_IPC_LOCK) => {
            Finding::ok(check, format!("limit {}, which cap_ipc_lock lifts", units::bytes(bytes)))
        }
        Some(bytes) => Finding::warn(
            check,
            format!("up to {}", units::bytes(bytes)),
            "sending needs none; for a server with AF_XDP: `ulimit -l unlimited`, or LimitMEMLOCK=infinity in its unit",
        ),
    }
}

fn io_uring() -> Finding {
    let check = "io_uring";
    match io_uring::IoUring::new(2) {
        Ok(_) => Finding::ok(check, "available"),
        Err(error) => {
            let setting = read("/proc/sys/kernel/io_uring_disabled");
            let setting = setting.map(|value| format!(", kernel.io_uring_disabled is {value}")).unwrap_or_default();
            let advice = "`sysctl -w kernel.io_uring_disabled=0`, or allow it in the container's seccomp profile; without it files are read by threads";
            Finding::warn(check, format!("not available: {error}{setting}"), advice)
        }
    }
}

fn clock_source(source: &str) -> Finding {
    let check = "clock source";
    match source {
        "tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page" => Finding::ok(check, source),
        "" => Finding::warn(check, "unknown: /sys does not say", "reading the time may be slow, which makes pacing coarse"),
        slow => Finding::warn(
            check,
            format!("{slow}: reading the time is a system call or slower"),
            "boot with clocksource=tsc if the machine's TSC is stable",
        ),
    }
}

/// Rate control only uses differences of times; signatures of requests to stores use the time itself.
async fn clock_synchronisation() -> Finding {
    let check = "clock synchronised";
    let advice = "stores refuse signed requests when a server's clock is 15 min off: run chrony or systemd-timesyncd";
    if let Some(answer) = output("timedatectl", &["show", "--property=NTPSynchronized", "--value"]).await {
        match answer.trim() {
            "yes" => return Finding::ok(check, "yes, says timedatectl"),
            // "no" is also what it says when the clock is kept by something it does not know.
            "no" => return Finding::warn(check, "no, says timedatectl", advice),
            _ => {}
        }
    }
    match output("chronyc", &["-c", "tracking"]).await {
        // The last field of the comma-separated answer is the leap status (chronyc(1)).
        Some(answer) if answer.trim().ends_with("Normal") => Finding::ok(check, "yes, says chronyc"),
        Some(_) => Finding::warn(check, "no, says chronyc", advice),
        None => Finding::warn(check, "unknown: neither timedatectl nor chronyc gives an answer here", advice),
    }
}

/// What a program prints, if it is there and succeeds in time.
async fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_TIMEOUT, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn kernels_go_by_version() {
        for (release, afxdp, offload) in [
            ("6.18.44-fc", Level::Ok, Level::Ok),
            ("5.9.0", Level::Ok, Level::Ok),
            ("5.8.18", Level::Warn, Level::Ok),
            ("5.0.0", Level::Warn, Level::Ok),
            ("4.20.1", Level::Warn, Level::Warn),
            ("4.17.0", Level::Warn, Level::Warn),
            ("", Level::Warn, Level::Warn),
        ] {
            assert_eq!((kernel(release).level, segmentation(release).level), (afxdp, offload), "{release}");
        }
    }

    #[test]
    fn capabilities_are_bits_of_a_line() {
        assert_eq!(capabilities_of("Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n"), 0x1ff_ffff_ffff);
        assert_eq!(capabilities_of("nothing"), 0);
        assert_eq!(capability(u64::MAX).level, Level::Ok);
        let finding = capability(!(1 << CAP_BPF));
        assert!(finding.found.contains("cap_bpf") && !finding.found.contains("cap_net_admin"), "{finding:?}");
        assert!(finding.advice.unwrap().contains("setcap cap_bpf+ep"));
    }

    #[test]
    fn locked_memory_counts_only_without_the_capability() {
        assert_eq!(locked_memory(None, 0).level, Level::Ok);
        assert_eq!(locked_memory(Some(MEMLOCK_BYTES_MIN), 0).level, Level::Ok);
        assert_eq!(locked_memory(Some(MEMLOCK_BYTES_MIN - 1), 0).level, Level::Warn);
        assert_eq!(locked_memory(Some(MEMLOCK_BYTES_MIN - 1), 1 << CAP_IPC_LOCK).level, Level::Ok);
    }

    #[test]
    fn clocks() {
        assert_eq!(clock_source("tsc").level, Level::Ok);
        assert_eq!(clock_source("acpi_pm").level, Level::Warn);
        assert_eq!(clock_source("").level, Level::Warn);
    }

    #[tokio::test]
    async fn programs_that_are_missing_or_fail_give_nothing() {
        assert_eq!(output("tradewind-no-such-program", &[]).await, None);
        assert_eq!(output("false", &[]).await, None);
        assert_eq!(output("echo", &["yes"]).await.as_deref(), Some("yes\n"));
    }
}
