//! Images: `images`, `pull`, `inspecti`, `rmi`, `imagefsinfo`.

mod fs_info;
mod inspect;
mod list;
mod pull;
mod remove;

use cri_api::runtime::v1::{ImageSpec, ImageStatusRequest, ImageStatusResponse};

use crate::error::CliError;
use crate::node::Node;
pub(crate) use fs_info::FsInfo;
pub(crate) use inspect::Inspect;
pub(crate) use list::List;
pub(crate) use pull::Pull;
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
