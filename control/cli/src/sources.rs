//! From arguments to files and their names at the destination, one after the other as they are found. See `tradewind send --help` for the
//! rules.

mod parallel;
mod walk;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use tradewind_api::limits::{DESTINATION_BYTES_MAX, PATH_COMPONENT_BYTES_MAX};
use tradewind_api::{DestinationUrl, ErrorCode, exit, last_part};
use tradewind_client::{Source, SourceError};

use crate::failure::Failure;
use crate::links;
use crate::lists::{self, ListOptions};
use crate::seal::SealPlan;
use crate::select::Selection;
pub(crate) use parallel::{NAMES_AT_ONCE, walk_with};
pub(crate) use walk::Walk;

/// A file or directory that is to be sent.
#[derive(Debug, Clone)]
struct Root {
    path: PathBuf,
    /// A file's name at the destination; what stands before the names of a directory's contents, empty for "contents only".
    name: Vec<u8>,
    /// A symbolic link that is sent itself.
    is_link: bool,
}

/// What is to be sent, as the user says it.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where to.
    pub(crate) destination: DestinationUrl,
    roots: Vec<Root>,
    selection: Selection,
    /// Two sources might get the same name.
    may_clash: bool,
    /// How files are sealed, if they are.
    pub(crate) seal: Option<SealPlan>,
}

/// Something that was found.
#[derive(Debug)]
pub(crate) enum Walked {
    /// A file to be sent.
    File {
        /// Where it is and what it is called.
        source: Source,
        /// Its size, bytes.
        bytes: u64,
    },
    /// What is not sent by its nature, and why.
    Skipped(String),
    /// The selection leaves it out. What is in directories that it leaves out whole is not seen.
    Unselected,
    /// What should be sent and cannot be.
    Failed(SourceError),
}

impl Plan {
    /// Checks that the arguments and what the lists name exist, and the rules for names.
    ///
    /// # Errors
    /// [`Failure::Usage`], [`Failure::Source`], [`Failure::Local`] for a list that cannot be read.
    pub(crate) fn new(arguments: &[PathBuf], lists: &ListOptions, destination: &str, selection: Selection) -> Result<Self, Failure> {
        let url = DestinationUrl::parse(destination).map_err(|error| Failure::Usage {
            detail: error.to_string(),
            hint: "see the destinations in `tradewind send --help`".to_owned(),
        })?;
        let base = lists.src_base.as_deref();
        let mut roots = arguments.iter().map(|path| Root::new(path.clone(), base)).collect::<Result<Vec<_>, _>>()?;
        for list in &lists.file_list {
            for line in lists::read(list)?.into_iter().filter(|line| !line.is_empty()) {
                roots.push(Root::new(line.into(), base)?);
            }
        }
        for list in &lists.file_pair_list {
            roots.extend(lists::read_pairs(list)?.into_iter().map(|(path, name)| Root { path, name, is_link: false }));
        }
        if roots.is_empty() {
            return Err(Failure::Usage {
                detail: "there is nothing to send".to_owned(),
                hint: "name files or directories, or give --file-list or --file-pair-list".to_owned(),
            });
        }
        let names_one_file = url.names_one_file();
        let (mut names, mut directories) = (HashSet::new(), 0);
        for root in &mut roots {
            root.is_link = selection.copies_links() && fs::symlink_metadata(&root.path).is_ok_and(|itself| itself.is_symlink());
            if root.is_link {
                root.name.extend_from_slice(links::SUFFIX);
            }
        }
        for root in &roots {
            let metadata = root.metadata()?;
            if names_one_file && (metadata.is_dir() || roots.len() > 1) {
                let what = if metadata.is_dir() { "a directory" } else { "several files" };
                return Err(Failure::Usage {
                    detail: format!("{what} cannot be sent to the one name '{destination}'"),
                    hint: format!("end the destination with a slash: {destination}/"),
                });
            }
            if metadata.is_dir() {
                directories += 1;
                fs::read_dir(&root.path).map_err(|source| Failure::Walk { path: root.path.clone(), source })?;
            } else if root.is_link {
                check_name(&root.path, &root.name)?;
            } else {
                check_file(&root.path, &root.name, &metadata)?;
            }
            if !names.insert(root.name.as_slice()) && !metadata.is_dir() {
                let name = String::from_utf8_lossy(&root.name);
                return Err(Failure::Usage {
                    detail: format!("{} and another source would both be stored as '{name}'", root.path.display()),
                    hint: "send them to different destinations, or name them by their paths with --src-base".to_owned(),
                });
            }
        }
        // Two trees whose names begin differently have no name in common.
        let tops: HashSet<_> = roots.iter().map(|root| root.name.split(|&byte| byte == b'/').next().unwrap_or_default()).collect();
        let may_clash = directories > 0 && roots.len() > 1 && (tops.len() < roots.len() || tops.contains(&b""[..]));
        if let [root] = &mut roots[..]
            && names_one_file
        {
            // So both ends mean the same name when they speak of what is durable.
            root.name = last_part(destination).as_bytes().to_vec();
        }
        Ok(Self { destination: url, roots, selection, may_clash, seal: None })
    }

    /// The sources as they were given, for messages.
    pub(crate) fn places(&self) -> String {
        let names: Vec<_> = self.roots.iter().take(5).map(|root| root.path.display().to_string()).collect();
        let more = if self.roots.len() > names.len() { format!(" and {} more", self.roots.len() - names.len()) } else { String::new() };
        names.join(", ") + &more
    }

    /// Walks everything, depth first, in the order of names.
    pub(crate) fn walk(self: &Arc<Self>) -> Walk {
        Walk::new(Arc::clone(self))
    }
}

impl Root {
    fn new(path: PathBuf, base: Option<&Path>) -> Result<Self, Failure> {
        let text = path.as_os_str().as_bytes();
        let last = text.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let name = match base {
            Some(base) => name_from(&path, base)?,
            // "DIR/", "DIR/." and so on: the contents only.
            None if matches!(last, b"" | b"." | b"..") && !path.is_file() => Vec::new(),
            None => path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default(),
        };
        Ok(Self { path, name, is_link: false })
    }

    fn metadata(&self) -> Result<Metadata, SourceError> {
        let metadata = if self.is_link { fs::symlink_metadata(&self.path) } else { fs::metadata(&self.path) };
        metadata.map_err(|source| SourceError::Read { path: self.path.clone(), source })
    }
}

/// The path from `base` on.
fn name_from(path: &Path, base: &Path) -> Result<Vec<u8>, Failure> {
    let rest = path.strip_prefix(base).map_err(|_| Failure::Usage {
        detail: format!("{} is not below --src-base {}", path.display(), base.display()),
        hint: "write both as absolute paths, or both relative to the same directory".to_owned(),
    })?;
    let plain = rest.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(Failure::Usage {
            detail: format!("{} has '..' behind --src-base", path.display()),
            hint: "write the path without '..'".to_owned(),
        });
    }
    let mut name = Vec::new();
    for component in rest.components().filter(|component| matches!(component, Component::Normal(_))) {
        name = join(&name, component.as_os_str());
    }
    Ok(name)
}

fn join(prefix: &[u8], name: &OsStr) -> Vec<u8> {
    let mut joined = prefix.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name.as_bytes());
    joined
}

/// What can be said against a file without opening it.
fn check_file(path: &Path, name: &[u8], metadata: &Metadata) -> Result<(), SourceError> {
    if !metadata.is_file() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    check_name(path, name)?;
    rustix::fs::access(path, rustix::fs::Access::READ_OK)
        .map_err(|source| SourceError::Read { path: path.to_owned(), source: source.into() })
}

/// Limits that hold for every store; what else a store does not like it says itself.
pub(crate) fn check_name(path: &Path, name: &[u8]) -> Result<(), SourceError> {
    let reason = if name.is_empty() {
        "it has no name".to_owned()
    } else if name.len() > DESTINATION_BYTES_MAX {
        format!("the name has {} bytes, {DESTINATION_BYTES_MAX} are allowed", name.len())
    } else if name.split(|&byte| byte == b'/').any(|component| component.len() > PATH_COMPONENT_BYTES_MAX) {
        format!("a component has more than {PATH_COMPONENT_BYTES_MAX} bytes")
    } else {
        return Ok(());
    };
    Err(SourceError::Name { path: path.to_owned(), name: String::from_utf8_lossy(name).into_owned(), reason })
}

const _: () = assert!(ErrorCode::SourceUnreadable.exit_code() == exit::SOURCE);

#[cfg(test)]
mod tests;
