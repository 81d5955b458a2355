//! Destinations as users write them, and the rules for names. Lexical only: what exists is the store's business.

use std::fmt;

use tradewind_ipc::DestinationName;

use crate::limits::{BUCKET_BYTES, DESTINATION_BYTES_MAX, OBJECT_KEY_BYTES_MAX, PATH_COMPONENT_BYTES_MAX};

/// A destination, split. Text is taken literally: nothing is percent-decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationUrl {
    /// `s3://bucket/key`, `gs://bucket/key`, `az://container/key`, `swift://container/key` or `netstorage://cpcode/key`: any configured store of
    /// the kind that allows the bucket, container or CP code.
    /// `hdfs://nameservice/path`: the configured store of that cluster.
    Bucket {
        /// What kind of store.
        scheme: BucketScheme,
        /// Bucket, container or nameservice.
        bucket: String,
        /// Prefix or key.
        name: DestinationName,
    },
    /// `file:///path`: the configured local store that contains the path.
    File {
        /// Absolute path, normalised: no empty, `.` or `..` components, no slash at the end.
        path: String,
        /// The text ended in a slash: files keep their names below it.
        into: bool,
    },
    /// `STORE:path`: a configured store by name. For one with buckets the path's first component is the bucket.
    Named {
        /// Name of the store.
        store: String,
        /// Path behind the colon, with `into` as in `File`.
        path: String,
        /// The text ended in a slash, or nothing follows the colon.
        into: bool,
    },
}

/// Kinds of stores whose URLs name a bucket, or what stands for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketScheme {
    /// `s3://`: S3 and what speaks like it.
    S3,
    /// `az://`: Azure Blob Storage, whose buckets are called containers.
    Azure,
    /// `swift://`: OpenStack Swift, with containers too.
    Swift,
    /// `gs://`: Google Cloud Storage.
    Gcs,
    /// `hdfs://`: HDFS, where the name of the cluster stands for a bucket.
    Hdfs,
    /// `netstorage://`: Akamai NetStorage, with CP codes.
    NetStorage,
}

impl BucketScheme {
    pub(crate) const ALL: [Self; 6] = [Self::S3, Self::Azure, Self::Swift, Self::Gcs, Self::Hdfs, Self::NetStorage];

    /// As in URLs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "az",
            Self::Swift => "swift",
            Self::Gcs => "gs",
            Self::Hdfs => "hdfs",
            Self::NetStorage => "netstorage",
        }
    }
}

/// A destination that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// No known form.
    #[error(
        "'{0}' is not a destination: expected s3://BUCKET/PREFIX/, gs://BUCKET/PREFIX/, az://CONTAINER/PREFIX/, swift://CONTAINER/PREFIX/, \
         hdfs://NAMESERVICE/PATH/, netstorage://CPCODE/PREFIX/, file:///PATH/ or STORE:PATH/"
    )]
    Form(String),
    /// A service that is no more.
    #[error("Edgio (Limelight) has ended its service (its network closed in early 2025): nothing can be sent there or got from it")]
    Ended,
    /// Too long.
    #[error("the destination's {what} has {bytes} bytes, {limit} are allowed")]
    TooLong {
        /// Which part of it.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The bucket's name is none.
    #[error("'{0}' is not a bucket name: 3 to 255 letters, digits, '.', '-' and '_', beginning with a letter or digit")]
    Bucket(String),
    /// A component is empty, `.` or `..`.
    #[error("the component '{0}' is not allowed in a destination's path")]
    Component(String),
    /// A control character.
    #[error("control characters are not allowed in a destination")]
    Control,
    /// An S3 destination that names no bucket, or a file name that is missing.
    #[error("the destination names no {0}")]
    Missing(&'static str),
}

impl DestinationUrl {
    /// Splits and checks a destination.
    ///
    /// # Errors
    /// [`DestinationError`] names the rule broken.
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        limit("text", text.len(), DESTINATION_BYTES_MAX)?;
        if text.chars().any(char::is_control) {
            return Err(DestinationError::Control);
        }
        for scheme in BucketScheme::ALL {
            if let Some(rest) = text.strip_prefix(scheme.as_str()).and_then(|rest| rest.strip_prefix("://")) {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                return Ok(Self::Bucket { scheme, bucket: check_bucket(bucket)?.to_owned(), name: object_name(key)? });
            }
        }
        if text.starts_with("edgio://") || text.starts_with("limelight://") {
            return Err(DestinationError::Ended);
        }
        if let Some(path) = text.strip_prefix("file://") {
            let relative = path.strip_prefix('/').ok_or_else(|| DestinationError::Form(text.to_owned()))?;
            let (path, into) = split_into(relative);
            check_path(path)?;
            return Ok(Self::File { path: format!("/{path}"), into });
        }
        let (store, path) = text
            .split_once(':')
            .filter(|(store, path)| is_store_name(store) && !path.starts_with("//"))
            .ok_or_else(|| DestinationError::Form(text.to_owned()))?;
        let (path, into) = split_into(path);
        check_path(path)?;
        Ok(Self::Named { store: store.to_owned(), path: path.to_owned(), into })
    }

    /// Splits the path of a named S3 store into bucket and name.
    ///
    /// # Errors
    /// [`DestinationError`] as for `s3://`.
    pub fn bucket_and_name(path: &str, into: bool) -> Result<(String, DestinationName), DestinationError> {
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if bucket.is_empty() {
            return Err(DestinationError::Missing("bucket"));
        }
        let key = if into && !key.is_empty() { format!("{key}/") } else { key.to_owned() };
        Ok((check_bucket(bucket)?.to_owned(), object_name(&key)?))
    }

    /// The one file gets exactly this name (no `/` at the end).
    #[must_use]
    pub fn names_one_file(&self) -> bool {
        match self {
            Self::Bucket { name, .. } => matches!(name, DestinationName::Exact(_)),
            Self::File { into, .. } | Self::Named { into, .. } => !into,
        }
    }
}

impl fmt::Display for DestinationUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = |into: &bool, path: &str| if *into && !path.is_empty() && path != "/" { "/" } else { "" };
        match self {
            Self::Bucket { scheme, bucket, name: DestinationName::Into(key) | DestinationName::Exact(key) } => {
                write!(f, "{}://{bucket}/{key}", scheme.as_str())
            }
            Self::File { path, into } => write!(f, "file://{path}{}", slash(into, path)),
            Self::Named { store, path, into } => write!(f, "{store}:{path}{}", slash(into, path)),
        }
    }
}

/// A store's name: a letter, then letters, digits, `-` and `_`; 2 to 64 of them, so that no drive letter is one.
#[must_use]
pub fn is_store_name(text: &str) -> bool {
    (2..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// A file's name relative to the destination: components divided by `/`, none of them empty, `.` or `..`.
///
/// # Errors
/// [`DestinationError`] names the rule broken.
pub fn check_relative_name(name: &str) -> Result<(), DestinationError> {
    if name.is_empty() {
        return Err(DestinationError::Missing("file"));
    }
    limit("name", name.len(), DESTINATION_BYTES_MAX)?;
    check_path(name)
}

fn split_into(path: &str) -> (&str, bool) {
    match path.strip_suffix('/') {
        Some(path) => (path, true),
        None => (path, path.is_empty()),
    }
}

fn object_name(key: &str) -> Result<DestinationName, DestinationError> {
    limit("key", key.len(), OBJECT_KEY_BYTES_MAX)?;
    let (path, into) = split_into(key);
    check_path(path)?;
    if into && path.is_empty() && !key.is_empty() {
        return Err(DestinationError::Component(String::new()));
    }
    Ok(if into { DestinationName::Into(key.to_owned()) } else { DestinationName::Exact(key.to_owned()) })
}

fn check_path(path: &str) -> Result<(), DestinationError> {
    if path.is_empty() {
        return Ok(());
    }
    if path.chars().any(char::is_control) {
        return Err(DestinationError::Control);
    }
    for component in path.split('/') {
        if matches!(component, "" | "." | "..") {
            return Err(DestinationError::Component(component.to_owned()));
        }
        limit("path component", component.len(), PATH_COMPONENT_BYTES_MAX)?;
    }
    Ok(())
}

fn check_bucket(bucket: &str) -> Result<&str, DestinationError> {
    let wrong = || DestinationError::Bucket(bucket.chars().take(80).collect());
    if bucket.is_empty() {
        return Err(DestinationError::Missing("bucket"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let well_formed = BUCKET_BYTES.contains(&bucket.len())
        && bucket.chars().all(allowed)
        && bucket.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !bucket.contains("..");
    if well_formed { Ok(bucket) } else { Err(wrong()) }
}

const fn limit(what: &'static str, bytes: usize, limit: usize) -> Result<(), DestinationError> {
    if bytes > limit { Err(DestinationError::TooLong { what, bytes, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(bucket: &str, name: DestinationName) -> DestinationUrl {
        DestinationUrl::Bucket { scheme: BucketScheme::S3, bucket: bucket.into(), name }
    }

    #[test]
    fn forms_of_destinations() {
        use DestinationName::{Exact, Into};
        let named = |path: &str, into| DestinationUrl::Named { store: "archive".into(), path: path.into(), into };
        for (text, expected) in [
            ("az://files/a/", DestinationUrl::Bucket { scheme: BucketScheme::Azure, bucket: "files".into(), name: Into("a/".into()) }),
            ("swift://files/a", DestinationUrl::Bucket { scheme: BucketScheme::Swift, bucket: "files".into(), name: Exact("a".into()) }),
            ("gs://files/a/", DestinationUrl::Bucket { scheme: BucketScheme::Gcs, bucket: "files".into(), name: Into("a/".into()) }),
            ("hdfs://lake/a/", DestinationUrl::Bucket { scheme: BucketScheme::Hdfs, bucket: "lake".into(), name: Into("a/".into()) }),
            (
                "netstorage://123456/a",
                DestinationUrl::Bucket { scheme: BucketScheme::NetStorage, bucket: "123456".into(), name: Exact("a".into()) },
            ),
            ("s3://bucket", s3("bucket", Into(String::new()))),
            ("s3://bucket/", s3("bucket", Into(String::new()))),
            ("s3://bucket/a/b/", s3("bucket", Into("a/b/".into()))),
            ("s3://bucket/a/b%20c", s3("bucket", Exact("a/b%20c".into()))),
            ("file:///", DestinationUrl::File { path: "/".into(), into: true }),
            ("file:///data/in/", DestinationUrl::File { path: "/data/in".into(), into: true }),
            ("file:///data/in", DestinationUrl::File { path: "/data/in".into(), into: false }),
            ("archive:", named("", true)),
            ("archive:a/", named("a", true)),
            ("archive:a/b", named("a/b", false)),
        ] {
            assert_eq!(DestinationUrl::parse(text).as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn names_that_climb_or_confuse_are_refused() {
        for text in [
            "",
            "/data",
            "relative/path",
            "s3:/b/k",
            "s3://",
            "s3:///key",
            "s3://ab/k",
            "s3://-bucket/k",
            "s3://a..b/k",
            "s3://bu cket/k",
            "s3://bucket/../k",
            "s3://bucket/a//b",
            "s3://bucket//",
            "s3://bucket/a/./b",
            "s3://bucket/..",
            "file://host/path",
            "file:///a/../b",
            "file://relative",
            "archive:/abs",
            "archive:../x",
            "archive:a//b",
            "archive:a/\0",
            "http://host/x",
            "C:x",
            "s3://bucket/a\nb",
        ] {
            assert!(DestinationUrl::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_service_that_has_ended_is_told() {
        for text in ["edgio://bucket/a", "limelight://bucket/"] {
            assert_eq!(DestinationUrl::parse(text), Err(DestinationError::Ended), "{text}");
        }
    }

    #[test]
    fn lengths_at_and_above_their_limits() {
        let key = |bytes: usize| {
            let name = "k".repeat(200);
            let mut key = [name.as_str(); 20].join("/");
            key.truncate(bytes);
            format!("s3://bucket/{key}")
        };
        assert!(DestinationUrl::parse(&key(OBJECT_KEY_BYTES_MAX)).is_ok());
        assert!(matches!(DestinationUrl::parse(&key(OBJECT_KEY_BYTES_MAX + 1)), Err(DestinationError::TooLong { what: "key", .. })));
        assert!(check_relative_name(&"n".repeat(PATH_COMPONENT_BYTES_MAX)).is_ok());
        assert!(check_relative_name(&"n".repeat(PATH_COMPONENT_BYTES_MAX + 1)).is_err());
        assert!(DestinationUrl::parse(&format!("s3://{}/k", "b".repeat(255))).is_ok());
        assert!(DestinationUrl::parse(&format!("s3://{}/k", "b".repeat(256))).is_err());
    }

    #[test]
    fn a_named_bucket_follows_the_rules_of_s3_urls() {
        assert_eq!(DestinationUrl::bucket_and_name("bucket/a", true), Ok(("bucket".into(), DestinationName::Into("a/".into()))));
        assert_eq!(DestinationUrl::bucket_and_name("bucket", true), Ok(("bucket".into(), DestinationName::Into(String::new()))));
        assert_eq!(DestinationUrl::bucket_and_name("bucket/a", false), Ok(("bucket".into(), DestinationName::Exact("a".into()))));
        assert_eq!(DestinationUrl::bucket_and_name("", true), Err(DestinationError::Missing("bucket")));
    }

    proptest::proptest! {
        #[test]
        fn what_parses_prints_as_what_parses_to_the_same(text in "(s3://|az://|file://|ab:)[a-c./]{0,12}") {
            if let Ok(url) = DestinationUrl::parse(&text) {
                proptest::prop_assert_eq!(DestinationUrl::parse(&url.to_string()), Ok(url));
                proptest::prop_assert!(!text.contains("/../") && !text.ends_with("/.."));
            }
        }
    }
}
