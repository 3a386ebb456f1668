//! JSON that means the same to every reader.

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// Nesting beyond this is refused; real manifests have 5 levels.
const MAX_DEPTH: usize = 64;

/// The bytes are not JSON, not of the wanted form, or ambiguous.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BadJson(#[from] serde_json::Error);

/// Reads one value that is the whole of `bytes`.
///
/// # Errors
///
/// [`BadJson`] for anything that is not JSON, has a key twice in one object (of which Go takes the last, others the
/// first), is nested deeper than 64, or does not fit `T`.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadJson> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Unambiguous { depth: 0 }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(serde_json::from_slice(bytes)?)
}

/// Walks over any value and keeps nothing of it.
#[derive(Clone, Copy)]
struct Unambiguous {
    depth: usize,
}

impl Unambiguous {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Unambiguous {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(inner)?;
            if let Some(twice) = keys.replace(key) {
                let twice = super::excerpt(&twice);
                return Err(serde::de::Error::custom(format_args!("key {twice:?} is there twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn only_unambiguous_json_is_read() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let cases = [
            ("an object", r#"{"a":1,"b":{"a":1}}"#.to_owned(), true),
            ("a key twice", r#"{"a":1,"a":1}"#.into(), false),
            ("a key twice, once escaped", r#"{"a":1,"\u0061":1}"#.into(), false),
            ("a key twice far below", r#"{"x":[{"y":{"a":1,"b":2,"a":3}}]}"#.into(), false),
            ("the same key in two objects", r#"[{"a":1},{"a":1}]"#.into(), true),
            ("keys that differ in case", r#"{"a":1,"A":1}"#.into(), true),
            ("64 levels", deep(64), true),
            ("65 levels", deep(65), false),
            ("a million levels", "[".repeat(1_000_000), false),
            ("text behind", "{} {}".into(), false),
            ("white space behind", "{} \n".into(), true),
            ("nothing", String::new(), false),
            ("half", r#"{"a":"#.into(), false),
            ("a comment", "{} // x".into(), false),
            ("NaN", "NaN".into(), false),
            ("a byte order mark", "\u{feff}{}".into(), false),
        ];
        for (name, text, good) in cases {
            assert_eq!(parse::<Value>(text.as_bytes()).is_ok(), good, "{name}");
        }
        assert!(parse::<Value>(b"\"\xff\"").is_err(), "not UTF-8");
    }
}
