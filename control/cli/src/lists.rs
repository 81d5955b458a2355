//! Sources that are named in files: `--file-list`, `--file-pair-list`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use tradewind_client::SourceError;

use crate::failure::Failure;

/// Sources beside those on the command line, and their names.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct ListOptions {
    /// Send also what is named in FILE, a path a line; '-' reads standard input. Lines end in NUL instead if the file contains one.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file_list: Vec<PathBuf>,
    /// Send also the files of FILE, two lines each: the path, and the name below DEST.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file_pair_list: Vec<PathBuf>,
    /// Name sources by their paths from DIR on, rather than by their last component.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) src_base: Option<PathBuf>,
}

/// The lines of a list; bytes, for names are bytes. With empty lines but for those at the end.
pub(crate) fn read(list: &Path) -> Result<Vec<OsString>, Failure> {
    let mut text = Vec::new();
    let reading = if list == Path::new("-") {
        io::stdin().lock().read_to_end(&mut text).map(|_| ())
    } else {
        fs::read(list).map(|bytes| text = bytes)
    };
    reading.map_err(|source| Failure::Source(SourceError::Read { path: list.to_owned(), source }))?;
    let end = if text.contains(&0) { 0 } else { b'\n' };
    let lines = text.split(|&byte| byte == end).map(|line| if end == 0 { line } else { line.strip_suffix(b"\r").unwrap_or(line) });
    let mut lines: Vec<OsString> = lines.map(|line| OsString::from_vec(line.to_vec())).collect();
    while lines.pop_if(|line| line.is_empty()).is_some() {}
    Ok(lines)
}

/// Paths, each with the name of its file at the destination.
pub(crate) fn read_pairs(list: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, Failure> {
    let lines = read(list)?;
    let (pairs, odd) = lines.as_chunks::<2>();
    if let [path] = odd {
        return Err(Failure::Usage {
            detail: format!("{}: the last path, {}, has no name behind it", list.display(), Path::new(path).display()),
            hint: "a pair list has two lines for each file: its path, and its name below the destination".to_owned(),
        });
    }
    if let Some(index) = lines.iter().position(|line| line.is_empty()) {
        return Err(Failure::Usage {
            detail: format!("{}: line {} is empty", list.display(), index + 1),
            hint: "a pair list has two lines for each file: its path, and its name below the destination".to_owned(),
        });
    }
    Ok(pairs.iter().map(|[path, name]| (path.into(), name.as_bytes().to_vec())).collect())
}
