//! Requests about the objects of a store. Objects are named like destinations: see [`crate::DestinationUrl`].

use serde::{Deserialize, Serialize};

use crate::destination::BucketScheme;

/// Parameters of `GET /v1/objects`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// What the objects' URLs begin with. Only what ends in `/` is a folder: `s3://bucket/a` also finds `s3://bucket/ab`.
    pub url: String,
    /// All objects whose URLs begin so, rather than those of one folder and the folders in it. Default false.
    #[serde(default)]
    pub recursive: bool,
    /// [`crate::ObjectPage::next`] of the page before, or a name in the same form: what comes after it is listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Most entries of a page, 1 to [`crate::limits::OBJECTS_PAGE_MAX`]. Default: that many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Parameters of `GET` and `DELETE /v1/object`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectQuery {
    /// The object's URL.
    pub url: String,
}

/// Answer to `DELETE /v1/object`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// What was removed, as it was asked for.
    pub url: String,
}

/// The folder that the names of a listing of this URL are relative to: put a name behind it, and that is the object's URL.
#[must_use]
pub fn folder_url(url: &str) -> String {
    let in_bucket = BucketScheme::ALL.iter().find_map(|scheme| url.strip_prefix(scheme.as_str())?.strip_prefix("://"));
    let place = match in_bucket.or_else(|| url.strip_prefix("file://")) {
        Some(rest) => url.len() - rest.len(),
        None => url.find(':').map_or(0, |colon| colon + 1),
    };
    match url[place..].rfind('/') {
        Some(slash) => url[..=place + slash].to_owned(),
        // The bucket alone.
        None if in_bucket.is_some() => format!("{url}/"),
        None => url[..place].to_owned(),
    }
}

/// The name of the one object of a URL: what stands behind its last '/', or in a named store's root behind the ':'.
#[must_use]
pub fn last_part(url: &str) -> &str {
    match url.rsplit_once('/') {
        Some((_, name)) => name,
        None => url.split_once(':').map_or(url, |(_, name)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_behind_the_folder_make_urls() {
        for (url, folder) in [
            ("s3://bucket", "s3://bucket/"),
            ("s3://bucket/", "s3://bucket/"),
            ("az://files", "az://files/"),
            ("az://files/a/b", "az://files/a/"),
            ("swift://files/a/b", "swift://files/a/"),
            ("gs://files/a/b", "gs://files/a/"),
            ("hdfs://lake/a/b", "hdfs://lake/a/"),
            ("netstorage://123456/a/b", "netstorage://123456/a/"),
            ("s3://bucket/a", "s3://bucket/"),
            ("s3://bucket/a/", "s3://bucket/a/"),
            ("s3://bucket/a/b", "s3://bucket/a/"),
            ("file:///", "file:///"),
            ("file:///data/in/x", "file:///data/in/"),
            ("store:", "store:"),
            ("store:a", "store:"),
            ("store:a/b:c", "store:a/"),
            ("nonsense", ""),
        ] {
            assert_eq!(folder_url(url), folder, "{url}");
        }
    }

    #[test]
    fn the_last_part_keeps_its_colons() {
        for (url, name) in
            [("s3://b/10:30.mov", "10:30.mov"), ("store:a", "a"), ("store:a/b:c", "b:c"), ("store:a:b", "a:b"), ("file:///x", "x")]
        {
            assert_eq!(last_part(url), name, "{url}");
        }
    }
}
