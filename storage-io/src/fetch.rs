//! Reading objects, one after the other and each from its beginning, with many requests on their way.
//!
//! Objects come as they are listed. All of them are read by ranges that expect the object that was listed, so one that changes
//! meanwhile is noticed. Memory: at most [`FetchConfig::requests`] × [`FetchConfig::range_bytes`], and a page of the listing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};

use crate::error::StoreError;
use crate::list::{Depth, LIST_ENTRIES_MAX, ListEntry, ListedObject};
use crate::name;
use crate::retry::RetryPolicy;
use crate::store::{Attributes, ObjectInfo, ObjectKey, Store};
use crate::upload::ObjectName;

/// Objects looked at at once before they are read.
const LOOKS_IN_FLIGHT: usize = 32;

/// What of an object is still wanted, by its path, size and modification time; empty ranges: nothing. An empty object has one empty range.
pub type Wanted = dyn Fn(&[u8], u64, i64) -> Vec<Range<u64>> + Send + Sync;

/// Whether an object of this path is to be read.
pub type TakesPath = dyn Fn(&[u8]) -> bool + Send + Sync;
/// Whether one of this time ([`ObjectInfo::file_time_ns`]) is.
pub type TakesTime = dyn Fn(i64) -> bool + Send + Sync;

/// How objects are read.
#[derive(Clone)]
pub struct FetchConfig {
    /// Which: all below a prefix; or one object, or if there is none all in the folder of that name.
    pub name: ObjectName,
    /// Bytes of a request at most. Default 2 MiB.
    pub range_bytes: u64,
    /// Requests on their way at once. Default 32.
    pub requests: usize,
    /// Which are read, by their paths; asked of what is listed. Default all.
    pub takes_path: Option<Arc<TakesPath>>,
    /// Which of these, by their times; each is looked at first then, for a listing does not tell them. Default all.
    pub takes_time: Option<Arc<TakesTime>>,
    /// Asked of each object before it is read; each is looked at first then. Default none: everything is wanted.
    pub wanted: Option<Arc<Wanted>>,
    /// Retries and deadlines of every request.
    pub retry: RetryPolicy,
}

impl FetchConfig {
    /// Defaults for everything but the name.
    #[must_use]
    pub fn new(name: ObjectName) -> Self {
        Self { name, range_bytes: 2 << 20, requests: 32, takes_path: None, takes_time: None, wanted: None, retry: RetryPolicy::default() }
    }
}

/// An object that is being read.
#[derive(Debug, PartialEq, Eq)]
pub struct FetchedObject {
    /// From 0 upwards, in the order of the listing.
    pub number: u32,
    /// Its path below what is read: a folder that was named without '/' at its end is the first component.
    pub path: Vec<u8>,
    /// Its size, bytes.
    pub size: u64,
}

/// Something that was read.
#[derive(Debug)]
pub enum Fetched {
    /// A run of bytes.
    Bytes {
        /// Of this object.
        object: Arc<FetchedObject>,
        /// What the store says of it.
        info: ObjectInfo,
        /// Where they begin.
        offset: u64,
        /// The bytes; none for an empty object.
        bytes: Vec<Bytes>,
    },
    /// This object cannot be read; others can. Runs of it may still follow, which mean nothing.
    Failed {
        /// The object.
        object: Arc<FetchedObject>,
        /// Why.
        error: StoreError,
    },
    /// Nothing of this object is wanted.
    Unwanted {
        /// The object.
        object: Arc<FetchedObject>,
    },
}

impl StoreError {
    /// Whether it is about one object, and others may be read all the same.
    fn is_about_one_object(&self) -> bool {
        matches!(
            self,
            Self::ObjectGone { .. }
                | Self::ObjectChanged { .. }
                | Self::AccessDenied { .. }
                | Self::InvalidName { .. }
                | Self::Rejected { .. }
                | Self::Io { .. }
        )
    }
}

/// An object and where it stands in the store.
#[derive(Clone)]
struct Found {
    object: Arc<FetchedObject>,
    key: ObjectKey,
    /// As far as it is known before it is read.
    expected: ObjectInfo,
    /// A run of it could not be read, so no other has to be.
    failed: Arc<AtomicBool>,
}

/// A run of bytes to be read, or what to say instead.
enum Job {
    Read(Found, Range<u64>),
    Say(Fetched),
}

/// What is to be done for one object: a large one has too many runs to be listed.
type Jobs = Box<dyn Iterator<Item = Job> + Send>;

/// Reads objects. The stream ends early with an error that concerns all of them.
///
/// # Errors
/// [`StoreError::ObjectGone`] when there is nothing to read; [`StoreError`].
pub async fn fetch(
    store: Arc<dyn Store>,
    config: FetchConfig,
) -> Result<impl Stream<Item = Result<Fetched, StoreError>> + Send, StoreError> {
    let listing = Arc::new(Listing::open(store, config).await?);
    let found = stream::try_unfold((Arc::clone(&listing), Pages::default()), |(listing, mut pages)| async move {
        let next = listing.next(&mut pages).await?;
        Ok::<_, StoreError>(next.map(|found| (found, (listing, pages))))
    });
    let looking = Arc::clone(&listing);
    let looked = found.map(move |found| {
        let listing = Arc::clone(&looking);
        async move {
            match found {
                Ok(found) => listing.jobs(found).await,
                Err(error) => Err(error),
            }
        }
    });
    let requests = listing.config.requests.max(1);
    let jobs = looked.buffered(LOOKS_IN_FLIGHT).flat_map(|jobs| {
        stream::iter(match jobs {
            Ok(jobs) => Box::new(jobs.map(Ok)) as Box<dyn Iterator<Item = Result<Job, StoreError>> + Send>,
            Err(error) => Box::new(std::iter::once(Err(error))),
        })
    });
    let read = jobs.map(move |job| {
        let listing = Arc::clone(&listing);
        async move {
            match job? {
                Job::Read(found, range) => listing.read(found, range).await,
                Job::Say(fetched) => Ok(fetched),
            }
        }
    });
    Ok(read.buffered(requests))
}

/// What is to be listed.
struct Listing {
    store: Arc<dyn Store>,
    config: FetchConfig,
    prefix: String,
    /// What stands before the names below the prefix.
    folder: Vec<u8>,
    /// The one object, if it is one.
    single: Option<Found>,
}

/// How far a listing is.
#[derive(Default)]
struct Pages {
    entries: VecDeque<ListEntry>,
    after: Option<Vec<u8>>,
    number: u32,
    is_over: bool,
}

impl Listing {
    async fn open(store: Arc<dyn Store>, config: FetchConfig) -> Result<Self, StoreError> {
        let (prefix, folder) = match &config.name {
            ObjectName::Into(prefix) => (prefix.clone(), Vec::new()),
            ObjectName::Exact(name) => {
                let key = ObjectKey::new(name.as_bytes())?;
                let last = key.components().next_back().unwrap_or_default();
                let last = if store.takes_only_text() { name::decode(last) } else { last.to_vec() };
                let head = || store.head(&key);
                if let Some(info) = config.retry.run("looking for an object", 0, StoreError::is_retryable, |_| {}, head).await? {
                    let object = Arc::new(FetchedObject { number: 0, path: last, size: info.size });
                    let single = Some(Found { object, key, expected: info, failed: Arc::default() });
                    return Ok(Self { store, config, prefix: String::new(), folder: Vec::new(), single });
                }
                (format!("{name}/"), [&last[..], b"/"].concat())
            }
        };
        let listing = Self { store, config, prefix, folder, single: None };
        let first = listing.page(None, 1).await?;
        if first.entries.is_empty() && first.next.is_none() {
            let (ObjectName::Into(name) | ObjectName::Exact(name)) = &listing.config.name;
            let object = format!("{}: {}", listing.store.place(), if name.is_empty() { "any object" } else { name });
            return Err(StoreError::ObjectGone { object });
        }
        Ok(listing)
    }

    async fn page(&self, after: Option<&[u8]>, limit: usize) -> Result<crate::list::Listing, StoreError> {
        let list = || self.store.list(&self.prefix, after, limit, Depth::All);
        self.config.retry.run("listing objects", 0, StoreError::is_retryable, |_| {}, list).await
    }

    async fn next(&self, pages: &mut Pages) -> Result<Option<Found>, StoreError> {
        if let Some(single) = &self.single {
            let is_first = !std::mem::replace(&mut pages.is_over, true);
            return Ok((is_first && self.takes(&single.object.path)).then(|| single.clone()));
        }
        loop {
            match pages.entries.pop_front() {
                Some(ListEntry::Object(listed)) => {
                    let found = self.found(pages.number, listed);
                    if self.takes(&found.object.path) {
                        pages.number += 1;
                        return Ok(Some(found));
                    }
                }
                Some(ListEntry::Folder(_)) => {}
                None if pages.is_over => return Ok(None),
                None => {
                    let page = self.page(pages.after.as_deref(), LIST_ENTRIES_MAX).await?;
                    pages.entries = page.entries.into();
                    pages.is_over = page.next.is_none();
                    pages.after = page.next;
                }
            }
        }
    }

    fn takes(&self, path: &[u8]) -> bool {
        self.config.takes_path.as_ref().is_none_or(|takes| takes(path))
    }

    fn found(&self, number: u32, listed: ListedObject) -> Found {
        let name = listed.key.as_bytes().get(self.prefix.len()..).unwrap_or_default();
        let name = if self.store.takes_only_text() { name::decode(name) } else { name.to_vec() };
        let object = FetchedObject { number, path: [&self.folder[..], &name].concat(), size: listed.size };
        let ListedObject { key, size, modified_ns, etag } = listed;
        let expected = ObjectInfo { size, etag, crc: None, modified_ns, mtime_ns: None, mode: None, attributes: Attributes::default() };
        Found { object: Arc::new(object), key, expected, failed: Arc::default() }
    }

    /// The runs of an object that are wanted.
    async fn jobs(&self, mut found: Found) -> Result<Jobs, StoreError> {
        let size = found.object.size;
        let mut ranges: Vec<Range<u64>> = std::iter::once(0..size).collect();
        // The checksum of the whole is only told of the whole, and a question beside many requests costs little.
        if self.config.wanted.is_some() || self.config.takes_time.is_some() || size > self.config.range_bytes {
            match self.look(&found).await {
                Ok(info) => {
                    if let Some(wanted) = &self.config.wanted {
                        ranges = wanted(&found.object.path, size, info.file_time_ns());
                        // What is wanted may come from somebody else's list.
                        ranges.retain(|range| range.start <= range.end && range.end <= size && (!range.is_empty() || size == 0));
                    }
                    if self.config.takes_time.as_ref().is_some_and(|takes| !takes(info.file_time_ns())) {
                        ranges.clear();
                    }
                    // A listing knows less of it.
                    found.expected = info;
                }
                Err(error) if error.is_about_one_object() => {
                    return Ok(Box::new(std::iter::once(Job::Say(Fetched::Failed { object: found.object, error }))));
                }
                Err(error) => return Err(error),
            }
        }
        if ranges.is_empty() {
            return Ok(Box::new(std::iter::once(Job::Say(Fetched::Unwanted { object: found.object }))));
        }
        let range_bytes = self.config.range_bytes.max(1);
        let runs = ranges.into_iter().flat_map(move |range| {
            let mut from = range.start;
            let mut is_over = false;
            std::iter::from_fn(move || {
                // Requests begin at multiples of their size, however the first was cut.
                let run = from..((from / range_bytes + 1) * range_bytes).min(range.end);
                from = run.end;
                (!std::mem::replace(&mut is_over, run.end >= range.end)).then_some(run)
            })
        });
        Ok(Box::new(runs.map(move |run| Job::Read(found.clone(), run))))
    }

    async fn look(&self, found: &Found) -> Result<ObjectInfo, StoreError> {
        let head = || self.store.head(&found.key);
        let info = self.config.retry.run("looking for an object", 0, StoreError::is_retryable, |_| {}, head).await?;
        let info = info.ok_or_else(|| StoreError::ObjectGone { object: found.key.to_string() })?;
        if info.is_same(&found.expected) {
            return Ok(info);
        }
        Err(StoreError::ObjectChanged { object: found.key.to_string(), what: "its size, time or entity tag" })
    }

    async fn read(&self, found: Found, range: Range<u64>) -> Result<Fetched, StoreError> {
        let (bytes, offset) = (range.end - range.start, range.start);
        if found.failed.load(Ordering::Relaxed) {
            let error = StoreError::ObjectGone { object: found.key.to_string() };
            return Ok(Fetched::Failed { object: found.object, error });
        }
        let result = if bytes == 0 {
            self.look(&found).await.map(|info| (info, Vec::new()))
        } else {
            let read = || self.store.read(&found.key, range.clone(), Some(&found.expected));
            let read = self.config.retry.run("reading an object", bytes, StoreError::is_retryable, |_| {}, read).await;
            read.map(|read| (read.info, read.bytes))
        };
        match result {
            Ok((info, bytes)) => {
                let info = ObjectInfo { crc: info.crc.or(found.expected.crc), ..info };
                Ok(Fetched::Bytes { object: found.object, info, offset, bytes })
            }
            Err(error) if error.is_about_one_object() => {
                found.failed.store(true, Ordering::Relaxed);
                Ok(Fetched::Failed { object: found.object, error })
            }
            Err(error) => Err(error),
        }
    }
}

impl ObjectInfo {
    /// Modification time of the file, or of the object where nobody kept it, nanoseconds since 1970.
    #[must_use]
    pub fn file_time_ns(&self) -> i64 {
        self.mtime_ns.or(self.modified_ns).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::LocalStore;

    async fn read(store: &Arc<dyn Store>, config: FetchConfig) -> Result<Vec<(String, u64, Vec<u8>)>, StoreError> {
        let fetched = fetch(Arc::clone(store), config).await?.collect::<Vec<_>>().await;
        let mut runs = Vec::new();
        for fetched in fetched {
            runs.push(match fetched? {
                Fetched::Bytes { object, offset, bytes, .. } => {
                    (String::from_utf8_lossy(&object.path).into_owned(), offset, bytes.concat())
                }
                Fetched::Failed { object, error } => (format!("{}: {error}", String::from_utf8_lossy(&object.path)), 0, Vec::new()),
                Fetched::Unwanted { object } => (format!("{}: unwanted", String::from_utf8_lossy(&object.path)), 0, Vec::new()),
            });
        }
        Ok(runs)
    }

    fn names(runs: &[(String, u64, Vec<u8>)]) -> Vec<&str> {
        runs.iter().map(|(name, ..)| name.as_str()).collect()
    }

    fn tree() -> (tempfile::TempDir, Arc<dyn Store>) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("d/e")).unwrap();
        for (name, bytes) in [("d/a", 10), ("d/e/empty", 0), ("d/e/f", 5), ("top", 1)] {
            std::fs::write(root.path().join(name), (0..bytes).collect::<Vec<u8>>()).unwrap();
        }
        let store = LocalStore::open(root.path()).unwrap();
        (root, Arc::new(store))
    }

    #[tokio::test]
    async fn a_prefix_a_folder_and_an_object_are_read() {
        let (_root, store) = tree();
        let into = |prefix: &str| FetchConfig { range_bytes: 4, ..FetchConfig::new(ObjectName::Into(prefix.to_owned())) };
        let exact = |name: &str| FetchConfig { range_bytes: 4, ..FetchConfig::new(ObjectName::Exact(name.to_owned())) };
        let runs = read(&store, into("d/")).await.unwrap();
        assert_eq!(names(&runs), ["a", "a", "a", "e/empty", "e/f", "e/f"]);
        assert_eq!(runs[1], ("a".to_owned(), 4, vec![4, 5, 6, 7]));
        assert_eq!(names(&read(&store, exact("d/e")).await.unwrap()), ["e/empty", "e/f", "e/f"]);
        assert_eq!(read(&store, exact("top")).await.unwrap(), [("top".to_owned(), 0, vec![0])]);
        for nothing in [exact("to"), into("none/")] {
            assert!(matches!(read(&store, nothing).await, Err(StoreError::ObjectGone { .. })));
        }
    }

    #[tokio::test]
    async fn only_what_is_wanted_is_read() {
        let (_root, store) = tree();
        let wanted = |path: &[u8], size: u64, mtime_ns: i64| {
            assert!(mtime_ns > 0);
            if path == b"a" { vec![1..3, 7..size] } else { Vec::new() }
        };
        let config = FetchConfig { range_bytes: 4, wanted: Some(Arc::new(wanted)), ..FetchConfig::new(ObjectName::Into("d/".to_owned())) };
        let runs = read(&store, config).await.unwrap();
        assert_eq!(names(&runs), ["a", "a", "a", "e/empty: unwanted", "e/f: unwanted"]);
        assert_eq!(runs[..3].iter().map(|(_, offset, bytes)| (*offset, bytes.len())).collect::<Vec<_>>(), [(1, 2), (7, 1), (8, 2)]);
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_read_is_named_and_the_rest_goes_on() {
        let (root, store) = tree();
        let (gone, changed) = (root.path().join("d/a"), root.path().join("d/e/f"));
        // Between the listing and the reading.
        let wanted = move |path: &[u8], size: u64, _: i64| {
            match path {
                b"d/a" => std::fs::remove_file(&gone).unwrap(),
                b"d/e/f" => std::fs::write(&changed, b"longer than before").unwrap(),
                _ => {}
            }
            std::iter::once(0..size).collect()
        };
        let config = FetchConfig { wanted: Some(Arc::new(wanted)), ..FetchConfig::new(ObjectName::Into(String::new())) };
        let runs = read(&store, config).await.unwrap();
        assert_eq!(runs.len(), 4);
        assert!(runs[0].0.contains("d/a") && runs[0].0.contains("d/a is not there any more"), "{}", runs[0].0);
        assert!(runs[2].0.contains("d/e/f changed while it was read"), "{}", runs[2].0);
        assert_eq!(names(&runs)[3], "top");
    }
}
