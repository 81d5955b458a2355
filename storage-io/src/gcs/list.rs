//! Listing a bucket (Cloud Storage JSON API, "Objects: list").

use reqwest::Method;
use serde::Deserialize;
use tradewind_integrity::time;

use super::client::At;
use super::{Bucket, PARTS, Resource};
use crate::error::StoreError;
use crate::list::{Depth, LIST_ENTRIES_MAX, ListEntry, ListedObject, Listing};
use crate::rest::Request;
use crate::store::ObjectKey;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page {
    #[serde(default)]
    pub(super) items: Vec<Resource>,
    #[serde(default)]
    prefixes: Vec<String>,
    pub(super) next_page_token: Option<String>,
}

impl Bucket {
    /// One page, see [`crate::Store::list`]. Keys come in the order of their bytes. Parts of uploads are no objects.
    pub(super) async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        let limit = limit.clamp(1, LIST_ENTRIES_MAX);
        let after = after.map(|after| String::from_utf8_lossy(after).into_owned());
        let mut request = self.listing(prefix, limit);
        if depth == Depth::OneLevel {
            request = request.query("delimiter", "/");
        }
        if let Some(after) = &after {
            request = request.query("startOffset", start_behind(after, depth));
        }
        let page: Page = self.client.ask(At::Objects, request).await?;
        let has_token = page.next_page_token.is_some_and(|token| !token.is_empty());
        let folders = page.prefixes.into_iter().map(|folder| (folder, None));
        let mut lines: Vec<_> = page.items.into_iter().map(|object| (object.name.clone(), Some(object))).chain(folders).collect();
        lines.sort_by(|one, other| one.0.cmp(&other.0));
        lines.retain(|(name, _)| after.as_ref().is_none_or(|after| name > after));
        // Emulators may give more than was asked for.
        let is_cut = lines.len() > limit;
        lines.truncate(limit);
        let next = lines.last().filter(|_| has_token || is_cut).map(|(name, _)| name.clone().into_bytes());
        let entries = lines.into_iter().filter(|(name, _)| !name.contains(PARTS)).filter_map(|(name, object)| {
            let Some(object) = object else { return Some(ListEntry::Folder(name.into_bytes())) };
            Some(ListEntry::Object(ListedObject {
                key: ObjectKey::new(name.as_bytes()).ok()?,
                size: object.size,
                modified_ns: time::parse(&object.updated),
                etag: Some(object.generation),
            }))
        });
        Ok(Listing { entries: entries.collect(), next })
    }

    /// A question for a page.
    pub(super) fn listing(&self, prefix: &str, limit: usize) -> Request<'_> {
        let mut request = self.request("list objects", Method::GET, None, 0).query("maxResults", limit.to_string());
        if !prefix.is_empty() {
            request = request.query("prefix", prefix);
        }
        request.query("fields", "items(name,size,generation,updated,crc32c),prefixes,nextPageToken")
    }
}

/// Where a listing begins, so that it goes on behind `after`: at it, for there is no name between it and what is behind; of a folder, where its
/// contents end.
fn start_behind(after: &str, depth: Depth) -> String {
    match after.strip_suffix('/') {
        // '0' follows '/'.
        Some(folder) if depth == Depth::OneLevel => format!("{folder}0"),
        _ => after.to_owned(),
    }
}
