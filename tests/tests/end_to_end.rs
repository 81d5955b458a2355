//! Two real processes and a real S3 server across an emulated WAN.
//! What this cannot see: real NICs, real distance, TLS against a public store.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use tradewind_bench::process::{Finished, children};
use tradewind_bench::testbed::{BUCKET, Server, ServerOptions, health, sha256_of_file};
use tradewind_tests::{World, event};

#[track_caller]
fn assert_exit(finished: &Finished, code: i32, words: &str) {
    let status = finished.status.expect("it did not end in time");
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert_eq!(status.code(), Some(code), "{said}");
    assert!(said.to_lowercase().contains(words), "'{words}' is not in: {said}");
}

#[test]
fn a_file_crosses_the_wan_into_the_bucket_through_af_xdp() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let mode = world.xdp_mode()?;
    assert_ne!(mode, "none", "root on veth has AF_XDP");
    for (name, bytes) in [("large", 30_000_000), ("empty", 0), ("one", 1)] {
        let file = world.file(name, bytes)?;
        let sent = world.send(&file, &format!("s3://{BUCKET}/in/{name}"), &[])?;
        sent.success("tradewind send")?;
        assert_eq!(world.store.sha256(&world.testbed, &format!("in/{name}"))?, sha256_of_file(&file)?);
        let done = event(&sent, "done").expect("no event 'done'");
        assert_eq!(done["bytes"].as_u64(), Some(bytes));
        let (by_xdp, by_kernel) = (done["server"]["totals"]["packets_afxdp"].as_u64(), done["server"]["totals"]["packets_kernel"].as_u64());
        assert_eq!(by_kernel, Some(0), "packets took the kernel's way");
        assert!(by_xdp > Some(bytes / 1427), "{by_xdp:?}");
    }
    println!("AFXDP-TEST-RAN a_file_crosses_the_wan {mode}");

    // Nothing has changed, so nothing is sent; another file does not replace it unless that is asked for.
    let to = format!("s3://{BUCKET}/in/one");
    let again = world.send(&world.testbed.path("one"), &to, &[])?;
    again.success("sending what is there already")?;
    assert_eq!(event(&again, "done").expect("no event 'done'")["files_kept"], 1);
    assert_exit(&world.send(&world.testbed.path("one"), &to, &["--resume", "none"])?, 6, "exist");
    let other = world.file("other", 1)?;
    assert_exit(&world.send(&other, &to, &[])?, 6, "exist");
    world.send(&other, &to, &["--overwrite"])?.success("overwriting")?;
    assert_eq!(world.store.sha256(&world.testbed, "in/one")?, sha256_of_file(&other)?);
    Ok(())
}

#[test]
fn without_af_xdp_the_kernels_socket_serves_and_the_server_says_why() -> Result<()> {
    let Some(world) = World::start(&ServerOptions { xdp: "off", ..ServerOptions::default() })? else { return Ok(()) };
    assert_eq!(world.xdp_mode()?, "none");
    assert!(health(&world.testbed)?["engine"]["xdp"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    let file = world.file("f", 5_000_000)?;
    let sent = world.send(&file, &format!("s3://{BUCKET}/f"), &[])?;
    sent.success("tradewind send")?;
    assert_eq!(world.store.sha256(&world.testbed, "f")?, sha256_of_file(&file)?);
    assert_eq!(event(&sent, "done").expect("no event 'done'")["server"]["totals"]["packets_afxdp"].as_u64(), Some(0));
    Ok(())
}

#[test]
fn what_goes_wrong_is_told_by_exit_code_and_words() -> Result<()> {
    let Some(mut world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let file = world.file("f", 3_000_000)?;
    let to = format!("s3://{BUCKET}/f");

    let mut wrong_secret = Server::tradewind(&world.testbed);
    wrong_secret.env("TRADEWIND_SECRET", "not the secret at all").args(["send", &file.to_string_lossy(), &to]);
    let interrupt = world.testbed.interrupt.clone();
    assert_exit(&tradewind_bench::process::run(&mut wrong_secret, &interrupt, Duration::from_secs(60))?, 3, "secret");
    let other = format!("SHA256:{}", "A".repeat(43));
    assert_exit(&world.send(&file, &to, &["--fingerprint", &other])?, 5, "fingerprint");
    assert_exit(&world.send(&file, "s3://no-such-bucket/f", &[])?, 6, "no-such-bucket");
    assert_exit(&world.send(&file, &to, &["--server", "10.77.1.2:1"])?, 4, "10.77.1.2:1");
    assert_exit(&world.send(Path::new("/no/such/file"), &to, &[])?, 7, "/no/such/file");
    assert_exit(&world.tradewind(&["send"])?, 2, "usage");

    // The store stops answering: refused before anything is sent, and tradewindd lives on.
    world.store.process().signal_stop();
    assert_exit(&world.send(&file, &to, &[])?, 8, "store_unavailable");
    world.store.process().signal_continue();
    Ok(())
}

#[test]
fn a_killed_engine_is_started_again_and_an_unplugged_link_only_costs_time() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let file = world.file("f", 60_000_000)?;
    let to = format!("s3://{BUCKET}/f");
    let victim = world.server.engine_pid().expect("no engine");
    let sending = world.send_in_background(&file, &to, &["--retries", "0"]);
    let first = world.wait_for_bytes(&[])?;
    assert!(Command::new("kill").args(["-9", &victim.to_string()]).status()?.success());
    let failed = sending.join().expect("the thread panicked")?;
    let code = failed.status.expect("it did not end in time").code();
    assert_eq!(code, Some(8), "{}{}", failed.stdout, failed.stderr);

    // A new engine, with its own AF_XDP, takes the next transfer; in its middle the client's cable is pulled for 2 s.
    for _ in 0..100 {
        if health(&world.testbed).is_ok_and(|health| health["status"] == "ok") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(world.server.engine_pid().is_some_and(|pid| pid != victim && children(pid).is_empty()));
    let sending = world.send_in_background(&file, &to, &[]);
    world.wait_for_bytes(&[first])?;
    let link = |state: &str| -> Result<()> {
        let status = world.testbed.server(Path::new("ip")).args(["link", "set", "tw0", state]).status()?;
        assert!(status.success());
        Ok(())
    };
    link("down")?;
    std::thread::sleep(Duration::from_secs(2));
    link("up")?;
    let restored = ["neigh", "replace", "10.77.1.1", "lladdr", &client_mac(&world)?, "dev", "tw0", "nud", "permanent"];
    assert!(world.testbed.server(Path::new("ip")).args(restored).status()?.success());
    let sent = sending.join().expect("the thread panicked")?;
    sent.success("sending across an unplugged link")?;
    assert_eq!(world.store.sha256(&world.testbed, "f")?, sha256_of_file(&file)?);
    Ok(())
}

fn client_mac(world: &World) -> Result<String> {
    let output = world.testbed.client(Path::new("cat")).arg("/sys/class/net/tw0/address").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
