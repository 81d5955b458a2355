//! Everything that ends a command without success, with its exit code and what to do about it.

use std::path::PathBuf;

use tradewind_api::{ClientError, ErrorCode, KnownServersError, TrustError, exit};
use tradewind_client::{SourceError, UploadError};
use tradewind_storage::StoreError;

use crate::interrupt::Signal;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The arguments make no sense together.
    #[error("{detail}")]
    Usage {
        /// What is wrong with which of them.
        detail: String,
        /// What to do.
        hint: String,
    },
    /// No credentials were given, or they cannot be read.
    #[error("{detail}")]
    Credentials {
        /// What is missing.
        detail: String,
    },
    /// The server could not be trusted or asked.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The server refused a request or could not be asked.
    #[error(transparent)]
    Server(#[from] ClientError),
    /// A source cannot be sent.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Walk {
        /// The directory or file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Some sources could not be sent.
    #[error("{files} {} could not be sent, first: {first}; all others are durable at the destination", if *files == 1 { "file" } else { "files" })]
    LeftOut {
        /// How many.
        files: u64,
        /// Why the first could not.
        first: SourceError,
    },
    /// Some objects could not be got.
    #[error("{files} {} could not be got, first: {first}; all others are in place", if *files == 1 { "file" } else { "files" })]
    NotGot {
        /// How many.
        files: u64,
        /// Which was the first, and why.
        first: String,
    },
    /// There is nothing to send.
    #[error("no files found in {places}{}", left_out(*unselected))]
    NoFiles {
        /// The sources.
        places: String,
        /// Files that the selection leaves out.
        unselected: u64,
    },
    /// The key of sealed files is missing, cannot be read, or is not theirs.
    #[error("{detail}")]
    SealKey {
        /// What is wrong.
        detail: String,
        /// What to do; may be empty.
        hint: &'static str,
    },
    /// Some files could not be sealed or unsealed.
    #[error("{files} {} could not be {done}, first: {first}", if *files == 1 { "file" } else { "files" })]
    Seal {
        /// How many.
        files: u64,
        /// `sealed` or `unsealed`.
        done: &'static str,
        /// The first, and why.
        first: String,
    },
    /// The transfer ended with one of the server's codes.
    #[error("{}: {detail}", code.title())]
    Transfer {
        /// The transfer.
        transfer_id: String,
        /// The server's code.
        code: ErrorCode,
        /// What happened, where.
        detail: String,
        /// What to do.
        hint: String,
    },
    /// The sending end failed.
    #[error("{source}")]
    Upload {
        /// The transfer.
        transfer_id: String,
        /// What failed.
        source: UploadError,
    },
    /// What is there is not what was proved to be there.
    #[error("{detail}")]
    Differs {
        /// What, and where.
        detail: String,
    },
    /// Stored files could not be read again.
    #[error("{files} {} could not be read again, first: {text}", if *files == 1 { "file" } else { "files" })]
    NotVerified {
        /// Why the first could not.
        code: ErrorCode,
        /// How many.
        files: u64,
        /// The store's words.
        text: String,
    },
    /// A signal ended it.
    #[error("{}", signal.message())]
    Interrupted {
        /// Which.
        signal: Signal,
        /// The transfer, if it had begun.
        transfer_id: Option<String>,
    },
    /// Files cannot be put where they are to go on this machine.
    #[error("cannot use the destination {detail}")]
    Place {
        /// Where, and what the operating system said.
        detail: String,
    },
    /// Something on this machine failed.
    #[error("{what}: {detail}")]
    Local {
        /// What was tried.
        what: &'static str,
        /// What failed.
        detail: String,
    },
}

impl From<KnownServersError> for Failure {
    fn from(error: KnownServersError) -> Self {
        Self::Trust(TrustError::Store(error))
    }
}

fn left_out(files: u64) -> String {
    if files == 0 { String::new() } else { format!(" ({files} left out by what is selected)") }
}

impl Failure {
    /// Exit code of the command.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => exit::USAGE,
            Self::Credentials { .. } | Self::SealKey { .. } => exit::AUTH,
            Self::Trust(TrustError::Store(_)) => exit::USAGE,
            Self::Trust(TrustError::Unreachable { .. }) => exit::UNREACHABLE,
            Self::Trust(TrustError::Unknown { .. }) => exit::FINGERPRINT,
            Self::Server(error) => error.exit_code(),
            Self::Source(_) | Self::LeftOut { .. } | Self::NotGot { .. } | Self::Walk { .. } | Self::NoFiles { .. } | Self::Seal { .. } => {
                exit::SOURCE
            }
            Self::Differs { .. } => exit::SOURCE,
            Self::Transfer { code, .. } | Self::NotVerified { code, .. } => code.exit_code(),
            Self::Upload { source, .. } => upload_exit_code(source),
            Self::Interrupted { signal, .. } => signal.exit_code(),
            Self::Place { .. } => exit::DESTINATION,
            Self::Local { .. } => exit::INTERNAL,
        }
    }

    /// The failure for programs: an [`ErrorCode`], a code of the REST interface, or one of this command.
    pub(crate) fn code(&self) -> String {
        match self {
            Self::Usage { .. } => "usage".to_owned(),
            Self::Credentials { .. } => "credentials_missing".to_owned(),
            Self::SealKey { .. } => "seal_key".to_owned(),
            Self::Trust(TrustError::Store(_)) => "known_servers".to_owned(),
            Self::Trust(TrustError::Unreachable { .. }) => "unreachable".to_owned(),
            Self::Trust(TrustError::Unknown { .. }) => "server_unknown".to_owned(),
            Self::Server(error) => client_code(error),
            Self::Source(error) | Self::LeftOut { first: error, .. } => source_code(error).to_string(),
            Self::NotGot { .. } | Self::Walk { .. } | Self::NoFiles { .. } | Self::Seal { .. } => ErrorCode::SourceUnreadable.to_string(),
            Self::Differs { .. } => ErrorCode::IntegrityMismatch.to_string(),
            Self::Transfer { code, .. } | Self::NotVerified { code, .. } => code.to_string(),
            Self::Upload { source, .. } => upload_code(source).to_string(),
            Self::Interrupted { .. } => ErrorCode::Cancelled.to_string(),
            Self::Place { .. } => ErrorCode::DestinationInvalid.to_string(),
            Self::Local { .. } => ErrorCode::Internal.to_string(),
        }
    }

    /// What the user can do, where the message does not say it itself.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Self::Usage { hint, .. } | Self::Transfer { hint, .. } => Some(hint.as_str()),
            Self::Credentials { .. } => Some("set TRADEWIND_ACCESS_KEY and TRADEWIND_SECRET, or give --access-key and --secret-file"),
            Self::Trust(TrustError::Unreachable { .. }) => {
                Some("check the address, the port and that tradewindd runs; `tradewind doctor --server` looks closer")
            }
            Self::SealKey { hint, .. } => Some(*hint),
            Self::Server(error) => error.hint(),
            Self::NotVerified { code, .. } => Some(code.hint()),
            Self::Source(SourceError::Read { .. }) | Self::Walk { .. } => Some("check that it exists and that you may read it"),
            Self::NoFiles { unselected: 1.., .. } => Some("check the patterns and times that select: --dry-run shows what they leave"),
            Self::Place { .. } => Some("name a directory that is there or can be made, and in which you may write"),
            Self::Interrupted { transfer_id: Some(_), .. } => Some("the same command goes on where it stopped"),
            Self::NoFiles { .. } => Some("empty directories, links and special files are not sent"),
            _ => None,
        }
        .filter(|hint| !hint.is_empty())
    }

    /// Whether the same command may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Trust(TrustError::Unreachable { .. }) => true,
            Self::Server(error) => error.is_retryable(),
            Self::Transfer { code, .. } | Self::NotVerified { code, .. } => code.is_retryable(),
            Self::Upload { source, .. } => upload_code(source).is_retryable(),
            _ => false,
        }
    }

    /// The transfer concerned, if there is one.
    pub(crate) fn transfer_id(&self) -> Option<&str> {
        match self {
            Self::Transfer { transfer_id, .. } | Self::Upload { transfer_id, .. } => Some(transfer_id),
            Self::Interrupted { transfer_id, .. } => transfer_id.as_deref(),
            _ => None,
        }
    }
}

fn client_code(error: &ClientError) -> String {
    match error {
        ClientError::FingerprintMismatch { .. } => "fingerprint_mismatch".to_owned(),
        ClientError::Unreachable { .. } => "unreachable".to_owned(),
        ClientError::Timeout { .. } => "timeout".to_owned(),
        ClientError::Refused(problem) => problem.code.to_string(),
        ClientError::NotTradewind { .. } => "not_tradewind".to_owned(),
        ClientError::Setup(_) => ErrorCode::Internal.to_string(),
    }
}

pub(crate) fn source_code(error: &SourceError) -> ErrorCode {
    match error {
        SourceError::Changed { .. } => ErrorCode::SourceChanged,
        SourceError::Name { .. } => ErrorCode::DestinationInvalid,
        _ => ErrorCode::SourceUnreadable,
    }
}

/// The code that comes closest to what the sending end saw.
pub(crate) fn upload_code(error: &UploadError) -> ErrorCode {
    match error {
        UploadError::NoAnswer { .. } => ErrorCode::IdleTimeout,
        UploadError::Lost { .. } | UploadError::PathMtu { .. } => ErrorCode::PeerGone,
        UploadError::Refused { code, text } => refusal_code(*code, text),
        UploadError::Cancelled => ErrorCode::Cancelled,
        UploadError::Destination(error) => destination_code(error),
        UploadError::Offer(_) => ErrorCode::Unsupported,
        _ => ErrorCode::Internal,
    }
}

/// Why files that arrived could not be written.
fn destination_code(error: &tradewind_storage::UploadError) -> ErrorCode {
    use tradewind_storage::UploadError::{Cancelled, FileChanged, Store};
    match error {
        Store(StoreError::DestinationExists { .. } | StoreError::Busy { .. }) => ErrorCode::DestinationExists,
        Store(StoreError::Full { .. }) => ErrorCode::DiskFull,
        Store(StoreError::AccessDenied { .. }) => ErrorCode::AccessDenied,
        Store(StoreError::InvalidName { .. } | StoreError::Configuration { .. }) => ErrorCode::DestinationInvalid,
        Store(_) => ErrorCode::StoreRejected,
        Cancelled => ErrorCode::Cancelled,
        FileChanged { .. } => ErrorCode::SourceChanged,
        _ => ErrorCode::ProtocolViolation,
    }
}

fn upload_exit_code(error: &UploadError) -> u8 {
    match error {
        // Nothing of it is the destination's fault; the two releases do not fit.
        UploadError::Offer(_) => exit::TRANSFER,
        // A name that no store can have is a source that cannot be sent.
        _ => upload_code(error).exit_code(),
    }
}

/// The code in a CLOSE packet: named at the beginning of its text (`code: text`), or else guessed from its number.
pub(crate) fn refusal_code(close_code: u16, text: &str) -> ErrorCode {
    /// Numbers of CLOSE packets (`tradewind_wire::control::close`).
    mod close {
        pub(super) const CANCELLED: u16 = 1;
        pub(super) const PROTOCOL: u16 = 2;
        pub(super) const TIMEOUT: u16 = 3;
        pub(super) const SOURCE: u16 = 4;
        pub(super) const STORAGE: u16 = 5;
        pub(super) const SHUTDOWN: u16 = 6;
    }
    named_code(text).map_or_else(
        || match close_code {
            close::CANCELLED => ErrorCode::Cancelled,
            close::PROTOCOL => ErrorCode::ProtocolViolation,
            close::TIMEOUT => ErrorCode::IdleTimeout,
            close::SOURCE => ErrorCode::SourceUnreadable,
            close::STORAGE => ErrorCode::StoreUnavailable,
            close::SHUTDOWN => ErrorCode::Draining,
            _ => ErrorCode::Internal,
        },
        |(code, _)| code,
    )
}

/// Splits `bucket_missing: no bucket 'x' at y` into code and the rest.
pub(crate) fn named_code(text: &str) -> Option<(ErrorCode, &str)> {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    let code = ErrorCode::ALL.into_iter().find(|code| code.as_str() == name.trim())?;
    Some((code, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use tradewind_api::{ApiCode, Problem};

    use super::*;

    fn refused(code: u16, text: &str) -> Failure {
        Failure::Upload { transfer_id: "t".to_owned(), source: UploadError::Refused { code, text: text.to_owned() } }
    }

    #[test]
    fn every_error_code_keeps_its_exit_code_on_each_way_here() {
        for code in ErrorCode::ALL {
            let transfer = Failure::Transfer { transfer_id: "t".into(), code, detail: "d".into(), hint: code.hint().into() };
            let problem = Failure::Server(ClientError::Refused(Problem::new(code, "d")));
            let close = refused(5, &format!("{code}: what the store said"));
            for failure in [transfer, problem, close] {
                assert_eq!(failure.exit_code(), code.exit_code(), "{failure:?}");
                assert_eq!(failure.code(), code.as_str(), "{failure:?}");
                assert_ne!(failure.exit_code(), exit::OK);
            }
        }
    }

    #[test]
    fn close_packets_without_a_named_code_go_by_number() {
        for (number, code) in [
            (1, exit::CANCELLED),
            (2, exit::TRANSFER),
            (3, exit::TRANSFER),
            (4, exit::SOURCE),
            (5, exit::TRANSFER),
            (6, exit::BUSY),
            (7, exit::INTERNAL),
            (99, exit::INTERNAL),
        ] {
            assert_eq!(refused(number, "some text").exit_code(), code, "{number}");
            assert_eq!(refused(number, "unheard_of: some text").exit_code(), code, "{number}");
        }
        assert_eq!(named_code("disk_full"), Some((ErrorCode::DiskFull, "")));
        assert_eq!(named_code("disk_full: /data: 5 B left"), Some((ErrorCode::DiskFull, "/data: 5 B left")));
        assert_eq!(named_code("disk_fuller: x"), None);
    }

    #[test]
    fn who_interrupts_a_transfer_is_told_that_it_goes_on() {
        let hint = |transfer_id: Option<&str>| {
            let failure = Failure::Interrupted { signal: Signal::Interrupt, transfer_id: transfer_id.map(str::to_owned) };
            failure.hint().map(str::to_owned)
        };
        assert!(hint(Some("t")).is_some_and(|hint| hint.contains("the same command goes on")));
        assert_eq!(hint(None), None, "nothing had begun");
    }

    #[test]
    fn documented_exit_codes() {
        let upload = |source| Failure::Upload { transfer_id: "t".into(), source };
        let changed = || SourceError::Changed { path: "a".into(), what: "grew".into() };
        let path_mtu = || UploadError::PathMtu { endpoint: ([192, 0, 2, 1], 1).into(), packet_bytes: 1500, text: "t".into() };
        let server = "far".parse().unwrap();
        for (failure, code, name) in [
            (Failure::Usage { detail: "d".into(), hint: "h".into() }, exit::USAGE, "usage"),
            (Failure::Credentials { detail: "d".into() }, exit::AUTH, "credentials_missing"),
            (Failure::SealKey { detail: "d".into(), hint: "h" }, exit::AUTH, "seal_key"),
            (Failure::Seal { files: 1, done: "unsealed", first: "f".into() }, exit::SOURCE, "source_unreadable"),
            (Failure::Server(ClientError::Refused(Problem::new(ApiCode::Unauthorized, "d"))), exit::AUTH, "unauthorized"),
            (
                Failure::Server(ClientError::Unreachable { server, reason: "r".into(), was_connected: false }),
                exit::UNREACHABLE,
                "unreachable",
            ),
            (Failure::Source(changed()), exit::SOURCE, "source_changed"),
            (Failure::LeftOut { files: 2, first: changed() }, exit::SOURCE, "source_changed"),
            (upload(UploadError::Cancelled), exit::CANCELLED, "cancelled"),
            (upload(UploadError::NoAnswer { endpoint: ([192, 0, 2, 1], 1).into(), seconds: 30 }), exit::TRANSFER, "idle_timeout"),
            (upload(UploadError::Lost { endpoint: ([192, 0, 2, 1], 1).into(), text: "t".into() }), exit::TRANSFER, "peer_gone"),
            (upload(path_mtu()), exit::TRANSFER, "peer_gone"),
            (upload(UploadError::Offer("o".into())), exit::TRANSFER, "unsupported"),
            (Failure::Place { detail: "/x: not a directory".into() }, exit::DESTINATION, "destination_invalid"),
            (Failure::Interrupted { signal: Signal::Interrupt, transfer_id: None }, exit::INTERRUPTED, "cancelled"),
            (Failure::Interrupted { signal: Signal::Terminate, transfer_id: None }, exit::TERMINATED, "cancelled"),
        ] {
            assert_eq!((failure.exit_code(), failure.code().as_str()), (code, name), "{failure:?}");
            assert!(!failure.to_string().is_empty());
        }
    }
}
