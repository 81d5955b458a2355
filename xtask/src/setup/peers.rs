//! Programs that benchmarks measure beside ours (`--peers`): Debian's, and two that are built here, in `peers` of the cache directory; and `perf`, with
//! which they look into ours.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::packages;
use crate::{cargo, process};

const PACKAGES: [&str; 8] = ["fio", "iperf3", "linux-perf", "openssh-client", "openssh-server", "openssl", "rsync", "socat"];
/// AGPL-3.0: it is run, and never linked.
const QCP: &str = "qcp@0.9.1";

pub(super) fn ensure(cache: &Path) -> Result<()> {
    packages::ensure_more(&PACKAGES)?;
    let folder = cache.join("peers");
    let (programs, target) = (folder.join("bin"), folder.join("target"));
    fs::create_dir_all(&programs).with_context(|| format!("cannot make {}", programs.display()))?;
    let version = Command::new(programs.join("qcp")).arg("--version").output();
    let wanted = QCP.split_once('@').map_or("", |(_, version)| version);
    if !version.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains(wanted)) {
        let mut install = cargo::cargo();
        install.args(["install", "--locked", "--force", QCP, "--root"]).arg(&folder).env("CARGO_TARGET_DIR", target.join("qcp"));
        process::run(&mut install)?;
    }
    // Each time: its source is in this tree, and cargo sees whether something has changed.
    let mut build = cargo::cargo();
    build.args(["build", "--locked", "--release", "--manifest-path", "bench/peers/s2n-quic/Cargo.toml"]);
    process::run(build.env("CARGO_TARGET_DIR", target.join("s2n-quic")))?;
    let built = target.join("s2n-quic/release/peer-s2n-quic");
    fs::copy(&built, programs.join("peer-s2n-quic")).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(())
}
