//! Going on where an earlier transfer stopped: the journal, and the list of what need not be sent again.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tradewind_client::files_and_pieces;
use tradewind_ipc::{DurableList, DurableSummary};
use tradewind_proto::block::{BlockTable, fingerprint};
use tradewind_staging::{Keep, KeptImage};
use tradewind_storage::{
    Crc64, Durable, Journal, KeptBlock, KeptMemory, Recalled, Resumption, RetryPolicy, Sample, Scope, Store, StoreError, UploaderConfig,
    resume,
};

use crate::keeping::Kept;
use crate::manifest::{self, Manifest};
use crate::options::StagingMode;

/// How long looking through what earlier transfers left may take.
const RESUME_TIMEOUT: Duration = Duration::from_secs(80);
/// How long giving up old uploads may keep a transfer waiting.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long removing old kept blocks and reading the others may take; what is not read by then is sent again.
const RECALL_TIME: Duration = Duration::from_secs(40);
/// Kept blocks that go to the store are read into so much memory beside the block pool: this part of it.
const KEPT_PART: u64 = 8;

/// The engine's memory that outlives it.
#[derive(Clone, Debug)]
pub(crate) struct State {
    journal: Journal,
    lists: PathBuf,
    directory: PathBuf,
    keep: Duration,
    /// What earlier engines received, and whether lanes of this one add to it.
    kept: Option<(Keep, StagingMode)>,
    /// What all lanes together read that into.
    kept_memory: KeptMemory,
}

/// What a lane begins with.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) resumption: Resumption,
    /// What the sender is told, if it asked.
    pub(crate) list: Option<DurableList>,
    /// Where this lane's blocks outlive the engine.
    pub(crate) kept: Option<Kept>,
}

impl State {
    /// Opens the journal in this directory and removes lists that an earlier engine left. `pool_bytes`: of the block pool.
    ///
    /// # Errors
    /// [`StoreError::Journal`].
    pub(crate) fn open(directory: &Path, keep: Duration, pool_bytes: u64) -> Result<Self, StoreError> {
        let lists = directory.join("durable");
        let failed = |error: io::Error| StoreError::Journal { detail: format!("{}: {error}", lists.display()) };
        match fs::remove_dir_all(&lists) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        fs::create_dir_all(&lists).map_err(failed)?;
        manifest::prepare(directory).map_err(failed)?;
        let (journal, kept_memory) = (Journal::open(directory)?, KeptMemory::new(pool_bytes / KEPT_PART));
        Ok(Self { journal, lists, directory: directory.to_owned(), keep, kept: None, kept_memory })
    }

    pub(crate) fn with_kept(self, kept: Option<&(Keep, StagingMode)>) -> Self {
        Self { kept: kept.cloned(), ..self }
    }

    /// Begins the manifest of a transfer.
    pub(crate) fn manifest(&self, transfer_id: &str) -> Option<Manifest> {
        Manifest::begin(&self.directory, transfer_id)
    }

    /// Finds out what is durable below the destination. `is_wanted`: the sender asks for it; then it goes into the manifest too.
    pub(crate) async fn prepare(
        &self,
        lane_id: u64,
        store: &Arc<dyn Store>,
        config: &UploaderConfig,
        is_wanted: bool,
        manifest: Option<&Manifest>,
    ) -> Result<Prepared, StoreError> {
        let scope = self.journal.scope(Arc::clone(store));
        self.sweep(&scope, config.retry).await;
        let kept = self.kept.as_ref().map(|(keep, mode)| (Kept { keep: keep.clone(), scope: config.names_token(&store.place()) }, *mode));
        let recalled = match &kept {
            Some((kept, _)) => recall(kept.clone(), self.keep, is_wanted, config.clone()).await,
            None => Recalled::default(),
        };
        let kept = kept.filter(|(_, mode)| *mode == StagingMode::Always).map(|(kept, _)| kept);
        let looking = tokio::time::timeout(RESUME_TIMEOUT, self.look(lane_id, &scope, config, is_wanted, recalled, manifest)).await;
        if let Ok(prepared) = looking {
            return Ok(Prepared { kept, ..prepared? });
        }
        // Too much is there to be looked at: it is sent again, and recognised one by one.
        tracing::warn!("lane {lane_id:016x}: what is durable was not found out within {} s and is sent again", RESUME_TIMEOUT.as_secs());
        self.forget_list(lane_id);
        if let Some(manifest) = manifest {
            manifest.restart();
        }
        let mut prepared = self.look(lane_id, &scope, config, false, Recalled::default(), None).await?;
        prepared.resumption.recognise();
        Ok(Prepared { kept, ..prepared })
    }

    async fn look(
        &self,
        lane_id: u64,
        scope: &Scope,
        config: &UploaderConfig,
        is_wanted: bool,
        recalled: Recalled,
        manifest: Option<&Manifest>,
    ) -> Result<Prepared, StoreError> {
        let path = self.list_path(lane_id);
        let failed = |error: io::Error| StoreError::Journal { detail: format!("{}: {error}", path.display()) };
        let (mut summary, mut list) = (DurableSummary::default(), None);
        let mut each = |durable: &Durable| {
            let list = match &mut list {
                Some(list) => list,
                none => none.insert(BufWriter::new(File::create(&path).map_err(failed)?)),
            };
            if let Some(manifest) = manifest {
                manifest.already(durable);
            }
            write_line(list, &mut summary, durable).map_err(failed)
        };
        let mut resumption = resume(scope, config, is_wanted, recalled, &mut each).await?;
        resumption.read_into(&self.kept_memory);
        let path = match list {
            Some(mut list) => {
                list.flush().map_err(failed)?;
                Some(path)
            }
            None => None,
        };
        Ok(Prepared { resumption, list: is_wanted.then_some(DurableList { summary, path }), kept: None })
    }

    /// The lane has ended.
    pub(crate) fn forget_list(&self, lane_id: u64) {
        // Most lanes have none.
        let _ = fs::remove_file(self.list_path(lane_id));
    }

    fn list_path(&self, lane_id: u64) -> PathBuf {
        self.lists.join(format!("{lane_id:016x}.ndjson"))
    }

    /// The janitor: gives up what nobody has gone on with, before anybody is told of it.
    async fn sweep(&self, scope: &Scope, retry: RetryPolicy) {
        let keep = self.keep;
        match tokio::time::timeout(SWEEP_TIMEOUT, scope.sweep(keep, &retry)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(uploads)) => {
                tracing::info!("{uploads} interrupted uploads aborted that nobody has gone on with for {} s", keep.as_secs());
            }
            Ok(Err(error)) => tracing::warn!(%error, "interrupted uploads that nobody goes on with could not be looked for"),
            Err(_) => tracing::info!("more uploads that nobody has gone on with are left to the next lane"),
        }
    }
}

/// A kept block, as the uploader knows it.
#[derive(Debug)]
struct Image(KeptImage);

#[async_trait]
impl KeptBlock for Image {
    async fn read(&self, range: Range<usize>, crc: Crc64) -> io::Result<Vec<u8>> {
        self.0.read(range, crc.0).await.map_err(io::Error::other)
    }
}

/// Reads what earlier lanes of the same names kept, after removing what nobody goes on with. If nothing is wanted, none of it is of use any more.
async fn recall(kept: Kept, after: Duration, is_wanted: bool, config: UploaderConfig) -> Recalled {
    let recalling = tokio::task::spawn_blocking(move || {
        let Kept { keep, scope } = kept;
        let deadline = Instant::now() + RECALL_TIME;
        let files = keep.expire(after);
        if files > 0 {
            tracing::info!("{files} files of received blocks removed that nobody has gone on with for {} s", after.as_secs());
        }
        let mut recalled = Recalled::default();
        if !is_wanted {
            keep.forget(scope);
            return recalled;
        }
        let mut blocks = 0;
        keep.recall(scope, deadline.saturating_duration_since(Instant::now()), |image, bytes| {
            blocks += 1;
            match BlockTable::parse(&bytes) {
                Ok(table) => {
                    let (files, pieces) = files_and_pieces(&table);
                    let kept: Arc<dyn KeptBlock> = Arc::new(Image(image));
                    recalled.add(&config, &bytes, &kept, &files, &pieces);
                }
                Err(error) => tracing::warn!(%error, "a kept block is left out"),
            }
        });
        if blocks > 0 {
            tracing::info!("{blocks} blocks of an interrupted transfer are still here");
        }
        recalled
    });
    recalling.await.unwrap_or_default()
}

/// A line as `tradewind_api::DurableEntry` reads it.
fn write_line(out: &mut impl Write, summary: &mut DurableSummary, durable: &Durable) -> io::Result<()> {
    match durable {
        Durable::File { path, size, mtime_ns, crc, samples, .. } => {
            summary.files += 1;
            summary.files_bytes += size;
            write!(out, r#"{{"file":"{}","crc64":"{:016x}""#, hex(path, *size, *mtime_ns), crc.0)?;
            for (number, Sample { offset, length, crc }) in samples.iter().enumerate() {
                let before = if number == 0 { r#","samples":["# } else { "," };
                write!(out, r#"{before}{{"offset":{offset},"length":{length},"crc64":"{:016x}"}}"#, crc.0)?;
            }
            writeln!(out, "{}", if samples.is_empty() { "}" } else { "]}" })
        }
        Durable::Part { path, size, mtime_ns, offset, length, crc } => {
            summary.parts += 1;
            summary.parts_bytes += length;
            let file = hex(path, *size, *mtime_ns);
            writeln!(out, r#"{{"file":"{file}","offset":{offset},"length":{length},"crc64":"{:016x}"}}"#, crc.0)
        }
    }
}

fn hex(path: &[u8], size: u64, mtime_ns: i64) -> String {
    format!("{:032x}", u128::from_be_bytes(fingerprint(path, size, mtime_ns)))
}

/// Reads the list of what a client has already, lines as [`write_line`] writes them.
pub(crate) fn read_list(path: &Path) -> io::Result<tradewind_client::Durable> {
    #[derive(serde::Deserialize)]
    struct Line {
        file: String,
        offset: Option<u64>,
        length: Option<u64>,
    }
    let mut durable = tradewind_client::Durable::default();
    for line in io::BufReader::new(File::open(path)?).lines() {
        let line: Line = serde_json::from_str(&line?)?;
        let file = u128::from_str_radix(&line.file, 16).map_err(io::Error::other)?.to_be_bytes();
        match (line.offset, line.length) {
            (Some(offset), Some(length)) => durable.add_part(file, offset..offset.saturating_add(length), None),
            _ => durable.add_file(file, None, std::iter::empty()),
        }
    }
    Ok(durable)
}
