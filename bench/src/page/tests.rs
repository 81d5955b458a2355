//! The page of the committed report, and of that report with everything that later ones have too. Figures that are added are invented and round.

use serde_json::json;

use super::*;
use crate::schema;

fn committed() -> Value {
    serde_json::from_str(include_str!("../../../docs/results/bench-quick.json")).unwrap()
}

fn series() -> Value {
    json!({ "turn": 2, "seconds": [0.5, 1.0, 1.5], "sending_mbit_per_s": [100.0, 450.0, 480.0], "arrived_mbit_per_s": [50.0, 400.0, 440.0],
            "lost": [0.0, 0.01, 0.02], "again": [0.0, 0.01, 0.015], "round_trip_ms": [100.5, 130.0, 110.0], "round_trip_least_ms": 100.2 })
}

fn scale() -> Value {
    let latency =
        |p50: f64| json!({ "p50": p50, "p90": 2.0 * p50, "p99": 3.0 * p50, "p99_9": 4.0 * p50, "max": 4.5 * p50, "samples": 200 });
    let held = json!({ "rss_bytes": 1, "pss_bytes": 1, "descriptors": 1, "threads": 1 });
    let turn = json!({
        "opened": 200, "failed": [], "set_up_seconds": 1.0, "set_up_ms": latency(20.0), "first_block_ms": latency(40.0),
        "engine_before": held, "engine_idle": held, "engine_running": held, "control_idle": held, "client_idle": held,
        "cpu_idle": 0.1, "goodput_bps": 1e9, "goodput_whole_bps": 1e9, "jain": 0.99, "slowest": 0.9, "fastest": 1.1,
        "cpu_s_per_gib": 2.0, "cpu_s_per_gib_server": 1.0, "again": 0.0,
    });
    let row = json!({
        "case": "lanes-200", "tool": "tradewind", "lanes": 200, "opened": 200, "failed": 0, "gbit_per_s": 1.0, "gbit_per_s_whole": 1.0,
        "over_one_lane": null, "jain": 0.99, "first_block_p50_ms": 40.0, "first_block_p99_ms": 120.0, "set_up_ms": latency(20.0),
        "first_block_ms": latency(40.0), "idle_bytes_per_lane": 1e5, "running_bytes_per_lane": 1e6, "cpu_idle": 0.1, "cpu_s_per_gib": 2.0,
        "spread": 0.0, "turns": [turn],
    });
    let spike = json!({
        "case": "spike-50", "tool": "tradewind", "sessions": 50, "failed": [], "set_up_ms": latency(300.0), "whole_ms": latency(500.0),
        "seconds": 1.0, "goodput_bps": [1e9, 9e8, 1e9], "large_during_over_before": 0.9, "large_after_over_before": 1.0, "large_failed": [],
    });
    let environment = committed()["environment"].clone();
    json!({
        "command": "c", "environment": environment, "wire_like": false, "path": "kernel", "pool_mib": 64, "rows": [row], "spike": spike,
        "soak": null, "bars": [], "problems": [], "warnings": [],
    })
}

/// The committed report with series, queues, cases for the lines, and section `scale`.
fn whole() -> Value {
    let mut report = committed();
    for section in ["dataplane", "wan"] {
        let rows = report["sections"][section]["rows"].as_array_mut().unwrap();
        for row in rows.iter_mut().filter(|row| row["tool"] == "tradewind") {
            row["series"] = series();
            (row["round_trip_over_least_p50_ms"], row["round_trip_over_least_p95_ms"]) = (json!(3.5), json!(27.5));
        }
    }
    let rows = report["sections"]["wan"]["rows"].as_array_mut().unwrap();
    for row in rows.iter_mut() {
        (row["queue_p50_ms"], row["queue_p95_ms"]) = (json!(12.25), json!(87.8));
    }
    for (case, rtt_ms, loss) in [("10ms-1%", 10, 0.01), ("300ms-1%", 300, 0.01), ("100ms-0.1%", 100, 0.001)] {
        let mut row = rows[0].clone();
        (row["case"], row["rtt_ms"], row["loss"]) = (json!(case), json!(rtt_ms), json!(loss));
        rows.push(row);
    }
    let stage = |part: &str, stage: &str, ns: f64| json!({ "part": part, "stage": stage, "ns": ns });
    let budget = |case: &str, stages: Vec<Value>| {
        json!({ "case": case, "gbit_per_s": 5.0, "packets": 1000, "samples": 1500, "sender_thread_ns": 1600.0, "receiver_thread_ns": 400.0,
                "stages": stages })
    };
    report["sections"]["dataplane"]["budgets"] = json!([
        budget("kernel-plain-1500", vec![stage("sender", "seal", 286.0), stage("receiver", "open", 254.0)]),
        budget("xdp-wire-1500", vec![stage("sender", "seal", 287.0), stage("interrupt", "steer", 83.0)]),
    ]);
    report["sections"]["scale"] = scale();
    report
}

#[test]
fn budgets_have_a_row_for_each_stage_of_any_case_and_name_the_busier_thread() {
    let page = of(&whole());
    let cells = |part: &str, stage: &str, ns: [&str; 2]| {
        format!("<tr><td>{part}</td><td class=\"text\">{stage}</td><td>{}</td><td>{}</td></tr>", ns[0], ns[1])
    };
    let rows = [cells("sender", "seal", ["286", "287"]), cells("interrupt", "steer", ["", "83"]), cells("receiver", "open", ["254", ""])];
    assert!(page.contains(&rows.concat()), "parts in their order: {page}");
    assert!(page.contains(&cells("most", "kpps that the busier of the two can do", ["625", "625"])));
}

#[test]
fn the_page_of_a_whole_report_has_every_chart_with_its_axes_and_legend() {
    let report = whole();
    schema::check(&report).unwrap();
    let page = of(&report);
    for title in [
        "Goodput over round-trip time, 1 % loss",
        "Goodput over loss, round-trip time 100 ms",
        "CPU seconds per GiB",
        "100ms-1%: rate over time",
        "100ms-1%: loss over time",
        "100ms-1%: queueing delay over time",
        "kernel-plain-1500: rate over time",
        "Queueing delay, median",
        "Queueing delay, 95th percentile",
        "Latency to the first block: set-up to 1 MiB at the receiver",
        "Latency of set-up: to the server's offer",
        "Sessions at once: start of the process to its end",
        "Goodput of all lanes together",
        "Files a second",
        "Into the bucket",
        "To the disk and back",
    ] {
        assert!(page.contains(&format!("<h3>{title}</h3>")), "no chart {title}");
    }
    for name in [
        "round-trip time, ms",
        "loss each way, %",
        "goodput, Mbit/s",
        "seconds of turn 2",
        "rate, Mbit/s",
        "packets, %",
        "above the least, ms",
        "milliseconds",
        "payload that arrived",
        "lost, of those sent meanwhile",
        "round trip above the least, 100.2 ms",
        "bound: rate × (1 − loss) × payload share of our frames",
        "p99.9",
        "lanes-200 (200 measured)",
        ">87.8<",
    ] {
        assert!(page.contains(name), "{name} is not in the page");
    }
    // Each chart has a title, and names on its axes.
    for chart in page.split("<figure>").skip(1) {
        assert!(chart.starts_with("<h3>") && chart.contains("text-anchor=\"middle\"") && chart.contains("</figure>"), "{chart}");
    }
}

#[test]
fn no_page_needs_a_network_or_a_script() {
    for report in [committed(), whole()] {
        let page = of(&report);
        for outside in ["http://", "https://", "<script", " src=", "@import", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}

#[test]
fn an_older_report_has_a_page_without_the_charts_that_it_lacks() {
    let page = of(&committed());
    assert!(page.contains("<h3>Goodput</h3>") && !page.contains("over time"), "no series were kept then");
    assert!(!page.contains("Queueing delay, median") && !page.contains("NaN"), "no queue was kept then");
}

#[test]
fn a_page_holds_every_figure_and_escapes_what_it_is_given() {
    let row = |tool: &str, rate: f64| json!({ "case": "kernel-plain-1500", "tool": tool, "mtu_bytes": 1500, "gbit_per_s": rate, "cpu_s_per_gib_receiver": 0.5 });
    let report = json!({
        "command": "bench <all>",
        "environment": { "cpu": "a & b", "stolen": 0.012 },
        "failed": { "staging": "no <fio>" },
        "warnings": ["busy"],
        "sections": {
            "dataplane": {
                "rows": [row("tradewind", 10.25), row("udp-loop", 41.0)],
                "costs": [{ "mtu_bytes": 1500, "chunk_bytes": 1427, "open_ns": 170.0, "crc_ns": 30.0 }],
            },
            "small_files": { "cases": [{ "case": "clean", "files_per_s": 20_000.0, "peers": [{ "tool": "rsync", "files_per_s": 15_000.0, "skipped": null }] }] },
        },
    });
    let page = of(&report);
    for expected in
        ["10.25", "41.00", "20000", "15000", "rsync", "bench &lt;all&gt;", "a &amp; b", "no &lt;fio&gt;", "Unsound: busy", "1.2 %"]
    {
        assert!(page.contains(expected), "{expected} is not in {page}");
    }
}
