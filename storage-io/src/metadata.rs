//! What is kept of a file in the metadata of its object, in the forms of rclone and s3fs (docs/spec/metadata.md).

use std::collections::HashMap;

use tradewind_integrity::time;

use crate::error::StoreError;
use crate::store::{ObjectInfo, ObjectKey, ObjectMeta};

/// Longest key, bytes (Amazon S3 User Guide, "Naming Amazon S3 objects"; Azure, "Naming and referencing containers, blobs, and metadata": 1,024 characters).
const KEY_BYTES_MAX: usize = 1024;

/// Metadata name of an object's token, see [`ObjectMeta::token`].
pub(crate) const TOKEN: &str = "tradewind-upload";

/// Metadata name of the whole object's CRC-64/NVME, base64, where the store keeps none itself.
pub(crate) const CRC: &str = "tradewind-crc64nvme";

/// What an object's metadata says of the file that was stored.
pub(crate) fn described(metadata: Option<&HashMap<String, String>>) -> ObjectInfo {
    let mtime_ns = metadata.and_then(|metadata| time::parse(metadata.get("mtime")?));
    let mode = metadata.and_then(|metadata| parse_mode(metadata.get("mode")?));
    let others = metadata.into_iter().flatten().filter(|(name, _)| !matches!(name.as_str(), "mtime" | "mode" | TOKEN));
    let mut attributes: Vec<(String, String)> = others.map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    attributes.sort_unstable();
    ObjectInfo { size: 0, etag: None, crc: None, modified_ns: None, mtime_ns, mode, attributes: attributes.into() }
}

pub(crate) fn text_key(key: &ObjectKey) -> Result<String, StoreError> {
    let refuse = |reason| StoreError::InvalidName { name: key.to_string(), reason };
    let text = std::str::from_utf8(key.as_bytes()).map_err(|_| refuse("object stores take only UTF-8 names"))?;
    if text.len() > KEY_BYTES_MAX { Err(refuse("object stores take at most 1024 bytes")) } else { Ok(text.to_owned()) }
}

/// User metadata: time and mode as rclone and s3fs read them, and the token.
pub(crate) fn metadata(meta: &ObjectMeta) -> HashMap<String, String> {
    let mtime = time::decimal(meta.mtime_ns);
    let mut pairs: HashMap<String, String> = meta.attributes.iter().cloned().collect();
    pairs.extend([("mtime".to_owned(), mtime), (TOKEN.to_owned(), token_text(meta.token))]);
    if meta.mode != 0 {
        // With the zero s3fs reads it as octal too; rclone does so anyway.
        pairs.insert("mode".to_owned(), format!("0{:o}", 0o100_000 | (meta.mode & 0o777)));
    }
    pairs
}

/// Permissions as rclone and this program write them, octal, or as s3fs does: `33188`, decimal. Five decimal digits that begin a regular file's
/// mode are s3fs's, for in octal such a file's mode has six.
fn parse_mode(text: &str) -> Option<u32> {
    let decimal = text.parse::<u32>().ok().filter(|mode| !text.starts_with('0') && (0o100_000..=0o107_777).contains(mode));
    decimal.or_else(|| u32::from_str_radix(text, 8).ok()).map(|mode| mode & 0o777)
}

pub(crate) fn token_text(token: u128) -> String {
    format!("{token:032x}")
}

/// A metadata name for a store that does not take every character: what is not `plain` (by its place and itself), and an `x` before a `q`, become
/// `xqHH`.
pub(crate) fn escaped_name(name: &str, plain: impl Fn(usize, char) -> bool) -> String {
    let mut written = String::with_capacity(name.len());
    for (at, c) in name.char_indices() {
        let is_escape = c == 'x' && name[at + 1..].starts_with('q');
        if plain(at, c) && !is_escape {
            written.push(c);
        } else {
            written.push_str(&format!("xq{:02x}", u32::from(c)));
        }
    }
    written
}

/// The reverse.
pub(crate) fn plain_name(name: &str) -> String {
    let (mut read, mut rest) = (String::with_capacity(name.len()), name);
    while let Some(at) = rest.find("xq") {
        let c = rest.get(at + 2..at + 4).and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii_graphic);
        read.push_str(&rest[..at]);
        rest = if let Some(c) = c {
            read.push(char::from(c));
            &rest[at + 4..]
        } else {
            read.push_str("xq");
            &rest[at + 2..]
        };
    }
    read + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_as_rclone_reads_it() {
        let attributes = [("mtime", "0"), ("uid", "7")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let meta = ObjectMeta { size: 1, mtime_ns: 1_700_000_000_000_000_005, mode: 0o104_755, overwrite: false, token: 255, attributes };
        let pairs = metadata(&meta);
        assert_eq!(pairs["uid"], "7");
        assert_eq!(described(Some(&pairs)).attributes[..], [("uid".to_owned(), "7".to_owned())], "one's own names are not taken over");
        assert_eq!(pairs["mtime"], "1700000000.000000005");
        assert_eq!(pairs["mode"], "0100755");
        assert_eq!(pairs[TOKEN], "000000000000000000000000000000ff");
        assert_eq!(metadata(&ObjectMeta { mtime_ns: -1, mode: 0, ..meta })["mtime"], "-1");
        assert_eq!(described(Some(&pairs)).mtime_ns, Some(meta.mtime_ns));
        for (text, mode) in [("0100644", 0o644), ("100644", 0o644), ("33188", 0o644), ("33261", 0o755), ("644", 0o644), ("104755", 0o755)] {
            assert_eq!(parse_mode(text), Some(mode), "{text}");
        }
        for wrong in ["", "x", "-1", "0o644", "99999999999"] {
            assert_eq!(parse_mode(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn keys_must_be_text_of_a_length_that_stores_take() {
        assert!(text_key(&ObjectKey::new(&[b'k'; KEY_BYTES_MAX]).unwrap()).is_ok());
        assert!(text_key(&ObjectKey::new(&[b'k'; KEY_BYTES_MAX + 1]).unwrap()).is_err());
        assert!(text_key(&ObjectKey::new(b"\xff").unwrap()).is_err());
    }
}
