//! The testbed (three namespaces, an emulated WAN, a real S3 server, tradewindd), shared by the demo, the end-to-end tests and
//! the benchmarks.
#![forbid(unsafe_code)]

pub mod process;
pub mod testbed;
