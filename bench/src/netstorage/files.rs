//! What the emulator holds: objects in files of a folder, directories that were made, and what a client may do to them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use md5::{Digest as _, Md5};
use sha2::Sha256;

use super::auth::{Action, Refusal};
use super::forget;

/// Everything below the CP code. Paths begin with it, without a slash.
pub(super) struct Files {
    folder: PathBuf,
    cp_code: &'static str,
    made: u64,
    pub(super) objects: BTreeMap<String, Object>,
    /// Directories that were made by themselves; others are where objects are.
    pub(super) folders: BTreeSet<String>,
    /// Time and id of every signature.
    pub(super) seen_ids: HashSet<(u64, u64)>,
}

/// An object.
pub(super) struct Object {
    at: PathBuf,
    pub(super) size: u64,
    pub(super) md5: String,
    pub(super) mtime_s: i64,
}

impl Drop for Object {
    fn drop(&mut self) {
        forget(&self.at);
    }
}

/// What comes in.
pub(super) struct Incoming {
    at: PathBuf,
    file: File,
    bytes: u64,
    md5: Md5,
    sha256: Sha256,
}

impl Incoming {
    pub(super) fn new(at: PathBuf) -> io::Result<Self> {
        let file = File::create(&at)?;
        Ok(Self { at, file, bytes: 0, md5: Md5::new(), sha256: Sha256::new() })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.md5.update(bytes);
        self.sha256.update(bytes);
        self.file.write_all(bytes)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Files {
    pub(super) fn new(folder: &Path, cp_code: &'static str) -> Self {
        let (folder, objects, folders) = (folder.to_owned(), BTreeMap::new(), BTreeSet::new());
        Self { folder, cp_code, made: 0, objects, folders, seen_ids: HashSet::new() }
    }

    pub(super) fn keys(&self) -> Vec<String> {
        let below = format!("{}/", self.cp_code);
        self.objects.keys().filter_map(|path| path.strip_prefix(&below)).map(str::to_owned).collect()
    }

    pub(super) fn new_file(&mut self) -> io::Result<PathBuf> {
        self.made += 1;
        Ok(self.folder.join(self.made.to_string()))
    }

    pub(super) fn object(&self, path: &str) -> Option<&Object> {
        self.objects.get(path)
    }

    /// Whether it is the CP code, was made, or has something in it.
    pub(super) fn is_folder(&self, path: &str) -> bool {
        let below = format!("{path}/");
        let has = |first: Option<&String>| first.is_some_and(|first| first.starts_with(&below));
        path == self.cp_code
            || self.folders.contains(path)
            || has(self.objects.range(below.clone()..).next().map(|(path, _)| path))
            || has(self.folders.range(below.clone()..).next())
    }

    fn check_cp_code(&self, path: &str) -> Result<(), Refusal> {
        let below = path.strip_prefix(self.cp_code).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if below { Ok(()) } else { Err(Refusal(404, "no such CP code".to_owned())) }
    }

    /// What came in becomes an object, if it is what was announced.
    pub(super) fn finish(&mut self, path: &str, action: &Action, upload: Incoming, now_s: u64) -> Result<(), Refusal> {
        let Incoming { at, bytes, md5, sha256, .. } = upload;
        let (md5, sha256) = (hex(&md5.finalize()), hex(&sha256.finalize()));
        // Gone again if it is refused.
        let mut object = Object { at, size: bytes, md5, mtime_s: i64::try_from(now_s).unwrap_or(0) };
        self.check_cp_code(path)?;
        if path == self.cp_code || path.ends_with('/') {
            return Err(Refusal(409, "an object needs a name".to_owned()));
        }
        let mismatch = |what: &str| Err(Refusal(412, format!("{what} does not match")));
        if action.number::<u64>("size")?.is_some_and(|size| size != bytes) {
            return mismatch("size");
        }
        let differs = |name: &str, is: &str| action.get(name).is_some_and(|value| !value.eq_ignore_ascii_case(is));
        if differs("md5", &object.md5) {
            return mismatch("md5");
        }
        if differs("sha256", &sha256) {
            return mismatch("sha256");
        }
        if action.get("sha1").is_some() {
            return Err(Refusal(400, "the emulator has no sha1".to_owned()));
        }
        if let Some(mtime_s) = action.number::<u32>("mtime")? {
            object.mtime_s = mtime_s.into();
        }
        self.objects.insert(path.to_owned(), object);
        Ok(())
    }

    pub(super) fn delete(&mut self, path: &str) -> Result<(), Refusal> {
        self.check_cp_code(path)?;
        match self.objects.remove(path) {
            Some(_) => Ok(()),
            None if self.is_folder(path) => Err(Refusal(409, "it is a directory".to_owned())),
            None => Err(Refusal(404, "no such object".to_owned())),
        }
    }

    pub(super) fn mkdir(&mut self, path: &str) -> Result<(), Refusal> {
        self.check_cp_code(path)?;
        self.folders.insert(path.trim_end_matches('/').to_owned());
        Ok(())
    }

    pub(super) fn rmdir(&mut self, path: &str) -> Result<(), Refusal> {
        let path = path.trim_end_matches('/');
        if !self.folders.remove(path) {
            return Err(Refusal(404, "no such directory".to_owned()));
        }
        if self.is_folder(path) {
            self.folders.insert(path.to_owned());
            return Err(Refusal(409, "it is not empty".to_owned()));
        }
        Ok(())
    }

    pub(super) fn set_time(&mut self, path: &str, action: &Action) -> Result<(), Refusal> {
        let mtime_s = action.number::<u32>("mtime")?.ok_or_else(|| Refusal(400, "no mtime".to_owned()))?;
        let object = self.objects.get_mut(path).ok_or_else(|| Refusal(404, "no such object".to_owned()))?;
        object.mtime_s = mtime_s.into();
        Ok(())
    }
}

impl Object {
    /// Its bytes; of ranges only those with a first and a last byte are honoured.
    pub(super) fn download(&self, range: Option<&str>, hides_tags: bool) -> Result<Response<Full<Bytes>>, Refusal> {
        let failed = |error: &dyn std::fmt::Display| Refusal(500, error.to_string());
        let parsed = range.and_then(|range| {
            let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?))
        });
        let mut answer = Response::builder();
        let (from, bytes) = match parsed {
            Some((from, to)) if from >= self.size || to < from => return Err(Refusal(416, "no such range".to_owned())),
            Some((from, to)) => {
                let to = to.min(self.size - 1);
                answer = answer.status(206).header("content-range", format!("bytes {from}-{to}/{}", self.size));
                (from, to - from + 1)
            }
            None => (0, self.size),
        };
        if !hides_tags {
            answer = answer.header("etag", format!("\"{}\"", self.md5));
        }
        let modified = UNIX_EPOCH + Duration::from_secs(self.mtime_s.unsigned_abs());
        let mut body = vec![0; usize::try_from(bytes).map_err(|error| failed(&error))?];
        let read = File::open(&self.at).and_then(|file| file.read_exact_at(&mut body, from));
        read.map_err(|error| failed(&error))?;
        answer.header("last-modified", httpdate::fmt_http_date(modified)).body(Full::from(body)).map_err(|error| failed(&error))
    }
}
