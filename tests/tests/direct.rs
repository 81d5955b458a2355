//! A plain veth pair, as in containers: nothing is emulated, and the kernel hands packets over as its offloads have merged them.

use anyhow::{Context, Result};
use tradewind_bench::process::{Finished, Interrupt, run};
use tradewind_bench::testbed::{Server, ServerOptions, Testbed, TestbedOptions, sha256_of_file, write_random};
use tradewind_netem::topology::{END_INTERFACE, Namespace};
use tradewind_tests::{event, is_root};

const FILE_BYTES: u64 = 100_000_000;

/// Client and server joined by a veth pair of this MTU.
fn start(mtu_bytes: u32) -> Result<Option<(Testbed, Server)>> {
    if !is_root() {
        println!("SKIP: end-to-end tests make network namespaces and need root");
        return Ok(None);
    }
    let options = TestbedOptions { mtu_bytes, direct: true, in_memory: true, ..TestbedOptions::default() };
    let testbed = Testbed::without_link("twtest", &options, &Interrupt::default())?;
    let server = Server::start_local(&testbed, &ServerOptions { more: "[stores.faux]\nkind = \"faux\"", ..ServerOptions::default() })?;
    Ok(Some((testbed, server)))
}

fn tradewind(testbed: &Testbed, arguments: &[&str]) -> Result<Finished> {
    let mut command = Server::tradewind(testbed);
    command.args(arguments).arg("--json");
    run(&mut command, &testbed.interrupt, std::time::Duration::from_secs(120))
}

#[test]
fn merged_packets_go_past_af_xdp_and_none_is_lost_for_it() -> Result<()> {
    let Some((testbed, _server)) = start(1500)? else { return Ok(()) };
    sends_a_film(&testbed)
}

/// What fits the interface may be several packets of the lane all the same.
#[test]
fn merged_packets_are_known_by_the_lane_and_not_by_the_interface() -> Result<()> {
    let Some((testbed, _server)) = start(9000)? else { return Ok(()) };
    let status = testbed.topology.command(Namespace::Client, "ip").args(["link", "set", END_INTERFACE, "mtu", "1500"]).status()?;
    assert!(status.success());
    sends_a_film(&testbed)
}

fn sends_a_film(testbed: &Testbed) -> Result<()> {
    let file = testbed.path("film");
    write_random(&file, FILE_BYTES)?;
    let sent = tradewind(testbed, &["send", &file.to_string_lossy(), "local:film"])?;
    sent.success("tradewind send")?;
    assert_eq!(sha256_of_file(&testbed.path("local/film"))?, sha256_of_file(&file)?);
    let done = event(&sent, "done").context("no event 'done'")?;
    let total = |name: &str| done["server"]["totals"][name].as_u64().unwrap_or_default();
    // A packet that fits a frame is taken by AF_XDP, what is longer by the kernel's socket.
    assert!(total("packets_kernel") > total("packets_afxdp") && total("packets_afxdp") > 0, "{done}");
    // Steering used to hand AF_XDP what no frame of it holds: half of all packets were lost, and the transfer crept.
    assert!(done["retransmitted_share"].as_f64().is_some_and(|share| share < 0.3), "{done}");
    let log = std::fs::read_to_string(testbed.path("tradewindd.log"))?;
    assert!(log.contains("by the kernel's socket and not by AF_XDP"), "{log}");
    Ok(())
}

#[test]
fn nothing_is_stored_nowhere_and_something_comes_from_there() -> Result<()> {
    let Some((testbed, _server)) = start(1500)? else { return Ok(()) };
    let file = testbed.path("film");
    write_random(&file, FILE_BYTES)?;
    for _ in 0..2 {
        let sent = tradewind(&testbed, &["send", &file.to_string_lossy(), "faux:in/"])?;
        sent.success("tradewind send")?;
        // Nothing is there of the first time.
        assert_eq!(event(&sent, "done").context("no event 'done'")?["server"]["totals"]["bytes_durable"], FILE_BYTES);
    }
    let got = testbed.path("got");
    tradewind(&testbed, &["get", "faux:test?33M", &got.to_string_lossy()])?.success("tradewind get")?;
    let bytes = std::fs::read(&got)?;
    assert_eq!(bytes.len(), 33 << 20);
    assert!(bytes[..1 << 20] == bytes[32 << 20..] && bytes[..1 << 19] != bytes[1 << 19..1 << 20]);
    let missing = tradewind(&testbed, &["get", "faux:test", &testbed.path("none").to_string_lossy()])?;
    assert_eq!(missing.status.and_then(|status| status.code()), Some(7), "{}{}", missing.stdout, missing.stderr);
    Ok(())
}
