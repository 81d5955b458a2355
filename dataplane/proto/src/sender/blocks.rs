//! Blocks that are on their way: which chunks were sent, lost, received.

use std::collections::VecDeque;

use tradewind_wire::BlockId;

/// Losses of one chunk after which it is sent several times at once (transport study, section 2.3).
const TRIES_BEFORE_COPIES: u8 = 4;
/// Most copies sent at once.
const COPIES_MAX: u8 = 4;

#[derive(Clone, Copy, Default)]
struct Chunk {
    /// Copies whose fate is open.
    in_flight: u8,
    /// How often it was lost.
    lost_times: u8,
    /// Copies still to send while it is marked lost.
    copies_due: u8,
}

/// Bookkeeping of a block, recycled from block to block.
#[derive(Default)]
struct Progress {
    received: Vec<u64>,
    lost: Vec<u64>,
    chunks: Vec<Chunk>,
    count: u16,
    received_count: u16,
    lost_count: u16,
    /// First chunk that was never sent.
    fresh: u16,
}

impl Progress {
    fn start(&mut self, count: u16) {
        let words = usize::from(count).div_ceil(64);
        self.received.clear();
        self.received.resize(words, 0);
        self.lost.clear();
        self.lost.resize(words, 0);
        self.chunks.clear();
        self.chunks.resize(usize::from(count), Chunk::default());
        self.count = count;
        self.received_count = 0;
        self.lost_count = 0;
        self.fresh = 0;
    }

    fn is_received(&self, chunk: u16) -> bool {
        get(&self.received, chunk)
    }
}

fn get(bits: &[u64], at: u16) -> bool {
    bits.get(usize::from(at) / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
}

fn set(bits: &mut [u64], at: u16, value: bool) {
    if let Some(word) = bits.get_mut(usize::from(at) / 64) {
        *word = *word & !(1 << (at % 64)) | u64::from(value) << (at % 64);
    }
}

struct Open<B> {
    image: B,
    progress: Progress,
}

/// A chunk to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    pub(super) block: BlockId,
    pub(super) chunk: u16,
    pub(super) last: bool,
    /// It was sent before.
    pub(super) again: bool,
}

/// All open blocks of a lane, in order.
pub(super) struct Blocks<B> {
    chunk_bytes: usize,
    base: u32,
    open: VecDeque<Option<Open<B>>>,
    spare: Vec<Progress>,
    /// Block that fresh chunks come from, and the first that may have lost ones; both as ids.
    fresh_block: u32,
    lost_block: u32,
    lost_total: u64,
    unreceived: u64,
    /// Where the pass of the tail stands: this block, chunks below this one.
    tail: (u32, u16),
    /// The receiver lacks buffers: take turns between blocks, and between lost and fresh chunks.
    turns: bool,
    fresh_turn: bool,
}

impl<B: AsRef<[u8]>> Blocks<B> {
    pub(super) fn new(chunk_bytes: usize) -> Self {
        Self {
            chunk_bytes,
            base: 0,
            open: VecDeque::new(),
            spare: Vec::new(),
            fresh_block: 0,
            lost_block: 0,
            lost_total: 0,
            unreceived: 0,
            tail: (0, 0),
            turns: false,
            fresh_turn: false,
        }
    }

    /// Blocks opened so far.
    pub(super) fn opened(&self) -> u32 {
        self.base + self.open.len() as u32
    }

    /// Whether this is one of an open block's chunks and not its last, which may be short.
    pub(super) fn is_full_size(&self, block: BlockId, chunk: u16) -> bool {
        let open = block.0.checked_sub(self.base).and_then(|index| self.open.get(index as usize)?.as_ref());
        open.is_some_and(|open| chunk + 1 < open.progress.count)
    }

    /// Chunks that the receiver does not have yet, as far as is known.
    pub(super) fn unreceived(&self) -> u64 {
        self.unreceived
    }

    pub(super) fn has_lost(&self) -> bool {
        self.lost_total > 0
    }

    pub(super) fn has_fresh(&self) -> bool {
        self.fresh_block < self.opened()
    }

    /// Blocks of which some chunk was never sent.
    pub(super) fn fresh_blocks(&self) -> u32 {
        self.opened() - self.fresh_block
    }

    /// Adds a block; `Err` gives it back when its image is empty or has too many chunks.
    pub(super) fn push(&mut self, image: B) -> Result<BlockId, B> {
        let chunks = image.as_ref().len().div_ceil(self.chunk_bytes);
        let Some(count) = u16::try_from(chunks).ok().filter(|&count| count > 0) else { return Err(image) };
        let mut progress = self.spare.pop().unwrap_or_default();
        progress.start(count);
        let id = self.opened();
        self.open.push_back(Some(Open { image, progress }));
        self.unreceived += u64::from(count);
        Ok(BlockId(id))
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Open<B>> {
        self.open.get_mut(id.checked_sub(self.base)? as usize)?.as_mut()
    }

    /// The bytes of a chunk.
    pub(super) fn bytes(&self, pick: Pick) -> &[u8] {
        let image = pick.block.0.checked_sub(self.base).and_then(|at| self.open.get(at as usize)?.as_ref());
        let Some(open) = image else { return &[] };
        let image = open.image.as_ref();
        let start = usize::from(pick.chunk) * self.chunk_bytes;
        image.get(start..image.len().min(start + self.chunk_bytes)).unwrap_or(&[])
    }

    /// Whether the receiver lacks buffers. It may then have given its last ones to later blocks; if only the oldest block
    /// were repeated, those would never be whole and no buffer would ever be free.
    pub(super) fn take_turns(&mut self, on: bool) {
        if self.turns && !on {
            self.lost_block = self.base;
        }
        self.turns = on;
    }

    /// The next chunk that was lost or never sent: lost ones first, or in turns.
    pub(super) fn next_ready(&mut self) -> Option<Pick> {
        self.fresh_turn = self.turns && !self.fresh_turn;
        if self.fresh_turn
            && let Some(pick) = self.next_fresh()
        {
            return Some(pick);
        }
        self.next_lost().or_else(|| self.next_fresh())
    }

    /// The oldest lost chunk, if any; it counts as sent now.
    fn next_lost(&mut self) -> Option<Pick> {
        while self.lost_total > 0 {
            if self.lost_block >= self.opened() {
                self.lost_block = self.base;
            }
            let id = self.lost_block;
            if let Some(open) = self.get_mut(id).filter(|open| open.progress.lost_count > 0) {
                let progress = &mut open.progress;
                let word = progress.lost.iter().position(|&word| word != 0)?;
                let chunk = (word * 64) as u16 + progress.lost[word].trailing_zeros() as u16;
                let state = &mut progress.chunks[usize::from(chunk)];
                state.in_flight = state.in_flight.saturating_add(1);
                state.copies_due = state.copies_due.saturating_sub(1);
                let last = chunk + 1 == progress.count;
                if state.copies_due == 0 {
                    set(&mut progress.lost, chunk, false);
                    progress.lost_count -= 1;
                    self.lost_total -= 1;
                }
                self.lost_block += u32::from(self.turns);
                return Some(Pick { block: BlockId(id), chunk, last, again: true });
            }
            self.lost_block += 1;
        }
        None
    }

    /// The next chunk that was never sent; it counts as sent now.
    fn next_fresh(&mut self) -> Option<Pick> {
        let id = self.fresh_block;
        let open = self.get_mut(id)?;
        let progress = &mut open.progress;
        let chunk = progress.fresh;
        progress.fresh += 1;
        progress.chunks[usize::from(chunk)].in_flight = 1;
        let last = progress.fresh == progress.count;
        if last {
            self.fresh_block += 1;
        }
        Some(Pick { block: BlockId(id), chunk, last, again: false })
    }

    /// Starts a pass over the chunks that the receiver does not have.
    ///
    /// It goes from the newest back: news of the oldest is about to arrive anyway, so that pass and news meet in the middle.
    pub(super) fn rewind_tail(&mut self) {
        self.tail = (self.opened(), 0);
    }

    /// The next sent but unreceived chunk of the pass with fewer than `copies` copies in flight; it counts as sent now.
    /// `None` ends the pass.
    pub(super) fn next_tail(&mut self, copies: u8) -> Option<Pick> {
        loop {
            let (id, before) = self.tail;
            if let Some(open) = self.get_mut(id) {
                let progress = &mut open.progress;
                for chunk in (0..before.min(progress.fresh)).rev() {
                    let state = progress.chunks[usize::from(chunk)];
                    if !progress.is_received(chunk) && state.in_flight < copies && !get(&progress.lost, chunk) {
                        progress.chunks[usize::from(chunk)].in_flight += 1;
                        let last = chunk + 1 == progress.count;
                        self.tail = (id, chunk);
                        return Some(Pick { block: BlockId(id), chunk, last, again: true });
                    }
                }
            }
            if id <= self.base {
                return None;
            }
            self.tail = (id - 1, u16::MAX);
        }
    }

    /// A copy of this chunk was lost.
    pub(super) fn on_lost(&mut self, block: BlockId, chunk: u16) {
        let Some(open) = self.get_mut(block.0) else { return };
        let progress = &mut open.progress;
        if chunk >= progress.count || progress.is_received(chunk) {
            return;
        }
        let state = &mut progress.chunks[usize::from(chunk)];
        state.in_flight = state.in_flight.saturating_sub(1);
        state.lost_times = state.lost_times.saturating_add(1);
        if state.in_flight > 0 || get(&progress.lost, chunk) {
            return;
        }
        state.copies_due = if state.lost_times < TRIES_BEFORE_COPIES { 1 } else { (state.lost_times - 2).min(COPIES_MAX) };
        set(&mut progress.lost, chunk, true);
        progress.lost_count += 1;
        self.lost_total += 1;
        if !self.turns {
            self.lost_block = self.lost_block.min(block.0);
        }
    }

    /// A copy of this chunk arrived. Returns the image and its id when the block is complete with it.
    pub(super) fn on_received(&mut self, block: BlockId, chunk: u16) -> Option<(BlockId, B)> {
        let open = self.get_mut(block.0)?;
        let progress = &mut open.progress;
        if chunk >= progress.count || progress.is_received(chunk) {
            return None;
        }
        set(&mut progress.received, chunk, true);
        progress.received_count += 1;
        let complete = progress.received_count == progress.count;
        if get(&progress.lost, chunk) {
            set(&mut progress.lost, chunk, false);
            progress.lost_count -= 1;
            self.lost_total -= 1;
        }
        self.unreceived -= 1;
        if !complete {
            return None;
        }
        let done = self.open.get_mut((block.0 - self.base) as usize)?.take()?;
        self.spare.push(done.progress);
        while matches!(self.open.front(), Some(None)) {
            self.open.pop_front();
            self.base += 1;
        }
        Some((block, done.image))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_go_out_in_order_lost_ones_first_and_complete_the_block() {
        let mut blocks = Blocks::new(10);
        let id = blocks.push(vec![1u8; 25]).unwrap();
        let picks: Vec<Pick> = std::iter::from_fn(|| blocks.next_fresh()).collect();
        assert_eq!(picks.iter().map(|pick| (pick.chunk, pick.last)).collect::<Vec<_>>(), [(0, false), (1, false), (2, true)]);
        assert_eq!(blocks.bytes(picks[2]).len(), 5);
        assert!(blocks.on_received(id, 0).is_none());
        blocks.on_lost(id, 1);
        assert!(blocks.has_lost());
        let again = blocks.next_lost().unwrap();
        assert_eq!((again.chunk, again.again), (1, true));
        assert!(!blocks.has_lost());
        assert!(blocks.on_received(id, 1).is_none());
        assert!(blocks.on_received(id, 1).is_none(), "twice is once");
        assert_eq!(blocks.on_received(id, 2).unwrap().0, id);
        assert_eq!(blocks.unreceived(), 0);
        assert!(blocks.on_received(id, 2).is_none());
    }

    #[test]
    fn a_chunk_lost_often_goes_out_in_copies_and_one_with_a_copy_in_flight_does_not() {
        let mut blocks = Blocks::new(10);
        let id = blocks.push(vec![1u8; 5]).unwrap();
        blocks.next_fresh().unwrap();
        blocks.rewind_tail();
        assert!(blocks.next_tail(2).is_some());
        blocks.on_lost(id, 0);
        assert!(blocks.next_lost().is_none(), "the other copy is still in flight");
        for _ in 0..4 {
            blocks.on_lost(id, 0);
            blocks.next_lost();
        }
        blocks.on_lost(id, 0);
        let copies = std::iter::from_fn(|| blocks.next_lost()).count();
        assert!((2..=4).contains(&copies), "{copies}");
    }

    #[test]
    fn without_buffers_blocks_and_fresh_chunks_take_turns() {
        let mut blocks = Blocks::new(10);
        let ids: Vec<BlockId> = (0..3).map(|_| blocks.push(vec![1u8; 40]).unwrap()).collect();
        for _ in 0..8 {
            blocks.next_fresh().unwrap();
        }
        for (id, chunk) in [(0, 0), (0, 1), (1, 2)] {
            blocks.on_lost(ids[id], chunk);
        }
        blocks.take_turns(true);
        let picks: Vec<(u32, u16, bool)> =
            std::iter::from_fn(|| blocks.next_ready()).map(|pick| (pick.block.0, pick.chunk, pick.again)).collect();
        let expected = [(2, 0, false), (0, 0, true), (2, 1, false), (1, 2, true), (2, 2, false), (0, 1, true), (2, 3, false)];
        assert_eq!(picks, expected);
        blocks.on_lost(ids[2], 0);
        blocks.on_lost(ids[0], 0);
        blocks.take_turns(false);
        assert_eq!(blocks.next_ready().unwrap().block, ids[0], "oldest first again");
    }

    #[test]
    fn blocks_complete_in_any_order() {
        let mut blocks = Blocks::new(10);
        for _ in 0..3 {
            blocks.push(vec![0u8; 10]).unwrap();
            blocks.next_fresh().unwrap();
        }
        assert!(blocks.on_received(BlockId(1), 0).is_some());
        assert!(blocks.on_received(BlockId(0), 0).is_some());
        assert_eq!(blocks.base, 2);
        assert_eq!(blocks.opened(), 3);
        blocks.on_lost(BlockId(0), 0);
        assert!(!blocks.has_lost(), "news of a finished block change nothing");
        assert!(blocks.push(Vec::new()).is_err());
    }
}
