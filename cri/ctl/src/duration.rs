//! Durations as Go writes them, since crictl's users do: "2s", "1m30s", "1.5h".

use std::time::Duration;

use crate::error::OptionError;

/// A number without a unit is seconds; what is below zero is zero.
pub(crate) fn parse(text: &str) -> Result<Duration, OptionError> {
    let malformed = || OptionError::Form("2s, 500ms or 1m30s");
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
    }
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(malformed());
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let unit =
            rest[number..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| number + at);
        let scale = match &rest[number..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(malformed()),
        };
        let count: f64 = rest[..number].parse().map_err(|_| malformed())?;
        let part = Duration::try_from_secs_f64(count * scale).map_err(|_| malformed())?;
        total = total.checked_add(part).ok_or_else(malformed)?;
        rest = &rest[unit..];
    }
    Ok(if is_negative { Duration::ZERO } else { total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let cases = [
            ("2s", Some(2000)),
            ("500ms", Some(500)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("2", Some(2000)),
            ("0", Some(0)),
            ("-1s", Some(0)),
            ("-3", Some(0)),
            ("", None),
            ("-", None),
            ("s", None),
            ("2 s", None),
            ("2d", None),
            ("1e99s", None),
            ("99999999999999999999h", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text).ok(), want.map(Duration::from_millis), "{text:?}");
        }
    }
}
