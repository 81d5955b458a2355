//! Active queue management: CoDel (RFC 8289) and flow queuing with it (RFC 8290).

use std::collections::VecDeque;

use super::MS;
use super::link::Waiting;

/// Standing delay that is tolerated, and for how long (RFC 8289 §4.3, §4.2).
const TARGET_NS: u64 = 5 * MS;
const INTERVAL_NS: u64 = 100 * MS;

/// Below this backlog nothing is dropped, bytes (RFC 8289 §5.5: one packet of the largest size).
const MTU_BYTES: u32 = 1514;

/// Bytes that a flow may send in its turn (RFC 8290 §5.2.2).
const QUANTUM_BYTES: i64 = 1514;

/// State of the control law of one queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Codel {
    first_above_ns: u64,
    drop_next_ns: u64,
    count: u32,
    last_count: u32,
    dropping: bool,
}

impl Codel {
    fn control_ns(&self, from_ns: u64) -> u64 {
        from_ns + (INTERVAL_NS as f64 / f64::from(self.count.max(1)).sqrt()) as u64
    }

    fn may_drop<P>(&mut self, now_ns: u64, waiting: &Waiting<P>, left: bool) -> bool {
        if now_ns.saturating_sub(waiting.since_ns) < TARGET_NS || !left {
            self.first_above_ns = 0;
            return false;
        }
        if self.first_above_ns == 0 {
            self.first_above_ns = now_ns + INTERVAL_NS;
            return false;
        }
        now_ns >= self.first_above_ns
    }

    fn next<P>(&mut self, now_ns: u64, queue: &mut VecDeque<Waiting<P>>) -> Option<(Waiting<P>, bool)> {
        let Some(waiting) = queue.pop_front() else {
            self.first_above_ns = 0;
            return None;
        };
        let left = waiting.bytes > MTU_BYTES || !queue.is_empty();
        let drop = self.may_drop(now_ns, &waiting, left);
        Some((waiting, drop))
    }

    /// The next packet that is let through (RFC 8289 §5.5).
    pub(super) fn pop<P>(
        &mut self,
        now_ns: u64,
        queue: &mut VecDeque<Waiting<P>>,
        dropped: &mut impl FnMut(Waiting<P>),
    ) -> Option<Waiting<P>> {
        let (mut waiting, mut drop) = self.next(now_ns, queue).or_else(|| {
            self.dropping = false;
            None
        })?;
        if self.dropping {
            if !drop {
                self.dropping = false;
            }
            while self.dropping && now_ns >= self.drop_next_ns {
                dropped(waiting);
                self.count += 1;
                (waiting, drop) = self.next(now_ns, queue)?;
                if drop {
                    self.drop_next_ns = self.control_ns(self.drop_next_ns);
                } else {
                    self.dropping = false;
                }
            }
        } else if drop {
            dropped(waiting);
            (waiting, _) = self.next(now_ns, queue)?;
            self.dropping = true;
            let delta = self.count.wrapping_sub(self.last_count);
            let recently = now_ns.saturating_sub(self.drop_next_ns) < 16 * INTERVAL_NS;
            self.count = if delta > 1 && recently { delta } else { 1 };
            self.drop_next_ns = self.control_ns(now_ns);
            self.last_count = self.count;
        }
        Some(waiting)
    }
}

struct FlowQueue<P> {
    queue: VecDeque<Waiting<P>>,
    codel: Codel,
    deficit: i64,
    listed: bool,
}

/// A queue for each flow, served by deficit round robin, new flows first.
pub(super) struct FairQueues<P> {
    flows: Vec<FlowQueue<P>>,
    new: VecDeque<usize>,
    old: VecDeque<usize>,
    bytes: u64,
}

impl<P> FairQueues<P> {
    pub(super) fn new() -> Self {
        Self { flows: Vec::new(), new: VecDeque::new(), old: VecDeque::new(), bytes: 0 }
    }

    /// Bytes in all queues.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn push(&mut self, waiting: Waiting<P>) {
        while self.flows.len() <= waiting.flow {
            self.flows.push(FlowQueue { queue: VecDeque::new(), codel: Codel::default(), deficit: 0, listed: false });
        }
        let index = waiting.flow;
        self.bytes += u64::from(waiting.bytes);
        let flow = &mut self.flows[index];
        flow.queue.push_back(waiting);
        if !flow.listed {
            flow.listed = true;
            flow.deficit = QUANTUM_BYTES;
            self.new.push_back(index);
        }
    }

    pub(super) fn pop(&mut self, now_ns: u64, dropped: &mut impl FnMut(Waiting<P>)) -> Option<Waiting<P>> {
        loop {
            let from_new = !self.new.is_empty();
            let index = if from_new { *self.new.front()? } else { *self.old.front()? };
            let flow = &mut self.flows[index];
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM_BYTES;
                if from_new {
                    self.new.pop_front()
                } else {
                    self.old.pop_front()
                };
                self.old.push_back(index);
                continue;
            }
            let bytes = &mut self.bytes;
            let mut count = |waiting: Waiting<P>| {
                *bytes -= u64::from(waiting.bytes);
                dropped(waiting);
            };
            if let Some(waiting) = flow.codel.pop(now_ns, &mut flow.queue, &mut count) {
                flow.deficit -= i64::from(waiting.bytes);
                self.bytes -= u64::from(waiting.bytes);
                return Some(waiting);
            }
            if from_new {
                self.new.pop_front();
                if self.old.is_empty() {
                    flow.listed = false;
                } else {
                    self.old.push_back(index);
                }
            } else {
                self.old.pop_front();
                flow.listed = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flow: usize, since_ns: u64) -> Waiting<u32> {
        Waiting { flow, bytes: 1500, since_ns, packet: 0 }
    }

    #[test]
    fn codel_drops_only_after_the_delay_has_stood_for_an_interval() {
        let (mut codel, mut queue, mut drops) = (Codel::default(), VecDeque::new(), 0);
        let mut now_ns = 0;
        for step in 0..400u64 {
            now_ns = step * MS;
            queue.push_back(packet(0, now_ns.saturating_sub(20 * MS)));
            queue.push_back(packet(0, now_ns.saturating_sub(20 * MS)));
            codel.pop(now_ns, &mut queue, &mut |_| drops += 1).expect("there is one");
            assert!(now_ns > 100 * MS || drops == 0, "{drops} drops at {now_ns}");
        }
        assert!(drops > 3 && now_ns == 399 * MS, "{drops}");
    }

    #[test]
    fn flows_take_turns_whatever_their_queues() {
        let mut fair = FairQueues::new();
        for _ in 0..100 {
            fair.push(packet(0, 0));
        }
        for _ in 0..5 {
            fair.push(packet(1, 0));
        }
        let mut counts = [0; 2];
        for _ in 0..10 {
            counts[fair.pop(1, &mut |_| ()).expect("there is one").flow] += 1;
        }
        assert_eq!(counts, [5, 5]);
        let mut left = 0;
        while fair.pop(1, &mut |_| ()).is_some() {
            left += 1;
        }
        assert_eq!((left, fair.bytes()), (95, 0));
    }
}
