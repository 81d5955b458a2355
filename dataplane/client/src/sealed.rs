//! Sealing of files on their way: what leaves this machine is the sealed form of docs/spec/sealed-format.md.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tradewind_proto::block::Attributes;
use tradewind_seal::{Header, MasterKey, SUFFIX, SealError, Sealer, identity};

use crate::origin::Origin;

/// Attribute of a sealed file: its header in Base64, so that a key can be checked without reading the object.
pub const SEALED_ATTRIBUTE: &str = "tradewind-sealed";

/// Bits of a variant: as many as every reader of JSON keeps.
const VARIANT_BITS: u32 = 53;

/// What sealed files are called.
#[derive(Clone, Debug)]
pub enum SealedNames {
    /// Their own names and `.sealed` behind them.
    Suffix,
    /// Each component is sealed.
    Sealed(Arc<MasterKey>),
    /// As given: the user chose the one name.
    Kept,
}

impl SealedNames {
    /// The name of a file at the destination.
    ///
    /// # Errors
    /// [`SealError::Name`] if it cannot be sealed.
    pub fn name<'a>(&self, name: &'a [u8]) -> Result<Cow<'a, [u8]>, SealError> {
        Ok(match self {
            Self::Suffix => Cow::Owned([name, SUFFIX.as_bytes()].concat()),
            Self::Sealed(master) => Cow::Owned(master.seal_name(name)?),
            Self::Kept => Cow::Borrowed(name),
        })
    }
}

/// The key that files are sealed with on their way, and where they go.
#[derive(Clone)]
pub struct Sealing {
    master: Arc<MasterKey>,
    /// What stands before the names of files to make them their objects' URLs.
    place: String,
    variant: u64,
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealing").field("master", &self.master).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Sealing {
    /// `store` names the store, and `place` is what files' names stand behind at the destination, that name included: `s3://bucket` and
    /// `s3://bucket/folder/`. An object has one URL below each name of a store, so what was begun under another destination of the same
    /// name is gone on with; under another name of the store it is not.
    #[must_use]
    pub fn new(master: Arc<MasterKey>, store: &str, place: String) -> Self {
        // Files sealed with another key, or to which other identities were given, are other bytes.
        let bytes = identity(&[master.id().as_bytes(), store.as_bytes()].concat(), 0, 0);
        let number = bytes.iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
        let variant = (number >> (u64::BITS - VARIANT_BITS)).max(1);
        Self { master, place, variant }
    }

    /// What tells what is sent from the files themselves, and from those sealed otherwise; never 0.
    #[must_use]
    pub const fn variant(&self) -> u64 {
        self.variant
    }

    /// For a file of this name at the destination.
    pub(crate) fn file(&self, name: &[u8], plain_bytes: u64, mtime_ns: i64) -> Result<SealedFile, SealError> {
        let identity = identity(&[self.place.as_bytes(), name].concat(), plain_bytes, mtime_ns);
        Ok(SealedFile(Mutex::new(Sealer::new(&self.master, &identity, plain_bytes)?)))
    }
}

/// One file that is sealed while it is read.
pub(crate) struct SealedFile(Mutex<Sealer>);

impl SealedFile {
    fn header(&self) -> Header {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).header()
    }

    /// Its size, bytes.
    pub(crate) fn size(&self) -> u64 {
        self.header().sealed_size()
    }

    /// What is told of it.
    pub(crate) fn attributes(&self) -> Attributes {
        [(SEALED_ATTRIBUTE.to_owned(), header_attribute(&self.header()))].into()
    }

    /// Fills `into` with its bytes at `offset`, made of those of `plain`. Whole frames are sealed where they are to be.
    pub(crate) fn read(&self, plain: &Origin, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut sealer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sealed = sealer.read_at(offset, into, &mut |offset, into| plain.read_exact_at(into, offset));
        sealed.map_err(|error| match error {
            SealError::Io(error) => error,
            other => io::Error::other(other),
        })
    }
}

/// A header as [`SEALED_ATTRIBUTE`] has it.
#[must_use]
pub fn header_attribute(header: &Header) -> String {
    STANDARD.encode(header.as_bytes())
}

/// The header in a [`SEALED_ATTRIBUTE`].
///
/// # Errors
/// Those of [`Header::parse`]; [`SealError::NotSealed`] also if it is not Base64.
pub fn header_of_attribute(text: &str) -> Result<Header, SealError> {
    Header::parse(&STANDARD.decode(text).map_err(|_| SealError::NotSealed)?)
}

#[cfg(test)]
mod tests {
    use tradewind_proto::block::check_attributes;
    use tradewind_seal::{KdfParameters, KeyRing, Passphrase, Unsealer};

    use super::*;

    fn key(salt: u8) -> MasterKey {
        let cost = KdfParameters::new(8, 1, 1).unwrap();
        MasterKey::from_passphrase(&Passphrase::new(b"x".to_vec()).unwrap(), &cost, &[salt; 16]).unwrap()
    }

    #[test]
    fn what_is_read_in_pieces_is_the_sealed_file_and_its_attribute_tells_the_key() {
        let plain = tempfile::NamedTempFile::new().unwrap();
        let contents: Vec<u8> = (0..200_000).map(|at| (at % 251) as u8).collect();
        std::fs::write(plain.path(), &contents).unwrap();
        let (master, ring) = (Arc::new(key(1)), KeyRing::new().with_key(key(1)));
        let file = Sealing::new(Arc::clone(&master), "s3://b", "s3://b/in/".to_owned()).file(b"f.sealed", 200_000, 5).unwrap();
        check_attributes(&file.attributes()).unwrap();
        let header = header_of_attribute(&file.attributes()[0].1).unwrap();
        assert_eq!((header.key_id(), header.sealed_size()), (master.id(), file.size()));
        let plain = Origin::File(plain.into_file());
        for piece in [usize::try_from(file.size()).unwrap(), 65_536, 1000] {
            let mut sealed = vec![0; usize::try_from(file.size()).unwrap()];
            // From behind: nothing depends on the order.
            for start in (0..sealed.len()).step_by(piece).rev() {
                let end = sealed.len().min(start + piece);
                file.read(&plain, start as u64, &mut sealed[start..end]).unwrap();
            }
            let (mut reader, mut unsealed) = (sealed.as_slice(), Vec::new());
            let unsealer = Unsealer::from_reader(&mut reader, &ring).unwrap();
            unsealer.unseal(&mut reader, &mut unsealed).unwrap();
            assert!(unsealed == contents, "pieces of {piece}");
        }
        assert!(matches!(header_of_attribute("no base64"), Err(SealError::NotSealed)));
        assert!(matches!(header_of_attribute("AAAA"), Err(SealError::NotSealed)));
    }

    #[test]
    fn an_object_is_one_whatever_its_destination_is_called_below_a_store() {
        let master = Arc::new(key(1));
        let of = |store: &str, place: &str| Sealing::new(Arc::clone(&master), store, place.to_owned());
        let header = |sealing: &Sealing, name: &[u8]| sealing.file(name, 10, 5).unwrap().header();
        let (above, below) = (of("s3://b", "s3://b/"), of("s3://b", "s3://b/d/"));
        assert_eq!((above.variant(), header(&above, b"d/f")), (below.variant(), header(&below, b"f")));
        assert_ne!(header(&above, b"f"), header(&below, b"f"));
        assert_ne!(above.variant(), of("other:", "other:b/").variant(), "another name of perhaps the same store");
        assert_ne!(above.variant(), Sealing::new(Arc::new(key(2)), "s3://b", "s3://b/".to_owned()).variant());
        assert!((1..1 << 53).contains(&above.variant()));
    }

    #[test]
    fn names_are_sealed_as_asked_for() {
        let master = Arc::new(key(1));
        assert_eq!(&*SealedNames::Suffix.name(b"d/f").unwrap(), b"d/f.sealed");
        assert_eq!(&*SealedNames::Kept.name(b"f").unwrap(), b"f");
        let sealed = SealedNames::Sealed(Arc::clone(&master)).name(b"d/f").unwrap().into_owned();
        assert_eq!(master.unseal_name(&sealed).unwrap(), b"d/f");
        assert!(SealedNames::Sealed(master).name(&[b'n'; 137]).is_err());
    }
}
