//! Akamai NetStorage by its Usage API (ADR 0025): an object is one request.
//!
//! There are no uploads in parts, so an object of several parts waits in a file of this machine ([`crate::local::spool`]) and goes as a whole once
//! it is complete. NetStorage verifies what it is sent by SHA-256; that is computed in a pass in which the CRC-64 from the source is checked again.
//! It keeps of a file its name, bytes, MD5 and the second of its modification, and nothing else. So what is ours is known by these.

mod answers;
mod client;
mod config;
mod digest;
mod errors;
mod list;
mod pace;
mod read;
mod sign;
mod upload;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Method;

use crate::asked::Asked;
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::list::{Depth, Listing};
use crate::local::LocalStore;
use crate::metadata::text_key;
use crate::store::{Body, Limits, ObjectInfo, ObjectKey, ObjectMeta, ObjectRange, Store, StoredObject, Upload, token};
use answers::Kind;
use client::Client;
use digest::Digests;
use upload::SpooledUpload;

pub use config::NetStorageConfig;

/// Parts are pieces of a file here: as large as those of other stores, so that what fits into one is sent from memory.
const LIMITS: Limits =
    Limits { part_bytes_min: 1, part_bytes_max: 1 << 30, part_bytes_default: 16 << 20, parts_max: 10_000, object_bytes_max: 10_000 << 30 };
/// Last component of the key of what a check puts.
const PROBE: &str = ".tradewind-probe-";
/// Requests of one transfer at once, whatever there is to do: more of them would only wait for their turn.
const REQUESTS_AT_ONCE: usize = 16;
/// Largest object that is read to find out whether it is ours, bytes: a minute at 36 Mbit/s.
const READ_BACK_BYTES_MAX: u64 = 256 << 20;
const DELETE_TRIES: u32 = 3;
const NS_PER_S: i64 = 1_000_000_000;

/// A CP code of a storage group.
#[derive(Clone, Debug)]
pub struct NetStorageStore(Arc<Group>);

#[derive(Debug)]
struct Group {
    client: Client,
    spool: LocalStore,
    /// Where `spool` is.
    spool_place: String,
    /// Whether the CP code is known to be there.
    seen: AtomicBool,
    /// Whether it was said what is not kept.
    told: AtomicBool,
}

impl NetStorageStore {
    /// Prepares a client and the spool directory; sends nothing.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when the description is not usable, [`StoreError::Io`] when there is no spool directory and none can be made.
    pub fn open(config: &NetStorageConfig) -> Result<Self, StoreError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let client = Client::new(config)?;
        let path = config.spool_dir.display().to_string();
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.spool_dir);
        made.map_err(|source| StoreError::Io { action: "make the spool directory", path: path.clone(), source })?;
        let (spool, spool_place) = (LocalStore::open(&config.spool_dir)?, format!("the spool directory {path} of this server"));
        Ok(Self(Arc::new(Group { client, spool, spool_place, seen: false.into(), told: false.into() })))
    }
}

/// As NetStorage keeps a time: whole seconds, none before 1970.
fn kept_ns(mtime_ns: i64) -> i64 {
    mtime_ns.div_euclid(NS_PER_S).max(0) * NS_PER_S
}

/// Whether an object may be the file that is described, as far as can be told without its bytes.
fn is_alike(info: &ObjectInfo, meta: &ObjectMeta) -> bool {
    info.size == meta.size && info.mtime_ns == Some(kept_ns(meta.mtime_ns))
}

impl Group {
    fn asked<'a>(&'a self, action: &'static str, object: &'a str, bytes: u64) -> Asked<'a> {
        Asked { place: &self.client.place, action, object, bytes }
    }

    /// Whether the CP code is there. An action on what lies below it does not tell.
    async fn is_there(&self) -> Result<(), StoreError> {
        if !self.seen.load(Ordering::Relaxed) {
            let asked = self.asked("look for the CP code", "", 0);
            self.client.tell(asked, None, "version=1&action=stat&format=xml&encoding=utf-8&implicit=yes&slash=both").await?;
            self.seen.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn look(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        // A directory may have the same name.
        let told = self.client.tell(
            self.asked("look for an object", key, 0),
            Some(key),
            "version=1&action=stat&format=xml&encoding=utf-8&slash=both",
        );
        match told.await {
            Ok(answer) => match answer.files.iter().find(|file| file.kind() != Kind::Folder) {
                Some(file) if file.kind() == Kind::File => Ok(Some(file.info())),
                Some(_) => Err(StoreError::InvalidName {
                    name: key.to_owned(),
                    reason: "something that is no file has that name: a symbolic link",
                }),
                None => Ok(None),
            },
            Err(StoreError::ObjectGone { .. }) => self.is_there().await.map(|()| None),
            Err(error) => Err(error),
        }
    }

    /// Whether a write may go on: `Ok(Some)` means that an earlier try of ours has stored the object already. Nothing keeps an object that comes to
    /// be between this look and the write: NetStorage has no condition for that.
    async fn make_way(&self, key: &str, meta: &ObjectMeta, digests: &Digests) -> Result<Option<StoredObject>, StoreError> {
        match self.look(key).await? {
            Some(found) if is_alike(&found, meta) && found.etag.as_ref() == Some(&digests.md5) => Ok(Some(stored(digests))),
            Some(_) if !meta.overwrite => Err(StoreError::DestinationExists { object: key.to_owned() }),
            _ => Ok(None),
        }
    }

    /// Sends an object, from memory unless it is `streamed`.
    async fn send(
        &self,
        key: &str,
        meta: &ObjectMeta,
        digests: &Digests,
        body: &Body,
        streamed: Option<(u64, reqwest::Body)>,
    ) -> Result<StoredObject, StoreError> {
        let bytes = streamed.as_ref().map_or(body.len(), |(bytes, _)| *bytes);
        let mtime_s = kept_ns(meta.mtime_ns) / NS_PER_S;
        let action = format!("version=1&action=upload&size={bytes}&sha256={}&mtime={mtime_s}", digests.sha256);
        let request = self.client.request(self.asked("put an object", key, bytes), Method::PUT, Some(key)).body(body);
        self.client.send_with(request, &action, streamed).await?;
        self.seen.store(true, Ordering::Relaxed);
        Ok(stored(digests))
    }

    /// Checksums of a body whose CRC-64 is that of the source.
    async fn digests(&self, key: &str, body: &Body) -> Result<Digests, StoreError> {
        let compute = |chunks: &[Bytes]| {
            let digests = Digests::of(chunks);
            let crc = digests.crc;
            (digests, crc)
        };
        crate::rest::digest(&self.client.place, key, body, compute).await
    }

    /// What somebody wanted to be kept and is not, is said once.
    fn tell_what_goes(&self, meta: &ObjectMeta) {
        if !meta.attributes.is_empty() && !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                place = self.client.place,
                "NetStorage keeps no metadata: modes, owners, checksums and other attributes of files are left out"
            );
        }
    }

    async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let request = self.client.request(self.asked("delete an object", key, 0), Method::POST, Some(key));
        match self.client.send(request, "version=1&action=delete").await {
            Ok(_) => Ok(true),
            Err(StoreError::ObjectGone { .. }) => self.is_there().await.map(|()| false),
            // A directory of that name, for instance.
            Err(error @ StoreError::Rejected { .. }) => {
                if self.look(key).await?.is_none() {
                    Ok(false)
                } else {
                    Err(error)
                }
            }
            Err(error) => Err(error),
        }
    }

    /// What an object's upload is called in the spool directory: the same for every transfer of it.
    fn spool_name(&self, key: &str) -> Result<ObjectKey, StoreError> {
        ObjectKey::new(format!("{:032x}", token(format!("{}\0{key}", self.client.place).as_bytes())).as_bytes())
    }

    /// An error of the spool directory in words of the object.
    fn of_spool(&self, key: &str, error: StoreError) -> StoreError {
        let (object, place) = (key.to_owned(), self.spool_place.clone());
        match error {
            StoreError::Busy { .. } => StoreError::Busy { object },
            StoreError::UploadGone { .. } => StoreError::UploadGone { object },
            StoreError::Full { .. } => {
                StoreError::Full { place, detail: format!("no room for {object}, which waits there until it is whole") }
            }
            StoreError::Io { action, source, .. } => StoreError::Io { action, path: format!("{object} in {place}"), source },
            StoreError::AccessDenied { action, detail, .. } => StoreError::AccessDenied { place, action, detail },
            other => other,
        }
    }
}

/// The account of what is stored. It is SHA-256 that was verified, not this checksum.
fn stored(digests: &Digests) -> StoredObject {
    StoredObject { etag: Some(digests.md5.clone()), crc: digests.crc, verified_by_store: false, version_id: None }
}

#[async_trait]
impl Store for NetStorageStore {
    fn place(&self) -> String {
        self.0.client.place.clone()
    }

    fn takes_only_text(&self) -> bool {
        true
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn requests_at_once_max(&self) -> usize {
        REQUESTS_AT_ONCE
    }

    /// Puts an object and deletes it.
    async fn check(&self, prefix: &str) -> Result<(), StoreError> {
        let group = &self.0;
        group.seen.store(false, Ordering::Relaxed);
        group.is_there().await?;
        let folder = if prefix.is_empty() || prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") };
        let key = format!("{folder}{PROBE}{:016x}", rand::random::<u64>());
        let meta = ObjectMeta { size: 0, mtime_ns: 0, mode: 0, overwrite: true, token: 0, attributes: Arc::default() };
        group.send(&key, &meta, &Digests::of(&[]), &Body::new(vec![Bytes::new()], Crc64::default()), None).await?;
        for tries in 1.. {
            match group.delete(&key).await {
                Err(error) if error.is_retryable() && tries < DELETE_TRIES => {}
                deleted => return deleted.map(|_| ()),
            }
        }
        Ok(())
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        self.0.look(&text_key(key)?).await
    }

    async fn read(&self, key: &ObjectKey, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        self.0.read(&text_key(key)?, range, expected).await
    }

    async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        self.0.list(prefix, after, limit, depth).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        self.0.delete(&text_key(key)?).await
    }

    async fn put(&self, key: &ObjectKey, meta: ObjectMeta, body: Body) -> Result<StoredObject, StoreError> {
        let key = text_key(key)?;
        self.0.tell_what_goes(&meta);
        let digests = self.0.digests(&key, &body).await?;
        if !meta.overwrite
            && let Some(done) = self.0.make_way(&key, &meta, &digests).await?
        {
            return Ok(done);
        }
        self.0.send(&key, &meta, &digests, &body, None).await
    }

    async fn begin(&self, key: &ObjectKey, meta: ObjectMeta) -> Result<Arc<dyn Upload>, StoreError> {
        let key = text_key(key)?;
        self.0.tell_what_goes(&meta);
        // One that is alike may be of an earlier transfer: that shows when its bytes are here.
        if !meta.overwrite && self.0.look(&key).await?.is_some_and(|found| !is_alike(&found, &meta)) {
            return Err(StoreError::DestinationExists { object: key });
        }
        Ok(Arc::new(SpooledUpload::begin(Arc::clone(&self.0), key, meta).await?))
    }

    async fn reopen(&self, key: &ObjectKey, meta: ObjectMeta, handle: &str) -> Result<Arc<dyn Upload>, StoreError> {
        Ok(Arc::new(SpooledUpload::reopen(Arc::clone(&self.0), text_key(key)?, meta, handle.to_owned()).await?))
    }

    /// Reads an object of the same size and time, for only its MD5 is known. One that is too large for that counts as another's: if it is not, that
    /// shows when it is sent again.
    async fn find_own(&self, key: &ObjectKey, meta: ObjectMeta, crc: Crc64) -> Result<Option<StoredObject>, StoreError> {
        let key = text_key(key)?;
        let Some(found) = self.0.look(&key).await?.filter(|found| is_alike(found, &meta)) else { return Ok(None) };
        if found.size > READ_BACK_BYTES_MAX {
            tracing::debug!(key, bytes = found.size, "too large to be read back: it is sent again and compared then");
            return Ok(None);
        }
        let contents = if found.size == 0 { Crc64::default() } else { self.0.contents_crc(&key, &found).await? };
        Ok((contents == crc).then_some(StoredObject { etag: found.etag, crc, verified_by_store: false, version_id: None }))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.0.spool.sync()
    }
}
