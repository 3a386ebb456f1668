//! Containers: `ps`, `create`, `start`, `inspect`, `stop`, `rm`.

mod create;
mod inspect;
mod lifecycle;
mod list;
mod remove;
mod update;

pub(crate) use create::{Create, PullFlags, request};
pub(crate) use inspect::Inspect;
pub(crate) use lifecycle::{Start, Stop};
pub(crate) use list::{Filter, List};
pub(crate) use remove::Remove;
pub(crate) use update::Update;

use cri_api::runtime::v1::{
    ContainerState, ContainerStateValue, ContainerStatus, ContainerStatusRequest,
    ContainerStatusResponse,
};

use crate::error::{CliError, OptionError};
use crate::node::Node;

pub(crate) async fn status(
    node: &Node,
    id: &str,
    verbose: bool,
) -> Result<(ContainerStatus, ContainerStatusResponse), CliError> {
    let request = ContainerStatusRequest { container_id: id.into(), verbose };
    let mut answer = node
        .container_status(request)
        .await
        .map_err(CliError::call(format!("get the status of container {id}")))?;
    Ok((answer.status.take().unwrap_or_default(), answer))
}

fn parse_state(text: &str) -> Result<ContainerStateValue, CliError> {
    let state = match text.to_lowercase().as_str() {
        "created" => ContainerState::ContainerCreated,
        "running" => ContainerState::ContainerRunning,
        "exited" => ContainerState::ContainerExited,
        "unknown" => ContainerState::ContainerUnknown,
        _ => {
            let known = OptionError::OneOf("created, running, exited, unknown");
            return Err(CliError::option("--state", text)(known));
        }
    };
    Ok(ContainerStateValue { state: state.into() })
}

fn state_word(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "Created",
        ContainerState::ContainerRunning => "Running",
        ContainerState::ContainerExited => "Exited",
        ContainerState::ContainerUnknown => "Unknown",
    }
}
