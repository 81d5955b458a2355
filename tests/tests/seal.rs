//! `tradewind seal` and `tradewind unseal` on files of this machine, `send --seal` and `get --unseal` through the real processes.
//! What this cannot see: what a terminal shows while it asks for a passphrase, a power cut between two steps.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tradewind_bench::loopback::Loopback;
use tradewind_bench::process::{Finished, Interrupt};
use tradewind_bench::testbed::{BUCKET, ServerOptions};
use tradewind_bench::tree::Random;
use tradewind_tests::{World, event};

const FRAME: usize = 65_536;
const HEADER: usize = 144;

/// A user with files and a passphrase in a file.
struct User {
    folder: TempDir,
    program: PathBuf,
}

impl User {
    fn new() -> Result<Self> {
        let bin = match std::env::var_os("TRADEWIND_BIN_DIR") {
            Some(bin) => PathBuf::from(bin),
            None => std::env::current_exe()?.ancestors().nth(2).context("this program has no folder")?.to_owned(),
        };
        let program = bin.join("tradewind");
        ensure!(program.exists(), "{} is missing; run this through `cargo xtask test`, which builds it", program.display());
        let user = Self { folder: tempfile::tempdir()?, program };
        fs::write(user.path("passphrase"), "correct horse\n")?;
        fs::write(user.path("wrong"), "correct horsf\n")?;
        Ok(user)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// In the user's folder, with no terminal to ask.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setsid");
        command.arg("--wait").arg(&self.program).args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("HOME", self.folder.path()).env_remove("XDG_STATE_HOME").env_remove("TRADEWIND_PASSPHRASE");
        command
    }

    /// Runs it and returns standard output and standard error.
    #[track_caller]
    fn run(&self, arguments: &[&str], code: i32) -> (String, String) {
        checked(&self.command(arguments).output().unwrap(), code)
    }
}

#[track_caller]
fn checked(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    (out, err)
}

/// Contents, permissions and time of every file.
type Tree = BTreeMap<OsString, (Vec<u8>, u32, SystemTime)>;

/// Files below a directory: contents, permissions, time of last change.
fn tree(root: &Path) -> Result<Tree> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let (path, metadata) = (entry.as_ref().ok().context("an entry")?.path(), entry?.metadata()?);
            if metadata.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root)?.as_os_str().to_owned();
                found.insert(name, (fs::read(&path)?, metadata.permissions().mode(), metadata.modified()?));
            }
        }
    }
    Ok(found)
}

/// Sizes around frames, names that are not text, permissions and times of their own.
fn make_tree(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("inner/deep"))?;
    let names = [b"empty".as_slice(), b"inner/one", b"inner/deep/frame", b"caf\xe9 \n", b"inner/deep/more", b"x.sealed.not"];
    for (index, (name, size)) in names.iter().zip([0, 1, FRAME, FRAME + 1, 3 * FRAME + 1, 77]).enumerate() {
        let path = root.join(OsStr::from_bytes(name));
        fs::write(&path, (0..size).map(|at| (at * 31 % 251) as u8).collect::<Vec<_>>())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + 0o10 * index as u32))?;
        fs::File::open(&path)?.set_modified(UNIX_EPOCH + Duration::new(1_700_000_000, index as u32))?;
    }
    Ok(())
}

#[test]
fn a_tree_comes_back_with_plain_and_with_sealed_names() -> Result<()> {
    let user = User::new()?;
    make_tree(&user.path("tree"))?;
    symlink("empty", user.path("tree/link"))?;
    fs::set_permissions(user.path("tree/inner"), fs::Permissions::from_mode(0o700))?;
    let (_, err) = user.run(&["seal", "tree", "-o", "sealed", "--passphrase-file", "passphrase"], 0);
    assert!(err.contains("tree/link is a symbolic link"), "{err}");
    fs::remove_file(user.path("tree/link"))?;
    let before = tree(&user.path("tree"))?;

    let sealed = tree(&user.path("sealed/tree"))?;
    for (name, (contents, mode, modified)) in &before {
        let mut sealed_name = name.clone();
        sealed_name.push(".sealed");
        let (sealed, sealed_mode, sealed_modified) = &sealed[&sealed_name];
        assert_eq!(sealed.len(), HEADER + contents.len() + 16 * contents.len().div_ceil(FRAME).max(1));
        assert!(contents.len() < 16 || !sealed.windows(16).any(|window| window == &contents[..16]), "{}", name.display());
        assert_eq!((sealed_mode, sealed_modified), (mode, modified));
    }
    let (out, _) = user.run(&["unseal", "sealed/", "-o", "out", "--passphrase-file", "passphrase"], 0);
    assert_eq!(out, "unsealed 6 files (320.1 KiB)\n");
    assert_eq!(tree(&user.path("out/tree"))?, before);
    assert_eq!(tree(&user.path("sealed/tree"))?, sealed, "what was sealed stays");
    for folder in ["sealed/tree/inner", "out/tree/inner"] {
        assert_eq!(fs::metadata(user.path(folder))?.permissions().mode() & 0o777, 0o700, "{folder}");
    }

    user.run(&["seal-key", "key"], 0);
    user.run(&["seal", "tree/", "-o", "named", "--names", "--key-file", "key"], 0);
    for name in tree(&user.path("named"))?.keys() {
        assert!(Path::new(name).iter().all(|part| part.as_bytes().starts_with(b"tws-")), "{}", name.display());
    }
    user.run(&["unseal", "named/", "-o", "back", "--key-file", "key"], 0);
    assert_eq!(tree(&user.path("back"))?, before);
    Ok(())
}

#[test]
fn beside_each_other_nothing_is_replaced_unasked() -> Result<()> {
    let user = User::new()?;
    let (file, sealed) = (user.path("report"), user.path("report.sealed"));
    fs::write(&file, "contents")?;
    let with = |command: &str, further: &[&str], code| {
        let arguments = [&[command], further, &["--passphrase-file", "passphrase"]].concat();
        user.run(&arguments, code)
    };
    with("seal", &["report"], 0);
    assert!(file.exists(), "a source stays");
    let (_, err) = with("unseal", &["report.sealed"], 7);
    assert!(err.contains("report exists") && err.contains("--overwrite"), "{err}");
    let first = fs::read(&sealed)?;
    let (_, err) = with("seal", &["report"], 7);
    assert!(err.contains("report.sealed exists"), "{err}");
    assert_eq!(fs::read(&sealed)?, first);
    with("seal", &["report", "--overwrite"], 0);
    assert_ne!(fs::read(&sealed)?, first, "random identities");

    fs::remove_file(&file)?;
    with("unseal", &["report.sealed", "--keep"], 0);
    assert_eq!((fs::read(&file)?.as_slice(), sealed.exists()), (b"contents".as_slice(), true));
    with("unseal", &["report.sealed", "-o", "named"], 0);
    assert_eq!((fs::read(user.path("named"))?.as_slice(), sealed.exists()), (b"contents".as_slice(), true));
    with("unseal", &["report.sealed", "--overwrite"], 0);
    assert_eq!((file.exists(), sealed.exists()), (true, false), "unsealed in place");

    with("seal", &["report", "-o", "odd"], 0);
    let (_, err) = with("unseal", &["odd"], 7);
    assert!(err.contains("does not end in '.sealed'") && err.contains("-o"), "{err}");
    let (_, err) = with("seal", &["odd"], 7);
    assert!(err.contains("sealed already"), "{err}");
    let (_, err) = with("unseal", &["report"], 7);
    assert!(err.contains("not a sealed file"), "{err}");
    with("unseal", &["missing", "odd", "-o", "rest"], 7);
    assert_eq!(fs::read(user.path("rest/odd"))?, b"contents", "one that is missing does not keep the others");
    Ok(())
}

#[test]
fn a_wrong_key_is_told_before_anything_is_written() -> Result<()> {
    let user = User::new()?;
    fs::create_dir(user.path("in"))?;
    fs::write(user.path("in/a"), "contents of a")?;
    fs::write(user.path("in/b"), "contents of b")?;
    user.run(&["seal", "in/", "-o", "sealed", "--passphrase-file", "passphrase"], 0);
    let salt = fs::metadata(user.path(".local/state/tradewind/seal-salt"))?;
    assert_eq!((salt.len(), salt.permissions().mode() & 0o777), (33, 0o600));
    let (out, _) = user.run(&["seal-key", "key"], 0);
    assert!(out.contains("in key; keep a copy"), "{out}");
    let (_, err) = user.run(&["seal-key", "key"], 2);
    assert!(err.contains("exists already"), "{err}");

    for (arguments, said) in [
        (["--passphrase-file", "wrong"].as_slice(), "wrong passphrase"),
        (&["--key-file", "key"], "sealed with a passphrase"),
        (&["--key-file", "passphrase"], "not a key file"),
        (&["--passphrase-file", "missing"], "missing"),
        (&[], "no terminal to ask"),
    ] {
        let (_, err) = user.run(&[&["unseal", "sealed/", "-o", "out"], arguments].concat(), 3);
        assert!(err.contains(said) && err.contains("hint") != err.contains("not a key file"), "{err}");
        assert!(!user.path("out").exists(), "{said}");
    }
    user.run(&["unseal", "sealed/", "--passphrase-file", "wrong"], 3);
    assert_eq!(tree(&user.path("sealed"))?.len(), 2);
    user.run(&["unseal", "sealed/", "-o", "out", "--passphrase-file", "passphrase", "--key-file", "key"], 2);

    // The header has the salt: another machine needs the passphrase only, here from the environment.
    fs::remove_file(user.path(".local/state/tradewind/seal-salt"))?;
    checked(&user.command(&["unseal", "sealed/", "-o", "out"]).env("TRADEWIND_PASSPHRASE", "correct horse").output()?, 0);
    assert_eq!(tree(&user.path("out"))?, tree(&user.path("in"))?);

    // No passphrase is asked for where none would help.
    user.run(&["seal", "in/a", "-o", "by-key", "--key-file", "key"], 0);
    let (_, err) = user.run(&["unseal", "by-key", "-o", "never"], 3);
    assert!(err.contains("key file of the key") && err.contains("--key-file"), "{err}");
    // A file of another key among those that open is left out.
    fs::rename(user.path("by-key"), user.path("sealed/c.sealed"))?;
    let (_, err) = user.run(&["unseal", "sealed/", "-o", "most", "--passphrase-file", "passphrase"], 7);
    assert!(err.contains("sealed/c.sealed") && tree(&user.path("most"))?.len() == 2, "{err}");
    Ok(())
}

#[test]
fn damaged_files_are_named_with_their_frames_and_leave_nothing() -> Result<()> {
    let user = User::new()?;
    make_tree(&user.path("tree"))?;
    let before = tree(&user.path("tree"))?;
    user.run(&["seal", "tree/", "-o", "sealed", "--passphrase-file", "passphrase"], 0);
    fs::write(user.path("sealed/stranger"), "not sealed")?;
    let change = |name: &str, change: &dyn Fn(&mut Vec<u8>)| -> Result<()> {
        let path = user.path("sealed").join(name);
        let mut bytes = fs::read(&path)?;
        change(&mut bytes);
        Ok(fs::write(path, bytes)?)
    };
    change("inner/deep/more.sealed", &|bytes| bytes[HEADER + FRAME + 16] ^= 1)?;
    change("inner/deep/frame.sealed", &|bytes| bytes.truncate(HEADER + FRAME))?;
    change("inner/one.sealed", &|bytes| bytes[90] ^= 1)?;
    change("empty.sealed", &|bytes| bytes[3] ^= 1)?;
    let (out, err) = user.run(&["unseal", "sealed/", "-o", "out", "--passphrase-file", "passphrase"], 7);
    assert_eq!(out, "unsealed 2 files (64.1 KiB)\n");
    for said in [
        "more.sealed: frame 1 of 4 is damaged",
        "frame.sealed: it has 65680 bytes where its header tells of 65696",
        "one.sealed: the header is damaged",
        "empty.sealed: this is not a sealed file",
        "1 file left out: not sealed",
        "4 files could not be unsealed, first: ",
    ] {
        assert!(err.contains(said), "{said}: {err}");
    }
    let after = tree(&user.path("out"))?;
    assert_eq!(after.len(), 2, "nothing incomplete is left: {:?}", after.keys());
    assert!(after.iter().all(|(name, file)| before[name] == *file));
    Ok(())
}

#[test]
fn ctrl_c_leaves_nothing_incomplete() -> Result<()> {
    let user = User::new()?;
    // All of it is a hole: it would take some seconds to seal.
    fs::File::create(user.path("large"))?.set_len(32 << 30)?;
    let mut command = user.command(&["seal", "large", "-o", "out/", "--passphrase-file", "passphrase"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let begun = || fs::read_dir(user.path("out")).is_ok_and(|mut entries| entries.next().is_some());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !begun() {
        ensure!(child.try_wait()?.is_none() && Instant::now() < deadline, "it did not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    // setsid forks only where it leads a group; here it becomes the program.
    Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    let output = child.wait_with_output()?;
    let (_, err) = checked(&output, 130);
    assert!(err.contains("interrupted"), "{err}");
    assert_eq!(fs::read_dir(user.path("out"))?.count(), 0);
    Ok(())
}

/// The files that transfers are tried with.
fn make_sources(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("inner"))?;
    for (index, (name, size)) in [("empty", 0), ("inner/one", 1), ("inner/frame", FRAME), ("large", (3 << 20) + 17)].into_iter().enumerate()
    {
        let path = root.join(name);
        fs::write(&path, (0..size).map(|at| (at * 31 % 251) as u8).collect::<Vec<_>>())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + 0o10 * index as u32))?;
        fs::File::open(&path)?.set_modified(UNIX_EPOCH + Duration::new(1_700_000_000, index as u32))?;
    }
    Ok(())
}

#[track_caller]
fn ended(ran: Result<Finished>, code: i32) -> Finished {
    let ran = ran.unwrap();
    assert_eq!(ran.status.and_then(|status| status.code()), Some(code), "{}{}", ran.stdout, ran.stderr);
    ran
}

/// A figure of the last event `done`.
#[track_caller]
fn done(ran: &Finished, figure: &str) -> u64 {
    event(ran, "done").and_then(|done| done[figure].as_u64()).unwrap_or_else(|| panic!("no {figure}: {}{}", ran.stdout, ran.stderr))
}

#[test]
fn what_is_sent_sealed_is_sealed_in_either_store_and_comes_back() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let at = |name: &str| world.testbed.path(name);
    let text = |path: PathBuf| path.display().to_string();
    let (right, wrong) = (text(at("right")), text(at("wrong")));
    fs::write(&right, "correct horse\n")?;
    fs::write(&wrong, "correct horsf\n")?;
    make_sources(&at("tree"))?;
    let (before, from) = (tree(&at("tree"))?, format!("{}/", text(at("tree"))));
    for (number, (base, names)) in [
        (format!("s3://{BUCKET}/plain/"), false),
        (format!("s3://{BUCKET}/named/"), true),
        ("local:plain/".to_owned(), false),
        ("local:named/".to_owned(), true),
    ]
    .into_iter()
    .enumerate()
    {
        let (raw, out) = (at(&format!("raw-{number}")), at(&format!("out-{number}")));
        let key = ["--passphrase-file", right.as_str()];
        let mut sending = vec!["send", "--json", "--seal", &from, &base];
        sending.extend(names.then_some("--seal-names").into_iter().chain(key));
        let foreseen = ended(world.tradewind(&[&sending[..], &["--dry-run"]].concat()), 0);
        let sent = ended(world.tradewind(&sending), 0);
        let sealed_bytes: u64 =
            before.values().map(|(plain, ..)| (HEADER + plain.len() + 16 * plain.len().div_ceil(FRAME).max(1)) as u64).sum();
        assert_eq!((done(&sent, "files"), done(&sent, "bytes")), (4, sealed_bytes));
        assert_eq!(done(&ended(world.tradewind(&sending), 0), "files_kept"), 4, "sent again: nothing to do");

        // What is there is sealed, under the names that were foreseen.
        let listed = ended(world.tradewind(&["ls", "-r", &base]), 0).stdout;
        for name in listed.lines() {
            let is_sealed = if names { name.split('/').all(|part| part.starts_with("tws-")) } else { name.ends_with(".sealed") };
            assert!(is_sealed && foreseen.stdout.contains(&format!("{base}{name}")), "{name}");
        }
        let first = format!("{base}{}", listed.lines().next().context("no objects")?);
        let shown: Value = serde_json::from_str(&ended(world.tradewind(&["stat", "--json", &first]), 0).stdout)?;
        let has_attribute = shown["attributes"]["tradewind-sealed"].as_str().is_some_and(|text| text.len() == 192);
        assert!(has_attribute || base.starts_with("local"), "{shown}");
        ended(world.tradewind(&["get", "--quiet", &base, &text(raw.clone())]), 0);
        let stored = tree(&raw)?;
        assert_eq!(stored.len(), 4);
        for (name, (contents, ..)) in &stored {
            assert!(contents.starts_with(b"tradewind-sealed"), "{}", name.display());
            for (plain, ..) in before.values().filter(|(plain, ..)| plain.len() >= 16) {
                assert!(!contents.windows(16).any(|window| window == &plain[..16]), "{}", name.display());
            }
        }
        let unsealed = at(&format!("unsealed-{number}"));
        ended(world.tradewind(&["unseal", &format!("{}/", text(raw)), "-o", &text(unsealed.clone()), key[0], key[1]]), 0);
        assert_eq!(tree(&unsealed)?, before);

        if has_attribute {
            let known = world.transfers()?;
            let refused = ended(world.tradewind(&["get", "--unseal", "--passphrase-file", &wrong, &base, &text(out.clone())]), 3);
            assert!(refused.stderr.contains("wrong passphrase") && refused.stderr.contains(&base), "{}", refused.stderr);
            assert!(!out.exists() && world.transfers()? == known, "nothing is made and nothing begun");
        }
        let getting = ["get", "--json", "--unseal", key[0], key[1], &base, &text(out.clone())];
        let got = ended(world.tradewind(&getting), 0);
        assert_eq!((done(&got, "files"), done(&got, "files_unsealed")), (4, 4));
        assert_eq!(tree(&out)?, before);
        assert_eq!(fs::read_dir(&out)?.count(), 3, "no folder of a sealed name is left");
        let again = ended(world.tradewind(&getting), 0);
        assert_eq!(tree(&out)?, before);
        // Names that were sealed say which file it is only with the key, and that is in the attribute.
        assert!(done(&again, "bytes_received") == 0 || names && !has_attribute, "got again: nothing to do");
    }
    Ok(())
}

/// A server on loopback with a client that has two passphrases.
fn loopback() -> Result<Loopback> {
    let world = Loopback::start(&std::env::temp_dir(), &Interrupt::default())?;
    fs::write(world.path("one"), "correct horse\n")?;
    fs::write(world.path("other"), "battery staple\n")?;
    Ok(world)
}

#[test]
fn an_interrupted_sealed_transfer_goes_on_with_the_same_key_only() -> Result<()> {
    let world = loopback()?;
    let text = |name: &str| world.path(name).display().to_string();
    let (large, bytes) = (text("large"), 60 << 20);
    Random::new(5).write(&world.path("large"), bytes)?;
    let partial = world.path("local/in/.large.sealed.tradewind-partial");
    let sealed_bytes = tradewind_sealed_size(bytes);
    for (begun_with, goes_on_with) in [("one", "one"), ("one", "other")] {
        let sending = |key: &str| ["send", "--json", "--seal", "--passphrase-file", key, &large, "local:in/"].map(str::to_owned).to_vec();
        let begun = [sending(&text(begun_with)), vec!["--rate".to_owned(), "80M".to_owned()]].concat();
        let mut client = world.begin(begun_with, &begun.iter().map(String::as_str).collect::<Vec<_>>())?;
        world.wait_for_progress(begun_with, &mut client, "bytes_durable", 16 << 20)?;
        client.kill()?;
        client.wait()?;
        assert!(partial.exists(), "it was interrupted");
        let again = sending(&text(goes_on_with));
        let sent = ended(world.run(&again.iter().map(String::as_str).collect::<Vec<_>>()), 0);
        let (kept, moved) = (done(&sent, "bytes_kept"), done(&sent, "bytes"));
        println!("begun with {begun_with}, gone on with {goes_on_with}: {kept} bytes kept, {moved} sent");
        assert_eq!(kept + moved, sealed_bytes);
        assert_eq!(kept > 0, begun_with == goes_on_with, "{kept} bytes kept");
        let out = text("out");
        ended(world.run(&["unseal", &text("local/in/large.sealed"), "-o", &out, "--passphrase-file", &text(goes_on_with)]), 0);
        assert!(fs::read(&out)? == fs::read(&large)?, "the bytes differ");
        fs::remove_file(&out)?;
        fs::remove_file(world.path("local/in/large.sealed"))?;
    }
    Ok(())
}

fn tradewind_sealed_size(bytes: u64) -> u64 {
    HEADER as u64 + bytes + 16 * bytes.div_ceil(FRAME as u64)
}

#[test]
fn damaged_and_other_files_are_named_and_what_was_got_is_not_got_again() -> Result<()> {
    let world = loopback()?;
    let text = |name: &str| world.path(name).display().to_string();
    make_sources(&world.path("tree"))?;
    let (before, key) = (tree(&world.path("tree"))?, text("one"));
    let send =
        |seal: &[&str], to: &str, code| ended(world.run(&[&["send", "--json"], seal, &[&format!("{}/", text("tree")), to]].concat()), code);
    let get = |further: &[&str], from: &str, to: &str, code| {
        ended(world.run(&[&["get", "--json", "--unseal", "--passphrase-file", &key], further, &[from, &text(to)]].concat()), code)
    };
    send(&["--seal", "--passphrase-file", &key], "local:in/", 0);
    send(&["--passphrase-file", &key], "local:in/", 2);
    fs::write(world.path("local/in/stranger"), "not sealed")?;

    // Got before without --unseal: only the unsealing is left to do.
    ended(world.run(&["get", "--quiet", "local:in/", &text("kept")]), 0);
    assert_eq!(done(&get(&[], "local:in/", "kept", 0), "bytes_received"), 0);
    let mut unsealed = tree(&world.path("kept"))?;
    assert_eq!(unsealed.remove(OsStr::new("stranger")).context("the stranger")?.0, b"not sealed");
    assert_eq!(unsealed, before);

    // One object gets the name that is given.
    get(&[], "local:in/large.sealed", "named", 0);
    assert_eq!(fs::read(world.path("named"))?, before[OsStr::new("large")].0);
    assert_eq!(done(&get(&[], "local:in/large.sealed", "named", 0), "bytes_received"), 0);
    fs::write(world.path("named"), "another")?;
    let refused = get(&[], "local:in/large.sealed", "named", 6);
    assert!(refused.stderr.contains("/named is another file") && fs::read(world.path("named"))? == b"another", "{}", refused.stderr);
    get(&["--overwrite"], "local:in/large.sealed", "named", 0);
    assert_eq!(fs::read(world.path("named"))?, before[OsStr::new("large")].0);
    assert!(!world.path("named.sealed").exists());

    // A damaged one does not keep the others.
    let stored = world.path("local/in/inner/frame.sealed");
    let (mut bytes, time) = (fs::read(&stored)?, fs::metadata(&stored)?.modified()?);
    bytes[HEADER + 100] ^= 1;
    fs::write(&stored, bytes)?;
    fs::File::open(&stored)?.set_modified(time)?;
    for round in 0..2 {
        let got = get(&[], "local:in/", "most", 7);
        assert!(got.stderr.contains("inner/frame.sealed: frame 0 of 1 is damaged"), "{round}: {}", got.stderr);
        let most = tree(&world.path("most"))?;
        assert!(most.contains_key(OsStr::new("inner/frame.sealed")) && most.len() == 5, "{:?}", most.keys());
        assert!(before.iter().filter(|(name, _)| *name != OsStr::new("inner/frame")).all(|(name, file)| most[name] == *file));
        assert!(round == 0 || done(&got, "bytes_received") == 0);
    }

    // With the wrong key everything stays as it came.
    fs::remove_file(&stored)?;
    let other = text("other");
    let ran = ended(
        world.run(&["get", "--unseal", "--passphrase-file", &other, "local:in/large.sealed", &text("locked")]),
        if world_has_attributes(&world)? { 3 } else { 7 },
    );
    assert!(ran.stderr.contains("wrong passphrase") && !world.path("locked").exists(), "{}", ran.stderr);
    Ok(())
}

/// Whether the directory keeps what a file is told with.
fn world_has_attributes(world: &Loopback) -> Result<bool> {
    let shown: Value = serde_json::from_str(&ended(world.run(&["stat", "--json", "local:in/large.sealed"]), 0).stdout)?;
    Ok(shown["attributes"]["tradewind-sealed"].is_string())
}
