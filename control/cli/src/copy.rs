//! `tradewind copy`: objects from store to store, by the server alone.

use std::time::Duration;

use serde_json::json;
use tradewind_api::{Client, SubmitRequest, TransferState, TransferStatus, exit};

use crate::connect::{connect, resolve};
use crate::display::{self, Reporter};
use crate::dry_get::DryRun;
use crate::events;
use crate::failure::Failure;
use crate::follow::{failed, tell_server};
use crate::interrupt::Interrupts;
use crate::options::CopyOptions;
use crate::send::submit;
use crate::units;

/// How often the server is asked how far it is.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Runs the command.
pub(crate) async fn copy(options: &CopyOptions) -> Result<u8, Failure> {
    let (selected, select) = options.select.resolve()?;
    let mut interrupts = Interrupts::new()?;
    let quiet = options.quiet || options.json;
    let client = connect(&options.server, quiet).await?;
    if options.dry_run {
        let destination = &options.destination;
        let into = destination.ends_with(['/', ':']);
        let slash = if into { "" } else { "/" };
        let mut run = DryRun::new(&client, &selected, options.json, options.quiet);
        let target =
            |path: &str, is_single: bool| if is_single && !into { destination.clone() } else { format!("{destination}{slash}{path}") };
        let listing = run.source(&options.source, target);
        interrupts.unless(listing).await.map_err(|signal| Failure::Interrupted { signal, transfer_id: None })??;
        return Ok(run.end());
    }
    let request = SubmitRequest {
        select,
        destination: Some(options.destination.clone()),
        source: Some(options.source.clone()),
        overwrite: options.overwrite,
        ..SubmitRequest::default()
    };
    let address = resolve(&options.server.server).await;
    let submitted = interrupts.unless(submit(&client, address, &request)).await;
    let ((answer, _), _) = submitted.map_err(|signal| Failure::Interrupted { signal, transfer_id: None })??;
    let id = answer.transfer_id;
    if options.json {
        events::emit(&json!({ "event": "started", "transfer_id": id, "source": options.source, "destination": options.destination }));
    }
    let mut reporter = Reporter::new(options.json, options.quiet, 0);
    let ended = match interrupts.unless(follow(&client, &id, options, &mut reporter)).await {
        Ok(ended) => ended?,
        Err(signal) => {
            tell_server(&client, &id).await;
            display::note(&format!("transfer {id} was ended; the same command copies everything again, with --overwrite"));
            // Without the id: nothing goes on where it stopped.
            return Err(Failure::Interrupted { signal, transfer_id: None });
        }
    };
    reporter.clear();
    match (ended.state, ended.outcome) {
        (TransferState::Failed | TransferState::Cancelled, Some(outcome)) => Err(failed(id, outcome)),
        _ => {
            let (files, bytes) = (ended.totals.files_durable, ended.totals.bytes_durable);
            let elapsed = Duration::from_millis(ended.elapsed_ms);
            if options.json {
                events::emit(&json!({
                    "event": "done", "transfer_id": id, "files": files, "bytes": bytes, "elapsed_s": elapsed.as_secs_f64(),
                    "goodput_bps": units::goodput_bps(bytes, elapsed),
                }));
            }
            let rate = units::rate(units::goodput_bps(bytes, elapsed));
            let objects = if files == 1 { "object" } else { "objects" };
            reporter.finished(&format!("{files} {objects} copied, {} in {} ({rate})", units::bytes(bytes), units::duration(elapsed)));
            match ended.first_failure {
                Some(first) => Err(Failure::NotGot { files: ended.files_failed, first }),
                None => Ok(exit::OK),
            }
        }
    }
}

/// The server's account once it has ended.
async fn follow(client: &Client, id: &str, options: &CopyOptions, reporter: &mut Reporter) -> Result<TransferStatus, Failure> {
    loop {
        match client.status(id).await {
            Ok(status) if status.state.is_final() => return Ok(status),
            Ok(status) if options.json => {
                events::emit(&json!({
                    "event": "progress", "elapsed_s": status.elapsed_ms as f64 / 1e3, "bytes_durable": status.totals.bytes_durable,
                    "files_durable": status.totals.files_durable,
                }));
            }
            Ok(_) => {}
            Err(error) if error.is_retryable() => reporter.note(&error.to_string()),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
