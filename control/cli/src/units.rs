//! Numbers for people.

use std::time::Duration;

/// Bytes with a binary prefix: `256.0 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would print as "1024.0".
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A rate with a decimal prefix: `283.1 Mbit/s`.
pub(crate) fn rate(bits_per_s: f64) -> String {
    const UNITS: [&str; 5] = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
    let mut value = bits_per_s;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} {}", UNITS[0]) } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A duration in the two largest units that matter: `9.3 s`, `4 min 05 s`, `2 h 07 min`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64().min(59.9)),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A share as a percentage: `5.3 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// Bits per second of so many bytes in such a time; 0 if no time passed.
pub(crate) fn goodput_bps(bytes: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { bytes as f64 * 8.0 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_change_where_the_number_would_grow_a_digit() {
        for (value, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), ((1 << 20) - 1, "1.0 MiB"), (256 << 20, "256.0 MiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(bytes(value), text);
        }
        for (value, text) in
            [(0.0, "0 bit/s"), (999.0, "999 bit/s"), (1000.0, "1.0 kbit/s"), (283_140_000.0, "283.1 Mbit/s"), (2e13, "20.0 Tbit/s")]
        {
            assert_eq!(rate(value), text);
        }
        for (value, text) in [
            (Duration::from_millis(9_340), "9.3 s"),
            (Duration::from_millis(59_990), "59.9 s"),
            (Duration::from_secs(60), "1 min 00 s"),
            (Duration::from_secs(3599), "59 min 59 s"),
            (Duration::from_secs(7620), "2 h 07 min"),
            (Duration::from_secs(90_000), "1 d 01 h"),
        ] {
            assert_eq!(duration(value), text);
        }
    }

    #[test]
    fn goodput_of_no_time_is_no_number_that_breaks_json() {
        assert_eq!(goodput_bps(5, Duration::ZERO), 0.0);
        assert_eq!(goodput_bps(125, Duration::from_secs(1)), 1000.0);
    }
}
