//! What refusals of NameNodes and DataNodes mean (WebHDFS REST API, "Error Responses").

use reqwest::Response;
use serde::Deserialize;

use crate::asked::{Asked, refusal_text, shorten};
use crate::error::StoreError;
use crate::rest::words_of;

/// An answer that is no success.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    status: u16,
    /// The exception's simple name in Java.
    exception: String,
    words: String,
    /// The cluster wants Kerberos.
    negotiates: bool,
    /// What lies on the way is a file.
    is_through_file: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    remote_exception: RemoteException,
}

#[derive(Deserialize)]
struct RemoteException {
    #[serde(default)]
    exception: String,
    #[serde(default)]
    message: Option<String>,
}

/// A gateway may show the address that it was asked for, which holds a token.
fn masked(words: &str) -> String {
    let mut parts = words.split("delegation=");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| matches!(c, '&' | '"' | '\'' | '<') || c.is_whitespace()).unwrap_or(part.len());
        masked.push_str("delegation=…");
        masked.push_str(&part[end..]);
    }
    masked
}

impl Refusal {
    pub(super) async fn of(answer: Response) -> Self {
        let status = answer.status().as_u16();
        let asked_for = answer.headers().get_all("www-authenticate");
        let negotiates = asked_for.iter().any(|way| way.as_bytes().to_ascii_lowercase().starts_with(b"negotiate"));
        Self { negotiates, ..Self::read(status, &words_of(answer).await) }
    }

    fn read(status: u16, text: &str) -> Self {
        match serde_json::from_str::<Answer>(text) {
            Ok(Answer { remote_exception: RemoteException { exception, message } }) => {
                Self::told(status, exception, &message.unwrap_or_default())
            }
            // Pages of HTML say no more than the status.
            Err(_) if text.trim_start().starts_with('<') => Self { status, ..Self::default() },
            Err(_) => Self { status, words: shorten(&masked(text.trim())), ..Self::default() },
        }
    }

    fn told(status: u16, exception: String, message: &str) -> Self {
        // A NameNode's exception that a DataNode passes on stands first in the message.
        let line = message.lines().next().unwrap_or_default();
        // A NameNode of 2.7 finds that it may not look into a file, whose mode begins with '-'.
        let is_of_file = line.contains("access=EXECUTE") && line.rsplit(':').next().is_some_and(|mode| mode.starts_with('-'));
        let is_through_file = is_of_file || line.contains("is not a directory");
        Self { status, exception, words: shorten(&masked(line)), negotiates: false, is_through_file }
    }

    /// Of a call to a NameNode's RPC port, which has no HTTP status; `class` is the exception's whole name in Java.
    pub(super) fn of_call(class: &str, message: &str) -> Self {
        let exception = class.rsplit(['.', '$']).next().unwrap_or_default();
        Self::told(0, exception.to_owned(), if message.trim().is_empty() { "no words" } else { message })
    }

    /// Whether another NameNode may do what this one does not.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self.exception.as_str(), "StandbyException" | "RetriableException")
    }

    pub(super) fn says(&self, words: &str) -> bool {
        self.words.contains(words)
    }

    /// `by_datanode`: it was one that said so, whose troubles with others pass.
    pub(super) fn error(&self, asked: &Asked<'_>, by_datanode: bool) -> StoreError {
        let (place, object, action) = (asked.place.to_owned(), asked.object.to_owned(), asked.action);
        let detail = refusal_text(self.status, &self.exception, &self.words);
        let invalid = |reason| StoreError::InvalidName { name: asked.object.to_owned(), reason };
        match self.exception.as_str() {
            "FileNotFoundException" => StoreError::ObjectGone { object },
            "AccessControlException" | "FileAlreadyExistsException" | "ParentNotDirectoryException" if self.is_through_file => {
                invalid("a folder on its way is a file")
            }
            "FileAlreadyExistsException" => StoreError::DestinationExists { object },
            "AccessControlException" => StoreError::AccessDenied { place, action, detail },
            "SecurityException" | "InvalidToken" | "AuthenticationException" | "AuthorizationException" => {
                StoreError::BadCredentials { place, detail }
            }
            "StandbyException" | "RetriableException" => {
                StoreError::Unavailable { place, detail: format!("{detail} (none of its NameNodes is active)") }
            }
            "SafeModeException" => StoreError::Unavailable { place, detail: format!("{detail} (hdfs dfsadmin -safemode get)") },
            "DSQuotaExceededException" | "NSQuotaExceededException" | "QuotaExceededException" | "QuotaByStorageTypeExceededException" => {
                StoreError::Full { place, detail }
            }
            "MaxDirectoryItemsExceededException" => StoreError::Full { place, detail },
            "PathComponentTooLongException" => invalid("a name in it is longer than this HDFS takes (max-component-length)"),
            "ParentNotDirectoryException" => invalid("a folder on its way is a file"),
            "InvalidPathException" => invalid("HDFS takes no such name"),
            // A DataNode passes on the words only.
            _ if self.says("in safe mode") || self.says("not supported in state standby") => StoreError::Unavailable { place, detail },
            _ if self.says("Invalid path name") || self.says("Invalid file name") || self.says("is a reserved name") => {
                invalid("HDFS takes no such name")
            }
            _ if self.says("The XAttr is too big") => {
                invalid("the attributes that are kept of it are more than this HDFS takes (max-xattr-size)")
            }
            _ if self.says("No space left on device") => StoreError::Full { place, detail },
            _ if self.says("could only be replicated to") || self.says("could only be written to") => {
                StoreError::Unavailable { place, detail: format!("{detail} (its DataNodes are full, busy or away)") }
            }
            _ => self.by_status(asked, by_datanode, detail),
        }
    }

    fn by_status(&self, asked: &Asked<'_>, by_datanode: bool, detail: String) -> StoreError {
        let (place, action) = (asked.place.to_owned(), asked.action);
        let passes = matches!(
            self.exception.as_str(),
            "IOException"
                | "ConnectException"
                | "ClosedChannelException"
                | "SocketTimeoutException"
                | "EOFException"
                | "BlockMissingException"
                | "LeaseExpiredException"
                | "AlreadyBeingCreatedException"
        );
        match self.status {
            401 if self.negotiates => {
                let detail = "HTTP 401: it wants Kerberos (SPNEGO), which this program does not speak; give the store a delegation token";
                StoreError::BadCredentials { place, detail: detail.to_owned() }
            }
            401 => StoreError::BadCredentials { place, detail },
            _ if by_datanode && passes && !self.says("block size") => StoreError::Unavailable { place, detail },
            403 if self.exception.is_empty() => StoreError::AccessDenied { place, action, detail },
            404 if self.exception.is_empty() => {
                let detail = format!("{detail}; is this the web port of a NameNode, and dfs.webhdfs.enabled?");
                StoreError::Rejected { place, action, code: "no WebHDFS".to_owned(), detail }
            }
            429 => StoreError::Throttled { place, detail },
            408 | 500.. => StoreError::Unavailable { place, detail },
            0 => StoreError::Rejected { place, action, code: self.exception.clone(), detail },
            status => StoreError::Rejected { place, action, code: format!("HTTP {status}"), detail },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_not_repeated() {
        assert_eq!(masked("no /a?delegation=hush&op=OPEN, delegation=hush"), "no /a?delegation=…&op=OPEN, delegation=…");
        assert_eq!(masked("nothing of that"), "nothing of that");
    }

    fn error(status: u16, exception: &str, message: &str, by_datanode: bool) -> StoreError {
        let text = serde_json::json!({"RemoteException": {"exception": exception, "javaClassName": "x", "message": message}}).to_string();
        Refusal::read(status, &text).error(&Asked { place: "here", action: "write", object: "o", bytes: 0 }, by_datanode)
    }

    #[test]
    fn exceptions_become_what_a_caller_can_act_on() {
        assert!(matches!(error(404, "FileNotFoundException", "File does not exist: /o", false), StoreError::ObjectGone { .. }));
        assert!(matches!(error(403, "AccessControlException", "Permission denied: user=x\nat y", true), StoreError::AccessDenied { .. }));
        let inode = "Permission denied: user=u, access=EXECUTE, inode=\"/f/x\":u:supergroup:";
        assert!(matches!(error(403, "AccessControlException", &format!("{inode}-rw-r-----"), true), StoreError::InvalidName { .. }));
        assert!(matches!(error(403, "AccessControlException", &format!("{inode}drw-r-----"), true), StoreError::AccessDenied { .. }));
        assert!(matches!(
            error(403, "FileAlreadyExistsException", "Parent path is not a directory: /f x", false),
            StoreError::InvalidName { .. }
        ));
        assert!(matches!(
            error(403, "FileAlreadyExistsException", "rename destination /f already exists", false),
            StoreError::DestinationExists { .. }
        ));
        assert!(matches!(error(403, "DSQuotaExceededException", "The DiskSpace quota", true), StoreError::Full { .. }));
        assert!(matches!(error(401, "SecurityException", "Failed to obtain user", false), StoreError::BadCredentials { .. }));
        assert!(matches!(error(403, "InvalidToken", "token (…) is expired", false), StoreError::BadCredentials { .. }));
        assert!(matches!(error(403, "ParentNotDirectoryException", "/a (is not a directory)", false), StoreError::InvalidName { .. }));
        assert!(matches!(
            error(400, "IllegalArgumentException", "Invalid value for webhdfs parameter", false),
            StoreError::Rejected { .. }
        ));
        for (exception, message) in
            [("StandbyException", ""), ("SafeModeException", "Name node is in safe mode."), ("RetriableException", "")]
        {
            assert!(error(403, exception, message, false).is_retryable(), "{exception}");
        }
        let nowhere = "File /o could only be replicated to 0 nodes instead of minReplication (=1).";
        assert!(
            matches!(error(403, "IOException", nowhere, true), StoreError::Unavailable { detail, .. } if detail.contains("full, busy"))
        );
        assert!(error(403, "RemoteException", "Cannot create file/o. Name node is in safe mode.", true).is_retryable());
        // The same words weigh less of a NameNode.
        assert!(error(403, "IOException", "All datanodes are bad", true).is_retryable());
        assert!(!error(403, "IOException", "All datanodes are bad", false).is_retryable());
        assert!(!error(403, "IOException", "Specified block size is less than configured minimum value", true).is_retryable());
    }

    #[test]
    fn answers_that_are_none_of_webhdfs() {
        let asked = Asked { place: "here", action: "write", object: "o", bytes: 0 };
        let refused = |status, text: &str| Refusal::read(status, text).error(&asked, false);
        assert!(matches!(refused(404, "<html>"), StoreError::Rejected { detail, .. } if detail.contains("web port")));
        assert!(matches!(refused(403, ""), StoreError::AccessDenied { .. }));
        assert!(refused(503, "\u{0}\u{1b}").is_retryable() && refused(500, "{\"RemoteException\":3}").is_retryable());
        let negotiate = Refusal { status: 401, negotiates: true, ..Refusal::default() }.error(&asked, false);
        assert!(matches!(negotiate, StoreError::BadCredentials { detail, .. } if detail.contains("delegation token")));
    }
}
