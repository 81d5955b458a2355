//! The program itself: its configuration check, its first start, its end on SIGTERM. The engine is the FAKE one.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::write_config;

fn tradewindd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tradewindd"));
    for name in ["CONFIG", "LISTEN", "DATA_LISTEN", "INTERFACE", "XDP", "STATE_DIR", "ENGINE", "LOG_FORMAT"] {
        command.env_remove(format!("TRADEWINDD_{name}"));
    }
    command
}

fn check(path: &Path) -> (i32, String) {
    let Output { status, stdout, .. } = tradewindd().args(["--check-config", "--config"]).arg(path).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap())
}

#[test]
fn a_good_configuration_is_shown_without_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let store = "[stores.cloud]\nkind = \"s3\"\nregion = \"r\"\nbuckets = [\"b\"]\naccess_key = \"k\"\nsecret_key = \"store-secret\"\n";
    let (status, text) = check(&write_config(folder.path(), store));
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("access_key = \"ann\"") && text.contains("(set, not shown)"), "{text}");
    assert!(!text.contains("secret-of-ann") && !text.contains("store-secret"), "{text}");
}

#[test]
fn staging_is_on_one_disk_or_on_several() {
    let folder = tempfile::tempdir().unwrap();
    let many = |count: usize| format!("[{}]", (0..count).map(|number| format!("\"/mnt/{number}\"")).collect::<Vec<_>>().join(", "));
    for (directories, status, expected) in [
        (many(16).as_str(), 0, "\"/mnt/15\""),
        (many(17).as_str(), 2, "engine.staging_dir names 17 directories, allowed are 16"),
        ("[]", 2, "engine.staging_dir is a list without a directory"),
        ("\"/mnt/a\"", 0, "staging_dir = \"/mnt/a\""),
        ("[\"/mnt/a\", \"/mnt/b\"]", 0, "\"/mnt/b\""),
        ("[\"/mnt/a\", \"b\"]", 2, "engine.staging_dir 'b' is not an absolute path"),
        ("[\"/mnt/a\", \"/mnt/a\"]", 2, "engine.staging_dir '/mnt/a' is there twice"),
        ("3", 2, "a directory or a list of directories"),
    ] {
        let path = write_config(folder.path(), "");
        let written = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, written.replace("[engine]\n", &format!("[engine]\nstaging_dir = {directories}\n"))).unwrap();
        let (got, text) = check(&path);
        assert!(got == status && text.contains(expected), "{directories}: {text}");
    }
}

#[test]
fn every_problem_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    std::fs::write(
        &path,
        "state_dir = \"relative\"\ncolour = 1\n[rest]\nlisten = \"nowhere\"\n[limits]\nidle_timeout_s = 4\nidel = 1\n[[user]]\naccess_key = \"a:b\"\nsecret = \"short\"\n\
         [stores.x1]\nkind = \"local\"\n[stores.x2]\nkind = \"s3\"\nregion = \"r\"\n[engine]\nbinary = \"/nowhere/tradewind-engine\"\nstaging_mode = \"always\"\n\
         [[cap]]\nname = \"c\"\nrate_mbps = 0\nusers = [\"eve\"]\nweights = { low = 0 }\n[[cap]]\nname = \"d\"\nrate_mbps = 4\n[[cap]]\nname = \"d\"\nrate_mbps = 9\nstores = [\"x9\"]\n",
    )
    .unwrap();
    let (status, text) = check(&path);
    assert_eq!(status, 2);
    for expected in [
        "bad.toml:1: error: state_dir 'relative'",
        "bad.toml:2: error: unknown key 'colour'",
        "bad.toml:4: error: rest: ",
        "bad.toml:7: error: limits: unknown field `idel`",
        "bad.toml:8: error: user.access_key",
        "bad.toml:8: error: user 'a:b': secret is shorter than",
        "bad.toml:11: error: stores.x1: a local store needs 'root'",
        "bad.toml:13: error: stores.x2: list the buckets",
        "bad.toml:19: error: cap 'c': rate_mbps is 0, allowed are 1 to 4000000",
        "bad.toml:19: error: cap 'c' is for user 'eve', but there is no [[user]]",
        "bad.toml:19: error: cap 'c': weights.low is 0, allowed are 0.01 to 100",
        "bad.toml:24: warning: cap 'd': below 5 Mbit/s",
        "bad.toml:27: error: cap 'd' is there twice",
        "bad.toml:27: error: cap 'd' is for store 'x9', but there is no [stores.x9]",
        "bad.toml:27: error: cap 'd' never counts, for 'd' above it covers the same transfers",
        "bad.toml:16: error: engine.staging_mode says which blocks, and engine.staging_dir not where",
        "bad.toml:16: error: engine.binary '/nowhere/tradewind-engine' is not a program",
    ] {
        assert!(text.contains(expected), "missing: {expected}\n{text}");
    }
    assert!(!text.contains("short\""), "{text}");
}

#[test]
fn a_store_of_each_kind_has_its_own_settings() {
    let swift = "kind = \"swift\"\ncontainers = [\"c\"]\n";
    let gcs = "kind = \"gcs\"\nbuckets = [\"b\"]\n";
    let hdfs = "kind = \"hdfs\"\nnamenodes = [\"http://n:9870\", \"http://m:9870\"]\nroot = \"/tradewind/\"\n";
    let netstorage = "kind = \"netstorage\"\ncp_code = \"123456\"\nupload_account = \"account\"\nkey = \"hush-hush\"\n";
    let keystone = "auth_url = \"https://k:5000/v3\"\nuser = \"u\"\npassword = \"hush-hush\"\n";
    for (settings, expected) in [
        (format!("{swift}{keystone}project = \"p\"\nregion = \"r\"\n"), None),
        (format!("{swift}auth_url = \"http://h/auth/v1.0\"\nuser = \"a:u\"\npassword = \"hush-hush\"\n"), None),
        (format!("{swift}auth_url = \"http://h\"\napplication_credential = \"i\"\npassword = \"hush-hush\"\n"), None),
        (swift.to_owned(), None),
        (format!("{swift}{keystone}"), Some("give user, project and password for Keystone")),
        (format!("{swift}user = \"a:u\"\npassword = \"hush-hush\"\n"), Some("needs 'auth_url'")),
        (format!("{swift}{keystone}project = \"p\"\ninterface = \"outer\"\n"), Some("'interface' is public, internal or admin")),
        (format!("{gcs}anonymous = true\nendpoint = \"http://h\"\n"), None),
        (gcs.to_owned(), None),
        (format!("{gcs}endpoint = \"http://h\"\n"), Some("would show tokens to the network")),
        (format!("{gcs}anonymous = true\nservice_account = \"hush-hush\"\n"), Some("give service_account or anonymous, not both")),
        (format!("{gcs}containers = [\"c\"]\n"), Some("a Google Cloud Storage store has no 'containers'; it has kind, buckets")),
        ("kind = \"gcs\"\n".to_owned(), Some("list the buckets")),
        (format!("{swift}buckets = [\"b\"]\n"), Some("a Swift store has no 'buckets'; it has kind, auth_url, containers")),
        (format!("{swift}region = \"r\"\n"), Some("from the engine's environment")),
        (
            format!("{swift}auth_url = \"http://h/auth/v1.0\"\nuser = \"a:u\"\npassword = \"hush-hush\"\nregion = \"r\"\n"),
            Some("version 1"),
        ),
        (format!("{swift}auth_url = \"http://me@h\"\nuser = \"a:u\"\npassword = \"hush-hush\"\n"), Some("more than an address")),
        ("kind = \"swift\"\n".to_owned(), Some("list the containers")),
        (format!("{hdfs}user = \"u\"\nnameservice = \"lake\"\n"), None),
        (format!("{hdfs}delegation_token = \"hush-hush\"\n"), None),
        (hdfs.to_owned(), None),
        (format!("{hdfs}user = \"u\"\ndelegation_token = \"hush-hush\"\n"), Some("give user or delegation_token, not both")),
        (format!("{hdfs}user = \"u\"\nrpc_addresses = [\"n:8020\", \"[::1]:8020\"]\n"), None),
        (format!("{hdfs}delegation_token = \"hush-hush\"\nrpc_addresses = [\"n:8020\"]\n"), Some("cannot be used with rpc_addresses")),
        (format!("{hdfs}user = \"u\"\nrpc_addresses = [\"hdfs://n:8020\"]\n"), Some("is a host and a port (namenode:8020)")),
        (format!("{hdfs}nameservice = \"a/b\"\n"), Some("nameservice is a name for URLs")),
        (format!("{hdfs}containers = [\"c\"]\n"), Some("an HDFS store has no 'containers'; it has kind, namenodes, rpc_addresses, root")),
        ("kind = \"hdfs\"\nroot = \"/\"\n".to_owned(), Some("needs 'namenodes'")),
        ("kind = \"hdfs\"\nnamenodes = [\"http://n\"]\nroot = \"tw\"\n".to_owned(), Some("needs 'root'")),
        ("kind = \"hdfs\"\nnamenodes = [\"http://n\"]\nroot = \"/a/../b\"\n".to_owned(), Some("needs 'root'")),
        ("kind = \"hdfs\"\nnamenodes = [\"hdfs://n:8020\"]\nroot = \"/\"\n".to_owned(), Some("web port")),
        ("kind = \"hdfs\"\nnamenodes = [\"http://me@n\"]\nroot = \"/\"\n".to_owned(), Some("more than an address")),
        (format!("{netstorage}host = \"example-nsu.akamaihd.net\"\nspool_dir = \"/tmp\"\nrequests_per_s = 0\n"), None),
        (format!("{netstorage}endpoint = \"http://127.0.0.1:9/\"\n"), None),
        (netstorage.to_owned(), Some("needs 'host'")),
        (format!("{netstorage}host = \"h\"\nendpoint = \"http://h\"\n"), Some("needs 'host'")),
        (format!("{netstorage}host = \"h/123456\"\n"), Some("needs 'host'")),
        (format!("{netstorage}host = \"h\"\nspool_dir = \"spool\"\n"), Some("spool_dir 'spool' is not an absolute path")),
        (format!("{netstorage}host = \"h\"\nbuckets = [\"b\"]\n"), Some("a NetStorage store has no 'buckets'; it has kind, host")),
        ("kind = \"netstorage\"\nhost = \"h\"\ncp_code = \"12/3\"\nkey = \"hush-hush\"\n".to_owned(), Some("needs 'cp_code'")),
        ("kind = \"netstorage\"\nhost = \"h\"\ncp_code = \"123456\"\n".to_owned(), Some("give the upload account's HTTP API key")),
        ("kind = \"edgio\"\n".to_owned(), Some("has ended its service")),
        ("kind = \"limelight\"\nbuckets = [\"b\"]\n".to_owned(), Some("has ended its service")),
        ("kind = \"local\"\nroot = \"/\"\nregion = \"r\"\n".to_owned(), Some("a local store has no 'region'; it has kind, root")),
        ("kind = \"s3\"\nregion = \"r\"\nbuckets = [\"b\"]\nsas = \"s\"\n".to_owned(), Some("an S3 store has no 'sas'")),
        ("kind = \"azure\"\naccount = \"a\"\ncontainers = [\"c\"]\nroot = \"/\"\n".to_owned(), Some("an Azure store has no 'root'")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (status, text) = check(&write_config(folder.path(), &format!("[stores.mine]\n{settings}")));
        assert_eq!(status, if expected.is_some() { 2 } else { 0 }, "{settings}\n{text}");
        assert!(expected.is_none_or(|expected| text.contains(expected)) && !text.contains("hush"), "{settings}\n{text}");
    }
}

#[test]
fn a_missing_file_and_broken_toml_are_errors_with_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    let (status, text) = check(&path);
    assert!(status == 2 && text.contains("c.toml: error: cannot be read"), "{text}");
    std::fs::write(&path, "[rest]\nlisten = = 1\n").unwrap();
    let (status, text) = check(&path);
    assert!(status == 2 && text.contains("c.toml:2: error:"), "{text}");
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_config(folder.path(), "");
    let shown = |variable: Option<&str>, flag: Option<&str>| {
        let mut command = tradewindd();
        command.arg("--check-config").arg("--config").arg(&path);
        command.envs(variable.map(|value| ("TRADEWINDD_LISTEN", value))).args(flag.iter().flat_map(|value| ["--listen", value]));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(shown(None, None).contains("listen = \"127.0.0.1:0\""));
    assert!(shown(Some("127.0.0.1:2"), None).contains("listen = \"127.0.0.1:2\""));
    assert!(shown(Some("127.0.0.1:2"), Some("127.0.0.1:3")).contains("listen = \"127.0.0.1:3\""));
}

#[test]
fn the_example_has_no_errors_but_what_this_machine_lacks() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("tradewindd.example.toml");
    let output = tradewindd().arg("--check-config").arg("--config").arg(example).args(["--engine", support::FAKE_ENGINE]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors: Vec<_> = text.lines().filter(|line| line.contains(": error: ")).collect();
    let expected = ["laboratory.secret' cannot be read", "root '/srv/incoming' is not a directory", "ARCHIVE_SECRET is not set"];
    assert!(errors.len() <= expected.len() && errors.iter().all(|error| expected.iter().any(|e| error.contains(e))), "{text}");
}

#[test]
fn starts_says_its_fingerprint_and_ends_cleanly_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_config(folder.path(), "");
    let log = folder.path().join("engine.log");
    let mut server =
        tradewindd().arg("--config").arg(&path).env("FAKE_ENGINE_LOG", &log).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let second = lines.next().unwrap().unwrap();
    assert!(first.contains("listens on 127.0.0.1:"), "{first}");
    let fingerprint = second.strip_prefix("fingerprint ").unwrap();

    let asked = tradewindd().arg("--config").arg(&path).arg("--fingerprint").output().unwrap();
    assert_eq!(String::from_utf8(asked.stdout).unwrap().trim(), fingerprint);

    let logged = |word: &str| std::fs::read_to_string(&log).unwrap_or_default().contains(word);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !logged("--control-fd 3 --listen 0.0.0.0:33999 --xdp auto --idle-timeout-s 120 --log text") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    let status = server.wait().unwrap();
    assert!(status.success() && logged("drain"), "{status}, {}", std::fs::read_to_string(&log).unwrap());
}
