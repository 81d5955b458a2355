//! `tradewindd`, the control process: REST over TLS, authentication, transfers, and the engine it starts and watches.
//!
//! It holds no privilege and sees no packet. [`http`] turns requests into commands for the one owner of all state, the
//! [`supervisor`], which also owns the conversation with the engine.

#![forbid(unsafe_code)]

pub mod auth;
pub mod config;
pub mod http;
pub mod identity;
pub mod options;
pub mod run;
pub mod stores;
pub mod supervisor;
