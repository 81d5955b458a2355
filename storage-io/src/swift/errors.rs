//! What a proxy's refusals mean (Object Storage API v1, and the middleware of Swift).

use reqwest::Response;

use crate::asked::{Asked, refusal_text, shorten};
use crate::error::StoreError;
use crate::rest::words_of;

/// Turns an answer that is no success into an error.
pub(super) async fn refused(asked: &Asked<'_>, answer: Response) -> StoreError {
    let status = answer.status().as_u16();
    let words = words_of(answer).await;
    // Pages of HTML say no more than the status.
    let words = if words.trim_start().starts_with('<') && !words.contains("quota") { "" } else { words.trim() };
    refusal(asked, status, &shorten(words))
}

fn refusal(asked: &Asked<'_>, status: u16, words: &str) -> StoreError {
    let (place, object, action) = (asked.place.to_owned(), asked.object.to_owned(), asked.action);
    let detail = refusal_text(status, "", words);
    match status {
        401 => StoreError::BadCredentials { place, detail },
        403 => StoreError::AccessDenied { place, action, detail },
        404 if object.is_empty() || action.starts_with("put") => StoreError::NotFound { place },
        404 => StoreError::ObjectGone { object },
        400 if words.contains("404 Not Found") => StoreError::UploadGone { object },
        400 if words.contains("Etag Mismatch") => StoreError::ChecksumMismatch { object, detail },
        412 => StoreError::DestinationExists { object },
        413 if words.contains("quota") => StoreError::Full { place, detail },
        413 => StoreError::TooLarge { object, size_bytes: asked.bytes, max_bytes: asked.bytes.saturating_sub(1) },
        422 => StoreError::ChecksumMismatch { object, detail },
        429 | 498 => StoreError::Throttled { place, detail },
        408 | 499 | 500.. => StoreError::Unavailable { place, detail },
        _ => StoreError::Rejected { place, action, code: format!("HTTP {status}"), detail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_what_a_caller_can_act_on() {
        let asked = Asked { place: "here", action: "put an object", object: "o", bytes: 9 };
        assert!(matches!(refusal(&asked, 404, ""), StoreError::NotFound { .. }));
        assert!(matches!(refusal(&Asked { action: "read", ..asked }, 404, ""), StoreError::ObjectGone { .. }));
        assert!(matches!(refusal(&asked, 413, "Upload exceeds quota."), StoreError::Full { .. }));
        assert!(matches!(refusal(&asked, 413, ""), StoreError::TooLarge { size_bytes: 9, .. }));
        assert!(matches!(refusal(&asked, 422, ""), StoreError::ChecksumMismatch { .. }));
        assert!(matches!(refusal(&asked, 400, "Errors: /s/k, 404 Not Found"), StoreError::UploadGone { .. }));
        for status in [429, 498, 503, 507] {
            assert!(refusal(&asked, status, "").is_retryable(), "{status}");
        }
        assert!(!refusal(&asked, 405, "").is_retryable());
    }
}
