//! Sealed files: encryption at rest whose keys stay with the client.
//!
//! The format is `docs/spec/sealed-format.md`: a header of [`HEADER_BYTES`] with the file's own key, wrapped, and frames of [`FRAME_BYTES`]
//! of contents, each sealed by itself. So any range can be sealed or opened alone, and an interrupted transfer goes on where it stopped.
//!
//! | To | take |
//! |---|---|
//! | make or read keys | [`MasterKey`], [`KeyRing`], [`create_key_file`], [`read_or_create_salt`] |
//! | seal a file, or any range of it | [`Sealer`] |
//! | unseal a file, a frame or any range | [`Header`], [`Unsealer`] |
//! | seal and unseal names | [`MasterKey::seal_name`], [`MasterKey::unseal_name`] |
//! | know sizes beforehand | [`sealed_size`], [`plain_size`] |
//!
//! Nothing here opens connections or walks directories, and nothing prints secrets: [`Debug`](std::fmt::Debug) of keys shows their ids.
#![forbid(unsafe_code)]

mod error;
mod frame;
mod header;
mod key;
mod key_file;
mod layout;
mod name;
mod ring;
mod salt_file;
mod seal;
mod unseal;

pub use crate::error::SealError;
pub use crate::header::Header;
pub use crate::key::{
    IDENTITY_BYTES, KdfParameters, KeyId, KeySource, MasterKey, Passphrase, SALT_BYTES, Salt, identity, random_identity, random_salt,
};
pub use crate::key_file::{create_key_file, read_key_file};
pub use crate::layout::{FRAME_BYTES, HEADER_BYTES, PLAIN_BYTES_MAX, SEALED_FRAME_BYTES, TAG_BYTES, plain_size, sealed_size};
pub use crate::name::{NAME_PREFIX, SUFFIX, looks_sealed};
pub use crate::ring::KeyRing;
pub use crate::salt_file::read_or_create_salt;
pub use crate::seal::Sealer;
pub use crate::unseal::Unsealer;
