//! What others do to the bridge and to the rules, and how it is put right.

use std::thread;
use std::time::{Duration, Instant};

use super::host::{HOST, OUTSIDE, Server, connect, everything, ip, on_a_host, outside, run};
use super::*;
use Protocol::{Tcp, Udp};

/// Waits for the watching thread to have done its work.
#[expect(clippy::disallowed_methods, reason = "another thread is waited for, and it tells nobody")]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn privileged_a_flushed_firewall_is_put_back() {
    on_a_host(|| {
        let bridge = open();
        let pod = attach(
            &bridge,
            &wish('a', &[(Tcp, Some("0.0.0.0"), 80), (Udp, Some("10.88.0.1"), 53)]),
        );
        let before = everything();
        let commands = [
            "nft flush ruleset",
            "nft delete table inet berth",
            "nft flush table bridge berth",
            "nft flush chain inet berth postrouting",
            "nft flush set bridge berth senders4",
            "nft delete element inet berth ports4 { tcp . 80 }",
        ];
        for command in commands {
            run(command);
            until(command, || everything() == before);
            bridge.status().unwrap();
        }
        pod.serve(80).reached_by(|| connect("10.88.0.1", 80));
    });
}

#[test]
fn privileged_two_that_mind_the_same_table_come_to_rest() {
    on_a_host(|| {
        let (one, other) = (open(), open());
        let _pods = [attach(&one, &wish('a', &[(Tcp, None, 80)])), {
            let pod = attach(&one, &wish('b', &[]));
            other.adopt(&pod.attached);
            pod
        }];
        run("nft flush ruleset");
        let mut last = String::new();
        until("rest", || {
            let now = run("nft -a list table inet berth");
            let rests = now == last && now.contains("tcp . 80");
            last = now;
            rests
        });
    });
}

#[test]
fn privileged_a_deleted_bridge_is_made_anew_with_its_pods() {
    on_a_host(|| {
        let bridge = open();
        let neighbour = outside();
        let one = attach(&bridge, &wish('a', &[(Tcp, None, 8080)]));
        let two = attach(&bridge, &wish('b', &[]));
        run("ip link delete berth0");
        until("the bridge is back", || {
            bridge.status().is_ok() && bridge.verify(&two.attached).is_ok()
        });
        bridge.verify(&one.attached).unwrap();
        let server = two.serve(80);
        until("pods reach each other", || one.inside(|| connect(two.address(), 80)).is_ok());
        drop(server);
        let server = one.serve(80);
        let from = server.reached_by(|| inside(neighbour.as_fd(), || connect(HOST, 8080)).unwrap());
        assert_eq!(from, ip(OUTSIDE));
        let later = attach(&bridge, &wish('c', &[]));
        assert_eq!(
            server.reached_by(|| later.inside(|| connect(one.address(), 80))),
            later.address()
        );
    });
}

#[test]
fn privileged_a_bridge_deleted_while_nobody_listens_is_found_by_the_next() {
    on_a_host(|| {
        let crashed = open();
        let kept = attach(&crashed, &wish('a', &[]));
        let lost = attach(&crashed, &wish('b', &[]));
        drop(crashed);
        run("ip link delete berth0");
        let next = open();
        next.adopt(&kept.attached);
        let removed = next.sweep(&BTreeSet::from([kept.attached.owner.clone()])).unwrap();
        assert_eq!(removed, [format!("link {}", lost.attached.host_link)]);
        next.verify(&kept.attached).unwrap();
        assert_eq!(kept.serve(80).reached_by(|| connect(kept.address(), 80)), ip("10.88.0.1"));
        assert!(next.verify(&lost.attached).is_err());
    });
}

#[test]
fn privileged_a_second_bridge_lives_beside_the_first() {
    on_a_host(|| {
        let first = open();
        let pod = attach(&first, &wish('a', &[(Tcp, None, 80)]));
        let second = Bridge::open(BridgeConfig {
            name: "berth1".into(),
            table: "berth-1".into(),
            ..config("10.99.0.0/16")
        })
        .unwrap();
        let before = everything();
        let other = attach(&second, &wish('b', &[(Tcp, None, 81)]));
        assert_eq!(other.serve(80).reached_by(|| connect(HOST_OF_FIRST, 81)), ip("10.99.0.1"));
        assert_eq!(first.sweep(&BTreeSet::from([pod.attached.owner.clone()])).unwrap(), [""; 0]);
        assert_eq!(second.sweep(&BTreeSet::new()).unwrap().len(), 2);
        assert_eq!(everything(), before);
    });
}

const HOST_OF_FIRST: &str = "10.88.0.1";

#[test]
fn privileged_a_chain_that_drops_what_is_forwarded_is_reported_or_preceded() {
    on_a_host(|| {
        let reporting = open();
        let neighbour = outside();
        let pod = attach(&reporting, &wish('a', &[(Tcp, None, 8080)]));
        let server = inside(neighbour.as_fd(), || Server::start(80)).unwrap();
        let attempt = || pod.inside(|| connect(OUTSIDE, 80));
        server.reached_by(attempt);
        run("iptables -P FORWARD DROP");
        assert!(attempt().is_err());
        let remarks = reporting.status().unwrap();
        assert_eq!(remarks.len(), 1, "{remarks:?}");
        for part in ["FORWARD", "ip filter", "berth0", "network.forward"] {
            assert!(remarks[0].contains(part), "{part} in {}", remarks[0]);
        }
        let accept = BridgeConfig { forward: Forward::Accept, ..config("10.88.0.0/16") };
        let accepting = Bridge::open(accept).unwrap();
        accepting.adopt(&pod.attached);
        assert_eq!(accepting.status().unwrap(), [""; 0]);
        server.reached_by(attempt);
        let from = || inside(neighbour.as_fd(), || connect(HOST, 8080)).unwrap();
        pod.serve(80).reached_by(from);
        let listed = run("iptables -S FORWARD");
        for part in ["-i berth0", "-o berth0", "berth: pods of berth0", "-j ACCEPT"] {
            assert!(listed.contains(part), "{part} in {listed}");
        }
        // A reload of the administrator's rules is not the end of ours.
        drop(reporting);
        run("iptables -F FORWARD");
        until("accepted again", || run("iptables -S FORWARD").contains("berth0"));
        server.reached_by(attempt);
        assert_eq!(run("iptables -S FORWARD").matches("berth0").count(), 4);
        // Nobody who does not ask for them has them.
        drop(accepting);
        let reporting = open();
        assert_eq!(reporting.status().unwrap().len(), 1);
        assert!(!run("iptables -S FORWARD").contains("berth0"));
    });
}
