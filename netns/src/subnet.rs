//! An IPv4 subnet in text form, and the places in it that pods cannot have.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 subnet that pods get their addresses from, such as `10.88.0.0/16`.
///
/// Always has room for a gateway and at least one pod (prefix lengths 8 to 30), and no host bits set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

/// The text does not name a subnet that pods can be put in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "subnet must be an IPv4 network such as 10.88.0.0/16, prefix length 8 to 30 and no host bits, got {0:?}"
)]
pub struct BadSubnet(String);

impl Subnet {
    /// The first address; it names the network and belongs to nobody.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// How many leading bits name the network.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The mask that keeps the network's bits.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - u32::from(self.prefix)))
    }

    /// The bridge's own address: the first host of the subnet.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 1)
    }

    /// The last address; it reaches every host.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !self.mask().to_bits())
    }

    /// Whether a pod may have `address`: inside, and neither network, gateway nor broadcast.
    pub fn can_lease(&self, address: Ipv4Addr) -> bool {
        (self.gateway() < address) && (address < self.broadcast())
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let bad = || BadSubnet(text.to_owned());
        let (network, prefix) = text.split_once('/').ok_or_else(bad)?;
        let network: Ipv4Addr = network.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if !(8..=30).contains(&prefix) {
            return Err(bad());
        }
        let subnet = Self { network, prefix };
        if network & subnet.mask() != network || network.is_loopback() || network.is_multicast() {
            return Err(bad());
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = BadSubnet;

    fn try_from(text: String) -> Result<Self, BadSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_networks_with_room_for_a_pod_only() {
        let cases = [
            ("the usual", "10.88.0.0/16", true),
            ("one pod", "192.0.2.4/30", true),
            ("host bits", "10.88.0.1/16", false),
            ("no room", "192.0.2.4/31", false),
            ("too wide", "10.0.0.0/7", false),
            ("loopback", "127.0.0.0/8", false),
            ("multicast", "224.0.0.0/8", false),
            ("no prefix", "10.88.0.0", false),
            ("negative", "10.88.0.0/-1", false),
            ("v6", "fd00::/64", false),
        ];
        for (what, text, good) in cases {
            let parsed = text.parse::<Subnet>();
            assert_eq!(parsed.is_ok(), good, "{what}: {parsed:?}");
            if let Ok(subnet) = parsed {
                assert_eq!(subnet.to_string(), text, "{what}");
            }
        }
    }

    #[test]
    fn only_hosts_between_gateway_and_broadcast_can_be_leased() {
        let subnet: Subnet = "192.0.2.8/29".parse().unwrap();
        let leasable: Vec<u8> =
            (0..=255).filter(|&last| subnet.can_lease(Ipv4Addr::new(192, 0, 2, last))).collect();
        assert_eq!(leasable, [10, 11, 12, 13, 14]);
        assert_eq!(subnet.gateway(), Ipv4Addr::new(192, 0, 2, 9));
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(192, 0, 2, 15));
    }
}
