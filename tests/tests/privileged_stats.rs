//! What kubelet, crictl and Prometheus read of pods and containers.

use std::collections::BTreeMap;

use cri_api::runtime::v1::{
    ContainerStats, ContainerStatsFilter, ContainerStatsRequest, LinuxContainerResources,
    ListContainerStatsRequest, ListMetricDescriptorsRequest, ListPodSandboxMetricsRequest,
    ListPodSandboxStatsRequest, NamespaceMode, PodSandboxStatsFilter, PodSandboxStatsRequest,
    UInt64Value,
};
use suite::patience::until;
use suite::pods::{Pod, pod_security};
use suite::{World, cgroup, in_world};
use tonic::Code;

fn stats(world: &World, id: &str) -> ContainerStats {
    let request = ContainerStatsRequest { container_id: id.to_owned() };
    world.cri().container_stats(request).expect("statistics").stats.expect("of the container")
}

fn listed(world: &World, filter: Option<ContainerStatsFilter>) -> Vec<String> {
    let request = ListContainerStatsRequest { filter };
    let stats = world.cri().list_container_stats(request).expect("list statistics").stats;
    stats.into_iter().filter_map(|one| Some(one.attributes?.id)).collect()
}

fn number(value: Option<UInt64Value>) -> u64 {
    value.expect("a figure").value
}

/// A container that has computed, holds memory and has written.
fn busy(world: &World, pod: &Pod, name: &str) -> String {
    let script = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); head -c 3000000 /dev/zero >/tmp/file; \
                  i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo ready; sleep 1000; true";
    let mut config = world.container_config(name, &["sh", "-c", script]);
    config.linux.as_mut().expect("linux").resources =
        Some(LinuxContainerResources { memory_limit_in_bytes: 256 << 20, ..Default::default() });
    config.labels = BTreeMap::from([("app".to_owned(), name.to_owned())]);
    let id = world.run(pod, config);
    until("the container is ready", || !world.log_of(&id).is_empty());
    id
}

#[test]
fn privileged_stats_of_a_container_have_its_figures() {
    in_world(|world| {
        let pod = world.run_pod("stats");
        let id = busy(world, &pod, "busy");
        let first = stats(world, &id);
        assert_eq!(first.attributes.as_ref().unwrap().metadata.as_ref().unwrap().name, "busy");
        let cpu = first.cpu.unwrap();
        assert!(number(cpu.usage_core_nano_seconds) > 10_000_000);
        let memory = first.memory.unwrap();
        let (used, limit) = (number(memory.working_set_bytes), 256 << 20);
        assert!((20_000_000..limit).contains(&used), "{used}");
        assert_eq!(number(memory.available_bytes), limit - used);
        assert!(number(memory.rss_bytes) >= 19_000_000);
        assert!(number(memory.page_faults) > 0);
        let layer = first.writable_layer.unwrap();
        assert!(number(layer.used_bytes) >= 3_000_000, "what it has written");
        assert!(number(layer.inodes_used) >= 1);
        let root = layer.fs_id.unwrap().mountpoint;
        assert!(std::fs::metadata(&root).unwrap().is_dir(), "{root}");
        let has_pressure = cgroup::is_v2() && std::path::Path::new("/proc/pressure").exists();
        assert_eq!(cpu.psi.is_some(), has_pressure);

        until("a second sample has a later time and a rate", || {
            let second = stats(world, &id).cpu.unwrap();
            second.timestamp > cpu.timestamp && second.usage_nano_cores.is_some()
        });
        let request = ContainerStatsRequest { container_id: "nobody".into() };
        assert_eq!(world.cri().container_stats(request).unwrap_err().code(), Code::NotFound);
        world.stop(&id, 0);
        let after = stats(world, &id);
        assert!(after.cpu.is_none() && after.writable_layer.is_some(), "it has ended: {after:?}");
    });
}

#[test]
fn privileged_stats_lists_have_what_runs_and_passes_the_filter() {
    in_world(|world| {
        let (one, other) = (world.run_pod("one"), world.run_pod("other"));
        let a = world.run(&one, world.container_config("a", &["sleep", "1000"]));
        let b = world.run(&other, world.container_config("b", &["sleep", "1000"]));
        let created = world.create(&one, world.container_config("c", &["sleep", "1000"]));
        let ended = world.run_shell(&one, "d", "exit 0");
        world.wait(&ended);
        let mut all = listed(world, None);
        all.sort();
        let mut want = vec![a.clone(), b.clone()];
        want.sort();
        assert_eq!(all, want, "neither {created} nor {ended} run");
        let of_pod = ContainerStatsFilter { pod_sandbox_id: one.id.clone(), ..Default::default() };
        assert_eq!(listed(world, Some(of_pod)), std::slice::from_ref(&a));
        let by_id = ContainerStatsFilter { id: b[..20].to_owned(), ..Default::default() };
        assert_eq!(listed(world, Some(by_id)), [b]);

        // A container whose cgroup is gone costs nobody else a figure.
        world.stop_pod(&other.id);
        assert_eq!(listed(world, None), [a]);
        let pods = |filter| {
            let request = ListPodSandboxStatsRequest { filter };
            let stats = world.cri().list_pod_sandbox_stats(request).unwrap().stats;
            stats.into_iter().filter_map(|pod| Some(pod.attributes?.id)).collect::<Vec<_>>()
        };
        assert_eq!(pods(None), std::slice::from_ref(&one.id), "only ready ones");
        let none = PodSandboxStatsFilter { id: "ffff".into(), ..Default::default() };
        assert!(pods(Some(none)).is_empty());
    });
}

#[test]
fn privileged_stats_of_a_pod_have_its_network_and_its_containers() {
    in_world(|world| {
        let mut config = world.pod_config("net");
        config.linux.as_mut().unwrap().cgroup_parent = String::new();
        let pod = world.run_pod_from(config);
        let id = world.run_shell(
            &pod,
            "talker",
            "ping -c 3 -i 0.1 -W 1 10.77.0.1 >/dev/null; echo ready; sleep 1000; true",
        );
        until("the container has talked", || !world.log_of(&id).is_empty());
        let request = PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
        let stats = world.cri().pod_sandbox_stats(request).unwrap().stats.unwrap().linux.unwrap();
        let network = stats.network.unwrap();
        let link = network.default_interface.unwrap();
        assert_eq!(link.name, "eth0");
        assert!(number(link.tx_bytes) > 200 && number(link.rx_bytes) > 200);
        assert_eq!(number(link.rx_errors), 0);
        assert!(number(stats.process.unwrap().process_count) >= 2);
        assert!(number(stats.cpu.unwrap().usage_core_nano_seconds) > 0);
        assert!(number(stats.memory.unwrap().working_set_bytes) > 0);
        assert_eq!(stats.containers.len(), 1);

        let mut config = world.pod_config("host");
        let options = pod_security(&mut config).namespace_options.as_mut().unwrap();
        options.network = NamespaceMode::Node.into();
        let host = world.run_pod_from(config);
        let request = PodSandboxStatsRequest { pod_sandbox_id: host.id };
        let stats = world.cri().pod_sandbox_stats(request).unwrap().stats.unwrap().linux.unwrap();
        assert!(stats.network.is_none(), "the host's network is none of a pod's");
        let request = PodSandboxStatsRequest { pod_sandbox_id: "nobody".into() };
        assert_eq!(world.cri().pod_sandbox_stats(request).unwrap_err().code(), Code::NotFound);
    });
}

#[test]
fn privileged_stats_metrics_have_the_names_and_labels_of_cadvisor() {
    in_world(|world| {
        let pod = world.run_pod("metrics");
        let id = busy(world, &pod, "busy");
        let answer = world.cri().list_metric_descriptors(ListMetricDescriptorsRequest {});
        let described: BTreeMap<String, Vec<String>> =
            answer.unwrap().descriptors.into_iter().map(|one| (one.name, one.label_keys)).collect();
        let answer = world.cri().list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {});
        let pods = answer.unwrap().pod_metrics;
        assert_eq!(pods.len(), 1);
        assert_eq!(pods[0].pod_sandbox_id, pod.id);
        let container = &pods[0].container_metrics[0];
        assert_eq!(container.container_id, id);
        let mut seen = BTreeMap::new();
        for metric in pods[0].metrics.iter().chain(&container.metrics) {
            let keys = described.get(&metric.name).unwrap_or_else(|| panic!("{}", metric.name));
            assert_eq!(keys.len(), metric.label_values.len(), "{}", metric.name);
            let labels: BTreeMap<_, _> = keys.iter().zip(&metric.label_values).collect();
            assert_eq!(labels[&"pod".to_owned()], "metrics", "{}", metric.name);
            assert_eq!(labels[&"namespace".to_owned()], "tests", "{}", metric.name);
            seen.insert(
                (metric.name.as_str(), labels[&"container".to_owned()].as_str()),
                metric.value.as_ref().unwrap().value,
            );
        }
        assert!(seen[&("container_memory_working_set_bytes", "busy")] > 20_000_000);
        assert_eq!(seen[&("container_spec_memory_limit_bytes", "busy")], 256 << 20);
        assert!(seen[&("container_fs_usage_bytes", "busy")] >= 3_000_000);
        assert!(seen[&("container_start_time_seconds", "busy")] > 1_600_000_000);
        assert!(seen.contains_key(&("container_cpu_usage_seconds_total", "busy")));
        assert!(seen.contains_key(&("container_network_receive_bytes_total", "")));
    });
}
