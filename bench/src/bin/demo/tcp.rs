//! The same by TCP: an S3 client straight to the bucket over the same WAN, with the kernel's BBR and CUBIC.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tradewind_bench::process::run;
use tradewind_bench::testbed::{BUCKET, Store, Testbed, write_random};
use tradewind_netem::topology::{END_INTERFACE, SERVER_ADDRESS};

/// Each algorithm sends an object of this size; CUBIC's is small, for it needs half a minute for it.
const RUNS: [(&str, u64); 2] = [("bbr", 64 << 20), ("cubic", 2 << 20)];
const DEADLINE: Duration = Duration::from_secs(90);

/// What one algorithm did.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TcpRun {
    /// Name of the congestion control.
    pub(crate) congestion_control: &'static str,
    /// Size of the object.
    pub(crate) bytes: u64,
    /// Bytes over time, bit/s; an upper bound from the interface's counters if the object did not arrive in time.
    pub(crate) goodput_bps: f64,
    /// The object arrived in time.
    pub(crate) complete: bool,
}

/// Runs all of them, one after the other.
pub(crate) fn compare(testbed: &Testbed, store: &Store) -> Result<Vec<TcpRun>> {
    RUNS.iter().map(|&(algorithm, bytes)| one(testbed, store, algorithm, bytes)).collect()
}

fn one(testbed: &Testbed, store: &Store, algorithm: &'static str, bytes: u64) -> Result<TcpRun> {
    println!("sending {} MiB by TCP {algorithm} with s5cmd, straight to the bucket", bytes >> 20);
    let source = testbed.path(&format!("tcp-{algorithm}"));
    write_random(&source, bytes)?;
    // By route: outside the first network namespace the sysctl only takes algorithms that unprivileged users may choose.
    let mut route = testbed.client(Path::new("ip"));
    route.args(["route", "replace", &format!("{SERVER_ADDRESS}/32"), "dev", END_INTERFACE, "congctl", algorithm]);
    run(&mut route, &testbed.interrupt, DEADLINE)?
        .success("ip route")
        .with_context(|| format!("the kernel has no TCP {algorithm}; `modprobe tcp_{algorithm}` may load it"))?;
    let before = received_bytes(testbed)?;
    let name = source.to_string_lossy();
    let destination = format!("s3://{BUCKET}/tcp-{algorithm}");
    // One connection, one request, as one file of one user is one flow.
    let arguments = ["cp", "--concurrency", "1", "--part-size", "1024", &name, &destination];
    let sent = store.s5cmd_at_client(testbed, &arguments, DEADLINE)?;
    let complete = match sent.status {
        Some(status) if status.success() => true,
        Some(_) => bail!("s5cmd over TCP {algorithm} failed:\n{}", sent.stderr),
        None => false,
    };
    let arrived = if complete { bytes } else { received_bytes(testbed)? - before };
    Ok(TcpRun { congestion_control: algorithm, bytes, goodput_bps: arrived as f64 * 8.0 / sent.elapsed.as_secs_f64(), complete })
}

fn received_bytes(testbed: &Testbed) -> Result<u64> {
    let mut cat = testbed.server(Path::new("cat"));
    let output = cat.arg("/sys/class/net/tw0/statistics/rx_bytes").output()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().context("cannot read the server's interface counters")
}
