//! One engine process from start to end: spawn, handshake, messages both ways, exit status.

use std::ffi::OsString;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use tokio::net::UnixStream;
use tokio::process::{Child, Command as Process};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tradewind_ipc::{FromEngine, IpcError, ToEngine, accept_engine};

use super::EngineEvent;
use crate::config::{Config, LogFormat, StagingMode};

/// The descriptor at which the engine finds its end of the socket.
const CONTROL_FD: i32 = 3;
/// Between start and [`FromEngine::Ready`]; loading an XDP program and pinning memory take their time.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// A message that cannot be written for so long: the engine does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Between the socket's end and the process's.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);
const SOFTWARE: &str = concat!("tradewindd ", env!("CARGO_PKG_VERSION"));

/// Program and arguments.
#[derive(Debug, Clone)]
pub(super) struct EngineCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl EngineCommand {
    pub(super) fn new(config: &Config) -> Self {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut option = |name: &str, value: &dyn std::fmt::Display| arguments.extend([name.into(), value.to_string().into()]);
        option("--control-fd", &CONTROL_FD);
        option("--listen", &config.data.listen);
        option("--xdp", &config.data.xdp.as_str());
        option("--idle-timeout-s", &config.limits.idle_timeout_s);
        if let Some(interface) = &config.data.interface {
            option("--interface", interface);
        }
        if let Some(workers) = config.engine.workers {
            option("--workers", &workers);
        }
        if let Some(bytes) = config.engine.pool_bytes {
            option("--pool-bytes", &bytes);
        }
        if let Some(bytes) = config.engine.block_bytes {
            option("--block-bytes", &bytes);
        }
        let log = match config.log {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        option("--log", &log);
        option("--resume-keep-s", &config.limits.resume_keep_s);
        if let Some(bytes) = config.engine.staging_bytes {
            option("--staging-bytes", &bytes);
        }
        if config.engine.staging_mode == Some(StagingMode::Always) {
            option("--staging-mode", &"always");
        }
        for directory in &config.engine.staging_dir {
            arguments.extend(["--staging-dir".into(), directory.clone().into_os_string()]);
        }
        arguments.extend(["--state-dir".into(), config.state_dir.clone().into_os_string()]);
        Self { program: config.engine.binary.clone(), arguments }
    }

    /// Starts the process with its end of a new socket pair at [`CONTROL_FD`]. Its standard error is ours; killed when dropped.
    fn spawn(&self) -> Result<(Child, UnixStream), String> {
        let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what} '{}': {error}", self.program.display());
        let (ours, theirs) = StdUnixStream::pair().map_err(|e| failed("no socket pair for", &e))?;
        let mut process = std::process::Command::new(&self.program);
        process.args(&self.arguments).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let mapping = FdMapping { parent_fd: theirs.into(), child_fd: CONTROL_FD };
        process.fd_mappings(vec![mapping]).map_err(|e| failed("no descriptor for", &e))?;
        let child = Process::from(process).kill_on_drop(true).spawn().map_err(|e| failed("cannot start", &e))?;
        ours.set_nonblocking(true).map_err(|e| failed("no socket for", &e))?;
        let stream = UnixStream::from_std(ours).map_err(|e| failed("no socket for", &e))?;
        Ok((child, stream))
    }
}

/// Runs one process to its end and reports everything it says. An `outbox` that is closed ends the process.
pub(super) async fn run(command: EngineCommand, generation: u64, outbox: mpsc::Receiver<ToEngine>, events: mpsc::Sender<EngineEvent>) {
    let reason = match command.spawn() {
        Err(reason) => reason,
        Ok((mut child, stream)) => {
            tracing::info!(pid = child.id(), generation, "engine started");
            let talk = converse(stream, generation, outbox, &events).await;
            end(&mut child, talk).await
        }
    };
    // The supervisor may have ended; then nobody needs to know.
    let _ = events.send(EngineEvent::Ended { generation, reason }).await;
}

/// Returns when the conversation is over: `Ok` if the engine closed it, `Err` with the reason to end the process.
async fn converse(
    stream: UnixStream,
    generation: u64,
    mut outbox: mpsc::Receiver<ToEngine>,
    events: &mpsc::Sender<EngineEvent>,
) -> Result<(), String> {
    let (mut sender, mut receiver, _hello) = accept_engine(stream, SOFTWARE).await.map_err(|e| said_or_silent(&e))?;
    let ready = timeout(READY_TIMEOUT, receiver.recv()).await;
    let mut next = ready.map_err(|_| format!("was not ready within {} s", READY_TIMEOUT.as_secs()))?;
    loop {
        match next {
            Ok(Some(message)) => {
                let event = EngineEvent::Said { generation, message };
                events.send(event).await.map_err(|_| "the supervisor has ended".to_owned())?;
            }
            Ok(None) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        next = loop {
            tokio::select! {
                message = receiver.recv() => break message,
                message = outbox.recv() => {
                    let message = message.ok_or_else(|| "was told to end".to_owned())?;
                    let sent = timeout(SEND_TIMEOUT, sender.send(&message)).await;
                    match sent.map_err(|_| "does not read its messages".to_owned())? {
                        // Its last words may still be on the socket, so go on reading.
                        Ok(()) | Err(IpcError::Closed { .. }) => {}
                        Err(error) => return Err(error.to_string()),
                    }
                }
            }
        };
    }
}

fn said_or_silent(error: &IpcError) -> String {
    match error {
        IpcError::Closed { .. } => "ended before it was ready; its own message is above".to_owned(),
        other => other.to_string(),
    }
}

async fn end(child: &mut Child, talk: Result<(), String>) -> String {
    if let Ok(()) = talk
        && let Ok(Ok(status)) = timeout(EXIT_TIMEOUT, child.wait()).await
    {
        return describe(status);
    }
    // It may have exited for the same reason that ended the conversation; then its status says more than a kill would.
    let own_end = timeout(Duration::from_millis(200), child.wait()).await;
    let reason = talk.err().unwrap_or_else(|| "closed its socket but did not exit".to_owned());
    if let Ok(Ok(status)) = own_end {
        return format!("{}: {reason}", describe(status));
    }
    if let Err(error) = child.kill().await {
        tracing::error!(%error, "the engine cannot be killed");
    }
    format!("{reason}; killed")
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Whether a message answers the first wait: an engine's first message is [`FromEngine::Ready`].
pub(super) const fn is_ready(message: &FromEngine) -> bool {
    matches!(message, FromEngine::Ready(_))
}
