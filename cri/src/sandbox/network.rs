//! What a pod wants of its network, out of its config.

use super::SandboxError;
use super::run::invalid;
use cri_api::runtime::v1::{PodSandboxConfig, Protocol};
use netns::{About, Bandwidth, Dns, NetworkWish, PortMapping};
use runtime::id::PodId;
use std::net::IpAddr;
use std::path::PathBuf;

/// Where kubelet and its users write how fast a pod may receive and send.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// Where a pod can ask for a hardware address of its own, as far as a network plugin grants it.
const MAC: &str = "berth.dev/mac-address";

/// The wish of pod `id`, whose namespace will be pinned at `namespace`.
pub(super) fn wish(
    id: &PodId,
    namespace: PathBuf,
    cgroup: &str,
    config: &PodSandboxConfig,
) -> Result<NetworkWish, SandboxError> {
    let metadata = config.metadata.clone().unwrap_or_default();
    let dns = config.dns_config.clone().unwrap_or_default();
    Ok(NetworkWish {
        owner: id.to_string(),
        namespace,
        ports: ports(config)?,
        bandwidth: Bandwidth { ingress: limit(config, INGRESS)?, egress: limit(config, EGRESS)? },
        about: About {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            annotations: config.annotations.clone(),
            cgroup: cgroup.to_owned(),
            mac: config.annotations.get(MAC).cloned(),
            dns: Dns { servers: dns.servers, searches: dns.searches, options: dns.options },
        },
    })
}

fn ports(config: &PodSandboxConfig) -> Result<Vec<PortMapping>, SandboxError> {
    let port = |what: &str, number: i32| {
        u16::try_from(number).map_err(|_| invalid(&format!("{what} {number} is no port")))
    };
    let mut all = Vec::new();
    for mapping in config.port_mappings.iter().filter(|mapping| mapping.host_port != 0) {
        let protocol = match mapping.protocol() {
            Protocol::Tcp => netns::Protocol::Tcp,
            Protocol::Udp => netns::Protocol::Udp,
            Protocol::Sctp => netns::Protocol::Sctp,
        };
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(
                text.parse::<IpAddr>()
                    .map_err(|_| invalid(&format!("host_ip {text:?} is no address")))?,
            ),
        };
        all.push(PortMapping {
            protocol,
            host_ip,
            host_port: port("host_port", mapping.host_port)?,
            container_port: port("container_port", mapping.container_port)?,
        });
    }
    Ok(all)
}

fn limit(config: &PodSandboxConfig, annotation: &str) -> Result<Option<u64>, SandboxError> {
    let Some(text) = config.annotations.get(annotation) else { return Ok(None) };
    match quantity(text) {
        Some(bits) => Ok(Some(bits)),
        None => {
            Err(invalid(&format!("annotation {annotation}: {text:?} is no quantity such as 10M")))
        }
    }
}

/// A whole number of Kubernetes' quantities: `10M`, `1Gi`, `1.5k`, `2e6`; rounded down.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor: u128 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        exponent => {
            let exponent = exponent.strip_prefix(['e', 'E'])?.parse::<u32>().ok()?;
            10_u128.checked_pow(exponent)?
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u128>().ok()?.checked_mul(factor)?;
    let part = match fraction {
        "" => 0,
        digits => {
            let places = u32::try_from(digits.len()).ok()?;
            digits.parse::<u128>().ok()?.checked_mul(factor)? / 10_u128.pow(places)
        }
    };
    u64::try_from(whole.checked_add(part)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        let cases = [
            ("1000", Some(1000)),
            ("10M", Some(10_000_000)),
            ("1Gi", Some(1 << 30)),
            ("1.5k", Some(1500)),
            ("2e6", Some(2_000_000)),
            ("1P", Some(1_000_000_000_000_000)),
            ("", None),
            ("M", None),
            (".5M", None),
            ("-1M", None),
            ("10 M", None),
            ("10m", None),
            ("10MB", None),
            ("1.2.3M", None),
            ("99999999999999999999P", None),
            ("1e99", None),
        ];
        for (text, expected) in cases {
            assert_eq!(quantity(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_limit_that_is_none_is_refused_by_its_annotation() {
        let mut config = PodSandboxConfig::default();
        config.annotations.insert(INGRESS.into(), "fast".into());
        let refused = limit(&config, INGRESS).unwrap_err().to_string();
        assert!(refused.contains("ingress-bandwidth") && refused.contains("fast"), "{refused}");
        assert_eq!(limit(&config, EGRESS).unwrap(), None);
    }
}
