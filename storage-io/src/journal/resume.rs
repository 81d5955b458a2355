//! What earlier transfers have left of a destination, checked against the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tradewind_parts::PartPlan;

use super::database::{Database, Row};
use super::{DoneObject, Entry, OpenObject, Recalled, Scope, unix_now};
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::list::{Depth, LIST_ENTRIES_MAX, ListEntry};
use crate::retry::RetryPolicy;
use crate::store::{ObjectKey, PartReceipt, Store, Upload, token_of};
use crate::upload::{KeptMemory, ObjectName, Sample, UploaderConfig};

/// Rows read at once.
const PAGE: usize = 1000;
/// Questions to the store at once.
const LOOKS_IN_FLIGHT: usize = 64;

/// Something that need not be sent again. Paths are relative to the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Durable {
    /// A whole file.
    File {
        /// Its path; for [`crate::ObjectName::Exact`] the last component of the name.
        path: Vec<u8>,
        /// Its size, bytes.
        size: u64,
        /// Modification time of its source, nanoseconds since 1970.
        mtime_ns: i64,
        /// Its key at the store.
        key: ObjectKey,
        /// Checksum of its bytes when it was stored.
        crc: Crc64,
        /// The store's entity tag, if it has such.
        etag: Option<String>,
        /// Ranges of a large file whose checksums were noted, in order.
        samples: Vec<Sample>,
    },
    /// Bytes of a file that is not whole yet.
    Part {
        /// As for `File`.
        path: Vec<u8>,
        /// Size of the whole file, bytes.
        size: u64,
        /// As for `File`.
        mtime_ns: i64,
        /// Where they begin, bytes.
        offset: u64,
        /// How many.
        length: u64,
        /// Checksum of them when they were stored.
        crc: Crc64,
    },
}

/// What an [`crate::Uploader`] has to know of the journal and of what earlier transfers left.
#[derive(Debug)]
pub struct Resumption {
    pub(crate) scope: Scope,
    /// Uploads that are open at the store.
    pub(crate) open: HashMap<ObjectKey, Reopened>,
    /// What no store has of what was received.
    pub(crate) recalled: Recalled,
    /// What that is read into.
    pub(crate) memory: KeptMemory,
    /// Objects of the same size and time as the source count as ours.
    pub(crate) by_attributes: bool,
}

impl Resumption {
    /// Objects that are there already and have the source's size and time count as ours, though nobody was told of them.
    pub fn recognise(&mut self) {
        self.by_attributes = true;
    }

    /// What was received is read into this memory, which other uploads may have too. Without it, into [`KeptMemory::default`] of its own.
    pub fn read_into(&mut self, memory: &KeptMemory) {
        self.memory = memory.clone();
    }
}

/// An upload that an earlier transfer began.
#[derive(Debug)]
pub(crate) struct Reopened {
    pub(crate) object: OpenObject,
    pub(crate) upload: Arc<dyn Upload>,
    /// Empty if nothing of it may be used.
    pub(crate) receipts: Vec<PartReceipt>,
}

/// Reads the journal, asks the store whether it is still true, and hands over what need not be sent again. With `is_wanted` false nothing is,
/// but what was begun is still found and given up when the same object is begun anew. `recalled`: what was kept of what earlier transfers of the
/// same names and variant received; nothing if nothing is wanted.
///
/// # Errors
/// [`StoreError`] of the journal or the store, or what `each` returns.
pub async fn resume(
    scope: &Scope,
    config: &UploaderConfig,
    is_wanted: bool,
    recalled: Recalled,
    each: &mut (dyn FnMut(&Durable) -> Result<(), StoreError> + Send),
) -> Result<Resumption, StoreError> {
    // What the transfer before this one told the journal may still be on its way.
    scope.flush().await;
    let memory = KeptMemory::default();
    let mut resumption = Resumption { scope: scope.clone(), open: HashMap::new(), recalled, memory, by_attributes: is_wanted };
    let (mut after, mut listed) = (None, None);
    loop {
        let rows = page(scope, config, after.take(), !is_wanted).await?;
        let Some(last) = rows.last() else {
            resumption.recalled.tell(config, each)?;
            return Ok(resumption);
        };
        after = Some(last.key().clone());
        if listed.is_none() && rows.len() == PAGE && is_wanted {
            listed = Some(Listed::of(scope.place.store.as_ref(), config).await?);
        }
        let rows = rows.into_iter().filter(|row| config.is_below(row.key()));
        let looks = rows.filter(|row| is_wanted || matches!(row, Row::Open(..))).map(|row| look(scope, config, listed.as_ref(), row));
        let mut looks = futures_util::stream::iter(looks).buffered(LOOKS_IN_FLIGHT);
        while let Some(found) = looks.next().await {
            match found? {
                // The same name, size and time, but other bytes.
                Looked::Done(object) if object.variant != config.variant => {}
                Looked::Done(object) => {
                    let path = config.path_of(&object.key);
                    let DoneObject { key, size, mtime_ns, etag, crc, samples, .. } = object;
                    resumption.recalled.is_stored(&key);
                    each(&Durable::File { path, size, mtime_ns, key, crc, etag, samples })?;
                }
                Looked::Open(mut reopened) => {
                    if !is_wanted || reopened.object.variant != config.variant {
                        reopened.receipts.clear();
                    }
                    let OpenObject { key, size, mtime_ns, part_bytes, .. } = &reopened.object;
                    for receipt in &reopened.receipts {
                        let offset = u64::from(receipt.number - 1) * part_bytes;
                        let (path, size, mtime_ns) = (config.path_of(key), *size, *mtime_ns);
                        each(&Durable::Part { path, size, mtime_ns, offset, length: receipt.len, crc: receipt.crc })?;
                    }
                    let ranges = reopened.receipts.iter().map(|receipt| {
                        let start = u64::from(receipt.number - 1) * part_bytes;
                        start..start + receipt.len
                    });
                    resumption.recalled.are_stored(key, *size, *mtime_ns, &ranges.collect::<Vec<_>>());
                    resumption.open.insert(key.clone(), reopened);
                }
                Looked::Gone => {}
            }
        }
    }
}

impl Row {
    fn key(&self) -> &ObjectKey {
        match self {
            Self::Open(object, _) => &object.key,
            Self::Done(object) => &object.key,
        }
    }
}

async fn page(scope: &Scope, config: &UploaderConfig, after: Option<ObjectKey>, only_open: bool) -> Result<Vec<Row>, StoreError> {
    let (place, prefix) = (Arc::clone(&scope.place), config.prefix().to_owned());
    if matches!(config.name, ObjectName::Exact(_)) {
        // Behind the only one there is none.
        if after.is_some() {
            return Ok(Vec::new());
        }
        return scope.read(move |database| Ok(database.row(&place.name, prefix.as_bytes())?.into_iter().collect())).await;
    }
    scope.read(move |database| database.rows(&place.name, prefix.as_bytes(), after.as_ref(), only_open, PAGE)).await
}

/// What is still there of a row.
enum Looked {
    Done(DoneObject),
    Open(Reopened),
    Gone,
}

async fn look(scope: &Scope, config: &UploaderConfig, listed: Option<&Listed>, row: Row) -> Result<Looked, StoreError> {
    match row {
        Row::Done(object) => {
            let is_there = match listed {
                Some(listed) => Some(listed.has(&object)),
                None => still_there(scope.place.store.as_ref(), config, &object).await?,
            };
            if is_there == Some(false) {
                scope.forget(object.key.clone());
            }
            Ok(if is_there == Some(true) { Looked::Done(object) } else { Looked::Gone })
        }
        Row::Open(object, receipts) => {
            // Before it is looked at, so that nobody gives it up meanwhile.
            scope.hold(object.id);
            look_at_open(scope, config, object, receipts).await
        }
    }
}

/// What tells one state of a stored object from another.
struct Seen {
    size: u64,
    /// Checksum of the entity tag.
    tag: u64,
    /// Of the file, if the store keeps it.
    mtime_ns: Option<i64>,
}

impl Seen {
    fn new(size: u64, etag: Option<&str>, mtime_ns: Option<i64>) -> Self {
        Self { size, tag: tag_of(etag), mtime_ns }
    }

    /// Whether it is still what was noted.
    fn is(&self, object: &DoneObject) -> bool {
        let same_tag = object.etag.is_none() || self.tag == tag_of(object.etag.as_deref());
        // Where a tag has told already that it is the same, the time may be one that the store has shortened.
        let is_time = |kept| if object.etag.is_some() { is_time_of(kept, object.mtime_ns) } else { kept == object.mtime_ns };
        self.size == object.size && same_tag && self.mtime_ns.is_none_or(is_time)
    }
}

/// Whether a store tells `kept` of a file of that time. NetStorage keeps whole seconds, and none before 1970.
fn is_time_of(kept: i64, mtime_ns: i64) -> bool {
    const NS_PER_S: i64 = 1_000_000_000;
    kept == mtime_ns || kept == mtime_ns.div_euclid(NS_PER_S).max(0) * NS_PER_S
}

fn tag_of(etag: Option<&str>) -> u64 {
    Crc64::of(etag.unwrap_or_default().as_bytes()).0
}

/// What a store has below a prefix: asked for at once where there would be too many single questions. 48 bytes an object.
struct Listed(HashMap<u128, Seen>);

impl Listed {
    async fn of(store: &dyn Store, config: &UploaderConfig) -> Result<Self, StoreError> {
        let (mut listed, mut after) = (HashMap::new(), None::<Vec<u8>>);
        loop {
            let list = || store.list(config.prefix(), after.as_deref(), LIST_ENTRIES_MAX, Depth::All);
            let page = config.retry.run("listing objects", 0, StoreError::is_retryable, |_| {}, list).await?;
            for entry in page.entries {
                if let ListEntry::Object(object) = entry {
                    // The store's own time says nothing of the file, except where it is the file's.
                    let mtime_ns = if object.etag.is_none() { object.modified_ns } else { None };
                    listed.insert(token_of(&object.key, 0, 0, 0), Seen::new(object.size, object.etag.as_deref(), mtime_ns));
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(Self(listed)),
            }
        }
    }

    fn has(&self, object: &DoneObject) -> bool {
        self.0.get(&token_of(&object.key, 0, 0, 0)).is_some_and(|seen| seen.is(object))
    }
}

/// `None`: it may not be looked at.
async fn still_there(store: &dyn Store, config: &UploaderConfig, object: &DoneObject) -> Result<Option<bool>, StoreError> {
    let head = || store.head(&object.key);
    let found = match config.retry.run("looking for an object", 0, StoreError::is_retryable, |_| {}, head).await {
        // Who writes there is told.
        Err(StoreError::AccessDenied { .. }) => return Ok(None),
        Err(error) if error.spares_other_files() => return Ok(Some(false)),
        found => found?,
    };
    Ok(Some(found.is_some_and(|found| Seen::new(found.size, found.etag.as_deref(), found.mtime_ns).is(object))))
}

async fn look_at_open(
    scope: &Scope,
    config: &UploaderConfig,
    object: OpenObject,
    receipts: Vec<PartReceipt>,
) -> Result<Looked, StoreError> {
    let (store, retry) = (scope.place.store.as_ref(), config.retry);
    let meta = object.meta(config.overwrite);
    let reopen = || store.reopen(&object.key, meta.clone(), &object.handle);
    let upload = match retry.run("finding an upload again", 0, StoreError::is_retryable, |_| {}, reopen).await {
        Ok(upload) => upload,
        Err(StoreError::UploadGone { .. }) => return gone(scope, config, object, &receipts).await,
        // Another transfer is writing it. What this one does about it, it will see.
        Err(StoreError::Busy { .. }) => return Ok(Looked::Gone),
        // Whoever writes there is told.
        Err(error) if error.spares_other_files() => return Ok(Looked::Gone),
        Err(error) => return Err(error),
    };
    let recall = || upload.recall(receipts.clone());
    let mut held = match retry.run("listing stored parts", 0, StoreError::is_retryable, |_| {}, recall).await {
        Ok(held) => held,
        Err(StoreError::UploadGone { .. }) => return gone(scope, config, object, &receipts).await,
        Err(error) => return Err(error),
    };
    let name = object.key.to_string();
    let plan = PartPlan::new(&name, object.size, config.block_bytes, Some(object.part_bytes), &store.limits());
    match plan.ok().filter(|plan| plan.part_bytes() == object.part_bytes && object.part_bytes <= config.pool_bytes) {
        Some(plan) => {
            held.retain(|receipt| plan.range(receipt.number).is_some_and(|range| range.end - range.start == receipt.len));
            // The object is made when its last part arrives, so one has to.
            if held.len() == plan.count() as usize {
                held.pop();
            }
        }
        // Blocks have another size now.
        None => held.clear(),
    }
    Ok(Looked::Open(Reopened { object, upload, receipts: held }))
}

/// The upload is gone: perhaps because the object was completed and nobody was left to note it.
async fn gone(scope: &Scope, config: &UploaderConfig, object: OpenObject, receipts: &[PartReceipt]) -> Result<Looked, StoreError> {
    let crc = receipts.iter().fold(Crc64::default(), |crc, part| crc.append(part.crc, part.len));
    let is_whole = receipts.iter().map(|part| part.len).sum::<u64>() == object.size;
    let meta = object.meta(false);
    let OpenObject { key, size, mtime_ns, variant, .. } = object;
    if is_whole {
        let store = scope.place.store.as_ref();
        let find = || store.find_own(&key, meta.clone(), crc);
        let found = match config.retry.run("looking for an object", 0, StoreError::is_retryable, |_| {}, find).await {
            Ok(found) => found,
            // It may be one that cannot be compared in time. Then it is sent again, and recognised as it is stored.
            Err(StoreError::Timeout { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(found) = found {
            let done = DoneObject { key, size, mtime_ns, variant, etag: found.etag, crc, samples: Vec::new() };
            scope.done(done.clone());
            return Ok(Looked::Done(done));
        }
    }
    scope.forget(key);
    Ok(Looked::Gone)
}

impl Scope {
    /// Gives up uploads of this store that nobody has gone on with for `after` and no transfer of this process works on, and forgets what was stored longer ago than that. Returns how
    /// many uploads were given up.
    ///
    /// # Errors
    /// [`StoreError`] of the journal; what the store says of single uploads is logged.
    pub async fn sweep(&self, after: Duration, retry: &RetryPolicy) -> Result<usize, StoreError> {
        let since = unix_now().saturating_sub(i64::try_from(after.as_secs()).unwrap_or(i64::MAX));
        let place = Arc::clone(&self.place);
        let reading = move |database: &Database| {
            database.expire(since)?;
            database.stale(&place.name, since)
        };
        let stale = self.read(reading).await?;
        let (store, mut given_up) = (&self.place.store, 0);
        for object in stale {
            if self.is_live(object.id) {
                continue;
            }
            // It is not the first that the next transfer tries, whatever comes of it or however long that takes.
            self.tell(Entry::Touch(object.id));
            let meta = object.meta(false);
            let abort = || async {
                match store.reopen(&object.key, meta.clone(), &object.handle).await {
                    Ok(upload) => upload.abort().await,
                    Err(StoreError::UploadGone { .. }) => Ok(()),
                    Err(error) => Err(error),
                }
            };
            match retry.run("aborting an upload", 0, StoreError::is_retryable, |_| {}, abort).await {
                Ok(()) => {
                    self.forget(object.key);
                    given_up += 1;
                }
                Err(StoreError::Busy { .. }) => {}
                Err(error) => tracing::warn!(%error, key = %object.key, "an upload that nobody goes on with could not be aborted"),
            }
        }
        Ok(given_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;
    use crate::local::LocalStore;
    use crate::store::{Attributes, ObjectMeta};

    #[test]
    fn times_in_whole_seconds_are_those_of_their_files() {
        for (kept, mtime_ns) in [(5, 5), (-5, -5), (1_000_000_000, 1_999_999_999), (0, 7), (0, -7)] {
            assert!(is_time_of(kept, mtime_ns), "{kept} {mtime_ns}");
        }
        for (kept, mtime_ns) in [(6, 5), (1_000_000_000, 2_000_000_000), (2_000_000_000, 1_999_999_999), (0, 1_000_000_000)] {
            assert!(!is_time_of(kept, mtime_ns), "{kept} {mtime_ns}");
        }
    }

    #[tokio::test]
    async fn what_nobody_goes_on_with_is_given_up_and_what_somebody_works_on_is_not() {
        let (state, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let journal = Journal::open(state.path()).unwrap();
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(root.path()).unwrap());
        let partial = root.path().join(".f.tradewind-partial");
        let working = journal.scope(Arc::clone(&store));
        let (upload, object) = begun(&store).await;
        working.begun(object);
        // As in a bucket, where no lock keeps anybody away.
        drop(upload);
        working.flush().await;
        // The journal counts in seconds.
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        let janitor = journal.scope(store);
        let sweep = async |after| janitor.sweep(Duration::from_secs(after), &RetryPolicy::default()).await.unwrap();
        assert_eq!((sweep(1).await, partial.exists()), (0, true), "somebody works on it");
        let also_working = working.clone();
        drop(working);
        assert_eq!((sweep(1).await, partial.exists()), (0, true), "somebody still does");
        drop(also_working);
        assert_eq!((sweep(60).await, partial.exists()), (0, true), "somebody may go on with it");
        assert_eq!((sweep(1).await, partial.exists()), (1, false));
        janitor.flush().await;
        assert_eq!(sweep(1).await, 0, "it is forgotten");
    }

    /// An upload of `f`, and what the journal is told of it.
    async fn begun(store: &Arc<dyn Store>) -> (Arc<dyn Upload>, OpenObject) {
        let key = ObjectKey::new(b"f").unwrap();
        let meta = ObjectMeta { size: 10, mtime_ns: 5, mode: 0, overwrite: false, token: 0, attributes: Arc::default() };
        let upload = store.begin(&key, meta).await.unwrap();
        upload.keep();
        let (handle, attributes) = (upload.handle(), Attributes::default());
        (upload, OpenObject { id: 7, key, size: 10, mtime_ns: 5, variant: 0, mode: 0, attributes, part_bytes: 10, handle })
    }

    /// Every transfer would try it otherwise, and none would get to those behind it.
    #[tokio::test]
    async fn what_cannot_be_given_up_is_not_tried_by_the_next() {
        let (state, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let journal = Journal::open(state.path()).unwrap();
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(root.path()).unwrap());
        // As by another process: held, but not by a scope of this journal.
        let (_held, object) = begun(&store).await;
        let janitor = journal.scope(store);
        janitor.tell(Entry::Begun(object));
        janitor.flush().await;
        let old = async || {
            let place = Arc::clone(&janitor.place);
            janitor.read(move |database| database.stale(&place.name, unix_now() - 1)).await.unwrap().len()
        };
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        assert_eq!(old().await, 1);
        assert_eq!(janitor.sweep(Duration::from_secs(1), &RetryPolicy::default()).await.unwrap(), 0);
        janitor.flush().await;
        assert_eq!(old().await, 0);
    }
}
