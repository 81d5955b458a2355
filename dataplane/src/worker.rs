//! The loop of a pinned worker: receive, open, session, deliver, transmit, commands, housekeeping, sleep.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use tradewind_fabric::BlockPool;
use tradewind_fabric::clock::now_ns;
use tradewind_netio::{Link, LinkError, Meta, Transmit};
use tradewind_proto::receiver::DropReason;
use tradewind_wire::control::close;
use tradewind_wire::{Header, LaneId};

use crate::density::{DOZE_NS, Density};
use crate::lane::{Lane, Taken};
use crate::shared::{Command, Mailbox};
use crate::statistics::{Ignored, Stage, WorkerStatistics};

/// Datagrams received before the other stages get their turn.
const BATCH: usize = 64;
/// Packets one lane may send before the next lane gets its turn.
const TRANSMIT_MAX: usize = 32;
/// Longest sleep: the link's figures are published this often.
const SLEEP_MAX_NS: u64 = 50_000_000;
/// How long the worker spins after the last packet before it sleeps. On two cores shared with storage and control a long
/// spin takes from those who make progress; a sleep costs a wake-up of some 10 µs.
const SPIN_NS: u64 = 20_000;
/// How often every lane's shared figures are looked at.
const REFRESH_NS: u64 = 5_000_000;
/// How long lanes may take to say goodbye when the worker is told to stop.
const GOODBYE_NS: u64 = 5_000_000_000;
/// When a lane that was due but had nothing to send, or no way to, is looked at again.
const RETRY_NS: u64 = 1_000_000;

/// A worker: owns its link and its lanes.
pub(crate) struct Worker<L> {
    link: L,
    pool: BlockPool,
    mailbox: Mailbox,
    statistics: Arc<WorkerStatistics>,
    lanes: BTreeMap<u64, Lane>,
    timers: BinaryHeap<Reverse<(u64, u64)>>,
    touched: Vec<u64>,
    refreshed_ns: u64,
    busy_ns: u64,
    density: Density,
    /// Set by [`Command::Stop`]: when to leave even if lanes have not said goodbye.
    stop_at_ns: Option<u64>,
}

impl<L: Link> Worker<L> {
    pub(crate) fn new(link: L, pool: BlockPool, mailbox: Mailbox, statistics: Arc<WorkerStatistics>) -> Self {
        Self {
            link,
            pool,
            mailbox,
            statistics,
            lanes: BTreeMap::new(),
            timers: BinaryHeap::with_capacity(1024),
            touched: Vec::with_capacity(BATCH),
            refreshed_ns: 0,
            busy_ns: 0,
            density: Density::default(),
            stop_at_ns: None,
        }
    }

    /// Runs until told to stop and all lanes have said goodbye.
    ///
    /// # Errors
    /// When the link breaks.
    pub(crate) fn run(mut self, mut publish: impl FnMut(&L)) -> Result<(), LinkError> {
        loop {
            let now = now_ns();
            if self.stop_at_ns.is_some_and(|stop_at| self.lanes.is_empty() || now >= stop_at) {
                return Ok(());
            }
            let (received, now) = self.receive(now)?;
            self.deliver(now);
            let commands = self.run_commands(now);
            self.refresh(now, &mut publish);
            self.transmit(now)?;
            if received > 0 || commands > 0 {
                self.busy_ns = now;
            }
            self.density.count(now, received);
            if !self.density.is_dense(now) {
                self.sleep(now)?;
            } else if received == 0 {
                self.doze()?;
            }
        }
    }

    /// Receive, open, session. How many packets, and the time afterwards: they have times at which they came, after `started_ns`.
    fn receive(&mut self, started_ns: u64) -> Result<(usize, u64), LinkError> {
        self.touched.clear();
        let Self { link, lanes, pool, statistics, touched, .. } = self;
        let mut moved = Vec::new();
        let count = link.receive(&mut now_ns, BATCH, &mut |meta, datagram| {
            let Some(id) = take(lanes, pool, statistics, meta, datagram) else { return };
            match id {
                Ok(id) => {
                    if touched.last() != Some(&id) && !touched.contains(&id) {
                        touched.push(id);
                    }
                }
                Err(id) => moved.push(id),
            }
        })?;
        for id in moved {
            lanes.remove(&id);
        }
        let now = now_ns();
        if count > 0 {
            statistics.record(Stage::Receive, now.saturating_sub(started_ns) / count as u64);
        }
        Ok((count, now))
    }

    fn deliver(&mut self, now: u64) {
        for index in 0..self.touched.len() {
            let id = self.touched[index];
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            if lane.deliver(now) > 0 {
                self.statistics.record(Stage::Deliver, now_ns().saturating_sub(now));
            }
            if lane.is_closed() {
                self.lanes.remove(&id);
            } else {
                self.schedule(now, id, 0);
            }
        }
    }

    fn run_commands(&mut self, now: u64) -> usize {
        let mut count = 0;
        while let Some(command) = self.mailbox.take() {
            count += 1;
            let id = match command {
                Command::Open(opening) => {
                    let id = opening.end.lane().0;
                    self.lanes.insert(id, Lane::new(now, *opening));
                    id
                }
                Command::Finish { lane: LaneId(id), receipt } => {
                    match self.lanes.get_mut(&id) {
                        Some(lane) if lane.path().is_some() => lane.finish(now, receipt),
                        // Another worker has it.
                        _ => drop(self.lanes.remove(&id)),
                    }
                    id
                }
                Command::Close { lane: LaneId(id), code, text } => {
                    match self.lanes.get_mut(&id) {
                        Some(lane) if lane.path().is_some() => lane.close(code, &text),
                        // Nobody to tell.
                        _ => drop(self.lanes.remove(&id)),
                    }
                    id
                }
                Command::Stop => {
                    self.stop(now);
                    continue;
                }
            };
            self.schedule(now, id, 0);
        }
        count
    }

    fn stop(&mut self, now: u64) {
        self.stop_at_ns = Some(now.saturating_add(GOODBYE_NS));
        self.lanes.retain(|_, lane| lane.path().is_some());
        for lane in self.lanes.values_mut() {
            lane.close(close::SHUTDOWN, "the server is shutting down");
        }
        let ids: Vec<u64> = self.lanes.keys().copied().collect();
        for id in ids {
            self.schedule(now, id, 0);
        }
    }

    /// Housekeeping: credits from storage to the lanes, figures from the lanes to the control side.
    fn refresh(&mut self, now: u64, publish: &mut impl FnMut(&L)) {
        if now.saturating_sub(self.refreshed_ns) < REFRESH_NS {
            return;
        }
        self.refreshed_ns = now;
        self.touched.clear();
        for (&id, lane) in &mut self.lanes {
            lane.refresh(now);
            if lane.poll_timeout(now) < lane.timer_ns {
                self.touched.push(id);
            }
        }
        for index in 0..self.touched.len() {
            self.schedule(now, self.touched[index], 0);
        }
        publish(&self.link);
    }

    /// Puts the lane's next deadline, `not_before` at the earliest, into the timer queue, unless an earlier one stands there.
    /// A lane whose peer's address is unknown has nothing to wait for.
    fn schedule(&mut self, now: u64, id: u64, not_before: u64) {
        let Some(lane) = self.lanes.get_mut(&id).filter(|lane| lane.path().is_some()) else { return };
        let at = lane.poll_timeout(now).max(not_before);
        if at < lane.timer_ns {
            lane.timer_ns = at;
            self.timers.push(Reverse((at, id)));
        }
    }

    /// Transmit: lanes whose deadline has come send what they have.
    fn transmit(&mut self, now: u64) -> Result<(), LinkError> {
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            let Self { link, lanes, .. } = self;
            let Some(lane) = lanes.get_mut(&id).filter(|lane| lane.timer_ns == at) else { continue };
            lane.timer_ns = u64::MAX;
            let (mut full, mut queued) = (false, false);
            if let Some(path) = lane.path() {
                let capacity = lane.datagram_bytes_max();
                for _ in 0..TRANSMIT_MAX {
                    match link.transmit(&path, capacity, |out| lane.poll_transmit(now, out))? {
                        Transmit::Queued => queued = true,
                        Transmit::Nothing => break,
                        Transmit::Full => {
                            full = true;
                            break;
                        }
                    }
                }
            }
            lane.deliver(now);
            if lane.is_closed() {
                lanes.remove(&id);
            } else if full {
                // What has not taken a single packet since the last flush, as a link that is down, is not asked again at once.
                lane.timer_ns = now + if queued { 1 } else { RETRY_NS };
                self.timers.push(Reverse((lane.timer_ns, id)));
                break;
            } else {
                // Later than now in any case: a lane that stays due must not keep this loop for itself.
                self.schedule(now, id, now + if queued { 1 } else { RETRY_NS });
            }
        }
        self.link.flush()
    }

    /// Spins for a moment after work, then sleeps until a packet, a command or a deadline.
    fn sleep(&mut self, now: u64) -> Result<(), LinkError> {
        if now.saturating_sub(self.busy_ns) < SPIN_NS {
            std::hint::spin_loop();
            return Ok(());
        }
        // Credits from storage are taken over by the refresh, so lanes keep the sleep as short as its interval.
        let wait = self.until_deadline(if self.lanes.is_empty() { SLEEP_MAX_NS } else { REFRESH_NS });
        if wait.is_zero() { Ok(()) } else { self.link.wait(wait) }
    }

    /// Sleeps until a command or a deadline, for a moment at most.
    fn doze(&mut self) -> Result<(), LinkError> {
        let wait = self.until_deadline(DOZE_NS);
        if wait.is_zero() { Ok(()) } else { self.link.doze(wait) }
    }

    /// Time to the next deadline of a lane, and at most `longest_ns`.
    fn until_deadline(&self, longest_ns: u64) -> Duration {
        let deadline = self.timers.peek().map_or(u64::MAX, |&Reverse((at, _))| at);
        Duration::from_nanos(deadline.saturating_sub(now_ns()).min(longest_ns))
    }
}

/// Finds the packet's lane and gives it the packet. `Some(Ok)`: the lane has news; `Some(Err)`: another worker owns it.
fn take(
    lanes: &mut BTreeMap<u64, Lane>,
    pool: &BlockPool,
    statistics: &WorkerStatistics,
    meta: &Meta,
    datagram: &[u8],
) -> Option<Result<u64, u64>> {
    let Ok(header) = Header::parse(datagram) else {
        statistics.drop_packet(Ignored::Packet(DropReason::Malformed));
        return None;
    };
    let id = header.lane.0;
    let Some(lane) = lanes.get_mut(&id) else {
        statistics.drop_packet(Ignored::Packet(DropReason::UnknownLane));
        return None;
    };
    match lane.receive(meta, datagram, pool) {
        Taken::Yes => {
            statistics.authentic.add(1);
            Some(Ok(id))
        }
        Taken::No(reason) => {
            statistics.drop_packet(Ignored::Packet(reason));
            None
        }
        Taken::Elsewhere => {
            statistics.drop_packet(Ignored::Elsewhere);
            Some(Err(id))
        }
    }
}
