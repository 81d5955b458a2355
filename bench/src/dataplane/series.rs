//! What `tradewind send --json` told while it ran: the rate, what was lost and the round trip over the seconds of a transfer.

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::Value;

/// Most intervals that are kept.
const POINTS_MAX: usize = 100;
/// A shorter interval is put to the one before: blocks of 1 MiB that arrive in it would look like a rate.
const INTERVAL_MIN_S: f64 = 0.1;
/// Of the packets of a mean interval; where fewer were sent, as at the end, what is found to be lost was sent long before.
const PACKETS_MIN: f64 = 0.25;
/// Longest round trip that is told apart.
const ROUND_TRIP_MAX_US: u64 = 600_000_000;

/// The intervals of a transfer, one after the other; all lists are as long.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Series {
    /// Which of the turns, from 1 on: the one whose goodput is next to the median.
    pub(crate) turn: usize,
    /// When each interval ended, since the first packet.
    seconds: Vec<f64>,
    /// What the sender wanted to send at its end, IP packets.
    sending_mbit_per_s: Vec<f64>,
    /// Payload that came to the receiver in whole blocks in the interval.
    arrived_mbit_per_s: Vec<f64>,
    /// Packets found to be lost in the interval over packets sent in it; none where less than a quarter of the usual number was sent.
    lost: Vec<Option<f64>>,
    /// DATA packets sent again over all DATA packets, from the beginning on.
    again: Vec<f64>,
    /// Smoothed, at the interval's end.
    round_trip_ms: Vec<f64>,
    /// Least of all round trips of the transfer.
    round_trip_least_ms: f64,
}

/// How much longer round trips were than the least one, by all that was told: a queue somewhere, and what the ends take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct OverLeast {
    /// Median.
    pub(crate) p50: f64,
    /// Nineteen of twenty are shorter.
    pub(crate) p95: f64,
    /// How many there were.
    samples: u64,
}

/// What a moment told.
#[derive(Clone, Copy, Default)]
struct Moment {
    seconds: f64,
    bytes: f64,
    rate_mbit_per_s: f64,
    packets: f64,
    lost: f64,
    again: f64,
    round_trip_ms: f64,
}

impl Moment {
    fn of(event: &Value) -> Result<Self> {
        let field = |name: &str| event[name].as_f64().with_context(|| format!("no {name} in {event}"));
        let packets = field("packets_sent")?;
        Ok(Self {
            seconds: field("elapsed_s")?,
            bytes: field("bytes_sent")?,
            rate_mbit_per_s: field("rate_bps")? / 1e6,
            packets,
            lost: (field("loss")? * packets).round(),
            again: field("retransmitted_share")?,
            round_trip_ms: field("rtt_ms")?,
        })
    }
}

/// Four digits behind the point are more than any of these figures means.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

impl Series {
    /// Of the events `progress` and the least round trip.
    ///
    /// # Errors
    /// When an event lacks a figure.
    pub(crate) fn of(events: &[Value], round_trip_least_ms: f64) -> Result<Self> {
        let moments = events.iter().map(Moment::of).collect::<Result<Vec<Moment>>>()?;
        let mut series = Self { round_trip_least_ms: rounded(round_trip_least_ms), ..Self::default() };
        let moments = thinned(&moments);
        let mean = moments.last().map_or(0.0, |last| last.packets) / moments.len().saturating_sub(1).max(1) as f64;
        for pair in moments.windows(2) {
            let [before, now] = pair else { continue };
            let packets = now.packets - before.packets;
            series.seconds.push(rounded(now.seconds));
            series.sending_mbit_per_s.push(rounded(now.rate_mbit_per_s));
            series.arrived_mbit_per_s.push(rounded((now.bytes - before.bytes).max(0.0) * 8.0 / (now.seconds - before.seconds) / 1e6));
            // What was taken for lost and came after all is taken back.
            let is_usual = packets > 0.0 && packets >= PACKETS_MIN * mean;
            series.lost.push(is_usual.then(|| rounded((now.lost - before.lost).max(0.0) / packets)));
            series.again.push(rounded(now.again));
            series.round_trip_ms.push(rounded(now.round_trip_ms));
        }
        Ok(series)
    }

    /// The same with the number of its turn, from 1 on.
    pub(crate) fn of_turn(&self, turn: usize) -> Self {
        Self { turn, ..self.clone() }
    }
}

/// The beginning, and the ends of as many intervals as are kept.
fn thinned(moments: &[Moment]) -> Vec<Moment> {
    let step = moments.len().saturating_sub(1).div_ceil(POINTS_MAX).max(1);
    let mut kept = vec![Moment::default()];
    let ends = moments.iter().enumerate().filter(|(index, _)| index % step == 0 || index + 1 == moments.len());
    for (_, moment) in ends.filter(|(_, moment)| moment.seconds > 0.0) {
        match kept.as_slice() {
            [.., before, last] if moment.seconds - last.seconds < INTERVAL_MIN_S && moment.seconds > before.seconds => {
                kept.pop();
                kept.push(*moment);
            }
            [last] if moment.seconds - last.seconds < INTERVAL_MIN_S / 10.0 => {}
            _ => kept.push(*moment),
        }
    }
    kept
}

impl OverLeast {
    /// Of the events `progress`; none if no round trip was told.
    pub(crate) fn of(events: &[Value], round_trip_least_ms: f64) -> Option<Self> {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, ROUND_TRIP_MAX_US, 3).ok()?;
        for round_trip_ms in events.iter().filter_map(|event| event["rtt_ms"].as_f64()).filter(|&ms| ms > 0.0) {
            histogram.saturating_record(((round_trip_ms - round_trip_least_ms).max(0.0) * 1e3).round() as u64);
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Self { p50: at(0.5), p95: at(0.95), samples: histogram.len() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(seconds: f64, mib: u64, packets: u64, loss: f64, rtt_ms: f64) -> Value {
        json!({ "elapsed_s": seconds, "bytes_sent": mib << 20, "rate_bps": 80_000_000, "packets_sent": packets, "loss": loss,
                "retransmitted_share": loss, "rtt_ms": rtt_ms })
    }

    #[test]
    fn each_interval_has_its_own_rate_and_loss() {
        let events = [
            event(0.0, 0, 0, 0.0, 0.0),
            event(0.2, 1, 100, 0.1, 12.0),
            event(0.4, 3, 300, 0.1, 20.0),
            // Ends a moment later: it is put to the last one.
            event(0.45, 4, 400, 0.075, 15.0),
        ];
        let series = Series::of(&events, 10.0).unwrap();
        assert_eq!(series.seconds, [0.2, 0.45]);
        let mib_per_s = [1.0 / 0.2, 3.0 / 0.25].map(|rate: f64| rounded(rate * 8.388_608));
        assert_eq!(series.arrived_mbit_per_s, mib_per_s);
        assert_eq!(series.lost, [Some(0.1), Some(rounded(20.0 / 300.0))]);
        assert_eq!((series.again, series.round_trip_ms, series.sending_mbit_per_s), (vec![0.1, 0.075], vec![12.0, 15.0], vec![80.0, 80.0]));
        // At the end hardly anything is sent, and what was lost before is found.
        let last = event(0.7, 4, 410, 0.2, 15.0);
        assert_eq!(Series::of(&[&events[..], &[last]].concat(), 10.0).unwrap().lost[2], None);
        let over = OverLeast::of(&events, 10.0).unwrap();
        assert_eq!((over.samples, over.p50.round(), over.p95.round()), (3, 5.0, 10.0));
        assert_eq!(OverLeast::of(&events[..1], 10.0), None);
    }

    #[test]
    fn a_long_transfer_is_thinned_and_keeps_its_end() {
        let events: Vec<Value> = (0..=1234u64).map(|number| event(number as f64 * 0.2, number, number * 100, 0.0, 10.0)).collect();
        let series = Series::of(&events, 10.0).unwrap();
        assert!((90..=POINTS_MAX).contains(&series.seconds.len()), "{}", series.seconds.len());
        assert_eq!(series.seconds.last(), Some(&246.8));
        assert!(series.arrived_mbit_per_s.iter().all(|rate| (rate - 5.0 * 8.388_608).abs() < 1e-3), "{:?}", series.arrived_mbit_per_s);
    }

    #[test]
    fn nothing_told_is_an_empty_series_and_a_missing_figure_is_an_error() {
        assert_eq!(Series::of(&[], 0.0).unwrap().seconds, Vec::<f64>::new());
        assert!(Series::of(&[json!({ "elapsed_s": 1.0 })], 0.0).is_err());
    }
}
