//! Times, sizes and ids for people, in the words crictl uses.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

/// How much of an id people are shown.
const ID_LENGTH: usize = 13;

/// The beginning of an id, without the name of the hash.
pub(crate) fn short_id(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..ID_LENGTH).unwrap_or(id)
}

/// "3 minutes ago"; `at_ns` and `now` count from 1970.
pub(crate) fn ago(at_ns: i64, now: Timestamp) -> String {
    let passed = now.as_nanosecond() - i128::from(at_ns);
    let passed = Duration::from_nanos(u64::try_from(passed.max(0)).unwrap_or(u64::MAX));
    format!("{} ago", length(passed))
}

fn length(passed: Duration) -> String {
    let seconds = passed.as_secs();
    let minutes = seconds / 60;
    // Hours are rounded, everything else is cut off.
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".into(),
        (_, _, 0..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// Decimal units and three significant digits: "4.26MB".
pub(crate) fn size(bytes: u64) -> String {
    significant(bytes, 3)
}

/// The same with four: "4.262MB".
pub(crate) fn long_size(bytes: u64) -> String {
    significant(bytes, 4)
}

fn significant(bytes: u64, digits: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown of it")]
    let mut value = bytes as f64;
    let mut unit = 0;
    let rounded = |value: f64| {
        let before_point = if value >= 100.0 {
            3
        } else if value >= 10.0 {
            2
        } else {
            1
        };
        format!("{value:.*}", digits.saturating_sub(before_point))
    };
    // Rounding may carry into the next unit: 999.96 kB is 1 MB.
    while unit + 1 < UNITS.len() && rounded(value).parse().unwrap_or(value) >= 1000.0 {
        value /= 1000.0;
        unit += 1;
    }
    let text = rounded(value);
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", UNITS[unit])
}

/// RFC 3339 in local time, as precise as it is; `None` is the year one, crictl's "never".
pub(crate) fn time(at_ns: Option<i64>, zone: &TimeZone) -> String {
    let Some(at) = at_ns.and_then(|ns| Timestamp::from_nanosecond(ns.into()).ok()) else {
        return "0001-01-01T00:00:00Z".into();
    };
    let local = at.to_zoned(zone.clone());
    let offset = if local.offset().is_zero() { "Z" } else { "%:z" };
    strtime::format(format!("%Y-%m-%dT%H:%M:%S%.f{offset}"), &local)
        .expect("every time has these parts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_as_crictl_tells_them() {
        let (minute, hour, day) = (60, 3600, 24 * 3600);
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (minute, "About a minute"),
            (2 * minute - 1, "About a minute"),
            (59 * minute + 59, "59 minutes"),
            (hour, "About an hour"),
            (hour + 30 * minute, "2 hours"),
            (47 * hour, "47 hours"),
            (48 * hour, "2 days"),
            (13 * day, "13 days"),
            (14 * day, "2 weeks"),
            (60 * day, "2 months"),
            (729 * day, "24 months"),
            (730 * day, "2 years"),
        ];
        for (seconds, want) in cases {
            assert_eq!(length(Duration::from_secs(seconds)), want, "{seconds} s");
        }
    }

    #[test]
    fn the_future_is_just_now() {
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(ago(2_000_000_000_000, now), "Less than a second ago");
        assert_eq!(ago(970_000_000_000, now), "30 seconds ago");
    }

    #[test]
    fn sizes_have_three_digits() {
        let cases = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (4_262_003, "4.26MB"),
            (72_900_000, "72.9MB"),
            (999_960, "1MB"),
            (100_000_000, "100MB"),
            (1_500_000_000_000, "1.5TB"),
            (u64::MAX, "18.4EB"),
        ];
        for (bytes, want) in cases {
            assert_eq!(size(bytes), want, "{bytes}");
        }
        assert_eq!(long_size(4_262_003), "4.262MB");
    }

    #[test]
    fn ids_are_cut_and_lose_the_name_of_their_hash() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789abc");
        assert_eq!(short_id("0123456789abcdef"), "0123456789abc");
        assert_eq!(short_id("short"), "short");
    }

    #[test]
    fn times_are_as_precise_as_they_are() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let cases = [
            (Some(0), TimeZone::UTC, "1970-01-01T00:00:00Z"),
            (Some(1_500_000_000), TimeZone::UTC, "1970-01-01T00:00:01.5Z"),
            (Some(1_000_000_001), zone, "1970-01-01T02:00:01.000000001+02:00"),
            (None, TimeZone::UTC, "0001-01-01T00:00:00Z"),
        ];
        for (at, zone, want) in cases {
            assert_eq!(time(at, &zone), want);
        }
    }
}
