//! Device nodes, and which devices a container may use at all.

use crate::confinement::is_privileged;
use crate::error::SpecError;
use crate::input::{HostDevice, Input};
use crate::target;
use cri_api::runtime::v1;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use plan::DeviceKind;

/// Device nodes beside the ones that every container has, and the device cgroup's rules.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    pub(crate) nodes: Vec<LinuxDevice>,
    pub(crate) rules: Vec<LinuxDeviceCgroup>,
}

/// The devices of a container. `covered` are the targets of the request's mounts: below them nothing is made, because
/// it would be made in the volume.
pub(crate) fn devices(input: &Input<'_>, covered: &[String]) -> Result<Devices, SpecError> {
    let privileged = is_privileged(input.container);
    let mut devices = Devices::default();
    if privileged {
        devices.rules.push(rule(true, None, None, None, "rwm"));
        devices.nodes.extend(input.host.devices.iter().filter_map(host_node));
    } else {
        devices.rules = default_rules();
    }
    for (at, request) in input.container.devices.iter().enumerate() {
        for node in requested(at, request, input.devices)? {
            if !privileged {
                let access = permissions(at, request)?;
                let (major, minor) = (node.major(), node.minor());
                devices.rules.push(rule(true, Some(node.typ()), Some(major), Some(minor), access));
            }
            // The request knows better than the host's listing.
            devices.nodes.retain(|other| other.path() != node.path());
            devices.nodes.push(node);
        }
    }
    devices.nodes.retain(|node| {
        let path = node.path().to_string_lossy();
        !covered.iter().any(|mount| target::is_at_or_below(&path, mount))
    });
    Ok(devices)
}

/// Everything is forbidden but what follows, and so are devices that nobody thought of.
///
/// What follows is what runc grants: making nodes (using them is another matter), the nodes that every container has,
/// terminals, and `/dev/net/tun`, without which VPNs in containers broke when runc took it away
/// (runc 1.2.0-rc.1, brought back in 1.2.4).
fn default_rules() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{B, C};
    let mut rules = vec![
        rule(false, None, None, None, "rwm"),
        rule(true, Some(C), None, None, "m"),
        rule(true, Some(B), None, None, "m"),
    ];
    let nodes = DEFAULT_NODES.iter().map(|(_, major, minor)| (*major, Some(*minor)));
    for (major, minor) in nodes.chain([(5, Some(1)), (5, Some(2)), (136, None), (10, Some(200))]) {
        rules.push(rule(true, Some(C), Some(major.into()), minor.map(i64::from), "rwm"));
    }
    rules
}

fn rule(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(kind)
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// The character devices that every container has, with their numbers (`Documentation/admin-guide/devices.txt`).
pub(crate) const DEFAULT_NODES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Places below `/dev` that the container gets from elsewhere: its own terminals, shared memory, links.
const OWN: [&str; 10] = [
    "/dev/console",
    "/dev/core",
    "/dev/fd",
    "/dev/mqueue",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/shm",
    "/dev/stderr",
    "/dev/stdin",
    "/dev/stdout",
];

/// A device of the host for a privileged container, at the same path.
fn host_node(device: &HostDevice) -> Option<LinuxDevice> {
    let path = target::clean("host.devices", &device.path).ok()?;
    let is_own = OWN.iter().any(|own| target::is_at_or_below(&path, own));
    let is_default = DEFAULT_NODES.iter().any(|(default, ..)| path == *default);
    if is_own || is_default || device.kind == DeviceKind::Fifo || !is_below_dev(&path) {
        return None;
    }
    Some(node(path, device))
}

/// The nodes of one entry of the request: its device, or all devices below its directory.
fn requested(
    at: usize,
    request: &v1::Device,
    known: &[HostDevice],
) -> Result<Vec<LinuxDevice>, SpecError> {
    let host = target::clean(&format!("devices[{at}].host_path"), &request.host_path)?;
    let inside = match request.container_path.as_str() {
        "" => host.clone(),
        path => target::clean(&format!("devices[{at}].container_path"), path)?,
    };
    let mut nodes = Vec::new();
    for device in known {
        let Ok(path) = target::clean("devices", &device.path) else { continue };
        let Some(rest) = path.strip_prefix(&host) else { continue };
        if !rest.is_empty() && !rest.starts_with('/') {
            continue;
        }
        let path = format!("{inside}{rest}");
        if !is_below_dev(&path) {
            let field = format!("devices[{at}].container_path");
            return Err(SpecError::unsupported(field, "devices outside of /dev are"));
        }
        if OWN.iter().any(|own| target::is_at_or_below(&path, own)) {
            // Of a whole directory the rest is still meant.
            if !rest.is_empty() {
                continue;
            }
            let field = format!("devices[{at}].container_path");
            return Err(SpecError::invalid(field, path, "is the container's own"));
        }
        nodes.push(node(path, device));
    }
    if nodes.is_empty() {
        let field = format!("devices[{at}].host_path");
        return Err(SpecError::invalid(field, &request.host_path, "is no device of this host"));
    }
    Ok(nodes)
}

/// A device that the request does not name itself, with the rule that lets it be used.
pub(crate) fn injected(
    device: &HostDevice,
    access: &str,
) -> Result<(LinuxDevice, LinuxDeviceCgroup), SpecError> {
    const FIELD: &str = "CDI_devices";
    let path = target::clean(FIELD, &device.path)?;
    if !is_below_dev(&path) || OWN.iter().any(|own| target::is_at_or_below(&path, own)) {
        return Err(SpecError::invalid(FIELD, path, "is no place for a device"));
    }
    if access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
        return Err(SpecError::invalid(FIELD, access, "must be made of r, w and m"));
    }
    let node = node(path, device);
    let rule = rule(true, Some(node.typ()), Some(node.major()), Some(node.minor()), access);
    Ok((node, rule))
}

fn is_below_dev(path: &str) -> bool {
    path.strip_prefix("/dev/").is_some_and(|rest| !rest.is_empty())
}

fn permissions(at: usize, request: &v1::Device) -> Result<&str, SpecError> {
    match request.permissions.as_str() {
        "" => Ok("rwm"),
        access if access.len() <= 3 && access.chars().all(|c| "rwm".contains(c)) => Ok(access),
        access => {
            let field = format!("devices[{at}].permissions");
            Err(SpecError::invalid(field, access, "must be made of r, w and m"))
        }
    }
}

fn node(path: String, device: &HostDevice) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(path.into())
        .set_typ(match device.kind {
            DeviceKind::Char => LinuxDeviceType::C,
            DeviceKind::Block => LinuxDeviceType::B,
            DeviceKind::Fifo => LinuxDeviceType::P,
        })
        .set_major(device.major.into())
        .set_minor(device.minor.into())
        .set_file_mode(Some(device.mode & 0o777))
        .set_uid(Some(device.uid))
        .set_gid(Some(device.gid));
    node
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Request, device};

    fn paths(devices: &Devices) -> Vec<String> {
        devices.nodes.iter().map(|node| node.path().display().to_string()).collect()
    }

    /// Rules in the form of the v1 device cgroup's files.
    fn rules(devices: &Devices) -> Vec<String> {
        let number = |n: Option<i64>| n.map_or("*".to_owned(), |n| n.to_string());
        let text = |rule: &LinuxDeviceCgroup| {
            format!(
                "{} {} {}:{} {}",
                if rule.allow() { "allow" } else { "deny" },
                rule.typ().map_or("a".to_owned(), |kind| kind.as_str().to_owned()),
                number(rule.major()),
                number(rule.minor()),
                rule.access().as_deref().unwrap_or_default()
            )
        };
        devices.rules.iter().map(text).collect()
    }

    #[test]
    fn everything_is_forbidden_but_a_short_list() {
        let request = Request::plain();
        let devices = devices(&request.input(), &[]).expect("devices");
        assert!(devices.nodes.is_empty());
        assert_eq!(
            rules(&devices),
            [
                "deny a *:* rwm",
                "allow c *:* m",
                "allow b *:* m",
                "allow c 1:3 rwm",
                "allow c 1:5 rwm",
                "allow c 1:7 rwm",
                "allow c 1:8 rwm",
                "allow c 1:9 rwm",
                "allow c 5:0 rwm",
                "allow c 5:1 rwm",
                "allow c 5:2 rwm",
                "allow c 136:* rwm",
                "allow c 10:200 rwm",
            ]
        );
    }

    #[test]
    fn privileged_containers_get_the_hosts_devices_but_their_own_terminals() {
        let mut request = Request::plain();
        request.context().privileged = true;
        request.host.devices =
            ["/dev/sda", "/dev/null", "/dev/ptmx", "/dev/console", "/dev/pts/0", "/dev/snd/timer"]
                .map(device)
                .to_vec();
        let devices = devices(&request.input(), &["/dev/snd".into()]).expect("devices");
        assert_eq!(paths(&devices), ["/dev/sda"]);
        assert_eq!(rules(&devices), ["allow a *:* rwm"]);
    }

    #[test]
    fn requested_devices() {
        let cases = [
            ("one device", "/dev/fuse", "/dev/fuse", "rw", "/dev/fuse rw"),
            ("another name inside", "/dev/fuse", "/dev/other", "r", "/dev/other r"),
            ("no name inside", "/dev/fuse", "", "rwm", "/dev/fuse rwm"),
            ("no permissions", "/dev/fuse", "/dev/fuse", "", "/dev/fuse rwm"),
            (
                "a directory",
                "/dev/snd",
                "/dev/sound",
                "rw",
                "/dev/sound/timer rw /dev/sound/by/id rw",
            ),
            (
                "all of /dev",
                "/dev",
                "/dev",
                "rw",
                "/dev/fuse rw /dev/snd/timer rw /dev/snd/by/id rw",
            ),
            ("not there", "/dev/none", "/dev/none", "rw", "refused"),
            ("only the beginning of a name", "/dev/fus", "/dev/fus", "rw", "refused"),
            ("other permissions", "/dev/fuse", "/dev/fuse", "rwx", "refused"),
            ("outside of /dev", "/dev/fuse", "/srv/fuse", "rw", "refused"),
            ("/dev itself", "/dev/fuse", "/dev", "rw", "refused"),
            ("up from /dev", "/dev/fuse", "/dev/../etc/fuse", "rw", "refused"),
            ("over the container's own", "/dev/fuse", "/dev/pts/1", "rw", "refused"),
            ("relative", "fuse", "/dev/fuse", "rw", "refused"),
        ];
        for (case, host_path, container_path, permissions, want) in cases {
            let mut request = Request::plain();
            request.container.devices = vec![v1::Device {
                host_path: host_path.into(),
                container_path: container_path.into(),
                permissions: permissions.into(),
            }];
            request.devices = ["/dev/fuse", "/dev/snd/timer", "/dev/snd/by/id", "/dev/pts/0"]
                .map(device)
                .to_vec();
            let got = match devices(&request.input(), &[]) {
                Ok(devices) => {
                    let added = &devices.rules[default_rules().len()..];
                    let pairs = devices.nodes.iter().zip(added).map(|(node, rule)| {
                        format!(
                            "{} {}",
                            node.path().display(),
                            rule.access().as_deref().unwrap_or("")
                        )
                    });
                    pairs.collect::<Vec<_>>().join(" ")
                }
                Err(_) => "refused".to_owned(),
            };
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn a_device_below_a_volume_is_allowed_but_not_made() {
        let mut request = Request::plain();
        request.container.devices =
            vec![v1::Device { host_path: "/dev/fuse".into(), ..v1::Device::default() }];
        request.devices = vec![device("/dev/fuse")];
        let devices = devices(&request.input(), &["/dev".into()]).expect("devices");
        assert!(devices.nodes.is_empty());
        assert_eq!(devices.rules.len(), default_rules().len() + 1);
    }
}
