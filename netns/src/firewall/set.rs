//! The sets and maps of the two tables, and their elements. Each element carries its pod's id as comment.

use std::net::IpAddr;

use super::{Family, request};
use crate::netlink::{Message, Request, attributes, find};

const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_USERDATA: u16 = 6;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const DATA_VALUE: u16 = 1;

/// A set, or a map where it has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    /// Networks that pods have addresses of. Their elements are ranges.
    Networks4,
    Networks6,
    /// Host ports open on every address of the host.
    Ports4,
    Ports6,
    /// Host ports open on one address of the host.
    PortsOn4,
    PortsOn6,
    /// Links that lead to pods.
    Links,
    /// The hardware address that each may send from.
    Stations,
    /// The addresses that each may send from.
    Senders4,
    Senders6,
}

/// What the kernel and nft(8) have to know of a set.
struct Shape {
    name: &'static str,
    /// Types of the parts of a key as nft(8) numbers them; the kernel only keeps them.
    key: &'static [Type],
    /// The same of what a map leads to.
    data: &'static [Type],
}

/// `enum datatypes` of nft(8), with the bytes that each takes.
#[derive(Clone, Copy)]
enum Type {
    Ipv4 = 7,
    Ipv6 = 8,
    Ether = 9,
    Protocol = 12,
    Port = 13,
    Link = 41,
}

impl Type {
    /// Parts of a key fill whole registers of four bytes.
    fn bytes(self) -> u32 {
        match self {
            Self::Ipv4 | Self::Protocol | Self::Port => 4,
            Self::Ether => 8,
            Self::Ipv6 | Self::Link => 16,
        }
    }
}

/// One element: what is looked up, what a map has for it, and the pod it is there for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) set: Set,
    pub(super) key: Vec<u8>,
    pub(super) data: Vec<u8>,
    /// Ends the range that the element before begins.
    pub(super) ends_range: bool,
    pub(super) owner: String,
}

impl Set {
    pub(super) const ALL: [Self; 10] = [
        Self::Networks4,
        Self::Networks6,
        Self::Ports4,
        Self::Ports6,
        Self::PortsOn4,
        Self::PortsOn6,
        Self::Links,
        Self::Stations,
        Self::Senders4,
        Self::Senders6,
    ];

    fn shape(self) -> Shape {
        use Type::{Ether, Ipv4, Ipv6, Link, Port, Protocol};
        let shape = |name, key, data| Shape { name, key, data };
        match self {
            Self::Networks4 => shape("networks4", &[Ipv4], &[]),
            Self::Networks6 => shape("networks6", &[Ipv6], &[]),
            Self::Ports4 => shape("ports4", &[Protocol, Port], &[Ipv4, Port]),
            Self::Ports6 => shape("ports6", &[Protocol, Port], &[Ipv6, Port]),
            Self::PortsOn4 => shape("ports_on4", &[Ipv4, Protocol, Port], &[Ipv4, Port]),
            Self::PortsOn6 => shape("ports_on6", &[Ipv6, Protocol, Port], &[Ipv6, Port]),
            Self::Links => shape("links", &[Link], &[]),
            Self::Stations => shape("stations", &[Link, Ether], &[]),
            Self::Senders4 => shape("senders4", &[Link, Ether, Ipv4], &[]),
            Self::Senders6 => shape("senders6", &[Link, Ether, Ipv6], &[]),
        }
    }

    pub(super) fn name(self) -> &'static str {
        self.shape().name
    }

    pub(super) fn family(self) -> Family {
        match self {
            Self::Networks4
            | Self::Networks6
            | Self::Ports4
            | Self::Ports6
            | Self::PortsOn4
            | Self::PortsOn6 => Family::Inet,
            Self::Links | Self::Stations | Self::Senders4 | Self::Senders6 => Family::Bridge,
        }
    }

    /// Whether it leads to pods' ports.
    pub(super) fn is_ports(self) -> bool {
        !self.shape().data.is_empty()
    }

    pub(super) fn is_networks(self) -> bool {
        matches!(self, Self::Networks4 | Self::Networks6)
    }

    /// A request to make it, empty.
    pub(super) fn create(self, table: &str) -> Request {
        const NEWSET: u16 = 9;
        const SET_TABLE: u16 = 1;
        const SET_NAME: u16 = 2;
        const SET_FLAGS: u16 = 3;
        const SET_KEY_TYPE: u16 = 4;
        const SET_KEY_LEN: u16 = 5;
        const SET_DATA_TYPE: u16 = 6;
        const SET_DATA_LEN: u16 = 7;
        const SET_ID: u16 = 10;
        const IS_INTERVAL: u32 = 0x4;
        const IS_MAP: u32 = 0x8;
        let shape = self.shape();
        let interval = if self.is_networks() { IS_INTERVAL } else { 0 };
        let map = if self.is_ports() { IS_MAP } else { 0 };
        let mut request = request(NEWSET, crate::netlink::flag::CREATE, self.family());
        request.text(SET_TABLE, table).text(SET_NAME, shape.name);
        let mut number = |kind, number: u32| {
            request.attribute(kind, &number.to_be_bytes());
        };
        number(SET_FLAGS, interval | map);
        number(SET_KEY_TYPE, concatenated(shape.key));
        number(SET_KEY_LEN, bytes_of(shape.key));
        if map != 0 {
            number(SET_DATA_TYPE, concatenated(shape.data));
            number(SET_DATA_LEN, bytes_of(shape.data));
        }
        number(SET_ID, self as u32 + 1);
        request
    }

    /// Begins a request about elements.
    pub(super) fn question(self, kind: u16, flags: u16, table: &str) -> Request {
        let mut request = request(kind, flags, self.family());
        request.text(LIST_TABLE, table).text(LIST_SET, self.name());
        request
    }

    /// The elements in one message of a listing.
    pub(super) fn read(self, message: &Message<'_>) -> Vec<Element> {
        let list = message.payload.get(4..).and_then(|bytes| find(bytes, LIST_ELEMENTS));
        attributes(list.unwrap_or_default())
            .filter_map(|(_, element)| {
                let value = |kind| find(find(element, kind)?, DATA_VALUE).map(<[u8]>::to_vec);
                let flags = find(element, ELEMENT_FLAGS).unwrap_or_default();
                Some(Element {
                    set: self,
                    key: value(ELEMENT_KEY)?,
                    data: value(ELEMENT_DATA).unwrap_or_default(),
                    ends_range: flags.last().is_some_and(|flags| flags & 1 != 0),
                    owner: find(element, ELEMENT_USERDATA).and_then(comment).unwrap_or_default(),
                })
            })
            .collect()
    }
}

fn concatenated(types: &[Type]) -> u32 {
    types.iter().fold(0, |all, part| (all << 6) | *part as u32)
}

fn bytes_of(types: &[Type]) -> u32 {
    types.iter().map(|part| part.bytes()).sum()
}

/// Requests that add `elements` to their sets or take them away, as few as can be.
pub(super) fn changes(kind: u16, flags: u16, table: &str, elements: &[Element]) -> Vec<Request> {
    // Keeps each message's element list well below an attribute's 64 KiB.
    const ELEMENTS: usize = 200;
    let mut batch = Vec::new();
    for set in Set::ALL {
        let of_set: Vec<&Element> = elements.iter().filter(|element| element.set == set).collect();
        for some in of_set.chunks(ELEMENTS) {
            let mut request = set.question(kind, flags, table);
            request.nest(LIST_ELEMENTS, |list| some.iter().for_each(|element| element.write(list)));
            batch.push(request);
        }
    }
    batch
}

impl Element {
    pub(super) fn new(set: Set, owner: &str, key: Vec<u8>) -> Self {
        Self { set, key, data: Vec::new(), ends_range: false, owner: owner.to_owned() }
    }

    /// Whether both stand for the same thing, whatever they lead to.
    pub(super) fn has_key_of(&self, other: &Self) -> bool {
        self.set == other.set && self.key == other.key && self.ends_range == other.ends_range
    }

    fn write(&self, list: &mut Request) {
        const LIST_ELEMENT: u16 = 1;
        list.nest(LIST_ELEMENT, |element| {
            value(element, ELEMENT_KEY, &self.key);
            if !self.data.is_empty() {
                value(element, ELEMENT_DATA, &self.data);
            }
            if self.ends_range {
                element.attribute(ELEMENT_FLAGS, &1_u32.to_be_bytes());
            } else if !self.owner.is_empty() {
                element.attribute(ELEMENT_USERDATA, &as_comment(&self.owner));
            }
        });
    }
}

/// A constant: `bytes` as NFTA_DATA_VALUE inside attribute `kind`.
pub(super) fn value(request: &mut Request, kind: u16, bytes: &[u8]) {
    request.nest(kind, |data| {
        data.attribute(DATA_VALUE, bytes);
    });
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

/// An address as it stands in packets.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_read_back() {
        for text in ["", "a", &"f".repeat(64)] {
            assert_eq!(comment(&as_comment(text)).as_deref(), Some(text));
        }
        for broken in [&[][..], &[0], &[0, 9, b'a', 0], &[1, 2, b'a', 0], &[0, 1, b'a']] {
            assert_eq!(comment(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn names_differ() {
        let names: std::collections::BTreeSet<_> = Set::ALL.iter().map(|set| set.name()).collect();
        assert_eq!(names.len(), Set::ALL.len());
    }
}
