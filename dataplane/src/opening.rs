//! What has to be found out and prepared before a lane is opened.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use tradewind_client::{Durable, Selected};
use tradewind_ipc::{Destination, DurableList, Job, OpenLane, Receive, Select};
use tradewind_storage::{FetchConfig, PoolNeed, Store, StoreError, UploaderConfig, Wanted, fetch};

use crate::destination;
use crate::manifest::Manifest;
use crate::pack::Objects;
use crate::resume::{self, Prepared, State};
use crate::send_task::BLOCKS_AHEAD;
use crate::shared::LaneShared;

/// How long a store may take to say whether it takes objects.
const STORE_CHECK_TIMEOUT: Duration = Duration::from_secs(20);
/// Silence after which the sender of a rival has gone: it says something at least once a second.
const RIVAL_SILENCE: Duration = Duration::from_millis(2_500);
/// How long one may take to its first packet.
const RIVAL_FIRST_PACKET: Duration = Duration::from_secs(10);
/// How long a rival's end is waited for.
const RIVAL_END: Duration = Duration::from_secs(5);
const RIVAL_POLL: Duration = Duration::from_millis(20);

/// A store that takes objects, how they are put there, and what is there already.
pub(crate) struct Destined {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) config: UploaderConfig,
    pub(crate) prepared: Option<Prepared>,
    /// Where what is stored is written down.
    pub(crate) manifest: Option<Manifest>,
}

/// What a lane is to do, with its stores open.
pub(crate) enum Work {
    Receive(Box<Destined>),
    Send {
        objects: Objects,
        /// Filled with what the client has already, if it says so.
        have: Option<Arc<OnceLock<Durable>>>,
    },
    Copy {
        objects: Objects,
        into: Box<Destined>,
    },
}

impl Work {
    /// Opens the stores and finds out what is there.
    pub(crate) async fn prepare(open: &OpenLane, state: Option<State>) -> Result<Self, StoreError> {
        Ok(match &open.job {
            Job::Receive(into) => Self::Receive(Box::new(destined(open, into, state).await?)),
            Job::Send { source, select, resume } => {
                let have = resume.then(Arc::default);
                let wanted = have.as_ref().map(wanted);
                Self::Send { objects: objects(source, select, wanted).await?, have }
            }
            Job::Copy { source, select, into } => {
                let mut into = destined(open, into, state).await?;
                // What is durable is not read again.
                let list = into.prepared.as_mut().and_then(|prepared| prepared.list.take()).and_then(|list| list.path);
                let have = list.map(|path| already(&path)).transpose()?;
                let objects = objects(source, select, have.as_ref().map(wanted)).await?;
                Self::Copy { objects, into: Box::new(into) }
            }
        })
    }

    /// Blocks of memory that it takes.
    pub(crate) fn pool_need(&self, block_bytes: u32) -> PoolNeed {
        match self {
            Self::Receive(destined) | Self::Copy { into: destined, .. } => {
                let part_bytes = part_bytes(destined.store.as_ref());
                PoolNeed::new(part_bytes, u64::from(block_bytes), UploaderConfig::default().parts_in_flight, 1)
            }
            Self::Send { .. } => PoolNeed { blocks_min: u64::from(2 * BLOCKS_AHEAD), blocks_wanted: u64::from(8 * BLOCKS_AHEAD) },
        }
    }

    /// The list of what is durable already, once.
    pub(crate) fn take_list(&mut self) -> Option<DurableList> {
        match self {
            Self::Receive(destined) => destined.prepared.as_mut().and_then(|prepared| prepared.list.take()),
            Self::Send { .. } | Self::Copy { .. } => None,
        }
    }
}

/// What a list names.
fn already(path: &Path) -> Result<Arc<OnceLock<Durable>>, StoreError> {
    let failed = |error: std::io::Error| StoreError::Journal { detail: format!("{}: {error}", path.display()) };
    Ok(Arc::new(OnceLock::from(resume::read_list(path).map_err(failed)?)))
}

/// What the client lacks, by what it has said until it spoke on the lane.
fn wanted(have: &Arc<OnceLock<Durable>>) -> Arc<Wanted> {
    let have = Arc::clone(have);
    Arc::new(move |path, size, mtime_ns| {
        have.get().map_or_else(|| std::iter::once(0..size).collect(), |have| have.wanted(path, size, mtime_ns))
    })
}

/// # Errors
/// [`StoreError::Rejected`] for a pattern that means nothing.
fn selected(select: &Select) -> Result<Selected, StoreError> {
    let Select { exclude, include, newer_than_ns, older_than_ns } = select;
    Selected::new(exclude, include, newer_than_ns.map(point_in_time), older_than_ns.map(point_in_time)).map_err(|error| {
        StoreError::Rejected {
            place: "the server".to_owned(),
            action: "select objects",
            code: "pattern".to_owned(),
            detail: error.to_string(),
        }
    })
}

/// `ns` nanoseconds after 1970, or before.
fn point_in_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
}

/// Opens what objects come from; the first look at it is part of that.
async fn objects(source: &Destination, select: &Select, wanted: Option<Arc<Wanted>>) -> Result<Objects, StoreError> {
    let selected = (!select.is_everything()).then(|| selected(select)).transpose()?;
    let opening = async {
        let store = destination::open_store(&source.store)?;
        let takes_path = selected.clone().map(|selected| Arc::new(move |path: &[u8]| selected.takes_name(path)) as _);
        let times = selected.filter(Selected::asks_for_times);
        let takes_time = times.map(|selected| Arc::new(move |ns: i64| selected.takes_time(Some(point_in_time(ns)))) as _);
        let config = FetchConfig { wanted, takes_path, takes_time, ..FetchConfig::new(destination::name(&source.name)) };
        let objects: Objects = Box::pin(fetch(store, config).await?);
        Ok(objects)
    };
    let timeout = StoreError::Timeout { action: "looking for the objects", after: STORE_CHECK_TIMEOUT };
    tokio::time::timeout(STORE_CHECK_TIMEOUT, opening).await.unwrap_or(Err(timeout))
}

/// A lane into the same destination as one that is to be opened.
pub(crate) struct Rival {
    pub(crate) lane_id: u64,
    pub(crate) shared: Arc<LaneShared>,
    pub(crate) opened: Instant,
}

/// Ends rivals whose senders have gone, so that what they hold is free: whoever was killed and starts again need not wait until the silence of
/// its old lane counts as an end.
pub(crate) async fn supersede(rivals: &[Rival], end: impl Fn(u64)) {
    let heard = |rival: &Rival| rival.shared.sender().map(|heard| heard.heard_ns);
    let (before, start): (Vec<_>, _) = (rivals.iter().map(heard).collect(), Instant::now());
    let mut waiting: Vec<(&Rival, Option<u64>)> = rivals.iter().zip(before).collect();
    while !waiting.is_empty() && start.elapsed() < RIVAL_SILENCE {
        tokio::time::sleep(RIVAL_POLL).await;
        waiting.retain(|(rival, before)| heard(rival) == *before && !rival.shared.ended.load(Ordering::Acquire));
    }
    // One that was never heard may be about to begin.
    waiting.retain(|(rival, before)| before.is_some() || rival.opened.elapsed() > RIVAL_FIRST_PACKET);
    for (rival, _) in &waiting {
        end(rival.lane_id);
    }
    while start.elapsed() < RIVAL_SILENCE + RIVAL_END && waiting.iter().any(|(rival, _)| !rival.shared.ended.load(Ordering::Acquire)) {
        tokio::time::sleep(RIVAL_POLL).await;
    }
}

/// Opens a lane's destination.
async fn destined(open: &OpenLane, into: &Receive, state: Option<State>) -> Result<Destined, StoreError> {
    let timeout = |action, after| StoreError::Timeout { action, after };
    let opening = tokio::time::timeout(STORE_CHECK_TIMEOUT, destination::open(&into.destination)).await;
    let store = opening.unwrap_or_else(|_| Err(timeout("checking the destination", STORE_CHECK_TIMEOUT)))?;
    let config = UploaderConfig {
        name: destination::name(&into.destination.name),
        encode_names: store.takes_only_text(),
        overwrite: into.overwrite,
        // Of a copy into a directory, as of a download; what a bucket refuses it refuses of all.
        leave_out: (matches!(open.job, Job::Copy { .. }) || open.call.is_some()) && !store.takes_only_text(),
        variant: into.variant,
        block_bytes: u64::from(open.block_bytes),
        part_bytes: Some(part_bytes(store.as_ref())),
        ..UploaderConfig::default()
    };
    let manifest = state.as_ref().and_then(|state| state.manifest(&open.transfer_id));
    let prepared = match state {
        Some(state) => Some(state.prepare(open.lane_id, &store, &config, into.resume, manifest.as_ref()).await?),
        None => None,
    };
    Ok(Destined { store, config, prepared, manifest })
}

/// Size of the parts of an object unless it needs larger ones: the last part is only on its way when the network has nothing left
/// to do, so a small one ends a transfer sooner. 8 MiB is what the AWS command line uses.
fn part_bytes(store: &dyn Store) -> u64 {
    const PART_BYTES: u64 = 8 << 20;
    store.limits().part_bytes_default.min(PART_BYTES)
}
