//! The manifest of a lane's transfer: a line for each file that is durable, written beside the transfer by a thread of its own.
//!
//! A manifest gets its name when its lane has ended; what an engine that died left unfinished is removed by the next one. One that cannot be
//! written is given up and logged: the transfer does not depend on it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tradewind_integrity::{ManifestLine, time};
use tradewind_storage::{Durable, UploadEvent, name};

/// Where manifests lie in the state directory. The control process reads them there and removes them.
const FOLDER: &str = "manifests";
/// Largest manifest, bytes: some ten million files.
const MANIFEST_BYTES_MAX: u64 = 4 << 30;
/// How long the last lines may take to reach the disk.
const FINISH_TIMEOUT: Duration = Duration::from_secs(30);

enum Entry {
    Line(Box<ManifestLine>),
    /// Forget all lines so far.
    Restart,
    /// No more lines come.
    Finish(oneshot::Sender<()>),
}

/// A manifest under way. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Manifest {
    entries: Sender<Entry>,
}

/// Makes the folder, and removes what an earlier engine left unfinished.
pub(crate) fn prepare(state: &Path) -> io::Result<()> {
    let folder = state.join(FOLDER);
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "partial") {
            match fs::remove_file(path) {
                // One whose transfer has just removed it.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

impl Manifest {
    /// Begins the manifest of a transfer. `None`, and a line in the log, if no thread can be started.
    pub(crate) fn begin(state: &Path, transfer_id: &str) -> Option<Self> {
        let is_plain = !transfer_id.is_empty() && transfer_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let path = state.join(FOLDER).join(format!("{transfer_id}.ndjson"));
        let (entries, inbox) = channel();
        let write = move || {
            let partial = path.with_extension("partial");
            let written =
                if is_plain { write(&partial, &path, &inbox) } else { Err(io::Error::other("the transfer's id is no name of a file")) };
            match written {
                Ok(true) => {}
                // Nothing may be there yet.
                Ok(false) => drop(fs::remove_file(&partial)),
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "a manifest could not be written; the transfer goes on without");
                    let _ = fs::remove_file(&partial);
                    // Whoever waits for it need not.
                    for entry in inbox {
                        if let Entry::Finish(done) = entry {
                            let _ = done.send(());
                        }
                    }
                }
            }
        };
        match thread::Builder::new().name("manifest".to_owned()).spawn(write) {
            Ok(_) => Some(Self { entries }),
            Err(error) => {
                tracing::error!(%error, "no thread for a manifest; the transfer goes on without");
                None
            }
        }
    }

    /// A file that was durable before.
    pub(crate) fn already(&self, durable: &Durable) {
        if let Durable::File { path, size, mtime_ns, key, crc, etag, .. } = durable {
            let etag = etag.clone();
            let mut line = ManifestLine { etag, already: true, ..line(path, key.as_bytes(), *size, *mtime_ns) };
            line.set_crc64(crc.0);
            self.tell(Entry::Line(Box::new(line)));
        }
    }

    /// A file that was stored.
    pub(crate) fn stored(&self, event: &UploadEvent) {
        if let UploadEvent::FileDone { path, key, size, mtime_ns, attributes, etag, version_id, crc64, verified_by_store, .. } = event {
            let (etag, version_id) = (etag.clone(), version_id.clone());
            let mut line =
                ManifestLine { etag, version_id, verified_by_store: *verified_by_store, ..line(path, key.as_bytes(), *size, *mtime_ns) };
            line.set_crc64(crc64.0);
            line.take_checksums(attributes);
            self.tell(Entry::Line(Box::new(line)));
        }
    }

    /// Forgets all lines so far.
    pub(crate) fn restart(&self) {
        self.tell(Entry::Restart);
    }

    /// Waits until it has its name.
    pub(crate) async fn finish(self) {
        let (done, finished) = oneshot::channel();
        self.tell(Entry::Finish(done));
        if tokio::time::timeout(FINISH_TIMEOUT, finished).await.is_err() {
            tracing::error!("a manifest was not written within {} s", FINISH_TIMEOUT.as_secs());
        }
    }

    fn tell(&self, entry: Entry) {
        // The thread ends only with this.
        let _ = self.entries.send(entry);
    }
}

fn line(path: &[u8], key: &[u8], size: u64, mtime_ns: i64) -> ManifestLine {
    let mtime = Some(time::rfc3339(mtime_ns));
    ManifestLine { size, mtime, ..ManifestLine::named(path, text(path), text(key)) }
}

/// A name as text: as it is, or as stores that take only text get it.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(&name::encode(bytes)).into_owned(),
    }
}

/// Writes entries as they come; false if nobody wants the manifest any more.
fn write(partial: &Path, path: &Path, inbox: &Receiver<Entry>) -> io::Result<bool> {
    // Names of files are their users' business.
    let mut out = BufWriter::new(File::options().write(true).create(true).truncate(true).mode(0o600).open(partial)?);
    let mut bytes = 0;
    for entry in inbox {
        match entry {
            Entry::Line(line) => {
                let mut text = serde_json::to_vec(&line)?;
                text.push(b'\n');
                bytes += text.len() as u64;
                if bytes > MANIFEST_BYTES_MAX {
                    return Err(io::Error::other(format!("it has more than {MANIFEST_BYTES_MAX} bytes")));
                }
                out.write_all(&text)?;
            }
            Entry::Restart => {
                bytes = 0;
                out.rewind()?;
                out.get_ref().set_len(0)?;
            }
            Entry::Finish(done) => {
                out.flush()?;
                out.get_ref().sync_data()?;
                fs::rename(partial, path)?;
                let _ = done.send(());
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tradewind_storage::{Crc64, ObjectKey};

    use super::*;

    fn durable(name: &[u8]) -> Durable {
        let key = ObjectKey::new(&[b"in/", name].concat()).unwrap();
        Durable::File { path: name.to_vec(), size: 3, mtime_ns: 5, key, crc: Crc64::of(b"abc"), etag: None, samples: Vec::new() }
    }

    fn done(name: &str) -> UploadEvent {
        UploadEvent::FileDone {
            file: 0,
            path: name.as_bytes().to_vec(),
            key: ObjectKey::new(name.as_bytes()).unwrap(),
            size: 7,
            mtime_ns: 0,
            attributes: Arc::new([("sha256".to_owned(), "ab".repeat(32)), ("uid".to_owned(), "0".to_owned())]),
            etag: Some("e".to_owned()),
            version_id: Some("v".to_owned()),
            crc64: Crc64(1),
            verified_by_store: true,
        }
    }

    fn lines(path: &Path) -> Vec<ManifestLine> {
        fs::read(path)
            .unwrap()
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| ManifestLine::parse(line).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn lines_are_there_when_it_is_finished_and_nothing_when_it_is_not() {
        let state = tempfile::tempdir().unwrap();
        prepare(state.path()).unwrap();
        let manifest = Manifest::begin(state.path(), "t1").unwrap();
        manifest.already(&durable(b"dropped"));
        manifest.restart();
        manifest.already(&durable(b"caf\xe9"));
        manifest.stored(&done("b"));
        manifest.finish().await;
        let lines = lines(&state.path().join("manifests/t1.ndjson"));
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].path.as_str(), lines[0].already), ("caf\u{201b}E9", true));
        assert_eq!((lines[0].path_bytes().as_deref(), lines[0].key.as_str()), (Some(&b"caf\xe9"[..]), "in/caf\u{201b}E9"));
        assert_eq!((lines[0].mtime.as_deref(), lines[0].crc64()), (Some("1970-01-01T00:00:00.000000005Z"), Some(Crc64::of(b"abc").0)));
        assert_eq!(
            (&lines[1].sha256, lines[1].version_id.as_deref(), lines[1].verified_by_store),
            (&Some("ab".repeat(32)), Some("v"), true)
        );
        drop(Manifest::begin(state.path(), "t2"));
        fs::write(state.path().join("manifests/t3.partial"), "rest").unwrap();
        let names = || fs::read_dir(state.path().join("manifests")).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        // Its thread may begin only now.
        for _ in 0..50 {
            prepare(state.path()).unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(names(), ["t1.ndjson"]);
    }

    #[tokio::test]
    async fn one_that_cannot_be_written_keeps_nobody_waiting() {
        let state = tempfile::tempdir().unwrap();
        for id in ["no-folder", "../up", ""] {
            let manifest = Manifest::begin(state.path(), id).unwrap();
            manifest.stored(&done("a"));
            tokio::time::timeout(Duration::from_secs(30), manifest.finish()).await.expect("it waits");
        }
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
    }
}
