//! What can go wrong between a complete block and a stored object, as errors a caller can act on.

use std::time::Duration;

use tradewind_parts::PlanError;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The bucket, container or root directory is not there.
    #[error("{place} does not exist; create it first or correct the destination")]
    NotFound {
        /// Bucket and endpoint, or directory.
        place: String,
    },
    /// The journal of what is durable cannot be read or written.
    #[error(
        "the journal cannot be used: {detail}; repair its directory, or move the file away to begin a new one (interrupted transfers then start over)"
    )]
    Journal {
        /// Where, and what SQLite says.
        detail: String,
    },
    /// There is no object of that name.
    #[error("{object} is not there any more; list the folder again, or leave it out")]
    ObjectGone {
        /// The object.
        object: String,
    },
    /// The object is not what it was when it was looked at first.
    #[error("{object} changed while it was read: {what}; read it again when nobody writes it")]
    ObjectChanged {
        /// The object.
        object: String,
        /// What differs.
        what: &'static str,
    },
    /// The credentials are good but may not do this.
    #[error(
        "{place} refuses to {action}: {detail}; check the permissions (in a bucket: to read it, put objects and abort multipart uploads; for `tradewind rm` to delete them)"
    )]
    AccessDenied {
        /// Where.
        place: String,
        /// What was asked.
        action: &'static str,
        /// The store's own words.
        detail: String,
    },
    /// The store does not know these credentials, or they have expired.
    #[error(
        "{place} does not accept the credentials: {detail}; check those of the store in the server's configuration (for S3 access key, secret key, session token and region)"
    )]
    BadCredentials {
        /// Where.
        place: String,
        /// The store's own words.
        detail: String,
    },
    /// The store's clock and ours differ by more than signatures allow.
    #[error("{place} says that this machine's clock is wrong: {detail}; synchronise it (chronyc tracking, timedatectl)")]
    ClockSkew {
        /// Where.
        place: String,
        /// The store's own words.
        detail: String,
    },
    /// The bucket lives in another region, or the endpoint is another server's.
    #[error("{place} is served from elsewhere: {detail}; set the destination's region or endpoint")]
    WrongRegion {
        /// Where.
        place: String,
        /// The store's own words.
        detail: String,
    },
    /// The store asks us to slow down.
    #[error(
        "{place} throttles requests: {detail}; it was retried with growing pauses, so lower the number of requests in flight or the rate"
    )]
    Throttled {
        /// Where.
        place: String,
        /// The store's own words.
        detail: String,
    },
    /// No answer, a broken connection, or an error that the store calls its own.
    #[error("{place} is not available: {detail}; check that it runs and can be reached from this server")]
    Unavailable {
        /// Where.
        place: String,
        /// What was seen.
        detail: String,
    },
    /// The store did not answer within the deadline.
    #[error("{action} got no answer within {} ms; the store or the way to it is too slow or stuck", after.as_millis())]
    Timeout {
        /// What was asked.
        action: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// What the store received is not what was sent, by its own checksum.
    #[error(
        "{object}: the store's checksum differs from ours: {detail}; nothing was kept, send it again and check the path's hardware if it recurs"
    )]
    ChecksumMismatch {
        /// The object.
        object: String,
        /// The two values or the store's own words.
        detail: String,
    },
    /// There is an object of that name and overwriting was not asked for.
    #[error("{object} exists already; choose another destination or allow overwriting")]
    DestinationExists {
        /// The object.
        object: String,
    },
    /// No room.
    #[error("{place} is full: {detail}; free space or raise the quota, then run the same command again: it goes on where it stopped")]
    Full {
        /// Where.
        place: String,
        /// Bytes asked for, or the store's own words.
        detail: String,
    },
    /// Another transfer is writing the same file now.
    #[error("{object} is being written by another transfer; wait for it or choose another destination")]
    Busy {
        /// The object.
        object: String,
    },
    /// The store cannot have an object of that name.
    #[error("{name:?} cannot be stored: {reason}; rename the file")]
    InvalidName {
        /// The name, lossily as text.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The object is larger than the store takes.
    #[error("{object} of {size_bytes} bytes is larger than the {max_bytes} bytes this store takes; split it")]
    TooLarge {
        /// The object.
        object: String,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// The multipart upload is no longer known to the store.
    #[error("the upload of {object} is gone from the store (aborted by a lifecycle rule or another client); send it again")]
    UploadGone {
        /// The object.
        object: String,
    },
    /// The store does not implement what was asked.
    #[error("{place} cannot {action}: {detail}; use the legacy dialect for this endpoint")]
    NotSupported {
        /// Where.
        place: String,
        /// What was asked.
        action: &'static str,
        /// The store's own words.
        detail: String,
    },
    /// Any other refusal that repeating will not change.
    #[error("{place} refused to {action}: {code}: {detail}")]
    Rejected {
        /// Where.
        place: String,
        /// What was asked.
        action: &'static str,
        /// The store's error code or HTTP status.
        code: String,
        /// The store's own words.
        detail: String,
    },
    /// The destination's description does not make sense.
    #[error("the destination is not usable: {detail}")]
    Configuration {
        /// What is wrong and how to put it right.
        detail: String,
    },
    /// What an earlier attempt received, and a disk of this server kept, cannot be had from there any more.
    #[error(
        "what an earlier attempt left on a disk of the server cannot be read: {detail}; the same command goes on where it stopped and sends it again"
    )]
    KeptBlock {
        /// What the disk said.
        detail: String,
    },
    /// The file system failed.
    #[error("cannot {action} {path}: {source}; check the disk, the mount and the permissions of the target directory")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl StoreError {
    /// An object that cannot be planned. Not a `From`: closures that end in `?` rely on there being but one.
    pub(crate) fn of_plan(error: PlanError) -> Self {
        match error {
            PlanError::TooLarge { object, size_bytes, max_bytes } => Self::TooLarge { object, size_bytes, max_bytes },
            PlanError::Block { .. } => Self::Configuration { detail: error.to_string() },
        }
    }

    /// Whether the same request may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Unavailable { .. } | Self::Timeout { .. })
    }

    /// Whether this is about one file's name or place in a directory, and others can be written all the same.
    #[must_use]
    pub fn spares_other_files(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, InvalidInput, IsADirectory, NotADirectory};
        match self {
            Self::InvalidName { .. } | Self::AccessDenied { .. } => true,
            Self::Io { source, .. } => matches!(source.kind(), FileTooLarge | InvalidInput | IsADirectory | NotADirectory),
            _ => false,
        }
    }

    /// Whether sending the same data again may help: also after a checksum mismatch, since the bytes in memory are known to be
    /// right (the engine verified each extent) and only their way to the store can have changed them.
    #[must_use]
    pub fn is_worth_resending(&self) -> bool {
        self.is_retryable() || matches!(self, Self::ChecksumMismatch { .. })
    }
}

/// Why an upload as a whole failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// The store failed, after the retries it is worth.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The transfer was cancelled, or its owner went away.
    #[error("the transfer was cancelled")]
    Cancelled,
    /// Two blocks, or one block twice, hold the same bytes of a file.
    #[error("file {file}: bytes from {offset} on arrived twice; the sender's blocks overlap, report this as a bug of the sender")]
    Overlap {
        /// The file's number.
        file: u32,
        /// Where the second one begins.
        offset: u64,
    },
    /// A piece lies outside its file.
    #[error(
        "file {file}: a piece of {len} bytes at {offset} does not fit into a file of {size_bytes} bytes; report this as a bug of the sender"
    )]
    OutOfRange {
        /// The file's number.
        file: u32,
        /// Where the piece begins.
        offset: u64,
        /// Its length.
        len: u64,
        /// The file's size.
        size_bytes: u64,
    },
    /// A piece points outside the block's payload.
    #[error("block {block}: a piece lies outside its payload; report this as a bug of the sender")]
    OutsideBlock {
        /// The block.
        block: u32,
    },
    /// A block with this number is being stored already.
    #[error("block {block} was handed over twice; report this as a bug of the receiver")]
    DuplicateBlock {
        /// The block.
        block: u32,
    },
    /// A piece names a file that no block has described.
    #[error("block {block} holds bytes of file {file}, which it does not describe; report this as a bug of the sender")]
    UnknownFile {
        /// The block.
        block: u32,
        /// The file's number.
        file: u32,
    },
    /// Two blocks describe the same file differently.
    #[error("file {file} ({path}): {what} differs between two blocks; the file changed while it was read, send it again")]
    FileChanged {
        /// The file's number.
        file: u32,
        /// Its path as first described.
        path: String,
        /// What differs.
        what: &'static str,
    },
    /// The checksum of a piece does not match its bytes.
    #[error("file {file}: the {len} bytes at {offset} do not match their checksum; the receiver's memory may be faulty")]
    PieceChecksum {
        /// The file's number.
        file: u32,
        /// Where the piece begins.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// All blocks are there and a file is not.
    #[error("{path}: all blocks arrived but {missing_bytes} bytes are missing; report this as a bug of the sender")]
    Incomplete {
        /// The file.
        path: String,
        /// How many bytes are not there.
        missing_bytes: u64,
    },
    /// More or fewer blocks than were announced.
    #[error("{received} blocks arrived although {announced} were announced; report this as a bug of the sender")]
    BlockCount {
        /// Blocks that arrived.
        received: u64,
        /// Blocks announced.
        announced: u64,
    },
    /// The pool is too small to hold one part of this file.
    #[error(
        "{path} of {size_bytes} bytes needs parts of {part_bytes} bytes, more than a pool of {pool_bytes} bytes can assemble; raise the engine's memory for blocks"
    )]
    PoolTooSmall {
        /// The file.
        path: String,
        /// Its size.
        size_bytes: u64,
        /// Bytes of a part.
        part_bytes: u64,
        /// Bytes of the blocks this upload may hold.
        pool_bytes: u64,
    },
    /// A task of ours panicked.
    #[error("internal error in the uploader: {0}; report this as a bug")]
    Internal(String),
}
