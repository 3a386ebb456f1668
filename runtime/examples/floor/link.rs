//! The network of one pod in two netlink conversations: a pair of links, one end on the bridge, and the pod's end configured.

use rustix::fd::AsRawFd;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netdevice, recv, send,
    socket_with,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

// linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/veth.h
const REQUEST_ACK: u16 = 0x1 | 0x4;
const NEW: u16 = REQUEST_ACK | 0x200 | 0x400;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const UP: u32 = 1;
const AF_INET: u8 = 2;

/// The addresses do not matter: nobody talks here, and every pod is alone in its namespace.
const ADDRESS: [u8; 4] = [10, 66, 0, 2];
const GATEWAY: [u8; 4] = [10, 66, 0, 1];
const PREFIX: u8 = 16;

/// A netlink socket of the namespace that the calling thread is in.
pub(crate) fn socket() -> io::Result<OwnedFd> {
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    connect(&fd, &SocketAddrNetlink::new(0, 0))?;
    Ok(fd)
}

/// Makes a pair: `name` on the bridge, up, and `eth0` in the pod, which cannot be up before its other end is there.
pub(crate) fn connect_pod(
    host: impl AsFd,
    name: &str,
    bridge: u32,
    netns: BorrowedFd<'_>,
) -> io::Result<()> {
    let one = 1_u32.to_ne_bytes();
    let mut request = Request::new(RTM_NEWLINK, NEW, &link(UP));
    request.attribute(IFLA_IFNAME, &text(name)).attribute(IFLA_MASTER, &bridge.to_ne_bytes());
    request.attribute(IFLA_NUM_TX_QUEUES, &one).attribute(IFLA_NUM_RX_QUEUES, &one);
    request.nest(IFLA_LINKINFO, |info| {
        info.attribute(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                peer.bytes.extend_from_slice(&link(0));
                peer.attribute(IFLA_IFNAME, &text("eth0"));
                peer.attribute(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
                peer.attribute(IFLA_NUM_TX_QUEUES, &one).attribute(IFLA_NUM_RX_QUEUES, &one);
            });
        });
    });
    converse(host, vec![request])
}

/// Loopback, address, link and default route of the pod that `pod` is a socket of.
pub(crate) fn configure_pod(pod: impl AsFd) -> io::Result<()> {
    let index = netdevice::name_to_index(&pod, "eth0")?;
    let up = |name| {
        let mut request = Request::new(RTM_NEWLINK, REQUEST_ACK, &link(UP));
        request.attribute(IFLA_IFNAME, &text(name));
        request
    };
    let [a, b, c, d] = index.to_ne_bytes();
    let mut address = Request::new(RTM_NEWADDR, NEW, &[AF_INET, PREFIX, 0, 0, a, b, c, d]);
    address.attribute(IFA_LOCAL, &ADDRESS);
    // Family, lengths, service, table main, protocol boot, scope universe, type unicast.
    let mut route = Request::new(RTM_NEWROUTE, NEW, &[AF_INET, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]);
    route.attribute(RTA_OIF, &index.to_ne_bytes()).attribute(RTA_GATEWAY, &GATEWAY);
    converse(pod, vec![up("lo"), address, up("eth0"), route])
}

/// Sends all requests in one piece. The kernel has answered when that returns.
fn converse(socket: impl AsFd, requests: Vec<Request>) -> io::Result<()> {
    let mut bytes = Vec::new();
    let count = requests.len();
    for request in requests {
        let length = u32::try_from(request.bytes.len()).map_err(|_| Errno::OVERFLOW)?;
        let start = bytes.len();
        bytes.extend_from_slice(&request.bytes);
        bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    send(&socket, &bytes, SendFlags::empty())?;
    for _ in 0..count {
        let mut answer = [0_u8; 4096];
        let (_, length) = recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
        let code = answer[..length].get(16..20).and_then(|code| code.try_into().ok());
        match i32::from_ne_bytes(code.ok_or(Errno::BADMSG)?) {
            0 => {}
            error => return Err(io::Error::from_raw_os_error(-error)),
        }
    }
    Ok(())
}

/// `struct ifinfomsg`.
fn link(flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// A message whose length is filled in when it is sent.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(header);
        Self { bytes }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.nest(kind, |request| request.bytes.extend_from_slice(value))
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("our attributes are short");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }
}
