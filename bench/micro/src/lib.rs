//! Micro-benches: single steps of the packet path, of the cut of blocks and of the plan of parts, through the crates' public interfaces.
//!
//! Each is defined once, as a [`Workload`], and used twice: criterion times it (`benches/micro.rs`), and `src/main.rs` runs it under callgrind,
//! which counts instructions, and with an allocator that counts. `cargo xtask bench micro` does all three; `cargo xtask test` compares
//! instructions and allocations with those of `baseline.json`.
//!
//! Inputs come from seeds, so the same build does exactly the same every time. What a run needs is made by [`Workload::prepare`], outside of what
//! is counted, and [`Workload::check`] fails when a run did not do its work.
#![forbid(unsafe_code)]

mod acks;
mod blocks;
mod lane;
mod pacing;
mod packets;
mod parts;
mod random;
mod reassembly;

use std::hint::black_box;

use anyhow::{Context, Result};

/// Something that is measured.
pub trait Workload {
    /// Operations of one run: what figures are given for.
    fn operations(&self) -> u64;

    /// Makes the next run's input; not measured.
    ///
    /// # Errors
    /// When the code that is measured does not take part.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// One run. Returns something that depends on all that was done.
    fn run(&mut self) -> u64;

    /// Looks at what the last run left behind.
    ///
    /// # Errors
    /// When it did not do its work.
    fn check(&mut self, result: u64) -> Result<()>;
}

/// A workload that can be made.
pub struct Entry {
    /// Its name, `group/variant`.
    pub name: &'static str,
    /// What one operation is.
    pub operation: &'static str,
    /// Whether it must not allocate: it stands for what happens once per packet.
    pub is_per_packet: bool,
    make: fn() -> Result<Box<dyn Workload>>,
}

impl Entry {
    /// Makes it, with all the state that its first run needs, and runs it until its queues have grown.
    ///
    /// # Errors
    /// When a run does not do its work.
    pub fn make(&self) -> Result<Box<dyn Workload>> {
        let mut workload = (self.make)().with_context(|| format!("{} cannot be made", self.name))?;
        for _ in 0..RUNS_BEFORE {
            self.run(workload.as_mut(), |workload| workload.run())?;
        }
        Ok(workload)
    }

    /// Prepares a run, has `measure` do it, and checks it.
    ///
    /// # Errors
    /// When the run did not do its work.
    pub fn run(&self, workload: &mut dyn Workload, measure: impl FnOnce(&mut dyn Workload) -> u64) -> Result<()> {
        workload.prepare().with_context(|| format!("{} cannot go on", self.name))?;
        let result = black_box(measure(workload));
        workload.check(result).with_context(|| format!("{} does not do its work", self.name))
    }
}

/// Runs that nothing is measured of, so that queues have grown and caches are warm.
const RUNS_BEFORE: u32 = 3;

const fn per_packet(name: &'static str, operation: &'static str, make: fn() -> Result<Box<dyn Workload>>) -> Entry {
    Entry { name, operation, is_per_packet: true, make }
}

const fn entry(name: &'static str, operation: &'static str, make: fn() -> Result<Box<dyn Workload>>) -> Entry {
    Entry { name, operation, is_per_packet: false, make }
}

/// All workloads.
pub const ALL: [Entry; 20] = [
    per_packet("parse/data", "the two headers of a DATA packet", packets::parse_data),
    per_packet("parse/feedback", "a FEEDBACK with 3 trains and 7 segments, all of them walked", packets::parse_feedback),
    per_packet("seal/aes-128-gcm/1427", "a packet of 1,427 bytes (MTU 1500)", packets::seal_128_small),
    per_packet("seal/aes-128-gcm/8927", "a packet of 8,927 bytes (MTU 9000)", packets::seal_128_large),
    per_packet("seal/aes-256-gcm/1427", "a packet of 1,427 bytes", packets::seal_256_small),
    per_packet("seal/rustcrypto/1427", "a packet of 1,427 bytes, AES-128-GCM by RustCrypto", packets::seal_rust_small),
    per_packet("open/aes-128-gcm/1427", "a packet of 1,427 bytes", packets::open_128_small),
    per_packet("open/aes-128-gcm/8927", "a packet of 8,927 bytes", packets::open_128_large),
    per_packet("open/aes-256-gcm/1427", "a packet of 1,427 bytes", packets::open_256_small),
    per_packet("open/rustcrypto/1427", "a packet of 1,427 bytes, AES-128-GCM by RustCrypto", packets::open_rust_small),
    per_packet("acks/receiver", "a round of feedback: 1 s x 10 Gbit/s, 30 % loss each way", acks::receiver_round),
    per_packet("acks/sender", "the feedback of 20 ms taken in: 1 s x 10 Gbit/s, 30 % loss", acks::sender_round),
    per_packet("send/packet", "a DATA packet of 1,427 bytes: admitted, picked, sealed", acks::send_packets),
    per_packet("reassembly/packet", "a DATA packet of 1,427 bytes into its block; 5 % lost, reordered", reassembly::packets),
    per_packet("pacer/packet", "a packet admitted and accounted for at 10 Gbit/s", pacing::packets),
    entry("block/cut-large", "a block of 1 MiB out of one file: checksum and table", blocks::cut_large),
    entry("block/cut-small", "a block of 700 files: checksums and table", blocks::cut_small),
    entry("block/read-large", "a block of 1 MiB out of one file: table read, payload verified", blocks::read_large),
    entry("block/read-small", "a block of 700 files: table read, payload verified", blocks::read_small),
    entry("parts/plan", "an object planned, and the parts of 16 offsets found", parts::plan),
];

/// The workload of this name.
///
/// # Errors
/// When there is none.
pub fn find(name: &str) -> Result<&'static Entry> {
    const ENTRIES: &[Entry] = &ALL;
    ENTRIES.iter().find(|entry| entry.name == name).with_context(|| format!("there is no workload {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_does_its_work_again_and_again() {
        for entry in &ALL {
            let mut workload = entry.make().unwrap();
            assert!(workload.operations() > 0);
            for _ in 0..3 {
                entry.run(workload.as_mut(), |workload| workload.run()).unwrap();
            }
        }
    }

    #[test]
    fn a_workload_that_does_nothing_fails() {
        for entry in &ALL {
            let mut workload = entry.make().unwrap();
            assert!(entry.run(workload.as_mut(), |_| 0).is_err(), "{}", entry.name);
        }
    }

    #[test]
    fn names_are_unique_and_found() {
        for (index, entry) in ALL.iter().enumerate() {
            assert!(ALL[index + 1..].iter().all(|other| other.name != entry.name));
            assert_eq!(find(entry.name).unwrap().name, entry.name);
        }
        assert!(find("parse").is_err());
    }
}
