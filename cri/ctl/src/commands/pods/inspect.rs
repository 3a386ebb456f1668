//! `berth inspectp`.

use cri_api::runtime::v1::{PodSandboxStatusRequest, PodSandboxStatusResponse};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::commands::inspection::{Inspected, Inspection};
use crate::error::CliError;
use crate::node::Node;
use crate::output::{Out, document, human};
use crate::select::Selection;

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Ids; all that match the filters if there are none
    #[arg(value_name = "POD-ID")]
    pods: Vec<String>,

    /// Only those in this state: ready, notready
    #[arg(short, long)]
    state: Option<String>,

    #[command(flatten)]
    selection: Selection,

    #[command(flatten)]
    inspection: Inspection,
}

impl Inspect {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let mut ids = self.pods;
        if ids.is_empty() {
            let pods = super::list(node, None, self.state.as_deref(), &self.selection).await?;
            ids = pods.into_iter().map(|pod| pod.id).collect();
        }
        let look_up = async |id: &str, verbose| {
            let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose };
            let answer = node.pod_sandbox_status(request).await;
            answer.map_err(CliError::call(format!("get the status of pod {id}")))
        };
        self.inspection.show(ids, out, look_up).await
    }
}

impl Inspected for PodSandboxStatusResponse {
    fn document(&self) -> Value {
        document::inspected(status(self), &self.info)
    }

    fn at_length(&self, out: &mut Out) -> Result<(), CliError> {
        at_length(self, out)
    }
}

/// The status with a readable time.
fn status(answer: &PodSandboxStatusResponse) -> Value {
    let status = answer.status.clone().unwrap_or_default();
    let mut value = document::json(&status);
    value["createdAt"] = json!(human::time(Some(status.created_at), &TimeZone::system()));
    value
}

fn at_length(answer: &PodSandboxStatusResponse, out: &mut Out) -> Result<(), CliError> {
    let status = answer.status.clone().unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    out.line(format_args!("ID: {}", status.id))?;
    out.line(format_args!("Name: {}", metadata.name))?;
    out.line(format_args!("UID: {}", metadata.uid))?;
    out.line(format_args!("Namespace: {}", metadata.namespace))?;
    out.line(format_args!("Attempt: {}", metadata.attempt))?;
    out.line(format_args!("Status: {}", status.state().as_str_name()))?;
    let created = human::time(Some(status.created_at), &TimeZone::system());
    out.line(format_args!("Created: {created}"))?;
    if let Some(network) = &status.network {
        out.line(format_args!("IP Addresses: {}", network.ip))?;
        for additional in &network.additional_ips {
            out.line(format_args!("Additional IP: {}", additional.ip))?;
        }
    }
    out.map("Labels", &status.labels)?;
    out.map("Annotations", &status.annotations)?;
    document::details(&answer.info)
        .try_for_each(|(key, value)| out.line(format_args!("Info {key}: {value}")))
}
