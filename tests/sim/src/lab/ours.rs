//! One of our lanes: the real sender and receiver, and the parts of the path that are its own.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use tradewind_proto::crypto::{CipherSuite, LaneSecret, Provider};
use tradewind_proto::rate::{Group, Policy, RateConfig, RateOrders};
use tradewind_proto::receiver::{Receiver, ReceiverConfig, ReceiverEvent};
use tradewind_proto::sender::{Sender, SenderConfig, SenderEvent};
use tradewind_wire::LaneId;
use tradewind_wire::limits::{BLOCKS_OPEN_MAX, DATA_OVERHEAD_BYTES, IPV4_UDP_BYTES, chunk_bytes_for_mtu};

use crate::random::Random;

use super::MS;

/// Payload of a block.
const BLOCK_BYTES: usize = 1 << 20;
/// Both ends' clocks begin here, so that their 32-bit microseconds wrap and share nothing.
const CLOCK_SENDER_NS: u64 = 4_290_000 * MS;
const CLOCK_RECEIVER_NS: u64 = 17_178_869 * MS;
const RECEIPT: u64 = 7;
/// Width of a sample of what arrived.
pub(super) const SAMPLE_NS: u64 = 10 * MS;

/// A lane and its own part of the path.
#[derive(Clone, Copy, Debug)]
pub struct LaneSpec {
    /// Rate policy.
    pub policy: Policy,
    /// Target rate, bit/s of IP packets.
    pub target_bps: f64,
    /// Bytes to send; `None` for as long as the run lasts.
    pub bytes: Option<u64>,
    /// IP packet size, bytes.
    pub mtu: usize,
    /// Blocks that may be open; `None` for as many as the path asks for.
    pub window_blocks: Option<u32>,
    /// How fast the store takes blocks, bit/s.
    pub store_bps: f64,
    /// Random loss of the way back.
    pub reverse_loss: f64,
    /// Rate of the way back, bit/s, with a queue of 200 ms.
    pub reverse_bps: f64,
    /// Share of packets that come late on the way there, and by how much.
    pub reorder: f64,
    /// How late, ms.
    pub reorder_ms: f64,
    /// Uniform jitter of the way there that keeps the order, ms.
    pub jitter_ms: f64,
    /// Timers fire and arrivals are stamped up to this late, µs.
    pub noise_us: u64,
    /// Lanes with the same number run between the same two hosts and are told of each other.
    pub host: Option<u32>,
    /// The receiver's clock gains this much on the sender's, parts per million.
    pub skew_ppm: f64,
}

impl Default for LaneSpec {
    fn default() -> Self {
        Self {
            policy: Policy::Fair,
            target_bps: 40e9,
            bytes: None,
            mtu: 1500,
            window_blocks: None,
            store_bps: f64::INFINITY,
            reverse_loss: 0.0,
            reverse_bps: f64::INFINITY,
            reorder: 0.0,
            reorder_ms: 0.0,
            jitter_ms: 0.0,
            noise_us: 50,
            host: None,
            skew_ppm: 0.0,
        }
    }
}

/// A packet in a buffer that is used again.
pub(super) struct Datagram {
    buffer: Box<[u8]>,
    pub(super) length: usize,
}

impl Datagram {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// As an IP packet.
    pub(super) fn ip_bytes(&self) -> u32 {
        (self.length + IPV4_UDP_BYTES) as u32
    }
}

/// All blocks of a lane are this one image: what the protocol does with bytes does not depend on them.
pub(super) struct Image {
    bytes: Arc<[u8]>,
    length: usize,
}

impl AsRef<[u8]> for Image {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

struct Late(u64, u64, Datagram);

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Late {}
impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Late {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// A timer that fires somewhat late: what was asked for, and when it fires.
#[derive(Clone, Copy, Debug)]
struct Wake {
    wanted_ns: u64,
    fires_ns: u64,
}

/// What a lane has done.
#[derive(Clone, Debug, Default)]
pub struct LaneCount {
    /// When the sender heard DONE, ns.
    pub done_ns: Option<u64>,
    /// Code and text of an end that was none.
    pub failed: Option<(u16, String)>,
    /// Bytes of IP packets that were sent.
    pub forward_bytes: u64,
    /// Packets that were sent.
    pub forward_packets: u64,
    /// Packets that found no room in the bottleneck, or that its queue management dropped.
    pub overflowed: u64,
    /// Packets lost at random.
    pub lost: u64,
    /// Bytes of IP packets that the receiver sent.
    pub reverse_bytes: u64,
    /// When a chunk was first sent for the last time.
    pub last_fresh_ns: u64,
    /// Payload received, cumulative bytes at the end of each 10 ms of the run.
    pub samples: Vec<u64>,
}

/// A lane under way.
pub(super) struct Ours {
    pub(super) spec: LaneSpec,
    pub(super) sender: Sender<Image>,
    receiver: Receiver<Vec<u8>>,
    image: Arc<[u8]>,
    left: u64,
    window: u32,
    durable: u32,
    total: Option<u32>,
    finished: bool,
    storing: VecDeque<u64>,
    store_free_ns: f64,
    buffers: Vec<Vec<u8>>,
    datagram_bytes_max: usize,
    spare: Vec<Datagram>,
    forward: VecDeque<(u64, Datagram)>,
    late: BinaryHeap<Reverse<Late>>,
    order: u64,
    reverse: VecDeque<(u64, Datagram)>,
    reverse_free_ns: f64,
    random: Random,
    wake_sender: Wake,
    wake_receiver: Wake,
    stamp_ns: u64,
    delay_forward_ns: u64,
    delay_reverse_ns: u64,
    data_sent: u64,
    data_again: u64,
    pub(super) count: LaneCount,
    over: bool,
}

impl Ours {
    /// A lane that begins at `now_ns`, over a path of `rtt_ms`, on a link of `link_bps`.
    pub(super) fn new(spec: LaneSpec, rtt_ms: f64, link_bps: f64, loss: f64, seed: u64, now_ns: u64) -> Self {
        let mut random = Random::new(seed, 50);
        let lane = LaneId(random.bits());
        let mut secret = [0; 32];
        random.fill(&mut secret);
        let chunk_bytes = chunk_bytes_for_mtu(spec.mtu, false) as u16;
        let datagram_bytes_max = usize::from(chunk_bytes) + DATA_OVERHEAD_BYTES;
        // What is under way for as many round trips as the unluckiest chunk of a block needs.
        let rounds = 3.0 + if loss > 0.0 { 8.0 / (1.0 / loss).ln() } else { 0.0 };
        let product = spec.target_bps.min(link_bps) / 8.0 * (rtt_ms / 1e3 + 0.3);
        let window =
            spec.window_blocks.unwrap_or_else(|| ((rounds * product / BLOCK_BYTES as f64) as u32).clamp(64, BLOCKS_OPEN_MAX as u32));
        let idle_timeout_ns = 60_000 * MS;
        let rate = RateConfig {
            policy: spec.policy,
            target_bytes_per_s: (spec.target_bps / 8.0) as u64,
            minimum_bytes_per_s: 0,
            packet_bytes: (datagram_bytes_max + IPV4_UDP_BYTES) as u32,
            seed: random.bits(),
            initial_rtt_ns: ((rtt_ms * 1e6) as u64).max(MS),
        };
        let sender_config = SenderConfig {
            lane,
            secret: LaneSecret(secret),
            suite: CipherSuite::Aes128Gcm,
            provider: Provider::AwsLc,
            chunk_bytes,
            blocks_allowed: window,
            rate,
            tail_copies: spec.policy != Policy::Low,
            idle_timeout_ns,
        };
        let receiver = Receiver::new(ReceiverConfig {
            lane,
            secret: LaneSecret(secret),
            suite: CipherSuite::Aes128Gcm,
            provider: Provider::AwsLc,
            chunk_bytes,
            image_bytes_max: BLOCK_BYTES,
            blocks_allowed: window,
            idle_timeout_ns,
        });
        let mut image = vec![0; BLOCK_BYTES];
        random.fill(&mut image);
        let mut ours = Self {
            sender: Sender::new(sender_config, now_ns + CLOCK_SENDER_NS),
            receiver,
            image: image.into(),
            left: spec.bytes.unwrap_or(u64::MAX),
            window,
            durable: 0,
            total: None,
            finished: false,
            storing: VecDeque::new(),
            store_free_ns: 0.0,
            buffers: Vec::new(),
            datagram_bytes_max: datagram_bytes_max.max(1200),
            spare: Vec::new(),
            forward: VecDeque::new(),
            late: BinaryHeap::new(),
            order: 0,
            reverse: VecDeque::new(),
            reverse_free_ns: 0.0,
            random,
            wake_sender: Wake { wanted_ns: now_ns, fires_ns: now_ns },
            wake_receiver: Wake { wanted_ns: u64::MAX, fires_ns: u64::MAX },
            stamp_ns: 0,
            delay_forward_ns: 0,
            delay_reverse_ns: 0,
            data_sent: 0,
            data_again: 0,
            count: LaneCount::default(),
            over: false,
            spec,
        };
        ours.set_rtt_ms(rtt_ms);
        ours
    }

    pub(super) fn set_rtt_ms(&mut self, rtt_ms: f64) {
        self.delay_forward_ns = (rtt_ms * 0.5 * MS as f64) as u64;
        self.delay_reverse_ns = self.delay_forward_ns;
    }

    /// The user changes policy or target, bytes/s.
    pub(super) fn obey(&mut self, now_ns: u64, policy: Option<Policy>, target_bytes_per_s: Option<u64>) {
        let orders = RateOrders { policy, target_bytes_per_s, minimum_bytes_per_s: 0, lease_bytes_per_s: None };
        self.sender.rate_mut().obey(now_ns + CLOCK_SENDER_NS, orders);
    }

    /// The server says what the lanes between these two hosts do.
    pub(super) fn set_group(&mut self, now_ns: u64, group: Group) {
        self.sender.set_group(now_ns + CLOCK_SENDER_NS, group);
    }

    /// When something happens next.
    pub(super) fn next_ns(&self) -> u64 {
        if self.over {
            return u64::MAX;
        }
        let front = |queue: &VecDeque<(u64, Datagram)>| queue.front().map_or(u64::MAX, |(at, _)| *at);
        let late = self.late.peek().map_or(u64::MAX, |late| late.0.0);
        let stored = self.storing.front().copied().unwrap_or(u64::MAX);
        front(&self.forward).min(front(&self.reverse)).min(late).min(stored).min(self.wake_sender.fires_ns).min(self.wake_receiver.fires_ns)
    }

    fn receiver_clock(&self, now_ns: u64) -> u64 {
        CLOCK_RECEIVER_NS + (now_ns as f64 * (1.0 + self.spec.skew_ppm * 1e-6)) as u64
    }

    /// A packet left the bottleneck at `now_ns`.
    pub(super) fn leaves(&mut self, now_ns: u64, datagram: Datagram) {
        let mut due_ns = now_ns + self.delay_forward_ns;
        if self.spec.jitter_ms > 0.0 {
            due_ns += (self.random.unit() * self.spec.jitter_ms * MS as f64) as u64;
            due_ns = due_ns.max(self.forward.back().map_or(0, |(at, _)| *at));
        }
        if self.random.happens(self.spec.reorder) {
            self.order += 1;
            self.late.push(Reverse(Late(due_ns + (self.spec.reorder_ms * MS as f64) as u64, self.order, datagram)));
        } else {
            // A round trip that became shorter must not let the queue run backwards.
            let due_ns = due_ns.max(self.forward.back().map_or(0, |(at, _)| *at));
            self.forward.push_back((due_ns, datagram));
        }
    }

    /// A packet got no further.
    pub(super) fn dropped(&mut self, overflow: bool, datagram: Datagram) {
        if overflow {
            self.count.overflowed += 1;
        } else {
            self.count.lost += 1;
        }
        self.spare.push(datagram);
    }

    /// Handles what is due; packets to be sent go to `offer`, which gives those back that were dropped at once.
    pub(super) fn advance(&mut self, now_ns: u64, offer: &mut dyn FnMut(&mut Self, Datagram)) {
        let receiver_due = self.receive(now_ns);
        if receiver_due || self.wake_receiver.fires_ns <= now_ns {
            self.drive_receiver(now_ns);
        }
        let mut heard = false;
        while let Some((_, datagram)) = self.reverse.pop_front_if(|(at, _)| *at <= now_ns) {
            // What the sender ignores it counts itself.
            let _ = self.sender.handle_datagram(now_ns + CLOCK_SENDER_NS, datagram.bytes());
            self.spare.push(datagram);
            heard = true;
        }
        if heard || self.wake_sender.fires_ns <= now_ns {
            self.drive_sender(now_ns, offer);
        }
        let sample = (now_ns / SAMPLE_NS) as usize;
        if self.count.samples.len() <= sample {
            let bytes = self.receiver.statistics().data_bytes;
            self.count.samples.resize(sample + 1, bytes);
        }
    }

    /// Takes in what arrived; whether the receiver should be polled.
    fn receive(&mut self, now_ns: u64) -> bool {
        let mut any = false;
        loop {
            let datagram = if let Some((_, datagram)) = self.forward.pop_front_if(|(at, _)| *at <= now_ns) {
                datagram
            } else if self.late.peek().is_some_and(|late| late.0.0 <= now_ns) {
                let Some(Reverse(late)) = self.late.pop() else { break };
                late.2
            } else {
                break;
            };
            self.stamp_ns = self.stamp_ns.max(now_ns + (self.random.unit() * self.spec.noise_us as f64 * 1e3) as u64);
            let clock_ns = self.receiver_clock(self.stamp_ns);
            let buffers = &mut self.buffers;
            let mut take = || Some(buffers.pop().unwrap_or_else(|| vec![0; BLOCK_BYTES]));
            let _ = self.receiver.handle_datagram(clock_ns, datagram.bytes(), false, &mut take);
            self.spare.push(datagram);
            any = true;
            while let Some(event) = self.receiver.poll_event() {
                self.on_receiver_event(now_ns, event);
            }
        }
        while self.storing.front().is_some_and(|at| *at <= now_ns) {
            self.storing.pop_front();
            self.on_durable(now_ns);
            any = true;
        }
        any
    }

    fn on_receiver_event(&mut self, now_ns: u64, event: ReceiverEvent<Vec<u8>>) {
        match event {
            ReceiverEvent::Block { buffer, image_bytes, .. } => {
                self.buffers.push(buffer);
                if self.spec.store_bps.is_finite() {
                    self.store_free_ns = self.store_free_ns.max(now_ns as f64) + image_bytes as f64 * 8e9 / self.spec.store_bps;
                    self.storing.push_back(self.store_free_ns as u64);
                } else {
                    self.on_durable(now_ns);
                }
            }
            ReceiverEvent::Fin { blocks } => {
                self.total = Some(blocks);
                self.finish_if_complete(now_ns);
            }
            ReceiverEvent::Closed { .. } => {}
        }
    }

    fn on_durable(&mut self, now_ns: u64) {
        let clock_ns = self.receiver_clock(now_ns);
        self.durable += 1;
        self.receiver.set_blocks_allowed(clock_ns, self.durable + self.window);
        let limited = self.storing.len() as u32 * 4 >= self.window * 3;
        let kbps = if self.spec.store_bps.is_finite() { (self.spec.store_bps / 1e3) as u32 } else { 0 };
        self.receiver.set_storage(clock_ns, self.durable, kbps, limited);
        self.finish_if_complete(now_ns);
    }

    fn finish_if_complete(&mut self, now_ns: u64) {
        if self.total == Some(self.durable) {
            let clock_ns = self.receiver_clock(now_ns);
            self.receiver.finish(clock_ns, RECEIPT);
        }
    }

    fn drive_receiver(&mut self, now_ns: u64) {
        let clock_ns = self.receiver_clock(now_ns.max(self.stamp_ns));
        loop {
            let mut datagram = self.take();
            datagram.length = self.receiver.poll_transmit(clock_ns, &mut datagram.buffer);
            if datagram.length == 0 {
                self.spare.push(datagram);
                break;
            }
            self.count.reverse_bytes += u64::from(datagram.ip_bytes());
            let mut due_ns = now_ns as f64;
            if self.spec.reverse_bps.is_finite() {
                if self.reverse_free_ns - due_ns > 200e6 {
                    self.spare.push(datagram);
                    continue;
                }
                self.reverse_free_ns = self.reverse_free_ns.max(due_ns) + f64::from(datagram.ip_bytes()) * 8e9 / self.spec.reverse_bps;
                due_ns = self.reverse_free_ns;
            }
            if self.random.happens(self.spec.reverse_loss) {
                self.spare.push(datagram);
                continue;
            }
            let due_ns = (due_ns as u64 + self.delay_reverse_ns).max(self.reverse.back().map_or(0, |(at, _)| *at));
            self.reverse.push_back((due_ns, datagram));
        }
        let wanted_ns = self.receiver.poll_timeout();
        let wanted_ns = if wanted_ns == u64::MAX {
            u64::MAX
        } else {
            let skew = 1.0 + self.spec.skew_ppm * 1e-6;
            ((wanted_ns.saturating_sub(CLOCK_RECEIVER_NS) as f64 / skew) as u64 + 1).max(now_ns + 1)
        };
        self.wake_receiver = self.fires(self.wake_receiver, wanted_ns);
    }

    fn fires(&mut self, old: Wake, wanted_ns: u64) -> Wake {
        if old.wanted_ns == wanted_ns {
            return old;
        }
        let late_ns = (self.random.unit() * self.spec.noise_us as f64 * 1e3) as u64;
        Wake { wanted_ns, fires_ns: wanted_ns.saturating_add(late_ns) }
    }

    fn take(&mut self) -> Datagram {
        let bytes = self.datagram_bytes_max;
        self.spare.pop().unwrap_or_else(|| Datagram { buffer: vec![0; bytes].into(), length: 0 })
    }

    fn drive_sender(&mut self, now_ns: u64, offer: &mut dyn FnMut(&mut Self, Datagram)) {
        let clock_ns = now_ns + CLOCK_SENDER_NS;
        loop {
            while self.left > 0 && self.sender.wants_block() {
                let length = self.left.min(BLOCK_BYTES as u64) as usize;
                let image = Image { bytes: self.image.clone(), length };
                if self.sender.open_block(clock_ns, image).is_err() {
                    break;
                }
                self.left -= length as u64;
            }
            if self.left == 0 && !self.finished {
                self.finished = true;
                self.sender.finish();
            }
            let mut datagram = self.take();
            datagram.length = self.sender.poll_transmit(clock_ns, &mut datagram.buffer);
            if datagram.length == 0 {
                self.spare.push(datagram);
                break;
            }
            self.count.forward_packets += 1;
            self.count.forward_bytes += u64::from(datagram.ip_bytes());
            offer(self, datagram);
        }
        while let Some(event) = self.sender.poll_event() {
            match event {
                SenderEvent::BlockReceived { .. } => {}
                SenderEvent::Done { .. } => {
                    self.count.done_ns = Some(now_ns);
                    self.over = true;
                }
                SenderEvent::Closed { code, text } => {
                    self.count.failed = Some((code, text));
                    self.over = true;
                }
            }
        }
        if self.left == 0 {
            let statistics = self.sender.statistics();
            if statistics.data_packets_sent - statistics.data_packets_again > self.data_sent - self.data_again {
                self.count.last_fresh_ns = now_ns;
            }
            (self.data_sent, self.data_again) = (statistics.data_packets_sent, statistics.data_packets_again);
        }
        let wanted_ns = self.sender.poll_timeout(clock_ns);
        let wanted_ns = if wanted_ns == u64::MAX { u64::MAX } else { wanted_ns.saturating_sub(CLOCK_SENDER_NS).max(now_ns + 1) };
        self.wake_sender = self.fires(self.wake_sender, wanted_ns);
    }

    /// Payload bytes that arrived.
    pub(super) fn data_bytes(&self) -> u64 {
        self.receiver.statistics().data_bytes
    }
}
