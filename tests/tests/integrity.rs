//! What proves that files arrived: checksums, metadata, manifests, receipts, and reading them again, through the real processes.
//! What this cannot see: file systems without extended attributes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result};
use rustix::fs::XattrFlags;
use serde_json::Value;
use tradewind_bench::loopback::Loopback;
use tradewind_bench::process::{Background, Finished, Interrupt, run};
use tradewind_bench::testbed::{BUCKET, Server, ServerOptions, sha256_of_file, write_random};
use tradewind_integrity::ManifestLine;
use tradewind_tests::{World, event};

const LARGE_BYTES: u64 = (20 << 20) + 5;

fn events(finished: &Finished, kind: &str) -> Vec<Value> {
    let events = finished.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event"] == kind).collect()
}

fn manifest(path: &Path) -> Result<Vec<ManifestLine>> {
    let text = fs::read(path)?;
    let mut lines = Vec::new();
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        lines.push(ManifestLine::parse(line)?);
    }
    lines.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(lines)
}

#[track_caller]
fn ends_with(finished: &Finished, code: i32) {
    assert_eq!(finished.status.and_then(|status| status.code()), Some(code), "{}{}", finished.stdout, finished.stderr);
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let length = rustix::fs::getxattr(path, name, &mut buffer[..]).ok()?;
    Some(buffer[..length].to_vec())
}

/// A folder of files; false if its file system has no extended attributes.
fn make_files(folder: &Path) -> Result<bool> {
    fs::create_dir_all(folder.join("sub"))?;
    write_random(&folder.join("large"), LARGE_BYTES)?;
    for (name, bytes) in [("a", &b"abc"[..]), ("empty", b""), ("sub/\u{fc}", b"in a folder"), ("sub/crowded", b"many attributes")] {
        fs::write(folder.join(name), bytes)?;
    }
    fs::write(folder.join(OsStr::from_bytes(b"caf\xe9")), "not UTF-8")?;
    let a = folder.join("a");
    if let Err(errno) = rustix::fs::setxattr(&a, "user.colour", b"blue", XattrFlags::empty()) {
        println!("SKIP: no extended attributes here: {errno}");
        return Ok(false);
    }
    rustix::fs::setxattr(folder.join("sub/crowded"), "user.large", &[7; 2000], XattrFlags::empty())?;
    let times = fs::FileTimes::new()
        .set_accessed(UNIX_EPOCH + Duration::new(1_600_000_000, 7))
        .set_modified(UNIX_EPOCH + Duration::new(1_700_000_000, 5));
    File::options().write(true).open(&a)?.set_times(times)?;
    Ok(true)
}

/// What both kinds of store have in common. `run` is the user's command; `flip` changes a byte of the object `large`, and `remove` removes
/// `empty`, behind the server's back.
fn is_proved(
    run: &dyn Fn(&[&str]) -> Result<Finished>,
    path: &dyn Fn(&str) -> PathBuf,
    destination: &str,
    flip: &dyn Fn() -> Result<()>,
    remove: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let text = |name: &str| path(name).display().to_string();
    let (source, list, receipt) = (format!("{}/", text("source")), text("manifest"), text("receipt"));
    let keeping = ["--checksum", "sha256,md5,sha1,blake3", "--preserve", "all", "--manifest", &list, "--receipt", &receipt];
    let sent = run(&[&["send", "--json", &source, destination][..], &keeping].concat())?;
    sent.success("tradewind send")?;
    let notes = events(&sent, "file_note");
    assert!(matches!(&notes[..], [note] if note["path"].as_str().is_some_and(|path| path.ends_with("crowded"))), "{notes:?}");

    let lines = manifest(Path::new(&list))?;
    let paths: Vec<&str> = lines.iter().map(|line| line.path.as_str()).collect();
    assert_eq!(paths, ["a", "caf\u{201b}E9", "empty", "large", "sub/crowded", "sub/\u{fc}"]);
    for line in &lines {
        let file = path("source").join(OsStr::from_bytes(&line.path_bytes().context("a path")?));
        assert_eq!((line.size, line.sha256.as_deref()), (fs::metadata(&file)?.len(), Some(sha256_of_file(&file)?.as_str())), "{line:?}");
        assert!(
            line.crc64nvme.is_some() && line.md5.is_some() && line.sha1.is_some() && line.blake3.is_some() && !line.already,
            "{line:?}"
        );
    }
    assert_eq!(lines[0].mtime.as_deref(), Some("2023-11-14T22:13:20.000000005Z"));
    assert_eq!(lines[0].md5.as_deref(), Some("900150983cd24fb0d6963f7d28e17f72"));

    let shown: Value = serde_json::from_str(&run(&["stat", "--json", &format!("{destination}a")])?.stdout)?;
    let attributes = &shown["attributes"];
    // A directory has it as the file's own.
    let atime = if destination.starts_with("s3:") { Value::from("1600000000.000000007") } else { Value::Null };
    assert_eq!((&attributes["md5chksum"], &attributes["atime"]), (&"kAFQmDzST7DWlj99KOF/cg==".into(), &atime), "{shown}");
    assert_eq!(attributes["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(attributes["xattr"], "%7B%22user.colour%22%3A%22Ymx1ZQ%3D%3D%22%7D");
    assert_eq!(attributes["uid"].as_str(), Some(fs::metadata(path("source"))?.uid().to_string().as_str()));

    receipts_are_believed_only_as_they_were_signed(run, path)?;

    let verify = ["verify", "--json", destination, "--manifest", &list];
    let verified = run(&verify)?;
    ends_with(&verified, 0);
    let summary = event(&verified, "verified").context("no summary")?;
    assert_eq!((&summary["same"], &summary["unproved"]), (&6.into(), &0.into()), "{summary}");
    assert_eq!(summary["bytes"].as_u64(), Some(lines.iter().map(|line| line.size).sum()));

    // Everything is there: the manifest of another transfer says so.
    let again = text("again");
    run(&["send", "--quiet", &source, destination, "--manifest", &again])?.success("sending again")?;
    let known = manifest(Path::new(&again))?;
    assert!(known.iter().all(|line| line.already), "{known:?}");
    assert_eq!(
        known.iter().map(|line| (&line.path, &line.crc64nvme)).collect::<Vec<_>>(),
        lines.iter().map(|line| (&line.path, &line.crc64nvme)).collect::<Vec<_>>()
    );

    flip()?;
    let differs = run(&verify)?;
    ends_with(&differs, 7);
    let found = events(&differs, "file");
    assert!(matches!(&found[..], [file] if file["path"] == "large" && file["state"] == "different"), "{found:?}");
    remove()?;
    let people = run(&["verify", destination, "--manifest", &list])?;
    ends_with(&people, 7);
    assert!(
        people.stdout.contains("missing: empty:") && people.stdout.contains("4 files are as in the manifest, 1 different, 1 missing"),
        "{}",
        people.stdout
    );
    Ok(())
}

fn receipts_are_believed_only_as_they_were_signed(run: &dyn Fn(&[&str]) -> Result<Finished>, path: &dyn Fn(&str) -> PathBuf) -> Result<()> {
    let text = |name: &str| path(name).display().to_string();
    let key = run(&["receipt-key"])?;
    key.success("tradewind receipt-key")?;
    fs::write(path("key"), &key.stdout)?;
    let check = |receipt: &str, manifest: &str| {
        run(&["verify-receipt", &text(receipt), "--key", &text("key"), "--manifest", &text(manifest), "--json"])
    };
    let good = check("receipt", "manifest")?;
    ends_with(&good, 0);
    let said: Value = serde_json::from_str(&good.stdout)?;
    assert_eq!((&said["files"], said["kind"].as_str()), (&6.into(), Some("tradewind-receipt/1")), "{said}");
    let receipt = fs::read_to_string(path("receipt"))?;
    fs::write(path("forged"), receipt.replacen("\"files\":6", "\"files\":7", 1))?;
    ends_with(&check("forged", "manifest")?, 7);
    fs::write(path("changed"), fs::read_to_string(path("manifest"))?.replacen("abc", "abd", 1) + " ")?;
    ends_with(&check("receipt", "changed")?, 7);
    ends_with(&run(&["verify-receipt", &text("receipt"), "--key", "ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="])?, 7);
    Ok(())
}

fn flip_byte(path: &Path) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let modified = file.metadata()?.modified()?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, LARGE_BYTES - 3)?;
    file.write_all_at(&[byte[0] ^ 1], LARGE_BYTES - 3)?;
    // As if the disk had done it.
    file.set_modified(modified)?;
    Ok(())
}

#[test]
fn files_in_a_directory_are_proved_and_one_flipped_byte_is_found() -> Result<()> {
    let parent = std::env::current_exe()?.parent().context("a folder")?.to_owned();
    let world = Loopback::start(&parent, &Interrupt::default())?;
    if !make_files(&world.path("source"))? {
        return Ok(());
    }
    let stored = |name: &str| world.path("local/in").join(name);
    let flip = || {
        // Before that, what became of the attributes.
        let a = fs::metadata(stored("a"))?;
        assert_eq!((a.atime(), a.mtime(), a.mtime_nsec()), (1_600_000_000, 1_700_000_000, 5));
        assert_eq!(xattr(&stored("a"), "user.colour").as_deref(), Some(&b"blue"[..]));
        assert_eq!(xattr(&stored("large"), "user.tradewind.sha256"), Some(sha256_of_file(&world.path("source/large"))?.into_bytes()));
        assert_eq!(xattr(&stored("sub/crowded"), "user.large"), None);
        flip_byte(&stored("large"))
    };
    let remove = || Ok(fs::remove_file(stored("empty"))?);
    is_proved(&|arguments| world.run(arguments), &|name| world.path(name), "local:in/", &flip, &remove)?;
    let key = world.path("state/receipt-key.pem");
    assert_eq!(fs::metadata(key)?.mode() & 0o777, 0o600);
    // A server that starts again has the same key, and no manifests of transfers that it does not know.
    assert!(fs::read_dir(world.path("state/manifests"))?.count() >= 2);
    Ok(())
}

#[test]
fn objects_in_a_bucket_are_proved_and_one_flipped_byte_is_found() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    if !make_files(&world.testbed.path("source"))? {
        return Ok(());
    }
    let s5cmd = |arguments: &[&str]| world.store.s5cmd_at_server(&world.testbed, arguments)?.success("s5cmd");
    let flip = || {
        let copy = world.testbed.path("copy");
        fs::copy(world.testbed.path("source/large"), &copy)?;
        flip_byte(&copy)?;
        s5cmd(&["cp", &copy.display().to_string(), &format!("s3://{BUCKET}/in/large")])
    };
    let remove = || s5cmd(&["rm", &format!("s3://{BUCKET}/in/empty")]);
    let destination = format!("s3://{BUCKET}/in/");
    is_proved(&|arguments| world.tradewind(arguments), &|name| world.testbed.path(name), &destination, &flip, &remove)?;
    let lines = manifest(&world.testbed.path("manifest"))?;
    assert!(lines.iter().all(|line| line.verified_by_store && line.etag.is_some() && line.key == format!("in/{}", line.path)), "{lines:?}");
    // Where the user may not list, nothing is read either.
    let nowhere =
        world.tradewind(&["verify", "s3://another-bucket/", "--manifest", &world.testbed.path("manifest").display().to_string()])?;
    ends_with(&nowhere, 6);
    Ok(())
}

/// Longer than the 30 s that requests may take, and the 20 s for questions about objects.
#[test]
fn reading_for_longer_than_any_request_may_take_goes_on_and_ends_with_its_client() -> Result<()> {
    let Some(mut world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let file = world.file("f", 3 << 20)?;
    let list = world.testbed.path("list").display().to_string();
    let destination = format!("s3://{BUCKET}/in/");
    world.send(&file, &destination, &["--manifest", &list])?.success("tradewind send")?;
    world.store.process().signal_stop();
    let mut command = Server::tradewind(&world.testbed);
    command.args(["verify", "--json", &destination, "--manifest", &list]);
    let interrupt = world.testbed.interrupt.clone();
    let reading = std::thread::spawn(move || run(&mut command, &interrupt, Duration::from_secs(120)));
    // Another, whose client goes away.
    let mut command = Server::tradewind(&world.testbed);
    command.args(["verify", "--json", &destination, "--manifest", &list]);
    let mut gone = Background::start(&mut command, &world.testbed.path("gone.log"))?;
    let said = || fs::read_to_string(world.testbed.path("gone.log")).unwrap_or_default();
    gone.wait_until(&world.testbed.interrupt, Duration::from_secs(20), || said().contains("\"progress\""))?;
    assert!(!gone.has_ended()?, "it ended: {}", said());
    drop(gone);
    std::thread::sleep(Duration::from_secs(34));
    let (stopped, deadline) = ("stopped: nobody waits for it any more", Instant::now() + Duration::from_secs(30));
    let mut log = world.server.process().log_text();
    while !log.contains(stopped) {
        assert!(Instant::now() < deadline, "{log}");
        std::thread::sleep(Duration::from_millis(200));
        log = world.server.process().log_text();
    }
    assert_eq!(log.matches(stopped).count(), 1, "{log}");
    world.store.process().signal_continue();
    let ended = reading.join().expect("the thread panicked")?;
    ends_with(&ended, 0);
    assert!(ended.elapsed > Duration::from_secs(33) && events(&ended, "progress").len() > 25, "{:?}: {}", ended.elapsed, ended.stdout);
    Ok(())
}

/// In a bucket that keeps versions, the manifest names the one that was stored, of one part and of several.
#[test]
fn a_manifest_names_versions_where_a_bucket_keeps_them() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let on =
        "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status></VersioningConfiguration>";
    world.store.ask(
        &world.testbed,
        &["--request", "PUT", "--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--data", on],
        &format!("{BUCKET}?versioning="),
    )?;
    let folder = world.testbed.path("versions");
    fs::create_dir(&folder)?;
    let (from, list) = (format!("{}/", folder.display()), world.testbed.path("list").display().to_string());
    let mut versions = Vec::new();
    for attempt in 0..2 {
        for (name, bytes) in [("large", LARGE_BYTES), ("small", 1000)] {
            write_random(&folder.join(name), bytes + attempt)?;
        }
        world
            .tradewind(&["send", "--quiet", "--overwrite", "--manifest", &list, &from, &format!("s3://{BUCKET}/v/")])?
            .success("tradewind send")?;
        for line in manifest(Path::new(&list))?.into_iter().filter(|line| !line.already) {
            let version = line.version_id.context("no version")?;
            versions.push((line.key, version, fs::read(folder.join(&line.path))?));
        }
    }
    assert_eq!(versions.len(), 4);
    let fetched = world.testbed.path("fetched");
    for (key, version, contents) in versions {
        let to = fetched.display().to_string();
        world.store.ask(&world.testbed, &["--output", &to], &format!("{BUCKET}/{key}?versionId={version}"))?;
        assert!(fs::read(&fetched)? == contents, "{key} {version} is another version");
    }
    Ok(())
}

#[test]
fn a_manifest_that_cannot_be_written_does_not_fail_the_transfer() -> Result<()> {
    let world = Loopback::start(&std::env::temp_dir(), &Interrupt::default())?;
    fs::write(world.path("f"), "abc")?;
    let folder = world.path("state/manifests");
    fs::remove_dir_all(&folder)?;
    fs::write(&folder, "in the way")?;
    let file = world.path("f").display().to_string();
    world.run(&["send", "--quiet", &file, "local:in/"])?.success("tradewind send")?;
    assert_eq!(fs::read(world.path("local/in/f"))?, b"abc");
    let list = world.path("list").display().to_string();
    let asked = world.run(&["send", "--quiet", &file, "local:there/", "--manifest", &list])?;
    ends_with(&asked, 1);
    assert!(asked.stderr.contains("everything is durable, but the manifest"), "{}", asked.stderr);
    assert!(world.path("local/there/f").exists() && !world.path("list").exists());
    assert!(world.log_text().contains("a manifest could not be written"), "{}", world.log_text());
    Ok(())
}
