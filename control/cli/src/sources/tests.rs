//! What is found, and what it is called.

use std::os::unix::ffi::OsStringExt;

use tradewind_client::SourceKind;

use super::*;
use crate::select::tests::options;
use crate::select::{SelectOptions, Symlinks};

/// All that was found.
#[derive(Debug, Default)]
struct Collected {
    sources: Vec<Source>,
    bytes: u64,
    skipped: Vec<String>,
    unselected: u64,
    failed: Vec<SourceError>,
}

impl Collected {
    fn names(&self) -> Vec<&str> {
        self.sources.iter().map(|source| str::from_utf8(&source.name).unwrap()).collect()
    }
}

fn walked(plan: Plan) -> Collected {
    let mut collected = Collected::default();
    for walked in Arc::new(plan).walk() {
        match walked {
            Walked::File { source, bytes } => {
                collected.sources.push(source);
                collected.bytes += bytes;
            }
            Walked::Skipped(why) => collected.skipped.push(why),
            Walked::Unselected => collected.unselected += 1,
            Walked::Failed(error) => collected.failed.push(error),
        }
    }
    collected
}

fn collect(arguments: &[PathBuf], destination: &str, selection: Selection) -> Result<Collected, Failure> {
    Plan::new(arguments, &ListOptions::default(), destination, selection).map(walked)
}

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
    let collected = collect(&arguments, destination, everything())?;
    Ok(collected.sources.into_iter().map(|source| String::from_utf8(source.name).unwrap()).collect())
}

#[test]
fn naming_rules() {
    let tree = tree();
    let root = tree.path();
    for (arguments, destination, expected) in [
        (&["one"][..], "s3://bucket/in/", &["one"][..]),
        (&["one"], "s3://bucket/in/exactly", &["exactly"]),
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
    for arguments in [&["d/b", "e/b"][..], &["one", "one"]] {
        let error = names(tree.path(), arguments, "s3://bucket/").unwrap_err();
        assert_eq!(error.exit_code(), exit::USAGE, "{error}");
    }
    assert!(names(tree.path(), &["d", "e"], "s3://bucket/").is_ok());
    // What is inside directories is only seen on the way: the first keeps the name.
    let contents = ["d/", "e/"].map(|name| PathBuf::from(format!("{}/{name}", tree.path().display())));
    let collected = collect(&contents, "s3://bucket/", everything()).unwrap();
    assert_eq!((collected.names(), collected.failed.len()), (vec!["b", "c", "a/x"], 1));
    assert!(matches!(&collected.failed[0], SourceError::Name { path, .. } if path.ends_with("e/b")));
}

#[test]
fn sources_that_cannot_be_read_end_with_their_exit_code() {
    let tree = tree();
    for argument in ["missing", "one/"] {
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
    let collected = collect(&[root.join("d")], "s3://bucket/", everything()).unwrap();
    assert_eq!((collected.sources.len(), collected.bytes), (3, 1110));
    assert_eq!(collected.skipped.len(), 3, "{:?}", collected.skipped);
    assert!(collected.skipped.iter().any(|note| note.contains("d/socket (a socket)")));
    // Named on the command line, a link is followed and keeps its own name.
    assert_eq!(names(root, &["d/link"], "s3://bucket/").unwrap(), ["link"]);
    assert_eq!(collect(&[root.join("d/socket")], "s3://bucket/", everything()).unwrap_err().exit_code(), exit::SOURCE);
}

#[test]
fn lists_name_sources_and_pairs_name_both_ends() {
    let tree = tree();
    let root = tree.path();
    let list = root.join("list");
    fs::write(&list, format!("{0}/one\r\n\n{0}/d\n", root.display())).unwrap();
    let with = |lists: ListOptions, arguments: &[PathBuf]| {
        let plan = Plan::new(arguments, &lists, "s3://bucket/in/", everything())?;
        Ok::<_, Failure>(walked(plan).names().into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let of_list = ListOptions { file_list: vec![list.clone()], ..ListOptions::default() };
    assert_eq!(with(of_list.clone(), &[]).unwrap(), ["one", "d/b", "d/c", "d/a/x"]);
    let from_base = ListOptions { src_base: Some(root.to_owned()), ..of_list };
    assert_eq!(with(from_base.clone(), &[root.join("e/b")]).unwrap(), ["e/b", "one", "d/b", "d/c", "d/a/x"]);
    for outside in ["/etc/hostname".into(), root.join("d/../one")] {
        assert_eq!(with(from_base.clone(), &[outside]).unwrap_err().exit_code(), exit::USAGE);
    }
    // Names end in NUL where one holds a line feed.
    fs::write(root.join("a\nb"), "x").unwrap();
    fs::write(&list, format!("{0}/a\nb\0{0}/one\0", root.display())).unwrap();
    assert_eq!(with(ListOptions { file_list: vec![list.clone()], ..ListOptions::default() }, &[]).unwrap(), ["a\nb", "one"]);
    fs::write(&list, format!("{0}/one\nx/renamed\n{0}/d/b\nx/b\n", root.display())).unwrap();
    let pairs = ListOptions { file_pair_list: vec![list.clone()], ..ListOptions::default() };
    assert_eq!(with(pairs.clone(), &[]).unwrap(), ["x/renamed", "x/b"]);
    fs::write(&list, format!("{}/one\n", root.display())).unwrap();
    assert_eq!(with(pairs, &[]).unwrap_err().exit_code(), exit::USAGE);
    assert_eq!(with(ListOptions::default(), &[]).unwrap_err().exit_code(), exit::USAGE);
    let missing = ListOptions { file_list: vec![root.join("missing")], ..ListOptions::default() };
    assert_eq!(with(missing, &[]).unwrap_err().exit_code(), exit::SOURCE);
}

#[test]
fn names_are_bytes() {
    let root = tempfile::tempdir().unwrap();
    let odd = std::ffi::OsString::from_vec(b"caf\xe9 \n".to_vec());
    fs::write(root.path().join(&odd), "x").unwrap();
    let mut directory = root.path().as_os_str().to_owned();
    directory.push("/");
    let collected = collect(&[directory.into()], "s3://bucket/", everything()).unwrap();
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
    let collected = collect(&[root.join("d")], "s3://bucket/", follow).unwrap();
    assert_eq!(collected.names(), ["d/b", "d/c", "d/link", "d/a/x", "d/other/b"]);
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
    let without = || Selection::new(&options(&["a/", "one", "/e/b"], &[])).unwrap();
    let arguments = ["d", "one", "e"].map(|name| root.join(name));
    let collected = collect(&arguments, "s3://bucket/", without()).unwrap();
    assert_eq!((collected.names(), collected.bytes, collected.unselected), (vec!["d/b", "d/c"], 1_010, 2));
}

#[test]
fn links_are_sent_themselves_when_asked_for() {
    let tree = tree();
    let root = tree.path();
    for (target, link) in
        [("b", "d/link"), ("../e", "d/other"), ("..", "d/a/up"), ("nowhere", "d/dangling.tmp"), ("b", "d/taken"), ("x", "gone")]
    {
        std::os::unix::fs::symlink(target, root.join(link)).unwrap();
    }
    fs::write(root.join("d/taken.rclonelink"), "a file").unwrap();
    let copy = |exclude: &[&str]| Selection::new(&SelectOptions { symlinks: Symlinks::Copy, ..options(exclude, &[]) }).unwrap();
    let collected = collect(&[root.join("d"), root.join("gone")], "s3://bucket/", copy(&["*.tmp"])).unwrap();
    let expected =
        ["d/b", "d/c", "d/link.rclonelink", "d/other.rclonelink", "d/taken.rclonelink", "d/a/up.rclonelink", "d/a/x", "gone.rclonelink"];
    assert_eq!((collected.names(), collected.unselected), (expected.to_vec(), 1));
    assert_eq!(collected.bytes, 10 + 1_000 + 1 + 4 + 6 + 2 + 100 + 1);
    let kinds: Vec<bool> = collected.sources.iter().map(|source| source.kind == SourceKind::Link).collect();
    assert_eq!(kinds, [false, false, true, true, false, true, false, true]);
    let taken = &collected.failed[..];
    assert!(matches!(taken, [SourceError::Name { path, .. }] if path.ends_with("d/taken")), "{taken:?}");
    // What a link to a directory leads to, where a slash asks for that; a link under a name of its own.
    assert_eq!(collect(&[root.join("d/other/")], "s3://bucket/", copy(&[])).unwrap().names(), ["b"]);
    assert_eq!(collect(&[root.join("d/other")], "s3://bucket/exactly", copy(&[])).unwrap().names(), ["exactly"]);
}

/// As many threads as names find what one does, and each name once.
#[test]
fn several_threads_find_what_one_finds() {
    let tree = tree();
    let root = tree.path();
    for name in 0..1000 {
        fs::write(root.join(format!("d/a/{name:04}")), "x").unwrap();
        fs::create_dir_all(root.join(format!("e/{}/{}", name % 7, name % 50))).unwrap();
        fs::write(root.join(format!("e/{}/{}/{name}.tmp", name % 7, name % 50)), "x").unwrap();
    }
    std::os::unix::fs::symlink("../../e", root.join("d/a/other")).unwrap();
    std::os::unix::fs::symlink("..", root.join("e/up")).unwrap();
    for (symlinks, exclude) in [(Symlinks::Follow, &[][..]), (Symlinks::Skip, &["*.tmp"]), (Symlinks::Copy, &["3/"])] {
        let plan = || {
            let selection = Selection::new(&SelectOptions { symlinks, ..options(exclude, &[]) }).unwrap();
            Plan::new(&[root.join("d"), root.join("e"), root.join("one")], &ListOptions::default(), "s3://bucket/", selection).unwrap()
        };
        let told = |walked: &Walked| match walked {
            Walked::File { source, bytes } => format!("{} {bytes}", str::from_utf8(&source.name).unwrap()),
            other => format!("{other:?}"),
        };
        let mut expected: Vec<String> = Arc::new(plan()).walk().map(|walked| told(&walked)).collect();
        assert!(expected.len() > 1000);
        expected.sort_unstable();
        for threads in [1, 2, 8] {
            let found = std::sync::Mutex::new(Vec::new());
            walk_with(&Arc::new(plan()), threads, &|some| {
                found.lock().unwrap().extend(some.iter().map(told));
                true
            });
            let mut found = found.into_inner().unwrap();
            found.sort_unstable();
            assert_eq!(found, expected, "{threads} threads, {symlinks:?}");
        }
        // Whoever has enough is not told of the rest.
        let left = std::sync::atomic::AtomicI64::new(2);
        walk_with(&Arc::new(plan()), 4, &|_| left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) > 1);
        assert!(left.into_inner() > -4, "at most one more for each other thread");
    }
}
