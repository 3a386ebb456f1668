//! The expressions that rules are made of, as nft(8) compiles them (`nft --debug=netlink`).
//!
//! A rule is a list of small steps over a file of registers: load something of the packet, compare it (and leave the rule
//! if it does not fit), look it up, act on it.

use super::set::{Set, value};
use crate::netlink::Request;

/// The list of expressions of one rule, in the making.
pub(super) struct Expressions<'a> {
    list: &'a mut Request,
}

/// The first 32-bit register (NFT_REG32_00). Keys of several parts lie in the registers from here on.
const FIRST: u32 = 8;

/// Something in a packet: base (NFT_PAYLOAD_*), offset and length in bytes.
#[derive(Clone, Copy)]
pub(super) struct Field(u32, u32, u32);

impl Field {
    const LINK_HEADER: u32 = 0;
    const NETWORK_HEADER: u32 = 1;
    const TRANSPORT_HEADER: u32 = 2;
    pub(super) const ETHER_SOURCE: Self = Self(Self::LINK_HEADER, 6, 6);
    pub(super) const ETHER_TYPE: Self = Self(Self::LINK_HEADER, 12, 2);
    pub(super) const ARP_STATION: Self = Self(Self::NETWORK_HEADER, 8, 6);
    pub(super) const ARP_SENDER: Self = Self(Self::NETWORK_HEADER, 14, 4);
    pub(super) const SOURCE4: Self = Self(Self::NETWORK_HEADER, 12, 4);
    pub(super) const DESTINATION4: Self = Self(Self::NETWORK_HEADER, 16, 4);
    pub(super) const SOURCE6: Self = Self(Self::NETWORK_HEADER, 8, 16);
    pub(super) const DESTINATION6: Self = Self(Self::NETWORK_HEADER, 24, 16);
    /// TCP, UDP and SCTP have it in the same place, and the protocol is part of every key.
    pub(super) const DESTINATION_PORT: Self = Self(Self::TRANSPORT_HEADER, 2, 2);
    pub(super) const ICMP_TYPE: Self = Self(Self::TRANSPORT_HEADER, 0, 1);
    /// The address that a neighbour advertisement is about.
    pub(super) const ND_TARGET: Self = Self(Self::TRANSPORT_HEADER, 8, 16);
}

/// Something that the kernel knows of a packet (NFT_META_*).
#[derive(Clone, Copy)]
pub(super) struct Meta(u32);

impl Meta {
    pub(super) const LINK: Self = Self(6);
    pub(super) const OUT_LINK: Self = Self(7);
    pub(super) const FAMILY: Self = Self(15);
    pub(super) const PROTOCOL: Self = Self(16);
}

/// What becomes of a packet.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    Drop = 0,
    Accept = 1,
}

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

    /// Puts a field into the registers from `part` on, each of four bytes.
    pub(super) fn load(&mut self, Field(base, offset, length): Field, part: u32) -> &mut Self {
        self.numbers("payload", &[(1, FIRST + part), (2, base), (3, offset), (4, length)])
    }

    pub(super) fn load_meta(&mut self, Meta(key): Meta, part: u32) -> &mut Self {
        self.numbers("meta", &[(1, FIRST + part), (2, key)])
    }

    /// Goes on only if the field is `bytes`.
    pub(super) fn is(&mut self, field: Field, bytes: &[u8]) -> &mut Self {
        self.load(field, 0).compare(Must::Equal, bytes)
    }

    pub(super) fn is_meta(&mut self, meta: Meta, bytes: &[u8]) -> &mut Self {
        self.load_meta(meta, 0).compare(Must::Equal, bytes)
    }

    /// Goes on only if the packet came by the link called `name`.
    pub(super) fn came_by(&mut self, name: &str) -> &mut Self {
        self.is_meta(Meta::LINK, &terminated(name))
    }

    /// Goes on only if the packet leaves by the link called `name`.
    pub(super) fn leaves_by(&mut self, name: &str) -> &mut Self {
        self.is_meta(Meta::OUT_LINK, &terminated(name))
    }

    /// Goes on only if the field begins with `bytes`, which is as long as the field with zeroes for what does not matter.
    pub(super) fn is_masked(&mut self, field: Field, mask: &[u8], bytes: &[u8]) -> &mut Self {
        self.load(field, 0).mask(mask).compare(Must::Equal, bytes)
    }

    pub(super) fn is_not_masked(&mut self, field: Field, mask: &[u8], bytes: &[u8]) -> &mut Self {
        self.load(field, 0).mask(mask).compare(Must::Differ, bytes)
    }

    /// Goes on only if what was loaded is in `set`.
    pub(super) fn is_in(&mut self, set: Set) -> &mut Self {
        self.expression("lookup", |data| {
            data.text(1, set.name()).attribute(2, &FIRST.to_be_bytes());
        })
    }

    /// Goes on only if what was loaded is not in `set`.
    pub(super) fn is_not_in(&mut self, set: Set) -> &mut Self {
        const INVERSE: u32 = 1;
        self.expression("lookup", |data| {
            data.text(1, set.name()).attribute(2, &FIRST.to_be_bytes());
            data.attribute(5, &INVERSE.to_be_bytes());
        })
    }

    /// Replaces the key by what `map` has for it; without an entry the rule ends here.
    pub(super) fn look_up(&mut self, map: Set) -> &mut Self {
        self.expression("lookup", |data| {
            data.text(1, map.name());
            data.attribute(2, &FIRST.to_be_bytes()).attribute(3, &FIRST.to_be_bytes());
        })
    }

    /// Sends the connection to the address and port that `look_up` found. `family` is NFPROTO_IPV4 or NFPROTO_IPV6.
    pub(super) fn translate_destination(&mut self, family: u8) -> &mut Self {
        const DNAT: u32 = 1;
        let port = if family == super::IPV4 { FIRST + 1 } else { FIRST + 4 };
        self.numbers("nat", &[(1, DNAT), (2, family.into()), (3, FIRST), (5, port)])
    }

    /// Goes on only if the destination is an address of this host (`fib daddr type local`).
    pub(super) fn is_for_this_host(&mut self) -> &mut Self {
        const ADDRESS_TYPE: u32 = 3;
        const BY_DESTINATION: u32 = 2;
        const RTN_LOCAL: u32 = 2;
        self.numbers("fib", &[(1, FIRST), (2, ADDRESS_TYPE), (3, BY_DESTINATION)]);
        self.compare(Must::Equal, &RTN_LOCAL.to_ne_bytes())
    }

    /// Goes on only if something has translated the connection's destination (`ct status dnat`).
    pub(super) fn destination_was_translated(&mut self) -> &mut Self {
        const STATUS: u32 = 2;
        const IPS_DST_NAT: u32 = 1 << 5;
        self.numbers("ct", &[(1, FIRST), (2, STATUS)]);
        self.mask(&IPS_DST_NAT.to_ne_bytes()).compare(Must::Differ, &[0; 4])
    }

    /// Gives the connection the address of the link it leaves by.
    pub(super) fn masquerade(&mut self) -> &mut Self {
        self.numbers("masq", &[])
    }

    /// Counts packets, as iptables has every rule do.
    pub(super) fn count(&mut self) -> &mut Self {
        self.expression("counter", |_| {})
    }

    /// Goes on in another chain.
    pub(super) fn jump(&mut self, chain: &str) -> &mut Self {
        const JUMP: i32 = -3;
        self.decide(&JUMP.to_be_bytes(), Some(chain))
    }

    pub(super) fn verdict(&mut self, verdict: Verdict) -> &mut Self {
        self.decide(&(verdict as u32).to_be_bytes(), None)
    }

    fn decide(&mut self, code: &[u8; 4], chain: Option<&str>) -> &mut Self {
        const VERDICT_REGISTER: u32 = 0;
        self.expression("immediate", |data| {
            data.attribute(1, &VERDICT_REGISTER.to_be_bytes()).nest(2, |value| {
                value.nest(2, |verdict| {
                    verdict.attribute(1, code);
                    if let Some(chain) = chain {
                        verdict.text(2, chain);
                    }
                });
            });
        })
    }

    fn mask(&mut self, mask: &[u8]) -> &mut Self {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        self.expression("bitwise", |data| {
            for (kind, number) in [(1, FIRST), (2, FIRST), (3, length)] {
                data.attribute(kind, &number.to_be_bytes());
            }
            value(data, 4, mask);
            value(data, 5, &vec![0; mask.len()]);
        })
    }

    fn compare(&mut self, must: Must, with: &[u8]) -> &mut Self {
        self.expression("cmp", |data| {
            data.attribute(1, &FIRST.to_be_bytes()).attribute(2, &(must as u32).to_be_bytes());
            value(data, 3, with);
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

/// A link's name with the zero byte that ends it, as iptables compares it as well.
fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
