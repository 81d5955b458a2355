//! What the types cannot say: values that exclude each other, files that must exist, secrets and where they come from.

use std::net::Ipv6Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tradewind_api::{DestinationUrl, is_store_name};
use tradewind_ipc::{NetStorageStore, SecretText, SwiftAuth, SwiftIdentity};

use super::caps;
use super::load::{Reader, Severity, Written};
use super::sections::{GivenSecret, StoreKind, StoreSection, UserSection};
use super::{AzureConfig, Config, GcsConfig, HdfsConfig, S3Config, StoreConfig, SwiftConfig, User};

const SECRET_BYTES_MIN: usize = 12;
const SECRET_FILE_BYTES_MAX: u64 = 4096;

pub(super) fn resolve(written: &Written, reader: &mut Reader<'_>) -> Config {
    let line = |section: &str| written.section_lines.get(section).copied();
    if !written.state_dir.is_absolute() {
        reader.error(line("state_dir"), format!("state_dir '{}' is not an absolute path", written.state_dir.display()));
    }
    check_engine(written, reader);
    check_limits(written, reader);
    let mut users: Vec<User> = Vec::new();
    for (section, &line) in written.user.iter().zip(&written.user_lines) {
        if users.iter().any(|user| user.access_key == section.access_key) {
            reader.error(Some(line), format!("user '{}' is there twice", section.access_key));
        }
        if let Some(user) = user(section, line, written, reader) {
            users.push(user);
        }
    }
    if written.user.is_empty() {
        reader.error(None, "nobody may submit transfers: add a [[user]] with access_key and secret");
    }
    let mut stores = std::collections::BTreeMap::new();
    for (name, section) in &written.stores {
        let line = written.store_lines.get(name).copied();
        if let Some(store) = store(name, section, line, &written.state_dir, reader) {
            stores.insert(name.clone(), store);
        }
    }
    if written.stores.is_empty() {
        reader.error(None, "transfers have nowhere to go: add a [stores.NAME] with kind = \"s3\" or kind = \"local\"");
    }
    let caps = caps::resolve(written, reader);
    Config {
        caps,
        state_dir: written.state_dir.clone(),
        log: written.log,
        rest: written.rest.clone(),
        data: written.data.clone(),
        engine: written.engine.clone(),
        limits: written.limits.clone(),
        users,
        stores,
    }
}

fn check_engine(written: &Written, reader: &mut Reader<'_>) {
    let line = written.section_lines.get("engine").copied();
    let engine = &written.engine;
    let mode = std::fs::metadata(&engine.binary).ok().filter(std::fs::Metadata::is_file).map(|meta| meta.permissions().mode());
    if mode.is_none_or(|mode| mode & 0o111 == 0) {
        let text = format!(
            "engine.binary '{}' is not a program; install tradewind-engine there or name it with --engine",
            engine.binary.display()
        );
        reader.error(line, text);
    }
    let block_bytes = engine.block_bytes.unwrap_or(BLOCK_BYTES_DEFAULT);
    if !BLOCK_BYTES.contains(&block_bytes) {
        reader.error(line, format!("engine.block_bytes is {block_bytes}, allowed are {} to {}", BLOCK_BYTES.start(), BLOCK_BYTES.end()));
    }
    if engine.workers == Some(0) || engine.credit_blocks == Some(0) {
        reader.error(line, "engine.workers and engine.credit_blocks are at least 1");
    }
    if engine.pool_bytes.is_some_and(|pool| pool < 8 * u64::from(block_bytes)) {
        reader.error(line, "engine.pool_bytes is less than 8 blocks; leave it out for the engine's default");
    }
    for (number, directory) in engine.staging_dir.iter().enumerate() {
        if !directory.is_absolute() {
            reader.error(line, format!("engine.staging_dir '{}' is not an absolute path", directory.display()));
        }
        if engine.staging_dir[..number].contains(directory) {
            reader.error(line, format!("engine.staging_dir '{}' is there twice; name one directory for each disk", directory.display()));
        }
    }
    if engine.staging_dir.len() > STAGING_DISKS_MAX {
        reader.error(line, format!("engine.staging_dir names {} directories, allowed are {STAGING_DISKS_MAX}", engine.staging_dir.len()));
    }
    if engine.staging_bytes.is_some() && engine.staging_dir.is_empty() {
        reader.error(line, "engine.staging_bytes says how much, and engine.staging_dir not where; name a directory on a local disk");
    }
    if engine.staging_mode.is_some() && engine.staging_dir.is_empty() {
        reader.error(line, "engine.staging_mode says which blocks, and engine.staging_dir not where; name a directory on a local disk");
    }
    if engine.staging_bytes.is_some_and(|bytes| bytes < 8 * u64::from(block_bytes)) {
        reader.error(line, "engine.staging_bytes is less than 8 blocks; leave it out for the engine's default");
    }
    if written.data.listen.port() == 0 || written.rest.listen.port() == 0 {
        // Tests bind port 0; a server there would not be found.
        reader.report(Severity::Warning, None, "port 0 lets the system choose a port, which clients cannot know");
    }
}

fn check_limits(written: &Written, reader: &mut Reader<'_>) {
    let limits = &written.limits;
    let rest = &written.rest;
    for (section, name, value, range) in [
        ("limits", "transfers_max", limits.transfers_max as u64, 1..=1_000_000),
        ("limits", "finished_keep_s", limits.finished_keep_s, 0..=30 * 86_400),
        ("limits", "idle_timeout_s", limits.idle_timeout_s, 5..=86_400),
        ("limits", "shutdown_timeout_s", limits.shutdown_timeout_s, 0..=86_400),
        ("limits", "resume_keep_s", limits.resume_keep_s, 1..=31_536_000),
        ("rest", "request_timeout_s", rest.request_timeout_s, 1..=600),
        ("rest", "connections_max", rest.connections_max as u64, 1..=65_536),
    ] {
        if !range.contains(&value) {
            let line = written.section_lines.get(section).copied();
            reader.error(line, format!("{section}.{name} is {value}, allowed are {} to {}", range.start(), range.end()));
        }
    }
}

/// Payload bytes of a block that the wire allows (transport.md, "Limits").
pub(super) const BLOCK_BYTES: std::ops::RangeInclusive<u32> = 64 * 1024..=4 * 1024 * 1024;
const BLOCK_BYTES_DEFAULT: u32 = 1024 * 1024;
/// As many as the engine takes (`tradewind_staging::DISKS_MAX`).
const STAGING_DISKS_MAX: usize = 16;

fn user(section: &UserSection, line: usize, written: &Written, reader: &mut Reader<'_>) -> Option<User> {
    let name = &section.access_key;
    if name.is_empty() || name.contains(':') || name.chars().any(char::is_control) {
        reader.error(Some(line), "user.access_key is empty or contains ':' or control characters");
    }
    for store in section.stores.iter().flatten() {
        if !written.stores.contains_key(store) {
            reader.error(Some(line), format!("user '{name}' may write to store '{store}', but there is no [stores.{store}]"));
        }
    }
    let what = format!("user '{name}': secret");
    let secret = secret(&what, section.secret(), line, reader);
    let Some(secret) = secret.ok()? else {
        reader.error(Some(line), format!("{what} is missing: give secret, secret_file or secret_env"));
        return None;
    };
    if secret.expose().len() < SECRET_BYTES_MIN {
        reader.error(Some(line), format!("{what} is shorter than {SECRET_BYTES_MIN} characters; `openssl rand -base64 24` makes one"));
    }
    Some(User { access_key: name.clone(), secret, stores: section.stores.clone() })
}

fn store(name: &str, section: &StoreSection, line: Option<usize>, state_dir: &Path, reader: &mut Reader<'_>) -> Option<StoreConfig> {
    if !is_store_name(name) || matches!(name, "s3" | "gs" | "az" | "swift" | "hdfs" | "netstorage" | "file") {
        let rule = "a store's name is 2 to 64 letters, digits, '-' and '_', and not s3, gs, az, swift, hdfs, netstorage or file";
        reader.error(line, format!("stores.{name}: {rule}"));
    }
    check_settings(name, section, line, reader);
    match section.kind {
        StoreKind::Local => local_store(name, section, line, reader),
        StoreKind::S3 => s3_store(name, section, line, reader),
        StoreKind::Azure => azure_store(name, section, line, reader),
        StoreKind::Swift => swift_store(name, section, line, reader),
        StoreKind::Gcs => gcs_store(name, section, line, reader),
        StoreKind::Hdfs => hdfs_store(name, section, line, reader),
        StoreKind::NetStorage => netstorage_store(name, section, line, state_dir, reader),
        StoreKind::Faux => Some(StoreConfig::Faux),
        StoreKind::Edgio => {
            let ended = "Edgio (Limelight) has ended its service: Chapter 11 in September 2024, its network closed in early 2025";
            reader.error(line, format!("stores.{name}: {ended}. Nothing can be sent there; remove the store"));
            None
        }
    }
}

const S3_SETTINGS: &str =
    "endpoint, region, buckets, access_key, secret_key, secret_key_file, secret_key_env, session_token, path_style, dialect";
const AZURE_SETTINGS: &str = "account, containers, endpoint, account_key, account_key_file, account_key_env, sas, sas_file, sas_env";
const SWIFT_SETTINGS: &str = "auth_url, containers, user, password, password_file, password_env, project, user_domain, project_domain, \
                              application_credential, region, interface, large_objects";
const HDFS_SETTINGS: &str =
    "namenodes, rpc_addresses, root, nameservice, user, delegation_token, delegation_token_file, delegation_token_env";

const NETSTORAGE_SETTINGS: &str = "host, endpoint, cp_code, upload_account, key, key_file, key_env, spool_dir, requests_per_s";
/// Requests to NetStorage a second where nothing else is said: Akamai wants fewer than about 15.
const NETSTORAGE_REQUESTS_PER_S: u32 = 12;

const GCS_SETTINGS: &str = "buckets, endpoint, service_account, service_account_file, service_account_env, anonymous";

/// A setting that only stores of another kind have is a mistake.
fn check_settings(name: &str, section: &StoreSection, line: Option<usize>, reader: &mut Reader<'_>) {
    let (kind, known) = match section.kind {
        StoreKind::Local => ("a local store", "root"),
        StoreKind::S3 => ("an S3 store", S3_SETTINGS),
        StoreKind::Azure => ("an Azure store", AZURE_SETTINGS),
        StoreKind::Swift => ("a Swift store", SWIFT_SETTINGS),
        StoreKind::Gcs => ("a Google Cloud Storage store", GCS_SETTINGS),
        StoreKind::Hdfs => ("an HDFS store", HDFS_SETTINGS),
        StoreKind::NetStorage => ("a NetStorage store", NETSTORAGE_SETTINGS),
        StoreKind::Faux => ("a faux store", ""),
        StoreKind::Edgio => return,
    };
    let known: Vec<&str> = std::iter::once("kind").chain(known.split(", ").filter(|known| !known.is_empty())).collect();
    let is_known = |setting: &str| known.contains(&setting);
    let given = serde_json::to_value(section).unwrap_or_default();
    for setting in given.as_object().into_iter().flat_map(serde_json::Map::keys).filter(|setting| !is_known(setting)) {
        reader.error(line, format!("stores.{name}: {kind} has no '{setting}'; it has {}", known.join(", ")));
    }
}

fn local_store(name: &str, section: &StoreSection, line: Option<usize>, reader: &mut Reader<'_>) -> Option<StoreConfig> {
    let Some(root) = &section.root else {
        reader.error(line, format!("stores.{name}: a local store needs 'root', an absolute directory"));
        return None;
    };
    if !root.is_absolute() || root.components().any(|c| matches!(c, std::path::Component::ParentDir)) {
        reader.error(line, format!("stores.{name}.root '{}' is not an absolute path without '..'", root.display()));
    } else if !root.is_dir() {
        reader.error(line, format!("stores.{name}.root '{}' is not a directory; create it", root.display()));
    }
    // Without the slash at the end and doubled ones, so that prefixes compare.
    Some(StoreConfig::Local { root: root.components().collect() })
}

fn s3_store(name: &str, section: &StoreSection, line: Option<usize>, reader: &mut Reader<'_>) -> Option<StoreConfig> {
    check_endpoint(name, section, line, reader);
    if section.endpoint.is_none() && section.region.is_none() {
        reader.error(line, format!("stores.{name}: give 'region' for AWS, or 'endpoint' for another server"));
    }
    let buckets = buckets(name, section, line, reader);
    let what = format!("stores.{name}.secret_key");
    let secret_key = secret(&what, section.secret_key(), line.unwrap_or(1), reader).ok()?;
    if section.access_key.is_some() != secret_key.is_some() {
        reader.error(line, format!("stores.{name}: access_key and its secret belong together: give both or neither"));
    }
    Some(StoreConfig::S3(S3Config {
        endpoint: section.endpoint.clone(),
        region: section.region.clone().unwrap_or_else(|| "us-east-1".to_owned()),
        buckets,
        access_key: section.access_key.clone(),
        secret_key,
        session_token: section.session_token.clone(),
        path_style: section.path_style.unwrap_or(section.endpoint.is_some()),
        dialect: section.dialect.unwrap_or_default(),
    }))
}

fn check_endpoint(name: &str, section: &StoreSection, line: Option<usize>, reader: &mut Reader<'_>) {
    if let Some(endpoint) = section.endpoint.as_ref().filter(|e| !e.starts_with("https://") && !e.starts_with("http://")) {
        reader.error(line, format!("stores.{name}.endpoint '{endpoint}' does not begin with https:// or http://"));
    }
}

fn azure_store(name: &str, section: &StoreSection, line: Option<usize>, reader: &mut Reader<'_>) -> Option<StoreConfig> {
    check_endpoint(name, section, line, reader);
    let account = section.account.clone().unwrap_or_default();
    if account.is_empty() || !account.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        reader.error(line, format!("stores.{name}: an Azure store needs 'account', lower-case letters and digits"));
    }
    let containers = containers(name, section, line, reader);
    let what = format!("stores.{name}.account_key");
    let account_key = secret(&what, section.account_key(), line.unwrap_or(1), reader).ok()?;
    let what = format!("stores.{name}.sas");
    let sas = secret(&what, section.sas(), line.unwrap_or(1), reader).ok()?;
    if account_key.is_some() && sas.is_some() {
        reader.error(line, format!("stores.{name}: give account_key or sas, not both"));
    }
    Some(StoreConfig::Azure(AzureConfig { account, endpoint: section.endpoint.clone(), containers, account_key, sas }))
}

fn buckets(name: &str, section: &StoreSection, line: Option<usize>, reader: &mut Reader<'_>) -> Vec<String> {
    let buckets = section.buckets.clone().unwrap_or_default();
    if buckets.is_empty() {
        reader.error(line, format!("stores.{name}: list the buckets that may be written to in 'buckets' ([\"*\"] for all)"));
    }
    buckets
}

fn gcs_store(name: &str, section: &StoreSection, line: Option<usize>, reader: &mut Reader<'_>) -> Option<StoreConfig> {
    check_endpoint(name, section, line, reader);
    let buckets = buckets(name, section, line, reader);
    let what = format!("stores.{name}.service_account");
    let service_account = secret(&what, section.service_account(), line.unwrap_or(1), reader).ok()?;
    let anonymous = section.anonymous.unwrap_or(false);
    if anonymous && service_account.is_some() {
        reader.error(line, format!("stores.{name}: give service_account or anonymous, not both"));
    }
    if !anonymous && section.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
        reader.error(line, format!("stores.{name}: an endpoint of http:// would show tokens to the network; write https://"));
    }
    Some(StoreConfig::Gcs(GcsConfig { endpoint: section.endpoint.clone(), buckets, service_account, anonymous }))
}

fn containers(name: &str, section: &StoreSection, line: Option<usize>, reader: &mut Reader<'_>) -> Vec<String> {
    let containers = section.containers.clone().unwrap_or_default();
    if containers.is_empty() {
        reader.error(line, format!("stores.{name}: list the containers that may be written to in 'containers' ([\"*\"] for all)"));
    }
    containers
}

fn swift_store(name: &str, section: &StoreSection, line: Option<usize>, reader: &mut Reader<'_>) -> Option<StoreConfig> {
    let containers = containers(name, section, line, reader);
    let what = format!("stores.{name}.password");
    let password = secret(&what, section.password(), line.unwrap_or(1), reader).ok()?;
    let auth = swift_auth(section, password).map_err(|problem| reader.error(line, format!("stores.{name}: {problem}"))).ok()?;
    Some(StoreConfig::Swift(SwiftConfig { containers, auth, large_objects: section.large_objects.unwrap_or_default() }))
}

fn netstorage_store(
    name: &str,
    section: &StoreSection,
    line: Option<usize>,
    state_dir: &Path,
    reader: &mut Reader<'_>,
) -> Option<StoreConfig> {
    check_endpoint(name, section, line, reader);
    let what = format!("stores.{name}.key");
    let key = secret(&what, section.key(), line.unwrap_or(1), reader).ok()?;
    let mut refuse = |text: &str| reader.error(line, format!("stores.{name}: {text}"));
    let host = section.host.as_ref().filter(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']));
    let url = match (host, &section.endpoint) {
        (Some(host), None) if section.host.is_some() => Some(format!("https://{host}")),
        (None, Some(endpoint)) if section.host.is_none() => Some(endpoint.trim_end_matches('/').to_owned()),
        _ => None,
    };
    if url.as_ref().is_none_or(|url| url.matches('/').count() > 2 || url.contains(['?', '#', '@'])) {
        refuse(
            "a NetStorage store needs 'host', the storage group's HTTP domain name (NAME-nsu.akamaihd.net), or for a test 'endpoint', a URL without a path",
        );
    }
    let cp_code = section.cp_code.clone().unwrap_or_default();
    if !(3..=20).contains(&cp_code.len()) || !cp_code.bytes().all(|byte| byte.is_ascii_digit()) {
        refuse("a NetStorage store needs 'cp_code', the number of its upload directory, in quotes");
    }
    let upload_account = section.upload_account.clone().unwrap_or_default();
    if upload_account.is_empty() || !upload_account.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') {
        refuse("a NetStorage store needs 'upload_account', the upload account's id");
    }
    if key.as_ref().is_none_or(|key| key.expose().is_empty()) {
        refuse("give the upload account's HTTP API key: key_file, key_env or key");
    }
    let spool_dir = section.spool_dir.clone().unwrap_or_else(|| state_dir.join("netstorage-spool"));
    if !spool_dir.is_absolute() {
        refuse(&format!("spool_dir '{}' is not an absolute path", spool_dir.display()));
    }
    let requests_per_s = section.requests_per_s.unwrap_or(NETSTORAGE_REQUESTS_PER_S);
    Some(StoreConfig::NetStorage(NetStorageStore { url: url?, cp_code, upload_account, key: key?, spool_dir, requests_per_s }))
}

/// Whose token is asked for: `None` if nothing says so and the engine's environment does.
fn swift_auth(section: &StoreSection, password: Option<SecretText>) -> Result<Option<SwiftAuth>, &'static str> {
    let whose = (&section.user, &section.application_credential, &section.project, password);
    let of_keystone = section.region.is_some() || section.interface.is_some();
    let domains = section.user_domain.is_some() || section.project_domain.is_some();
    if section.auth_url.is_none() && matches!(whose, (None, None, None, None)) {
        return if of_keystone || domains { Err("without auth_url all of that comes from the engine's environment") } else { Ok(None) };
    }
    let Some(auth_url) = section.auth_url.clone().filter(|url| url.starts_with("https://") || url.starts_with("http://")) else {
        return Err("a Swift store needs 'auth_url', beginning with https:// or http://");
    };
    if auth_url.contains(['?', '#', '@']) {
        return Err("'auth_url' is more than an address; user and password have settings of their own");
    }
    let domain = |given: &Option<String>| given.clone().unwrap_or_else(|| "Default".to_owned());
    let identity = match whose {
        (Some(user), None, None, Some(key)) if user.contains(':') && !of_keystone && !domains => {
            SwiftIdentity::V1 { user: user.clone(), key }
        }
        (Some(user), None, Some(project), Some(password)) => {
            let (user_domain, project_domain) = (domain(&section.user_domain), domain(&section.project_domain));
            SwiftIdentity::Password { user: user.clone(), user_domain, password, project: project.clone(), project_domain }
        }
        (None, Some(id), None, Some(secret)) if !domains => SwiftIdentity::Application { id: id.clone(), secret },
        _ => {
            return Err("give user, project and password for Keystone; or application_credential and password, its secret; \
                        or for version 1 user = \"ACCOUNT:USER\" and password, without project; and nothing else of who asks");
        }
    };
    let interface = section.interface.clone().unwrap_or_else(|| "public".to_owned());
    if !matches!(interface.as_str(), "public" | "internal" | "admin") {
        return Err("'interface' is public, internal or admin");
    }
    Ok(Some(SwiftAuth { auth_url, identity, region: section.region.clone(), interface }))
}

fn hdfs_store(name: &str, section: &StoreSection, line: Option<usize>, reader: &mut Reader<'_>) -> Option<StoreConfig> {
    let what = format!("stores.{name}.delegation_token");
    let delegation_token = secret(&what, section.delegation_token(), line.unwrap_or(1), reader).ok()?;
    let mut wrong = |problem: &str| reader.error(line, format!("stores.{name}{problem}"));
    let namenodes = section.namenodes.clone().unwrap_or_default();
    if namenodes.is_empty() {
        wrong(": an HDFS store needs 'namenodes', the addresses of their web ports ([\"http://namenode:9870\"])");
    }
    for namenode in &namenodes {
        if !namenode.starts_with("https://") && !namenode.starts_with("http://") {
            wrong(".namenodes: the address of a NameNode is that of its web port and begins with https:// or http://");
        } else if namenode.contains(['?', '#', '@']) {
            wrong(".namenodes: one is more than an address; user and delegation_token have settings of their own");
        }
    }
    let rpc_addresses = section.rpc_addresses.clone().unwrap_or_default();
    if rpc_addresses.iter().any(|address| !is_host_and_port(address)) {
        wrong(".rpc_addresses: the address of a NameNode's RPC port is a host and a port (namenode:8020)");
    }
    if !rpc_addresses.is_empty() && delegation_token.is_some() {
        wrong(": a delegation token cannot be used with rpc_addresses; without them, all goes by WebHDFS");
    }
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(|c: char| ":,%+".contains(c) || c.is_control());
    let root = section.root.as_deref().and_then(Path::to_str).unwrap_or_default();
    let root = if root.len() > 1 { root.trim_end_matches('/') } else { root };
    if !root.strip_prefix('/').is_some_and(|path| path.is_empty() || path.split('/').all(is_plain) && !path.starts_with(".reserved")) {
        wrong(": an HDFS store needs 'root', an absolute path in HDFS without '.', '..', ':', ',', '%' and '+'");
    }
    if section.user.is_some() && delegation_token.is_some() {
        wrong(": give user or delegation_token, not both: a token says who asks");
    }
    if section.user.as_ref().is_some_and(String::is_empty) {
        wrong(".user is empty");
    }
    let nameservice = section.nameservice.clone().unwrap_or_else(|| name.to_owned());
    if section.nameservice.is_some() && DestinationUrl::bucket_and_name(&nameservice, true).is_err() {
        wrong(".nameservice is a name for URLs: 3 to 255 letters, digits, '.', '-' and '_', beginning with a letter or digit");
    }
    let (root, user) = (root.to_owned(), section.user.clone());
    Some(StoreConfig::Hdfs(HdfsConfig { nameservice, namenodes, rpc_addresses, root, user, delegation_token }))
}

/// Whether it is these two and nothing else; an address of IPv6 stands in brackets.
fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let is_name = |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    port.parse::<u16>().is_ok_and(|port| port != 0) && bracketed.map_or_else(|| is_name(host), |host| host.parse::<Ipv6Addr>().is_ok())
}

/// The secret from the one of three places that is given; `Ok(None)` if none is, `Err` after a problem was reported.
fn secret(what: &str, given: GivenSecret<'_>, line: usize, reader: &mut Reader<'_>) -> Result<Option<SecretText>, ()> {
    let found = match (given.text, given.file, given.env) {
        (None, None, None) => return Ok(None),
        (Some(secret), None, None) => Ok(secret.clone()),
        (None, Some(path), None) => from_file(path).map_err(|e| format!("{what}: file '{}' {e}", path.display())),
        (None, None, Some(name)) => {
            std::env::var(name).map(SecretText::new).map_err(|_| format!("{what}: the environment variable {name} is not set"))
        }
        _ => Err(format!("{what} is given more than once: choose one of text, file and environment variable")),
    };
    found.map(Some).map_err(|text| reader.error(Some(line), text))
}

fn from_file(path: &Path) -> Result<SecretText, String> {
    let meta = std::fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?;
    if meta.len() > SECRET_FILE_BYTES_MAX {
        return Err(format!("is larger than {SECRET_FILE_BYTES_MAX} bytes"));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        return Err("can be read by others; run chmod 600 on it".to_owned());
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))?;
    Ok(SecretText::new(text.trim_end_matches(['\n', '\r']).to_owned()))
}
