//! The REST interface: connections in [`server`], requests about objects in [`objects`], all others here.

mod objects;
mod proof;
mod server;
mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tradewind_api::limits::REQUEST_BODY_BYTES_MAX;
use tradewind_api::{
    ApiCode, ErrorCode, Health, HealthState, Problem, RateChange, SubmitResponse, TransferList, TransferStatus, parse_submit,
};

pub(crate) use proof::manifest_path;
use server::Peer;
pub use server::{Limits, Running, bind, start};

use crate::auth::{Authenticator, Identified};
use crate::config::{Config, StoreConfig};
use crate::stores;
use crate::supervisor::{ANSWER_TIMEOUT, Caller, Supervisor};

/// Longest list of what a client has already: nearly three million files.
const HAVE_BYTES_MAX: u64 = 128 << 20;
/// Time for the rest of a submission.
const SUBMIT_MARGIN: Duration = Duration::from_secs(5);

/// What the handlers share.
#[derive(Debug)]
struct App {
    auth: Authenticator,
    stores: BTreeMap<String, StoreConfig>,
    supervisor: Supervisor,
    request_timeout: Duration,
    /// Where lists for the engine go.
    lists: PathBuf,
    proofs: proof::Proofs,
}

type Shared = State<Arc<App>>;

/// A problem as a response.
struct Refusal(Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"tradewind\""));
        }
        response
    }
}

/// The routes.
pub fn router(config: &Config, supervisor: Supervisor) -> Router {
    let app = App {
        auth: Authenticator::new(&config.users),
        stores: config.stores.clone(),
        supervisor,
        request_timeout: Duration::from_secs(config.rest.request_timeout_s),
        lists: config.state_dir.join("durable"),
        proofs: proof::Proofs::open(&config.state_dir),
    };
    let app = Arc::new(app);
    Router::new()
        .route("/v1/transfers", post(submit).get(list))
        .route("/v1/transfers/{id}", get(status).patch(change_rate).delete(cancel))
        .route("/v1/transfers/{id}/durable", get(durable).post(have))
        .route("/v1/transfers/{id}/manifest", get(proof::manifest))
        .route("/v1/transfers/{id}/receipt", get(proof::receipt))
        .route("/v1/receipt-key", get(proof::receipt_key))
        .route("/v1/verify", post(verify::verify))
        .route("/v1/objects", get(objects::list))
        .route("/v1/object", get(objects::show).delete(objects::remove))
        .route("/healthz", get(health))
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), deadline))
        .with_state(app)
}

async fn deadline(State(app): Shared, request: Request, next: axum::middleware::Next) -> Response {
    // A submission waits until the engine has looked at what is there already.
    let is_submission = request.method() == Method::POST;
    let limit = if is_submission { app.request_timeout.max(ANSWER_TIMEOUT + SUBMIT_MARGIN) } else { app.request_timeout };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal(Problem::new(ApiCode::Timeout, format!("not finished within {} s", limit.as_secs()))).into_response(),
    }
}

impl App {
    fn identify(&self, headers: &HeaderMap) -> Result<Identified, Problem> {
        let refused = |detail: &str| Problem::new(ApiCode::Unauthorized, detail);
        let header = headers.get(header::AUTHORIZATION).ok_or_else(|| refused("the request has no credentials"))?;
        let identified = header.to_str().ok().and_then(|text| self.auth.identify(text));
        identified.ok_or_else(|| refused("the access key is unknown or its secret is another one"))
    }
}

/// Credentials before the body: strangers cannot make us read one.
async fn submit(
    State(app): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<SubmitResponse>), Refusal> {
    let user = app.identify(&headers)?;
    let submission = parse_submit(&whole(body).await?)?;
    let places = stores::Places::resolve(&app.stores, &user, &submission)?;
    let answer = app.supervisor.submit(Caller { owner: user.access_key, host: peer.0 }, submission, places).await?;
    tracing::info!(transfer = answer.transfer_id, "transfer opened");
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn whole(body: Body) -> Result<axum::body::Bytes, Problem> {
    let too_large =
        |_| Problem::new(ApiCode::BodyTooLarge, format!("the body has more than {REQUEST_BODY_BYTES_MAX} bytes, or was cut off"));
    to_bytes(body, REQUEST_BODY_BYTES_MAX).await.map_err(too_large)
}

async fn list(State(app): Shared, headers: HeaderMap) -> Result<Json<TransferList>, Refusal> {
    let user = app.identify(&headers)?;
    Ok(Json(app.supervisor.list(user.access_key).await?))
}

async fn status(State(app): Shared, Path(id): Path<String>, headers: HeaderMap) -> Result<Json<TransferStatus>, Refusal> {
    let user = app.identify(&headers)?;
    Ok(Json(app.supervisor.status(user.access_key, id).await?))
}

/// The engine's list as it is. It may be long, so it is read as fast as the client takes it.
async fn durable(State(app): Shared, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, Refusal> {
    let user = app.identify(&headers)?;
    let body = match app.supervisor.durable(user.access_key, id).await? {
        None => Body::empty(),
        Some(path) => {
            let gone = |error| Problem::new(ApiCode::NotFound, format!("the list of what is durable: {error}"));
            let file = tokio::fs::File::open(path).await.map_err(gone)?;
            Body::from_stream(tokio_util::io::ReaderStream::new(file))
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// What the client of a download has already, in the form of the list above. The engine reads it and removes it.
async fn have(State(app): Shared, Path(id): Path<String>, headers: HeaderMap, body: Body) -> Result<StatusCode, Refusal> {
    let user = app.identify(&headers)?;
    let lane_id = app.supervisor.wants_list(user.access_key.clone(), id.clone()).await?;
    let failed = |error: std::io::Error| {
        let folder = app.lists.display();
        Problem::new(ErrorCode::Internal, format!("the list cannot be kept in {folder}: {error}"))
    };
    // Removed with this request, however that ends, unless the engine takes it over.
    let list = tempfile::Builder::new().prefix(&format!("{lane_id:016x}-")).suffix(".have.ndjson").tempfile_in(&app.lists);
    let (file, path) = list.map_err(failed)?.into_parts();
    save(body, tokio::fs::File::from_std(file), &failed).await?;
    app.supervisor.have(user.access_key, id, path.to_path_buf()).await?;
    path.keep().map_err(|error| failed(error.error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes a body to a file; `failed` says what went wrong with that.
async fn save(body: Body, mut file: tokio::fs::File, failed: &impl Fn(std::io::Error) -> Problem) -> Result<(), Problem> {
    let (mut pieces, mut bytes) = (body.into_data_stream(), 0);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| Problem::new(ApiCode::Malformed, format!("the list was cut off: {error}")))?;
        bytes += piece.len() as u64;
        if bytes > HAVE_BYTES_MAX {
            return Err(Problem::new(ApiCode::BodyTooLarge, format!("the list has more than {HAVE_BYTES_MAX} bytes")));
        }
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)
}

async fn change_rate(State(app): Shared, Path(id): Path<String>, headers: HeaderMap, body: Body) -> Result<Json<TransferStatus>, Refusal> {
    let user = app.identify(&headers)?;
    let change = RateChange::parse(&whole(body).await?)?;
    Ok(Json(app.supervisor.change_rate(user.access_key, id, change).await?))
}

async fn cancel(State(app): Shared, Path(id): Path<String>, headers: HeaderMap) -> Result<Json<TransferStatus>, Refusal> {
    let user = app.identify(&headers)?;
    Ok(Json(app.supervisor.cancel(user.access_key, id).await?))
}

/// Without credentials only whether; with right ones everything; wrong ones are refused.
async fn health(State(app): Shared, headers: HeaderMap) -> Result<(StatusCode, Json<Health>), Refusal> {
    let known = headers.contains_key(header::AUTHORIZATION).then(|| app.identify(&headers)).transpose()?;
    let mut health = app.supervisor.health().await?;
    if known.is_none() {
        health = Health { status: health.status, version: None, engine: None, engine_problem: None };
    }
    let status = if health.status == HealthState::Ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(health)))
}

async fn no_route(request: Request) -> Refusal {
    let path: String = request.uri().path().chars().take(200).collect();
    Refusal(Problem::new(ApiCode::NoSuchRoute, format!("{} {path}", request.method())))
}
