//! `events`: what happens to pods and containers, as it happens.

use cri_api::runtime::v1::ContainerEventResponse;

use crate::error::CliError;
use crate::node::Node;
use crate::output::{Format, Out, document};

#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// Form of the output; "table" is a line for people
    #[arg(short, long, value_enum, default_value = "json")]
    output: Format,
}

impl Events {
    /// Until the runtime ends the stream, or somebody this program.
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        const STEP: &str = "listen to events";
        let mut events = node.container_events().await.map_err(CliError::call(STEP))?;
        while let Some(event) = events.message().await.map_err(CliError::call(STEP))? {
            match self.output {
                Format::Table => out.line(line(&event))?,
                Format::Json | Format::Yaml => {
                    out.document(&document::json(&event), self.output)?
                }
            }
            // Whoever reads wants it now, not when the buffer is full.
            out.flush()?;
        }
        Ok(())
    }
}

/// When, what, and to whom.
fn line(event: &ContainerEventResponse) -> String {
    let kind = event.container_event_type().as_str_name();
    let kind = kind.trim_start_matches("CONTAINER_").trim_end_matches("_EVENT").to_lowercase();
    let metadata = event.pod_sandbox_status.as_ref().and_then(|status| status.metadata.as_ref());
    let pod = metadata.map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default();
    let pod_id = event.pod_sandbox_status.as_ref().map(|status| status.id.as_str());
    let what = if pod_id == Some(event.container_id.as_str()) { "pod" } else { "container" };
    let own = event.containers_statuses.iter().find(|status| status.id == event.container_id);
    let name = own.and_then(|status| status.metadata.as_ref()).map(|own| own.name.as_str());
    let at = jiff::Timestamp::from_nanosecond(event.created_at.into()).unwrap_or_default();
    let id = event.container_id.get(..13).unwrap_or(&event.container_id);
    [Some(at.to_string().as_str()), Some(what), Some(&kind), Some(id), Some(&pod), name]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::runtime::v1::{
        ContainerEventType, ContainerMetadata, ContainerStatus, PodSandboxMetadata,
        PodSandboxStatus,
    };

    #[test]
    fn an_event_is_a_line() {
        let event = ContainerEventResponse {
            container_id: "0123456789abcdef".into(),
            container_event_type: ContainerEventType::ContainerStartedEvent.into(),
            created_at: 1_700_000_000_000_000_000,
            pod_sandbox_status: Some(PodSandboxStatus {
                id: "p".into(),
                metadata: Some(PodSandboxMetadata {
                    name: "web".into(),
                    namespace: "shop".into(),
                    ..PodSandboxMetadata::default()
                }),
                ..PodSandboxStatus::default()
            }),
            containers_statuses: vec![ContainerStatus {
                id: "0123456789abcdef".into(),
                metadata: Some(ContainerMetadata { name: "nginx".into(), attempt: 0 }),
                ..ContainerStatus::default()
            }],
        };
        let want = "2023-11-14T22:13:20Z  container  started  0123456789abc  shop/web  nginx";
        assert_eq!(line(&event), want);
    }
}
