//! What changes with time on a link: the bottleneck's rate, and outages. Times are nanoseconds since the link started.

use crate::scenario::{Outage, RATE_BPS_MAX, RATE_TRACE_STEPS_MAX, RateStep};

/// Bit-nanoseconds-per-second: the work unit that keeps rate arithmetic in integers (bits × 10^9).
const NANOSECONDS_PER_SECOND: u128 = 1_000_000_000;

/// One stretch of constant rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Start in nanoseconds since the start of the link (of the period, if the timeline repeats).
    pub start_ns: u64,
    /// Rate in bits per second; 0 stops the link.
    pub bps: u64,
}

/// The rate of a bottleneck over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateTimeline {
    /// Frames pass without taking time.
    Unlimited,
    /// One rate for ever.
    Constant {
        /// Bits per second, above 0.
        bps: u64,
    },
    /// Steps.
    Steps {
        /// At least one; the first starts at 0; starts ascend.
        segments: Vec<Segment>,
        /// Length after which the first segment comes again; `None`: the last one stays (and its rate is above 0).
        period_ns: Option<u64>,
    },
}

impl RateTimeline {
    /// Checks steps and builds a timeline; `Err` says what is wrong with them.
    pub(crate) fn from_steps(steps: &[RateStep], period_ms: Option<f64>) -> Result<Self, String> {
        if steps.len() > RATE_TRACE_STEPS_MAX {
            return Err(format!("{} steps; at most {RATE_TRACE_STEPS_MAX}", steps.len()));
        }
        let mut segments: Vec<Segment> = Vec::with_capacity(steps.len());
        for step in steps {
            if !(step.t_ms >= 0.0 && step.t_ms <= 1e12) {
                return Err(format!("t_ms {} is not within 0..=1e12", step.t_ms));
            }
            if !(step.mbps >= 0.0 && step.mbps * 1e6 <= RATE_BPS_MAX as f64) {
                return Err(format!("mbps {} at t_ms {} is not within 0..={}", step.mbps, step.t_ms, RATE_BPS_MAX / 1_000_000));
            }
            let segment = Segment { start_ns: (step.t_ms * 1e6).round() as u64, bps: (step.mbps * 1e6).round() as u64 };
            match segments.last() {
                None if segment.start_ns != 0 => return Err(format!("the first step must start at t_ms 0, not {}", step.t_ms)),
                Some(before) if before.start_ns >= segment.start_ns => {
                    return Err(format!("t_ms must ascend, but {} follows {}", step.t_ms, before.start_ns as f64 / 1e6));
                }
                _ => segments.push(segment),
            }
        }
        let last = *segments.last().ok_or("has no steps")?;
        let period_ns = match period_ms {
            None if last.bps == 0 => {
                return Err("the last step's rate is 0 and nothing follows it; add a step or rate_trace_period_ms".into());
            }
            None => None,
            Some(ms) if ms.is_finite() && ms * 1e6 > last.start_ns as f64 && ms <= 1e12 => Some((ms * 1e6).round() as u64),
            Some(ms) => return Err(format!("rate_trace_period_ms {ms} must be after the last step at {} ms", last.start_ns as f64 / 1e6)),
        };
        if segments.iter().all(|s| s.bps == 0) {
            return Err("every step's rate is 0".into());
        }
        Ok(Self::Steps { segments, period_ns })
    }

    /// Highest rate in bits per second; `None` if unlimited.
    #[must_use]
    pub fn max_bps(&self) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Constant { bps } => Some(*bps),
            Self::Steps { segments, .. } => segments.iter().map(|s| s.bps).max(),
        }
    }

    /// Rate in the long run in bits per second: the mean of a repeating timeline, the last rate of another; `None` if unlimited.
    #[must_use]
    pub fn long_run_bps(&self) -> Option<f64> {
        match self {
            Self::Unlimited => None,
            Self::Constant { bps } => Some(*bps as f64),
            Self::Steps { segments, period_ns: None } => segments.last().map(|s| s.bps as f64),
            Self::Steps { period_ns: Some(period), .. } => self.bits_between(0, *period).map(|bits| bits * 1e9 / *period as f64),
        }
    }

    /// Rate at a time in bits per second; `None` if unlimited.
    #[must_use]
    pub fn bps_at(&self, t_ns: u64) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Constant { bps } => Some(*bps),
            Self::Steps { .. } => Some(self.stretch_at(t_ns).0),
        }
    }

    /// Bits that fit through between two times; `None` if unlimited.
    #[must_use]
    pub fn bits_between(&self, from_ns: u64, to_ns: u64) -> Option<f64> {
        self.max_bps()?;
        let mut bits = 0.0;
        let mut at = from_ns;
        while at < to_ns {
            let (bps, end) = self.stretch_at(at);
            let until = end.min(to_ns);
            bits += bps as f64 * (until - at) as f64 / 1e9;
            at = until;
        }
        Some(bits)
    }

    /// When a frame of `bytes` that starts at `start_ns` has left, in nanoseconds rounded up. `credit` carries the rounding from frame to
    /// frame of one busy period, so that no rate is lost to it: pass 0 for the first, then what the last call left.
    #[must_use]
    pub(crate) fn finish_ns(&self, start_ns: u64, bytes: u32, credit: &mut u128) -> u64 {
        if matches!(self, Self::Unlimited) {
            return start_ns;
        }
        let mut work = (u128::from(bytes) * 8 * NANOSECONDS_PER_SECOND).saturating_sub(*credit);
        let mut at = start_ns;
        loop {
            let (bps, end) = self.stretch_at(at);
            if bps > 0 {
                let bps = u128::from(bps);
                let needed_ns = work.div_ceil(bps);
                if needed_ns <= u128::from(end - at) {
                    *credit = needed_ns * bps - work;
                    return at + needed_ns as u64;
                }
                work -= bps * u128::from(end - at);
            }
            at = end;
        }
    }

    /// Rate at a time and the time until which it holds. Must not be called on an unlimited timeline (gives the highest rate there is).
    fn stretch_at(&self, t_ns: u64) -> (u64, u64) {
        match self {
            Self::Unlimited => (u64::MAX, u64::MAX),
            Self::Constant { bps } => (*bps, u64::MAX),
            Self::Steps { segments, period_ns } => {
                let (base, within) = match period_ns {
                    Some(period) => (t_ns - t_ns % period, t_ns % period),
                    None => (0, t_ns),
                };
                let index = segments.partition_point(|s| s.start_ns <= within) - 1;
                let end = match segments.get(index + 1) {
                    Some(next) => base + next.start_ns,
                    None => period_ns.map_or(u64::MAX, |period| base + period),
                };
                (segments[index].bps, end)
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OutageNs {
    start_ns: u64,
    duration_ns: u64,
    every_ns: Option<u64>,
}

/// The times in which nothing gets through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outages {
    list: Vec<OutageNs>,
}

impl Outages {
    pub(crate) fn new(outages: &[Outage]) -> Result<Self, String> {
        let mut list = Vec::with_capacity(outages.len());
        for outage in outages {
            let ok = |ms: f64| (0.0..=1e12).contains(&ms);
            if !ok(outage.start_ms) || !ok(outage.duration_ms) || outage.duration_ms == 0.0 {
                return Err(format!(
                    "start_ms {} and duration_ms {} must be finite, the duration above 0",
                    outage.start_ms, outage.duration_ms
                ));
            }
            if let Some(every) = outage.every_ms
                && (!ok(every) || every <= outage.duration_ms)
            {
                return Err(format!("every_ms {every} must be more than duration_ms {}", outage.duration_ms));
            }
            let ns = |ms: f64| (ms * 1e6).round() as u64;
            list.push(OutageNs { start_ns: ns(outage.start_ms), duration_ns: ns(outage.duration_ms), every_ns: outage.every_ms.map(ns) });
        }
        Ok(Self { list })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a time lies in an outage (start included, end excluded).
    #[must_use]
    pub fn contains(&self, t_ns: u64) -> bool {
        self.list.iter().any(|o| {
            let Some(since) = t_ns.checked_sub(o.start_ns) else { return false };
            o.every_ns.map_or(since, |every| since % every) < o.duration_ns
        })
    }

    /// Share of time in the long run; outages that do not repeat do not count. Overlaps count twice, up to 1.
    #[must_use]
    pub fn long_run_share(&self) -> f64 {
        let share: f64 = self.list.iter().filter_map(|o| o.every_ns.map(|every| o.duration_ns as f64 / every as f64)).sum();
        share.min(1.0)
    }

    /// Starts and ends up to a time, in order: (nanoseconds, whether nothing gets through from then on). For players that switch.
    #[must_use]
    pub fn switches_until(&self, end_ns: u64) -> Vec<(u64, bool)> {
        let mut times = Vec::new();
        for outage in &self.list {
            let mut start = outage.start_ns;
            while start < end_ns {
                times.push(start);
                times.push(start + outage.duration_ns);
                match outage.every_ns {
                    Some(every) => start += every,
                    None => break,
                }
            }
        }
        times.sort_unstable();
        times.dedup();
        let mut switches: Vec<(u64, bool)> = Vec::new();
        for t in times {
            let down = self.contains(t);
            if switches.last().map_or(down, |last| last.1 != down) {
                switches.push((t, down));
            }
        }
        switches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(list: &[(f64, f64)], period_ms: Option<f64>) -> RateTimeline {
        let steps: Vec<RateStep> = list.iter().map(|&(t_ms, mbps)| RateStep { t_ms, mbps }).collect();
        RateTimeline::from_steps(&steps, period_ms).expect("steps are valid")
    }

    #[test]
    fn a_frame_takes_its_bits_over_the_rate() {
        let timeline = RateTimeline::Constant { bps: 8_000_000 };
        assert_eq!(timeline.finish_ns(5, 1000, &mut 0), 1_000_005);
    }

    #[test]
    fn rounding_is_carried_so_that_the_rate_is_exact() {
        // 1514 bytes at 300 Mbit/s take 40,373.33… ns: three of them take 121,120 ns, not 3 × 40,374.
        let timeline = RateTimeline::Constant { bps: 300_000_000 };
        let mut credit = 0;
        let mut at = 0;
        for _ in 0..3 {
            at = timeline.finish_ns(at, 1514, &mut credit);
        }
        assert_eq!(at, 121_120);
    }

    #[test]
    fn a_frame_across_a_step_uses_both_rates() {
        // 1000 bytes = 8000 bits. 8 Mbit/s until 0.5 ms: 4000 bits; then 4 Mbit/s: 4000 bits take 1 ms.
        let timeline = steps(&[(0.0, 8.0), (0.5, 4.0)], None);
        assert_eq!(timeline.finish_ns(0, 1000, &mut 0), 1_500_000);
    }

    #[test]
    fn a_stopped_link_holds_until_it_goes_on() {
        let timeline = steps(&[(0.0, 8.0), (10.0, 0.0), (20.0, 8.0)], None);
        assert_eq!(timeline.finish_ns(15_000_000, 1000, &mut 0), 21_000_000);
    }

    #[test]
    fn a_period_repeats() {
        let timeline = steps(&[(0.0, 8.0), (10.0, 0.0)], Some(20.0));
        assert_eq!(timeline.bps_at(25_000_000), Some(8_000_000));
        assert_eq!(timeline.bps_at(35_000_000), Some(0));
        assert_eq!(timeline.finish_ns(30_000_000, 1000, &mut 0), 41_000_000);
        assert_eq!(timeline.long_run_bps(), Some(4e6));
    }

    #[test]
    fn bad_steps_are_refused() {
        let refuse = |list: &[(f64, f64)], period| {
            let steps: Vec<RateStep> = list.iter().map(|&(t_ms, mbps)| RateStep { t_ms, mbps }).collect();
            RateTimeline::from_steps(&steps, period).unwrap_err()
        };
        assert!(refuse(&[(1.0, 5.0)], None).contains("start at t_ms 0"));
        assert!(refuse(&[(0.0, 5.0), (0.0, 6.0)], None).contains("ascend"));
        assert!(refuse(&[(0.0, 5.0), (9.0, 0.0)], None).contains("last step"));
        assert!(refuse(&[(0.0, 5.0), (9.0, 1.0)], Some(9.0)).contains("after the last step"));
        assert!(refuse(&[(0.0, f64::NAN)], None).contains("mbps"));
        assert!(refuse(&[(0.0, 0.0)], Some(9.0)).contains("every step"));
    }

    #[test]
    fn outages_include_their_start_and_exclude_their_end() {
        let outages = Outages::new(&[Outage { start_ms: 10.0, duration_ms: 5.0, every_ms: Some(100.0) }]).expect("valid");
        for (t_ms, down) in [(9.999, false), (10.0, true), (14.999, true), (15.0, false), (110.0, true), (115.0, false)] {
            assert_eq!(outages.contains((t_ms * 1e6) as u64), down, "{t_ms} ms");
        }
        assert!((outages.long_run_share() - 0.05).abs() < 1e-12);
        assert_eq!(
            outages.switches_until(120_000_000),
            [(10_000_000, true), (15_000_000, false), (110_000_000, true), (115_000_000, false)]
        );
    }
}
