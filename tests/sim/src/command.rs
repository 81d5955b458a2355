//! `--grid`: plays, prints and writes grids.

use std::fs;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use tradewind_sim::battery::{Check, GROUPS, Group};
use tradewind_sim::grid::{Cell, GridOptions, Row, Summary, play_grid, summarise, table1};

use crate::Arguments;

pub(crate) fn grid(name: &str, arguments: &Arguments) -> Result<()> {
    let cells = if name == "table1" { table1() } else { parse(name)? };
    let options = GridOptions {
        seed: arguments.seed.unwrap_or(1),
        seconds: arguments.seconds,
        round_trips: arguments.round_trips,
        jumbo_from_mbps: arguments.jumbo_from,
        trace_ms: arguments.trace_ms,
    };
    let threads = if arguments.trace_ms > 0 { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
    let count = cells.len();
    let rows = play_grid(&cells, &options, threads, |done, seconds| {
        if done % 20 == 0 || done == count {
            eprintln!("{done} of {count} cells, {seconds:.0} s");
        }
    });
    let summary = summarise(rows);
    print(&summary);
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&summary).context("cannot write the figures as JSON")?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &arguments.html {
        fs::write(file, tradewind_sim::heat_map::page(&summary)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// `rate,rtt,loss,queue`, each a list with `/`: all combinations.
fn parse(text: &str) -> Result<Vec<Cell>> {
    let lists: Vec<Vec<f64>> = text
        .split(',')
        .map(|list| list.split('/').map(|number| number.parse().with_context(|| format!("'{number}' in the grid is no number"))).collect())
        .collect::<Result<_>>()?;
    let [rates, rtts, losses, queues] = &lists[..] else {
        bail!("'{text}' is no grid: `table1`, or RATE_MBPS,RTT_MS,LOSS,QUEUE_MS such as 10/1000,100,0/0.05,100");
    };
    let mut cells = Vec::new();
    for &rate_mbps in rates {
        for &rtt_ms in rtts {
            for &loss in losses {
                cells.extend(queues.iter().map(|&queue_ms| Cell { rate_mbps, rtt_ms, loss, queue_ms }));
            }
        }
    }
    Ok(cells)
}

fn print(summary: &Summary) {
    println!("  Mbit/s    RTT  loss queue | ratio steady  start RTT  tail RTT  queue p50   p95 ms  overshoot   waste  feedback");
    for row in &summary.rows {
        println!("{}", line(row));
    }
    println!("cells                 {}", summary.cells);
    println!("median ratio          {:.4}", summary.median_ratio);
    println!("lowest ratio          {:.4} (10 Mbit/s and more; {} cells below 0.93)", summary.min_ratio, summary.below_093);
    if let Some(cell) = summary.min_ratio_cell {
        println!("  in                  {} Mbit/s, {} ms, {} loss, {} ms queue", cell.rate_mbps, cell.rtt_ms, cell.loss, cell.queue_ms);
    }
    println!("queue p50             {:.2} ms median, {:.2} ms worst", summary.queue_p50_ms, summary.queue_p50_worst_ms);
    println!("waste                 {:.4} median, {:.4} worst", summary.waste_median, summary.waste_worst);
    println!("start                 {:.1} round trips (median, RTT 100 ms and more)", summary.start_round_trips_median);
    println!("feedback              {:.4} of the forward bytes at most", summary.feedback_share_worst);
}

fn line(row: &Row) -> String {
    let Cell { rate_mbps, rtt_ms, loss, queue_ms } = row.cell;
    format!(
        "{rate_mbps:8} {rtt_ms:6} {loss:5} {queue_ms:5} | {:.3}{} {:.3}  {:9.1} {:9.1}  {:9.2} {:8.2}  {:9.4}  {:6.4}  {:8.5}",
        row.ratio,
        if row.complete { " " } else { "!" },
        row.steady,
        row.start_round_trips,
        row.tail_round_trips,
        row.queue_p50_ms,
        row.queue_p95_ms,
        row.overshoot_loss,
        row.waste,
        row.feedback_share
    )
}

fn print_check(check: &Check) {
    let word = if check.holds() { "ok  " } else { "MISS" };
    let bar = if check.most.is_finite() { format!("{}..{}", check.least, check.most) } else { format!("{}..", check.least) };
    println!("{word} {:9} {:62} {:32} {:7.4} ({bar}) {}", check.group, check.what, check.figure, check.value, check.note);
}

/// Plays groups of checks side by side and prints each figure beside its bar. Figures outside of their bars do not make the command fail: it reports.
pub(crate) fn checks(arguments: &Arguments) -> Result<ExitCode> {
    let wanted = |group: &&Group| arguments.checks.iter().any(|name| name == "all" || name == group.0);
    let groups: Vec<&Group> = GROUPS.iter().filter(wanted).collect();
    if groups.is_empty() {
        let names: Vec<&str> = GROUPS.iter().map(|group| group.0).collect();
        bail!("there is no such group of checks; there are: all {}", names.join(" "));
    }
    let seed = arguments.seed.unwrap_or(1);
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let checks = (group.1)(seed);
                    let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    checks.iter().for_each(print_check);
                    results.extend(checks);
                }
            });
        }
    });
    let mut checks: Vec<Check> = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let position = |check: &Check| GROUPS.iter().position(|group| group.0 == check.group);
    checks.sort_by_key(position);
    println!("{} of {} figures within their bars", checks.iter().filter(|check| check.holds()).count(), checks.len());
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&checks).context("cannot write the figures as JSON")?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
