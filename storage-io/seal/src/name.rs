//! Names of files, sealed component by component: `/` stays, so directories can still be listed.
//!
//! A sealed component is [`NAME_PREFIX`] and, in Base32 of small letters (RFC 4648, without padding), four bytes that follow from the
//! component and the directories above it, then the component sealed with AES-256-GCM-SIV. Each can be unsealed alone, wherever it was
//! moved; the same name in two directories looks different.

use aws_lc_rs::aead::{Aad, Nonce};
use aws_lc_rs::hmac;
use data_encoding::BASE32_NOPAD;

use crate::error::SealError;
use crate::key::{MasterKey, NONCE_BYTES};
use crate::layout::TAG_BYTES;

/// What sealed names begin with.
pub const NAME_PREFIX: &str = "tws-";
/// What is behind the names of sealed files whose names are not sealed.
pub const SUFFIX: &str = ".sealed";

/// Bytes of a component that file systems take at most.
const COMPONENT_BYTES_MAX: usize = 255;
/// Bytes that make equal components of different directories different.
const SPREAD_BYTES: usize = 4;

impl MasterKey {
    /// Seals each component of a path; `/` stays between them. The same path always gives the same.
    ///
    /// # Errors
    /// [`SealError::Name`] if a component is empty, `.` or `..`, contains NUL, or is longer than the 136 bytes that give no more than 255.
    pub fn seal_name(&self, path: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut sealed = Vec::with_capacity(path.len() * 2 + 36);
        let mut above = 0;
        for component in path.split(|&byte| byte == b'/') {
            if above > 0 {
                sealed.push(b'/');
            }
            let refused = |reason| SealError::Name { name: text(component), reason };
            check(component).map_err(refused)?;
            let text = self.seal_component(&path[..above], component)?;
            if text.len() > COMPONENT_BYTES_MAX {
                return Err(refused("sealed it would be longer than 255 bytes; give it a name of at most 136"));
            }
            sealed.extend_from_slice(text.as_bytes());
            above += component.len() + 1;
        }
        Ok(sealed)
    }

    /// Unseals each component of a path that looks sealed; the others stay as they are.
    ///
    /// # Errors
    /// [`SealError::NameDamaged`] if a component looks sealed and was not sealed with this key, or would not be a file's name.
    pub fn unseal_name(&self, path: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut name = Vec::with_capacity(path.len());
        for (index, component) in path.split(|&byte| byte == b'/').enumerate() {
            if index > 0 {
                name.push(b'/');
            }
            match decode(component) {
                Some(bytes) => name.extend(self.unseal_component(bytes).ok_or_else(|| SealError::NameDamaged(text(component)))?),
                None => name.extend_from_slice(component),
            }
        }
        Ok(name)
    }

    fn seal_component(&self, above: &[u8], component: &[u8]) -> Result<String, SealError> {
        let mut context = hmac::Context::with_key(&self.name_nonces);
        context.update(above);
        context.update(component);
        let mut bytes = [&context.sign().as_ref()[..SPREAD_BYTES], component].concat();
        let nonce = nonce(&bytes[..SPREAD_BYTES]);
        let tag = self
            .names
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut bytes[SPREAD_BYTES..])
            .map_err(|_| SealError::System("a name could not be sealed"))?;
        bytes.extend_from_slice(tag.as_ref());
        Ok(format!("{NAME_PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()))
    }

    fn unseal_component(&self, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        let mut sealed = bytes.split_off(SPREAD_BYTES);
        let component = self.names.open_in_place(nonce(&bytes), Aad::empty(), &mut sealed).ok()?;
        // Whoever has the key may be hostile all the same: a name must not lead anywhere else.
        check(component).ok().map(|()| component.to_vec())
    }
}

/// Whether a component could be a sealed name: the prefix, and Base32 of at least as many bytes as the shortest name gives.
#[must_use]
pub fn looks_sealed(component: &[u8]) -> bool {
    decode(component).is_some()
}

fn decode(component: &[u8]) -> Option<Vec<u8>> {
    let digits = component.strip_prefix(NAME_PREFIX.as_bytes())?;
    if digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    BASE32_NOPAD.decode(&digits.to_ascii_uppercase()).ok().filter(|bytes| bytes.len() > SPREAD_BYTES + TAG_BYTES)
}

fn nonce(spread: &[u8]) -> Nonce {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..SPREAD_BYTES].copy_from_slice(spread);
    Nonce::assume_unique_for_key(nonce)
}

fn check(component: &[u8]) -> Result<(), &'static str> {
    match component {
        b"" => Err("a component of it is empty"),
        b"." | b".." => Err("it is not a name of its own"),
        _ if component.contains(&0) || component.contains(&b'/') => Err("it contains a byte that no file's name can"),
        _ => Ok(()),
    }
}

fn text(component: &[u8]) -> String {
    String::from_utf8_lossy(component).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    fn key(byte: u8) -> MasterKey {
        MasterKey::from_bytes(&Zeroizing::new([byte; 32])).unwrap()
    }

    #[test]
    fn names_that_can_be_sealed_and_those_that_cannot() {
        let key = key(1);
        let longest = vec![b'x'; 136];
        for name in [b"a".as_slice(), b"caf\xe9\xff", "ü/日本.bin".as_bytes(), b"a\nb/ c /...", b"tws-", longest.as_slice()] {
            let sealed = key.seal_name(name).unwrap();
            assert!(sealed.split(|&byte| byte == b'/').all(|part| looks_sealed(part) && part.len() <= 255));
            assert!(sealed.iter().all(|&byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-/".contains(&byte)));
            assert_eq!(key.unseal_name(&sealed).unwrap(), name);
            assert_eq!(key.seal_name(name).unwrap(), sealed, "the same again");
        }
        assert_eq!(key.seal_name(&longest).unwrap().len(), 254);
        let too_long = [b'x'; 137];
        for name in [b"".as_slice(), b"a//b", b"/a", b"a/", b".", b"a/../b", b"a\0", &too_long, &[b'x'; 255]] {
            assert!(matches!(key.seal_name(name), Err(SealError::Name { .. })), "{name:?}");
        }
    }

    #[test]
    fn equal_names_look_equal_only_in_one_directory() {
        let key = key(1);
        let part = |path: &[u8], index: usize| {
            let sealed = key.seal_name(path).unwrap();
            sealed.split(|&byte| byte == b'/').nth(index).unwrap().to_vec()
        };
        assert_eq!(part(b"d/a", 0), part(b"d/b", 0));
        assert_ne!(part(b"d/a", 1), part(b"e/a", 1));
        assert_ne!(part(b"a/a", 0), part(b"a/a", 1));
        assert_eq!(key.unseal_name(&part(b"d/e/a", 2)).unwrap(), b"a", "alone, wherever it is");
        assert_ne!(key.seal_name(b"a").unwrap(), super::tests::key(2).seal_name(b"a").unwrap());
    }

    #[test]
    fn other_names_stay_and_damaged_ones_are_told() {
        let key = key(1);
        let sealed = key.seal_name(b"secret").unwrap();
        let mixed = [b"in/tws-/TWS-x/".as_slice(), &sealed].concat();
        assert_eq!(key.unseal_name(&mixed).unwrap(), b"in/tws-/TWS-x/secret");
        assert!(matches!(super::tests::key(2).unseal_name(&sealed), Err(SealError::NameDamaged(_))));
        for at in NAME_PREFIX.len()..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] = if damaged[at] == b'a' { b'b' } else { b'a' };
            // The last digit has bits that are no part of a byte: not Base32 then, and a name like others.
            let unsealed = key.unseal_name(&damaged);
            assert!(unsealed.as_ref().map_or(true, |name| *name == damaged), "{at}: {unsealed:?}");
        }
        assert!(!looks_sealed(&sealed.to_ascii_uppercase()));
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused_also_from_the_keys_owner() {
        let key = key(1);
        for hostile in [b"..".as_slice(), b".", b"", b"a/b", b"/etc/passwd", b"a\0b"] {
            let sealed = key.seal_component(b"", hostile).unwrap();
            let unsealed = key.unseal_name(sealed.as_bytes());
            assert!(unsealed.as_ref().map_or(true, |name| name == sealed.as_bytes()), "{hostile:?}: {unsealed:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in prop::collection::vec(1u8.., 1..=136)) {
            let key = key(1);
            match key.seal_name(&name) {
                Ok(sealed) => prop_assert_eq!(key.unseal_name(&sealed).unwrap(), name),
                Err(_) => prop_assert!(name.split(|&byte| byte == b'/').any(|part| check(part).is_err())),
            }
        }
    }
}
