//! One lane on its worker.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc::UnboundedSender;
use tradewind_fabric::{BlockBuf, BlockPool};
use tradewind_netio::{Ecn, Meta, Path};
use tradewind_proto::block::{BlockTable, TableError};
use tradewind_proto::receiver::{DropReason, Receiver, ReceiverEvent};
use tradewind_wire::BlockId;
use tradewind_wire::control::close;

use crate::shared::{LaneEvent, LaneOpening, LaneShared};

/// A lane that this worker owns, or may own once a packet of it authenticates here.
pub(crate) struct Lane {
    receiver: Receiver<BlockBuf>,
    shared: Arc<LaneShared>,
    events: UnboundedSender<LaneEvent>,
    path: Option<Path>,
    /// The control side has been told of the end.
    reported: bool,
    /// Deadline under which the lane stands in the worker's timer queue.
    pub(crate) timer_ns: u64,
    /// Blocks handed to storage so far.
    handed_over: u32,
    /// Number of the newest orders given to the receiver, and of the newest word on the lane's group.
    orders: u32,
    group: u32,
}

/// What a packet changed for its lane.
pub(crate) enum Taken {
    /// It authenticated.
    Yes,
    /// It was ignored.
    No(DropReason),
    /// It authenticated, but another worker owns the lane: forget it here.
    Elsewhere,
}

impl Lane {
    pub(crate) fn new(opening: LaneOpening) -> Self {
        Self {
            receiver: Receiver::new(opening.config),
            shared: opening.shared,
            events: opening.events,
            path: None,
            reported: false,
            timer_ns: u64::MAX,
            handed_over: 0,
            orders: 0,
            group: 0,
        }
    }

    /// Open, session: authenticates a datagram and puts its chunk into a block.
    pub(crate) fn receive(&mut self, now_ns: u64, meta: &Meta, datagram: &[u8], pool: &BlockPool) -> Taken {
        let mut buffers = || pool.take();
        match self.receiver.handle_datagram(now_ns, datagram, meta.ecn == Ecn::Ce, &mut buffers) {
            Ok(arrival) => {
                if self.path.is_none() && !self.shared.claim(now_ns) {
                    return Taken::Elsewhere;
                }
                if arrival.newest || self.path.is_none() {
                    self.path = Some(meta.path);
                }
                let by = if meta.path.link.is_some() { &self.shared.packets_afxdp } else { &self.shared.packets_kernel };
                by.store(by.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                Taken::Yes
            }
            Err(reason) => {
                let rejected = &self.shared.packets_rejected;
                rejected.store(rejected.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                Taken::No(reason)
            }
        }
    }

    /// Deliver: hands whole blocks to storage and tells of the lane's end. Returns the blocks handed over.
    pub(crate) fn deliver(&mut self, now_ns: u64) -> u32 {
        let mut blocks = 0;
        while let Some(event) = self.receiver.poll_event() {
            match event {
                ReceiverEvent::Block { block, buffer, image_bytes } => {
                    blocks += 1;
                    // Before the block: whoever is told of the last one may read the figures at once.
                    self.publish();
                    self.deliver_block(now_ns, block, buffer, image_bytes);
                }
                ReceiverEvent::Fin { blocks } => self.tell(LaneEvent::Fin { blocks }),
                ReceiverEvent::Closed { code, text } => self.report_end(code, text),
            }
        }
        blocks
    }

    fn deliver_block(&mut self, now_ns: u64, block: BlockId, buffer: BlockBuf, image_bytes: usize) {
        match check(&buffer[..image_bytes]) {
            Ok(table) => {
                self.handed_over += 1;
                self.tell(LaneEvent::Block { block, image: buffer.freeze(image_bytes), table, complete_ns: now_ns });
            }
            Err(error) => {
                let text = format!("block {} is damaged: {error}", block.0);
                self.receiver.close(close::PROTOCOL, &text);
                self.tell(LaneEvent::Corrupt { text });
            }
        }
    }

    fn tell(&self, event: LaneEvent) {
        // The lane's task ends only after it has told us to close; news that cross it are moot.
        let _ = self.events.send(event);
    }

    fn report_end(&mut self, code: u16, text: String) {
        if !self.reported {
            self.reported = true;
            self.tell(LaneEvent::Closed { code, text });
        }
    }

    /// Takes over what storage has done since, and publishes this side's figures.
    pub(crate) fn refresh(&mut self, now_ns: u64) {
        let shared = &self.shared;
        let durable = shared.blocks_durable.load(Ordering::Acquire);
        let window = shared.window_blocks.load(Ordering::Relaxed);
        let waiting = self.handed_over.saturating_sub(durable);
        self.receiver.set_blocks_allowed(now_ns, durable.saturating_add(window));
        let limited = u64::from(waiting) * 4 >= u64::from(window) * 3;
        self.receiver.set_storage(now_ns, durable, shared.storage_kbps.load(Ordering::Relaxed), limited);
        if let Some(orders) = shared.orders_after(self.orders) {
            self.orders = orders.number;
            self.receiver.set_orders(now_ns, orders);
        }
        if let Some(group) = shared.group_after(self.group) {
            self.group = group.number;
            self.receiver.set_group(now_ns, group);
        }
        self.publish();
    }

    fn publish(&self) {
        // Only the lane's owner: other workers hold an idle copy of it.
        if self.path.is_none() {
            return;
        }
        let shared = &self.shared;
        let statistics = self.receiver.statistics();
        shared.bytes_received.store(statistics.data_bytes, Ordering::Relaxed);
        shared.packets_duplicate.store(statistics.duplicate_chunks, Ordering::Relaxed);
        shared.packets_lost.store(statistics.packets_missing, Ordering::Relaxed);
        shared.blocks_complete.store(statistics.blocks_completed, Ordering::Relaxed);
        if let Some(state) = self.receiver.sender_state() {
            shared.publish_sender(state, self.receiver.orders_obeyed());
        }
    }

    pub(crate) fn finish(&mut self, now_ns: u64, receipt: u64) {
        self.receiver.finish(now_ns, receipt);
    }

    pub(crate) fn close(&mut self, code: u16, text: &str) {
        self.receiver.close(code, text);
    }

    /// The peer's address, once known.
    pub(crate) fn path(&self) -> Option<Path> {
        self.path
    }

    pub(crate) fn poll_transmit(&mut self, now_ns: u64, out: &mut [u8]) -> usize {
        self.receiver.poll_transmit(now_ns, out)
    }

    pub(crate) fn poll_timeout(&self) -> u64 {
        self.receiver.poll_timeout()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.receiver.is_closed()
    }
}

fn check(image: &[u8]) -> Result<BlockTable, TableError> {
    let table = BlockTable::parse(image)?;
    table.verify_payload(image)?;
    Ok(table)
}
