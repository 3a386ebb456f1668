//! The built-in pod network, as a kubelet and its users see it.

use suite::in_world;
use suite::network::{fetch, fetched, host_port, run};
use suite::patience::until;
use tonic::Code;

const BOTH: &str = "subnet = \"10.77.0.0/16,fd00:77::/64\"";

#[test]
fn privileged_a_dual_stack_pod_is_reached_by_both_families_and_by_its_host_port() {
    in_world(|world| {
        world.restart_with_network(&[BOTH]);
        let mut config = world.pod_config("dual");
        config.port_mappings = vec![host_port(18090, "")];
        let pod = world.run_web_pod(config);
        let addresses = world.addresses(&pod);
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        assert!(
            addresses[0].starts_with("10.77.") && addresses[1].starts_with("fd00:77::"),
            "{addresses:?}"
        );
        let places = [
            format!("{}:80", addresses[0]),
            format!("[{}]:80", addresses[1]),
            "192.0.2.2:18090".into(),
            "127.0.0.1:18090".into(),
            "[fd00:77::1]:18090".into(),
        ];
        for place in &places {
            assert_eq!(fetched(place), "dual", "{place}");
        }
        let client = world.run_pod("client");
        let config = world.container_config("client", &[]);
        let script = format!(
            "for at in {}:80 [{}]:80 192.0.2.2:18090; do wget -q -O - http://$at/; done",
            addresses[0], addresses[1]
        );
        assert_eq!(world.printed(&client, config, &script), "dual\ndual\ndual\n");
    });
}

#[test]
fn privileged_the_pod_cidr_of_kubelet_is_used_where_none_is_configured() {
    in_world(|world| {
        world.restart_with_network(&["subnet = \"\""]);
        let condition = world.network_condition();
        assert!(!condition.status && condition.message.contains("pod CIDR"), "{condition:?}");
        let refused = world.try_run_pod(&world.pod_config("early")).unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert_eq!(world.tell_pod_cidr("10.66.0.0").unwrap_err().code(), Code::InvalidArgument);
        world.tell_pod_cidr("").unwrap();
        assert!(!world.network_condition().status);
        world.tell_pod_cidr("10.66.0.0/24").unwrap();
        world.accept_what_is_there();
        assert!(world.network_condition().status);
        let old = world.run_pod("old");
        // Kubelet does not say it again to a restarted daemon.
        world.kill_daemon();
        world.start_daemon();
        assert!(world.network_condition().status);
        let next = world.run_pod("next");
        assert_eq!(world.addresses(&next), ["10.66.0.3"]);
        world.tell_pod_cidr("10.67.0.0/24,fd00:67::/64").unwrap();
        let new = world.run_pod("new");
        assert_eq!(world.addresses(&new), ["10.67.0.2", "fd00:67::2"]);
        assert_eq!(world.addresses(&old), ["10.66.0.2"], "a pod keeps what it has");
        world.remove_all_pods();
        world.accept_what_is_there();
    });
}

#[test]
fn privileged_a_configured_subnet_stays_whatever_kubelet_says() {
    in_world(|world| {
        world.tell_pod_cidr("10.66.0.0/24").unwrap();
        let pod = world.run_pod("pod");
        assert!(world.address(&pod).starts_with("10.77."), "{}", world.address(&pod));
    });
}

#[test]
fn privileged_pods_come_back_after_a_flushed_firewall_and_a_deleted_bridge() {
    in_world(|world| {
        let mut config = world.pod_config("web");
        config.port_mappings = vec![host_port(18091, "")];
        let pod = world.run_web_pod(config);
        assert_eq!(fetched("192.0.2.2:18091"), "web");
        run("nft flush ruleset");
        assert_eq!(fetched("192.0.2.2:18091"), "web");
        run("ip link delete berth-t0");
        assert_eq!(fetched("192.0.2.2:18091"), "web");
        assert_eq!(fetched(&format!("{}:80", world.address(&pod))), "web");
        until("the network is ready", || world.network_condition().status);
        // And while nobody was there to see it.
        world.kill_daemon();
        run("nft flush ruleset");
        run("ip link delete berth-t0");
        world.start_daemon();
        assert_eq!(fetched("192.0.2.2:18091"), "web");
        assert_eq!(fetched("127.0.0.1:18091"), "web");
    });
}

#[test]
fn privileged_what_listens_on_the_nodes_loopback_is_not_the_pods_to_reach() {
    in_world(|world| {
        // A host port is what needs `route_localnet`.
        let mut config = world.pod_config("web");
        config.port_mappings = vec![host_port(18092, "")];
        world.run_web_pod(config);
        assert_eq!(fetched("127.0.0.1:18092"), "web");
        let listener = std::net::TcpListener::bind("127.0.0.1:18093").unwrap();
        listener.set_nonblocking(true).unwrap();
        let pod = world.run_pod("prying");
        let mut config = world.container_config("prying", &[]);
        let context = suite::pods::security(&mut config);
        context.capabilities.get_or_insert_default().add_capabilities = vec!["NET_ADMIN".into()];
        let script = "for to in 127.0.0.2 10.77.0.1 192.0.2.2; do
            ip route add 127.0.0.2 via 10.77.0.1 2>/dev/null
            ip route del local 127.0.0.0/8 table local 2>/dev/null
            nc -w 1 $to 18093 </dev/null && echo reached $to
        done; true";
        assert_eq!(world.printed(&pod, config, script), "");
        assert!(listener.accept().is_err(), "somebody connected");
    });
}

#[test]
fn privileged_a_full_subnet_is_a_clear_error() {
    in_world(|world| {
        world.restart_with_network(&["subnet = \"10.77.0.0/29\""]);
        let pods: Vec<_> = (0..5).map(|n| world.run_pod(&format!("pod{n}"))).collect();
        let refused = world.try_run_pod(&world.pod_config("one-too-many")).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("every address in 10.77.0.0/29 is taken"), "{refused}");
        world.stop_pod(&pods[2].id);
        world.run_pod("in-its-place");
    });
}

#[test]
fn privileged_bandwidth_annotations_are_limits() {
    in_world(|world| {
        let mut config = world.pod_config("slow");
        let mut annotate = |name: &str, value: &str| {
            config.annotations.insert(format!("kubernetes.io/{name}-bandwidth"), value.to_owned());
            config.clone()
        };
        let wrong = annotate("ingress", "fast");
        assert_eq!(world.try_run_pod(&wrong).unwrap_err().code(), Code::InvalidArgument);
        let too_small = annotate("ingress", "10");
        assert_eq!(world.try_run_pod(&too_small).unwrap_err().code(), Code::InvalidArgument);
        annotate("ingress", "10M");
        let both = annotate("egress", "5M");
        world.run_web_pod(both);
        let queues = run("tc qdisc show");
        assert!(queues.contains("rate 10Mbit") && queues.contains("rate 5Mbit"), "{queues}");
        world.remove_all_pods();
        assert!(!run("tc qdisc show").contains("tbf"));
    });
}

#[test]
fn privileged_forwarding_that_is_off_is_told() {
    in_world(|world| {
        run("sysctl -q -w net.ipv4.ip_forward=0");
        let condition = world.network_condition();
        assert!(!condition.status && condition.message.contains("ip_forward"), "{condition:?}");
        run("sysctl -q -w net.ipv4.ip_forward=1");
        run("nft add table ip strict");
        run(
            "nft add chain ip strict forward { type filter hook forward priority 0 ; policy drop ; }",
        );
        let condition = world.network_condition();
        assert!(condition.status, "others may accept what pods send: {condition:?}");
        assert!(condition.message.contains("table ip strict"), "{condition:?}");
        world.restart_with_network(&["forward = \"accept\""]);
        assert_eq!(world.network_condition().message, "");
        assert!(run("nft list table ip strict").contains("oifname \"berth-t0\""));
        let refused = fetch("10.77.0.9:80");
        assert!(refused.is_err());
    });
}
