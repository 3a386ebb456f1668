//! `berth inspect`.

use cri_api::runtime::v1::{ContainerState, ContainerStatus, ContainerStatusResponse};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{Filter, status};
use crate::commands::inspection::{Inspected, Inspection};
use crate::error::CliError;
use crate::node::Node;
use crate::output::{Out, document, human};

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Ids; all that match the filters if there are none
    #[arg(value_name = "CONTAINER-ID")]
    containers: Vec<String>,

    /// Show all containers, not only the running ones
    #[arg(short, long)]
    all: bool,

    #[command(flatten)]
    filter: Filter,

    #[command(flatten)]
    inspection: Inspection,
}

impl Inspect {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let mut ids = self.containers;
        if ids.is_empty() {
            let found = self.filter.find(node, None, self.all).await?;
            ids = found.into_iter().map(|container| container.id).collect();
        }
        let look_up = async |id: &str, verbose| status(node, id, verbose).await;
        self.inspection.show(ids, out, look_up).await
    }
}

impl Inspected for (ContainerStatus, ContainerStatusResponse) {
    fn document(&self) -> Value {
        document::inspected(readable(&self.0, &TimeZone::system()), &self.1.info)
    }

    fn at_length(&self, out: &mut Out) -> Result<(), CliError> {
        at_length(&self.0, out)?;
        document::details(&self.1.info)
            .try_for_each(|(key, value)| out.line(format_args!("Info {key}: {value}")))
    }
}

/// The status with times that people can read; what has not happened yet was in the year one.
fn readable(container: &ContainerStatus, zone: &TimeZone) -> Value {
    let (was_started, was_finished) = match container.state() {
        ContainerState::ContainerCreated => (false, false),
        ContainerState::ContainerRunning => (true, false),
        ContainerState::ContainerExited => (true, true),
        ContainerState::ContainerUnknown => (true, container.finished_at > 0),
    };
    let time = |is_known: bool, at: i64| json!(human::time(is_known.then_some(at), zone));
    let mut value = document::json(container);
    value["createdAt"] = time(true, container.created_at);
    value["startedAt"] = time(was_started, container.started_at);
    value["finishedAt"] = time(was_finished, container.finished_at);
    value
}

fn at_length(container: &ContainerStatus, out: &mut Out) -> Result<(), CliError> {
    let now = Timestamp::now();
    let metadata = container.metadata.clone().unwrap_or_default();
    out.line(format_args!("ID: {}", container.id))?;
    out.line(format_args!("Name: {}", metadata.name))?;
    if metadata.attempt != 0 {
        out.line(format_args!("Attempt: {}", metadata.attempt))?;
    }
    out.line(format_args!("State: {}", container.state().as_str_name()))?;
    out.line(format_args!("Created: {}", human::ago(container.created_at, now)))?;
    if container.started_at > 0 {
        out.line(format_args!("Started: {}", human::ago(container.started_at, now)))?;
    }
    if container.state() == ContainerState::ContainerExited {
        if container.finished_at > 0 {
            out.line(format_args!("Finished: {}", human::ago(container.finished_at, now)))?;
        }
        out.line(format_args!("Exit Code: {}", container.exit_code))?;
    }
    out.map("Labels", &container.labels)?;
    out.map("Annotations", &container.annotations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_happened_was_in_the_year_one() {
        const NEVER: &str = "0001-01-01T00:00:00Z";
        let cases = [
            ("created", ContainerState::ContainerCreated, NEVER, NEVER),
            ("running", ContainerState::ContainerRunning, "1970-01-01T00:00:02Z", NEVER),
            (
                "exited",
                ContainerState::ContainerExited,
                "1970-01-01T00:00:02Z",
                "1970-01-01T00:00:03Z",
            ),
        ];
        for (name, state, started, finished) in cases {
            let container = ContainerStatus {
                state: state.into(),
                created_at: 1_000_000_000,
                started_at: 2_000_000_000,
                finished_at: 3_000_000_000,
                ..Default::default()
            };
            let value = readable(&container, &TimeZone::UTC);
            assert_eq!(value["createdAt"], "1970-01-01T00:00:01Z", "{name}");
            assert_eq!(value["startedAt"], started, "{name}");
            assert_eq!(value["finishedAt"], finished, "{name}");
        }
    }
}
