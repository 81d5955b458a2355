//! What proves that files arrived as they were: checksums, their form in metadata, manifests and signed receipts. No I/O.
//!
//! Both ends and both processes of the server share these forms; docs/spec/metadata.md is their description for users.
#![forbid(unsafe_code)]

mod digest;
mod manifest;
mod receipt;
pub mod time;
pub mod xattr;

pub use digest::{Checksum, Digests};
pub use manifest::{MANIFEST_LINE_BYTES_MAX, ManifestError, ManifestLine};
pub use receipt::{PublicKey, Receipt, ReceiptError, SigningKey};

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads hexadecimal digits of either case; `None` for anything else.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
