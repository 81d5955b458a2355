//! Transfers that are interrupted and go on, through the real processes. `cargo xtask bench kill-resume` does the same a hundred times.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use tradewind_bench::kill_resume;
use tradewind_bench::loopback::Loopback;
use tradewind_bench::process::Interrupt;
use tradewind_bench::testbed::{BUCKET, ServerOptions, sha256_of_file};
use tradewind_bench::tree::{self, Random};
use tradewind_tests::{World, event};

#[test]
fn killed_clients_servers_and_engines_cost_little_and_every_tree_arrives_as_it_is() -> Result<()> {
    let arguments = kill_resume::Arguments { kills: 9, seed: 3, rate_mbps: 400, ..kill_resume::Arguments::default() };
    let report = kill_resume::run(&arguments, &Interrupt::default())?;
    assert!(report.byte_equal && report.kills >= 9);
    // A part of the one file that is open, and what was on its way: a commit of the journal is 0.1 s old and takes as long as the disk does, at
    // 50 MB/s. On average, because a busy disk may take a second once.
    assert!(report.resent_bytes_mean <= 16 << 20, "{report:?}");
    Ok(())
}

#[test]
fn a_multipart_upload_goes_on_part_by_part_for_another_client() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let (bytes, to) = (60_000_000, format!("s3://{BUCKET}/large"));
    let file = world.file("large", bytes)?;
    let sending = world.send_in_background(&file, &to, &["--retries", "0", "--rate", "40M"]);
    let first = world.wait_for_bytes(&[])?;
    // Some parts of 8 MiB are at the store, and all but the last in the journal: a part takes 1.7 s, the journal 0.1 s.
    world.wait_for_total(&first, "bytes_durable", 32 << 20)?;
    let victim = world.server.engine_pid().expect("no engine");
    assert!(Command::new("kill").args(["-9", &victim.to_string()]).status()?.success());
    assert_ne!(sending.join().expect("the thread panicked")?.status.and_then(|status| status.code()), Some(0));
    // Another client's copy of the same file: the same name, size and time.
    let copy = world.testbed.path("copy-of-large");
    assert!(Command::new("cp").arg("--preserve=timestamps").args([&file, &copy]).status()?.success());
    let sent = world.send(&copy, &to, &[])?;
    sent.success("going on")?;
    let done = event(&sent, "done").expect("no event 'done'");
    assert!(done["bytes_kept"].as_u64() >= Some(24 << 20), "{done}");
    assert_eq!(done["bytes_kept"].as_u64().unwrap_or(0) + done["bytes"].as_u64().unwrap_or(0), bytes);
    assert_eq!(world.store.sha256(&world.testbed, "large")?, sha256_of_file(&file)?);
    Ok(())
}

/// The client waits for an answer when its server is killed; it asks the next one by itself.
#[test]
fn a_server_that_is_killed_while_it_takes_a_transfer_is_asked_again() -> Result<()> {
    let mut world = Loopback::start(&std::env::temp_dir(), &Interrupt::default())?;
    Random::new(14).write(&world.path("file"), 3 << 20)?;
    let engine = world.engine_pid().expect("no engine");
    let signal = |name: &str, pid: u32| Command::new("kill").args([name, &pid.to_string()]).status();
    // An engine that stands still opens no lane, so that the answer is waited for.
    assert!(signal("-STOP", engine)?.success());
    let mut client =
        world.begin("asking", &["send", "--json", "--retries", "12", &world.path("file").display().to_string(), "local:in/"])?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !world.run(&["status", "--json"])?.stdout.contains("transfer_id") {
        assert!(Instant::now() < deadline && client.try_wait()?.is_none(), "{}", fs::read_to_string(world.path("asking.out"))?);
        std::thread::sleep(Duration::from_millis(50));
    }
    let control = world.control_pid()?;
    assert!(signal("-KILL", control)?.success());
    world.start_server()?;
    let status = client.wait()?;
    let said = fs::read_to_string(world.path("asking.out"))?;
    assert!(status.success() && said.contains("\"retry\""), "{status} {said}");
    assert_eq!(fs::read(world.path("local/in/file"))?, fs::read(world.path("file"))?);
    Ok(())
}

#[test]
fn a_source_that_changed_in_between_starts_again_and_only_that_one() -> Result<()> {
    let world = Loopback::start(&std::env::temp_dir(), &Interrupt::default())?;
    let source = world.path("source");
    fs::create_dir(&source)?;
    let mut random = Random::new(11);
    for (name, bytes) in [("a", 5000), ("b", 30 << 20), ("c", 30 << 20)] {
        random.write(&source.join(name), bytes)?;
    }
    let arguments = ["send", "--json", "--rate", "60M", &format!("{}/", source.display()), "local:in/"];
    let mut client = world.begin("first", &arguments)?;
    let (second, partial) = (world.path("local/in/b"), world.path("local/in/.c.tradewind-partial"));
    world.wait_for_progress("first", &mut client, "bytes_durable", 36 << 20)?;
    assert!(second.exists() && partial.exists());
    client.kill()?;
    client.wait()?;
    random.write(&source.join("c"), (30 << 20) + 1)?;
    let sent = world.run(&["send", "--json", &format!("{}/", source.display()), "local:in/"])?;
    sent.success("going on")?;
    let done = event(&sent, "done").expect("no event 'done'");
    assert_eq!((done["files"].as_u64(), done["files_kept"].as_u64(), done["bytes"].as_u64()), (Some(1), Some(2), Some((30 << 20) + 1)));
    assert_eq!(tree::same(&source, &world.path("local/in"))?, 3);
    assert!(!partial.exists());
    // What was removed at the destination is sent again, though the journal knows it.
    fs::remove_file(world.path("local/in/a"))?;
    let sent = world.run(&["send", "--json", &format!("{}/", source.display()), "local:in/"])?;
    sent.success("sending what was removed")?;
    assert_eq!(event(&sent, "done").expect("no event 'done'")["files"].as_u64(), Some(1));
    assert_eq!(tree::same(&source, &world.path("local/in"))?, 3);
    Ok(())
}

/// Size and time tell nothing of a file that was changed and dated back; its contents do.
#[test]
fn contents_are_compared_where_that_is_wanted() -> Result<()> {
    let world = Loopback::start(&std::env::temp_dir(), &Interrupt::default())?;
    let source = world.path("source");
    fs::create_dir(&source)?;
    let mut random = Random::new(12);
    for (name, bytes) in [("same", 3 << 20), ("other", 2 << 20)] {
        random.write(&source.join(name), bytes)?;
    }
    let send = |further: &[&str]| {
        let from = format!("{}/", source.display());
        world.run(&[&["send", "--json"], further, &[&from, "local:in/"]].concat())
    };
    send(&[])?.success("the first time")?;
    let other = source.join("other");
    let dated = fs::metadata(&other)?.modified()?;
    random.write(&other, 2 << 20)?;
    fs::File::options().write(true).open(&other)?.set_modified(dated)?;

    let sent = send(&[])?;
    sent.success("by attributes")?;
    assert_eq!(event(&sent, "done").expect("done")["files_kept"].as_u64(), Some(2), "attributes do not tell");
    let refused = send(&["--resume", "full"])?;
    assert_eq!(refused.status.and_then(|status| status.code()), Some(6), "{}", refused.stderr);
    let sent = send(&["--resume", "full", "--overwrite"])?;
    sent.success("by contents")?;
    let done = event(&sent, "done").expect("done");
    assert_eq!((done["files"].as_u64(), done["files_kept"].as_u64(), done["bytes"].as_u64()), (Some(1), Some(1), Some(2 << 20)), "{done}");
    assert_eq!(tree::same(&source, &world.path("local/in"))?, 2);
    Ok(())
}

/// `--resume sparse`: a change where samples are is found, one where none are is not, and what is the same is not read as a whole.
#[test]
fn samples_are_compared_where_that_is_wanted() -> Result<()> {
    const SIZE: u64 = 100 << 20;
    let world = Loopback::start(&std::env::temp_dir(), &Interrupt::default())?;
    let source = world.path("source");
    fs::create_dir(&source)?;
    let large = source.join("large");
    let mut random = Random::new(13);
    random.write(&large, SIZE)?;
    random.write(&source.join("small"), 1 << 20)?;
    let send = |further: &[&str]| {
        let from = format!("{}/", source.display());
        world.run(&[&["send", "--json"], further, &[&from, "local:in/"]].concat())
    };
    let done = |sent: &tradewind_bench::process::Finished| -> [u64; 3] {
        let done = event(sent, "done").expect("no event 'done'");
        ["files", "files_kept", "bytes_compared"].map(|name| done[name].as_u64().expect(name))
    };
    send(&[])?.success("the first time")?;
    let sent = send(&["--resume", "sparse"])?;
    sent.success("unchanged")?;
    let [files, kept, compared] = done(&sent);
    println!("unchanged: {compared} of {} bytes compared", SIZE + (1 << 20));
    assert_eq!((files, kept), (0, 2));
    assert!(compared > 4 << 20 && compared <= 33 << 20, "{compared}");
    let change = |at: u64| -> Result<()> {
        let file = fs::File::options().write(true).open(&large)?;
        let dated = file.metadata()?.modified()?;
        file.write_all_at(b"changed", at)?;
        Ok(file.set_modified(dated)?)
    };
    // Not in the first 4 MiB of any of eight parts, whatever the size of blocks up to that.
    change(SIZE / 14 + (1 << 20))?;
    let sent = send(&["--resume", "sparse"])?;
    sent.success("changed between samples")?;
    assert_eq!(done(&sent)[..2], [0, 2], "samples do not tell");
    for at in [0, SIZE - 7] {
        change(at)?;
        let sent = send(&["--resume", "sparse", "--overwrite"])?;
        sent.success("changed in a sample")?;
        assert_eq!(done(&sent)[..2], [1, 1], "changed at {at}");
        assert_eq!(tree::same(&source, &world.path("local/in"))?, 2);
        // As it was, for the other end.
        send(&["--resume", "full", "--overwrite"])?.success("the same by contents")?;
    }
    Ok(())
}

/// What nobody goes on with is aborted when the next transfer into its store begins; what runs or was resumed is not, however long a part takes.
#[test]
fn uploads_that_nobody_goes_on_with_are_aborted_and_no_others() -> Result<()> {
    const KEEP: Duration = Duration::from_secs(10);
    let options = ServerOptions { more: "[limits]\nresume_keep_s = 10\n", ..ServerOptions::default() };
    let Some(world) = World::start(&options)? else { return Ok(()) };
    let small = world.file("small", 1000)?;
    let large = world.file("large", 80_000_000)?;
    let in_bucket = |key: &str| format!("s3://{BUCKET}/{key}");
    let begin = |to: &str, rate: &str| -> Result<_> {
        let known = world.transfers()?;
        let sending = world.send_in_background(&large, to, &["--retries", "0", "--rate", rate]);
        Ok((world.wait_for_bytes(&known)?, sending))
    };
    let interrupted = |to: &str| -> Result<()> {
        let (id, sending) = begin(to, "30M")?;
        world.wait_for_total(&id, "bytes_durable", 8 << 20)?;
        world.tradewind(&["cancel", &id])?.success("tradewind cancel")?;
        let sent = sending.join().expect("the thread panicked")?;
        assert_eq!(sent.status.and_then(|status| status.code()), Some(9), "{}", sent.stderr);
        Ok(())
    };
    let partial = |name: &str| world.testbed.path(&format!("local/.{name}.tradewind-partial"));

    interrupted(&in_bucket("left"))?;
    interrupted("local:left")?;
    assert_eq!(world.store.uploads(&world.testbed)?, ["left"]);
    assert!(partial("left").exists());
    std::thread::sleep(KEEP + Duration::from_millis(1500));
    // Nothing looks after a store into which nobody sends.
    assert_eq!(world.store.uploads(&world.testbed)?, ["left"]);

    interrupted(&in_bucket("resumed"))?;
    interrupted("local:resumed")?;
    // A part of 8 MiB takes 17 s at this rate, what is left of the file two minutes.
    let slow = [begin(&in_bucket("resumed"), "4M")?, begin("local:resumed", "4M")?, begin(&in_bucket("live"), "4M")?];
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut open = world.store.uploads(&world.testbed)?;
        open.sort_unstable();
        assert!(!open.contains(&"left".to_owned()), "{open:?}");
        if open == ["live", "resumed"] {
            break;
        }
        assert!(Instant::now() < deadline, "only {open:?} are open");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(!partial("left").exists() && partial("resumed").exists());
    std::thread::sleep(KEEP + Duration::from_millis(1500));
    for to in [in_bucket("small"), "local:small".to_owned()] {
        world.send(&small, &to, &[])?.success("the transfer that looks after its store")?;
    }
    for (id, _) in &slow {
        world.tradewind(&["rate", id, "--rate", "none"])?.success("tradewind rate")?;
    }
    for ((_, sending), resumed) in slow.into_iter().zip([true, true, false]) {
        let sent = sending.join().expect("the thread panicked")?;
        sent.success("the transfer that goes on")?;
        let kept = event(&sent, "done").expect("no event 'done'")["bytes_kept"].as_u64();
        assert_eq!(kept >= Some(8 << 20), resumed, "{kept:?}");
    }
    for key in ["resumed", "live"] {
        assert_eq!(world.store.sha256(&world.testbed, key)?, sha256_of_file(&large)?, "{key}");
    }
    assert_eq!(sha256_of_file(&world.testbed.path("local/resumed"))?, sha256_of_file(&large)?);
    assert!(world.store.uploads(&world.testbed)?.is_empty());
    Ok(())
}

/// The parts of an interrupted transfer are those of its blocks: with others what was begun starts again, what is complete stays.
#[test]
fn the_block_size_may_change_between_two_attempts() -> Result<()> {
    let mut world = Loopback::start(&std::env::temp_dir(), &Interrupt::default())?;
    let source = world.path("source");
    fs::create_dir(&source)?;
    let mut random = Random::new(13);
    random.write(&source.join("a"), 8 << 20)?;
    random.write(&source.join("b"), (40 << 20) + 3)?;
    let (from, config, local, got) =
        (format!("{}/", source.display()), world.path("tradewindd.toml"), world.path("local/in"), world.path("got"));
    let into = format!("{}/", got.display());
    let written = fs::read_to_string(&config)?;
    let ways = [(["send", &from, "local:in/"], &local, "bytes"), (["get", "local:in/", &into], &got, "bytes_received")];
    for (arguments, target, bytes) in ways {
        for (attempt, block_bytes) in [(1, 1_048_576), (2, 262_144), (3, 786_432)] {
            fs::write(&config, format!("{written}\n[engine]\nblock_bytes = {block_bytes}\n"))?;
            let victim = world.control_pid()?;
            assert!(Command::new("kill").args(["-9", &victim.to_string()]).status()?.success());
            world.start_server()?;
            let begin = [&arguments[..1], &["--json", "--rate", if attempt == 3 { "2G" } else { "80M" }], &arguments[1..]].concat();
            if attempt == 3 {
                let moved = world.run(&begin)?;
                moved.success("going on")?;
                let again = event(&moved, "done").expect("done")[bytes].as_u64();
                assert!(again < Some(41 << 20), "the file that was complete came again: {again:?} bytes");
                continue;
            }
            let partial = target.join(".b.tradewind-partial");
            let name = format!("{}-{attempt}", arguments[0]);
            let mut client = world.begin(&name, &begin)?;
            // The first file is complete then, and the journal knows it.
            world.wait_for_progress(&name, &mut client, "bytes_durable", 14 << 20)?;
            client.kill()?;
            client.wait()?;
            assert!(partial.exists(), "it was not interrupted");
        }
        assert_eq!(tree::same(&source, target)?, 2);
    }
    Ok(())
}
