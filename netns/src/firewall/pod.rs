//! What of the firewall is a pod's: the elements that follow from its record, and what an element says when it is found.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::set::{Element, Set, octets};
use crate::mac;
use crate::network::{Attached, PortMapping, Protocol};
use crate::subnet::Subnet;

/// The host ports of a pod, and the addresses that it may send from.
pub(super) fn elements(pod: &Attached) -> Vec<Element> {
    let mut elements = host_ports(pod);
    elements.extend(identity(pod));
    elements
}

/// Each host port leads to the pod's address of the family that it is open on; where the pod has none, nowhere.
fn host_ports(pod: &Attached) -> Vec<Element> {
    let mut elements = Vec::new();
    for port in &pod.ports {
        for address in pod.addresses.iter().filter(|address| port.is_for(address.is_ipv6())) {
            let one = port.only_on();
            let set = match (address, one) {
                (IpAddr::V4(_), None) => Set::Ports4,
                (IpAddr::V4(_), Some(_)) => Set::PortsOn4,
                (IpAddr::V6(_), None) => Set::Ports6,
                (IpAddr::V6(_), Some(_)) => Set::PortsOn6,
            };
            let mut key = one.map(octets).unwrap_or_default();
            key.extend_from_slice(&[protocol_number(port.protocol), 0, 0, 0]);
            key.extend_from_slice(&padded_port(port.host_port));
            let mut data = octets(*address);
            data.extend_from_slice(&padded_port(port.container_port));
            elements.push(Element { data, ..Element::new(set, &pod.owner, key) });
        }
    }
    elements
}

/// The link, and with it the hardware address and the addresses that come from there.
fn identity(pod: &Attached) -> Vec<Element> {
    let Some(station) = mac::parse(&pod.mac) else { return Vec::new() };
    let mut link = pod.host_link.as_bytes().to_vec();
    link.resize(16, 0);
    let mut key = link.clone();
    key.extend_from_slice(&station);
    key.extend_from_slice(&[0; 2]);
    let element = |set, key| Element::new(set, &pod.owner, key);
    let mut elements = vec![element(Set::Links, link), element(Set::Stations, key.clone())];
    let link_local =
        pod.addresses.iter().any(IpAddr::is_ipv6).then(|| mac::link_local(station).into());
    for address in pod.addresses.iter().copied().chain(link_local) {
        let set = if address.is_ipv6() { Set::Senders6 } else { Set::Senders4 };
        elements.push(element(set, [key.clone(), octets(address)].concat()));
    }
    elements
}

/// Networks that pods have addresses of, without those inside of others: ranges must not overlap.
pub(super) fn networks(networks: &[Subnet]) -> Vec<Element> {
    let inside = |one: &Subnet, other: &Subnet| {
        other.contains(one.network()) && other.prefix() < one.prefix()
    };
    let mut outer: Vec<Subnet> = networks.to_vec();
    outer.retain(|one| !networks.iter().any(|other| inside(one, other)));
    let mut elements: Vec<Element> = outer.into_iter().flat_map(network).collect();
    elements.sort();
    elements.dedup();
    elements
}

/// A range from the network's first address to the one behind its last.
fn network(subnet: Subnet) -> Vec<Element> {
    let (set, behind) = match subnet.last() {
        IpAddr::V4(last) => {
            (Set::Networks4, Ipv4Addr::from_bits(last.to_bits().wrapping_add(1)).into())
        }
        IpAddr::V6(last) => {
            (Set::Networks6, Ipv6Addr::from_bits(last.to_bits().wrapping_add(1)).into())
        }
    };
    let first = Element::new(set, "", octets(subnet.network()));
    vec![first, Element { ends_range: true, ..Element::new(set, "", octets(behind)) }]
}

/// The networks that `elements` note; ranges that are none are left out.
pub(super) fn read_networks(elements: &[Element]) -> Vec<Subnet> {
    let ends = |first: &&Element| {
        let later = elements.iter().filter(|end| end.ends_range && end.set == first.set);
        later.filter(|end| end.key > first.key).min().cloned()
    };
    elements
        .iter()
        .filter(|element| element.set.is_networks() && !element.ends_range)
        .filter_map(|first| subnet(&first.key, &ends(&first)?.key))
        .collect()
}

fn subnet(first: &[u8], behind: &[u8]) -> Option<Subnet> {
    let number =
        |bytes: &[u8]| bytes.iter().fold(0_u128, |all, byte| (all << 8) | u128::from(*byte));
    let size = number(behind).checked_sub(number(first)).filter(|size| size.is_power_of_two())?;
    let ip = match first.len() {
        4 => IpAddr::from(*first.first_chunk::<4>()?),
        _ => IpAddr::from(*first.first_chunk::<16>()?),
    };
    let bits = u32::try_from(first.len() * 8).ok()?;
    format!("{ip}/{}", bits - size.ilog2()).parse().ok()
}

/// A host port as one element opens it.
pub(super) struct HostPort<'a>(pub(super) &'a Element);

impl fmt::Display for HostPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = if self.0.owner.is_empty() { "nobody" } else { &self.0.owner };
        match mapping(self.0) {
            Some(port) => write!(f, "host port {port} of {owner}"),
            None => write!(f, "element of {owner} in {}", self.0.set.name()),
        }
    }
}

fn mapping(element: &Element) -> Option<PortMapping> {
    let (host_ip, key) = match element.set {
        Set::Ports4 | Set::Ports6 => (None, element.key.as_slice()),
        Set::PortsOn4 => {
            let (ip, rest) = element.key.split_first_chunk::<4>()?;
            (Some(IpAddr::from(*ip)), rest)
        }
        Set::PortsOn6 => {
            let (ip, rest) = element.key.split_first_chunk::<16>()?;
            (Some(IpAddr::from(*ip)), rest)
        }
        Set::Networks4
        | Set::Networks6
        | Set::Links
        | Set::Stations
        | Set::Senders4
        | Set::Senders6 => return None,
    };
    let target = element.data.len().checked_sub(4)?;
    Some(PortMapping {
        protocol: protocol(*key.first()?)?,
        host_ip,
        host_port: port(key.get(4..)?)?,
        container_port: port(element.data.get(target..)?)?,
    })
}

fn padded_port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk()?))
}

/// IPPROTO_* of netinet/in.h.
pub(crate) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol_number(*protocol) == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(addresses: &[&str], host_ip: Option<&str>) -> Attached {
        Attached {
            owner: "ab".repeat(32),
            host_link: "bv0123456789abc".into(),
            mac: "02:be:0a:58:00:02".into(),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            ports: vec![PortMapping {
                protocol: Protocol::Sctp,
                host_ip: host_ip.map(|ip| ip.parse().unwrap()),
                host_port: 8080,
                container_port: 80,
            }],
            ..Attached::default()
        }
    }

    #[test]
    fn a_host_port_is_open_on_the_families_that_it_names_and_the_pod_has() {
        let (both, v4) = (&["10.88.0.2", "fd00::2"][..], &["10.88.0.2"][..]);
        let cases = [
            ("every address", both, None, vec![Set::Ports4, Set::Ports6]),
            ("a pod without IPv6", v4, None, vec![Set::Ports4]),
            ("all of IPv4", both, Some("0.0.0.0"), vec![Set::Ports4]),
            ("all of IPv6", both, Some("::"), vec![Set::Ports6]),
            ("one", both, Some("192.0.2.1"), vec![Set::PortsOn4]),
            ("one of IPv6", both, Some("fd00::1"), vec![Set::PortsOn6]),
            ("one of IPv6, and the pod has none", v4, Some("fd00::1"), vec![]),
        ];
        for (what, addresses, host_ip, expected) in cases {
            let found = host_ports(&pod(addresses, host_ip));
            let sets: Vec<_> = found.iter().map(|element| element.set).collect();
            assert_eq!(sets, expected, "{what}");
            for element in &found {
                let text = HostPort(element).to_string();
                assert!(text.contains(":8080/sctp") == element.key.len().gt(&8), "{text}");
                assert!(text.contains("8080/sctp of abab"), "{what}: {text}");
            }
        }
    }

    #[test]
    fn keys_fill_whole_registers() {
        let one = &host_ports(&pod(&["10.88.0.2"], Some("192.0.2.1")))[0];
        assert_eq!(one.key, [192, 0, 2, 1, 132, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(one.data, [10, 88, 0, 2, 0, 80, 0, 0]);
    }

    #[test]
    fn a_pod_may_send_from_its_own_addresses_alone() {
        let sets = |addresses: &[&str]| -> Vec<(Set, usize)> {
            let found = identity(&pod(addresses, None));
            found.iter().map(|element| (element.set, element.key.len())).collect()
        };
        let link = [(Set::Links, 16), (Set::Stations, 24)];
        assert_eq!(sets(&["10.88.0.2"]), [&link[..], &[(Set::Senders4, 28)]].concat());
        // The second is the link-local one.
        let v6 = [(Set::Senders6, 40), (Set::Senders6, 40)];
        assert_eq!(sets(&["fd00::2"]), [&link[..], &v6].concat());
    }

    #[test]
    fn a_network_is_a_range() {
        let [first, behind] = &network("10.88.0.0/16".parse().unwrap())[..] else { panic!() };
        assert_eq!((&first.key[..], &behind.key[..]), (&[10, 88, 0, 0][..], &[10, 89, 0, 0][..]));
        assert!(behind.ends_range && !first.ends_range);
    }

    #[test]
    fn networks_read_back_without_those_inside_of_others() {
        let subnets = |texts: &[&str]| -> Vec<Subnet> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let all =
            subnets(&["10.1.0.0/24", "10.1.0.0/16", "10.2.0.0/16", "fd00::/64", "10.2.0.0/16"]);
        let read = read_networks(&networks(&all));
        assert_eq!(read, subnets(&["10.1.0.0/16", "10.2.0.0/16", "fd00::/64"]));
    }
}
