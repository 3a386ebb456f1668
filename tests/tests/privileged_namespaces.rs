//! Which namespaces pods and containers are in, mode by mode.

use cri_api::runtime::v1::{ContainerConfig, NamespaceMode, NamespaceOption};
use std::collections::BTreeMap;
use suite::pods::{pod_security, security};
use suite::{Pod, World, in_world};
use tonic::Code;

fn options(config: &mut ContainerConfig) -> &mut NamespaceOption {
    security(config).namespace_options.get_or_insert_default()
}

/// The namespaces of this test's own thread, which are the daemon's too.
fn of_node(kind: &str) -> String {
    let namespace = std::fs::read_link(format!("/proc/thread-self/ns/{kind}"));
    namespace.expect("a namespace").display().to_string()
}

fn namespaces(world: &World, pod: &Pod, config: ContainerConfig) -> BTreeMap<String, String> {
    let script =
        "for k in net ipc uts pid mnt cgroup user; do echo $k $(readlink /proc/self/ns/$k); done";
    let printed = world.printed(pod, config, script);
    let pairs = printed.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(kind, namespace)| (kind.to_owned(), namespace.to_owned())).collect()
}

#[test]
fn privileged_pids_are_seen_as_each_mode_says() {
    in_world(|world| {
        let pod = world.run_pod("pids");
        // What a request says that says nothing: POD is 0.
        let mut silent = world.container_config("silent", &["sleep", "1111"]);
        security(&mut silent).namespace_options = None;
        let silent = world.run(&pod, silent);
        let own = world.run(&pod, world.container_config("own", &["sleep", "2222"]));
        let cases = [
            (NamespaceMode::Pod, "1111"),
            (NamespaceMode::Container, ""),
            (NamespaceMode::Node, "1111 2222 node"),
            (NamespaceMode::Target, "2222"),
        ];
        for (mode, want) in cases {
            let mut config = world.container_config(&format!("{mode:?}").to_lowercase(), &[]);
            options(&mut config).pid = mode.into();
            options(&mut config).target_id.clone_from(&own);
            let script = format!(
                "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null; echo; done | grep -o '^sleep [12]*' | grep -o '[12]*$' | sort -u | tr '\\n' ' '; \
                 grep -q berthd /proc/{}/comm 2>/dev/null && echo node; true",
                world.daemon_pid()
            );
            let printed = world.printed(&pod, config, &script);
            let seen: Vec<&str> = printed.split_whitespace().collect();
            assert_eq!(seen.join(" "), want, "{mode:?}");
        }
        for id in [silent, own] {
            world.stop(&id, 0);
        }
    });
}

#[test]
fn privileged_a_container_joins_the_pids_of_its_target() {
    in_world(|world| {
        let pod = world.run_pod("debug");
        let target = world.run(&pod, world.container_config("target", &["sleep", "3333"]));
        let mut config = world.container_config("debugger", &["sleep", "4444"]);
        options(&mut config).pid = NamespaceMode::Target.into();
        options(&mut config).target_id.clone_from(&target);
        let debugger = world.run(&pod, config);
        let pids = |id: &str| world.exec(id, &["readlink", "/proc/self/ns/pid"]);
        assert_eq!(pids(&target), pids(&debugger));
        let looked = world.exec(
            &debugger,
            &["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; ls /proc/1/root/etc/passwd"],
        );
        assert_eq!(looked, "sleep 3333 /proc/1/root/etc/passwd\n");
        assert!(world.exec(&target, &["sh", "-c", "cat /proc/[0-9]*/cmdline"]).contains("4444"));
        // The one that joined ends alone; the target takes the others along.
        world.stop(&debugger, 0);
        assert_eq!(
            world.exec(&target, &["sh", "-c", "cat /proc/[0-9]*/cmdline | grep -c [4]444; true"]),
            "0\n"
        );
        let mut config = world.container_config("again", &["sleep", "5555"]);
        options(&mut config).pid = NamespaceMode::Target.into();
        options(&mut config).target_id.clone_from(&target);
        let again = world.run(&pod, config);
        world.stop(&target, 0);
        assert_eq!(world.wait(&again).exit_code, 137);
    });
}

#[test]
fn privileged_targets_that_are_gone_or_of_other_pods_are_refused() {
    in_world(|world| {
        let (pod, other) = (world.run_pod("pod"), world.run_pod("other"));
        let foreign = world.run(&other, world.container_config("foreign", &["sleep", "1000"]));
        let ended = world.run(&pod, world.container_config("ended", &["true"]));
        world.wait(&ended);
        let created = world.create(&pod, world.container_config("created", &["true"]));
        let nobody = "0".repeat(64);
        let cases = [
            ("of another pod", foreign.as_str()),
            ("ended", &ended),
            ("not started", &created),
            ("unknown", &nobody),
            ("not named", ""),
            ("no id", "../../x"),
        ];
        for (name, target) in cases {
            let mut config = world.container_config("joins", &["true"]);
            options(&mut config).pid = NamespaceMode::Target.into();
            target.clone_into(&mut options(&mut config).target_id);
            let refused = world.try_create(&pod, config).expect_err(name);
            assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused}");
            assert!(
                refused.message().contains("target") || refused.message().contains("PID namespace"),
                "{refused}"
            );
        }
        // One that ends between create and start is a failed start, with its cause in the status.
        let target = world.run(&pod, world.container_config("target", &["sleep", "1000"]));
        let mut config = world.container_config("late", &["true"]);
        options(&mut config).pid = NamespaceMode::Target.into();
        options(&mut config).target_id.clone_from(&target);
        let late = world.create(&pod, config);
        world.stop(&target, 0);
        world.try_start(&late).expect_err("its target has ended");
        let status = world.status(&late);
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        assert!(status.message.contains("not running"), "{}", status.message);
    });
}

#[test]
fn privileged_network_ipc_and_names_are_the_pods_or_the_nodes() {
    in_world(|world| {
        type Change = fn(&mut NamespaceOption);
        let cases: [(&str, Change, &[&str]); 4] = [
            ("own", |_| {}, &[]),
            ("ipc", |options| options.ipc = NamespaceMode::Node.into(), &["ipc"]),
            ("network", |options| options.network = NamespaceMode::Node.into(), &["net", "uts"]),
            (
                "all",
                |options| {
                    options.ipc = NamespaceMode::Node.into();
                    options.network = NamespaceMode::Node.into();
                    options.pid = NamespaceMode::Node.into();
                },
                &["net", "ipc", "uts", "pid"],
            ),
        ];
        for (name, change, shared) in cases {
            let mut config = world.pod_config(name);
            change(pod_security(&mut config).namespace_options.get_or_insert_default());
            let pod = world.run_pod_from(config);
            let mut config = world.container_config(name, &[]);
            change(options(&mut config));
            let seen = namespaces(world, &pod, config.clone());
            for kind in ["net", "ipc", "uts", "pid", "mnt"] {
                let is_nodes = seen[kind] == of_node(kind);
                assert_eq!(is_nodes, shared.contains(&kind), "{name}: {kind} {seen:?}");
            }
            assert_eq!(seen["user"], of_node("user"), "{name}");
            let v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
            assert_eq!(
                seen["cgroup"] != of_node("cgroup"),
                v2,
                "{name}: a cgroup namespace on v2 alone"
            );
            config.metadata.as_mut().unwrap().name = "hostname".into();
            config.log_path = "hostname.log".into();
            let node = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
            let told = if shared.contains(&"uts") { node.trim() } else { name };
            assert_eq!(world.printed(&pod, config, "hostname").trim(), told, "{name}");
        }
    });
}

#[test]
fn privileged_shared_memory_of_the_nodes_ipc_namespace_is_the_nodes() {
    in_world(|world| {
        let mut config = world.pod_config("ipc");
        pod_security(&mut config).namespace_options.get_or_insert_default().ipc =
            NamespaceMode::Node.into();
        let pod = world.run_pod_from(config);
        let mut config = world.container_config("ipc", &[]);
        options(&mut config).ipc = NamespaceMode::Node.into();
        let name = format!("berth-test-{}", std::process::id());
        let file = std::path::Path::new("/dev/shm").join(&name);
        world.printed(&pod, config, &format!("echo here > /dev/shm/{name}"));
        let written = std::fs::read_to_string(&file);
        std::fs::remove_file(&file).ok();
        assert_eq!(written.unwrap(), "here\n");
    });
}

#[test]
fn privileged_sysctls_of_what_a_pod_shares_with_the_node_are_refused() {
    in_world(|world| {
        type Change = fn(&mut NamespaceOption);
        let network: Change = |options| options.network = NamespaceMode::Node.into();
        let ipc: Change = |options| options.ipc = NamespaceMode::Node.into();
        let cases = [
            ("net.ipv4.ip_forward", "1", network),
            ("net.core.somaxconn", "100", network),
            ("kernel.shmmax", "1000000", ipc),
            ("fs.mqueue.msg_max", "11", ipc),
            ("kernel.core_pattern", "|/bin/sh", |_| {}),
            ("vm.overcommit_memory", "1", |_| {}),
            ("kernel.shmmax", "1+kernel.core_pattern=x", |_| {}),
        ];
        let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        for (key, value, change) in cases {
            let mut config = world.pod_config("sysctl");
            change(pod_security(&mut config).namespace_options.get_or_insert_default());
            config.linux.as_mut().unwrap().sysctls = [(key.to_owned(), value.to_owned())].into();
            let refused = world.try_run_pod(&config).expect_err(key);
            assert_eq!(refused.code(), Code::InvalidArgument, "{key}: {refused}");
        }
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
        // Each is the pod's own business where its namespace is the pod's own.
        let mut config = world.pod_config("own");
        pod_security(&mut config).namespace_options.get_or_insert_default().network =
            NamespaceMode::Node.into();
        config.linux.as_mut().unwrap().sysctls = [
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
            ("fs.mqueue.msg_max".to_owned(), "11".to_owned()),
        ]
        .into();
        let pod = world.run_pod_from(config);
        let mut config = world.container_config("own", &[]);
        options(&mut config).network = NamespaceMode::Node.into();
        let printed = world.printed(
            &pod,
            config,
            "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max",
        );
        assert_eq!(printed, "1\n11\n");
        world.remove_all_pods();
        world.assert_nothing_is_left();
    });
}
