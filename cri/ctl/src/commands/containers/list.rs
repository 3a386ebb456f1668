//! `berth ps`, and the choice of containers by filters for other commands.

use cri_api::runtime::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, ListContainersRequest,
    ListContainersResponse,
};
use jiff::Timestamp;

use super::{parse_state, state_word};
use crate::commands::images;
use crate::error::CliError;
use crate::node::Node;
use crate::output::{Format, Out, Table, document, human};
use crate::select::{POD_NAME, POD_NAMESPACE, Selection, pod_label};

/// Which containers: the running ones, unless a flag says otherwise.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Filter {
    /// Only those of this pod
    #[arg(short, long, value_name = "POD-ID")]
    pub(crate) pod: Option<String>,

    /// Only those of this image
    #[arg(long)]
    pub(crate) image: Option<String>,

    /// Only those in this state: created, running, exited, unknown
    #[arg(short, long)]
    pub(crate) state: Option<String>,

    #[command(flatten)]
    pub(crate) selection: Selection,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Show all containers, not only the running ones
    #[arg(short, long)]
    all: bool,

    /// Only the container with this id
    #[arg(long)]
    id: Option<String>,

    #[command(flatten)]
    filter: Filter,

    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,

    /// Show ids whole
    #[arg(long)]
    no_trunc: bool,

    /// Show ids only
    #[arg(short, long)]
    quiet: bool,

    /// Show names of images instead of ids
    #[arg(short, long)]
    resolve_image_path: bool,

    /// Show each container at length
    #[arg(short, long)]
    verbose: bool,
}

impl Filter {
    /// Those that match, newest first; `all` is in every state where no state is asked for.
    pub(crate) async fn find(
        &self,
        node: &Node,
        id: Option<&str>,
        all: bool,
    ) -> Result<Vec<Container>, CliError> {
        let running = || ContainerStateValue { state: ContainerState::ContainerRunning.into() };
        let state = match &self.state {
            _ if self.selection.wants_newest() => None,
            Some(state) => Some(parse_state(state)?),
            None => (!all).then(running),
        };
        let filter = ContainerFilter {
            id: id.unwrap_or_default().into(),
            state,
            pod_sandbox_id: self.pod.clone().unwrap_or_default(),
            label_selector: self.selection.labels()?,
        };
        let answer = node
            .list_containers(ListContainersRequest { filter: Some(filter) })
            .await
            .map_err(CliError::call("list containers"))?;
        let mut containers = answer.containers;
        if let Some(image) = &self.image {
            let id = images::status(node, image, false).await?.image.map(|image| image.id);
            let mut matching = Vec::new();
            for container in containers {
                let name = image_name(&container);
                let of = images::status(node, name, false).await?.image.map(|image| image.id);
                if of.is_some() && of == id {
                    matching.push(container);
                }
            }
            containers = matching;
        }
        self.selection.apply(containers)
    }
}

impl List {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let mut containers = self.filter.find(node, self.id.as_deref(), self.all).await?;
        if self.output != Format::Table {
            let answer = ListContainersResponse { containers };
            return out.document(&document::json(&answer), self.output);
        }
        if self.quiet {
            return containers.iter().try_for_each(|container| out.line(&container.id));
        }
        let now = Timestamp::now();
        if self.verbose {
            return containers.iter().try_for_each(|container| at_length(container, now, out));
        }
        if self.resolve_image_path {
            for container in &mut containers {
                let name = image_name(container);
                let image = images::status(node, name, false).await?.image;
                let tag = image.and_then(|image| image.repo_tags.into_iter().next());
                if let (Some(image), Some(tag)) = (&mut container.image, tag) {
                    image.image = tag;
                }
            }
        }
        out.table(&self.table(&containers, now))
    }

    fn table(&self, containers: &[Container], now: Timestamp) -> Table {
        let mut table = Table::new([
            "CONTAINER",
            "IMAGE",
            "CREATED",
            "STATE",
            "NAME",
            "ATTEMPT",
            "POD ID",
            "POD",
            "NAMESPACE",
        ]);
        let short = |id: &str| {
            if self.no_trunc { id.to_owned() } else { human::short_id(id).to_owned() }
        };
        for container in containers {
            let metadata = container.metadata.clone().unwrap_or_default();
            // Only an id is cut: kubelet gives the image by id.
            let image = image_name(container);
            let image = if image.starts_with("sha256:") { short(image) } else { image.to_owned() };
            table.row([
                short(&container.id),
                image,
                human::ago(container.created_at, now),
                state_word(container.state()).into(),
                metadata.name,
                metadata.attempt.to_string(),
                short(&container.pod_sandbox_id),
                pod_label(&container.labels, POD_NAME).into(),
                pod_label(&container.labels, POD_NAMESPACE).into(),
            ]);
        }
        table
    }
}

fn image_name(container: &Container) -> &str {
    container.image.as_ref().map_or("", |image| &image.image)
}

fn at_length(container: &Container, now: Timestamp, out: &mut Out) -> Result<(), CliError> {
    let metadata = container.metadata.clone().unwrap_or_default();
    out.line(format_args!("ID: {}", container.id))?;
    out.line(format_args!("PodID: {}", container.pod_sandbox_id))?;
    out.line(format_args!("Namespace: {}", pod_label(&container.labels, POD_NAMESPACE)))?;
    out.line(format_args!("Name: {}", metadata.name))?;
    out.line(format_args!("Attempt: {}", metadata.attempt))?;
    out.line(format_args!("State: {}", state_word(container.state())))?;
    out.line(format_args!("Image: {}", image_name(container)))?;
    out.line(format_args!("Created: {}", human::ago(container.created_at, now)))?;
    out.map("Labels", &container.labels)?;
    out.map("Annotations", &container.annotations)?;
    out.line("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use cri_api::runtime::v1::{ContainerMetadata, ImageSpec};
    use std::collections::BTreeMap;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        list: List,
    }

    fn container(image: &str, labels: BTreeMap<String, String>) -> Container {
        Container {
            id: "fedcba9876543210".into(),
            pod_sandbox_id: "0123456789abcdef".into(),
            metadata: Some(ContainerMetadata { name: "top".into(), attempt: 1 }),
            image: Some(ImageSpec { image: image.into(), ..Default::default() }),
            state: ContainerState::ContainerRunning.into(),
            labels,
            ..Default::default()
        }
    }

    #[test]
    fn containers_are_printed_as_crictl_prints_them() {
        let labels = [(POD_NAME, "web"), (POD_NAMESPACE, "default")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let containers = [
            container("sha256:aaaaaaaaaaaaaaaaaaaa", labels.into()),
            container("busybox:1", BTreeMap::new()),
        ];
        let line = Line::parse_from(["ps"]);
        let now = Timestamp::from_second(3).unwrap();
        let rows: Vec<Vec<String>> = line
            .list
            .table(&containers, now)
            .lines()
            .map(|line| {
                let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
                cells.map(str::to_owned).collect()
            })
            .collect();
        let row = |image, pod, namespace| {
            [
                "fedcba9876543",
                image,
                "3 seconds ago",
                "Running",
                "top",
                "1",
                "0123456789abc",
                pod,
                namespace,
            ]
        };
        assert_eq!(rows[1], row("aaaaaaaaaaaaa", "web", "default"));
        assert_eq!(rows[2], row("busybox:1", "unknown", "unknown"));
    }
}
