//! What a transfer into every store with containers must do, through the real processes.

use std::fs;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context, Result, ensure};
use tradewind_bench::loopback::Loopback;
use tradewind_bench::process::Interrupt;
use tradewind_bench::tree::{self, Random};

use crate::event;

/// A server with one more store, `section` of its configuration.
///
/// # Errors
/// When it does not start.
pub fn with_store(section: &str) -> Result<Loopback> {
    let mut world = Loopback::start(&std::env::temp_dir(), &Interrupt::default())?;
    let config = world.path("tradewindd.toml");
    fs::write(&config, fs::read_to_string(&config)? + "\n" + section)?;
    world.start_server()?;
    Ok(world)
}

/// What a store keeps of a file beside its name and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Time, mode, and what `--preserve` and `--checksum` ask for.
    All,
    /// The second of its modification.
    Seconds,
}

/// Sends a tree, again, gets it, lists, shows, copies, replaces and removes it. `url` is an empty container, with a slash at its end; `named`
/// the same by the store's name.
///
/// # Errors
/// What was not as it should be.
pub fn a_tree_there_and_back(world: &Loopback, url: &str, named: &str) -> Result<()> {
    a_tree_there_and_back_from(world, url, named, Keeps::All)
}

/// The same with a store that keeps no more than that.
///
/// # Errors
/// What was not as it should be.
pub fn a_tree_there_and_back_from(world: &Loopback, url: &str, named: &str, keeps: Keeps) -> Result<()> {
    let same = if keeps == Keeps::All { tree::same } else { tree::same_to_the_second };
    let into = format!("{url}in/");
    let source = world.path("source");
    fs::create_dir(&source)?;
    // 20 MiB and more: several blocks of 8 MiB.
    tree::mixed(&source, 2, 20 << 20, 30, &mut Random::new(3))?;
    let files = tree::files(&source)?.len() as u64;
    let (from, back) = (format!("{}/", source.display()), format!("{}/", world.path("back").display()));
    let arguments = ["send", "--json", "--preserve", "times,owner", "--checksum", "sha256", &from, &into];
    let sent = world.run(&arguments)?;
    sent.success("tradewind send")?;
    assert_eq!(event(&sent, "done").context("done")?["files"].as_u64(), Some(files));
    let again = world.run(&arguments)?;
    again.success("the same again")?;
    assert_eq!(event(&again, "done").context("done")?["files"].as_u64(), Some(0), "{}", again.stdout);

    let got = world.run(&["get", "--json", &format!("{named}in/"), &back])?;
    got.success("tradewind get")?;
    assert_eq!(same(&source, &world.path("back"))?, files);
    let listed = world.run(&["ls", "-r", "--json", &into])?;
    listed.success("tradewind ls")?;
    assert_eq!(listed.stdout.lines().count() as u64, files, "{}", listed.stdout);
    let name = tree::files(&source)?.into_keys().next().context("a file")?;
    let shown = world.run(&["stat", "--json", &format!("{into}{}", name.display())])?;
    shown.success("tradewind stat")?;
    let is_all = shown.stdout.contains("sha256") && shown.stdout.contains("\"uid\"");
    ensure!(is_all == (keeps == Keeps::All), "{}", shown.stdout);
    world.run(&["copy", &into, "local:copied/"])?.success("tradewind copy")?;
    assert_eq!(same(&source, &world.path("local/copied"))?, files);

    // One that changed replaces the old one where that is asked for, and only it is sent.
    let (_, changed) = tree::files(&source)?.into_iter().next_back().context("a file")?;
    fs::File::options().write(true).open(&changed)?.write_all_at(b"changed", 0)?;
    let refused = world.run(&["send", &from, &into])?;
    assert_eq!(refused.status.and_then(|status| status.code()), Some(6), "{}", refused.stderr);
    let sent = world.run(&["send", "--json", "--overwrite", &from, &into])?;
    sent.success("with --overwrite")?;
    assert_eq!(event(&sent, "done").context("done")?["files"].as_u64(), Some(1), "{}", sent.stdout);

    world.run(&["rm", "-r", &into])?.success("tradewind rm")?;
    let empty = world.run(&["ls", "-r", url])?;
    ensure!(empty.stdout.trim().is_empty(), "{}", empty.stdout);
    Ok(())
}

/// One file to `url`, which is refused: exit code 6, and a message with all of `words` and without `secret`.
///
/// # Errors
/// When it is not refused like that.
pub fn is_refused(world: &Loopback, url: &str, words: &[&str], secret: &str) -> Result<()> {
    let file = world.path("file");
    fs::write(&file, b"contents")?;
    let refused = world.run(&["send", &file.display().to_string(), url])?;
    ensure!(refused.status.and_then(|status| status.code()) == Some(6), "{}", refused.stderr);
    ensure!(words.iter().all(|word| refused.stderr.contains(word)) && !refused.stderr.contains(secret), "{}", refused.stderr);
    Ok(())
}
