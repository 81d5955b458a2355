//! `cargo xtask lint`: format, clippy, house style, dependencies.

mod house;

use anyhow::Result;

use crate::{cargo, process, setup};

pub(crate) fn run() -> Result<()> {
    // House style first: it takes no time and needs no compiler. Clippy runs build scripts, which need the packages.
    house::check()?;
    process::run(cargo::cargo().args(["fmt", "--all", "--check"]))?;
    setup::run()?;
    process::run(cargo::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    if process::succeeds("cargo", &["deny", "--version"]) {
        process::run(cargo::cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
    } else {
        println!("SKIP: licences and sources of dependencies are not checked: cargo-deny is not installed (`cargo install cargo-deny`)");
    }
    println!("lint: clean");
    Ok(())
}
