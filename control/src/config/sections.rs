//! The sections of the file as they are written there. Unknown keys are errors.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};
use tradewind_ipc::{Dialect, LargeObjects, RatePolicy, SecretText};

/// Format of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Whether the engine uses AF_XDP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum XdpChoice {
    /// If interface and capabilities allow it, in the mode that suits the driver.
    #[default]
    Auto,
    /// In driver mode, or not at all.
    Driver,
    /// In generic mode, or not at all.
    Generic,
    /// Never: kernel UDP.
    Off,
}

impl XdpChoice {
    /// The word on the engine's command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Driver => "driver",
            Self::Generic => "generic",
            Self::Off => "off",
        }
    }
}

/// `[rest]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestSection {
    /// Address and TCP port. Default `0.0.0.0:33000`.
    pub listen: SocketAddr,
    /// Time for one request from its header to its answer, seconds. Default 45.
    pub request_timeout_s: u64,
    /// Connections at the same time; more wait. Default 1024.
    pub connections_max: usize,
}

impl Default for RestSection {
    fn default() -> Self {
        let listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), tradewind_api::DEFAULT_PORT);
        Self { listen, request_timeout_s: 45, connections_max: 1024 }
    }
}

/// `[data]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Address and UDP port. Default `0.0.0.0:33001`.
    pub listen: SocketAddr,
    /// Network interface for AF_XDP. Default: the engine's choice, or none.
    pub interface: Option<String>,
    /// Whether to use AF_XDP. Default `auto`.
    pub xdp: XdpChoice,
    /// Address that clients are told to send data to, where it is not the one they reach the REST interface at.
    pub public_ip: Option<IpAddr>,
    /// Networks of other servers that users may copy from (`tradewind copy --to`). The engine speaks to addresses that a user names, so nothing
    /// that is not listed here is spoken to. Default: none.
    pub copy_from: Vec<IpNet>,
}

impl Default for DataSection {
    fn default() -> Self {
        let listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 33001);
        Self { listen, interface: None, xdp: XdpChoice::Auto, public_ip: None, copy_from: Vec::new() }
    }
}

/// `[engine]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSection {
    /// Program. Default: `tradewind-engine` beside `tradewindd`.
    pub binary: PathBuf,
    /// Pinned workers. Default: the engine's.
    pub workers: Option<u32>,
    /// Memory for blocks, bytes. Default: the engine's.
    pub pool_bytes: Option<u64>,
    /// Payload of a block, bytes: 64 KiB to 4 MiB. Default 1 MiB.
    pub block_bytes: Option<u32>,
    /// Blocks a lane may have open at first. Default: the engine's choice.
    pub credit_blocks: Option<u32>,
    /// Directory on a local disk, for direct I/O, where blocks wait while a store is slower than the network, or a list of at most 16 on as many
    /// disks. Default: none, they wait in memory only. Blocks lie there in the clear and without a name; they are gone when the engine ends.
    /// A single directory is made; several must be there.
    #[serde(with = "one_or_several", skip_serializing_if = "Vec::is_empty")]
    pub staging_dir: Vec<PathBuf>,
    /// Most bytes of blocks in each. Default: the engine's, 16 GiB.
    pub staging_bytes: Option<u64>,
    /// Which blocks go there. Default: those for which there is no room in memory.
    pub staging_mode: Option<StagingMode>,
}

/// A path, or a list of paths.
mod one_or_several {
    use std::path::PathBuf;

    use serde::de::{Error as _, SeqAccess, Visitor};
    use serde::{Deserializer, Serialize as _, Serializer};

    struct Paths;

    impl<'de> Visitor<'de> for Paths {
        type Value = Vec<PathBuf>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a directory or a list of directories")
        }

        fn visit_str<E>(self, path: &str) -> Result<Self::Value, E> {
            Ok(vec![path.into()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut paths = Vec::new();
            while let Some(path) = list.next_element()? {
                paths.push(path);
            }
            if paths.is_empty() {
                return Err(A::Error::custom("engine.staging_dir is a list without a directory; name one for each disk, or leave it out"));
            }
            Ok(paths)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        deserializer.deserialize_any(Paths)
    }

    pub(super) fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        match paths {
            [path] => path.serialize(serializer),
            paths => paths.serialize(serializer),
        }
    }
}

/// Which blocks the engine writes to its staging directory.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum StagingMode {
    /// Those for which there is no room in memory. They are gone when the engine ends.
    Auto,
    /// All, into files with names below `kept`, until the store has them: a transfer that is gone on with need not send them again. As much room
    /// again as `staging_bytes`.
    Always,
}

/// `[limits]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// Transfers remembered, running and ended. Default 4096.
    pub transfers_max: usize,
    /// How long an ended transfer is remembered, seconds. Default 3600.
    pub finished_keep_s: u64,
    /// A transfer without progress for so long is ended, seconds. Default 120.
    pub idle_timeout_s: u64,
    /// How long running transfers may go on after SIGTERM, seconds. Default 30.
    pub shutdown_timeout_s: u64,
    /// How long an interrupted upload is kept at its store for somebody to go on with it, and a stored file is remembered, seconds. What a
    /// running transfer works on is kept however long it takes. Default 604,800: 7 days.
    pub resume_keep_s: u64,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self { transfers_max: 4096, finished_keep_s: 3600, idle_timeout_s: 120, shutdown_timeout_s: 30, resume_keep_s: 604_800 }
    }
}

/// Weights of the policies below a cap: of two transfers that want more than there is, each gets by its weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightsSection {
    /// Of `fixed`. Default 1.
    pub fixed: f64,
    /// Of `high`. Default 2.
    pub high: f64,
    /// Of `fair`. Default 1.
    pub fair: f64,
    /// Of `low`. Default 0.5.
    pub low: f64,
}

impl Default for WeightsSection {
    fn default() -> Self {
        Self { fixed: 1.0, high: 2.0, fair: 1.0, low: 0.5 }
    }
}

impl WeightsSection {
    /// Of this policy.
    #[must_use]
    pub const fn of(&self, policy: RatePolicy) -> f64 {
        match policy {
            RatePolicy::Fixed => self.fixed,
            RatePolicy::High => self.high,
            RatePolicy::Fair => self.fair,
            RatePolicy::Low => self.low,
        }
    }
}

/// `[[cap]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CapSection {
    pub(super) name: String,
    /// Mbit/s of IP packets.
    pub(super) rate_mbps: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) users: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stores: Option<Vec<String>>,
    #[serde(default)]
    pub(super) weights: WeightsSection,
}

/// `[[user]]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserSection {
    pub(super) access_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "redacted")]
    pub(super) secret: Option<SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stores: Option<Vec<String>>,
}

impl UserSection {
    pub(super) fn secret(&self) -> GivenSecret<'_> {
        GivenSecret::new(&self.secret, &self.secret_file, &self.secret_env)
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoreKind {
    S3,
    Azure,
    Swift,
    Gcs,
    Hdfs,
    #[serde(rename = "netstorage")]
    NetStorage,
    /// It has ended, which is told.
    #[serde(alias = "limelight")]
    Edgio,
    Faux,
    Local,
}

/// `[stores.NAME]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreSection {
    pub(super) kind: StoreKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) root: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) buckets: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) access_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "redacted")]
    pub(super) secret_key: Option<SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret_key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret_key_env: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "redacted")]
    pub(super) session_token: Option<SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path_style: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dialect: Option<Dialect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) containers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "redacted")]
    pub(super) account_key: Option<SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) account_key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) account_key_env: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "redacted")]
    pub(super) sas: Option<SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sas_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sas_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auth_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "redacted")]
    pub(super) password: Option<SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) application_credential: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) project_domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) interface: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) large_objects: Option<LargeObjects>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "redacted")]
    pub(super) service_account: Option<SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_account_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_account_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) anonymous: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nameservice: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namenodes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rpc_addresses: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "redacted")]
    pub(super) delegation_token: Option<SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delegation_token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delegation_token_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cp_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upload_account: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "redacted")]
    pub(super) key: Option<SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spool_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) requests_per_s: Option<u32>,
}

impl StoreSection {
    pub(super) fn secret_key(&self) -> GivenSecret<'_> {
        GivenSecret::new(&self.secret_key, &self.secret_key_file, &self.secret_key_env)
    }

    pub(super) fn account_key(&self) -> GivenSecret<'_> {
        GivenSecret::new(&self.account_key, &self.account_key_file, &self.account_key_env)
    }

    pub(super) fn sas(&self) -> GivenSecret<'_> {
        GivenSecret::new(&self.sas, &self.sas_file, &self.sas_env)
    }

    pub(super) fn service_account(&self) -> GivenSecret<'_> {
        GivenSecret::new(&self.service_account, &self.service_account_file, &self.service_account_env)
    }

    pub(super) fn password(&self) -> GivenSecret<'_> {
        GivenSecret::new(&self.password, &self.password_file, &self.password_env)
    }

    pub(super) fn delegation_token(&self) -> GivenSecret<'_> {
        GivenSecret::new(&self.delegation_token, &self.delegation_token_file, &self.delegation_token_env)
    }

    pub(super) fn key(&self) -> GivenSecret<'_> {
        GivenSecret::new(&self.key, &self.key_file, &self.key_env)
    }
}

/// A secret as the file gives it: in one of three ways, if it is right.
#[derive(Clone, Copy)]
pub(super) struct GivenSecret<'a> {
    pub(super) text: Option<&'a SecretText>,
    pub(super) file: Option<&'a Path>,
    pub(super) env: Option<&'a str>,
}

impl<'a> GivenSecret<'a> {
    #[expect(clippy::ref_option, reason = "the fields as they are")]
    fn new(text: &'a Option<SecretText>, file: &'a Option<PathBuf>, env: &'a Option<String>) -> Self {
        Self { text: text.as_ref(), file: file.as_deref(), env: env.as_deref() }
    }
}

#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn redacted<S: Serializer>(_secret: &Option<SecretText>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("(set, not shown)")
}
