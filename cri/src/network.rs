//! The pod network as configured, and the pod CIDR that kubelet tells.
//!
//! `network.subnet` decides where pods get their addresses from. Where it is empty, kubelet does, with `UpdateRuntimeConfig`;
//! kubelet says so once in its life and not again to a restarted daemon, so the CIDR is kept in a file.

use crate::chain::chain;
use crate::config::{ConfigError, Network};
use crate::host::{Host, Paths};
use netns::{BadSubnet, NetworkError, Networks, Subnets};
use std::io;
use std::sync::Arc;

/// Why the pod CIDR could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodCidrError {
    #[error("pod CIDR")]
    Bad(#[from] BadSubnet),
    #[error("keep the pod CIDR")]
    Keep(#[source] io::Error),
    #[error("move the pod network to {0}")]
    Move(Subnets, #[source] NetworkError),
}

/// Why there is no pod network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Opens the pod network.
pub(crate) fn open(config: &Network, paths: &Paths) -> Result<Arc<Networks>, OpenError> {
    let subnets = config.subnets()?.or_else(|| kept(paths));
    let plugins = config.cni(paths.attachments());
    Ok(Arc::new(Networks::open(config.mode, config.bridge(subnets), &plugins)?))
}

/// Takes the pod CIDR that kubelet tells, one subnet or one of each family: new pods get addresses of it. Where the
/// configuration names a subnet, that one stays.
pub(crate) fn set_pod_cidr(host: &Host, cidr: &str) -> Result<(), PodCidrError> {
    if cidr.is_empty() {
        return Ok(()); // Kubelet does not know it yet.
    }
    let subnets: Subnets = cidr.parse()?;
    let configured = host.config.network.subnet.as_str();
    if !configured.is_empty() {
        if configured != cidr {
            tracing::warn!(
                cidr,
                configured,
                "network.subnet is set, so kubelet's pod CIDR is not used"
            );
        }
        return Ok(());
    }
    sys::durable::replace(&host.paths.pod_cidr(), cidr.as_bytes(), 0o600)
        .map_err(PodCidrError::Keep)?;
    host.network.move_to(&subnets).map_err(|source| PodCidrError::Move(subnets, source))
}

/// The pod CIDR that kubelet told an earlier daemon.
fn kept(paths: &Paths) -> Option<Subnets> {
    let text = match std::fs::read_to_string(paths.pod_cidr()) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return None,
        Err(err) => {
            tracing::error!(%err, "read the pod CIDR that kubelet told");
            return None;
        }
    };
    text.parse().inspect_err(|err| tracing::error!(err = chain(err), "kept pod CIDR")).ok()
}
