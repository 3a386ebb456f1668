//! Both families, MTU, and subnets that come later.

use super::host::{connect, ip, on_a_host, outside, run};
use super::*;
use Protocol::{Tcp, Udp};

const BOTH: &str = "10.88.0.0/16,fd00:88::/64";
/// The host's and its neighbour's on the wire.
const HOST6: &str = "2001:db8::1";
const OUTSIDE6: &str = "2001:db8::2";

fn outside_with_ipv6() -> std::os::fd::OwnedFd {
    let neighbour = outside();
    run(&format!("ip address add {HOST6}/64 dev wire0 nodad"));
    inside(neighbour.as_fd(), || run(&format!("ip address add {OUTSIDE6}/64 dev wire1 nodad")))
        .unwrap();
    neighbour
}

#[test]
fn privileged_pods_have_both_families_at_once() {
    on_a_host(|| {
        let bridge = Bridge::open(config(BOTH)).unwrap();
        bridge.status().unwrap();
        let neighbour = outside_with_ipv6();
        let pod = attach(&bridge, &wish('a', &[(Tcp, None, 8080)]));
        let addresses: Vec<String> =
            pod.attached.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.88.0.2", "fd00:88::2"]);
        assert_eq!(pod.attached.gateway, Some(ip("10.88.0.1")));
        let shown = pod.inside(|| run("ip -6 -o address"));
        assert!(!shown.contains("tentative") && shown.contains("nodad"), "{shown}");
        // What is sent at once is answered at once: these have less than a second.
        let server = pod.serve6(80);
        assert_eq!(server.reached_by(|| connect("fd00:88::2", 80)), ip("fd00:88::1"));
        let other = attach(&bridge, &wish('b', &[]));
        let from_other = || other.inside(|| connect("fd00:88::2", 80));
        assert_eq!(server.reached_by(from_other), ip("fd00:88::3"));
        for (address, seen) in [(HOST6, HOST6), ("fd00:88::1", "fd00:88::1")] {
            assert_eq!(
                server.reached_by(|| connect(address, 8080)),
                ip(seen),
                "host port on {address}"
            );
        }
        let from_outside = || inside(neighbour.as_fd(), || connect(HOST6, 8080)).unwrap();
        assert_eq!(server.reached_by(from_outside), ip(OUTSIDE6));
        for pod in [&pod, &other] {
            let hairpin = || pod.inside(|| connect(HOST6, 8080));
            assert_eq!(server.reached_by(hairpin), ip("fd00:88::1"));
        }
        let far = inside(neighbour.as_fd(), || super::host::Server::start6(80)).unwrap();
        assert_eq!(far.reached_by(|| pod.inside(|| connect(OUTSIDE6, 80))), ip(HOST6));
        assert_eq!(server.reached_by(|| connect("127.0.0.1", 8080)), ip("10.88.0.1"));
    });
}

#[test]
fn privileged_a_network_can_be_of_ipv6_alone() {
    on_a_host(|| {
        let bridge = Bridge::open(config("fd00:88::/64")).unwrap();
        bridge.status().unwrap();
        let pod = attach(&bridge, &wish('a', &[(Tcp, Some("::"), 8080), (Udp, None, 53)]));
        assert_eq!(pod.attached.addresses, [ip("fd00:88::2")]);
        assert_eq!(pod.inside(|| run("ip -4 -o address show dev eth0")), "");
        let server = pod.serve6(80);
        assert_eq!(server.reached_by(|| connect("fd00:88::1", 8080)), ip("fd00:88::1"));
        let refused = bridge.check(&wish('b', &[(Tcp, Some("192.0.2.1"), 8081)])).unwrap_err();
        assert!(matches!(refused, NetworkError::HostAddress(_)), "{refused:?}");
        bridge.detach(&pod.attached).unwrap();
    });
}

/// A router's advertisement is what gives many nodes their default route, and forwarding turns listening off.
#[test]
fn privileged_a_host_goes_on_listening_to_its_router() {
    on_a_host(|| {
        let _neighbour = outside();
        let setting = |name: &str| run(&format!("sysctl -n net.ipv6.conf.{name}"));
        assert_eq!(setting("wire0.accept_ra"), "1\n");
        drop(Bridge::open(config(BOTH)).unwrap());
        assert_eq!(
            (setting("all.forwarding"), setting("wire0.accept_ra")),
            ("1\n".into(), "2\n".into())
        );
        assert_eq!(setting("berth0.accept_ra"), "0\n");
    });
}

#[test]
fn privileged_the_mtu_is_that_of_the_uplink_or_of_the_configuration() {
    on_a_host(|| {
        let mtu = |pod: &Pod| -> [String; 2] {
            let of = |text: String| {
                text.split_once(" mtu ").unwrap().1.split(' ').next().unwrap().to_owned()
            };
            [of(pod.inside(|| run("ip -o link show eth0"))), of(run("ip -o link show berth0"))]
        };
        let pod = attach(&open(), &wish('a', &[]));
        assert_eq!(mtu(&pod), ["1500", "1500"], "without an uplink");
        let _neighbour = outside();
        run("ip link set wire0 mtu 1400");
        run("ip route add default via 203.0.113.2");
        let pod = attach(&open(), &wish('b', &[]));
        assert_eq!(mtu(&pod), ["1400", "1400"], "of the uplink");
        let nine =
            Bridge::open(BridgeConfig { mtu: Some(1280), ..config("10.88.0.0/16") }).unwrap();
        let pod = attach(&nine, &wish('c', &[]));
        assert_eq!(mtu(&pod), ["1280", "1280"], "of the configuration");
    });
}

#[test]
fn privileged_a_subnet_can_come_later_and_change() {
    on_a_host(|| {
        let bridge =
            Bridge::open(BridgeConfig { subnets: None, ..config("10.88.0.0/16") }).unwrap();
        assert!(matches!(bridge.status().unwrap_err(), NetworkError::NoSubnet));
        assert!(matches!(bridge.check(&wish('a', &[])).unwrap_err(), NetworkError::NoSubnet));
        bridge.move_to(&"10.1.0.0/24".parse().unwrap()).unwrap();
        bridge.status().unwrap();
        let old = attach(&bridge, &wish('a', &[(Tcp, None, 8080)]));
        bridge.move_to(&"10.2.0.0/24,fd00:2::/64".parse().unwrap()).unwrap();
        bridge.status().unwrap();
        let new = attach(&bridge, &wish('b', &[]));
        assert_eq!((old.address(), new.address()), (ip("10.1.0.2"), ip("10.2.0.2")));
        let server = old.serve(80);
        assert_eq!(server.reached_by(|| connect("10.2.0.1", 8080)), ip("10.1.0.1"));
        server.reached_by(|| new.inside(|| connect(old.address(), 80)));
        for pod in [old, new] {
            bridge.detach(&pod.attached).unwrap();
        }
    });
}
