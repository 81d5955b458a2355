//! Master keys: where they come from, and the keys that follow from them.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM_SIV, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256};
use aws_lc_rs::{digest, hmac, rand};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use crate::error::SealError;

/// Bytes of a salt.
pub const SALT_BYTES: usize = 16;
/// Bytes of what tells one file from another; see [`identity`].
pub const IDENTITY_BYTES: usize = 16;
/// Bytes of every key.
pub(crate) const KEY_BYTES: usize = 32;
/// Bytes of a nonce of AES-GCM-SIV (RFC 8452).
pub(crate) const NONCE_BYTES: usize = 12;
/// Salt of the key derivation: whatever else uses the same 32 bytes gets other keys.
const DOMAIN: &[u8] = b"tradewind-seal-1";

/// Random bytes that make equal passphrases of different users different keys. Not secret: it stands in every header.
pub type Salt = [u8; SALT_BYTES];

/// What a passphrase costs to try: Argon2id (RFC 9106), version 0x13.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KdfParameters {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl KdfParameters {
    /// The second choice of RFC 9106, section 4, for where 2 GiB are too much: 64 MiB, 3 passes, 4 lanes.
    pub const RECOMMENDED: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
    /// Memory at most, KiB: 1 GiB. A header of unknown origin cannot ask for more.
    pub const MEMORY_KIB_MAX: u32 = 1024 * 1024;
    /// Lanes at most.
    pub const LANES_MAX: u32 = 16;
    /// Memory times passes at most, KiB: 4 GiB, some seconds of work.
    pub const WORK_KIB_MAX: u64 = 4 * 1024 * 1024;

    /// Memory in KiB (at least 8 for each lane), passes over it, lanes.
    ///
    /// # Errors
    /// [`SealError::Cost`] outside the limits.
    pub const fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, SealError> {
        let fits = lanes >= 1
            && lanes <= Self::LANES_MAX
            && passes >= 1
            && memory_kib >= 8 * lanes
            && memory_kib <= Self::MEMORY_KIB_MAX
            && memory_kib as u64 * passes as u64 <= Self::WORK_KIB_MAX;
        if fits { Ok(Self { memory_kib, passes, lanes }) } else { Err(SealError::Cost { memory_kib, passes, lanes }) }
    }

    /// Memory, KiB.
    #[must_use]
    pub const fn memory_kib(&self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    #[must_use]
    pub const fn passes(&self) -> u32 {
        self.passes
    }

    /// Lanes.
    #[must_use]
    pub const fn lanes(&self) -> u32 {
        self.lanes
    }
}

/// A passphrase, exactly the bytes given. Wiped when dropped.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes the bytes over.
    ///
    /// # Errors
    /// [`SealError::EmptyPassphrase`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, SealError> {
        let bytes = Zeroizing::new(bytes);
        if bytes.is_empty() { Err(SealError::EmptyPassphrase) } else { Ok(Self(bytes)) }
    }
}

impl PartialEq for Passphrase {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// Names a master key without telling anything about it. Files with the same id were sealed with the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; Self::BYTES]);

impl KeyId {
    /// Bytes of an id.
    pub const BYTES: usize = 16;

    pub(crate) const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// As it stands in the header.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// Where a master key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// 32 random bytes in a file.
    KeyFile,
    /// A passphrase, what it costs, and its salt.
    Passphrase(KdfParameters, Salt),
}

/// The key that all files of a user are sealed with. Wiped when dropped.
pub struct MasterKey {
    source: KeySource,
    id: KeyId,
    prk: hkdf::Prk,
    pub(crate) wrap: LessSafeKey,
    pub(crate) names: LessSafeKey,
    pub(crate) name_nonces: hmac::Key,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("source", &self.source).field("id", &self.id).finish_non_exhaustive()
    }
}

impl MasterKey {
    /// From a passphrase. Takes the time and the memory that `cost` says.
    ///
    /// # Errors
    /// [`SealError::System`] if there is not enough memory.
    pub fn from_passphrase(passphrase: &Passphrase, cost: &KdfParameters, salt: &Salt) -> Result<Self, SealError> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(KEY_BYTES)).map_err(|_| SealError::Cost {
            memory_kib: cost.memory_kib,
            passes: cost.passes,
            lanes: cost.lanes,
        })?;
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(&passphrase.0, salt, secret.as_mut_slice())
            .map_err(|_| SealError::System("not enough memory for the passphrase's key; free some and try again"))?;
        Self::new(KeySource::Passphrase(*cost, *salt), &secret)
    }

    /// From 32 random bytes: those of a key file. [`read_key_file`](crate::read_key_file) reads one.
    ///
    /// # Errors
    /// [`SealError::System`] if the cryptographic library fails.
    pub fn from_bytes(secret: &Zeroizing<[u8; 32]>) -> Result<Self, SealError> {
        Self::new(KeySource::KeyFile, secret)
    }

    fn new(source: KeySource, secret: &Zeroizing<[u8; KEY_BYTES]>) -> Result<Self, SealError> {
        let prk = hkdf::Salt::new(HKDF_SHA256, DOMAIN).extract(secret.as_slice());
        Ok(Self {
            source,
            id: KeyId(*derive(&prk, &[b"key id"])?),
            wrap: aead_key(&derive(&prk, &[b"wrap"])?)?,
            names: aead_key(&derive(&prk, &[b"names"])?)?,
            name_nonces: hmac::Key::new(hmac::HMAC_SHA256, derive::<KEY_BYTES>(&prk, &[b"name nonces"])?.as_slice()),
            prk,
        })
    }

    /// Its name. Another passphrase, another salt or another cost is another id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Where it comes from.
    #[must_use]
    pub const fn source(&self) -> &KeySource {
        &self.source
    }

    /// The key of one file.
    pub(crate) fn file_key(&self, identity: &[u8; IDENTITY_BYTES], plain_bytes: u64) -> Result<Zeroizing<[u8; KEY_BYTES]>, SealError> {
        derive(&self.prk, &[b"file", identity, &plain_bytes.to_be_bytes()])
    }

    /// The nonce that the key of one file is wrapped with.
    pub(crate) fn wrap_nonce(&self, identity: &[u8; IDENTITY_BYTES], plain_bytes: u64) -> Result<[u8; NONCE_BYTES], SealError> {
        derive(&self.prk, &[b"wrap nonce", identity, &plain_bytes.to_be_bytes()]).map(|nonce| *nonce)
    }
}

/// Tells one version of one file from all others: the first half of SHA-256 over size in bytes, modification time in ns since 1970, and
/// name. It decides the file's key and stands nowhere in the sealed file.
#[must_use]
pub fn identity(name: &[u8], plain_bytes: u64, modified_ns: i64) -> [u8; IDENTITY_BYTES] {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&plain_bytes.to_be_bytes());
    hash.update(&modified_ns.to_be_bytes());
    hash.update(name);
    first_half(hash.finish().as_ref())
}

/// An identity for what is sealed only once, so that sealing it again need not give the same bytes.
///
/// # Errors
/// [`SealError::System`] if the system gives no random numbers.
pub fn random_identity() -> Result<[u8; IDENTITY_BYTES], SealError> {
    random()
}

/// A salt for a new user.
///
/// # Errors
/// [`SealError::System`] if the system gives no random numbers.
pub fn random_salt() -> Result<Salt, SealError> {
    random()
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| SealError::System("the system gives no random numbers"))?;
    Ok(bytes)
}

pub(crate) fn aead_key(key: &Zeroizing<[u8; KEY_BYTES]>) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM_SIV, key.as_slice())
        .map(LessSafeKey::new)
        .map_err(|_| SealError::System("AES-256-GCM-SIV is not available"))
}

fn first_half(hash: &[u8]) -> [u8; IDENTITY_BYTES] {
    let mut half = [0; IDENTITY_BYTES];
    half.copy_from_slice(&hash[..IDENTITY_BYTES]);
    half
}

/// HKDF-Expand (RFC 5869). What is put together here is never the same for two purposes: labels differ, and those with something behind
/// them are longer than all others.
fn derive<const N: usize>(prk: &hkdf::Prk, info: &[&[u8]]) -> Result<Zeroizing<[u8; N]>, SealError> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut key = Zeroizing::new([0; N]);
    prk.expand(info, Length(N)).and_then(|okm| okm.fill(key.as_mut_slice())).map_err(|_| SealError::System("HKDF-SHA256 failed"))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: KdfParameters = KdfParameters { memory_kib: 8, passes: 1, lanes: 1 };

    fn key(passphrase: &str, cost: &KdfParameters, salt: &Salt) -> MasterKey {
        MasterKey::from_passphrase(&Passphrase::new(passphrase.as_bytes().to_vec()).unwrap(), cost, salt).unwrap()
    }

    #[test]
    fn costs_outside_the_limits_are_refused() {
        assert_eq!(KdfParameters::new(64 * 1024, 3, 4).unwrap(), KdfParameters::RECOMMENDED);
        for (memory_kib, passes, lanes) in [(8, 1, 1), (1 << 20, 4, 1), (1 << 18, 16, 16), (128, 32_768, 16)] {
            KdfParameters::new(memory_kib, passes, lanes).unwrap();
        }
        for (memory_kib, passes, lanes) in [
            (7, 1, 1),
            (15, 1, 2),
            (8, 0, 1),
            (8, 1, 0),
            ((1 << 20) + 1, 1, 1),
            (1 << 20, 5, 1),
            (136, 1, 17),
            (8, u32::MAX, 1),
            (u32::MAX, 1, 1),
        ] {
            let refused = KdfParameters::new(memory_kib, passes, lanes);
            assert!(matches!(refused, Err(SealError::Cost { .. })), "{memory_kib} {passes} {lanes}");
        }
    }

    #[test]
    fn whatever_differs_gives_another_id() {
        let first = key("correct horse", &CHEAP, &[7; 16]);
        assert_eq!(first.id(), key("correct horse", &CHEAP, &[7; 16]).id());
        let others = [
            key("correct horsf", &CHEAP, &[7; 16]).id(),
            key("correct horse ", &CHEAP, &[7; 16]).id(),
            key("correct horse", &CHEAP, &[8; 16]).id(),
            key("correct horse", &KdfParameters { passes: 2, ..CHEAP }, &[7; 16]).id(),
            MasterKey::from_bytes(&Zeroizing::new([7; 32])).unwrap().id(),
        ];
        for (index, id) in others.iter().enumerate() {
            assert_ne!(*id, first.id(), "{index}");
        }
    }

    #[test]
    fn nothing_prints_a_secret() {
        let passphrase = Passphrase::new(b"hunter2".to_vec()).unwrap();
        let master = MasterKey::from_bytes(&Zeroizing::new([0xab; 32])).unwrap();
        let text = format!("{passphrase:?} {master:?}");
        assert!(!text.contains("hunter2") && !text.contains("171, 171") && !text.contains("abab"), "{text}");
        assert!(text.contains(&master.id().to_string()), "{text}");
        assert!(matches!(Passphrase::new(Vec::new()), Err(SealError::EmptyPassphrase)));
    }

    #[test]
    fn identities_tell_name_size_and_time_apart() {
        let first = identity(b"a", 1, 2);
        assert_eq!(first, identity(b"a", 1, 2));
        for other in [identity(b"b", 1, 2), identity(b"a", 2, 2), identity(b"a", 1, 3), identity(b"", 1, 2)] {
            assert_ne!(first, other);
        }
        assert_ne!(random_identity().unwrap(), random_identity().unwrap());
    }
}
