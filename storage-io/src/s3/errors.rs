//! What an S3 server's refusal means.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::asked::{Asked, refusal_text, shorten};
use crate::error::StoreError;

impl Asked<'_> {
    /// Turns the SDK's error into ours.
    pub(super) fn map<E>(&self, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match error {
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                let region = service.raw().headers().get("x-amz-bucket-region").map(str::to_owned);
                refusal(self, status, service.err().code(), service.err().message(), region.as_deref())
            }
            SdkError::ResponseError(response) => {
                let status = response.raw().status().as_u16();
                self.broken(&format!("HTTP {status} with an answer that is not S3's: {}", DisplayErrorContext(error)))
            }
            SdkError::ConstructionFailure(_) => self.unmade(&DisplayErrorContext(error).to_string()),
            _ => self.broken(&DisplayErrorContext(error).to_string()),
        }
    }
}

/// Turns status, code and words of an error answer into ours. Codes: Amazon S3 API Reference, "Error responses".
fn refusal(asked: &Asked<'_>, status: u16, code: Option<&str>, message: Option<&str>, region: Option<&str>) -> StoreError {
    let (place, object, action) = (asked.place.to_owned(), asked.object.to_owned(), asked.action);
    let words = shorten(message.unwrap_or_default());
    let detail = refusal_text(status, code.unwrap_or_default(), &words);
    match code.unwrap_or_default() {
        "NoSuchBucket" => StoreError::NotFound { place },
        "NoSuchUpload" => StoreError::UploadGone { object },
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "MethodNotAllowed" => StoreError::AccessDenied { place, action, detail },
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" | "InvalidSecurity" | "NotSignedUp" => {
            StoreError::BadCredentials { place, detail }
        }
        "RequestTimeTooSkewed" | "RequestExpired" => StoreError::ClockSkew { place, detail },
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "IncorrectEndpoint" => {
            StoreError::WrongRegion { place, detail: region.map_or(detail, |region| format!("the bucket is in {region}")) }
        }
        "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequests" | "BandwidthLimitExceeded" => {
            StoreError::Throttled { place, detail }
        }
        "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch" => {
            StoreError::ChecksumMismatch { object, detail }
        }
        "PreconditionFailed" => StoreError::DestinationExists { object },
        "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" | "ServiceQuotaExceededException" => {
            StoreError::Full { place, detail }
        }
        "EntityTooLarge" => StoreError::TooLarge { object, size_bytes: asked.bytes, max_bytes: asked.bytes.saturating_sub(1) },
        "NotImplemented" | "UnsupportedOperation" => StoreError::NotSupported { place, action, detail },
        "KeyTooLongError" | "InvalidURI" => StoreError::InvalidName { name: object, reason: "the store does not take this key" },
        // The request was cut off or met an internal conflict: AWS documents both as "try again".
        "InternalError"
        | "ServiceUnavailable"
        | "RequestTimeout"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "IncompleteBody" => StoreError::Unavailable { place, detail },
        code => match status {
            301 | 307 | 308 => {
                StoreError::WrongRegion { place, detail: region.map_or(detail, |region| format!("the bucket is in {region}")) }
            }
            401 => StoreError::BadCredentials { place, detail },
            403 => StoreError::AccessDenied { place, action, detail },
            404 if asked.object.is_empty() => StoreError::NotFound { place },
            408 | 409 => StoreError::Unavailable { place, detail },
            412 => StoreError::DestinationExists { object },
            429 => StoreError::Throttled { place, detail },
            501 => StoreError::NotSupported { place, action, detail },
            507 => StoreError::Full { place, detail },
            500.. => StoreError::Unavailable { place, detail },
            _ => {
                let code = if code.is_empty() { format!("HTTP {status}") } else { code.to_owned() };
                StoreError::Rejected { place, action, code, detail: if words.is_empty() { format!("HTTP {status}") } else { words } }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'_> = Asked { place: "bucket b", action: "put", object: "a/b", bytes: 9 };

    fn refusal(status: u16, code: &str) -> StoreError {
        super::refusal(&ASKED, status, Some(code).filter(|code| !code.is_empty()), None, None)
    }

    #[test]
    fn codes_and_bare_statuses_become_what_a_caller_acts_on() {
        assert!(matches!(refusal(404, "NoSuchBucket"), StoreError::NotFound { .. }));
        assert!(matches!(refusal(404, "NoSuchUpload"), StoreError::UploadGone { .. }));
        assert!(matches!(refusal(403, "AccessDenied"), StoreError::AccessDenied { .. }));
        assert!(matches!(refusal(403, ""), StoreError::AccessDenied { .. }));
        assert!(matches!(refusal(403, "SignatureDoesNotMatch"), StoreError::BadCredentials { .. }));
        assert!(matches!(refusal(403, "RequestTimeTooSkewed"), StoreError::ClockSkew { .. }));
        assert!(matches!(refusal(503, "SlowDown"), StoreError::Throttled { .. }));
        assert!(matches!(refusal(429, ""), StoreError::Throttled { .. }));
        assert!(matches!(refusal(503, ""), StoreError::Unavailable { .. }));
        assert!(matches!(refusal(200, "InternalError"), StoreError::Unavailable { .. }));
        assert!(matches!(refusal(400, "BadDigest"), StoreError::ChecksumMismatch { .. }));
        assert!(matches!(refusal(412, ""), StoreError::DestinationExists { .. }));
        assert!(matches!(refusal(507, ""), StoreError::Full { .. }));
        assert!(matches!(refusal(501, ""), StoreError::NotSupported { .. }));
        assert!(matches!(refusal(400, "MalformedXML"), StoreError::Rejected { .. }));
        assert!(!refusal(400, "MalformedXML").is_retryable());
    }

    #[test]
    fn a_redirect_names_the_region_and_words_are_bounded() {
        let error = super::refusal(&ASKED, 301, Some("PermanentRedirect"), None, Some("eu-west-1"));
        assert!(error.to_string().contains("eu-west-1"), "{error}");
        let error = super::refusal(&ASKED, 400, Some("X"), Some(&"w\n".repeat(10_000)), None).to_string();
        assert!(error.len() < 400 && !error.contains('\n'), "{error}");
    }
}
