//! The chains and rules of the two tables. They are static: a pod only adds elements to sets.

use super::expression::{Expressions, Field, Meta, Verdict};
use super::set::{Set, as_comment};
use super::{Family, IPV4, IPV6, request};
use crate::netlink::{Request, flag};

const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;

/// The hooks of linux/netfilter.h that chains hang on.
#[derive(Clone, Copy)]
enum Hook {
    Prerouting = 0,
    Output = 3,
    Postrouting = 4,
}

/// Where a chain hangs: what kind it is, on which hook, and how early.
type Base = (&'static str, Hook, i32);

/// Behind the standard `dstnat` and `srcnat`: see the module.
const NAT_DESTINATION: i32 = -90;
const NAT_SOURCE: i32 = 110;
/// Before connections are tracked and translated back.
const RAW: i32 = -300;

/// All chains of both tables.
pub(super) fn chains(table: &str) -> Vec<Request> {
    use Family::{Bridge, Inet};
    vec![
        chain(table, Inet, "host_ports4", None),
        chain(table, Inet, "host_ports6", None),
        chain(table, Inet, "loopback", Some(("filter", Hook::Prerouting, RAW))),
        chain(table, Inet, "prerouting", Some(("nat", Hook::Prerouting, NAT_DESTINATION))),
        chain(table, Inet, "output", Some(("nat", Hook::Output, NAT_DESTINATION))),
        chain(table, Inet, "postrouting", Some(("nat", Hook::Postrouting, NAT_SOURCE))),
        chain(table, Bridge, "from_pods", None),
        chain(table, Bridge, "prerouting", Some(("filter", Hook::Prerouting, RAW))),
    ]
}

/// All rules of both tables, in order. `bridge` is the bridge's name.
pub(super) fn rules(table: &str, bridge: &str) -> Vec<Request> {
    let mut rules = host_port_rules(table);
    rules.extend(source_rules(table));
    rules.extend(loopback_rules(table, bridge));
    rules.extend(identity_rules(table));
    rules
}

/// How many rules each table has.
pub(super) fn counts(table: &str, bridge: &str) -> [(Family, usize); 2] {
    let of_bridge = identity_rules(table).len();
    [(Family::Inet, rules(table, bridge).len() - of_bridge), (Family::Bridge, of_bridge)]
}

fn host_port_rules(table: &str) -> Vec<Request> {
    let mut rules = Vec::new();
    let families = [
        (IPV4, "host_ports4", Field::DESTINATION4, 1, Set::PortsOn4, Set::Ports4),
        (IPV6, "host_ports6", Field::DESTINATION6, 4, Set::PortsOn6, Set::Ports6),
    ];
    for (family, chain, destination, width, on_one, on_all) in families {
        rules.push(rule(table, Family::Inet, chain, |packet| {
            packet.load(destination, 0).load_meta(Meta::PROTOCOL, width);
            packet.load(Field::DESTINATION_PORT, width + 1).look_up(on_one);
            packet.translate_destination(family);
        }));
        rules.push(rule(table, Family::Inet, chain, |packet| {
            packet.load_meta(Meta::PROTOCOL, 0).load(Field::DESTINATION_PORT, 1);
            packet.look_up(on_all).translate_destination(family);
        }));
        for hook in ["prerouting", "output"] {
            rules.push(rule(table, Family::Inet, hook, |packet| {
                packet.is_meta(Meta::FAMILY, &[family]);
                if family == IPV6 {
                    // What goes to ::1 comes from there, and never leaves the host, whatever it is translated to.
                    packet.is_not_masked(destination, &[0xff; 16], LOOPBACK6);
                }
                packet.is_for_this_host().jump(chain);
            }));
        }
    }
    rules
}

fn source_rules(table: &str) -> Vec<Request> {
    let mut rules = Vec::new();
    let mut multicast6 = [0; 16];
    multicast6[0] = 0xff;
    let families = [
        (
            IPV4,
            Field::SOURCE4,
            Field::DESTINATION4,
            Set::Networks4,
            &[224, 0, 0, 0][..],
            &[240, 0, 0, 0][..],
        ),
        (
            IPV6,
            Field::SOURCE6,
            Field::DESTINATION6,
            Set::Networks6,
            &multicast6[..],
            &multicast6[..],
        ),
    ];
    for (family, source, destination, networks, multicast, mask) in families {
        rules.push(rule(table, Family::Inet, "postrouting", |packet| {
            packet.is_meta(Meta::FAMILY, &[family]).load(source, 0).is_in(networks);
            packet.load(destination, 0).is_not_in(networks);
            packet.is_not_masked(destination, mask, multicast).masquerade();
        }));
        rules.push(rule(table, Family::Inet, "postrouting", |packet| {
            packet.is_meta(Meta::FAMILY, &[family]).load(source, 0).is_in(networks);
            packet.load(destination, 0).is_in(networks);
            packet.destination_was_translated().masquerade();
        }));
    }
    rules.push(rule(table, Family::Inet, "postrouting", |packet| {
        packet.is_meta(Meta::FAMILY, &[IPV4]).is_masked(Field::SOURCE4, &[255, 0, 0, 0], LOOPBACK);
        packet.load(Field::DESTINATION4, 0).is_in(Set::Networks4).masquerade();
    }));
    rules
}

const LOOPBACK: &[u8] = &[127, 0, 0, 0];
const LOOPBACK6: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// What comes from the bridge is neither from nor to 127.0.0.0/8, whatever `route_localnet` says (CVE-2020-8558).
/// Answers to a connection from there are translated back later.
fn loopback_rules(table: &str, bridge: &str) -> Vec<Request> {
    [Field::SOURCE4, Field::DESTINATION4]
        .map(|field| {
            rule(table, Family::Inet, "loopback", |packet| {
                packet.is_meta(Meta::FAMILY, &[IPV4]).came_by(bridge);
                packet.is_masked(field, &[255, 0, 0, 0], LOOPBACK).verdict(Verdict::Drop);
            })
        })
        .into()
}

fn identity_rules(table: &str) -> Vec<Request> {
    const ARP: &[u8] = &[0x08, 0x06];
    const IP: &[u8] = &[0x08, 0x00];
    const IP6: &[u8] = &[0x86, 0xdd];
    const ICMPV6: &[u8] = &[58];
    const ROUTER_ADVERTISEMENT: &[u8] = &[134];
    const NEIGHBOUR_ADVERTISEMENT: &[u8] = &[136];
    const REDIRECT: &[u8] = &[137];
    let from_pods =
        |write: &dyn Fn(&mut Expressions<'_>)| rule(table, Family::Bridge, "from_pods", write);
    let sender = |packet: &mut Expressions<'_>, station, address| {
        packet.load_meta(Meta::LINK, 0).load(station, 4).load(address, 6);
    };
    vec![
        rule(table, Family::Bridge, "prerouting", |packet| {
            packet.load_meta(Meta::LINK, 0).is_in(Set::Links).jump("from_pods");
        }),
        from_pods(&|packet| {
            packet.load_meta(Meta::LINK, 0).load(Field::ETHER_SOURCE, 4);
            packet.is_not_in(Set::Stations).verdict(Verdict::Drop);
        }),
        from_pods(&|packet| {
            packet.is(Field::ETHER_TYPE, IP);
            sender(packet, Field::ETHER_SOURCE, Field::SOURCE4);
            packet.is_in(Set::Senders4).verdict(Verdict::Accept);
        }),
        from_pods(&|packet| {
            packet.is(Field::ETHER_TYPE, ARP);
            sender(packet, Field::ARP_STATION, Field::ARP_SENDER);
            packet.is_in(Set::Senders4).verdict(Verdict::Accept);
        }),
        from_pods(&|packet| {
            packet.is(Field::ETHER_TYPE, IP6).is_meta(Meta::PROTOCOL, ICMPV6);
            packet.is(Field::ICMP_TYPE, NEIGHBOUR_ADVERTISEMENT);
            sender(packet, Field::ETHER_SOURCE, Field::ND_TARGET);
            packet.is_not_in(Set::Senders6).verdict(Verdict::Drop);
        }),
        from_pods(&|packet| {
            packet.is(Field::ETHER_TYPE, IP6).is_meta(Meta::PROTOCOL, ICMPV6);
            packet.is(Field::ICMP_TYPE, ROUTER_ADVERTISEMENT).verdict(Verdict::Drop);
        }),
        from_pods(&|packet| {
            packet.is(Field::ETHER_TYPE, IP6).is_meta(Meta::PROTOCOL, ICMPV6);
            packet.is(Field::ICMP_TYPE, REDIRECT).verdict(Verdict::Drop);
        }),
        from_pods(&|packet| {
            packet.is(Field::ETHER_TYPE, IP6);
            sender(packet, Field::ETHER_SOURCE, Field::SOURCE6);
            packet.is_in(Set::Senders6).verdict(Verdict::Accept);
        }),
        from_pods(&|packet| {
            packet.verdict(Verdict::Drop);
        }),
    ]
}

/// A chain; with a base, one that the kernel runs packets through.
fn chain(table: &str, family: Family, name: &str, base: Option<Base>) -> Request {
    const CHAIN_TABLE: u16 = 1;
    const CHAIN_NAME: u16 = 3;
    const CHAIN_HOOK: u16 = 4;
    const CHAIN_TYPE: u16 = 7;
    const HOOK_NUMBER: u16 = 1;
    const HOOK_PRIORITY: u16 = 2;
    let mut request = request(NEWCHAIN, flag::CREATE, family);
    request.text(CHAIN_TABLE, table).text(CHAIN_NAME, name);
    if let Some((kind, hook, priority)) = base {
        request.nest(CHAIN_HOOK, |attributes| {
            attributes.attribute(HOOK_NUMBER, &(hook as u32).to_be_bytes());
            attributes.attribute(HOOK_PRIORITY, &priority.to_be_bytes());
        });
        request.text(CHAIN_TYPE, kind);
    }
    request
}

fn rule(
    table: &str,
    family: Family,
    chain: &str,
    write: impl FnOnce(&mut Expressions<'_>),
) -> Request {
    let mut request = request(NEWRULE, flag::CREATE | flag::APPEND, family);
    write_rule(&mut request, table, chain, write);
    request
}

/// A rule at the beginning of a chain, with a comment by which it is known again.
pub(super) fn first_rule(
    (family, table, chain): (Family, &str, &str),
    note: &str,
    write: impl FnOnce(&mut Expressions<'_>),
) -> Request {
    const RULE_USERDATA: u16 = 7;
    let mut request = request(NEWRULE, flag::CREATE, family);
    write_rule(&mut request, table, chain, write);
    request.attribute(RULE_USERDATA, &as_comment(note));
    request
}

fn write_rule(
    request: &mut Request,
    table: &str,
    chain: &str,
    write: impl FnOnce(&mut Expressions<'_>),
) {
    const RULE_TABLE: u16 = 1;
    const RULE_CHAIN: u16 = 2;
    const RULE_EXPRESSIONS: u16 = 4;
    request.text(RULE_TABLE, table).text(RULE_CHAIN, chain);
    request.nest(RULE_EXPRESSIONS, |list| write(&mut Expressions::new(list)));
}
