//! The data process: pinned workers that receive packets, open them into blocks and hand the blocks to storage.
//!
//! `main` reads options, [`topology`] opens links and starts workers, [`control`] speaks with `tradewindd`. See README.md in
//! this folder for the life of a packet.
#![forbid(unsafe_code)]

mod browse;
pub mod control;
mod density;
mod destination;
mod facts;
mod figures;
mod keeping;
mod lane;
mod lane_task;
pub mod link;
mod manifest;
mod memory;
mod opening;
pub mod options;
mod orders;
mod pack;
pub mod privileges;
pub mod probe;
mod resume;
mod send_task;
mod sending;
pub mod shared;
mod spill;
pub mod statistics;
pub mod topology;
mod verify;
mod worker;
