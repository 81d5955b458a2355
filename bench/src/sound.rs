//! When a measurement is unsound, and what its report says then. Every benchmark asks here, so that all judge alike.

use tradewind_netem::stats::EmulatorStats;

/// Turns of a tool that differ by more than this of their median say little.
const SPREAD_MAX: f64 = 0.10;
/// Fewer turns than this show no spread.
const TURNS_MIN: usize = 5;
/// Cores that the emulator may take, which runs in one thread: the path would be slower than it claims to be.
const EMULATOR_CORES_MAX: f64 = 0.8;
/// Of all cores' time while something crossed the emulated path; beyond, the machine is measured and not the path.
const BUSY_MAX: f64 = 0.95;

/// The turns of `what` differ by this share of their median.
pub(crate) fn spread(what: &str, spread: f64) -> Option<String> {
    (spread > SPREAD_MAX).then(|| format!("{what}: the turns differ by {:.0} % of their median", spread * 100.0))
}

/// So many turns were counted of each tool.
pub(crate) fn turns(turns: impl Iterator<Item = usize>) -> Option<String> {
    let fewest = turns.min().filter(|&turns| turns < TURNS_MIN)?;
    Some(format!("turns of a tool that count: {fewest} at the least; fewer than {TURNS_MIN} show no spread"))
}

/// What the emulator saw in a turn.
pub(crate) fn emulator(what: &str, stats: &EmulatorStats) -> Vec<String> {
    emulated(what, &stats.invalid_reasons, emulator_cores(stats))
}

fn emulated(what: &str, invalid_reasons: &[String], cores: f64) -> Vec<String> {
    let mut warnings = Vec::new();
    if !invalid_reasons.is_empty() {
        warnings.push(format!("{what}: the emulator's run is not valid: {}", invalid_reasons.join("; ")));
    }
    if cores > EMULATOR_CORES_MAX {
        warnings.push(format!("{what}: the emulator took {:.0} % of a core; it may be what limits", cores * 100.0));
    }
    warnings
}

/// What share of all cores' time was taken by whomever in each turn over an emulated path (0 to 1).
pub(crate) fn machine(what: &str, busy: impl Iterator<Item = f64>) -> Option<String> {
    let busy: Vec<f64> = busy.collect();
    let full = busy.iter().filter(|&&busy| busy > BUSY_MAX).count();
    (full > 0).then(|| {
        let (turns, limit) = (busy.len(), BUSY_MAX * 100.0);
        format!("{what}: more than {limit:.0} % of all cores' time was taken in {full} of {turns} turns; the machine, not the path, may be what limits")
    })
}

/// Cores that the emulator took over its run.
pub(crate) fn emulator_cores(stats: &EmulatorStats) -> f64 {
    if stats.duration_s > 0.0 { stats.cpu_s / stats.duration_s } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_that_differ_by_a_tenth_pass_and_by_more_do_not() {
        assert_eq!(spread("a", 0.10), None);
        assert_eq!(spread("a", 0.12).as_deref(), Some("a: the turns differ by 12 % of their median"));
    }

    #[test]
    fn five_turns_of_each_tool_are_enough_and_four_of_one_are_not() {
        assert_eq!(turns([5, 6].into_iter()), None);
        assert!(turns([6, 4, 5].into_iter()).is_some_and(|warning| warning.contains("count: 4 at the least")));
        assert_eq!(turns(std::iter::empty()), None, "nothing was measured, which is said elsewhere");
    }

    #[test]
    fn an_emulator_with_time_to_spare_passes_and_one_that_fills_a_core_does_not() {
        assert_eq!(emulated("a", &[], 0.8), Vec::<String>::new());
        let warnings = emulated("a", &["late".to_owned(), "lossy".to_owned()], 0.81);
        let expected = ["a: the emulator's run is not valid: late; lossy", "a: the emulator took 81 % of a core; it may be what limits"];
        assert_eq!(warnings, expected);
    }

    #[test]
    fn a_machine_with_time_to_spare_passes_and_a_full_one_does_not() {
        assert_eq!(machine("a", [0.2, 0.95].into_iter()), None);
        assert_eq!(
            machine("a", [0.96, 0.2].into_iter()).as_deref(),
            Some("a: more than 95 % of all cores' time was taken in 1 of 2 turns; the machine, not the path, may be what limits")
        );
    }
}
