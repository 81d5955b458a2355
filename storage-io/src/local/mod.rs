//! A directory as a store.
//!
//! An object is written as `.NAME.tradewind-partial` beside its target, made durable, and renamed: nobody sees half a file
//! under its own name. A lock on the partial file keeps two transfers apart; what a crash left behind is taken over by the
//! next transfer of the same file.

mod attributes;
mod batch;
mod list;
mod read;
pub(crate) mod spool;
mod walk;
mod write;

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, StatxFlags};
use rustix::io::Errno;

use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::holes::is_marked_sparse;
use crate::list::{Depth, Listing};
use crate::store::{Body, Limits, ObjectInfo, ObjectKey, ObjectMeta, ObjectRange, Part, PartReceipt, Store, StoredObject, Upload};
use read::contents_crc;
use walk::{failed, is_directory, parent};
use write::{Target, write_all};

/// What a directory takes: parts are just writes at an offset, so a part is one block and nothing has to be assembled. Above a tebibyte parts are
/// larger: each is remembered until the file is complete, and a sender that tells of holes makes many for little.
const LIMITS: Limits =
    Limits { part_bytes_min: 1, part_bytes_max: 1 << 30, part_bytes_default: 1, parts_max: 1 << 20, object_bytes_max: 1 << 50 };

/// Longest file name, bytes (NAME_MAX in linux/limits.h).
const NAME_BYTES_MAX: usize = 255;

const SUFFIX: &[u8] = b".tradewind-partial";

/// End of the name of the file that [`Store::check`] makes.
const PROBE_SUFFIX: &[u8] = b".tradewind-probe";

/// How often a partial file that vanishes between opening and locking is opened again.
const LOCK_TRIES_MAX: u32 = 16;

/// Small files that are made durable together; each holds a descriptor meanwhile.
const BATCH_OBJECTS_MAX: usize = 512;

/// A directory of this machine. Nothing outside it is ever written.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: Arc<OwnedFd>,
    path: PathBuf,
    owners: bool,
    fsync: FsyncPolicy,
}

/// When what is written is made to survive a loss of power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// Before a file has its name, so that whatever has its name is complete.
    #[default]
    Each,
    /// All files together, with [`Store::sync`]; those of other file systems than the store's root each.
    End,
    /// When the kernel likes.
    Never,
}

/// Something of the store, and where it lies.
struct Found<'k> {
    dir: OwnedFd,
    name: &'k [u8],
    stat: Stat,
}

impl LocalStore {
    /// Opens the directory, which must exist. Holds it open: renaming it later does not divert what is written.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Configuration`] for a relative path or something that is no directory,
    /// [`StoreError::AccessDenied`], [`StoreError::Io`].
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let place = root.display().to_string();
        if !root.is_absolute() {
            return Err(StoreError::Configuration { detail: format!("{place} must be an absolute path") });
        }
        match rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(Self { root: Arc::new(fd), path: root.to_owned(), owners: false, fsync: FsyncPolicy::Each }),
            Err(Errno::NOENT) => Err(StoreError::NotFound { place }),
            Err(Errno::NOTDIR) => Err(StoreError::Configuration { detail: format!("{place} is not a directory") }),
            Err(Errno::ACCESS | Errno::PERM) => {
                Err(StoreError::AccessDenied { place, action: "open", detail: "permission denied".to_owned() })
            }
            Err(errno) => Err(StoreError::Io { action: "open", path: place, source: errno.into() }),
        }
    }

    /// The same, and files get the owner that their attributes name, where the process may give files away. For users who restore their own
    /// files, not for servers that store what others send.
    #[must_use]
    pub fn restoring_owners(self) -> Self {
        Self { owners: true, ..self }
    }

    /// The same with another policy. For users who get files for themselves: a server says that what it took is durable.
    #[must_use]
    pub fn with_fsync(self, fsync: FsyncPolicy) -> Self {
        Self { fsync, ..self }
    }

    /// Runs blocking file work where it disturbs nobody.
    async fn work<T: Send + 'static>(task: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
        tokio::task::spawn_blocking(task).await.unwrap_or_else(|error| {
            Err(StoreError::Io { action: "finish work on", path: "a file".to_owned(), source: std::io::Error::other(error) })
        })
    }

    /// Whatever has that name.
    fn find<'k>(&self, key: &'k ObjectKey) -> Result<Option<Found<'k>>, StoreError> {
        let Some((dir, name)) = parent(self.root.as_fd(), key, false)? else { return Ok(None) };
        match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Found { dir, name, stat })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("look for", key, errno)),
        }
    }

    /// The file of that name, if it is one that a listing shows.
    fn find_object<'k>(&self, key: &'k ObjectKey) -> Result<Option<Found<'k>>, StoreError> {
        if key.components().next_back().is_some_and(is_temporary) {
            return Ok(None);
        }
        Ok(self.find(key)?.filter(|found| FileType::from_raw_mode(found.stat.st_mode) == FileType::RegularFile))
    }

    fn remove(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let Some(Found { dir, name, .. }) = self.find_object(key)? else { return Ok(false) };
        match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
            Ok(()) => rustix::fs::fsync(&dir).map(|()| true).map_err(|errno| failed("make durable the directory of", key, errno)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("remove", key, errno)),
        }
    }

    fn create(&self, key: &ObjectKey, meta: ObjectMeta) -> Result<Partial, StoreError> {
        check_final_name(key)?;
        match self.find(key)? {
            Some(Found { stat, .. }) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => return Err(is_directory(key)),
            Some(_) if !meta.overwrite => return Err(StoreError::DestinationExists { object: key.to_string() }),
            _ => {}
        }
        let Some((dir, name)) = parent(self.root.as_fd(), key, true)? else {
            return Err(failed("make the directory of", key, Errno::NOENT));
        };
        let temporary = temporary_name(name);
        let mut fd = open_locked(&dir, &temporary, key, true)?;
        if rustix::fs::fstat(&fd).map_err(|errno| failed("look at", key, errno))?.st_size != 0 {
            // What an earlier transfer left. A new file, so that nobody takes this one for that one.
            rustix::fs::unlinkat(&dir, temporary.as_slice(), AtFlags::empty()).map_err(|errno| failed("remove the rest of", key, errno))?;
            fd = open_locked(&dir, &temporary, key, true)?;
        }
        let partial = self.partial((dir, name), temporary, fd, key, meta, false);
        partial.reserve()?;
        Ok(partial)
    }

    fn is_foreign(&self, dir: &OwnedFd) -> bool {
        let device = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| stat.st_dev).ok();
        device(dir) != device(&self.root)
    }

    fn put_one(&self, key: &ObjectKey, meta: &ObjectMeta, body: &Body) -> Result<StoredObject, StoreError> {
        let partial = match self.create(key, meta.clone()) {
            // A transfer that was cut off after this file.
            Err(exists @ StoreError::DestinationExists { .. }) => {
                let same = self.same(key, meta, body.crc())?.ok_or(exists)?;
                self.remove_rest(key);
                return Ok(same);
            }
            created => created?,
        };
        partial.write(body, 0)?;
        partial.publish()?;
        Ok(StoredObject { etag: None, crc: body.crc(), verified_by_store: false, version_id: None })
    }

    /// Removes what a transfer left that was cut off while it wrote a file which is there all the same; nothing else would ever take it over.
    fn remove_rest(&self, key: &ObjectKey) {
        let Ok(Some((dir, name))) = parent(self.root.as_fd(), key, false) else { return };
        let temporary = temporary_name(name);
        // Mostly there is none; one that is locked belongs to somebody.
        if let Ok(_locked) = open_locked(&dir, &temporary, key, false)
            && let Err(errno) = rustix::fs::unlinkat(&dir, temporary.as_slice(), AtFlags::empty())
        {
            tracing::warn!(%errno, %key, "the rest of an interrupted transfer stays behind");
        }
    }

    /// The file of that name, if it has this size, time and contents.
    fn same(&self, key: &ObjectKey, meta: &ObjectMeta, crc: Crc64) -> Result<Option<StoredObject>, StoreError> {
        let is_alike =
            |Found { stat, .. }: &Found<'_>| u64::try_from(stat.st_size) == Ok(meta.size) && mtime_ns(stat) == Some(meta.mtime_ns);
        let Some(found) = self.find_object(key)?.filter(is_alike) else { return Ok(None) };
        let Some(fd) = found.open(key)? else { return Ok(None) };
        let is_same = contents_crc(&fd).map_err(|errno| failed("compare", key, errno))? == crc;
        Ok(is_same.then_some(StoredObject { etag: None, crc, verified_by_store: false, version_id: None }))
    }

    /// Takes a partial file over as it is.
    fn reopen_partial(&self, key: &ObjectKey, meta: ObjectMeta, handle: &str) -> Result<Partial, StoreError> {
        let gone = || StoreError::UploadGone { object: key.to_string() };
        let (dir, name) = parent(self.root.as_fd(), key, false)?.ok_or_else(gone)?;
        let temporary = temporary_name(name);
        let fd = match open_locked(&dir, &temporary, key, false) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Err(gone()),
            result => result?,
        };
        let size = rustix::fs::fstat(&fd).map_err(|errno| failed("look at", key, errno))?.st_size;
        if u64::try_from(size) != Ok(meta.size) || birth(&fd) != handle {
            return Err(gone());
        }
        Ok(self.partial((dir, name), temporary, fd, key, meta, true))
    }

    /// A partial file whose descriptor is locked.
    fn partial(
        &self,
        (dir, name): (OwnedFd, &[u8]),
        temporary: Vec<u8>,
        fd: OwnedFd,
        key: &ObjectKey,
        meta: ObjectMeta,
        keep: bool,
    ) -> Partial {
        let target = Target::new(fd, dir.as_fd(), &temporary, meta.size);
        let (renamed, kept, is_foreign) = (AtomicBool::new(false), AtomicBool::new(keep), self.is_foreign(&dir));
        let (name, key, owners, fsync) = (name.to_vec(), key.clone(), self.owners, self.fsync);
        Partial { dir, name, temporary, target, key, meta, renamed, kept, is_foreign, owners, fsync }
    }
}

/// What tells a file from all others that had or will have its name: inode and time of birth, where the file system keeps one.
fn birth(fd: &OwnedFd) -> String {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    match rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted) {
        Ok(found) => format!("{}-{}.{}", found.stx_ino, found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
        Err(errno) => format!("unknown: {errno}"),
    }
}

/// Names of temporary files are ours: a file that got one would be taken for the rest of an interrupted transfer.
fn check_final_name(key: &ObjectKey) -> Result<(), StoreError> {
    if key.components().next_back().is_some_and(is_temporary) {
        let reason = "names of the form .NAME.tradewind-partial are those of unfinished files; exclude it, or give it another name";
        return Err(StoreError::InvalidName { name: key.to_string(), reason });
    }
    Ok(())
}

/// Whether a file of this name is our own and only for a while.
fn is_temporary(name: &[u8]) -> bool {
    name.starts_with(b".") && (name.ends_with(SUFFIX) || name.ends_with(PROBE_SUFFIX))
}

/// Modification time, nanoseconds since 1970-01-01 UTC; `None` beyond the year 2262.
fn mtime_ns(stat: &Stat) -> Option<i64> {
    stat.st_mtime.checked_mul(1_000_000_000)?.checked_add(i64::try_from(stat.st_mtime_nsec).ok()?)
}

/// Locks a file for this transfer. A file system without locks locks everything.
fn lock(fd: &OwnedFd) -> Result<(), Errno> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) => Ok(()),
        result => result,
    }
}

/// Gives a file its final name.
fn rename(dir: &OwnedFd, from: &[u8], to: &[u8], overwrite: bool) -> Result<(), Errno> {
    if overwrite {
        return rustix::fs::renameat(dir, from, dir, to);
    }
    match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        // Some file systems know no such flag; a link never replaces either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            rustix::fs::linkat(dir, from, dir, to, AtFlags::empty())?;
            rustix::fs::unlinkat(dir, from, AtFlags::empty())
        }
        result => result,
    }
}

/// `.NAME.tradewind-partial`, or the name's checksum in its place where that would be too long.
fn temporary_name(name: &[u8]) -> Vec<u8> {
    if name.len() + 1 + SUFFIX.len() > NAME_BYTES_MAX {
        [format!(".{}", Crc64::of(name)).as_bytes(), SUFFIX].concat()
    } else {
        [b".", name, SUFFIX].concat()
    }
}

/// Opens the partial file and locks it. Whoever held the lock before may have renamed the file to its final name in between,
/// and that one must not be touched: so the name must still lead to what was locked.
fn open_locked(dir: &OwnedFd, temporary: &[u8], key: &ObjectKey, create: bool) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | if create { OFlags::CREATE } else { OFlags::empty() };
    for _ in 0..LOCK_TRIES_MAX {
        let fd = rustix::fs::openat(dir, temporary, flags, Mode::from_raw_mode(0o600)).map_err(|errno| failed("create", key, errno))?;
        match lock(&fd) {
            Ok(()) => {}
            Err(Errno::AGAIN) => return Err(StoreError::Busy { object: key.to_string() }),
            Err(errno) => return Err(failed("lock", key, errno)),
        }
        let locked = rustix::fs::fstat(&fd).map_err(|errno| failed("look at", key, errno))?;
        match rustix::fs::statat(dir, temporary, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino) => return Ok(fd),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("look at", key, errno)),
        }
    }
    Err(StoreError::Busy { object: key.to_string() })
}

/// A file being written. Dropped before it is complete, it removes itself, unless it is to be kept.
#[derive(Debug)]
struct Partial {
    dir: OwnedFd,
    name: Vec<u8>,
    temporary: Vec<u8>,
    target: Target,
    key: ObjectKey,
    meta: ObjectMeta,
    renamed: AtomicBool,
    kept: AtomicBool,
    /// It lies in another file system than the store's root, which [`Store::sync`] does not reach.
    is_foreign: bool,
    /// Whether it gets the owner that its attributes name.
    owners: bool,
    fsync: FsyncPolicy,
}

impl Partial {
    /// Whether nothing else will make it durable.
    fn needs_fsync(&self) -> bool {
        self.fsync == FsyncPolicy::Each || (self.fsync == FsyncPolicy::End && self.is_foreign)
    }

    /// Takes the room that is needed, so that a full disk is found before the transfer and not at its end; none for a file with holes.
    fn reserve(&self) -> Result<(), StoreError> {
        let size = self.meta.size;
        rustix::fs::ftruncate(self.target.fd(), 0).map_err(|errno| failed("empty", &self.key, errno))?;
        if size == 0 {
            return Ok(());
        }
        if is_marked_sparse(&self.meta.attributes) {
            return rustix::fs::ftruncate(self.target.fd(), size).map_err(|errno| failed("size", &self.key, errno));
        }
        match rustix::fs::fallocate(self.target.fd(), FallocateFlags::empty(), 0, size) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                rustix::fs::ftruncate(self.target.fd(), size).map_err(|errno| failed("size", &self.key, errno))
            }
            Err(Errno::NOSPC | Errno::DQUOT) => {
                Err(StoreError::Full { place: "the target file system".to_owned(), detail: format!("{} needs {size} bytes", self.key) })
            }
            Err(errno) => Err(failed("reserve room for", &self.key, errno)),
        }
    }

    fn write(&self, body: &Body, offset: u64) -> Result<(), StoreError> {
        if offset.checked_add(body.len()).is_none_or(|end| end > self.meta.size) {
            let detail = format!("{} bytes at {offset} do not fit into {} of {} bytes", body.len(), self.key, self.meta.size);
            return Err(StoreError::Configuration { detail });
        }
        self.target.write(body.chunks(), offset).map_err(|errno| failed("write", &self.key, errno))?;
        let result = if self.is_foreign && self.needs_fsync() { rustix::fs::fdatasync(self.target.fd()) } else { Ok(()) };
        result.map_err(|errno| failed("make durable", &self.key, errno))
    }

    /// Mode, time, durability, name: in this order, so that whatever carries the name is complete.
    fn publish(&self) -> Result<(), StoreError> {
        // A repeated call after a lost answer: it is done.
        if self.renamed.load(Ordering::Acquire) {
            return Ok(());
        }
        let fd = self.target.fd();
        attributes::restore(fd, &self.meta, self.owners).map_err(|errno| failed("set mode and times of", &self.key, errno))?;
        if self.needs_fsync() {
            rustix::fs::fsync(fd).map_err(|errno| failed("make durable", &self.key, errno))?;
        }
        let overwrite = self.meta.overwrite;
        rename(&self.dir, &self.temporary, &self.name, overwrite).map_err(|errno| failed("rename", &self.key, errno))?;
        self.renamed.store(true, Ordering::Release);
        let synced = if self.needs_fsync() { rustix::fs::fsync(&self.dir) } else { Ok(()) };
        synced.map_err(|errno| failed("make durable the directory of", &self.key, errno))
    }

    fn remove(&self) -> Result<(), StoreError> {
        if self.renamed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        match rustix::fs::unlinkat(&self.dir, self.temporary.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("remove", &self.key, errno)),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Acquire)
            && let Err(error) = self.remove()
        {
            tracing::warn!(%error, "a partial file stays behind; the next transfer of this file takes it over");
        }
    }
}

#[async_trait]
impl Store for LocalStore {
    fn place(&self) -> String {
        format!("directory {}", self.path.display())
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn check(&self, _prefix: &str) -> Result<(), StoreError> {
        let store = self.clone();
        Self::work(move || {
            let key = ObjectKey::new(&[format!(".{:032x}", rand::random::<u128>()).as_bytes(), PROBE_SUFFIX].concat())?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&*store.root, key.as_bytes(), flags, Mode::from_raw_mode(0o600)) {
                Ok(_) => {
                    rustix::fs::unlinkat(&*store.root, key.as_bytes(), AtFlags::empty()).map_err(|errno| failed("remove", &key, errno))
                }
                Err(Errno::NOENT) => Err(StoreError::NotFound { place: store.place() }),
                Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Err(StoreError::AccessDenied {
                    place: store.place(),
                    action: "create a file",
                    detail: "permission denied or read-only".to_owned(),
                }),
                Err(errno) => Err(failed("create", &key, errno)),
            }
        })
        .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        let (store, key) = (self.clone(), key.clone());
        Self::work(move || store.look(&key)).await
    }

    async fn read(&self, key: &ObjectKey, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        let (store, key, expected) = (self.clone(), key.clone(), expected.cloned());
        Self::work(move || store.read_range(&key, range, expected.as_ref())).await
    }

    async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        let (store, prefix, after) = (self.clone(), prefix.to_owned(), after.map(<[u8]>::to_vec));
        Self::work(move || list::list(store.root.as_fd(), prefix.as_bytes(), after.as_deref(), limit, depth)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let (store, key) = (self.clone(), key.clone());
        Self::work(move || store.remove(&key)).await
    }

    async fn put(&self, key: &ObjectKey, meta: ObjectMeta, body: Body) -> Result<StoredObject, StoreError> {
        let (store, key) = (self.clone(), key.clone());
        Self::work(move || store.put_one(&key, &meta, &body)).await
    }

    fn batch_objects_max(&self) -> usize {
        BATCH_OBJECTS_MAX
    }

    async fn put_many(&self, objects: Vec<(ObjectKey, ObjectMeta, Body)>) -> Result<Vec<Result<StoredObject, StoreError>>, StoreError> {
        let store = self.clone();
        Self::work(move || Ok(store.put_batch(&objects))).await
    }

    async fn begin(&self, key: &ObjectKey, meta: ObjectMeta) -> Result<Arc<dyn Upload>, StoreError> {
        let (store, key) = (self.clone(), key.clone());
        let partial = Self::work(move || store.create(&key, meta.clone())).await?;
        Ok(Arc::new(LocalUpload(Arc::new(partial))))
    }

    async fn reopen(&self, key: &ObjectKey, meta: ObjectMeta, handle: &str) -> Result<Arc<dyn Upload>, StoreError> {
        let (store, key) = (self.clone(), key.clone());
        let handle = handle.to_owned();
        let partial = Self::work(move || store.reopen_partial(&key, meta, &handle)).await?;
        Ok(Arc::new(LocalUpload(Arc::new(partial))))
    }

    async fn find_own(&self, key: &ObjectKey, meta: ObjectMeta, crc: Crc64) -> Result<Option<StoredObject>, StoreError> {
        let (store, key) = (self.clone(), key.clone());
        Self::work(move || store.same(&key, &meta, crc)).await
    }

    fn sync(&self) -> Result<(), StoreError> {
        if self.fsync == FsyncPolicy::Never {
            return Ok(());
        }
        rustix::fs::syncfs(&*self.root).map_err(|errno| StoreError::Io {
            action: "make durable",
            path: self.path.display().to_string(),
            source: errno.into(),
        })
    }
}

#[derive(Debug)]
struct LocalUpload(Arc<Partial>);

#[async_trait]
impl Upload for LocalUpload {
    async fn put_part(&self, part: Part) -> Result<PartReceipt, StoreError> {
        let partial = Arc::clone(&self.0);
        LocalStore::work(move || {
            partial.write(&part.body, part.offset)?;
            Ok(PartReceipt { number: part.number, len: part.body.len(), crc: part.body.crc(), etag: None })
        })
        .await
    }

    async fn complete(&self, parts: &[PartReceipt], crc: Crc64) -> Result<StoredObject, StoreError> {
        let written: u64 = parts.iter().map(|part| part.len).sum();
        if written != self.0.meta.size {
            let detail = format!("{} parts make {written} of {} bytes of {}", parts.len(), self.0.meta.size, self.0.key);
            return Err(StoreError::Configuration { detail });
        }
        let partial = Arc::clone(&self.0);
        LocalStore::work(move || partial.publish()).await?;
        Ok(StoredObject { etag: None, crc, verified_by_store: false, version_id: None })
    }

    async fn abort(&self) -> Result<(), StoreError> {
        let partial = Arc::clone(&self.0);
        LocalStore::work(move || partial.remove()).await
    }

    fn handle(&self) -> String {
        birth(self.0.target.owned())
    }

    fn keep(&self) {
        self.0.kept.store(true, Ordering::Release);
    }

    async fn recall(&self, receipts: Vec<PartReceipt>) -> Result<Vec<PartReceipt>, StoreError> {
        // The file has its whole size, and the journal names only what was written into it.
        Ok(receipts)
    }
}

#[cfg(test)]
mod tests;
