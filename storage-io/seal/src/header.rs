//! The header: everything that is needed to open the file, but for the key.

use aws_lc_rs::aead::{Aad, Nonce};
use aws_lc_rs::digest;
use zeroize::{Zeroize, Zeroizing};

use crate::error::SealError;
use crate::key::{IDENTITY_BYTES, KEY_BYTES, KdfParameters, KeyId, KeySource, MasterKey, NONCE_BYTES, SALT_BYTES};
use crate::layout::{HEADER_BYTES, PLAIN_BYTES_MAX, TAG_BYTES, sealed_size};

/// Bytes that every sealed file begins with.
pub(crate) const MAGIC: &[u8; 16] = b"tradewind-sealed";
const VERSION: u16 = 1;

/// `source` of a header. Constants, for the byte comes from outside.
mod source {
    pub(super) const KEY_FILE: u8 = 1;
    pub(super) const PASSPHRASE: u8 = 2;
}

/// Where the fields begin; `docs/spec/sealed-format.md`, section 2.
mod at {
    pub(super) const VERSION: usize = 16;
    pub(super) const SOURCE: usize = 18;
    pub(super) const RESERVED: usize = 19;
    pub(super) const MEMORY: usize = 20;
    pub(super) const PASSES: usize = 24;
    pub(super) const LANES: usize = 28;
    pub(super) const SALT: usize = 32;
    pub(super) const KEY_ID: usize = 48;
    pub(super) const NONCE: usize = 64;
    pub(super) const ZERO: usize = 76;
    pub(super) const PLAIN_BYTES: usize = 80;
    /// All before is authenticated by the wrap.
    pub(super) const WRAPPED: usize = 88;
    pub(super) const TAG: usize = WRAPPED + super::KEY_BYTES;
    pub(super) const CHECKSUM: usize = TAG + super::TAG_BYTES;
}

const _: () = assert!(at::CHECKSUM + 8 == HEADER_BYTES);

/// A header that is well-formed. Only a key tells whether it is genuine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; HEADER_BYTES],
    source: KeySource,
    key_id: KeyId,
    plain_bytes: u64,
}

impl Header {
    /// Parses the first [`HEADER_BYTES`] of a file; more may follow. Needs no key and does no costly work.
    ///
    /// # Errors
    /// [`SealError::NotSealed`], [`SealError::Version`], [`SealError::HeaderDamaged`], [`SealError::Cost`].
    pub fn parse(file: &[u8]) -> Result<Self, SealError> {
        if !file.starts_with(MAGIC) {
            return Err(SealError::NotSealed);
        }
        let bytes = *file.first_chunk::<HEADER_BYTES>().ok_or(SealError::HeaderDamaged("it is cut off"))?;
        let version = u16::from_be_bytes(field(&bytes, at::VERSION));
        // Only accidents are found by the checksum; it tells them from a wrong passphrase before that costs time.
        if checksum(&bytes) != field(&bytes, at::CHECKSUM) {
            return Err(SealError::HeaderDamaged("its checksum is wrong"));
        }
        if version != VERSION {
            return Err(SealError::Version(version));
        }
        let word = |at| u32::from_be_bytes(field(&bytes, at));
        let source = match bytes[at::SOURCE] {
            source::PASSPHRASE => {
                let cost = KdfParameters::new(word(at::MEMORY), word(at::PASSES), word(at::LANES))?;
                KeySource::Passphrase(cost, field(&bytes, at::SALT))
            }
            source::KEY_FILE if bytes[at::MEMORY..at::KEY_ID].iter().all(|&byte| byte == 0) => KeySource::KeyFile,
            _ => return Err(SealError::HeaderDamaged("the kind of its key is unknown")),
        };
        if bytes[at::RESERVED] != 0 || word(at::ZERO) != 0 {
            return Err(SealError::HeaderDamaged("what must be zero is not"));
        }
        let plain_bytes = u64::from_be_bytes(field(&bytes, at::PLAIN_BYTES));
        if plain_bytes > PLAIN_BYTES_MAX {
            return Err(SealError::HeaderDamaged("it tells of more bytes than there can be"));
        }
        Ok(Self { bytes, source, key_id: KeyId::new(field(&bytes, at::KEY_ID)), plain_bytes })
    }

    /// The header of a new file, and the file's key.
    pub(crate) fn new(
        master: &MasterKey,
        identity: &[u8; IDENTITY_BYTES],
        plain_bytes: u64,
    ) -> Result<(Self, Zeroizing<[u8; KEY_BYTES]>), SealError> {
        if plain_bytes > PLAIN_BYTES_MAX {
            return Err(SealError::TooLarge(plain_bytes));
        }
        let nonce = master.wrap_nonce(identity, plain_bytes)?;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..at::VERSION].copy_from_slice(MAGIC);
        put(&mut bytes, at::VERSION, &VERSION.to_be_bytes());
        match master.source() {
            KeySource::KeyFile => bytes[at::SOURCE] = source::KEY_FILE,
            KeySource::Passphrase(cost, salt) => {
                bytes[at::SOURCE] = source::PASSPHRASE;
                put(&mut bytes, at::MEMORY, &cost.memory_kib().to_be_bytes());
                put(&mut bytes, at::PASSES, &cost.passes().to_be_bytes());
                put(&mut bytes, at::LANES, &cost.lanes().to_be_bytes());
                put(&mut bytes, at::SALT, salt);
            }
        }
        put(&mut bytes, at::KEY_ID, master.id().as_bytes());
        put(&mut bytes, at::NONCE, &nonce);
        put(&mut bytes, at::PLAIN_BYTES, &plain_bytes.to_be_bytes());

        let key = master.file_key(identity, plain_bytes)?;
        let (clear, rest) = bytes.split_at_mut(at::WRAPPED);
        let wrapped = &mut rest[..KEY_BYTES];
        wrapped.copy_from_slice(key.as_slice());
        let tag = match master.wrap.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(clear), wrapped) {
            Ok(tag) => tag,
            Err(_) => {
                wrapped.zeroize();
                return Err(SealError::System("the file's key could not be wrapped"));
            }
        };
        put(&mut bytes, at::TAG, tag.as_ref());
        let sum = checksum(&bytes);
        put(&mut bytes, at::CHECKSUM, &sum);
        Ok((Self { bytes, source: *master.source(), key_id: master.id(), plain_bytes }, key))
    }

    /// The file's key. The master key must be the one that the header names.
    pub(crate) fn unwrap(&self, master: &MasterKey) -> Result<Zeroizing<[u8; KEY_BYTES]>, SealError> {
        let mut wrapped = Zeroizing::new([0; KEY_BYTES + TAG_BYTES]);
        wrapped.copy_from_slice(&self.bytes[at::WRAPPED..at::CHECKSUM]);
        let nonce = Nonce::assume_unique_for_key(field::<NONCE_BYTES>(&self.bytes, at::NONCE));
        let opened = master
            .wrap
            .open_in_place(nonce, Aad::from(&self.bytes[..at::WRAPPED]), wrapped.as_mut_slice())
            .map_err(|_| SealError::HeaderDamaged("it is not what was written with this key"))?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        key.copy_from_slice(opened);
        Ok(key)
    }

    /// The bytes as they stand in the file.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HEADER_BYTES] {
        &self.bytes
    }

    /// What opens the file.
    #[must_use]
    pub const fn source(&self) -> &KeySource {
        &self.source
    }

    /// Which key opens the file.
    #[must_use]
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Size of the contents as the header tells it, bytes; genuine once the file is open.
    #[must_use]
    pub const fn plain_size(&self) -> u64 {
        self.plain_bytes
    }

    /// Size of the sealed file, bytes.
    #[must_use]
    pub const fn sealed_size(&self) -> u64 {
        match sealed_size(self.plain_bytes) {
            Some(size) => size,
            // Both ways to a header compare the size with the largest.
            None => u64::MAX,
        }
    }
}

const _: () = assert!(SALT_BYTES == at::KEY_ID - at::SALT && KeyId::BYTES == at::NONCE - at::KEY_ID);

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

fn put(bytes: &mut [u8; HEADER_BYTES], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// The first eight bytes of SHA-256 over all before.
fn checksum(bytes: &[u8; HEADER_BYTES]) -> [u8; 8] {
    let hash = digest::digest(&digest::SHA256, &bytes[..at::CHECKSUM]);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hash.as_ref()[..8]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(master: &MasterKey) -> Header {
        Header::new(master, &[3; 16], 70_000).unwrap().0
    }

    fn key_file_key() -> MasterKey {
        MasterKey::from_bytes(&Zeroizing::new([9; 32])).unwrap()
    }

    /// As somebody would write it who knows the format and not the key.
    fn forged(header: &Header, change: impl FnOnce(&mut [u8; HEADER_BYTES])) -> [u8; HEADER_BYTES] {
        let mut bytes = *header.as_bytes();
        change(&mut bytes);
        let sum = checksum(&bytes);
        put(&mut bytes, at::CHECKSUM, &sum);
        bytes
    }

    #[test]
    fn a_header_comes_back() {
        let master = key_file_key();
        let (header, key) = Header::new(&master, &[3; 16], 70_000).unwrap();
        let read = Header::parse(&[header.as_bytes().as_slice(), b"more"].concat()).unwrap();
        assert_eq!((read, read.plain_size(), read.key_id()), (header, 70_000, master.id()));
        assert_eq!(*read.unwrap(&master).unwrap(), *key);
        assert!(matches!(Header::new(&master, &[3; 16], PLAIN_BYTES_MAX + 1), Err(SealError::TooLarge(_))));
    }

    #[test]
    fn each_flipped_bit_is_damage_and_not_a_wrong_key() {
        let master = key_file_key();
        let good = header(&master);
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = *good.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match Header::parse(&bytes) {
                Err(SealError::NotSealed) if bit < 128 => {}
                Err(SealError::HeaderDamaged(_)) if bit >= 128 => {}
                other => panic!("bit {bit}: {other:?}"),
            }
        }
        assert!(matches!(Header::parse(&good.as_bytes()[..143]), Err(SealError::HeaderDamaged(_))));
        assert!(matches!(Header::parse(b"tradewind-seale"), Err(SealError::NotSealed)));
    }

    #[test]
    fn each_bit_is_authenticated_also_where_the_checksum_was_made_again() {
        let master = key_file_key();
        let good = header(&master);
        for bit in 128..at::CHECKSUM * 8 {
            let bytes = forged(&good, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let opened = Header::parse(&bytes).and_then(|header| {
                // A ring that finds no key with this id ends there.
                if header.key_id() == master.id() { header.unwrap(&master) } else { Err(SealError::WrongKeyFile(header.key_id())) }
            });
            assert!(opened.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn hostile_headers_are_refused_before_they_cost_anything() {
        let cost = KdfParameters::new(8, 1, 1).unwrap();
        let passphrase = crate::Passphrase::new(b"x".to_vec()).unwrap();
        let good = header(&MasterKey::from_passphrase(&passphrase, &cost, &[5; 16]).unwrap());
        let word = |at: usize, value: u32| forged(&good, |bytes| put(bytes, at, &value.to_be_bytes()));
        for bytes in [
            word(at::MEMORY, u32::MAX),
            word(at::MEMORY, KdfParameters::MEMORY_KIB_MAX + 1),
            word(at::MEMORY, 7),
            word(at::MEMORY, 0),
            word(at::PASSES, u32::MAX),
            word(at::PASSES, 0),
            word(at::LANES, 0),
            word(at::LANES, 17),
        ] {
            assert!(matches!(Header::parse(&bytes), Err(SealError::Cost { .. })));
        }
        let version = forged(&good, |bytes| bytes[at::VERSION + 1] = 2);
        assert!(matches!(Header::parse(&version), Err(SealError::Version(2))));
        for bytes in [
            forged(&good, |bytes| bytes[at::SOURCE] = 0),
            forged(&good, |bytes| bytes[at::SOURCE] = 3),
            forged(&good, |bytes| bytes[at::SOURCE] = source::KEY_FILE),
            forged(&good, |bytes| bytes[at::RESERVED] = 1),
            word(at::ZERO, 1),
            forged(&good, |bytes| put(bytes, at::PLAIN_BYTES, &(PLAIN_BYTES_MAX + 1).to_be_bytes())),
        ] {
            assert!(matches!(Header::parse(&bytes), Err(SealError::HeaderDamaged(_))));
        }
    }
}
