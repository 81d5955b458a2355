//! `cargo xtask bench dataplane`: client to engine without storage, beside bare loops over the same links in the same run.
//!
//! The file lies in memory (`/dev/shm`) and goes to a store of kind `faux`: all is encrypted, authenticated, put together and checked, and then
//! forgotten. Client and server are joined by one veth pair with a queue each way: *plain*, as the kernel makes it, where packets cross in bundles
//! as on no wire, or *wire*, with the offloads of both ends off, so that each packet crosses by itself. Everything runs on this machine's cores.
//!
//! | Loop | Sends | Receives |
//! |---|---|---|
//! | `udp-loop` | kernel UDP with segmentation offload | kernel UDP with receive offload |
//! | `udp-to-xdp-loop` | kernel UDP with segmentation offload | an AF_XDP socket behind the steering program |
//! | `xdp-loop` | an AF_XDP socket | an AF_XDP socket behind the steering program |
//!
//! A loop sends packets of the same size, as fast as it can and without looking at them, and counts those that arrive. Turns of all tools alternate;
//! medians are reported. Each of our turns has a server that was just started, and begins once that has come to rest: its first memory is made at the start of a
//! service, and not of a transfer.
//! JSON (`--json FILE`): `environment`, and `rows` with `case`, `path` (kernel, af_xdp), `wire_like`, `mtu_bytes`, `tool`, `gbit_per_s` (payload), `gbit_per_s_command` (with
//! set-up), `kpps`,
//! `cpu_s_per_gib` (user and system time of both ends), `cpu_s_per_gib_sender`,
//! `cpu_s_per_gib_receiver`, `cpu_s_per_gib_machine` (all that the cores did meanwhile: on a veth pair much of what receiving costs the kernel is
//! done in interrupts, and charged to the sender or to nobody), `again` (packets sent twice over
//! all), `round_trip_over_least_p50_ms` and `_p95_ms` (ours: smoothed round trips, five a second, less the least), `spread` (largest less smallest
//! `gbit_per_s`, over the median), `turns`, `series` (ours: rates, loss and round trip over the seconds of the median turn); `costs` (nanoseconds a packet for what a receiver cannot do without),
//! `budgets` (with `--budget`: nanoseconds a packet of one more transfer by part and stage, as `perf` saw it), and
//! `warnings` that say which figures are unsound.

mod costs;
mod link_loop;
mod peers;
mod series;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::budget::{self, Budget};
use crate::environment::{Environment, Ticks};
use crate::process::{Interrupt, run as run_to_end, tree_cpu_s};
use crate::testbed::{Server, ServerOptions, Testbed, TestbedOptions, events, write_random};
use crate::{median, sound, spread, write_json};
pub use link_loop::{Arguments as LoopArguments, run as run_loop};
pub(crate) use peers::{Load, Peer};
pub(crate) use series::{OverLeast, Series};

const GIB: f64 = (1u64 << 30) as f64;
const DEADLINE: Duration = Duration::from_secs(300);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// MiB of the file.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(16..=65536))]
    pub mib: u32,
    /// Turns of each tool, after one that does not count.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub turns: u32,
    /// How long each loop sends, seconds.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub loop_seconds: f64,
    /// Only the cases whose names contain one of these.
    #[arg(long, num_args = 1..)]
    pub only: Vec<String>,
    /// Beside tools that users would take instead: by the kernel's sockets, and s2n-quic by AF_XDP too.
    #[arg(long)]
    pub peers: bool,
    /// Also where the time of our packets goes, by part and stage: one more transfer of each case, watched by `perf`.
    #[arg(long)]
    pub budget: bool,
    /// Write the report as one JSON object to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=60.0).contains(&seconds) { Ok(seconds) } else { Err("not from 0.1 to 60".to_owned()) }
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    xdp: bool,
    wire_like: bool,
    mtu_bytes: u32,
}

const CASES: [Case; 6] = [
    Case { name: "kernel-plain-1500", xdp: false, wire_like: false, mtu_bytes: 1500 },
    Case { name: "kernel-plain-9000", xdp: false, wire_like: false, mtu_bytes: 9000 },
    Case { name: "kernel-wire-1500", xdp: false, wire_like: true, mtu_bytes: 1500 },
    Case { name: "xdp-wire-1500", xdp: true, wire_like: true, mtu_bytes: 1500 },
    Case { name: "xdp-wire-3400", xdp: true, wire_like: true, mtu_bytes: 3400 },
    Case { name: "xdp-wire-9000", xdp: true, wire_like: true, mtu_bytes: 9000 },
];

/// Who sends and receives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tool {
    Tradewind,
    Loop { sends_xdp: bool, receives_xdp: bool },
    Peer(Peer),
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Tradewind => "tradewind",
            Self::Peer(peer) => peer.name(),
            Self::Loop { sends_xdp: true, .. } => "xdp-loop",
            Self::Loop { receives_xdp: true, .. } => "udp-to-xdp-loop",
            Self::Loop { .. } => "udp-loop",
        }
    }

    fn of(case: Case, peers: &[Peer]) -> Vec<Self> {
        let receives_xdp = case.xdp;
        let mut tools = vec![Self::Tradewind, Self::Loop { sends_xdp: false, receives_xdp }];
        if case.xdp {
            tools.push(Self::Loop { sends_xdp: true, receives_xdp });
        }
        tools.extend(peers.iter().copied().filter(|peer| peer.is_for(case.xdp, case.wire_like, case.mtu_bytes)).map(Self::Peer));
        tools
    }
}

/// One turn of a tool.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Turn {
    /// First packet to the last that counts.
    seconds: f64,
    /// Payload bytes that arrived.
    bytes: u64,
    /// Packets that arrived, where they were counted.
    packets: Option<u64>,
    cpu_s_sender: f64,
    cpu_s_receiver: f64,
    /// What all cores worked meanwhile, interrupts and everybody else's work too.
    busy_s: f64,
    /// Packets sent again over all packets with data, where that is known.
    again: Option<f64>,
    /// The whole command, with set-up; loops have none.
    seconds_command: f64,
    /// By how much round trips were longer than the least, milliseconds; ours only.
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_over_least_ms: Option<OverLeast>,
    /// What packets found in the emulated bottleneck's queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queue_ms: Option<QueueDelay>,
    /// Cores that the emulator took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) emulator_cores: Option<f64>,
    /// Ours only.
    #[serde(skip)]
    series: Series,
}

/// How long a bottleneck took for what packets found in its queue, milliseconds, the frame being sent counted whole.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct QueueDelay {
    /// Median of all packets that arrived at it.
    pub(crate) p50: f64,
    /// Nineteen of twenty found less.
    pub(crate) p95: f64,
}

impl Turn {
    pub(crate) fn gbit_per_s(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.seconds / 1e9
    }

    /// Both ends.
    pub(crate) fn cpu_s_per_gib(&self) -> f64 {
        self.per_gib(self.cpu_s_sender + self.cpu_s_receiver)
    }

    /// What all cores worked, seconds, and how long the command took.
    pub(crate) fn busy(&self) -> (f64, f64) {
        (self.busy_s, self.seconds_command)
    }

    /// By how much round trips were longer than the least.
    pub(crate) fn over_least(&self) -> Option<OverLeast> {
        self.round_trip_over_least_ms
    }

    fn per_gib(&self, cpu_s: f64) -> f64 {
        cpu_s / (self.bytes as f64 / GIB)
    }
}

/// The seconds of the turn whose goodput is next to the median; none of tools that tell nothing.
pub(crate) fn median_series(turns: &[Turn]) -> Option<Series> {
    let middle = median(turns.iter().map(Turn::gbit_per_s));
    let distance = |turn: &Turn| (turn.gbit_per_s() - middle).abs();
    let (index, turn) = turns.iter().enumerate().min_by(|(_, one), (_, other)| distance(one).total_cmp(&distance(other)))?;
    turn.over_least().map(|_| turn.series.of_turn(index + 1))
}

/// The median of a figure that all turns of ours have, and no other's.
pub(crate) fn median_of(turns: &[Turn], figure: impl Fn(&Turn) -> Option<f64>) -> Option<f64> {
    let figures: Vec<f64> = turns.iter().filter_map(figure).collect();
    (!figures.is_empty()).then(|| median(figures.into_iter()))
}

/// A tool in a case: medians of its turns.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which of the cases.
    pub case: &'static str,
    path: &'static str,
    wire_like: bool,
    mtu_bytes: u32,
    /// Which tool.
    pub tool: &'static str,
    /// Payload.
    pub gbit_per_s: f64,
    /// Payload over the time of the whole command, with its set-up.
    pub gbit_per_s_command: f64,
    /// Thousands of packets a second.
    pub kpps: Option<f64>,
    /// Both ends.
    pub cpu_s_per_gib: f64,
    cpu_s_per_gib_sender: f64,
    cpu_s_per_gib_receiver: f64,
    /// All that the machine did meanwhile.
    pub cpu_s_per_gib_machine: f64,
    again: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_over_least_p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_over_least_p95_ms: Option<f64>,
    spread: f64,
    turns: Vec<Turn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    series: Option<Series>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    command: &'static str,
    environment: Environment,
    mib: u32,
    /// In the order of measuring.
    pub rows: Vec<Row>,
    costs: Vec<costs::Cost>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    budgets: Vec<Budget>,
    /// What makes figures unsound.
    pub warnings: Vec<String>,
}

/// Measures and prints.
///
/// # Errors
/// When a transfer fails, or a packet took another way than it should.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<Report> {
    let mut environment = Environment::here();
    let (mut rows, mut warnings) = (Vec::new(), Vec::new());
    println!(
        "{:<18} {:<16} {:>8} {:>7} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}",
        "case", "tool", "Gbit/s", "kpps", "CPU s/GiB", "sender", "receiver", "machine", "again", "spread"
    );
    let peers = if arguments.peers { present(Peer::ALL.into_iter().chain(Peer::XDP), &mut warnings) } else { Vec::new() };
    let with_budget = arguments.budget && !is_missing("a packet's time", budget::missing(), &mut warnings);
    let mut budgets = Vec::new();
    let is_wanted = |case: &&Case| arguments.only.is_empty() || arguments.only.iter().any(|only| case.name.contains(only.as_str()));
    for case in CASES.iter().filter(is_wanted) {
        let testbed = bed(arguments, *case, interrupt).with_context(|| case.name)?;
        for row in measure(arguments, *case, &peers, &testbed, &mut warnings).with_context(|| case.name)? {
            println!(
                "{:<18} {:<16} {:>8.2} {:>7} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>7} {:>7.3}",
                row.case,
                row.tool,
                row.gbit_per_s,
                told(row.kpps, 0),
                row.cpu_s_per_gib,
                row.cpu_s_per_gib_sender,
                row.cpu_s_per_gib_receiver,
                row.cpu_s_per_gib_machine,
                told(row.again, 4),
                row.spread
            );
            warnings.extend(sound::spread(&format!("{} {}", row.case, row.tool), row.spread));
            rows.push(row);
        }
        if with_budget {
            let budget = watched(&testbed, *case, bytes(arguments));
            budgets.extend(budget::or_warning(case.name, budget, interrupt, &mut warnings)?);
        }
    }
    ensure!(!rows.is_empty(), "no such case; there are {}", CASES.map(|case| case.name).join(", "));
    warnings.extend(sound::turns(rows.iter().map(|row: &Row| row.turns.len())));
    let costs = costs::measure();
    costs.iter().for_each(|cost| println!("{cost}"));
    budgets.iter().for_each(|budget| println!("{budget}"));
    environment.finish(&mut warnings);
    warnings.iter().for_each(|warning| println!("unsound: {warning}"));
    let report = Report { command: "cargo xtask bench dataplane", environment, mib: arguments.mib, rows, costs, budgets, warnings };
    if let Some(file) = &arguments.json {
        write_json(file, &report)?;
    }
    Ok(report)
}

/// A figure, or that there is none.
fn told(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
}

/// Those of the peers that are installed; the others become warnings.
pub(crate) fn present(peers: impl IntoIterator<Item = Peer>, warnings: &mut Vec<String>) -> Vec<Peer> {
    let mut is_there = |peer: &Peer| !is_missing(peer.name(), peer.missing(), warnings);
    peers.into_iter().filter(|peer| is_there(peer)).collect()
}

/// What is missing is said, and becomes a warning.
pub(crate) fn is_missing(what: &str, reason: Option<String>, warnings: &mut Vec<String>) -> bool {
    let Some(reason) = reason else { return false };
    println!("SKIP: {reason}");
    warnings.push(format!("{what} was not measured: {reason}"));
    true
}

fn bytes(arguments: &Arguments) -> u64 {
    u64::from(arguments.mib) << 20
}

/// Client and server of a case, and the file.
fn bed(arguments: &Arguments, case: Case, interrupt: &Interrupt) -> Result<Testbed> {
    let options =
        TestbedOptions { mtu_bytes: case.mtu_bytes, in_memory: true, direct: true, wire_like: case.wire_like, ..TestbedOptions::default() };
    let testbed = Testbed::without_link("twplane", &options, interrupt)?;
    write_random(&testbed.path("source"), bytes(arguments))?;
    Ok(testbed)
}

/// One more transfer with `perf` beside it.
fn watched(testbed: &Testbed, case: Case, bytes: u64) -> Result<Budget> {
    let watch = budget::Watch::start(testbed)?;
    let turn = send(testbed, case.xdp, bytes)?;
    watch.budget(testbed, case.name, turn.gbit_per_s(), turn.packets.unwrap_or(0))
}

fn measure(arguments: &Arguments, case: Case, peers: &[Peer], testbed: &Testbed, warnings: &mut Vec<String>) -> Result<Vec<Row>> {
    let bytes = bytes(arguments);
    // qcp wants to be told: 10 Gbit/s, and its least round-trip time.
    let load = Load { bytes, seconds: None, rtt_ms: 2, rate_bps: 10_000_000_000, mtu_bytes: case.mtu_bytes };
    let tools = Tool::of(case, peers);
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); tools.len()];
    // The first turn of each warms up.
    for number in 0..=arguments.turns {
        for (tool, turns) in tools.iter().zip(&mut turns) {
            testbed.interrupt.check()?;
            let turn = match *tool {
                Tool::Tradewind => send(testbed, case.xdp, bytes)?,
                Tool::Peer(peer) => match peer.turn(testbed, &load) {
                    Ok(turn) => turn,
                    Err(error) => {
                        testbed.interrupt.check()?;
                        warnings.push(format!("{}: a turn failed: {error:#}", case.name));
                        continue;
                    }
                },
                Tool::Loop { sends_xdp, receives_xdp } => {
                    link_loop::turn(testbed, case.mtu_bytes, sends_xdp, receives_xdp, arguments.loop_seconds)?
                }
            };
            if number > 0 {
                turns.push(turn);
            }
        }
    }
    let measured = tools.into_iter().zip(turns).filter(|(_, turns)| !turns.is_empty());
    Ok(measured.map(|(tool, turns)| row(case, tool, turns)).collect())
}

fn row(case: Case, tool: Tool, turns: Vec<Turn>) -> Row {
    let of = |value: &dyn Fn(&Turn) -> f64| median(turns.iter().map(value));
    let some = |value: &dyn Fn(&Turn) -> Option<f64>| median_of(&turns, value);
    Row {
        case: case.name,
        path: if case.xdp { "af_xdp" } else { "kernel" },
        wire_like: case.wire_like,
        mtu_bytes: case.mtu_bytes,
        tool: tool.name(),
        gbit_per_s: of(&Turn::gbit_per_s),
        gbit_per_s_command: of(&|turn| turn.bytes as f64 * 8.0 / turn.seconds_command / 1e9),
        kpps: some(&|turn| turn.packets.map(|packets| packets as f64 / turn.seconds / 1e3)),
        cpu_s_per_gib: of(&Turn::cpu_s_per_gib),
        cpu_s_per_gib_sender: of(&|turn| turn.per_gib(turn.cpu_s_sender)),
        cpu_s_per_gib_receiver: of(&|turn| turn.per_gib(turn.cpu_s_receiver)),
        cpu_s_per_gib_machine: of(&|turn| turn.per_gib(turn.busy_s)),
        again: some(&|turn| turn.again),
        round_trip_over_least_p50_ms: some(&|turn| turn.over_least().map(|over| over.p50)),
        round_trip_over_least_p95_ms: some(&|turn| turn.over_least().map(|over| over.p95)),
        spread: spread(turns.iter().map(Turn::gbit_per_s)),
        series: median_series(&turns),
        turns,
    }
}

/// Sends the file to nowhere by a server that was just started, so that loops find the interface free.
pub(crate) fn send(testbed: &Testbed, by_xdp: bool, bytes: u64) -> Result<Turn> {
    let xdp = if by_xdp { "auto" } else { "off" };
    let mut server = Server::start_local(testbed, &ServerOptions { xdp, more: "[stores.faux]\nkind = \"faux\"" })?;
    server.wait_for_rest(testbed)?;
    let control = server.process().pid();
    let before = tree_cpu_s(control);
    let mut command = Server::tradewind(testbed);
    command.arg("send").arg(testbed.path("source")).args(["faux:source", "--json"]);
    let ticks = Ticks::now();
    let sent = run_to_end(&mut command, &testbed.interrupt, DEADLINE)?;
    let busy_s = Ticks::now().busy_s_since(ticks);
    let cpu_s_receiver = tree_cpu_s(control) - before;
    sent.success("tradewind send")?;
    let done = events(&sent.stdout, "done").pop().context("no event 'done'")?;
    let number = |value: &serde_json::Value| value.as_u64().with_context(|| format!("a figure is missing: {done}"));
    let totals = &done["server"]["totals"];
    let (afxdp, kernel) = (number(&totals["packets_afxdp"])?, number(&totals["packets_kernel"])?);
    ensure!(number(&totals["bytes_durable"])? == bytes, "not everything arrived: {done}");
    let (right, wrong) = if by_xdp { (afxdp, kernel) } else { (kernel, afxdp) };
    ensure!(wrong == 0, "{wrong} of {} packets went the wrong way", right + wrong);
    let (told, least_ms) = (events(&sent.stdout, "progress"), done["rtt_least_ms"].as_f64().context("no rtt_least_ms")?);
    Ok(Turn {
        seconds: done["elapsed_s"].as_f64().context("no elapsed_s")?,
        bytes,
        packets: Some(right),
        cpu_s_sender: sent.cpu_s,
        cpu_s_receiver,
        busy_s,
        again: Some(done["retransmitted_share"].as_f64().context("no retransmitted_share")?),
        seconds_command: sent.elapsed.as_secs_f64(),
        round_trip_over_least_ms: OverLeast::of(&told, least_ms),
        series: Series::of(&told, least_ms)?,
        ..Turn::default()
    })
}
