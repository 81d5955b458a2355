//! Trees of files to be sent: everyday ones, and everything that file systems allow and programs stumble over.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::stat::Mode;

/// Bytes that are the same for the same seed and nothing else; xorshift64* (Vigna, 2016).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts with a seed; 0 counts as 1.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// Writes a file of so many random bytes.
    ///
    /// # Errors
    /// When the disk is full or the name is not possible.
    pub fn write(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut out = File::create(path)?;
        let mut buffer = vec![0; 64 << 10];
        let mut left = bytes;
        while left > 0 {
            for word in buffer.chunks_exact_mut(8) {
                word.copy_from_slice(&self.number().to_le_bytes());
            }
            let now = left.min(buffer.len() as u64);
            out.write_all(&buffer[..now as usize])?;
            left -= now;
        }
        Ok(())
    }
}

/// Files of one size in directories of a thousand. Returns their number of bytes.
///
/// # Errors
/// When the disk is full.
pub fn uniform(root: &Path, files: u64, bytes: u64, random: &mut Random) -> Result<u64> {
    for first in (0..files).step_by(1000) {
        let directory = root.join(format!("d{:04}", first / 1000));
        fs::create_dir_all(&directory)?;
        for number in first..(first + 1000).min(files) {
            random.write(&directory.join(format!("f{number:07}")), bytes)?;
        }
    }
    Ok(files * bytes)
}

/// A few large files, for their owner only, and many small ones. Returns their number of bytes.
///
/// # Errors
/// When the disk is full.
pub fn mixed(root: &Path, large: u64, large_bytes: u64, small: u64, random: &mut Random) -> Result<u64> {
    let mut total = 0;
    for number in 0..large {
        let bytes = large_bytes / 2 + random.below(large_bytes);
        fs::create_dir_all(root.join(format!("clip-{number}")))?;
        let path = root.join(format!("clip-{number}/data.bin"));
        random.write(&path, bytes)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        total += bytes;
    }
    for number in 0..small {
        let directory = root.join(format!("notes/{}", number % 7));
        fs::create_dir_all(&directory)?;
        let bytes = random.below(30_000);
        random.write(&directory.join(format!("{number}.txt")), bytes)?;
        total += bytes;
    }
    Ok(total)
}

/// What [`hostile`] has made.
#[derive(Debug, Default)]
pub struct Hostile {
    /// Files that can be sent to a local store.
    pub files: u64,
    /// Of these, those whose names are not UTF-8.
    pub not_utf8: u64,
    /// Symbolic links.
    pub links: u64,
    /// Files more that following them finds.
    pub followed: u64,
}

/// Names with line feeds, leading dashes, dots, spaces, quotes, 255 bytes, bytes that are no UTF-8, cases that clash elsewhere, deep
/// nesting; empty files, holes, hard links; a pipe, a socket, links to files and directories, that lead nowhere and in circles.
///
/// # Errors
/// When the disk is full.
pub fn hostile(root: &Path, random: &mut Random) -> Result<Hostile> {
    let mut made = Hostile::default();
    let long = vec![b'n'; 255];
    let names: [&[u8]; 22] = [
        b"plain",
        b"-rf",
        b"--help",
        b"a\nb",
        b"a b",
        b" ",
        b"..a",
        b"...",
        b".hidden",
        b"quote'\"`$(x)",
        b"back\\slash",
        b"*?[x]",
        b"%41%",
        b"#x",
        b"~",
        b"A",
        b"a",
        b"\xff\xfe",
        b"caf\xe9",
        "\u{fc}\u{df}\u{1f980}".as_bytes(),
        b"\x01\x1b[2J",
        &long,
    ];
    for directory in ["", "-d", "d\nd", "D", "d"] {
        let directory = root.join(directory);
        fs::create_dir_all(&directory)?;
        for name in names {
            let path = directory.join(OsStr::from_bytes(name));
            // "D" and "d" hold both cases already; a name may be taken by a directory.
            if path.is_dir() {
                continue;
            }
            let bytes = random.below(5000);
            random.write(&path, bytes)?;
            made.files += 1;
            made.not_utf8 += u64::from(std::str::from_utf8(name).is_err());
        }
    }
    let mut deep = root.to_owned();
    for _ in 0..60 {
        deep.push("deeper");
    }
    fs::create_dir_all(&deep)?;
    random.write(&deep.join("bottom"), 100)?;
    File::create(root.join("empty"))?;
    let holes = File::create(root.join("holes"))?;
    holes.set_len(5 << 20)?;
    holes.write_all_at(b"data between holes", 3 << 20)?;
    fs::hard_link(root.join("plain"), root.join("hard-link"))?;
    made.files += 4;
    nix::unistd::mkfifo(&root.join("pipe"), Mode::S_IRWXU)?;
    drop(std::os::unix::net::UnixListener::bind(root.join("socket"))?);
    let links: [(&[u8], &[u8]); 6] = [
        (b"nowhere", b"dangling"),
        (b".", b"circle"),
        (b"plain", b"link"),
        (b"../holes", b"-d/link to\nholes"),
        (b"deeper", b"directory\xff"),
        (b"..\xfe\n", b"D/odd"),
    ];
    for (target, name) in links {
        std::os::unix::fs::symlink(OsStr::from_bytes(target), root.join(OsStr::from_bytes(name)))?;
    }
    (made.links, made.followed) = (links.len() as u64, 3);
    Ok(made)
}

/// All regular files below a directory, by their paths from there; links are not followed.
///
/// # Errors
/// When a directory cannot be read.
pub fn files(root: &Path) -> Result<BTreeMap<OsString, PathBuf>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                let name = path.strip_prefix(root)?.as_os_str().as_bytes().to_vec();
                found.insert(OsString::from_vec(name), path);
            }
        }
    }
    Ok(found)
}

/// All symbolic links below a directory, by their paths from there, and their targets.
///
/// # Errors
/// When a directory cannot be read.
pub fn links(root: &Path) -> Result<BTreeMap<OsString, OsString>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if entry.file_type()?.is_symlink() {
                let name = entry.path().strip_prefix(root)?.as_os_str().to_owned();
                found.insert(name, fs::read_link(entry.path())?.into_os_string());
            }
        }
    }
    Ok(found)
}

/// Compares two trees: the same regular files, the same bytes, times and permissions.
///
/// # Errors
/// Names the first difference.
pub fn same(expected: &Path, found: &Path) -> Result<u64> {
    let all = |metadata: &fs::Metadata| (metadata.mtime(), metadata.mtime_nsec(), metadata.mode());
    same_by(expected, found, |ours, theirs| all(ours) == all(theirs))
}

/// The same, of times the second only, and whatever permissions there are.
///
/// # Errors
/// Names the first difference.
pub fn same_to_the_second(expected: &Path, found: &Path) -> Result<u64> {
    same_by(expected, found, |ours, theirs| (ours.mtime(), 0) == (theirs.mtime(), theirs.mtime_nsec()))
}

fn same_by(expected: &Path, found: &Path, is_alike: impl Fn(&fs::Metadata, &fs::Metadata) -> bool) -> Result<u64> {
    let (expected, found) = (files(expected)?, files(found)?);
    for name in found.keys() {
        if !expected.contains_key(name) {
            bail!("{} is there and should not be", name.display());
        }
    }
    for (name, path) in &expected {
        let other = found.get(name).with_context(|| format!("{} is missing", name.display()))?;
        let (ours, theirs) = (fs::metadata(path)?, fs::metadata(other)?);
        if ours.len() != theirs.len() || !same_bytes(path, other)? {
            bail!("{} differs in its contents", name.display());
        }
        if !is_alike(&ours, &theirs) {
            bail!("{} differs in time or mode", name.display());
        }
    }
    Ok(expected.len() as u64)
}

fn same_bytes(one: &Path, other: &Path) -> Result<bool> {
    let (mut one, mut other) = (BufReader::new(File::open(one)?), BufReader::new(File::open(other)?));
    let (mut ours, mut theirs) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let count = one.read(&mut ours)?;
        if count == 0 {
            return Ok(other.read(&mut theirs)? == 0);
        }
        if other.read_exact(&mut theirs[..count]).is_err() || ours[..count] != theirs[..count] {
            return Ok(false);
        }
    }
}
