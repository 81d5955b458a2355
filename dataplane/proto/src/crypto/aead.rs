//! Two independent AES-GCM implementations behind one type; each writes straight to its destination.

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use tradewind_wire::limits::TAG_BYTES;

use super::CipherSuite;

/// Who does the arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Provider {
    /// aws-lc-rs: assembly with VAES and AVX-512 where the CPU has them.
    #[default]
    AwsLc,
    /// RustCrypto `aes-gcm`: pure Rust; the oracle of the differential test, and the choice where no C compiler may run.
    RustCrypto,
}

/// The packet does not authenticate, or its lengths are impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthError;

enum Inner {
    AwsLc(LessSafeKey),
    Rust128(Box<Aes128Gcm>),
    Rust256(Box<Aes256Gcm>),
}

/// An AES-GCM key. Not printable; dropped keys are wiped by their provider.
pub struct Key(Inner);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(redacted)")
    }
}

impl Key {
    /// A key from its bytes; `None` if their number does not fit the suite.
    #[must_use]
    pub fn new(provider: Provider, suite: CipherSuite, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != suite.key_bytes() {
            return None;
        }
        let inner = match (provider, suite) {
            (Provider::AwsLc, CipherSuite::Aes128Gcm) => Inner::AwsLc(LessSafeKey::new(UnboundKey::new(&AES_128_GCM, bytes).ok()?)),
            (Provider::AwsLc, CipherSuite::Aes256Gcm) => Inner::AwsLc(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).ok()?)),
            (Provider::RustCrypto, CipherSuite::Aes128Gcm) => Inner::Rust128(Box::new(Aes128Gcm::new_from_slice(bytes).ok()?)),
            (Provider::RustCrypto, CipherSuite::Aes256Gcm) => Inner::Rust256(Box::new(Aes256Gcm::new_from_slice(bytes).ok()?)),
        };
        Some(Self(inner))
    }

    /// Encrypts `plaintext` into `out`, which takes the ciphertext and then the tag: `plaintext.len() + 16` bytes.
    ///
    /// # Errors
    /// [`AuthError`] if `out` has another length.
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), AuthError> {
        if out.len() != plaintext.len() + TAG_BYTES {
            return Err(AuthError);
        }
        let (ciphertext, tag) = out.split_at_mut(plaintext.len());
        match &self.0 {
            Inner::AwsLc(key) => key
                .seal_out_of_place_scatter(Nonce::assume_unique_for_key(nonce), Aad::from(aad), plaintext, ciphertext, &[], tag)
                .map_err(|_| AuthError),
            Inner::Rust128(key) => seal_rust(key.as_ref(), nonce, aad, plaintext, ciphertext, tag),
            Inner::Rust256(key) => seal_rust(key.as_ref(), nonce, aad, plaintext, ciphertext, tag),
        }
    }

    /// Decrypts `sealed` (ciphertext, then tag) into `out` of exactly the plaintext's length.
    ///
    /// # Errors
    /// [`AuthError`] if the tag does not match or the lengths do not; `out` may then hold anything.
    pub fn open(&self, nonce: [u8; 12], aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<(), AuthError> {
        let split = sealed.len().checked_sub(TAG_BYTES).ok_or(AuthError)?;
        if out.len() != split {
            return Err(AuthError);
        }
        let (ciphertext, tag) = sealed.split_at(split);
        match &self.0 {
            Inner::AwsLc(key) => {
                key.open_separate_gather(Nonce::assume_unique_for_key(nonce), Aad::from(aad), ciphertext, tag, out).map_err(|_| AuthError)
            }
            Inner::Rust128(key) => open_rust(key.as_ref(), nonce, aad, ciphertext, tag, out),
            Inner::Rust256(key) => open_rust(key.as_ref(), nonce, aad, ciphertext, tag, out),
        }
    }
}

fn seal_rust<A>(key: &A, nonce: [u8; 12], aad: &[u8], plaintext: &[u8], ciphertext: &mut [u8], tag: &mut [u8]) -> Result<(), AuthError>
where
    A: AeadInOut<NonceSize = aes_gcm::aead::consts::U12, TagSize = aes_gcm::aead::consts::U16>,
{
    let buffer = InOutBuf::new(plaintext, ciphertext).map_err(|_| AuthError)?;
    let computed = key.encrypt_inout_detached(&nonce.into(), aad, buffer).map_err(|_| AuthError)?;
    tag.copy_from_slice(&computed);
    Ok(())
}

fn open_rust<A>(key: &A, nonce: [u8; 12], aad: &[u8], ciphertext: &[u8], tag: &[u8], out: &mut [u8]) -> Result<(), AuthError>
where
    A: AeadInOut<NonceSize = aes_gcm::aead::consts::U12, TagSize = aes_gcm::aead::consts::U16>,
{
    let tag: [u8; TAG_BYTES] = tag.try_into().map_err(|_| AuthError)?;
    let buffer = InOutBuf::new(ciphertext, out).map_err(|_| AuthError)?;
    key.decrypt_inout_detached(&nonce.into(), aad, buffer, &tag.into()).map_err(|_| AuthError)
}
