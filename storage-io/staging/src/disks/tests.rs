//! Several disks: small file systems that the tests mount themselves, of memory where a disk is to be full, and of files (ext4) for the rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tradewind_fabric::BlockPool;
use tradewind_fabric::wake::Waker;

use super::{Disks, Line, Tried};
use crate::disk::Disk;
use crate::staging::Tell;
use crate::{Done, Keep, KeptLane, Outcome, Ring, Staged, Staging, StagingConfig, StagingError};

const SLOT: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(20);
const SLOTS: usize = 64;

fn run(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output().unwrap();
    assert!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// A file system of its own; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn memory(at: &Path, mib: u32) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "none", at.to_str().unwrap()]);
        Self(at.to_owned())
    }

    fn disk(image: &Path, at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Files that are still open keep the file system, not its name.
        run("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}

/// An ext4 file system in a file, which may be mounted again and again.
fn image(folder: &Path, name: &str) -> PathBuf {
    let image = folder.join(name);
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
    image
}

struct World {
    staging: Staging,
    pool: BlockPool,
}

fn config(directories: &[&Path], blocks_max: u64) -> StagingConfig {
    let directories = directories.iter().map(|&directory| directory.to_owned()).collect();
    StagingConfig { directories, bytes_max: blocks_max * SLOT as u64 }
}

fn start(config: &StagingConfig) -> Result<World, StagingError> {
    let pool = BlockPool::new(SLOTS, SLOT).unwrap();
    let rings = config.directories.iter().map(|_| Ring::new(&pool).unwrap()).collect();
    Ok(World { staging: Staging::start(rings, config)?, pool })
}

fn contents(block: u32) -> Vec<u8> {
    let mut bytes = (block + 1).wrapping_mul(0x9e37_79b9).to_le_bytes().repeat(SLOT / 4);
    bytes.truncate(SLOT - block as usize % 5000);
    bytes
}

impl World {
    fn image(&self, block: u32) -> tradewind_fabric::SharedBlock {
        let (mut slot, bytes) = (self.pool.take().expect("a free slot"), contents(block));
        slot[..bytes.len()].copy_from_slice(&bytes);
        slot.freeze(bytes.len())
    }

    fn put(&self, block: u32) -> Receiver<Done> {
        let (tell, told) = mpsc::channel();
        self.staging.put(block, self.image(block), move |done| drop(tell.send(done)));
        told
    }

    /// Writes these, as many at once as there are slots.
    fn put_all(&self, blocks: std::ops::Range<u32>) -> Vec<(u32, Staged)> {
        let (mut staged, all) = (Vec::new(), blocks.collect::<Vec<_>>());
        for some in all.chunks(SLOTS) {
            let waiting: Vec<_> = some.iter().map(|&block| (block, self.put(block))).collect();
            staged.extend(waiting.iter().map(|(block, told)| (*block, written(told))));
        }
        staged
    }

    fn get(&self, block: u32, staged: Staged) -> Result<(), StagingError> {
        let (tell, told) = mpsc::channel();
        self.staging.get(block, staged, self.pool.take().expect("a free slot"), move |done| drop(tell.send(done)));
        match told.recv_timeout(PATIENCE).unwrap().result? {
            Outcome::Read(image) => assert_eq!(image[..], contents(block), "block {block}"),
            other @ Outcome::Written(_) => panic!("{other:?}"),
        }
        Ok(())
    }

    fn written(&self) -> Vec<u64> {
        self.staging.disks().iter().map(|disk| disk.blocks_written).collect()
    }
}

fn written(told: &Receiver<Done>) -> Staged {
    match told.recv_timeout(PATIENCE).unwrap().result {
        Ok(Outcome::Written(staged)) => staged,
        other => panic!("{other:?}"),
    }
}

fn by_disk(staged: &[(u32, Staged)]) -> BTreeMap<usize, usize> {
    staged.iter().fold(BTreeMap::new(), |mut counts, (_, staged)| {
        *counts.entry(staged.disk).or_default() += 1;
        counts
    })
}

/// `None` without root.
fn folder() -> Option<TempDir> {
    if rustix::process::getuid().is_root() {
        return Some(tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap());
    }
    println!("SKIP: mounting needs root");
    None
}

#[test]
fn blocks_are_spread_over_the_disks_and_come_back() {
    let Some(folder) = folder() else { return };
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let _mounts = [Mount::disk(&image(folder.path(), "1"), &one), Mount::disk(&image(folder.path(), "2"), &two)];
    let world = start(&config(&[&one, &two], 400)).unwrap();
    assert_eq!(world.staging.room(), 800, "of both");
    let staged = world.put_all(0..600);
    let counts = by_disk(&staged);
    assert!(counts[&0] >= 150 && counts[&1] >= 150, "{counts:?}");
    assert_eq!((world.staging.room(), world.written().iter().sum::<u64>()), (200, 600));
    staged.into_iter().for_each(|(block, staged)| world.get(block, staged).unwrap());
    assert_eq!((world.staging.room(), world.pool.available()), (800, SLOTS));
    assert!(world.staging.disks().iter().all(|disk| disk.queued_bytes == 0 && !disk.is_failed));
}

#[test]
fn a_full_disk_is_passed_over_while_another_has_room() {
    let Some(folder) = folder() else { return };
    let (small, large) = (folder.path().join("small"), folder.path().join("large"));
    let mounts = [Mount::memory(&small, 36), Mount::memory(&large, 200)];
    let filler = vec![1; 20 << 20];
    // Segments of 32 MiB.
    let world = start(&config(&[&small, &large], 512)).unwrap();
    assert_eq!(world.staging.room(), 1024);
    let staged = world.put_all(0..1024);
    assert_eq!(by_disk(&staged), BTreeMap::from([(0, 512), (1, 512)]));
    drop((staged, world));
    // Somebody else fills the small one.
    std::fs::write(small.join("other"), &filler).unwrap();
    let world = start(&config(&[&small, &large], 512)).unwrap();
    assert_eq!(by_disk(&world.put_all(0..100)), BTreeMap::from([(1, 100)]), "one may be full at first");
    std::fs::remove_file(small.join("other")).unwrap();
    // It is asked again after a while.
    std::thread::sleep(Duration::from_millis(5100));
    assert_eq!(by_disk(&world.put_all(0..20)).len(), 2);
    drop(world);
    // As much is allowed as several segments hold (4096 blocks, 256 MiB, each): the large one fills up in the middle, and the small one takes over.
    drop(mounts);
    let _mounts = [Mount::memory(&small, 300), Mount::memory(&large, 600)];
    let world = start(&config(&[&small, &large], 3 * 4096)).unwrap();
    let staged = world.put_all(0..3 * 4096);
    assert_eq!(by_disk(&staged), BTreeMap::from([(0, 4096), (1, 2 * 4096)]));
    let refused = world.put(9).recv_timeout(PATIENCE).unwrap();
    assert!(matches!(refused.result, Err(StagingError::Full)), "{refused:?}");
    assert!(world.staging.disks().iter().all(|disk| !disk.is_failed), "full is not broken");
    for (block, staged) in staged.into_iter().step_by(97) {
        world.get(block, staged).unwrap();
    }
    assert_eq!(world.pool.available(), SLOTS);
}

/// A block that its disk refuses is written by the other, and what lies on the broken disk is told to be lost, not returned as something else.
#[test]
fn a_disk_that_fails_is_out_of_use_and_the_other_goes_on() {
    let Some(folder) = folder() else { return };
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let _mounts = [Mount::disk(&image(folder.path(), "1"), &one), Mount::disk(&image(folder.path(), "2"), &two)];
    let world = start(&config(&[&one, &two], 400)).unwrap();
    let staged = world.put_all(0..100);
    assert!(by_disk(&staged).len() == 2, "{:?}", by_disk(&staged));
    // The kernel refuses writes to a descriptor that is for reading only, as a disk that failed does. It keeps its number.
    let reading = std::fs::File::open("/dev/null").unwrap();
    let broken = std::sync::Arc::clone(&staged.iter().find(|(_, staged)| staged.disk == 0).unwrap().1.place.file);
    #[expect(unsafe_code, reason = "a test that breaks a descriptor under its owner")]
    // SAFETY: both are open; the owner's descriptor stays a valid one.
    let replaced = unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&reading), std::os::fd::AsRawFd::as_raw_fd(&*broken)) };
    assert!(replaced >= 0);
    let more = world.put_all(100..200);
    assert_eq!(by_disk(&more), BTreeMap::from([(1, 100)]), "also those that the first was asked to write");
    let disks = world.staging.disks();
    assert!(disks[0].is_failed && !disks[1].is_failed && disks[0].room_blocks == 0, "{disks:?}");
    assert_eq!(world.staging.room(), disks[1].room_blocks);
    for (block, staged) in staged.into_iter().chain(more) {
        let disk = staged.disk;
        match world.get(block, staged) {
            Ok(()) => assert_eq!(disk, 1),
            Err(error) => assert!(disk == 0 && matches!(error, StagingError::Disk { .. }), "{error}"),
        }
    }
    assert_eq!(world.pool.available(), SLOTS);
    // Nor does the end hang.
    drop(world);
}

#[test]
fn directories_that_will_not_do_are_left_out() {
    let Some(folder) = folder() else { return };
    let (one, same, missing) = (folder.path().join("one"), folder.path().join("one/same"), folder.path().join("missing"));
    let _mount = Mount::disk(&image(folder.path(), "1"), &one);
    std::fs::create_dir(&same).unwrap();
    let world = start(&config(&[&missing, &one, &same], 100)).unwrap();
    let used: Vec<_> = world.staging.disks().into_iter().map(|disk| disk.directory).collect();
    assert_eq!(used, [one.as_path()]);
    // The same one by another name; what is kept there is opened once, and the engine does not wait for its own lock.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&one, &link).unwrap();
    drop(world);
    let world = start(&config(&[&one, &link], 100)).unwrap();
    assert_eq!(world.staging.disks().len(), 1);
    let keep = Keep::open(&config(&[&one, &link], 100), SLOT, true, None).unwrap().unwrap();
    assert!(recalled(&keep, 7).is_empty());
    assert!(!missing.exists(), "the place of a disk that is not mounted stays as it is");
    drop(world);
    let error = start(&config(&[&missing, &folder.path().join("none")], 100)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains(missing.to_str().unwrap()) && error.to_string().contains("mount its disk"), "{error}");
    // A single one is made.
    assert!(start(&config(&[&missing], 100)).is_ok() && missing.exists());
}

fn recalled(keep: &Keep, scope: u128) -> Vec<u32> {
    let mut blocks = Vec::new();
    keep.recall(scope, Duration::from_secs(60), |_, image| {
        blocks.push((0..200).find(|&block| image == contents(block)).expect("a block that was kept"));
    });
    blocks.sort_unstable();
    blocks
}

fn settle(lane: &KeptLane) {
    let deadline = Instant::now() + PATIENCE;
    while lane.writing() > 0 {
        assert!(Instant::now() < deadline, "the disks do not answer");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Also: a block that all have to have, a disk that is missing at a restart, and is there again at the next.
#[test]
fn kept_blocks_are_found_on_all_disks_that_are_there() {
    let Some(folder) = folder() else { return };
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let images = [image(folder.path(), "1"), image(folder.path(), "2")];
    let mut mounts = vec![Mount::disk(&images[0], &one), Mount::disk(&images[1], &two)];
    // Below the mount points: without its disk, one is not there.
    let (one, two) = (one.join("staging"), two.join("staging"));
    std::fs::create_dir(&one).unwrap();
    std::fs::create_dir(&two).unwrap();
    let config = config(&[&one, &two], 400);
    let names = |directory: &Path| directory.join("kept").read_dir().map_or(0, |names| names.count().saturating_sub(1));
    let world = start(&config).unwrap();
    let keep = Keep::open(&config, SLOT, true, None).unwrap().unwrap();
    let lane = keep.lane(7);
    for block in 0..100 {
        world.staging.keep(&lane, block, &world.image(block), false);
        settle(&lane);
    }
    world.staging.keep(&lane, 150, &world.image(150), true);
    settle(&lane);
    assert!(names(&one) == 1 && names(&two) == 1, "{} and {} files", names(&one), names(&two));
    let counts = world.written();
    assert!(counts[0] >= 20 && counts[1] >= 20 && counts[0] + counts[1] == 102, "{counts:?}");
    // A file goes with its last block, on whichever disk.
    (0..10).for_each(|block| lane.done(block));
    drop((lane, keep, world));

    let keep = Keep::open(&config, SLOT, false, None).unwrap().unwrap();
    let all = recalled(&keep, 7);
    assert_eq!(all, (0..100).chain([150, 150]).collect::<Vec<_>>());
    drop(keep);
    // The second disk is missing: what it has is sent again, and nothing is made in its place.
    mounts.truncate(1);
    let keep = Keep::open(&config, SLOT, true, None).unwrap().unwrap();
    let some = recalled(&keep, 7);
    assert!(some.len() as u64 == counts[0] && some.contains(&150), "{some:?}, {counts:?}");
    assert!(!two.exists());
    let world = start(&config).unwrap();
    assert_eq!(world.staging.disks().len(), 1);
    let lane = keep.lane(7);
    world.staging.keep(&lane, 160, &world.image(160), true);
    settle(&lane);
    drop((lane, world));
    keep.forget(7);
    assert_eq!((recalled(&keep, 7), names(&one)), (vec![], 0));
    drop(keep);
    // It is back, with what it had.
    mounts.push(Mount::disk(&images[1], &folder.path().join("two")));
    let keep = Keep::open(&config, SLOT, true, None).unwrap().unwrap();
    assert_eq!(recalled(&keep, 7).len() as u64, counts[1]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((keep.expire(Duration::from_millis(1)), names(&two)), (1, 0));
}

/// What the first disk cannot keep, the second does.
#[test]
fn a_full_disk_keeps_nothing_and_the_other_everything() {
    let Some(folder) = folder() else { return };
    let (small, large) = (folder.path().join("small"), folder.path().join("large"));
    let _mounts = [Mount::memory(&small, 30), Mount::memory(&large, 60)];
    // Room for blocks that wait is taken at first: 25 MiB of each.
    let config = config(&[&small, &large], 400);
    let world = start(&config).unwrap();
    let keep = Keep::open(&config, SLOT, true, None).unwrap().unwrap();
    std::fs::write(small.join("other"), vec![1; 4 << 20]).unwrap();
    let lane = keep.lane(7);
    for block in 0..100 {
        world.staging.keep(&lane, block, &world.image(block), false);
        settle(&lane);
    }
    assert_eq!(world.written(), [0, 100]);
    drop(lane);
    assert_eq!(recalled(&keep, 7), (0..100).collect::<Vec<_>>());
}

/// Disks whose threads are played by the test.
#[test]
fn a_disk_that_stands_still_gets_no_more_while_another_answers() {
    let pool = BlockPool::new(4, SLOT).unwrap();
    let (mut lines, mut inboxes) = (Vec::new(), Vec::new());
    for directory in 0..2 {
        let (work, inbox) = crossbeam::channel::unbounded();
        let (disk, waker) = (Disk::new(Path::new("/nowhere"), SLOT, 400 * SLOT as u64), Waker::new().unwrap());
        lines.push(Line { disk, directory, work, waker });
        inboxes.push(inbox);
    }
    let disks = Disks::new(lines);
    let put = || disks.put(pool.take().unwrap().freeze(1), Tell::new(0, drop), Tried::default(), StagingError::Full);
    let waiting = disks.disk(0).load(1);
    let busy = disks.disk(1).load(1000);
    put();
    assert_eq!((inboxes[0].len(), inboxes[1].len()), (1, 0), "the least to do");
    std::thread::sleep(Duration::from_millis(1100));
    drop(disks.disk(1).load(1));
    put();
    assert_eq!((inboxes[0].len(), inboxes[1].len()), (1, 1), "it answers");
    drop(waiting);
    put();
    assert_eq!((inboxes[0].len(), inboxes[1].len()), (2, 1), "so does the first again");
    // When none answers, one of them still gets it.
    std::thread::sleep(Duration::from_millis(1100));
    put();
    assert_eq!((inboxes[0].len(), inboxes[1].len()), (3, 1));
    drop(busy);
}
