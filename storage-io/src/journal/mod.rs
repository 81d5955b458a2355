//! What is durable at the stores, kept on disk: so that a transfer goes on where it stopped, whoever was killed.
//!
//! A row for each object that was begun or stored, and one for each part stored of an object that is not complete. Rows follow the
//! store: they are written after its acknowledgement, so what the journal says was true once. What is lost with the newest rows
//! (at most [`COMMIT_INTERVAL`], or more when the machine dies) is only sent again.
//!
//! One thread owns the connection that writes; entries reach it by a channel and are committed together.

mod database;
mod recalled;
mod resume;

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::store::{Attributes, ObjectKey, ObjectMeta, PartReceipt, Store, token_of};
use crate::upload::Sample;
use database::Database;
pub use recalled::{KeptBlock, Recalled};
pub(crate) use recalled::{KeptBytes, RecalledPiece};
pub(crate) use resume::Reopened;
pub use resume::{Durable, Resumption, resume};

/// Entries wait at most so long for their commit.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// Entries of one commit.
const COMMIT_ENTRIES_MAX: usize = 20_000;

/// An object of which parts are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenObject {
    /// Names the row; random.
    pub(crate) id: i64,
    pub(crate) key: ObjectKey,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) variant: u64,
    pub(crate) mode: u32,
    pub(crate) attributes: Attributes,
    pub(crate) part_bytes: u64,
    /// What the store needs to find the upload again.
    pub(crate) handle: String,
}

impl OpenObject {
    /// As the store is told of it.
    fn meta(&self, overwrite: bool) -> ObjectMeta {
        let token = token_of(&self.key, self.size, self.mtime_ns, self.variant);
        let (size, mtime_ns, mode, attributes) = (self.size, self.mtime_ns, self.mode, Arc::clone(&self.attributes));
        ObjectMeta { size, mtime_ns, mode, overwrite, token, attributes }
    }
}

/// An object that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DoneObject {
    pub(crate) key: ObjectKey,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) variant: u64,
    pub(crate) etag: Option<String>,
    pub(crate) crc: Crc64,
    /// Of an object of several parts: ranges whose checksums are known, in order.
    pub(crate) samples: Vec<Sample>,
}

/// Something to be remembered of one store.
#[derive(Debug)]
enum Entry {
    Begun(OpenObject),
    Part {
        object: i64,
        receipt: PartReceipt,
    },
    Done(DoneObject),
    /// Nothing of this row is to be taken for old.
    Touch(i64),
    Forget(ObjectKey),
}

enum Command {
    Entry(Arc<Place>, Entry),
    Flush(oneshot::Sender<()>),
}

/// A store as the journal knows it.
#[derive(Debug)]
struct Place {
    /// [`Store::place`]: the same for every transfer into the same store.
    name: String,
    store: Arc<dyn Store>,
}

/// The journal of an engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    commands: Sender<Command>,
    path: Arc<Path>,
    live: Arc<Live>,
}

/// Rows of uploads that a transfer of this process works on, and how many do: however long nothing of them becomes durable, they are no rest.
#[derive(Debug, Default)]
struct Live(Mutex<HashMap<i64, u32>>);

impl Live {
    fn rows(&self) -> MutexGuard<'_, HashMap<i64, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one transfer works on, until it drops this.
#[derive(Debug)]
struct Held {
    live: Arc<Live>,
    rows: Mutex<Vec<i64>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut live = self.live.rows();
        for row in self.rows.get_mut().unwrap_or_else(PoisonError::into_inner) {
            if let Some(holders) = live.get_mut(row) {
                *holders -= 1;
                if *holders == 0 {
                    live.remove(row);
                }
            }
        }
    }
}

impl Journal {
    /// Opens the journal, or makes it, in this directory.
    ///
    /// # Errors
    /// [`StoreError::Journal`] when the directory cannot be written or the file is not a journal of this version.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path: Arc<Path> = directory.join("journal.sqlite").into();
        let database = Database::open(&path)?;
        let (commands, inbox) = channel();
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write(database, &inbox))
            .map_err(|error| StoreError::Journal { detail: format!("no thread for it: {error}") })?;
        Ok(Self { commands, path, live: Arc::default() })
    }

    /// The part of it that is about one store.
    #[must_use]
    pub fn scope(&self, store: Arc<dyn Store>) -> Scope {
        let held = Held { live: Arc::clone(&self.live), rows: Mutex::default() };
        Scope { journal: self.clone(), place: Arc::new(Place { name: store.place(), store }), held: Arc::new(held) }
    }
}

/// The journal of one store.
#[derive(Clone, Debug)]
pub struct Scope {
    journal: Journal,
    place: Arc<Place>,
    held: Arc<Held>,
}

impl Scope {
    fn tell(&self, entry: Entry) {
        // The thread ends only with the last of its senders.
        let _ = self.journal.commands.send(Command::Entry(Arc::clone(&self.place), entry));
    }

    /// Keeps an open upload from [`Scope::sweep`] as long as this scope or a clone of it lives.
    fn hold(&self, row: i64) {
        *self.held.live.rows().entry(row).or_default() += 1;
        self.held.rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }

    fn is_live(&self, row: i64) -> bool {
        self.held.live.rows().contains_key(&row)
    }

    pub(crate) fn begun(&self, object: OpenObject) {
        self.hold(object.id);
        self.tell(Entry::Begun(object));
    }

    pub(crate) fn part(&self, object: i64, receipt: PartReceipt) {
        self.tell(Entry::Part { object, receipt });
    }

    pub(crate) fn done(&self, object: DoneObject) {
        self.tell(Entry::Done(object));
    }

    pub(crate) fn forget(&self, key: ObjectKey) {
        self.tell(Entry::Forget(key));
    }

    /// Waits until everything told so far is committed.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.journal.commands.send(Command::Flush(done)).is_ok() {
            // An error means that the thread has ended, which it logs.
            let _ = flushed.await;
        }
    }

    /// Reads from the journal where that blocks nobody.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let path = Arc::clone(&self.journal.path);
        let reading = tokio::task::spawn_blocking(move || work(&Database::reader(&path)?));
        reading.await.unwrap_or_else(|error| Err(StoreError::Journal { detail: format!("reading it failed: {error}") }))
    }
}

/// Seconds since 1970.
fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// The writing thread: collects entries, makes what they speak of durable, commits.
fn write(mut database: Database, inbox: &Receiver<Command>) {
    if let Err(error) = database.prepare_to_write() {
        tracing::warn!(%error, "the journal has no indexes: transfers begin the later, the more was ever stored");
    }
    let (mut entries, mut flushes) = (Vec::new(), Vec::new());
    let mut is_over = false;
    while !is_over {
        match inbox.recv() {
            Ok(Command::Entry(place, entry)) => entries.push((place, entry)),
            Ok(Command::Flush(done)) => flushes.push(done),
            Err(_) => return,
        }
        let deadline = Instant::now() + COMMIT_INTERVAL;
        while flushes.is_empty() && entries.len() < COMMIT_ENTRIES_MAX {
            match inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Command::Entry(place, entry)) => entries.push((place, entry)),
                Ok(Command::Flush(done)) => flushes.push(done),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    is_over = true;
                    break;
                }
            }
        }
        commit(&mut database, &mut entries);
        // Nobody waits any more if this fails.
        for done in flushes.drain(..) {
            let _ = done.send(());
        }
    }
}

fn commit(database: &mut Database, entries: &mut Vec<(Arc<Place>, Entry)>) {
    let mut places: HashMap<&str, &dyn Store> = HashMap::new();
    for (place, entry) in entries.iter() {
        // A complete object is looked for before it is believed in; parts cannot be told from holes.
        if matches!(entry, Entry::Part { .. }) {
            places.insert(&place.name, place.store.as_ref());
        }
    }
    let mut failed = Vec::new();
    for (name, store) in places {
        if let Err(error) = store.sync() {
            tracing::error!(place = name, %error, "what was stored could not be made durable; it is not noted and would be sent again");
            failed.push(name.to_owned());
        }
    }
    entries.retain(|(place, _)| !failed.contains(&place.name));
    if let Err(error) = database.apply(entries.iter().map(|(place, entry)| (place.name.as_str(), entry))) {
        tracing::error!(%error, entries = entries.len(), "the journal could not be written; an interrupted transfer would send these again");
    }
    entries.clear();
}
