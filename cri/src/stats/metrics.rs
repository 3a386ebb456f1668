//! Metrics of pods and containers under the names that cAdvisor gave them, for kubelet's `/metrics/cadvisor` (KEP-2371).
//!
//! One table has them all, so what is described and what is told cannot differ. Seconds are whole ones: the interface has
//! no others.

use super::gauge::Reading;
use super::network;
use crate::container::{Container, State};
use crate::host::blocking;
use crate::node::Node;
use crate::sandbox::Sandbox;
use cri_api::runtime::v1::{
    ContainerMetrics, LinuxContainerResources, Metric, MetricDescriptor, MetricType,
    PodSandboxMetrics, UInt64Value,
};
use netns::{Direction, LinkStatistics};
use runtime::cgroup::{CpuTime, Memory, Pressure};
use std::sync::Arc;

/// The labels of every metric, in cAdvisor's order.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

const NS: u64 = 1_000_000_000;
const US: u64 = 1_000_000;

/// What the metrics of one container or pod are made of.
struct Facts {
    labels: Vec<String>,
    reading: Reading,
    /// Of a container.
    container: Option<OfContainer>,
    /// Of a pod.
    links: Vec<LinkStatistics>,
}

struct OfContainer {
    resources: LinuxContainerResources,
    /// Nanoseconds since the epoch.
    started_at: i64,
    layer_bytes: Option<u64>,
}

/// Further label values, and the figure.
type Samples = Vec<(Vec<String>, u64)>;

struct Row {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    more: &'static [&'static str],
    samples: fn(&Facts) -> Samples,
}

const fn row(
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    more: &'static [&'static str],
    samples: fn(&Facts) -> Samples,
) -> Row {
    Row { name, help, kind, more, samples }
}

use MetricType::{Counter, Gauge};

#[rustfmt::skip]
const ROWS: [Row; 42] = [
    row("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", Counter, &["cpu"], |f| {
        with("total", cpu(f, |cpu| cpu.total_ns / NS))
    }),
    row("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", Counter, &[], |f| cpu(f, |cpu| cpu.user_ns / NS)),
    row("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", Counter, &[], |f| cpu(f, |cpu| cpu.system_ns / NS)),
    row("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", Counter, &[], |f| cpu(f, |cpu| cpu.periods)),
    row("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", Counter, &[], |f| cpu(f, |cpu| cpu.throttled_periods)),
    row("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", Counter, &[], |f| cpu(f, |cpu| cpu.throttled_ns / NS)),
    row("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.", Gauge, &[], |f| memory(f, |m| m.used)),
    row("container_memory_working_set_bytes", "Current working set in bytes.", Gauge, &[], |f| memory(f, |m| m.working_set)),
    row("container_memory_rss", "Size of RSS in bytes.", Gauge, &[], |f| memory(f, |m| m.anonymous)),
    row("container_memory_cache", "Number of bytes of page cache memory.", Gauge, &[], |f| memory(f, |m| m.cache)),
    row("container_memory_mapped_file", "Size of memory mapped files in bytes.", Gauge, &[], |f| memory(f, |m| m.mapped)),
    row("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", Gauge, &[], |f| memory(f, |m| m.kernel)),
    row("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes.", Gauge, &[], |f| memory(f, |m| m.peak)),
    row("container_memory_failcnt", "Number of memory usage hits limits.", Counter, &[], |f| memory(f, |m| m.hits)),
    row("container_memory_failures_total", "Cumulative count of memory allocation failures.", Counter, &["failure_type", "scope"], failures),
    row("container_memory_swap", "Container swap usage in bytes.", Gauge, &[], |f| one(f.reading.usage.swap.map(|swap| swap.used))),
    row("container_oom_events_total", "Count of out of memory events observed for the container.", Counter, &[], |f| memory(f, |m| m.kills)),
    row("container_threads", "Number of threads running inside the container.", Gauge, &[], |f| one(f.reading.usage.tasks)),
    row("container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero.", Gauge, &[], |f| {
        one(f.reading.usage.tasks.map(|_| f.reading.usage.most_tasks.unwrap_or(0)))
    }),
    row("container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.", Counter, &[], |f| stall(f.reading.usage.cpu_pressure, |p| p.some.total_us)),
    row("container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.", Counter, &[], |f| stall(f.reading.usage.cpu_pressure, |p| p.full.total_us)),
    row("container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.", Counter, &[], |f| stall(f.reading.usage.memory_pressure, |p| p.some.total_us)),
    row("container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.", Counter, &[], |f| stall(f.reading.usage.memory_pressure, |p| p.full.total_us)),
    row("container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.", Counter, &[], |f| stall(f.reading.usage.io_pressure, |p| p.some.total_us)),
    row("container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.", Counter, &[], |f| stall(f.reading.usage.io_pressure, |p| p.full.total_us)),
    row("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", Gauge, &["device"], |f| {
        with("", one(f.container.as_ref().and_then(|of| of.layer_bytes)))
    }),
    row("container_last_seen", "Last time a container was seen by the exporter.", Gauge, &[], |f| one(u64::try_from(f.reading.at).ok().map(|at| at / NS))),
    row("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", Gauge, &[], |f| {
        one(f.container.as_ref().and_then(|of| u64::try_from(of.started_at).ok()).map(|at| at / NS))
    }),
    row("container_spec_cpu_period", "CPU period of the container.", Gauge, &[], |f| asked(f, |of| if of.cpu_quota > 0 && of.cpu_period == 0 { 100_000 } else { of.cpu_period })),
    row("container_spec_cpu_quota", "CPU quota of the container.", Gauge, &[], |f| asked(f, |of| of.cpu_quota)),
    row("container_spec_cpu_shares", "CPU share of the container.", Gauge, &[], |f| asked(f, |of| of.cpu_shares)),
    row("container_spec_memory_limit_bytes", "Memory limit for the container.", Gauge, &[], |f| limit(f, |of| of.memory_limit_in_bytes)),
    row("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", Gauge, &[], |f| limit(f, |of| of.memory_swap_limit_in_bytes)),
    row("container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", Gauge, &[], |f| limit(f, |_| 0)),
    row("container_network_receive_bytes_total", "Cumulative count of bytes received.", Counter, &["interface"], |f| received(f, |d| d.bytes)),
    row("container_network_receive_packets_total", "Cumulative count of packets received.", Counter, &["interface"], |f| received(f, |d| d.packets)),
    row("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving.", Counter, &["interface"], |f| received(f, |d| d.dropped)),
    row("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.", Counter, &["interface"], |f| received(f, |d| d.errors)),
    row("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", Counter, &["interface"], |f| sent(f, |d| d.bytes)),
    row("container_network_transmit_packets_total", "Cumulative count of packets transmitted.", Counter, &["interface"], |f| sent(f, |d| d.packets)),
    row("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting.", Counter, &["interface"], |f| sent(f, |d| d.dropped)),
    row("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting.", Counter, &["interface"], |f| sent(f, |d| d.errors)),
];

fn one(value: Option<u64>) -> Samples {
    value.map(|value| (Vec::new(), value)).into_iter().collect()
}

fn with(label: &str, samples: Samples) -> Samples {
    samples.into_iter().map(|(_, value)| (vec![label.to_owned()], value)).collect()
}

fn cpu(facts: &Facts, figure: fn(&CpuTime) -> u64) -> Samples {
    one(facts.reading.usage.cpu.as_ref().map(figure))
}

fn memory(facts: &Facts, figure: fn(&Memory) -> u64) -> Samples {
    one(facts.reading.usage.memory.as_ref().map(figure))
}

fn failures(facts: &Facts) -> Samples {
    let Some(memory) = &facts.reading.usage.memory else { return Vec::new() };
    let kinds = [("pgfault", memory.faults), ("pgmajfault", memory.major_faults)];
    let label = |kind: &str, scope: &str| vec![kind.to_owned(), scope.to_owned()];
    let both = |(kind, value)| ["container", "hierarchy"].map(|scope| (label(kind, scope), value));
    kinds.into_iter().flat_map(both).collect()
}

fn stall(pressure: Option<Pressure>, figure: fn(&Pressure) -> u64) -> Samples {
    one(pressure.as_ref().map(|pressure| figure(pressure) / US))
}

fn asked(facts: &Facts, field: fn(&LinuxContainerResources) -> i64) -> Samples {
    let asked = facts.container.as_ref().map(|of| field(&of.resources)).filter(|value| *value > 0);
    one(asked.and_then(|value| u64::try_from(value).ok()))
}

/// 0 is no limit.
fn limit(facts: &Facts, field: fn(&LinuxContainerResources) -> i64) -> Samples {
    one(facts.container.as_ref().map(|of| u64::try_from(field(&of.resources)).unwrap_or(0)))
}

fn received(facts: &Facts, figure: fn(&Direction) -> u64) -> Samples {
    links(facts, |link| &link.received, figure)
}

fn sent(facts: &Facts, figure: fn(&Direction) -> u64) -> Samples {
    links(facts, |link| &link.sent, figure)
}

fn links(
    facts: &Facts,
    side: fn(&LinkStatistics) -> &Direction,
    figure: fn(&Direction) -> u64,
) -> Samples {
    facts.links.iter().map(|link| (vec![link.name.clone()], figure(side(link)))).collect()
}

/// All metrics that there are.
pub(crate) fn descriptors() -> Vec<MetricDescriptor> {
    let keys = |row: &Row| LABELS.iter().chain(row.more).map(|key| (*key).to_owned()).collect();
    let described = |row: &Row| MetricDescriptor {
        name: row.name.to_owned(),
        help: row.help.to_owned(),
        label_keys: keys(row),
    };
    ROWS.iter().map(described).collect()
}

fn metrics(facts: &Facts) -> Vec<Metric> {
    let told = |row: &Row| {
        let kind = row.kind;
        let name = row.name;
        let metric = move |(more, value): (Vec<String>, u64)| Metric {
            name: name.to_owned(),
            timestamp: facts.reading.at,
            metric_type: kind.into(),
            label_values: facts.labels.iter().cloned().chain(more).collect(),
            value: Some(UInt64Value { value }),
        };
        (row.samples)(facts).into_iter().map(metric).collect::<Vec<_>>()
    };
    ROWS.iter().flat_map(told).collect()
}

impl Node {
    /// The metrics of all ready pods and of their running containers.
    pub(crate) async fn pod_metrics(self: &Arc<Self>) -> Vec<PodSandboxMetrics> {
        let this = Arc::clone(self);
        blocking(move || {
            let mut pods = this.sandboxes.table.list();
            pods.retain(|pod| pod.is_ready());
            let networks = network::of_pods(&this.host, &pods);
            let both = pods.iter().zip(networks);
            both.map(|(pod, links)| this.metrics_of_pod(pod, links.unwrap_or_default())).collect()
        })
        .await
    }

    fn metrics_of_pod(&self, pod: &Sandbox, links: Vec<LinkStatistics>) -> PodSandboxMetrics {
        let reading = self.read_pod(pod).unwrap_or_default();
        let labels = labels(pod, &pod.detail().cgroup, None);
        let facts = Facts { labels, reading, container: None, links };
        let containers = self.containers.of_pod(&pod.id);
        let running = containers.iter().filter_map(|one| Some((one, started_at(one)?)));
        let of_container = |(one, started_at): (&Arc<Container>, i64)| {
            let of = OfContainer {
                resources: one.resources_now().unwrap_or_default(),
                started_at,
                layer_bytes: self
                    .writable_layer(one)
                    .and_then(|layer| layer.used_bytes)
                    .map(|bytes| bytes.value),
            };
            let facts = Facts {
                labels: labels_of(pod, one),
                reading: self.read_container(one).unwrap_or_default(),
                container: Some(of),
                links: Vec::new(),
            };
            ContainerMetrics { container_id: one.id.to_string(), metrics: metrics(&facts) }
        };
        PodSandboxMetrics {
            pod_sandbox_id: pod.id.to_string(),
            metrics: metrics(&facts),
            container_metrics: running.map(of_container).collect(),
        }
    }
}

fn started_at(container: &Container) -> Option<i64> {
    match container.state() {
        State::Running { started_at, .. } => Some(started_at),
        State::Created | State::Exited(_) => None,
    }
}

fn labels_of(pod: &Sandbox, container: &Container) -> Vec<String> {
    labels(pod, container.cgroup(), Some(container))
}

/// The values of [`LABELS`]; a pod's own cgroup has no container, image or name, as with cAdvisor.
fn labels(pod: &Sandbox, cgroup: &str, container: Option<&Container>) -> Vec<String> {
    let metadata = pod.config.metadata.clone().unwrap_or_default();
    let named = |of: fn(&Container) -> String| container.map(of).unwrap_or_default();
    vec![
        named(|of| of.config.metadata.clone().unwrap_or_default().name),
        cgroup.to_owned(),
        named(|of| {
            let image = of.config.image.clone().unwrap_or_default();
            if image.user_specified_image.is_empty() {
                image.image
            } else {
                image.user_specified_image
            }
        }),
        named(|of| of.id.to_string()),
        metadata.namespace,
        metadata.name,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::cgroup::Usage;
    use std::collections::BTreeMap;

    #[test]
    fn every_metric_is_described_and_has_a_value_for_each_label() {
        let usage = Usage {
            cpu: Some(CpuTime::default()),
            memory: Some(Memory::default()),
            swap: Some(Default::default()),
            tasks: Some(1),
            cpu_pressure: Some(Pressure::default()),
            memory_pressure: Some(Pressure::default()),
            io_pressure: Some(Pressure::default()),
            ..Usage::default()
        };
        let resources = LinuxContainerResources {
            cpu_quota: 1,
            cpu_shares: 1,
            ..LinuxContainerResources::default()
        };
        let facts = Facts {
            labels: LABELS.map(str::to_owned).to_vec(),
            reading: Reading { at: 1, usage, nano_cores: None },
            container: Some(OfContainer { resources, started_at: 1, layer_bytes: Some(1) }),
            links: vec![LinkStatistics { name: "eth0".into(), ..LinkStatistics::default() }],
        };
        let keys: BTreeMap<String, usize> =
            descriptors().into_iter().map(|one| (one.name, one.label_keys.len())).collect();
        assert_eq!(keys.len(), ROWS.len(), "no name is there twice");
        let all = metrics(&facts);
        for metric in &all {
            assert_eq!(keys[&metric.name], metric.label_values.len(), "{}", metric.name);
        }
        for name in keys.keys() {
            assert!(all.iter().any(|metric| metric.name == *name), "{name} is never told");
        }
    }
}
