//! Scenario files: what a wide-area path does to packets, in each direction.
//!
//! A scenario is TOML. Units are in the field names; fields that do not exist are refused; what is read is checked as a whole, and the
//! message names the field. Directions are seen from the client: `forward` is client → server, `reverse` is server → client.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::timeline::{Outages, RateTimeline};
use crate::trace_file::{self, TraceFileError};

/// Smallest queue that lets a full Ethernet frame of MTU 1500 (1,514 bytes without FCS) through.
pub const QUEUE_BYTES_MIN: u64 = 1514;
/// Longest delay, jitter or extra delay that a scenario may ask for.
pub const DELAY_MS_MAX: f64 = 60_000.0;
/// Lowest rate that a scenario may ask for, in bits per second.
pub const RATE_BPS_MIN: u64 = 1_000;
/// Highest rate that a scenario may ask for, in bits per second.
pub const RATE_BPS_MAX: u64 = 1_000_000_000_000;
/// Most steps in a rate trace.
pub const RATE_TRACE_STEPS_MAX: usize = 1_000_000;

/// Why a scenario could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file could not be read.
    #[error("cannot read scenario {}: {source}; check the path", path.display())]
    Read {
        /// The file that was asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not TOML, or has a field that scenarios do not have, or a value of the wrong type.
    #[error("scenario does not parse: {0}")]
    Parse(#[from] Box<toml::de::Error>),
    /// A value is out of range or contradicts another one.
    #[error("scenario field `{field}`: {problem}")]
    Invalid {
        /// The field, with its direction, such as `forward.loss`.
        field: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// The rate trace that the scenario names could not be used.
    #[error("scenario field `{field}`: {source}")]
    Trace {
        /// The field, with its direction.
        field: String,
        /// What is wrong with the file.
        source: TraceFileError,
    },
}

/// Two-state burst loss (Gilbert 1960, Elliott 1963). All four are probabilities per packet, 0..=1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GilbertElliott {
    /// Probability that the good state is followed by the bad one.
    pub good_to_bad: f64,
    /// Probability that the bad state is followed by the good one. Mean stay in the bad state = 1 / this, in packets.
    pub bad_to_good: f64,
    /// Loss probability in the good state.
    #[serde(default)]
    pub loss_good: f64,
    /// Loss probability in the bad state. Default 1.
    #[serde(default = "one")]
    pub loss_bad: f64,
}

fn one() -> f64 {
    1.0
}

impl GilbertElliott {
    /// Share of packets that are in the bad state in the long run.
    #[must_use]
    pub fn bad_share(&self) -> f64 {
        self.good_to_bad / (self.good_to_bad + self.bad_to_good)
    }

    /// Share of packets that are lost in the long run.
    #[must_use]
    pub fn mean_loss(&self) -> f64 {
        let bad = self.bad_share();
        bad * self.loss_bad + (1.0 - bad) * self.loss_good
    }
}

/// One step of a rate trace: from `t_ms` after the start of the link, the rate is `mbps`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateStep {
    /// Start of the step in milliseconds since the link started. The first step starts at 0; steps ascend.
    pub t_ms: f64,
    /// Rate of the step in Mbit/s (10^6 bits per second). 0 stops the link: the queue holds.
    pub mbps: f64,
}

/// A time in which everything that leaves the bottleneck is lost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// Start in milliseconds since the link started.
    pub start_ms: f64,
    /// Length in milliseconds.
    pub duration_ms: f64,
    /// Repeats with this period in milliseconds. Absent: happens once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<f64>,
}

/// One direction as the user writes it. `Default` is a wire that does nothing to packets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DirectionSpec {
    /// Bottleneck rate in bits per second of Ethernet frames (header counted, FCS not, as `tc` counts). Absent: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_bps: Option<u64>,
    /// One-way propagation delay in milliseconds. Default 0.
    pub delay_ms: f64,
    /// Jitter in milliseconds: the delay is uniform in `delay_ms` ± this. Default 0; at most `delay_ms`.
    pub jitter_ms: f64,
    /// Jitter never lets a packet overtake an earlier one. Default false: each packet's jitter is independent and packets overtake.
    pub jitter_keeps_order: bool,
    /// Probability that a packet is lost, independently of the others, behind the bottleneck. Default 0. Excludes `gilbert_elliott`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Probability that a packet is sent without the delay (what `tc netem reorder` does), or late by `reorder_extra_ms` if that is set. Default 0.
    pub reorder: f64,
    /// Reordered packets are late by this many milliseconds instead of early by the whole delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder_extra_ms: Option<f64>,
    /// Probability that a packet arrives twice. Default 0.
    pub duplicate: f64,
    /// Bottleneck queue in bytes (drop-tail; the packet being sent counts). Exactly one of the three `queue_*` fields goes with a rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_bytes: Option<u64>,
    /// Bottleneck queue in milliseconds at the rate (at the highest rate of a trace).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<f64>,
    /// Bottleneck queue in packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_packets: Option<u32>,
    /// The trace starts again after this many milliseconds. Absent: the last step's rate stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_trace_period_ms: Option<f64>,
    /// A rate trace in a file beside the scenario: `t_ms,mbps` lines (`.csv`) or a Mahimahi trace (any other name). Excludes `rate_trace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_trace_file: Option<PathBuf>,
    /// Burst loss. Excludes `loss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gilbert_elliott: Option<GilbertElliott>,
    /// Rate over time. Excludes `rate_bps`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rate_trace: Vec<RateStep>,
    /// Times without any delivery.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outages: Vec<Outage>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioText {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default = "default_seed")]
    seed: u64,
    forward: DirectionSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reverse: Option<DirectionSpec>,
}

fn default_seed() -> u64 {
    1
}

/// How a direction loses packets at random.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LossModel {
    /// Nothing is lost at random.
    None,
    /// Independent loss with this probability.
    Independent(f64),
    /// Burst loss.
    GilbertElliott(GilbertElliott),
}

/// Drop-tail limit of the bottleneck queue. Packets count until their last bit has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueLimit {
    /// At most so many bytes of frames.
    Bytes(u64),
    /// At most so many packets.
    Packets(u32),
}

/// What reordering does to a packet that it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReorderEffect {
    /// The packet skips the delay (and so overtakes those sent up to `delay` before it).
    SkipDelay,
    /// The packet is late by so many nanoseconds.
    ExtraDelayNs(u64),
}

/// One direction, checked and in the units of [`crate::link::Link`].
#[derive(Debug, Clone, PartialEq)]
pub struct Direction {
    pub(crate) rate: RateTimeline,
    pub(crate) queue: Option<QueueLimit>,
    pub(crate) delay_ns: u64,
    pub(crate) jitter_ns: u64,
    pub(crate) jitter_keeps_order: bool,
    pub(crate) loss: LossModel,
    pub(crate) reorder: f64,
    pub(crate) reorder_effect: ReorderEffect,
    pub(crate) duplicate: f64,
    pub(crate) outages: Outages,
}

impl Direction {
    /// The bottleneck's rate over time.
    #[must_use]
    pub fn rate(&self) -> &RateTimeline {
        &self.rate
    }

    /// The bottleneck's drop-tail limit; `None` where the rate is unlimited.
    #[must_use]
    pub fn queue(&self) -> Option<QueueLimit> {
        self.queue
    }

    /// One-way propagation delay in nanoseconds.
    #[must_use]
    pub fn delay_ns(&self) -> u64 {
        self.delay_ns
    }

    /// Half the width of the uniform jitter, in nanoseconds.
    #[must_use]
    pub fn jitter_ns(&self) -> u64 {
        self.jitter_ns
    }

    /// Whether jitter leaves packets in order.
    #[must_use]
    pub fn jitter_keeps_order(&self) -> bool {
        self.jitter_keeps_order
    }

    /// The random loss.
    #[must_use]
    pub fn loss(&self) -> LossModel {
        self.loss
    }

    /// Share of packets lost at random in the long run; outages are not in it.
    #[must_use]
    pub fn mean_loss(&self) -> f64 {
        match self.loss {
            LossModel::None => 0.0,
            LossModel::Independent(probability) => probability,
            LossModel::GilbertElliott(model) => model.mean_loss(),
        }
    }

    /// Probability that a packet is reordered.
    #[must_use]
    pub fn reorder(&self) -> f64 {
        self.reorder
    }

    /// What being reordered means.
    #[must_use]
    pub fn reorder_effect(&self) -> ReorderEffect {
        self.reorder_effect
    }

    /// Probability that a packet is duplicated.
    #[must_use]
    pub fn duplicate(&self) -> f64 {
        self.duplicate
    }

    /// The times without any delivery.
    #[must_use]
    pub fn outages(&self) -> &Outages {
        &self.outages
    }

    /// Bytes that may be inside this direction at once (queue and flight), with `rate_bps_if_unlimited` where the scenario sets no rate.
    #[must_use]
    pub fn bytes_inside_max(&self, rate_bps_if_unlimited: u64, frame_bytes_max: u64) -> u64 {
        let rate = self.rate.max_bps().unwrap_or(rate_bps_if_unlimited);
        let extra = match self.reorder_effect {
            ReorderEffect::ExtraDelayNs(ns) if self.reorder > 0.0 => ns,
            _ => 0,
        };
        let flight_ns = self.delay_ns + self.jitter_ns + extra;
        let flight = u128::from(rate) * u128::from(flight_ns) / 8_000_000_000;
        let queue = match self.queue {
            Some(QueueLimit::Bytes(bytes)) => bytes,
            Some(QueueLimit::Packets(packets)) => u64::from(packets) * frame_bytes_max,
            None => 0,
        };
        let once = flight as u64 + queue;
        (once as f64 * (1.0 + self.duplicate)) as u64
    }
}

/// A path between a client and a server, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    name: String,
    description: String,
    seed: u64,
    forward_spec: DirectionSpec,
    reverse_spec: Option<DirectionSpec>,
    forward: Direction,
    reverse: Direction,
}

impl Scenario {
    /// Builds a scenario from its parts. `reverse: None` means the same as `forward` (with its own random numbers).
    ///
    /// # Errors
    /// [`ScenarioError::Invalid`] or [`ScenarioError::Trace`], naming the field.
    pub fn new(
        name: &str,
        description: &str,
        seed: u64,
        forward: DirectionSpec,
        reverse: Option<DirectionSpec>,
    ) -> Result<Self, ScenarioError> {
        Self::build(ScenarioText { name: name.to_owned(), description: description.to_owned(), seed, forward, reverse }, Path::new("."))
    }

    /// Parses and checks scenario text. Trace files are looked for in the current directory.
    ///
    /// # Errors
    /// [`ScenarioError`] says what is wrong and where.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        Self::build(toml::from_str(text).map_err(Box::new)?, Path::new("."))
    }

    /// Reads, parses and checks a scenario file. Trace files are looked for beside it.
    ///
    /// # Errors
    /// [`ScenarioError`] says what is wrong and where.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        Self::build(toml::from_str(&text).map_err(Box::new)?, path.parent().unwrap_or(Path::new(".")))
    }

    /// The scenario as TOML that [`Scenario::from_toml`] reads back.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let text = ScenarioText {
            name: self.name.clone(),
            description: self.description.clone(),
            seed: self.seed,
            forward: self.forward_spec.clone(),
            reverse: self.reverse_spec.clone(),
        };
        toml::to_string(&text).expect("plain numbers, strings and arrays of tables always serialise")
    }

    /// The same scenario with the steps of its trace files written out, so that its TOML needs no other file.
    #[must_use]
    pub fn self_contained(&self) -> Self {
        let mut scenario = self.clone();
        let write_out = |spec: &mut DirectionSpec, direction: &Direction| {
            if let (Some(_), RateTimeline::Steps { segments, period_ns }) = (spec.rate_trace_file.take(), &direction.rate) {
                spec.rate_trace = segments.iter().map(|s| RateStep { t_ms: s.start_ns as f64 / 1e6, mbps: s.bps as f64 / 1e6 }).collect();
                spec.rate_trace_period_ms = period_ns.map(|ns| ns as f64 / 1e6);
            }
        };
        write_out(&mut scenario.forward_spec, &scenario.forward);
        if let Some(spec) = &mut scenario.reverse_spec {
            write_out(spec, &scenario.reverse);
        }
        scenario
    }

    fn build(text: ScenarioText, folder: &Path) -> Result<Self, ScenarioError> {
        if text.name.is_empty() || text.name.len() > 64 || text.name.chars().any(|c| c.is_control() || c == '/') {
            return Err(invalid("name", "must have 1 to 64 characters, no slash and no control characters"));
        }
        let forward = text.forward.check("forward", folder)?;
        let reverse = match &text.reverse {
            Some(spec) => spec.check("reverse", folder)?,
            None => forward.clone(),
        };
        Ok(Self {
            name: text.name,
            description: text.description,
            seed: text.seed,
            forward_spec: text.forward,
            reverse_spec: text.reverse,
            forward,
            reverse,
        })
    }

    /// Short name, also a file name stem.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the path stands for and where its figures come from.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Seed of every random decision.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The same path with other luck.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Client → server.
    #[must_use]
    pub fn forward(&self) -> &Direction {
        &self.forward
    }

    /// Server → client.
    #[must_use]
    pub fn reverse(&self) -> &Direction {
        &self.reverse
    }

    /// Round-trip propagation time in milliseconds: both delays, without queues and serialisation.
    #[must_use]
    pub fn rtt_ms(&self) -> f64 {
        (self.forward.delay_ns + self.reverse.delay_ns) as f64 / 1e6
    }

    /// What a perfect sender can deliver client → server, in bits of payload per second: rate × (1 − loss) × `payload_share`, where
    /// `payload_share` is payload bytes over frame bytes (0..=1). Mean rate for a trace that repeats, last rate for one that does not;
    /// repeating outages count as loss. `None` where the rate is unlimited.
    #[must_use]
    pub fn bound_goodput_bps(&self, payload_share: f64) -> Option<f64> {
        let rate = self.forward.rate.long_run_bps()?;
        Some(rate * (1.0 - self.forward.mean_loss()) * (1.0 - self.forward.outages.long_run_share()) * payload_share)
    }
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> ScenarioError {
    ScenarioError::Invalid { field: field.into(), problem: problem.into() }
}

impl DirectionSpec {
    fn check(&self, name: &str, folder: &Path) -> Result<Direction, ScenarioError> {
        let field = |suffix: &str| format!("{name}.{suffix}");
        let milliseconds = |suffix: &str, value: f64| -> Result<u64, ScenarioError> {
            if !(0.0..=DELAY_MS_MAX).contains(&value) {
                return Err(invalid(field(suffix), format!("{value} is not within 0..={DELAY_MS_MAX} ms")));
            }
            Ok((value * 1e6).round() as u64)
        };
        let probability = |suffix: &str, value: f64| -> Result<f64, ScenarioError> {
            if !(0.0..=1.0).contains(&value) {
                return Err(invalid(field(suffix), format!("{value} is not a probability; it must be within 0..=1 (5 % is 0.05)")));
            }
            Ok(value)
        };
        let delay_ns = milliseconds("delay_ms", self.delay_ms)?;
        let jitter_ns = milliseconds("jitter_ms", self.jitter_ms)?;
        if jitter_ns > delay_ns {
            return Err(invalid(field("jitter_ms"), format!("{} ms is more than delay_ms {}", self.jitter_ms, self.delay_ms)));
        }
        let rate = self.check_rate(name, folder)?;
        let queue = self.check_queue(name, &rate)?;
        let loss = match (self.loss, self.gilbert_elliott) {
            (Some(_), Some(_)) => return Err(invalid(field("loss"), "excludes gilbert_elliott; keep one of them")),
            (None, None) => LossModel::None,
            (Some(value), None) if probability("loss", value)? == 0.0 => LossModel::None,
            (Some(value), None) => LossModel::Independent(value),
            (None, Some(model)) => {
                probability("gilbert_elliott.good_to_bad", model.good_to_bad)?;
                probability("gilbert_elliott.bad_to_good", model.bad_to_good)?;
                probability("gilbert_elliott.loss_good", model.loss_good)?;
                probability("gilbert_elliott.loss_bad", model.loss_bad)?;
                if model.bad_to_good == 0.0 {
                    return Err(invalid(field("gilbert_elliott.bad_to_good"), "is 0: the bad state would never end"));
                }
                LossModel::GilbertElliott(model)
            }
        };
        let reorder = probability("reorder", self.reorder)?;
        let reorder_effect = match self.reorder_extra_ms {
            Some(_) if reorder == 0.0 => return Err(invalid(field("reorder_extra_ms"), "needs reorder above 0")),
            Some(value) => ReorderEffect::ExtraDelayNs(milliseconds("reorder_extra_ms", value)?),
            None if reorder > 0.0 && delay_ns == 0 => {
                return Err(invalid(field("reorder"), "needs delay_ms above 0 (a reordered packet skips the delay) or reorder_extra_ms"));
            }
            None => ReorderEffect::SkipDelay,
        };
        let duplicate = probability("duplicate", self.duplicate)?;
        let outages = Outages::new(&self.outages).map_err(|problem| invalid(field("outages"), problem))?;
        Ok(Direction {
            rate,
            queue,
            delay_ns,
            jitter_ns,
            jitter_keeps_order: self.jitter_keeps_order,
            loss,
            reorder,
            reorder_effect,
            duplicate,
            outages,
        })
    }

    fn check_rate(&self, name: &str, folder: &Path) -> Result<RateTimeline, ScenarioError> {
        let field = |suffix: &str| format!("{name}.{suffix}");
        let sources =
            usize::from(self.rate_bps.is_some()) + usize::from(!self.rate_trace.is_empty()) + usize::from(self.rate_trace_file.is_some());
        if sources > 1 {
            return Err(invalid(field("rate_bps"), "rate_bps, rate_trace and rate_trace_file exclude each other; keep one of them"));
        }
        if let Some(rate_bps) = self.rate_bps {
            if !(RATE_BPS_MIN..=RATE_BPS_MAX).contains(&rate_bps) {
                return Err(invalid(
                    field("rate_bps"),
                    format!("{rate_bps} is not within {RATE_BPS_MIN}..={RATE_BPS_MAX} bits per second"),
                ));
            }
            if self.rate_trace_period_ms.is_some() {
                return Err(invalid(field("rate_trace_period_ms"), "needs rate_trace or rate_trace_file"));
            }
            return Ok(RateTimeline::Constant { bps: rate_bps });
        }
        let (steps, file_period_ms) = match &self.rate_trace_file {
            Some(file) => {
                let trace = trace_file::read(&folder.join(file))
                    .map_err(|source| ScenarioError::Trace { field: field("rate_trace_file"), source })?;
                (trace.steps, trace.period_ms)
            }
            None => (self.rate_trace.clone(), None),
        };
        let period_ms = self.rate_trace_period_ms.or(file_period_ms);
        if steps.is_empty() {
            if period_ms.is_some() {
                return Err(invalid(field("rate_trace_period_ms"), "needs rate_trace or rate_trace_file"));
            }
            return Ok(RateTimeline::Unlimited);
        }
        RateTimeline::from_steps(&steps, period_ms).map_err(|problem| invalid(field("rate_trace"), problem))
    }

    fn check_queue(&self, name: &str, rate: &RateTimeline) -> Result<Option<QueueLimit>, ScenarioError> {
        let field = format!("{name}.queue_bytes");
        let given =
            usize::from(self.queue_bytes.is_some()) + usize::from(self.queue_ms.is_some()) + usize::from(self.queue_packets.is_some());
        let Some(max_bps) = rate.max_bps() else {
            if given > 0 {
                return Err(invalid(field, "a queue needs a rate: set rate_bps or rate_trace, or remove the queue"));
            }
            return Ok(None);
        };
        if given != 1 {
            return Err(invalid(field, "set exactly one of queue_bytes, queue_ms and queue_packets beside a rate"));
        }
        if let Some(packets) = self.queue_packets {
            if packets == 0 {
                return Err(invalid(format!("{name}.queue_packets"), "must be at least 1"));
            }
            return Ok(Some(QueueLimit::Packets(packets)));
        }
        let bytes = match (self.queue_bytes, self.queue_ms) {
            (Some(bytes), _) => bytes,
            (None, Some(ms)) if (0.0..=DELAY_MS_MAX).contains(&ms) => (max_bps as f64 * ms / 8000.0).round() as u64,
            (None, ms) => {
                return Err(invalid(format!("{name}.queue_ms"), format!("{} is not within 0..={DELAY_MS_MAX} ms", ms.unwrap_or(f64::NAN))));
            }
        };
        if bytes < QUEUE_BYTES_MIN {
            return Err(invalid(field, format!("{bytes} bytes hold no full frame; the least is {QUEUE_BYTES_MIN} (or use queue_packets)")));
        }
        Ok(Some(QueueLimit::Bytes(bytes)))
    }
}
