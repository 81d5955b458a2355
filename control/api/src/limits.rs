//! Limits of the REST interface.

/// Largest request body, bytes.
pub const REQUEST_BODY_BYTES_MAX: usize = 64 * 1024;
/// Largest body of a request to verify, bytes: with a destination and its secrets it fits one message to the engine.
pub const VERIFY_BODY_BYTES_MAX: usize = 96 * 1024;
/// Largest response body that the client reads, bytes.
pub const RESPONSE_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest destination text, bytes.
pub const DESTINATION_BYTES_MAX: usize = 4096;
/// Largest key in a bucket, bytes (Amazon S3 user guide, "Naming Amazon S3 objects").
pub const OBJECT_KEY_BYTES_MAX: usize = 1024;
/// Largest component of a local path, bytes (Linux `NAME_MAX`).
pub const PATH_COMPONENT_BYTES_MAX: usize = 255;
/// Shortest and longest bucket names, bytes. Old buckets have up to 255; new ones 63.
pub const BUCKET_BYTES: std::ops::RangeInclusive<usize> = 3..=255;
/// Largest transfer id, bytes.
pub const TRANSFER_ID_BYTES_MAX: usize = 64;
/// Files listed one by one in a status answer; more are only counted.
pub const STATUS_FILES_MAX: usize = 100;
/// Transfers in one list answer.
pub const LIST_MAX: usize = 1000;
/// Entries in one page of a listing of objects.
pub const OBJECTS_PAGE_MAX: u32 = 1000;
/// Largest rate that can be asked for, bits per second: 10 Tbit/s.
pub const RATE_BPS_MAX: u64 = 10_000_000_000_000;
/// Smallest rate that can be asked for, bits per second.
pub const RATE_BPS_MIN: u64 = 8_000;

const _: () = assert!(DESTINATION_BYTES_MAX < REQUEST_BODY_BYTES_MAX);
const _: () = assert!(OBJECT_KEY_BYTES_MAX < DESTINATION_BYTES_MAX);
const _: () = assert!(RATE_BPS_MIN < RATE_BPS_MAX);
