//! The conformance table: what each storage platform's checks (storage-io/tests/stores.rs) found, against which server.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Platforms that can always be tested here: a table without one of their checks is an error.
const NEVER_SKIPPED: [&str; 9] = [
    "Amazon S3",
    "Azure Blob Storage",
    "Google Cloud Storage",
    "HDFS",
    "HDFS (RPC)",
    "OpenStack Swift",
    "Swift, Keystone version 3",
    "Akamai NetStorage",
    "local files",
];

/// Platforms that the program does not have, what would stand for them, and why.
const NOT_THERE: [(&str, &str, &str); 1] = [("Edgio (Limelight)", "none", "the service has ended: no client is built")];

/// What the checks of a platform found.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Row {
    platform: String,
    server: String,
    checks: u32,
    passed: u32,
    failed: u32,
    /// Why checks were not made, or none of them.
    skipped_reason: Option<String>,
}

impl Row {
    pub(super) fn is_same_platform(&self, other: &Self) -> bool {
        self.platform == other.platform
    }
}

/// Prints the table of what was checked, and writes it where that is wanted. What is wrong with it; `is_complete`: all checks were to be made.
pub(super) fn report(rows: &[Row], is_complete: bool, json: Option<&Path>) -> Result<Vec<String>> {
    if rows.is_empty() && !is_complete {
        return Ok(json.map(|_| String::from("--json writes the conformance table, and no platform was checked")).into_iter().collect());
    }
    let rows = table(rows);
    println!("\n== storage platforms");
    for line in lines(&rows) {
        println!("{line}");
    }
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&rows).context("the table cannot be written as JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if is_complete { missing(&rows) } else { Vec::new() })
}

/// With those that are not there.
fn table(rows: &[Row]) -> Vec<Row> {
    let mut table = rows.to_vec();
    for (platform, server, reason) in NOT_THERE {
        table.push(Row {
            platform: platform.to_owned(),
            server: server.to_owned(),
            checks: 0,
            passed: 0,
            failed: 0,
            skipped_reason: Some(String::from(reason)),
        });
    }
    table
}

fn lines(rows: &[Row]) -> Vec<String> {
    let width =
        |text: fn(&Row) -> &str, head: &str| rows.iter().map(|row| text(row).chars().count()).chain([head.len()]).max().unwrap_or(0);
    let (platform, server) = (width(|row| &row.platform, "platform"), width(|row| &row.server, "server"));
    let mut lines = vec![format!("{:platform$}  {:server$}  checks  passed  failed  skipped", "platform", "server")];
    for row in rows {
        let reason = row.skipped_reason.as_deref().unwrap_or("");
        let numbers = if row.checks == 0 {
            format!("{:>6}  {:>6}  {:>6}", "", "", "")
        } else {
            format!("{:>6}  {:>6}  {:>6}", row.checks, row.passed, row.failed)
        };
        lines.push(format!("{:platform$}  {:server$}  {numbers}  {reason}", row.platform, row.server).trim_end().to_owned());
    }
    lines
}

fn missing(rows: &[Row]) -> Vec<String> {
    let is_tested = |platform: &str| rows.iter().any(|row| row.platform == platform && row.passed > 0);
    let missing = NEVER_SKIPPED.into_iter().filter(|platform| !is_tested(platform));
    missing.map(|platform| format!("{platform} was not checked; its server is installed by `cargo xtask setup`")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(platform: &str, passed: u32) -> Row {
        Row { platform: platform.to_owned(), server: String::from("s"), checks: 17, passed, failed: 0, skipped_reason: None }
    }

    #[test]
    fn what_must_not_be_skipped_is_missed() {
        let rows = NEVER_SKIPPED.map(|platform| row(platform, 17));
        assert!(missing(&rows).is_empty());
        let [first, .., last] = rows;
        let problems = missing(&[first, row(&last.platform, 0)]);
        assert_eq!(problems.len(), NEVER_SKIPPED.len() - 1, "{problems:?}");
    }

    #[test]
    fn the_table_has_a_line_for_each_platform() {
        let folder = std::env::temp_dir().join(format!("tradewind-table-{}", std::process::id()));
        let problems = report(&[row("Amazon S3", 17)], true, Some(&folder)).expect("it can be written");
        let written: Vec<Row> = serde_json::from_slice(&std::fs::read(&folder).expect("it is there")).expect("rows");
        std::fs::remove_file(&folder).expect("it is there");
        assert_eq!((problems.len(), written.len()), (NEVER_SKIPPED.len() - 1, 1 + NOT_THERE.len()));
        let lines = lines(&written);
        assert_eq!(lines.len(), 1 + written.len());
        assert!(lines[1].starts_with("Amazon S3") && lines[1].ends_with("17      17       0"), "{lines:#?}");
        assert!(lines[2].ends_with("the service has ended: no client is built"), "{lines:#?}");
        assert_eq!(report(&[], false, None).expect("nothing"), [""; 0]);
        assert_eq!(report(&[], false, Some(&folder)).expect("nothing").len(), 1);
        assert_eq!(report(&[], true, None).expect("nothing").len(), NEVER_SKIPPED.len());
        assert_eq!(report(&[row("Amazon S3", 17)], false, None).expect("a filtered run"), [""; 0]);
    }
}
