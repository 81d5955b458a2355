//! The counts that were accepted, and how others compare with them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::Verdict;
use super::callgrind::{Counts, Workload};
use super::made_with::MadeWith;
use crate::cargo;

/// Where they are kept, from the workspace's root.
pub(super) const FILE: &str = "bench/micro/baseline.json";

/// A count may move by so much either way, percent (issue 6). Less work is told too, or the next loss of as much would pass.
const TOLERANCE_PERCENT: f64 = 2.0;
/// The same of the cipher that only tests use: the compiler inlines it in one of two ways, 132 instructions (2.1 %) apart, as code elsewhere changes.
const RUSTCRYPTO_PERCENT: f64 = 3.0;
/// 2 % exactly is none too much, whatever floating point makes of it.
const ROUNDING_PERCENT: f64 = 1e-9;

/// Counts of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct PerOperation {
    instructions: f64,
    allocations: f64,
    allocated_bytes: f64,
}

/// Accepted counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Baseline {
    pub(super) made_with: MadeWith,
    workloads: BTreeMap<String, PerOperation>,
}

impl Baseline {
    pub(super) fn load() -> Result<Self> {
        let file = cargo::root().join(FILE);
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}; `cargo xtask bench micro --accept` makes it", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no baseline", file.display()))
    }

    pub(super) fn save(&self) -> Result<()> {
        let file = cargo::root().join(FILE);
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
    }

    /// Takes over what was counted; workloads that were not counted stay as they are in `before`.
    pub(super) fn new(before: Option<&Self>, workloads: &[Workload], counts: &[Counts], made_with: MadeWith) -> Result<Self> {
        if let Some(why) = before.and_then(|before| before.made_with.not_comparable(&made_with)) {
            anyhow::bail!("{why}: accept all workloads, without a filter");
        }
        let mut accepted = before.map_or_else(BTreeMap::new, |before| before.workloads.clone());
        for (workload, counts) in workloads.iter().zip(counts) {
            let instructions = counts.instructions_per_op().context("without valgrind nothing can be accepted")?;
            let (allocations, allocated_bytes) = (rounded(counts.allocations_per_op()), rounded(counts.allocated_bytes_per_op()));
            accepted.insert(workload.name.clone(), PerOperation { instructions: rounded(instructions), allocations, allocated_bytes });
        }
        ensure!(!accepted.is_empty(), "there is nothing to accept");
        Ok(Self { made_with, workloads: accepted })
    }

    /// What differs from an earlier one, in lines.
    pub(super) fn changes(&self, before: Option<&Self>) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, now) in &self.workloads {
            let old = before.and_then(|before| before.workloads.get(name));
            if old != Some(now) {
                let old = old.map_or_else(|| String::from("new"), |old| format!("was {}", words(old)));
                lines.push(format!("{name}: {} ({old})", words(now)));
            }
        }
        lines
    }

    /// Compares, and prints a line for each workload. Instructions only where they were counted.
    pub(super) fn compare(&self, workloads: &[Workload], counts: &[Counts], here: &MadeWith) -> Verdict {
        let mut verdict = Verdict::default();
        for (workload, counts) in workloads.iter().zip(counts) {
            let name = &workload.name;
            let Some(known) = self.workloads.get(name) else {
                verdict.failures.push(format!("{name} is not in {FILE}; if it is new: cargo xtask bench micro --accept {name}"));
                continue;
            };
            println!("{}", line(name, known, counts));
            let problems = differences(workload, known, counts);
            if problems.is_empty() {
                verdict.passed += 1;
                continue;
            }
            let changes = self.made_with.changes(here);
            let others = if changes.is_empty() { String::new() } else { format!(". Changed since: {}", changes.join(", ")) };
            let how = if workload.is_per_packet && counts.allocations > 0 {
                String::from("An allocation for each packet is not accepted: take it out")
            } else {
                format!("If that is meant: cargo xtask bench micro --accept {name}, and commit {FILE}")
            };
            verdict.failures.push(format!("{name}: {}{others}. {how}", problems.join("; ")));
        }
        for name in self.workloads.keys().filter(|name| workloads.iter().all(|workload| workload.name != **name)) {
            verdict
                .failures
                .push(format!("{name} is in {FILE} but there is no such workload; cargo xtask bench micro --accept forgets it"));
        }
        verdict
    }
}

/// Two decimals are more than any count is sure of.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn words(counts: &PerOperation) -> String {
    format!("{} instructions, {} allocations of {} bytes", counts.instructions, counts.allocations, counts.allocated_bytes)
}

fn line(name: &str, known: &PerOperation, counts: &Counts) -> String {
    let instructions = counts
        .instructions_per_op()
        .map_or_else(String::new, |now| format!("{now:.2} instructions ({:+.2} %), ", moved_percent(known.instructions, now)));
    format!("{name}: {instructions}{:.2} allocations", counts.allocations_per_op())
}

fn moved_percent(then: f64, now: f64) -> f64 {
    (now / then - 1.0) * 100.0
}

/// What of a workload is not as it was.
fn differences(workload: &Workload, known: &PerOperation, counts: &Counts) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(now) = counts.instructions_per_op() {
        let (then, moved) = (known.instructions, moved_percent(known.instructions, now));
        let most = if workload.name.contains("/rustcrypto/") { RUSTCRYPTO_PERCENT } else { TOLERANCE_PERCENT };
        if moved.is_nan() || moved.abs() > most + ROUNDING_PERCENT {
            problems.push(format!("{now:.2} instructions per operation, were {then:.2} ({moved:+.1} %, more than {most} %)"));
        }
    }
    let (then, now) = (known.allocations, rounded(counts.allocations_per_op()));
    if now > then {
        problems.push(format!("{now} allocations per operation, were {then}"));
    }
    if workload.is_per_packet && counts.allocations > 0 {
        problems.push(format!("{} allocations where each packet passes, which must not be", counts.allocations));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::made_with;
    use super::*;

    const OPERATIONS: u64 = 300;

    fn workload(is_per_packet: bool) -> Workload {
        Workload { name: String::from("a/b"), operation: String::new(), is_per_packet }
    }

    fn counts(instructions: u64, allocations: u64) -> Counts {
        Counts { operations: OPERATIONS, allocations, allocated_bytes: 0, instructions: Some(instructions * OPERATIONS / 100), runs: 3 }
    }

    /// The verdict on other counts where 100.00 instructions and one allocation were accepted.
    fn verdict(is_per_packet: bool, now: &Counts) -> Verdict {
        let then = [counts(10_000, if is_per_packet { 0 } else { OPERATIONS })];
        let accepted = Baseline::new(None, &[workload(is_per_packet)], &then, made_with::example()).expect("counted");
        accepted.compare(&[workload(is_per_packet)], std::slice::from_ref(now), &made_with::example())
    }

    #[test]
    fn two_percent_pass_and_more_fail_either_way() {
        for passes in [10_000, 10_200, 9_800] {
            assert_eq!(verdict(true, &counts(passes, 0)), Verdict { passed: 1, ..Verdict::default() }, "{passes}");
        }
        for fails in [10_201, 9_799, 20_000, 0] {
            let verdict = verdict(true, &counts(fails, 0));
            assert_eq!((verdict.passed, verdict.failures.len()), (0, 1), "{fails}");
        }
        let text = &verdict(true, &counts(10_300, 0)).failures[0];
        assert_eq!(
            text,
            "a/b: 103.00 instructions per operation, were 100.00 (+3.0 %, more than 2 %). If that is meant: \
             cargo xtask bench micro --accept a/b, and commit bench/micro/baseline.json"
        );
    }

    #[test]
    fn one_more_allocation_fails_and_fewer_pass() {
        assert!(verdict(true, &counts(10_000, 1)).failures[0].ends_with("take it out"));
        assert_eq!(verdict(false, &counts(10_000, OPERATIONS)).passed, 1);
        assert_eq!(verdict(false, &counts(10_000, 0)).passed, 1);
        assert!(verdict(false, &counts(10_000, 2 * OPERATIONS)).failures[0].contains("2 allocations per operation, were 1"));
    }

    #[test]
    fn allocations_are_compared_without_valgrind() {
        let bare = |allocations| Counts { instructions: None, ..counts(0, allocations) };
        assert_eq!(verdict(true, &bare(0)).passed, 1);
        assert_eq!(verdict(true, &bare(1)).failures.len(), 1);
    }

    #[test]
    fn workloads_that_only_one_side_knows_fail() {
        let accepted = Baseline::new(None, &[workload(true)], &[counts(10_000, 0)], made_with::example()).expect("counted");
        let other = Workload { name: String::from("c/d"), ..workload(true) };
        let verdict = accepted.compare(&[other], &[counts(10_000, 0)], &made_with::example());
        assert_eq!((verdict.passed, verdict.failures.len()), (0, 2));
    }

    #[test]
    fn a_part_is_accepted_into_what_is_there_but_not_with_other_tools() {
        let both = [workload(true), Workload { name: String::from("c/d"), ..workload(true) }];
        let accepted = Baseline::new(None, &both, &[counts(10_000, 0), counts(20_000, 0)], made_with::example()).expect("counted");
        let again = Baseline::new(Some(&accepted), &both[..1], &[counts(11_000, 0)], made_with::example()).expect("counted");
        assert_eq!((again.workloads["a/b"].instructions, again.workloads["c/d"].instructions), (110.0, 200.0));
        assert_eq!(again.changes(Some(&accepted)).len(), 1);
        let newer = MadeWith { rustc: String::from("rustc 2"), ..made_with::example() };
        assert!(Baseline::new(Some(&accepted), &both[..1], &[counts(11_000, 0)], newer).is_err());
    }
}
