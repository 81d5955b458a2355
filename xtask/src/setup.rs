//! `cargo xtask setup`: what building and testing need beyond Rust. Quick and silent when all is there.

mod azurite;
mod hadoop;
mod packages;
mod peers;
mod venv;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::bench;

/// Debian packages of the test store that a plain set-up leaves out.
const CEPH: [&str; 4] = ["ceph-common", "ceph-mon", "ceph-osd", "radosgw"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also the test stores that are large (Ceph), and start each of all test stores once to see that it works here
    #[arg(long)]
    stores: bool,
    /// Also the programs that benchmarks measure beside ours with `--peers` (some minutes: two of them are built)
    #[arg(long)]
    peers: bool,
}

/// The command itself.
pub(crate) fn install(arguments: &Arguments) -> Result<()> {
    ensure(arguments)?;
    if arguments.stores { bench::run_with(&["stores"]) } else { Ok(()) }
}

/// What every command needs.
pub(crate) fn run() -> Result<()> {
    ensure(&Arguments { stores: false, peers: false })
}

fn ensure(wanted: &Arguments) -> Result<()> {
    let cache = cache_directory()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}; TRADEWIND_CACHE names another place", cache.display()))?;
    // Two set-ups at once would trip over each other; the second waits, then finds all done.
    let lock = File::create(cache.join("setup.lock")).context("cannot make the set-up's lock file")?;
    lock.lock().context("cannot lock the set-up's lock file")?;
    packages::ensure()?;
    if wanted.stores {
        packages::ensure_more(&CEPH)?;
    }
    if wanted.peers {
        peers::ensure(&cache)?;
    }
    venv::ensure(&cache)?;
    azurite::ensure(&cache)?;
    hadoop::ensure(&cache)
}

/// Where things are kept between runs: `TRADEWIND_CACHE`, or `tradewind` in the user's cache directory.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("TRADEWIND_CACHE") {
        return std::path::absolute(PathBuf::from(directory)).context("TRADEWIND_CACHE is no path");
    }
    if let Some(directory) = std::env::var_os("XDG_CACHE_HOME").filter(|directory| !directory.is_empty()) {
        return Ok(PathBuf::from(directory).join("tradewind"));
    }
    let home = std::env::var_os("HOME").context("neither TRADEWIND_CACHE nor HOME is set: set TRADEWIND_CACHE to a directory")?;
    Ok(PathBuf::from(home).join(".cache/tradewind"))
}

/// Tells a child where the test stores and store clients are: `TRADEWIND_VENV`, and its programs on the search path.
pub(crate) fn point_to_programs(command: &mut Command) -> Result<()> {
    let venv = cache_directory()?.join("venv");
    let mut path = vec![venv.join("bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    command.env("PATH", std::env::join_paths(path).context("PATH holds a colon in a directory's name")?);
    command.env("TRADEWIND_VENV", venv);
    Ok(())
}
