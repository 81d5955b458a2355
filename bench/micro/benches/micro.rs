//! Times the micro-workloads with criterion: `cargo xtask bench micro`, or `cargo bench --package tradewind-micro -- [PART OF A NAME]`.

use std::time::{Duration, Instant};

use criterion::Criterion;
use tradewind_micro::{ALL, Entry, Workload};

/// Time in which samples of a workload are taken, with what its runs need made in between.
const MEASURING: Duration = Duration::from_millis(1_500);
/// Most of it that is warm-up.
const WARM_UP: Duration = Duration::from_millis(300);
/// Criterion takes no less than this.
const LEAST: Duration = Duration::from_millis(5);
const SAMPLES: usize = 40;

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let mut criterion = Criterion::default().without_plots();
    for entry in ALL.iter().filter(|entry| filter.as_ref().is_none_or(|filter| entry.name.contains(filter.as_str()))) {
        if let Err(error) = bench(&mut criterion, entry) {
            eprintln!("{error:#}");
            std::process::exit(1);
        }
    }
    criterion.final_summary();
}

fn bench(criterion: &mut Criterion, entry: &Entry) -> anyhow::Result<()> {
    let mut workload = entry.make()?;
    // Criterion counts only the time of runs, so it is given that part of the time that runs are.
    let begun = Instant::now();
    let (mut runs, mut in_runs) = (0, Duration::ZERO);
    while runs < 3 || begun.elapsed() < Duration::from_millis(50) {
        in_runs += time(entry, workload.as_mut())?;
        runs += 1;
    }
    let share = in_runs.as_secs_f64() / begun.elapsed().as_secs_f64();
    let mut group = criterion.benchmark_group("micro");
    group.sample_size(SAMPLES).warm_up_time(WARM_UP.mul_f64(share).max(LEAST)).measurement_time(MEASURING.mul_f64(share).max(LEAST));
    let mut failure = None;
    group.bench_function(entry.name, |bencher| {
        bencher.iter_custom(|runs| {
            let mut total = Duration::ZERO;
            for _ in 0..runs {
                match time(entry, workload.as_mut()) {
                    Ok(took) => total += took,
                    Err(error) => failure = Some(error),
                }
            }
            total
        });
    });
    group.finish();
    failure.map_or(Ok(()), Err)
}

/// One run.
fn time(entry: &Entry, workload: &mut dyn Workload) -> anyhow::Result<Duration> {
    let mut took = Duration::ZERO;
    entry.run(workload, |workload| {
        let begun = Instant::now();
        let result = workload.run();
        took = begun.elapsed();
        result
    })?;
    Ok(took)
}
