//! Getting what lies in a server's stores, and copying from store to store.
//! What this cannot see: wide areas (`bench` and the demo send uploads through the emulator), several engines.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use tradewind_bench::process::{Finished, run};
use tradewind_bench::testbed::{BUCKET, Server, ServerOptions, events, has_progressed, write_random};
use tradewind_tests::{World, event, settled};

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
    let refused = code(world.tradewind(&["get", &format!("s3://{BUCKET}/in/"), "/proc/version/x/"]), 6)?;
    assert!(refused.stderr.contains("/proc/version/x") && refused.stderr.contains("hint:"), "{}", refused.stderr);
    Ok(())
}

/// What is selected is got and copied, and nothing else; `--dry-run` says the same and does nothing.
#[test]
fn patterns_and_times_say_what_is_got_and_copied() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let source = world.testbed.path("sent");
    let expected = make(&source)?;
    let day = |day: u64| UNIX_EPOCH + Duration::from_secs(1_600_000_000 + day * 86_400);
    for (index, name) in expected.keys().enumerate() {
        std::fs::File::open(source.join(name))?.set_modified(day(index as u64))?;
    }
    // In the order of their names and times: -dash block deep/er/small empty one parts request ü/sp…
    let expected = tree(&source)?;
    let cases: [(&[&'static str], &[&str]); 5] = [
        (&["--exclude", "deep/", "--exclude", "/p*"], &["-dash", "block", "empty", "one", "request", "ü/sp ace+%41&x"]),
        (&["--include", "**/small", "--include", "e*"], &["deep/er/small", "empty"]),
        (&["--exclude", "*", "--include", "one"], &["one"]),
        // 2020-09-13 12:26:40 and so many days.
        (&["--newer-than", "2020-09-17 12:26:40", "--exclude", "request"], &["parts", "ü/sp ace+%41&x"]),
        (&["--older-than", "2020-09-15"], &["-dash", "block"]),
    ];
    for (kind, base) in [format!("s3://{BUCKET}/in/"), "local:in/".to_owned()].iter().enumerate() {
        world.tradewind(&["send", "--quiet", &format!("{}/", source.display()), base])?.success("tradewind send")?;
        for (index, (select, names)) in cases.iter().enumerate() {
            let chosen: Tree = expected
                .iter()
                .filter(|(name, _)| names.contains(&name.as_str()))
                .map(|(name, file)| (name.clone(), file.clone()))
                .collect();
            assert_eq!(chosen.len(), names.len(), "{names:?}");
            let place = world.testbed.path(&format!("got-{kind}-{index}"));
            let target = place.display().to_string();
            let command = |first: &[&'static str]| [first, select, &[base.as_str(), target.as_str()]].concat();
            let shown = code(world.tradewind(&command(&["get", "--dry-run", "--json"])), 0)?;
            let mut paths: Vec<_> =
                events(&shown.stdout, "file").iter().map(|file| file["path"].as_str().unwrap_or("").to_owned()).collect();
            paths.sort_unstable();
            assert_eq!(paths, *names, "{select:?}");
            let sum = event(&shown, "dry_run").context("dry_run")?;
            assert_eq!(sum["unselected"].as_u64(), Some((expected.len() - names.len()) as u64), "{sum}");
            assert!(!place.exists(), "a dry run makes nothing");
            let got = code(world.tradewind(&command(&["get", "--json"])), 0)?;
            assert_same(&tree(&place)?, &chosen);
            assert_eq!(event(&got, "done").context("done")?["files"].as_u64(), Some(names.len() as u64));
        }
        let copy = format!("local:copy-{kind}/");
        let shown = code(world.tradewind(&["copy", "--dry-run", "--exclude", "*", "--include", "one", base, &copy]), 0)?;
        assert_eq!(shown.stdout.trim(), format!("{base}one -> {copy}one"));
        assert!(!world.testbed.path(&format!("local/copy-{kind}")).exists());
        code(world.tradewind(&["copy", "--exclude", "*", "--include", "one", base, &copy]), 0)?;
        assert_eq!(tree(&world.testbed.path(&format!("local/copy-{kind}")))?.keys().collect::<Vec<_>>(), ["one"]);
    }
    // One object under another name, the folder with its own, nothing at all, and a pattern that means nothing.
    let shown = code(world.tradewind(&["get", "--dry-run", "local:in/one", "/tmp/other"]), 0)?;
    assert_eq!(shown.stdout.trim(), "local:in/one -> /tmp/other");
    let shown = code(world.tradewind(&["get", "--dry-run", "--include", "/in/one", "local:in", "/tmp"]), 0)?;
    assert_eq!(shown.stdout.trim(), "local:in/one -> /tmp/in/one");
    code(world.tradewind(&["get", "--dry-run", "local:nothing/", "/tmp"]), 7)?;
    code(world.tradewind(&["get", "--exclude", "!x", "local:in/", "/tmp"]), 2)?;
    Ok(())
}

#[test]
fn an_interrupted_download_goes_on() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let file = world.file("large", 48 << 20)?;
    let base = format!("s3://{BUCKET}/large");
    world.send(&file, &base, &[])?.success("tradewind send")?;
    for signal in ["KILL", "INT"] {
        let place = world.testbed.path(&format!("got-{signal}"));
        std::fs::create_dir(&place)?;
        let target = place.display().to_string();
        let partial = place.join(".large.tradewind-partial");
        let said = world.testbed.path(&format!("said-{signal}"));
        let mut command = Server::tradewind(&world.testbed);
        let child = command
            .args(["get", "--json", "--rate", "40M", &base, &target])
            .stdout(std::fs::File::create(&said)?)
            .stderr(Stdio::piped())
            .spawn()?;
        let begun = Instant::now();
        while !has_progressed(&std::fs::read_to_string(&said)?, "bytes_durable", 20 << 20) {
            ensure!(begun.elapsed() < Duration::from_secs(60), "20 MiB are not on the disk after 60 s");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(partial.exists());
        assert!(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status()?.success());
        let ended = child.wait_with_output()?;
        if signal == "INT" {
            let told = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.code(), Some(130), "{told}");
            assert!(told.contains("the same command goes on where it stopped"), "{told}");
        }
        assert!(!place.join("large").exists(), "it was not whole yet");
        let again = code(world.tradewind(&["get", "--json", &base, &target]), 0)?;
        assert!(std::fs::read(place.join("large"))? == std::fs::read(&file)?);
        assert!(!partial.exists());
        let received = event(&again, "done").context("done")?["bytes_received"].as_u64().context("bytes")?;
        // Of the 20 MiB little was in flight.
        assert!(received < 40 << 20, "{received} of {} bytes came again", 48 << 20);
        let kept = event(&again, "started").context("started")?["bytes_kept"].as_u64();
        assert!(kept > Some(8 << 20), "{kept:?}");
    }
    Ok(())
}

/// Addresses change, packets are lost, and AF_XDP and the kernel's socket send alike.
#[test]
fn a_download_fills_its_path_also_when_the_clients_address_changes() -> Result<()> {
    for (xdp, arguments) in [("auto", &[][..]), ("off", &["--backend", "own", "--rebind-ms", "3000", "--rebind-ms", "6000"])] {
        settled(|| download(xdp, arguments))?;
    }
    Ok(())
}

fn download(xdp: &'static str, arguments: &[&str]) -> Result<()> {
    let Some(world) = World::behind(&ServerOptions { xdp, ..ServerOptions::default() }, arguments)? else { return Ok(()) };
    let file = world.file("large", 60_000_000)?;
    std::fs::create_dir_all(world.testbed.path("local"))?;
    std::fs::copy(&file, world.testbed.path("local/large"))?;
    let target = world.testbed.path("got");
    let got = code(world.tradewind(&["get", "--json", "--retries", "0", "local:large", &target.display().to_string()]), 0)?;
    assert!(std::fs::read(&target)? == std::fs::read(&file)?);
    let done = event(&got, "done").context("done")?;
    let status = world.status(done["transfer_id"].as_str().context("an id")?)?;
    assert_eq!((&status["state"], &status["source"]), (&"done".into(), &"local:large".into()));
    let by_xdp = status["totals"]["packets_afxdp"].as_u64().context("packets")?;
    assert_eq!(by_xdp > 0, world.xdp_mode()? != "none", "{status}");
    println!("{xdp}: {:.1} Mbit/s, loss {}", done["goodput_bps"].as_f64().unwrap_or(0.0) / 1e6, done["loss"]);
    // 100 Mbit/s of which 1 % is lost, with headers and start; less on a machine that is busy with other tests.
    ensure!(done["goodput_bps"].as_f64() > Some(60e6), "{done}");
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
    command.args(["get", "--json", "--rate", "40M", "local:large"]).arg(&target);
    let interrupt = world.testbed.interrupt.clone();
    let getting = std::thread::spawn(move || run(&mut command, &interrupt, Duration::from_secs(120)));
    let id = world.wait_for_bytes(&[])?;
    world.wait_for_total(&id, "bytes_received", 8 << 20)?;
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
    // A directory that has the name of a file costs that file only.
    std::fs::create_dir_all(world.testbed.path("local/d/parts"))?;
    let copied = code(world.tradewind(&["copy", &bucket, "local:d/"]), 7)?;
    assert!(copied.stderr.contains("parts") && copied.stderr.contains("a directory has that name"), "{}", copied.stderr);
    assert_eq!(tree(&world.testbed.path("local/d"))?.len(), expected.len() - 1);
    // What was copied is not copied again; what is another one is not replaced.
    let again = code(world.tradewind(&["copy", "--json", &bucket, "local:b/"]), 0)?;
    assert_eq!(event(&again, "done").context("done")?["files"].as_u64(), Some(0), "{}", again.stdout);
    std::fs::write(world.testbed.path("local/b/parts"), b"another one")?;
    let refused = code(world.tradewind(&["copy", &bucket, "local:b/"]), 6)?;
    assert!(refused.stderr.contains("exist"), "{}", refused.stderr);
    code(world.tradewind(&["copy", "local:nothing/", &bucket]), 7)?;
    Ok(())
}

/// The client without the right of root to write anywhere.
fn without_override(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.arg("--bounding-set=-dac_override,-dac_read_search").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    bound
}

/// What cannot be written here is named, small and large, and the rest arrives; so does it once it can.
#[test]
fn what_cannot_be_written_is_left_out_by_name() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let root = world.testbed.path("local/in");
    let (small, large) = (5_000, (3 << 20) + 5);
    let good = ["a", "free/b", "z"];
    let bad = ["folder", "folder-large", "file/below", "file/below-large", "locked/x", "locked/x-large"];
    for (index, name) in good.into_iter().chain(bad).enumerate() {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().context("a parent")?)?;
        std::fs::write(&path, noise(index as u64 + 1, if name.ends_with("large") { large } else { small }))?;
    }
    let expected = tree(&root)?;
    let target = world.testbed.path("got");
    for folder in ["folder", "folder-large", "locked"] {
        std::fs::create_dir_all(target.join(folder))?;
    }
    std::fs::write(target.join("file"), "mine")?;
    std::fs::set_permissions(target.join("locked"), std::fs::Permissions::from_mode(0o555))?;
    for overwrite in [&["--overwrite"][..], &[]] {
        let mut command = Server::tradewind(&world.testbed);
        command.args(["get", "--json"]).args(overwrite).arg("local:in/").arg(&target);
        let got = code(run(&mut without_override(&command), &world.testbed.interrupt, Duration::from_secs(60)), 7)?;
        let named = events(&got.stdout, "file_error");
        let mut names: Vec<_> = named.iter().filter_map(|event| event["path"].as_str()).collect();
        names.sort_unstable();
        let mut wanted = bad.to_vec();
        wanted.sort_unstable();
        assert_eq!(names, wanted, "{}", got.stdout);
        let message = |of: &str| named.iter().find(|event| event["path"] == of).map(|event| event["message"].to_string());
        for (name, words) in
            [("folder-large", "a directory has that name"), ("file/below", "is a symbolic link or a file"), ("locked/x", "permission")]
        {
            assert!(message(name).is_some_and(|text| text.contains(words)), "{name}: {:?}", message(name));
        }
        let done = event(&got, "done").context("done")?;
        assert_eq!(done["files_failed"].as_u64(), Some(bad.len() as u64), "{done}");
        let found = tree(&target)?;
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "file", "free/b", "z"]);
        assert!(good.into_iter().all(|name| found[name].0 == expected[name].0) && found["file"].0 == b"mine");
    }
    std::fs::remove_file(target.join("file"))?;
    std::fs::remove_dir(target.join("folder"))?;
    std::fs::remove_dir(target.join("folder-large"))?;
    let again = code(world.tradewind(&["get", "--json", "local:in/", &target.display().to_string()]), 0)?;
    assert_same(&tree(&target)?, &expected);
    assert_eq!(event(&again, "done").context("done")?["files"].as_u64(), Some(bad.len() as u64), "only what was missing");
    Ok(())
}

/// A file system of so many bytes in memory, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, options: &str) -> Result<Self> {
        std::fs::create_dir_all(&at)?;
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).status()?;
        anyhow::ensure!(status.success(), "cannot mount a small file system");
        Ok(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_a_download_which_goes_on_once_there_is_room() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let root = world.testbed.path("local/in");
    std::fs::create_dir_all(&root)?;
    write_random(&root.join("a"), 12 << 20)?;
    write_random(&root.join("b"), 12 << 20)?;
    let expected = tree(&root)?;
    let disk = SmallDisk::mount(world.testbed.path("disk"), "size=20m")?;
    let target = disk.0.join("got").display().to_string();
    let full = code(world.tradewind(&["get", "local:in/", &format!("{target}/")]), 8)?;
    for words in ["is full", "free space", "the same command again"] {
        assert!(full.stderr.contains(words), "no {words:?} in {}", full.stderr);
    }
    assert!(!Path::new(&target).join("b").exists());
    let status = Command::new("mount").args(["-o", "remount,size=60m"]).arg(&disk.0).status()?;
    assert!(status.success());
    let again = code(world.tradewind(&["get", "--json", "local:in/", &target]), 0)?;
    let received = event(&again, "done").context("done")?["bytes_received"].as_u64();
    assert!(received < Some(23 << 20), "nothing was kept: {received:?}");
    assert_same(&tree(Path::new(&target))?, &expected);
    Ok(())
}

/// The last block, its confirmation and the goodbyes of both ends pass each other in any order; either of two workers may have the lane.
#[test]
fn many_short_downloads_end_at_once_whatever_overtakes_what() -> Result<()> {
    let options = ServerOptions { xdp: "off", more: "[engine]\nworkers = 2\n" };
    let Some(world) = World::start(&options)? else { return Ok(()) };
    let root = world.testbed.path("local/in");
    std::fs::create_dir_all(&root)?;
    let sizes = [0, 1, 1_000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1];
    for (index, bytes) in sizes.into_iter().enumerate() {
        std::fs::write(root.join(index.to_string()), noise(index as u64 + 1, bytes))?;
    }
    let place = world.testbed.path("got");
    std::fs::create_dir(&place)?;
    // A goodbye that never comes is waited for 3 s.
    let mut slow = Vec::new();
    for round in 0..5 * sizes.len() {
        let name = (round % sizes.len()).to_string();
        let target = place.join(format!("{round}"));
        let got = code(world.tradewind(&["get", "--json", &format!("local:in/{name}"), &target.display().to_string()]), 0)?;
        assert!(std::fs::read(&target)? == std::fs::read(root.join(&name))?, "{name}");
        let done = event(&got, "done").context("done")?;
        if done["elapsed_s"].as_f64() >= Some(3.0) {
            slow.push((name, done.to_string()));
        }
    }
    // Beside those there are pauses of the machine, but not many.
    assert!(slow.len() <= 2, "{slow:?}");
    Ok(())
}

/// Two commands into one directory keep out of each other's way, and what each has brought is known afterwards.
#[test]
fn two_downloads_into_one_directory_share_their_journal() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let local = world.testbed.path("local");
    for folder in ["one", "other"] {
        std::fs::create_dir_all(local.join(folder))?;
        for number in 0..200 {
            std::fs::write(local.join(format!("{folder}/{folder}-{number}")), noise(number + 1, 20_000))?;
        }
        write_random(&local.join(format!("{folder}/{folder}-large")), 6 << 20)?;
    }
    let target = world.testbed.path("got");
    let begin = |folder: &str| {
        let mut command = Server::tradewind(&world.testbed);
        command.args(["get", "--json", &format!("local:{folder}/")]).arg(format!("{}/", target.display()));
        let interrupt = world.testbed.interrupt.clone();
        std::thread::spawn(move || run(&mut command, &interrupt, Duration::from_secs(120)))
    };
    for (attempt, expected) in [(1, 201), (2, 0)] {
        for getting in [begin("one"), begin("other")] {
            let got = code(getting.join().expect("the thread panicked"), 0)?;
            assert_eq!(event(&got, "done").context("done")?["files"].as_u64(), Some(expected), "attempt {attempt}");
        }
    }
    let expected: Tree = tree(&local.join("one"))?.into_iter().chain(tree(&local.join("other"))?).collect();
    assert_same(&tree(&target)?, &expected);
    Ok(())
}
