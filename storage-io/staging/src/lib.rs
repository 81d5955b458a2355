//! Blocks on local disks while a store is slower than the network.
//!
//! A [`Staging`] has one or several disks, and for each a thread with an io_uring of its own and files below one directory. A block goes to the
//! disk with the fewest bytes to move; one that is full is passed over, and one that fails is used no more (ADR 0034). Blocks go out of their
//! pool slots with O_DIRECT and come back into others; nothing is copied, and nothing goes through the page cache. What is written here is not
//! durable and is not meant to be: the files have no names (`O_TMPFILE`), so whatever ends the process gives their room back.
//!
//! | To | take |
//! |---|---|
//! | begin | a [`Ring::new`] for each disk with all privileges, [`Staging::start`] without |
//! | write a block, read it back | [`Staging::put`], [`Staging::get`] |
//! | know how it went | [`Done`], which comes to the caller's own function |
//! | know how the disks are | [`Staging::disks`] |
//! | keep a block until the store has it | [`Keep::lane`], [`Staging::keep`], [`KeptLane::done`] |
//!
//! [`Keep`] is for blocks that are to outlive the process: [`Staging::keep`] writes them into files with names, by the same ring, and
//! [`Keep::recall`] finds them again: as a [`KeptImage`] each, which is read when it is needed (ADR 0036).
//!
//! Blocks are written in the clear: whoever can read the disk can read them, as with the engine's memory.
#![deny(unsafe_code)]

mod ask;
mod disk;
mod disks;
mod error;
mod kept;
mod mover;
mod ring;
mod segments;
mod staging;
#[cfg(test)]
mod tests;

pub use crate::disk::DiskStatus;
pub use crate::error::StagingError;
pub use crate::kept::{Keep, KeptImage, KeptLane};
pub use crate::ring::Ring;
pub use crate::segments::Staged;
pub use crate::staging::{Done, Outcome, Staging, StagingConfig};

/// Most directories of a [`Staging`].
pub const DISKS_MAX: usize = 16;

/// CRC-64/NVME.
fn crc_of(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}
