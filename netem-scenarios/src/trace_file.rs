//! Rate traces that users bring: `t_ms,mbps` lines, or Mahimahi's packet delivery opportunities.

use std::path::{Path, PathBuf};

use crate::scenario::RateStep;

/// Bytes of one delivery opportunity in a Mahimahi trace (its `PACKET_SIZE`: an MTU of 1500 and a 4-byte tunnel header).
const MAHIMAHI_OPPORTUNITY_BYTES: f64 = 1504.0;
/// Mahimahi opportunities are averaged over bins of this many milliseconds.
const MAHIMAHI_BIN_MS: u64 = 20;

/// Why a trace file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceFileError {
    /// The file could not be read.
    #[error("cannot read rate trace {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not what the format asks for.
    #[error("rate trace {} line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What was expected.
        problem: &'static str,
    },
}

/// A trace as read.
pub(crate) struct Trace {
    pub(crate) steps: Vec<RateStep>,
    /// Mahimahi traces repeat; step files do not unless the scenario says so.
    pub(crate) period_ms: Option<f64>,
}

/// Reads a trace: `.csv` is `t_ms,mbps`, anything else is Mahimahi.
pub(crate) fn read(path: &Path) -> Result<Trace, TraceFileError> {
    let text = std::fs::read_to_string(path).map_err(|source| TraceFileError::Read { path: path.to_owned(), source })?;
    let is_csv = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"));
    let parsed = if is_csv { parse_steps(&text) } else { parse_mahimahi(&text) };
    parsed.map_err(|(line, problem)| TraceFileError::Line { path: path.to_owned(), line, problem })
}

/// Lines that say something, with their numbers from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, line)| (n + 1, line.trim())).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn parse_steps(text: &str) -> Result<Trace, (usize, &'static str)> {
    let mut steps = Vec::new();
    for (number, line) in lines(text) {
        if steps.is_empty() && line.replace(' ', "") == "t_ms,mbps" {
            continue;
        }
        let mut fields = line.split(',').map(|f| f.trim().parse::<f64>());
        match (fields.next(), fields.next(), fields.next()) {
            (Some(Ok(t_ms)), Some(Ok(mbps)), None) => steps.push(RateStep { t_ms, mbps }),
            _ => return Err((number, "expected two numbers: t_ms,mbps")),
        }
    }
    if steps.is_empty() { Err((1, "the file has no steps")) } else { Ok(Trace { steps, period_ms: None }) }
}

fn parse_mahimahi(text: &str) -> Result<Trace, (usize, &'static str)> {
    let mut opportunities = Vec::new();
    for (number, line) in lines(text) {
        let ms: u64 = line.parse().map_err(|_| (number, "expected one whole number of milliseconds (Mahimahi), or name the file .csv"))?;
        if opportunities.last().is_some_and(|&before| ms < before) || ms > 1_000_000_000 {
            return Err((number, "times must not descend, nor pass 10^9 ms"));
        }
        opportunities.push(ms);
    }
    // A trace ends, and starts again, at its last opportunity.
    let period = match opportunities.last() {
        None => return Err((1, "the file has no delivery opportunities")),
        Some(0) => return Err((1, "the last time must be above 0")),
        Some(&last) => last,
    };
    let mut steps: Vec<RateStep> = Vec::new();
    let mut next = 0;
    let mut start = 0;
    while start < period {
        let end = (start + MAHIMAHI_BIN_MS).min(period);
        let first = next;
        while next < opportunities.len() && (opportunities[next] < end || end == period) {
            next += 1;
        }
        let mbps = (next - first) as f64 * MAHIMAHI_OPPORTUNITY_BYTES * 8.0 / ((end - start) as f64 * 1000.0);
        if steps.last().is_none_or(|before| before.mbps != mbps) {
            steps.push(RateStep { t_ms: start as f64, mbps });
        }
        start = end;
    }
    Ok(Trace { steps, period_ms: Some(period as f64) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_lines_with_a_heading_and_comments() {
        let trace = parse_steps("# drive\nt_ms, mbps\n0, 10\n500,2.5\n").expect("parses");
        assert_eq!(trace.steps, [RateStep { t_ms: 0.0, mbps: 10.0 }, RateStep { t_ms: 500.0, mbps: 2.5 }]);
        assert!(trace.period_ms.is_none());
        assert_eq!(parse_steps("0,1\n5").err(), Some((2, "expected two numbers: t_ms,mbps")));
    }

    #[test]
    fn mahimahi_opportunities_become_rates() {
        // One opportunity a millisecond = 12.032 Mbit/s.
        let text: String = (1..=100).map(|ms| format!("{ms}\n")).collect();
        let trace = parse_mahimahi(&text).expect("parses");
        assert_eq!(trace.period_ms, Some(100.0));
        let bits: f64 = trace
            .steps
            .iter()
            .zip(trace.steps.iter().skip(1).map(|s| s.t_ms).chain([100.0]))
            .map(|(step, end)| step.mbps * (end - step.t_ms) * 1000.0)
            .sum();
        assert!((bits - 100.0 * 1504.0 * 8.0).abs() < 1e-6, "{bits}");
        assert!(parse_mahimahi("5\n4\n").is_err());
        assert!(parse_mahimahi("").is_err());
    }
}
