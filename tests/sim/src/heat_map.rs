//! A grid's figures as one HTML page, without scripts or anything to fetch.

use std::fmt::Write as _;

use crate::grid::{Row, Summary};

/// A figure of a row, its heading, and what is good and bad.
struct Figure {
    heading: &'static str,
    value: fn(&Row) -> f64,
    good: f64,
    bad: f64,
    decimals: usize,
}

const FIGURES: [Figure; 5] = [
    Figure { heading: "Goodput over bound", value: |row| row.ratio, good: 1.0, bad: 0.90, decimals: 3 },
    Figure { heading: "Queueing delay, median, ms", value: |row| row.queue_p50_ms, good: 0.0, bad: 12.0, decimals: 1 },
    Figure { heading: "Overshoot loss, %", value: |row| row.overshoot_loss * 100.0, good: 0.0, bad: 2.0, decimals: 2 },
    Figure { heading: "Waste, %", value: |row| row.waste * 100.0, good: 0.0, bad: 3.0, decimals: 2 },
    Figure { heading: "Feedback share, %", value: |row| row.feedback_share * 100.0, good: 0.0, bad: 0.5, decimals: 2 },
];

/// Green at `good`, yellow between, red at `bad` and beyond.
fn colour(value: f64, good: f64, bad: f64) -> String {
    let distance = ((value - good) / (bad - good)).clamp(0.0, 1.0);
    format!("hsl({:.0} 75% 78%)", 125.0 * (1.0 - distance))
}

fn distinct(rows: &[Row], key: fn(&Row) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = rows.iter().map(key).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

/// The page: a table for each figure and queue length, rates and round trips down, losses across.
#[must_use]
pub fn page(summary: &Summary) -> String {
    let mut out = String::from(
        "<!doctype html><meta charset=utf-8><title>Tradewind rate control: grid</title><style>body{font:14px/1.4 system-ui;margin:2em}\
         table{border-collapse:collapse;margin:0 2em 1.5em 0;display:inline-table;font-variant-numeric:tabular-nums}\
         td,th{padding:1px 6px;text-align:right;font-weight:400}th{color:#555}caption{text-align:left;font-weight:600;padding:4px 0}</style>\
         <h1>One lane alone on a bottleneck</h1>",
    );
    let _ = write!(
        out,
        "<p>{} cells; goodput over bound: median {:.3}, lowest {:.3} (10 Mbit/s and more); queueing delay {:.1} ms in the median; waste {:.2} % in the median. \
         Real sender and receiver, packet by packet, loss both ways. `cargo xtask sim --grid table1 --html FILE`.",
        summary.cells,
        summary.median_ratio,
        summary.min_ratio,
        summary.queue_p50_ms,
        summary.waste_median * 100.0
    );
    let losses = distinct(&summary.rows, |row| row.cell.loss);
    for figure in &FIGURES {
        let _ = write!(out, "<h2>{}</h2>", figure.heading);
        for queue_ms in distinct(&summary.rows, |row| row.cell.queue_ms) {
            let _ = write!(out, "<table><caption>queue {queue_ms} ms</caption><tr><th>Mbit/s<th>RTT ms");
            for loss in &losses {
                let _ = write!(out, "<th>{} %", (loss * 1000.0).round() / 10.0);
            }
            for rate_mbps in distinct(&summary.rows, |row| row.cell.rate_mbps) {
                for rtt_ms in distinct(&summary.rows, |row| row.cell.rtt_ms) {
                    let _ = write!(out, "<tr><th>{rate_mbps}<th>{rtt_ms}");
                    for &loss in &losses {
                        let wanted = (rate_mbps, rtt_ms, loss, queue_ms);
                        let row = summary
                            .rows
                            .iter()
                            .find(|row| (row.cell.rate_mbps, row.cell.rtt_ms, row.cell.loss, row.cell.queue_ms) == wanted);
                        match row {
                            Some(row) => {
                                let value = (figure.value)(row);
                                let colour = colour(value, figure.good, figure.bad);
                                let _ = write!(out, "<td style=\"background:{colour}\">{value:.*}", figure.decimals);
                            }
                            None => out.push_str("<td>"),
                        }
                    }
                }
            }
            out.push_str("</table>");
        }
    }
    out
}
