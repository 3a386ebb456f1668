//! Pods: `pods`, `runp`, `inspectp`, `stopp`, `rmp`.

mod inspect;
mod lifecycle;
mod list;

pub(crate) use inspect::Inspect;
pub(crate) use lifecycle::{Remove, Run, Stop};
pub(crate) use list::List;

use cri_api::runtime::v1::{
    ListPodSandboxRequest, PodSandbox, PodSandboxFilter, PodSandboxState, PodSandboxStateValue,
};

use crate::error::{CliError, OptionError};
use crate::node::Node;
use crate::select::Selection;

/// All pods that match, newest first.
async fn list(
    node: &Node,
    id: Option<&str>,
    state: Option<&str>,
    selection: &Selection,
) -> Result<Vec<PodSandbox>, CliError> {
    let filter = PodSandboxFilter {
        id: id.unwrap_or_default().into(),
        state: state.map(parse_state).transpose()?,
        label_selector: selection.labels()?,
    };
    let answer = node
        .list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) })
        .await
        .map_err(CliError::call("list pods"))?;
    selection.apply(answer.items)
}

fn parse_state(text: &str) -> Result<PodSandboxStateValue, CliError> {
    let state = match text.to_lowercase().as_str() {
        "ready" => PodSandboxState::SandboxReady,
        "notready" => PodSandboxState::SandboxNotready,
        _ => return Err(CliError::option("--state", text)(OptionError::OneOf("ready, notready"))),
    };
    Ok(PodSandboxStateValue { state: state.into() })
}

fn state_word(state: PodSandboxState) -> &'static str {
    match state {
        PodSandboxState::SandboxReady => "Ready",
        PodSandboxState::SandboxNotready => "NotReady",
    }
}
