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
    /// Keeps nothing.
    Faux,
    /// A bucket behind an S3 API.
    S3(S3Store),
    /// A container of Azure Blob Storage.
    Azure(AzureStore),
    /// A container of OpenStack Swift.
    Swift(SwiftStore),
    /// A bucket of Google Cloud Storage.
    Gcs(GcsStore),
    /// A directory of HDFS. Nothing outside it is ever asked for.
    Hdfs(HdfsStore),
    /// A CP code of Akamai NetStorage.
    NetStorage(NetStorageStore),
}

/// A bucket of Google Cloud Storage and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcsStore {
    /// Bucket.
    pub bucket: String,
    /// URL of the endpoint; `None` for Google's own.
    pub endpoint: Option<String>,
    /// Key of a service account, JSON; `None` uses what Google's tools would take on the engine's machine.
    pub service_account: Option<SecretText>,
    /// Without credentials.
    pub anonymous: bool,
}

/// A directory of HDFS and how to reach it. Without user and token the engine's environment is used (`HADOOP_USER_NAME`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HdfsStore {
    /// Addresses of the NameNodes' web ports.
    pub namenodes: Vec<String>,
    /// Those of their RPC ports; none: data goes by WebHDFS.
    pub rpc_addresses: Vec<String>,
    /// Absolute path of the directory.
    pub root: String,
    /// User of simple authentication.
    pub user: Option<String>,
    /// Delegation token.
    pub delegation_token: Option<SecretText>,
}

/// A CP code of a NetStorage storage group and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetStorageStore {
    /// URL below which CP codes lie.
    pub url: String,
    /// CP code.
    pub cp_code: String,
    /// Id of the upload account.
    pub upload_account: String,
    /// The upload account's HTTP API key.
    pub key: SecretText,
    /// Absolute path of the directory where objects of several parts wait until they are whole.
    pub spool_dir: PathBuf,
    /// Most requests a second; 0: as many as there are.
    pub requests_per_s: u32,
}

/// A container of OpenStack Swift and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwiftStore {
    /// Container.
    pub container: String,
    /// `None` uses the engine's environment (`ST_AUTH` and so on, `OS_AUTH_URL` and so on).
    pub auth: Option<Box<SwiftAuth>>,
    /// How objects of several parts are made.
    pub large_objects: LargeObjects,
}

/// Where and how a cluster is asked for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwiftAuth {
    /// URL of Keystone, or of version 1.
    pub auth_url: String,
    /// Who asks.
    pub identity: SwiftIdentity,
    /// Region of Keystone's catalogue; the first that it holds if `None`.
    pub region: Option<String>,
    /// Interface of Keystone's catalogue: `public`, `internal` or `admin`.
    pub interface: String,
}

impl SwiftAuth {
    /// Whose containers they are, in words without secrets: different for different accounts.
    #[must_use]
    pub fn account(&self) -> String {
        let (url, region) = (self.auth_url.trim_end_matches('/'), self.region.as_deref().unwrap_or_default());
        match &self.identity {
            SwiftIdentity::V1 { user, .. } => format!("{url} {}", user.split_once(':').map_or(user.as_str(), |(account, _)| account)),
            SwiftIdentity::Password { project, project_domain, .. } => format!("{url} {region} {project_domain} {project}"),
            SwiftIdentity::Application { id, .. } => format!("{url} {region} {id}"),
        }
    }
}

/// Who asks a cluster for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SwiftIdentity {
    /// Version 1 (TempAuth, Ceph).
    V1 {
        /// `ACCOUNT:USER`.
        user: String,
        /// The user's key.
        key: SecretText,
    },
    /// Keystone: a user in a project.
    Password {
        /// User.
        user: String,
        /// Its domain's name.
        user_domain: String,
        /// Password.
        password: SecretText,
        /// Project.
        project: String,
        /// Its domain's name.
        project_domain: String,
    },
    /// Keystone: an application credential.
    Application {
        /// Its id.
        id: String,
        /// Its secret.
        secret: SecretText,
    },
}

/// How Swift's objects of several parts are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LargeObjects {
    /// Static where the cluster has them.
    #[default]
    Auto,
    /// A list of segments that the cluster verifies.
    Static,
    /// Whatever lies below a prefix.
    Dynamic,
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
    /// No checksums, trailers, conditional complete: Ceph 16, IBM COS, HGST, StorageGRID, and servers that refuse what they do not know.
    Legacy,
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
