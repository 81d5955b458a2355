//! What can go wrong on the socket itself.

use crate::message::Role;

/// A fault of the connection between control process and engine.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// Reading from or writing to the socket failed.
    #[error("the socket between control process and engine failed: {0}")]
    Io(#[from] std::io::Error),
    /// The other end closed the socket; `inside_frame` if it stopped in the middle of a message.
    #[error("the other process closed the control socket{}", if *.inside_frame { " in the middle of a message" } else { "" })]
    Closed {
        /// Bytes of an incomplete frame had arrived.
        inside_frame: bool,
    },
    /// A frame announces more bytes than allowed.
    #[error("a message of {bytes} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Length announced or produced.
        bytes: usize,
        /// [`crate::FRAME_BYTES_MAX`].
        limit: usize,
    },
    /// A frame's JSON is not one of the messages known here.
    #[error("a message on the control socket is malformed: {0}")]
    Malformed(#[source] serde_json::Error),
    /// A message could not be written as JSON.
    #[error("a message could not be encoded: {0}")]
    Encode(#[source] serde_json::Error),
    /// The two processes are of different versions.
    #[error(
        "control protocol version {theirs} ({software}) does not match {ours}: install tradewindd and tradewind-engine of the same release"
    )]
    VersionMismatch {
        /// Version spoken here.
        ours: u32,
        /// Version of the other end.
        theirs: u32,
        /// Name and release of the other end.
        software: String,
    },
    /// The other end is not the process expected.
    #[error("expected the {expected:?} process on the control socket, found {found:?}")]
    WrongRole {
        /// Role that should be there.
        expected: Role,
        /// Role that is there.
        found: Role,
    },
    /// The other end did not say hello in time.
    #[error("the other process did not answer on the control socket within {seconds} s")]
    HandshakeTimeout {
        /// How long was waited, seconds.
        seconds: u64,
    },
    /// The number given with `--control-fd` is not a Unix stream socket.
    #[error("file descriptor {fd} is not the control socket ({reason}): tradewind-engine is started by tradewindd, not by hand")]
    NotTheSocket {
        /// Number given.
        fd: i32,
        /// What is wrong with it.
        reason: String,
    },
}
