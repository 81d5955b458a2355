//! Requests about what proves a transfer: manifests, receipts, and reading stored objects again.

use serde::{Deserialize, Serialize};

/// `GET /v1/receipt-key`: what checks this server's receipts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptKey {
    /// Name of the key, as receipts carry it.
    pub key_id: String,
    /// `ed25519:` and the key, base64.
    pub public_key: String,
}

/// Parameters of `POST /v1/verify`. Its body are lines of a manifest, at most [`VERIFY_LINES_MAX`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyQuery {
    /// The destination that the paths of the lines are below.
    pub url: String,
}

/// Lines in one request.
pub const VERIFY_LINES_MAX: usize = 256;

pub use tradewind_ipc::{Verdict, Verified};
