//! The shared bottleneck: rate, queue discipline, random loss, and what happened to every packet offered to it.

use std::collections::VecDeque;

use crate::random::Random;

use super::Histogram;
use super::aqm::{Codel, FairQueues};

/// Queue discipline of the bottleneck.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Queue {
    /// First in, first out; drops what does not fit. Milliseconds at the link's rate when the run begins, at least two packets.
    DropTail {
        /// Length, ms.
        ms: f64,
    },
    /// CoDel (RFC 8289) with target 5 ms and interval 100 ms.
    Codel,
    /// Flow queuing with CoDel (RFC 8290): a queue for each flow, served in turns.
    FqCodel,
    /// A token bucket that drops what exceeds it and delays nothing.
    Policer {
        /// Depth of the bucket, ms at the link's rate.
        burst_ms: f64,
    },
}

/// What became of a packet.
pub(super) enum Fate<P> {
    /// Leaves the bottleneck at this time, ns.
    Leaves(u64, P),
    /// Is queued; [`Link::pop`] tells when it leaves.
    Queued,
    /// Found no room.
    Overflow(P),
    /// Lost at random.
    Lost(P),
}

/// A packet in an actively managed queue.
#[derive(Clone, Debug)]
pub(super) struct Waiting<P> {
    pub(super) flow: usize,
    pub(super) bytes: u32,
    pub(super) since_ns: u64,
    pub(super) packet: P,
}

/// The bottleneck; `P` is what a packet carries through a managed queue.
pub(super) struct Link<P> {
    rate_bps: f64,
    discipline: Discipline<P>,
    loss: f64,
    random: Random,
    /// When the link has sent everything that was accepted, ns with a fraction.
    free_ns: f64,
    down_until_ns: u64,
    /// Delay of the queue as each offered packet found it.
    pub(super) queue_us: Histogram,
}

enum Discipline<P> {
    DropTail { bytes: f64 },
    Policer { burst_bytes: f64, tokens: f64, since_ns: u64 },
    Codel { queue: VecDeque<Waiting<P>>, codel: Codel },
    Fair(FairQueues<P>),
}

impl<P> Link<P> {
    pub(super) fn new(rate_bps: f64, queue: Queue, loss: f64, seed: u64) -> Self {
        let bytes = |ms: f64| rate_bps / 8.0 * ms / 1000.0;
        let discipline = match queue {
            Queue::DropTail { ms } => Discipline::DropTail { bytes: bytes(ms).max(2.0 * 1500.0) },
            Queue::Policer { burst_ms } => {
                let burst_bytes = bytes(burst_ms).max(2.0 * 1500.0);
                Discipline::Policer { burst_bytes, tokens: burst_bytes, since_ns: 0 }
            }
            Queue::Codel => Discipline::Codel { queue: VecDeque::new(), codel: Codel::default() },
            Queue::FqCodel => Discipline::Fair(FairQueues::new()),
        };
        Self { rate_bps, discipline, loss, random: Random::new(seed, 60), free_ns: 0.0, down_until_ns: 0, queue_us: Histogram::default() }
    }

    pub(super) fn rate_bps(&self) -> f64 {
        self.rate_bps
    }

    pub(super) fn set_rate_bps(&mut self, now_ns: u64, rate_bps: f64) {
        // What is queued leaves at the new rate.
        let now = now_ns as f64;
        if self.free_ns > now {
            self.free_ns = now + (self.free_ns - now) * self.rate_bps / rate_bps;
        }
        self.rate_bps = rate_bps;
    }

    pub(super) fn set_loss(&mut self, loss: f64) {
        self.loss = loss;
    }

    /// Everything offered before this time is lost.
    pub(super) fn set_down_until(&mut self, until_ns: u64) {
        self.down_until_ns = until_ns;
    }

    fn packet_ns(&self, bytes: u32) -> f64 {
        f64::from(bytes) * 8e9 / self.rate_bps
    }

    /// Time that the present queue takes, ns.
    pub(super) fn backlog_ns(&self, now_ns: u64) -> f64 {
        match &self.discipline {
            Discipline::DropTail { .. } => (self.free_ns - now_ns as f64).max(0.0),
            Discipline::Policer { .. } => 0.0,
            Discipline::Codel { queue, .. } => queue.front().map_or(0.0, |front| (now_ns - front.since_ns) as f64),
            Discipline::Fair(fair) => fair.bytes() as f64 * 8e9 / self.rate_bps,
        }
    }

    /// Offers a packet of `bytes` (whole IP packet); gives it back unless it is queued here.
    pub(super) fn offer(&mut self, now_ns: u64, flow: usize, bytes: u32, packet: P) -> Fate<P> {
        let backlog_ns = self.backlog_ns(now_ns);
        self.queue_us.add(backlog_ns / 1e3);
        if now_ns < self.down_until_ns {
            return Fate::Lost(packet);
        }
        let packet_ns = self.packet_ns(bytes);
        let rate_bps = self.rate_bps;
        match &mut self.discipline {
            Discipline::DropTail { bytes: limit } => {
                if backlog_ns * rate_bps / 8e9 + f64::from(bytes) > *limit {
                    return Fate::Overflow(packet);
                }
                self.free_ns = self.free_ns.max(now_ns as f64) + packet_ns;
            }
            Discipline::Policer { burst_bytes, tokens, since_ns } => {
                let earned = (now_ns - *since_ns) as f64 * rate_bps / 8e9;
                *tokens = (*tokens + earned).min(*burst_bytes);
                *since_ns = now_ns;
                if *tokens < f64::from(bytes) {
                    return Fate::Overflow(packet);
                }
                *tokens -= f64::from(bytes);
                self.free_ns = now_ns as f64;
            }
            Discipline::Codel { queue, .. } => {
                queue.push_back(Waiting { flow, bytes, since_ns: now_ns, packet });
                return Fate::Queued;
            }
            Discipline::Fair(fair) => {
                fair.push(Waiting { flow, bytes, since_ns: now_ns, packet });
                return Fate::Queued;
            }
        }
        if self.random.happens(self.loss) { Fate::Lost(packet) } else { Fate::Leaves(self.free_ns as u64, packet) }
    }

    /// When a managed queue gives its next packet; `u64::MAX` while it is empty, and for the others.
    pub(super) fn next_ns(&self) -> u64 {
        let empty = match &self.discipline {
            Discipline::Codel { queue, .. } => queue.is_empty(),
            Discipline::Fair(fair) => fair.bytes() == 0,
            _ => true,
        };
        if empty { u64::MAX } else { self.free_ns as u64 }
    }

    /// The packet of a managed queue whose turn it is at `now_ns`: it has left the link at the returned time unless it was lost at random.
    /// `dropped` is called for each that the discipline drops.
    pub(super) fn pop(&mut self, now_ns: u64, mut dropped: impl FnMut(Waiting<P>)) -> Option<(u64, Waiting<P>, bool)> {
        let waiting = match &mut self.discipline {
            Discipline::Codel { queue, codel } => codel.pop(now_ns, queue, &mut dropped)?,
            Discipline::Fair(fair) => fair.pop(now_ns, &mut dropped)?,
            _ => return None,
        };
        self.free_ns = self.free_ns.max(now_ns as f64) + self.packet_ns(waiting.bytes);
        let lost = self.random.happens(self.loss);
        Some((self.free_ns as u64, waiting, lost))
    }

    /// Median and 95th percentile of the queue, ms.
    pub(super) fn queue_ms(&self) -> (f64, f64) {
        (self.queue_us.quantile(0.5) / 1e3, self.queue_us.quantile(0.95) / 1e3)
    }
}
