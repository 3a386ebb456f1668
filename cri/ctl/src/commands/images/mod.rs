//! Images: `images`, `pull`, `push`, `inspecti`, `rmi`, `imagefsinfo`, `tag`, `untag`, `history`, `save`, `load`, `prune`.

mod archive;
mod directory;
mod fs_info;
mod inspect;
mod list;
mod names;
mod prune;
mod pull;
mod push;
mod remove;

use cri_api::runtime::v1::{ImageSpec, ImageStatusRequest, ImageStatusResponse};

use crate::error::CliError;
use crate::node::Node;
pub(crate) use archive::{Load, Save};
pub(crate) use fs_info::FsInfo;
pub(crate) use inspect::Inspect;
pub(crate) use list::List;
pub(crate) use names::{History, Tag, Untag};
pub(crate) use prune::Prune;
pub(crate) use pull::Pull;
pub(crate) use push::Push;
pub(crate) use remove::Remove;

pub(crate) fn named(image: &str) -> ImageSpec {
    ImageSpec { image: image.into(), ..Default::default() }
}

/// The answer has no image when there is none.
pub(crate) async fn status(
    node: &Node,
    image: &str,
    verbose: bool,
) -> Result<ImageStatusResponse, CliError> {
    let request = ImageStatusRequest { image: Some(named(image)), verbose };
    node.image_status(request)
        .await
        .map_err(CliError::call(format!("get the status of image {image}")))
}
