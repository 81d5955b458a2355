//! The load process, from the bench's side.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::load::Answer;
use crate::process::{Interrupt, tail, tree_cpu_s};
use crate::testbed::{REST_PORT, Testbed, as_user};

const POLL: Duration = Duration::from_millis(50);
/// How long a sample may take: a thousand lanes may be in its way.
const SAMPLE_DEADLINE: Duration = Duration::from_secs(180);

/// A running `tradewind-bench load` in the client's namespace. Dropping it ends it.
pub(super) struct LoadProcess {
    child: Child,
    commands: Option<ChildStdin>,
    answers: Receiver<Answer>,
    log: std::path::PathBuf,
    interrupt: Interrupt,
}

impl LoadProcess {
    /// Starts it with so many uploads.
    pub(super) fn start(testbed: &Testbed, lanes: usize, at_once: usize, destination: &str) -> Result<Self> {
        let server = format!("{}:{REST_PORT}", testbed.rest_address());
        let log = testbed.path("load.log");
        let mut command = testbed.client(&testbed.programs.ours("tradewind-bench"));
        as_user(&mut command, testbed.folder.path(), &server);
        command.args(["load", "--server", &server, "--lanes", &lanes.to_string(), "--at-once", &at_once.to_string()]);
        command.args(["--destination", destination, "--folder"]).arg(testbed.folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(std::fs::File::create(&log)?).process_group(0);
        let mut child = command.spawn().context("cannot start the load process")?;
        let (sender, answers) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                let lines = BufReader::new(out).lines().map_while(Result::ok);
                for answer in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                    if sender.send(answer).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self { commands: child.stdin.take(), child, answers, log, interrupt: testbed.interrupt.clone() })
    }

    /// `ip netns exec` becomes the program, so this is its own.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn cpu_s(&self) -> f64 {
        tree_cpu_s(self.child.id())
    }

    pub(super) fn tell(&mut self, command: &str) -> Result<()> {
        let commands = self.commands.as_mut().context("the load process was told to end")?;
        writeln!(commands, "{command}")
            .and_then(|()| commands.flush())
            .with_context(|| format!("the load process has ended:\n{}", self.tail()))
    }

    /// Its next answer.
    pub(super) fn answer(&self, deadline: Duration) -> Result<Answer> {
        let until = Instant::now() + deadline;
        loop {
            self.interrupt.check()?;
            match self.answers.recv_timeout(POLL) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(RecvTimeoutError::Timeout) => bail!("the load process said nothing for {} s:\n{}", deadline.as_secs(), self.tail()),
                Err(RecvTimeoutError::Disconnected) => bail!("the load process ended early:\n{}", self.tail()),
            }
        }
    }

    /// What the receivers hold now: a pair for each lane, seconds and bytes.
    pub(super) fn sample(&mut self) -> Result<Vec<(f64, u64)>> {
        self.tell("sample")?;
        match self.answer(SAMPLE_DEADLINE)? {
            Answer::Sample { lanes } => Ok(lanes),
            other => bail!("not a sample: {other:?}"),
        }
    }

    fn tail(&self) -> String {
        tail(&std::fs::read_to_string(&self.log).unwrap_or_default())
    }
}

impl Drop for LoadProcess {
    fn drop(&mut self) {
        // The end of its input cancels its uploads; a process that does not end by that is killed.
        self.commands = None;
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Goodput of each lane between two samples of the same lanes, bit/s of payload: each over the time between its own two.
pub(super) fn goodput_bps(before: &[(f64, u64)], after: &[(f64, u64)]) -> Vec<f64> {
    let of = |((t0, b0), (t1, b1)): (&(f64, u64), &(f64, u64))| {
        let seconds = t1 - t0;
        if seconds > 0.0 { b1.saturating_sub(*b0) as f64 * 8.0 / seconds } else { 0.0 }
    };
    before.iter().zip(after).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goodput_is_over_each_lanes_own_time() {
        let rates = goodput_bps(&[(1.0, 0), (1.0, 500), (2.0, 7)], &[(2.0, 1000), (3.0, 1500), (2.0, 7)]);
        assert_eq!(rates, [8000.0, 4000.0, 0.0]);
    }
}
