//! The shipped scenario files, and scenario texts that must be refused with a message that names the field.

use std::path::Path;

use tradewind_netem::Scenario;

fn shipped() -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable").path()).collect()
}

#[test]
fn every_shipped_scenario_loads_and_is_named_after_its_file() {
    let files = shipped();
    assert!(files.len() >= 14, "{files:?}");
    for file in files {
        let scenario = Scenario::load(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_eq!(Some(scenario.name()), file.file_stem().and_then(|s| s.to_str()), "{}", file.display());
        assert_eq!(Scenario::from_toml(&scenario.to_toml()).expect("its own TOML reads back"), scenario);
    }
}

#[test]
fn the_demo_is_the_path_of_the_issue() {
    let scenario = Scenario::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/demo.toml")).expect("loads");
    assert_eq!(scenario.rtt_ms(), 100.0);
    assert_eq!((scenario.forward().mean_loss(), scenario.reverse().mean_loss()), (0.05, 0.05));
    // 300 Mbit/s × 0.95 × 0.96.
    let bound = scenario.bound_goodput_bps(0.96).expect("it has a rate");
    assert!((bound - 273.6e6).abs() < 1.0, "{bound}");
}

#[test]
fn bad_scenarios_are_refused_and_the_field_is_named() {
    let head = "name = \"x\"\n[forward]\n";
    let cases = [
        ("loss = 5", "forward.loss"),
        ("loss = 0.1\ngilbert_elliott = { good_to_bad = 0.1, bad_to_good = 0.1 }", "forward.loss"),
        ("gilbert_elliott = { good_to_bad = 0.1, bad_to_good = 0.0 }", "bad_to_good"),
        ("delay = 5", "delay"),
        ("delay_ms = -1", "forward.delay_ms"),
        ("delay_ms = nan", "forward.delay_ms"),
        ("delay_ms = 1\njitter_ms = 2", "forward.jitter_ms"),
        ("rate_bps = 1000000", "forward.queue_bytes"),
        ("rate_bps = 1000000\nqueue_bytes = 1513", "1513"),
        ("rate_bps = 1000000\nqueue_bytes = 9000\nqueue_ms = 5", "forward.queue_bytes"),
        ("rate_bps = 999\nqueue_bytes = 9000", "forward.rate_bps"),
        ("queue_bytes = 9000", "needs a rate"),
        ("rate_bps = 1000000\nqueue_packets = 0", "queue_packets"),
        ("reorder = 0.1", "forward.reorder"),
        ("reorder_extra_ms = 1", "reorder_extra_ms"),
        ("rate_trace = [{ t_ms = 5, mbps = 1 }]\nqueue_packets = 5", "forward.rate_trace"),
        ("rate_trace_file = \"/nowhere.csv\"\nqueue_packets = 5", "/nowhere.csv"),
        ("outages = [{ start_ms = 1, duration_ms = 0 }]", "forward.outages"),
        ("outages = [{ start_ms = 1, duration_ms = 5, every_ms = 5 }]", "every_ms"),
    ];
    for (text, words) in cases {
        let error = Scenario::from_toml(&format!("{head}{text}\n")).expect_err(text).to_string();
        assert!(error.contains(words), "`{text}` gave: {error}");
    }
    assert!(Scenario::from_toml(&format!("{head}rate_bps = 1000000\nqueue_bytes = 1514\n")).is_ok(), "the least queue must pass");
}

#[test]
fn a_trace_file_is_found_beside_the_scenario_and_can_be_written_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("drive.csv"), "t_ms,mbps\n0,10\n500,2.5\n").expect("writes");
    let file = folder.path().join("drive.toml");
    let text = "name = \"drive\"\n[forward]\nrate_trace_file = \"drive.csv\"\nrate_trace_period_ms = 1000\nqueue_packets = 50\n";
    std::fs::write(&file, text).expect("writes");
    let scenario = Scenario::load(&file).expect("loads");
    assert_eq!(scenario.forward().rate().long_run_bps(), Some(6.25e6));
    let alone = Scenario::from_toml(&scenario.self_contained().to_toml()).expect("needs no file any more");
    assert_eq!(alone.forward(), scenario.forward());
}
