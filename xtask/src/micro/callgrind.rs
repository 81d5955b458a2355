//! Running the micro-workloads' own program, bare or under callgrind.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::PACKAGE;
use crate::{cargo, process};

/// Runs that are counted: they differ by their random inputs.
const RUNS: u64 = 3;

/// A workload, as its program names it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Workload {
    pub(super) name: String,
    pub(super) operation: String,
    /// It must not allocate.
    pub(super) is_per_packet: bool,
}

/// What was counted in all runs together.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Counts {
    pub(super) operations: u64,
    pub(super) allocations: u64,
    pub(super) allocated_bytes: u64,
    /// Not from the program itself.
    #[serde(skip)]
    pub(super) instructions: Option<u64>,
    #[serde(skip)]
    pub(super) runs: u64,
}

impl Counts {
    pub(super) fn operations_per_run(&self) -> f64 {
        self.operations as f64 / self.runs as f64
    }

    pub(super) fn allocations_per_op(&self) -> f64 {
        self.allocations as f64 / self.operations as f64
    }

    pub(super) fn allocated_bytes_per_op(&self) -> f64 {
        self.allocated_bytes as f64 / self.operations as f64
    }

    pub(super) fn instructions_per_op(&self) -> Option<f64> {
        Some(self.instructions? as f64 / self.operations as f64)
    }
}

/// The program, built in the release profile.
pub(super) struct Runner {
    program: PathBuf,
    /// For callgrind's output.
    directory: PathBuf,
}

impl Runner {
    pub(super) fn build() -> Result<Self> {
        process::run(cargo::cargo().args(["build", "--release", "--package", PACKAGE, "--bin", PACKAGE]))?;
        let target = cargo::workspace()?.target_directory;
        let directory = target.join("callgrind");
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { program: target.join("release").join(PACKAGE), directory })
    }

    pub(super) fn list(&self) -> Result<Vec<Workload>> {
        let text = output(Command::new(&self.program).arg("list"))?;
        serde_json::from_str(&text).with_context(|| format!("`{PACKAGE} list` printed something else: {text}"))
    }

    /// Counts each workload, in the given order; instructions only with `callgrind`. One process for each, as many at a time as there are CPUs:
    /// counts do not depend on time.
    pub(super) fn count(&self, workloads: &[Workload], callgrind: bool) -> Result<Vec<Counts>> {
        let next = AtomicUsize::new(0);
        let counted: Mutex<Vec<(usize, Result<Counts>)>> = Mutex::new(Vec::new());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(workload) = workloads.get(index) else { break };
                        let counts = self.count_one(index, workload, callgrind);
                        if let Ok(mut counted) = counted.lock() {
                            counted.push((index, counts));
                        }
                    }
                });
            }
        });
        let mut counted = counted.into_inner().unwrap_or_default();
        counted.sort_by_key(|(index, _)| *index);
        ensure!(counted.len() == workloads.len(), "a thread that counted has ended early");
        counted.into_iter().map(|(_, counts)| counts).collect()
    }

    fn count_one(&self, index: usize, workload: &Workload, callgrind: bool) -> Result<Counts> {
        // Other checkouts may count into the same directory.
        let file = self.directory.join(format!("{}-{index}.out", std::process::id()));
        let mut command = if callgrind { Command::new("valgrind") } else { Command::new(&self.program) };
        // The environment lies on the stack and moves what is below it, and alignment costs instructions.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if callgrind {
            // Only what the program asks for is counted (bench/micro/src/valgrind.rs). No cache is simulated.
            command.args(["--tool=callgrind", "--quiet", "--instr-atstart=no"]);
            command.arg(format!("--callgrind-out-file={}", file.display())).arg(&self.program);
        }
        command.args(["count", &workload.name, &RUNS.to_string()]);
        let text = output(&mut command)?;
        let mut counts: Counts =
            serde_json::from_str(&text).with_context(|| format!("`{}` printed no counts: {text}", process::line(&command)))?;
        ensure!(counts.operations > 0, "{} has no operations", workload.name);
        counts.runs = RUNS;
        if callgrind {
            let instructions = total(&file)?;
            std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
            ensure!(
                instructions > counts.operations,
                "callgrind counted {instructions} instructions of {}: nothing was instrumented",
                workload.name
            );
            counts.instructions = Some(instructions);
        }
        Ok(counts)
    }
}

/// What a program that must succeed prints.
fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", process::line(command)))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` failed ({}): {}", process::line(command), output.status, errors.trim());
    String::from_utf8(output.stdout).context("it printed something that is not text")
}

fn total(file: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("callgrind left no {}", file.display()))?;
    parse_total(&text).with_context(|| format!("{} has no totals", file.display()))
}

/// The sum in callgrind's file (valgrind's manual, "Callgrind Format Specification": `totals:` of the events, here only `Ir`).
fn parse_total(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("totals: "))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        assert_eq!(parse_total("events: Ir\nsummary: 0\n\nfn=(1)\n1 2\n\ntotals: 1416125\n"), Some(1_416_125));
        assert_eq!(parse_total("events: Ir\nsummary: 5\n"), None);
    }

    #[test]
    fn figures_are_those_of_one_operation() {
        let counts = Counts { operations: 60, allocations: 30, allocated_bytes: 600, instructions: Some(6000), runs: 3 };
        assert_eq!((counts.operations_per_run(), counts.allocations_per_op()), (20.0, 0.5));
        assert_eq!((counts.allocated_bytes_per_op(), counts.instructions_per_op()), (10.0, Some(100.0)));
    }

    #[test]
    fn a_program_that_fails_is_told_with_its_words() {
        let error = output(Command::new("sh").args(["-c", "echo alas >&2; exit 3"])).expect_err("it fails");
        assert!(error.to_string().contains("alas"), "{error}");
    }
}
