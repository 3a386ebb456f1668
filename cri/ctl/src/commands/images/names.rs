//! `berth tag`, `berth untag` and `berth history`.

use std::io::IsTerminal;

use cri_api::berth::v1::{ImageHistoryRequest, TagImageRequest, UntagImageRequest};
use jiff::Timestamp;

use crate::error::{self, CliError};
use crate::node::Node;
use crate::output::{Out, Table, human};

/// How much of a command is shown.
const COMMAND: usize = 45;

#[derive(Debug, clap::Args)]
pub(crate) struct Tag {
    /// The image: a name or an id
    image: String,

    /// The new names
    #[arg(value_name = "NAME[:TAG]", required = true)]
    names: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Untag {
    /// The names to take away; the image stays
    #[arg(value_name = "NAME[:TAG|@DIGEST]", required = true)]
    names: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct History {
    /// The image: a name or an id
    image: String,

    /// Show commands whole
    #[arg(long)]
    no_trunc: bool,
}

impl Tag {
    pub(crate) async fn run(self, node: &Node) -> Result<(), CliError> {
        let mut results = Vec::new();
        for name in self.names {
            let step = format!("tag {} as {name}", self.image);
            let request = TagImageRequest { image: self.image.clone(), name };
            results.push(node.tag(request).await.map_err(CliError::call(step)));
        }
        error::all(results)
    }
}

impl Untag {
    pub(crate) async fn run(self, node: &Node) -> Result<(), CliError> {
        let mut results = Vec::new();
        for name in self.names {
            let step = format!("untag {name}");
            let request = UntagImageRequest { name };
            results.push(node.untag(request).await.map_err(CliError::call(step)));
        }
        error::all(results)
    }
}

impl History {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let step = format!("get the history of {}", self.image);
        let request = ImageHistoryRequest { image: self.image };
        let answer = node.history(request).await.map_err(CliError::call(step))?;
        let is_short = !self.no_trunc && std::io::stdout().is_terminal();
        let mut table = Table::new(["CREATED", "SIZE", "CREATED BY", "COMMENT"]);
        for step in answer.steps {
            let created = step.created.parse::<Timestamp>().ok();
            let nanos = created.and_then(|created| i64::try_from(created.as_nanosecond()).ok());
            let age = nanos.map(|nanos| human::ago(nanos, Timestamp::now()));
            let command = match is_short {
                true => step.created_by.chars().take(COMMAND).collect(),
                false => step.created_by,
            };
            table.row([age.unwrap_or_default(), human::size(step.size), command, step.comment]);
        }
        out.table(&table)
    }
}
