//! What the services say of the node itself, and the details that `verbose` asks for.

use crate::config::Driver;
use crate::container::Container;
use crate::handlers::Features;
use crate::host::Host;
use crate::node::Node;
use crate::sandbox::Sandbox;
use cri_api::runtime::v1::{
    CgroupDriver, Container as ContainerRow, ContainerFilter, FilesystemIdentifier,
    FilesystemUsage, ImageFsInfoResponse, LinuxContainerResources, LinuxRuntimeConfiguration,
    PodSandbox as PodRow, PodSandboxFilter, RuntimeCondition, RuntimeConfigResponse,
    RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusResponse,
    UInt64Value, VersionResponse,
};
use netns::PodNetwork;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) fn version() -> VersionResponse {
    VersionResponse {
        version: "0.1.0".into(), // of kubelet's runtime API, frozen long ago
        runtime_name: "berth".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: "v1".into(),
    }
}

pub(super) fn runtime_config(node: &Node) -> RuntimeConfigResponse {
    let driver = match node.host.config.cgroup.driver {
        Driver::Cgroupfs => CgroupDriver::Cgroupfs,
        Driver::Systemd => CgroupDriver::Systemd,
    };
    let linux = LinuxRuntimeConfiguration { cgroup_driver: driver as i32 };
    RuntimeConfigResponse { linux: Some(linux) }
}

pub(super) fn status(node: &Node, verbose: bool) -> StatusResponse {
    let network = match node.host.network.status() {
        Ok(remarks) => condition("NetworkReady", "", remarks.join("; ")),
        Err(err) => condition("NetworkReady", "NetworkNotReady", crate::chain::chain(&err)),
    };
    let conditions = vec![condition("RuntimeReady", "", String::new()), network];
    let mut info = BTreeMap::new();
    if verbose {
        info.insert("config".into(), config(&node.host).to_string());
    }
    StatusResponse {
        status: Some(RuntimeStatus { conditions }),
        info,
        // Kubelet looks for the handler without a name to learn what the default one can do.
        runtime_handlers: node.host.handlers.features().into_iter().map(handler).collect(),
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
        }),
    }
}

fn handler((name, features): (String, Features)) -> RuntimeHandler {
    let Features { recursive_read_only_mounts, user_namespaces } = features;
    let features = RuntimeHandlerFeatures { recursive_read_only_mounts, user_namespaces };
    RuntimeHandler { name, features: Some(features) }
}

fn condition(kind: &str, reason: &str, message: String) -> RuntimeCondition {
    RuntimeCondition {
        r#type: kind.into(),
        status: reason.is_empty(),
        reason: reason.into(),
        message,
    }
}

fn config(host: &Host) -> Value {
    let config = &host.config;
    json!({
        "root": config.root,
        "stateDir": config.state,
        "socket": config.socket,
        "cgroupParent": host.cgroup_parent.as_str(),
        "cgroupDriver": config.cgroup.driver.as_str(),
        "bridge": config.network.bridge,
        "subnet": config.network.subnet,
    })
}

/// Layers and writable layers are on one file system; kubelet is told of a second one only where there is one.
pub(super) fn image_fs_info(node: &Node) -> ImageFsInfoResponse {
    let usage = node.images.usage();
    let of = FilesystemUsage {
        timestamp: crate::host::now_ns(),
        fs_id: Some(FilesystemIdentifier {
            mountpoint: node.host.config.root.to_string_lossy().into_owned(),
        }),
        used_bytes: Some(UInt64Value { value: usage.bytes }),
        inodes_used: Some(UInt64Value { value: usage.inodes }),
    };
    ImageFsInfoResponse { image_filesystems: vec![of.clone()], container_filesystems: vec![of] }
}

/// The pods that a filter lets through.
pub(super) fn pods(node: &Node, filter: &PodSandboxFilter) -> Vec<PodRow> {
    let found = node.sandboxes.table.beginning_with(&filter.id);
    found.iter().filter(|pod| pod.passes(filter)).map(|pod| pod.row()).collect()
}

/// The containers that a filter lets through.
pub(super) fn containers(node: &Node, filter: &ContainerFilter) -> Vec<ContainerRow> {
    let found = node.containers.table.beginning_with(&filter.id);
    found.iter().filter(|container| container.passes(filter)).map(|one| one.row()).collect()
}

pub(super) fn pod_info(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let (detail, allowance) = (sandbox.detail(), sandbox.allowance());
    let info = json!({
        "pid": sandbox.monitor().map_or(0, |monitor| monitor.pid()),
        "cgroup": detail.cgroup,
        "network": detail.network,
        "boot": detail.boot,
        "overhead": allowance.overhead.as_ref().map(limits),
        "resources": allowance.resources.as_ref().map(limits),
    });
    BTreeMap::from([("info".into(), info.to_string())])
}

fn limits(of: &LinuxContainerResources) -> Value {
    json!({
        "cpuPeriod": of.cpu_period,
        "cpuQuota": of.cpu_quota,
        "cpuShares": of.cpu_shares,
        "memoryLimitInBytes": of.memory_limit_in_bytes,
    })
}

pub(super) fn container_info(container: &Container) -> BTreeMap<String, String> {
    let info = json!({
        "sandboxID": container.pod().as_str(),
        "pid": container.pid().unwrap_or(0),
        "cgroup": container.cgroup(),
        "runtimeSpec": &*container.spec(),
    });
    BTreeMap::from([("info".into(), info.to_string())])
}
