//! All keys that somebody has, and which of them opens a file.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::SealError;
use crate::header::Header;
use crate::key::{KeySource, MasterKey, Passphrase};

/// Keys derived from passphrases that are kept. Each salt is a user's or a machine's; a hostile tree has as many as it has files.
const DERIVED_MAX: usize = 64;

/// Keys and passphrases to open files with.
#[derive(Debug, Default)]
pub struct KeyRing {
    keys: Vec<Arc<MasterKey>>,
    passphrases: Vec<Passphrase>,
    /// What passphrases gave, by cost and salt, whether it fitted or not: each is paid for once. The latest come last.
    derived: Mutex<Vec<(usize, Arc<MasterKey>)>>,
}

impl KeyRing {
    /// One of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a key more.
    #[must_use]
    pub fn with_key(mut self, key: MasterKey) -> Self {
        self.keys.push(Arc::new(key));
        self
    }

    /// With a passphrase more. What it costs and its salt are in the header of each file.
    #[must_use]
    pub fn with_passphrase(mut self, passphrase: Passphrase) -> Self {
        self.passphrases.push(passphrase);
        self
    }

    /// The key that a file was sealed with. For a passphrase that meets this salt for the first time it takes the time and the memory that
    /// the header says, within the limits of [`KdfParameters`](crate::KdfParameters).
    ///
    /// # Errors
    /// [`SealError::WrongPassphrase`], [`SealError::WrongKeyFile`], [`SealError::PassphraseNeeded`], [`SealError::KeyFileNeeded`].
    pub fn find(&self, header: &Header) -> Result<Arc<MasterKey>, SealError> {
        if let Some(key) = self.keys.iter().find(|key| key.id() == header.key_id()) {
            return Ok(Arc::clone(key));
        }
        let KeySource::Passphrase(cost, salt) = header.source() else {
            let has_some = self.keys.iter().any(|key| *key.source() == KeySource::KeyFile);
            return Err(if has_some { SealError::WrongKeyFile(header.key_id()) } else { SealError::KeyFileNeeded(header.key_id()) });
        };
        for (index, passphrase) in self.passphrases.iter().enumerate() {
            let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
            let known = derived.iter().find(|(of, key)| *of == index && key.source() == header.source());
            let key = match known {
                Some((_, key)) => Arc::clone(key),
                None => {
                    let key = Arc::new(MasterKey::from_passphrase(passphrase, cost, salt)?);
                    if derived.len() == DERIVED_MAX {
                        derived.remove(0);
                    }
                    derived.push((index, Arc::clone(&key)));
                    key
                }
            };
            if key.id() == header.key_id() {
                return Ok(key);
            }
        }
        let has_some = !self.passphrases.is_empty() || self.keys.iter().any(|key| *key.source() != KeySource::KeyFile);
        Err(if has_some { SealError::WrongPassphrase } else { SealError::PassphraseNeeded })
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::key::KdfParameters;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.as_bytes().to_vec()).unwrap()
    }

    fn header(master: &MasterKey) -> Header {
        Header::new(master, &[0; 16], 1).unwrap().0
    }

    #[test]
    fn the_right_key_of_several_is_found_and_each_lack_has_its_name() {
        let cost = KdfParameters::new(8, 1, 1).unwrap();
        let by_passphrase = |text, salt| header(&MasterKey::from_passphrase(&passphrase(text), &cost, &[salt; 16]).unwrap());
        let by_file = |byte| MasterKey::from_bytes(&Zeroizing::new([byte; 32])).unwrap();
        let (one, two) = (header(&by_file(1)), header(&by_file(2)));

        let all =
            KeyRing::new().with_key(by_file(1)).with_key(by_file(2)).with_passphrase(passphrase("a")).with_passphrase(passphrase("b"));
        for header in [one, two, by_passphrase("a", 1), by_passphrase("b", 1), by_passphrase("b", 2), by_passphrase("a", 1)] {
            assert_eq!(all.find(&header).unwrap().id(), header.key_id());
        }
        assert_eq!(all.derived.lock().unwrap().len(), 4, "two passphrases, two salts, each once");

        assert!(matches!(all.find(&by_passphrase("c", 1)), Err(SealError::WrongPassphrase)));
        assert!(matches!(all.find(&header(&by_file(3))), Err(SealError::WrongKeyFile(_))));
        let only_file = KeyRing::new().with_key(by_file(1));
        assert!(matches!(only_file.find(&two), Err(SealError::WrongKeyFile(_))));
        assert!(matches!(only_file.find(&by_passphrase("a", 1)), Err(SealError::PassphraseNeeded)));
        let only_passphrase = KeyRing::new().with_passphrase(passphrase("a"));
        assert!(matches!(only_passphrase.find(&one), Err(SealError::KeyFileNeeded(id)) if id == one.key_id()));
        let ready = KeyRing::new().with_key(MasterKey::from_passphrase(&passphrase("a"), &cost, &[1; 16]).unwrap());
        assert_eq!(ready.find(&by_passphrase("a", 1)).unwrap().id(), by_passphrase("a", 1).key_id());
        assert!(matches!(ready.find(&by_passphrase("a", 2)), Err(SealError::WrongPassphrase)));
    }

    #[test]
    fn what_is_kept_has_a_limit() {
        let cost = KdfParameters::new(8, 1, 1).unwrap();
        let ring = KeyRing::new().with_passphrase(passphrase("a"));
        for salt in 0..100 {
            let header = header(&MasterKey::from_passphrase(&passphrase("a"), &cost, &[salt; 16]).unwrap());
            assert_eq!(ring.find(&header).unwrap().id(), header.key_id());
        }
        assert_eq!(ring.derived.lock().unwrap().len(), DERIVED_MAX);
    }
}
