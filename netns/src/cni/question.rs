//! What plugins are told: their configuration with what they ask to know of the pod, and the environment. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::config::{List, Plugin, Version};
use crate::network::{Bandwidth, Checked, PortMapping};
use crate::shaping;
use crate::subnet::Subnets;

/// A pod, as plugins know it. It is noted before the first plugin runs, because each later call has to say the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subject {
    pub(super) owner: String,
    pub(super) interface: String,
    /// Where the pod's network namespace is.
    pub(super) namespace: String,
    /// `CNI_ARGS`.
    pub(super) arguments: String,
    /// What there is to tell, by capability.
    pub(super) capabilities: BTreeMap<String, Value>,
    pub(super) ports: Vec<PortMapping>,
    pub(super) bandwidth: Bandwidth,
}

impl Subject {
    pub(super) fn new(plan: &Checked, interface: &str, pod_cidr: Option<&Subnets>) -> Self {
        Self {
            owner: plan.owner.clone(),
            interface: interface.to_owned(),
            namespace: plan.namespace.display().to_string(),
            arguments: arguments(plan),
            capabilities: capabilities(plan, pod_cidr),
            ports: plan.ports.clone(),
            bandwidth: plan.bandwidth,
        }
    }
}

/// A plugin's standard input.
pub(super) fn configuration(
    list: &List,
    plugin: &Plugin,
    subject: Option<&Subject>,
    previous: Option<&Value>,
) -> Map<String, Value> {
    let mut object = plugin.object.clone();
    object.insert("name".into(), list.name.clone().into());
    object.insert("cniVersion".into(), list.version.as_str().into());
    object.remove("prevResult");
    if let Some(previous) = previous {
        object.insert("prevResult".into(), previous.clone());
    }
    let known = subject.map(|subject| &subject.capabilities).into_iter().flatten();
    let asked: Map<String, Value> = known
        .filter(|(name, _)| plugin.capabilities.contains(*name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    object.remove("runtimeConfig");
    if !asked.is_empty() {
        object.insert("runtimeConfig".into(), Value::Object(asked));
    }
    object
}

/// The same for a collection of what is left over: the attachments that are still wanted.
pub(super) fn collection(
    list: &List,
    plugin: &Plugin,
    wanted: &[(String, String)],
) -> Map<String, Value> {
    let mut object = configuration(list, plugin, None, None);
    let attachments: Vec<Value> = wanted
        .iter()
        .map(|(owner, interface)| json!({ "containerID": owner, "ifname": interface }))
        .collect();
    object.insert("cni.dev/valid-attachments".into(), attachments.into());
    object
}

/// Whether a deletion is told what the addition made: not before 0.4.0.
pub(super) fn deletion_has_result(version: Version) -> bool {
    version >= Version::V0_4_0
}

/// What Kubernetes' plugins expect to be told of a pod. A separator in a value would begin another argument.
fn arguments(plan: &Checked) -> String {
    let about = &plan.about;
    let pairs = [
        ("K8S_POD_NAMESPACE", &about.namespace),
        ("K8S_POD_NAME", &about.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &plan.owner),
        ("K8S_POD_UID", &about.uid),
    ];
    let mut text = "IgnoreUnknown=1".to_owned();
    for (key, value) in pairs.iter().filter(|(_, value)| !value.contains([';', '=', '\0'])) {
        text.push_str(&format!(";{key}={value}"));
    }
    text
}

fn capabilities(plan: &Checked, pod_cidr: Option<&Subnets>) -> BTreeMap<String, Value> {
    let about = &plan.about;
    let mut all = BTreeMap::new();
    let mut tell = |name: &str, value: Value| all.insert(name.to_owned(), value);
    if !plan.ports.is_empty() {
        tell("portMappings", plan.ports.iter().map(port).collect());
    }
    if plan.bandwidth != Bandwidth::default() {
        tell("bandwidth", bandwidth(plan.bandwidth));
    }
    let dns = &about.dns;
    if !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()) {
        tell(
            "dns",
            json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options }),
        );
    }
    if let Some(subnets) = pod_cidr {
        let range = |subnet: crate::subnet::Subnet| json!([{ "subnet": subnet.to_string() }]);
        tell("ipRanges", subnets.iter().map(range).collect());
    }
    if let Some(mac) = &about.mac {
        tell("mac", mac.clone().into());
    }
    if !about.cgroup.is_empty() {
        tell("cgroupPath", about.cgroup.clone().into());
    }
    if !about.annotations.is_empty() {
        tell("io.kubernetes.cri.pod-annotations", json!(about.annotations));
    }
    all
}

fn port(port: &PortMapping) -> Value {
    let mut value = json!({
        "hostPort": port.host_port,
        "containerPort": port.container_port,
        "protocol": port.protocol.to_string(),
    });
    if let (Some(ip), Some(object)) = (port.host_ip, value.as_object_mut()) {
        object.insert("hostIP".into(), ip.to_string().into());
    }
    value
}

/// Rates in bits per second and bursts in bits.
fn bandwidth(limits: Bandwidth) -> Value {
    let mut object = Map::new();
    for (name, bits) in [("ingress", limits.ingress), ("egress", limits.egress)] {
        if let Some(bits) = bits {
            object.insert(format!("{name}Rate"), bits.into());
            object.insert(format!("{name}Burst"), shaping::burst_bits(bits).into());
        }
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::wish;

    fn subject() -> Subject {
        let mut wish = wish('a', &[8080]);
        wish.namespace = "/run/pods/a/net".into();
        wish.bandwidth.egress = Some(1_000_000);
        wish.about.name = "web".into();
        wish.about.namespace = "x;K8S_POD_NAME=evil".into();
        wish.about.mac = Some("02:00:00:00:00:01".into());
        wish.about.cgroup = "/pods/a".into();
        wish.about.dns.servers = vec!["10.0.0.10".into()];
        wish.about.annotations.insert("k".into(), "v".into());
        let cidr = "10.1.0.0/24,fd00::/64".parse().unwrap();
        Subject::new(&Checked::new(&wish).unwrap(), "eth0", Some(&cidr))
    }

    #[test]
    fn a_plugin_is_told_what_it_asks_for_and_nothing_else() {
        let list = List::parse(
            r#"{"cniVersion":"1.0.0","name":"net","plugins":[
            {"type":"plain","prevResult":{"forged":1},"runtimeConfig":{"forged":1}},
            {"type":"curious","capabilities":{"portMappings":true,"bandwidth":true,"dns":true,"ipRanges":true,"mac":true,
                "cgroupPath":true,"io.kubernetes.cri.pod-annotations":true,"unknown":true}}]}"#,
        )
        .unwrap();
        let plain = configuration(&list, &list.plugins[0], Some(&subject()), None);
        assert_eq!(
            Value::Object(plain),
            json!({ "type": "plain", "name": "net", "cniVersion": "1.0.0" })
        );
        let previous = json!({ "ips": [] });
        let curious = configuration(&list, &list.plugins[1], Some(&subject()), Some(&previous));
        assert_eq!(curious["prevResult"], previous);
        assert_eq!(
            curious["runtimeConfig"],
            json!({
                "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
                "bandwidth": { "egressRate": 1_000_000, "egressBurst": 524_288 },
                "dns": { "servers": ["10.0.0.10"], "searches": [], "options": [] },
                "ipRanges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd00::/64" }]],
                "mac": "02:00:00:00:00:01",
                "cgroupPath": "/pods/a",
                "io.kubernetes.cri.pod-annotations": { "k": "v" },
            })
        );
    }

    #[test]
    fn a_name_cannot_smuggle_an_argument() {
        let arguments = subject().arguments;
        assert!(arguments.contains(";K8S_POD_NAME=web"), "{arguments}");
        assert!(!arguments.contains("evil"), "{arguments}");
    }
}
