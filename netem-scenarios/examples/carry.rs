//! What it costs to carry packets: `cargo run --release -p tradewind-netem --example carry -- EMULATOR MBIT SECONDS [MTU [TICK_US]]` (as root; EMULATOR
//! is the built `tradewind-netem`). Both directions at once at MBIT each, over a path with 50 ms of delay and 5 % loss.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tradewind_netem::Scenario;
use tradewind_netem::scenario::DirectionSpec;
use tradewind_netem::topology::{CLIENT_ADDRESS, Namespace, SERVER_ADDRESS, Topology, TopologyOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(emulator), Some(mbit), Some(seconds)) = (arguments.first(), arguments.get(1), arguments.get(2)) else {
        return Err("usage: carry EMULATOR MBIT SECONDS [MTU [TICK_US]]".into());
    };
    let (mbit, seconds): (f64, f64) = (mbit.parse()?, seconds.parse()?);
    let mtu_bytes: u32 = arguments.get(3).map_or(Ok(1500), |m| m.parse())?;
    let tick_us = arguments.get(4).map_or("100", String::as_str);
    let topology = Topology::create("twcarry", &TopologyOptions { mtu_bytes, ..TopologyOptions::default() })?;
    let forward = DirectionSpec {
        rate_bps: Some((mbit * 1.05e6) as u64),
        queue_ms: Some(100.0),
        delay_ms: 50.0,
        loss: Some(0.05),
        ..DirectionSpec::default()
    };
    let scenario = Scenario::new("carry", "", 1, forward, None)?;
    let folder = std::env::temp_dir().join(topology.name(Namespace::Wan));
    std::fs::create_dir_all(&folder)?;
    let guard = topology.start_emulator_with(&scenario, Path::new(emulator), &folder.join("stats"), &["--tick-us", tick_us])?;
    let packets_per_second = mbit * 1e6 / f64::from(8 * (mtu_bytes + 14));
    // Somebody must listen, or the ends' kernels answer every packet with an ICMP error, in the emulator's time.
    let mut receivers = Vec::new();
    for (namespace, at) in [(Namespace::Client, CLIENT_ADDRESS), (Namespace::Server, SERVER_ADDRESS)] {
        let mut command = topology.command(namespace, emulator);
        command.args(["probe-receive", "--bind", &format!("{at}:9"), "--record"]).arg(folder.join(format!("{at}-received")));
        receivers.push(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?);
    }
    std::thread::sleep(Duration::from_millis(300));
    let mut senders = Vec::new();
    for (namespace, to) in [(Namespace::Client, SERVER_ADDRESS), (Namespace::Server, CLIENT_ADDRESS)] {
        let mut command = topology.command(namespace, emulator);
        command.args(["probe-send", "--to", &format!("{to}:9"), "--packets-per-second", &packets_per_second.to_string()]);
        command.args(["--count", &((packets_per_second * seconds) as u64).to_string(), "--payload-bytes", &(mtu_bytes - 28).to_string()]);
        senders.push(command.arg("--record").arg(folder.join(format!("{to}"))).spawn()?);
    }
    for mut sender in senders {
        sender.wait()?;
    }
    std::thread::sleep(Duration::from_millis(200));
    let stats = guard.stop()?;
    for mut receiver in receivers {
        drop(receiver.stdin.take());
        receiver.wait()?;
    }
    std::fs::remove_dir_all(&folder)?;
    println!(
        "{mbit} Mbit/s each way, MTU {mtu_bytes}, tick {tick_us} µs, {seconds} s: emulator CPU {:.3} s per second, load {:.2}, steal {:.3}, longest gap {:.0} µs, {}",
        stats.cpu_s / seconds,
        stats.load_average_1m,
        stats.steal_share,
        stats.max_gap_us,
        stats.sched_class
    );
    for (name, d) in [("forward", &stats.forward), ("reverse", &stats.reverse)] {
        println!("{name}: {} in, {} out, own drops {:?}, {:?}", d.received, d.forwarded, d.own_drops, d.lateness);
    }
    println!("valid {} {:?}", stats.valid, stats.invalid_reasons);
    Ok(())
}
