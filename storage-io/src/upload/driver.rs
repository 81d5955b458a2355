//! The task behind an [`crate::Uploader`]: receives, then applies; at most so many requests in flight.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, timeout};

use super::assembly::{Assembly, Earlier, Job, Milestone, again};
use super::block::FileMeta;
use super::concurrency::{Bounds, Concurrency};
use super::draft::{Draft, DraftPart, KeptMemory};
use super::hedge::Hedge;
use super::stats::{DrainMeter, UploadStats};
use super::{Command, UploadEvent, UploaderConfig};
use crate::error::{StoreError, UploadError};
use crate::journal::{Resumption, Scope};
use crate::retry::RetryPolicy;
use crate::store::{ObjectKey, ObjectMeta, Part, PartReceipt, Store, StoredObject, Upload};

/// Requests without data in flight at once.
const CONTROL_IN_FLIGHT_MAX: usize = 16;

/// Batches of small objects in flight.
const BATCHES_IN_FLIGHT: usize = 2;

/// How often the gauges are updated when nothing happens: a store that stands still must show.
const GAUGE_EVERY: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Part,
    Small,
    Control,
}

enum Outcome {
    Stored(StoredObject),
    Begun(Arc<dyn Upload>),
    Part(PartReceipt),
    Aborted,
    /// Many small objects at once.
    Many(Vec<(u32, Result<StoredObject, StoreError>)>),
    /// Everything that was stored survives a loss of power.
    Synced,
}

type Done = (u32, Result<Outcome, StoreError>);

struct Driver {
    store: Arc<dyn Store>,
    config: UploaderConfig,
    stats: Arc<UploadStats>,
    events: UnboundedSender<UploadEvent>,
    assembly: Assembly,
    tasks: JoinSet<Done>,
    /// With the bytes that each carries.
    running: HashMap<Id, (Kind, u64, AbortHandle)>,
    open: HashMap<u32, Arc<dyn Upload>>,
    stored: HashMap<u32, StoredObject>,
    meter: DrainMeter,
    /// Where what is durable is noted, so that another transfer can go on.
    journal: Option<Scope>,
    /// Small objects stored at once.
    batch_max: usize,
    parts: Concurrency,
    small: Concurrency,
    hedge: Arc<Hedge>,
    /// For what has to be read from a disk before it goes to the store.
    memory: KeptMemory,
    synced: bool,
}

enum Step {
    Command(Option<Command>),
    Done(Result<(Id, Done), JoinError>),
    Deaf,
    Tick,
}

pub(super) async fn run(
    store: Arc<dyn Store>,
    config: UploaderConfig,
    resumption: Option<Resumption>,
    stats: Arc<UploadStats>,
    mut inbox: UnboundedReceiver<Command>,
    events: UnboundedSender<UploadEvent>,
) {
    let (journal, earlier, memory) = match resumption {
        Some(Resumption { scope, open, recalled, memory, by_attributes }) => {
            (Some(scope), Earlier { open, recalled, by_attributes }, memory)
        }
        None => (None, Earlier::default(), KeptMemory::default()),
    };
    let assembly = Assembly::new(config.clone(), store.limits(), earlier);
    let batch_max = store.batch_objects_max();
    let most_of_store = store.requests_at_once_max().max(1);
    let bounds = |first: u32, most: u32| {
        let (first, most) = (first.max(1) as usize, most.max(first).max(1) as usize);
        let (first, most) = (first.min(most_of_store), most.min(most_of_store));
        // Files of this machine gain nothing by more of them at once.
        Concurrency::new(if batch_max > 1 {
            Bounds { least: first, first, most: first }
        } else {
            Bounds { least: first.min(2), first, most }
        })
    };
    let parts = bounds(config.parts_in_flight, config.parts_in_flight_max);
    let small = bounds(config.small_in_flight, config.small_in_flight_max);
    let mut driver = Driver {
        store,
        config,
        stats,
        events,
        assembly,
        tasks: JoinSet::new(),
        running: HashMap::new(),
        open: HashMap::new(),
        stored: HashMap::new(),
        meter: DrainMeter::new(),
        journal,
        batch_max,
        parts,
        small,
        hedge: Arc::default(),
        memory,
        synced: false,
    };
    let mut announced = false;
    let mut ticks = tokio::time::interval(GAUGE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let step = tokio::select! {
            command = inbox.recv(), if !(announced && inbox.is_closed() && inbox.is_empty()) => Step::Command(command),
            Some(done) = driver.tasks.join_next_with_id(), if !driver.tasks.is_empty() => Step::Done(done),
            () = driver.events.closed() => Step::Deaf,
            _ = ticks.tick() => Step::Tick,
        };
        let applied = match step {
            Step::Command(Some(Command::Finish(total))) => {
                announced = true;
                driver.assembly.announce(total)
            }
            Step::Command(Some(Command::Block(block))) => {
                driver.stats.blocks_received.fetch_add(1, Relaxed);
                let added = driver.assembly.add_block(&block);
                driver.stats.part_bytes_max.store(driver.assembly.part_bytes_max, Relaxed);
                added
            }
            // The handle was dropped: fine once the end is announced and nothing is queued, else nobody wants this any more.
            Step::Command(None) if announced => Ok(()),
            // Starting jobs updates the gauges.
            Step::Tick => Ok(()),
            Step::Command(Some(Command::Cancel) | None) | Step::Deaf => Err(UploadError::Cancelled),
            Step::Done(done) => driver.apply(done),
        };
        driver.open.extend(driver.assembly.adopted.drain(..));
        driver.report();
        if let Err(error) = applied {
            return driver.fail(error).await;
        }
        if let Some((files, bytes)) = driver.assembly.finished() {
            if !driver.synced {
                if driver.running.is_empty() {
                    driver.start_sync();
                }
                continue;
            }
            driver.tell(UploadEvent::Finished { files, bytes });
            return;
        }
        driver.start_jobs();
    }
}

impl Driver {
    fn tell(&self, event: UploadEvent) {
        // A receiver that went away is noticed by the loop.
        let _ = self.events.send(event);
    }

    fn count(&self, kind: Kind) -> usize {
        self.running.values().filter(|(running, ..)| *running == kind).count()
    }

    fn data_in_flight(&self) -> usize {
        self.running.len() - self.count(Kind::Control)
    }

    fn start_jobs(&mut self) {
        let limits = [
            (Kind::Control, CONTROL_IN_FLIGHT_MAX),
            (Kind::Part, self.parts.limit()),
            // Batches gain by being large: two, so that one is written while the other is made durable.
            (Kind::Small, if self.batch_max > 1 { BATCHES_IN_FLIGHT } else { self.small.limit() }),
        ];
        for (kind, limit) in limits {
            let room = limit.saturating_sub(self.count(kind));
            for _ in 0..room {
                let queues = &mut self.assembly.jobs;
                let queue = match kind {
                    Kind::Control => &mut queues.control,
                    Kind::Part => &mut queues.parts,
                    Kind::Small => &mut queues.small,
                };
                let Some(job) = queue.pop_front() else { break };
                match job {
                    // What has to be read first would keep the others waiting.
                    Job::Put { file, key, meta, body, stale: None } if kind == Kind::Small && self.batch_max > 1 && body.is_in_memory() => {
                        let mut batch = vec![(file, (key, meta, body))];
                        while batch.len() < self.batch_max
                            && let Some(Job::Put { file, key, meta, body, .. }) =
                                queue.pop_front_if(|job| matches!(job, Job::Put { stale: None, body, .. } if body.is_in_memory()))
                        {
                            batch.push((file, (key, meta, body)));
                        }
                        self.start_batch(batch);
                    }
                    job => self.start(kind, job),
                }
            }
        }
        self.gauge(0);
    }

    /// Updates the gauges; `bytes` were acknowledged just now.
    fn gauge(&mut self, bytes: u64) {
        let in_flight = self.data_in_flight();
        self.stats.requests_in_flight.store(in_flight as u64, Relaxed);
        if let Some(rate) = self.meter.note(Instant::now(), bytes, in_flight > 0) {
            self.stats.drain_bytes_per_s.store(rate, Relaxed);
        }
    }

    fn start_batch(&mut self, batch: Vec<(u32, (ObjectKey, ObjectMeta, Draft))>) {
        let store = Arc::clone(&self.store);
        let handle = self.tasks.spawn(async move {
            let (files, objects): (Vec<u32>, Vec<_>) = batch.into_iter().unzip();
            let reading = objects.into_iter().map(|(key, meta, body)| async { Ok::<_, StoreError>((key, meta, body.read().await?)) });
            let results = match try_join_all(reading).await {
                Ok(objects) => store.put_many(objects).await,
                Err(error) => Err(error),
            };
            (u32::MAX, results.map(|results| Outcome::Many(files.into_iter().zip(results).collect())))
        });
        self.running.insert(handle.id(), (Kind::Small, 0, handle));
    }

    /// Before everything is reported as stored.
    fn start_sync(&mut self) {
        let store = Arc::clone(&self.store);
        let handle = self.tasks.spawn(async move {
            let synced = tokio::task::spawn_blocking(move || store.sync()).await;
            let failed =
                |error| Err(StoreError::Io { action: "make durable", path: "files".to_owned(), source: std::io::Error::other(error) });
            (u32::MAX, synced.unwrap_or_else(failed).map(|()| Outcome::Synced))
        });
        self.running.insert(handle.id(), (Kind::Control, 0, handle));
    }

    fn start(&mut self, kind: Kind, job: Job) {
        let (policy, stats, store, memory) = (self.config.retry, Arc::clone(&self.stats), Arc::clone(&self.store), self.memory.clone());
        let bytes = match &job {
            Job::Put { body, .. } => body.len(),
            Job::Part { part, .. } => part.body.len(),
            Job::Begin { .. } | Job::Complete { .. } | Job::Abort { .. } => 0,
        };
        let handle = match job {
            Job::Put { file, key, meta, body, stale } => self.tasks.spawn(async move {
                if let Err(error) = give_up(stale, policy).await {
                    return (file, Err(error));
                }
                let (body, _taken) = match memory.load(body).await {
                    Ok(loaded) => loaded,
                    Err(error) => return (file, Err(error)),
                };
                let put = || store.put(&key, meta.clone(), body.clone());
                (file, policy.run("putting an object", body.len(), again, counting(&stats), put).await.map(Outcome::Stored))
            }),
            Job::Begin { file, key, meta, stale } => self.tasks.spawn(async move {
                if let Err(error) = give_up(stale, policy).await {
                    return (file, Err(error));
                }
                let begin = || store.begin(&key, meta.clone());
                let result = policy.run("beginning an upload", 0, StoreError::is_retryable, counting(&stats), begin).await;
                (file, result.map(Outcome::Begun))
            }),
            Job::Part { file, part } => {
                let Some(upload) = self.open.get(&file).cloned() else { return };
                let hedge = Arc::clone(&self.hedge);
                self.tasks.spawn(async move {
                    let DraftPart { number, offset, body } = part;
                    let (body, _taken) = match memory.load(body).await {
                        Ok(loaded) => loaded,
                        Err(error) => return (file, Err(error)),
                    };
                    let part = Part { number, offset, body };
                    let put = || hedge.put(&*upload, &part, &stats);
                    (file, policy.run("uploading a part", part.body.len(), again, counting(&stats), put).await.map(Outcome::Part))
                })
            }
            Job::Complete { file, size, parts, crc } => {
                let Some(upload) = self.open.get(&file).cloned() else { return };
                let journal = self.journal.clone();
                self.tasks.spawn(async move {
                    if let Some(journal) = journal {
                        // Whoever finds the upload gone knows then that it may have become the object.
                        journal.flush().await;
                    }
                    let complete = || upload.complete(&parts, crc);
                    let result = policy.run("completing an upload", size, StoreError::is_retryable, counting(&stats), complete).await;
                    (file, result.map(Outcome::Stored))
                })
            }
            Job::Abort { file, key } => {
                let upload = self.open.remove(&file);
                if let Some((journal, key)) = self.journal.as_ref().zip(key) {
                    journal.forget(key);
                }
                self.tasks.spawn(async move { (file, give_up(upload, policy).await.map(|()| Outcome::Aborted)) })
            }
        };
        self.running.insert(handle.id(), (kind, bytes, handle));
    }

    fn apply(&mut self, done: Result<(Id, Done), JoinError>) -> Result<(), UploadError> {
        let (id, (file, result)) = match done {
            Ok(done) => done,
            Err(error) => {
                self.running.remove(&error.id());
                return if error.is_cancelled() { Ok(()) } else { Err(UploadError::Internal(error.to_string())) };
            }
        };
        let (kind, bytes) = self.running.remove(&id).map_or((None, 0), |(kind, bytes, _)| (Some(kind), bytes));
        self.adapt(kind, bytes, &result);
        let outcome = match result {
            // Its upload is being aborted, so its parts may find it gone.
            Err(error) if self.assembly.is_withdrawn(file) => {
                tracing::debug!(%error, "of a file that was withdrawn");
                return Ok(());
            }
            Err(error) => return Ok(self.assembly.leave_out(file, error)?),
            Ok(outcome) => outcome,
        };
        match outcome {
            Outcome::Begun(upload) => {
                if let Some(journal) = &self.journal
                    && let Some(object) = self.assembly.open_object(file, upload.handle())
                {
                    upload.keep();
                    journal.begun(object);
                }
                self.open.insert(file, upload);
                self.assembly.begun(file);
            }
            Outcome::Part(receipt) => {
                self.acknowledged(receipt.len);
                if let Some((journal, row)) = self.journal.as_ref().zip(self.assembly.row(file)) {
                    journal.part(row, receipt.clone());
                }
                self.assembly.part_stored(file, receipt);
            }
            Outcome::Many(objects) => {
                for (file, stored) in objects {
                    match stored {
                        Ok(object) => self.stored(file, object, true),
                        Err(error) => self.assembly.leave_out(file, error)?,
                    }
                }
            }
            Outcome::Stored(object) => self.stored(file, object, kind != Some(Kind::Control)),
            Outcome::Synced => self.synced = true,
            Outcome::Aborted => {}
        }
        Ok(())
    }

    /// An answer may change how many requests are on their way.
    fn adapt(&mut self, kind: Option<Kind>, bytes: u64, result: &Result<Outcome, StoreError>) {
        let throttled = self.stats.throttled.load(Relaxed);
        match (kind, result) {
            (Some(Kind::Part), Ok(_)) => {
                self.parts.answered(Instant::now(), bytes, !self.assembly.jobs.parts.is_empty(), throttled);
            }
            (Some(Kind::Small), Ok(Outcome::Stored(_))) => {
                self.small.answered(Instant::now(), 1, !self.assembly.jobs.small.is_empty(), throttled);
            }
            _ => {}
        }
    }

    /// An object is complete; `is_put`: by a put, whose bytes are counted here; those of parts were when they were stored.
    fn stored(&mut self, file: u32, object: StoredObject, is_put: bool) {
        self.open.remove(&file);
        if let Some((journal, done)) = self.journal.as_ref().zip(self.assembly.done_object(file, &object)) {
            journal.done(done);
        }
        let crc = object.crc;
        self.stored.insert(file, object);
        self.assembly.object_stored(file, crc);
        if is_put && let Some(Milestone::File { meta, .. }) = self.assembly.milestones.back() {
            self.acknowledged(meta.size);
        }
    }

    fn acknowledged(&mut self, bytes: u64) {
        self.stats.bytes_uploaded.fetch_add(bytes, Relaxed);
        self.gauge(bytes);
    }

    fn report(&mut self) {
        while let Some(milestone) = self.assembly.milestones.pop_front() {
            let event = match milestone {
                Milestone::LeftOut { file, path, reason } => UploadEvent::FileLeftOut { file, path, reason },
                Milestone::Block(id) => {
                    self.stats.blocks_durable.fetch_add(1, Relaxed);
                    UploadEvent::BlockDurable(id)
                }
                Milestone::File { meta, key, crc } => {
                    self.stats.files_done.fetch_add(1, Relaxed);
                    let object = self.stored.remove(&meta.file);
                    let verified_by_store = object.as_ref().is_some_and(|object| object.verified_by_store);
                    let (etag, version_id) = object.map_or((None, None), |object| (object.etag, object.version_id));
                    let FileMeta { file, path, size, mtime_ns, attributes, .. } = meta;
                    UploadEvent::FileDone { file, path, key, size, mtime_ns, attributes, etag, version_id, crc64: crc, verified_by_store }
                }
            };
            self.tell(event);
        }
    }

    /// Stops what carries data, waits for what may have opened or completed an upload, then aborts everything that is open.
    async fn fail(mut self, error: UploadError) {
        tracing::warn!(place = self.store.place(), %error, "upload failed");
        self.tell(UploadEvent::Failed(error));
        // Queued jobs hold blocks; give them back before waiting.
        self.assembly = Assembly::new(self.config.clone(), self.store.limits(), Earlier::default());
        // A batch cannot be stopped, and what it holds is locked until it ends.
        let is_batch = |kind: Kind| kind == Kind::Small && self.batch_max > 1;
        let stoppable = self.running.values().filter(|(kind, ..)| *kind != Kind::Control && !is_batch(*kind));
        stoppable.for_each(|(.., handle)| handle.abort());
        let patience = Duration::from_millis(self.config.cleanup_ms / 2);
        // What is begun from now on is in no journal.
        let mut late = HashMap::new();
        let waiting = async {
            while let Some(done) = self.tasks.join_next().await {
                match done {
                    Ok((file, Ok(Outcome::Begun(upload)))) => drop(late.insert(file, upload)),
                    Ok((file, Ok(Outcome::Stored(_)))) => drop(self.open.remove(&file)),
                    _ => {}
                }
            }
        };
        let unknown = if timeout(patience, waiting).await.is_err() { self.tasks.len() as u64 } else { 0 };
        self.tasks.abort_all();
        self.running.clear();
        self.gauge(0);
        if let Some(journal) = &self.journal {
            // They are noted, and stay for whoever goes on.
            let left = self.open.len() as u64 + unknown;
            self.open.clear();
            journal.flush().await;
            let begun = late.len() as u64;
            let aborted = abort_all(late, self.config.retry, patience).await;
            return self.tell(UploadEvent::Stopped { aborted, left: left + begun - aborted });
        }
        self.open.extend(late);
        let total = self.open.len() as u64;
        let aborted = abort_all(std::mem::take(&mut self.open), self.config.retry, patience).await;
        self.tell(UploadEvent::Stopped { aborted, left: total - aborted + unknown });
    }
}

/// Gives up what an earlier transfer began.
async fn give_up(upload: Option<Arc<dyn Upload>>, policy: RetryPolicy) -> Result<(), StoreError> {
    let Some(upload) = upload else { return Ok(()) };
    policy.run("aborting an upload", 0, StoreError::is_retryable, |_| {}, || upload.abort()).await
}

/// Aborts the uploads, all at once, for at most `patience`. Returns how many are gone.
async fn abort_all(open: HashMap<u32, Arc<dyn Upload>>, policy: RetryPolicy, patience: Duration) -> u64 {
    let mut tasks = JoinSet::new();
    for upload in open.into_values() {
        tasks.spawn(async move {
            let result = policy.run("aborting an upload", 0, StoreError::is_retryable, |_| {}, || upload.abort()).await;
            if let Err(error) = &result {
                tracing::warn!(%error, ?upload, "a multipart upload stays behind at the store");
            }
            result.is_ok()
        });
    }
    let mut aborted = 0;
    let waiting = async {
        while let Some(done) = tasks.join_next().await {
            aborted += u64::from(done.unwrap_or(false));
        }
    };
    let _ = timeout(patience, waiting).await;
    aborted
}

fn counting(stats: &UploadStats) -> impl FnMut(&StoreError) + '_ {
    |error| {
        stats.retries.fetch_add(1, Relaxed);
        if matches!(error, StoreError::Throttled { .. }) {
            stats.throttled.fetch_add(1, Relaxed);
        }
    }
}
