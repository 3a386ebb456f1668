//! Kernel settings of a pod.

use crate::error::SpecError;
use cri_api::runtime::v1;
use cri_api::runtime::v1::NamespaceMode;

/// The settings of a pod's network and IPC namespaces: each a path below `/proc/sys`, such as
/// `net/ipv4/ip_local_port_range`, and the value to write there.
///
/// A pod with a network of its own also gets the two that make ports below 1024 and ICMP sockets free for all its
/// users, unless it sets them itself: inside a network namespace they protect nothing.
///
/// # Errors
///
/// [`SpecError::Invalid`] for a setting that belongs to no namespace, or to one that the pod shares with the host
/// (CVE-2022-0532), and for values that are more than numbers and names (CVE-2022-0811).
pub fn sysctls(pod: &v1::PodSandboxConfig) -> Result<Vec<(String, String)>, SpecError> {
    let linux = pod.linux.as_ref();
    let options = linux
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|context| context.namespace_options.as_ref());
    let is_host = |mode: i32| mode == i32::from(NamespaceMode::Node);
    let host_network = options.is_some_and(|options| is_host(options.network));
    let host_ipc = options.is_some_and(|options| is_host(options.ipc));

    let mut settings = Vec::new();
    for (key, value) in linux.into_iter().flat_map(|linux| &linux.sysctls) {
        let field = || format!("linux.sysctls[{key:?}]");
        let path =
            path(key).ok_or_else(|| SpecError::invalid(field(), key, "is no name of a setting"))?;
        let shared = match owner(&path) {
            Some(Owner::Network) => host_network,
            Some(Owner::Ipc) => host_ipc,
            None => return Err(SpecError::invalid(field(), key, "is no setting of a namespace")),
        };
        if shared {
            let rule = "would be changed for the host, whose namespace the pod shares";
            return Err(SpecError::invalid(field(), key, rule));
        }
        if !is_plain(value) {
            return Err(SpecError::invalid(field(), value, "is no value of a setting"));
        }
        settings.push((path, value.clone()));
    }
    if !host_network {
        for (path, value) in OPEN {
            if !settings.iter().any(|(other, _)| other == path) {
                settings.push((path.to_owned(), value.to_owned()));
            }
        }
    }
    settings.sort();
    Ok(settings)
}

/// Set for pods with their own network, as containerd does since 2.0.
const OPEN: [(&str, &str); 2] =
    [("net/ipv4/ip_unprivileged_port_start", "0"), ("net/ipv4/ping_group_range", "0 2147483647")];

/// The namespaces that have settings, but for UTS, whose names are the pod's `hostname`.
enum Owner {
    Network,
    Ipc,
}

fn owner(path: &str) -> Option<Owner> {
    // The IPC settings of the kernel's ipc/ipc_sysctl.c and ipc/mq_sysctl.c.
    const IPC: [&str; 8] =
        ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    match path.split_once('/')? {
        ("net", _) => Some(Owner::Network),
        ("fs", rest) if rest.starts_with("mqueue/") => Some(Owner::Ipc),
        ("kernel", name) if IPC.contains(&name) => Some(Owner::Ipc),
        _ => None,
    }
}

/// A name to a path, as sysctl(8) reads it: the first separator of the name decides what separates, and the other of
/// `.` and `/` stands for a dot in a name: `net.ipv4.conf.eth0/5.forwarding` is `net/ipv4/conf/eth0.5/forwarding`.
fn path(key: &str) -> Option<String> {
    let path = match key.find(['.', '/']) {
        Some(at) if key[at..].starts_with('.') => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        Some(_) => key.to_owned(),
        None => return None,
    };
    let is_name = |part: &str| {
        !part.is_empty()
            && !part.chars().all(|c| c == '.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
    };
    path.split('/').all(is_name).then_some(path)
}

/// Whether a value is made of what settings are made of: numbers, names, lists, ranges, addresses.
fn is_plain(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:/ \t".contains(c);
    !value.is_empty() && value.len() <= 4096 && value.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use NamespaceMode::{Node, Pod};

    fn pod(
        key: &str,
        value: &str,
        network: NamespaceMode,
        ipc: NamespaceMode,
    ) -> v1::PodSandboxConfig {
        let options = v1::NamespaceOption {
            network: network.into(),
            ipc: ipc.into(),
            ..v1::NamespaceOption::default()
        };
        let context = v1::LinuxSandboxSecurityContext {
            namespace_options: Some(options),
            ..v1::LinuxSandboxSecurityContext::default()
        };
        v1::PodSandboxConfig {
            linux: Some(v1::LinuxPodSandboxConfig {
                sysctls: [(key.to_owned(), value.to_owned())].into(),
                security_context: Some(context),
                ..v1::LinuxPodSandboxConfig::default()
            }),
            ..v1::PodSandboxConfig::default()
        }
    }

    #[rustfmt::skip]
    const CASES: [(&str, &str, &str, NamespaceMode, NamespaceMode, &str); 25] = [
        ("network", "net.core.somaxconn", "1024", Pod, Pod, "net/core/somaxconn=1024"),
        ("a range", "net.ipv4.ip_local_port_range", "1024 65000", Pod, Pod, "net/ipv4/ip_local_port_range=1024 65000"),
        ("a list", "net.ipv4.ip_local_reserved_ports", "80,90-99", Pod, Pod, "net/ipv4/ip_local_reserved_ports=80,90-99"),
        ("slashes", "net/ipv4/conf/eth0.5/forwarding", "1", Pod, Pod, "net/ipv4/conf/eth0.5/forwarding=1"),
        ("dots", "net.ipv4.conf.eth0/5.forwarding", "1", Pod, Pod, "net/ipv4/conf/eth0.5/forwarding=1"),
        ("the host's network", "net.ipv4.ip_forward", "1", Node, Pod, "refused"),
        ("semaphores", "kernel.sem", "250 32000 32 128", Pod, Pod, "kernel/sem=250 32000 32 128"),
        ("shared memory", "kernel.shm_rmid_forced", "1", Pod, Pod, "kernel/shm_rmid_forced=1"),
        ("message queues", "fs.mqueue.msg_max", "10", Pod, Pod, "fs/mqueue/msg_max=10"),
        ("the host's IPC", "kernel.shmmax", "1", Pod, Node, "refused"),
        ("own IPC, the host's network", "kernel.shmmax", "1", Node, Pod, "kernel/shmmax=1"),
        ("the whole kernel's", "kernel.core_pattern", "x", Pod, Pod, "refused"),
        ("a name that only begins like one", "kernel.shmx", "1", Pod, Pod, "refused"),
        ("of no namespace", "vm.overcommit_memory", "1", Pod, Pod, "refused"),
        ("files", "fs.file-max", "1", Pod, Pod, "refused"),
        ("up", "net/../kernel/core_pattern", "x", Pod, Pod, "refused"),
        ("up, with dots", "net.//.kernel.core_pattern", "x", Pod, Pod, "refused"),
        ("no separator", "net", "1", Pod, Pod, "refused"),
        ("empty part", "net..core", "1", Pod, Pod, "refused"),
        ("absolute", "/net/core/somaxconn", "1", Pod, Pod, "refused"),
        ("a second setting in the value", "net.core.somaxconn", "1+kernel.core_pattern=|/x", Pod, Pod, "refused"),
        ("a line in the value", "net.core.somaxconn", "1\n2", Pod, Pod, "refused"),
        ("NUL in the value", "net.core.somaxconn", "1\0", Pod, Pod, "refused"),
        ("quotes in the value", "net.core.somaxconn", "\"1\"", Pod, Pod, "refused"),
        ("empty value", "net.core.somaxconn", "", Pod, Pod, "refused"),
    ];

    #[test]
    fn a_setting_belongs_to_a_namespace_that_the_pod_owns() {
        for (case, key, value, network, ipc, want) in CASES {
            let got = match sysctls(&pod(key, value, network, ipc)) {
                Ok(settings) => {
                    let asked = settings
                        .iter()
                        .filter(|(path, _)| OPEN.iter().all(|(open, _)| open != path));
                    asked.map(|(path, value)| format!("{path}={value}")).collect()
                }
                Err(_) => "refused".to_owned(),
            };
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn low_ports_and_ping_are_free_in_a_network_of_ones_own() {
        let settings = sysctls(&v1::PodSandboxConfig::default()).expect("settings");
        assert_eq!(settings, OPEN.map(|(path, value)| (path.to_owned(), value.to_owned())));

        let own = pod(
            "net.ipv4.ip_unprivileged_port_start",
            "80",
            NamespaceMode::Pod,
            NamespaceMode::Pod,
        );
        let settings = sysctls(&own).expect("settings");
        assert_eq!(settings[0].1, "80", "the pod's own value");
        assert_eq!(settings.len(), 2);

        let host = pod("kernel.shmmax", "1", NamespaceMode::Node, NamespaceMode::Pod);
        assert_eq!(sysctls(&host).expect("settings").len(), 1, "never in the host's network");
    }
}
