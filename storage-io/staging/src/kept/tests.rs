//! Kept blocks. On the disk that is built on: tmpfs has no direct I/O of whole pages.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::advance;
use tradewind_fabric::BlockPool;

use super::*;
use crate::disk::READS_MAX;
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

/// With blocks that a lane kept which is over.
fn world_with(files_max: u64, blocks: std::ops::Range<u32>) -> World {
    let world = world(files_max);
    world.keep(&world.keep.lane(7), blocks);
    world
}

fn open(folder: &tempfile::TempDir, files_max: u64) -> Result<Keep, StagingError> {
    open_with(folder, files_max, None)
}

fn open_with(folder: &tempfile::TempDir, files_max: u64, staging: Option<&Staging>) -> Result<Keep, StagingError> {
    let config = StagingConfig { directories: vec![folder.path().to_owned()], bytes_max: files_max * FILE_BYTES };
    Keep::open(&config, SLOT, true, staging).map(Option::unwrap)
}

/// With as many threads for what blocks, and a clock that stands still.
fn runtime(threads: usize) -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).max_blocking_threads(threads).build().unwrap()
}

fn read(image: &KeptImage, range: std::ops::Range<usize>, crc64: u64) -> Result<Vec<u8>, StagingError> {
    runtime(1).block_on(image.read(range, crc64))
}

/// Why, and where.
fn why(error: StagingError) -> (StagingError, PathBuf, u64) {
    match error {
        StagingError::Kept { file, offset, why, .. } => (*why, file, offset),
        other => panic!("{other}"),
    }
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

    /// As another engine finds it.
    fn again(self, files_max: u64) -> Self {
        let Self { staging, keep, folder, pool } = self;
        drop((staging, keep));
        let config = StagingConfig { directories: vec![folder.path().to_owned()], bytes_max: 8 * SLOT as u64 };
        let staging = Staging::start(vec![Ring::new(&pool).unwrap()], &config).unwrap();
        Self { keep: open_with(&folder, files_max, Some(&staging)).unwrap(), staging, pool, folder }
    }

    fn is_failed(&self) -> bool {
        self.staging.disks()[0].is_failed
    }

    fn home(&self) -> Arc<Home> {
        Arc::clone(self.keep.0.all().next().unwrap())
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
    assert_eq!(read(&image, 100..900, crc_of(&middle)).unwrap(), middle);
    assert!(matches!(why(read(&image, 100..contents(200).len() + 1, 0).unwrap_err()).0, StagingError::Disk { .. }));
    assert_eq!(read(&image, 100..900, crc_of(&middle)).unwrap(), middle, "which is not the disk's fault");
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
    let world = world_with(2, 0..10);
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
    assert!(!world.is_failed(), "the disk read all of it");
}

#[test]
fn a_disk_that_refuses_to_read_at_a_recall_is_out_of_use() {
    let world = world_with(2, 0..60);
    // The kernel refuses to read a directory. With something in it, so that it is as long as a page on any file system.
    let unreadable = world.folder.path().join("kept").join(format!("{:032x}-{:016x}.blocks", 7, 1));
    std::fs::create_dir(&unreadable).unwrap();
    (0..300).for_each(|number| drop(File::create(unreadable.join(format!("something-{number}"))).unwrap()));
    let world = world.again(2);
    assert!(!world.is_failed());
    assert!(recalled(&world.keep, 7).is_empty());
    assert!(world.is_failed());
    std::fs::remove_dir_all(&unreadable).unwrap();
    let world = world.again(2);
    assert_eq!(recalled(&world.keep, 7).len(), 60);
    // One that fails meanwhile is not read to the end.
    let (home, mut taken) = (world.home(), 0);
    world.keep.recall(7, Duration::from_secs(60), |_, _| {
        taken += 1;
        home.health.fail(&"a test");
    });
    assert!((1..=3).contains(&taken), "{taken}: one was taken, one waits to be, and one for room to wait");
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
        let world = world_with(2, 0..10);
        let all = images(&world.keep, 7, Duration::from_secs(60));
        let read = |(image, bytes): &(KeptImage, Vec<u8>)| read(image, 0..bytes.len(), crc_of(bytes));
        let count = || all.iter().filter(|&known| read(known).is_ok_and(|bytes| bytes == known.1)).count();
        assert_eq!(count(), 10);
        assert!(!world.is_failed());
        let name = world.names().remove(0);
        let path = world.folder.path().join("kept").join(name);
        let file = File::options().read(true).write(true).open(&path).unwrap();
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
        let (error, file, offset) = why(read(all.iter().find(|(_, bytes)| *bytes == contents(4)).unwrap()).unwrap_err());
        assert_eq!((file, offset), (path, 4096 + 4 * SLOT as u64), "{fault:?}");
        match fault {
            Fault::Flipped => assert!(matches!(error, StagingError::Damaged), "{error}"),
            Fault::Truncated | Fault::Refused => assert!(matches!(error, StagingError::Disk { .. }), "{error}"),
        }
        // As the disk's own thread says of it.
        assert!(world.is_failed() && world.staging.room() == 0, "{fault:?}");
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

/// Lets tasks run until nothing is left to be done at this time.
fn run(runtime: &Runtime) {
    runtime.block_on(async {
        for _ in 0..300 {
            yield_now().await;
        }
    });
}

fn until(runtime: &Runtime, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "it has not come to that");
        std::thread::sleep(Duration::from_millis(1));
        run(runtime);
    }
    run(runtime);
}

#[test]
fn a_disk_that_does_not_answer_ends_who_reads_and_is_left_out_for_a_while() {
    let world = world_with(2, 0..10);
    let (all, home, runtime) = (images(&world.keep, 7, Duration::from_secs(60)), world.home(), runtime(100));
    let read = |(image, bytes): &(KeptImage, Vec<u8>)| {
        let (image, bytes) = (image.clone(), bytes.clone());
        runtime.spawn(async move { image.read(0..bytes.len(), crc_of(&bytes)).await })
    };
    let asked = || home.asked.load(Ordering::Relaxed);
    let (before, stop) = (asked(), lock(&home.pace));
    let reading: Vec<_> = all.iter().map(read).collect();
    let begun = before + READS_MAX as u32;
    until(&runtime, || asked() == begun);
    runtime.block_on(advance(Duration::from_secs(29)));
    run(&runtime);
    assert!(reading.iter().all(|reading| !reading.is_finished()) && !home.health.is_slow());
    runtime.block_on(advance(Duration::from_secs(2)));
    run(&runtime);
    // Those that wait for their turn as well.
    let directory = world.folder.path().join("kept");
    for reading in reading {
        assert!(reading.is_finished());
        let error = runtime.block_on(reading).unwrap().unwrap_err();
        assert!(error.to_string().contains(world.names()[0].as_str()) && error.to_string().contains("30 s"), "{error}");
        let (error, file, offset) = why(error);
        assert!(matches!(error, StagingError::Silent { .. }) && file.starts_with(&directory) && offset >= 4096, "{error}");
    }
    // It keeps a few threads, and a recall does not ask it.
    assert_eq!((asked(), home.health.turns()), (begun, 0));
    assert!(images(&world.keep, 7, Duration::from_secs(60)).is_empty());
    assert!(asked() == begun && !world.is_failed(), "another attempt goes on without it, and it may come back");
    drop(stop);
    until(&runtime, || home.health.turns() == READS_MAX);
    let again = read(&all[0]);
    until(&runtime, || again.is_finished());
    assert_eq!(runtime.block_on(again).unwrap().unwrap(), all[0].1);
    let minutes = |number: u64| Instant::now() + Duration::from_secs(60 * number);
    assert!(home.health.slow_until().is_some_and(|until| until > minutes(4) && until <= minutes(5)));
    assert!(recalled(&world.keep, 7).is_empty());
    *home.health.slow_until() = Some(Instant::now());
    assert_eq!(recalled(&world.keep, 7).len(), 10);
}

/// What waits for a thread of the runtime is not the disk's fault.
#[test]
fn the_disk_has_its_time_from_when_it_is_asked() {
    let world = world_with(2, 0..1);
    let (image, bytes) = images(&world.keep, 7, Duration::from_secs(60)).remove(0);
    let (runtime, (go, wait)) = (runtime(1), mpsc::channel::<()>());
    let other = runtime.spawn_blocking(move || wait.recv());
    let crc64 = crc_of(&bytes);
    let reading = runtime.spawn(async move { image.read(0..bytes.len(), crc64).await });
    run(&runtime);
    runtime.block_on(advance(Duration::from_secs(3600)));
    run(&runtime);
    assert!(!reading.is_finished());
    drop(go);
    until(&runtime, || reading.is_finished() && other.is_finished());
    assert_eq!(runtime.block_on(reading).unwrap().unwrap(), contents(0));
}

#[test]
fn a_turn_is_waited_for_as_long_as_the_disk_answers() {
    let (runtime, health) = (runtime(1), Arc::new(Health::new(PathBuf::from("/nowhere"))));
    let within = Duration::from_secs(30);
    let mut held: Vec<_> = (0..READS_MAX).map(|_| runtime.block_on(health.turn(within)).unwrap()).collect();
    let wait = || {
        let health = Arc::clone(&health);
        runtime.spawn(async move { health.turn(within).await.is_some() })
    };
    let after = |seconds: u64| {
        runtime.block_on(advance(Duration::from_secs(seconds)));
        run(&runtime);
    };
    let first = wait();
    run(&runtime);
    after(20);
    health.answered();
    after(20);
    assert!(!first.is_finished(), "it answered somebody");
    held.pop();
    run(&runtime);
    assert!(runtime.block_on(first).unwrap());
    held.push(runtime.block_on(health.turn(within)).unwrap());
    let second = wait();
    run(&runtime);
    after(29);
    assert!(!second.is_finished());
    after(2);
    assert!(second.is_finished() && !runtime.block_on(second).unwrap());
}

/// However many there are: a few blocks are in memory at once.
#[test]
fn a_recall_waits_for_who_takes_the_blocks() {
    let world = world_with(2, 0..60);
    let home = world.home();
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
    let home = world.home();
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
    let world = world_with(4, 0..100);
    let home = world.home();
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
    drop(all);
    let world = world.again(1);
    assert_eq!(recalled(&world.keep, 7).len(), 11);
    std::fs::remove_file(&empty).unwrap();
    let world = world.again(1);
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
