//! Data by Hadoop's own protocol: calls to a NameNode's RPC port, and blocks to and from DataNodes, which keep and check CRC-32C of every 512 bytes.
//!
//! The crate `hdfs-native` speaks it. It puts no deadline on a NameNode, and what it begins for a file that is written (a renewer of leases,
//! heartbeats) goes on when the writer is dropped. So each file is written in a runtime of its own, which ends all of it.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use hdfs_native::{ClientBuilder, HdfsError, WriteOptions};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};

use super::Create;
use super::client::Asking;
use super::config::{HdfsAuth, HdfsConfig};
use super::errors::Refusal;
use crate::asked::Asked;
use crate::checksum::{Crc64, RunningCrc64};
use crate::error::StoreError;
use crate::reading::ends_early;
use crate::rest::same_crc;
use crate::retry::Deadlines;
use crate::store::Body;

/// How long a NameNode may take.
const NAMENODE_DEADLINE: Duration = Duration::from_secs(30);
/// How long a DataNode may be silent before another one is tried (`dfs.client.socket-timeout`), milliseconds.
const DATANODE_SILENCE_MS: u64 = 30_000;
/// How long data may stand still: long enough that a second DataNode can be tried.
const STILL_DEADLINE: Duration = Duration::from_secs(90);
/// What is handed over at once, bytes: it has to get through within [`STILL_DEADLINE`].
const PIECE_BYTES: usize = 1 << 20;
/// What may still be on its way when a file is closed, bytes: two queues of 100 packets of 64 KiB (`hdfs-native`).
const QUEUED_BYTES: u64 = 2 * 100 * (64 << 10);
/// How long a DataNode takes to tell a NameNode of a block, more or less.
const REPORT_PAUSE: Duration = Duration::from_millis(10);
/// A directory that holds no configuration, and cannot: what is not said is not looked for in `HADOOP_CONF_DIR` and `HADOOP_HOME`.
const NO_DIRECTORY: &str = "/dev/null/none";

/// Who is late with data.
const DATANODE: &str = "a DataNode, or the NameNode that was to tell of one,";

/// The NameNodes of a cluster by their RPC ports.
#[derive(Debug)]
pub(super) struct Rpc {
    addresses: Vec<String>,
    user: String,
    /// The one that answered last.
    active: AtomicUsize,
}

/// What went wrong.
#[derive(Debug)]
enum Failed {
    /// It is a NameNode that could not be asked, or refused.
    Namenode(HdfsError),
    Hdfs(HdfsError),
    /// Who did not answer in time.
    Late(&'static str),
    /// The bytes that were sent have another CRC-64 than the source's.
    Crc(Crc64),
    /// The file ends before what was to be read does.
    Short,
    /// What came cannot be.
    Nonsense,
}

impl From<HdfsError> for Failed {
    fn from(error: HdfsError) -> Self {
        Self::Hdfs(error)
    }
}

/// A file to be written.
struct Write {
    path: String,
    options: WriteOptions,
    chunks: Vec<Bytes>,
    crc: Crc64,
}

impl Rpc {
    /// `None` where all goes by WebHDFS. The configuration has been checked.
    pub(super) fn new(config: &HdfsConfig) -> Option<Arc<Self>> {
        let HdfsAuth::User(user) = &config.auth else { return None };
        let (addresses, user) = (config.rpc_addresses.clone(), user.clone());
        (!addresses.is_empty()).then(|| Arc::new(Self { addresses, user, active: AtomicUsize::new(0) }))
    }

    /// Creates a file that DataNodes have all of, and that is closed.
    pub(super) async fn write(self: &Arc<Self>, asked: Asked<'_>, create: &Create<'_>, body: &Body) -> Result<(), StoreError> {
        let mut options = WriteOptions::default().permission(create.mode).overwrite(false).create_parent(true);
        options.block_size = create.block_bytes;
        let write = Write { path: create.path.to_owned(), options, chunks: body.chunks().to_vec(), crc: body.crc() };
        let rpc = Arc::clone(self);
        let written = in_a_runtime_of_its_own(async move { rpc.write_all(write).await }).await;
        written.unwrap_or(Err(Failed::Nonsense)).map_err(|failed| failed.error(&asked, body.crc()))
    }

    async fn write_all(&self, write: Write) -> Result<(), Failed> {
        let (path, options) = (&write.path, &write.options);
        let mut writer = self.ask(|client| async move { client.create(path, options).await }).await?;
        for chunk in &write.chunks {
            for at in (0..chunk.len()).step_by(PIECE_BYTES) {
                let piece = chunk.slice(at..chunk.len().min(at + PIECE_BYTES));
                timeout(STILL_DEADLINE, writer.write_bytes(piece)).await.map_err(|_| Failed::Late(DATANODE))??;
            }
        }
        let closing = Deadlines::default().for_bytes(QUEUED_BYTES);
        timeout(closing, unhurried(writer.close())).await.map_err(|_| Failed::Late(DATANODE))??;
        // DataNodes have compared what they got with CRC-32C, which was computed before this.
        let mut crc = RunningCrc64::default();
        write.chunks.iter().for_each(|chunk| crc.update(chunk));
        if crc.finish() == write.crc { Ok(()) } else { Err(Failed::Crc(crc.finish())) }
    }

    /// The bytes of a range, whose checksums were right.
    pub(super) async fn read(self: &Arc<Self>, asked: Asked<'_>, path: String, range: Range<u64>) -> Result<Vec<Bytes>, StoreError> {
        let range = usize::try_from(range.start).and_then(|start| Ok(start..usize::try_from(range.end)?));
        let (rpc, range) = (Arc::clone(self), range.map_err(|_| ends_early(asked.object))?);
        // What is wrong with an answer may make the crate panic, and then only this task.
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { rpc.read_range(&path, range).await });
        match tasks.join_next().await {
            Some(Ok(Ok(bytes))) => Ok(bytes),
            Some(Ok(Err(failed))) => Err(failed.error(&asked, Crc64::default())),
            Some(Err(_)) | None => Err(Failed::Nonsense.error(&asked, Crc64::default())),
        }
    }

    async fn read_range(&self, path: &str, range: Range<usize>) -> Result<Vec<Bytes>, Failed> {
        let reader = self.ask(|client| async move { client.read(path).await }).await?;
        // It panics where a file is shorter than what is asked for.
        if reader.file_length() < range.end {
            return Err(Failed::Short);
        }
        let (mut chunks, mut left) = (Vec::new(), range.len());
        let mut stream = Box::pin(reader.read_range_stream(range.start, range.len()));
        while left > 0 {
            let chunk = timeout(STILL_DEADLINE, stream.next()).await.map_err(|_| Failed::Late(DATANODE))?;
            let chunk = chunk.ok_or(Failed::Nonsense)??;
            left = left.checked_sub(chunk.len()).ok_or(Failed::Nonsense)?;
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    /// Asks the NameNodes one after the other, from the one on that answered last. Only what changes nothing when it is asked twice, or has a name
    /// that is used once.
    async fn ask<T, F>(&self, what: impl Fn(hdfs_native::Client) -> F) -> Result<T, Failed>
    where
        F: Future<Output = hdfs_native::Result<T>>,
    {
        let (first, count) = (self.active.load(Ordering::Relaxed), self.addresses.len());
        let mut failed = Failed::Late("there is no NameNode that");
        for at in (first..first + count).map(|at| at % count) {
            let mut asking = Asking::new(&self.active, (at + 1) % count);
            let client = self.client(&self.addresses[at])?;
            match timeout(NAMENODE_DEADLINE, what(client)).await {
                Ok(Ok(answer)) => {
                    asking.has_answered();
                    self.active.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) if is_elsewhere(&error) => failed = Failed::Namenode(error),
                Ok(Err(error)) => {
                    if !matches!(error, HdfsError::IOError(_)) {
                        asking.has_answered();
                    }
                    return Err(Failed::Namenode(error));
                }
                Err(_) => return Err(Failed::Late("a NameNode")),
            }
        }
        Err(failed)
    }

    fn client(&self, address: &str) -> Result<hdfs_native::Client, HdfsError> {
        let silence_ms = DATANODE_SILENCE_MS.to_string();
        let settings = [("dfs.client.failover.max.attempts", "0"), ("dfs.client.socket-timeout", &silence_ms)];
        let builder = ClientBuilder::new().with_url(format!("hdfs://{address}")).with_user(&self.user);
        builder.with_config_dir(NO_DIRECTORY).with_config(settings).build()
    }
}

/// Runs it on another thread. It ends, with all that it has begun, when it is done or nobody waits for it any more; `None`: it panicked.
async fn in_a_runtime_of_its_own<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let (mut answer, answered) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
        let done = runtime.block_on(async {
            tokio::select! {
                done = work => Some(done),
                () = answer.closed() => None,
            }
        });
        // Without waiting for a look-up of a name.
        runtime.shutdown_background();
        done.map(|done| answer.send(done));
    });
    answered.await.ok()
}

/// Polls it only some time after it was woken. `FileWriter::close` asks the NameNode to complete a file in the moment in which DataNodes have all of it,
/// and asks again half a second later; DataNodes tell the NameNode within that pause.
async fn unhurried<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut pause: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        let waiting = pause.get_or_insert_with(|| Box::pin(sleep(REPORT_PAUSE)));
        ready!(waiting.as_mut().poll(context));
        pause = None;
        work.as_mut().poll(context)
    })
    .await
}

/// Whether another NameNode may do what this one does not: it said so, or there was no connection to it.
fn is_elsewhere(error: &HdfsError) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    match error {
        HdfsError::RPCError(exception, words) => Refusal::of_call(exception, words).is_elsewhere(),
        // After a connection broke, it may have been done.
        HdfsError::IOError(error) => !matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof),
        _ => false,
    }
}

impl Failed {
    /// `source`: the CRC-64 that the bytes should have.
    fn error(self, asked: &Asked<'_>, source: Crc64) -> StoreError {
        match self {
            Self::Namenode(HdfsError::IOError(error)) => {
                asked.broken(&format!("a NameNode: {error}; are rpc_addresses those of RPC ports?"))
            }
            Self::Namenode(error) | Self::Hdfs(error) => error_of(error, asked),
            Self::Late(who) => asked.broken(&format!("{who} did not answer in time")),
            Self::Short => ends_early(asked.object),
            Self::Nonsense => asked.broken("an answer of HDFS cannot be understood"),
            Self::Crc(found) => same_crc(asked.object, "the bytes that were sent", found, source).err().unwrap_or_else(|| asked.broken("")),
        }
    }
}

fn error_of(error: HdfsError, asked: &Asked<'_>) -> StoreError {
    match error {
        HdfsError::RPCError(exception, words) | HdfsError::FatalRPCError(exception, words) => {
            Refusal::of_call(&exception, &words).error(asked, true)
        }
        HdfsError::AlreadyExists(words) => Refusal::of_call("FileAlreadyExistsException", &words).error(asked, true),
        HdfsError::FileNotFound(_) => StoreError::ObjectGone { object: asked.object.to_owned() },
        HdfsError::IOError(error) => asked.broken(&format!("a DataNode: {error}")),
        // It holds all that is known of each of them.
        HdfsError::DataTransferError(words) if words.starts_with("All DataNodes failed") => {
            asked.broken("no DataNode gave all of a block with the checksums that were kept of it; the log tells what each did")
        }
        HdfsError::DataTransferError(_) | HdfsError::ChecksumError | HdfsError::OperationFailed(_) | HdfsError::InvalidRPCResponse(_) => {
            asked.broken(&error.to_string())
        }
        HdfsError::SASLError(_) | HdfsError::GSSAPIError(..) | HdfsError::NoSASLMechanism => StoreError::BadCredentials {
            place: asked.place.to_owned(),
            detail: "it wants Kerberos, which is not spoken here with rpc_addresses".to_owned(),
        },
        HdfsError::UnsupportedFeature(_) | HdfsError::UnsupportedErasureCodingPolicy(_) => {
            asked.unmade(&format!("{error}; without rpc_addresses, WebHDFS may do it"))
        }
        error => asked.unmade(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    const ASKED: Asked<'_> = Asked { place: "here", action: "write a file", object: "o", bytes: 0 };

    /// A server that takes connections and says nothing.
    async fn silent() -> (String, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener.local_addr().unwrap().to_string(), listener)
    }

    fn rpc(addresses: Vec<String>) -> Arc<Rpc> {
        Arc::new(Rpc { addresses, user: "u".to_owned(), active: AtomicUsize::new(0) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_namenode_that_is_silent_is_given_up_and_not_asked_first_again() {
        let ((first, _first), (second, _second)) = (silent().await, silent().await);
        let rpc = rpc(vec![first, second]);
        for next in [1, 0] {
            let late = rpc.read(ASKED, "/o".to_owned(), 0..1).await;
            assert!(matches!(&late, Err(StoreError::Unavailable { detail, .. }) if detail.contains("in time")), "{late:?}");
            assert_eq!(rpc.active.load(Ordering::Relaxed), next);
        }
    }

    /// Neither connection nor thread stays, though nothing was answered.
    #[tokio::test]
    async fn a_write_that_nobody_waits_for_ends_at_once() {
        let (address, listener) = silent().await;
        let rpc = rpc(vec![address]);
        let (held, body) = (Arc::downgrade(&rpc), Body::new(vec![Bytes::from_static(b"x")], Crc64::of(b"x")));
        let mut writing = Box::pin(async move {
            let create = Create { key: "o", path: "/o", block_bytes: None, mode: 0o600 };
            rpc.write(ASKED, &create, &body).await
        });
        let mut stream = tokio::select! {
            _ = &mut writing => panic!("nobody answers"),
            accepted = listener.accept() => accepted.unwrap().0,
        };
        assert!(timeout(Duration::from_millis(100), &mut writing).await.is_err());
        drop(writing);
        let mut asked = Vec::new();
        timeout(Duration::from_secs(10), stream.read_to_end(&mut asked)).await.expect("the connection is closed").unwrap();
        assert!(asked.starts_with(b"hrpc"), "it was a call: {asked:?}");
        while held.strong_count() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn another_namenode_is_asked_only_where_nothing_can_have_been_done() {
        let refused = |class: &str| HdfsError::RPCError(format!("org.apache.hadoop.ipc.{class}"), String::new());
        let broken = |kind: ErrorKind| HdfsError::IOError(kind.into());
        for error in [refused("StandbyException"), refused("RetriableException"), broken(ErrorKind::ConnectionRefused)] {
            assert!(is_elsewhere(&error), "{error}");
        }
        for error in [refused("RpcServerException"), broken(ErrorKind::ConnectionReset), broken(ErrorKind::ConnectionAborted)] {
            assert!(!is_elsewhere(&error), "{error}");
        }
    }

    #[tokio::test]
    async fn what_panics_is_told_as_nothing() {
        let done = in_a_runtime_of_its_own(async { 7 }).await;
        let panicked: Option<u8> = in_a_runtime_of_its_own(async { panic!("an answer that makes no sense") }).await;
        assert_eq!((done, panicked), (Some(7), None));
    }

    #[test]
    fn refusals_of_calls_become_what_a_caller_can_act_on() {
        let refused =
            |class: &str, words: &str| Failed::Namenode(HdfsError::RPCError(class.to_owned(), words.to_owned())).error(&ASKED, Crc64(0));
        let denied = refused("org.apache.hadoop.security.AccessControlException", "Permission denied: user=x, access=WRITE\n\tat y");
        assert!(matches!(&denied, StoreError::AccessDenied { detail, .. } if detail.ends_with("access=WRITE")), "{denied:?}");
        let quota = refused("org.apache.hadoop.hdfs.protocol.DSQuotaExceededException", "The DiskSpace quota of /a is exceeded");
        assert!(matches!(quota, StoreError::Full { .. }), "{quota:?}");
        assert!(matches!(refused("java.io.FileNotFoundException", "File does not exist: /o"), StoreError::ObjectGone { .. }));
        assert!(refused("org.apache.hadoop.ipc.StandbyException", "Operation category READ").is_retryable());
        assert!(refused("java.io.IOException", "File /o could only be replicated to 0 nodes").is_retryable());
        let unknown = refused("java.lang.IllegalArgumentException", "");
        assert!(matches!(&unknown, StoreError::Rejected { code, .. } if code == "IllegalArgumentException"), "{unknown:?}");
        assert!(!unknown.to_string().contains("HTTP"), "{unknown}");
        let exists = Failed::Namenode(HdfsError::AlreadyExists("/o already exists".to_owned())).error(&ASKED, Crc64(0));
        assert!(matches!(exists, StoreError::DestinationExists { .. }), "{exists:?}");
        let crc = Failed::Crc(Crc64(1)).error(&ASKED, Crc64(2));
        assert!(matches!(crc, StoreError::ChecksumMismatch { .. }), "{crc:?}");
        let encrypted = Failed::Namenode(HdfsError::UnsupportedFeature("an encryption zone".to_owned())).error(&ASKED, Crc64(0));
        assert!(!encrypted.is_retryable() && encrypted.to_string().contains("without rpc_addresses"), "{encrypted}");
    }
}
