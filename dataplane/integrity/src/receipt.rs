//! Receipts: what a server says of a transfer, signed, so that it can be shown to others.
//!
//! A receipt is two lines of JSON. The signature in the second (Ed25519, RFC 8032) is over the exact bytes of the first without its line end.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::hex;

/// What kind of document is signed; no other that this key signs says so.
const KIND: &str = "tradewind-receipt/1";
/// Longest receipt that is read, bytes.
const RECEIPT_BYTES_MAX: usize = 64 * 1024;
/// Before the key in its text form.
const KEY_PREFIX: &str = "ed25519:";

/// What a server says of a transfer that has ended well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// `tradewind-receipt/1`.
    pub kind: String,
    /// The transfer.
    pub transfer_id: String,
    /// Whose it was.
    pub user: String,
    /// Where to, as submitted.
    pub destination: String,
    /// Files that it made durable.
    pub files: u64,
    /// Bytes that it made durable.
    pub bytes: u64,
    /// When it was submitted (RFC 3339).
    pub started: String,
    /// When everything was durable (RFC 3339).
    pub finished: String,
    /// SHA-256 of its manifest, hexadecimal; without one, the manifest could not be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_sha256: Option<String>,
    /// Name and release of the server's program.
    pub server: String,
    /// [`PublicKey::id`] of the key that signed it.
    pub key_id: String,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    algorithm: String,
    key_id: String,
    signature: String,
}

/// Why a receipt is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// Not two lines of JSON.
    #[error("it is no receipt: {0}")]
    Form(String),
    /// Signed by another key.
    #[error("it names the key {named}, not {expected}; was it made by another server, or has that one a new key?")]
    OtherKey {
        /// In the receipt.
        named: String,
        /// Of the key that was given.
        expected: String,
    },
    /// The signature is not of these bytes and this key.
    #[error("its signature is wrong: it was changed, or another key than the given one signed it")]
    Signature,
    /// Not a key.
    #[error("a key is 'ed25519:' and 32 bytes as base64, as `tradewind receipt-key` prints it")]
    Key,
    /// The private key cannot be made or read.
    #[error("the signing key cannot be used: {0}")]
    SigningKey(String),
}

/// The key that checks receipts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Names the key: the first 8 bytes of its SHA-256, hexadecimal.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&digest(&SHA256, &self.0).as_ref()[..8])
    }

    /// Checks a receipt.
    ///
    /// # Errors
    /// [`ReceiptError`]: nothing in it can be believed.
    pub fn verify(&self, document: &str) -> Result<Receipt, ReceiptError> {
        let form = |reason: &str| ReceiptError::Form(reason.to_owned());
        if document.len() > RECEIPT_BYTES_MAX {
            return Err(form("it is too long"));
        }
        let (signed, rest) = document.split_once('\n').ok_or_else(|| form("it has not two lines"))?;
        let signature: Signature = serde_json::from_str(rest).map_err(|error| form(&error.to_string()))?;
        if signature.algorithm != "ed25519" {
            return Err(form("it is signed by something that is not ed25519"));
        }
        if signature.key_id != self.id() {
            return Err(ReceiptError::OtherKey { named: signature.key_id, expected: self.id() });
        }
        let bytes = STANDARD.decode(&signature.signature).map_err(|_| form("its signature is no base64"))?;
        UnparsedPublicKey::new(&ED25519, &self.0).verify(signed.as_bytes(), &bytes).map_err(|_| ReceiptError::Signature)?;
        let receipt: Receipt = serde_json::from_str(signed).map_err(|error| form(&error.to_string()))?;
        if receipt.kind == KIND { Ok(receipt) } else { Err(form("it says that it is something else")) }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KEY_PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.trim().strip_prefix(KEY_PREFIX).and_then(|text| STANDARD.decode(text).ok());
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(ReceiptError::Key)
    }
}

/// The key that signs them.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Makes a new one.
    ///
    /// # Errors
    /// [`ReceiptError::SigningKey`] without randomness.
    pub fn generate() -> Result<Self, ReceiptError> {
        Ed25519KeyPair::generate().map(Self).map_err(|error| ReceiptError::SigningKey(error.to_string()))
    }

    /// Reads PKCS#8 (RFC 5958, DER).
    ///
    /// # Errors
    /// [`ReceiptError::SigningKey`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, ReceiptError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Self).map_err(|error| ReceiptError::SigningKey(error.to_string()))
    }

    /// Writes PKCS#8, version 1, which openssl reads too. Secret.
    ///
    /// # Errors
    /// [`ReceiptError::SigningKey`].
    pub fn to_pkcs8(&self) -> Result<Vec<u8>, ReceiptError> {
        let document = self.0.to_pkcs8v1().map_err(|error| ReceiptError::SigningKey(error.to_string()))?;
        Ok(document.as_ref().to_vec())
    }

    /// The other half.
    ///
    /// # Panics
    /// Never: Ed25519 keys have 32 bytes.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// The document: `receipt` with kind and key filled in, and its signature.
    ///
    /// # Errors
    /// [`ReceiptError::Form`] when it cannot be written.
    pub fn sign(&self, receipt: Receipt) -> Result<String, ReceiptError> {
        let form = |error: serde_json::Error| ReceiptError::Form(error.to_string());
        let key_id = self.public().id();
        let signed = serde_json::to_string(&Receipt { kind: KIND.to_owned(), key_id: key_id.clone(), ..receipt }).map_err(form)?;
        let signature = STANDARD.encode(self.0.sign(signed.as_bytes()).as_ref());
        let signature = Signature { algorithm: "ed25519".to_owned(), key_id, signature };
        Ok(format!("{signed}\n{}\n", serde_json::to_string(&signature).map_err(form)?))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        Receipt {
            kind: String::new(),
            transfer_id: "t".into(),
            user: "u".into(),
            destination: "s3://bucket/in/".into(),
            files: 2,
            bytes: 3,
            started: "2026-01-01T00:00:00Z".into(),
            finished: "2026-01-01T00:00:01Z".into(),
            manifest_sha256: Some("ab".into()),
            server: "tradewindd".into(),
            key_id: String::new(),
        }
    }

    #[test]
    fn what_was_signed_is_believed_and_nothing_else() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
        assert_eq!(again.public(), key.public());
        let document = key.sign(receipt()).unwrap();
        assert_eq!(document, again.sign(receipt()).unwrap(), "the same every time");
        let public: PublicKey = key.public().to_string().parse().unwrap();
        assert_eq!(public.verify(&document).unwrap().files, 2);
        for changed in [document.replace("\"files\":2", "\"files\":3"), document.replace("\"user\":\"u\"", "\"user\": \"u\"")] {
            assert!(matches!(public.verify(&changed), Err(ReceiptError::Signature)), "{changed}");
        }
        assert!(matches!(public.verify("{}"), Err(ReceiptError::Form(_))));
        let other = SigningKey::generate().unwrap();
        assert!(matches!(other.public().verify(&document), Err(ReceiptError::OtherKey { .. })));
        let renamed = document.replace(&key.public().id(), &other.public().id());
        assert!(matches!(other.public().verify(&renamed), Err(ReceiptError::Signature)));
        for bad in ["", "ed25519:", "ed25519:AAAA", "rsa:AAAA"] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
    }
}
