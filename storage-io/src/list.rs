//! What a listing of a store says.

use crate::store::ObjectKey;

/// Most entries of one page; more are not asked of any store.
pub const LIST_ENTRIES_MAX: usize = 1000;

/// How far down a listing goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// Every object whose key begins with the prefix.
    #[default]
    All,
    /// Up to the next '/' behind the prefix: what lies deeper is one [`ListEntry::Folder`].
    OneLevel,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// Its whole key.
    pub key: ObjectKey,
    /// Size, bytes.
    pub size: u64,
    /// When the store last changed it, nanoseconds since 1970-01-01 UTC, if known. A directory keeps the file's own
    /// modification time here; of an object in a bucket, only [`crate::Store::head`] tells that.
    pub modified_ns: Option<i64>,
    /// The store's entity tag, without quotes.
    pub etag: Option<String>,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListEntry {
    /// An object.
    Object(ListedObject),
    /// Everything below this path, which ends in '/'. Only with [`Depth::OneLevel`].
    Folder(Vec<u8>),
}

impl ListEntry {
    /// The object's key or the folder's path: where the listing goes on after this entry.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Object(object) => object.key.as_bytes(),
            Self::Folder(path) => path,
        }
    }
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// At most as many as were asked for. A page may be short or empty although there is more.
    pub entries: Vec<ListEntry>,
    /// What to ask for `after` to get the next page; `None`: this was the last.
    pub next: Option<Vec<u8>>,
}
