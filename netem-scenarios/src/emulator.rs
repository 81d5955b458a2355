//! Our own emulator: plays a scenario between two interfaces with AF_PACKET sockets, in one thread.
//!
//! Arrival times come from the kernel; what happens to a packet is decided by [`crate::link`] from them, so a late wake-up of this
//! process never changes a decision, only (measured, and judged) the moment of release.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::flows::{Fate, FlowMeter, FlowSpec};
use crate::link::{DropReason, Link, Verdict, Way};
use crate::middlebox::Middlebox;
use crate::scenario::Scenario;
use crate::stats::{Backlog, DeviceWitness, DirectionStats, EmulatorStats, Lateness, ValidityBounds};
use crate::store::{DueQueue, Held, PacketStore};
use crate::sys;

/// Rate assumed for a direction without one when memory is reserved, in bits per second.
const UNLIMITED_RATE_ASSUMED_BPS: u64 = 2_000_000_000;
/// Frames read from one interface before the other gets its turn and due packets leave.
const RECEIVE_BATCH_FRAMES: usize = 256;
/// Longest wait without looking at the stop flag.
const IDLE_WAIT_NS: u64 = 100_000_000;
/// The loop counts as loaded for so long after a packet came in: it sleeps by the clock instead of waking for each packet.
const ACTIVE_NS: u64 = 1_000_000;
/// Longest sleep while loaded.
const ACTIVE_SLEEP_NS_MAX: u64 = 500_000;
/// A loop that found no time to sleep for so long takes a nap: a busy SCHED_FIFO thread would be frozen by the kernel for 50 ms instead.
const BUSY_NS_MAX: u64 = 20_000_000;
/// How often the relation of the two clocks is measured again.
const CLOCK_CHECK_NS: u64 = 10_000_000;
/// How often the parent process is looked at.
const PARENT_CHECK_NS: u64 = 1_000_000_000;
/// Ethernet header and one VLAN tag.
const LINK_HEADER_BYTES: usize = 18;
/// Largest queue that the histogram tells apart, in bytes.
const BACKLOG_BYTES_MAX: u64 = 1 << 36;
/// Largest lateness that the histogram tells apart, in nanoseconds.
const LATENESS_NS_MAX: u64 = 60_000_000_000;

/// How to run.
#[derive(Debug, Clone)]
pub struct EmulatorOptions {
    /// Interface towards the client.
    pub left: String,
    /// Interface towards the server.
    pub right: String,
    /// Shortest sleep under load. Shorter releases packets closer to their due time and costs more CPU: at 300 Mbit/s both ways
    /// 50 µs cost a third more CPU than 100 µs and released 30 µs earlier in the median. Default 100 µs.
    pub tick: Duration,
    /// Ask for SCHED_FIFO. Default true; a refusal is reported in the statistics, not an error.
    pub realtime: bool,
    /// Frames in each receive ring. Default 8192.
    pub ring_frames: usize,
    /// Bytes of frames that each direction can hold at most. Default: what the scenario needs, and no more than 1 GiB.
    pub store_bytes_max: u64,
    /// Flows to keep an account of, and perhaps to delay more. Default: none.
    pub flows: Vec<FlowSpec>,
    /// NAT and MTU on the way. Default: none.
    pub middlebox: Middlebox,
    /// Bounds for a valid run. Default: [`ValidityBounds::for_scenario`].
    pub bounds: Option<ValidityBounds>,
    /// Ends when this process is no longer the parent.
    pub parent_pid: Option<u32>,
}

impl EmulatorOptions {
    /// Defaults, between two interfaces.
    #[must_use]
    pub fn new(left: &str, right: &str) -> Self {
        Self {
            left: left.to_owned(),
            right: right.to_owned(),
            tick: Duration::from_micros(100),
            realtime: true,
            ring_frames: 8192,
            store_bytes_max: 1 << 30,
            flows: Vec::new(),
            middlebox: Middlebox::default(),
            bounds: None,
            parent_pid: None,
        }
    }

    pub(crate) fn bounds_for(&self, scenario: &Scenario) -> ValidityBounds {
        self.bounds.unwrap_or_else(|| ValidityBounds::for_scenario(scenario))
    }

    /// MTU of the path in bytes: the smaller one of the two interfaces.
    ///
    /// # Errors
    /// [`EmulatorError::Interface`] if an interface is not there.
    pub fn mtu_bytes(&self) -> Result<u32, EmulatorError> {
        let mtu = read_sys_number(&self.left, "mtu")?.min(read_sys_number(&self.right, "mtu")?);
        Ok(mtu.min(u64::from(u32::MAX)) as u32)
    }
}

/// Why the emulator could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// An interface is not there or cannot be read about.
    #[error("cannot read {}: {source}; is the interface name right, and are we in the middle namespace?", path.display())]
    Interface {
        /// The file under /sys/class/net.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A packet socket could not be opened.
    #[error("cannot open a packet socket on {interface}: {source}; it needs CAP_NET_RAW and CAP_NET_ADMIN (run as root)")]
    Socket {
        /// The interface.
        interface: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Waiting for packets or reading counters failed.
    #[error("the emulator's packet socket failed: {0}")]
    Io(#[from] std::io::Error),
}

fn read_sys_number(interface: &str, file: &str) -> Result<u64, EmulatorError> {
    let path = Path::new("/sys/class/net").join(interface).join(file);
    let text = std::fs::read_to_string(&path).map_err(|source| EmulatorError::Interface { path: path.clone(), source })?;
    text.trim().parse().map_err(|_| EmulatorError::Interface { path, source: std::io::ErrorKind::InvalidData.into() })
}

/// The kernel's counters of one direction's two interfaces.
#[derive(Debug, Clone, Copy, Default)]
struct DeviceCounters {
    received: u64,
    sent: u64,
    send_dropped: u64,
}

/// One direction: from one interface, through the link, out of the other.
struct Lane {
    ring: sys::ReceiveRing,
    sender: sys::PacketSender,
    link: Link,
    queue: DueQueue,
    store: PacketStore,
    stats: DirectionStats,
    lateness: Histogram<u64>,
    /// Bytes that packets found in the bottleneck's queue.
    backlog: Histogram<u64>,
    flows: FlowMeter,
    middlebox: Middlebox,
    way: Way,
    start_ns: u64,
    input: String,
    output: String,
    at_start: DeviceCounters,
}

impl Lane {
    fn open(scenario: &Scenario, way: Way, options: &EmulatorOptions, start_ns: u64) -> Result<Self, EmulatorError> {
        let (input, output) = match way {
            Way::Forward => (&options.left, &options.right),
            Way::Reverse => (&options.right, &options.left),
        };
        let direction = match way {
            Way::Forward => scenario.forward(),
            Way::Reverse => scenario.reverse(),
        };
        let mtu = read_sys_number(input, "mtu")?.min(9_000) as usize;
        let frame_bytes_max = mtu + LINK_HEADER_BYTES;
        // Twice what the path holds, and 50 ms more: packets of the last ring-full are held before the first of them is released.
        let flows = FlowMeter::new(&options.flows, way);
        let rate_bytes_per_s = direction.rate().max_bps().unwrap_or(UNLIMITED_RATE_ASSUMED_BPS) / 8;
        let needed = 2 * direction.bytes_inside_max(UNLIMITED_RATE_ASSUMED_BPS, frame_bytes_max as u64)
            + 2 * (rate_bytes_per_s * (flows.extra_delay_ns_max() / 1_000_000) / 1_000)
            + rate_bytes_per_s / 20
            + (1 << 20);
        let socket = |source| EmulatorError::Socket { interface: input.clone(), source };
        let ring = sys::ReceiveRing::open(input, frame_bytes_max, options.ring_frames).map_err(socket)?;
        let sender = sys::PacketSender::open(output).map_err(|source| EmulatorError::Socket { interface: output.clone(), source })?;
        let mut lane = Self {
            ring,
            sender,
            link: Link::new(scenario, way, start_ns),
            queue: DueQueue::default(),
            store: PacketStore::new(needed.min(options.store_bytes_max), frame_bytes_max),
            stats: DirectionStats::default(),
            lateness: Histogram::new_with_max(LATENESS_NS_MAX, 3).expect("the bounds are constants that the histogram accepts"),
            backlog: Histogram::new_with_max(BACKLOG_BYTES_MAX, 3).expect("the bounds are constants that the histogram accepts"),
            flows,
            middlebox: options.middlebox.clone(),
            way,
            start_ns,
            input: input.clone(),
            output: output.clone(),
            at_start: DeviceCounters::default(),
        };
        lane.at_start = lane.counters()?;
        Ok(lane)
    }

    fn counters(&self) -> Result<DeviceCounters, EmulatorError> {
        Ok(DeviceCounters {
            received: read_sys_number(&self.input, "statistics/rx_packets")?,
            sent: read_sys_number(&self.output, "statistics/tx_packets")?,
            send_dropped: read_sys_number(&self.output, "statistics/tx_dropped")?,
        })
    }

    /// Reads waiting frames, decides about each, keeps those that will be delivered. `realtime_offset_ns` turns kernel stamps into
    /// monotonic time; `now_ns` bounds them.
    fn receive(&mut self, realtime_offset_ns: i64, now_ns: u64) -> usize {
        let Self { ring, link, queue, store, stats, backlog, flows, middlebox, way, start_ns, .. } = self;
        ring.receive(RECEIVE_BATCH_FRAMES, |frame| {
            stats.received += 1;
            stats.received_bytes += u64::from(frame.wire_bytes);
            match frame.fault {
                Some(sys::FrameFault::Oversize) => return stats.own_drops.oversize += 1,
                Some(sys::FrameFault::ChecksumMissing) => return stats.own_drops.checksum += 1,
                None => {}
            }
            let arrival_ns = ((frame.realtime_ns as i64 - realtime_offset_ns).max(0) as u64).min(now_ns);
            let elapsed_ns = arrival_ns.saturating_sub(*start_ns);
            if middlebox.drops(elapsed_ns, frame.wire_bytes) {
                return stats.mtu_drops += 1;
            }
            let found_bytes = link.backlog_bytes(arrival_ns);
            backlog.saturating_record(found_bytes);
            flows.record_backlog(elapsed_ns, found_bytes);
            let flow = flows.classify(frame.untagged());
            let mut tell = |fate| {
                if let Some((index, _)) = flow {
                    flows.record(index, frame.wire_bytes, fate);
                }
            };
            let (due_ns, second_ns) = match link.offer(arrival_ns, frame.wire_bytes) {
                Verdict::Drop(DropReason::Queue) => {
                    tell(Fate::QueueDrop);
                    return stats.queue_drops += 1;
                }
                Verdict::Drop(DropReason::Outage) => {
                    tell(Fate::Lost);
                    return stats.outage_drops += 1;
                }
                Verdict::Drop(DropReason::Random) => {
                    tell(Fate::Lost);
                    return stats.random_loss += 1;
                }
                Verdict::Deliver { due_ns, duplicate_due_ns } => {
                    let extra_ns = flow.map_or(0, |(_, extra_ns)| extra_ns);
                    tell(Fate::Delivered((due_ns + extra_ns).saturating_sub(*start_ns)));
                    (due_ns + extra_ns, duplicate_due_ns.map(|due_ns| due_ns + extra_ns))
                }
            };
            stats.duplicated += u64::from(second_ns.is_some());
            for due_ns in [Some(due_ns), second_ns].into_iter().flatten() {
                match store.take(frame.wire_bytes as usize) {
                    None => stats.own_drops.store += 1,
                    Some(slot) => {
                        frame.write_to(store.frame_mut(&slot));
                        middlebox.translate(*way, elapsed_ns, store.frame_mut(&slot));
                        queue.push(due_ns, slot);
                    }
                }
            }
            stats.held_max = stats.held_max.max(queue.len() as u64);
        })
    }

    /// Sends what is due, at most one batch; returns how many.
    fn release(&mut self, now_ns: u64) -> usize {
        let mut batch: [Option<Held>; sys::BATCH_FRAMES] = [const { None }; sys::BATCH_FRAMES];
        let mut frames: [&[u8]; sys::BATCH_FRAMES] = [&[]; sys::BATCH_FRAMES];
        let mut count = 0;
        while count < batch.len() {
            let Some(held) = self.queue.pop_due(now_ns) else { break };
            frames[count] = self.store.frame(&held.slot);
            batch[count] = Some(held);
            count += 1;
        }
        let mut sent = 0;
        while sent < count {
            match self.sender.send(&frames[sent..count]) {
                Ok(taken) => {
                    let after_ns = sys::monotonic_ns();
                    for (held, frame) in batch[sent..sent + taken].iter().flatten().zip(&frames[sent..]) {
                        self.lateness.saturating_record(after_ns.saturating_sub(held.due_ns));
                        self.stats.forwarded += 1;
                        self.stats.forwarded_bytes += frame.len() as u64;
                    }
                    sent += taken;
                }
                // The driver or the next hop's backlog refused the frame. A real wire would not; it counts against the run.
                Err(_) => {
                    self.stats.own_drops.send += 1;
                    sent += 1;
                }
            }
        }
        for held in batch.into_iter().flatten() {
            self.store.release(held.slot);
        }
        count
    }

    fn finish(&mut self, realtime_offset_ns: i64) -> Result<DirectionStats, EmulatorError> {
        let before = self.counters()?;
        while self.receive(realtime_offset_ns, sys::monotonic_ns()) > 0 {}
        let after = self.counters()?;
        let mut stats = self.stats.clone();
        stats.own_drops.ring = self.ring.dropped()?;
        stats.held = self.queue.len() as u64;
        stats.lateness = Some(Lateness {
            count: self.lateness.len(),
            p50_us: self.lateness.value_at_quantile(0.5) as f64 / 1e3,
            p99_us: self.lateness.value_at_quantile(0.99) as f64 / 1e3,
            max_us: self.lateness.max() as f64 / 1e3,
        });
        stats.backlog = Some(Backlog {
            count: self.backlog.len(),
            p50_bytes: self.backlog.value_at_quantile(0.5),
            p95_bytes: self.backlog.value_at_quantile(0.95),
            max_bytes: self.backlog.max(),
        });
        stats.device = Some(DeviceWitness {
            received_min: before.received - self.at_start.received,
            received_max: after.received - self.at_start.received,
            sent: after.sent - self.at_start.sent,
            send_dropped: after.send_dropped - self.at_start.send_dropped,
        });
        Ok(stats)
    }
}

/// A link between two interfaces, ready to run.
pub struct Emulator {
    lanes: [Lane; 2],
    options: EmulatorOptions,
    scenario: Scenario,
    start_ns: u64,
    sched_class: &'static str,
    machine_at_start: MachineTimes,
}

impl Emulator {
    /// Opens the sockets and starts the link's time.
    ///
    /// # Errors
    /// [`EmulatorError`] if an interface is not there or a socket is refused.
    pub fn open(scenario: &Scenario, options: &EmulatorOptions) -> Result<Self, EmulatorError> {
        let realtime = options.realtime && sys::set_realtime_class().is_ok();
        sys::set_fine_timers()?;
        let start_ns = sys::monotonic_ns();
        let forward = Lane::open(scenario, Way::Forward, options, start_ns)?;
        let reverse = Lane::open(scenario, Way::Reverse, options, start_ns)?;
        Ok(Self {
            lanes: [forward, reverse],
            options: options.clone(),
            scenario: scenario.clone(),
            start_ns,
            sched_class: if realtime { "fifo" } else { "other" },
            machine_at_start: MachineTimes::read(),
        })
    }

    /// When the link started: CLOCK_MONOTONIC in nanoseconds. Rate traces and outages count from here.
    #[must_use]
    pub fn start_monotonic_ns(&self) -> u64 {
        self.start_ns
    }

    /// Carries packets until `stop` is set (or the parent process is gone), then reports. What is held then stays held and is counted.
    ///
    /// # Errors
    /// [`EmulatorError`] if a socket fails for good.
    pub fn run(mut self, stop: &AtomicBool) -> Result<EmulatorStats, EmulatorError> {
        let mut rounds = Rounds::new(&self.options, &self.lanes);
        while !stop.load(Ordering::Relaxed) && !rounds.parent_is_gone {
            let now_ns = sys::monotonic_ns();
            rounds.begin(now_ns);
            let mut moved = 0;
            for lane in &mut self.lanes {
                let received = lane.receive(rounds.realtime_offset_ns, now_ns);
                if received > 0 {
                    rounds.active_until_ns = now_ns + ACTIVE_NS;
                }
                moved += received / RECEIVE_BATCH_FRAMES;
                moved += lane.release(now_ns) / sys::BATCH_FRAMES;
            }
            // A full batch means that there may be more: go round again at once.
            if moved == 0 || rounds.is_overworked(now_ns) {
                rounds.wait(&self.lanes)?;
            }
        }
        self.report(rounds.realtime_offset_ns, rounds.max_gap_ns)
    }

    fn report(&mut self, realtime_offset_ns: i64, max_gap_ns: u64) -> Result<EmulatorStats, EmulatorError> {
        let duration_s = (sys::monotonic_ns() - self.start_ns) as f64 / 1e9;
        let [forward, reverse] = &mut self.lanes;
        let mut stats = EmulatorStats {
            scenario: self.scenario.name().to_owned(),
            seed: self.scenario.seed(),
            backend: "own".to_owned(),
            base: "AF_PACKET TPACKET_V2 ring, sendmmsg past the qdisc".to_owned(),
            kernel: kernel_release(),
            tick_us: Some(self.options.tick.as_micros() as u64),
            sched_class: self.sched_class.to_owned(),
            start_monotonic_ns: self.start_ns,
            duration_s,
            cpu_s: sys::cpu_time_ns() as f64 / 1e9,
            max_gap_us: max_gap_ns as f64 / 1e3,
            load_average_1m: load_average(),
            steal_share: MachineTimes::read().steal_share_since(&self.machine_at_start),
            bounds: self.options.bounds_for(&self.scenario),
            forward: forward.finish(realtime_offset_ns)?,
            reverse: reverse.finish(realtime_offset_ns)?,
            flows: None,
            valid: false,
            invalid_reasons: Vec::new(),
        };
        stats.flows = FlowMeter::account(&forward.flows, &reverse.flows);
        stats.judge();
        Ok(stats)
    }
}

/// The loop's own bookkeeping between rounds.
struct Rounds {
    tick_ns: u64,
    active_sleep_ns: u64,
    parent_pid: Option<u32>,
    parent_is_gone: bool,
    realtime_offset_ns: i64,
    clock_check_ns: u64,
    parent_check_ns: u64,
    active_until_ns: u64,
    slept_at_ns: u64,
    round_ns: u64,
    /// When the loop meant to be back, if packets were held.
    expected_ns: Option<u64>,
    max_gap_ns: u64,
}

impl Rounds {
    fn new(options: &EmulatorOptions, lanes: &[Lane; 2]) -> Self {
        let tick_ns = options.tick.as_nanos() as u64;
        let hold_ns_min = lanes.iter().map(|l| l.link.hold_ns_min()).min().unwrap_or(0);
        let now_ns = sys::monotonic_ns();
        Self {
            tick_ns,
            // A packet that is held for a while anyway may wait in the ring for part of it.
            active_sleep_ns: (hold_ns_min / 4).clamp(tick_ns, ACTIVE_SLEEP_NS_MAX.max(tick_ns)),
            parent_pid: options.parent_pid,
            parent_is_gone: false,
            realtime_offset_ns: sys::realtime_minus_monotonic_ns(),
            clock_check_ns: now_ns,
            parent_check_ns: now_ns,
            active_until_ns: now_ns,
            slept_at_ns: now_ns,
            round_ns: now_ns,
            expected_ns: None,
            max_gap_ns: 0,
        }
    }

    fn begin(&mut self, now_ns: u64) {
        if self.expected_ns.take().is_some() {
            self.max_gap_ns = self.max_gap_ns.max(now_ns - self.round_ns);
        }
        self.round_ns = now_ns;
        if now_ns - self.clock_check_ns > CLOCK_CHECK_NS {
            self.clock_check_ns = now_ns;
            self.realtime_offset_ns = sys::realtime_minus_monotonic_ns();
        }
        if now_ns - self.parent_check_ns > PARENT_CHECK_NS {
            self.parent_check_ns = now_ns;
            self.parent_is_gone = self.parent_pid.is_some_and(|pid| std::os::unix::process::parent_id() != pid);
        }
    }

    fn is_overworked(&self, now_ns: u64) -> bool {
        now_ns - self.slept_at_ns > BUSY_NS_MAX
    }

    /// Sleeps until there is something to do: by the clock while packets flow, else until a packet comes.
    fn wait(&mut self, lanes: &[Lane; 2]) -> Result<(), EmulatorError> {
        let next_due_ns = lanes.iter().filter_map(|l| l.queue.next_due_ns()).min();
        let now_ns = sys::monotonic_ns();
        if now_ns < self.active_until_ns {
            let least = now_ns + self.tick_ns;
            let most = now_ns + self.active_sleep_ns;
            let until_ns = next_due_ns.map_or(most, |due| due.clamp(least, most));
            self.expected_ns = next_due_ns.map(|_| until_ns);
            sys::sleep_until_monotonic_ns(until_ns);
        } else {
            let timeout_ns = next_due_ns.map_or(IDLE_WAIT_NS, |due| due.saturating_sub(now_ns).clamp(self.tick_ns, IDLE_WAIT_NS));
            sys::wait_readable([lanes[0].ring.raw_fd(), lanes[1].ring.raw_fd()], timeout_ns)?;
        }
        self.slept_at_ns = sys::monotonic_ns();
        Ok(())
    }
}

/// CPU time of the whole machine, in clock ticks, from /proc/stat.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MachineTimes {
    total: u64,
    steal: u64,
}

impl MachineTimes {
    pub(crate) fn read() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields: Vec<u64> = text.lines().next().unwrap_or("").split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal (proc_stat(5)); guest times are inside user.
        Self { total: fields.iter().take(8).sum(), steal: fields.get(7).copied().unwrap_or(0) }
    }

    pub(crate) fn steal_share_since(self, start: &Self) -> f64 {
        (self.steal - start.steal) as f64 / (self.total - start.total).max(1) as f64
    }
}

pub(crate) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "unknown".to_owned(), |s| s.trim().to_owned())
}

pub(crate) fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|f| f.parse().ok()).unwrap_or(f64::NAN)
}
