//! The image is there before the pod is made.

use cri_api::runtime::v1::PullImageRequest;

use crate::commands::containers::PullFlags;
use crate::commands::images;
use crate::error::CliError;
use crate::node::Node;
use crate::output::note;
use crate::pull;

pub(super) async fn provide(node: &Node, image: &str, flags: PullFlags) -> Result<(), CliError> {
    let is_here = images::status(node, image, false).await?.image.is_some();
    match (is_here, flags.no_pull, flags.with_pull) {
        (true, _, false) => return Ok(()),
        (false, true, _) => return Err(CliError::NoSuchImage(image.to_owned())),
        (true, _, true) => {}
        (false, false, _) => note(format_args!("image {image} is not here locally; pulling it")),
    }
    let request = PullImageRequest {
        image: Some(images::named(image)),
        auth: flags.auth.credentials_for(image)?,
        sandbox_config: None,
    };
    let limit = flags.pull_timeout.filter(|limit| !limit.is_zero());
    pull::telling(node, request, limit).await.map(drop)
}
