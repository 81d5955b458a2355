//! The files of a directory, and the thread that removes them: a disk that does not answer stops it and nobody else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime};

use super::lock;

/// Who has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// A lane that is over.
    Nobody,
    /// A lane of this process writes there.
    Lane,
    /// It is being removed.
    Keeper,
}

/// What the thread is asked for.
#[derive(Debug)]
enum Job {
    /// With what is to be closed behind that.
    Remove(String, Option<Arc<OwnedFd>>),
    Close(File),
    /// Remove what nobody has gone on with for so long, if anything, and tell how many files that were: everything before is done then.
    Look {
        after: Option<Duration>,
        number: usize,
        tell: mpsc::Sender<(usize, usize)>,
    },
}

/// The handle. When it is dropped, the thread ends after what it was asked for.
#[derive(Debug)]
pub(super) struct Keeper {
    files: Arc<Files>,
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Files {
    directory: PathBuf,
    /// By their names. The lock is not held while the disk is asked for something.
    owners: Mutex<BTreeMap<String, Owner>>,
    /// Held as long as files are removed.
    _lock: File,
}

impl Keeper {
    /// `names`: what earlier processes left.
    pub(super) fn start(directory: PathBuf, names: impl Iterator<Item = String>, lock: File) -> io::Result<Self> {
        let owners = Mutex::new(names.map(|name| (name, Owner::Nobody)).collect());
        let files = Arc::new(Files { directory, owners, _lock: lock });
        let (jobs, asked) = mpsc::channel();
        let of_thread = Arc::clone(&files);
        std::thread::Builder::new().name("staging-keeper".to_owned()).spawn(move || {
            while let Ok(job) = asked.recv() {
                match job {
                    Job::Remove(name, file) => {
                        of_thread.unlink(&name);
                        drop(file);
                    }
                    Job::Close(file) => drop(file),
                    Job::Look { after, number, tell } => {
                        let removed = after.map_or(0, |after| of_thread.expire(after));
                        // Who asked may have gone.
                        let _ = tell.send((number, removed));
                    }
                }
            }
        })?;
        Ok(Self { files, jobs })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.files.directory
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        lock(&self.files.owners).len()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        lock(&self.files.owners).contains_key(name)
    }

    /// A lane's file is to be made, if there are fewer than that.
    pub(super) fn add(&self, name: &str, max: usize) -> bool {
        let mut owners = lock(&self.files.owners);
        let has_room = owners.len() < max;
        if has_room {
            owners.insert(name.to_owned(), Owner::Lane);
        }
        has_room
    }

    /// Files of lanes that are over.
    pub(super) fn over(&self, prefix: &str) -> Vec<String> {
        self.files.over(prefix)
    }

    /// No lane writes to these any more.
    pub(super) fn are_over<'a>(&self, names: impl Iterator<Item = &'a String>) {
        let mut owners = lock(&self.files.owners);
        for name in names {
            if let Some(owner) = owners.get_mut(name).filter(|owner| **owner == Owner::Lane) {
                *owner = Owner::Nobody;
            }
        }
    }

    /// Has it removed soon. Until then its room counts, and nobody reads it.
    pub(super) fn remove(&self, name: &str, file: Option<Arc<OwnedFd>>) {
        if self.files.claim(name) {
            let _ = self.jobs.send(Job::Remove(name.to_owned(), file));
        }
    }

    pub(super) fn close(&self, file: File) {
        let _ = self.jobs.send(Job::Close(file));
    }

    pub(super) fn look(&self, after: Option<Duration>, number: usize, tell: mpsc::Sender<(usize, usize)>) {
        let _ = self.jobs.send(Job::Look { after, number, tell });
    }
}

impl Files {
    fn over(&self, prefix: &str) -> Vec<String> {
        let owners = lock(&self.owners);
        owners.iter().filter(|(name, owner)| name.starts_with(prefix) && **owner == Owner::Nobody).map(|(name, _)| name.clone()).collect()
    }

    /// False if it is being removed already, or was.
    fn claim(&self, name: &str) -> bool {
        let mut owners = lock(&self.owners);
        let claimed = owners.get_mut(name).filter(|owner| **owner != Owner::Keeper);
        claimed.map(|owner| *owner = Owner::Keeper).is_some()
    }

    fn unlink(&self, name: &str) {
        match std::fs::remove_file(self.directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(%error, name, "kept blocks cannot be removed"),
            _ => {}
        }
        lock(&self.owners).remove(name);
    }

    fn expire(&self, after: Duration) -> usize {
        let age = |name: &String| {
            let changed = std::fs::metadata(self.directory.join(name)).and_then(|meta| meta.modified()).ok()?;
            SystemTime::now().duration_since(changed).ok()
        };
        let mut old = self.over("");
        old.retain(|name| age(name).is_some_and(|age| age > after) && self.claim(name));
        old.iter().for_each(|name| self.unlink(name));
        old.len()
    }
}
