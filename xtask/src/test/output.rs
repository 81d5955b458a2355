//! Running a test program and reading what libtest prints.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::stores::Row;
use crate::process;

/// A test program that takes longer than this has hung; the same where objects above 5 GiB are checked too.
const PROGRAM_TIME_MAX: Duration = Duration::from_secs(25 * 60);
const PROGRAM_TIME_NIGHTLY: Duration = Duration::from_secs(3 * 60 * 60);

/// After a program has ended, its output can be held open by something that it left behind; wait no longer for that.
const REST_TIME_MAX: Duration = Duration::from_secs(5);

/// What happened in all programs so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
    /// Tests and programs that failed.
    pub(super) failures: Vec<String>,
    /// Reasons given by tests that could not test, with the test's name.
    pub(super) skips: Vec<String>,
    /// Tests that went through AF_XDP.
    pub(super) afxdp: Vec<String>,
    /// What the checks of storage platforms found.
    pub(super) conformance: Vec<Row>,
    /// Tests that failed at first and passed when they ran again.
    pub(super) unsteady: Vec<String>,
    /// Whether a program ended without a verdict.
    pub(super) crashed: bool,
}

/// More failures of one program than this are no accident.
const ACCIDENTS_MAX: usize = 2;

impl Tally {
    /// Whether tests failed, but so few that each may have been disturbed by what else the machine did. A program that crashed is no accident.
    pub(super) fn failures_are_few(&self) -> bool {
        !self.crashed && (1..=ACCIDENTS_MAX).contains(&self.failures.len()) && self.failed == self.failures.len() as u64
    }

    /// The verdict on a test that has failed, by its second run.
    pub(super) fn settle(&mut self, test: String, second: Self) {
        if (second.passed, second.failed, second.failures.len(), second.skips.len()) == (1, 0, 0, 0) {
            self.failed -= 1;
            self.passed += 1;
            self.unsteady.push(test);
        } else {
            self.failures.push(test);
        }
        self.afxdp.extend(second.afxdp);
        self.skips.extend(second.skips);
        self.conformance.retain(|row| !second.conformance.iter().any(|again| again.is_same_platform(row)));
        self.conformance.extend(second.conformance);
    }

    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
        self.afxdp.extend(other.afxdp);
        self.conformance.extend(other.conformance);
        self.unsteady.extend(other.unsteady);
    }
}

/// Runs a test program that was told `--show-output`, prints what matters at once, and counts.
pub(super) fn run(command: &mut Command, name: &str, tally: &mut Tally) -> Result<()> {
    run_with(command, name, tally, &mut |line| println!("{line}"))
}

fn program_time_max() -> Duration {
    let is_nightly = std::env::var_os("TRADEWIND_NIGHTLY").is_some_and(|value| !value.is_empty());
    if is_nightly { PROGRAM_TIME_NIGHTLY } else { PROGRAM_TIME_MAX }
}

fn run_with(command: &mut Command, name: &str, tally: &mut Tally, echo: &mut dyn FnMut(&str)) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{}`", process::line(command)))?;
    let stdout = child.stdout.take().context("the test program has no output")?;
    let (sender, lines) = channel();
    // Reads on while we wait for the program to end; ends with its output.
    std::thread::spawn(move || {
        for line in lines_of(stdout) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut reader = Reader::new(name, tally, echo);
    let ended = follow(&mut child, &lines, &mut reader)?;
    let failed_before = reader.failed;
    let held_back = std::mem::take(&mut reader.held_back);
    match ended {
        Some(status) if status.success() => {}
        other => {
            for line in held_back {
                echo(&line);
            }
            let why = other
                .map_or_else(|| format!("still running after {} s, killed", program_time_max().as_secs()), |status| status.to_string());
            // 101 is libtest's for tests that failed.
            tally.crashed |= failed_before == 0 || ended.is_none_or(|status| status.code() != Some(101));
            if failed_before == 0 {
                // It crashed or hung: no test says so.
                tally.failed += 1;
                tally.failures.push(format!("{name} ({why})"));
            }
        }
    }
    Ok(())
}

fn lines_of(stdout: impl Read) -> impl Iterator<Item = String> {
    BufReader::new(stdout).split(b'\n').map_while(Result::ok).map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// Hands lines to `reader` until the program has ended; `None` if it had to be killed.
fn follow(child: &mut Child, lines: &Receiver<String>, reader: &mut Reader<'_>) -> Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + program_time_max();
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => reader.line(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                if child.try_wait().context("cannot wait for the test program")?.is_some() {
                    let rest_deadline = Instant::now() + REST_TIME_MAX;
                    while let Ok(line) = lines.recv_timeout(rest_deadline.saturating_duration_since(Instant::now())) {
                        reader.line(line);
                    }
                    break;
                }
            }
        }
        if Instant::now() > deadline {
            child.kill().context("cannot kill the test program")?;
            child.wait().context("cannot wait for the test program")?;
            return Ok(None);
        }
    }
    Ok(Some(child.wait().context("cannot wait for the test program")?))
}

/// Understands libtest's output line by line.
struct Reader<'a> {
    program: &'a str,
    tally: &'a mut Tally,
    /// The test whose output is being shown.
    test: Option<String>,
    /// Tests of this program that failed.
    failed: u64,
    /// Output of tests, printed only if the program fails.
    held_back: Vec<String>,
    echo: &'a mut dyn FnMut(&str),
}

impl<'a> Reader<'a> {
    fn new(program: &'a str, tally: &'a mut Tally, echo: &'a mut dyn FnMut(&str)) -> Self {
        Self { program, tally, test: None, failed: 0, held_back: Vec::new(), echo }
    }

    fn line(&mut self, line: String) {
        if let Some(test) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.test = Some(test.to_owned());
        } else if line == "successes:" || line == "failures:" {
            self.test = None;
        }
        // Prints of child processes are not captured and stand wherever they fall, so look inside the line.
        if let Some((_, reason)) = line.split_once("SKIP: ") {
            let test = self.test.as_deref().unwrap_or(self.program);
            self.tally.skips.push(format!("{test}: {reason}"));
        }
        if let Some((_, which)) = line.split_once("AFXDP-TEST-RAN ") {
            self.tally.afxdp.push(which.to_owned());
        }
        if let Some((_, row)) = line.split_once("CONFORMANCE ") {
            match serde_json::from_str::<Row>(row) {
                Ok(row) => self.tally.conformance.push(row),
                Err(error) => self.tally.failures.push(format!("{}: a line of the conformance table: {error}", self.program)),
            }
        }
        let is_verdict = self.test.is_none() && line.starts_with("test ");
        if is_verdict && let Some(test) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.tally.failures.push(format!("{}: {test}", self.program));
        }
        let counts = line.strip_prefix("test result: ");
        if let Some(counts) = counts {
            self.tally.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
            self.tally.failed += count(counts, "failed");
            self.tally.ignored += count(counts, "ignored");
            self.test = None;
        }
        if counts.is_some() || is_verdict {
            (self.echo)(&line);
        } else {
            self.held_back.push(line);
        }
    }
}

/// The number before `word` in "ok. 3 passed; 1 failed; …".
fn count(counts: &str, word: &str) -> u64 {
    let number = |part: &str| part.trim().strip_suffix(word)?.trim().rsplit(' ').next()?.parse().ok();
    counts.split(';').find_map(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Nothing is printed here: the xtask that runs this test reads its output, too.
    fn read(text: &str) -> Tally {
        let mut tally = Tally::default();
        let mut echo = |_: &str| {};
        let mut reader = Reader::new("a lib", &mut tally, &mut echo);
        text.lines().for_each(|line| reader.line(line.to_owned()));
        tally
    }

    /// What a shell script that acts as a test program leads to, and what would be printed.
    fn of_script(script: &str) -> (Tally, Vec<String>) {
        let (mut tally, mut printed) = (Tally::default(), Vec::new());
        run_with(Command::new("sh").args(["-c", script]), "x", &mut tally, &mut |line| printed.push(line.to_owned())).expect("sh");
        (tally, printed)
    }

    #[test]
    fn results_skips_and_afxdp_lines_are_counted() {
        let tally = read(
            "running 4 tests\ntest a::b ... ok\ntest c ... ignored\ntest d ... FAILED\n\nsuccesses:\n\n---- a::b stdout ----\n\
             SKIP: not root\nAFXDP-TEST-RAN a::b generic\n\nfailures:\n\n---- d stdout ----\nassertion failed\n\n\
             test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s\n",
        );
        assert_eq!((tally.passed, tally.failed, tally.ignored), (2, 1, 1));
        assert_eq!(tally.failures, ["a lib: d"]);
        assert_eq!(tally.skips, ["a::b: not root"]);
        assert_eq!(tally.afxdp, ["a::b generic"]);
    }

    #[test]
    fn what_tests_print_is_no_verdict() {
        let tally = read(
            "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\ntest b ... FAILED\n\nsuccesses:\n    a\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n",
        );
        assert_eq!((tally.passed, tally.failed, tally.failures), (1, 0, Vec::new()));
    }

    #[test]
    fn what_passes_the_second_time_is_named() {
        let failed = || read("test a ... FAILED\ntest b ... ok\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n");
        let settled = |second: &str| {
            let mut first = failed();
            assert!(first.failures_are_few());
            let test = first.failures.remove(0);
            first.settle(test, read(second));
            let mut all = Tally { passed: 5, ..Tally::default() };
            all.add(first);
            (all.passed, all.failed, all.failures, all.unsteady)
        };
        let (none, one) = (Vec::<String>::new(), vec![String::from("a lib: a")]);
        assert_eq!(settled("test a ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n"), (7, 0, none.clone(), one.clone()));
        let again = "test a ... FAILED\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n";
        assert_eq!(settled(again), (6, 1, one.clone(), none.clone()));
        assert_eq!(
            settled("test result: ok. 0 passed; 0 failed; 0 ignored\n"),
            (6, 1, one, none),
            "a test that was not found has not passed"
        );
        assert!(!Tally::default().failures_are_few());
        let three = "test a ... FAILED\ntest b ... FAILED\ntest c ... FAILED\ntest result: FAILED. 0 passed; 3 failed; 0 ignored\n";
        assert!(!read(three).failures_are_few(), "too many");
        assert!(!of_script("exit 3").0.failures_are_few(), "a crash");
        let verdict = "echo 'test a ... FAILED'; echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'";
        assert!(!of_script(&format!("{verdict}; kill -9 $$")).0.failures_are_few(), "a crash behind the verdict");
        assert!(of_script(&format!("{verdict}; exit 101")).0.failures_are_few());
        let skips = "successes:\n\n---- a stdout ----\nSKIP: not root\n\nsuccesses:\n    a\n\n";
        assert_eq!(
            settled(&format!("test a ... ok\n\n{skips}test result: ok. 1 passed; 0 failed; 0 ignored\n")).1,
            1,
            "skipped is not passed"
        );
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let (tally, printed) = of_script("echo 'test a ... ok'; echo why; exit 3");
        assert_eq!((tally.failed, tally.failures), (1, vec![String::from("x (exit status: 3)")]));
        assert_eq!(printed, ["test a ... ok", "why"], "what was held back is shown");
        let (tally, _) = of_script("echo 'test a ... FAILED'; echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'; exit 101");
        assert_eq!((tally.failed, tally.failures), (1, vec![String::from("x: a")]), "counted once");
    }

    #[test]
    fn what_a_program_leaves_running_does_not_hold_us_up() {
        let start = Instant::now();
        let (tally, printed) = of_script("sleep 120 2>/dev/null & echo noise; echo 'test result: ok. 1 passed; 0 failed; 0 ignored'");
        assert_eq!((tally.passed, tally.failed), (1, 0));
        assert_eq!(printed.len(), 1, "a passing program's noise is not shown");
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
