//! How rows look.

use std::fmt::{Display, Formatter, Result};

use super::lanes::Row;
use super::load::Quantiles;
use super::soak::Soak;
use super::spike::Spike;

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let over_one = self.over_one_lane.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"));
        write!(
            f,
            "{:>5} {:>6} {:>6} {:>7.2} {:>7.2} {:>6} {:>6.3} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>8.2} {:>9.2} {:>6.2}",
            self.lanes,
            self.opened,
            self.failed,
            self.gbit_per_s,
            self.gbit_per_s_whole,
            over_one,
            self.jain,
            self.first_block_p50_ms,
            self.first_block_p99_ms,
            self.idle_bytes_per_lane / 1024.0,
            self.running_bytes_per_lane / 1024.0,
            self.cpu_idle,
            self.cpu_s_per_gib,
            self.spread
        )
    }
}

impl Display for Quantiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "p50 {:.0}, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0} ms", self.p50, self.p90, self.p99, self.p99_9, self.max)
    }
}

impl Display for Spike {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "{} sessions at once, {} failed, all over after {:.2} s", self.sessions, self.failed.len(), self.seconds)?;
        writeln!(f, "  set-up   {}", self.set_up_ms)?;
        writeln!(f, "  whole    {}", self.whole_ms)?;
        let [before, during, after] = self.goodput_bps.map(|bps| bps / 1e9);
        write!(
            f,
            "  the large upload: {before:.2} Gbit/s before, {during:.2} meanwhile ({:.2} of it), {after:.2} afterwards ({:.2})",
            self.large_during_over_before, self.large_after_over_before
        )
    }
}

impl Display for Soak {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(
            f,
            "{} sessions ended, {} of all were interrupted, {} killed, {} failed",
            self.sessions,
            self.interrupted,
            self.killed,
            self.failed.len()
        )?;
        let lines: Vec<String> = self.trends.iter().map(|trend| format!("  {trend}")).collect();
        f.write_str(&lines.join("\n"))
    }
}
