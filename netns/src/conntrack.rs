//! Connections that the kernel tracks, as far as pods leave stale ones: UDP has no end, so a peer that goes on sending keeps
//! the translation that its first packet got, to a pod that is gone or past one that is new.

use std::net::IpAddr;

use rustix::io::Errno;

use crate::firewall::protocol_number;
use crate::netlink::{Error, Request, Socket, find};
use crate::network::{Attached, PortMapping, Protocol};

const SUBSYSTEM: u8 = 1; // NFNL_SUBSYS_CTNETLINK
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;

/// Has the kernel forget the UDP connections to the pod's host ports.
///
/// The kernel picks them by port (since Linux 5.8), so that a node with many connections is not held up.
pub(crate) fn forget(pod: &Attached) -> Result<(), Error> {
    let ports = pod.ports.iter().filter(|port| port.protocol == Protocol::Udp);
    let mut socket: Option<Socket> = None;
    for port in ports {
        for ipv6 in [false, true] {
            if port.is_for(ipv6) && pod.addresses.iter().any(|ip| ip.is_ipv6() == ipv6) {
                let socket = match &mut socket {
                    Some(socket) => socket,
                    none => none.insert(Socket::netfilter()?),
                };
                forget_port(socket, port, ipv6)?;
            }
        }
    }
    Ok(())
}

fn forget_port(socket: &mut Socket, port: &PortMapping, ipv6: bool) -> Result<(), Error> {
    let found = socket.list(&question(port, ipv6), |message| {
        let attributes = message.payload.get(4..).unwrap_or_default();
        find(attributes, TUPLE_ORIG).map(<[u8]>::to_vec).into_iter().collect()
    });
    let tuples = match found {
        // A kernel without connection tracking, or before 5.8.
        Err(err) if err.is(Errno::OPNOTSUPP) || err.is(Errno::INVAL) => return Ok(()),
        found => found?,
    };
    for tuple in tuples.into_iter().filter(|tuple| is_to(tuple, port.only_on())) {
        let mut delete = request(DELETE, ipv6);
        delete.nest(TUPLE_ORIG, |nested| {
            nested.raw(&tuple);
        });
        match socket.change(&[delete]) {
            Err(err) if err.is(Errno::NOENT) => {} // It ended meanwhile.
            result => result?,
        }
    }
    Ok(())
}

/// Asks for UDP connections to the host port.
fn question(port: &PortMapping, ipv6: bool) -> Request {
    const FILTER: u16 = 25;
    const FILTER_ORIG_FLAGS: u16 = 1;
    const FILTER_REPLY_FLAGS: u16 = 2;
    const PROTO_NUM: u32 = 1 << 3;
    const PROTO_DST_PORT: u32 = 1 << 5;
    const PROTO_NUMBER: u16 = 1;
    const PROTO_PORT: u16 = 3;
    let mut question = request(GET, ipv6);
    question.nest(FILTER, |filter| {
        filter.attribute(FILTER_ORIG_FLAGS, &(PROTO_NUM | PROTO_DST_PORT).to_ne_bytes());
        filter.attribute(FILTER_REPLY_FLAGS, &0_u32.to_ne_bytes());
    });
    question.nest(TUPLE_ORIG, |tuple| {
        tuple.nest(TUPLE_PROTO, |proto| {
            proto.attribute(PROTO_NUMBER, &[protocol_number(Protocol::Udp)]);
            proto.attribute(PROTO_PORT, &port.host_port.to_be_bytes());
        });
    });
    question
}

/// Whether a tuple's destination is `address`; any if there is none.
fn is_to(tuple: &[u8], address: Option<IpAddr>) -> bool {
    const V4_DESTINATION: u16 = 2;
    const V6_DESTINATION: u16 = 4;
    let ip = find(tuple, TUPLE_IP).unwrap_or_default();
    match address {
        None => true,
        Some(IpAddr::V4(wanted)) => find(ip, V4_DESTINATION) == Some(&wanted.octets()),
        Some(IpAddr::V6(wanted)) => find(ip, V6_DESTINATION) == Some(&wanted.octets()),
    }
}

fn request(kind: u16, ipv6: bool) -> Request {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    let family = if ipv6 { AF_INET6 } else { AF_INET };
    Request::new(u16::from_be_bytes([SUBSYSTEM, 0]) | kind, 0, &[family, 0, 0, 0])
}
