//! Listing a container (Azure Storage REST API, "List Blobs").

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use reqwest::Method;
use serde::Deserialize;

use super::Container;
use crate::error::StoreError;
use crate::list::{Depth, LIST_ENTRIES_MAX, ListEntry, ListedObject, Listing};
use crate::rest::{Request, bare, date_ns, plain};
use crate::store::ObjectKey;

/// Between the last key of a page and the service's marker in [`Listing::next`]: no key holds it.
const MARKER: u8 = 0;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    blobs: Blobs,
    #[serde(default)]
    next_marker: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Blobs {
    #[serde(default)]
    blob: Vec<Blob>,
    #[serde(default)]
    blob_prefix: Vec<BlobPrefix>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Blob {
    name: Name,
    #[serde(default)]
    properties: Properties,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BlobPrefix {
    name: Name,
}

/// Names with characters that XML has not are percent-encoded.
#[derive(Deserialize)]
struct Name {
    #[serde(default, rename = "@Encoded")]
    encoded: bool,
    #[serde(default, rename = "$text")]
    text: String,
}

#[derive(Default, Deserialize)]
struct Properties {
    #[serde(default, rename = "Content-Length")]
    length: u64,
    #[serde(default, rename = "Last-Modified")]
    modified: String,
    #[serde(default, rename = "Etag")]
    etag: String,
    /// Of accounts with a hierarchical namespace: `file` or `directory`.
    #[serde(default, rename = "ResourceType")]
    kind: String,
}

impl Name {
    fn plain(self) -> String {
        if !self.encoded {
            return self.text;
        }
        percent_decode_str(&self.text).decode_utf8().map_or_else(|_| self.text.clone(), Cow::into_owned)
    }
}

impl Container {
    /// One page, see [`crate::Store::list`]. The service goes on from its own markers only, so a page carries one behind its last key; after a
    /// key without one everything before is passed over.
    pub(super) async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        let cut = after.and_then(|after| after.iter().position(|&byte| byte == MARKER));
        // Behind a marker everything is new: the service's order is not that of the keys' bytes.
        let (after, mut marker) = match (after, cut) {
            (Some(after), Some(cut)) => (None, String::from_utf8_lossy(&after[cut + 1..]).into_owned()),
            (after, _) => (after, String::new()),
        };
        let limit = limit.clamp(1, LIST_ENTRIES_MAX);
        loop {
            let answer = self.page(prefix, &marker, limit, depth).await?;
            let Answer { blobs, next_marker } = answer;
            let mut entries: Vec<ListEntry> = blobs.blob.into_iter().filter_map(listed).map(ListEntry::Object).collect();
            entries.extend(blobs.blob_prefix.into_iter().map(|folder| ListEntry::Folder(folder.name.plain().into_bytes())));
            entries.sort_by(|one, other| one.key().cmp(other.key()));
            entries.retain(|entry| after.is_none_or(|after| is_behind(entry, after)));
            if entries.is_empty() && !next_marker.is_empty() {
                marker = next_marker;
                continue;
            }
            let last = entries.last().map(|entry| entry.key().to_vec());
            let next = last.filter(|_| !next_marker.is_empty()).map(|mut last| {
                last.push(MARKER);
                last.extend_from_slice(next_marker.as_bytes());
                last
            });
            return Ok(Listing { entries, next });
        }
    }

    async fn page(&self, prefix: &str, marker: &str, limit: usize, depth: Depth) -> Result<Answer, StoreError> {
        let asked = self.asked("list blobs", "", 0);
        let mut request = Request::new(asked, Method::GET, &self.client.container, None).query("comp", "list");
        if depth == Depth::OneLevel {
            request = request.query("delimiter", "/");
        }
        if !marker.is_empty() {
            request = request.query("marker", marker);
        }
        request = request.query("maxresults", limit.to_string());
        if !prefix.is_empty() {
            request = request.query("prefix", prefix);
        }
        let answer = self.client.send(request.query("restype", "container")).await?;
        let text = answer.text().await.map_err(|error| asked.broken(&plain(&error)))?;
        quick_xml::de::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| asked.unmade(&format!("the listing: {error}")))
    }
}

/// What lies in a folder comes behind the folder itself.
fn is_behind(entry: &ListEntry, after: &[u8]) -> bool {
    match entry {
        ListEntry::Object(object) => object.key.as_bytes() > after,
        ListEntry::Folder(folder) => folder.as_slice() > after && !after.starts_with(folder),
    }
}

/// What is no name for a file is passed over, and so are directories.
fn listed(blob: Blob) -> Option<ListedObject> {
    let Properties { length, modified, etag, kind } = blob.properties;
    if kind == "directory" {
        return None;
    }
    Some(ListedObject {
        key: ObjectKey::new(blob.name.plain().as_bytes()).ok()?,
        size: length,
        modified_ns: date_ns(&modified),
        etag: (!etag.is_empty()).then(|| bare(&etag)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_where_the_service_says_so() {
        let text = "<EnumerationResults><Blobs><Blob><Name Encoded=\"true\">a%01b%2B</Name><Properties><Content-Length>3</Content-Length>\
            <Last-Modified>Fri, 26 Jun 2015 23:39:12 GMT</Last-Modified><Etag>0x8D</Etag></Properties></Blob>\
            <Blob><Name>folder</Name><Properties><ResourceType>directory</ResourceType></Properties></Blob>\
            <Blob><Name>c%41 &amp; d</Name></Blob><BlobPrefix><Name>f/</Name></BlobPrefix></Blobs><NextMarker>m!</NextMarker></EnumerationResults>";
        let answer: Answer = quick_xml::de::from_str(text).unwrap();
        assert_eq!(answer.next_marker, "m!");
        let listed: Vec<ListedObject> = answer.blobs.blob.into_iter().filter_map(listed).collect();
        assert_eq!(listed[0].key.as_bytes(), b"a\x01b+");
        assert_eq!((listed[0].size, listed[0].modified_ns, listed[0].etag.as_deref()), (3, Some(1_435_361_952_000_000_000), Some("0x8D")));
        assert_eq!(listed[1].key.as_bytes(), b"c%41 & d");
        let empty: Answer = quick_xml::de::from_str("<EnumerationResults><Blobs /><NextMarker /></EnumerationResults>").unwrap();
        assert!(empty.blobs.blob.is_empty() && empty.next_marker.is_empty());
    }
}
