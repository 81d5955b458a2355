//! Which disk a block goes to: one that answers, with the fewest bytes to move, and among those with as many the one with the most room.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::Sender;
use tradewind_fabric::wake::Waker;
use tradewind_fabric::{BlockBuf, SharedBlock};

use crate::DISKS_MAX;
use crate::disk::{Disk, Health};
use crate::error::StagingError;
use crate::kept::{KeptLane, Turn};
use crate::mover::Work;
use crate::segments::Staged;
use crate::staging::Tell;

/// Disks that a block was offered to already, a bit for each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tried(u64);

const _: () = assert!(DISKS_MAX <= 64, "each disk is a bit");

impl Tried {
    const fn has(self, number: usize) -> bool {
        self.0 >> number & 1 == 1
    }

    const fn with(self, number: usize) -> Self {
        Self(self.0 | 1 << number)
    }
}

/// A disk, and the way to its thread.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) disk: Disk,
    /// Number of its directory in the configuration.
    pub(crate) directory: usize,
    pub(crate) work: Sender<Work>,
    pub(crate) waker: Waker,
}

impl Line {
    fn send(&self, work: Work) {
        // What is refused is dropped, and told of by that.
        if self.work.send(work).is_ok() {
            self.waker.wake();
        }
    }
}

/// All disks in use. Their threads have this too, so that what one disk refuses goes to another.
#[derive(Debug)]
pub(crate) struct Disks {
    lines: Vec<Line>,
    is_ending: AtomicBool,
}

impl Disks {
    pub(crate) const fn new(lines: Vec<Line>) -> Self {
        Self { lines, is_ending: AtomicBool::new(false) }
    }

    pub(crate) fn disk(&self, number: usize) -> &Disk {
        &self.lines[number].disk
    }

    pub(crate) fn directory(&self, number: usize) -> usize {
        self.lines[number].directory
    }

    /// Of the disk of a directory, if it is in use.
    pub(crate) fn health(&self, directory: usize) -> Option<&Arc<Health>> {
        self.lines.iter().find(|line| line.directory == directory).map(|line| line.disk.health())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Disk> {
        self.lines.iter().map(|line| &line.disk)
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Nobody asks for anything more: the threads end when the disks have answered.
    pub(crate) fn end(&self) {
        self.is_ending.store(true, Ordering::Release);
        self.lines.iter().for_each(|line| line.waker.wake());
    }

    /// Has a block written by a disk that was not tried yet; `error`: why the last one did not.
    pub(crate) fn put(&self, data: SharedBlock, tell: Tell, tried: Tried, error: StagingError) {
        let choice = self.choose(tried, |line| line.disk.has_room().then(|| line.disk.room()));
        let Some((number, line)) = choice else {
            drop(data);
            return tell.tell(Err(error));
        };
        let load = line.disk.load(data.len());
        line.send(Work::Put { data, tell, tried: tried.with(number), load });
    }

    /// Has a block read by the disk that has it.
    pub(crate) fn get(&self, staged: Staged, into: BlockBuf, tell: Tell) {
        let line = &self.lines[staged.disk];
        let load = line.disk.load(staged.bytes);
        line.send(Work::Get { staged, into, tell, load });
    }

    /// Has a block kept by a disk that was not tried yet.
    pub(crate) fn keep(&self, turn: Turn, block: u32, data: SharedBlock, tried: Tried, error: &StagingError) {
        match self.choose(tried, |line| Self::kept_room(line, turn.lane())) {
            Some((number, line)) => line.send(Self::kept(line, turn, block, data, tried.with(number))),
            None => turn.lane().refused(error),
        }
    }

    /// Has a block kept by every disk; one that does not get it gives up what it has of the lane.
    pub(crate) fn keep_everywhere(&self, lane: &KeptLane, block: u32, data: &SharedBlock, begin: impl Fn() -> Option<Turn>) {
        // Tried by all: what one refuses the others have.
        let tried = Tried(u64::MAX);
        for line in &self.lines {
            match begin().filter(|_| !line.disk.is_failed()) {
                Some(turn) => line.send(Self::kept(line, turn.for_all(line.directory), block, data.clone(), tried)),
                None => lane.give_up(line.directory),
            }
        }
    }

    fn kept(line: &Line, turn: Turn, block: u32, data: SharedBlock, tried: Tried) -> Work {
        let load = line.disk.load(data.len());
        Work::Keep { turn, block, data, tried, load }
    }

    fn kept_room(line: &Line, lane: &KeptLane) -> Option<u64> {
        let is_out = line.disk.is_failed() || line.disk.is_full_everywhere();
        if is_out { None } else { lane.room(line.directory).map(|room| room as u64) }
    }

    /// `room`: how much there is, `None` if it must not be chosen.
    fn choose(&self, tried: Tried, room: impl Fn(&Line) -> Option<u64>) -> Option<(usize, &Line)> {
        let lines = self.lines.iter().enumerate().filter(|(number, _)| !tried.has(*number));
        let able = lines.filter_map(|(number, line)| Some((room(line)?, number, line)));
        let best = able
            .min_by_key(|(room, _, line)| (line.disk.stands_still(), line.disk.queued_bytes(), Reverse(*room), line.disk.blocks_written()));
        best.map(|(_, number, line)| (number, line))
    }
}

#[cfg(test)]
mod tests;
