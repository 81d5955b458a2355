//! Interfaces and socket buffers, as /sys and /proc tell of them.

use super::host::{CAP_NET_ADMIN, has};
use super::{Finding, read};
use crate::units;

/// What the UDP back end asks for: a receiver at 10 Gbit/s that is not scheduled for 15 ms (ADR 0035).
const RECEIVE_BUFFER_BYTES: u64 = 32 << 20;
const SEND_BUFFER_BYTES: u64 = 4 << 20;
const MTU_USUAL: u64 = 1500;
/// Flag of `/sys/class/net/IF/flags` (netdevice(7)).
const IFF_UP: u64 = 1;

/// Examines everything that this module is about.
pub(super) fn examine(only: Option<&str>, capabilities: u64) -> Vec<Finding> {
    let mut findings: Vec<Finding> = [("rmem_max", RECEIVE_BUFFER_BYTES), ("wmem_max", SEND_BUFFER_BYTES)]
        .into_iter()
        .map(|(sysctl, wanted)| {
            let bytes = read(&format!("/proc/sys/net/core/{sysctl}")).and_then(|text| text.parse().ok());
            buffer(sysctl, bytes, wanted, capabilities)
        })
        .collect();
    let mut names: Vec<String> = match only {
        Some(name) => vec![name.to_owned()],
        None => std::fs::read_dir("/sys/class/net")
            .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default(),
    };
    names.sort();
    findings.extend(names.iter().map(|name| interface(name)));
    findings
}

fn buffer(sysctl: &str, bytes: Option<u64>, wanted: u64, capabilities: u64) -> Finding {
    let check = format!("net.core.{sysctl}");
    let advice = format!("`sysctl -w net.core.{sysctl}={wanted}`, and the same line without the command in /etc/sysctl.d to keep it");
    match bytes {
        None => Finding::warn(check, "cannot be read here", advice),
        Some(bytes) if bytes >= wanted => Finding::ok(check, units::bytes(bytes)),
        Some(bytes) if has(capabilities, CAP_NET_ADMIN) => {
            Finding::note(check, format!("{}, but cap_net_admin may exceed it", units::bytes(bytes)), format!("for other users: {advice}"))
        }
        Some(bytes) => Finding::warn(check, format!("{}, {} are wanted", units::bytes(bytes), units::bytes(wanted)), advice),
    }
}

fn interface(name: &str) -> Finding {
    let is_name = !name.contains('/') && !name.starts_with('.');
    let file = |file: &str| read(&format!("/sys/class/net/{name}/{file}")).filter(|_| is_name);
    let mtu = file("mtu").and_then(|text| text.parse().ok());
    let flags = file("flags").and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    mtu_finding(name, mtu, flags.is_some_and(|flags| flags & IFF_UP != 0))
}

fn mtu_finding(name: &str, mtu: Option<u64>, is_up: bool) -> Finding {
    let check = format!("MTU of {name}");
    match mtu {
        None => Finding::fail(check, "there is no such interface", "`ip link` lists the interfaces", tradewind_api::exit::USAGE),
        Some(mtu) if !is_up => {
            Finding::note(check, format!("{mtu}; the interface is down"), format!("`ip link set {name} up` if it is to be used"))
        }
        Some(mtu) if mtu < MTU_USUAL => Finding::warn(
            check,
            format!("{mtu}, less than {MTU_USUAL}"),
            format!(
                "packets sized for {MTU_USUAL} do not fit: `ip link set {name} mtu {MTU_USUAL}` if the network takes it, or the same MTU on both ends"
            ),
        ),
        Some(mtu) => Finding::ok(check, mtu.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn small_buffers_name_the_sysctl() {
        assert_eq!(buffer("rmem_max", Some(RECEIVE_BUFFER_BYTES), RECEIVE_BUFFER_BYTES, 0).level, Level::Ok);
        let small = buffer("rmem_max", Some(RECEIVE_BUFFER_BYTES - 1), RECEIVE_BUFFER_BYTES, 0);
        assert_eq!(small.level, Level::Warn);
        assert!(small.advice.unwrap().starts_with("`sysctl -w net.core.rmem_max=33554432`"));
        assert_eq!(buffer("wmem_max", Some(1), SEND_BUFFER_BYTES, 1 << CAP_NET_ADMIN).level, Level::Note);
        assert_eq!(buffer("wmem_max", None, SEND_BUFFER_BYTES, 0).level, Level::Warn);
    }

    #[test]
    fn interfaces_by_mtu_and_state() {
        for (mtu, is_up, level) in [
            (Some(1500), true, Level::Ok),
            (Some(9000), true, Level::Ok),
            (Some(1499), true, Level::Warn),
            (Some(1499), false, Level::Note),
            (None, false, Level::Fail),
        ] {
            assert_eq!(mtu_finding("eth0", mtu, is_up).level, level, "{mtu:?} {is_up}");
        }
        assert_ne!(interface("lo").level, Level::Fail, "every Linux has a loopback interface");
        for name in ["nosuch0", "../net/lo", ".."] {
            assert_eq!(interface(name).level, Level::Fail, "{name}");
        }
    }
}
