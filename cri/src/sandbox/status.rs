//! What the API says of a pod.

use super::{Sandbox, State, namespace_options};
use cri_api::runtime::v1::{
    LinuxPodSandboxStatus, Namespace, PodIp, PodSandbox, PodSandboxFilter, PodSandboxNetworkStatus,
    PodSandboxState, PodSandboxStatus,
};
use std::collections::BTreeMap;

impl Sandbox {
    pub(crate) fn row(&self) -> PodSandbox {
        let detail = self.detail();
        PodSandbox {
            id: self.id.to_string(),
            metadata: self.config.metadata.clone(),
            state: state(detail.state) as i32,
            created_at: detail.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: detail.handler,
        }
    }

    pub(crate) fn status(&self) -> PodSandboxStatus {
        let detail = self.detail();
        let mut addresses =
            detail.network.iter().flat_map(|attached| &attached.addresses).map(ToString::to_string);
        let network = PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| PodIp { ip }).collect(),
        };
        PodSandboxStatus {
            id: self.id.to_string(),
            metadata: self.config.metadata.clone(),
            state: state(detail.state) as i32,
            created_at: detail.created_at,
            network: Some(network),
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace { options: Some(namespace_options(&self.config)) }),
            }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: detail.handler,
        }
    }

    /// Whether a filter (all of its fields together) lets the pod through; the id is matched before.
    pub(crate) fn passes(&self, filter: &PodSandboxFilter) -> bool {
        let wanted = filter.state.map(|wanted| wanted.state);
        let own = state(self.detail().state) as i32;
        wanted.is_none_or(|wanted| wanted == own)
            && has_labels(&self.config.labels, &filter.label_selector)
    }
}

fn state(state: State) -> PodSandboxState {
    match state {
        State::Ready => PodSandboxState::SandboxReady,
        State::NotReady => PodSandboxState::SandboxNotready,
    }
}

/// Whether `labels` hold every pair of `selector`.
pub(crate) fn has_labels(
    labels: &BTreeMap<String, String>,
    selector: &BTreeMap<String, String>,
) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
