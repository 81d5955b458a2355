//! The receiver's store: blocks become durable one behind the other, and only then is their room free again.

use std::collections::VecDeque;

use crate::world::Store;

const MS: f64 = 1e6;

/// A store and its pool of buffers.
pub(crate) struct StoreModel {
    spec: Store,
    image_bytes_max: usize,
    spare: Vec<Vec<u8>>,
    taken: u32,
    busy_until_ns: u64,
    queue: VecDeque<(u64, Vec<u8>)>,
    accepted: u32,
    durable: u32,
    failed: bool,
    /// Most buffers taken and not yet given back at any time.
    pub(crate) most_taken: u32,
}

impl StoreModel {
    pub(crate) fn new(spec: &Store, image_bytes_max: usize) -> Self {
        Self {
            spec: spec.clone(),
            image_bytes_max,
            spare: Vec::new(),
            taken: 0,
            busy_until_ns: 0,
            queue: VecDeque::new(),
            accepted: 0,
            durable: 0,
            failed: false,
            most_taken: 0,
        }
    }

    /// A buffer for a new block, dirty on purpose.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        if self.taken >= self.spec.pool_blocks {
            return None;
        }
        self.taken += 1;
        self.most_taken = self.most_taken.max(self.taken);
        Some(self.spare.pop().unwrap_or_else(|| vec![0xa5; self.image_bytes_max]))
    }

    /// Takes a whole block; `false` when the store has failed.
    pub(crate) fn accept(&mut self, now_ns: u64, buffer: Vec<u8>, bytes: usize) -> bool {
        self.failed |= self.spec.fails_at_block == Some(self.accepted);
        self.accepted += 1;
        if self.failed {
            return false;
        }
        let (stall, length) = (self.spec.stall_ms * MS, self.spec.stall_length_ms * MS);
        let mut start = now_ns.max(self.busy_until_ns) as f64;
        if length > 0.0 && start >= stall && start < stall + length {
            start = stall + length;
        }
        self.busy_until_ns = (start + bytes as f64 * 8000.0 / self.spec.rate_mbps) as u64;
        self.queue.push_back((self.busy_until_ns + (self.spec.delay_ms * MS) as u64, buffer));
        true
    }

    /// Moves on to `now_ns`; whether anything became durable.
    pub(crate) fn advance(&mut self, now_ns: u64) -> bool {
        let before = self.durable;
        while self.queue.front().is_some_and(|(at, _)| *at <= now_ns) {
            if let Some((_, buffer)) = self.queue.pop_front() {
                self.spare.push(buffer);
                self.taken -= 1;
                self.durable += 1;
            }
        }
        self.durable > before
    }

    /// When the next block becomes durable.
    pub(crate) fn next_ns(&self) -> u64 {
        self.queue.front().map_or(u64::MAX, |(at, _)| *at)
    }

    pub(crate) fn durable(&self) -> u32 {
        self.durable
    }

    pub(crate) fn allowed(&self) -> u32 {
        self.durable + self.spec.window_blocks
    }

    /// Three quarters of the window wait for the store.
    pub(crate) fn is_limiting(&self) -> bool {
        self.queue.len() as u32 * 4 >= self.spec.window_blocks * 3
    }

    /// kbit/s; 0 while unknown.
    pub(crate) fn rate_kbps(&self) -> u32 {
        if self.durable == 0 { 0 } else { (self.spec.rate_mbps * 1000.0) as u32 }
    }
}
