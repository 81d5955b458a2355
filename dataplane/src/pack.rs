//! Objects that are read become blocks, for a lane to the client or for the uploader of a copy.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tradewind_client::{CRC_ATTRIBUTE, ERROR_ATTRIBUTE, is_of_the_way};
use tradewind_fabric::{BlockBuf, BlockPool, SharedBlock};
use tradewind_proto::block::{
    ATTRIBUTES_BYTES_MAX, Attributes, BlockWriter, CutError, FileId, FileRecord, attribute_bytes, check_attributes, crc64_nvme,
};
use tradewind_storage::{Fetched, FetchedObject, HOLE_BYTES_MIN, ObjectInfo, StoreError, are_zeros, is_marked_sparse};

/// How long to wait before looking again whether there is memory, or room at the receiver.
const ROOM_POLL: Duration = Duration::from_millis(1);

/// Longest text of an error that travels, bytes.
const ERROR_BYTES_MAX: usize = 512;

/// Objects as they are read.
pub(crate) type Objects = Pin<Box<dyn Stream<Item = Result<Fetched, StoreError>> + Send>>;

/// What was packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Objects read to their end.
    pub(crate) files: u64,
    /// Their bytes that were read.
    pub(crate) bytes: u64,
    /// Objects of which nothing was wanted.
    pub(crate) unwanted: u64,
    /// Objects given up.
    pub(crate) failed: u64,
    /// Why the first of these was.
    pub(crate) first_failure: Option<String>,
    /// Blocks.
    pub(crate) blocks: u32,
}

/// Fills blocks.
pub(crate) struct Packer<O> {
    pub(crate) pool: BlockPool,
    pub(crate) payload_max: usize,
    /// Takes a block and its number.
    pub(crate) out: O,
    /// Whether there is room for the block of this number.
    pub(crate) has_room: Box<dyn Fn(u32) -> bool + Send>,
}

/// A block being filled.
struct Filling {
    slot: BlockBuf,
    writer: BlockWriter,
}

/// Where the packing stands.
#[derive(Default)]
struct State {
    filling: Option<Filling>,
    /// The record of the latest object.
    latest: Option<FileRecord>,
    failed: HashSet<u32>,
    packed: Packed,
}

impl<O: FnMut(u32, SharedBlock) + Send> Packer<O> {
    /// Packs everything.
    ///
    /// # Errors
    /// The first [`StoreError`] that concerns all objects.
    pub(crate) async fn run(mut self, mut objects: Objects) -> Result<Packed, StoreError> {
        let mut state = State::default();
        while let Some(fetched) = objects.next().await {
            match fetched? {
                Fetched::Bytes { object, .. } if state.failed.contains(&object.number) => {}
                Fetched::Bytes { object, info, offset, bytes } => self.bytes(&mut state, &object, &info, offset, &bytes).await?,
                Fetched::Failed { object, error } => {
                    if state.failed.insert(object.number) {
                        state.packed.failed += 1;
                        tracing::warn!(%error, "an object is left out");
                        state.packed.first_failure.get_or_insert_with(|| error.to_string());
                        self.withdraw(&mut state, &object, &error).await;
                    }
                }
                Fetched::Unwanted { .. } => state.packed.unwanted += 1,
            }
        }
        self.flush(&mut state).await;
        Ok(state.packed)
    }

    async fn bytes(
        &mut self,
        state: &mut State,
        object: &FetchedObject,
        info: &ObjectInfo,
        mut offset: u64,
        chunks: &[Bytes],
    ) -> Result<(), StoreError> {
        let record = match state.latest.take_if(|record| record.file == FileId(object.number)) {
            Some(record) => record,
            None => {
                if object.size >= self.payload_max as u64 {
                    // A large file starts on a block boundary.
                    self.flush(state).await;
                }
                state.packed.files += 1;
                record(object, info)
            }
        };
        if is_marked_sparse(&info.attributes) {
            for (bytes, is_hole) in segments(offset, chunks) {
                let length = bytes.len() as u64;
                if is_hole {
                    self.hole(state, &record, offset, length).await?;
                } else {
                    self.data(state, &record, offset, &[bytes]).await?;
                }
                offset += length;
            }
        } else {
            self.data(state, &record, offset, chunks).await?;
        }
        state.latest = Some(record);
        Ok(())
    }

    /// Tells of zeros instead of sending them.
    async fn hole(&mut self, state: &mut State, record: &FileRecord, mut offset: u64, mut left: u64) -> Result<(), StoreError> {
        while left > 0 {
            let added = self.filling(state).await.writer.add_hole(record, offset, left).map_err(|error| unpackable(record, &error))?;
            if added == 0 {
                self.flush(state).await;
            }
            (offset, left) = (offset + added, left - added);
            state.packed.bytes += added;
        }
        Ok(())
    }

    async fn data(&mut self, state: &mut State, record: &FileRecord, mut offset: u64, chunks: &[Bytes]) -> Result<(), StoreError> {
        let mut chunks = chunks.iter().filter(|chunk| !chunk.is_empty()).cloned();
        let mut chunk = chunks.next().unwrap_or_default();
        let mut is_first = true;
        while is_first || !chunk.is_empty() {
            is_first = false;
            let Filling { slot, writer } = self.filling(state).await;
            let Some(room) = writer.window_room(record, offset).filter(|&room| room > 0 || chunk.is_empty()) else {
                self.flush(state).await;
                is_first = true;
                continue;
            };
            // As much as fits, out of as many chunks as it takes: one extent for the whole run.
            let (at, mut length) = (writer.payload_bytes(), 0);
            while length < room && !chunk.is_empty() {
                let part = chunk.split_to(chunk.len().min(room - length));
                slot[at + length..at + length + part.len()].copy_from_slice(&part);
                length += part.len();
                if chunk.is_empty() {
                    chunk = chunks.next().unwrap_or_default();
                }
            }
            let crc = crc64_nvme(&slot[at..at + length]);
            writer.add(record, offset, length as u32, crc).map_err(|error| unpackable(record, &error))?;
            offset += length as u64;
            state.packed.bytes += length as u64;
        }
        Ok(())
    }

    /// Tells the receiver to drop what it has of an object, and why.
    async fn withdraw(&mut self, state: &mut State, object: &FetchedObject, error: &StoreError) {
        let is_begun = state.latest.as_ref().is_some_and(|record| record.file == FileId(object.number));
        if is_begun {
            state.packed.files -= 1;
        }
        let reason: String =
            error.to_string().chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).take(ERROR_BYTES_MAX).collect();
        let record = FileRecord {
            file: FileId(object.number),
            path: object.path.clone(),
            size: object.size,
            mtime_ns: 0,
            mode: 0,
            attributes: [(ERROR_ATTRIBUTE.to_owned(), reason.trim().to_owned())].into(),
        };
        // A block of its own, so that the record with the reason is the one that counts.
        self.flush(state).await;
        if let Err(error) = self.filling(state).await.writer.withdraw(&record) {
            tracing::warn!(%error, "an object that is left out cannot be named to the receiver");
        }
    }

    async fn filling<'a>(&mut self, state: &'a mut State) -> &'a mut Filling {
        let filling = match state.filling.take() {
            Some(filling) => filling,
            None => loop {
                match self.pool.take() {
                    Some(slot) => break Filling { slot, writer: BlockWriter::new(self.payload_max) },
                    None => tokio::time::sleep(ROOM_POLL).await,
                }
            },
        };
        state.filling.insert(filling)
    }

    /// Hands over what has been filled so far, if anything, when there is room for it.
    async fn flush(&mut self, state: &mut State) {
        let Some(mut full) = state.filling.take_if(|filling| !filling.writer.is_empty()) else { return };
        let image_bytes = full.writer.finish(&mut full.slot);
        while !(self.has_room)(state.packed.blocks) {
            tokio::time::sleep(ROOM_POLL).await;
        }
        (self.out)(state.packed.blocks, full.slot.freeze(image_bytes));
        state.packed.blocks += 1;
    }
}

/// Cuts what was read of a sparse file, from `offset` on, where long runs of zeros begin and end, and tells which are such.
fn segments(mut offset: u64, chunks: &[Bytes]) -> Vec<(Bytes, bool)> {
    let mut rest = match chunks {
        [one] => one.clone(),
        several => several.concat().into(),
    };
    let mut segments: Vec<(Bytes, bool)> = Vec::new();
    let (mut open, mut length, mut is_hole) = (rest.clone(), 0, false);
    while !rest.is_empty() {
        let next = rest.split_to(usize::try_from(HOLE_BYTES_MIN - offset % HOLE_BYTES_MIN).unwrap_or(usize::MAX).min(rest.len()));
        let is_zeros = next.len() as u64 == HOLE_BYTES_MIN && are_zeros(&next);
        if length > 0 && is_zeros != is_hole {
            segments.push((open.split_to(length), is_hole));
            length = 0;
        }
        (offset, length, is_hole) = (offset + next.len() as u64, length + next.len(), is_zeros);
    }
    if length > 0 || segments.is_empty() {
        segments.push((open, is_hole));
    }
    segments
}

fn unpackable(record: &FileRecord, error: &CutError) -> StoreError {
    StoreError::Configuration { detail: format!("{}: {error}", String::from_utf8_lossy(&record.path)) }
}

fn record(object: &FetchedObject, info: &ObjectInfo) -> FileRecord {
    FileRecord {
        file: FileId(object.number),
        path: object.path.clone(),
        size: object.size,
        mtime_ns: info.file_time_ns(),
        mode: info.mode.unwrap_or(0),
        attributes: attributes(info),
    }
}

/// What travels of an object's metadata: all that a record can carry, and the store's checksum.
fn attributes(info: &ObjectInfo) -> Attributes {
    let mut attributes: Vec<(String, String)> = info.crc.map(|crc| (CRC_ATTRIBUTE.to_owned(), crc.to_base64())).into_iter().collect();
    let mut bytes = attribute_bytes(&attributes);
    // Somebody may have given a local file such attributes.
    for attribute in info.attributes.iter().filter(|(name, _)| !is_of_the_way(name)) {
        let one = std::slice::from_ref(attribute);
        let fits = bytes + attribute_bytes(one) <= ATTRIBUTES_BYTES_MAX;
        if fits && check_attributes(one).is_ok() {
            bytes += attribute_bytes(one);
            attributes.push(attribute.clone());
        }
    }
    attributes.sort_unstable();
    attributes.dedup_by(|one, other| one.0 == other.0);
    Arc::from(attributes)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tradewind_proto::block::BlockTable;

    use super::*;

    const PAYLOAD: usize = 65_536;

    fn object(number: u32, size: u64) -> Arc<FetchedObject> {
        Arc::new(FetchedObject { number, path: format!("d/{number}").into_bytes(), size })
    }

    fn info(size: u64) -> ObjectInfo {
        let attributes = [("Bad Name", "x"), (":error", "of somebody"), ("error", "e"), ("uid", "7"), ("v", "line\nfeed")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        ObjectInfo { size, etag: None, crc: None, modified_ns: Some(5), mtime_ns: None, mode: Some(0o640), attributes: attributes.into() }
    }

    fn run(number: u32, size: u64, offset: u64, chunks: &[usize]) -> Fetched {
        let mut at = offset;
        let mut chunk = |length: &usize| {
            let bytes = (at..at + *length as u64).map(|byte| byte as u8).collect::<Vec<u8>>();
            at += *length as u64;
            bytes.into()
        };
        Fetched::Bytes { object: object(number, size), info: info(size), offset, bytes: chunks.iter().map(&mut chunk).collect() }
    }

    /// Extents (file, offset, length) and withdrawn files, by block.
    async fn pack(fetched: Vec<Fetched>) -> (Vec<Vec<(u32, u64, u32)>>, Vec<FileRecord>, Packed) {
        let pool = BlockPool::new(16, BlockWriter::image_bytes_max(PAYLOAD)).unwrap();
        let blocks = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&blocks);
        let arrived = Arc::clone(&blocks);
        let packer = Packer {
            pool,
            payload_max: PAYLOAD,
            out: move |_, block: SharedBlock| taken.lock().unwrap().push(block),
            has_room: Box::new(move |number| number == arrived.lock().unwrap().len() as u32),
        };
        let packed = packer.run(Box::pin(futures_util::stream::iter(fetched.into_iter().map(Ok)))).await.unwrap();
        let (mut shapes, mut records) = (Vec::new(), Vec::new());
        for image in blocks.lock().unwrap().iter() {
            let table = BlockTable::parse(image).unwrap();
            table.verify_payload(image).unwrap();
            for extent in &table.extents {
                let start = extent.payload_offset as usize;
                let bytes = &image[start..start + extent.length as usize];
                assert!(bytes.iter().zip(extent.file_offset..).all(|(byte, at)| *byte == at as u8), "bytes in their places");
            }
            shapes.push(table.extents.iter().map(|extent| (extent.file.0, extent.file_offset, extent.length)).collect());
            records.extend(table.files);
        }
        (shapes, records, packed)
    }

    #[tokio::test]
    async fn runs_become_blocks_like_those_of_a_client() {
        let large = PAYLOAD as u64 + 100;
        let fetched = vec![
            run(0, 10, 0, &[3, 7]),
            run(1, 0, 0, &[]),
            run(2, large, 0, &[1000, 64_536]),
            run(2, large, PAYLOAD as u64, &[100]),
            run(3, 5, 0, &[5]),
            Fetched::Unwanted { object: object(4, 9) },
        ];
        let (shapes, records, packed) = pack(fetched).await;
        let expected = [vec![(0, 0, 10), (1, 0, 0)], vec![(2, 0, 65_536)], vec![(2, 65_536, 100), (3, 0, 5)]];
        assert_eq!(shapes, expected);
        assert_eq!((packed.files, packed.bytes, packed.unwanted, packed.blocks), (4, 10 + large + 5, 1, 3));
        let carried = [("error", "e"), ("uid", "7")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(records[0].attributes[..], carried, "only what a record can carry and is not about its way");
        assert_eq!((records[0].mtime_ns, records[0].mode), (5, 0o640));
    }

    #[tokio::test]
    async fn zeros_of_a_file_with_holes_are_told_and_not_sent() {
        const G: usize = HOLE_BYTES_MIN as usize;
        let size = 40 * G as u64;
        let mut bytes = vec![0; 5 * G];
        bytes[10] = 1;
        bytes[3 * G] = 1;
        let marked = ObjectInfo { attributes: [tradewind_storage::sparse_attribute()].into(), ..info(size) };
        let fetched = |info: &ObjectInfo| {
            let several = [Bytes::from(bytes[..1000].to_vec()), Bytes::from(bytes[1000..].to_vec())];
            let later = vec![Bytes::from(vec![0; 2 * G])];
            vec![
                Fetched::Bytes { object: object(0, size), info: info.clone(), offset: 0, bytes: several.into() },
                Fetched::Bytes { object: object(0, size), info: info.clone(), offset: 5 * G as u64, bytes: later },
            ]
        };
        let pool = BlockPool::new(64, BlockWriter::image_bytes_max(PAYLOAD)).unwrap();
        for (info, payload, holes) in [(marked, 2 * G, 5 * G), (info(size), 7 * G, 0)] {
            let blocks = Arc::new(Mutex::new(Vec::new()));
            let taken = Arc::clone(&blocks);
            let out = move |_, block: SharedBlock| taken.lock().unwrap().push(block);
            let packer = Packer { pool: pool.clone(), payload_max: PAYLOAD, out, has_room: Box::new(|_| true) };
            let packed = packer.run(Box::pin(futures_util::stream::iter(fetched(&info).into_iter().map(Ok)))).await.unwrap();
            assert_eq!(packed.bytes, 7 * G as u64);
            let (mut sent, mut told, mut at) = (0, 0, 0);
            for image in blocks.lock().unwrap().iter() {
                let table = BlockTable::verified(image).unwrap();
                sent += table.payload_bytes as usize;
                for extent in &table.extents {
                    assert_eq!(extent.file_offset, at, "in order and without gaps");
                    at += u64::from(extent.length);
                    told += if extent.is_hole { extent.length as usize } else { 0 };
                }
            }
            assert_eq!((sent, told, at), (payload, holes, 7 * G as u64));
        }
    }

    #[tokio::test]
    async fn an_object_that_fails_is_withdrawn_with_the_reason() {
        let error = StoreError::ObjectGone { object: "d/0 \u{e4}".to_owned() };
        let fetched = vec![
            run(0, 200_000, 0, &[100_000]),
            Fetched::Failed { object: object(0, 200_000), error },
            run(0, 200_000, 100_000, &[100_000]),
            run(1, 5, 0, &[5]),
        ];
        let (shapes, records, packed) = pack(fetched).await;
        assert_eq!(shapes.last().unwrap()[..], [(0, 0, 0), (1, 0, 5)], "nothing of it after that");
        let withdrawn = records.iter().find(|record| record.is_withdrawn()).unwrap();
        assert_eq!((withdrawn.file.0, withdrawn.attributes[0].0.as_str()), (0, ERROR_ATTRIBUTE));
        assert!(withdrawn.attributes[0].1.starts_with("d/0 ? is not there any more"), "{:?}", withdrawn.attributes);
        assert_eq!((packed.files, packed.failed), (1, 1));
    }
}
