//! A host to test on: a network namespace, with programs to look at it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bridge::carrier::await_carrier;
use crate::bridge::loopback_up;
use crate::inside::inside;
use crate::netlink::Socket;
use crate::network::Attached;

/// Longer than anything here takes, and shorter than the second after which ARP and TCP try again: what needs a second
/// try is a failure.
pub(crate) const SOON: Duration = Duration::from_millis(900);

/// The two ends of the wire between the host and its neighbour.
pub(crate) const HOST: &str = "203.0.113.1";
pub(crate) const OUTSIDE: &str = "203.0.113.2";

/// Runs `test` on a thread in a fresh network namespace: its host. Threads and programs it starts are on it, too.
pub(crate) fn on_a_host<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let host = scope.spawn(|| {
            enter_fresh_namespace();
            loopback_up(current_namespace().as_fd()).unwrap();
            test()
        });
        host.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// What a sandbox starts with: a namespace with nothing but `lo`, down.
pub(crate) fn fresh_namespace() -> OwnedFd {
    let made = thread::spawn(|| {
        enter_fresh_namespace();
        current_namespace()
    });
    made.join().unwrap_or_else(|panic| resume_unwind(panic))
}

pub(crate) fn enter_fresh_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("privileged tests run as root");
}

pub(crate) fn current_namespace() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").unwrap().into()
}

/// A neighbour of the host, joined by a wire. It knows nothing of pods.
pub(crate) fn outside() -> OwnedFd {
    let namespace = fresh_namespace();
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    run(&format!("ip link add wire0 type veth peer name wire1 netns {path}"));
    run(&format!("ip address add {HOST}/24 dev wire0"));
    run("ip link set wire0 up");
    inside(namespace.as_fd(), || {
        run(&format!("ip address add {OUTSIDE}/24 dev wire1"));
        run("ip link set wire1 up");
    })
    .unwrap();
    await_carrier(&mut Socket::route().unwrap(), "wire0", Socket::link_events).unwrap();
    namespace
}

/// The output of a program run in the calling thread's network namespace.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Links, addresses, routes and the whole firewall of the calling thread's namespace.
pub(crate) fn everything() -> String {
    // Without what comes and goes with the first port of a bridge: its carrier.
    let links = run("ip -o link")
        .lines()
        .map(|line| {
            let (name, rest) = line.split_once('<').unwrap();
            let (_, rest) = rest.split_once(" state ").unwrap();
            format!("{name}{}\n", rest.split_once(' ').unwrap().1)
        })
        .collect();
    let routes = run("ip route").replace(" linkdown", "");
    // Elements of a set have no order.
    let mut rules: Vec<String> =
        run("nft list ruleset").split([',', '{', '}']).map(|part| part.trim().to_owned()).collect();
    rules.sort();
    [links, run("ip -o address"), routes, rules.join("\n")].join("\n")
}

/// A pod's namespace, attached.
pub(crate) struct Pod {
    pub(crate) namespace: OwnedFd,
    pub(crate) attached: Attached,
}

impl Pod {
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(self.namespace.as_fd(), work).unwrap()
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.attached.addresses[0]
    }

    pub(crate) fn serve(&self, port: u16) -> Server {
        self.inside(|| Server::start(port))
    }

    pub(crate) fn serve6(&self, port: u16) -> Server {
        self.inside(|| Server::start6(port))
    }
}

/// A TCP server in the network namespace it was started in.
pub(crate) struct Server {
    listener: TcpListener,
}

impl Server {
    pub(crate) fn start(port: u16) -> Self {
        Self { listener: TcpListener::bind(("0.0.0.0", port)).unwrap() }
    }

    pub(crate) fn start6(port: u16) -> Self {
        Self { listener: TcpListener::bind(("::", port)).unwrap() }
    }

    /// Has `connect` reach this very server, and says from which address.
    pub(crate) fn reached_by(&self, connect: impl FnOnce() -> io::Result<TcpStream>) -> IpAddr {
        let mut client = connect().unwrap();
        let soon = Timespec::try_from(SOON).unwrap();
        let waiting = poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&soon)).unwrap();
        assert_eq!(waiting, 1, "connected to somebody else");
        let (mut served, from) = self.listener.accept().unwrap();
        served.write_all(b"hello").unwrap();
        drop(served);
        client.set_read_timeout(Some(SOON)).unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello");
        from.ip().to_canonical()
    }
}

pub(crate) fn connect(address: impl ToString, port: u16) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::new(ip(&address.to_string()), port), SOON)
}

/// A TCP socket that sends from `address`.
pub(crate) fn bound_to(address: &str) -> OwnedFd {
    let kind = rustix::net::SocketType::STREAM;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, kind, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::new(ip(address), 0)).unwrap();
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Send,
        Some(SOON),
    )
    .unwrap();
    socket
}

pub(crate) fn connect_from(socket: &OwnedFd, to: &str) -> io::Result<()> {
    let to: SocketAddr = to.parse().unwrap();
    // The timeout of a blocking connect shows as "in progress".
    rustix::net::connect(socket, &to).map_err(|err| match err {
        rustix::io::Errno::INPROGRESS => io::ErrorKind::TimedOut.into(),
        err => err.into(),
    })
}

/// Tells everybody on the calling thread's eth0 to send what leaves the network here, and to call themselves 2001:db8:bad::.
pub(crate) fn advertise_a_router() {
    use rustix::net::{AddressFamily, SocketType, sendto, socket};
    const ICMPV6: u32 = 58;
    let protocol = rustix::net::Protocol::from_raw(ICMPV6.try_into().unwrap());
    let raw = socket(AddressFamily::INET6, SocketType::RAW, Some(protocol)).unwrap();
    rustix::net::sockopt::set_ipv6_multicast_hops(&raw, 255).unwrap();
    let index = eth0_index();
    let all_nodes = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
    let mut packet = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    // A prefix, with the flags "on link" and "make yourself an address of it".
    packet.extend_from_slice(&[3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0]);
    packet.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0x0b, 0xad, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    sendto(&raw, &packet, rustix::net::SendFlags::empty(), &all_nodes).unwrap();
}

/// The index of eth0 in the calling thread's namespace, which /sys does not know.
fn eth0_index() -> u32 {
    let listed = run("ip -o link show eth0");
    listed.split(':').next().unwrap().trim().parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
