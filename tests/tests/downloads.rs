//! Getting what lies in a server's stores, and copying from store to store.
//! What this cannot see: wide areas (`bench` and the demo send uploads through the emulator), several engines.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tradewind_bench::process::{Finished, run};
use tradewind_bench::testbed::{BUCKET, Server, ServerOptions, write_random};
use tradewind_tests::{World, event};

/// Contents, permissions and modification time of every file, by path.
type Tree = BTreeMap<String, (Vec<u8>, u32, i64)>;

fn tree(root: &Path) -> Result<Tree> {
    let mut found = Tree::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let metadata = path.symlink_metadata()?;
            if metadata.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
                found.insert(name, (std::fs::read(&path)?, metadata.mode() & 0o777, metadata.mtime()));
            }
        }
    }
    Ok(found)
}

/// Sizes around a block and a request, odd names, permissions that are not the default.
fn make(root: &Path) -> Result<Tree> {
    let sizes = [
        ("empty", 0),
        ("one", 1),
        ("deep/er/small", 4_097),
        ("block", 1 << 20),
        ("request", 2 << 20),
        ("parts", (9 << 20) + 17),
        ("ü/sp ace+%41&x", 70_000),
        ("-dash", 5),
    ];
    for (index, (name, bytes)) in sizes.into_iter().enumerate() {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().context("a parent")?)?;
        std::fs::write(&path, noise(index as u64 + 1, bytes))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(if index % 2 == 0 { 0o640 } else { 0o755 }))?;
        std::fs::File::open(&path)?.set_modified(UNIX_EPOCH + Duration::new(1_600_000_000 + index as u64, 5))?;
    }
    tree(root)
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(bytes)
    .collect()
}

#[track_caller]
fn code(ran: Result<Finished>, code: i32) -> Result<Finished> {
    let ran = ran?;
    let status = ran.status.context("it did not end in time")?;
    assert_eq!(status.code(), Some(code), "{}{}", ran.stdout, ran.stderr);
    Ok(ran)
}

#[track_caller]
fn assert_same(found: &Tree, expected: &Tree) {
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (name, (bytes, mode, mtime)) in expected {
        let (found_bytes, found_mode, found_mtime) = &found[name];
        assert!(bytes == found_bytes, "{name} differs");
        assert_eq!((found_mode, found_mtime), (mode, mtime), "{name}");
    }
}

#[test]
fn what_was_sent_is_got_from_either_kind_of_store() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let source = world.testbed.path("sent");
    let expected = make(&source)?;
    let text = |path: &Path| path.display().to_string();
    for (index, base) in [format!("s3://{BUCKET}/in/"), "local:in/".to_owned()].iter().enumerate() {
        world.tradewind(&["send", "--quiet", &format!("{}/", source.display()), base])?.success("tradewind send")?;
        let place = world.testbed.path(&format!("got-{index}"));

        // A folder, its contents; then again, and nothing is sent.
        let got = code(world.tradewind(&["get", "--json", base, &format!("{}/", place.display())]), 0)?;
        assert_same(&tree(&place)?, &expected);
        let done = event(&got, "done").context("done")?;
        assert_eq!(done["files"].as_u64(), Some(expected.len() as u64), "{done}");
        let again = code(world.tradewind(&["get", "--json", base, &text(&place)]), 0)?;
        let done = event(&again, "done").context("done")?;
        assert_eq!((done["files"].as_u64(), done["bytes_received"].as_u64()), (Some(0), Some(0)), "{done}");
        assert_same(&tree(&place)?, &expected);

        // One that was removed here, and one that is another now.
        std::fs::remove_file(place.join("one"))?;
        let again = code(world.tradewind(&["get", "--json", base, &text(&place)]), 0)?;
        assert_eq!(event(&again, "done").context("done")?["files"].as_u64(), Some(1));
        assert_same(&tree(&place)?, &expected);
        std::fs::write(place.join("one"), "mine")?;
        let refused = code(world.tradewind(&["get", base, &text(&place)]), 6)?;
        assert!(refused.stderr.contains("one exists already"), "{}", refused.stderr);
        assert_eq!(std::fs::read(place.join("one"))?, b"mine");
        code(world.tradewind(&["get", "--overwrite", base, &text(&place)]), 0)?;
        assert_same(&tree(&place)?, &expected);

        // The folder with its name, one object into a directory, one under another name, several.
        let named = world.testbed.path(&format!("named-{index}"));
        std::fs::create_dir(&named)?;
        code(world.tradewind(&["get", base.trim_end_matches('/'), &text(&named)]), 0)?;
        assert_same(&tree(&named.join("in"))?, &expected);
        code(world.tradewind(&["get", &format!("{base}parts"), &text(&named)]), 0)?;
        code(world.tradewind(&["get", &format!("{base}block"), &text(&named.join("renamed"))]), 0)?;
        code(world.tradewind(&["get", &format!("{base}one"), &format!("{base}empty"), &text(&named)]), 0)?;
        let found = tree(&named)?;
        for (name, of) in [("parts", "parts"), ("renamed", "block"), ("one", "one"), ("empty", "empty")] {
            assert!(found[name].0 == expected[of].0, "{name}");
        }

        let missing = code(world.tradewind(&["get", &format!("{base}nothing"), &text(&named)]), 7)?;
        assert!(missing.stderr.contains("nothing"), "{}", missing.stderr);
    }
    code(world.tradewind(&["get", "s3://no-such-bucket/x", "/tmp"]), 6)?;
    Ok(())
}

#[test]
fn an_interrupted_download_goes_on() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let file = world.file("large", 48 << 20)?;
    let base = format!("s3://{BUCKET}/large");
    world.send(&file, &base, &[])?.success("tradewind send")?;
    let place = world.testbed.path("got");
    std::fs::create_dir(&place)?;
    let target = place.display().to_string();
    let partial = place.join(".large.tradewind-partial");
    let mut command = Server::tradewind(&world.testbed);
    let mut child = command.args(["get", "--quiet", "--rate", "80M", &base, &target]).spawn()?;
    let begun = Instant::now();
    while !partial.exists() || begun.elapsed() < Duration::from_secs(3) {
        if begun.elapsed() > Duration::from_secs(30) {
            bail!("no partial file after 30 s");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    assert!(!place.join("large").exists(), "it was not whole yet");
    let again = code(world.tradewind(&["get", "--json", &base, &target]), 0)?;
    assert!(std::fs::read(place.join("large"))? == std::fs::read(&file)?);
    assert!(!partial.exists());
    let received = event(&again, "done").context("done")?["bytes_received"].as_u64().context("bytes")?;
    // 80 Mbit/s for 3 s are 30 MB, of which little was in flight.
    assert!(received < 40 << 20, "{received} of {} bytes came again", 48 << 20);
    Ok(())
}

/// Addresses change, packets are lost, and AF_XDP and the kernel's socket send alike.
#[test]
fn a_download_fills_its_path_also_when_the_clients_address_changes() -> Result<()> {
    for (xdp, arguments) in [("auto", &[][..]), ("off", &["--backend", "own", "--rebind-ms", "3000", "--rebind-ms", "6000"])] {
        let Some(world) = World::behind(&ServerOptions { xdp, ..ServerOptions::default() }, arguments)? else { return Ok(()) };
        let file = world.file("large", 60_000_000)?;
        std::fs::create_dir_all(world.testbed.path("local"))?;
        std::fs::copy(&file, world.testbed.path("local/large"))?;
        let target = world.testbed.path("got");
        let got = code(world.tradewind(&["get", "--json", "--retries", "0", "local:large", &target.display().to_string()]), 0)?;
        assert!(std::fs::read(&target)? == std::fs::read(&file)?);
        let done = event(&got, "done").context("done")?;
        // 100 Mbit/s of which 1 % is lost, with headers and start; less on a machine that is busy with other tests.
        assert!(done["goodput_bps"].as_f64() > Some(60e6), "{done}");
        let status = world.status(done["transfer_id"].as_str().context("an id")?)?;
        assert_eq!((&status["state"], &status["source"]), (&"done".into(), &"local:large".into()));
        let by_xdp = status["totals"]["packets_afxdp"].as_u64().context("packets")?;
        assert_eq!(by_xdp > 0, world.xdp_mode()? != "none", "{status}");
        println!("{xdp}: {:.1} Mbit/s, loss {}", done["goodput_bps"].as_f64().unwrap_or(0.0) / 1e6, done["loss"]);
    }
    Ok(())
}

#[test]
fn a_download_goes_on_by_itself_when_the_engine_was_killed() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let file = world.file("large", 40_000_000)?;
    std::fs::create_dir_all(world.testbed.path("local"))?;
    std::fs::copy(&file, world.testbed.path("local/large"))?;
    let target = world.testbed.path("got");
    let mut command = Server::tradewind(&world.testbed);
    command.args(["get", "--json", "local:large"]).arg(&target);
    let interrupt = world.testbed.interrupt.clone();
    let getting = std::thread::spawn(move || run(&mut command, &interrupt, Duration::from_secs(120)));
    world.wait_for_bytes(&[])?;
    std::thread::sleep(Duration::from_secs(1));
    let victim = world.server.engine_pid().context("no engine")?;
    assert!(std::process::Command::new("kill").args(["-9", &victim.to_string()]).status()?.success());
    let got = code(getting.join().expect("the thread panicked"), 0)?;
    assert!(event(&got, "retry").is_some(), "{}", got.stdout);
    let received = event(&got, "done").context("done")?["bytes_received"].as_u64();
    assert!(received < Some(40_000_000), "nothing was kept: {received:?}");
    assert!(std::fs::read(&target)? == std::fs::read(&file)?);
    Ok(())
}

/// What vanishes or cannot be read is named, and the rest arrives.
#[test]
fn what_cannot_be_read_is_left_out_by_name() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let root = world.testbed.path("local/in");
    std::fs::create_dir_all(&root)?;
    for name in ["a", "b", "z"] {
        std::fs::write(root.join(name), noise(1, 100_000))?;
    }
    // More than is read ahead of the network, and cut in the middle.
    let changed = root.join("m");
    write_random(&changed, 150 << 20)?;
    let target = world.testbed.path("got");
    let mut command = Server::tradewind(&world.testbed);
    command.args(["get", "--json", "local:in/"]).arg(&target);
    let interrupt = world.testbed.interrupt.clone();
    let getting = std::thread::spawn(move || run(&mut command, &interrupt, Duration::from_secs(120)));
    world.wait_for_bytes(&[])?;
    std::fs::write(&changed, "short")?;
    let got = code(getting.join().expect("the thread panicked"), 7)?;
    let error = event(&got, "file_error").context("file_error")?;
    assert!(error["path"] == "m" && error["message"].as_str().is_some_and(|text| text.contains("changed")), "{error}");
    let found = tree(&target)?;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b", "z"]);
    Ok(())
}

#[test]
fn objects_are_copied_from_store_to_store() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let source = world.testbed.path("sent");
    let expected = make(&source)?;
    let (bucket, folder) = (format!("s3://{BUCKET}/a/"), "local:b/".to_owned());
    world.tradewind(&["send", "--quiet", &format!("{}/", source.display()), &bucket])?.success("tradewind send")?;
    let copied = code(world.tradewind(&["copy", "--json", &bucket, &folder]), 0)?;
    let done = event(&copied, "done").context("done")?;
    assert_eq!(done["files"].as_u64(), Some(expected.len() as u64), "{done}");
    // And back, under another name.
    code(world.tradewind(&["copy", "local:b/", &format!("s3://{BUCKET}/c/")]), 0)?;
    code(world.tradewind(&["copy", &format!("s3://{BUCKET}/c/parts"), "local:one-part"]), 0)?;
    for base in [folder, format!("s3://{BUCKET}/c/")] {
        let place = world.testbed.path(&format!("got-{}", base.len()));
        code(world.tradewind(&["get", &base, &format!("{}/", place.display())]), 0)?;
        assert_same(&tree(&place)?, &expected);
    }
    let place = world.testbed.path("single");
    code(world.tradewind(&["get", "local:one-part", &place.display().to_string()]), 0)?;
    assert!(std::fs::read(&place)? == expected["parts"].0);
    let refused = code(world.tradewind(&["copy", &bucket, "local:b/"]), 6)?;
    assert!(refused.stderr.contains("exist"), "{}", refused.stderr);
    code(world.tradewind(&["copy", "local:nothing/", &bucket]), 7)?;
    Ok(())
}
