//! Which files are wanted, by their names and ages. Both ends use it: whoever sends knows the files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::SystemTime;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// A pattern that means nothing.
#[derive(Debug, thiserror::Error)]
#[error("{pattern:?}: {why}")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub why: String,
}

/// What names are to match.
#[derive(Clone, Debug)]
pub struct Selected {
    exclude: Gitignore,
    include: Gitignore,
    newer_than: Option<SystemTime>,
    older_than: Option<SystemTime>,
}

impl Selected {
    /// Patterns are those of .gitignore, without `!`. Files of `include` are wanted also if `exclude` matches; alone it leaves everything else out.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn new(
        exclude: &[String],
        include: &[String],
        newer_than: Option<SystemTime>,
        older_than: Option<SystemTime>,
    ) -> Result<Self, PatternError> {
        Ok(Self { exclude: patterns(exclude)?, include: patterns(include)?, newer_than, older_than })
    }

    /// Whether something in a directory of this name may be wanted.
    #[must_use]
    pub fn enters(&self, name: &[u8]) -> bool {
        // An include may match anything inside.
        !self.include.is_empty() || !self.exclude.matched(path(name), true).is_ignore()
    }

    /// Whether a file of this name is wanted, as far as its name tells.
    #[must_use]
    pub fn takes_name(&self, name: &[u8]) -> bool {
        // What is no name below the destination is refused elsewhere, by name; the patterns panic over it.
        if name.starts_with(b"/") {
            return true;
        }
        let matches = |patterns: &Gitignore| patterns.matched_path_or_any_parents(path(name), false).is_ignore();
        let only_included = self.exclude.is_empty() && !self.include.is_empty();
        matches(&self.include) || (!only_included && !matches(&self.exclude))
    }

    /// Whether times matter.
    #[must_use]
    pub const fn asks_for_times(&self) -> bool {
        self.newer_than.is_some() || self.older_than.is_some()
    }

    /// Whether a file of this time of modification is wanted; one without such a time is not left out for it.
    #[must_use]
    pub fn takes_time(&self, modified: Option<SystemTime>) -> bool {
        let Some(modified) = modified else { return true };
        self.newer_than.is_none_or(|than| modified > than) && self.older_than.is_none_or(|than| modified < than)
    }
}

fn path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

fn patterns(lines: &[String]) -> Result<Gitignore, PatternError> {
    let wrong = |line: &str, why: String| PatternError { pattern: line.to_owned(), why };
    let mut builder = GitignoreBuilder::new("");
    for line in lines {
        if line.starts_with('!') {
            return Err(wrong(line, "include it, or exclude it, instead of '!'".to_owned()));
        }
        if line.trim().is_empty() || line.starts_with('#') {
            return Err(wrong(line, "it matches nothing (escape a leading # as \\#)".to_owned()));
        }
        builder.add_line(None, line).map_err(|error| wrong(line, error.to_string()))?;
    }
    builder.build().map_err(|error| wrong(&lines.join("', '"), error.to_string()))
}
