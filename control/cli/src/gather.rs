//! Walks the sources on a thread of its own while what was found before is being sent.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tradewind_client::{Found, Source, SourceError, SourceNote, Sources};

use crate::events;
use crate::failure::Failure;
use crate::sources::{NAMES_AT_ONCE, Plan, Walked, walk_with};

/// Files found ahead of the reader, beside what each walking thread holds ([`NAMES_AT_ONCE`]).
const FOUND_AHEAD: usize = 4096;
/// Threads that walk. They wait for the file system, or for the reader, rather than compute.
const WALK_THREADS: usize = 8;
/// How long the walk is waited for once it has found something, so that small trees are announced with their totals.
const PATIENCE: Duration = Duration::from_millis(300);
/// Files after which it is not waited for any more.
const HEAD_FILES: usize = 2048;
/// Remarks of one kind printed for people; the rest is only counted.
const NOTES_MAX: u64 = 100;

/// What is not sent, and why.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    /// Files that should have been sent and could not be.
    pub(crate) failed: AtomicU64,
    /// What is not sent by its nature.
    pub(crate) skipped: AtomicU64,
    /// Files that the selection leaves out.
    pub(crate) unselected: AtomicU64,
    /// Things of files that cannot be kept, though the files are sent.
    pub(crate) unkept: AtomicU64,
    first: Mutex<Option<SourceError>>,
}

/// Where remarks go.
#[derive(Debug, Clone)]
pub(crate) enum Notes {
    /// JSON events.
    Events,
    /// Lines for people.
    Lines(UnboundedSender<String>),
    /// Nowhere.
    Quiet,
}

impl LeftOut {
    /// A file cannot be sent.
    pub(crate) fn fail(&self, error: SourceError, notes: &Notes) {
        let number = self.failed.fetch_add(1, Relaxed);
        match notes {
            Notes::Events => events::emit(&events::file_error(&error)),
            Notes::Lines(lines) if number < NOTES_MAX => drop(lines.send(format!("left out: {error}"))),
            Notes::Lines(lines) if number == NOTES_MAX => drop(lines.send("more files are left out; they are counted only".to_owned())),
            Notes::Lines(_) | Notes::Quiet => {}
        }
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn skip(&self, why: String, notes: &Notes) {
        let number = self.skipped.fetch_add(1, Relaxed);
        match notes {
            Notes::Lines(lines) if number < NOTES_MAX => drop(lines.send(why)),
            Notes::Lines(lines) if number == NOTES_MAX => drop(lines.send("more is skipped; it is counted only".to_owned())),
            Notes::Events | Notes::Lines(_) | Notes::Quiet => {}
        }
    }

    /// Something of a file cannot be kept; the file is sent.
    pub(crate) fn note(&self, note: &SourceNote, notes: &Notes) {
        let number = self.unkept.fetch_add(1, Relaxed);
        match notes {
            Notes::Events => events::emit(&events::file_note(note)),
            Notes::Lines(lines) if number < NOTES_MAX => drop(lines.send(format!("{}: {}", note.path.display(), note.what))),
            Notes::Lines(lines) if number == NOTES_MAX => drop(lines.send("more is not kept of files; it is counted only".to_owned())),
            Notes::Lines(_) | Notes::Quiet => {}
        }
    }

    /// What the command ends with because of the files that could not be sent, if there are any. `others`: there were others that could.
    pub(crate) fn failure(&self, others: bool) -> Option<Failure> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let files = self.failed.load(Relaxed);
        Some(if files == 1 && !others { Failure::Source(first) } else { Failure::LeftOut { files, first } })
    }
}

/// A walk under way.
pub(crate) struct Gathering {
    /// Some at a time: a file of its own would cost a change of threads.
    files: Receiver<Vec<Source>>,
    found: Arc<Found>,
    ended: Arc<AtomicBool>,
}

/// What is known of the sources when the transfer is submitted.
pub(crate) struct Head {
    /// To be sent.
    pub(crate) sources: Sources,
    /// Files and bytes in all, if the walk has ended.
    pub(crate) totals: Option<(u64, u64)>,
    /// Bytes found so far.
    pub(crate) bytes: u64,
    /// Nothing was found.
    pub(crate) is_empty: bool,
}

impl Gathering {
    /// Begins to walk.
    ///
    /// # Errors
    /// [`Failure::Local`] when no thread can be started.
    pub(crate) fn start(plan: &Arc<Plan>, left_out: &Arc<LeftOut>, notes: &Notes) -> Result<Self, Failure> {
        let (out, files) = sync_channel(FOUND_AHEAD / NAMES_AT_ONCE);
        let (found, ended) = (Arc::new(Found::default()), Arc::new(AtomicBool::new(false)));
        let (plan, left_out, notes) = (Arc::clone(plan), Arc::clone(left_out), notes.clone());
        let (counted, at_end) = (Arc::clone(&found), Arc::clone(&ended));
        let walking = move || {
            let is_wanted = AtomicBool::new(true);
            walk_with(&plan, WALK_THREADS, &|found| {
                let mut files = Vec::with_capacity(found.len());
                for walked in found {
                    match walked {
                        Walked::File { source, bytes } => {
                            counted.files.fetch_add(1, Relaxed);
                            counted.bytes.fetch_add(bytes, Relaxed);
                            files.push(source);
                        }
                        Walked::Skipped(why) => left_out.skip(why, &notes),
                        Walked::Unselected => drop(left_out.unselected.fetch_add(1, Relaxed)),
                        Walked::Failed(error) => left_out.fail(error, &notes),
                    }
                }
                if !files.is_empty() && out.send(files).is_err() {
                    // The transfer has ended before the walk.
                    is_wanted.store(false, Relaxed);
                }
                is_wanted.load(Relaxed)
            });
            at_end.store(is_wanted.into_inner(), Relaxed);
        };
        thread::Builder::new()
            .name("source-walk".to_owned())
            .spawn(walking)
            .map_err(|error| Failure::Local { what: "cannot start the walking thread", detail: error.to_string() })?;
        Ok(Self { files, found, ended })
    }

    /// Waits for the first files, and a moment for the last; blocks. `to_the_end`: until the walk has ended.
    pub(crate) fn head(self, to_the_end: bool) -> Head {
        let Self { files, found, ended } = self;
        let (mut first, mut first_at) = (Vec::new(), None::<Instant>);
        let is_complete = loop {
            let patience = match first_at {
                Some(at) if !to_the_end => PATIENCE.saturating_sub(at.elapsed()),
                _ => PATIENCE,
            };
            match files.recv_timeout(patience) {
                Ok(some) => {
                    first_at.get_or_insert_with(Instant::now);
                    first.extend(some);
                }
                Err(RecvTimeoutError::Disconnected) => break ended.load(Relaxed),
                Err(RecvTimeoutError::Timeout) if first.is_empty() || to_the_end => {}
                Err(RecvTimeoutError::Timeout) => break false,
            }
            if first.len() >= HEAD_FILES && !to_the_end {
                break false;
            }
        };
        let bytes = found.bytes.load(Relaxed);
        let totals = is_complete.then_some((first.len() as u64, bytes));
        let is_empty = first.is_empty();
        Head { sources: Sources::new(first.into_iter().chain(files.into_iter().flatten()), found), totals, bytes, is_empty }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::lists::ListOptions;
    use crate::select::Selection;
    use crate::select::tests::options;

    fn plan(root: &std::path::Path) -> Arc<Plan> {
        let selection = Selection::new(&options(&["*.tmp"], &[])).unwrap();
        Arc::new(Plan::new(&[root.to_owned()], &ListOptions::default(), "s3://bucket/in/", selection).unwrap())
    }

    #[test]
    fn a_small_tree_is_known_before_it_is_announced_and_a_large_one_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        for name in 0..10 {
            fs::write(root.path().join(format!("{name}")), [0; 7]).unwrap();
        }
        fs::write(root.path().join("x.tmp"), [0; 7]).unwrap();
        // A machine that stands still for a moment may do so while the walk is waited for.
        let mut heads = (0..4).map(|_| {
            let left_out = Arc::default();
            let head = Gathering::start(&plan(root.path()), &left_out, &Notes::Quiet).unwrap().head(false);
            let known = (head.totals, head.bytes, head.is_empty, left_out.unselected.load(Relaxed));
            println!("{known:?}");
            known
        });
        assert!(heads.any(|known| known == (Some((10, 70)), 70, false, 1)));
        for name in 0..HEAD_FILES + 2 * FOUND_AHEAD + 10 {
            fs::write(root.path().join(format!("n{name}")), []).unwrap();
        }
        let head = Gathering::start(&plan(root.path()), &Arc::default(), &Notes::Quiet).unwrap().head(false);
        assert_eq!(head.totals, None, "memory is bounded, so the walk cannot have ended");
        drop(head);
        let head = Gathering::start(&plan(root.path()), &Arc::default(), &Notes::Quiet).unwrap().head(true);
        assert_eq!(head.totals, Some(((HEAD_FILES + 2 * FOUND_AHEAD + 20) as u64, 70)));
    }

    #[test]
    fn what_cannot_be_sent_is_counted_and_the_first_of_it_named() {
        let left_out = LeftOut::default();
        assert!(left_out.failure(true).is_none());
        left_out.fail(SourceError::NotAFile { path: "a".into() }, &Notes::Quiet);
        assert!(matches!(left_out.failure(false), Some(Failure::Source(_))));
        left_out.fail(SourceError::NotAFile { path: "b".into() }, &Notes::Quiet);
        let failure = left_out.failure(true).unwrap();
        assert_eq!(failure.exit_code(), tradewind_api::exit::SOURCE);
        assert!(failure.to_string().contains("2 files"), "{failure}");
    }
}
