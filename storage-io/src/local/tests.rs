//! Partial files, names that are taken, holes.

use super::*;

#[test]
fn temporary_names_fit() {
    assert_eq!(temporary_name(b"a.bin"), b".a.bin.tradewind-partial");
    assert_eq!(temporary_name(&[b'n'; 236]).len(), NAME_BYTES_MAX);
    let long = temporary_name(&[b'n'; 237]);
    assert!(long.len() < 50 && long.ends_with(SUFFIX));
    assert_ne!(long, temporary_name(&[b'm'; 237]));
}

#[test]
fn a_partial_file_belongs_to_one_transfer_and_goes_with_it() {
    let root = tempfile::tempdir().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    let key = ObjectKey::new(b"d/f").unwrap();
    let meta = ObjectMeta { size: 10, mtime_ns: 0, mode: 0, overwrite: false, token: 0, attributes: Arc::default() };
    let first = store.create(&key, meta.clone()).unwrap();
    assert!(matches!(store.create(&key, meta.clone()), Err(StoreError::Busy { .. })));
    drop(first);
    assert_eq!(root.path().join("d").read_dir().unwrap().count(), 0);
    // What a crash leaves has no lock any more.
    std::fs::write(root.path().join("d/.f.tradewind-partial"), [1u8; 100]).unwrap();
    let second = store.create(&key, meta.clone()).unwrap();
    second.publish().unwrap();
    assert_eq!(std::fs::read(root.path().join("d/f")).unwrap(), [0u8; 10]);
    assert!(matches!(store.create(&key, meta.clone()), Err(StoreError::DestinationExists { .. })));
}

#[test]
fn what_is_left_of_a_file_that_is_there_goes_with_the_next_transfer() {
    let root = tempfile::tempdir().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    let key = ObjectKey::new(b"d/f").unwrap();
    let meta = ObjectMeta { size: 3, mtime_ns: 5, mode: 0, overwrite: false, token: 0, attributes: Arc::default() };
    let body = |text: &'static [u8]| Body::new(vec![bytes::Bytes::from_static(text)], Crc64::of(text));
    let put = |text| store.put_batch(&[(key.clone(), meta.clone(), body(text))]).pop().unwrap();
    put(b"abc").unwrap();
    let rest = root.path().join("d/.f.tradewind-partial");
    std::fs::write(&rest, b"ab").unwrap();
    let theirs = std::fs::File::open(&rest).unwrap();
    theirs.lock().unwrap();
    put(b"abc").unwrap();
    assert!(rest.exists(), "somebody is writing it");
    drop(theirs);
    // Of another file's transfer nothing is known.
    assert!(matches!(put(b"xyz"), Err(StoreError::DestinationExists { .. })));
    assert!(rest.exists());
    put(b"abc").unwrap();
    assert!(!rest.exists());
    assert_eq!(std::fs::read(root.path().join("d/f")).unwrap(), b"abc");
}

/// On the disk that is built on: tmpfs counts blocks in its own way.
#[tokio::test]
async fn holes_take_no_room_and_nothing_of_an_earlier_transfer_stays_in_them() {
    use std::os::unix::fs::MetadataExt as _;
    const HALF: usize = 1 << 20;
    let root = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    let key = ObjectKey::new(b"f").unwrap();
    let attributes: crate::store::Attributes = [crate::holes::sparse_attribute()].into();
    let size = 3 * HALF as u64;
    let meta = ObjectMeta { size, mtime_ns: 5, mode: 0, overwrite: false, token: 0, attributes: Arc::clone(&attributes) };
    let data = bytes::Bytes::from(vec![7; HALF]);
    let zeros = || crate::holes::chunks(HALF as u64);
    let part = |number, chunks: Vec<bytes::Bytes>| {
        let crc = Crc64::of(&chunks.concat());
        Part { number, offset: u64::from(number - 1) * HALF as u64, body: Body::new(chunks, crc) }
    };
    let upload = store.begin(&key, meta.clone()).await.unwrap();
    upload.keep();
    let handle = upload.handle();
    upload.put_part(part(2, vec![data.clone()])).await.unwrap();
    drop(upload);
    let upload = store.reopen(&key, meta, &handle).await.unwrap();
    let mut receipts = vec![upload.put_part(part(1, vec![data.clone()])).await.unwrap()];
    for number in [2, 3] {
        receipts.push(upload.put_part(part(number, zeros().collect())).await.unwrap());
    }
    upload.complete(&receipts, Crc64::default()).await.unwrap();
    let path = root.path().join("f");
    let expected = [vec![7; HALF], vec![0; 2 * HALF]].concat();
    assert!(std::fs::read(&path).unwrap() == expected);
    let blocks = std::fs::metadata(&path).unwrap().blocks();
    if blocks * 512 >= size {
        println!("SKIP: no holes in this file system");
        return;
    }
    assert!(blocks * 512 < HALF as u64 + 65_536, "{blocks} blocks");
    let told = store.head(&key).await.unwrap().unwrap().attributes;
    assert_eq!(told, attributes, "whoever reads it is told");
}

#[test]
fn a_name_taken_in_the_meantime_is_not_replaced() {
    let root = tempfile::tempdir().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    let meta = ObjectMeta { size: 3, mtime_ns: 0, mode: 0, overwrite: false, token: 0, attributes: Arc::default() };
    let partial = store.create(&ObjectKey::new(b"f").unwrap(), meta).unwrap();
    std::fs::write(root.path().join("f"), b"theirs").unwrap();
    assert!(matches!(partial.publish(), Err(StoreError::DestinationExists { .. })));
    drop(partial);
    assert_eq!(std::fs::read(root.path().join("f")).unwrap(), b"theirs");
    assert_eq!(root.path().read_dir().unwrap().count(), 1);
}

/// The servers and the file systems of the end-to-end tests have the same limit to names, so this is where a name is too long.
#[test]
fn what_cannot_be_one_file_says_so_and_spares_the_others() {
    let root = tempfile::tempdir().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    std::fs::create_dir(root.path().join("folder")).unwrap();
    std::fs::write(root.path().join("file"), b"mine").unwrap();
    let long = "n".repeat(NAME_BYTES_MAX + 1);
    let meta = |overwrite| ObjectMeta { size: 3, mtime_ns: 0, mode: 0, overwrite, token: 0, attributes: Arc::default() };
    let body = || Body::new(vec![bytes::Bytes::from_static(b"abc")], Crc64::of(b"abc"));
    for bad in ["folder", "file/below", &long, &format!("{long}/below"), ".x.tradewind-partial"] {
        let key = ObjectKey::new(bad.as_bytes()).unwrap();
        for overwrite in [false, true] {
            let large = store.create(&key, meta(overwrite)).err().unwrap();
            let good = ObjectKey::new(format!("good-{overwrite}-{}", bad.len()).as_bytes()).unwrap();
            let items = [(key.clone(), meta(overwrite), body()), (good, meta(overwrite), body())];
            let mut small = store.put_batch(&items);
            assert!(small.pop().unwrap().is_ok(), "{bad}");
            for error in [large, small.pop().unwrap().err().unwrap()] {
                assert!(matches!(error, StoreError::InvalidName { .. }) && error.spares_other_files(), "{bad}: {error:?}");
            }
        }
    }
    let taken = store.create(&ObjectKey::new(b"file").unwrap(), meta(false)).err().unwrap();
    assert!(matches!(taken, StoreError::DestinationExists { .. }) && !taken.spares_other_files());
}

/// That data is on the disk cannot be seen from here: only that files are the same with each policy.
#[test]
fn files_are_the_same_with_each_policy() {
    for fsync in [FsyncPolicy::Each, FsyncPolicy::End, FsyncPolicy::Never] {
        let root = tempfile::tempdir().unwrap();
        let store = LocalStore::open(root.path()).unwrap().with_fsync(fsync);
        let meta = |size| ObjectMeta { size, mtime_ns: 5, mode: 0o600, overwrite: false, token: 0, attributes: Arc::default() };
        let body = Body::new(vec![bytes::Bytes::from_static(b"abc")], Crc64::of(b"abc"));
        let key = |name: &str| ObjectKey::new(name.as_bytes()).unwrap();
        assert!(store.put_batch(&[(key("small"), meta(3), body.clone())]).pop().unwrap().is_ok());
        let partial = store.create(&key("large"), meta(3)).unwrap();
        partial.write(&body, 0).unwrap();
        partial.publish().unwrap();
        store.sync().unwrap();
        for name in ["small", "large"] {
            assert_eq!(std::fs::read(root.path().join(name)).unwrap(), b"abc", "{fsync:?} {name}");
        }
    }
}

#[test]
fn more_than_the_disk_holds_is_refused_at_once() {
    let root = tempfile::tempdir().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    let meta = ObjectMeta { size: 1 << 43, mtime_ns: 0, mode: 0, overwrite: false, token: 0, attributes: Arc::default() };
    let result = store.create(&ObjectKey::new(b"f").unwrap(), meta);
    assert!(matches!(result, Err(StoreError::Full { .. })), "{result:?}");
    assert_eq!(root.path().read_dir().unwrap().count(), 0);
}
