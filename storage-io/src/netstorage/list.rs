//! Listing a CP code (Akamai TechDocs, NetStorage Usage API, the actions `dir` and `list`).
//!
//! `dir` tells what is directly in a directory, `list` everything from a path on, in the order of the names' bytes. Either ends where the server
//! likes and says then where to go on.

use percent_encoding::utf8_percent_encode;

use super::Group;
use super::answers::{Answer, File, Kind};
use crate::error::StoreError;
use crate::list::{Depth, LIST_ENTRIES_MAX, ListEntry, ListedObject, Listing};
use crate::rest::QUERY;
use crate::store::ObjectKey;

/// What a page may begin with that was told before: an object and a directory of the same name.
const TOLD_BEFORE: usize = 2;

/// A page that is being filled.
struct Page {
    limit: usize,
    entries: Vec<ListEntry>,
}

impl Page {
    /// False: it is full, and this entry belongs to the next.
    fn add(&mut self, entry: ListEntry) -> bool {
        if self.entries.len() == self.limit {
            return false;
        }
        self.entries.push(entry);
        true
    }

    /// As a page with more behind it.
    fn and_more(self) -> Listing {
        let next = self.entries.last().map(|entry| entry.key().to_vec());
        Listing { entries: self.entries, next }
    }

    fn last(self) -> Listing {
        Listing { entries: self.entries, next: None }
    }
}

impl Group {
    /// One page, see [`crate::Store::list`].
    pub(super) async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        let limit = limit.clamp(1, LIST_ENTRIES_MAX);
        let after = after.map(|after| String::from_utf8_lossy(after).into_owned());
        let page = Page { limit, entries: Vec::new() };
        match depth {
            Depth::All => self.everything(prefix, after.as_deref().unwrap_or_default(), page).await,
            Depth::OneLevel => self.one_level(prefix, after.as_deref().unwrap_or_default(), page).await,
        }
    }

    /// Nothing is there, if the CP code is.
    async fn nothing(&self) -> Result<Listing, StoreError> {
        self.is_there().await.map(|()| Listing::default())
    }

    async fn everything(&self, prefix: &str, after: &str, mut page: Page) -> Result<Listing, StoreError> {
        let folder = folder_of(prefix);
        let mut from = after.max(prefix).to_owned();
        // Where the server has told to go on: never back, though that may be before what is wanted.
        let mut furthest = String::new();
        let mut action = format!("version=1&action=list&format=xml&encoding=utf-8&mtime_all=yes&max_entries={}", page.limit + TOLD_BEFORE);
        if let Some(folder) = folder.strip_suffix('/') {
            // '0' is what comes behind '/'.
            let end = format!("/{}/{folder}0", self.client.cp_code());
            action = format!("{action}&end={}", utf8_percent_encode(&end, &QUERY));
        }
        loop {
            let answer = match self.ask(&from, &action).await {
                Ok(answer) => answer,
                // A path that is not there is no beginning: what lies behind it also lies behind the directory that would hold it.
                Err(StoreError::NotFound { .. }) if from.len() > folder.len() => {
                    from.truncate(folder_of(from.trim_end_matches('/')).len().max(folder.len()));
                    continue;
                }
                Err(StoreError::NotFound { .. }) => return self.nothing().await,
                Err(error) => return Err(error),
            };
            let mut files: Vec<(String, &File)> =
                answer.files.iter().filter_map(|file| Some((self.key_of(&file.name()?)?, file))).collect();
            files.sort_by(|(one, _), (other, _)| one.cmp(other));
            for (key, file) in files {
                if !key.starts_with(prefix) && key.as_str() > prefix {
                    return Ok(page.last());
                }
                if file.kind() == Kind::File
                    && key.as_str() > after
                    && key.starts_with(prefix)
                    && let Ok(key) = ObjectKey::new(key.as_bytes())
                    && !page.add(object(key, file))
                {
                    return Ok(page.and_more());
                }
            }
            let Some(next) = answer.resume() else { return Ok(page.last()) };
            if !page.entries.is_empty() {
                return Ok(page.and_more());
            }
            let next = self.key_of(&next).filter(|next| next.starts_with(folder)).unwrap_or_default();
            self.is_ahead(&furthest, &next)?;
            (furthest, from) = (next.clone(), next);
        }
    }

    async fn one_level(&self, prefix: &str, after: &str, mut page: Page) -> Result<Listing, StoreError> {
        let (folder, begin) = prefix.rsplit_once('/').map_or(("", prefix), |(folder, begin)| (folder, begin));
        let below = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let after = match after.strip_prefix(&below) {
            Some(after) => position(after),
            None if after > below.as_str() => return Ok(page.last()),
            None => ("", false),
        };
        let mut start = after.0.to_owned();
        loop {
            let mut action = format!("version=1&action=dir&format=xml&encoding=utf-8&slash=both&max_entries={}", page.limit + TOLD_BEFORE);
            for (name, value) in [("prefix", begin), ("start", start.as_str())] {
                if !value.is_empty() {
                    action = format!("{action}&{name}={}", utf8_percent_encode(value, &QUERY));
                }
            }
            let answer = match self.ask(folder, &action).await {
                Ok(answer) => answer,
                Err(StoreError::NotFound { .. }) => return self.nothing().await,
                // It is no directory.
                Err(StoreError::Rejected { code, .. }) if code == "HTTP 412" => return Ok(page.last()),
                Err(error) => return Err(error),
            };
            let named = answer.files.iter().filter_map(|file| Some((file.name()?, file.kind() == Kind::Folder, file)));
            let mut files: Vec<(String, bool, &File)> = named.collect();
            files.sort_by(|(one, one_is_folder, _), (other, other_is_folder, _)| (one, one_is_folder).cmp(&(other, other_is_folder)));
            for (name, is_folder, file) in files {
                let is_wanted = name.starts_with(begin) && (name.as_str(), is_folder) > after;
                let Some(key) = ObjectKey::new(format!("{below}{name}").as_bytes()).ok().filter(|_| is_wanted && !name.contains('/'))
                else {
                    continue;
                };
                let entry = match file.kind() {
                    Kind::File => object(key, file),
                    Kind::Folder => ListEntry::Folder([key.as_bytes(), b"/"].concat()),
                    Kind::Other => continue,
                };
                if !page.add(entry) {
                    return Ok(page.and_more());
                }
            }
            let Some(next) = answer.resume() else { return Ok(page.last()) };
            if !page.entries.is_empty() {
                return Ok(page.and_more());
            }
            self.is_ahead(&start, &next)?;
            start = next;
        }
    }

    async fn ask(&self, path: &str, action: &str) -> Result<Answer, StoreError> {
        let path = Some(path).filter(|path| !path.is_empty());
        self.client.tell(self.asked("list objects", "", 0), path, action).await
    }

    /// The key of a name that begins with the CP code.
    fn key_of(&self, name: &str) -> Option<String> {
        let below = name.trim_start_matches('/').strip_prefix(self.client.cp_code())?.strip_prefix('/')?;
        Some(below.to_owned())
    }

    /// A listing has to come to an end.
    fn is_ahead(&self, from: &str, next: &str) -> Result<(), StoreError> {
        if next > from { Ok(()) } else { Err(self.asked("list objects", "", 0).unmade("the listing goes on where it was already")) }
    }
}

/// Up to the last '/', with it.
fn folder_of(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..=at])
}

fn object(key: ObjectKey, file: &File) -> ListEntry {
    ListEntry::Object(ListedObject { key, size: file.size, modified_ns: file.mtime_ns(), etag: file.etag() })
}

/// Name and whether it is a directory, of what a page ended with. What lies deeper comes with its directory.
fn position(after: &str) -> (&str, bool) {
    after.split_once('/').map_or((after, false), |(name, _)| (name, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_on_behind_what_they_ended_with() {
        assert_eq!((position("a"), position("a/"), position("a/b/c"), position("")), (("a", false), ("a", true), ("a", true), ("", false)));
        assert!(("a", false) < position("a/") && position("a/") < ("a-b", false));
        let mut page = Page { limit: 1, entries: Vec::new() };
        assert!(page.add(ListEntry::Folder(b"a/".to_vec())) && !page.add(ListEntry::Folder(b"b/".to_vec())));
        assert_eq!(page.and_more().next.as_deref(), Some(&b"a/"[..]));
    }
}
