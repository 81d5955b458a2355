//! The benchmarks' harness plays one small cell and two short encounters and measures one link and two lossy paths, so that it does not rot. What it measures is not judged here:
//! figures of seconds on a busy machine mean nothing, and where one is looked at, up to four times are played.

use anyhow::{Context, Result, ensure};
use tradewind_bench::process::Interrupt;
use tradewind_bench::{cells, dataplane, fairness, page, scale, schema, wan};
use tradewind_tests::{is_root, settled};

/// Whether everything that makes a run invalid is that a busy machine let the emulator wait.
fn is_only_late(problems: &[String]) -> bool {
    problems.iter().all(|problem| problem.contains("lateness"))
}

#[test]
fn a_cell_is_played_by_emulator_and_simulator() -> Result<()> {
    if !is_root() {
        println!("SKIP: the benchmarks make network namespaces and need root");
        return Ok(());
    }
    settled(play_cell)
}

fn play_cell() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let json = folder.path().join("cells.json");
    let arguments = cells::Arguments {
        json: Some(json.clone()),
        cells: None,
        seconds: 3.0,
        only: Some("10M/10ms/5%/q100".to_owned()),
        minutes: 1.0,
        xdp: "auto".to_owned(),
        list: false,
    };
    let report = cells::run(&arguments, &Interrupt::default())?;
    let [row] = report.cells.as_slice() else { panic!("{} cells", report.cells.len()) };
    ensure!(is_only_late(&row.problems), "{:?}", row.problems);
    assert!(row.failures.is_empty(), "{:?}", row.failures);
    let (emulated, simulated) = (row.emulated.as_ref().context("emulated")?, row.simulated.as_ref().context("simulated")?);
    for figures in [emulated, simulated] {
        ensure!((0.2..=1.0).contains(&figures.goodput_over_bound), "{figures:?}");
        ensure!(figures.queue_ms_p50 <= figures.queue_ms_p95 && figures.queue_ms_p95 <= 101.0, "{figures:?}");
        ensure!(figures.waste > -0.05 && figures.feedback_share > 0.0 && figures.feedback_share < 0.2, "{figures:?}");
    }
    // With one seed both lose the same packets; what is left between them is the machine.
    ensure!(row.emulated_over_simulated.is_some_and(|ratio| (0.5..2.0).contains(&ratio)), "{row:?}");
    let written: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json)?)?;
    assert_eq!(written["cells"][0]["file_bytes"].as_u64(), Some(row.file_bytes));
    assert!(written["cells"][0]["emulator"]["forward"]["backlog"]["count"].as_u64() > Some(0));
    Ok(())
}

#[test]
fn the_dataplane_is_measured_beside_bare_loops() -> Result<()> {
    if !is_root() {
        println!("SKIP: the benchmarks make network namespaces and need root");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let json = folder.path().join("dataplane.json");
    let arguments = dataplane::Arguments {
        mib: 64,
        turns: 1,
        loop_seconds: 0.3,
        only: vec!["xdp-wire-1500".to_owned()],
        peers: false,
        budget: true,
        json: Some(json.clone()),
    };
    let report = dataplane::run(&arguments, &Interrupt::default())?;
    schema::check(&report_of("dataplane", serde_json::to_value(&report)?))?;
    let tools: Vec<&str> = report.rows.iter().map(|row| row.tool).collect();
    assert_eq!(tools, ["tradewind", "udp-to-xdp-loop", "xdp-loop"]);
    for row in &report.rows {
        let per_packet = row.gbit_per_s * 1e9 / 8.0 / (row.kpps.unwrap_or(0.0) * 1e3);
        // A chunk at MTU 1500 has 1427 bytes; a transfer has packets of other kinds, too.
        assert!((1300.0..=1427.5).contains(&per_packet), "{row:?}");
        assert!(row.cpu_s_per_gib > 0.0 && row.gbit_per_s_command <= row.gbit_per_s * 1.001, "{row:?}");
    }
    let written: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json)?)?;
    assert_eq!(written["rows"][0]["turns"][0]["bytes"], 64 << 20);
    assert!(written["costs"][0]["open_ns"].as_f64() > Some(0.0) && written["environment"]["cores"].as_u64() > Some(0), "{written}");
    // What there cannot be a packet without.
    assert_stages(&written, &[("sender", "seal"), ("interrupt", "steer"), ("receiver", "open")]);
    Ok(())
}

#[test]
fn many_lanes_are_sent_by_one_thread_over_one_socket() -> Result<()> {
    if !is_root() {
        println!("SKIP: the benchmarks make network namespaces and need root");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let json = Some(folder.path().join("scale.json"));
    // More than the sending thread takes for a few.
    let lanes = vec![24];
    let arguments = scale::Arguments {
        lanes,
        spike: None,
        soak: None,
        turns: 1,
        seconds: 2.0,
        ramp_seconds: 1.0,
        wire_like: false,
        xdp: false,
        pool_mib: 512,
        budget: true,
        json,
    };
    scale::run(&arguments, &Interrupt::default())?;
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(folder.path().join("scale.json"))?)?;
    let row = &report["rows"][0];
    assert!(row["opened"] == 24 && row["failed"] == 0, "{row}");
    assert!(row["gbit_per_s"].as_f64() > Some(0.01) && row["gbit_per_s_whole"].as_f64() > Some(0.01), "{row}");
    assert!(row["jain"].as_f64() > Some(0.1), "{row}");
    assert_stages(&report, &[("sender", "seal"), ("receiver", "open")]);
    schema::check(&report_of("scale", report))?;
    Ok(())
}

/// The first budget has time in these stages, where `perf` is installed and could count.
fn assert_stages(report: &serde_json::Value, expected: &[(&str, &str)]) {
    let mut warnings = report["warnings"].as_array().into_iter().flatten().filter_map(|warning| warning.as_str());
    let is_excuse = |warning: &&str| ["perf is missing", "perf has lost samples"].iter().any(|excuse| warning.contains(excuse));
    if let Some(warning) = warnings.find(is_excuse) {
        println!("SKIP: {warning}");
        return;
    }
    let stages = &report["budgets"][0]["stages"];
    for &(part, stage) in expected {
        let is_it = |of: &serde_json::Value| of["part"] == part && of["stage"] == stage && of["ns"].as_f64() > Some(0.0);
        assert!(stages.as_array().into_iter().flatten().any(is_it), "{part}, {stage}: {stages}; {}", report["warnings"]);
    }
}

/// A report of one section, as `cargo xtask bench all` puts it together.
fn report_of(name: &str, section: serde_json::Value) -> serde_json::Value {
    let environment = section["environment"].clone();
    let mut report = serde_json::json!({
        "command": "test", "environment": environment, "seconds": 1, "sections": {}, "failed": {}, "warnings": [],
    });
    report["sections"][name] = section;
    report
}

#[test]
fn a_lossy_path_is_measured_and_its_report_fits_the_schema_and_has_a_page() -> Result<()> {
    if !is_root() {
        println!("SKIP: the benchmarks make network namespaces and need root");
        return Ok(());
    }
    let arguments = wan::Arguments {
        turns: 1,
        seconds: 2,
        peers: false,
        quick: false,
        only: vec!["50ms-1%".to_owned(), "10ms-1%".to_owned()],
        json: None,
    };
    let report = report_of("wan", serde_json::to_value(wan::run(&arguments, &Interrupt::default())?)?);
    schema::check(&report)?;
    let rows = report["sections"]["wan"]["rows"].as_array().context("rows")?;
    assert_eq!(rows.len(), 2, "{report}");
    for row in rows {
        let series = &row["series"];
        // Five moments a second.
        assert!(series["seconds"].as_array().is_some_and(|seconds| (5..=100).contains(&seconds.len())), "{series}");
        assert!(series["round_trip_least_ms"].as_f64() > Some(0.0), "{series}");
        let (p50, p95) = (row["queue_p50_ms"].as_f64().context("p50")?, row["queue_p95_ms"].as_f64().context("p95")?);
        assert!(p50 <= p95 && p95 <= 101.0, "{row}");
    }
    let page = page::of(&report);
    for title in ["Goodput over round-trip time, 1 % loss", "10ms-1%: rate over time", "10ms-1%: loss over time", "Queueing delay, median"]
    {
        assert!(page.contains(title), "{title} is not in the page");
    }
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"));
    Ok(())
}

#[test]
fn two_flows_meet_and_are_told_apart() -> Result<()> {
    if !is_root() {
        println!("SKIP: the benchmarks make network namespaces and need root");
        return Ok(());
    }
    for (only, rtt_least_ms) in [("fair beside TCP cubic", 20.0), ("fair beside fair, 20:200", 200.0)] {
        settled(|| play_encounter(only, rtt_least_ms))?;
    }
    Ok(())
}

fn play_encounter(only: &str, rtt_least_ms: f64) -> Result<()> {
    let arguments = fairness::Arguments {
        json: None,
        rate_mbps: 20,
        queue_ms: 100,
        rtt_ms: vec![20.0],
        stagger: 1,
        skip: 1,
        seconds: 3,
        only: Some(only.to_owned()),
        xdp: "auto".to_owned(),
    };
    let report = fairness::run(&arguments, &Interrupt::default())?;
    let [outcome] = report.cases.as_slice() else { panic!("{} cases of {only}", report.cases.len()) };
    ensure!(is_only_late(&outcome.problems), "{:?}", outcome.problems);
    ensure!(outcome.shares.iter().all(|&share| share > 0.01), "{outcome:?}");
    // What was in the queue at the window's edges does not count as rate: a little above the whole is possible.
    ensure!((0.5..=1.01).contains(&outcome.shares.iter().sum::<f64>()), "{outcome:?}");
    ensure!(outcome.goodput_bps.iter().flatten().all(|&bps| bps > 0.0) && outcome.series.len() >= 4, "{outcome:?}");
    // The newcomer's own delay is on its packets, and on its alone.
    let rtt_ms = |flow: usize| outcome.client_progress[flow].iter().filter_map(|event| event["rtt_ms"].as_f64()).next_back();
    ensure!(rtt_ms(1).is_some_and(|rtt_ms| rtt_ms >= rtt_least_ms), "{:?}", rtt_ms(1));
    ensure!(rtt_ms(0).is_none_or(|rtt_ms| (20.0..180.0).contains(&rtt_ms)), "{:?}", rtt_ms(0));
    Ok(())
}
