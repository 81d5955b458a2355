//! What is drawn over an axis: goodput over round-trip time and loss, the seconds of a turn, and the percentiles of latencies.

use serde_json::Value;

use super::axis::Scale;
use super::bars::{self, Bar, Kind};
use super::lines::{BOUND, Line, Plot};
use super::{rows, text};

/// In pixels: of a plot by itself, and of one of three beside each other.
const WIDE: (f64, f64) = (830.0, 320.0);
const NARROW: (f64, f64) = (318.0, 210.0);
/// What the lines over round-trip time have in common, and those over loss.
const LOSS: f64 = 0.01;
const RTT_MS: f64 = 100.0;
/// Keys of percentiles and their names.
const PERCENTILES: [(&str, &str); 5] = [("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99_9", "p99.9"), ("max", "max")];

/// Adds what belongs to a section.
pub(super) fn add(page: &mut String, name: &str, section: &Value) {
    match name {
        "wan" => {
            over(
                page,
                section,
                "rtt_ms",
                ("Goodput over round-trip time, 1 % loss", "round-trip time, ms", Scale::Exact, 1.0),
                ("loss", LOSS),
            );
            over(
                page,
                section,
                "loss",
                ("Goodput over loss, round-trip time 100 ms", "loss each way, %", Scale::Logarithmic, 100.0),
                ("rtt_ms", RTT_MS),
            );
            seconds(page, section);
        }
        "dataplane" => seconds(page, section),
        "scale" => latencies(page, section),
        _ => {}
    }
}

fn is_near(value: &Value, wanted: f64) -> bool {
    value.as_f64().is_some_and(|value| (value - wanted).abs() <= wanted * 1e-6)
}

/// A line for each tool, or a mark alone, and the bound.
fn over(
    page: &mut String,
    section: &Value,
    key: &str,
    (title, axis, scale, factor): (&str, &str, Scale, f64),
    (same, wanted): (&str, f64),
) {
    let rows: Vec<&Value> = rows(section).iter().filter(|row| is_near(&row[same], wanted)).collect();
    let line = |name: &str, style: usize, of: &dyn Fn(&Value) -> Option<f64>, is_wanted: &dyn Fn(&Value) -> bool| {
        let point = |row: &&&Value| Some((row[key].as_f64()? * factor, of(row)?));
        let mut points: Vec<(f64, f64)> = rows.iter().filter(|row| is_wanted(row)).filter_map(|row| point(&row)).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        Line { name: name.to_owned(), style, points }
    };
    let mut tools: Vec<&str> = Vec::new();
    for tool in rows.iter().filter_map(|row| row["tool"].as_str()) {
        if !tools.contains(&tool) {
            tools.push(tool);
        }
    }
    let goodput = |row: &Value| row["mbit_per_s"].as_f64();
    let mut lines: Vec<Line> =
        tools.iter().enumerate().map(|(style, tool)| line(tool, style, &goodput, &|row| row["tool"] == **tool)).collect();
    let bound = |row: &Value| Some(row["mbit_per_s"].as_f64()? / row["over_bound"].as_f64().filter(|share| *share > 0.0)?);
    lines.push(line("bound: rate × (1 − loss) × payload share of our frames", BOUND, &bound, &|row| row["tool"] == "tradewind"));
    if lines.iter().all(|line| line.points.len() < 2) {
        return;
    }
    let (width, height) = WIDE;
    Plot { title: title.to_owned(), x: axis.to_owned(), x_scale: scale, y: "goodput, Mbit/s".to_owned(), lines, width, height }.draw(page);
}

/// Of each row that has them: rates, loss and round trip over the seconds of a turn.
fn seconds(page: &mut String, section: &Value) {
    for row in rows(section).iter().filter(|row| row["series"].is_object()) {
        let (series, case) = (&row["series"], text(&row["case"]));
        let list = |key: &str| series[key].as_array().map_or(&[][..], Vec::as_slice);
        let line = |name: &str, style: usize, key: &str, of: &dyn Fn(f64) -> f64| Line {
            name: name.to_owned(),
            style,
            points: list("seconds").iter().zip(list(key)).filter_map(|(x, y)| Some((x.as_f64()?, of(y.as_f64()?)))).collect(),
        };
        let least = series["round_trip_least_ms"].as_f64().unwrap_or(0.0);
        let (same, percent) = (|value| value, |share| share * 100.0);
        let rates = vec![
            line("payload that arrived", 0, "arrived_mbit_per_s", &same),
            line("sending rate, IP packets", 1, "sending_mbit_per_s", &same),
        ];
        let losses =
            vec![line("lost, of those sent meanwhile", 0, "lost", &percent), line("sent again, of all so far", 1, "again", &percent)];
        let over_least = vec![line(&format!("round trip above the least, {least:.1} ms"), 0, "round_trip_ms", &|ms| (ms - least).max(0.0))];
        page.push_str("<div class=\"beside\">");
        for (what, y, lines) in [
            ("rate over time", "rate, Mbit/s", rates),
            ("loss over time", "packets, %", losses),
            ("queueing delay over time", "above the least, ms", over_least),
        ] {
            let (title, x) = (format!("{case}: {what}"), format!("seconds of turn {}", text(&series["turn"])));
            let (width, height) = NARROW;
            Plot { title, x, x_scale: Scale::Exact, y: y.to_owned(), lines, width, height }.draw(page);
        }
        page.push_str("</div>");
    }
}

/// Percentiles from histograms of lanes and sessions.
fn latencies(page: &mut String, section: &Value) {
    let lanes = |key: &'static str| rows(section).iter().map(move |row| (text(&row["case"]), &row[key]));
    let spike =
        |key: &'static str| Some(&section["spike"]).filter(|spike| spike.is_object()).map(|spike| (text(&spike["case"]), &spike[key]));
    percentiles(page, "Latency to the first block: set-up to 1 MiB at the receiver", lanes("first_block_ms"));
    percentiles(page, "Latency of set-up: to the server's offer", lanes("set_up_ms"));
    percentiles(page, "Sessions at once: start of the process to the server's agreement", spike("set_up_ms").into_iter());
    percentiles(page, "Sessions at once: start of the process to its end", spike("whole_ms").into_iter());
}

fn percentiles<'a>(page: &mut String, title: &str, of: impl Iterator<Item = (String, &'a Value)>) {
    let of: Vec<(String, &Value)> = of
        .filter(|(_, quantiles)| quantiles.is_object())
        .map(|(case, quantiles)| match quantiles["samples"].as_u64() {
            Some(samples) => (format!("{case} ({samples} measured)"), quantiles),
            None => (case, quantiles),
        })
        .collect();
    let bars: Vec<Bar<'_>> = of
        .iter()
        .flat_map(|(case, quantiles)| {
            let bar =
                move |(key, name): (&str, &'static str)| Some(Bar { group: case, name, kind: Kind::Ours, value: quantiles[key].as_f64()? });
            PERCENTILES.into_iter().filter_map(bar)
        })
        .collect();
    bars::draw(page, title, "milliseconds", 1, &bars);
}
