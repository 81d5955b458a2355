//! Listing in the byte order of whole keys, a page at a time, by the listings of directories.
//!
//! A directory sorts as its name with a '/' behind, because that is how the keys in it go on: so a walk that takes the entries of each directory in
//! this order meets all keys of the tree in theirs.

use std::collections::BTreeMap;

use reqwest::Method;

use super::client::Client;
use super::status::{FileStatus, StatusesAnswer};
use super::{Root, names};
use crate::error::StoreError;
use crate::list::{Depth, LIST_ENTRIES_MAX, ListEntry, Listing};
use crate::store::ObjectKey;

/// Directories listed for one page at most: a forest of empty ones must not hold a caller up for ever. More than a path has components, so that
/// every page gets further.
const DIRECTORIES_MAX: usize = 1024;
/// Longest listing of one directory, bytes: of about a million files. A NameNode of Hadoop 2.7 gives all of it in one answer.
const LISTING_BYTES_MAX: usize = 512 << 20;

/// What is listed.
struct Wanted<'a> {
    prefix: &'a str,
    after: &'a [u8],
    depth: Depth,
}

impl Wanted<'_> {
    /// Whether this key, or with '/' at its end anything below it, belongs to the page or a later one.
    fn wants(&self, key: &str) -> bool {
        let below = key.ends_with('/') && self.depth == Depth::All;
        let ahead = key.as_bytes() > self.after || (below && self.after.starts_with(key.as_bytes()));
        ahead && (key.starts_with(self.prefix) || (below && self.prefix.starts_with(key)))
    }
}

/// What is left of a directory on the way down, by whole keys; those of directories end in '/'.
type Level = BTreeMap<String, FileStatus>;

impl Root {
    /// One page, see [`crate::Store::list`].
    pub(super) async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        self.is_there().await?;
        let (wanted, limit) = (Wanted { prefix, after: after.unwrap_or_default(), depth }, limit.clamp(1, LIST_ENTRIES_MAX));
        let folder = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
        if ObjectKey::new(folder.strip_suffix('/').unwrap_or("x").as_bytes()).and_then(|key| names::text(&key)).is_err() {
            return Ok(Listing::default());
        }
        let mut levels = vec![self.level(folder, &wanted).await?];
        let (mut directories, mut page) = (0, Listing::default());
        while let Some(level) = levels.last_mut() {
            let Some((key, status)) = level.pop_first() else {
                levels.pop();
                continue;
            };
            if page.entries.len() == limit {
                page.next = page.entries.last().map(|entry| entry.key().to_vec());
                break;
            }
            if !key.ends_with('/') {
                page.entries.push(ListEntry::Object(status.listed(ObjectKey::new(key.as_bytes())?)));
            } else if depth == Depth::OneLevel {
                page.entries.push(ListEntry::Folder(key.into_bytes()));
            } else if directories == DIRECTORIES_MAX {
                // All that is left is larger than the path itself, and all that was listed is smaller.
                page.next = Some(key.into_bytes());
                break;
            } else {
                directories += 1;
                levels.push(self.level(&key, &wanted).await?);
            }
        }
        Ok(page)
    }

    /// What is wanted of a directory, whose path is empty or ends in '/'; nothing where there is none.
    async fn level(&self, folder: &str, wanted: &Wanted<'_>) -> Result<Level, StoreError> {
        let path = self.path(folder.strip_suffix('/').unwrap_or(folder));
        let mut level = Level::new();
        for status in self.entries(folder, &path).await?.unwrap_or_default() {
            // A file that was asked about itself has no name here.
            let Some(name) = names::listed(&status.path_suffix).filter(|name| !name.is_empty()) else { continue };
            let slash = if status.is_directory() { "/" } else { "" };
            let key = format!("{folder}{name}{slash}");
            let is_name = ObjectKey::new(key.strip_suffix('/').unwrap_or(&key).as_bytes()).and_then(|key| names::text(&key)).is_ok();
            if (status.is_file() || status.is_directory()) && is_name && wanted.wants(&key) {
                level.insert(key, status);
            }
        }
        Ok(level)
    }

    /// All entries of a directory as HDFS names them; `None`: there is none.
    pub(super) async fn entries(&self, key: &str, path: &str) -> Result<Option<Vec<FileStatus>>, StoreError> {
        let request = Client::request(self.asked("list a folder", key, 0), Method::GET, "LISTSTATUS", path);
        match self.client.send_for::<StatusesAnswer>(request, LISTING_BYTES_MAX).await {
            Ok(answer) => Ok(Some(answer.file_statuses.file_status)),
            Err(StoreError::ObjectGone { .. } | StoreError::InvalidName { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
