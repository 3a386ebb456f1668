//! `berth prune`.

use cri_api::runtime::v1::{Image, ListImagesRequest};

use super::remove::{in_use, remove};
use crate::error::{self, CliError};
use crate::node::Node;
use crate::output::{Out, human};

#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Also images that have names
    #[arg(short, long)]
    all: bool,

    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

impl Prune {
    /// Removes images that no container uses and that are not pinned; without `--all` only those that have no name.
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let answer = node.list_images(ListImagesRequest::default()).await;
        let images = answer.map_err(CliError::call("list images"))?.images;
        let used = in_use(node).await?;
        let is_unwanted = |image: &Image| {
            !image.pinned && !used.contains(&image.id) && (self.all || image.repo_tags.is_empty())
        };
        let unwanted: Vec<Image> = images.into_iter().filter(is_unwanted).collect();
        let bytes = unwanted.iter().map(|image| image.size).sum();
        let mut results = Vec::new();
        for image in &unwanted {
            if self.dry_run {
                let name = image.repo_tags.first().or(image.repo_digests.first());
                let name = name.map_or("<none>", String::as_str);
                let (id, size) = (human::short_id(&image.id), human::size(image.size));
                out.line(format_args!("Would remove {id}  {size:>10}  {name}"))?;
            } else {
                results.push(remove(node, out, &image.id).await);
            }
        }
        let size = human::size(bytes);
        let count = unwanted.len();
        let done = if self.dry_run { "Would remove" } else { "Removed" };
        out.line(format_args!("{done} {count} images, {size} as registries have them"))?;
        error::all(results)
    }
}
