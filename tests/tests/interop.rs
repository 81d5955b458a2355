//! Other programs read what we store, and we restore what they store: rclone and s3fs, as the distribution has them (`apt-get install rclone s3fs`).
//! What this cannot see: other releases of them, and other stores than SeaweedFS.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tradewind_bench::process::{Finished, run};
use tradewind_bench::testbed::{BUCKET, ServerOptions};
use tradewind_bench::tree::{self, Random};
use tradewind_tests::World;

const UID: u32 = 1234;
const GID: u32 = 5678;
/// Seconds and nanoseconds of the files' modification.
const MTIME: (u64, u32) = (1_600_000_000, 123_456_789);

fn is_installed(program: &str, argument: &str) -> bool {
    let found = Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIP: {program} is not installed (apt-get install {program})");
    }
    found
}

/// A file of one part, of several, and an empty one, each with its own permissions.
fn make(root: &Path) -> Result<()> {
    let mut random = Random::new(21);
    fs::create_dir_all(root.join("d"))?;
    for (name, bytes, mode) in [("one", 5_000, 0o640), ("d/parts", 20 << 20, 0o755), ("empty", 0, 0o600)] {
        let path = root.join(name);
        random.write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        chown(&path, Some(UID), Some(GID))?;
        fs::File::open(&path)?.set_modified(UNIX_EPOCH + Duration::new(MTIME.0, MTIME.1))?;
    }
    Ok(())
}

fn md5(path: &Path) -> Result<String> {
    let output = Command::new("md5sum").arg(path).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().context("md5sum says nothing")?.to_owned())
}

fn rclone(world: &World, arguments: &[&str]) -> Result<Finished> {
    let mut command = world.testbed.server(Path::new("rclone"));
    let (key, secret) = world.store.credentials();
    let settings = [
        ("TYPE", "s3"),
        ("PROVIDER", "Other"),
        ("ACCESS_KEY_ID", key),
        ("SECRET_ACCESS_KEY", secret),
        ("ENDPOINT", &world.store.endpoint()),
        ("REGION", "us-east-1"),
        ("FORCE_PATH_STYLE", "true"),
    ];
    for (name, value) in settings {
        command.env(format!("RCLONE_CONFIG_WEED_{name}"), value);
    }
    command.env("RCLONE_CONFIG", world.testbed.path("no-rclone.conf"));
    let ran = run(command.args(arguments), &world.testbed.interrupt, Duration::from_secs(120))?;
    ran.success(&format!("rclone {}", arguments.join(" ")))?;
    Ok(ran)
}

/// Contents, permissions, times to the nanosecond and owners.
fn check(source: &Path, found: &Path) -> Result<()> {
    ensure!(tree::same(source, found)? == 3);
    for path in tree::files(found)?.values() {
        let metadata = fs::metadata(path)?;
        assert_eq!((metadata.uid(), metadata.gid()), (UID, GID), "{}", path.display());
    }
    Ok(())
}

#[test]
fn rclone_reads_what_we_send_and_we_restore_what_it_puts() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    if !is_installed("rclone", "version") {
        return Ok(());
    }
    let source = world.testbed.path("source");
    make(&source)?;
    let text = |path: &Path| path.display().to_string();
    let base = format!("s3://{BUCKET}/in/");
    let send = ["send", "--quiet", "--preserve", "all", "--checksum", "md5", &format!("{}/", text(&source)), &base];
    world.tradewind(&send)?.success("tradewind send")?;

    let listed = rclone(&world, &["lsjson", "--recursive", "--files-only", "--metadata", "--hash", &format!("weed:{BUCKET}/in")])?;
    let listed: Vec<Value> = serde_json::from_str(&listed.stdout)?;
    assert_eq!(listed.len(), 3, "{listed:?}");
    for entry in &listed {
        let path = source.join(entry["Path"].as_str().context("a path")?);
        let metadata = fs::metadata(&path)?;
        assert_eq!(entry["ModTime"], "2020-09-13T12:26:40.123456789Z", "{entry}");
        assert_eq!(entry["Hashes"]["md5"], md5(&path)?, "{entry}");
        let kept = |name: &str, radix| entry["Metadata"][name].as_str().and_then(|text| u32::from_str_radix(text, radix).ok());
        assert_eq!(kept("mode", 8), Some(metadata.mode()), "{entry}");
        assert_eq!((kept("uid", 10), kept("gid", 10)), (Some(UID), Some(GID)), "{entry}");
    }
    let copied = world.testbed.path("by-rclone");
    rclone(&world, &["copy", "--metadata", &format!("weed:{BUCKET}/in"), &text(&copied)])?;
    check(&source, &copied)?;

    rclone(&world, &["copy", "--metadata", &text(&source), &format!("weed:{BUCKET}/out")])?;
    let got = world.testbed.path("by-tradewind");
    let get = ["get", "--preserve-owner", &format!("s3://{BUCKET}/out/"), &format!("{}/", text(&got))];
    world.tradewind(&get)?.success("tradewind get")?;
    check(&source, &got)
}

#[test]
fn s3fs_shows_what_we_send_and_we_restore_what_it_writes() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    if !is_installed("s3fs", "--version") {
        return Ok(());
    }
    if fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
        println!("SKIP: /dev/fuse cannot be opened");
        return Ok(());
    }
    let source = world.testbed.path("source");
    make(&source)?;
    let send = ["send", "--quiet", "--preserve", "all", &format!("{}/", source.display()), &format!("s3://{BUCKET}/in/")];
    world.tradewind(&send)?.success("tradewind send")?;
    let (key, secret) = world.store.credentials();
    let password = world.testbed.path("s3fs-password");
    fs::write(&password, format!("{key}:{secret}"))?;
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
    fs::create_dir(world.testbed.path("mounted"))?;
    // In one process: a mount in a namespace of `ip netns exec` is seen by nobody else.
    let script = r#"set -e
s3fs "$BUCKET" mounted -o url="$ENDPOINT" -o use_path_request_style -o passwd_file=s3fs-password
trap 'fusermount -u mounted || umount mounted' EXIT
cp --archive mounted/in by-s3fs
mkdir mounted/out mounted/out/d
cp --archive source/one source/empty mounted/out
cp --archive source/d/parts mounted/out/d"#;
    let mut command = world.testbed.server(Path::new("sh"));
    command.args(["-c", script]).current_dir(world.testbed.folder.path());
    command.env("BUCKET", BUCKET).env("ENDPOINT", world.store.endpoint());
    run(&mut command, &world.testbed.interrupt, Duration::from_secs(120))?.success("s3fs")?;
    check(&source, &world.testbed.path("by-s3fs"))?;

    let got = world.testbed.path("by-tradewind");
    let get = ["get", "--preserve-owner", &format!("s3://{BUCKET}/out/"), &format!("{}/", got.display())];
    world.tradewind(&get)?.success("tradewind get")?;
    check(&source, &got)
}
