//! `berth runp`, `stopp`, `rmp`.

use std::path::PathBuf;
use std::time::Duration;

use cri_api::runtime::v1::{
    ListPodSandboxRequest, PodSandboxState, PodSandboxStatusRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StopPodSandboxRequest,
};

use crate::error::{self, CliError};
use crate::node::Node;
use crate::output::{Out, note};
use crate::{config_file, duration, run};

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The pod's configuration, JSON or YAML
    #[arg(value_name = "POD-CONFIG")]
    config: PathBuf,

    /// Runtime handler [default: the daemon's]
    #[arg(short, long, value_name = "HANDLER", default_value = "", hide_default_value = true)]
    runtime: String,

    /// Give up after this time
    #[arg(short = 'T', long, value_name = "DURATION", value_parser = duration::parse)]
    cancel_timeout: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    #[arg(value_name = "POD-ID", required = true)]
    pods: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    #[arg(value_name = "POD-ID")]
    pods: Vec<String>,

    /// Remove all pods
    #[arg(short, long)]
    all: bool,

    /// Stop those that still run
    #[arg(short, long)]
    force: bool,
}

impl Run {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let config = config_file::pod(&self.config)?;
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: self.runtime };
        let limit = self.cancel_timeout.filter(|limit| !limit.is_zero());
        let answer =
            node.run_pod_sandbox(request, limit).await.map_err(CliError::call("run the pod"))?;
        out.line(answer.pod_sandbox_id)
    }
}

impl Stop {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let mut results = Vec::new();
        for id in self.pods {
            results.push(stop(node, out, &id).await);
        }
        error::all(results)
    }
}

impl Remove {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let ids = match (self.all, self.pods.is_empty()) {
            (true, true) => {
                let answer = node
                    .list_pod_sandbox(ListPodSandboxRequest::default())
                    .await
                    .map_err(CliError::call("list pods"))?;
                answer.items.into_iter().map(|pod| pod.id).collect()
            }
            (true, false) => return Err(CliError::AllAndIds),
            (false, true) => return Err(CliError::NothingNamed("pod")),
            (false, false) => self.pods,
        };
        if ids.is_empty() {
            note("no pods to remove");
        }
        let mut results = Vec::new();
        for id in ids {
            results.push(remove(node, out, &id, self.force).await);
        }
        error::all(results)
    }
}

async fn stop(node: &Node, out: &mut Out, id: &str) -> Result<(), CliError> {
    node.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.into() })
        .await
        .map_err(CliError::call(format!("stop pod {id}")))?;
    out.line(format_args!("Stopped sandbox {id}"))
}

async fn remove(node: &Node, out: &mut Out, id: &str, force: bool) -> Result<(), CliError> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
    let answer = node
        .pod_sandbox_status(request)
        .await
        .map_err(CliError::call(format!("get the status of pod {id}")))?;
    let status = answer.status.unwrap_or_default();
    if status.state() == PodSandboxState::SandboxReady {
        if !force {
            return Err(CliError::StillRunning { kind: "pod", id: id.into() });
        }
        stop(node, out, id).await?;
    }
    node.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.into() })
        .await
        .map_err(CliError::call(format!("remove pod {id}")))?;
    status.metadata.as_ref().map_or(Ok(()), run::remove_logs_of)?;
    out.line(format_args!("Removed sandbox {id}"))
}
