//! From arguments to a list of files and their names at the destination. See `tradewind send --help` for the rules.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, FileType, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tradewind_api::limits::{DESTINATION_BYTES_MAX, PATH_COMPONENT_BYTES_MAX};
use tradewind_api::{DestinationUrl, ErrorCode, exit};
use tradewind_client::{Source, SourceError};

use crate::failure::Failure;
use crate::select::Selection;

/// What is to be sent.
#[derive(Debug)]
pub(crate) struct Collected {
    /// Where to.
    pub(crate) destination: DestinationUrl,
    /// Files in the order of sending.
    pub(crate) sources: Vec<Source>,
    /// Sum of their sizes, bytes.
    pub(crate) bytes: u64,
    /// What could not be sent, and why.
    pub(crate) skipped: Vec<String>,
    /// Files that the selection leaves out; what is in directories that it leaves out whole is not counted.
    pub(crate) unselected: u64,
}

/// A directory that is yet to be read.
struct Open {
    path: PathBuf,
    /// What stands before the names of its contents.
    prefix: Vec<u8>,
    /// Device and inode of it and of all above it, where links are followed: a link to one of them leads in a circle.
    above: Vec<(u64, u64)>,
}

/// Checks that all arguments can be read, walks the directories and gives every selected file its name.
pub(crate) fn collect(arguments: &[PathBuf], destination: &str, selection: &Selection) -> Result<Collected, Failure> {
    let url = DestinationUrl::parse(destination).map_err(|error| Failure::Usage {
        detail: error.to_string(),
        hint: "see the destinations in `tradewind send --help`".to_owned(),
    })?;
    let (names_one_file, sources, skipped) = (url.names_one_file(), Vec::new(), Vec::new());
    let mut collected = Collected { destination: url, sources, bytes: 0, skipped, unselected: 0 };
    for argument in arguments {
        let metadata = fs::metadata(argument).map_err(|source| SourceError::Read { path: argument.clone(), source })?;
        if names_one_file && (metadata.is_dir() || arguments.len() > 1) {
            let what = if metadata.is_dir() { "a directory" } else { "several files" };
            return Err(Failure::Usage {
                detail: format!("{what} cannot be sent to the one name '{destination}'"),
                hint: format!("end the destination with a slash: {destination}/"),
            });
        }
        if metadata.is_dir() {
            let prefix = directory_prefix(argument);
            collected.walk(argument, &prefix, selection)?;
        } else {
            let name = argument.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
            collected.add(argument.clone(), name, &metadata, selection)?;
        }
    }
    if collected.sources.is_empty() {
        let names: Vec<_> = arguments.iter().map(|path| path.display().to_string()).collect();
        return Err(Failure::NoFiles { places: names.join(", "), unselected: collected.unselected });
    }
    collected.check_names()?;
    Ok(collected)
}

/// What stands before the names of a directory's contents: its own name, unless the argument says "contents only".
fn directory_prefix(argument: &Path) -> Vec<u8> {
    let text = argument.as_os_str().as_bytes();
    let last = text.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    if matches!(last, b"" | b"." | b"..") { Vec::new() } else { last.to_vec() }
}

fn join(prefix: &[u8], name: &OsStr) -> Vec<u8> {
    let mut joined = prefix.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name.as_bytes());
    joined
}

impl Collected {
    fn add(&mut self, path: PathBuf, name: Vec<u8>, metadata: &Metadata, selection: &Selection) -> Result<(), Failure> {
        if !metadata.is_file() {
            return Err(SourceError::NotAFile { path }.into());
        }
        if !selection.takes(&name, metadata) {
            self.unselected += 1;
            return Ok(());
        }
        check_name(&path, &name)?;
        // A file that cannot be opened is found now, not after an hour of sending others.
        rustix::fs::access(&path, rustix::fs::Access::READ_OK)
            .map_err(|source| SourceError::Read { path: path.clone(), source: source.into() })?;
        self.bytes = self.bytes.saturating_add(metadata.len());
        self.sources.push(Source { path, name });
        Ok(())
    }

    /// Depth first, in the order of names.
    fn walk(&mut self, directory: &Path, prefix: &[u8], selection: &Selection) -> Result<(), Failure> {
        let fail = |path: &Path, source| Failure::Walk { path: path.to_owned(), source };
        let above = if selection.follows_links() {
            vec![identity(&fs::metadata(directory).map_err(|error| fail(directory, error))?)]
        } else {
            vec![]
        };
        let mut open = vec![Open { path: directory.to_owned(), prefix: prefix.to_vec(), above }];
        while let Some(directory) = open.pop() {
            let entries = fs::read_dir(&directory.path).and_then(Iterator::collect);
            let mut entries: Vec<_> = entries.map_err(|error| fail(&directory.path, error))?;
            entries.sort_by_key(fs::DirEntry::file_name);
            let mut inside = Vec::new();
            for entry in entries {
                let path = entry.path();
                let name = join(&directory.prefix, &entry.file_name());
                let kind = entry.file_type().map_err(|error| fail(&path, error))?;
                if kind.is_symlink() && !selection.follows_links() {
                    self.skip(&path, kind_name(kind));
                    continue;
                }
                // Of what a link points to, and of nothing else that has become a link meanwhile.
                let metadata = if kind.is_symlink() { fs::metadata(&path) } else { entry.metadata() };
                let metadata = match metadata {
                    Ok(metadata) => metadata,
                    Err(error) if kind.is_symlink() => {
                        self.skip(&path, &format!("a symbolic link that leads nowhere: {error}"));
                        continue;
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        self.skip(&path, "it vanished while the directory was read");
                        continue;
                    }
                    Err(error) => return Err(fail(&path, error)),
                };
                if metadata.is_file() {
                    self.add(path, name, &metadata, selection)?;
                } else if !metadata.is_dir() {
                    self.skip(&path, kind_name(metadata.file_type()));
                } else if directory.above.contains(&identity(&metadata)) {
                    self.skip(&path, "a symbolic link to a directory that it is in");
                } else if selection.enters(&name) {
                    let mut above = directory.above.clone();
                    if selection.follows_links() {
                        above.push(identity(&metadata));
                    }
                    inside.push(Open { path, prefix: name, above });
                }
            }
            open.extend(inside.into_iter().rev());
        }
        Ok(())
    }

    fn skip(&mut self, path: &Path, why: &str) {
        self.skipped.push(format!("skipped {} ({why})", path.display()));
    }

    fn check_names(&self) -> Result<(), Failure> {
        let mut seen: HashMap<&[u8], &Path> = HashMap::with_capacity(self.sources.len());
        for source in &self.sources {
            if let Some(first) = seen.insert(&source.name, &source.path) {
                let name = String::from_utf8_lossy(&source.name);
                return Err(Failure::Usage {
                    detail: format!("{} and {} would both be stored as '{name}'", first.display(), source.path.display()),
                    hint: "send them to different destinations".to_owned(),
                });
            }
        }
        Ok(())
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Limits that hold for every store; what else a store does not like it says itself.
fn check_name(path: &Path, name: &[u8]) -> Result<(), SourceError> {
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

fn kind_name(kind: FileType) -> &'static str {
    if kind.is_symlink() {
        "a symbolic link; --symlinks follow sends what it points to"
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

const _: () = assert!(ErrorCode::SourceUnreadable.exit_code() == exit::SOURCE);

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::select::tests::options;
    use crate::select::{SelectOptions, Symlinks};

    fn everything() -> Selection {
        Selection::new(&options(&[], &[])).unwrap()
    }

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, bytes) in [("one", 1), ("d/b", 10), ("d/a/x", 100), ("d/c", 1000), ("e/b", 5)] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; bytes]).unwrap();
        }
        root
    }

    fn names(root: &Path, arguments: &[&str], destination: &str) -> Result<Vec<String>, Failure> {
        let arguments: Vec<PathBuf> = arguments.iter().map(|name| PathBuf::from(format!("{}/{name}", root.display()))).collect();
        let collected = collect(&arguments, destination, &everything())?;
        Ok(collected.sources.into_iter().map(|source| String::from_utf8(source.name).unwrap()).collect())
    }

    #[test]
    fn naming_rules() {
        let tree = tree();
        let root = tree.path();
        for (arguments, destination, expected) in [
            (&["one"][..], "s3://bucket/in/", &["one"][..]),
            (&["one"], "s3://bucket/in/exactly", &["one"]),
            (&["one"], "s3://bucket", &["one"]),
            (&["d"], "s3://bucket/in/", &["d/b", "d/c", "d/a/x"]),
            (&["d/"], "s3://bucket/in/", &["b", "c", "a/x"]),
            (&["d/."], "file:///data/", &["b", "c", "a/x"]),
            (&["d/a/.."], "store:", &["b", "c", "a/x"]),
            (&["one", "d", "e/b"], "store:in/", &["one", "d/b", "d/c", "d/a/x", "b"]),
        ] {
            assert_eq!(names(root, arguments, destination).unwrap(), expected, "{arguments:?} {destination}");
        }
    }

    #[test]
    fn one_name_is_for_one_file() {
        let tree = tree();
        for arguments in [&["d"][..], &["d/"], &["one", "e/b"]] {
            let error = names(tree.path(), arguments, "s3://bucket/name").unwrap_err();
            assert_eq!(error.exit_code(), exit::USAGE, "{error}");
            assert!(error.hint().unwrap().contains("s3://bucket/name/"), "{error:?}");
        }
    }

    #[test]
    fn two_files_of_one_name_are_refused() {
        let tree = tree();
        for arguments in [&["d/b", "e/b"][..], &["d/", "e/"], &["one", "one"]] {
            let error = names(tree.path(), arguments, "s3://bucket/").unwrap_err();
            assert_eq!(error.exit_code(), exit::USAGE, "{error}");
        }
        assert!(names(tree.path(), &["d", "e"], "s3://bucket/").is_ok());
    }

    #[test]
    fn sources_that_cannot_be_read_end_with_their_exit_code() {
        let tree = tree();
        fs::create_dir(tree.path().join("empty")).unwrap();
        for argument in ["missing", "one/", "empty"] {
            let error = names(tree.path(), &[argument], "s3://bucket/").unwrap_err();
            assert_eq!(error.exit_code(), exit::SOURCE, "{argument}: {error}");
        }
        assert_eq!(names(tree.path(), &["one"], "nowhere").unwrap_err().exit_code(), exit::USAGE);
    }

    #[test]
    fn links_and_special_files_are_skipped_and_named() {
        let tree = tree();
        let root = tree.path();
        std::os::unix::fs::symlink("b", root.join("d/link")).unwrap();
        std::os::unix::fs::symlink("..", root.join("d/up")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("d/socket")).unwrap();
        let collected = collect(&[root.join("d")], "s3://bucket/", &everything()).unwrap();
        assert_eq!((collected.sources.len(), collected.bytes), (3, 1110));
        assert_eq!(collected.skipped.len(), 3, "{:?}", collected.skipped);
        assert!(collected.skipped.iter().any(|note| note.contains("d/socket (a socket)")));
        // Named on the command line, a link is followed and keeps its own name.
        assert_eq!(names(root, &["d/link"], "s3://bucket/").unwrap(), ["link"]);
        assert_eq!(collect(&[root.join("d/socket")], "s3://bucket/", &everything()).unwrap_err().exit_code(), exit::SOURCE);
    }

    #[test]
    fn names_are_bytes() {
        let root = tempfile::tempdir().unwrap();
        let odd = std::ffi::OsString::from_vec(b"caf\xe9 \n".to_vec());
        fs::write(root.path().join(&odd), "x").unwrap();
        let mut directory = root.path().as_os_str().to_owned();
        directory.push("/");
        let collected = collect(&[directory.into()], "s3://bucket/", &everything()).unwrap();
        assert_eq!(collected.sources[0].name, b"caf\xe9 \n");
    }

    #[test]
    fn links_are_followed_when_asked_for_and_not_in_circles() {
        let tree = tree();
        let root = tree.path();
        std::os::unix::fs::symlink("b", root.join("d/link")).unwrap();
        std::os::unix::fs::symlink("../e", root.join("d/other")).unwrap();
        std::os::unix::fs::symlink("..", root.join("d/a/up")).unwrap();
        std::os::unix::fs::symlink("../d", root.join("e/back")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("d/dangling")).unwrap();
        let follow = Selection::new(&SelectOptions { symlinks: Symlinks::Follow, ..options(&[], &[]) }).unwrap();
        let collected = collect(&[root.join("d")], "s3://bucket/", &follow).unwrap();
        let names: Vec<_> = collected.sources.iter().map(|source| str::from_utf8(&source.name).unwrap()).collect();
        assert_eq!(names, ["d/b", "d/c", "d/link", "d/a/x", "d/other/b"]);
        assert_eq!(collected.bytes, 10 + 1_000 + 10 + 100 + 5);
        let notes = collected.skipped.join("\n");
        assert_eq!(collected.skipped.len(), 3, "{notes}");
        assert!(notes.contains("d/a/up (a symbolic link to a directory that it is in)"), "{notes}");
        assert!(notes.contains("d/other/back (a symbolic link to a directory that it is in)"), "{notes}");
        assert!(notes.contains("d/dangling (a symbolic link that leads nowhere"), "{notes}");
    }

    #[test]
    fn a_selection_holds_for_directories_and_for_files_named() {
        let tree = tree();
        let root = tree.path();
        let without = Selection::new(&options(&["a/", "one", "/e/b"], &[])).unwrap();
        let arguments = ["d", "one", "e"].map(|name| root.join(name));
        let collected = collect(&arguments, "s3://bucket/", &without).unwrap();
        let names: Vec<_> = collected.sources.iter().map(|source| str::from_utf8(&source.name).unwrap()).collect();
        assert_eq!((names, collected.bytes, collected.unselected), (vec!["d/b", "d/c"], 1_010, 2));
        let error = collect(&arguments[1..2], "s3://bucket/", &without).unwrap_err();
        assert_eq!(error.exit_code(), exit::SOURCE);
        assert!(error.to_string().contains("left out"), "{error}");
    }
}
