//! The names of pods and containers.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// The text is no id: those are 64 lowercase hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("id must be 64 lowercase hexadecimal digits, got {0:?}")]
pub struct BadId(String);

const LEN: usize = 64;

fn check(text: &str) -> Result<(), BadId> {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() == LEN && text.bytes().all(digit) {
        Ok(())
    } else {
        Err(BadId(text.chars().take(LEN).collect()))
    }
}

fn random() -> String {
    let mut bytes = [0_u8; LEN / 2];
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // Fails for no other reason on the kernels we support, and gives 32 bytes whole (getrandom(2)).
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(HEX[usize::from(digit)]))
        .collect()
}

const HEX: &[u8; 16] = b"0123456789abcdef";

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Always 64 lowercase hexadecimal digits, so it can never escape a path it is joined to.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// A new one, at random.
            #[must_use]
            pub fn generate() -> Self {
                Self(random())
            }

            /// All 64 digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        /// Logs show the short form people use at a prompt.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0[..12])
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                check(&text).map_err(serde::de::Error::custom)?;
                Ok(Self(text))
            }
        }
    };
}

id! {
    /// Names one pod sandbox for its whole life; part of the name of every kernel object it owns.
    PodId
}
id! {
    /// Names one container for its whole life; also its directory's name on disk.
    ContainerId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_lowercase_hex_digits_are_an_id() {
        let good = "0123456789abcdef".repeat(4);
        let cases = [
            ("64 digits", good.clone(), true),
            ("63 digits", good[1..].to_owned(), false),
            ("65 digits", format!("{good}0"), false),
            ("upper case", good.to_uppercase(), false),
            ("a path", format!("../{}", &good[3..]), false),
            ("wide characters", "é".repeat(32), false),
            ("nothing", String::new(), false),
        ];
        for (name, text, want) in cases {
            assert_eq!(text.parse::<PodId>().is_ok(), want, "{name}");
        }
    }

    #[test]
    fn new_ids_are_ids_and_differ() {
        let (a, b) = (ContainerId::generate(), ContainerId::generate());
        assert_ne!(a, b);
        assert_eq!(a.to_string().parse(), Ok(a.clone()));
        assert_eq!(format!("{a:?}").len(), 12);
    }

    #[test]
    fn a_bad_id_on_the_wire_is_refused() {
        let bytes = postcard::to_allocvec("../../etc/passwd").unwrap();
        assert!(postcard::from_bytes::<ContainerId>(&bytes).is_err());
    }
}
