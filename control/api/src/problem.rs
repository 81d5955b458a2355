//! Errors in answers: `application/problem+json` (RFC 9457) with a code for programs and a hint for people.

use std::fmt;

use serde::{Deserialize, Serialize};
use tradewind_ipc::{ErrorCode, exit};

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// For programs.
    pub code: ProblemCode,
    /// HTTP status.
    pub status: u16,
    /// What kind of error this is.
    pub title: String,
    /// What happened, where.
    pub detail: String,
    /// What to do next.
    pub hint: String,
}

impl Problem {
    /// Media type of a problem.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";

    /// A problem of a code's usual status, title and hint.
    #[must_use]
    pub fn new(code: impl Into<ProblemCode>, detail: impl Into<String>) -> Self {
        let code = code.into();
        Self { status: code.http_status(), title: code.title().to_owned(), hint: code.hint().to_owned(), detail: detail.into(), code }
    }

    /// The same with another hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)
    }
}

impl std::error::Error for Problem {}

/// What kind of error: one of this interface's own, or one of a transfer's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ProblemCode {
    /// Of the interface.
    Api(ApiCode),
    /// Of the transfer, its destination or its engine.
    Transfer(ErrorCode),
    /// One that a newer server knows and this build does not.
    Other(String),
}

/// Errors of the interface itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiCode {
    /// Access key or secret wrong or missing.
    Unauthorized,
    /// The body is not the JSON expected.
    Malformed,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// A value is out of its range or two values exclude each other.
    Invalid,
    /// The destination's store is not one of those configured for this user.
    StoreUnknown,
    /// No such transfer, or somebody else's.
    NotFound,
    /// No such object.
    ObjectMissing,
    /// No such path or method.
    NoSuchRoute,
    /// Too many transfers.
    TooManyTransfers,
    /// The minimum rate does not fit below the server's cap beside those promised already.
    RateUnavailable,
    /// The engine is not up or did not answer in time.
    EngineUnavailable,
    /// The request took too long.
    Timeout,
}

impl From<ApiCode> for ProblemCode {
    fn from(code: ApiCode) -> Self {
        Self::Api(code)
    }
}

impl From<ErrorCode> for ProblemCode {
    fn from(code: ErrorCode) -> Self {
        Self::Transfer(code)
    }
}

impl ProblemCode {
    /// HTTP status of an answer with this code.
    #[must_use]
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::Api(code) => match code {
                ApiCode::Unauthorized => 401,
                ApiCode::Malformed => 400,
                ApiCode::BodyTooLarge => 413,
                ApiCode::Invalid => 422,
                ApiCode::StoreUnknown => 403,
                ApiCode::NotFound | ApiCode::ObjectMissing | ApiCode::NoSuchRoute => 404,
                ApiCode::TooManyTransfers => 429,
                ApiCode::RateUnavailable => 409,
                ApiCode::EngineUnavailable => 503,
                ApiCode::Timeout => 408,
            },
            Self::Transfer(code) => match code {
                ErrorCode::BucketMissing => 404,
                ErrorCode::AccessDenied => 403,
                ErrorCode::DestinationExists | ErrorCode::Cancelled => 409,
                ErrorCode::DestinationInvalid
                | ErrorCode::Unsupported
                | ErrorCode::SourceChanged
                | ErrorCode::SourceMissing
                | ErrorCode::SourceUnreadable => 422,
                ErrorCode::StoreRejected => 502,
                ErrorCode::StoreUnavailable
                | ErrorCode::EngineDied
                | ErrorCode::StagingFailed
                | ErrorCode::Draining
                | ErrorCode::ResourceExhausted => 503,
                ErrorCode::PeerGone | ErrorCode::IdleTimeout => 504,
                ErrorCode::DiskFull => 507,
                ErrorCode::IntegrityMismatch | ErrorCode::WrongKey | ErrorCode::ProtocolViolation | ErrorCode::Internal => 500,
            },
            Self::Other(_) => 500,
        }
    }

    const fn title(&self) -> &'static str {
        match self {
            Self::Api(code) => match code {
                ApiCode::Unauthorized => "access key or secret not accepted",
                ApiCode::Malformed => "the request is not understood",
                ApiCode::BodyTooLarge => "the request is too large",
                ApiCode::Invalid => "the request asks for something impossible",
                ApiCode::StoreUnknown => "the server has no such store for you",
                ApiCode::NotFound => "no such transfer",
                ApiCode::ObjectMissing => "no such object",
                ApiCode::NoSuchRoute => "no such path or method",
                ApiCode::TooManyTransfers => "too many transfers",
                ApiCode::RateUnavailable => "the server's rate cap has no room for this minimum rate",
                ApiCode::EngineUnavailable => "the server's engine is not ready",
                ApiCode::Timeout => "the request took too long",
            },
            Self::Transfer(code) => code.title(),
            Self::Other(_) => "error",
        }
    }

    const fn hint(&self) -> &'static str {
        match self {
            Self::Api(code) => match code {
                ApiCode::Unauthorized => "set TRADEWIND_ACCESS_KEY and TRADEWIND_SECRET to a [[user]] of the server's configuration",
                ApiCode::Malformed => "use a tradewind command of the server's release, or see the documentation of the REST interface",
                ApiCode::BodyTooLarge => "a request names a destination, not its files; send less",
                ApiCode::Invalid => "correct the value named in the detail",
                ApiCode::StoreUnknown => "ask the server's operator to add the store to its configuration",
                ApiCode::NotFound => "list yours with `tradewind status`; finished ones are forgotten after a while",
                ApiCode::ObjectMissing => "see what there is with `tradewind ls`; end the name of a folder with '/'",
                ApiCode::NoSuchRoute => "check the server's address and release",
                ApiCode::RateUnavailable => "ask for a lower minimum rate, or wait until another transfer with one has ended",
                ApiCode::TooManyTransfers => "wait for others to end, or raise limits.transfers_max on the server",
                ApiCode::EngineUnavailable => "try again in a few seconds; if it persists, see the server's log",
                ApiCode::Timeout => "try again",
            },
            Self::Transfer(code) => code.hint(),
            Self::Other(_) => "update the tradewind command to the server's release",
        }
    }

    /// Exit code of the `tradewind` command for an answer with this code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Api(code) => match code {
                ApiCode::Unauthorized => exit::AUTH,
                ApiCode::Malformed | ApiCode::BodyTooLarge | ApiCode::Invalid | ApiCode::NotFound => exit::USAGE,
                ApiCode::StoreUnknown | ApiCode::ObjectMissing => exit::DESTINATION,
                ApiCode::NoSuchRoute => exit::UNREACHABLE,
                ApiCode::TooManyTransfers | ApiCode::RateUnavailable | ApiCode::EngineUnavailable | ApiCode::Timeout => exit::BUSY,
            },
            Self::Transfer(code) => code.exit_code(),
            Self::Other(_) => exit::INTERNAL,
        }
    }
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(code) => write!(f, "{}", serde_json::to_value(code).ok().as_ref().and_then(|v| v.as_str()).unwrap_or("?")),
            Self::Transfer(code) => code.fmt(f),
            Self::Other(code) => f.write_str(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_both_lists_and_unknown_ones_survive_json() {
        for code in [
            ProblemCode::from(ApiCode::TooManyTransfers),
            ProblemCode::from(ErrorCode::BucketMissing),
            ProblemCode::Other("invented_later".into()),
        ] {
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<ProblemCode>(&json).unwrap(), code);
        }
    }

    #[test]
    fn every_code_is_an_error_status() {
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&ProblemCode::from(code).http_status()), "{code}");
        }
    }
}
