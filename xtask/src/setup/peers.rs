//! Programs that benchmarks measure beside ours (`--peers`): Debian's, and three that are built here, in `peers` of the cache directory; and `perf`, with
//! which they look into ours.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::packages;
use crate::{cargo, process};

const PACKAGES: [&str; 8] = ["fio", "iperf3", "linux-perf", "openssh-client", "openssh-server", "openssl", "rsync", "socat"];
/// Only unpacked: `uftp` would start a daemon that takes files from whoever sends some, and of the library for UDT a header and an archive are wanted.
const UNPACKED: [&str; 2] = ["libudt-dev", "uftp"];
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
    udt_and_uftp(&folder, &programs)?;
    // Each time: its source is in this tree, and cargo sees whether something has changed.
    let mut build = cargo::cargo();
    build.args(["build", "--locked", "--release", "--manifest-path", "bench/peers/s2n-quic/Cargo.toml"]);
    process::run(build.env("CARGO_TARGET_DIR", target.join("s2n-quic")))?;
    let built = target.join("s2n-quic/release/peer-s2n-quic");
    fs::copy(&built, programs.join("peer-s2n-quic")).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(())
}

/// `uftp`, `uftpd`, and `peer-udt`, which is small enough to be built each time.
fn udt_and_uftp(folder: &Path, programs: &Path) -> Result<()> {
    if !process::succeeds("dpkg-deb", &["--version"]) {
        eprintln!("UDT and UFTP come from Debian's packages; without dpkg they are not measured");
        return Ok(());
    }
    let unpacked = folder.join("debian");
    let (library, daemon) = (unpacked.join("usr/lib/libudt.a"), unpacked.join("usr/bin/uftpd"));
    if !(library.exists() && daemon.exists()) {
        packages::unpack(&UNPACKED, &unpacked)?;
    }
    for program in ["uftp", "uftpd"] {
        let from = unpacked.join("usr/bin").join(program);
        fs::copy(&from, programs.join(program)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let mut build = Command::new("g++");
    build
        .current_dir(cargo::root())
        .args(["-O2", "-Wall", "bench/peers/udt/peer-udt.cpp", "-I"])
        .arg(unpacked.join("usr/include"))
        .arg(&library);
    process::run(build.args(["-lpthread", "-o"]).arg(programs.join("peer-udt")))
}
