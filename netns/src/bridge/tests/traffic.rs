//! Who reaches whom, and as whom.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Instant;

use super::host::{HOST, OUTSIDE, SOON, Server, connect, ip, on_a_host, outside, run};
use super::*;
use Protocol::{Tcp, Udp};

const GATEWAY: &str = "10.88.0.1";

#[test]
fn privileged_pods_reach_each_other_at_once() {
    on_a_host(|| {
        let bridge = open();
        let (one, two) = (attach(&bridge, &wish('a', &[])), attach(&bridge, &wish('b', &[])));
        let server = two.serve(80);
        let start = Instant::now();
        let from = server.reached_by(|| one.inside(|| connect(two.address(), 80)));
        println!("first connection of two new pods: {:?}", start.elapsed());
        assert_eq!(from, one.address());
        let own = one.serve(81);
        assert_eq!(own.reached_by(|| one.inside(|| connect("127.0.0.1", 81))), ip("127.0.0.1"));
        assert_eq!(two.serve(82).reached_by(|| connect(two.address(), 82)), ip(GATEWAY));
    });
}

#[test]
fn privileged_the_outside_sees_the_hosts_address() {
    on_a_host(|| {
        let bridge = open();
        let neighbour = outside();
        let pod = attach(&bridge, &wish('a', &[]));
        let server = inside(neighbour.as_fd(), || Server::start(80)).unwrap();
        assert_eq!(server.reached_by(|| pod.inside(|| connect(OUTSIDE, 80))), ip(HOST));
    });
}

#[test]
fn privileged_host_ports_lead_to_the_pod_from_everywhere() {
    on_a_host(|| {
        let bridge = open();
        let neighbour = outside();
        let pod = attach(&bridge, &wish('a', &[(Tcp, None, 8080)]));
        let other = attach(&bridge, &wish('b', &[]));
        let server = pod.serve(80);

        let from = server.reached_by(|| inside(neighbour.as_fd(), || connect(HOST, 8080)).unwrap());
        assert_eq!(from, ip(OUTSIDE), "a client keeps its address");
        assert_eq!(server.reached_by(|| connect(HOST, 8080)), ip(HOST));
        assert_eq!(server.reached_by(|| connect(GATEWAY, 8080)), ip(GATEWAY));
        assert_eq!(server.reached_by(|| connect("127.0.0.1", 8080)), ip(GATEWAY));
        assert_eq!(server.reached_by(|| other.inside(|| connect(HOST, 8080))), ip(GATEWAY));
        assert_eq!(server.reached_by(|| other.inside(|| connect(GATEWAY, 8080))), ip(GATEWAY));
        assert_eq!(server.reached_by(|| pod.inside(|| connect(HOST, 8080))), ip(GATEWAY));
    });
}

#[test]
fn privileged_host_ports_take_nothing_but_what_is_for_the_host() {
    on_a_host(|| {
        let bridge = open();
        let neighbour = outside();
        let pod = attach(&bridge, &wish('a', &[(Tcp, None, 8080)]));
        let _taken_by_mistake = pod.serve(80);
        let elsewhere = inside(neighbour.as_fd(), || Server::start(8080)).unwrap();
        assert_eq!(elsewhere.reached_by(|| pod.inside(|| connect(OUTSIDE, 8080))), ip(HOST));
        assert_eq!(elsewhere.reached_by(|| connect(OUTSIDE, 8080)), ip(HOST));
    });
}

/// CVE-2020-8558: a neighbour sends to 127.0.0.0/8 on the wire, and the host takes it for its own.
#[test]
fn privileged_the_hosts_loopback_is_out_of_reach() {
    on_a_host(|| {
        let bridge = open();
        let pod = attach(&bridge, &wish('a', &[]));
        let server = Server::start(8080);
        pod.inside(|| {
            run("sysctl -q -w net.ipv4.conf.all.route_localnet=1");
            run("ip route del local 127.0.0.0/8 table local dev lo");
            run("ip route del local 127.0.0.1 table local dev lo");
            run("ip route add 127.0.0.0/8 via 10.88.0.1");
        });
        let localnet = || run("sysctl -n net.ipv4.conf.berth0.route_localnet");
        let attempt = || pod.inside(|| connect("127.0.0.2", 8080));
        assert_eq!(localnet(), "0\n");
        assert_eq!(attempt().unwrap_err().kind(), ErrorKind::TimedOut);
        // A host port needs the setting, and then the rules are what keeps the pod out.
        let other = attach(&bridge, &wish('b', &[(Tcp, None, 9090)]));
        assert_eq!(localnet(), "1\n");
        assert_eq!(attempt().unwrap_err().kind(), ErrorKind::TimedOut);
        // The attempt is a good one: it succeeds where the rules are not.
        let rules = run("nft -a list chain inet berth loopback");
        let handle = |line: &str| Some(line.split_once("# handle ")?.1.to_owned());
        let rules: Vec<_> =
            rules.lines().filter(|line| line.contains("drop")).filter_map(handle).collect();
        drop(bridge); // It would put them back.
        for handle in rules {
            run(&format!("nft delete rule inet berth loopback handle {handle}"));
        }
        assert_eq!(server.reached_by(attempt), pod.address());
        // Opening the bridge puts them back, and the last host port takes the setting with it.
        let again = open();
        assert_eq!(attempt().unwrap_err().kind(), ErrorKind::TimedOut);
        again.adopt(&other.attached);
        again.detach(&other.attached).unwrap();
        assert_eq!(localnet(), "0\n");
    });
}

#[test]
fn privileged_a_host_ip_is_honoured() {
    on_a_host(|| {
        let bridge = open();
        let neighbour = outside();
        let ports = [(Tcp, Some(HOST), 8080), (Tcp, Some("0.0.0.0"), 8081)];
        let pod = attach(&bridge, &wish('a', &ports));
        let server = pod.serve(80);
        for (address, port) in [(HOST, 8080), (HOST, 8081), (GATEWAY, 8081)] {
            assert_eq!(
                server.reached_by(|| connect(address, port)),
                ip(address),
                "{address}:{port}"
            );
        }
        let outside = || inside(neighbour.as_fd(), || connect(HOST, 8080)).unwrap();
        assert_eq!(server.reached_by(outside), ip(OUTSIDE));
        let refused = connect(GATEWAY, 8080).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn privileged_a_host_port_can_be_for_the_host_alone() {
    on_a_host(|| {
        let bridge = open();
        let neighbour = outside();
        let pod = attach(&bridge, &wish('a', &[(Tcp, Some("127.0.0.1"), 8080)]));
        let server = pod.serve(80);
        assert_eq!(server.reached_by(|| connect("127.0.0.1", 8080)), ip(GATEWAY));
        for from_outside in [true, false] {
            let attempt = || {
                if from_outside {
                    inside(neighbour.as_fd(), || connect(HOST, 8080)).unwrap()
                } else {
                    connect(HOST, 8080)
                }
            };
            assert_eq!(attempt().unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    });
}

/// A client that never stops sending finds the pod that has the port now, not the one that had it.
#[test]
fn privileged_udp_clients_follow_the_host_port() {
    on_a_host(|| {
        let bridge = open();
        let neighbour = outside();
        let client = inside(neighbour.as_fd(), || UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        client.connect((HOST, 53)).unwrap();
        // Refused before there is a pod: the kernel remembers the connection as one to the host.
        client.send(b"early").unwrap();
        for digit in ['a', 'b'] {
            let pod = attach(&bridge, &wish(digit, &[(Udp, None, 53)]));
            let server = pod.inside(|| UdpSocket::bind("0.0.0.0:80")).unwrap();
            server.set_read_timeout(Some(SOON)).unwrap();
            client.send(b"x").ok(); // takes the error of the last one
            client.send(b"who").unwrap();
            let mut heard = [0; 8];
            let (_, from) = server.recv_from(&mut heard).unwrap();
            assert_eq!(from.ip(), ip(OUTSIDE), "pod {digit}");
            bridge.detach(&pod.attached).unwrap();
        }
    });
}

#[test]
fn privileged_udp_host_ports_answer() {
    on_a_host(|| {
        let bridge = open();
        let neighbour = outside();
        let pod = attach(&bridge, &wish('a', &[(Udp, None, 53)]));
        let server = pod.inside(|| UdpSocket::bind("0.0.0.0:80")).unwrap();
        let client = inside(neighbour.as_fd(), || UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(SOON)).unwrap();
        }
        client.connect((HOST, 53)).unwrap();
        client.send(b"who").unwrap();
        let mut heard = [0; 8];
        let (length, from) = server.recv_from(&mut heard).unwrap();
        assert_eq!((&heard[..length], from.ip()), (&b"who"[..], ip(OUTSIDE)));
        server.send_to(b"me", from).unwrap();
        let length = client.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"me");
    });
}
