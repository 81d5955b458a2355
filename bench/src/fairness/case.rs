//! Who meets whom, and what the share of each must be.

use serde::Serialize;

/// One of the two flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// `tradewind send --policy …`.
    Tradewind(&'static str),
    /// A bulk flow of the kernel's TCP with this congestion control.
    Tcp(&'static str),
}

impl Party {
    /// Such as `fair` or `TCP cubic`.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Tradewind(policy) => policy.to_owned(),
            Self::Tcp(algorithm) => format!("TCP {algorithm}"),
        }
    }
}

/// What issue 3 asks of the shares.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// Jain's index at least this.
    JainAtLeast(f64),
    /// Neither under this share of the link.
    NeitherUnder(f64),
    /// The newcomer has at most this share of the link.
    NewcomerAtMost(f64),
    /// The newcomer has so many times the other's share, within these factors.
    RatioWithin(f64, f64),
    /// Nothing is asked; the figures are told.
    None,
}

impl Bar {
    /// As text beside the figures.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::JainAtLeast(least) => format!("Jain's index >= {least}"),
            Self::NeitherUnder(least) => format!("neither under {:.0} % of the link", least * 100.0),
            Self::NewcomerAtMost(most) => format!("newcomer <= {:.0} % of the link", most * 100.0),
            Self::RatioWithin(least, most) => format!("newcomer about twice the other (x{least} to x{most})"),
            Self::None => "no bar".to_owned(),
        }
    }

    /// Whether the shares (first flow, newcomer) reach it; `None` if there is no bar.
    #[must_use]
    pub fn is_met(self, shares: [f64; 2]) -> Option<bool> {
        match self {
            Self::JainAtLeast(least) => Some(jain(shares) >= least),
            Self::NeitherUnder(least) => Some(shares.iter().all(|&share| share >= least)),
            Self::NewcomerAtMost(most) => Some(shares[1] <= most),
            Self::RatioWithin(least, most) => Some((least..=most).contains(&(shares[1] / shares[0]))),
            Self::None => None,
        }
    }
}

/// Jain's index of two shares: (Σx)² / (n Σx²), 1 if equal, 1/2 if one has all (Jain, Chiu, Hawe: DEC-TR-301, 1984).
#[must_use]
pub fn jain(shares: [f64; 2]) -> f64 {
    tradewind_sim::battery::jain(&shares)
}

/// An encounter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Who is there first.
    pub first: Party,
    /// Who comes later.
    pub newcomer: Party,
    /// Round-trip times of the two, ms.
    pub rtt_ms: [f64; 2],
    /// What must hold.
    pub bar: Bar,
}

const FAIR: Party = Party::Tradewind("fair");
const LOW: Party = Party::Tradewind("low");
const HIGH: Party = Party::Tradewind("high");
const CUBIC: Party = Party::Tcp("cubic");
const BBR: Party = Party::Tcp("bbr");

/// The first round-trip time of a pair with unequal ones is so many times shorter.
const UNEQUAL: f64 = 10.0;

/// Every encounter at each of the round-trip times, and one of unequal ones.
#[must_use]
pub fn cases(rtts_ms: &[f64], only: Option<&str>) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |first: Party, newcomer: Party, rtt_ms: [f64; 2], bar| {
        let rtt = if rtt_ms[0] == rtt_ms[1] { rtt_ms[0].to_string() } else { format!("{}:{}", rtt_ms[0], rtt_ms[1]) };
        cases.push(Case { name: format!("{} beside {}, {rtt} ms", newcomer.name(), first.name()), first, newcomer, rtt_ms, bar });
    };
    for &rtt in rtts_ms {
        let equal = [rtt, rtt];
        add(FAIR, FAIR, equal, Bar::JainAtLeast(0.95));
        add(FAIR, HIGH, equal, Bar::RatioWithin(1.5, 2.7));
        add(CUBIC, FAIR, equal, Bar::NeitherUnder(0.25));
        add(CUBIC, LOW, equal, Bar::NewcomerAtMost(0.10));
        add(CUBIC, HIGH, equal, Bar::RatioWithin(1.5, 2.7));
        add(BBR, FAIR, equal, Bar::None);
    }
    if let Some(&rtt) = rtts_ms.first() {
        add(FAIR, FAIR, [rtt, rtt * UNEQUAL], Bar::JainAtLeast(0.95));
        add(FAIR, FAIR, [rtt * UNEQUAL, rtt], Bar::JainAtLeast(0.95));
    }
    cases.retain(|case| only.is_none_or(|part| case.name.contains(part)));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_is_one_for_equals_and_a_half_for_all_to_one() {
        assert_eq!(jain([0.4, 0.4]), 1.0);
        assert_eq!(jain([0.0, 0.9]), 0.5);
        assert_eq!(jain([0.0, 0.0]), 0.0);
        assert!((jain([0.2, 0.4]) - 0.9).abs() < 1e-9);
    }

    #[test]
    fn bars_have_a_side_each() {
        for (bar, met, missed) in [
            (Bar::JainAtLeast(0.95), [0.4, 0.5], [0.3, 0.6]),
            (Bar::NeitherUnder(0.25), [0.25, 0.7], [0.24, 0.7]),
            (Bar::NewcomerAtMost(0.1), [0.8, 0.1], [0.8, 0.11]),
            (Bar::RatioWithin(1.5, 2.7), [0.3, 0.6], [0.4, 0.5]),
        ] {
            assert_eq!((bar.is_met(met), bar.is_met(missed)), (Some(true), Some(false)), "{}", bar.text());
        }
        assert_eq!(Bar::None.is_met([0.0, 1.0]), None);
    }

    #[test]
    fn names_tell_cases_apart() {
        let all = cases(&[20.0, 100.0], None);
        assert_eq!(all.len(), 14);
        assert!(all.iter().enumerate().all(|(at, case)| all[..at].iter().all(|other| other.name != case.name)));
        assert_eq!(cases(&[20.0], Some("low beside TCP cubic")).len(), 1);
        assert!(all.iter().any(|case| case.name == "fair beside fair, 20:200 ms"));
    }
}
