//! One line of a CRI log file: `time stream tags text`.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// RFC 3339.
    pub(super) time: &'a str,
    pub(super) stream: Stream,
    /// The text goes on in the stream's next line.
    pub(super) is_partial: bool,
    pub(super) text: &'a [u8],
}

/// `line` comes without its line end.
pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |&byte| byte == b' ');
    let time = str::from_utf8(fields.next()?).ok()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Tags are separated by colons; only the first one has a meaning so far.
    let is_partial = match fields.next()?.split(|&byte| byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    let text = fields.next()?;
    let is_time = time.len() >= 20 && time.as_bytes()[10] == b'T';
    is_time.then_some(Line { time, stream, is_partial, text })
}

/// The time with nine digits of the second, so that columns line up.
pub(super) fn fixed_width(time: &str) -> String {
    // Hours to seconds have a fixed place, then come a fraction, perhaps, and the zone.
    let (seconds, rest) = time.split_at_checked(19).unwrap_or((time, ""));
    let digits = rest.strip_prefix('.').unwrap_or_default();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let zone = if rest.starts_with('.') { &digits[end..] } else { rest };
    format!("{seconds}.{:0<9}{zone}", &digits[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_time_a_stream_tags_and_text() {
        const TIME: &str = "2026-10-06T00:17:09.669794202Z";
        let line = |stream, is_partial, text| Some(Line { time: TIME, stream, is_partial, text });
        let cases: [(&str, &[u8], Option<Line<'_>>); 9] = [
            (
                "whole",
                b"2026-10-06T00:17:09.669794202Z stdout F hello world",
                line(Stream::Stdout, false, b"hello world"),
            ),
            (
                "part",
                b"2026-10-06T00:17:09.669794202Z stderr P a",
                line(Stream::Stderr, true, b"a"),
            ),
            (
                "more tags",
                b"2026-10-06T00:17:09.669794202Z stdout P:x:y a",
                line(Stream::Stdout, true, b"a"),
            ),
            (
                "empty",
                b"2026-10-06T00:17:09.669794202Z stdout F ",
                line(Stream::Stdout, false, b""),
            ),
            (
                "not text",
                b"2026-10-06T00:17:09.669794202Z stdout F \xff\0",
                line(Stream::Stdout, false, b"\xff\0"),
            ),
            ("no text", b"2026-10-06T00:17:09.669794202Z stdout F", None),
            ("no stream", b"2026-10-06T00:17:09.669794202Z F x", None),
            ("no time", b"hello stdout F x", None),
            ("nothing", b"", None),
        ];
        for (name, text, want) in cases {
            assert_eq!(parse(text), want, "{name}");
        }
    }

    #[test]
    fn times_get_nine_digits() {
        let cases = [
            ("2026-10-06T00:17:09.669794202Z", "2026-10-06T00:17:09.669794202Z"),
            ("2026-10-06T00:17:09.6Z", "2026-10-06T00:17:09.600000000Z"),
            ("2026-10-06T00:17:09.05+02:00", "2026-10-06T00:17:09.050000000+02:00"),
            ("2026-10-06T00:17:09Z", "2026-10-06T00:17:09.000000000Z"),
        ];
        for (time, want) in cases {
            assert_eq!(fixed_width(time), want);
        }
    }
}
