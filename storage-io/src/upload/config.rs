//! What an upload is allowed and how its objects are called.

use std::borrow::Cow;

use crate::error::StoreError;
use crate::name;
use crate::retry::RetryPolicy;
use crate::store::{ObjectKey, token};

/// What the files are called at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectName {
    /// Their own names behind this prefix, which is empty or ends in '/'.
    Into(String),
    /// The one file of the transfer gets exactly this name.
    Exact(String),
}

/// Settings of one [`crate::Uploader`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploaderConfig {
    /// Names at the destination.
    pub name: ObjectName,
    /// The store takes only text, so names that are none are written as text ([`crate::Store::takes_only_text`]). Default no.
    pub encode_names: bool,
    /// What the sender makes of its files, if not just their bytes: what another variant left of the same file is not gone on with. 0: their
    /// bytes. Default 0.
    pub variant: u64,
    /// Whether existing objects may be replaced. Default no.
    pub overwrite: bool,
    /// A file that cannot be stored for a reason of its own ([`StoreError::spares_other_files`]) is left out and told
    /// ([`crate::UploadEvent::FileLeftOut`]); else it ends the upload. Default no.
    pub leave_out: bool,
    /// Payload of a block, bytes: parts are whole blocks. Default 1 MiB.
    pub block_bytes: u64,
    /// Wanted part size, bytes; `None` takes the store's (16 MiB for S3, a block for files). Larger if the object needs it.
    pub part_bytes: Option<u64>,
    /// Bytes of blocks this upload may hold at once, as the engine's credits allow it: a file whose parts are larger is refused
    /// at its first block instead of stalling. Default unlimited.
    pub pool_bytes: u64,
    /// Parts (and objects above 1 MiB) on their way at once in the beginning, at least 1. Default 8.
    pub parts_in_flight: u32,
    /// The same at most, where more make the store faster. Default 64.
    pub parts_in_flight_max: u32,
    /// Objects up to 1 MiB on their way at once in the beginning, at least 1: they are bound by round trips. Default 32.
    pub small_in_flight: u32,
    /// The same at most, where more make the store faster. Default 256.
    pub small_in_flight_max: u32,
    /// Retries and deadlines of every request.
    pub retry: RetryPolicy,
    /// How long cleaning up after a failure may take, milliseconds. Default 15,000.
    pub cleanup_ms: u64,
}

impl ObjectName {
    /// The key of a file of this path at a store that takes only text, or any names.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`].
    pub fn key_of(&self, path: &[u8], only_text: bool) -> Result<ObjectKey, StoreError> {
        match self {
            Self::Into(prefix) => UploaderConfig { encode_names: only_text, ..UploaderConfig::default() }.key_of(prefix, path),
            Self::Exact(name) => ObjectKey::new(name.as_bytes()),
        }
    }
}

impl UploaderConfig {
    /// The key of a file of this path below [`ObjectName::Into`].
    pub(crate) fn key_of(&self, prefix: &str, path: &[u8]) -> Result<ObjectKey, StoreError> {
        let path = if self.encode_names { Cow::Owned(name::encode(path)) } else { Cow::Borrowed(path) };
        ObjectKey::new(&[prefix.as_bytes(), &path].concat())
    }

    /// The key of a file of this path.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`].
    pub fn key_for(&self, path: &[u8]) -> Result<ObjectKey, StoreError> {
        match &self.name {
            ObjectName::Into(prefix) => self.key_of(prefix, path),
            ObjectName::Exact(name) => ObjectKey::new(name.as_bytes()),
        }
    }

    /// The same for every transfer that makes the same objects of the same files: at a [`crate::Store::place`], of these names, of this variant.
    #[must_use]
    pub fn names_token(&self, place: &str) -> u128 {
        let name = match &self.name {
            ObjectName::Into(prefix) => format!("into {prefix}"),
            ObjectName::Exact(name) => format!("as {name}"),
        };
        token(format!("{place}\0{name}\0{}", self.variant).as_bytes())
    }

    /// What all keys of this transfer begin with.
    pub(crate) fn prefix(&self) -> &str {
        let (ObjectName::Into(prefix) | ObjectName::Exact(prefix)) = &self.name;
        prefix
    }

    /// Whether a key is one that a file of this transfer can get.
    pub(crate) fn is_below(&self, key: &ObjectKey) -> bool {
        match &self.name {
            ObjectName::Into(prefix) => key.as_bytes().len() > prefix.len() && key.as_bytes().starts_with(prefix.as_bytes()),
            ObjectName::Exact(name) => key.as_bytes() == name.as_bytes(),
        }
    }

    /// What the sender calls the file of a key; the last component where it has only one.
    pub(crate) fn path_of(&self, key: &ObjectKey) -> Vec<u8> {
        match &self.name {
            ObjectName::Into(prefix) => {
                let name = key.as_bytes().get(prefix.len()..).unwrap_or_default();
                if self.encode_names { name::decode(name) } else { name.to_vec() }
            }
            ObjectName::Exact(_) => key.components().next_back().unwrap_or_default().to_vec(),
        }
    }
}

impl Default for UploaderConfig {
    fn default() -> Self {
        Self {
            name: ObjectName::Into(String::new()),
            encode_names: false,
            variant: 0,
            overwrite: false,
            leave_out: false,
            block_bytes: 1 << 20,
            part_bytes: None,
            pool_bytes: u64::MAX,
            parts_in_flight: 8,
            parts_in_flight_max: 64,
            small_in_flight: 32,
            small_in_flight_max: 256,
            retry: RetryPolicy::default(),
            cleanup_ms: 15_000,
        }
    }
}
