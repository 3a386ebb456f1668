//! The expressions that rules are made of, as nft(8) compiles them (`nft --debug=netlink`).
//!
//! A rule is a list of small steps over a file of registers: load something of the packet, compare it (and leave the rule
//! if it does not fit), look it up, act on it.

use std::net::Ipv4Addr;

use crate::netlink::Request;

/// The list of expressions of one rule, in the making.
pub(super) struct Expressions<'a> {
    list: &'a mut Request,
}

/// The first 32-bit register (NFT_REG32_00). Keys of several parts lie in the registers from here on, one part each.
const FIRST: u32 = 8;

// Where things are in a packet: base (NFT_PAYLOAD_*), offset and length in bytes.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const SOURCE: (u32, u32, u32) = (NETWORK_HEADER, 12, 4);
const DESTINATION: (u32, u32, u32) = (NETWORK_HEADER, 16, 4);
const DESTINATION_PORT: (u32, u32, u32) = (TRANSPORT_HEADER, 2, 2);

/// NFT_CMP_EQ and NFT_CMP_NEQ.
#[derive(Clone, Copy)]
enum Must {
    Equal = 0,
    Differ = 1,
}

impl<'a> Expressions<'a> {
    pub(super) fn new(list: &'a mut Request) -> Self {
        Self { list }
    }

    /// Puts the destination address into register `part` of the key.
    pub(super) fn load_destination(&mut self, part: u32) -> &mut Self {
        self.load(DESTINATION, FIRST + part)
    }

    /// Puts the destination port into register `part` of the key. TCP, UDP and SCTP have it in the same place, and the
    /// protocol is part of every key.
    pub(super) fn load_destination_port(&mut self, part: u32) -> &mut Self {
        self.load(DESTINATION_PORT, FIRST + part)
    }

    /// Puts the number of the transport protocol into register `part` of the key.
    pub(super) fn load_protocol(&mut self, part: u32) -> &mut Self {
        const L4PROTO: u32 = 16;
        self.numbers("meta", &[(1, FIRST + part), (2, L4PROTO)])
    }

    /// Replaces the key by what `map` has for it; without an entry the rule ends here.
    pub(super) fn look_up(&mut self, map: &str) -> &mut Self {
        self.expression("lookup", |data| {
            data.text(1, map);
            data.attribute(2, &FIRST.to_be_bytes()).attribute(3, &FIRST.to_be_bytes());
        })
    }

    /// Sends the connection to the address and port that `look_up` found.
    pub(super) fn translate_destination(&mut self) -> &mut Self {
        const DNAT: u32 = 1;
        const IPV4: u32 = 2;
        self.numbers("nat", &[(1, DNAT), (2, IPV4), (3, FIRST), (5, FIRST + 1)])
    }

    /// Goes on only if the destination is an address of this host (`fib daddr type local`).
    pub(super) fn is_for_this_host(&mut self) -> &mut Self {
        const ADDRESS_TYPE: u32 = 3;
        const BY_DESTINATION: u32 = 2;
        const RTN_LOCAL: u32 = 2;
        self.numbers("fib", &[(1, FIRST), (2, ADDRESS_TYPE), (3, BY_DESTINATION)]);
        self.compare(Must::Equal, RTN_LOCAL.to_ne_bytes())
    }

    /// Goes on only if something has translated the connection's destination (`ct status dnat`).
    pub(super) fn destination_was_translated(&mut self) -> &mut Self {
        const STATUS: u32 = 2;
        const IPS_DST_NAT: u32 = 1 << 5;
        self.numbers("ct", &[(1, FIRST), (2, STATUS)]);
        self.mask(IPS_DST_NAT.to_ne_bytes()).compare(Must::Differ, [0; 4])
    }

    pub(super) fn source_inside(&mut self, network: Ipv4Addr, mask: Ipv4Addr) -> &mut Self {
        self.load(SOURCE, FIRST).mask(mask.octets()).compare(Must::Equal, network.octets())
    }

    pub(super) fn destination_inside(&mut self, network: Ipv4Addr, mask: Ipv4Addr) -> &mut Self {
        self.load(DESTINATION, FIRST).mask(mask.octets()).compare(Must::Equal, network.octets())
    }

    pub(super) fn destination_outside(&mut self, network: Ipv4Addr, mask: Ipv4Addr) -> &mut Self {
        self.load(DESTINATION, FIRST).mask(mask.octets()).compare(Must::Differ, network.octets())
    }

    /// Gives the connection the address of the link it leaves by.
    pub(super) fn masquerade(&mut self) -> &mut Self {
        self.numbers("masq", &[])
    }

    /// Goes on in another chain.
    pub(super) fn jump(&mut self, chain: &str) -> &mut Self {
        const VERDICT_REGISTER: u32 = 0;
        const JUMP: i32 = -3;
        self.expression("immediate", |data| {
            data.attribute(1, &VERDICT_REGISTER.to_be_bytes()).nest(2, |value| {
                value.nest(2, |verdict| {
                    verdict.attribute(1, &JUMP.to_be_bytes()).text(2, chain);
                });
            });
        })
    }

    fn load(&mut self, (base, offset, length): (u32, u32, u32), register: u32) -> &mut Self {
        self.numbers("payload", &[(1, register), (2, base), (3, offset), (4, length)])
    }

    fn mask(&mut self, mask: [u8; 4]) -> &mut Self {
        self.expression("bitwise", |data| {
            for (kind, number) in [(1, FIRST), (2, FIRST), (3, 4)] {
                data.attribute(kind, &number.to_be_bytes());
            }
            value(data, 4, &mask);
            value(data, 5, &[0; 4]);
        })
    }

    fn compare(&mut self, must: Must, with: [u8; 4]) -> &mut Self {
        self.expression("cmp", |data| {
            data.attribute(1, &FIRST.to_be_bytes()).attribute(2, &(must as u32).to_be_bytes());
            value(data, 3, &with);
        })
    }

    /// An expression all of whose attributes are numbers.
    fn numbers(&mut self, name: &str, attributes: &[(u16, u32)]) -> &mut Self {
        self.expression(name, |data| {
            for (kind, number) in attributes {
                data.attribute(*kind, &number.to_be_bytes());
            }
        })
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Request)) -> &mut Self {
        const LIST_ELEMENT: u16 = 1;
        self.list.nest(LIST_ELEMENT, |expression| {
            expression.text(1, name).nest(2, fill);
        });
        self
    }
}

/// A constant: `bytes` as NFTA_DATA_VALUE inside attribute `kind`.
pub(super) fn value(request: &mut Request, kind: u16, bytes: &[u8]) {
    request.nest(kind, |data| {
        data.attribute(1, bytes);
    });
}
