//! The configuration: typed, with units in the names, checked as a whole before anything starts.

mod caps;
mod check;
mod load;
mod sections;

pub use load::{Loaded, Problem, Severity, load, load_text};
pub use sections::{DataSection, EngineSection, LimitsSection, LogFormat, RestSection, StagingMode, WeightsSection, XdpChoice};

use std::collections::BTreeMap;
use std::path::PathBuf;

use tradewind_ipc::{Dialect, LargeObjects, NetStorageStore, SecretText, SwiftAuth};

/// Where the configuration file is looked for when none is named.
pub const DEFAULT_PATH: &str = "/etc/tradewind/tradewindd.toml";

/// Everything `tradewindd` needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory for the server's key and state.
    pub state_dir: PathBuf,
    /// Format of the log.
    pub log: LogFormat,
    /// REST interface.
    pub rest: RestSection,
    /// Data port.
    pub data: DataSection,
    /// The data process.
    pub engine: EngineSection,
    /// Bounds.
    pub limits: LimitsSection,
    /// Who may submit transfers.
    pub users: Vec<User>,
    /// Where to, by name.
    pub stores: BTreeMap<String, StoreConfig>,
    /// Aggregate caps; a transfer is under the first that covers it.
    pub caps: Vec<CapConfig>,
}

/// An aggregate cap: the transfers that it covers together never send faster.
#[derive(Debug, Clone, PartialEq)]
pub struct CapConfig {
    /// For people.
    pub name: String,
    /// The cap, kbit/s of IP packets.
    pub rate_kbps: u64,
    /// Access keys of the users whose transfers it covers; `None`: all.
    pub users: Option<Vec<String>>,
    /// Names of the stores to which transfers are covered; `None`: all.
    pub stores: Option<Vec<String>>,
    /// How its transfers share it.
    pub weights: WeightsSection,
}

impl CapConfig {
    /// Whether it covers transfers of this user to this store.
    #[must_use]
    pub fn covers(&self, user: &str, store: &str) -> bool {
        let among = |names: &Option<Vec<String>>, name: &str| names.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
        among(&self.users, user) && among(&self.stores, store)
    }
}

/// A user of the REST interface.
#[derive(Debug, Clone)]
pub struct User {
    /// Access key.
    pub access_key: String,
    /// Its secret.
    pub secret: SecretText,
    /// Names of the stores this user may write to, list and remove from; `None`: all.
    pub stores: Option<Vec<String>>,
}

/// A store that transfers may go to.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// Buckets behind an S3 API.
    S3(S3Config),
    /// Containers of an Azure storage account.
    Azure(AzureConfig),
    /// Containers of an OpenStack Swift account.
    Swift(SwiftConfig),
    /// Buckets of Google Cloud Storage.
    Gcs(GcsConfig),
    /// A directory of HDFS.
    Hdfs(HdfsConfig),
    /// A CP code of Akamai NetStorage: what the engine is told of it.
    NetStorage(NetStorageStore),
    /// Keeps nothing, to try networks.
    Faux,
    /// A directory of this machine.
    Local {
        /// Absolute path; nothing outside is written.
        root: PathBuf,
    },
}

/// Buckets behind an S3 API.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// URL; `None` for AWS.
    pub endpoint: Option<String>,
    /// Region.
    pub region: String,
    /// Buckets that may be written to; `*` stands for all.
    pub buckets: Vec<String>,
    /// Access key id; `None` uses the engine's environment.
    pub access_key: Option<String>,
    /// Secret of the access key.
    pub secret_key: Option<SecretText>,
    /// Token of temporary credentials.
    pub session_token: Option<SecretText>,
    /// Bucket in the path rather than in the host name.
    pub path_style: bool,
    /// What this server can do.
    pub dialect: Dialect,
}

/// Containers of an Azure storage account. Without key and signature the engine's environment is used, and what that does not hold the identity
/// of its machine.
#[derive(Debug, Clone)]
pub struct AzureConfig {
    /// Storage account.
    pub account: String,
    /// URL below which containers lie; `None` for Azure itself.
    pub endpoint: Option<String>,
    /// Containers that may be written to; `*` stands for all.
    pub containers: Vec<String>,
    /// The account's key, base64.
    pub account_key: Option<SecretText>,
    /// A shared access signature.
    pub sas: Option<SecretText>,
}

/// Buckets of Google Cloud Storage.
#[derive(Debug, Clone)]
pub struct GcsConfig {
    /// URL; `None` for Google's own.
    pub endpoint: Option<String>,
    /// Buckets that may be written to; `*` stands for all.
    pub buckets: Vec<String>,
    /// Key of a service account, JSON; `None` uses what Google's tools would take on the engine's machine.
    pub service_account: Option<SecretText>,
    /// Without credentials.
    pub anonymous: bool,
}

/// Containers of an OpenStack Swift account.
#[derive(Debug, Clone)]
pub struct SwiftConfig {
    /// Containers that may be written to; `*` stands for all.
    pub containers: Vec<String>,
    /// `None` uses the engine's environment.
    pub auth: Option<SwiftAuth>,
    /// How objects of several parts are made.
    pub large_objects: LargeObjects,
}

/// A directory of HDFS. Without user and token the engine's environment is used.
#[derive(Debug, Clone)]
pub struct HdfsConfig {
    /// Name of the cluster in `hdfs://` URLs.
    pub nameservice: String,
    /// Addresses of the NameNodes' web ports.
    pub namenodes: Vec<String>,
    /// Those of their RPC ports; none: data goes by WebHDFS.
    pub rpc_addresses: Vec<String>,
    /// Absolute path of the directory; nothing outside is asked for.
    pub root: String,
    /// User of simple authentication.
    pub user: Option<String>,
    /// Delegation token.
    pub delegation_token: Option<SecretText>,
}
