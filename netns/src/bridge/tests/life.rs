//! What is made, and what is left of it.

use std::fs;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use super::host::{connect, enter_fresh_namespace, everything, on_a_host, outside, run};
use super::*;
use crate::contract::World;
use crate::subnet::Subnet;
use Protocol::{Sctp, Tcp, Udp};

/// A host for the contract suite: the calling thread's namespace.
struct Host {
    subnet: Subnet,
}

impl World for Host {
    fn open(&self) -> Box<dyn PodNetwork> {
        Box::new(Bridge::open(config(&self.subnet.to_string())).unwrap())
    }

    fn namespace(&self) -> OwnedFd {
        fresh_namespace()
    }

    fn census(&self) -> Vec<String> {
        let (links, table) = (run("ip -o link show type veth"), run("nft list table inet berth"));
        let links = links.lines().map(|line| line.split(' ').nth(1).unwrap().to_owned());
        let ports = table
            .split(['{', ',', '}'])
            .filter(|part| part.contains(" comment ") && part.contains(" : "));
        links.chain(ports.map(|port| port.trim().to_owned())).collect()
    }
}

#[test]
fn privileged_the_bridge_keeps_the_contract() {
    on_a_host(|| {
        contract::run(|subnet| {
            // The thread moves on to another host, and the one before ends with all its pods.
            enter_fresh_namespace();
            let host = Host { subnet };
            drop(host.open());
            host
        });
    });
}

#[test]
fn privileged_opening_again_changes_nothing() {
    on_a_host(|| {
        let pod = attach(&open(), &wish('a', &[(Tcp, None, 8080)]));
        let before = everything();
        let again = open();
        assert_eq!(everything(), before);
        again.status().unwrap();
        pod.serve(80).reached_by(|| connect("10.88.0.1", 8080));
    });
}

#[test]
fn privileged_a_pod_leaves_the_host_as_it_was() {
    on_a_host(|| {
        let bridge = open();
        let _neighbour = outside();
        let before = everything();
        let ports = [(Tcp, None, 80), (Udp, Some("203.0.113.1"), 53), (Sctp, None, 9)];
        let pod = attach(&bridge, &wish('a', &ports));
        assert_ne!(everything(), before);
        let Pod { namespace, attached } = pod;
        drop(namespace); // the kernel may or may not have removed the links when detach is called
        bridge.detach(&attached).unwrap();
        assert_eq!(everything(), before);
    });
}

#[test]
fn privileged_a_pod_has_what_its_record_says_and_no_ipv6() {
    on_a_host(|| {
        let bridge = open();
        let pod = attach(&bridge, &wish('a', &[]));
        let inside = pod.inside(|| run("ip -o address") + &run("ip route") + &run("ip -o link"));
        let expected = [
            "inet 10.88.0.2/16 brd 10.88.255.255",
            "default via 10.88.0.1 dev eth0",
            &pod.attached.mac,
        ];
        for part in expected {
            assert!(inside.contains(part), "{part} in {inside}");
        }
        let host = run("ip -o address");
        assert!(host.contains("10.88.0.1/16"), "{host}");
        assert!(!inside.contains("fe80") && !host.contains("fe80"), "{inside}{host}");
        assert_eq!(pod.attached.host_link, "bvaaaaaaaaaaaaa");
        let setting =
            |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}")).unwrap();
        assert_eq!(pod.inside(|| setting("eth0/disable_ipv6")), "1\n");
        for link in ["berth0", &pod.attached.host_link] {
            assert_eq!(setting(&format!("{link}/accept_ra")), "0\n", "{link}");
        }
        assert_eq!(pod.inside(|| setting("eth0/accept_ra")), "0\n");
    });
}

#[test]
fn privileged_fifty_pods_at_once() {
    on_a_host(|| {
        let bridge = open();
        let before = everything();
        let owners: Vec<String> =
            (0..50).map(|n| format!("{n:064x}").chars().rev().collect()).collect();
        let namespaces: Vec<OwnedFd> = owners.iter().map(|_| fresh_namespace()).collect();
        let work: Vec<_> = owners.into_iter().zip(namespaces).collect();
        let start = Instant::now();
        let pods: Vec<(Attached, Duration)> = thread::scope(|scope| {
            let threads: Vec<_> = work
                .chunks(7)
                .map(|some| {
                    scope.spawn(|| {
                        some.iter().map(|pod| attach_port(&bridge, pod)).collect::<Vec<_>>()
                    })
                })
                .collect();
            assert_eq!(threads.len(), 8);
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let addresses: BTreeSet<_> = pods.iter().map(|(pod, _)| pod.addresses[0]).collect();
        assert_eq!(addresses.len(), 50);
        let mut times: Vec<Duration> = pods.iter().map(|(_, time)| *time).collect();
        times.sort();
        println!(
            "50 attached in {:?}, each: median {:?}, worst {:?}",
            start.elapsed(),
            times[25],
            times[49]
        );

        let start = Instant::now();
        thread::scope(|scope| {
            for some in pods.chunks(7) {
                scope.spawn(|| some.iter().for_each(|(pod, _)| bridge.detach(pod).unwrap()));
            }
        });
        println!("50 detached in {:?}", start.elapsed());
        assert_eq!(everything(), before);
    });
}

fn attach_port(bridge: &Bridge, (owner, namespace): &(String, OwnedFd)) -> (Attached, Duration) {
    let mut wish = wish('0', &[(Tcp, None, 1000)]);
    wish.ports[0].host_port += u16::from_str_radix(&owner[..2], 16).unwrap();
    wish.owner.clone_from(owner);
    let start = Instant::now();
    let attached = bridge.attach(namespace.as_fd(), bridge.check(&wish).unwrap()).unwrap();
    (attached, start.elapsed())
}

#[test]
fn privileged_one_pod_takes_about_a_millisecond() {
    on_a_host(|| {
        let bridge = open();
        let (mut attaching, mut detaching) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let (namespace, wish) = (fresh_namespace(), wish('a', &[(Tcp, None, 80)]));
            let start = Instant::now();
            let attached = bridge.attach(namespace.as_fd(), bridge.check(&wish).unwrap()).unwrap();
            attaching.push(start.elapsed());
            let start = Instant::now();
            bridge.detach(&attached).unwrap();
            detaching.push(start.elapsed());
        }
        attaching.sort();
        detaching.sort();
        println!("attach: median {:?}, worst {:?}", attaching[10], attaching[19]);
        println!("detach: median {:?}, worst {:?}", detaching[10], detaching[19]);
        // The machine that runs this may be busy; what is guarded against is anything that waits (ARP, DAD, a timer).
        assert!(attaching[10] < Duration::from_millis(20), "{attaching:?}");
    });
}

#[test]
fn privileged_a_crash_in_the_middle_of_attach_is_overcome() {
    on_a_host(|| {
        let crashed = open();
        let leftover = attach(&crashed, &wish('a', &[(Tcp, None, 80)]));
        let fresh = open();
        // The same pod is set up anew, in another namespace, before anybody has swept.
        let pod = attach(&fresh, &wish('a', &[(Tcp, None, 80)]));
        pod.serve(80).reached_by(|| connect("10.88.0.1", 80));
        let links = leftover.inside(|| run("ip -o link"));
        assert!(!links.contains("eth0"), "{links}");
    });
}

#[test]
fn privileged_a_failed_attach_leaves_nothing() {
    on_a_host(|| {
        let bridge = open();
        let before = everything();
        let wish = wish('a', &[(Tcp, None, 80)]);
        let no_namespace = fs::File::open("/dev/null").unwrap();
        let refused =
            bridge.attach(no_namespace.as_fd(), bridge.check(&wish).unwrap()).unwrap_err();
        assert!(matches!(refused, NetworkError::Enter { .. }), "{refused:?}");

        let taken = fresh_namespace();
        inside(taken.as_fd(), || run("ip link add eth0 type bridge")).unwrap();
        let refused = bridge.attach(taken.as_fd(), bridge.check(&wish).unwrap()).unwrap_err();
        assert!(matches!(refused, NetworkError::Kernel { step: "make link", .. }), "{refused:?}");
        assert_eq!(everything(), before);
    });
}

#[test]
fn privileged_elements_of_nobody_do_not_stay() {
    on_a_host(|| {
        let bridge = open();
        let pod = attach(
            &bridge,
            &wish('a', &[(Tcp, Some("0.0.0.0"), 80), (Udp, Some("10.88.0.1"), 53)]),
        );
        let before = everything();
        let owners = BTreeSet::from([pod.attached.owner.clone()]);
        assert_eq!(bridge.sweep(&owners).unwrap(), [""; 0]);
        assert_eq!(everything(), before);
        run("nft add element inet berth ports4 { tcp . 99 : 10.88.0.9 . 99 }");
        assert_eq!(bridge.sweep(&owners).unwrap(), ["host port 99/tcp of nobody"]);
        assert_eq!(everything(), before);
    });
}

#[test]
fn privileged_status_tells_what_is_broken() {
    on_a_host(|| {
        let bridge = open();
        assert_eq!(bridge.status().unwrap(), [""; 0]);
        let cases = [
            ("ip link set berth0 down", "bridge berth0 is down", "ip link set berth0 up"),
            (
                "ip address del 10.88.0.1/16 dev berth0",
                "bridge berth0 is without its address",
                "ip address add 10.88.0.1/16 dev berth0",
            ),
            (
                "sysctl -q net.ipv4.ip_forward=0",
                "forwarding ipv4/ip_forward is off: pods reach nothing outside of the node",
                "sysctl -q net.ipv4.ip_forward=1",
            ),
        ];
        for (command, expected, back) in cases {
            run(command);
            assert_eq!(bridge.status().unwrap_err().to_string(), expected);
            run(back);
            bridge.status().unwrap();
        }
        drop(bridge); // Nobody is there to put things back.
        let unwatched = open();
        unwatched.status().unwrap();
    });
}

#[test]
fn privileged_open_refuses_what_it_cannot_use() {
    on_a_host(|| {
        run("ip link add berth0 type veth peer name other");
        let refused = Bridge::open(config("10.88.0.0/16")).unwrap_err();
        assert!(matches!(refused, NetworkError::NotABridge { .. }), "{refused:?}");
        run("ip link delete berth0");
        run("ip link add berth0 address 02:11:22:33:44:55 type bridge");
        let before = run("ip -o link show berth0");
        let refused = Bridge::open(config("10.88.0.0/16")).unwrap_err();
        assert!(matches!(refused, NetworkError::NotOurs { .. }), "{refused:?}");
        assert_eq!(run("ip -o link show berth0"), before, "somebody else's bridge is left alone");
        let name = "../berth0".to_owned();
        let refused = Bridge::open(BridgeConfig { name, ..config("10.88.0.0/16") }).unwrap_err();
        assert!(matches!(refused, NetworkError::Name { .. }), "{refused:?}");
    });
}

#[test]
fn privileged_another_layout_is_replaced() {
    on_a_host(|| {
        drop(open());
        let ours = run("nft list ruleset");
        run("nft delete table inet berth");
        run("nft add table inet berth { comment \"elder\" ; }");
        run("nft add chain inet berth elder");
        drop(open());
        assert_eq!(run("nft list ruleset"), ours);
        let moved = Bridge::open(config("10.99.0.0/16")).unwrap();
        assert!(run("nft list ruleset").contains("10.99.0.0/16"));
        moved.status().unwrap();
    });
}

#[test]
fn privileged_the_kernels_own_words_are_in_the_error() {
    on_a_host(|| {
        let mut socket = Socket::route().unwrap();
        let refused = socket.change(&[route::add_default_route(1, [192, 0, 2, 1].into())]);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "Nexthop has invalid gateway: Network is unreachable (os error 101)"
        );
    });
}
