//! The thread of one disk: takes what there is to do, gives it to the disk's ring, and tells how it went. What its disk refuses goes to another.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender};
use tradewind_fabric::block_pool::SLOT_ALIGN;
use tradewind_fabric::{BlockBuf, SharedBlock};

use crate::crc_of;
use crate::disk::{Disk, Load, is_no_room};
use crate::disks::{Disks, Tried};
use crate::error::StagingError;
use crate::kept::{KeptPlace, Taken, Turn, Written};
use crate::ring::{Buffer, DEPTH, Landed, Ring};
use crate::segments::{Place, Staged};
use crate::staging::{Outcome, Tell};

/// How long segments that nobody uses are kept.
const KEEP: Duration = Duration::from_secs(10);

/// What a disk is asked for.
#[derive(Debug)]
pub(crate) enum Work {
    Put { data: SharedBlock, tell: Tell, tried: Tried, load: Load },
    Get { staged: Staged, into: BlockBuf, tell: Tell, load: Load },
    Keep { turn: Turn, block: u32, data: SharedBlock, tried: Tried, load: Load },
}

/// A request that the kernel has.
struct Moving {
    target: Target,
    bytes: usize,
    crc: u64,
    tried: Tried,
    _load: Load,
}

/// Where it goes, or comes from.
enum Target {
    Staged(Place, Tell),
    Kept(KeptPlace),
}

impl Target {
    /// File, and offset in it.
    fn at(&self) -> (Arc<OwnedFd>, u64) {
        match self {
            Self::Staged(place, _) => (Arc::clone(&place.file), place.offset),
            Self::Kept(place) => (Arc::clone(place.file()), place.offset()),
        }
    }
}

/// What the thread has.
pub(crate) struct Mover {
    ring: Ring,
    disks: Arc<Disks>,
    /// Which of them is this one's.
    number: usize,
    inbox: Receiver<Work>,
    /// To the thread that makes kept blocks safe.
    written: Sender<Written>,
    moving: HashMap<u64, Moving>,
    keys: u64,
    /// When it last had something to do.
    used: Instant,
}

impl Mover {
    pub(crate) fn new(ring: Ring, disks: Arc<Disks>, number: usize, inbox: Receiver<Work>, written: Sender<Written>) -> Self {
        Self { ring, disks, number, inbox, written, moving: HashMap::new(), keys: 0, used: Instant::now() }
    }

    fn disk(&self) -> &Disk {
        self.disks.disk(self.number)
    }

    pub(crate) fn run(mut self) {
        loop {
            // In this order: who sees the end comes after the last request of its users.
            let is_ending = self.disks.is_ending();
            let is_idle = self.take_work();
            if is_ending && is_idle && self.ring.in_flight() == 0 {
                return;
            }
            if self.ring.in_flight() > 0 {
                self.used = Instant::now();
            } else if self.used.elapsed() >= KEEP {
                self.disk().segments.shrink();
            }
            match self.ring.wait(KEEP) {
                Ok(landed) => landed.into_iter().for_each(|landed| self.land(landed)),
                Err(error) => {
                    self.disk().fail(&format_args!("io_uring does not work any more ({error}), so nothing that waits there can be read"));
                    self.ring.reap().into_iter().for_each(|landed| self.land(landed));
                    return self.refuse_work();
                }
            }
        }
    }

    /// Passes what there is to do on: to other disks, as far as it can be. What the ring has is told of when this thread has ended.
    fn refuse_work(&self) {
        while let Ok(work) = self.inbox.try_recv() {
            match work {
                Work::Put { data, tell, tried, load } => {
                    drop(load);
                    self.disks.put(data, tell, tried, StagingError::Full);
                }
                Work::Get { tell, .. } => tell.tell(Err(StagingError::Ended)),
                Work::Keep { turn, block, data, tried, load } => {
                    drop(load);
                    self.disks.keep(turn, block, data, tried, &StagingError::Full);
                }
            }
        }
    }

    /// Starts what there is to do; true when there is nothing more.
    fn take_work(&mut self) -> bool {
        while self.ring.in_flight() < DEPTH {
            match self.inbox.try_recv() {
                Ok(Work::Put { data, tell, tried, load }) => self.put(data, tell, tried, load),
                Ok(Work::Get { staged: Staged { place, bytes, crc, .. }, into, tell, load }) => {
                    let (target, tried) = (Target::Staged(place, tell), Tried::default());
                    self.start(Moving { target, bytes, crc, tried, _load: load }, Buffer::In(into));
                }
                Ok(Work::Keep { turn, block, data, tried, load }) => self.keep(turn, block, data, tried, load),
                Err(_) => return true,
            }
        }
        false
    }

    fn put(&mut self, data: SharedBlock, tell: Tell, tried: Tried, load: Load) {
        let disk = self.disk();
        if disk.is_failed() || disk.is_full() {
            drop(load);
            return self.disks.put(data, tell, tried, StagingError::Full);
        }
        match disk.segments.take() {
            Ok(place) => {
                disk.found_room();
                self.write(Target::Staged(place, tell), data, tried, load);
            }
            Err(error) => {
                match &error {
                    StagingError::Disk { source } => disk.fail(source),
                    error => disk.found_full(error, false),
                }
                drop(load);
                self.disks.put(data, tell, tried, error);
            }
        }
    }

    fn keep(&mut self, turn: Turn, block: u32, data: SharedBlock, tried: Tried, load: Load) {
        let taken = if self.disk().is_failed() || self.disk().is_full_everywhere() {
            Taken::NoPlace(turn, StagingError::Full)
        } else {
            turn.take(block, self.disks.directory(self.number))
        };
        match taken {
            Taken::Place(place) => self.write(Target::Kept(place), data, tried, load),
            Taken::Unneeded => {}
            Taken::NoPlace(turn, error) => {
                if let StagingError::Disk { source } = &error {
                    self.disk().fail(source);
                }
                drop(load);
                self.disks.keep(turn, block, data, tried, &error);
            }
        }
    }

    fn write(&mut self, target: Target, data: SharedBlock, tried: Tried, load: Load) {
        let crc = crc_of(&data);
        self.start(Moving { target, bytes: data.len(), crc, tried, _load: load }, Buffer::Out(data));
    }

    fn start(&mut self, moving: Moving, buffer: Buffer) {
        let key = self.keys;
        self.keys += 1;
        let (file, offset) = moving.target.at();
        self.ring.start(key, &file, offset, buffer, moving.bytes.next_multiple_of(SLOT_ALIGN));
        self.moving.insert(key, moving);
    }

    fn land(&mut self, Landed { key, buffer, result }: Landed) {
        let Some(moving) = self.moving.remove(&key) else { return };
        let Moving { target, bytes, crc, tried, _load: load } = moving;
        drop(load);
        match (&result, &buffer) {
            (Err(error), Buffer::Out(_)) => self.disk().refused(error),
            (Err(error), Buffer::In(_)) => self.disk().fail(error),
            (Ok(()), Buffer::Out(_)) => self.disk().wrote(),
            (Ok(()), Buffer::In(_)) => {}
        }
        match (target, buffer, result) {
            (Target::Staged(place, tell), Buffer::Out(data), Ok(())) => {
                // Whoever is told finds its memory free.
                drop(data);
                tell.tell(Ok(Outcome::Written(Staged { place, disk: self.number, bytes, crc })));
            }
            (Target::Staged(mut place, tell), Buffer::Out(data), Err(source)) => {
                if !is_no_room(&source) {
                    place.spoil();
                }
                drop(place);
                self.disks.put(data, tell, tried, StagingError::Disk { source });
            }
            (Target::Staged(mut place, tell), Buffer::In(slot), Err(source)) => {
                drop(slot);
                place.spoil();
                drop(place);
                tell.tell(Err(StagingError::Disk { source }));
            }
            (Target::Staged(mut place, tell), Buffer::In(slot), Ok(())) => {
                let data = slot.freeze(bytes);
                let is_same = crc_of(&data) == crc;
                if !is_same {
                    self.disk().fail(&StagingError::Damaged);
                    place.spoil();
                }
                drop(place);
                tell.tell(if is_same { Ok(Outcome::Read(data)) } else { Err(StagingError::Damaged) });
            }
            // Who makes it safe ends only behind this thread.
            (Target::Kept(place), _, Ok(())) => drop(self.written.send(Written { place, bytes, crc })),
            (Target::Kept(place), buffer, Err(source)) => {
                let block = place.block();
                let turn = place.failed();
                if let Buffer::Out(data) = buffer {
                    self.disks.keep(turn, block, data, tried, &StagingError::Disk { source });
                }
            }
        }
    }
}
