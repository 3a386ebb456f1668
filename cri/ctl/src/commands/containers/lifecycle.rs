//! `berth start`, `stop`.

use cri_api::runtime::v1::{StartContainerRequest, StopContainerRequest};

use super::Filter;
use crate::error::{self, CliError};
use crate::node::Node;
use crate::output::{Out, note};

#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    #[arg(value_name = "CONTAINER-ID", required = true)]
    containers: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    #[arg(value_name = "CONTAINER-ID")]
    containers: Vec<String>,

    /// Stop all running containers
    #[arg(short, long)]
    all: bool,

    /// Seconds between asking and killing
    #[arg(short, long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u32,
}

impl Start {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let mut results = Vec::new();
        for id in self.containers {
            let request = StartContainerRequest { container_id: id.clone() };
            let result = node.start_container(request).await;
            results.push(match result {
                Ok(_) => out.line(id),
                Err(status) => Err(CliError::call(format!("start container {id}"))(status)),
            });
        }
        error::all(results)
    }
}

impl Stop {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let ids = match (self.all, self.containers.is_empty()) {
            (true, true) => {
                let running = Filter::default().find(node, None, false).await?;
                running.into_iter().map(|container| container.id).collect()
            }
            (true, false) => return Err(CliError::AllAndIds),
            (false, true) => return Err(CliError::NothingNamed("container")),
            (false, false) => self.containers,
        };
        if ids.is_empty() {
            note("no running containers");
        }
        let mut results = Vec::new();
        for id in ids {
            let stopped = stop(node, &id, i64::from(self.timeout)).await;
            results.push(stopped.and_then(|()| out.line(id)));
        }
        error::all(results)
    }
}

/// `grace` is in seconds.
pub(super) async fn stop(node: &Node, id: &str, grace: i64) -> Result<(), CliError> {
    node.stop_container(StopContainerRequest { container_id: id.into(), timeout: grace })
        .await
        .map(drop)
        .map_err(CliError::call(format!("stop container {id}")))
}
