//! Listing a container (Object Storage API v1, "Show container details and list objects").

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::Method;
use serde::Deserialize;
use tradewind_integrity::time;

use super::{Container, REQUESTS_AT_ONCE};
use crate::error::StoreError;
use crate::existing::Existing as _;
use crate::list::{Depth, LIST_ENTRIES_MAX, ListEntry, ListedObject, Listing};
use crate::rest::{Request, bare, plain};
use crate::store::ObjectKey;

/// A line of a container's listing.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    Folder { subdir: String },
    Object(Object),
}

#[derive(Deserialize)]
pub(super) struct Object {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) hash: String,
    #[serde(default)]
    last_modified: String,
    /// Of a static large object, whose `hash` is that of its manifest.
    slo_etag: Option<String>,
}

/// MD5 of nothing.
const EMPTY: &str = "d41d8cd98f00b204e9800998ecf8427e";

impl Container {
    /// Most entries of a page.
    fn page_entries(&self) -> usize {
        self.client.info().swift.container_listing_limit.clamp(1, LIST_ENTRIES_MAX)
    }

    /// One page, see [`crate::Store::list`].
    pub(super) async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        let limit = limit.clamp(1, self.page_entries());
        let after = after.map(|after| String::from_utf8_lossy(after).into_owned());
        // Behind a folder, nothing of it may come again.
        let marker = after.map(|after| if depth == Depth::OneLevel && after.ends_with('/') { after + "\u{10ffff}" } else { after });
        let lines = self.page(&self.name, prefix, marker.as_deref().unwrap_or_default(), limit, depth).await?;
        let last = lines.last().filter(|_| lines.len() >= limit);
        let next = last.map(|(Line::Folder { subdir: name } | Line::Object(Object { name, .. }))| name.clone().into_bytes());
        let entries = stream::iter(lines.into_iter().map(|line| self.entry(line))).buffered(REQUESTS_AT_ONCE);
        let entries: Vec<Option<ListEntry>> = entries.try_collect().await?;
        Ok(Listing { entries: entries.into_iter().flatten().collect(), next })
    }

    async fn entry(&self, line: Line) -> Result<Option<ListEntry>, StoreError> {
        let object = match line {
            Line::Folder { subdir } => return Ok(Some(ListEntry::Folder(subdir.into_bytes()))),
            Line::Object(object) => object,
        };
        let Ok(key) = ObjectKey::new(object.name.as_bytes()) else { return Ok(None) };
        let modified_ns = time::parse(&format!("{}Z", object.last_modified.trim_end_matches('Z')));
        let (mut size, mut etag) = (object.bytes, bare(object.slo_etag.as_deref().unwrap_or(&object.hash)));
        // A dynamic large object is listed as if it were empty.
        if size == 0 && object.hash == EMPTY {
            let Some(found) = self.look(&object.name).await? else { return Ok(None) };
            (size, etag) = (found.info.size, found.info.etag.unwrap_or(etag));
        }
        Ok(Some(ListEntry::Object(ListedObject { key, size, modified_ns, etag: Some(etag) })))
    }

    /// Lines of a container behind `marker`.
    async fn page(&self, container: &str, prefix: &str, marker: &str, limit: usize, depth: Depth) -> Result<Vec<Line>, StoreError> {
        let asked = self.asked("list objects", "", 0);
        let mut request = Request::new(asked, Method::GET, container, None).query("format", "json").query("limit", limit.to_string());
        for (name, value) in [("prefix", prefix), ("marker", marker)] {
            if !value.is_empty() {
                request = request.query(name, value);
            }
        }
        if depth == Depth::OneLevel {
            request = request.query("delimiter", "/");
        }
        let answer = self.client.send(request).await?;
        let text = answer.bytes().await.map_err(|error| asked.broken(&plain(&error)))?;
        serde_json::from_slice(&text).map_err(|error| asked.unmade(&format!("the listing: {error}")))
    }

    /// Everything below a prefix of any container; nothing where there is no such container.
    pub(super) async fn all(&self, container: &str, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let mut all: Vec<Object> = Vec::new();
        loop {
            let marker = all.last().map(|object| object.name.clone()).unwrap_or_default();
            let limit = self.page_entries();
            let lines = match self.page(container, prefix, &marker, limit, Depth::All).await {
                Err(StoreError::NotFound { .. }) => return Ok(all),
                lines => lines?,
            };
            let count = lines.len();
            all.extend(lines.into_iter().filter_map(|line| if let Line::Object(object) = line { Some(object) } else { None }));
            if count < limit {
                return Ok(all);
            }
        }
    }
}
