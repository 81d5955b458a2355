//! Why an upload failed.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a source cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The source.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is not a regular file.
    #[error("{} is not a regular file; only files can be sent", path.display())]
    NotAFile {
        /// The source.
        path: PathBuf,
    },
    /// Its size or modification time changed while it was read.
    #[error("{} changed while it was being sent ({what}); it was not stored; send it again when nobody writes to it", path.display())]
    Changed {
        /// The source.
        path: PathBuf,
        /// What changed.
        what: String,
    },
    /// Its name at the destination is not allowed.
    #[error("{} cannot be stored as {name:?}: {reason}", path.display())]
    Name {
        /// The source.
        path: PathBuf,
        /// The name asked for.
        name: String,
        /// Which rule it breaks.
        reason: String,
    },
}

impl SourceError {
    /// The source.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::Read { path, .. } | Self::NotAFile { path } | Self::Changed { path, .. } | Self::Name { path, .. } => path,
        }
    }
}

/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// No packet ever came back.
    #[error(
        "no answer from {endpoint} over UDP within {seconds} s; a firewall may drop UDP to that port, or the address is not \
         reachable from here: check with `tradewind doctor --server`"
    )]
    NoAnswer {
        /// Where packets were sent.
        endpoint: SocketAddr,
        /// How long we waited.
        seconds: u64,
    },
    /// Packets came back, then no more.
    #[error("the connection to {endpoint} was lost: {text}; send again to start over")]
    Lost {
        /// Where packets were sent.
        endpoint: SocketAddr,
        /// What the lane said.
        text: String,
    },
    /// Small packets get through, full-size ones do not.
    #[error(
        "the path to {endpoint} does not take packets of {packet_bytes} bytes: {text}; lower the MTU of this host's or the server's interface"
    )]
    PathMtu {
        /// Where packets were sent.
        endpoint: SocketAddr,
        /// Size of the IP packets that were lost.
        packet_bytes: u32,
        /// What the lane said.
        text: String,
    },
    /// The server ended the transfer.
    #[error("the server ended the transfer: {text}")]
    Refused {
        /// A code of `tradewind_wire::control::close`.
        code: u16,
        /// What the server said.
        text: String,
    },
    /// What arrived could not be written.
    #[error("{0}")]
    Destination(#[from] tradewind_storage::UploadError),
    /// The caller cancelled.
    #[error("the transfer was cancelled")]
    Cancelled,
    /// The lane offered by the server cannot be used.
    #[error("the server's offer cannot be used: {0}")]
    Offer(String),
    /// The network link or memory failed on this host.
    #[error("{what}: {source}")]
    Local {
        /// What was tried.
        what: &'static str,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
