//! `POST /v1/verify`: the engine reads stored objects again; its findings stream to the client, and end with it.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tradewind_api::limits::VERIFY_BODY_BYTES_MAX;
use tradewind_api::{ApiCode, ErrorCode, Problem, VERIFY_LINES_MAX, VerifyQuery};

use super::{Refusal, Shared};

/// Whoever may list objects may have them read.
pub(super) async fn verify(
    State(app): Shared,
    headers: HeaderMap,
    query: Result<Query<VerifyQuery>, QueryRejection>,
    body: Body,
) -> Result<Response, Refusal> {
    let destination = app.place(&headers, query.as_ref().map(|query| query.url.as_str()))?;
    let lines = lines(body).await?;
    let findings = app.supervisor.verify(destination, lines).await?;
    // When the client goes away this is dropped, and the supervisor sees that nobody listens.
    let next = |mut findings: tokio::sync::mpsc::UnboundedReceiver<tradewind_ipc::Verified>| async move {
        let mut line = serde_json::to_vec(&findings.recv().await?).ok()?;
        line.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), findings))
    };
    let body = Body::from_stream(stream::unfold(findings, next));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

async fn lines(body: Body) -> Result<Vec<String>, Problem> {
    let too_large =
        |_| Problem::new(ApiCode::BodyTooLarge, format!("the body has more than {VERIFY_BODY_BYTES_MAX} bytes, or was cut off"));
    let body = to_bytes(body, VERIFY_BODY_BYTES_MAX).await.map_err(too_large)?;
    let text = std::str::from_utf8(&body).map_err(|_| Problem::new(ApiCode::Malformed, "the lines of the manifest are not UTF-8"))?;
    let lines: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if (1..=VERIFY_LINES_MAX).contains(&lines.len()) {
        return Ok(lines);
    }
    let detail = format!("{} lines of a manifest: 1 to {VERIFY_LINES_MAX} can be verified at once", lines.len());
    Err(Problem::new(ErrorCode::ResourceExhausted, detail).with_hint("verify them a part at a time, as `tradewind verify` does"))
}
