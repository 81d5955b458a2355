//! Asking directories for something all at once: a disk that does not answer costs its own answer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::error::StagingError;

/// How long directories have to answer when the engine starts. More than another engine gets to leave one, and a few of these are less than
/// the control process waits for an engine.
pub(crate) const START: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 12 });

/// A directory that may be there: its file system, and its number on that.
pub(crate) type Identity = (u64, u64);

/// Does this with each, in a thread for each, which is left behind if it has not ended in time. `jobs`: with the directories' names.
pub(crate) fn all<T: Send + 'static, R: Send + 'static>(
    jobs: Vec<(PathBuf, T)>,
    deadline: Instant,
    job: impl Fn(T) -> Result<R, StagingError> + Send + Sync + 'static,
) -> Vec<Result<R, StagingError>> {
    let (job, (tell, told)) = (Arc::new(job), mpsc::channel());
    let mut answers = Vec::new();
    for (number, (directory, with)) in jobs.into_iter().enumerate() {
        let (job, tell) = (Arc::clone(&job), tell.clone());
        let started = std::thread::Builder::new().name("staging-start".to_owned()).spawn(move || {
            // Who asked may have gone.
            drop(tell.send((number, job(with))));
        });
        let detail = match started {
            Ok(_) => "its disk does not answer; look at it (dmesg, smartctl)".to_owned(),
            Err(error) => format!("no thread can be started: {error}"),
        };
        answers.push(Err(StagingError::Directory { directory, detail }));
    }
    drop(tell);
    while let Ok((number, answer)) = told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        answers[number] = answer;
    }
    answers
}

/// Which file system a directory is on, and which one it is there.
pub(crate) fn identity(directory: &Path) -> Result<Identity, StagingError> {
    let stat = rustix::fs::stat(directory)
        .map_err(|errno| StagingError::Directory { directory: directory.to_owned(), detail: errno.to_string() })?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Refuses this directory if it is one of these.
pub(crate) fn named_once<'a>(
    directory: &Path,
    identity: Identity,
    mut others: impl Iterator<Item = (&'a Path, Identity)>,
) -> Result<(), StagingError> {
    let Some((other, _)) = others.find(|(_, there)| *there == identity) else { return Ok(()) };
    let detail = format!("it is named twice, also as {}; name one directory for each disk", other.display());
    Err(StagingError::Directory { directory: directory.to_owned(), detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_does_not_answer_costs_its_own_answer() {
        let (hold, held) = mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let began = Instant::now();
        let jobs = ["/a", "/b", "/c"].map(|name| (PathBuf::from(name), name)).into();
        let answers = all(jobs, began + Duration::from_millis(300), move |name| {
            if name == "/b" {
                let _ = held.lock().unwrap().recv();
            }
            Ok(name)
        });
        assert!(began.elapsed() < Duration::from_secs(20));
        let texts: Vec<_> = answers.into_iter().map(|answer| answer.map_or_else(|error| error.to_string(), str::to_owned)).collect();
        assert!(texts[0] == "/a" && texts[1].contains("/b") && texts[1].contains("does not answer") && texts[2] == "/c", "{texts:?}");
        drop(hold);
    }

    #[test]
    fn a_directory_is_known_by_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two, link) = (folder.path().join("one"), folder.path().join("two"), folder.path().join("link"));
        std::fs::create_dir(&one).unwrap();
        std::fs::create_dir(&two).unwrap();
        std::os::unix::fs::symlink(&one, &link).unwrap();
        let known = [(one.as_path(), identity(&one).unwrap())];
        assert!(named_once(&two, identity(&two).unwrap(), known.into_iter()).is_ok());
        let error = named_once(&link, identity(&link).unwrap(), known.into_iter()).unwrap_err().to_string();
        assert!(
            error.contains(link.to_str().unwrap()) && error.contains("named twice") && error.contains(one.to_str().unwrap()),
            "{error}"
        );
    }
}
