//! The emulator in real network namespaces: what verification says about a path, overload that must be flagged, clean-up.
//! Needs root; prints `SKIP` otherwise.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tradewind_netem::Scenario;
use tradewind_netem::scenario::{DirectionSpec, GilbertElliott, RateStep};
use tradewind_netem::topology::{CLIENT_ADDRESS, Namespace, SERVER_ADDRESS, Topology, TopologyError, TopologyOptions};
use tradewind_netem::verify::{VerifyOptions, verify};

const PREFIX: &str = "twnetemtest";

fn emulator() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tradewind-netem"))
}

/// A topology, or `None` with a `SKIP` line where there is no privilege to make one.
fn topology(options: &TopologyOptions) -> Option<Topology> {
    match Topology::create(PREFIX, options) {
        Err(error @ (TopologyError::NotRoot | TopologyError::ToolMissing { .. })) => {
            println!("SKIP: {error}");
            None
        }
        other => Some(other.expect("a topology can be made")),
    }
}

fn blast(topology: &Topology, packets_per_second: u32, count: u32, payload_bytes: u32, record: &Path) {
    let target = format!("{SERVER_ADDRESS}:9");
    let mut command = topology.command(Namespace::Client, emulator());
    command.args(["probe-send", "--to", &target, "--packets-per-second", &packets_per_second.to_string()]);
    command.args(["--count", &count.to_string(), "--payload-bytes", &payload_bytes.to_string(), "--record"]).arg(record);
    assert!(command.status().expect("the sender runs").success());
}

/// Waits until it is so, and not for ever: what comes after tells what is missing.
fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// So often a path is measured at most.
const RUNS_MAX: usize = 4;

#[test]
fn verification_of_a_small_scenario_passes_in_every_row() {
    let Some(_) = topology(&TopologyOptions::default()) else { return };
    let forward = DirectionSpec {
        rate_bps: Some(20_000_000),
        queue_ms: Some(40.0),
        delay_ms: 15.0,
        jitter_ms: 1.0,
        jitter_keeps_order: true,
        duplicate: 0.01,
        gilbert_elliott: Some(GilbertElliott { good_to_bad: 0.02, bad_to_good: 0.4, loss_good: 0.0, loss_bad: 1.0 }),
        ..DirectionSpec::default()
    };
    let reverse = DirectionSpec { delay_ms: 5.0, loss: Some(0.1), reorder: 0.05, reorder_extra_ms: Some(3.0), ..DirectionSpec::default() };
    let scenario = Scenario::new("small", "", 11, forward, Some(reverse)).expect("valid");
    let options = VerifyOptions { quiet: Duration::from_secs(2), overload: Duration::from_secs(1), ..VerifyOptions::default() };
    // A run in which the machine made the emulator or the probes late says nothing of the emulator: another one.
    let mut runs = (0..RUNS_MAX).map(|_| verify(&scenario, emulator(), &options).expect("it can be measured"));
    let has_passed = runs.any(|report| {
        println!("{report}");
        assert!(report.rows.len() >= 12, "{report}");
        report.rows.iter().all(|r| r.passed)
            && report.emulator.invalid_reasons.iter().all(|r| r.contains("lateness"))
            && report.end_send_drops == (0, 0)
    });
    assert!(has_passed, "none of {RUNS_MAX} runs passed");
}

#[test]
fn an_overrun_ring_voids_the_run() {
    let Some(topology) = topology(&TopologyOptions::default()) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A long delay lets the emulator sleep 500 µs at a time; 32 frames of ring are full much sooner.
    let scenario = Scenario::new("overrun", "", 1, DirectionSpec { delay_ms: 40.0, ..DirectionSpec::default() }, None).expect("valid");
    let arguments = ["--ring-frames", "32"];
    let guard = topology.start_emulator_with(&scenario, emulator(), &folder.path().join("stats"), &arguments).expect("starts");
    blast(&topology, 1_000_000, 50_000, 64, &folder.path().join("record"));
    let stats = guard.stop().expect("it reports");
    assert!(stats.forward.own_drops.ring > 0, "{stats:#?}");
    assert!(!stats.valid && stats.invalid_reasons.iter().any(|r| r.contains("receive ring")), "{:?}", stats.invalid_reasons);
}

#[test]
fn a_full_store_voids_the_run() {
    let Some(topology) = topology(&TopologyOptions::default()) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scenario = Scenario::new("full", "", 1, DirectionSpec { delay_ms: 200.0, ..DirectionSpec::default() }, None).expect("valid");
    let arguments = ["--store-bytes-max", "100000"];
    let guard = topology.start_emulator_with(&scenario, emulator(), &folder.path().join("stats"), &arguments).expect("starts");
    blast(&topology, 20_000, 4_000, 1_000, &folder.path().join("record"));
    let stats = guard.stop().expect("it reports");
    assert!(stats.forward.own_drops.store > 0 && !stats.valid, "{stats:#?}");
}

#[test]
fn jumbo_frames_pass_whole() {
    let Some(topology) = topology(&TopologyOptions { mtu_bytes: 9000, ..TopologyOptions::default() }) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scenario = Scenario::new("jumbo", "", 1, DirectionSpec { delay_ms: 5.0, ..DirectionSpec::default() }, None).expect("valid");
    let guard = topology.start_emulator(&scenario, emulator(), &folder.path().join("stats")).expect("starts");
    blast(&topology, 1_000, 50, 8_972, &folder.path().join("record"));
    let arrived = || {
        let output = topology.command(Namespace::Server, "cat").arg("/sys/class/net/tw0/statistics/rx_packets").output();
        String::from_utf8_lossy(&output.expect("cat runs").stdout).trim().parse::<u64>().expect("a number")
    };
    wait_until(|| arrived() >= 50);
    let stats = guard.stop().expect("it reports");
    // Ethernet 14 + MTU 9000.
    assert_eq!((stats.forward.forwarded, stats.forward.forwarded_bytes), (50, 50 * 9_014), "{stats:#?}");
    assert_eq!(stats.forward.own_drops.total(), 0);
}

/// Receives one tagged frame and prints tag, length without the tag, and whether the payload is what was sent (packet(7), PACKET_AUXDATA).
const RECEIVE_TAGGED: &str = "
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind(('tw0', 3)); s.settimeout(10)
s.setsockopt(263, 8, 1)
print('ready', flush=True)
while True:
    data, control, flags, sender = s.recvmsg(10000, 100)
    for level, kind, value in control:
        status, length, captured, mac, net, tag, protocol = struct.unpack('IIIHHHH', value[:20])
        if status & 16 and data[12:14] == bytes.fromhex('88b5'):
            print('tag', tag, hex(protocol), len(data), data[14:] == bytes(i % 251 for i in range(9000)))
            raise SystemExit
";

/// Sends one frame with tag 7 around the experimental EtherType 0x88b5 and 9000 bytes of payload.
const SEND_TAGGED: &str = "
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0); s.bind(('tw0', 0))
s.send(bytes.fromhex('027700000102' + '027700000101' + '81000007' + '88b5') + bytes(i % 251 for i in range(9000)))
";

#[test]
fn a_vlan_tag_passes_on_the_largest_frame() {
    let Some(topology) = topology(&TopologyOptions { mtu_bytes: 9000, ..TopologyOptions::default() }) else { return };
    if Command::new("python3").arg("-V").output().is_err() {
        println!("SKIP: python3 is not installed");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scenario = Scenario::new("vlan", "", 1, DirectionSpec { delay_ms: 5.0, ..DirectionSpec::default() }, None).expect("valid");
    let guard = topology.start_emulator(&scenario, emulator(), &folder.path().join("stats")).expect("starts");
    let mut receiver = topology.command(Namespace::Server, "python3");
    let mut receiver = receiver.args(["-c", RECEIVE_TAGGED]).stdout(Stdio::piped()).spawn().expect("python runs");
    let mut output = BufReader::new(receiver.stdout.take().expect("piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("reads");
    assert_eq!(line.trim(), "ready");
    assert!(topology.command(Namespace::Client, "python3").args(["-c", SEND_TAGGED]).status().expect("python runs").success());
    line.clear();
    output.read_line(&mut line).expect("reads");
    receiver.wait().expect("it ends");
    let stats = guard.stop().expect("it reports");
    assert_eq!(line.trim(), "tag 7 0x8100 9014 True", "{stats:#?}");
    assert_eq!(stats.forward.forwarded_bytes, 9_018, "the tag counts");
}

#[test]
fn tcp_crosses_with_nothing_but_the_topologys_settings() {
    let Some(topology) = topology(&TopologyOptions::default()) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rate_trace = vec![RateStep { t_ms: 0.0, mbps: 50.0 }, RateStep { t_ms: 400.0, mbps: 0.0 }, RateStep { t_ms: 600.0, mbps: 50.0 }];
    let forward = DirectionSpec {
        rate_trace,
        rate_trace_period_ms: Some(1_000.0),
        queue_ms: Some(100.0),
        delay_ms: 10.0,
        ..DirectionSpec::default()
    };
    let scenario = Scenario::new("tcp", "", 1, forward, None).expect("valid");
    let guard = topology.start_emulator(&scenario, emulator(), &folder.path().join("stats")).expect("starts");
    let serve = format!(
        "import socket\ns=socket.create_server(('{SERVER_ADDRESS}',5001))\nprint('ready',flush=True)\nc,a=s.accept()\nn=0\nwhile True:\n b=c.recv(65536)\n if not b: break\n n+=len(b)\nprint(n)"
    );
    if Command::new("python3").arg("-V").output().is_err() {
        println!("SKIP: python3 is not installed");
        return;
    }
    let mut server = topology.command(Namespace::Server, "python3");
    let mut server = server.args(["-c", &serve]).stdout(Stdio::piped()).spawn().expect("the server runs");
    let mut output = BufReader::new(server.stdout.take().expect("piped"));
    let mut text = String::new();
    output.read_line(&mut text).expect("reads");
    assert_eq!(text.trim(), "ready");
    let send = format!("import socket\ns=socket.create_connection(('{SERVER_ADDRESS}',5001),60)\ns.sendall(bytes(4000000))\ns.close()");
    assert!(topology.command(Namespace::Client, "python3").args(["-c", &send]).status().expect("the client runs").success());
    output.read_to_string(&mut text).expect("reads");
    server.wait().expect("the server ends");
    assert!(text.contains("4000000"), "{text}");
    let stats = guard.stop().expect("it reports");
    assert_eq!((stats.forward.own_drops.oversize, stats.forward.own_drops.checksum), (0, 0), "{stats:#?}");
    assert!(stats.forward.received > 2_700, "4 MB in frames of at most 1514 bytes from {CLIENT_ADDRESS}: {stats:#?}");
}

#[test]
fn namespaces_of_dead_processes_are_removed_and_those_of_living_ones_stay() {
    let Some(topology) = topology(&TopologyOptions::default()) else { return };
    let prefix = "twnetemleft";
    let mut ended = Command::new("true").spawn().expect("true runs");
    let dead_pid = ended.id();
    ended.wait().expect("it ends");
    let orphan = format!("{prefix}{dead_pid}-0-wan");
    assert!(Command::new("ip").args(["netns", "add", &orphan]).status().expect("ip runs").success());
    let mut sleeper = Command::new("ip").args(["netns", "exec", &orphan, "sleep", "600"]).spawn().expect("sleep runs");
    // Until `ip` is inside the namespace, where it becomes `sleep`.
    wait_until(|| !Command::new("ip").args(["netns", "pids", &orphan]).output().expect("ip runs").stdout.is_empty());
    // The test reaps the sleeper meanwhile, as init would.
    let reaper = std::thread::spawn(move || sleeper.wait());
    assert_eq!(Topology::remove_leftovers(prefix).expect("cleans up"), std::slice::from_ref(&orphan));
    assert!(!reaper.join().expect("no panic").expect("waited").success(), "the process inside must have been ended");
    assert_eq!(Topology::remove_leftovers(prefix).expect("cleans up"), [""; 0]);
    let removed = Topology::remove_leftovers(PREFIX).expect("cleans up");
    assert!(!removed.contains(&topology.name(Namespace::Wan)), "a living process keeps its namespaces");
    let name = topology.name(Namespace::Wan);
    assert!(Path::new("/run/netns").join(&name).exists());
    drop(topology);
    assert!(!Path::new("/run/netns").join(&name).exists());
}
