//! Extended attributes as one value of metadata, in the form of s3fs: percent-encoded JSON, names to base64 of their values
//! (s3fs `build_xattrs` and `parse_xattrs`).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Name of the metadata that holds them.
pub const ATTRIBUTE: &str = "xattr";

/// The access ACL of a file (acl(5)); Linux keeps it as an extended attribute.
pub const POSIX_ACL: &str = "system.posix_acl_access";

/// What s3fs leaves as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'*').remove(b'_');

/// Most bytes of the encoded form that are read.
const TEXT_BYTES_MAX: usize = 8192;

/// Whether a name can be written: s3fs splits at commas and colons and knows no escapes.
#[must_use]
pub fn can_be_written(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b':' | b'\\' | b'{' | b'}'))
}

/// The value of [`ATTRIBUTE`]. Names that cannot be written must have been left out.
#[must_use]
pub fn encode(attributes: &BTreeMap<String, Vec<u8>>) -> String {
    let pairs: Vec<String> = attributes.iter().map(|(name, value)| format!("\"{name}\":\"{}\"", STANDARD.encode(value))).collect();
    utf8_percent_encode(&format!("{{{}}}", pairs.join(",")), ENCODED).to_string()
}

/// Reads [`encode`]'s and s3fs's form; `None` for anything else, and beyond 8 KiB.
#[must_use]
pub fn decode(text: &str) -> Option<BTreeMap<String, Vec<u8>>> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let json = percent_decode_str(text).decode_utf8().ok()?;
    let pairs: BTreeMap<String, String> = serde_json::from_str(&json).ok()?;
    pairs.into_iter().map(|(name, value)| Some((name, STANDARD.decode(value).ok()?))).collect()
}

/// Whether a receiver may give a file this attribute, whoever asks: attributes of users and the access ACL. Not those that a file system, a
/// security module or this program reads for itself.
#[must_use]
pub fn may_be_restored(name: &str) -> bool {
    let ours_or_overlay = name.starts_with("user.tradewind.") || name.starts_with("user.overlay.");
    let is_plain = name.len() <= 255 && !name.contains('\0');
    is_plain && (name == POSIX_ACL || (name.len() > 5 && name.starts_with("user.") && !ours_or_overlay))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3fs_form() {
        let attributes = BTreeMap::from([("user.test".to_owned(), b"hello".to_vec()), ("user.z".to_owned(), vec![0, 255])]);
        let text = encode(&attributes);
        assert_eq!(text, "%7B%22user.test%22%3A%22aGVsbG8%3D%22%2C%22user.z%22%3A%22AP8%3D%22%7D");
        assert_eq!(decode(&text), Some(attributes));
        for bad in ["", "%7B", "%ff", "[]", "%7B%22a%22%3A1%7D", "%7B%22a%22%3A%22%21%22%7D", &"x".repeat(9000)] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        assert!(can_be_written("user.a-b_c") && !can_be_written("user.a,b") && !can_be_written("user.\u{e4}") && !can_be_written(""));
    }

    #[test]
    fn only_attributes_of_users_and_acls_are_restored() {
        for good in ["user.a", POSIX_ACL] {
            assert!(may_be_restored(good), "{good}");
        }
        for bad in [
            "trusted.overlay.opaque",
            "security.capability",
            "security.selinux",
            "system.posix_acl_default",
            "system.nfs4_acl",
            "user.",
            "user",
            "",
            "user.overlay.redirect",
            "user.tradewind.sha256",
            "user.a\0b",
        ] {
            assert!(!may_be_restored(bad), "{bad}");
        }
    }
}
