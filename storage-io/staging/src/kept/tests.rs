//! Kept blocks. On the disk that is built on: tmpfs has no direct I/O of whole pages.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use tradewind_fabric::BlockPool;

use super::*;
use crate::{Ring, Staging, StagingConfig, crc_of};

const SLOT: usize = 64 << 10;
const FILE_BYTES: u64 = 4096 + 64 * SLOT as u64;

struct World {
    staging: Staging,
    keep: Keep,
    pool: BlockPool,
    folder: tempfile::TempDir,
}

fn world(files_max: u64) -> World {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let pool = BlockPool::new(80, SLOT).unwrap();
    let config = StagingConfig { directories: vec![folder.path().to_owned()], bytes_max: 8 * SLOT as u64 };
    let staging = Staging::start(vec![Ring::new(&pool).unwrap()], &config).unwrap();
    assert!(Keep::open(&config, SLOT, false, None).unwrap().is_none(), "there is nothing");
    let keep = open_with(&folder, files_max, Some(&staging)).unwrap();
    World { staging, keep, pool, folder }
}

fn open(folder: &tempfile::TempDir, files_max: u64) -> Result<Keep, StagingError> {
    open_with(folder, files_max, None)
}

fn open_with(folder: &tempfile::TempDir, files_max: u64, staging: Option<&Staging>) -> Result<Keep, StagingError> {
    let config = StagingConfig { directories: vec![folder.path().to_owned()], bytes_max: files_max * FILE_BYTES };
    Keep::open(&config, SLOT, true, staging).map(Option::unwrap)
}

fn contents(block: u32) -> Vec<u8> {
    let mut bytes = block.to_le_bytes().repeat(SLOT / 8);
    bytes.truncate(1000 + block as usize * 100);
    bytes
}

impl World {
    fn keep(&self, lane: &KeptLane, blocks: std::ops::Range<u32>) {
        for block in blocks {
            let bytes = contents(block);
            let mut slot = self.pool.take().expect("a free slot");
            slot[..bytes.len()].copy_from_slice(&bytes);
            self.staging.keep(lane, block, &slot.freeze(bytes.len()), false);
            // So that none is refused for being one too many.
            self.settle(lane);
        }
    }

    fn settle(&self, lane: &KeptLane) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while lane.0.writing.load(Ordering::Relaxed) > 0 {
            assert!(Instant::now() < deadline, "the disk does not answer");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn keep_for_all(&self, lane: &KeptLane, block: u32) {
        let bytes = contents(block);
        let mut slot = self.pool.take().expect("a free slot");
        slot[..bytes.len()].copy_from_slice(&bytes);
        self.staging.keep(lane, block, &slot.freeze(bytes.len()), true);
        self.settle(lane);
    }

    /// Once what is being removed is gone.
    fn names(&self) -> Vec<String> {
        self.keep.look(None);
        let entries = std::fs::read_dir(self.folder.path().join("kept")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).filter(|name| name != "lock").collect()
    }
}

/// Blocks that are recalled, with what reads them again.
fn images(keep: &Keep, scope: u128, within: Duration) -> Vec<(KeptImage, Vec<u8>)> {
    let mut images = Vec::new();
    keep.recall(scope, within, |image, bytes| images.push((image, bytes)));
    images
}

/// Their numbers.
fn recalled(keep: &Keep, scope: u128) -> Vec<u32> {
    let number = |(_, bytes): (KeptImage, Vec<u8>)| {
        let block = (bytes.len() as u32 - 1000) / 100;
        assert_eq!(bytes, contents(block), "block {block}");
        block
    };
    let mut blocks: Vec<u32> = images(keep, scope, Duration::from_secs(60)).into_iter().map(number).collect();
    blocks.sort_unstable();
    blocks
}

#[test]
fn what_the_store_does_not_have_outlives_the_process() {
    let world = world(4);
    let (lane, other) = (world.keep.lane(7), world.keep.lane(8));
    world.keep(&lane, 0..100);
    world.keep(&other, 200..201);
    assert_eq!(world.names().len(), 3);
    assert!(recalled(&world.keep, 7).is_empty(), "a lane that runs needs no recall");
    // The first file is done but for one block, the second goes on.
    (0..63).chain(70..72).for_each(|block| lane.done(block));
    assert_eq!(world.names().len(), 3);
    drop((lane, other));
    let World { staging, keep, folder, .. } = world;
    assert!(matches!(open(&folder, 1), Err(StagingError::Directory { .. })), "it is in use");
    drop((staging, keep));
    let keep = open(&folder, 4).unwrap();
    // What was done in a file that is still there is there too; who asks knows what the store has.
    assert_eq!(recalled(&keep, 7), (0..100).collect::<Vec<_>>());
    assert_eq!((recalled(&keep, 8), recalled(&keep, 9)), (vec![200], vec![]));
    assert!(images(&keep, 8, Duration::ZERO).is_empty(), "no time");
    let (image, bytes) = images(&keep, 8, Duration::from_secs(60)).remove(0);
    keep.forget(8);
    assert_eq!((bytes, recalled(&keep, 8)), (contents(200), vec![]));
    // What was recalled is there as long as it is needed, in pieces too.
    let middle = contents(200)[100..900].to_vec();
    assert_eq!(image.read(100..900, crc_of(&middle)).unwrap(), middle);
    assert!(matches!(image.read(100..contents(200).len() + 1, 0), Err(StagingError::Disk { .. })));
    assert_eq!(keep.expire(Duration::from_secs(3600)), 0);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(keep.expire(Duration::from_millis(1)), 2);
    assert_eq!(std::fs::read_dir(folder.path().join("kept")).unwrap().count(), 1, "the lock");
}

#[test]
fn files_go_with_their_last_block_and_more_than_is_allowed_is_not_kept() {
    let world = world(1);
    let lane = world.keep.lane(7);
    world.keep(&lane, 0..80);
    assert_eq!(world.names().len(), 1);
    assert_eq!(lock(&lane.0.state).blocks.len(), 64, "there is no room for more");
    (0..80).for_each(|block| lane.done(block));
    assert!(world.names().is_empty());
    world.keep(&lane, 100..102);
    assert_eq!(world.names().len(), 1);
    drop(lane);
    assert_eq!(recalled(&world.keep, 7), [100, 101]);
}

#[test]
fn a_block_that_is_stored_before_it_is_written_is_not_kept() {
    let world = world(1);
    let lane = world.keep.lane(7);
    let turn = lane.begin(1).unwrap();
    assert!(lane.begin(1).is_none());
    lane.done(5);
    assert!(matches!(turn.take(5, 0), Taken::Unneeded));
    assert!(world.names().is_empty());
    // What is on its way when a lane is over is forgotten with it.
    let Taken::Place(place) = lane.begin(1).unwrap().take(6, 0) else { panic!("no place") };
    lane.close();
    world.keep.forget(7);
    assert!(world.names().is_empty() && matches!(lane.begin(2).unwrap().take(7, 0), Taken::Unneeded));
    drop(place);
    assert_eq!(lane.0.writing.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_damaged_is_left_out() {
    let world = world(2);
    let lane = world.keep.lane(7);
    world.keep(&lane, 0..10);
    drop(lane);
    let path = world.folder.path().join("kept").join(&world.names()[0]);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let spoil = |at: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    spoil(4096 + 3 * SLOT as u64 + 500);
    assert_eq!(recalled(&world.keep, 7), [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    // An entry whose length lies outside of everything.
    file.write_all_at(&[0xff; 4], 64 + 16 * 5 + 8).unwrap();
    assert_eq!(recalled(&world.keep, 7), [0, 1, 2, 4, 6, 7, 8, 9]);
    file.set_len(4096 + 4 * SLOT as u64).unwrap();
    assert_eq!(recalled(&world.keep, 7), [0, 1, 2]);
    spoil(20);
    assert!(recalled(&world.keep, 7).is_empty(), "another scope");
    file.set_len(10).unwrap();
    assert!(recalled(&world.keep, 7).is_empty());
}

/// A disk that fails between a recall and the use of it is an error of what is read, where memory that is mapped would end the process.
#[test]
fn what_goes_wrong_behind_a_recall_is_an_error_and_the_disk_is_out_of_use() {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fault {
        Truncated,
        Flipped,
        Refused,
    }
    let without = |block: u32| (0..10).filter(|&other| other != block).collect::<Vec<u32>>();
    for (fault, good, again) in
        [(Fault::Truncated, 4, (0..4).collect()), (Fault::Flipped, 9, without(4)), (Fault::Refused, 0, (0..10).collect())]
    {
        let world = world(2);
        let lane = world.keep.lane(7);
        world.keep(&lane, 0..10);
        drop(lane);
        let all = images(&world.keep, 7, Duration::from_secs(60));
        let read = |(image, bytes): &(KeptImage, Vec<u8>)| image.read(0..bytes.len(), crc_of(bytes));
        let count = || all.iter().filter(|&known| read(known).is_ok_and(|bytes| bytes == known.1)).count();
        assert_eq!(count(), 10);
        assert!(!world.staging.disks()[0].is_failed);
        let file = File::options().read(true).write(true).open(world.folder.path().join("kept").join(&world.names()[0])).unwrap();
        let in_the_fifth = 4096 + 4 * SLOT as u64 + 500;
        match fault {
            Fault::Truncated => file.set_len(in_the_fifth).unwrap(),
            Fault::Flipped => file.write_all_at(&[contents(4)[500] ^ 1], in_the_fifth).unwrap(),
            Fault::Refused => {
                // The kernel refuses to read from a descriptor that is for writing only, as a disk that failed does. It keeps its number.
                let writing = File::options().write(true).open("/dev/null").unwrap();
                let descriptor = |file: &File| std::os::fd::AsRawFd::as_raw_fd(file);
                #[expect(unsafe_code, reason = "a test that breaks a descriptor under its owner")]
                // SAFETY: both are open; the owner's descriptor stays a valid one.
                let replaced = unsafe { libc::dup2(descriptor(&writing), descriptor(all[4].0.file())) };
                assert!(replaced >= 0);
            }
        }
        let error = read(all.iter().find(|(_, bytes)| *bytes == contents(4)).unwrap()).unwrap_err();
        match fault {
            Fault::Flipped => assert!(matches!(error, StagingError::Damaged), "{error}"),
            Fault::Truncated | Fault::Refused => assert!(matches!(error, StagingError::Disk { .. }), "{error}"),
        }
        // As the disk's own thread says of it.
        assert!(world.staging.disks()[0].is_failed && world.staging.room() == 0, "{fault:?}");
        assert_eq!(count(), good, "{fault:?}: what can be read still is");
        assert!(recalled(&world.keep, 7).is_empty(), "nothing there counts any more");
        let lane = world.keep.lane(7);
        world.keep(&lane, 20..21);
        assert!(lock(&lane.0.state).blocks.is_empty(), "nor is anything kept there");
        // Who starts the engine again has looked at the disk.
        drop((lane, all));
        let World { staging, keep, folder, .. } = world;
        drop((staging, keep));
        assert_eq!(recalled(&open(&folder, 2).unwrap(), 7), again, "{fault:?}");
    }
}

/// However many there are: a few blocks are in memory at once.
#[test]
fn a_recall_waits_for_who_takes_the_blocks() {
    let world = world(2);
    let lane = world.keep.lane(7);
    world.keep(&lane, 0..60);
    drop(lane);
    let home = Arc::clone(world.keep.0.all().next().unwrap());
    let (mut taken, mut most) = (0, 0);
    world.keep.recall(7, Duration::from_secs(60), |_, _| {
        taken += 1;
        std::thread::sleep(Duration::from_millis(5));
        most = most.max(home.read.load(Ordering::Relaxed) - taken);
    });
    // One waits to be taken, and one for room to wait.
    assert!(taken == 60 && most <= 2, "{taken} taken, {most} ahead");
}

#[test]
fn a_disk_that_does_not_answer_stops_nobody_but_its_own_thread() {
    let world = world(2);
    let lane = world.keep.lane(7);
    let home = Arc::clone(world.keep.0.all().next().unwrap());
    let (turn, stop) = (lane.begin(1).unwrap(), lock(&home.pace));
    let taking = std::thread::spawn(move || turn.take(5, 0));
    let deadline = Instant::now() + Duration::from_secs(20);
    while home.room() == 2 {
        assert!(Instant::now() < deadline, "it has not begun to make a file");
        std::thread::sleep(Duration::from_millis(1));
    }
    // The file is being made, and that does not end. All of this would hang with it.
    assert_eq!(lane.room(0), Some(1));
    lane.done(6);
    lane.close();
    assert!(!taking.is_finished());
    drop(stop);
    assert!(matches!(taking.join().unwrap(), Taken::Unneeded));
    assert!(world.names().is_empty(), "the lane was closed meanwhile: its file is gone");
}

#[test]
fn a_slow_disk_gives_what_it_could_until_the_deadline() {
    let world = world(4);
    let lane = world.keep.lane(7);
    world.keep(&lane, 0..100);
    drop(lane);
    let home = Arc::clone(world.keep.0.all().next().unwrap());
    *lock(&home.pace) = Duration::from_millis(50);
    let began = Instant::now();
    let some = images(&world.keep, 7, Duration::from_millis(1000)).len();
    assert!((1..=20).contains(&some), "{some}");
    // One that stops altogether: what it gave until then, and no waiting for more.
    let stop = lock(&home.pace);
    assert!(images(&world.keep, 7, Duration::from_millis(100)).is_empty());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(stop);
    *lock(&home.pace) = Duration::ZERO;
    assert_eq!(recalled(&world.keep, 7).len(), 100);
}

#[test]
fn without_a_block_for_all_nothing_else_counts() {
    let world = world(1);
    let lane = world.keep.lane(7);
    world.keep(&lane, 0..10);
    world.keep_for_all(&lane, 10);
    drop(lane);
    let all = images(&world.keep, 7, Duration::from_secs(60));
    assert!(all.len() == 11 && all[0].1 == contents(10), "it comes first");
    // Nothing was ever safe in a file without a first page.
    let made = world.folder.path().join("kept").join(&world.names()[0]);
    let empty = made.with_file_name(format!("{:032x}-{:016x}.blocks", 7, 1));
    File::create(&empty).unwrap();
    let World { staging, keep, folder, pool } = world;
    drop((staging, keep));
    let again = open(&folder, 1).unwrap();
    assert_eq!(recalled(&again, 7).len(), 11);
    drop(again);
    std::fs::remove_file(&empty).unwrap();
    let config = StagingConfig { directories: vec![folder.path().to_owned()], bytes_max: 8 * SLOT as u64 };
    let staging = Staging::start(vec![Ring::new(&pool).unwrap()], &config).unwrap();
    let world = World { keep: open_with(&folder, 1, Some(&staging)).unwrap(), staging, pool, folder };
    // Damaged, it takes the others with it.
    let path = world.folder.path().join("kept").join(&world.names()[0]);
    File::options().write(true).open(&path).unwrap().write_all_at(&[0xff; 8], 4096 + 10 * SLOT as u64).unwrap();
    assert!(recalled(&world.keep, 7).is_empty());
    // A new lane cannot have it kept: the only file that is allowed is there.
    let lane = world.keep.lane(7);
    assert_eq!(lane.room(0), None);
    world.keep_for_all(&lane, 11);
    assert!(world.names().is_empty(), "what lanes before it kept has gone too");
    world.keep(&lane, 12..13);
    assert!(world.names().is_empty(), "no more is kept there for this lane");
    drop(lane);
    // Nor one whose file is full.
    let lane = world.keep.lane(7);
    world.keep(&lane, 0..64);
    assert_eq!(world.names().len(), 1);
    world.keep_for_all(&lane, 64);
    assert!(world.names().is_empty());
    // Other transfers go on.
    let other = world.keep.lane(8);
    world.keep(&other, 0..3);
    drop(other);
    assert_eq!(recalled(&world.keep, 8), [0, 1, 2]);
}

/// Of the first page's write, as of a block's.
#[test]
fn a_disk_without_room_for_a_page_is_full_and_not_broken() {
    let world = world(1);
    let lane = world.keep.lane(7);
    let Taken::Place(place) = lane.begin(1).unwrap().take(0, 0) else { panic!("no place") };
    let full = File::options().read(true).write(true).open("/dev/full").unwrap();
    #[expect(unsafe_code, reason = "a test that fills a descriptor under its owner")]
    // SAFETY: both are open; the owner's descriptor stays a valid one.
    let replaced = unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&full), std::os::fd::AsRawFd::as_raw_fd(&**place.file())) };
    assert!(replaced >= 0);
    let disk = crate::disk::Disk::new(world.folder.path(), SLOT, 8 * SLOT as u64);
    let (written, inbox) = crossbeam::channel::unbounded();
    written.send(Written { place, bytes: 10, crc: 1 }).unwrap();
    drop(written);
    sync(&inbox, |error| disk.refused(error));
    assert!(!disk.is_failed() && disk.is_full() && disk.is_full_everywhere());
    assert!(world.names().len() == 1 && lock(&lane.0.state).blocks.is_empty());
    // Anything else is a fault.
    disk.refused(&io::Error::from_raw_os_error(libc::EIO));
    assert!(disk.is_failed());
}
