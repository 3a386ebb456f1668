//! What an operator can choose about the built-in bridge.

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::subnet::Subnets;

/// The built-in bridge network. Daemons side by side need different ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeConfig {
    /// The bridge's name, such as `berth0`; at most 15 bytes. Made if it is missing.
    pub name: String,
    /// Where pods get their addresses from, such as `10.88.0.0/16`; the bridge has the first one of each. `None` until somebody
    /// says so with [`Bridge::move_to`](crate::Bridge::move_to).
    pub subnets: Option<Subnets>,
    /// The largest packet on the bridge and in the pods, in bytes; that of the link with the default route if not given.
    pub mtu: Option<u32>,
    /// The nftables tables of families `inet` and `bridge` that hold the rules, such as `berth`. Nothing else may be in them.
    pub table: String,
    /// What to do about rules of others that drop what is forwarded.
    pub forward: Forward,
}

/// What to do about the rules of others that drop what pods send through the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// Say so in the log and in the network's status.
    #[default]
    Report,
    /// Begin the chains whose policy is to drop with rules that accept what comes from pods or goes to them.
    Accept,
}

impl BridgeConfig {
    /// Refuses names that kernel objects cannot have.
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        check_name("bridge name", &self.name, 15)?;
        check_name("table name", &self.table, 64)
    }
}

fn check_name(what: &'static str, name: &str, longest: usize) -> Result<(), NetworkError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let good = (1..=longest).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with(['.', '-']);
    if good { Ok(()) } else { Err(NetworkError::Name { what, name: name.to_owned(), longest }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        let good = ["berth0", "a", "br-1.2_x", "fifteen-letters"];
        let bad =
            ["", ".", "..", "../x", "a/b", "a b", "-x", "sixteen--letters", "berth\0", "größe"];
        for (names, expected) in [(&good[..], true), (&bad[..], false)] {
            for name in names {
                assert_eq!(check_name("bridge name", name, 15).is_ok(), expected, "{name:?}");
            }
        }
    }
}
