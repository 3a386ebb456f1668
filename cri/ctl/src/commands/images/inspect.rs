//! `berth inspecti`.

use cri_api::runtime::v1::ImageStatusResponse;

use super::{list, status};
use crate::error::CliError;
use crate::node::Node;
use crate::output::{Format, Out, document, human};

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Ids or names; all that match the filters if there are none
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,

    /// Only the image of this name
    #[arg(long)]
    name: Option<String>,

    /// Only those that match; see `berth images`
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,

    /// Form of the output
    #[arg(short, long, value_enum, default_value = "json")]
    output: Format,

    /// Leave out the runtime's own documents
    #[arg(short, long)]
    quiet: bool,
}

impl Inspect {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let mut names = self.images;
        if names.is_empty() {
            let images = list::list(node, self.name.as_deref(), &self.filter).await?;
            names = images.into_iter().map(|image| image.id).collect();
        }
        if names.is_empty() {
            return Err(CliError::NothingMatches);
        }
        let mut documents = Vec::new();
        for name in names {
            let answer = status(node, &name, !self.quiet).await?;
            let image = answer.image.as_ref().ok_or(CliError::NoSuchImage(name))?;
            if self.output == Format::Table {
                at_length(&answer, out)?;
            } else {
                documents.push(document::inspected(document::json(image), &answer.info));
            }
        }
        if self.output == Format::Table {
            return Ok(());
        }
        out.document(&document::one_or_list(documents), self.output)
    }
}

fn at_length(answer: &ImageStatusResponse, out: &mut Out) -> Result<(), CliError> {
    let image = answer.image.clone().unwrap_or_default();
    out.line(format_args!("ID: {}", image.id))?;
    for tag in &image.repo_tags {
        out.line(format_args!("Tag: {tag}"))?;
    }
    for digest in &image.repo_digests {
        out.line(format_args!("Digest: {digest}"))?;
    }
    out.line(format_args!("Size: {}", human::size(image.size)))?;
    document::details(&answer.info)
        .try_for_each(|(key, value)| out.line(format_args!("Info {key}: {value}")))
}
