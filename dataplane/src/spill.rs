//! Which blocks of a lane wait on the disk while its store is slower than the network, and what its sender may open meanwhile.
//!
//! Without staging a lane's window counts blocks from their first packet until the store has them: a store that stands still stops the
//! sender after one window. With it, blocks on the disk do not count. When the uploader holds half a window, further blocks go to the disk
//! and come back, lowest number first, as its blocks become durable. So all parts of objects that lack a block but one lack a block that has
//! not arrived; it is handed over from memory when it comes. What the uploader lacks to half a window is kept for blocks that come back, and at
//! least a part, [`Spill::reserve`]: what the disk refuses is handed over out of turn, and its parts can only be completed from the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tradewind_client::ready_block;
use tradewind_fabric::{BlockPool, SharedBlock};
use tradewind_ipc::ErrorCode;
use tradewind_proto::block::BlockTable;
use tradewind_staging::{Done, Outcome, Staged, Staging};
use tradewind_storage::ReadyBlock;
use tradewind_wire::BlockId;
use tradewind_wire::control::close;

use crate::lane_task::Failed;
use crate::shared::LaneShared;

/// A disk that does not answer for so long is not waited for.
const DISK_DEADLINE: Duration = Duration::from_secs(30);
/// Nothing has moved for so long, with blocks on the disk and a store that is idle: one more than the window may come back, if the pool has room.
const STILL: Duration = Duration::from_secs(5);
/// Parts that an object may have at the stores that take the fewest.
const PARTS_MAX: u64 = 10_000;

/// The account of a lane's blocks. `T`: where one lies on the disk.
#[derive(Debug)]
pub(crate) struct Spill<T> {
    window: u32,
    reserve: u32,
    /// Blocks that the sender was allowed to open, ever.
    allowed: u32,
    /// Blocks handed to the uploader, and those of them that are durable.
    handed: u32,
    durable: u32,
    /// The highest number that was handed over.
    highest: Option<u32>,
    writing: BTreeSet<u32>,
    staged: BTreeMap<u32, T>,
    reading: u32,
    /// Blocks were handed over while lower ones waited on the disk.
    is_out_of_turn: bool,
    /// Blocks that there are in all, once that is known.
    total: Option<u32>,
    /// Beyond the window, while something waits.
    beyond: u32,
    /// Blocks that lay on the disk, ever.
    spilled: u64,
    is_ended: bool,
}

impl<T> Spill<T> {
    /// For a lane that may hold `window` blocks in memory and whose parts are of `part` whole blocks: they touch one more. `None` where that
    /// leaves nothing for the network.
    pub(crate) fn new(window: u32, part: u32) -> Option<Self> {
        let reserve = part.saturating_add(1).max(window / 8);
        (window / 2 > reserve).then(|| Self {
            window,
            reserve,
            allowed: window,
            handed: 0,
            durable: 0,
            highest: None,
            writing: BTreeSet::new(),
            staged: BTreeMap::new(),
            reading: 0,
            is_out_of_turn: false,
            total: None,
            beyond: 0,
            spilled: 0,
            is_ended: false,
        })
    }

    /// Whether a block that arrived goes to the disk; else it is handed over. `has_room`: there is room on the disk.
    pub(crate) fn arrived(&mut self, block: u32, has_room: bool) -> bool {
        let is_next = match self.first_waiting() {
            // Behind those that wait, or they would be needed for parts that it fills.
            Some(first) => block < first,
            None => self.highest.is_some_and(|highest| block < highest) || self.uploading() + self.reading < self.window / 2,
        };
        if self.is_ended || is_next || !has_room {
            self.hand(block);
            return false;
        }
        self.writing.insert(block);
        true
    }

    /// A block is on the disk now.
    pub(crate) fn written(&mut self, block: u32, place: T) {
        self.writing.remove(&block);
        self.staged.insert(block, place);
        self.spilled += 1;
        self.grant();
    }

    /// A block could not be written, and is handed over.
    pub(crate) fn not_written(&mut self, block: u32) {
        self.writing.remove(&block);
        self.hand(block);
        self.grant();
    }

    /// There are so many blocks in all.
    pub(crate) fn announced(&mut self, total: u32) {
        self.total = Some(total);
    }

    /// The next block to be read back, if there is memory for it.
    pub(crate) fn next(&mut self) -> Option<(u32, T)> {
        // Of what the sender may open, it opens no more than there is.
        let opened = self.total.map_or(self.allowed, |total| total.min(self.allowed));
        let may_take = opened.saturating_sub(self.durable + self.staged());
        let is_uploader_full = self.uploading() + self.reading >= self.window / 2;
        if may_take >= self.window + self.beyond || is_uploader_full && !self.is_out_of_turn && self.beyond == 0 {
            return None;
        }
        let next = self.staged.pop_first()?;
        self.reading += 1;
        Some(next)
    }

    /// What [`Spill::next`] gave cannot be read now.
    pub(crate) fn put_back(&mut self, block: u32, place: T) {
        self.reading -= 1;
        self.staged.insert(block, place);
    }

    /// A block was read back, and is handed over.
    pub(crate) fn read(&mut self, block: u32) {
        self.reading -= 1;
        self.hand(block);
        self.grant();
    }

    /// Nothing has moved for long: should parts be other than was thought, this gets them out of their circle.
    pub(crate) fn stands_still(&mut self) {
        self.beyond += u32::from(!self.staged.is_empty());
    }

    pub(crate) fn became_durable(&mut self) {
        self.durable += 1;
        self.grant();
    }

    /// Nothing goes to the disk any more; what is there comes back.
    pub(crate) fn end(&mut self) {
        self.is_ended = true;
    }

    pub(crate) const fn allowed(&self) -> u32 {
        self.allowed
    }

    pub(crate) fn staged(&self) -> u32 {
        self.staged.len() as u32
    }

    pub(crate) const fn spilled(&self) -> u64 {
        self.spilled
    }

    /// Blocks kept free for those that come back.
    pub(crate) const fn reserve(&self) -> u32 {
        self.reserve
    }

    /// Changes with everything that moves.
    const fn moves(&self) -> (u32, u32, u32) {
        (self.handed, self.durable, self.reading)
    }

    const fn uploading(&self) -> u32 {
        self.handed - self.durable
    }

    /// The lowest number that waits on the disk or on its way there.
    fn first_waiting(&self) -> Option<u32> {
        let (writing, staged) = (self.writing.first().copied(), self.staged.keys().next().copied());
        writing.into_iter().chain(staged).min()
    }

    fn hand(&mut self, block: u32) {
        self.handed += 1;
        self.highest = self.highest.max(Some(block));
        let waiting = self.first_waiting();
        self.is_out_of_turn = waiting.is_some_and(|first| self.is_out_of_turn || first < block);
    }

    fn grant(&mut self) {
        let is_empty = self.staged.is_empty() && self.writing.is_empty() && self.reading == 0;
        if is_empty {
            self.beyond = 0;
        }
        let lacking = (self.window / 2).saturating_sub(self.uploading() + self.reading);
        let kept = if is_empty { 0 } else { self.reserve.max(lacking) };
        self.allowed = self.allowed.max(self.durable + self.staged() + self.window - kept);
    }
}

/// The same with a disk.
#[derive(Debug)]
pub(crate) struct Spilling {
    spill: Spill<Staged>,
    staging: Staging,
    pool: BlockPool,
    /// Blocks on their way to the disk: should it refuse them, they are still here.
    held: HashMap<u32, (Instant, SharedBlock, BlockTable)>,
    /// Blocks on their way back.
    reading: HashMap<u32, Instant>,
    /// When something moved last, and what.
    moved: (Instant, (u32, u32, u32)),
    tell: mpsc::UnboundedSender<Done>,
    told: mpsc::UnboundedReceiver<Done>,
    block_bytes: u32,
}

impl Spilling {
    pub(crate) fn new(staging: &Staging, pool: &BlockPool, window: u32, part: u32, block_bytes: u32) -> Option<Self> {
        let spill = Spill::new(window, part)?;
        let (tell, told) = mpsc::unbounded_channel();
        let (held, reading, moved) = (HashMap::new(), HashMap::new(), (Instant::now(), spill.moves()));
        Some(Self { spill, staging: staging.clone(), pool: pool.clone(), held, reading, moved, tell, told, block_bytes })
    }

    /// A block has arrived; returned if it is handed over.
    pub(crate) fn arrived(&mut self, block: BlockId, image: SharedBlock, table: BlockTable) -> Option<ReadyBlock> {
        let part_bytes = u64::from(self.spill.reserve()) * u64::from(self.block_bytes);
        if table.files.iter().any(|file| file.size / PARTS_MAX >= part_bytes) {
            // Its parts are larger than what is kept for blocks that come back.
            self.spill.end();
        }
        let has_room = self.staging.room() > 0;
        if !self.spill.arrived(block.0, has_room) {
            return Some(ready_block(block, image, &table));
        }
        let tell = self.tell.clone();
        self.staging.put(block.0, image.clone(), move |done| drop(tell.send(done)));
        self.held.insert(block.0, (Instant::now(), image, table));
        None
    }

    /// The disk has done something. Never ready while there is nothing to wait for.
    pub(crate) async fn moved(&mut self) -> Option<Done> {
        self.told.recv().await
    }

    /// Applies it; a block is returned if it is handed over.
    ///
    /// # Errors
    /// A block is lost: its sender has to send it again.
    pub(crate) fn apply(&mut self, done: Done) -> Result<Option<ReadyBlock>, Failed> {
        let Done { block, result } = done;
        match result {
            Ok(Outcome::Written(place)) => {
                // One that was given up is at the uploader already.
                if self.held.remove(&block).is_some() {
                    self.spill.written(block, place);
                }
                Ok(None)
            }
            Ok(Outcome::Read(image)) => {
                self.reading.remove(&block);
                let table = BlockTable::verified(&image).map_err(|error| lost(block, &error))?;
                self.spill.read(block);
                Ok(Some(ready_block(BlockId(block), image, &table)))
            }
            Err(error) => match self.held.remove(&block) {
                Some((_, image, table)) => {
                    tracing::debug!(%error, block, "not staged");
                    self.spill.not_written(block);
                    Ok(Some(ready_block(BlockId(block), image, &table)))
                }
                None if self.reading.contains_key(&block) => Err(lost(block, &error)),
                None => Ok(None),
            },
        }
    }

    pub(crate) fn became_durable(&mut self) {
        self.spill.became_durable();
    }

    /// There are so many blocks in all.
    pub(crate) fn announced(&mut self, total: u32) {
        self.spill.announced(total);
    }

    /// What the disk has not taken in time is handed over, and it gets no more; also looks whether anything moves. To be called now and then.
    /// `is_store_busy`: it has not answered everything.
    ///
    /// # Errors
    /// A block does not come back.
    pub(crate) fn check(&mut self, now: Instant, is_store_busy: bool) -> Result<Vec<ReadyBlock>, Failed> {
        let is_late = |since: Instant| now.saturating_duration_since(since) >= DISK_DEADLINE;
        if let Some((&block, _)) = self.reading.iter().find(|(_, since)| is_late(**since)) {
            return Err(lost(block, &format!("it did not answer within {} s", DISK_DEADLINE.as_secs())));
        }
        let mut late = Vec::new();
        if self.held.values().any(|(since, ..)| is_late(*since)) {
            tracing::error!("a disk of the staging directories does not answer; this lane uses none any more");
            self.spill.end();
            for (block, (_, image, table)) in self.held.drain() {
                self.spill.not_written(block);
                late.push(ready_block(BlockId(block), image, &table));
            }
        }
        if is_store_busy || self.moved.1 != self.spill.moves() {
            self.moved = (now, self.spill.moves());
        } else if now.saturating_duration_since(self.moved.0) >= STILL {
            self.moved.0 = now;
            self.spill.stands_still();
        }
        Ok(late)
    }

    /// Reads back what there is memory for, and publishes what the sender may open.
    pub(crate) fn go_on(&mut self, shared: &LaneShared) {
        while let Some((block, place)) = self.spill.next() {
            let Some(slot) = self.pool.take() else {
                // The next tick tries again.
                self.spill.put_back(block, place);
                break;
            };
            let tell = self.tell.clone();
            self.reading.insert(block, Instant::now());
            self.staging.get(block, place, slot, move |done| drop(tell.send(done)));
        }
        shared.blocks_staged.store(self.spill.staged(), Ordering::Release);
        shared.blocks_allowed.store(self.spill.allowed(), Ordering::Release);
    }

    pub(crate) const fn spilled(&self) -> u64 {
        self.spill.spilled()
    }
}

fn lost(block: u32, error: &dyn std::fmt::Display) -> Failed {
    let text = format!("block {block} was lost on its way over the server's disk: {error}; the same command goes on where it stopped");
    (ErrorCode::StagingFailed, text, close::STORAGE)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A lane whose blocks come in disorder, into objects of several blocks a part, with a store of a certain speed.
    struct World {
        spill: Spill<u32>,
        part: u32,
        /// Opened by the sender and not complete.
        open: Vec<u32>,
        /// Of these, such as lack a packet, and until when.
        late: Vec<(u32, u32)>,
        round: u32,
        /// One of so many is late; 0: none.
        late_of: usize,
        sent: u32,
        /// Parts begin in the middle of blocks, so that some blocks belong to two.
        is_shifted: bool,
        total: u32,
        /// Blocks at the uploader, by part.
        parts: BTreeMap<u32, Vec<u32>>,
        whole: VecDeque<Vec<u32>>,
        /// How many parts each block at the uploader still waits for.
        waits: HashMap<u32, usize>,
        random: u64,
        stored: u32,
        most_in_memory: u32,
    }

    impl World {
        fn new(window: u32, part: u32, seed: u64) -> Self {
            let spill = Spill::new(window, part).unwrap();
            let (open, late, parts, whole, waits) = (Vec::new(), Vec::new(), BTreeMap::new(), VecDeque::new(), HashMap::new());
            Self {
                spill,
                part,
                is_shifted: false,
                total: u32::MAX,
                waits,
                open,
                late,
                round: 0,
                late_of: 20,
                sent: 0,
                parts,
                whole,
                random: seed | 1,
                stored: 0,
                most_in_memory: 0,
            }
        }

        fn below(&mut self, bound: usize) -> usize {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            (self.random % bound as u64) as usize
        }

        fn upload(&mut self, block: u32) {
            let last = block / self.part;
            let is_shared = self.is_shifted && block.is_multiple_of(self.part) && block > 0;
            let touched: Vec<u32> = if is_shared { vec![last - 1, last] } else { vec![last] };
            self.waits.insert(block, touched.len());
            for part in touched {
                let blocks = self.parts.entry(part).or_default();
                blocks.push(block);
                let end = (part + 1).saturating_mul(self.part) + u32::from(self.is_shifted);
                if blocks.len() as u32 == end.min(self.total) - part * self.part {
                    self.whole.extend(self.parts.remove(&part));
                }
            }
        }

        /// One block arrives, if the sender may have one open.
        fn network(&mut self, total: u32, has_room: bool) {
            self.total = total;
            while self.sent < total.min(self.spill.allowed()) {
                self.open.push(self.sent);
                self.sent += 1;
            }
            // Blocks are whole about in the order in which they were sent; some lack a packet for long.
            self.round += 1;
            let due = self.late.iter().position(|&(round, _)| round < self.round);
            let block = if let Some(at) = due {
                self.late.remove(at).1
            } else if self.open.is_empty() {
                return;
            } else {
                let at = self.below(self.open.len().min(6));
                let block = self.open.remove(at);
                if self.late_of > 0 && self.below(self.late_of) == 0 {
                    let wait = self.below(300) as u32;
                    self.late.push((self.round + wait, block));
                    return;
                }
                block
            };
            if !self.spill.arrived(block, has_room) {
                self.upload(block);
            }
            self.note();
        }

        /// The disk does some of what it has to do.
        fn disk(&mut self, fails: bool) {
            if let Some(&block) = self.spill.writing.last() {
                if fails {
                    self.spill.not_written(block);
                    self.upload(block);
                } else {
                    self.spill.written(block, block);
                }
            }
            while let Some((block, place)) = self.spill.next() {
                assert_eq!(block, place);
                self.note();
                self.spill.read(block);
                self.upload(block);
            }
            self.note();
        }

        fn store(&mut self) {
            for block in self.whole.pop_front().unwrap_or_default() {
                let waits = self.waits.get_mut(&block).unwrap();
                *waits -= 1;
                if *waits == 0 {
                    self.spill.became_durable();
                    self.stored += 1;
                }
            }
        }

        fn note(&mut self) {
            let Spill { handed, durable, writing, reading, .. } = &self.spill;
            let in_memory = (self.open.len() + self.late.len()) as u32 + handed - durable + writing.len() as u32 + reading;
            self.most_in_memory = self.most_in_memory.max(in_memory);
        }
    }

    #[test]
    fn every_block_arrives_within_the_window_however_slow_the_store_is() {
        for seed in 1..300_u64 {
            let (window, part) = [(64, 16), (36, 16), (160, 16), (256, 1), (16, 5), (6, 1), (10, 3)][seed as usize % 7];
            let total = 40 * part;
            let mut world = World::new(window, part, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            world.is_shifted = seed % 2 == 0;
            let mut idle = 0;
            while world.stored < total {
                let before = (world.stored, world.sent, world.open.len());
                let has_room = world.spill.staged() < 500 && seed % 5 != 0;
                world.network(total, has_room);
                if world.sent == total && seed % 4 < 2 {
                    world.spill.announced(total);
                }
                let fails = seed % 3 == 0 && world.below(10) == 0;
                world.disk(fails);
                if world.below(8) == 0 {
                    world.store();
                }
                idle = if before == (world.stored, world.sent, world.open.len()) { idle + 1 } else { 0 };
                assert!(idle < 1000, "seed {seed} stands still at {} of {total}: {:?}", world.stored, world.spill);
                assert!(world.most_in_memory <= window, "seed {seed}: {} blocks in memory of {window}", world.most_in_memory);
            }
            assert!(world.spill.staged.is_empty() && world.spill.writing.is_empty());
        }
    }

    #[test]
    fn a_store_that_stands_still_does_not_stop_the_network() {
        let mut world = World::new(64, 16, 5);
        for _ in 0..3000 {
            world.network(1000, true);
            world.disk(false);
        }
        assert_eq!((world.sent, world.open.len(), world.stored), (1000, 0, 0), "{:?}", world.spill);
        assert!(world.spill.staged() > 900, "{}", world.spill.staged());
        // Without room it stops after one window.
        let mut world = World::new(64, 16, 5);
        for _ in 0..3000 {
            world.network(1000, false);
            world.disk(false);
        }
        assert_eq!((world.sent, world.spill.spilled()), (64, 0));
    }

    /// Uploads that were begun by a server with other settings, say.
    #[test]
    fn parts_that_are_larger_than_was_thought_get_out_of_their_circle() {
        let (total, mut idle, mut helped) = (240, 0, 0);
        let mut world = World { part: 12, ..World::new(16, 2, 11) };
        while world.stored < total {
            let before = (world.stored, world.sent, world.open.len(), world.late.len());
            world.network(total, true);
            world.disk(false);
            world.store();
            idle = if before == (world.stored, world.sent, world.open.len(), world.late.len()) { idle + 1 } else { 0 };
            if idle > 400 {
                (idle, helped) = (0, helped + 1);
                world.spill.stands_still();
            }
            assert!(helped < 100, "{:?}", world.spill);
        }
        assert!(helped > 0 && world.most_in_memory <= 16 + 12, "{helped}, {} in memory", world.most_in_memory);
    }

    #[test]
    fn a_store_that_is_back_gets_half_a_window_at_once() {
        let mut world = World { late_of: 0, ..World::new(64, 8, 3) };
        for round in 0..4000 {
            world.network(10_000, true);
            // Stands still, and then takes a third of what comes.
            if round > 500 && round % 24 == 0 {
                world.store();
            }
            world.disk(false);
            if world.spill.staged() > 0 {
                assert!(world.spill.uploading() >= 32, "round {round}: {:?}", world.spill);
            }
        }
        assert!(world.stored > 1000 && world.spill.staged() > 1000, "{} stored: {:?}", world.stored, world.spill.staged());
    }

    #[test]
    fn a_fast_store_hardly_uses_the_disk() {
        let mut world = World { late_of: 0, ..World::new(64, 16, 9) };
        for _ in 0..3000 {
            world.network(1600, true);
            world.disk(false);
            world.store();
        }
        assert_eq!((world.stored, world.spill.allowed()), (1600, 1664));
        assert!(world.spill.spilled() <= 16, "{} of 1600, beside parts that lack a block for long", world.spill.spilled());
    }

    #[test]
    fn a_window_without_a_part_to_spare_has_none() {
        assert!(Spill::<()>::new(35, 16).is_none());
        assert!(Spill::<()>::new(1, 1).is_none());
        assert_eq!(Spill::<()>::new(36, 16).map(|spill| spill.reserve()), Some(17));
        assert_eq!(Spill::<()>::new(256, 1).map(|spill| spill.reserve()), Some(32));
    }
}
