//! `berth pull`.

use std::path::PathBuf;
use std::time::Duration;

use cri_api::runtime::v1::{ImageSpec, PullImageRequest};

use crate::auth::AuthFlags;
use crate::error::CliError;
use crate::node::Node;
use crate::output::Out;
use crate::{config_file, duration, pull, select};

#[derive(Debug, clap::Args)]
#[command(mut_arg("username", |username| username.short('u')))]
pub(crate) struct Pull {
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,

    #[command(flatten)]
    auth: AuthFlags,

    /// Annotation to send with the image; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,

    /// The pod that the image is for
    #[arg(long, value_name = "FILE")]
    pod_config: Option<PathBuf>,

    /// Give up after this time; 0 is never
    #[arg(long, alias = "pt", value_name = "DURATION", value_parser = duration::parse,
          env = "CRICTL_PULL_TIMEOUT")]
    pull_timeout: Option<Duration>,
}

impl Pull {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let auth = self.auth.credentials_for(&self.image)?;
        let annotations = select::pairs("--annotation", &self.annotation)?;
        let sandbox_config = self.pod_config.as_deref().map(config_file::pod).transpose()?;
        let request = PullImageRequest {
            image: Some(ImageSpec { image: self.image, annotations, ..Default::default() }),
            auth,
            sandbox_config,
        };
        let limit = self.pull_timeout.filter(|limit| !limit.is_zero());
        let image_ref = pull::image(node, request, limit).await?;
        out.line(format_args!("Image is up to date for {image_ref}"))
    }
}
