//! Wide-area paths for tests, demonstrations and benchmarks: scenario files, and the links that play them.
//!
//! - [`scenario`]: what a path does, in TOML, per direction. [`generate`] makes variable ones.
//! - [`link`]: the decisions (drop or due time) as pure arithmetic, for the emulator and for simulators.
//! - [`emulator`]: plays a scenario between two interfaces with AF_PACKET sockets, and says whether the run was valid.
//! - [`flows`]: who used the bottleneck when, and a longer path for some.
//! - [`tc`]: the same by the kernel's own `netem` and `tbf`, where it has them.
//! - [`topology`]: three network namespaces (client – wan – server) with everything set for honest measurements.
//! - [`verify`]: measures an emulated path with its own probes and compares it with the scenario.
//!
//! It knows nothing of the product, on purpose: what judges it must not share its bugs.

#![deny(unsafe_code)]

pub mod analysis;
pub mod emulator;
pub mod flows;
pub mod generate;
pub mod link;
pub mod middlebox;
pub mod probe;
pub mod random;
pub mod scenario;
pub mod stats;
#[expect(
    unsafe_code,
    reason = "packet sockets, kernel timestamps and scheduling classes have no safe interface; all of it is in this module"
)]
mod sys;
pub mod tc;
pub mod timeline;
pub mod topology;
pub mod trace_file;
pub mod verify;

mod store;

pub use link::{DropReason, Link, Verdict, Way};
pub use scenario::{Scenario, ScenarioError};
