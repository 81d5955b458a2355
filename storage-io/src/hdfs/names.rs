//! Keys as paths of HDFS.
//!
//! A name of HDFS holds no ':' (Hadoop 2.7, `DFSUtil.isValidName`). It is written as rclone writes it: U+FF1A, and U+FF1A itself with U+201B before
//! it (rclone docs, "HDFS", "Restricted filename characters").

use crate::error::StoreError;
use crate::store::ObjectKey;

/// What names of unfinished files and of their directories begin with.
pub(super) const HIDDEN: &str = ".tradewind-";
/// Longest key, bytes: HDFS takes paths of 8000 characters, of which the root has some.
const KEY_BYTES_MAX: usize = 4096;

const COLON: char = '\u{ff1a}';
const QUOTE: char = '\u{201b}';

/// A key as text, if a file of HDFS can have it.
pub(super) fn text(key: &ObjectKey) -> Result<String, StoreError> {
    let refuse = |reason| Err(StoreError::InvalidName { name: key.to_string(), reason });
    let Ok(text) = std::str::from_utf8(key.as_bytes()) else { return refuse("HDFS takes only UTF-8 names") };
    let written = written(text);
    if written.len() > KEY_BYTES_MAX {
        return refuse("HDFS takes at most 4096 bytes here");
    }
    if text.split('/').any(|part| part.starts_with(HIDDEN)) {
        return refuse("names that begin with .tradewind- are those of unfinished files");
    }
    if text.split('/').any(|part| part == ".snapshot") || text.split('/').next() == Some(".reserved") {
        return refuse("HDFS keeps the names .snapshot and .reserved for itself");
    }
    if read(&written) != text {
        return refuse("it holds U+201B before a colon, which could not be told from another name");
    }
    Ok(text.to_owned())
}

/// A name as HDFS has it.
pub(super) fn written(name: &str) -> String {
    let mut written = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            ':' => written.push(COLON),
            COLON => written.extend([QUOTE, COLON]),
            _ => written.push(c),
        }
    }
    written
}

/// The reverse. U+201B twice is itself, as it is in the names of files that are no text (see [`crate::name`]).
pub(super) fn read(written: &str) -> String {
    let (mut name, mut chars) = (String::with_capacity(written.len()), written.chars().peekable());
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            (QUOTE, Some(&COLON)) => {
                name.push(COLON);
                chars.next();
            }
            (QUOTE, Some(&QUOTE)) => {
                name.extend([QUOTE, QUOTE]);
                chars.next();
            }
            (COLON, _) => name.push(':'),
            _ => name.push(c),
        }
    }
    name
}

/// The key's name of a listed one; `None` of an unfinished one, and of one that no key leads to.
pub(super) fn listed(name: &str) -> Option<String> {
    if name.starts_with(HIDDEN) || name.contains('/') {
        return None;
    }
    Some(read(name)).filter(|key| written(key) == name)
}

/// Whether a path stands for itself everywhere: CONCAT has a list with commas, DataNodes with Netty 4.1 decode '%' twice (HDFS-14423, where '+' is one
/// too), and what a NameNode sends to a DataNode is in Unicode's form NFC (Java, `URI.toASCIIString`), as all below U+0300 is in itself.
pub(super) fn is_plain(path: &str) -> bool {
    path.chars().all(|c| c < '\u{300}' && !matches!(c, ',' | '%' | '+'))
}

/// The folder of a path, without the slash; empty at the top.
pub(super) fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(name: &str) -> Result<String, StoreError> {
        text(&ObjectKey::new(name.as_bytes()).unwrap())
    }

    #[test]
    fn colons_are_written_as_rclone_writes_them() {
        for (name, expected) in
            [("10:00", "10\u{ff1a}00"), ("a\u{ff1a}b", "a\u{201b}\u{ff1a}b"), ("\u{201b}\u{201b}FF", "\u{201b}\u{201b}FF")]
        {
            assert_eq!(written(name), expected);
            assert_eq!(of(name).unwrap(), name);
            assert_eq!(listed(expected).as_deref(), Some(name));
        }
    }

    #[test]
    fn names_that_hdfs_keeps_are_refused() {
        for bad in [".tradewind-x", "a/.tradewind-/b", ".snapshot", "a/.snapshot/b", ".reserved/raw/x", "a\u{201b}:b"] {
            assert!(matches!(of(bad), Err(StoreError::InvalidName { .. })), "{bad}");
        }
        for good in ["tradewind-x", "a/.reserved", ".snapshots", "a\u{201b}b"] {
            assert_eq!(of(good).unwrap(), good);
        }
        assert!(of(&"k/".repeat(2048)[..4095]).is_ok() && of(&":/".repeat(2048)[..4095]).is_err());
        assert!(text(&ObjectKey::new(b"\xff").unwrap()).is_err());
        assert!(is_plain("/a b/ü;&=~") && ["/%", "/a+b", "/,", "/e\u{301}", "/10\u{ff1a}00"].iter().all(|path| !is_plain(path)));
        assert_eq!((listed(".tradewind-1"), listed("a/b")), (None, None));
    }

    proptest! {
        /// What is taken is read back, and two keys are never one path.
        #[test]
        fn what_is_written_is_read(name in "[a:\u{ff1a}\u{201b}]{1,8}") {
            if let Ok(text) = of(&name) {
                prop_assert_eq!(read(&written(&text)), name.clone());
            }
            if let Some(key) = listed(&name) {
                prop_assert_eq!(written(&key), name);
            }
        }
    }
}
