//! Checksums of whole files beside CRC-64/NVME, and how metadata and manifests write them.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};

use crate::{from_hex, hex};

/// A checksum that a user may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Checksum {
    /// MD5 (RFC 1321): for what compares with others only; anybody can make two files of one MD5.
    Md5,
    /// SHA-1 (FIPS 180-4): the same holds.
    Sha1,
    /// SHA-256 (FIPS 180-4).
    Sha256,
    /// BLAKE3 with 32 bytes: the fastest of them.
    Blake3,
}

impl Checksum {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Blake3];

    /// As users and manifests call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        }
    }

    /// Its name in an object's metadata: rclone's for MD5.
    #[must_use]
    pub const fn attribute(self) -> &'static str {
        match self {
            Self::Md5 => "md5chksum",
            other => other.name(),
        }
    }

    /// Its length, bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
        }
    }

    /// Its value in an object's metadata: base64 for MD5, as rclone writes it, else hexadecimal digits.
    #[must_use]
    pub fn attribute_value(self, value: &[u8]) -> String {
        if self == Self::Md5 { STANDARD.encode(value) } else { hex(value) }
    }

    /// Reads [`Self::attribute_value`]; `None` for anything else.
    #[must_use]
    pub fn from_attribute(self, text: &str) -> Option<Vec<u8>> {
        let value = if self == Self::Md5 { STANDARD.decode(text).ok() } else { from_hex(text) };
        value.filter(|value| value.len() == self.bytes())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Checksum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|checksum| checksum.name() == text);
        known.ok_or_else(|| format!("'{text}' is no checksum; there are sha256, blake3, sha1 and md5"))
    }
}

/// Several checksums of the same bytes in one pass.
pub struct Digests(Vec<(Checksum, Hasher)>);

enum Hasher {
    Md5(Md5),
    AwsLc(Context),
    Blake3(Box<blake3::Hasher>),
}

impl Digests {
    /// Begins with no bytes.
    #[must_use]
    pub fn new(checksums: impl IntoIterator<Item = Checksum>) -> Self {
        let begin = |checksum| {
            let hasher = match checksum {
                Checksum::Md5 => Hasher::Md5(Md5::new()),
                Checksum::Sha1 => Hasher::AwsLc(Context::new(&SHA1_FOR_LEGACY_USE_ONLY)),
                Checksum::Sha256 => Hasher::AwsLc(Context::new(&SHA256)),
                Checksum::Blake3 => Hasher::Blake3(Box::new(blake3::Hasher::new())),
            };
            (checksum, hasher)
        };
        Self(checksums.into_iter().map(begin).collect())
    }

    /// Goes on with these bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for (_, hasher) in &mut self.0 {
            match hasher {
                Hasher::Md5(hasher) => hasher.update(bytes),
                Hasher::AwsLc(hasher) => hasher.update(bytes),
                Hasher::Blake3(hasher) => drop(hasher.update(bytes)),
            }
        }
    }

    /// The values, in the order they were asked for.
    #[must_use]
    pub fn finish(self) -> Vec<(Checksum, Vec<u8>)> {
        let value = |hasher| match hasher {
            Hasher::Md5(hasher) => hasher.finalize().to_vec(),
            Hasher::AwsLc(hasher) => hasher.finish().as_ref().to_vec(),
            Hasher::Blake3(hasher) => hasher.finalize().as_bytes().to_vec(),
        };
        self.0.into_iter().map(|(checksum, hasher)| (checksum, value(hasher))).collect()
    }
}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(checksum, _)| checksum)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values_of_abc_in_one_pass() {
        let mut digests = Digests::new(Checksum::ALL);
        digests.update(b"a");
        digests.update(b"bc");
        let values: Vec<String> = digests.finish().iter().map(|(_, value)| hex(value)).collect();
        // RFC 1321 A.5, FIPS 180-4 examples, BLAKE3 reference implementation.
        assert_eq!(
            values,
            [
                "900150983cd24fb0d6963f7d28e17f72",
                "a9993e364706816aba3e25717850c26c9cd0d89d",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
            ]
        );
    }

    #[test]
    fn metadata_forms_come_back_and_nothing_else_is_taken() {
        for checksum in Checksum::ALL {
            let mut digests = Digests::new([checksum]);
            digests.update(b"x");
            let (_, value) = digests.finish().remove(0);
            let text = checksum.attribute_value(&value);
            assert_eq!(checksum.from_attribute(&text), Some(value));
            for bad in ["", "zz", &text[1..], &format!("{text}00")] {
                assert_eq!(checksum.from_attribute(bad), None, "{checksum} {bad}");
            }
            assert_eq!(checksum.name().parse(), Ok(checksum));
        }
        assert_eq!(Checksum::Md5.attribute_value(&[0; 16]), "AAAAAAAAAAAAAAAAAAAAAA==");
        assert!("sha512".parse::<Checksum>().is_err());
    }
}
