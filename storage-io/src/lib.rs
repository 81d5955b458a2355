//! From blocks to objects: part planning, assembling, uploading, and the stores behind it.
//!
//! The receiving end of a transfer hands complete blocks to an [`Uploader`] in any order. It assembles them into parts
//! (runs of bytes of one file), derives the checksums of parts and whole objects from the checksums of the pieces, and
//! drives a [`Store`]: S3 and what speaks like it ([`S3Store`]), or a directory ([`LocalStore`]). This crate never sees a
//! packet and knows nothing of the wire: the engine converts a block's table into a [`ReadyBlock`].
//!
//! Payload is never copied here: a part's body is the pool slots of its blocks, lent as `bytes::Bytes`; a slot returns to its
//! pool when the store has acknowledged every byte of it. What an earlier transfer left on a disk ([`KeptBlock`]) is read there when its part's
//! turn has come.

#![forbid(unsafe_code)]

mod asked;
mod azure;
mod checksum;
mod error;
mod existing;
mod faux;
mod fetch;
mod gcs;
mod hdfs;
mod holes;
mod journal;
mod list;
mod local;
mod metadata;
pub mod name;
mod netstorage;
mod reading;
mod rest;
mod retry;
mod s3;
mod store;
mod swift;
mod upload;

pub use azure::{AzureConfig, AzureCredentials, AzureStore};
pub use checksum::{Crc64, RunningCrc64};
pub use error::{StoreError, UploadError};
pub use faux::FauxStore;
pub use fetch::{FetchConfig, Fetched, FetchedObject, TakesPath, TakesTime, Wanted, fetch};
pub use gcs::{GcsConfig, GcsCredentials, GcsStore};
pub use hdfs::{HdfsAuth, HdfsConfig, HdfsStore};
pub use holes::{HOLE_BYTES_MIN, SPARSE_ATTRIBUTE, are_zeros, is_marked_sparse, may_have_holes, sparse_attribute};
pub use journal::{Durable, Journal, KeptBlock, Recalled, Resumption, Scope, resume};
pub use list::{Depth, LIST_ENTRIES_MAX, ListEntry, ListedObject, Listing};
pub use local::{FsyncPolicy, LocalStore};
pub use name::decode as decode_name;
pub use netstorage::{NetStorageConfig, NetStorageStore};
pub use retry::{Deadlines, RetryPolicy};
pub use s3::{Credentials, Dialect, S3Config, S3Store};
pub use store::{
    Attributes, Body, Limits, ObjectInfo, ObjectKey, ObjectMeta, ObjectRange, Part, PartReceipt, Store, StoredObject, Upload,
    check_destination,
};
pub use swift::{LargeObjects, SwiftAuth, SwiftConfig, SwiftStore};
pub use tradewind_parts::{PartPlan, PoolNeed};
pub use upload::{
    FileMeta, KeptMemory, ObjectName, Piece, ReadyBlock, Sample, StatsSnapshot, UploadEvent, UploadStats, Uploader, UploaderConfig,
};
