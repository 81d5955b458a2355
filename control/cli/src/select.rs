//! Which files of a directory are sent: patterns as in `.gitignore`, and times.

use std::fs::Metadata;
use std::time::SystemTime;

use clap::Args;
use clap::builder::ValueParser;
use tradewind_api::Select;
use tradewind_client::Selected;

use crate::failure::Failure;

/// What is sent of directories.
#[derive(Debug, Clone, Args)]
pub(crate) struct SelectOptions {
    /// Leave out what matches, a pattern as in .gitignore, compared with the name at the destination: '*.tmp', '/day-1/raw/', '**/cache'. Repeatable.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Send what matches, though an --exclude matches it too; without any --exclude, send nothing else. Repeatable.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// Only files modified after this: an age (36h, '2 days') or a time in UTC ('2026-11-26 08:00:00').
    #[arg(long, value_name = "AGE|TIME", value_parser = ValueParser::new(point_in_time))]
    pub(crate) newer_than: Option<SystemTime>,
    /// Only files last modified before this.
    #[arg(long, value_name = "AGE|TIME", value_parser = ValueParser::new(point_in_time))]
    pub(crate) older_than: Option<SystemTime>,
    /// What to do with symbolic links.
    #[arg(long, value_enum, default_value_t = Symlinks::Skip)]
    pub(crate) symlinks: Symlinks,
}

/// What becomes of symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Symlinks {
    /// Leave out those inside directories, with a note.
    Skip,
    /// Send what they point to, under their own names.
    Follow,
    /// Send the links themselves: NAME as a file NAME.rclonelink that holds what it points to. `tradewind get --links` makes links of them again.
    Copy,
}

fn point_in_time(text: &str) -> Result<SystemTime, String> {
    if let Ok(age) = humantime::parse_duration(text) {
        return SystemTime::now().checked_sub(age).ok_or_else(|| "that long ago there was no time".to_owned());
    }
    let midnight = format!("{text} 00:00:00");
    humantime::parse_rfc3339_weak(text)
        .or_else(|_| humantime::parse_rfc3339_weak(&midnight))
        .map_err(|_| "neither an age (36h, '2 days') nor a time in UTC ('2026-11-26', '2026-11-26 08:00:00')".to_owned())
}

/// [`SelectOptions`], ready for use.
#[derive(Debug)]
pub(crate) struct Selection {
    selected: Selected,
    symlinks: Symlinks,
}

impl Selection {
    /// # Errors
    /// [`Failure::Usage`] for a pattern that means nothing.
    pub(crate) fn new(options: &SelectOptions) -> Result<Self, Failure> {
        let SelectOptions { exclude, include, newer_than, older_than, symlinks } = options;
        Ok(Self { selected: selected(exclude, include, *newer_than, *older_than)?, symlinks: *symlinks })
    }

    pub(crate) fn follows_links(&self) -> bool {
        self.symlinks == Symlinks::Follow
    }

    /// Whether links are sent themselves.
    pub(crate) fn copies_links(&self) -> bool {
        self.symlinks == Symlinks::Copy
    }

    /// Whether something in a directory of this name at the destination may be sent.
    pub(crate) fn enters(&self, name: &[u8]) -> bool {
        self.selected.enters(name)
    }

    /// Whether a file of this name at the destination is sent.
    pub(crate) fn takes(&self, name: &[u8], metadata: &Metadata) -> bool {
        self.selected.takes_name(name) && self.selected.takes_time(metadata.modified().ok())
    }
}

/// What is read of the folders of stores.
#[derive(Debug, Clone, Args)]
pub(crate) struct SelectObjectsOptions {
    /// Leave out what matches, a pattern as in .gitignore, compared with the name at the destination: '*.tmp', '/day-1/raw/', '**/cache'. Repeatable.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Take what matches, though an --exclude matches it too; without any --exclude, take nothing else. Repeatable.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Only files modified after this: an age (36h, '2 days') or a time in UTC ('2026-11-26 08:00:00'). Without a file's time, the object's counts.
    #[arg(long, value_name = "AGE|TIME", value_parser = ValueParser::new(point_in_time))]
    newer_than: Option<SystemTime>,
    /// Only files last modified before this.
    #[arg(long, value_name = "AGE|TIME", value_parser = ValueParser::new(point_in_time))]
    older_than: Option<SystemTime>,
}

impl SelectObjectsOptions {
    /// The same for this end, and for the server, which leaves out what is not selected while it lists.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a pattern that means nothing, and for times that the server cannot be told.
    pub(crate) fn resolve(&self) -> Result<(Selected, Select), Failure> {
        let ns = |time: Option<SystemTime>| {
            let since =
                |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_nanos()).ok());
            time.map(|time| {
                since(time).ok_or_else(|| Failure::Usage {
                    detail: "a time before 1970 or after 2262 selects nothing of a store".to_owned(),
                    hint: "leave it out".to_owned(),
                })
            })
            .transpose()
        };
        let selected = selected(&self.exclude, &self.include, self.newer_than, self.older_than)?;
        let (exclude, include) = (self.exclude.clone(), self.include.clone());
        Ok((selected, Select { exclude, include, newer_than_ns: ns(self.newer_than)?, older_than_ns: ns(self.older_than)? }))
    }
}

fn selected(
    exclude: &[String],
    include: &[String],
    newer_than: Option<SystemTime>,
    older_than: Option<SystemTime>,
) -> Result<Selected, Failure> {
    Selected::new(exclude, include, newer_than, older_than).map_err(|error| Failure::Usage {
        detail: format!("--exclude or --include {error}"),
        hint: "patterns are those of .gitignore: '*.tmp', '/top-only', 'directory/', '**/anywhere'; put them in quotes".to_owned(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    pub(crate) fn options(exclude: &[&str], include: &[&str]) -> SelectOptions {
        let owned = |patterns: &[&str]| patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        SelectOptions { exclude: owned(exclude), include: owned(include), newer_than: None, older_than: None, symlinks: Symlinks::Skip }
    }

    #[test]
    fn what_patterns_leave() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        let names = ["a.tmp", "a.jpg", "d/a.tmp", "d/b.jpg", "d/cache/x", "cache/y", "top/d/z"];
        for (exclude, include, expected) in [
            (&[][..], &[][..], &names[..]),
            (&["*.tmp"], &[], &["a.jpg", "d/b.jpg", "d/cache/x", "cache/y", "top/d/z"]),
            (&["/d/"], &[], &["a.tmp", "a.jpg", "cache/y", "top/d/z"]),
            (&["d/"], &[], &["a.tmp", "a.jpg", "cache/y"]),
            (&["**/cache"], &[], &["a.tmp", "a.jpg", "d/a.tmp", "d/b.jpg", "top/d/z"]),
            (&["*"], &["*.jpg"], &["a.jpg", "d/b.jpg"]),
            (&[], &["*.jpg", "/top"], &["a.jpg", "d/b.jpg", "top/d/z"]),
            (&["d/"], &["d/b.*"], &["a.tmp", "a.jpg", "d/b.jpg", "cache/y"]),
        ] {
            let selection = Selection::new(&options(exclude, include)).unwrap();
            let taken: Vec<_> = names.into_iter().filter(|name| selection.takes(name.as_bytes(), &metadata)).collect();
            assert_eq!(taken, expected, "exclude {exclude:?} include {include:?}");
            for name in taken {
                let parents = Path::new(name).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
                parents.for_each(|parent| assert!(selection.enters(parent.as_os_str().as_bytes()), "{exclude:?} {include:?} {parent:?}"));
            }
        }
        assert!(!Selection::new(&options(&["d/"], &[])).unwrap().enters(b"d"), "nothing in it can be sent");
        assert!(Selection::new(&options(&["*.tmp"], &[])).unwrap().takes(b"\xff\xfe", &metadata), "names are bytes");
    }

    #[test]
    fn patterns_that_mean_nothing_are_refused() {
        for bad in ["!x", "", "#x", "[z-a]"] {
            assert!(matches!(Selection::new(&options(&[bad], &[])), Err(Failure::Usage { .. })), "{bad}");
            assert!(matches!(Selection::new(&options(&[], &[bad])), Err(Failure::Usage { .. })), "{bad}");
        }
    }

    #[test]
    fn ages_and_times() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_modified(point_in_time("2020-05-01 12:00:00").unwrap()).unwrap();
        let metadata = file.as_file().metadata().unwrap();
        for (newer, older, expected) in [
            (None, None, true),
            (Some("2020-05-01"), None, true),
            (Some("2020-05-01 12:00:00"), None, false),
            (None, Some("2020-05-02"), true),
            (None, Some("2020-05-01T11:59:59Z"), false),
            (Some("1day"), None, false),
            (None, Some("36h"), true),
            (Some("2020-05-01"), Some("2020-05-02"), true),
        ] {
            let time = |text: Option<&str>| text.map(|text| point_in_time(text).unwrap());
            let options = SelectOptions { newer_than: time(newer), older_than: time(older), ..options(&[], &[]) };
            assert_eq!(Selection::new(&options).unwrap().takes(b"f", &metadata), expected, "{newer:?} {older:?}");
        }
        for bad in ["yesterday", "2020-13-01", "5", ""] {
            assert!(point_in_time(bad).is_err(), "{bad}");
        }
        let age = SystemTime::now().duration_since(point_in_time("2 days").unwrap()).unwrap();
        assert!(age.abs_diff(Duration::from_secs(172_800)) < Duration::from_secs(60));
    }
}
