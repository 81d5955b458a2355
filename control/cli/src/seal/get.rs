//! `tradewind get --unseal`: sealed files are unsealed as they come, and count as got from then on.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clap::Args;
use serde_json::json;
use tradewind_api::{Client, ClientError, DestinationUrl, DurableEntry, ErrorCode, ObjectDetails, ObjectEntry, exit, last_part};
use tradewind_client::{SEALED_ATTRIBUTE, fingerprint, header_of_attribute};
use tradewind_seal::{Header, KeyRing, MasterKey, SealError, plain_size};

use super::keys::{ended, key_error};
use super::output::{Outputs, Problem};
use super::{SealKeyOptions, Stoppable, check_size, header_of, interrupted, last_component, open_sealed, plain_name, without_suffix};
use crate::events;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::links::Links;
use crate::objects::{Pages, parse, refused};

/// Objects of a folder that are asked for their keys: one is enough where all were sent with --seal.
const ASKED_MAX: usize = 8;

/// What `tradewind get` takes for unsealing.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct GetUnsealOptions {
    /// Decrypt what is sealed, with the key that it was sealed with: FILE.sealed becomes FILE. What is not sealed is got as it is.
    #[arg(long)]
    pub(crate) unseal: bool,
    #[command(flatten)]
    pub(crate) key: SealKeyOptions,
}

impl GetUnsealOptions {
    /// The keys, if anything is to be unsealed. Asks for the passphrase where it has to.
    pub(crate) async fn ring(&self, interrupts: &mut Interrupts) -> Result<Option<Arc<KeyRing>>, Failure> {
        if !self.unseal {
            return self.key.unused("--unseal").map(|()| None);
        }
        self.key.key_ring(interrupts).await.map(|ring| Some(Arc::new(ring)))
    }
}

/// What is known of a source before anything of it is got.
#[derive(Default)]
pub(crate) struct Checked {
    /// The object, if it is one.
    object: Option<ObjectDetails>,
    /// The key that opened the header looked at.
    master: Option<Arc<MasterKey>>,
    /// The one object is sealed, or called so.
    pub(crate) is_sealed_object: bool,
}

impl Checked {
    /// The source is a folder, whatever its URL looks like.
    pub(crate) const fn is_folder(&self) -> bool {
        self.object.is_none()
    }
}

/// Asks the server for headers and tries the key on them.
///
/// # Errors
/// [`Failure::SealKey`] if it is the wrong one.
pub(crate) async fn check(client: &Client, url: &str, ring: &Arc<KeyRing>) -> Result<Checked, Failure> {
    let object = if parse(url)?.names_one_file() {
        match client.object(url).await {
            Ok(details) => Some(details),
            // It may be a folder.
            Err(ClientError::Refused(problem)) if problem.code.exit_code() == exit::DESTINATION => None,
            Err(error) => return Err(error.into()),
        }
    } else {
        None
    };
    let found = match &object {
        Some(details) => header_in(details).map(|header| (header, url.to_owned())),
        None => header_below(client, url).await?,
    };
    let is_named_sealed = object.is_some() && looks_sealed(last_part(url).as_bytes());
    let Some((header, place)) = found else { return Ok(Checked { object, master: None, is_sealed_object: is_named_sealed }) };
    let ring = Arc::clone(ring);
    let tried = tokio::task::spawn_blocking(move || ring.find(&header)).await.map_err(|error| ended(&error))?;
    let master = tried.map_err(|error| match key_error(&error) {
        Failure::SealKey { detail, hint } => Failure::SealKey { detail: format!("{place}: {detail}"), hint },
        other => other,
    })?;
    let is_sealed_object = object.is_some();
    Ok(Checked { object, master: Some(master), is_sealed_object })
}

fn header_in(details: &ObjectDetails) -> Option<Header> {
    // One that others have changed says nothing; the file itself will.
    details.attributes.get(SEALED_ATTRIBUTE).and_then(|text| header_of_attribute(text).ok())
}

/// The header of the first objects below a folder that are called as sealed ones are, and which it is of.
async fn header_below(client: &Client, url: &str) -> Result<Option<(Header, String)>, Failure> {
    let folder = folder_of(url);
    let (mut pages, mut asked) = (Pages::new(client, &folder, true), 0);
    while let Some(page) = pages.next().await? {
        for entry in page.entries.iter().filter(|entry| looks_sealed(entry.name.as_bytes())) {
            let url = format!("{folder}{}", entry.name);
            match client.object(&url).await {
                Ok(details) => {
                    if let Some(header) = header_in(&details) {
                        return Ok(Some((header, url)));
                    }
                }
                Err(ClientError::Refused(problem)) if problem.code.exit_code() == exit::DESTINATION => {}
                Err(error) => return Err(error.into()),
            }
            asked += 1;
            if asked == ASKED_MAX {
                return Ok(None);
            }
        }
    }
    Ok(None)
}

fn folder_of(url: &str) -> String {
    if url.ends_with(['/', ':']) { url.to_owned() } else { format!("{url}/") }
}

/// Whether a path is called as sealed files are.
fn looks_sealed(path: &[u8]) -> bool {
    super::looks_sealed(Path::new(OsStr::from_bytes(last_component(path))))
}

/// Told of a file that could not be unsealed.
pub(crate) type OnFailed = Box<dyn Fn(&[u8], &str) + Send + Sync>;

/// Unseals the files of one source where they were got to.
pub(crate) struct Unsealing {
    pub(crate) ring: Arc<KeyRing>,
    pub(crate) checked: Arc<Checked>,
    /// The directory that files are in.
    pub(crate) root: PathBuf,
    /// For one object: what it is called until it is unsealed, and then.
    pub(crate) exact: Option<(String, String)>,
    pub(crate) overwrite: bool,
    pub(crate) json: bool,
    pub(crate) on_failed: OnFailed,
    /// Told of what becomes links in the end.
    pub(crate) links: Option<Arc<Links>>,
    /// Set it to stop.
    pub(crate) stop: AtomicBool,
    pub(crate) state: Mutex<State>,
}

/// What was done so far.
#[derive(Default)]
pub(crate) struct State {
    /// Files unsealed.
    pub(crate) files: u64,
    outputs: Option<Outputs>,
    /// Folders of sealed names that may be empty now.
    folders: BTreeSet<PathBuf>,
}

impl Unsealing {
    /// What of the source is here unsealed already, as lines for the server. Files that were got and not unsealed are unsealed first.
    ///
    /// # Errors
    /// [`ErrorCode::DestinationExists`] if a file that is here is another, unless it may be replaced.
    pub(crate) async fn have(self: &Arc<Self>, client: &Client, url: &str, interrupts: &mut Interrupts) -> Result<Vec<u8>, Failure> {
        let mut lines = Vec::new();
        if let Some(details) = &self.checked.object {
            let name = last_part(url).to_owned();
            let entry = ObjectEntry { name, folder: false, size: details.size, modified_ns: None, etag: None };
            self.look(vec![entry], Vec::new(), interrupts, &mut lines).await?;
            return Ok(lines);
        }
        let folder = folder_of(url);
        let above = match parse(url)? {
            named if DestinationUrl::names_one_file(&named) => format!("{}/", last_part(url)).into_bytes(),
            _ => Vec::new(),
        };
        let mut pages = Pages::new(client, &folder, true);
        loop {
            let page = interrupts.unless(pages.next()).await.map_err(interrupted)??;
            let Some(page) = page else { return Ok(lines) };
            self.look(page.entries, above.clone(), interrupts, &mut lines).await?;
        }
    }

    async fn look(
        self: &Arc<Self>,
        entries: Vec<ObjectEntry>,
        above: Vec<u8>,
        interrupts: &mut Interrupts,
        lines: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let this = Arc::clone(self);
        let looking = tokio::task::spawn_blocking(move || {
            let mut lines = Vec::new();
            for entry in &entries {
                this.look_at(&[&above, entry.name.as_bytes()].concat(), entry.size, &mut lines)?;
            }
            Ok(lines)
        });
        match self.or_stop(looking, interrupts).await? {
            Ok(more) => lines.extend_from_slice(&more),
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Waits for a task of this; a signal ends it between two frames.
    pub(crate) async fn or_stop<T>(&self, mut task: tokio::task::JoinHandle<T>, interrupts: &mut Interrupts) -> Result<T, Failure> {
        match interrupts.unless(&mut task).await {
            Ok(done) => done.map_err(|error| ended(&error)),
            Err(signal) => {
                self.stop.store(true, Ordering::Relaxed);
                // Whoever asks a second time does not wait for the disk.
                let _ = interrupts.unless(task).await;
                Err(interrupted(signal))
            }
        }
    }

    /// An object of the source, which the server calls by this path.
    fn look_at(&self, path: &[u8], size: u64, lines: &mut Vec<u8>) -> Result<(), Failure> {
        let Some(plain_bytes) = plain_size(size) else { return Ok(()) };
        // Names of files that are no text are written as text in object stores; the server speaks of the files.
        let decoded = tradewind_storage::decode_name(path);
        let path = if self.sealed_path(path).exists() { path } else { &decoded };
        // A name of another key says nothing about files here.
        let Some(plain) = self.plain_path(path, self.checked.master.as_deref()) else { return Ok(()) };
        let sealed = self.sealed_path(path);
        let file = |path: &Path| path.symlink_metadata().ok().filter(Metadata::is_file);
        if file(&sealed).is_some_and(|file| file.len() == size) && (looks_sealed(path) || header_of(&sealed).is_ok()) {
            self.unseal(path);
        }
        let is_sealed = sealed != plain;
        match file(&plain) {
            Some(there) if there.len() == plain_bytes && self.is_same_time(&there) => {
                self.note_link(&plain);
                let file = fingerprint(path, size, mtime_ns(&there));
                serde_json::to_writer(&mut *lines, &DurableEntry::File { file, crc64: None, samples: Vec::new() })
                    .map_err(|error| Failure::Local { what: "cannot write JSON", detail: error.to_string() })?;
                lines.push(b'\n');
            }
            Some(_) if is_sealed && !self.overwrite && !sealed.exists() => {
                let detail = format!("{} is another file than the one that would be unsealed there", plain.display());
                return Err(refused(ErrorCode::DestinationExists, detail, "remove it, get into another directory, or give --overwrite"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a file is as old as the one object; of objects in folders that is not known here.
    fn is_same_time(&self, file: &Metadata) -> bool {
        self.checked.object.as_ref().and_then(|object| object.mtime_ns).is_none_or(|time| time == mtime_ns(file))
    }

    fn sealed_path(&self, path: &[u8]) -> PathBuf {
        match &self.exact {
            Some((sealed, _)) => self.root.join(sealed),
            None => self.root.join(OsStr::from_bytes(path)),
        }
    }

    /// Where the contents go; `None` if names cannot be unsealed.
    fn plain_path(&self, path: &[u8], master: Option<&MasterKey>) -> Option<PathBuf> {
        match (&self.exact, master) {
            (Some((_, plain)), _) => Some(self.root.join(plain)),
            (None, Some(master)) => plain_name(path, master).ok().map(|name| self.root.join(OsStr::from_bytes(&name))),
            (None, None) if path.split(|&byte| byte == b'/').any(tradewind_seal::looks_sealed) => None,
            (None, None) => Some(self.root.join(OsStr::from_bytes(without_suffix(path)))),
        }
    }

    /// It becomes a link in the end, if it is called so and that is wanted.
    fn note_link(&self, file: &Path) {
        if let Some(links) = &self.links {
            links.note(file.strip_prefix(&self.root).unwrap_or(file).as_os_str().as_bytes());
        }
    }

    /// Unseals a file that is complete, if it is sealed, and tells what became of it.
    pub(crate) fn unseal(&self, path: &[u8]) {
        match self.unseal_one(path) {
            Ok(None) => {}
            Ok(Some((target, size))) => {
                self.state().files += 1;
                self.note_link(&target);
                if self.json {
                    let name = target.strip_prefix(&self.root).unwrap_or(&target).to_string_lossy();
                    events::emit(&json!({ "event": "unsealed", "path": name, "size": size }));
                }
            }
            Err(problem) => (self.on_failed)(path, &format!("{problem}; it stays sealed")),
        }
    }

    fn unseal_one(&self, path: &[u8]) -> Result<Option<(PathBuf, u64)>, Problem> {
        let source = self.sealed_path(path);
        let (file, metadata, unsealer) = match open_sealed(&source, &self.ring) {
            Err(SealError::NotSealed) if !looks_sealed(path) => return Ok(None),
            opened => opened?,
        };
        check_size(&metadata, &unsealer)?;
        let no_name = || Problem::because("its name was sealed with another key");
        let target = self.plain_path(path, Some(unsealer.master_key())).ok_or_else(no_name)?;
        let in_place = target == source;
        // As resuming takes it: the same name, size and time are the same file. It was unsealed before, and got again.
        let is_there = target.symlink_metadata().is_ok_and(|there| {
            there.is_file() && (there.len(), mtime_ns(&there)) == (unsealer.plain_size(), mtime_ns(&metadata)) && !self.overwrite
        });
        let mut state = self.state();
        if in_place || !is_there {
            let mut alone = Outputs::new(true);
            let outputs = if in_place { &mut alone } else { state.outputs.get_or_insert_with(|| Outputs::new(self.overwrite)) };
            outputs.write(&target, &[], &metadata, |writer| {
                unsealer.unseal(&mut Stoppable { file, stop: &self.stop }, writer)?;
                Ok(())
            })?;
        }
        if !in_place {
            fs::remove_file(&source)
                .map_err(|error| Problem::because(format!("it was unsealed, but the sealed file cannot be removed: {error}")))?;
        }
        let is_sealed = |folder: &&Path| folder.file_name().is_some_and(|name| tradewind_seal::looks_sealed(name.as_bytes()));
        if let Some(folder) = source.parent().filter(is_sealed).filter(|folder| *folder != self.root) {
            state.folders.insert(folder.to_owned());
        }
        Ok(Some((target, unsealer.plain_size())))
    }

    /// Removes folders of sealed names that nothing is left in; call it when nothing is being got.
    pub(crate) fn tidy(&self) {
        let folders = std::mem::take(&mut self.state().folders);
        for folder in folders.iter().rev() {
            let below = folder.ancestors().take_while(|folder| *folder != self.root);
            for folder in below.take_while(|folder| folder.file_name().is_some_and(|name| tradewind_seal::looks_sealed(name.as_bytes()))) {
                if fs::remove_dir(folder).is_err() {
                    break;
                }
            }
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mtime_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sealed_files_are_known_by_their_last_part() {
        for (path, expected) in [("a.sealed", true), ("d/a.sealed", true), (".sealed", true), ("a.sealed/b", false), ("tws-x", false)] {
            assert_eq!(looks_sealed(path.as_bytes()), expected, "{path}");
        }
        assert_eq!((last_part("s3://b/d/f"), last_part("store:f"), last_part("s3://b/d/")), ("f", "f", ""));
        assert_eq!(
            (folder_of("store:"), folder_of("s3://b"), folder_of("s3://b/d/")),
            ("store:".into(), "s3://b/".into(), "s3://b/d/".into())
        );
    }
}
