//! Copies from one server to another. Those inside one server are in downloads.rs.
//! What this cannot see: engines with several workers (refused), IPv6, servers of different releases.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tradewind_bench::loopback::Loopback;
use tradewind_bench::process::{Finished, Interrupt, run};
use tradewind_bench::testbed::{Server, ServerOptions, Testbed, TestbedOptions, events};
use tradewind_bench::tree::{self, Random};
use tradewind_netem::Scenario;

const DEADLINE: Duration = Duration::from_secs(120);

/// Two servers on loopback, with files in the first one's store.
struct Two {
    source: Loopback,
    sink: Loopback,
}

impl Two {
    fn start(large_bytes: u64) -> Result<Self> {
        let interrupt = Interrupt::default();
        let source = Loopback::start(&std::env::temp_dir(), &interrupt)?;
        let sink = Loopback::start(&std::env::temp_dir(), &interrupt)?;
        let folder = source.path("local/in");
        fs::create_dir(&folder)?;
        tree::mixed(&folder, 3, large_bytes, 200, &mut Random::new(5))?;
        // The key of a server that one's own secret is to be shown to must be known.
        source.run(&["status", "--server", &sink.address()])?.success("tradewind status")?;
        Ok(Self { source, sink })
    }

    fn copy(&self, arguments: &[&str]) -> Result<Finished> {
        let to = self.sink.address();
        let all = [&["copy", "--json", "local:in/", "local:out/", "--to", &to], arguments].concat();
        self.source.run(&all)
    }
}

fn code(ran: &Finished) -> Option<i32> {
    ran.status.and_then(|status| status.code())
}

fn done(ran: &Finished) -> Result<serde_json::Value> {
    events(&ran.stdout, "done").pop().with_context(|| format!("no event 'done':\n{}{}", ran.stdout, ran.stderr))
}

#[test]
fn a_tree_goes_from_server_to_server_and_nothing_of_it_twice() -> Result<()> {
    let two = Two::start(3 << 20)?;
    let (from, to) = (two.source.path("local/in"), two.sink.path("local/out"));
    let files = tree::files(&from)?.len() as u64;
    let ran = two.copy(&[])?;
    ran.success("tradewind copy")?;
    assert_eq!(done(&ran)?["files"].as_u64(), Some(files), "{}", ran.stdout);
    assert_eq!(tree::same(&from, &to)?, files);
    // What is there is not sent again, and one that changed is.
    let ran = two.copy(&[])?;
    ran.success("a second copy")?;
    assert_eq!((done(&ran)?["files"].as_u64(), done(&ran)?["bytes"].as_u64()), (Some(0), Some(0)), "{}", ran.stdout);
    let changed = tree::files(&from)?.into_values().next().context("a file")?;
    fs::write(&changed, b"other contents")?;
    let refused = two.copy(&[])?;
    assert_eq!(code(&refused), Some(6), "{}{}", refused.stdout, refused.stderr);
    let ran = two.copy(&["--overwrite"])?;
    ran.success("a copy of one that changed")?;
    assert_eq!((done(&ran)?["files"].as_u64(), done(&ran)?["bytes"].as_u64()), (Some(1), Some(14)), "{}", ran.stdout);
    assert_eq!(tree::same(&from, &to)?, files);
    // One object by another name is copied from its beginning, and may be again.
    let address = two.sink.address();
    let large = ["copy", "--json", "local:in/clip-0/data.bin", "local:renamed.bin", "--to", &address];
    for further in [&[][..], &["--overwrite"]] {
        two.source.run(&[&large, further].concat())?.success("one object by another name")?;
    }
    ensure!(fs::read(from.join("clip-0/data.bin"))? == fs::read(two.sink.path("local/renamed.bin"))?, "the renamed object differs");
    // Inside one server it is the same.
    for copied in [files, 0] {
        let ran = two.sink.run(&["copy", "--json", "local:out/", "local:once-more/"])?;
        ran.success("a copy inside one server")?;
        assert_eq!(done(&ran)?["files"].as_u64(), Some(copied), "{}", ran.stdout);
    }
    assert_eq!(tree::same(&from, &two.sink.path("local/once-more"))?, files);
    Ok(())
}

#[test]
fn what_goes_wrong_between_two_servers_names_the_server() -> Result<()> {
    let two = Two::start(1 << 20)?;
    let to = two.sink.address();
    let missing = two.source.run(&["copy", "local:nothing-here/", "local:out/", "--to", &to])?;
    ensure!(code(&missing) == Some(7), "{}{}", missing.stdout, missing.stderr);
    let elsewhere = two.source.run(&["copy", "local:in/", "nowhere:out/", "--to", &to])?;
    ensure!(code(&elsewhere) == Some(6) && elsewhere.stderr.contains("nowhere"), "{}", elsewhere.stderr);
    // Credentials for the one are not shown to another one that nobody knows.
    let unknown = Loopback::start(&std::env::temp_dir(), &two.source.interrupt)?;
    let shown = two.source.run(&["copy", "local:in/", "local:out/", "--to", &unknown.address()])?;
    ensure!(code(&shown) == Some(5) && shown.stderr.contains("SHA256:"), "{:?} {}", code(&shown), shown.stderr);
    drop(unknown);
    let mut wrong = two.source.tradewind();
    wrong.args(["copy", "local:in/", "local:out/", "--to", &to]).env("TRADEWIND_TO_SECRET", "not the secret");
    let wrong = run(&mut wrong, &two.source.interrupt, DEADLINE)?;
    ensure!(code(&wrong) == Some(3), "{}", wrong.stderr);
    let itself = two.source.run(&["copy", "local:in/", "local:out/", "--to", &two.source.address()])?;
    ensure!(code(&itself) == Some(8) || code(&itself) == Some(2), "{:?} {}", code(&itself), itself.stderr);
    ensure!(itself.stderr.contains("in use here"), "{}", itself.stderr);
    // Nothing is left running at the server that would have sent.
    let running = two.source.run(&["status", "--json"])?;
    ensure!(!running.stdout.contains("\"waiting\"") && !running.stdout.contains("\"running\""), "{}", running.stdout);
    // An operator says which servers are spoken to.
    let config = two.sink.path("tradewindd.toml");
    ensure!(fs::read_to_string(&config)?.contains("copy_from = [\"127.0.0.0/8\"]"));
    fs::write(&config, fs::read_to_string(&config)?.replace("127.0.0.0/8", "192.0.2.0/24"))?;
    let mut sink = two.sink;
    sink.start_server()?;
    let refused = two.source.run(&["copy", "local:in/", "local:out/", "--to", &sink.address()])?;
    ensure!(code(&refused) == Some(2) && refused.stderr.contains("copy_from"), "{:?} {}", code(&refused), refused.stderr);
    ensure!(!sink.path("local/out").exists(), "something was written");
    Ok(())
}

#[test]
fn a_copy_between_servers_goes_on_after_either_engine_was_killed() -> Result<()> {
    let two = Two::start(48 << 20)?;
    let (from, to) = (two.source.path("local/in"), two.sink.path("local/out"));
    let bytes: u64 = tree::files(&from)?.values().map(|path| path.metadata().map_or(0, |metadata| metadata.len())).sum();
    for (number, killed) in [&two.sink, &two.source].into_iter().enumerate() {
        let address = two.sink.address();
        let slow = ["copy", "--json", "local:in/", "local:out/", "--to", &address, "--rate", "80M", "--retries", "0"];
        let name = format!("copy-{number}");
        let mut copying = two.source.begin(&name, &slow)?;
        two.source.wait_for_progress(&name, &mut copying, "bytes_durable", 8 << 20)?;
        kill_engine(killed)?;
        let status = copying.wait()?;
        ensure!(!status.success(), "{}", fs::read_to_string(two.source.path(&format!("copy-{number}.out")))?);
        wait_for_engine(killed)?;
    }
    // The third time it goes on by itself.
    let mut copying =
        two.source.begin("copy-2", &["copy", "--json", "local:in/", "local:out/", "--to", &two.sink.address(), "--rate", "80M"])?;
    two.source.wait_for_progress("copy-2", &mut copying, "bytes_durable", 8 << 20)?;
    kill_engine(&two.source)?;
    let status = copying.wait()?;
    let said = fs::read_to_string(two.source.path("copy-2.out"))?;
    ensure!(status.success() && !events(&said, "retry").is_empty(), "{status} {said}");
    let again = events(&said, "done").pop().context("no event 'done'")?["bytes"].as_u64().context("bytes")?;
    ensure!(again < bytes, "everything was sent again: {again} of {bytes} bytes");
    tree::same(&from, &to)?;
    Ok(())
}

fn kill_engine(server: &Loopback) -> Result<()> {
    let engine = Pid::from_raw(i32::try_from(server.engine_pid().context("no engine")?)?).context("a pid")?;
    Ok(kill_process(engine, Signal::KILL)?)
}

fn wait_for_engine(server: &Loopback) -> Result<()> {
    let begun = Instant::now();
    loop {
        let status = server.run(&["status", "--json"])?;
        let doctor = server.run(&["ls", "local:"])?;
        if status.status.is_some_and(|status| status.success()) && doctor.status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        ensure!(begun.elapsed() < DEADLINE, "the engine was not started again: {}", doctor.stderr);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// RTT 20 ms, 1 % loss each way, 100 Mbit/s.
#[test]
fn a_copy_between_servers_crosses_a_wan_through_af_xdp() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: network namespaces need root");
        return Ok(());
    }
    let scenario = "name = \"copies\"\ndescription = \"a short, lossy WAN\"\nseed = 7\n\n\
         [forward]\nrate_bps = 100_000_000\ndelay_ms = 10\nloss = 0.01\nqueue_ms = 50\n";
    let mut testbed = Testbed::without_link("twcopy", &TestbedOptions::default(), &Interrupt::default())?;
    testbed.play(&Scenario::from_toml(scenario)?, &[])?;
    let _sink = Server::start_local(&testbed, &ServerOptions::default())?;
    let _source = Server::start_far(&testbed)?;
    let folder = testbed.path("far/local/in");
    fs::create_dir(&folder)?;
    tree::mixed(&folder, 2, 20 << 20, 300, &mut Random::new(5))?;
    let mut known = Server::tradewind(&testbed);
    run(known.arg("status"), &testbed.interrupt, DEADLINE)?.success("tradewind status")?;
    let mut command = Server::tradewind(&testbed);
    command.args(["copy", "--json", "local:in/", "local:out/", "--server", "10.77.1.1", "--to", "10.77.1.2"]);
    let ran = run(&mut command, &testbed.interrupt, DEADLINE)?;
    ran.success("tradewind copy")?;
    tree::same(&folder, &testbed.path("local/out"))?;
    let done = done(&ran)?;
    println!("goodput {:.1} Mbit/s of 100", done["goodput_bps"].as_f64().context("goodput_bps")? / 1e6);
    let mut status = Server::tradewind(&testbed);
    status.args(["status", "--json", done["transfer_id"].as_str().context("transfer_id")?]);
    let status = run(&mut status, &testbed.interrupt, DEADLINE)?;
    let status: serde_json::Value = serde_json::from_str(&status.stdout)?;
    let packets = |by: &str| status["totals"][by].as_u64().unwrap_or(0);
    println!("packets by AF_XDP {}, by the kernel's socket {}", packets("packets_afxdp"), packets("packets_kernel"));
    ensure!(packets("packets_afxdp") > 10 * packets("packets_kernel"), "{status}");
    Ok(())
}
