//! Azurite, the emulator of Azure Blob Storage, from npm.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::process;

const VERSION: &str = "3.37.0";

/// Installs it into `cache`, unless it is there. Tests that need it say so where npm is missing.
pub(super) fn ensure(cache: &Path) -> Result<()> {
    let folder = cache.join("azurite");
    // Written last, so an interrupted installation is done again.
    let stamp = folder.join("tradewind-version");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == VERSION) {
        return Ok(());
    }
    if Command::new("npm").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        eprintln!("Azure will not be tested: npm is not installed (Debian: apt-get install --no-install-recommends nodejs npm)");
        return Ok(());
    }
    eprintln!("installing azurite {VERSION} into {}", folder.display());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-fund", "--no-audit", "--no-save", &format!("azurite@{VERSION}")]).current_dir(&folder);
    if let Err(error) = process::run(&mut npm) {
        eprintln!("Azure will not be tested: azurite cannot be installed from npm: {error:#}");
        return Ok(());
    }
    fs::write(&stamp, VERSION).with_context(|| format!("cannot write {}", stamp.display()))
}
