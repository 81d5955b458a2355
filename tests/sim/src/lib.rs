//! Seeded, deterministic simulator: the real sender and receiver of `tradewind-proto` over a modelled path, in virtual time.
//!
//! A [`World`] is drawn from a seed or described by `key=value` words. [`run()`] plays it and checks what must hold: every
//! block arrives once and bit-exact and the sender hears DONE, or both ends say by name and in bounded time why not; the
//! receiver holds no more than its credit and is silent until it has heard an authentic packet; packet numbers are never
//! used twice; no datagram is larger than the path carries; no end burns a core; nothing takes absurdly long.
//!
//! What it cannot see: real clocks, sockets, drivers, CPU time, and competing traffic.
#![forbid(unsafe_code)]

pub mod battery;
mod check;
pub mod grid;
pub mod heat_map;
pub mod lab;
mod path;
mod random;
mod report;
mod run;
mod source;
mod store;
mod world;

pub use check::{Ending, Failure, ideal_ms};
pub use report::Report;
pub use run::run;
pub use world::{Store, Way, World, WorldError};
