//! The counters of pods' links, read in their namespaces.

use crate::chain::chain;
use crate::host::Host;
use crate::sandbox::Sandbox;
use netns::LinkStatistics;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use sys::pin::{self, Kind};

/// The links of each pod, in the order of `pods`; none for a pod in the host's network, or where they cannot be read.
pub(super) fn of_pods(host: &Host, pods: &[Arc<Sandbox>]) -> Vec<Option<Vec<LinkStatistics>>> {
    let pins: Vec<Option<OwnedFd>> = pods.iter().map(|pod| pinned(host, pod)).collect();
    let open: Vec<BorrowedFd<'_>> = pins.iter().flatten().map(AsFd::as_fd).collect();
    if open.is_empty() {
        return vec![None; pods.len()];
    }
    let mut found = match netns::statistics(&open) {
        Ok(found) => found.into_iter(),
        Err(err) => {
            tracing::warn!(%err, "read statistics of networks");
            return vec![None; pods.len()];
        }
    };
    let each = pods.iter().zip(&pins).map(|(pod, pin)| {
        pin.as_ref()?;
        let links = found.next()?;
        links
            .inspect_err(|err| tracing::warn!(pod = ?pod.id, err = chain(err), "read statistics"))
            .ok()
    });
    each.collect()
}

fn pinned(host: &Host, pod: &Sandbox) -> Option<OwnedFd> {
    pod.detail().network.as_ref()?;
    pin::open(&host.paths.pod_run(&pod.id), Kind::Network).ok().flatten()
}
