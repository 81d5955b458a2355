//! Apache HDFS: files below a root directory, by WebHDFS itself (ADR 0024), or their data by Hadoop's own protocol (ADR 0028).
//!
//! What is not finished lies under a hidden name beside the object, and gets its own name by one rename, which replaces nothing unasked. Whether
//! all bytes arrived is known by the checksums that DataNodes keep.

mod client;
mod config;
mod errors;
mod list;
mod names;
mod rpc;
mod status;
mod upload;
mod verify;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Method;

use crate::asked::Asked;
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::existing::{Existing, Found};
use crate::list::{Depth, Listing};
use crate::reading::{Reading, changed, ends_early};
use crate::rest::{self, Request};
use crate::store::{Body, Limits, ObjectInfo, ObjectKey, ObjectMeta, ObjectRange, Store, StoredObject, Upload};
use client::{ANSWER_BYTES_MAX, Client, Done};
use names::{HIDDEN, folder};
use rpc::Rpc;
use status::{FileStatus, Kept, MODE_DEFAULT, StatusAnswer, XATTR, XattrsAnswer, by_number, time_ms};
use upload::PartsUpload;

pub use config::{HdfsAuth, HdfsConfig};

/// A part is a block of its object, or several; a NameNode refuses smaller ones (`dfs.namenode.fs-limits.min-block-size`) where nobody has set it
/// otherwise.
const PART_BYTES_MIN: u64 = 1 << 20;
const PART_BYTES_MAX: u64 = 1 << 30;
const PART_BYTES_DEFAULT: u64 = 32 << 20;
const PARTS_MAX: u32 = 10_000;

/// A directory of a cluster.
#[derive(Clone, Debug)]
pub struct HdfsStore(Arc<Root>);

#[derive(Debug)]
struct Root {
    client: Client,
    /// Moves data, where it is not WebHDFS that does.
    rpc: Option<Arc<Rpc>>,
    /// Absolute, without a slash at its end: empty for the whole of HDFS.
    path: String,
    /// Whether the directory is known to be there.
    seen: AtomicBool,
}

/// How a file is created.
struct Create<'a> {
    key: &'a str,
    path: &'a str,
    /// Bytes of a block; `None`: as many as the cluster makes them.
    block_bytes: Option<u64>,
    /// Permissions.
    mode: u32,
}

impl HdfsStore {
    /// Prepares a client; sends nothing.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when the description is not usable.
    pub fn open(config: &HdfsConfig) -> Result<Self, StoreError> {
        let (client, path) = (Client::new(config)?, config.root.trim_end_matches('/').to_owned());
        Ok(Self(Arc::new(Root { client, rpc: Rpc::new(config), path, seen: false.into() })))
    }
}

impl Root {
    fn asked<'a>(&'a self, action: &'static str, object: &'a str, bytes: u64) -> Asked<'a> {
        Asked { place: &self.client.place, action, object, bytes }
    }

    /// Where the object of a key is, or the folder of a prefix.
    fn path(&self, key: &str) -> String {
        if key.is_empty() { self.root().to_owned() } else { format!("{}/{}", self.path, names::written(key)) }
    }

    /// The path of the root itself.
    fn root(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }

    /// What is at a path; `None`: nothing.
    async fn status(&self, key: &str, path: &str) -> Result<Option<FileStatus>, StoreError> {
        let request = Client::request(self.asked("look for a file", key, 0), Method::GET, "GETFILESTATUS", path);
        match self.client.send_for::<StatusAnswer>(request, ANSWER_BYTES_MAX).await {
            Ok(answer) => Ok(Some(answer.file_status)),
            Err(StoreError::ObjectGone { .. }) => Ok(None),
            // A folder on its way is a file: NameNodes since 2.8 say so.
            Err(StoreError::InvalidName { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the root is there.
    async fn is_there(&self) -> Result<(), StoreError> {
        if !self.seen.load(Ordering::Relaxed) {
            match self.status("", self.root()).await? {
                Some(status) if status.is_directory() => self.seen.store(true, Ordering::Relaxed),
                _ => return Err(StoreError::NotFound { place: self.client.place.clone() }),
            }
        }
        Ok(())
    }

    /// What is kept beside a file; nothing where there is no such file, and in clusters without extended attributes.
    async fn kept(&self, key: &str, path: &str) -> Result<Option<Kept>, StoreError> {
        let asked = self.asked("read the attributes of a file", key, 0);
        let request = Client::request(asked, Method::GET, "GETXATTRS", path).query("encoding", "base64");
        match self.client.send_for::<XattrsAnswer>(request, ANSWER_BYTES_MAX).await {
            Ok(answer) => Ok(answer.kept()),
            Err(StoreError::ObjectGone { .. } | StoreError::InvalidName { .. }) => Ok(None),
            Err(StoreError::Rejected { detail, .. }) if detail.contains("XAttr") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates a file, and makes sure that all of it has arrived.
    async fn write(&self, create: &Create<'_>, body: &Body) -> Result<(), StoreError> {
        match &self.rpc {
            Some(rpc) => rpc.write(self.asked("write a file", create.key, body.len()), create, body).await,
            None => self.write_by_web(create, body).await,
        }
    }

    async fn write_by_web(&self, create: &Create<'_>, body: &Body) -> Result<(), StoreError> {
        let Create { key, path, block_bytes, mode } = *create;
        let usual = self.checksum(key, body, verify::Method::USUAL).await?;
        let request = Client::request(self.asked("write a file", key, body.len()), Method::PUT, "CREATE", path);
        let mut request = request.query("overwrite", "false").query("permission", format!("{mode:o}"));
        if let Some(block_bytes) = block_bytes {
            request = request.query("blocksize", block_bytes.to_string());
        }
        self.client.send_data(request, body).await?;
        if body.is_empty() { Ok(()) } else { self.verify(create, body, usual).await }
    }

    /// A DataNode says that all is well also of what it could not store to its end (Hadoop 2.7, `HdfsWriter` closes the file when it has answered).
    async fn verify(&self, create: &Create<'_>, body: &Body, usual: verify::FileMd5) -> Result<(), StoreError> {
        let Create { key, path, .. } = *create;
        let asked = self.asked("ask for the checksum of a file", key, 0);
        let answer = self.client.send_through(Client::request(asked, Method::GET, "GETFILECHECKSUM", path)).await?;
        let told: verify::Told = rest::json(&asked, answer, ANSWER_BYTES_MAX).await?;
        let Some((method, theirs)) = told.checksum() else { return self.has_length(key, path, body.len()).await };
        let ours = if method == verify::Method::USUAL { usual } else { self.checksum(key, body, method).await? };
        if ours == theirs {
            return Ok(());
        }
        match self.status(key, path).await? {
            Some(status) if !status.stores_bytes_as_they_are() => self.has_length(key, path, body.len()).await,
            _ => {
                let detail = "the CRCs that its DataNodes keep are not those of the bytes that were sent".to_owned();
                Err(StoreError::ChecksumMismatch { object: key.to_owned(), detail })
            }
        }
    }

    /// All that is known of a file whose checksum cannot be compared.
    async fn has_length(&self, key: &str, path: &str, bytes: u64) -> Result<(), StoreError> {
        let is_whole = self.status(key, path).await?.is_some_and(|status| status.length == bytes);
        if is_whole { Ok(()) } else { Err(self.incomplete(key)) }
    }

    /// A DataNode does not say what it was.
    fn incomplete(&self, key: &str) -> StoreError {
        let why = "a quota of space may be used up (hdfs dfs -count -q), its DataNodes full or away; their logs tell";
        self.asked("write a file", key, 0).broken(&format!("not all of {key} has arrived, though a DataNode said so: {why}"))
    }

    /// What HDFS will tell of a body whose CRC-64 is that of the source.
    async fn checksum(&self, key: &str, body: &Body, method: verify::Method) -> Result<verify::FileMd5, StoreError> {
        rest::digest(&self.client.place, key, body, move |chunks| verify::checksum(chunks, method)).await
    }

    /// The bytes of a range of what was found to be `before`.
    async fn read(&self, key: &str, range: Range<u64>, before: &ObjectInfo) -> Result<ObjectRange, StoreError> {
        let (path, asked) = (self.path(key), self.asked("read a file", key, 0));
        if let Some(rpc) = &self.rpc {
            return Ok(ObjectRange { info: before.clone(), bytes: rpc.read(asked, path, range).await? });
        }
        let path = before.etag.as_deref().filter(|_| !names::is_plain(&path)).and_then(by_number).unwrap_or(path);
        let request = Client::request(asked, Method::GET, "OPEN", &path);
        let request = request.query("offset", range.start.to_string()).query("length", (range.end - range.start).to_string());
        let answer = self.client.send_through(request).await?;
        rest::read(Reading::new(&self.client.place, key, range, before.clone(), None)?, answer).await
    }

    /// Gives a file that is complete what is kept of it, and then its name. Whether an earlier try has done so is not asked here.
    async fn publish(&self, key: &str, from: &str, meta: &ObjectMeta, crc: Crc64) -> Result<StoredObject, StoreError> {
        let mode = if meta.mode & 0o777 == 0 { MODE_DEFAULT } else { meta.mode & 0o777 };
        if mode & 0o600 != 0o600 {
            // An earlier try may have made it one that nobody can write to.
            self.set_mode(key, from, mode | 0o600).await?;
        }
        let xattr = self.change("SETXATTR", key, from).query("xattr.name", XATTR).query("xattr.value", Kept::text(key, meta, crc)?);
        let time = self.change("SETTIMES", key, from).query("modificationtime", time_ms(meta.mtime_ns).to_string());
        let xattr = self.client.send(xattr.query("flag", "CREATE,REPLACE"));
        let (status, ..) = tokio::try_join!(self.status(key, from), xattr, self.client.send(time))?;
        let status = status.ok_or_else(|| StoreError::UploadGone { object: key.to_owned() })?;
        if status.length != meta.size {
            return Err(self.incomplete(key));
        }
        self.set_mode(key, from, mode).await?;
        self.rename(key, from, meta.overwrite).await?;
        Ok(StoredObject { etag: status.etag_at(meta), crc, verified_by_store: false, version_id: None })
    }

    async fn set_mode(&self, key: &str, path: &str, mode: u32) -> Result<(), StoreError> {
        self.client.send(self.change("SETPERMISSION", key, path).query("permission", format!("{mode:o}"))).await.map(|_| ())
    }

    fn change<'a>(&'a self, op: &'static str, key: &'a str, path: &'a str) -> Request<'a> {
        Client::request(self.asked("set the attributes of a file", key, 0), Method::PUT, op, path)
    }

    /// Gives a file the name of the object. Its folder may have to be made first.
    async fn rename(&self, key: &str, from: &str, overwrite: bool) -> Result<(), StoreError> {
        let to = self.path(key);
        match self.rename_once(key, from, &to, overwrite).await {
            Err(StoreError::ObjectGone { .. }) => {}
            renamed => return renamed,
        }
        self.make_folder(key, folder(&to), "755").await?;
        match self.rename_once(key, from, &to, overwrite).await {
            Err(StoreError::ObjectGone { object }) => Err(StoreError::UploadGone { object }),
            renamed => renamed,
        }
    }

    /// Makes a folder and those that it needs, all with these permissions; one that is there stays as it is.
    async fn make_folder(&self, key: &str, path: &str, mode: &str) -> Result<(), StoreError> {
        let asked = self.asked("make a folder", key, 0);
        self.client.send(Client::request(asked, Method::PUT, "MKDIRS", path).query("permission", mode)).await.map(|_| ())
    }

    /// With options, which WebHDFS has without telling of them: without, a file gets into a directory that has the name.
    async fn rename_once(&self, key: &str, from: &str, to: &str, overwrite: bool) -> Result<(), StoreError> {
        let asked = self.asked("rename a file", key, 0);
        let request = Client::request(asked, Method::PUT, "RENAME", from).query("destination", to);
        let answer = match self.client.send(request.query("renameoptions", if overwrite { "OVERWRITE" } else { "NONE" })).await {
            Ok(answer) => answer,
            Err(StoreError::Rejected { detail, .. }) if detail.contains("must both be") => {
                return Err(StoreError::InvalidName { name: key.to_owned(), reason: "a folder has that name" });
            }
            Err(error) => return Err(error),
        };
        // Who knows no options answers as without them, in JSON.
        let text = rest::words_of(answer).await;
        match serde_json::from_str::<Done>(&text) {
            Ok(Done { boolean: false }) if overwrite => {
                Err(asked.unmade("this gateway does not replace files by renaming; name the NameNodes themselves"))
            }
            Ok(Done { boolean: false }) => Err(StoreError::DestinationExists { object: key.to_owned() }),
            _ => Ok(()),
        }
    }

    /// Removes a path; false: there was nothing.
    async fn remove(&self, key: &str, path: &str, recursive: bool) -> Result<bool, StoreError> {
        let request = Client::request(self.asked("delete a file", key, 0), Method::DELETE, "DELETE", path);
        match self.client.send_for::<Done>(request.query("recursive", recursive.to_string()), ANSWER_BYTES_MAX).await {
            Ok(done) => Ok(done.boolean),
            Err(StoreError::ObjectGone { .. } | StoreError::InvalidName { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes what nothing needs any more. What cannot be removed is told in the log: the object itself is as it should be.
    async fn clean_up(&self, key: &str, path: &str) {
        if let Err(error) = self.remove(key, path, true).await {
            tracing::warn!(%error, object = key, path, "something stays that nothing needs");
        }
    }

    /// The folder of this path if that can be named everywhere, or else the root: where what is unfinished lies.
    fn beside<'a>(&'a self, path: &'a str) -> &'a str {
        Some(folder(path)).filter(|folder| names::is_plain(folder)).unwrap_or(&self.path)
    }

    /// A name for an unfinished file.
    fn hidden(&self, path: &str) -> String {
        format!("{}/{HIDDEN}{:032x}", self.beside(path), rand::random::<u128>())
    }
}

#[async_trait]
impl Existing for Root {
    async fn look(&self, key: &str) -> Result<Option<Found>, StoreError> {
        let path = self.path(key);
        let (status, kept) = tokio::join!(self.status(key, &path), self.kept(key, &path));
        match status?.filter(FileStatus::is_file) {
            Some(status) => Ok(Some(status.found(kept?))),
            // It may be the root that is missing.
            None => self.is_there().await.map(|()| None),
        }
    }

    /// It is what we have written down.
    fn computes_what_it_tells(&self) -> bool {
        false
    }

    fn may_refuse_blind_writes(&self) -> bool {
        true
    }

    /// The rename does.
    fn refuses_blind_writes(&self) -> bool {
        true
    }
}

#[async_trait]
impl Store for HdfsStore {
    fn place(&self) -> String {
        self.0.client.place.clone()
    }

    fn takes_only_text(&self) -> bool {
        true
    }

    fn limits(&self) -> Limits {
        Limits {
            part_bytes_min: PART_BYTES_MIN,
            part_bytes_max: PART_BYTES_MAX,
            part_bytes_default: PART_BYTES_DEFAULT,
            parts_max: PARTS_MAX,
            object_bytes_max: PART_BYTES_MAX * u64::from(PARTS_MAX),
        }
    }

    /// Writes a hidden file where the first folder on the way is that is there, gives it an attribute and removes it.
    async fn check(&self, prefix: &str) -> Result<(), StoreError> {
        let root = &self.0;
        root.seen.store(false, Ordering::Relaxed);
        root.is_there().await?;
        let inner = folder(prefix);
        if !inner.is_empty() {
            names::text(&ObjectKey::new(inner.as_bytes())?)?;
        }
        let mut at = root.path(inner).trim_end_matches('/').to_owned();
        while at.len() > root.path.len() {
            match root.status(prefix, &at).await? {
                Some(status) if status.is_directory() => break,
                Some(_) => return Err(StoreError::InvalidName { name: prefix.to_owned(), reason: "a folder on its way is a file" }),
                None => at.truncate(folder(&at).len()),
            }
        }
        let probe = root.hidden(&format!("{at}/"));
        let create = Create { key: prefix, path: &probe, block_bytes: None, mode: 0o600 };
        let (text, asked) = (Body::new(vec![Bytes::from_static(b"?")], Crc64::of(b"?")), root.asked("write a file", prefix, 1));
        let written = match root.write(&create, &text).await {
            Ok(()) => {
                let xattr = root.change("SETXATTR", prefix, &probe).query("xattr.name", XATTR).query("xattr.value", "0s");
                root.client.send(xattr.query("flag", "CREATE")).await.map(|_| ())
            }
            Err(error) => Err(error),
        };
        let removed = root.remove(prefix, &probe, false).await;
        written?;
        if removed? { Ok(()) } else { Err(asked.broken("what was written just now is not there")) }
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        Ok(self.0.look(&names::text(key)?).await?.map(|found| found.info))
    }

    /// Looked at when it has been read: it was this object all the time if it is so then, for no other has its number.
    async fn read(&self, key: &ObjectKey, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        let (root, key) = (&self.0, names::text(key)?);
        let gone = || StoreError::ObjectGone { object: key.clone() };
        let before = match expected {
            Some(expected) => expected.clone(),
            None => root.look(&key).await?.ok_or_else(gone)?.info,
        };
        if before.size < range.end {
            return Err(ends_early(&key));
        }
        let read = root.read(&key, range, &before).await;
        // What went wrong may be that it is another by now.
        match root.look(&key).await? {
            None => Err(gone()),
            Some(now) if !now.info.is_same(&before) => Err(changed(&key, "its size, time or number")),
            Some(now) => Ok(ObjectRange { info: now.info, ..read? }),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        self.0.list(prefix, after, limit, depth).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let (root, key) = (&self.0, names::text(key)?);
        let path = root.path(&key);
        match root.status(&key, &path).await? {
            Some(status) if status.is_file() => root.remove(&key, &path, false).await,
            Some(_) => Ok(false),
            None => root.is_there().await.map(|()| false),
        }
    }

    async fn put(&self, key: &ObjectKey, meta: ObjectMeta, body: Body) -> Result<StoredObject, StoreError> {
        let (root, key, crc) = (&self.0, names::text(key)?, body.crc());
        Kept::text(&key, &meta, crc)?;
        if let Some(done) = root.make_way_for(&key, &meta, &body).await? {
            return Ok(done);
        }
        // A file is created with all the folders that it needs: the root must not come to be like that.
        root.is_there().await?;
        let hidden = root.hidden(&root.path(&key));
        // Of what is to be read by its owner only, nothing is to be read by others before.
        let mode = if meta.mode & 0o777 == 0 { MODE_DEFAULT } else { meta.mode & 0o777 | 0o600 };
        let stored = match root.write(&Create { key: &key, path: &hidden, block_bytes: None, mode }, &body).await {
            Ok(()) => root.publish(&key, &hidden, &meta, crc).await,
            Err(error) => Err(error),
        };
        match stored {
            Ok(stored) => Ok(stored),
            Err(error) => {
                root.clean_up(&key, &hidden).await;
                root.settle(&key, &meta, crc, error).await
            }
        }
    }

    async fn begin(&self, key: &ObjectKey, meta: ObjectMeta) -> Result<Arc<dyn Upload>, StoreError> {
        let key = names::text(key)?;
        Kept::text(&key, &meta, Crc64::default())?;
        self.0.make_way(&key, &meta, None).await?;
        self.0.is_there().await?;
        let upload = PartsUpload::new(Arc::clone(&self.0), key, rand::random(), meta);
        upload.make().await?;
        Ok(Arc::new(upload))
    }

    async fn reopen(&self, key: &ObjectKey, meta: ObjectMeta, handle: &str) -> Result<Arc<dyn Upload>, StoreError> {
        let key = names::text(key)?;
        let id = u128::from_str_radix(handle, 16).map_err(|_| StoreError::UploadGone { object: key.clone() })?;
        Ok(Arc::new(PartsUpload::new(Arc::clone(&self.0), key, id, meta)))
    }

    async fn find_own(&self, key: &ObjectKey, meta: ObjectMeta, crc: Crc64) -> Result<Option<StoredObject>, StoreError> {
        self.0.find_own(&names::text(key)?, &meta, crc).await
    }
}
