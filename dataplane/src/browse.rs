//! Listing, looking at and removing objects for the control process, beside the lanes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tradewind_ipc::{Browse, BrowseAnswer, BrowseQuestion, Browsed, FromEngine, ObjectDetails, ObjectEntry, ObjectPage, Store as IpcStore};
use tradewind_storage::{Deadlines, Depth, ListEntry, ObjectInfo, ObjectKey, RetryPolicy, Store, StoreError};

use crate::destination::{open_store, store_code};

/// Questions that stores are asked at the same time; more wait, so that lanes come first.
const AT_ONCE_MAX: usize = 16;

/// From a question to its answer, waiting and repeating included. Less than the control process waits.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of the attributes of an object that are told: twice what Amazon S3 takes.
const ATTRIBUTES_BYTES_MAX: usize = 4096;

/// Buckets that are kept open: with each come connections, and every page of a listing asks again.
const OPEN_MAX: usize = 8;

const RETRY: RetryPolicy =
    RetryPolicy { tries_max: 3, pause_base_ms: 200, pause_max_ms: 1000, deadlines: Deadlines { request_ms: 10_000, bytes_per_s_min: 1 } };

/// Buckets that are open, the longest open first.
type Buckets = Vec<(IpcStore, Arc<dyn Store>)>;

/// Answers [`tradewind_ipc::ToEngine::Browse`].
pub(crate) struct Browser {
    to_control: mpsc::UnboundedSender<FromEngine>,
    permits: Arc<Semaphore>,
    buckets: Arc<Mutex<Buckets>>,
}

impl Browser {
    pub(crate) fn new(to_control: mpsc::UnboundedSender<FromEngine>) -> Self {
        Self { to_control, permits: Arc::new(Semaphore::new(AT_ONCE_MAX)), buckets: Arc::default() }
    }

    /// Answers in a task of its own. The control process bounds their number.
    pub(crate) fn ask(&self, browse: Box<Browse>) {
        let (to_control, permits, buckets) = (self.to_control.clone(), Arc::clone(&self.permits), Arc::clone(&self.buckets));
        tokio::spawn(async move {
            let Browse { request_id, store, question } = *browse;
            let answering = async {
                let _permit = permits.acquire().await;
                answer(opened(&buckets, store)?.as_ref(), question).await
            };
            let answered = tokio::time::timeout(ANSWER_TIMEOUT, answering).await;
            let answer = answered.unwrap_or(Err(StoreError::Timeout { action: "asking the store", after: ANSWER_TIMEOUT }));
            let answer = answer.unwrap_or_else(|error| BrowseAnswer::Failed { code: store_code(&error), text: error.to_string() });
            // Without a control process the engine ends.
            let _ = to_control.send(FromEngine::Browsed(Box::new(Browsed { request_id, answer })));
        });
    }
}

/// The store, opened now or before. A directory is opened anew, because another may have taken its place.
fn opened(buckets: &Mutex<Buckets>, store: IpcStore) -> Result<Arc<dyn Store>, StoreError> {
    if matches!(store, IpcStore::Local { .. }) {
        return open_store(&store);
    }
    let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, open)) = buckets.iter().find(|(known, _)| *known == store) {
        return Ok(Arc::clone(open));
    }
    let open = open_store(&store)?;
    if buckets.len() == OPEN_MAX {
        buckets.remove(0);
    }
    buckets.push((store, Arc::clone(&open)));
    Ok(open)
}

async fn answer(store: &dyn Store, question: BrowseQuestion) -> Result<BrowseAnswer, StoreError> {
    match question {
        BrowseQuestion::List { prefix, after, limit, recursive } => {
            let depth = if recursive { Depth::All } else { Depth::OneLevel };
            page(store, &prefix, after.map(String::into_bytes), limit as usize, depth).await.map(BrowseAnswer::Page)
        }
        BrowseQuestion::Stat { key } => {
            let key = ObjectKey::new(key.as_bytes())?;
            let found = RETRY.run("looking for the object", 0, StoreError::is_retryable, |_| {}, || store.head(&key)).await?;
            Ok(found.map_or(BrowseAnswer::Missing, |info| BrowseAnswer::Object(details(info))))
        }
        BrowseQuestion::Remove { key } => {
            let key = ObjectKey::new(key.as_bytes())?;
            let mut repeated = false;
            let again = |_: &StoreError| repeated = true;
            let removed = RETRY.run("removing the object", 0, StoreError::is_retryable, again, || store.delete(&key)).await?;
            // A try before may have removed it, and only its answer was lost.
            Ok(if removed || repeated { BrowseAnswer::Removed } else { BrowseAnswer::Missing })
        }
    }
}

/// A page whose `next` is text. Only directories have names that are not; they are counted and passed over.
async fn page(store: &dyn Store, prefix: &str, mut after: Option<Vec<u8>>, limit: usize, depth: Depth) -> Result<ObjectPage, StoreError> {
    let (limit, begin) = (limit.max(1), after.clone());
    let mut page = ObjectPage::default();
    loop {
        let left = (limit - page.entries.len()).max(1);
        let list = || store.list(prefix, after.as_deref(), left, depth);
        let listing = RETRY.run("listing objects", 0, StoreError::is_retryable, |_| {}, list).await?;
        for listed in listing.entries {
            match entry(listed) {
                Some(entry) => page.entries.push(entry),
                None => page.unnameable += 1,
            }
        }
        page.next = match listing.next.map(String::from_utf8).transpose() {
            Ok(next) => next,
            Err(error) => {
                after = Some(error.into_bytes());
                continue;
            }
        };
        if let Some(fitting) = page.fitting() {
            // Once more and shorter, for only the store knows where its next page begins.
            return Box::pin(self::page(store, prefix, begin, fitting, depth)).await;
        }
        return Ok(page);
    }
}

fn entry(listed: ListEntry) -> Option<ObjectEntry> {
    let name = String::from_utf8(listed.key().to_vec()).ok()?;
    Some(match listed {
        ListEntry::Folder(_) => ObjectEntry { name, folder: true, ..ObjectEntry::default() },
        ListEntry::Object(object) => {
            ObjectEntry { name, folder: false, size: object.size, modified_ns: object.modified_ns, etag: object.etag }
        }
    })
}

fn details(info: ObjectInfo) -> ObjectDetails {
    ObjectDetails {
        size: info.size,
        modified_ns: info.modified_ns,
        mtime_ns: info.mtime_ns,
        mode: info.mode,
        etag: info.etag,
        crc64: info.crc.map(|crc| crc.0),
        attributes: told(&info.attributes),
    }
}

/// Attributes as they are told. A store's limit is that of whoever runs it; an answer has one of its own.
fn told(attributes: &[(String, String)]) -> BTreeMap<String, String> {
    let bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes <= ATTRIBUTES_BYTES_MAX { attributes.iter().cloned().collect() } else { BTreeMap::new() }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    use tradewind_ipc::ErrorCode;

    use super::*;

    async fn ask(root: &Path, question: BrowseQuestion) -> BrowseAnswer {
        let (to_control, mut answers) = mpsc::unbounded_channel();
        let store = IpcStore::Local { root: root.to_owned() };
        Browser::new(to_control).ask(Box::new(Browse { request_id: 7, store, question }));
        match answers.recv().await.unwrap() {
            FromEngine::Browsed(browsed) if browsed.request_id == 7 => browsed.answer,
            other => panic!("{other:?}"),
        }
    }

    fn list(after: Option<String>, limit: u32) -> BrowseQuestion {
        BrowseQuestion::List { prefix: String::new(), after, limit, recursive: true }
    }

    #[tokio::test]
    async fn names_that_are_no_text_are_counted_and_the_listing_goes_on_behind_them() {
        let root = tempfile::tempdir().unwrap();
        let names: [&[u8]; 8] = [b"a", b"b\xff1", b"b\xff2", b"b\xff3", b"c", b"d", b"\xff4", b"\xff5"];
        for name in names {
            std::fs::write(root.path().join(OsStr::from_bytes(name)), b"x").unwrap();
        }
        for limit in 1..=9 {
            let (mut found, mut unnameable, mut after) = (Vec::new(), 0, None);
            loop {
                let BrowseAnswer::Page(page) = ask(root.path(), list(after, limit)).await else { panic!("no page") };
                assert!(page.entries.len() <= limit as usize);
                found.extend(page.entries.into_iter().map(|entry| entry.name));
                unnameable += page.unnameable;
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!((found.join(" ").as_str(), unnameable), ("a c d", 5), "pages of {limit}");
        }
    }

    #[test]
    fn attributes_are_told_as_long_as_they_fit_an_answer() {
        let of = |bytes: usize| told(&[("a".to_owned(), "v".repeat(bytes - 1))]);
        assert_eq!((of(ATTRIBUTES_BYTES_MAX)["a"].len(), of(ATTRIBUTES_BYTES_MAX + 1).len()), (ATTRIBUTES_BYTES_MAX - 1, 0));
    }

    #[tokio::test]
    async fn objects_are_told_and_removed_and_what_fails_has_its_code() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("f"), b"four").unwrap();
        let key = || "f".to_owned();
        let told = ask(root.path(), BrowseQuestion::Stat { key: key() }).await;
        assert!(matches!(&told, BrowseAnswer::Object(details) if details.size == 4 && details.mtime_ns.is_some()), "{told:?}");
        assert_eq!(ask(root.path(), BrowseQuestion::Remove { key: key() }).await, BrowseAnswer::Removed);
        assert_eq!(ask(root.path(), BrowseQuestion::Remove { key: key() }).await, BrowseAnswer::Missing);
        assert_eq!(ask(root.path(), BrowseQuestion::Stat { key: key() }).await, BrowseAnswer::Missing);
        for (root, key, expected) in [
            (root.path().join("gone"), "f", ErrorCode::BucketMissing),
            (root.path().to_owned(), "../f", ErrorCode::DestinationInvalid),
            (root.path().to_owned(), "", ErrorCode::DestinationInvalid),
        ] {
            let answer = ask(&root, BrowseQuestion::Remove { key: key.to_owned() }).await;
            assert!(matches!(&answer, BrowseAnswer::Failed { code, .. } if *code == expected), "{answer:?}");
        }
    }
}
