//! The seam between the daemon and whatever gives pods their network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

/// Gives pods their network: refuse first, then attach; what is attached can be detached from its record alone.
///
/// All calls block: those of the built-in network for about a millisecond, others for as long as plugins take. They act in the network namespace of the calling thread, which has to be the
/// same one for all calls on one value.
pub trait PodNetwork: Send + Sync + Debug {
    /// Says whether `wish` can be granted, before anything is created for it.
    ///
    /// A host port that is free now can be taken by another pod until [`attach`](Self::attach), which checks it again.
    ///
    /// # Errors
    /// The wish itself is wrong, or it overlaps a host port that another pod holds.
    fn check(&self, wish: &NetworkWish) -> Result<Checked, NetworkError>;

    /// Connects the pod's network namespace: on return `lo` and `eth0` are up, with address, default route and host ports.
    ///
    /// # Errors
    /// No address or host port left, or the kernel refused a step. What was done until then has been taken back.
    fn attach(&self, netns: BorrowedFd<'_>, plan: Checked) -> Result<Attached, NetworkError>;

    /// Takes down what `attach` made and gives its address and host ports back. May be repeated; does not need the pod's
    /// namespace.
    ///
    /// # Errors
    /// The kernel refused a step. The address stays leased, so that calling again can finish it.
    fn detach(&self, attached: &Attached) -> Result<(), NetworkError>;

    /// Notes, after a restart of the daemon, that a recorded pod still has its address and host ports.
    fn adopt(&self, attached: &Attached);

    /// Removes the links and host port entries of pods not in `owners`, gives their addresses back and names what it
    /// removed. Puts back the host ports of the others where they are missing, as after a flush of the firewall.
    ///
    /// For start-up, after [`adopt`](Self::adopt): a pod that is being attached meanwhile has to be in `owners`.
    ///
    /// # Errors
    /// The kernel refused a step; what could be removed has been.
    fn sweep(&self, owners: &BTreeSet<String>) -> Result<Vec<String>, NetworkError>;

    /// Whether pods can be attached now, for the CRI condition `NetworkReady`, and what an operator should know all the same.
    ///
    /// # Errors
    /// What is missing.
    fn status(&self) -> Result<Vec<String>, NetworkError>;

    /// Whether what [`attach`](Self::attach) made for a pod is still there.
    ///
    /// # Errors
    /// What is missing.
    fn verify(&self, attached: &Attached) -> Result<(), NetworkError>;
}

/// What a pod wants of its network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkWish {
    /// The pod's id, 64 lowercase hex digits. Links and host port entries carry it.
    pub owner: String,
    /// Where the pod's network namespace is pinned. The built-in network goes by the descriptor; plugins need the path.
    pub namespace: PathBuf,
    /// Host ports that lead to the pod. Those with `host_port` 0 ask for nothing.
    pub ports: Vec<PortMapping>,
    /// How fast the pod may send and receive.
    pub bandwidth: Bandwidth,
    /// What plugins want to know of the pod; the built-in network does not look at it.
    pub about: About,
}

/// How fast a pod may send and receive, in bits per second; `None` is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Towards the pod.
    pub ingress: Option<u64>,
    /// Out of the pod.
    pub egress: Option<u64>,
}

/// What network plugins want to know of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The pod's namespace in Kubernetes.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The pod's cgroup, as a path below the cgroup mount.
    pub cgroup: String,
    /// The hardware address that the pod asks for.
    pub mac: Option<String>,
    /// The pod's DNS configuration.
    pub dns: Dns,
}

/// A pod's DNS configuration, as in resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Domains that short names are looked up in.
    pub searches: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

/// A port of the host that leads to a port of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The one address of the host it is open on; `None` or the unspecified address: all of them.
    pub host_ip: Option<IpAddr>,
    /// The port on the host; 0 asks for no mapping.
    pub host_port: u16,
    /// The port in the pod.
    pub container_port: u16,
}

/// The transport protocols a host port can be open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A wish that can be granted as far as one can know without trying; only [`PodNetwork::check`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "checking a wish reserves nothing; attach does"]
pub struct Checked {
    pub(crate) owner: String,
    pub(crate) namespace: PathBuf,
    /// Without the entries that ask for nothing.
    pub(crate) ports: Vec<PortMapping>,
    pub(crate) bandwidth: Bandwidth,
    pub(crate) about: About,
    pub(crate) kind: Kind,
}

/// What gives a pod its network. A pod keeps the one that it was made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The built-in bridge.
    #[default]
    Builtin,
    /// Plugins of the Container Network Interface.
    Cni,
}

/// A pod's connection, as the daemon records it: enough to detach or adopt it after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Which network it is of.
    #[serde(default)]
    pub kind: Kind,
    /// The pod's id.
    pub owner: String,
    /// The interface inside the pod.
    pub interface: String,
    /// The link on the host that leads to it.
    pub host_link: String,
    /// The interface's hardware address, in the usual text form.
    pub mac: String,
    /// The pod's addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Where the pod's default route leads.
    pub gateway: Option<IpAddr>,
    /// The host ports that lead to the pod.
    pub ports: Vec<PortMapping>,
    /// The limits that its traffic is held to.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

impl Checked {
    /// Checks what can be told from the wish alone.
    pub(crate) fn new(wish: &NetworkWish) -> Result<Self, NetworkError> {
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if wish.owner.len() != 64 || !wish.owner.bytes().all(hex) {
            return Err(NetworkError::Owner(wish.owner.clone()));
        }
        let mut ports: Vec<PortMapping> = Vec::new();
        for port in wish.ports.iter().filter(|port| port.host_port != 0) {
            port.check()?;
            if let Some(other) = ports.iter().find(|other| other.overlaps(port)) {
                return Err(NetworkError::PortRepeated { port: *port, other: *other });
            }
            ports.push(*port);
        }
        Ok(Self {
            owner: wish.owner.clone(),
            namespace: wish.namespace.clone(),
            ports,
            bandwidth: wish.bandwidth,
            about: wish.about.clone(),
            kind: Kind::Builtin,
        })
    }

    /// The pod it was checked for.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The host ports it will get.
    pub fn ports(&self) -> &[PortMapping] {
        &self.ports
    }
}

impl PortMapping {
    fn check(&self) -> Result<(), NetworkError> {
        if self.container_port == 0 {
            return Err(NetworkError::NoContainerPort(*self));
        }
        let mappable = match self.host_ip {
            None => true,
            Some(IpAddr::V4(ip)) => !ip.is_multicast() && !ip.is_broadcast(),
            Some(IpAddr::V6(ip)) => {
                // A packet from ::1 never leaves the host, whatever it is translated to (ip6_rcv_core).
                !ip.is_multicast() && !ip.is_loopback() && ip.to_ipv4_mapped().is_none()
            }
        };
        if mappable { Ok(()) } else { Err(NetworkError::HostAddress(*self)) }
    }

    /// The one host address it is open on, if it is not open on all.
    pub(crate) fn only_on(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    /// Whether it is open on addresses of IPv6, or else of IPv4.
    pub(crate) fn is_for(&self, ipv6: bool) -> bool {
        self.host_ip.is_none_or(|ip| ip.is_ipv6() == ipv6)
    }

    /// Whether some packet would match both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let same_address = match (self.host_ip, other.host_ip) {
            (Some(ours), Some(theirs)) if ours.is_ipv6() != theirs.is_ipv6() => false,
            (Some(ours), Some(theirs)) => {
                ours == theirs || ours.is_unspecified() || theirs.is_unspecified()
            }
            (None, _) | (_, None) => true,
        };
        self.protocol == other.protocol && self.host_port == other.host_port && same_address
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.only_on() {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            None => {}
        }
        write!(f, "{}/{}", self.host_port, self.protocol)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> String {
        "0123456789abcdef".repeat(4)
    }

    fn port(protocol: Protocol, host_ip: Option<&str>, host_port: u16, to: u16) -> PortMapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PortMapping { protocol, host_ip, host_port, container_port: to }
    }

    #[test]
    fn wishes_are_refused_for_what_they_say() {
        use Protocol::{Tcp, Udp};
        let (one, two) = (Some("192.0.2.1"), Some("192.0.2.2"));
        let cases = [
            ("no ports", vec![], "ok 0"),
            ("one port", vec![port(Tcp, None, 80, 8080)], "ok 1"),
            (
                "port 0 asks for nothing",
                vec![port(Tcp, None, 0, 80), port(Tcp, None, 0, 80)],
                "ok 0",
            ),
            ("port 0 to port 0", vec![port(Tcp, None, 0, 0)], "ok 0"),
            ("protocols apart", vec![port(Tcp, None, 53, 53), port(Udp, None, 53, 53)], "ok 2"),
            ("addresses apart", vec![port(Tcp, one, 80, 80), port(Tcp, two, 80, 81)], "ok 2"),
            (
                "twice",
                vec![port(Tcp, None, 80, 80), port(Tcp, None, 80, 81)],
                "80/tcp overlaps 80/tcp",
            ),
            (
                "all and one",
                vec![port(Tcp, None, 80, 80), port(Tcp, one, 80, 80)],
                "192.0.2.1:80/tcp overlaps",
            ),
            (
                "0.0.0.0 is all",
                vec![port(Tcp, one, 80, 1), port(Tcp, Some("0.0.0.0"), 80, 1)],
                "80/tcp overlaps",
            ),
            ("to nowhere", vec![port(Tcp, None, 80, 0)], "container port 0"),
            ("loopback", vec![port(Tcp, Some("127.0.0.1"), 80, 80)], "ok 1"),
            (
                "families apart",
                vec![port(Tcp, Some("0.0.0.0"), 80, 80), port(Tcp, Some("::"), 80, 80)],
                "ok 2",
            ),
            ("mapped", vec![port(Tcp, Some("::ffff:192.0.2.1"), 80, 80)], "cannot be mapped"),
            (
                "loopback of v6",
                vec![port(Tcp, Some("::1"), 80, 80)],
                "[::1]:80/tcp is on an address that cannot",
            ),
            ("multicast", vec![port(Udp, Some("224.0.0.1"), 80, 80)], "cannot be mapped"),
        ];
        for (what, ports, expected) in cases {
            let said =
                match Checked::new(&NetworkWish { owner: owner(), ports, ..Default::default() }) {
                    Ok(checked) => format!("ok {}", checked.ports().len()),
                    Err(err) => err.to_string(),
                };
            assert!(said.contains(expected), "{what}: {said}");
        }
    }

    #[test]
    fn owners_are_pod_ids() {
        for bad in ["", "abc", &"A".repeat(64), &"../".repeat(21), &"a".repeat(65)] {
            let refused = Checked::new(&NetworkWish { owner: bad.into(), ..Default::default() });
            assert!(matches!(refused, Err(NetworkError::Owner(_))), "{bad:?}: {refused:?}");
        }
    }

    #[test]
    fn records_read_back() {
        let attached = Attached {
            kind: Kind::Cni,
            owner: owner(),
            interface: "eth0".into(),
            host_link: "bv0123456789abc".into(),
            mac: "02:be:0a:58:00:02".into(),
            addresses: vec!["10.88.0.2".parse().unwrap()],
            gateway: Some("10.88.0.1".parse().unwrap()),
            ports: vec![port(Protocol::Tcp, Some("192.0.2.1"), 80, 8080)],
            bandwidth: Bandwidth { ingress: Some(1_000_000), egress: None },
        };
        let text = serde_json::to_string(&attached).unwrap();
        assert_eq!(serde_json::from_str::<Attached>(&text).unwrap(), attached);
    }
}
