//! Blocks that wait on the server's disk while its store stands still: the network goes on, and nothing is lost.
//! What this cannot see: disks that fail (storage-io/staging/src/tests.rs).

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tradewind_bench::testbed::{BUCKET, ServerOptions, sha256_of_file};
use tradewind_tests::{World, event};

const MIB: u64 = 1 << 20;
/// Of all files here. At 100 Mbit/s they take 8 s.
const FILE_BYTES: u64 = 100 * MIB;
/// Blocks that a lane may hold in memory: two parts of 16 MiB and one that fills.
const WINDOW: u64 = 48;
const STAGING: &str = "[engine]\ncredit_blocks = 48\nstaging_dir = \"{folder}/staging\"\n";
const LITTLE: &str = "[engine]\ncredit_blocks = 48\nstaging_dir = \"{folder}/staging\"\nstaging_bytes = 16777216\n";

fn world(more: &'static str) -> Result<Option<World>> {
    World::start(&ServerOptions { more, ..ServerOptions::default() })
}

/// Waits until what the server says of the transfer fits; then that.
fn wait_for(world: &World, id: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let status = world.status(id)?;
        if fits(&status) {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "not {what}: {status}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn number(status: &Value, name: &str) -> u64 {
    status["totals"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {status}"))
}

/// Bytes that the engine's files take which have no name.
fn unnamed_bytes(world: &World) -> Result<u64> {
    let engine = world.server.engine_pid().context("no engine")?;
    let mut bytes = 0;
    for file in std::fs::read_dir(format!("/proc/{engine}/fd"))? {
        let path = file?.path();
        let is_staging = std::fs::read_link(&path).is_ok_and(|target| target.starts_with(world.testbed.path("staging")));
        bytes += if is_staging { std::fs::metadata(&path)?.len() } else { 0 };
    }
    Ok(bytes)
}

#[test]
fn a_store_that_stands_still_does_not_stop_the_network() -> Result<()> {
    let Some(mut world) = world(STAGING)? else { return Ok(()) };
    let file = world.file("f", FILE_BYTES)?;
    let sending = world.send_in_background(&file, &format!("s3://{BUCKET}/f"), &[]);
    let id = world.wait_for_bytes(&[])?;
    world.store.process().signal_stop();
    let waiting = wait_for(&world, &id, "all received", |status| number(status, "bytes_received") >= FILE_BYTES);
    let unnamed = unnamed_bytes(&world)?;
    world.store.process().signal_continue();
    let waiting = waiting?;
    println!("{} blocks on the disk while the store stood still, {unnamed} bytes without a name", number(&waiting, "blocks_staged"));
    assert!(number(&waiting, "bytes_durable") < FILE_BYTES / 2, "{waiting}");
    assert!(number(&waiting, "blocks_staged") >= FILE_BYTES / MIB - 2 * WINDOW, "{waiting}");
    assert!(unnamed >= 128 * MIB, "{unnamed}");
    let sent = sending.join().expect("the thread panicked")?;
    sent.success("tradewind send")?;
    assert!(event(&sent, "retry").is_none(), "{}", sent.stdout);
    assert_eq!(world.store.sha256(&world.testbed, "f")?, sha256_of_file(&file)?);
    let shown = world.tradewind(&["status", &id])?.stdout;
    assert!(shown.contains("blocks waited on the server's disk for the store"), "{shown}");
    assert_eq!(std::fs::read_dir(world.testbed.path("staging"))?.count(), 0, "nothing there has a name");
    Ok(())
}

/// As without staging: the sender waits for the store, and says so.
#[test]
fn a_full_disk_is_as_none() -> Result<()> {
    let Some(mut world) = world(LITTLE)? else { return Ok(()) };
    let file = world.file("f", FILE_BYTES)?;
    let sending = world.send_in_background(&file, &format!("s3://{BUCKET}/f"), &[]);
    let id = world.wait_for_bytes(&[])?;
    world.store.process().signal_stop();
    let waiting = wait_for(&world, &id, "limited by storage", |status| status["rate"]["limiter"] == "storage");
    world.store.process().signal_continue();
    let waiting = waiting?;
    let (received, staged) = (number(&waiting, "bytes_received"), number(&waiting, "blocks_staged"));
    assert!(received < number(&waiting, "bytes_durable") + (WINDOW + 16 + 8) * MIB && staged >= 14, "{waiting}");
    sending.join().expect("the thread panicked")?.success("tradewind send")?;
    assert_eq!(world.store.sha256(&world.testbed, "f")?, sha256_of_file(&file)?);
    Ok(())
}

/// What waited was not durable, so it is sent again, and the room on the disk is free.
#[test]
fn a_killed_engine_loses_nothing_that_it_has_confirmed() -> Result<()> {
    let Some(mut world) = world(STAGING)? else { return Ok(()) };
    let file = world.file("f", FILE_BYTES)?;
    let sending = world.send_in_background(&file, &format!("s3://{BUCKET}/f"), &[]);
    let id = world.wait_for_bytes(&[])?;
    // Some parts are there.
    wait_for(&world, &id, "32 MiB durable", |status| number(status, "bytes_durable") >= 32 * MIB)?;
    world.store.process().signal_stop();
    let waiting = wait_for(&world, &id, "on the disk", |status| number(status, "blocks_staged") >= 8);
    let killed = Command::new("kill").args(["-9", &world.server.engine_pid().context("no engine")?.to_string()]).status();
    world.store.process().signal_continue();
    waiting?;
    assert!(killed?.success());
    let sent = sending.join().expect("the thread panicked")?;
    sent.success("tradewind send")?;
    assert!(event(&sent, "retry").is_some(), "{}", sent.stdout);
    let kept = event(&sent, "started").context("started")?["bytes_kept"].as_u64();
    println!("{kept:?} bytes kept");
    assert_eq!(world.store.sha256(&world.testbed, "f")?, sha256_of_file(&file)?);
    assert!(unnamed_bytes(&world)? <= 256 * MIB);
    Ok(())
}
