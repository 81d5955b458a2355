//! Stores and places in them, with what it takes to use them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::SecretText;

/// A store and a place in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// Which store, with what it takes to use it.
    pub store: Store,
    /// Names of the files there.
    pub name: DestinationName,
}

/// A store with its credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Store {
    /// A directory of the server. Nothing outside it is ever written.
    Local {
        /// Absolute path of the directory.
        root: PathBuf,
    },
    /// A bucket behind an S3 API.
    S3(S3Store),
    /// A container of Azure Blob Storage.
    Azure(AzureStore),
}

/// A container of Azure Blob Storage and how to reach it. Without key and signature the engine's environment is used, and what that does not hold
/// the identity of its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureStore {
    /// Storage account.
    pub account: String,
    /// URL below which containers lie; `None` for Azure itself.
    pub endpoint: Option<String>,
    /// Container.
    pub container: String,
    /// The account's key, base64.
    pub account_key: Option<SecretText>,
    /// A shared access signature.
    pub sas: Option<SecretText>,
}

/// A bucket and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Store {
    /// URL of the endpoint; `None` for AWS itself, found by region.
    pub endpoint: Option<String>,
    /// Region, `us-east-1` where the store has none.
    pub region: String,
    /// Bucket.
    pub bucket: String,
    /// Access key id; `None` uses the engine's environment.
    pub access_key: Option<String>,
    /// Secret of the access key.
    pub secret_key: Option<SecretText>,
    /// Token of temporary credentials.
    pub session_token: Option<SecretText>,
    /// Bucket in the path rather than in the host name; right for nearly every endpoint that is not AWS.
    pub path_style: bool,
    /// What this server of the S3 API can do.
    pub dialect: Dialect,
}

/// What a server of the S3 API can do (storage.md, "Dialects").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Everything that AWS does; SeaweedFS, MinIO.
    #[default]
    Aws,
    /// No checksums, trailers, conditional complete: Ceph 16, IBM COS, HGST, StorageGRID.
    Legacy,
    /// Refuses what it does not know: Garage.
    Strict,
    /// Google's XML API.
    GcsXml,
}

/// What the files are called at the destination, relative to the store's root. No leading slash, `/` between components.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DestinationName {
    /// Files keep their names below this prefix: empty, or ending in `/`.
    Into(String),
    /// The one file of the transfer gets exactly this key.
    Exact(String),
}
