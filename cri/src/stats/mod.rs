//! Statistics of pods and containers, as kubelet and crictl read them.
//!
//! ```text
//!   cgroup (a Meter, kept open) ─┐
//!   writable layer (walked) ─────┼─▶ one message for each object; what cannot be read is left out
//!   pod's network (netlink) ─────┘
//! ```
//!
//! One object that cannot be read never costs a list more than that object.

mod convert;
mod gauge;
mod layer;
pub(crate) mod metrics;
mod network;

use crate::chain::chain;
use crate::container::{Container, ContainerError};
use crate::host::{blocking, now_ns};
use crate::node::Node;
use crate::sandbox::status::has_labels;
use crate::sandbox::{Sandbox, SandboxError};
use cri_api::runtime::v1::{
    ContainerAttributes, ContainerStats, ContainerStatsFilter, FilesystemIdentifier,
    FilesystemUsage, LinuxPodSandboxStats, PodSandboxAttributes, PodSandboxStats,
    PodSandboxStatsFilter, ProcessUsage, UInt64Value,
};
pub(crate) use gauge::{Gauge, Reading};
use netns::LinkStatistics;
use std::sync::Arc;

impl Node {
    /// The statistics of one container, in whatever state: one that does not run has its writable layer only.
    pub(crate) async fn container_stats(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<ContainerStats, ContainerError> {
        let container = self.containers.resolve(id)?;
        let this = Arc::clone(self);
        Ok(blocking(move || this.stats_of(&container)).await)
    }

    /// Those of all running containers that pass the filter.
    pub(crate) async fn list_container_stats(
        self: &Arc<Self>,
        filter: ContainerStatsFilter,
    ) -> Vec<ContainerStats> {
        let this = Arc::clone(self);
        blocking(move || {
            let all = this.containers.table.beginning_with(&filter.id).into_iter();
            all.filter(|one| {
                one.state().is_running()
                    && one.pod().as_str().starts_with(&filter.pod_sandbox_id)
                    && has_labels(&one.config.labels, &filter.label_selector)
            })
            .map(|one| this.stats_of(&one))
            .collect()
        })
        .await
    }

    /// The statistics of one pod.
    pub(crate) async fn pod_stats(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<PodSandboxStats, SandboxError> {
        let pod = self.sandboxes.resolve(id)?;
        let this = Arc::clone(self);
        let stats = blocking(move || this.stats_of_pods(vec![pod])).await;
        stats.into_iter().next().ok_or_else(|| SandboxError::NotFound(id.to_owned()))
    }

    /// Those of all ready pods that pass the filter.
    pub(crate) async fn list_pod_stats(
        self: &Arc<Self>,
        filter: PodSandboxStatsFilter,
    ) -> Vec<PodSandboxStats> {
        let this = Arc::clone(self);
        blocking(move || {
            let all = this.sandboxes.table.beginning_with(&filter.id).into_iter();
            let wanted = all.filter(|pod| {
                pod.is_ready() && has_labels(&pod.config.labels, &filter.label_selector)
            });
            this.stats_of_pods(wanted.collect())
        })
        .await
    }

    fn stats_of(&self, container: &Container) -> ContainerStats {
        let reading = self.read_container(container).unwrap_or_default();
        let usage = &reading.usage;
        ContainerStats {
            attributes: Some(ContainerAttributes {
                id: container.id.to_string(),
                metadata: container.config.metadata.clone(),
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
            }),
            cpu: convert::cpu(&reading),
            memory: convert::memory(&reading),
            writable_layer: self.writable_layer(container),
            swap: convert::swap(&reading),
            io: usage.io_pressure.map(|pressure| convert::io(pressure, reading.at)),
        }
    }

    fn stats_of_pods(&self, pods: Vec<Arc<Sandbox>>) -> Vec<PodSandboxStats> {
        let networks = network::of_pods(&self.host, &pods);
        let both = pods.iter().zip(networks);
        both.map(|(pod, links)| self.stats_of_pod(pod, links)).collect()
    }

    fn stats_of_pod(&self, pod: &Sandbox, links: Option<Vec<LinkStatistics>>) -> PodSandboxStats {
        let reading = self.read_pod(pod).unwrap_or_default();
        let containers = self.containers.of_pod(&pod.id);
        let running = containers.iter().filter(|container| container.state().is_running());
        PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: pod.id.to_string(),
                metadata: pod.config.metadata.clone(),
                labels: pod.config.labels.clone(),
                annotations: pod.config.annotations.clone(),
            }),
            linux: Some(LinuxPodSandboxStats {
                cpu: convert::cpu(&reading),
                memory: convert::memory(&reading),
                network: links.map(|links| convert::network(&links)),
                process: reading.usage.tasks.map(|tasks| ProcessUsage {
                    timestamp: reading.at,
                    process_count: Some(UInt64Value { value: tasks }),
                }),
                containers: running.map(|container| self.stats_of(container)).collect(),
                io: reading.usage.io_pressure.map(|pressure| convert::io(pressure, reading.at)),
            }),
            windows: None,
        }
    }

    /// What a container's cgroup tells; nothing where it has none.
    fn read_container(&self, container: &Container) -> Option<Reading> {
        if !container.state().is_running() {
            return None;
        }
        self.read(&container.gauge, container.cgroup(), container.id.as_str())
    }

    fn read_pod(&self, pod: &Sandbox) -> Option<Reading> {
        if !pod.is_ready() {
            return None;
        }
        self.read(&pod.gauge, &pod.detail().cgroup, pod.id.as_str())
    }

    fn read(&self, gauge: &Gauge, cgroup: &str, id: &str) -> Option<Reading> {
        gauge.read(&self.host.cgroups, cgroup).unwrap_or_else(|err| {
            tracing::warn!(id, err = chain(&err), "read statistics");
            None
        })
    }

    fn writable_layer(&self, container: &Container) -> Option<FilesystemUsage> {
        let directory = self.host.paths.container(&container.id);
        let size = container.gauge.layer(&directory)?;
        let mountpoint = self.host.config.root.to_string_lossy().into_owned();
        Some(FilesystemUsage {
            timestamp: now_ns(),
            fs_id: Some(FilesystemIdentifier { mountpoint }),
            used_bytes: Some(UInt64Value { value: size.bytes }),
            inodes_used: Some(UInt64Value { value: size.inodes }),
        })
    }
}
