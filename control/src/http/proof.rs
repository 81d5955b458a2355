//! What proves a transfer: its manifest, a signed receipt, and the key that checks it.

use std::io::Read as _;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use tradewind_api::{ApiCode, ErrorCode, Problem, ReceiptKey, TransferState, TransferStatus};
use tradewind_integrity::{Receipt, SigningKey, hex, time};

use super::{Refusal, Shared};
use crate::identity;

/// Where manifests and the key are.
#[derive(Debug)]
pub(super) struct Proofs {
    state_dir: PathBuf,
    key: Option<SigningKey>,
}

impl Proofs {
    /// With the key of this state directory. The server has made it before; without one, receipts are refused and all else goes on.
    pub(super) fn open(state_dir: &FilePath) -> Self {
        let key = identity::receipt_key(state_dir).map_err(|error| tracing::error!(%error, "no receipts can be signed")).ok();
        Self { state_dir: state_dir.to_owned(), key }
    }

    fn key(&self) -> Result<&SigningKey, Problem> {
        let missing = || Problem::new(ErrorCode::Internal, "the server has no key for receipts; its log says why");
        self.key.as_ref().ok_or_else(missing)
    }
}

/// Where the engine leaves the manifest of a transfer.
pub(crate) fn manifest_path(state_dir: &FilePath, transfer_id: &str) -> PathBuf {
    state_dir.join("manifests").join(format!("{transfer_id}.ndjson"))
}

/// `GET /v1/transfers/{id}/manifest`.
pub(super) async fn manifest(State(app): Shared, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, Refusal> {
    let user = app.identify(&headers)?;
    let status = app.supervisor.status(user.access_key, id).await?;
    if !status.state.is_final() {
        let problem = Problem::new(ApiCode::Invalid, "the transfer has not ended, and its manifest is written until then");
        return Err(problem.with_hint("ask again when it has ended").into());
    }
    let path = manifest_path(&app.proofs.state_dir, &status.transfer_id);
    let file = tokio::fs::File::open(path).await.map_err(|_| missing())?;
    let body = Body::from_stream(tokio_util::io::ReaderStream::new(file));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn missing() -> Problem {
    Problem::new(ApiCode::NotFound, "the transfer has no manifest").with_hint("the server's log says why it was not written")
}

/// `GET /v1/transfers/{id}/receipt`.
pub(super) async fn receipt(State(app): Shared, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, Refusal> {
    let user = app.identify(&headers)?;
    let key = app.proofs.key()?;
    let status = app.supervisor.status(user.access_key.clone(), id).await?;
    if status.state != TransferState::Done {
        return Err(Problem::new(ApiCode::Invalid, "receipts are given for transfers that have ended well").into());
    }
    let path = manifest_path(&app.proofs.state_dir, &status.transfer_id);
    let hashing = tokio::task::spawn_blocking(move || sha256_of(&path));
    let manifest_sha256 = hashing.await.ok().and_then(|hashed| match hashed {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(%error, transfer = status.transfer_id, "a receipt goes without the hash of its manifest");
            None
        }
    });
    let signed = key.sign(statement(user.access_key, &status, manifest_sha256));
    let document = signed.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], document).into_response())
}

/// The same whenever it is asked for.
fn statement(user: String, status: &TransferStatus, manifest_sha256: Option<String>) -> Receipt {
    let moment = |ms: u64| {
        let ns = u64::try_from(Duration::from_millis(ms).as_nanos()).ok().and_then(|ns| i64::try_from(ns).ok());
        time::rfc3339(ns.unwrap_or(i64::MAX))
    };
    Receipt {
        kind: String::new(),
        transfer_id: status.transfer_id.clone(),
        user,
        destination: status.destination.clone(),
        files: status.totals.files_durable,
        bytes: status.totals.bytes_durable,
        started: moment(status.submitted_unix_ms),
        finished: moment(status.submitted_unix_ms.saturating_add(status.elapsed_ms)),
        manifest_sha256,
        server: concat!("tradewindd ", env!("CARGO_PKG_VERSION")).to_owned(),
        key_id: String::new(),
    }
}

fn sha256_of(path: &FilePath) -> std::io::Result<String> {
    let (mut file, mut buffer, mut context) = (std::fs::File::open(path)?, vec![0; 1 << 20], Context::new(&SHA256));
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(context.finish().as_ref())),
            read => context.update(&buffer[..read]),
        }
    }
}

/// `GET /v1/receipt-key`: for everybody.
pub(super) async fn receipt_key(State(app): Shared) -> Result<Json<ReceiptKey>, Refusal> {
    let public = app.proofs.key()?.public();
    Ok(Json(ReceiptKey { key_id: public.id(), public_key: public.to_string() }))
}
