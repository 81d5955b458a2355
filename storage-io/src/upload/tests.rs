//! The assembly against a simple model: what comes out must be the files that went in, whatever the order.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use proptest::prelude::*;
use tradewind_fabric::BlockPool;

use super::assembly::{Assembly, Earlier, Job, Milestone};
use super::draft::DraftPart;
use super::{FileMeta, ObjectName, Piece, ReadyBlock, UploaderConfig};
use crate::checksum::Crc64;
use crate::error::{StoreError, UploadError};
use crate::journal::{KeptBlock, Recalled};
use crate::store::{Limits, PartReceipt};

const BLOCK: usize = 512;

/// S3's shape, small enough to get through all of it.
const LIMITS: Limits =
    Limits { part_bytes_min: 1024, part_bytes_max: 8192, part_bytes_default: 2048, parts_max: 20, object_bytes_max: 1 << 20 };

fn config() -> UploaderConfig {
    UploaderConfig { name: ObjectName::Into("in/".into()), block_bytes: BLOCK as u64, ..UploaderConfig::default() }
}

fn content(file: u32, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ (file as usize * 97)) as u8).collect()
}

fn meta(file: u32, size: usize) -> FileMeta {
    FileMeta {
        file,
        path: format!("f{file}").into_bytes(),
        size: size as u64,
        mtime_ns: 0,
        mode: 0,
        attributes: std::sync::Arc::default(),
        withdrawn: false,
    }
}

fn block(pool: &BlockPool, id: u32, runs: &[(u32, usize, usize, usize)]) -> ReadyBlock {
    let mut slot = pool.take().expect("the pool is sized for all blocks");
    let (mut files, mut pieces, mut at) = (Vec::new(), Vec::new(), 0);
    for &(file, size, offset, len) in runs {
        let bytes = &content(file, size)[offset..offset + len];
        slot[at..at + len].copy_from_slice(bytes);
        files.push(meta(file, size));
        if len > 0 {
            let crc64 = Crc64::of(bytes).0;
            pieces.push(Piece { file, file_offset: offset as u64, len: len as u32, data_offset: at as u32, crc64, is_hole: false });
        }
        at += len;
    }
    ReadyBlock { id, data: slot.freeze(at), files, pieces }
}

/// Cuts files as a sender does: large ones on block boundaries, small ones together. `step` below BLOCK makes blocks that do not
/// fit parts, which a resumed transfer may bring.
fn cut(sizes: &[usize], step: usize) -> Vec<Vec<(u32, usize, usize, usize)>> {
    let (mut blocks, mut open, mut used) = (Vec::new(), Vec::new(), 0);
    for (file, &size) in (0..).zip(sizes) {
        if size > step {
            blocks.extend((0..size).step_by(step).map(|at| vec![(file, size, at, step.min(size - at))]));
        } else {
            if used + size > BLOCK || open.len() >= 5 {
                blocks.push(std::mem::take(&mut open));
                used = 0;
            }
            open.push((file, size, 0, size));
            used += size;
        }
    }
    if !open.is_empty() {
        blocks.push(open);
    }
    blocks
}

/// A store that only remembers, and answers in an order chosen by `pick`.
#[derive(Default)]
struct Model {
    parts: HashMap<u32, BTreeMap<u64, Vec<u8>>>,
    objects: HashMap<u32, Vec<u8>>,
}

impl Model {
    fn serve(&mut self, assembly: &mut Assembly, job: Job) {
        match job {
            Job::Put { file, body, key, .. } => {
                assert_eq!(key.to_string(), format!("in/f{file}"));
                let body = body.read().now_or_never().expect("nothing waits here").unwrap();
                let bytes = body.chunks().concat();
                assert_eq!(Crc64::of(&bytes), body.crc());
                assert!(self.objects.insert(file, bytes).is_none(), "put twice");
                let crc = body.crc();
                drop(body);
                assembly.object_stored(file, crc);
            }
            Job::Begin { file, .. } => {
                assert!(self.parts.insert(file, BTreeMap::new()).is_none(), "begun twice");
                assembly.begun(file);
            }
            Job::Part { file, part: DraftPart { number, offset, body } } => {
                let body = body.read().now_or_never().expect("nothing waits here").unwrap();
                let bytes = body.chunks().concat();
                assert_eq!(Crc64::of(&bytes), body.crc());
                assert!(self.parts.get_mut(&file).expect("begun").insert(offset, bytes).is_none(), "part sent twice");
                let receipt = PartReceipt { number, len: body.len(), crc: body.crc(), etag: None };
                drop(body);
                assembly.part_stored(file, receipt);
            }
            Job::Abort { file, .. } => drop(self.parts.remove(&file).expect("begun")),
            Job::Complete { file, parts, crc, size } => {
                assert!(parts.iter().map(|part| part.number).eq(1..=parts.len() as u32));
                let bytes: Vec<u8> = self.parts.remove(&file).expect("begun").into_values().flatten().collect();
                assert_eq!(size, bytes.len() as u64);
                assert_eq!(Crc64::of(&bytes), crc);
                self.objects.insert(file, bytes);
                assembly.object_stored(file, crc);
            }
        }
    }
}

fn take_job(assembly: &mut Assembly, pick: usize) -> Option<Job> {
    let queues = &mut assembly.jobs;
    let mut all = [&mut queues.control, &mut queues.parts, &mut queues.small];
    all.rotate_left(pick % 3);
    let queue = all.into_iter().find(|queue| !queue.is_empty())?;
    let at = pick / 3 % queue.len();
    queue.remove(at)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_file_comes_out_as_it_went_in(
        sizes in prop::collection::vec(prop_oneof![Just(0usize), 1..100usize, 100..BLOCK, 1..9000usize, 2048..40_000usize], 1..12),
        step in prop_oneof![Just(BLOCK), Just(BLOCK), 100..BLOCK],
        order in any::<prop::sample::Index>(),
        picks in prop::collection::vec(any::<u32>(), 1..64),
    ) {
        let cuts = cut(&sizes, step);
        let pool = BlockPool::new(cuts.len(), BLOCK).unwrap();
        let mut ids: Vec<usize> = (0..cuts.len()).collect();
        // A cheap shuffle out of the generated numbers.
        for at in (1..ids.len()).rev() {
            ids.swap(at, (picks[at % picks.len()] as usize).wrapping_add(at * 7) % (at + 1));
        }
        let announce_at = order.index(ids.len() + 1);
        let (mut assembly, mut model) = (Assembly::new(config(), LIMITS, Earlier::default()), Model::default());
        let (mut blocks, mut files) = (Vec::new(), Vec::new());
        for (turn, &id) in ids.iter().enumerate() {
            if turn == announce_at {
                assembly.announce(ids.len() as u64).unwrap();
            }
            assembly.add_block(&block(&pool, id as u32, &cuts[id])).unwrap();
            let pick = picks[turn % picks.len()] as usize;
            for _ in 0..pick % 4 {
                if let Some(job) = take_job(&mut assembly, pick / 4) {
                    model.serve(&mut assembly, job);
                }
            }
        }
        if announce_at >= ids.len() {
            prop_assert_eq!(assembly.finished(), None);
            assembly.announce(ids.len() as u64).unwrap();
        }
        while let Some(job) = take_job(&mut assembly, picks[0] as usize) {
            prop_assert_eq!(assembly.finished(), None);
            model.serve(&mut assembly, job);
        }
        for milestone in assembly.milestones.drain(..) {
            match milestone {
                Milestone::Block(id) => blocks.push(id as usize),
                Milestone::File { meta, crc, .. } => {
                    prop_assert_eq!(crc, Crc64::of(&content(meta.file, sizes[meta.file as usize])));
                    files.push(meta.file as usize);
                }
                Milestone::LeftOut { path, .. } => prop_assert!(false, "{path:?} was left out"),
            }
        }
        blocks.sort_unstable();
        files.sort_unstable();
        prop_assert!(blocks.into_iter().eq(0..cuts.len()), "each block durable once");
        prop_assert!(files.into_iter().eq(0..sizes.len()), "each file done once");
        for (file, &size) in (0..).zip(&sizes) {
            prop_assert_eq!(&model.objects[&file], &content(file, size));
        }
        prop_assert_eq!(pool.available(), pool.capacity());
        prop_assert_eq!(assembly.finished(), Some((sizes.len() as u64, sizes.iter().map(|&size| size as u64).sum())));
    }
}

/// A block as a disk has it.
#[derive(Debug)]
struct OnDisk(Vec<u8>);

#[async_trait]
impl KeptBlock for OnDisk {
    async fn read(&self, range: std::ops::Range<usize>, crc: Crc64) -> std::io::Result<Vec<u8>> {
        let bytes = self.0[range].to_vec();
        if Crc64::of(&bytes) == crc { Ok(bytes) } else { Err(std::io::Error::other("it is damaged")) }
    }
}

#[test]
fn what_an_earlier_transfer_received_joins_what_comes_now() {
    const SIZE: usize = 5000;
    let pool = BlockPool::new(40, BLOCK).unwrap();
    let (parts_of_it, whole_parts) = (&[1, 4, 9][..], &[0, 1, 2, 3, 4][..]);
    for (kept, step) in [(parts_of_it, BLOCK), (whole_parts, BLOCK), (&[0, 1, 2, 3, 4, 5, 6, 7, 8], BLOCK), (&[4, 5, 6], 400), (&[], BLOCK)]
    {
        let cuts = cut(&[SIZE], step);
        let mut recalled = Recalled::default();
        for &number in kept {
            let ReadyBlock { data, files, pieces, .. } = block(&pool, 0, &cuts[number]);
            let kept: std::sync::Arc<dyn KeptBlock> = std::sync::Arc::new(OnDisk(data.to_vec()));
            recalled.add(&config(), &data, &kept, &files, &pieces);
        }
        let (mut assembly, mut model) = (Assembly::new(config(), LIMITS, Earlier { recalled, ..Earlier::default() }), Model::default());
        let sent: Vec<usize> = (0..cuts.len()).rev().filter(|number| !kept.contains(number)).collect();
        for &number in &sent {
            assembly.add_block(&block(&pool, number as u32, &cuts[number])).unwrap();
        }
        assembly.announce(sent.len() as u64).unwrap();
        while let Some(job) = take_job(&mut assembly, 0) {
            model.serve(&mut assembly, job);
        }
        assert_eq!(model.objects[&0], content(0, SIZE), "{kept:?}");
        assert_eq!(assembly.finished(), Some((1, SIZE as u64)), "{kept:?}");
        let durable = assembly.milestones.drain(..).filter(|milestone| matches!(milestone, Milestone::Block(_))).count();
        assert_eq!(durable, sent.len(), "of what came now, and of nothing else");
        assert_eq!(pool.available(), pool.capacity());
    }
}

#[test]
fn holes_become_zeros_of_the_parts_that_they_are_in() {
    const SIZE: usize = 9000;
    let holes = [600..7000, 7500..SIZE];
    let mut expected = content(0, SIZE);
    holes.iter().for_each(|hole| expected[hole.clone()].fill(0));
    let hole =
        |offset: usize, len: usize| Piece { file: 0, file_offset: offset as u64, len: len as u32, data_offset: 0, crc64: 0, is_hole: true };
    let pool = BlockPool::new(4, BLOCK).unwrap();
    for reversed in [false, true] {
        let mut first = block(&pool, 0, &[(0, SIZE, 0, 512)]);
        first.pieces.push(hole(600, 6000));
        let mut second = block(&pool, 1, &[(0, SIZE, 512, 88)]);
        second.pieces.push(hole(6600, 400));
        let mut third = block(&pool, 2, &[(0, SIZE, 7000, 500)]);
        third.pieces.push(hole(7500, 1500));
        let mut blocks = [first, second, third];
        if reversed {
            blocks.reverse();
        }
        let (mut assembly, mut model) = (Assembly::new(config(), LIMITS, Earlier::default()), Model::default());
        blocks.iter().for_each(|block| assembly.add_block(block).unwrap());
        drop(blocks);
        assembly.announce(3).unwrap();
        while let Some(job) = take_job(&mut assembly, 0) {
            model.serve(&mut assembly, job);
        }
        assert!(model.objects[&0] == expected, "reversed: {reversed}");
        assert_eq!((pool.available(), assembly.finished()), (pool.capacity(), Some((1, SIZE as u64))));
    }
    let mut assembly = Assembly::new(config(), LIMITS, Earlier::default());
    let mut twice = block(&pool, 0, &[(0, SIZE, 0, 512)]);
    twice.pieces.push(hole(511, 2));
    assert!(matches!(assembly.add_block(&twice), Err(UploadError::Overlap { file: 0, offset: 511 })));
}

#[test]
fn hostile_blocks_end_as_named_errors() {
    let pool = BlockPool::new(16, BLOCK).unwrap();
    let mut assembly = Assembly::new(config(), LIMITS, Earlier::default());
    assembly.add_block(&block(&pool, 0, &[(0, 3000, 0, 512)])).unwrap();
    let mut refuse = |block: &ReadyBlock| assembly.add_block(block).unwrap_err();
    let again = refuse(&block(&pool, 0, &[(0, 3000, 512, 512)]));
    assert!(matches!(again, UploadError::DuplicateBlock { block: 0 }), "{again}");
    let overlap = refuse(&block(&pool, 1, &[(0, 3000, 511, 100)]));
    assert!(matches!(overlap, UploadError::Overlap { file: 0, offset: 511 }), "{overlap}");
    let resized = refuse(&block(&pool, 2, &[(0, 3001, 512, 100)]));
    assert!(matches!(resized, UploadError::FileChanged { what: "its size", .. }), "{resized}");

    let with = |id, change: fn(&mut ReadyBlock)| {
        let mut block = block(&pool, id, &[(0, 3000, 1024, 512)]);
        change(&mut block);
        block
    };
    let range = refuse(&with(3, |block| block.pieces[0].file_offset = 2489));
    assert!(matches!(range, UploadError::OutOfRange { .. }), "{range}");
    let wrapped = refuse(&with(4, |block| block.pieces[0].file_offset = u64::MAX));
    assert!(matches!(wrapped, UploadError::OutOfRange { .. }), "{wrapped}");
    let outside = refuse(&with(5, |block| block.pieces[0].data_offset = 1));
    assert!(matches!(outside, UploadError::OutsideBlock { block: 5 }), "{outside}");
    let unknown = refuse(&with(6, |block| block.pieces[0].file = 9));
    assert!(matches!(unknown, UploadError::UnknownFile { block: 6, file: 9 }), "{unknown}");
    let retimed = refuse(&with(7, |block| block.files[0].mtime_ns = 1));
    assert!(matches!(retimed, UploadError::FileChanged { .. }), "{retimed}");
    let escape = refuse(&with(8, |block| (block.files[0].file, block.files[0].path) = (7, b"../x".to_vec())));
    assert!(matches!(escape, UploadError::Store(crate::StoreError::InvalidName { .. })), "{escape}");
    let wrong = refuse(&with(9, |block| block.pieces[0].crc64 ^= 1).straddling());
    assert!(matches!(wrong, UploadError::PieceChecksum { .. }), "{wrong}");
    // The neighbours that must pass: the last byte of the file, and the gap between the two blocks.
    assembly.add_block(&block(&pool, 10, &[(0, 3000, 2488, 512)])).unwrap();
    assembly.add_block(&block(&pool, 11, &[(0, 3000, 512, 512)])).unwrap();
}

impl ReadyBlock {
    /// Moves the block's only piece across a part boundary, so that its checksum has to be looked at.
    fn straddling(mut self) -> Self {
        self.pieces[0].file_offset = 2000;
        self
    }
}

#[test]
fn what_is_missing_at_the_end_has_a_name() {
    let pool = BlockPool::new(4, BLOCK).unwrap();
    let mut assembly = Assembly::new(config(), LIMITS, Earlier::default());
    assembly.add_block(&block(&pool, 0, &[(0, 1000, 0, 512)])).unwrap();
    let error = assembly.announce(1).unwrap_err();
    assert!(matches!(error, UploadError::Incomplete { missing_bytes: 488, .. }), "{error}");
    assert!(assembly.announce(2).is_ok());
    let error = assembly.announce(0).unwrap_err();
    assert!(matches!(error, UploadError::BlockCount { received: 1, announced: 0 }), "{error}");
}

#[test]
fn a_part_that_the_pool_cannot_hold_is_refused_at_the_first_block() {
    let pool = BlockPool::new(2, BLOCK).unwrap();
    let first = block(&pool, 0, &[(0, 3000, 0, 512)]);
    let mut enough = Assembly::new(UploaderConfig { pool_bytes: 2048, ..config() }, LIMITS, Earlier::default());
    enough.add_block(&first).unwrap();
    let mut short = Assembly::new(UploaderConfig { pool_bytes: 2047, ..config() }, LIMITS, Earlier::default());
    let error = short.add_block(&first).unwrap_err();
    assert!(matches!(error, UploadError::PoolTooSmall { part_bytes: 2048, pool_bytes: 2047, .. }), "{error}");
}

#[test]
fn one_name_is_for_one_file() {
    let pool = BlockPool::new(4, BLOCK).unwrap();
    let exact = || Assembly::new(UploaderConfig { name: ObjectName::Exact("that".into()), ..config() }, LIMITS, Earlier::default());
    let mut one = exact();
    one.add_block(&block(&pool, 0, &[(0, 1000, 0, 512)])).unwrap();
    one.add_block(&block(&pool, 1, &[(0, 1000, 512, 488)])).unwrap();
    let error = exact().add_block(&block(&pool, 0, &[(0, 10, 0, 10), (1, 10, 0, 10)])).unwrap_err();
    assert!(matches!(error, UploadError::Store(crate::StoreError::Configuration { .. })), "{error}");
}

#[test]
fn a_withdrawn_file_leaves_nothing_and_holds_no_block() {
    let pool = BlockPool::new(16, BLOCK).unwrap();
    let (mut assembly, mut model) = (Assembly::new(config(), LIMITS, Earlier::default()), Model::default());
    let size = 9 * BLOCK;
    for id in 0..5 {
        assembly.add_block(&block(&pool, id, &[(0, size, id as usize * BLOCK, BLOCK)])).unwrap();
    }
    // One part goes to the store, others wait in every place there is.
    let begin = assembly.jobs.control.pop_front().unwrap();
    model.serve(&mut assembly, begin);
    let part = assembly.jobs.parts.pop_front().unwrap();
    model.serve(&mut assembly, part);
    let mut last = block(&pool, 5, &[(1, 10, 0, 10)]);
    last.files.push(FileMeta { withdrawn: true, ..meta(0, size) });
    assembly.add_block(&last).unwrap();
    drop(last);
    // What was overtaken on the way.
    assembly.add_block(&block(&pool, 6, &[(0, size, 6 * BLOCK, BLOCK)])).unwrap();
    assembly.announce(7).unwrap();
    while let Some(job) = take_job(&mut assembly, 0) {
        model.serve(&mut assembly, job);
    }
    assert_eq!(assembly.finished(), Some((1, 10)));
    assert!(model.parts.is_empty(), "what was at the store is aborted");
    assert_eq!(model.objects.keys().collect::<Vec<_>>(), [&1]);
    let durable = assembly.milestones.iter().filter(|milestone| matches!(milestone, Milestone::Block(_))).count();
    assert_eq!(durable, 7);
    assert_eq!(pool.available(), 16);
}

#[test]
fn a_file_that_the_store_refuses_is_left_out_if_that_is_wanted_and_the_others_can_be_stored() {
    let refused = || StoreError::InvalidName { name: "f0".to_owned(), reason: "it is too long" };
    let full = || StoreError::Full { place: "disk".to_owned(), detail: "no room".to_owned() };
    let pool = BlockPool::new(16, BLOCK).unwrap();
    let config = UploaderConfig { leave_out: true, ..config() };
    let (mut assembly, mut model) = (Assembly::new(config, LIMITS, Earlier::default()), Model::default());
    let size = 9 * BLOCK;
    for id in 0..5 {
        assembly.add_block(&block(&pool, id, &[(0, size, id as usize * BLOCK, BLOCK)])).unwrap();
    }
    let begin = assembly.jobs.control.pop_front().unwrap();
    model.serve(&mut assembly, begin);
    assert!(matches!(assembly.leave_out(0, full()), Err(StoreError::Full { .. })), "nothing else can be stored either");
    assembly.leave_out(0, refused()).unwrap();
    // What was on its way to the store meanwhile.
    assembly.leave_out(0, refused()).unwrap();
    let mut last = block(&pool, 5, &[(0, size, 5 * BLOCK, BLOCK)]);
    // A name that the store cannot have at all.
    last.files.push(FileMeta { path: b"../x".to_vec(), ..meta(2, 0) });
    assembly.add_block(&last).unwrap();
    drop(last);
    assembly.add_block(&block(&pool, 6, &[(1, 10, 0, 10)])).unwrap();
    assembly.announce(7).unwrap();
    while let Some(job) = take_job(&mut assembly, 0) {
        model.serve(&mut assembly, job);
    }
    assert_eq!(assembly.finished(), Some((1, 10)));
    assert!(model.parts.is_empty(), "what was at the store is aborted");
    let left_out = assembly.milestones.iter().filter_map(|milestone| match milestone {
        Milestone::LeftOut { file, .. } => Some(*file),
        _ => None,
    });
    assert_eq!(left_out.collect::<Vec<_>>(), [0, 2]);
    assert_eq!(pool.available(), 16);

    let mut strict = Assembly::new(self::config(), LIMITS, Earlier::default());
    strict.add_block(&block(&pool, 0, &[(0, size, 0, BLOCK)])).unwrap();
    assert!(matches!(strict.leave_out(0, refused()), Err(StoreError::InvalidName { .. })));
}

#[test]
fn an_upload_that_is_begun_after_its_file_was_withdrawn_is_aborted() {
    let pool = BlockPool::new(16, BLOCK).unwrap();
    let (mut assembly, mut model) = (Assembly::new(config(), LIMITS, Earlier::default()), Model::default());
    assembly.add_block(&block(&pool, 0, &[(0, 9 * BLOCK, 0, BLOCK)])).unwrap();
    let begin = assembly.jobs.control.pop_front().unwrap();
    let mut last = block(&pool, 1, &[]);
    last.files.push(FileMeta { withdrawn: true, ..meta(0, 9 * BLOCK) });
    assembly.add_block(&last).unwrap();
    model.serve(&mut assembly, begin);
    let abort = assembly.jobs.control.pop_front().unwrap();
    model.serve(&mut assembly, abort);
    assembly.announce(2).unwrap();
    assert_eq!((assembly.finished(), model.parts.len()), (Some((0, 0)), 0));
}
