//! The sending end of a lane on its worker: blocks that a task reads from a store leave here.

use std::sync::atomic::Ordering;

use crossbeam::channel::{Receiver, TryRecvError};
use tradewind_fabric::SharedBlock;
use tradewind_fabric::clock::now_ns;
use tradewind_proto::rate::Group as RateGroup;
use tradewind_proto::sender::{Sender, SenderConfig};
use tradewind_wire::{Group, Orders};

use crate::shared::LaneShared;

/// The sender of a lane and where its blocks come from.
pub(crate) struct Sending {
    pub(crate) sender: Sender<SharedBlock>,
    /// Closed by its other end when there are no more.
    blocks: Receiver<SharedBlock>,
    finished: bool,
}

impl Sending {
    pub(crate) fn new(config: SenderConfig, blocks: Receiver<SharedBlock>) -> Self {
        Self { sender: Sender::new(config, now_ns()), blocks, finished: false }
    }

    /// The receiver has spoken.
    pub(crate) fn begin(&mut self, now_ns: u64, agreed: Option<(Orders, Option<Group>)>) {
        if let Some((orders, group)) = agreed {
            let group = group.map(|group| RateGroup { share_bytes_per_s: u64::from(group.share_kbps) * 125, lanes: group.lanes.into() });
            self.sender.agree(now_ns, &orders, group);
        }
    }

    pub(crate) fn obey(&mut self, now_ns: u64, orders: Option<&Orders>, group: Option<&Group>) {
        if let Some(orders) = orders {
            self.sender.set_orders(now_ns, orders);
        }
        if let Some(group) = group {
            self.sender.set_group_message(now_ns, group);
        }
        // Some may have come while the sender had nothing to do.
        self.open_blocks(now_ns);
    }

    /// Moves blocks to the sender while it has use for them.
    fn open_blocks(&mut self, now_ns: u64) {
        while self.sender.wants_block() {
            match self.blocks.try_recv() {
                // An image that fits its slot always fits the lane, so nothing comes back.
                Ok(image) => drop(self.sender.open_block(now_ns, image)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    if !self.finished {
                        self.finished = true;
                        self.sender.finish();
                    }
                    break;
                }
            }
        }
    }

    pub(crate) fn poll_transmit(&mut self, now_ns: u64, out: &mut [u8]) -> usize {
        self.open_blocks(now_ns);
        self.sender.poll_transmit(now_ns, out)
    }

    pub(crate) fn publish(&self, shared: &LaneShared) {
        let statistics = self.sender.statistics();
        shared.bytes_received.store(statistics.bytes_received, Ordering::Relaxed);
        shared.packets_duplicate.store(statistics.data_packets_again, Ordering::Relaxed);
        shared.packets_lost.store(statistics.packets_lost, Ordering::Relaxed);
        shared.blocks_durable.store(statistics.blocks_durable, Ordering::Relaxed);
        // The task that reads ahead waits for this.
        shared.blocks_complete.store(statistics.blocks_received, Ordering::Release);
    }
}
