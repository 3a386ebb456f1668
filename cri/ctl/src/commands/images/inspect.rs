//! `berth inspecti`.

use std::collections::BTreeMap;

use cri_api::runtime::v1::Image;
use serde_json::Value;

use super::{list, status};
use crate::commands::inspection::{Inspected, Inspection};
use crate::error::CliError;
use crate::node::Node;
use crate::output::{Out, document, human};

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

    #[command(flatten)]
    inspection: Inspection,
}

impl Inspect {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let mut names = self.images;
        if names.is_empty() {
            let images = list::list(node, self.name.as_deref(), &self.filter).await?;
            names = images.into_iter().map(|image| image.id).collect();
        }
        let look_up = async |name: &str, verbose| {
            let answer = status(node, name, verbose).await?;
            let image = answer.image.ok_or_else(|| CliError::NoSuchImage(name.to_owned()))?;
            Ok((image, answer.info))
        };
        self.inspection.show(names, out, look_up).await
    }
}

impl Inspected for (Image, BTreeMap<String, String>) {
    fn document(&self) -> Value {
        document::inspected(document::json(&self.0), &self.1)
    }

    fn at_length(&self, out: &mut Out) -> Result<(), CliError> {
        let (image, info) = self;
        out.line(format_args!("ID: {}", image.id))?;
        for tag in &image.repo_tags {
            out.line(format_args!("Tag: {tag}"))?;
        }
        for digest in &image.repo_digests {
            out.line(format_args!("Digest: {digest}"))?;
        }
        out.line(format_args!("Size: {}", human::size(image.size)))?;
        document::details(info)
            .try_for_each(|(key, value)| out.line(format_args!("Info {key}: {value}")))
    }
}
