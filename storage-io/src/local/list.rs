//! Listing a directory in the byte order of whole keys, a page at a time, without following a link.
//!
//! A directory sorts as its name with a '/' behind, because that is how the keys in it go on: so a walk that takes the entries of
//! each directory in this order meets all keys of the tree in theirs.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, openat, statat};
use rustix::io::Errno;

use super::walk::DIRECTORY;
use super::{is_temporary, mtime_ns};
use crate::error::StoreError;
use crate::list::{Depth, LIST_ENTRIES_MAX, ListEntry, ListedObject, Listing};
use crate::store::ObjectKey;

/// Directories opened for one page at most: a forest of empty ones must not hold a caller up for ever. More than a key has
/// components, so that every page gets further.
const DIRECTORIES_MAX: usize = 4096;

/// A directory on the way down. It is read again when `names` is used up and there was more, so that one of a million files needs
/// no more memory than a page.
struct Level {
    dir: OwnedFd,
    /// From the root to here; empty or ending in '/'.
    path: Vec<u8>,
    /// The smallest names not taken yet; those of directories end in '/'.
    names: BTreeSet<Vec<u8>>,
    /// There were larger ones.
    more: bool,
    /// The last name taken.
    taken: Vec<u8>,
}

/// What is listed.
struct Wanted<'a> {
    prefix: &'a [u8],
    after: &'a [u8],
    depth: Depth,
    limit: usize,
}

impl Wanted<'_> {
    /// Whether this key, or with '/' at its end anything below it, belongs to the page or a later one.
    fn wants(&self, key: &[u8]) -> bool {
        let below = key.ends_with(b"/") && self.depth == Depth::All;
        let ahead = key > self.after || (below && self.after.starts_with(key));
        ahead && (key.starts_with(self.prefix) || (below && self.prefix.starts_with(key)))
    }
}

/// One page, see [`crate::Store::list`].
pub(super) fn list(root: BorrowedFd<'_>, prefix: &[u8], after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
    let wanted = Wanted { prefix, after: after.unwrap_or_default(), depth, limit: limit.clamp(1, LIST_ENTRIES_MAX) };
    let folder = prefix.iter().rposition(|&byte| byte == b'/').map_or(&b""[..], |slash| &prefix[..=slash]);
    let Some(dir) = descend(root, folder)? else { return Ok(Listing::default()) };
    let mut levels = vec![Level::read(dir, folder.to_vec(), &wanted)?];
    let mut directories = 0;
    let mut page = Listing::default();
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop_first() else {
            if level.more {
                level.fill(&wanted)?;
            } else {
                levels.pop();
            }
            continue;
        };
        let key = [level.path.as_slice(), name.as_slice()].concat();
        if page.entries.len() == wanted.limit {
            page.next = page.entries.last().map(|entry| entry.key().to_vec());
            break;
        }
        level.taken.clone_from(&name);
        match name.strip_suffix(b"/") {
            None => page.entries.extend(level.object(&name, &key)?.map(ListEntry::Object)),
            Some(_) if depth == Depth::OneLevel => page.entries.push(ListEntry::Folder(key)),
            // All that is left is larger than the path itself, and all that was listed is smaller.
            Some(_) if directories == DIRECTORIES_MAX => {
                page.next = Some(key);
                break;
            }
            Some(name) => {
                directories += 1;
                if let Some(dir) = open(level.dir.as_fd(), name, &key)? {
                    levels.push(Level::read(dir, key, &wanted)?);
                }
            }
        }
    }
    Ok(page)
}

/// The directory of this path, which is empty or ends in '/'; `None` if there is none that a key can lead to.
fn descend(root: BorrowedFd<'_>, folder: &[u8]) -> Result<Option<OwnedFd>, StoreError> {
    let mut at = openat(root, ".", DIRECTORY, Mode::empty()).map_err(|errno| failed(b"", errno))?;
    let Some(path) = folder.strip_suffix(b"/") else { return Ok(Some(at)) };
    if ObjectKey::new(path).is_err() {
        return Ok(None);
    }
    for name in path.split(|&byte| byte == b'/') {
        match open(at.as_fd(), name, folder)? {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// A directory in this one; `None` if it is not there, a file or a link.
fn open(at: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<Option<OwnedFd>, StoreError> {
    match openat(at, name, DIRECTORY, Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(None),
        Err(errno) => Err(failed(path, errno)),
    }
}

impl Level {
    fn read(dir: OwnedFd, path: Vec<u8>, wanted: &Wanted<'_>) -> Result<Self, StoreError> {
        let mut level = Self { dir, path, names: BTreeSet::new(), more: false, taken: Vec::new() };
        level.fill(wanted)?;
        Ok(level)
    }

    /// Reads the smallest names behind the last one taken, a page of them.
    fn fill(&mut self, wanted: &Wanted<'_>) -> Result<(), StoreError> {
        let fail = |errno| failed(&self.path, errno);
        self.more = false;
        let mut key = self.path.clone();
        for entry in Dir::read_from(&self.dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let mut name = entry.file_name().to_bytes().to_vec();
            let kind = match entry.file_type() {
                FileType::Unknown => statat(&self.dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                    .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
                known => known,
            };
            match kind {
                FileType::Directory if name != b"." && name != b".." => name.push(b'/'),
                FileType::RegularFile if !is_temporary(&name) => {}
                _ => continue,
            }
            key.truncate(self.path.len());
            key.extend_from_slice(&name);
            if name <= self.taken || !wanted.wants(&key) || ObjectKey::new(key.strip_suffix(b"/").unwrap_or(&key)).is_err() {
                continue;
            }
            self.names.insert(name);
            if self.names.len() > wanted.limit {
                self.names.pop_last();
                self.more = true;
            }
        }
        Ok(())
    }

    /// The file of this name, unless it is gone or another kind of thing by now.
    fn object(&self, name: &[u8], key: &[u8]) -> Result<Option<ListedObject>, StoreError> {
        match statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Ok(Some(ListedObject {
                key: ObjectKey::new(key)?,
                size: u64::try_from(stat.st_size).unwrap_or(0),
                modified_ns: mtime_ns(&stat),
                etag: None,
            })),
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(key, errno)),
        }
    }
}

fn failed(path: &[u8], errno: Errno) -> StoreError {
    let path = if path.is_empty() { "the store's root".to_owned() } else { String::from_utf8_lossy(path).into_owned() };
    match errno {
        Errno::ACCESS | Errno::PERM => StoreError::AccessDenied { place: path, action: "list", detail: errno.to_string() },
        _ => StoreError::Io { action: "list", path, source: errno.into() },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn all(root: &Path, prefix: &str, limit: usize, depth: Depth) -> Vec<String> {
        let at = rustix::fs::open(root, DIRECTORY, Mode::empty()).unwrap();
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let page = list(at.as_fd(), prefix.as_bytes(), after.as_deref(), limit, depth).unwrap();
            assert!(page.entries.len() <= limit);
            keys.extend(page.entries.iter().map(|entry| String::from_utf8_lossy(entry.key()).into_owned()));
            match page.next {
                None => return keys,
                next => assert!(next > std::mem::replace(&mut after, next.clone()), "no progress at {next:?}"),
            }
        }
    }

    #[test]
    fn empty_directories_by_the_thousand_do_not_end_a_listing_and_do_not_hold_it_up() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..=DIRECTORIES_MAX {
            std::fs::create_dir(root.path().join(format!("d{number:05}"))).unwrap();
        }
        std::fs::write(root.path().join("d04096/last"), b"").unwrap();
        let at = rustix::fs::open(root.path(), DIRECTORY, Mode::empty()).unwrap();
        let first = list(at.as_fd(), b"", None, 10, Depth::All).unwrap();
        assert_eq!(first, Listing { entries: Vec::new(), next: Some(b"d04096/".to_vec()) });
        assert_eq!(all(root.path(), "", 10, Depth::All), ["d04096/last"]);
    }

    #[test]
    fn the_order_is_that_of_whole_keys() {
        let root = tempfile::tempdir().unwrap();
        let mut keys = ["a-b", "a.b/x", "a/-", "a/b/c", "a/b-c", "a0", "b/a", "\u{fc}/\u{df}", "a/b0/z"].map(str::to_owned);
        for key in &keys {
            let path = root.path().join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, key).unwrap();
        }
        keys.sort_unstable();
        for limit in 1..=keys.len() + 1 {
            assert_eq!(all(root.path(), "", limit, Depth::All), keys, "pages of {limit}");
            let below = |prefix: &str| keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect::<Vec<_>>();
            for prefix in ["a", "a/", "a/b", "a/b/", "a.", "b/a", "b/ab", "\u{fc}", "no/", "/", "a//", "../", "a/../", "./"] {
                assert_eq!(all(root.path(), prefix, limit, Depth::All), below(prefix), "{prefix} in pages of {limit}");
            }
            assert_eq!(all(root.path(), "", limit, Depth::OneLevel), ["a-b", "a.b/", "a/", "a0", "b/", "\u{fc}/"]);
            assert_eq!(all(root.path(), "a/b", limit, Depth::OneLevel), ["a/b-c", "a/b/", "a/b0/"]);
        }
    }
}
