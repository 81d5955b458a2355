//! What can go wrong with sealed files.

use std::io;
use std::path::PathBuf;

use crate::key::KeyId;

/// Why something could not be sealed or unsealed. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It does not begin as a sealed file does.
    #[error("this is not a sealed file: it does not begin with 'tradewind-sealed'")]
    NotSealed,
    /// A format of later releases.
    #[error("sealed in version {0} of the format, which this release does not know; use a newer one")]
    Version(u16),
    /// The header's bytes are not those that were written.
    #[error("the header is damaged ({0}); take another copy of the file")]
    HeaderDamaged(&'static str),
    /// The cost of a passphrase is outside the limits.
    #[error("the cost of the passphrase (Argon2id: {memory_kib} KiB, {passes} passes, {lanes} lanes) is outside the limits")]
    Cost {
        /// Memory, KiB.
        memory_kib: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// A passphrase was given, and it is another one.
    #[error("wrong passphrase: the file was sealed with another one")]
    WrongPassphrase,
    /// Key files were given, but not the right one.
    #[error("wrong key file: the file was sealed with the key {0}")]
    WrongKeyFile(KeyId),
    /// The file needs a passphrase and there is none.
    #[error("the file was sealed with a passphrase; give the passphrase")]
    PassphraseNeeded,
    /// The file needs a key file and there is none.
    #[error("the file was sealed with the key file of the key {0}; give that file")]
    KeyFileNeeded(KeyId),
    /// A passphrase of no characters.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// A frame's bytes are not those that were written, or it is another frame's place.
    #[error("frame {frame} of {frames} is damaged; take another copy of the file")]
    FrameDamaged {
        /// Its number, from 0.
        frame: u64,
        /// How many the file has.
        frames: u64,
    },
    /// The file is shorter or longer than its header says.
    #[error("{found} where the header tells of {expected} bytes; take another copy of the file")]
    WrongSize {
        /// Size of the sealed file after its header, bytes.
        expected: u64,
        /// What there is instead, in words.
        found: String,
    },
    /// More contents than a sealed file can have.
    #[error("{0} bytes are more than a sealed file can hold")]
    TooLarge(u64),
    /// A range that is not within the file, or a buffer that is no frame's: a mistake of the caller.
    #[error("bytes {offset} to {end} are not within the {size} bytes of the file")]
    Range {
        /// First byte.
        offset: u64,
        /// Behind the last byte.
        end: u64,
        /// What there is.
        size: u64,
    },
    /// A name that cannot be sealed.
    #[error("the name '{name}' cannot be sealed: {reason}")]
    Name {
        /// The component concerned, as text.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// A sealed name that cannot be unsealed.
    #[error("the sealed name '{0}' is damaged or was sealed with another key")]
    NameDamaged(String),
    /// A key file that cannot be taken.
    #[error("the key file {}: {reason}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The system gives no random numbers, or no memory for Argon2.
    #[error("{0}")]
    System(&'static str),
}

impl SealError {
    /// Whether another passphrase or key file is called for, rather than another copy of the file.
    #[must_use]
    pub const fn is_key(&self) -> bool {
        matches!(
            self,
            Self::WrongPassphrase
                | Self::WrongKeyFile(_)
                | Self::PassphraseNeeded
                | Self::KeyFileNeeded(_)
                | Self::EmptyPassphrase
                | Self::KeyFile { .. }
        )
    }
}
