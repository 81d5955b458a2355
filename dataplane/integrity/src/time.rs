//! Times in metadata: decimal seconds as s3fs writes and reads them, RFC 3339 as rclone does.

const NANOS: i64 = 1_000_000_000;
const DAY_S: i64 = 86_400;

/// Seconds since 1970 with nine decimals: s3fs reads the fraction as a whole number of nanoseconds, so all nine are needed.
/// Times before 1970 go without a fraction, which would count away from zero.
#[must_use]
pub fn decimal(time_ns: i64) -> String {
    let (seconds, nanos) = (time_ns.div_euclid(NANOS), time_ns.rem_euclid(NANOS));
    if seconds < 0 { seconds.to_string() } else { format!("{seconds}.{nanos:09}") }
}

/// `2026-11-28T16:33:37.000000001Z`.
#[must_use]
pub fn rfc3339(time_ns: i64) -> String {
    let (seconds, nanos) = (time_ns.div_euclid(NANOS), time_ns.rem_euclid(NANOS));
    let (days, of_day) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Reads either form; nanoseconds since 1970. `None` for anything else, and beyond the years 1678 to 2262.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    if text.contains('T') { parse_rfc3339(text) } else { parse_decimal(text) }
}

fn parse_decimal(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = seconds.parse::<i64>().ok()?.checked_mul(NANOS)?;
    let nanos = fraction_ns(fraction)?;
    if seconds.starts_with('-') { whole.checked_sub(nanos) } else { whole.checked_add(nanos) }
}

fn fraction_ns(digits: &str) -> Option<i64> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{:0<9}", digits.get(..digits.len().min(9))?).parse().ok()
}

fn parse_rfc3339(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| number(part, 4));
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone_at = time.find(['Z', '+', '-'])?;
    let (time, zone) = time.split_at(zone_at);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.splitn(3, ':').map(|part| number(part, 2));
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let east_s = match zone {
        "Z" => 0,
        zone => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let seconds = number(hours, 2)? * 3600 + number(minutes, 2)? * 60;
            if zone.starts_with('-') { -seconds } else { seconds }
        }
    };
    let seconds = days(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second - east_s;
    seconds.checked_mul(NANOS)?.checked_add(fraction_ns(fraction)?)
}

fn number(text: &str, digits: usize) -> Option<i64> {
    let plausible = (1..=digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plausible)
}

/// Days since 1970-01-01 of a date of the Gregorian calendar (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The reverse of [`days`].
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (1_700_000_000_000_000_005, "2023-11-14T22:13:20.000000005Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(rfc3339(ns), text);
            assert_eq!(parse(text), Some(ns));
        }
        assert_eq!(decimal(1_700_000_000_000_000_005), "1700000000.000000005");
        assert_eq!(decimal(-1), "-1");
        assert_eq!(parse("2023-11-14T23:13:20.5+01:00"), Some(1_700_000_000_500_000_000));
        assert_eq!(parse("-1.5"), Some(-1_500_000_000));
        for bad in [
            "",
            "x",
            "1.x",
            "9999999999999",
            "2023-13-01T00:00:00Z",
            "2023-01-01T00:00:00",
            "2023-01-01T00:00:00+0100",
            "T",
            "1.\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn both_forms_come_back(ns in any::<i64>()) {
            prop_assert_eq!(parse(&rfc3339(ns)), Some(ns));
            if ns >= 0 {
                prop_assert_eq!(parse(&decimal(ns)), Some(ns));
            }
        }

        #[test]
        fn no_text_panics(text in "[0-9TZ:.+-]{0,40}") {
            let _ = parse(&text);
        }
    }
}
