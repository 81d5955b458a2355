//! A line of a manifest: one file that is durable.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::{Checksum, from_hex, hex};

/// Longest line that is read, bytes: a path of 4 KiB, as JSON and base64, and some metadata.
pub const MANIFEST_LINE_BYTES_MAX: usize = 64 * 1024;

/// A file of a transfer that is durable at its destination. Readers ignore fields that they do not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestLine {
    /// Its path below the destination. Of a path that is not UTF-8, bytes that are none as U+201B and two hexadecimal digits, as rclone writes
    /// them.
    pub path: String,
    /// The bytes of a path that is not UTF-8, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// Its key in the bucket or its path below the store's root.
    #[serde(default)]
    pub key: String,
    /// Size, bytes.
    pub size: u64,
    /// Modification time of the source (RFC 3339, nine decimals).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<String>,
    /// CRC-64/NVME of its bytes as S3 writes it: base64 of the eight bytes, most significant first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc64nvme: Option<String>,
    /// MD5, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// SHA-1, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha1: Option<String>,
    /// SHA-256, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// BLAKE3, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// The store's entity tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The store's version of the object, in buckets with versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// The store computed the CRC-64/NVME itself and it was this one.
    #[serde(default)]
    pub verified_by_store: bool,
    /// It was durable before this transfer and was not sent again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already: bool,
}

/// Why a line is none of a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON of a line.
    #[error("it is no JSON object of a file: {0}")]
    Json(#[from] serde_json::Error),
    /// A checksum or path in another form.
    #[error("'{0}' is not written as it should be")]
    Field(&'static str),
    /// Longer than any that is written.
    #[error("it has more than {MANIFEST_LINE_BYTES_MAX} bytes")]
    TooLong,
}

impl ManifestLine {
    /// Reads a line and checks its checksums and path.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(line: &[u8]) -> Result<Self, ManifestError> {
        if line.len() > MANIFEST_LINE_BYTES_MAX {
            return Err(ManifestError::TooLong);
        }
        let read: Self = serde_json::from_slice(line)?;
        read.path_bytes().ok_or(ManifestError::Field("path_base64"))?;
        for checksum in Checksum::ALL {
            if read.text(checksum).is_some() && read.checksum(checksum).is_none() {
                return Err(ManifestError::Field(checksum.name()));
            }
        }
        if read.crc64nvme.is_some() && read.crc64().is_none() {
            return Err(ManifestError::Field("crc64nvme"));
        }
        Ok(read)
    }

    /// A line of this path and key and no more. `text` and `key`: as they are to be written.
    #[must_use]
    pub fn named(path: &[u8], text: String, key: String) -> Self {
        let path_base64 = std::str::from_utf8(path).is_err().then(|| STANDARD.encode(path));
        Self { path: text, path_base64, key, ..Self::default() }
    }

    /// Bytes of the path below the destination.
    #[must_use]
    pub fn path_bytes(&self) -> Option<Vec<u8>> {
        match &self.path_base64 {
            Some(text) => STANDARD.decode(text).ok(),
            None => Some(self.path.clone().into_bytes()),
        }
    }

    /// CRC-64/NVME.
    #[must_use]
    pub fn crc64(&self) -> Option<u64> {
        let bytes = STANDARD.decode(self.crc64nvme.as_ref()?).ok()?;
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }

    /// Notes CRC-64/NVME.
    pub fn set_crc64(&mut self, crc: u64) {
        self.crc64nvme = Some(STANDARD.encode(crc.to_be_bytes()));
    }

    /// A checksum, if the line has it.
    #[must_use]
    pub fn checksum(&self, checksum: Checksum) -> Option<Vec<u8>> {
        from_hex(self.text(checksum)?).filter(|value| value.len() == checksum.bytes())
    }

    /// Takes over the checksums among an object's attributes.
    pub fn take_checksums(&mut self, attributes: &[(String, String)]) {
        for checksum in Checksum::ALL {
            let found = attributes.iter().find(|(name, _)| name == checksum.attribute());
            let value = found.and_then(|(_, text)| checksum.from_attribute(text)).map(|value| hex(&value));
            *self.slot(checksum) = value;
        }
    }

    fn text(&self, checksum: Checksum) -> Option<&str> {
        match checksum {
            Checksum::Md5 => &self.md5,
            Checksum::Sha1 => &self.sha1,
            Checksum::Sha256 => &self.sha256,
            Checksum::Blake3 => &self.blake3,
        }
        .as_deref()
    }

    fn slot(&mut self, checksum: Checksum) -> &mut Option<String> {
        match checksum {
            Checksum::Md5 => &mut self.md5,
            Checksum::Sha1 => &mut self.sha1,
            Checksum::Sha256 => &mut self.sha256,
            Checksum::Blake3 => &mut self.blake3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_with_the_checksums_of_the_metadata() {
        let mut line = ManifestLine { path: "a/\u{fc}".into(), key: "in/a/\u{fc}".into(), size: 3, ..ManifestLine::default() };
        line.set_crc64(0xae8b_1486_0a79_9888);
        let md5 = Checksum::Md5.attribute_value(&[7; 16]);
        line.take_checksums(&[("md5chksum".into(), md5), ("sha1".into(), "not it".into()), ("uid".into(), "0".into())]);
        assert_eq!((line.md5.as_deref(), &line.sha1), (Some("07070707070707070707070707070707"), &None));
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.contains(r#""crc64nvme":"rosUhgp5mIg=""#) && !text.contains("already"), "{text}");
        assert_eq!(ManifestLine::parse(text.as_bytes()).unwrap(), line);
    }

    #[test]
    fn what_is_no_line_is_refused() {
        assert!(ManifestLine::parse(br#"{"path":"a","size":1,"later":true}"#).is_ok(), "new fields are no error");
        for bad in [
            "",
            "[]",
            r#"{"path":"a"}"#,
            r#"{"path":"a","size":-1}"#,
            r#"{"path":"a","size":1,"sha256":"ab"}"#,
            r#"{"path":"a","size":1,"crc64nvme":"AAAA"}"#,
            r#"{"path":"a","size":1,"path_base64":"?"}"#,
        ] {
            assert!(ManifestLine::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
