//! The same path by the kernel's own parts, where it has them: `tbf` for the bottleneck, `netem` behind it.
//!
//! For each direction, between the interface that packets come in on and the one they leave by:
//!
//! ```text
//!  in: clsact ingress ─mirred─▶ out: clsact egress ─mirred─▶ ifb: tbf + bfifo/pfifo ──▶ out: root netem ──▶ wire
//!                                                  (only with a rate)
//! ```
//!
//! The ifb hands a frame back to the interface it was taken from, past its filters, so no bridge is needed. Bottleneck first, then loss
//! and delay: as in [`crate::link`], lost packets have used their share of the rate. (The other order, netem on ingress and tbf on egress,
//! would let a sender make up for the loss by sending more than the rate.)
//!
//! Differences from our own emulator: random numbers do not repeat; tbf lets one burst (a frame, or 0.25 ms of the rate) pass unspaced;
//! its stops (`mbps = 0`) and `reorder_extra_ms` do not exist; traces and outages are switched by commands, milliseconds late.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::emulator::{EmulatorOptions, MachineTimes, kernel_release, load_average};
use crate::link::Way;
use crate::scenario::{Direction, LossModel, QueueLimit, ReorderEffect, Scenario};
use crate::stats::{DirectionStats, EmulatorStats};
use crate::sys;
use crate::timeline::RateTimeline;

/// Rate from which netem's packet limit is computed where the scenario sets none, in bits per second.
const UNLIMITED_RATE_ASSUMED_BPS: u64 = 10_000_000_000;
/// Smallest Ethernet frame without FCS, for the number of packets that a delay can hold.
const FRAME_BYTES_MIN: u64 = 60;
/// Share of a second that tbf may send unspaced: 1/4000 = 0.25 ms.
const BURST_SHARE_OF_SECOND: u64 = 4_000;
/// netem keeps order when it has a rate; this one is too high to delay anything (1500 bytes: 0.4 µs) and fits its 32-bit field.
const ORDER_KEEPING_RATE: &str = "30gbit";

/// Why the kernel's emulation cannot play a scenario.
#[derive(Debug, thiserror::Error)]
pub enum TcError {
    /// The scenario asks for something that tc cannot do.
    #[error("tc cannot play {field}: {problem}; use `--backend own`")]
    Unsupported {
        /// The scenario's field.
        field: String,
        /// What is missing.
        problem: &'static str,
    },
    /// The kernel or the tools lack something; found by trying.
    #[error("this kernel cannot play the scenario with tc: {0}")]
    NotHere(String),
    /// A command failed while the link was being made, changed or read.
    #[error("`{command}` failed: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// What it printed.
        stderr: String,
    },
}

/// One direction's devices and commands.
#[derive(Debug, Clone)]
struct DirectionPlan {
    direction: Direction,
    input: String,
    output: String,
    ifb: Option<String>,
    frame_bytes_max: u64,
}

/// The commands that make a scenario out of the kernel's parts.
#[derive(Debug, Clone)]
pub struct TcPlan {
    left: String,
    right: String,
    directions: Vec<DirectionPlan>,
}

type Argv = Vec<String>;

fn argv(line: &str) -> Argv {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Plans `scenario` between two interfaces of `mtu_bytes`.
///
/// # Errors
/// [`TcError::Unsupported`] if tc has no way to do what the scenario says.
pub fn plan(scenario: &Scenario, left: &str, right: &str, mtu_bytes: u32) -> Result<TcPlan, TcError> {
    let mut directions = Vec::new();
    for way in Way::BOTH {
        let (direction, input, output, ifb) = match way {
            Way::Forward => (scenario.forward(), left, right, "ifbforward"),
            Way::Reverse => (scenario.reverse(), right, left, "ifbreverse"),
        };
        if direction.reorder() > 0.0 && direction.reorder_effect() != ReorderEffect::SkipDelay {
            return Err(TcError::Unsupported {
                field: format!("{}.reorder_extra_ms", way.name()),
                problem: "netem reorders by skipping the delay only",
            });
        }
        if let RateTimeline::Steps { segments, .. } = direction.rate()
            && segments.iter().any(|s| s.bps == 0)
        {
            return Err(TcError::Unsupported { field: format!("{}.rate_trace", way.name()), problem: "tbf has no rate of 0" });
        }
        directions.push(DirectionPlan {
            direction: direction.clone(),
            input: input.to_owned(),
            output: output.to_owned(),
            ifb: direction.rate().max_bps().map(|_| ifb.to_owned()),
            frame_bytes_max: u64::from(mtu_bytes) + 18,
        });
    }
    Ok(TcPlan { left: left.to_owned(), right: right.to_owned(), directions })
}

impl TcPlan {
    /// The command lines that make the link, in order.
    #[must_use]
    pub fn setup(&self) -> Vec<Vec<String>> {
        let mut commands = Vec::new();
        for device in [&self.left, &self.right] {
            commands.push(argv(&format!("tc qdisc add dev {device} clsact")));
        }
        for plan in &self.directions {
            commands.push(plan.netem("add", plan.direction.outages().contains(0)));
            if let (Some(ifb), Some(bps)) = (&plan.ifb, plan.direction.rate().bps_at(0)) {
                commands.push(argv(&format!("ip link add {ifb} numrxqueues 1 numtxqueues 1 type ifb")));
                commands.push(argv(&format!("ip link set {ifb} up")));
                commands.push(plan.tbf("add", ifb, bps));
                if let Some(QueueLimit::Packets(packets)) = plan.direction.queue() {
                    commands.push(argv(&format!("tc qdisc add dev {ifb} parent 1:1 handle 10: pfifo limit {packets}")));
                }
                commands.push(redirect(&plan.output, "egress", ifb));
            }
        }
        // Last, so that no packet passes a half-made link.
        for plan in &self.directions {
            commands.push(redirect(&plan.input, "ingress", &plan.output));
        }
        commands
    }

    /// The command lines that remove it.
    #[must_use]
    pub fn teardown(&self) -> Vec<Vec<String>> {
        let mut commands = Vec::new();
        for device in [&self.left, &self.right] {
            commands.push(argv(&format!("tc qdisc del dev {device} clsact")));
            commands.push(argv(&format!("tc qdisc del dev {device} root")));
        }
        for ifb in self.directions.iter().filter_map(|p| p.ifb.as_ref()) {
            commands.push(argv(&format!("ip link del {ifb}")));
        }
        commands
    }
}

fn redirect(device: &str, hook: &str, to: &str) -> Argv {
    argv(&format!("tc filter add dev {device} {hook} protocol all pref 1 u32 match u32 0 0 action mirred egress redirect dev {to}"))
}

impl DirectionPlan {
    fn burst_bytes(&self, bps: u64) -> u64 {
        (self.frame_bytes_max + self.frame_bytes_max / 10).max(bps / 8 / BURST_SHARE_OF_SECOND)
    }

    fn tbf(&self, verb: &str, ifb: &str, bps: u64) -> Argv {
        let burst = self.burst_bytes(bps);
        let limit = match self.direction.queue() {
            Some(QueueLimit::Bytes(bytes)) => bytes,
            // The pfifo inside is what limits.
            Some(QueueLimit::Packets(packets)) => u64::from(packets) * self.frame_bytes_max,
            None => unreachable_without_queue(burst),
        };
        argv(&format!("tc qdisc {verb} dev {ifb} root handle 1: tbf rate {bps}bit burst {burst} limit {limit}"))
    }

    fn netem(&self, verb: &str, down: bool) -> Argv {
        let direction = &self.direction;
        let microseconds = |ns: u64| format!("{}us", ns as f64 / 1e3);
        let percent = |p: f64| format!("{}%", p * 100.0);
        let rate = direction.rate().max_bps().unwrap_or(UNLIMITED_RATE_ASSUMED_BPS);
        let flight_ns = u128::from(direction.delay_ns() + direction.jitter_ns());
        let packets = 1.5 * (u128::from(rate) * flight_ns) as f64 / 8e9 / FRAME_BYTES_MIN as f64;
        let limit = (packets as u64).clamp(1_000, 4_000_000);
        let mut line = format!("tc qdisc {verb} dev {} root handle 2: netem limit {limit}", self.output);
        if direction.delay_ns() > 0 {
            line.push_str(&format!(" delay {}", microseconds(direction.delay_ns())));
            if direction.jitter_ns() > 0 {
                line.push_str(&format!(" {}", microseconds(direction.jitter_ns())));
            }
        }
        match direction.loss() {
            _ if down => line.push_str(" loss 100%"),
            LossModel::None => {}
            LossModel::Independent(p) => line.push_str(&format!(" loss {}", percent(p))),
            // tc-netem(8): gemodel p r 1-h 1-k, where 1-h is the loss in the bad state and 1-k in the good one.
            LossModel::GilbertElliott(g) => line.push_str(&format!(
                " loss gemodel {} {} {} {}",
                percent(g.good_to_bad),
                percent(g.bad_to_good),
                percent(g.loss_bad),
                percent(g.loss_good)
            )),
        }
        if direction.duplicate() > 0.0 {
            line.push_str(&format!(" duplicate {}", percent(direction.duplicate())));
        }
        if direction.reorder() > 0.0 {
            line.push_str(&format!(" reorder {}", percent(direction.reorder())));
        }
        if direction.jitter_keeps_order() && direction.jitter_ns() > 0 {
            line.push_str(&format!(" rate {ORDER_KEEPING_RATE}"));
        }
        argv(&line)
    }
}

/// A checked scenario has a queue wherever it has a rate; if that ever changes, one burst is the least that works.
fn unreachable_without_queue(burst: u64) -> u64 {
    debug_assert!(false, "a rate without a queue");
    burst
}

fn execute(command: &[String]) -> Result<String, TcError> {
    let failed = |stderr: String| TcError::Command { command: command.join(" "), stderr };
    let output = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed(format!("{e}; `apt-get install -y iproute2` has it")))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// Tries the whole plan in a scratch network namespace that ends with the trial.
///
/// # Errors
/// [`TcError::NotHere`] with what the kernel or a tool said.
pub fn probe(plan: &TcPlan) -> Result<(), TcError> {
    let mut script = String::new();
    for (device, peer) in [(&plan.left, "probepeer0"), (&plan.right, "probepeer1")] {
        script.push_str(&format!("ip link add '{device}' type veth peer name {peer}\nip link set '{device}' up\n"));
    }
    for command in plan.setup() {
        script.push_str(&format!("'{}'\n", command.join("' '")));
    }
    let trial = ["unshare", "--net", "sh", "-euc", &script].map(str::to_owned);
    execute(&trial).map(|_| ()).map_err(|error| match error {
        TcError::Command { stderr, .. } => TcError::NotHere(stderr),
        other => other,
    })
}

/// A link made of the kernel's parts. Dropping it removes them.
pub struct Session {
    plan: TcPlan,
    options: EmulatorOptions,
    scenario: Scenario,
    start_ns: u64,
    received_at_start: [u64; 2],
    machine_at_start: MachineTimes,
}

impl Session {
    /// Makes the link.
    ///
    /// # Errors
    /// [`TcError::Command`] if a command fails; what was made until then is removed.
    pub fn start(scenario: &Scenario, options: &EmulatorOptions, plan: TcPlan) -> Result<Self, TcError> {
        let mut session = Self {
            plan,
            options: options.clone(),
            scenario: scenario.clone(),
            start_ns: 0,
            received_at_start: [0; 2],
            machine_at_start: MachineTimes::read(),
        };
        session.received_at_start = [received_by(&options.left), received_by(&options.right)];
        for command in session.plan.setup() {
            execute(&command)?;
        }
        session.start_ns = sys::monotonic_ns();
        Ok(session)
    }

    /// When the link started: CLOCK_MONOTONIC in nanoseconds.
    #[must_use]
    pub fn start_monotonic_ns(&self) -> u64 {
        self.start_ns
    }

    /// Plays rate traces and outages until `stop` is set (or the parent process is gone), then reports what the kernel counted.
    ///
    /// # Errors
    /// [`TcError::Command`] if a command fails.
    pub fn run(self, stop: &AtomicBool) -> Result<EmulatorStats, TcError> {
        let mut now: Vec<(Option<u64>, bool)> =
            self.plan.directions.iter().map(|p| (p.direction.rate().bps_at(0), p.direction.outages().contains(0))).collect();
        let varies = self
            .plan
            .directions
            .iter()
            .any(|p| !p.direction.outages().is_empty() || matches!(p.direction.rate(), RateTimeline::Steps { .. }));
        let pause = Duration::from_millis(if varies { 2 } else { 50 });
        let parent_is_gone = || self.options.parent_pid.is_some_and(|pid| std::os::unix::process::parent_id() != pid);
        while !stop.load(Ordering::Relaxed) && !parent_is_gone() {
            std::thread::sleep(pause);
            let since_ns = sys::monotonic_ns() - self.start_ns;
            for (plan, (bps, down)) in self.plan.directions.iter().zip(&mut now) {
                let wanted = (plan.direction.rate().bps_at(since_ns), plan.direction.outages().contains(since_ns));
                if let (true, Some(ifb), Some(rate)) = (wanted.0 != *bps, &plan.ifb, wanted.0) {
                    execute(&plan.tbf("change", ifb, rate))?;
                }
                if wanted.1 != *down {
                    execute(&plan.netem("change", wanted.1))?;
                }
                (*bps, *down) = wanted;
            }
        }
        self.report()
    }

    fn report(&self) -> Result<EmulatorStats, TcError> {
        let mut directions = Vec::new();
        for (plan, at_start) in self.plan.directions.iter().zip(self.received_at_start) {
            let received = received_by(&plan.input) - at_start;
            let netem = read_qdisc(&plan.output, "netem")?;
            let tbf = match &plan.ifb {
                Some(ifb) => read_qdisc(ifb, "tbf")?,
                None => QdiscCounters::default(),
            };
            let mut stats = DirectionStats {
                received,
                forwarded: netem.packets,
                forwarded_bytes: netem.bytes,
                random_loss: netem.drops,
                queue_drops: tbf.drops,
                held: netem.qlen + tbf.qlen,
                ..DirectionStats::default()
            };
            if plan.direction.duplicate() > 0.0 {
                // netem does not count them; they are what came out beyond what went in.
                let went = stats.forwarded + stats.random_loss + stats.queue_drops + stats.held;
                stats.duplicated = went.saturating_sub(received);
            }
            directions.push(stats);
        }
        let reverse = directions.pop().unwrap_or_default();
        let forward = directions.pop().unwrap_or_default();
        let mut stats = EmulatorStats {
            scenario: self.scenario.name().to_owned(),
            seed: self.scenario.seed(),
            backend: "tc".to_owned(),
            base: "tbf on ifb, netem".to_owned(),
            kernel: kernel_release(),
            tick_us: None,
            sched_class: "kernel".to_owned(),
            start_monotonic_ns: self.start_ns,
            duration_s: (sys::monotonic_ns() - self.start_ns) as f64 / 1e9,
            cpu_s: sys::cpu_time_ns() as f64 / 1e9,
            max_gap_us: 0.0,
            load_average_1m: load_average(),
            steal_share: MachineTimes::read().steal_share_since(&self.machine_at_start),
            bounds: self.options.bounds_for(&self.scenario),
            forward,
            reverse,
            flows: None,
            valid: false,
            invalid_reasons: Vec::new(),
        };
        stats.judge();
        Ok(stats)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for command in self.plan.teardown() {
            // Removing what a failed start did not make fails, and leaves what we want: nothing.
            let _ = execute(&command);
        }
    }
}

fn received_by(device: &str) -> u64 {
    let file = Path::new("/sys/class/net").join(device).join("statistics/rx_packets");
    std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
struct QdiscCounters {
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    packets: u64,
    #[serde(default)]
    drops: u64,
    #[serde(default)]
    qlen: u64,
}

#[derive(Debug, serde::Deserialize)]
struct QdiscLine {
    kind: String,
    #[serde(flatten)]
    counters: QdiscCounters,
}

fn read_qdisc(device: &str, kind: &str) -> Result<QdiscCounters, TcError> {
    let command = argv(&format!("tc -s -j qdisc show dev {device}"));
    let text = execute(&command)?;
    parse_qdisc(&text, kind).ok_or_else(|| TcError::Command { command: command.join(" "), stderr: format!("no {kind} in {text}") })
}

fn parse_qdisc(json: &str, kind: &str) -> Option<QdiscCounters> {
    let lines: Vec<QdiscLine> = serde_json::from_str(json).ok()?;
    lines.into_iter().find(|line| line.kind == kind).map(|line| line.counters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{DirectionSpec, GilbertElliott, RateStep};

    fn commands(forward: DirectionSpec, reverse: DirectionSpec) -> Vec<String> {
        let scenario = Scenario::new("t", "", 1, forward, Some(reverse)).expect("valid");
        plan(&scenario, "left", "right", 1500).expect("tc can do it").setup().iter().map(|c| c.join(" ")).collect()
    }

    #[test]
    fn a_full_scenario_becomes_these_commands() {
        let forward = DirectionSpec {
            rate_bps: Some(300_000_000),
            queue_ms: Some(100.0),
            delay_ms: 50.0,
            jitter_ms: 0.5,
            jitter_keeps_order: true,
            loss: Some(0.05),
            duplicate: 0.01,
            reorder: 0.002,
            ..DirectionSpec::default()
        };
        let all = "protocol all pref 1 u32 match u32 0 0 action mirred egress redirect dev";
        assert_eq!(
            commands(forward, DirectionSpec::default()),
            [
                "tc qdisc add dev left clsact".to_owned(),
                "tc qdisc add dev right clsact".to_owned(),
                "tc qdisc add dev right root handle 2: netem limit 47343 delay 50000us 500us loss 5% duplicate 1% reorder 0.2% rate 30gbit"
                    .to_owned(),
                "ip link add ifbforward numrxqueues 1 numtxqueues 1 type ifb".to_owned(),
                "ip link set ifbforward up".to_owned(),
                "tc qdisc add dev ifbforward root handle 1: tbf rate 300000000bit burst 9375 limit 3750000".to_owned(),
                format!("tc filter add dev right egress {all} ifbforward"),
                "tc qdisc add dev left root handle 2: netem limit 1000".to_owned(),
                format!("tc filter add dev left ingress {all} right"),
                format!("tc filter add dev right ingress {all} left"),
            ]
        );
    }

    #[test]
    fn bursts_and_packet_queues_map_to_gemodel_and_pfifo() {
        let model = GilbertElliott { good_to_bad: 0.01, bad_to_good: 0.25, loss_good: 0.001, loss_bad: 0.9 };
        let forward = DirectionSpec {
            rate_bps: Some(570_000),
            queue_packets: Some(14),
            delay_ms: 28.0,
            gilbert_elliott: Some(model),
            ..DirectionSpec::default()
        };
        let commands = commands(forward, DirectionSpec::default());
        assert!(commands.iter().any(|c| c.ends_with("netem limit 1000 delay 28000us loss gemodel 1% 25% 90% 0.1%")), "{commands:#?}");
        assert!(commands.contains(&"tc qdisc add dev ifbforward parent 1:1 handle 10: pfifo limit 14".to_owned()), "{commands:#?}");
        assert!(commands.iter().any(|c| c.contains("tbf rate 570000bit burst 1669 limit 21252")), "{commands:#?}");
    }

    #[test]
    fn what_tc_cannot_do_is_named() {
        let late = DirectionSpec { delay_ms: 5.0, reorder: 0.1, reorder_extra_ms: Some(2.0), ..DirectionSpec::default() };
        let rate_trace = vec![RateStep { t_ms: 0.0, mbps: 0.0 }, RateStep { t_ms: 5.0, mbps: 1.0 }];
        let stops = DirectionSpec { rate_trace, queue_packets: Some(5), ..DirectionSpec::default() };
        for (spec, field) in [(late, "forward.reorder_extra_ms"), (stops, "forward.rate_trace")] {
            let scenario = Scenario::new("t", "", 1, spec, None).expect("valid");
            let error = plan(&scenario, "l", "r", 1500).unwrap_err().to_string();
            assert!(error.contains(field) && error.contains("--backend own"), "{error}");
        }
    }

    #[test]
    fn an_outage_is_a_change_to_full_loss() {
        let spec = DirectionSpec { delay_ms: 5.0, loss: Some(0.01), ..DirectionSpec::default() };
        let scenario = Scenario::new("t", "", 1, spec, None).expect("valid");
        let plan = plan(&scenario, "l", "r", 1500).expect("tc can do it");
        assert!(plan.directions[0].netem("change", true).join(" ").ends_with("delay 5000us loss 100%"));
        assert!(plan.directions[0].netem("change", false).join(" ").ends_with("delay 5000us loss 1%"));
    }

    #[test]
    fn the_kernels_counters_are_read() {
        let json = r#"[{"kind":"netem","handle":"2:","root":true,"options":{"limit":1000},"bytes":600,"packets":6,"drops":2,"overlimits":0,"requeues":0,"backlog":0,"qlen":3},{"kind":"clsact","handle":"ffff:","parent":"ffff:fff1"}]"#;
        assert_eq!(parse_qdisc(json, "netem"), Some(QdiscCounters { bytes: 600, packets: 6, drops: 2, qlen: 3 }));
        assert_eq!(parse_qdisc(json, "tbf"), None);
    }
}
