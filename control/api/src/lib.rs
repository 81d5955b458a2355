//! The control process's REST interface, seen from both sides: request and response types, the parser of request bodies, the
//! typed client, and the trust it puts in a server's key.
//!
//! | Request | Answer |
//! |---|---|
//! | `POST /v1/transfers` ([`SubmitRequest`]) | 201 [`SubmitResponse`] |
//! | `GET /v1/transfers` | 200 [`TransferList`] |
//! | `GET /v1/transfers/{id}` | 200 [`TransferStatus`] |
//! | `PATCH /v1/transfers/{id}` ([`RateChange`]) | 200 [`TransferStatus`] |
//! | `DELETE /v1/transfers/{id}` | 200 [`TransferStatus`] |
//! | `GET /v1/objects?url=URL&recursive=&after=&limit=` ([`ListQuery`]) | 200 [`ObjectPage`] |
//! | `GET /v1/object?url=URL` | 200 [`ObjectDetails`] |
//! | `DELETE /v1/object?url=URL` | 200 [`Removed`] |
//! | `GET /v1/transfers/{id}/manifest` | 200, a line of JSON for each file that is durable |
//! | `GET /v1/transfers/{id}/receipt` | 200, two lines of JSON: what was transferred, and a signature |
//! | `GET /v1/receipt-key` | 200 [`ReceiptKey`], without credentials too |
//! | `POST /v1/verify?url=URL` (lines of a manifest) | 200, a [`Verified`] a line, at least one a second |
//! | `GET /healthz` | 200 or 503 [`Health`]; details only with credentials |
//!
//! Everything else is answered by a [`Problem`] (`application/problem+json`, RFC 9457). Credentials travel as HTTP Basic, or
//! as `Authorization: Bearer KEY:SECRET`. TLS 1.3 only.

#![forbid(unsafe_code)]

mod address;
mod client;
mod destination;
mod fingerprint;
mod known;
pub mod limits;
mod objects;
mod pin;
mod problem;
mod proof;
mod rates;
mod submit;
mod types;

pub use address::{AddressError, DEFAULT_PORT, ServerAddress};
pub use client::{Client, ClientError, Credentials};
pub use destination::{BucketScheme, DestinationError, DestinationUrl, check_relative_name, is_store_name};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use known::{KnownServers, KnownServersError, Trust, TrustError, Trusted, establish_trust};
pub use objects::{ListQuery, ObjectQuery, Removed, folder_url, last_part};
pub use pin::{pinned_tls_config, probe_fingerprint};
pub use problem::{ApiCode, Problem, ProblemCode};
pub use proof::{ReceiptKey, VERIFY_LINES_MAX, Verdict, Verified, VerifyQuery};
pub use rates::{GroupShare, RateChange, RateGrant, RateStatus};
pub use submit::{Submission, parse_submit};
pub use tradewind_ipc::{
    Cipher, DestinationName, ErrorCode, LaneSecret, Limiter, ObjectDetails, ObjectEntry, ObjectPage, SecretText, Select, XdpMode,
    XdpStatus, exit,
};
pub use types::{
    DurableEntry, DurableSummary, EngineHealth, FileStatus, Health, HealthState, LaneOffer, OfferedEndpoint, Outcome, RatePolicy,
    RateRequest, RemoteLane, ResumePolicy, SampleEntry, SubmitRequest, SubmitResponse, Totals, TransferLimits, TransferList, TransferState,
    TransferStatus,
};
