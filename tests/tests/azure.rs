//! Transfers into and out of Azure Blob Storage, which Azurite plays, through the real processes.
//! What this cannot see: the service itself, its checksums and identities.

use std::fs;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context, Result, ensure};
use tradewind_bench::azurite::{ACCOUNT, Azurite, KEY};
use tradewind_bench::loopback::Loopback;
use tradewind_bench::process::Interrupt;
use tradewind_bench::tree::{self, Random};
use tradewind_tests::event;

fn with_azure(azurite: &Azurite, key: &str) -> Result<Loopback> {
    let mut world = Loopback::start(&std::env::temp_dir(), &Interrupt::default())?;
    let config = world.path("tradewindd.toml");
    let store = format!(
        "\n[stores.cloud]\nkind = \"azure\"\naccount = \"{ACCOUNT}\"\nendpoint = \"{}\"\ncontainers = [\"*\"]\naccount_key = \"{key}\"\n",
        azurite.endpoint()
    );
    fs::write(&config, fs::read_to_string(&config)? + &store)?;
    world.start_server()?;
    Ok(world)
}

#[test]
fn a_tree_goes_to_azure_and_comes_back() -> Result<()> {
    let Some(azurite) = Azurite::start()? else { return Ok(()) };
    let world = with_azure(&azurite, KEY)?;
    let source = world.path("source");
    fs::create_dir(&source)?;
    // 20 MiB and more: several blocks of 8 MiB.
    tree::mixed(&source, 2, 20 << 20, 100, &mut Random::new(3))?;
    let files = tree::files(&source)?.len() as u64;
    let (from, back) = (format!("{}/", source.display()), format!("{}/", world.path("back").display()));
    let arguments = ["send", "--json", "--preserve", "times,owner", "--checksum", "sha256", &from, "az://test/in/"];
    let sent = world.run(&arguments)?;
    sent.success("tradewind send")?;
    assert_eq!(event(&sent, "done").context("done")?["files"].as_u64(), Some(files));
    let again = world.run(&arguments)?;
    again.success("the same again")?;
    assert_eq!(event(&again, "done").context("done")?["files"].as_u64(), Some(0), "{}", again.stdout);

    let got = world.run(&["get", "--json", "cloud:test/in/", &back])?;
    got.success("tradewind get")?;
    assert_eq!(tree::same(&source, &world.path("back"))?, files);
    let listed = world.run(&["ls", "-r", "--json", "az://test/in/"])?;
    listed.success("tradewind ls")?;
    assert_eq!(listed.stdout.lines().count() as u64, files, "{}", listed.stdout);
    let name = tree::files(&source)?.into_keys().next().context("a file")?;
    let shown = world.run(&["stat", "--json", &format!("az://test/in/{}", name.display())])?;
    shown.success("tradewind stat")?;
    ensure!(shown.stdout.contains("sha256") && shown.stdout.contains("\"uid\""), "{}", shown.stdout);
    world.run(&["copy", "az://test/in/", "local:copied/"])?.success("tradewind copy")?;
    assert_eq!(tree::same(&source, &world.path("local/copied"))?, files);

    // One that changed replaces the old one where that is asked for, and only it is sent.
    let (_, changed) = tree::files(&source)?.into_iter().next_back().context("a file")?;
    fs::File::options().write(true).open(&changed)?.write_all_at(b"changed", 0)?;
    let refused = world.run(&["send", &from, "az://test/in/"])?;
    assert_eq!(refused.status.and_then(|status| status.code()), Some(6), "{}", refused.stderr);
    let sent = world.run(&["send", "--json", "--overwrite", &from, "az://test/in/"])?;
    sent.success("with --overwrite")?;
    assert_eq!(event(&sent, "done").context("done")?["files"].as_u64(), Some(1), "{}", sent.stdout);

    world.run(&["rm", "-r", "az://test/in/"])?.success("tradewind rm")?;
    let empty = world.run(&["ls", "-r", "az://test/"])?;
    ensure!(empty.stdout.trim().is_empty(), "{}", empty.stdout);
    Ok(())
}

#[test]
fn what_azure_refuses_is_told_by_exit_code_and_words() -> Result<()> {
    let Some(azurite) = Azurite::start()? else { return Ok(()) };
    let world = with_azure(&azurite, "c2VjcmV0LXRoYXQtaXMtd3Jvbmc=")?;
    let file = world.path("file");
    fs::write(&file, b"contents")?;
    let file = file.display().to_string();
    let refused = world.run(&["send", &file, "az://test/in/"])?;
    assert_eq!(refused.status.and_then(|status| status.code()), Some(6), "{}", refused.stderr);
    ensure!(refused.stderr.contains("credentials") && !refused.stderr.contains("c2VjcmV0"), "{}", refused.stderr);
    drop(world);
    let world = with_azure(&azurite, KEY)?;
    fs::write(world.path("file"), b"contents")?;
    let file = world.path("file").display().to_string();
    let missing = world.run(&["send", &file, "az://nothing-here/in/"])?;
    assert_eq!(missing.status.and_then(|status| status.code()), Some(6), "{}", missing.stderr);
    ensure!(missing.stderr.contains("nothing-here") && missing.stderr.contains("does not exist"), "{}", missing.stderr);
    Ok(())
}
