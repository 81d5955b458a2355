//! Trees as users have them, through the real processes: odd names, holes, links, pipes, files that cannot be read.
//! What this cannot see: other file systems than the one the tests run on.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::Result;
use tradewind_bench::loopback::Loopback;
use tradewind_bench::process::Interrupt;
use tradewind_bench::testbed::{BUCKET, ServerOptions, sha256_of_file};
use tradewind_bench::tree::{self, Random};
use tradewind_tests::{World, event};

fn loopback() -> Result<Loopback> {
    Loopback::start(&std::env::temp_dir(), &Interrupt::default())
}

#[test]
fn a_hostile_tree_arrives_as_it_is_in_a_local_store() -> Result<()> {
    let world = loopback()?;
    let source = world.path("source");
    fs::create_dir(&source)?;
    let made = tree::hostile(&source, &mut Random::new(5))?;
    let sent = world.run(&["send", "--json", &format!("{}/", source.display()), "local:in/"])?;
    sent.success("sending a hostile tree")?;
    let done = event(&sent, "done").expect("no event 'done'");
    assert_eq!((done["files"].as_u64(), done["files_failed"].as_u64()), (Some(made.files), Some(0)));
    assert_eq!(tree::same(&source, &world.path("local/in"))?, made.files);
    // Again: everything is there, nothing is sent.
    let again = world.run(&["send", "--json", &format!("{}/", source.display()), "local:in/"])?;
    again.success("sending it again")?;
    let done = event(&again, "done").expect("no event 'done'");
    assert_eq!((done["files"].as_u64(), done["files_kept"].as_u64()), (Some(0), Some(made.files)));
    Ok(())
}

#[test]
fn a_hostile_tree_arrives_in_a_bucket_and_names_that_are_no_text_are_written_as_such() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let source = world.testbed.path("source");
    fs::create_dir(&source)?;
    // SeaweedFS has keys with these for names of directories or nothing at all.
    let made = tree::hostile(&source, &mut Random::new(6))?;
    let sent = world.send(&source, &format!("s3://{BUCKET}/tree/"), &[])?;
    sent.success("sending a hostile tree")?;
    assert_eq!(event(&sent, "done").expect("no event 'done'")["files"].as_u64(), Some(made.files));
    let found = world.tradewind(&["ls", "-r", "--json", &format!("s3://{BUCKET}/tree/source/")])?;
    found.success("tradewind ls")?;
    let key = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok().and_then(|entry| Some(entry["url"].as_str()?.to_owned()));
    let keys: Vec<String> = found.stdout.lines().filter_map(key).collect();
    assert_eq!(keys.len() as u64, made.files, "{}", found.stdout);
    let quoted = keys.iter().filter(|key| key.contains('\u{201b}')).count() as u64;
    assert_eq!(quoted, made.not_utf8);
    assert!(keys.iter().any(|key| key.ends_with("source/caf\u{201b}E9")), "{keys:?}");
    // The names lead back to the files.
    let again = world.send(&source, &format!("s3://{BUCKET}/tree/"), &[])?;
    again.success("sending it again")?;
    let done = event(&again, "done").expect("no event 'done'");
    assert_eq!((done["files"].as_u64(), done["files_kept"].as_u64()), (Some(0), Some(made.files)));
    Ok(())
}

#[test]
fn files_that_grow_or_vanish_are_left_out_and_named_and_the_rest_goes_on() -> Result<()> {
    let world = loopback()?;
    let source = world.path("source");
    fs::create_dir(&source)?;
    let mut random = Random::new(7);
    for (name, bytes) in [("a-small", 1000), ("b-grows", 40 << 20), ("c-vanishes", 3000), ("d-last", 2 << 20)] {
        random.write(&source.join(name), bytes)?;
    }
    let arguments = ["send", "--json", "--rate", "40M", &format!("{}/", source.display()), "local:in/"];
    let mut client = world.begin("growing", &arguments)?;
    // The walk has seen all of them by then, and the second is being read.
    world.wait_for_progress("growing", &mut client, "bytes_sent", 2 << 20)?;
    fs::OpenOptions::new().append(true).open(source.join("b-grows"))?.write_all(b"more")?;
    fs::remove_file(source.join("c-vanishes"))?;
    let status = client.wait()?;
    let said = fs::read_to_string(world.path("growing.out"))?;
    assert_eq!(status.code(), Some(7), "{said}");
    for words in ["b-grows changed while", "c-vanishes", "2 files could not be sent"] {
        assert!(said.contains(words), "'{words}' is not in: {said}");
    }
    let stored = tree::files(&world.path("local/in"))?;
    let names: Vec<_> = stored.keys().map(|name| name.to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["a-small", "d-last"], "{said}");
    Ok(())
}

#[test]
fn a_path_that_leaves_the_destination_is_refused() -> Result<()> {
    let world = loopback()?;
    fs::write(world.path("f"), "x")?;
    fs::write(world.path("pairs"), format!("{0}\n../../escaped\n{0}\n/absolute\n{0}\ninside/f\n", world.path("f").display()))?;
    let sent = world.run(&["send", "--json", "--file-pair-list", &world.path("pairs").to_string_lossy(), "local:in/"])?;
    assert_eq!(sent.status.and_then(|status| status.code()), Some(7), "{}{}", sent.stdout, sent.stderr);
    let everything = tree::files(world.folder.path())?;
    let escaped = everything.keys().any(|name| name.to_string_lossy().contains("escaped") || name.to_string_lossy().contains("absolute"));
    assert!(!escaped, "{everything:?}");
    assert!(world.path("local/in/inside/f").exists());
    Ok(())
}

/// What following links finds is compared by `tree::same` only where the store holds the same names, so here by number.
#[test]
fn links_are_skipped_followed_or_copied_and_become_links_again() -> Result<()> {
    let world = loopback()?;
    let source = world.path("source");
    fs::create_dir(&source)?;
    let made = tree::hostile(&source, &mut Random::new(8))?;
    let from = format!("{}/", source.display());
    for (policy, expected) in [("skip", made.files), ("follow", made.files + made.followed), ("copy", made.files + made.links)] {
        let to = format!("local:{policy}/");
        for (files, files_kept) in [(expected, 0), (0, expected)] {
            let sent = world.run(&["send", "--json", "--symlinks", policy, &from, &to])?;
            sent.success(policy)?;
            let done = event(&sent, "done").expect("no event 'done'");
            assert_eq!((done["files"].as_u64(), done["files_kept"].as_u64()), (Some(files), Some(files_kept)), "{policy}: {done}");
        }
        assert_eq!(tree::files(&world.path("local").join(policy))?.len() as u64, expected);
    }
    assert_eq!(fs::read(world.path("local/copy/dangling.rclonelink"))?, b"nowhere");
    let dry = world.run(&["send", "--dry-run", "--symlinks", "copy", &from, "local:other/"])?;
    dry.success("a dry run")?;
    assert!(dry.stdout.contains("/source/dangling -> local:other/dangling.rclonelink\n"), "{}", dry.stdout);

    // Got as files first, which the second command makes links of; the third one finds them.
    let got = world.path("got");
    let into = got.display().to_string();
    world.run(&["get", "--json", "local:copy/", &into])?.success("getting files")?;
    assert_eq!((tree::links(&got)?.len(), tree::files(&got)?.len() as u64), (0, made.files + made.links));
    for _ in 0..2 {
        world.run(&["get", "--json", "--links", "local:copy/", &into])?.success("getting links")?;
        assert_eq!(tree::same(&source, &got)?, made.files);
        assert_eq!(tree::links(&got)?, tree::links(&source)?);
    }
    let (ours, theirs) = (fs::symlink_metadata(source.join("link"))?, fs::symlink_metadata(got.join("link"))?);
    assert_eq!(ours.modified()?, theirs.modified()?);

    // Sealed on the way, and a hostile one among them.
    fs::write(world.path("passphrase"), "x")?;
    let (passphrase, leaving) = (world.path("passphrase").display().to_string(), world.path("leaving"));
    fs::create_dir_all(leaving.join("d"))?;
    std::os::unix::fs::symlink("../../outside", leaving.join("d/out"))?;
    std::os::unix::fs::symlink("d", leaving.join("in"))?;
    let seal = ["--seal", "--seal-names", "--passphrase-file", &passphrase, "--symlinks", "copy"];
    world.run(&[&["send"], &seal[..], &[&format!("{}/", leaving.display()), "local:sealed/"]].concat())?.success("sealing links")?;
    let unsealed = world.path("unsealed");
    let get = ["get", "--json", "--links", "--unseal", "--passphrase-file", &passphrase, "local:sealed/", &unsealed.display().to_string()];
    let refused = world.run(&get)?;
    assert_eq!(refused.status.and_then(|status| status.code()), Some(7), "{}{}", refused.stdout, refused.stderr);
    let error = event(&refused, "file_error").expect("no event 'file_error'");
    assert_eq!(error["path"].as_str(), Some("d/out.rclonelink"));
    assert_eq!(fs::read(unsealed.join("d/out.rclonelink"))?, b"../../outside");
    assert_eq!(fs::read_link(unsealed.join("in"))?, std::path::Path::new("d"));
    Ok(())
}

fn holes(path: &std::path::Path) -> Result<u64> {
    let file = fs::metadata(path)?;
    Ok(file.len().saturating_sub(file.blocks() * 512))
}

/// Beside the programs: not every file system for temporary files has holes.
#[test]
fn holes_are_not_sent_and_are_holes_again() -> Result<()> {
    let program = std::env::current_exe()?;
    let world = Loopback::start(program.parent().expect("a folder"), &Interrupt::default())?;
    let source = world.path("source");
    fs::create_dir(&source)?;
    let path = source.join("disk.img");
    let file = fs::File::create(&path)?;
    file.set_len((3 << 30) + 5)?;
    for at in [0, 100 << 20, (100 << 20) + 300_000, 2 << 30] {
        file.write_all_at(&[7; 70_000], at)?;
    }
    file.sync_all()?;
    if holes(&path)? < 3 << 29 {
        println!("SKIP: no holes in this file system");
        return Ok(());
    }
    let sent = world.run(&["send", "--json", &format!("{}/", source.display()), "local:in/"])?;
    sent.success("sending holes")?;
    let done = event(&sent, "done").expect("no event 'done'");
    let bytes_holes = done["bytes_holes"].as_u64().expect("bytes_holes");
    assert!(bytes_holes > (3 << 30) - (2 << 20) && done["bytes"].as_u64() == Some((3 << 30) + 5), "{done}");
    assert!(done["packets_sent"].as_u64() < Some(2000), "{done}");
    assert_eq!(tree::same(&source, &world.path("local/in"))?, 1);
    let stored = holes(&world.path("local/in/disk.img"))?;
    assert!(stored > (3 << 30) - (2 << 20), "{stored} bytes of holes");

    let got = world.run(&["get", "--json", "local:in/", &world.path("got").display().to_string()])?;
    got.success("getting holes")?;
    let done = event(&got, "done").expect("no event 'done'");
    assert!(done["packets_received"].as_u64() < Some(2000), "{done}");
    assert_eq!(tree::same(&source, &world.path("got"))?, 1);
    let back = holes(&world.path("got/disk.img"))?;
    assert!(back > (3 << 30) - (2 << 20), "{back} bytes of holes");
    Ok(())
}

#[test]
fn a_bucket_has_the_zeros_and_the_mark_that_they_were_holes() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let (path, back) = (world.testbed.path("disk.img"), world.testbed.path("back.img"));
    let file = fs::File::create(&path)?;
    file.set_len((120 << 20) + 5)?;
    for at in [5 << 20, (40 << 20) + 300_000] {
        file.write_all_at(&[7; 70_000], at)?;
    }
    drop(file);
    let url = format!("s3://{BUCKET}/disk.img");
    let sent = world.send(&path, &url, &[])?;
    sent.success("sending holes")?;
    let done = event(&sent, "done").expect("no event 'done'");
    // 120 MB would take 10 s.
    assert!(done["bytes_holes"].as_u64() > Some(115 << 20) && done["packets_sent"].as_u64() < Some(3000), "{done}");
    assert_eq!(world.store.sha256(&world.testbed, "disk.img")?, sha256_of_file(&path)?);
    let got = world.tradewind(&["get", "--json", &url, &back.display().to_string()])?;
    got.success("getting holes")?;
    let done = event(&got, "done").expect("no event 'done'");
    assert!(done["packets_received"].as_u64() < Some(3000), "{done}");
    assert_eq!(sha256_of_file(&back)?, sha256_of_file(&path)?);
    Ok(())
}
