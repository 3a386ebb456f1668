//! Pods: what they get, what they may be called, and that none of it stays behind.

use std::collections::BTreeMap;

use cri_api::runtime::v1::{
    DnsConfig, ListPodSandboxRequest, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxFilter, PodSandboxState, PodSandboxStateValue, PodSandboxStatusRequest, PortMapping,
    Protocol, RunPodSandboxRequest, StopPodSandboxRequest,
};
use suite::patience::{eventually, until};
use suite::pods::{pod_security, security};
use suite::{World, in_world};
use tonic::Code;

fn list(world: &World, filter: Option<PodSandboxFilter>) -> Vec<String> {
    let pods = world.cri().list_pod_sandbox(ListPodSandboxRequest { filter });
    let mut ids: Vec<String> =
        pods.expect("list pods").items.into_iter().map(|pod| pod.id).collect();
    ids.sort();
    ids
}

/// As a kubelet asks for it: without a hostname, which is the node's.
fn on_host_network(mut config: PodSandboxConfig) -> PodSandboxConfig {
    config.hostname.clear();
    pod_security(&mut config).namespace_options = Some(NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Container.into(),
        ..Default::default()
    });
    config
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[test]
fn privileged_a_pod_lives_from_ready_to_not_ready_to_removed() {
    in_world(|world| {
        let mut config = world.pod_config("life");
        config.labels = BTreeMap::from([("app".into(), "web".into())]);
        config.annotations = BTreeMap::from([("note".into(), "any \"text\" \u{e4}".into())]);
        let pod = world.run_pod_from(config);
        assert!(is_id(&pod.id), "{}", pod.id);

        let status = world.pod_status(&pod.id);
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        assert_eq!(status.metadata, pod.config.metadata);
        assert_eq!(status.labels, pod.config.labels);
        assert_eq!(status.annotations, pod.config.annotations);
        assert!(status.created_at > 0);
        let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!(options.network(), NamespaceMode::Pod);
        assert_eq!(options.pid(), NamespaceMode::Container);
        assert!(status.network.unwrap().ip.starts_with("10.77."), "of the configured subnet");

        world.stop_pod(&pod.id);
        assert_eq!(world.pod_status(&pod.id).state(), PodSandboxState::SandboxNotready);
        assert_eq!(list(world, None), [pod.id.as_str()]);

        world.remove_pod(&pod.id);
        assert!(list(world, None).is_empty());
    });
}

#[test]
fn privileged_stopping_and_removing_may_be_repeated_and_unknown_ids_succeed() {
    in_world(|world| {
        let pod = world.run_pod("again");
        let id = world.run_shell(&pod, "running", "sleep 1000");
        for _ in 0..3 {
            world.stop_pod(&pod.id);
        }
        assert_eq!(world.status(&id).exit_code, 137, "a stopped pod's container is killed");
        for _ in 0..3 {
            world.remove_pod(&pod.id);
        }
        let unknown = "0123456789abcdef".repeat(4);
        for id in [unknown.as_str(), &unknown[..13], "no such pod"] {
            world.stop_pod(id);
            world.remove_pod(id);
            let request =
                PodSandboxStatusRequest { pod_sandbox_id: id.into(), ..Default::default() };
            let error = world.cri().pod_sandbox_status(request).unwrap_err();
            assert_eq!(error.code(), Code::NotFound, "{id}");
        }
    });
}

#[test]
fn privileged_a_ready_pod_is_removed_with_its_running_containers() {
    in_world(|world| {
        let pod = world.run_pod("forced");
        world.run_shell(&pod, "one", "sleep 1000");
        world.run_shell(&pod, "two", "sleep 1000 & sleep 1000 & wait");
        world.remove_pod(&pod.id);
        assert!(list(world, None).is_empty());
        world.assert_nothing_is_left();
    });
}

#[test]
fn privileged_pods_are_stopped_and_removed_by_many_at_the_same_time() {
    in_world(|world| {
        let pod = world.run_pod("crowd");
        world.run_shell(&pod, "sleeper", "sleep 1000");
        world.cri().block_on(async {
            let mut stops = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let mut service = world.cri().runtime_service();
                let request = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
                stops.spawn(async move { service.stop_pod_sandbox(request).await });
            }
            for stop in stops.join_all().await {
                stop.unwrap();
            }
        });
        assert_eq!(world.pod_status(&pod.id).state(), PodSandboxState::SandboxNotready);
    });
}

#[test]
fn privileged_pods_have_different_addresses_and_reach_each_other_and_the_node() {
    in_world(|world| {
        let (one, two) = (world.run_pod("one"), world.run_pod("two"));
        let (first, second) = (world.address(&one), world.address(&two));
        assert_ne!(first, second);
        let id = world.run_shell(&one, "sleeper", "sleep 1000");
        for target in [second.as_str(), "127.0.0.1", "10.77.0.1"] {
            world.exec(&id, &["ping", "-c", "1", "-W", "5", target]);
        }
        let addresses = world.exec(&id, &["ip", "-4", "addr", "show", "dev", "eth0"]);
        assert!(addresses.contains(&first), "{addresses}");
        let route = world.exec(&id, &["ip", "route"]);
        assert!(route.contains("default via 10.77.0.1"), "{route}");
    });
}

#[test]
fn privileged_a_pod_reaches_a_service_of_another_pod_by_tcp() {
    in_world(|world| {
        let (server, client) = (world.run_pod("server"), world.run_pod("client"));
        world.run_shell(
            &server,
            "httpd",
            "echo from-the-server > /tmp/index; exec httpd -f -p 80 -h /tmp",
        );
        let id = world.run_shell(&client, "sleeper", "sleep 1000");
        // Not wget: a static busybox cannot look up names, and dies of trying.
        let script = format!(
            "printf 'GET /index HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {} 80",
            world.address(&server)
        );
        let mut answer = Default::default();
        let answered = eventually(|| {
            answer = world.try_exec(&id, &["sh", "-c", &script], 10).unwrap();
            answer.stdout.ends_with(b"from-the-server\n").then_some(())
        });
        assert!(answered.is_some(), "{answer:?}");
    });
}

#[test]
fn privileged_a_host_port_leads_into_the_pod_and_goes_with_it() {
    in_world(|world| {
        let mut config = world.pod_config("port");
        config.port_mappings = vec![PortMapping {
            protocol: Protocol::Tcp.into(),
            container_port: 80,
            host_port: 18080,
            ..Default::default()
        }];
        let pod = world.run_pod_from(config);
        world.run_shell(&pod, "httpd", "echo mapped > /tmp/index; exec httpd -f -p 80 -h /tmp");
        let address = "10.77.0.1:18080".parse().unwrap();
        until("the mapped port answers", || {
            suite::http::send(address, "GET", "/index", "", &[])
                .is_ok_and(|answer| answer.body == b"mapped\n")
        });
        world.stop_pod(&pod.id);
        assert!(suite::http::send(address, "GET", "/index", "", &[]).is_err());
    });
}

#[test]
fn privileged_addresses_are_used_again() {
    in_world(|world| {
        let first = world.run_pod("first");
        let address = world.address(&first);
        world.stop_pod(&first.id);
        world.remove_pod(&first.id);
        for round in 0..5 {
            let pod = world.run_pod(&format!("round-{round}"));
            assert!(!world.address(&pod).is_empty());
            world.remove_pod(&pod.id);
        }
        let kept = world.run_pod("kept");
        assert!(world.address(&kept).starts_with("10.77."), "{address} was given back");
    });
}

#[test]
fn privileged_a_pod_on_the_host_network_has_no_address_and_sees_the_nodes_links() {
    in_world(|world| {
        let config = on_host_network(world.pod_config("host"));
        let before = world.census();
        let pod = world.run_pod_from(config);
        assert_eq!(world.address(&pod), "");
        let status = world.pod_status(&pod.id);
        let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!(options.network(), NamespaceMode::Node);
        let mut container = world.container_config("host", &[]);
        security(&mut container).namespace_options = Some(options);
        let printed = world.printed(&pod, container, "ip link; hostname");
        assert!(printed.contains("uplink"), "{printed}");
        assert_eq!(world.census().of("links"), before.of("links"), "no link was made");
    });
}

#[test]
fn privileged_a_pod_has_its_own_hostname_hosts_and_resolver() {
    in_world(|world| {
        let mut config = world.pod_config("files");
        config.hostname = "a-host-name".into();
        config.dns_config = Some(DnsConfig {
            servers: vec!["10.1.2.3".into()],
            searches: vec!["tests.svc.cluster.local".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        });
        let pod = world.run_pod_from(config);
        let script = "hostname; cat /etc/hostname; cat /etc/resolv.conf; cat /etc/hosts";
        let printed = world.printed(&pod, world.container_config("files", &[]), script);
        let address = world.address(&pod);
        assert!(printed.starts_with("a-host-name\na-host-name\n"), "{printed}");
        for line in ["nameserver 10.1.2.3", "search tests.svc.cluster.local svc", "options ndots:5"]
        {
            assert!(printed.contains(line), "{line} in {printed}");
        }
        let hosts =
            printed.lines().any(|line| line.starts_with(&address) && line.contains("a-host-name"));
        assert!(hosts, "{printed}");
        assert!(printed.contains("127.0.0.1"), "{printed}");
    });
}

#[test]
fn privileged_sysctls_of_a_pod_are_set_in_it_and_not_on_the_node() {
    in_world(|world| {
        let mut config = world.pod_config("sysctl");
        let sysctls =
            [("kernel.shm_rmid_forced", "1"), ("net.ipv4.ip_local_port_range", "2000 3000")];
        config.linux.as_mut().unwrap().sysctls =
            sysctls.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let node = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let pod = world.run_pod_from(config);
        let script = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range";
        let printed = world.printed(&pod, world.container_config("sysctl", &[]), script);
        let words: Vec<&str> = printed.split_whitespace().collect();
        assert_eq!(words, ["1", "2000", "3000"]);
        let after = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        assert_eq!(node, after);
    });
}

#[test]
fn privileged_containers_of_a_pod_share_its_network_and_ipc_but_not_its_pids() {
    in_world(|world| {
        let (pod, other) = (world.run_pod("shared"), world.run_pod("other"));
        let namespaces = |pod, name: &str| {
            let script = "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done";
            let printed = world.printed(pod, world.container_config(name, &[]), script);
            printed.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        // Kept alive side by side, so that no number is used again.
        let keep = world.run_shell(&pod, "keep", "sleep 1000");
        let script = "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done";
        let kept: Vec<String> =
            world.exec(&keep, &["sh", "-c", script]).lines().map(str::to_owned).collect();
        let beside = namespaces(&pod, "beside");
        let apart = namespaces(&other, "apart");
        assert_eq!(kept[..3], beside[..3], "net, ipc, uts");
        assert_ne!(kept[3], beside[3], "pid");
        assert_ne!(kept[4], beside[4], "mnt");
        for (in_one, in_other) in kept.iter().zip(&apart) {
            assert_ne!(in_one, in_other);
        }
    });
}

#[test]
fn privileged_requests_repeated_while_the_pod_is_being_made_give_the_same_pod() {
    in_world(|world| {
        let config = world.pod_config("retries");
        let ids = world.cri().block_on(async {
            let mut runs = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let mut service = world.cri().runtime_service();
                let request =
                    RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
                runs.spawn(async move { service.run_pod_sandbox(request).await });
            }
            runs.join_all().await
        });
        let mut ids: Vec<String> =
            ids.into_iter().map(|id| id.unwrap().into_inner().pod_sandbox_id).collect();
        ids.dedup();
        assert_eq!(list(world, None), ids, "one pod, and everybody was told of it");

        // Whoever was told is not told again: containerd's own tests want an error here.
        let error = world.try_run_pod(&config).unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists, "{error}");
        assert!(error.message().contains(&ids[0]), "it names the pod: {error}");
    });
}

#[test]
fn privileged_a_client_that_hangs_up_does_not_leave_half_a_pod() {
    in_world(|world| {
        // Where the machine is busy, the answer may be on its way when we hang up: then it was given. Tried anew.
        let tries = (0..20).map(|number| world.pod_config(&format!("impatient-{number}")));
        let mut retried = tries.map(|config| {
            hang_up_on(world, &config);
            // The retry that a kubelet would send.
            world.try_run_pod(&config)
        });
        let is_answered = |result: &Result<String, tonic::Status>| {
            result.as_ref().is_err_and(|error| error.code() == Code::AlreadyExists)
        };
        let id = retried.find(|result| !is_answered(result)).expect("one hung up in time").unwrap();
        let pods = list(world, None);
        assert_eq!(pods.iter().filter(|pod| **pod == id).count(), 1, "{pods:?}");
    });
}

/// Asks for a pod, and is gone before it is there.
fn hang_up_on(world: &World, config: &cri_api::runtime::v1::PodSandboxConfig) {
    world.cri().block_on(async {
        let mut service = world.cri().runtime_service();
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let run = tokio::spawn(async move { service.run_pod_sandbox(request).await });
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        run.abort();
    });
}

#[test]
fn privileged_the_same_name_with_another_content_is_refused_while_the_pod_lives() {
    in_world(|world| {
        let config = world.pod_config("name");
        let first = world.try_run_pod(&config).unwrap();
        let mut other = config.clone();
        other.hostname = "another".into();
        let error = world.try_run_pod(&other).unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists, "{error}");
        world.stop_pod(&first);
        world.remove_pod(&first);
        let second = world.try_run_pod(&other).unwrap();
        assert_ne!(first, second);
        let mut next = other.clone();
        next.metadata.as_mut().unwrap().attempt = 1;
        assert_ne!(world.try_run_pod(&next).unwrap(), second, "the next attempt is another pod");
    });
}

#[test]
fn privileged_bad_input_is_refused_with_its_code_and_leaves_nothing() {
    in_world(|world| {
        type Change = fn(&mut RunPodSandboxRequest);
        fn config(request: &mut RunPodSandboxRequest) -> &mut PodSandboxConfig {
            request.config.as_mut().unwrap()
        }
        let cases: [(&str, Change); 12] = [
            ("no config", |request| request.config = None),
            ("no metadata", |request| config(request).metadata = None),
            ("no name", |request| config(request).metadata.as_mut().unwrap().name.clear()),
            ("unknown handler", |request| request.runtime_handler = "nobody".into()),
            ("relative cgroup parent", |request| {
                config(request).linux.as_mut().unwrap().cgroup_parent = "a/../b".into();
            }),
            ("climbing cgroup parent", |request| {
                config(request).linux.as_mut().unwrap().cgroup_parent = "/a/../../b".into();
            }),
            ("unknown sysctl", |request| {
                let sysctls = &mut config(request).linux.as_mut().unwrap().sysctls;
                sysctls.insert("net.no.such.key".into(), "1".into());
            }),
            ("sysctl of the whole node", |request| {
                let sysctls = &mut config(request).linux.as_mut().unwrap().sysctls;
                sysctls.insert("vm.swappiness".into(), "1".into());
            }),
            ("sysctl that climbs", |request| {
                let sysctls = &mut config(request).linux.as_mut().unwrap().sysctls;
                sysctls.insert("net/../kernel/panic".into(), "1".into());
            }),
            ("hostname too long", |request| config(request).hostname = "x".repeat(65)),
            ("port out of range", |request| {
                config(request).port_mappings = vec![PortMapping {
                    container_port: 80,
                    host_port: 70000,
                    ..Default::default()
                }];
            }),
            ("address that is none", |request| {
                config(request).port_mappings = vec![PortMapping {
                    container_port: 80,
                    host_port: 8080,
                    host_ip: "not an address".into(),
                    ..Default::default()
                }];
            }),
        ];
        for (what, change) in cases {
            let mut request = RunPodSandboxRequest {
                config: Some(world.pod_config("bad")),
                ..Default::default()
            };
            change(&mut request);
            match world.cri().run_pod_sandbox(request) {
                Ok(answer) => panic!("{what} made pod {}", answer.pod_sandbox_id),
                Err(error) => {
                    assert_eq!(error.code(), Code::InvalidArgument, "{what}: {error}");
                    assert!(!error.message().is_empty(), "{what}");
                }
            }
            assert!(list(world, None).is_empty(), "{what}");
            world.assert_nothing_is_left();
        }
    });
}

#[test]
fn privileged_a_host_port_that_is_taken_is_refused_and_leaves_nothing() {
    in_world(|world| {
        let mapped = |world: &World, name: &str| {
            let mut config = world.pod_config(name);
            config.port_mappings = vec![PortMapping {
                protocol: Protocol::Tcp.into(),
                container_port: 80,
                host_port: 18081,
                ..Default::default()
            }];
            config
        };
        let first = world.run_pod_from(mapped(world, "first"));
        world.try_run_pod(&mapped(world, "second")).expect_err("the port is taken");
        assert_eq!(list(world, None), [first.id.as_str()]);
        world.remove_pod(&first.id);
        world.run_pod_from(mapped(world, "third"));
    });
}

#[test]
fn privileged_pods_are_found_by_id_state_and_labels() {
    in_world(|world| {
        let labelled = |world: &World, name: &str, tier: &str| {
            let mut config = world.pod_config(name);
            config.labels =
                BTreeMap::from([("app".into(), name.into()), ("tier".into(), tier.into())]);
            world.run_pod_from(config).id
        };
        let a = labelled(world, "a", "front");
        let b = labelled(world, "b", "back");
        let c = labelled(world, "c", "back");
        world.stop_pod(&c);
        let sorted = |ids: &[&String]| {
            let mut ids: Vec<String> = ids.iter().map(|&id| id.clone()).collect();
            ids.sort();
            ids
        };
        let by_labels = |labels: &[(&str, &str)]| PodSandboxFilter {
            label_selector: labels.iter().map(|&(k, v)| (k.into(), v.into())).collect(),
            ..Default::default()
        };
        let by_state = |state: PodSandboxState| PodSandboxFilter {
            state: Some(PodSandboxStateValue { state: state.into() }),
            ..Default::default()
        };
        let by_id = |id: &str| PodSandboxFilter { id: id.into(), ..Default::default() };
        let cases = [
            ("nothing", PodSandboxFilter::default(), sorted(&[&a, &b, &c])),
            ("id", by_id(&a), sorted(&[&a])),
            ("beginning of an id", by_id(&b[..13]), sorted(&[&b])),
            ("unknown id", by_id(&"0".repeat(64)), vec![]),
            ("ready", by_state(PodSandboxState::SandboxReady), sorted(&[&a, &b])),
            ("not ready", by_state(PodSandboxState::SandboxNotready), sorted(&[&c])),
            ("label", by_labels(&[("tier", "back")]), sorted(&[&b, &c])),
            ("labels, all of them", by_labels(&[("tier", "back"), ("app", "b")]), sorted(&[&b])),
            ("label with another value", by_labels(&[("tier", "middle")]), vec![]),
        ];
        for (what, filter, expected) in cases {
            assert_eq!(list(world, Some(filter)), expected, "by {what}");
        }
        assert_eq!(world.pod_status(&a[..13]).id, a, "a truncated id is enough");
        world.remove_pod(&b[..13]);
        assert_eq!(list(world, None), sorted(&[&a, &c]));
    });
}

#[test]
fn privileged_a_pod_without_a_cgroup_parent_goes_below_the_configured_one() {
    in_world(|world| {
        let mut config = world.pod_config("parentless");
        config.linux.as_mut().unwrap().cgroup_parent = String::new();
        let pod = world.run_pod_from(config);
        let id = world.run_shell(&pod, "sleeper", "sleep 1000");
        let cgroups = world.stage.cgroups.below();
        assert!(cgroups.iter().any(|path| path.contains(&id)), "{cgroups:?}");
    });
}
