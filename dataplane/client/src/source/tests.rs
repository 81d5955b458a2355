//! What is read of sources, and how it is cut.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use tradewind_proto::block::{BlockTable, fingerprint};

use super::*;
use crate::durable::Compare;

/// A reader, what it tells of files that it leaves out, and what it counts.
fn reader(blocks: Sender<SharedBlock>, durable: Durable) -> (Reader, crossbeam::channel::Receiver<SourceError>, Arc<Tally>) {
    let pool = BlockPool::new(128, BlockWriter::image_bytes_max(65_536)).unwrap();
    let (problems, told) = crossbeam::channel::unbounded();
    let tally = Arc::new(Tally::default());
    let reader = Reader {
        sealing: None,
        pool,
        payload_max: 65_536,
        blocks,
        on_block: Box::new(|| ()),
        stop: Arc::new(AtomicBool::new(false)),
        durable,
        tally: Arc::clone(&tally),
        on_problem: Box::new(move |problem| problems.send(problem).unwrap()),
    };
    (reader, told, tally)
}

fn read_with(sources: &[Source], durable: Durable) -> (Vec<SharedBlock>, Vec<SourceError>, Arc<Tally>) {
    let (blocks, out) = crossbeam::channel::unbounded();
    let (reader, told, tally) = reader(blocks, durable);
    reader.run(Sources::new(Vec::from(sources).into_iter(), Arc::default()));
    (out.try_iter().collect(), told.try_iter().collect(), tally)
}

/// File, offset, length of each extent, by block.
fn shapes(blocks: &[SharedBlock]) -> Vec<Vec<(u32, u64, u32)>> {
    let shape = |block: &SharedBlock| {
        let table = BlockTable::parse(block).unwrap();
        table.verify_payload(block).unwrap();
        table.extents.iter().map(|extent| (extent.file.0, extent.file_offset, extent.length)).collect()
    };
    blocks.iter().map(shape).collect()
}

fn write(directory: &Path, name: &str, bytes: usize) -> Source {
    let path = directory.join(name);
    File::create(&path).unwrap().write_all(&vec![b'x'; bytes]).unwrap();
    Source::file(path, name.into())
}

#[test]
fn small_files_share_a_block_and_a_large_one_starts_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let files = [("a", 10), ("empty", 0), ("b", 20), ("large", 65_536 * 2 + 5), ("c", 7)];
    let sources = files.map(|(name, bytes)| write(directory.path(), name, bytes));
    let (blocks, problems, tally) = read_with(&sources, Durable::default());
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!((tally.files.load(Ordering::Relaxed), tally.bytes.load(Ordering::Relaxed)), (5, 131_114));
    assert_eq!(
        shapes(&blocks),
        [vec![(0, 0, 10), (1, 0, 0), (2, 0, 20)], vec![(3, 0, 65_536)], vec![(3, 65_536, 65_536)], vec![(3, 131_072, 5), (4, 0, 7)],]
    );
}

#[test]
fn checksums_come_with_the_records_and_a_file_that_shrinks_meanwhile_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let sources = [write(directory.path(), "a", 3), write(directory.path(), "large", 65_536 * 2)];
    let (blocks, out) = crossbeam::channel::unbounded();
    let (reader, told, _) = reader(blocks, Durable::default());
    let keep = Keep { checksums: vec![tradewind_integrity::Checksum::Sha256], ..Keep::default() };
    let shrink = File::options().write(true).open(&sources[1].path).unwrap();
    let mut opened = open(0, &sources[1], None).unwrap();
    shrink.set_len(65_536).unwrap();
    let kept = opened.keep(&keep, &AtomicBool::new(false), &mut |note| panic!("{note:?}"));
    assert!(matches!(kept, Err(ReadError::Source(SourceError::Changed { .. }))));
    let list = Sources::new(sources.into_iter(), Arc::default()).keeping(keep, |note| panic!("{note:?}"));
    reader.run(list);
    assert!(told.is_empty());
    let records: Vec<FileRecord> = out.iter().flat_map(|block| BlockTable::parse(&block).unwrap().files).collect();
    assert_eq!(records.len(), 2);
    // SHA-256 of "xxx".
    let expected = ("sha256".to_owned(), "cd2eb0837c9b4c962c22d2ff8b5441b7b45805887f051d39bf133b583baf6860".to_owned());
    assert_eq!(records[0].attributes[..], [expected]);
    assert_eq!(records[1].attributes.len(), 1);
}

#[test]
fn what_is_durable_is_not_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let sources = [("a", 10), ("large", 65_536 * 3 + 5), ("b", 20)].map(|(name, bytes)| write(directory.path(), name, bytes));
    let print = |source: &Source| {
        let (size, time) = size_and_time(source).unwrap();
        fingerprint(&source.name, size, time)
    };
    let mut durable = Durable::default();
    durable.add_file(print(&sources[0]), None, std::iter::empty());
    durable.add_part(print(&sources[1]), 65_536..131_072, None);
    let (blocks, _, tally) = read_with(&sources, durable.clone());
    assert_eq!(shapes(&blocks), [vec![(1, 0, 65_536)], vec![(1, 131_072, 65_536)], vec![(1, 196_608, 5), (2, 0, 20)]]);
    assert_eq!((tally.files_kept.load(Ordering::Relaxed), tally.bytes_kept.load(Ordering::Relaxed)), (1, 10 + 65_536));
    // Changed since: the whole of both.
    for source in &sources[..2] {
        File::options().write(true).open(&source.path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let (_, _, tally) = read_with(&sources, durable);
    assert_eq!((tally.files.load(Ordering::Relaxed), tally.bytes_kept.load(Ordering::Relaxed)), (3, 0));
}

#[test]
fn sealed_sources_are_sent_and_resumed_by_their_sealed_names_and_sizes() {
    use tradewind_seal::{KdfParameters, KeyRing, MasterKey, Passphrase, Unsealer, sealed_size};
    let key = || {
        let cost = KdfParameters::new(8, 1, 1).unwrap();
        MasterKey::from_passphrase(&Passphrase::new(b"x".to_vec()).unwrap(), &cost, &[1; 16]).unwrap()
    };
    let directory = tempfile::tempdir().unwrap();
    let sources = [("a.sealed", 10), ("large.sealed", 65_536 * 3 + 5)].map(|(name, bytes)| write(directory.path(), name, bytes));
    let size = |source: &Source| sealed_size(std::fs::metadata(&source.path).unwrap().len()).unwrap();
    let print = |source: &Source| fingerprint(&source.name, size(source), size_and_time(source).unwrap().1);
    let read = |durable: &Durable| {
        let (blocks, out) = crossbeam::channel::unbounded();
        let (mut reader, told, tally) = reader(blocks, durable.clone());
        reader.sealing = Some(Arc::new(Sealing::new(Arc::new(key()), "store:", "store:".to_owned())));
        reader.run(Sources::new(Vec::from(sources.clone()).into_iter(), Arc::default()));
        assert!(told.is_empty());
        let mut bytes = vec![0; size(&sources[1]) as usize];
        for block in out.iter() {
            let table = BlockTable::parse(&block).unwrap();
            let mut at = 0;
            for extent in &table.extents {
                let (to, length) = (extent.file_offset as usize, extent.length as usize);
                if extent.file == FileId(1) {
                    bytes[to..to + length].copy_from_slice(&block[at..at + length]);
                }
                at += length;
            }
        }
        (bytes, tally.bytes_kept.load(Ordering::Relaxed))
    };
    let (whole, kept) = read(&Durable::default());
    let (mut reader, mut plain) = (whole.as_slice(), Vec::new());
    Unsealer::from_reader(&mut reader, &KeyRing::new().with_key(key())).unwrap().unseal(&mut reader, &mut plain).unwrap();
    assert!(plain == vec![b'x'; 65_536 * 3 + 5] && kept == 0);
    let mut durable = Durable::default();
    durable.add_file(print(&sources[0]), None, std::iter::empty());
    durable.add_part(print(&sources[1]), 65_536..131_072, None);
    let (rest, kept) = read(&durable);
    assert_eq!(kept, size(&sources[0]) + 65_536);
    assert!(rest[65_536..131_072].iter().all(|&byte| byte == 0) && rest[131_072..] == whole[131_072..], "the same bytes again");
}

#[test]
fn what_is_durable_is_compared_where_that_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let sources = [("same", 10), ("other", 20), ("large", 65_536 * 3 + 5)].map(|(name, bytes)| write(directory.path(), name, bytes));
    let print = |source: &Source| {
        let (size, time) = size_and_time(source).unwrap();
        fingerprint(&source.name, size, time)
    };
    let crc = |bytes: usize| Some(crc64_nvme(&vec![b'x'; bytes]));
    let durable = |large: Option<u64>| {
        let mut durable = Durable::compared(Compare::All);
        durable.add_file(print(&sources[0]), crc(10), std::iter::empty());
        durable.add_file(print(&sources[1]), crc(21), std::iter::empty());
        durable.add_part(print(&sources[2]), 65_536..131_072, large);
        durable
    };
    let (blocks, problems, tally) = read_with(&sources, durable(crc(65_536)));
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(shapes(&blocks), [vec![(1, 0, 20)], vec![(2, 0, 65_536)], vec![(2, 131_072, 65_536)], vec![(2, 196_608, 5)]]);
    assert_eq!((tally.files_kept.load(Ordering::Relaxed), tally.bytes_kept.load(Ordering::Relaxed)), (1, 10 + 65_536));
    // A part that is another one's, or of which nothing is known.
    for unlike in [crc(65_535), None] {
        let (blocks, problems, _) = read_with(&sources, durable(unlike));
        assert_eq!(shapes(&blocks), [vec![(1, 0, 20)]]);
        assert!(matches!(&problems[..], [SourceError::Changed { what, .. }] if what.contains("--resume none")), "{problems:?}");
    }
}

#[test]
fn samples_are_read_and_nothing_between_them() {
    const SIZE: usize = 5 << 20;
    let directory = tempfile::tempdir().unwrap();
    let source = write(directory.path(), "large", SIZE);
    let (size, time) = size_and_time(&source).unwrap();
    let crc = |bytes: usize| Some(crc64_nvme(&vec![b'x'; bytes]));
    let compared = |samples: [(Range<u64>, Option<u64>); 2]| {
        let mut durable = Durable::compared(Compare::Samples);
        durable.add_file(fingerprint(b"large", size, time), Some(1), samples.into_iter());
        let (blocks, problems, tally) = read_with(std::slice::from_ref(&source), durable);
        assert!(problems.is_empty(), "{problems:?}");
        (blocks.is_empty(), tally.bytes_compared.load(Ordering::Relaxed))
    };
    assert_eq!(compared([(0..65_536, crc(65_536)), (size - 10..size, crc(10))]), (true, 65_546), "though the checksum of all is another");
    assert_eq!(compared([(0..65_536, crc(65_536)), (size - 10..size, crc(11))]), (false, 65_546));
}

#[test]
fn odd_sources_are_left_out_by_name_and_the_rest_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let good = [write(directory.path(), "f", 3), write(directory.path(), "g", 4)];
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    let sources = [
        good[0].clone(),
        Source::file(directory.path().join("missing"), b"m".to_vec()),
        Source::file(directory.path().to_owned(), b"d".to_vec()),
        Source::file(good[0].path.clone(), b"../f".to_vec()),
        Source::file(fifo, b"fifo".to_vec()),
        good[1].clone(),
    ];
    let (blocks, problems, tally) = read_with(&sources, Durable::default());
    assert_eq!(shapes(&blocks), [vec![(0, 0, 3), (5, 0, 4)]]);
    assert_eq!(tally.files_failed.load(Ordering::Relaxed), 4);
    use SourceError::{Name, NotAFile, Read};
    assert!(matches!(problems[..], [Read { .. }, NotAFile { .. }, Name { .. }, NotAFile { .. }]), "{problems:?}");
}

#[test]
fn a_file_that_is_cut_short_while_it_is_read_is_withdrawn() {
    let directory = tempfile::tempdir().unwrap();
    let sources = [write(directory.path(), "large", 65_536 * 3), write(directory.path(), "b", 20)];
    // One block at a time, so that the file can be cut when the first has left.
    let (blocks, out) = crossbeam::channel::bounded(0);
    let (reader, told, _) = reader(blocks, Durable::default());
    let list = Sources::new(sources.clone().into_iter(), Arc::default());
    let reading = std::thread::spawn(move || reader.run(list));
    let mut blocks = vec![out.recv().unwrap()];
    File::options().write(true).open(&sources[0].path).unwrap().set_len(65_536).unwrap();
    blocks.extend(out.iter());
    reading.join().unwrap();
    assert!(matches!(told.try_recv().unwrap(), SourceError::Changed { .. }));
    let last = BlockTable::parse(blocks.last().unwrap()).unwrap();
    assert_eq!(last.files.iter().map(|file| (file.file.0, file.is_withdrawn())).collect::<Vec<_>>(), [(0, true), (1, false)]);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    std::fs::write(&path, vec![1; 100]).unwrap();
    let source = Source::file(path.clone(), b"f".to_vec());
    let opened = open(0, &source, None).unwrap();
    opened.check_unchanged().unwrap();
    std::fs::write(&path, vec![1; 90]).unwrap();
    assert!(matches!(opened.check_unchanged(), Err(SourceError::Changed { .. })));
    assert!(matches!(opened.read(50, &mut [0; 50]), Err(SourceError::Changed { .. })));
}

#[test]
fn a_link_is_sent_as_what_it_points_to_and_not_again_while_it_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let (path, file) = (directory.path().join("link"), write(directory.path(), "f", 3));
    let target = b"nowhere/\xff";
    std::os::unix::fs::symlink(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(target), &path).unwrap();
    let source = Source::link(path.clone(), b"link.rclonelink".to_vec());
    let keep = Keep { checksums: vec![tradewind_integrity::Checksum::Md5], times: true, owner: true, xattrs: true, acls: true };
    let (blocks, out) = crossbeam::channel::unbounded();
    let (reader, told, _) = reader(blocks, Durable::default());
    reader.run(Sources::of(vec![source.clone()]).unwrap().keeping(keep, |note| panic!("{note:?}")));
    let block = out.recv().unwrap();
    let table = BlockTable::parse(&block).unwrap();
    table.verify_payload(&block).unwrap();
    let (record, itself) = (&table.files[0], std::fs::symlink_metadata(&path).unwrap());
    assert_eq!((&block[..9], record.size, record.mode, record.mtime_ns), (&target[..], 9, 0o644, mtime_ns(&itself)));
    assert!(record.attributes.iter().any(|(name, _)| name == "md5chksum") && told.is_empty());
    let mut durable = Durable::default();
    durable.add_file(fingerprint(&record.path, record.size, record.mtime_ns), None, std::iter::empty());
    let (blocks, problems, tally) = read_with(std::slice::from_ref(&source), durable.clone());
    assert_eq!((blocks.len(), problems.len(), tally.files_kept.load(Ordering::Relaxed)), (0, 0, 1));
    // Another link, and none any more.
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert_eq!(shapes(&read_with(std::slice::from_ref(&source), durable.clone()).0), [vec![(0, 0, 9)]]);
    std::fs::rename(&file.path, &path).unwrap();
    let (blocks, problems, _) = read_with(&[source], durable);
    assert!(blocks.is_empty() && matches!(problems[..], [SourceError::Changed { .. }]), "{problems:?}");
}

#[test]
fn holes_are_told_and_not_read_and_what_is_durable_of_them_is_not_told_again() {
    use std::os::unix::fs::FileExt as _;
    const G: u64 = 65_536;
    // On the disk that is built on: not every tmpfs tells where data is.
    let directory = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let path = directory.path().join("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(64 * G + 5).unwrap();
    file.write_all_at(&[1; 100], 10 * G).unwrap();
    // Too short a hole, and data over the edge of a window.
    file.write_all_at(&[2; 4096], 10 * G + 16_384).unwrap();
    file.write_all_at(&vec![3; G as usize], 20 * G + 8192).unwrap();
    file.sync_all().unwrap();
    let source = Source::file(path.clone(), b"sparse".to_vec());
    if !open(0, &source, None).unwrap().is_sparse {
        println!("SKIP: no holes in this file system");
        return;
    }
    let expected = std::fs::read(&path).unwrap();
    let rebuilt = |blocks: &[SharedBlock]| {
        let (mut bytes, mut sent) = (vec![9; expected.len()], 0);
        for block in blocks {
            let table = BlockTable::verified(block).unwrap();
            sent += u64::from(table.payload_bytes);
            for extent in &table.extents {
                let (to, length, from) = (extent.file_offset as usize, extent.length as usize, extent.payload_offset as usize);
                let into = &mut bytes[to..to + length];
                if extent.is_hole { into.fill(0) } else { into.copy_from_slice(&block[from..from + length]) }
            }
            let windows: std::collections::BTreeSet<u64> =
                table.extents.iter().filter(|extent| !extent.is_hole).map(|extent| extent.file_offset / G).collect();
            assert!(windows.len() <= 1, "{windows:?}");
        }
        (bytes, sent)
    };
    let (blocks, problems, tally) = read_with(std::slice::from_ref(&source), Durable::default());
    assert!(problems.is_empty(), "{problems:?}");
    let (bytes, sent) = rebuilt(&blocks);
    assert!(bytes == expected);
    assert!(sent < 3 * G, "{sent} bytes sent");
    assert_eq!((tally.bytes.load(Ordering::Relaxed), tally.bytes_holes.load(Ordering::Relaxed)), (64 * G + 5, 64 * G + 5 - sent));
    let (size, time) = size_and_time(&source).unwrap();
    let mut durable = Durable::default();
    durable.add_part(fingerprint(b"sparse", size, time), 0..G * 20, None);
    let (blocks, _, tally) = read_with(std::slice::from_ref(&source), durable);
    let (bytes, sent) = rebuilt(&blocks);
    assert!(bytes[20 * G as usize..] == expected[20 * G as usize..] && bytes[..20 * G as usize].iter().all(|&byte| byte == 9));
    assert!(sent < 2 * G && tally.bytes_kept.load(Ordering::Relaxed) == 20 * G);
    let marks = BlockTable::parse(&blocks[0]).unwrap().files[0].attributes.clone();
    assert!(tradewind_storage::is_marked_sparse(&marks), "{marks:?}");
}
