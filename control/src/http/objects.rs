//! Requests about the objects of stores. A user sees and removes objects where the same user may send files to.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use tradewind_api::limits::{OBJECT_KEY_BYTES_MAX, OBJECTS_PAGE_MAX};
use tradewind_api::{
    ApiCode, DestinationName, DestinationUrl, ErrorCode, ListQuery, ObjectDetails, ObjectPage, ObjectQuery, Problem, Removed,
};
use tradewind_ipc::{BrowseAnswer, BrowseQuestion, Destination, Store};

use super::{App, Refusal, Shared};
use crate::stores;

/// `GET /v1/objects`.
pub(super) async fn list(
    State(app): Shared,
    headers: HeaderMap,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<ObjectPage>, Refusal> {
    let Destination { store, name } = app.place(&headers, query.as_ref().map(|query| query.url.as_str()))?;
    let Query(query) = query.map_err(|rejection| malformed(&rejection))?;
    let limit = query.limit.unwrap_or(OBJECTS_PAGE_MAX);
    if !(1..=OBJECTS_PAGE_MAX).contains(&limit) {
        return Err(Problem::new(ApiCode::Invalid, format!("a page of {limit} objects: 1 to {OBJECTS_PAGE_MAX} can be asked for")).into());
    }
    let (DestinationName::Into(prefix) | DestinationName::Exact(prefix)) = name;
    let folder = prefix.rfind('/').map_or(0, |slash| slash + 1);
    let after = match query.after {
        Some(name) if name.len() > AFTER_BYTES_MAX => {
            return Err(Problem::new(ApiCode::Invalid, format!("'after' has more than {AFTER_BYTES_MAX} bytes")).into());
        }
        after => after.map(|name| format!("{}{name}", &prefix[..folder])),
    };
    let mut page =
        match app.browse(store, BrowseQuestion::List { prefix: prefix.clone(), after, limit, recursive: query.recursive }).await? {
            BrowseAnswer::Page(page) => page,
            other => return Err(unexpected(&other).into()),
        };
    for name in page.entries.iter_mut().map(|entry| &mut entry.name).chain(&mut page.next) {
        let relative = name.strip_prefix(&prefix[..folder]).map(str::to_owned);
        *name = relative.ok_or_else(|| Problem::new(ErrorCode::Internal, "the engine listed an object of another folder"))?;
    }
    Ok(Json(page))
}

/// `GET /v1/object`.
pub(super) async fn show(
    State(app): Shared,
    headers: HeaderMap,
    query: Result<Query<ObjectQuery>, QueryRejection>,
) -> Result<Json<ObjectDetails>, Refusal> {
    let (store, key, url) = app.object(&headers, query)?;
    match app.browse(store, BrowseQuestion::Stat { key }).await? {
        BrowseAnswer::Object(details) => Ok(Json(details)),
        BrowseAnswer::Missing => Err(Problem::new(ApiCode::ObjectMissing, url).into()),
        other => Err(unexpected(&other).into()),
    }
}

/// `DELETE /v1/object`.
pub(super) async fn remove(
    State(app): Shared,
    headers: HeaderMap,
    query: Result<Query<ObjectQuery>, QueryRejection>,
) -> Result<Json<Removed>, Refusal> {
    let (store, key, url) = app.object(&headers, query)?;
    match app.browse(store, BrowseQuestion::Remove { key }).await? {
        BrowseAnswer::Removed => {
            tracing::info!(url, "object removed");
            Ok(Json(Removed { url }))
        }
        BrowseAnswer::Missing => Err(Problem::new(ApiCode::ObjectMissing, url).into()),
        other => Err(unexpected(&other).into()),
    }
}

/// Longest `after`: a name that a local store may have.
const AFTER_BYTES_MAX: usize = 4 * OBJECT_KEY_BYTES_MAX;

impl App {
    /// Store and name of a URL, if this user may use them. Who is asked before what is asked.
    pub(super) fn place(&self, headers: &HeaderMap, url: Result<&str, &QueryRejection>) -> Result<Destination, Problem> {
        let user = self.identify(headers)?;
        let url = DestinationUrl::parse(url.map_err(malformed)?).map_err(|e| Problem::new(ErrorCode::DestinationInvalid, e.to_string()))?;
        Ok(stores::resolve(&self.stores, &user, &url)?.destination)
    }

    fn object(&self, headers: &HeaderMap, query: Result<Query<ObjectQuery>, QueryRejection>) -> Result<(Store, String, String), Problem> {
        let Destination { store, name } = self.place(headers, query.as_ref().map(|query| query.url.as_str()))?;
        let Query(ObjectQuery { url }) = query.map_err(|rejection| malformed(&rejection))?;
        match name {
            DestinationName::Exact(key) => Ok((store, key, url)),
            DestinationName::Into(_) => {
                let problem = Problem::new(ApiCode::Invalid, format!("'{url}' is a folder, and this is about one object"));
                Err(problem.with_hint("list the folder's objects and name one of them"))
            }
        }
    }

    async fn browse(&self, store: Store, question: BrowseQuestion) -> Result<BrowseAnswer, Problem> {
        match self.supervisor.browse(store, question).await? {
            BrowseAnswer::Failed { code, text } => Err(Problem::new(code, text)),
            answer => Ok(answer),
        }
    }
}

fn malformed(rejection: &QueryRejection) -> Problem {
    Problem::new(ApiCode::Malformed, format!("the query: {}", rejection.body_text()))
}

fn unexpected(answer: &BrowseAnswer) -> Problem {
    tracing::error!(?answer, "the engine answered another question");
    Problem::new(ErrorCode::Internal, "the engine answered another question")
}
