//! The testbed (three namespaces, an emulated WAN, a real S3 server, tradewindd), shared by the demo, the end-to-end tests and
//! the benchmarks; a server on loopback for what is not about networks; and the benchmarks: [`cells`], [`dataplane`], [`fairness`], [`kill_resume`], [`scale`], [`small_files`].
#![forbid(unsafe_code)]

pub mod all;
pub mod azurite;
mod budget;
pub mod cells;
pub mod ceph;
pub mod dataplane;
pub mod environment;
pub mod fairness;
pub mod gcs;
pub mod hdfs;
pub mod keystone;
pub mod kill_resume;
pub mod loopback;
pub mod netstorage;
pub mod page;
pub mod process;
pub mod scale;
pub mod schema;
pub mod small_files;
mod sound;
pub mod staging;
pub mod storage;
pub mod stores;
pub mod swift;
pub mod testbed;
pub mod tree;
pub mod wan;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Bytes of an Ethernet frame around an IP packet, without FCS: the emulated link's rate counts them.
pub const ETHERNET_BYTES: u32 = 14;

/// Writes a report as JSON.
///
/// # Errors
/// When the file cannot be written; the message names it.
pub fn write_json(file: &Path, report: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

/// Nanoseconds a call of `work`, which is told its number: the median of several runs of 200 ms.
pub fn time_of_call_ns(mut work: impl FnMut(usize)) -> f64 {
    let run = |_| {
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(200) {
            for _ in 0..64 {
                work(count);
                count += 1;
            }
        }
        start.elapsed().as_nanos() as f64 / count as f64
    };
    median((0..5).map(run))
}

/// Largest less smallest, over the median.
fn spread(values: impl Iterator<Item = f64> + Clone) -> f64 {
    (values.clone().fold(f64::MIN, f64::max) - values.clone().fold(f64::MAX, f64::min)) / median(values)
}

/// The median; not a number of no values.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(values.len().saturating_sub(1) / 2), at(values.len() / 2))
}

/// An object's name as it stands in a URL.
fn url_path(key: &str) -> String {
    utf8_percent_encode(key, NON_ALPHANUMERIC).to_string().replace("%2F", "/")
}

/// Whether a server answers there, and does not refuse.
fn answers(url: &str) -> bool {
    fetch(url).is_ok_and(|answer| answer.is_some())
}

/// What curl fetches, a client of others; `None` where it is refused.
fn fetch(url: &str) -> Result<Option<Vec<u8>>> {
    let output = Command::new("curl").args(["--silent", "--fail", url]).output().context("cannot start curl")?;
    Ok(output.status.success().then_some(output.stdout))
}
