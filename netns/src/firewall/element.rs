//! The elements of the two maps: a host port, the pod it leads to, and as comment the pod's id.

use std::net::{IpAddr, Ipv4Addr};

use super::expression::value;
use crate::ledger::Entry;
use crate::netlink::{Message, Request, attributes, find};
use crate::network::{PortMapping, Protocol};

const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_USERDATA: u16 = 6;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const DATA_VALUE: u16 = 1;

/// One of the two maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Map {
    /// Host ports open on every address of the host.
    AllAddresses,
    /// Host ports open on one address of the host.
    OneAddress,
}

/// What the kernel and nft(8) have to know of a map.
pub(super) struct Shape {
    /// Numbers the map within its transaction.
    pub(super) id: u32,
    /// Types as nft(8) numbers them, six bits each; the kernel only keeps them.
    pub(super) key_type: u32,
    pub(super) key_bytes: u32,
    pub(super) data_type: u32,
    pub(super) data_bytes: u32,
}

impl Map {
    pub(super) const ALL: [Self; 2] = [Self::AllAddresses, Self::OneAddress];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AllAddresses => "ports",
            Self::OneAddress => "ports_on",
        }
    }

    pub(super) fn shape(self) -> Shape {
        const ADDRESS: u32 = 7;
        const PROTOCOL: u32 = 12;
        const PORT: u32 = 13;
        let port = (PROTOCOL << 6) | PORT;
        let (id, key_type, key_bytes) = match self {
            Self::AllAddresses => (1, port, 8),
            Self::OneAddress => (2, (ADDRESS << 12) | port, 12),
        };
        Shape { id, key_type, key_bytes, data_type: (ADDRESS << 6) | PORT, data_bytes: 8 }
    }

    /// Whether an entry belongs into this map.
    pub(super) fn holds(self, entry: &Entry) -> bool {
        match self {
            Self::AllAddresses => entry.port.only_on().is_none(),
            Self::OneAddress => entry.port.only_on().is_some(),
        }
    }

    /// Says in a request about elements which map it is about.
    pub(super) fn name_in(self, request: &mut Request, table: &str) {
        request.text(LIST_TABLE, table).text(LIST_SET, self.name());
    }

    /// Adds the list of elements to a request about them.
    pub(super) fn write(self, request: &mut Request, entries: &[&Entry]) {
        const LIST_ELEMENT: u16 = 1;
        request.nest(LIST_ELEMENTS, |list| {
            for entry in entries {
                list.nest(LIST_ELEMENT, |element| {
                    value(element, ELEMENT_KEY, &self.key(&entry.port));
                    let mut target = entry.address.octets().to_vec();
                    target.extend_from_slice(&padded_port(entry.port.container_port));
                    value(element, ELEMENT_DATA, &target);
                    element.attribute(ELEMENT_USERDATA, &as_comment(&entry.owner));
                });
            }
        });
    }

    /// The elements in one message of a listing.
    pub(super) fn read(self, message: &Message<'_>) -> Vec<Entry> {
        let list = message.payload.get(4..).and_then(|bytes| find(bytes, LIST_ELEMENTS));
        attributes(list.unwrap_or_default())
            .filter_map(|(_, element)| self.entry(element))
            .collect()
    }

    /// Each part of a key fills whole registers of four bytes.
    fn key(self, port: &PortMapping) -> Vec<u8> {
        let mut key = Vec::with_capacity(12);
        if let (Self::OneAddress, Some(IpAddr::V4(ip))) = (self, port.only_on()) {
            key.extend_from_slice(&ip.octets());
        }
        key.extend_from_slice(&[protocol_number(port.protocol), 0, 0, 0]);
        key.extend_from_slice(&padded_port(port.host_port));
        key
    }

    fn entry(self, element: &[u8]) -> Option<Entry> {
        let bytes = |kind| find(find(element, kind)?, DATA_VALUE);
        let (key, target) = (bytes(ELEMENT_KEY)?, bytes(ELEMENT_DATA)?);
        let (host_ip, key) = match self {
            Self::AllAddresses => (None, key),
            Self::OneAddress => {
                let (ip, rest) = key.split_first_chunk::<4>()?;
                (Some(IpAddr::from(*ip)), rest)
            }
        };
        let (address, container_port) = target.split_first_chunk::<4>()?;
        Some(Entry {
            owner: find(element, ELEMENT_USERDATA).and_then(comment).unwrap_or_default(),
            port: PortMapping {
                protocol: protocol(*key.first()?)?,
                host_ip,
                host_port: port(key.get(4..)?)?,
                container_port: port(container_port)?,
            },
            address: Ipv4Addr::from(*address),
        })
    }
}

/// A text as userdata: what nft(8) shows as `comment` (NFTNL_UDATA_*_COMMENT: type 0, length, text with a zero byte).
pub(super) fn as_comment(text: &str) -> Vec<u8> {
    // Kernel and nft allow 128 bytes; table and bridge names and pod ids keep far below.
    let text = &text.as_bytes()[..text.len().min(127)];
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![0, length];
    bytes.extend_from_slice(text);
    bytes.push(0);
    bytes
}

/// The comment in userdata.
pub(super) fn comment(userdata: &[u8]) -> Option<String> {
    let [0, length, rest @ ..] = userdata else { return None };
    let text = rest.get(..usize::from(*length))?;
    String::from_utf8(text.strip_suffix(&[0])?.to_vec()).ok()
}

fn padded_port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk()?))
}

/// IPPROTO_* of netinet/in.h.
fn protocol_number(protocol: Protocol) -> u8 {
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

    fn entry(host_ip: Option<&str>) -> Entry {
        Entry {
            owner: "ab".repeat(32),
            port: PortMapping {
                protocol: Protocol::Sctp,
                host_ip: host_ip.map(|ip| ip.parse().unwrap()),
                host_port: 8080,
                container_port: 80,
            },
            address: Ipv4Addr::new(10, 88, 0, 2),
        }
    }

    #[test]
    fn every_entry_has_one_map() {
        let cases = [
            ("all", None, Map::AllAddresses),
            ("0.0.0.0 is all", Some("0.0.0.0"), Map::AllAddresses),
            ("one", Some("192.0.2.1"), Map::OneAddress),
        ];
        for (what, host_ip, expected) in cases {
            let maps: Vec<_> =
                Map::ALL.into_iter().filter(|map| map.holds(&entry(host_ip))).collect();
            assert_eq!(maps, [expected], "{what}");
        }
    }

    #[test]
    fn keys_fill_whole_registers() {
        let one = entry(Some("192.0.2.1")).port;
        let key = [192, 0, 2, 1, 132, 0, 0, 0, 0x1f, 0x90, 0, 0];
        assert_eq!(Map::OneAddress.key(&one), key);
        assert_eq!(Map::AllAddresses.key(&one), key[4..]);
        for map in Map::ALL {
            assert_eq!(map.shape().key_bytes as usize, map.key(&one).len());
        }
    }

    #[test]
    fn comments_read_back() {
        for text in ["", "a", &"f".repeat(64)] {
            assert_eq!(comment(&as_comment(text)).as_deref(), Some(text));
        }
        for broken in [&[][..], &[0], &[0, 9, b'a', 0], &[1, 2, b'a', 0], &[0, 1, b'a']] {
            assert_eq!(comment(broken), None, "{broken:?}");
        }
    }
}
