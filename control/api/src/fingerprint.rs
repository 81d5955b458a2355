//! A server's identity: the SHA-256 of its public key.

use std::fmt;
use std::str::FromStr;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use sha2::{Digest, Sha256};

const PREFIX: &str = "SHA256:";

/// SHA-256 of a certificate's SubjectPublicKeyInfo (DER), the pin of RFC 7469 §2.4. Written `SHA256:` and unpadded base64, as
/// ssh does. A renewed certificate with the same key has the same fingerprint.
///
/// `openssl x509 -in cert.pem -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64`
/// prints the same (with padding).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// A text that is no fingerprint, or a certificate without a key.
#[derive(Debug, thiserror::Error)]
pub enum FingerprintError {
    /// Not `SHA256:` and 43 base64 characters.
    #[error("'{0}' is not a fingerprint: expected SHA256: and 43 base64 characters, as `tradewindd --fingerprint` prints it")]
    Text(String),
    /// The certificate does not parse.
    #[error("the server's certificate does not parse: {0}")]
    Certificate(#[from] rustls::Error),
}

impl Fingerprint {
    /// Fingerprint of a public key.
    #[must_use]
    pub fn of_public_key(spki_der: &[u8]) -> Self {
        Self(Sha256::digest(spki_der).into())
    }

    /// Fingerprint of a certificate's public key.
    ///
    /// # Errors
    /// [`FingerprintError::Certificate`].
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, FingerprintError> {
        Ok(Self::of_public_key(&ParsedCertificate::try_from(certificate)?.subject_public_key_info()))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    /// Accepts base64 with and without padding.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || FingerprintError::Text(text.chars().take(80).collect());
        let encoded = text.trim().strip_prefix(PREFIX).ok_or_else(wrong)?;
        let encoded = encoded.strip_suffix('=').unwrap_or(encoded);
        let bytes = STANDARD_NO_PAD.decode(encoded).map_err(|_| wrong())?;
        Ok(Self(bytes.try_into().map_err(|_| wrong())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::PublicKeyData as _;

    #[test]
    fn certificate_and_its_key_have_one_fingerprint() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let of_key = Fingerprint::of_public_key(&made.signing_key.subject_public_key_info());
        assert_eq!(Fingerprint::of_certificate(made.cert.der()).unwrap(), of_key);
        assert!(Fingerprint::of_certificate(&CertificateDer::from(vec![0x30, 0])).is_err());
    }

    #[test]
    fn text_goes_both_ways_and_wrong_lengths_fail() {
        let print = Fingerprint::of_public_key(b"key");
        let text = print.to_string();
        assert_eq!(text.parse::<Fingerprint>().unwrap(), print);
        assert_eq!(format!("{text}=").parse::<Fingerprint>().unwrap(), print);
        for wrong in ["", "SHA256:", &text[7..], &text[..text.len() - 1], &format!("{text}A"), "MD5:aa"] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }
}
