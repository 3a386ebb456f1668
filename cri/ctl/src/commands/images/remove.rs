//! `berth rmi`.

use std::collections::BTreeSet;

use cri_api::runtime::v1::{ListContainersRequest, ListImagesRequest, RemoveImageRequest};

use super::{named, status};
use crate::error::{self, CliError};
use crate::node::Node;
use crate::output::{Out, note};

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// Ids or names; a name removes the image with all its names
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,

    /// Remove all images
    #[arg(short, long)]
    all: bool,

    /// Remove all images that no container uses and that are not pinned
    #[arg(short = 'q', long)]
    prune: bool,
}

impl Remove {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let mut names = BTreeSet::from_iter(self.images);
        if self.all || self.prune {
            let answer = node
                .list_images(ListImagesRequest::default())
                .await
                .map_err(CliError::call("list images"))?;
            let wanted = answer.images.into_iter().filter(|image| !(self.prune && image.pinned));
            names.extend(wanted.map(|image| image.id));
        } else if names.is_empty() {
            return Err(CliError::NothingNamed("image"));
        }
        if self.prune {
            for used in in_use(node).await? {
                names.remove(&used);
            }
        }
        if names.is_empty() {
            note("no images to remove");
        }
        let mut results = Vec::new();
        for name in names {
            let result = remove(node, out, &name).await;
            // Whatever stands in the way of a prune came after it looked.
            results.push(if self.prune && matches!(result, Err(CliError::Call { .. })) {
                Ok(())
            } else {
                result
            });
        }
        error::all(results)
    }
}

pub(super) async fn remove(node: &Node, out: &mut Out, name: &str) -> Result<(), CliError> {
    let image = status(node, name, false)
        .await?
        .image
        .ok_or_else(|| CliError::NoSuchImage(name.to_owned()))?;
    let is_id =
        image.id.trim_start_matches("sha256:").starts_with(name.trim_start_matches("sha256:"));
    if !is_id && image.repo_tags.len() > 1 {
        note(format_args!("{name} goes with all its names: {}", image.repo_tags.join(", ")));
    }
    let request = RemoveImageRequest { image: Some(named(name)) };
    node.remove_image(request).await.map_err(CliError::call(format!("remove image {name}")))?;
    let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
    names.iter().try_for_each(|name| out.line(format_args!("Deleted: {name}")))
}

/// Ids of the images that containers were made from.
pub(super) async fn in_use(node: &Node) -> Result<BTreeSet<String>, CliError> {
    let answer = node
        .list_containers(ListContainersRequest::default())
        .await
        .map_err(CliError::call("list containers"))?;
    let mut ids = BTreeSet::new();
    for container in answer.containers {
        let name = container.image.map(|image| image.image).unwrap_or_default();
        ids.extend(status(node, &name, false).await?.image.map(|image| image.id));
        ids.insert(container.image_id);
    }
    Ok(ids)
}
