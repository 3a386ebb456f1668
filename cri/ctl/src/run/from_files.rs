//! crictl's form of `run`: the configuration files of a container and a pod.

use std::path::{Path, PathBuf};

use cri_api::runtime::v1::{
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
};

use super::Run;
use crate::commands::containers;
use crate::error::CliError;
use crate::node::Node;
use crate::output::{Out, note};
use crate::settings::Settings;

pub(super) struct Files {
    container: PathBuf,
    pod: PathBuf,
}

/// Two files that are there cannot be an image and a command.
pub(super) fn recognise(words: &[String]) -> Option<Files> {
    let [container, pod] = words else { return None };
    let is_configuration = |name: &str| {
        let path = Path::new(name);
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("json" | "yaml" | "yml")) && path.is_file()
    };
    (is_configuration(container) && is_configuration(pod))
        .then(|| Files { container: container.into(), pod: pod.into() })
}

/// Leaves pod and container running, and prints the container's id.
pub(super) async fn run(
    flags: Run,
    files: Files,
    node: &Node,
    settings: &Settings,
    out: &mut Out,
) -> Result<(), CliError> {
    let limit = flags.cancel_timeout.filter(|limit| !limit.is_zero());
    let mut request = containers::request(String::new(), &files.container, &files.pod)?;
    let pod = RunPodSandboxRequest {
        config: request.sandbox_config.clone(),
        runtime_handler: flags.runtime,
    };
    if flags.pull.with_pull || (settings.pull_on_run && !flags.pull.no_pull) {
        flags.pull.pull_for(node, &request).await?;
    }
    let pod = node.run_pod_sandbox(pod, None).await.map_err(CliError::call("run the pod"))?;
    request.pod_sandbox_id = pod.pod_sandbox_id.clone();

    let started = async {
        let created = node
            .create_container(request, limit)
            .await
            .map_err(CliError::call("create the container"))?;
        let container_id = created.container_id;
        node.start_container(StartContainerRequest { container_id: container_id.clone() })
            .await
            .map_err(CliError::call(format!("start container {container_id}")))?;
        Ok(container_id)
    };
    match started.await {
        Ok(container) => out.line(container),
        Err(error) => {
            remove(node, &pod.pod_sandbox_id).await;
            Err(error)
        }
    }
}

/// Takes the pod back; when that does not work, says so.
pub(super) async fn remove(node: &Node, pod: &str) -> bool {
    let id = || pod.to_owned();
    let stopped = node.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id() }).await;
    let removed = node.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id() }).await;
    let failures = [stopped.err(), removed.err()];
    for status in failures.iter().flatten() {
        note(format_args!("pod {pod} stays: {}; `berth rmp -f` removes it", status.message()));
    }
    failures.iter().all(Option::is_none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_files_that_are_there_are_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = directory.path().join(name);
            std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (container, pod) = (path("ctr.json"), path("pod.yaml"));
        assert!(recognise(&[container.clone(), pod.clone()]).is_some());
        let missing = "/nonexistent/pod.json".to_owned();
        assert!(recognise(&[container.clone(), missing]).is_none());
        assert!(recognise(&["busybox".into(), pod.clone()]).is_none());
        assert!(recognise(&[container, pod, "more".into()]).is_none());
    }
}
