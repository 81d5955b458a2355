//! House style that no other tool checks: the length of files, unfinished code, where unsafe code may live, shared lints.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cargo::{self, Package, Workspace};

/// Past this many lines a file is about two things.
const LINES_MAX: usize = 600;

/// Directories that hold no code of ours.
const SKIPPED_DIRECTORIES: [&str; 4] = ["target", ".git", "corpus", "node_modules"];

/// Packages that may contain unsafe code. All others forbid it in every crate root.
const UNSAFE_PACKAGES: [&str; 6] =
    ["tradewind-fabric", "tradewind-xdp", "tradewind-netio", "tradewind-netem", "tradewind-staging", "tradewind-micro"];

/// What unfinished code looks like. In two pieces, or this file would find itself.
const UNFINISHED: [&str; 4] = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("TO", "DO:"), concat!("FIX", "ME")];

/// Checks the whole workspace; the error lists everything found.
pub(super) fn check() -> Result<()> {
    let workspace = cargo::workspace()?;
    let mut found = Vec::new();
    for file in sources(cargo::root())? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(cargo::root()).unwrap_or(&file).display().to_string();
        found.extend(in_text(&text).into_iter().map(|problem| format!("{name}{problem}")));
    }
    found.extend(in_packages(&workspace)?);
    if found.is_empty() {
        return Ok(());
    }
    bail!("house style:\n  {}", found.join("\n  "));
}

/// All Rust and C files below `directory`.
fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
            let path = entry.path();
            let kind = entry.file_type().with_context(|| format!("cannot look at {}", path.display()))?;
            if kind.is_dir() && !SKIPPED_DIRECTORIES.iter().any(|skipped| entry.file_name() == *skipped) {
                directories.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs" || extension == "c" || extension == "h")
            {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What is wrong with a file by its text alone; each finding begins with `: ` or `:LINE: `.
fn in_text(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!(": {lines} lines, more than {LINES_MAX}: which two things is it about?"));
    }
    for (index, line) in text.lines().enumerate() {
        for pattern in UNFINISHED.iter().filter(|pattern| line.contains(**pattern)) {
            found.push(format!(":{}: unfinished: {pattern}", index + 1));
        }
    }
    found
}

/// What is wrong with packages: crate roots that do not forbid unsafe code, manifests that do not share the lints.
fn in_packages(workspace: &Workspace) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for package in &workspace.packages {
        let manifest = package.directory.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        if !shares_lints(&text) {
            found.push(format!("{}: says nothing about lints; add `[lints]` with `workspace = true`", manifest.display()));
        }
        for file in roots(package) {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            if !text.contains("#![forbid(unsafe_code)]") {
                found.push(format!("{}: a crate root without `#![forbid(unsafe_code)]`", file.display()));
            }
        }
    }
    Ok(found)
}

/// The crate roots of a package that must forbid unsafe code.
fn roots(package: &Package) -> impl Iterator<Item = &PathBuf> {
    let exempt = UNSAFE_PACKAGES.contains(&package.name.as_str());
    package.targets.iter().filter(move |(kind, _)| !exempt && (kind == "lib" || kind == "bin")).map(|(_, file)| file)
}

fn shares_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    lines.find(|line| !line.is_empty()).is_some_and(|line| line.replace(' ', "") == "workspace=true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_file_that_passes_and_the_shortest_that_fails() {
        let text = "fn f() {}\n".repeat(LINES_MAX);
        assert_eq!(in_text(&text), Vec::<String>::new());
        let found = in_text(&format!("{text}// one more\n"));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("601 lines"), "{found:?}");
    }

    #[test]
    fn unfinished_code_is_found_with_its_line() {
        for pattern in UNFINISHED {
            assert_eq!(in_text(&format!("fn f() {{\n    {pattern}\"x\");\n}}\n")), [format!(":2: unfinished: {pattern}")]);
        }
    }

    #[test]
    fn unsafe_code_is_forbidden_where_it_is_not_allowed() {
        let package = |name: &str| Package {
            name: name.to_owned(),
            id: String::new(),
            directory: PathBuf::new(),
            targets: vec![
                (String::from("lib"), PathBuf::from("src/lib.rs")),
                (String::from("bin"), PathBuf::from("src/main.rs")),
                (String::from("test"), PathBuf::from("tests/a.rs")),
            ],
        };
        assert_eq!(roots(&package("tradewind-wire")).count(), 2);
        assert_eq!(roots(&package("tradewind-netio")).count(), 0);
    }

    #[test]
    fn manifests_share_lints_or_not() {
        assert!(shares_lints("[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n"));
        assert!(!shares_lints("[package]\nname = \"x\"\n"));
        assert!(!shares_lints("[lints]\n[lints.rust]\nworkspace = true\n"));
    }

    #[test]
    fn sources_are_found_and_build_output_is_not() {
        let directory = tempfile::tempdir().expect("temporary directory");
        for (folder, file) in [("a/b", "x.rs"), ("a", "y.bpf.c"), ("a", "z.md"), ("target/debug", "w.rs")] {
            fs::create_dir_all(directory.path().join(folder)).expect("directory");
            fs::write(directory.path().join(folder).join(file), "").expect("file");
        }
        let files = sources(directory.path()).expect("readable");
        assert_eq!(files, [directory.path().join("a/b/x.rs"), directory.path().join("a/y.bpf.c")]);
    }
}
