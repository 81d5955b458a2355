//! Which objects of a folder are wanted.

use serde::{Deserialize, Serialize};

/// Which objects of a folder are wanted. By default all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// Patterns as in .gitignore, without `!`; objects whose paths below what is read match are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Likewise; what matches is wanted though `exclude` matches too. Without `exclude`, nothing else is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Only what was modified after this, nanoseconds since 1970: the time of the file, or else that of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer_than_ns: Option<i64>,
    /// Only what was modified before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_ns: Option<i64>,
}

impl Select {
    /// Whether everything is wanted.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}
