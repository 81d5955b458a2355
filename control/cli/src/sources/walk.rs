//! Looks at directories and what is in them.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tradewind_client::{Fingerprint, Source, SourceError, SourceKind, fingerprint};

use super::{Plan, Root, Walked, check_file, check_name, join};
use crate::links;

/// A directory that is yet to be read.
pub(super) struct Open {
    pub(super) path: PathBuf,
    /// What stands before the names of its contents.
    prefix: Vec<u8>,
    /// Device and inode of it and of all above it, where links are followed: a link to one of them leads in a circle.
    above: Vec<(u64, u64)>,
}

/// A directory that is being gone through.
struct Current {
    directory: Open,
    names: std::vec::IntoIter<OsString>,
    inside: Vec<Open>,
}

/// Looks at what a [`Plan`] names and what directories hold; for any number of threads.
pub(super) struct Finder {
    pub(super) plan: Arc<Plan>,
    /// Names given so far, where two sources may get the same.
    seen: Option<Mutex<HashSet<Fingerprint>>>,
}

/// What something turned out to be.
pub(super) enum Looked {
    Found(Walked),
    /// To be read later.
    Directory(Open),
    /// Left out as a whole.
    Nothing,
}

/// Walks the sources of a [`Plan`]. Holds the names of one directory at a time.
pub(crate) struct Walk {
    finder: Finder,
    next_root: usize,
    open: Vec<Open>,
    current: Option<Current>,
}

impl Iterator for Walk {
    type Item = Walked;

    fn next(&mut self) -> Option<Walked> {
        loop {
            let looked = if let Some(current) = &mut self.current {
                let Some(name) = current.names.next() else {
                    self.open.extend(self.current.take()?.inside.into_iter().rev());
                    continue;
                };
                self.finder.entry(&current.directory, &name)
            } else if let Some(directory) = self.open.pop() {
                match enter(&directory.path) {
                    Ok(names) => {
                        self.current = Some(Current { directory, names: names.into_iter(), inside: Vec::new() });
                        continue;
                    }
                    Err(error) => Looked::Found(Walked::Failed(error)),
                }
            } else {
                let root = self.finder.plan.roots.get(self.next_root)?;
                self.next_root += 1;
                self.finder.root(root)
            };
            match (looked, &mut self.current) {
                (Looked::Found(walked), _) => return Some(walked),
                (Looked::Directory(directory), Some(current)) => current.inside.push(directory),
                (Looked::Directory(directory), None) => self.open.push(directory),
                (Looked::Nothing, _) => {}
            }
        }
    }
}

impl Walk {
    pub(super) fn new(plan: Arc<Plan>) -> Self {
        Self { finder: Finder::new(plan), next_root: 0, open: Vec::new(), current: None }
    }
}

/// The names in a directory, sorted.
pub(super) fn enter(directory: &Path) -> Result<Vec<OsString>, SourceError> {
    let read = || -> io::Result<Vec<OsString>> { fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect() };
    let mut names = read().map_err(|source| SourceError::Read { path: directory.to_owned(), source })?;
    names.sort_unstable();
    Ok(names)
}

impl Finder {
    pub(super) fn new(plan: Arc<Plan>) -> Self {
        let seen = plan.may_clash.then(Mutex::default);
        Self { plan, seen }
    }

    /// A source that was named, as it will be called.
    pub(super) fn root(&self, root: &Root) -> Looked {
        let (path, name) = (root.path.clone(), root.name.clone());
        self.sealed(match root.metadata() {
            Ok(metadata) if root.is_link => Looked::Found(self.found(Source::link(path, name), &metadata)),
            Ok(metadata) if metadata.is_dir() => {
                let above = if self.plan.selection.follows_links() { vec![identity(&metadata)] } else { Vec::new() };
                Looked::Directory(Open { path, prefix: name, above })
            }
            Ok(metadata) => Looked::Found(self.found(Source::file(path, name), &metadata)),
            Err(error) => Looked::Found(Walked::Failed(error)),
        })
    }

    /// An entry of a directory, as it will be called.
    pub(super) fn entry(&self, directory: &Open, name: &OsStr) -> Looked {
        self.sealed(self.look(directory, name))
    }

    fn sealed(&self, looked: Looked) -> Looked {
        match (looked, &self.plan.seal) {
            (Looked::Found(walked), Some(seal)) => Looked::Found(seal.sealed(walked)),
            (looked, _) => looked,
        }
    }

    fn look(&self, directory: &Open, name: &OsStr) -> Looked {
        let selection = &self.plan.selection;
        let path = directory.path.join(name);
        let name = join(&directory.prefix, name);
        let itself = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Looked::Found(skipped(&path, "it vanished while the directory was read"));
            }
            Err(source) => return Looked::Found(Walked::Failed(SourceError::Read { path, source })),
        };
        let metadata = match itself.is_symlink() {
            true if selection.copies_links() => return Looked::Found(self.link(path, &name, &itself)),
            true if !selection.follows_links() => return Looked::Found(skipped(&path, kind_name(itself.file_type()))),
            true => match fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) => return Looked::Found(skipped(&path, &format!("a symbolic link that leads nowhere: {error}"))),
            },
            false => itself,
        };
        if metadata.is_file() {
            return Looked::Found(self.found(Source::file(path, name), &metadata));
        }
        if !metadata.is_dir() {
            return Looked::Found(skipped(&path, kind_name(metadata.file_type())));
        }
        if directory.above.contains(&identity(&metadata)) {
            return Looked::Found(skipped(&path, "a symbolic link to a directory that it is in"));
        }
        if selection.enters(&name) {
            let mut above = directory.above.clone();
            if selection.follows_links() {
                above.push(identity(&metadata));
            }
            return Looked::Directory(Open { path, prefix: name, above });
        }
        Looked::Nothing
    }

    /// A link of this name that is sent itself.
    fn link(&self, path: PathBuf, name: &[u8], itself: &Metadata) -> Walked {
        let (beside, name) = (links::suffixed(&path), [name, links::SUFFIX].concat());
        if fs::symlink_metadata(&beside).is_ok_and(|beside| !beside.is_symlink()) {
            let (name, reason) = (String::from_utf8_lossy(&name).into_owned(), format!("{} has this name already", beside.display()));
            return Walked::Failed(SourceError::Name { path, name, reason });
        }
        self.found(Source::link(path, name), itself)
    }

    fn found(&self, source: Source, metadata: &Metadata) -> Walked {
        // Patterns are written for the names that links have here.
        let (checked, selected) = match source.kind {
            SourceKind::File => (check_file(&source.path, &source.name, metadata), source.name.as_slice()),
            SourceKind::Link => (check_name(&source.path, &source.name), links::link_name(&source.name).unwrap_or(&source.name)),
        };
        if !self.plan.selection.takes(selected, metadata) {
            return Walked::Unselected;
        }
        if let Err(error) = checked {
            return Walked::Failed(error);
        }
        let seen = self.seen.as_ref().map(|seen| seen.lock().unwrap_or_else(PoisonError::into_inner));
        if seen.is_some_and(|mut seen| !seen.insert(fingerprint(&source.name, 0, 0))) {
            let (path, name) = (source.path, String::from_utf8_lossy(&source.name).into_owned());
            return Walked::Failed(SourceError::Name { path, name, reason: "another source has this name already".to_owned() });
        }
        Walked::File { source: source.seen(metadata), bytes: metadata.len() }
    }
}

fn skipped(path: &Path, why: &str) -> Walked {
    Walked::Skipped(format!("skipped {} ({why})", path.display()))
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn kind_name(kind: FileType) -> &'static str {
    if kind.is_symlink() {
        "a symbolic link; --symlinks copy sends it, --symlinks follow what it points to"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "no regular file"
    }
}
