//! Signals by the names that images and clients give them.

/// The signal that asks a container to end when nobody says otherwise.
pub(crate) const DEFAULT: &str = "SIGTERM";

/// Linux's numbers (`signal(7)`), the same on every architecture that Berth runs on.
const NAMES: [(&str, i32); 35] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];

/// glibc and musl keep 32 and 33 for themselves, so programs count real-time signals from 34.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a signal: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `SIGRTMAX-1`, or the CRI's `SIGRTMINPLUS3`.
pub(crate) fn number(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let within = |number: i32| (1..=RTMAX).contains(&number).then_some(number);
    if let Ok(number) = upper.parse::<i32>() {
        return within(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return within(RTMIN.checked_add(offset(rest, ["+", "PLUS"])?)?);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return within(RTMAX.checked_sub(offset(rest, ["-", "MINUS"])?)?);
    }
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// What follows `RTMIN` or `RTMAX`: nothing, or one of `signs` and digits.
fn offset(rest: &str, signs: [&str; 2]) -> Option<i32> {
    if rest.is_empty() {
        return Some(0);
    }
    let digits = signs.into_iter().find_map(|sign| rest.strip_prefix(sign))?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// The name by which the CRI knows a signal, for [`cri_api::runtime::v1::Signal::from_str_name`].
pub(crate) fn cri_name(text: &str) -> Option<String> {
    let number = number(text)?;
    Some(match number {
        RTMIN => "SIGRTMIN".to_owned(),
        RTMAX => "SIGRTMAX".to_owned(),
        35..=49 => format!("SIGRTMINPLUS{}", number - RTMIN),
        50..=63 => format!("SIGRTMAXMINUS{}", RTMAX - number),
        _ => format!("SIG{}", NAMES.iter().find(|(_, known)| *known == number)?.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        let cases = [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMINPLUS15", Some(49)),
            ("SIGRTMAXMINUS14", Some(50)),
            ("SIGRTMIN-3", None),
            ("RTMAX+1", None),
            ("SIGRTMIN+2147483647", None),
            ("RTMIN+", None),
            ("0", None),
            ("65", None),
            ("SIGNOPE", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(number(text), want, "{text:?}");
        }
    }

    #[test]
    fn every_signal_has_a_name_in_the_api() {
        use cri_api::runtime::v1::Signal;
        for number in (1..=31).chain(34..=64) {
            let name = cri_name(&number.to_string()).unwrap();
            assert!(Signal::from_str_name(&name).is_some(), "{name}");
        }
    }
}
