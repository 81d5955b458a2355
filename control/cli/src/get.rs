//! `tradewind get`: agree with the server over HTTPS, receive over UDP, write files.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc;
use tradewind_api::{DurableEntry, LaneOffer, ResumePolicy, Select, SubmitRequest, exit, last_part};
use tradewind_client::{Download, DownloadReport, FileEvent, Selected, UploadError, fingerprint};
use tradewind_seal::{KeyRing, SUFFIX};
use tradewind_storage::{Durable, Journal, LocalStore, ObjectName, Recalled, Resumption, Store, StoreError, UploaderConfig, resume};

use crate::connect::{connect, resolve};
use crate::display::{self, Reporter};
use crate::dry_get::DryRun;
use crate::events;
use crate::failure::Failure;
use crate::follow::{Driven, drive, ended_on_server, explain, failed, last_word, outcome, tell_server};
use crate::interrupt::Interrupts;
use crate::links::{Links, TARGET_BYTES_MAX, link_name};
use crate::options::GetOptions;
use crate::retry::Attempts;
use crate::seal::{Checked, Unsealing, check_key};
use crate::send::{IDLE_TIMEOUT, chunk_bytes_max, lane_offer, submit};
use crate::state::state_folder;
use crate::units;

/// How long partial files are kept that nobody goes on with.
const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

/// Runs the command.
pub(crate) async fn get(options: &GetOptions) -> Result<u8, Failure> {
    let (selected, select) = options.select.resolve()?;
    let mut interrupts = Interrupts::new()?;
    if options.dry_run {
        let listing = dry_run(options, &selected);
        return interrupts.unless(listing).await.map_err(|signal| Failure::Interrupted { signal, transfer_id: None })?;
    }
    let ring = options.unseal.ring(&mut interrupts).await?;
    let mut all_checked = Vec::new();
    if let Some(ring) = &ring {
        // Before anything is made here or begun there.
        let client = connect(&options.server, options.quiet || options.json).await?;
        for source in &options.sources {
            let checking = interrupts.unless(check_key(&client, source, ring)).await;
            let checked = checking.map_err(|signal| Failure::Interrupted { signal, transfer_id: None })??;
            all_checked.push(Arc::new(checked));
        }
    }
    let place = Place::of(options, all_checked.first().map(AsRef::as_ref))?;
    let left_out = LeftOut::default();
    for (number, source) in options.sources.iter().enumerate() {
        let keys = ring.as_ref().zip(all_checked.get(number));
        let mut attempts = Attempts::new(options.lane.retries, options.json, options.quiet);
        loop {
            // What an attempt leaves out, the next one may get.
            let missed = Arc::new(LeftOut::default());
            let getting = Getting { options, select: &select, source, place: &place, left_out: &missed, attempts: &attempts, keys };
            let result = getting.run(&mut interrupts).await;
            place.note_down().await;
            let Err(failure) = result else {
                left_out.take_over(&missed);
                break;
            };
            let Some(cure) = attempts.cure(&failure) else { return Err(failure) };
            attempts.go_on(&failure, cure, &mut interrupts).await?;
        }
    }
    if let Some(links) = place.links.clone() {
        left_out.add_links(links, options, &mut interrupts).await?;
    }
    left_out.failure().map_or(Ok(exit::OK), Err)
}

/// Whether files get their own names below the destination, whatever the sources are.
fn is_directory(options: &GetOptions) -> bool {
    let given = &options.destination;
    given.as_os_str().as_bytes().ends_with(b"/") || given.is_dir() || options.sources.len() > 1
}

/// Says what would be got.
async fn dry_run(options: &GetOptions, selected: &Selected) -> Result<u8, Failure> {
    let client = connect(&options.server, options.quiet || options.json).await?;
    let (into, given) = (is_directory(options), &options.destination);
    let mut run = DryRun::new(&client, selected, options.json, options.quiet);
    for source in &options.sources {
        let target = |path: &str, is_single: bool| if is_single && !into { given.clone() } else { given.join(path) };
        run.source(source, |path, is_single| target(path, is_single).display().to_string()).await?;
    }
    Ok(run.end())
}

/// Where files go.
struct Place {
    store: Arc<dyn Store>,
    /// The directory of the store.
    root: PathBuf,
    name: ObjectName,
    /// What the one file is called in the end.
    exact: Option<String>,
    journal: Option<Journal>,
    /// With --links: files that become links in the end.
    links: Option<Arc<Links>>,
}

impl Place {
    /// `checked` is what is known of the first source, with --unseal. A sealed object is called so until it is unsealed.
    fn of(options: &GetOptions, checked: Option<&Checked>) -> Result<Self, Failure> {
        let given = &options.destination;
        let into = is_directory(options);
        let folders = options.sources.iter().any(|source| source.ends_with('/')) || checked.is_some_and(Checked::is_folder);
        let (directory, name, exact) = if into || folders {
            (given.clone(), ObjectName::Into(String::new()), None)
        } else {
            let name = given.file_name().and_then(OsStr::to_str).ok_or_else(|| Failure::Usage {
                detail: format!("{} is not a file name that is text", given.display()),
                hint: "name a directory, with '/' at its end".to_owned(),
            })?;
            let at_first =
                if checked.is_some_and(|checked| checked.is_sealed_object) { format!("{name}{SUFFIX}") } else { name.to_owned() };
            (given.parent().unwrap_or(Path::new("")).to_owned(), ObjectName::Exact(at_first), Some(name.to_owned()))
        };
        let unusable = |detail: String| Failure::Place { detail };
        let directory = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
        std::fs::create_dir_all(&directory)
            .and_then(|()| directory.canonicalize())
            .map_err(|error| unusable(format!("{}: {error}", directory.display())))
            .and_then(|root| {
                let store = LocalStore::open(&root).map_err(|error| unusable(error.to_string()))?;
                let store = store.with_fsync(options.fsync.policy());
                let store = if options.preserve_owner { store.restoring_owners() } else { store };
                let journal =
                    open_journal().inspect_err(|error| display::note(&format!("{error}; an interrupted download will start over"))).ok();
                let links = options.links.then(|| Links::new(&root, exact.clone(), options.overwrite, options.preserve_owner));
                Ok(Self { store: Arc::new(store), root, name, exact, journal, links: links.map(Arc::new) })
            })
    }
}

/// What earlier downloads of this user left, in `$XDG_STATE_HOME/tradewind` or `~/.local/state/tradewind`.
fn open_journal() -> Result<Journal, StoreError> {
    let missing = || StoreError::Journal { detail: "neither XDG_STATE_HOME nor HOME is set".to_owned() };
    let directory = state_folder().ok_or_else(missing)?;
    std::fs::create_dir_all(&directory).map_err(|error| StoreError::Journal { detail: format!("{}: {error}", directory.display()) })?;
    Journal::open(&directory)
}

impl Place {
    /// Waits until the journal has what was got: the same command right behind this one must not get it again.
    async fn note_down(&self) {
        if let Some(journal) = &self.journal {
            journal.scope(Arc::clone(&self.store)).flush().await;
        }
    }
}

/// Unseals files on a thread of its own as they are told to be complete. It ends once there can be no more of them.
fn unseal_beside(unsealing: &Arc<Unsealing>) -> (std::sync::mpsc::Sender<Vec<u8>>, tokio::task::JoinHandle<()>) {
    let (complete, files) = std::sync::mpsc::channel::<Vec<u8>>();
    let unsealing = Arc::clone(unsealing);
    let task = tokio::task::spawn_blocking(move || {
        for path in files {
            if !unsealing.stop.load(Ordering::Relaxed) {
                unsealing.unseal(&path);
            }
        }
    });
    (complete, task)
}

/// Files that could not be got.
#[derive(Default)]
struct LeftOut(Mutex<(u64, Option<String>)>);

impl LeftOut {
    fn add(&self, path: &[u8], reason: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.0 += 1;
        known.1.get_or_insert_with(|| format!("{}: {reason}", String::from_utf8_lossy(path)));
    }

    /// Makes links of the files that were got as such, and adds those that cannot be.
    async fn add_links(&self, links: Arc<Links>, options: &GetOptions, interrupts: &mut Interrupts) -> Result<(), Failure> {
        let json = options.json;
        let made = interrupts.unless(tokio::task::spawn_blocking(move || links.make(json))).await;
        let made = made.map_err(|signal| Failure::Interrupted { signal, transfer_id: None })?;
        for (path, reason) in made.map_err(|error| Failure::Local { what: "the linking thread failed", detail: error.to_string() })? {
            self.add(&path, &reason);
            let path = String::from_utf8_lossy(&path);
            if json {
                events::emit(&json!({ "event": "file_error", "path": path, "message": reason }));
            } else if !options.quiet {
                display::note(&format!("{path}: {reason}"));
            }
        }
        Ok(())
    }

    fn take_over(&self, other: &Self) {
        let other = other.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.0 += other.0;
        if known.1.is_none() {
            known.1.clone_from(&other.1);
        }
    }

    fn failure(&self) -> Option<Failure> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.1.clone().map(|first| Failure::NotGot { files: known.0, first })
    }
}

/// One attempt to get one source.
struct Getting<'a> {
    options: &'a GetOptions,
    select: &'a Select,
    source: &'a str,
    place: &'a Place,
    left_out: &'a Arc<LeftOut>,
    attempts: &'a Attempts,
    /// With --unseal: the keys, and what was found out with them.
    keys: Option<(&'a Arc<KeyRing>, &'a Arc<Checked>)>,
}

impl Getting<'_> {
    async fn run(&self, interrupts: &mut Interrupts) -> Result<(), Failure> {
        let options = self.options;
        let quiet = options.quiet || options.json;
        let client = connect(&options.server, quiet).await?;
        let address = resolve(&options.server.server).await;
        let chunk_bytes_max = address.and_then(|address| chunk_bytes_max(&address, self.attempts.packet_bytes_max));
        let request = self.request(chunk_bytes_max);
        let config = UploaderConfig {
            name: self.place.name.clone(),
            overwrite: options.overwrite,
            leave_out: true,
            part_bytes: Some(1),
            ..UploaderConfig::default()
        };
        let (remarks, mut notes) = mpsc::unbounded_channel();
        let unsealing = self.unsealing(&remarks);
        // Before the server waits for us.
        let have_unsealed = match &unsealing {
            Some(unsealing) => unsealing.have(&client, self.source, interrupts).await?,
            None => Vec::new(),
        };
        let submitted = interrupts.unless(submit(&client, address, &request)).await;
        let ((answer, server), _) = submitted.map_err(|signal| Failure::Interrupted { signal, transfer_id: None })??;
        let id = answer.transfer_id.as_str();
        let interrupted = |signal| Failure::Interrupted { signal, transfer_id: Some(id.to_owned()) };
        let Some(offer) = answer.lanes.first() else {
            let source = UploadError::Offer("it names no lane".to_owned());
            return Err(Failure::Upload { transfer_id: id.to_owned(), source });
        };
        let config = UploaderConfig { block_bytes: offer.block_bytes.into(), ..config };
        let wants = request.resume == ResumePolicy::Attributes;
        let telling = async {
            let (resumption, mut have, kept) = self.resumption(&config, wants).await?;
            have.extend(have_unsealed);
            if wants {
                client.have(id, have).await?;
            }
            Ok((resumption, kept))
        };
        let (resumption, bytes_kept) = match interrupts.unless(telling).await.map_err(interrupted).and_then(|told| told) {
            Ok(resumption) => resumption,
            Err(failure) => {
                tell_server(&client, id).await;
                return Err(failure);
            }
        };
        let cancel = Arc::new(AtomicBool::new(false));
        let (complete, unsealed) = unsealing.as_ref().map(unseal_beside).unzip();
        let on_file = self.on_file(remarks, complete);
        let download = self.download(offer, server, config, resumption, Arc::clone(&cancel), on_file);
        if options.json {
            let endpoint = download.lane.endpoints.first();
            events::emit(&json!({
                "event": "started", "transfer_id": id, "source": self.source, "endpoint": endpoint, "bytes_kept": bytes_kept,
            }));
        }
        let mut reporter = Reporter::new(options.json, options.quiet, 0);
        let moved = Cell::new(Instant::now());
        let watching = ended_on_server(&client, id, &moved);
        let run = move |progress: &dyn Fn(&tradewind_client::Progress)| download.run(progress);
        let Driven { result, signal, ended } = drive(run, &cancel, interrupts, &mut reporter, &mut notes, &moved, watching).await;
        if let (Some(unsealing), Some(unsealed)) = (&unsealing, unsealed) {
            unsealing.stop.store(signal.is_some(), Ordering::Relaxed);
            let ended = unsealing.or_stop(unsealed, interrupts).await;
            while let Ok(remark) = notes.try_recv() {
                reporter.note(&remark);
            }
            ended?;
            unsealing.tidy();
        }
        reporter.clear();
        if let (Err(UploadError::Cancelled), None, Some(outcome)) = (&result, signal, ended) {
            return Err(failed(id.to_owned(), outcome));
        }
        match result {
            Ok(report) => {
                // The engine's account may still be on its way to the control process.
                if let Ok(Some(status)) = interrupts.unless(last_word(&client, id)).await
                    && let Some(outcome) = outcome(status, false)
                {
                    // It could not read all of it, and its word of that was lost.
                    return Err(failed(id.to_owned(), outcome));
                }
                self.done(id, &report, unsealing.as_ref().map(|unsealing| unsealing.state().files), &reporter);
                Ok(())
            }
            Err(error) => {
                let explained = interrupts.unless(explain(&client, id, error, signal)).await;
                Err(explained.unwrap_or_else(interrupted))
            }
        }
    }

    fn request(&self, chunk_bytes_max: Option<u32>) -> SubmitRequest {
        let options = self.options;
        let resume = if self.place.journal.is_some() { options.resume.for_server(self.attempts.number) } else { ResumePolicy::None };
        let (source, overwrite) = (Some(self.source.to_owned()), options.overwrite);
        SubmitRequest { source, select: self.select.clone(), overwrite, resume, chunk_bytes_max, ..options.lane.request() }
    }

    /// What earlier downloads left, for this end and, as lines, for the server; and how many bytes it is.
    async fn resumption(&self, config: &UploaderConfig, is_wanted: bool) -> Result<(Option<Resumption>, Vec<u8>, u64), Failure> {
        let (mut lines, mut bytes) = (Vec::new(), 0u64);
        let Some(journal) = &self.place.journal else { return Ok((None, lines, bytes)) };
        let scope = journal.scope(Arc::clone(&self.place.store));
        // What nobody goes on with goes, as at the server.
        if let Err(error) = scope.sweep(KEEP, &config.retry).await {
            tracing::warn!(%error, "old partial files could not be looked for");
        }
        let name = &config.name;
        let source_name = last_part(self.source).as_bytes();
        let mut each = |durable: &Durable| {
            let (Durable::File { path, size, mtime_ns, .. } | Durable::Part { path, size, mtime_ns, .. }) = durable;
            if self.options.links && link_name(path).is_some() && *size <= TARGET_BYTES_MAX {
                // Is got once more, so that all of them are known in the end. What is larger can be no link.
                return Ok(());
            }
            // The server knows the one file by its own name.
            let path = if matches!(name, ObjectName::Exact(_)) { source_name } else { path };
            let file = fingerprint(path, *size, *mtime_ns);
            let (Durable::File { size: here, .. } | Durable::Part { length: here, .. }) = durable;
            bytes = bytes.saturating_add(*here);
            let entry = match durable {
                Durable::File { .. } => DurableEntry::File { file, crc64: None, samples: Vec::new() },
                Durable::Part { offset, length, .. } => DurableEntry::Part { file, offset: *offset, length: *length, crc64: None },
            };
            serde_json::to_writer(&mut lines, &entry).map_err(|error| StoreError::Journal { detail: error.to_string() })?;
            lines.push(b'\n');
            Ok(())
        };
        let found = resume(&scope, config, is_wanted, Recalled::default(), &mut each).await;
        let resumption = found.map_err(|error| Failure::Local { what: "cannot find out what is there", detail: error.to_string() })?;
        Ok((Some(resumption), lines, bytes))
    }

    fn download(
        &self,
        offer: &LaneOffer,
        server: std::net::IpAddr,
        config: UploaderConfig,
        resumption: Option<Resumption>,
        cancel: Arc<AtomicBool>,
        on_file: Box<dyn FnMut(FileEvent) + Send>,
    ) -> Download {
        Download {
            lane: lane_offer(offer, server),
            store: Arc::clone(&self.place.store),
            config,
            resumption,
            runtime: tokio::runtime::Handle::current(),
            on_file,
            cancel,
            idle_timeout: IDLE_TIMEOUT,
        }
    }

    /// Tells of files, and with --unseal also whoever unseals them.
    fn on_file(
        &self,
        remarks: mpsc::UnboundedSender<String>,
        complete: Option<std::sync::mpsc::Sender<Vec<u8>>>,
    ) -> Box<dyn FnMut(FileEvent) + Send> {
        let (left_out, links, json) = (Arc::clone(self.left_out), self.place.links.clone(), self.options.json);
        Box::new(move |event| match event {
            FileEvent::Stored { path, size, crc64, verified } => {
                if json {
                    let path = String::from_utf8_lossy(&path);
                    events::emit(
                        &json!({ "event": "file", "path": path, "size": size, "crc64nvme": format!("{crc64:016x}"), "verified": verified }),
                    );
                }
                if let Some(links) = &links {
                    links.note(&path);
                }
                if let Some(complete) = &complete {
                    // Its other end lives as long as there is something to unseal.
                    let _ = complete.send(path);
                }
            }
            FileEvent::Failed { path, reason } => {
                left_out.add(&path, &reason);
                let path = String::from_utf8_lossy(&path);
                if json {
                    events::emit(&json!({ "event": "file_error", "path": path, "message": reason }));
                }
                // Nobody listens any more once the transfer has ended.
                let _ = remarks.send(format!("{path}: {reason}; left out"));
            }
        })
    }

    /// Unseals what is got, with --unseal.
    fn unsealing(&self, remarks: &mpsc::UnboundedSender<String>) -> Option<Arc<Unsealing>> {
        let (ring, checked) = self.keys?;
        let (left_out, remarks, json) = (Arc::clone(self.left_out), remarks.clone(), self.options.json);
        let on_failed = Box::new(move |path: &[u8], reason: &str| {
            left_out.add(path, reason);
            let path = String::from_utf8_lossy(path);
            if json {
                events::emit(&json!({ "event": "file_error", "path": path, "message": reason }));
            }
            let _ = remarks.send(format!("{path}: {reason}"));
        });
        let exact = match (&self.place.name, &self.place.exact) {
            (ObjectName::Exact(at_first), Some(then)) => Some((at_first.clone(), then.clone())),
            _ => None,
        };
        Some(Arc::new(Unsealing {
            ring: Arc::clone(ring),
            checked: Arc::clone(checked),
            root: self.place.root.clone(),
            exact,
            overwrite: self.options.overwrite,
            json,
            on_failed,
            links: self.place.links.clone(),
            stop: AtomicBool::new(false),
            state: Mutex::default(),
        }))
    }

    fn done(&self, id: &str, report: &DownloadReport, unsealed: Option<u64>, reporter: &Reporter) {
        let goodput_bps = units::goodput_bps(report.bytes_received, report.elapsed);
        if self.options.json {
            events::emit(&json!({
                "event": "done",
                "transfer_id": id,
                "files": report.files,
                "bytes": report.bytes,
                "bytes_received": report.bytes_received,
                "files_failed": report.files_failed,
                "files_unsealed": unsealed,
                "elapsed_s": report.elapsed.as_secs_f64(),
                "goodput_bps": goodput_bps,
                "loss": report.loss,
                "rtt_ms": report.rtt_ms,
                "packets_received": report.packets_received,
                "packets_ignored": report.packets_ignored,
            }));
        }
        let files = if report.files == 1 { "file" } else { "files" };
        reporter.finished(&format!(
            "{} {files}, {} got in {} ({}), loss {}, RTT {:.1} ms",
            report.files,
            units::bytes(report.bytes_received),
            units::duration(report.elapsed),
            units::rate(goodput_bps),
            units::percent(report.loss),
            report.rtt_ms,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_object_of_a_url_is_its_last_part() {
        for (url, name) in
            [("s3://bucket/a/b:c", "b:c"), ("local:f", "f"), ("local:d/f", "f"), ("file:///data/f", "f"), ("s3://bucket/", "")]
        {
            assert_eq!(last_part(url), name, "{url}");
        }
    }
}
