//! The protocol core of Tradewind: sender and receiver of a lane as state machines without I/O.
//!
//! Time is an argument (nanoseconds of any monotonic clock), randomness is an argument, packets are slices. Nothing here
//! allocates per packet. `clippy.toml` bans clocks, sockets, threads and hash maps from this crate.
#![forbid(unsafe_code)]

pub mod block;
pub mod crypto;
pub mod rate;
pub mod receiver;
mod replay;
pub mod sender;
mod sequence;
