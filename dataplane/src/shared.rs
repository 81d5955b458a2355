//! What a worker and the control side tell each other about a lane.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::queue::ArrayQueue;
use tradewind_fabric::SharedBlock;
use tradewind_fabric::wake::Waker;
use tradewind_ipc::ErrorCode;
use tradewind_netio::Path;
use tradewind_proto::block::BlockTable;
use tradewind_proto::receiver::ReceiverConfig;
use tradewind_proto::sender::SenderConfig;
use tradewind_wire::{BlockId, Group, LaneId, Orders, State};

/// Commands that may wait for a worker: two for each lane that an engine can have.
const COMMANDS_MAX: usize = 2 * tradewind_wire::limits::LANES_MAX;

/// Control side to worker.
pub enum Command {
    /// A lane may be claimed by its first authentic packet.
    Open(Box<LaneOpening>),
    /// Everything of the lane is durable.
    Finish {
        /// The lane.
        lane: LaneId,
        /// Number of the receipt.
        receipt: u64,
    },
    /// Tell the peer why, and end.
    Close {
        /// The lane.
        lane: LaneId,
        /// Code of CLOSE.
        code: u16,
        /// For people.
        text: String,
    },
    /// Close all lanes with the given reason and stop.
    Stop,
}

/// What a worker needs to take a lane over.
pub struct LaneOpening {
    /// Which end of it this is.
    pub end: OpeningEnd,
    /// State shared with the control side.
    pub shared: Arc<LaneShared>,
    /// Where blocks and news of the lane go.
    pub events: tokio::sync::mpsc::UnboundedSender<LaneEvent>,
    /// Speak first, this way; only where there is one worker, for two that speak would use the same packet numbers.
    pub call: Option<Path>,
}

/// An end of a lane that is to be opened.
pub enum OpeningEnd {
    /// Takes blocks.
    Receive(ReceiverConfig),
    /// Sends blocks, which come out of the channel until it is closed.
    Send(Box<SenderConfig>, crossbeam::channel::Receiver<SharedBlock>),
}

impl OpeningEnd {
    /// The lane.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        match self {
            Self::Receive(config) => config.lane,
            Self::Send(config, _) => config.lane,
        }
    }
}

/// Worker to the lane's task on the control side. The channel is unbounded by type; credits bound the blocks in it.
pub enum LaneEvent {
    /// A whole, verified block.
    Block {
        /// The block.
        block: BlockId,
        /// Its image.
        image: SharedBlock,
        /// Its table.
        table: BlockTable,
        /// When it was whole, nanoseconds.
        complete_ns: u64,
    },
    /// There are so many blocks in all.
    Fin {
        /// Blocks of the lane.
        blocks: u32,
    },
    /// The receiver of what this end sends says that everything is durable.
    Done,
    /// A block whose table or payload is not what its checksums say.
    Corrupt {
        /// What is wrong.
        text: String,
    },
    /// Objects that a copy leaves out, before [`LaneEvent::Fin`].
    LeftOut {
        /// How many.
        files: u64,
        /// Why the first.
        first: String,
    },
    /// What is to be copied cannot be read any further.
    SourceFailed {
        /// For programs.
        code: ErrorCode,
        /// For people.
        text: String,
    },
    /// The lane is over on the network's side.
    Closed {
        /// Code of CLOSE.
        code: u16,
        /// For people.
        text: String,
    },
}

/// The numbered message with the largest number, from control to a worker, which takes the lock only when there is a new one.
#[derive(Debug)]
struct Newest<T> {
    /// Of the message; 0: none yet.
    number: AtomicU32,
    message: Mutex<Option<T>>,
}

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Self { number: AtomicU32::new(0), message: Mutex::new(None) }
    }
}

impl<T: Copy> Newest<T> {
    fn set(&self, number: u32, message: T) {
        let mut newest = self.message.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.is_none() || self.number.load(Ordering::Relaxed) < number {
            *newest = Some(message);
            self.number.store(number, Ordering::Release);
        }
    }

    fn after(&self, known: u32) -> Option<T> {
        if self.number.load(Ordering::Acquire) <= known { None } else { self.get() }
    }

    fn get(&self) -> Option<T> {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a lane's sender.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    /// Its newest word.
    pub state: State,
    /// Number of the newest orders that it has obeyed.
    pub obeyed: u32,
    /// Address that its packets come from.
    pub peer: IpAddr,
    /// When the last authentic one came, nanoseconds.
    pub heard_ns: u64,
}

/// Figures of a lane, readable by both sides.
#[derive(Debug, Default)]
pub struct LaneShared {
    /// Set by the worker that received the first authentic packet.
    pub claimed: AtomicBool,
    /// Set when the lane is no more, and has let go of everything at the store.
    pub ended: AtomicBool,
    /// Blocks that the store has whole; credits follow it.
    pub blocks_durable: AtomicU32,
    /// Blocks that the sender was allowed to open, ever; 0: those that are durable and a window.
    pub blocks_allowed: AtomicU32,
    /// Blocks that the sender has been told that it may open, ever, by the worker.
    pub blocks_granted: AtomicU32,
    /// Blocks without which the upload stands still, as far as it is known.
    pub blocks_needed: AtomicU32,
    /// Whole blocks that wait on the disk.
    pub blocks_staged: AtomicU32,
    /// Blocks that the sender may have open at once.
    pub window_blocks: AtomicU32,
    /// How fast the store takes data, kbit/s.
    pub storage_kbps: AtomicU32,
    /// Payload bytes put into blocks.
    pub bytes_received: AtomicU64,
    /// Authentic packets through AF_XDP.
    pub packets_afxdp: AtomicU64,
    /// Authentic packets through the kernel's socket.
    pub packets_kernel: AtomicU64,
    /// DATA packets whose chunk was here already.
    pub packets_duplicate: AtomicU64,
    /// Packet numbers below the largest seen that did not arrive.
    pub packets_lost: AtomicU64,
    /// Packets that were ignored: not authentic, replayed, malformed.
    pub packets_rejected: AtomicU64,
    /// Blocks received whole.
    pub blocks_complete: AtomicU32,
    /// When the first authentic packet came, nanoseconds; 0: none yet.
    pub first_packet_ns: AtomicU64,
    /// How this end's sender begins.
    agreed: Mutex<Option<(Orders, Option<Group>)>>,
    /// Orders for the sender.
    orders: Newest<Orders>,
    /// What is said of the lane's group.
    group: Newest<Group>,
    sender: Mutex<Option<Heard>>,
}

impl LaneShared {
    /// Says how this end's sender begins.
    pub fn agree(&self, orders: Orders, group: Option<Group>) {
        *self.agreed.lock().unwrap_or_else(PoisonError::into_inner) = Some((orders, group));
    }

    /// How this end's sender begins, if that has been said.
    pub fn agreed(&self) -> Option<(Orders, Option<Group>)> {
        *self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands orders to the lane's worker; older ones than those that are there are dropped.
    pub fn order(&self, orders: Orders) {
        self.orders.set(orders.number, orders);
    }

    /// The newest orders if they are newer than `known`.
    pub fn orders_after(&self, known: u32) -> Option<Orders> {
        self.orders.after(known)
    }

    /// Hands what is said of the lane's group to its worker.
    pub fn set_group(&self, group: Group) {
        self.group.set(group.number, group);
    }

    /// What was said last of the lane's group if it is newer than `known`.
    pub fn group_after(&self, known: u32) -> Option<Group> {
        self.group.after(known)
    }

    /// How many lanes share the path, this one included, as was said last.
    pub fn group_lanes(&self) -> u16 {
        self.group.get().map_or(1, |group| group.lanes)
    }

    /// Publishes what is known of the sender.
    pub fn publish_sender(&self, heard: Heard) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard);
    }

    /// What is known of the sender, once it has spoken.
    pub fn sender(&self) -> Option<Heard> {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this worker the lane's owner; `false` if another one is.
    pub fn claim(&self, now_ns: u64) -> bool {
        let first = !self.claimed.swap(true, Ordering::AcqRel);
        if first {
            self.first_packet_ns.store(now_ns, Ordering::Relaxed);
        }
        first
    }
}

/// A bounded way to a worker, and the bell that wakes it.
#[derive(Clone)]
pub struct Mailbox {
    queue: Arc<ArrayQueue<Command>>,
    waker: Waker,
}

impl Mailbox {
    /// An empty mailbox.
    #[must_use]
    pub fn new(waker: Waker) -> Self {
        Self { queue: Arc::new(ArrayQueue::new(COMMANDS_MAX)), waker }
    }

    /// Hands a command over and wakes the worker; `false` if the worker is hopelessly behind.
    pub fn send(&self, command: Command) -> bool {
        let taken = self.queue.push(command).is_ok();
        self.waker.wake();
        taken
    }

    /// Wakes the worker: shared figures have changed.
    pub fn ring(&self) {
        self.waker.wake();
    }

    pub(crate) fn take(&self) -> Option<Command> {
        self.queue.pop()
    }
}
