//! Transfers into and out of Akamai NetStorage through the real processes, against an emulator; and the emulator against clients that others wrote.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use tradewind_bench::netstorage::{ACCOUNT, CP_CODE, KEY, NetStorage};
use tradewind_bench::testbed::venv;
use tradewind_bench::tree::{self, Random};
use tradewind_tests::containers::{Keeps, a_tree_there_and_back_from, is_refused, with_store};

fn section(emulator: &NetStorage, key: &str) -> String {
    let url = emulator.url();
    format!(
        "[stores.edge]\nkind = \"netstorage\"\nendpoint = \"{url}\"\ncp_code = \"{CP_CODE}\"\nupload_account = \"{ACCOUNT}\"\nkey = \"{key}\"\n\
         requests_per_s = 0\n"
    )
}

#[test]
fn a_tree_goes_to_netstorage_and_comes_back() -> Result<()> {
    let emulator = NetStorage::start()?;
    let world = with_store(&section(&emulator, KEY))?;
    a_tree_there_and_back_from(&world, &format!("netstorage://{CP_CODE}/"), &format!("edge:{CP_CODE}/"), Keeps::Seconds)?;
    assert_eq!(emulator.keys(), [""; 0]);
    Ok(())
}

#[test]
fn what_netstorage_refuses_is_told_by_exit_code_and_words() -> Result<()> {
    let emulator = NetStorage::start()?;
    let world = with_store(&section(&emulator, "a-wrong-key"))?;
    is_refused(&world, &format!("netstorage://{CP_CODE}/in/"), &["credentials", "clock"], "wrong-key")?;
    let ended = world.run(&["send", &world.path("file").display().to_string(), "edgio://bucket/in/"])?;
    ensure!(ended.status.and_then(|status| status.code()) == Some(2) && ended.stderr.contains("has ended its service"), "{}", ended.stderr);
    Ok(())
}

/// Parts wait on the server's disk until the object is whole: they outlive the engine, and nothing of them is left at the end.
#[test]
fn what_a_killed_engine_had_spooled_is_not_sent_again() -> Result<()> {
    let emulator = NetStorage::start()?;
    let world = with_store(&section(&emulator, KEY))?;
    let file = world.path("file");
    Random::new(8).write(&file, 64 << 20)?;
    let arguments = ["send", "--json", "--rate", "160M", &file.display().to_string(), "edge:123456/large"];
    let mut sending = world.begin("send", &arguments)?;
    world.wait_for_progress("send", &mut sending, "bytes_durable", 24 << 20)?;
    let spool = world.path("state/netstorage-spool");
    ensure!(fs::read_dir(&spool)?.count() == 1 && emulator.keys().is_empty(), "it is not spooled: {:?}", emulator.keys());
    let engine = world.engine_pid().context("no engine")?;
    ensure!(Command::new("kill").args(["-9", &engine.to_string()]).status()?.success(), "the engine cannot be killed");
    let ended = sending.wait()?;
    let said = fs::read_to_string(world.path("send.out"))?;
    ensure!(ended.success(), "{said}");
    let kept = said.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let kept = kept.filter(|event| event["event"] == "started").find_map(|event| event["bytes_kept"].as_u64()).context("started")?;
    ensure!(kept >= 16 << 20, "{kept} bytes were not sent again: {said}");
    println!("{kept} bytes of the spool file were gone on with");
    ensure!(emulator.read("large")? == Some(fs::read(&file)?), "it differs");
    ensure!(emulator.keys() == ["large"] && fs::read_dir(&spool)?.count() == 0, "{:?} and files of the spool are left", emulator.keys());
    Ok(())
}

/// A program of the Python environment of tests, or of the system; `None` where there is none, which is said.
fn program(name: &str) -> Result<Option<PathBuf>> {
    let own = venv()?.join("bin").join(name);
    let path = if own.exists() { own } else { name.into() };
    let is_there = Command::new(&path).arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        println!("SKIP: {name} is not installed; `cargo xtask setup` installs it");
    }
    Ok(is_there.then_some(path))
}

fn succeeded(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What Akamai's own service is spoken to with, so an emulator that serves it is no mere picture of our client; and it reads what we send.
#[test]
fn rclone_speaks_to_the_emulator_and_reads_what_we_send() -> Result<()> {
    let Some(program) = program("rclone")? else { return Ok(()) };
    let (emulator, folder) = (NetStorage::start()?, tempfile::tempdir()?);
    let secret = succeeded(&Command::new(&program).args(["obscure", KEY]).output()?)?;
    let rclone = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(&program);
        let settings = [
            ("TYPE", "netstorage"),
            ("PROTOCOL", "http"),
            ("HOST", &format!("{}/{CP_CODE}", emulator.host())),
            ("ACCOUNT", ACCOUNT),
            ("SECRET", secret.trim()),
        ];
        for (name, value) in settings {
            command.env(format!("RCLONE_CONFIG_NS_{name}"), value);
        }
        command.env("RCLONE_CONFIG", folder.path().join("none.conf"));
        succeeded(&command.args(arguments).output()?).with_context(|| format!("rclone {}", arguments.join(" ")))
    };
    let (source, back) = (folder.path().join("source"), folder.path().join("back"));
    fs::create_dir(&source)?;
    tree::mixed(&source, 2, 9 << 20, 120, &mut Random::new(5))?;
    let files = tree::files(&source)?.len() as u64;
    let text = |path: &PathBuf| path.display().to_string();
    rclone(&["copy", &text(&source), "ns:theirs"])?;
    ensure!(emulator.keys().len() as u64 == files, "{:?}", emulator.keys());
    rclone(&["check", "--checksum", &text(&source), "ns:theirs"])?;
    rclone(&["copy", "ns:theirs", &text(&back)])?;
    assert_eq!(tree::same_to_the_second(&source, &back)?, files);
    // By the action `list`, in the emulator's short pages.
    let listed = rclone(&["lsf", "--recursive", "--files-only", "--fast-list", "ns:theirs"])?;
    assert_eq!(listed.lines().count() as u64, files, "{listed}");

    let world = with_store(&section(&emulator, KEY))?;
    world.run(&["send", &format!("{}/", source.display()), &format!("netstorage://{CP_CODE}/ours/")])?.success("tradewind send")?;
    rclone(&["check", "--download", &text(&source), "ns:ours"])?;
    rclone(&["check", "--checksum", &text(&source), "ns:ours"])?;
    let got = folder.path().join("got");
    world.run(&["get", "edge:123456/theirs/", &format!("{}/", got.display())])?.success("tradewind get")?;
    assert_eq!(tree::same_to_the_second(&source, &got)?, files);
    // Directories that nobody made go with their last file.
    rclone(&["delete", "ns:ours"])?;
    rclone(&["purge", "ns:theirs"])?;
    assert_eq!(emulator.keys(), [""; 0]);
    Ok(())
}

const KIT: &str = r#"
import os, sys
from akamai.netstorage import Netstorage
host, account, key, cp_code, folder = sys.argv[1:]
ns = Netstorage(host, account, key)
source, back = os.path.join(folder, "source"), os.path.join(folder, "back")
def done(answer, status=200):
    assert answer[1].status_code == status, (answer[1].status_code, answer[1].text)
    return answer[1].text
path = f"/{cp_code}/kit/a b+c.bin"
done(ns.upload(source, path))
assert 'size="300000"' in done(ns.stat(path))
assert 'name="a b+c.bin"' in done(ns.dir(f"/{cp_code}/kit"))
assert f'name="{cp_code}/kit/a b+c.bin"' in done(ns.list(f"/{cp_code}/kit", {"max_entries": 5}))
assert ns.download(path, back)[0]
assert open(source, "rb").read() == open(back, "rb").read()
done(ns.mtime(path, 1234567890))
assert 'mtime="1234567890"' in done(ns.stat(path))
done(ns.mkdir(f"/{cp_code}/made"))
done(ns.rmdir(f"/{cp_code}/made"))
done(ns.delete(path))
done(ns.stat(path), 404)
done(Netstorage(host, account, "another key").stat(path), 403)
print("the kit agrees")
"#;

#[test]
fn the_kit_of_akamai_speaks_to_the_emulator() -> Result<()> {
    let python = venv()?.join("bin/python");
    let has_kit = Command::new(&python).args(["-c", "import akamai.netstorage"]).output().is_ok_and(|output| output.status.success());
    if !has_kit {
        println!("SKIP: netstorageapi is not installed; `cargo xtask setup` installs it");
        return Ok(());
    }
    let (emulator, folder) = (NetStorage::start()?, tempfile::tempdir()?);
    Random::new(6).write(&folder.path().join("source"), 300_000)?;
    let mut kit = Command::new(&python);
    kit.args(["-W", "ignore", "-c", KIT, &emulator.host(), ACCOUNT, KEY, CP_CODE]).arg(folder.path());
    let said = succeeded(&kit.output()?)?;
    ensure!(said.contains("the kit agrees"), "{said}");
    Ok(())
}
