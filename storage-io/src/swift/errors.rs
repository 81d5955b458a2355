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
    refusal(asked, status, words)
}

/// Whether one of the segments that a manifest names could not be looked at just now.
fn names_a_moment(words: &str) -> bool {
    let is_of_now = |status: &str| matches!(status, "408" | "429" | "498" | "499") || status.starts_with('5');
    words.split(", ").skip(1).any(|rest| rest.get(..3).is_some_and(|status| status.parse::<u16>().is_ok() && is_of_now(status)))
}

fn refusal(asked: &Asked<'_>, status: u16, words: &str) -> StoreError {
    let (place, object, action) = (asked.place.to_owned(), asked.object.to_owned(), asked.action);
    let detail = refusal_text(status, "", &shorten(words));
    match status {
        401 => StoreError::BadCredentials { place, detail },
        403 => StoreError::AccessDenied { place, action, detail },
        404 if object.is_empty() || action.starts_with("put") => StoreError::NotFound { place },
        404 => StoreError::ObjectGone { object },
        400 if names_a_moment(words) => StoreError::Unavailable { place, detail },
        400 if words.contains("404 Not Found") => StoreError::UploadGone { object },
        400 if words.contains("Etag Mismatch") => StoreError::ChecksumMismatch { object, detail },
        412 if action.starts_with("put") || action.starts_with("read") => StoreError::DestinationExists { object },
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
        let long = format!("Errors:\n/s/{}, 404 Not Found", "k".repeat(500));
        assert!(matches!(refusal(&asked, 400, &long), StoreError::UploadGone { .. }));
        let moment = "Errors:\n/s/k%2C%20500/1, 404 Not Found\n/s/k/2, 503 Service Unavailable";
        assert!(matches!(refusal(&asked, 400, moment), StoreError::Unavailable { .. }));
        assert!(matches!(refusal(&asked, 412, ""), StoreError::DestinationExists { .. }));
        assert!(matches!(refusal(&Asked { action: "list objects", ..asked }, 412, "Maximum limit is 9"), StoreError::Rejected { .. }));
        for status in [429, 498, 503, 507] {
            assert!(refusal(&asked, status, "").is_retryable(), "{status}");
        }
        assert!(!refusal(&asked, 405, "").is_retryable());
    }
}
