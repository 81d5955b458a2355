//! Events of `--json`: one object a line on standard output. Fields may be added; those that are here keep their meaning.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tradewind_api::{SubmitRequest, SubmitResponse, TransferStatus};
use tradewind_client::{Progress, Source, SourceError, SourceNote, UploadReport};

use crate::failure::{Failure, source_code};
use crate::gather::LeftOut;
use crate::units::goodput_bps;

/// Prints a line. A reader that has gone does not end a transfer.
pub(crate) fn emit(event: &impl Serialize) {
    if let Ok(mut line) = serde_json::to_vec(event) {
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

/// The transfer was accepted; packets are about to leave.
///
/// `files_kept` and `bytes_kept` are what earlier transfers left at the destination, whether or not it is sent now.
pub(crate) fn started(
    answer: &SubmitResponse,
    endpoint: Option<SocketAddr>,
    request: &SubmitRequest,
    round_trip: Option<Duration>,
) -> Value {
    let durable = answer.durable.unwrap_or_default();
    json!({
        "event": "started",
        "transfer_id": answer.transfer_id,
        "destination": request.destination,
        "endpoint": endpoint,
        "files": request.files,
        "bytes": request.bytes,
        "files_kept": durable.files,
        "bytes_kept": durable.files_bytes + durable.parts_bytes,
        "cipher": request.cipher,
        "policy": request.rate.policy,
        "target_rate_bps": request.rate.target_rate_bps,
        "minimum_rate_bps": request.rate.minimum_rate_bps,
        "initial_rtt_ms": round_trip.map(|time| time.as_secs_f64() * 1e3),
    })
}

/// About five times a second.
pub(crate) fn progress(progress: &Progress) -> Value {
    json!({
        "event": "progress",
        "elapsed_s": progress.elapsed.as_secs_f64(),
        "bytes_total": progress.bytes_total,
        "bytes_sent": progress.bytes_sent,
        "bytes_durable": progress.bytes_durable,
        "rate_bps": progress.rate_bps,
        "rtt_ms": progress.rtt_ms,
        "packets_sent": progress.packets_sent,
        "loss": progress.loss,
        "retransmitted_share": progress.retransmitted_share,
        "limiter": progress.limiter,
    })
}

/// Every file is durable but those that could not be sent. `server` is null if the server could not be asked any more.
pub(crate) fn done(
    transfer_id: &str,
    request: &SubmitRequest,
    report: &UploadReport,
    files_failed: u64,
    server: Option<&TransferStatus>,
) -> Value {
    json!({
        "event": "done",
        "transfer_id": transfer_id,
        "bytes": report.bytes,
        "bytes_holes": report.bytes_holes,
        "files": report.files,
        "files_kept": report.files_kept,
        "bytes_kept": report.bytes_kept,
        "bytes_compared": report.bytes_compared,
        "files_failed": files_failed,
        "elapsed_s": report.elapsed.as_secs_f64(),
        "goodput_bps": goodput_bps(report.bytes - report.bytes_holes, report.elapsed),
        "packets_sent": report.packets_sent,
        "data_packets_sent": report.data_packets_sent,
        "retransmitted_share": report.retransmitted_share,
        "loss": report.loss,
        "random_loss": report.statistics.random_loss,
        "rtt_ms": report.rtt_ms,
        "rtt_least_ms": report.statistics.round_trip_least_ns as f64 / 1e6,
        "cipher": request.cipher,
        "receipt": report.receipt,
        "packets_ignored": report.packets_ignored,
        "packets_afxdp": server.map(|status| status.totals.packets_afxdp),
        "packets_kernel": server.map(|status| status.totals.packets_kernel),
        "server": server.map(account),
    })
}

/// The server's account of a transfer.
fn account(status: &TransferStatus) -> Value {
    json!({
        "state": status.state,
        "elapsed_ms": status.elapsed_ms,
        "totals": status.totals,
    })
}

/// The transfer broke and starts again after so long.
pub(crate) fn retry(failure: &Failure, attempt: u32, wait: Duration, packet_bytes_max: Option<usize>) -> Value {
    json!({
        "event": "retry",
        "attempt": attempt,
        "wait_s": wait.as_secs_f64(),
        "packet_bytes_max": packet_bytes_max,
        "code": failure.code(),
        "message": failure.to_string(),
        "transfer_id": failure.transfer_id(),
    })
}

/// A file that `--dry-run` would send.
pub(crate) fn file(source: &Source, destination: &str) -> Value {
    json!({
        "event": "file",
        "path": source.path.to_string_lossy(),
        "destination": destination,
    })
}

/// All that `--dry-run` would send.
pub(crate) fn dry_run(files: u64, bytes: u64, left_out: &LeftOut, skipped: &[String]) -> Value {
    json!({
        "event": "dry_run",
        "files": files,
        "bytes": bytes,
        "unselected": left_out.unselected.load(Relaxed),
        "failed": left_out.failed.load(Relaxed),
        "skipped": skipped,
    })
}

/// A file that cannot be sent; the others go on.
pub(crate) fn file_error(error: &SourceError) -> Value {
    json!({
        "event": "file_error",
        "path": error.path().to_string_lossy(),
        "code": source_code(error),
        "message": error.to_string(),
    })
}

/// Something of a file that is not kept at the destination; its bytes are.
pub(crate) fn file_note(note: &SourceNote) -> Value {
    json!({
        "event": "file_note",
        "path": note.path.to_string_lossy(),
        "message": note.what,
    })
}

/// The command failed.
pub(crate) fn error(failure: &Failure) -> Value {
    json!({
        "event": "error",
        "code": failure.code(),
        "exit_code": failure.exit_code(),
        "message": failure.to_string(),
        "hint": failure.hint(),
        "retryable": failure.is_retryable(),
        "transfer_id": failure.transfer_id(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use tradewind_api::{Cipher, DurableSummary, ErrorCode, RateRequest, Totals, TransferLimits, TransferState};

    use super::*;

    fn request() -> SubmitRequest {
        SubmitRequest {
            destination: Some("s3://bucket/in/".to_owned()),
            files: Some(2),
            bytes: Some(1000),
            rate: RateRequest { target_rate_bps: Some(300_000_000), ..RateRequest::default() },
            cipher: Cipher::Aes256Gcm,
            resume: tradewind_api::ResumePolicy::Attributes,
            ..SubmitRequest::default()
        }
    }

    pub(crate) fn report() -> UploadReport {
        UploadReport {
            bytes: 1_500_000,
            bytes_holes: 500_000,
            files: 2,
            files_kept: 1,
            bytes_kept: 5,
            bytes_compared: 0,
            files_failed: 0,
            elapsed: Duration::from_secs(4),
            packets_sent: 11,
            data_packets_sent: 10,
            retransmitted_share: 0.1,
            loss: 0.05,
            rtt_ms: 100.5,
            receipt: 7,
            packets_ignored: 0,
            statistics: Default::default(),
        }
    }

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn started_and_progress_have_the_documented_fields() {
        let durable = Some(DurableSummary { files: 3, files_bytes: 30, parts: 1, parts_bytes: 5 });
        let answer =
            SubmitResponse { transfer_id: "abc".to_owned(), lanes: Vec::new(), limits: TransferLimits { idle_timeout_s: 1 }, durable };
        let event = started(&answer, Some(([192, 0, 2, 1], 33001).into()), &request(), Some(Duration::from_micros(1500)));
        assert_eq!((&event["event"], &event["files_kept"], &event["bytes_kept"]), (&json!("started"), &json!(3), &json!(35)));
        assert_eq!(event["endpoint"], "192.0.2.1:33001");
        assert_eq!(event["cipher"], "aes-256-gcm");
        assert_eq!(event["policy"], "fair");
        assert_eq!((&event["target_rate_bps"], &event["minimum_rate_bps"]), (&json!(300_000_000), &Value::Null));
        assert_eq!(event["initial_rtt_ms"], 1.5);
        let moment = Progress {
            bytes_total: 10,
            bytes_sent: 5,
            bytes_durable: 1,
            rate_bps: 300,
            rtt_ms: 1.5,
            packets_sent: 8,
            loss: 0.25,
            retransmitted_share: 0.5,
            limiter: "storage",
            elapsed: Duration::from_millis(500),
        };
        assert_eq!(
            progress(&moment),
            json!({"event": "progress", "elapsed_s": 0.5, "bytes_total": 10, "bytes_sent": 5, "bytes_durable": 1, "rate_bps": 300,
                   "rtt_ms": 1.5, "packets_sent": 8, "loss": 0.25, "retransmitted_share": 0.5, "limiter": "storage"})
        );
    }
    #[test]
    fn done_carries_both_ends() {
        let mut totals = Totals::default();
        (totals.packets_afxdp, totals.packets_kernel) = (9, 1);
        let status = TransferStatus {
            transfer_id: "abc".to_owned(),
            state: TransferState::Done,
            destination: "s3://bucket/in/".to_owned(),
            source: None,
            files_failed: 0,
            first_failure: None,
            submitted_unix_ms: 0,
            elapsed_ms: 4100,
            files_announced: Some(2),
            bytes_announced: Some(1_000_000),
            totals,
            rate: tradewind_api::RateStatus::default(),
            files: Vec::new(),
            outcome: None,
        };
        let event = done("abc", &request(), &report(), 0, Some(&status));
        for key in [
            "event",
            "transfer_id",
            "bytes",
            "files",
            "files_kept",
            "files_failed",
            "elapsed_s",
            "goodput_bps",
            "packets_sent",
            "data_packets_sent",
            "retransmitted_share",
            "loss",
            "random_loss",
            "rtt_ms",
            "cipher",
            "packets_afxdp",
            "packets_kernel",
            "server",
        ] {
            assert!(keys(&event).contains(&key), "{key}");
        }
        assert_eq!(event["goodput_bps"], 2e6);
        assert_eq!((&event["packets_afxdp"], &event["packets_kernel"]), (&json!(9), &json!(1)));
        assert_eq!(event["server"]["totals"]["packets_afxdp"], 9);
        assert_eq!(event["server"]["state"], "done");
        let alone = done("abc", &request(), &report(), 0, None);
        assert_eq!(keys(&alone), keys(&event), "the same fields, null where the server could not be asked");
        assert_eq!((&alone["server"], &alone["packets_afxdp"]), (&Value::Null, &Value::Null));
        assert!(!serde_json::to_string(&event).unwrap().contains('\n'), "one line");
    }

    #[test]
    fn error_carries_code_and_exit_code() {
        let failure = Failure::Transfer {
            transfer_id: "abc".to_owned(),
            code: ErrorCode::BucketMissing,
            detail: "no bucket 'x'".to_owned(),
            hint: "create it".to_owned(),
        };
        assert_eq!(
            error(&failure),
            json!({"event": "error", "code": "bucket_missing", "exit_code": 6, "message": "the bucket does not exist: no bucket 'x'",
                   "hint": "create it", "retryable": false, "transfer_id": "abc"})
        );
    }
}
