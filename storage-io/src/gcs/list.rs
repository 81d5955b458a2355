//! Listing a bucket (Cloud Storage JSON API, "Objects: list").

use reqwest::Method;
use serde::Deserialize;
use tradewind_integrity::time;

use super::client::At;
use super::{Bucket, PARTS, Resource, is_part};
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
        let mut token = None;
        loop {
            // One more, for the listing begins with what it is to go on behind.
            let mut request = self.listing(prefix, limit + usize::from(after.is_some()));
            if depth == Depth::OneLevel {
                request = request.query("delimiter", "/");
            }
            if let Some(after) = &after {
                request = request.query("startOffset", start_behind(after, depth));
            }
            if let Some(token) = token.take() {
                request = request.query("pageToken", token);
            }
            let page: Page = self.client.ask(At::Objects, request).await?;
            let more = page.next_page_token.filter(|token| !token.is_empty());
            let folders = page.prefixes.into_iter().map(|folder| (folder, None));
            let mut lines: Vec<_> = page.items.into_iter().map(|object| (object.name.clone(), Some(object))).chain(folders).collect();
            lines.sort_by(|one, other| one.0.cmp(&other.0));
            lines.retain(|(name, _)| after.as_ref().is_none_or(|after| name > after));
            if lines.is_empty() && more.is_some() {
                // The service may give pages with nothing in them.
                token = more;
                continue;
            }
            // Emulators may give more than was asked for.
            let is_cut = lines.len() > limit;
            lines.truncate(limit);
            let next = lines.last().filter(|_| more.is_some() || is_cut).map(|(name, _)| name.clone().into_bytes());
            return Ok(Listing { entries: lines.into_iter().filter_map(entry).collect(), next });
        }
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

/// Parts of uploads are passed over, and names that are none of files.
fn entry((name, object): (String, Option<Resource>)) -> Option<ListEntry> {
    let Some(object) = object else {
        // What lies in it are parts, as a rule.
        return (!name.ends_with(PARTS)).then(|| ListEntry::Folder(name.into_bytes()));
    };
    if is_part(&name) {
        return None;
    }
    let key = ObjectKey::new(name.as_bytes()).ok()?;
    let (size, modified_ns, etag) = (object.size, time::parse(&object.updated), Some(object.generation));
    Some(ListEntry::Object(ListedObject { key, size, modified_ns, etag }))
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
