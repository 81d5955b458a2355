//! What the engine tells of itself when it is asked: sums over the workers, the steering program's counters, staging disks, latencies, CPU time.

use tradewind_fabric::BlockPool;
use tradewind_ipc::{StageLatency, Stats};
use tradewind_staging::Staging;

use crate::statistics::{Stage, WorkerStatistics};
use crate::topology::Workers;

/// The figures of this moment.
pub(crate) fn of(workers: &Workers, pool: &BlockPool, lanes_open: u32) -> Stats {
    let mut stats =
        Stats { lanes_open, pool_bytes_used: ((pool.capacity() - pool.available()) * pool.slot_bytes()) as u64, ..Stats::default() };
    (stats.cpu_user_seconds, stats.cpu_system_seconds) = cpu_seconds();
    let mut count = |name: String, value: u64| *stats.counters.entry(name).or_default() += value;
    for worker in &workers.statistics {
        count("packets_authentic".to_owned(), worker.authentic.get());
        for (name, value) in WorkerStatistics::DROPS.iter().zip(worker.drops()) {
            count(format!("packets_dropped_{name}"), value);
        }
        let (xdp, kernel) = worker.links();
        for (by, link) in [("afxdp", xdp), ("kernel", kernel)] {
            count(format!("{by}_received"), link.received);
            count(format!("{by}_sent"), link.sent);
            count(format!("{by}_receive_dropped"), link.receive_dropped);
            count(format!("{by}_send_failed"), link.send_failed);
            count(format!("{by}_malformed"), link.malformed);
        }
    }
    for disk in workers.staging.iter().flat_map(Staging::disks) {
        let directory = disk.directory.display();
        count(format!("staging_blocks_written {directory}"), disk.blocks_written);
        count(format!("staging_queued_bytes {directory}"), disk.queued_bytes);
        count(format!("staging_room_blocks {directory}"), disk.room_blocks);
        count(format!("staging_failed {directory}"), disk.is_failed.into());
    }
    if let Some(counters) = workers.steering.as_ref().and_then(|steering| steering.counters().ok()) {
        for (name, value) in counters.iter() {
            count(format!("steer_{name}"), value);
        }
    }
    for worker in &workers.statistics {
        for stage in Stage::ALL {
            stats.latencies.push(worker.latency(stage).drain(|histogram| {
                let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
                StageLatency {
                    stage: stage.name().to_owned(),
                    count: histogram.len(),
                    p50_us: at(0.5),
                    p90_us: at(0.9),
                    p99_us: at(0.99),
                    p999_us: at(0.999),
                    max_us: histogram.max() as f64 / 1000.0,
                }
            }));
        }
    }
    stats
}

/// User and system time of this process, seconds, to the kernel's tick (proc(5), `/proc/[pid]/stat` fields 14 and 15).
fn cpu_seconds() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the name, may hold blanks, so count from its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let seconds = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0) / ticks;
    (seconds(11), seconds(12))
}
