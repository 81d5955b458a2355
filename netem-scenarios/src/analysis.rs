//! From probe records to figures: what [`crate::verify`] measured, with a tolerance that follows from the number of probes.

use serde::{Deserialize, Serialize};

use crate::scenario::{Direction, LossModel, QueueLimit, ReorderEffect};
use crate::timeline::RateTimeline;

/// Width of an interval around a random share, in standard deviations: a fair run fails once in 10,000 rows.
const SIGMAS: f64 = 3.9;
/// What the machine may add to a median delay.
const DELAY_TOLERANCE_MS: f64 = 0.3;
/// What the machine may add to the width of the delay.
const JITTER_TOLERANCE_MS: f64 = 0.5;
/// Probes this close to the edge of an outage say nothing.
const OUTAGE_MARGIN_NS: u64 = 5_000_000;
/// A mean burst length is only judged on so many bursts.
const BURSTS_MIN: usize = 30;
/// Least offered load, over the rate, for a rate to be measured.
const OVERLOAD_MIN: f64 = 1.08;

/// One quantity of one direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `forward` or `reverse`.
    pub direction: String,
    /// What, with its unit.
    pub quantity: String,
    /// What the scenario says.
    pub expected: f64,
    /// What the probes say; absent if they could not tell.
    pub measured: Option<f64>,
    /// How far apart the two may be.
    pub tolerance: f64,
    /// Whether they are close enough.
    pub passed: bool,
    /// Why nothing was measured, or on what the figure stands.
    pub note: String,
}

fn row(direction: &str, quantity: &str, expected: f64, measured: f64, tolerance: f64, note: String) -> Row {
    let passed = (measured - expected).abs() <= tolerance;
    Row { direction: direction.to_owned(), quantity: quantity.to_owned(), expected, measured: Some(measured), tolerance, passed, note }
}

/// What a pair of probes recorded. Times are CLOCK_REALTIME nanoseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observations {
    pub(crate) link_start_ns: u64,
    /// Bytes of each probe's Ethernet frame.
    pub(crate) frame_bytes: u64,
    /// Send time by sequence number.
    pub(crate) sent_ns: Vec<u64>,
    /// (sequence number, arrival) in order of arrival.
    pub(crate) arrivals: Vec<(u64, u64)>,
}

impl Observations {
    /// First arrival by sequence number, and how many came again.
    fn first_arrivals(&self) -> (Vec<Option<u64>>, usize) {
        let mut first = vec![None; self.sent_ns.len()];
        let mut again = 0;
        for &(sequence, at) in &self.arrivals {
            match first.get_mut(sequence as usize) {
                Some(slot @ None) => *slot = Some(at),
                Some(Some(_)) => again += 1,
                None => {}
            }
        }
        (first, again)
    }

    /// One-way delays of first arrivals in nanoseconds: (sequence number, delay).
    fn delays_ns(&self) -> Vec<(usize, i64)> {
        let (first, _) = self.first_arrivals();
        first.iter().enumerate().filter_map(|(n, at)| at.map(|at| (n, at as i64 - self.sent_ns[n] as i64))).collect()
    }
}

/// The value at `share` (0..=1) of a list, which is sorted for it. 0 for an empty list.
fn quantile(values: &mut [i64], share: f64) -> i64 {
    values.sort_unstable();
    match values.len() {
        0 => 0,
        n => values[((n - 1) as f64 * share).round() as usize],
    }
}

/// Whether a delay is that of a reordered packet.
fn is_reordered(direction: &Direction, delay_ns: i64) -> bool {
    if direction.reorder() == 0.0 {
        return false;
    }
    match direction.reorder_effect() {
        ReorderEffect::SkipDelay => delay_ns < (direction.delay_ns() - direction.jitter_ns()) as i64 / 2,
        ReorderEffect::ExtraDelayNs(extra) => delay_ns > (direction.delay_ns() + direction.jitter_ns() + extra / 2) as i64,
    }
}

/// Median one-way delay of packets that were not reordered, in nanoseconds.
pub(crate) fn base_delay_ns(direction: &Direction, seen: &Observations) -> i64 {
    let mut delays: Vec<i64> = seen.delays_ns().into_iter().map(|d| d.1).filter(|&d| !is_reordered(direction, d)).collect();
    quantile(&mut delays, 0.5)
}

/// Standard deviation of the measured loss share over `count` packets; bursts widen it by their correlation (1 + 2 ρ / (1 − ρ), where ρ
/// is the correlation of neighbouring losses and falls geometrically with distance).
fn loss_deviation(loss: LossModel, mean: f64, count: usize) -> f64 {
    let independent = mean * (1.0 - mean) / count.max(1) as f64;
    let inflation = match loss {
        LossModel::GilbertElliott(g) => {
            let memory = 1.0 - g.good_to_bad - g.bad_to_good;
            let bad = g.bad_share();
            let between = bad * (1.0 - bad) * (g.loss_bad - g.loss_good).powi(2);
            let correlated = if mean > 0.0 && mean < 1.0 { between / (mean * (1.0 - mean)) } else { 0.0 };
            1.0 + 2.0 * correlated * (memory / (1.0 - memory)).max(0.0)
        }
        _ => 1.0,
    };
    (independent * inflation).sqrt()
}

fn share_row(direction: &str, quantity: &str, probability: f64, hits: usize, count: usize) -> Row {
    let tolerance = SIGMAS * (probability * (1.0 - probability) / count.max(1) as f64).sqrt()
        + 0.5 * f64::from(probability > 0.0) / count.max(1) as f64;
    row(
        direction,
        quantity,
        probability * 100.0,
        hits as f64 * 100.0 / count.max(1) as f64,
        tolerance * 100.0,
        format!("{hits} of {count}"),
    )
}

/// Rows of a quiet measurement.
pub(crate) fn quiet_rows(name: &str, direction: &Direction, seen: &Observations) -> Vec<Row> {
    let mut rows = Vec::new();
    let delays = seen.delays_ns();
    let mut plain: Vec<i64> = delays.iter().map(|d| d.1).filter(|&d| !is_reordered(direction, d)).collect();
    let serialisation_ns = direction.rate().long_run_bps().map_or(0.0, |bps| seen.frame_bytes as f64 * 8e9 / bps);
    let expected_ms = (direction.delay_ns() as f64 + serialisation_ns) / 1e6;
    let median_ms = quantile(&mut plain, 0.5) as f64 / 1e6;
    // A median of uniform jitter wanders by jitter / √n.
    let wander_ms = SIGMAS * direction.jitter_ns() as f64 / 1e6 / (plain.len().max(1) as f64).sqrt();
    rows.push(row(
        name,
        "delay ms",
        expected_ms,
        median_ms,
        DELAY_TOLERANCE_MS + 0.01 * expected_ms + wander_ms,
        format!("{} probes", plain.len()),
    ));
    let width_ms = (quantile(&mut plain, 0.99) - quantile(&mut plain, 0.01)) as f64 / 1e6;
    let jitter_ms = direction.jitter_ns() as f64 / 1e6;
    // 98 % of a uniform width of twice the jitter; with no jitter, all of it is noise.
    rows.push(row(name, "jitter ms", jitter_ms, width_ms / 2.0 / 0.98, JITTER_TOLERANCE_MS + 0.1 * jitter_ms, String::new()));

    let (first, again) = seen.first_arrivals();
    let place = |sent_ns: u64| {
        let since = sent_ns.saturating_sub(seen.link_start_ns) + serialisation_ns as u64;
        let outages = direction.outages();
        let near = [since.saturating_sub(OUTAGE_MARGIN_NS), since, since + OUTAGE_MARGIN_NS].map(|t| outages.contains(t));
        (near == [true; 3], near == [false; 3])
    };
    let places: Vec<(bool, bool)> = seen.sent_ns.iter().map(|&t| place(t)).collect();
    let outside: Vec<bool> = first.iter().zip(&places).filter(|(_, p)| p.1).map(|(f, _)| f.is_some()).collect();
    let lost = outside.iter().filter(|&&arrived| !arrived).count();
    let mean = direction.mean_loss();
    let tolerance =
        SIGMAS * loss_deviation(direction.loss(), mean, outside.len()) + 0.5 * f64::from(mean > 0.0) / outside.len().max(1) as f64;
    let share = lost as f64 / outside.len().max(1) as f64;
    rows.push(row(name, "loss %", mean * 100.0, share * 100.0, tolerance * 100.0, format!("{lost} of {}", outside.len())));
    rows.extend(burst_row(name, direction, &outside));
    if !direction.outages().is_empty() {
        let inside = places.iter().filter(|p| p.0).count();
        let passed = first.iter().zip(&places).filter(|(f, p)| p.0 && f.is_some()).count();
        rows.push(row(name, "packets in outages", 0.0, passed as f64, 0.0, format!("{inside} sent")));
    }
    rows.push(share_row(name, "duplicates %", direction.duplicate(), again, delays.len()));
    if direction.reorder() > 0.0 {
        let reordered = delays.iter().filter(|d| is_reordered(direction, d.1)).count();
        rows.push(share_row(name, "reordered %", direction.reorder(), reordered, delays.len()));
    } else if direction.jitter_ns() == 0 || direction.jitter_keeps_order() {
        let late = seen.arrivals.windows(2).filter(|w| w[1].0 < w[0].0).count();
        rows.push(row(name, "reordered packets", 0.0, late as f64, 0.0, String::new()));
    }
    rows
}

/// Mean length of loss bursts, where each burst is one stay in the bad state.
fn burst_row(name: &str, direction: &Direction, arrived: &[bool]) -> Option<Row> {
    let LossModel::GilbertElliott(model) = direction.loss() else { return None };
    if model.loss_bad < 1.0 || model.loss_good > 0.0 {
        return None;
    }
    let bursts: Vec<usize> = arrived.split(|&a| a).map(<[bool]>::len).filter(|&n| n > 0).collect();
    if bursts.len() < BURSTS_MIN {
        return None;
    }
    let mean = bursts.iter().sum::<usize>() as f64 / bursts.len() as f64;
    let leave = model.bad_to_good;
    let deviation = ((1.0 - leave) / (leave * leave) / bursts.len() as f64).sqrt();
    Some(row(name, "mean burst, packets", 1.0 / leave, mean, SIGMAS * deviation, format!("{} bursts", bursts.len())))
}

/// Rows of an overload: rate, and what a full queue adds to `base_ns`, the quiet delay. `fill_ns`: time that the queue needs to fill.
pub(crate) fn overload_rows(name: &str, direction: &Direction, seen: &Observations, base_ns: i64, fill_ns: u64) -> Vec<Row> {
    let (Some(&first_ns), Some(&last_ns)) = (seen.sent_ns.first(), seen.sent_ns.last()) else { return Vec::new() };
    let frame_bits = (seen.frame_bytes * 8) as f64;
    let offered_bps = seen.sent_ns.len() as f64 * frame_bits * 1e9 / (last_ns - first_ns).max(1) as f64;
    // Arrivals from the moment that the queue is full at the sender's end until the sender stops, as seen at the receiver.
    let from_ns = first_ns + fill_ns + direction.delay_ns();
    let until_ns = last_ns + direction.delay_ns();
    let capacity_bits = direction.rate().bits_between(
        (from_ns - direction.delay_ns()).saturating_sub(seen.link_start_ns),
        (until_ns - direction.delay_ns()).saturating_sub(seen.link_start_ns),
    );
    let window_s = until_ns.saturating_sub(from_ns) as f64 / 1e9;
    let expected_bps = capacity_bits.unwrap_or(0.0) / window_s.max(1e-9);
    let max_bps = direction.rate().max_bps().unwrap_or(0) as f64;
    if offered_bps < OVERLOAD_MIN * max_bps {
        let note = format!("the probe sender reached only {:.1} Mbit/s on this machine", offered_bps / 1e6);
        let unmeasured = |quantity: &str, expected| Row {
            direction: name.to_owned(),
            quantity: quantity.to_owned(),
            expected,
            measured: None,
            tolerance: 0.0,
            passed: false,
            note: note.clone(),
        };
        return vec![unmeasured("rate Mbit/s", expected_bps / 1e6)];
    }
    let (first, _) = seen.first_arrivals();
    let inside = first.iter().flatten().filter(|&&at| at >= from_ns && at < until_ns).count();
    let mean = direction.mean_loss();
    let reaching = (1.0 - mean) * (1.0 - outage_share(direction, from_ns, until_ns, seen.link_start_ns));
    let measured_bps = inside as f64 * frame_bits / window_s / reaching.max(1e-9);
    let queue_bytes = match direction.queue() {
        Some(QueueLimit::Bytes(bytes)) => bytes / seen.frame_bytes * seen.frame_bytes,
        Some(QueueLimit::Packets(packets)) => u64::from(packets) * seen.frame_bytes,
        None => 0,
    };
    let shallow = queue_bytes < 3 * seen.frame_bytes;
    let noise = SIGMAS * loss_deviation(direction.loss(), mean, inside) / reaching.max(1e-9) + 1.5 / inside.max(1) as f64;
    // Evenly spaced arrivals leave a queue of one or two packets idle until the next one comes.
    let idle = if shallow { max_bps / offered_bps } else { 0.0 };
    let mut rows = vec![row(
        name,
        "rate Mbit/s",
        expected_bps / 1e6,
        measured_bps / 1e6,
        expected_bps / 1e6 * (0.02 + noise + idle),
        format!("{inside} packets"),
    )];
    if let RateTimeline::Constant { bps } = direction.rate() {
        // The quiet delay includes a small frame's serialisation; the queue counts the frame being sent.
        let small_ns = 106.0 * 8e9 / *bps as f64;
        let mut waits: Vec<i64> = seen
            .delays_ns()
            .into_iter()
            .filter(|&(n, d)| seen.sent_ns[n] > first_ns + fill_ns && !is_reordered(direction, d))
            .map(|(_, d)| d - base_ns + small_ns as i64)
            .collect();
        let kilobytes = quantile(&mut waits, 0.5) as f64 * *bps as f64 / 8e9 / 1e3;
        let expected = queue_bytes as f64 / 1e3;
        let tolerance = 0.03 * expected + 1.5 * seen.frame_bytes as f64 / 1e3 + DELAY_TOLERANCE_MS * *bps as f64 / 8e6;
        rows.push(row(name, "queue kB", expected, kilobytes, tolerance, format!("{} packets", waits.len())));
    }
    rows
}

/// Share of a time window that lies in outages.
fn outage_share(direction: &Direction, from_ns: u64, until_ns: u64, start_ns: u64) -> f64 {
    if direction.outages().is_empty() || until_ns <= from_ns {
        return 0.0;
    }
    let step = ((until_ns - from_ns) / 10_000).max(1);
    let shift = start_ns + direction.delay_ns();
    let (mut down, mut all) = (0u32, 0u32);
    let mut t = from_ns;
    while t < until_ns {
        down += u32::from(direction.outages().contains(t.saturating_sub(shift)));
        all += 1;
        t += step;
    }
    f64::from(down) / f64::from(all.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Link, Verdict, Way};
    use crate::scenario::{DirectionSpec, GilbertElliott, Outage, Scenario};

    /// What ideal probes see over a link, which delays everything by `wrong_ns` more than it should.
    fn observe(scenario: &Scenario, frame_bytes: u64, count: u64, spacing_ns: u64, wrong_ns: u64) -> Observations {
        let start = 1_000_000_000u64;
        let mut link = Link::new(scenario, Way::Forward, start);
        let mut seen = Observations { link_start_ns: start, frame_bytes, ..Observations::default() };
        for n in 0..count {
            let now = start + 100_000_000 + n * spacing_ns;
            seen.sent_ns.push(now);
            if let Verdict::Deliver { due_ns, duplicate_due_ns } = link.offer(now, frame_bytes as u32) {
                seen.arrivals.push((n, due_ns + wrong_ns));
                seen.arrivals.extend(duplicate_due_ns.map(|due| (n, due + wrong_ns)));
            }
        }
        seen.arrivals.sort_by_key(|a| a.1);
        seen
    }

    fn busy_path() -> DirectionSpec {
        DirectionSpec {
            rate_bps: Some(100_000_000),
            queue_ms: Some(20.0),
            delay_ms: 30.0,
            jitter_ms: 2.0,
            reorder: 0.02,
            duplicate: 0.01,
            gilbert_elliott: Some(GilbertElliott { good_to_bad: 0.02, bad_to_good: 0.3, loss_good: 0.0, loss_bad: 1.0 }),
            outages: vec![Outage { start_ms: 1000.0, duration_ms: 200.0, every_ms: None }],
            ..DirectionSpec::default()
        }
    }

    fn rows_over(played: DirectionSpec, wrong_ns: u64) -> Vec<Row> {
        let expected = Scenario::new("t", "", 3, busy_path(), None).expect("valid");
        let played = Scenario::new("t", "", 3, played, None).expect("valid");
        let quiet = observe(&played, 106, 10_000, 500_000, wrong_ns);
        let full = observe(&played, 1514, 30_000, 86_514, wrong_ns);
        let mut rows = quiet_rows("forward", expected.forward(), &quiet);
        let base = base_delay_ns(expected.forward(), &quiet);
        rows.extend(overload_rows("forward", expected.forward(), &full, base, 200_000_000));
        rows
    }

    fn failed(rows: &[Row]) -> Vec<&str> {
        rows.iter().filter(|r| !r.passed).map(|r| r.quantity.as_str()).collect()
    }

    #[test]
    fn a_path_that_is_as_it_says_passes_in_every_row() {
        let rows = rows_over(busy_path(), 0);
        assert_eq!(failed(&rows), [""; 0], "{rows:#?}");
        assert_eq!(rows.len(), 9, "{rows:#?}");
    }

    #[test]
    fn each_wrong_figure_fails_in_its_own_row() {
        let burst = |good_to_bad, bad_to_good| Some(GilbertElliott { good_to_bad, bad_to_good, loss_good: 0.0, loss_bad: 1.0 });
        let cases: [(&str, DirectionSpec, u64); 8] = [
            ("delay ms", busy_path(), 700_000),
            ("jitter ms", DirectionSpec { jitter_ms: 3.0, ..busy_path() }, 0),
            ("loss %", DirectionSpec { gilbert_elliott: burst(0.04, 0.3), ..busy_path() }, 0),
            ("mean burst, packets", DirectionSpec { gilbert_elliott: burst(0.033, 0.5), ..busy_path() }, 0),
            ("packets in outages", DirectionSpec { outages: Vec::new(), ..busy_path() }, 0),
            ("duplicates %", DirectionSpec { duplicate: 0.02, ..busy_path() }, 0),
            ("reordered %", DirectionSpec { reorder: 0.03, ..busy_path() }, 0),
            ("queue kB", DirectionSpec { queue_ms: Some(22.0), ..busy_path() }, 0),
        ];
        for (quantity, played, wrong_ns) in cases {
            let rows = rows_over(played, wrong_ns);
            // More or less loss than expected also changes the rate that arrives.
            let is_loss = ["loss %", "packets in outages"].contains(&quantity);
            let others: Vec<&str> = failed(&rows).into_iter().filter(|&q| q != quantity && !(is_loss && q == "rate Mbit/s")).collect();
            assert!(failed(&rows).contains(&quantity) && others.is_empty(), "{quantity}: {rows:#?}");
        }
        let slow = rows_over(DirectionSpec { rate_bps: Some(92_000_000), ..busy_path() }, 0);
        assert!(failed(&slow).contains(&"rate Mbit/s"), "{slow:#?}");
    }

    #[test]
    fn too_little_load_is_no_measurement() {
        let scenario = Scenario::new("t", "", 3, busy_path(), None).expect("valid");
        let seen = observe(&scenario, 1514, 1000, 121_120, 0);
        let rows = overload_rows("forward", scenario.forward(), &seen, 30_000_000, 10_000_000);
        assert!(rows.len() == 1 && rows[0].measured.is_none() && !rows[0].passed, "{rows:?}");
    }
}
