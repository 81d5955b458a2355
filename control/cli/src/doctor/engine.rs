//! AF_XDP on each interface. The engine knows its own needs, so it is asked: `tradewind-engine --probe`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::Finding;

const PROGRAM: &str = "tradewind-engine";
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Examines one interface, or all.
pub(super) async fn examine(interface: Option<&str>) -> Vec<Finding> {
    let Some(program) = find() else {
        return vec![Finding::note(
            "AF_XDP",
            format!("not examined: {PROGRAM} is neither beside this program nor on PATH"),
            "only servers need it; run `tradewind doctor` where the server is installed",
        )];
    };
    match probe(&program, interface).await {
        Ok(report) => findings(&report),
        Err(reason) => vec![Finding::warn(
            "AF_XDP",
            format!("not examined: {} --probe: {reason}", program.display()),
            "run that command by hand for its whole message",
        )],
    }
}

fn find() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name(PROGRAM));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    beside.into_iter().chain(std::env::split_paths(&on_path).map(|folder| folder.join(PROGRAM))).find(|program| program.is_file())
}

async fn probe(program: &std::path::Path, interface: Option<&str>) -> Result<Value, String> {
    let mut command = tokio::process::Command::new(program);
    command.arg("--probe").args(interface.iter().flat_map(|name| ["--interface", name]));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PROBE_TIMEOUT, command.output()).await;
    let output = output.map_err(|_| format!("no answer within {} s", PROBE_TIMEOUT.as_secs()))?.map_err(|error| error.to_string())?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(text.lines().last().map_or_else(|| output.status.to_string(), str::to_owned));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("its answer is not JSON: {error}"))
}

fn findings(report: &Value) -> Vec<Finding> {
    let interfaces = report["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    if interfaces.is_empty() {
        return vec![Finding::warn("AF_XDP", "the engine reports no interface", "run `tradewind-engine --probe` by hand")];
    }
    interfaces.iter().map(finding).collect()
}

/// One interface. A key that is missing (another release's engine) is left out of the text.
fn finding(interface: &Value) -> Finding {
    let check = format!("AF_XDP on {}", interface["name"].as_str().unwrap_or("?"));
    if let Some(error) = interface["error"].as_str() {
        return Finding::warn(check, format!("unknown: {error}"), "a server would use kernel UDP on it");
    }
    let list = |key: &str| -> Vec<&str> { interface[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect() };
    let mut about = vec![match interface["driver"].as_str() {
        None | Some("") => "no driver".to_owned(),
        Some(driver) => driver.to_owned(),
    }];
    if let Some(queues) = interface["receive_queues"].as_u64() {
        about.push(crate::units::count(queues, "receive queue", "receive queues"));
    }
    about.push(if interface["zero_copy"].as_bool() == Some(true) { "zero-copy" } else { "no zero-copy" }.to_owned());
    about.extend(list("notes").into_iter().map(str::to_owned));
    let about = about.join(", ");
    let is_up = interface["up"].as_bool() != Some(false);
    if interface["afxdp_possible"].as_bool() != Some(true) {
        let blockers = list("blockers");
        let advice = if blockers.is_empty() { "see `tradewind-engine --probe`".to_owned() } else { blockers.join("; ") };
        let finding = Finding::warn(check, format!("not possible ({about}); a server would use kernel UDP"), advice);
        // An interface that nobody switched on is nobody's trouble.
        return if is_up { finding } else { Finding { level: super::Level::Note, ..finding } };
    }
    let offloads = list("offload_advice");
    if offloads.is_empty() {
        Finding::ok(check, format!("possible ({about})"))
    } else {
        let advice = format!("before a server uses it: {}", offloads.join("; "));
        Finding::warn(check, format!("possible ({about}), with offloads that disturb it"), advice)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Level;
    use super::*;

    #[test]
    fn the_engines_report_becomes_findings() {
        let report = json!({ "kernel": "6.18", "interfaces": [
            { "name": "eth0", "driver": "veth", "up": true, "mtu_bytes": 1500, "receive_queues": 2, "zero_copy": false,
              "afxdp_possible": true, "blockers": [], "offload_advice": [], "notes": ["a note"], "text": "t" },
            { "name": "eth1", "driver": "virtio_net", "up": true, "receive_queues": 1, "zero_copy": true,
              "afxdp_possible": true, "blockers": [], "offload_advice": ["`ethtool -K eth1 lro off`"], "notes": [] },
            { "name": "eth2", "driver": "x", "up": true, "afxdp_possible": false, "blockers": ["the MTU is too large"] },
            { "name": "ifb0", "driver": "ifb", "up": false, "afxdp_possible": false, "blockers": ["the interface is down"] },
            { "name": "eth3", "error": "no permission" },
        ]});
        let findings = findings(&report);
        let levels: Vec<Level> = findings.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Warn, Level::Warn, Level::Note, Level::Warn]);
        assert_eq!(findings[0].found, "possible (veth, 2 receive queues, no zero-copy, a note)");
        assert!(findings[1].advice.as_ref().unwrap().contains("ethtool -K eth1 lro off"));
        assert_eq!(findings[2].advice.as_deref(), Some("the MTU is too large"));
        assert!(findings[4].found.contains("no permission"));
    }

    #[test]
    fn a_report_of_another_shape_is_a_warning() {
        for report in [Value::Null, json!([]), json!({ "interfaces": [] }), json!({ "interfaces": [{}] })] {
            let findings = findings(&report);
            assert!(findings.iter().all(|finding| finding.level == Level::Warn) && findings.len() == 1, "{report}");
        }
    }

    #[tokio::test]
    async fn a_program_that_is_no_engine_says_so() {
        assert!(probe("/bin/false".as_ref(), None).await.is_err());
        assert!(probe("/bin/echo".as_ref(), None).await.unwrap_err().contains("not JSON"));
    }
}
