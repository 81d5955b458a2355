//! Which configured store a destination means. What is not configured, or not for this user, does not exist.

use std::collections::BTreeMap;
use std::path::Path;

use tradewind_api::{ApiCode, BucketScheme, DestinationName, DestinationUrl, ErrorCode, Problem, ResumePolicy, Submission, SubmitRequest};
use tradewind_ipc::{AzureStore, Destination, GcsStore, HdfsStore, Job, Receive, S3Store, Store, SwiftStore};

use crate::auth::Identified;
use crate::config::{HdfsConfig, StoreConfig};

/// A place in a configured store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Name of the store in the configuration.
    pub store: String,
    /// What the engine is told.
    pub destination: Destination,
}

/// Between which places a transfer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Places {
    /// From the client.
    Upload(Resolved),
    /// To the client.
    Download(Resolved),
    /// From store to store.
    Copy {
        /// Where from.
        source: Box<Resolved>,
        /// Where to.
        destination: Box<Resolved>,
    },
}

impl Places {
    /// Finds the stores of a submission.
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn resolve(stores: &BTreeMap<String, StoreConfig>, user: &Identified, submission: &Submission) -> Result<Self, Problem> {
        let find = |url: &Option<DestinationUrl>| url.as_ref().map(|url| resolve(stores, user, url)).transpose();
        match (find(&submission.source)?, find(&submission.destination)?) {
            (None, Some(destination)) => Ok(Self::Upload(destination)),
            (Some(source), None) => Ok(Self::Download(source)),
            (Some(source), Some(destination)) if is_below(&destination.destination, &source.destination) => {
                let detail = "the destination of the copy lies in its source, which would have no end";
                Err(Problem::new(ApiCode::Invalid, detail).with_hint("copy to a place beside the source"))
            }
            (Some(source), Some(destination)) => Ok(Self::Copy { source: Box::new(source), destination: Box::new(destination) }),
            (None, None) => Err(Problem::new(ApiCode::Invalid, "the request names no place")),
        }
    }

    /// What the engine is asked to do.
    #[must_use]
    pub fn job(self, request: &SubmitRequest) -> Job {
        let receive = |into: Resolved| Receive {
            destination: into.destination,
            overwrite: request.overwrite,
            resume: request.resume == ResumePolicy::Attributes,
            variant: request.variant,
        };
        match self {
            Self::Upload(into) => Job::Receive(receive(into)),
            Self::Download(source) => {
                Job::Send { source: source.destination, select: request.select.clone(), resume: request.resume == ResumePolicy::Attributes }
            }
            Self::Copy { source, destination } => {
                Job::Copy { source: source.destination, select: request.select.clone(), into: receive(*destination) }
            }
        }
    }

    /// The store that caps on the network may cover.
    #[must_use]
    pub fn store_over_the_network(&self) -> Option<&str> {
        match self {
            Self::Upload(place) | Self::Download(place) => Some(&place.store),
            Self::Copy { .. } => None,
        }
    }
}

/// Whether what is copied to the first place can get below the second one.
fn is_below(destination: &Destination, source: &Destination) -> bool {
    let place = |at: &Destination| {
        let (DestinationName::Into(name) | DestinationName::Exact(name)) = &at.name;
        match &at.store {
            Store::Local { root } => format!("{}/{name}", root.display()),
            Store::Faux => format!("faux {name}"),
            Store::S3(store) => format!("{} {}/{name}", store.endpoint.as_deref().unwrap_or_default(), store.bucket),
            Store::Azure(store) => {
                format!("{} {} {}/{name}", store.endpoint.as_deref().unwrap_or_default(), store.account, store.container)
            }
            Store::Swift(store) => {
                let account = store.auth.as_ref().map(|auth| auth.account()).unwrap_or_default();
                format!("{account} {}/{name}", store.container)
            }
            Store::Gcs(store) => format!("gs {} {}/{name}", store.endpoint.as_deref().unwrap_or_default(), store.bucket),
            Store::Hdfs(store) => format!("{} {}/{name}", store.namenodes.join(","), store.root.trim_end_matches('/')),
            Store::NetStorage(store) => format!("{} {}/{name}", store.url, store.cp_code),
        }
    };
    let (to, from) = (place(destination), place(source));
    let folder = if from.ends_with('/') { from.clone() } else { format!("{from}/") };
    to == from || to.starts_with(&folder)
}

/// Finds the store and the name in it.
///
/// # Errors
/// [`ApiCode::StoreUnknown`], [`ApiCode::Invalid`] where two stores fit, [`ErrorCode::DestinationInvalid`].
pub fn resolve(stores: &BTreeMap<String, StoreConfig>, user: &Identified, destination: &DestinationUrl) -> Result<Resolved, Problem> {
    let resolved = |store: &str, destination| Resolved { store: store.to_owned(), destination };
    let allowed = |name: &str| user.stores.as_ref().is_none_or(|own| own.iter().any(|store| store == name));
    let mut visible = stores.iter().filter(|(name, _)| allowed(name));
    match destination {
        DestinationUrl::Bucket { scheme, bucket, name } => {
            let mut fitting = visible.filter(|(_, config)| scheme_of(config) == Some(*scheme) && allows(config, bucket));
            let none = || unknown(format!("no store for {}:// with bucket '{bucket}'", scheme.as_str()));
            let (first, config) = fitting.next().ok_or_else(none)?;
            if let Some((second, _)) = fitting.next() {
                let detail = format!("bucket '{bucket}' can be in store '{first}' or in store '{second}'");
                return Err(Problem::new(ApiCode::Invalid, detail).with_hint(format!("write {first}:{bucket}/… or {second}:{bucket}/…")));
            }
            in_bucket(config, bucket.clone(), name.clone()).map(|destination| resolved(first, destination)).ok_or_else(none)
        }
        DestinationUrl::File { path, into } => {
            let path = Path::new(path);
            let roots = visible.filter_map(|(name, config)| match config {
                StoreConfig::Local { root } if path.starts_with(root) => Some((name, root)),
                _ => None,
            });
            // The innermost store that contains the path.
            let root = roots.max_by_key(|(_, root)| root.components().count());
            let (store, root) = root.ok_or_else(|| unknown(format!("no local store that contains '{}'", path.display())))?;
            let relative = path.strip_prefix(root).ok().and_then(Path::to_str).unwrap_or_default();
            Ok(resolved(store, in_directory(root, relative, *into)?))
        }
        DestinationUrl::Named { store, path, into } => match visible.find(|(name, _)| *name == store) {
            None => Err(unknown(format!("no store named '{store}'"))),
            Some((_, StoreConfig::Local { root })) => Ok(resolved(store, in_directory(root, path, *into)?)),
            Some((_, StoreConfig::Faux)) => Ok(resolved(store, Destination { store: Store::Faux, name: name_in_root(path, *into)? })),
            Some((_, StoreConfig::Hdfs(config))) => {
                Ok(resolved(store, Destination { store: hdfs(config), name: name_in_root(path, *into)? }))
            }
            Some((_, config)) => {
                let split = DestinationUrl::bucket_and_name(path, *into);
                let (bucket, name) = split.map_err(|e| Problem::new(ErrorCode::DestinationInvalid, e.to_string()))?;
                let none = unknown(format!("store '{store}' has no bucket '{bucket}'"));
                if !allows(config, &bucket) {
                    return Err(none);
                }
                in_bucket(config, bucket, name).map(|destination| resolved(store, destination)).ok_or(none)
            }
        },
    }
}

fn unknown(detail: String) -> Problem {
    Problem::new(ApiCode::StoreUnknown, detail)
}

/// What URLs of a store begin with, if it has buckets.
const fn scheme_of(config: &StoreConfig) -> Option<BucketScheme> {
    match config {
        StoreConfig::S3(_) => Some(BucketScheme::S3),
        StoreConfig::Azure(_) => Some(BucketScheme::Azure),
        StoreConfig::Swift(_) => Some(BucketScheme::Swift),
        StoreConfig::Gcs(_) => Some(BucketScheme::Gcs),
        StoreConfig::Hdfs(_) => Some(BucketScheme::Hdfs),
        StoreConfig::NetStorage(_) => Some(BucketScheme::NetStorage),
        StoreConfig::Local { .. } | StoreConfig::Faux => None,
    }
}

/// Whether the configuration lets a store's bucket be used.
fn allows(config: &StoreConfig, bucket: &str) -> bool {
    let among = |buckets: &[String]| buckets.iter().any(|known| known == bucket || known == "*");
    match config {
        StoreConfig::S3(config) => among(&config.buckets),
        StoreConfig::Azure(config) => among(&config.containers),
        StoreConfig::Swift(config) => among(&config.containers),
        StoreConfig::Gcs(config) => among(&config.buckets),
        StoreConfig::Hdfs(config) => config.nameservice == bucket,
        StoreConfig::NetStorage(config) => config.cp_code == bucket,
        StoreConfig::Local { .. } | StoreConfig::Faux => false,
    }
}

/// `None` for a store without buckets.
fn in_bucket(config: &StoreConfig, bucket: String, name: DestinationName) -> Option<Destination> {
    let store = match config {
        StoreConfig::S3(config) => Store::S3(S3Store {
            endpoint: config.endpoint.clone(),
            region: config.region.clone(),
            bucket,
            access_key: config.access_key.clone(),
            secret_key: config.secret_key.clone(),
            session_token: config.session_token.clone(),
            path_style: config.path_style,
            dialect: config.dialect,
        }),
        StoreConfig::Azure(config) => Store::Azure(AzureStore {
            account: config.account.clone(),
            endpoint: config.endpoint.clone(),
            container: bucket,
            account_key: config.account_key.clone(),
            sas: config.sas.clone(),
        }),
        StoreConfig::Swift(config) => {
            Store::Swift(SwiftStore { container: bucket, auth: config.auth.clone().map(Box::new), large_objects: config.large_objects })
        }
        StoreConfig::Gcs(config) => {
            let (endpoint, service_account, anonymous) = (config.endpoint.clone(), config.service_account.clone(), config.anonymous);
            Store::Gcs(GcsStore { bucket, endpoint, service_account, anonymous })
        }
        StoreConfig::Hdfs(config) => hdfs(config),
        StoreConfig::NetStorage(config) => Store::NetStorage(config.clone()),
        StoreConfig::Local { .. } | StoreConfig::Faux => return None,
    };
    Some(Destination { store, name })
}

fn hdfs(config: &HdfsConfig) -> Store {
    let HdfsConfig { namenodes, rpc_addresses, root, user, delegation_token, .. } = config.clone();
    Store::Hdfs(HdfsStore { namenodes, rpc_addresses, root, user, delegation_token })
}

fn in_directory(root: &Path, relative: &str, into: bool) -> Result<Destination, Problem> {
    Ok(Destination { store: Store::Local { root: root.to_owned() }, name: name_in_root(relative, into)? })
}

/// The name of what is `relative` to a store's root.
fn name_in_root(relative: &str, into: bool) -> Result<DestinationName, Problem> {
    match (into, relative.is_empty()) {
        (true, true) => Ok(DestinationName::Into(String::new())),
        (true, false) => Ok(DestinationName::Into(format!("{relative}/"))),
        (false, false) => Ok(DestinationName::Exact(relative.to_owned())),
        (false, true) => Err(Problem::new(ErrorCode::DestinationInvalid, "the destination is the store's root, not a file in it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tradewind_api::ProblemCode;

    fn s3(buckets: &[&str]) -> StoreConfig {
        StoreConfig::S3(crate::config::S3Config {
            endpoint: Some("http://127.0.0.1:1".into()),
            region: "r".into(),
            buckets: buckets.iter().map(|&b| b.to_owned()).collect(),
            access_key: None,
            secret_key: None,
            session_token: None,
            path_style: true,
            dialect: tradewind_ipc::Dialect::Aws,
        })
    }

    fn azure(containers: &[&str]) -> StoreConfig {
        let containers = containers.iter().map(|&name| name.to_owned()).collect();
        StoreConfig::Azure(crate::config::AzureConfig { account: "acct".into(), endpoint: None, containers, account_key: None, sas: None })
    }

    fn swift(containers: &[&str]) -> StoreConfig {
        let containers = containers.iter().map(|&name| name.to_owned()).collect();
        StoreConfig::Swift(crate::config::SwiftConfig { containers, auth: None, large_objects: tradewind_ipc::LargeObjects::Auto })
    }

    fn gcs(buckets: &[&str]) -> StoreConfig {
        let buckets = buckets.iter().map(|&name| name.to_owned()).collect();
        StoreConfig::Gcs(crate::config::GcsConfig { endpoint: None, buckets, service_account: None, anonymous: false })
    }

    fn lake(root: &str) -> StoreConfig {
        let namenodes = vec!["http://n:9870".to_owned()];
        let (nameservice, root) = ("lake".to_owned(), root.to_owned());
        StoreConfig::Hdfs(HdfsConfig {
            nameservice,
            namenodes,
            rpc_addresses: Vec::new(),
            root,
            user: Some("u".into()),
            delegation_token: None,
        })
    }

    fn netstorage(cp_code: &str) -> StoreConfig {
        StoreConfig::NetStorage(tradewind_ipc::NetStorageStore {
            url: "https://example-nsu.akamaihd.net".into(),
            cp_code: cp_code.into(),
            upload_account: "account".into(),
            key: tradewind_ipc::SecretText::new("a key".into()),
            spool_dir: "/spool".into(),
            requests_per_s: 12,
        })
    }

    fn outcome(user_stores: Option<&[&str]>, destination: &str) -> Result<String, ProblemCode> {
        let local = |root: &str| StoreConfig::Local { root: root.into() };
        let stores = BTreeMap::from([
            ("one".to_owned(), s3(&["alpha", "both"])),
            ("two".to_owned(), s3(&["beta", "both"])),
            ("data".to_owned(), local("/data")),
            ("inner".to_owned(), local("/data/inner")),
            ("cloud".to_owned(), azure(&["alpha"])),
            ("stack".to_owned(), swift(&["alpha"])),
            ("google".to_owned(), gcs(&["alpha"])),
            ("hadoop".to_owned(), lake("/tw")),
            ("edge".to_owned(), netstorage("123456")),
            ("faux".to_owned(), StoreConfig::Faux),
        ]);
        let stores_of_user = user_stores.map(|names| names.iter().map(|&n| n.to_owned()).collect());
        let user = Identified { access_key: "u".into(), stores: stores_of_user };
        let found = resolve(&stores, &user, &DestinationUrl::parse(destination).unwrap()).map_err(|p| p.code)?.destination;
        let place = match found.store {
            Store::Local { root } => root.display().to_string(),
            Store::Faux => "nowhere".to_owned(),
            Store::S3(store) => store.bucket,
            Store::Azure(store) => format!("{}/{}", store.account, store.container),
            Store::Swift(store) => format!("swift {}", store.container),
            Store::Gcs(store) => format!("gs {}", store.bucket),
            Store::Hdfs(store) => format!("hdfs {}", store.root),
            Store::NetStorage(store) => format!("netstorage {}", store.cp_code),
        };
        Ok(match found.name {
            DestinationName::Into(prefix) => format!("{place} into {prefix}"),
            DestinationName::Exact(key) => format!("{place} as {key}"),
        })
    }

    #[test]
    fn finds_the_store_that_is_meant() {
        for (destination, expected) in [
            ("s3://alpha/in/", "alpha into in/"),
            ("s3://beta/key", "beta as key"),
            ("faux:in/", "nowhere into in/"),
            ("faux:", "nowhere into "),
            ("faux:film?20G", "nowhere as film?20G"),
            ("two:both/key", "both as key"),
            ("one:both", "both into "),
            ("file:///data/a/", "/data into a/"),
            ("file:///data/", "/data into "),
            ("file:///data/inner/x", "/data/inner as x"),
            ("inner:x/", "/data/inner into x/"),
            ("az://alpha/in/", "acct/alpha into in/"),
            ("cloud:alpha/key", "acct/alpha as key"),
            ("swift://alpha/in/", "swift alpha into in/"),
            ("stack:alpha/key", "swift alpha as key"),
            ("gs://alpha/in/", "gs alpha into in/"),
            ("google:alpha/key", "gs alpha as key"),
            ("hdfs://lake/in/", "hdfs /tw into in/"),
            ("hadoop:in/key", "hdfs /tw as in/key"),
            ("netstorage://123456/in/", "netstorage 123456 into in/"),
            ("edge:123456/key", "netstorage 123456 as key"),
        ] {
            assert_eq!(outcome(None, destination).as_deref(), Ok(expected), "{destination}");
        }
    }

    #[test]
    fn a_copy_into_its_own_source_is_refused() {
        let local = |name: &str| {
            let name = if name.ends_with('/') || name.is_empty() {
                DestinationName::Into(name.into())
            } else {
                DestinationName::Exact(name.into())
            };
            Destination { store: Store::Local { root: "/data".into() }, name }
        };
        for (to, from) in [("a/b/", "a/"), ("a/b/", "a"), ("a/", ""), ("a", "a"), ("a/", "a/"), ("a/x", "a")] {
            assert!(is_below(&local(to), &local(from)), "{from} to {to}");
        }
        for (to, from) in [("ab/", "a/"), ("ab", "a"), ("", "a/"), ("b/", "a/"), ("a", "a/b")] {
            assert!(!is_below(&local(to), &local(from)), "{from} to {to}");
        }
        let in_lake = |root: &str, name: &str| {
            let StoreConfig::Hdfs(config) = lake(root) else { panic!("it is one of HDFS") };
            Destination { store: hdfs(&config), name: DestinationName::Into(name.into()) }
        };
        assert!(is_below(&in_lake("/tw/inner", "x/"), &in_lake("/tw", "")) && is_below(&in_lake("/tw", "a/"), &in_lake("/", "tw/")));
        assert!(!is_below(&in_lake("/twin", "x/"), &in_lake("/tw", "")));
        let nested = Destination { store: Store::Local { root: "/data/inner".into() }, name: DestinationName::Into("x/".into()) };
        assert!(is_below(&nested, &local("")) && is_below(&nested, &local("inner/")) && !is_below(&nested, &local("other/")));
    }

    #[test]
    fn refuses_what_is_not_configured_not_allowed_or_not_clear() {
        let unknown = ProblemCode::from(ApiCode::StoreUnknown);
        for destination in [
            "s3://gamma/",
            "netstorage://123457/",
            "edge:alpha/",
            "az://beta/",
            "cloud:beta/",
            "hdfs://hadoop/",
            "two:alpha/",
            "nowhere:x",
            "file:///etc/passwd",
            "file:///database/x",
        ] {
            assert_eq!(outcome(None, destination), Err(unknown.clone()), "{destination}");
        }
        assert_eq!(outcome(Some(&["two"]), "s3://alpha/"), Err(unknown.clone()));
        assert_eq!(outcome(Some(&["two"]), "data:x"), Err(unknown));
        assert_eq!(outcome(Some(&["two"]), "s3://both/").as_deref(), Ok("both into "));
        assert_eq!(outcome(None, "s3://both/"), Err(ApiCode::Invalid.into()));
        assert_eq!(outcome(None, "file:///data/inner"), Err(ErrorCode::DestinationInvalid.into()));
    }
}
