//! Rates as users write them: `300M`, `1.5G`, `800k`, `2500000`; bits per second, decimal prefixes.

use std::fmt;
use std::str::FromStr;

use tradewind_api::limits::{RATE_BPS_MAX, RATE_BPS_MIN};

use crate::units;

/// A rate in bits per second, within what the server accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BitRate(u64);

/// A text that is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RateError {
    /// Not a number with a prefix.
    #[error("expected bits per second with an optional k, M, G or T, for example 300M or 1.5G")]
    Form,
    /// Bytes per second.
    #[error("rates are in bits per second, not bytes: write {0}")]
    Bytes(String),
    /// Too small or too large.
    #[error("must be from {RATE_BPS_MIN} bit/s to {} Tbit/s", RATE_BPS_MAX / 1_000_000_000_000)]
    Range,
}

impl BitRate {
    /// Bits per second.
    pub(crate) const fn bits_per_s(self) -> u64 {
        self.0
    }
}

/// A rate, or the word `none` that takes a bound away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateOrNone(Option<BitRate>);

impl RateOrNone {
    /// Bits per second.
    pub(crate) fn bits_per_s(self) -> Option<u64> {
        self.0.map(BitRate::bits_per_s)
    }
}

impl FromStr for RateOrNone {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        if text.trim().eq_ignore_ascii_case("none") { Ok(Self(None)) } else { text.parse().map(|rate| Self(Some(rate))) }
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&units::rate(self.0 as f64))
    }
}

impl FromStr for BitRate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, rest) = text.split_at(digits);
        let mut unit = rest.trim_start().chars();
        let (exponent, after) = match unit.clone().next() {
            Some('k' | 'K') => (3, {
                unit.next();
                unit.as_str()
            }),
            Some('M') => (6, {
                unit.next();
                unit.as_str()
            }),
            Some('G') => (9, {
                unit.next();
                unit.as_str()
            }),
            Some('T') => (12, {
                unit.next();
                unit.as_str()
            }),
            _ => (0, unit.as_str()),
        };
        let value = decimal(number, exponent).ok_or(RateError::Form)?;
        match after {
            "" | "bit/s" | "bps" | "b/s" | "bit" => {}
            "B/s" | "B" | "Bps" => {
                let bits = value.saturating_mul(8);
                return Err(RateError::Bytes(units::rate(bits as f64).replace(' ', "")));
            }
            _ => return Err(RateError::Form),
        }
        if (RATE_BPS_MIN..=RATE_BPS_MAX).contains(&value) { Ok(Self(value)) } else { Err(RateError::Range) }
    }
}

/// `12.5` and 3 make 12 500. Exact: no floating point, so that the number shown by the server is the number typed.
fn decimal(number: &str, exponent: usize) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let fraction = if fraction.len() > exponent {
        // Digits below one bit per second must be zeros.
        let (kept, below) = fraction.split_at(exponent);
        below.bytes().all(|b| b == b'0').then_some(kept)?
    } else {
        fraction
    };
    let zeros = exponent - fraction.len();
    let digits: u64 = format!("{whole}{fraction}").parse().ok()?;
    digits.checked_mul(10u64.checked_pow(u32::try_from(zeros).ok()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_as_people_write_them() {
        for (text, bits) in [
            ("300M", 300_000_000),
            ("1.5G", 1_500_000_000),
            ("800k", 800_000),
            ("800K", 800_000),
            ("2500000", 2_500_000),
            ("10T", 10_000_000_000_000),
            ("0.25M", 250_000),
            ("9000.0", 9000),
            ("1.234567 Mbit/s", 1_234_567),
            ("40Gbps", 40_000_000_000),
            ("8000", RATE_BPS_MIN),
        ] {
            assert_eq!(text.parse::<BitRate>().unwrap().bits_per_s(), bits, "{text}");
        }
        assert_eq!("none".parse::<RateOrNone>().unwrap().bits_per_s(), None);
        assert_eq!("5M".parse::<RateOrNone>().unwrap().bits_per_s(), Some(5_000_000));
        assert_eq!("nothing".parse::<RateOrNone>(), Err(RateError::Form));
    }

    #[test]
    fn what_is_no_rate_says_why() {
        for text in ["", "fast", "M", ".5M", "5.", "1.2.3M", "-5M", "5m", "5 X", "1.2345", "99999999999999999999G", "1e6", "5MiB/s"] {
            assert_eq!(text.parse::<BitRate>(), Err(RateError::Form), "{text}");
        }
        for text in ["7999", "0", "10.000000000001T", "18446744073709551615"] {
            assert_eq!(text.parse::<BitRate>(), Err(RateError::Range), "{text}");
        }
        let error = "30MB/s".parse::<BitRate>().unwrap_err().to_string();
        assert!(error.contains("240.0Mbit/s") && error.contains("bits"), "{error}");
        assert!("240.0Mbit/s".parse::<BitRate>().is_ok(), "the advice given is itself accepted");
    }
}
