//! A pod is who it is: it cannot send as somebody else.

use std::io::ErrorKind;

use super::host::{connect, ip, on_a_host, run};
use super::*;

const BOTH: &str = "10.88.0.0/16,fd00:88::/64";

#[test]
fn privileged_a_pod_cannot_use_the_address_of_another() {
    on_a_host(|| {
        let bridge = Bridge::open(config(BOTH)).unwrap();
        let [thief, victim, peer] = ['a', 'b', 'c'].map(|digit| attach(&bridge, &wish(digit, &[])));
        victim.serve(80).reached_by(|| peer.inside(|| connect(victim.address(), 80)));
        thief.inside(|| {
            run("ip address add 10.88.0.3/16 dev eth0");
            run("ip address add fd00:88::3/64 dev eth0 nodad");
        });
        // Neither sending from it works, nor answering for it, nor announcing it.
        let server = peer.serve(81);
        let as_victim = || {
            thief.inside(|| {
                let socket = super::host::bound_to("10.88.0.3");
                super::host::connect_from(&socket, "10.88.0.4:81")
            })
        };
        assert_eq!(as_victim().unwrap_err().kind(), ErrorKind::TimedOut);
        drop(server);
        thief.inside(|| run("ip neigh flush all"));
        run("ip neigh flush all");
        let server = victim.serve(82);
        for address in ["10.88.0.3", "fd00:88::3"] {
            let server = if address.contains(':') { victim.serve6(83) } else { victim.serve(83) };
            server.reached_by(|| peer.inside(|| connect(address, 83)));
            server.reached_by(|| connect(address, 83));
        }
        assert_eq!(server.reached_by(|| peer.inside(|| connect("10.88.0.3", 82))), peer.address());
        // The thief's own address goes on working.
        assert_eq!(thief.serve(84).reached_by(|| connect("10.88.0.2", 84)), ip("10.88.0.1"));
    });
}

#[test]
fn privileged_a_pod_cannot_use_the_hardware_address_of_another() {
    on_a_host(|| {
        let bridge = Bridge::open(config(BOTH)).unwrap();
        let [thief, victim, peer] = ['a', 'b', 'c'].map(|digit| attach(&bridge, &wish(digit, &[])));
        let server = victim.serve(80);
        server.reached_by(|| peer.inside(|| connect(victim.address(), 80)));
        thief.inside(|| run(&format!("ip link set eth0 address {}", victim.attached.mac)));
        // The bridge would learn from the first frame that the victim is here now.
        let refused = thief.inside(|| connect(peer.address(), 80)).unwrap_err();
        assert_ne!(refused.kind(), ErrorKind::ConnectionRefused, "the frame arrived");
        server.reached_by(|| peer.inside(|| connect(victim.address(), 80)));
        thief.inside(|| run(&format!("ip link set eth0 address {}", thief.attached.mac)));
        server.reached_by(|| thief.inside(|| connect(victim.address(), 80)));
    });
}

/// Frames to the link-local group addresses pass no hook of the firewall.
#[test]
fn privileged_a_pod_cannot_teach_the_bridge_with_frames_that_no_rule_sees() {
    on_a_host(|| {
        let bridge = Bridge::open(config(BOTH)).unwrap();
        let [thief, victim, peer] = ['a', 'b', 'c'].map(|digit| attach(&bridge, &wish(digit, &[])));
        let server = victim.serve(80);
        server.reached_by(|| peer.inside(|| connect(victim.address(), 80)));
        let place = || -> Vec<String> {
            let table = run("bridge fdb show br berth0");
            let mac = victim.attached.mac.as_str();
            table.lines().filter(|line| line.starts_with(mac)).map(str::to_owned).collect()
        };
        let before = place();
        assert!(before.iter().any(|line| line.contains(&victim.attached.host_link)), "{before:?}");
        thief.inside(|| {
            run(&format!("ip link set eth0 address {}", victim.attached.mac));
            let peer = peer.address();
            run(&format!(
                "ip neigh replace {peer} lladdr 01:80:c2:00:00:0e dev eth0 nud permanent"
            ));
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"taken", (peer, 9)).unwrap();
        });
        assert_eq!(place(), before, "the bridge has not moved the victim");
    });
}

/// CVE-2020-13401 and CVE-2020-10749: a pod that plays the router.
#[test]
fn privileged_nobody_listens_to_a_router_in_a_pod() {
    on_a_host(|| {
        let bridge = Bridge::open(config(BOTH)).unwrap();
        let [thief, victim] = ['a', 'b'].map(|digit| attach(&bridge, &wish(digit, &[])));
        let setting = |name: &str| run(&format!("sysctl -n net.ipv6.conf.{name}"));
        assert_eq!(victim.inside(|| setting("eth0.accept_ra")), "0\n");
        assert_eq!(setting("berth0.accept_ra"), "0\n");
        // Even one that would listen hears nothing.
        victim.inside(|| run("sysctl -q -w net.ipv6.conf.eth0.accept_ra=2"));
        let before = victim.inside(|| run("ip -6 route"));
        thief.inside(super::host::advertise_a_router);
        victim.serve(80).reached_by(|| thief.inside(|| connect(victim.address(), 80)));
        assert_eq!(victim.inside(|| run("ip -6 route")), before);
        // It is the rule that keeps it away: without it, the advertisement arrives.
        drop(bridge);
        run("nft delete table bridge berth");
        thief.inside(super::host::advertise_a_router);
        victim.serve(81).reached_by(|| thief.inside(|| connect(victim.address(), 81)));
        assert_ne!(victim.inside(|| run("ip -6 route")), before);
    });
}
