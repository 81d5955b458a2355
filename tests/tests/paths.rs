//! Paths that change under a running transfer: a NAT that gives it another port, an MTU that is or becomes smaller, an engine that dies.
//! What this cannot see: IPv6, real NATs, ICMP.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use tradewind_bench::process::Finished;
use tradewind_bench::testbed::{BUCKET, ServerOptions, sha256_of_file};
use tradewind_tests::{World, event};

/// At 100 Mbit/s this takes some 5 s, at 40 Mbit/s 12.
const FILE_BYTES: u64 = 60_000_000;
/// The largest IP packet that the narrow path takes.
const NARROW: usize = 1_300;

fn send_and_compare(world: &World, further: &[&str]) -> Result<Finished> {
    compare(world, &world.file("f", FILE_BYTES)?, further)
}

fn compare(world: &World, file: &Path, further: &[&str]) -> Result<Finished> {
    let sent = world.send(file, &format!("s3://{BUCKET}/f"), further)?;
    sent.success("tradewind send")?;
    assert_eq!(world.store.sha256(&world.testbed, "f")?, sha256_of_file(file)?);
    Ok(sent)
}

fn events<'a>(sent: &'a Finished, kind: &str) -> Vec<&'a str> {
    sent.stdout.lines().filter(|line| line.contains(&format!("\"event\":\"{kind}\""))).collect()
}

/// Every two seconds the server sees another port; the lane goes on, by AF_XDP and by the kernel's socket.
#[test]
fn a_new_source_port_does_not_end_the_lane() -> Result<()> {
    let times: Vec<String> = (1..=60).map(|step| (2_000 * step).to_string()).collect();
    let rebind: Vec<&str> = ["--backend", "own"].into_iter().chain(times.iter().flat_map(|ms| ["--rebind-ms", ms])).collect();
    for xdp in ["auto", "off"] {
        let options = ServerOptions { xdp, ..ServerOptions::default() };
        let Some(world) = World::behind(&options, &rebind)? else { return Ok(()) };
        let sent = send_and_compare(&world, &["--retries", "0"])?;
        let done = event(&sent, "done").expect("no event 'done'");
        assert!(done["elapsed_s"].as_f64() > Some(4.0), "too quick to meet two rebindings: {done}");
    }
    Ok(())
}

/// The client knows the MTU of its own link, and so uses packets that fit from the start.
#[test]
fn a_client_behind_a_narrow_link_sends_packets_that_fit() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let narrow = ["link", "set", "tw0", "mtu", &NARROW.to_string()];
    assert!(world.testbed.client(Path::new("ip")).args(narrow).status()?.success());
    let sent = send_and_compare(&world, &["--retries", "0"])?;
    assert_eq!(events(&sent, "retry").len(), 0);
    Ok(())
}

/// Somewhere on the way, and nobody says so: from the start, and in the middle of a transfer.
#[test]
fn a_path_that_swallows_large_packets_gets_smaller_ones() -> Result<()> {
    for from_ms in [0, 6_000] {
        let Some(mut world) = World::start(&ServerOptions::default())? else { return Ok(()) };
        // Set-up goes over TCP, which such a path breaks too: here its segments are small, as behind a router that clamps them.
        for end in [world.testbed.client(Path::new("ip")), world.testbed.server(Path::new("ip"))] {
            clamp_segments(end)?;
        }
        // 12 s at this rate, from just after the emulator's own beginning: the time falls into the transfer.
        let file = world.file("f", FILE_BYTES)?;
        world.replay(&["--backend", "own", "--mtu", &format!("{from_ms}:{NARROW}")])?;
        let sent = compare(&world, &file, &["--rate", "40M"])?;
        let retry = event(&sent, "retry").expect("it was not started again");
        assert_eq!(retry["packet_bytes_max"].as_u64(), Some(1_280), "{retry}");
        let retries = events(&sent, "retry");
        assert_eq!(retries.len(), 1, "{retries:#?}");
        let before: Vec<&str> = sent.stdout.lines().take_while(|line| !line.contains("\"event\":\"retry\"")).collect();
        let passed = before.iter().any(|line| line.contains("\"event\":\"progress\"") && !line.contains("\"bytes_sent\":0,"));
        assert_eq!(passed, from_ms > 0, "the MTU did not change when it should");
    }
    Ok(())
}

fn clamp_segments(mut ip: Command) -> Result<()> {
    assert!(ip.args(["route", "replace", "10.77.1.0/24", "dev", "tw0", "advmss", "1200"]).status()?.success());
    Ok(())
}

/// The engine is killed in the middle: the command starts again by itself once the new engine is there.
#[test]
fn a_killed_engine_costs_time_and_not_the_transfer() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let victim = world.server.engine_pid().expect("no engine");
    let file = world.file("f", FILE_BYTES)?;
    let sending = world.send_in_background(&file, &format!("s3://{BUCKET}/f"), &["--rate", "40M"]);
    let id = world.wait_for_bytes(&[])?;
    world.wait_for_total(&id, "bytes_received", 8 << 20)?;
    assert!(Command::new("kill").args(["-9", &victim.to_string()]).status()?.success());
    let sent = sending.join().expect("the thread panicked")?;
    sent.success("tradewind send")?;
    assert!(!events(&sent, "retry").is_empty(), "{}", sent.stdout);
    assert_eq!(world.store.sha256(&world.testbed, "f")?, sha256_of_file(&file)?);
    Ok(())
}
