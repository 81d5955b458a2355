//! The table of each section, and which of its columns become bars.

use serde_json::Value;

use super::{rows, text};

/// A column: heading with its unit, digits behind the point, and the title of its bars, if it has them.
pub(super) struct Column {
    pub(super) heading: &'static str,
    pub(super) digits: usize,
    pub(super) bars: Option<&'static str>,
}

/// One bar, or one line of a table.
pub(super) struct Entry {
    pub(super) group: String,
    pub(super) tool: String,
    pub(super) values: Vec<Option<f64>>,
}

/// A table whose columns may also be charts.
pub(super) struct Figures {
    pub(super) title: &'static str,
    pub(super) note: &'static str,
    pub(super) columns: Vec<Column>,
    pub(super) entries: Vec<Entry>,
}

fn only(heading: &'static str, digits: usize) -> Column {
    Column { heading, digits, bars: None }
}

fn with_bars(heading: &'static str, digits: usize, title: &'static str) -> Column {
    Column { heading, digits, bars: Some(title) }
}

/// Of a section by its name.
pub(super) fn of(name: &str, section: &Value) -> Figures {
    match name {
        "dataplane" => dataplane(section),
        "wan" => wan(section),
        "small_files" => small_files(section),
        "storage" => storage(section),
        "scale" => scale(section),
        _ => staging(section),
    }
}

fn entry(row: &Value, group: &str, fields: &[&str]) -> Entry {
    let values = fields.iter().map(|field| row[field].as_f64()).collect();
    Entry { group: text(&row[group]), tool: text(&row["tool"]), values }
}

fn entries(rows: &[Value], group: &str, fields: &[&str]) -> Vec<Entry> {
    rows.iter().map(|row| entry(row, group, fields)).collect()
}

fn dataplane(section: &Value) -> Figures {
    let fields = [
        "gbit_per_s",
        "gbit_per_s_command",
        "kpps",
        "cpu_s_per_gib",
        "cpu_s_per_gib_machine",
        "round_trip_over_least_p50_ms",
        "round_trip_over_least_p95_ms",
        "spread",
    ];
    Figures {
        title: "Client to engine, no storage",
        note: "One veth pair on one machine. Plain: packets cross in bundles, as on no wire. Wire: each packet crosses by itself. \
               Loops send packets as fast as they can and do not look at them. Machine: all that the cores did meanwhile, in interrupts too. \
               Round trips: smoothed, five a second; what is above the least is queues and what the ends take.",
        columns: vec![
            with_bars("Gbit/s", 2, "Goodput"),
            only("Gbit/s of the whole command", 2),
            only("kpps", 0),
            with_bars("CPU s/GiB, both ends", 3, "CPU seconds per GiB"),
            only("CPU s/GiB, machine", 3),
            only("round trip above the least, p50 ms", 2),
            only("p95 ms", 2),
            only("spread", 2),
        ],
        entries: entries(rows(section), "case", &fields),
    }
}

fn wan(section: &Value) -> Figures {
    let fields = ["mbit_per_s", "over_bound", "cpu_s_per_gib", "queue_p50_ms", "queue_p95_ms", "spread"];
    Figures {
        title: "Long and lossy paths",
        note: "500 Mbit/s, a queue of 100 ms, loss each way, MTU 1500, emulated on one machine. The bound is rate × (1 − loss) × payload share of our frames; TCP has more payload in one. \
               Nobody's set-up is counted. The queue is the bottleneck's on the way there, as the emulator counted it for every packet.",
        columns: vec![
            with_bars("Mbit/s", 1, "Goodput"),
            only("over the bound", 3),
            with_bars("CPU s/GiB, both ends", 2, "CPU seconds per GiB"),
            with_bars("ms in the bottleneck's queue, p50", 1, "Queueing delay, median"),
            with_bars("ms in the bottleneck's queue, p95", 1, "Queueing delay, 95th percentile"),
            only("spread", 2),
        ],
        entries: entries(rows(section), "case", &fields),
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
        columns: vec![with_bars("files/s", 0, "Files a second"), only("seconds", 2)],
        entries,
    }
}

fn storage(section: &Value) -> Figures {
    let (server, fields) = (text(&section["server"]), ["gib_per_s", "cpu_s_per_gib"]);
    let own = Entry { tool: "tradewind".to_owned(), ..entry(section, "server", &fields) };
    let peers: Vec<Value> = section["peers"].as_array().into_iter().flatten().filter(|peer| peer["skipped"].is_null()).cloned().collect();
    let others = entries(&peers, "", &fields).into_iter().map(|entry| Entry { group: server.clone(), ..entry });
    let all = std::iter::once(own).chain(others).collect();
    Figures {
        title: "Into a bucket",
        note: "Blocks by the engine's uploader, and the same files by others, into one server on the same cores.",
        columns: vec![with_bars("GiB/s", 3, "Into the bucket"), with_bars("CPU s/GiB, client alone", 2, "CPU seconds per GiB")],
        entries: all,
    }
}

fn staging(section: &Value) -> Figures {
    Figures {
        title: "Blocks that wait on a disk",
        note: "io_uring and O_DIRECT, beside fio on the same disk.",
        columns: vec![with_bars("GiB/s", 2, "To the disk and back"), only("CPU s/GiB", 3)],
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
        columns: vec![
            with_bars("Gbit/s, all lanes", 2, "Goodput of all lanes together"),
            only("of one lane's", 2),
            only("Jain's index", 3),
            only("ms to the first MiB, p99", 0),
            with_bars("KiB of the engine per idle lane", 0, "Memory of an idle lane"),
            only("cores, all idle", 2),
            only("CPU s/GiB, both ends", 2),
            only("lanes taken", 0),
            only("failures", 0),
        ],
        entries: rows(section).iter().map(own).collect(),
    }
}
