//! What the service's refusals mean (Cloud Storage JSON API, "HTTP status and error codes").

use reqwest::Response;
use serde::Deserialize;

use crate::asked::{Asked, refusal_text, shorten};
use crate::error::StoreError;
use crate::rest::words_of;

#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    error: Refusal,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    reason: String,
}

/// Turns an answer that is no success into an error.
pub(super) async fn refused(asked: &Asked<'_>, answer: Response) -> StoreError {
    let status = answer.status().as_u16();
    let body = words_of(answer).await;
    // Some refusals are plain text.
    let Answer { error } = serde_json::from_str(&body).unwrap_or_else(|_| Answer { error: Refusal { message: body, errors: Vec::new() } });
    let reason = error.errors.first().map_or("", |first| first.reason.as_str());
    refusal(asked, status, &shorten(reason), &shorten(error.message.trim()))
}

fn refusal(asked: &Asked<'_>, status: u16, reason: &str, words: &str) -> StoreError {
    let (place, object, action) = (asked.place.to_owned(), asked.object.to_owned(), asked.action);
    let detail = refusal_text(status, reason, words);
    match (status, reason) {
        (401, _) => StoreError::BadCredentials { place, detail },
        (429, _) | (403, "rateLimitExceeded" | "userRateLimitExceeded" | "quotaExceeded") => StoreError::Throttled { place, detail },
        (403, _) => StoreError::AccessDenied { place, action, detail },
        (404, _) if object.is_empty() || words.contains("bucket does not exist") => StoreError::NotFound { place },
        (404, _) => StoreError::ObjectGone { object },
        (412 | 304, _) => StoreError::DestinationExists { object },
        (413, _) => StoreError::TooLarge { object, size_bytes: asked.bytes, max_bytes: asked.bytes.saturating_sub(1) },
        (400, _) if ["crc32c", "md5", "checksum"].iter().any(|word| words.to_ascii_lowercase().contains(word)) => {
            StoreError::ChecksumMismatch { object, detail }
        }
        (408 | 409 | 500.., _) => StoreError::Unavailable { place, detail },
        _ => {
            let code = if reason.is_empty() { format!("HTTP {status}") } else { reason.to_owned() };
            StoreError::Rejected { place, action, code, detail }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_by_status_and_reason() {
        let asked = Asked { place: "here", action: "put", object: "o", bytes: 9 };
        let refusal = |status, reason, words| refusal(&asked, status, reason, words);
        assert!(matches!(refusal(401, "authError", ""), StoreError::BadCredentials { .. }));
        assert!(matches!(refusal(403, "forbidden", ""), StoreError::AccessDenied { .. }));
        assert!(matches!(refusal(403, "rateLimitExceeded", ""), StoreError::Throttled { .. }));
        assert!(matches!(refusal(404, "notFound", "The specified bucket does not exist."), StoreError::NotFound { .. }));
        assert!(matches!(refusal(404, "notFound", "No such object: b/o"), StoreError::ObjectGone { .. }));
        assert!(matches!(refusal(412, "conditionNotMet", ""), StoreError::DestinationExists { .. }));
        assert!(matches!(refusal(400, "invalid", "Provided CRC32C \"a\" doesn't match"), StoreError::ChecksumMismatch { .. }));
        assert!(refusal(503, "backendError", "").is_retryable() && refusal(429, "", "").is_retryable());
        let unknown = refusal(400, "invalid", "the words");
        assert!(!unknown.is_retryable() && unknown.to_string().contains("the words"), "{unknown}");
    }
}
