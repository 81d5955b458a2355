//! The table on standard output.

use std::time::Duration;

use serde_json::Value;

use super::{AGREEMENT, Figures, Report, Row};

pub(super) fn head(xdp_mode: &Value) {
    println!(
        "Each cell twice: emulated (real processes, receiving by AF_XDP {}) and simulated. Loss in both directions. Goodput from the first\n\
         packet to durable; queue as packets find it; drops of the full queue; waste: sent beyond what the loss makes necessary; feedback:\n\
         bytes back over bytes there. RTT 0 is what the emulator gives (shown); the simulator gets the same.",
        xdp_mode.as_str().unwrap_or("unknown")
    );
    println!();
    let figures = "Mbit/s  ratio  q50 ms  q95 ms  drops waste %  fb %";
    println!("{:<22} {:>8} | emulated{:>43} | simulated{:>42} | emu/sim", "", "bound", "", "");
    println!("{:<22} {:>8} | {figures} | {figures} |", "rate/RTT/loss/queue", "Mbit/s");
}

pub(super) fn row(row: &Row) {
    let figures = |figures: &Option<Figures>| match figures {
        None => format!("{:>51}", "none"),
        Some(f) => format!(
            "{:>6.*} {:>6.3} {:>7.1} {:>7.1} {:>6} {:>7.2} {:>5.2} ",
            digits(f.goodput_bps),
            f.goodput_bps / 1e6,
            f.goodput_over_bound,
            f.queue_ms_p50,
            f.queue_ms_p95,
            f.queue_drops,
            f.waste * 100.0,
            f.feedback_share * 100.0
        ),
    };
    let ratio = row.emulated_over_simulated.map_or("     -".to_owned(), |ratio| format!("{ratio:>6.3}"));
    let mut notes = Vec::new();
    if !row.valid {
        notes.push(format!("INVALID after {} runs", row.attempts));
    } else if row.attempts > 1 {
        notes.push(format!("run {}", row.attempts));
    }
    if row.disagrees {
        let spread = row.simulated_spread_bps.map_or(String::new(), |[least, most]| {
            format!(" (simulated with other seeds: {:.*} to {:.*})", digits(least), least / 1e6, digits(most), most / 1e6)
        });
        notes.push(format!("FINDING{spread}"));
    }
    if row.cell.rtt_ms == 0.0 {
        notes.push(format!("RTT {:.2} ms", row.simulated_rtt_ms));
    }
    println!(
        "{:<22} {:>8.*} | {} | {} | {ratio} {}",
        row.name,
        digits(row.bound_bps),
        row.bound_bps / 1e6,
        figures(&row.emulated),
        figures(&row.simulated),
        notes.join(", ")
    );
    for problem in row.problems.iter().chain(&row.failures) {
        println!("    {}", problem.replace('\n', "\n    "));
    }
}

/// Digits behind the point of a rate in Mbit/s.
fn digits(bps: f64) -> usize {
    if bps < 10e6 { 3 } else { 1 }
}

pub(super) fn foot(report: &Report, took: Duration) {
    let count = |predicate: fn(&Row) -> bool| report.cells.iter().filter(|row| predicate(row)).count();
    println!();
    println!(
        "cells measured: {} in {:.1} min; {} valid, {} of them with emulator and simulator more than {:.0} % apart or failed (FINDING), {} invalid, {} not run",
        report.cells.len(),
        took.as_secs_f64() / 60.0,
        count(|row| row.valid),
        count(|row| row.disagrees),
        AGREEMENT * 100.0,
        count(|row| !row.valid),
        report.not_run.len()
    );
    if !report.not_run.is_empty() {
        println!("not run, for the time was up (--minutes gives more): {}", report.not_run.join(", "));
    }
}
