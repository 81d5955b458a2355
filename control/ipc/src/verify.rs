//! Reading stored objects again and comparing them with what a manifest says.

use serde::{Deserialize, Serialize};

use crate::{Destination, ErrorCode};

/// Objects to be read and compared. Answered by [`crate::FromEngine::Verified`] at least every [`VERIFY_HEARTBEAT_MS`], the last of them with
/// `ended` set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// Chosen by the control process; of another series than those of [`crate::Browse`].
    pub request_id: u64,
    /// The store, and the place that paths are below.
    pub destination: Destination,
    /// Lines of a manifest (`tradewind_integrity::ManifestLine`), as JSON.
    pub lines: Vec<String>,
}

/// How often the engine says how far it is, milliseconds.
pub const VERIFY_HEARTBEAT_MS: u64 = 1000;

/// What has been found out since the last such message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verified {
    /// As asked.
    pub request_id: u64,
    /// Bytes read so far.
    pub bytes: u64,
    /// Lines, counted from 0 in the order of the question, and what became of each.
    pub verdicts: Vec<(u32, Verdict)>,
    /// This was the last.
    pub ended: bool,
}

/// What became of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Verdict {
    /// Size and every checksum of the line are those of the object.
    Same {
        /// What was compared beside the size: `crc64nvme`, `sha256`, …
        checksums: Vec<String>,
    },
    /// The object is another.
    Different {
        /// What differs, and how.
        what: String,
    },
    /// There is no such object.
    Missing,
    /// The store refused or failed, or the line makes no sense.
    Failed {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people.
        text: String,
    },
}
