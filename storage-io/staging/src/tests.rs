//! Blocks to a disk and back. On the disk that is built on: tmpfs takes unaligned O_DIRECT and would hide mistakes. Several disks: disks/tests.rs.

use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use tempfile::TempDir;
use tradewind_fabric::{BlockPool, SharedBlock};

use crate::{Done, Outcome, Ring, Staged, Staging, StagingConfig, StagingError};

const SLOT: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    staging: Staging,
    pool: BlockPool,
    _folder: TempDir,
}

fn world(slots: usize, blocks_max: u64) -> World {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let pool = BlockPool::new(slots, SLOT).unwrap();
    let config = StagingConfig { directories: vec![folder.path().to_owned()], bytes_max: blocks_max * SLOT as u64 };
    let staging = Staging::start(vec![Ring::new(&pool).unwrap()], &config).unwrap();
    World { staging, pool, _folder: folder }
}

/// Bytes that differ from block to block; `len` of them.
fn contents(block: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(block).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl World {
    fn block(&self, number: u32, len: usize) -> SharedBlock {
        let mut slot = self.pool.take().expect("a free slot");
        slot[..len].copy_from_slice(&contents(number, len));
        slot.freeze(len)
    }

    fn put(&self, number: u32, data: SharedBlock) -> Receiver<Done> {
        let (tell, told) = mpsc::channel();
        self.staging.put(number, data, move |done| drop(tell.send(done)));
        told
    }

    fn get(&self, number: u32, staged: Staged) -> Receiver<Done> {
        let (tell, told) = mpsc::channel();
        let slot = self.pool.take().expect("a free slot");
        self.staging.get(number, staged, slot, move |done| drop(tell.send(done)));
        told
    }
}

fn written(told: &Receiver<Done>) -> Staged {
    match told.recv_timeout(PATIENCE).unwrap().result {
        Ok(Outcome::Written(staged)) => staged,
        other => panic!("{other:?}"),
    }
}

fn read(told: &Receiver<Done>) -> Result<SharedBlock, StagingError> {
    match told.recv_timeout(PATIENCE).unwrap().result {
        Ok(Outcome::Read(block)) => Ok(block),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    }
}

#[test]
fn many_more_blocks_than_memory_come_back_as_they_were() {
    let world = world(40, 500);
    let length = |block: u32| [SLOT, 1, 4096, 4097, SLOT - 1][block as usize % 5];
    let mut staged = Vec::new();
    for round in 0..20 {
        // More at once than the ring takes.
        let waiting: Vec<_> = (0..36).map(|index| round * 36 + index).filter(|block| *block < 500).collect();
        let waiting: Vec<_> = waiting.into_iter().map(|block| (block, world.put(block, world.block(block, length(block))))).collect();
        staged.extend(waiting.into_iter().map(|(block, told)| (block, written(&told))));
        assert_eq!(world.pool.available(), 40, "memory comes back once a block is written");
    }
    assert_eq!((staged.len(), world.staging.room()), (500, 0));
    // In another order.
    staged.sort_by_key(|(block, _)| block.wrapping_mul(0x9e37_79b9));
    let mut staged = staged.into_iter();
    loop {
        let reading: Vec<_> = staged.by_ref().take(36).map(|(block, staged)| (block, world.get(block, staged))).collect();
        if reading.is_empty() {
            break;
        }
        for (block, told) in reading {
            assert!(read(&told).unwrap()[..] == contents(block, length(block)), "block {block}");
        }
    }
    assert_eq!((world.pool.available(), world.staging.room()), (40, 500));
}

#[test]
fn what_is_full_says_so_and_takes_more_later() {
    let world = world(8, 3);
    let staged: Vec<_> = (0..3).map(|block| written(&world.put(block, world.block(block, SLOT)))).collect();
    let told = world.put(3, world.block(3, SLOT)).recv_timeout(PATIENCE).unwrap();
    assert!(matches!(told.result, Err(StagingError::Full)), "{told:?}");
    assert_eq!((world.pool.available(), world.staging.room()), (8, 0));
    drop(staged);
    let again = written(&world.put(4, world.block(4, 10)));
    assert!(read(&world.get(4, again)).unwrap()[..] == contents(4, 10));
}

/// On a file system of its own, which is full after one segment.
#[test]
fn a_disk_without_room_is_full_and_an_empty_one_is_not_begun_with() {
    if !rustix::process::getuid().is_root() {
        println!("SKIP: mounting needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let path = folder.path().to_str().unwrap();
        assert!(std::process::Command::new(program).args(arguments).arg(path).status().unwrap().success());
    };
    let pool = BlockPool::new(4, SLOT).unwrap();
    for (mib, fits) in [(300, true), (100, false)] {
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "none"]);
        let config = StagingConfig { directories: vec![folder.path().to_owned()], bytes_max: 1 << 30 };
        let staging = Staging::start(vec![Ring::new(&pool).unwrap()], &config);
        let staged = staging.as_ref().map(|staging| {
            assert!(matches!(staging.reserve(), Err(StagingError::Full)));
            let staged: Vec<_> = (0..4096)
                .map(|block| {
                    let (tell, told) = mpsc::channel();
                    staging.put(block, pool.take().unwrap().freeze(SLOT), move |done| drop(tell.send(done)));
                    written(&told)
                })
                .collect();
            let (tell, told) = mpsc::channel();
            staging.put(4096, pool.take().unwrap().freeze(SLOT), move |done| drop(tell.send(done)));
            let refused = told.recv_timeout(PATIENCE).unwrap();
            assert!(matches!(refused.result, Err(StagingError::Full)), "{refused:?}");
            staged.len()
        });
        assert!(if fits { staged.is_ok_and(|staged| staged == 4096) } else { matches!(staged, Err(StagingError::Full)) });
        drop(staging);
        run("umount", &[]);
    }
}

#[test]
fn a_changed_byte_on_the_disk_is_found() {
    let world = world(4, 4);
    let staged = written(&world.put(7, world.block(7, SLOT)));
    // Direct I/O wants whole, aligned pages: those of another slot.
    let mut page = world.pool.take().unwrap();
    page[..4096].copy_from_slice(&contents(7, 4096));
    page[100] ^= 1;
    assert_eq!(rustix::io::pwrite(&*staged.place.file, &page[..4096], staged.place.offset).unwrap(), 4096);
    let told = read(&world.get(7, staged));
    assert!(matches!(told, Err(StagingError::Damaged)), "{told:?}");
}

#[test]
fn a_disk_that_fails_is_told_and_the_block_is_still_there() {
    let world = world(4, 4);
    let staged = written(&world.put(1, world.block(1, SLOT)));
    let file = std::sync::Arc::clone(&staged.place.file);
    // What a device that went away does, as far as a test without one can: nothing is behind this place any more.
    rustix::fs::ftruncate(&*file, 0).unwrap();
    let told = read(&world.get(1, staged));
    assert!(matches!(told, Err(StagingError::Disk { .. })), "{told:?}");
    assert_eq!(world.pool.available(), 4);
    // There is no other: nothing is staged any more.
    assert!(world.staging.disks()[0].is_failed && world.staging.room() == 0);
    let told = world.put(2, world.block(2, SLOT)).recv_timeout(PATIENCE).unwrap();
    assert!(matches!(told.result, Err(StagingError::Full)), "{told:?}");
}

#[test]
fn a_ring_that_fails_tells_everybody_and_takes_the_disk_out_of_use() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let pool = BlockPool::new(80, SLOT).unwrap();
    let config = StagingConfig { directories: vec![folder.path().to_owned()], bytes_max: 100 * SLOT as u64 };
    let ring = Ring::new(&pool).unwrap();
    let descriptor = ring.descriptor();
    let world = World { staging: Staging::start(vec![ring], &config).unwrap(), pool, _folder: folder };
    let staged = written(&world.put(0, world.block(0, SLOT)));
    let other = std::fs::File::open("/dev/null").unwrap();
    #[expect(unsafe_code, reason = "a test that breaks a descriptor under its owner")]
    // SAFETY: both are open; the owner's descriptor stays a valid one.
    let replaced = unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&other), descriptor) };
    assert!(replaced >= 0);
    // More than a ring takes at once.
    let waiting: Vec<_> = (1..60).map(|block| world.put(block, world.block(block, SLOT))).collect();
    for told in waiting {
        let done = told.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(done.result, Err(StagingError::Full | StagingError::Ended)), "{done:?}");
    }
    let told = read(&world.get(0, staged));
    assert!(matches!(told, Err(StagingError::Ended)), "{told:?}");
    let told = world.put(99, world.pool.take().unwrap().freeze(1)).recv_timeout(PATIENCE).unwrap();
    assert!(matches!(told.result, Err(StagingError::Full)), "{told:?}");
    assert!(world.staging.disks()[0].is_failed);
}

#[test]
fn ending_in_the_middle_waits_for_the_kernel_and_tells_everybody() {
    let world = world(40, 100);
    let waiting: Vec<_> = (0..40).map(|block| world.put(block, world.block(block, SLOT))).collect();
    let World { staging, pool, _folder } = world;
    drop(staging);
    let told = waiting.iter().filter(|told| told.recv_timeout(PATIENCE).is_ok()).count();
    assert_eq!((told, pool.available()), (40, 40));
}

#[test]
fn a_directory_that_will_not_do_is_named() {
    let pool = BlockPool::new(2, SLOT).unwrap();
    let start = |directory: &str, bytes_max| {
        let config = StagingConfig { directories: vec![directory.into()], bytes_max };
        Staging::start(vec![Ring::new(&pool).unwrap()], &config).map(|_| ())
    };
    for (directory, bytes_max) in [("/proc/tradewind", 1 << 20), ("/proc", 1 << 20), ("/tmp", 10)] {
        let error = start(directory, bytes_max).unwrap_err();
        assert!(matches!(error, StagingError::Directory { .. }) && error.to_string().contains(directory), "{error}");
    }
}
