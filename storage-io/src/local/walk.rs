//! From a root directory to the directory of a file, without ever leaving the root.
//!
//! Every component is opened by itself, relative to the one before, with `O_NOFOLLOW | O_DIRECTORY`: a symbolic link anywhere
//! on the way is refused, and [`ObjectKey`] has no "..". That is what `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)` does,
//! and it also works where a sandbox or an old kernel has no `openat2`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use crate::error::StoreError;
use crate::store::ObjectKey;

pub(super) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory that holds `key`, and the name in it. With `create`, missing directories are made (mode 0777 minus umask)
/// and made durable; without, `None` says that one is missing, or
/// a link or a file, behind which no object of ours is.
pub(super) fn parent<'k>(root: BorrowedFd<'_>, key: &'k ObjectKey, create: bool) -> Result<Option<(OwnedFd, &'k [u8])>, StoreError> {
    let mut folders = key.components();
    // A key has at least one component.
    let name = folders.next_back().unwrap_or_default();
    let mut at = root.try_clone_to_owned().map_err(|source| StoreError::Io { action: "open", path: key.to_string(), source })?;
    for folder in folders {
        at = match openat(&at, folder, DIRECTORY, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) if !create => return Ok(None),
            Err(Errno::NOENT) => make(at.as_fd(), folder).map_err(|errno| failed("make the directory of", key, errno))?,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let reason = "a directory on its way is a symbolic link or a file";
                return Err(StoreError::InvalidName { name: key.to_string(), reason });
            }
            Err(errno) => return Err(failed("open the directory of", key, errno)),
        };
    }
    Ok(Some((at, name)))
}

fn make(at: BorrowedFd<'_>, folder: &[u8]) -> Result<OwnedFd, Errno> {
    match mkdirat(at, folder, Mode::from_raw_mode(0o777)) {
        Ok(()) => rustix::fs::fsync(at)?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    openat(at, folder, DIRECTORY, Mode::empty())
}

/// A directory has the name of a file; it is never replaced.
pub(super) fn is_directory(key: &ObjectKey) -> StoreError {
    StoreError::InvalidName { name: key.to_string(), reason: "a directory has that name" }
}

/// The store's error for what the kernel said about `key`.
pub(super) fn failed(action: &'static str, key: &ObjectKey, errno: Errno) -> StoreError {
    let path = key.to_string();
    match errno {
        Errno::NOSPC | Errno::DQUOT => {
            StoreError::Full { place: "the target file system".to_owned(), detail: format!("no room to {action} {path}") }
        }
        Errno::ISDIR => is_directory(key),
        Errno::ACCESS | Errno::PERM => StoreError::AccessDenied { place: path, action, detail: errno.to_string() },
        Errno::EXIST => StoreError::DestinationExists { object: path },
        Errno::NAMETOOLONG => StoreError::InvalidName { name: path, reason: "the file system takes no name of that length" },
        _ => StoreError::Io { action, path, source: errno.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn directories_are_made_on_demand_and_links_are_not_followed() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = rustix::fs::open(root.path(), DIRECTORY, Mode::empty()).unwrap();
        assert!(parent(at.as_fd(), &key("a/b/c"), false).unwrap().is_none());
        let wanted = key("a/b/c");
        assert_eq!(parent(at.as_fd(), &wanted, true).unwrap().unwrap().1, b"c");
        assert!(root.path().join("a/b").is_dir());
        std::os::unix::fs::symlink(outside.path(), root.path().join("way")).unwrap();
        std::os::unix::fs::symlink("b", root.path().join("a/inner")).unwrap();
        std::fs::write(root.path().join("file"), b"").unwrap();
        for bad in ["way/x", "way/y/x", "a/inner/x", "file/x"] {
            let key = key(bad);
            let result = parent(at.as_fd(), &key, true);
            assert!(matches!(result, Err(StoreError::InvalidName { .. })), "{bad}: {result:?}");
            assert!(parent(at.as_fd(), &key, false).unwrap().is_none(), "{bad}");
        }
        assert_eq!(outside.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn no_room_is_a_name_of_its_own() {
        assert!(matches!(failed("write", &key("k"), Errno::NOSPC), StoreError::Full { .. }));
        assert!(matches!(failed("write", &key("k"), Errno::DQUOT), StoreError::Full { .. }));
        assert!(matches!(failed("write", &key("k"), Errno::IO), StoreError::Io { .. }));
    }
}
