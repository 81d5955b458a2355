//! From arguments to files, and where the results go.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::FileOptions;
use super::output::Problem;
use crate::display;
use crate::failure::Failure;

/// A file to be sealed or unsealed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// Where it is.
    pub(super) source: PathBuf,
    /// The directory that its result goes below.
    root: PathBuf,
    /// What it is called there, as long as neither is sealed or unsealed.
    pub(super) name: Vec<u8>,
    /// The result itself, if the user named it.
    pub(super) target: Option<PathBuf>,
    /// The result goes beside it.
    pub(super) in_place: bool,
    /// The user named it, rather than a directory above it.
    pub(super) named: bool,
}

impl Job {
    /// Where a result of that name goes.
    pub(super) fn below(&self, name: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(name))
    }

    /// The directories that it is in and that its result gets too, innermost first.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let depth = self.name.iter().filter(|&&byte| byte == b'/').count();
        self.source.ancestors().skip(1).take(depth).map(Path::to_owned).collect()
    }
}

/// What there is to do.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// In the order of the arguments, and of names in each.
    pub(super) jobs: Vec<Job>,
    /// What should be there and cannot be read.
    pub(super) failed: Vec<(PathBuf, Problem)>,
}

/// Looks at all arguments and walks directories to their end, before anything is written into them.
///
/// # Errors
/// [`Failure::Usage`] if a directory or several files should get one name.
pub(super) fn find(options: &FileOptions) -> Result<Found, Failure> {
    let mut found = Found::default();
    let one = match &options.paths[..] {
        [path] => !path.is_dir(),
        _ => false,
    };
    let output = options.output.as_deref();
    let is_one_name = output.is_some_and(|output| one && !output.as_os_str().as_bytes().ends_with(b"/") && !output.is_dir());
    if let Some(output) = output.filter(|output| !is_one_name && output.exists() && !output.is_dir()) {
        return Err(Failure::Usage {
            detail: format!("{} is a file, and what is made needs a directory", output.display()),
            hint: "name a directory with -o; it is made if it does not exist".to_owned(),
        });
    }
    for path in &options.paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let above = if contents_only(path) { Vec::new() } else { last(path) };
                walk(path, &above, output, &mut found);
            }
            Ok(metadata) if metadata.is_file() => {
                let target = output.filter(|_| is_one_name).map(Path::to_owned);
                found.jobs.push(job(path.clone(), last(path), output, target, true));
            }
            Ok(_) => found.failed.push((path.clone(), Problem::because("it is neither a file nor a directory"))),
            Err(error) => found.failed.push((path.clone(), error.into())),
        }
    }
    Ok(found)
}

fn walk(directory: &Path, above: &[u8], output: Option<&Path>, found: &mut Found) {
    let mut entries = match fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(entries) => entries,
        Err(error) => return found.failed.push((directory.to_owned(), error.into())),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let below = if above.is_empty() { name.as_bytes().to_vec() } else { [above, b"/", name.as_bytes()].concat() };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, &below, output, found),
            Ok(kind) if kind.is_file() => found.jobs.push(job(path, below, output, None, false)),
            Ok(kind) => {
                let what = if kind.is_symlink() { "a symbolic link" } else { "a special file" };
                display::note(&format!("skipped: {} is {what}", path.display()));
            }
            Err(error) => found.failed.push((path, error.into())),
        }
    }
}

fn job(source: PathBuf, name: Vec<u8>, output: Option<&Path>, target: Option<PathBuf>, named: bool) -> Job {
    match output {
        Some(output) => Job { source, root: output.to_owned(), name, target, in_place: false, named },
        None => {
            let root = source.parent().unwrap_or(Path::new("")).to_owned();
            Job { name: last(&source), root, source, target: None, in_place: true, named }
        }
    }
}

fn last(path: &Path) -> Vec<u8> {
    path.file_name().unwrap_or_default().as_bytes().to_vec()
}

/// As for `tradewind send`: `DIR/`, `DIR/.`, `.` and whatever ends in `..` mean what is in it.
fn contents_only(path: &Path) -> bool {
    let text = path.as_os_str().as_bytes();
    text.ends_with(b"/") || text.ends_with(b"/.") || text == b"." || path.file_name().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(paths: &[PathBuf], output: Option<&str>) -> Vec<(String, Option<String>)> {
        let options = FileOptions { paths: paths.to_vec(), output: output.map(PathBuf::from), overwrite: false };
        let found = find(&options).unwrap();
        assert!(found.failed.is_empty(), "{:?}", found.failed);
        let text = |path: &Path| path.display().to_string();
        found.jobs.iter().map(|job| (text(&job.below(&job.name)), job.target.as_deref().map(text))).collect()
    }

    #[test]
    fn results_are_named_as_send_names_files() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("b")).unwrap();
        for name in ["c", "b/x", "a"] {
            fs::write(tree.join(name), "").unwrap();
        }
        let below = |path: &str| tree.join(path).display().to_string();
        let names = |paths: &[PathBuf], output| found(paths, output).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(std::slice::from_ref(&tree), Some("/out")), ["/out/tree/a", "/out/tree/b/x", "/out/tree/c"]);
        assert_eq!(names(&[tree.join("")], Some("/out")), ["/out/a", "/out/b/x", "/out/c"]);
        assert_eq!(names(&[tree.join(".")], Some("/out")), ["/out/a", "/out/b/x", "/out/c"]);
        assert_eq!(names(std::slice::from_ref(&tree), None), [below("a"), below("b/x"), below("c")]);
        assert_eq!(names(&[tree.join("a"), tree.join("b/x")], Some("/out")), ["/out/a", "/out/x"]);
        assert_eq!(found(&[tree.join("a")], Some("/no/such")), [("/no/such/a".to_owned(), Some("/no/such".to_owned()))]);
        assert_eq!(found(&[tree.join("a")], Some("/no/such/")), [("/no/such/a".to_owned(), None)]);
        assert_eq!(found(&[tree.join("a")], Some(tree.to_str().unwrap())), [(below("a"), None)]);
    }

    #[test]
    fn one_name_for_several_files_is_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        fs::write(&file, "").unwrap();
        let options = FileOptions { paths: vec![folder.path().to_owned()], output: Some(file), overwrite: true };
        assert!(matches!(find(&options), Err(Failure::Usage { .. })));
    }
}
