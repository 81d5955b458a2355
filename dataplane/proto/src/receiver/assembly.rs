//! Putting chunks into blocks.

use std::collections::VecDeque;

use tradewind_wire::limits::BLOCKS_OPEN_MAX;

/// Where a chunk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Decrypt into the block's buffer.
    New,
    /// The chunk, or its whole block, is here already.
    Duplicate,
    /// Its block has no buffer yet.
    NoBuffer,
    /// The sender breaks its own rules.
    Invalid,
}

struct Open<B> {
    buffer: B,
    chunks: Chunks,
}

/// Bookkeeping of one block, recycled.
#[derive(Default)]
struct Chunks {
    bits: Vec<u64>,
    received: u32,
    largest: u32,
    /// Known once the last chunk arrived.
    count: Option<u32>,
    image_bytes: usize,
}

impl Chunks {
    fn start(&mut self, words: usize) {
        self.bits.clear();
        self.bits.resize(words, 0);
        self.received = 0;
        self.largest = 0;
        self.count = None;
        self.image_bytes = 0;
    }
}

/// Open blocks of a lane, by number.
pub(super) struct Assembly<B> {
    chunk_bytes: usize,
    image_bytes_max: usize,
    base: u32,
    /// `None` below the largest open block: not begun, or done (then its bit in `done` is set).
    open: VecDeque<Slot<B>>,
    spare: Vec<Chunks>,
    completed: u32,
}

enum Slot<B> {
    Untouched,
    Open(Open<B>),
    Done,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Assembly<B> {
    pub(super) fn new(chunk_bytes: usize, image_bytes_max: usize) -> Self {
        Self { chunk_bytes, image_bytes_max, base: 0, open: VecDeque::new(), spare: Vec::new(), completed: 0 }
    }

    /// Blocks received whole.
    pub(super) fn completed(&self) -> u32 {
        self.completed
    }

    fn words(&self) -> usize {
        self.image_bytes_max.div_ceil(self.chunk_bytes).div_ceil(64)
    }

    /// Checks a chunk before it is decrypted. `bytes` is its plaintext length, `allowed` how many blocks the sender may use.
    pub(super) fn place(&self, block: u32, chunk: u16, bytes: usize, last: bool, allowed: u32) -> Place {
        let offset = usize::from(chunk) * self.chunk_bytes;
        let full = bytes == self.chunk_bytes || last && bytes > 0 && bytes < self.chunk_bytes;
        if !full || offset + bytes > self.image_bytes_max || block >= allowed {
            return Place::Invalid;
        }
        let Some(position) = block.checked_sub(self.base) else { return Place::Duplicate };
        if position as usize >= BLOCKS_OPEN_MAX {
            return Place::Invalid;
        }
        match self.open.get(position as usize) {
            None | Some(Slot::Untouched) => Place::NoBuffer,
            Some(Slot::Done) => Place::Duplicate,
            Some(Slot::Open(open)) => {
                let chunk = u32::from(chunk);
                let chunks = &open.chunks;
                let beyond = chunks.count.is_some_and(|count| chunk >= count || last && chunk + 1 != count);
                if beyond || last && chunk < chunks.largest {
                    Place::Invalid
                } else if chunks.bits[chunk as usize / 64] >> (chunk % 64) & 1 == 1 {
                    Place::Duplicate
                } else {
                    Place::New
                }
            }
        }
    }

    /// Gives a block its buffer; `buffer` must hold `image_bytes_max`. Gives it back if the block has one.
    pub(super) fn begin(&mut self, block: u32, buffer: B) -> Result<(), B> {
        let Some(position) = block.checked_sub(self.base) else { return Err(buffer) };
        if buffer.as_ref().len() < self.image_bytes_max {
            return Err(buffer);
        }
        let words = self.words();
        while self.open.len() <= position as usize {
            self.open.push_back(Slot::Untouched);
        }
        let slot = &mut self.open[position as usize];
        if !matches!(slot, Slot::Untouched) {
            return Err(buffer);
        }
        let mut chunks = self.spare.pop().unwrap_or_default();
        chunks.start(words);
        *slot = Slot::Open(Open { buffer, chunks });
        Ok(())
    }

    /// Where the chunk's plaintext goes; only after [`Place::New`].
    pub(super) fn destination(&mut self, block: u32, chunk: u16, bytes: usize) -> Option<&mut [u8]> {
        let start = usize::from(chunk) * self.chunk_bytes;
        match self.open.get_mut(block.checked_sub(self.base)? as usize)? {
            Slot::Open(open) => open.buffer.as_mut().get_mut(start..start + bytes),
            _ => None,
        }
    }

    /// Marks a decrypted chunk. Returns buffer and image length when the block is complete with it.
    pub(super) fn mark(&mut self, block: u32, chunk: u16, bytes: usize, last: bool) -> Option<(B, usize)> {
        let position = block.checked_sub(self.base)? as usize;
        let slot = self.open.get_mut(position)?;
        let Slot::Open(open) = slot else { return None };
        let chunks = &mut open.chunks;
        let chunk = u32::from(chunk);
        chunks.bits[chunk as usize / 64] |= 1 << (chunk % 64);
        chunks.received += 1;
        chunks.largest = chunks.largest.max(chunk);
        if last {
            chunks.count = Some(chunk + 1);
            chunks.image_bytes = chunk as usize * self.chunk_bytes + bytes;
        }
        if chunks.count != Some(chunks.received) {
            return None;
        }
        let Slot::Open(done) = std::mem::replace(slot, Slot::Done) else { return None };
        let image_bytes = done.chunks.image_bytes;
        self.spare.push(done.chunks);
        self.completed += 1;
        while matches!(self.open.front(), Some(Slot::Done)) {
            self.open.pop_front();
            self.base += 1;
        }
        Some((done.buffer, image_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(assembly: &mut Assembly<Vec<u8>>, block: u32, chunk: u16, text: &[u8], last: bool) -> Option<(Vec<u8>, usize)> {
        assert_eq!(assembly.place(block, chunk, text.len(), last, 10), Place::New);
        assembly.destination(block, chunk, text.len()).unwrap().copy_from_slice(text);
        assembly.mark(block, chunk, text.len(), last)
    }

    #[test]
    fn a_block_is_whole_when_every_chunk_up_to_the_last_is_here() {
        let mut assembly = Assembly::new(4, 64);
        assert_eq!(assembly.place(1, 2, 2, true, 10), Place::NoBuffer);
        assembly.begin(1, vec![0; 64]).unwrap();
        assert!(assembly.begin(1, vec![0; 64]).is_err());
        assert!(put(&mut assembly, 1, 2, b"ij", true).is_none());
        assert!(put(&mut assembly, 1, 0, b"abcd", false).is_none());
        assert_eq!(assembly.place(1, 0, 4, false, 10), Place::Duplicate);
        let (buffer, length) = put(&mut assembly, 1, 1, b"efgh", false).unwrap();
        assert_eq!(&buffer[..length], b"abcdefghij");
        assert_eq!(assembly.place(1, 1, 4, false, 10), Place::Duplicate);
        assert_eq!(assembly.completed(), 1);
        assert_eq!(assembly.base, 0, "block 0 has not come yet");
    }

    #[test]
    fn a_peer_that_breaks_the_rules_is_refused() {
        let mut assembly: Assembly<Vec<u8>> = Assembly::new(4, 16);
        assembly.begin(0, vec![0; 16]).unwrap();
        assert_eq!(assembly.place(0, 4, 4, false, 10), Place::Invalid, "beyond the block");
        assert_eq!(assembly.place(0, 0, 3, false, 10), Place::Invalid, "short but not the last");
        assert_eq!(assembly.place(0, 0, 0, true, 10), Place::Invalid, "empty");
        assert_eq!(assembly.place(10, 0, 4, false, 10), Place::Invalid, "no credit");
        assert!(put(&mut assembly, 0, 2, b"abcd", true).is_none());
        assert_eq!(assembly.place(0, 3, 4, false, 10), Place::Invalid, "behind the last");
        assert_eq!(assembly.place(0, 1, 4, true, 10), Place::Invalid, "a second last");
    }
}
