//! Blocks that wait on the server's disk while its store stands still: the network goes on, and nothing is lost.
//! What this cannot see: disks that refuse or never answer (storage-io/staging/src/tests.rs).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use serde_json::Value;
use tradewind_bench::process::Finished;
use tradewind_bench::testbed::{BUCKET, ServerOptions, sha256_of_file};
use tradewind_tests::{World, event};

const MIB: u64 = 1 << 20;
/// Of all files here. At 100 Mbit/s they take 8 s.
const FILE_BYTES: u64 = 100 * MIB;
/// Small files in a tree.
const SMALL: u64 = 1000;
/// Blocks that a lane may hold in memory: six parts.
const WINDOW: u64 = 48;
/// Longest time to wait for anything, seconds.
const PATIENCE_S: u64 = 40;
const STAGING: &str = "[engine]\ncredit_blocks = 48\nstaging_dir = \"{folder}/staging\"\n";
const ALWAYS: &str = "[engine]\ncredit_blocks = 48\nstaging_dir = \"{folder}/staging\"\nstaging_mode = \"always\"\n";
const LITTLE: &str = "[engine]\ncredit_blocks = 48\nstaging_dir = \"{folder}/staging\"\nstaging_bytes = 16777216\n";

fn world(more: &str) -> Result<Option<World>> {
    World::start(&ServerOptions { more, ..ServerOptions::default() })
}

fn number(status: &Value, name: &str) -> u64 {
    // What is none is left out.
    status["totals"][name].as_u64().unwrap_or(0)
}

/// The engine's files that have no name, by those that they have for us.
fn unnamed(world: &World) -> Result<Vec<PathBuf>> {
    let engine = world.server.engine_pid().context("no engine")?;
    let files = std::fs::read_dir(format!("/proc/{engine}/fd"))?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    let is_staging = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|target| target.starts_with(world.testbed.path("staging")));
    Ok(files.into_iter().filter(is_staging).collect())
}

/// Sends a file and stops the store when it has some of it. Returns the command, the transfer, and its figures once far more was received than
/// stored.
fn stop_store_far_behind(world: &mut World, file: &Path) -> Result<(JoinHandle<Result<Finished>>, String, Result<Value>)> {
    let sending = world.send_in_background(file, &format!("s3://{BUCKET}/f"), &["--rate", "50M"]);
    let id = world.wait_for_bytes(&[])?;
    world.wait_for_total(&id, "bytes_durable", 16 * MIB)?;
    world.store.process().signal_stop();
    let ahead = |status: &Value| number(status, "bytes_received") >= number(status, "bytes_durable") + 40 * MIB;
    let waiting = world.wait_for(&id, PATIENCE_S, "received and not stored", ahead);
    Ok((sending, id, waiting))
}

#[test]
fn a_store_that_stands_still_does_not_stop_the_network() -> Result<()> {
    let Some(mut world) = world(STAGING)? else { return Ok(()) };
    // A large file, then many small ones that share blocks, then holes, behind which parts begin in the middle of blocks.
    let tree = world.testbed.path("tree");
    std::fs::create_dir_all(tree.join("small"))?;
    std::fs::rename(world.file("large", FILE_BYTES / 2)?, tree.join("large"))?;
    std::fs::rename(world.file("small.bin", SMALL * 10_000)?, tree.join("small.bin"))?;
    for (number, contents) in std::fs::read(tree.join("small.bin"))?.chunks(10_000).enumerate() {
        std::fs::write(tree.join(format!("small/{number}")), contents)?;
    }
    std::fs::remove_file(tree.join("small.bin"))?;
    std::fs::rename(world.file("sparse", FILE_BYTES / 2)?, tree.join("sparse"))?;
    let sparse = std::fs::OpenOptions::new().write(true).open(tree.join("sparse"))?;
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"behind a hole", FILE_BYTES / 2 + 70_000_000)?;
    drop(sparse);
    let sending = world.send_in_background(&tree, &format!("s3://{BUCKET}/"), &[]);
    let id = world.wait_for_bytes(&[])?;
    world.store.process().signal_stop();
    let waiting = world.wait_for(&id, PATIENCE_S, "all received", |status| number(status, "bytes_received") >= FILE_BYTES + SMALL * 10_000);
    world.store.process().signal_continue();
    let waiting = waiting?;
    println!("{} blocks on the disk while the store stood still", number(&waiting, "blocks_staged"));
    assert!(number(&waiting, "bytes_durable") < FILE_BYTES / 2, "{waiting}");
    assert!(number(&waiting, "blocks_staged") >= FILE_BYTES / MIB - 2 * WINDOW, "{waiting}");
    let sent = sending.join().expect("the thread panicked")?;
    sent.success("tradewind send")?;
    assert!(event(&sent, "retry").is_none(), "{}", sent.stdout);
    let back = world.testbed.path("back");
    world.tradewind(&["get", &format!("s3://{BUCKET}/tree/"), &back.display().to_string()])?.success("tradewind get")?;
    let compared = Command::new("diff").arg("--recursive").arg("--brief").arg(&tree).arg(&back).output()?;
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stdout));
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
    let waiting = world.wait_for(&id, PATIENCE_S, "limited by storage with a full disk", |status| {
        status["rate"]["limiter"] == "storage" && number(status, "blocks_staged") >= 14
    });
    world.store.process().signal_continue();
    let waiting = waiting?;
    let received = number(&waiting, "bytes_received");
    assert!(received < number(&waiting, "bytes_durable") + (WINDOW + 16 + 8) * MIB, "{waiting}");
    sending.join().expect("the thread panicked")?.success("tradewind send")?;
    assert_eq!(world.store.sha256(&world.testbed, "f")?, sha256_of_file(&file)?);
    Ok(())
}

/// What waited was not durable, so it is sent again, and the room on the disk is free.
#[test]
fn a_killed_engine_loses_nothing_that_it_has_confirmed() -> Result<()> {
    let Some(mut world) = world(STAGING)? else { return Ok(()) };
    let file = world.file("f", FILE_BYTES)?;
    // Slow, so that much is left once it is known that some parts are there.
    let sending = world.send_in_background(&file, &format!("s3://{BUCKET}/f"), &["--rate", "50M"]);
    let id = world.wait_for_bytes(&[])?;
    world.wait_for_total(&id, "bytes_durable", 32 * MIB)?;
    world.store.process().signal_stop();
    let waiting = world.wait_for(&id, PATIENCE_S, "on the disk", |status| number(status, "blocks_staged") >= 8);
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
    Ok(())
}

/// What it had received and could not store outlives it: hardly anything is sent twice.
#[test]
fn what_a_killed_engine_had_received_is_not_sent_again() -> Result<()> {
    let Some(mut world) = world(ALWAYS)? else { return Ok(()) };
    let file = world.file("f", FILE_BYTES)?;
    let (sending, _, waiting) = stop_store_far_behind(&mut world, &file)?;
    // What is on its way to the disk gets there.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let killed = Command::new("kill").args(["-9", &world.server.engine_pid().context("no engine")?.to_string()]).status();
    world.store.process().signal_continue();
    let waiting = waiting?;
    let (received, durable) = (number(&waiting, "bytes_received"), number(&waiting, "bytes_durable"));
    assert!(killed?.success());
    let sent = sending.join().expect("the thread panicked")?;
    sent.success("tradewind send")?;
    assert!(event(&sent, "retry").is_some(), "{}", sent.stdout);
    let kept = event(&sent, "started").context("started")?["bytes_kept"].as_u64().context("bytes_kept")?;
    println!("{received} bytes received, {durable} of them stored, {kept} kept");
    assert!(kept + 4 * MIB >= received && kept >= durable + 36 * MIB, "{received} received, {durable} stored, {kept} kept");
    assert_eq!(world.store.sha256(&world.testbed, "f")?, sha256_of_file(&file)?);
    let left: Vec<_> = std::fs::read_dir(world.testbed.path("staging/kept"))?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    assert_eq!(left, ["lock"], "what the store has is kept by nobody");
    Ok(())
}

/// What does not come back as it was never reaches the store: the command sends it again by itself.
#[test]
fn a_disk_that_returns_other_bytes_costs_another_attempt() -> Result<()> {
    let Some(mut world) = world(STAGING)? else { return Ok(()) };
    let file = world.file("f", FILE_BYTES)?;
    let sending = world.send_in_background(&file, &format!("s3://{BUCKET}/f"), &[]);
    let id = world.wait_for_bytes(&[])?;
    world.store.process().signal_stop();
    let waiting = world.wait_for(&id, PATIENCE_S, "on the disk", |status| number(status, "blocks_staged") >= 20);
    let [segment] = <[PathBuf; 1]>::try_from(unnamed(&world)?).map_err(|found| anyhow::anyhow!("{found:?}"))?;
    let disk = std::fs::OpenOptions::new().write(true).open(segment)?;
    std::os::unix::fs::FileExt::write_all_at(&disk, &[0x5a; 4096], 10 * MIB)?;
    disk.sync_all()?;
    world.store.process().signal_continue();
    waiting?;
    let sent = sending.join().expect("the thread panicked")?;
    sent.success("tradewind send")?;
    let retry = event(&sent, "retry").context("nothing was sent again")?;
    assert!(retry.to_string().contains("staging_failed"), "{retry}");
    assert_eq!(world.store.sha256(&world.testbed, "f")?, sha256_of_file(&file)?);
    Ok(())
}

/// Two disks: file systems in files, mounted here and unmounted when dropped.
struct TwoDisks {
    folder: tempfile::TempDir,
    mounted: Vec<PathBuf>,
}

impl TwoDisks {
    fn make() -> Result<Self> {
        let mut disks = Self { folder: tempfile::tempdir()?, mounted: Vec::new() };
        for name in ["one", "two"] {
            let (image, at) = (disks.folder.path().join(name).with_extension("image"), disks.folder.path().join(name));
            std::fs::File::create(&image)?.set_len(1 << 30)?;
            std::fs::create_dir(&at)?;
            let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status()?;
            let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at).status()?;
            anyhow::ensure!(made.success() && mounted.success(), "no file system at {}", at.display());
            disks.mounted.push(at.clone());
            std::fs::create_dir(at.join("staging"))?;
        }
        Ok(disks)
    }

    fn config(&self) -> String {
        let [one, two] = self.directories().map(|directory| directory.display().to_string());
        format!(
            "[engine]\ncredit_blocks = 48\nstaging_dir = [\"{one}\", \"{two}\"]\nstaging_bytes = 268435456\nstaging_mode = \"always\"\n"
        )
    }

    fn directories(&self) -> [PathBuf; 2] {
        ["one", "two"].map(|name| self.folder.path().join(name).join("staging"))
    }

    /// Files of kept blocks on each.
    fn kept(&self) -> [usize; 2] {
        self.directories().map(|directory| directory.join("kept").read_dir().map_or(0, |names| names.count().saturating_sub(1)))
    }
}

impl Drop for TwoDisks {
    fn drop(&mut self) {
        for at in &self.mounted {
            let unmounted = Command::new("umount").arg("--lazy").arg(at).status();
            if !unmounted.is_ok_and(|status| status.success()) {
                println!("{} stays mounted", at.display());
            }
        }
    }
}

/// The engine is killed with blocks of one transfer on two disks, of which the second may be missing afterwards. Returns received, durable, and
/// kept bytes.
fn killed_with_two_disks(is_second_missing: bool) -> Result<Option<(u64, u64, u64)>> {
    if !tradewind_tests::is_root() {
        println!("SKIP: end-to-end tests make network namespaces and need root");
        return Ok(None);
    }
    let disks = TwoDisks::make()?;
    let Some(mut world) = world(&disks.config())? else { return Ok(None) };
    let file = world.file("f", FILE_BYTES)?;
    let (sending, id, waiting) = stop_store_far_behind(&mut world, &file)?;
    // The window fills up, and what is on its way to the disks gets there.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let full = world.wait_for(&id, PATIENCE_S, "the figures", |_| true);
    let kept = disks.kept();
    let [_, second] = disks.directories();
    let away = second.with_file_name("away");
    if is_second_missing {
        std::fs::rename(&second, &away)?;
    }
    let killed = Command::new("kill").args(["-9", &world.server.engine_pid().context("no engine")?.to_string()]).status();
    world.store.process().signal_continue();
    waiting?;
    let full = full?;
    assert!(killed?.success());
    assert!(kept.iter().all(|files| *files > 0), "files on both disks: {kept:?}");
    let sent = sending.join().expect("the thread panicked")?;
    sent.success("tradewind send")?;
    assert!(event(&sent, "retry").is_some(), "{}", sent.stdout);
    assert_eq!(world.store.sha256(&world.testbed, "f")?, sha256_of_file(&file)?);
    let bytes_kept = event(&sent, "started").context("started")?["bytes_kept"].as_u64().context("bytes_kept")?;
    if is_second_missing {
        assert!(!second.exists(), "nothing is made in the place of a disk that is missing");
        assert_eq!(disks.kept()[0], 0, "what the store has is kept by nobody");
    } else {
        assert_eq!(disks.kept(), [0, 0], "what the store has is kept by nobody");
    }
    Ok(Some((number(&full, "bytes_received"), number(&full, "bytes_durable"), bytes_kept)))
}

#[test]
fn two_disks_outlive_the_engine_together() -> Result<()> {
    let Some((received, durable, kept)) = killed_with_two_disks(false)? else { return Ok(()) };
    println!("{received} bytes received, {durable} of them stored, {kept} kept");
    assert!(kept + 4 * MIB >= received && kept >= durable + 36 * MIB, "{received} received, {durable} stored, {kept} kept");
    Ok(())
}

/// What it had is sent again: nothing is lost, and the other one's blocks still count.
#[test]
fn a_disk_that_is_missing_after_a_kill_costs_what_it_had() -> Result<()> {
    let Some((received, durable, kept)) = killed_with_two_disks(true)? else { return Ok(()) };
    println!("{received} bytes received, {durable} of them stored, {kept} kept");
    assert!(kept >= durable + 8 * MIB && kept + 4 * MIB <= received, "{received} received, {durable} stored, {kept} kept");
    Ok(())
}
