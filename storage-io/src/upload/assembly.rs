//! From blocks in any order to requests: a state machine without I/O.
//!
//! A file goes `waiting for bytes → put in flight → done` if it fits one part, else
//! `begin queued → open, parts going out as they fill → all parts stored → complete in flight → done`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tradewind_parts::PartPlan;

use super::block::{FileMeta, Piece, ReadyBlock};
use super::config::{ObjectName, UploaderConfig};
use super::draft::{Draft, DraftPart, Run, Source};
use super::samples::{Sample, is_sampled};
use crate::checksum::Crc64;
use crate::error::{StoreError, UploadError};
use crate::journal::{DoneObject, OpenObject, Recalled, RecalledPiece, Reopened};
use crate::store::{Limits, ObjectKey, ObjectMeta, PartReceipt, StoredObject, Upload, token_of};

/// A request to be made.
#[derive(Debug)]
pub(super) enum Job {
    /// Store a whole object, after giving up what an earlier transfer began of it.
    Put { file: u32, key: ObjectKey, meta: ObjectMeta, body: Draft, stale: Option<Arc<dyn Upload>> },
    /// Begin an object of several parts, likewise.
    Begin { file: u32, key: ObjectKey, meta: ObjectMeta, stale: Option<Arc<dyn Upload>> },
    /// Store a part of an object that has been begun.
    Part { file: u32, part: DraftPart },
    /// Make the object of its parts.
    Complete { file: u32, size: u64, parts: Vec<PartReceipt>, crc: Crc64 },
    /// Give up an object that has been begun: its sender has withdrawn it. The key if the journal may know it.
    Abort { file: u32, key: Option<ObjectKey> },
}

impl Job {
    fn file(&self) -> u32 {
        match self {
            Self::Put { file, .. } | Self::Begin { file, .. } | Self::Part { file, .. } | Self::Complete { file, .. } => *file,
            Self::Abort { file, .. } => *file,
        }
    }
}

/// Something that is now certain.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Milestone {
    /// The store has every byte of this block.
    Block(u32),
    /// An object is complete.
    File { meta: FileMeta, key: ObjectKey, crc: Crc64 },
    /// A file cannot be stored, and others can.
    LeftOut { file: u32, path: Vec<u8>, reason: String },
}

/// Bytes of one part that have arrived, by offset in the file.
#[derive(Debug, Default)]
struct Filling {
    runs: BTreeMap<u64, (Source, Crc64)>,
    bytes: u64,
    blocks: Vec<u32>,
}

#[derive(Debug)]
struct File {
    meta: FileMeta,
    key: ObjectKey,
    plan: PartPlan,
    token: u128,
    filling: HashMap<u32, Filling>,
    /// Parts that are complete and wait for the upload to be begun.
    waiting: Vec<DraftPart>,
    begun: bool,
    /// Blocks with bytes in parts that have been cut and not acknowledged, by part.
    in_flight: HashMap<u32, Vec<u32>>,
    cut: HashSet<u32>,
    receipts: BTreeMap<u32, PartReceipt>,
    /// Of some parts, one run of bytes.
    samples: BTreeMap<u32, Sample>,
    arrived: u64,
    /// What an earlier transfer began and this one does not go on with.
    stale: Option<Arc<dyn Upload>>,
    /// Its row in the journal, if it has one.
    row: i64,
}

impl File {
    fn object_meta(&self, overwrite: bool) -> ObjectMeta {
        let FileMeta { size, mtime_ns, mode, .. } = self.meta;
        ObjectMeta { size, mtime_ns, mode, overwrite, token: self.token, attributes: Arc::clone(&self.meta.attributes) }
    }
}

/// What earlier transfers left.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// What they began and this one may go on with.
    pub(super) open: HashMap<ObjectKey, Reopened>,
    /// What they received.
    pub(super) recalled: Recalled,
    /// Tokens follow from name, size and time.
    pub(super) by_attributes: bool,
}

/// The number of no block: of what an earlier transfer received. There is nobody to be told that the store has it.
const RECALLED: u32 = u32::MAX;

/// The state of one transfer.
#[derive(Debug)]
pub(super) struct Assembly {
    config: UploaderConfig,
    /// Of all objects so far, bytes.
    pub(super) part_bytes_max: u64,
    limits: Limits,
    files: HashMap<u32, File>,
    done: HashSet<u32>,
    withdrawn: HashSet<u32>,
    earlier: Earlier,
    /// Uploads of files that were found there, for the driver to take over.
    pub(super) adopted: Vec<(u32, Arc<dyn Upload>)>,
    /// How many parts or objects a block still waits for.
    blocks: HashMap<u32, usize>,
    blocks_received: u64,
    announced: Option<u64>,
    bytes_done: u64,
    pub(super) jobs: Queues,
    pub(super) milestones: VecDeque<Milestone>,
}

/// What is to be done next, by the kind of limit that applies.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Parts and objects that are as large as one.
    pub(super) parts: VecDeque<Job>,
    /// Small objects.
    pub(super) small: VecDeque<Job>,
    /// Requests without data.
    pub(super) control: VecDeque<Job>,
}

/// Objects of at most this many bytes are limited by number rather than as parts, bytes.
const SMALL_BYTES_MAX: u64 = 1 << 20;

impl Assembly {
    pub(super) fn new(config: UploaderConfig, limits: Limits, earlier: Earlier) -> Self {
        Self {
            config,
            part_bytes_max: 0,
            limits,
            files: HashMap::new(),
            done: HashSet::new(),
            withdrawn: HashSet::new(),
            earlier,
            adopted: Vec::new(),
            blocks: HashMap::new(),
            blocks_received: 0,
            announced: None,
            bytes_done: 0,
            jobs: Queues::default(),
            milestones: VecDeque::new(),
        }
    }

    /// Takes a block over.
    pub(super) fn add_block(&mut self, block: &ReadyBlock) -> Result<(), UploadError> {
        if self.blocks.insert(block.id, 1).is_some() {
            return Err(UploadError::DuplicateBlock { block: block.id });
        }
        self.blocks_received += 1;
        for meta in &block.files {
            self.add_file(block.id, meta)?;
        }
        for piece in &block.pieces {
            self.add_piece(block, piece)?;
        }
        // The block held on to itself while it was being taken apart.
        self.release(block.id);
        self.check_count()
    }

    /// Says how many blocks there are in all.
    pub(super) fn announce(&mut self, total: u64) -> Result<(), UploadError> {
        self.announced = Some(total);
        self.check_count()
    }

    /// Files and bytes once everything announced is stored.
    pub(super) fn finished(&self) -> Option<(u64, u64)> {
        let idle = self.jobs.control.is_empty() && self.jobs.parts.is_empty() && self.jobs.small.is_empty();
        let all = idle && self.announced == Some(self.blocks_received) && self.files.is_empty() && self.blocks.is_empty();
        all.then_some((self.done.len() as u64, self.bytes_done))
    }

    /// After the last block nothing more comes: what is missing then is missing for good.
    fn check_count(&self) -> Result<(), UploadError> {
        let Some(announced) = self.announced.filter(|&announced| self.blocks_received >= announced) else { return Ok(()) };
        if self.blocks_received > announced {
            return Err(UploadError::BlockCount { received: self.blocks_received, announced });
        }
        match self.files.values().filter(|file| file.arrived < file.meta.size).min_by_key(|file| file.meta.file) {
            Some(file) => Err(UploadError::Incomplete { path: file.key.to_string(), missing_bytes: file.meta.size - file.arrived }),
            None => Ok(()),
        }
    }

    fn add_file(&mut self, block: u32, meta: &FileMeta) -> Result<(), UploadError> {
        if meta.withdrawn {
            // What is left of it is nobody's business.
            drop(self.withdraw(meta.file));
        }
        if self.done.contains(&meta.file) || self.withdrawn.contains(&meta.file) {
            return Ok(());
        }
        if let Some(known) = self.files.get(&meta.file) {
            let changed = |what| Err(UploadError::FileChanged { file: meta.file, path: known.key.to_string(), what });
            return match () {
                () if known.meta.path != meta.path => changed("its path"),
                () if known.meta.size != meta.size => changed("its size"),
                () if known.meta.mtime_ns != meta.mtime_ns => changed("its modification time"),
                () => Ok(()),
            };
        }
        let key = match &self.config.name {
            ObjectName::Into(prefix) => match self.config.key_of(prefix, &meta.path) {
                Err(error) if self.config.leave_out => {
                    self.withdrawn.insert(meta.file);
                    self.tell_left_out(meta.clone(), &error);
                    return Ok(());
                }
                key => key?,
            },
            ObjectName::Exact(name) if self.files.is_empty() && self.done.is_empty() => ObjectKey::new(name.as_bytes())?,
            ObjectName::Exact(name) => {
                let detail = format!("several files cannot all be called {name}; end the destination with '/' to keep their names");
                return Err(StoreError::Configuration { detail }.into());
            }
        };
        let name = key.to_string();
        let variant = self.config.variant;
        let is_same =
            |Reopened { object, .. }: &Reopened| (object.size, object.mtime_ns, object.variant) == (meta.size, meta.mtime_ns, variant);
        let (resumed, stale) = match self.earlier.open.remove(&key) {
            Some(reopened) if is_same(&reopened) && !reopened.receipts.is_empty() => (Some(reopened), None),
            other => (None, other.map(|reopened| reopened.upload)),
        };
        let (mut resumed, mut stale) = (resumed, stale);
        let block_bytes = self.config.block_bytes;
        let plan = |part_bytes| PartPlan::new(&name, meta.size, block_bytes, part_bytes, &self.limits).map_err(StoreError::of_plan);
        let mut planned = plan(resumed.as_ref().map(|resumed| resumed.object.part_bytes).or(self.config.part_bytes))?;
        if let Some(other) = resumed.take_if(|resumed| resumed.object.part_bytes != planned.part_bytes()) {
            // Its parts are not those of blocks of this size.
            stale = Some(other.upload);
            planned = plan(self.config.part_bytes)?;
        }
        let plan = planned;
        let largest = plan.part_bytes().min(meta.size);
        self.part_bytes_max = self.part_bytes_max.max(largest);
        if largest > self.config.pool_bytes {
            let (path, size_bytes, pool_bytes) = (name, meta.size, self.config.pool_bytes);
            return Err(UploadError::PoolTooSmall { path, size_bytes, part_bytes: plan.part_bytes(), pool_bytes });
        }
        let token = if self.earlier.by_attributes { token_of(&key, meta.size, meta.mtime_ns, self.config.variant) } else { rand::random() };
        let mut file = File {
            meta: meta.clone(),
            key,
            plan,
            token,
            filling: HashMap::new(),
            waiting: Vec::new(),
            begun: false,
            in_flight: HashMap::new(),
            cut: HashSet::new(),
            receipts: BTreeMap::new(),
            samples: BTreeMap::new(),
            arrived: 0,
            stale,
            row: rand::random(),
        };
        if let Some(Reopened { object, upload, receipts }) = resumed {
            file.row = object.id;
            file.begun = true;
            file.arrived = receipts.iter().map(|receipt| receipt.len).sum();
            file.cut = receipts.iter().map(|receipt| receipt.number).collect();
            // Of what runs these were made is not known any more.
            let whole = |PartReceipt { number, len, crc, .. }: &PartReceipt| {
                (*number, Sample { offset: u64::from(number - 1) * file.plan.part_bytes(), length: *len, crc: *crc })
            };
            file.samples = receipts.iter().filter(|receipt| is_sampled(&file.plan, receipt.number)).map(whole).collect();
            file.receipts = receipts.into_iter().map(|receipt| (receipt.number, receipt)).collect();
            self.adopted.push((meta.file, upload));
            self.files.insert(meta.file, file);
            return self.recall(meta);
        }
        let object_meta = file.object_meta(self.config.overwrite);
        if meta.size == 0 {
            self.blocks.entry(block).and_modify(|waits| *waits += 1);
            let (key, stale) = (file.key.clone(), file.stale.take());
            self.jobs.small.push_back(Job::Put { file: meta.file, key, meta: object_meta, body: Draft::default(), stale });
        } else if !plan.is_single() {
            let (key, stale) = (file.key.clone(), file.stale.take());
            self.jobs.control.push_back(Job::Begin { file: meta.file, key, meta: object_meta, stale });
        }
        self.files.insert(meta.file, file);
        if meta.size == 0
            && let Some(file) = self.files.get_mut(&meta.file)
        {
            file.cut.insert(1);
            file.in_flight.insert(1, vec![block]);
        }
        self.recall(meta)
    }

    /// A file has begun of which an earlier transfer received something: it is as if that came now.
    fn recall(&mut self, meta: &FileMeta) -> Result<(), UploadError> {
        let Some(&File { ref key, plan, .. }) = self.files.get(&meta.file) else { return Ok(()) };
        let pieces = self.earlier.recalled.take(key, meta.size, meta.mtime_ns);
        for (file_offset, RecalledPiece { length, data, crc }) in pieces {
            // Pieces come from blocks, which are no longer than this.
            let len = u32::try_from(length).unwrap_or(u32::MAX);
            let Some(kept) = data else {
                let piece = Piece { file: meta.file, file_offset, len, data_offset: 0, crc64: crc.0, is_hole: true };
                for (number, at, run, crc) in split(&plan, &piece, Run::Hole(length))? {
                    self.fill(RECALLED, meta.file, number, at, Source::Run(run), crc)?;
                }
                continue;
            };
            let inside =
                plan.part_of(file_offset).filter(|&number| plan.range(number).is_some_and(|part| file_offset + length <= part.end));
            let across = || UploadError::Internal(format!("{length} bytes at {file_offset} of {} were recalled across parts", meta.file));
            self.fill(RECALLED, meta.file, inside.ok_or_else(across)?, file_offset, Source::Kept(kept), crc)?;
        }
        Ok(())
    }

    /// The store has refused a file. It is given up as if its sender had withdrawn it, if the others can be stored all the same and that is wanted.
    ///
    /// # Errors
    /// The store's, when it ends the transfer.
    pub(super) fn leave_out(&mut self, id: u32, error: StoreError) -> Result<(), StoreError> {
        if self.is_withdrawn(id) {
            return Ok(());
        }
        if !self.config.leave_out || !error.spares_other_files() {
            return Err(error);
        }
        let Some(meta) = self.withdraw(id) else { return Err(error) };
        self.tell_left_out(meta, &error);
        Ok(())
    }

    fn tell_left_out(&mut self, meta: FileMeta, error: &StoreError) {
        self.milestones.push_back(Milestone::LeftOut { file: meta.file, path: meta.path, reason: error.to_string() });
    }

    /// The sender gives a file up: what is here of it goes, and what is at the store is aborted.
    fn withdraw(&mut self, id: u32) -> Option<FileMeta> {
        if !self.withdrawn.insert(id) {
            return None;
        }
        let file = self.files.remove(&id)?;
        for queue in [&mut self.jobs.parts, &mut self.jobs.small, &mut self.jobs.control] {
            queue.retain(|job| job.file() != id);
        }
        if file.begun {
            self.jobs.control.push_back(Job::Abort { file: id, key: Some(file.key) });
        }
        let filling = file.filling.into_values().flat_map(|filling| filling.blocks);
        filling.chain(file.in_flight.into_values().flatten()).for_each(|block| self.release(block));
        Some(file.meta)
    }

    fn add_piece(&mut self, block: &ReadyBlock, piece: &Piece) -> Result<(), UploadError> {
        if self.withdrawn.contains(&piece.file) {
            return Ok(());
        }
        let start = piece.data_offset as usize;
        let slice = || start.checked_add(piece.len as usize).and_then(|end| block.data.slice(start..end));
        let run = if piece.is_hole { Some(Run::Hole(piece.len.into())) } else { slice().map(|slice| Run::Data(slice.into_bytes())) };
        let run = run.ok_or(UploadError::OutsideBlock { block: block.id })?;
        if self.done.contains(&piece.file) && piece.len > 0 {
            return Err(UploadError::Overlap { file: piece.file, offset: piece.file_offset });
        }
        let Some(file) = self.files.get(&piece.file) else {
            let unknown = UploadError::UnknownFile { block: block.id, file: piece.file };
            return if self.done.contains(&piece.file) { Ok(()) } else { Err(unknown) };
        };
        let (size_bytes, len) = (file.meta.size, u64::from(piece.len));
        if piece.file_offset.checked_add(len).is_none_or(|end| end > size_bytes) {
            return Err(UploadError::OutOfRange { file: piece.file, offset: piece.file_offset, len, size_bytes });
        }
        for (number, at, run, crc) in split(&file.plan, piece, run)? {
            self.fill(block.id, piece.file, number, at, Source::Run(run), crc)?;
        }
        Ok(())
    }

    /// Puts a run of bytes, which lies inside one part, where it belongs; cuts the part when it is full.
    fn fill(&mut self, block: u32, id: u32, number: u32, at: u64, run: Source, crc: Crc64) -> Result<(), UploadError> {
        let Some(file) = self.files.get_mut(&id) else { return Ok(()) };
        let overlap = Err(UploadError::Overlap { file: id, offset: at });
        if file.cut.contains(&number) {
            return overlap;
        }
        let len = run.len();
        let filling = file.filling.entry(number).or_default();
        let before = filling.runs.range(..=at).next_back().is_some_and(|(&start, (run, _))| start + run.len() > at);
        let after = filling.runs.range(at..).next().is_some_and(|(&start, _)| at + len > start);
        if before || after {
            return overlap;
        }
        filling.runs.insert(at, (run, crc));
        filling.bytes += len;
        file.arrived += len;
        if !filling.blocks.contains(&block) {
            filling.blocks.push(block);
            self.blocks.entry(block).and_modify(|waits| *waits += 1);
        }
        let Some(range) = file.plan.range(number).filter(|range| range.end - range.start == filling.bytes) else { return Ok(()) };
        let Some(full) = file.filling.remove(&number) else { return Ok(()) };
        file.cut.insert(number);
        file.in_flight.insert(number, full.blocks);
        if is_sampled(&file.plan, number) {
            // The last run of the last part: where files grow and end.
            let run = if number == file.plan.count() { full.runs.last_key_value() } else { full.runs.first_key_value() };
            file.samples.extend(run.map(|(&offset, (run, crc))| (number, Sample { offset, length: run.len(), crc: *crc })));
        }
        let mut crc = Crc64::default();
        let mut sources = Vec::with_capacity(full.runs.len());
        for (run, run_crc) in full.runs.into_values() {
            crc = crc.append(run_crc, run.len());
            sources.push(run);
        }
        let body = Draft::new(sources, crc);
        if file.plan.is_single() {
            let queue = if body.len() <= SMALL_BYTES_MAX { &mut self.jobs.small } else { &mut self.jobs.parts };
            let (key, meta, stale) = (file.key.clone(), file.object_meta(self.config.overwrite), file.stale.take());
            queue.push_back(Job::Put { file: id, key, meta, body, stale });
        } else {
            let part = DraftPart { number, offset: range.start, body };
            if file.begun { self.jobs.parts.push_back(Job::Part { file: id, part }) } else { file.waiting.push(part) }
        }
        Ok(())
    }

    /// The upload of a file is open: its parts may go. Of a file that was withdrawn meanwhile it is aborted.
    pub(super) fn begun(&mut self, id: u32) {
        match self.files.get_mut(&id) {
            Some(file) => {
                file.begun = true;
                self.jobs.parts.extend(file.waiting.drain(..).map(|part| Job::Part { file: id, part }));
            }
            None => self.jobs.control.push_back(Job::Abort { file: id, key: None }),
        }
    }

    /// A file that is not complete, as the journal knows it: by what finds its upload again.
    pub(super) fn open_object(&self, id: u32, handle: String) -> Option<OpenObject> {
        let File { meta, key, plan, row, .. } = self.files.get(&id)?;
        let FileMeta { size, mtime_ns, mode, .. } = *meta;
        let (key, part_bytes, variant) = (key.clone(), plan.part_bytes(), self.config.variant);
        Some(OpenObject { id: *row, key, size, mtime_ns, variant, mode, attributes: Arc::clone(&meta.attributes), part_bytes, handle })
    }

    /// The same once it is complete.
    pub(super) fn done_object(&self, id: u32, object: &StoredObject) -> Option<DoneObject> {
        let File { meta, key, samples, .. } = self.files.get(&id)?;
        let (FileMeta { size, mtime_ns, .. }, variant) = (meta, self.config.variant);
        let (size, mtime_ns) = (*size, *mtime_ns);
        let samples = samples.values().copied().collect();
        Some(DoneObject { key: key.clone(), size, mtime_ns, variant, etag: object.etag.clone(), crc: object.crc, samples })
    }

    /// Whether the sender has given this file up.
    pub(super) fn is_withdrawn(&self, id: u32) -> bool {
        self.withdrawn.contains(&id)
    }

    /// The row of a file in the journal.
    pub(super) fn row(&self, id: u32) -> Option<i64> {
        self.files.get(&id).map(|file| file.row)
    }

    /// A part is stored.
    pub(super) fn part_stored(&mut self, id: u32, receipt: PartReceipt) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let blocks = file.in_flight.remove(&receipt.number).unwrap_or_default();
        file.receipts.insert(receipt.number, receipt);
        if file.receipts.len() == file.plan.count() as usize {
            let parts: Vec<PartReceipt> = std::mem::take(&mut file.receipts).into_values().collect();
            let crc = parts.iter().fold(Crc64::default(), |crc, part| crc.append(part.crc, part.len));
            self.jobs.control.push_back(Job::Complete { file: id, size: file.meta.size, parts, crc });
        }
        blocks.into_iter().for_each(|block| self.release(block));
    }

    /// An object is complete, by a put or by completing its parts.
    pub(super) fn object_stored(&mut self, id: u32, crc: Crc64) {
        let Some(file) = self.files.remove(&id) else { return };
        self.done.insert(id);
        self.bytes_done += file.meta.size;
        file.in_flight.into_values().flatten().for_each(|block| self.release(block));
        self.milestones.push_back(Milestone::File { meta: file.meta, key: file.key, crc });
    }

    fn release(&mut self, block: u32) {
        if let Some(waits) = self.blocks.get_mut(&block) {
            *waits -= 1;
            if *waits == 0 {
                self.blocks.remove(&block);
                self.milestones.push_back(Milestone::Block(block));
            }
        }
    }
}

/// The runs of a piece, cut where parts end: `(part, offset in the file, bytes, checksum)`. A piece inside one part, which is
/// every piece of a sender that keeps to whole blocks, keeps the checksum it came with; one across parts has to be read.
fn split(plan: &PartPlan, piece: &Piece, mut rest: Run) -> Result<Vec<(u32, u64, Run, Crc64)>, UploadError> {
    let mut runs = Vec::with_capacity(1);
    let mut at = piece.file_offset;
    while rest.len() > 0 {
        let Some((number, range)) = plan.part_of(at).and_then(|number| Some((number, plan.range(number)?))) else { break };
        let run = rest.split_to(range.end - at);
        let is_whole = run.len() == u64::from(piece.len);
        let crc = if is_whole && !piece.is_hole { Crc64(piece.crc64) } else { run.crc() };
        let from = at;
        at += run.len();
        runs.push((number, from, run, crc));
    }
    if piece.is_hole {
        return Ok(runs);
    }
    let whole = runs.iter().fold(Crc64::default(), |crc, (.., run, run_crc)| crc.append(*run_crc, run.len()));
    if !runs.is_empty() && whole != Crc64(piece.crc64) {
        return Err(UploadError::PieceChecksum { file: piece.file, offset: piece.file_offset, len: u64::from(piece.len) });
    }
    Ok(runs)
}

/// Whether repeating a request over data is worth it, for [`crate::RetryPolicy::run`].
pub(super) fn again(error: &StoreError) -> bool {
    error.is_worth_resending()
}
