//! What the Blob service's refusals mean (Azure Storage REST API, "Blob Storage error codes").

use reqwest::Response;

use crate::error::StoreError;

/// Longest piece of the service's own words that goes into a message, characters.
const DETAIL_CHARS_MAX: usize = 300;
/// Longest error answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What was asked, where and about what: for the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) place: &'a str,
    pub(super) action: &'static str,
    pub(super) object: &'a str,
    pub(super) bytes: u64,
}

/// An error without the URL, which may hold a signature.
pub(super) fn plain(error: &reqwest::Error) -> String {
    let mut text = if error.is_connect() { "no connection".to_owned() } else { "the exchange broke off".to_owned() };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    shorten(&text)
}

fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(DETAIL_CHARS_MAX).collect()
}

impl Asked<'_> {
    pub(super) fn broken(&self, error: &reqwest::Error) -> StoreError {
        StoreError::Unavailable { place: self.place.to_owned(), detail: plain(error) }
    }

    pub(super) fn unmade(&self, detail: &str) -> StoreError {
        let (place, code) = (self.place.to_owned(), "request not made".to_owned());
        StoreError::Rejected { place, action: self.action, code, detail: shorten(detail) }
    }

    /// Turns an answer that is no success into an error.
    pub(super) async fn refused(&self, mut answer: Response) -> StoreError {
        let status = answer.status().as_u16();
        let code = answer.headers().get("x-ms-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default().to_owned();
        let mut body = Vec::new();
        while body.len() < ANSWER_BYTES_MAX
            && let Ok(Some(chunk)) = answer.chunk().await
        {
            body.extend_from_slice(&chunk);
        }
        let body = String::from_utf8_lossy(&body);
        let words = body.split_once("<Message>").and_then(|(_, rest)| rest.split(['\n', '<']).next()).unwrap_or_default();
        self.refusal(status, &code, &shorten(words))
    }

    fn refusal(&self, status: u16, code: &str, words: &str) -> StoreError {
        let (place, object, action) = (self.place.to_owned(), self.object.to_owned(), self.action);
        let detail = match (code, words) {
            ("", "") => format!("HTTP {status}"),
            ("", words) => format!("HTTP {status}: {words}"),
            (code, "") => format!("{code}, HTTP {status}"),
            (code, words) => format!("{code}: {words}"),
        };
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
            "InvalidResourceName" | "OutOfRangeInput" if !self.object.is_empty() => {
                StoreError::InvalidName { name: object, reason: "the store does not take this name" }
            }
            "RequestBodyTooLarge" | "BlockCountExceedsLimit" => {
                StoreError::TooLarge { object, size_bytes: self.bytes, max_bytes: self.bytes.saturating_sub(1) }
            }
            "AccountIsDisabled" | "InsufficientAccountPermissions" => StoreError::AccessDenied { place, action, detail },
            _ => match status {
                401 => StoreError::BadCredentials { place, detail },
                403 => StoreError::AccessDenied { place, action, detail },
                404 if self.object.is_empty() => StoreError::NotFound { place },
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_go_before_the_status() {
        let asked = Asked { place: "here", action: "put", object: "o", bytes: 9 };
        assert!(matches!(asked.refusal(404, "ContainerNotFound", ""), StoreError::NotFound { .. }));
        assert!(matches!(asked.refusal(404, "", ""), StoreError::ObjectGone { .. }));
        assert!(matches!(asked.refusal(403, "AuthenticationFailed", "no"), StoreError::BadCredentials { .. }));
        assert!(matches!(asked.refusal(403, "AuthorizationPermissionMismatch", ""), StoreError::AccessDenied { .. }));
        assert!(matches!(asked.refusal(409, "BlobAlreadyExists", ""), StoreError::DestinationExists { .. }));
        assert!(matches!(asked.refusal(412, "ConditionNotMet", ""), StoreError::DestinationExists { .. }));
        assert!(matches!(asked.refusal(412, "LeaseIdMissing", ""), StoreError::Rejected { .. }));
        assert!(matches!(asked.refusal(400, "Crc64Mismatch", ""), StoreError::ChecksumMismatch { .. }));
        assert!(asked.refusal(503, "ServerBusy", "").is_retryable() && asked.refusal(500, "InternalError", "").is_retryable());
        assert!(!asked.refusal(400, "InvalidHeaderValue", "").is_retryable());
        let error = asked.refusal(400, "InvalidHeaderValue", "the words");
        assert!(error.to_string().contains("InvalidHeaderValue") && error.to_string().contains("the words"), "{error}");
    }
}
