//! One direction of the modelled path: the link of `tradewind-netem`, and what it does not do: damage and injected packets.

use std::collections::VecDeque;

use tradewind_netem::scenario::{DirectionSpec, GilbertElliott, Outage};
use tradewind_netem::{Link, Scenario, ScenarioError, Verdict, link};

use crate::random::Random;
use crate::world::Way;

/// Bytes of IPv4 and UDP header around a datagram.
pub(crate) const HEADERS_BYTES: u32 = tradewind_wire::limits::IPV4_UDP_BYTES as u32;
/// Genuine datagrams remembered for replays.
const REMEMBERED: usize = 16;
/// Length of a black hole, ms; longer than any world.
const FOR_EVER_MS: f64 = 1e10;

/// A direction of the path.
pub(crate) struct Path {
    way: Way,
    link: Link,
    random: Random,
    remembered: VecDeque<Vec<u8>>,
    /// How long a packet had to wait for the bottleneck, µs, for every packet offered.
    pub(crate) queue_us: Vec<u32>,
    pub(crate) dropped_by_queue: u64,
    pub(crate) dropped_at_random: u64,
}

impl Path {
    pub(crate) fn new(way: &Way, direction: link::Way, seed: u64, datagram_bytes_max: usize) -> Result<Self, ScenarioError> {
        let rate_bps = (way.rate_mbps * 1e6) as u64;
        let queue_bytes = (way.queue_ms * way.rate_mbps * 125.0) as u64;
        let frame = datagram_bytes_max as u64 + u64::from(HEADERS_BYTES);
        let bursts = way.burst_start > 0.0;
        let length = way.outage_length_ms.min(FOR_EVER_MS);
        let spec = DirectionSpec {
            rate_bps: Some(rate_bps),
            queue_bytes: Some(queue_bytes.max(2 * frame).max(4_000)),
            delay_ms: way.delay_ms,
            jitter_ms: way.jitter_ms.min(way.delay_ms),
            loss: (!bursts).then_some(way.loss),
            gilbert_elliott: bursts.then(|| GilbertElliott {
                good_to_bad: way.burst_start,
                bad_to_good: 1.0 / way.burst_packets.max(1.0),
                loss_good: 0.0,
                loss_bad: 1.0,
            }),
            reorder: way.reorder,
            reorder_extra_ms: (way.reorder > 0.0).then_some(way.reorder_ms),
            duplicate: way.duplicate,
            outages: if length > 0.0 { vec![Outage { start_ms: way.outage_ms, duration_ms: length, every_ms: None }] } else { Vec::new() },
            ..DirectionSpec::default()
        };
        let scenario = Scenario::new("sim", "", seed, spec, None)?;
        let purpose = match direction {
            link::Way::Forward => 20,
            link::Way::Reverse => 21,
        };
        // A scenario without a reverse direction of its own uses this one for both; the link's streams differ by direction.
        let link = Link::new(&scenario, direction, 0);
        Ok(Self {
            way: way.clone(),
            link,
            random: Random::new(seed, purpose),
            remembered: VecDeque::new(),
            queue_us: Vec::new(),
            dropped_by_queue: 0,
            dropped_at_random: 0,
        })
    }

    /// Offers a datagram; `arrive` is called for everything that comes out at the other end because of it.
    pub(crate) fn offer(&mut self, now_ns: u64, datagram: &[u8], mut arrive: impl FnMut(u64, Vec<u8>)) {
        let backlog = self.link.backlog_bytes(now_ns);
        self.queue_us.push((backlog as f64 * 8.0 / self.way.rate_mbps) as u32);
        match self.link.offer(now_ns, datagram.len() as u32 + HEADERS_BYTES) {
            Verdict::Drop(link::DropReason::Queue) => self.dropped_by_queue += 1,
            Verdict::Drop(_) => self.dropped_at_random += 1,
            Verdict::Deliver { due_ns, duplicate_due_ns } => {
                if let Some(due_ns) = duplicate_due_ns {
                    arrive(due_ns, self.perhaps_damaged(datagram));
                }
                let copy = self.perhaps_damaged(datagram);
                arrive(due_ns, copy);
                if self.random.happens(self.way.garbage) {
                    arrive(due_ns, self.garbage());
                }
                if self.way.garbage > 0.0 {
                    self.remembered.push_back(datagram.to_vec());
                    if self.remembered.len() > REMEMBERED {
                        self.remembered.pop_front();
                    }
                }
            }
        }
    }

    fn perhaps_damaged(&mut self, datagram: &[u8]) -> Vec<u8> {
        let mut copy = datagram.to_vec();
        if !self.random.happens(self.way.corrupt) {
            return copy;
        }
        match self.random.within(0, 3) {
            0 => copy.truncate(self.random.within(0, copy.len() as u64 - 1) as usize),
            1 => copy.push(self.random.bits() as u8),
            _ => {
                for _ in 0..self.random.within(1, 4) {
                    let bit = self.random.within(0, copy.len() as u64 * 8 - 1) as usize;
                    copy[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
        copy
    }

    /// A packet that nobody sent: random bytes, random bytes behind a genuine clear header, or an old packet.
    fn garbage(&mut self) -> Vec<u8> {
        let old = self.remembered.front().cloned().filter(|_| self.random.happens(0.7));
        match old {
            Some(old) if self.random.happens(0.5) => old,
            Some(mut old) => {
                let keep = old.len().min(29);
                self.random.fill(&mut old[keep..]);
                old
            }
            None => {
                let mut bytes = vec![0; self.random.within(0, 1500) as usize];
                self.random.fill(&mut bytes);
                bytes
            }
        }
    }
}
