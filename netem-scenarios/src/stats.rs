//! What a run of a link reports, and the rule that says whether the run may be believed.

use serde::{Deserialize, Serialize};

use crate::flows::FlowAccount;
use crate::scenario::Scenario;

/// Bounds that a run must keep to be valid.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ValidityBounds {
    /// The 99th percentile of release lateness must not pass this, in microseconds.
    pub lateness_p99_us_max: f64,
    /// No release may be later than this, in microseconds.
    pub lateness_us_max: f64,
}

impl ValidityBounds {
    /// Bounds that fit a scenario: at the 99th percentile 1 ms, or 5 % of the shorter direction's delay if that is more; at worst 20 ms, or
    /// half of that delay. Below the first, what the emulator adds is less than the jitter of any real path of that length.
    #[must_use]
    pub fn for_scenario(scenario: &Scenario) -> Self {
        let delay_us = scenario.forward().delay_ns().min(scenario.reverse().delay_ns()) as f64 / 1e3;
        Self { lateness_p99_us_max: (0.05 * delay_us).max(1_000.0), lateness_us_max: (0.5 * delay_us).max(20_000.0) }
    }
}

/// Packets that the emulator itself failed to treat as the scenario says. Any of them voids the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OwnDrops {
    /// The receive ring was full (`tp_drops` of PACKET_STATISTICS).
    pub ring: u64,
    /// The packet store was full.
    pub store: u64,
    /// Frames larger than the interface's MTU allows: segmentation offload is on at an end.
    pub oversize: u64,
    /// Frames whose checksum was left to hardware that is not there: `tx` offload is on at an end.
    pub checksum: u64,
    /// The kernel refused to send.
    pub send: u64,
}

impl OwnDrops {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ring + self.store + self.oversize + self.checksum + self.send
    }
}

/// How late packets left, against the due time that the scenario gave them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Lateness {
    /// Packets in the figures.
    pub count: u64,
    /// Median in microseconds.
    pub p50_us: f64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
    /// Largest in microseconds.
    pub max_us: f64,
}

/// What packets found in the bottleneck's queue when they arrived: bytes of frames, the one being sent counted whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Backlog {
    /// Packets in the figures: all that arrived, dropped ones too.
    pub count: u64,
    /// Median in bytes.
    pub p50_bytes: u64,
    /// 95th percentile in bytes.
    pub p95_bytes: u64,
    /// Largest in bytes.
    pub max_bytes: u64,
}

/// What the kernel's own interface counters said over the run, as a second witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeviceWitness {
    /// Packets that came in on this direction's interface, counted before the last packets were read.
    pub received_min: u64,
    /// The same, counted after.
    pub received_max: u64,
    /// Packets that went out on the other interface.
    pub sent: u64,
    /// Packets that the other interface dropped on the way out.
    pub send_dropped: u64,
}

/// One direction's figures.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DirectionStats {
    /// Packets read.
    pub received: u64,
    /// Bytes of Ethernet frames read (no FCS).
    pub received_bytes: u64,
    /// Packets sent on, duplicates included.
    pub forwarded: u64,
    /// Bytes of frames sent on.
    pub forwarded_bytes: u64,
    /// Second copies made.
    pub duplicated: u64,
    /// Packets lost at random, as the scenario says.
    pub random_loss: u64,
    /// Packets that found the bottleneck's queue full.
    pub queue_drops: u64,
    /// Packets lost in an outage.
    pub outage_drops: u64,
    /// Packets larger than the path's MTU.
    #[serde(default)]
    pub mtu_drops: u64,
    /// Packets still held when the run ended.
    pub held: u64,
    /// Largest number of packets held at once.
    pub held_max: u64,
    /// What the emulator itself lost.
    pub own_drops: OwnDrops,
    /// Release lateness; absent for back ends that cannot tell.
    pub lateness: Option<Lateness>,
    /// The queue that packets found; absent for back ends that cannot tell.
    #[serde(default)]
    pub backlog: Option<Backlog>,
    /// Kernel interface counters; absent for back ends without own counters to compare.
    pub device: Option<DeviceWitness>,
}

impl DirectionStats {
    fn complaints(&self, name: &str, bounds: &ValidityBounds, reasons: &mut Vec<String>) {
        let own = self.own_drops;
        if own.total() > 0 {
            reasons.push(format!(
                "{name}: the emulator itself dropped {} packets (receive ring {}, store {}, oversize {}, checksum offload {}, send {})",
                own.total(),
                own.ring,
                own.store,
                own.oversize,
                own.checksum,
                own.send
            ));
        }
        let came = self.received + self.duplicated;
        let went = self.forwarded
            + self.random_loss
            + self.queue_drops
            + self.outage_drops
            + self.mtu_drops
            + self.held
            + own.store
            + own.oversize
            + own.checksum
            + own.send;
        if came != went {
            reasons.push(format!("{name}: packets are not conserved: {came} came in or were duplicated, {went} are accounted for"));
        }
        if let Some(lateness) = self.lateness {
            if lateness.p99_us > bounds.lateness_p99_us_max {
                reasons
                    .push(format!("{name}: release lateness p99 {:.0} µs is over {:.0} µs", lateness.p99_us, bounds.lateness_p99_us_max));
            }
            if lateness.max_us > bounds.lateness_us_max {
                reasons.push(format!("{name}: worst release lateness {:.0} µs is over {:.0} µs", lateness.max_us, bounds.lateness_us_max));
            }
        }
        if let Some(device) = self.device {
            let read = self.received + own.ring;
            if read < device.received_min || read > device.received_max {
                reasons.push(format!(
                    "{name}: the interface counted {} to {} packets in, the emulator {read}",
                    device.received_min, device.received_max
                ));
            }
            if device.send_dropped > 0 {
                reasons.push(format!("{name}: the interface dropped {} packets on the way out", device.send_dropped));
            }
            if device.sent != self.forwarded + device.send_dropped && device.sent != self.forwarded {
                reasons.push(format!("{name}: the interface counted {} packets out, the emulator {}", device.sent, self.forwarded));
            }
        }
    }
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmulatorStats {
    /// Name of the scenario.
    pub scenario: String,
    /// Seed of its random decisions.
    pub seed: u64,
    /// `own` or `tc`.
    pub backend: String,
    /// What carries the packets, such as `AF_PACKET TPACKET_V2`.
    pub base: String,
    /// Kernel release.
    pub kernel: String,
    /// Tick under load in microseconds; absent for back ends without one.
    pub tick_us: Option<u64>,
    /// Scheduling class of the emulator: `fifo` or `other` (then lateness suffers on a busy machine), `kernel` for tc.
    pub sched_class: String,
    /// When the link started, on CLOCK_MONOTONIC, in nanoseconds.
    pub start_monotonic_ns: u64,
    /// Length of the run in seconds.
    pub duration_s: f64,
    /// CPU time of the emulator process in seconds. It includes receive work of the next hop that the kernel runs in the sender's context.
    pub cpu_s: f64,
    /// Longest time between two rounds of the loop while packets were held, in microseconds.
    pub max_gap_us: f64,
    /// Load average of one minute, at the end.
    pub load_average_1m: f64,
    /// Share of the machine's CPU time that the hypervisor took away (0..=1).
    pub steal_share: f64,
    /// The bounds that were applied.
    pub bounds: ValidityBounds,
    /// Client → server.
    pub forward: DirectionStats,
    /// Server → client.
    pub reverse: DirectionStats,
    /// Who used the bottleneck when; absent unless flows were asked for.
    #[serde(default)]
    pub flows: Option<FlowAccount>,
    /// Whether results taken over this link may be used.
    pub valid: bool,
    /// Why not.
    pub invalid_reasons: Vec<String>,
}

impl EmulatorStats {
    /// Sets [`EmulatorStats::valid`] and the reasons from the figures.
    pub fn judge(&mut self) {
        let mut reasons = Vec::new();
        self.forward.complaints("forward", &self.bounds, &mut reasons);
        self.reverse.complaints("reverse", &self.bounds, &mut reasons);
        self.valid = reasons.is_empty();
        self.invalid_reasons = reasons;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn quiet_run() -> EmulatorStats {
        let direction = DirectionStats {
            received: 100,
            forwarded: 90,
            random_loss: 6,
            queue_drops: 2,
            held: 2,
            lateness: Some(Lateness { count: 90, p50_us: 30.0, p99_us: 80.0, max_us: 200.0 }),
            device: Some(DeviceWitness { received_min: 99, received_max: 100, sent: 90, send_dropped: 0 }),
            ..DirectionStats::default()
        };
        EmulatorStats {
            scenario: "test".into(),
            seed: 1,
            backend: "own".into(),
            base: String::new(),
            kernel: String::new(),
            tick_us: Some(50),
            sched_class: "fifo".into(),
            start_monotonic_ns: 0,
            duration_s: 1.0,
            cpu_s: 0.1,
            max_gap_us: 60.0,
            load_average_1m: 0.1,
            steal_share: 0.0,
            bounds: ValidityBounds { lateness_p99_us_max: 1_000.0, lateness_us_max: 20_000.0 },
            forward: direction.clone(),
            reverse: direction,
            flows: None,
            valid: false,
            invalid_reasons: Vec::new(),
        }
    }

    #[test]
    fn a_clean_run_is_valid() {
        let mut run = quiet_run();
        run.judge();
        assert!(run.valid, "{:?}", run.invalid_reasons);
    }

    #[test]
    fn each_fault_voids_the_run_and_is_named() {
        type Spoil = fn(&mut EmulatorStats);
        let faults: [(&str, Spoil); 8] = [
            ("receive ring 1", |s| {
                s.forward.own_drops.ring = 1;
                s.forward.device = None;
            }),
            ("store 1", |s| {
                s.forward.own_drops.store = 1;
                s.forward.received += 1;
                s.forward.device = None;
            }),
            ("not conserved", |s| s.reverse.held += 1),
            ("p99", |s| s.reverse.lateness = Some(Lateness { count: 1, p50_us: 1.0, p99_us: 1_000.1, max_us: 1_001.0 })),
            ("worst", |s| s.reverse.lateness = Some(Lateness { count: 1, p50_us: 1.0, p99_us: 1_000.0, max_us: 20_000.1 })),
            ("packets in", |s| s.forward.device = Some(DeviceWitness { received_min: 101, received_max: 101, sent: 90, send_dropped: 0 })),
            ("packets out", |s| s.forward.device = Some(DeviceWitness { received_min: 100, received_max: 100, sent: 89, send_dropped: 0 })),
            ("way out", |s| s.forward.device = Some(DeviceWitness { received_min: 100, received_max: 100, sent: 90, send_dropped: 1 })),
        ];
        for (words, spoil) in faults {
            let mut run = quiet_run();
            spoil(&mut run);
            run.judge();
            assert!(!run.valid, "{words} went unnoticed");
            assert_eq!(run.invalid_reasons.len(), 1, "{:?}", run.invalid_reasons);
            assert!(run.invalid_reasons[0].contains(words), "{words}: {:?}", run.invalid_reasons);
        }
    }
}
