//! Numbers in tar headers: octal text, or big-endian binary where the first bit is set.

/// Reads a numeric field. An empty field is zero, as everywhere.
///
/// None where it is neither octal text between spaces and NULs nor a binary number that fits.
pub(super) fn parse(field: &[u8]) -> Option<i128> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => binary(field),
        Some(_) => octal(field).map(i128::from),
        None => Some(0),
    }
}

/// GNU's base-256: two's complement in all bits but the first, which marks it.
fn binary(field: &[u8]) -> Option<i128> {
    // The longest field has 12 bytes, so 95 bits: no field of a header can overflow.
    if field.len() > 15 {
        return None;
    }
    let negative = field[0] & 0x40 != 0;
    let start = if negative { -1 } else { 0 };
    let first = if negative { field[0] | 0x80 } else { field[0] & 0x7f };
    let rest = field[1..].iter().copied();
    Some(
        std::iter::once(first).chain(rest).fold(start, |value, byte| value << 8 | i128::from(byte)),
    )
}

fn octal(field: &[u8]) -> Option<u64> {
    // Space and NUL pad on both sides, depending on who wrote it; behind a NUL is nobody's.
    let from = field.iter().position(|byte| !matches!(byte, b' ' | 0)).unwrap_or(field.len());
    let text = field[from..].split(|&byte| byte == 0).next().unwrap_or_default();
    text.trim_ascii_end().iter().try_fold(0u64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Reads a decimal number of an extended header.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, &digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_fields() {
        let cases: [(&str, &[u8], Option<i128>); 14] = [
            ("octal", b"0000644\0", Some(0o644)),
            ("octal with spaces", b"   644 \0", Some(0o644)),
            ("octal filling the field", b"77777777", Some(0o7777_7777)),
            ("empty", b"\0\0\0\0\0\0\0\0", Some(0)),
            ("blank", b"        ", Some(0)),
            ("a minus", b"-000001\0", None),
            ("not octal", b"0000648\0", None),
            ("text", b"size\0\0\0\0", None),
            ("binary", b"\x80\0\0\0\0\0\x01\x02", Some(0x102)),
            ("binary minus one", &[0xff; 12], Some(-1)),
            ("binary, the smallest", b"\xc0\0\0\0\0\0\0\0\0\0\0\0", Some(-(1 << 94))),
            (
                "binary, the largest",
                b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                Some((1 << 94) - 1),
            ),
            ("text after the terminator", b"644\0abcd", Some(0o644)),
            ("two numbers", b"644 755\0", None),
        ];
        for (name, field, want) in cases {
            assert_eq!(parse(field), want, "{name}");
        }
    }

    #[test]
    fn decimal_numbers() {
        for (text, want) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
        ] {
            assert_eq!(decimal(text.as_bytes()), want, "{text}");
        }
        for text in ["", "-1", "+1", " 1", "1 ", "0x1", "1\0"] {
            assert_eq!(decimal(text.as_bytes()), None, "{text:?}");
        }
    }
}
