//! `berth pods`.

use cri_api::runtime::v1::{ListPodSandboxResponse, PodSandbox};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::state_word;
use crate::error::CliError;
use crate::node::Node;
use crate::output::{Format, Out, Table, document, human};
use crate::select::Selection;

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only the pod with this id
    #[arg(long)]
    id: Option<String>,

    /// Only those in this state: ready, notready
    #[arg(short, long)]
    state: Option<String>,

    #[command(flatten)]
    selection: Selection,

    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,

    /// Show ids whole
    #[arg(long)]
    no_trunc: bool,

    /// Show ids only
    #[arg(short, long)]
    quiet: bool,

    /// Show each pod at length
    #[arg(short, long)]
    verbose: bool,
}

impl List {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let items =
            super::list(node, self.id.as_deref(), self.state.as_deref(), &self.selection).await?;
        if self.output != Format::Table {
            let answer = ListPodSandboxResponse { items };
            return out.document(&document::json(&answer), self.output);
        }
        if self.quiet {
            return items.iter().try_for_each(|pod| out.line(&pod.id));
        }
        if self.verbose {
            return items.iter().try_for_each(|pod| at_length(pod, out));
        }
        out.table(&self.table(&items, Timestamp::now()))
    }

    fn table(&self, pods: &[PodSandbox], now: Timestamp) -> Table {
        let mut table =
            Table::new(["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"]);
        for pod in pods {
            let metadata = pod.metadata.clone().unwrap_or_default();
            let id = if self.no_trunc { &pod.id } else { human::short_id(&pod.id) };
            table.row([
                id.into(),
                human::ago(pod.created_at, now),
                state_word(pod.state()).into(),
                metadata.name,
                metadata.namespace,
                metadata.attempt.to_string(),
                handler(pod).into(),
            ]);
        }
        table
    }
}

fn handler(pod: &PodSandbox) -> &str {
    if pod.runtime_handler.is_empty() { "(default)" } else { &pod.runtime_handler }
}

fn at_length(pod: &PodSandbox, out: &mut Out) -> Result<(), CliError> {
    let metadata = pod.metadata.clone().unwrap_or_default();
    out.line(format_args!("ID: {}", pod.id))?;
    out.line(format_args!("Name: {}", metadata.name))?;
    out.line(format_args!("UID: {}", metadata.uid))?;
    out.line(format_args!("Namespace: {}", metadata.namespace))?;
    if metadata.attempt != 0 {
        out.line(format_args!("Attempt: {}", metadata.attempt))?;
    }
    out.line(format_args!("Status: {}", state_word(pod.state())))?;
    let created = human::time(Some(pod.created_at), &TimeZone::system());
    out.line(format_args!("Created: {created}"))?;
    out.map("Labels", &pod.labels)?;
    out.map("Annotations", &pod.annotations)?;
    out.line(format_args!("Runtime: {}", handler(pod)))?;
    out.line("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use cri_api::runtime::v1::PodSandboxMetadata;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        list: List,
    }

    #[test]
    fn pods_are_printed_as_crictl_prints_them() {
        let pod = PodSandbox {
            id: "0123456789abcdef".into(),
            metadata: Some(PodSandboxMetadata {
                name: "web".into(),
                namespace: "default".into(),
                attempt: 2,
                ..Default::default()
            }),
            state: 1,
            created_at: 0,
            ..Default::default()
        };
        let now = Timestamp::from_second(90).unwrap();
        let table = |flags: &[&str]| {
            let line = Line::parse_from([&["pods"], flags].concat());
            line.list.table(std::slice::from_ref(&pod), now).lines().collect::<Vec<_>>()
        };
        assert_eq!(
            table(&[]),
            [
                "POD ID              CREATED              STATE               NAME                NAMESPACE           ATTEMPT             RUNTIME",
                "0123456789abc       About a minute ago   NotReady            web                 default             2                   (default)",
            ]
        );
        assert!(table(&["--no-trunc"])[1].starts_with("0123456789abcdef "));
    }
}
