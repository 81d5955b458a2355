//! What is asked about the objects of a store, and the answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Store};

/// Most bytes of the entries of one page in a frame, so that it stays well below [`crate::FRAME_BYTES_MAX`].
const PAGE_BYTES_MAX: usize = 192 * 1024;

/// Most bytes of an entry beside its texts.
const ENTRY_BYTES_MAX: usize = 128;

/// A question about a store's objects. Answered by [`crate::FromEngine::Browsed`] with the same request id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Browse {
    /// Chosen by the control process.
    pub request_id: u64,
    /// Which store, with what it takes to use it.
    pub store: Store,
    /// What is to be done.
    pub question: BrowseQuestion,
}

/// What is to be done. Keys and prefixes are relative to the store's root or bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BrowseQuestion {
    /// A page of the objects whose keys begin with a prefix.
    List {
        /// The prefix; may be empty.
        prefix: String,
        /// [`ObjectPage::next`] of the page before, or any key.
        after: Option<String>,
        /// Most entries of the page.
        limit: u32,
        /// All objects below the prefix, rather than folders.
        recursive: bool,
    },
    /// What is known about an object.
    Stat {
        /// Its key.
        key: String,
    },
    /// Remove an object.
    Remove {
        /// Its key.
        key: String,
    },
}

/// The engine's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Browsed {
    /// As asked.
    pub request_id: u64,
    /// The answer.
    pub answer: BrowseAnswer,
}

/// The answer to a [`BrowseQuestion`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BrowseAnswer {
    /// To [`BrowseQuestion::List`].
    Page(ObjectPage),
    /// To [`BrowseQuestion::Stat`].
    Object(ObjectDetails),
    /// To [`BrowseQuestion::Remove`]: it is gone.
    Removed,
    /// To [`BrowseQuestion::Stat`] and [`BrowseQuestion::Remove`]: there is no such object.
    Missing,
    /// The store refused or failed.
    Failed {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people: what happened, where.
        text: String,
    },
}

/// A page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectPage {
    /// In the order of the store: that of keys, but SeaweedFS sorts each folder by itself.
    pub entries: Vec<ObjectEntry>,
    /// What to ask for `after` to get the next page; `None`: this was the last. Only this tells: a page may be short or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Objects left out because their names are not UTF-8.
    #[serde(default)]
    pub unnameable: u64,
}

impl ObjectPage {
    /// How many entries fit a frame, if not all do.
    #[must_use]
    pub fn fitting(&self) -> Option<usize> {
        let mut bytes = 0;
        let fitting = self.entries.iter().take_while(|entry| {
            bytes += entry.json_bytes_max();
            bytes <= PAGE_BYTES_MAX
        });
        // A key has at most 4096 bytes, so at least one fits.
        let fitting = fitting.count().max(1);
        (fitting < self.entries.len()).then_some(fitting)
    }
}

/// An object, or a folder that stands for all objects below it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectEntry {
    /// Its key. In answers to users without the folder that was listed. That of a folder ends in `/`.
    pub name: String,
    /// It is a folder.
    #[serde(default)]
    pub folder: bool,
    /// Size, bytes; 0 for a folder.
    pub size: u64,
    /// When the store last changed it, nanoseconds since 1970-01-01 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_ns: Option<i64>,
    /// Entity tag of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

impl ObjectEntry {
    fn json_bytes_max(&self) -> usize {
        ENTRY_BYTES_MAX + json_bytes(&self.name) + self.etag.as_deref().map_or(0, json_bytes)
    }
}

/// Length of a text in JSON, without its quotes.
fn json_bytes(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            0..0x20 => 6,
            b'"' | b'\\' => 2,
            _ => 1,
        })
        .sum()
}

/// What is known about an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectDetails {
    /// Size, bytes.
    pub size: u64,
    /// When the store last changed it, nanoseconds since 1970-01-01 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_ns: Option<i64>,
    /// Modification time of the file that was sent, nanoseconds since 1970-01-01 UTC, if it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime_ns: Option<i64>,
    /// Unix permissions of the file that was sent, if they were kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Entity tag of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// CRC-64/NVME of its bytes, if the store keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc64: Option<u64>,
    /// What else was kept of the file, and metadata that others gave the object (docs/spec/metadata.md); none if it is more than any sender gives.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FromEngine, encode_frame};

    fn entry(number: usize, filler: &str) -> ObjectEntry {
        let etag = Some(format!("{number:032x}-10000"));
        ObjectEntry { name: format!("{number:08}{filler}"), folder: false, size: u64::MAX, modified_ns: Some(i64::MIN), etag }
    }

    #[test]
    fn as_many_entries_as_are_said_to_fit_do() {
        for filler in ["", "\u{1}", "\"", "\u{65e5}", "x"] {
            let filler = filler.repeat(4088 / filler.len().max(1));
            let all = || (0..1000).map(|number| entry(number, &filler)).collect::<Vec<_>>();
            let mut page = ObjectPage { entries: all(), next: Some("after all".to_owned()), unnameable: 3 };
            let fitting = page.fitting().unwrap_or(1000);
            assert_eq!(fitting < 1000, !filler.is_empty());
            page.entries.truncate(fitting);
            assert!(fitting >= 1 && page.fitting().is_none());
            let answer = BrowseAnswer::Page(page);
            encode_frame(&FromEngine::Browsed(Box::new(Browsed { request_id: u64::MAX, answer }))).unwrap();
        }
        let usual = ObjectPage { entries: (0..1000).map(|number| entry(number, "")).collect(), next: None, unnameable: 0 };
        assert_eq!(usual.fitting(), None, "a page of short names is whole");
    }
}
