//! Debian packages.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process;

/// A Debian package, and a file or program that shows that it is there on another distribution.
struct Package {
    name: &'static str,
    evidence: &'static str,
}

const fn package(name: &'static str, evidence: &'static str) -> Package {
    Package { name, evidence }
}

/// What building and testing need.
const PACKAGES: [Package; 19] = [
    // The eBPF program, libxdp and the bindings to it. libxdp's configure also insists on libpcap and m4.
    package("clang", "clang"),
    package("llvm", "llvm-strip"),
    package("libelf-dev", "/usr/include/libelf.h"),
    package("zlib1g-dev", "/usr/include/zlib.h"),
    package("libpcap-dev", "/usr/include/pcap/pcap.h"),
    package("m4", "m4"),
    package("make", "make"),
    package("pkg-config", "pkg-config"),
    package("linux-libc-dev", "/usr/include/linux/if_xdp.h"),
    // C and C++ of AWS-LC and of libFuzzer.
    package("gcc", "gcc"),
    package("g++", "g++"),
    package("libc6-dev", "/usr/include/stdio.h"),
    // Namespaces, virtual links and their offloads.
    package("iproute2", "ip"),
    package("ethtool", "ethtool"),
    package("procps", "sysctl"),
    // Counts instructions of the micro-benches.
    package("valgrind", "valgrind"),
    // Test stores from PyPI.
    package("python3-venv", "python3"),
    package("ca-certificates", "/etc/ssl/certs"),
    package("curl", "curl"),
];

/// Installs what is missing where we may, and says the command where we may not.
pub(super) fn ensure() -> Result<()> {
    match missing_from_dpkg(&PACKAGES.map(|package| package.name))? {
        Some(missing) => install(&missing),
        None => look_for_evidence(),
    }
}

/// The same for what only some tests and benchmarks need. Another distribution is not asked: they look for themselves.
pub(super) fn ensure_more(packages: &[&'static str]) -> Result<()> {
    install(&missing_from_dpkg(packages)?.unwrap_or_default())
}

fn install(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "these packages are missing: {}\nRun this, then try again:\n  sudo apt-get update && sudo apt-get install --yes --no-install-recommends {0}",
            missing.join(" ")
        );
    }
    eprintln!("installing {}", missing.join(" "));
    process::run(apt_get().arg("update")).context("cannot update the package lists")?;
    process::run(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(missing))
        .with_context(|| format!("cannot install {}", missing.join(" ")))
}

/// Fetches Debian packages and unpacks them into a folder without installing them: none of their scripts runs, no service of theirs starts.
pub(super) fn unpack(packages: &[&str], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Lists may be missing or old; who may not renew them has them or is told what to do.
    if rustix::process::geteuid().is_root() {
        process::run(apt_get().arg("update")).context("cannot update the package lists")?;
    }
    let fetched = process::run(apt_get().arg("download").args(packages).current_dir(folder));
    fetched.with_context(|| format!("cannot fetch {}; run `sudo apt-get update`, then try again", packages.join(" ")))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            process::run(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(folder))?;
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// apt-get that waits for another one's lock and asks nothing.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.args(["-o", "DPkg::Lock::Timeout=300", "-qq"]).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

/// The packages that dpkg does not have; `None` where there is no dpkg.
fn missing_from_dpkg(packages: &[&'static str]) -> Result<Option<Vec<&'static str>>> {
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat=${db:Status-Status} ${Package}\n"]).args(packages);
    // dpkg-query exits with 1 if it does not know one; that is an answer, too.
    match command.stderr(Stdio::null()).output() {
        Ok(output) => Ok(Some(missing(packages, &String::from_utf8_lossy(&output.stdout)))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("cannot start dpkg-query"),
    }
}

/// The packages not installed according to lines of "status name".
fn missing(packages: &[&'static str], lines: &str) -> Vec<&'static str> {
    let installed = |name: &str| lines.lines().any(|line| line.split_once(' ') == Some(("installed", name)));
    packages.iter().copied().filter(|name| !installed(name)).collect()
}

/// Without dpkg we install nothing, but name what we cannot find.
fn look_for_evidence() -> Result<()> {
    let found = |package: &Package| {
        if package.evidence.starts_with('/') {
            return Path::new(package.evidence).exists();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(package.evidence).exists())
    };
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|package| !found(package))
        .map(|package| format!("{} (Debian: {})", package.evidence, package.name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("install these with your distribution's package manager, then try again:\n  {}", missing.join("\n  "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let all: String = PACKAGES.iter().map(|package| format!("installed {}\n", package.name)).collect();
        let missing = |lines: &str| missing(&PACKAGES.map(|package| package.name), lines);
        assert_eq!(missing(&all), Vec::<&str>::new());
        assert_eq!(missing(&all.replace("installed m4\n", "config-files m4\n")), ["m4"]);
        assert_eq!(missing(&all.replace("installed gcc\n", "installed gcc-12\n")), ["gcc"], "another package's name is no match");
        assert_eq!(missing("").len(), PACKAGES.len());
    }
}
