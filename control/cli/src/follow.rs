//! Following a transfer to its end, and what the server says of it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tradewind_api::{ApiCode, Client, ClientError, ErrorCode, Outcome, ProblemCode, TransferState, TransferStatus};
use tradewind_client::{Progress, UploadError};

use crate::display::Reporter;
use crate::failure::{self, Failure};
use crate::interrupt::{Interrupts, Signal};

/// How long the server's own account of the end is waited for.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(5);
/// A transfer that has not moved for so long is asked for on the server: its engine may be gone and say nothing.
const STALL: Duration = Duration::from_secs(3);
const LAST_WORD_INTERVAL: Duration = Duration::from_millis(200);

/// How a transfer ended.
pub(crate) struct Driven<R> {
    pub(crate) result: Result<R, UploadError>,
    /// The signal that stopped it, if one did.
    pub(crate) signal: Option<Signal>,
    /// The server's account, if that was heard first.
    pub(crate) ended: Option<Outcome>,
}

/// Runs a transfer on a thread of its own and shows how it goes. The first signal asks it to stop, the second ends the process; it
/// is stopped too when `watching` finds out that the server has ended the transfer.
pub(crate) async fn drive<R: Send + 'static>(
    transfer: impl FnOnce(&dyn Fn(&Progress)) -> Result<R, UploadError> + Send + 'static,
    cancel: &AtomicBool,
    interrupts: &mut Interrupts,
    reporter: &mut Reporter,
    remarks: &mut mpsc::UnboundedReceiver<String>,
    moved: &Cell<Instant>,
    watching: impl Future<Output = Outcome>,
) -> Driven<R> {
    tokio::pin!(watching);
    let (mut ended, mut bytes) = (None, (0, 0));
    let (moments, mut shown) = mpsc::unbounded_channel::<Progress>();
    let (tell, mut running) = oneshot::channel();
    let work = move || {
        // The other ends of both channels live as long as this transfer does.
        drop(tell.send(transfer(&|progress| drop(moments.send(progress.clone())))));
    };
    // A name by which tools that look at threads find the one that sends or receives.
    if let Err(source) = thread::Builder::new().name("transfer".to_owned()).spawn(work) {
        return Driven {
            result: Err(UploadError::Local { what: "cannot start the transfer's thread", source: source.into() }),
            signal: None,
            ended,
        };
    }
    let mut first: Option<Signal> = None;
    loop {
        tokio::select! {
            biased;
            signal = interrupts.next() => match first {
                None => {
                    cancel.store(true, Ordering::Relaxed);
                    first = Some(signal);
                    reporter.note("stopping; press Ctrl-C again to end at once");
                }
                Some(_) => {
                    reporter.clear();
                    std::process::exit(i32::from(signal.exit_code()));
                }
            },
            Some(remark) = remarks.recv() => reporter.note(&remark),
            Some(progress) = shown.recv() => {
                if bytes != (progress.bytes_sent, progress.bytes_durable) {
                    bytes = (progress.bytes_sent, progress.bytes_durable);
                    moved.set(Instant::now());
                }
                reporter.progress(&progress);
            }
            outcome = &mut watching, if ended.is_none() => {
                cancel.store(true, Ordering::Relaxed);
                ended = Some(outcome);
            }
            result = &mut running => {
                while let Ok(remark) = remarks.try_recv() {
                    reporter.note(&remark);
                }
                while let Ok(progress) = shown.try_recv() {
                    reporter.progress(&progress);
                }
                let panicked = |_| UploadError::Local { what: "the transfer's thread panicked", source: "see the message above".into() };
                return Driven { result: result.map_err(panicked).and_then(|result| result), signal: first, ended };
            }
        }
    }
}

/// Resolves when the server says that the transfer has ended without success. Asks only while nothing moves.
pub(crate) async fn ended_on_server(client: &Client, id: &str, moved: &Cell<Instant>) -> Outcome {
    loop {
        tokio::time::sleep(STALL.saturating_sub(moved.get().elapsed()).max(Duration::from_secs(1))).await;
        if moved.get().elapsed() < STALL {
            continue;
        }
        match client.status(id).await {
            Ok(status) => {
                if let Some(outcome) = outcome(status, false) {
                    return outcome;
                }
            }
            Err(ClientError::Refused(problem)) if problem.code == ProblemCode::Api(ApiCode::NotFound) => {
                let code = ErrorCode::EngineDied;
                let detail = "the server was started anew and does not know this transfer any more".to_owned();
                return Outcome { code, detail, hint: code.hint().to_owned() };
            }
            // A server that cannot be asked is the idle limit's business.
            Err(_) => {}
        }
    }
}

/// The server's account once the transfer has ended there; the latest one known if that takes too long.
pub(crate) async fn last_word(client: &Client, id: &str) -> Option<TransferStatus> {
    let mut latest = None;
    let asking = async {
        loop {
            match client.status(id).await {
                Ok(status) => {
                    let is_final = status.state.is_final();
                    latest = Some(status);
                    if is_final {
                        return;
                    }
                }
                Err(error) if !error.is_retryable() => return,
                Err(_) => {}
            }
            tokio::time::sleep(LAST_WORD_INTERVAL).await;
        }
    };
    // Too late is as good as never: what is known so far is used.
    let _ = tokio::time::timeout(LAST_WORD_TIMEOUT, asking).await;
    latest
}

/// Lets the server end a transfer that has ended here.
pub(crate) async fn tell_server(client: &Client, id: &str) {
    match tokio::time::timeout(LAST_WORD_TIMEOUT, client.cancel(id)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::info!("the server could not be told that the transfer ended: {error}"),
        Err(_) => tracing::info!("the server did not answer that it ended the transfer"),
    }
}

/// Makes of the sending end's error what the user should know, with the server's account of it.
pub(crate) async fn explain(client: &Client, id: &str, error: UploadError, signal: Option<Signal>) -> Failure {
    let transfer_id = id.to_owned();
    match (error, signal) {
        (UploadError::Cancelled, Some(signal)) => {
            tell_server(client, id).await;
            Failure::Interrupted { signal, transfer_id: Some(transfer_id) }
        }
        (UploadError::Refused { code, text }, _) => {
            let outcome = last_word(client, id).await.and_then(|status| outcome(status, false));
            refusal(transfer_id, code, text, outcome)
        }
        // The server may know better why nothing was heard of its engine.
        (source @ (UploadError::Lost { .. } | UploadError::NoAnswer { .. }), _) => {
            let status = tokio::time::timeout(LAST_WORD_TIMEOUT, client.status(id)).await.ok().and_then(Result::ok);
            match status.and_then(|status| outcome(status, true)) {
                Some(outcome) => failed(transfer_id, outcome),
                None => {
                    tell_server(client, id).await;
                    Failure::Upload { transfer_id, source }
                }
            }
        }
        (source, _) => {
            tell_server(client, id).await;
            Failure::Upload { transfer_id, source }
        }
    }
}

/// Why the server says that the transfer ended. `other_than_silence` leaves out what this end knows better itself.
pub(crate) fn outcome(status: TransferStatus, other_than_silence: bool) -> Option<Outcome> {
    use tradewind_api::ErrorCode::{IdleTimeout, PeerGone};
    let ended = matches!(status.state, TransferState::Failed | TransferState::Cancelled);
    status.outcome.filter(|outcome| ended && !(other_than_silence && matches!(outcome.code, IdleTimeout | PeerGone)))
}

pub(crate) fn failed(transfer_id: String, Outcome { code, detail, hint }: Outcome) -> Failure {
    Failure::Transfer { transfer_id, code, detail, hint }
}

/// The server's account goes first, then the code in the CLOSE packet's text, then its number.
fn refusal(transfer_id: String, close_code: u16, text: String, outcome: Option<Outcome>) -> Failure {
    if let Some(outcome) = outcome {
        return failed(transfer_id, outcome);
    }
    match failure::named_code(&text) {
        Some((code, detail)) => Failure::Transfer { transfer_id, code, detail: detail.to_owned(), hint: code.hint().to_owned() },
        None => Failure::Upload { transfer_id, source: UploadError::Refused { code: close_code, text } },
    }
}

#[cfg(test)]
mod tests {
    use tradewind_api::{ErrorCode, Totals, exit};

    use super::*;

    fn status(state: TransferState, code: Option<ErrorCode>) -> TransferStatus {
        TransferStatus {
            transfer_id: "t".to_owned(),
            state,
            destination: "s3://bucket/".to_owned(),
            source: None,
            files_failed: 0,
            first_failure: None,
            submitted_unix_ms: 0,
            elapsed_ms: 0,
            files_announced: None,
            bytes_announced: None,
            totals: Totals::default(),
            rate: tradewind_api::RateStatus::default(),
            files: Vec::new(),
            outcome: code.map(|code| Outcome { code, detail: "from the server".to_owned(), hint: "do this".to_owned() }),
        }
    }

    #[test]
    fn the_servers_account_goes_before_the_close_packets() {
        let known = outcome(status(TransferState::Failed, Some(ErrorCode::BucketMissing)), false);
        let failure = refusal("t".into(), 5, "store_unavailable: x".into(), known);
        assert_eq!((failure.exit_code(), failure.code().as_str()), (exit::DESTINATION, "bucket_missing"));
        assert!(failure.to_string().ends_with("from the server"));
        let failure = refusal("t".into(), 5, "disk_full: /data".into(), None);
        assert_eq!((failure.exit_code(), failure.code().as_str()), (exit::TRANSFER, "disk_full"));
        assert_eq!(failure.to_string(), "no space left at the destination: /data");
        assert_eq!(refusal("t".into(), 6, "going down".into(), None).exit_code(), exit::BUSY);
    }

    #[test]
    fn silence_is_explained_by_the_server_only_if_it_knows_more() {
        assert!(outcome(status(TransferState::Failed, Some(ErrorCode::EngineDied)), true).is_some());
        assert!(outcome(status(TransferState::Failed, Some(ErrorCode::IdleTimeout)), true).is_none());
        assert!(outcome(status(TransferState::Failed, Some(ErrorCode::IdleTimeout)), false).is_some());
        assert!(outcome(status(TransferState::Running, None), false).is_none());
    }
}
