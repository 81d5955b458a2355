//! Uploads into a directory of a real disk. What every platform must do is in tests/stores.rs.

mod common;

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use common::listing::{folders_are_no_objects, listing, pages};
use common::{MTIME_NS, all_kinds, assert_done, config, source, upload};
use tradewind_storage::{Depth, LocalStore, ObjectKey, ObjectName, Store as _, StoreError, UploadError, UploaderConfig};

/// On the disk that is built on: tmpfs would hide O_DIRECT mistakes.
fn root() -> tempfile::TempDir {
    tempfile::Builder::new().prefix(".test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn files_below(path: &Path) -> usize {
    path.read_dir().unwrap().map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn lists_tells_and_deletes() {
    let root = root();
    let store = LocalStore::open(root.path()).unwrap();
    for prefix in ["", "p/", "deep/er and/er/", "begins-with-"] {
        listing(&store, prefix).await;
    }
    assert_eq!(files_below(root.path()), 0);
}

#[tokio::test]
async fn links_and_unfinished_files_are_neither_listed_nor_deleted_and_nothing_outside_is_seen() {
    let (root, outside) = (root(), root());
    let store = LocalStore::open(root.path()).unwrap();
    std::fs::write(outside.path().join("secret"), b"secret").unwrap();
    std::fs::create_dir_all(root.path().join("d/empty")).unwrap();
    std::fs::write(root.path().join("d/file"), b"1").unwrap();
    let hidden = ["d/.file.tradewind-partial", ".0f.tradewind-probe", "way", "link", "d/way"];
    std::fs::write(root.path().join(hidden[0]), b"half").unwrap();
    std::fs::write(root.path().join(hidden[1]), b"").unwrap();
    symlink(outside.path(), root.path().join(hidden[2])).unwrap();
    symlink(root.path().join("d/file"), root.path().join(hidden[3])).unwrap();
    symlink(outside.path(), root.path().join(hidden[4])).unwrap();
    let keys = async |prefix: &str, depth| {
        let entries = pages(&store, prefix, 2, depth).await;
        entries.iter().map(|entry| String::from_utf8(entry.key().to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(keys("", Depth::All).await, ["d/file"]);
    assert_eq!(keys("", Depth::OneLevel).await, ["d/"]);
    assert_eq!(keys("d/", Depth::OneLevel).await, ["d/empty/", "d/file"]);
    for prefix in ["way/", "way/s", "d/way/", "../", "/", "d/../", "d/file/"] {
        for depth in [Depth::All, Depth::OneLevel] {
            assert_eq!(keys(prefix, depth).await, [""; 0], "{prefix}");
        }
    }
    for name in hidden {
        let key = ObjectKey::new(name.as_bytes()).unwrap();
        assert_eq!(store.head(&key).await.unwrap(), None, "{name}");
        assert!(!store.delete(&key).await.unwrap(), "{name}");
        assert!(root.path().join(name).symlink_metadata().is_ok(), "{name} was removed");
    }
    folders_are_no_objects(&store, "d").await;
    for through in ["way/secret", "d/way/secret", "d/file/x"] {
        let key = ObjectKey::new(through.as_bytes()).unwrap();
        assert_eq!(store.head(&key).await.unwrap(), None, "{through}");
        assert!(!store.delete(&key).await.unwrap(), "{through}");
    }
    assert_eq!(files_below(outside.path()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_of_files_arrive_with_mode_and_time() {
    for part_bytes in [None, Some(5 << 20)] {
        let root = root();
        let sources = all_kinds();
        let settings = UploaderConfig { part_bytes, ..config("into/") };
        let outcome = upload(Arc::new(LocalStore::open(root.path()).unwrap()), settings, &sources).await;
        assert_done(&outcome, &sources);
        for source in &sources {
            let path = root.path().join("into").join(&source.path);
            assert!(std::fs::read(&path).unwrap() == source.data, "{}", source.path);
            let found = path.metadata().unwrap();
            assert_eq!(found.mode() & 0o7777, 0o640);
            assert_eq!(found.modified().unwrap(), UNIX_EPOCH + Duration::from_nanos(MTIME_NS as u64));
        }
        assert_eq!(files_below(root.path()), sources.len(), "something was left behind");
    }
}

#[tokio::test]
async fn a_name_of_its_own_choosing() {
    let root = root();
    let sources = [source("called-this", 10)];
    let settings = UploaderConfig { name: ObjectName::Exact("stored/as-that".into()), ..config("") };
    assert_done(&upload(Arc::new(LocalStore::open(root.path()).unwrap()), settings, &sources).await, &sources);
    assert_eq!(std::fs::read(root.path().join("stored/as-that")).unwrap(), sources[0].data);
}

#[tokio::test]
async fn what_exists_stays_unless_overwriting_is_asked_for() {
    let root = root();
    std::fs::write(root.path().join("f"), b"precious").unwrap();
    let store = Arc::new(LocalStore::open(root.path()).unwrap());
    let sources = [source("f", 3 << 20)];
    let outcome = upload(store.clone(), config(""), &sources).await;
    assert!(matches!(outcome.failed, Some(UploadError::Store(StoreError::DestinationExists { .. }))), "{:?}", outcome.failed);
    assert_eq!(std::fs::read(root.path().join("f")).unwrap(), b"precious");
    assert_eq!(files_below(root.path()), 1);
    assert_done(&upload(store, UploaderConfig { overwrite: true, ..config("") }, &sources).await, &sources);
    assert!(std::fs::read(root.path().join("f")).unwrap() == sources[0].data);
}

#[tokio::test]
async fn nothing_is_written_outside_the_root() {
    let (root, outside) = (root(), root());
    symlink(outside.path(), root.path().join("way")).unwrap();
    symlink(outside.path().join("target"), root.path().join("link")).unwrap();
    let store = Arc::new(LocalStore::open(root.path()).unwrap());
    let outcome = upload(store.clone(), config(""), &[source("way/f", 10)]).await;
    assert!(matches!(outcome.failed, Some(UploadError::Store(StoreError::InvalidName { .. }))), "{:?}", outcome.failed);
    let outcome = upload(store.clone(), config(""), &[source("../f", 10)]).await;
    assert!(matches!(outcome.failed, Some(UploadError::Store(StoreError::InvalidName { .. }))), "{:?}", outcome.failed);
    // A link in the last place is replaced, not followed.
    let sources = [source("link", 10)];
    assert_done(&upload(store, UploaderConfig { overwrite: true, ..config("") }, &sources).await, &sources);
    assert!(root.path().join("link").symlink_metadata().unwrap().is_file());
    assert_eq!(files_below(outside.path()), 0);
}

#[tokio::test]
async fn a_full_disk_is_named_and_leaves_nothing() {
    let root = root();
    let mut blocks = common::cut(&tradewind_fabric::BlockPool::new(1, 1 << 20).unwrap(), &[source("f", 10)]);
    blocks[0].files[0].size = 1 << 43;
    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let store = Arc::new(LocalStore::open(root.path()).unwrap());
    let uploader = tradewind_storage::Uploader::start(&tokio::runtime::Handle::current(), store, config(""), None, sender);
    uploader.block(blocks.remove(0));
    let outcome = common::listen(uploader, events).await;
    let error = outcome.failed.expect("no disk is that large");
    assert!(matches!(error, UploadError::Store(StoreError::Full { .. })), "{error}");
    assert!(error.to_string().contains("8796093022208"), "{error}");
    assert_eq!(files_below(root.path()), 0);
}

#[tokio::test]
async fn bad_roots_are_found_before_the_transfer() {
    let root = root();
    assert!(matches!(LocalStore::open(&root.path().join("no")), Err(StoreError::NotFound { .. })));
    assert!(matches!(LocalStore::open(Path::new("relative")), Err(StoreError::Configuration { .. })));
    std::fs::write(root.path().join("f"), b"").unwrap();
    assert!(matches!(LocalStore::open(&root.path().join("f")), Err(StoreError::Configuration { .. })));
    let store = LocalStore::open(root.path()).unwrap();
    store.check("").await.unwrap();
    drop(root);
    assert!(matches!(store.check("").await, Err(StoreError::NotFound { .. })));
}
