//! An object of several parts: a file in the spool directory until it is whole, then one request.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use super::Group;
use super::digest::{Digesting, Digests};
use crate::checksum::{Crc64, RunningCrc64};
use crate::error::StoreError;
use crate::local::spool::Spooled;
use crate::rest::same_crc;
use crate::store::{Body, ObjectMeta, Part, PartReceipt, StoredObject, Upload};

/// Bytes that are read at once.
const READ_BYTES: u64 = 1 << 20;
/// Reads that wait for the network.
const READS_AHEAD: usize = 4;
/// How long parts that an earlier process left may be read for; what is not read by then is sent again. Less than any deadline of a request.
const RECALL_TIME: Duration = Duration::from_secs(30);

/// A file that becomes an object.
#[derive(Debug)]
pub(super) struct SpooledUpload {
    group: Arc<Group>,
    key: String,
    meta: ObjectMeta,
    file: Arc<Spooled>,
    /// It was sent, and what became of that may not be known.
    is_sent: AtomicBool,
    stored: Mutex<Option<StoredObject>>,
}

impl SpooledUpload {
    pub(super) async fn begin(group: Arc<Group>, key: String, meta: ObjectMeta) -> Result<Self, StoreError> {
        let (name, of) = (group.spool_name(&key)?, meta.clone());
        let file = group.work(&key, move |group| group.spool.spool(&name, of)).await?;
        Ok(Self::new(group, key, meta, file))
    }

    pub(super) async fn reopen(group: Arc<Group>, key: String, meta: ObjectMeta, handle: String) -> Result<Self, StoreError> {
        let (name, of) = (group.spool_name(&key)?, meta.clone());
        let file = group.work(&key, move |group| group.spool.respool(&name, of, &handle)).await?;
        Ok(Self::new(group, key, meta, file))
    }

    fn new(group: Arc<Group>, key: String, meta: ObjectMeta, file: Spooled) -> Self {
        Self { group, key, meta, file: Arc::new(file), is_sent: false.into(), stored: Mutex::new(None) }
    }

    /// Checksums of the file, if it holds what was put into it.
    async fn digests(&self, parts: &[PartReceipt], crc: Crc64) -> Result<Digests, StoreError> {
        let (file, parts, key, place) = (Arc::clone(&self.file), parts.to_vec(), self.key.clone(), self.group.spool_place.clone());
        self.group
            .work(&self.key, move |_| {
                let (mut digesting, mut offset) = (Digesting::default(), 0);
                for part in &parts {
                    let mut of_part = RunningCrc64::default();
                    each(&file, offset, part.len, |bytes| {
                        digesting.update(&bytes);
                        of_part.update(&bytes);
                        Ok(())
                    })?;
                    let what = format!("the bytes of part {} (from {offset} on) in {place}", part.number);
                    same_crc(&key, &what, of_part.finish(), part.crc)?;
                    offset += part.len;
                }
                let digests = digesting.finish();
                same_crc(&key, &format!("the bytes in {place}"), digests.crc, crc).map(|()| digests)
            })
            .await
    }

    async fn remove(&self) -> Result<(), StoreError> {
        let file = Arc::clone(&self.file);
        self.group.work(&self.key, move |_| file.remove()).await
    }

    /// The object is there: its file is not needed any more.
    async fn done(&self, stored: StoredObject) -> StoredObject {
        if let Err(error) = self.remove().await {
            tracing::warn!(%error, object = self.key, "its file stays in the spool directory; the next transfer of this object takes it over");
        }
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = Some(stored.clone());
        stored
    }
}

impl Group {
    /// Runs blocking file work where it disturbs nobody.
    async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        key: &str,
        task: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let group = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || task(&group)).await;
        let failed = |error| self.asked("work in the spool directory", key, 0).unmade(&format!("{error}"));
        done.map_err(failed)?.map_err(|error| self.of_spool(key, error))
    }
}

/// Reads `len` bytes from `offset` on, one piece after the other.
fn each(file: &Spooled, mut offset: u64, len: u64, mut take: impl FnMut(Bytes) -> Result<(), StoreError>) -> Result<(), StoreError> {
    let end = offset + len;
    while offset < end {
        let next = READ_BYTES.min(end - offset);
        take(file.read(offset, next as usize)?)?;
        offset += next;
    }
    Ok(())
}

/// A body out of a file. Its checksum is computed once more while it is read, and its end is withheld if that is not `crc`: what has changed
/// since it was looked at never becomes an object.
fn pieces_of(file: Arc<Spooled>, bytes: u64, crc: Crc64) -> Pieces {
    let (sender, pieces) = mpsc::channel(READS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let (mut running, mut left) = (RunningCrc64::default(), bytes);
        let sent = each(&file, 0, bytes, |piece| {
            running.update(&piece);
            left -= piece.len() as u64;
            if left == 0 {
                same_crc("the object", "its bytes on the disk", running.finish(), crc)?;
            }
            // Nobody listens any more: there is nothing left to do.
            sender.blocking_send(Ok(piece)).map_err(|_| StoreError::UploadGone { object: String::new() })
        });
        if let Err(error) = sent {
            let _ = sender.blocking_send(Err(io::Error::other(error)));
        }
    });
    Pieces { pieces, left: bytes }
}

/// Pieces of a file as they are read.
struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(context)).unwrap_or_else(|| Err(io::Error::other("reading the file ended early")));
        Poll::Ready(Some(piece.map(|piece| {
            self.left -= piece.len() as u64;
            Frame::data(piece)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What a receipt says of where a part lies, for a part is no object that the store could name.
fn place_of(number: u32, offset: u64) -> String {
    format!("{number}@{offset}")
}

fn offset_of(receipt: &PartReceipt) -> Option<u64> {
    let (number, offset) = receipt.etag.as_ref()?.split_once('@')?;
    offset.parse().ok().filter(|_| number.parse() == Ok(receipt.number))
}

#[async_trait]
impl Upload for SpooledUpload {
    async fn put_part(&self, part: Part) -> Result<PartReceipt, StoreError> {
        let (file, key) = (Arc::clone(&self.file), self.key.clone());
        self.group
            .work(&self.key, move |_| {
                let Part { number, offset, body } = part;
                let mut crc = RunningCrc64::default();
                body.chunks().iter().for_each(|chunk| crc.update(chunk));
                same_crc(&key, "the bytes to be stored", crc.finish(), body.crc())?;
                file.write(&body, offset)?;
                Ok(PartReceipt { number, len: body.len(), crc: body.crc(), etag: Some(place_of(number, offset)) })
            })
            .await
    }

    async fn complete(&self, parts: &[PartReceipt], crc: Crc64) -> Result<StoredObject, StoreError> {
        if let Some(stored) = self.stored.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(stored);
        }
        let written: u64 = parts.iter().map(|part| part.len).sum();
        if written != self.meta.size {
            let detail = format!("{} parts make {written} of {} bytes of {}", parts.len(), self.meta.size, self.key);
            return Err(StoreError::Configuration { detail });
        }
        let digests = self.digests(parts, crc).await?;
        // What was sent may have arrived though its answer was lost: it is not sent again for nothing.
        if (!self.meta.overwrite || self.is_sent.load(Ordering::Relaxed))
            && let Some(stored) = self.group.make_way(&self.key, &self.meta, &digests).await?
        {
            return Ok(self.done(stored).await);
        }
        self.is_sent.store(true, Ordering::Relaxed);
        let streamed = (self.meta.size, reqwest::Body::wrap(pieces_of(Arc::clone(&self.file), self.meta.size, crc)));
        let stored = self.group.send(&self.key, &self.meta, &digests, &Body::default(), Some(streamed)).await?;
        Ok(self.done(stored).await)
    }

    async fn abort(&self) -> Result<(), StoreError> {
        self.remove().await
    }

    fn handle(&self) -> String {
        self.file.handle()
    }

    fn keep(&self) {
        self.file.keep();
    }

    /// Reads them: the disk may have changed what was acknowledged, or lost it with the power.
    async fn recall(&self, receipts: Vec<PartReceipt>) -> Result<Vec<PartReceipt>, StoreError> {
        let (file, size) = (Arc::clone(&self.file), self.meta.size);
        self.group
            .work(&self.key, move |_| {
                let (mut held, start) = (Vec::with_capacity(receipts.len()), Instant::now());
                for receipt in receipts {
                    if start.elapsed() > RECALL_TIME {
                        tracing::info!(
                            file = file.handle(),
                            parts = held.len(),
                            "the other parts of a spooled file are not read, and are sent again"
                        );
                        break;
                    }
                    let fits = |offset: &u64| offset.checked_add(receipt.len).is_some_and(|end| end <= size);
                    let Some(offset) = offset_of(&receipt).filter(fits) else { continue };
                    let mut crc = RunningCrc64::default();
                    each(&file, offset, receipt.len, |bytes| {
                        crc.update(&bytes);
                        Ok(())
                    })?;
                    if crc.finish() == receipt.crc {
                        held.push(receipt);
                    }
                }
                Ok(held)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::local::LocalStore;
    use crate::store::ObjectKey;

    /// Bytes of a body, and whether it ended well.
    async fn sent(mut pieces: Pieces) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        while let Some(frame) = pieces.frame().await {
            match frame {
                Ok(frame) => bytes.extend_from_slice(&frame.into_data().unwrap()),
                Err(_) => return (bytes, false),
            }
        }
        (bytes, true)
    }

    #[tokio::test]
    async fn the_end_of_what_has_changed_since_it_was_looked_at_is_withheld() {
        let folder = tempfile::tempdir().unwrap();
        let data: Vec<u8> = (0..2 * READ_BYTES + 10).map(|at| (at % 251) as u8).collect();
        let meta = ObjectMeta { size: data.len() as u64, mtime_ns: 0, mode: 0, overwrite: false, token: 0, attributes: Arc::default() };
        let store = LocalStore::open(folder.path()).unwrap();
        let file = Arc::new(store.spool(&ObjectKey::new(b"f").unwrap(), meta.clone()).unwrap());
        let crc = Crc64::of(&data);
        file.write(&Body::new(vec![data.clone().into()], crc), 0).unwrap();
        assert!(sent(pieces_of(Arc::clone(&file), meta.size, crc)).await == (data.clone(), true));
        file.write(&Body::new(vec![Bytes::from_static(b"?")], Crc64::of(b"?")), 7).unwrap();
        let (bytes, is_whole) = sent(pieces_of(Arc::clone(&file), meta.size, crc)).await;
        assert!(!is_whole && bytes.len() as u64 == 2 * READ_BYTES, "{} bytes", bytes.len());
        // Nobody listens: reading ends.
        drop(pieces_of(file, meta.size, crc));
    }
}
