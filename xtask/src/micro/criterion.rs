//! Running criterion and reading what it writes.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::PACKAGE;
use super::callgrind::Workload;
use crate::{cargo, process};

/// Time of one run, nanoseconds: the median and its 95 % confidence interval.
#[derive(Debug, PartialEq)]
pub(super) struct Time {
    pub(super) median_ns: f64,
    pub(super) low_ns: f64,
    pub(super) high_ns: f64,
}

/// Times each workload, in the given order.
pub(super) fn run(filter: Option<&str>, workloads: &[Workload]) -> Result<Vec<Time>> {
    let home = cargo::workspace()?.target_directory.join("criterion");
    let mut command = cargo::cargo();
    command.args(["bench", "--package", PACKAGE, "--bench", "micro", "--"]).args(filter).env("CRITERION_HOME", &home);
    process::run(&mut command)?;
    workloads.iter().map(|workload| read(&home, &workload.name)).collect()
}

/// Criterion 0.8 keeps a benchmark's estimates in `GROUP/NAME/new/estimates.json`, with `/` in names replaced by `_`.
fn read(home: &Path, name: &str) -> Result<Time> {
    let file = home.join("micro").join(name.replace('/', "_")).join("new/estimates.json");
    let text = std::fs::read_to_string(&file).with_context(|| format!("criterion left no {}", file.display()))?;
    parse(&text).with_context(|| format!("{} holds no median", file.display()))
}

fn parse(text: &str) -> Option<Time> {
    let estimates: Value = serde_json::from_str(text).ok()?;
    let median = &estimates["median"];
    let interval = &median["confidence_interval"];
    Some(Time {
        median_ns: median["point_estimate"].as_f64()?,
        low_ns: interval["lower_bound"].as_f64()?,
        high_ns: interval["upper_bound"].as_f64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_read() {
        let text = r#"{"mean":{"point_estimate":9.0},"median":{"confidence_interval":{"confidence_level":0.95,"lower_bound":1.0,"upper_bound":3.0},"point_estimate":2.0}}"#;
        assert_eq!(parse(text), Some(Time { median_ns: 2.0, low_ns: 1.0, high_ns: 3.0 }));
        assert_eq!(parse(r#"{"mean":{}}"#), None);
    }
}
