//! `cargo xtask test`: builds everything once, then runs the test programs one after the other. Tests that own network
//! namespaces or measure time must not compete for two cores, so programs never run side by side, and those of
//! [`SERIAL_PACKAGES`] run one test at a time. One of these that fails is run once more, alone (ADR 0022); what passes only then is named.
//!
//! Three lines that a test may print mean something here (libtest keeps a passing test's output; we ask for it):
//! - `SKIP: reason` — it could not test what it says; all of them are listed at the end;
//! - `AFXDP-TEST-RAN name mode` — it moved packets through an AF_XDP socket. A full run fails without one where the machine
//!   supports AF_XDP;
//! - `CONFORMANCE {row}` — what a storage platform's checks found, a row of the table that is printed at the end ([`stores`]).

mod afxdp;
mod output;
mod programs;
mod stores;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{cargo, micro, process, setup};
use micro::Verdict;
use output::Tally;
use programs::Program;

/// Packages whose tests run one at a time.
const SERIAL_PACKAGES: [&str; 4] = ["tradewind-xdp", "tradewind-netem", "tradewind-tests", "tradewind-storage"];

/// The package of the end-to-end tests.
const END_TO_END: &str = "tradewind-tests";

/// The test program with the checks of storage platforms.
const STORES: (&str, &str) = ("tradewind-storage", "test stores");

/// Packages whose test files may be named to run only these.
const FILE_PACKAGES: [&str; 2] = [END_TO_END, "tradewind-storage"];

/// Packages whose tests start programs of the whole workspace.
const END_TO_END_PACKAGES: [&str; 4] = ["tradewind-tests", "tradewind-bench", "tradewindd", "tradewind-cli"];

/// Packages with tests that go through AF_XDP: only a run of both can say that none ran.
const AFXDP_PACKAGES: [&str; 2] = ["tradewind-xdp", "tradewind-tests"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Packages to test, with or without `tradewind-`, or tests by their file in `tests/tests` or `storage-io/tests`: trees, resume, stores (default: all)
    packages: Vec<String>,
    /// Write the conformance table of storage platforms to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Arguments for the test programs, such as a part of a test's name
    #[arg(last = true)]
    filters: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    setup::run()?;
    let workspace = cargo::workspace()?;
    let named: Vec<(&str, &str)> = FILE_PACKAGES
        .into_iter()
        .flat_map(|name| workspace.packages.iter().filter(move |package| package.name == name).map(move |package| (name, package)))
        .flat_map(|(name, package)| package.targets.iter().map(move |target| (name, target)))
        .filter(|(_, (kind, _))| kind == "test")
        .filter_map(|(name, (_, path))| Some((name, path.file_stem()?.to_str()?)))
        .filter(|(_, file)| arguments.packages.iter().any(|wanted| wanted == file))
        .collect();
    let names = || workspace.packages.iter().map(|package| package.name.as_str());
    let wanted = arguments.packages.iter().map(String::as_str);
    // A name that is both means both.
    let of_packages: Vec<&str> =
        wanted.filter(|name| named.iter().all(|(_, file)| file != name) || names().any(|package| is_called(package, name))).collect();
    let whole = if of_packages.is_empty() && !named.is_empty() { Vec::new() } else { choose(&of_packages, names())? };
    // Only these files of a package, unless all of it is wanted.
    let partly = FILE_PACKAGES.into_iter().filter(|name| !whole.contains(name) && named.iter().any(|(package, _)| package == name));
    let chosen: Vec<&str> = whole.iter().copied().chain(partly).collect();
    let is_end_to_end = chosen.iter().any(|package| END_TO_END_PACKAGES.contains(package));
    if is_end_to_end {
        // These tests start the programs themselves; they find them in TRADEWIND_BIN_DIR.
        // With --tests, so that dependencies get the features that the tests ask for and are not built twice.
        process::run(cargo::cargo().args(["build", "--workspace", "--bins", "--tests"]))?;
    }
    let mut tests = programs::build(&workspace, &chosen, is_end_to_end)?;
    tests.retain(|program| {
        let is_named = |(package, file): &(&str, &str)| program.package == *package && program.name == format!("test {file}");
        whole.contains(&program.package.as_str()) || named.iter().any(is_named)
    });
    tests.sort_by_key(|program| (is_serial(&program.package), program.package.clone(), program.name.clone()));

    let mut tally = Tally::default();
    for program in &tests {
        run_program(program, arguments, &workspace, &mut tally)?;
    }
    if arguments.filters.is_empty() {
        doc_tests(&workspace, &whole, &mut tally)?;
        if whole.contains(&micro::PACKAGE) {
            micro_benches(&mut tally);
        }
    }
    let complete = arguments.filters.is_empty() && AFXDP_PACKAGES.iter().all(|package| whole.contains(package));
    let all_stores =
        arguments.filters.is_empty() && tests.iter().any(|program| (program.package.as_str(), program.name.as_str()) == STORES);
    let problems = stores::report(&tally.conformance, all_stores, arguments.json.as_deref())?;
    summarise(&tally, complete, problems, started)
}

fn is_serial(package: &str) -> bool {
    SERIAL_PACKAGES.contains(&package)
}

fn is_called(package: &str, name: &str) -> bool {
    package == name || package.strip_prefix("tradewind-") == Some(name)
}

/// The packages meant by `wanted`, out of `all`; all of them if nothing is wanted.
fn choose<'a>(wanted: &[&str], all: impl Iterator<Item = &'a str>) -> Result<Vec<&'a str>> {
    let all: Vec<_> = all.collect();
    if wanted.is_empty() {
        return Ok(all);
    }
    let mut chosen = Vec::new();
    for name in wanted {
        let found = all.iter().find(|package| is_called(package, name));
        chosen.push(*found.with_context(|| format!("there is no package {name}; there are: {}", all.join(", ")))?);
    }
    Ok(chosen)
}

fn run_program(program: &Program, arguments: &Arguments, workspace: &cargo::Workspace, tally: &mut Tally) -> Result<()> {
    let name = format!("{} {}", program.package, program.name);
    println!("\n== {name}");
    let run = |filters: &[String], tally: &mut Tally| {
        let mut command = program.command();
        command.arg("--show-output").args(filters);
        if is_serial(&program.package) {
            command.arg("--test-threads=1");
        }
        command.env("TRADEWIND_BIN_DIR", workspace.target_directory.join("debug"));
        setup::point_to_programs(process::without_store_variables(&mut command))?;
        output::run(&mut command, &name, tally)
    };
    let mut first = Tally::default();
    run(&arguments.filters, &mut first)?;
    if is_serial(&program.package) && program.name.starts_with("test ") && first.failures_are_few() {
        for test in std::mem::take(&mut first.failures) {
            let only = test.strip_prefix(&format!("{name}: ")).unwrap_or(&test);
            println!("\n== {name}: {only} once more, alone");
            let mut second = Tally::default();
            run(&[String::from("--exact"), only.to_owned()], &mut second)?;
            first.settle(test, second);
        }
    }
    tally.add(first);
    Ok(())
}

/// Examples in documentation, which cargo alone can run.
fn doc_tests(workspace: &cargo::Workspace, chosen: &[&str], tally: &mut Tally) -> Result<()> {
    let mut command = cargo::cargo();
    command.args(["test", "--doc", "--quiet"]);
    let mut any = false;
    for package in &workspace.packages {
        if chosen.contains(&package.name.as_str()) && package.targets.iter().any(|(kind, _)| kind == "lib") {
            command.args(["--package", &package.name]);
            any = true;
        }
    }
    if !any {
        return Ok(());
    }
    println!("\n== examples in documentation");
    output::run(&mut command, "doc tests", tally)
}

/// Compares what the micro-benches count with what was accepted; each workload is a test.
fn micro_benches(tally: &mut Tally) {
    println!("\n== {}: instructions and allocations", micro::PACKAGE);
    let started = Instant::now();
    // What cannot be counted is a failure like another: the summary follows.
    let verdict =
        micro::compare().unwrap_or_else(|error| Verdict { failures: vec![format!("{}: {error:#}", micro::PACKAGE)], ..Verdict::default() });
    for failure in &verdict.failures {
        println!("FAILED {failure}");
    }
    println!("{} workloads as they were, {} not, in {} s", verdict.passed, verdict.failures.len(), started.elapsed().as_secs());
    tally.passed += verdict.passed;
    tally.failed += verdict.failures.len() as u64;
    tally.failures.extend(verdict.failures);
    tally.skips.extend(verdict.skip);
}

/// Prints what happened; an error if anything failed or is a `further` problem, nothing ran, or AF_XDP was possible and not tested.
fn summarise(tally: &Tally, complete: bool, further: Vec<String>, started: Instant) -> Result<()> {
    println!("\n== summary");
    for skip in &tally.skips {
        println!("SKIP: {skip}");
    }
    for line in &tally.afxdp {
        println!("through AF_XDP: {line}");
    }
    for test in &tally.unsteady {
        println!("failed, then passed alone: {test}");
    }
    let mut problems: Vec<String> = tally.failures.iter().map(|failure| format!("failed: {failure}")).collect();
    problems.extend(further);
    if tally.passed + tally.failed == 0 {
        problems.push(String::from("no test ran"));
    }
    if complete && tally.afxdp.is_empty() {
        match afxdp::missing() {
            None => problems.push(String::from(
                "this machine supports AF_XDP (root, AF_XDP sockets and veth pairs in a network namespace), but no test went through it",
            )),
            Some(reason) => println!("AF_XDP was not tested: {reason}"),
        }
    }
    for problem in &problems {
        println!("{problem}");
    }
    println!("took {} s", started.elapsed().as_secs());
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.ignored + tally.skips.len() as u64);
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_chosen_by_short_or_full_name() {
        let all = ["tradewind-netio", "tradewind-xdp", "tradewindd"];
        let chosen = |wanted: &[&str]| choose(wanted, all.into_iter());
        assert_eq!(chosen(&[]).expect("all"), all);
        assert_eq!(chosen(&["xdp", "tradewindd"]).expect("known"), ["tradewind-xdp", "tradewindd"]);
        assert_eq!(chosen(&["tradewind-netio"]).expect("known"), ["tradewind-netio"]);
        let error = chosen(&["net"]).expect_err("unknown").to_string();
        assert!(error.contains("no package net") && error.contains("tradewind-xdp"), "{error}");
    }

    #[test]
    fn failures_and_empty_runs_are_errors() {
        let passed = Tally { passed: 1, ..Tally::default() };
        assert!(summarise(&passed, false, Vec::new(), Instant::now()).is_ok());
        assert!(summarise(&Tally::default(), false, Vec::new(), Instant::now()).is_err(), "nothing ran");
        let failed = Tally { passed: 9, failed: 1, failures: vec![String::from("x")], ..Tally::default() };
        assert!(summarise(&failed, false, Vec::new(), Instant::now()).is_err());
        assert!(summarise(&passed, false, vec![String::from("a row is missing")], Instant::now()).is_err());
        let with_afxdp = Tally { passed: 1, afxdp: vec![String::from("veth copy")], ..Tally::default() };
        assert!(summarise(&with_afxdp, true, Vec::new(), Instant::now()).is_ok());
        assert_eq!(
            summarise(&passed, true, Vec::new(), Instant::now()).is_err(),
            afxdp::missing().is_none(),
            "an error only where it is possible"
        );
    }
}
