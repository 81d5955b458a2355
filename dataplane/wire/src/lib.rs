//! Wire format of Tradewind, version 1: bytes to typed values and back.
//!
//! Every packet starts with the 16-byte clear [`Header`]. A DATA packet continues with the 13-byte clear
//! [`DataHeader`]; both are the associated data of the AEAD, so they are authenticated but readable. Being readable is what
//! lets a receiver decrypt straight into the block that the chunk belongs to (`docs/adr/0006-clear-data-header.md`).
//! Everything behind the clear part is AES-GCM ciphertext with a 16-byte tag. All integers are big-endian.
//!
//! Nothing here allocates, and no input panics: parsers return [`ParseError`], a code without fields that indexes a counter.
#![no_std]
#![forbid(unsafe_code)]

pub mod control;
pub mod data;
pub mod feedback;
pub mod header;
pub mod ids;
pub mod limits;
pub mod orders;
mod read;

pub use control::Control;
pub use data::DataHeader;
pub use header::{Header, Kind};
pub use ids::{BlockId, FileId, LaneId, PacketNumber};
pub use orders::{Group, Orders, State};
pub use read::ParseError;
