//! `tradewind seal`, `tradewind unseal` and `tradewind seal-key`: encryption at rest, of files on this machine.

mod find;
mod get;
mod keys;
mod output;
mod send;

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, ValueHint};
use tradewind_api::exit;
use tradewind_seal::{HEADER_BYTES, Header, KeyId, KeyRing, KeySource, MasterKey, SUFFIX, SealError, Sealer, Unsealer};

use self::find::{Found, Job};
pub(crate) use self::get::{Checked, GetUnsealOptions, Unsealing, check as check_key};
pub(crate) use self::keys::SealKeyOptions;
use self::keys::{ended, key_error};
use self::output::{Outputs, Problem};
pub(crate) use self::send::{SealPlan, SendSealOptions};
use crate::display;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::units;

/// Shown by `tradewind seal --help`.
pub(crate) const SEAL_HELP: &str = "\
Without -o, FILE is sealed as FILE.sealed beside it. With -o DIR/, names are as `tradewind send`
makes them: FILE becomes DIR/FILE.sealed, the files of a directory D become DIR/D/…, and those of
D/ become DIR/…; with --names they have sealed names instead. Sources stay. Links and special
files are skipped, and so are files in directories that are sealed already. Exit code 7: some
files could not be sealed. Whoever loses the passphrase or the key file loses the files.

Examples:
  tradewind seal report.pdf                          asks for a passphrase
  tradewind seal-key ~/keys/archive
  tradewind seal footage/ -o sealed/ --names --key-file ~/keys/archive";

/// Shown by `tradewind unseal --help`.
pub(crate) const UNSEAL_HELP: &str = "\
Without -o, FILE.sealed becomes FILE beside it and is then removed, unless --keep is given. With
-o, what is sealed stays, and names are as `tradewind send` makes them, those of directories
included, without '.sealed'. In directories, files that are not sealed are left out. A file has
its name only once it is complete, authentic and on disk. Exit code 3: the passphrase or key is
not the right one, and nothing was written; 7: some files are damaged or could not be written,
all others are there.

Examples:
  tradewind unseal report.pdf.sealed
  tradewind unseal sealed/ -o footage/ --key-file ~/keys/archive";

/// `tradewind seal`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SealOptions {
    #[command(flatten)]
    pub(crate) files: FileOptions,
    /// Seal names too.
    #[arg(long)]
    pub(crate) names: bool,
    #[command(flatten)]
    pub(crate) key: SealKeyOptions,
}

/// `tradewind unseal`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UnsealOptions {
    #[command(flatten)]
    pub(crate) files: FileOptions,
    /// Do not remove the sealed files.
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) key: SealKeyOptions,
}

/// Which files, and where to.
#[derive(Debug, Clone, Args)]
pub(crate) struct FileOptions {
    /// Files and directories.
    #[arg(value_name = "PATH", required = true, num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,
    /// Where to: a directory, or for one file the name of the result. Default: beside each file.
    #[arg(long, short, value_name = "DIR|FILE", value_hint = ValueHint::AnyPath)]
    pub(crate) output: Option<PathBuf>,
    /// Replace files that exist.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// `tradewind seal-key`.
#[derive(Debug, Args)]
pub(crate) struct SealKeyFileOptions {
    /// The file to make. Only you will be able to read it.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}

/// Makes a key file.
pub(crate) fn seal_key(options: &SealKeyFileOptions) -> Result<u8, Failure> {
    let id = tradewind_seal::create_key_file(&options.file)
        .map_err(|error| Failure::Usage { detail: error.to_string(), hint: "name a new file where you may write".to_owned() })?;
    display::result(&format!(
        "made the key {id} in {}; keep a copy elsewhere, what it seals cannot be opened without",
        options.file.display()
    ));
    Ok(exit::OK)
}

/// Seals files.
pub(crate) async fn seal(options: SealOptions) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::new()?;
    let found = find(&options.files, &mut interrupts).await?;
    if found.jobs.is_empty() && found.failed.is_empty() {
        return Err(no_files(&options.files));
    }
    let master = options.key.master_key(&mut interrupts).await?;
    run(found, &mut interrupts, "sealed", options.files.overwrite, move |job, outputs, stop| {
        seal_one(job, &master, options.names, outputs, stop)
    })
    .await
}

/// Unseals files.
pub(crate) async fn unseal(options: UnsealOptions) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::new()?;
    let found = find(&options.files, &mut interrupts).await?;
    let reading = interrupts.unless(tokio::task::spawn_blocking(move || read_headers(found))).await;
    let Headers { found, of_keys, unsealed } = reading.map_err(interrupted)?.map_err(|error| ended(&error))?;
    if unsealed > 0 {
        display::note(&format!("{} left out: not sealed", units::count(unsealed, "file", "files")));
    }
    if found.jobs.is_empty() && found.failed.is_empty() {
        return Err(no_files(&options.files));
    }
    let ring = if of_keys.is_empty() {
        KeyRing::new()
    } else if options.key.is_given() || of_keys.values().any(|(header, _)| *header.source() != KeySource::KeyFile) {
        options.key.key_ring(&mut interrupts).await?
    } else {
        // No passphrase opens any of them; whoever is asked for one would only be puzzled.
        KeyRing::new()
    };
    let checking = interrupts.unless(tokio::task::spawn_blocking(move || check_keys(&of_keys, &ring).map(|()| ring))).await;
    let ring = checking.map_err(interrupted)?.map_err(|error| ended(&error))??;
    let remove = options.files.output.is_none() && !options.keep;
    run(found, &mut interrupts, "unsealed", options.files.overwrite, move |job, outputs, stop| {
        let bytes = unseal_one(job, &ring, outputs, stop)?;
        if remove {
            std::fs::remove_file(&job.source)
                .map_err(|error| Problem::because(format!("it was unsealed, but the sealed file cannot be removed: {error}")))?;
        }
        Ok(Some(bytes))
    })
    .await
}

async fn find(options: &FileOptions, interrupts: &mut Interrupts) -> Result<Found, Failure> {
    let options = options.clone();
    interrupts
        .unless(tokio::task::spawn_blocking(move || find::find(&options)))
        .await
        .map_err(interrupted)?
        .map_err(|error| ended(&error))?
}

/// What the headers of all files say.
struct Headers {
    /// Without those that are not sealed.
    found: Found,
    /// A header and its file for each key.
    of_keys: HashMap<KeyId, (Header, PathBuf)>,
    /// Files in directories that are not sealed and do not look so.
    unsealed: u64,
}

/// Before anybody is asked for anything.
fn read_headers(mut found: Found) -> Headers {
    let (mut of_keys, mut unsealed) = (HashMap::new(), 0);
    let mut failed = Vec::new();
    found.jobs.retain(|job| match header_of(&job.source) {
        Ok(header) => {
            of_keys.entry(header.key_id()).or_insert_with(|| (header, job.source.clone()));
            true
        }
        Err(SealError::NotSealed) if !job.named && !looks_sealed(&job.source) => {
            unsealed += 1;
            false
        }
        Err(error) => {
            failed.push((job.source.clone(), Problem::from(error)));
            false
        }
    });
    found.failed.extend(failed);
    Headers { found, of_keys, unsealed }
}

/// An error if no file can be opened: then nothing is written at all. Files of other keys among those that can are told one by one.
fn check_keys(of_keys: &HashMap<KeyId, (Header, PathBuf)>, ring: &KeyRing) -> Result<(), Failure> {
    let mut first = None;
    for (header, path) in of_keys.values() {
        match ring.find(header) {
            Ok(_) => return Ok(()),
            Err(error) => drop(first.get_or_insert((error, path))),
        }
    }
    first.map_or(Ok(()), |(error, path)| match key_error(&error) {
        Failure::SealKey { detail, hint } => Err(Failure::SealKey { detail: format!("{}: {detail}", path.display()), hint }),
        other => Err(other),
    })
}

fn header_of(path: &Path) -> Result<Header, SealError> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    File::open(path)?.take(HEADER_BYTES as u64).read_to_end(&mut bytes)?;
    Header::parse(&bytes)
}

fn looks_sealed(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    name.ends_with(SUFFIX.as_bytes()) || tradewind_seal::looks_sealed(name)
}

/// Does all jobs, one after the other, and says how it went. A signal ends it between two frames, and leaves nothing incomplete.
async fn run(
    found: Found,
    interrupts: &mut Interrupts,
    done: &'static str,
    overwrite: bool,
    work: impl Fn(&Job, &mut Outputs, &AtomicBool) -> Result<Option<u64>, Problem> + Send + 'static,
) -> Result<u8, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let mut task = tokio::task::spawn_blocking(move || all(&found, done, overwrite, &stopped, work));
    let signal = match interrupts.unless(&mut task).await {
        Ok(result) => return result.map_err(|error| ended(&error))?,
        Err(signal) => signal,
    };
    stop.store(true, Ordering::Relaxed);
    // Whoever asks a second time does not wait for the disk.
    let _ = interrupts.unless(task).await;
    Err(interrupted(signal))
}

fn all(
    found: &Found,
    done: &'static str,
    overwrite: bool,
    stop: &AtomicBool,
    work: impl Fn(&Job, &mut Outputs, &AtomicBool) -> Result<Option<u64>, Problem>,
) -> Result<u8, Failure> {
    let mut outputs = Outputs::new(overwrite);
    let (mut files, mut bytes, mut skipped, mut failed, mut first) = (0, 0, 0, 0, None);
    let mut fail = |path: &Path, problem: &Problem| {
        let text = format!("{}: {problem}", path.display());
        display::note(&format!("left out: {text}"));
        failed += 1;
        first.get_or_insert(text);
    };
    found.failed.iter().for_each(|(path, problem)| fail(path, problem));
    for job in &found.jobs {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match work(job, &mut outputs, stop) {
            Ok(Some(size)) => {
                files += 1;
                bytes += size;
            }
            Ok(None) => skipped += 1,
            Err(problem) => fail(&job.source, &problem),
        }
    }
    if skipped > 0 {
        display::note(&format!("{} left out: sealed already", units::count(skipped, "file", "files")));
    }
    display::result(&format!("{done} {} ({})", units::count(files, "file", "files"), units::bytes(bytes)));
    first.map_or(Ok(exit::OK), |first| Err(Failure::Seal { files: failed, done, first }))
}

/// Seals one file; `None` if it is sealed already and nobody asked for it by its name. How many bytes it was.
fn seal_one(job: &Job, master: &MasterKey, names: bool, outputs: &mut Outputs, stop: &AtomicBool) -> Result<Option<u64>, Problem> {
    if header_of(&job.source).map_or_else(|error| !matches!(error, SealError::NotSealed | SealError::Io(_)), |_| true) {
        return if job.named { Err(Problem::because("it is sealed already")) } else { Ok(None) };
    }
    let file = File::open(&job.source)?;
    let before = file.metadata()?;
    let target = match &job.target {
        Some(target) => target.clone(),
        None if names => job.below(&master.seal_name(&job.name)?),
        None => job.below(&[job.name.as_slice(), SUFFIX.as_bytes()].concat()),
    };
    // Nothing here is resumed, so nothing need be the same again: not even equal frames can be told.
    let mut sealer = Sealer::new(master, &tradewind_seal::random_identity()?, before.len())?;
    let mut read = |offset, into: &mut [u8]| {
        check(stop)?;
        file.read_exact_at(into, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other("it became shorter while it was read"),
            _ => error,
        })
    };
    outputs.write(&target, &job.folders(), &before, |writer| {
        sealer.seal(&mut read, writer)?;
        let after = file.metadata()?;
        if (after.len(), after.modified()?) != (before.len(), before.modified()?) {
            return Err(Problem::because("it changed while it was read"));
        }
        Ok(())
    })?;
    Ok(Some(before.len()))
}

/// Reads the header of a file and leaves the file behind it.
fn open_sealed(path: &Path, ring: &KeyRing) -> Result<(File, Metadata, Unsealer), SealError> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let unsealer = Unsealer::from_reader(&mut file, ring)?;
    Ok((file, metadata, unsealer))
}

fn check_size(metadata: &Metadata, unsealer: &Unsealer) -> Result<(), Problem> {
    if metadata.len() == unsealer.sealed_size() {
        return Ok(());
    }
    Err(Problem::because(format!(
        "it has {} bytes where its header tells of {}; take another copy of the file",
        metadata.len(),
        unsealer.sealed_size()
    )))
}

/// Unseals one file; how many bytes it is now.
fn unseal_one(job: &Job, ring: &KeyRing, outputs: &mut Outputs, stop: &AtomicBool) -> Result<u64, Problem> {
    let (file, metadata, unsealer) = open_sealed(&job.source, ring)?;
    check_size(&metadata, &unsealer)?;
    let target = match &job.target {
        Some(target) => target.clone(),
        None => job.below(&unsealed_name(job, unsealer.master_key())?),
    };
    outputs.write(&target, &job.folders(), &metadata, |writer| {
        unsealer.unseal(&mut Stoppable { file, stop }, writer)?;
        Ok(())
    })?;
    Ok(unsealer.plain_size())
}

fn unsealed_name(job: &Job, master: &MasterKey) -> Result<Vec<u8>, Problem> {
    let name = plain_name(&job.name, master)?;
    if job.in_place && name == job.name {
        return Err(Problem::because(format!("its name does not end in '{SUFFIX}'; say with -o what to call the result")));
    }
    Ok(name)
}

/// The name of a sealed file's contents: components unsealed, or else without `.sealed`.
fn plain_name(path: &[u8], master: &MasterKey) -> Result<Vec<u8>, SealError> {
    let name = master.unseal_name(path)?;
    // A name that was sealed whole has its own ending back.
    let is_whole = tradewind_seal::looks_sealed(last_component(path));
    Ok(if is_whole { name } else { without_suffix(&name).to_vec() })
}

/// A name without `.sealed` behind it, unless nothing else is left.
fn without_suffix(name: &[u8]) -> &[u8] {
    name.strip_suffix(SUFFIX.as_bytes()).filter(|name| !last_component(name).is_empty()).unwrap_or(name)
}

fn last_component(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

/// A file that ends with an error once nobody wants it any more.
struct Stoppable<'a> {
    file: File,
    stop: &'a AtomicBool,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check(self.stop)?;
        self.file.read(buffer)
    }
}

fn check(stop: &AtomicBool) -> io::Result<()> {
    if stop.load(Ordering::Relaxed) { Err(io::Error::other("interrupted")) } else { Ok(()) }
}

fn interrupted(signal: crate::interrupt::Signal) -> Failure {
    Failure::Interrupted { signal, transfer_id: None }
}

fn no_files(options: &FileOptions) -> Failure {
    let places: Vec<_> = options.paths.iter().take(5).map(|path| path.display().to_string()).collect();
    Failure::NoFiles { places: places.join(", "), unselected: 0 }
}
