//! Waiting for a container to end, across restarts of the daemon.

use std::error::Error;
use std::time::Duration;

use cri_api::runtime::v1::{ContainerState, ContainerStatusRequest};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::error::CliError;
use crate::node::Node;

/// How long the daemon may be away: pods run on meanwhile, and it will know the exit code.
const DAEMON_AWAY: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit_code: i32,
    /// Completed, Error, OOMKilled, StartError.
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Returns when the container has ended.
pub(crate) async fn ended(node: &Node, container: &str) -> Result<Ended, CliError> {
    let mut away_since: Option<Instant> = None;
    loop {
        let status = match wait(node, container).await {
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) => {
                away_since = None;
                sleep(RETRY).await;
                continue;
            }
            Err(status) => status,
        };
        let since = *away_since.get_or_insert_with(Instant::now);
        if !is_lost_connection(&status) || since.elapsed() > DAEMON_AWAY {
            return Err(CliError::call(format!("wait for container {container}"))(status));
        }
        sleep(RETRY).await;
    }
}

/// `None`: it has not ended, and the daemon is one that has to be asked again.
async fn wait(node: &Node, container: &str) -> Result<Option<Ended>, Status> {
    match node.wait_container(container).await {
        Ok(answer) => Ok(Some(Ended {
            exit_code: answer.exit_code,
            reason: answer.reason,
            message: answer.message,
        })),
        Err(status) if status.code() == Code::Unimplemented => {
            let request = ContainerStatusRequest { container_id: container.into(), verbose: false };
            let status = node.container_status(request).await?.status.unwrap_or_default();
            let has_ended = status.state() == ContainerState::ContainerExited;
            Ok(has_ended.then_some(Ended {
                exit_code: status.exit_code,
                reason: status.reason,
                message: status.message,
            }))
        }
        Err(status) => Err(status),
    }
}

/// A status that was made here, not by the daemon, has the cause with it.
fn is_lost_connection(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}
