//! What the Blob service's refusals mean (Azure Storage REST API, "Blob Storage error codes").

use reqwest::Response;

use crate::asked::{Asked, refusal_text, shorten};
use crate::error::StoreError;
use crate::rest::{text_of, words_of};

impl Asked<'_> {
    /// Turns an answer that is no success into an error.
    pub(super) async fn refused(&self, answer: Response) -> StoreError {
        let status = answer.status().as_u16();
        let code = text_of(answer.headers(), "x-ms-error-code").unwrap_or_default().to_owned();
        let body = words_of(answer).await;
        let words = body.split_once("<Message>").and_then(|(_, rest)| rest.split(['\n', '<']).next()).unwrap_or_default();
        refusal(self, status, &code, &shorten(words))
    }
}

fn refusal(asked: &Asked<'_>, status: u16, code: &str, words: &str) -> StoreError {
    let (place, object, action) = (asked.place.to_owned(), asked.object.to_owned(), asked.action);
    let detail = refusal_text(status, code, words);
    match code {
        "ContainerNotFound" | "ContainerBeingDeleted" | "ContainerDisabled" => StoreError::NotFound { place },
        "BlobNotFound" | "ResourceNotFound" => StoreError::ObjectGone { object },
        "AuthenticationFailed" | "InvalidAuthenticationInfo" | "NoAuthenticationInformation" => {
            StoreError::BadCredentials { place, detail }
        }
        "BlobAlreadyExists" => StoreError::DestinationExists { object },
        "InvalidBlockList" => StoreError::UploadGone { object },
        "InvalidBlobOrBlock" => StoreError::Rejected {
            place,
            action,
            code: code.to_owned(),
            detail: format!(
                "another program has begun to write {object} and left blocks; write it to its end with that program, choose another name, or wait a week"
            ),
        },
        "Md5Mismatch" | "Crc64Mismatch" | "InvalidMd5" => StoreError::ChecksumMismatch { object, detail },
        "ServerBusy" => StoreError::Throttled { place, detail },
        "InvalidResourceName" | "OutOfRangeInput" if !asked.object.is_empty() => {
            StoreError::InvalidName { name: object, reason: "the store does not take this name" }
        }
        "RequestBodyTooLarge" | "BlockCountExceedsLimit" => {
            StoreError::TooLarge { object, size_bytes: asked.bytes, max_bytes: asked.bytes.saturating_sub(1) }
        }
        "AccountIsDisabled" | "InsufficientAccountPermissions" => StoreError::AccessDenied { place, action, detail },
        _ => match status {
            401 => StoreError::BadCredentials { place, detail },
            403 => StoreError::AccessDenied { place, action, detail },
            404 if asked.object.is_empty() => StoreError::NotFound { place },
            404 => StoreError::ObjectGone { object },
            412 if matches!(code, "" | "ConditionNotMet" | "TargetConditionNotMet") => StoreError::DestinationExists { object },
            429 => StoreError::Throttled { place, detail },
            408 | 500.. => StoreError::Unavailable { place, detail },
            _ => {
                let code = if code.is_empty() { format!("HTTP {status}") } else { code.to_owned() };
                StoreError::Rejected { place, action, code, detail }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_go_before_the_status() {
        let asked = Asked { place: "here", action: "put", object: "o", bytes: 9 };
        assert!(matches!(refusal(&asked, 404, "ContainerNotFound", ""), StoreError::NotFound { .. }));
        assert!(matches!(refusal(&asked, 404, "", ""), StoreError::ObjectGone { .. }));
        assert!(matches!(refusal(&asked, 403, "AuthenticationFailed", "no"), StoreError::BadCredentials { .. }));
        assert!(matches!(refusal(&asked, 403, "AuthorizationPermissionMismatch", ""), StoreError::AccessDenied { .. }));
        assert!(matches!(refusal(&asked, 409, "BlobAlreadyExists", ""), StoreError::DestinationExists { .. }));
        assert!(matches!(refusal(&asked, 412, "ConditionNotMet", ""), StoreError::DestinationExists { .. }));
        assert!(matches!(refusal(&asked, 412, "LeaseIdMissing", ""), StoreError::Rejected { .. }));
        assert!(matches!(refusal(&asked, 400, "Crc64Mismatch", ""), StoreError::ChecksumMismatch { .. }));
        assert!(refusal(&asked, 503, "ServerBusy", "").is_retryable() && refusal(&asked, 500, "InternalError", "").is_retryable());
        assert!(!refusal(&asked, 400, "InvalidHeaderValue", "").is_retryable());
        let error = refusal(&asked, 400, "InvalidHeaderValue", "the words");
        assert!(error.to_string().contains("InvalidHeaderValue") && error.to_string().contains("the words"), "{error}");
    }
}
