//! `cargo xtask bench all`: the benchmarks one after the other, one JSON object and one HTML page for all of them.
//!
//! | Section | Benchmark | `--quick` |
//! |---|---|---|
//! | `dataplane` | client to engine without storage, beside bare loops and peers | 1 GiB, 3 turns |
//! | `wan` | long and lossy paths, beside peers | 10 s, 2 turns; the cases between: 1 turn, one peer |
//! | `small_files` | many small files | 20,000 files, not over the WAN |
//! | `storage` | blocks into a bucket, beside s5cmd, rclone and the AWS CLI | 256 MiB, 3 turns |
//! | `staging` | blocks on a disk, beside fio | 1 GiB, 3 turns |
//! | `scale` | 1, 50 and 1,000 transfers at the same time, 50 that arrive at once | 1 and 200, one turn |
//!
//! Peers that are not installed are named among the warnings; `cargo xtask setup --peers` installs them. A section that fails is named in `failed`, and
//! the others are measured all the same. The report is held against its schema ([`crate::schema`]) before it is written; one that does not fit is written
//! too, and `failed` says under `schema` what does not fit. The page ([`crate::page`]) needs no network and is made from the JSON alone.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::environment::Environment;
use crate::process::Interrupt;
use crate::{dataplane, page, scale, schema, small_files, staging, storage, wan, write_json};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Less of everything: within 20 minutes.
    #[arg(long)]
    pub quick: bool,
    /// Only these sections.
    #[arg(long, num_args = 1..)]
    pub only: Vec<String>,
    /// Write the figures as one JSON object to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the page to this file; default: beside the JSON, with .html.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Directory on the disk that the benchmark of staging is to measure.
    #[arg(long, default_value = "target")]
    pub directory: PathBuf,
}

/// In this order.
pub(crate) const SECTIONS: [&str; 6] = ["dataplane", "wan", "small_files", "storage", "staging", "scale"];

/// Measures, prints and writes.
///
/// # Errors
/// When a section failed or the report does not fit its schema, after everything was measured and written.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<()> {
    let wanted = |section: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == section);
    let chosen: Vec<&str> = SECTIONS.into_iter().filter(|section| wanted(section)).collect();
    ensure!(!chosen.is_empty(), "no such section; there are {}", SECTIONS.join(", "));
    let (mut environment, started) = (Environment::here(), Instant::now());
    let (mut sections, mut section_seconds, mut failed, mut warnings) = (Map::new(), Map::new(), Map::new(), Vec::new());
    for section in chosen {
        println!("\n== {section}");
        let begun = Instant::now();
        match measure(section, arguments, interrupt, &mut failed) {
            Ok(report) => drop(sections.insert(section.to_owned(), report)),
            Err(error) => {
                interrupt.check()?;
                println!("failed: {error:#}");
                failed.insert(section.to_owned(), format!("{error:#}").into());
            }
        }
        section_seconds.insert(section.to_owned(), begun.elapsed().as_secs().into());
    }
    environment.finish(&mut warnings);
    let (command, seconds) =
        (if arguments.quick { "cargo xtask bench all --quick" } else { "cargo xtask bench all" }, started.elapsed().as_secs());
    println!("\ntook {seconds} s");
    let report = json!({
        "command": command,
        "environment": environment,
        "seconds": seconds,
        "section_seconds": section_seconds,
        "sections": sections,
        "failed": failed,
        "warnings": warnings,
    });
    write(report, arguments.json.as_deref(), arguments.html.as_deref())
}

/// Holds a report against its schema and writes it and its page, whether or not it fits.
fn write(mut report: Value, json: Option<&Path>, html: Option<&Path>) -> Result<()> {
    if let Err(error) = schema::check(&report) {
        println!("failed: {error:#}");
        report["failed"]["schema"] = format!("{error:#}").into();
    }
    if let Some(file) = json {
        write_json(file, &report)?;
    }
    if let Some(file) = html.map(Path::to_owned).or_else(|| json.map(|json| json.with_extension("html"))) {
        std::fs::write(&file, page::of(&report)).with_context(|| format!("cannot write {}", file.display()))?;
        println!("{}", file.display());
    }
    ensure!(report["failed"].as_object().is_some_and(Map::is_empty), "not everything is as it should be: {}", report["failed"]);
    Ok(())
}

/// Measures a section. One of which a part is missing is among the failed, and what there is of it is returned.
fn measure(section: &str, arguments: &Arguments, interrupt: &Interrupt, failed: &mut Map<String, Value>) -> Result<Value> {
    let pick = |quick: u32, full: u32| if arguments.quick { quick } else { full };
    let turns = pick(3, 5);
    Ok(match section {
        "dataplane" => {
            let (mib, loop_seconds) = (pick(1024, 2048), f64::from(pick(1, 2)));
            let arguments = dataplane::Arguments { mib, turns, loop_seconds, only: Vec::new(), peers: true, budget: true, json: None };
            serde_json::to_value(dataplane::run(&arguments, interrupt)?)?
        }
        "wan" => {
            let arguments = wan::Arguments {
                turns: pick(2, 5),
                seconds: pick(10, 20),
                peers: true,
                quick: arguments.quick,
                only: Vec::new(),
                json: None,
            };
            serde_json::to_value(wan::run(&arguments, interrupt)?)?
        }
        "small_files" => {
            let files = u64::from(pick(20_000, 100_000));
            // Over the WAN two of the peers take a minute each.
            let only = if arguments.quick { ["clean", "disk", "s3"].map(str::to_owned).to_vec() } else { Vec::new() };
            let arguments = small_files::Arguments { files, file_bytes: 10_240, only, peers: true, json: None };
            serde_json::to_value(small_files::run(&arguments, interrupt)?)?
        }
        "storage" => {
            let arguments = storage::Arguments { mib: pick(256, 512), files: 4, turns, directory: None, json: None };
            serde_json::to_value(storage::run(&arguments, interrupt)?)?
        }
        "scale" => {
            let arguments = if arguments.quick { scale::Arguments::quick() } else { scale::Arguments::full() };
            let report = scale::measure(&arguments, interrupt)?;
            if !report.unmeasured.is_empty() {
                failed.insert(section.to_owned(), format!("numbers of lanes that could not be measured: {:?}", report.unmeasured).into());
            }
            serde_json::to_value(report)?
        }
        _ => {
            let arguments = staging::Arguments { directory: arguments.directory.clone(), mib: pick(1024, 2048), turns, json: None };
            serde_json::to_value(staging::run(&arguments, interrupt)?)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_does_not_fit_is_written_named_as_failed_and_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        let mut report: Value = serde_json::from_str(include_str!("../../docs/results/bench-quick.json")).unwrap();
        write(report.clone(), Some(&file), None).unwrap();
        report["sections"]["wan"]["rows"][0]["mbit_per_s"] = Value::Null;
        let error = write(report, Some(&file), None).unwrap_err().to_string();
        assert!(error.contains("schema") && error.contains("/sections/wan/rows/0/mbit_per_s"), "{error}");
        let written: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert!(written["failed"]["schema"].is_string() && written["sections"]["dataplane"]["rows"][0]["gbit_per_s"].as_f64() > Some(0.0));
        let page = std::fs::read_to_string(file.with_extension("html")).unwrap();
        assert!(page.contains("schema failed: "), "the page says so");
    }
}
