//! Rates end to end: real processes across an emulated WAN, two transfers below one cap, changes in their middle, and the
//! limiter by its name. What goes over the client's cable is counted by the kernel, so the figures are those of IP packets.
//! A machine that stands still for a tenth of a second spoils one measurement, a fault all of them: what must hold is measured
//! up to four times ([`settled`]), and what must never happen is looked for all the time.
//! What this cannot see: caps over several servers (there are none), more than a few transfers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tradewind_bench::process::Background;
use tradewind_bench::testbed::{BUCKET, Server, ServerOptions};
use tradewind_sim::battery::jain;
use tradewind_tests::{World, settled};

const CAP_BPS: f64 = 60e6;
const CONFIG: &str = "[engine]\ncredit_blocks = 64\n[[cap]]\nname = \"uplink\"\nrate_mbps = 60\n";
/// Ethernet header of each frame that the kernel counts.
const FRAME_BYTES: u64 = 14;

/// A reading of the kernel's counter, which was true at some moment between two.
#[derive(Clone, Copy, Debug)]
struct Reading {
    before: Instant,
    after: Instant,
    ip_bytes: u64,
}

/// Reads what left the client's interface, every few milliseconds.
struct Meter {
    stop: Arc<AtomicBool>,
    readings: Arc<Mutex<Vec<Reading>>>,
    thread: JoinHandle<()>,
    /// Lives in the client's namespace, for the sake of its `/proc/PID/net/dev`.
    _anchor: Background,
}

impl Meter {
    fn start(world: &World) -> Result<Self> {
        let mut command = world.testbed.client(std::path::Path::new("sleep"));
        let anchor = Background::start(command.arg("600"), &world.testbed.path("anchor.log"))?;
        let (path, stop) = (format!("/proc/{}/net/dev", anchor.pid()), Arc::new(AtomicBool::new(false)));
        // Until `ip netns exec` has become `sleep`, the file is of another namespace.
        let deadline = Instant::now() + Duration::from_secs(10);
        while read(&path).is_none() {
            ensure!(Instant::now() < deadline, "no interface tw0 in {path}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let readings = Arc::new(Mutex::new(Vec::new()));
        let (stopped, taken) = (Arc::clone(&stop), Arc::clone(&readings));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let reading = read(&path);
                taken.lock().expect("no reader panics").extend(reading);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Ok(Self { stop, readings, thread, _anchor: anchor })
    }

    /// Runs something for a time in which the cap must be used. What it was used to is added to the line.
    fn during<T>(&self, line: &mut String, name: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let from = Instant::now();
        let result = run()?;
        let used = mean_bps(&self.readings.lock().expect("the meter panicked"), from, Instant::now()) / CAP_BPS;
        *line += &format!(" {name} {used:.4}");
        ensure!(used >= 0.95, "{name}: {used:.4} of the cap");
        Ok(result)
    }

    fn finish(self) -> Vec<Reading> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the meter panicked");
        std::mem::take(&mut *self.readings.lock().expect("the meter panicked"))
    }
}

fn read(path: &str) -> Option<Reading> {
    let before = Instant::now();
    let text = std::fs::read_to_string(path).ok()?;
    let after = Instant::now();
    let fields = text.lines().find_map(|line| line.trim().strip_prefix("tw0:"))?;
    let fields: Vec<u64> = fields.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    Some(Reading { before, after, ip_bytes: fields.get(8)?.saturating_sub(FRAME_BYTES * fields.get(9)?) })
}

/// The most bits that left within any second, and when that began. A window surely no longer than a second is looked at, so a
/// late reading hides a little and invents nothing.
fn most_in_a_second(readings: &[Reading]) -> (f64, Duration) {
    let (mut most, mut start, mut first) = (0, Duration::ZERO, 0);
    for last in readings {
        while last.after - readings[first].before > Duration::from_secs(1) {
            first += 1;
        }
        let bytes = last.ip_bytes - readings[first].ip_bytes;
        if bytes > most {
            (most, start) = (bytes, readings[first].before - readings[0].before);
        }
    }
    (most as f64 * 8.0, start)
}

fn mean_bps(readings: &[Reading], from: Instant, to: Instant) -> f64 {
    let within: Vec<_> = readings.iter().filter(|reading| reading.before >= from && reading.after <= to).collect();
    let (Some(first), Some(last)) = (within.first(), within.last()) else { return 0.0 };
    (last.ip_bytes - first.ip_bytes) as f64 * 8.0 / (last.before - first.before).as_secs_f64()
}

fn start(world: &World, name: &str, bytes: u64, destination: &str, further: &[&str]) -> Result<(Background, String)> {
    let known = world.transfers()?;
    let file = world.file(name, bytes)?;
    let mut command = Server::tradewind(&world.testbed);
    command.args(["send", "--json"]).arg(&file).arg(destination).args(further);
    let process = Background::start(&mut command, &world.testbed.path(&format!("{name}.log")))?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(id) = world.transfers()?.into_iter().find(|id| !known.contains(id)) {
            return Ok((process, id));
        }
        ensure!(Instant::now() < deadline, "the transfer did not begin: {}", process.log_text());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A figure of each transfer's status, on average over a time.
fn averages<const N: usize>(world: &World, ids: [&str; N], seconds: u64, figure: impl Fn(&Value) -> &Value) -> Result<[f64; N]> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut sums, mut count) = ([0.0; N], 0.0);
    while Instant::now() < end {
        for (sum, id) in sums.iter_mut().zip(ids) {
            let found = world.status(id)?;
            *sum += figure(&found).as_f64().with_context(|| found.to_string())?;
        }
        count += 1.0;
    }
    Ok(sums.map(|sum| sum / count))
}

/// What senders say that they send, on average over a time, bit/s.
fn sent<const N: usize>(world: &World, ids: [&str; N], seconds: u64) -> Result<[f64; N]> {
    averages(world, ids, seconds, |status| &status["rate"]["sent_rate_bps"])
}

/// Payload that arrived over a time, bit/s. Asked for twice only: on a small machine the asking itself slows the senders.
fn received<const N: usize>(world: &World, ids: [&str; N], seconds: u64) -> Result<[f64; N]> {
    let count = |id: &str| -> Result<(f64, Instant)> {
        let found = world.status(id)?;
        Ok((found["totals"]["bytes_received"].as_f64().with_context(|| found.to_string())?, Instant::now()))
    };
    let before = ids.into_iter().map(count).collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let mut rates = [0.0; N];
    for ((rate, id), (from, began)) in rates.iter_mut().zip(ids).zip(before) {
        let (to, ended) = count(id)?;
        *rate = (to - from) * 8.0 / (ended - began).as_secs_f64();
    }
    Ok(rates)
}

fn wait_for_limiter(world: &World, id: &str, limiter: &str) -> Result<Value> {
    world.wait_for(id, 30, &format!("limited by {limiter}"), |status| status["rate"]["limiter"] == limiter)
}

/// Waits until a transfer is told that it is one of so many.
fn wait_for_group(world: &World, id: &str, lanes: Option<u64>) -> Result<Value> {
    world.wait_for(id, 25, &format!("in a group of {lanes:?}"), |status| status["rate"]["group"]["lanes"].as_u64() == lanes)
}

#[test]
fn two_transfers_share_a_cap_by_weight_and_never_exceed_it() -> Result<()> {
    let Some(world) = World::start(&ServerOptions { more: CONFIG, ..ServerOptions::default() })? else { return Ok(()) };
    let meter = Meter::start(&world)?;
    let (mut used, mut shares) = (String::new(), String::new());
    let pause = |seconds| {
        std::thread::sleep(Duration::from_secs(seconds));
        Ok(())
    };
    let (_fair, fair) = start(&world, "fair", 800_000_000, "local:", &[])?;
    pause(2)?;
    settled(|| meter.during(&mut used, "alone", || pause(2)))?;
    let (_high, high) = start(&world, "high", 800_000_000, "local:", &["--policy", "high"])?;
    pause(2)?;

    let both = [fair.as_str(), high.as_str()];
    let mut share = |used: &mut String, name: &str, seconds, expected: std::ops::RangeInclusive<f64>| {
        let rates = meter.during(used, name, || sent(&world, both, seconds))?;
        let ratio = rates[1] / rates[0];
        shares += &format!(" {name} {ratio:.3}");
        ensure!(expected.contains(&ratio), "{name}: {rates:?}");
        Ok(())
    };
    settled(|| share(&mut used, "by weight", 6, 1.9..=2.1))?;
    settled(|| {
        let mut leases = Vec::new();
        for id in both {
            let found = wait_for_limiter(&world, id, "lease")?;
            assert_eq!((&found["rate"]["cap"], &found["rate"]["in_force"]), (&"uplink".into(), &true.into()), "{found}");
            leases.push(found["rate"]["lease_rate_bps"].as_f64().context("no lease")?);
        }
        ensure!((1.96..=2.04).contains(&(leases[1] / leases[0])) && leases[0] + leases[1] <= CAP_BPS, "{leases:?}");
        let shown = world.tradewind(&["status", &fair])?.stdout;
        ensure!(shown.contains("of cap 'uplink', limit: server's cap"), "{shown}");
        Ok(())
    })?;

    // A target in the middle: the other gets what is left.
    world.tradewind(&["rate", &high, "--rate", "10M"])?.success("tradewind rate")?;
    pause(2)?;
    settled(|| share(&mut used, "with a target of 10 Mbit/s", 3, 0.18..=0.22))?;
    let found = wait_for_limiter(&world, &high, "target")?;
    assert_eq!(found["rate"]["target_rate_bps"], 10_000_000, "{found}");

    // And without it again, as equals.
    world.tradewind(&["rate", &high, "--rate", "none", "--policy", "fair"])?.success("tradewind rate")?;
    pause(2)?;
    settled(|| share(&mut used, "as equals", 3, 0.95..=1.05))?;

    // A fixed rate above the cap is not obeyed beyond the lease.
    world.tradewind(&["rate", &high, "--rate", "90M", "--policy", "fixed"])?.success("tradewind rate")?;
    pause(3)?;
    assert_eq!(world.status(&high)?["rate"]["target_rate_bps"], 60_000_000, "never above the cap");

    world.tradewind(&["cancel", &high])?.success("tradewind cancel")?;
    pause(6)?;
    settled(|| meter.during(&mut used, "alone again", || pause(2)))?;
    let refused = world.tradewind(&["rate", &high, "--rate", "5M"])?;
    assert_eq!(refused.status.and_then(|status| status.code()), Some(2), "{}", refused.stderr);

    let readings = meter.finish();
    let (most, when) = most_in_a_second(&readings);
    println!("cap 60 Mbit/s: most in any second {:.4} (at {when:.1?}, {} readings)", most / CAP_BPS, readings.len());
    println!("used:{used}; high : fair:{shares}");
    assert!(most <= 1.02 * CAP_BPS, "{most} bits within a second at {when:?}");
    Ok(())
}

#[test]
fn the_server_names_what_limits_a_transfer() -> Result<()> {
    let Some(mut world) = World::start(&ServerOptions { more: "[engine]\ncredit_blocks = 24\n", ..ServerOptions::default() })? else {
        return Ok(());
    };
    let (_sending, id) = start(&world, "f", 400_000_000, &format!("s3://{BUCKET}/f"), &[])?;
    wait_for_limiter(&world, &id, "network")?;
    world.tradewind(&["rate", &id, "--rate", "20M"])?.success("tradewind rate")?;
    wait_for_limiter(&world, &id, "target")?;
    world.tradewind(&["rate", &id, "--rate", "none"])?.success("tradewind rate")?;
    world.store.process().signal_stop();
    let found = wait_for_limiter(&world, &id, "storage");
    world.store.process().signal_continue();
    found?;
    wait_for_limiter(&world, &id, "network")?;
    world.tradewind(&["cancel", &id])?.success("tradewind cancel")?;
    Ok(())
}

/// Three commands on one host: the server tells each what it should have, and within seconds all have the same.
#[test]
fn transfers_of_one_host_share_the_path_as_one_group() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let mut running = Vec::new();
    for name in ["a", "b", "c"] {
        running.push(start(&world, name, 400_000_000, &format!("s3://{BUCKET}/{name}"), &[])?);
        std::thread::sleep(Duration::from_secs(2));
    }
    std::thread::sleep(Duration::from_secs(5));
    let ids = [0, 1, 2].map(|index: usize| running[index].1.as_str());
    settled(|| {
        let rates = received(&world, ids, 6)?;
        let (sum, jain) = (rates.iter().sum::<f64>(), jain(&rates));
        println!("{rates:?} bit/s, Jain {jain:.4}");
        for (id, share) in ids.into_iter().zip(averages(&world, ids, 4, |status| &status["rate"]["group"]["share_rate_bps"])?) {
            let group = &world.status(id)?["rate"]["group"];
            ensure!(group["lanes"] == 3, "{group}");
            ensure!((share / (sum / 3.0) - 1.0).abs() < 0.2, "share {share} of {sum}");
        }
        ensure!(jain >= 0.95 && sum >= 0.85 * 100e6, "{rates:?}");
        Ok(())
    })
}

/// A client that falls silent, killed or cut off, does not hold the others of its host back until its lane times out; when it is back it belongs again.
#[test]
fn a_transfer_that_falls_silent_leaves_its_group() -> Result<()> {
    let Some(world) = World::start(&ServerOptions::default())? else { return Ok(()) };
    let (_stays, stays) = start(&world, "stays", 500_000_000, "local:", &[])?;
    let (silent, _) = start(&world, "silent", 200_000_000, "local:", &[])?;
    wait_for_group(&world, &stays, Some(2))?;
    std::thread::sleep(Duration::from_secs(2));
    silent.signal_stop();
    wait_for_group(&world, &stays, None)?;
    std::thread::sleep(Duration::from_secs(1));
    settled(|| {
        let [alone] = received(&world, [&stays], 4)?;
        ensure!(alone >= 0.85 * 100e6, "{alone}");
        Ok(())
    })?;
    silent.signal_continue();
    wait_for_group(&world, &stays, Some(2))?;
    Ok(())
}
