//! One HTML page of all benchmarks: tables and bars, without scripts and without anything from a network.

use std::fmt::Write as _;

use serde_json::Value;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.5rem;border-bottom:1px solid #ccc}h3{font-size:1rem;margin-bottom:.3rem}\
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .7rem .15rem 0;text-align:right;font-variant-numeric:tabular-nums}\
td:first-child,th:first-child,td.text,th.text{text-align:left}th{border-bottom:1px solid #999;font-weight:600}\
svg{display:block;margin:.3rem 0 1rem}svg text{font:12px system-ui,sans-serif;fill:#1a1a1a}.note{color:#555}.unsound{color:#8a1c00}";
const OURS: &str = "#0b6e4f";
const LOOPS: &str = "#b7b7b7";
const OTHERS: &str = "#5b7fb5";
/// Of a page, in pixels.
const LABEL_WIDTH: f64 = 190.0;
const BARS_WIDTH: f64 = 560.0;
const BAR_HEIGHT: f64 = 18.0;

/// One bar, or one line of a table.
struct Entry {
    group: String,
    tool: String,
    values: Vec<Option<f64>>,
}

/// A table whose columns also are charts.
struct Figures {
    title: &'static str,
    note: &'static str,
    /// Heading, digits behind the point, whether it becomes a chart.
    columns: &'static [(&'static str, usize, bool)],
    entries: Vec<Entry>,
}

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

fn entry(row: &Value, group: &str, fields: &[&str]) -> Entry {
    let values = fields.iter().map(|field| row[field].as_f64()).collect();
    Entry { group: text(&row[group]), tool: text(&row["tool"]), values }
}

fn entries(rows: &[Value], group: &str, fields: &[&str]) -> Vec<Entry> {
    rows.iter().map(|row| entry(row, group, fields)).collect()
}

fn dataplane(section: &Value) -> Figures {
    let fields = ["gbit_per_s", "gbit_per_s_command", "kpps", "cpu_s_per_gib", "cpu_s_per_gib_machine", "spread"];
    Figures {
        title: "Client to engine, no storage",
        note: "One veth pair on one machine. Plain: packets cross in bundles, as on no wire. Wire: each packet crosses by itself. \
               Loops send packets as fast as they can and do not look at them. Machine: all that the cores did meanwhile, in interrupts too.",
        columns: &[
            ("Gbit/s", 2, true),
            ("Gbit/s of the whole command", 2, false),
            ("kpps", 0, false),
            ("CPU s/GiB, both ends", 3, true),
            ("CPU s/GiB, machine", 3, false),
            ("spread", 2, false),
        ],
        entries: entries(rows(section), "case", &fields),
    }
}

fn wan(section: &Value) -> Figures {
    Figures {
        title: "Long and lossy paths",
        note: "500 Mbit/s, a queue of 100 ms, loss each way, MTU 1500, emulated on one machine. The bound is rate × (1 − loss) × payload share. \
               Nobody's set-up is counted.",
        columns: &[("Mbit/s", 1, true), ("over the bound", 3, false), ("CPU s/GiB, both ends", 2, false), ("spread", 2, false)],
        entries: entries(rows(section), "case", &["mbit_per_s", "over_bound", "cpu_s_per_gib", "spread"]),
    }
}

fn small_files(section: &Value) -> Figures {
    let mut entries = Vec::new();
    for case in section["cases"].as_array().into_iter().flatten() {
        let group = text(&case["case"]);
        let own = vec![case["files_per_s"].as_f64(), case["seconds"].as_f64()];
        entries.push(Entry { group: group.clone(), tool: "tradewind".to_owned(), values: own });
        for peer in case["peers"].as_array().into_iter().flatten().filter(|peer| peer["skipped"].is_null()) {
            let values = vec![peer["files_per_s"].as_f64(), peer["seconds"].as_f64()];
            entries.push(Entry { group: group.clone(), tool: text(&peer["tool"]), values });
        }
    }
    Figures {
        title: "Small files",
        note: "10 KiB each. Ours until everything is durable; the others as they come, the whole command.",
        columns: &[("files/s", 0, true), ("seconds", 2, false)],
        entries,
    }
}

fn storage(section: &Value) -> Figures {
    let (server, fields) = (text(&section["server"]), ["gib_per_s", "cpu_s_per_gib"]);
    let own = Entry { tool: "tradewind".to_owned(), ..entry(section, "server", &fields) };
    let peers = section["peers"].as_array().map_or(&[][..], Vec::as_slice);
    let others = entries(peers, "", &fields).into_iter().map(|entry| Entry { group: server.clone(), ..entry });
    let all = std::iter::once(own).chain(others).collect();
    Figures {
        title: "Into a bucket",
        note: "Blocks by the engine's uploader, and the same files by others, into one server on the same cores.",
        columns: &[("GiB/s", 3, true), ("CPU s/GiB (client)", 2, true)],
        entries: all,
    }
}

fn staging(section: &Value) -> Figures {
    Figures {
        title: "Blocks that wait on a disk",
        note: "io_uring and O_DIRECT, beside fio on the same disk.",
        columns: &[("GiB/s", 2, true), ("CPU s/GiB", 3, false)],
        entries: entries(rows(section), "direction", &["gib_per_s", "cpu_s_per_gib"]),
    }
}

fn scale(section: &Value) -> Figures {
    let fields =
        ["gbit_per_s", "over_one_lane", "jain", "first_block_p99_ms", "idle_kib_per_lane", "cpu_idle", "cpu_s_per_gib", "opened", "failed"];
    let kib = |row: &Value| row["idle_bytes_per_lane"].as_f64().map(|bytes| bytes / 1024.0);
    let own = |row: &Value| {
        let mut entry = entry(row, "case", &fields);
        if let Some(value) = entry.values.get_mut(4) {
            *value = kib(row);
        }
        entry
    };
    Figures {
        title: "Many transfers at the same time",
        note: "All senders are threads of one process on the same cores as the server, one veth pair, no storage. Idle: each lane has sent a block and waits \
               for its source; the memory is what the engine has more than before the first lane, over the lanes.",
        columns: &[
            ("Gbit/s, all lanes", 2, true),
            ("of one lane's", 2, false),
            ("Jain's index", 3, false),
            ("ms to the first MiB, p99", 0, false),
            ("KiB of the engine per idle lane", 0, true),
            ("cores, all idle", 2, false),
            ("CPU s/GiB, both ends", 2, false),
            ("lanes taken", 0, false),
            ("failures", 0, false),
        ],
        entries: rows(section).iter().map(own).collect(),
    }
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
    warnings(&mut page, report);
    for (name, error) in report["failed"].as_object().into_iter().flatten() {
        let _ = write!(page, "<p class=\"unsound\">{} failed: {}</p>", escaped(name), escaped(&text(error)));
    }
    for name in crate::all::SECTIONS {
        let section = &report["sections"][name];
        if section.is_object() {
            let figures = match name {
                "dataplane" => dataplane(section),
                "wan" => wan(section),
                "small_files" => small_files(section),
                "storage" => storage(section),
                "scale" => scale(section),
                _ => staging(section),
            };
            add(&mut page, &figures);
            costs(&mut page, section);
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
    for (index, (heading, digits, is_chart)) in figures.columns.iter().enumerate() {
        if *is_chart {
            chart(page, heading, *digits, index, &figures.entries);
        }
    }
    page.push_str("<table><tr><th>case</th><th class=\"text\">tool</th>");
    for (heading, ..) in figures.columns {
        let _ = write!(page, "<th>{heading}</th>");
    }
    page.push_str("</tr>");
    for entry in &figures.entries {
        let _ = write!(page, "<tr><td>{}</td><td class=\"text\">{}</td>", escaped(&entry.group), escaped(&entry.tool));
        for ((_, digits, _), value) in figures.columns.iter().zip(&entry.values) {
            let _ = write!(page, "<td>{}</td>", value.map_or(String::new(), |value| format!("{value:.digits$}")));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
}

fn chart(page: &mut String, heading: &str, digits: usize, index: usize, entries: &[Entry]) {
    let value = |entry: &Entry| entry.values.get(index).copied().flatten().unwrap_or(0.0);
    let most = entries.iter().map(value).fold(f64::MIN_POSITIVE, f64::max);
    let groups = entries.iter().zip(entries.iter().skip(1)).filter(|(one, next)| one.group != next.group).count() + 1;
    let height = (entries.len() + groups) as f64 * BAR_HEIGHT;
    let _ = write!(page, "<h3>{heading}</h3><svg width=\"{}\" height=\"{height}\" role=\"img\">", LABEL_WIDTH + BARS_WIDTH + 80.0);
    let (mut y, mut group) = (0.0, None);
    for entry in entries {
        if group != Some(&entry.group) {
            let _ = write!(page, "<text x=\"0\" y=\"{}\" font-weight=\"600\">{}</text>", y + 13.0, escaped(&entry.group));
            group = Some(&entry.group);
            y += BAR_HEIGHT;
        }
        let colour = match entry.tool.as_str() {
            "tradewind" | "staging" => OURS,
            tool if tool.ends_with("loop") => LOOPS,
            _ => OTHERS,
        };
        let (value, top) = (value(entry), y + 2.0);
        let width = (value / most * BARS_WIDTH).max(1.0);
        let _ = write!(
            page,
            "<text x=\"12\" y=\"{}\">{}</text><rect x=\"{LABEL_WIDTH}\" y=\"{top}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{value:.digits$}</text>",
            y + 13.0,
            escaped(&entry.tool),
            BAR_HEIGHT - 4.0,
            LABEL_WIDTH + width + 5.0,
            y + 13.0
        );
        y += BAR_HEIGHT;
    }
    page.push_str("</svg>");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
        // The longer bar is as wide as bars get, the other in proportion.
        assert!(page.contains("width=\"560.0\"") && page.contains("width=\"140.0\""), "{page}");
        assert!(!page.contains("http"), "it needs a network");
    }
}
