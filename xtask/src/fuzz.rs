//! `cargo xtask fuzz`: coverage-guided fuzzing with libFuzzer on the stable toolchain (docs/adr/0005-fuzzing.md).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{cargo, process, setup};

/// Seconds for each target with `--quick`.
const QUICK_SECONDS: u64 = 60;

/// Longest input, bytes: more than a jumbo datagram and than any table a target builds.
const INPUT_BYTES_MAX: u64 = 16_384;

/// An input that takes longer than this, seconds, is a finding.
const INPUT_SECONDS_MAX: u64 = 10;

/// What cargo-fuzz passes to rustc, less the address sanitizer (which needs a nightly toolchain): coverage counters,
/// comparisons, and the checks of debug builds.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// 60 s for each target
    #[arg(long)]
    quick: bool,
    /// Seconds for each target (default 600)
    #[arg(long, value_name = "SECONDS", conflicts_with = "quick")]
    seconds: Option<u64>,
    /// Targets to run (default: all)
    targets: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let directory = cargo::root().join("fuzz");
    let all = targets(&directory)?;
    for target in &arguments.targets {
        ensure!(all.contains(target), "there is no fuzz target {target}; there are: {}", all.join(", "));
    }
    let chosen = if arguments.targets.is_empty() { &all } else { &arguments.targets };
    let seconds = if arguments.quick { QUICK_SECONDS } else { arguments.seconds.unwrap_or(600) };
    let programs = build(&directory, chosen)?;
    for target in chosen {
        run_target(&directory, &programs, target, seconds)?;
    }
    println!("fuzz: {} targets, {seconds} s each, no finding", chosen.len());
    Ok(())
}

/// The targets: the files of `fuzz_targets`.
fn targets(directory: &Path) -> Result<Vec<String>> {
    let folder = directory.join("fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            targets.push(name.to_string_lossy().into_owned());
        }
    }
    targets.sort();
    ensure!(!targets.is_empty(), "{} holds no fuzz target", folder.display());
    Ok(targets)
}

/// Builds targets; returns the directory of the programs.
fn build(directory: &Path, targets: &[String]) -> Result<PathBuf> {
    let target_directory = cargo::workspace()?.target_directory.join("fuzz");
    // A named platform keeps the flags off build scripts and procedural macros.
    let platform = platform()?;
    let mut command = cargo::cargo();
    command.args(["build", "--release", "--manifest-path"]).arg(directory.join("Cargo.toml"));
    command.args(targets.iter().flat_map(|target| ["--bin", target]));
    command.args(["--target", &platform, "--target-dir"]).arg(&target_directory).env("RUSTFLAGS", RUSTFLAGS);
    process::run(&mut command)?;
    Ok(target_directory.join(platform).join("release"))
}

/// The platform that rustc builds for by itself, such as x86_64-unknown-linux-gnu.
fn platform() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    Ok(host.to_owned())
}

fn run_target(directory: &Path, programs: &Path, target: &str, seconds: u64) -> Result<()> {
    // New inputs go to the first directory; the second holds the ones that are kept with the sources.
    let corpus = directory.join("corpus").join(target);
    let seeds = directory.join("seeds").join(target);
    let artifacts = directory.join("artifacts").join(target);
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut command = Command::new(programs.join(target));
    command.arg(&corpus);
    if seeds.is_dir() {
        command.arg(&seeds);
    }
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={INPUT_BYTES_MAX}"),
        format!("-timeout={INPUT_SECONDS_MAX}"),
        format!("-artifact_prefix={}/", artifacts.display()),
        String::from("-print_final_stats=1"),
        String::from("-verbosity=0"),
    ]);
    process::run(&mut command).with_context(|| {
        format!(
            "fuzz target {target} found something: the input is the newest file in {}; run it again with `{} FILE`",
            artifacts.display(),
            programs.join(target).display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_file_is_a_program_of_the_fuzz_package() {
        let directory = cargo::root().join("fuzz");
        let manifest = fs::read_to_string(directory.join("Cargo.toml")).expect("fuzz/Cargo.toml");
        for target in targets(&directory).expect("targets") {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target} is missing in fuzz/Cargo.toml");
        }
    }
}
