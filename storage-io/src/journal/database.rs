//! The journal's tables.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Params, Statement, Transaction, TransactionBehavior, params};

use super::{DoneObject, Entry, OpenObject, unix_now};
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::store::{ObjectKey, PartReceipt};
use crate::upload::Sample;

/// Version of the tables. Another one is refused rather than guessed at.
const VERSION: i64 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// The same before the indexes are there: another process may be making them.
const INDEXES_BUSY_TIMEOUT: Duration = Duration::from_secs(120);
/// Between two tries of what SQLite itself does not wait for.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

const TABLES: &str = "
CREATE TABLE place (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
-- One row an object: being uploaded if it has a handle, else complete.
CREATE TABLE object (
    id INTEGER PRIMARY KEY,
    place INTEGER NOT NULL,
    key BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    variant INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    -- JSON: pairs of name and value.
    attributes TEXT NOT NULL,
    part_bytes INTEGER NOT NULL,
    handle TEXT,
    etag TEXT,
    crc INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    -- JSON: offset, length and CRC of ranges of a large object that is complete; all three are 64 bits with a sign.
    samples TEXT NOT NULL DEFAULT '[]',
    UNIQUE (place, key)
);
CREATE TABLE part (
    object INTEGER NOT NULL,
    number INTEGER NOT NULL,
    length INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    etag TEXT,
    PRIMARY KEY (object, number)
) WITHOUT ROWID;
";

/// Every transfer looks for what is open and what is old, in a journal that may hold millions of complete objects. All that is asked is right without
/// them, too, but slow.
const INDEXES: &str = "
CREATE INDEX IF NOT EXISTS object_open ON object (place, key) WHERE handle IS NOT NULL;
CREATE INDEX IF NOT EXISTS object_done ON object (changed) WHERE handle IS NULL;
";

const OF_PLACE: &str = "SELECT o.* FROM object o JOIN place p ON p.id = o.place WHERE p.name = ?1 AND";
const OPEN: &str = "o.handle IS NOT NULL AND";
/// Those that are left are asked for by the next transfer.
const STALE: &str = "o.handle IS NOT NULL AND o.changed < ?2 ORDER BY o.changed LIMIT 100";
const EXPIRE: &str = "DELETE FROM object WHERE id IN (SELECT id FROM object WHERE handle IS NULL AND changed < ?1 LIMIT ?2)";
/// Rows deleted at once, and for how long one transfer goes on with it: others wait to write meanwhile.
const EXPIRE_ROWS: usize = 5_000;
const EXPIRE_TIME: Duration = Duration::from_secs(1);

/// From version 3, which knew no samples.
const SINCE_3: &str = "ALTER TABLE object ADD COLUMN samples TEXT NOT NULL DEFAULT '[]'";

/// A connection.
pub(super) struct Database(Connection);

/// A row of the table of objects.
#[derive(Debug)]
pub(super) enum Row {
    Open(OpenObject, Vec<PartReceipt>),
    Done(DoneObject),
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn broken(error: rusqlite::Error) -> StoreError {
    StoreError::Journal { detail: error.to_string() }
}

/// SQLite's integers have a sign; all 64 bits are kept.
const fn bits(value: u64) -> i64 {
    value.cast_signed()
}

/// The reverse, of a column.
fn unsigned(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

/// The smallest bytes that are larger than everything that begins with `prefix`; `None`: there are none.
fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}

impl Database {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: rusqlite::Error| StoreError::Journal { detail: format!("{}: {error}", path.display()) };
        let mut connection = connect(path).map_err(failed)?;
        match begin(&mut connection).map_err(failed)? {
            VERSION => Ok(Self(connection)),
            other => {
                let detail = format!("{} has version {other}, this release knows {VERSION}", path.display());
                Err(StoreError::Journal { detail })
            }
        }
    }

    /// What the writing thread does first: journals of before have no indexes, and many rows take their time.
    pub(super) fn prepare_to_write(&self) -> Result<(), StoreError> {
        let made = self.0.busy_timeout(INDEXES_BUSY_TIMEOUT).and_then(|()| self.0.execute_batch(INDEXES));
        // Also where that failed.
        self.0.busy_timeout(BUSY_TIMEOUT).and(made).map_err(broken)
    }

    /// One more connection to a file that is open, to read from.
    pub(super) fn reader(path: &Path) -> Result<Self, StoreError> {
        connect(path).map(Self).map_err(broken)
    }

    /// Applies entries in order, all or none.
    pub(super) fn apply<'a>(&mut self, entries: impl Iterator<Item = (&'a str, &'a Entry)>) -> Result<(), StoreError> {
        // Another process may write the same file: the lock is waited for at the beginning, and only there.
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
        {
            let mut writer = Writer::new(&transaction).map_err(broken)?;
            for (place, entry) in entries {
                writer.write(place, entry).map_err(broken)?;
            }
        }
        transaction.commit().map_err(broken)
    }

    /// At most `limit` objects of a place whose keys begin with `prefix`, behind `after`, in the order of their keys; only those that are being uploaded
    /// if `only_open`.
    pub(super) fn rows(
        &self,
        place: &str,
        prefix: &[u8],
        after: Option<&ObjectKey>,
        only_open: bool,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let (compare, from) = after.map_or((">=", prefix), |key| (">", key.as_bytes()));
        let end = behind(prefix);
        let bound = if end.is_some() { "AND o.key < ?4" } else { "AND ?4 IS NULL" };
        let open = if only_open { OPEN } else { "" };
        let condition = format!("{open} o.key {compare} ?2 {bound} ORDER BY o.key LIMIT ?3");
        self.select(&condition, params![place, from, limit as i64, end]).map_err(broken)
    }

    /// The object of this key.
    pub(super) fn row(&self, place: &str, key: &[u8]) -> Result<Option<Row>, StoreError> {
        self.select("o.key = ?2", params![place, key]).map(|mut rows| rows.pop()).map_err(broken)
    }

    /// Some of the objects of a place that have been open since before `unix_s` without a change, the oldest first.
    pub(super) fn stale(&self, place: &str, unix_s: i64) -> Result<Vec<OpenObject>, StoreError> {
        let rows = self.select(STALE, params![place, unix_s]).map_err(broken)?;
        let open = |row| match row {
            Row::Open(object, _) => Some(object),
            Row::Done(_) => None,
        };
        Ok(rows.into_iter().filter_map(open).collect())
    }

    /// Objects of the place `?1` under a further condition.
    fn select(&self, condition: &str, parameters: impl Params) -> rusqlite::Result<Vec<Row>> {
        let mut statement = self.0.prepare_cached(&format!("{OF_PLACE} {condition}"))?;
        let mut parts = self.0.prepare_cached("SELECT * FROM part WHERE object = ?1 ORDER BY number")?;
        let mut rows = statement.query(parameters)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            // Only what passed this check was ever written.
            let Ok(key) = ObjectKey::new(&row.get::<_, Vec<u8>>("key")?) else { continue };
            let (size, mtime_ns) = (unsigned(row, "size")?, row.get("mtime_ns")?);
            let variant = unsigned(row, "variant")?;
            found.push(match row.get("handle")? {
                Some(handle) => {
                    let (id, part_bytes) = (row.get("id")?, unsigned(row, "part_bytes")?);
                    let receipts = parts.query_map([id], receipt)?.collect::<rusqlite::Result<_>>()?;
                    let attributes =
                        serde_json::from_str::<Vec<(String, String)>>(&row.get::<_, String>("attributes")?).unwrap_or_default();
                    let (mode, attributes) = (row.get("mode")?, attributes.into());
                    Row::Open(OpenObject { id, key, size, mtime_ns, variant, mode, attributes, part_bytes, handle }, receipts)
                }
                None => {
                    let (etag, crc) = (row.get("etag")?, Crc64(unsigned(row, "crc")?));
                    let samples = read_samples(&row.get::<_, String>("samples")?);
                    Row::Done(DoneObject { key, size, mtime_ns, variant, etag, crc, samples })
                }
            });
        }
        Ok(found)
    }

    /// Forgets complete objects of all places that were noted before `unix_s`, or many of them. Returns how many.
    pub(super) fn expire(&self, unix_s: i64) -> Result<usize, StoreError> {
        let (since, mut expired) = (Instant::now(), 0);
        loop {
            let count = self.0.execute(EXPIRE, params![unix_s, EXPIRE_ROWS as i64]).map_err(broken)?;
            expired += count;
            if count < EXPIRE_ROWS || since.elapsed() > EXPIRE_TIME {
                return Ok(expired);
            }
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Two that make the file at the same moment: SQLite does not wait with this one.
    let since = Instant::now();
    while let Err(error) = connection.pragma_update(None, "journal_mode", "wal") {
        let is_busy = matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked));
        if !is_busy || since.elapsed() > BUSY_TIMEOUT {
            return Err(error);
        }
        std::thread::sleep(BUSY_PAUSE);
    }
    // With WAL a crash of the machine may lose the newest commits and never breaks the file.
    connection.pragma_update(None, "synchronous", "normal")?;
    Ok(connection)
}

/// Makes the tables where there are none. Returns the version of those that are there.
fn begin(connection: &mut Connection) -> rusqlite::Result<i64> {
    let version_of = |connection: &Connection| connection.pragma_query_value(None, "user_version", |row| row.get(0));
    // Whoever only opens it waits for nobody who writes.
    if version_of(connection)? == VERSION {
        return Ok(VERSION);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version = match version_of(&transaction)? {
        0 => {
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
            VERSION
        }
        3 => {
            transaction.execute_batch(SINCE_3)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
            VERSION
        }
        other => other,
    };
    transaction.commit()?;
    Ok(version)
}

fn samples_text(samples: &[Sample]) -> String {
    let numbers: Vec<[i64; 3]> = samples.iter().map(|Sample { offset, length, crc }| [bits(*offset), bits(*length), bits(crc.0)]).collect();
    // Numbers always become JSON.
    serde_json::to_string(&numbers).unwrap_or_default()
}

/// What makes no sense is none.
fn read_samples(text: &str) -> Vec<Sample> {
    let numbers: Vec<[i64; 3]> = serde_json::from_str(text).unwrap_or_default();
    let sample = |[offset, length, crc]: [i64; 3]| Sample {
        offset: offset.cast_unsigned(),
        length: length.cast_unsigned(),
        crc: Crc64(crc.cast_unsigned()),
    };
    numbers.into_iter().map(sample).collect()
}

fn receipt(part: &rusqlite::Row<'_>) -> rusqlite::Result<PartReceipt> {
    let (len, crc) = (unsigned(part, "length")?, Crc64(unsigned(part, "crc")?));
    Ok(PartReceipt { number: part.get("number")?, len, crc, etag: part.get("etag")? })
}

/// Statements of one transaction.
struct Writer<'a> {
    transaction: &'a Transaction<'a>,
    place: Option<(String, i64)>,
    begin: Statement<'a>,
    part: Statement<'a>,
    touch: Statement<'a>,
    done: Statement<'a>,
    forget: Statement<'a>,
    forget_parts: Statement<'a>,
    now: i64,
}

impl<'a> Writer<'a> {
    fn new(transaction: &'a Transaction<'a>) -> rusqlite::Result<Self> {
        Ok(Self {
            transaction,
            place: None,
            begin: transaction.prepare(
                "INSERT INTO object (id, place, key, size, mtime_ns, variant, mode, attributes, part_bytes, handle, crc, changed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 0, ?11)",
            )?,
            part: transaction.prepare(
                "INSERT OR REPLACE INTO part (object, number, length, crc, etag) SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM object WHERE id = ?1)",
            )?,
            touch: transaction.prepare("UPDATE object SET changed = ?2 WHERE id = ?1")?,
            done: transaction.prepare(
                "INSERT OR REPLACE INTO object (place, key, size, mtime_ns, variant, mode, attributes, part_bytes, etag, crc, changed, samples) VALUES (?1, ?2, ?3, ?4, ?5, 0, '[]', 0, ?6, ?7, ?8, ?9)",
            )?,
            forget: transaction.prepare("DELETE FROM object WHERE place = ?1 AND key = ?2")?,
            forget_parts: transaction
                .prepare("DELETE FROM part WHERE object IN (SELECT id FROM object WHERE place = ?1 AND key = ?2 AND handle IS NOT NULL)")?,
            now: unix_now(),
        })
    }

    fn write(&mut self, place: &str, entry: &Entry) -> rusqlite::Result<()> {
        let place = self.place(place)?;
        match entry {
            Entry::Begun(object) => {
                self.forget(place, &object.key)?;
                let key = object.key.as_bytes();
                let (size, part_bytes) = (bits(object.size), bits(object.part_bytes));
                let OpenObject { id, mtime_ns, mode, handle, .. } = object;
                // Text always becomes JSON.
                let (variant, attributes) = (bits(object.variant), serde_json::to_string(&object.attributes[..]).unwrap_or_default());
                self.begin.execute(params![id, place, key, size, mtime_ns, variant, mode, attributes, part_bytes, handle, self.now])?;
            }
            Entry::Part { object, receipt } => {
                self.part.execute(params![object, receipt.number, bits(receipt.len), bits(receipt.crc.0), receipt.etag])?;
                self.touch.execute(params![object, self.now])?;
            }
            Entry::Touch(object) => {
                self.touch.execute(params![object, self.now])?;
            }
            Entry::Done(object) => {
                let key = object.key.as_bytes();
                self.forget_parts.execute(params![place, key])?;
                let (size, variant, crc) = (bits(object.size), bits(object.variant), bits(object.crc.0));
                let samples = samples_text(&object.samples);
                self.done.execute(params![place, key, size, object.mtime_ns, variant, object.etag, crc, self.now, samples])?;
            }
            Entry::Forget(key) => self.forget(place, key)?,
        }
        Ok(())
    }

    fn forget(&mut self, place: i64, key: &ObjectKey) -> rusqlite::Result<()> {
        self.forget_parts.execute(params![place, key.as_bytes()])?;
        self.forget.execute(params![place, key.as_bytes()])?;
        Ok(())
    }

    fn place(&mut self, name: &str) -> rusqlite::Result<i64> {
        if let Some((_, id)) = self.place.as_ref().filter(|(known, _)| known == name) {
            return Ok(*id);
        }
        let select = |transaction: &Transaction<'_>| {
            transaction.query_row("SELECT id FROM place WHERE name = ?1", [name], |row| row.get::<_, i64>(0)).optional()
        };
        let id = match select(self.transaction)? {
            Some(id) => id,
            None => {
                self.transaction.execute("INSERT INTO place (name) VALUES (?1)", [name])?;
                self.transaction.last_insert_rowid()
            }
        };
        self.place = Some((name.to_owned(), id));
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(name.as_bytes()).unwrap()
    }

    fn open(id: i64, name: &str) -> Entry {
        let (key, attributes, handle) = (key(name), [("uid".to_owned(), "7".to_owned())].into(), "upload".to_owned());
        let (size, variant, mode) = (u64::MAX, u64::MAX, 0o600);
        Entry::Begun(OpenObject { id, key, size, mtime_ns: -5, variant, mode, attributes, part_bytes: 8, handle })
    }

    fn part(object: i64, number: u32) -> Entry {
        Entry::Part { object, receipt: PartReceipt { number, len: 8, crc: Crc64(u64::MAX), etag: Some("e".into()) } }
    }

    fn done(name: &str) -> Entry {
        Entry::Done(DoneObject { key: key(name), size: 3, mtime_ns: 7, variant: 1, etag: None, crc: Crc64(9), samples: Vec::new() })
    }

    fn names(database: &Database, place: &str, prefix: &str) -> Vec<String> {
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            // Two at a time, so that paging is seen.
            let rows = database.rows(place, prefix.as_bytes(), after.as_ref(), false, 2).unwrap();
            let Some(last) = rows.last() else { return names };
            after = Some(match last {
                Row::Open(object, _) => object.key.clone(),
                Row::Done(object) => object.key.clone(),
            });
            names.extend(rows.iter().map(|row| match row {
                Row::Open(object, parts) => format!("{}+{}", object.key, parts.len()),
                Row::Done(object) => object.key.to_string(),
            }));
        }
    }

    #[test]
    fn many_may_make_it_at_the_same_moment() {
        for _ in 0..20 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("j");
            let start = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for number in 0..8 {
                    let (path, start) = (&path, &start);
                    scope.spawn(move || {
                        start.wait();
                        let mut database = Database::open(path).unwrap();
                        database.apply([("here", &done(&number.to_string()))].into_iter()).unwrap();
                    });
                }
            });
            assert_eq!(names(&Database::open(&path).unwrap(), "here", "").len(), 8);
        }
    }

    #[test]
    fn rows_are_found_by_place_and_prefix_also_after_it_was_closed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        {
            let mut database = Database::open(&path).unwrap();
            let entries = [
                open(-101, "in/a"),
                part(-101, 1),
                part(-101, 2),
                part(-101, 2),
                done("in/b"),
                done("in/c"),
                done("inn/d"),
                open(-102, "in/e"),
            ];
            database.apply(entries.iter().map(|entry| ("one", entry))).unwrap();
            database.apply([done("in/x")].iter().map(|entry| ("two", entry))).unwrap();
        }
        let mut database = Database::open(&path).unwrap();
        assert_eq!(names(&database, "one", "in/"), ["in/a+2", "in/b", "in/c", "in/e+0"]);
        assert_eq!(names(&database, "one", ""), ["in/a+2", "in/b", "in/c", "in/e+0", "inn/d"]);
        assert_eq!(names(&database, "two", ""), ["in/x"]);
        assert!(names(&database, "three", "").is_empty());
        let Row::Open(object, receipts) = database.rows("one", b"in/a", None, false, 1).unwrap().remove(0) else { panic!("it is open") };
        assert_eq!((object.size, object.mtime_ns, object.part_bytes, object.handle.as_str()), (u64::MAX, -5, 8, "upload"));
        assert_eq!((object.mode, object.variant, object.attributes[0].1.as_str()), (0o600, u64::MAX, "7"));
        assert_eq!((receipts[1].number, receipts[1].crc, receipts[1].etag.as_deref()), (2, Crc64(u64::MAX), Some("e")));
        // Complete, begun anew, forgotten.
        database
            .apply([done("in/a"), open(-103, "in/b"), part(-103, 1), Entry::Forget(key("in/c"))].iter().map(|entry| ("one", entry)))
            .unwrap();
        assert_eq!(names(&database, "one", "in/"), ["in/a", "in/b+1", "in/e+0"]);
        let parts: i64 = database.0.query_row("SELECT count(*) FROM part", [], |row| row.get(0)).unwrap();
        assert_eq!(parts, 1, "no part outlives its object");
    }

    #[test]
    fn prefixes_end_where_others_begin() {
        for (prefix, expected) in
            [(&b""[..], None), (b"a", Some(&b"b"[..])), (b"a/", Some(b"a0")), (b"a\xff\xff", Some(b"b")), (b"\xff", None)]
        {
            assert_eq!(behind(prefix).as_deref(), expected, "{}", prefix.escape_ascii());
        }
        let directory = tempfile::tempdir().unwrap();
        let mut database = Database::open(&directory.path().join("j")).unwrap();
        let keys: [&[u8]; 5] = [b"a", b"\xff", b"\xff/x", b"\xff\xff", b"b"];
        let entries = keys.map(|key| {
            Entry::Done(DoneObject {
                key: ObjectKey::new(key).unwrap(),
                size: 0,
                mtime_ns: 0,
                variant: 0,
                etag: None,
                crc: Crc64(0),
                samples: Vec::new(),
            })
        });
        database.apply(entries.iter().map(|entry| ("one", entry))).unwrap();
        assert_eq!(names(&database, "one", "").len(), 5);
        assert_eq!(database.rows("one", b"\xff", None, false, 9).unwrap().len(), 3);
        assert_eq!(database.rows("one", b"\xff\xff", None, false, 9).unwrap().len(), 1);
    }

    #[test]
    fn what_is_old_is_found_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let mut database = Database::open(&directory.path().join("j")).unwrap();
        database.apply([open(-101, "a"), done("b")].iter().map(|entry| ("one", entry))).unwrap();
        let now = unix_now();
        assert!(database.stale("one", now - 10).unwrap().is_empty());
        assert_eq!(database.stale("one", now + 10).unwrap().len(), 1);
        database.0.execute("UPDATE object SET changed = ?1 WHERE id = -101", [now - 20]).unwrap();
        assert_eq!(database.stale("one", now - 10).unwrap().len(), 1);
        database.apply(std::iter::once(("one", &Entry::Touch(-101)))).unwrap();
        assert!(database.stale("one", now - 10).unwrap().is_empty());
        assert_eq!(database.rows("one", b"", None, true, 9).unwrap().len(), 1, "only what is open");
        assert!(matches!(database.row("one", b"b").unwrap(), Some(Row::Done(_))) && database.row("one", b"").unwrap().is_none());
        assert_eq!(database.expire(now - 10).unwrap(), 0);
        assert_eq!(database.expire(now + 10).unwrap(), 1);
        assert_eq!(names(&database, "one", ""), ["a+0"]);
        // More than are deleted at once.
        let entries: Vec<Entry> = (0..2 * EXPIRE_ROWS + 1).map(|number| done(&format!("many/{number}"))).collect();
        database.apply(entries.iter().map(|entry| ("one", entry))).unwrap();
        let mut expired = 0;
        // A slow machine is not through with it at once.
        while expired < 2 * EXPIRE_ROWS + 1 {
            let more = database.expire(now + 10).unwrap();
            assert!(more > 0);
            expired += more;
        }
        assert_eq!(names(&database, "one", ""), ["a+0"]);
    }

    #[test]
    fn no_part_is_kept_of_an_object_that_nobody_knows() {
        let directory = tempfile::tempdir().unwrap();
        let mut database = Database::open(&directory.path().join("j")).unwrap();
        database.apply([part(-101, 1), open(-102, "a"), part(-102, 1)].iter().map(|entry| ("one", entry))).unwrap();
        let parts: i64 = database.0.query_row("SELECT count(*) FROM part", [], |row| row.get(0)).unwrap();
        assert_eq!(parts, 1);
    }

    /// Every transfer asks for it: it must not cost a look at every object that was ever stored.
    #[test]
    fn what_is_open_or_old_is_found_by_an_index() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&directory.path().join("j")).unwrap();
        // Twice: as the next process does.
        database.prepare_to_write().and_then(|()| database.prepare_to_write()).unwrap();
        let plan = |sql: &str| -> String {
            let mut statement = database.0.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let steps = statement.raw_query().mapped(|row| row.get::<_, String>("detail")).collect::<rusqlite::Result<Vec<_>>>();
            steps.unwrap().join("; ")
        };
        let open = plan(&format!("{OF_PLACE} {OPEN} o.key >= ?2 AND o.key < ?4 ORDER BY o.key LIMIT ?3"));
        assert!(open.contains("INDEX object_open (place=? AND key>? AND key<?)"), "{open}");
        let stale = plan(&format!("{OF_PLACE} {STALE}"));
        assert!(stale.contains("INDEX object_open (place=?)"), "{stale}");
        let expire = plan(EXPIRE);
        assert!(expire.contains("INDEX object_done (changed<?)"), "{expire}");
        let exact = plan(&format!("{OF_PLACE} o.key = ?2"));
        assert!(exact.contains("(place=? AND key=?)"), "{exact}");
    }

    #[test]
    fn samples_are_kept_and_the_version_before_them_is_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let samples =
            vec![Sample { offset: 0, length: 1, crc: Crc64(u64::MAX) }, Sample { offset: u64::MAX - 1, length: 1, crc: Crc64(7) }];
        let object = DoneObject { key: key("a"), size: 3, mtime_ns: 7, variant: 1, etag: None, crc: Crc64(9), samples };
        let mut database = Database::open(&path).unwrap();
        database.apply(std::iter::once(("one", &Entry::Done(object.clone())))).unwrap();
        let rows = |database: &Database| database.rows("one", b"", None, false, 9).unwrap();
        assert!(matches!(&rows(&database)[..], [Row::Done(found)] if *found == object));
        database.0.execute_batch("ALTER TABLE object DROP COLUMN samples; PRAGMA user_version = 3").unwrap();
        drop(database);
        let mut database = Database::open(&path).unwrap();
        assert!(matches!(&rows(&database)[..], [Row::Done(found)] if *found == DoneObject { samples: Vec::new(), ..object.clone() }));
        database.apply(std::iter::once(("one", &Entry::Done(object.clone())))).unwrap();
        assert!(matches!(&rows(&database)[..], [Row::Done(found)] if *found == object));
        assert!(read_samples("[[1]]").is_empty() && read_samples("").is_empty());
    }

    #[test]
    fn what_is_no_journal_or_of_another_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        std::fs::write(&path, [7; 5000]).unwrap();
        assert!(matches!(Database::open(&path), Err(StoreError::Journal { .. })));
        let newer = directory.path().join("n");
        Database::open(&newer).unwrap().0.pragma_update(None, "user_version", 99).unwrap();
        let error = Database::open(&newer).err().unwrap().to_string();
        assert!(error.contains("version 99"), "{error}");
        assert!(matches!(Database::open(&directory.path().join("no/such")), Err(StoreError::Journal { .. })));
    }
}
