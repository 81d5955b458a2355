//! Trees as users have them, through the real processes: odd names, holes, links, pipes, files that cannot be read.
//! What this cannot see: other file systems than the one the tests run on.

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use tradewind_bench::loopback::Loopback;
use tradewind_bench::process::Interrupt;
use tradewind_bench::testbed::{BUCKET, ServerOptions};
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
    let arguments = ["send", "--json", "--rate", "60M", &format!("{}/", source.display()), "local:in/"];
    let mut client = world.begin("growing", &arguments)?;
    // The walk has seen all of them by now, and the second is being read.
    std::thread::sleep(Duration::from_millis(1500));
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
