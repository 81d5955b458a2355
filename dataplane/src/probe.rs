//! `tradewind-engine --probe`: what AF_XDP can do here, as JSON for `tradewind doctor`.

use serde_json::{Value, json};

/// The report on one interface, or on all that the machine has.
#[must_use]
pub fn report(interface: Option<&str>) -> Value {
    let names: Vec<String> = match interface {
        Some(name) => vec![name.to_owned()],
        None => std::fs::read_dir("/sys/class/net")
            .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default(),
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let interfaces: Vec<Value> = names.iter().map(|name| interface_report(name)).collect();
    json!({ "kernel": kernel.trim(), "interfaces": interfaces })
}

fn interface_report(name: &str) -> Value {
    let report = match tradewind_xdp::probe::interface(name) {
        Ok(report) => report,
        Err(error) => return json!({ "name": name, "error": error.to_string() }),
    };
    let advice: Vec<&str> = report.offloads.iter().map(|offload| offload.advice.as_str()).collect();
    json!({
        "name": report.name,
        "driver": report.driver,
        "up": report.up,
        "mtu_bytes": report.mtu_bytes,
        "receive_queues": report.receive_queues,
        "zero_copy": report.features.zero_copy,
        "afxdp_possible": report.blockers.is_empty(),
        "blockers": report.blockers,
        "offload_advice": advice,
        "notes": report.notes,
        "text": report.to_string(),
    })
}
