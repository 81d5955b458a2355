//! Files that appear under their names only when they are complete and on disk.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tradewind_seal::SealError;

/// Why one file is left out.
#[derive(Debug)]
pub(super) struct Problem(String);

impl Problem {
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<SealError> for Problem {
    fn from(error: SealError) -> Self {
        Self(error.to_string())
    }
}

/// What was written so far.
#[derive(Debug)]
pub(super) struct Outputs {
    overwrite: bool,
    /// With `overwrite`: a result must not replace another.
    written: HashSet<PathBuf>,
}

impl Outputs {
    pub(super) fn new(overwrite: bool) -> Self {
        Self { overwrite, written: HashSet::new() }
    }

    /// Writes one file beside its name, readable only by the user; then it gets permissions and time of `like`, goes to disk, and gets its
    /// name. Whatever goes wrong before leaves no part of it behind. Directories above it that do not exist are made: those of the tree it
    /// belongs to (`folders`) are open to nobody that they were not open to.
    pub(super) fn write(
        &mut self,
        target: &Path,
        folders: &[PathBuf],
        like: &Metadata,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let place = |error: io::Error| Problem(format!("cannot write {}: {error}", target.display()));
        let exists = || Problem(format!("{} exists; remove it or give --overwrite", target.display()));
        if self.written.contains(target) {
            return Err(Problem(format!("{} was made from another file just now; use different directories", target.display())));
        }
        // So that nobody waits for a large file in vain.
        if !self.overwrite && target.symlink_metadata().is_ok() {
            return Err(exists());
        }
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        make_folders(folder, folders).map_err(place)?;
        let mut file = tempfile::Builder::new().prefix(".tradewind-").suffix(".partial").tempfile_in(folder).map_err(place)?;
        fill(&mut file)?;
        let finished = file.as_file();
        // No set-user-ID: what comes from elsewhere gets no rights by it.
        finished.set_permissions(Permissions::from_mode(like.permissions().mode() & 0o777)).map_err(place)?;
        finished.set_modified(like.modified()?).and_then(|()| finished.sync_all()).map_err(place)?;
        let named = if self.overwrite { file.persist(target) } else { file.persist_noclobber(target) };
        named.map_err(|error| if error.error.kind() == io::ErrorKind::AlreadyExists { exists() } else { place(error.error) })?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(place)?;
        if self.overwrite {
            self.written.insert(target.to_owned());
        }
        Ok(())
    }
}

/// Makes a directory and all above it; the last ones with the permissions of those in `like`, innermost first.
fn make_folders(folder: &Path, like: &[PathBuf]) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let (Some((like, above)), Some(parent)) = (like.split_first(), folder.parent()) else { return fs::create_dir_all(folder) };
    make_folders(parent, above)?;
    // Its owner must be able to write the files.
    let mode = fs::metadata(like)?.permissions().mode() & 0o777 | 0o700;
    DirBuilder::new().mode(mode).create(folder)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_file_is_there_whole_with_its_attributes_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::write(&source, "x").unwrap();
        fs::set_permissions(&source, Permissions::from_mode(0o4640)).unwrap();
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        fs::File::open(&source).unwrap().set_modified(time).unwrap();
        let like = fs::metadata(&source).unwrap();
        let target = folder.path().join("a/b/target");
        let entries = || fs::read_dir(folder.path().join("a/b")).unwrap().count();

        let mut outputs = Outputs::new(false);
        let failed = outputs.write(&target, &[], &like, |writer| {
            writer.write_all(b"half")?;
            Err(Problem::because("damaged"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "damaged");
        assert_eq!(entries(), 0, "nothing is left");

        let fill = |text: &'static [u8]| move |writer: &mut dyn Write| Ok(writer.write_all(text)?);
        outputs.write(&target, &[], &like, fill(b"one")).unwrap();
        let made = fs::metadata(&target).unwrap();
        assert_eq!((made.permissions().mode() & 0o7777, made.modified().unwrap()), (0o640, time));
        assert!(outputs.write(&target, &[], &like, fill(b"two")).unwrap_err().to_string().contains("--overwrite"));
        assert_eq!(fs::read(&target).unwrap(), b"one");

        let mut outputs = Outputs::new(true);
        outputs.write(&target, &[], &like, fill(b"three")).unwrap();
        assert_eq!((fs::read(&target).unwrap().as_slice(), entries()), (b"three".as_slice(), 1));
        assert!(outputs.write(&target, &[], &like, fill(b"four")).unwrap_err().to_string().contains("another file"));
    }
}
