//! Datagrams per second between two UDP links of one host, a thread each, with and without offloads, interleaved.
//!
//! `cargo run --release -p tradewind-netio --example udp_rate [SECONDS]`. Loopback never segments on a wire, so it
//! flatters GSO: it shows what the calls cost, not what a NIC does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tradewind_netio::udp::{Offload, UdpConfig, UdpLink};
use tradewind_netio::{Link, LinkError, Path};

fn run(offload: Offload, datagram_bytes: usize, time: Duration) -> Result<(f64, f64, u64), LinkError> {
    let local = ([127, 0, 0, 1], 0).into();
    let config = UdpConfig { gso: offload, gro: offload, mtu_bytes: 9000, ..UdpConfig::new(local) };
    let (mut sender, _) = UdpLink::bind(&config)?;
    let (mut receiver, warnings) = UdpLink::bind(&config)?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    let path = Path { local: sender.local_addr(), remote: receiver.local_addr(), link: None };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| -> Result<_, LinkError> {
            let start = Instant::now();
            while !done.load(Ordering::Relaxed) {
                if receiver.receive(&mut || 0, 256, &mut |_, _| {})? == 0 {
                    receiver.wait(Duration::from_millis(1))?;
                }
            }
            Ok((receiver.counters(), start.elapsed()))
        });
        let start = Instant::now();
        while start.elapsed() < time {
            for _ in 0..16 {
                sender.transmit(&path, datagram_bytes, |_| datagram_bytes)?;
            }
            sender.flush()?;
        }
        done.store(true, Ordering::Relaxed);
        let (counters, elapsed) = receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let seconds = elapsed.as_secs_f64();
        Ok((counters.received as f64 / seconds, counters.received_bytes as f64 * 8.0 / seconds, counters.receive_dropped))
    })
}

fn main() -> Result<(), LinkError> {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1.0);
    println!("datagram  offloads  kpps      Gbit/s  dropped by a full socket");
    for _ in 0..3 {
        for datagram_bytes in [1472, 8972] {
            for offload in [Offload::Auto, Offload::Off] {
                let (rate, bits, dropped) = run(offload, datagram_bytes, Duration::from_secs_f64(seconds))?;
                println!("{datagram_bytes:8}  {:8}  {:8.0}  {:6.2}  {dropped}", format!("{offload:?}"), rate / 1e3, bits / 1e9);
            }
        }
    }
    Ok(())
}
