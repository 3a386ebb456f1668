//! Extended headers of POSIX (pax): records of `length key=value`, each ended by a line end.

use super::{Field, TarError, number};

/// Records in one extended header.
pub(super) const MAX_RECORDS: usize = 1024;

/// What an extended header says about the next entry. A record with an empty value keeps what the plain header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<Time>,
    /// Names without the prefix `SCHILY.xattr.`, and their values.
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// GNU tar's records for files with holes, versions 0.0, 0.1 and 1.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) blocks: Option<u64>,
    /// Offsets and lengths in turn.
    pub(super) map: Option<Vec<u64>>,
    /// The version 0.0: one record a number.
    listed: Vec<u64>,
}

/// A moment: seconds since the epoch, which may be before it, and nanoseconds after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    /// Seconds since 1970.
    pub(crate) seconds: i64,
    /// 0 to 999,999,999.
    pub(crate) nanoseconds: u32,
}

/// Reads all records of an extended header; of a key given twice the last one holds.
pub(super) fn parse(mut data: &[u8]) -> Result<Pax, TarError> {
    let mut pax = Pax::default();
    let mut records = 0;
    while !data.is_empty() {
        records += 1;
        if records > MAX_RECORDS {
            return Err(TarError::TooManyRecords);
        }
        let (key, value, rest) = record(data).ok_or(TarError::Record)?;
        data = rest;
        pax.apply(key, value)?;
    }
    if pax.sparse.map.is_none() && !pax.sparse.listed.is_empty() {
        pax.sparse.map = Some(std::mem::take(&mut pax.sparse.listed));
    }
    Ok(pax)
}

/// The first record's key and value, and what follows it.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(number::decimal(&data[..space])?).ok()?;
    // The length counts itself, the space and the line end.
    if length < space + 2 || length > data.len() {
        return None;
    }
    let (record, rest) = data.split_at(length);
    let (&end, text) = record[space + 1..].split_last()?;
    let equals = text.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (&text[..equals], &text[equals + 1..]);
    (end == b'\n' && !key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

impl Pax {
    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.attributes.retain(|(known, _)| known != name);
            self.attributes.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        match key {
            b"path" => self.path = text(Field::Name, value)?,
            b"linkpath" => self.link = text(Field::Link, value)?,
            b"uid" => self.uid = number(Field::Uid, value)?,
            b"gid" => self.gid = number(Field::Gid, value)?,
            b"size" => self.size = number(Field::Size, value)?,
            b"mtime" => {
                self.mtime = match value {
                    [] => None,
                    _ => Some(time(value).ok_or(TarError::Number(Field::Mtime))?),
                }
            }
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.apply(key, value)?;
                }
            }
        }
        Ok(())
    }
}

impl Sparse {
    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        match key {
            b"major" => self.major = number(Field::Sparse, value)?,
            b"minor" => self.minor = number(Field::Sparse, value)?,
            b"name" => self.name = text(Field::Name, value)?,
            b"size" | b"realsize" => self.size = number(Field::Sparse, value)?,
            b"numblocks" => self.blocks = number(Field::Sparse, value)?,
            b"offset" | b"numbytes" => {
                // They come in pairs, the offset first.
                let is_offset = self.listed.len().is_multiple_of(2);
                match number(Field::Sparse, value)? {
                    Some(number) if is_offset == (key == b"offset") => self.listed.push(number),
                    _ => return Err(TarError::SparseMap),
                }
            }
            b"map" => {
                let numbers = value.split(|&byte| byte == b',').map(number::decimal);
                self.map = Some(numbers.collect::<Option<_>>().ok_or(TarError::SparseMap)?);
            }
            _ => {}
        }
        Ok(())
    }
}

fn text(field: Field, value: &[u8]) -> Result<Option<Vec<u8>>, TarError> {
    match value {
        [] => Ok(None),
        value if value.contains(&0) => Err(TarError::Nul(field)),
        value => Ok(Some(value.to_vec())),
    }
}

fn number(field: Field, value: &[u8]) -> Result<Option<u64>, TarError> {
    match value {
        [] => Ok(None),
        value => number::decimal(value).map(Some).ok_or(TarError::Number(field)),
    }
}

/// A decimal number of seconds with an optional fraction. Beyond 64 bits it is the last moment there is.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |&byte| byte == b'.');
    let (whole, fraction) = (parts.next()?, parts.next().unwrap_or_default());
    let is_number = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let seconds =
        number::decimal(whole).and_then(|whole| i64::try_from(whole).ok()).unwrap_or(i64::MAX);
    let nine = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = nine.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        // Half a second before -1 is -2 and half a second.
        (true, _) => {
            Time { seconds: (-seconds).saturating_sub(1), nanoseconds: 1_000_000_000 - nanoseconds }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> Vec<u8> {
        let body = format!(" {key}={value}\n");
        let mut length = body.len() + 1;
        while length.to_string().len() + body.len() != length {
            length += 1;
        }
        format!("{length}{body}").into_bytes()
    }

    #[test]
    fn the_last_of_two_equal_keys_holds() {
        let data = [
            one("path", "first"),
            one("path", "second"),
            one("SCHILY.xattr.user.a", "1"),
            one("SCHILY.xattr.user.a", "2"),
        ];
        let pax = parse(&data.concat()).unwrap();
        assert_eq!(pax.path.unwrap(), b"second");
        assert_eq!(pax.attributes, [(b"user.a".to_vec(), b"2".to_vec())]);
    }

    #[test]
    fn an_empty_value_keeps_what_the_plain_header_says() {
        for key in ["path", "linkpath", "uid", "gid", "size", "mtime", "comment", "SCHILY.ino"] {
            assert_eq!(parse(&one(key, "")).unwrap(), Pax::default(), "{key}");
        }
    }

    #[test]
    fn bad_records_are_refused() {
        let cases: [(&str, &[u8]); 12] = [
            ("no length", b" path=a\n"),
            ("no space", b"10path=abc"),
            ("length too long", b"99 path=a\n"),
            ("length too short", b"3 path=a\n"),
            ("length zero", b"0 path=a\n"),
            ("negative length", b"-1 path=a\n"),
            ("no line end", b"9 path=ab"),
            ("no equals sign", b"9 pathab\n"),
            ("no key", b"6 =ab\n"),
            ("NUL in the key", b"10 pa\0h=a\n"),
            ("rubbish behind", b"9 path=a\n\0"),
            ("huge length", b"99999999999999999999999 path=a\n"),
        ];
        for (name, data) in cases {
            assert!(matches!(parse(data), Err(TarError::Record)), "{name}");
        }
        assert!(matches!(parse(&one("path", "a\0b")), Err(TarError::Nul(Field::Name))));
        assert!(matches!(parse(&one("size", "-1")), Err(TarError::Number(Field::Size))));
        assert!(matches!(parse(&one("a", "b").repeat(1025)), Err(TarError::TooManyRecords)));
    }

    #[test]
    fn times_before_the_epoch_and_beyond_the_end() {
        let cases = [
            ("0", Some((0, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("-1", Some((-1, 0))),
            ("-1.5", Some((-2, 500_000_000))),
            ("99999999999999999999", Some((i64::MAX, 0))),
            ("-99999999999999999999.5", Some((i64::MIN, 500_000_000))),
            ("1.", Some((1, 0))),
            (".5", None),
            ("1e3", None),
            ("--1", None),
            ("1.-5", None),
        ];
        for (text, want) in cases {
            let got = time(text.as_bytes()).map(|time| (time.seconds, time.nanoseconds));
            assert_eq!(got, want, "{text}");
        }
    }
}
