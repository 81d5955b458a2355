//! One HTML page of all benchmarks: tables, bars and lines, without scripts and without anything from a network.
//!
//! Every chart has a title, named axes with units and a legend, and tells its parts apart by fill, dash or mark, so that it can be printed in black.

mod axis;
mod bars;
mod budgets;
mod figures;
mod lines;
mod plots;

use std::fmt::Write as _;

use serde_json::Value;

use bars::{Bar, Kind};
use figures::Figures;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.5rem;border-bottom:1px solid #ccc}h3{font-size:1rem;margin-bottom:.3rem}\
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .7rem .15rem 0;text-align:right;font-variant-numeric:tabular-nums}\
td:first-child,th:first-child,td.text,th.text{text-align:left}th{border-bottom:1px solid #999;font-weight:600}\
figure{margin:0;break-inside:avoid}.beside{display:flex;flex-wrap:wrap}.beside h3{font-size:.85rem}\
svg{display:block;margin:.3rem 0 1rem;max-width:100%}svg text{font:12px system-ui,sans-serif;fill:#1a1a1a}.note{color:#555}.unsound{color:#8a1c00}";

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn rows(section: &Value) -> &[Value] {
    section["rows"].as_array().map_or(&[], Vec::as_slice)
}

/// The page of a report of [`crate::all`].
#[must_use]
pub fn of(report: &Value) -> String {
    let mut page = String::new();
    let environment = &report["environment"];
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Tradewind, measured</title><style>{STYLE}</style><h1>Tradewind, measured</h1>\
         <p><code>{}</code>, {} s, build {} of {} ({}).<br>{}, {} cores, {} MiB, Linux {}. Stolen by the hypervisor: {:.1} %.</p>",
        escaped(&text(&report["command"])),
        text(&report["seconds"]),
        escaped(&text(&environment["version"])),
        escaped(&text(&environment["commit"])),
        escaped(&text(&environment["built"])),
        escaped(&text(&environment["cpu"])),
        text(&environment["cores"]),
        text(&environment["memory_mib"]),
        escaped(&text(&environment["kernel"])),
        environment["stolen"].as_f64().unwrap_or(0.0) * 100.0
    );
    page.push_str(bars::PATTERN);
    warnings(&mut page, report);
    for (name, error) in report["failed"].as_object().into_iter().flatten() {
        let _ = write!(page, "<p class=\"unsound\">{} failed: {}</p>", escaped(name), escaped(&text(error)));
    }
    for name in crate::all::SECTIONS {
        let section = &report["sections"][name];
        if section.is_object() {
            add(&mut page, &figures::of(name, section));
            plots::add(&mut page, name, section);
            costs(&mut page, section);
            budgets::add(&mut page, section);
            warnings(&mut page, section);
        }
    }
    page.push_str("</html>\n");
    page
}

fn warnings(page: &mut String, of: &Value) {
    for warning in of["warnings"].as_array().into_iter().flatten() {
        let _ = write!(page, "<p class=\"unsound\">Unsound: {}</p>", escaped(&text(warning)));
    }
}

/// What a receiver cannot do without, beside what ours takes for a packet.
fn costs(page: &mut String, section: &Value) {
    let Some(costs) = section["costs"].as_array() else { return };
    page.push_str("<h3>Nanoseconds of the receiver for each packet</h3><table><tr><th>case</th><th>all</th><th>bare loop</th><th>open</th><th>CRC-64</th><th>the rest</th></tr>");
    for ours in rows(section).iter().filter(|row| row["tool"] == "tradewind") {
        let of_case = |row: &&Value| row["case"] == ours["case"] && row["tool"].as_str().is_some_and(|tool| tool.ends_with("loop"));
        let (Some(bare), Some(cost)) =
            (rows(section).iter().find(of_case), costs.iter().find(|cost| cost["mtu_bytes"] == ours["mtu_bytes"]))
        else {
            continue;
        };
        let a_packet =
            |row: &Value| Some(row["cpu_s_per_gib_receiver"].as_f64()? * cost["chunk_bytes"].as_f64()? / (1u64 << 30) as f64 * 1e9);
        let (Some(all), Some(bare), Some(open), Some(crc)) =
            (a_packet(ours), a_packet(bare), cost["open_ns"].as_f64(), cost["crc_ns"].as_f64())
        else {
            continue;
        };
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{all:.0}</td><td>{bare:.0}</td><td>{open:.0}</td><td>{crc:.0}</td><td>{:.0}</td></tr>",
            escaped(&text(&ours["case"])),
            all - bare - open - crc
        );
    }
    page.push_str("</table><p class=\"note\">All: user and system time of engine and control process. Bare loop: of the loop's receiver. Open, CRC-64: alone on a core. What the kernel does in interrupts is charged to whoever runs then, so the rest is an estimate.</p>");
}

fn add(page: &mut String, figures: &Figures) {
    let _ = write!(page, "<h2>{}</h2><p class=\"note\">{}</p>", figures.title, figures.note);
    for (index, column) in figures.columns.iter().enumerate() {
        let Some(title) = column.bars else { continue };
        let bar = |entry: &'_ figures::Entry| entry.values.get(index).copied().flatten();
        let bars: Vec<Bar<'_>> = figures
            .entries
            .iter()
            .filter_map(|entry| Some(Bar { group: &entry.group, name: &entry.tool, kind: Kind::of(&entry.tool), value: bar(entry)? }))
            .collect();
        bars::draw(page, title, column.heading, column.digits, &bars);
    }
    page.push_str("<table><tr><th>case</th><th class=\"text\">tool</th>");
    for column in &figures.columns {
        let _ = write!(page, "<th>{}</th>", column.heading);
    }
    page.push_str("</tr>");
    for entry in &figures.entries {
        let _ = write!(page, "<tr><td>{}</td><td class=\"text\">{}</td>", escaped(&entry.group), escaped(&entry.tool));
        for (column, value) in figures.columns.iter().zip(&entry.values) {
            let _ = write!(page, "<td>{}</td>", value.map_or(String::new(), |value| format!("{value:.0$}", column.digits)));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
}

#[cfg(test)]
mod tests;
