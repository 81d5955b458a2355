//! Symbolic links as files: NAME.rclonelink holds what NAME points to, as rclone writes and reads it with `--links`.
//!
//! What is got may come from anybody. So links are made behind all files, when nothing is written below them any more; none is made that leads
//! out of the directory; and none takes the place of something else than a link.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use serde_json::json;

use crate::events;

/// What stands behind a link's name.
pub(crate) const SUFFIX: &[u8] = b".rclonelink";

/// Longest target, bytes: PATH_MAX in linux/limits.h without its NUL.
pub(crate) const TARGET_BYTES_MAX: u64 = 4095;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The name of the link that a file of this name stands for, if it does.
pub(crate) fn link_name(name: &[u8]) -> Option<&[u8]> {
    name.strip_suffix(SUFFIX)
}

/// What a link is called as a file.
pub(crate) fn suffixed(link: &Path) -> PathBuf {
    let mut name = link.as_os_str().to_owned();
    name.push(OsStr::from_bytes(SUFFIX));
    name.into()
}

/// A file that no link was made of: its path below the directory, and why.
pub(crate) type NotMade = (Vec<u8>, String);

/// Files of one command that are to become links.
#[derive(Debug)]
pub(crate) struct Links {
    /// The directory that files were got into.
    root: PathBuf,
    /// The one file, if its name was given.
    exact: Option<String>,
    /// Links may be replaced.
    overwrite: bool,
    /// Links get the owner of their files.
    owners: bool,
    noted: Mutex<BTreeSet<Vec<u8>>>,
}

impl Links {
    /// `exact` is what the one file is called, whatever its object is.
    pub(crate) fn new(root: &Path, exact: Option<String>, overwrite: bool, owners: bool) -> Self {
        Self { root: root.to_owned(), exact, overwrite, owners, noted: Mutex::default() }
    }

    /// A file is complete, by its path below the directory; most are no links.
    pub(crate) fn note(&self, path: &[u8]) {
        let path = self.exact.as_ref().map_or(path, |exact| exact.as_bytes());
        if link_name(path).is_some() {
            self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_vec());
        }
    }

    /// Makes links of all files noted, and removes these; blocks. Tells of those that stay files.
    pub(crate) fn make(&self, json: bool) -> Vec<NotMade> {
        let noted = std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut not_made, mut folder) = (Vec::new(), None);
        for path in noted {
            match self.make_one(&path, &mut folder) {
                Ok(Some(target)) if json => {
                    let (path, target) = (String::from_utf8_lossy(link_name(&path).unwrap_or(&path)), String::from_utf8_lossy(&target));
                    events::emit(&json!({ "event": "link", "path": path, "target": target }));
                }
                Ok(_) => {}
                Err(reason) => not_made.push((path, format!("{reason}; it stays a file"))),
            }
        }
        not_made.extend(folder.and_then(|folder: Folder| folder.sync()));
        not_made
    }

    /// The target; `None` if the file is gone.
    fn make_one(&self, path: &[u8], open: &mut Option<Folder>) -> Result<Option<Vec<u8>>, String> {
        let (folder, file) = path.iter().rposition(|&byte| byte == b'/').map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        let name = link_name(file).filter(|name| !matches!(*name, b"" | b"." | b".."));
        let name = name.ok_or("nothing can be called so")?;
        if open.as_ref().is_none_or(|open| open.path != folder) {
            let next = Folder::open(&self.root, folder).map_err(|errno| format!("its directory cannot be opened: {errno}"))?;
            if let Some((_, reason)) = open.replace(next).and_then(|last| last.sync()) {
                return Err(reason);
            }
        }
        let Some(folder) = open else { return Ok(None) };
        let (target, stat) = match read_target(&folder.fd, file) {
            Ok(read) => read,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(format!("it cannot be read as a link's target: {errno}")),
        };
        check_target(&target, folder.depth)?;
        self.link(&folder.fd, name, &target, &stat)?;
        rustix::fs::unlinkat(&folder.fd, file, AtFlags::empty())
            .map_err(|errno| format!("the link was made, but the file cannot be removed: {errno}"))?;
        Ok(Some(target))
    }

    fn link(&self, folder: &OwnedFd, name: &[u8], target: &[u8], like: &Stat) -> Result<(), String> {
        let there = |errno: Errno| match errno {
            Errno::EXIST | Errno::ISDIR => "something else has the link's name; remove that".to_owned(),
            errno => format!("the link cannot be made: {errno}"),
        };
        match rustix::fs::symlinkat(target, folder, name) {
            Ok(()) => self.attributes(folder, name, like),
            Err(Errno::EXIST) => {
                let known = rustix::fs::readlinkat(folder, name, Vec::new()).map_err(|_| there(Errno::EXIST))?;
                if known.as_bytes() == target {
                    return self.attributes(folder, name, like);
                }
                if !self.overwrite {
                    return Err("a link to something else has its name; remove it or give --overwrite".to_owned());
                }
                let beside = format!(".{}.tradewind-link", std::process::id());
                let _ = rustix::fs::unlinkat(folder, &beside, AtFlags::empty());
                rustix::fs::symlinkat(target, folder, &beside).map_err(there)?;
                let set = self.attributes(folder, beside.as_bytes(), like);
                let replaced = set.and_then(|()| rustix::fs::renameat(folder, &beside, folder, name).map_err(there));
                if replaced.is_err() {
                    let _ = rustix::fs::unlinkat(folder, &beside, AtFlags::empty());
                }
                replaced
            }
            Err(errno) => Err(there(errno)),
        }
    }

    /// Gives a link the times and, where that is wanted, the owner of its file.
    fn attributes(&self, folder: &OwnedFd, name: &[u8], like: &Stat) -> Result<(), String> {
        let failed = |errno: Errno| format!("the link's attributes cannot be set: {errno}");
        let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps {
            last_access: time(like.st_atime, like.st_atime_nsec.cast_signed()),
            last_modification: time(like.st_mtime, like.st_mtime_nsec.cast_signed()),
        };
        rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if self.owners {
            let (user, group) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
            rustix::fs::chownat(folder, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        }
        Ok(())
    }
}

/// A directory below the root that no link leads to.
struct Folder {
    fd: OwnedFd,
    path: Vec<u8>,
    /// Directories between it and the root, itself included.
    depth: usize,
}

impl Folder {
    fn open(root: &Path, path: &[u8]) -> Result<Self, Errno> {
        let mut fd = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut depth = 0;
        for component in path.split(|&byte| byte == b'/').filter(|component| !component.is_empty()) {
            if component == b".." {
                return Err(Errno::INVAL);
            }
            fd = rustix::fs::openat(fd, component, DIRECTORY, Mode::empty())?;
            depth += 1;
        }
        Ok(Self { fd, path: path.to_vec(), depth })
    }

    fn sync(self) -> Option<NotMade> {
        let errno = rustix::fs::fsync(&self.fd).err()?;
        Some((self.path, format!("links in it may not be durable: {errno}")))
    }
}

fn read_target(folder: impl AsFd, name: &[u8]) -> Result<(Vec<u8>, Stat), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Errno::INVAL);
    }
    let mut target = Vec::new();
    let read = File::from(file).take(TARGET_BYTES_MAX + 1).read_to_end(&mut target);
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    match target.len() as u64 {
        0 => Err(Errno::INVAL),
        bytes if bytes > TARGET_BYTES_MAX => Err(Errno::NAMETOOLONG),
        _ => Ok((target, stat)),
    }
}

/// Whether a link in a directory `depth` below the root stays below the root. `..` may only stand in front, where it means the real directories
/// above the link: behind a name it would mean whatever is above that name's target, which may be another link.
fn check_target(target: &[u8], depth: usize) -> Result<(), String> {
    let (mut up, mut names) = (0, 0);
    if target.starts_with(b"/") {
        return Err(format!("it points out of the directory: {}", String::from_utf8_lossy(target)));
    }
    for component in target.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if names > 0 => return Err(format!("it points to '..' behind a name: {}", String::from_utf8_lossy(target))),
            b".." => up += 1,
            name if name.contains(&0) => return Err("it holds a NUL".to_owned()),
            _ => names += 1,
        }
    }
    if up > depth {
        return Err(format!("it points out of the directory: {}", String::from_utf8_lossy(target)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn links(root: &Path, overwrite: bool, paths: &[&str]) -> Vec<String> {
        let links = Links::new(root, None, overwrite, false);
        for path in paths {
            links.note(path.as_bytes());
        }
        links.make(false).into_iter().map(|(path, reason)| format!("{}: {reason}", String::from_utf8_lossy(&path))).collect()
    }

    fn file(root: &Path, name: &str, target: &[u8]) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, target).unwrap();
    }

    #[test]
    fn targets_stay_below_the_directory_and_the_next_one_that_does_not_is_refused() {
        for (depth, good, bad) in [
            (0, "a", "/a"),
            (0, ".", ".."),
            (1, "..", "../.."),
            (1, "../x/y", "../../x"),
            (2, "../../.", "../../.."),
            (2, ".././/../a/./b/", "a/.."),
            (2, "..a/b..", "../a/../b"),
            (0, "x", "./../x"),
        ] {
            assert_eq!(check_target(good.as_bytes(), depth), Ok(()), "{good}");
            assert!(check_target(bad.as_bytes(), depth).is_err(), "{bad}");
        }
        assert!(check_target(b"a\0b", 0).is_err());
    }

    #[test]
    fn links_are_made_with_their_times_and_files_that_cannot_be_links_stay() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir(root.join("outside")).unwrap();
        let into = root.join("in");
        for (name, target) in [
            ("ok.rclonelink", &b"d/f"[..]),
            ("d/up.rclonelink", b"../dangling\xff"),
            ("folder.rclonelink", b"d"),
            ("absolute.rclonelink", b"/etc/passwd"),
            ("d/out.rclonelink", b"../../outside"),
            ("d/through.rclonelink", b"up/../.."),
            ("...rclonelink", b"d"),
            (".rclonelink", b"d"),
            ("empty.rclonelink", b""),
            ("long.rclonelink", &[b'x'; 4096]),
            ("d.rclonelink", b"ok"),
            ("taken.rclonelink", b"ok"),
            ("taken", b"contents"),
            ("plain", b"d"),
        ] {
            file(&into, name, target);
        }
        let dated = fs::metadata(into.join("ok.rclonelink")).unwrap();
        let names: Vec<String> =
            ["d/up", "ok", "folder", "absolute", "d/out", "d/through", "..", "", "empty", "long", "d", "taken", "gone"]
                .map(|name| format!("{name}.rclonelink"))
                .into();
        let names: Vec<&str> = names.iter().map(String::as_str).chain(["plain"]).collect();
        let refused = links(&into, true, &names);
        assert_eq!(refused.len(), 9, "{refused:#?}");
        for stays in ["absolute", "d/out", "d/through", "..", "", "empty", "long", "d", "taken"] {
            assert!(into.join(format!("{stays}.rclonelink")).is_file(), "{stays}");
            assert!(refused.iter().any(|line| line.starts_with(&format!("{stays}.rclonelink: "))), "{stays}: {refused:#?}");
        }
        assert_eq!(fs::read_link(into.join("ok")).unwrap(), Path::new("d/f"));
        assert_eq!(fs::read_link(into.join("folder")).unwrap(), Path::new("d"));
        assert_eq!(fs::read_link(into.join("d/up")).unwrap().as_os_str().as_bytes(), b"../dangling\xff");
        let link = fs::symlink_metadata(into.join("ok")).unwrap();
        assert_eq!((link.mtime(), link.mtime_nsec()), (dated.mtime(), dated.mtime_nsec()));
        for made in ["ok", "folder", "d/up"] {
            assert!(!into.join(format!("{made}.rclonelink")).exists(), "{made}");
        }
        assert!(into.join("d").is_dir() && fs::read(into.join("taken")).unwrap() == b"contents");
    }

    #[test]
    fn a_link_is_replaced_only_where_that_is_wanted_and_nothing_is_made_through_one() {
        let root = tempfile::tempdir().unwrap();
        let (into, outside) = (root.path().join("in"), root.path().join("outside"));
        fs::create_dir_all(&outside).unwrap();
        file(&into, "a.rclonelink", b"new");
        symlink("old", into.join("a")).unwrap();
        assert_eq!(links(&into, false, &["a.rclonelink"]).len(), 1);
        assert_eq!(fs::read_link(into.join("a")).unwrap(), Path::new("old"));
        assert_eq!(links(&into, true, &["a.rclonelink"]), [""; 0]);
        assert_eq!(fs::read_link(into.join("a")).unwrap(), Path::new("new"));
        // The same again, as after a run that was cut off.
        file(&into, "a.rclonelink", b"new");
        assert_eq!(links(&into, false, &["a.rclonelink"]), [""; 0]);
        assert_eq!(fs::read_dir(&into).unwrap().count(), 1);
        // A directory that is a link, and a file that is one.
        symlink(&outside, into.join("through")).unwrap();
        fs::write(outside.join("x.rclonelink"), "y").unwrap();
        symlink(outside.join("x.rclonelink"), into.join("z.rclonelink")).unwrap();
        let refused = links(&into, true, &["through/x.rclonelink", "z.rclonelink", "../outside/x.rclonelink"]);
        assert_eq!((refused.len(), fs::read_dir(&outside).unwrap().count()), (3, 1), "{refused:?}");
    }

    #[test]
    fn the_one_file_is_known_by_the_name_that_it_was_given() {
        let root = tempfile::tempdir().unwrap();
        file(root.path(), "mine.rclonelink", b"target");
        let links = Links::new(root.path(), Some("mine.rclonelink".to_owned()), false, false);
        links.note(b"theirs");
        assert!(links.make(false).is_empty());
        assert_eq!(fs::read_link(root.path().join("mine")).unwrap(), Path::new("target"));
    }
}
