//! Why a lane, and so a transfer, ended: one list shared by engine, control process, REST answers and the command's exit code.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Exit codes of the `tradewind` command. Stable: scripts depend on them.
pub mod exit {
    /// Everything asked for was done.
    pub const OK: u8 = 0;
    /// Something broke inside tradewind itself.
    pub const INTERNAL: u8 = 1;
    /// The command line or an option file makes no sense.
    pub const USAGE: u8 = 2;
    /// The server did not accept the access key and secret.
    pub const AUTH: u8 = 3;
    /// The server could not be reached, or what answered is not a tradewind server.
    pub const UNREACHABLE: u8 = 4;
    /// The server's key is not the expected one.
    pub const FINGERPRINT: u8 = 5;
    /// The destination was refused: unknown store, missing bucket, no permission, it exists already.
    pub const DESTINATION: u8 = 6;
    /// A source could not be read, or changed while it was read.
    pub const SOURCE: u8 = 7;
    /// The transfer began and failed: network, storage, engine.
    pub const TRANSFER: u8 = 8;
    /// Somebody cancelled the transfer on the server.
    pub const CANCELLED: u8 = 9;
    /// The server has no room for another transfer now.
    pub const BUSY: u8 = 10;
    /// Ended by Ctrl-C (128 + SIGINT), the shell's convention.
    pub const INTERRUPTED: u8 = 130;
    /// Ended by SIGTERM (128 + SIGTERM).
    pub const TERMINATED: u8 = 143;
}

/// Why a lane or a transfer did not do what was asked. Travels as `snake_case` text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The bucket or container does not exist.
    BucketMissing,
    /// The store's credentials do not allow it.
    AccessDenied,
    /// The store does not answer, or answers 5xx beyond the retries.
    StoreUnavailable,
    /// The store answered with a refusal that has no code of its own; the text carries its words.
    StoreRejected,
    /// A file of that name is there and `overwrite` was not asked for.
    DestinationExists,
    /// The destination's name breaks a rule: climbs out of its root, is too long, is no UTF-8.
    DestinationInvalid,
    /// No space left where the data should go.
    DiskFull,
    /// A checksum did not match: what was stored is not what was read.
    IntegrityMismatch,
    /// The source changed while it was read.
    SourceChanged,
    /// There is no object to get or copy.
    SourceMissing,
    /// The source cannot be read.
    SourceUnreadable,
    /// No packet of the peer authenticates: the two ends hold different lane secrets.
    WrongKey,
    /// The peer closed the lane or vanished.
    PeerGone,
    /// Nothing was heard for longer than the idle limit.
    IdleTimeout,
    /// The peer broke the protocol; the text says how.
    ProtocolViolation,
    /// A user cancelled it.
    Cancelled,
    /// The engine process ended while the transfer ran; submit it again.
    EngineDied,
    /// A block was lost on its way to the store: the disk on which it waited failed.
    StagingFailed,
    /// The engine is shutting down and takes no new lanes.
    Draining,
    /// A limit of the engine is reached (lanes, memory).
    ResourceExhausted,
    /// What was asked for is not implemented by this engine or this store.
    Unsupported,
    /// A defect in tradewind.
    Internal,
}

impl ErrorCode {
    /// All codes, in the order of declaration.
    pub const ALL: [Self; 22] = [
        Self::BucketMissing,
        Self::AccessDenied,
        Self::StoreUnavailable,
        Self::StoreRejected,
        Self::DestinationExists,
        Self::DestinationInvalid,
        Self::DiskFull,
        Self::IntegrityMismatch,
        Self::SourceChanged,
        Self::SourceMissing,
        Self::SourceUnreadable,
        Self::WrongKey,
        Self::PeerGone,
        Self::IdleTimeout,
        Self::ProtocolViolation,
        Self::Cancelled,
        Self::EngineDied,
        Self::StagingFailed,
        Self::Draining,
        Self::ResourceExhausted,
        Self::Unsupported,
        Self::Internal,
    ];

    /// The code as it travels in JSON and in the CLOSE packet's text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BucketMissing => "bucket_missing",
            Self::AccessDenied => "access_denied",
            Self::StoreUnavailable => "store_unavailable",
            Self::StoreRejected => "store_rejected",
            Self::DestinationExists => "destination_exists",
            Self::DestinationInvalid => "destination_invalid",
            Self::DiskFull => "disk_full",
            Self::IntegrityMismatch => "integrity_mismatch",
            Self::SourceChanged => "source_changed",
            Self::SourceMissing => "source_missing",
            Self::SourceUnreadable => "source_unreadable",
            Self::WrongKey => "wrong_key",
            Self::PeerGone => "peer_gone",
            Self::IdleTimeout => "idle_timeout",
            Self::ProtocolViolation => "protocol_violation",
            Self::Cancelled => "cancelled",
            Self::EngineDied => "engine_died",
            Self::StagingFailed => "staging_failed",
            Self::Draining => "draining",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }

    /// The number in a CLOSE packet. Stable; 0 means no error and is none of these.
    #[must_use]
    pub fn number(self) -> u16 {
        // Declaration order is wire order: append new codes, never insert.
        self as u16 + 1
    }

    /// The code of a CLOSE packet's number, if this build knows it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Exit code of the `tradewind` command ([`exit`]).
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::BucketMissing
            | Self::AccessDenied
            | Self::StoreRejected
            | Self::DestinationExists
            | Self::DestinationInvalid
            | Self::Unsupported => exit::DESTINATION,
            Self::SourceChanged | Self::SourceMissing | Self::SourceUnreadable => exit::SOURCE,
            Self::StoreUnavailable
            | Self::DiskFull
            | Self::IntegrityMismatch
            | Self::WrongKey
            | Self::PeerGone
            | Self::IdleTimeout
            | Self::ProtocolViolation
            | Self::EngineDied
            | Self::StagingFailed => exit::TRANSFER,
            Self::Draining | Self::ResourceExhausted => exit::BUSY,
            Self::Cancelled => exit::CANCELLED,
            Self::Internal => exit::INTERNAL,
        }
    }

    /// Whether submitting the same transfer again, unchanged, may succeed.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::StoreUnavailable
                | Self::PeerGone
                | Self::IdleTimeout
                | Self::EngineDied
                | Self::StagingFailed
                | Self::Draining
                | Self::ResourceExhausted
        )
    }

    /// What happened, in a few words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::BucketMissing => "the bucket does not exist",
            Self::AccessDenied => "the store denied access",
            Self::StoreUnavailable => "the store is not available",
            Self::StoreRejected => "the store refused the request",
            Self::DestinationExists => "the destination exists already",
            Self::DestinationInvalid => "the destination's name is not allowed",
            Self::DiskFull => "no space left at the destination",
            Self::IntegrityMismatch => "the stored data does not match its checksum",
            Self::SourceChanged => "a source file changed while it was read",
            Self::SourceMissing => "there is nothing of that name",
            Self::SourceUnreadable => "a source file cannot be read",
            Self::WrongKey => "the other end's packets do not authenticate",
            Self::PeerGone => "the other end is gone",
            Self::IdleTimeout => "nothing was heard from the other end for too long",
            Self::ProtocolViolation => "the other end broke the protocol",
            Self::Cancelled => "the transfer was cancelled",
            Self::EngineDied => "the server's engine ended during the transfer",
            Self::StagingFailed => "a disk of the server lost what waited for the store",
            Self::Draining => "the server is shutting down",
            Self::ResourceExhausted => "the server has no room for another transfer",
            Self::Unsupported => "this is not supported by the server",
            Self::Internal => "internal error",
        }
    }

    /// What the user can do next.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::BucketMissing => "create the bucket, or check its spelling and the store's region",
            Self::AccessDenied => "check the credentials configured for this store on the server and the bucket's policy",
            Self::StoreUnavailable => "check that the store runs and is reachable from the server, then send again",
            Self::StoreRejected => "see the store's own words in the detail",
            Self::DestinationExists => "choose another name or send with --overwrite",
            Self::DestinationInvalid => "use a name without '..' components that fits the store's rules",
            Self::DiskFull => "free space at the destination and send again",
            Self::IntegrityMismatch => "send again; if it repeats, check the memory and disks of both machines",
            Self::SourceChanged => "send again when nothing writes to the file",
            Self::SourceMissing => "look with `tradewind ls` what is there; a folder is named with '/' at its end",
            Self::SourceUnreadable => "check the file's permissions",
            Self::WrongKey => "send again; if it repeats, another service answers on the server's data port",
            Self::PeerGone => "check the network and send again",
            Self::IdleTimeout => "check that UDP passes the firewalls on the way (data port), then send again",
            Self::ProtocolViolation => "use the same tradewind version on both ends",
            Self::Cancelled => "send again if this was not intended",
            Self::EngineDied => "send again; the server has restarted its engine, its log says why it ended",
            Self::StagingFailed => "send again; its operator should look at the disk of engine.staging_dir",
            Self::Draining => "send again in a minute",
            Self::ResourceExhausted => "wait for other transfers to end, or raise the server's limits",
            Self::Unsupported => "leave the option out, or update the server",
            Self::Internal => "please report this with the server's log",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_json_is_as_str_and_numbers_go_both_ways() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
            assert_eq!(ErrorCode::from_number(code.number()), Some(code));
        }
        assert_eq!(ErrorCode::from_number(0), None);
        assert_eq!(ErrorCode::from_number(u16::try_from(ErrorCode::ALL.len()).unwrap() + 1), None);
        assert_eq!(ErrorCode::BucketMissing.number(), 1, "numbers are part of the wire format");
    }

    #[test]
    fn no_failure_exits_with_success_or_as_a_usage_error() {
        for code in ErrorCode::ALL {
            assert!(![exit::OK, exit::USAGE, exit::INTERRUPTED].contains(&code.exit_code()), "{code}");
        }
    }
}
