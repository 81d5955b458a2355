//! Listing, looking at and removing what was sent, in a real S3 server and in a directory.
//! What this cannot see: buckets with versions or locks, directories that others change meanwhile.

use std::os::unix::fs::symlink;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;
use tradewind_bench::process::{Finished, run};
use tradewind_bench::testbed::{BUCKET, Server, ServerOptions};
use tradewind_tests::World;

const LOCAL_ONLY: &str = "[[user]]\naccess_key = \"local-only\"\nsecret = \"another secret for tests\"\nstores = [\"local\"]\n";

/// Names that URLs, listings or terminals could get wrong, in the order of their bytes.
const NAMES: [&str; 4] = ["deep/er/plain", "deep/sp ace+plus%41&x", "top", "ü/日本.bin"];

#[track_caller]
fn output(ran: Result<Finished>, code: i32) -> Result<String> {
    let ran = ran?;
    let status = ran.status.context("it did not end in time")?;
    assert_eq!(status.code(), Some(code), "{}{}", ran.stdout, ran.stderr);
    Ok(if code == 0 { ran.stdout } else { ran.stderr })
}

fn names(text: &str) -> Vec<&str> {
    let mut names: Vec<&str> = text.lines().collect();
    names.sort_unstable();
    names
}

#[test]
fn what_was_sent_is_listed_shown_and_removed_in_either_kind_of_store() -> Result<()> {
    let Some(world) = World::start(&ServerOptions { more: LOCAL_ONLY, ..ServerOptions::default() })? else { return Ok(()) };
    let folder = world.testbed.path("sent");
    for (index, name) in NAMES.iter().enumerate() {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().context("a parent")?)?;
        std::fs::write(&path, "x".repeat(1500 + index))?;
        std::fs::File::open(&path)?.set_modified(UNIX_EPOCH + Duration::new(1_700_000_000, 5))?;
    }
    for base in [format!("s3://{BUCKET}/in/"), "local:in/".to_owned()] {
        let url = |name: &str| format!("{base}{name}");
        let sent = format!("{}/", folder.display());
        world.tradewind(&["send", "--quiet", &sent, &base])?.success("tradewind send")?;

        assert_eq!(names(&output(world.tradewind(&["ls", "-r", &base]), 0)?), NAMES);
        assert_eq!(names(&output(world.tradewind(&["ls", &base]), 0)?), ["deep/", "top", "ü/"]);
        assert_eq!(names(&output(world.tradewind(&["ls", &url("deep/sp")]), 0)?), ["sp ace+plus%41&x"]);
        let long = output(world.tradewind(&["ls", "-l", &url("top")]), 0)?;
        assert!(long.starts_with("   1.5 KiB  20") && long.ends_with("Z  top\n"), "{long:?}");
        assert_eq!(output(world.tradewind(&["ls", &url("none/")]), 0)?, "");
        output(world.tradewind(&["ls", &url("none")]), 6)?;

        let lines = output(world.tradewind(&["ls", "-r", "--json", &base]), 0)?;
        let mut listed = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        listed.sort_by_key(|entry| entry["name"].to_string());
        for (index, (name, entry)) in NAMES.iter().zip(&listed).enumerate() {
            assert_eq!((entry["name"].as_str(), entry["url"].as_str()), (Some(*name), Some(url(name).as_str())));
            assert_eq!((entry["size"].as_u64(), entry["folder"].as_bool()), (Some(1500 + index as u64), Some(false)));
            // What a listing says is what all other commands take.
            let shown: Value = serde_json::from_str(&output(world.tradewind(&["stat", "--json", &url(name)]), 0)?)?;
            assert_eq!((&shown["size"], shown["mtime_ns"].as_i64()), (&entry["size"], Some(1_700_000_000_000_000_005)));
            assert!(shown["mode"].is_u64() && (base.starts_with("local") || shown["crc64"].is_u64()), "{shown}");
        }
        assert_eq!(listed.len(), NAMES.len());

        assert!(output(world.tradewind(&["stat", &url("top/x")]), 6)?.contains(&url("top/x")));
        assert!(output(world.tradewind(&["rm", &url("deep/")]), 2)?.contains("-r"));
        let foreseen = output(world.tradewind(&["rm", "-r", "--dry-run", &url("deep/"), &url("top")]), 0)?;
        assert_eq!(names(&foreseen), ["3 objects would be removed", &url(NAMES[0]), &url(NAMES[1]), &url("top")]);
        assert_eq!(output(world.tradewind(&["rm", &url(NAMES[1])]), 0)?, "removed 1 object\n");
        assert!(output(world.tradewind(&["rm", &url(NAMES[1])]), 6)?.contains("no such object"));
        assert_eq!(output(world.tradewind(&["rm", "-f", &url(NAMES[1])]), 0)?, "removed 0 objects\n");
        // One that is missing does not keep the others.
        let ran = world.tradewind(&["rm", &url("missing"), &url("top")])?;
        assert!(ran.stdout.contains("removed 1 object") && ran.stderr.contains(&url("missing")), "{}{}", ran.stdout, ran.stderr);
        assert_eq!(output(world.tradewind(&["ls", "-r", &base]), 0)?, "deep/er/plain\nü/日本.bin\n");
        assert_eq!(output(world.tradewind(&["rm", "-r", &base]), 0)?, "removed 2 objects\n");
        assert_eq!(output(world.tradewind(&["ls", "-r", &base]), 0)?, "");
    }
    let left = world.store.s5cmd_at_server(&world.testbed, &["ls", &format!("s3://{BUCKET}/*")])?;
    assert!(!left.stdout.contains("in/"), "s5cmd still finds {}", left.stdout);

    users_keep_to_their_stores(&world)?;
    many_files_and_a_link_out_of_the_store(&world)
}

fn users_keep_to_their_stores(world: &World) -> Result<()> {
    let file = world.file("theirs", 10)?;
    world.send(&file, &format!("s3://{BUCKET}/theirs"), &[])?.success("tradewind send")?;
    let as_other = |arguments: &[&str]| {
        let mut command = Server::tradewind(&world.testbed);
        command.env("TRADEWIND_ACCESS_KEY", "local-only").env("TRADEWIND_SECRET", "another secret for tests").args(arguments);
        run(&mut command, &world.testbed.interrupt, Duration::from_secs(60))
    };
    let url = format!("s3://{BUCKET}/theirs");
    for arguments in [["ls", &url], ["stat", &url], ["rm", &url]] {
        let refused = output(as_other(&arguments), 6)?;
        assert!(refused.contains("no such store for you"), "{refused}");
    }
    output(as_other(&["ls", "local:"]), 0)?;
    output(world.tradewind(&["stat", &url]), 0)?;
    Ok(())
}

/// More than a page, beside what must stay.
fn many_files_and_a_link_out_of_the_store(world: &World) -> Result<()> {
    let (local, outside) = (world.testbed.path("local"), world.testbed.path("outside"));
    std::fs::create_dir_all(local.join("many/inner"))?;
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("secret"), "secret")?;
    symlink(&outside, local.join("many/way"))?;
    std::fs::write(local.join("beside"), "stays")?;
    for number in 0..1100 {
        let folder = if number % 2 == 0 { "many" } else { "many/inner" };
        std::fs::write(local.join(folder).join(format!("n{number}\u{1b}[2J")), "x")?;
    }
    let listed = output(world.tradewind(&["ls", "-r", "local:many/"]), 0)?;
    assert_eq!(listed.lines().count(), 1100);
    assert!(listed.contains("inner/n1\\u{1b}[2J\n") && !listed.contains('\u{1b}') && !listed.contains("secret"));
    // Such names cannot be written as a URL; the rest goes.
    for number in 0..1100 {
        let folder = local.join(if number % 2 == 0 { "many" } else { "many/inner" });
        std::fs::rename(folder.join(format!("n{number}\u{1b}[2J")), folder.join(format!("n{number}")))?;
    }
    std::fs::write(local.join("many/odd\u{1b}"), "x")?;
    let ran = world.tradewind(&["rm", "-r", "local:many/"])?;
    assert!(ran.stdout.ends_with("removed 1100 objects\n") && ran.stderr.contains("control characters"), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.status.and_then(|status| status.code()), Some(6));
    assert_eq!(output(world.tradewind(&["ls", "-r", "local:many/"]), 0)?, "odd\\u{1b}\n");
    assert!(outside.join("secret").exists() && local.join("beside").exists());
    output(world.tradewind(&["stat", "local:many/way/secret"]), 6)?;
    Ok(())
}
