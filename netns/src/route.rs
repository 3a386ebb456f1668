//! The rtnetlink requests pods need: links, addresses, routes. See rtnetlink(7) and linux/if_link.h.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::mac::Mac;
use crate::netlink::{Error, Message, Request, Socket, find, flag, number, text};

pub(crate) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;

const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;

const IFF_UP: u32 = 1;
const IF_OPER_UP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A link, as far as pods are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// "bridge", "veth"; empty for hardware.
    pub(crate) kind: String,
    /// Somebody wants it up.
    pub(crate) up: bool,
    /// Packets pass: it is up, has a carrier, and the kernel has acted on both. For links that tell about their carrier,
    /// as bridges and pairs do; others stay in an unknown state.
    pub(crate) carries: bool,
    /// The bridge it belongs to, by index.
    pub(crate) master: Option<u32>,
    pub(crate) mac: Vec<u8>,
    /// In bytes.
    pub(crate) mtu: u32,
    /// What we have noted on it.
    pub(crate) alias: String,
}

/// A pair of links: one on the bridge, its other end in a pod.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) host_link: &'a str,
    pub(crate) bridge: u32,
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) interface: &'a str,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) index: u32,
    pub(crate) ip: IpAddr,
}

/// `struct ifinfomsg`. Flags that are not in `change` stay as they are.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// A new bridge, down. The MAC address is given because a bridge without one of its own takes the lowest of its ports',
/// and so changes it under its neighbours' feet.
pub(crate) fn create_bridge(name: &str, mac: Mac, mtu: u32) -> Request {
    let mut request = Request::new(RTM_NEWLINK, flag::CREATE | flag::EXCL, &link_header(0, 0, 0));
    request.text(IFLA_IFNAME, name).attribute(IFLA_ADDRESS, &mac);
    request.attribute(IFLA_MTU, &mtu.to_ne_bytes());
    request.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "bridge");
    });
    request
}

/// Has a bridge learn nothing from frames to the link-local group addresses of IEEE 802.1D (`01:80:c2:00:00:0X`). They pass
/// no hook, so a pod could send one with another's MAC address and be taken for it. Since Linux 5.0.
pub(crate) fn learn_from_no_link_local(name: &str) -> Request {
    const IFLA_BR_MULTI_BOOLOPT: u16 = 46;
    const BR_BOOLOPT_NO_LL_LEARN: u32 = 1 << 0;
    // `struct br_boolopt_multi`: the values, and which of them are meant.
    let option =
        [BR_BOOLOPT_NO_LL_LEARN.to_ne_bytes(), BR_BOOLOPT_NO_LL_LEARN.to_ne_bytes()].concat();
    let mut request = Request::new(RTM_NEWLINK, 0, &link_header(0, 0, 0));
    request.text(IFLA_IFNAME, name).nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |data| {
            data.attribute(IFLA_BR_MULTI_BOOLOPT, &option);
        });
    });
    request
}

/// A new pair, both ends down: one on the bridge, the other made right inside the pod's namespace.
pub(crate) fn create_pair(pair: &Pair<'_>) -> Request {
    const VETH_INFO_PEER: u16 = 1;
    let both = |request: &mut Request| {
        // Otherwise veth allocates a queue per possible CPU at each end and uses one.
        request.attribute(IFLA_NUM_TX_QUEUES, &1_u32.to_ne_bytes());
        request.attribute(IFLA_NUM_RX_QUEUES, &1_u32.to_ne_bytes());
        request.attribute(IFLA_MTU, &pair.mtu.to_ne_bytes());
    };
    let mut request = Request::new(RTM_NEWLINK, flag::CREATE | flag::EXCL, &link_header(0, 0, 0));
    request.text(IFLA_IFNAME, pair.host_link).attribute(IFLA_MASTER, &pair.bridge.to_ne_bytes());
    both(&mut request);
    request.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                peer.raw(&link_header(0, 0, 0));
                peer.text(IFLA_IFNAME, pair.interface).attribute(IFLA_ADDRESS, &pair.mac);
                peer.attribute(IFLA_NET_NS_FD, &pair.netns.as_raw_fd().to_ne_bytes());
                both(peer);
            });
        });
    });
    request
}

/// Puts a link on a bridge.
pub(crate) fn set_master(name: &str, bridge: u32) -> Request {
    let mut request = Request::new(RTM_SETLINK, 0, &link_header(0, 0, 0));
    request.text(IFLA_IFNAME, name).attribute(IFLA_MASTER, &bridge.to_ne_bytes());
    request
}

/// Makes a link that is on a bridge a pod's: with a note by which it is known again when the bridge is gone. Lets the bridge
/// send a packet back through the port it came from, for a pod that reaches itself by a host port; and, unless IPv6 is compiled out or off,
/// keeps fe80:: off the port.
pub(crate) fn prepare_port(name: &str, note: &str, ipv6: bool) -> Request {
    const IFLA_BRPORT_MODE: u16 = 4;
    let mut request = Request::new(RTM_NEWLINK, 0, &link_header(0, 0, 0));
    request.text(IFLA_IFNAME, name).attribute(IFLA_IFALIAS, note.as_bytes());
    request.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
            data.attribute(IFLA_BRPORT_MODE, &[1]);
        });
    });
    if ipv6 {
        write_no_link_local(&mut request);
    }
    request
}

/// Has no IPv6 address of its own made for a link when it comes up: one made so is first asked for on the wire for a second
/// or more (duplicate address detection), in which nothing can be sent.
pub(crate) fn no_link_local(name: &str) -> Request {
    let mut request = Request::new(RTM_SETLINK, 0, &link_header(0, 0, 0));
    request.text(IFLA_IFNAME, name);
    write_no_link_local(&mut request);
    request
}

fn write_no_link_local(request: &mut Request) {
    const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
    const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
    request.nest(IFLA_AF_SPEC, |families| {
        families.nest(u16::from(AF_INET6), |inet6| {
            inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        });
    });
}

pub(crate) fn bring_up(name: &str) -> Request {
    let mut request = Request::new(RTM_SETLINK, 0, &link_header(0, IFF_UP, IFF_UP));
    request.text(IFLA_IFNAME, name);
    request
}

/// Gives a link a hardware address that is its own from now on.
pub(crate) fn set_mac(name: &str, mac: Mac) -> Request {
    let mut request = Request::new(RTM_SETLINK, 0, &link_header(0, 0, 0));
    request.text(IFLA_IFNAME, name).attribute(IFLA_ADDRESS, &mac);
    request
}

/// Notes something on a link; at most 255 bytes.
pub(crate) fn note(name: &str, note: &str) -> Request {
    let mut request = Request::new(RTM_SETLINK, 0, &link_header(0, 0, 0));
    request.text(IFLA_IFNAME, name).attribute(IFLA_IFALIAS, note.as_bytes());
    request
}

/// Sets the largest packet that a link takes, in bytes.
pub(crate) fn set_mtu(name: &str, mtu: u32) -> Request {
    let mut request = Request::new(RTM_SETLINK, 0, &link_header(0, 0, 0));
    request.text(IFLA_IFNAME, name).attribute(IFLA_MTU, &mtu.to_ne_bytes());
    request
}

/// Deletes a link, and with one end of a pair the other.
pub(crate) fn delete_link(name: &str) -> Request {
    let mut request = Request::new(RTM_DELLINK, 0, &link_header(0, 0, 0));
    request.text(IFLA_IFNAME, name);
    request
}

/// Gives a link an address; one it has already is no error. With IPv6 it can be used at once (IFA_F_NODAD): nobody else has
/// it, because we lease it.
pub(crate) fn add_address(index: u32, address: IpAddr, prefix: u8) -> Request {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_BROADCAST: u16 = 4;
    const IFA_F_NODAD: u8 = 2;
    let (family, flags) = if address.is_ipv6() { (AF_INET6, IFA_F_NODAD) } else { (AF_INET, 0) };
    let mut header = [family, prefix, flags, 0, 0, 0, 0, 0]; // struct ifaddrmsg: global scope
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut request = Request::new(RTM_NEWADDR, flag::CREATE | flag::REPLACE, &header);
    match address {
        IpAddr::V4(ip) => {
            let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or_default();
            let broadcast = Ipv4Addr::from_bits(ip.to_bits() | hosts);
            request.attribute(IFA_LOCAL, &ip.octets()).attribute(IFA_ADDRESS, &ip.octets());
            request.attribute(IFA_BROADCAST, &broadcast.octets());
        }
        IpAddr::V6(ip) => {
            request.attribute(IFA_LOCAL, &ip.octets()).attribute(IFA_ADDRESS, &ip.octets());
        }
    }
    request
}

/// Sends everything that is not on a link of the namespace to `gateway`.
pub(crate) fn add_default_route(index: u32, gateway: IpAddr) -> Request {
    const RTPROT_BOOT: u8 = 3;
    const RTN_UNICAST: u8 = 1;
    let family = if gateway.is_ipv6() { AF_INET6 } else { AF_INET };
    // struct rtmsg: to any destination, universe scope
    let header = [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
    let mut request = Request::new(RTM_NEWROUTE, flag::CREATE | flag::EXCL, &header);
    match gateway {
        IpAddr::V4(ip) => request.attribute(RTA_GATEWAY, &ip.octets()),
        IpAddr::V6(ip) => request.attribute(RTA_GATEWAY, &ip.octets()),
    };
    request.attribute(RTA_OIF, &index.to_ne_bytes());
    request
}

/// The link that the namespace's default route leads to, by index: of IPv4 where it has one, and of the best metric.
pub(crate) fn uplink(socket: &mut Socket) -> Result<Option<u32>, Error> {
    for family in [AF_INET, AF_INET6] {
        let question = Request::new(RTM_GETROUTE, 0, &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut routes =
            socket.list(&question, |message| read_default(message).into_iter().collect())?;
        routes.sort_unstable();
        if let Some((_, index)) = routes.first() {
            return Ok(Some(*index));
        }
    }
    Ok(None)
}

/// Metric and link of a default route in the main table.
fn read_default(message: &Message<'_>) -> Option<(u32, u32)> {
    const RTA_PRIORITY: u16 = 6;
    const RTN_UNICAST: u8 = 1;
    let [_, 0, _, _, RT_TABLE_MAIN, _, _, RTN_UNICAST] = message.payload.first_chunk::<8>()? else {
        return None;
    };
    let attributes = message.payload.get(12..)?;
    let metric = find(attributes, RTA_PRIORITY).and_then(number).unwrap_or_default();
    Some((metric, find(attributes, RTA_OIF).and_then(number)?))
}

/// All addresses of the namespace.
pub(crate) fn list_addresses(socket: &mut Socket) -> Result<Vec<Address>, Error> {
    let question = Request::new(RTM_GETADDR, 0, &[0; 8]);
    socket.list(&question, |message| read_address(message).into_iter().collect())
}

/// The address that an event says a link has got.
pub(crate) fn new_address(event: &Message<'_>) -> Option<Address> {
    (event.kind == RTM_NEWADDR).then(|| read_address(event)).flatten()
}

fn read_address(message: &Message<'_>) -> Option<Address> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    let attributes = message.payload.get(8..)?;
    let bytes = find(attributes, IFA_LOCAL).or_else(|| find(attributes, IFA_ADDRESS))?;
    let ip = match bytes.len() {
        4 => IpAddr::from(*bytes.first_chunk::<4>()?),
        _ => IpAddr::from(*bytes.first_chunk::<16>()?),
    };
    Some(Address { index: number(message.payload.get(4..)?)?, ip })
}

/// The link called `name`.
pub(crate) fn find_link(socket: &mut Socket, name: &str) -> Result<Link, Error> {
    let mut question = question();
    question.text(IFLA_IFNAME, name);
    socket.ask(question, read_link)
}

/// All links of the namespace.
pub(crate) fn list_links(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    socket.list(&question(), |message| read_link(message).into_iter().collect())
}

/// The index of the link that an event says is gone.
pub(crate) fn gone(event: &Message<'_>) -> Option<u32> {
    const AF_UNSPEC: u8 = 0;
    let farewell = event.kind == RTM_DELLINK && event.payload.first() == Some(&AF_UNSPEC);
    farewell.then(|| event.payload.get(4..).and_then(number)).flatten()
}

/// Whether an event says that the link called `name` is gone.
pub(crate) fn is_farewell(event: &Message<'_>, name: &str) -> bool {
    // A bridge says the same of a port that merely left it, under its own family.
    const AF_UNSPEC: u8 = 0;
    let attributes = event.payload.get(16..).unwrap_or_default();
    event.kind == RTM_DELLINK
        && event.payload.first() == Some(&AF_UNSPEC)
        && find(attributes, IFLA_IFNAME).and_then(text).as_deref() == Some(name)
}

/// The length of `struct ifinfomsg`, which is ahead of a link's attributes.
pub(crate) const LINK_HEADER: usize = 16;

/// Asks for links with their counters.
pub(crate) fn with_statistics() -> Request {
    Request::new(RTM_GETLINK, 0, &link_header(0, 0, 0))
}

fn question() -> Request {
    const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
    let mut question = Request::new(RTM_GETLINK, 0, &link_header(0, 0, 0));
    question.attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    question
}

fn read_link(message: &Message<'_>) -> Option<Link> {
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let flags = number(message.payload.get(8..)?)?;
    let attributes = message.payload.get(16..)?;
    let state = find(attributes, IFLA_OPERSTATE)?;
    let kind = find(attributes, IFLA_LINKINFO).and_then(|info| find(info, IFLA_INFO_KIND));
    Some(Link {
        index: number(message.payload.get(4..)?)?,
        name: text(find(attributes, IFLA_IFNAME)?)?,
        kind: kind.and_then(text).unwrap_or_default(),
        up: flags & IFF_UP != 0,
        carries: *state == [IF_OPER_UP],
        master: find(attributes, IFLA_MASTER).and_then(number),
        mac: find(attributes, IFLA_ADDRESS).unwrap_or_default().to_vec(),
        mtu: find(attributes, IFLA_MTU).and_then(number).unwrap_or_default(),
        alias: find(attributes, IFLA_IFALIAS).and_then(text).unwrap_or_default(),
    })
}
