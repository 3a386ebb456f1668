//! Subnets in text form, and the places in them that pods cannot have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A subnet that pods get their addresses from, such as `10.88.0.0/16` or `fd00:88::/64`.
///
/// Always has room for a gateway and at least one pod (prefix lengths 8 to 30, with IPv6 48 to 126), and no host bits set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: IpAddr,
    prefix: u8,
}

/// Where pods get their addresses from: a subnet, or one of each family, the primary one first (`10.88.0.0/16,fd00:88::/64`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnets(Vec<Subnet>);

/// The text does not name a subnet that pods can be put in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "subnet must be a network such as 10.88.0.0/16 (prefix length 8 to 30) or fd00:88::/64 (48 to 126) without host bits, \
     or one of each family with a comma between them, got {0:?}"
)]
pub struct BadSubnet(String);

impl Subnet {
    /// The first address; it names the network and belongs to nobody.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// How many leading bits name the network.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.network.is_ipv6()
    }

    /// The bridge's own address: the first host of the subnet.
    pub fn gateway(&self) -> IpAddr {
        self.at(1)
    }

    /// The last address; with IPv4 it reaches every host.
    pub fn last(&self) -> IpAddr {
        self.at(self.size() - 1)
    }

    /// Whether `address` is inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.offset(address).is_some()
    }

    /// Whether a pod may have `address`: inside, and neither the first address, the gateway nor the last.
    pub fn can_lease(&self, address: IpAddr) -> bool {
        self.offset(address).is_some_and(|offset| offset > 1 && offset < self.size() - 1)
    }

    /// How many pods can have an address.
    pub(crate) fn hosts(&self) -> u128 {
        self.size() - 3
    }

    /// The address for a pod that comes after `address`, around the subnet's end.
    pub(crate) fn after(&self, address: IpAddr) -> IpAddr {
        match self.offset(address) {
            Some(offset) if offset >= 1 && offset + 1 < self.size() - 1 => self.at(offset + 1),
            Some(_) | None => self.at(2),
        }
    }

    fn size(&self) -> u128 {
        let bits = if self.is_ipv6() { 128 } else { 32 };
        1 << (bits - u32::from(self.prefix))
    }

    fn offset(&self, address: IpAddr) -> Option<u128> {
        let offset = match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                u128::from(address.to_bits().checked_sub(network.to_bits())?)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                address.to_bits().checked_sub(network.to_bits())?
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        (offset < self.size()).then_some(offset)
    }

    /// `offset` is below the subnet's size, so that it fits the family.
    fn at(&self, offset: u128) -> IpAddr {
        match self.network {
            IpAddr::V4(network) => {
                let offset = u32::try_from(offset).unwrap_or_default();
                Ipv4Addr::from_bits(network.to_bits() + offset).into()
            }
            IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() + offset).into(),
        }
    }
}

impl Subnets {
    /// The subnets, the primary one first.
    pub fn iter(&self) -> impl Iterator<Item = Subnet> {
        self.0.iter().copied()
    }

    /// The one that gives pods their first address.
    pub fn primary(&self) -> Subnet {
        self.0[0]
    }

    /// Whether pods get an address of IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.0.iter().any(Subnet::is_ipv6)
    }

    /// Whether pods get an address of IPv4.
    pub fn has_ipv4(&self) -> bool {
        !self.0.iter().all(Subnet::is_ipv6)
    }
}

impl From<Subnet> for Subnets {
    fn from(subnet: Subnet) -> Self {
        Self(vec![subnet])
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let bad = || BadSubnet(text.to_owned());
        let (network, prefix) = text.split_once('/').ok_or_else(bad)?;
        let network: IpAddr = network.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let (fits, host_bits) = match network {
            IpAddr::V4(ip) => ((8..=30).contains(&prefix), u128::from(ip.to_bits())),
            IpAddr::V6(ip) => ((48..=126).contains(&prefix), ip.to_bits()),
        };
        if !fits || network.is_loopback() || network.is_multicast() {
            return Err(bad());
        }
        let subnet = Self { network, prefix };
        if host_bits & (subnet.size() - 1) != 0 {
            return Err(bad());
        }
        Ok(subnet)
    }
}

impl FromStr for Subnets {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let parts: Result<Vec<Subnet>, _> =
            text.split(',').map(|part| part.trim().parse()).collect();
        match parts.as_deref() {
            Ok([_]) => {}
            Ok([one, other]) if one.is_ipv6() != other.is_ipv6() => {}
            Ok(_) | Err(_) => return Err(BadSubnet(text.to_owned())),
        }
        parts.map(Self)
    }
}

impl TryFrom<String> for Subnet {
    type Error = BadSubnet;

    fn try_from(text: String) -> Result<Self, BadSubnet> {
        text.parse()
    }
}

impl TryFrom<String> for Subnets {
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

impl From<Subnets> for String {
    fn from(subnets: Subnets) -> Self {
        subnets.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Display for Subnets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(Subnet::to_string).collect();
        f.write_str(&names.join(","))
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
            ("v6", "fd00:88::/64", true),
            ("one pod in v6", "fd00::4/126", true),
            ("host bits", "10.88.0.1/16", false),
            ("host bits in v6", "fd00::1/64", false),
            ("no room", "192.0.2.4/31", false),
            ("no room in v6", "fd00::/127", false),
            ("too wide", "10.0.0.0/7", false),
            ("too wide in v6", "fd00::/16", false),
            ("loopback", "127.0.0.0/8", false),
            ("multicast", "224.0.0.0/8", false),
            ("no prefix", "10.88.0.0", false),
            ("negative", "10.88.0.0/-1", false),
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
    fn one_subnet_or_one_of_each_family() {
        let cases = [
            ("one", "10.88.0.0/16", true),
            ("both", "10.88.0.0/16,fd00::/64", true),
            ("IPv6 first", "fd00::/64,10.88.0.0/16", true),
            ("two of a family", "10.88.0.0/16,10.89.0.0/16", false),
            ("three", "10.88.0.0/16,fd00::/64,10.89.0.0/16", false),
            ("none", "", false),
        ];
        for (what, text, good) in cases {
            let parsed = text.parse::<Subnets>();
            assert_eq!(parsed.is_ok(), good, "{what}: {parsed:?}");
            if let Ok(subnets) = parsed {
                assert_eq!(subnets.to_string(), text, "{what}");
            }
        }
    }

    #[test]
    fn only_hosts_between_gateway_and_last_can_be_leased() {
        for (text, prefix) in [("192.0.2.8/29", "192.0.2."), ("fd00::8/125", "fd00::")] {
            let subnet: Subnet = text.parse().unwrap();
            let ip = |last: u8| -> IpAddr {
                let last = if subnet.is_ipv6() { format!("{last:x}") } else { last.to_string() };
                format!("{prefix}{last}").parse().unwrap()
            };
            let leasable: Vec<u8> = (0..=20).filter(|&last| subnet.can_lease(ip(last))).collect();
            assert_eq!(leasable, [10, 11, 12, 13, 14], "{text}");
            assert_eq!((subnet.gateway(), subnet.last()), (ip(9), ip(15)), "{text}");
            assert_eq!((subnet.after(ip(10)), subnet.after(ip(14))), (ip(11), ip(10)), "{text}");
            assert_eq!(subnet.hosts(), 5, "{text}");
        }
    }
}
