//! The checksums of what is sent, computed in the pass in which that of the source is checked again.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use md5::{Digest as _, Md5};

use crate::checksum::{Crc64, RunningCrc64};

/// Of the same bytes. Hexadecimal.
#[derive(Clone, Debug)]
pub(super) struct Digests {
    /// What NetStorage tells of an object.
    pub(super) md5: String,
    /// What it is asked to verify.
    pub(super) sha256: String,
    pub(super) crc: Crc64,
}

/// Checksums under way.
pub(super) struct Digesting {
    md5: Md5,
    sha256: Context,
    crc: RunningCrc64,
}

impl Default for Digesting {
    fn default() -> Self {
        Self { md5: Md5::new(), sha256: Context::new(&SHA256), crc: RunningCrc64::default() }
    }
}

impl Digesting {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sha256.update(bytes);
        self.crc.update(bytes);
    }

    pub(super) fn finish(self) -> Digests {
        Digests { md5: hex(&self.md5.finalize()), sha256: hex(self.sha256.finish().as_ref()), crc: self.crc.finish() }
    }
}

impl Digests {
    pub(super) fn of(chunks: &[Bytes]) -> Self {
        let mut digesting = Digesting::default();
        chunks.iter().for_each(|chunk| digesting.update(chunk));
        digesting.finish()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1321 and FIPS 180-4: "abc".
    #[test]
    fn published_values() {
        let digests = Digests::of(&[Bytes::from_static(b"a"), Bytes::from_static(b"bc")]);
        assert_eq!(digests.md5, "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(digests.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digests.crc, Crc64::of(b"abc"));
    }
}
