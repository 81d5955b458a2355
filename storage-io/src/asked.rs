//! What an object store was asked, and what is told of its refusal.

use crate::error::StoreError;

/// Longest piece of a server's own words that goes into a message, characters.
const DETAIL_CHARS_MAX: usize = 300;

/// What was asked, where and about what: for the message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) place: &'a str,
    pub(crate) action: &'static str,
    pub(crate) object: &'a str,
    pub(crate) bytes: u64,
}

impl Asked<'_> {
    /// A request that could not be made, or an answer that could not be read.
    pub(crate) fn unmade(&self, detail: &str) -> StoreError {
        let (place, code) = (self.place.to_owned(), "request not made".to_owned());
        StoreError::Rejected { place, action: self.action, code, detail: shorten(detail) }
    }

    /// No answer, or one that broke off.
    pub(crate) fn broken(&self, detail: &str) -> StoreError {
        StoreError::Unavailable { place: self.place.to_owned(), detail: shorten(detail) }
    }
}

/// Code, words and HTTP status of a refusal as one line; what the server did not say is empty.
pub(crate) fn refusal_text(status: u16, code: &str, words: &str) -> String {
    match (code, words) {
        ("", "") => format!("HTTP {status}"),
        ("", words) => format!("HTTP {status}: {words}"),
        (code, "") => format!("{code}, HTTP {status}"),
        (code, words) => format!("{code}: {words}"),
    }
}

/// The first line's worth of somebody else's text, without control characters.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(DETAIL_CHARS_MAX).collect()
}
