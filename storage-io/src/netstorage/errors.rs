//! What NetStorage's refusals mean (Akamai TechDocs, NetStorage Usage API, "Errors").

use std::time::SystemTime;

use reqwest::Response;

use crate::asked::{Asked, refusal_text, shorten};
use crate::error::StoreError;
use crate::rest::{date_ns, text_of, words_of};

/// Seconds by which a signature's time may differ from the server's; it says no more than 403 then, as to a wrong key.
const SKEW_S: i64 = 60;

/// Turns an answer that is no success into an error.
pub(super) async fn refused(asked: &Asked<'_>, answer: Response) -> StoreError {
    let status = answer.status().as_u16();
    let now_ns = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let now_s = i64::try_from(now_ns / 1_000_000_000).unwrap_or(0);
    let ahead_s = text_of(answer.headers(), "date").and_then(date_ns).map(|theirs| now_s - theirs / 1_000_000_000);
    let words = words_of(answer).await;
    // Pages of HTML say no more than the status.
    let words = if words.trim_start().starts_with('<') { "" } else { words.trim() };
    refusal(asked, status, words, ahead_s.unwrap_or(0))
}

/// `ahead_s`: seconds by which our clock is ahead of the server's.
fn refusal(asked: &Asked<'_>, status: u16, words: &str, ahead_s: i64) -> StoreError {
    let (place, object, action) = (asked.place.to_owned(), asked.object.to_owned(), asked.action);
    let detail = refusal_text(status, "", &shorten(words));
    match status {
        401 | 403 if ahead_s.abs() >= SKEW_S => {
            let side = if ahead_s > 0 { "ahead of" } else { "behind" };
            StoreError::ClockSkew { place, detail: format!("{detail}; it is {} s {side} NetStorage's", ahead_s.abs()) }
        }
        401 | 403 => {
            let hint = "upload account, HTTP API key, or the account's access to this CP code; a new key takes up to two hours to be known, and \
                        a clock that is a minute off is refused like a wrong key";
            StoreError::BadCredentials { place, detail: format!("{detail} ({hint})") }
        }
        404 if object.is_empty() || action.starts_with("put") => StoreError::NotFound { place },
        404 => StoreError::ObjectGone { object },
        // The only conditions that an upload carries are its size and its hash.
        412 | 422 if action.starts_with("put") => StoreError::ChecksumMismatch { object, detail },
        400 | 409 if action.starts_with("put") && names_a_hash(words) => StoreError::ChecksumMismatch { object, detail },
        413 => StoreError::TooLarge { object, size_bytes: asked.bytes, max_bytes: asked.bytes.saturating_sub(1) },
        429 | 503 | 509 => StoreError::Throttled { place, detail },
        507 => StoreError::Full { place, detail },
        408 | 423 | 500.. => StoreError::Unavailable { place, detail },
        _ => StoreError::Rejected { place, action, code: format!("HTTP {status}"), detail },
    }
}

fn names_a_hash(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["sha256", "md5", "hash", "checksum", "digest", "size"].iter().any(|word| words.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_what_a_caller_can_act_on() {
        let asked = Asked { place: "here", action: "put an object", object: "o", bytes: 9 };
        let read = Asked { action: "read an object", ..asked };
        assert!(matches!(refusal(&asked, 403, "", 0), StoreError::BadCredentials { .. }));
        assert!(matches!(refusal(&asked, 403, "", SKEW_S - 1), StoreError::BadCredentials { .. }));
        assert!(matches!(refusal(&asked, 403, "", SKEW_S), StoreError::ClockSkew { .. }));
        let skew = refusal(&asked, 403, "", -4000).to_string();
        assert!(skew.contains("4000 s behind NetStorage's") && skew.contains("chronyc"), "{skew}");
        assert!(matches!(refusal(&asked, 404, "", 0), StoreError::NotFound { .. }));
        assert!(matches!(refusal(&read, 404, "", 0), StoreError::ObjectGone { .. }));
        assert!(matches!(refusal(&asked, 412, "", 0), StoreError::ChecksumMismatch { .. }));
        assert!(matches!(refusal(&asked, 400, "SHA256 does not match", 0), StoreError::ChecksumMismatch { .. }));
        assert!(matches!(refusal(&asked, 400, "bad action", 0), StoreError::Rejected { .. }));
        assert!(matches!(refusal(&read, 412, "", 0), StoreError::Rejected { .. }));
        assert!(matches!(refusal(&asked, 413, "", 0), StoreError::TooLarge { size_bytes: 9, .. }));
        assert!(matches!(refusal(&asked, 507, "", 0), StoreError::Full { .. }));
        for status in [429, 503, 509] {
            assert!(matches!(refusal(&asked, status, "", 0), StoreError::Throttled { .. }), "{status}");
        }
        for status in [408, 423, 500, 502, 504] {
            assert!(refusal(&asked, status, "", 0).is_retryable(), "{status}");
        }
        assert!(!refusal(&asked, 409, "", 0).is_retryable());
    }
}
