//! Peers whose receiver counts what comes, and keeps nothing.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tradewind_netem::topology::{END_INTERFACE, SERVER_ADDRESS};

use super::{DEADLINE, Load, START_DEADLINE, installed, measured};
use crate::dataplane::Turn;
use crate::environment::Ticks;
use crate::process::{Background, children_cpu_s, run, run_while, tail};
use crate::testbed::Testbed;

/// How long a sender is waited for whose receiver has had enough.
const GRACE: Duration = Duration::from_millis(100);
/// What a receiver is told that is to take everything.
const FOREVER_S: u32 = 3600;
const UDT_PORT: &str = "4434";

/// Waits for a receiver that ends by itself, and tells the CPU time that it took.
fn ended(testbed: &Testbed, mut receiver: Background) -> Result<(String, f64)> {
    let before = children_cpu_s();
    let start = Instant::now();
    while !receiver.has_ended()? {
        testbed.interrupt.check()?;
        ensure!(start.elapsed() < DEADLINE, "the receiver did not end: {}", tail(&receiver.log_text()));
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((receiver.log_text(), children_cpu_s() - before))
}

pub(super) fn iperf3(testbed: &Testbed, load: &Load) -> Result<Turn> {
    let mut server = testbed.server(Path::new("iperf3"));
    server.args(["--server", "--one-off", "--forceflush"]);
    let mut server = Background::start(&mut server, &testbed.path("iperf3.log"))?;
    let listens = || fs::read_to_string(testbed.path("iperf3.log")).is_ok_and(|log| log.contains("listening"));
    server.wait_until(&testbed.interrupt, START_DEADLINE, listens)?;
    let mut client = testbed.client(Path::new("iperf3"));
    client.args(["--client", &SERVER_ADDRESS.to_string(), "--congestion", "bbr", "--json"]);
    match load.seconds {
        Some(seconds) => client.args(["--time", &seconds.to_string()]),
        None => client.args(["--bytes", &load.bytes.to_string()]),
    };
    let ticks = Ticks::now();
    let finished = run(&mut client, &testbed.interrupt, load.deadline())?;
    let busy_s = Ticks::now().busy_s_since(ticks);
    finished.success("iperf3")?;
    let (_, cpu_s_receiver) = ended(testbed, server)?;
    let report: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    let received = &report["end"]["sum_received"];
    let number = |name: &str| received[name].as_f64().with_context(|| format!("iperf3 tells no {name}"));
    Ok(measured(number("seconds")?, number("bytes")? as u64, &finished, cpu_s_receiver, busy_s))
}

pub(super) fn s2n(testbed: &Testbed, load: &Load, bbr: bool, sends_xdp: bool, receives_xdp: bool) -> Result<Turn> {
    let (certificate, key) = (testbed.path("peer.crt"), testbed.path("peer.key"));
    if !certificate.exists() {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "7"]);
        openssl.args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        run(&mut openssl, &testbed.interrupt, START_DEADLINE)?.success("openssl")?;
    }
    let (program, address) = (installed("peer-s2n-quic")?, format!("{SERVER_ADDRESS}:4433"));
    let mut receiver = testbed.server(&program);
    receiver.args(["receive", &address]).arg(&certificate).arg(&key).arg(load.seconds.unwrap_or(FOREVER_S).to_string());
    receiver.arg(load.mtu_bytes.to_string());
    let by_xdp = |wanted: bool| wanted.then_some(["--xdp", END_INTERFACE]).into_iter().flatten();
    receiver.args(by_xdp(receives_xdp));
    let mut sender = testbed.client(&program);
    sender
        .args(["send", &address])
        .arg(&certificate)
        .arg(testbed.path("source"))
        .arg(load.mtu_bytes.to_string())
        .args(bbr.then_some("bbr"))
        .args(by_xdp(sends_xdp));
    counted(testbed, load, &mut receiver, &mut sender)
}

pub(super) fn udt(testbed: &Testbed, load: &Load) -> Result<Turn> {
    let (program, address, mtu) = (installed("peer-udt")?, SERVER_ADDRESS.to_string(), load.mtu_bytes.to_string());
    let mut receiver = testbed.server(&program);
    receiver.args(["receive", &address, UDT_PORT, &load.seconds.unwrap_or(FOREVER_S).to_string(), &mtu]);
    let mut sender = testbed.client(&program);
    sender.args(["send", &address, UDT_PORT]).arg(testbed.path("source")).arg(&mtu);
    counted(testbed, load, &mut receiver, &mut sender)
}

/// A receiver that prints `ready` when it can be called, and `BYTES SECONDS` as its last line.
fn counted(testbed: &Testbed, load: &Load, receiver: &mut Command, sender: &mut Command) -> Result<Turn> {
    let log = testbed.path("peer.log");
    let mut receiver = Background::start(receiver, &log)?;
    let listens = || fs::read_to_string(&log).is_ok_and(|log| log.contains("ready"));
    receiver.wait_until(&testbed.interrupt, START_DEADLINE, listens)?;
    let ticks = Ticks::now();
    // A receiver that has had enough does not tell its sender.
    let (is_timed, mut over) = (load.seconds.is_some(), None);
    let is_wanted = || !(is_timed && receiver.is_over() && over.get_or_insert_with(Instant::now).elapsed() > GRACE);
    let sent = run_while(sender, &testbed.interrupt, load.deadline(), is_wanted)?;
    let busy_s = Ticks::now().busy_s_since(ticks);
    load.check(&sent, "the sender")?;
    let (said, cpu_s_receiver) = ended(testbed, receiver)?;
    let figures = said.lines().last().and_then(|line| line.split_once(' ')).with_context(|| format!("the receiver said: {said}"))?;
    let bytes = figures.0.parse()?;
    load.check_arrived(bytes)?;
    Ok(measured(figures.1.parse()?, bytes, &sent, cpu_s_receiver, busy_s))
}
