//! What every store must list, tell and delete, by the traits alone.

use std::sync::Arc;

use bytes::Bytes;
use tradewind_storage::{Body, Crc64, Depth, ListEntry, ObjectMeta, Store};

use super::{MTIME_NS, key};

/// Names that a URL or a server's order could get wrong, in the order of their bytes.
const NAMES: [&str; 13] =
    ["a%41", "a&b", "a+b c", "a-b", "a/b", "a/c/d", "a/c/e", "a0", "lt<gt>\"q\"'", "nul/deep/er/x", "z?k=v#f", "ü/ß", "ü/日本語 é"];

const FOLDERS: [&str; 3] = ["a/", "nul/", "ü/"];

async fn put(store: &dyn Store, name: &str) {
    let meta =
        ObjectMeta { size: name.len() as u64, mtime_ns: MTIME_NS, mode: 0o640, overwrite: false, token: 1, attributes: Arc::default() };
    let body = Body::new(vec![Bytes::copy_from_slice(name.as_bytes())], Crc64::of(name.as_bytes()));
    store.put(&key(name), meta, body).await.unwrap();
}

/// All pages of a listing, which must come to an end.
pub(crate) async fn pages(store: &dyn Store, prefix: &str, limit: usize, depth: Depth) -> Vec<ListEntry> {
    let (mut entries, mut after) = (Vec::new(), None);
    for _ in 0..10_000 {
        let page = store.list(prefix, after.as_deref(), limit, depth).await.unwrap();
        assert!(page.entries.len() <= limit, "{} entries in a page of {limit}", page.entries.len());
        entries.extend(page.entries);
        match page.next {
            None => return entries,
            next => after = next,
        }
    }
    panic!("a listing of {prefix:?} without end");
}

async fn keys(store: &dyn Store, prefix: &str, limit: usize, depth: Depth) -> Vec<String> {
    let entries = pages(store, prefix, limit, depth).await;
    let mut keys: Vec<String> = entries.iter().map(|entry| String::from_utf8(entry.key().to_vec()).unwrap()).collect();
    // Across folders, not every server keeps the order of keys.
    keys.sort_unstable();
    keys
}

/// What only real stores do: s3s-fs takes a directory for an object that it cannot read.
pub(crate) async fn folders_are_no_objects(store: &dyn Store, folder: &str) {
    assert_eq!(store.head(&key(folder)).await.unwrap(), None, "{folder}");
    assert!(!store.delete(&key(folder)).await.unwrap(), "{folder}");
}

/// Puts objects below `prefix`, and leaves none of them behind.
pub(crate) async fn listing(store: &dyn Store, prefix: &str) {
    listing_of(store, prefix, (Some(MTIME_NS), Some(0o640))).await;
}

/// The same at a store that keeps this of a file's time and mode.
pub(crate) async fn listing_of(store: &dyn Store, prefix: &str, kept: (Option<i64>, Option<u32>)) {
    let named = |names: &[&str]| names.iter().map(|name| format!("{prefix}{name}")).collect::<Vec<_>>();
    assert_eq!(keys(store, prefix, 10, Depth::All).await, named(&[]));
    for name in NAMES {
        put(store, &format!("{prefix}{name}")).await;
    }
    let mut top: Vec<&str> = NAMES.iter().filter(|name| !name.contains('/')).chain(&FOLDERS).copied().collect();
    top.sort_unstable();
    for limit in [1, 2, 3, 5, NAMES.len(), 5000] {
        assert_eq!(keys(store, prefix, limit, Depth::All).await, named(&NAMES), "pages of {limit}");
        assert_eq!(keys(store, prefix, limit, Depth::OneLevel).await, named(&top), "pages of {limit}");
        for (part, all, level) in [
            ("a/", &["a/b", "a/c/d", "a/c/e"][..], &["a/b", "a/c/"][..]),
            ("a/c", &["a/c/d", "a/c/e"], &["a/c/"]),
            ("ü/", &["ü/ß", "ü/日本語 é"], &["ü/ß", "ü/日本語 é"]),
            ("a+", &["a+b c"], &["a+b c"]),
            ("nul/deep/", &["nul/deep/er/x"], &["nul/deep/er/"]),
            ("no/such", &[], &[]),
        ] {
            let below = format!("{prefix}{part}");
            assert_eq!(keys(store, &below, limit, Depth::All).await, named(all), "{part} in pages of {limit}");
            assert_eq!(keys(store, &below, limit, Depth::OneLevel).await, named(level), "{part} in pages of {limit}");
        }
    }
    for entry in pages(store, prefix, 7, Depth::OneLevel).await {
        match entry {
            ListEntry::Folder(path) => assert!(FOLDERS.iter().any(|folder| path == format!("{prefix}{folder}").as_bytes())),
            ListEntry::Object(object) => {
                assert_eq!(object.size as usize, object.key.as_bytes().len());
                assert!(object.modified_ns.is_some_and(|time| time > 0), "{object:?}");
            }
        }
    }
    // After a key, whether or not it is there.
    let after = async |name: &str| {
        let page = store.list(prefix, Some(format!("{prefix}{name}").as_bytes()), 1, Depth::All).await.unwrap();
        page.entries.first().map(|entry| String::from_utf8(entry.key().to_vec()).unwrap())
    };
    assert_eq!(after("ü/ß").await, Some(format!("{prefix}ü/日本語 é")));
    assert_eq!(after("a0").await, Some(format!("{prefix}lt<gt>\"q\"'")));
    assert_eq!(after("m").await, Some(format!("{prefix}nul/deep/er/x")));

    let info = store.head(&key(&format!("{prefix}a+b c"))).await.unwrap().expect("it is there");
    assert_eq!((info.size as usize, info.mtime_ns, info.mode), (prefix.len() + 5, kept.0, kept.1));
    assert!(info.modified_ns.is_some());

    assert!(!store.delete(&key(&format!("{prefix}missing"))).await.unwrap());
    assert!(!store.delete(&key(&format!("{prefix}no/way/there"))).await.unwrap());
    assert_eq!(keys(store, prefix, 5, Depth::All).await, named(&NAMES), "nothing was deleted so far");
    for (index, name) in NAMES.iter().enumerate() {
        let key = key(&format!("{prefix}{name}"));
        assert!(store.delete(&key).await.unwrap(), "{name}");
        assert!(!store.delete(&key).await.unwrap(), "{name} twice");
        assert_eq!(keys(store, prefix, 5, Depth::All).await, named(&NAMES[index + 1..]));
    }
}
